"""A screen: a fitted detector, a calibration and the false-alarm rate that the user chose."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from recondite.data.batch_size import at_once
from recondite.data.datasets import Batch, open_images, read_batches
from recondite.data.masks import check_masks
from recondite.errors import ArtifactError, InputError, ReconditeWarning, not_among
from recondite.graphs.exported import Exported
from recondite.later import Later
from recondite.options import options_to_json
from recondite.progress import progress as show
from recondite.screen.reading import read_screen
from recondite.screen.saved import KIND, SCHEMA
from recondite.screen.unfamiliar import unlike
from recondite.screen.words import ERROR
from recondite.short_repr import ShortRepr
from recondite.statistics.calibration import Calibrator, Guarantee, check_promise, rate_of
from recondite.statistics.contamination import LEFT_OUT
from recondite.statistics.scores import Scores, Verdicts, check_rate

if TYPE_CHECKING:
    from torch import Tensor, nn

    from recondite.detectors import Detector
    from recondite.detectors.measured import Also, Statistician
    from recondite.screen.calibrate import recalibrated_screen
    from recondite.screen.evidence import Evidence
    from recondite.screen.known import Known
    from recondite.screen.make_guard import make_guard
    from recondite.screen.teach import taught_screen
    from recondite.screen.update import updated_screen

OnBad = Literal["flag", "skip", "raise"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Screen(ShortRepr):
    """Judges images: scores of `detector` become p-values and verdicts at false-alarm rate `alpha`.

    Made by `fit` or `load`.

    Args:
        detector: fitted.
        calibrator: holds the scores of normal images that the detector has never seen.
        alpha: the false-alarm rate on normal images, in (0, 1).
        confidence: None for a rate on average over calibration sets; 0.95 for one of this set, with that probability.
        guarantee: what is meant by confidence; see `recondite.statistics.calibration.Guarantee`.
        score: what the calibrator's scores are: "error" for the detector's own, or a score of `evidence`.
        evidence: makes scores out of the error and further statistics; None for the error alone.
        observations: with evidence, "error" and each statistic of the calibration images, name -> float64 (n,).
        peaks: the largest feature score of each calibration image (n,); None where feature scores tell no place.
        known: the images that it has met; None where nobody kept them.
        facts: JSON values that tell how the screen was made.

    Raises:
        InputError: alpha is out of range or too small for the number of calibration images, or an unknown score.
    """

    detector: "Detector"
    calibrator: Calibrator
    alpha: float
    confidence: float | None = None
    guarantee: Guarantee = "exact"
    score: str = ERROR
    evidence: "Evidence | None" = field(default=None, repr=False)
    observations: Mapping[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)
    peaks: NDArray[np.float64] | None = field(default=None, repr=False)
    known: "Known | None" = field(default=None, repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.score not in self.scores:
            raise not_among("a score", self.scores, self.score)
        check_promise(self.alpha, self.confidence, self.guarantee)
        if self.peaks is not None:
            self.calibrator.check_beside({"peaks": self.peaks})
        object.__setattr__(self, "alpha", rate_of(self.alpha, "alpha"))
        if self.confidence is not None:
            object.__setattr__(self, "confidence", rate_of(self.confidence, "confidence"))
        for group in self.calibrator.sizes:
            self.calibrator.threshold(self.alpha, self.confidence, self.guarantee, group)

    @property
    def scores(self) -> tuple[str, ...]:
        """The scores that this screen can judge by; see `with_score`."""
        return (ERROR,) if self.evidence is None else self.evidence.scores

    @property
    def thresholds(self) -> dict[str | None, float]:
        """The threshold of each group; the only key is None where the calibration has no groups."""
        return {
            group: self.calibrator.threshold(self.alpha, self.confidence, self.guarantee, group)
            for group in self.calibrator.sizes
        }

    @property
    def threshold(self) -> float:
        """An image whose instance score is higher is an outlier; NaN where every group has its own threshold."""
        return self.thresholds.get(None, float("nan"))

    @property
    def feature_threshold(self) -> float:
        """What lies above it is odd: at most a share alpha of normal images have such a value anywhere.

        It is made from the peaks of all calibration images, whatever their group, and holds for the screen's alpha,
        confidence and guarantee.

        Raises:
            InputError: the detector judges images as a whole, or the screen was calibrated on scores alone.
        """
        if self.peaks is None:
            raise InputError("this screen has no threshold for single values: no maps, or not calibrated with them")
        return Calibrator(self.peaks).threshold(self.alpha, self.confidence, self.guarantee)

    @property
    def false_alarm_interval(self) -> tuple[float, float]:
        """The 95 % interval of the true false-alarm rate (of the smallest group, where there are groups)."""
        group = min(self.calibrator.sizes, key=self.calibrator.sizes.__getitem__)
        facts = self.facts.get("calibration", {})
        others = (facts.get(LEFT_OUT, {}).get(group or "", 0), bool(facts.get("left_out_in_parts")))
        return self.calibrator.interval(self.alpha, self.confidence, self.guarantee, group, 0.95, *others)

    @property
    def map_scale(self) -> tuple[float, float]:
        """The feature scores at which heat maps are dark and bright; the same for all images of a screen."""
        low, high = self.facts.get("map_scale") or (0.0, 1.0)
        return float(low), float(high)

    def fingerprint(self) -> str:
        """Return a SHA-256 of all that scores and p-values depend on; alpha is not part of it."""
        detector = self.detector
        made = [detector.name, list(detector.shape), options_to_json(detector.options), self.calibrator.groups]
        seen = detector.preprocessing.to_json()
        made += [seen[name] for name in ("region", "values") if name in seen]
        digest = hashlib.sha256(json.dumps([*made, str(detector)], sort_keys=True).encode())
        for value in detector.numbers().values():
            digest.update(value.tobytes())
        digest.update(self.calibrator.scores.tobytes())
        if self.evidence is not None and self.score != ERROR:
            digest.update(json.dumps([self.score, self.evidence.to_json()]).encode())
            for value in self.evidence.tensors().values():
                digest.update(value.tobytes())
        return digest.hexdigest()

    def with_alpha(
        self,
        alpha: float,
        confidence: float | Literal["keep"] | None = "keep",
        guarantee: Guarantee | Literal["keep"] = "keep",
    ) -> "Screen":
        """Return this screen at another false-alarm rate; nothing is fitted again.

        Raises:
            InputError: alpha is out of range or too small for the number of calibration images.
        """
        return replace(
            self,
            alpha=alpha,
            confidence=self.confidence if confidence == "keep" else confidence,
            guarantee=self.guarantee if guarantee == "keep" else guarantee,
        )

    def with_score(self, score: str) -> "Screen":
        """Return this screen judging by another score, calibrated on the same images; nothing is fitted again.

        Raises:
            InputError: there is no such score, or alpha is too small for the number of calibration images.
        """
        if score == self.score:
            return self
        if self.evidence is None or score not in self.scores:
            raise not_among("a score", self.scores, score)
        scores = self.evidence.score(score, self.observations[ERROR], self.observations)
        return replace(self, score=score, calibrator=Calibrator(scores, self.calibrator.groups))

    if TYPE_CHECKING:
        guard = make_guard
        recalibrated = recalibrated_screen
        update = updated_screen
        teach = taught_screen
    else:
        guard = Later("recondite.screen.make_guard", "make_guard")
        recalibrated = Later("recondite.screen.calibrate", "recalibrated_screen")
        update = Later("recondite.screen.update", "updated_screen")
        teach = Later("recondite.screen.teach", "taught_screen")
        _repr_html_ = Later("recondite.screen.shown", "screen_html")

    def predict(
        self,
        images: object,
        *,
        region: object = None,
        fdr: float | None = None,
        groups: Sequence[str] | None = None,
        feature_score: bool = False,
        reconstruction: bool = False,
        on_bad: OnBad = "flag",
        progress: bool = False,
    ) -> Verdicts:
        """Judge images.

        Args:
            images: anything that `open_images` opens.
            region: for a screen fitted with one mask per image, the folder of those of `images`.
            fdr: control the false-discovery rate of this batch at this level instead of the false-alarm rate.
            groups: one label an image, where the calibration has groups; by default the labels of `images`.
            feature_score: return the score of each value too; memory then grows with the number of images.
            reconstruction: return the rebuilt images too; likewise.
            on_bad: what an unreadable image becomes: a row that is an outlier and says why, nothing, or an error.
            progress: show progress on standard error.

        Raises:
            InputError: no images; or an unreadable one, with on_bad="raise".
        """
        if fdr is not None:
            check_rate(fdr)
        opened = open_images(images, shape=self.detector.shape, masks=region)
        for remark in unlike(self.facts.get("sample"), self.detector.preprocessing, opened):
            warnings.warn(remark, ReconditeWarning, stacklevel=2)
        successive = self.scored(
            opened, groups=groups, feature_score=feature_score, reconstruction=reconstruction, on_bad=on_bad
        )
        with show("screening", opened.size, progress) as advance:
            parts = []
            for part in successive:
                parts.append(part)
                advance(len(part), "")
        verdicts = self.judge(Scores.concatenate(parts))
        return verdicts if fdr is None else verdicts.with_false_discovery_rate(fdr)

    def scored(
        self,
        images: object,
        *,
        groups: Sequence[str] | None = None,
        feature_score: bool = False,
        reconstruction: bool = False,
        on_bad: OnBad = "flag",
        skip: frozenset[str] = frozenset(),
    ) -> Iterator[Scores]:
        """Yield the scores of successive small batches, in bounded memory, for `judge` to turn into verdicts.

        Args:
            images, groups, feature_score, reconstruction, on_bad: as in `predict`.
            skip: ids to leave out without reading them.

        Raises:
            InputError: as `predict`.
        """
        if on_bad not in ("flag", "skip", "raise"):
            raise InputError(f"expected on_bad to be flag, skip or raise; got {on_bad!r}")
        opened, seen = open_images(images, shape=self.detector.shape), self.detector.preprocessing
        check_masks(opened.masks, seen.masked)
        if groups is not None:
            if opened.ids is None or len(groups) != len(opened.ids):
                raise InputError(f"expected one group label for each of {opened.size} images; got {len(groups)}")
            opened = replace(opened, labels=list(groups))
        for batch in read_batches(opened, seen, at_once(seen.shape, self.detector.scoring_batch), skip):
            if on_bad != "flag" and not batch.good.all():
                if on_bad == "raise":
                    bad = int(np.flatnonzero(~batch.good)[0])
                    raise InputError(f"{batch.ids[bad]}: {batch.errors[bad]}")
                batch = batch.only_good()
            if batch.ids:
                yield self.score_batch(batch, feature_score=feature_score, reconstruction=reconstruction)

    def stream(
        self,
        images: object,
        *,
        groups: Sequence[str] | None = None,
        feature_score: bool = False,
        reconstruction: bool = False,
        on_bad: OnBad = "flag",
    ) -> Iterator[Verdicts]:
        """Yield the verdicts of successive small batches, in bounded memory.

        Args:
            images, groups, feature_score, reconstruction, on_bad: as in `predict`.

        Raises:
            InputError: as `predict`.
        """
        successive = self.scored(
            images, groups=groups, feature_score=feature_score, reconstruction=reconstruction, on_bad=on_bad
        )
        for scores in successive:
            yield self.judge(scores)

    def score_batch(
        self, batch: Batch, *, feature_score: bool = False, reconstruction: bool = False, also: "Also | None" = None
    ) -> Scores:
        """Return the scores of a batch of images that `judge` judges, with statistics if it looks at them.

        Args:
            feature_score, reconstruction: as in `predict`.
            also: makes what finds further statistics in the same pass of what does for the screen, or of None.
        """
        evidence = None if self.score == ERROR else self.evidence
        observer: Statistician | None = evidence.observer if evidence else None
        observer = also(observer) if also else observer
        scores = self.detector.score_batch(batch, None, None, feature_score, reconstruction, observer)
        scores = replace(scores, labels=tuple(batch.labels))
        if evidence is None:
            return scores
        found = scores.statistics or {}
        combined = evidence.score(self.score, scores.instance_score, found)
        return replace(scores, instance_score=combined, statistics={ERROR: scores.instance_score, **found})

    def judge(self, scores: Scores, labels: Sequence[str] | None = None) -> Verdicts:
        """Turn scores that `scored` or `score_batch` gave into verdicts.

        Args:
            scores: N scores.
            labels: N group labels, in place of those of the scores; only looked at where the calibration has groups.
        """
        errors = list(scores.errors)
        valid = np.flatnonzero(np.isfinite(scores.instance_score))
        for index in np.flatnonzero(~np.isfinite(scores.instance_score)):
            errors[index] = errors[index] or "the score is not finite"
        groups = None
        if self.calibrator.groups is not None:
            names = list(labels or scores.labels or [""] * len(scores))
            known = self.calibrator.sizes
            there = f"there are: {sorted(map(str, known))}, as folders or named (--group, groups=)"
            for index in (one for one in valid if names[one] not in known):
                errors[index] = f"no calibration for group {names[index]!r}; {there}"
            valid = np.array([index for index in valid if names[index] in known], dtype=np.intp)
            groups = [names[index] for index in valid]
        p_value, flags = np.full(len(scores), np.nan), np.ones(len(scores), dtype=bool)
        values = scores.instance_score[valid]
        p_value[valid] = self.calibrator.p_value(values, groups, self.confidence, self.guarantee)
        flags[valid] = self.calibrator.is_outlier(values, self.alpha, groups, self.confidence, self.guarantee)
        return Verdicts(
            ids=scores.ids,
            instance_score=scores.instance_score,
            errors=tuple(errors),
            feature_score=scores.feature_score,
            reconstruction=scores.reconstruction,
            statistics=scores.statistics,
            labels=scores.labels,
            p_value=p_value,
            is_outlier=flags,
            threshold=self.threshold,
            alpha=self.alpha,
        )

    def save(self, path: Path | str, *, texts: Mapping[str, str] | None = None) -> None:
        """Write the screen as a folder, atomically: a crash leaves an older screen there whole.

        Args:
            path: the folder.
            texts: further files for people, such as training logs: name -> text.

        Raises:
            ArtifactError: `path` exists and is not a screen.
            InputError: the screen was exported.
        """
        from recondite.screen.saved_detectors import write_screen

        write_screen(
            path,
            self.to_json(),
            detector=self.detector,
            calibrator=self.calibrator,
            evidence=self.evidence,
            observations=self.observations,
            peaks=self.peaks,
            known=self.known,
            texts=texts,
        )

    def to_json(self) -> dict[str, Any]:
        """Return all facts about the screen but its numbers, as JSON values."""
        detector = self.detector
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "detector": detector.name,
            "options": options_to_json(detector.options),
            "own_modules": detector.modules_given,
            "preprocessing": detector.preprocessing.to_json(),
            "alpha": self.alpha,
            "confidence": self.confidence,
            "guarantee": self.guarantee,
            "score": self.score,
            "evidence": None if self.evidence is None else self.evidence.to_json(),
            "thresholds": [{"group": group, "threshold": value} for group, value in self.thresholds.items()],
            "history": {"epochs": detector.history.epochs, "best_epoch": detector.history.best_epoch},
            "facts": dict(self.facts),
        }

    def to(self, device: str) -> "Screen":
        """Move the detector to a device, such as "cuda", and return the screen.

        Raises:
            InputError: there is no such device here.
        """
        if isinstance(self.detector, Exported):
            self.detector.to(device)
            return self
        from recondite.torch_state import own_settings

        try:
            with own_settings():
                self.detector.to(device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"expected a device that this machine has; got {device!r}: {error}") from error
        return self


def load(
    path: Path | str,
    *,
    encoder: "nn.Module | None" = None,
    decoder: "nn.Module | None" = None,
    backbone: "nn.Module | None" = None,
    classifier: "Callable[[Tensor], Tensor] | None" = None,
) -> Screen:
    """Load a screen. Nothing in its files is executed.

    Args:
        path: the folder that `Screen.save` wrote; or the name of a ready screen, a key of `screen.saved.READY` such as
            "cifar10", where there is no such folder; or "hf://ORG/NAME" or "hf://ORG/NAME@REVISION" on the Hugging Face
            hub (extra `hub`), fetched into the cache and checked before it gets there.
        encoder: a module of the same architecture, where the screen was made with modules of your own.
        decoder: likewise.
        backbone: likewise.
        classifier: the classifier whose features the screen looks at, where it was made with one.

    Raises:
        ArtifactError: missing, damaged, altered, of another version, or inconsistent.
        InputError: the screen needs your own modules or classifier, and they were not given or are others; or there is
            no such repository.
    """
    found = read_screen(path, encoder=encoder, decoder=decoder, backbone=backbone, classifier=classifier)
    try:
        return Screen(**found)
    except (AttributeError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is not a consistent screen: {error}") from error

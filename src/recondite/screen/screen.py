"""A screen: a fitted detector, a calibration and the false-alarm rate that the user chose."""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recondite.data.artifacts import Tensors, holds_manifest, read_folder, write_folder
from recondite.data.datasets import Batch, nameless, open_images, read_batches
from recondite.data.hub import fetch, is_address
from recondite.data.images import Preprocessing
from recondite.data.spool import Rows, read_all
from recondite.detectors import Detector, build
from recondite.detectors.graph import BATCH, FILES, Exported, ExportedOptions
from recondite.errors import ArtifactError, InputError
from recondite.options import options_to_json
from recondite.progress import progress as show
from recondite.screen.evidence import ERROR, Evidence, observed
from recondite.screen.guard import Guard, make_guard
from recondite.screen.ready import READY, ready_screen
from recondite.statistics.calibration import Calibrator, Guarantee
from recondite.statistics.scores import Scores, Verdicts, check_rate
from recondite.training.loop import History
from recondite.training.snapshots import EpochPictures

SCHEMA = 2
KIND, EXPORTED = "recondite screen", "recondite exported screen"
_DETECTOR_FILE, _CALIBRATION_FILE = "detector.safetensors", "calibration.safetensors"
_PEAKS = "peaks"
_PROBE, _PROBES, _PROBE_TOLERANCE = "bfloat16 probe", 4, 1e-3
_EVIDENCE_FILE, _PICTURES_FILE = "evidence.safetensors", "pictures.safetensors"

OnBad = Literal["flag", "skip", "raise"]


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Judges images: scores of `detector` become p-values and verdicts at false-alarm rate `alpha`.

    Made by `fit` or `load`.

    Args:
        detector: fitted.
        calibrator: holds the scores of normal images that the detector has never seen.
        alpha: the false-alarm rate on normal images, in (0, 1).
        confidence: None for a rate that holds on average over calibration sets; 0.95 for one that holds for this
            calibration set with that probability.
        guarantee: what is meant by confidence; see `recondite.statistics.calibration.Guarantee`.
        score: what the calibrator's scores are: "error" for the detector's own, or a score of `evidence`.
        evidence: makes scores out of the error and further statistics; None for the error alone.
        observations: with evidence, "error" and each statistic of the calibration images, name -> float64 (n,).
        peaks: the largest feature score of each calibration image (n,); None where feature scores tell no place.
        facts: JSON values that tell how the screen was made.

    Raises:
        InputError: alpha is out of range or too small for the number of calibration images, or an unknown score.
    """

    detector: Detector
    calibrator: Calibrator
    alpha: float
    confidence: float | None = None
    guarantee: Guarantee = "exact"
    score: str = ERROR
    evidence: Evidence | None = None
    observations: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    peaks: NDArray[np.float64] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.score not in self.scores:
            raise InputError(f"expected a score among {', '.join(self.scores)}; got {self.score!r}")
        if self.guarantee not in get_args(Guarantee):
            raise InputError(f"expected a guarantee among {', '.join(get_args(Guarantee))}; got {self.guarantee!r}")
        if self.peaks is not None and self.peaks.shape != self.calibrator.scores.shape:
            raise InputError(f"expected {len(self.calibrator.scores)} peaks; got shape {self.peaks.shape}")
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
            InputError: the detector judges images as a whole.
        """
        if self.peaks is None:
            raise InputError("this screen has no threshold for single values: its detector judges images as a whole")
        return Calibrator(self.peaks).threshold(self.alpha, self.confidence, self.guarantee)

    @property
    def false_alarm_interval(self) -> tuple[float, float]:
        """The 95 % interval of the true false-alarm rate (of the smallest group, where there are groups)."""
        sizes = self.calibrator.sizes
        smallest = min(sizes, key=lambda group: sizes[group])
        return self.calibrator.interval(self.alpha, self.confidence, self.guarantee, smallest)

    @property
    def map_scale(self) -> tuple[float, float]:
        """The feature scores at which heat maps are dark and bright; the same for all images of a screen."""
        low, high = self.facts.get("map_scale") or (0.0, 1.0)
        return float(low), float(high)

    def fingerprint(self) -> str:
        """Return a SHA-256 of all that scores and p-values depend on; alpha is not part of it."""
        detector = self.detector
        made = [detector.name, list(detector.shape), options_to_json(detector.options), self.calibrator.groups]
        digest = hashlib.sha256(json.dumps([*made, str(detector)], sort_keys=True).encode())
        for value in detector.state_dict().values():
            digest.update(value.cpu().contiguous().numpy().tobytes())
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
            raise InputError(f"expected a score among {', '.join(self.scores)}; got {score!r}")
        scores = self.evidence.score(score, self.observations[ERROR], self.observations)
        return replace(self, score=score, calibrator=Calibrator(scores, self.calibrator.groups))

    def recalibrated(self, images: object, *, by_folder: bool = False) -> "Screen":
        """Return this screen calibrated on other normal images, which the detector must not have learnt from.

        Raises:
            InputError: none of them can be read, or there are too few for alpha.
        """
        opened = open_images(images, role="inliers", shape=self.detector.shape)
        spooled = read_all(opened, self.detector.preprocessing)
        groups = tuple(spooled.labels) if by_folder else None
        calibration = {"images": len(spooled), "fingerprint": spooled.fingerprint(), "unreadable": len(spooled.bad)}
        facts = {**self.facts, "calibration": calibration}
        return calibrated(
            self.detector,
            self.evidence,
            self.score,
            spooled.rows(),
            groups,
            alpha=self.alpha,
            confidence=self.confidence,
            guarantee=self.guarantee,
            facts=facts,
        )

    def predict(
        self,
        images: object,
        *,
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
        opened = open_images(images, shape=self.detector.shape)
        parts = self.stream(
            opened, groups=groups, feature_score=feature_score, reconstruction=reconstruction, on_bad=on_bad
        )
        with show("screening", opened.size, progress) as advance:
            judged = []
            for part in parts:
                judged.append(part)
                advance(len(part), "")
        verdicts = Verdicts.concatenate(judged)
        return verdicts if fdr is None else verdicts.with_false_discovery_rate(fdr)

    def stream(
        self,
        images: object,
        *,
        groups: Sequence[str] | None = None,
        feature_score: bool = False,
        reconstruction: bool = False,
        on_bad: OnBad = "flag",
        skip: frozenset[str] = frozenset(),
    ) -> Iterator[Verdicts]:
        """Yield the verdicts of successive small batches, in bounded memory.

        Args:
            images: as in `predict`.
            groups: as in `predict`.
            feature_score: as in `predict`.
            reconstruction: as in `predict`.
            on_bad: as in `predict`.
            skip: ids to leave out without reading them.
        """
        if on_bad not in ("flag", "skip", "raise"):
            raise InputError(f"expected on_bad to be flag, skip or raise; got {on_bad!r}")
        opened = open_images(images, shape=self.detector.shape)
        if groups is not None:
            if opened.ids is None or len(groups) != len(opened.ids):
                raise InputError(f"expected one group label for each of {opened.size} images; got {len(groups)}")
            opened = replace(opened, labels=list(groups))
        for batch in read_batches(opened, self.detector.preprocessing, self.detector.scoring_batch, skip):
            if on_bad != "flag" and not batch.good.all():
                batch = _without_bad(batch, on_bad)
            if batch.ids:
                scores = self.score_batch(batch, feature_score=feature_score, reconstruction=reconstruction)
                yield self.judge(scores, batch.labels)

    def score_batch(self, batch: Batch, *, feature_score: bool = False, reconstruction: bool = False) -> Scores:
        """Return the scores of some images that `judge` judges, with statistics if it looks at them.

        Args:
            batch: the images.
            feature_score: as in `predict`.
            reconstruction: as in `predict`.
        """
        if self.evidence is None or self.score == ERROR:
            return self.detector.score_batch(batch, feature_score=feature_score, reconstruction=reconstruction)
        scores = self.evidence.observer.score_batch(
            self.detector, batch, feature_score=feature_score, reconstruction=reconstruction
        )
        assert scores.statistics is not None
        combined = self.evidence.score(self.score, scores.instance_score, scores.statistics)
        return replace(scores, instance_score=combined, statistics={ERROR: scores.instance_score, **scores.statistics})

    def judge(self, scores: Scores, labels: Sequence[str] | None = None) -> Verdicts:
        """Turn scores that `score_batch` gave into verdicts.

        Args:
            scores: N scores.
            labels: N group labels; only looked at where the calibration has groups.
        """
        errors = list(scores.errors)
        valid = np.flatnonzero(np.isfinite(scores.instance_score))
        for index in np.flatnonzero(~np.isfinite(scores.instance_score)):
            errors[index] = errors[index] or "the score is not finite"
        groups = None
        if self.calibrator.groups is not None:
            names = list(labels or [""] * len(scores))
            known = self.calibrator.sizes
            for index in valid:
                if names[index] not in known:
                    errors[index] = f"no calibration for group {names[index]!r}; there are: {sorted(map(str, known))}"
            valid = np.array([index for index in valid if names[index] in known], dtype=np.intp)
            groups = [names[index] for index in valid]
        p_value = np.full(len(scores), np.nan)
        flags = np.ones(len(scores), dtype=bool)
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
            p_value=p_value,
            is_outlier=flags,
            threshold=self.threshold,
            alpha=self.alpha,
        )

    def guard(
        self,
        classifier: Callable[[Tensor], Tensor],
        labels: Sequence[str] | None = None,
        *,
        calibration: object = None,
        by_class: bool = False,
        confidence_share: float = 0.0,
        feature_share: float = 0.0,
        layer: str | None = None,
        reference: object = None,
        image_shape: tuple[int, ...] | None = None,
        progress: bool = False,
    ) -> Guard:
        """Return a guard: a function of images that gives each its label by the classifier, or an abstention.

        Alpha is shared out: each part (this screen, the classifier's confidence, its features) abstains at its own
        share, so that all together turn away a share of at most alpha of normal images, on average. Where the screen
        promises with a confidence, each part does for its share.

        Args:
            classifier: a function or module, images (N, C, H, W) in [0, 1] to logits (N, classes).
            labels: names of the classes.
            calibration: normal images that neither this screen nor the classifier has learnt from; by default the
                screen's own calibration holds.
            by_class: calibrate among images of the same predicted class, so that the promise holds for each.
            confidence_share: share of alpha for the classifier's largest softmax probability being low.
            feature_share: share of alpha for its features being far from their fifth nearest normal neighbour.
            layer: with feature_share, the module of the classifier whose output is meant.
            reference: with feature_share, normal images for the neighbours, such as the classifier's training images.
            image_shape: (C, H, W) that the classifier takes, if it is another than the screen's.
            progress: show progress on standard error.

        Raises:
            InputError: shares that leave nothing for the screen, something needed that is missing, or too few
                calibration images (of a class) for alpha.
        """
        return make_guard(
            self,
            classifier,
            labels,
            calibration=calibration,
            by_class=by_class,
            confidence_share=confidence_share,
            feature_share=feature_share,
            layer=layer,
            reference=reference,
            image_shape=image_shape,
            progress=progress,
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
        if isinstance(self.detector, Exported):
            raise InputError("an exported screen cannot be saved; save or export the one that it was made from")
        state = self.detector.state_dict()
        tensors: dict[str, Tensors] = {
            _DETECTOR_FILE: {name: value.cpu().contiguous().numpy() for name, value in state.items()},
            _CALIBRATION_FILE: {"scores": self.calibrator.scores, **self.observations},
        }
        if self.peaks is not None:
            tensors[_CALIBRATION_FILE][_PEAKS] = self.peaks
        if self.evidence is not None:
            tensors[_EVIDENCE_FILE] = self.evidence.tensors()
        if self.detector.history.pictures is not None:
            tensors[_PICTURES_FILE] = self.detector.history.pictures.tensors()
        names = None
        if self.calibrator.groups is not None:
            unique, codes = np.unique(np.array(self.calibrator.groups), return_inverse=True)
            tensors[_CALIBRATION_FILE]["groups"] = codes.astype(np.int64)
            names = [str(name) for name in unique]
        manifest = {**self.to_json(), "groups": names, "versions": _versions()}
        write_folder(Path(os.path.abspath(path)), manifest, tensors, texts or {})

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
        try:
            self.detector.to(device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f"expected a device that this machine has, such as cpu; got {device!r}: {error}"
            ) from error
        return self


def load(
    path: Path | str,
    *,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    backbone: nn.Module | None = None,
    classifier: Callable[[Tensor], Tensor] | None = None,
) -> Screen:
    """Load a screen. Nothing in its files is executed.

    Args:
        path: the folder that `Screen.save` wrote; or the name of a ready screen, a key of `screen.ready.READY` such as
            "digits", where there is no such folder; or "hf://ORG/NAME" or "hf://ORG/NAME@REVISION" on the Hugging Face
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
    path = located(path)
    manifest, files = read_folder(path, SCHEMA, KIND, EXPORTED)
    if manifest["kind"] == EXPORTED:
        return _exported(path, manifest, files)
    if manifest.get("own_modules") and encoder is None and decoder is None and backbone is None:
        raise InputError(
            f"{path} was made with your own networks: load it with encoder=... and decoder=..., or backbone=..."
        )
    if (manifest.get("evidence") or {}).get("classifier") and classifier is None:
        raise InputError(f"{path} looks at the features of a classifier: load it with classifier=...")
    try:
        shape = Preprocessing.from_json(manifest["preprocessing"]).shape
        weights = {name: torch.from_numpy(array) for name, array in files[_DETECTOR_FILE].items()}
        if not manifest["own_modules"]:
            _check_weights(weights, manifest["detector"], shape, manifest["options"])
        detector = build(
            manifest["detector"],
            image_shape=shape,
            encoder=encoder,
            decoder=decoder,
            backbone=backbone,
            **manifest["options"],
        )
        detector.load_state_dict(weights)
        detector.history = _history(manifest["history"])
        if _PICTURES_FILE in files:
            detector.history.pictures = EpochPictures.from_tensors(files[_PICTURES_FILE])
        calibration, evidence = files[_CALIBRATION_FILE], None
        if manifest["evidence"] is not None:
            evidence = Evidence.from_saved(manifest["evidence"], files[_EVIDENCE_FILE], classifier)
        observations = _observations(calibration, evidence)
        groups = None
        if manifest["groups"] is not None:
            groups = tuple(manifest["groups"][code] for code in calibration["groups"])
        screen = Screen(
            detector=detector,
            calibrator=Calibrator(calibration["scores"], groups),
            alpha=manifest["alpha"],
            confidence=manifest["confidence"],
            guarantee=manifest["guarantee"],
            score=manifest["score"],
            evidence=evidence,
            observations=observations,
            peaks=calibration.get(_PEAKS),
            facts=dict(manifest["facts"].items()),
        )
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ArtifactError(f"{path} is not a consistent screen: {error}") from error
    if evidence is not None:
        evidence.check_classifier(shape)
    _check_probe(screen, path)
    return screen


def _probe_scores(detector: Detector) -> list[float]:
    """Return the scores of a few random images; in bfloat16, other processors may give others."""
    pixels = np.random.default_rng(0).random((_PROBES, *detector.shape), dtype=np.float32)
    return [float(score) for score in detector.score_batch(nameless(pixels)).instance_score]


def _check_probe(screen: Screen, path: Path) -> None:
    """Raise ArtifactError if scores here are not those that the screen was calibrated with."""
    expected = screen.facts.get(_PROBE)
    if expected is None:
        return
    found = _probe_scores(screen.detector)
    if not np.allclose(found, np.asarray(expected, dtype=np.float64), rtol=_PROBE_TOLERANCE, atol=0):
        raise ArtifactError(
            f"{path} was calibrated in bfloat16 on a processor that computes it in another way: "
            "its false-alarm rate would not hold here; fit it again, or with scoring_precision fp32"
        )


def _exported(path: Path, manifest: Mapping[str, Any], files: Mapping[str, Tensors]) -> Screen:
    """Return a screen that runs on a graph; what the graph gives is the final score."""
    try:
        shape = Preprocessing.from_json(manifest["preprocessing"]).shape
        runtime, precision = manifest.get("runtime", "onnx"), manifest.get("precision", "float32")
        options = ExportedOptions(
            detector=manifest["detector"],
            score=manifest["score"],
            runtime=runtime,
            precision=precision,
            batch=manifest.get("batch", BATCH),
        )
        content = [_checked(path, name, manifest).read_bytes() for name in FILES[runtime]]
        return Screen(
            detector=Exported(shape, options, content, manifest["pixels"], bool(manifest["locates"])),
            calibrator=Calibrator(files[_CALIBRATION_FILE]["scores"]),
            alpha=manifest["alpha"],
            confidence=manifest["confidence"],
            guarantee=manifest["guarantee"],
            facts=dict(manifest["facts"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path} is not a consistent exported screen: {error}") from error


def _checked(path: Path, name: str, manifest: Mapping[str, Any]) -> Path:
    """Return a file of a folder; ArtifactError if its manifest, which `read_folder` checked, does not list it."""
    if name not in manifest["files"]:
        raise ArtifactError(f"{path} lacks {name}")
    return path / name


def calibrated(
    detector: Detector,
    evidence: Evidence | None,
    score: str,
    rows: Rows,
    groups: tuple[str, ...] | None = None,
    *,
    progress: bool = False,
    **promise: Any,
) -> Screen:
    """Return a screen calibrated on rows of normal images, none of which it has learnt from.

    Args:
        detector, evidence, score: as in `Screen`.
        rows: the calibration images.
        groups: one label a row, or None.
        progress: show progress on standard error.
        promise: alpha, confidence, guarantee and facts, as in `Screen`.
    """
    error, statistics, peaks = observed(detector, evidence.observer if evidence else None, rows, progress)
    scores = error if evidence is None else evidence.score(score, error, statistics)
    if getattr(detector.options, "scoring_precision", "fp32") == "bf16":
        promise["facts"] = {**promise["facts"], _PROBE: _probe_scores(detector)}
    return Screen(
        detector=detector,
        calibrator=Calibrator(scores, groups),
        score=score,
        evidence=evidence,
        observations={} if evidence is None else {ERROR: error, **statistics},
        peaks=peaks,
        **promise,
    )


def promise(screen: Screen, fdr: float | None = None) -> str:
    """Say in words what the flags of a screen promise, or those under false-discovery control at this rate."""
    if fdr is not None:
        return f"Of the images flagged, a share of at most {fdr:g} is expected to be normal."
    if screen.confidence is None:
        return f"On average a share of at most {screen.alpha:g} of normal images is flagged by mistake."
    return (
        f"With {100 * screen.confidence:g} % confidence in this calibration set, a share of at most "
        f"{screen.alpha:g} of normal images is flagged by mistake."
    )


def located(path: Path | str) -> Path:
    """Return the folder of a screen; one on the hub is fetched first.

    Args:
        path: as in `load`.

    Raises:
        ArtifactError, InputError: as `load`, for one on the hub.
    """
    if is_address(path):
        return fetch(str(path), SCHEMA, KIND)
    folder = Path(os.path.abspath(path))
    return ready_screen(str(path)) if str(path) in READY and not holds_manifest(folder) else folder


def _without_bad(batch: Batch, on_bad: OnBad) -> Batch:
    good = batch.good
    if on_bad == "raise":
        index = int(np.flatnonzero(~good)[0])
        raise InputError(f"{batch.ids[index]}: {batch.errors[index]}")
    kept = np.flatnonzero(good)
    return Batch(
        [batch.ids[i] for i in kept], [batch.labels[i] for i in kept], batch.pixels, [batch.errors[i] for i in kept]
    )


def _observations(calibration: Tensors, evidence: Evidence | None) -> dict[str, NDArray[np.float64]]:
    if evidence is None:
        return {}
    found = {name: value for name, value in calibration.items() if name not in ("scores", "groups", _PEAKS)}
    if any(len(value) != len(calibration["scores"]) for value in found.values()):
        raise ValueError("the statistics of the calibration images are not as many as their scores")
    missing = {ERROR, *evidence.density.names} - set(found)
    if missing:
        raise ValueError(f"the calibration images lack {', '.join(sorted(missing))}")
    return found


def _history(facts: Mapping[str, Any]) -> History:
    history = History(facts["epochs"], facts["best_epoch"])
    if not 0 <= history.best_epoch <= len(history.epochs) or not all("validation" in row for row in history.epochs):
        raise ValueError("the history of training is inconsistent")
    return history


def _check_weights(
    weights: Mapping[str, torch.Tensor], detector: str, shape: tuple[int, ...], options: Mapping[str, Any]
) -> None:
    """Compare the file's tensors with the network the options describe before memory is taken for that network."""
    with torch.device("meta"):
        expected = build(detector, image_shape=shape, **options).state_dict()
    for name, value in expected.items():
        if name not in weights or weights[name].shape != value.shape or weights[name].dtype != value.dtype:
            raise ValueError(f"tensor {name!r} should be {tuple(value.shape)} of {value.dtype}")
    if len(weights) != len(expected):
        raise ValueError(f"there are {len(weights)} tensors instead of {len(expected)}")


def _versions() -> dict[str, str]:
    packages = ("recondite", "torch", "numpy", "pillow", "safetensors")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}

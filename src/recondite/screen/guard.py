"""A guard: a screen in front of a classifier, which gives a label or abstains with a reason."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recondite.data.batch_size import full_batch
from recondite.data.datasets import Batch, ImageSet, open_images
from recondite.data.images import Preprocessing
from recondite.detectors import Detector
from recondite.detectors.measured import Also, Statistician
from recondite.errors import InputError
from recondite.graphs.exported import WITH_CLASSIFIER, Exported
from recondite.later import Later
from recondite.progress import progress as show
from recondite.screen.classifier_outputs import (
    CONFIDENCE,
    FEATURES,
    Answers,
    Outputs,
    Told,
    answers,
    answers_of,
    read_for_both,
)
from recondite.screen.decisions import FOREIGN, INVALID, UNSURE, Decisions
from recondite.screen.head_pass import HeadPass, taken_from
from recondite.screen.linear_head import LinearHead, Rules
from recondite.screen.screen_like import ScreenLike
from recondite.short_repr import ShortRepr
from recondite.statistics.calibration import (
    Calibrator,
    share_of,
    smallest_calibration_set,
    smallest_shared_alpha,
)
from recondite.statistics.distances import Distances
from recondite.statistics.scores import Scores, Verdicts
from recondite.statistics.selective import Floor

SCREEN = "screen"
_IN_WORDS = {
    SCREEN: "it is unlike the normal images",
    CONFIDENCE: "the classifier is less sure than on normal images",
    FEATURES: "its features are unlike those of normal images",
    "max_logit": "no class has as large a logit as on normal images",
    "energy": "its energy is higher than that of normal images",
    "knn": "its features are far from their normal neighbours",
    "mahalanobis": "its features are far from the middle of every class",
    "vim": "its features leave the directions in which normal images differ",
}


@dataclass(frozen=True, kw_only=True, repr=False)
class Guard(ShortRepr):
    """A classifier behind a screen. Calling it gives each image the classifier's label, or an abstention.

        guard = screen.guard(classifier, classes=("cat", "dog"))
        for decision in guard("new_images/"):
            print(decision.id, decision.label or decision.reason)

    Of normal images (of each predicted class, if calibrated so) a share of at most alpha is turned away on average, as
    with the screen: each part abstains at its share of alpha. Made by `Screen.guard` or `fit_guard`.

    Args:
        screen: judges images.
        classifier: a function or module, images (N, C, H, W) in [0, 1] to logits (N, classes); None where it speaks
            for itself, see `decide`.
        classes: their names; None for "0", "1", ...
        shape: of the images that the classifier takes; None for those of the screen.
        layer: the module within the classifier whose output are its features; None without features.
        distances: of those features from those of normal images.
        shares: part -> share of alpha; they sum to 1.
        calibrators: part -> its calibration; empty to abstain where the screen's own verdict is "outlier".
        by_class: whether the calibrators have the predicted classes as groups.
        head: the classifier, where it is a linear head on the vectors of the screen's own backbone: one pass for both.
        rules: further parts, of the classifier's logits and features; None without.
        temperature: that logits are divided by for the confidences that are reported.
        floor: the lowest confidence that gets a label, and the promise that goes with it; None without.
        confusion: int64 (K, K), how many held-out images of each true class (column) were predicted as each class
            (row); None where it is not known.
        by_table: whether the classifier's outputs come as a table; see `told`.
    """

    screen: ScreenLike
    classifier: Callable[[Tensor], Tensor] | None
    classes: tuple[str, ...] | None = None
    shape: tuple[int, ...] | None = None
    layer: str | None = None
    distances: Distances | None = None
    shares: Mapping[str, float] = field(default_factory=lambda: {SCREEN: 1.0})
    calibrators: Mapping[str, Calibrator] = field(default_factory=dict)
    by_class: bool = False
    head: LinearHead | None = None
    rules: Rules | None = None
    temperature: float = 1.0
    floor: Floor | None = None
    confusion: NDArray[np.int64] | None = None
    by_table: bool = False

    def __call__(self, images: object, *, progress: bool = False) -> Decisions:
        """Label images or abstain; one image too gives `Decisions`, of length 1.

        Args:
            images: anything that `open_images` opens; an unreadable one is an abstention.
            progress: show progress on standard error.

        Raises:
            InputError: no images, or the classifier does not take them.
        """
        if not self.speaks:
            how = (
                "give a table of its outputs (--outputs, `told`)"
                if self.by_table
                else "give what the classifier said to `decide`"
            )
            raise InputError(f"this guard has no classifier: {how}")
        parts: list[Decisions] = []
        opened = open_images(images, shape=self.screen.detector.shape)
        with show("guarding", opened.size, progress) as advance:
            for scores, labels, outputs in self.measured(opened):
                parts.append(self.decided(scores, labels, outputs))
                advance(len(scores), "")
        if not parts:
            raise InputError("expected at least one image; got none")
        return Decisions(
            verdicts=Verdicts.concatenate(part.verdicts for part in parts),
            predicted=tuple(one for part in parts for one in part.predicted),
            confidence=np.concatenate([part.confidence for part in parts]),
            p_values={name: np.concatenate([part.p_values[name] for part in parts]) for name in self.shares},
            limits=parts[0].limits,
            reasons=tuple(reason for part in parts for reason in part.reasons),
            kinds=tuple(kind for part in parts for kind in part.kinds),
        )

    def decide(
        self,
        scores: Scores,
        predicted: Sequence[str | None],
        confidence: Sequence[float | None] | None = None,
        groups: Sequence[str] | None = None,
    ) -> Decisions:
        """Label or abstain where the classifier has spoken already, somewhere else.

        Args:
            scores: N scores that the screen gave; or its verdicts on them, which then are not made again.
            predicted: N classes that the classifier gave.
            confidence: N of its largest softmax probabilities, in (0, 1]; needed where confidence has a share of alpha.
            groups: N group labels, where the screen's own calibration has groups.

        Raises:
            InputError: as many values as images are missing, a confidence is out of range, a class is unknown, or
                features have a share of alpha.
        """
        size = len(scores)
        if len(predicted) != size:
            raise InputError(f"expected the classifier's label of each of {size} images; got {len(predicted)}")
        sure = self.check(predicted, confidence)
        outputs = Answers(
            predicted=tuple(predicted),
            confidence=sure,
            parts={CONFIDENCE: -np.log(sure)},
            logits=np.empty((size, 0)),
            valid=np.ones(size, dtype=bool),
            errors=[None] * size,
        )
        return self.decided(scores, list(groups or [""] * size), outputs)

    def check(
        self, predicted: Sequence[str | None], confidence: Sequence[float | None] | None = None
    ) -> NDArray[np.float64]:
        """Return N confidences, NaN where there are none, if `decide` takes these labels and confidences.

        Raises:
            InputError: as `decide`.
        """
        size = len(predicted)
        if self.by_table:
            raise InputError("this guard takes the classifier's outputs from a table, not a label for each image")
        if set(self.shares) - {SCREEN, CONFIDENCE}:
            raise InputError(
                "this guard looks at the classifier's features or logits, which only the classifier itself gives"
            )
        if None in predicted:
            raise InputError("expected the classifier's label of each image; one is missing")
        unknown = sorted({str(one) for one in predicted} - set(self.classes or map(str, predicted)))
        if unknown:
            raise InputError(f"expected labels among {', '.join(self.classes or ())}; got {unknown[0]!r}")
        sure = np.array([np.nan if one is None else one for one in confidence or [None] * size], dtype=np.float64)
        if len(sure) != size or not ((sure > 0) & (sure <= 1) | np.isnan(sure)).all():
            raise InputError("expected the classifier's confidence in each label, in (0, 1]")
        if (CONFIDENCE in self.shares or self.floor) and np.isnan(sure).any():
            raise InputError("this guard looks at the classifier's confidence: give it with each label")
        return sure

    def told(self, outputs: Outputs) -> "Guard":
        """Return this guard with what the classifier said about the images that will be judged, by their ids.

        Raises:
            InputError: the guard's classifier speaks for itself.
        """
        if not self.by_table:
            raise InputError("this guard was not fitted with outputs in a table: its classifier speaks for itself")
        return replace(self, classifier=Told(outputs))

    def at(self, screen: ScreenLike) -> "Guard":
        """Return this guard with its screen at another false-alarm rate.

        Raises:
            InputError: too few calibration images (of a class) for it, or the guard promises how many labels are wrong:
                that was found with the images that this alpha turns away.
        """
        if self.floor is not None and _rate(screen) != _rate(self.screen):
            raise InputError(
                f"what this guard promises of its labels holds at alpha {float(self.screen.alpha):g} alone: fit "
                "another guard for other rates"
            )
        check_alpha(screen, self.shares, self.calibrators)
        return replace(self, screen=screen)

    def measure(self, images: object, progress: bool = False) -> tuple[dict[str, NDArray[np.float64]], list[str]]:
        """Return part -> scores (N,) and the predicted class of each readable image, for a calibration.

        Raises:
            InputError: not one image can be read, or the classifier does not take them.
        """
        found: dict[str, list[NDArray[np.float64]]] = {part: [] for part in self.shares}
        classes: list[str] = []
        opened = open_images(images, role="classes", shape=self.screen.detector.shape)
        with show("calibrating the guard", opened.size, progress) as advance:
            for scores, _, outputs in self.measured(opened):
                valid = np.isfinite(scores.instance_score) & outputs.valid
                for part, values in self.scores(scores, outputs).items():
                    found[part].append(values[valid])
                classes += [outputs.predicted[index] or "" for index in np.flatnonzero(valid)]
                advance(len(scores), "")
        if not classes:
            raise InputError("not one calibration image of the guard could be read")
        return {part: np.concatenate(values) for part, values in found.items()}, classes

    @property
    def speaks(self) -> bool:
        """Whether the classifier is part of it, so that images are enough for a decision."""
        return self.in_one_pass or self.classifier is not None

    @property
    def in_one_pass(self) -> bool:
        """Whether what its screen measures holds what its classifier says: a linear head, or an exported guard."""
        return self.head is not None or self.in_graph is not None

    @property
    def in_graph(self) -> Exported | None:
        """The graph that its screen runs on, where the classifier is in it too: an exported guard."""
        detector: object = self.screen.detector
        return detector if isinstance(detector, Exported) and detector.classes else None

    @property
    def detector(self) -> Detector:
        """That of the screen."""
        return self.screen.detector

    @property
    def seen(self) -> Preprocessing:
        """Of the images that the classifier takes: whole, or the screen's own, for a linear head and in a graph."""
        own = self.detector.preprocessing
        if self.in_one_pass:
            return own
        return Preprocessing(shape=self.shape or own.shape, value_range=own.value_range)

    def score_batch(self, batch: Batch, *, feature_score: bool = False, reconstruction: bool = False) -> Scores:
        """Return the screen's scores of a batch; what a linear head found in the same pass is for `heard` to take out.

        Args:
            batch: N images.
            feature_score, reconstruction: as in `Screen.predict`.
        """
        also: Also | None = None if self.head is None else self._head_pass.beside
        if self.in_graph is not None:
            also = _with_classifier
        return self.screen.score_batch(batch, feature_score=feature_score, reconstruction=reconstruction, also=also)

    def heard(self, scores: Scores, seen: Batch) -> tuple[Scores, Answers]:
        """Return the screen's own scores, and what the classifier says about the same images.

        Args:
            scores: N, that `score_batch` gave.
            seen: the same N images, as `Guard.seen` reads them.

        Raises:
            InputError: the classifier does not take them.
        """
        if self.in_graph is not None:
            scores, logits, parts, good = taken_from(scores, self.in_graph.classes, self.in_graph.rules)
            return scores, answers_of(logits, parts, good, list(scores.errors), self.classes, self.temperature)
        if self.head is not None:
            scores, logits, parts, good = taken_from(scores, len(self.head.bias), self._head_pass.asked)
            return scores, answers_of(logits, parts, good, list(scores.errors), self.classes, self.temperature)
        assert self.classifier is not None
        given = (self.classifier, self.layer, seen, self.together, self.classes, self.distances)
        return scores, answers(*given, self.rules, self.temperature, tuple(self.shares))

    def decided(self, scores: Scores, labels: list[str], outputs: Answers) -> Decisions:
        """Label or abstain, by what `heard` returned.

        Args:
            scores: N scores that the screen gave; or its verdicts on them, which then are not made again.
            labels: N group labels, where the screen's own calibration has groups.
            outputs: what the classifier says about the same images.
        """
        verdicts = scores if isinstance(scores, Verdicts) else self.screen.judge(scores, labels)
        limits = {part: share_of(self.screen.alpha, share) for part, share in self.shares.items()}
        p_values = {SCREEN: verdicts.p_value}
        flagged = {SCREEN: verdicts.is_outlier}
        reasons: list[list[str]] = [[] for _ in range(len(scores))]
        kinds: list[str | None] = [None] * len(scores)
        of_no_group = np.zeros(len(scores), dtype=bool)
        if self.calibrators:
            # The groups of the screen's own calibration do not matter.
            of_no_group = np.isfinite(scores.instance_score)
            of_no_group &= np.array([error is not None for error in verdicts.errors], dtype=bool)
            p_values, flagged = self._calibrated(self.scores(scores, outputs), outputs, limits, reasons)
        for index, why in enumerate(reasons):
            error = verdicts.errors[index]
            if error is not None and not of_no_group[index]:
                why[:], kinds[index] = [f"it cannot be judged: {error}"], INVALID
            elif not outputs.valid[index]:
                why[:], kinds[index] = [outputs.errors[index] or "the classifier gave no finite answer"], INVALID
            else:
                why += [
                    f"{_IN_WORDS[part]} (p-value {p_values[part][index]:.3g}, at most {limits[part]:.3g})"
                    for part in _IN_WORDS
                    if part in flagged and flagged[part][index]
                ]
                kinds[index] = FOREIGN if why else None
                if self.floor is not None and outputs.confidence[index] < self.floor.confidence:
                    why.append(
                        f"the classifier is not sure enough (confidence {outputs.confidence[index]:.3g}, at least "
                        f"{self.floor.confidence:.3g} is needed)"
                    )
                    kinds[index] = kinds[index] or UNSURE
        if of_no_group.any():
            errors = [None if apart else error for apart, error in zip(of_no_group, verdicts.errors, strict=True)]
            foreign = np.array([kind == FOREIGN for kind in kinds])
            flags = np.where(of_no_group, foreign, verdicts.is_outlier)
            verdicts = replace(verdicts, errors=tuple(errors), is_outlier=flags)
        return Decisions(
            verdicts=verdicts,
            predicted=outputs.predicted,
            confidence=outputs.confidence,
            p_values=p_values,
            limits=limits,
            reasons=tuple("; ".join(why) or None for why in reasons),
            kinds=tuple(kinds),
        )

    def _calibrated(
        self,
        scores: Mapping[str, NDArray[np.float64]],
        outputs: Answers,
        limits: Mapping[str, float],
        reasons: list[list[str]],
    ) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.bool_]]]:
        """Return the p-values and flags of each part, and note predicted classes that the calibration did not see."""
        known = outputs.valid & np.isfinite(np.stack(list(scores.values()))).all(axis=0)
        if self.by_class:
            sizes = next(iter(self.calibrators.values())).sizes
            for index in np.flatnonzero(known):
                if outputs.predicted[index] not in sizes:
                    reasons[index].append(f"no calibration image was taken for class {outputs.predicted[index]!r}")
                    known[index] = False
        rows = np.flatnonzero(known)
        groups = [outputs.predicted[index] or "" for index in rows] if self.by_class else None
        promise = (self.screen.confidence, self.screen.guarantee)
        p_values, flagged = {}, {}
        for part, calibrator in self.calibrators.items():
            p_values[part], flagged[part] = np.full(len(known), np.nan), np.zeros(len(known), dtype=bool)
            p_values[part][rows] = calibrator.p_value(scores[part][rows], groups, *promise)
            flagged[part][rows] = calibrator.is_outlier(scores[part][rows], limits[part], groups, *promise)
        return p_values, flagged

    def scores(self, scores: Scores, outputs: Answers) -> dict[str, NDArray[np.float64]]:
        """Return the scores of all parts that take part (N,); higher is more anomalous."""
        return {part: scores.instance_score if part == SCREEN else outputs.parts[part] for part in self.shares}

    def measured(self, images: ImageSet) -> Iterator[tuple[Scores, list[str], Answers]]:
        """Yield of successive batches: the screen's scores, the images' own labels, what the classifier says."""
        for batch, seen in read_for_both(images, self.detector.preprocessing, self.seen, self.together):
            scores, outputs = self.heard(self.score_batch(batch), seen)
            yield scores, batch.labels, outputs

    @cached_property
    def _head_pass(self) -> HeadPass:
        assert self.head is not None
        return HeadPass(self.head, self.rules, tuple(self.shares))

    _repr_html_ = Later("recondite.screen.shown", "guard_html")

    @property
    def together(self) -> int:
        """How many images the screen and the classifier get at once."""
        detector = self.screen.detector
        if self.in_one_pass:
            return detector.scoring_batch
        return min(detector.scoring_batch, full_batch(prod(self.shape or detector.shape), detector.device.type))


def _rate(screen: ScreenLike) -> tuple[object, ...]:
    return screen.alpha, screen.confidence, screen.guarantee


def _with_classifier(_: Statistician | None) -> Statistician:
    return cast(Statistician, WITH_CLASSIFIER)


def check_alpha(screen: ScreenLike, shares: Mapping[str, float], calibrators: Mapping[str, Calibrator]) -> None:
    """Raise InputError where too few images (of a class) are calibrated on for the screen's alpha."""
    promise = (screen.confidence, screen.guarantee)
    sizes = [(part, *group) for part, calibrator in calibrators.items() for group in calibrator.sizes.items()]
    for part, group, size in sizes:
        rate = share_of(screen.alpha, shares[part])
        try:
            calibrators[part].threshold(rate, *promise, group)
        except InputError as error:
            whose = "" if group is None else f" predicted as {group!r}"
            allowed = [smallest_shared_alpha(count, shares[name], *promise) for name, _, count in sizes]
            ways = ["more"] if None in allowed else ["more", f"an alpha of at least {max(filter(None, allowed)):g}"]
            if len(shares) > 1:
                ways.append("fewer parts")
            part_of = "" if shares[part] == 1 else f"{rate:g} of "
            raise InputError(
                f"part {part!r} of the guard{whose}: {part_of}alpha = {screen.alpha:g} needs at least "
                f"{smallest_calibration_set(rate, *promise)} calibration images; got {size}: give {', or '.join(ways)}"
            ) from error

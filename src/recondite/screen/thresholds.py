"""Verdicts of a detector on whole images or on single values, by thresholds that know what they were made for."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recondite.data.datasets import ImageSet, open_images, read_batches
from recondite.data.spool import Glimpses, keys_of, one_of_each
from recondite.data.units import COPIES, GroupBy, check_group_by, labels_of
from recondite.detectors.base import Detector
from recondite.errors import InputError, not_among
from recondite.options import PoolingOptions, option_names, options_to_json
from recondite.short_repr import ShortRepr
from recondite.statistics.calibration import Calibrator, mean_std_threshold, percentile_threshold
from recondite.statistics.scores import Scores

Level = Literal["instance", "feature"]
"""A whole image, or each value of it."""
_SCORING = ("score", "smooth", "worst_square", "top_percent")


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A threshold and what it was made for.

    Args:
        value: what is higher is an outlier.
        level: "instance" or "feature".
        scoring: how images were scored: "score", "smooth", "worst_square" and "top_percent", as far as it has them.
        detector: the detector's fingerprint; a detector fitted again is another one.
        rule: how the value was found, in words.
    """

    value: float
    level: Level
    scoring: Mapping[str, Any]
    detector: str
    rule: str

    def to_json(self) -> dict[str, Any]:
        """Return all as JSON values."""
        return asdict(replace(self, scoring=dict(self.scoring)))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Threshold":
        """Return what `to_json` gave.

        Raises:
            InputError: something is missing or of another kind.
        """
        try:
            made = cls(**values)
        except TypeError as error:
            raise InputError(f"expected a threshold as JSON; got {values!r}") from error
        if made.level not in get_args(Level) or not isinstance(made.value, float | int) or np.isnan(made.value):
            raise InputError(f"expected a threshold as JSON; got {values!r}")
        return made


@dataclass(frozen=True, repr=False)
class LevelVerdicts(ShortRepr):
    """Scores of images, and which of them, or which of their values, are outliers.

    Args:
        scores: with the feature scores at level "feature".
        threshold: what they were judged by.
        is_outlier: bool (N,), or (N, *shape) at level "feature"; True throughout for an image that cannot be read.
    """

    scores: Scores
    threshold: Threshold
    is_outlier: NDArray[np.bool_]


def infer_threshold(
    detector: Detector,
    images: object,
    *,
    level: Level = "instance",
    score: str | None = None,
    top_percent: float | None = None,
    alpha: float | None = None,
    percent: float | None = None,
    deviations: float | None = None,
    group_by: GroupBy = COPIES,
) -> Threshold:
    """Return a threshold from normal images, by one of three rules.

    - alpha: a normal image is flagged with probability at most alpha (at level "feature": it has any value flagged),
      averaged over calibration sets, if the detector has not learnt from `images`; one image of each unit counts;
    - percent: this percentile of the scores, or of all single values; promises nothing;
    - deviations: mean + so many standard deviations of the instance scores; promises nothing.

    Args:
        detector: fitted.
        images: normal images, anything that `open_images` opens; unreadable ones are left out.
        level: whole images, or single values.
        score, top_percent: as in `Detector.score`; the detector's own by default.
        alpha, percent, deviations: exactly one of them.
        group_by: what tells images that belong together, as in `recondite.fit`, for the rule of alpha.

    Raises:
        InputError: none or several rules, values out of range, too few images for alpha, no readable image, or a
            `group_by` that fits none.
        NotFittedError: the detector is not fitted.
    """
    given = {"alpha": alpha, "percentile": percent, "mean + deviations": deviations}
    rules = [(name, number) for name, number in given.items() if number is not None]
    if len(rules) != 1:
        raise InputError("expected exactly one of alpha, percent and deviations")
    if percent is not None and not 0 <= percent <= 100:
        raise InputError(f"expected a percentile from 0 to 100; got {percent!r}")
    if level == "feature" and deviations is not None:
        raise InputError("mean + deviations is a rule for whole images; give alpha or percent")
    check_group_by(group_by)
    opened, seen = open_images(images, shape=detector.shape), Glimpses()
    group_by = labels_of(opened, group_by)
    with tempfile.TemporaryFile(prefix="recondite-") as file:
        every = _Values(file)
        one_each, judged = [], []  # of an image: its score, or the largest of its values; whether a readable one has it
        for scores in _scored(detector, opened, level, score, top_percent, None if alpha is None else seen):
            good = np.isfinite(scores.instance_score)
            judged.append(good[[error is None for error in scores.errors]])
            if level == "feature" and good.any():
                features = scores.feature_score[good].reshape(good.sum(), -1)
                one_each.append(features.max(axis=1).astype(np.float64))
                if percent is not None:
                    every.add(features)
            else:
                one_each.append(scores.instance_score[good])
        normal = np.concatenate(one_each)
        if not normal.size:
            raise InputError("expected at least one readable image to infer a threshold from; got none")
        if alpha is not None:
            spooled, rows = seen.spool(), np.flatnonzero(np.concatenate(judged))
            chosen = one_of_each(keys_of([spooled], group_by)[0], spooled.hashes, 0, rows)
            normal = normal[np.searchsorted(rows, chosen)]
            value = Calibrator(normal).threshold(alpha)
        elif percent is not None:
            value = every.percentile(percent) if every.count else percentile_threshold(normal, percent)
        else:
            value = mean_std_threshold(normal, rules[0][1])
    return Threshold(
        value=value,
        level=level,
        scoring=_scoring(detector, level, score, top_percent),
        detector=detector_fingerprint(detector),
        rule=f"{rules[0][0]} {rules[0][1]:g} of {len(normal):,} images",
    )


def predict(
    detector: Detector,
    images: object,
    threshold: Threshold,
    *,
    level: Level | None = None,
    score: str | None = None,
    top_percent: float | None = None,
) -> LevelVerdicts:
    """Judge images by a threshold, at the level and by the score that it was made for.

    Args:
        detector: the one that the threshold was made for.
        images: anything that `open_images` opens.
        threshold: from `infer_threshold`.
        level, score, top_percent: what the caller takes the threshold to be for; None for whatever it is for.

    Raises:
        InputError: the threshold was made for another level, score or share, or for another detector.
    """
    wanted = {"level": level, "score": score, "top_percent": top_percent}
    made_for = {"level": threshold.level, **threshold.scoring}
    for name, value in wanted.items():
        if value is not None and made_for.get(name) != value:
            raise InputError(
                f"this threshold was made for {name} {made_for.get(name)!r}; got {value!r}: infer one for that"
            )
    if threshold.detector != detector_fingerprint(detector):
        raise InputError("this threshold was made for another detector, or before it was fitted again: infer a new one")
    share = threshold.scoring.get("top_percent") if threshold.level == "instance" else None
    for name in ("smooth", "worst_square"):
        if name in threshold.scoring and getattr(detector.options, name) != threshold.scoring[name]:
            raise InputError(f"this threshold was made for {name} {threshold.scoring[name]!r}: infer a new one")
    opened = open_images(images, shape=detector.shape)
    scores = Scores.concatenate(_scored(detector, opened, threshold.level, threshold.scoring["score"], share))
    judged = scores.instance_score if threshold.level == "instance" else scores.feature_score
    assert judged is not None
    # "not <=" instead of ">": a NaN is above every threshold.
    return LevelVerdicts(scores, threshold, ~(judged <= threshold.value))


def detector_fingerprint(detector: Detector) -> str:
    """Return a digest of the detector's weights and of all its options that do not only say how it scores."""
    fixed = {name: value for name, value in options_to_json(detector.options).items() if name not in _SCORING}
    digest = hashlib.blake2b(json.dumps([detector.name, list(detector.shape), fixed], sort_keys=True).encode())
    for name, value in sorted(detector.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


class _Values:
    """Numbers on disk: all values of many images are more than memory should hold."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.count = 0

    def add(self, values: NDArray[np.float32]) -> None:
        self.file.write(np.ascontiguousarray(values).data)
        self.count += values.size

    def percentile(self, percent: float) -> float:
        """Return it, linearly interpolated, as numpy does."""
        self.file.flush()
        mapped = np.memmap(self.file, dtype=np.float32, mode="r+", shape=(self.count,))
        place = (self.count - 1) * percent / 100
        below, above = int(np.floor(place)), int(np.ceil(place))
        mapped.partition((below, above))
        low, high = float(mapped[below]), float(mapped[above])
        return low + (high - low) * (place - below)


def _scoring(detector: Detector, level: Level, score: str | None, top_percent: float | None) -> dict[str, Any]:
    """Return how a detector scores, with changes; what only pools values is left out at level "feature"."""
    names = ("score", *sorted(option_names(PoolingOptions) & option_names(type(detector.options))))
    chosen = {name: getattr(detector.options, name) for name in names}
    chosen |= {n: v for n, v in (("score", score), ("top_percent", top_percent)) if v is not None}
    return {n: v for n, v in chosen.items() if level == "instance" or n in ("score", "smooth")}


def _scored(
    detector: Detector,
    images: ImageSet,
    level: Level,
    score: str | None,
    top_percent: float | None,
    seen: Glimpses | None = None,
) -> Any:
    """Yield the scores of successive batches, with feature scores at level "feature"; what is seen may be kept."""
    if level not in get_args(Level):
        raise not_among("a level", get_args(Level), level)
    if level == "feature" and not detector.locates:
        raise InputError("this detector judges images as a whole: it has no scores of single values")
    if level == "feature" and top_percent is not None:
        raise InputError("top_percent pools values into the score of an image: it has no meaning at level 'feature'")
    for batch in read_batches(images, detector.preprocessing, detector.scoring_batch):
        if seen is not None:
            seen.add(batch)
        yield detector.score_batch(batch, score, top_percent, feature_score=level == "feature")

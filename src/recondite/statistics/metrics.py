"""How well scores tell outliers from inliers: pure functions of numpy arrays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recondite.errors import InputError
from recondite.short_repr import ShortRepr
from recondite.statistics.intervals import (
    most_coins,
    pieces,
    times_drawn,
    unit_numbers,
    variance_of_mean,
    wide_enough,
    wilson,
)

Units = tuple[ArrayLike, ArrayLike]
"""Labels (n,) of the inliers and of the outliers: images with the same label belong together, as frames of a burst do,
and are no independent evidence."""


def auroc(inlier_scores: ArrayLike, outlier_scores: ArrayLike) -> float:
    """Return the chance that an outlier scores higher than an inlier, ties counted half; in [0, 1].

    Raises:
        InputError: either is empty, or not all are finite.

    >>> auroc([1.0, 2.0], [3.0, 2.0])
    0.875
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_labelled(inlier_scores, outlier_scores)))


def delong_interval(
    inlier_scores: ArrayLike, outlier_scores: ArrayLike, units: Units | None = None
) -> tuple[float, float]:
    """Return the 95 % interval of the AUROC over samples of inliers and outliers, within [0, 1].

    DeLong's variance says how many coins the AUROC is as uncertain as; the interval is Wilson's for that many. So it
    stays within [0, 1] and has a width where all outliers lie above all inliers (as wide then as for the smaller of the
    two samples, m images). A variance that few images tell is often far too small, so there are never more than
    m (1 + m / 10) coins. Where outliers are changed inliers of the same sample, it is too wide rather than too narrow.

    Source: DeLong et al. 1988, Biometrics 44:837; with units Obuchowski 1997, Biometrics 53:567; Wilson 1927, JASA
    22:209.

    Args:
        inlier_scores, outlier_scores: one of each image.
        units: what belongs together among either; None where all images are independent.

    Raises:
        InputError: either is empty, or not all are finite.

    >>> [round(end, 3) for end in delong_interval(range(100), range(100, 200))]
    [0.963, 1.0]
    """
    from scipy.stats import rankdata

    inliers, outliers = _checked(inlier_scores), _checked(outlier_scores)
    ranks = rankdata(np.concatenate([inliers, outliers]))
    # The share of outliers below each inlier, and of inliers below each outlier, ties counted half.
    below_inliers = (ranks[: len(inliers)] - rankdata(inliers)) / len(outliers)
    below_outliers = (ranks[len(inliers) :] - rankdata(outliers)) / len(inliers)
    value = float(below_outliers.mean())
    own = units or (None, None)
    of_inliers, of_outliers = unit_numbers(len(inliers), own[0]), unit_numbers(len(outliers), own[1])
    size = fewest = min(map(pieces, (of_inliers, of_outliers)))
    if fewest > 1:
        variance = variance_of_mean(below_inliers, of_inliers) + variance_of_mean(below_outliers, of_outliers)
        size = min(value * (1 - value) / variance, most_coins(fewest)) if variance > 0 else size
    return wilson(value, size)


def auroc_interval(
    runs: Sequence[tuple[ArrayLike, ArrayLike]], *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Return the mean AUROC of several runs and its bootstrap interval: (value, low, high).

    Every resample draws the inliers and the outliers of a run anew, with replacement, and averages over the runs. So
    the interval says how much the choice of test images matters; what a new training would change, it does not know.
    Runs with as many images draw the same places, as those with other seeds have the same test images, in order.
    It is never narrower than `delong_interval` could be: few images drawn again, or images that are told apart without
    an error, hide what others would show.
    Source: Efron and Tibshirani 1993, the percentile interval.

    Args:
        runs: (inlier scores, outlier scores) of each run.
        resamples: how many.
        level: the share of resamples inside the interval.
        seed: of the resampling.

    Raises:
        InputError: there are no runs, or one has no scores, or not all are finite.

    >>> auroc_interval([([1.0, 2.0], [3.0, 2.0])])[0]
    0.875
    """
    if not runs:
        raise InputError("expected at least one run; got none")
    means = np.mean([_resampled_aurocs(*run, resamples, np.random.default_rng(seed)) for run in runs], axis=0)
    value = float(np.mean([auroc(*run) for run in runs]))
    fewest = min(len(_checked(part)) for run in runs for part in run)
    return value, *wide_enough(means, value, fewest, level)


def roc_points(inlier_scores: ArrayLike, outlier_scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the share of inliers and of outliers flagged at each threshold, from (0, 0) to (1, 1).

    Raises:
        InputError: either is empty, or not all are finite.

    >>> [values.tolist() for values in roc_points([1.0, 2.0], [3.0])]
    [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    """
    from sklearn.metrics import roc_curve

    false_alarms, caught, _ = roc_curve(*_labelled(inlier_scores, outlier_scores))
    return np.asarray(false_alarms, dtype=np.float64), np.asarray(caught, dtype=np.float64)


def precision_recall_points(
    inlier_scores: ArrayLike, outlier_scores: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the share of outliers flagged (recall) and of outliers among the flagged (precision), recall rising.

    Raises:
        InputError: either is empty, or not all are finite.

    >>> [values.tolist() for values in precision_recall_points([1.0, 2.0], [3.0])]
    [[0.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.5, 0.3333333333333333]]
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(*_labelled(inlier_scores, outlier_scores))
    return recall[::-1].astype(np.float64), precision[::-1].astype(np.float64)


def risk_coverage_points(
    inlier_scores: ArrayLike, outlier_scores: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the share of images accepted, lowest scores first, and the share of outliers among them.

    Images with equal scores are accepted together.

    Raises:
        InputError: either is empty, or not all are finite.

    >>> [values.tolist() for values in risk_coverage_points([1.0, 2.0], [2.0, 3.0])]
    [[0.25, 0.75, 1.0], [0.0, 0.3333333333333333, 0.5]]
    """
    labels, scores = _labelled(inlier_scores, outlier_scores)
    curve = risk_coverage(scores, labels)
    return curve.coverage[1:], curve.risk[1:]


def average_precision(inlier_scores: ArrayLike, outlier_scores: ArrayLike) -> float:
    """Return the mean precision over recall steps with outliers as the positives; in [0, 1].

    Raises:
        InputError: either is empty, or not all are finite.

    >>> average_precision([1.0, 2.0], [3.0, 4.0])
    1.0
    """
    found, passed, _ = _passed(inlier_scores, outlier_scores)
    return float(np.sum(np.diff(found, prepend=0) / found[-1] * found / passed))


def best_f1(inlier_scores: ArrayLike, outlier_scores: ArrayLike) -> tuple[float, float]:
    """Return the highest F1 that a threshold (score >= t) reaches, outliers positive, and that threshold.

    Raises:
        InputError: either is empty, or not all are finite.

    >>> best_f1([1.0, 2.0, 3.5], [3.0, 4.0])
    (0.8, 3.0)
    """
    found, passed, thresholds = _passed(inlier_scores, outlier_scores)
    values = 2 * found / (passed + found[-1])
    best = int(values.argmax())
    return float(values[best]), float(thresholds[best])


def resampled_interval(
    measure: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
    inlier_scores: ArrayLike,
    outlier_scores: ArrayLike,
    units: Units | None = None,
    *,
    resamples: int = 500,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % interval of a measure of inliers and outliers, each drawn again with replacement, in whole units.

    The measure is in [0, 1]. The interval is never narrower than `delong_interval` could be, as in `auroc_interval`.
    """
    inliers, outliers = _checked(inlier_scores), _checked(outlier_scores)
    generator, both = np.random.default_rng(seed), []
    for part, own in zip((inliers, outliers), units or (None, None), strict=True):
        both.append((part, unit_numbers(len(part), own)))
    values = [
        measure(*(np.repeat(part, times_drawn(numbers, generator)) for part, numbers in both)) for _ in range(resamples)
    ]
    return wide_enough(values, measure(inliers, outliers), min(pieces(numbers) for _, numbers in both))


def inliers_flagged_at_95_outliers_caught(inlier_scores: ArrayLike, outlier_scores: ArrayLike) -> float:
    """Return the share of inliers flagged by the highest threshold (score >= t) that catches 95 % of outliers.

    This is the false-positive rate at 95 % true-positive rate with outliers as the positives.

    >>> inliers_flagged_at_95_outliers_caught([1.0, 2.0, 3.0, 4.0], [3.5, 5.0])
    0.25
    """
    inliers, outliers = _checked(inlier_scores), _checked(outlier_scores)
    return _share_above_at(outliers, inliers)


def outliers_missed_at_95_inliers_kept(inlier_scores: ArrayLike, outlier_scores: ArrayLike) -> float:
    """Return the share of outliers accepted by the lowest threshold (score <= t) that keeps 95 % of inliers.

    This is the false-positive rate at 95 % true-positive rate with inliers as the positives, as in most papers on
    out-of-distribution detection.

    >>> outliers_missed_at_95_inliers_kept([1.0, 2.0, 3.0, 4.0], [3.5, 5.0])
    0.5
    """
    inliers, outliers = _checked(inlier_scores), _checked(outlier_scores)
    return _share_above_at(-inliers, -outliers)


@dataclass(frozen=True, repr=False)
class RiskCoverage(ShortRepr):
    """What a classifier does that accepts the least suspicious images first.

    Args:
        coverage: (T + 1,) the share of all images accepted at each of T different thresholds, from 0 to 1.
        errors: (T + 1,) the share of all images accepted and wrong, from 0.
    """

    coverage: NDArray[np.float64]
    errors: NDArray[np.float64]

    @property
    def risk(self) -> NDArray[np.float64]:
        """The share of the accepted images that are wrong (T + 1,); at coverage 0 that of the first accepted."""
        risk = np.divide(self.errors, self.coverage, out=np.zeros_like(self.errors), where=self.coverage > 0)
        risk[0] = risk[1]
        return risk

    @property
    def aurc(self) -> float:
        """The area under risk against coverage: the mean risk over all coverages, in [0, 1]; lower is better.

        Images that tie are accepted in random order. Source: Geifman and El-Yaniv 2017, arXiv 1705.08500.
        """
        start, end = self.coverage[:-1], self.coverage[1:]
        slope = np.diff(self.errors) / (end - start)
        # Between thresholds errors grow evenly, errors = offset + slope * c, and risk is that over c.
        offset = self.errors[:-1] - slope * start
        ratio = np.log(end[1:] / start[1:])
        return float(np.sum(slope * (end - start)) + np.sum(offset[1:] * ratio))

    @property
    def augrc(self) -> float:
        """The area under the share of all images that are accepted and wrong, against coverage; in [0, 1/2].

        Source: Traub et al. 2024, arXiv 2407.01032.
        """
        return float(np.sum(np.diff(self.coverage) * (self.errors[1:] + self.errors[:-1]) / 2))

    def coverage_at(self, risk: float) -> float:
        """Return the largest coverage of a threshold at which the risk is at most this; 0 where there is none."""
        return float(self.coverage[1:][self.risk[1:] <= risk].max(initial=0.0))


def risk_coverage(suspicion: ArrayLike, wrong: ArrayLike, weights: ArrayLike | None = None) -> RiskCoverage:
    """Return the errors made when the images of least suspicion are accepted first.

    Args:
        suspicion: (N,) an image with less is accepted earlier; may be infinite.
        wrong: (N,) whether accepting it is an error.
        weights: (N,) positive, how much of the traffic each image stands for; all the same by default.

    Raises:
        InputError: the lengths differ, there are no images, NaN, or weights that are not positive.

    >>> curve = risk_coverage([0.1, 0.2, 0.3, 0.4], [False, False, False, True])
    >>> curve.risk.tolist(), curve.augrc, curve.coverage_at(0.05)
    ([0.0, 0.0, 0.0, 0.0, 0.25], 0.03125, 0.75)
    """
    values, mistakes = _checked(suspicion, infinite=True), np.asarray(wrong, dtype=bool)
    mass = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    if mistakes.shape != values.shape or mass.shape != values.shape or not (mass > 0).all():
        raise InputError(
            f"expected {len(values)} errors and as many positive weights; got {mistakes.shape} and {mass.shape}"
        )
    levels, place = np.unique(values, return_inverse=True)
    accepted = np.cumsum(np.bincount(place, mass, len(levels)))
    errors = np.cumsum(np.bincount(place, mass * mistakes, len(levels)))
    return RiskCoverage(np.append(0.0, accepted) / accepted[-1], np.append(0.0, errors) / accepted[-1])


@dataclass(frozen=True)
class Rate:
    """A share measured on a sample, with its 95 % Clopper-Pearson interval."""

    hits: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.hits / self.total

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}] ({self.hits} of {self.total})"


def rate(flags: ArrayLike, units: ArrayLike | None = None) -> Rate:
    """Return the share of True with its exact 95 % binomial interval.

    Where images belong together, the interval is that of as many independent ones as would make the share as uncertain,
    and never of more than `delong_interval` would take for so few units.

    Source: Clopper and Pearson 1934; with units Korn and Graubard 1998, Survey Methodology 24:193.

    Args:
        flags: (n,).
        units: (n,) labels of what belongs together; None where all images are independent.

    Raises:
        InputError: there are no flags.

    >>> rate([True, False, False, False]).value
    0.25
    """
    from scipy.special import betaincinv

    values = np.asarray(flags, dtype=bool)
    if values.size == 0:
        raise InputError("expected at least one image to measure a rate; got none")
    hits, numbers = int(values.sum()), unit_numbers(values.size, units)
    share, size = hits / values.size, pieces(numbers)
    variance = variance_of_mean(values.astype(np.float64), numbers)
    if size < values.size and variance > 0:
        size = min(share * (1 - share) / variance, most_coins(size), values.size)
    found = share * size
    low = float(betaincinv(found, size - found + 1, 0.025)) if hits else 0.0
    high = float(betaincinv(found + 1, size - found, 0.975)) if hits < values.size else 1.0
    return Rate(hits, values.size, low, high)


def _resampled_aurocs(
    inlier_scores: ArrayLike, outlier_scores: ArrayLike, resamples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Return the AUROC of each resample (resamples,), from how often each image is drawn."""
    inliers, outliers = _checked(inlier_scores), _checked(outlier_scores)
    values, place = np.unique(np.concatenate([inliers, outliers]), return_inverse=True)
    results = np.empty(resamples)
    for index in range(resamples):
        counts = []
        for places in (place[: len(inliers)], place[len(inliers) :]):
            drawn = places[generator.integers(0, len(places), len(places))]
            counts.append(np.bincount(drawn, minlength=len(values)))
        below = np.cumsum(counts[0]) - counts[0] / 2  # inliers that score lower, ties counted half
        results[index] = counts[1] @ below / (len(inliers) * len(outliers))
    return results


def _share_above_at(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> float:
    needed = -(-95 * len(positives) // 100)
    threshold = np.sort(positives)[::-1][needed - 1]
    return float(np.mean(negatives >= threshold))


def _passed(
    inlier_scores: ArrayLike, outlier_scores: ArrayLike
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return how many outliers, and how many of all, pass each threshold (score >= t), and these, the highest first."""
    labels, scores = _labelled(inlier_scores, outlier_scores)
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # the last of scores that tie
    return np.cumsum(labels[order])[ends], ends + 1, scores[order][ends]


def _labelled(inlier_scores: ArrayLike, outlier_scores: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    inliers, outliers = _checked(inlier_scores), _checked(outlier_scores)
    labels = np.repeat(np.array([0, 1]), [len(inliers), len(outliers)])
    return labels, np.concatenate([inliers, outliers])


def _checked(scores: ArrayLike, *, infinite: bool = False) -> NDArray[np.float64]:
    """Return scores as floats, checked: of no other shape, not NaN, and infinite only where that may be."""
    try:
        values = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:  # texts, uneven lists, tensors with a gradient or on a GPU
        raise InputError(f"expected a list of scores: {error}") from error
    if values.ndim != 1 or values.size == 0:
        raise InputError(f"expected a list of scores; got shape {values.shape}")
    unfit = int(np.sum(np.isnan(values) if infinite else ~np.isfinite(values)))
    if unfit:
        raise InputError(f"expected finite scores; got {unfit} of {values.size} that are NaN or infinite")
    return values

"""Scores of held-out normal images to p-values, thresholds, intervals and guarantees (split conformal).

Source: Bates, Candes, Lei, Romano, Sesia 2023, "Testing for outliers with conformal p-values", arXiv 2104.08279.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction
from functools import cached_property, lru_cache
from math import ceil
from numbers import Real
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recondite.errors import InputError, NotCalibratedError, not_among
from recondite.short_repr import ShortRepr

Guarantee = Literal["exact", "simes", "dkwm", "monte-carlo"]
"""What a chosen confidence means: the false-alarm rate holds for this very calibration set, "exact" at one alpha fixed
beforehand, the others at every alpha at once. Without a confidence it holds on average over calibration sets."""

SHARE = 0.2
"""Of the normal images, what is held out to calibrate on, where no share is given and none are left out in turn."""
LEFT_OUT_WORTH = 0.5
"""What the score of an image that was left out in turn is worth in an interval, beside an independent one. Found on
`pca` of 8 to 48 digits: true rates of 150 fits each vary 1.3 to 1.6 times as much as with independent scores, and more
often lie near 0."""

_MONTE_CARLO_DRAWS = 1000
_MOST_SIMULATED = 300
_LARGEST_DENOMINATOR = 10**6
_EVERYTHING = None


@dataclass(frozen=True, repr=False)
class Calibrator(ShortRepr):
    """Turns scores into p-values by their rank among the scores of held-out normal images.

    Args:
        scores: float64 (n,), one for each calibration image; higher is more anomalous.
        groups: n labels, for a calibration within each group (Mondrian); None for one group.

    Raises:
        InputError: there are no scores, or some are not finite.
    """

    scores: NDArray[np.float64]
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        scores = np.asarray(self.scores, dtype=np.float64)
        if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
            raise InputError(f"expected finite calibration scores (n,), n >= 1; got shape {scores.shape}")
        if self.groups is not None and len(self.groups) != len(scores):
            raise InputError(f"expected {len(scores)} group labels; got {len(self.groups)}")
        object.__setattr__(self, "scores", scores)

    @property
    def sizes(self) -> dict[str | None, int]:
        """The number of calibration images in each group; the only key is None where there are no groups."""
        return {name: len(scores) for name, scores in self._ascending.items()}

    def p_value(
        self,
        scores: ArrayLike,
        groups: Sequence[str] | None = None,
        confidence: float | None = None,
        guarantee: Guarantee = "exact",
    ) -> NDArray[np.float64]:
        """Return how often a normal image scores at least this high, in (0, 1]; NaN where the score is NaN.

        p = (1 + #{calibration scores >= score}) / (n + 1), raised to an upper bound when `confidence` is given.

        Args:
            scores: (N,).
            groups: N labels, needed if and only if the calibration has groups.
            confidence: in (0, 1), for a promise about this very calibration set; see `Guarantee`.
            guarantee: which promise, when `confidence` is given.

        Raises:
            InputError: an unknown group, or a confidence outside (0, 1).
        """
        values = np.asarray(scores, dtype=np.float64)
        p_values = np.full(values.shape, np.nan)
        for name, rows in self._rows_of_groups(len(values), groups).items():
            ascending = self._ascending[name]
            at_least = len(ascending) - np.searchsorted(ascending, values[rows], side="left")
            table = p_value_table(len(ascending), confidence, guarantee)
            p_values[rows] = np.where(np.isnan(values[rows]), np.nan, table[at_least])
        return p_values

    def threshold(
        self,
        alpha: float,
        confidence: float | None = None,
        guarantee: Guarantee = "exact",
        group: str | None = _EVERYTHING,
    ) -> float:
        """Return t such that "score > t" and "p_value <= alpha" are the same rule, ties included.

        Raises:
            InputError: alpha is not in (0, 1), or too small for the number of calibration images; the message names
                the number needed.
            NotCalibratedError: there is no such group.
        """
        ascending = self._scores_of(group)
        return float(ascending[-self._allowed(group, alpha, confidence, guarantee)])

    def is_outlier(
        self,
        scores: ArrayLike,
        alpha: float,
        groups: Sequence[str] | None = None,
        confidence: float | None = None,
        guarantee: Guarantee = "exact",
    ) -> NDArray[np.bool_]:
        """Return which scores lie above the threshold of their group (N,). A NaN score is always an outlier.

        Raises:
            InputError: as `threshold` and `p_value`.
        """
        values = np.asarray(scores, dtype=np.float64)
        flags = np.ones(values.shape, dtype=bool)
        for name, rows in self._rows_of_groups(len(values), groups).items():
            # "not <=" instead of ">": a NaN is above every threshold.
            flags[rows] = ~(values[rows] <= self.threshold(alpha, confidence, guarantee, name))
        return flags

    def interval(
        self,
        alpha: float,
        confidence: float | None = None,
        guarantee: Guarantee = "exact",
        group: str | None = _EVERYTHING,
        level: float = 0.95,
        left_out: int = 0,
        in_turn: bool = False,
    ) -> tuple[float, float]:
        """Return the central interval of the true false-alarm rate over calibration sets of this size.

        The rate follows Beta(l, n + 1 - l), where l calibration images may score as high as the flagged ones. Equal
        scores are flagged all or none: where several are the threshold, the rate is that of the k above, from Beta(k,
        n + 1 - k) to Beta(k + 1, n - k). If images of still higher scores were left out, the interval reaches from
        where all of them are bad to where none is. Scores of images that were left out in turn tell less,
        w = `LEFT_OUT_WORTH`: the law is then Beta(w l, w (n + 1 - l)), of the same mean, about 1 / w the variance.
        Source: Bates et al. 2023, section 1; Vovk 2012; Clopper and Pearson 1934.
        """
        from scipy.special import betaincinv

        scores, threshold = self._scores_of(group), self.threshold(alpha, confidence, guarantee, group)
        n, above = len(scores), np.count_nonzero(scores > threshold)
        most = above + 1
        least = above if np.count_nonzero(scores == threshold) > 1 else most
        tail, worth = (1 - level) / 2, LEFT_OUT_WORTH if in_turn else 1.0
        low = betaincinv(worth * least, worth * (n + 1 - least), tail) if least else 0.0
        high = betaincinv(worth * (most + left_out), worth * (n + 1 - most), 1 - tail)
        return float(low), float(high)

    def rate_with(
        self,
        left_out: int,
        alpha: float,
        confidence: float | None = None,
        guarantee: Guarantee = "exact",
        group: str | None = _EVERYTHING,
    ) -> float:
        """Return what the false-alarm rate is at most if so many images of still higher scores were normal too.

        Without a confidence on average over calibration sets, else with that confidence. It is alpha or less for none.
        """
        from scipy.special import betaincinv

        n = len(self._scores_of(group)) + left_out
        allowed = self._allowed(group, alpha, confidence, guarantee) + left_out
        return float(allowed / (n + 1) if confidence is None else betaincinv(allowed, n + 1 - allowed, confidence))

    def _allowed(self, group: str | None, alpha: float, confidence: float | None, guarantee: Guarantee) -> int:
        """Return how large 1 + #{calibration scores >= score} may be for the score to be flagged."""
        n = len(self._scores_of(group))
        # By the very numbers that p-values are, so that "p <= alpha" and "score > threshold" agree for every alpha.
        rate = rate_of(alpha, "alpha")
        allowed = int(np.searchsorted(p_value_table(n, confidence, guarantee), rate, side="right"))
        if allowed < 1:
            needed = smallest_calibration_set(rate, confidence, guarantee)
            of = "" if group is None else f" of group {group!r}"
            smallest = smallest_alpha(n, confidence, guarantee)
            way = "more of them" if smallest is None else f"more of them, or an alpha of at least {smallest:g}"
            raise InputError(f"alpha = {rate:g} needs at least {needed} calibration images{of}; got {n}: give {way}")
        return allowed

    @cached_property
    def _ascending(self) -> dict[str | None, NDArray[np.float64]]:
        """The calibration scores of each group, lowest first."""
        if self.groups is None:
            return {_EVERYTHING: np.sort(self.scores)}
        labels = np.array(self.groups)
        return {str(name): np.sort(self.scores[labels == name]) for name in np.unique(labels)}

    def check_beside(self, numbers: Mapping[str, NDArray[np.float64]]) -> None:
        """Raise InputError unless there is one finite number of each name for each calibration image."""
        for name, values in numbers.items():
            if values.shape != self.scores.shape:
                raise InputError(f"expected {len(self.scores)} {name}; got shape {values.shape}")
            if not np.isfinite(values).all():
                raise InputError(f"expected finite {name} of the calibration images")

    def check_group(self, group: str) -> None:
        """Raise InputError where nothing is calibrated for a group, or there are no groups at all."""
        if self.groups is None:
            raise InputError(f"the calibration has no groups, and {group!r} names one: leave it out")
        if group not in self.groups:
            raise InputError(f"no calibration for group {group!r}; there are: {sorted(set(self.groups))}")

    def _scores_of(self, group: str | None) -> NDArray[np.float64]:
        groups = self._ascending
        if group not in groups:
            raise NotCalibratedError(f"no calibration for group {group!r}; there are: {', '.join(map(repr, groups))}")
        return groups[group]

    def _rows_of_groups(self, size: int, groups: Sequence[str] | None) -> dict[str | None, NDArray[np.intp]]:
        if self.groups is None:
            if groups is not None:
                raise InputError("this calibration has no groups; got group labels")
            return {_EVERYTHING: np.arange(size)}
        if groups is None or len(groups) != size:
            raise InputError(f"this calibration has groups: expected {size} group labels")
        labels = np.array(groups, dtype=object)
        unknown = sorted(set(groups) - set(self.groups))
        if unknown:
            raise InputError(f"no calibration for groups {unknown}; there are: {sorted(set(self.groups))}")
        return {str(name): np.flatnonzero(labels == name) for name in sorted(set(groups))}


@lru_cache(maxsize=32)
def p_value_table(n: int, confidence: float | None, guarantee: Guarantee = "exact") -> NDArray[np.float64]:
    """Return the p-value for each count 0..n of calibration scores that are at least as high, (n + 1,), ascending.

    Tables are kept and shared, so they cannot be written into.

    Source: Bates et al. 2023, sections 3.1 to 3.3. "exact": the upper confidence bound Beta(count + 1, n - count) of
    the false-alarm rate of a threshold at that score (Vovk 2012). Bounds of a low confidence lie below the p-values
    that hold on average, and are raised to these.

    Raises:
        InputError: confidence is not in (0, 1), or the guarantee is unknown.

    >>> p_value_table(4, None)
    array([0.2, 0.4, 0.6, 0.8, 1. ])
    """
    marginal = np.arange(1, n + 2) / (n + 1)
    return _read_only(marginal if confidence is None else np.maximum(marginal, _bounds(n, confidence, guarantee)))


def _bounds(n: int, confidence: float, guarantee: Guarantee) -> NDArray[np.float64]:
    """Return the upper bounds of the false-alarm rate of a threshold at each rank of n scores (n + 1,)."""
    delta = 1 - float(_written(rate_of(confidence, "confidence")))
    if guarantee == "exact":
        from scipy.special import betaincinv

        return np.append(betaincinv(np.arange(1, n + 1), n - np.arange(n), 1 - delta), 1.0)
    if guarantee == "dkwm":
        return np.asarray(np.minimum(1.0, np.arange(1, n + 2) / (n + 1) + np.sqrt(np.log(2 / delta) / (2 * n))))
    if guarantee == "simes":
        return _simes_bounds(n, delta)
    if guarantee == "monte-carlo":
        return _monte_carlo_bounds(n, delta)
    raise InputError(f"expected a guarantee of exact, simes, dkwm or monte-carlo; got {guarantee!r}")


def smallest_calibration_set(alpha: float, confidence: float | None, guarantee: Guarantee) -> int:
    """Return the smallest n whose smallest p-value is at most alpha.

    With "monte-carlo", whose tables are simulated, it is a number that suffices where it is more than some hundred.
    """
    found = _smallest(lambda n: _smallest_p_value(n, confidence, guarantee) <= alpha)
    if confidence is None or guarantee != "monte-carlo":
        return found
    if found <= _MOST_SIMULATED:
        return _smallest(lambda n: n >= found and p_value_table(n, confidence, guarantee)[0] <= alpha)
    # How many times more all ranks need together than the first alone grows by a seventh when n is ten times as large.
    rate = p_value_table(_MOST_SIMULATED, confidence, guarantee)[0]
    more = np.log1p(-rate) / np.log1p(-_smallest_p_value(_MOST_SIMULATED, confidence, guarantee))
    return int(np.ceil(1.5 * more * found))


def _smallest(suffices: Callable[[int], bool]) -> int:
    """Return the smallest positive number from which on a condition holds."""
    high = 1
    while not suffices(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def smallest_alpha(n: int, confidence: float | None = None, guarantee: Guarantee = "exact") -> float | None:
    """Return the smallest alpha that n calibration images allow, rounded up to three digits; None if there is none.

    >>> smallest_alpha(2), smallest_alpha(99), smallest_alpha(2, 0.95)
    (0.334, 0.01, 0.777)
    """
    smallest = Decimal(str(float(p_value_table(n, confidence, guarantee)[0])))
    digits = Decimal(1).scaleb(smallest.adjusted() - 2)
    rounded = float(smallest.quantize(digits, ROUND_CEILING))
    return rounded if rounded < 1 else None


def smallest_shared_alpha(
    n: int, share: float, confidence: float | None = None, guarantee: Guarantee = "exact"
) -> float | None:
    """Return the smallest alpha, in thousandths, a share of which n calibration images allow; None if there is none.

    >>> smallest_shared_alpha(19, 0.5), smallest_shared_alpha(19, 1 / 3), smallest_shared_alpha(2, 1 / 3)
    (0.1, 0.15, None)
    """
    smallest = smallest_alpha(n, confidence, guarantee) if n > 0 else None
    if smallest is None:
        return None
    found = ceil(_written(smallest) / _written(share) * 1000) / 1000
    return found if found < 1 else None


def check_promise(alpha: float | None, confidence: float | None = None, guarantee: str = "exact") -> None:
    """Check what a calibration is to promise, before there is one; None for what is not chosen.

    Raises:
        InputError: a rate or confidence outside (0, 1), or an unknown guarantee.
    """
    for value, name in ((alpha, "alpha"), (confidence, "confidence")):
        if value is not None:
            rate_of(value, name)
    if guarantee not in get_args(Guarantee):
        raise not_among("a guarantee", get_args(Guarantee), guarantee)


def _smallest_p_value(n: int, confidence: float | None, guarantee: Guarantee) -> float:
    """Return the first entry of `p_value_table` without the rest of it (with "monte-carlo", a lower bound)."""
    if confidence is None:
        return 1 / (n + 1)
    delta = 1 - confidence
    if guarantee == "dkwm":
        return float(1 / (n + 1) + np.sqrt(np.log(2 / delta) / (2 * n)))
    return float(max(1 / (n + 1), 1 - delta ** (1 / (max(1, n // 2) if guarantee == "simes" else n))))


def mean_std_threshold(scores: ArrayLike, k: float = 1.0) -> float:
    """Return mean + k standard deviations (population), the rule of much older work. It promises nothing.

    >>> mean_std_threshold([1.0, 3.0], k=2)
    4.0
    """
    values = np.asarray(scores, dtype=np.float64)
    return float(values.mean() + k * values.std())


def percentile_threshold(scores: ArrayLike, percent: float) -> float:
    """Return the given percentile, linearly interpolated. It promises nothing: its rate is right only for large n.

    Raises:
        InputError: not 0 <= percent <= 100.

    >>> percentile_threshold([0.0, 1.0], 50)
    0.5
    """
    if not 0 <= percent <= 100:
        raise InputError(f"expected a percentile from 0 to 100; got {percent!r}")
    return float(np.percentile(np.asarray(scores, dtype=np.float64), percent))


def threshold_rules(
    calibrator: Calibrator, alpha: float, confidence: float | None = None, guarantee: Guarantee = "exact"
) -> dict[str, float]:
    """Return the thresholds of the conformal rule and of the older rules on the same calibration scores, by name."""
    promise = f"conformal, alpha {alpha:g}" + (f", confidence {confidence:g}" if confidence is not None else "")
    rules = {promise: calibrator.threshold(alpha, confidence, guarantee)} if calibrator.groups is None else {}
    rules |= {f"mean + {k} std": mean_std_threshold(calibrator.scores, k) for k in (1, 2, 3)}
    percent = float(100 * (1 - _written(rate_of(alpha, "alpha"))))
    return rules | {f"percentile {percent:g}": percentile_threshold(calibrator.scores, percent)}


def _read_only(table: NDArray[np.float64]) -> NDArray[np.float64]:
    table.setflags(write=False)
    return table


def _simes_bounds(n: int, delta: float) -> NDArray[np.float64]:
    from scipy.special import gammaln

    k = max(1, n // 2)
    i = np.arange(n, k - 1, -1)  # for i < k the bound is 1
    ratio = np.exp((gammaln(i + 1) - gammaln(i - k + 1) - gammaln(n + 1) + gammaln(n - k + 1)) / k)
    bounds = np.ones(n + 1)
    bounds[: len(i)] = 1 - delta ** (1 / k) * ratio
    return bounds


def _monte_carlo_bounds(n: int, delta: float) -> NDArray[np.float64]:
    """Scale pointwise Beta bounds until they hold together in a share 1 - delta of simulated calibration sets."""
    from scipy.special import betaincc, betainccinv

    position = int(delta * (_MONTE_CARLO_DRAWS + 1))
    if position < 1:
        raise InputError(
            f"monte-carlo reaches a confidence of {1 - 1 / _MONTE_CARLO_DRAWS:g} at most; got {1 - delta:g}"
        )
    ranks = np.arange(1, n + 1)
    uniform = np.sort(np.random.default_rng(0).random((_MONTE_CARLO_DRAWS, n)), axis=1)
    tails = betaincc(ranks, n + 1 - ranks, uniform).min(axis=1)
    level = np.sort(tails)[position - 1]
    bounds: NDArray[np.float64] = np.append(betainccinv(ranks, n + 1 - ranks, level), 1.0)
    return bounds


def share_of(alpha: float | Fraction, share: float | Fraction) -> float:
    """Return a share of alpha, both as the user wrote them; a third of .3 is .1, not a float below it.

    >>> share_of(0.3, 1 / 3), 0.3 * (1 / 3)
    (0.1, 0.09999999999999999)
    """
    return float(_written(alpha) * _written(share))


def rate_of(value: object, name: str) -> float:
    """Return a rate as a float: of numpy's shorter types the decimal number that they print as, not what they round to.

    >>> rate_of(np.float32(0.7), "alpha"), float(np.float32(0.7))
    (0.7, 0.699999988079071)

    Raises:
        InputError: it is no number in (0, 1).
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < 1:
        hint = ""
        if isinstance(value, Real) and 1 <= float(value) <= 100:
            hint = f"; for {float(value):g} % give {float(value) / 100:g}"
        raise InputError(f"expected {name} in (0, 1); got {value!r}{hint}")
    return float(str(value)) if isinstance(value, np.floating) else float(value)


def _written(value: float | Fraction) -> Fraction:
    """Return the fraction or decimal number that a float was written as: .29 is 29/100, .3333333333333333 a third."""
    if isinstance(value, Fraction):
        return value
    simple = Fraction(value).limit_denominator(_LARGEST_DENOMINATOR)
    return simple if abs(float(simple) - value) <= 2 * np.spacing(value) else Fraction(str(float(value)))

"""Two-sided density of normal image statistics: unusually low values are as suspicious as high ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recondite.errors import InputError
from recondite.short_repr import ShortRepr

FEWEST = 20
_KNOTS = 100
_SMALLEST_SPREAD = 1e-3
FARTHEST = 1e6


@dataclass(frozen=True)
class Marginals:
    """Maps each of K statistics to the standard normal scale that it has among normal images.

    Between the knots by the rank among normal images, beyond them linearly, so that far values stay apart. A statistic
    that never varied among them counts in units of a thousandth (of itself, where it is larger than 1).

    Args:
        knots: float64 (K, Q), ascending: the quantiles (q + .5) / Q of each statistic.
    """

    knots: NDArray[np.float64]

    @classmethod
    def fit(cls, values: ArrayLike) -> "Marginals":
        """Learn from the statistics of normal images (N, K).

        Raises:
            InputError: fewer than 20 images, or a value that is not finite.
        """
        array = np.asarray(values, dtype=np.float64)
        if array.ndim != 2 or len(array) < FEWEST:
            raise InputError(f"expected the statistics (N, K) of at least {FEWEST} images; got shape {array.shape}")
        if not np.isfinite(array).all():
            raise InputError("expected finite statistics")
        # With as many knots as images the outermost would be single images.
        count = min(_KNOTS, len(array) // 2)
        return cls(np.quantile(array, (np.arange(count) + 0.5) / count, axis=0, method="hazen").T)

    def z(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return (N, K) standard normal scores; 0 is the middle of the normal images, their ends are near 2.5."""
        array, levels = np.asarray(values, dtype=np.float64), self.levels
        scores = np.empty_like(array)
        for column, knots in enumerate(self.knots):
            value = array[:, column]
            # From both sides: equal knots are a step, and a value on it is in its middle.
            upward = np.interp(value, knots, levels)
            downward = np.interp(-value, -knots[::-1], -levels[::-1])
            inner = (upward - downward) / 2
            downwards, upwards = self.spreads[column]
            below = np.minimum(value - knots[0], 0) / downwards
            above = np.maximum(value - knots[-1], 0) / upwards
            scores[:, column] = inner + levels[-1] * (below + above)
        return np.clip(scores, -FARTHEST, FARTHEST)

    @cached_property
    def levels(self) -> NDArray[np.float64]:
        """The standard normal scores of the knots (Q,)."""
        from scipy.special import ndtri

        count = self.knots.shape[1]
        return np.asarray(ndtri((np.arange(count) + 0.5) / count))

    @cached_property
    def spreads(self) -> NDArray[np.float64]:
        """How far the first and the last knot of each statistic are from its middle (K, 2)."""
        middle = np.median(self.knots, axis=1)
        floor = _SMALLEST_SPREAD * np.maximum(1.0, np.abs(middle))
        return np.maximum(np.stack([middle - self.knots[:, 0], self.knots[:, -1] - middle], axis=1), floor[:, None])


@dataclass(frozen=True, repr=False)
class Density(ShortRepr):
    """The shrunk Mahalanobis distance of a vector of statistics, each on its normal scale.

    Source: Ledoit and Wolf 2004, doi 10.1016/S0047-259X(03)00096-4, for the shrinkage.

    Args:
        names: of the K statistics.
        marginals: of each.
        precision: float64 (K, K), the inverse of their shrunk covariance.
    """

    names: tuple[str, ...]
    marginals: Marginals
    precision: NDArray[np.float64]

    @classmethod
    def fit(cls, statistics: Mapping[str, ArrayLike]) -> "Density":
        """Learn from name -> statistics (N,) of N normal images.

        Raises:
            InputError: fewer than 20 images, or a value that is not finite.
        """
        from sklearn.covariance import ledoit_wolf

        names = tuple(statistics)
        values = _matrix(statistics, names)
        marginals = Marginals.fit(values)
        covariance, _ = ledoit_wolf(marginals.z(values), assume_centered=True)
        return cls(names, marginals, np.linalg.inv(covariance))

    def distance(self, statistics: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """Return the distance (N,) of each image from the normal ones; about the root of K for those."""
        return self.length(self.z(statistics))

    def length(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distance (N,) of images whose statistics, each on its normal scale, are given (N, K)."""
        return np.asarray(np.sqrt(np.maximum(np.einsum("nk,kl,nl->n", z, self.precision, z), 0)))

    def z(self, statistics: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """Return (N, K) how unusual each statistic is by itself, in standard deviations of a normal distribution."""
        return self.marginals.z(_matrix(statistics, self.names))

    def shares(self, statistics: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """Return (N, K) how much each statistic adds to the squared distance, all others given; they sum to it."""
        z = self.z(statistics)
        return z * (z @ self.precision)


def held_out_distances(statistics: Mapping[str, ArrayLike], folds: int = 5) -> NDArray[np.float64]:
    """Return the distance (N,) of each of N normal images from a density fitted without it.

    The images that a density was fitted on lie closer to it than others do; with few images much closer.

    Raises:
        InputError: too few images for `folds` parts, or a value that is not finite.
    """
    names = tuple(statistics)
    values = _matrix(statistics, names)
    fold = np.arange(len(values)) % folds
    distances = np.empty(len(values))
    for number in range(folds):
        inside, outside = values[fold == number], values[fold != number]
        density = Density.fit(dict(zip(names, outside.T, strict=True)))
        distances[fold == number] = density.distance(dict(zip(names, inside.T, strict=True)))
    return distances


def smallest_tail(z: ArrayLike, shares: ArrayLike) -> NDArray[np.float64]:
    """Return -log of the smallest of C one-sided normal p-values, each divided by its share of alpha.

    An image that one component finds as rare as alpha times that component's share is as rare as alpha. Components
    whose share is larger speak earlier.

    Args:
        z: (N, C), higher is more anomalous.
        shares: (C,) positive, summing to 1.

    >>> smallest_tail([[0.0, 3.0]], [0.5, 0.5]).round(3)
    array([5.915])
    """
    from scipy.special import log_ndtr

    return np.asarray((np.log(np.asarray(shares, dtype=np.float64)) - log_ndtr(-np.asarray(z))).max(axis=1))


def sum_of_tails(z: ArrayLike, weights: ArrayLike) -> NDArray[np.float64]:
    """Return the weighted sum (N,) of -log of C one-sided normal p-values; it has no law of its own here: calibrate it.

    Components that all find an image somewhat rare add up, and one that finds it common takes nothing away.

    Args:
        z: (N, C), higher is more anomalous.
        weights: (C,), not negative.

    Source: Good 1955, doi 10.1111/j.2517-6161.1955.tb00199.x, for the weights in Fisher's sum.

    >>> sum_of_tails([[-9.0, 3.0]], [0.5, 1.0]).round(3)
    array([6.608])
    """
    from scipy.special import log_ndtr

    return np.asarray((-log_ndtr(-np.asarray(z)) * np.asarray(weights, dtype=np.float64)).sum(axis=1))


def _matrix(statistics: Mapping[str, ArrayLike], names: Sequence[str]) -> NDArray[np.float64]:
    return np.stack([np.asarray(statistics[name], dtype=np.float64) for name in names], axis=1)

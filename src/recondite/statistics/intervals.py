"""Images that belong together, and few images: how many independent ones they are worth, and how wide intervals are."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recondite.errors import InputError


def unit_numbers(count: int, units: ArrayLike | None = None) -> NDArray[np.intp]:
    """Return the number of the unit of each of so many images (count,), from 0 on; of its own where none are told.

    Raises:
        InputError: another number of labels.
    """
    if units is None:
        return np.arange(count)
    labels = np.asarray(units)
    if labels.shape != (count,):
        raise InputError(f"expected a label of what belongs together for each of {count} images; got {labels.shape}")
    return np.asarray(np.unique(labels, return_inverse=True)[1], dtype=np.intp)


def pieces(numbers: NDArray[np.intp]) -> float:
    """Return how many independent images some are worth if those of a unit all say the same (Kish 1965)."""
    return len(numbers) ** 2 / float(np.square(np.bincount(numbers)).sum())


def times_drawn(numbers: NDArray[np.intp], generator: np.random.Generator) -> NDArray[np.intp]:
    """Return how often each image is drawn (n,) where as many units as there are are drawn with replacement."""
    count = int(numbers.max()) + 1
    return np.bincount(generator.integers(0, count, count), minlength=count)[numbers]


def variance_of_mean(values: NDArray[np.float64], numbers: NDArray[np.intp]) -> float:
    """Return the variance of the mean of values (n,), of which those of a unit belong together; 0 of a single unit."""
    sums = np.bincount(numbers, values - values.mean())
    return float(np.square(sums).sum() / len(values) ** 2 * len(sums) / max(1, len(sums) - 1))


def most_coins(fewest: float) -> float:
    """Return how many coins, at most, may tell a measure as surely as samples of which the smaller has so many images.

    Found on normal scores and on mixtures: without it intervals of 95 % missed the truth in a third of samples with 3
    outliers, a fifth with 10 and a tenth with 20.
    """
    return fewest * (1 + fewest / 10)


def wilson(value: float, size: float, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a share that was seen among so many."""
    from scipy.special import ndtri

    z = float(ndtri((1 + level) / 2))
    middle = (value + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * np.sqrt(value * (1 - value) / size + (z / (2 * size)) ** 2)
    return max(0.0, middle - float(half)), min(1.0, middle + float(half))


def wide_enough(resampled: ArrayLike, value: float, fewest: float, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of resampled values in [0, 1], or Wilson's where that reaches farther.

    Args:
        resampled: of the images drawn again.
        value: of the images themselves.
        fewest: how many independent images the smaller sample has.
        level: of the interval.
    """
    own = np.quantile(np.asarray(resampled, dtype=np.float64), [(1 - level) / 2, (1 + level) / 2])
    low, high = wilson(value, most_coins(fewest) if 0 < value < 1 else fewest, level)
    return min(low, float(own[0])), max(high, float(own[1]))

"""Baselines without training, which every detector should beat."""

import numpy as np
from numpy.typing import NDArray

from recondite.data.images import Floats
from recondite.data.spool import Rows


def mean_image(rows: Rows) -> NDArray[np.float64]:
    """Return the mean of images (*shape)."""
    total = np.zeros(rows.pixels.shape[1:])
    for batch in rows.batches():
        total += batch.sum(axis=0, dtype=np.float64)
    return total / len(rows)


def pixel_variance(images: Floats) -> NDArray[np.float64]:
    """Return the variance of the values of each image (N,)."""
    found: NDArray[np.float64] = images.astype(np.float64).var(axis=tuple(range(1, images.ndim)))
    return found


def squared_distance(images: Floats, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean squared difference of each image (N,) from one image (*shape)."""
    found: NDArray[np.float64] = np.square(images.astype(np.float64) - mean).mean(axis=tuple(range(1, images.ndim)))
    return found

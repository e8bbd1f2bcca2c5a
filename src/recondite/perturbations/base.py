"""Base of all perturbations: images in and out, one independent random stream an image."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recondite.errors import InputError
from recondite.short_repr import ShortRepr

Images = NDArray[np.float32]
Draws = np.random.Generator


@dataclass(frozen=True, repr=False)
class Perturbed(ShortRepr):
    """Images with something put into them.

    Args:
        images: float32 (N, C, H, W).
        truth: bool (N, H, W), True where it was put.
    """

    images: Images
    truth: NDArray[np.bool_]


def checked(images: ArrayLike, within: tuple[float, float] | None = (0.0, 1.0)) -> Images:
    """Return images as float32 (N, C, H, W); the very array if it is one.

    Args:
        images: floating-point.
        within: the range that the values must lie in; None for any.

    Raises:
        InputError: another shape, other numbers, NaN or infinite values, or values out of range.
    """
    given = np.asarray(images)
    if given.ndim != 4 or not np.issubdtype(given.dtype, np.floating) or 0 in given.shape[1:]:
        raise InputError(f"expected floating-point images (N, C, H, W); got {given.dtype} {given.shape}")
    pixels: Images = given.astype(np.float32, copy=False)
    if not np.isfinite(pixels).all():
        raise InputError("expected finite pixels; got NaN or infinity")
    if within is not None and pixels.size and (pixels.min() < within[0] or pixels.max() > within[1]):
        found = f"{pixels.min():.4g} to {pixels.max():.4g}"
        raise InputError(f"expected pixels from {within[0]:g} to {within[1]:g}; got {found}")
    return pixels


def draws_of(count: int, seed: int, first: int) -> Iterator[Draws]:
    """Yield a generator for each of `count` images: that of image i depends on the seed and on first + i alone.

    Raises:
        InputError: a negative seed or first.
    """
    if seed < 0 or first < 0:
        raise InputError(f"expected a seed and a first index of at least 0; got {seed} and {first}")
    for index in range(count):
        yield np.random.default_rng([seed, first + index])


def grid(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the row and the column of each pixel, (H, 1) and (1, W)."""
    return np.arange(height, dtype=np.float64)[:, None], np.arange(width, dtype=np.float64)[None]


def clipped(values: NDArray[Any], low: float = 0.0, high: float = 1.0) -> Images:
    """Return values as float32 between two ends."""
    ends: Images = np.clip(values, low, high).astype(np.float32, copy=False)
    return ends

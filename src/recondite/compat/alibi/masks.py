"""Masked copies of images, with alibi-detect's arguments, made by `recondite.perturbations`."""

import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recondite.compat.alibi.images import channels_first
from recondite.errors import InputError
from recondite.perturbations import masked

MaskType = Literal["uniform", "normal", "random", "zero"]


def apply_mask(
    X: NDArray[np.floating],
    mask_size: int | tuple[int, int] = (4, 4),
    n_masks: int = 1,
    coord: tuple[int, int] | None = None,
    channels: Sequence[int] | None = None,
    mask_type: MaskType = "uniform",
    noise_distr: tuple[float, float] = (0, 1),
    noise_rng: tuple[float, float] = (0, 1),
    clip_rng: tuple[float, float] = (0, 1),
    *,
    seed: int = 0,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return `n_masks` copies of each image with one masked rectangle each, and where these rectangles are.

    A mask depends on the image, the size and the seed: other images get other masks, a repeated call the same ones.

    Args:
        X: images (N, H, W, C), (N, C, H, W) or (N, H, W), floating-point.
        mask_size: side, or height and width, in pixels; up to the whole image.
        n_masks: copies of each image; those of one image follow one another.
        coord: (row, column) of the upper left corner; at random by default, up to the very edge.
        channels: which channels are masked; all by default.
        mask_type: "uniform" and "normal" (or "random", its other name) add noise, "zero" sets to zero.
        noise_distr: mean and standard deviation of normal noise.
        noise_rng: ends of uniform noise.
        clip_rng: ends to which pixels with noise are cut; zeros stay zeros.
        seed: for other masks.

    Returns:
        float32 images and bool masks, both (N * n_masks, ...) in the layout of X.

    Raises:
        InputError: a mask that does not fit, unknown channels or type, or NaN.
    """
    if n_masks < 1:
        raise InputError(f"expected n_masks >= 1; got {n_masks}")
    if mask_type not in ("uniform", "normal", "random", "zero"):
        raise InputError(f"expected a mask_type of uniform, normal, random or zero; got {mask_type!r}")
    images, layout = channels_first(X)
    chosen = range(images.shape[1]) if channels is None else channels
    copies = np.repeat(images, n_masks, axis=0)
    kind: Literal["uniform", "normal", "zero"] = "normal" if mask_type == "random" else mask_type
    found = masked(
        copies,
        mask_size,
        kind,
        place=coord,
        channels=list(chosen),
        distribution=noise_rng if kind == "uniform" else noise_distr,
        add=kind != "zero",
        clip=None if kind == "zero" else clip_rng,
        seed=zlib.crc32(np.ascontiguousarray(images).tobytes(), zlib.crc32(f"{mask_size} {seed}".encode())),
    )
    truth = np.zeros(copies.shape, dtype=bool)
    truth[:, list(chosen)] = found.truth[:, None]
    return layout.restored(found.images), layout.restored(truth)

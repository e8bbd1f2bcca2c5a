"""Masks: rectangles of an image replaced, or covered with noise."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recondite.errors import InputError, not_among
from recondite.perturbations.base import Draws, Images, Perturbed, checked, draws_of

MaskKind = Literal["normal", "uniform", "zero", "constant", "patch"]


def masked(
    images: ArrayLike,
    size: int | tuple[int, int],
    kind: MaskKind = "normal",
    *,
    count: int = 1,
    place: tuple[int, int] | None = None,
    channels: ArrayLike | None = None,
    distribution: tuple[float, float] = (0.0, 1.0),
    value: float = 0.5,
    add: bool = False,
    clip: tuple[float, float] | None = (0.0, 1.0),
    sources: ArrayLike | None = None,
    seed: int = 0,
    first: int = 0,
) -> Perturbed:
    """Return images with masked rectangles, and where these are. Every image has draws of its own.

    Args:
        images: floating-point (N, C, H, W), of any range.
        size: side, or height and width, in pixels; up to the whole image.
        kind: what the rectangles hold: normal or uniform noise, zeros, one `value`, or a patch of another image.
        count: rectangles an image; they may overlap.
        place: (row, column) of the upper left corner; by default at random, up to the very edge.
        channels: which channels are masked; by default all.
        distribution: of the noise: (mean, standard deviation), or (low, high) where it is uniform.
        value: of kind "constant".
        add: noise or value is added to the pixels rather than replacing them.
        clip: the range to which masked pixels are cut; None for no cut.
        sources: images (M, C, h, w) to take patches from; by default the others of the batch.
        seed: of all draws.
        first: the index of the first image; a batch that begins there gets the masks it would get within a longer one.

    Raises:
        InputError: not such images, a mask that does not fit, unknown channels or kind, or no image to take patches of.

    >>> found = masked(np.full((2, 1, 4, 4), 0.5), 4, "zero")
    >>> found.images.max(), found.truth.all()
    (np.float32(0.0), np.True_)
    """
    pixels = checked(images, within=None)
    if kind not in get_args(MaskKind):
        raise not_among("a kind of mask", get_args(MaskKind), kind)
    if add and kind in ("zero", "patch"):
        raise InputError(f"a mask of kind {kind!r} replaces pixels; it cannot be added")
    if count < 1:
        raise InputError(f"expected at least one mask an image; got {count}")
    tall, wide = _fitting((size, size) if isinstance(size, int) else size, place, pixels.shape[2:])
    chosen = _channels(channels, pixels.shape[1])
    donors = _donors(sources, pixels, (tall, wide)) if kind == "patch" else None
    masked_images, truth = pixels.copy(), np.zeros((len(pixels), *pixels.shape[2:]), dtype=bool)
    for index, draws in enumerate(draws_of(len(pixels), seed, first)):
        for _ in range(count):
            top, left = _corner(pixels.shape[2:], (tall, wide), draws)
            top, left = (top, left) if place is None else place
            if donors is None:
                new = _filled(kind, (len(chosen), tall, wide), distribution, value, draws)
            else:
                new = _patch(donors, index if sources is None else None, (tall, wide), draws)[chosen]
            window = (index, chosen, slice(top, top + tall), slice(left, left + wide))
            new = masked_images[window] + new if add else new
            masked_images[window] = new if clip is None else np.clip(new, *clip)
            truth[index, top : top + tall, left : left + wide] = True
    return Perturbed(masked_images, truth)


def _fitting(size: tuple[int, int], place: tuple[int, int] | None, whole: tuple[int, ...]) -> tuple[int, int]:
    top, left = (0, 0) if place is None else place
    for start, length, limit in zip((top, left), size, whole, strict=True):
        if length < 1 or start < 0 or start + length > limit:
            where = "" if place is None else f" at row {top}, column {left}"
            raise InputError(
                f"expected a mask within images of {whole[0]} x {whole[1]}; got {size[0]} x {size[1]}{where}"
            )
    return size


def _channels(channels: ArrayLike | None, there: int) -> NDArray[np.intp]:
    chosen = np.arange(there) if channels is None else np.atleast_1d(np.asarray(channels))
    if not chosen.size or not np.issubdtype(chosen.dtype, np.integer) or not np.isin(chosen, np.arange(there)).all():
        raise InputError(f"expected channels from 0 to {there - 1}; got {channels!r}")
    return np.unique(chosen)


def _donors(sources: ArrayLike | None, pixels: Images, size: tuple[int, int]) -> Images:
    donors = pixels if sources is None else checked(sources, within=None)
    if sources is None and len(pixels) == 1:
        raise InputError("a single image has no other to take a patch from: give sources")
    fits = donors.shape[1] == pixels.shape[1] and all(
        part <= whole for part, whole in zip(size, donors.shape[2:], strict=True)
    )
    if not fits or (len(pixels) and not len(donors)):
        raise InputError(f"expected sources with {pixels.shape[1]} channels and room for {size}; got {donors.shape}")
    return donors


def _corner(whole: tuple[int, ...], size: tuple[int, int], draws: Draws) -> tuple[int, int]:
    top, left = (int(draws.integers(0, length - part + 1)) for length, part in zip(whole, size, strict=True))
    return top, left


def _filled(
    kind: MaskKind, shape: tuple[int, int, int], distribution: tuple[float, float], value: float, draws: Draws
) -> NDArray[Any]:
    if kind == "normal":
        return draws.normal(*distribution, size=shape)
    if kind == "uniform":
        return draws.uniform(*distribution, size=shape)
    return np.full(shape, value if kind == "constant" else 0.0)


def _patch(donors: Images, own: int | None, size: tuple[int, int], draws: Draws) -> Images:
    """Cut a patch (C, *size) out of a donor, which is another image than the one it is for."""
    donor = int(draws.integers(0, len(donors) - (own is not None)))
    donor += own is not None and donor >= own
    top, left = _corner(donors.shape[2:], size, draws)
    return donors[donor, :, top : top + size[0], left : left + size[1]]

"""Images that are simpler or more complex than normal ones, in many kinds and degrees; none is a picture of its own."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recondite.perturbations.base import Draws, Images, checked, clipped, grid
from recondite.perturbations.corruptions import blurred
from recondite.perturbations.outliers import MIXED, alter, mixed

_ENLARGED, _BLURRED, _CONTRASTS = (1.5, 2, 4), (64, 32), (0.5, 1.6)
_SLOPES, _NOISE, _LEAVES = (1, 1.5, 2, 3), (0.02, 0.05), {"leaves": (0.05, 0.6), "large-leaves": (0.3, 0.8)}
_DEFECTS = ("scratches", "blobs", "cut-paste", "noise-masks")
_DISCS = 60


def simple_and_complex(images: ArrayLike, seed: int = 0) -> Iterator[tuple[str, Images]]:
    """Yield the name of a kind, and as many images of it as there are normal ones, float32 (N, C, H, W) in [0, 1].

    Of normal images: parts of them enlarged 1.5, 2 and 4 times; blurred by a 64th and a 32nd of the side; half and 1.6
    times the contrast; noise of .02 and .05; sharpened; four in one; and those of `alter` and `mixed` that mix images
    or have a defect. From nothing: random fields whose amplitude falls with the frequency to the power of 1, 1.5, 2
    or 3, and discs that lie on each other.

    Args:
        images: normal ones, floating-point (N, C, H, W) in [0, 1], N >= 2 and sides of at least 8 pixels.
        seed: of every random draw.

    Raises:
        InputError: not such images.

    Source: Lee, Mumford and Huang 2001, doi 10.1023/A:1011109015675, for the discs ("dead leaves").
    """
    normal = checked(images)
    draws = np.random.default_rng(seed)
    stored = (normal * 255).round().astype(np.uint8)
    shape, side = normal.shape, min(normal.shape[2:])
    for times in _ENLARGED:
        yield f"enlarged-{times:g}", _enlarged(normal, times, draws)
    for part in _BLURRED:
        yield f"blurred-{part}", blurred(normal, side / part)
    middle = normal.mean(axis=(1, 2, 3), keepdims=True)
    for times in _CONTRASTS:
        yield f"contrast-{times:g}", clipped(middle + times * (normal - middle))
    for slope in _SLOPES:
        yield f"fields-{slope:g}", _fields(shape, slope, draws)
    for name, radii in _LEAVES.items():
        yield name, _leaves(shape, radii, draws)
    for size in _NOISE:
        yield f"noise-{size:g}", clipped(normal + draws.normal(0, size, shape))
    yield "sharpened", clipped(2 * normal - blurred(normal, side / 32))
    yield "four", _four(normal, draws)
    for name in MIXED:
        yield name, _floats(mixed(name, stored, seed))
    for name in _DEFECTS:
        yield name, _floats(alter(name, stored, seed))


def _enlarged(images: Images, times: float, draws: Draws) -> Images:
    from scipy.ndimage import zoom

    height, width = images.shape[2:]
    rows, columns = round(height / times), round(width / times)
    made = np.empty_like(images)
    for index, image in enumerate(images):
        top, left = draws.integers(0, height - rows + 1), draws.integers(0, width - columns + 1)
        part = image[:, top : top + rows, left : left + columns]
        made[index] = zoom(part, (1, height / rows, width / columns), order=1, mode="nearest", grid_mode=True)
    return made


def _fields(shape: tuple[int, ...], slope: float, draws: Draws) -> Images:
    count, channels, height, width = shape
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequencies[0, 0] = np.inf
    real, imaginary = draws.normal(size=(2, count, channels, *frequencies.shape))
    fields = np.fft.irfft2((real + 1j * imaginary) * frequencies**-slope, s=(height, width))
    fields = fields / 4 + fields.mean(axis=1, keepdims=True) * np.sqrt(channels) * 3 / 4  # little colour, as in nature
    fields /= fields.std(axis=(1, 2, 3), keepdims=True)
    contrast = np.exp(draws.normal(np.log(0.2), 0.5, (count, 1, 1, 1)))
    return clipped(draws.uniform(0.2, 0.8, (count, 1, 1, 1)) + contrast * fields)


def _leaves(shape: tuple[int, ...], radii: tuple[float, float], draws: Draws) -> Images:
    count, channels, height, width = shape
    y, x = grid(height, width)
    colour = draws.random((count, channels, 1, 1))
    made = np.broadcast_to(colour, shape).astype(np.float32)
    for _ in range(_DISCS):
        radius = min(height, width) * radii[0] * (radii[1] / radii[0]) ** draws.random((count, 1, 1))
        down, right = draws.uniform(0, height, (count, 1, 1)), draws.uniform(0, width, (count, 1, 1))
        inside = np.clip(radius - np.hypot(y - down, x - right) + 0.5, 0, 1)[:, None]  # with an edge of one pixel
        disc = clipped(colour + draws.normal(0, 0.25, colour.shape))
        made += inside * (disc - made)
    return made


def _four(images: Images, draws: Draws) -> Images:
    """Return images each made of four, shrunk to a quarter; of an odd side, the last line is one of the image."""
    height, width = images.shape[2] // 2, images.shape[3] // 2
    small = images[:, :, : 2 * height, : 2 * width].reshape(*images.shape[:2], height, 2, width, 2).mean(axis=(3, 5))
    made = images.copy()
    for rows in (slice(height), slice(height, 2 * height)):
        for columns in (slice(width), slice(width, 2 * width)):
            made[:, :, rows, columns] = small[draws.permutation(len(small))]
    return made


def _floats(images: NDArray[np.uint8]) -> Images:
    return (images / np.float32(255)).astype(np.float32)

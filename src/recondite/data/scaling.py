"""The arithmetic of pixels: from stored values to float32 in [0, 1], to another size, to another number of channels."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recondite.data.regions import Mask, touched
from recondite.errors import InputError

Floats = NDArray[np.float32]
MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are decoded (decompression bombs)."""
HUGE = 1 << 25
"""Pixels; larger images are averaged over blocks before they are resized, see `block_size`."""
_ROOM = 8
_STRIP_VALUES = 1 << 20
_FEWEST_WHITE = 255
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class Reduced:
    """How the planes of a huge image are smaller than the image.

    Args:
        size: (height, width) of the image, in pixels.
        box: (left, top, right, bottom) that the image covers, in pixels of the planes.
        extremes: the least and the largest value before.
        shape: (height, width) of the planes.
    """

    size: tuple[int, int]
    box: tuple[float, float, float, float]
    extremes: tuple[float, float]
    shape: tuple[int, int]

    @property
    def covered(self) -> tuple[Floats, Floats]:
        """How much of each row and of each column of the planes the image covers: 1, and less at its edges."""
        left, top, right, bottom = self.box
        down, across = (
            (np.minimum(np.arange(1, 1 + count), end) - np.maximum(np.arange(count), start)).astype(np.float32)
            for count, start, end in ((self.shape[0], top, bottom), (self.shape[1], left, right))
        )
        return down, across


@dataclass(frozen=True)
class Pixels:
    """One image as stored, integer or float.

    Args:
        planes: (C, H, W); means of blocks for a huge image.
        alpha: (H, W), how opaque it is, or None; an array's fourth channel is left among its planes.
        white: the value that is white by the type or the file; None where none is.
        reduced: for a huge image, what it was.
        declared: what is white by the tags of the file, where that is less than the type can hold.
    """

    planes: NDArray[Any]
    alpha: NDArray[Any] | None
    white: float | None
    reduced: Reduced | None = None
    declared: float | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.reduced.size if self.reduced is not None else (self.planes.shape[1], self.planes.shape[2])

    @property
    def extremes(self) -> tuple[float, float]:
        """The least and the largest value of any channel; NaN where one is."""
        return self.reduced.extremes if self.reduced is not None else (self.planes.min(), self.planes.max())

    def parted(self) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Return the planes of the colours, and how opaque the image is, also where that is an array's fourth one."""
        if self.alpha is None and len(self.planes) == 4:
            return self.planes[:3], self.planes[3]
        return self.planes, self.alpha

    @property
    def kind(self) -> str:
        """The type in words."""
        return str(self.planes.dtype)


@cache
def white_of(kind: np.dtype[Any]) -> float | None:
    """Return what is white in arrays of a type: 255 for uint8, 65,535 for uint16, 1 for floats; None for others."""
    if kind.kind == "u" and kind.itemsize <= 2:
        return float(np.iinfo(kind).max)
    return 1.0 if kind.kind in "fb" else None


def checked_range(given: Sequence[float]) -> tuple[float, float]:
    """Return a range of stored values as two floats.

    Raises:
        InputError: it is not two finite numbers, the first less than the second.
    """
    try:
        low, high = (float(value) for value in given)
    except (TypeError, ValueError):
        low = high = float("nan")
    if not (np.isfinite([low, high]).all() and low < high):
        raise InputError(
            f"expected a range of values such as (0, 4095), what is black and what is white; got {given!r}"
        )
    return low, high


def check_values(pixels: Pixels, value_range: tuple[float, float] | None) -> None:
    """Check that an image has the values that are expected of it.

    Args:
        pixels: of the image.
        value_range: what is black and what is white; None for what the type says.

    Raises:
        InputError: it has others, or NaN, or a type that cannot hold them or says nothing.
    """
    kind = pixels.planes.dtype.kind
    if kind not in "fbiu" or (pixels.white is None and value_range is None):
        raise InputError(
            f"expected uint8, uint16, bool or float pixels; got {pixels.kind}{_way_out(pixels.planes)}"
            + ("; value_range= says what is black and white" if kind in "iu" else "")
        )
    if value_range is None and pixels.planes.dtype in (np.bool_, np.uint8):
        return
    least, most = pixels.extremes
    if value_range is not None:
        _check_range(pixels, value_range, float(least), float(most))
    elif kind == "f" and pixels.white == 1:
        if not np.isfinite([least, most]).all():
            raise InputError("expected float pixels in [0, 1]; got NaN or infinite values")
        if least < 0 or most > 1:
            values = f"values from {least:g} to {most:g}"
            raise InputError(f"expected float pixels in [0, 1]; got {values}{_way_out(pixels.planes)}")
    elif least < 0 or most > float(pixels.white or 0):
        raise InputError(
            f"expected values from 0 to {pixels.white:g}; got values from {least} to {most}: value_range= says what is "
            "black and white"
        )


def _way_out(planes: NDArray[Any]) -> str:
    """Say how values that look like those of a known type become what is expected; "" where they do not."""
    if planes.dtype.kind not in "iuf" or not planes.size or planes.min() < 0 or planes.max() <= 1:
        return ""
    most, name = (255, "uint8") if planes.max() <= 255 else (65535, "uint16")
    if planes.max() > most:
        return ""
    divided = f", or divide them by {most}" if planes.dtype.kind == "f" else f", or give values / {most}"
    return f". If their range is 0 to {most}, give images.astype({name!r}){divided}"


def _check_range(pixels: Pixels, value_range: tuple[float, float], least: float, most: float) -> None:
    low, high = value_range
    expected = f"expected values from {low:g} to {high:g}, which this screen's images have"
    if pixels.white is not None and 1 < pixels.white < high:
        raise InputError(f"{expected}; got an image whose white is {pixels.white:g}")
    if not (np.isfinite([least, most]).all() and low <= least and most <= high):
        raise InputError(f"{expected}; got values from {least:g} to {most:g}")
    if pixels.white == 1 and high >= _FEWEST_WHITE and most <= 1:
        raise InputError(f"{expected}; got values of at most {most:g}, as if they were scaled already")


def scaled_planes(pixels: Pixels, channels: int, value_range: tuple[float, float] | None = None) -> Iterator[Floats]:
    """Yield each channel (H, W) of an image as float32 in [0, 1], laid on white where it is transparent.

    Args:
        pixels: of the image.
        channels: that a detector sees; with 4 of them how opaque it is counts as the last.
        value_range: what is black and what is white; None for what the type says.

    Raises:
        InputError: as `check_values`.
    """
    check_values(pixels, value_range)
    planes, alpha = pixels.planes, pixels.alpha
    if channels == 4 and alpha is not None:
        yield from (_scaled(plane, pixels.white, value_range) for plane in planes)
        yield _scaled(alpha, pixels.white, None)
        return
    if channels != 4:
        planes, alpha = pixels.parted()
    if alpha is None:
        yield from (_scaled(plane, pixels.white, value_range) for plane in planes)
        return
    opaque = _scaled(alpha, pixels.white, None)
    yield from (_scaled(plane, pixels.white, value_range) * opaque + (1 - opaque) for plane in planes)


def all_scaled(pixels: Pixels, channels: int, value_range: tuple[float, float] | None = None) -> Floats:
    """Return what `scaled_planes` yields, (C, H, W), contiguous."""
    planes = pixels.planes
    if pixels.alpha is not None or (channels != 4 and len(planes) == 4):
        return np.stack(list(scaled_planes(pixels, channels, value_range)))
    check_values(pixels, value_range)
    return np.ascontiguousarray(_scaled(planes, pixels.white, value_range))


def scale(values: NDArray[Any], value_range: tuple[float, float] | None = None) -> Floats:
    """Return an array's values as float32 in [0, 1].

    Raises:
        InputError: as `check_values`.
    """
    white = white_of(values.dtype)
    check_values(Pixels(values, None, white), value_range)
    return _scaled(values, white, value_range)


def _scaled(values: NDArray[Any], white: float | None, value_range: tuple[float, float] | None) -> Floats:
    if value_range is not None:
        low, high = value_range
        return ((values.astype(np.float64) - low) / (high - low)).astype(np.float32)
    assert white is not None
    found: Floats = values.astype(np.float32)
    return found if white == 1 else np.divide(found, np.float32(white), out=found)


def resized(
    planes: Iterator[Floats], height: int, width: int, inside: Mask | None, reduced: Reduced | None = None
) -> Floats:
    """Return planes (C, height, width) made of others; with a mask, each pixel inside is a mean of what lies inside.

    Args:
        planes: each (H, W), and not kept: those of a huge image are changed.
        height, width: wanted, also those of the mask.
        inside: where images count; None for everywhere.
        reduced: for planes of a huge image, which counts everywhere.
    """
    if reduced is not None:
        return np.stack([_resized_box(plane, height, width, reduced) for plane in planes])
    if inside is None:
        return np.stack([_resize(plane, height, width) for plane in planes])
    first = next(planes)
    counted = touched(inside, *first.shape).astype(np.float32)
    weights = np.where(inside, _resize(counted, height, width), np.float32(1))
    return np.stack([_resize(plane * counted, height, width) / weights for plane in chain([first], planes)])


def _resized_box(plane: Floats, height: int, width: int, reduced: Reduced) -> Floats:
    down, across = reduced.covered
    left, top, right, bottom = reduced.box
    for row in np.flatnonzero(down != 1):
        plane[row] *= down[row]
    for column in np.flatnonzero(across != 1):
        plane[:, column] *= across[column]
    tall = _resize(down[:, None], height, 1, (0, top, 1, bottom))
    wide = _resize(across[None], 1, width, (left, 0, right, 1))
    return _resize(plane, height, width, reduced.box) / (tall * wide)


def _resize(plane: Floats, height: int, width: int, box: tuple[float, float, float, float] | None = None) -> Floats:
    """Resize across and then down, as Pillow does itself, but strip by strip: Pillow copies what it is given."""
    left, top, right, bottom = box or (0, 0, plane.shape[1], plane.shape[0])
    rows = max(1, _STRIP_VALUES // plane.shape[1])
    if rows >= len(plane):
        return _by_pillow(plane, height, width, (left, top, right, bottom))
    strips = (plane[start : start + rows] for start in range(0, len(plane), rows))
    narrow = np.concatenate([_by_pillow(strip, len(strip), width, (left, 0, right, len(strip))) for strip in strips])
    return _by_pillow(narrow, height, width, (0, top, width, bottom))


def _by_pillow(plane: Floats, height: int, width: int, box: tuple[float, float, float, float]) -> Floats:
    picture = Image.fromarray(np.ascontiguousarray(plane))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box))


def match_channels(planes: Floats, channels: int) -> Floats:
    """Return a grey image with three equal channels, or the brightness of a colour image.

    Raises:
        InputError: it has another number of channels.
    """
    if len(planes) == 1 and channels == 3:
        return np.repeat(planes, 3, axis=0)
    if len(planes) == 3 and channels == 1:
        return np.tensordot(_LUMA, planes, axes=1)[None]
    raise InputError(f"expected an image with {channels} channels; got {len(planes)}")


def block_size(height: int, width: int, target: tuple[int, int] | None) -> tuple[int, int]:
    """Return the (height, width) of the blocks that a huge image is averaged over before it is resized to a target.

    What is left has at least eight times the target's sides, so that the result is that of resizing the whole image to
    within a few thousandths of the range.
    """
    if target is None or height * width <= HUGE:
        return 1, 1
    tall, wide = blocks_wanted(target)
    return max(1, height // tall), max(1, width // wide)


def blocks_wanted(target: tuple[int, int]) -> tuple[int, int]:
    """Return how many blocks (down, across) there must be at least of a huge image that is resized to a target."""
    return _ROOM * target[0], _ROOM * target[1]


def block_means(
    rows: Callable[[int, int], NDArray[Any]], height: int, width: int, block: tuple[int, int]
) -> tuple[NDArray[Any], tuple[float, float]]:
    """Return the means over blocks of an image, read strip by strip, and its extremes.

    Args:
        rows: from two numbers of rows to those between them, (n, W) or (n, W, C).
        height, width: of the image; blocks at its end may be smaller.
        block: (height, width) of the blocks.

    Returns:
        (C, ceil(H / block height), ceil(W / block width)), float32; as stored for blocks of one pixel.
    """
    tall, wide = block
    step = tall * max(1, _STRIP_VALUES // (tall * width))
    planes, least, most = None, [], []
    for top in range(0, height, step):
        strip = rows(top, min(top + step, height))
        strip = strip[None] if strip.ndim == 2 else strip.transpose(2, 0, 1)
        means = strip if block == (1, 1) else _means(strip, tall, wide)
        if planes is None:
            planes = np.empty((len(means), -(-height // tall), means.shape[2]), means.dtype)
        planes[:, top // tall : top // tall + means.shape[1]] = means
        least.append(strip.min())
        most.append(strip.max())
    assert planes is not None
    return planes, (np.min(least), np.max(most))


def _means(strip: NDArray[Any], tall: int, wide: int) -> Floats:
    exact = np.uint32 if strip.dtype == np.uint8 else np.float64
    down, across = (np.arange(0, side, block) for side, block in zip(strip.shape[1:], (tall, wide), strict=True))
    sums = np.stack([strip[:, start : start + tall].sum(axis=1, dtype=exact) for start in down], axis=1)
    heights, widths = (np.diff(np.append(at, side)) for at, side in zip((down, across), strip.shape[1:], strict=True))
    means: Floats = (np.add.reduceat(sums, across, axis=2) / (heights[:, None] * widths)).astype(np.float32)
    return means


def averaged(
    rows: Callable[[int, int], NDArray[Any]], size: tuple[int, int], block: tuple[int, int], white: float | None
) -> Pixels:
    """Return the pixels of a huge image as means of blocks; see `block_means`.

    Args:
        rows, block: as there.
        size: (height, width) of the image.
        white: the value that is white.
    """
    planes, extremes = block_means(rows, *size, block)
    box = (0.0, 0.0, size[1] / block[1], size[0] / block[0])
    return Pixels(planes, None, white, Reduced(size, box, extremes, (planes.shape[1], planes.shape[2])))

"""Pictures by Pillow: upright, in a mode whose values are numbers, and huge ones without all of them in memory."""

from collections.abc import Collection
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recondite.data.png import check_end
from recondite.data.scaling import MAX_PIXELS, Pixels, Reduced, block_means, block_size, blocks_wanted, white_of
from recondite.data.upright import orientation_of, upright
from recondite.errors import InputError

_TRANSPARENT = ("PA", "LA", "La", "RGBA", "RGBa")
_WHITE_OF_32_BITS = 65535.0
_COLOUR_MAP = 320


def open_picture(
    stream: BinaryIO, formats: Collection[str], frame: int, target: tuple[int, int] | None, white: float | None = None
) -> Pixels:
    """Return the pixels of a frame of a file.

    Args:
        stream: of the file.
        formats: of Pillow that are tried.
        frame: its number.
        target: (height, width) that it will be resized to, if a huge one may be reduced already; None for as it is.
        white: what is white where the file says so.

    Raises:
        InputError: it has too many pixels, or too few are in the file.
        Exception: whatever Pillow raises for damaged files.
    """
    with Image.open(stream, formats=list(formats)) as picture:
        if frame:
            picture.seek(frame)
        pixels = pixels_of(picture, target, white, is_own=True)
        if picture.format == "PNG":
            check_end(stream, pixels)
        return pixels


def pixels_of(
    picture: Image.Image, target: tuple[int, int] | None, white: float | None = None, *, is_own: bool = False
) -> Pixels:
    """Return the pixels of a picture.

    Args:
        picture: of any mode.
        target, white: as in `open_picture`.
        is_own: whether it may be changed; then a JPEG file is decoded at a smaller size where that suffices.

    Raises:
        InputError: it has too many pixels.
        Exception: whatever Pillow raises for damaged files.
    """
    picture = _in_its_colours(picture)
    if picture.width * picture.height > MAX_PIXELS:
        raise InputError(f"the picture has {picture.width} x {picture.height} pixels; the limit is {MAX_PIXELS:,}")
    orientation = orientation_of(picture)
    turned = orientation in (5, 6, 7, 8)
    size = (picture.width, picture.height) if turned else (picture.height, picture.width)
    transparent = picture.mode in _TRANSPARENT or "transparency" in picture.info
    huge = block_size(*size, target) != (1, 1) and not transparent
    clear = picture.info.get("transparency")
    if not huge:
        pixels = values_of(upright(picture), clear)
        white = white or white_of_values(pixels)
        planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return Pixels(planes[:-1], planes[-1], white) if len(planes) in (2, 4) else Pixels(planes, None, white)
    assert target is not None
    box = (0.0, 0.0, float(picture.width), float(picture.height))
    if is_own and picture.format == "JPEG":
        height, width = blocks_wanted(target)
        drafted = picture.draft("", (height, width) if turned else (width, height))
        box = box if drafted is None else drafted[1]
    box = _upright(box, picture.size, orientation)
    picture = upright(picture)
    tall, wide = (
        max(1, side // wanted) for side, wanted in zip(picture.size[::-1], blocks_wanted(target), strict=True)
    )
    white = white or white_of_values(values_of(picture.crop((0, 0, picture.width, 1))))

    def rows(top: int, bottom: int) -> NDArray[Any]:
        return values_of(picture.crop((0, top, picture.width, bottom)))

    planes, extremes = block_means(rows, picture.height, picture.width, (tall, wide))
    left, top, right, bottom = box
    box = (left / wide, top / tall, right / wide, bottom / tall)
    return Pixels(planes, None, white, Reduced(size, box, extremes, (planes.shape[1], planes.shape[2])))


def values_of(picture: Image.Image, clear: object = None) -> NDArray[Any]:
    """Return the values of a picture as stored, (H, W) or (H, W, C); the last of two or four says how opaque it is.

    Args:
        picture: of any mode.
        clear: the value that is transparent, where there is one.
    """
    mode = picture.mode
    if mode == "1":
        picture = picture.convert("L" if clear is None else "LA")
    elif mode == "La":
        picture = picture.convert("LA")
    elif mode in ("P", "PA", "RGBa") or (mode in ("L", "RGB") and clear is not None):
        opaque = mode == "P" and clear is None
        picture = picture.convert("RGB" if opaque else "RGBA")
    elif mode not in ("L", "LA", "RGB", "RGBA", "I", "F") and not mode.startswith("I;16"):
        picture = picture.convert("RGB")
    pixels = np.asarray(picture)
    if mode == "I" and pixels.size and pixels.min() >= 0 and pixels.max() <= _WHITE_OF_32_BITS:
        pixels = pixels.astype(np.uint16)  # some 16-bit files open as 32-bit integers
    if pixels.dtype.itemsize == 2 and clear is not None:
        return np.dstack([pixels, np.where(pixels == clear, 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)])
    return pixels


def white_of_values(pixels: NDArray[Any]) -> float | None:
    """Return what is white in values that Pillow decoded."""
    return _WHITE_OF_32_BITS if pixels.dtype == np.int32 else white_of(pixels.dtype)


def _in_its_colours(picture: Image.Image) -> Image.Image:
    """Return a picture in its colours, also where its TIFF colour map ends at 255, which Pillow takes for black."""
    colours = getattr(picture, "tag_v2", {}).get(_COLOUR_MAP, ())
    if picture.mode != "P" or not 0 < max(colours, default=0) <= 255:
        return picture
    picture = picture.copy()
    picture.putpalette(np.reshape(colours, (3, -1)).T.astype(np.uint8).tobytes())
    return picture


def _upright(
    box: tuple[float, float, float, float], size: tuple[int, int], orientation: int
) -> tuple[float, float, float, float]:
    """Return where a box (left, top, right, bottom) of a picture (width, height) lies when it is turned upright."""
    corners = []
    for x, y in (box[:2], box[2:]):
        across = size[0] - x if orientation in (2, 3, 7, 8) else x
        down = size[1] - y if orientation in (3, 4, 6, 7) else y
        corners.append((down, across) if orientation in (5, 6, 7, 8) else (across, down))
    (left, top), (right, bottom) = np.min(corners, axis=0), np.max(corners, axis=0)
    return float(left), float(top), float(right), float(bottom)

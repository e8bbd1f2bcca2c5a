"""What a picture's metadata say of its pixels, however damaged they are: which way is up, and what is transparent."""

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray
from PIL import Image

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda rows: rows[:, ::-1],
    3: lambda rows: rows[::-1, ::-1],
    4: lambda rows: rows[::-1],
    5: lambda rows: rows.swapaxes(0, 1),
    6: lambda rows: rows[::-1].swapaxes(0, 1),
    7: lambda rows: rows[::-1, ::-1].swapaxes(0, 1),
    8: lambda rows: rows[:, ::-1].swapaxes(0, 1),
}
"""Orientation -> what turns rows (H, W, ...) upright."""


def orientation_of(picture: Image.Image) -> int:
    """Return how a picture is turned, 1 to 8 as EXIF counts; 1, upright, where damaged EXIF data do not say.

    The pixels of such a picture are sound, and viewers show it.
    """
    try:
        orientation = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow meets damaged EXIF data with nearly any exception
        return 1
    return orientation if orientation in _TURNS else 1


def upright(picture: Image.Image) -> Image.Image:
    """Return a picture turned upright; its file is read first, since Pillow turns TIFF files itself as it reads them.

    `PIL.ImageOps.exif_transpose` also writes the EXIF data anew, and fails where they cannot be written.
    """
    picture.load()
    orientation = orientation_of(picture)
    return picture if orientation == 1 else picture.transpose(_TURNS[orientation])

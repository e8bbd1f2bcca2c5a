"""Tensors of pixels as clients send them: of the declared shape or a plain variant of it, and of any type of number."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.images import Preprocessing
from recondite.errors import InputError

_BYTE, _WORD = 255, 65_535


def rows_of_pixels(values: NDArray[Any], preprocessing: Preprocessing) -> list[NDArray[Any]]:
    """Return the images, or vectors, of a tensor.

    Args:
        values: numbers (N, *shape); for images also (N, H, W, C) and, for grey ones, (N, H, W).
        preprocessing: says the shape (C, H, W) or (D,) and what is black and white.

    Raises:
        InputError: another shape, no values, or whole numbers of a type that does not say what is white and that are no
            bytes.
    """
    shape = preprocessing.shape
    fits = {shape}
    if preprocessing.is_image:
        channels, height, width = shape
        fits |= {(height, width, channels), *([(height, width)] if channels == 1 else [])}
    if values.dtype.kind not in "fiu" or values.shape[1:] not in fits or values.ndim < 2:
        declared = ", ".join(map(str, shape))
        raise InputError(f"expected pixels as numbers (N, {declared}); got {values.dtype} {values.shape}")
    if not values.size:
        raise InputError(f"expected at least one value; got shape {values.shape}")
    if not preprocessing.is_image:
        return list(values)
    return list(_as_stored(values, preprocessing.value_range is not None))


def _as_stored(values: NDArray[Any], has_range: bool) -> NDArray[Any]:
    """Return numbers in a type that says what is white: wide whole numbers are bytes, FP16 becomes FP32, exactly."""
    if values.dtype.kind == "f":
        return values.astype(np.float32) if values.dtype.itemsize == 2 else values
    if values.dtype in (np.uint8, np.uint16) or has_range:
        return values
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > _BYTE:
        hint = ": send 16-bit images as UINT16" if least >= 0 and most <= _WORD else ""
        raise InputError(f"expected whole numbers of this type from 0 to {_BYTE}; got {least} to {most}{hint}")
    return values.astype(np.uint8)

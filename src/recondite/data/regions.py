"""The geometry of regions: masks bool (h, w), True where an image counts, on other grids; polygons as masks."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
MID_GREY = np.float32(128) / np.float32(255)
"""What lies outside of a region is painted with; an 8-bit image stays one."""
_BESIDE = np.nextafter(MID_GREY, np.float32(1))


def half_inside(mask: Mask, height: int, width: int) -> Mask:
    """Return a mask on a grid of (height, width): a cell counts when at least half of its area does.

    >>> half_inside(np.array([[True, True, True, False]]), 1, 2)
    array([[ True,  True]])
    """
    areas = mask.astype(np.int64)  # in units that are whole numbers, so that exactly half is half
    for axis, cells in enumerate((height, width)):
        side = mask.shape[axis]
        whole, part = np.divmod(np.arange(cells + 1) * side, cells)
        before = np.concatenate([np.zeros_like(areas.take([0], axis)), areas.cumsum(axis)], axis) * cells
        begun = areas.take(np.minimum(whole, side - 1), axis) * np.expand_dims(part, 1 - axis)
        areas = np.diff(before.take(whole, axis) + begun, axis=axis)
    inside: Mask = 2 * areas >= mask.size
    return inside


def touched(mask: Mask, height: int, width: int) -> Mask:
    """Return a mask on a grid of (height, width): a cell counts when any of its area does.

    >>> touched(np.array([[True, False, False, False, False]]), 1, 2)
    array([[ True, False]])
    """
    for axis, cells in enumerate((height, width)):
        side = mask.shape[axis]
        if side == cells:
            continue
        edges = np.arange(cells + 1) * side
        before = np.concatenate([np.zeros_like(mask.take([0], axis), np.intp), mask.cumsum(axis)], axis)
        mask = before.take(-(-edges[1:] // cells), axis) > before.take(edges[:-1] // cells, axis)
    return mask


def polygon_mask(points: Sequence[tuple[float, float]], height: int, width: int) -> Mask:
    """Return a polygon as a mask: a pixel is inside when its centre is (even-odd rule).

    Args:
        points: its corners (x, y); the centre of the first pixel is (.5, .5).
        height, width: of the mask.
    """
    inside = np.zeros((height, width), dtype=bool)
    columns = np.arange(width) + 0.5
    for (x, y), (next_x, next_y) in zip(points, [*points[1:], points[0]], strict=True):
        low, high = min(y, next_y), max(y, next_y)
        rows = np.arange(int(np.ceil(low - 0.5)), int(np.ceil(high - 0.5)))  # whose centres are in [low, high)
        if len(rows):
            crossing = x + (rows + 0.5 - y) * (next_x - x) / (next_y - y)
            inside[rows] ^= columns >= crossing[:, None]
    return inside


def painted(planes: NDArray[np.float32], inside: Mask, told_apart: bool = False) -> NDArray[np.float32]:
    """Return planes (..., C, H, W) with mid-grey outside.

    Args:
        planes: float32 in [0, 1].
        inside: (H, W).
        told_apart: let no pixel inside be mid-grey in all channels, so that `found_inside` finds the mask again; such
            pixels change by 6e-8.
    """
    result = np.where(inside, planes, MID_GREY)
    if told_apart:
        alike = (result == MID_GREY).all(axis=-3, keepdims=True) & inside
        result = np.where(alike, _BESIDE, result)
    return result


def found_inside(planes: NDArray[np.float32]) -> Mask:
    """Return the mask (..., H, W) that planes (..., C, H, W) were painted by, told apart."""
    found: Mask = (planes != MID_GREY).any(axis=-3)
    return found


def border(inside: Mask, width: int = 1) -> Mask:
    """Return the pixels inside that have a neighbour outside, above, below or beside them; edges of the image do not.

    Args:
        inside: (H, W).
        width: of the border in pixels; a wider one lies on both sides.

    >>> border(np.array([[True, True, False]]))
    array([[False,  True, False]])
    """
    from scipy.ndimage import maximum_filter

    around = np.pad(inside, 1, mode="edge")
    enclosed = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    found: Mask = maximum_filter(inside & ~enclosed, size=width)
    return found


def edges(inside: Mask) -> NDArray[np.intp]:
    """Return the straight lines between pixels inside and outside, (L, 2, 2): two ends (x, y); edges of the image none.

    >>> edges(np.array([[True, True, False]])).tolist()
    [[[2, 0], [2, 1]]]
    """
    down, across = _runs(inside[:, 1:] != inside[:, :-1]), _runs((inside[1:] != inside[:-1]).T)
    return np.concatenate([down, across[..., ::-1]])


def _runs(beside: Mask) -> NDArray[np.intp]:
    """Return where cells (rows, columns) are marked one below another: (L, 2, 2), two ends (column + 1, row)."""
    steps = np.diff(np.pad(beside, ((1, 1), (0, 0))).astype(np.int8), axis=0).T
    ends: NDArray[np.intp] = np.stack([np.argwhere(steps == 1), np.argwhere(steps == -1)], axis=1) + np.array([1, 0])
    return ends

"""Large images cut into overlapping tiles, and the features of the tiles joined to maps without seams."""

from collections.abc import Sequence
from math import ceil, lcm

import torch
import torch.nn.functional as F
from torch import Tensor

from recondite.errors import InputError

_OVERLAP = 4


class Tiles:
    """Tiles of one size over images of one size, each a quarter over its neighbours, the last ones over repeated edges.

    Args:
        size: (height, width) of the images, in pixels.
        tile: the side of a tile, in pixels; a shorter side of the images is its side there.
        maps: the (height, width) of the features of one tile, of each layer.

    Raises:
        InputError: a tile's features do not divide its side, or are so few that tiles could not overlap.
    """

    def __init__(self, size: tuple[int, int], tile: int, maps: Sequence[tuple[int, int]]) -> None:
        self.size, self.tile = size, tile_size(size, tile)
        along = [
            _starts(side, part, [cells[axis] for cells in maps])
            for axis, (side, part) in enumerate(zip(size, self.tile, strict=True))
        ]
        self._rows, self._columns = along

    def __len__(self) -> int:
        return len(self._rows) * len(self._columns)

    def cut(self, x: Tensor) -> Tensor:
        """Return the tiles (N T, C, h, w) of images (N, C, H, W), those of an image behind one another."""
        height, width = (starts[-1] + part for starts, part in zip((self._rows, self._columns), self.tile, strict=True))
        x = F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]), mode="replicate")
        tall, wide = self.tile
        tiles = [x[:, :, top : top + tall, left : left + wide] for top in self._rows for left in self._columns]
        return torch.stack(tiles, dim=1).flatten(0, 1)

    def joined(self, features: Tensor) -> Tensor:
        """Return the features of images, from those of their tiles, (N T, F, h, w) or (N T, F).

        Where tiles overlap, each counts the more the farther its own edge is; features without places are averaged.
        """
        (height, width), (tall, wide) = self.size, self.tile
        # (N, rows, columns, F, ...), every tile laid where it belongs along one axis and then the other.
        grid = features.reshape(-1, len(self._rows), len(self._columns), *features.shape[1:])
        if features.ndim == 2:
            return grid.mean((1, 2))
        rows, weights_down = _weights(self._rows, tall, features.shape[2], height, features)
        columns, weights_across = _weights(self._columns, wide, features.shape[3], width, features)
        bands = [
            F.pad(grid[:, :, number] * weight, (start, columns - start - features.shape[3]))
            for number, (start, weight) in enumerate(weights_across)
        ]
        lines = torch.stack(bands).sum(0)
        strips = [
            F.pad(lines[:, number] * weight[:, None], (0, 0, start, rows - start - features.shape[2]))
            for number, (start, weight) in enumerate(weights_down)
        ]
        whole = torch.stack(strips).sum(0)
        return whole[:, :, : _cells(height, tall, features.shape[2]), : _cells(width, wide, features.shape[3])]


def tile_size(size: tuple[int, int], tile: int) -> tuple[int, int]:
    """Return the (height, width) of tiles of images of some (height, width)."""
    return min(tile, size[0]), min(tile, size[1])


def _starts(side: int, tile: int, cells: Sequence[int]) -> list[int]:
    """Return where tiles begin along an axis, evenly, at multiples of every layer's cell."""
    if tile >= side:
        return [0]
    step = lcm(*(tile // count for count in cells))
    if any(tile % count for count in cells) or step > tile - tile // _OVERLAP:
        raise InputError(
            f"expected a tile whose features fit to those of the tiles beside it; got one of {tile} pixels a side, "
            f"with {' and '.join(map(str, sorted({*cells})))} features along it"
        )
    count = ceil((side - tile) / (tile - tile // _OVERLAP)) + 1
    return [ceil(number * (side - tile) / (count - 1) / step) * step for number in range(count)]


def _cells(side: int, tile: int, cells: int) -> int:
    """Return how many cells an axis of the images has, if a tile has so many."""
    return cells if tile >= side else ceil(side * cells / tile)


def _weights(
    starts: Sequence[int], tile: int, cells: int, side: int, like: Tensor
) -> tuple[int, list[tuple[int, Tensor]]]:
    """Return the cells of an axis, and for each tile the cell it begins at and the share of each of its own there."""
    if tile >= side:
        return cells, [(0, torch.ones(cells, dtype=like.dtype, device=like.device))]
    firsts = [start * cells // tile for start in starts]
    # From 1 at a tile's edge up to the overlap's middle and beyond; a product of both ends.
    ramp = torch.arange(1, cells + 1, dtype=like.dtype, device=like.device)
    tent = torch.minimum(ramp, ramp.flip(0))
    total = torch.zeros(firsts[-1] + cells, dtype=like.dtype, device=like.device)
    for first in firsts:
        total = total + F.pad(tent, (first, len(total) - first - cells))
    return len(total), [(first, tent / total[first : first + cells]) for first in firsts]

"""What a frozen network saw in images: their vectors, kept on disk where several fits need them, and moments."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recondite.data.images import Floats
from recondite.data.spool import Rows
from recondite.detectors.inside import Inside
from recondite.errors import InputError

_SMALLEST_SPREAD, _TOGETHER = 1e-3, 16


class Seen(NamedTuple):
    """The vectors of N images (N, 1, F), of their places (N, P, G), and which of these count.

    Where images have turned copies, N counts those too: each image is followed by its own.
    """

    whole: Tensor
    places: Tensor
    cells: Inside | None


class Some:
    """What was seen in about `most` evenly spaced ones of `count` images, up to 16 together.

    Their vectors lie together in a place of their own: views would keep all others in memory, and a copy of each
    batch's would split the memory that the next batches use.

    Attributes:
        parts: what was seen in those of one batch or several.

    Args:
        count: how many images come, in all processes.
        most: how many are wanted.
        copies: how many rows each has, itself and turned ones.
    """

    def __init__(self, count: int, most: int, copies: int = 1) -> None:
        self.parts: list[Seen] = []
        self._copies = copies
        self._step = max(1, count // most)
        self._room = -(-count // self._step) * copies
        self._taken = 0
        self._whole = self._places = torch.empty(0)

    def add(self, taken: slice, seen: Seen) -> None:
        """Take in those of a slice of the images."""
        rows = slice(-taken.start % self._step, None, self._step)
        looks = len(seen.whole) // self._copies, self._copies
        parts = (part.reshape(*looks, *part.shape[1:])[rows].flatten(0, 1) for part in (seen.whole, seen.places))
        whole, places = parts
        if not self.parts:
            self._whole, self._places = (part.new_empty(self._room, *part.shape[1:]) for part in (whole, places))
        first, end = self._taken, self._taken + len(whole)
        self._whole[first:end], self._places[first:end] = whole, places
        self._taken = end
        cells = None if seen.cells is None else seen.cells.of(rows)
        if cells is None and self.parts and len(self.parts[-1].whole) + len(whole) <= _TOGETHER * self._copies:
            first -= len(self.parts.pop().whole)
        self.parts.append(Seen(self._whole[first:end], self._places[first:end], cells))


class Memory:
    """The vectors of images, in a temporary file; copies of a detector share it.

    Args:
        images: which.
        found: their vectors and those of their places, batch by batch, in order.
        copies: how many rows of these each image has, itself and turned ones.

    Raises:
        InputError: the disk is full.
    """

    def __init__(self, images: Rows, found: Iterator[tuple[Tensor, Tensor]], copies: int = 1) -> None:
        self._pixels: Floats | None = images.pixels
        self._number = np.full(len(images.pixels), -1, dtype=np.intp)
        self._number[images.index] = np.arange(len(images))
        shapes: Sequence[tuple[int, ...]] = ()
        with ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile(prefix="recondite-")) for _ in range(2)]
            for vectors in found:
                shapes = [(copies, *part.shape[1:]) for part in vectors]
                try:
                    for file, part in zip(files, vectors, strict=True):
                        file.write(np.ascontiguousarray(part.float().cpu().numpy()).data)
                except OSError as error:
                    folder = tempfile.gettempdir()
                    raise InputError(f"cannot keep features in {folder} (set TMPDIR): {error}") from error
            self._parts = [_mapped(file, (len(images), *shape)) for file, shape in zip(files, shapes, strict=True)]

    def __deepcopy__(self, memo: object) -> "Memory":
        return self

    def holds(self, images: Rows) -> bool:
        """Return whether all of these images are in it."""
        return images.pixels is self._pixels and bool((self._number[images.index] >= 0).all())

    def forget(self) -> None:
        """Let go of all of them, so that no copy of a detector keeps images, or takes them along to another process."""
        self._pixels, self._number, self._parts = None, self._number[:0], []

    def take(self, images: Rows, taken: slice | NDArray[np.intp], copies: int = 1) -> tuple[Tensor, Tensor]:
        """Return the vectors of some of these images (N copies, 1, F), and of their places (N copies, P, G)."""
        rows = self._number[images.index[taken]]
        whole, places = (torch.from_numpy(part[rows, :copies]).flatten(0, 1) for part in self._parts)
        return whole, places


def joined_moments(mean: Tensor, spread: Tensor, values: Tensor, known: float) -> tuple[Tensor, Tensor]:
    """Return the mean and the spread of values (n,) and of those that were known before, a share of all."""
    apart = mean - values.mean()
    variance = known * spread**2 + (1 - known) * (values.var(correction=0) + known * apart**2)
    return values.mean() + known * apart, variance.sqrt().clamp(min=_SMALLEST_SPREAD)


def _mapped(file: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    file.flush()
    if 0 in shape:
        return np.zeros(shape, dtype=np.float32)
    return np.memmap(file, dtype=np.float32, mode="r", shape=shape)

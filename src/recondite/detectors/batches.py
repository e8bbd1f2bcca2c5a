"""How many images are scored at once, and to how many fewer ones are padded, so that each gets the same bits."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALL_BATCHES = (2, 8, 32)
"""Batches smaller than a full one that are tried."""
_LARGEST, _LARGEST_ELSEWHERE, _SMALLEST = 64, 1024, 2
_VALUES = _LARGEST * 3 * 128 * 128
_VALUES_ELSEWHERE = 4 * _VALUES

Run = Callable[[NDArray[np.float32], int], Mapping[str, NDArray[Any]]]
"""Applies a function to rows, padded to a batch of the given size: name -> (n, ...)."""


def full_batch(values: int, device: str = "cpu") -> int:
    """Return how many images or vectors make a full scoring call, a power of two from 2 on.

    On a processor 64, but no more than 64 of 128 x 128 colour pixels take together; on an accelerator, which has many
    more lanes to fill, up to 1,024 and four times as many values.

    >>> [full_batch(3 * side * side) for side in (32, 128, 224, 512)]
    [64, 64, 16, 4]
    >>> [full_batch(3 * side * side, "cuda") for side in (32, 128, 224, 512)]
    [1024, 256, 64, 16]

    Args:
        values: of one image: C H W; or of one vector.
        device: the type of what computes, as torch names it.
    """
    largest, together = (_LARGEST, _VALUES) if device == "cpu" else (_LARGEST_ELSEWHERE, _VALUES_ELSEWHERE)
    fitting = max(_SMALLEST, min(largest, together // values))
    return 1 << (fitting.bit_length() - 1)


def padded(rows: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return rows (n, ...) with zeros behind them (size, ...)."""
    full = np.zeros((size, *rows.shape[1:]), dtype=np.float32)
    full[: len(rows)] = rows
    return full


class Sizes:
    """Knows for each kind of function which of `SMALL_BATCHES` give the bits of a full batch; others are not used."""

    def __init__(self) -> None:
        self.known: dict[Hashable, tuple[int, ...]] = {}
        self._calls: dict[Hashable, int] = {}

    def padded_to(self, count: int, kind: Hashable, run: Run, probe: Callable[[], NDArray[np.float32]]) -> int | None:
        """Return the size to pad so few rows to; None for a full batch.

        Trying sizes takes longer than a full batch does, so it waits for the second call with few rows.

        Args:
            count: of the rows.
            kind: what tells this function from others.
            run: applies the function.
            probe: makes a full batch of random rows.
        """
        if count > SMALL_BATCHES[-1]:
            return None
        if kind not in self.known:
            self._calls[kind] = self._calls.get(kind, 0) + 1
            if self._calls[kind] < 2:
                return None
            self.known[kind] = equal_sizes(run, probe())
        return next((size for size in self.known[kind] if count <= size), None)


def equal_sizes(run: Run, probe: NDArray[np.float32]) -> tuple[int, ...]:
    """Return the sizes of `SMALL_BATCHES` with which random rows get the very bits they get in a full batch.

    Args:
        run: applies the function.
        probe: a full batch of random rows.
    """
    full = run(probe, len(probe))

    def agrees(size: int, start: int) -> bool:
        few = run(probe[start : start + size], size)
        return all(few[name].tobytes() == full[name][start : start + size].tobytes() for name in full)

    smaller = [size for size in SMALL_BATCHES if size < len(probe)]
    return tuple(size for size in smaller if agrees(size, 0) and agrees(size, len(probe) - size))

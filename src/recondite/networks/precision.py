"""What bfloat16 costs here: some processors have no instructions for it and compute it in software."""

import time
import warnings
from collections.abc import Callable
from functools import cache

import torch

_SIDE, _TRIES = 256, 3
TOO_SLOW = 3.0
"""How many times as long as float32 bfloat16 may take before it is warned of."""


def warn_of_slow_bfloat16(option: str) -> None:
    """Warn, where bfloat16 takes far longer than float32 on this processor, and say what to give instead.

    Args:
        option: that asked for it.
    """
    ratio = bfloat16_over_float32()
    if ratio > TOO_SLOW:
        warnings.warn(
            f"bfloat16 takes {ratio:.0f} times as long as float32 on this processor, which computes it in software: "
            f"give {option}=fp32, the default",
            stacklevel=2,
        )


@cache
def bfloat16_over_float32() -> float:
    """Return how many times as long as in float32 a small product takes on this processor; measured once."""
    return _seconds(torch.bfloat16) / _seconds(torch.float32)


def _seconds(kind: torch.dtype) -> float:
    """Return the shortest time of a few products of two matrices."""
    matrix = torch.ones(_SIDE, _SIDE, dtype=kind, device="cpu")
    return min(_timed(lambda: matrix @ matrix) for _ in range(1 + _TRIES))


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

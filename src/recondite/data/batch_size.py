"""How many images are scored at once."""

from collections.abc import Sequence
from math import prod

_LARGEST, _LARGEST_ELSEWHERE, _SMALLEST = 64, 1024, 2
_VALUES = _LARGEST * 3 * 128 * 128
_VALUES_ELSEWHERE = 4 * _VALUES
_MOST_AT_ONCE = 256
_VALUES_AT_ONCE = _MOST_AT_ONCE * 3 * 32 * 32


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


def at_once(shape: Sequence[int], full: int) -> int:
    """Return how many images are read at once, and scored where they get the same bits: one or more full batches.

    Small images cost as much time to go from one operation to the next as to compute, so 256 of up to 32 x 32 colour
    pixels go together.

    >>> [at_once((3, side, side), 64) for side in (8, 32, 48, 64)]
    [256, 256, 64, 64]

    Args:
        shape: (C, H, W) of an image; (F,) of a vector.
        full: a full batch; one below 64 is of larger images, or of a network that sees more of them.
    """
    several = min(_MOST_AT_ONCE, _VALUES_AT_ONCE // prod(shape)) // full * full
    return full if full < _LARGEST else max(full, several)

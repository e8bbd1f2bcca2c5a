"""How many images are scored at once."""

_LARGEST, _LARGEST_ELSEWHERE, _SMALLEST = 64, 1024, 2
_VALUES = _LARGEST * 3 * 128 * 128
_VALUES_ELSEWHERE = 4 * _VALUES


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

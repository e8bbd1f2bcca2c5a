"""Feature scores (N, ...) to instance scores (N,)."""

from fractions import Fraction

from torch import Tensor

from recondite.errors import InputError


def values_kept(top_percent: float, size: int) -> int:
    """Return ceil(top_percent / 100 * size) without float surprises.

    Raises:
        InputError: not 0 < top_percent <= 100.

    >>> values_kept(55, 100), values_kept(0.1, 10)
    (55, 1)
    """
    if not 0 < top_percent <= 100:
        raise InputError(f"expected 0 < top_percent <= 100; got {top_percent!r}")
    return -int(-Fraction(str(top_percent)) * size // 100)


def instance_scores(feature_scores: Tensor, top_percent: float = 100) -> Tensor:
    """Return the mean of each image's worst `top_percent` of feature scores, as float64 (N,).

    Args:
        feature_scores: (N, ...) any shape.
        top_percent: 100 for the mean of all; 1 looks at the worst hundredth only.

    Raises:
        InputError: not 0 < top_percent <= 100.

    >>> import torch
    >>> instance_scores(torch.arange(1.0, 101.0)[None], 50)
    tensor([75.5000], dtype=torch.float64)
    """
    flat = feature_scores.flatten(1)
    kept = values_kept(top_percent, flat.shape[1])
    if kept < flat.shape[1]:
        # The order among the worst does not matter, but a fixed order of summation does.
        flat = flat.topk(kept, dim=1, sorted=True).values
    return flat.double().mean(dim=1)

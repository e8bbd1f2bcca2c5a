"""Feature scores (N, ...) to instance scores (N,)."""

from fractions import Fraction

from torch import Tensor
from torch.nn.functional import avg_pool2d

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


def worst_region(feature_scores: Tensor, side: int) -> Tensor:
    """Return the largest mean over a square of pixels that each image has, as float64 (N,).

    Args:
        feature_scores: (N, C, H, W); channels are averaged.
        side: of the square, which lies within the image.

    Raises:
        InputError: not 1 <= side <= H and W.

    >>> import torch
    >>> worst_region(torch.tensor([[[[0.0, 1, 2], [0, 3, 2], [0, 0, 0]]]]), 2)
    tensor([2.], dtype=torch.float64)
    """
    if feature_scores.ndim != 4 or not 1 <= side <= min(feature_scores.shape[2:]):
        raise InputError(f"expected a region of at most the shorter side of {tuple(feature_scores.shape)}; got {side}")
    channels_averaged = feature_scores.double().mean(dim=1, keepdim=True)
    return avg_pool2d(channels_averaged, side, stride=1).flatten(1).amax(dim=1)

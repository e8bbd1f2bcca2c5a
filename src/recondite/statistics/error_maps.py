"""Maps of errors: how unlike two images are at each pixel, and maps made smooth. All of shape (N, C, H, W)."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from recondite.errors import InputError

SSIM_SIGMA, SSIM_RADIUS = 1.5, 5
_C1, _C2 = 0.01**2, 0.03**2
_SCALES = (1, 2, 4)


def ssim_error(x: Tensor, y: Tensor) -> Tensor:
    """Return 1 - SSIM of each pixel and channel, in [0, 2]: 0 where the surroundings are equal.

    Structural similarity compares means, contrasts and correlation under a Gaussian window of sigma 1.5 and 11 x 11
    pixels, mirrored at the borders. Images with sides of less than 11 pixels get the largest odd window that fits.

    Source: Wang et al. 2004, IEEE TIP 13:600, equations 13 to 16; Bergmann et al. 2018, arXiv 1807.02011, for its use
    on defects.
    Differs from the latter: a window at each pixel, borders too, so that the map has the image's shape.

    Args:
        x, y: (N, C, H, W), in [0, 1] or nearly so.

    >>> ssim_error(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8)).abs().max().item() < 1e-6
    True
    """
    radius = min(SSIM_RADIUS, (min(x.shape[2:]) - 1) // 2)
    weights = _gaussian(SSIM_SIGMA, radius)
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _filtered(torch.cat([x, y, x * x, y * y, x * y]), weights).chunk(5)
    variances = (mean_xx - mean_x * mean_x) + (mean_yy - mean_y * mean_y)
    covariance = mean_xy - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    # Rounding leaves the range: by a little for equal images, far for values far beyond [0, 1].
    return 1 - (likeness / ((mean_x * mean_x + mean_y * mean_y + _C1) * (variances + _C2))).clamp(-1, 1)


def multi_scale_error(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared difference at full, half and quarter resolution, averaged at each pixel and channel.

    An image of lower resolution holds the means of blocks of 2 x 2 or 4 x 4 pixels, smaller at the right and lower
    borders. Fine noise averages out in a block; a dent does not.

    Args:
        x, y: (N, C, H, W).

    >>> multi_scale_error(torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)).mean()
    tensor(1.)
    """
    difference = x - y
    height, width = x.shape[2:]
    total = torch.zeros_like(x)
    for scale in _SCALES:
        coarse = avg_pool2d(difference, scale, ceil_mode=True, count_include_pad=False).square()
        total += coarse.repeat_interleave(scale, 2)[:, :, :height].repeat_interleave(scale, 3)[..., :width]
    return total / len(_SCALES)


def smoothed(maps: Tensor, sigma: float) -> Tensor:
    """Return maps smoothed by a Gaussian, cut off at 4 sigma, with mirrored borders.

    Args:
        maps: (N, C, H, W).
        sigma: in pixels, positive.

    >>> smoothed(torch.ones(1, 1, 8, 8), 2.0).sub(1).abs().max().item() < 1e-6
    True
    """
    return _filtered(maps, _gaussian(sigma, max(1, round(4 * sigma))))


def _gaussian(sigma: float, radius: int) -> list[float]:
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return [float(weight) for weight in weights / weights.sum()]


def _filtered(x: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the weighted mean of each pixel's surroundings along both axes.

    Sums of whole tensors, not a convolution kernel: an image's bits cannot depend on its place in a batch.
    """
    radius = len(weights) // 2
    for axis in (2, 3):
        side = x.shape[axis]
        mirrored = np.pad(np.arange(side), radius, mode="symmetric")
        padded = x.index_select(axis, torch.from_numpy(mirrored).to(x.device))
        total = torch.zeros_like(x)
        for start, weight in enumerate(weights):
            total += padded.narrow(axis, start, side) * weight
        x = total
    return x


def values_kept(top_percent: float, size: int) -> int:
    """Return ceil(top_percent / 100 * size) without float surprises.

    Raises:
        InputError: not 0 < top_percent <= 100.

    >>> values_kept(55, 100), values_kept(0.1, 10)
    (55, 1)
    """
    if not 0 < top_percent <= 100:
        raise InputError(f"expected 0 < top_percent <= 100; got {top_percent!r}")
    if top_percent == 100:
        return size
    return -int(-Fraction(str(top_percent)) * size // 100)


def largest_values(values: Tensor, count: int) -> Tensor:
    """Return the largest values of each row (N, count), in descending order.

    Numpy's partition takes a third to a sixth of the time of torch's `topk`, which gives the same.

    Args:
        values: (N, D), D >= count.
        count: at least 1.

    >>> largest_values(torch.tensor([[1.0, 4.0, 2.0, 3.0]]), 2)
    tensor([[4., 3.]])
    """
    if torch.compiler.is_compiling() or values.requires_grad or values.device.type != "cpu":
        return values.topk(count, dim=1).values
    found = np.partition(values.numpy(), -count, axis=1)[:, -count:]
    found.sort(axis=1)
    return torch.from_numpy(found[:, ::-1].copy())


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
        flat = largest_values(flat, kept)
    return flat.double().mean(dim=1)


def worst_square(feature_scores: Tensor, side: int) -> Tensor:
    """Return the largest mean over a square of pixels that each image has, as float64 (N,).

    Args:
        feature_scores: (N, C, H, W); channels are averaged.
        side: of the square, which lies within the image.

    Raises:
        InputError: not 1 <= side <= H and W.

    >>> import torch
    >>> worst_square(torch.tensor([[[[0.0, 1, 2], [0, 3, 2], [0, 0, 0]]]]), 2)
    tensor([2.], dtype=torch.float64)
    """
    if feature_scores.ndim != 4 or not 1 <= side <= min(feature_scores.shape[2:]):
        raise InputError(f"expected a square of at most the shorter side of {tuple(feature_scores.shape)}; got {side}")
    channels_averaged = feature_scores.double().mean(dim=1, keepdim=True)
    return avg_pool2d(channels_averaged, side, stride=1).flatten(1).amax(dim=1)

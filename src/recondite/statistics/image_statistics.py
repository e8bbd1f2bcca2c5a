"""Statistics of images, reconstructions and latents: (N, ...) tensors -> name -> (N,).

All are logarithms but brightness and code_length, so that units do not matter and normal images spread evenly.
`STATISTICS` says what each one is.
"""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

from recondite.statistics.error_maps import largest_values, values_kept

OF_IMAGES = ("brightness", "variance", "total_variation", "code_length")
"""Those that `statistics_of_image` finds: of the image alone, whatever the detector."""
_SMALLEST = 1e-10
_WORST_PERCENT = 1
_LEVELS, _FACTORS = 255, 8
_FEWEST_TOGETHER, _VALUES_TOGETHER = 2, 1 << 18

STATISTICS: dict[str, tuple[str, str]] = {
    "squared_error": ("squared error of the reconstruction", "log mean (x - r)^2"),
    "absolute_error": ("absolute error of the reconstruction", "log mean |x - r|"),
    "worst_error": ("error of the worst hundredth", "log of the mean of the largest 1 % of |x - r|"),
    "unexplained_variance": ("share of the contrast not rebuilt", "log mean (x - r)^2 / mean (x - mean x)^2"),
    "error_roughness": ("roughness of what was not rebuilt", "log mean |difference of neighbours in x - r|"),
    "brightness": ("brightness", "mean x"),
    "variance": ("contrast", "log mean (x - mean x)^2"),
    "total_variation": ("roughness", "log mean |difference of neighbours in x|"),
    "code_length": ("complexity", "mean log2(1 + 255 |difference of neighbours|), about the bits of a lossless code"),
    "latent_norm": ("size of the latent", "log ||z||"),
    "latent_mahalanobis": ("distance of the latent from normal ones", "log Mahalanobis distance, shrunk covariance"),
    "latent_neighbour": ("distance of the latent from its neighbours", "log distance to the fifth nearest of 1,000"),
    "feature_error": ("error of the rebuilt features", "log of the mean squared error of features of length 1"),
    "feature_mahalanobis": ("distance of the features from normal ones", "log Mahalanobis distance, shrunk covariance"),
    "feature_knn": ("distance of the features from the nearest normal ones", "log of the mean distance"),
    "feature_padim": ("oddest place for where it is", "log Mahalanobis distance from the place's normal features"),
    "feature_subspace_error": ("worst rebuilt place", "log of the mean squared error of a place's features"),
    "feature_patchcore": (
        "place farthest from any normal one",
        "log of the mean distance to the nearest normal patches",
    ),
    "feature_dfr": ("worst place rebuilt by a trained network", "log of the mean squared error of a place's features"),
    "latent_spread": ("width of the latent distribution", "mean log sigma"),
    "kl": ("surprise of the latent", "log KL(q(z|x) || p(z))"),
    "critic_fm": ("what ALAD's critic sees of the error", "log ||f(x, x) - f(x, r)||_1, f its last layer but one"),
    "critic_ch": ("how false ALAD's critic finds the reconstruction", "log softplus(-logit D_xx(x, r))"),
    "reencoding": ("change of the latent when encoded again", "log ||E(x) - E(r)|| / ||E(x)||; one more encoding"),
    "classifier_mahalanobis": ("distance from normal features of the classifier", "log Mahalanobis distance"),
    "classifier_neighbour": ("distance from neighbours among its features", "log distance to the fifth nearest"),
}
"""Name -> (what it is in words, formula); x the image in network units, r its reconstruction."""


def statistic_in_words(name: str) -> str:
    """Return what a statistic is, in words.

    >>> statistic_in_words("code_length"), statistic_in_words("reencoding_layer_2")
    ('complexity', 'change in layer 2 when encoded again')
    """
    if name.startswith("reencoding_layer_"):
        return f"change in layer {name.removeprefix('reencoding_layer_')} when encoded again"
    if name == "error":
        return "error of the detector"
    return STATISTICS[name][0] if name in STATISTICS else name.replace("_", " ")


def _in_parts(find: Callable[[Tensor, Tensor], dict[str, Tensor]]) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    """Return a function that finds the statistics of a few images after the others: as many as stay in a cache.

    Two at least: torch shares the sum over one image out to its threads, and its last bits depend on their number.
    """

    @wraps(find)
    def found(one: Tensor, other: Tensor) -> dict[str, Tensor]:
        together = max(_FEWEST_TOGETHER, 1 << (_VALUES_TOGETHER // one[0].numel()).bit_length() >> 1)
        if torch.compiler.is_compiling() or one.device.type != "cpu" or len(one) % together:
            return find(one, other)
        some = [slice(start, start + together) for start in range(0, len(one), together)]
        parts = [find(one[few], other[few]) for few in some]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    return found


@_in_parts
def statistics_of_image(pixels: Tensor, x: Tensor) -> dict[str, Tensor]:
    """Return brightness and complexity.

    Args:
        pixels: images (N, C, H, W) in [0, 1], or vectors (N, D).
        x: the same in network units.
    """
    found = {"brightness": x.flatten(1).mean(1), "variance": _log(_variance(x))}
    if pixels.ndim == 4:
        steps = _steps(pixels)
        found["total_variation"] = _log(_mean(steps))
        bits = torch.stack([_sum_of_logarithms(step.mul_(_LEVELS).add_(1)) for step in steps]).sum(0)
        found["code_length"] = bits / sum(step[0].numel() for step in steps)
    return found


@_in_parts
def statistics_of_error(x: Tensor, rebuilt: Tensor) -> dict[str, Tensor]:
    """Return norms and structure of the error; both (N, *shape) in network units."""
    error = x - rebuilt
    flat = error.flatten(1)
    size = flat.abs()
    squared = flat.square().mean(1)
    worst = largest_values(size, values_kept(_WORST_PERCENT, size.shape[1])).mean(1)
    found = {
        "squared_error": _log(squared),
        "absolute_error": _log(size.mean(1)),
        "worst_error": _log(worst),
        "unexplained_variance": _log(squared) - _log(_variance(x)),
    }
    if x.ndim == 4:
        found["error_roughness"] = _log(_mean(_steps(error)))
    return found


def change(before: Tensor, after: Tensor) -> Tensor:
    """Return the log of how far activations (N, ...) moved, relative to their size (N,).

    Source: Kim et al. 2020, RaPP (ICLR), for looking at every layer of the encoder.
    Differs from the paper: each layer is a statistic of its own instead of a summand.
    """
    moved = (before - after).flatten(1).square().sum(1)
    return (moved / (before.flatten(1).square().sum(1) + _SMALLEST) + 1e-6).log() / 2


def _steps(images: Tensor) -> list[Tensor]:
    """Return |differences| of neighbours below and beside each other, (N, C, H - 1, W) and (N, C, H, W - 1)."""
    return [images.diff(dim=axis).abs_() for axis in (2, 3)]


def _sum_of_logarithms(factors: Tensor) -> Tensor:
    """Return the sum of log2 of an image's values (N,), each in [1, 256]: that of products of eight, 2^64 at most."""
    flat = factors.flatten(1)
    each = flat.shape[1] // _FACTORS
    products = flat[:, : _FACTORS * each].reshape(flat.shape[0], _FACTORS, each).prod(1)
    found: Tensor = products.log2().sum(1) + flat[:, _FACTORS * each :].log2().sum(1)
    return found


def _mean(parts: list[Tensor]) -> Tensor:
    """Return the mean (N,) over all values of an image in several tensors (N, ...)."""
    total = torch.stack([part.flatten(1).sum(1) for part in parts]).sum(0)
    return total / sum(part[0].numel() for part in parts)


def _variance(x: Tensor) -> Tensor:
    """Return the variance (N,) of each image's values; torch's own is several times slower."""
    flat = x.flatten(1)
    return (flat - flat.mean(1, keepdim=True)).square_().mean(1)


def _log(values: Tensor) -> Tensor:
    return (values + _SMALLEST).log()

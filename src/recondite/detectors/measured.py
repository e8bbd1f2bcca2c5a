"""Reconstruction errors of a batch, per pixel, and their pooling into one score an image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from recondite.detectors.inside import Inside
from recondite.errors import InputError
from recondite.options import PoolingOptions, make_options, option_names
from recondite.statistics.error_maps import instance_scores, multi_scale_error, smoothed, ssim_error, worst_square

SURROUNDINGS = ("ssim", "multi_scale")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a detector finds out about a batch of N images in one pass, in network units.

    Args:
        feature_scores: (N, *shape), of each value of the image.
        reconstruction: (N, *shape); None where a detector rebuilds something else than the image.
        instance_scores: (N,); None where they are pooled from the feature scores.
        latents: (N, D); None where there is no encoder.
        vectors: (N, F), what a frozen backbone makes of each image as a whole; None without one.
        statistics: further numbers (N,) an image by name, such as the deviation of its latent distribution; the more
            they resemble a Gaussian among normal images (a logarithm of a norm, say), the better.
    """

    feature_scores: Tensor
    reconstruction: Tensor | None
    instance_scores: Tensor | None = None
    latents: Tensor | None = None
    vectors: Tensor | None = None
    statistics: Mapping[str, Tensor] = field(default_factory=dict)

    def rests_on(self) -> dict[str, Tensor]:
        """Return what scores rest on (N, ...), by name: a rounding in one of many numbers need not reach a score."""
        found = {**self.statistics, "latents": self.latents, "vectors": self.vectors}
        return {name: value for name, value in found.items() if value is not None}


class Statistician(Protocol):
    """Finds further numbers for each image."""

    @property
    def reencoding(self) -> bool:
        """Whether it wants to see what the encoder's layers gave."""

    def found(
        self, detector: Any, pixels: Tensor, measured: Measured, before: list[Tensor | None]
    ) -> Mapping[str, Tensor]:
        """Return name -> (N,) of a batch in image units.

        Args:
            detector: what measured it, made ready.
            pixels: (N, *shape).
            measured: what the detector found.
            before: what each of `detector.encoder_layers()` gave meanwhile; empty unless `reencoding`.
        """


Also = Callable[[Statistician | None], Statistician]
"""Makes what finds further numbers of what finds some already, or of None."""


def feature_errors(x: Tensor, rebuilt: Tensor, score: str) -> Tensor:
    """Return the squared or absolute difference of each value.

    Raises:
        InputError: `score` is neither "squared_error" nor "absolute_error".
    """
    if score == "squared_error":
        return (x - rebuilt).square()
    if score == "absolute_error":
        return (x - rebuilt).abs()
    raise InputError(f"this detector has no score {score!r}")


def pixel_errors(x: Tensor, rebuilt: Tensor, score: str, unscaled: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Return how far each value of a batch is from its reconstruction (N, *shape).

    Differences are in network units; SSIM, which has none and is meant for values that are not negative, is that of the
    images in [0, 1].

    Args:
        x, rebuilt: (N, *shape), in network units.
        score: one of `PixelScore`.
        unscaled: from network units to [0, 1]; None for vectors.

    Raises:
        InputError: another score, or one that looks at the surroundings of a pixel and there are none, in vectors.
    """
    if score not in SURROUNDINGS:
        return feature_errors(x, rebuilt, score)
    if unscaled is None:
        raise InputError(f"score {score!r} looks at the surroundings of a pixel: it is for images, not for vectors")
    if score == "ssim":
        return ssim_error(unscaled(x), unscaled(rebuilt))
    return multi_scale_error(x, rebuilt)


def pooling_of(options: Any, top_percent: float | None = None) -> PoolingOptions:
    """Return how a detector with these options pools; `top_percent` in place of theirs, if given.

    Raises:
        InputError: options out of range, or two ways at once.
    """
    chosen = {name: getattr(options, name) for name in option_names(PoolingOptions) & option_names(type(options))}
    if top_percent is not None:
        chosen["top_percent"] = top_percent
    pooling = make_options(PoolingOptions, chosen, "scoring")
    if pooling.worst_square and pooling.top_percent != 100:
        raise InputError("worst_square and top_percent are two ways to pool an image's errors: choose one")
    return pooling


def pooled(
    measured: Measured, score: str, pooling: PoolingOptions, inside: Inside | None = None
) -> tuple[Tensor, Tensor]:
    """Return the maps of scores (N, *shape) and the float64 scores of images (N,) of what was measured.

    What lies outside of a region is as low in the maps as anything inside, and 0 at most; a square that reaches beyond
    the region has that there.

    Args:
        measured, score, pooling: what was measured, by which score, and how it is pooled.
        inside: what counts; None for everything.

    Raises:
        InputError: `score` is one number for an image and `pooling` asks for more.
    """
    maps = measured.feature_scores
    if pooling.smooth:
        maps = smoothed(maps, pooling.smooth) if inside is None else inside.smoothed(maps, pooling.smooth)
    if inside is not None:
        maps = inside.blanked(maps)
    instances = measured.instance_scores
    if instances is not None:
        check_unpooled(score, pooling)
    elif pooling.worst_square:
        instances = worst_square(maps, pooling.worst_square)
    elif inside is not None:
        instances = inside.pooled(maps.flatten(2), lambda some: instance_scores(some, pooling.top_percent))
    else:
        instances = instance_scores(maps, pooling.top_percent)
    return maps, instances.double()


def check_unpooled(score: str, pooling: PoolingOptions) -> None:
    """Raise InputError where pooling is asked for of a score that is one number for an image."""
    for name, neutral in (("top_percent", 100), ("worst_square", 0)):
        if getattr(pooling, name) != neutral:
            raise InputError(f"score {score!r} is one number for an image: it has no {name}")


def check_pooling(options: Any, shape: tuple[int, ...], whole_image_scores: Sequence[str]) -> None:
    """Check that the options of scoring go together, and with the shape of images or vectors.

    Raises:
        InputError: they do not.
    """
    score, pooling = options.score, pooling_of(options)
    if score in whole_image_scores:
        check_unpooled(score, pooling)
    if len(shape) == 1 and (pooling.smooth or pooling.worst_square or score in SURROUNDINGS):
        raise InputError(
            f"smooth, worst_square and the scores {', '.join(SURROUNDINGS)} are for images, not for vectors"
        )
    if len(shape) == 3 and pooling.worst_square > min(shape[1:]):
        raise InputError(f"expected worst_square <= {min(shape[1:])}, the shorter side; got {pooling.worst_square}")

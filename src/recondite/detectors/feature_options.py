"""Options of the detector of features, and the names of its methods."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from recondite.data.sample import LARGEST_SMALL_SIDE
from recondite.errors import InputError
from recondite.networks.backbones import Units
from recondite.options import CHECKED

Method = Literal["mahalanobis", "reconstruction_error", "knn", "padim", "subspace", "patchcore", "dfr"]
LOCAL: tuple[Method, ...] = ("padim", "subspace", "patchcore", "dfr")
WITH_PLACES: tuple[Method, ...] = ("mahalanobis", "padim")
"""What images are judged by where their places count: the default of large ones, and where defects are known."""
COMBINED = "combined"
LARGEST_FEATURES = 8192
_COMPONENTS = 64


def _names(value: object) -> object:
    """Return a tuple of names, from one or several joined by commas."""
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class FeaturesOptions:
    """Options of the detector of features."""

    methods: Annotated[
        tuple[Method, ...],
        BeforeValidator(_names),
        Field(
            description="whole images: mahalanobis, reconstruction_error, knn; place by place, with heat maps: padim, "
            "subspace, patchcore, dfr (trained by the training options; its batch_size counts places); by default "
            "mahalanobis, and padim too for images above 64 pixels"
        ),
    ] = ()
    score: Annotated[Literal["combined", Method], Field(description="the distance that an image is judged by")] = (
        "combined"
    )
    backbone: Annotated[
        str,
        Field(
            description="network that looks at the images: lite0, lite1 or lite2 (EfficientNet-Lite), timm:NAME, "
            "hf:ORG/NAME[@REVISION], or a folder with config.json and model.safetensors"
        ),
    ] = "lite0"
    architecture: Annotated[
        dict[str, Any] | None,
        Field(
            description="what a backbone of timm, hf or a folder is rebuilt from; found by its name where it is None"
        ),
    ] = None
    taught: Annotated[bool, Field(description="whether a head that knows some defects sharpens the combined score")] = (
        False
    )
    side: Annotated[
        int,
        Field(
            ge=0,
            le=2048,
            description="pixels a side that the backbone sees; 0 for images as they are, those up to 64 at 160",
        ),
    ] = 0
    tile: Annotated[
        int,
        Field(
            ge=0,
            le=2048,
            description="pixels a side of the overlapping tiles that the backbone sees one by one; 0 for whole images, "
            "or for tiles of 512 where a side is above 1024",
        ),
    ] = 0
    layers: Annotated[
        tuple[str, ...],
        BeforeValidator(_names),
        Field(
            description="layers for whole images: stem, block1, block2 and so on, head; block1 and so on of a vision "
            "transformer, stage1 to stage4 of a convolutional network; or your own module's"
        ),
    ] = ()
    place_layers: Annotated[
        tuple[str, ...], BeforeValidator(_names), Field(description="layers for places, likewise")
    ] = ()
    units: Annotated[
        Units, Field(description="pixels that the backbone expects: lite, imagenet, symmetric [-1, 1] or unit [0, 1]")
    ] = "auto"
    latent_size: Annotated[
        int | None,
        Field(
            ge=1,
            le=4096,
            description="principal components of the features kept, numbers in dfr's bottleneck; by default "
            f"{_COMPONENTS}, or as many as there are features, or as few images tell that reconstruction_error judges",
        ),
    ] = None
    shrinkage: Annotated[
        float, Field(ge=0, le=1, description="share of the mean variance in each variance of mahalanobis")
    ] = 0.1
    place_shrinkage: Annotated[
        float, Field(ge=0, le=1, description="share of the mean variance that is added to the variances of padim")
    ] = 0.01
    neighbours: Annotated[
        int, Field(ge=1, le=99, description="nearest normal features that knn and patchcore average over")
    ] = 5
    bank_size: Annotated[
        int, Field(ge=100, le=100_000, description="normal features that knn and patchcore compare with")
    ] = 2000
    rotations: Annotated[
        int,
        Field(
            ge=1,
            le=16,
            description="learn each image turned by so many equal parts of a circle, mirrored beyond its border: for "
            "few images of parts that lie at any angle; 1 for as it is",
        ),
    ] = 1
    worst_places: Annotated[
        float,
        Field(
            gt=0,
            le=100,
            description="percentage of the worst places, at least one, that an image's distance is the mean of",
        ),
    ] = 0.1
    smooth: Annotated[
        float,
        Field(ge=0, le=64, description="sigma in pixels of a Gaussian that smooths the map of errors; 0 for none"),
    ] = 0.0


def methods_of(options: FeaturesOptions, shape: tuple[int, ...]) -> tuple[Method, ...]:
    """Return the methods; where none are named, those that suit the score and images of a shape (C, H, W)."""
    if options.methods:
        return options.methods
    if options.score in ("knn", *LOCAL):
        return (options.score,)
    return ("mahalanobis",) if max(shape[1:]) <= LARGEST_SMALL_SIDE else WITH_PLACES


def components_of(options: FeaturesOptions, size: int) -> int:
    """Return how many principal components of images with so many features are kept.

    Raises:
        InputError: more than there are features, or too many features.
    """
    kept = options.latent_size or min(_COMPONENTS, size)
    if not kept <= size <= LARGEST_FEATURES:
        raise InputError(
            f"expected latent_size <= the features of an image <= {LARGEST_FEATURES:,}; got {kept} and {size:,}: give "
            "another latent_size (--latent-size), or layers with fewer features (--layers)"
        )
    return kept

"""Options of the detectors that come with Recondite, apart from their networks, to show them without torch."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from recondite.options import CHECKED, PoolingOptions, PrecisionOptions

AladScore = Literal["fm", "ch", "l1", "l2"]
PixelScore = Literal["squared_error", "absolute_error", "ssim", "multi_scale"]
"""What can be computed at each pixel from an image and its reconstruction; the last two look at its surroundings."""
VaeScore = Literal[PixelScore, "reconstruction_probability", "elbo"]
Method = Literal["mahalanobis", "reconstruction_error", "knn", "padim", "subspace", "patchcore", "dfr"]
NetworkName = Literal["auto", "mnist-microscope", "cats-dogs-screen", "cifar10-vae"]
Units = Literal["auto", "lite", "imagenet", "symmetric", "unit"]
COMPONENTS = 32
"""That `pca` keeps by default."""
FEATURE_COMPONENTS = 64
"""That `features` keeps by default."""


def _names(value: object) -> object:
    """Return a tuple of names, from one or several joined by commas."""
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class AladOptions(PrecisionOptions):
    """Options of ALAD. Its scores are norms over the whole image, so there is no share or square to choose."""

    latent_size: Annotated[int, Field(ge=1, le=65_536, description="numbers in the latent")] = 100
    width: Annotated[
        int, Field(ge=8, le=1024, multiple_of=8, description="channels of the first layer at 32 pixels")
    ] = 128
    score: Annotated[AladScore, Field(description="the error that an image is judged by")] = "fm"
    selection: Annotated[
        Literal["l2", "fm"], Field(description="the validation error that the best epoch is chosen by")
    ] = "l2"
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 100,
        "batch_size": 32,
        "learning_rate": 2e-4,
        "adam_beta1": 0.5,
        "schedule": "constant",
        "ema": 0.999,
    }


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class AutoencoderOptions(PoolingOptions, PrecisionOptions):
    """Options of the autoencoder."""

    latent_size: Annotated[int, Field(ge=1, le=65_536, description="numbers in the bottleneck")] = 32
    width: Annotated[int, Field(ge=1, le=1024, description="channels of the first layer")] = 32
    network: Annotated[
        NetworkName, Field(description="reference network by name; auto fits the shape of the images")
    ] = "auto"
    score: Annotated[PixelScore, Field(description="the error that an image is judged by")] = "squared_error"


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
            f"{FEATURE_COMPONENTS}, or as many as there are features, or as few images tell that "
            "reconstruction_error judges",
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
    training_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 5e-3}


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class PcaOptions(PoolingOptions):
    """Options of principal component analysis."""

    latent_size: Annotated[
        int | None,
        Field(
            ge=1,
            le=4096,
            description=f"principal components kept; by default {COMPONENTS}, or as many as an image has values or "
            "few images tell",
        ),
    ] = None
    score: Annotated[PixelScore, Field(description="the error that an image is judged by")] = "squared_error"


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class VaeOptions(PoolingOptions, PrecisionOptions):
    """Options of the variational autoencoder."""

    latent_size: Annotated[int, Field(ge=1, le=65_536, description="numbers in the latent")] = 32
    width: Annotated[int, Field(ge=1, le=1024, description="channels of the first layer")] = 32
    network: Annotated[
        NetworkName, Field(description="reference network by name; auto fits the shape of the images")
    ] = "auto"
    beta: Annotated[float, Field(ge=0, description="weight of the KL divergence, summed over the latent")] = 1.0
    sigma: Annotated[
        Literal["fixed", "shared", "per-value"],
        Field(description="scale of the likelihood: fixed, learnt, or learnt for each value of the image"),
    ] = "shared"
    initial_sigma: Annotated[float, Field(gt=0, le=10, description="the fixed sigma, or where learning starts")] = 0.1
    draws: Annotated[int, Field(ge=1, le=100, description="fixed latent draws that a score averages over")] = 2
    initial_weights: Annotated[
        Literal["default", "he"],
        Field(
            description="how learning starts: he, with a narrow posterior, takes fewer steps where layers have ReLUs"
        ),
    ] = "default"
    score: Annotated[VaeScore, Field(description="the error that an image is judged by")] = "squared_error"


OPTIONS_BY_NAME: dict[str, type] = {
    "alad": AladOptions,
    "autoencoder": AutoencoderOptions,
    "features": FeaturesOptions,
    "pca": PcaOptions,
    "vae": VaeOptions,
}
"""By the names in `DETECTORS`; a detector that is not here has its options in its file."""

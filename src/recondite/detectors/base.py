"""The contract of every detector: two methods to write, the rest for free."""

import copy
from collections.abc import Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from recondite.data.artifacts import Tensors
from recondite.data.batch_size import full_batch
from recondite.data.datasets import Batch, open_images, read_batches
from recondite.data.sample import small_size
from recondite.data.spool import Rows, training_rows
from recondite.data.units import COPIES, GroupBy
from recondite.detectors.effects import check_effect
from recondite.detectors.inputs import Inputs
from recondite.detectors.inside import Inside, only_inside
from recondite.detectors.measured import Measured, Statistician, check_pooling, pixel_errors, pooled, pooling_of
from recondite.detectors.prior import LARGEST_FITTED_LATENT, Prior, draw_latents, fit_prior
from recondite.detectors.runner import Function, Runner
from recondite.distributed import collective
from recondite.errors import InputError, NotFittedError
from recondite.networks.fused import InBfloat16, inner_layers, ready_network
from recondite.networks.hooks import recorded
from recondite.networks.precision import warn_of_slow_bfloat16
from recondite.options import (
    PoolingOptions,
    PrecisionOptions,
    TrainingOptions,
    make_options,
    option_names,
    scores_of,
)
from recondite.statistics.scores import Scores, scattered
from recondite.torch_state import own_settings
from recondite.training.history import History
from recondite.training.loop import Update, train

_INSTANCE, _FEATURES, _REBUILT = "instance score", "feature score", "reconstruction"


class Detector(Inputs):
    """Learns to rebuild normal images; what it rebuilds badly is anomalous.

    A subclass has a `name`, an `Options` dataclass, and writes two methods:

    - `losses(x)` yields (parameter group, scalar loss) in update order;
    - `reconstruct_tensor(x)` returns the rebuilt batch, or `encode_tensor` and `decode_tensor` do so in two steps.

    It may override `measure`, `check_scoring`, `parameter_groups`, `validation_errors` and `fit_rows`, have
    `training_defaults` in place of those of `TrainingOptions`, and name the `prior` that new images are made from.
    Batches `x` are float32 tensors (N, *shape): images as the user gave them in `losses` and `validation_errors`, in
    network units (`scaled`, see `set_scale`) in the methods named after tensors and in `measure`.

    Args:
        shape: (C, H, W) for images in [0, 1], or (D,) for vectors, which are standardised column by column.
        options: an instance of `Options`.

    Raises:
        InputError: options that do not go together, or with the shape.
    """

    name: ClassVar[str]
    Options: ClassVar[type]
    whole_image_scores: ClassVar[tuple[str, ...]] = ()
    """Scores that are one number for an image, not pooled from a map."""
    training_defaults: ClassVar[Mapping[str, Any]] = {}
    trains_by_steps: bool = True
    needs_validation: bool = True
    prior: ClassVar[Prior | None] = None
    batches_a_step: ClassVar[int] = 1
    frozen: ClassVar[tuple[str, ...]] = ()  # parts that no fit changes
    rebuilds: ClassVar[bool] = True
    """Whether what is rebuilt is the image, so that its reconstruction can be looked at."""
    fitted: Tensor
    latent_mean: Tensor
    latent_factor: Tensor

    def __init__(self, shape: tuple[int, ...], options: Any) -> None:
        super().__init__(shape)
        self.options = options
        self.check_scoring()
        self.memory: Tensors = {}  # what `fit_rows` needs beside the weights to take in further images
        self.runner, self.history, self.modules_given = Runner(), History(), False
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        if self.prior == "fitted" and options.latent_size <= LARGEST_FITTED_LATENT:
            self.register_buffer("latent_mean", torch.zeros(options.latent_size))
            self.register_buffer("latent_factor", torch.zeros(options.latent_size, options.latent_size))

    # What a subclass writes

    def losses(self, x: Tensor) -> Iterator[Update]:
        """Yield (parameter group, scalar loss) in update order; the group is updated before the next is asked for.

        Args:
            x: (N, *shape) in image units, as every tensor that the training loop hands over; with `batches_a_step` = B,
                (B N, *shape), B different batches one behind the other.
        """
        raise NotImplementedError

    def reconstruct_tensor(self, x: Tensor) -> Tensor:
        """Return the rebuilt batch; both (N, *shape) in network units."""
        return self.decode_tensor(self.encode_tensor(x))

    # What a subclass may override

    @classmethod
    def image_size(cls, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that images of such a size are brought to, where the user asks for none."""
        return small_size(height, width)

    def encode_tensor(self, x: Tensor) -> Tensor:  # noqa: ARG002
        """Return latents (N, D) of a batch in network units."""
        raise InputError(f"detector {self.name!r} has no encoder")

    def decode_tensor(self, z: Tensor) -> Tensor:  # noqa: ARG002
        """Return a batch in network units from latents (N, D)."""
        raise InputError(f"detector {self.name!r} has no decoder")

    def measure(self, x: Tensor, score: str, inside: Inside | None = None) -> Measured:
        """Return the errors by one of the detector's scores, and what else a batch in network units tells.

        Args:
            x: (N, *shape).
            score: which of the detector's.
            inside: what counts of the images; None for everything.
        """
        latents = self.encode_tensor(x) if self.has_encoder else None
        rebuilt = self.reconstruct_tensor(x) if latents is None else self.decode_tensor(latents)
        rebuilt = only_inside(rebuilt, x, inside)
        return Measured(feature_scores=self.pixel_errors(x, rebuilt, score), reconstruction=rebuilt, latents=latents)

    def check_scoring(self) -> None:
        """Raise InputError where the options of scoring do not go together, or with the shape."""
        check_pooling(self.options, self.shape, self.whole_image_scores)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters that each loss updates."""
        return {"all": [parameter for parameter in self.parameters() if parameter.requires_grad]}

    def validation_errors(self, x: Tensor) -> Tensor:
        """Return the mean squared error of each image (N,), in network units; lower is better. `x` in image units."""
        x = self.scaled(x)
        return (x - self.reconstruct_tensor(x)).square().flatten(1).mean(1)

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
        """Fit on rows of an array, or learn `further` from them: go on from the weights, or add to the sums."""
        if not further:
            self.standardise(images)
        self.history = train(self, images, validation, training, run_folder, resume, show_progress)
        self.fitted.fill_(True)
        fit_prior(self, images)
        return self

    def suit(self, count: int) -> None:
        """Take no more components than so many images to learn from have, where nobody gave their number."""

    def looking_once(self, images: Rows, show_progress: bool = False) -> AbstractContextManager[None]:  # noqa: ARG002
        """While it lasts, fits of this detector and its copies on any of these images share what a network saw."""
        return nullcontext()

    def rebuilt(self, x: Tensor) -> Tensor | None:
        """Return a batch rebuilt, to look at; both in image units. None where what is rebuilt is not an image."""
        if not self.rebuilds or not self.preprocessing.is_image:
            return None
        return self.unscaled(self.reconstruct_tensor(self.scaled(x)))

    # What every detector gets

    @collective()
    @own_settings()
    def fit(
        self,
        images: object,
        *,
        validation: object = 0.1,
        group_by: GroupBy = COPIES,
        run_folder: Path | str | None = None,
        resume: bool = False,
        progress: bool = False,
        **training: Any,
    ) -> Self:
        """Learn what normal images look like, and return the detector itself; `history` tells how it went.

        Args:
            images: normal images, anything that `open_images` opens; unreadable ones are left out.
            validation: images to choose the best epoch by, the share of `images` to take for it, or None.
            group_by: what tells images that belong together, which such a share takes whole; as in `recondite.fit`.
            run_folder: where checkpoints and logs go.
            resume: go on from the checkpoint in `run_folder`.
            progress: show progress on standard error.
            training: options of `TrainingOptions`, such as epochs=20, learning_rate=2e-3, seed=0.

        Raises:
            InputError: no readable images, unknown options, options out of range, or such as would change nothing.
        """
        check_effect(self, training)
        options = make_options(TrainingOptions, {**self.training_defaults, **training}, "training")
        rows, held_out = training_rows(images, validation, self.preprocessing, options.seed, progress, group_by)
        return self.fit_rows(rows, held_out, options, Path(run_folder) if run_folder else None, resume, progress)

    def score(
        self,
        images: object,
        *,
        score: str | None = None,
        top_percent: float | None = None,
        feature_score: bool = False,
        reconstruction: bool = False,
    ) -> Scores:
        """Return how anomalous each image is; higher is more anomalous.

        Args:
            images: anything that `open_images` opens.
            score: one of the detector's scores; the one in its options by default.
            top_percent: share of the worst feature scores that the instance score is the mean of, in (0, 100].
            feature_score: return the score of each value too; memory then grows with the number of images.
            reconstruction: return the rebuilt images too; likewise.

        Raises:
            NotFittedError: `fit` was not called.
            InputError: no images, or an unknown score or share.
        """
        parts = (
            self.score_batch(batch, score, top_percent, feature_score, reconstruction)
            for batch in read_batches(open_images(images, shape=self.shape), self.preprocessing, self.scoring_batch)
        )
        return Scores.concatenate(parts)

    def score_batch(
        self,
        batch: Batch,
        score: str | None = None,
        top_percent: float | None = None,
        feature_score: bool = False,
        reconstruction: bool = False,
        observer: Statistician | None = None,
    ) -> Scores:
        """Score some images, at most `scoring_batch` at a time; every score anywhere comes from here.

        Args:
            batch: the images.
            score, top_percent, feature_score, reconstruction: as in `score`.
            observer: finds further numbers for each image, within the same padded batch.
        """
        good = batch.good

        def measured(ready: Detector, pixels: Tensor, closely: bool = False) -> dict[str, Tensor]:
            pixels = ready.painted(pixels)
            with recorded(ready.encoder_layers() if observer is not None and observer.reencoding else []) as before:
                result, maps, instances = ready.measure_and_pool(pixels, score, top_percent)
            values = {_INSTANCE: instances}
            if feature_score or closely:
                values[_FEATURES] = maps
            if closely:
                values |= result.rests_on()
            if reconstruction and result.reconstruction is not None:
                values[_REBUILT] = ready.unscaled(result.reconstruction)
            if observer is not None:
                statistics = observer.found(ready, pixels, result, before)
                values |= {name: value.double() for name, value in statistics.items()}
            return values

        kind = (repr(self.options), score, top_percent, feature_score, reconstruction, observer)
        values = self.run(batch.pixels, measured, kind, partial(measured, closely=True))
        found = {name: scattered(value, good) for name, value in values.items()}
        return Scores(
            ids=tuple(batch.ids),
            instance_score=found.pop(_INSTANCE),
            errors=tuple(batch.errors),
            feature_score=found.pop(_FEATURES, None),
            reconstruction=found.pop(_REBUILT, None),
            statistics=found if observer is not None else None,
        )

    def measure_and_pool(
        self, pixels: Tensor, score: str | None = None, top_percent: float | None = None
    ) -> tuple[Measured, Tensor, Tensor]:
        """Return what was measured on a batch (N, *shape) in image units, its maps of scores, and float64 scores (N,).

        Args:
            pixels: the batch, painted, on the detector's device; the detector is in eval mode.
            score, top_percent: as in `score`.
        """
        score = score or self.options.score
        pooling, inside = pooling_of(self.options, top_percent), self.inside(pixels)
        result = self.measure(self.scaled(pixels), score, inside)
        maps, instances = pooled(result, score, pooling, inside)
        return result, maps, instances

    def scored_by(self, **changes: Any) -> Self:
        """Return a detector with these very weights that scores in another way; nothing is fitted again.

        Args:
            changes: the options score, smooth, worst_square, top_percent and scoring_precision, where the detector has
                them.

        Raises:
            InputError: another option, or a value out of range.
        """
        scoring = {"score", *option_names(PoolingOptions), *option_names(PrecisionOptions)}
        if not set(changes) <= scoring:
            raise InputError(f"expected options among {', '.join(sorted(scoring))}; got {', '.join(sorted(changes))}")
        options = {name: getattr(self.options, name) for name in option_names(self.Options)}
        other = copy.copy(self)
        other.runner = self.runner.for_same_weights()
        other.options = make_options(self.Options, options | changes, f"detector {self.name!r}")
        other.check_scoring()
        return other

    def encode(self, images: object) -> NDArray[np.float32]:
        """Return the latent of each image (N, D).

        Raises:
            InputError: an image cannot be read, or the detector has no encoder.
            NotFittedError: `fit` was not called.
        """
        return self.runner.map(self, images, lambda ready, x: {"": ready.encode_tensor(ready.scaled(x))}, "encode")

    def reconstruct(self, images: object) -> NDArray[np.float32]:
        """Return each image rebuilt (N, *shape), in image units.

        Raises:
            InputError: an image cannot be read.
            NotFittedError: `fit` was not called.
        """
        return self.runner.map(
            self,
            images,
            lambda ready, x: {"": ready.unscaled(ready.reconstruct_tensor(ready.scaled(x)))},
            "reconstruct",
        )

    def decode(self, latents: ArrayLike) -> NDArray[np.float32]:
        """Return the images (N, *shape), in image units, that latents (N, D) stand for.

        Raises:
            InputError: the latents are not (N, D), or the detector has no decoder.
            NotFittedError: `fit` was not called.
        """
        z = np.asarray(latents, dtype=np.float32)
        if z.ndim != 2 or len(z) == 0:
            raise InputError(f"expected latents (N, D); got shape {z.shape}")
        return self.run(z, lambda ready, x: {"": ready.unscaled(ready.decode_tensor(x))})[""]

    def sample(self, count: int, *, seed: int = 0) -> NDArray[np.float32]:
        """Return new images (count, *shape), in image units, decoded from random latents; see `prior` for which.

        Raises:
            InputError: count is not positive, or the detector has no distribution over latents.
            NotFittedError: `fit` was not called.
        """
        return self.decode(draw_latents(self, count, seed))

    @property
    def validates_by_its_score(self) -> bool:
        """Whether the validation error of an image is its instance score."""
        plain = getattr(self.options, "score", None) == "squared_error" and pooling_of(self.options) == PoolingOptions()
        own = type(self).validation_errors is Detector.validation_errors
        return own and plain and not self.preprocessing.restricted

    @property
    def draws_of_its_own(self) -> bool:
        """Whether training may draw from torch's global generator, as networks or a detector of the user's own do."""
        return self.modules_given or not type(self).__module__.startswith("recondite.")

    @property
    def can_sample(self) -> bool:
        """Whether the detector makes new images."""
        return self.prior == "standard normal" or hasattr(self, "latent_factor")

    def run(
        self, rows: NDArray[np.float32], function: Function, kind: Hashable = None, closely: Function | None = None
    ) -> dict[str, NDArray[Any]]:
        """Apply a function of a tensor batch to rows; see `Runner.run`.

        Raises:
            NotFittedError: `fit` was not called.
        """
        if not self.fitted:
            raise NotFittedError(f"detector {self.name!r} is not fitted: call fit(images) first")
        return self.runner.run(self, rows, function, kind, closely)

    def prepared(self, name: str, network: nn.Module) -> nn.Module:
        """Return one of the detector's networks made ready to score; see `recondite.networks.fused`.

        Args:
            name: of the attribute that holds it.
            network: the network, in eval mode.
        """
        latent = (getattr(self.options, "latent_size", 0),)
        shape = {"encoder": self.shape, "decoder": latent, "generator": latent}.get(name)
        if shape is None:
            return network
        if getattr(self.options, "scoring_precision", "fp32") == "bf16":
            if self.device.type == "cpu":
                warn_of_slow_bfloat16("scoring_precision")
            return InBfloat16(network)
        return ready_network(network, torch.zeros(self.scoring_batch, *shape, device=self.device))

    def pixel_errors(self, x: Tensor, rebuilt: Tensor, score: str) -> Tensor:
        """Return how far each value of a batch is from its reconstruction; see `pixel_errors`."""
        return pixel_errors(x, rebuilt, score, self.unscaled if self.preprocessing.is_image else None)

    @classmethod
    def own_scores(cls) -> tuple[str, ...]:
        """Return the errors that this detector can judge by: the choices of its option `score`."""
        return scores_of(cls.Options)

    def encoder_layers(self) -> list[nn.Module]:
        """Return the inner layers of the encoder; see `inner_layers`."""
        encoder = getattr(self, "encoder", None)
        return [] if encoder is None else inner_layers(encoder)

    @property
    def has_encoder(self) -> bool:
        """Whether the detector has latents."""
        return type(self).encode_tensor is not Detector.encode_tensor

    @property
    def locates(self) -> bool:
        """Whether feature scores tell where in an image it is odd, so that a heat map of them says something."""
        return True

    @property
    def scoring_batch(self) -> int:
        """Images in a full scoring call, by their size and the device; see `recondite.data.batch_size.full_batch`.

        Kernels differ in the last bits between batch sizes, so fewer images are padded to a full batch, or to a smaller
        one that has been seen to give the same bits: that is how a lone image gets the very score it gets among others.
        A detector whose networks see images enlarged overrides this.
        """
        return full_batch(prod(self.shape), self.device.type)

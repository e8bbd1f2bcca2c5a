"""The contract of every detector: two methods to write, the rest for free."""

import copy
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from recondite.data.datasets import Batch, ImageSet, open_images, read_batches
from recondite.data.images import Preprocessing
from recondite.data.spool import Rows, read_all, split
from recondite.detectors.batches import Sizes, full_batch, padded
from recondite.distributed import together
from recondite.errors import InputError, NotFittedError
from recondite.networks.fused import InBfloat16, Packed, ready_network, weighted_layers
from recondite.networks.hooks import evaluating, recorded
from recondite.options import (
    PoolingOptions,
    PrecisionOptions,
    TrainingOptions,
    describe_options,
    make_options,
    option_names,
)
from recondite.statistics.error_maps import instance_scores, multi_scale_error, smoothed, ssim_error, worst_region
from recondite.statistics.scores import Scores
from recondite.training.checkpoint import History
from recondite.training.loop import Update, train

FEWEST_VALIDATED = 10
PixelScore = Literal["squared_error", "absolute_error", "ssim", "multi_scale"]
"""What can be computed at each pixel from an image and its reconstruction; the last two look at its surroundings."""
_SURROUNDINGS = ("ssim", "multi_scale")
LARGEST_FITTED_LATENT = 1024
_PRIOR_IMAGES = 2000
_INSTANCE, _FEATURES, _REBUILT = "instance score", "feature score", "reconstruction"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a detector finds out about a batch of N images in one pass, in network units.

    Args:
        feature_scores: (N, *shape), of each value of the image.
        reconstruction: (N, *shape); None where a detector rebuilds something else than the image.
        instance_scores: (N,); None where they are pooled from the feature scores.
        latents: (N, D); None where there is no encoder.
        statistics: further numbers (N,) an image by name, such as the spread of its latent distribution; the more
            they resemble a Gaussian among normal images (a logarithm of a norm, say), the better.
    """

    feature_scores: Tensor
    reconstruction: Tensor | None
    instance_scores: Tensor | None = None
    latents: Tensor | None = None
    statistics: Mapping[str, Tensor] = field(default_factory=dict)


Prior = Literal["standard normal", "fitted"]
"""Where latents for new images come from: N(0, I), or a Gaussian fitted to the latents of training images."""


class Statistician(Protocol):
    """Finds further numbers for each image."""

    @property
    def reencoding(self) -> bool:
        """Whether it wants to see what the encoder's layers gave."""

    def found(
        self, detector: "Detector", pixels: Tensor, measured: Measured, before: list[Tensor | None]
    ) -> Mapping[str, Tensor]:
        """Return name -> (N,) of a batch in image units.

        Args:
            detector: what measured it, made ready.
            pixels: (N, *shape).
            measured: what the detector found.
            before: what each of `detector.encoder_layers()` gave meanwhile; empty unless `reencoding`.
        """


_Function = Callable[["Detector", Tensor], dict[str, Tensor]]


class _Ready:
    """What a detector keeps for scoring until its weights change; copies of the detector begin without.

    Args:
        state: of the weights and of the processor, when it was made.
        networks: the detector's networks made ready, by name.
    """

    def __init__(self, state: Hashable = None, networks: Mapping[str, nn.Module] | None = None) -> None:
        self.state = state
        self.networks = dict(networks or {})
        self.sizes = Sizes()

    def __deepcopy__(self, memo: object) -> "_Ready":
        return _Ready()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_Ready, ())


class Detector(nn.Module):
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
    trains_by_steps: ClassVar[bool] = True
    prior: ClassVar[Prior | None] = None
    batches_a_step: ClassVar[int] = 1
    rebuilds: ClassVar[bool] = True
    """Whether what is rebuilt is the image, so that its reconstruction can be looked at."""
    shift: Tensor
    scale: Tensor
    fitted: Tensor
    latent_mean: Tensor
    latent_factor: Tensor

    def __init__(self, shape: tuple[int, ...], options: Any) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(shape=tuple(shape))
        self.shape = self.preprocessing.shape
        self.options = options
        self.check_scoring()
        self.history = History()
        self.modules_given = False
        self._cache = _Ready()
        scale_shape = () if self.preprocessing.is_image else self.shape
        self.register_buffer("shift", torch.zeros(scale_shape))
        self.register_buffer("scale", torch.ones(scale_shape))
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

    def encode_tensor(self, x: Tensor) -> Tensor:  # noqa: ARG002
        """Return latents (N, D) of a batch in network units."""
        raise InputError(f"detector {self.name!r} has no encoder")

    def decode_tensor(self, z: Tensor) -> Tensor:  # noqa: ARG002
        """Return a batch in network units from latents (N, D)."""
        raise InputError(f"detector {self.name!r} has no decoder")

    def measure(self, x: Tensor, score: str) -> Measured:
        """Return the errors by one of the detector's scores, and what else a batch in network units tells."""
        latents = self.encode_tensor(x) if self.has_encoder else None
        rebuilt = self.reconstruct_tensor(x) if latents is None else self.decode_tensor(latents)
        return Measured(feature_scores=self.pixel_errors(x, rebuilt, score), reconstruction=rebuilt, latents=latents)

    def check_scoring(self) -> None:
        """Raise InputError where the options of scoring do not go together, or with the shape."""
        score, pooling = self.options.score, self._pooling()
        if score in self.whole_image_scores:
            _check_unpooled(score, pooling)
        if not self.preprocessing.is_image and (pooling.smooth or pooling.region or score in _SURROUNDINGS):
            raise InputError(
                f"smooth, region and the scores {', '.join(_SURROUNDINGS)} are for images, not for vectors"
            )
        if self.preprocessing.is_image and pooling.region > min(self.shape[1:]):
            raise InputError(f"expected region <= {min(self.shape[1:])}, the shorter side; got {pooling.region}")

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters that each loss updates."""
        return {"all": [parameter for parameter in self.parameters() if parameter.requires_grad]}

    def validation_errors(self, x: Tensor) -> Tensor:
        """Return the mean squared error of each image (N,), in network units; lower is better. `x` in image units."""
        x = self.scaled(x)
        return (x - self.reconstruct_tensor(x)).square().flatten(1).mean(1)

    def fit_rows(
        self,
        images: Rows,
        validation: Rows | None,
        training: TrainingOptions,
        run_folder: Path | None = None,
        resume: bool = False,
        show_progress: bool = False,
    ) -> Self:
        """Fit on rows of an array; `fit` and `Screen` come through here."""
        self.standardise(images)
        self.history = train(self, images, validation, training, run_folder, resume, show_progress)
        self.fitted.fill_(True)
        self.fit_prior(images)
        return self

    def rebuilt(self, x: Tensor) -> Tensor | None:
        """Return a batch rebuilt, to look at; both in image units. None where what is rebuilt is not an image."""
        if not self.rebuilds or not self.preprocessing.is_image:
            return None
        return self.unscaled(self.reconstruct_tensor(self.scaled(x)))

    # What every detector gets

    @together()
    def fit(
        self,
        images: object,
        *,
        validation: object = 0.1,
        run_folder: Path | str | None = None,
        resume: bool = False,
        progress: bool = False,
        **training: Any,
    ) -> Self:
        """Learn what normal images look like, and return the detector itself; `history` tells how it went.

        Args:
            images: normal images, anything that `open_images` opens; unreadable ones are left out.
            validation: images to choose the best epoch by, the share of `images` to take for it, or None.
            run_folder: where checkpoints and logs go.
            resume: go on from the checkpoint in `run_folder`.
            progress: show progress on standard error.
            training: options of `TrainingOptions`, such as epochs=20, learning_rate=2e-3, seed=0.

        Raises:
            InputError: no readable images, unknown options, or options out of range.
        """
        options = make_options(TrainingOptions, {**self.training_defaults, **training}, "training")
        if isinstance(validation, float | int) and not 0 <= validation < 1:
            raise InputError(f"expected a share of the images for validation, in [0, 1); got {validation!r}")
        spooled = read_all(open_images(images, role="fit", shape=self.shape), self.preprocessing, progress)
        rows, held_out = spooled.rows(), None
        if isinstance(validation, float | int):
            part, rest = split(spooled.hashes, [round(validation * len(spooled))], options.seed)
            if len(part) >= FEWEST_VALIDATED:
                rows, held_out = spooled.rows(rest), spooled.rows(part)
        elif validation is not None:
            opened = open_images(validation, role="inliers", shape=self.shape)
            held_out = read_all(opened, self.preprocessing, progress).rows()
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
        opened = open_images(images, shape=self.shape)
        parts = (
            self.score_batch(batch, score, top_percent, feature_score, reconstruction)
            for batch in self._batches(opened)
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

        def measured(ready: Detector, pixels: Tensor) -> dict[str, Tensor]:
            with recorded(ready.encoder_layers() if observer is not None and observer.reencoding else []) as before:
                result, maps, instances = ready.measure_and_pool(pixels, score, top_percent)
            values = {_INSTANCE: instances}
            if feature_score:
                values[_FEATURES] = maps
            if reconstruction and result.reconstruction is not None:
                values[_REBUILT] = ready.unscaled(result.reconstruction)
            if observer is not None:
                statistics = observer.found(ready, pixels, result, before)
                values |= {name: value.double() for name, value in statistics.items()}
            return values

        kind = (repr(self.options), score, top_percent, feature_score, reconstruction, observer)
        found = {name: _spread(values, good) for name, values in self.run(batch.pixels, measured, kind).items()}
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
            pixels: the batch, on the detector's device; the detector is in eval mode.
            score, top_percent: as in `score`.
        """
        score = score or self.options.score
        pooling = self._pooling(top_percent)
        result = self.measure(self.scaled(pixels), score)
        maps = smoothed(result.feature_scores, pooling.smooth) if pooling.smooth else result.feature_scores
        instances = result.instance_scores
        if instances is not None:
            _check_unpooled(score, pooling)
        elif pooling.region:
            instances = worst_region(maps, pooling.region)
        else:
            instances = instance_scores(maps, pooling.top_percent)
        return result, maps, instances.double()

    def scored_by(self, **changes: Any) -> Self:
        """Return a detector with these very weights that scores in another way; nothing is fitted again.

        Args:
            changes: the options score, smooth, region, top_percent and scoring_precision, where the detector has them.

        Raises:
            InputError: another option, or a value out of range.
        """
        scoring = {"score", *option_names(PoolingOptions), *option_names(PrecisionOptions)}
        if not set(changes) <= scoring:
            raise InputError(f"expected options among {', '.join(sorted(scoring))}; got {', '.join(sorted(changes))}")
        options = {name: getattr(self.options, name) for name in option_names(self.Options)}
        other = copy.copy(self)
        other.options = make_options(self.Options, options | changes, f"detector {self.name!r}")
        other.check_scoring()
        return other

    def encode(self, images: object) -> NDArray[np.float32]:
        """Return the latent of each image (N, D).

        Raises:
            InputError: an image cannot be read, or the detector has no encoder.
            NotFittedError: `fit` was not called.
        """
        return self._map(images, _encoded)

    def reconstruct(self, images: object) -> NDArray[np.float32]:
        """Return each image rebuilt (N, *shape), in image units.

        Raises:
            InputError: an image cannot be read.
            NotFittedError: `fit` was not called.
        """
        return self._map(images, _rebuilt)

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
        if count < 1:
            raise InputError(f"expected at least one image to sample; got {count}")
        if not self.can_sample:
            limit = f" of at most {LARGEST_FITTED_LATENT} numbers" if self.prior == "fitted" else ""
            raise InputError(f"detector {self.name!r} has no distribution over latents{limit} to sample from")
        z = np.random.default_rng(seed).standard_normal((count, self.options.latent_size))
        if self.prior == "fitted":
            z = z @ self.latent_factor.double().cpu().numpy().T + self.latent_mean.double().cpu().numpy()
        return self.decode(z)

    @property
    def can_sample(self) -> bool:
        """Whether the detector makes new images."""
        return self.prior == "standard normal" or hasattr(self, "latent_factor")

    def fit_prior(self, images: Rows) -> None:
        """Fit the Gaussian over latents, where `prior` says so, to at most 2,000 of the images."""
        if not hasattr(self, "latent_factor"):
            return
        chosen = np.sort(np.random.default_rng(0).permutation(len(images))[:_PRIOR_IMAGES])
        some = Rows(images.pixels, images.index[chosen])
        parts = [
            self.run(x, lambda ready, x: {"": ready.encode_tensor(ready.scaled(x))})[""]
            for x in some.batches(self.scoring_batch)
        ]
        latents = np.concatenate(parts).astype(np.float64)
        variances, axes = np.linalg.eigh(np.cov(latents, rowvar=False, ddof=0).reshape(2 * latents.shape[1:]))
        self.latent_mean.copy_(torch.from_numpy(latents.mean(axis=0)))
        self.latent_factor.copy_(torch.from_numpy(axes * np.sqrt(variances.clip(min=0))))

    def run(
        self, rows: NDArray[np.float32], function: _Function, kind: Hashable | None = None
    ) -> dict[str, NDArray[Any]]:
        """Apply a function of a tensor batch to rows, `scoring_batch` at a time, fewer padded with zeros.

        Args:
            rows: float32 (n, *shape), in image units or whatever the function takes.
            function: of this detector made ready (see `ready`) and a tensor (N, *shape), in eval mode and without
                gradients; name -> (N, ...).
            kind: what tells this function of images from others; where it is given, few rows are padded less, if on
                random images that is seen to give the same bits.

        Returns:
            name -> (n, ...).

        Raises:
            NotFittedError: `fit` was not called.
        """
        if not self.fitted:
            raise NotFittedError(f"detector {self.name!r} is not fitted: call fit(images) first")
        full = self.scoring_batch
        parts = [
            self._run_at_once(rows[start : start + full], function, kind) for start in range(0, max(len(rows), 1), full)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts[1:] else parts[0]

    def ready(self) -> Self:
        """Return this detector with its networks made ready to score; see `recondite.networks.fused`.

        They are made anew when a weight has changed; torch does not count a change by way of `.data`, so that one is
        not seen.
        """
        tensors = [*self.parameters(), *self.buffers()]
        versions = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)
        precision = getattr(self.options, "scoring_precision", None)
        state = (versions, torch.get_num_threads(), precision, tuple(map(id, self.children())))
        if self._cache.state != state:
            with torch.no_grad(), evaluating(self):
                self._cache = _Ready(
                    state, {name: self._made_ready(name, part) for name, part in self.named_children()}
                )
        other = copy.copy(self)
        other.__dict__["_modules"] = {**self._modules, **self._cache.networks}
        return other

    def _made_ready(self, name: str, network: nn.Module) -> nn.Module:
        latent = (getattr(self.options, "latent_size", 0),)
        shape = {"encoder": self.shape, "decoder": latent, "generator": latent}.get(name)
        if shape is None:
            return network
        if getattr(self.options, "scoring_precision", "fp32") == "bf16":
            return InBfloat16(network)
        return ready_network(network, torch.zeros(self.scoring_batch, *shape, device=self.device))

    def _run_at_once(
        self, rows: NDArray[np.float32], function: _Function, kind: Hashable | None
    ) -> dict[str, NDArray[Any]]:
        """Return what a function gives for at most `scoring_batch` rows."""

        def run(some: NDArray[np.float32], size: int) -> dict[str, NDArray[Any]]:
            return self._run(some, function, size)

        size = None
        if kind is not None and self.device.type == "cpu":
            self.ready()  # what is known about sizes belongs to these weights
            size = self._cache.sizes.padded_to(len(rows), kind, run, self._probe)
        return run(rows, size or self.scoring_batch)

    def _probe(self) -> NDArray[np.float32]:
        """Return a full batch of random images; of vectors, such as those that were standardised."""
        random, shape = np.random.default_rng(0), (self.scoring_batch, *self.shape)
        if self.preprocessing.is_image:
            return random.random(shape, dtype=np.float32)
        spread = random.standard_normal(shape).astype(np.float32)
        vectors: NDArray[np.float32] = spread * self.scale.cpu().numpy() + self.shift.cpu().numpy()
        return vectors

    def _run(self, rows: NDArray[np.float32], function: _Function, size: int) -> dict[str, NDArray[Any]]:
        """Return what a function gives for rows, padded with zeros to a batch of `size`."""
        tensor = torch.from_numpy(padded(rows, size))
        layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
        ready = self.ready()
        # The short floats that GPUs use by default in convolutions would give another score than a processor does.
        with evaluating(ready), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            results = function(ready, tensor.to(self.device, memory_format=layout))
        return {name: result[: len(rows)].cpu().numpy() for name, result in results.items()}

    def pixel_errors(self, x: Tensor, rebuilt: Tensor, score: str) -> Tensor:
        """Return how far each value of a batch (N, *shape) is from its reconstruction, both in network units.

        Differences are in network units too; SSIM, which has none and is meant for values that are not negative, is
        that of the images in [0, 1].

        Args:
            x, rebuilt: (N, *shape).
            score: one of `PixelScore`.

        Raises:
            InputError: another score, or one that looks at the surroundings of a pixel and there are none, in vectors.
        """
        if score not in _SURROUNDINGS:
            return feature_errors(x, rebuilt, score)
        if not self.preprocessing.is_image:
            raise InputError(f"score {score!r} looks at the surroundings of a pixel: it is for images, not for vectors")
        if score == "ssim":
            return ssim_error(self.unscaled(x), self.unscaled(rebuilt))
        return multi_scale_error(x, rebuilt)

    def scaled(self, x: Tensor) -> Tensor:
        """Return a batch in network units."""
        return (x - self.shift) / self.scale

    def unscaled(self, x: Tensor) -> Tensor:
        """Return a batch in image units."""
        return x * self.scale + self.shift

    def set_scale(self, low: float, high: float) -> None:
        """Let image values 0 and 1 become `low` and `high` in network units."""
        self.scale.fill_(1 / (high - low))
        self.shift.fill_(-low / (high - low))

    def standardise(self, images: Rows) -> None:
        """For vectors, learn the mean and standard deviation of each column; nothing for images."""
        if self.preprocessing.is_image:
            return
        total = np.zeros(self.shape)
        squares = np.zeros(self.shape)
        for batch in images.batches():
            total += batch.sum(axis=0, dtype=np.float64)
        mean = total / len(images)
        for batch in images.batches():
            squares += np.square(batch - mean).sum(axis=0)
        deviation = np.sqrt(squares / len(images))
        # A constant column says nothing, but a later change in it must show: it keeps its own unit.
        deviation[deviation < 1e-6 * (1 + np.abs(mean))] = 1.0
        self.shift.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(deviation))

    @classmethod
    def own_scores(cls) -> tuple[str, ...]:
        """Return the errors that this detector can judge by: the choices of its option `score`."""
        return get_args(describe_options(cls.Options)["score"][0])

    def encoder_layers(self) -> list[nn.Module]:
        """Return the inner layers of the encoder: its convolutions and dense layers but the last, after their ReLUs."""
        encoder = getattr(self, "encoder", None)
        weighted = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, Packed)
        layers: list[nn.Module] = []
        if isinstance(encoder, nn.Sequential):
            parts = [part for part in weighted_layers(encoder) if isinstance(part[0], weighted)]
            layers.extend(activation or norm or layer for layer, norm, activation in parts)
        elif isinstance(encoder, nn.Module):
            layers.extend(part for part in encoder.modules() if isinstance(part, weighted))
        return layers[:-1]

    def _pooling(self, top_percent: float | None = None) -> PoolingOptions:
        """Return how instance scores are pooled; `top_percent` in place of the one in the options, if given."""
        names = option_names(PoolingOptions) & option_names(self.Options)
        chosen = {name: getattr(self.options, name) for name in names}
        if top_percent is not None:
            chosen["top_percent"] = top_percent
        pooling = make_options(PoolingOptions, chosen, "scoring")
        if pooling.region and pooling.top_percent != 100:
            raise InputError("region and top_percent are two ways to pool an image's errors: choose one")
        return pooling

    @property
    def has_encoder(self) -> bool:
        """Whether the detector has latents."""
        return type(self).encode_tensor is not Detector.encode_tensor

    @property
    def locates(self) -> bool:
        """Whether feature scores tell where in an image it is odd, so that a heat map of them says something."""
        return True

    @property
    def device(self) -> torch.device:
        return self.scale.device

    @property
    def scoring_batch(self) -> int:
        """Images in a full scoring call, by their size and the device; see `recondite.detectors.batches.full_batch`.

        Kernels differ in the last bits between batch sizes, so fewer images are padded to a full batch, or to a smaller
        one that has been seen to give the same bits: that is how a lone image gets the very score it gets among others.
        A detector whose networks see images enlarged overrides this.
        """
        return full_batch(prod(self.shape), self.device.type)

    def _batches(self, images: ImageSet) -> Iterator[Batch]:
        return read_batches(images, self.preprocessing, self.scoring_batch)

    def _map(self, images: object, function: _Function) -> NDArray[np.float32]:
        parts = []
        for batch in self._batches(open_images(images, shape=self.shape)):
            for name, error in zip(batch.ids, batch.errors, strict=True):
                if error is not None:
                    raise InputError(f"{name}: {error}")
            parts.append(self.run(batch.pixels, function, function.__name__)[""])
        return np.concatenate(parts)


def _encoded(ready: Detector, x: Tensor) -> dict[str, Tensor]:
    return {"": ready.encode_tensor(ready.scaled(x))}


def _rebuilt(ready: Detector, x: Tensor) -> dict[str, Tensor]:
    return {"": ready.unscaled(ready.reconstruct_tensor(ready.scaled(x)))}


def _check_unpooled(score: str, pooling: PoolingOptions) -> None:
    for name, neutral in (("top_percent", 100), ("region", 0)):
        if getattr(pooling, name) != neutral:
            raise InputError(f"score {score!r} is one number for an image: it has no {name}")


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


def _spread(values: NDArray[Any], good: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the values of the good images in their places among all, NaN elsewhere."""
    spread = np.full((len(good), *values.shape[1:]), np.nan, dtype=values.dtype)
    spread[good] = values
    return spread

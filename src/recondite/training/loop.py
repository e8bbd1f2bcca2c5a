"""The one training loop: any detector, any device, one process or several, resumable to the same weights."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recondite.data.spool import Rows
from recondite.distributed import Share, broadcast, collective, shard_of, sharing, unsharded
from recondite.errors import InputError, ReconditeError
from recondite.networks.hooks import evaluating
from recondite.networks.layers import has_unsynchronised_batch_norm
from recondite.networks.products import small_maps_as_products
from recondite.options import TrainingOptions
from recondite.progress import progress
from recondite.statistics.contamination import suspects
from recondite.torch_state import own_settings, seeded
from recondite.training.augmentation import augmented, check_augmentation
from recondite.training.checkpoint import CHECKPOINT, Progress, identity_of, read_checkpoint, restore, write_checkpoint
from recondite.training.device import (
    compiled,
    fits_on,
    large_blocks_kept,
    make_fabric,
    moving_average,
    seed_of,
)
from recondite.training.history import History
from recondite.training.logs import drop_logs_after, log_epoch, start_logs
from recondite.training.snapshots import first_pictures, picture_epochs

_ADAM_BETA2 = 0.999
_WARM_UP = 0.15
_START_DIVISOR, _END_DIVISOR = 25.0, 1e5

Update = tuple[str, Tensor] | tuple[str, Tensor, Mapping[str, Tensor]]
"""A parameter group and its loss; where a group is several networks, also the loss of each by name, for the logs."""


class Trainable(Protocol):
    """What the loop needs of a detector; tensors are batches (N, *shape) in image units on the detector's device.

    Args:
        batches_a_step: how many batches `losses` is given one behind the other, each from its own order of the images.
        draws_of_its_own: whether it may draw from torch's global generator, and not from `recondite.distributed` alone.
    """

    options: Any
    batches_a_step: int
    draws_of_its_own: bool

    def losses(self, x: Tensor) -> Iterator[Update]:
        """Yield an update for each group in order; a group is updated before the next is asked for."""

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters that each loss updates."""

    def validation_errors(self, x: Tensor) -> Tensor:
        """Return how badly each image is rebuilt (N,), without random draws."""

    def rebuilt(self, x: Tensor) -> Tensor | None:
        """Return the reconstructions in image units, to look at; None where there are none."""


@own_settings()
def train(
    detector: nn.Module,
    images: Rows,
    validation: Rows | None,
    options: TrainingOptions,
    run_folder: Path | None = None,
    resume: bool = False,
    show_progress: bool = False,
) -> History:
    """Train a detector in place.

    Each epoch draws all its random numbers from a generator seeded by (seed, epoch), so a run that was killed and
    resumed from its last checkpoint ends, on a processor, with the same bits as one that was not. With several
    processes (torchrun, Ray Train) the images of each step are shared out and the gradients averaged; noise, dropout
    and batch norm are those of the whole batch. Only a user's own layers with draws or statistics of a batch see the
    share of their process; their statistics are averaged once an epoch.

    Args:
        detector: a `Trainable` module.
        images: the images to learn.
        validation: images for early stopping and for choosing the best epoch.
        options: how to train.
        run_folder: where checkpoint.safetensors, steps.csv, validation.csv and epochs.csv are written after each epoch.
        resume: go on from the checkpoint in `run_folder`, if there is one.
        show_progress: draw a bar, or print lines, on standard error.

    Raises:
        InputError: the checkpoint belongs to other options or other images.
        ReconditeError: the loss became infinite or NaN.
    """
    with collective(), large_blocks_kept():
        return Run(detector, images, validation, options, run_folder, show_progress).go(resume)


def learning_rate_at(options: TrainingOptions, step: int, steps: int) -> float:
    """Return the learning rate of one step.

    "one-cycle" rises by a cosine from a 25th of the peak over the first 15 % of steps, then falls to nearly nothing.
    Source: Smith and Topin 2019, arXiv 1708.07120 (cosine variant).
    """
    peak = options.learning_rate
    if options.schedule == "constant":
        return peak
    done = step / max(1, steps - 1)
    warm_up = _WARM_UP if options.schedule == "one-cycle" else 0.0
    if done < warm_up:
        return _cosine(peak / _START_DIVISOR, peak, done / warm_up)
    return _cosine(peak, peak / _END_DIVISOR, (done - warm_up) / (1 - warm_up))


class Run:
    """One training: what `train` does, in steps."""

    def __init__(
        self,
        detector: Any,
        images: Rows,
        validation: Rows | None,
        options: TrainingOptions,
        run_folder: Path | None,
        show_progress: bool,
    ) -> None:
        self.fabric = make_fabric(options)
        detector.to(self.fabric.device)
        self.detector = detector
        self._share_weights()
        self.images, self.validation, self.options = images, validation, options
        self.run_folder = run_folder
        self.show_progress = show_progress and self.fabric.is_global_zero
        self.augmentations = check_augmentation(options.augment, detector.shape) if options.augment else ()
        self.groups: dict[str, list[nn.Parameter]] = self.detector.parameter_groups()
        self.optimizers = {
            name: torch.optim.Adam(
                group,
                lr=options.learning_rate,
                betas=(options.adam_beta1, _ADAM_BETA2),
                weight_decay=options.weight_decay,
                fused=True,
            )
            for name, group in self.groups.items()
        }
        self.average = moving_average(detector, options.ema) if options.ema else None
        self.on_device = self._on_device()
        # Batch norm cannot be trained on a single image, and torch's own is given the share of a process.
        self.fewest = 2 * self.fabric.world_size if has_unsynchronised_batch_norm(detector) else 2
        self.draws = torch.Generator(self.fabric.device)
        self.history = History()
        self.pictured = picture_epochs(options.picture_epochs, options.epochs)
        self.best: dict[str, Tensor] = {}
        self.stale_epochs = 0

    def go(self, resume: bool) -> History:
        first_epoch = self._load() if resume else 0
        with compiled(self.detector) if self.options.compile else small_maps_as_products(self.detector):
            self._learn(first_epoch)
        self._finish()
        self._share_weights()
        return self.history

    def _learn(self, first_epoch: int) -> None:
        if first_epoch == 0:
            self._start_logs()
            if self.pictured and self.validation is not None:
                self.history.pictures = first_pictures(self.validation)
            self._picture(0)
            self.save(0)
        batches = list(self._slices(len(self.images)))
        total = (self.options.epochs - first_epoch) * len(batches)
        with progress("training", total, self.show_progress) as advance:
            for epoch in range(first_epoch + 1, self.options.epochs + 1):
                if self.options.patience and self.stale_epochs >= self.options.patience:
                    break
                with self._seeded(epoch):
                    row, steps, validation = self.train_epoch(epoch, advance)
                self.history.epochs.append(row)
                self._note_best(epoch, row["validation"], steps, validation)
                self._picture(epoch)
                self._log(row, steps, validation)
                self.save(epoch)

    def _seeded(self, epoch: int) -> AbstractContextManager[None]:
        """Seed the draws of an epoch that are not made by `recondite.distributed`, where there may be any."""
        if not getattr(self.detector, "draws_of_its_own", True):
            return nullcontext()
        return seeded(seed_of(self.options.seed, epoch, self.fabric.global_rank))

    def train_epoch(self, epoch: int, advance: Any) -> tuple[dict[str, Any], list[dict[str, Any]], NDArray[np.float64]]:
        """Go once over the images; return the epoch's row, those of its steps, and the errors of validation batches."""
        started = time.monotonic()
        orders = self._orders(epoch)
        self.draws.manual_seed(seed_of(self.options.seed, epoch, 0, 1))  # the same in every process
        batches = list(self._slices(len(orders[0])))
        full_batches = len(list(self._slices(len(self.images))))
        self.detector.train()
        steps = []
        for number, batch in enumerate(batches):
            step = (epoch - 1) * full_batches + number
            rate = learning_rate_at(self.options, step, self.options.epochs * full_batches)
            losses = self.step([order[batch] for order in orders], rate)
            steps.append({"epoch": epoch, "step": step + 1, "learning_rate": rate, **losses})
            advance(1, f"epoch {epoch}")
        advance(full_batches - len(batches), "")
        self.detector.eval()
        self._average_buffers()
        for line in steps:
            line.update({name: float(value) for name, value in line.items() if isinstance(value, Tensor)})
        names = [name for name in steps[0] if name.startswith("loss_")]
        means = {name: float(np.mean([line[name] for line in steps])) for name in names}
        if not all(math.isfinite(value) for value in means.values()):
            raise ReconditeError(f"the loss is no longer finite in epoch {epoch}: {means}; try a lower learning_rate")
        validation, parts = None, np.empty(0)
        if self.validation is not None:
            errors = self._errors(self.validation)
            validation = float(errors.mean())
            if not math.isfinite(validation):
                raise ReconditeError(f"the validation error is not finite in epoch {epoch}; try a lower learning_rate")
            # Batches at random, the same after every epoch: a source may be sorted, by class or by difficulty.
            drawn = errors[np.random.default_rng(self.options.seed).permutation(len(errors))]
            parts = np.array([drawn[part].mean() for part in self.validation.slices(self.options.batch_size)])
        return {"epoch": epoch, "seconds": time.monotonic() - started, **means, "validation": validation}, steps, parts

    def _orders(self, epoch: int) -> list[NDArray[np.intp]]:
        """Return one order of the images for each batch of a step."""
        worst = self._worst() if self.options.trim and epoch > 1 else np.empty(0, dtype=np.intp)
        first = [self.options.seed, epoch]
        seeds = [first, *([*first, place] for place in range(1, self.detector.batches_a_step))]
        orders = [np.random.default_rng(seed).permutation(len(self.images)) for seed in seeds]
        return [order[~np.isin(order, worst)] for order in orders]

    def step(self, chosen: list[NDArray[np.intp]], learning_rate: float) -> dict[str, Tensor]:
        """Update the weights once, by the images at these places: one array of places for each batch of a step."""
        rank, world, rows = self.fabric.global_rank, self.fabric.world_size, len(chosen[0])
        with sharing(Share(rank, world, rows, self.draws)):
            x = torch.cat([self._batch(np.sort(batch)) for batch in chosen])
            # A process without an image in the last batch still takes part, with a weight of zero.
            weight = len(range(rank, rows, world)) * world / rows
            return self._update(x, weight, learning_rate)

    def _batch(self, chosen: NDArray[np.intp]) -> Tensor:
        """Return this process's images of a batch, augmented."""
        mine = chosen[self.fabric.global_rank :: self.fabric.world_size]
        mine = mine if len(mine) else chosen[:1]
        if self.on_device is None:
            x = self.to_device(self.images.take(mine))
        else:
            x = self.on_device[torch.from_numpy(mine).to(self.fabric.device, non_blocking=True)]
        return augmented(x, self.augmentations)

    def _on_device(self) -> Tensor | None:
        """Return all images on the device, if there is room, so that no step waits for them; None otherwise."""
        if not fits_on(self.fabric.device, self.images.pixels[:1].nbytes * len(self.images)):
            return None
        return torch.cat([self.to_device(batch) for batch in self.images.batches()])

    def _update(self, x: Tensor, weight: float, learning_rate: float) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        pending = self.detector.losses(x)
        while True:
            with self.fabric.autocast():
                update = next(pending, None)
            if update is None:
                if self.average is not None:
                    self.average.update_parameters(self.detector)
                return losses
            group, loss = update[:2]
            parameters = self.groups[group]
            for parameter in parameters:
                parameter.grad = None
            (loss * weight).backward(inputs=parameters)
            self._average_gradients(parameters)
            if self.options.clip_norm:
                torch.nn.utils.clip_grad_norm_(parameters, self.options.clip_norm)
            optimizer = self.optimizers[group]
            for settings in optimizer.param_groups:
                settings["lr"] = learning_rate
            optimizer.step()
            for name, value in (update[2] if len(update) == 3 else {group: loss}).items():
                losses[f"loss_{name}"] = self._mean_over_processes(value.detach() * weight)

    def _slices(self, size: int) -> Iterator[slice]:
        return batch_slices(size, self.options.batch_size, self.fewest)

    def _worst(self) -> NDArray[np.intp]:
        """Return the images that are left out of an epoch."""
        return np.flatnonzero(suspects(self._errors(self.images), self.options.trim))

    def _picture(self, epoch: int) -> None:
        """Rebuild the pictured images, if it is time, with the weights that would be kept now."""
        pictures = self.history.pictures
        if pictures is None or self.validation is None or epoch not in self.pictured:
            return
        model: Any = self.average.module if self.average is not None else self.detector
        with evaluating(model):
            rebuilt = model.rebuilt(self.to_device(self.validation.take(slice(0, len(pictures.images)))))
        if rebuilt is None:
            self.history.pictures = None
        else:
            pictures.add(epoch, rebuilt.float().cpu().numpy())

    def _errors(self, rows: Rows) -> NDArray[np.float64]:
        """Return the error of each image under the weights that would be kept now, (N,)."""
        model: Any = self.average.module if self.average is not None else self.detector
        size = max(1, self.options.batch_size)
        with evaluating(model):
            parts = [
                model.validation_errors(self.to_device(rows.take(part))).double().cpu()
                for part in shard_of(rows.slices(size))
            ]
        return torch.cat(unsharded(parts)).numpy()

    def to_device(self, batch: NDArray[np.float32]) -> Tensor:
        """Return pixels as a tensor where the networks are."""
        tensor = torch.from_numpy(np.ascontiguousarray(batch))
        layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
        return tensor.to(self.fabric.device, memory_format=layout, non_blocking=True)

    def _share_weights(self) -> None:
        """Let every process have the weights of the first.

        Before the first step, as a user's own networks may have been seeded apart; after the last, as machines of
        different make round differently.
        """
        if self.fabric.world_size > 1:
            for value in self.detector.state_dict().values():
                value.copy_(self.fabric.broadcast(value.detach().cpu().contiguous()))

    def _average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        if self.fabric.world_size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self._average_over_processes(gradients)

    def _average_buffers(self) -> None:
        if self.fabric.world_size > 1:
            models = [self.detector] if self.average is None else [self.detector, self.average.module]
            buffers = [buffer for model in models for buffer in model.buffers()]
            self._average_over_processes([buffer for buffer in buffers if buffer.is_floating_point()])

    def _mean_over_processes(self, value: Tensor) -> Tensor:
        if self.fabric.world_size == 1:
            return value
        mean: Tensor = self.fabric.all_reduce(value, reduce_op="mean")
        return mean

    def _average_over_processes(self, tensors: Sequence[Tensor]) -> None:
        if not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        flat = self.fabric.all_reduce(flat, reduce_op="mean")
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def _weights(self) -> dict[str, Tensor]:
        model = self.average.module if self.average is not None else self.detector
        return {name: value.detach().clone() for name, value in model.state_dict().items()}

    def _note_best(
        self, epoch: int, validation: float | None, steps: list[dict[str, Any]], batches: NDArray[np.float64]
    ) -> None:
        """Keep the weights of the best epoch so far; without validation images, every epoch counts as better."""
        earlier = [row["validation"] for row in self.history.epochs[:-1]]
        better = validation is None or not earlier or validation < min(earlier)
        self.stale_epochs = 0 if better else self.stale_epochs + 1
        if better or not self.options.keep_best:
            self.history.best_epoch = epoch
            names = [name for name in steps[0] if name.startswith("loss_")]
            self.history.losses = {name: np.array([step[name] for step in steps]) for name in names}
            self.history.losses |= {"validation": batches} if len(batches) else {}
            if validation is not None and self.options.keep_best:
                self.best = self._weights()

    def _finish(self) -> None:
        if self.best or self.average is not None:
            self.detector.load_state_dict(self.best or self._weights())
        self.detector.eval()

    def _start_logs(self) -> None:
        """Write the checkpoint of an epoch, in the first process."""
        if self.run_folder is not None and self.fabric.is_global_zero:
            (self.run_folder / CHECKPOINT).unlink(missing_ok=True)
            start_logs(self.run_folder)

    def _log(self, row: dict[str, Any], steps: list[dict[str, Any]], validation: NDArray[np.float64]) -> None:
        if self.run_folder is not None and self.fabric.is_global_zero:
            log_epoch(self.run_folder, row, steps, validation.tolist())

    @cached_property
    def _identity(self) -> str:
        return identity_of(self.detector, self.options, self.images, self.validation)

    def save(self, epoch: int) -> None:
        if self.run_folder is not None and self.fabric.is_global_zero:
            write_checkpoint(
                self.run_folder / CHECKPOINT,
                Progress(epoch, self.history, self.best, self.stale_epochs),
                self._identity,
                self.detector,
                self.average,
                self.optimizers,
            )

    def _load(self) -> int:
        """Take up the checkpoint, if there is one, and return the epochs it has behind it.

        The first process reads it for all: where the folder is shared, others may see it later.
        """
        if self.run_folder is None:
            return 0
        path = self.run_folder / CHECKPOINT
        there = self.fabric.is_global_zero and path.exists()
        saved = broadcast(read_checkpoint(path) if there else None)
        if saved is None:
            return 0
        if saved[1].get("identity") != self._identity:
            raise InputError(f"{self.run_folder} belongs to other images or options: leave out --resume to start anew")
        done = restore(path, saved, self.detector, self.average, self.optimizers)
        self.history, self.best, self.stale_epochs = done.history, done.best, done.stale_epochs
        if self.fabric.is_global_zero:
            drop_logs_after(self.run_folder, done.epoch)
        return done.epoch


def batch_slices(size: int, batch_size: int, fewest: int) -> Iterator[slice]:
    """Yield slices of `batch_size` that cover `size`; a last one with fewer than `fewest` joins the one before it."""
    start = 0
    while start < size:
        rest = size - start
        end = size if rest <= batch_size or rest - batch_size < min(fewest, batch_size) else start + batch_size
        yield slice(start, end)
        start = end


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2

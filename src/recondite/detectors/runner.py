"""Running a detector's networks in batches: prepared once, with the same bits at every batch size."""

import copy
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recondite.data.batch_size import at_once
from recondite.data.datasets import open_images, read_batches
from recondite.errors import InputError
from recondite.networks.hooks import evaluating, parts_of
from recondite.torch_state import own_settings

SMALL_BATCHES = (2, 4, 8, 32)
"""Batches smaller than a full one that are tried. One is not: its bits agree for random images, not for all."""
_SEEN_FIRST = 8
"""Several batches at once are tried when so many times their rows have been scored: trying scores them twice."""

Function = Callable[[Any, Tensor], dict[str, Tensor]]
"""Of a detector made ready and a batch of tensors (N, *shape): name -> (N, ...)."""
Run = Callable[[NDArray[np.float32], int], Mapping[str, NDArray[Any]]]
"""Applies a function to rows, padded to a batch of the given size: name -> (n, ...)."""


def padded(rows: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return a copy of rows (n, ...) with zeros behind them (size, ...); a network may change it in place."""
    if len(rows) == size:
        return rows.copy()
    full = np.zeros((size, *rows.shape[1:]), dtype=np.float32)
    full[: len(rows)] = rows
    return full


class Sizes:
    """Knows for each kind of function which sizes of batches give the bits of a full one; others are not used.

    Smaller ones are those of `SMALL_BATCHES`, and a larger one is what goes `at_once`.
    """

    def __init__(self) -> None:
        self.known: dict[Hashable, tuple[int, ...]] = {}
        self.together: dict[Hashable, bool] = {}
        self._calls: dict[Hashable, int] = {}
        self._rows: dict[Hashable, int] = {}

    def padded_to(self, count: int, kind: Hashable, run: Run, probe: Callable[[], NDArray[np.float32]]) -> int | None:
        """Return the size to pad so few rows to; None for a full batch.

        Trying sizes takes longer than a full batch does, so it waits for the second call with few rows.

        Args:
            count: of the rows.
            kind: what tells this function from others.
            run: applies the function.
            probe: makes a full batch of random rows.
        """
        if count > SMALL_BATCHES[-1]:
            return None
        if kind not in self.known:
            self._calls[kind] = self._calls.get(kind, 0) + 1
            if self._calls[kind] < 2:
                return None
            self.known[kind] = equal_sizes(run, probe())
        return next((size for size in self.known[kind] if count <= size), None)

    def agree_together(
        self, count: int, size: int, full: int, kind: Hashable, run: Run, probe: Callable[[], NDArray[np.float32]]
    ) -> bool:
        """Return whether rows get the bits of full batches in batches of several of these; False until it is tried.

        Args:
            count: of the rows that are to be run.
            size: of several full batches.
            full: of a full batch.
            kind: what tells this function from others.
            run: applies the function.
            probe: makes random rows, as many as several full batches.
        """
        if kind not in self.together:
            self._rows[kind] = self._rows.get(kind, 0) + count
            if self._rows[kind] < _SEEN_FIRST * size:
                return False
            rows = probe()
            self.together[kind] = all_agree(run(rows, size), rows, full, run)
        return self.together[kind]


def equal_sizes(run: Run, probe: NDArray[np.float32]) -> tuple[int, ...]:
    """Return the sizes of `SMALL_BATCHES` with which all random rows get the very bits they get in a full batch.

    A kernel for small batches may agree on many rows by luck, so that a few of them do not tell.

    Args:
        run: applies the function.
        probe: a full batch of random rows.
    """
    full = run(probe, len(probe))
    return tuple(size for size in SMALL_BATCHES if size < len(probe) and all_agree(full, probe, size, run))


def all_agree(found: Mapping[str, NDArray[Any]], rows: NDArray[np.float32], size: int, run: Run) -> bool:
    """Return whether rows (n, ...) get the bits that were found of them (n, ...) also in batches of a size."""

    def agree(start: int) -> bool:
        few = run(rows[start : start + size], size)
        return all(few[name].tobytes() == found[name][start : start + size].tobytes() for name in found)

    return all(agree(start) for start in range(0, len(rows), size))


class Runner:
    """Runs the networks of one detector, which holds it; what it keeps, it keeps until the weights change.

    Copies that are made of a detector by `copy.deepcopy` or pickle begin with nothing kept.
    """

    def __init__(self) -> None:
        self.sizes = Sizes()
        self._state: Hashable = None
        self._networks: dict[str, nn.Module] = {}

    def __deepcopy__(self, memo: object) -> "Runner":
        return Runner()

    def __reduce__(self) -> tuple[Any, ...]:
        return (Runner, ())

    def for_same_weights(self) -> "Runner":
        """Return a runner for a detector that shares its weights with this one's."""
        other = Runner()
        other.sizes, other._state, other._networks = self.sizes, self._state, self._networks
        return other

    @own_settings()
    def run(
        self,
        detector: Any,
        rows: NDArray[np.float32],
        function: Function,
        kind: Hashable | None = None,
        closely: Function | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Apply a function of a tensor batch to rows, `scoring_batch` or `at_once` at a time, fewer padded with zeros.

        Args:
            detector: whose networks run.
            rows: float32 (n, *shape), in image units or whatever the function takes.
            function: of the detector made ready (see `ready`) and a tensor (N, *shape), in eval mode and without
                gradients; name -> (N, ...).
            kind: what tells this function of images from others; where it is given, few rows are padded less, if on
                random images that is seen to give the same bits.
            closely: the same with more of what it rests on, for that comparison.

        Returns:
            name -> (n, ...).
        """
        full, closely = detector.scoring_batch, closely or function
        size = self._size_at_once(detector, rows, kind, closely)
        several = range(0, len(rows) - size + 1, size) if size > full else range(0)
        parts = [_run_padded(self.ready(detector), rows[start : start + size], function, size) for start in several]
        rest = range(len(several) * size, len(rows) if several else max(len(rows), 1), full)
        parts += [self._run_batch(detector, rows[start : start + full], function, kind, closely) for start in rest]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts[1:] else parts[0]

    def map(self, detector: Any, images: object, function: Function, kind: str) -> NDArray[np.float32]:
        """Apply a function whose only output is named "" to all images, which are anything that `open_images` opens.

        Raises:
            InputError: an image cannot be read.
            NotFittedError: the detector is not fitted.
        """
        opened = open_images(images, shape=detector.shape)
        parts = []
        for batch in read_batches(opened, detector.preprocessing, detector.scoring_batch):
            for name, error in zip(batch.ids, batch.errors, strict=True):
                if error is not None:
                    raise InputError(f"{name}: {error}")
            parts.append(detector.run(batch.pixels, function, kind)[""])
        return np.concatenate(parts)

    def ready(self, detector: Any) -> Any:
        """Return the detector with its networks made ready to score; see `recondite.networks.fused`.

        They are made anew when a weight has changed; torch does not count a change by way of `.data`, so that one is
        not seen.
        """
        versions = tuple(
            (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
            for part in parts_of(detector)
            for tensor in (*part._parameters.values(), *part._buffers.values())
            if tensor is not None
        )
        precision = getattr(detector.options, "scoring_precision", None)
        state = (versions, torch.get_num_threads(), precision, tuple(map(id, detector.children())))
        if self._state != state:
            with torch.no_grad(), evaluating(detector):
                self._networks = {
                    name: detector.prepared(name, part).eval() for name, part in detector.named_children()
                }
            self._state, self.sizes = state, Sizes()
        other = copy.copy(detector)
        other.__dict__["_modules"] = {**detector._modules, **self._networks}
        return other

    def _size_at_once(self, detector: Any, rows: NDArray[np.float32], kind: Hashable | None, closely: Function) -> int:
        """Return how many rows are run at once: a full batch, or several that have been seen to give the same bits."""
        full: int = detector.scoring_batch
        size = at_once(rows.shape[1:], full)
        if kind is None or not full < size <= len(rows) or detector.device.type != "cpu":
            return full
        ready = self.ready(detector)
        agree = self.sizes.agree_together(
            len(rows),
            size,
            full,
            kind,
            lambda some, padded_to: _run_padded(ready, some, closely, padded_to),
            lambda: _random_rows(detector, size),
        )
        return size if agree else full

    def _run_batch(
        self, detector: Any, rows: NDArray[np.float32], function: Function, kind: Hashable | None, closely: Function
    ) -> dict[str, NDArray[Any]]:
        """Return what a function gives for at most `scoring_batch` rows."""
        ready = self.ready(detector)

        def run(some: NDArray[np.float32], size: int) -> dict[str, NDArray[Any]]:
            return _run_padded(ready, some, closely, size)

        size = None
        if kind is not None and detector.device.type == "cpu":
            size = self.sizes.padded_to(len(rows), kind, run, lambda: _random_rows(detector, detector.scoring_batch))
        return _run_padded(ready, rows, function, size or detector.scoring_batch)


def _run_padded(ready: Any, rows: NDArray[np.float32], function: Function, size: int) -> dict[str, NDArray[Any]]:
    """Return what a function gives for rows, padded with zeros to a batch of `size`, of a detector made ready."""
    tensor = torch.from_numpy(padded(rows, size))
    with evaluating(ready), nullcontext() if ready.device.type == "cpu" else _exact_on_gpus():
        results = function(ready, tensor.to(ready.device))
    return {name: result[: len(rows)].cpu().numpy() for name, result in results.items()}


def _exact_on_gpus() -> AbstractContextManager[None]:
    """Leave out the short floats that GPUs use by default in convolutions: they give another score than processors."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    return flags


def _random_rows(detector: Any, count: int) -> NDArray[np.float32]:
    """Return random images (count, *shape); of vectors, such as those that were standardised."""
    random, shape = np.random.default_rng(0), (count, *detector.shape)
    if detector.preprocessing.is_image:
        return random.random(shape, dtype=np.float32)
    drawn = random.standard_normal(shape).astype(np.float32)
    vectors: NDArray[np.float32] = drawn * detector.scale.cpu().numpy() + detector.shift.cpu().numpy()
    return vectors

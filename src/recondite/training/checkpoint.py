"""Checkpoints of training: all that a run needs to go on to the same weights."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from recondite.data.artifacts import Tensors, read_tensors, write_tensors
from recondite.data.spool import Rows
from recondite.errors import ArtifactError
from recondite.options import TrainingOptions, deciding_options, options_to_json
from recondite.training.history import History
from recondite.training.snapshots import EpochPictures

CHECKPOINT = "checkpoint.safetensors"
_ANEW = "leave out --resume to start anew"
T = TypeVar("T")


def _optimizer_state(tensors: dict[str, Tensor], parameters: Sequence[nn.Parameter]) -> dict[int, dict[str, Tensor]]:
    """Return Adam's state by parameter number, checked: it would write beyond a state of another size.

    Its fused kernel walks through both in the order of memory, so the state takes the layout of the parameter.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition("/")
        parameter = parameters[int(number)].detach()
        if value.dim() and value.shape != parameter.shape:
            raise ValueError(f"{key} has shape {tuple(value.shape)}")
        state.setdefault(int(number), {})[name] = torch.empty_like(parameter).copy_(value) if value.dim() else value
    return state


def _under(prefix: str, tensors: Mapping[str, T]) -> dict[str, T]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@dataclass
class Progress:
    """How far a training run has come.

    Args:
        epoch: epochs that are done.
        history: of them.
        best: the best weights so far, name -> tensor; empty where the last ones are kept.
        stale_epochs: epochs since the validation error last fell.
    """

    epoch: int
    history: History
    best: dict[str, Tensor]
    stale_epochs: int


def identity_of(detector: nn.Module, options: TrainingOptions, images: Rows, validation: Rows | None) -> str:
    """Return a digest of everything that the weights after an epoch depend on."""
    model = [str(detector), options_to_json(detector.options)]
    shapes = {name: list(value.shape) for name, value in detector.state_dict().items()}
    known = [deciding_options(options), model, shapes, len(images)]
    digest = sha256(json.dumps(known, sort_keys=True).encode())
    for rows in (images, validation):
        for batch in rows.batches() if rows is not None else ():
            digest.update(np.ascontiguousarray(batch).data)
    return digest.hexdigest()


def write_checkpoint(
    path: Path,
    progress: Progress,
    identity: str,
    detector: nn.Module,
    average: nn.Module | None,
    optimizers: Mapping[str, Optimizer],
) -> None:
    """Write all that a run needs to go on, atomically.

    Args:
        path: the file.
        progress: how far the run has come.
        identity: what `identity_of` gave.
        detector: whose weights are trained.
        average: the moving average of its weights; None where there is none.
        optimizers: of each group of parameters, by name.
    """
    tensors = {f"model/{name}": value for name, value in detector.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in progress.best.items()}
    if average is not None:
        tensors |= {f"average/{name}": value for name, value in average.state_dict().items()}
    pictures = progress.history.pictures
    if pictures is not None:
        tensors |= {f"pictures/{name}": torch.from_numpy(array) for name, array in pictures.tensors().items()}
    tensors |= {f"losses/{name}": torch.from_numpy(array) for name, array in progress.history.losses.items()}
    for group, optimizer in optimizers.items():
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{group}/{number}/{name}": value for name, value in state.items()}
    facts = {
        "epoch": progress.epoch,
        "identity": identity,
        "history": progress.history.epochs,
        "best_epoch": progress.history.best_epoch,
        "stale_epochs": progress.stale_epochs,
    }
    arrays = {name: value.detach().cpu().contiguous().numpy() for name, value in tensors.items()}
    write_tensors(path, arrays, facts)


def read_checkpoint(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Return what a checkpoint holds.

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        return read_tensors(path)
    except ArtifactError as error:
        raise ArtifactError(f"{error}; {_ANEW}") from error


def restore(
    path: Path,
    saved: tuple[Mapping[str, NDArray[Any]], Mapping[str, Any]],
    detector: nn.Module,
    average: nn.Module | None,
    optimizers: Mapping[str, Optimizer],
) -> Progress:
    """Give a detector and its optimizers the state that `write_checkpoint` wrote, and return how far that run came.

    Args:
        path: of the file, for messages.
        saved: what the file holds, as `read_checkpoint` gives it.
        detector, average, optimizers: as in `write_checkpoint`.

    Raises:
        ArtifactError: the file is damaged.
    """
    arrays, facts = saved
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    device = next(detector.parameters()).device
    try:
        detector.load_state_dict(_under("model/", tensors))
        best = {name: value.to(device) for name, value in _under("best/", tensors).items()}
        if average is not None:
            average.load_state_dict(_under("average/", tensors))
        for group, optimizer in optimizers.items():
            parameters = [parameter for part in optimizer.param_groups for parameter in part["params"]]
            state = _optimizer_state(_under(f"optimizer/{group}/", tensors), parameters)
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        shown = _under("pictures/", arrays)
        pictures = EpochPictures.from_tensors(shown) if shown else None
        history = History(facts["history"], facts["best_epoch"], pictures, dict(_under("losses/", arrays)))
        return Progress(int(facts["epoch"]), history, best, facts["stale_epochs"])
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path} is damaged: {error}; {_ANEW}") from error

"""Where training runs: the device and its processes, memory, compiled networks, seeds."""

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from recondite.errors import InputError
from recondite.networks.precision import warn_of_slow_bfloat16
from recondite.options import TrainingOptions

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Names of settings of glibc's `mallopt`, from its malloc.h."""
_NEVER = 2**31 - 1
_USUAL_TRIM_THRESHOLD, _USUAL_MMAP_THRESHOLD, _USUAL_MMAP_MAX = 64 * 2**20, 32 * 2**20, 65_536
"""What glibc arrives at by itself in a process that uses large blocks; it no longer does once one of them is set."""

_SHARE_FOR_IMAGES = 0.25


def moving_average(detector: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of a detector's weights."""
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(detector, multi_avg_fn=average)


def make_fabric(options: TrainingOptions) -> Any:
    """Return what places training on a device and among the processes that torchrun or Ray started.

    Warns where bfloat16 is wanted of a processor that computes it in software.

    Raises:
        InputError: this machine has no such device.
    """
    from lightning_fabric import Fabric

    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    try:
        fabric = Fabric(
            accelerator=options.device,
            devices=local,
            num_nodes=max(1, world // local),
            strategy="ddp" if world > 1 else "auto",
            plugins=[_environment()] if world > 1 else [],
            precision="bf16-mixed" if options.precision == "bf16" else "32-true",
        )
    except RuntimeError as error:
        raise InputError(f"expected a device that this machine has; got {options.device!r}: {error}") from error
    if options.precision == "bf16" and fabric.device.type == "cpu":
        warn_of_slow_bfloat16("precision")
    fabric.launch()
    return fabric


def _environment() -> Any:
    """Return what tells Fabric the place of this process, which others have started."""
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    class Started(TorchElasticEnvironment):
        def validate_settings(self, num_devices: int, num_nodes: int) -> None:
            """Let machines have different numbers of processes."""

    return Started()


def seed_of(*numbers: int) -> int:
    """Return one seed made from some numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def fits_on(device: torch.device, size: int) -> bool:
    """Return whether so many bytes are a small part of the free memory of a GPU."""
    return device.type == "cuda" and size < _SHARE_FOR_IMAGES * torch.cuda.mem_get_info(device)[0]


@contextmanager
def compiled(detector: nn.Module) -> Iterator[None]:
    """Let the networks of a detector run compiled for a while; `nn.Module.compile` could not be undone.

    Raises:
        InputError: there is no compiler.
    """
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise InputError("compile needs a C++ compiler: install one, or leave it out")
    networks = [part for part in detector.children() if "forward" not in vars(part)]
    for network in networks:
        network.forward = torch.compile(network.forward)
    try:
        yield
    finally:
        for network in networks:
            del network.forward


@contextmanager
def large_blocks_kept() -> Iterator[None]:
    """Let freed memory be used again at once, where the C library is glibc.

    It hands blocks of more than 32 MiB back to the system as soon as they are freed; the gradient of a large dense
    layer is one, and getting its pages anew in every step takes as long as computing it. Afterwards all that is free
    goes back.
    """
    try:
        library = ctypes.CDLL(None)
        mallopt, trim = library.mallopt, library.malloc_trim
    except (OSError, TypeError, AttributeError):
        yield
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        mallopt(_MMAP_MAX, _USUAL_MMAP_MAX)
        mallopt(_MMAP_THRESHOLD, _USUAL_MMAP_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, _USUAL_TRIM_THRESHOLD)
        trim(0)

"""Torch's global state, which is the caller's: the library computes with settings and seeds of its own meanwhile."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import RLock, local
from typing import Any

import torch

from recondite.process_wide import ProcessWide

_OWN: list[tuple[Callable[[], Any], Callable[[Any], None], Any]] = [
    (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
]
"""Settings of the whole process: how to read one, how to set it, and what the library computes with."""
_seeding = RLock()
_thread = local()


@contextmanager
def own_settings() -> Iterator[None]:
    """Compute in float32, on the processor unless told otherwise, and with gradients, whatever the caller has set.

    Of the caller's settings, these wait until the end: `set_default_dtype`, `set_float32_matmul_precision`,
    `set_default_device`, `no_grad`, `inference_mode` and `autocast`. The first two belong to the whole process, so
    other threads see the library's as long as any is in here. Within another `own_settings` it does nothing.
    """
    if getattr(_thread, "inside", False):
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(_process_settings.held())
        # Each of these slows every call of torch down a little, so only where it is needed.
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.enable_grad())
        _thread.inside = True
        try:
            yield
        finally:
            _thread.inside = False


def _change() -> Callable[[], None]:
    callers = [read() for read, _, _ in _OWN]
    _set([own for _, _, own in _OWN])
    return partial(_set, callers)


def _set(values: list[Any]) -> None:
    for (read, write, _), value in zip(_OWN, values, strict=True):
        if read() != value:
            write(value)


_process_settings = ProcessWide(_change)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch for a while and leave its global state as it was; one thread at a time."""
    with _seeding, torch.random.fork_rng():
        torch.manual_seed(seed)
        yield

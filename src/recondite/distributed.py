"""Collectives over processes, so that several compute what one would.

In a training step each process holds some rows of a batch. Random draws are made for the whole batch and cut to those
rows, and batch norm takes its statistics over the whole batch. Outside of steps, lists of work are shared out by turns
and the results put together in order. Whoever starts the processes (torchrun, Ray Train) says so by the environment
variables of torchrun: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT. With one process all of
it is plain torch.
"""

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """The part of a batch that this process holds: rows rank, rank + world, rank + 2 world, ... of `rows`.

    Args:
        generator: the same state in every process; each draws the same numbers from it in the same order.
    """

    rank: int
    world: int
    rows: int
    generator: torch.Generator

    @property
    def idle(self) -> bool:
        """Whether there is no row for this process; it then holds the first one, which counts for nothing."""
        return self.rank >= self.rows

    @property
    def mine(self) -> slice:
        """The rows that this process holds."""
        return slice(0, 1) if self.idle else slice(self.rank, None, self.world)


_share: ContextVar[Share | None] = ContextVar("share", default=None)
_together: ContextVar[bool] = ContextVar("together", default=False)


@contextmanager
def collective() -> Iterator[None]:
    """Make what runs inside collective: all processes, if there are several, must run the same code in here.

    Outside of it a process is on its own: one of them may score or save without the others.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(_leave)
    token = _together.set(True)
    try:
        yield
    finally:
        _together.reset(token)


def rank_and_size() -> tuple[int, int]:
    """Return the rank of this process and the number of those that work together; (0, 1) for one on its own."""
    if _together.get() and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def shard_of(work: Sequence[T]) -> Sequence[T]:
    """Return this process's part of a list of work that every process has: each of them in turn takes one."""
    rank, world = rank_and_size()
    return work[rank::world]


def all_gather(value: T) -> list[T]:
    """Return the value of every process by rank, in every process."""
    _, world = rank_and_size()
    if world == 1:
        return [value]
    values: list[T | None] = [None] * world
    distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def broadcast(value: T) -> T:
    """Return the value of the first process, in every process."""
    if rank_and_size()[1] == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def unsharded(results: Sequence[T]) -> list[T]:
    """Return the results of all processes, for what `shard_of` gave each of them, in the order of the whole list."""
    parts = all_gather(list(results))
    return [parts[index % len(parts)][index // len(parts)] for index in range(sum(map(len, parts)))]


def all_reduce(value: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes, in place."""
    if rank_and_size()[1] > 1:
        distributed.all_reduce(value)
    return value


def _leave() -> None:
    """Leave the group in order: threads of it that outlive the interpreter abort the process."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def sharing(share: Share) -> Iterator[None]:
    """Let the draws and batch norms below know which rows of the batch this process holds."""
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


def current_share() -> Share | None:
    """Return what part of a batch this process holds; None outside of `sharing`."""
    return _share.get()


def normal(rows: int, size: int, device: torch.device) -> Tensor:
    """Return standard normal draws (rows, size) for the rows that this process holds."""
    share = _share.get()
    if share is None:
        return torch.randn(rows, size, device=device)
    return torch.randn(share.rows, size, generator=share.generator, device=device)[share.mine]


def uniform(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return draws from [0, 1) of a shape (rows, ...) for the rows that this process holds."""
    share = _share.get()
    if share is None:
        return torch.rand(shape, device=device)
    whole = (share.rows, *shape[1:])
    return torch.rand(whole, generator=share.generator, device=device)[share.mine]

"""What several processes share in a training step, so that together they compute what one alone would.

Each process holds some rows of a batch. Random draws are made for the whole batch and cut to those rows, and batch norm
takes its statistics over the whole batch. With one process, and outside a training step, all of it is plain torch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn


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


_share: ContextVar[Share | None] = ContextVar("share", default=None)


@contextmanager
def sharing(share: Share) -> Iterator[None]:
    """Let the draws and batch norms below know which rows of the batch this process holds."""
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


def normal(rows: int, size: int, device: torch.device) -> Tensor:
    """Return standard normal draws (rows, size) for the rows that this process holds."""
    share = _share.get()
    if share is None:
        return torch.randn(rows, size, device=device)
    return torch.randn(share.rows, size, generator=share.generator, device=device)[share.rank :: share.world]


def uniform(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return draws from [0, 1) of a shape (rows, ...) for the rows that this process holds."""
    share = _share.get()
    if share is None:
        return torch.rand(shape, device=device)
    whole = (share.rows, *shape[1:])
    return torch.rand(whole, generator=share.generator, device=device)[share.rank :: share.world]


class Dropout(nn.Module):
    """Dropout whose mask depends on a row's place in the whole batch.

    Args:
        rate: share of values set to zero in training.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = uniform(tuple(x.shape), x.device) >= self.rate
        return x * kept.to(x.dtype) / (1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm of (N, C, ...) with the statistics of the whole batch.

    torch.nn.SyncBatchNorm does the same on GPUs only.
    """

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  torch's name
        if input.ndim < 2:
            raise ValueError(f"expected (N, C, ...); got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        share = _share.get()
        if not self.training or share is None or share.world == 1:
            return super().forward(input)
        x = input.float()
        axes = [0, *range(2, x.ndim)]
        column = (1, -1, *[1] * (x.ndim - 2))
        count = share.rows * (x.numel() // (x.shape[0] * x.shape[1]))
        mean = _sum_over_processes(x.sum(axes)) / count
        centred = x - mean.view(column)
        variance = _sum_over_processes(centred.square().sum(axes)) / count
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(column) + self.bias.view(column)).to(input.dtype)


def _sum_over_processes(value: Tensor) -> Tensor:
    from torch.distributed.nn.functional import all_reduce

    summed: Tensor = all_reduce(value)  # type: ignore[no-untyped-call]
    return summed

"""Dropout and batch norm synchronised over processes: as over the whole batch."""

import torch
from torch import Tensor, nn

from recondite.distributed import current_share, uniform


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
        share = current_share()
        if not self.training or share is None or share.world == 1:
            return super().forward(input)
        x = input if input.dtype == torch.float64 else input.float()
        axes = [0, *range(2, x.ndim)]
        column = (1, -1, *[1] * (x.ndim - 2))
        count = share.rows * (x.numel() // (x.shape[0] * x.shape[1]))
        counted = 0.0 if share.idle else 1.0
        mean = _sum_over_processes(counted * x.sum(axes)) / count
        centred = x - mean.view(column)
        variance = _sum_over_processes(counted * centred.square().sum(axes)) / count
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


def has_unsynchronised_batch_norm(module: nn.Module) -> bool:
    """Return whether there is batch norm that takes its statistics over the rows of its process only."""
    parts = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    return any(not isinstance(part, BatchNorm) for part in parts)


def _sum_over_processes(value: Tensor) -> Tensor:
    from torch.distributed.nn.functional import all_reduce

    summed: Tensor = all_reduce(value)  # type: ignore[no-untyped-call]
    return summed

"""Convolutions whose output is a small map, computed as products of matrices while a network learns.

oneDNN's kernels for convolutions reach a third to two thirds of a processor's peak on maps of 4 x 4, its products of
matrices nearly all of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

_LARGEST_MAP, _FEWEST_INPUTS, _FEWEST_OUTPUTS = 16, 128, 256
"""Places of the output, and channels; with more places or fewer channels convolutions are the faster ones."""


@contextmanager
def small_maps_as_products(module: nn.Module) -> Iterator[None]:
    """While it lasts, convolutions with small maps are computed as products on processors; the same up to rounding."""
    layers: list[Any] = [part for part in module.modules() if _suits(part)]
    for layer in layers:
        layer.forward = partial(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _suits(part: Any) -> bool:
    own = type(part) is nn.Conv2d and "forward" not in vars(part)
    if not own or part.padding_mode != "zeros" or isinstance(part.padding, str):
        return False
    many = part.in_channels >= _FEWEST_INPUTS and part.out_channels >= _FEWEST_OUTPUTS
    square = all(len({*pair}) == 1 for pair in (part.kernel_size, part.stride, part.padding))
    return bool(many and square and part.groups == 1 and part.dilation == (1, 1) and part.kernel_size[0] > 1)


def _forward(layer: Any, x: Tensor) -> Tensor:
    kernel, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
    sides = [(side + 2 * padding - kernel) // stride + 1 for side in x.shape[2:]]
    elsewhere = x.device.type != "cpu" or torch.is_autocast_enabled("cpu")
    if elsewhere or len(sides) != 2 or min(sides) < 1 or prod(sides) > _LARGEST_MAP:
        plain: Tensor = layer._conv_forward(x, layer.weight, layer.bias)
        return plain
    height, width = sides
    columns: Tensor = _Columns.apply(x, kernel, stride, padding, height, width)  # type: ignore[no-untyped-call]
    rows = columns @ layer.weight.permute(2, 3, 1, 0).flatten(0, 2)
    maps: Tensor = (rows if layer.bias is None else rows + layer.bias).view(len(x), height, width, -1)
    return maps.permute(0, 3, 1, 2)


class _Columns(torch.autograd.Function):
    """What each place of the output looks at: (N, C, H, W) -> (N height width, kernel^2 C)."""

    @staticmethod
    def forward(context: Any, x: Tensor, kernel: int, stride: int, padding: int, height: int, width: int) -> Tensor:
        padded = pad(x.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
        context.padded, context.kernel, context.stride, context.padding = padded.shape, kernel, stride, padding
        images, rows, columns, channels = padded.stride()
        shape = (len(x), height, width, kernel, kernel, x.shape[1])
        context.shape = shape
        steps = (images, stride * rows, stride * columns, rows, columns, channels)
        return padded.as_strided(shape, steps).reshape(len(x) * height * width, -1)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _, height, width, kernel, *_ = context.shape
        stride, padding = context.stride, context.padding
        parts, found = gradient.view(context.shape), gradient.new_zeros(context.padded)
        for row in range(kernel):
            for column in range(kernel):
                place = found[:, row : row + stride * height : stride, column : column + stride * width : stride]
                place += parts[:, :, :, row, column]
        inner = found[:, padding : found.shape[1] - padding, padding : found.shape[2] - padding]
        return inner.permute(0, 3, 1, 2), None, None, None, None, None

"""Networks fused for inference: the same function up to rounding, with weights in the processor's layout."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

_LANES = 16
"""Numbers that a processor multiplies at once; a layer with fewer output channels than that leaves lanes empty."""
_Weighted = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
_Network = TypeVar("_Network", bound=nn.Module)
Run = Callable[[Tensor], Tensor]


class Packed(nn.Module):
    """Layers on packed weights: a convolution or dense layer, with its norm and activation, or a block of them."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, (N, ...) to (N, ...)."""
        return self.run(x)


class InBfloat16(nn.Module):
    """A network that computes in bfloat16 where that is safe, and gives float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output, (N, ...) to (N, ...)."""
        with torch.autocast(x.device.type, torch.bfloat16):
            result: Tensor = self.network(x)
        return result.float()


def ready_network(network: nn.Module, example: Tensor) -> nn.Module:
    """Return the network for use in eval mode without gradients; itself where nothing is to be gained.

    In an `nn.Sequential`, also within others, each convolution and dense layer is packed by oneDNN, batch norms are
    folded into the weights before them, and ReLUs are applied while a result is still in the processor's cache. Layers
    of other kinds stay what they are, and so does any other module. What a layer gives for an image does not, as far
    as has been seen, depend on how many others are in the batch, but for batches of one; the library's own dense layer
    does not have this. Hooks on the network's own modules are not called.

    Args:
        network: on any device; only on a processor there is something to gain.
        example: (N, ...), a batch such as it will be given.
    """
    if not isinstance(network, nn.Sequential) or not can_pack(example):
        return network
    layers: list[nn.Module] = []
    for layer, norm, activation in weighted_layers(network):
        made = layer
        if _packable(layer):
            made = Packed(packed(layer, norm, activation, example))
        example = made(example)
        layers.append(made)
        if made is layer:
            for follower in (norm, activation):
                if follower is not None:
                    example = follower(example)
                    layers.append(follower)
    return nn.Sequential(*layers)


def weighted_layers(
    network: nn.Sequential,
) -> Iterator[tuple[nn.Module, nn.Module | None, nn.Module | None]]:
    """Yield the layers of a network in order, those with weights together with the norm and ReLU that follow them."""
    leaves = list(_leaves(network))
    while leaves:
        layer = leaves.pop(0)
        norm, activation = None, None
        if isinstance(layer, _Weighted):
            if leaves and isinstance(leaves[0], _BatchNorm) and leaves[0].track_running_stats:
                norm = leaves.pop(0)
            if leaves and isinstance(leaves[0], nn.ReLU | nn.LeakyReLU | nn.Hardtanh):
                activation = leaves.pop(0)
        yield layer, norm, activation


def _leaves(network: nn.Sequential) -> Iterator[nn.Module]:
    for part in network:
        if isinstance(part, nn.Sequential):
            yield from _leaves(part)
        else:
            yield part


def can_pack(example: Tensor) -> bool:
    """Return whether layers for such a batch can be packed here: on a processor, by a torch that has the operators."""
    there = all(hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_convolution_pointwise"))
    return example.device.type == "cpu" and bool(torch.backends.mkldnn.enabled) and there


def _packable(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return isinstance(layer, nn.Linear)


def packed(layer: Any, norm: Any, activation: nn.Module | None, example: Tensor) -> Run:
    """Return a convolution or dense layer on packed weights, with the norm and ReLU that follow it; see `can_pack`."""
    weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    after: tuple[str, list[float], str] = ("none", [], "")
    if isinstance(activation, nn.LeakyReLU):
        after = ("leaky_relu", [activation.negative_slope], "")
    elif isinstance(activation, nn.Hardtanh):
        after = ("hardtanh", [activation.min_val, activation.max_val], "")
    elif activation is not None:
        after = ("relu", [], "")
    transposed = isinstance(layer, nn.ConvTranspose2d)
    if norm is not None:
        folded = fuse_conv_bn_weights(
            weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias, transpose=transposed
        )
        weight, bias = (part.detach() for part in folded)
    if isinstance(layer, nn.Linear):
        return _linear(weight, bias, after, len(example))
    place = [list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups]
    if not transposed:
        return _convolution(weight, bias, place, after, example)
    if _is_narrow(layer):
        weight, bias, reach = _spread(weight, bias, layer.stride[0], layer.padding[0])
        run = _convolution(weight, bias, [[reach] * 2, [1, 1], [1, 1], 1], after, example)
        return lambda x: _shuffled(run(x), layer.stride[0])
    place.insert(1, list(layer.output_padding))
    weight = torch.ops.mkldnn._reorder_convolution_transpose_weight(weight, *place, list(example.shape))
    run_layer = torch.ops.mkldnn._convolution_transpose_pointwise.default
    return lambda x: run_layer(_last(x), weight, bias, *place, *after)


def _linear(weight: Tensor, bias: Tensor | None, after: tuple[str, list[float], str], batch: int) -> Run:
    weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), batch)
    run_layer = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: run_layer(x, weight, bias, *after)


def _convolution(
    weight: Tensor, bias: Tensor | None, place: list[Any], after: tuple[str, list[float], str], example: Tensor
) -> Run:
    weight = torch.ops.mkldnn._reorder_convolution_weight(weight.contiguous(), *place, list(example.shape))
    run_layer = torch.ops.mkldnn._convolution_pointwise.default
    return lambda x: run_layer(_last(x), weight, bias, *place, *after)


def _is_narrow(layer: Any) -> bool:
    """Return whether the layer multiplies both sides by its stride and has too few channels to fill the lanes."""
    stride, padding, extra, kernel = layer.stride[0], layer.padding[0], layer.output_padding[0], layer.kernel_size[0]
    square = all(len({*pair}) == 1 for pair in (layer.stride, layer.padding, layer.output_padding, layer.kernel_size))
    plain = layer.dilation == (1, 1) and layer.groups == 1
    multiplies = kernel + extra == stride + 2 * padding
    return bool(square and plain and multiplies and stride > 1) and layer.out_channels * stride**2 <= _LANES


def with_plain_convolutions(network: _Network) -> _Network:
    """Return a copy whose transposed convolutions with few channels are plain ones and pixel shuffles.

    The function is the same up to rounding; processors' kernels for it are faster.
    """
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, nn.ConvTranspose2d) and _is_narrow(layer):
                setattr(module, name, _spread_convolution(layer))
    return network


def _spread_convolution(layer: nn.ConvTranspose2d) -> nn.Sequential:
    bias = None if layer.bias is None else layer.bias.detach()
    weight, bias, reach = _spread(layer.weight.detach(), bias, layer.stride[0], int(layer.padding[0]))
    plain = nn.Conv2d(layer.in_channels, len(weight), 2 * reach + 1, padding=reach, bias=bias is not None)
    plain.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return nn.Sequential(plain, nn.PixelShuffle(layer.stride[0]))


def _spread(weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> tuple[Tensor, Tensor | None, int]:
    """Return weights, bias and padding of a plain convolution with `stride`^2 times the channels of a transposed one.

    Its channels, rearranged by a pixel shuffle, are what the transposed one gives.
    Source: Shi et al. 2016, arXiv 1609.05158, section 3.2, read backwards.
    """
    inputs, outputs, *kernel = weight.shape
    taps = [
        [
            (tap, (place + padding - tap) // stride)
            for tap in range(max(kernel))
            if (place + padding - tap) % stride == 0
        ]
        for place in range(stride)
    ]
    reach = max(abs(offset) for place in taps for _, offset in place)
    plain = torch.zeros(outputs, stride, stride, inputs, 2 * reach + 1, 2 * reach + 1)
    for row in range(stride):
        for column in range(stride):
            for tall, down in taps[row]:
                for wide, right in taps[column]:
                    plain[:, row, column, :, reach + down, reach + right] = weight[:, :, tall, wide].T
    return plain.flatten(0, 2), None if bias is None else bias.repeat_interleave(stride**2), reach


def _shuffled(x: Tensor, stride: int) -> Tensor:
    """Return what torch's `pixel_shuffle` gives for maps with the channels last, contiguous, in half of its time."""
    count, _, height, width = x.shape
    parts = x.view(count, -1, stride, stride, height, width)
    return parts.permute(0, 1, 4, 2, 5, 3).reshape(count, -1, stride * height, stride * width)


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def inner_layers(encoder: nn.Module) -> list[nn.Module]:
    """Return the inner layers of an encoder: its convolutions and dense layers but the last, after their ReLUs."""
    weighted = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, Packed)
    if isinstance(encoder, nn.Sequential):
        parts = [part for part in weighted_layers(encoder) if isinstance(part[0], weighted)]
        layers: list[nn.Module] = [activation or norm or layer for layer, norm, activation in parts]
    else:
        layers = [part for part in encoder.modules() if isinstance(part, weighted)]
    return layers[:-1]

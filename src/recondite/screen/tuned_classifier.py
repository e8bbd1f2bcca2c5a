"""A classifier whose last blocks were fine-tuned: an EfficientNet-Lite and a linear layer, numbers of a known shape."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from recondite.networks.backbones import VARIANTS, layers_of
from recondite.networks.hooks import evaluating
from recondite.networks.one_by_one import OneByOne
from recondite.networks.two_endings import TwoEndings
from recondite.screen.named_classifier import NamedClassifier, named_from
from recondite.screen.onnx_classifier import OnnxClassifier
from recondite.statistics.classifier_scores import unit
from recondite.torch_state import own_settings

_NETWORK, _BEFORE, _LINEAR = "network.", "before.", "linear."
_SMALLEST_SIDE, _LARGEST_SIDE = 32, 1024


class TunedClassifier:
    """Images (N, C, H, W) in [0, 1] to logits (N, K) and features (N, 2 F), each image on its own.

    Features are what the network sees now and what it saw before it was fine-tuned, each of unit length: what it has
    learnt tells its classes apart, and forgets what tells them from others.

    Args:
        backbone: with all its weights.
        variant: which EfficientNet-Lite it is.
        weight: float32 (K, F), of the means over all places of what the network sees now.
        bias: float32 (K,).
        shape: (C, H, W) of the images.
    """

    def __init__(
        self, backbone: TwoEndings, variant: str, weight: Tensor, bias: Tensor, shape: tuple[int, ...]
    ) -> None:
        self.backbone, self.variant, self.weight, self.bias, self.shape = backbone, variant, weight, bias, shape

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, K)."""
        return self.outputs(pixels)[0]

    @own_settings()
    def outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (N, K) and the features (N, 2 F)."""
        classes, size = self.weight.shape
        if not len(pixels):
            return torch.empty(0, classes), torch.empty(0, 2 * size)
        with evaluating(self.backbone):
            found = [self.told(self._ready(image[None])) for image in pixels.cpu().float()]
        logits, features = zip(*found, strict=True)
        return torch.cat(logits), torch.cat(features)

    def told(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits (N, K) and the features (N, 2 F) of the two maps (N, F, h, w) that the backbone gives."""
        now, before = (one.mean((2, 3)) for one in maps)
        return F.linear(now, self.weight, self.bias), torch.cat([unit(now), unit(before)], dim=1)

    @cached_property
    def _ready(self) -> OneByOne:
        return OneByOne(self.backbone, torch.zeros(1, *self.shape))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return its numbers by name, to be saved."""
        parts = ((_NETWORK, self.backbone.network), (_BEFORE, self.backbone.before))
        found = {
            f"{prefix}{name}": value.contiguous().numpy()
            for prefix, part in parts
            for name, value in part.state_dict().items()
        }
        return {**found, f"{_LINEAR}weight": self.weight.numpy(), f"{_LINEAR}bias": self.bias.numpy()}

    def facts(self) -> dict[str, Any]:
        """Return what it is rebuilt from, beside its numbers, as JSON values."""
        blocks = len(self.backbone.before) - 1
        return {"architecture": self.variant, "blocks": blocks, "side": self.backbone.side, "shape": list(self.shape)}


Kept = OnnxClassifier | TunedClassifier | NamedClassifier
"""Classifiers that a guard is saved with; they look at each image by itself."""


def tuned_from(tensors: dict[str, NDArray[Any]], facts: dict[str, Any]) -> TunedClassifier | NamedClassifier:
    """Return the classifier that gave `tensors` and `facts`.

    Raises:
        InputError, KeyError, RuntimeError, TypeError, ValueError: parts are missing, or do not belong together.
    """
    if isinstance(facts["architecture"], dict):
        return named_from(tensors, facts)
    variant, side, shape = str(facts["architecture"]), int(facts["side"]), tuple(map(int, facts["shape"]))
    if variant not in VARIANTS or not _SMALLEST_SIDE <= side <= _LARGEST_SIDE or len(shape) != 3:
        raise ValueError(f"a classifier of {variant!r}, side {side}, images {shape}")
    if "blocks" not in facts:
        raise ValueError("it was fitted by an earlier version, without what the network saw before: fit it anew")
    blocks = int(facts["blocks"])
    if not 1 <= blocks <= len(layers_of(variant)) - 3:
        raise ValueError(f"a classifier of {variant!r} with {blocks} blocks fine-tuned")
    backbone = TwoEndings(variant, blocks, side)
    own = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
    for prefix, part in ((_NETWORK, backbone.network), (_BEFORE, backbone.before)):
        part.load_state_dict(
            {name.removeprefix(prefix): value for name, value in own.items() if name.startswith(prefix)}
        )
    weight, bias = own[f"{_LINEAR}weight"], own[f"{_LINEAR}bias"]
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or {weight.dtype, bias.dtype} != {torch.float32}:
        raise ValueError(f"a linear layer of shapes {tuple(weight.shape)} and {tuple(bias.shape)}")
    return TunedClassifier(backbone, variant, weight, bias, shape)

"""A classifier whose last blocks were fine-tuned: an EfficientNet-Lite and a linear layer, numbers of a known shape."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from recondite.networks.backbones import VARIANTS, Backbone, layers_of
from recondite.networks.hooks import evaluating
from recondite.networks.one_by_one import OneByOne
from recondite.networks.two_endings import LAST, TwoEndings
from recondite.screen.named_classifier import NamedClassifier, named_from
from recondite.screen.onnx_classifier import OnnxClassifier
from recondite.statistics.classifier_scores import unit
from recondite.torch_state import own_settings

_NETWORK, _BEFORE, _LINEAR = "network.", "before.", "linear."
_ALONE = "alone"
_SMALLEST_SIDE, _LARGEST_SIDE = 32, 1024


class TunedClassifier:
    """Images (N, C, H, W) in [0, 1] to logits (N, K) and features (N, D), each image on its own.

    Features are what the network sees now (F numbers) and, with two endings, what it saw before it was fine-tuned (as
    many), each of unit length, the latter times a weight, or alone: what it has learnt tells its classes apart, and
    forgets what tells them from others.

    Args:
        backbone: with all its weights; one or two endings.
        variant: which EfficientNet-Lite it is.
        weight: float32 (K, F), of the means over all places of what the network sees now.
        bias: float32 (K,).
        shape: (C, H, W) of the images.
        before: the weight of what it saw before, infinite where features are that alone; it counts with two endings
            only.
    """

    def __init__(
        self,
        backbone: Backbone,
        variant: str,
        weight: Tensor,
        bias: Tensor,
        shape: tuple[int, ...],
        before: float = 1.0,
    ) -> None:
        self.backbone, self.variant, self.weight, self.bias, self.shape = backbone, variant, weight, bias, shape
        self.before = before if isinstance(backbone, TwoEndings) else 0.0

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, K)."""
        return self.outputs(pixels)[0]

    @own_settings()
    def outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (N, K) and the features (N, D)."""
        classes, size = self.weight.shape
        if not len(pixels):
            return torch.empty(0, classes), torch.empty(0, size * (1 + (0 < self.before < math.inf)))
        with evaluating(self.backbone):
            found = [self.told(self._ready(image[None])) for image in pixels.cpu().float()]
        logits, features = zip(*found, strict=True)
        return torch.cat(logits), torch.cat(features)

    def told(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits (N, K) and the features (N, D) of the maps (N, F, h, w) that the backbone gives."""
        means = [one.mean((2, 3)) for one in maps]
        logits = F.linear(means[0], self.weight, self.bias)
        if self.before == math.inf:
            return logits, unit(means[1])
        vectors = [unit(one) * weight for one, weight in zip(means, (1.0, self.before), strict=False)]
        return logits, torch.cat(vectors, dim=1)

    def with_before(self, before: float) -> "TunedClassifier":
        """Return one of these very weights, two endings, and another weight of what the network saw before.

        With 0 there is one ending, and features are (N, F), as they are with an infinite weight.
        """
        backbone = self.backbone
        if not before:
            backbone = Backbone(None, (LAST,), backbone.side, variant=self.variant).eval()
            backbone.network = self.backbone.network
        return TunedClassifier(backbone, self.variant, self.weight, self.bias, self.shape, before)

    @cached_property
    def _ready(self) -> OneByOne:
        return OneByOne(self.backbone, torch.zeros(1, *self.shape))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return its numbers by name, to be saved."""
        found = {
            f"{prefix}{name}": value.contiguous().numpy()
            for prefix, part in _parts(self.backbone)
            for name, value in part.state_dict().items()
        }
        return {**found, f"{_LINEAR}weight": self.weight.numpy(), f"{_LINEAR}bias": self.bias.numpy()}

    def facts(self) -> dict[str, Any]:
        """Return what it is rebuilt from, beside its numbers, as JSON values."""
        return {
            "architecture": self.variant,
            "blocks": len(self.backbone.before) - 1 if isinstance(self.backbone, TwoEndings) else None,
            "before": _ALONE if self.before == math.inf else self.before,
            "side": self.backbone.side,
            "shape": list(self.shape),
        }


def weighted(features: NDArray[np.float32], size: int, before: float) -> NDArray[np.float32]:
    """Return features (N, D) as a classifier `with_before` gives them, of (N, 2 F) with weight 1; `size` is F."""
    if before in (0, math.inf):
        return np.ascontiguousarray(features[:, :size] if before == 0 else features[:, size:])
    return np.concatenate([features[:, :size], np.float32(before) * features[:, size:]], axis=1)


def _parts(backbone: Backbone) -> list[tuple[str, nn.Module]]:
    """Return the networks of a backbone, and what the names of their numbers begin with in a file."""
    network = [(_NETWORK, backbone.network)]
    return [*network, (_BEFORE, backbone.before)] if isinstance(backbone, TwoEndings) else network


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
    told = facts.get("before", 1.0)
    before = math.inf if told == _ALONE else float(told)
    if not (0 <= before <= 1 or told == _ALONE) or (facts["blocks"] is None) != (before == 0):
        raise ValueError(f"what the network saw before with a weight of {before}")
    if facts["blocks"] is None:
        backbone = Backbone(None, (LAST,), side, variant=variant)
    else:
        blocks = int(facts["blocks"])
        if not 1 <= blocks <= len(layers_of(variant)) - 3:
            raise ValueError(f"a classifier of {variant!r} with {blocks} blocks fine-tuned")
        backbone = TwoEndings(variant, blocks, side)
    own = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
    for prefix, part in _parts(backbone):
        part.load_state_dict(
            {name.removeprefix(prefix): value for name, value in own.items() if name.startswith(prefix)}
        )
    weight, bias = own[f"{_LINEAR}weight"], own[f"{_LINEAR}bias"]
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or {weight.dtype, bias.dtype} != {torch.float32}:
        raise ValueError(f"a linear layer of shapes {tuple(weight.shape)} and {tuple(bias.shape)}")
    return TunedClassifier(backbone, variant, weight, bias, shape, before)

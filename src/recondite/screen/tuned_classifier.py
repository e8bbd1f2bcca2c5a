"""A classifier whose last blocks were fine-tuned: an EfficientNet-Lite and a linear layer, numbers of a known shape."""

from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from recondite.networks.backbones import VARIANTS, Backbone
from recondite.networks.hooks import evaluating
from recondite.networks.one_by_one import OneByOne
from recondite.screen.named_classifier import NamedClassifier, named_from
from recondite.screen.onnx_classifier import OnnxClassifier
from recondite.torch_state import own_settings

LAST = "head"
_NETWORK, _LINEAR = "network.", "linear."
_SMALLEST_SIDE, _LARGEST_SIDE = 32, 1024


class TunedClassifier:
    """Images (N, C, H, W) in [0, 1] to logits (N, K) and features (N, F), each image on its own.

    Args:
        backbone: an EfficientNet-Lite up to its last convolution, with all its weights.
        variant: which one.
        weight: float32 (K, F), of the means of its features over all places.
        bias: float32 (K,).
        shape: (C, H, W) of the images.
    """

    def __init__(self, backbone: Backbone, variant: str, weight: Tensor, bias: Tensor, shape: tuple[int, ...]) -> None:
        self.backbone, self.variant, self.weight, self.bias, self.shape = backbone, variant, weight, bias, shape

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, K)."""
        return self.outputs(pixels)[0]

    @own_settings()
    def outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (N, K) and the features (N, F)."""
        with evaluating(self.backbone):
            found = [self._looking([image[None]])[0] for image in pixels.cpu().float()]
            features = torch.cat(found) if found else torch.empty(0, self.weight.shape[1])
            logits = [F.linear(row[None], self.weight, self.bias) for row in features]
            return torch.cat(logits) if found else torch.empty(0, len(self.bias)), features

    @cached_property
    def _looking(self) -> Any:
        ready = OneByOne(self.backbone, torch.zeros(1, *self.shape))

        def look(images: list[Tensor]) -> list[Tensor]:
            return [ready(image)[0].mean((2, 3)) for image in images]

        return look

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return its numbers by name, to be saved."""
        state = self.backbone.network.state_dict()
        found = {f"{_NETWORK}{name}": value.contiguous().numpy() for name, value in state.items()}
        return {**found, f"{_LINEAR}weight": self.weight.numpy(), f"{_LINEAR}bias": self.bias.numpy()}

    def facts(self) -> dict[str, Any]:
        """Return what it is rebuilt from, beside its numbers, as JSON values."""
        return {"architecture": self.variant, "side": self.backbone.side, "shape": list(self.shape)}


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
    backbone = Backbone(None, (LAST,), side, variant=variant)
    own = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
    backbone.network.load_state_dict(
        {name.removeprefix(_NETWORK): value for name, value in own.items() if name.startswith(_NETWORK)}
    )
    weight, bias = own[f"{_LINEAR}weight"], own[f"{_LINEAR}bias"]
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or {weight.dtype, bias.dtype} != {torch.float32}:
        raise ValueError(f"a linear layer of shapes {tuple(weight.shape)} and {tuple(bias.shape)}")
    return TunedClassifier(backbone, variant, weight, bias, shape)

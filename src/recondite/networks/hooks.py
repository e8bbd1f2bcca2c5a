"""Features of a classifier through forward hooks: penultimate activations, or the output of any layer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recondite.errors import InputError

Module = TypeVar("Module", bound=nn.Module)

_PROBES = 8
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class FeatureLayer:
    """Reads features off a classifier.

    Args:
        classifier: a function or module of images (N, C, H, W) in [0, 1], or of vectors (N, D).
        layer: the name of the module within `classifier` whose output is meant; None for what it returns itself.
    """

    classifier: Callable[[Tensor], Tensor]
    layer: str | None = None

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the features (N, F) of a batch; a map of them (N, F, ...) is averaged over its places.

        Raises:
            InputError: the classifier has no such layer, does not take the batch, or gives something else.
        """
        module, layers = self.classifier, []
        try:
            if self.layer is not None:
                if not isinstance(module, nn.Module):
                    raise InputError(f"only a torch module has layers; got {type(module).__name__}")
                layers = [module.get_submodule(self.layer)]
            with recorded(layers) as outputs:
                if isinstance(module, nn.Module):
                    with evaluating(module):
                        result = module(pixels.to(_precision_of(module)))
                else:
                    with torch.no_grad():
                        result = module(pixels)
        except (AttributeError, RuntimeError, ValueError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the classifier does not take a batch {tuple(pixels.shape)}: {error}") from error
        features = outputs[0] if layers else result
        if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != len(pixels):
            raise InputError("expected one tensor (N, F, ...) from the classifier or its layer")
        return over_places(features.float())

    def probe(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the features (8, F) of fixed noise images, by which the classifier is known again."""
        noise = np.random.default_rng(0).random((_PROBES, *shape), dtype=np.float32)
        return self(torch.from_numpy(noise)).cpu().numpy()

    def check(self, probe: NDArray[np.float32], shape: tuple[int, ...]) -> None:
        """Raise InputError unless this is the classifier that gave the probe, up to a thousandth."""
        found = self.probe(shape)
        if found.shape != probe.shape or not np.allclose(found, probe, _TOLERANCE, _TOLERANCE * np.abs(probe).max()):
            raise InputError("this is not the classifier that the screen was made with: its features differ")


def over_places(features: Tensor) -> Tensor:
    """Return features (N, F), or the means of features (N, F, ...) over their places."""
    return features.flatten(2).mean(2) if features.ndim > 2 else features


def _precision_of(module: nn.Module) -> torch.dtype:
    """Return the type of a network's numbers, which its input should have; float32 where it has none."""
    return next((value.dtype for value in module.parameters() if value.is_floating_point()), torch.float32)


def parts_of(module: nn.Module) -> list[nn.Module]:
    """Return a module and all within it, some perhaps twice; torch's own `modules` takes as long as a small layer."""
    found = [module]
    for part in found:
        found.extend(child for child in part._modules.values() if child is not None)
    return found


@contextmanager
def evaluating(module: Module) -> Iterator[Module]:
    """Put a module into eval mode without gradients, and every part of it back into its own mode afterwards."""
    training = [part for part in parts_of(module) if part.training]
    if training:
        module.eval()
    try:
        with torch.no_grad():
            yield module
    finally:
        for part in training:
            part.training = True


@contextmanager
def recorded(layers: Sequence[nn.Module]) -> Iterator[list[Tensor | None]]:
    """Keep the first output of each layer while the context lasts; None until it comes."""
    outputs: list[Tensor | None] = [None] * len(layers)

    def keep(number: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if outputs[number] is None:
                outputs[number] = output

        return hook

    handles = [layer.register_forward_hook(keep(number)) for number, layer in enumerate(layers)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()

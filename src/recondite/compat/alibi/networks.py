"""Plain torch networks as JSON and back: only layers on a list, nothing is executed but their constructors."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recondite.errors import ArtifactError

_LAYERS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        *(nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm),
        *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Softplus),
        *(nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d),
    )
}
_NESTED = "Sequential"
_MOST_LAYERS, _DEEPEST = 256, 8
_MOST_VALUES = 1 << 26
Spec = list[dict[str, Any]]


def describe(network: nn.Module) -> Spec | None:
    """Return a network as JSON values; None if it is no `Sequential` of plain torch layers, or of such."""
    if type(network) is not nn.Sequential:
        return None
    layers: Spec = []
    for layer in network:
        if type(layer) is nn.Sequential:
            inner = describe(layer)
            if inner is None:
                return None
            layers.append({"layer": _NESTED, "layers": inner})
        elif _LAYERS.get(type(layer).__name__) is type(layer):
            layers.append({"layer": type(layer).__name__, **_arguments(layer)})
        else:
            return None
    return layers


def rebuild(spec: Any, input_shape: tuple[int, ...], weights: Mapping[str, Tensor], prefix: str) -> nn.Sequential:
    """Return the network that `describe` described, with weights of zero, after looking at what it would take.

    Args:
        spec: from `describe`, through a file.
        input_shape: of one input, without the batch.
        weights: tensors, of which those that begin with `prefix` must be this network's.
        prefix: of the names of its tensors.

    Raises:
        ArtifactError: an unknown layer or argument, tensors of another network, or one that grows too large.
    """
    try:
        with torch.device("meta"):
            network = _sequential(spec, _DEEPEST).eval()
            _check_growth(network, torch.zeros(1, *input_shape))
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, OverflowError) as error:
        raise ArtifactError(f"the network cannot be built: {error}") from error
    expected = {prefix + name: value.shape for name, value in network.state_dict().items()}
    given = {name: value.shape for name, value in weights.items() if name.startswith(prefix)}
    if expected != given:
        raise ArtifactError(f"the tensors of {prefix.rstrip('.')} are not those of its network")
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for value in network.state_dict().values():
            value.zero_()
    return network


def _sequential(spec: Any, deepest: int) -> nn.Sequential:
    if not isinstance(spec, list) or len(spec) > _MOST_LAYERS or deepest < 1:
        raise ArtifactError(f"expected a list of at most {_MOST_LAYERS} layers, nested {_DEEPEST} deep at most")
    return nn.Sequential(*(_layer(entry, deepest) for entry in spec))


def _layer(entry: Any, deepest: int) -> nn.Module:
    name = entry.get("layer") if isinstance(entry, dict) else None
    if name == _NESTED:
        return _sequential(entry.get("layers"), deepest - 1)
    if not isinstance(name, str) or name not in _LAYERS:
        raise ArtifactError(f"expected a layer among {', '.join(_LAYERS)}; got {entry!r:.80}")
    kind = _LAYERS[name]
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    del arguments["layer"]
    unknown = set(arguments) - set(_names(kind))
    if unknown:
        raise ArtifactError(f"{name} has no argument {sorted(unknown)[0]!r}")
    return kind(**arguments)


def _check_growth(network: nn.Sequential, values: Tensor) -> Tensor:
    """Run a network that takes no memory, and raise ArtifactError where its values would take too much."""
    for layer in network:
        values = _check_growth(layer, values) if isinstance(layer, nn.Sequential) else layer(values)
        if values.numel() > _MOST_VALUES:
            raise ArtifactError(f"a layer gives {values.numel():,} values; the limit is {_MOST_VALUES:,}")
    return values


def _names(kind: type[nn.Module]) -> list[str]:
    listed = inspect.signature(kind).parameters.values()
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in listed if one.kind not in free and one.name not in ("device", "dtype")]


def _arguments(layer: nn.Module) -> dict[str, Any]:
    """Return what a layer of this kind is made from again."""
    found = {}
    for name in _names(type(layer)):
        value = getattr(layer, name)
        if name == "bias":
            value = value is not None
        found[name] = list(value) if isinstance(value, tuple) else value
    return found

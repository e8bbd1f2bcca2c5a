"""A classifier of timm or transformers with its own head, by name or from a folder: numbers of a known architecture."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from recondite.errors import InputError
from recondite.networks.architectures import CONFIG, WEIGHTS, checked, described, library_of, line_of, quiet
from recondite.networks.hooks import evaluating
from recondite.networks.pretrained import located
from recondite.torch_state import own_settings

_HEADS = {
    "convnext": "ConvNextForImageClassification",
    "convnextv2": "ConvNextV2ForImageClassification",
    "dinov2": "Dinov2ForImageClassification",
    "dinov2_with_registers": "Dinov2WithRegistersForImageClassification",
    "resnet": "ResNetForImageClassification",
    "vit": "ViTForImageClassification",
}
"""Kinds of networks of transformers that have a head -> their class."""
_SIDE, _MOST_CLASSES, _LARGEST_SIDE = 224, 100_000, 2048
_UNTOLD = {"transformers": 2}
"""Library -> how many classes a network has whose configuration does not say it: what is as ever is not written."""


class NamedClassifier:
    """Images (N, 3, H, W) in [0, 1] to logits (N, K) and features (N, F), each image on its own.

    Args:
        architecture: checked; see `recondite.networks.architectures`.
        side: of the images.
        classes: K.
        names: of the classes, where the network's configuration tells them; empty where it does not.

    Raises:
        InputError: no such network, or one without a head of that kind.
    """

    def __init__(self, architecture: Mapping[str, Any], side: int, classes: int, names: tuple[str, ...] = ()) -> None:
        known = checked(architecture)
        if not 2 <= classes <= _MOST_CLASSES or not 8 <= side <= _LARGEST_SIDE or len(names) not in (0, classes):
            raise InputError(f"expected two classes or more and an ordinary side; got {classes} and {side}")
        self.architecture, self.side, self.classes, self.names = known, side, classes, names
        self.shape = (3, side, side)
        try:
            self.network = _built(known, classes).requires_grad_(False).eval()
        except InputError:
            raise
        except Exception as error:  # whatever a library raises where the numbers do not suit it
            raise InputError(f"the classifier {known['name']!r} cannot be built: {line_of(error)}") from error
        heads = [
            part for part in self.network.modules() if isinstance(part, nn.Linear) and part.out_features == classes
        ]
        if not heads:
            raise InputError(f"the classifier {known['name']!r} has no linear head, which features would come from")
        self._head = heads[-1]
        self._mean, self._deviation = (torch.tensor(known[key])[:, None, None] for key in ("mean", "deviation"))

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, K)."""
        return self.outputs(pixels)[0]

    @own_settings()
    def outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (N, K), and the features (N, F) that the head gets."""
        logits, features = [torch.empty(0, self.classes)], [torch.empty(0, self._head.in_features)]
        with evaluating(self.network):
            for image in pixels.cpu().float():
                said, seen = self.together(image[None])
                logits.append(said)
                features.append(seen)
        return torch.cat(logits), torch.cat(features)

    def together(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `outputs` does, of images that the network, in eval mode, sees as one batch."""
        features: list[Tensor] = []
        hook = self._head.register_forward_pre_hook(lambda _, given: features.append(given[0].detach()))
        try:
            found = self.network((pixels - self._mean) / self._deviation)
        finally:
            hook.remove()
        return found if isinstance(found, Tensor) else found.logits, features[0]

    def load(self, stored: Mapping[str, Tensor]) -> "NamedClassifier":
        """Fill the network with its weights, and return the classifier.

        Raises:
            InputError: tensors are missing, or have other shapes.
        """
        try:
            self.network.load_state_dict(dict(stored))
        except RuntimeError as error:
            raise InputError(f"the weights are not those of {self.architecture['name']!r}: {line_of(error)}") from error
        return self

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return its numbers by name, to be saved."""
        return {name: value.contiguous().numpy() for name, value in self.network.state_dict().items()}

    def facts(self) -> dict[str, Any]:
        """Return what it is rebuilt from, beside its numbers, as JSON values."""
        return {
            "architecture": self.architecture,
            "side": self.side,
            "classes": self.classes,
            "names": list(self.names),
        }


def read_named(name: str) -> NamedClassifier:
    """Return a classifier of timm or transformers with its own head.

    Args:
        name: "timm:NAME" or "hf:ORG/NAME[@REVISION]", which are downloaded once, or a folder with config.json and
            model.safetensors as either library writes it.

    Raises:
        InputError: no such network, another kind of network, no safetensors, or a library that is not installed.
    """
    folder = located(name)
    architecture = described(folder)
    told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    inner = told.get("pretrained_cfg") or told
    named = told.get("id2label") or dict(enumerate(told.get("label_names") or []))
    try:
        names = tuple(str(one) for _, one in sorted((int(place), one) for place, one in dict(named).items()))
        told_number = told.get("num_classes") or inner.get("num_classes") or _UNTOLD[architecture["library"]]
        classes = len(names) or int(told_number)
        side = architecture["config"].get("image_size") or (inner.get("input_size") or [3, _SIDE])[-1]
        if architecture["library"] == "timm":
            side = architecture["config"].get("img_size") or side
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / CONFIG} does not tell the classes of a classifier: {line_of(error)}") from error
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"expected {WEIGHTS} in {folder}; other formats of weights are not read")
    made = NamedClassifier(architecture, int(side), classes, names)
    try:
        stored = load_file(folder / WEIGHTS) if architecture["library"] == "timm" else _stored(made.network, folder)
    except Exception as error:  # likewise
        raise InputError(f"the weights in {folder} are not those of the network: {line_of(error)}") from error
    return made.load(stored)


def named_from(tensors: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> NamedClassifier:
    """Return the classifier that gave `tensors` and `facts`.

    Raises:
        InputError, KeyError, TypeError, ValueError: parts are missing, or do not belong together.
    """
    names = tuple(map(str, facts["names"]))
    made = NamedClassifier(facts["architecture"], int(facts["side"]), int(facts["classes"]), names)
    return made.load({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()})


def _built(known: Mapping[str, Any], classes: int) -> nn.Module:
    name, config = known["name"], known["config"]
    if known["library"] == "timm":
        network: nn.Module = library_of("timm").create_model(name, pretrained=False, num_classes=classes, **config)
        return network
    if name not in _HEADS:
        raise InputError(f"expected a classifier of {', '.join(_HEADS)}; got {name!r}, which has no head")
    library, head = library_of("transformers"), _HEADS[name]
    configured = getattr(library, head.replace("ForImageClassification", "Config"))(**config, num_labels=classes)
    made: nn.Module = getattr(library, head)(configured)
    return made


def _stored(network: Any, folder: Path) -> Mapping[str, Tensor]:
    """Return the tensors in a folder by the names that this version of transformers has."""
    with quiet():
        read, report = type(network).from_pretrained(
            folder,
            config=network.config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    missing = sorted({*report["missing_keys"]})
    if missing:
        raise ValueError(f"{len(missing)} tensors are missing, such as {missing[0]}")
    stored: Mapping[str, Tensor] = read.state_dict()
    return stored


def is_named(name: str) -> bool:
    """Return whether a classifier is one of timm or transformers by what it is called."""
    return name.startswith(("timm:", "hf:")) or Path(name).is_dir()

"""Frozen networks of timm and transformers by name, from a hub or a folder, and rebuilt without either.

A screen keeps a network's weights as tensors and its architecture in plain values (see `networks.architectures`). No
code and no pickle is read, and nothing is downloaded to load a screen.
"""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from recondite.data.hub import client, errors_of, parse_address
from recondite.errors import InputError, SourceError, did_you_mean
from recondite.networks.architectures import (
    CONFIG,
    FAMILIES,
    OF_TOKENS,
    PIXELS,
    WEIGHTS,
    checked,
    described,
    library_of,
    line_of,
    quiet,
    side_of,
    timm_names,
)
from recondite.networks.backbones import VARIANTS
from recondite.networks.hooks import recorded

# Tensors that score nothing: some files lack them.
_UNUSED = ("mask_token", "num_batches_tracked")
_FETCHED = [CONFIG, PIXELS, "model*.safetensors", f"{WEIGHTS}.index.json"]


class Pretrained(nn.Module):
    """A network of timm or transformers, with random weights until `load_weights` or `load_state_dict` is called.

    Images (N, 3, H, W) in [0, 1] are enlarged to the next multiple of the patch size and standardised as the network's
    own configuration says. The layers are modules by name, "block1", "block2" and so on of a vision transformer,
    "stage1" to "stage4" of a convolutional network (strides 4 to 32); each gives a grid (N, F, h, w). Of tokens, those
    of the class and the registers are dropped, position encodings are interpolated to the size of the images, and each
    block's output passes the last layer norm, as in the authors' code of DINOv2.

    By default places are looked at by the blocks at 1/2 and 3/4 of the depth: earlier ones tell colours and edges,
    later ones what is shown rather than where; a whole image by the last block, which is what these networks were
    trained to give. Of convolutional networks, places by stages 2 and 3, as in PatchCore (Roth et al. 2022, arXiv
    2106.08265), whole images by 3 and 4.

    Args:
        architecture: checked; see `pretrained`.
        folder: where its weights are; None where that is not known yet.
        model: the network itself.
        kind: "block" or "stage".
        count: how many of them there are.
        patch: pixels a side that the sides of images must be a multiple of.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, architecture: dict[str, Any], folder: Path | None, model: nn.Module, kind: str, count: int, patch: int
    ) -> None:
        super().__init__()
        self.architecture, self.folder, self.patch = architecture, folder, patch
        self.model = model.requires_grad_(False)
        self.layers = tuple(f"{kind}{number + 1}" for number in range(count))
        for name in self.layers:
            self.add_module(name, nn.Identity())
        places = (count // 2, 3 * count // 4) if kind == "block" else (count - 2, count - 1)
        self.place_layers = tuple(dict.fromkeys(self.layers[max(number, 1) - 1] for number in places))
        self.whole_layers = self.layers[-1:] if kind == "block" else self.layers[-2:]
        for name in ("mean", "deviation"):
            self.register_buffer(name, torch.tensor(architecture[name])[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the grid of the last layer; the others pass through the modules of their names."""
        size = [-(-side // self.patch) * self.patch for side in x.shape[2:]]
        if size != list(x.shape[2:]):
            x = F.interpolate(x, size=size, mode="bilinear", antialias=True)
        for name, grid in zip(self.layers, self.grids((x - self.mean) / self.deviation), strict=True):
            grid = self.get_submodule(name)(grid)
        return grid

    def grids(self, x: Tensor) -> Sequence[Tensor]:
        """Return what every layer makes of standardised images, (N, F, h, w) each."""
        raise NotImplementedError

    def load_weights(self, name: str) -> None:
        """Fill the network with its weights.

        Args:
            name: what it was found by, as in `pretrained`.

        Raises:
            InputError: there are none as safetensors, or they are another network's.
        """
        folder = self.folder or located(name)
        if not any((folder / file).is_file() for file in (WEIGHTS, f"{WEIGHTS}.index.json")):
            raise InputError(f"expected {WEIGHTS} in {folder}; other formats of weights are not read")
        try:
            stored = self.stored(folder)
            wanted = [one for one in self.model.state_dict() if one.rpartition(".")[2] not in _UNUSED]
            missing = [one for one in wanted if one not in stored]
            if missing:
                raise ValueError(f"{len(missing)} tensors are missing, such as {missing[0]}")
            self.model.load_state_dict(stored, strict=False)
        except Exception as error:  # whatever a library raises where a file does not suit it
            raise InputError(f"the weights in {folder} are not those of the network: {line_of(error)}") from error

    def stored(self, folder: Path) -> Mapping[str, Tensor]:
        """Return the tensors in a folder by the network's own names."""
        return load_file(folder / WEIGHTS)


class _OfTimm(Pretrained):
    def __init__(self, architecture: dict[str, Any], folder: Path | None) -> None:
        timm, name, config = library_of("timm"), architecture["name"], architecture["config"]
        tokens = timm.models.is_model_in_modules(name, OF_TOKENS)
        arguments = {"dynamic_img_size": True, "img_size": config["img_size"]} if tokens else {}
        model = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
        if tokens:
            super().__init__(architecture, folder, model, "block", len(model.blocks), model.patch_embed.patch_size[0])
            self.looked_at: dict[str, Any] = {"indices": None, "norm": True}
        else:
            stages = [number for number, stage in enumerate(model.feature_info) if stage["reduction"] >= 4]
            super().__init__(architecture, folder, model, "stage", len(stages), 1)
            self.looked_at = {"indices": stages, "norm": False}

    def grids(self, x: Tensor) -> Sequence[Tensor]:
        found: list[Tensor] = self.model.forward_intermediates(  # type: ignore[operator]
            x, output_fmt="NCHW", intermediates_only=True, **self.looked_at
        )
        return found


class _OfTransformers(Pretrained):
    def __init__(self, architecture: dict[str, Any], folder: Path | None) -> None:
        library, family, config = library_of("transformers"), FAMILIES[architecture["name"]], architecture["config"]
        model = getattr(library, family.model)(getattr(library, family.config)(**config), **family.arguments)
        tokens = "num_hidden_layers" in config
        count = config["num_hidden_layers"] if tokens else len(config["depths"])
        patch = side_of(config["patch_size"]) if tokens else 1
        if tokens:
            side_of(config["image_size"])  # position encodings are interpolated from a square of them
        super().__init__(architecture, folder, model, "block" if tokens else "stage", count, patch)
        self.inner = next(
            name for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part) == count
        )
        norms = [name for name, part in model.named_modules() if isinstance(part, nn.LayerNorm)]
        self.norm = [name for name in norms if not name.startswith(f"{self.inner}.")][-1] if tokens else None
        self.interpolating = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters

    def grids(self, x: Tensor) -> Sequence[Tensor]:
        with recorded(list(self.model.get_submodule(self.inner).children())) as outputs:
            self.model(x, **({"interpolate_pos_encoding": True} if self.interpolating else {}))
        found = [output[0] if isinstance(output, tuple) else output for output in outputs if output is not None]
        if self.norm is None:
            return found
        norm, height, width = self.model.get_submodule(self.norm), *(side // self.patch for side in x.shape[2:])
        # Tokens of the class and of the registers come first.
        return [norm(o)[:, -height * width :].transpose(1, 2).unflatten(2, (height, width)) for o in found]

    def stored(self, folder: Path) -> Mapping[str, Tensor]:
        family = FAMILIES[self.architecture["name"]]
        with quiet() as library:
            model, report = getattr(library, family.model).from_pretrained(
                folder,
                config=self.model.config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **family.arguments,
            )
        missing = set(report["missing_keys"])
        return {name: tensor for name, tensor in model.state_dict().items() if name not in missing}


def pretrained(name: str, architecture: Mapping[str, Any] | None = None) -> Pretrained:
    """Return a network by name, with random weights; `load_weights` fills it.

    Args:
        name: "timm:NAME" or "hf:ORG/NAME[@REVISION]", which are downloaded once, or a folder with config.json and
            model.safetensors as either library writes it.
        architecture: what an earlier network of that name had; then nothing is looked up and nothing downloaded.

    Raises:
        InputError: no such network, one of another kind, a hub that cannot be reached, or a library that is not
            installed; or an architecture that is unknown or out of all bounds.
    """
    folder = None
    if architecture is None:
        folder = located(name)
        architecture = described(folder)
    known = checked(architecture)
    try:
        return (_OfTimm if known["library"] == "timm" else _OfTransformers)(known, folder)
    except InputError:
        raise
    except Exception as error:  # likewise
        raise InputError(f"the network {known['name']!r} cannot be built: {line_of(error)}") from error


def located(name: str) -> Path:
    """Return the folder of a network by name.

    Raises:
        InputError: there is no such network, or the hub cannot be reached.
    """
    kind, _, rest = name.partition(":")
    if kind == "timm":
        return _fetched(name, _repository(rest), None)
    if kind == "hf":
        try:
            return _fetched(name, *parse_address(f"hf://{rest}"))
        except InputError as error:
            if not str(error).startswith("expected hf://"):
                raise
            raise InputError(f"expected hf:ORG/NAME or hf:ORG/NAME@REVISION; got {name!r}") from error
    if Path(name).is_dir():
        return Path(name).absolute()
    hint = did_you_mean(name, [*VARIANTS, "timm:", "hf:"])
    known = f"{', '.join(VARIANTS)}, timm:NAME, hf:ORG/NAME or a folder that is there"
    raise InputError(f"expected {known} as the backbone; got {name!r}{hint}")


def _repository(name: str) -> str:
    """Return where on the hub the weights of a network of timm are.

    Args:
        name: as timm has it, with a tag or without: resnet18, resnet18.a1_in1k.
    """
    timm, known = library_of("timm"), timm_names()
    architecture, _, tag = name.partition(".")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if architecture not in known or (tag and tag not in tags):
        near = difflib.get_close_matches(name, [f"{architecture}.{one}" for one in tags] if tags else known)
        hint = f"did you mean {', '.join(f'timm:{one}' for one in near)}?" if near else "see timm.list_pretrained()"
        raise InputError(f"timm has no vision transformer, ConvNeXt or ResNet {name!r}; {hint}")
    where = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
    if not where:
        raise InputError(f"timm knows no weights of {name!r} on the hub")
    return str(where)


def _fetched(name: str, repository: str, revision: str | None) -> Path:
    """Return the folder of a repository's files in the hub's own cache."""
    if find_spec("huggingface_hub") is None:
        raise InputError(f'{name} needs the hub and transformers: pip install "recondite[hf]"')
    try:
        with errors_of(name) as hub:
            return Path(client(hub).snapshot_download(repository, revision=revision, allow_patterns=_FETCHED))
    except SourceError as error:
        raise InputError(f"{error}; elsewhere download {repository} and give its folder as the backbone") from error

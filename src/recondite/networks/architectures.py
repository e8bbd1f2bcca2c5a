"""What is kept of a network of timm or transformers: its architecture, in plain values within limits.

It says the library, a name that the library has to know, and a few numbers. What a file says is checked before anything
is built from it; code from a file is never run.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from recondite.errors import InputError

EXTRAS = {"timm": "timm", "transformers": "hf"}
"""The libraries, and the extra that each comes with."""
_KEYS = {"library", "version", "name", "config", "mean", "deviation"}
CONFIG, PIXELS, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
_LARGEST_CONFIG = 1 << 20

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = ((0.5,) * 3, (0.5,) * 3)


class Family(NamedTuple):
    """A kind of network of transformers: its classes, and the mean and deviation of pixels where no file tells them."""

    config: str
    model: str
    pixels: tuple[tuple[float, ...], tuple[float, ...]] = _IMAGENET
    arguments: Mapping[str, bool] = {}


FAMILIES = {
    "clip_vision_model": Family("CLIPVisionConfig", "CLIPVisionModel", _CLIP),
    "convnext": Family("ConvNextConfig", "ConvNextModel"),
    "convnextv2": Family("ConvNextV2Config", "ConvNextV2Model"),
    "dinov2": Family("Dinov2Config", "Dinov2Model"),
    "dinov2_with_registers": Family("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel"),
    "dinov3_convnext": Family("DINOv3ConvNextConfig", "DINOv3ConvNextModel"),
    "dinov3_vit": Family("DINOv3ViTConfig", "DINOv3ViTModel"),
    "resnet": Family("ResNetConfig", "ResNetModel"),
    "vit": Family("ViTConfig", "ViTModel", _HALF, {"add_pooling_layer": False}),
}
OF_TOKENS, OF_CONVOLUTIONS = ("vision_transformer", "eva"), ("convnext", "resnet")
"""The files of timm whose networks are taken."""
# What a configuration may say, from ... to; whole numbers where the limits are. Lists are of one to eight such numbers.
_LIMITS: dict[str, tuple[float, float]] = {
    "depths": (1, 64),
    "embedding_size": (1, 8192),
    "hidden_size": (1, 8192),
    "hidden_sizes": (1, 8192),
    "image_size": (1, 2048),
    "img_size": (1, 2048),
    "intermediate_size": (1, 65_536),
    "layer_norm_eps": (0.0, 1.0),
    "layer_scale_init_value": (0.0, 10.0),
    "layerscale_value": (0.0, 10.0),
    "mlp_ratio": (0.1, 16.0),
    "num_attention_heads": (1, 128),
    "num_channels": (3, 3),
    "num_hidden_layers": (1, 128),
    "num_register_tokens": (0, 64),
    "num_stages": (1, 8),
    "patch_size": (1, 64),
    "rope_theta": (1.0, 1e6),
}
_SWITCHES = (
    *("downsample_in_bottleneck", "downsample_in_first_stage", "key_bias", "mlp_bias", "proj_bias", "qkv_bias"),
    *("query_bias", "use_gated_mlp", "use_mask_token", "use_swiglu_ffn", "value_bias"),
)
_CHOICES: dict[str, tuple[str | bool, ...]] = {
    "hidden_act": ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu"),
    "layer_type": ("basic", "bottleneck"),
    **dict.fromkeys(_SWITCHES, (False, True)),
}


def check_library(architecture: object) -> None:
    """Raise InputError where the library that an architecture is of is not installed."""
    library = architecture.get("library") if isinstance(architecture, Mapping) else None
    if library in EXTRAS:
        library_of(library)


def made_elsewhere(architecture: object) -> str:
    """Return a remark where an architecture is of another version of its library than the one that is installed."""
    if not isinstance(architecture, Mapping) or architecture.get("library") not in EXTRAS:
        return ""
    library, version = architecture["library"], str(architecture.get("version"))[:20]
    installed = library_of(library).__version__
    return "" if version == installed else f" (made with {library} {version}; installed is {installed})"


def described(folder: Path) -> dict[str, Any]:
    """Return the architecture of the network in a folder."""
    config = _json(folder / CONFIG)
    return (
        _described_by_timm(config, folder) if "architecture" in config else _described_by_transformers(config, folder)
    )


def _described_by_timm(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    timm, name = library_of("timm"), config["architecture"]
    told, arguments = config.get("pretrained_cfg") or config, config.get("model_args") or {}
    if set(arguments) - {"img_size", "dynamic_img_size"}:
        raise InputError(f"expected model_args of img_size only in {folder / CONFIG}; got {', '.join(arguments)}")
    side = side_of(arguments.get("img_size") or (told.get("input_size") or [3, 224, 224])[1:])
    tokens = name in timm_names() and timm.models.is_model_in_modules(name, OF_TOKENS)
    return {
        "library": "timm",
        "version": timm.__version__,
        "name": name,
        "config": {"img_size": side} if tokens else {},
        "mean": list(told.get("mean") or _IMAGENET[0]),
        "deviation": list(told.get("std") or _IMAGENET[1]),
    }


def _described_by_transformers(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    name = "clip_vision_model" if config.get("model_type") == "clip" else config.get("model_type")
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise InputError(f"expected a model_type among {known}, or an architecture of timm in {folder}; got {name!r}")
    family = FAMILIES[name]
    try:
        with quiet() as library:
            told = getattr(library, family.config).from_pretrained(folder, local_files_only=True).to_dict()
    except Exception as error:  # whatever a library raises where a file does not suit it
        raise InputError(f"{folder / CONFIG} is not the configuration of a {name}: {line_of(error)}") from error
    values = {key: told[key] for key in (*_LIMITS, *_CHOICES) if key in told}
    pixels = _json(folder / PIXELS) if (folder / PIXELS).is_file() else {}
    mean, deviation = pixels.get("image_mean", family.pixels[0]), pixels.get("image_std", family.pixels[1])
    if not pixels.get("do_normalize", True):
        mean, deviation = (0.0,) * 3, (1.0,) * 3
    return {
        "library": "transformers",
        "version": library.__version__,
        "name": name,
        "config": {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()},
        "mean": list(mean),
        "deviation": list(deviation),
    }


def checked(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return an architecture, which may come from anywhere, once it is known to be one.

    Raises:
        InputError: it is none, of another library or kind, or of an absurd size; or its library is not installed.
    """
    if set(found) != _KEYS or not isinstance(found["config"], Mapping):
        raise InputError(f"expected an architecture with {', '.join(sorted(_KEYS))}; got {', '.join(map(str, found))}")
    library, name, config = found["library"], found["name"], found["config"]
    if library not in EXTRAS:
        raise InputError(f"expected an architecture of {' or '.join(EXTRAS)}; got {library!r}")
    if name not in (timm_names() if library == "timm" else FAMILIES):
        raise InputError(f"{library} has no vision transformer, ConvNeXt or ResNet {name!r} that is taken here")
    for key, value in config.items():
        if not _is_within(key, value):
            raise InputError(f"expected a network of an ordinary size; got {key} {str(value)[:60]!r}")
    for key in ("mean", "deviation"):
        if not (isinstance(found[key], list) and len(found[key]) == 3 and all(_is_number(one) for one in found[key])):
            raise InputError(f"expected three numbers as the {key} of pixels; got {str(found[key])[:60]}")
    if min(found["deviation"]) <= 0:
        raise InputError(f"expected positive deviations of pixels; got {found['deviation']}")
    return {**found, "config": dict(config)}


def _is_within(key: str, value: Any) -> bool:
    """Return whether a configuration may say so."""
    if key in _CHOICES:
        return any(type(value) is type(choice) and value == choice for choice in _CHOICES[key])
    if key not in _LIMITS:
        return False
    low, high = _LIMITS[key]
    values = value if isinstance(value, list) else [value]
    kinds = (int,) if isinstance(low, int) else (int, float)
    return 1 <= len(values) <= 8 and all(_is_number(one, kinds) and low <= one <= high for one in values)


def _is_number(value: object, kinds: tuple[type, ...] = (int, float)) -> bool:
    return isinstance(value, int | float) and type(value) in kinds and math.isfinite(value)


def side_of(value: object) -> int:
    """Return the side of a square that is given by one number or two equal ones.

    Raises:
        InputError: it is no square of whole numbers.
    """
    sides = set(value) if isinstance(value, list | tuple) else {value}
    side = sides.pop()
    if sides or not isinstance(side, int):
        raise InputError(f"expected square patches and images in the network's configuration; got {value!r}")
    return side


def timm_names() -> list[str]:
    """Return the architectures of timm that are taken, without tags."""
    timm, files = library_of("timm"), (*OF_TOKENS, *OF_CONVOLUTIONS)
    return [name for file in files for name in timm.list_models(module=file)]


def library_of(name: str) -> Any:
    """Return timm or transformers.

    Raises:
        InputError: it is not installed, or cannot be imported.
    """
    if find_spec(name) is None:
        raise InputError(f'this backbone needs {name}, which is not installed: pip install "recondite[{EXTRAS[name]}]"')
    try:
        return import_module(name)
    except (ImportError, RuntimeError) as error:
        raise InputError(f"{name}, which this backbone needs, cannot be imported: {line_of(error)}") from error


@contextmanager
def quiet() -> Iterator[Any]:
    """Yield transformers, which meanwhile says nothing but errors."""
    library = library_of("transformers")
    logs = library.utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield library
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise ValueError(f"it has more than {_LARGEST_CONFIG:,} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no object of JSON")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as the configuration of a network: {line_of(error)}") from error
    return found


def line_of(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

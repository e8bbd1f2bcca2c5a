"""A screen whose detector is fitted, as a folder; `recondite.screen.saved` reads those that run on graphs."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from recondite.data.artifacts import Tensors, tensor_of, write_folder
from recondite.data.images import Preprocessing
from recondite.detectors import Detector, build
from recondite.errors import ArtifactError, InputError
from recondite.graphs.exported import Exported
from recondite.networks.architectures import check_library, made_elsewhere
from recondite.options import saved_options
from recondite.screen.calibrate import check_probe
from recondite.screen.evidence import Evidence
from recondite.screen.facts import checked_facts
from recondite.screen.known import Known
from recondite.screen.saved import CALIBRATION_FILE, DETECTOR_FILE, PEAKS, REGION, calibrator_of, peaks_of, region_of
from recondite.screen.words import ERROR
from recondite.statistics.calibration import Calibrator
from recondite.torch_state import own_settings
from recondite.training.history import History
from recondite.training.snapshots import EpochPictures

_EVIDENCE_FILE, _PICTURES_FILE, _LOSSES_FILE = "evidence.safetensors", "pictures.safetensors", "losses.safetensors"
_KNOWN_FILE, _MEMORY_FILE = "known.safetensors", "memory.safetensors"


def write_screen(
    path: Path | str,
    facts: Mapping[str, Any],
    *,
    detector: Detector,
    calibrator: Calibrator,
    evidence: Evidence | None,
    observations: Mapping[str, NDArray[np.float64]],
    peaks: NDArray[np.float64] | None,
    known: Known | None,
    texts: Mapping[str, str] | None,
) -> None:
    """Write the folder of a screen, atomically: a crash leaves an older screen there whole.

    Args:
        path: the folder.
        facts: what `Screen.to_json` gives.
        detector, calibrator, evidence, observations, peaks, known: as in `Screen`.
        texts: further files for people: name -> text.

    Raises:
        ArtifactError: `path` exists and is not a screen.
        InputError: the screen was exported.
    """
    if isinstance(detector, Exported):
        raise InputError("an exported screen cannot be saved; save or export the one that it was made from")
    tensors: dict[str, Tensors] = {
        DETECTOR_FILE: detector.numbers(),
        CALIBRATION_FILE: {"scores": calibrator.scores, **observations},
    }
    if peaks is not None:
        tensors[CALIBRATION_FILE][PEAKS] = peaks
    if evidence is not None:
        tensors[_EVIDENCE_FILE] = evidence.tensors()
    if detector.history.pictures is not None:
        tensors[_PICTURES_FILE] = detector.history.pictures.tensors()
    if detector.history.losses:
        tensors[_LOSSES_FILE] = dict(detector.history.losses)
    if detector.memory:
        tensors[_MEMORY_FILE] = detector.memory
    if known is not None:
        tensors[_KNOWN_FILE] = known.tensors()
    names = None
    if calibrator.groups is not None:
        unique, codes = np.unique(np.array(calibrator.groups), return_inverse=True)
        tensors[CALIBRATION_FILE]["groups"] = codes.astype(np.int64)
        names = [str(name) for name in unique]
    manifest = {**facts, "groups": names, "versions": _versions()}
    write_folder(Path(os.path.abspath(path)), manifest, tensors, texts or {})


@own_settings()
def read_fitted(
    path: Path,
    manifest: Mapping[str, Any],
    files: Mapping[str, Tensors],
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    backbone: nn.Module | None = None,
    classifier: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Any]:
    """Return the keyword arguments of the `Screen` in a folder.

    Args:
        path: the folder.
        manifest, files: what `read_folder` found in it.
        encoder, decoder, backbone, classifier: as in `recondite.load`.

    Raises:
        ArtifactError, InputError: as `recondite.load`.
    """
    if manifest.get("own_modules") and encoder is None and decoder is None and backbone is None:
        raise InputError(
            f"{path} was made with your own networks: load it with encoder=... and decoder=..., or backbone=..."
        )
    told = manifest.get("evidence")
    if isinstance(told, dict) and told.get("classifier") and classifier is None:
        raise InputError(f"{path} looks at the features of a classifier: load it with classifier=...")
    options = manifest.get("options")
    architecture = options.get("architecture") if isinstance(options, dict) else None
    check_library(architecture)
    try:
        region = region_of(files[DETECTOR_FILE], manifest["preprocessing"])
        preprocessing = Preprocessing.from_json(manifest["preprocessing"], region)
        shape = preprocessing.shape
        weights = {name: torch.from_numpy(array) for name, array in files[DETECTOR_FILE].items()}
        options = saved_options(manifest["options"])
        if not manifest["own_modules"]:
            _check_weights(weights, manifest["detector"], shape, options)
        named = options.pop("backbone", None)
        looking = named if backbone is None else backbone
        detector = build(
            manifest["detector"], image_shape=shape, encoder=encoder, decoder=decoder, backbone=looking, **options
        )
        detector.restrict(region, preprocessing.masked)
        detector.take_values(preprocessing.value_range)
        detector.load_state_dict(weights)
        if not detector.fitted:
            raise ValueError("its detector is not fitted")
        detector.history = History.from_json(manifest["history"])
        if _PICTURES_FILE in files:
            detector.history.pictures = EpochPictures.from_tensors(files[_PICTURES_FILE])
            if preprocessing.is_image and detector.history.pictures.images.shape[1:] != shape:
                raise ValueError(f"pictures of epochs {detector.history.pictures.images.shape}")
        detector.history.losses = _losses(files.get(_LOSSES_FILE, {}))
        detector.memory = files.get(_MEMORY_FILE, {})
        calibration, evidence = files[CALIBRATION_FILE], None
        if manifest["evidence"] is not None:
            evidence = Evidence.from_saved(manifest["evidence"], files[_EVIDENCE_FILE], classifier)
            evidence.check_latents(detector)
        observations = _observations(calibration, evidence)
        found = {
            "detector": detector,
            "calibrator": calibrator_of(manifest, files),
            "alpha": manifest["alpha"],
            "confidence": manifest["confidence"],
            "guarantee": manifest["guarantee"],
            "score": manifest["score"],
            "evidence": evidence,
            "observations": observations,
            "peaks": peaks_of(calibration),
            "known": Known.from_tensors(files[_KNOWN_FILE]) if _KNOWN_FILE in files else None,
            "facts": checked_facts(manifest["facts"]),
        }
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        remark = made_elsewhere(architecture)
        raise ArtifactError(f"{path} is not a consistent screen: {error}{remark}") from error
    if evidence is not None:
        evidence.check_classifier(shape)
    check_probe(detector, found["facts"], path)
    return found


def _observations(calibration: Tensors, evidence: Evidence | None) -> dict[str, NDArray[np.float64]]:
    if evidence is None:
        return {}
    count = len(calibration["scores"])
    found = {
        name: tensor_of(calibration, name, np.float64, count)
        for name in calibration
        if name not in ("scores", "groups", PEAKS)
    }
    missing = {ERROR, *evidence.density.names} - set(found)
    if missing:
        raise ValueError(f"the calibration images lack {', '.join(sorted(missing))}")
    return found


def _losses(found: Tensors) -> Tensors:
    if any(losses.ndim != 1 or losses.dtype != np.float64 for losses in found.values()):
        raise ValueError("the losses of training are inconsistent")
    return found


class _WithoutDraws(TorchFunctionMode):
    """Leaves out normal draws: on the device "meta" they do nothing and import torch's compiler, a third of a start."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func is torch.Tensor.normal_ or getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else named["tensor"]
        if func is torch.randn:
            return torch.empty(*args, **{name: value for name, value in named.items() if name != "generator"})
        return func(*args, **named)


def _check_weights(
    weights: Mapping[str, torch.Tensor], detector: str, shape: tuple[int, ...], options: Mapping[str, Any]
) -> None:
    """Compare the file's tensors with the network the options describe before memory is taken for that network."""
    with torch.device("meta"), _WithoutDraws():
        expected = build(detector, image_shape=shape, **options).state_dict()
    weights = {name: value for name, value in weights.items() if name != REGION}  # checked already
    for name, value in expected.items():
        if name not in weights or weights[name].shape != value.shape or weights[name].dtype != value.dtype:
            raise ValueError(f"tensor {name!r} should be {tuple(value.shape)} of {value.dtype}")
    if len(weights) != len(expected):
        raise ValueError(f"there are {len(weights)} tensors instead of {len(expected)}")


def _versions() -> dict[str, str]:
    packages = ("recondite", "torch", "numpy", "pillow", "safetensors")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}

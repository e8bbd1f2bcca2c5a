"""A screen as a folder: a manifest and safetensors, written atomically, checked when read; ready screens by name."""

import os
import platform
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recondite.data.artifacts import Tensors, holds_manifest, read_folder, write_folder
from recondite.data.hub import fetch, is_address
from recondite.data.images import Preprocessing
from recondite.detectors import Detector, build
from recondite.detectors.graph import BATCH, FILES, Exported, ExportedOptions
from recondite.errors import ArtifactError, InputError
from recondite.networks.architectures import check_library, made_elsewhere
from recondite.options import saved_options
from recondite.screen.calibrate import check_probe
from recondite.screen.evidence import ERROR, Evidence
from recondite.screen.known import Known
from recondite.statistics.calibration import Calibrator
from recondite.training.checkpoint import History
from recondite.training.snapshots import EpochPictures

SCHEMA = 2
KIND, EXPORTED = "recondite screen", "recondite exported screen"
READY = {
    "digits": "scanned digits of 8 x 8 pixels, upright (autoencoder, calibrated at alpha .05)",
    "mnist": "handwritten digits of 28 x 28 pixels, upright (small vae, calibrated at alpha .05)",
    "cifar10": "photographs of 32 x 32 pixels of ten kinds of things (small vae, calibrated at alpha .05)",
}
"""Ready screens, which come with the package: name -> what is normal for it. `scripts/ready_screens.py` makes them."""
_DETECTOR_FILE, _CALIBRATION_FILE = "detector.safetensors", "calibration.safetensors"
_EVIDENCE_FILE, _PICTURES_FILE, _LOSSES_FILE = "evidence.safetensors", "pictures.safetensors", "losses.safetensors"
_KNOWN_FILE, _MEMORY_FILE = "known.safetensors", "memory.safetensors"
_PEAKS = "peaks"
REGION = "region"
"""The tensor, uint8 (H, W), that is 1 where images count."""


def located(path: Path | str) -> Path:
    """Return the folder of a screen; one on the hub is fetched first.

    Args:
        path: a folder; or the name of a ready screen, where there is no such folder; or "hf://ORG/NAME[@REVISION]".

    Raises:
        ArtifactError: what is on the hub is damaged or no screen.
        InputError: there is no such repository, or the hub cannot be reached.
    """
    if is_address(path):
        return fetch(str(path), SCHEMA, KIND)
    folder = Path(os.path.abspath(path))
    if str(path) in READY and not holds_manifest(folder):
        return Path(__file__).parent / "ready_screens" / str(path)
    return folder


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
    state = detector.state_dict()
    tensors: dict[str, Tensors] = {
        _DETECTOR_FILE: {name: value.cpu().contiguous().numpy() for name, value in state.items()},
        _CALIBRATION_FILE: {"scores": calibrator.scores, **observations},
    }
    if peaks is not None:
        tensors[_CALIBRATION_FILE][_PEAKS] = peaks
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
        tensors[_CALIBRATION_FILE]["groups"] = codes.astype(np.int64)
        names = [str(name) for name in unique]
    manifest = {**facts, "groups": names, "versions": _versions()}
    write_folder(Path(os.path.abspath(path)), manifest, tensors, texts or {})


def read_screen(
    path: Path | str,
    *,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    backbone: nn.Module | None = None,
    classifier: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Any]:
    """Return the keyword arguments of the `Screen` in a folder. Nothing in its files is executed.

    Args:
        path: as in `located`.
        encoder, decoder, backbone, classifier: as in `recondite.load`.

    Raises:
        ArtifactError, InputError: as `recondite.load`.
    """
    given, path = path, located(path)
    if not holds_manifest(path):
        what = "has no manifest.json, so it is not a screen" if path.exists() else "is not there"
        raise ArtifactError(f"{given} {what}: expected a folder that fit wrote, or a ready screen: {', '.join(READY)}")
    manifest, files = read_folder(path, SCHEMA, KIND, EXPORTED)
    if manifest["kind"] == EXPORTED:
        return _read_exported(path, manifest, files)
    if manifest.get("own_modules") and encoder is None and decoder is None and backbone is None:
        raise InputError(
            f"{path} was made with your own networks: load it with encoder=... and decoder=..., or backbone=..."
        )
    if (manifest.get("evidence") or {}).get("classifier") and classifier is None:
        raise InputError(f"{path} looks at the features of a classifier: load it with classifier=...")
    options = manifest.get("options")
    architecture = options.get("architecture") if isinstance(options, dict) else None
    check_library(architecture)
    try:
        region = _region(files[_DETECTOR_FILE], manifest["preprocessing"])
        preprocessing = Preprocessing.from_json(manifest["preprocessing"], region)
        shape = preprocessing.shape
        weights = {name: torch.from_numpy(array) for name, array in files[_DETECTOR_FILE].items()}
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
        detector.history = _history(manifest["history"])
        if _PICTURES_FILE in files:
            detector.history.pictures = EpochPictures.from_tensors(files[_PICTURES_FILE])
        detector.history.losses = _losses(files.get(_LOSSES_FILE, {}))
        detector.memory = files.get(_MEMORY_FILE, {})
        calibration, evidence = files[_CALIBRATION_FILE], None
        if manifest["evidence"] is not None:
            evidence = Evidence.from_saved(manifest["evidence"], files[_EVIDENCE_FILE], classifier)
        observations = _observations(calibration, evidence)
        groups = None
        if manifest["groups"] is not None:
            groups = tuple(manifest["groups"][code] for code in calibration["groups"])
        found = {
            "detector": detector,
            "calibrator": Calibrator(calibration["scores"], groups),
            "alpha": manifest["alpha"],
            "confidence": manifest["confidence"],
            "guarantee": manifest["guarantee"],
            "score": manifest["score"],
            "evidence": evidence,
            "observations": observations,
            "peaks": calibration.get(_PEAKS),
            "known": Known.from_tensors(files[_KNOWN_FILE]) if _KNOWN_FILE in files else None,
            "facts": dict(manifest["facts"].items()),
        }
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        remark = made_elsewhere(architecture)
        raise ArtifactError(f"{path} is not a consistent screen: {error}{remark}") from error
    if evidence is not None:
        evidence.check_classifier(shape)
    check_probe(detector, found["facts"], path)
    return found


def _read_exported(path: Path, manifest: Mapping[str, Any], files: Mapping[str, Tensors]) -> dict[str, Any]:
    """Return the arguments of a screen that runs on a graph; what the graph gives is the final score."""
    try:
        region = _region(files[_CALIBRATION_FILE], manifest["preprocessing"])
        seen = Preprocessing.from_json(manifest["preprocessing"], region)
        runtime, precision = manifest.get("runtime", "onnx"), manifest.get("precision", "float32")
        options = ExportedOptions(
            detector=manifest["detector"],
            score=manifest["score"],
            runtime=runtime,
            precision=precision,
            batch=manifest.get("batch", BATCH),
        )
        content = [_checked(path, name, manifest).read_bytes() for name in FILES[runtime]]
        return {
            "detector": Exported(
                seen.shape, options, content, manifest["pixels"], bool(manifest["locates"]), region, seen.value_range
            ),
            "calibrator": Calibrator(files[_CALIBRATION_FILE]["scores"]),
            "alpha": manifest["alpha"],
            "confidence": manifest["confidence"],
            "guarantee": manifest["guarantee"],
            "facts": dict(manifest["facts"]),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path} is not a consistent exported screen: {error}") from error


def _region(tensors: Tensors, preprocessing: Mapping[str, Any]) -> NDArray[np.bool_] | None:
    """Return the region of a saved screen; `Preprocessing` compares it with what the manifest says.

    Raises:
        ValueError: it is not a mask of 0 and 1, or it is missing.
    """
    share = preprocessing.get(REGION, {}).get("share")
    if share is None:
        return None
    found = tensors[REGION]
    if found.dtype != np.uint8 or found.ndim != 2 or found.max(initial=0) > 1:
        raise ValueError(f"a region of {found.dtype} {found.shape}")
    inside: NDArray[np.bool_] = found == 1
    return inside


def _checked(path: Path, name: str, manifest: Mapping[str, Any]) -> Path:
    """Return a file of a folder; ArtifactError if its manifest, which `read_folder` checked, does not list it."""
    if name not in manifest["files"]:
        raise ArtifactError(f"{path} lacks {name}")
    return path / name


def _observations(calibration: Tensors, evidence: Evidence | None) -> dict[str, NDArray[np.float64]]:
    if evidence is None:
        return {}
    found = {name: value for name, value in calibration.items() if name not in ("scores", "groups", _PEAKS)}
    if any(len(value) != len(calibration["scores"]) for value in found.values()):
        raise ValueError("the statistics of the calibration images are not as many as their scores")
    missing = {ERROR, *evidence.density.names} - set(found)
    if missing:
        raise ValueError(f"the calibration images lack {', '.join(sorted(missing))}")
    return found


def _history(facts: Mapping[str, Any]) -> History:
    history = History(facts["epochs"], facts["best_epoch"])
    if not 0 <= history.best_epoch <= len(history.epochs) or not all("validation" in row for row in history.epochs):
        raise ValueError("the history of training is inconsistent")
    return history


def _losses(found: Tensors) -> Tensors:
    if any(losses.ndim != 1 or losses.dtype != np.float64 for losses in found.values()):
        raise ValueError("the losses of training are inconsistent")
    return found


def _check_weights(
    weights: Mapping[str, torch.Tensor], detector: str, shape: tuple[int, ...], options: Mapping[str, Any]
) -> None:
    """Compare the file's tensors with the network the options describe before memory is taken for that network."""
    with torch.device("meta"):
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

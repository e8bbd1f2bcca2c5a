"""A screen as a folder: a manifest and safetensors, written atomically, checked when read; ready screens by name."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.artifacts import Tensors, holds_manifest, tensor_of
from recondite.data.hub import fetch, is_address
from recondite.data.images import Preprocessing
from recondite.errors import ArtifactError, did_you_mean
from recondite.graphs.exported import BATCH, Exported, ExportedOptions
from recondite.graphs.runtimes import FILES
from recondite.screen.facts import checked_facts
from recondite.statistics.calibration import Calibrator

SCHEMA = 2
KIND, EXPORTED = "recondite screen", "recondite exported screen"
READY = {
    "digits": "scanned digits of 8 x 8 pixels, upright (autoencoder, calibrated at alpha .05)",
    "mnist": "handwritten digits of 28 x 28 pixels, upright (small vae, calibrated at alpha .05)",
    "cifar10": "photographs of 32 x 32 pixels of ten kinds of things (small vae, calibrated at alpha .05)",
}
"""Ready screens, which come with the package: name -> what is normal for it. `scripts/ready_screens.py` makes them."""
DETECTOR_FILE, CALIBRATION_FILE = "detector.safetensors", "calibration.safetensors"
GUARD_FILE = "guard.safetensors"
REGION = "region"
"""The tensor, uint8 (H, W), that is 1 where images count."""
PEAKS = "peaks"


def located(path: Path | str) -> Path:
    """Return the folder of a screen; one on the hub is fetched first.

    Args:
        path: a folder; or the name of a ready screen, where there is no such folder; or "hf://ORG/NAME[@REVISION]".

    Raises:
        ArtifactError: what is on the hub is damaged or no screen.
        InputError: there is no such repository.
        SourceError: the hub cannot be reached.
    """
    if is_address(path):
        return fetch(str(path), SCHEMA, KIND)
    folder = Path(os.path.abspath(path))
    if str(path) in READY and not holds_manifest(folder):
        return Path(__file__).parent / "ready_screens" / str(path)
    return folder


def existing(path: Path | str) -> Path:
    """Return the folder of a screen that is there, as `located` does.

    Raises:
        ArtifactError, InputError: as `located`; or there is none.
    """
    folder = located(path)
    if not holds_manifest(folder):
        what = "has no manifest.json, so it is not a screen" if folder.exists() else "is not there"
        near = did_you_mean(path, READY)
        raise ArtifactError(
            f"{path} {what}: expected a folder that fit wrote, or a ready screen: {', '.join(READY)}{near}"
        )
    return folder


def holds_guard(path: Path | str) -> bool:
    """Return whether the folder of a screen, as `located` finds it, holds a guard too."""
    return (located(path) / GUARD_FILE).exists()


def read_exported(path: Path, manifest: Mapping[str, Any], files: Mapping[str, Tensors]) -> dict[str, Any]:
    """Return the keyword arguments of a `Screen` that runs on a graph; what the graph gives is the final score.

    Args:
        path: the folder.
        manifest, files: what `read_folder` found in it.

    Raises:
        ArtifactError: they are not consistent.
        InputError: the program that runs it is not installed.
    """
    try:
        region = region_of(files[CALIBRATION_FILE], manifest["preprocessing"])
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
        guard = manifest.get("guard") or {"classes": [], "rules": []}
        said = (len(guard["classes"]), tuple(map(str, guard["rules"])))
        given = (manifest["pixels"], bool(manifest["locates"]), region, seen.value_range)
        return {
            "detector": Exported(seen.shape, options, content, *given, *said),
            "calibrator": Calibrator(_scores(files[CALIBRATION_FILE])),
            "peaks": peaks_of(files[CALIBRATION_FILE]),
            "alpha": manifest["alpha"],
            "confidence": manifest["confidence"],
            "guarantee": manifest["guarantee"],
            "facts": checked_facts(manifest["facts"]),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path} is not a consistent exported screen: {error}") from error


def calibrator_of(manifest: Mapping[str, Any], files: Mapping[str, Tensors]) -> Calibrator:
    """Return the calibrator of a saved screen.

    Raises:
        KeyError, IndexError, ValueError: the parts do not belong together.
    """
    calibration, groups, names = files[CALIBRATION_FILE], None, manifest["groups"]
    scores = _scores(calibration)
    if names is not None:
        codes = tensor_of(calibration, "groups", np.int64, len(scores))
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or codes.min() < 0:
            raise ValueError("the names of groups are inconsistent")
        groups = tuple(names[code] for code in codes)
    return Calibrator(scores, groups)


def _scores(calibration: Tensors) -> NDArray[np.float64]:
    return tensor_of(calibration, "scores", np.float64, None)


def peaks_of(calibration: Tensors) -> NDArray[np.float64] | None:
    """Return the largest feature score of each calibration image (n,), where the detector tells places.

    Raises:
        ValueError: they are no numbers.
    """
    return tensor_of(calibration, PEAKS, np.float64, None) if PEAKS in calibration else None


def region_of(tensors: Tensors, preprocessing: Mapping[str, Any]) -> NDArray[np.bool_] | None:
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

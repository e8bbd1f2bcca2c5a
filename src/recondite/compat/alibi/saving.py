"""Saving, loading and fetching with alibi-detect's names, in Recondite's safe format."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recondite.compat.alibi.detectors import OutlierAE, OutlierVAE
from recondite.compat.alibi.networks import describe, rebuild
from recondite.data.artifacts import holds_manifest, read_folder, read_manifest, write_folder
from recondite.data.hub import is_address
from recondite.data.images import Preprocessing
from recondite.detectors import Detector, build
from recondite.errors import ArtifactError, InputError
from recondite.options import options_to_json, saved_options
from recondite.screen.saved import EXPORTED, READY, located
from recondite.screen.saved import KIND as KIND_OF_SCREENS
from recondite.screen.saved import SCHEMA as SCREENS
from recondite.screen.screen import load
from recondite.screen.words import ERROR
from recondite.torch_state import own_settings

KIND, SCHEMA = "recondite detector of the alibi-detect face", 1
_WEIGHTS = "detector.safetensors"
_FACES: dict[str, type[OutlierVAE | OutlierAE]] = {"OutlierVAE": OutlierVAE, "OutlierAE": OutlierAE}


def save_detector(detector: OutlierVAE | OutlierAE, filepath: Path | str, legacy: bool = False) -> None:
    """Write a fitted detector as a folder of JSON and safetensors, atomically.

    Networks that are `Sequential`s of plain torch layers are described in it; others must be given to `load_detector`.

    Args:
        detector: fitted.
        filepath: the folder.
        legacy: must be False: the other library's legacy format holds pickles.

    Raises:
        NotFittedError: it is not fitted.
        ArtifactError: `filepath` exists and is something else.
        InputError: the legacy format, or a detector that looks at a region.
    """
    if legacy:
        raise InputError("expected legacy=False: that format holds pickles, which nothing here writes or reads")
    _write(detector, filepath)


def _write(detector: OutlierVAE | OutlierAE, filepath: Path | str, fetched: Mapping[str, Any] | None = None) -> None:
    """Write what `save_detector` does; `fetched` is what `_source` returns, of a detector that was fetched."""
    inner = detector.fitted()
    if inner.preprocessing.restricted:
        raise InputError("a detector that looks at a region is saved as a screen: Screen.save")
    networks = None
    if inner.modules_given:
        parts = {name: describe(getattr(inner, name)) for name in ("encoder", "decoder")}
        networks = parts if all(part is not None for part in parts.values()) else None
    extra = {}
    if isinstance(detector, OutlierVAE):
        extra = {name: getattr(detector, name) for name in ("score_type", "latent_dim", "samples", "beta")}
    manifest = {
        "kind": KIND,
        "schema": SCHEMA,
        "face": type(detector).__name__,
        "arguments": {**extra, "data_type": detector.meta["data_type"]},
        "threshold": detector.threshold,
        "made_for": detector.made_for,
        "options": options_to_json(inner.options),
        "own_modules": inner.modules_given,
        "networks": networks,
        "preprocessing": inner.preprocessing.to_json(),
        **({} if fetched is None else {"fetched": dict(fetched)}),
    }
    weights = {name: value.cpu().contiguous().numpy() for name, value in inner.state_dict().items()}
    write_folder(Path(os.path.abspath(filepath)), manifest, {_WEIGHTS: weights}, {})


@own_settings()
def load_detector(
    filepath: Path | str, *, encoder_net: nn.Module | None = None, decoder_net: nn.Module | None = None
) -> OutlierVAE | OutlierAE:
    """Load what `save_detector` wrote. Nothing in its files is executed.

    Args:
        filepath: the folder.
        encoder_net: a module of the same architecture as the one it was made with, where the file cannot describe it.
        decoder_net: likewise.

    Raises:
        ArtifactError: missing, damaged, altered or inconsistent.
        InputError: the networks are needed and were not given, or are others.
    """
    path = Path(os.path.abspath(filepath))
    manifest, files = read_folder(path, SCHEMA, KIND)
    try:
        weights = {name: torch.from_numpy(array) for name, array in files[_WEIGHTS].items()}
        inner = _detector(path, manifest, weights, encoder_net, decoder_net)
        kind = _FACES[manifest["face"]]
        given: dict[str, Any] = {"vae" if kind is OutlierVAE else "ae": inner, **manifest["arguments"]}
        face = kind(**given)
        face.threshold = manifest["threshold"]
        if manifest["made_for"] is not None:
            level, share = manifest["made_for"]
            face.made_for = (level, float(share))
    except (KeyError, TypeError, RuntimeError, AttributeError, IndexError) as error:
        raise ArtifactError(f"{path} is not a consistent detector: {error}") from error
    return face


def fetch_detector(
    filepath: Path | str,
    detector_type: str = "outlier",
    dataset: str = "digits",
    detector_name: str = "OutlierAE",
    model: object = None,
) -> OutlierVAE | OutlierAE:
    """Return a ready detector and keep it in a folder, from which it comes the next time.

    The other library's published detectors are Keras models and cannot be had; here a dataset is the name of a screen.
    A threshold comes along where the screen scores as this face does: by the mean squared error of all values.

    Args:
        filepath: the folder, as for `save_detector`.
        detector_type: "outlier".
        dataset: what `recondite.load` takes: the name of a ready screen, a folder, or "hf://ORG/NAME".
        detector_name: "OutlierAE" for a screen with an autoencoder, "OutlierVAE" for one with a "vae".
        model: must be None.

    Raises:
        InputError: there is no such screen, or it or the folder has another detector, or that of another data set.
        ArtifactError: what is there is damaged or altered.
    """
    if detector_type != "outlier" or detector_name not in _FACES or model is not None:
        raise InputError(f"expected detector_type 'outlier' and detector_name {' or '.join(_FACES)}; no model")
    if holds_manifest(Path(os.path.abspath(filepath))):
        kept = load_detector(filepath)
        if type(kept) is not _FACES[detector_name]:
            raise InputError(
                f"{filepath} holds an {type(kept).__name__}; expected {detector_name}: name another folder"
            )
        fetched = read_manifest(Path(os.path.abspath(filepath)), SCHEMA, KIND).get("fetched")
        if fetched is not None and not _is_of(fetched, dataset):
            was = " before it was another" * (fetched["dataset"] == str(dataset))
            raise InputError(
                f"{filepath} holds the detector of {fetched['dataset']!r}{was}; expected that of {str(dataset)!r}: "
                "name another folder"
            )
        return kept
    if not (dataset in READY or is_address(dataset) or holds_manifest(Path(dataset))):
        raise InputError(
            f"there is no published detector for {dataset!r}: expected {', '.join(READY)}, the folder of a screen or "
            "hf://ORG/NAME; or fit one of your own"
        )
    screen = load(dataset)
    kind = _FACES[detector_name]
    given: dict[str, Any] = {"vae" if kind is OutlierVAE else "ae": screen.detector, "data_type": "image"}
    face = kind(**given)
    options = screen.detector.options
    plain = (options.score, options.top_percent, options.smooth, options.worst_square) == (face.score_name, 100, 0, 0)
    if plain and screen.calibrator.groups is None:
        face.threshold = screen.with_score(ERROR).threshold
    _write(face, filepath, _source(dataset))
    return face


def _source(dataset: Path | str) -> dict[str, str | None]:
    """Return what a screen was asked for by and, where it is on this machine, its digest."""
    digest = None
    if not is_address(dataset) and holds_manifest(folder := located(dataset)):
        digest = read_manifest(folder, SCREENS, KIND_OF_SCREENS, EXPORTED)["digest"]
    return {"dataset": str(dataset), "digest": digest}


def _is_of(fetched: Mapping[str, Any], dataset: Path | str) -> bool:
    """Return whether a detector was fetched for a data set; one in a folder may be another screen since."""
    asked = _source(dataset)
    same = "digest" if fetched["digest"] and asked["digest"] else "dataset"
    return bool(fetched[same] == asked[same])


def _detector(
    path: Path,
    manifest: dict[str, Any],
    weights: dict[str, Tensor],
    encoder_net: nn.Module | None,
    decoder_net: nn.Module | None,
) -> Detector:
    name = _FACES[manifest["face"]].detector_name
    seen = Preprocessing.from_json(manifest["preprocessing"])
    shape = seen.shape
    options, networks = saved_options(manifest["options"]), manifest["networks"]
    modules: dict[str, Any] = {}
    if manifest["own_modules"]:
        if encoder_net is not None and decoder_net is not None:
            kind = _FACES[manifest["face"]]
            face = kind(encoder_net=encoder_net, decoder_net=decoder_net, **manifest["arguments"])
            modules["encoder"], modules["decoder"], _ = face.networks(shape)
        elif networks is not None:
            modules["encoder"] = rebuild(networks["encoder"], shape, weights, "encoder.")
            modules["decoder"] = rebuild(networks["decoder"], (int(options["latent_size"]),), weights, "decoder.")
        else:
            raise InputError(f"{path} was made with networks that it cannot describe: give encoder_net and decoder_net")
    detector = build(name, image_shape=shape, **modules, **options)
    detector.take_values(seen.value_range)
    detector.load_state_dict(weights)
    return detector

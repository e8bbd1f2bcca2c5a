"""A saved screen as its files describe it, without its networks: no torch is needed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from recondite.data.artifacts import read_folder
from recondite.data.images import Preprocessing
from recondite.errors import ArtifactError
from recondite.options import saved_options
from recondite.screen.facts import checked_facts
from recondite.screen.saved import (
    DETECTOR_FILE,
    EXPORTED,
    KIND,
    SCHEMA,
    calibrator_of,
    existing,
    region_of,
)
from recondite.screen.screen import Screen, load
from recondite.screen.words import caution, names_of_scores
from recondite.training.history import History

_ONLY_IN_FILES = {"groups", "versions", "files", "digest"}


@dataclass(frozen=True, kw_only=True)
class Described(Screen):
    """A screen that tells what it is and promises, and judges nothing.

    Args:
        manifest: of its folder.
    """

    manifest: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in self.manifest.items() if name not in _ONLY_IN_FILES}


def described(path: Path | str) -> Screen:
    """Return a screen to be looked at: one that runs on a graph whole, of another what its files say.

    Digests are checked; whether the weights fit the network is not.

    Args:
        path: as in `recondite.load`.

    Raises:
        ArtifactError, InputError: as `recondite.load`.
    """
    folder = existing(path)
    manifest, files = read_folder(folder, SCHEMA, KIND, EXPORTED)
    if manifest["kind"] == EXPORTED:
        return load(folder)
    try:
        region = region_of(files[DETECTOR_FILE], manifest["preprocessing"])
        preprocessing = Preprocessing.from_json(manifest["preprocessing"], region)
        detector = SimpleNamespace(
            name=manifest["detector"],
            shape=preprocessing.shape,
            preprocessing=preprocessing,
            options=SimpleNamespace(**saved_options(manifest["options"])),
            history=History.from_json(manifest["history"]),
        )
        facts, evidence = manifest["evidence"], None
        if facts is not None:
            classifier = bool(facts["classifier"])
            names = names_of_scores(facts["statistics"], classifier)
            evidence = SimpleNamespace(scores=names, caution=caution(classifier))
        return Described(
            detector=cast(Any, detector),
            calibrator=calibrator_of(manifest, files),
            alpha=manifest["alpha"],
            confidence=manifest["confidence"],
            guarantee=manifest["guarantee"],
            score=manifest["score"],
            evidence=cast(Any, evidence),
            facts=checked_facts(manifest["facts"]),
            manifest=manifest,
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path} is not a consistent screen: {error}") from error

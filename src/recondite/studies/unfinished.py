"""Resuming an interrupted study: finished parts kept in its folder until the whole is done."""

import json
import shutil
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.artifacts import read_tensors, write_tensors
from recondite.data.files import atomic_file
from recondite.errors import ArtifactError

FOLDER = ".unfinished"
_KNOWN = "known.json"


class Unfinished:
    """Parts of one study, each written as soon as it is found.

    Args:
        output: the folder of the study.
        known: all that the parts depend on, as JSON values and arrays (which count by their SHA-256); parts of anything
            else that lie there are thrown away.
    """

    def __init__(self, output: Path, *known: Any) -> None:
        self.folder = output / FOLDER
        self.seconds = 0.0
        """Time that the parts took, in this run and in interrupted ones."""
        self._known = json.dumps([_digest(value) for value in known], sort_keys=True, default=str)
        if not self._belongs():
            shutil.rmtree(self.folder, ignore_errors=True)

    def holds(self, name: str) -> bool:
        """Return whether a part is there already."""
        return self._path(name).is_file()

    def once(self, name: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return what `make` returned when this part was made: now, or before the study was interrupted.

        Args:
            name: of the part; a file is named after it.
            make: finds it.
        """
        path = self._path(name)
        try:
            values, facts = read_tensors(path)
            self.seconds += facts["seconds"]
            return values["values"]
        except (ArtifactError, KeyError):  # not there, or damaged
            started = time.monotonic()
            found = np.asarray(make())
            seconds = time.monotonic() - started
        self._claim()
        write_tensors(path, {"values": found}, {"seconds": seconds})
        self.seconds += seconds
        return found

    def place(self, name: str) -> Path:
        """Return a path in the folder, for something that can be gone on with by itself, such as a training run."""
        self._claim()
        return self.folder / name

    def finish(self) -> None:
        """Throw the parts away: the study is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _claim(self) -> None:
        if not self._belongs():
            with atomic_file(self.folder / _KNOWN) as temporary:
                temporary.write_text(self._known, encoding="utf-8")

    def _belongs(self) -> bool:
        path = self.folder / _KNOWN
        return path.is_file() and path.read_text(encoding="utf-8", errors="replace") == self._known


def _digest(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        whole = np.ascontiguousarray(value)
        return [str(whole.dtype), list(whole.shape), sha256(whole.data).hexdigest()]
    return value

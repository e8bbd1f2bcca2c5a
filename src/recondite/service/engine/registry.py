"""Model registry: the screens being served, by name and version, and their replacement by new versions."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recondite.data.datasets import nameless
from recondite.errors import ReconditeError
from recondite.screen.guard import Guard
from recondite.screen.guard_file import load_guard
from recondite.screen.screen import Screen, load
from recondite.service.engine.folders import Found, folders_of_screens, named_folders, screens_in, signature_of
from recondite.service.errors import Unknown

_LETTERS_OF_VERSION = 12
_MOST_RATES = 64

OnLoaded = Callable[[str, str, str | None], None]
"""Called with the name and version of a screen that was looked at, and the error if it could not be loaded."""


@dataclass(frozen=True)
class Served:
    """One version of one screen.

    Args:
        name, version: what clients call it.
        screen: as loaded.
        fingerprint: of the screen.
        signature: of the folder, to see when it changes.
        guard: gives labels by its own classifier, or decides on those that a client's classifier gave.
    """

    name: str
    version: str
    screen: Screen
    fingerprint: str
    signature: tuple[int, ...]
    guard: Guard
    _judges: dict[float, Screen] = field(default_factory=dict, repr=False, compare=False)

    @property
    def scorer(self) -> Screen | Guard:
        """What scores images: the guard where its classifier does in the same pass."""
        return self.guard if self.guard.in_one_pass else self.screen

    def at(self, alpha: float | None) -> Screen:
        """Return the screen at another false-alarm rate; the same object for the same rate, as long as they are few.

        Raises:
            InputError: alpha is out of range or too small for the number of calibration images.
        """
        if alpha is None or alpha == self.screen.alpha:
            return self.screen
        judge = self._judges.get(alpha)
        if judge is None:
            judge = self.screen.with_alpha(alpha)
            if len(self._judges) >= _MOST_RATES:
                self._judges.clear()
            self._judges[alpha] = judge
        return judge


class Shelf:
    """Holds the screens that are served; a request keeps the version it began with.

    A folder is a screen, whose version is then the beginning of its fingerprint, or holds screens in sub-folders, whose
    names are the versions; the last of them in natural order (2 before 10) is the default, or the one that a file
    beside them, `PINNED`, names.

    Args:
        folders: FOLDER or NAME=FOLDER each; without a name it is the folder's own.
        worker: runs functions where scoring is done.
        on_loaded: called for each screen that was loaded or could not be.
        collection: a folder whose sub-folders are screens, each with versions; new ones come while it is served, and a
            screen whose folder is gone stays until the service ends.

    Raises:
        InputError: a name is not made of letters, digits, dots, underscores and hyphens, or is there twice.
    """

    def __init__(
        self, folders: Sequence[str], worker: Executor, on_loaded: OnLoaded, collection: Path | None = None
    ) -> None:
        self._folders, self._collection = named_folders(folders), collection
        self._worker, self._on_loaded = worker, on_loaded
        self._versions: dict[str, dict[str, Served]] = {name: {} for name in self._folders}
        self._failed: dict[Path, tuple[tuple[int, ...], str]] = {}
        self._one_at_a_time = asyncio.Lock()

    @property
    def names(self) -> list[str]:
        """The names of the screens."""
        return list(self._folders)

    def folder_of(self, name: str) -> Path | None:
        """Return the folder of a screen's versions; None for one that is a single folder.

        Raises:
            Unknown: there is no such screen.
        """
        self.versions(name)
        folder = self._folders[name]
        return None if signature_of(folder) is not None else folder

    @property
    def failures(self) -> dict[str, str]:
        """The folders that could not be loaded when last looked at, and why."""
        return {str(path): message for path, (_, message) in self._failed.items()}

    @property
    def ready(self) -> bool:
        """Whether there is a version of every screen."""
        return all(self._versions.values())

    def all(self) -> list[Served]:
        """Return every version of every screen, the default of each first."""
        return [served for versions in self._versions.values() for served in versions.values()]

    def versions(self, name: str) -> list[str]:
        """Return the versions of a screen, the default first.

        Raises:
            Unknown: there is no such screen.
        """
        if name not in self._versions:
            raise Unknown(f"there is no screen {name!r}; there are: {', '.join(self.names)}")
        return list(self._versions[name])

    def get(self, name: str, version: str | None = None) -> Served:
        """Return a version of a screen, the default without one.

        Raises:
            Unknown: there is no such screen or version.
        """
        versions = self.versions(name)
        if not versions or (version is not None and version not in versions):
            raise Unknown(f"screen {name!r} has no version {version!r}; there are: {', '.join(versions) or 'none'}")
        return self._versions[name][versions[0] if version is None else version]

    async def refresh(self) -> list[Served]:
        """Load what is new in the folders, let go of what is not there any more, and return what was loaded.

        A version that cannot be loaded is reported once and leaves everything as it was.
        """
        async with self._one_at_a_time:
            found = {} if self._collection is None else await asyncio.to_thread(folders_of_screens, self._collection)
            fresh = []
            for name, folder in (found | self._folders).items():
                fresh += await self._refresh(name, folder)
            return fresh

    async def _refresh(self, name: str, folder: Path) -> list[Served]:
        loop = asyncio.get_running_loop()
        old = self._versions.get(name, {})
        found = await loop.run_in_executor(None, screens_in, folder)
        kept: dict[str, Served] = {}
        fresh = []
        for path in self._failed.keys() - {one.path for one in found}:
            if folder in (path, path.parent):
                del self._failed[path]
        for one in found:
            # A folder that was renamed is another version.
            same = (known for known in old.values() if known.signature == one.signature)
            served = next((known for known in same if one.label in (None, known.version)), None)
            if served is None and self._failed.get(one.path, ((), ""))[0] != one.signature:
                served = await self._load(name, one)
                fresh += [served] if served else []
            # A version that was replaced by one that cannot be loaded stays as it was.
            served = served or old.get(one.label or "")
            if served is not None:
                kept[served.version] = served
        if kept:
            # Where there is nothing at all, for instance in the middle of a move, the old versions stay.
            self._versions[name] = kept
            self._folders.setdefault(name, folder)
        return fresh

    async def open(self, path: Path, name: str, label: str | None = None, signature: tuple[int, ...] = ()) -> Served:
        """Load a screen and try it out; it is not served by that.

        Args:
            path: its folder.
            name: what it is to be called.
            label: its version; None for the beginning of its fingerprint.
            signature: of the folder.
        """
        loop = asyncio.get_running_loop()
        screen = await loop.run_in_executor(None, load, path)
        # A screen that loads and cannot score must not take over; and the first request shall not be slow.
        guard = await loop.run_in_executor(None, load_guard, screen, path)
        await loop.run_in_executor(self._worker, _try_out, guard if guard.in_one_pass else screen)
        fingerprint = await loop.run_in_executor(None, screen.fingerprint)
        return Served(name, label or fingerprint[:_LETTERS_OF_VERSION], screen, fingerprint, signature, guard)

    async def _load(self, name: str, found: Found) -> Served | None:
        try:
            served = await self.open(found.path, name, found.label, found.signature)
        except (ReconditeError, OSError, RuntimeError) as error:
            self._failed[found.path] = (found.signature, str(error))
            self._on_loaded(name, found.label or "", str(error))
            return None
        self._failed.pop(found.path, None)
        self._on_loaded(name, served.version, None)
        return served


def _try_out(screen: Screen | Guard) -> None:
    """Do once what requests will do; the first of a process also imports libraries."""
    judge = screen.screen if isinstance(screen, Guard) else screen
    assert all(np.isfinite(judge.false_alarm_interval))
    lone = nameless(np.zeros((1, *screen.detector.shape), dtype=np.float32))
    for maps in (False, True):
        for _ in range(2):  # small batches are tried at the second
            screen.score_batch(lone, feature_score=maps, reconstruction=maps)

"""Model registry: the screens being served, by name and version, and their replacement by new versions."""

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recondite.data.artifacts import MANIFEST
from recondite.data.datasets import nameless
from recondite.data.files import existing_folder
from recondite.errors import InputError, ReconditeError
from recondite.screen.guard import Guard
from recondite.screen.guard_file import GUARD_FILE, load_guard
from recondite.screen.saved import located
from recondite.screen.screen import Screen, load
from recondite.service.errors import Unknown

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LETTERS_OF_VERSION, _LONGEST_NAME = 12, 64
PINNED = "default"
"""A file beside the versions of a screen that holds the name of the one that is the default; without it the last is."""
_MOST_RATES = 64

Loaded = Mapping[str, "Served"]
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


@dataclass(frozen=True)
class _Found:
    path: Path
    label: str | None
    signature: tuple[int, ...]


class Shelf:
    """Holds the screens that are served; a request keeps the version it began with.

    A folder is a screen, whose version is then the beginning of its fingerprint, or holds screens in sub-folders, whose
    names are the versions; the last of them in natural order (2 before 10) is the default, or the one that a file
    beside them, `PINNED`, names.

    Args:
        folders: FOLDER or NAME=FOLDER each; without a name it is the folder's own.
        worker: runs functions where scoring is done.
        on_loaded: called for each screen that was loaded or could not be.
        collection: a folder whose sub-folders are screens, each with versions; they come and go while it is served.

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
        return None if _signature(folder) is not None else folder

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
        found = await loop.run_in_executor(None, _screens_in, folder)
        kept: dict[str, Served] = {}
        fresh = []
        for one in found:
            served = next((known for known in old.values() if known.signature == one.signature), None)
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

    async def _load(self, name: str, found: _Found) -> Served | None:
        try:
            served = await self.open(found.path, name, found.label, found.signature)
        except (ReconditeError, OSError, RuntimeError) as error:
            self._failed[found.path] = (found.signature, str(error))
            self._on_loaded(name, found.label or "", str(error))
            return None
        self._failed.pop(found.path, None)
        self._on_loaded(name, served.version, None)
        return served


def named_folders(folders: Iterable[str]) -> dict[str, Path]:
    """Return name -> folder for FOLDER and NAME=FOLDER; ready screens and addresses of the hub stand for folders too.

    Raises:
        InputError: a name is not usable in an address, or is there twice.
    """
    named: dict[str, Path] = {}
    for text in folders:
        name, given, folder = text.partition("=")
        where = folder if given else text
        path = located(where).resolve()
        name = name if given else Path(where).resolve().name
        if not _NAME.fullmatch(name):
            raise InputError(f"expected a name of letters, digits, '.', '_' and '-'; got {name!r}: use NAME=FOLDER")
        if name in named:
            raise InputError(f"two screens are called {name!r}: use NAME=FOLDER")
        named[name] = path
    return named


def folders_of_screens(collection: Path) -> dict[str, Path]:
    """Return name -> folder of the screens in a collection, in natural order."""
    try:
        names = [one.name for one in collection.iterdir() if _NAME.fullmatch(one.name)]
    except OSError:
        return {}
    folders = {name: collection / name for name in sorted(names, key=natural)}
    return {name: path for name, path in folders.items() if _signature(path) is None and _screens_in(path)}


def is_collection(folder: Path) -> bool:
    """Return whether a folder is empty, or holds screens that have versions, and is no screen itself."""
    folder = folder.resolve()
    if not folder.is_dir() or _screens_in(folder):
        return False
    return bool(folders_of_screens(folder)) or all(one.name.startswith(".") for one in folder.iterdir())


def check_name(name: str) -> None:
    """Raise InputError where a screen cannot be called so."""
    if not _NAME.fullmatch(name):
        raise InputError(f"expected a name of at most 64 letters, digits, '.', '_' and '-'; got {name[:70]!r}")


def check_folders(folders: Iterable[str]) -> None:
    """Check that a service can begin with some screens; they are not loaded.

    Raises:
        InputError: one is not there, or its name is unusable or there twice.
    """
    for path in named_folders(folders).values():
        if not _screens_in(path):
            there = "holds no screen" if path.is_dir() else "is not there"
            raise InputError(f"expected the folder of a screen, or of its versions; {path} {there}")


def natural(name: str) -> list[Any]:
    """Return a key that sorts digits as numbers.

    >>> sorted(["v10", "v9"], key=natural)
    ['v9', 'v10']
    """
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _screens_in(folder: Path) -> list[_Found]:
    """Return the screen, or the versions of it, in a folder; the default first."""
    single = _signature(folder)
    if single is not None:
        return [_Found(folder, None, single)]
    try:
        names = [one.name for one in folder.iterdir() if one.is_dir() and _NAME.fullmatch(one.name)]
    except OSError:
        return []
    names.sort(key=natural, reverse=True)
    pinned = pinned_in(folder)
    names.sort(key=lambda name: name != pinned)
    signed = [(folder / name, name, _signature(folder / name)) for name in names]
    return [_Found(path, name, signature) for path, name, signature in signed if signature is not None]


def pinned_in(folder: Path) -> str | None:
    """Return the version that a screen's folder names as its default; None where the last is."""
    try:
        return (folder / PINNED).read_text(encoding="utf-8").strip()[:_LONGEST_NAME]
    except (OSError, UnicodeDecodeError):
        return None


def _signature(folder: Path) -> tuple[int, ...] | None:
    try:
        facts = (existing_folder(folder) / MANIFEST).stat()
    except OSError:
        return None
    signature = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
    try:
        guard = (folder / GUARD_FILE).stat()
    except OSError:
        return signature
    return (*signature, guard.st_ino, guard.st_mtime_ns)


def _try_out(screen: Screen | Guard) -> None:
    """Do once what requests will do; the first of a process also imports libraries."""
    judge = screen.screen if isinstance(screen, Guard) else screen
    assert all(np.isfinite(judge.false_alarm_interval))
    lone = nameless(np.zeros((1, *screen.detector.shape), dtype=np.float32))
    for maps in (False, True):
        for _ in range(2):  # small batches are tried at the second
            screen.score_batch(lone, feature_score=maps, reconstruction=maps)

"""The folders of the screens that are served: their names, versions and signatures; nothing is loaded here."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recondite.data.artifacts import MANIFEST
from recondite.data.files import existing_folder
from recondite.errors import InputError
from recondite.screen.saved import GUARD_FILE, located

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LONGEST_NAME = 64
PINNED = "default"
"""A file beside the versions of a screen that holds the name of the one that is the default; without it the last is."""


@dataclass(frozen=True)
class Found:
    """A screen in a folder.

    Args:
        path: its folder.
        label: its version; None where the folder has no versions.
        signature: of the folder, to see when it changes.
    """

    path: Path
    label: str | None
    signature: tuple[int, ...]


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
    return {name: path for name, path in folders.items() if signature_of(path) is None and screens_in(path)}


def is_collection(folder: Path) -> bool:
    """Return whether a folder is empty, or holds screens that have versions, and is no screen itself."""
    folder = folder.resolve()
    if not folder.is_dir() or screens_in(folder):
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
        if not screens_in(path):
            there = "holds no screen" if path.is_dir() else "is not there"
            raise InputError(f"expected the folder of a screen, or of its versions; {path} {there}")


def natural(name: str) -> list[Any]:
    """Return a key that sorts digits as numbers.

    >>> sorted(["v10", "v9"], key=natural)
    ['v9', 'v10']
    """
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def screens_in(folder: Path) -> list[Found]:
    """Return the screen, or the versions of it, in a folder; the default first."""
    single = signature_of(folder)
    if single is not None:
        return [Found(folder, None, single)]
    try:
        names = [one.name for one in folder.iterdir() if one.is_dir() and _NAME.fullmatch(one.name)]
    except OSError:
        return []
    names.sort(key=natural, reverse=True)
    pinned = pinned_in(folder)
    names.sort(key=lambda name: name != pinned)
    signed = [(folder / name, name, signature_of(folder / name)) for name in names]
    return [Found(path, name, signature) for path, name, signature in signed if signature is not None]


def pinned_in(folder: Path) -> str | None:
    """Return the version that a screen's folder names as its default; None where the last is."""
    try:
        return (folder / PINNED).read_text(encoding="utf-8").strip()[:_LONGEST_NAME]
    except (OSError, UnicodeDecodeError):
        return None


def signature_of(folder: Path) -> tuple[int, ...] | None:
    """Return what changes when the screen in a folder does; None where there is none."""
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

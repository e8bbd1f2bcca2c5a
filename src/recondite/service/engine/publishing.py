"""New versions of screens in the folders that a service watches, and the way back to earlier ones."""

import shutil
from collections.abc import Callable
from pathlib import Path

from recondite.data.artifacts import MANIFEST
from recondite.data.files import atomic_file, atomic_folder
from recondite.errors import InputError
from recondite.service.engine.folders import PINNED, natural


def publish(folder: Path, write: Callable[[Path], None]) -> str:
    """Write a new version of a screen, make it the default, and return its name: the next whole number.

    Args:
        folder: of the screen's versions; made if it is not there.
        write: writes the version into the folder it is given, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    there = [one.name for one in folder.glob("[!.]*") if one.is_dir()] if folder.is_dir() else []
    version = str(1 + max((int(name) for name in there if name.isdecimal()), default=0))
    write(folder / version)
    if max([version, *there], key=natural) == version:
        (folder / PINNED).unlink(missing_ok=True)
    else:
        _pin(folder, version)
    return version


def make_default(folder: Path, version: str) -> None:
    """Make a version of a screen the default until another is published.

    Raises:
        InputError: there is no such version.
        OutputError: it cannot be written.
    """
    if version not in {one.parent.name for one in folder.glob(f"*/{MANIFEST}")}:
        raise InputError(f"there is no version {version[:64]!r}")
    _pin(folder, version)


def copied_from(screen: Path) -> Callable[[Path], None]:
    """Return what writes a copy of the folder of a screen."""

    def write(target: Path) -> None:
        with atomic_folder(target) as folder:
            for file in screen.iterdir():
                shutil.copyfile(file, folder / file.name)

    return write


def _pin(folder: Path, version: str) -> None:
    with atomic_file(folder / PINNED) as temporary:
        temporary.write_text(version, encoding="utf-8")

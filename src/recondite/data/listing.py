"""Files found under folders and in stores: which of them are images, and their ids."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recondite.data.formats import is_image_name, passed_over, why_unreadable
from recondite.data.images import Deferred
from recondite.errors import InputError
from recondite.progress import say


@dataclass(frozen=True)
class Unreadable(Deferred):
    """An image that is known to be one, and cannot be read.

    Args:
        reason: why.
    """

    reason: str

    def fetch(self) -> bytes:
        raise InputError(self.reason)


@dataclass
class Listing:
    """Images by name, sorted, and the names of what was passed over."""

    names: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def take(self, name: str) -> None:
        """Add a file to those that it belongs to."""
        (self.names if is_image_name(name) else self.others).append(name)

    def tell(self) -> list[str]:
        """Say what was passed over, and return the images."""
        words = passed_over(self.others)
        if words:
            say(words)
        return self.names


def list_folder(folder: Path, root: Path, listing: Listing) -> None:
    """Add the files under a folder, relative to root, sorted; links are followed, but not in circles.

    A hidden folder is passed over as a whole, and counts as one file.

    Raises:
        InputError: a folder cannot be listed.
    """
    seen = set()
    for parent, folders, files in os.walk(folder, onerror=_cannot_list, followlinks=True):
        real = os.path.realpath(parent)
        hidden = [name for name in folders if name.startswith(".")]
        folders[:] = [] if real in seen else sorted(set(folders) - set(hidden))
        if real not in seen:
            listing.others.extend(hidden)
            for name in sorted(files):
                listing.take((Path(parent) / name).relative_to(root).as_posix())
        seen.add(real)


def _cannot_list(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be listed: {error.strerror}")


class Files(Sequence[Any]):
    """Paths made when asked for, as a million names take less memory; `Unreadable` where a name says that it is."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        return file_at(self.root / self.names[index])


def file_at(path: Path) -> Path | Unreadable:
    """Return the path of an image, or the reason why its kind cannot be read."""
    reason = why_unreadable(path.name)
    return path if reason is None else Unreadable(reason)


def printable(name: str) -> str:
    """Return a file's name as text that can be written anywhere; bytes that are no text become escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def folder_label(name: str) -> str:
    """Return the folder that a name lies in, "" for none: the label of the image."""
    return name.rpartition("/")[0]


def unique_names(names: Iterable[str]) -> list[str]:
    """Return names that all differ: one that comes again gets a number.

    >>> unique_names(["a.png", "b.png", "a.png", "a.png"])
    ['a.png', 'b.png', 'a.png (2)', 'a.png (3)']
    """
    given = list(names)
    taken = set(given)
    if len(taken) == len(given):
        return given
    found: list[str] = []
    times: Counter[str] = Counter()
    for name in given:
        times[name] += 1
        unique = name
        while times[name] > 1 and (unique := f"{name} ({times[name]})") in taken:
            times[name] += 1
        taken.add(unique)
        found.append(unique)
    return found

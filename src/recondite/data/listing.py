"""Files found under folders and in stores: which of them are images, and their ids."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recondite.data.formats import is_hidden, is_image_name, passed_over, why_unreadable
from recondite.data.items import Page, Unreadable
from recondite.data.tiff import SUFFIXES, pages_of
from recondite.errors import InputError
from recondite.progress import say


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


def cannot_list(error: OSError) -> None:
    """Raise InputError for a folder that cannot be listed."""
    raise InputError(f"{error.filename} cannot be listed: {error.strerror}")


def list_folder(folder: Path, root: Path, listing: Listing, on_error: Callable[[OSError], None] = cannot_list) -> None:
    """Add the files under a folder, relative to root, sorted; links are followed, but not in circles.

    A hidden folder is passed over as a whole, and counts as one file.

    Args:
        folder: looked through.
        root: that names are relative to.
        listing: gets the names.
        on_error: hears of a folder that cannot be listed; by default that is an InputError.

    Raises:
        InputError: a folder cannot be listed.
    """
    seen = set()
    for parent, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
        real = os.path.realpath(parent)
        hidden = [name for name in folders if is_hidden(name)]
        folders[:] = [] if real in seen else sorted(set(folders) - set(hidden))
        if real not in seen:
            listing.others.extend(hidden)
            inside = Path(parent).relative_to(root).as_posix()
            for name in sorted(files):
                listing.take(name if inside == "." else f"{inside}/{name}")
        seen.add(real)


def matching(pattern: Path) -> list[Path]:
    """Return the files that a glob means, whatever they are, sorted; none where it is no glob."""
    matches = sorted(glob.glob(str(pattern), recursive=True)) if glob.has_magic(str(pattern)) else []
    return [Path(match) for match in matches if Path(match).is_file()]


class Files(Sequence[Any]):
    """Paths made when asked for, as a million names take less memory; `Unreadable` where a name says that it is.

    Args:
        root: of all.
        names: relative to it.
        frames: for pages, which directory of its file each is.
    """

    def __init__(self, root: Path, names: Sequence[str], frames: Mapping[int, int] | None = None) -> None:
        self.root, self.names, self.frames = root, names, frames or {}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        path = self.root / self.names[index]
        return Page(path, self.frames[index]) if index in self.frames else _file_at(path)


def images_in(root: Path, names: Sequence[str], labels: Sequence[str]) -> tuple[Files, list[str], list[str]]:
    """Return images, their ids and their labels; the pages of a.tif are "a.tif", "a.tif#2" and so on.

    TIFF files are opened for that, and no others: their headers, which takes some .03 ms a file on a warm disk.

    Args:
        root: a folder.
        names: of files in it.
        labels: of the files.
    """
    several = {name: pages for name in names if len(pages := _pages(root / name)) > 1}
    entries = [
        (name, label, number, frame)
        for name, label in zip(names, labels, strict=True)
        for number, frame in enumerate(several.get(name, [0]), 1)
    ]
    frames = {index: frame for index, (name, _, _, frame) in enumerate(entries) if name in several}
    ids = unique_names(_page_name(name, number) for name, _, number, _ in entries)
    return Files(root, [name for name, *_ in entries], frames), ids, [printable(label) for _, label, *_ in entries]


def images_at(path: str, name: str) -> list[tuple[Any, str]]:
    """Return the images of one file and their ids, as `images_in` does, where the file is called `name`."""
    pages = _pages(Path(path))
    if len(pages) == 1:
        return [(_file_at(Path(path)), printable(name))]
    return [(Page(Path(path), frame), _page_name(name, number)) for number, frame in enumerate(pages, 1)]


def _file_at(path: Path) -> Path | Unreadable:
    """Return the path of an image, or the reason why its kind cannot be read."""
    reason = why_unreadable(path.name)
    return path if reason is None else Unreadable(reason)


def _pages(path: Path) -> list[int]:
    return pages_of(path) if path.name.lower().endswith(SUFFIXES) else [0]


def _page_name(name: str, number: int) -> str:
    return printable(name) + (f"#{number}" if number > 1 else "")


def printable(name: str) -> str:
    """Return a file's name as text that can be written anywhere; bytes that are no text become escapes."""
    try:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character, such as a manifest may hold, of which no file has its name
        return name.encode("utf-8", "backslashreplace").decode()


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


def paths_in(source: Any) -> list[str]:
    """Return the paths that a sequence consists of; none where any item is something else, or fails."""
    paths = []
    try:
        for item in source:
            if not isinstance(item, str | os.PathLike):
                return []
            paths.append(os.fsdecode(item))
    except Exception:
        return []
    return paths

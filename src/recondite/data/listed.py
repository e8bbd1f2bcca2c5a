"""Files as images, each under its name; of a TIFF file with several pages each page is one."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recondite.data.items import Page
from recondite.data.tiff import SUFFIXES, pages_of


class Files(Sequence[Path | Page]):
    """Paths made when asked for: a million names take less memory than a million paths.

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
        return Page(path, self.frames[index]) if index in self.frames else path


def listed(root: Path, names: Sequence[str], labels: Sequence[str]) -> tuple[Files, list[str], list[str]]:
    """Return images, their ids and their labels; the pages of a.tif are "a.tif", "a.tif#2" and so on.

    TIFF files are opened for that, and no others: their headers, which takes some .03 ms a file on a warm disk.

    Args:
        root: a folder.
        names: of files in it.
        labels: of the files.
    """
    tiffs = (name for name in names if name.lower().endswith(SUFFIXES))
    several = {name: pages for name in tiffs if len(pages := pages_of(root / name)) > 1}
    ids, own = [printable(name) for name in names], [printable(label) for label in labels]
    if not several:
        return Files(root, names), ids, own
    entries = [
        (name, label, number, frame)
        for name, label in zip(names, own, strict=True)
        for number, frame in enumerate(several.get(name, [0]), 1)
    ]
    frames = {index: frame for index, (name, _, _, frame) in enumerate(entries) if name in several}
    ids = [printable(name) + (f"#{number}" if number > 1 else "") for name, _, number, _ in entries]
    return Files(root, [name for name, *_ in entries], frames), ids, [label for _, label, *_ in entries]


def printable(name: str) -> str:
    """Return a file's name as text that can be written anywhere; bytes that are no text become escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")

"""What one pass over a source saw, on disk: a journal of rows beside arrays with one entry a row, taken up again."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from recondite.audits.look import GREY_SIDE, Look
from recondite.audits.measures import MEASURES
from recondite.data.files import naming
from recondite.data.journal import Journal, header_of, rows_of
from recondite.errors import InputError

_ROWS = "rows.jsonl"
_ARRAYS: dict[str, np.dtype[Any]] = {
    "measures": np.dtype(np.float32),
    "grey": np.dtype(np.uint8),
    "features": np.dtype(np.float16),
}


@dataclass(frozen=True)
class Row:
    """What a table says of one image; the rest of what was seen stands in arrays, at the same place.

    Args:
        id, label: of the image.
        identity: see `identity_of`.
        place: its path or address, where it is a file; "" else.
        error: why it cannot be read; None where it was.
        truncated: whether that is because its file ends too early.
        digest: of its pixels, hexadecimal.
        content: of the bytes of its file, hexadecimal; "" where it is no file.
        orientation: its EXIF tag.
        turned: whether the tag turned it by a quarter.
        thumbnail: (first byte, number of bytes) of its picture.
    """

    id: str
    label: str
    identity: str | None
    place: str
    error: str | None
    truncated: bool
    digest: str
    content: str
    orientation: int | None
    turned: bool
    thumbnail: tuple[int, int]


class Store:
    """A folder with what was seen, in the order in which it was seen.

    Args:
        folder: of the files; what is there is read, and nothing written before `begin`.
        header: JSON values that what is seen depends on; what was seen under another header counts for nothing.
        width: of the features of an image; 0 without a backbone.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], width: int) -> None:
        self.folder = folder
        self.widths = {"measures": len(MEASURES), "grey": GREY_SIDE**2, "features": width}
        self.header = {"widths": self.widths, **header}
        self.rows = [_row(values) for values in rows_of(folder / _ROWS, self.header)]
        self._end = sum(row.thumbnail[1] for row in self.rows)

    @classmethod
    def opened(cls, folder: Path) -> Self:
        """Open the store of a finished audit to read it, whatever version wrote it.

        Raises:
            InputError: it is none, or of statistics that are others now.
        """
        header = header_of(folder / _ROWS)
        if not isinstance(header, dict) or not isinstance(header.get("widths"), dict):
            raise InputError(f"{folder} does not hold what an audit saw")
        widths = header.pop("widths")
        store = cls(folder, header, widths.get("features", 0))
        if store.widths != widths:
            raise InputError(f"{folder} was written by another version: audit the images anew")
        return store

    def begin(self) -> Self:
        """Make ready for `add`: make the folder, and drop what an interruption cut short."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(self.folder / _ROWS, self.header)
        # What was written behind the last row of the journal is no image's.
        for name, size in self._sizes().items():
            with naming(self._path(name)), self._path(name).open("ab") as stream:
                stream.truncate(min(size, stream.tell()))
        if any(self._path(name).stat().st_size < size for name, size in self._sizes().items()):
            self._forget()
        return self

    def add(self, seen: Iterable[tuple[str, str, str | None, str, Look]], features: NDArray[np.float16]) -> None:
        """Append images: (id, label, identity, place, what was seen) of each, and the features of the readable ones."""
        rows: list[Row] = []
        parts = _no_parts()
        own = iter(features)
        for name, label, identity, place, look in seen:
            good = look.error is None
            assert look.measures is not None or not good
            parts["measures"].append(
                np.array(list(look.measures.values()) if look.measures else [np.nan] * len(MEASURES), np.float32)
            )
            parts["grey"].append(look.grey if look.grey is not None else np.zeros(self.widths["grey"], np.uint8))
            if self.widths["features"]:
                parts["features"].append(next(own) if good else np.zeros(self.widths["features"], np.float16))
            parts["thumbnails"].append(look.thumbnail)
            span = (self._end, len(look.thumbnail))
            self._end += span[1]
            facts = (look.error, look.truncated, look.digest.hex(), look.content.hex(), look.orientation, look.turned)
            rows.append(Row(name, label, identity, place, *facts, span))
        self._append(rows, parts)

    def take(self, other: "Store", found: Iterable[tuple[int, str, str, str | None, str]]) -> None:
        """Append what another store has of images: (its row there, id, label, identity, place) of each."""
        rows: list[Row] = []
        parts = _no_parts()
        arrays = {kind: other.array(kind) for kind in _ARRAYS}
        for index, name, label, identity, place in found:
            for kind, array in arrays.items():
                parts[kind].append(array[index])
            parts["thumbnails"].append(other.thumbnail(index))
            span = (self._end, len(parts["thumbnails"][-1]))
            self._end += span[1]
            known = other.rows[index]
            rows.append(replace(known, id=name, label=label, identity=identity, place=place, thumbnail=span))
        self._append(rows, parts)

    def _append(self, rows: Sequence[Row], parts: Mapping[str, Sequence[Any]]) -> None:
        if not rows:
            return
        for kind, arrays in parts.items():
            with naming(self._path(kind)), self._path(kind).open("ab") as stream:
                stream.writelines(one if isinstance(one, bytes) else one.tobytes() for one in arrays)
        # The rows come last: what has one is whole.
        self._journal.add(vars(row) for row in rows)
        self.rows += rows

    def array(self, name: str) -> NDArray[Any]:
        """Return one of "measures", "grey" and "features" of all rows (N, width), read from the disk as it is used."""
        kind, width = _ARRAYS[name], self.widths[name]
        if not self.rows or not width:
            return np.zeros((len(self.rows), width), kind)
        return np.memmap(self._path(name), kind, "r", shape=(len(self.rows), width))

    def thumbnail(self, index: int) -> bytes:
        """Return the picture of a row, the bytes of a JPEG file; none where it cannot be read."""
        start, size = self.rows[index].thumbnail
        with self._path("thumbnails").open("rb") as stream:
            stream.seek(start)
            return stream.read(size)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.bin"

    def _sizes(self) -> dict[str, int]:
        """Return how many bytes each file has that the journal knows of."""
        arrays = {name: len(self.rows) * kind.itemsize * self.widths[name] for name, kind in _ARRAYS.items()}
        return {**arrays, "thumbnails": self._end}

    def _forget(self) -> None:
        """Begin anew where files are shorter than their journal, as after a power cut."""
        self._journal.path.unlink()
        self._journal = Journal(self._journal.path, self.header)
        self.rows, self._end = [], 0
        for name in self._sizes():
            os.truncate(self._path(name), 0)


def _no_parts() -> dict[str, list[Any]]:
    return {name: [] for name in (*_ARRAYS, "thumbnails")}


def _row(values: Mapping[str, Any]) -> Row:
    start, size = values["thumbnail"]
    return Row(**{**values, "thumbnail": (int(start), int(size))})

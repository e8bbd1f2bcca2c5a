"""A journal of work that may be interrupted: JSON lines behind a header that says whose they are."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recondite.data.files import atomic_file, naming


class Journal:
    """Rows written down as they come, and taken up when the same work is begun again.

    A line cut short by an interruption ends what is taken up; the file is written anew without it.

    Args:
        path: the file; its folder is made.
        header: JSON values that tell this work from other work; None begins anew whatever is there.
    """

    def __init__(self, path: Path, header: Mapping[str, Any] | None) -> None:
        self.path, self._header = path, header
        self.taken_up = [] if header is None else rows_of(path, header)
        """Rows that an interrupted run left, in the order in which they were added."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rewrite(self.taken_up)

    def add(self, rows: Iterable[Mapping[str, Any]], *, flushed: bool = False) -> None:
        """Append rows of JSON values; `flushed` waits until they are on the disk."""
        with naming(self.path), self.path.open("a", encoding="utf-8") as stream:
            stream.writelines(map(_line, rows))
            if flushed:
                stream.flush()
                os.fsync(stream.fileno())

    def rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace all rows, atomically."""
        with atomic_file(self.path) as temporary, temporary.open("w", encoding="utf-8") as stream:
            stream.write(_line(self._header))
            stream.writelines(map(_line, rows))

    def remove(self) -> None:
        """Remove the file: the work is done."""
        self.path.unlink()


def header_of(path: Path) -> Any:
    """Return the header of a journal; None where there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return json.loads(stream.readline())
    except (OSError, ValueError):
        return None


def rows_of(path: Path, header: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the whole rows of a journal; none where it is not there, or its header is another one."""
    rows: list[dict[str, Any]] = []
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as stream:
            try:
                if json.loads(stream.readline()) == header:
                    rows.extend(map(json.loads, stream))
            except ValueError:
                pass
    return rows


def _line(values: Mapping[str, Any] | None) -> str:
    return json.dumps(values) + "\n"

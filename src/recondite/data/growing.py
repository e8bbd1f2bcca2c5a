"""A table that rows are appended to as they come, each in it exactly once, whatever interrupts that."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recondite.data.files import behind_links, beside, naming
from recondite.data.journal import Journal, header_of
from recondite.data.tables import csv_line
from recondite.errors import InputError

_SUFFIXES = (".csv", ".jsonl")


class GrowingTable:
    """Appends rows, and remembers facts about what they stand for.

    Each addition is first written into a journal beside the table, with its text and its place; an addition that was
    interrupted between the two is completed at the next start. A table that was moved away is begun anew, and what is
    remembered stays.

    Args:
        path: .csv or .jsonl.
        header: JSON values that tell this work from other work.
        columns: of the rows.

    Raises:
        InputError: another suffix, or the table is there and is not of this work.
        OutputError: no room, or no right.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], columns: Sequence[str]) -> None:
        check_growing(path)
        self._path, self._columns = behind_links(path), columns
        self._is_csv = path.suffix.lower() == ".csv"
        journal = beside(self._path, ".watch")
        self._check(header, header_of(journal))
        self._journal = Journal(journal, header)
        entries = self._journal.taken_up
        self.taken_up = [fact for entry in entries for fact in entry["facts"]]
        """Facts that were added before, in order."""
        self.since_rewritten = len(self.taken_up)
        """Facts in the journal; see `remember`."""
        if self._path.exists():
            self._complete(entries[-1] if entries else {})
        self._begin()
        self._journal.taken_up = []

    def add(self, facts: Iterable[Mapping[str, Any]], records: Iterable[Mapping[str, Any]]) -> None:
        """Append rows, and remember facts of JSON values; both are on the disk when this returns."""
        self._begin()
        text, listed = "".join(map(self._line, records)), list(facts)
        self._journal.add([{"facts": listed, "at": self._size(), "text": text}], flushed=True)
        self.since_rewritten += len(listed)
        self._append(text.encode())

    def remember(self, facts: Iterable[Mapping[str, Any]]) -> None:
        """Forget all facts but these: the journal is written anew with them."""
        listed = list(facts)
        self._journal.rewrite([{"facts": listed, "at": self._size(), "text": ""}])
        self.since_rewritten = len(listed)

    def _line(self, record: Mapping[str, Any]) -> str:
        if self._is_csv:
            return csv_line(record.get(name) for name in self._columns)
        return json.dumps(record, ensure_ascii=False) + "\n"

    def _check(self, header: Mapping[str, Any], found: Any) -> None:
        name = self._path.name
        if found is None:
            if self._size():
                raise InputError(f"{name} is there, and not from a watch that can go on: name another output")
        elif found != header:
            other = [key for key in header if not isinstance(found, dict) or found.get(key) != header[key]]
            raise InputError(f"{name} is from a watch with another {', '.join(other)}: name another output")
        elif self._is_csv and self._size():
            with self._path.open("rb") as stream:
                first = stream.readline()
            # The very first addition may have been cut short within the names.
            if not csv_line(self._columns).encode().startswith(first):
                raise InputError(f"{name} does not begin with the columns of a watch any more: name another output")

    def _begin(self) -> None:
        """Write the names of the columns where they are not there, or cut short.

        The journal says so first: its last addition is not of this table.
        """
        names = csv_line(self._columns).encode() if self._is_csv else b""
        if self._size() < len(names) or not self._path.exists():
            self._journal.add([{"facts": [], "at": 0, "text": ""}], flushed=True)
            self._append(names[self._size() :])

    def _complete(self, entry: Mapping[str, Any]) -> None:
        """Write what is missing of the last addition; not into a table that somebody has changed."""
        text = str(entry.get("text", "")).encode()
        if not text or self._size() < entry["at"]:
            return
        with self._path.open("rb") as stream:
            stream.seek(entry["at"])
            there = stream.read(len(text))
        if text.startswith(there):
            self._append(text[len(there) :])

    def _append(self, content: bytes) -> None:
        with naming(self._path), self._path.open("ab") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0


def check_growing(path: Path) -> None:
    """Raise InputError unless rows can be appended to a table of this suffix."""
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"expected a table that grows, .csv or .jsonl; got {path.name!r}")

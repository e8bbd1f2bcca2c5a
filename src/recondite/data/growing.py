"""A table that rows are appended to as they come, each in it exactly once, whatever interrupts that."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from recondite.data.files import behind_links, beside, naming
from recondite.data.journal import Journal, header_of
from recondite.data.tables import csv_line
from recondite.errors import InputError

_SUFFIXES = (".csv", ".jsonl")
_WRITTEN: dict[str, Any] = {"facts": [], "written": True}


class GrowingTable:
    """Appends rows, and remembers facts about what they stand for.

    Each addition is first written into a journal beside the table, with its text and its place, and noted there when
    it is in the table; one that was interrupted between the two is completed at the next start, in a table that is
    begun anew where the old one was moved away meanwhile. What is remembered stays.

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
        self._append([], self._missing(entries[-1] if entries else _WRITTEN))
        self._journal.taken_up = []

    def add(self, facts: Iterable[Mapping[str, Any]], records: Iterable[Mapping[str, Any]]) -> None:
        """Append rows, and remember facts of JSON values; both are on the disk when this returns."""
        listed = list(facts)
        self._append(listed, "".join(map(self._line, records)))
        self.since_rewritten += len(listed)

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

    def _missing(self, entry: Mapping[str, Any]) -> str:
        """Complete the last addition in its table, if that changed in no other way; return what a new one lacks of it.

        An addition that was written needs nothing: where it is missing, it went away with its table.
        """
        if entry == _WRITTEN:
            return ""
        text, at = str(entry.get("text", "")), int(entry.get("at", 0))
        if self._size() < at or not self._path.exists():
            return text
        content = text.encode()
        with naming(self._path), self._path.open("r+b") as stream:
            stream.seek(at)
            there = stream.read(len(content))
            if content.startswith(there):
                self._write(stream, content[len(there) :])
        return ""

    def _append(self, facts: Sequence[Mapping[str, Any]], text: str) -> None:
        """Append rows to the table, begun anew where it is not there or the names of its columns are cut short.

        It is held open meanwhile: one that is moved away in between gets these rows, and not one without names.
        """
        names = csv_line(self._columns).encode() if self._is_csv else b""
        with naming(self._path), self._path.open("ab") as stream:
            size = stream.tell()
            if size > 0 and size >= len(names) and not (facts or text):
                return
            # Of a table that is begun, too, the journal says so first: its last addition is not of this table.
            self._journal.add([{"facts": facts, "at": max(size, len(names)), "text": text}], flushed=True)
            self._write(stream, names[size:] + text.encode())

    def _write(self, stream: BinaryIO, content: bytes) -> None:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
        self._journal.add([_WRITTEN])

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0


def check_growing(path: Path) -> None:
    """Raise InputError unless rows can be appended to a table of this suffix."""
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"expected a table that grows, .csv or .jsonl; got {path.name!r}")

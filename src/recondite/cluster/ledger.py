"""Progress of a sweep: parts done, running and pending; the only writer of its journal and parts."""

import hashlib
import io
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Protocol

from recondite.cluster.sources import Piece
from recondite.data.files import atomic_file, locked, naming
from recondite.errors import InputError

DEATHS_BEFORE_A_SPLIT = 2
"""So many workers may die with a part before it is split, or, if it is one image, named as the cause."""
SPLIT = 8
JOURNAL = "journal.jsonl"


@dataclass(frozen=True, slots=True)
class PendingPart:
    """A part to be judged.

    Args:
        name: a number, and a digit for each time that a part was split: 000000012, 000000012-0, 000000012-07.
        piece: the images.
        deaths: how many workers died with it.
    """

    name: str
    piece: Piece
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is done, as the journal and the manifest have it.

    Args:
        name: as in `PendingPart`.
        file: in the folder of the sweep; None where every image was left out.
        inputs: how many images were read, or could not be.
        rows: how many rows they became.
        counts: rows by verdict.
        ids: SHA-256 of the ids of the inputs in order, each followed by a line feed.
        sha256: of the file.
    """

    name: str
    file: str | None
    inputs: int
    rows: int
    counts: Mapping[str, int] = field(default_factory=dict)
    ids: str = ""
    sha256: str | None = None


class PartStore(Protocol):
    """Where parts and journal are kept."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all."""

    def append(self, name: str, line: str) -> None:
        """Add a line to a file; after a crash a part of it may be there."""

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None if there is none."""

    def digest(self, name: str) -> str | None:
        """Return the SHA-256 of a file; None if there is none."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""


class Folder:
    """A store that is a folder. Files reach the disk when the system likes, or at `flush`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, content: bytes) -> None:
        with atomic_file(self.root / name, flushed=False) as temporary:
            temporary.write_bytes(content)

    def append(self, name: str, line: str) -> None:
        path = self.root / name
        with naming(path), path.open("a", encoding="utf-8") as stream:
            stream.write(line)

    def read(self, name: str) -> bytes | None:
        path = self.root / name
        return path.read_bytes() if path.is_file() else None

    def digest(self, name: str) -> str | None:
        content = self.read(name)
        return None if content is None else hashlib.sha256(content).hexdigest()

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def flush(self) -> None:
        """Wait until everything is on the disk."""
        os.sync()

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes out.

        Raises:
            InputError: another sweep writes here.
        """
        return locked(self.root, self.root / ".lock")


class Ledger:
    """Hands out parts and writes them down when they are done, each once.

    A part counts as done when its line stands in the journal, which is after its file is whole; on taking up, the file
    must still have the SHA-256 of the line, so nothing has to wait for the disk. Only this object writes, so a worker
    that was given up and answers late changes nothing.

    Args:
        store: where parts and journal are.
        header: what the sweep is about; a journal with another header is not taken up.
        pieces: all of the source, in order.
        folder: of the parts, within the store: "" or a name with a slash.
    """

    def __init__(self, store: PartStore, header: Mapping[str, Any], pieces: Iterable[Piece], folder: str = "") -> None:
        self.store, self.folder = store, folder
        self.done: dict[str, Part] = {}
        self._under_way: dict[str, PendingPart] = {}
        self._split: dict[str, int] = {}
        for line in self._journal(header):
            if "split" in line:
                self._split[line["split"]] = line["stop"]
            else:
                part = Part(**line)
                if part.file is None or store.digest(folder + part.file) == part.sha256:
                    self.done[part.name] = part
        whole = (PendingPart(f"{number:09d}", Piece(*piece)) for number, piece in enumerate(pieces))
        self._to_do = deque(task for first in whole for task in self._leaves(first) if task.name not in self.done)
        self.taken_up = sum(part.inputs for part in self.done.values())
        self._rewrite(header)

    @property
    def finished(self) -> bool:
        """Whether every part is done."""
        return not self._to_do and not self._under_way

    @property
    def unfinished(self) -> int:
        """How many parts are not done."""
        return len(self._to_do) + len(self._under_way)

    def next(self) -> PendingPart | None:
        """Return a part to be judged, which is then under way; None if there is none left."""
        if not self._to_do:
            return None
        task = self._to_do.popleft()
        self._under_way[task.name] = task
        return task

    def finish(self, task: PendingPart, part: Part, content: bytes | None) -> None:
        """Write a part down as done.

        Args:
            task: that is under way.
            part: its facts; file and sha256 are filled in here.
            content: of its file, which ends in `part.file`'s suffix; None where there are no rows.
        """
        del self._under_way[task.name]
        if content is None:
            part = replace(part, file=None, sha256=None)
        else:
            part = replace(part, sha256=hashlib.sha256(content).hexdigest())
            self.store.write(f"{self.folder}{part.file}", content)
        self.store.append(JOURNAL, json.dumps(asdict(part)) + "\n")
        self.done[part.name] = part

    def give_back(self, task: PendingPart) -> None:
        """Let a part be judged again that failed for no fault of its own."""
        del self._under_way[task.name]
        self._to_do.appendleft(task)

    def died(self, task: PendingPart, count: int | None = None) -> bool:
        """Take note that a worker died with a part, and return whether its one image is to blame.

        Then the part stays under way and has to be finished without judging. Otherwise it, or eight parts of it, are
        handed out again.

        Args:
            task: that is under way.
            count: the number of images of its unit; only needed where its piece has no stop.
        """
        task = replace(task, deaths=task.deaths + 1)
        if task.deaths < DEATHS_BEFORE_A_SPLIT:
            self.give_back(task)
            return False
        piece = task.piece
        stop = piece.stop if piece.stop is not None else count
        assert stop is not None
        if stop - piece.start <= 1:
            return True
        self.store.append(JOURNAL, json.dumps({"split": task.name, "stop": stop}) + "\n")
        self._split[task.name] = stop
        del self._under_way[task.name]
        self._to_do.extendleft(reversed(_splinters(task, stop)))
        return False

    def in_order(self) -> list[Part]:
        """Return all parts that are done, in the order of the source."""
        return [self.done[name] for name in sorted(self.done)]

    def _leaves(self, task: PendingPart) -> Iterator[PendingPart]:
        if task.name not in self._split:
            yield task
            return
        for splinter in _splinters(task, self._split[task.name]):
            yield from self._leaves(splinter)

    def _journal(self, header: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the lines of a journal of this sweep, but the header; a line cut short ends it."""
        content = self.store.read(JOURNAL)
        if content is None:
            return
        for number, line in enumerate(io.BytesIO(content)):
            found = _parsed(line)
            if number > 0 and found is not None:
                yield found
            elif found != header:
                if number > 0:
                    return
                raise InputError(
                    "the folder holds an unfinished sweep of another screen or source, or its source has changed "
                    "since: remove the folder, or write to another one"
                )

    def _rewrite(self, header: Mapping[str, Any]) -> None:
        splits = ({"split": name, "stop": stop} for name, stop in self._split.items())
        lines: Iterable[Any] = chain([header], splits, map(asdict, self.done.values()))
        self.store.write(JOURNAL, "".join(json.dumps(line) + "\n" for line in lines).encode())


def _parsed(line: bytes) -> Any:
    """Return what a line of a journal says; None where it was cut short or damaged."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def _splinters(task: PendingPart, stop: int) -> list[PendingPart]:
    """Return up to eight parts of a part that killed its workers; the next death of one of several images splits it."""
    name = task.name if "-" in task.name else f"{task.name}-"
    unit, start, _ = task.piece
    count = min(SPLIT, stop - start)
    cuts = [start + (stop - start) * index // count for index in range(count + 1)]
    return [
        PendingPart(f"{name}{index}", Piece(unit, low, high), DEATHS_BEFORE_A_SPLIT - 1 if high - low > 1 else 0)
        for index, (low, high) in enumerate(pairwise(cuts))
    ]

"""Images that arrive in a folder: which of them are there, completely written, and not dealt with yet."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recondite.data.identity import identity_of
from recondite.data.listing import Listing, list_folder
from recondite.progress import say

_REMEMBERED = 86_400.0
_Facts = tuple[int, int, int, int]
"""Size, times of writing and of change, and number of a file."""


@dataclass
class _Waiting:
    facts: _Facts
    since: float
    not_before: float = 0.0


class Arrivals:
    """Looks through a folder again and again.

    A file counts as completely written when neither its size nor its times have changed for a while. One that was
    dealt with and is written anew counts as another. What is gone is remembered for a day, so that a share that was
    away for an hour does not come back as new.

    Args:
        folder: looked through with its sub-folders.
        settle: seconds without a change after which a file is complete.
        known: name -> identity of what was dealt with before this process.
    """

    def __init__(self, folder: Path, settle: float, known: Mapping[str, str | None] | None = None) -> None:
        self._folder, self._settle, self._known = folder, settle, dict(known or {})
        self._waiting: dict[str, _Waiting] = {}
        self._done: dict[str, _Facts] = {}
        self._gone: dict[str, float] = {}
        self._trouble = ""
        self.seconds = 0.0
        """How long the last look took."""

    @property
    def waiting(self) -> int:
        """The number of files that were there at the last look and are not dealt with."""
        return len(self._waiting)

    def ready(self) -> list[str]:
        """Look, and return the names of what is complete and not dealt with, by time of writing."""
        began = time.monotonic()
        present = self._present()
        self._forget(present, began)
        waiting: dict[str, _Waiting] = {}
        for name, facts in present.items():
            if self._done.get(name) == facts or self._is_known(name, facts):
                continue
            before = self._waiting.get(name)
            waiting[name] = before if before is not None and before.facts == facts else _Waiting(facts, began)
        self._waiting = waiting
        self.seconds = time.monotonic() - began
        complete = [
            name for name, one in waiting.items() if began - one.since >= self._settle and began >= one.not_before
        ]
        return sorted(complete, key=lambda name: (waiting[name].facts[1], name))

    def unchanged(self, name: str) -> float:
        """Return for how many seconds a waiting file has been as it is."""
        return time.monotonic() - self._waiting[name].since

    def put_off(self, name: str, seconds: float) -> None:
        """Let a waiting file wait for so long, unless it changes."""
        self._waiting[name].not_before = time.monotonic() + seconds

    def done(self, name: str) -> None:
        """Take a waiting file for dealt with, as it was at the last look."""
        self._done[name] = self._waiting.pop(name).facts

    def remembered(self) -> set[str]:
        """Return the names of what was dealt with and is not forgotten."""
        return {*self._done, *self._known}

    def _present(self) -> dict[str, _Facts]:
        troubles: list[OSError] = []
        listing = Listing()
        list_folder(self._folder, self._folder, listing, troubles.append)
        present = {}
        for name in listing.names:
            try:
                found = os.stat(self._folder / name)  # noqa: PTH116  of many files, again and again
            except OSError as error:
                if not isinstance(error, FileNotFoundError) or os.path.islink(self._folder / name):  # noqa: PTH114
                    troubles.append(error)
                continue  # else it went meanwhile
            present[name] = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        trouble = f"{troubles[0].filename}: {troubles[0].strerror}" if troubles else ""
        if trouble and trouble != self._trouble:
            say(f"{trouble}; looking again until it can be read")
        self._trouble = trouble
        return present

    def _is_known(self, name: str, facts: _Facts) -> bool:
        """Return whether a file is one that was dealt with before this process; each is compared once."""
        if name not in self._known or name in self._done:
            return False
        if identity_of(self._folder / name) != self._known.pop(name):
            return False
        self._done[name] = facts
        return True

    def _forget(self, present: Mapping[str, _Facts], now: float) -> None:
        dealt_with = {*self._done, *self._known}
        self._gone = {name: self._gone.get(name, now) for name in dealt_with if name not in present}
        for name in [name for name, since in self._gone.items() if now - since > _REMEMBERED]:
            self._done.pop(name, None)
            self._known.pop(name, None)
            del self._gone[name]

"""What the workers of one service know of each other: a few numbers in memory, and a folder."""

import asyncio
import os
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

_TARGET = re.compile(rb"[A-Z]+ (/[^ ?]*)[ ?]")
_OWN = re.compile(
    r"/(?:v1/jobs(?:/.*)?|v1/reload|v1/screens/[^/]+/drift|metrics|login|favicon\.ico|(?:page/|_nicegui).*)?"
)
_AWAY = 1 << 40
_STEP = 0.05


def belongs_to_first(head: bytes) -> bool:
    """Return whether a request, of which the first bytes are given, is for the first worker."""
    target = _TARGET.match(head)
    return target is not None and path_of_first(target[1].decode("latin-1"))


def path_of_first(path: str) -> bool:
    """Return whether requests for a path are for the first worker."""
    return _OWN.fullmatch(path) is not None


class Numbers:
    """Numbers that all workers see; each is written by one process at a time.

    Args:
        context: of multiprocessing.
        workers: how many there are.
    """

    def __init__(self, context: BaseContext, workers: int) -> None:
        self.connections: Any = context.RawArray("q", [_AWAY] * workers)
        """That each worker has open; many where it does not run."""
        self.processes: Any = context.RawArray("q", workers)
        """The id of the process of each worker; 0 where it does not run."""
        self.beats: Any = context.RawArray("q", workers)
        """How often each worker has said that it is well, since its process began."""
        self.loaded: Any = context.RawArray("q", workers)
        """The generation of screens that each worker has loaded."""
        self.generation: Any = context.RawValue("q", 0)
        """The generation of screens that all are to load; written by the first worker."""

    def began(self, worker: int, process: int) -> None:
        """Note that a worker runs; it has no connections and has not loaded anything."""
        self.processes[worker] = process

    def beat(self, worker: int) -> None:
        """Note that a worker is well."""
        self.beats[worker] += 1

    def ended(self, worker: int) -> None:
        """Note that a worker does not run."""
        self.processes[worker], self.connections[worker], self.beats[worker] = 0, _AWAY, 0


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One worker of several behind one port.

    What there is one of belongs to the first: the page and its sign-in, batch jobs, drift, the verdict webhook, the sum
    of all metrics, and the look for new versions. When a request for one of these comes to another worker, it hands
    the connection over to the first.

    Args:
        number: from 0.
        numbers: that all see.
        folder: of their metrics.
        channel: through which connections come to the first worker, and go from the others.
        after: the number of the last event before the service began.
    """

    number: int
    numbers: Numbers
    folder: Path
    channel: socket.socket
    after: int

    @property
    def is_first(self) -> bool:
        """Whether it has what there is one of."""
        return self.number == 0

    @property
    def alone_runs(self) -> bool:
        """Whether no other worker runs any more."""
        own = os.getpid()
        return not any(process not in (0, own) and _runs(process) for process in self.numbers.processes)

    def has_more(self) -> bool:
        """Return whether another worker has fewer connections."""
        return bool(self.numbers.connections[self.number] > min(self.numbers.connections))

    def is_behind(self) -> bool:
        """Return whether the first worker has loaded screens that this one has not."""
        return bool(self.numbers.loaded[self.number] < self.numbers.generation.value)

    async def until_earlier_have_loaded(self, seconds: float) -> None:
        """Wait until the workers with smaller numbers have loaded what the first has, for so long at most."""
        await self._until(lambda: self._have_loaded(range(self.number)), seconds)

    async def until_all_have_loaded(self, seconds: float) -> None:
        """Wait until all workers that run have loaded what the first has, for so long at most."""
        await self._until(lambda: self._have_loaded(range(len(self.numbers.loaded))), seconds)

    async def until_alone(self, seconds: float) -> None:
        """Wait until no other worker runs, for so long at most."""
        await self._until(lambda: self.alone_runs, seconds)

    def _have_loaded(self, workers: range) -> bool:
        wanted = self.numbers.generation.value
        return all(self.numbers.loaded[one] >= wanted or not self.numbers.processes[one] for one in workers)

    async def _until(self, true: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not true() and time.monotonic() < end:
            await asyncio.sleep(_STEP)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True

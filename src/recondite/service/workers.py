"""Several processes behind one port: started, watched over, and replaced when one ends."""

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any

from recondite.errors import InputError, ReconditeError
from recondite.service.engine.store import Store
from recondite.service.log import LOG, log_to_stderr
from recondite.service.settings import Settings
from recondite.service.sharing import Numbers, Worker
from recondite.service.start import LONGEST_DRAIN, begin

_THREADS = "OMP_NUM_THREADS"
_WELL = 10.0
"""Seconds after which a worker that ends is replaced at once."""
_LONGEST_PAUSE = 30.0
_SPARE_SECONDS = 30.0
_LOOK_SECONDS = 1.0
_LONGEST_START = 600.0
"""Seconds that a worker may take to import what it needs, before it says for the first time that it is well."""


def serve_with_workers(
    settings: Settings, workers: int, host: str, port: int, *, everybody: bool = False, drain_seconds: float = 0.0
) -> None:
    """Serve by several processes until SIGTERM or SIGINT; one that ends meanwhile, or hangs, is replaced.

    Each has screens, threads and limits of its own. They share the port, the store, metrics and kept images, and what
    there is one of belongs to the first; see `recondite.service.sharing.Worker`.

    Args:
        settings: of the service.
        workers: how many.
        host, port, everybody, drain_seconds: as of `recondite.service.server.serve`.

    Raises:
        InputError: as of `serve`, or a system on which this does not work.
    """
    check_workers(workers)
    sockets = begin(settings, host, port, everybody, drain_seconds)
    # Together they have as many threads as there are cores, unless it is said otherwise.
    os.environ.setdefault(_THREADS, str(max(1, len(os.sched_getaffinity(0)) // workers)))
    with tempfile.TemporaryDirectory(prefix="recondite-") as folder:
        crew = _Crew(settings, workers, sockets, drain_seconds, Path(folder))
        try:
            crew.work()
        finally:
            crew.close()


def check_workers(workers: int) -> None:
    """Raise InputError where so many workers, or several on this system, are not possible."""
    if workers < 1:
        raise InputError(f"expected workers >= 1; got {workers}")
    if workers > 1 and not sys.platform.startswith("linux"):
        raise InputError("several workers hand over open connections, which only works on Linux: leave --workers out")
    if workers > 1 and find_spec("httptools") is None:
        raise InputError("several workers need httptools: pip install 'recondite[serve]'")


class _Crew:
    """The workers, from the process that started them."""

    def __init__(
        self, settings: Settings, workers: int, sockets: Sequence[socket.socket], drain_seconds: float, folder: Path
    ) -> None:
        self._settings, self._sockets, self._drain_seconds, self._folder = settings, sockets, drain_seconds, folder
        self._context = multiprocessing.get_context("spawn")
        self._numbers = Numbers(self._context, workers)
        # Both ends stay open here, so that connections that are handed over wait for a first worker that starts anew.
        self._given, self._taken = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        store = Store(settings.store)
        self._after = store.last()
        store.close()
        self._workers = [_One(number) for number in range(workers)]
        self._stopping, self._looked = 0, time.monotonic()
        self._woken, self._wakes = socket.socketpair()

    def work(self) -> None:
        """Start all, and replace those that end, until a signal comes; then wait until all have ended.

        Raises:
            InputError: the first of them that could not begin says why.
        """
        earlier = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            for one in self._workers:
                self._start(one)
            while not self._stopping:
                self._look()
            self._end()
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """Kill what still runs."""
        for one in self._workers:
            if one.process is not None and one.process.is_alive():
                one.process.kill()
                one.process.join()
        for end in (self._given, self._taken, self._woken, self._wakes, *self._sockets):
            end.close()

    def _start(self, one: "_One") -> None:
        worker = Worker(
            number=one.number,
            numbers=self._numbers,
            folder=self._folder,
            channel=self._taken if one.number == 0 else self._given,
            after=self._after,
        )
        one.told, tells = self._context.Pipe(duplex=False)
        arguments = (self._settings, list(self._sockets), self._drain_seconds, worker, tells)
        one.process = self._context.Process(target=_work, args=arguments, name=f"worker-{one.number}")
        one.process.start()
        tells.close()
        one.began, one.silent, one.beats = time.monotonic(), 0.0, 0
        assert one.process.pid is not None
        self._numbers.began(one.number, one.process.pid)

    def _look(self) -> None:
        """Wait until something happens, and see to it."""
        ends: dict[Any, _One] = {one.process.sentinel: one for one in self._workers if one.process is not None}
        due = min((one.due for one in self._workers if one.process is None), default=None)
        now = time.monotonic()
        wait([*ends, self._woken], _LOOK_SECONDS if due is None else min(_LOOK_SECONDS, max(0.0, due - now)))
        passed = self._passed()
        for one in self._workers:
            if self._stopping:
                return
            if one.process is not None and not one.process.is_alive():
                self._ended(one)
            elif one.process is not None:
                self._listen(one, one.process, passed)
            elif time.monotonic() >= one.due:
                self._start(one)

    def _passed(self) -> float:
        """Return the seconds since the last look; few where all processes were stopped together, and go on now."""
        earlier, self._looked = self._looked, time.monotonic()
        return min(self._looked - earlier, 2 * _LOOK_SECONDS)

    def _listen(self, one: "_One", process: SpawnProcess, passed: float) -> None:
        """Kill a worker that has not said for too long that it is well; it will be replaced as one that ended."""
        beats = self._numbers.beats[one.number]
        one.silent = one.silent + passed if beats == one.beats else 0.0
        one.beats = beats
        patience = self._settings.hang_seconds
        if one.silent > (patience if beats else max(patience, _LONGEST_START)):
            LOG.error("a worker hangs", extra={"facts": {"worker": one.number, "seconds": round(one.silent, 1)}})
            one.silent = 0.0
            process.kill()

    def _ended(self, one: "_One") -> None:
        assert one.process is not None
        self._numbers.ended(one.number)
        code, one.process = one.process.exitcode, None
        why_not = one.said()
        if why_not is not None and not any(other.has_served for other in self._workers):
            raise InputError(why_not)
        one.pause = 0.0 if time.monotonic() - one.began > _WELL else min(max(1.0, 2 * one.pause), _LONGEST_PAUSE)
        one.due = time.monotonic() + one.pause
        facts = {"worker": one.number, "exit_code": code, "again_in_seconds": one.pause, "error": why_not}
        LOG.error("a worker ended", extra={"facts": facts})

    def _stop(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._stopping += 1
        with suppress(OSError):
            self._wakes.send(b"!")
        for one in self._workers:
            # From the keyboard the signal has come to all of them.
            if one.process is not None and one.process.pid is not None and sig != signal.SIGINT:
                with suppress(ProcessLookupError):
                    os.kill(one.process.pid, sig)

    def _end(self) -> None:
        end = time.monotonic() + self._drain_seconds + 2 * LONGEST_DRAIN + _SPARE_SECONDS
        running = [one for one in self._workers if one.process is not None]
        while running and time.monotonic() < end and self._stopping < 3:
            sentinels = [one.process.sentinel for one in running if one.process is not None]
            wait(sentinels, 0.5)
            passed = self._passed()
            for one in running:
                if one.process is not None and not one.process.is_alive():
                    self._numbers.ended(one.number)
                elif one.process is not None:
                    self._listen(one, one.process, passed)
            running = [one for one in running if one.process is not None and one.process.is_alive()]


class _One:
    """A worker, as it stands."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: SpawnProcess | None = None
        self.began = self.due = self.pause = self.silent = 0.0
        self.beats = 0
        self.told: Connection | None = None
        self._has_served = False

    @property
    def has_served(self) -> bool:
        """Whether it, or one before it, was ready."""
        self.said()
        return self._has_served

    def said(self) -> str | None:
        """Return why it could not begin; None where it could, or said nothing."""
        with suppress(EOFError, OSError):
            while self.told is not None and self.told.poll():
                word = self.told.recv()
                if word is not None:
                    return str(word)
                self._has_served = True
        return None


def _work(
    settings: Settings, sockets: list[socket.socket], drain_seconds: float, worker: Worker, tells: Connection
) -> None:
    """What the process of a worker does; the one that starts it needs none of this, nor torch."""
    from recondite.service.server import run

    log_to_stderr()
    try:
        run(settings, sockets, drain_seconds, worker, ready=lambda: tells.send(None))
    except ReconditeError as error:
        tells.send(str(error))
        sys.exit(1)

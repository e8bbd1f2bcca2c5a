"""Dynamic batching: images of concurrent requests are decoded in one thread and scored together in another."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, fields
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from recondite.data.datasets import Batch
from recondite.screen.screen import Screen
from recondite.statistics.scores import Scores

Observe = Callable[[str, int, float], None]
"""Told the name of a screen, the number of images in a batch and the seconds it took."""


@dataclass(kw_only=True, eq=False)
class Job:
    """What one request wants scored.

    Args:
        name: of the screen, for those who count.
        screen: that scores.
        maps: with feature scores and reconstructions.
        gone: whether nobody waits for it any more; what is not being scored yet is left out then.
        pixels: float32 (N, *shape), the readable images; None until they are decoded.
        parts: scores of successive rows.
        taken: how many rows have been scored, or are being.
        prepared: whether it is decoded.
    """

    name: str
    screen: Screen
    maps: bool = False
    gone: bool = False
    pixels: NDArray[np.float32] | None = None
    parts: list[Scores] = field(default_factory=list)
    taken: int = 0
    prepared: bool = False

    @property
    def size(self) -> int:
        """The number of readable images."""
        return 0 if self.pixels is None else len(self.pixels)

    @property
    def room(self) -> int:
        """How many images its screen scores at once."""
        return self.screen.detector.scoring_batch

    def scores(self) -> Scores | None:
        """Return the scores of the readable images; None where there are none."""
        return (self.parts[0] if len(self.parts) == 1 else Scores.concatenate(self.parts)) if self.parts else None


J = TypeVar("J", bound=Job)
_LONGEST_LINGER = 0.25


class Line(Executor, Generic[J]):
    """Decodes, scores and finishes jobs, in two threads that wait for each other only when there is nothing to do.

    Whenever a thread is free it takes what is there, to score at most a full batch of images of one screen. A request
    that comes alone is scored at once. Where several have been coming together, scoring waits for as many again, but no
    longer than a batch takes: a batch costs the same whether it is full or not.
    A score does not depend on the batch (see `Detector.scoring_batch`), so it is the library's, bit for bit.

    As an executor it runs functions in the thread that scores, between batches.

    Args:
        prepare: decodes a job: sets its pixels.
        finish: told of jobs when they are scored, in the thread that scores.
        fail: told of a job that raised an error, from any thread.
        observe: told of each batch.
    """

    def __init__(
        self,
        prepare: Callable[[J], None],
        finish: Callable[[Sequence[J]], None],
        fail: Callable[[J, Exception], None],
        observe: Observe,
    ) -> None:
        self._prepare, self._finish, self._fail, self._observe = prepare, finish, fail, observe
        self._usual, self._seconds, self._at_rest = 1, 0.0, False
        self._sent: queue.SimpleQueue[J | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[list[J] | _Call | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=run, name=name, daemon=True)
            for run, name in ((self._decode, "decode"), (self._score, "score"))
        ]
        for thread in self._threads:
            thread.start()

    def send(self, job: J) -> None:
        """Take in a job; `finish` or `fail` is told of it once, unless it is gone by then."""
        if self._at_rest:
            self._ready.put([job])  # nothing else to do for the thread that scores: it decodes it too
        else:
            self._sent.put(job)

    @property
    def waiting(self) -> int:
        """The number of jobs that nobody has begun to decode."""
        return self._sent.qsize()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Run a function in the thread that scores."""
        call = _Call(lambda: fn(*args, **kwargs))
        self._ready.put(call)
        return call.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """End when everything so far is done."""
        self._sent.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _decode(self) -> None:
        while (first := self._sent.get()) is not None:
            jobs: list[J | None] = [first]
            while len(jobs) < first.room and jobs[-1] is not None:
                try:
                    jobs.append(self._sent.get_nowait())
                except queue.Empty:
                    break
            decoded = [job for job in jobs if job is not None and not job.gone and self._decoded(job)]
            if decoded:
                self._ready.put(decoded)
            if jobs[-1] is None:
                break
        self._ready.put(None)

    def _decoded(self, job: J) -> bool:
        try:
            self._prepare(job)
            job.prepared = True
        except Exception as error:
            self._fail(job, error)
            return False
        return True

    def _score(self) -> None:
        waiting: deque[J] = deque()
        while True:
            if not self._collect(waiting) and not waiting:
                return
            if waiting:
                self._score_some(waiting)

    def _collect(self, waiting: deque[J]) -> bool:
        """Take in what is ready, and return whether there may be more; run what was submitted meanwhile.

        It waits for a first job, and then for as many images as the last batches had, but no longer than a batch takes:
        scoring the late ones by themselves would take as long.
        """
        until: float | None = None
        while True:
            room = waiting[0].room if waiting else 1
            missing = min(self._usual, room) - sum(job.size - job.taken for job in waiting if not job.gone)
            if waiting and until is None:
                until = time.monotonic() + min(self._seconds, _LONGEST_LINGER)
            left = None if until is None else until - time.monotonic()
            try:
                if left is not None and (missing <= 0 or left <= 0):
                    item = self._ready.get_nowait()
                else:
                    self._at_rest = left is None
                    item = self._ready.get(timeout=left)
            except queue.Empty:
                return True
            self._at_rest = False
            if item is None:
                self._ready.put(None)
                return False
            if isinstance(item, _Call):
                item.run()
            else:
                waiting.extend(job for job in item if job.prepared or self._decoded(job))

    def _score_some(self, waiting: deque[J]) -> None:
        batch = _next_batch(waiting)
        done = [job for job, _, end in batch if end == job.size and not job.gone]
        try:
            rows = sum(end - start for _, start, end in batch)
            if rows:
                began = time.perf_counter()
                _score_together(batch)
                self._seconds = time.perf_counter() - began
                self._usual = max(rows, self._usual // 2)
                self._observe(batch[0][0].name, rows, self._seconds)
            self._finish(done)
        except Exception as error:
            for job, _, _ in batch:
                self._fail(job, error)
                job.gone = True


class _Call:
    def __init__(self, function: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self._function = function

    def run(self) -> None:
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(self._function())
            except Exception as error:
                self.future.set_exception(error)


def _next_batch(waiting: deque[J]) -> list[tuple[J, int, int]]:
    """Take (job, first row, end row) of what is scored next, all for the screen of the first, and drop jobs gone."""
    batch: list[tuple[J, int, int]] = []
    room, others = 1, []
    while waiting and room:
        job = waiting.popleft()
        if job.gone:
            continue
        if not batch:
            room = job.room
        elif job.screen is not batch[0][0].screen:
            others.append(job)
            continue
        end = min(job.size, job.taken + room)
        batch.append((job, job.taken, end))
        room -= end - job.taken
        job.taken = end
        if end < job.size:
            others.insert(0, job)
    waiting.extendleft(reversed(others))
    return batch


def _score_together(batch: Sequence[tuple[J, int, int]]) -> None:
    pixels = np.concatenate([job.pixels[start:end] for job, start, end in batch if job.pixels is not None])
    names, maps = [""] * len(pixels), any(job.maps for job, _, _ in batch)
    rows = Batch(names, names, pixels, [None] * len(pixels))
    scores = batch[0][0].screen.score_batch(rows, feature_score=maps, reconstruction=maps)
    place = 0
    for job, start, end in batch:
        if end > start:
            job.parts.append(rows_of(scores, place, place + end - start, job.maps))
        place += end - start


def rows_of(scores: Scores, start: int, end: int, maps: bool = True) -> Scores:
    """Return a run of scores; without feature scores and reconstructions unless `maps`."""
    chosen: dict[str, Any] = {}
    for one in fields(scores):
        value = getattr(scores, one.name)
        if one.name in ("feature_score", "reconstruction") and not maps:
            value = None
        elif one.name == "statistics" and value is not None:
            value = {name: values[start:end] for name, values in value.items()}
        elif isinstance(value, tuple | np.ndarray):
            value = value[start:end]
        chosen[one.name] = value
    return type(scores)(**chosen)

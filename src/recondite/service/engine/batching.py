"""Dynamic batching: images of concurrent requests are decoded in lanes and scored together in one thread."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import fields, replace
from typing import Any, Generic

import numpy as np

from recondite.data.datasets import Batch
from recondite.service.engine.lanes import Beat, J, Lane, decode_step
from recondite.service.engine.lanes import Job as Job
from recondite.statistics.scores import Scores, scattered

Observe = Callable[[str, int, float], None]
"""Told the name of a screen, the number of images in a batch and the seconds it took."""
_LONGEST_LINGER = 0.25
_AT_ONCE = 1 << 18
"""The cost of jobs that the thread that scores decodes itself, where it has nothing else to do."""
_ROUND = 1 << 22
_LARGE_AT_ONCE = 2


class Line(Executor, Generic[J]):
    """Decodes jobs in two lanes, of small and of large images, and scores and finishes them in one thread.

    Whenever a thread is free it takes what is there, to score at most a full batch of images of one screen. A request
    that comes alone, and is small, is decoded and scored at once. Where several have been coming together, scoring
    waits for as many again, but no longer than a batch takes: a batch costs the same whether it is full or not.
    Small requests pass large ones, while these have not waited for longer than they take. A request that nobody waits
    for any more is left out before its next image is decoded, and before its next batch.
    A score does not depend on the batch (see `Detector.scoring_batch`), so it is the library's, bit for bit.

    As an executor it runs functions in the thread that scores, between batches.

    Args:
        prepare: decodes a job: an image, of whatever cost it yields, at each step; sets its pixels at the end.
        finish: told of jobs when they are scored, in the thread that scores.
        fail: told of a job that raised an error, from any thread.
        observe: told of each batch.
    """

    def __init__(
        self,
        prepare: Callable[[J], Iterator[int]],
        finish: Callable[[Sequence[J]], None],
        fail: Callable[[J, Exception], None],
        observe: Observe,
    ) -> None:
        self._prepare, self._finish, self._fail, self._observe = prepare, finish, fail, observe
        self._usual, self._seconds, self._per_row = 1, 0.0, 0.0
        self._at_rest, self._given = False, 0
        self._ready: queue.SimpleQueue[list[J] | _Call | None] = queue.SimpleQueue()
        self._lanes = {
            "small": Lane("decode-small", 1, _ROUND, self._ready.put, fail),
            "large": Lane("decode-large", _LARGE_AT_ONCE, 0, self._ready.put, fail),
        }
        self._beat = Beat()
        self._scorer = threading.Thread(target=self._score, name="score", daemon=True)
        self._scorer.start()

    def send(self, job: J) -> None:
        """Take in a job; `finish` or `fail` is told of it once, unless nobody wants it by then."""
        job.steps = self._prepare(job)
        if self._at_rest and self._given + job.cost <= _AT_ONCE:
            self._given += job.cost
            self._ready.put([job])  # nothing else to do for the thread that scores: it decodes it too
        else:
            self._lanes["small" if job.is_small else "large"].put(job)

    @property
    def waiting(self) -> int:
        """The number of jobs that are not decoded and that nobody is decoding."""
        return sum(lane.waiting for lane in self._lanes.values())

    @property
    def alive(self) -> bool:
        """Whether all of its threads run."""
        return self._scorer.is_alive() and all(lane.alive for lane in self._lanes.values())

    def seconds_at_one_step(self) -> dict[str, float]:
        """Return how long scoring, and decoding in each lane, has been at one batch or one image; 0 for no work."""
        return {"score": self._beat.seconds} | {name: lane.seconds for name, lane in self._lanes.items()}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Run a function in the thread that scores."""
        call = _Call(lambda: fn(*args, **kwargs))
        self._ready.put(call)
        return call.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """End when everything so far is done; with `wait=False` when everything is decoded."""
        for lane in self._lanes.values():
            lane.close()
        self._ready.put(None)
        if wait:
            self._scorer.join()

    def _score(self) -> None:
        waiting: list[J] = []
        while True:
            if not self._collect(waiting) and not waiting:
                return
            if waiting:
                with self._beat:
                    self._score_some(waiting)

    def _collect(self, waiting: list[J]) -> bool:
        """Take in what is ready, and return whether there may be more; run what was submitted meanwhile.

        It waits for a first job, and then for as many images as the last batches had, but no longer than a batch takes:
        scoring the late ones by themselves would take as long.
        """
        until: float | None = None
        there = sum(job.left for job in waiting if not job.gone)
        while True:
            missing = min(self._usual, waiting[0].room if waiting else 1) - there
            if waiting and until is None:
                until = time.monotonic() + min(self._seconds, _LONGEST_LINGER)
            left = None if until is None else until - time.monotonic()
            try:
                if left is not None and (missing <= 0 or left <= 0):
                    item = self._ready.get_nowait()
                else:
                    self._at_rest, self._given = left is None, 0
                    item = self._ready.get(timeout=left)
            except queue.Empty:
                return True
            self._at_rest = False
            if item is None:
                self._ready.put(None)
                return False
            with self._beat:
                if isinstance(item, _Call):
                    item.run()
                else:
                    found = [job for job in item if self._decoded(job)]
                    there += sum(job.left for job in found)
                    waiting += found

    def _decoded(self, job: J) -> bool:
        while job.wanted and not job.prepared:
            decode_step(job, self._fail)
        return job.prepared

    def _score_some(self, waiting: list[J]) -> None:
        # Those that are done first come first, but nobody waits for others that come later than it takes to score it.
        waiting.sort(key=lambda job: job.since + job.left * self._per_row)
        batch = _next_batch(waiting)
        done = [job for job, _, end in batch if end == job.size and not job.gone]
        try:
            rows = sum(end - start for _, start, end in batch)
            if rows:
                began = time.perf_counter()
                _score_together(batch)
                self._seconds = time.perf_counter() - began
                self._per_row = self._seconds / rows
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


def _next_batch(waiting: list[J]) -> list[tuple[J, int, int]]:
    """Take (job, first row, end row) of what is scored next, all for the screen of the first; drop what nobody wants.

    What remains in `waiting` keeps its order.
    """
    batch: list[tuple[J, int, int]] = []
    room, others = 1, []
    for job in waiting:
        if not job.wanted:
            continue
        if not batch:
            room = job.room
        if not room or (batch and job.screen is not batch[0][0].screen):
            others.append(job)
            continue
        end = min(job.size, job.taken + room)
        batch.append((job, job.taken, end))
        room -= end - job.taken
        job.taken = end
        if end < job.size:
            others.append(job)
    waiting[:] = others
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


def in_place(batch: Batch, scores: Scores | None) -> Scores:
    """Return the scores of the readable images in their places among all, NaN elsewhere."""
    if scores is None:
        nothing = np.full(len(batch.ids), np.nan)
        return Scores(ids=tuple(batch.ids), instance_score=nothing, errors=tuple(batch.errors))
    if not any(batch.errors):
        return replace(scores, ids=tuple(batch.ids), errors=tuple(batch.errors))
    maps, rebuilt, found = scores.feature_score, scores.reconstruction, scores.statistics
    return Scores(
        ids=tuple(batch.ids),
        instance_score=scattered(scores.instance_score, batch.good),
        errors=tuple(batch.errors),
        feature_score=None if maps is None else scattered(maps, batch.good),
        reconstruction=None if rebuilt is None else scattered(rebuilt, batch.good),
        statistics=None if found is None else {name: scattered(one, batch.good) for name, one in found.items()},
    )

"""Images of concurrent requests, scored together in batches."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.datasets import Batch
from recondite.detectors.base import SCORING_BATCH
from recondite.scores import Scores
from recondite.screen import Screen

Observe = Callable[[int, float], None]
"""Told the number of images in a batch and the seconds it took."""


@dataclass
class _Job:
    pixels: NDArray[np.float32]
    maps: bool
    future: "asyncio.Future[Scores]"
    taken: int = 0
    parts: list[Scores] = field(default_factory=list)


class Batcher:
    """Scores images of one screen, those of several requests together.

    Nothing waits for a batch to fill: whenever the worker is free it takes what is there, at most `SCORING_BATCH`
    images. A lone request is scored at once, and under load batches fill by themselves. A score does not depend on
    the batch (see `SCORING_BATCH`), so it is the library's, bit for bit.

    Args:
        screen: what scores.
        worker: where it scores, one batch at a time.
        observe: told of each batch.
    """

    def __init__(self, screen: Screen, worker: Executor, observe: Observe) -> None:
        self._screen, self._worker, self._observe = screen, worker, observe
        self._jobs: deque[_Job] = deque()
        self._running: asyncio.Task[None] | None = None

    async def score(self, pixels: NDArray[np.float32], maps: bool) -> Scores:
        """Return the scores of a request's images.

        Cancelling the call takes the images that are not being scored yet out of the queue.

        Args:
            pixels: (N, *shape), N >= 1, as `Preprocessing` returns them.
            maps: with feature scores and reconstructions.
        """
        job = _Job(pixels, maps, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await job.future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next_batch():
            began = time.perf_counter()
            try:
                scores = await loop.run_in_executor(self._worker, self._score, batch)
            except Exception as error:
                for job, _, _ in batch:
                    if not job.future.done():
                        job.future.set_exception(error)
                continue
            self._observe(len(scores), time.perf_counter() - began)
            self._hand_out(batch, scores)

    def _next_batch(self) -> list[tuple[_Job, int, int]]:
        """Return (job, first row, end row) of what is scored next; jobs that nobody waits for any more are dropped."""
        batch: list[tuple[_Job, int, int]] = []
        room = SCORING_BATCH
        while self._jobs and room:
            job = self._jobs[0]
            if job.future.done():
                self._jobs.popleft()
                continue
            end = min(len(job.pixels), job.taken + room)
            batch.append((job, job.taken, end))
            room -= end - job.taken
            job.taken = end
            if end == len(job.pixels):
                self._jobs.popleft()
        return batch

    def _score(self, batch: list[tuple[_Job, int, int]]) -> Scores:
        pixels = np.concatenate([job.pixels[start:end] for job, start, end in batch])
        names, maps = [""] * len(pixels), any(job.maps for job, _, _ in batch)
        rows = Batch(names, names, pixels, [None] * len(pixels))
        return self._screen.score_batch(rows, feature_score=maps, reconstruction=maps)

    def _hand_out(self, batch: list[tuple[_Job, int, int]], scores: Scores) -> None:
        place = 0
        for job, start, end in batch:
            job.parts.append(rows_of(scores, place, place + end - start, job.maps))
            place += end - start
            if end == len(job.pixels) and not job.future.done():
                job.future.set_result(Scores.concatenate(job.parts))


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

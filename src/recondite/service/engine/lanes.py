"""Lanes in front of the scorer: requests are decoded an image at a time, and small ones pass large ones."""

import heapq
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from recondite.screen.guard import Guard
from recondite.screen.screen import Screen
from recondite.statistics.scores import Scores

SMALL = 1 << 20
"""The cost of the largest image that is decoded in the lane of small ones."""
_COST_A_SECOND = 2e7
"""About what a thread decodes in a second; a request waits for others that come as much later as it is larger."""


@dataclass(kw_only=True, eq=False)
class Job:
    """What one request wants scored.

    Args:
        name: of the screen, for those who count.
        screen: that scores; a guard where its linear head does in the same pass.
        maps: with feature scores and reconstructions.
        gone: whether nobody waits for it any more; what is not being decoded or scored yet is left out then.
        until: as `time.monotonic` counts; nobody waits for it afterwards.
        since: when it came.
        cost: of decoding it, in pixels, as the heads of its images say.
        largest: the cost of its largest image.
        pixels: float32 (N, *shape), the readable images; None until they are decoded.
        parts: scores of successive rows.
        taken: how many rows have been scored, or are being.
        prepared: whether it is decoded.
        steps: what is left of decoding it.
    """

    name: str
    screen: Screen | Guard
    maps: bool = False
    gone: bool = False
    until: float = math.inf
    since: float = field(default_factory=time.monotonic)
    cost: int = 0
    largest: int = 0
    pixels: NDArray[np.float32] | None = None
    parts: list[Scores] = field(default_factory=list)
    taken: int = 0
    prepared: bool = False
    steps: Iterator[int] = field(default_factory=lambda: iter(()))

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not self.gone and time.monotonic() < self.until

    @property
    def is_small(self) -> bool:
        """Whether it is decoded in the lane of small ones."""
        return self.largest <= SMALL

    @property
    def size(self) -> int:
        """The number of readable images."""
        return 0 if self.pixels is None else len(self.pixels)

    @property
    def left(self) -> int:
        """The number of readable images that are not scored yet."""
        return self.size - self.taken

    @property
    def room(self) -> int:
        """How many images its screen scores at once."""
        return self.screen.detector.scoring_batch

    def scores(self) -> Scores | None:
        """Return the scores of the readable images; None where there are none."""
        return (self.parts[0] if len(self.parts) == 1 else Scores.concatenate(self.parts)) if self.parts else None


J = TypeVar("J", bound=Job)
Fail = Callable[[J, Exception], None]


class Beat:
    """How long a thread has been at one step.

    Used as a context, the step is what the block does.
    """

    def __init__(self) -> None:
        self._began: float | None = None

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._began = None

    @property
    def seconds(self) -> float:
        """Seconds since its step began; 0 between steps."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began


def decode_step(job: J, fail: Fail[J]) -> int:
    """Decode one more image of a job, and return what it cost; its failure is told and leaves it gone."""
    try:
        return next(job.steps)
    except StopIteration:
        job.prepared = True
    except Exception as error:
        job.gone = True
        fail(job, error)
    return 0


class Lane(Generic[J]):
    """Threads that decode jobs, in rounds; between two rounds a job that is cheaper, or came earlier, may pass.

    Args:
        name: of its threads.
        threads: how many there are.
        round_cost: a round ends when it has cost more; 0 for an image a round.
        ready: given the jobs that a round has finished.
        fail: told of a job that raised an error.
    """

    def __init__(
        self, name: str, threads: int, round_cost: int, ready: Callable[[list[J]], None], fail: Fail[J]
    ) -> None:
        self._round_cost, self._ready, self._fail = round_cost, ready, fail
        self._heap: list[tuple[float, int, J]] = []
        self._numbers, self._changed, self._closed = count(), threading.Condition(), False
        self._beats = [Beat() for _ in range(threads)]
        self._threads = [
            threading.Thread(target=self._run, args=(beat,), name=f"{name}-{number}", daemon=True)
            for number, beat in enumerate(self._beats)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, job: J) -> None:
        """Take in a job."""
        with self._changed:
            heapq.heappush(self._heap, (job.since + job.cost / _COST_A_SECOND, next(self._numbers), job))
            self._changed.notify()

    @property
    def waiting(self) -> int:
        """The number of jobs that nobody is decoding."""
        return len(self._heap)

    @property
    def alive(self) -> bool:
        """Whether all of its threads run."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def seconds(self) -> float:
        """How long all of its threads have been at one step each; 0 where one has nothing to do."""
        return min(beat.seconds for beat in self._beats)

    def close(self) -> None:
        """End when everything so far is decoded."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self, beat: Beat) -> None:
        while jobs := self._take():
            done = self._round(jobs, beat)
            if done:
                self._ready(done)

    def _take(self) -> list[J]:
        """Return jobs, the next first; none when it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._heap or self._closed)
            jobs: list[J] = []
            while self._heap and len(jobs) < (jobs[0].room if jobs and self._round_cost else 1):
                jobs.append(heapq.heappop(self._heap)[-1])
            return jobs

    def _round(self, jobs: list[J], beat: Beat) -> list[J]:
        """Decode until the round is over, and return the jobs that are done; put the others back."""
        done, spent = [], 0
        for job in jobs:
            while spent <= self._round_cost and job.wanted and not job.prepared:
                with beat:
                    spent += decode_step(job, self._fail)
            if job.prepared:
                done.append(job)
            elif job.wanted:
                self.put(job)
        return done

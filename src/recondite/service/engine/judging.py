"""From a request's images to recorded verdicts; the web page and both protocols use it."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.datasets import Batch, ImageSet
from recondite.errors import InputError
from recondite.screen.classifier_outputs import Answers
from recondite.screen.decisions import Decisions
from recondite.screen.guard import Guard
from recondite.screen.screen import Screen
from recondite.screen.unfamiliar import unlike
from recondite.service.engine import guarding
from recondite.service.engine.admission import InFlightLimit
from recondite.service.engine.batching import Job, Line, in_place, rows_of
from recondite.service.engine.decoding import Measured, Sent, decode, glance, groups_of, measure, printable
from recondite.service.engine.image_store import KeptImages
from recondite.service.engine.registry import Served
from recondite.service.engine.statistics import statistics_of
from recondite.service.engine.store import Event, Store
from recondite.service.errors import Refused, TooLarge, Unavailable
from recondite.service.log import LOG
from recondite.service.metrics import Counters
from recondite.service.settings import Settings
from recondite.statistics.scores import Scores, Verdicts

Left = Callable[[], Awaitable[None]]
"""Returns when the client has gone away."""
OnWritten = Callable[[str, str, Screen | None, Sequence[Event], Verdicts], None]
"""Told of the name, version and screen that judged (None where it is gone), events, and the verdicts in them."""
_SOON = 0.1
"""Seconds; for requests that are answered sooner nobody looks whether their client is still there."""
_FEW_BYTES, _MANY_BYTES = 1 << 14, 1 << 20
"""Of all images of a request: as many are measured at once, and from as many in threads apart."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a request asks for beside the verdicts.

    Args:
        alpha: the false-alarm rate; that of the screen by default.
        group: of the calibration, where it has groups.
        maps: return feature scores and reconstructions.
        keep: keep the images; None for what the service does by itself.
        seconds: until the answer.
        record: write events; the page's experiments do not.
        labels: have a guard's own classifier give labels; the page shows verdicts alone.
    """

    alpha: float | None = None
    group: str = ""
    maps: bool = False
    keep: bool | None = None
    seconds: float | None = None
    record: bool = True
    labels: bool = True


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The answer to one request.

    Args:
        served: what judged.
        screen: the same at the false-alarm rate asked for.
        batch: the N images as they were read.
        everything: verdicts of this request and of those it was judged with.
        start: the row of its first image among them.
        records: N verdicts as rows.
        events: N events, which are not written if `Wish.record` was False.
        remarks: how the images differ from those that the screen learnt from, in words.
        decisions: of the guard, where it has its own classifier or labels were sent.
    """

    served: Served
    screen: Screen
    batch: Batch
    everything: Verdicts
    start: int
    records: Sequence[dict[str, Any]]
    events: Sequence[Event]
    remarks: Sequence[str]
    decisions: Decisions | None = None

    @cached_property
    def verdicts(self) -> Verdicts:
        """N verdicts."""
        rows = rows_of(self.everything, self.start, self.start + len(self.records))
        assert isinstance(rows, Verdicts)
        return rows

    @property
    def pixels(self) -> NDArray[np.float32]:
        """The readable images, float32 (M, *shape)."""
        return self.batch.pixels

    def counts(self) -> dict[str, int]:
        """Return how many images are inliers, outliers and invalid."""
        return {word: sum(row["verdict"] == word for row in self.records) for word in ("inlier", "outlier", "invalid")}


@dataclass(kw_only=True, eq=False)
class _Request(Job):
    served: Served
    judge: Screen
    guard: Guard | None
    sent: Sequence[Sent]
    wish: Wish
    request_id: str
    loop: asyncio.AbstractEventLoop
    answer: "asyncio.Future[Judged]"
    measured: Sequence[Measured] = ()
    batch: Batch = field(init=False)
    hashes: list[str] = field(init=False)
    remarks: list[str] = field(init=False)
    seen: Batch | None = None
    outputs: Answers | None = None

    def see(self, batch: Batch, hashes: list[str]) -> None:  # noqa: ARG002
        """Take in its images as the guard's classifier takes them, where that is otherwise."""
        self.seen = batch

    def take(self, batch: Batch, hashes: list[str]) -> None:
        """Take in its images when they are decoded."""
        self.batch, self.hashes, self.pixels = batch, hashes, batch.pixels
        screen = self.served.screen
        images = ImageSet([one.content for one in self.sent], batch.ids)
        self.remarks = unlike(screen.facts.get("sample"), screen.detector.preprocessing, images)


class Judge:
    """Judges requests: measures, decodes, scores in batches, decides, writes down, counts.

    Args:
        settings: limits and what is kept.
        store: of events.
        counters: of what waits, and of batches.
        written: told of verdicts when they are written down, in the thread that writes; must return at once. None where
            another process sees to that.
    """

    def __init__(self, settings: Settings, store: Store, counters: Counters, written: OnWritten | None) -> None:
        self._written = written
        self._limits, self._keep = settings.limits, settings.keep
        self._store = store
        self._images = InFlightLimit(settings.limits.waiting, "images")
        self._pixels = InFlightLimit(settings.limits.all_pixels, "pixels")
        self._served: dict[_Request, None] = {}
        self.kept = KeptImages(settings.images, settings.keep_bytes, settings.keep_days)
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="keep")
        self._measurers = [ThreadPoolExecutor(1, thread_name_prefix="measure") for _ in range(2)]
        self.line: Line[_Request] = Line(self._prepare, self._finish, _fail, counters.observe)
        counters.waiting.set_function(lambda: self._images.taken)
        counters.pixels.set_function(lambda: self._pixels.taken)
        counters.oldest.set_function(self._longest_wait)
        for name in self.line.seconds_at_one_step():
            counters.step.labels(name).set_function(partial(lambda step: self.line.seconds_at_one_step()[step], name))

    async def judge(
        self, served: Served, sent: Sequence[Sent], wish: Wish, request_id: str, left: Left | None = None
    ) -> Judged:
        """Return verdicts on images; when it returns they are in the store.

        Args:
            served: what judges.
            sent: the images.
            wish: what else is asked for.
            request_id: of the request.
            left: returns when the client has gone away, for whom no image is read or scored any more; None where
                that cannot be known.

        Raises:
            TooLarge: more images, or pixels in them, than one request may have.
            Busy: too many images, or pixels, are being served already.
            Unavailable: there was no verdict in time, or it could not be written.
            Refused: the client has gone away.
            InputError: no images, or an alpha or a group that the calibration does not have.
        """
        if not sent:
            raise InputError("expected at least one image; got none")
        if len(sent) > self._limits.images:
            raise TooLarge(f"expected at most {self._limits.images} images a request; got {len(sent)}")
        if wish.group:
            served.screen.calibrator.check_group(wish.group)
        seconds = min(wish.seconds or self._limits.seconds, self._limits.seconds)
        loop = asyncio.get_running_loop()
        judge = served.at(wish.alpha)
        guard = guarding.guard_of(served, judge, sent) if wish.labels else None
        request = _Request(
            name=served.name,
            screen=served.screen if guard is None else served.scorer,
            maps=wish.maps,
            until=time.monotonic() + seconds,
            served=served,
            judge=judge,
            guard=guard,
            sent=sent,
            wish=wish,
            request_id=request_id,
            loop=loop,
            answer=loop.create_future(),
        )
        with self._images.take(len(sent)):
            try:
                async with asyncio.timeout(seconds):
                    judged = await self._answered(request, left)
            except TimeoutError:
                retry = self._images.retry_after
                raise Unavailable(f"no verdict within {seconds:g} seconds: the service is busy", retry) from None
            finally:
                request.gone = True
        if guard is None:
            return judged
        groups = groups_of(sent, wish.group)
        return replace(judged, decisions=guarding.decided(guard, judged.verdicts, sent, groups, request.outputs))

    def trouble(self) -> str | None:
        """Return why small requests do not get their verdicts, so that nobody does; None where they do."""
        patience = self._limits.seconds / 2
        if not self.line.alive:
            return "a thread that judges has ended"
        for name, seconds in self.line.seconds_at_one_step().items():
            if seconds > patience:
                what = "scoring" if name == "score" else f"decoding {name} images"
                return f"{what} has stalled: it has been at one step for {seconds:.0f} seconds"
        waited = self._longest_wait()
        return f"a small request has been waiting for {waited:.0f} seconds" if waited > patience else None

    def close(self) -> None:
        """Finish what was taken in."""
        self.line.shutdown()
        for pool in (self._keeper, *self._measurers):
            pool.shutdown()

    async def _answered(self, request: _Request, left: Left | None) -> Judged:
        request.measured = await self._measure(request)
        if not request.wanted:
            raise TimeoutError
        pixels, most = sum(one.pixels for one in request.measured), self._limits.request_pixels
        if pixels > most:
            raise TooLarge(f"expected at most {most:,} pixels in the images of one request; got {pixels:,}")
        costs = [one.cost for one in request.measured]
        request.cost, request.largest = sum(costs), max(costs)
        with self._pixels.take(pixels), _noticing(request, left):
            self._served[request] = None
            try:
                self.line.send(request)
                return await request.answer
            finally:
                del self._served[request]

    async def _measure(self, request: _Request) -> Sequence[Measured]:
        """Look at the heads of the images; a head that takes long to read holds up no smaller requests."""
        seen = [glance(one, self._limits.pixels) for one in request.sent]
        if None not in seen:
            return [one for one in seen if one is not None]

        def look() -> list[Measured]:
            return [measure(one, self._limits.pixels) for one in request.sent if request.wanted]

        size = sum(one.size for one in request.sent)
        if size <= _FEW_BYTES:
            return look()
        return await request.loop.run_in_executor(self._measurers[size >= _MANY_BYTES], look)

    def _longest_wait(self) -> float:
        """Return for how long the small request that came first has been waiting, in seconds."""
        since = next((one.since for one in list(self._served) if one.is_small), None)
        return 0.0 if since is None else time.monotonic() - since

    def _prepare(self, request: _Request) -> Iterator[int]:
        own = request.screen.detector.preprocessing
        if request.guard is not None and request.guard.speaks and request.guard.seen != own:
            yield from decode(request.sent, request.measured, request.guard.seen, request.see)
        yield from decode(request.sent, request.measured, own, request.take)

    def _finish(self, requests: Sequence[_Request]) -> None:
        """Judge what has been scored, together what is alike, and have it written down."""
        together: dict[tuple[int, bool, bool, int], list[_Request]] = {}
        for request in requests:
            alike = (id(request.judge), request.wish.record, bool(request.size), id(request) if request.maps else 0)
            together.setdefault(alike, []).append(request)
        for some in together.values():
            try:
                self._decide(some)
            except Exception as error:
                for request in some:
                    _fail(request, error)

    def _decide(self, requests: Sequence[_Request]) -> None:
        screen, served = requests[0].judge, requests[0].served
        groups = [group for request in requests for group in groups_of(request.sent, request.wish.group)]
        verdicts = screen.judge(Scores.concatenate(_own_scores(one) for one in requests), groups)
        records, statistics, start = list(verdicts.records()), statistics_of(verdicts), 0
        answers = []
        for request in requests:
            end = start + len(request.sent)
            answer = Judged(
                served=served,
                screen=screen,
                batch=request.batch,
                everything=verdicts,
                start=start,
                records=records[start:end],
                events=_events(request, records[start:end], statistics[start:end]),
                remarks=request.remarks,
            )
            answers.append((request, answer))
            start = end
        if not requests[0].wish.record:
            _answer(answers, None)
        elif self._keep == "none":
            self._write(answers)
        else:
            self._keeper.submit(self._keep_and_write, answers)

    def _keep_and_write(self, answers: "_Answers") -> None:
        try:
            answers = [
                (request, replace(judged, events=self._put_away(judged.events, request))) for request, judged in answers
            ]
        except Exception as error:
            LOG.error("an image was not kept", exc_info=error)
            _answer(answers, Unavailable("the image could not be kept; the log says why", 5))
            return
        self._write(answers)

    def _write(self, answers: "_Answers") -> None:
        served, verdicts = answers[0][1].served, answers[0][1].everything
        events = [event for _, judged in answers for event in judged.events]

        def written(refusal: Exception | None) -> None:
            try:
                if refusal is None and self._written is not None:
                    self._written(served.name, served.version, served.screen, events, verdicts)
            finally:
                _answer(answers, refusal)

        self._store.put(events, written)

    def _put_away(self, events: Sequence[Event], request: _Request) -> Sequence[Event]:
        wanted = request.wish.keep
        if wanted is False:
            return events
        done = []
        for event, one in zip(events, request.sent, strict=True):
            keep = self._keep == "all" or event.verdict != "inlier" if wanted is None else True
            if keep and isinstance(one.content, bytes):
                self.kept.add(event.sha256, one.content)
                done.append(replace(event, kept=True))
            else:
                done.append(event)
        return done


def _own_scores(request: _Request) -> Scores:
    """Return the screen's scores of all images of a request; what the guard's classifier says is kept in it."""
    scores = in_place(request.batch, request.scores())
    if request.guard is not None and request.guard.speaks:
        scores, request.outputs = request.guard.heard(scores, request.seen or request.batch)
    return scores


@contextmanager
def _noticing(request: _Request, left: Left | None) -> Iterator[None]:
    """While the block runs, notice when the client goes away: nothing more is done for it then."""
    if left is None:
        yield
        return
    watching: list[asyncio.Task[None]] = []

    async def watch() -> None:
        await left()
        if not request.answer.done():
            request.answer.set_exception(Refused("the client went away before its verdicts were there"))

    timer = request.loop.call_later(_SOON, lambda: watching.append(request.loop.create_task(watch())))
    try:
        yield
    finally:
        timer.cancel()
        for task in watching:
            task.cancel()


_Answers = Sequence[tuple[_Request, Judged]]


def _answer(answers: _Answers, refusal: Exception | None) -> None:
    """Tell those who wait; they all wait in one loop."""
    loop = answers[0][0].loop

    def tell() -> None:
        for request, judged in answers:
            if not request.answer.done():
                if refusal is None:
                    request.answer.set_result(judged)
                else:
                    request.answer.set_exception(refusal)

    if not loop.is_closed():
        loop.call_soon_threadsafe(tell)


def _fail(request: _Request, error: Exception) -> None:
    def tell() -> None:
        if not request.answer.done():
            request.answer.set_exception(error)

    if not request.loop.is_closed():
        request.loop.call_soon_threadsafe(tell)


def _events(request: _Request, records: Sequence[dict[str, Any]], statistics: list[dict[str, float]]) -> list[Event]:
    now, groups = time.time(), groups_of(request.sent, request.wish.group)
    events = []
    for index, row in enumerate(records):
        events.append(
            Event(
                id=os.urandom(16).hex(),
                time=now,
                request_id=request.request_id,
                screen=request.served.name,
                version=request.served.version,
                name=row["id"],
                group=printable(groups[index]),
                sha256=request.hashes[index],
                kept=False,
                verdict=row["verdict"],
                instance_score=row["instance_score"],
                p_value=row["p_value"],
                threshold=row["threshold"],
                alpha=row["alpha"],
                error=row["error"],
                statistics=statistics[index],
            )
        )
    return events

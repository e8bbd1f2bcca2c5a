"""From what a client sent to verdicts that are written down; the web page and both protocols come through here."""

import asyncio
import base64
import hashlib
import io
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recondite.datasets import Batch
from recondite.errors import InputError
from recondite.explanation import in_words, statistics_of_first
from recondite.images import Preprocessing, picture_size
from recondite.pictures import colours
from recondite.plots import heat_colours
from recondite.scores import Scores, Verdicts
from recondite.screen import Screen
from recondite.service.batching import rows_of
from recondite.service.budget import Budget
from recondite.service.counters import Counters
from recondite.service.kept import KeptImages
from recondite.service.refusals import TooLarge, Unavailable
from recondite.service.screens import Served
from recondite.service.settings import Limits, Settings
from recondite.service.store import Event, Store
from recondite.service.watch import Watch

_LONGEST_NAME = 200


@dataclass(frozen=True)
class Sent:
    """One image as a client sent it.

    Args:
        name: what the client calls it; never a path.
        content: the bytes of an image file, or an array as `recondite.images.decode` takes it.
    """

    name: str
    content: bytes | NDArray[Any]


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
    """

    alpha: float | None = None
    group: str = ""
    maps: bool = False
    keep: bool | None = None
    seconds: float | None = None
    record: bool = True


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The answer to one request.

    Args:
        served: what judged.
        screen: the same at the false-alarm rate asked for.
        verdicts: N verdicts.
        pixels: float32 (M, *shape), the M readable images.
        events: N events, the first of which may not be written if `record` was False.
    """

    served: Served
    screen: Screen
    verdicts: Verdicts
    pixels: NDArray[np.float32]
    events: Sequence[Event]


class Judge:
    """Judges requests: decodes, scores in batches, decides, writes down, counts.

    Args:
        settings: limits and what is kept.
        store: of events.
        counters: of verdicts.
        watch: for drift.
    """

    def __init__(self, settings: Settings, store: Store, counters: Counters, watch: Watch) -> None:
        self._watch = watch
        self._limits, self._keep = settings.limits, settings.keep
        self._store, self._counters = store, counters
        self._images = Budget(settings.limits.waiting, "images")
        counters.waiting.set_function(lambda: self._images.taken)
        self.kept = KeptImages(settings.images, settings.keep_bytes)
        self._decoders: Executor = ThreadPoolExecutor(2, thread_name_prefix="decode")

    async def judge(self, served: Served, sent: Sequence[Sent], wish: Wish, request_id: str) -> Judged:
        """Return verdicts on images; when it returns they are in the store.

        Raises:
            TooLarge: more images than one request may have.
            Busy: too many images are being served already.
            Unavailable: there was no verdict in time, or it could not be written.
            InputError: no images, or an alpha that the calibration cannot give.
        """
        if not sent:
            raise InputError("expected at least one image; got none")
        if len(sent) > self._limits.images:
            raise TooLarge(f"expected at most {self._limits.images} images a request; got {len(sent)}")
        screen = served.screen if wish.alpha is None else served.screen.with_alpha(wish.alpha)
        seconds = min(wish.seconds or self._limits.seconds, self._limits.seconds)
        with self._images.take(len(sent)):
            try:
                async with asyncio.timeout(seconds):
                    judged = await self._judge(served, screen, sent, wish, request_id)
            except TimeoutError:
                retry = self._images.retry_after
                raise Unavailable(f"no verdict within {seconds:g} seconds: the service is busy", retry) from None
        if wish.record:
            self._counters.judged(served.name, served.version, judged.verdicts, time.time())
            groups = [wish.group] * len(sent)
            self._watch.judged(served.name, served.version, served.screen, judged.verdicts, groups)
        return judged

    async def _judge(self, served: Served, screen: Screen, sent: Sequence[Sent], wish: Wish, request_id: str) -> Judged:
        loop = asyncio.get_running_loop()
        batch, hashes = await loop.run_in_executor(
            self._decoders, _decode, sent, screen.detector.preprocessing, self._limits
        )
        scores = await served.batcher.score(batch.pixels, wish.maps) if len(batch.pixels) else None
        verdicts = screen.judge(_in_place(batch, scores), [wish.group] * len(sent))
        events = _events(served, verdicts, hashes, wish.group, request_id)
        if wish.record:
            chosen = [self._keeps(event, one, wish) for event, one in zip(events, sent, strict=True)]
            if any(chosen):
                await loop.run_in_executor(self._decoders, self._put_away, events, sent, chosen)
                events = [replace(event, kept=kept) for event, kept in zip(events, chosen, strict=True)]
            await self._store.add(events)
        return Judged(served=served, screen=screen, verdicts=verdicts, pixels=batch.pixels, events=events)

    def _keeps(self, event: Event, sent: Sent, wish: Wish) -> bool:
        wanted = self._keep == "all" or (self._keep == "flagged" and event.verdict != "inlier")
        return isinstance(sent.content, bytes) and (wanted if wish.keep is None else wish.keep and self._keep != "none")

    def _put_away(self, events: Sequence[Event], sent: Sequence[Sent], chosen: Sequence[bool]) -> None:
        for event, one, kept in zip(events, sent, chosen, strict=True):
            if kept and isinstance(one.content, bytes):
                self.kept.add(event.sha256, one.content)


def why(judged: Judged, index: int) -> tuple[str, list[tuple[str, float]]]:
    """Return the verdict on one image in words, and (what a statistic is, standard deviations from normal)."""
    one = rows_of(judged.verdicts, index, index + 1)
    assert isinstance(one, Verdicts)
    return in_words(judged.screen, one), [] if one.errors[0] is not None else statistics_of_first(judged.screen, one)


def heat_map(judged: Judged, index: int) -> bytes | None:
    """Return one image's heat map as a PNG of the screen's size; None where there is nothing to show."""
    verdicts, detector = judged.verdicts, judged.screen.detector
    if verdicts.feature_score is None or verdicts.errors[index] is not None:
        return None
    if not detector.locates or not detector.preprocessing.is_image:
        return None
    return png(heat_colours(verdicts.feature_score[index], judged.screen.map_scale))


def reconstruction(judged: Judged, index: int) -> bytes | None:
    """Return one image rebuilt as a PNG of the screen's size; None where there is nothing to show."""
    verdicts = judged.verdicts
    if verdicts.reconstruction is None or verdicts.errors[index] is not None:
        return None
    return png(colours(verdicts.reconstruction[index])) if judged.screen.detector.preprocessing.is_image else None


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels (H, W) or (H, W, 3) as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def base64_of(content: bytes | None) -> str | None:
    """Return bytes as text."""
    return None if content is None else base64.b64encode(content).decode()


def printable(name: str) -> str:
    """Return what a client calls an image as at most 200 printable characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:_LONGEST_NAME])


def _decode(sent: Sequence[Sent], preprocessing: Preprocessing, limits: Limits) -> tuple[Batch, list[str]]:
    rows: list[NDArray[np.float32]] = []
    errors: list[str | None] = []
    hashes = []
    for one in sent:
        content = one.content
        hashes.append(hashlib.sha256(content if isinstance(content, bytes) else _bytes_of(content)).hexdigest())
        try:
            if isinstance(content, bytes):
                width, height = picture_size(content)
                if width * height > limits.pixels:
                    raise InputError(f"the picture has {width} x {height} pixels; the limit is {limits.pixels:,}")
            rows.append(preprocessing(content))
            errors.append(None)
        except InputError as error:
            errors.append(str(error))
    pixels = np.stack(rows) if rows else np.zeros((0, *preprocessing.shape), dtype=np.float32)
    names = [printable(one.name) for one in sent]
    return Batch(names, [""] * len(sent), pixels, errors), hashes


def _bytes_of(array: NDArray[Any]) -> bytes:
    return f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()


def _in_place(batch: Batch, scores: Scores | None) -> Scores:
    """Return the scores of the readable images in their places among all, NaN elsewhere."""
    if scores is None:
        nothing = np.full(len(batch.ids), np.nan)
        return Scores(ids=tuple(batch.ids), instance_score=nothing, errors=tuple(batch.errors))
    good = batch.good

    def spread(values: NDArray[Any] | None) -> Any:
        if values is None or good.all():
            return values
        spread = np.full((len(good), *values.shape[1:]), np.nan, dtype=values.dtype)
        spread[good] = values
        return spread

    statistics = None
    if scores.statistics is not None:
        statistics = {name: spread(values) for name, values in scores.statistics.items()}
    return Scores(
        ids=tuple(batch.ids),
        instance_score=spread(scores.instance_score),
        errors=tuple(batch.errors),
        feature_score=spread(scores.feature_score),
        reconstruction=spread(scores.reconstruction),
        statistics=statistics,
    )


def _events(served: Served, verdicts: Verdicts, hashes: Sequence[str], group: str, request_id: str) -> list[Event]:
    now = time.time()
    events = []
    for index, row in enumerate(verdicts.records()):
        values = {name: float(column[index]) for name, column in (verdicts.statistics or {}).items()}
        events.append(
            Event(
                id=uuid.uuid4().hex,
                time=now,
                request_id=request_id,
                screen=served.name,
                version=served.version,
                name=row["id"],
                group=printable(group),
                sha256=hashes[index],
                kept=False,
                verdict=row["verdict"],
                instance_score=row["instance_score"],
                p_value=row["p_value"],
                threshold=row["threshold"],
                alpha=row["alpha"],
                error=row["error"],
                statistics={name: value for name, value in values.items() if np.isfinite(value)},
            )
        )
    return events

"""Batch jobs: many images judged in the background, a few at a time, into a table; a restart goes on with them.

Each job is a folder: job.json, the archive until it is done, the table with its journal, and a report if asked for.
"""

import asyncio
import csv
import json
import os
import re
import shutil
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from recondite.data.files import atomic_file
from recondite.data.growing import GrowingTable
from recondite.data.listing import folder_label
from recondite.errors import ReconditeError, SourceError
from recondite.screen.screen import Screen
from recondite.service.engine.decoding import Sent
from recondite.service.engine.following import verdicts_of
from recondite.service.engine.guarding import COLUMNS as GUARD_COLUMNS
from recondite.service.engine.guarding import guard_of, rows_of_guard
from recondite.service.engine.job_sources import JobSource, open_archive, open_place
from recondite.service.engine.judging import Judge, Judged, Wish
from recondite.service.engine.registry import Served, Shelf
from recondite.service.errors import Busy, TooLarge, Unavailable, Unknown, unavailable
from recondite.service.log import LOG
from recondite.service.settings import Limits
from recondite.statistics.scores import NUMBERS

State = Literal["waiting", "running", "done", "failed"]
_ID = re.compile(r"[0-9a-f]{32}")
_AT_ONCE = 16
_MOST_BYTES = 64 << 20
_MOST_WAITING, _MOST_KEPT = 32, 1000
_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_TRIES = 3
_FACTS = "job.json"
COLUMNS = ("id", "verdict", "is_outlier", "instance_score", "p_value", "threshold", "alpha", "error")


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """One batch job.

    Args:
        id: 32 hexadecimal digits.
        time: seconds since 1970, when it came.
        screen, version: what judges; the version that was the default then.
        alpha, group: as in `Wish`; without a group, the folder of an image names its own where the screen has groups.
        place: of the images; "" for an archive that was sent.
        state: waiting, running, done or failed.
        images: in all; None until it has begun.
        judged: how many of them are in the table.
        counts: verdict -> number.
        error: why it failed.
    """

    id: str
    time: float
    screen: str
    version: str
    alpha: float | None = None
    group: str = ""
    place: str = ""
    state: State = "waiting"
    images: int | None = None
    judged: int = 0
    counts: Mapping[str, int]
    error: str | None = None


class Jobs:
    """Does jobs one after the other, in the order in which they came.

    Images go the way of every request, at most sixteen at a time, so that requests pass between them, and their
    verdicts are events. Where the process is killed, the last few may be judged, and recorded as events, a second
    time; in the table each is once.

    Args:
        folder: of all jobs.
        shelf: the screens.
        judge: gives verdicts.
        places: that jobs may name.
        limits: of requests; they hold for what is judged at a time too.
    """

    def __init__(self, folder: Path, shelf: Shelf, judge: Judge, places: Sequence[str], limits: Limits) -> None:
        self._folder, self._shelf, self._judge = folder, shelf, judge
        self._places, self._limits, self._at_once = places, limits, min(_AT_ONCE, limits.images, limits.waiting)
        folder.mkdir(parents=True, exist_ok=True)
        found = (_read(path) for path in folder.glob(f"*/{_FACTS}"))
        self._jobs = {
            job.id: job for job in sorted((job for job in found if job is not None), key=lambda one: one.time)
        }
        for path in folder.iterdir():
            if _ID.fullmatch(path.name) and not (path / _FACTS).exists():  # being received when the process ended
                shutil.rmtree(path, ignore_errors=True)
        self._receiving: set[Path] = set()
        self._reporting = asyncio.Lock()
        self._news = asyncio.Event()
        self._news.set()

    def all(self) -> list[BatchJob]:
        """Return all jobs, newest first."""
        return list(self._jobs.values())[::-1]

    def get(self, job: str) -> BatchJob:
        """Return a job as it stands.

        Raises:
            Unknown: there is no such job.
        """
        if job not in self._jobs:
            raise Unknown(f"there is no job {job[:64]!r}")
        return self._jobs[job]

    def table(self, job: str) -> Path:
        """Return where the table of a job is."""
        return self._folder / self.get(job).id / "table.csv"

    async def report(self, job: str) -> Path:
        """Return the HTML report of a job that is done, without pictures; it is made when it is first asked for.

        Raises:
            Unknown: there is no such job, it is not done, or what judged is not served any more.
        """
        found = self.get(job)
        path = self._folder / found.id / "report.html"
        async with self._reporting:
            if not path.is_file():
                if found.state != "done":
                    raise Unknown(f"this job is {found.state}: only one that is done has a report")
                screen = self._shelf.get(found.screen, found.version).at(found.alpha)
                await asyncio.to_thread(_write_report, path, screen, self.table(job))
        return path

    def receive(self) -> Path:
        """Return where to write the archive of a job that comes.

        Raises:
            Busy: too many are waiting.
        """
        waiting = sum(job.state in ("waiting", "running") for job in self._jobs.values())
        if waiting + len(self._receiving) >= _MOST_WAITING:
            raise Busy(f"{_MOST_WAITING} jobs are waiting", 60)
        path = self._folder / os.urandom(16).hex() / "archive"
        path.parent.mkdir()
        self._receiving.add(path)
        return path

    async def begin(self, archive: Path, screen: str, version: str | None, **asked: Any) -> BatchJob:
        """Take in a job whose archive, if it has one, was received.

        Args:
            archive: what `receive` returned.
            screen, version: as in `Shelf.get`.
            asked: alpha, group and place, as in `BatchJob`.

        Raises:
            Unknown: there is no such screen.
            InputError: an alpha or group that the screen, or its guard, does not have, or images that cannot be opened.
        """
        served = self._shelf.get(screen, version)
        job = BatchJob(
            id=archive.parent.name, time=time.time(), screen=served.name, version=served.version, counts={}, **asked
        )
        guard_of(served, served.at(job.alpha))
        if job.group:
            served.screen.calibrator.check_group(job.group)
        source = await asyncio.to_thread(self._open, job)
        self._forget_old()
        job = replace(job, images=len(source.names))
        await self._keep(job)
        self._jobs[job.id] = job
        self._receiving.discard(archive)
        self._news.set()
        return job

    def discard(self, archive: Path) -> None:
        """Remove what was received of a job that was not taken in."""
        self._receiving.discard(archive)
        shutil.rmtree(archive.parent, ignore_errors=True)

    async def delete(self, job: str) -> None:
        """Remove a job and its table; one that runs ends after the images being judged.

        Raises:
            OSError: it cannot be removed, and would be there again after a restart: so it stays.
        """
        folder = self._folder / self.get(job).id
        (folder / _FACTS).unlink(missing_ok=True)  # without it, it is no job
        del self._jobs[job]
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def work(self) -> None:
        """Do jobs until cancelled."""
        while True:
            job = next((one for one in self._jobs.values() if one.state in ("waiting", "running")), None)
            if job is None:
                self._news.clear()
                await self._news.wait()
                continue
            why: str | None = None
            try:
                await self._do(job)
            except Exception as error:
                known = unavailable(error) or (error if isinstance(error, ReconditeError) else None)
                if known is not error:
                    LOG.exception("a job failed")
                why = "the service failed; its log says why" if known is None else str(known)
            await self._end(job, why)

    async def _do(self, job: BatchJob) -> None:
        served = self._shelf.get(job.screen, job.version)
        source = await asyncio.to_thread(self._open, job)
        header = {"screen": served.fingerprint, "alpha": job.alpha, "group": job.group, "images": len(source.names)}
        columns = (*COLUMNS, *(GUARD_COLUMNS if served.guard.speaks else ()))
        table = await asyncio.to_thread(GrowingTable, self.table(job.id), header, columns)
        counts = {"inlier": 0, "outlier": 0, "invalid": 0}
        done = 0
        for fact in table.taken_up:
            done = fact["next"]
            counts = {word: counts[word] + fact["counts"][word] for word in counts}
        wish = Wish(alpha=job.alpha, group=job.group, keep=None)
        while job.id in self._jobs:
            job = replace(job, state="running", images=len(source.names), judged=done, counts=counts)
            self._jobs[job.id] = job
            if done == len(source.names):
                return
            sent, refusals = await self._fetched(source, done, job.id)
            if not job.group and served.screen.calibrator.groups is not None:
                folders = [folder_label(source.names[done + place]) for place in range(len(sent))]
                known = served.screen.calibrator.sizes
                sent = [replace(one, group=_group_of(folder, known)) for one, folder in zip(sent, folders, strict=True)]
            judged = await self._patiently(served, sent, refusals, wish, job.id)
            labels: list[dict[str, Any]] = [{}] * len(sent)
            if judged.decisions is not None:
                labels = list(rows_of_guard(judged.decisions))
            rows = [
                {**row, **label, "id": source.names[done + place], "error": refusals.get(place, row["error"])}
                for place, (row, label) in enumerate(zip(judged.records, labels, strict=True))
            ]
            own = judged.counts()
            counts = {word: counts[word] + own[word] for word in counts}
            done += len(rows)
            if job.id in self._jobs:
                await asyncio.to_thread(table.add, [{"next": done, "counts": own}], rows)

    async def _fetched(self, source: JobSource, start: int, job: str) -> tuple[list[Sent], dict[int, str]]:
        """Return some images; where their store does not answer, which is no fault of theirs, ask it again."""
        for left in reversed(range(_TRIES)):
            try:
                return await asyncio.to_thread(self._next, source, start)
            except SourceError as error:
                if not left or job not in self._jobs:
                    raise
                LOG.warning("a job waits for its images", extra={"facts": {"job": job, "why": str(error)}})
            await asyncio.sleep(_LONGEST_PAUSE)
        raise AssertionError("unreachable")

    def _next(self, source: JobSource, start: int) -> tuple[list[Sent], dict[int, str]]:
        """Return some images; one that cannot be read is empty, and has its reason beside it, by its place."""
        sent: list[Sent] = []
        refusals: dict[int, str] = {}
        size = 0
        for index in range(start, min(start + self._at_once, len(source.names))):
            try:
                content = source.read(index, self._limits.body_bytes)
            except SourceError:
                raise
            except (ReconditeError, OSError) as error:
                content, refusals[index - start] = b"", str(error)
            sent.append(Sent(source.names[index], content))
            size += len(content)
            if size > _MOST_BYTES:
                break
        return sent, refusals

    async def _patiently(
        self, served: Served, sent: list[Sent], refusals: dict[int, str], wish: Wish, job: str
    ) -> Judged:
        """Judge some images, or the first of them where they are too much at once, when the service has time."""
        pause = _PAUSE
        while True:
            try:
                return await self._judge.judge(served, sent, wish, job)
            except TooLarge as error:
                if len(sent) == 1:
                    refusals[0], sent[0] = str(error), replace(sent[0], content=b"")
                del sent[1:]
                continue
            except (Busy, Unavailable) as error:
                LOG.info("a job waits", extra={"facts": {"job": job, "why": str(error)}})
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _open(self, job: BatchJob) -> JobSource:
        return open_place(job.place, self._places) if job.place else open_archive(self._folder / job.id / "archive")

    async def _end(self, job: BatchJob, error: str | None) -> None:
        if job.id not in self._jobs:
            return
        last = replace(self._jobs[job.id], state="done" if error is None else "failed", error=error)
        self._jobs[job.id] = last
        try:
            await self._keep(last)
            (self._folder / job.id / "archive").unlink(missing_ok=True)
            if job.id not in self._jobs:  # deleted meanwhile, and written down again
                shutil.rmtree(self._folder / job.id, ignore_errors=True)
        except OSError:  # a restart goes on with it
            LOG.exception("the end of a job was not written down")

    async def _keep(self, job: BatchJob) -> None:
        await asyncio.to_thread(_write, self._folder / job.id / _FACTS, job)

    def _forget_old(self) -> None:
        ended = [job for job in self._jobs.values() if job.state in ("done", "failed")]
        for job in ended[: max(0, len(self._jobs) - _MOST_KEPT + 1)]:
            shutil.rmtree(self._folder / job.id, ignore_errors=True)
            del self._jobs[job.id]


def _group_of(folder: str, known: Container[str | None]) -> str:
    """Return the group that the folder of an image, or the end of its path, names; the whole where there is none."""
    parts = folder.split("/")
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in known), folder)


def _write(path: Path, job: BatchJob) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(asdict(job)), encoding="utf-8")


def _write_report(path: Path, screen: Screen, table: Path) -> None:
    from recondite.reports.report import write_report  # matplotlib takes a while

    with table.open(encoding="utf-8", newline="") as stream:
        write_report(path, screen, verdicts_of([_event_of(row) for row in csv.DictReader(stream)]))


def _event_of(row: Mapping[str, str]) -> dict[str, Any]:
    """Return a row of a table as `verdicts_of` takes it."""
    numbers = {name: float(row[name]) if row[name] else None for name in (*NUMBERS, "alpha")}
    return {"name": row["id"], "verdict": row["verdict"], "error": row["error"] or None, "statistics": {}, **numbers}


def _read(path: Path) -> BatchJob | None:
    try:
        return BatchJob(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None

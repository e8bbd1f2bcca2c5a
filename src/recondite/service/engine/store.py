"""The event store: every verdict and every label given by a person, in SQLite or Postgres."""

import asyncio
import math
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError

from recondite.errors import InputError, ReconditeError
from recondite.service.engine.database import (
    CURRENT,
    EVENTS,
    LABELS,
    MONITORS,
    ROWS,
    TABLES,
    DatabaseFiles,
    address_of,
    engine_of,
    reason_of,
    write_and_take_back,
)
from recondite.service.engine.filters import ORDERS, Filter, Order
from recondite.service.errors import Unavailable, Unknown
from recondite.service.log import LOG
from recondite.statistics.scores import STATISTIC

Label = Literal["inlier", "outlier", "skip", "none"]
"""What a person says; "none" takes back what was said."""
T = TypeVar("T")
OnWritten = Callable[[Exception | None], None]
"""Called when something was written, or why not."""

_CHUNK = 1000
_PATIENCE, _LONGEST_END = 2.0, 30.0
_PROBE_SECONDS = 2.0
"""Whether the store can be written is tried at most as often."""
_AT_FAULT = (sql.exc.DataError, sql.exc.IntegrityError, ValueError, TypeError)
"""Errors of one write; the store itself is well."""
_WORDS = {EVENTS: "the verdict", LABELS: "the label", None: "an event"}
_LARGEST_COMMIT = 2048
_LONGEST_LOCK_MS = 200
_LAST_NUMBER = sql.select(sql.func.max(EVENTS.c.number))


@dataclass(frozen=True, kw_only=True)
class Event:
    """One verdict on one image.

    Args:
        id: 32 hexadecimal digits.
        time: seconds since 1970.
        request_id: of the request it answered.
        screen, version: what judged.
        name: what the client called the image.
        group: of the calibration that was used; "" without groups.
        sha256: of the image as it came.
        kept: whether the image was kept.
        verdict: inlier, outlier or invalid.
        instance_score, p_value, threshold: None where not finite.
        alpha: the false-alarm rate judged at.
        error: why the image is invalid; None for the others.
        statistics: of the image, by name; empty where the screen looks at none.
    """

    id: str
    time: float
    request_id: str
    screen: str
    version: str
    name: str
    group: str
    sha256: str
    kept: bool
    verdict: str
    instance_score: float | None
    p_value: float | None
    threshold: float | None
    alpha: float
    error: str | None
    statistics: dict[str, float]


class Store:
    """Keeps events. What `add` or `label` returned from survives the process, however it ends.

    It survives a power cut too in Postgres as it comes, and in SQLite with sqlite:///events.db?synchronous=full, which
    waits for the disk at every commit.

    One thread writes, all that waits in one transaction, so that many small requests share the wait for the disk.

    Args:
        url: of SQLAlchemy, for SQLite or Postgres; tables are made where missing.

    Raises:
        InputError: an URL of neither, or a database that cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self.engine = engine_of(url)
        try:
            TABLES.create_all(self.engine)
            with self.engine.begin() as link:
                write_and_take_back(link)
        except SQLAlchemyError as error:
            self.engine.dispose()
            where = f"{self.engine.url.database!r} " if self.engine.url.drivername == "sqlite" else ""
            raise InputError(f"the store {where}cannot be opened: {reason_of(error)}") from error
        self.files = DatabaseFiles(self.engine)
        self._probe: asyncio.Future[None] | None = None
        self._probe_began = self._failed = -math.inf
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="store-read")
        self._waiting: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="store-write", daemon=True)
        self._writer.start()

    async def add(self, events: Sequence[Event]) -> None:
        """Write events.

        Raises:
            Unavailable: they could not be written; none of them is there.
        """
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self.put(events, _teller(loop, future))
        await future

    def put(self, events: Sequence[Event], on_written: OnWritten) -> None:
        """Write events soon, then call `on_written` in the writing thread, with what `add` would have raised."""
        self._waiting.put(_Write(EVENTS, [vars(event) for event in events], on_written))

    async def label(self, event: str, label: Label, note: str = "") -> None:
        """Attach what a person says to an event; the last label counts, all are kept.

        Raises:
            Unknown: there is no such event.
            Unavailable: it could not be written.
        """
        await self.get(event)
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        row = {"event": event, "time": time.time(), "label": label, "note": note}
        self._waiting.put(_Write(LABELS, [row], _teller(loop, future)))
        await future

    async def get(self, event: str) -> dict[str, Any]:
        """Return an event as a row: `Event` with its number and current label.

        Raises:
            Unknown: there is no such event.
            Unavailable: the store does not answer.
        """
        rows = await self._read(_fetch(ROWS.where(EVENTS.c.id == event)))
        if not rows:
            raise Unknown(f"there is no event {event!r}")
        return rows[0]

    async def rows(self, chosen: Filter, limit: int = 100, order: Order = "newest") -> list[dict[str, Any]]:
        """Return at most `limit` events as rows: newest first, oldest first, or the most anomalous first.

        Raises:
            Unavailable: the store does not answer.
        """
        query = ROWS.where(*chosen.conditions()).order_by(*ORDERS[order]).limit(limit)
        return await self._read(_fetch(query))

    async def count(self, chosen: Filter) -> int:
        """Return how many events there are.

        Raises:
            Unavailable: the store does not answer.
        """
        joined = EVENTS.outerjoin(CURRENT, CURRENT.c.event == EVENTS.c.id)
        query = sql.select(sql.func.count()).select_from(joined).where(*chosen.conditions())
        return await self._read(lambda link: link.execute(query).scalar_one())

    async def counts(self, screen: str = "") -> dict[str, int]:
        """Return how many events there are in all ("events"), of each verdict, and flagged without a label ("queue").

        Raises:
            Unavailable: the store does not answer.
        """
        chosen = list(Filter(screen=screen).conditions())
        totals = sql.select(EVENTS.c.verdict, sql.func.count()).where(*chosen).group_by(EVENTS.c.verdict)
        queued = sql.select(sql.func.count()).select_from(EVENTS.outerjoin(CURRENT, CURRENT.c.event == EVENTS.c.id))
        queued = queued.where(*Filter(screen=screen, verdict="flagged", label="none").conditions())

        def both(link: sql.Connection) -> dict[str, int]:
            found = {"inlier": 0, "outlier": 0, "invalid": 0} | {row[0]: row[1] for row in link.execute(totals)}
            return {"events": sum(found.values()), **found, "queue": link.execute(queued).scalar_one()}

        return await self._read(both)

    async def walk(self, chosen: Filter) -> AsyncIterator[dict[str, Any]]:
        """Yield all chosen events as rows, oldest first, in bounded memory.

        Raises:
            Unavailable: the store does not answer.
        """
        last = chosen.after or 0
        while True:
            part = replace(chosen, after=last)
            query = ROWS.where(*part.conditions()).order_by(EVENTS.c.number).limit(_CHUNK)
            rows = await self._read(_fetch(query))
            for row in rows:
                yield row
            if len(rows) < _CHUNK:
                return
            last = rows[-1]["number"]

    def last(self) -> int:
        """Return the number of the last event that is written, and after which all others will come; 0 without any.

        Raises:
            SQLAlchemyError: the store does not answer, or not soon.
        """
        with self.engine.begin() as link:
            if self.engine.dialect.name == "postgresql":
                # An event that is being written may have a smaller number than one that is there: wait for those.
                link.execute(sql.text(f"SET LOCAL lock_timeout = {_LONGEST_LOCK_MS}"))
                link.execute(sql.text("LOCK TABLE events IN SHARE MODE"))
            return max(0, link.execute(_LAST_NUMBER).scalar_one() or 0)

    def later(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Return at most `limit` events after one, oldest first, as rows; none is ever written among them afterwards.

        Raises:
            SQLAlchemyError: the store does not answer, or not soon.
        """
        with self.engine.connect() as link:
            if (link.execute(_LAST_NUMBER).scalar_one() or 0) <= after:
                return []
        last = self.last()
        query = sql.select(EVENTS).where(EVENTS.c.number > after, EVENTS.c.number <= last)
        with self.engine.connect() as link:
            return _fetch(query.order_by(EVENTS.c.number).limit(limit))(link)

    def monitor(self, screen: str, version: str) -> Any:
        """Return the state of a drift monitor that `keep_monitor` wrote last; None where there is none.

        Raises:
            SQLAlchemyError: the store does not answer.
        """
        found = sql.select(MONITORS.c.state).where(MONITORS.c.screen == screen, MONITORS.c.version == version)
        with self.engine.connect() as link:
            return link.execute(found).scalar_one_or_none()

    def keep_monitor(self, screen: str, version: str, state: Mapping[str, Any] | None) -> None:
        """Write the state of a drift monitor in place of the last; None only deletes that.

        Raises:
            SQLAlchemyError: it could not be written.
        """
        row = {"screen": screen, "version": version, "time": time.time(), "state": state}
        with self.engine.begin() as link:
            old = sql.delete(MONITORS).where(MONITORS.c.screen == screen, MONITORS.c.version == version)
            link.execute(old)
            if state is not None:
                link.execute(MONITORS.insert(), [row])

    async def ping(self) -> None:
        """Raise Unavailable unless events can be written, which is tried, at most every two seconds."""
        if not self._writer.is_alive():
            raise Unavailable("the store's writer has stopped")
        now = time.monotonic()
        if self._probe is None or (
            self._probe.done() and (now - self._probe_began > _PROBE_SECONDS or self._failed > self._probe_began)
        ):
            self._probe_began = now
            loop = asyncio.get_running_loop()
            self._probe = loop.create_future()
            self._probe.add_done_callback(lambda done: done.exception())  # nobody may be waiting by then
            self._waiting.put(_Write(None, [], _teller(loop, self._probe)))
        try:
            async with asyncio.timeout(_PATIENCE):
                await asyncio.shield(self._probe)
        except TimeoutError:
            raise Unavailable(f"the store does not answer within {_PATIENCE:g} seconds", 5) from None

    def close(self) -> None:
        """Write what waits, and close; a database that hangs is not waited for long."""
        self._waiting.put(None)
        self._writer.join(_LONGEST_END)
        self._readers.shutdown(wait=not self._writer.is_alive(), cancel_futures=True)
        self.engine.dispose()

    async def _read(self, ask: Callable[[sql.Connection], T]) -> T:
        def read() -> T:
            with self.engine.connect() as link:
                return ask(link)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, read)
        except SQLAlchemyError as error:
            raise _refusal(error, "the store does not answer") from error

    def _write(self) -> None:
        while (first := self._waiting.get()) is not None:
            together, last = [first], False
            rows = len(first.rows)
            while rows < _LARGEST_COMMIT:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    last = True
                    break
                together.append(more)
                rows += len(more.rows)
            self._commit(together)
            if last:
                return

    def _commit(self, together: "list[_Write]") -> None:
        probes = [write for write in together if write.table is None]
        writes = [write for write in together if write.table is not None]
        groups = [some for some in (writes, probes) if some]
        for some in groups:
            error = self._attempt(some)
            if isinstance(error, _AT_FAULT) and len(some) > 1:
                groups += [[write] for write in some]  # whichever it is, the others are not to blame
                continue
            if error is not None and not isinstance(error, _AT_FAULT):
                self._failed = time.monotonic()
            for write in some:
                try:
                    write.on_written(error and _refusal(error, f"{_WORDS[write.table]} could not be recorded"))
                except Exception:  # the writer must go on
                    LOG.exception("telling of a write failed")

    def _attempt(self, together: "list[_Write]") -> Exception | None:
        """Write all in one transaction, and return why nothing of it is written; None where all is."""
        try:
            self.files.before_commit()
            with self.engine.begin() as link:
                for table in (EVENTS, LABELS):
                    rows = [row for write in together if write.table is table for row in write.rows]
                    if rows:
                        link.execute(table.insert(), rows)
                if together[0].table is None:
                    write_and_take_back(link)
            self.files.after_commit()
        except Exception as error:  # whatever it is, those who wait must hear of it
            return error
        return None


@dataclass(frozen=True)
class _Write:
    """Rows of a table; without one, a try whether an event could be written."""

    table: sql.Table | None
    rows: list[dict[str, Any]]
    on_written: OnWritten


def _refusal(error: Exception, words: str) -> ReconditeError:
    """Return what is told of an error of the store; a value that it cannot hold is wrong input, and stays so."""
    if isinstance(error, sql.exc.DataError):
        return InputError(f"the store cannot hold that: {reason_of(error)}")
    return Unavailable(f"{words}: {reason_of(error)}", 5)


def _teller(loop: asyncio.AbstractEventLoop, future: "asyncio.Future[None]") -> OnWritten:
    def tell(refusal: Exception | None) -> None:
        if future.done():
            return
        if refusal is None:
            future.set_result(None)
        else:
            future.set_exception(refusal)

    def on_written(refusal: Exception | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, refusal)

    return on_written


def read_store(url: str) -> Iterator[dict[str, Any]]:
    """Yield the events of a store, oldest first, as `recondite.data.tables.read_events` has them; it is not changed.

    The id of an event is the SHA-256 of its image here, since clients give many images the same name. "label_number"
    counts the labels in the order in which they were given.

    Args:
        url: as `Store` takes it; `screen=` and `version=` among its parameters choose events.

    Raises:
        InputError: there is no such store, or it cannot be read.
    """
    address = address_of(url)
    chosen = Filter(screen=str(address.query.get("screen", "")), version=str(address.query.get("version", "")))
    if address.drivername == "sqlite" and not Path(address.database or "").is_file():
        raise InputError(f"there is no file {address.database!r}")
    engine = engine_of(address.difference_update_query(["screen", "version"]).render_as_string(hide_password=False))
    last = 0
    try:
        while True:
            query = ROWS.add_columns(CURRENT.c.number.label("label_number"))
            query = query.where(*replace(chosen, after=last).conditions()).order_by(EVENTS.c.number).limit(_CHUNK)
            with engine.connect() as link:
                rows = _fetch(query)(link)
            for row in rows:
                found = {STATISTIC + name: value for name, value in row.pop("statistics").items()}
                yield {**row, "event": row["id"], "id": row["sha256"], **found}
            if len(rows) < _CHUNK:
                return
            last = rows[-1]["number"]
    except SQLAlchemyError as error:
        raise InputError(f"the store cannot be read: {reason_of(error)}") from error
    finally:
        engine.dispose()


def _fetch(query: sql.Select[Any]) -> Callable[[sql.Connection], list[dict[str, Any]]]:
    return lambda link: [dict(row) for row in link.execute(query).mappings()]

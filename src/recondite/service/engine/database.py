"""The database of events: its tables, its engine of SQLAlchemy, and whether its files are those that were opened."""

import os
import random
import shutil
import sqlite3
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError

from recondite.data.addresses import without_secrets
from recondite.errors import InputError
from recondite.service.errors import Unavailable

TABLES = sql.MetaData()
EVENTS = sql.Table(
    "events",
    TABLES,
    sql.Column("number", sql.BigInteger().with_variant(sql.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sql.Column("id", sql.String(32), nullable=False, unique=True),
    sql.Column("time", sql.Float, nullable=False, index=True),
    sql.Column("request_id", sql.String(64), nullable=False),
    sql.Column("screen", sql.String(64), nullable=False),
    sql.Column("version", sql.String(64), nullable=False),
    sql.Column("name", sql.String(200), nullable=False),
    sql.Column("group", sql.String(200), nullable=False),
    sql.Column("sha256", sql.String(64), nullable=False, index=True),
    sql.Column("kept", sql.Boolean, nullable=False),
    sql.Column("verdict", sql.String(8), nullable=False),
    sql.Column("instance_score", sql.Float),
    sql.Column("p_value", sql.Float),
    sql.Column("threshold", sql.Float),
    sql.Column("alpha", sql.Float, nullable=False),
    sql.Column("error", sql.Text),
    sql.Column("statistics", sql.JSON, nullable=False),
)
LABELS = sql.Table(
    "labels",
    TABLES,
    sql.Column("number", sql.BigInteger().with_variant(sql.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sql.Column("event", sql.String(32), sql.ForeignKey("events.id"), nullable=False, index=True),
    sql.Column("time", sql.Float, nullable=False),
    sql.Column("label", sql.String(8), nullable=False),
    sql.Column("note", sql.Text, nullable=False),
)
MONITORS = sql.Table(
    "monitors",
    TABLES,
    sql.Column("screen", sql.String(64), primary_key=True),
    sql.Column("version", sql.String(64), primary_key=True),
    sql.Column("time", sql.Float, nullable=False),
    sql.Column("state", sql.JSON, nullable=False),
)
_LAST = sql.select(sql.func.max(LABELS.c.number).label("number")).group_by(LABELS.c.event).subquery()
_SAID = sql.func.nullif(LABELS.c.label, "none").label("label")
_LABELLED = sql.select(LABELS.c.event, _SAID, LABELS.c.number)
CURRENT = _LABELLED.join(_LAST, LABELS.c.number == _LAST.c.number).subquery()
ROWS = sql.select(EVENTS, CURRENT.c.label).outerjoin(CURRENT, CURRENT.c.event == EVENTS.c.id)
"""Events with the label that they have now, if any."""
_LARGEST_GROWTH = 1 << 15
"""Bytes; about what a database grows by at most for an event, where pages of its table and of all indices split."""
LEAST_FREE = 16 << 20
"""Bytes; with fewer left on a disk, what is to be written there may not fit."""


def address_of(text: str) -> sql.URL:
    """Return the address of a store in its parts.

    Raises:
        InputError: it is no URL of SQLAlchemy.
    """
    try:
        url = sql.make_url(text)
    except (SQLAlchemyError, ValueError) as error:
        raise InputError(
            "expected a store such as sqlite:///events.db or postgresql://user@host/name; got "
            f"{without_secrets(text)!r}"
        ) from error
    if "@" in (url.host or ""):
        raise InputError("expected a store with one @, before the host; an @ within its password is written as %40")
    return url


def engine_of(text: str) -> sql.Engine:
    """Return the engine of a store; nothing is opened yet.

    Args:
        text: an URL of SQLAlchemy, for SQLite or Postgres.

    Raises:
        InputError: it is neither, or no URL at all.
    """
    url = address_of(text)
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername == "postgresql+psycopg":
        if find_spec("psycopg") is None:
            raise InputError("this needs the extra 'postgres': pip install 'recondite[postgres]'")
        return sql.create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 5})
    if url.drivername != "sqlite":
        raise InputError(f"expected a store in SQLite or Postgres; got {url.drivername!r}")
    if not url.database or url.database == ":memory:":
        raise InputError("expected a file for SQLite, such as sqlite:///events.db")
    synchronous = url.query.get("synchronous", "normal")
    if synchronous not in ("normal", "full"):
        raise InputError(f"expected synchronous to be normal or full; got {synchronous!r}")
    engine = sql.create_engine(url.difference_update_query(["synchronous"]), connect_args={"timeout": 10})

    def set_up(link: Any, _: Any) -> None:
        cursor = link.cursor()
        # In WAL mode readers never wait for the writer.
        for pragma in ("journal_mode=WAL", f"synchronous={synchronous}", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    sql.event.listen(engine, "connect", set_up)
    return engine


def reason_of(error: Exception) -> str:
    """Return the first line of what the database says, which names neither address nor password."""
    return str(getattr(error, "orig", None) or error).partition("\n")[0]


def write_and_take_back(link: sql.Connection) -> None:
    """Write an event that nobody ever sees, and read the other tables: whether a store can be written."""
    number = -random.getrandbits(62)
    texts = dict.fromkeys(("request_id", "screen", "version", "name", "group", "sha256", "verdict"), "")
    row = {**texts, "number": number, "id": os.urandom(16).hex(), "time": 0.0, "kept": False, "alpha": 0.5}
    row["error"] = " " * _LARGEST_GROWTH
    link.execute(EVENTS.insert(), [{**row, "statistics": {}}])
    link.execute(sql.delete(EVENTS).where(EVENTS.c.number == number))
    for table in (LABELS, MONITORS):
        link.execute(sql.select(table).limit(1))


class DatabaseFiles:
    """The files of a database in SQLite, which writes on into files that were deleted; nothing for others.

    Args:
        engine: of a database that exists; from now on it opens no connection where its file is gone.
    """

    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine
        sqlite = engine.url.drivername == "sqlite"
        self.path = Path(os.path.abspath(engine.url.database or "")) if sqlite else None
        """Of the database; None for another kind."""
        self._main: tuple[int, int] | None = None
        self._log: tuple[int, int] | None = None
        if self.path is not None:
            self._main = _identity(self.path)
            sql.event.listen(engine, "do_connect", self._before_connect)

    def before_commit(self) -> None:
        """Raise Unavailable where the database is gone; where another one is in its place, let go of the old one."""
        if self.path is None:
            return
        main = self._present()
        if main != self._main or (self._log is not None and _identity(self._log_path) != self._log):
            self._engine.dispose()  # what is open is written back where it was opened
            self._main, self._log = main, None

    def after_commit(self) -> None:
        """Raise Unavailable where what was written is not in the files that are there."""
        if self.path is None:
            return
        log = _identity(self._log_path)
        if self._present() != self._main or log is None or self._log not in (None, log):
            raise Unavailable("the store's files have been replaced")
        self._log = log

    @property
    def _log_path(self) -> Path:
        return Path(f"{self.path}-wal")

    def _present(self) -> tuple[int, int]:
        assert self.path is not None
        found = _identity(self.path)
        if found is None:
            raise Unavailable("the store's file is gone")
        return found

    def _before_connect(self, *_: object) -> None:
        assert self.path is not None
        if not self.path.exists():  # SQLite would make an empty one
            raise sqlite3.OperationalError("the store's file is gone")


def lack_of_room(folder: Path) -> str | None:
    """Return that the disk of a folder is full, or as good as; None where it is not."""
    there = next((one for one in (folder, *folder.absolute().parents) if one.is_dir()), None)
    if there is None:
        return f"{folder} is gone"
    free = shutil.disk_usage(there).free
    return None if free >= LEAST_FREE else f"the disk of {folder} is full: {free / 2**20:.1f} MB are left"


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino

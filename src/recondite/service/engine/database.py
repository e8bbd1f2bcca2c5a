"""Connections to the database of a store, in SQLite or Postgres."""

from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError

from recondite.errors import InputError


def open_engine(text: str) -> sql.Engine:
    """Return the engine of a store.

    Args:
        text: an URL of SQLAlchemy, for SQLite or Postgres.

    Raises:
        InputError: it is another.
    """
    try:
        url = sql.make_url(text)
    except SQLAlchemyError as error:
        raise InputError(
            f"expected a store such as sqlite:///events.db or postgresql://user@host/name; got {text!r}"
        ) from error
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername == "postgresql+psycopg":
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

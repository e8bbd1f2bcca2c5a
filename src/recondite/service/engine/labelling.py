"""Labels as reviewers give them: several at once, to identical images together, never over those of somebody else."""

import asyncio
import time
from collections.abc import Mapping, Sequence

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError

from recondite.service.engine.database import CURRENT, EVENTS, LABELS
from recondite.service.engine.filters import Filter
from recondite.service.engine.store import Label, Store
from recondite.service.errors import Unavailable


async def label_together(store: Store, label: Label, seen: Mapping[str, str | None]) -> dict[str, str | None]:
    """Label events in one transaction, but for those whose label is no longer the one that the reviewer saw.

    Args:
        store: of the events.
        label: what the reviewer says.
        seen: event -> the label that the reviewer saw; None for none.

    Returns:
        event -> its label now, for those that there are.

    Raises:
        Unavailable: it could not be written; then no label is.
    """
    try:
        return await asyncio.to_thread(_label, store.engine, label, seen)
    except SQLAlchemyError as error:
        raise Unavailable("the labels could not be written; try again", 5) from error


async def copies_of(store: Store, chosen: Filter, hashes: Sequence[str]) -> dict[str, dict[str, str | None]]:
    """Return SHA-256 -> event -> its label, for the chosen events whose images have the bytes of some."""
    query = sql.select(EVENTS.c.sha256, EVENTS.c.id, CURRENT.c.label).outerjoin(CURRENT, CURRENT.c.event == EVENTS.c.id)
    query = query.where(*chosen.conditions(), EVENTS.c.sha256.in_(hashes)).order_by(EVENTS.c.number)

    def read() -> list[tuple[str, str, str | None]]:
        with store.engine.connect() as link:
            return [tuple(row) for row in link.execute(query)]

    found: dict[str, dict[str, str | None]] = {one: {} for one in hashes}
    try:
        for sha256, event, label in await asyncio.to_thread(read):
            found[sha256][event] = label
    except SQLAlchemyError as error:
        raise Unavailable("the store does not answer", 5) from error
    return found


def _label(engine: sql.Engine, label: Label, seen: Mapping[str, str | None]) -> dict[str, str | None]:
    chosen = EVENTS.c.id.in_(list(seen))
    with engine.begin() as link:
        if engine.dialect.name == "postgresql":
            # Of two reviewers the second waits here for the first; in SQLite the first statement below locks the whole.
            link.execute(sql.select(EVENTS.c.id).where(chosen).order_by(EVENTS.c.id).with_for_update())
        for event, before in seen.items():
            last = sql.select(LABELS.c.label).where(LABELS.c.event == event).order_by(LABELS.c.number.desc()).limit(1)
            same = sql.func.coalesce(last.scalar_subquery(), "none") == (before or "none")
            values = (sql.literal(time.time()), sql.literal(label), sql.literal(""))
            row = sql.select(EVENTS.c.id, *values).where(EVENTS.c.id == event, same)
            link.execute(LABELS.insert().from_select(["event", "time", "label", "note"], row))
        now = sql.select(EVENTS.c.id, CURRENT.c.label).outerjoin(CURRENT, CURRENT.c.event == EVENTS.c.id)
        return {row.id: row.label for row in link.execute(now.where(chosen))}

"""The first of several workers follows the store: it counts, watches and tells of what all of them have written."""

import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import groupby
from typing import Any

import numpy as np
from sqlalchemy.exc import SQLAlchemyError

from recondite.errors import ReconditeError
from recondite.screen.screen import Screen
from recondite.service.engine.drift import DriftWatch
from recondite.service.engine.judging import OnWritten
from recondite.service.engine.registry import Shelf
from recondite.service.engine.store import Event, Store
from recondite.service.errors import Unavailable, Unknown
from recondite.service.log import LOG
from recondite.statistics.scores import Verdicts

_SECONDS, _LONGEST_PAUSE = 0.25, 5.0
_AT_ONCE = 1000
_NAMES = [field.name for field in fields(Event)]


class Follower:
    """Reads events, oldest first, soon after they are written, in a thread of its own.

    Args:
        store: of events.
        shelf: the screens.
        after: the number of an event; only later ones are read.
        take: told of them.
        watch: told of those that its monitors, which may have been kept later than `after`, have not taken in.
    """

    def __init__(self, store: Store, shelf: Shelf, after: int, take: OnWritten, watch: DriftWatch) -> None:
        self._store, self._shelf, self._take, self._watch = store, shelf, take, watch
        self.after = after
        """The number of the last event that `take` was told of."""
        self.lock = threading.Lock()
        """Held while `take` is told and `after` goes on."""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Read what has been written so far, and end."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        pause = _SECONDS
        while True:
            last = self._closed.wait(pause)
            try:
                while self._some() == _AT_ONCE:
                    pass
                pause = _SECONDS
            except (SQLAlchemyError, ReconditeError) as error:
                LOG.warning("the store is not followed", extra={"facts": {"error": str(error)}})
                pause = min(2 * pause, _LONGEST_PAUSE)
            if last:
                return

    def _some(self) -> int:
        rows = self._store.later(self.after, _AT_ONCE)
        for (name, version, _), group in groupby(rows, lambda row: (row["screen"], row["version"], row["alpha"])):
            some, screen = list(group), self._screen(name, version)
            with self.lock:
                try:
                    self._take(name, version, screen, [_event(row) for row in some], verdicts_of(some))
                    if screen is not None:
                        self._watched(name, version, screen, some)
                except Exception:  # the others still count
                    LOG.exception("events were not counted")
                self.after = some[-1]["number"]
        return len(rows)

    def _watched(self, name: str, version: str, screen: Screen, rows: Sequence[dict[str, Any]]) -> None:
        try:
            after = self._watch.after(name, version, screen)
        except Unavailable as error:
            LOG.warning("not watched", extra={"facts": {"screen": name, "error": str(error)}})
            return
        fresh = [row for row in rows if row["number"] > after]
        if fresh:
            groups = [row["group"] for row in fresh]
            self._watch.judged(name, version, screen, verdicts_of(fresh), groups, fresh[-1]["number"])

    def _screen(self, name: str, version: str) -> Screen | None:
        try:
            return self._shelf.get(name, version).screen
        except Unknown:
            return None


def verdicts_of(rows: Sequence[dict[str, Any]]) -> Verdicts:
    """Return the verdicts that events were made of, but for maps and for statistics that were not finite.

    Args:
        rows: N >= 1 events, of one version of a screen and one rate.
    """
    statistics = {name for row in rows for name in row["statistics"]}
    thresholds = {row["threshold"] for row in rows}
    return Verdicts(
        ids=tuple(row["name"] for row in rows),
        instance_score=_column(row["instance_score"] for row in rows),
        errors=tuple(row["error"] for row in rows),
        statistics={name: _column(row["statistics"].get(name) for row in rows) for name in sorted(statistics)},
        p_value=_column(row["p_value"] for row in rows),
        is_outlier=np.array([row["verdict"] != "inlier" for row in rows]),
        threshold=_number(thresholds.pop()) if len(thresholds) == 1 else math.nan,
        alpha=rows[0]["alpha"],
    )


def _column(values: Iterable[float | None]) -> Any:
    return np.array([_number(value) for value in values], dtype=np.float64)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _event(row: dict[str, Any]) -> Event:
    return Event(**{name: row[name] for name in _NAMES})

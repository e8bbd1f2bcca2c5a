"""Which events are meant, and in which order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sql

from recondite.service.engine.database import CURRENT, EVENTS

SAMPLED_SHARE = 0.1
"""Of the events that are to be reviewed whatever their verdict; by their ids, which are drawn at random."""
_SAMPLED = EVENTS.c.id < f"{int(SAMPLED_SHARE * 16**8):08x}"
Order = Literal["newest", "oldest", "p_value"]
ORDERS: dict[str, list[sql.ColumnElement[Any]]] = {
    "newest": [EVENTS.c.number.desc()],
    "oldest": [EVENTS.c.number.asc()],
    # What is invalid has no p-value, and comes first; among equal p-values the higher score does.
    "p_value": [
        sql.func.coalesce(EVENTS.c.p_value, 0),
        sql.func.coalesce(EVENTS.c.instance_score, 0).desc(),
        EVENTS.c.number.desc(),
    ],
}


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which events are meant; None and "" let everything pass.

    Args:
        screen: by name.
        version: of the screen.
        verdict: inlier, outlier or invalid; "flagged" is outlier or invalid, "sample" a random tenth of all, "review"
            flagged or of the sample.
        label: inlier, outlier or skip; "none" for those that nobody has labelled yet.
        before: only events with a smaller number, for pages, newest first.
        after: only events with a larger number.
        p_values: only events with a p-value above the first and at most the second.
    """

    screen: str = ""
    version: str = ""
    verdict: str = ""
    label: str = ""
    before: int | None = None
    after: int | None = None
    p_values: tuple[float, float] | None = None

    def conditions(self) -> Iterator[sql.ColumnElement[bool]]:
        """Yield what an event has to fulfil."""
        if self.screen:
            yield EVENTS.c.screen == self.screen
        if self.version:
            yield EVENTS.c.version == self.version
        if self.verdict == "flagged":
            yield EVENTS.c.verdict != "inlier"
        elif self.verdict == "sample":
            yield _SAMPLED
        elif self.verdict == "review":
            yield sql.or_(EVENTS.c.verdict != "inlier", _SAMPLED)
        elif self.verdict:
            yield EVENTS.c.verdict == self.verdict
        if self.label == "none":
            yield CURRENT.c.label.is_(None)
        elif self.label:
            yield CURRENT.c.label == self.label
        if self.before is not None:
            yield EVENTS.c.number < self.before
        if self.after is not None:
            yield EVENTS.c.number > self.after
        if self.p_values is not None:
            yield sql.and_(EVENTS.c.p_value > self.p_values[0], EVENTS.c.p_value <= self.p_values[1])

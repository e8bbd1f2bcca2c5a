"""Panel: what happened on a screen lately: rate of verdicts, drift, queue and the most anomalous images."""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from nicegui import run, ui
from sqlalchemy.exc import SQLAlchemyError

from recondite.errors import ReconditeError
from recondite.progress import counted
from recondite.reports.words import p_text
from recondite.screen.monitor import Monitor
from recondite.service.engine.filters import Filter
from recondite.service.page.charts import binned, rates
from recondite.service.page.frame import Area, View, chip, empty, failed, heading, html, tiles_of

_EVERY = 5.0
_LATEST, _SHOWN = 2000, 8
_DAY = 86400


@dataclass(frozen=True)
class _Found:
    """What is shown: the latest events of a screen, newest first, how many wait for a label, and drift."""

    rows: Sequence[dict[str, Any]]
    flagged: int
    sampled: int
    monitor: Monitor | None

    @property
    def changes(self) -> tuple[Any, ...]:
        """What is other where something has to be drawn anew."""
        newest = self.rows[0]["number"] if self.rows else 0
        alarm = None if self.monitor is None else self.monitor.alarm
        return newest, self.flagged, self.sampled, alarm


async def panel(view: View) -> None:
    """Build the panel."""
    heading("Overview", f"The latest {_LATEST:,} images of this screen.")
    drawn: dict[str, Any] = {}

    async def prepare() -> Callable[[], None]:
        name = view.name
        try:
            found = await _look(view)
        except (ReconditeError, SQLAlchemyError) as error:
            drawn.clear()
            words = f"The events of screen {name} cannot be read: {error}"
            return lambda: failed(words)
        drawn["what"] = (name, view.alpha, found.changes)
        return lambda: _draw(view, found)

    async def tick() -> None:
        if view.tab != "Overview":
            return
        try:
            found = await _look(view)
        except (ReconditeError, SQLAlchemyError):
            area.ask()
            return
        # Who reads is not to be disturbed, so only where something is new.
        if drawn.get("what") != (view.name, view.alpha, found.changes):
            area.ask()

    area = Area(prepare)
    with area.element:
        empty(f"Loading the events of screen {view.name}…")
    ui.timer(_EVERY, tick, immediate=False)
    view.panels["Overview"] = area.ask


async def _look(view: View) -> _Found:
    store, served = view.service.store, view.served
    rows = await store.rows(Filter(screen=view.name), _LATEST)
    flagged = await store.count(Filter(screen=view.name, verdict="flagged", label="none"))
    review = await store.count(Filter(screen=view.name, verdict="review", label="none"))
    found = await run.io_bound(view.service.watch.state, served.name, served.version, served.screen)
    return _Found(rows, flagged, review - flagged, None if found is None else found[0])


def _draw(view: View, found: _Found) -> None:
    rows, monitor = found.rows, found.monitor
    if not rows:
        empty(f"Screen {view.name} has judged nothing yet. Send images to /v1, or drop some under Judge.")
        return
    hits = [row["verdict"] != "inlier" for row in rows]
    alarm = None if monitor is None else monitor.alarm
    with ui.element("div").classes("overview"):
        with ui.element("div").classes("card"):
            html("<h3>Share flagged, with its 95 % interval</h3>")
            times = [row["time"] for row in rows[::-1]]
            html(rates(binned(times, hits[::-1]), view.alpha_now, (_moment(times, 0), _moment(times, -1))))
        with ui.element("div").classes("side"):
            html(
                tiles_of(
                    {
                        f"flagged of the latest {counted(len(rows), 'image')}": f"{sum(hits) / len(rows):.1%}",
                        "flagged, waiting for a label": f"{found.flagged:,}",
                        "of the random tenth, waiting": f"{found.sampled:,}",
                    }
                )
            )
            ui.button("Review", on_click=lambda: view.turn_to("Review")).props(
                'unelevated data-focus="to review"'
            ).classes("wide")
            words = "No alarm of drift." if alarm is None else f"Drift since about image {alarm.began:,}."
            with ui.element("div").classes("card " + ("calm" if alarm is None else "alarm")).props('role="status"'):
                evidence = 1.0 if monitor is None else monitor.martingale
                html(f"<h3>{words}</h3><p class='soft'>The evidence is {evidence:.3g}; it began at 1.</p>")
                ui.button("Monitor", on_click=lambda: view.turn_to("Monitor")).props('outline data-focus="to monitor"')
    html("<h3 class='above'>The most anomalous</h3>")
    worst = most_anomalous(rows, _SHOWN)
    if not worst:
        empty("None of the pictures was kept: start the service with --keep-images flagged.")
        return
    with ui.element("div").classes("gallery"):
        for row in worst:
            with ui.element("button").classes("shot").props(f'type="button" data-focus="{row["id"]}"') as button:
                html(_shot(row))
            button.on("click", lambda _, row=row: _open(view, row))


def most_anomalous(rows: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return the kept and readable images with the lowest p-values, and among these the highest scores, once each."""
    kept = {row["sha256"]: row for row in rows if row["kept"] and row["p_value"] is not None}
    return sorted(kept.values(), key=lambda row: (row["p_value"], -row["instance_score"]))[:most]


def _open(view: View, row: dict[str, Any]) -> None:
    ui.run_javascript(f"remembered({{event: '{row['id']}'}})")
    view.turn_to("Review")


def _shot(row: dict[str, Any]) -> str:
    label = f", labelled {row['label']}" if row["label"] else ""
    return (
        f'<img src="/page/events/{row["id"]}/thumbnail" alt="">{chip(row["verdict"])}'
        f'<span class="name">{escape(row["name"])}</span><span class="soft">p {p_text(row["p_value"])}{label}</span>'
    )


def _moment(times: Sequence[float], place: int) -> str:
    """Return a time as a clock shows it, with the date where they are days apart."""
    shape = "%H:%M:%S" if times[-1] - times[0] < _DAY else "%Y-%m-%d %H:%M"
    return datetime.datetime.fromtimestamp(times[place], datetime.UTC).strftime(shape + " UTC")

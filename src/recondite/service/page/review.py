"""Panel: the review queue of flagged images, by keyboard; labels become events."""

import asyncio
import datetime
from collections.abc import Callable
from html import escape
from typing import Any

from nicegui import background_tasks, ui

from recondite.service.engine.store import Filter
from recondite.service.page.charts import reasons
from recondite.service.page.frame import Area, View, chip, empty, heading, html, or_notify, row_button
from recondite.service.routes.reviewing import picture_of, statistics_of

_VERDICTS = {"flagged": "flagged", "": "all", "outlier": "outlier", "invalid": "invalid", "inlier": "inlier"}
_LABELS = {"none": "not labelled", "": "all", "inlier": "inlier", "outlier": "outlier", "skip": "skipped"}
_KEYS = {"i": "inlier", "o": "outlier", "s": "skip"}
_PAGE = 50


class Queue:
    """What is being reviewed, and which of it is being looked at."""

    def __init__(self, view: View) -> None:
        self.view, self.verdict, self.label = view, "flagged", "none"
        self.rows: list[dict[str, Any]] = []
        self.place = 0
        self.waiting = 0

    @property
    def current(self) -> dict[str, Any] | None:
        """The event being looked at."""
        return self.rows[self.place] if self.place < len(self.rows) else None

    async def load(self) -> None:
        """Read the newest events that fit."""
        store = self.view.service.store
        chosen = Filter(screen=self.view.name, verdict=self.verdict, label=self.label)
        self.rows = await or_notify(store.rows(chosen, _PAGE)) or []
        self.waiting = ((await or_notify(store.counts(self.view.name))) or {}).get("queue", 0)
        self.place = 0

    async def say(self, label: str) -> None:
        """Label the event being looked at, and go on to the next."""
        row = self.current
        if row is None:
            return
        await self.view.service.store.label(row["id"], label)  # type: ignore[arg-type]
        if row["verdict"] != "inlier" and row["label"] is None:
            self.waiting -= 1
        row["label"] = label
        self.place += 1
        if self.place >= len(self.rows):
            await self.load()

    def move(self, by: int) -> None:
        """Look at another event."""
        self.place = min(max(self.place + by, 0), max(len(self.rows) - 1, 0))


async def panel(view: View) -> None:
    """Build the panel."""
    queue = Queue(view)
    heading("Review", "Say what flagged images really are. Labels can recalibrate a screen.")

    async def prepare() -> Callable[[], None]:
        row = queue.current
        source = None if row is None else await asyncio.to_thread(picture_of, view.service, row)
        return lambda: draw(row, source)

    def draw(row: dict[str, Any] | None, source: str | None) -> None:
        html(f'<p class="soft" aria-live="polite">{queue.waiting:,} flagged images are waiting for a label.</p>')
        if row is None:
            empty("Nothing to review. Flagged images appear here as they come; choose other filters to look back.")
            return
        with ui.element("div").classes("two"):
            with ui.element("div").classes("card list").props('role="group" aria-label="Queue"'):
                for place, one in enumerate(queue.rows):
                    _entry(one, place == queue.place, lambda place=place: go(place))
            with ui.element("div").classes("card"):
                _detail(view, row, source)
                with ui.row().classes("q-mt-md gap-2"):
                    for key, label in _KEYS.items():
                        ui.button(f"{label} ({key})", on_click=lambda _, label=label: say(label)).props(
                            "unelevated" if label != "skip" else "outline"
                        )

    def go(place: int) -> None:
        queue.place = place
        area.ask()

    async def say(label: str) -> None:
        await or_notify(queue.say(label))
        await area.redraw()

    async def anew() -> None:
        await queue.load()
        await area.redraw()

    async def on_key(event: Any) -> None:
        if not event.action.keydown or event.action.repeat or view.tab != "Review":
            return
        key = event.key.name.lower()
        if key in _KEYS:
            await say(_KEYS[key])
        elif key in ("arrowdown", "arrowup"):
            queue.move(1 if key == "arrowdown" else -1)
            area.ask()

    def choose(name: str) -> Any:
        async def chosen(event: Any) -> None:
            setattr(queue, name, event.value)
            await anew()

        return chosen

    with ui.row().classes("items-end gap-4 q-mb-sm"):
        for name, options, title in (("verdict", _VERDICTS, "Verdict"), ("label", _LABELS, "Label")):
            select = ui.select(options, value=getattr(queue, name), label=title, on_change=choose(name))
            select.props("dense outlined").classes("w-36")
        ui.button("Refresh", on_click=anew).props("outline")
        ui.button("Export table", on_click=lambda: ui.download(_address("csv", queue))).props("outline")
        ui.button("Export images", on_click=lambda: ui.download(_address("zip", queue))).props("outline")
    keys = "<kbd>i</kbd> inlier, <kbd>o</kbd> outlier, <kbd>s</kbd> skip, <kbd>↑</kbd> <kbd>↓</kbd> move"
    html(f"<p class='soft'>Keys: {keys}</p>")
    area = Area(prepare)
    ui.keyboard(on_key=on_key, ignore=["input", "select", "textarea"])

    def turned_to() -> None:
        with area.element:
            background_tasks.create(anew())

    view.panels["Review"] = turned_to


def _address(kind: str, queue: Queue) -> str:
    return f"/v1/events.{kind}?screen={queue.view.name}&verdict={queue.verdict}&label={queue.label}"


def _detail(view: View, row: dict[str, Any], source: str | None) -> None:
    when = datetime.datetime.fromtimestamp(row["time"], datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    html(f"<h3>{chip(row['verdict'])} {escape(row['name'])}</h3>")
    if source is None:
        reason = "cannot be shown" if row["kept"] else "was not kept: start the service with --keep flagged"
        empty(f"The picture {reason}.")
    else:
        html(f'<img class="review-picture" src="{source}" alt="{escape(row["name"])}">')
    score = "none" if row["instance_score"] is None else f"{row['instance_score']:.4g}, p-value {row['p_value']:.3g}"
    facts = {"score": score, "time": when, "version": row["version"], "label": row["label"] or "none yet"}
    if row["error"]:
        facts["error"] = row["error"]
    html("<p class='soft'>" + "<br>".join(f"{name}: {escape(str(value))}" for name, value in facts.items()) + "</p>")
    found = statistics_of(view.service, row)
    if found:
        html("<h3>Why</h3>" + reasons(found))


def _entry(row: dict[str, Any], current: bool, pick: Any) -> None:
    label = f'<span class="soft">{row["label"]}</span>' if row["label"] else ""
    row_button(f'<span class="name">{escape(row["name"])}</span>{label}{chip(row["verdict"])}', current, pick)

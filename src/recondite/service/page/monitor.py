"""Panel: recent traffic and drift."""

import math
import time
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from nicegui import run, ui
from sqlalchemy.exc import SQLAlchemyError

from recondite.errors import InputError
from recondite.progress import counted
from recondite.screen.guard import Guard
from recondite.screen.monitor import Monitor, Moved
from recondite.service.engine.filters import Filter
from recondite.service.metrics import RECENT
from recondite.service.page.charts import histogram
from recondite.service.page.frame import Area, View, empty, heading, html, or_notify, tiles_of
from recondite.statistics.label_shift import Prevalence, prevalences

_EVERY = 2.0
_MINUTE = 60.0
_LATEST, _FEW = 200, 4
_FEWEST_LABELLED = 30


async def panel(view: View) -> None:
    """Build the panel."""
    heading("Monitor", "The latest thousand images since the service began; drawn anew every two seconds.")

    area = Area(lambda: _prepare(view))

    def tick() -> None:
        if view.tab == "Monitor":
            area.ask()

    async def begin_anew() -> None:
        served = view.served
        try:
            await run.io_bound(view.service.watch.begin_anew, served.name, served.version, served.screen)
            view.service.counters.forget_classes(served.name, served.version)
            ui.notify("The drift monitor begins anew.")
        except SQLAlchemyError:
            ui.notify("The store does not answer: the drift monitor goes on as before.", type="negative")
        area.ask()

    # Outside of what is drawn anew, which would take the keyboard's focus away.
    ui.button("Watch for drift anew", on_click=begin_anew).props("outline").classes("q-mt-md")
    ui.timer(_EVERY, tick)
    view.panels["Monitor"] = area.ask


async def _prepare(view: View) -> Callable[[], None]:
    service, served = view.service, view.served
    recent = service.counters.recent(view.name)
    counts = await or_notify(service.store.counts(view.name)) or {}
    chosen = Filter(screen=served.name, version=served.version)
    rows = await or_notify(service.store.rows(chosen, _LATEST)) or []
    found = await or_notify(run.io_bound(service.watch.state, served.name, served.version, served.screen))
    came = service.counters.classes(served.name, served.version)
    classes = await run.io_bound(_classes, served.guard, served.name, tuple(sorted(came.items())))
    return lambda: _draw(view, recent, counts, found, rows, classes or "")


def _draw(
    view: View,
    recent: Sequence[tuple[float, float, bool]],
    counts: dict[str, int],
    found: tuple[Monitor, list[Moved]] | None,
    rows: Sequence[dict[str, Any]],
    classes: str,
) -> None:
    if not recent:
        words = f"Screen {view.name} has judged nothing since the service began."
        empty(f"{words} Send images to /v1, or drop some under Judge.")
        return
    last = [flag for moment, _, flag in recent if moment > time.time() - _MINUTE]
    share = sum(flag for _, _, flag in recent) / len(recent)
    tiles = {
        "images in the last minute": f"{len(last):,}{'+' if len(last) == RECENT else ''}",
        f"flagged of the latest {counted(len(recent), 'image')}": f"{share:.1%}",
        "events in the store": f"{counts.get('events', 0):,}",
        "waiting for a label": f"{counts.get('queue', 0):,}",
    }
    html(tiles_of(tiles))
    moved = [] if found is None else [one for one in found[1] if one.moved]
    if found is not None:
        _drift(found[0], moved)
    with ui.element("div").classes("overview q-mt-md"):
        with ui.element("div").classes("card"):
            words = "Flat while only normal images come; a peak at the left is outliers."
            html(f"<h3>P-values</h3><p class='soft'>{words}</p>{histogram([p for _, p, _ in recent], view.alpha_now)}")
        with ui.element("div").classes("card"):
            html(f"<h3>What moved</h3>{''.join(_pictures(one, rows) for one in moved[:_FEW]) or _NOTHING}")
        if classes:
            with ui.element("div").classes("card"):
                html(classes)


_KEPT_CLASSES: dict[str, tuple[Guard, tuple[tuple[str, int], ...], str]] = {}


def _classes(guard: Guard, name: str, came: tuple[tuple[str, int], ...]) -> str:
    """Return how often each class of a guard comes, as HTML; nothing where it does not know how it confuses them.

    Args:
        guard: what gives labels.
        name: that it is served by; the answer is kept until other counts come.
        came: class -> how many of the latest images, without foreign ones, were predicted as it.
    """
    if guard.confusion is None or guard.classes is None:
        return ""
    kept = _KEPT_CLASSES.get(name)
    if kept is None or kept[0] is not guard or kept[1] != came:  # another guard may have got the name
        kept = _KEPT_CLASSES[name] = guard, came, _classes_drawn(guard, dict(came))
    return kept[2]


def _classes_drawn(guard: Guard, came: dict[str, int]) -> str:
    assert guard.confusion is not None
    assert guard.classes is not None
    total = sum(came.values())
    title = "<h3>How often each class comes</h3>"
    if total < _FEWEST_LABELLED:
        return f"{title}<p class='soft'>After {_FEWEST_LABELLED} labelled images; {counted(total, 'image')} so far.</p>"
    try:
        found = prevalences(guard.confusion, [came.get(name, 0) for name in guard.classes], guard.classes)
    except InputError as error:
        return f"{title}<p class='soft'>{escape(str(error))}</p>"
    words = (
        f"Estimated from the labels of the latest {counted(total, 'image')}, without foreign ones, and from how the "
        "classifier confuses classes; bars are 95 % intervals, ticks the shares before, of held-out images: just "
        "beside a bar they may differ by chance, and the class is as before."
    )
    return f"{title}<p class='soft'>{words}</p><div class='shares'>{''.join(map(_share, found))}</div>"


def _share(one: Prevalence) -> str:
    """Return a class with its share before and now, as a row of HTML."""
    left = min(100 * one.low, 98)
    bar = (
        f"<i style='left:{left:.1f}%;width:{max(100 * one.high - left, 2):.1f}%'></i>"
        f"<b style='left:{100 * one.before:.1f}%'></b>"
    )
    told = f"{one.share:.0%} ({one.low:.0%} to {one.high:.0%}), {one.before:.0%} before"
    return (
        f"<div class='share{' moved' if one.moved else ''}'><span>{escape(one.name)}</span>"
        f"<div aria-hidden='true'>{bar}</div><span>{told}: {one.in_words}</span></div>"
    )


_NOTHING = "<p class='soft'>Nothing that stands out; pictures of what does would be here.</p>"


def _pictures(one: Moved, rows: Sequence[dict[str, Any]]) -> str:
    """Return the recent kept images that have moved furthest by a statistic, as HTML."""
    way = "highest" if one.shift > 0 else "lowest"
    shown = "".join(
        f'<img src="/page/events/{row["id"]}/thumbnail" alt="{escape(row["name"])}" title="{escape(row["name"])}">'
        for row in furthest(one, rows, _FEW)
    )
    return (
        f"<p class='soft'>{escape(one.words)}, {way} of the recent:</p><div class='nearest'>{shown or _NOT_KEPT}</div>"
    )


_NOT_KEPT = "<p class='soft'>None of the pictures was kept: start the service with --keep-images all.</p>"


def furthest(one: Moved, rows: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return the kept and readable images that are furthest on the side that a statistic has moved to, once each."""

    def value(row: dict[str, Any]) -> float:
        found = row["instance_score"] if one.name == "instance_score" else row["statistics"].get(one.name, math.nan)
        return math.copysign(1, one.shift) * float(found)

    kept = {row["sha256"]: row for row in rows if row["kept"] and row["p_value"] is not None}
    return sorted((row for row in kept.values() if math.isfinite(value(row))), key=value, reverse=True)[:most]


def _drift(monitor: Monitor, moved: list[Moved]) -> None:
    names = ", ".join(f"{escape(one.words)} ({'higher' if one.shift > 0 else 'lower'})" for one in moved)
    threshold, alarm = monitor.threshold, monitor.alarm
    promise = f"Without drift the evidence reaches {threshold:,.0f} in at most one stream of {threshold:,.0f}."
    evidence = f"The evidence is {monitor.martingale:.3g}. {promise}"
    words = f"<h3>No alarm of drift</h3><p>{evidence}</p>"
    if alarm is not None:
        words = (
            "<h3>Drift: the images are no longer like the calibration images</h3><p>Alarm after "
            f"{counted(alarm.at, 'image')}; the change began {alarm.since()}. {evidence}</p>"
        )
    html(
        f'<div class="card {"calm" if alarm is None else "alarm"}" role="status">{words}'
        f"<p class='soft'>Recent images differ in: {names or 'nothing that stands out'}.</p></div>"
    )

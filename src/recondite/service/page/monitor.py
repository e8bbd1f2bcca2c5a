"""What comes in right now, and whether it has drifted."""

import time
from html import escape

from nicegui import run, ui

from recondite.service.charts import histogram
from recondite.service.page.frame import View, empty, heading, html, told
from recondite.service.page.threshold import tiles_of

_EVERY = 2.0
_MINUTE = 60.0


async def panel(view: View) -> None:
    """Build the panel."""
    heading("Monitor", "The latest thousand images since the service began; drawn anew every two seconds.")

    @ui.refreshable
    async def body() -> None:
        await _draw(view)

    with ui.element("div").classes("w-full"):
        await body()

    def tick() -> None:
        if view.tab == "Monitor":
            body.refresh()

    ui.timer(_EVERY, tick)
    view.listeners.append(body.refresh)


async def _draw(view: View) -> None:
    service, served = view.service, view.served
    recent = service.counters.recent(view.name)
    counts = await told(service.store.counts(view.name)) or {}
    if not recent:
        empty("Nothing has been judged since the service began. Send images to /v1, or drop some under Judge.")
        return
    last = [flag for moment, _, flag in recent if moment > time.time() - _MINUTE]
    tiles = {
        "images in the last minute": f"{len(last):,}{'+' if len(last) == len(recent) == 1000 else ''}",
        f"flagged of the latest {len(recent):,}": f"{sum(flag for _, _, flag in recent) / len(recent):.1%}",
        "events in the store": f"{counts.get('events', 0):,}",
        "waiting for a label": f"{counts.get('queue', 0):,}",
    }
    html(tiles_of(tiles))
    found = await run.io_bound(service.watch.state, served.name, served.version)
    if found is not None:
        monitor, moved = found
        _drift(monitor.martingale, monitor.threshold, monitor.alarm, [one for one in moved if one.moved])
    with ui.element("div").classes("card q-mt-md"):
        html("<h3>P-values</h3><p class='soft'>Flat while only normal images come; a peak at the left is outliers.</p>")
        html(histogram([p for _, p, _ in recent], view.alpha_now))


def _drift(martingale: float, threshold: float, alarm: object, moved: list[object]) -> None:
    names = ", ".join(
        f"{escape(one.words)} ({'higher' if one.shift > 0 else 'lower'})"  # type: ignore[attr-defined]
        for one in moved
    )
    promise = f"Without drift the evidence reaches {threshold:,.0f} in at most one stream of {threshold:,.0f}."
    if alarm is None:
        words = f"<h3>No alarm of drift</h3><p>The evidence is {martingale:.3g}. {promise}</p>"
    else:
        at, began = alarm.at, alarm.began  # type: ignore[attr-defined]
        words = (
            "<h3>Drift: the images are no longer like the calibration images</h3>"
            f"<p>Alarm after {at:,} images; the change began after about {began:,}. The evidence is {martingale:.3g}. {promise}</p>"
        )
    html(
        f'<div class="card {"calm" if alarm is None else "alarm"}" role="status">{words}'
        f"<p class='soft'>Recent images differ in: {names or 'nothing that stands out'}.</p></div>"
    )

"""Panel: another false-alarm rate, its interval and threshold, and which recent images would change sides."""

import json
import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np
from nicegui import ui

from recondite.errors import InputError
from recondite.progress import counted
from recondite.reports.words import p_text
from recondite.screen.promise import nothing
from recondite.service.engine.filters import Filter
from recondite.service.page.charts import histogram
from recondite.service.page.frame import Area, View, empty, heading, html, or_notify, tiles_of
from recondite.statistics.calibration import smallest_alpha

_MOST = 0.5
_STEPS = (1, 2, 5)
_LATEST, _SHOWN = 1000, 24


async def panel(view: View) -> None:
    """Build the panel."""
    heading("Threshold", "The share of normal images that may be flagged. It holds for what you judge on this page.")
    moving = {"by_code": False}
    with ui.element("div").classes("card"):
        with ui.element("div").classes("alpha-row"):
            slider = ui.slider(min=-2, max=math.log10(_MOST), step=0.001, value=-1).props('aria-label="alpha"')
            number = ui.number(value=0.05, min=1e-6, max=_MOST, step=0.01, format="%.4g", label="alpha")
            number.props("dense outlined")
            ui.button("Reset", on_click=lambda: take(None)).props("outline")
        limits = html("")
        area = Area(lambda: _prepare(view))

    def take(alpha: float | None) -> None:
        if alpha is None:
            view.alphas.pop(view.name, None)
        else:
            view.alphas[view.name] = min(max(alpha, smallest(view)), _MOST)
        view.remember()
        show()
        area.ask()

    def show() -> None:
        least = smallest(view)
        moving["by_code"] = True
        low, high = math.log10(least), math.log10(_MOST)
        slider.props.update({"min": low, "max": high})
        slider.props["marker-labels"] = [{"value": math.log10(tick), "label": p_text(tick)} for tick in ticks(least)]
        slider.update()
        slider.value = round(min(max(math.log10(view.alpha_now), low), high), 6)
        number.value = float(f"{view.alpha_now:.4g}")
        limits.set_content(_limits(view))
        moving["by_code"] = False

    def slid(event: Any) -> None:
        if not moving["by_code"]:
            take(float(f"{10**event.value:.3g}"))

    def typed(event: Any) -> None:
        if not moving["by_code"] and event.value:
            take(float(event.value))

    slider.on_value_change(slid)
    number.on_value_change(typed)

    def anew() -> None:
        show()
        area.ask()

    view.panels["Threshold"] = anew


def smallest(view: View) -> float:
    """Return the smallest alpha that the calibration of the chosen screen allows in every group."""
    screen = view.served.screen
    found = [smallest_alpha(size, screen.confidence, screen.guarantee) for size in screen.calibrator.sizes.values()]
    return min(_MOST, max(_MOST if one is None else one for one in found))


def ticks(least: float) -> list[float]:
    """Return round rates from the smallest to a half: 1, 2 and 5 times powers of ten, or the powers alone.

    >>> ticks(0.0304)
    [0.05, 0.1, 0.2, 0.5]
    """
    powers = range(math.floor(math.log10(least)), 1)
    steps = _STEPS if least > 10**-2.5 else (1,)
    found = [float(f"{step}e{power}") for power in powers for step in steps]
    return [tick for tick in [*found, *([_MOST] if 1 in steps and len(steps) == 1 else [])] if least <= tick <= _MOST]


def _limits(view: View) -> str:
    sizes = view.served.screen.calibrator.sizes
    of = "" if len(sizes) == 1 else " in the smallest of its groups"
    return (
        f'<p class="soft">The smallest possible alpha is <b>{p_text(smallest(view))}</b>: the screen was calibrated on '
        f"{counted(min(sizes.values()), 'image')}{of}.</p>"
    )


async def _prepare(view: View) -> Callable[[], None]:
    served, alpha, own = view.served, view.alpha_now, view.served.screen.alpha
    between = (min(own, alpha), max(own, alpha))
    chosen = Filter(screen=served.name, version=served.version)
    rows = await or_notify(view.service.store.rows(chosen, _LATEST)) or []
    moved = [row for row in rows if row["p_value"] is not None and between[0] < row["p_value"] <= between[1]]
    return lambda: _draw(view, alpha, [row["p_value"] for row in rows if row["p_value"] is not None], moved)


def _draw(view: View, alpha: float, p_values: Sequence[float], moved: Sequence[dict[str, Any]]) -> None:
    own = view.served.screen.alpha
    try:
        screen = view.served.at(alpha)
    except InputError as error:
        empty(str(error))
        return
    low, high = screen.false_alarm_interval
    valid = np.array(p_values)
    now, then = int(np.count_nonzero(valid <= own)), int(np.count_nonzero(valid <= alpha))
    threshold = f"{screen.threshold:.4g}" if math.isfinite(screen.threshold) else "one for each group"
    tiles = {
        "alpha": p_text(screen.alpha),
        "true rate, 95 % interval": "none is promised" if nothing(screen) else f"{low:.3f} to {high:.3f}",
        "threshold": threshold,
        f"flagged of the latest {counted(len(valid), 'image')}": f"{then:,}",
    }
    html(tiles_of(tiles))
    if not len(valid):
        empty(f"This version of screen {view.name} has judged nothing, so it cannot be said what would change.")
    else:
        change = then - now
        words = "as many as" if not change else f"{abs(change):,} {'more' if change > 0 else 'fewer'} than"
        html(f"<p>It would flag <b>{words}</b> the screen's own alpha of {p_text(own)} ({now:,}).</p>")
        _sides(moved, "flagged" if change > 0 else "let pass")
        html(histogram(valid, alpha))
    if view.alpha is not None:
        _commands(view, alpha)


def _sides(moved: Sequence[dict[str, Any]], how: str) -> None:
    if not moved:
        return
    shown = sorted(moved, key=lambda row: row["p_value"])[:_SHOWN]
    rest = f"; the first {_SHOWN} are shown" if len(moved) > _SHOWN else ""
    html(f"<h3>{counted(len(moved), 'image')} would now be {how}{rest}</h3>")
    html('<div class="gallery small">' + "".join(map(_shot, shown)) + "</div>")


def _shot(row: dict[str, Any]) -> str:
    source = f"/page/events/{row['id']}/thumbnail"
    picture = (
        f'<img src="{source}" alt="" loading="lazy">' if row["kept"] else '<span class="no-picture">not kept</span>'
    )
    return (
        f'<div class="shot" title="{escape(row["name"])}">{picture}<span class="name">{escape(row["name"])}</span>'
        f'<span class="soft">p {p_text(row["p_value"])}</span></div>'
    )


def _commands(view: View, alpha: float) -> None:
    name, rate = view.name, f"{alpha:g}"
    address = f"{{origin}}/v1/screens/{name}/predict?alpha={rate}"
    ask = f"curl --data-binary @image.png -H 'Content-Type: image/png' '{address}'"
    code = f"import recondite; recondite.load('{name}').with_alpha({rate}).save('{name}-{rate}')"
    if view.service.drafts is not None:
        facts = {"screen": name, "version": view.served.version, "alpha": rate}
        listed = " ".join(f'data-{key}="{escape(value)}"' for key, value in facts.items())
        html(f"<publish-alpha {listed}></publish-alpha>")
    html(
        f"<h3>Use alpha {rate} elsewhere</h3>"
        f'<p class="soft">In one request:</p><copy-line data-text="{escape(ask)}"></copy-line>'
        '<p class="soft">As a screen of its own, beside the folder of this one:</p>'
        f'<copy-line data-text="{escape("python -c " + json.dumps(code))}"></copy-line>'
    )

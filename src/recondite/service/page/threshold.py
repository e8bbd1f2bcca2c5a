"""Panel: another false-alarm rate, its interval and threshold, and what it would have flagged recently."""

import math
from typing import Any

import numpy as np
from nicegui import ui

from recondite.service.page.charts import histogram
from recondite.service.page.frame import View, empty, heading, html

_MOST = 0.5


async def panel(view: View) -> None:
    """Build the panel."""
    heading("Threshold", "The share of normal images that may be flagged. It holds for what you judge on this page.")
    with ui.element("div").classes("card"):
        with ui.row().classes("w-full items-center no-wrap gap-4"):
            slider = ui.slider(min=0, max=1, step=0.005, value=0.5).classes("col").props('aria-label="alpha"')
            number = ui.number(value=0.05, min=1e-6, max=_MOST, step=0.01, format="%.4g", label="alpha").classes("w-32")
            number.props("dense outlined")
            ui.button("Reset", on_click=lambda: take(None)).props("outline")

        @ui.refreshable
        def facts() -> None:
            _facts(view)

        facts()

    def smallest() -> float:
        return 1 / (min(view.served.screen.calibrator.sizes.values()) + 1)

    def take(alpha: float | None) -> None:
        view.alpha = None if alpha is None else min(max(alpha, smallest()), _MOST)
        show()
        facts.refresh()

    def show() -> None:
        low, high = math.log(smallest()), math.log(_MOST)
        moving["by_code"] = True
        slider.value = round((math.log(view.alpha_now) - low) / (high - low), 6)
        number.value = float(f"{view.alpha_now:.4g}")
        moving["by_code"] = False

    def slid(event: Any) -> None:
        if not moving["by_code"]:
            low, high = math.log(smallest()), math.log(_MOST)
            take(float(f"{math.exp(low + event.value * (high - low)):.3g}"))

    def typed(event: Any) -> None:
        if not moving["by_code"] and event.value:
            take(float(event.value))

    moving = {"by_code": False}
    slider.on_value_change(slid)
    number.on_value_change(typed)
    show()

    def anew() -> None:
        show()
        facts.refresh()

    view.panels["Threshold"] = anew


def _facts(view: View) -> None:
    screen = view.served.screen.with_alpha(view.alpha_now)
    low, high = screen.false_alarm_interval
    own = view.served.screen.alpha
    p_values = np.array([p for _, p, _ in view.service.counters.recent(view.name)])
    valid = p_values[~np.isnan(p_values)]
    now, then = int(np.count_nonzero(valid <= own)), int(np.count_nonzero(valid <= screen.alpha))
    threshold = f"{screen.threshold:.4g}" if math.isfinite(screen.threshold) else "one for each group"
    tiles = {
        "alpha": f"{screen.alpha:.3g}",
        "true rate, 95 % interval": f"{low:.3f} to {high:.3f}",
        "threshold": threshold,
        f"flagged of the latest {len(valid):,}": f"{then:,}",
    }
    html(tiles_of(tiles))
    if not len(valid):
        empty("No image has been judged since the service began, so it cannot be said what would change.")
        return
    change = then - now
    words = "as many as" if not change else f"{abs(change):,} {'more' if change > 0 else 'fewer'} than"
    html(f"<p>It would flag <b>{words}</b> the screen's own alpha of {own:g} ({now:,}) among the latest images.</p>")
    html(histogram(valid, screen.alpha))


def tiles_of(tiles: dict[str, str]) -> str:
    """Return numbers with what they are."""
    cells = (
        f'<div class="tile"><div class="number">{v}</div><div class="soft">{k}</div></div>' for k, v in tiles.items()
    )
    return f'<div class="tiles" style="margin:12px 0">{"".join(cells)}</div>'

"""Panel: judge dropped images."""

import math
from html import escape
from typing import Any

from nicegui import ui

from recondite.data.pictures import png_url
from recondite.service.engine.decoding import Sent
from recondite.service.engine.pictures import heat_map, reconstruction, why
from recondite.service.page.charts import calibration_chart, reasons
from recondite.service.page.frame import (
    Seen,
    View,
    chip,
    empty,
    figure,
    heading,
    html,
    or_notify,
    picture_url,
    row_button,
)

_MOST = 200


async def panel(view: View) -> None:
    """Build the panel."""
    limits = view.service.settings.limits
    chosen: dict[str, Seen | None] = {"one": None}
    heading("Judge images", "Drop pictures, or choose them. Each verdict is written down as an event.")
    shape = view.served.screen.detector.preprocessing
    if not shape.is_image:
        empty("This screen judges vectors, not pictures. Send them to /v2.")
        view.panels["Judge"] = lambda: None
        return

    @ui.refreshable
    def results() -> None:
        if not view.seen:
            empty("Nothing judged yet. Drop a picture above to see its verdict, reconstruction, heat map and reasons.")
            return
        with ui.element("div").classes("two"):
            with ui.element("div").classes("card list").props('role="group" aria-label="Judged images"'):
                for one in view.seen:
                    _entry(one, one is chosen["one"], lambda one=one: pick(one))
            with ui.element("div").classes("card").props('aria-live="polite"'):
                if chosen["one"] is not None:
                    detail(chosen["one"])

    def pick(one: Seen) -> None:
        chosen["one"] = one
        results.refresh()

    async def uploaded(event: Any) -> None:
        content = await event.file.read()
        judged = await or_notify(view.judge([Sent(event.file.name, content)]))
        if judged is not None:
            one = Seen(event.file.name, judged, judged.pixels[0] if len(judged.pixels) else None)
            view.seen.insert(0, one)
            del view.seen[_MOST:]
            chosen["one"] = one
            view.changed()

    def too_much(_: Any) -> None:
        ui.notify(f"A file is over the limit of {limits.body_bytes:,} bytes.", type="negative")

    upload = ui.upload(
        multiple=True,
        auto_upload=True,
        max_file_size=limits.body_bytes,
        on_upload=uploaded,
        on_rejected=too_much,
    ).classes("drop")
    upload.props('flat accept="image/*"')
    upload.on("finish", upload.reset)
    ui.button("Choose pictures", on_click=lambda: upload.run_method("pickFiles")).props("unelevated").classes("q-my-md")
    results()

    def anew() -> None:
        if chosen["one"] not in view.seen:
            chosen["one"] = None
        results.refresh()

    view.panels["Judge"] = anew


def detail(one: Seen) -> None:
    """Show everything about one judged image."""
    judged, verdicts = one.judged, one.judged.verdicts
    words, statistics = why(judged, 0)
    html(f'<h3>{chip(verdicts.words[0])} {escape(one.name)}</h3><p class="words soft">{escape(words)}</p>')
    rebuilt, heat = reconstruction(judged, 0), heat_map(judged, 0)
    html(
        '<div class="pictures">'
        + figure(None if one.picture is None else picture_url(one.picture), "as the screen sees it", one.name)
        + figure(None if rebuilt is None else png_url(rebuilt), "rebuilt", "the image as the detector rebuilds it")
        + figure(None if heat is None else png_url(heat), "where it is odd", "heat map: bright where it is odd")
        + "</div>"
    )
    if verdicts.errors[0] is not None:
        return
    html("<h3 style='margin-top:14px'>Against the calibration images</h3>")
    score, p_value = float(verdicts.instance_score[0]), float(verdicts.p_value[0])
    scores = judged.screen.calibrator.scores
    html(calibration_chart(scores, score, p_value, verdicts.alpha, verdicts.threshold))
    if statistics:
        html("<h3 style='margin-top:14px'>Why</h3>")
        html(reasons(statistics))


def _entry(one: Seen, current: bool, pick: Any) -> None:
    source = "" if one.picture is None else f'<img src="{picture_url(one.picture)}" alt="">'
    p_value = float(one.judged.verdicts.p_value[0])
    shown = "" if math.isnan(p_value) else f'<span class="soft">p {p_value:.3f}</span>'
    content = f'{source}<span class="name">{escape(one.name)}</span>{shown}{chip(one.judged.verdicts.words[0])}'
    row_button(content, current, pick)

"""Panel: judge dropped images."""

import math
from html import escape
from typing import Any
from urllib.parse import quote

from nicegui import ui

from recondite.data.pictures import png_url
from recondite.progress import counted
from recondite.reports.words import how_rare, p_text
from recondite.service.engine.beside import contour, nearest_good, overlay
from recondite.service.engine.decoding import Sent, name_in_form, printable
from recondite.service.engine.no_pictures import not_a_picture
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
    nearest,
    or_notify,
    picture_url,
    row_button,
    viewer,
)

_MOST, _WHILE = 200, 0.4
_NOT_TAKEN = "(files) => emit(files.map((one) => [one.file.name, one.file.size, one.failedPropValidation]))"
_NOT_SENT = "(info) => emit(info.files[0].name)"


async def panel(view: View) -> None:
    """Build the panel."""
    limits = view.service.settings.limits
    chosen: dict[str, Seen | None] = {}
    coming: list[ui.timer] = []
    lost: list[str] = []
    heading("Judge images", "Drop pictures, or choose them. What is flagged comes first.")

    def pick(one: Seen) -> None:
        chosen[view.name] = one
        results.refresh()

    @ui.refreshable
    def results() -> None:
        if not view.served.screen.detector.preprocessing.is_image:
            empty(f"Screen {view.name} judges vectors, not pictures. Send them to /v2.")
            return
        if not view.seen:
            empty(f"Screen {view.name} has judged nothing here yet. Drop a picture above to see its verdict and why.")
            return
        listed = sorted(view.seen, key=lambda one: one.rank)
        flagged = sum(bool(one.judged.verdicts.is_outlier[0]) for one in listed)
        words = f"{counted(len(listed), 'image')}, {flagged:,} flagged."
        if len(listed) == _MOST:
            words += f" The last {_MOST} are listed."
        html(f'<p class="soft" aria-live="polite">{words}</p>')
        current = chosen.get(view.name) if chosen.get(view.name) in view.seen else listed[0]
        with ui.element("div").classes("two"):
            with ui.element("div").classes("card list").props('role="group" aria-label="Judged images"'):
                for one in listed:
                    _entry(one, one is current, lambda one=one: pick(one))
            if current is not None:
                with ui.element("div").classes("card").props('aria-live="polite"'):
                    detail(current)

    @ui.refreshable
    def group() -> None:
        groups = view.served.screen.calibrator.groups
        if groups is not None:
            select = ui.select(sorted(set(groups)), value=view.group or None, label="Group of the pictures")
            select.on_value_change(lambda event: view.groups.update({view.name: event.value}))
            select.classes("w-48").props("outlined dense")

    async def uploaded(event: Any) -> None:
        name, content = printable(name_in_form(event.file.name)), await event.file.read()
        trouble = not_a_picture(name, content)
        if trouble is not None:
            _alarm(trouble)
            return
        if view.served.screen.calibrator.groups is not None and not view.group:
            ui.notify("Choose which group the pictures are of: each has a calibration of its own.", type="negative")
            return
        judged = await or_notify(view.judge([Sent(name, content)], record=record.value, group=view.group))
        if judged is not None:
            readable = len(judged.pixels) > 0
            address = view.uploads.add(judged.served, content) if readable else None
            view.work[judged.served.name].insert(0, Seen(name, judged, judged.pixels[0] if readable else None, address))
            del view.work[judged.served.name][_MOST:]
            soon()

    def soon() -> None:
        """Draw what came in a while, once for all of it: each time takes as long as there are pictures."""
        if not coming:
            with controls:
                coming.append(ui.timer(_WHILE, draw, once=True))

    def draw() -> None:
        coming.clear()
        results.refresh()

    def not_taken(event: Any) -> None:
        large = [(name, size) for name, size, why in event.args if why != "max-files"]
        many = len(event.args) - len(large)
        if large:
            name, size = large[0]
            _alarm(
                f"{printable(str(name))} has {size:,} bytes; this service takes files of up to "
                f"{limits.body_bytes:,} bytes: {counted(len(large), 'file')} left out."
            )
        if many:
            _alarm(
                f"{_MOST} pictures are judged here at a time: {counted(many, 'file')} left out. Send many as a batch "
                "job, or give them to recondite predict."
            )

    def finished() -> None:
        upload.reset()
        if lost:
            words = f"{lost[0]} was not judged, as it did not reach the service"
            _alarm(f"{words}: drop it again." if len(lost) == 1 else f"{words}, nor were {len(lost) - 1:,} more.")
            lost.clear()

    with ui.element("div").classes("w-full") as controls:
        upload = ui.upload(
            multiple=True, auto_upload=True, max_files=_MOST, max_file_size=limits.body_bytes, on_upload=uploaded
        )
        upload.classes("drop").props("flat")
        upload.on("rejected", not_taken, js_handler=_NOT_TAKEN)
        upload.on("failed", lambda event: lost.append(printable(str(event.args))), js_handler=_NOT_SENT)
        upload.on("finish", finished)
        with ui.row().classes("items-center gap-4 q-my-sm"):
            ui.button("Choose pictures", on_click=lambda: upload.run_method("pickFiles")).props("unelevated")
            record = ui.checkbox("Count these in the store and in drift", value=True)
            group()
    results()

    def anew() -> None:
        controls.set_visibility(view.served.screen.detector.preprocessing.is_image)
        group.refresh()
        results.refresh()

    view.panels["Judge"] = anew


def _alarm(text: str) -> None:
    ui.notify(text, type="negative", multi_line=True, timeout=8000)


def detail(one: Seen) -> None:
    """Show everything about one judged image."""
    judged, verdicts = one.judged, one.judged.verdicts
    words, statistics = why(judged, 0)
    html(f'<h3>{chip(verdicts.words[0])} {escape(one.name)}</h3><p class="words soft">{escape(words)}</p>')
    rebuilt, heat = reconstruction(judged, 0), heat_map(judged, 0)
    if one.address is not None:
        drawn = contour(judged, 0)
        outline = None if drawn is None else f"data:image/svg+xml,{quote(drawn)}"
        over = overlay(judged, 0)
        html(viewer(one.address, None if over is None else png_url(over), one.name, outline))
    html(
        '<div class="pictures">'
        + figure(None if one.picture is None else picture_url(one.picture), "as the screen sees it", one.name)
        + figure(None if rebuilt is None else png_url(rebuilt), "rebuilt", "the image as the detector rebuilds it")
        + figure(None if heat is None else png_url(heat), "where it is odd", "heat map: bright where it is odd")
        + "</div>"
    )
    if verdicts.errors[0] is not None:
        return
    if one.picture is not None:
        html(nearest(nearest_good(judged.screen, one.picture)))
    html("<h3>Against the calibration images</h3>")
    score, p_value = float(verdicts.instance_score[0]), float(verdicts.p_value[0])
    rare = how_rare(judged.screen, score, p_value, judged.events[0].group)
    scores = judged.screen.calibrator.scores
    html(calibration_chart(scores, score, p_value, verdicts.alpha, verdicts.threshold, rare))
    if statistics:
        html("<h3>Why</h3>")
        html(reasons(statistics))


def _entry(one: Seen, current: bool, pick: Any) -> None:
    source = "" if one.address is None else f'<img src="{one.address}/thumbnail" alt="" loading="lazy">'
    p_value = float(one.judged.verdicts.p_value[0])
    shown = "" if math.isnan(p_value) else f'<span class="soft">p {p_text(p_value)}</span>'
    content = f'{source}<span class="name">{escape(one.name)}</span>{shown}{chip(one.judged.verdicts.words[0])}'
    row_button(content, current, pick)

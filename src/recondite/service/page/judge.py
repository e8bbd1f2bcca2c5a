"""Panel: judge dropped images."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from nicegui import ui

from recondite.data.pictures import png_url
from recondite.errors import InputError, ReconditeError
from recondite.progress import counted
from recondite.reports.words import how_rare, p_text
from recondite.service.engine.beside import contour, nearest_good, overlay
from recondite.service.engine.decoding import Sent, name_in_form, printable
from recondite.service.engine.no_pictures import not_a_picture
from recondite.service.engine.pictures import heat_map, reconstruction, why
from recondite.service.page.charts import calibration_chart, reasons
from recondite.service.page.frame import (
    Choice,
    Seen,
    View,
    chip,
    empty,
    figure,
    heading,
    html,
    nearest,
    picture_url,
    row_button,
    viewer,
)

_MOST, _WHILE = 200, 0.4
_NOT_TAKEN = "(files) => emit(files.map((one) => [one.file.name, one.file.size, one.failedPropValidation]))"
_NOT_SENT = "(info) => emit(info.files[0].name)"
_ADDED = "(files) => { UnderWay.add('pictures', files.length); emit(); }"
_REASONS = 3


async def panel(view: View) -> None:
    """Build the panel."""
    limits = view.service.settings.limits
    chosen: dict[str, Seen | None] = {}
    coming: list[ui.timer] = []
    lost: list[str] = []
    troubles: list[str] = []
    taken = 0
    free: ui.upload
    busy: set[int] = set()
    heading("Judge images", "Drop pictures, or choose them. What is flagged comes first.")
    html("<not-judged></not-judged>")

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

    async def uploaded(event: Any, choice: Choice, record: bool) -> None:
        nonlocal taken
        name, content = printable(name_in_form(event.file.name)), await event.file.read()
        try:
            await judged_as(choice, record, name, content)
        except ReconditeError as error:
            troubles.append(str(error))
        finally:
            taken += 1
            soon()

    async def judged_as(choice: Choice, record: bool, name: str, content: bytes) -> None:
        trouble = not_a_picture(name, content)
        if trouble is not None:
            raise InputError(trouble)
        if view.service.shelf.get(choice.screen).screen.calibrator.groups is not None and not choice.group:
            raise InputError("Choose which group the pictures are of: each has a calibration of its own.")
        judged = await view.judge([Sent(name, content)], choice, record)
        readable = len(judged.pixels) > 0
        address = view.uploads.add(judged.served, content) if readable else None
        seen = view.work.setdefault(choice.screen, [])
        seen.insert(0, Seen(name, judged, judged.pixels[0] if readable else None, address))
        del seen[_MOST:]

    def soon() -> None:
        """Draw what came in a while, once for all of it: each time takes as long as there are pictures."""
        if not coming:
            with controls:
                coming.append(ui.timer(_WHILE, draw, once=True))

    def draw() -> None:
        nonlocal taken
        coming.clear()
        ui.run_javascript(f"UnderWay.add('pictures', {-taken})")
        taken = 0
        results.refresh()
        if troubles and not busy:
            _alarm(_all_of(troubles))
            troubles.clear()

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

    def uploader() -> None:
        """Make the next place to drop on: it takes one drop, judged as is chosen then, however long pictures wait.

        What the visitor chose and that he dropped come here one after the other; the pictures come on their own ways.
        """
        nonlocal free
        how: list[tuple[Choice, bool]] = []

        def added() -> None:
            if not how:
                busy.add(upload.id)
                upload.classes("hidden")  # not invisible, which would refuse what comes
                uploader()
            how[:] = [(view.choice, bool(record.value))]
            upload.run_method("upload")

        def finished() -> None:
            nonlocal taken
            busy.discard(upload.id)
            upload.delete()
            taken += len(lost)
            soon()
            if lost:
                words = f"{lost[0]} was not judged, as it did not reach the service"
                _alarm(f"{words}: drop it again." if len(lost) == 1 else f"{words}, nor were {len(lost) - 1:,} more.")
                lost.clear()

        with places:
            upload = free = ui.upload(
                multiple=True,
                max_files=_MOST,
                max_file_size=limits.body_bytes,
                on_upload=lambda event: uploaded(event, *how[0]),
            )
        upload.classes("drop").props("flat")
        upload.on("added", added, js_handler=_ADDED)
        upload.on("rejected", not_taken, js_handler=_NOT_TAKEN)
        upload.on("failed", lambda event: lost.append(printable(str(event.args))), js_handler=_NOT_SENT)
        upload.on("finish", finished)

    with ui.element("div").classes("w-full") as controls:
        places = ui.element("div").classes("w-full")
        with ui.row().classes("items-center gap-4 q-my-sm"):
            ui.button("Choose pictures", on_click=lambda: free.run_method("pickFiles")).props("unelevated")
            record = ui.checkbox("Count these in the store and in drift", value=True)
            group()
    uploader()
    results()

    def anew() -> None:
        controls.set_visibility(view.served.screen.detector.preprocessing.is_image)
        group.refresh()
        results.refresh()

    view.panels["Judge"] = anew


def _all_of(troubles: Sequence[str]) -> str:
    """Say why pictures were not judged: the first few reasons, and of how many more there are others."""
    first = list(dict.fromkeys(troubles))[:_REASONS]
    others = sum(trouble not in first for trouble in troubles)
    return " ".join([*first, *([f"{others:,} more were not judged."] if others else [])])


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
    name, p_value = escape(one.name), float(one.judged.verdicts.p_value[0])
    shown = "" if math.isnan(p_value) else f'<span class="soft">p {p_text(p_value)}</span>'
    content = f'{source}<span class="name" title="{name}">{name}</span>{shown}{chip(one.judged.verdicts.words[0])}'
    row_button(content, current, pick, f"judged {one.judged.events[0].id}")

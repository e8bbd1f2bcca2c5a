"""Panel: perturb an image and watch its score; nothing is recorded."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from nicegui import ui

from recondite.data.pictures import png_url
from recondite.perturbations import masked
from recondite.reports.words import p_text
from recondite.service.engine.decoding import Sent
from recondite.service.engine.judging import Judged
from recondite.service.engine.pictures import heat_map, reconstruction
from recondite.service.page.charts import line
from recondite.service.page.frame import Area, View, chip, empty, figure, heading, html, or_notify, picture_url

_STEPS = 13


async def panel(view: View) -> None:
    """Build the panel."""
    heading("Perturb", "Cover part of an image with noise, or all of it, and watch the score. Nothing is written down.")
    now: dict[str, Any] = {}

    @ui.refreshable
    def controls() -> None:
        now.clear()
        usable = [one for one in view.seen if one.picture is not None]
        if not usable or not view.served.screen.detector.preprocessing.is_image:
            empty("Judge a picture first: it can be changed here.")
            return
        side = min(view.served.screen.detector.shape[1:])
        with ui.element("div").classes("two"):
            with ui.element("div").classes("card"):
                names = {place: one.name for place, one in enumerate(usable)}
                select = ui.select(names, value=0, label="Image", on_change=lambda: area.ask())
                select.classes("w-full q-mb-md").props("outlined dense")
                about_mask = ui.label()
                mask = ui.slider(min=0, max=side, step=1, value=0, on_change=lambda: area.ask())
                about_noise = ui.label()
                noise = ui.slider(min=0, max=0.5, step=0.02, value=0, on_change=lambda: area.ask())
                mask.props('aria-label="mask size"')
                noise.props('aria-label="noise"')
                about_mask.bind_text_from(mask, "value", lambda size: f"Mask size: {size} x {size} pixels")
                about_noise.bind_text_from(noise, "value", lambda share: f"Noise: standard deviation {share:.2f}")
                # Those listed here: others may come before them meanwhile.
                now.update(images=usable, image=select, mask=mask, noise=noise)
            with ui.element("div").classes("card").props('aria-live="polite"'):
                area: Area = Area(lambda: _prepare(view, now))
        area.ask()

    controls()
    view.panels["Perturb"] = controls.refresh


async def _prepare(view: View, now: dict[str, Any]) -> Callable[[], None]:
    seen, mask, noise = now["images"][now["image"].value], int(now["mask"].value), now["noise"].value
    assert seen.picture is not None
    sizes = sorted({*np.linspace(0, min(seen.picture.shape[1:]), _STEPS).round().astype(int).tolist(), mask})
    images = np.stack([changed(seen.picture, size, noise) for size in sizes])
    choice = replace(view.choice, group=seen.judged.events[0].group)
    judged = await or_notify(view.judge([Sent(seen.name, image) for image in images], choice, record=False))
    return lambda: None if judged is None else _draw(judged, images, sizes, sizes.index(mask))


def _draw(judged: Judged, images: Any, sizes: list[int], at: int) -> None:
    verdicts = judged.verdicts
    score, p_value = verdicts.instance_score[at], verdicts.p_value[at]
    html(f"<h3>{chip(verdicts.words[at])} score {score:.4g}, p-value {p_text(p_value)}</h3>")
    rebuilt, heat = reconstruction(judged, at), heat_map(judged, at)
    html(
        '<div class="pictures" style="margin-top:10px">'
        + figure(picture_url(images[at]), "changed", "the changed image")
        + figure(None if rebuilt is None else png_url(rebuilt), "rebuilt", "the image as the detector rebuilds it")
        + figure(None if heat is None else png_url(heat), "where it is odd", "heat map: bright where it is odd")
        + "</div>"
    )
    across, here = "mask size, pixels of what the screen sees", float(sizes[at])
    scores, rare = (
        list(zip(map(float, sizes), map(float, some), strict=True))
        for some in (verdicts.instance_score, verdicts.p_value)
    )
    html("<h3 class='above'>As the mask grows</h3>" + line(scores, across, "score, no unit", verdicts.threshold, here))
    html(line(rare, across, "p-value", verdicts.alpha, here, "alpha", log=True))


def changed(image: Any, mask: int, noise: float) -> Any:
    """Return an image (C, H, W) with noise all over and a square of noise in its middle, always the same noise."""
    result = np.asarray(image, dtype=np.float32)
    if noise > 0:
        draws = np.random.default_rng(0).normal(0, noise, result.shape)
        result = np.clip(result + draws, 0, 1).astype(np.float32)
    if mask > 0:
        corner = ((result.shape[1] - mask) // 2, (result.shape[2] - mask) // 2)
        result = masked(result[None], mask, "normal", distribution=(0.5, 0.5), place=corner, seed=0).images[0]
    return result

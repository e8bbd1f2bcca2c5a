"""Panel: images in the detector's latent space, as thumbnails to click."""

import asyncio
from collections.abc import Callable, Sequence
from html import escape
from importlib.util import find_spec
from typing import Any

import numpy as np
from nicegui import ui
from numpy.typing import NDArray

from recondite.data.pictures import colours, data_url
from recondite.detectors import Detector
from recondite.errors import InputError
from recondite.reports.words import p_text
from recondite.service.engine.filters import Filter
from recondite.service.page.charts import ACCENT, SOFT, WARN, frame
from recondite.service.page.frame import Area, View, empty, heading, html, or_notify
from recondite.statistics.embedding import FEWEST, Map, make_map

_MOST, _FEWEST = 150, 3
_COLUMNS, _ROWS, _CELL, _SIDE = 24, 11, 48, 44
"""Cells of the map, their side, and that of a thumbnail in it, which a finger can hit; in pixels at the least."""


async def panel(view: View) -> None:
    """Build the panel."""
    heading("Map", "Images judged on this page, and the latest kept ones, where the detector's latent space puts them.")

    atlases: dict[str, Atlas] = {}
    shown = ""

    async def prepare() -> Callable[[], None] | None:
        nonlocal shown
        before, shown = shown, ""
        detector = view.served.screen.detector
        if not detector.has_encoder or not detector.preprocessing.is_image:
            return lambda: empty(f"Detector {detector.name} has no latent space of images to look at.")
        found = await _images(view)
        if len(found) < _FEWEST:
            return lambda: empty("The map needs three images: judge some, or start the service with --keep-images all.")
        pixels = np.stack([one["pixels"] for one in found])
        loop = asyncio.get_running_loop()
        atlas = atlases.setdefault(view.served.fingerprint, Atlas())
        latents = await loop.run_in_executor(view.service.judge.line, latents_of, detector, pixels)
        places, method = await asyncio.to_thread(atlas.flat, latents, [one["sha256"] for one in found])
        shown = draw(places, found)
        return None if shown == before else lambda: show(method, found)

    def show(method: str, found: list[dict[str, Any]]) -> None:
        with ui.element("div").classes("card map"):
            html('<p class="soft keys">Keys: <kbd>←</kbd> <kbd>→</kbd> <kbd>↑</kbd> <kbd>↓</kbd> on the map</p>')
            drawn = html(shown)
            html(f'<p class="soft">{escape(method)} Thin blue frame: inlier; thick and dashed red one: outlier.</p>')
        with ui.element("div").classes("card q-mt-md").props('aria-live="polite"') as below:
            html('<p class="soft">Choose an image to see what it is.</p>')
        drawn.on("click", lambda event: chosen(event, found, below), js_handler=_CLICKED)

    def chosen(event: Any, found: list[dict[str, Any]], below: Any) -> None:
        place = event.args
        if isinstance(place, int) and 0 <= place < len(found):
            below.clear()
            with below:
                one = found[place]
                html(
                    f'<h3>{escape(one["name"])}</h3><div class="pictures"><figure><img alt="{escape(one["name"])}" '
                    f'src="{one["url"]}"><figcaption>{escape(one["words"])}</figcaption></figure></div>'
                )

    view.panels["Map"] = Area(prepare).ask


_CLICKED = """(event) => {
  const link = event.target.closest('a[data-place]');
  if (link) { event.preventDefault(); emit(parseInt(link.dataset.place)); }
}"""


async def _images(view: View) -> list[dict[str, Any]]:
    found, there = [], set()
    for one in view.seen[:_MOST]:
        if one.picture is not None:
            sha256, verdicts = one.judged.events[0].sha256, one.judged.verdicts
            if sha256 not in there:
                found.append(_fact(one.name, one.picture, verdicts.words[0], float(verdicts.p_value[0]), sha256))
            there.add(sha256)
    rows = await or_notify(view.service.store.rows(Filter(screen=view.name), 4 * _MOST)) or []
    preprocessing = view.served.screen.detector.preprocessing
    for row in rows:
        if len(found) >= _MOST:
            break
        content = view.service.judge.kept.get(row["sha256"]) if row["kept"] and row["sha256"] not in there else None
        if content is not None and row["p_value"] is not None:
            there.add(row["sha256"])
            try:
                pixels = await asyncio.to_thread(preprocessing, content)
            except InputError:
                continue
            found.append(_fact(row["name"], pixels, row["verdict"], row["p_value"], row["sha256"]))
    return found


def _fact(name: str, pixels: Any, verdict: str, p_value: float, sha256: str) -> dict[str, Any]:
    words, url = f"{verdict}, p-value {p_text(p_value)}", data_url(colours(pixels))
    return {"name": name, "pixels": pixels, "verdict": verdict, "words": words, "url": url, "sha256": sha256}


class Atlas:
    """A t-SNE map that stays as it is while images are added, and is drawn anew when they have become twice as many.

    With too few images for t-SNE, or without openTSNE and scikit-learn, it shows two principal components.
    """

    def __init__(self) -> None:
        self._map: Map | None = None
        self._places: dict[str, NDArray[np.float64]] = {}
        self._drawn = 0

    def flat(self, latents: NDArray[np.float64], names: Sequence[str]) -> tuple[NDArray[np.float64], str]:
        """Return points (N, 2) in [0, 1] for latents (N, D) of images with these names, and how they were made."""
        if len(names) < FEWEST or not (find_spec("openTSNE") or find_spec("sklearn")):
            return unit(components(latents)), "The two directions in which latents vary most."
        if self._map is None or len(names) >= 2 * self._drawn:
            self._map, self._drawn = make_map(latents), len(names)
            self._places = dict(zip(names, self._map.points, strict=True))
        fresh = [index for index, name in enumerate(names) if name not in self._places]
        if fresh:
            self._places |= dict(zip([names[k] for k in fresh], self._map.place(latents[fresh]), strict=True))
        return unit(np.stack([self._places[name] for name in names])), f"Latents, t-SNE by {self._map.method}."


def latents_of(detector: Detector, pixels: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the latents (N, D) of images (N, C, H, W)."""
    return detector.encode(pixels).reshape(len(pixels), -1).astype(np.float64)


def components(latents: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return latents (N, D) as their two principal components (N, 2)."""
    centred = latents - latents.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    # A direction has no sign of its own: its largest entry is made positive, so that the map does not flip about.
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    points: NDArray[np.float64] = centred @ axes.T
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))


def unit(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points (N, 2) moved and stretched into [0, 1]."""
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    scaled: NDArray[np.float64] = (points - low) / np.where(span > 0, span, 1)
    return scaled


def cells(places: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return a cell (column, row from above) of its own for each of some points (N, 2) in [0, 1]: the nearest free one.

    The first of the points choose first. N is at most the number of cells.
    """
    columns, rows = np.meshgrid(np.arange(_COLUMNS), np.arange(_ROWS), indexing="ij")
    free = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.float64)
    taken = []
    for across, up in places:
        wanted = (across * (_COLUMNS - 1), (1 - up) * (_ROWS - 1))
        nearest = int(((free - wanted) ** 2).sum(axis=1).argmin())
        taken.append((int(columns.flat[nearest]), int(rows.flat[nearest])))
        free[nearest] = np.inf
    return taken


def draw(places: NDArray[np.float64], found: list[dict[str, Any]]) -> str:
    """Draw thumbnails at points (N, 2) in [0, 1], each a link; the Tab key reaches the first, arrows lead on from it.

    None covers another: each is in the nearest cell of a grid that is free, older ones first, so that they stay there.
    """
    width, height, spare = _COLUMNS * _CELL, _ROWS * _CELL, (_CELL - _SIDE) / 2
    body = f'<rect width="{width}" height="{height}" fill="var(--ground)"/>'
    where = cells(places[::-1])[::-1]
    for place, ((column, row), one) in enumerate(zip(where, found, strict=True)):
        x, y = _CELL * column + spare, _CELL * row + spare
        colour = {"inlier": ACCENT, "outlier": WARN}.get(one["verdict"], SOFT)
        drawn = '4" stroke-dasharray="8 4' if one["verdict"] == "outlier" else "2"
        label = escape(f"{one['name']}: {one['words']}")
        body += (
            f'<a href="#" data-place="{place}" aria-label="{label}" tabindex="{-1 if place else 0}">'
            f'<title>{label}</title><image href="{one["url"]}" x="{x:g}" y="{y:g}" width="{_SIDE}" height="{_SIDE}"/>'
            f'<rect x="{x:g}" y="{y:g}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="{colour}" '
            f'stroke-width="{drawn}"/></a>'
        )
    return frame(body, "", width, height).replace('role="img" aria-label=""', 'role="group" aria-label="Map of images"')

"""Shared parts of the page's panels: the view, the layout, pictures and notifications."""

import json
import math
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
from nicegui import background_tasks, ui
from numpy.typing import NDArray

from recondite.data.pictures import colours, data_url
from recondite.errors import ReconditeError
from recondite.service.engine.judging import Judged, Wish
from recondite.service.engine.registry import Served
from recondite.service.page.pictures import Uploads
from recondite.service.routes.state import Service


@dataclass(frozen=True)
class Seen:
    """An image that was judged on this page.

    Args:
        name: of the file.
        judged: of which it is the only image.
        picture: as the screen sees it, float32 (C, H, W); None where it cannot be read.
        address: of the file in full size; None where it cannot be read.
    """

    name: str
    judged: Judged
    picture: NDArray[np.float32] | None
    address: str | None = None

    @property
    def rank(self) -> tuple[bool, float]:
        """Sorts what is flagged before what is not, and the most anomalous first."""
        p_value = float(self.judged.verdicts.p_value[0])
        return not self.judged.verdicts.is_outlier[0], 0.0 if math.isnan(p_value) else p_value


@dataclass(frozen=True)
class Choice:
    """How images are to be judged: by which screen, at which alpha (None for its own), as images of which group."""

    screen: str
    alpha: float | None
    group: str


@dataclass
class View:
    """What one visitor looks at; the work on each screen stays while others are looked at.

    Args:
        service: behind the page.
        uploads: what was dropped, in full size.
        name: of the chosen screen.
        tab: the panel being looked at.
        work: the images judged on this page, newest first, by screen.
        alphas: to judge at, by screen; the screen's own where there is none.
        groups: of the calibration, that the images are of, by screen.
        panels: draw the panel of a tab anew.
        turn_to: show the panel of a tab.
    """

    service: Service
    uploads: Uploads
    name: str
    tab: str
    work: dict[str, list[Seen]] = field(default_factory=dict)
    alphas: dict[str, float] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    panels: dict[str, Callable[[], Any]] = field(default_factory=dict)
    turn_to: Callable[[str], None] = lambda _: None

    @property
    def served(self) -> Served:
        """The default version of the chosen screen."""
        return self.service.shelf.get(self.name)

    @property
    def seen(self) -> list[Seen]:
        """The images judged with the chosen screen, newest first."""
        return self.work.setdefault(self.name, [])

    @property
    def alpha(self) -> float | None:
        """The rate chosen on this page; None for the screen's own."""
        return self.alphas.get(self.name)

    @property
    def alpha_now(self) -> float:
        """The false-alarm rate that is judged at."""
        return self.served.screen.alpha if self.alpha is None else self.alpha

    @property
    def group(self) -> str:
        """The group that was chosen on this page; "" where none was, or the screen has none."""
        chosen = self.groups.get(self.name, "")
        return chosen if chosen in (self.served.screen.calibrator.groups or ()) else ""

    @property
    def choice(self) -> Choice:
        """How images are judged that come now."""
        return Choice(self.name, self.alpha, self.group)

    def changed(self) -> None:
        """Draw the panel being looked at anew; the others are when they are turned to."""
        self.panels[self.tab]()

    def remember(self) -> None:
        """Put what is looked at into the address of the page, and leave out the event of another screen."""
        facts = {"screen": self.name, "panel": self.tab.lower(), "alpha": "" if self.alpha is None else self.alpha}
        ui.run_javascript(f"remembered({json.dumps(facts)})")

    async def judge(self, sent: Any, choice: Choice, record: bool) -> Judged:
        """Judge images as was chosen when they came."""
        wish = Wish(alpha=choice.alpha, group=choice.group, record=record, maps=True, labels=False)
        served = self.service.shelf.get(choice.screen)
        return await self.service.judge.judge(served, sent, wish, f"page-{uuid.uuid4().hex[:10]}")


def script() -> str:
    """Return the page's own elements, as JavaScript."""
    names = ("page.js", "light-box.js", "region.js", "draft.js", "versions.js", "audit.js")
    return "".join(map(_text, names))


def stylesheet() -> str:
    """Return the page's CSS."""
    return "".join(_text(name) for name in ("page.css", "draft.css", "audit.css"))


def _text(name: str) -> str:
    return files("recondite.service.page").joinpath(name).read_text(encoding="utf-8")


class Area:
    """A part of the page that is drawn anew. Asked to again meanwhile, it is drawn once more afterwards.

    While it is prepared it is marked as busy, and where that takes long says "drawing…" (see page.css).

    Args:
        prepare: finds out what to draw, and returns the function that draws it; None where what is there is right,
            so that who uses the keyboard stays where he is.
    """

    def __init__(self, prepare: Callable[[], Awaitable[Callable[[], None] | None]]) -> None:
        self._prepare, self._busy, self._again = prepare, False, False
        self.element = ui.element("div").classes("area w-full")

    def ask(self) -> None:
        """Draw soon."""
        background_tasks.create(self.redraw())

    async def redraw(self) -> None:
        """Draw now."""
        self._again = True
        if self._busy:
            return
        self._busy = True
        self.element.props("aria-busy=true")
        try:
            while self._again:
                self._again = False
                with self.element:
                    draw = await self._prepare()
                    if draw is not None:
                        self.element.clear()
                        draw()
        finally:
            self._busy = False
            self.element.props(remove="aria-busy")


def html(text: str) -> ui.html:
    """Show HTML of our own making; whatever came from outside has been escaped."""
    return ui.html(text, sanitize=False).classes("w-full")


def heading(text: str, below: str = "") -> None:
    """Head a panel."""
    html(
        f"<h2>{escape(text)}</h2>" + (f'<p class="soft" style="margin:2px 0 8px">{escape(below)}</p>' if below else "")
    )


def empty(text: str) -> None:
    """Say that there is nothing yet, and what to do."""
    html(f'<div class="empty">{escape(text)}</div>')


def failed(text: str) -> None:
    """Say that something could not be shown, and why."""
    html(f'<div class="empty alarm" role="alert">{escape(text)}</div>')


def tiles_of(tiles: Mapping[str, str]) -> str:
    """Return numbers with what they are."""
    cells = (
        f'<div class="tile"><div class="number">{v}</div><div class="soft">{k}</div></div>' for k, v in tiles.items()
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def viewer(source: str, heat: str | None, words: str, outline: str | None = None) -> str:
    """Return a picture in full size, with its heat map, and the outline of what is odd, over it where there are any."""
    over = "" if heat is None else f' data-heat="{escape(heat)}"'
    over += "" if outline is None else f' data-outline="{escape(outline)}"'
    return f'<heat-viewer data-source="{escape(source)}"{over} data-words="{escape(words)}"></heat-viewer>'


def chip(word: str) -> str:
    """Return a verdict as a coloured word."""
    return f'<span class="chip {word}">{word}</span>'


def picture_url(image: NDArray[np.float32]) -> str:
    """Return an image (C, H, W) as a data URL, each of its pixels a square where it is small."""
    return data_url(colours(np.nan_to_num(image)), 150)


def nearest(sources: Sequence[str]) -> str:
    """Return the good images that an image is most like, as HTML."""
    if not sources:
        return ""
    shown = "".join(f'<img src="{source}" alt="a good image" title="a good image">' for source in sources)
    note = "As the screen keeps them: grey, at most 16 x 16 pixels."
    return f'<h3>The good images most like it</h3><div class="nearest">{shown}</div><p class="soft">{note}</p>'


def figure(source: str | None, caption: str, words: str) -> str:
    """Return a picture with its caption; nothing where there is none."""
    if source is None:
        return ""
    return f'<figure><img src="{source}" alt="{escape(words)}"><figcaption>{escape(caption)}</figcaption></figure>'


def row_button(content: str, current: bool, pick: Callable[[], Any], key: str) -> None:
    """Show a line of a list that can be picked; `content` is HTML, and `key` names it for the keyboard's focus."""
    props = f'aria-current="{str(current).lower()}" type="button" data-focus="{key}"'
    with ui.element("button").classes("row-button").props(props) as button:
        html(f'<span class="line">{content}</span>')
    button.on("click", pick)


async def or_notify(work: Awaitable[Any]) -> Any:
    """Return what the work returns; where it is refused, say so and return None."""
    try:
        return await work
    except ReconditeError as error:
        ui.notify(str(error), type="negative", multi_line=True)
        return None

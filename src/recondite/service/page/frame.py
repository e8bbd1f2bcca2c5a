"""Shared parts of the page's panels: the view, the layout, pictures and notifications."""

import uuid
from collections.abc import Awaitable, Callable
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
from recondite.service.routes.state import Service


@dataclass(frozen=True)
class Seen:
    """An image that was judged on this page.

    Args:
        name: of the file.
        judged: of which it is the only image.
        picture: as the screen sees it, float32 (C, H, W); None where it cannot be read.
    """

    name: str
    judged: Judged
    picture: NDArray[np.float32] | None


@dataclass
class View:
    """What one visitor looks at.

    Args:
        service: behind the page.
        name: of the chosen screen.
        seen: the images judged on this page, newest first.
        alpha: to judge at; None for the screen's own.
        tab: the panel being looked at.
        panels: draw the panel of a tab anew.
    """

    service: Service
    name: str
    seen: list[Seen] = field(default_factory=list)
    alpha: float | None = None
    tab: str = "Judge"
    panels: dict[str, Callable[[], Any]] = field(default_factory=dict)

    @property
    def served(self) -> Served:
        """The default version of the chosen screen."""
        return self.service.shelf.get(self.name)

    @property
    def alpha_now(self) -> float:
        """The false-alarm rate that is judged at."""
        return self.served.screen.alpha if self.alpha is None else self.alpha

    def changed(self) -> None:
        """Draw the panel being looked at anew; the others are when they are turned to."""
        self.panels[self.tab]()

    async def judge(self, sent: Any, **wish: Any) -> Judged:
        """Judge images at the alpha of this page."""
        wanted = Wish(alpha=self.alpha, maps=True, **wish)
        return await self.service.judge.judge(self.served, sent, wanted, f"page-{uuid.uuid4().hex[:10]}")


def stylesheet() -> str:
    """Return the page's CSS."""
    return files("recondite.service.page").joinpath("page.css").read_text(encoding="utf-8")


class Area:
    """A part of the page that is drawn anew. Asked to again meanwhile, it is drawn once more afterwards.

    Args:
        prepare: finds out what to draw, and returns the function that draws it.
    """

    def __init__(self, prepare: Callable[[], Awaitable[Callable[[], None]]]) -> None:
        self._prepare, self._busy, self._again = prepare, False, False
        self.element = ui.element("div").classes("w-full")

    def ask(self) -> None:
        """Draw soon."""
        background_tasks.create(self.redraw())

    async def redraw(self) -> None:
        """Draw now."""
        self._again = True
        if self._busy:
            return
        self._busy = True
        try:
            while self._again:
                self._again = False
                with self.element:
                    draw = await self._prepare()
                    self.element.clear()
                    draw()
        finally:
            self._busy = False


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


def chip(word: str) -> str:
    """Return a verdict as a coloured word."""
    return f'<span class="chip {word}">{word}</span>'


def picture_url(image: NDArray[np.float32]) -> str:
    """Return an image (C, H, W) as a data URL, each of its pixels a square where it is small."""
    return data_url(colours(np.nan_to_num(image)), 150)


def figure(source: str | None, caption: str, words: str) -> str:
    """Return a picture with its caption; nothing where there is none."""
    if source is None:
        return ""
    return f'<figure><img src="{source}" alt="{escape(words)}"><figcaption>{escape(caption)}</figcaption></figure>'


def row_button(content: str, current: bool, pick: Callable[[], Any]) -> None:
    """Show a line of a list that can be picked; `content` is HTML."""
    props = f'aria-current="{str(current).lower()}" type="button"'
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

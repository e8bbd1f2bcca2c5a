"""Pictures and the review queue for the page: originals, thumbnails and heat maps of events, and what was dropped."""

import asyncio
import datetime
import secrets
from collections import OrderedDict
from collections.abc import Callable
from html import escape
from io import BytesIO
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Query, Request
from PIL import Image
from pydantic import BaseModel, Field
from starlette.responses import HTMLResponse, Response

from recondite.data.formats import suffix_of
from recondite.data.images import decode
from recondite.data.pictures import colours
from recondite.data.scaling import match_channels, scaled_planes
from recondite.errors import InputError
from recondite.reports.words import how_rare
from recondite.service.engine.beside import contour, nearest_good, overlay
from recondite.service.engine.decoding import Sent
from recondite.service.engine.filters import Filter, Order
from recondite.service.engine.judging import Judged, Wish
from recondite.service.engine.labelling import copies_of, label_together
from recondite.service.engine.pictures import png
from recondite.service.engine.registry import Served
from recondite.service.engine.store import Label
from recondite.service.errors import Unknown
from recondite.service.page.charts import reasons
from recondite.service.routes.reviewing import unusual_statistics_of
from recondite.service.routes.state import Service, request_id_of, service_of

_SHOWN_BY_BROWSERS = {".png": "png", ".jpg": "jpeg", ".gif": "gif", ".webp": "webp"}
_THUMBNAIL = 160
_CACHED = {"Cache-Control": "private, max-age=3600"}
_LONGEST_QUEUE = 200
MOST_LABELS = 10_000
"""Labels in one request; the page sends more of them in pieces."""
_OF_AN_ENTRY = ("id", "name", "verdict", "p_value", "instance_score", "label", "kept")


class Uploads:
    """Pictures dropped on the page, in memory, the oldest forgotten over a number of bytes.

    Args:
        limit: bytes in all.
    """

    def __init__(self, limit: int = 256 << 20) -> None:
        self._limit, self._size = limit, 0
        self._contents: OrderedDict[str, tuple[Served, bytes]] = OrderedDict()

    def add(self, served: Served, content: bytes) -> str:
        """Keep a picture that a screen judged, and return the address of it."""
        key = secrets.token_hex(16)
        self._contents[key] = served, content
        self._size += len(content)
        while self._size > self._limit and len(self._contents) > 1:
            _, (_, oldest) = self._contents.popitem(last=False)
            self._size -= len(oldest)
        return f"/page/uploads/{key}"

    def get(self, key: str) -> tuple[Served, bytes]:
        """Return what was kept.

        Raises:
            Unknown: it never was, or is forgotten.
        """
        if key not in self._contents:
            raise Unknown("this picture is not held any more: drop it again")
        return self._contents[key]


class QueueChoice(BaseModel):
    """Which events are to be reviewed, in which order."""

    screen: str = Field(max_length=64)
    verdict: Literal["", "inlier", "outlier", "invalid", "flagged", "sample", "review"] = "review"
    label: Literal["", "none", "inlier", "outlier", "skip"] = "none"
    order: Order = "p_value"


class Said(BaseModel):
    """A label, and by event those that the reviewer saw on the pictures."""

    label: Label
    seen: dict[str, Literal["inlier", "outlier", "skip"] | None] = Field(min_length=1, max_length=MOST_LABELS)


def add_pictures(app: FastAPI, uploads: Uploads) -> None:
    """Add the addresses that the page's scripts read and label by."""

    @app.get("/page/uploads/{key}", include_in_schema=False)
    async def upload(key: str) -> Response:
        served, content = uploads.get(key)
        return await asyncio.to_thread(shown, content, served)

    @app.get("/page/uploads/{key}/thumbnail", include_in_schema=False)
    async def thumbnail_of_upload(key: str) -> Response:
        served, content = uploads.get(key)
        return await asyncio.to_thread(_thumbnail, content, served)

    @app.get("/page/events/{event}/picture", include_in_schema=False)
    async def picture(request: Request, event: str) -> Response:
        return await _of_event(service_of(request), event, shown)

    @app.get("/page/events/{event}/thumbnail", include_in_schema=False)
    async def thumbnail(request: Request, event: str) -> Response:
        return await _of_event(service_of(request), event, _thumbnail)

    @app.get("/page/events/{event}/heat-map", include_in_schema=False)
    async def heat(request: Request, event: str) -> Response:
        judged = await _again(request, event)
        drawn = await asyncio.to_thread(overlay, judged, 0)
        if drawn is None:
            raise Unknown("there is no heat map of this image")
        return Response(drawn, media_type="image/png", headers=_CACHED)

    @app.get("/page/events/{event}/outline", include_in_schema=False)
    async def outline(request: Request, event: str) -> Response:
        drawn = await asyncio.to_thread(contour, await _again(request, event), 0)
        if drawn is None:
            raise Unknown("there is no outline of what is odd in this image")
        return Response(drawn, media_type="image/svg+xml", headers=_CACHED)

    @app.get("/page/events/{event}/nearest", include_in_schema=False)
    async def most_alike(request: Request, event: str) -> list[str]:
        service = service_of(request)
        row, content = await _kept(service, event)
        served = service.shelf.get(row["screen"], row["version"])
        return await asyncio.to_thread(
            lambda: nearest_good(served.screen, served.screen.detector.preprocessing(content))
        )

    @app.get("/page/events/{event}/facts", include_in_schema=False)
    async def facts(request: Request, event: str) -> HTMLResponse:
        service = service_of(request)
        return HTMLResponse(_facts(service, await service.store.get(event)))

    @app.get("/page/queue", include_in_schema=False)
    async def queue(request: Request, chosen: Annotated[QueueChoice, Query()]) -> dict[str, Any]:
        store = service_of(request).store
        asked = Filter(screen=chosen.screen, verdict=chosen.verdict, label=chosen.label)
        rows = await store.rows(asked, _LONGEST_QUEUE, chosen.order)
        first = {row["sha256"]: row for row in reversed(rows)}  # identical images are one entry
        copies = await copies_of(store, asked, list(first))
        return {
            "count": await store.count(asked),
            "events": [
                {name: row[name] for name in _OF_AN_ENTRY} | {"copies": copies[row["sha256"]]}
                for row in rows
                if first[row["sha256"]] is row
            ],
        }

    @app.post("/page/labels", include_in_schema=False)
    async def label(request: Request, said: Said) -> dict[str, Any]:
        """Label events, but for those that another reviewer has labelled since they were drawn: these are refused."""
        now = await label_together(service_of(request).store, said.label, said.seen)
        wanted = None if said.label == "none" else said.label
        return {"labels": now, "refused": [event for event in said.seen if now.get(event, "gone") != wanted]}


async def _kept(service: Service, event: str) -> tuple[dict[str, Any], bytes]:
    row = await service.store.get(event)
    content = await asyncio.to_thread(service.judge.kept.get, row["sha256"]) if row["kept"] else None
    if content is None:
        raise Unknown("this image was not kept, or has been deleted since")
    return row, content


async def _again(request: Request, event: str) -> Judged:
    """Judge a kept image again, with its maps; nothing is written down."""
    service = service_of(request)
    row, content = await _kept(service, event)
    served = service.shelf.get(row["screen"], row["version"])
    wish = Wish(alpha=row["alpha"], group=row["group"], maps=True, record=False, labels=False)
    return await service.judge.judge(served, [Sent(row["name"], content)], wish, request_id_of(request))


async def _of_event(service: Service, event: str, draw: Callable[[bytes, Served], Response]) -> Response:
    """Draw a kept image as the version sees it that judged it, or the default one where that is not served any more."""
    row, content = await _kept(service, event)
    name, version = row["screen"], row["version"]
    served = service.shelf.get(name, version if version in service.shelf.versions(name) else None)
    return await asyncio.to_thread(draw, content, served)


def shown(content: bytes, served: Served | None) -> Response:
    """Return a picture in full size: as it came where browsers show it as the screen sees it, else as a PNG.

    Args:
        content: of its file.
        served: the screen that looks at it; None where there is none yet.

    Raises:
        InputError: it cannot be read.
    """
    kind = _SHOWN_BY_BROWSERS.get(suffix_of(content))
    value_range = None if served is None else served.screen.detector.preprocessing.value_range
    if kind is not None and value_range is None:
        return Response(content, media_type=f"image/{kind}", headers=_CACHED)
    pixels = decode(content)
    planes = np.stack(list(scaled_planes(pixels, 3, value_range)))
    if len(planes) not in (1, 3):
        raise InputError(f"a picture of {len(planes)} channels cannot be shown")
    return Response(png(colours(match_channels(planes, 3) if len(planes) == 1 else planes)), 200, _CACHED, "image/png")


def _thumbnail(content: bytes, served: Served) -> Response:
    pixels = Image.fromarray(colours(served.screen.detector.preprocessing(content)))
    pixels.thumbnail((_THUMBNAIL, _THUMBNAIL))
    stream = BytesIO()
    pixels.save(stream, format="PNG")
    return Response(stream.getvalue(), media_type="image/png", headers=_CACHED)


def _facts(service: Service, row: dict[str, Any]) -> str:
    """Return what is known about an event as HTML."""
    when = datetime.datetime.fromtimestamp(row["time"], datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    lines = [f"Judged {when} by version {row['version']}"]
    if row["p_value"] is not None:
        try:
            screen = service.shelf.get(row["screen"], row["version"]).screen
            rare = how_rare(screen, row["instance_score"], row["p_value"], row["group"])
            lines.insert(0, rare[0].upper() + rare[1:])
        except Unknown:
            lines.append("This version is not served any more")
    if row["error"]:
        lines.insert(0, row["error"])
    found = unusual_statistics_of(service, row)
    why = f"<h3>Why</h3>{reasons(found)}" if found else ""
    return "".join(f"<p>{escape(line)}.</p>" for line in lines) + why

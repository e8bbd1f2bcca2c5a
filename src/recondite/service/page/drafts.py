"""The addresses by which the page makes screens, tries them out, publishes versions and goes back to earlier ones."""

import asyncio
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, get_args

from fastapi import FastAPI, Query, Request
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from recondite.service.engine.beside import overlay
from recondite.service.engine.decoding import Sent, printable
from recondite.service.engine.drafts import ARCHIVES, Draft, Drafts, Kind
from recondite.service.engine.folders import check_name
from recondite.service.engine.job_sources import open_archive, open_place
from recondite.service.engine.judging import Judged, Wish
from recondite.service.engine.no_pictures import not_a_picture
from recondite.service.engine.pictures import base64_of, why
from recondite.service.engine.publishing import copied_from, make_default, publish
from recondite.service.engine.registry import Served, Shelf
from recondite.service.errors import Unusable
from recondite.service.page.pictures import Uploads, shown
from recondite.service.routes.bodies import body_of
from recondite.service.routes.jobs import received
from recondite.service.routes.state import Service, request_id_of, service_of

_TRIED, _THUMBNAIL = ".tried", 160


class Place(BaseModel):
    """Where images are."""

    model_config = ConfigDict(extra="forbid")

    place: str = Field(min_length=1, max_length=2000)


class Region(BaseModel):
    """Where images count, as polygons; None for everywhere."""

    polygons: dict[str, Any] | None


class Fit(BaseModel):
    """How to fit."""

    model_config = ConfigDict(extra="forbid")

    alpha: float | None = Field(None, gt=0, lt=1)
    suspects: bool = False


class Published(BaseModel):
    """What a screen is to be called, and which fit of it was seen; None where nobody looks."""

    screen: str = Field(max_length=200)
    fit: str | None = None


class Default(BaseModel):
    """A version of a screen, and the default that it is to take the place of; None where nobody looks."""

    screen: str = Field(max_length=200)
    version: str = Field(max_length=200)
    instead_of: str | None = None


class Alpha(BaseModel):
    """A screen at another false-alarm rate."""

    screen: str = Field(max_length=200)
    version: str = Field(max_length=200)
    alpha: float = Field(gt=0, lt=1)


class _Tried:
    """The screen that was fitted last, held while it is tried out."""

    def __init__(self) -> None:
        self._held: tuple[str, Served] | None = None
        self._one_at_a_time = asyncio.Lock()

    async def of(self, service: Service, draft: Draft) -> Served:
        """Return the screen of a draft, ready to judge.

        Raises:
            Unusable: it is not fitted.
        """
        if draft.state != "fitted":
            raise Unusable("this screen is not fitted yet")
        async with self._one_at_a_time:
            facts = draft.screen.stat()
            signature = (facts.st_ino, facts.st_mtime_ns)
            if self._held is None or self._held[0] != draft.id or self._held[1].signature != signature:
                self._held = None
                self._held = draft.id, await service.shelf.open(draft.screen, _TRIED, None, signature)
            return self._held[1]


def add_drafts(app: FastAPI, uploads: Uploads) -> None:
    """Add the addresses by which screens are made and published; there are none where visitors may not."""
    tried, publishing = _Tried(), asyncio.Lock()
    for kind in get_args(Kind):
        _add_images(app, tried, kind)

    @app.get("/page/drafts", include_in_schema=False)
    async def all_drafts(request: Request) -> list[dict[str, Any]]:
        return [draft.to_json() for draft in _drafts(request).all()]

    @app.post("/page/drafts", include_in_schema=False)
    async def begin(request: Request) -> dict[str, Any]:
        return _drafts(request).begin().to_json()

    @app.post(ARCHIVES, include_in_schema=False)
    async def archive(request: Request, draft: str, kind: Kind = "images") -> dict[str, Any]:
        drafts = _drafts(request)
        found = drafts.get(draft)
        path = drafts.archive(found)
        try:
            await received(request, path, service_of(request).settings.job_bytes)
            await drafts.add_all(found, await asyncio.to_thread(open_archive, path), kind)
        finally:
            path.unlink(missing_ok=True)
        return found.to_json()

    @app.get("/page/drafts/{draft}", include_in_schema=False)
    async def one(request: Request, draft: str) -> dict[str, Any]:
        return _drafts(request).get(draft).to_json()

    @app.delete("/page/drafts/{draft}", include_in_schema=False)
    async def discard(request: Request, draft: str) -> dict[str, Any]:
        drafts = _drafts(request)
        await drafts.discard(drafts.get(draft))
        return {}

    @app.post("/page/drafts/{draft}/place", include_in_schema=False)
    async def place(request: Request, draft: str, said: Place) -> dict[str, Any]:
        drafts = _drafts(request)
        found = drafts.get(draft)
        source = await asyncio.to_thread(open_place, said.place, service_of(request).settings.job_places)
        await drafts.add_all(found, source)
        return found.to_json()

    @app.put("/page/drafts/{draft}/region", include_in_schema=False)
    async def region(request: Request, draft: str, said: Region) -> dict[str, Any]:
        drafts = _drafts(request)
        found = drafts.get(draft)
        drafts.restrict(found, said.polygons)
        return found.to_json()

    @app.post("/page/drafts/{draft}/fit", include_in_schema=False)
    async def fit(request: Request, draft: str, said: Fit) -> dict[str, Any]:
        drafts = _drafts(request)
        found = drafts.get(draft)
        await drafts.fit(found, said.alpha, said.suspects)
        return found.to_json()

    @app.post("/page/drafts/{draft}/cancel", include_in_schema=False)
    async def cancel(request: Request, draft: str) -> dict[str, Any]:
        drafts = _drafts(request)
        found = drafts.get(draft)
        await drafts.cancel(found)
        return found.to_json()

    @app.post("/page/drafts/{draft}/try", include_in_schema=False)
    async def try_out(request: Request, draft: str, name: Annotated[str, Query(max_length=4000)]) -> dict[str, Any]:
        """Judge an image with the screen of a draft; nothing is written down."""
        service, found = service_of(request), _drafts(request).get(draft)
        async with body_of(request, service.settings.limits, service.bodies) as content:
            name = printable(name.replace("\\", "/").rpartition("/")[2])
            trouble = not_a_picture(name, content)
            if trouble is not None:
                raise Unusable(trouble)
            served = await tried.of(service, found)
            judged = await _judge(request, served, name, content)
            drawn, words = await asyncio.to_thread(lambda: (overlay(judged, 0), why(judged, 0)[0]))
            readable = judged.verdicts.errors[0] is None
            return {
                **dict(judged.records[0]),
                "words": words,
                "picture": uploads.add(served, content) if readable else None,
                "heat_map": None if drawn is None else f"data:image/png;base64,{base64_of(drawn)}",
            }

    @app.post("/page/drafts/{draft}/publish", include_in_schema=False)
    async def publish_draft(request: Request, draft: str, said: Published) -> dict[str, Any]:
        service, drafts = service_of(request), _drafts(request)
        async with publishing:  # whoever asks twice finds no draft any more
            found = drafts.get(draft)
            if said.fit is not None and said.fit != found.fit:
                raise Unusable("this screen was changed meanwhile: look at what came of it, and publish it then")
            await tried.of(service, found)
            found.publishing = True
            try:
                published = await _publish(service, said.screen, copied_from(found.screen))
            finally:
                found.publishing = False
            await drafts.discard(found)
        return published

    @app.get("/page/versions", include_in_schema=False)
    async def versions(request: Request, screen: str) -> dict[str, Any]:
        return _versions(service_of(request).shelf, screen)

    @app.post("/page/versions/default", include_in_schema=False)
    async def default(request: Request, said: Default) -> dict[str, Any]:
        service = service_of(request)
        shelf = service.shelf
        folder = _folder_of_versions(shelf, said.screen)
        shelf.get(said.screen, said.version)
        async with publishing:
            _check_default(shelf, said.screen, said.instead_of)
            await asyncio.to_thread(make_default, folder, said.version)
            await service.reloads.look()
        return _versions(shelf, said.screen)

    @app.post("/page/versions/alpha", include_in_schema=False)
    async def at_alpha(request: Request, said: Alpha) -> dict[str, Any]:
        """Publish a version of a screen that differs from its default in its false-alarm rate."""
        service = service_of(request)
        served = service.shelf.get(said.screen, said.version)
        if served.guard.calibrators:
            raise Unusable("this version has a guard, which is calibrated for its alpha: make and save it anew instead")
        async with publishing:
            _check_default(service.shelf, said.screen, said.version)
            return await _publish(service, said.screen, served.at(said.alpha).save)


def _add_images(app: FastAPI, tried: _Tried, kind: Kind) -> None:
    """Add the addresses of the images of a kind in a draft."""
    images = f"/page/drafts/{{draft}}/{kind}"

    @app.post(images, include_in_schema=False)
    async def add(
        request: Request,
        draft: str,
        name: Annotated[str, Query(max_length=4000)],
        number: Annotated[int | None, Query(ge=1, lt=10**9)] = None,
    ) -> dict[str, Any]:
        service, drafts = service_of(request), _drafts(request)
        found = drafts.get(draft)
        async with body_of(request, service.settings.limits, service.bodies) as content:
            await drafts.add(found, name, content, kind, number)
        return found.to_json()

    @app.get(f"{images}/{{name}}", include_in_schema=False)
    async def picture(request: Request, draft: str, name: str) -> Response:
        return await asyncio.to_thread(_picture, _drafts(request).get(draft).image(name, kind))

    @app.get(f"{images}/{{name}}/thumbnail", include_in_schema=False)
    async def small(request: Request, draft: str, name: str) -> Response:
        return await asyncio.to_thread(_thumbnail, _drafts(request).get(draft).image(name, kind))

    @app.get(f"{images}/{{name}}/heat-map", include_in_schema=False)
    async def heat(request: Request, draft: str, name: str) -> Response:
        service, found = service_of(request), _drafts(request).get(draft)
        content = await asyncio.to_thread(found.image(name, kind).read_bytes)
        judged = await _judge(request, await tried.of(service, found), name, content)
        drawn = await asyncio.to_thread(overlay, judged, 0)
        if drawn is None:
            raise Unusable("there is no heat map of this image")
        return Response(drawn, media_type="image/png")

    @app.delete(f"{images}/{{name}}", include_in_schema=False)
    async def remove(request: Request, draft: str, name: str) -> dict[str, Any]:
        drafts = _drafts(request)
        found = drafts.get(draft)
        drafts.remove(found, name, kind)
        return found.to_json()


def _drafts(request: Request) -> Drafts:
    drafts = service_of(request).drafts
    assert drafts is not None
    return drafts


async def _judge(request: Request, served: Served, name: str, content: bytes) -> Judged:
    wish = Wish(maps=True, record=False, labels=False)
    return await service_of(request).judge.judge(served, [Sent(name, content)], wish, request_id_of(request))


async def _publish(service: Service, name: str, write: Callable[[Path], None]) -> dict[str, Any]:
    check_name(name)
    shelf, collection = service.shelf, service.settings.collection
    assert collection is not None
    folder = _folder_of_versions(shelf, name) if name in shelf.names else collection / name
    version = await asyncio.to_thread(publish, folder, write)
    await service.reloads.look()
    if version not in (shelf.versions(name) if name in shelf.names else ()):
        raise Unusable(
            f"version {version} was written and cannot be loaded: {shelf.failures.get(str(folder / version))}"
        )
    return {"screen": name, "version": version}


def _check_default(shelf: Shelf, name: str, seen: str | None) -> None:
    """Raise Unusable where another version has become the default since a visitor looked: it would be lost sight of."""
    default = shelf.versions(name)[0]
    if seen not in (None, default):
        raise Unusable(f"version {default} of {name} has become the default meanwhile: load the page anew to see it")


def _folder_of_versions(shelf: Shelf, name: str) -> Path:
    folder = shelf.folder_of(name)
    if folder is None:
        raise Unusable(f"screen {name} is one folder without versions: publish under another name")
    return folder


def _versions(shelf: Shelf, name: str) -> dict[str, Any]:
    """Return the versions of a screen, the default first, and whether another can be made the default."""
    found = []
    for version in shelf.versions(name):
        screen = shelf.get(name, version).screen
        found.append(
            {
                "version": version,
                "detector": screen.detector.name,
                "alpha": screen.alpha,
                "interval": list(screen.false_alarm_interval),
                "calibrated_on": len(screen.calibrator.scores),
            }
        )
    return {"screen": name, "versions": found, "has_versions": shelf.folder_of(name) is not None}


def _picture(path: Path) -> Response:
    return shown(path.read_bytes(), None)


def _thumbnail(path: Path) -> Response:
    stream = BytesIO()
    try:
        with Image.open(BytesIO(_picture(path).body)) as picture:
            picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
            picture.convert("RGBA" if "A" in picture.getbands() else "RGB").save(stream, format="PNG")
    except Exception as error:  # decoders raise whatever comes to their minds
        raise Unusable("this image cannot be read") from error
    return Response(stream.getvalue(), media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

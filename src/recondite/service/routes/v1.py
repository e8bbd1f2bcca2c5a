"""Recondite's own protocol: verdicts, events and labels, health and metrics."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

from recondite.data.formats import suffix_of
from recondite.data.tables import csv_line
from recondite.errors import InputError
from recondite.reports.reviewed import SAMPLED
from recondite.screen.promise import promise
from recondite.screen.words import ERROR
from recondite.service.engine.decoding import Sent
from recondite.service.engine.filters import SAMPLED_SHARE, Filter
from recondite.service.engine.guarding import rows_of_guard
from recondite.service.engine.judging import Judged, Wish
from recondite.service.engine.pictures import base64_of, heat_map, reconstruction, why
from recondite.service.engine.registry import Served
from recondite.service.errors import Unavailable, Unknown
from recondite.service.metrics import CONTENT_TYPE
from recondite.service.routes.bodies import body_of, images_in
from recondite.service.routes.reviewing import folder_of
from recondite.service.routes.state import Service, departure_of, note, request_id_of, service_of
from recondite.service.routes.strict import strict_query
from recondite.service.schemas import (
    ANSWER_EXAMPLE,
    EXAMPLE_PNG,
    Answer,
    DriftOut,
    EventOut,
    Events,
    ImagesIn,
    LabelIn,
    MovedOut,
    ProblemOut,
    ScreenOut,
)
from recondite.statistics.calibration import smallest_alpha
from recondite.statistics.scores import STATISTIC

_LARGEST_NUMBER = 2**62
_PROBLEMS = {
    400: "the request cannot be read",
    401: "no valid token",
    403: "from another site's page",
    404: "no such screen, version or event",
    408: "the body did not arrive in time",
    413: "too many bytes or images",
    415: "not a type of body that is accepted",
    422: "well formed, and asks for something that cannot be",
    429: "too much is being served; try again after Retry-After seconds",
    503: "no verdict in time, or it could not be recorded; try again after Retry-After seconds",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says about refusals."""
    return {status: {"model": ProblemOut, "description": _PROBLEMS[status]} for status in statuses}


api = APIRouter(dependencies=[Depends(strict_query)], responses=problems(400, 401, 403, 422))

Name = Annotated[str, Path(description="of a screen", max_length=64)]
Version = Annotated[str, Path(description="of the screen", max_length=64)]
EventId = Annotated[str, Path(description="of an event", max_length=64)]
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                    "required": ["images"],
                }
            },
            "application/json": {
                "schema": ImagesIn.model_json_schema(),
                "example": {"images": [{"id": "part 17", "data": EXAMPLE_PNG}]},
            },
        },
    }
}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"model": Answer, "content": {"application/json": {"example": ANSWER_EXAMPLE}}}
}


class Options(BaseModel):
    """What a request for verdicts may ask for."""

    model_config = ConfigDict(extra="forbid")

    alpha: float | None = Field(None, gt=0, lt=1, description="the false-alarm rate; that of the screen by default")
    group: str = Field("", max_length=200, description="of the calibration, where the screen has groups")
    heat_map: bool = Field(False, description="return where each image is odd")
    reconstruction: bool = Field(False, description="return each image rebuilt")
    explain: bool = Field(False, description="return the verdict in words and the unusual statistics")
    keep: bool | None = Field(None, description="keep the images, where the service keeps any; its rule by default")
    seconds: float | None = Field(None, gt=0, description="until the answer; the service's limit by default")
    label: str | None = Field(None, max_length=200, description="of one image sent as it is: what your classifier says")
    confidence: float | None = Field(None, gt=0, le=1, description="its largest softmax probability")


@api.post(
    "/v1/screens/{name}/predict",
    tags=["verdicts"],
    summary="Judge images with the default version of a screen",
    openapi_extra=_BODY,
    response_model=Answer,
    responses={**_ANSWER, **problems(404, 408, 413, 415, 422, 429, 503)},
)
async def predict(request: Request, name: Name, options: Annotated[Options, Query()]) -> Response:
    """Send one image file as it is, several in a form, or JSON with base64; every image gets a verdict."""
    return await answer_predict(request, name, None, options)


@api.post(
    "/v1/screens/{name}/versions/{version}/predict",
    tags=["verdicts"],
    summary="Judge images with one version of a screen",
    openapi_extra=_BODY,
    response_model=Answer,
    responses={**_ANSWER, **problems(404, 408, 413, 415, 422, 429, 503)},
)
async def predict_with_version(
    request: Request, name: Name, version: Version, options: Annotated[Options, Query()]
) -> Response:
    """Like the default version's."""
    return await answer_predict(request, name, version, options)


async def answer_predict(request: Request, name: str, version: str | None, options: Options) -> Response:
    """Answer a request for verdicts."""
    service = service_of(request)
    served = service.shelf.get(name, version)
    limits = service.settings.limits
    wish = Wish(
        alpha=options.alpha,
        group=options.group,
        maps=options.heat_map or options.reconstruction,
        keep=options.keep,
        seconds=options.seconds,
    )
    async with body_of(request, limits, service.bodies) as body:
        sent = await images_in(request, body, limits)
        if options.label is not None:
            sent = _labelled(sent, options.label, options.confidence)
        judged = await service.judge.judge(served, sent, wish, request_id_of(request), departure_of(request))
    note(request, screen=served.name, version=served.version, **judged.counts())
    extra: list[dict[str, Any]] = [{} for _ in judged.events]
    if judged.decisions is not None:
        extra = [{"guard": row} for row in rows_of_guard(judged.decisions)]
        service.counters.guarded(served.name, served.version, judged.decisions)
    if wish.maps or options.explain:
        further = await asyncio.to_thread(_further, judged, options)
        extra = [one | more for one, more in zip(extra, further, strict=True)]
    answer = {
        "request_id": request_id_of(request),
        "screen": served.name,
        "version": served.version,
        "verdicts": [
            {**row, "event": event.id, "sha256": event.sha256, **more}
            for row, event, more in zip(judged.records, judged.events, extra, strict=True)
        ],
        "remarks": list(judged.remarks),
    }
    return JSONResponse(answer)


def _labelled(sent: Sequence[Sent], label: str, confidence: float | None) -> list[Sent]:
    if len(sent) > 1:
        raise InputError("expected one image with a label in the address; send several as JSON, each with its own")
    return [replace(one, label=label, confidence=confidence) for one in sent]


def _further(judged: Judged, options: Options) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for index in range(len(judged.events)):
        more: dict[str, Any] = {}
        if options.heat_map:
            more["heat_map"] = base64_of(heat_map(judged, index))
        if options.reconstruction:
            more["reconstruction"] = base64_of(reconstruction(judged, index))
        if options.explain:
            words, reasons = why(judged, index)
            more |= {"words": words, "why": [{"statistic": name, "z": z} for name, z in reasons if math.isfinite(z)]}
        found.append(more)
    return found


@api.get("/v1/screens", tags=["screens"], summary="List the screens")
async def screens(request: Request) -> list[ScreenOut]:
    """Each with its default version."""
    shelf = service_of(request).shelf
    return [await asyncio.to_thread(_describe, shelf.get(name), shelf.versions(name)) for name in shelf.names]


@api.get("/v1/screens/{name}", tags=["screens"], summary="Describe a screen", responses=problems(404, 422))
async def describe(request: Request, name: Name) -> ScreenOut:
    """Its default version."""
    shelf = service_of(request).shelf
    return await asyncio.to_thread(_describe, shelf.get(name), shelf.versions(name))


@api.post("/v1/reload", tags=["screens"], summary="Look for new versions now")
async def reload(request: Request) -> list[ScreenOut]:
    """Return the screens that were loaded; requests being served keep the version they began with."""
    shelf, loaded = service_of(request).shelf, await service_of(request).reloads.look()
    return [await asyncio.to_thread(_describe, served, shelf.versions(served.name)) for served in loaded]


@api.get(
    "/v1/screens/{name}/drift", tags=["screens"], summary="Has the stream drifted?", responses=problems(404, 422, 503)
)
async def drift(request: Request, name: Name) -> DriftOut:
    """Of the default version, since it was first served from this store."""
    service = service_of(request)
    return await _drift(service, service.shelf.get(name))


@api.delete(
    "/v1/screens/{name}/drift", tags=["screens"], summary="Watch for drift anew", responses=problems(404, 422, 503)
)
async def forget_drift(request: Request, name: Name) -> DriftOut:
    """Forget what has come so far, and an alarm; of the default version."""
    service = service_of(request)
    served = service.shelf.get(name)
    try:
        await asyncio.to_thread(service.watch.begin_anew, served.name, served.version, served.screen)
    except SQLAlchemyError as error:
        raise Unavailable("the store does not answer", 5) from error
    return await _drift(service, served)


async def _drift(service: Service, served: Served) -> DriftOut:
    monitor, moved = await asyncio.to_thread(service.watch.state, served.name, served.version, served.screen)
    alarm = monitor.alarm
    return DriftOut(
        screen=served.name,
        version=served.version,
        seen=monitor.seen,
        martingale=monitor.martingale,
        threshold=1 / service.settings.drift_false_alarm,
        alarm=alarm is not None,
        alarm_at=alarm.at if alarm else None,
        began=alarm.began if alarm else None,
        moved=[MovedOut(statistic=one.words, shift=one.shift, p_value=one.p_value, moved=one.moved) for one in moved],
    )


def _describe(served: Served, versions: list[str]) -> ScreenOut:
    screen = served.screen
    sizes = screen.calibrator.sizes
    return ScreenOut(
        name=served.name,
        version=served.version,
        versions=versions,
        fingerprint=served.fingerprint,
        detector=screen.detector.name,
        shape=list(screen.detector.shape),
        score=screen.score,
        alpha=screen.alpha,
        threshold=screen.threshold if math.isfinite(screen.threshold) else None,
        false_alarm_interval=list(screen.false_alarm_interval),
        promise=promise(screen),
        calibration_images=sum(sizes.values()),
        groups=None if screen.calibrator.groups is None else sorted(str(group) for group in sizes),
        smallest_alpha=smallest_alpha(min(sizes.values()), screen.confidence, screen.guarantee),
        classes=list(served.guard.classes or ()) if served.guard.speaks else None,
    )


class Chosen(BaseModel):
    """Which events are asked for."""

    model_config = ConfigDict(extra="forbid")

    screen: str = Field("", max_length=64)
    version: str = Field("", max_length=64, description="of the screen")
    verdict: Literal["", "inlier", "outlier", "invalid", "flagged", "sample", "review"] = Field(
        "", description="flagged: not an inlier; sample: a random tenth of all; review: either of these"
    )
    label: Literal["", "inlier", "outlier", "skip", "none"] = Field("", description="none: not labelled yet")
    before: int | None = Field(None, ge=0, le=_LARGEST_NUMBER, description="only events with a smaller number")
    after: int | None = Field(None, ge=0, le=_LARGEST_NUMBER, description="only events with a larger number")

    def filter(self) -> Filter:
        """Return the same for the store."""
        return Filter(**self.model_dump(include={"screen", "version", "verdict", "label", "before", "after"}))


class ChosenPage(Chosen):
    """A page of the events that are asked for."""

    limit: int = Field(100, ge=1, le=1000)


@api.get("/v1/events", tags=["events"], summary="List events, newest first", responses=problems(422, 503))
async def events(request: Request, chosen: Annotated[ChosenPage, Query()]) -> Events:
    """A page at a time."""
    rows = await service_of(request).store.rows(chosen.filter(), chosen.limit)
    last = rows[-1]["number"] if len(rows) == chosen.limit else None
    return Events(events=[EventOut(**row) for row in rows], before=last)


@api.get(
    "/v1/events.csv",
    tags=["events"],
    summary="All chosen events as a table, oldest first",
    response_class=Response,
    responses={200: {"content": {"text/csv": {}}}, **problems(422, 503)},
)
async def events_as_table(request: Request, chosen: Annotated[Chosen, Query()]) -> Response:
    """With their labels, and the statistics that served screens look at, as `recondite monitor` reads them."""
    return StreamingResponse(
        await csv_of(service_of(request), chosen.filter()),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="events.csv"'},
    )


@api.get(
    "/v1/events.zip",
    tags=["events"],
    summary="The kept images of all chosen events, a folder for each label",
    response_class=Response,
    responses={200: {"content": {"application/zip": {}}}, **problems(422, 503)},
)
async def events_as_folder(request: Request, chosen: Annotated[Chosen, Query()]) -> Response:
    """To fit or recalibrate a screen with; images that were not kept, or have been deleted, are left out."""
    path = await folder_of(service_of(request), chosen.filter())
    remove = BackgroundTask(path.unlink, missing_ok=True)
    return FileResponse(path, media_type="application/zip", filename="events.zip", background=remove)


async def csv_of(service: Service, chosen: Filter) -> AsyncIterator[str]:
    """Return the lines of a table of events, once the store has answered: what has begun to be sent looks whole."""
    columns = [name for name in EventOut.model_fields if name != "statistics"]
    statistics = _statistics(service, chosen.screen)
    # With the probability of being drawn, `recondite recalibrate` knows that these labels are of a random sample.
    sampled = [SAMPLED] if chosen.verdict in ("sample", "review") else []
    rows = service.store.walk(chosen)
    first = await anext(rows, None)

    def line(row: dict[str, Any]) -> str:
        found = [row["statistics"].get(name) for name in statistics]
        drawn = 1.0 if chosen.verdict == "review" and row["verdict"] != "inlier" else SAMPLED_SHARE
        return csv_line([*(row[name] for name in columns), *(drawn for _ in sampled), *found])

    async def lines() -> AsyncIterator[str]:
        yield csv_line([*columns, *sampled, *(STATISTIC + name for name in statistics)])
        if first is not None:
            yield line(first)
        async for row in rows:
            yield line(row)

    return lines()


def _statistics(service: Service, screen: str) -> list[str]:
    """Return the statistics that the served versions of a screen, or of all screens, look at."""
    looked_at = (served.screen for served in service.shelf.all() if screen in ("", served.name))
    return sorted({name for one in looked_at if one.score != ERROR for name in one.observations})


@api.get("/v1/events/{event}", tags=["events"], summary="One event", responses=problems(404, 422, 503))
async def event(request: Request, event: EventId) -> EventOut:
    """With its statistics and its current label."""
    return EventOut(**await service_of(request).store.get(event))


@api.get(
    "/v1/events/{event}/image",
    tags=["events"],
    summary="The image of an event, where it was kept",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}, **problems(404, 422, 503)},
)
async def event_image(request: Request, event: EventId) -> Response:
    """As it came; never shown by a browser in place."""
    service = service_of(request)
    row = await service.store.get(event)
    content = await asyncio.to_thread(service.judge.kept.get, row["sha256"])
    if content is None:
        raise Unknown("this image was not kept, or has been deleted since")
    headers = {"Content-Disposition": f'attachment; filename="{row["sha256"]}{suffix_of(content)}"'}
    return Response(content, media_type="application/octet-stream", headers=headers)


@api.post(
    "/v1/events/{event}/labels",
    tags=["events"],
    summary="Say what an image really is",
    status_code=201,
    responses=problems(404, 422, 503),
)
async def label(request: Request, event: EventId, said: LabelIn) -> EventOut:
    """The last label counts; all are kept."""
    store = service_of(request).store
    await store.label(event, said.label, said.note)
    return EventOut(**await store.get(event))


@api.head("/healthz", include_in_schema=False)
@api.get("/healthz", tags=["health"], summary="Is the process alive?")
async def healthz() -> dict[str, str]:
    """It answers, so it is."""
    return {"status": "alive"}


@api.head("/readyz", include_in_schema=False)
@api.get("/readyz", tags=["health"], summary="Can it serve?", responses={503: {"description": "not now, and why"}})
async def readyz(request: Request) -> Response:
    """Ready: all screens are loaded, the store answers, and it is not going down."""
    service = service_of(request)
    trouble = await service.trouble()
    body = {
        "status": "not ready" if trouble else "ready",
        "trouble": trouble,
        "failed_reloads": sorted(service.shelf.failures),
    }
    return JSONResponse(body, 503 if trouble else 200)


@api.get(
    "/metrics",
    tags=["health"],
    summary="Counters for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
async def metrics(request: Request) -> Response:
    """In its text format."""
    return Response(await service_of(request).metrics(), media_type=CONTENT_TYPE)

"""Batch jobs over HTTP: sent, looked at, their tables and reports."""

import asyncio
from dataclasses import asdict
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, Response

from recondite.errors import InputError
from recondite.service.engine.jobs import Jobs, State
from recondite.service.errors import Refused, TooLarge, TooSlow, Unknown
from recondite.service.routes.state import service_of
from recondite.service.routes.strict import strict_query
from recondite.service.routes.v1 import problems

JOBS = "/v1/jobs"
_LONGEST_WAIT = 60.0
jobs = APIRouter(
    prefix=JOBS, tags=["jobs"], dependencies=[Depends(strict_query)], responses=problems(400, 401, 403, 404, 422)
)
JobId = Annotated[str, Path(description="of a job", max_length=64)]


class JobOptions(BaseModel):
    """What a job asks for."""

    model_config = ConfigDict(extra="forbid")

    screen: str = Field(max_length=64)
    version: str | None = Field(None, max_length=64, description="of the screen; its default by default")
    alpha: float | None = Field(None, gt=0, lt=1, description="the false-alarm rate; that of the screen by default")
    group: str = Field("", max_length=200, description="of the calibration, where the screen has groups")
    place: str = Field("", max_length=2000, description="folder or address of the images, in place of a body")


class JobOut(BaseModel):
    """A job as it stands."""

    id: str
    time: float = Field(description="seconds since 1970, when it came")
    screen: str
    version: str
    alpha: float | None
    group: str
    place: str = Field(description="of the images; empty for an archive that was sent")
    state: State
    images: int | None
    judged: int
    counts: dict[str, int] = Field(description="of each verdict, so far")
    error: str | None = Field(description="why it failed")


_KINDS = ("application/zip", "application/x-tar", "application/octet-stream")
_ARCHIVE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


@jobs.post(
    "",
    status_code=202,
    summary="Judge the images of an archive, or of a place that the configuration allows, in the background",
    openapi_extra={"requestBody": {"content": dict.fromkeys(_KINDS, _ARCHIVE)}},
    responses=problems(408, 413, 429),
)
async def begin(request: Request, options: Annotated[JobOptions, Query()]) -> JobOut:
    """Send a ZIP file, or a TAR file that is not compressed; or name a place."""
    found = _jobs_of(request)
    service_of(request).shelf.get(options.screen, options.version)  # before anything is received
    archive = found.receive()
    try:
        if options.place:
            await _refuse_body(request)
        else:
            await received(request, archive, service_of(request).settings.job_bytes)
        asked = options.model_dump(include={"alpha", "group", "place"})
        return JobOut(**asdict(await found.begin(archive, options.screen, options.version, **asked)))
    except BaseException:
        found.discard(archive)
        raise


@jobs.get("", summary="All jobs, newest first")
async def listed(request: Request) -> list[JobOut]:
    """Each as it stands."""
    return [JobOut(**asdict(job)) for job in _jobs_of(request).all()]


@jobs.get("/{job}", summary="One job as it stands")
async def one(request: Request, job: JobId) -> JobOut:
    """With how many images have been judged."""
    return JobOut(**asdict(_jobs_of(request).get(job)))


@jobs.get(
    "/{job}/table.csv",
    summary="The table of a job",
    response_class=Response,
    responses={200: {"content": {"text/csv": {}}}},
)
async def table(request: Request, job: JobId) -> Response:
    """The rows so far, in the columns of `recondite predict`."""
    path = _jobs_of(request).table(job)
    if not path.is_file():
        raise Unknown("this job has no table yet")
    return FileResponse(path, media_type="text/csv; charset=utf-8", filename=f"{job}.csv")


@jobs.get(
    "/{job}/report",
    summary="The report of a job that is done",
    response_class=Response,
    responses={200: {"content": {"text/html": {}}}},
)
async def report(request: Request, job: JobId) -> Response:
    """One HTML file with counts, distributions and what is invalid, without pictures of the images."""
    path = await _jobs_of(request).report(job)
    return FileResponse(path, media_type="text/html; charset=utf-8", filename=f"{job}.html")


@jobs.delete("/{job}", status_code=204, response_class=Response, summary="Remove a job and its table")
async def delete(request: Request, job: JobId) -> Response:
    """One that runs ends after the images being judged."""
    await _jobs_of(request).delete(job)
    return Response(status_code=204)


def _jobs_of(request: Request) -> Jobs:
    found = service_of(request).jobs
    if found is None:
        raise Unknown("this service takes no jobs: it was started without --jobs")
    return found


async def _refuse_body(request: Request) -> None:
    async for chunk in request.stream():
        if chunk:
            raise InputError("expected an archive or a place; got both")


async def received(request: Request, path: FilePath, most: int) -> None:
    """Write the body of a request into a file, in bounded memory; a client may be slow, but must not stall."""
    written = 0
    stream = request.stream().__aiter__()
    with await asyncio.to_thread(path.open, "wb") as file:
        while True:
            try:
                async with asyncio.timeout(_LONGEST_WAIT):
                    chunk = await anext(stream, None)
            except TimeoutError:
                raise TooSlow(f"nothing more arrived within {_LONGEST_WAIT:g} seconds") from None
            except ClientDisconnect:
                raise Refused("the client went away before its body had arrived") from None
            if chunk is None:
                return
            written += len(chunk)
            if written > most:
                raise TooLarge(f"expected an archive of at most {most:,} bytes")
            await asyncio.to_thread(file.write, chunk)

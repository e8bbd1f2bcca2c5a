"""The service as an ASGI application."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import cached_property, partial

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

import recondite
from recondite.errors import ArtifactError, InputError, ReconditeError
from recondite.screen.screen import Screen
from recondite.service.engine.drafts import ARCHIVES, Drafts
from recondite.service.engine.drift import DriftWatch
from recondite.service.engine.following import Follower
from recondite.service.engine.jobs import Jobs
from recondite.service.engine.judging import Judge
from recondite.service.engine.outlets import Outlets
from recondite.service.engine.registry import Shelf
from recondite.service.engine.reloads import Reloads
from recondite.service.engine.store import Event, Store
from recondite.service.errors import Failed, Refused, Unavailable, Unusable, unavailable
from recondite.service.log import LOG
from recondite.service.metrics import Counters
from recondite.service.routes.fast_path import FastPath, Shortcut, no_options, reader_of
from recondite.service.routes.jobs import JOBS, jobs
from recondite.service.routes.middleware import FAILED, RequestGate, Tokens, problem, refusal_of
from recondite.service.routes.paths import Paths, of_page
from recondite.service.routes.state import Service
from recondite.service.routes.v1 import Options, answer_predict, api
from recondite.service.routes.v2 import answer_infer, v2
from recondite.service.settings import Settings
from recondite.service.shared_metrics import SharedMetrics
from recondite.service.sharing import Worker, path_of_first
from recondite.statistics.scores import Verdicts

_METRICS_SECONDS, _LONGEST_GOODBYE = 1.0, 60.0
_DESCRIPTION = (
    "Judges images at a false-alarm rate you choose. Every verdict is written down before it is given, as an event "
    "that people can label. Where a token is needed: Authorization: Bearer TOKEN."
)


def create_app(settings: Settings, worker: Worker | None = None) -> FastAPI:
    """Return the application; screens are loaded, and the store is opened, when it starts.

    Args:
        settings: of the service.
        worker: which of several this process is; None for the only one.

    Raises:
        InputError, ArtifactError: when it starts, if a screen cannot be loaded or the store cannot be opened.
    """
    counters, tokens = Counters(), Tokens(settings.tokens)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                app.state.service = await stack.enter_async_context(_running(settings, counters, tokens, worker))
            except ReconditeError as error:
                app.state.why_not = str(error)
                raise
            yield

    app = _App(
        title="Recondite",
        version=recondite.__version__,
        description=_DESCRIPTION,
        lifespan=life,
        docs_url=None,  # the usual documentation pages load their scripts from elsewhere
        redoc_url=None,
    )
    app.has_page = settings.page and (worker is None or worker.is_first)
    app.is_first = worker is None or worker.is_first
    app.include_router(api)
    app.include_router(v2)
    app.include_router(jobs)
    shortcuts = [
        Shortcut("/v1/screens", "predict", reader_of(Options), answer_predict),
        Shortcut("/v2/models", "infer", no_options, answer_infer),
    ]
    app.front = RequestGate(
        FastPath(app.behind, shortcuts, _refused),
        tokens=tokens,
        counters=counters,
        limits=settings.limits,
        larger={JOBS: settings.job_bytes, ARCHIVES: settings.job_bytes},
        hosts=settings.hosts,
        paths=lambda: app.paths,
    )
    app.add_exception_handler(ReconditeError, _on_error)
    app.add_exception_handler(Exception, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    return app


class _App(FastAPI):
    """The framework, with what every request passes in front of it."""

    front: ASGIApp
    has_page: bool
    is_first: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self.front(scope, receive, send)

    async def behind(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the framework does, which for the page's library is whatever it has no route for."""
        if not self.is_first and scope["type"] in ("http", "websocket") and path_of_first(scope["path"]):
            await _elsewhere(scope, receive, send)
            return
        if scope["type"] == "http" and not (self.has_page and of_page(scope["path"])):
            methods = self.paths.methods(scope["path"])
            if scope["method"] not in methods:
                response = problem(
                    refusal_of(405, "Method Not Allowed") if methods else refusal_of(404, "Not Found"), scope
                )
                if methods:
                    response.headers["Allow"] = ", ".join(methods)
                await response(scope, receive, send)
                return
        await super().__call__(scope, receive, send)

    @cached_property
    def paths(self) -> Paths:
        """What there is; asked for when nothing more is added."""
        return Paths(self.router.routes)


async def _elsewhere(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer what the first worker answers; its connection could not be handed over (see `sharing`)."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1013})
    else:
        refusal = Unavailable("send this over a connection of its own, its head at once: one worker answers it", 1)
        await problem(refusal, scope)(scope, receive, send)


@asynccontextmanager
async def _running(
    settings: Settings, counters: Counters, tokens: Tokens, worker: Worker | None
) -> AsyncIterator[Service]:
    store = Store(settings.store)
    watch = DriftWatch(counters, settings.webhook, settings.drift_false_alarm, store)
    is_first = worker is None or worker.is_first
    outlets = Outlets(settings, counters) if is_first else None

    def told_of(name: str, version: str, _: Screen | None, events: Sequence[Event], verdicts: Verdicts) -> None:
        counters.judged(name, version, verdicts, time.time())
        if outlets is not None:
            outlets.offer(events)

    def written(name: str, version: str, screen: Screen | None, events: Sequence[Event], verdicts: Verdicts) -> None:
        told_of(name, version, screen, events, verdicts)
        if screen is not None:
            watch.judged(name, version, screen, verdicts, [event.group for event in events])

    judge = Judge(settings, store, counters, written if worker is None else None)

    def told(name: str, version: str, error: str | None) -> None:
        counters.loads.labels(name, "failed" if error else "loaded").inc()
        facts = {"screen": name, "version": version, **({"error": error} if error else {})}
        LOG.log(logging.ERROR if error else logging.INFO, "screen", extra={"facts": facts})

    tasks: list[asyncio.Task[None]] = []
    follower: Follower | None = None
    metrics = None if worker is None else SharedMetrics(counters, worker)
    service = None
    try:
        shelf = Shelf(settings.screens, judge.line, told, settings.collection)
        reloads = Reloads(shelf, worker, watch)
        await reloads.begin()
        missing = [name for name in shelf.names if not shelf.versions(name)]
        if missing:
            raise ArtifactError(_why_missing(missing, shelf.failures))
        if not shelf.names:
            LOG.warning("there is no screen yet: make one on the page")
        service = Service(
            settings=settings,
            shelf=shelf,
            reloads=reloads,
            store=store,
            judge=judge,
            watch=watch,
            counters=counters,
            tokens=tokens,
            shared=metrics,
        )
        if settings.jobs is not None and is_first:
            service.jobs = Jobs(settings.jobs, shelf, judge, settings.job_places, settings.limits)
            tasks.append(asyncio.create_task(service.jobs.work()))
        if settings.new_screens and settings.collection is not None and is_first:
            service.drafts = Drafts(settings.collection, settings.limits, settings.job_bytes)
        if settings.reload_seconds > 0 and is_first:
            tasks.append(asyncio.create_task(_again_and_again(settings.reload_seconds, reloads.look)))
        if settings.keep_days is not None and is_first:
            expire = partial(asyncio.to_thread, judge.kept.expire)
            tasks.append(asyncio.create_task(_again_and_again(min(3600, 8640 * settings.keep_days), expire)))
        if worker is not None and metrics is not None:
            if is_first:
                follower = Follower(store, shelf, max(worker.after, metrics.after), told_of, watch)
            else:
                tasks.append(asyncio.create_task(reloads.follow()))
            write = partial(asyncio.to_thread, metrics.write, follower)
            tasks.append(asyncio.create_task(_again_and_again(_METRICS_SECONDS, write)))
        yield service
        if worker is not None and is_first:
            await worker.until_alone(_LONGEST_GOODBYE)  # what the others still write is to be counted
    finally:
        if service is not None and service.drafts is not None:
            await service.drafts.close()
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.to_thread(judge.close)
        if follower is not None:
            await asyncio.to_thread(follower.close)
        await asyncio.to_thread(watch.close)
        await asyncio.to_thread(store.close)
        if outlets is not None:
            await asyncio.to_thread(outlets.close)
        if metrics is not None:
            await asyncio.to_thread(metrics.write, follower)


async def _again_and_again(seconds: float, work: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await work()
        except Exception:  # the next time it may work
            LOG.exception("something that is done again and again failed")
        await asyncio.sleep(seconds)


def _why_missing(names: list[str], failures: dict[str, str]) -> str:
    reasons = [*failures.values()] or ["there is no screen in the folder"]
    return f"{', '.join(names)}: {'; '.join(reasons)}"


async def _on_error(request: Request, error: Exception) -> Response:
    if isinstance(error, Refused):
        return problem(error, request.scope)
    if isinstance(error, InputError):
        refusal: Refused = Refused(str(error)) if request.url.path.startswith("/v2") else Unusable(str(error))
        return problem(refusal, request.scope)
    LOG.error("failed", exc_info=error)
    return problem(unavailable(error) or Failed(FAILED), request.scope)


async def _refused(request: Request, error: Exception) -> Response:
    return await (_on_http if isinstance(error, HTTPException) else _on_error)(request, error)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return problem(Unusable(f"{where}: {first['msg']}"), request.scope)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = problem(refusal_of(error.status_code, str(error.detail)), request.scope)
    response.headers.update(error.headers or {})
    return response

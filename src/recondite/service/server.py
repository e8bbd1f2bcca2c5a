"""The server process: address, signals, and a graceful shutdown that finishes what was accepted."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing import parent_process
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from recondite.errors import InputError
from recondite.service.app import create_app
from recondite.service.connections import allow_files, connections_of
from recondite.service.handing_over import Acceptor, Giver
from recondite.service.log import LOG
from recondite.service.settings import Settings
from recondite.service.sharing import Worker
from recondite.service.start import LONGEST_DRAIN, begin

_SWITCH_SECONDS, _BEAT_SECONDS = 0.0005, 0.5


def serve(settings: Settings, host: str, port: int, *, everybody: bool = False, drain_seconds: float = 0.0) -> None:
    """Serve until SIGTERM or SIGINT, then answer what was accepted, and return.

    Args:
        settings: of the service.
        host, port: where to listen.
        everybody: let everybody in who reaches the port, though it is open to other machines and no token is asked for.
        drain_seconds: how long to be not ready, and still serve, before the port is closed, so that a load balancer
            sees it.

    Raises:
        InputError: the address cannot be taken, or is open to other machines and neither a token nor `everybody` was
            given; or a screen, the store or the kept images cannot be used.
    """
    sockets = begin(settings, host, port, everybody, drain_seconds)
    try:
        run(settings, sockets, drain_seconds)
    finally:
        for one in sockets:
            one.close()


def run(
    settings: Settings,
    sockets: list[socket.socket],
    drain_seconds: float = 0.0,
    worker: Worker | None = None,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve in this process, until SIGTERM or SIGINT.

    Args:
        settings: of the service.
        sockets: that are bound.
        drain_seconds: as of `serve`.
        worker: which of several this is; None for the only one. It ends when the process that started it has.
        ready: called when it has begun.

    Raises:
        InputError: it could not begin.
    """
    host, port = sockets[0].getsockname()[:2]
    allow_files(settings.limits.connections)
    # Requests shall not wait long for the interpreter while a batch is being scored in another thread.
    sys.setswitchinterval(_SWITCH_SECONDS)
    app = create_app(settings, worker)
    if settings.page and (worker is None or worker.is_first):
        from recondite.service.page import add_page

        add_page(app, settings)
    give_away = None if worker is None or worker.is_first else Giver(worker)
    config = uvicorn.Config(
        app,
        http=connections_of(settings.limits.connections, give_away),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=LONGEST_DRAIN,
        timeout_keep_alive=20,
        ws_max_size=settings.limits.body_bytes,
    )
    server = _Server(config, app, drain_seconds, worker, ready)
    try:
        server.run(sockets)
    except SystemExit:
        pass  # how it ends where it cannot start
    except OSError as error:
        if server.started:
            raise
        raise InputError(f"port {port} of {host} cannot be taken: {error.strerror or error}") from error
    if not server.started:
        raise InputError(getattr(app.state, "why_not", "the service did not start; its log says why"))


class _Server(uvicorn.Server):
    """Tells the service that it is going down, and closes the port when a load balancer has seen it."""

    def __init__(
        self,
        config: uvicorn.Config,
        app: FastAPI,
        drain_seconds: float,
        worker: Worker | None,
        ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._app, self._drain_seconds, self._worker, self._ready = app, drain_seconds, worker, ready
        self._acceptor: Acceptor | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._worker is None:
            await super().startup(sockets)
        else:
            loop = asyncio.get_running_loop()
            self._beat(loop, self._worker)
            await super().startup([])
            self._acceptor = Acceptor(loop, sockets or (), self._worker, self._connection, self._open_now)
            parent = parent_process()
            if parent is not None:
                loop.add_reader(parent.sentinel, self._orphaned, parent.sentinel)
        addresses = ["{}:{}".format(*one.getsockname()[:2]) for one in sockets or ()]
        own = {} if self._worker is None else {"worker": self._worker.number, "process": os.getpid()}
        LOG.log(logging.INFO, "listening", extra={"facts": {"addresses": addresses, **own}})
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        if self._acceptor is not None:
            self._acceptor.count()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        service = getattr(self._app.state, "service", None)
        if self.should_exit:
            self.force_exit = sig == signal.SIGINT  # asked a second time from the keyboard
        elif service is None or service.draining or not self._drain_seconds:
            self.should_exit = True
        else:
            service.draining = True
            LOG.log(logging.INFO, "draining", extra={"facts": {"seconds": self._drain_seconds}})
            asyncio.get_running_loop().call_later(self._drain_seconds, self._end)

    def _beat(self, loop: asyncio.AbstractEventLoop, worker: Worker) -> None:
        """Say again and again that this worker is well, until it has ended."""
        service = getattr(self._app.state, "service", None)
        if service is None or not service.hangs:
            worker.numbers.beat(worker.number)
        loop.call_later(_BEAT_SECONDS, self._beat, loop, worker)

    def _end(self) -> None:
        self.should_exit = True

    def _orphaned(self, sentinel: int) -> None:
        asyncio.get_running_loop().remove_reader(sentinel)
        self.handle_exit(signal.SIGTERM, None)

    def _open_now(self) -> int:
        return len(self.server_state.connections)

    def _connection(self, first: bytes) -> asyncio.Protocol:
        made: Any = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=asyncio.get_running_loop(),
        )
        made.first = first
        protocol: asyncio.Protocol = made
        return protocol

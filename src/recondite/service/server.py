"""The server process: address, signals, and a graceful shutdown that finishes what was accepted."""

import asyncio
import logging
import signal
import socket
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from recondite.errors import InputError
from recondite.service.app import create_app
from recondite.service.connections import allow_files, connections_of
from recondite.service.log import LOG, log_to_stderr
from recondite.service.settings import Settings
from recondite.service.start import check_address, check_settings, taken_port

_LONGEST_DRAIN = 60
_SWITCH_SECONDS = 0.0005


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
    check_address(settings, host, port, everybody)
    if drain_seconds < 0:
        raise InputError(f"expected drain_seconds >= 0; got {drain_seconds!r}")
    check_settings(settings)
    sockets = taken_port(host, port)
    log_to_stderr()
    allow_files(settings.limits.connections)
    # Requests shall not wait long for the interpreter while a batch is being scored in another thread.
    sys.setswitchinterval(_SWITCH_SECONDS)
    app = create_app(settings)
    if settings.page:
        from recondite.service.page import add_page

        add_page(app, settings)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=connections_of(settings.limits.connections),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_LONGEST_DRAIN,
        timeout_keep_alive=20,
        ws_max_size=settings.limits.body_bytes,
    )
    server = _Server(config, app, drain_seconds)
    try:
        server.run(sockets)
    except SystemExit:
        pass  # how it ends where it cannot start
    except OSError as error:
        if server.started:
            raise
        raise InputError(f"port {port} of {host} cannot be taken: {error.strerror or error}") from error
    finally:
        for one in sockets:
            one.close()
    if not server.started:
        raise InputError(getattr(app.state, "why_not", "the service did not start; its log says why"))


class _Server(uvicorn.Server):
    """Tells the service that it is going down, and closes the port when a load balancer has seen it."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_seconds: float) -> None:
        super().__init__(config)
        self._app, self._drain_seconds = app, drain_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        addresses = ["{}:{}".format(*one.getsockname()[:2]) for one in sockets or ()]
        LOG.log(logging.INFO, "listening", extra={"facts": {"addresses": addresses}})

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

    def _end(self) -> None:
        self.should_exit = True

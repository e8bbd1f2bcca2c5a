"""The server process: address, signals, and a graceful shutdown that finishes what was accepted."""

import asyncio
import logging
import signal
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from recondite.errors import InputError
from recondite.service.app import create_app
from recondite.service.routes.middleware import LOG, log_to_stderr
from recondite.service.settings import Settings

_LONGEST_DRAIN = 60
_SWITCH_SECONDS = 0.0005
_LOCAL = ("127.0.0.1", "::1", "localhost")


def serve(settings: Settings, host: str, port: int, *, everybody: bool = False, drain_seconds: float = 0.0) -> None:
    """Serve until SIGTERM or SIGINT, then answer what was accepted, and return.

    Args:
        settings: of the service.
        host, port: where to listen.
        everybody: let everybody in who reaches the port, though it is open to other machines and no token is asked for.
        drain_seconds: how long to be not ready, and still serve, before the port is closed, so that a load balancer
            sees it.

    Raises:
        InputError: the port is open to other machines and neither a token nor `everybody` was given.
    """
    check_open(settings, host, everybody)
    log_to_stderr()
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
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=settings.limits.connections,
        timeout_graceful_shutdown=_LONGEST_DRAIN,
        timeout_keep_alive=20,
        ws_max_size=settings.limits.body_bytes,
    )
    server = _Server(config, app, drain_seconds)
    server.run()
    if not server.started:
        raise InputError("the service did not start; its log says why")


def check_open(settings: Settings, host: str, everybody: bool) -> None:
    """Raise InputError if the address is open to other machines and neither a token nor `everybody` was given."""
    if host not in _LOCAL and not settings.tokens and not everybody:
        raise InputError(f"{host} is open to other machines: give a --token, or --allow-public to let everybody in")


class _Server(uvicorn.Server):
    """Tells the service that it is going down, and closes the port when a load balancer has seen it."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_seconds: float) -> None:
        super().__init__(config)
        self._app, self._drain_seconds = app, drain_seconds

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

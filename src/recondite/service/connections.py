"""Connections that send nothing are given up: for want of a request, or for others when there are too many."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

_HEAD_SECONDS = 20.0
"""Until the head of a request has come, from the connection or from its first byte."""
_SPARE_FILES = 256
_MALFORMED = {"error": {"code": "bad_request", "message": "this is not a request in HTTP/1.1", "request_id": ""}}
GiveAway = Callable[[asyncio.BaseTransport, bytes, asyncio.Protocol], bool]
"""Given a connection and the request that has come over it; returns whether the connection is for somebody else."""


def connections_of(most: int, give_away: GiveAway | None = None) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol of a connection, such that only those with a request keep others out.

    Args:
        most: connections that may be open before idle ones are closed for new ones.
        give_away: asked about each request; None where all stay.
    """
    facts = {"most": most, "give_away": None if give_away is None else staticmethod(give_away)}
    made: type[asyncio.Protocol] = type("Connection", (_Connection, AutoHTTPProtocol), facts)
    return made


def allow_files(connections: int) -> None:
    """Let the process have as many connections open at once, as far as it may."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = connections + _SPARE_FILES
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard < 0 else min(wanted, hard), hard))


class _Connection(asyncio.Protocol):
    """In front of uvicorn's protocol, whose `cycle` is the request that came last, and `connections` all there are."""

    most: int
    give_away: GiveAway | None
    connections: set[Any]
    cycle: Any
    loop: asyncio.AbstractEventLoop
    server_state: Any
    first = b""
    """What came before the connection was given to this process."""
    _between = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._transport, self._seen = transport, None
        self._heard = self.loop.time()
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(_HEAD_SECONDS, self._give_up)
        if len(self.connections) > self.most:
            idle = [one for one in self.connections if isinstance(one, _Connection) and one.idle and one is not self]
            if idle:
                min(idle, key=lambda one: (one._seen is not None, one._heard))._transport.close()
        if self.first:
            self.data_received(self.first)

    def data_received(self, data: bytes) -> None:
        if self.give_away is not None and self._between and self.idle and self.give_away(self._transport, data, self):
            self._stop()
            return
        super().data_received(data)
        self._heard = self.loop.time()
        if self.cycle is not self._seen or self._upgraded:
            self._seen = self.cycle
            self._stop()
        elif self.idle and self._timer is None:
            self._timer = self.loop.call_later(_HEAD_SECONDS, self._give_up)

    def on_message_begin(self) -> None:
        self._between = False
        super().on_message_begin()  # type: ignore[misc]

    def on_message_complete(self) -> None:
        self._between = True
        super().on_message_complete()  # type: ignore[misc]

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Say in JSON that what came is no request."""
        body = json.dumps(_MALFORMED).encode()
        heads = [*self.server_state.default_headers, (b"content-type", b"application/json")]
        heads += [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        lines = [b"HTTP/1.1 400 Bad Request", *(b": ".join(head) for head in heads), b"", body]
        self._transport.write(b"\r\n".join(lines))  # type: ignore[attr-defined]
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    @property
    def idle(self) -> bool:
        """Whether no request is being served."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _upgraded(self) -> bool:
        return getattr(self._transport, "get_protocol", lambda: self)() is not self

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.idle and not self._upgraded:
            self._transport.close()

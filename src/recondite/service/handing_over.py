"""Connections among the workers of one service: each takes its share, and gives to the first what is for the first.

A connection goes to the first worker as what it is, an open socket, with the bytes of the request that has begun. From
then on the client talks to the first worker; it notices nothing.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from recondite.service.log import LOG
from recondite.service.sharing import Worker, belongs_to_first

_BACKLOG = 2048
_LARGEST_MESSAGE = 1 << 19
_LET_PASS, _WITHOUT_FILES = 0.005, 0.5
_AGAIN, _TRIES = 0.01, 1000


class Acceptor:
    """Takes connections from sockets that all workers share: at once, or a moment later while others have fewer.

    Args:
        loop: in which it works.
        sockets: that are bound.
        worker: which one takes them.
        make: makes the protocol of a connection, which is given bytes that have come already.
        open_now: how many connections there are.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Sequence[socket.socket],
        worker: Worker,
        make: Callable[[bytes], asyncio.Protocol],
        open_now: Callable[[], int],
    ) -> None:
        self._loop, self._sockets, self._worker, self._make, self._open_now = loop, sockets, worker, make, open_now
        self._closed = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self.count()
        for one in sockets:
            one.setblocking(False)
            one.listen(_BACKLOG)
            loop.add_reader(one, self._wake, one)
        if worker.is_first:
            worker.channel.setblocking(False)
            loop.add_reader(worker.channel, self._receive)

    def count(self) -> None:
        """Tell the others how many connections there are."""
        self._worker.numbers.connections[self._worker.number] = self._open_now()

    def close(self) -> None:
        """Take no more connections."""
        self._closed = True
        for one in self._sockets:
            self._loop.remove_reader(one)
        if self._worker.is_first:
            self._loop.remove_reader(self._worker.channel)

    def _wake(self, listening: socket.socket) -> None:
        self.count()
        if self._worker.has_more():
            self._pause(listening, _LET_PASS)
        else:
            self._accept(listening)

    def _pause(self, listening: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listening)
        self._loop.call_later(seconds, self._resume, listening)

    def _resume(self, listening: socket.socket) -> None:
        if not self._closed:
            self._loop.add_reader(listening, self._wake, listening)
            self._accept(listening)

    def _accept(self, listening: socket.socket) -> None:
        try:
            link, _ = listening.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                LOG.warning("a connection waits", extra={"facts": {"error": str(error)}})
                self._pause(listening, _WITHOUT_FILES)
            return  # another worker was faster, or the client is gone
        self._connect(link, b"")

    def _receive(self) -> None:
        with suppress(BlockingIOError):
            data, files, _, _ = socket.recv_fds(self._worker.channel, _LARGEST_MESSAGE, 1)
            for file in files:
                self._connect(socket.socket(fileno=file), data)

    def _connect(self, link: socket.socket, first: bytes) -> None:
        link.setblocking(False)
        with suppress(OSError):
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._connected(link, first))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connected(self, link: socket.socket, first: bytes) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: self._make(first), link)
        except OSError:
            link.close()  # the client is gone
        self.count()


class Giver:
    """Gives connections to the first worker.

    Args:
        worker: which one gives.
    """

    def __init__(self, worker: Worker) -> None:
        self._channel = worker.channel
        self._channel.setblocking(False)
        with suppress(OSError):
            self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _LARGEST_MESSAGE)

    def __call__(self, transport: Any, data: bytes, protocol: asyncio.Protocol) -> bool:
        """Give a connection away where its request, which has begun with `data`, is for the first worker."""
        if not belongs_to_first(data):
            return False
        transport.pause_reading()
        self._send(transport, data, protocol, _TRIES)
        return True

    def _send(self, transport: Any, data: bytes, protocol: Any, tries: int) -> None:
        if transport.is_closing():
            return
        try:
            socket.send_fds(self._channel, [data], [transport.get_extra_info("socket").fileno()])
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOBUFS) and tries:
                # While the first worker starts anew, a few wait for it in the channel, and others here.
                protocol.loop.call_later(_AGAIN, self._send, transport, data, protocol, tries - 1)
                return
            LOG.warning("a connection was not handed over", extra={"facts": {"error": str(error)}})
        transport.abort()

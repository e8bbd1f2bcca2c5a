"""Messages that wait in memory to be delivered in the background: nobody waits for them."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

M = TypeVar("M")
Deliver = Callable[[Sequence[M], int], None]
"""Delivers messages, the oldest first, and tells how many were dropped before; raises OSError or ValueError."""
_MOST_WAITING, _AT_ONCE = 10_000, 100
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


class Outbox(Generic[M]):
    """Delivers messages in their order in a thread of its own; what cannot be delivered is tried again.

    So many wait at most; over that the oldest are dropped.

    Args:
        name: of its thread.
        deliver: some of them.
        failed: told why a try failed.
        counted: told "sent" or "dropped" of how many messages.
        tries: after so many, longer and longer apart, messages are dropped; None to go on until they are delivered.
    """

    def __init__(
        self,
        name: str,
        deliver: Deliver[M],
        failed: Callable[[str], None],
        counted: Callable[[str, int], None],
        tries: int | None = None,
    ) -> None:
        self._deliver, self._failed, self._counted, self._tries = deliver, failed, counted, tries
        self._waiting: deque[M] = deque()
        self._dropped = 0
        self._news, self._closed = threading.Condition(), threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, messages: Iterable[M]) -> None:
        """Take in messages; returns at once."""
        with self._news:
            self._waiting.extend(messages)
            self._drop([self._waiting.popleft() for _ in range(len(self._waiting) - _MOST_WAITING)])
            self._news.notify()

    def close(self, seconds: float = 5.0) -> None:
        """Deliver what waits, for so long at most; what is left is dropped."""
        end = time.monotonic() + seconds
        with self._news:
            self._news.wait_for(lambda: not self._waiting, max(0.0, end - time.monotonic()))
            self._closed.set()
            self._drop(self._waiting)
            self._waiting.clear()
            self._news.notify_all()
        self._thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        failures = 0
        while some := self._next():
            dropped = self._dropped
            try:
                self._deliver(some, dropped)
            except (OSError, ValueError) as error:
                failures += 1
                self._failed(str(error))
                if failures == self._tries:
                    with self._news:
                        self._drop(self._taken_out(some))
                    failures = 0
                elif self._closed.wait(min(_FIRST_PAUSE * 2 ** (failures - 1), _LONGEST_PAUSE)):
                    return
            else:
                failures = 0
                self._counted("sent", len(some))
                with self._news:
                    self._dropped -= dropped
                    self._taken_out(some)

    def _next(self) -> list[M]:
        """Return what is delivered next when there is something; nothing when it is closed."""
        with self._news:
            self._news.wait_for(lambda: self._waiting or self._closed.is_set())
            return [self._waiting[index] for index in range(min(_AT_ONCE, len(self._waiting)))]

    def _taken_out(self, some: Sequence[M]) -> list[M]:
        """Take out those of some messages that have not been dropped meanwhile, and return them."""
        known, found = {id(one) for one in some}, []
        while self._waiting and id(self._waiting[0]) in known:
            found.append(self._waiting.popleft())
        self._news.notify_all()
        return found

    def _drop(self, messages: Sequence[M] | deque[M]) -> None:
        if messages:
            self._dropped += len(messages)
            self._counted("dropped", len(messages))

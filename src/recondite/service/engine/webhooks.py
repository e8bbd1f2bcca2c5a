"""Verdicts posted to an address of the operator's, in the background: no verdict waits for it."""

import json
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Sequence
from typing import Any

from recondite.service.engine.store import Event
from recondite.service.log import LOG

_MOST_WAITING, _AT_ONCE = 10_000, 100
_TRIES, _TIMEOUT = 6, 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


class VerdictHook:
    """Posts events whose p-value is small as JSON: {"event": "verdicts", "verdicts": [...], "dropped": 0}.

    Events wait in memory, so many at most; over that the oldest are dropped, and counted in the next message. What
    could not be delivered in a few tries, longer and longer apart, is dropped too. All of them stay in the store.

    Args:
        url: of http or https.
        p_value: events at or below it are posted, and invalid images too.
    """

    def __init__(self, url: str, p_value: float) -> None:
        self._url, self._p_value = url, p_value
        self._waiting: deque[Event] = deque()
        self._dropped = 0
        self._news = threading.Condition()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="verdict-hook", daemon=True)
        self._thread.start()

    def offer(self, events: Sequence[Event]) -> None:
        """Take in events that were written down; returns at once."""
        chosen = [event for event in events if event.p_value is None or event.p_value <= self._p_value]
        if chosen:
            with self._news:
                self._waiting.extend(chosen)
                while len(self._waiting) > _MOST_WAITING:
                    self._waiting.popleft()
                    self._dropped += 1
                self._news.notify()

    def close(self, seconds: float = 5.0) -> None:
        """Send what waits, for so long at most."""
        end = time.monotonic() + seconds
        with self._news:
            self._news.notify()
            self._news.wait_for(lambda: not self._waiting, max(0.0, end - time.monotonic()))
        self._closed.set()
        with self._news:
            self._news.notify_all()
        self._thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._closed.is_set())
                if self._closed.is_set():
                    return
                some = [self._waiting[index] for index in range(min(_AT_ONCE, len(self._waiting)))]
                dropped, self._dropped = self._dropped, 0
            delivered = self._deliver(
                {"event": "verdicts", "verdicts": [vars(one) for one in some], "dropped": dropped}
            )
            with self._news:
                # Meanwhile the oldest of them may have been dropped, and counted.
                sent = {one.id for one in some}
                while self._waiting and self._waiting[0].id in sent:
                    self._waiting.popleft()
                if not delivered:
                    self._dropped += dropped + len(some)
                self._news.notify_all()

    def _deliver(self, message: dict[str, Any]) -> bool:
        body, pause = json.dumps(message).encode(), _FIRST_PAUSE
        for left in reversed(range(_TRIES)):
            request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=_TIMEOUT):
                    return True
            except (OSError, ValueError) as error:
                LOG.warning("verdict webhook", extra={"facts": {"error": str(error), "tries_left": left}})
            if left and self._closed.wait(pause):
                return False
            pause = min(2 * pause, _LONGEST_PAUSE)
        return False

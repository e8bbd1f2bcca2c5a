"""The drift monitor over what the service judges, and who is told of an alarm."""

import json
import logging
import threading
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from recondite.errors import InputError
from recondite.monitor import Monitor, Moved
from recondite.scores import Verdicts
from recondite.screen import Screen
from recondite.service.counters import Counters
from recondite.service.gate import LOG

_TRIES = 3


class Watch:
    """A drift monitor for each version of each screen, fed in the order in which verdicts were written down.

    It works in a thread of its own, so that nobody waits for it, and begins anew with the process.

    Args:
        counters: hear of the martingale and of the alarm.
        webhook: an address that an alarm is posted to as JSON; None for none.
        false_alarm: the chance that a stream without drift ever raises an alarm, in (0, 1).
    """

    def __init__(self, counters: Counters, webhook: str | None, false_alarm: float) -> None:
        self._counters, self._webhook, self._false_alarm = counters, webhook, false_alarm
        self._monitors: dict[tuple[str, str], Monitor] = {}
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="watch")
        self._messenger = ThreadPoolExecutor(1, thread_name_prefix="webhook")

    def judged(self, name: str, version: str, screen: Screen, verdicts: Verdicts, groups: Sequence[str]) -> None:
        """Take in the verdicts of one request."""
        self._worker.submit(self._take, name, version, screen, verdicts, groups)

    def settle(self) -> None:
        """Wait until everything so far has been taken in."""
        self._worker.submit(int).result()

    def state(self, name: str, version: str) -> tuple[Monitor, list[Moved]] | None:
        """Return the monitor and what has moved; None before the first image."""
        with self._lock:
            monitor = self._monitors.get((name, version))
            return None if monitor is None else (monitor, monitor.moved())

    def close(self) -> None:
        """Take in what waits, and stop; a message being sent is not waited for."""
        self._worker.shutdown()
        self._messenger.shutdown(wait=False, cancel_futures=True)

    def _take(self, name: str, version: str, screen: Screen, verdicts: Verdicts, groups: Sequence[str]) -> None:
        try:
            with self._lock:
                monitor = self._monitors.get((name, version))
                if monitor is None:
                    monitor = self._monitors[name, version] = Monitor(screen, false_alarm=self._false_alarm)
                before = monitor.alarm
                monitor.update(verdicts, groups)
                self._counters.martingale.labels(name, version).set(monitor.martingale)
                if before is None and monitor.alarm is not None:
                    self._alarm(name, version, monitor)
        except InputError as error:
            LOG.warning("not watched", extra={"facts": {"screen": name, "error": str(error)}})
        except Exception:  # the service goes on without
            LOG.exception("watching failed")

    def _alarm(self, name: str, version: str, monitor: Monitor) -> None:
        assert monitor.alarm is not None
        moved = [one.words for one in monitor.moved() if one.moved]
        facts = {"screen": name, "version": version, "alarm": asdict(monitor.alarm), "moved": moved}
        LOG.warning("drift", extra={"facts": facts})
        self._counters.drift.labels(name, version).set(1)
        if self._webhook is not None:
            self._messenger.submit(_post, self._webhook, {"event": "drift", "time": time.time(), **facts})


def _post(url: str, facts: dict[str, object]) -> None:
    body = json.dumps(facts).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    for left in reversed(range(_TRIES)):
        try:
            with urllib.request.urlopen(request, timeout=10):
                return
        except (OSError, ValueError) as error:
            LOG.log(logging.ERROR, "webhook", extra={"facts": {"error": str(error), "tries_left": left}})
            time.sleep(1)

"""Drift monitoring of what the service judges, with alarms to log, metrics and webhook."""

import logging
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from sqlalchemy.exc import SQLAlchemyError

from recondite.errors import InputError
from recondite.screen.monitor import Monitor, Moved
from recondite.screen.screen import Screen
from recondite.service.engine.database import reason_of
from recondite.service.engine.posting import post
from recondite.service.engine.store import Store
from recondite.service.errors import Unavailable
from recondite.service.log import LOG
from recondite.service.metrics import Counters
from recondite.statistics.scores import Verdicts

_TRIES = 3
_KEEP_SECONDS = 10.0


class DriftWatch:
    """A drift monitor for each version of each screen, fed in the order in which verdicts were written down.

    It works in a thread of its own, so that nobody waits for it. Monitors are kept in the store now and then and when
    the service ends, and go on from there. Where the process was killed, images after the last time are left out; the
    promise about false alarms does not mind. It would mind images that come twice: with a monitor the number of the
    last event is kept, and whoever reads events from the store leaves out those up to `after`. A version whose folder
    was replaced by another screen has a monitor of its own.

    Args:
        counters: hear of the martingale and of the alarm.
        webhook: an address that an alarm is posted to as JSON; None for none.
        false_alarm: the chance that a stream without drift ever raises an alarm, in (0, 1).
        store: where monitors are kept; None to begin anew with each process.
    """

    def __init__(self, counters: Counters, webhook: str | None, false_alarm: float, store: Store | None = None) -> None:
        self._counters, self._webhook, self._false_alarm, self._store = counters, webhook, false_alarm, store
        self._kept: dict[tuple[str, str], tuple[float, int]] = {}
        self._monitors: dict[tuple[str, str], Monitor] = {}
        self._screens: dict[tuple[str, str], Screen] = {}
        self._after: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="watch")
        self._messenger = ThreadPoolExecutor(1, thread_name_prefix="webhook")

    def judged(
        self, name: str, version: str, screen: Screen, verdicts: Verdicts, groups: Sequence[str], number: int = 0
    ) -> None:
        """Take in the verdicts of one request, or of events read from the store, the last of which has this number."""
        self._worker.submit(self._take, name, version, screen, verdicts, groups, number)

    def after(self, name: str, version: str, screen: Screen) -> int:
        """Return the number of the last event that the monitor, as it was kept or is now, has taken in; 0 for none.

        Raises:
            Unavailable: the store, where a monitor may be kept, does not answer.
        """
        with self._lock:
            self._monitor(name, version, screen)
            return self._after.get((name, version), 0)

    def settle(self) -> None:
        """Wait until everything so far has been taken in."""
        self._worker.submit(int).result()

    def state(self, name: str, version: str, screen: Screen) -> tuple[Monitor, list[Moved]]:
        """Return the monitor and what has moved.

        Raises:
            Unavailable: the store, where a monitor may be kept, does not answer.
        """
        with self._lock:
            monitor = self._monitor(name, version, screen)
            return monitor, monitor.moved()

    def begin_anew(self, name: str, version: str, screen: Screen) -> None:
        """Forget what has come so far, and an alarm."""
        with self._lock:
            if self._store is not None:
                self._store.keep_monitor(name, version, None)
            self._monitors[name, version] = Monitor(screen, false_alarm=self._false_alarm)
            self._screens[name, version] = screen
            self._kept[name, version] = time.monotonic(), 0
            self._tell(name, version, self._monitors[name, version])

    def keep_only(self, served: Collection[tuple[str, str]]) -> None:
        """Let go of the monitors of all but these names and versions when they are kept; in the store they stay."""
        self._worker.submit(self._let_go, served)

    def close(self) -> None:
        """Take in what waits, keep the monitors, and stop; a message being sent is not waited for."""
        self._worker.submit(self._keep_all)
        self._worker.shutdown()
        self._messenger.shutdown(wait=False, cancel_futures=True)

    def _take(
        self, name: str, version: str, screen: Screen, verdicts: Verdicts, groups: Sequence[str], number: int
    ) -> None:
        try:
            with self._lock:
                monitor = self._monitor(name, version, screen)
                before = monitor.alarm
                monitor.update(verdicts, groups)
                self._after[name, version] = max(number, self._after.get((name, version), 0))
                self._tell(name, version, monitor)
                if before is None and monitor.alarm is not None:
                    self._alarm(name, version, monitor)
                if time.monotonic() - self._kept.get((name, version), (0.0, 0))[0] > _KEEP_SECONDS:
                    self._keep(name, version)
        except (InputError, Unavailable) as error:
            LOG.warning("not watched", extra={"facts": {"screen": name, "error": str(error)}})
        except Exception:  # the service goes on without
            LOG.exception("watching failed")

    def _monitor(self, name: str, version: str, screen: Screen) -> Monitor:
        monitor = self._monitors.get((name, version))
        if monitor is None or not self._is_of(name, version, screen):
            monitor = self._monitors[name, version] = self._found(name, version, screen)
            self._screens[name, version] = screen
            self._kept[name, version] = time.monotonic(), monitor.seen + monitor.invalid
            self._tell(name, version, monitor)
        return monitor

    def _is_of(self, name: str, version: str, screen: Screen) -> bool:
        """Return whether the monitor of a version is one of this screen, at whatever alpha."""
        known = self._screens[name, version]
        if known is not screen and known.fingerprint() == screen.fingerprint():
            known = self._screens[name, version] = screen
        return known is screen

    def _found(self, name: str, version: str, screen: Screen) -> Monitor:
        try:
            state = None if self._store is None else self._store.monitor(name, version)
            if state is not None and state.get("false_alarm") == self._false_alarm:
                monitor = Monitor.from_state(screen, state)
                self._after[name, version] = int(state.get("after", 0))
                return monitor
        except SQLAlchemyError as error:  # a new one would be kept in its place later
            raise Unavailable(f"the store does not answer: {reason_of(error)}", 5) from error
        except InputError as error:
            LOG.warning("a kept monitor is left out", extra={"facts": {"screen": name, "error": str(error)}})
        return Monitor(screen, false_alarm=self._false_alarm)

    def _tell(self, name: str, version: str, monitor: Monitor) -> None:
        self._counters.martingale.labels(name, version).set(monitor.martingale)
        self._counters.drift.labels(name, version).set(monitor.alarm is not None)

    def _let_go(self, served: Collection[tuple[str, str]]) -> None:
        with self._lock:
            for name, version in self._monitors.keys() - served:
                if self._keep(name, version):
                    for known in (self._monitors, self._screens, self._after, self._kept):
                        known.pop((name, version), None)
                    for gauge in (self._counters.martingale, self._counters.drift):
                        gauge.remove(name, version)

    def _keep_all(self) -> None:
        for name, version in list(self._monitors):
            self._keep(name, version)

    def _keep(self, name: str, version: str) -> bool:
        """Keep a monitor in the store, if there is one, and return whether that holds all that it has seen."""
        monitor = self._monitors[name, version]
        count, kept = monitor.seen + monitor.invalid, self._kept.get((name, version), (0.0, 0))[1]
        if self._store is not None and kept != count:
            try:
                state = {**monitor.state(), "after": self._after.get((name, version), 0)}
                self._store.keep_monitor(name, version, state)
            except SQLAlchemyError as error:
                LOG.warning("a monitor was not kept", extra={"facts": {"screen": name, "error": str(error)}})
                self._kept[name, version] = time.monotonic(), kept
                return False
        self._kept[name, version] = time.monotonic(), count
        return True

    def _alarm(self, name: str, version: str, monitor: Monitor) -> None:
        assert monitor.alarm is not None
        moved = [one.words for one in monitor.moved() if one.moved]
        facts = {"screen": name, "version": version, "alarm": asdict(monitor.alarm), "moved": moved}
        LOG.warning("drift", extra={"facts": facts})
        if self._webhook is not None:
            self._messenger.submit(_post, self._webhook, {"event": "drift", "time": time.time(), **facts})


def _post(url: str, facts: dict[str, object]) -> None:
    for left in reversed(range(_TRIES)):
        try:
            post(url, facts)
        except (OSError, ValueError) as error:
            LOG.log(logging.ERROR, "webhook", extra={"facts": {"error": str(error), "tries_left": left}})
            time.sleep(1)
        else:
            return

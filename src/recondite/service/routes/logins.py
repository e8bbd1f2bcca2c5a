"""Logins slow down after failures."""

import time
from collections import OrderedDict

_FREE, _LONGEST, _MEMORY = 3, 60.0, 1024
"""Failures that cost nothing, the longest wait in seconds, and the addresses remembered."""


class FailedLogins:
    """How long visitors have to wait after wrong tokens: a second after the third, and twice as long after each more.

    An address that has had to wait for the longest time and then tries nothing for as long begins anew.
    """

    def __init__(self) -> None:
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Return the seconds until an address may try again."""
        count, last = self._of(address)
        return max(0.0, last + _pause(count) - time.monotonic())

    def note(self, address: str, right: bool) -> None:
        """Take down how a try ended."""
        count, _ = self._of(address)
        self._failed.pop(address, None)
        if not right:
            self._failed[address] = count + 1, time.monotonic()
            if len(self._failed) > _MEMORY:
                self._failed.popitem(last=False)

    def _of(self, address: str) -> tuple[int, float]:
        count, last = self._failed.get(address, (0, 0.0))
        return (count, last) if time.monotonic() - last < 2 * _LONGEST else (0, 0.0)


def _pause(count: int) -> float:
    return 0.0 if count < _FREE else min(_LONGEST, 2.0 ** (count - _FREE))

"""Admission control: limits on images and bytes in flight, with Retry-After."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from recondite.service.errors import Busy, TooLarge

_LONGEST_RETRY = 60.0


class InFlightLimit:
    """Counts what is taken and refuses what goes over the limit; for use within one event loop.

    Args:
        limit: the most that may be taken at once.
        name: what is counted, for the message.
    """

    def __init__(self, limit: int, name: str) -> None:
        self.limit, self.name, self.taken = limit, name, 0
        self._rate, self._given, self._since = 0.0, 0, time.monotonic()

    @contextmanager
    def take(self, amount: int) -> Iterator[None]:
        """Hold an amount while the block runs.

        Raises:
            TooLarge: there will never be room for as much.
            Busy: that would be over the limit now; the refusal says when to try again.
        """
        if amount > self.limit:
            raise TooLarge(f"expected at most {self.limit:,} {self.name} at once; got {amount:,}")
        if self.taken + amount > self.limit:
            raise Busy(f"{self.taken:,} {self.name} are being served; the limit is {self.limit:,}", self.retry_after)
        self.taken += amount
        try:
            yield
        finally:
            self.taken -= amount
            self._count(amount)

    @property
    def retry_after(self) -> float:
        """Seconds until about half of what is taken will have been served, from 1 to 60."""
        expected = self.taken / (2 * self._rate) if self._rate > 0 else 1.0
        return min(_LONGEST_RETRY, max(1.0, expected))

    def _count(self, amount: int) -> None:
        """Keep the rate at which amounts are given back, anew each second."""
        self._given += amount
        elapsed = time.monotonic() - self._since
        if elapsed > 1:
            self._rate, self._given, self._since = self._given / elapsed, 0, time.monotonic()

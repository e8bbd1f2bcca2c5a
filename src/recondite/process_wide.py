"""Settings of the whole process that the library changes for a while, in whatever threads."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class ProcessWide:
    """A setting that is the library's own while any thread is inside, and the caller's again after the last.

    Args:
        change: changes it, and returns what puts it back.
    """

    def __init__(self, change: Callable[[], Callable[[], None]]) -> None:
        self._change = change
        self._lock = threading.Lock()
        self._inside = 0
        self._put_back: Callable[[], None] = lambda: None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the setting: the first thread that comes in changes it, the last that goes out puts it back."""
        with self._lock:
            if self._inside == 0:
                self._put_back = self._change()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._put_back()

"""Images stored beside their events: content-addressed, within limits of size and age."""

import math
import os
import re
import threading
import time
from contextlib import suppress
from pathlib import Path

from recondite.data.files import atomic_file
from recondite.errors import ReconditeError
from recondite.service.engine.database import lack_of_room

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ROOM = 0.9
_UNMEASURED = 0.05
"""Of the limit: the folder is measured anew after so many bytes."""
_DAY = 86400
_TRY_SECONDS = 2.0


class KeptImages:
    """A folder of images as they came, each named by its SHA-256; the oldest go when it grows over a limit.

    Args:
        folder: made when the first image comes.
        limit: bytes in all.
        days: after which an image goes, counted from when it came last; None for no such limit.
    """

    def __init__(self, folder: Path, limit: int, days: float | None = None) -> None:
        self._folder, self._limit, self._days = folder, limit, days
        self._lock = threading.Lock()
        self._size, self._added = 0, math.inf
        self._tried = -math.inf
        self._trouble: str | None = None

    def add(self, sha256: str, content: bytes) -> None:
        """Keep an image; it is on disk when this returns."""
        path = self._path(sha256)
        with self._lock:
            with suppress(FileNotFoundError):
                os.utime(path)
                return
            with atomic_file(path) as temporary:
                temporary.write_bytes(content)
            self._size, self._added = self._size + len(content), self._added + len(content)
            if self._added > _UNMEASURED * self._limit:  # other processes may keep images there too
                self._size, self._added = self._measure(), 0
            if self._size > self._limit:
                self._size = self._shrink()

    def expire(self) -> int:
        """Delete what is too old, and return how many images that were."""
        if self._days is None:
            return 0
        oldest, gone = time.time() - _DAY * self._days, 0
        with self._lock:
            for path in self._files():
                facts = _facts(path)
                if facts is not None and facts.st_mtime < oldest:
                    path.unlink(missing_ok=True)
                    gone += 1
            self._added = math.inf
        return gone

    def get(self, sha256: str) -> bytes | None:
        """Return an image; None where it was never kept, or is gone by now."""
        try:
            return self._path(sha256).read_bytes() if _SHA256.fullmatch(sha256) else None
        except OSError:
            return None

    def trouble(self) -> str | None:
        """Return why no image can be kept, which is tried, at most every two seconds; None where one can."""
        now = time.monotonic()
        if now - self._tried > _TRY_SECONDS:
            self._tried, self._trouble = now, lack_of_room(self._folder)
            try:
                with self._lock, atomic_file(self._folder / "trial") as temporary:
                    temporary.write_bytes(b"trial")
                (self._folder / "trial").unlink(missing_ok=True)
            except (OSError, ReconditeError) as error:
                self._trouble = self._trouble or f"images cannot be kept: {error}"
        return self._trouble

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256

    def _measure(self) -> int:
        return sum(facts.st_size for facts in map(_facts, self._files()) if facts is not None)

    def _files(self) -> list[Path]:
        return [path for path in self._folder.glob("??/*") if _SHA256.fullmatch(path.name)]

    def _shrink(self) -> int:
        """Delete the oldest images until a tenth of the limit is free, and return the size of the rest."""
        found = [(facts, path) for path in self._files() if (facts := _facts(path)) is not None]
        found.sort(key=lambda one: one[0].st_mtime_ns, reverse=True)
        size, full = 0, False
        for facts, path in found:
            full = full or size + facts.st_size > _ROOM * self._limit
            if full:
                path.unlink(missing_ok=True)
            else:
                size += facts.st_size
        return size


def _facts(path: Path) -> os.stat_result | None:
    """Return the facts about a file; None where another process has deleted it."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None

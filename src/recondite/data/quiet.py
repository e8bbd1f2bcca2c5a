"""Pillow without its warnings: they are about pictures, not for the user, and must never decide on one."""

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ENTRY: Any = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_lock = threading.Lock()
_inside = 0


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore what modules of Pillow warn of while something is decoded, in any thread.

    `warnings.catch_warnings` puts back the filters of another moment where threads overlap; here one filter comes and
    goes.
    """
    global _inside
    with _lock:
        _inside += 1
        if _ENTRY not in warnings.filters:
            warnings.filterwarnings("ignore", module=_ENTRY[3].pattern)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _ENTRY in warnings.filters:
                warnings.filters.remove(_ENTRY)  # type: ignore[attr-defined]

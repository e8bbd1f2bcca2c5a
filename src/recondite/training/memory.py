"""Large blocks of memory, kept from one step to the next."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Names of settings of glibc's `mallopt`, from its malloc.h."""
_NEVER = 2**31 - 1
_USUAL_TRIM_THRESHOLD, _USUAL_MMAP_MAX = 64 * 2**20, 65_536


@contextmanager
def large_blocks_kept() -> Iterator[None]:
    """Let freed memory be used again at once, where the C library is glibc.

    It hands blocks of more than 32 MiB back to the system as soon as they are freed; the gradient of a large dense
    layer is one, and getting its pages anew in every step takes as long as computing it. Afterwards all that is free
    goes back.
    """
    try:
        library = ctypes.CDLL(None)
        mallopt, trim = library.mallopt, library.malloc_trim
    except (OSError, TypeError, AttributeError):
        yield
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        mallopt(_MMAP_MAX, _USUAL_MMAP_MAX)
        mallopt(_TRIM_THRESHOLD, _USUAL_TRIM_THRESHOLD)
        trim(0)

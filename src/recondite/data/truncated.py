"""Files that end too early are refused, whatever the program has set Pillow to: half of such an image is grey."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import ImageFile

_lock = threading.Lock()
_inside = 0
_callers = False


@contextmanager
def truncated_refused() -> Iterator[None]:
    """Hold `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` at False while something is decoded, in any thread.

    It belongs to the whole process: the first thread that comes in sets it, and the last that goes out puts it back.
    """
    global _inside, _callers
    with _lock:
        if _inside == 0:
            _callers = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = _callers

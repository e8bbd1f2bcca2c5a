"""Files that end too early are refused, whatever the program has set Pillow to: half of such an image is grey."""

from collections.abc import Callable
from functools import partial

from PIL import ImageFile

from recondite.process_wide import ProcessWide


def _change() -> Callable[[], None]:
    callers, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    return partial(setattr, ImageFile, "LOAD_TRUNCATED_IMAGES", callers)


truncated_refused = ProcessWide(_change).held
"""Hold `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` at False while something is decoded, in any thread."""

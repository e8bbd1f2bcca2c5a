"""What an image may come as beside an array: a path, a file object, fetched late, with a mask, or a page of a file."""

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from recondite.data.addresses import without_secrets
from recondite.data.files import local_path
from recondite.data.regions import Mask
from recondite.errors import InputError

MAX_FILE_BYTES = 1 << 30
_IMAGE_NAMES = ("image", "img")


class Deferred(ABC):
    """An image that is fetched when it is decoded."""

    @abstractmethod
    def fetch(self) -> bytes:
        """Return the bytes of an image file.

        Raises:
            InputError: there is no such image.
            SourceError: it cannot be reached.
        """

    def identity(self) -> list[Any] | None:
        """Return JSON values that tell the image from others that may be fetched here; None where nothing does."""
        return None


@dataclass(frozen=True)
class Unreadable(Deferred):
    """An image that is known to be one, and cannot be read.

    Args:
        reason: why.
    """

    reason: str

    def fetch(self) -> bytes:
        raise InputError(self.reason)


class Masked(ABC):
    """An image with a mask of its own.

    Args:
        source: the image, anything that `decode` takes.
    """

    source: object

    @abstractmethod
    def mask(self, height: int, width: int) -> Mask:
        """Return the mask of the image, which has so many pixels, of a size of its own.

        Raises:
            InputError: there is none, or it cannot be read, or does not fit the image.
        """


@dataclass(frozen=True)
class Page:
    """One image of a file that holds several.

    Args:
        path: of a TIFF file.
        frame: which of its directories, from 0.
    """

    path: Path
    frame: int


def path_of(source: object) -> Path | None:
    """Return the path that a source is, whatever its type, as `local_path` means it; None where it is none.

    Raises:
        InputError: it is an address, or empty.
    """
    if not isinstance(source, str | os.PathLike):
        return None
    if isinstance(source, Path):
        return source
    path = local_path(os.fsdecode(source))
    if path is None:
        given = without_secrets(source)
        raise InputError(f"expected an image; got the address {given!r}: give a list of paths and addresses alone")
    return path


def content_of(source: object) -> Any:
    """Return the bytes that a source holds or that a file object reads, all of them; None where it is neither.

    A file object is read from its beginning, and stands where it stood afterwards, if it can be moved at all.

    Raises:
        InputError: it reads text, or nothing, or too much.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return source
    if isinstance(source, io.TextIOBase):
        raise InputError("expected a file opened in binary mode; this one reads text")
    if not is_file_object(source):
        return None
    place = source.tell() if source.seekable() else None
    if place is not None:
        source.seek(0)
    try:
        content = source.read(MAX_FILE_BYTES + 1)
    finally:
        if place is not None:
            source.seek(place)
    if not isinstance(content, bytes | bytearray):
        raise InputError(f"expected a file opened in binary mode; it reads {type(content).__name__}")
    if len(content) > MAX_FILE_BYTES:
        raise InputError(f"the file has more than {MAX_FILE_BYTES:,} bytes")
    if not content:
        raise InputError("the file is empty")
    return content


def is_file_object(source: object) -> TypeGuard[BinaryIO]:
    """Return whether something is an open file, or acts as one."""
    return all(callable(getattr(source, name, None)) for name in ("read", "seek", "seekable", "tell"))


def axes_of(source: object) -> int:
    """Return how many axes an array or tensor has; 0 for anything else, whatever it does when it is asked."""
    try:
        return int(getattr(source, "ndim", 0))
    except Exception:
        return 0


def in_words(error: Exception) -> str:
    """Return why an image cannot be read, by an error that was not foreseen."""
    return f"it cannot be read: {error or 'no reason was given'} ({type(error).__name__})"


def walk_stream(items: Iterable[Any], skip: frozenset[str]) -> Iterator[tuple[str, Any, str]]:
    """Yield (id, image, label) of the items of a stream, batches among them, but for the ids in `skip`."""
    index = 0
    for item in items:
        image, label = image_and_label(item)
        batched = axes_of(image) == 4
        for one in image if batched else [image]:
            name = f"{index:06d}"
            index += 1
            if name not in skip:
                yield name, one, "" if batched else label


def image_and_label(item: Any) -> tuple[Any, str]:
    """Return what an item of a source is: an image, a pair of an image and its label, or a row of a data set.

    Rows are those of the Hugging Face hub: the image under "image" or "img", the label under "label"; one that is not
    decoded holds "bytes" or else a "path".
    """
    if isinstance(item, Mapping):
        name = next((name for name in _IMAGE_NAMES if name in item), None)
        image, label = (item, "") if name is None else (item[name], item.get("label", ""))
        if isinstance(image, Mapping) and ("bytes" in image or "path" in image):
            image = image.get("bytes") or image.get("path")
        return image, str(label) if isinstance(label, int | str) else ""
    if isinstance(item, tuple | list) and item:
        return item[0], str(item[1]) if len(item) > 1 and isinstance(item[1], int | str) else ""
    return item, ""

"""Images as clients send them: measured by their heads, hashed, and decoded one after the other."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.datasets import Batch, attempted, gathered
from recondite.data.images import Floats, Preprocessing, picture_size
from recondite.errors import InputError

_LONGEST_NAME = 200
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@dataclass(frozen=True)
class Sent:
    """One image as a client sent it.

    Args:
        name: what the client calls it; never a path.
        content: the bytes of an image file, or an array as `recondite.data.images.decode` takes it.
        label: what the client's classifier says; None without one.
        confidence: its largest softmax probability, in (0, 1]; None if unknown.
        group: of the calibration; "" for that of its request.
    """

    name: str
    content: bytes | NDArray[Any]
    label: str | None = None
    confidence: float | None = None
    group: str = ""

    @property
    def size(self) -> int:
        """Its bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.nbytes


@dataclass(frozen=True)
class Measured:
    """What the head of an image says.

    Args:
        pixels: in it; 0 where it will not be decoded.
        cost: of decoding it, in pixels.
        error: why it will not be decoded; None for the others.
        size: (width, height) that has to prove right when it is decoded; None where it was read as decoding reads it.
    """

    pixels: int
    cost: int
    error: str | None = None
    size: tuple[int, int] | None = None


def name_in_form(name: str) -> str:
    """Return the name of a file that came in a form, in which `"` and line breaks are written as %22, %0D and %0A."""
    return re.sub("%(22|0D|0A)", lambda found: chr(int(found[1], 16)), name)


def printable(name: str) -> str:
    """Return what a client calls an image as at most 200 printable characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:_LONGEST_NAME])


def groups_of(sent: Sequence[Sent], group: str) -> list[str]:
    """Return the group of each image, where `group` is that of its request."""
    return [one.group or group for one in sent]


def glance(one: Sent, most_pixels: int) -> Measured | None:
    """Return what takes no time to see of an image: the size of an array, or of a PNG; None for other files.

    Args:
        one: the image.
        most_pixels: it may have; with more it is not decoded.
    """
    content = one.content
    if not isinstance(content, bytes):
        return Measured(content.size, content.size)
    if not content.startswith(_PNG):
        return None
    size = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    return _measured(*size, len(content), most_pixels, size)


def measure(one: Sent, most_pixels: int) -> Measured:
    """Return what the head of an image says, without decoding it; arguments as in `glance`."""
    seen = glance(one, most_pixels)
    if seen is not None:
        return seen
    assert isinstance(one.content, bytes)
    try:
        return _measured(*picture_size(one.content), len(one.content), most_pixels)
    except InputError as error:
        return Measured(0, 0, str(error))


def _measured(width: int, height: int, length: int, most_pixels: int, size: tuple[int, int] | None = None) -> Measured:
    pixels = width * height
    if pixels > most_pixels:
        return Measured(0, 0, f"the picture has {width} x {height} pixels; the limit is {most_pixels:,}")
    return Measured(pixels, pixels + length, None, size)  # a file of few pixels may be long


def decode(
    sent: Sequence[Sent],
    measured: Sequence[Measured],
    preprocessing: Preprocessing,
    take: Callable[[Batch, list[str]], None],
) -> Iterator[int]:
    """Decode images one by one, as the library does, and yield the cost of each; at the end give all to `take`.

    Args:
        sent: the images.
        measured: their heads.
        preprocessing: of the screen.
        take: given the images as they were read, and their SHA-256.
    """
    found: list[Floats | str] = []
    hashes: list[str] = []
    for one, head in zip(sent, measured, strict=True):
        hashes.append(_sha256(one.content))
        found.append(
            attempted(partial(_read, preprocessing, head.size), one.content) if head.error is None else head.error
        )
        yield head.cost
    take(gathered([printable(one.name) for one in sent], [""] * len(sent), found, preprocessing.shape), hashes)


def _read(preprocessing: Preprocessing, size: tuple[int, int] | None, content: Any) -> Floats:
    if size is not None and picture_size(content) != size:
        raise InputError(f"the picture says that it has {size[0]} x {size[1]} pixels, and has others")
    return preprocessing(content)


def _sha256(content: bytes | NDArray[Any]) -> str:
    if not isinstance(content, bytes):
        content = f"{content.dtype.str}{content.shape}".encode() + np.ascontiguousarray(content).tobytes()
    return hashlib.sha256(content).hexdigest()

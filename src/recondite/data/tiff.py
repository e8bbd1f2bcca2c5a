"""TIFF files: their pages and tags, read from the headers alone, and the pages that Pillow misreads or cannot read.

Source: TIFF 6.0 (Adobe, 1992), sections 2, 8 and 19; BigTIFF (2007).
"""

import logging
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from recondite.data.files import open_regular
from recondite.data.scaling import Pixels, white_of
from recondite.data.tiff_parts import numbers_of
from recondite.data.upright import UPRIGHT
from recondite.errors import InputError

SUFFIXES = (".tif", ".tiff")
ORIENTATION = 274
_HEADS = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
_NEW_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 254, 256, 257, 258, 259, 262, 277
_LARGEST, _EXTRA, _FORMAT, _SIGNED_LARGEST = 281, 338, 339, 341
_KEPT = {_NEW_SUBFILE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, ORIENTATION, _SAMPLES, _LARGEST, _EXTRA, _FORMAT}
_KEPT |= {_COMPRESSION, _SIGNED_LARGEST}
_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 16: "Q"}
_BIG_ENDIAN = -1
"""Not a tag, but kept with them: whether the file has the largest byte of a number first."""
_UNCOMPRESSED = 1
_REDUCED_OR_MASK = 1 | 4
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_MINISWHITE = 0
_LOSSLESS = (1, 5, 8, 32946, 32773, 34925, 50000)
"""Compressions that are read without another package: none, LZW, deflate, PackBits, LZMA, Zstandard."""
_MOST_PAGES, _MOST_TAGS, _MOST_VALUES = 65_536, 4_096, 64

Tags = Mapping[int, Sequence[float]]

# Its warnings about odd tags have no reader here: what cannot be read becomes an error of its own.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def is_tiff(head: bytes) -> bool:
    """Return whether a file begins as TIFF files do."""
    return head[:4] in _HEADS


def directories(stream: BinaryIO) -> list[Tags]:
    """Return the tags of every directory of a TIFF file, in order, as far as they are whole; only headers are read."""
    stream.seek(0)
    head = stream.read(16)
    if not is_tiff(head):
        return []
    order, big = _HEADS[head[:4]]
    counts, offsets, entry = ("Q", "Q", 20) if big else ("H", "I", 12)
    found: list[Tags] = []
    try:
        place = struct.unpack_from(f"{order}{offsets}", head, 8 if big else 4)[0]
        seen = set()
        while place and place not in seen and len(found) < _MOST_PAGES:
            seen.add(place)
            stream.seek(place)
            count = _unpacked(stream, order + counts)[0]
            if count > _MOST_TAGS:
                break
            entries = stream.read(count * entry)
            place = _unpacked(stream, order + offsets)[0]
            found.append({**_tags(stream, entries, order, big), _BIG_ENDIAN: (order == ">",)})
    except (struct.error, ValueError, OverflowError):
        pass  # cut short, or at a place that no file has: what would come there is not there
    return found


def pages(stream: BinaryIO) -> list[int]:
    """Return the numbers, from 0, of the directories that are images: neither masks nor smaller copies of others."""
    found = [
        index
        for index, tags in enumerate(directories(stream))
        if not int(tags.get(_NEW_SUBFILE, (0,))[0]) & _REDUCED_OR_MASK
    ]
    return found or [0]


def pages_of(path: Path) -> list[int]:
    """Return what `pages` does of a file; [0] where it cannot be read, since that is found out when it is decoded."""
    try:
        with open_regular(path) as stream:
            return pages(stream)
    except OSError:
        return [0]


def misread(tags: Tags) -> str | None:
    """Return what Pillow would get wrong in a directory, or could not read, in words; None where all is well."""
    bits, kind = int(_largest(tags, _BITS, 1)), int(_largest(tags, _FORMAT, _UNSIGNED))
    samples = int(_largest(tags, _SAMPLES, 1))
    what = {_SIGNED: "signed integers", _FLOAT: "floats"}.get(kind, "values")
    if kind == _SIGNED or (kind == _FLOAT and (bits != 32 or samples > 1)) or bits not in (1, 2, 4, 8, 12, 16, 32):
        return f"{what} of {bits} bits"
    if kind == _FLOAT and _largest(tags, _BIG_ENDIAN, 0) and _largest(tags, _COMPRESSION, 1) != _UNCOMPRESSED:
        return f"compressed {what} of {bits} bits, the largest byte first"
    if kind == _UNSIGNED and bits == 32:
        return f"unsigned integers of {bits} bits"
    if tags.get(_PHOTOMETRIC, (1,))[0] == _MINISWHITE and (bits > 8 or kind == _FLOAT):
        return f"{what} of {bits} bits whose zero is white"
    if samples > 4 or (samples > 1 and _is_grey(tags)):
        return f"{samples} channels"
    if samples > 1 and bits == 16 and _largest(tags, _COMPRESSION, 1) in _LOSSLESS:
        return f"{samples} channels of {bits} bits"  # Pillow keeps 8 of them
    return None


def size(tags: Tags) -> tuple[int, int]:
    """Return (width, height) of a directory in pixels, as it is stored."""
    return int(_largest(tags, _WIDTH, 1)), int(_largest(tags, _HEIGHT, 1))


def tags_of(known: Mapping[int, Any]) -> Tags:
    """Return tags that Pillow has read as `directories` would."""
    found = {tag: known[tag] for tag in _KEPT if tag in known}
    found[_BIG_ENDIAN] = getattr(known, "prefix", b"") == b"MM"
    return {tag: value if isinstance(value, tuple) else (value,) for tag, value in found.items()}


def white_by_bits(tags: Tags) -> float | None:
    """Return what is white in values of 12 bits, which fill no type; None for others."""
    return 4095.0 if int(_largest(tags, _BITS, 1)) == 12 else None


def declared_white(tags: Tags) -> float | None:
    """Return the largest value that an image may have by its tags, where these say less than its bits: 4,095."""
    bits = int(_largest(tags, _BITS, 1))
    for tag in (_LARGEST, _SIGNED_LARGEST):
        largest = _largest(tags, tag, 0)
        # Some programs write the largest value of the picture here; a range ends at a power of two less one.
        if largest >= 255 and float(largest + 1).is_integer() and int(largest + 1) & int(largest) == 0:
            return float(largest) if largest < 2.0**bits - 1 else None
    return None


def read(stream: BinaryIO, frame: int, tags: Tags, most_values: int) -> Pixels:
    """Return a page that Pillow would misread.

    Args:
        stream: of the file.
        frame: the number of its directory.
        tags: of the directory.
        most_values: that are decoded.

    Raises:
        InputError: it is too large, or of a kind that is not known; or its compression needs the extra `tiff`.
    """
    values = _largest(tags, _WIDTH, 1) * _largest(tags, _HEIGHT, 1) * _largest(tags, _SAMPLES, 1)
    if values > most_values:
        raise InputError(f"the picture has {values:,.0f} values; the limit is {most_values:,}")
    rows = _rows(stream, frame, tags)
    orientation = int(_largest(tags, ORIENTATION, 1))
    rows = UPRIGHT[orientation](rows) if orientation in UPRIGHT else rows
    if rows.ndim != 3 or rows.dtype.kind not in "biuf":
        raise InputError(f"expected a page of (height, width) or with channels; got {rows.dtype} {rows.shape}")
    white = _white(rows.dtype, int(_largest(tags, _BITS, 1)))
    if tags.get(_PHOTOMETRIC, (1,))[0] == _MINISWHITE:
        if rows.dtype.kind != "u" or white is None:
            raise InputError(f"{misread(tags)}: it is not known what is black")
        rows = rows.dtype.type(white) - rows
    planes = rows.transpose(2, 0, 1)
    opaque = 1 <= _largest(tags, _EXTRA, 0) <= 2 and len(planes) in (2, 4)
    return Pixels(planes[:-1], planes[-1], white) if opaque else Pixels(planes, None, white)


def _rows(stream: BinaryIO, frame: int, tags: Tags) -> NDArray[Any]:
    """Return the numbers of a page as they lie, (H, W, C)."""
    import tifffile

    stream.seek(0)
    with tifffile.TiffFile(stream) as file:
        page = file.pages[frame].aspage()
        try:
            stored = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            found = numbers_of(stream, file.byteorder, page)
            if found is None:
                raise InputError(f'{misread(tags)}, compressed: pip install "recondite[tiff]" to read them') from error
            return found
        return stored[..., None] if stored.ndim == 2 else stored.transpose(1, 2, 0) if page.axes[0] == "S" else stored


def _white(kind: np.dtype[Any], bits: int) -> float | None:
    if kind.kind == "u" and bits <= 16:
        return 2.0**bits - 1
    if kind.kind == "i" and bits <= 16:
        return 2.0 ** (bits - 1) - 1
    # Integers of 32 bits hold 16 as a rule; `check_values` refuses what is more.
    return 65535.0 if kind.kind in "iu" else white_of(kind)


def _is_grey(tags: Tags) -> bool:
    return tags.get(_PHOTOMETRIC, (1,))[0] in (0, 1) and not 1 <= _largest(tags, _EXTRA, 0) <= 2


def _largest(tags: Tags, tag: int, default: float) -> float:
    return max(tags.get(tag) or (default,))


def _unpacked(stream: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, stream.read(struct.calcsize(form)))


def _tags(stream: BinaryIO, entries: bytes, order: str, big: bool) -> Tags:
    head, inline, offset = (f"{order}HHQ", 8, "Q") if big else (f"{order}HHI", 4, "I")
    size, found = 20 if big else 12, {}
    for start in range(0, len(entries) - size + 1, size):
        tag, kind, count = struct.unpack_from(head, entries, start)
        if tag not in _KEPT or kind not in _TYPES or not 1 <= count <= _MOST_VALUES:
            continue
        form = f"{order}{count}{_TYPES[kind]}"
        place, length = start + size - inline, struct.calcsize(form)
        content = entries[place : place + length]
        if length > inline:
            stream.seek(struct.unpack_from(order + offset, entries, place)[0])
            content = stream.read(length)
        values = struct.unpack(form, content)
        if all(map(math.isfinite, values)):
            found[tag] = values
    return found

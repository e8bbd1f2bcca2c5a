"""PNG files that Pillow would cut to 8 bits, or hold whole though they are huge: rows are decoded strip by strip.

What a row is compressed to depends on the row above. So a strip becomes a small PNG file of its own, whose first row
is the one above, and Pillow decodes that. Every byte of a pixel depends on the bytes in its own place of the pixels
around it alone, so the upper and the lower bytes of 16 bits are two such files of 8.

Source: PNG specification, third edition (W3C, 2025), sections 5, 7 to 9 and 11.3.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recondite.data.scaling import HUGE, MAX_PIXELS, Pixels, averaged, block_size, white_of
from recondite.data.upright import UPRIGHT, orientation_of
from recondite.errors import InputError

HEAD = b"\x89PNG"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_START = _SIGNATURE + b"\0\0\0\rIHDR"
_HEAD_BYTES = len(_START) + 13 + 4
_CHANNELS = {2: 3, 4: 2, 6: 4}
"""Type of colour -> channels: colour, grey with alpha, colour with alpha."""
_STORED = {0: 1, 3: 1, **_CHANNELS}
"""Type of colour -> numbers of a pixel in the file: one of a grey or of a place in a palette."""
_OF_HEADS: dict[int, int | None] = {0: 1, 2: 3, 3: None, 6: 3}
"""Type of colour -> channels without alpha; a palette may have either."""
_TEXTS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
"""Chunks that may say which way is up."""
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""Of interlaced files: first row, first column, and the steps between rows and between columns."""
_ONE_PASS = ((0, 0, 1, 1),)
_CUT_SHORT = "the file is cut short: its pixels end too early"
_STRIP_BYTES = 1 << 24
_READ_BYTES = 1 << 20
_MOST_TEXT = 1 << 22

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Head:
    width: int
    height: int
    bits: int
    colour: int
    interlaced: bool

    @property
    def channels(self) -> int:
        return _CHANNELS[self.colour]


def head_of(content: bytes) -> tuple[int, int, int | None] | None:
    """Return height, width and channels (None for a palette) of a file of 8 bits, as Pillow sees them, in no time.

    Returns:
        None where Pillow has to be asked: another kind of file, or one whose head is not plain.
    """
    if (
        not content.startswith(_START)
        or len(content) < _HEAD_BYTES
        or content.count(b"IHDR") != 1
        or b"acTL" in content
    ):
        return None  # acTL: of several frames
    width, height, bits, colour = struct.unpack_from(">IIBB", content, len(_START))
    end = _HEAD_BYTES - 4
    damaged = zlib.crc32(content[len(_SIGNATURE) + 4 : end]) != int.from_bytes(content[end:_HEAD_BYTES])
    if bits != 8 or colour not in _OF_HEADS or damaged or not 0 < width * height <= MAX_PIXELS:
        return None
    return height, width, _OF_HEADS[colour]


def read(stream: BinaryIO, target: tuple[int, int] | None) -> Pixels | None:
    """Return the pixels of a PNG file.

    Args:
        stream: of the file.
        target: (height, width) that it will be resized to, if a huge one may be reduced already; None for as it is.

    Returns:
        None where Pillow decodes it to the same values in no more memory, or tells what is wrong with it.

    Raises:
        InputError: it has too many pixels, or ends too early.
        Exception: whatever zlib and Pillow raise for damaged files.
    """
    found = _head(stream)
    if found is None:
        return None
    head, clear, texts = found
    if head.bits == 8 and head.width * head.height <= HUGE:
        return None
    orientation = orientation_of(Image.open(io.BytesIO(_file(1, 1, 0, zlib.compress(b"\0\0"), texts))))
    turned = orientation in (5, 6, 7, 8)
    size = (head.width, head.height) if turned else (head.height, head.width)
    block = block_size(*size, target)
    huge = block != (1, 1) and clear is None and head.channels == 3
    if head.bits == 8 and not (huge and orientation == 1 and not head.interlaced):
        return None
    if head.width * head.height > MAX_PIXELS:
        raise InputError(f"the picture has {head.width} x {head.height} pixels; the limit is {MAX_PIXELS:,}")
    rows = _Rows(stream, head)
    if huge and orientation == 1 and not head.interlaced:
        rows.begin(head.width)
        return averaged(lambda top, bottom: rows.next(bottom - top), size, block, white_of(rows.kind))
    image = _whole(rows, head)
    if clear is not None:
        opaque = np.where((image == clear).all(axis=2), 0, np.iinfo(image.dtype).max)
        image = np.dstack([image, opaque.astype(image.dtype)])
    image = UPRIGHT[orientation](image) if orientation in UPRIGHT else image
    if huge:
        return averaged(lambda top, bottom: image[top:bottom], size, block, white_of(rows.kind))
    planes = image.transpose(2, 0, 1)
    colours, alpha = (planes[:-1], planes[-1]) if len(planes) in (2, 4) else (planes, None)
    return Pixels(colours, alpha, white_of(rows.kind))


class _Rows:
    """The rows of a file, decoded in order: those of the image, or of the passes of an interlaced one."""

    def __init__(self, stream: BinaryIO, head: _Head) -> None:
        self.head, self.kind = head, np.dtype(np.uint8 if head.bits == 8 else np.uint16)
        self._content, self._inflate, self._left = _contents(stream), zlib.decompressobj(), b""
        self._above = np.empty((0, 0, 0), np.uint8)

    def begin(self, width: int) -> None:
        """Begin with an image of so many pixels a row: nothing lies above."""
        self._above = np.zeros((width, self.head.channels, self.kind.itemsize), np.uint8)

    def next(self, count: int) -> NDArray[Any]:
        """Return the next rows, (count, W, C)."""
        width, channels, size = self._above.shape
        stored = np.frombuffer(self._filtered(count * (1 + self._above.size)), np.uint8).reshape(count, -1)
        values = stored[:, 1:].reshape(count, width, channels, size)
        bytes_of = [
            _unfiltered(stored[:, :1], values[..., i], self._above[..., i], self.head.colour) for i in range(size)
        ]
        found = np.stack(bytes_of, axis=-1)
        self._above = found[-1]
        return found.view(self.kind.newbyteorder(">"))[..., 0].astype(self.kind, copy=False)

    def _filtered(self, length: int) -> bytearray:
        """Return the next bytes of what is compressed."""
        found = bytearray()
        while len(found) < length:
            piece = self._inflate.decompress(self._left, length - len(found))
            self._left = self._inflate.unconsumed_tail
            found += piece
            if not piece and not self._left:
                self._left = next(self._content, b"")
                if not self._left or self._inflate.eof:
                    raise InputError(_CUT_SHORT)
        return found


def _whole(rows: _Rows, head: _Head) -> NDArray[Any]:
    """Return all of an image, (H, W, C)."""
    image = np.empty((head.height, head.width, head.channels), rows.kind)
    for top, left, down, across in _PASSES if head.interlaced else _ONE_PASS:
        part = image[top::down, left::across]
        if part.size:
            rows.begin(part.shape[1])
            step = max(1, _STRIP_BYTES // part[0].nbytes)
            for first in range(0, len(part), step):
                part[first : first + step] = rows.next(min(step, len(part) - first))
    return image


def _unfiltered(filters: Bytes, values: Bytes, above: Bytes, colour: int) -> Bytes:
    """Return a strip as it was before it was filtered, (n, W, C).

    Args:
        filters: (n, 1), the kind of each row's filter.
        values: (n, W, C), filtered.
        above: (W, C), the row above, not filtered.
        colour: the type of colour that has C channels.
    """
    rows = np.concatenate([filters, values.reshape(len(values), -1)], axis=1).tobytes()
    content = zlib.compress(b"\0" + above.tobytes() + rows, 0)
    with Image.open(io.BytesIO(_file(len(above), 1 + len(values), colour, content)), formats=["PNG"]) as picture:
        return np.asarray(picture).reshape(-1, *above.shape)[1:]


def _file(width: int, height: int, colour: int, content: bytes, others: bytes = b"") -> bytes:
    """Return a PNG file of 8 bits."""
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", head) + others + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def check_sums(stream: BinaryIO) -> None:
    """Raise InputError where pixels do not have the checksum that was written with them; Pillow does not look at it."""
    for kind, length in _chunks(stream):
        if kind != b"IDAT":
            continue
        found = zlib.crc32(kind)
        while length > 0 and (piece := stream.read(min(length, _READ_BYTES))):
            found, length = zlib.crc32(piece, found), length - len(piece)
        written = stream.read(4)
        if len(written) == 4 and int.from_bytes(written, "big") != found:
            raise InputError("the file is damaged: its pixels do not have the checksum that was written with them")


def check_end(stream: BinaryIO, pixels: Pixels) -> None:
    """Raise InputError where what is compressed ends well, but before the last row: Pillow makes the rest black.

    Counting takes a part of the time that decoding does, so only files are counted that may lack rows: with a palette,
    with passes, of images that were reduced, or with nothing along an edge, as a picture may have been turned.

    Args:
        stream: of a file that Pillow has decoded.
        pixels: what it is.
    """
    for kind, _ in _chunks(stream):
        if kind == b"IHDR":
            break
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", stream.read(13))
    planes = pixels.planes
    edges = (planes[:, 0], planes[:, -1], planes[:, :, 0], planes[:, :, -1])
    if colour != 3 and not interlaced and pixels.reduced is None and all(edge.any() for edge in edges):
        return
    left = 0
    for top, first, down, across in _PASSES if interlaced else _ONE_PASS:
        rows, columns = len(range(top, height, down)), len(range(first, width, across))
        left += rows * (1 + (columns * bits * _STORED[colour] + 7) // 8) if columns else 0
    inflate = zlib.decompressobj()
    for content in _contents(stream):
        piece = content
        while piece and left > 0:
            left -= len(inflate.decompress(piece, _READ_BYTES))
            piece = inflate.unconsumed_tail
    if left > 0:
        raise InputError(_CUT_SHORT)


def _chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield the kind and the length of each chunk; the stream is at its content then, and may be moved."""
    place, end = len(_SIGNATURE), stream.seek(0, io.SEEK_END)
    while place + 8 <= end:
        stream.seek(place)
        length, kind = struct.unpack(">I4s", stream.read(8))
        yield kind, length
        place += 12 + length


def _contents(stream: BinaryIO) -> Iterator[bytes]:
    """Yield what is compressed, piece by piece."""
    for kind, length in _chunks(stream):
        while kind == b"IDAT" and length > 0:
            piece = stream.read(min(length, _READ_BYTES))
            if not piece:
                return
            length -= len(piece)
            yield piece


def _head(stream: BinaryIO) -> tuple[_Head, tuple[int, ...] | None, bytes] | None:
    """Return what a file says of itself: its head, the value that is transparent, and chunks of text.

    Returns:
        None where it is grey, or has a palette, or its head is damaged.
    """
    head, clear, texts = None, None, b""
    for kind, length in _chunks(stream):
        if kind == b"IHDR" and length == 13:
            width, height, bits, colour, *rest = struct.unpack(">IIBBBBB", stream.read(13))
            if (
                bits not in (8, 16)
                or colour not in _CHANNELS
                or rest not in ([0, 0, 0], [0, 0, 1])
                or not width * height
            ):
                return None
            head = _Head(width, height, bits, colour, rest[2] == 1)
        elif head is None:
            return None
        elif kind == b"tRNS" and length == 2 * head.channels:
            clear = struct.unpack(f">{head.channels}H", stream.read(length))
        elif kind in _TEXTS and length <= _MOST_TEXT:
            texts += _chunk(kind, stream.read(length))
    return None if head is None else (head, clear, texts)

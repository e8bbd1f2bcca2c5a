"""Parts of TIFF pages as small TIFF files, for Pillow: some rows of a huge page, or the numbers of a page it misreads.

Pillow decodes a page whole, and some kinds of numbers wrongly; but libtiff, by which it does so, undoes every
compression. A file with few of a page's strips, or with other tags over the same strips, is decoded as it should be.

Source: TIFF 6.0 (Adobe, 1992), sections 2, 14 and 15.
"""

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recondite.data.pillow import values_of, white_of_values
from recondite.data.scaling import Pixels, averaged, block_size

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _SAMPLES, _ROWS, _COUNTS = (
    *(256, 257, 258, 259, 262, 273, 277, 278, 279),
)
_BIT_ORDER, _PREDICTOR, _TILE_WIDTH, _TILE_ROWS, _TILE_OFFSETS, _TILE_COUNTS = 266, 317, 322, 323, 324, 325
_COPIED = (_BITS, _COMPRESSION, _PHOTOMETRIC, _BIT_ORDER, _SAMPLES, 284, _PREDICTOR, 320, 339, 347, 529, 530, 532)
"""What decoding depends on; beside the above planes, the palette, the kind of numbers, and tables of JPEG."""
_FORMS = {1: "B", 3: "H", 4: "I", 5: "I", 7: "B"}
_SHORT, _LONG, _RATIONAL = 3, 4, 5
_PLAIN, _NONE, _DIFFERENCES = 1, 1, 2
_BYTES = {_BITS: 8, _PHOTOMETRIC: 1, _SAMPLES: 1, _PREDICTOR: _NONE}
"""Tags of a grey image, whose pixels are the bytes of another."""
_PART_BYTES = 1 << 24

Entries = dict[int, tuple[int, tuple[int, ...]]]
"""Tag -> its type and values."""


@dataclass(frozen=True)
class _Segments:
    """Strips or tiles of a page, or of one plane of it: `across` of them make a band of `rows` rows."""

    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    rows: int
    tile_width: int | None
    across: int


def read(stream: BinaryIO, frame: int, target: tuple[int, int], white: float | None) -> Pixels | None:
    """Return a huge page as means of blocks, decoded some rows at a time.

    Args:
        stream: of the file.
        frame: the number of its directory.
        target: (height, width) that it will be resized to.
        white: what is white where the file says so.

    Returns:
        None where it must be decoded whole: it has an alpha channel, or lies in planes or in one piece, or is turned.

    Raises:
        Exception: whatever Pillow raises for damaged files.
    """
    import tifffile

    stream.seek(0)
    with tifffile.TiffFile(stream) as file:
        page = file.pages[frame].aspage()
        size, orientation = (page.imagelength, page.imagewidth), page.tags.valueof(274, 1)
        segments = _segments(page)
        row_bytes = page.imagewidth * page.samplesperpixel * max(1, page.bitspersample // 8)
        if (
            page.planarconfig != 1
            or page.extrasamples
            or orientation != 1
            or segments.rows * row_bytes > 2 * _PART_BYTES
        ):
            return None
        bands = max(1, _PART_BYTES // (segments.rows * row_bytes))
        order, entries = file.byteorder, _copied(page)

    def parts() -> Iterator[NDArray[Any]]:
        for top in range(0, size[0], bands * segments.rows):
            height = min(bands * segments.rows, size[0] - top)
            first = top // segments.rows * segments.across
            few = _few(segments, first, -(-height // segments.rows) * segments.across)
            content = _file(stream, order, entries, few, (height, size[1]))
            with Image.open(content, formats=["TIFF"]) as picture:
                picture.load()
                yield values_of(picture)

    first = next(parts())
    return averaged(_in_order(parts()), size, block_size(*size, target), white or white_of_values(first))


def numbers_of(stream: BinaryIO, order: str, page: Any) -> NDArray[Any] | None:
    """Return the numbers of a page of any channels, (H, W, C), whatever they stand for.

    Args:
        stream: of the file.
        order: "<" or ">".
        page: a `tifffile.TiffPage`.

    Returns:
        None where they are of 12 bits and the like, or differences of floats, or libtiff does not know the compression.
    """
    kind, differences = page.dtype, page.predictor
    if kind is None or page.bitspersample != 8 * kind.itemsize or differences not in (_NONE, _DIFFERENCES):
        return None
    whole, height, width = _segments(page), page.imagelength, page.imagewidth
    separate = page.planarconfig != 1 and page.samplesperpixel > 1
    planes, samples = (page.samplesperpixel, 1) if separate else (1, page.samplesperpixel)
    as_bytes: Entries = {tag: (_SHORT, (value,)) for tag, value in _BYTES.items()}
    as_bytes |= {_COMPRESSION: (_SHORT, (int(page.compression),)), _BIT_ORDER: (_SHORT, (int(page.fillorder),))}
    found, count = [], len(whole.offsets) // planes
    for plane in range(planes):
        few = _few(whole, plane * count, count, samples * kind.itemsize)
        content = _file(stream, order, as_bytes, few, (height, width * samples * kind.itemsize))
        try:
            with Image.open(content, formats=["TIFF"]) as picture:
                stored = np.asarray(picture).view(kind.newbyteorder(order)).reshape(height, width, samples)
        except (OSError, KeyError):
            return None
        numbers = stored.astype(kind.newbyteorder("="))
        step = whole.tile_width or width
        for left in range(0, width, step) if differences == _DIFFERENCES else ():
            part = numbers[:, left : left + step]
            np.cumsum(part, axis=1, dtype=part.dtype, out=part)
        found.append(numbers)
    return np.concatenate(found, axis=2)


def _segments(page: Any) -> _Segments:
    offsets, counts = tuple(page.dataoffsets), tuple(page.databytecounts)
    if page.is_tiled:
        across = -(-page.imagewidth // page.tilewidth)
        return _Segments(offsets, counts, page.tilelength, page.tilewidth, across)
    if len(offsets) == 1 and page.compression == _PLAIN and counts[0] % page.imagelength == 0:
        row = counts[0] // page.imagelength  # one piece, whose rows can be told apart
        rows = max(1, min(page.imagelength, _PART_BYTES // max(1, row)))
        tops = range(0, page.imagelength, rows)
        heights = [min(rows, page.imagelength - top) for top in tops]
        return _Segments(
            tuple(offsets[0] + row * top for top in tops), tuple(row * height for height in heights), rows, None, 1
        )
    return _Segments(offsets, counts, min(page.rowsperstrip, page.imagelength), None, 1)


def _few(segments: _Segments, first: int, count: int, times: int = 1) -> _Segments:
    """Return some of the segments, so many times as wide."""
    few = slice(first, first + count)
    return _Segments(
        segments.offsets[few],
        segments.counts[few],
        segments.rows,
        segments.tile_width and times * segments.tile_width,
        segments.across,
    )


def _copied(page: Any) -> Entries:
    found: Entries = {}
    for tag in (page.tags[code] for code in _COPIED if code in page.tags):
        if tag.dtype in _FORMS:
            value = list(tag.value) if isinstance(tag.value, bytes) else np.ravel(tag.value)
            found[tag.code] = int(tag.dtype), tuple(map(int, value))
    return found


def _file(stream: BinaryIO, order: str, entries: Entries, segments: _Segments, size: tuple[int, int]) -> io.BytesIO:
    """Return a TIFF file of these segments of another."""
    stored = []
    for offset, count in zip(segments.offsets, segments.counts, strict=True):
        stream.seek(offset)
        stored.append(stream.read(count))
    places = tuple(int(place) for place in 8 + np.cumsum([0, *map(len, stored[:-1])]))
    lengths = tuple(map(len, stored))
    if segments.tile_width is None:
        layout: Entries = {_OFFSETS: (_LONG, places), _ROWS: (_LONG, (segments.rows,)), _COUNTS: (_LONG, lengths)}
    else:
        layout = {_TILE_WIDTH: (_LONG, (segments.tile_width,)), _TILE_ROWS: (_LONG, (segments.rows,))}
        layout |= {_TILE_OFFSETS: (_LONG, places), _TILE_COUNTS: (_LONG, lengths)}
    all_entries = entries | layout | {_WIDTH: (_LONG, (size[1],)), _HEIGHT: (_LONG, (size[0],))}
    content = b"".join(stored)
    start = 8 + len(content) + len(content) % 2
    directory, outside = struct.pack(f"{order}H", len(all_entries)), b""
    behind = start + 2 + 12 * len(all_entries) + 4
    for code, (kind, values) in sorted(all_entries.items()):
        packed = struct.pack(f"{order}{len(values)}{_FORMS[kind]}", *values)
        count = len(values) // 2 if kind == _RATIONAL else len(values)
        directory += struct.pack(f"{order}HHI", code, kind, count)
        if len(packed) <= 4:
            directory += packed.ljust(4, b"\0")
        else:
            directory += struct.pack(f"{order}I", behind + len(outside))
            outside += packed + b"\0" * (len(packed) % 2)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return io.BytesIO(head + content.ljust(start - 8, b"\0") + directory + b"\0\0\0\0" + outside)


def _in_order(parts: Iterator[NDArray[Any]]) -> Callable[[int, int], NDArray[Any]]:
    """Return a function from two numbers of rows to those between them, which are asked for in order."""
    kept: list[NDArray[Any]] = []

    def rows(top: int, bottom: int) -> NDArray[Any]:
        while sum(map(len, kept)) < bottom - top:
            kept.append(next(parts))
        together = kept[0] if len(kept) == 1 else np.concatenate(kept)
        kept[:] = [together[bottom - top :]]
        return together[: bottom - top]

    return rows

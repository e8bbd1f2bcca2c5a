"""One look at one image, decoded once: its statistics, its pixels' hash, a small grey copy and a thumbnail."""

import hashlib
import io
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recondite.audits.measures import FileFacts, file_facts, luma_of, measured
from recondite.data.files import open_regular
from recondite.data.images import Floats, Preprocessing, decode
from recondite.data.items import MAX_FILE_BYTES, Deferred, Page, content_of, in_words, path_of
from recondite.data.pictures import colours
from recondite.data.scaling import Pixels, scaled_planes
from recondite.errors import InputError, SourceError

GREY_SIDE = 32
"""Pixels a side of the small grey copies that copies are found by."""
THUMBNAIL_SIDE, THUMBNAIL_QUALITY = 112, 82
"""Longest side in pixels, and quality, of the small pictures, which are JPEG files."""
_LARGEST_SIDE = 4096
_BY_NAME_ONLY = (".npy", ".tga")
_ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND", b"GI": b"\x3b"}
"""The first bytes of a file, and what is among its last ones when it is whole."""
_TAIL = 4096


@dataclass(frozen=True)
class Look:
    """What was seen in one image.

    Args:
        error: why it cannot be read; None where it was, else all below is empty.
        truncated: whether it cannot be read because its file ends too early.
        measures: its statistics, as `measured` has them.
        orientation: the EXIF tag as it is.
        turned: whether the tag turned it by a quarter.
        digest: of its pixels, 16 bytes.
        grey: uint8 (32, 32), luma, whatever its proportion.
        thumbnail: the bytes of a JPEG file.
        content: of the bytes of its file, a digest of 16 bytes; empty where it is no file.
        known: whether only that digest was made, because it is known what is seen in such a file.
        pixels: what the backbone looks at; None without one.
    """

    error: str | None = None
    truncated: bool = False
    measures: dict[str, float] | None = None
    orientation: int | None = None
    turned: bool = False
    digest: bytes = b""
    grey: NDArray[np.uint8] | None = None
    thumbnail: bytes = b""
    content: bytes = b""
    known: bool = False
    pixels: Floats | None = None


def look_at(source: object, preprocessing: Preprocessing | None, known: Container[bytes] = ()) -> Look:
    """Return what is seen in one image; whatever is wrong with it is a reason in words.

    Args:
        source: anything that `decode` takes.
        preprocessing: of the backbone; None without one.
        known: digests of files that are not decoded, because it is known what is seen in them.

    Raises:
        SourceError: it cannot be reached.
    """
    content: bytes | None = None
    try:
        source, content = _fetched(source)
        digest = b"" if content is None else hashlib.blake2b(content, digest_size=16).digest()
        if digest in known:
            return Look(content=digest, known=True)
        facts = FileFacts() if content is None else file_facts(content)
        seen = _seen(decode(source, (_LARGEST_SIDE, _LARGEST_SIDE)), facts, preprocessing)
        return replace(seen, content=digest)
    except SourceError:
        raise
    except Exception as error:  # whatever one image does, the others are looked at
        words = str(error) if isinstance(error, InputError) else in_words(error)
        return Look(error=words, truncated="truncated" in words or (content is not None and ends_too_early(content)))


def ends_too_early(content: bytes) -> bool:
    """Return whether the end of a JPEG, PNG, GIF or WebP file is missing.

    >>> ends_too_early(bytes.fromhex("ffd8ffe0")), ends_too_early(bytes.fromhex("ffd8ffe0ffd9"))
    (True, False)
    """
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return len(content) < int.from_bytes(content[4:8], "little") + 8
    end = _ENDS.get(content[:2])
    return end is not None and end not in content[-_TAIL:]


def _fetched(source: object) -> tuple[object, bytes | None]:
    """Return an image, and the bytes of its file where it is one; both are the same bytes where that suffices."""
    if isinstance(source, Deferred):
        content = source.fetch()
        return content, content
    path = path_of(source)
    if path is not None and not path.suffix.lower().endswith(_BY_NAME_ONLY):
        content = _read(path)
        return content, content
    if isinstance(source, Page) or path is not None:
        return source, None
    held = content_of(source)
    return (source, None) if held is None else (held, bytes(held))


def _read(path: Path) -> bytes:
    try:
        with open_regular(path) as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}") from error
    if not content:
        raise InputError("the file is empty")
    if len(content) > MAX_FILE_BYTES:
        raise InputError(f"the file has more than {MAX_FILE_BYTES:,} bytes")
    return content


def _seen(pixels: Pixels, facts: FileFacts, preprocessing: Preprocessing | None) -> Look:
    channels = 1 if len(pixels.planes) == 1 and pixels.alpha is None else 3
    planes = np.stack(list(scaled_planes(pixels, channels)))
    if len(planes) not in (1, 3):
        raise InputError(f"expected an image of 1, 3 or 4 channels; got {len(planes)}")
    planes = np.clip(planes, 0.0, 1.0)
    opaque = None if pixels.alpha is None else pixels.alpha.astype(np.float32) / np.float32(pixels.white or 1)
    if pixels.alpha is None and len(pixels.planes) == 4:
        opaque = pixels.planes[3].astype(np.float32) / np.float32(pixels.white or 1)
    shape = str((pixels.planes.shape, pixels.planes.dtype.str)).encode()
    digest = hashlib.blake2b(np.ascontiguousarray(pixels.planes).data, digest_size=16, key=shape[:64])
    if opaque is not None:
        digest.update(np.ascontiguousarray(opaque).data)
    luma = Image.fromarray(luma_of(planes))
    small = np.asarray(luma.resize((GREY_SIDE, GREY_SIDE), Image.Resampling.BILINEAR))
    return Look(
        measures=measured(planes, opaque, facts, pixels.size),
        orientation=facts.orientation,
        turned=facts.orientation in (5, 6, 7, 8),
        digest=digest.digest(),
        grey=(small * 255 + 0.5).clip(0, 255).astype(np.uint8),
        thumbnail=_thumbnail(planes),
        pixels=None if preprocessing is None else preprocessing(Pixels(planes, None, None)),
    )


def _thumbnail(planes: Floats) -> bytes:
    picture = Image.fromarray(colours(planes))
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=THUMBNAIL_QUALITY)
    return stream.getvalue()

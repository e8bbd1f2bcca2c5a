"""What a batch job judges: the images in a ZIP or TAR file, or in a place that the configuration allows.

Archives are never unpacked onto the disk, and names in them are never paths: an image is read from its place in the
archive when its turn comes, at most so many bytes of it.
"""

import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, Self

from recondite.data.datasets import open_images
from recondite.data.files import local_path, open_regular
from recondite.data.formats import is_image_name
from recondite.data.items import Deferred, Unreadable
from recondite.data.listing import unique_names
from recondite.data.tars import CheckedHeader, check_end
from recondite.errors import InputError

MOST_IMAGES = 100_000
_MOST_EXPANSION = 1 << 36
"""Bytes of all images of an archive, unpacked."""
_LARGEST_DIRECTORY = 1 << 24
_LARGEST_HEADER = 1 << 20
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ENCRYPTED = 1
_ZIP, _TAR = b"PK", b"ustar"
_NOWHERE = (-1, 0)
"""Of a link in a TAR file to something that is no image in it."""


class JobSource(Protocol):
    """Images by number, in an order that stays."""

    @property
    def names(self) -> Sequence[str]:
        """What the images are called; all different."""

    def read(self, index: int, most: int) -> bytes:
        """Return the bytes of an image file.

        Raises:
            InputError: it cannot be read, or has more than `most` bytes.
        """


def open_archive(path: Path) -> JobSource:
    """Open a ZIP file, or a TAR file that is not compressed.

    Raises:
        InputError: it is neither, or damaged, holds no images, too many of them, or too much when unpacked.
    """
    with path.open("rb") as stream:
        head = stream.read(512)
    if not head.startswith(_ZIP) and head[257:262] != _TAR:
        raise InputError("expected a ZIP file, or a TAR file that is not compressed")
    try:
        return _Zip(path) if head.startswith(_ZIP) else _Tar(path)
    except InputError:
        raise
    except Exception as error:  # archives of strangers are damaged in many ways
        raise InputError(f"the archive cannot be read: {error or type(error).__name__}") from error


def open_place(place: str, allowed: Sequence[str]) -> JobSource:
    """Open a folder of this machine, or what a store has below an address.

    Args:
        place: of the images.
        allowed: folders and addresses; the place must be one of them or below one.

    Raises:
        InputError: it is not, or holds no images, or too many.
        SourceError: the store cannot be reached.
    """
    if not any(_is_below(place, one) for one in allowed):
        raise InputError("this place is not among those that the service may read")
    return _Place(place, allowed)


class _Zip:
    def __init__(self, path: Path) -> None:
        self._path = path
        with _SmallReads(path) as stream, zipfile.ZipFile(stream) as archive:
            self._members = [one for one in archive.infolist() if not one.is_dir() and is_image_name(one.filename)]
        self.names = _checked([one.filename for one in self._members], [one.file_size for one in self._members])

    def read(self, index: int, most: int) -> bytes:
        member = self._members[index]
        if max(member.file_size, member.compress_size - _LARGEST_HEADER) > most:
            raise InputError(f"the file has {member.file_size:,} bytes; the limit is {most:,}")
        try:
            with self._path.open("rb") as stream:
                # Not through the directory, which would be read again for every image.
                return _unpacked(stream, member)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"it cannot be read from the archive: {error or type(error).__name__}") from error


class _SmallReads(io.FileIO):
    """A file of which little is read at once; a directory of ZIP is read as a whole, so that it has to be small."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > _LARGEST_DIRECTORY:
            raise InputError(f"expected at most {MOST_IMAGES:,} images")
        return super().read(wanted) or b""


def _unpacked(stream: BinaryIO, member: zipfile.ZipInfo) -> bytes:
    """Return what one member of a ZIP file holds; at most as many bytes as its directory says."""
    stream.seek(member.header_offset)
    head = stream.read(_LOCAL_HEADER.size)
    signature, *_, name_length, extra_length = _LOCAL_HEADER.unpack(head)
    if signature != b"PK\x03\x04" or member.flag_bits & _ENCRYPTED:
        raise InputError("it cannot be read from the archive: damaged, or encrypted")
    stream.seek(name_length + extra_length, os.SEEK_CUR)
    content = stream.read(member.compress_size)
    if member.compress_type == zipfile.ZIP_DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.file_size + 1)
    elif member.compress_type != zipfile.ZIP_STORED:
        raise InputError("it cannot be read from the archive: only deflated and stored members are")
    if len(content) != member.file_size or zlib.crc32(content) != member.CRC:
        raise InputError("it is damaged: its size or its checksum is wrong")
    return content


class _Tar:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._members: list[tuple[str, int, int]] = []
        with tarfile.open(path, "r:", tarinfo=_SmallHeader) as archive:
            count, files = 0, dict[str, tuple[int, int]]()
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else it keeps all of them
                count += 1
                if count > 2 * MOST_IMAGES:
                    raise InputError(f"expected at most {MOST_IMAGES:,} images")
                if not is_image_name(member.name):
                    continue
                if member.isreg() and not member.issparse():
                    files[member.name] = member.offset_data, member.size
                    self._members.append((member.name, *files[member.name]))
                elif member.islnk() or member.issym():
                    place = files.get(member.linkname) if member.islnk() else None
                    self._members.append((member.name, *(place or _NOWHERE)))
            check_end(archive)
        self.names = _checked([name for name, _, _ in self._members], [size for _, _, size in self._members])

    def read(self, index: int, most: int) -> bytes:
        _, offset, size = self._members[index]
        if (offset, size) == _NOWHERE:
            raise InputError("the archive holds a link in its place: pack the file itself")
        if size > most:
            raise InputError(f"the file has {size:,} bytes; the limit is {most:,}")
        with self._path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(size)


class _SmallHeader(CheckedHeader):
    """A header whose long names and other extras, which are read as a whole, are small."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.size > _LARGEST_HEADER and not found.isreg():
            raise tarfile.ReadError("a header is too large")
        return found


class _Place:
    def __init__(self, place: str, allowed: Sequence[str]) -> None:
        images = open_images(place)
        if images.ids is None or len(images.ids) > MOST_IMAGES:
            raise InputError(f"expected at most {MOST_IMAGES:,} images")
        self._images, self._allowed = images, allowed
        self.names = images.ids

    def read(self, index: int, most: int) -> bytes:
        source = self._images.entry(index)[0]
        if isinstance(source, Unreadable):
            raise InputError(source.reason)
        if isinstance(source, Deferred):
            size = getattr(source, "size", 0)
            if size > most:
                raise InputError(f"the file has {size:,} bytes; the limit is {most:,}")
            return source.fetch()
        if not isinstance(source, Path):
            raise InputError("files with several pages are judged one page at a time: send them page by page")
        if not any(_is_below(str(source), one) for one in self._allowed):
            raise InputError("it is a link to a place that the service may not read")
        with open_regular(source) as stream:
            content = stream.read(most + 1)
        if len(content) > most:
            raise InputError(f"the file has more than {most:,} bytes")
        return content


def _is_below(place: str, allowed: str) -> bool:
    """Return whether a place is what is allowed, or below it; links are followed, and nothing climbs out by ".."."""
    own, root = local_path(place), local_path(allowed)
    if own is not None and root is not None:
        return Path(os.path.realpath(own)).is_relative_to(os.path.realpath(root))
    if own is None and root is None:
        climbs = any(part in ("", ".", "..") for part in place.partition("://")[2].rstrip("/").split("/"))
        return not climbs and f"{place.rstrip('/')}/".startswith(f"{allowed.rstrip('/')}/")
    return False


def _checked(names: Sequence[str], sizes: Sequence[int]) -> list[str]:
    if not names:
        raise InputError("the archive holds no images")
    if len(names) > MOST_IMAGES:
        raise InputError(f"expected at most {MOST_IMAGES:,} images; got {len(names):,}")
    if sum(sizes) > _MOST_EXPANSION:
        raise InputError(f"unpacked, the images have {sum(sizes):,} bytes; the limit is {_MOST_EXPANSION:,}")
    return unique_names(name.encode("utf-8", "backslashreplace").decode() for name in names)

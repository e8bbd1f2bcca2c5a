"""Tar files that are read to their end: what is damaged, cut off or goes on behind the end mark is an error."""

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Self, cast

_AT_ONCE = 1 << 16
_UNPACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open, b"\x5d\0\0\x80": lzma.open}


class CheckedHeader(tarfile.TarInfo):
    """A header; a damaged one is an error, where tarfile takes it for the end."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {tar.offset}") from error


@contextmanager
def open_tar(stream: BinaryIO) -> Iterator[tarfile.TarFile]:
    """Yield a tar, compressed or not, to be read once from its beginning to its end; what is left is read at the end.

    Only there stands the checksum of what was compressed, which tarfile does not look at.

    Args:
        stream: of its bytes, buffered.

    Raises:
        tarfile.ReadError: it is damaged, or goes on behind its end mark; within the block too.
    """
    head = cast(io.BufferedReader, stream).peek(6)
    opener: Any = next((one for magic, one in _UNPACKED.items() if head.startswith(magic)), None)
    try:
        unpacked = stream if opener is None else opener(stream)
        with tarfile.open(fileobj=unpacked, mode="r|", tarinfo=CheckedHeader) as tar:
            yield tar
            check_end(tar)
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise tarfile.ReadError(str(error)) from error
    except OSError as error:
        if error.errno is not None:  # of the disk, and not of gzip or bz2
            raise
        raise tarfile.ReadError(str(error)) from error


def check_end(tar: tarfile.TarFile) -> None:
    """Raise tarfile.ReadError if anything but zeros follows where reading a tar has ended."""
    stream: Any = tar.fileobj
    while part := stream.read(_AT_ONCE):
        if part.count(0) < len(part):
            raise tarfile.ReadError("it goes on behind its end mark")

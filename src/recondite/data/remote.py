"""Remote files such as s3://BUCKET/FOLDER: listed, and read with retries, through fsspec."""

import io
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from recondite.data.addresses import without_secrets
from recondite.data.files import open_regular
from recondite.data.items import MAX_FILE_BYTES, Deferred
from recondite.errors import InputError, SourceError

ATTEMPTS = 8
_BUFFER = 1 << 20
_VERSIONS = ("ETag", "etag", "md5Hash", "LastModified", "updated", "mtime")
"""What stores call the hash of a file's content, or the time when it was written."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 20.0

T = TypeVar("T")


@dataclass(frozen=True)
class StoredFile(Deferred):
    """An image in a store.

    Args:
        url: its address.
        size: in bytes, as listed.
        version: what the store says of the content: its hash or the time when it was written; "" if nothing.
    """

    url: str
    size: int
    version: str = ""

    def fetch(self) -> bytes:
        if self.size == 0:
            raise InputError("the file is empty")
        if self.size > MAX_FILE_BYTES:
            raise InputError(f"the file has {self.size:,} bytes; the limit is {MAX_FILE_BYTES:,}")
        return patiently(lambda: _read(self.url), self.url)

    def identity(self) -> list[Any] | None:
        return [self.url, self.size, self.version] if self.version else None


@dataclass(frozen=True)
class NamedFile(StoredFile):
    """An image in a store that is named by its address and was not listed: the store is asked when it is needed."""

    size: int = -1

    def fetch(self) -> bytes:
        return self._listed().fetch()

    def identity(self) -> list[Any] | None:
        try:
            return self._listed().identity()
        except (InputError, SourceError):
            return None

    def _listed(self) -> StoredFile:
        system, path = _open_store(self.url)
        facts = patiently(lambda: system.info(path), self.url)
        return StoredFile(self.url, _size_of(facts), _version_of(facts))


def is_url(source: str) -> bool:
    """Return whether this is the address of something in a store."""
    return "://" in source


def list_files(url: str) -> list[tuple[str, StoredFile]]:
    """Return (name below `url`, file) of every file under an address, by name; or of the one file.

    Raises:
        InputError: an unknown kind of address, or nothing is there.
        SourceError: the store cannot be reached.
    """
    system, root = _open_store(url)
    found = patiently(lambda: system.find(root, detail=True), url)
    if not found:
        raise InputError(f"there is nothing at {without_secrets(url)}")
    listed = []
    for path, facts in found.items():
        name = path[len(root) :].strip("/") or path.rpartition("/")[2]
        listed.append((name, StoredFile(system.unstrip_protocol(path), _size_of(facts), _version_of(facts))))
    return sorted(listed, key=lambda entry: entry[0])


def _size_of(facts: Mapping[str, Any]) -> int:
    return int(facts.get("size") or 0)


def _version_of(facts: Mapping[str, Any]) -> str:
    return next((str(facts[key]) for key in _VERSIONS if facts.get(key)), "")


def open_stream(url: str) -> BinaryIO:
    """Open a file of a store, or of this machine (a path), for reading; errors of the store are waited out.

    Raises:
        InputError: there is no such file.
        SourceError: the store cannot be reached, now or while reading.
    """
    if not is_url(url):
        try:
            return open_regular(Path(url))
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror or error}") from error
    system, path = _open_store(url)
    return io.BufferedReader(_Patient(patiently(lambda: system.open(path, "rb"), url), url), _BUFFER)


class _Patient(io.RawIOBase):
    """A file of a store whose reads are tried again."""

    def __init__(self, file: Any, url: str) -> None:
        self._file, self._url, self._place = file, url, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        def read() -> bytes:
            self._file.seek(self._place)
            content: bytes = self._file.read(len(buffer))
            return content

        content = patiently(read, self._url)
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._file.size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def close(self) -> None:
        self._file.close()
        super().close()


def patiently(read: Callable[[], T], url: str) -> T:
    """Return what `read` returns; errors of the store are waited out, longer each time, at random (eight attempts).

    Raises:
        InputError: there is no such file.
        SourceError: the last attempt failed too.
    """
    pause = _FIRST_PAUSE
    for attempt in range(ATTEMPTS):
        try:
            return read()
        except FileNotFoundError as error:
            raise InputError("cannot be read: No such file or directory") from error
        except Exception as error:  # stores and networks fail in types of their own
            if attempt == ATTEMPTS - 1:
                raise SourceError(f"{without_secrets(url)} cannot be read: {error or type(error).__name__}") from error
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(2 * pause, _LONGEST_PAUSE)
    raise AssertionError


def _read(url: str) -> bytes:
    system, path = _open_store(url)
    content: bytes = system.cat_file(path)
    return content


def _open_store(url: str) -> tuple[Any, str]:
    """Return (file system, path in it); fsspec keeps one file system for each kind of store."""
    try:
        import fsspec
    except ImportError as error:
        raise InputError("addresses of stores need fsspec: pip install 'recondite[s3]'") from error
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        where = without_secrets(url)
        raise InputError(f"cannot open {where}: {error}; s3:// needs pip install 'recondite[s3]'") from error
    return system, str(path)

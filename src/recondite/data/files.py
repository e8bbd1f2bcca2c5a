"""Atomic files: written whole or not at all."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: Path, *, flushed: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure it disappears.

    A reader, or a crash at any moment, sees the old file or the new one, never a part of one.

    Args:
        path: the file.
        flushed: wait until it is on the disk; otherwise a power cut may leave a part of it, and its SHA-256 has to be
            checked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".recondite-", suffix=".partial")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if flushed:
            _flush_to_disk(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        if flushed:
            _flush_to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`.

    An existing folder is moved aside first and removed last. After a crash between the two moves the old folder is
    found by `existing_folder`, and put back by the next write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    old = _aside(path)
    if old.exists() and not path.exists():
        old.rename(path)
    shutil.rmtree(old, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=".recondite-", suffix=".partial"))
    try:
        yield temporary
        for file in temporary.iterdir():
            _flush_to_disk(file)
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        _flush_to_disk(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def existing_folder(path: Path) -> Path:
    """Return `path`, or the old folder that a crash of `atomic_folder` left beside it. Nothing is moved."""
    old = _aside(path)
    return old if old.is_dir() and not path.exists() else path


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.recondite-old")


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

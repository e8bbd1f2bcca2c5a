"""Atomic files: written whole or not at all, by one process at a time."""

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO, TextIO
from urllib.parse import unquote

from recondite.errors import InputError, OutputError

_LONGEST_NAME = 255
_TEMPORARY, _PARTIAL = ".recondite-", ".partial"
_NEW, _LOCK = "new", "lock"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
OF_WRITING = {
    *_NO_ROOM,
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY),
}
"""Numbers of the errors that say that there is no room, or no right to write."""


def local_path(source: str) -> Path | None:
    """Return the path that is meant, "~" and "file://" resolved; None for the address of a store, such as s3://.

    Raises:
        InputError: it has a NUL character, or is empty, as an unset variable of a shell leaves it; this folder is ".".
    """
    if not source:
        raise InputError("expected a path; got an empty one, as where a variable is not set")
    scheme, found, rest = source.partition("://")
    is_file = found and scheme.lower() == "file"
    path = unquote("/" + rest.partition("/")[2]) if is_file else source
    if "\0" in path:
        raise InputError(f"expected a path; got one with a NUL character: {source!r}")
    if is_file:
        return Path(path)
    return None if found else Path(os.path.expanduser(path))  # noqa: PTH111  pathlib raises for an unknown ~user


@contextmanager
def atomic_file(path: Path, *, flushed: bool = True) -> Iterator[Path]:
    """Yield a temporary file beside `path`; on success it replaces `path`, on failure it disappears.

    What a process that was killed leaves of it goes when the next one writes into the folder. A reader, or a crash at
    any moment, sees the old file or the new one, never a part of one. Where `path` is a link, the file behind it is
    written.

    Args:
        path: the file.
        flushed: wait until it is on the disk; otherwise a power cut may leave a part of it, and its SHA-256 has to be
            checked.

    Raises:
        OutputError: no room, or no right; within the block too.
    """
    with naming(path):
        path = behind_links(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _workplace(path.parent) as place:
            temporary = place / _NEW
            temporary.touch()
            yield temporary
            if flushed:
                _flush_to_disk(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            if flushed:
                _flush_to_disk(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`.

    An existing folder is moved aside first and removed last. After a crash between the two moves the old folder is
    found by `existing_folder`, and put back by the next write. Where `path` is a link, the folder behind it is meant.

    Raises:
        OutputError: no room, or no right; within the block too.
    """
    with naming(path):
        path = behind_links(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        old = _aside(path)
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(old, ignore_errors=True)
        with _workplace(path.parent) as place:
            temporary = place / _NEW
            temporary.mkdir()
            try:
                yield temporary
            except OutputError as error:  # it names what is to become `path`
                raise OutputError(str(error).replace(str(temporary), str(path))) from error
            for file in temporary.iterdir():
                _flush_to_disk(file)
            temporary.chmod(0o777 & ~_umask())
            if path.exists():
                path.rename(old)
            temporary.rename(path)
            _flush_to_disk(path.parent)
            shutil.rmtree(old, ignore_errors=True)


def existing_folder(path: Path) -> Path:
    """Return `path`, or the old folder that a crash of `atomic_folder` left beside it. Nothing is moved."""
    if path.exists():
        return path
    old = _aside(behind_links(path))
    return old if old.is_dir() else path


def left_unfinished(folder: Path) -> list[Path]:
    """Return what `atomic_file` and `atomic_folder` are writing in a folder, or were when their process was killed."""
    return list(folder.glob(f"{_TEMPORARY}*{_PARTIAL}"))


@contextmanager
def _workplace(parent: Path) -> Iterator[Path]:
    """Yield a new folder for what is being written; it goes at the end, or, by its lock, when its process is dead."""
    _sweep(Path(os.path.abspath(parent)))
    with ExitStack() as stack:
        while True:
            folder = Path(tempfile.mkdtemp(dir=parent, prefix=_TEMPORARY, suffix=_PARTIAL))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            try:
                lock = stack.enter_context((folder / _LOCK).open("w"))
            except FileNotFoundError:
                continue  # another process took it for one that was left
            try:
                if _is_ours(lock, folder / _LOCK):
                    break
            except BlockingIOError:
                continue
            except OSError:
                break  # this file system has no locks
        yield folder


@cache
def _sweep(parent: Path) -> None:
    """Remove what dead processes were writing in a folder; once in a process, as folders may hold millions of files."""
    for folder in left_unfinished(parent):
        with suppress(OSError), (folder / _LOCK).open("w") as lock:
            if _is_ours(lock, folder / _LOCK):
                shutil.rmtree(folder, ignore_errors=True)


def _is_ours(stream: TextIO, lock: Path) -> bool:
    """Take a lock, until its file is closed or the process ends; False where the one who held it has removed it.

    Raises:
        BlockingIOError: another process holds it.
        OSError: this file system has no locks.
    """
    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        return os.fstat(stream.fileno()).st_ino == lock.stat().st_ino
    except FileNotFoundError:
        return False


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn an error of the system, met while `path` is written, into an OutputError that names it.

    Raises:
        OutputError: no room is left for it, or it may not be written.
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if error.errno not in OF_WRITING or not _is_about(error, path):
            raise
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def _is_about(error: OSError, path: Path) -> bool:
    """Return whether an error is about a file that is written, or a folder on its way, and not about another."""
    # Of a copy both files are named; room is lacking where it goes to.
    found = error.filename2 if error.errno in _NO_ROOM and error.filename2 is not None else error.filename
    if not isinstance(found, str | bytes | os.PathLike):
        return True
    whole, named = Path(os.path.abspath(path)), Path(os.path.abspath(os.fsdecode(found)))
    on_its_way = whole.is_relative_to(named) and error.errno != errno.EISDIR
    return on_its_way or named.parent.is_relative_to(whole.parent)


@contextmanager
def locked(path: Path, lock: Path | None = None) -> Iterator[None]:
    """Keep other processes from writing to a file or folder; the lock ends with the process that holds it.

    Args:
        path: the file or folder.
        lock: where the lock is; by default beside `path`.

    Raises:
        InputError: another process is writing there.
    """
    lock = lock or beside(behind_links(path), ".lock")
    with naming(path):
        lock.parent.mkdir(parents=True, exist_ok=True)
        while True:
            stream = lock.open("w")
            try:
                if _is_ours(stream, lock):
                    break
            except BlockingIOError as error:
                stream.close()
                raise InputError(
                    f"another process is writing to {path}: wait for it, or name another output"
                ) from error
            except OSError:
                break  # this file system has no locks
            stream.close()
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        stream.close()


def behind_links(path: Path) -> Path:
    """Return the file or folder that a link stands for, there or not; anything else as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def beside(path: Path, end: str) -> Path:
    """Return a hidden file beside another, named after it.

    Raises:
        InputError: it has no name, as the root of a disk.
    """
    if not path.name:
        raise InputError(f"expected a path that ends in a name; got {path}")
    return path.with_name(fitting(f".{path.name}", end))


def fitting(name: str, end: str = "") -> str:
    """Return name + end, cut if it is longer than file systems allow (255 bytes), with a digest that tells it apart.

    >>> fitting("a.png", ".map.png")
    'a.png.map.png'
    >>> len(fitting("a" * 250, ".map.png"))
    255
    """
    whole = name.encode("utf-8", "surrogatepass")
    room = _LONGEST_NAME - len(end.encode())
    if len(whole) <= room:
        return name + end
    digest = hashlib.blake2b(whole, digest_size=8).hexdigest()
    return f"{whole[: room - len(digest) - 1].decode('utf-8', 'ignore')}~{digest}{end}"


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read its bytes; a pipe or a device would wait for ever.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    regular_size(path)
    return path.open("rb")


def regular_size(path: Path) -> int:
    """Return how many bytes a file has.

    Raises:
        OSError: it is not there, or is no regular file.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    return found.st_size


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _aside(path: Path) -> Path:
    return beside(path, ".recondite-old")


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

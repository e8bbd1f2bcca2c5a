"""Text files that list images, one path or address a line."""

import codecs
import os
from collections.abc import Iterable
from pathlib import Path

from recondite.data.files import atomic_file
from recondite.errors import InputError
from recondite.progress import counted, say

SUFFIX = ".txt"


def read_path_list(path: Path) -> list[str]:
    """Return the paths and addresses of a list; relative paths are below the folder that the list is in.

    Raises:
        InputError: the file cannot be read, or lists nothing that is there.
    """
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    named = [os.path.expanduser(os.fsdecode(line.rstrip(b"\r"))) for line in lines if line.strip()]  # noqa: PTH111
    if not named:
        raise InputError(f"{path} lists no images: expected one path a line")
    found = [one if "://" in one else os.path.join(path.parent, one) for one in named]  # noqa: PTH118
    if not any("://" in one or os.path.exists(one) for one in found):  # noqa: PTH110
        raise InputError(f"{path} is no list of images, as none of its paths is there: give one path a line")
    return found


def write_path_list(path: Path, named: Iterable[str]) -> None:
    """Write a list that `read_path_list` reads, atomically; paths that hold a line feed are left out, which is said."""
    lines = list(named)
    broken = [one for one in lines if "\n" in one]
    if broken:
        say(f"{path.name} leaves out {counted(len(broken), 'path')} with a line feed, such as {broken[0]!r}")
    with atomic_file(path) as temporary:
        temporary.write_bytes(b"".join(os.fsencode(one) + b"\n" for one in lines if "\n" not in one))

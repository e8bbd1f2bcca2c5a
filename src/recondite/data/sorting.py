"""Image files put into one folder a verdict: moved there, or linked from there."""

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from recondite.data.files import atomic_file, naming

How = Literal["move", "link"]


class SortedFiles:
    """A folder with a sub-folder for each verdict.

    Args:
        folder: made when the first file comes.
        how: move files into it, or put links to them there.
        verdicts: all that there are.
    """

    def __init__(self, folder: Path, how: How, verdicts: Iterable[str]) -> None:
        self._folder, self._how, self._verdicts = folder, how, tuple(verdicts)

    def put(self, path: Path, name: str, verdict: str) -> None:
        """Move or link a file; a link that is there stays, and a file that went meanwhile is let go.

        Args:
            path: where it is.
            name: relative to the folder that it was found in; kept, with a number where another file has it.
            verdict: names the sub-folder.

        Raises:
            OutputError: no room, or no right.
        """
        with naming(self._folder):
            if self._how == "link":
                self._link(os.path.abspath(path), name, verdict)
            elif path.exists():
                target = _free(self._folder / verdict / name)
                target.parent.mkdir(parents=True, exist_ok=True)
                _move(path, target)

    def _link(self, whole: str, name: str, verdict: str) -> None:
        for other in self._verdicts:
            # A link leads to whatever has the name now: that of an earlier image under this name is wrong by now.
            link = self._folder / other / name
            if other != verdict and link.is_symlink() and os.readlink(link) == whole:  # noqa: PTH115
                link.unlink()
        link = self._folder / verdict / name
        if link.is_symlink() and os.readlink(link) == whole:  # noqa: PTH115
            return
        link = _free(link)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(whole)


def _move(path: Path, target: Path) -> None:
    if path.is_symlink() and not path.readlink().is_absolute():  # from another folder it would lead elsewhere
        target.symlink_to(path.parent.resolve() / path.readlink())
        path.unlink()
        return
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # to another disk, where it has to be copied
            raise
        with atomic_file(target) as temporary:
            shutil.copyfile(path, temporary)
            shutil.copystat(path, temporary)
        path.unlink()


def _free(path: Path) -> Path:
    """Return a path that nothing has, with a number before the suffix where it is needed."""
    found, number = path, 1
    while os.path.lexists(found):
        number += 1
        found = path.with_name(f"{path.stem} ({number}){path.suffix}")
    return found

"""What a command is to write, checked before it begins: possible, told apart, and not among the images."""

import glob
import os
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from recondite.data.datasets import ImageSet
from recondite.data.files import fitting, local_path
from recondite.data.formats import is_image_name
from recondite.data.listing import Files
from recondite.data.tables import is_stdout
from recondite.errors import InputError

PICTURES = (".png", ".svg", ".pdf")
_PAGES = (".html", ".htm")


def check_picture(path: Path, suffixes: Collection[str] = PICTURES) -> None:
    """Raise InputError unless a picture's suffix is one of those that it can be drawn as."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"expected a picture that ends in {', '.join(suffixes)}; got {path.name!r}")


def check_outputs(
    files: Mapping[str, Path | str | None],
    folders: Mapping[str, Path | str | None] | None = None,
    *,
    inputs: Iterable[object] = (),
    images: object = None,
) -> None:
    """Check that all outputs can be written, and each by itself; nothing is left behind.

    Args:
        files: what a user calls each ("--report") -> its path; None where it is not asked for.
        folders: likewise; what is in them may be written anew.
        inputs: files that are read, and must stay as they are.
        images: what is judged, as `open_images` takes it: pictures written into a folder of images would be judged the
            next time.

    Raises:
        InputError: an output cannot be written, is there twice or is an input, a report is not named as a page is, or
            pictures would lie among the images.
    """
    asked = [(name, Path(path), False) for name, path in files.items() if path is not None and not is_stdout(path)]
    asked += [(name, Path(path), True) for name, path in (folders or {}).items() if path is not None]
    read = {os.path.realpath(path): path for path in map(_as_path, inputs) if path is not None and path.is_file()}
    roots = [os.path.realpath(root) for root in image_folders(images)]
    seen: dict[str, str] = {}
    for name, path, is_folder in asked:
        real = os.path.realpath(path)
        _check_writable(name, path, Path(real), is_folder)
        if real in seen:
            raise InputError(f"{seen[real]} and {name} are both {path}: name another file for one of them")
        if real in read:
            raise InputError(f"{name} {path} is what is read: name another file")
        if name == "--report" and path.suffix.lower() not in _PAGES:
            raise InputError(f"expected a report that ends in {', '.join(_PAGES)}; got {path.name!r}")
        seen[real] = name
        if is_folder or is_image_name(path.name):
            for root in roots:
                if Path(real).is_relative_to(root):
                    raise InputError(
                        f"{name} {path} lies among the images, in {root}: what is written there would be taken for "
                        "images the next time. Name a folder elsewhere"
                    )


def image_folders(images: object) -> list[Path]:
    """Return the folders of this machine that a source of images is found in by looking through them."""
    if isinstance(images, ImageSet):
        return [images.items.root] if isinstance(images.items, Files) and len(images.items) > 1 else []
    if isinstance(images, list | tuple):
        return [folder for one in images if isinstance(one, str | Path) for folder in image_folders(one)]
    path = _as_path(images)
    if path is None:
        return []
    if path.is_dir():
        return [path]
    if not path.exists() and glob.has_magic(str(path)):
        parts = path.parts
        plain = next(index for index, part in enumerate(parts) if glob.has_magic(part))
        return [Path(*parts[:plain])]
    return []


def _as_path(source: object) -> Path | None:
    return local_path(str(source)) if isinstance(source, str | Path) else None


def _check_writable(name: str, path: Path, real: Path, is_folder: bool) -> None:
    """Raise InputError where a file or folder cannot be made or replaced."""
    if any(fitting(part) != part for part in path.parts):
        raise InputError(f"{name} {str(path)[:60]}... has a name of more than 255 bytes, which no file can have")
    if is_folder and real.exists() and not real.is_dir():
        raise InputError(f"{name} {path} is a file: name a folder")
    if not is_folder and real.is_dir():
        raise InputError(f"{name} {path} is a folder: name a file, such as {path / 'verdicts.csv'}")
    there = real if is_folder else real.parent
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise InputError(f"{name} {path} cannot be written: {there} is not a folder")
    try:
        with tempfile.TemporaryFile(dir=there):  # without a name, so that nothing can be left of it
            pass
    except OSError as error:
        raise InputError(f"{name} {path} cannot be written: {there}: {error.strerror}") from error

"""Masks of defects: which pixels of an image are one."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recondite.data.datasets import ImageSet
from recondite.data.formats import suffix_of
from recondite.data.images import decode
from recondite.data.masks import brightness, check_proportions, image_called
from recondite.errors import InputError

_ENDS, _GROUND_TRUTH, _LEVELS = ("_mask", ""), "ground_truth", 3
_LOSSY, _HEAD = (".jpg", ".webp", ".avif", ".heic", ".jp2", ".j2k"), 16


def mask_of_defect(truth: Path, name: str, sides: tuple[int, ...], image: object = None) -> NDArray[np.bool_]:
    """Return the mask of one image, bool (H, W), resized by its nearest pixel.

    A defect too thin for that, such as a scratch of one pixel, is where most of it lies.

    Args:
        truth: the folder of masks: for DEFECT/NAME.jpg a mask DEFECT/NAME_mask.png or DEFECT/NAME.png, or of another
            suffix, not black on the defect; or without DEFECT. What is transparent is not marked, nor, in a format
            that changes pixels, such as JPEG, what is no brighter than half the brightest.
        name: of the image.
        sides: (H, W).
        image: that it is of, anything that `decode` takes, in whose proportions it has to be; None for whatever it is.

    Raises:
        InputError: there is none, it cannot be read, is black, or lies across the image.
    """
    return _read(_file(truth, name), sides, image)


def check_truth(truth: Path, names: Iterable[str]) -> None:
    """Check, before any image is looked at, that each of these names has a mask in a folder of masks.

    Raises:
        InputError: there is no such folder, no mask for one of the images, or one mask for images in two folders.
    """
    if not truth.is_dir():
        raise InputError(f"expected a folder of masks; got {str(truth)!r}")
    whose: dict[Path, Path] = {}
    for name in names:
        mask, folder = _file(truth, name), Path(name).parent
        other = whose.setdefault(mask, folder)
        if other != folder:
            raise InputError(f"{mask} would be a mask of images in {other} and {folder}: give each a folder of masks")


def masks_beside(
    images: ImageSet, sides: tuple[int, ...], skip: frozenset[str] = frozenset()
) -> dict[str, NDArray[np.bool_]]:
    """Return id -> mask bool (H, W) of those images that have one, in a folder ground_truth near by (MVTec's layout).

    For SET/test/DEFECT/NAME.png that is SET/ground_truth/DEFECT/NAME_mask.png or NAME.png. Images in `skip`, such as
    those that cannot be read, are left out.

    Raises:
        InputError: a mask cannot be read, is black, or lies across its image.
    """
    found = {}
    for name, item, _ in images.entries(skip) if images.ids is not None else ():
        if isinstance(item, Path):
            folders = [parent / _GROUND_TRUTH / item.parent.name for parent in list(item.parents)[:_LEVELS]]
            mask = _found(folders, item.stem)
            if mask is not None:
                found[name] = _read(mask, sides, item)
    return found


def _file(truth: Path, name: str) -> Path:
    path = Path(name)
    if "#" in path.suffix:
        raise InputError(
            f"{name} is one page of a file, and a mask is of a whole one: give each page a file of its own"
        )
    parts = [part for part in path.parent.parts if part not in (path.anchor, "..")]
    existing = _found([truth.joinpath(*parts[start:]) for start in range(len(parts) + 1)], path.stem)
    if existing is None:
        within = next((one for one in sorted(truth.iterdir()) if _found([one], path.stem)), None)
        raise InputError(
            f"there is no mask for {name}: expected {truth.joinpath(*parts[-1:]) / path.stem}{_ENDS[0]}.png"
            + (f"; {within} has one: give that folder" if within else "")
        )
    return existing


def _found(folders: Sequence[Path], stem: str) -> Path | None:
    masks = (image_called(folder, f"{stem}{end}") for folder in folders for end in _ENDS if folder.is_dir())
    return next((mask for mask in masks if mask is not None), None)


def _read(file: Path, sides: tuple[int, ...], image: object) -> NDArray[np.bool_]:
    try:
        pixels = decode(file)
        values, alpha = brightness(pixels, "biuf")
    except InputError as error:
        raise InputError(f"the mask {file}: {error}") from error
    if image is not None:
        check_proportions(values, *decode(image, (sides[0], sides[1])).size, f"the mask {file}")
    with file.open("rb") as stream:
        lossy = suffix_of(stream.read(_HEAD)) in _LOSSY
    marked = values > (values.max() / 2 if lossy else 0)  # such files hold greys around a defect, and specks beside it
    if alpha is not None:
        marked &= alpha > 0
    if not marked.any():
        raise InputError(f"the mask {file} marks nothing")
    picture, size = Image.fromarray(marked.astype(np.float32)), (sides[1], sides[0])
    mask: NDArray[np.bool_] = np.asarray(picture.resize(size, Image.Resampling.NEAREST)) > 0
    if not mask.any():
        shares = np.asarray(picture.resize(size, Image.Resampling.BOX))
        mask = shares >= shares.max() / 2
    return mask

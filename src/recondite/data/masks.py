"""What a user gives as a region: masks and polygons, for all images or one for each."""

import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.files import local_path
from recondite.data.formats import IMAGE_SUFFIXES
from recondite.data.images import decode
from recondite.data.items import Masked
from recondite.data.regions import Mask, half_inside, polygon_mask
from recondite.data.scaling import MAX_PIXELS, Pixels
from recondite.errors import InputError

_LARGEST_DISPROPORTION = 0.02
_LARGEST_SHARE_OF_GREY = 0.2
_FEWEST_POINTS = 3
_LARGEST_FILE = 16 << 20
_LARGEST_SIDE = 1 << 16
_SUFFIXES = (".png", *sorted(IMAGE_SUFFIXES - {".png"}))
_POLYGONS = '{"size": [height, width], "polygons": [[[x, y], ...], ...], "ignore": [[[x, y], ...], ...]}'


@dataclass(frozen=True)
class Region:
    """Where images count.

    Args:
        masks: of all images, each of a size of its own; what counts is inside of every one.
        folder: of one mask for each image; None without.
    """

    masks: tuple[Mask, ...] = ()
    folder: Path | None = None

    @property
    def given(self) -> bool:
        """Whether anything does not count."""
        return bool(self.masks) or self.folder is not None

    def check(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Check that the masks of all images fit some images.

        Args:
            sizes: (height, width) of each; none of vectors.

        Raises:
            InputError: they are vectors, or have other proportions than a mask.
        """
        if not sizes and self.given:
            raise InputError("region and ignore are for images, not for vectors")
        for mask in self.masks:
            for height, width in sizes:
                check_proportions(mask, height, width, "the mask or the size of the polygons")

    def at(self, height: int, width: int) -> Mask | None:
        """Return what counts of all images at a size, bool (height, width); None where that is everything.

        Raises:
            InputError: nothing is left inside.
        """
        if not self.masks:
            return None
        inside: Mask = np.logical_and.reduce([half_inside(mask, height, width) for mask in self.masks])
        if not inside.any():
            raise InputError(f"the region leaves nothing inside at {height} x {width} pixels")
        return inside


def open_region(region: object = None, ignore: object = None) -> Region:
    """Open what a user gives as the region that counts, and as the zones that do not.

    Args:
        region: a mask (white where images count) as an image file, PIL image or array (h, w) bool or uint8; polygons,
            as a dictionary or a .json file; a folder with one mask for each image (see `MaskedByFile`); or None.
        ignore: likewise, where images do not count; no folder.

    Raises:
        InputError: it cannot be read, leaves nothing inside, or is of another kind.
    """
    region, ignore = _resolved(region), _resolved(ignore)
    if isinstance(region, Path) and region.is_dir():
        return Region(_ignored(ignore), region)
    return Region((() if region is None else (_mask(region, "region"),)) + _ignored(ignore))


def mask_folder(path: object) -> Path:
    """Return the folder of masks that a user gives where the region of all images is fixed.

    Raises:
        InputError: it is none.
    """
    found = _resolved(path)
    if isinstance(found, Path) and found.is_dir():
        return found
    raise InputError(f"expected a folder with one mask per image (a region of all images is set by fit); got {path!r}")


def check_masks(given: Path | None, needed: bool) -> None:
    """Raise InputError where images have masks of their own and a screen was fitted without them, or the reverse."""
    if needed and given is None:
        raise InputError(
            "this screen was fitted with one mask per image: give region=, the folder of theirs (--region of "
            "recondite predict)"
        )
    if given is not None and not needed:
        raise InputError("this screen was not fitted with one mask per image: give none")


def _resolved(given: object) -> object:
    """Return a path of this machine as it is meant ("~", "file://"); anything else as it is."""
    path = local_path(str(given)) if isinstance(given, str | Path) else None
    return given if path is None else path


@dataclass(frozen=True)
class MaskedByFile(Masked):
    """An image whose mask lies in a folder of masks, under the image's id with another suffix.

    Args:
        source: the image, anything that `decode` takes.
        folder: of the masks.
        name: of the image, as in `ImageSet.ids`.
    """

    source: object
    folder: Path
    name: str

    def path(self) -> Path | None:
        """Return the file of the mask; None where there is none."""
        return image_called(self.folder, str(Path(self.name).with_suffix("")))

    def mask(self, height: int, width: int) -> Mask:
        path = self.path()
        if path is None:
            raise InputError(f"no mask for it in {self.folder}")
        try:
            mask = read_mask(path)
        except InputError as error:
            raise InputError(f"its mask {path}: {error}") from error
        check_proportions(mask, height, width, "its mask")
        return mask


def image_called(folder: Path, name: str) -> Path | None:
    """Return an image file by its name without suffix; None where there is none.

    The suffix may be in capitals, and accents be written in either form of Unicode, as macOS and others differ.
    """
    forms = dict.fromkeys((name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)))
    tried = (folder / f"{form}{end}" for form in forms for suffix in _SUFFIXES for end in (suffix, suffix.upper()))
    return next((path for path in tried if os.path.isfile(path)), None)  # noqa: PTH113  False for names too long


def read_mask(source: object) -> Mask:
    """Return a mask bool (h, w): True where it is white, or at least half as bright as its brightest pixel.

    Args:
        source: anything that `decode` takes: an image file, a PIL image, an array (h, w) bool or uint8.

    Raises:
        InputError: it is not an image, is black all over, or has so many greys that it is no mask.
    """
    values, alpha = brightness(decode(source), "buf")
    if alpha is not None:
        values[alpha <= alpha.max() / 2] = 0
    brightest = values.max()
    if brightest == 0:
        raise InputError("nothing is inside of the mask: it is black or transparent all over")
    grey = float(np.mean((values > 0.1 * brightest) & (values < 0.9 * brightest)))
    if grey > _LARGEST_SHARE_OF_GREY:
        raise InputError(f"expected a mask, white where images count and black elsewhere; {grey:.0%} of it is grey")
    inside: Mask = values >= brightest / 2
    return inside


def brightness(pixels: Pixels, kinds: str) -> tuple[NDArray[np.float32], NDArray[Any] | None]:
    """Return how bright each pixel of a mask is (h, w), by its brightest colour, and how opaque (h, w), or None.

    Args:
        pixels: of the mask.
        kinds: of numpy's types that its values may have.

    Raises:
        InputError: they are of another type, negative or not finite.
    """
    planes, alpha = pixels.parted()
    if planes.dtype.kind not in kinds:
        raise InputError(f"expected a mask of bool, uint8, uint16 or floats; got {planes.dtype}")
    values = planes.max(axis=0).astype(np.float32)
    if not np.isfinite(planes).all() or values.min() < 0:
        raise InputError("expected a mask of finite values that are not negative")
    return values, alpha


def check_proportions(mask: NDArray[Any], height: int, width: int, name: str) -> None:
    """Raise InputError where a mask, by its name, is longer or shorter by more than 2 % than an image is."""
    ratio = (mask.shape[0] / mask.shape[1]) / (height / width)
    if not 1 - _LARGEST_DISPROPORTION <= ratio <= 1 + _LARGEST_DISPROPORTION:
        raise InputError(
            f"{name} has other proportions than the image: {mask.shape[0]} x {mask.shape[1]} pixels (height x width), "
            f"and the image {height} x {width}"
        )


def _ignored(given: object) -> tuple[Mask, ...]:
    if given is None:
        return ()
    mask = ~_mask(given, "ignore")
    if not mask.any():
        raise InputError("nothing is inside: ignore covers everything")
    return (mask,)


def _mask(given: object, name: str) -> Mask:
    """Return a mask from a mask or polygons, given as `name`."""
    named = f"{name} {given}" if isinstance(given, str | Path) else name
    try:
        if isinstance(given, str | Path):
            if not Path(given).is_file():
                raise InputError("there is no such file" + (", but a folder" if Path(given).is_dir() else ""))
            if Path(given).suffix.lower() == ".json":
                given = _json(Path(given))
        if isinstance(given, Mapping):
            return _from_polygons(given, allowed=("polygons", "ignore") if name == "region" else ("polygons",))
        return read_mask(given)
    except InputError as error:
        raise InputError(f"{named}: {error}") from error


def _json(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size > _LARGEST_FILE:
        raise InputError(f"expected a file of at most {_LARGEST_FILE:,} bytes")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"it is not JSON: {error}") from error
    if not isinstance(found, Mapping):
        raise InputError(f"expected {_POLYGONS}; got a {type(found).__name__}")
    return found


def _from_polygons(given: Mapping[str, Any], allowed: tuple[str, ...]) -> Mask:
    """Return what lies in any polygon, or everywhere where there are none, and in none of those to ignore."""
    unknown = set(given) - {"size", *allowed}
    if unknown or not set(given) & set(allowed):
        raise InputError(f"expected {_POLYGONS} with {' or '.join(allowed)}; got {', '.join(map(repr, given))}")
    size = given.get("size")
    sides = list(size) if isinstance(size, list | tuple) else []
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= _LARGEST_SIDE for side in sides):
        raise InputError(f'expected "size": [height, width] in pixels; got {size!r}')
    height, width = sides
    if height * width > MAX_PIXELS:
        raise InputError(f"expected a size of at most {MAX_PIXELS:,} pixels, as images have; got {height} x {width}")
    inside = _union(given["polygons"], height, width) if "polygons" in given else np.ones((height, width), dtype=bool)
    if "ignore" in given:
        inside = inside & ~_union(given["ignore"], height, width)
    if not inside.any():
        raise InputError("nothing is inside: the polygons hold the centre of no pixel")
    return inside


def _union(polygons: object, height: int, width: int) -> Mask:
    if not isinstance(polygons, list | tuple):
        raise InputError(f"expected a list of polygons; got {type(polygons).__name__}")
    inside = np.zeros((height, width), dtype=bool)
    for number, polygon in enumerate(polygons, 1):
        try:
            points = np.array(polygon, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"polygon {number}: expected points [x, y]; {error}") from error
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < _FEWEST_POINTS:
            raise InputError(f"polygon {number}: expected at least {_FEWEST_POINTS} points [x, y]; got {polygon!r}")
        for x, y in points:
            if not (0 <= x <= width and 0 <= y <= height):  # NaN too
                raise InputError(f"polygon {number}: [{x:g}, {y:g}] lies outside of width {width}, height {height}")
        inside |= polygon_mask([(x, y) for x, y in points], height, width)
    return inside

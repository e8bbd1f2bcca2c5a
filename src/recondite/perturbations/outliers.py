"""Images that do not belong, made from nothing, cut from real pictures, or changed from normal images.

All are 8-bit, as stored pictures are, and depend on their arguments and the seed alone.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.images import Preprocessing, decode
from recondite.errors import InputError, not_among
from recondite.perturbations import blurred, defective, flipped, masked, rotated

Bytes = NDArray[np.uint8]
Draws = np.random.Generator

_TEXTURES = ("brick.png", "grass.png", "gravel.png")
_PLAIN = ("cell.png", "moon.png", "retina.jpg")
_PHOTOGRAPHS = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "motorcycle_left.png",
    "rocket.jpg",
)


def make_outliers(name: str, count: int, shape: tuple[int, int, int], seed: int = 0) -> Bytes:
    """Return images that owe nothing to any normal ones, (count, *shape).

    - constants: one random colour each;
    - gradients: from one random colour to another, at a random angle;
    - uniform-noise, gaussian-noise: every value drawn on its own, from U(0, 1), or N(0.5, 0.2) clipped to [0, 1];
    - checkerboards: two random colours, fields of one pixel to a quarter of the side;
    - textures: squares cut from photographs of brick, grass and gravel (scikit-image);
    - plain-photographs: squares cut from pictures of the moon, a cell and a retina, mostly smooth (scikit-image);
    - photographs: squares cut from pictures of people, animals and things (scikit-image where it is there, and
      scikit-learn).

    Args:
        name: a key of `SYNTHETIC`.
        count: how many.
        shape: (C, H, W); C is 1 or 3 for what is cut from pictures.
        seed: of every random draw.

    Raises:
        InputError: an unknown name, or the package with the pictures is missing.

    >>> make_outliers("constants", 2, (3, 8, 8)).std(axis=(2, 3)).max()
    np.float64(0.0)
    """
    if name not in SYNTHETIC:
        raise not_among("synthetic outliers", SYNTHETIC, name)
    return SYNTHETIC[name](count, shape, np.random.default_rng(seed))


def texture_tiles(side: int, *, seed: int = 0) -> Bytes:
    """Return squares (N, 1, side, side) that tile photographs of brick, grass and gravel, in random order.

    Args:
        side: in pixels; with 64 there are 192.
        seed: of the order.

    Raises:
        InputError: the package scikit-image is missing.
    """
    tiles = [
        picture[:1, top : top + side, left : left + side]
        for picture in _scikit_image(_TEXTURES)
        for top in range(0, picture.shape[1] - side + 1, side)
        for left in range(0, picture.shape[2] - side + 1, side)
    ]
    return np.stack(tiles)[np.random.default_rng(seed).permutation(len(tiles))]


def alter(name: str, images: Bytes, seed: int = 0) -> Bytes:
    """Return normal images changed, each on its own, in the same order and shape.

    - flipped: upside down; rotated-90, rotated-180: turned;
    - blurred: by a Gaussian of a sixteenth of the side (2 pixels of 32);
    - noise-masks: a square of a quarter of the side (8 pixels of 32) replaced by N(0, 1) clipped to [0, 1];
    - scratches: a thin straight line, black or white, whichever differs more from what lies under it;
    - blobs: a soft round spot, darker or lighter likewise;
    - cut-paste: a rectangle of the image pasted elsewhere in it (Li et al. 2021, arXiv 2104.04015).

    Args:
        name: a key of `ALTERED`.
        images: (N, C, H, W).
        seed: of every random draw.

    Raises:
        InputError: an unknown name, images that are not uint8 (N, C, H, W) or, for rotated-90, not square.

    >>> alter("rotated-180", np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8))[0, 0, 0, 0]
    np.uint8(63)
    """
    if name not in ALTERED:
        raise not_among("a change", ALTERED, name)
    if images.ndim != 4 or images.dtype != np.uint8:
        raise InputError(f"expected uint8 images (N, C, H, W); got {images.dtype} {images.shape}")
    return _to_bytes(ALTERED[name]((images / 255).astype(np.float32), seed))


def mixed(name: str, images: Bytes, seed: int = 0) -> Bytes:
    """Return images each made of several, which belong nowhere though every part of them does; same count and shape.

    - averages: the mean of two images;
    - mosaics: two quarters of one image, and one of each of two others;
    - shuffled-patches: sixteen patches of one image, in another order.

    Args:
        name: a key of `MIXED`.
        images: uint8 (N, C, H, W), N >= 2.
        seed: of every random draw.

    Raises:
        InputError: an unknown name, or images that are not uint8 (N, C, H, W) of at least 2.
    """
    if name not in MIXED:
        raise not_among("a mixture", MIXED, name)
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) < 2:
        raise InputError(f"expected at least 2 uint8 images (N, C, H, W); got {images.dtype} {images.shape}")
    return MIXED[name](images, np.random.default_rng(seed))


def _averages(images: Bytes, draws: Draws) -> Bytes:
    others = _others(len(images), draws)
    return ((images.astype(np.uint16) + images[others]) // 2).astype(np.uint8)


def _mosaics(images: Bytes, draws: Draws) -> Bytes:
    made = images.copy()
    height, width = (side // 2 for side in images.shape[2:])
    for rows, columns in ((slice(height), slice(width, None)), (slice(height, None), slice(width))):
        made[:, :, rows, columns] = images[_others(len(images), draws)][:, :, rows, columns]
    return made


def _shuffled_patches(images: Bytes, draws: Draws) -> Bytes:
    made = images.copy()
    height, width = (side // 4 for side in images.shape[2:])
    places = [
        (slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width))
        for row in range(4)
        for column in range(4)
    ]
    for old, new in zip(images, made, strict=True):
        for (to_rows, to_columns), taken in zip(places, draws.permutation(16), strict=True):
            rows, columns = places[taken]
            new[:, to_rows, to_columns] = old[:, rows, columns]
    return made


def _others(count: int, draws: Draws) -> NDArray[np.intp]:
    """Return for each of some images the number of another one."""
    order = draws.permutation(count)
    others = np.empty(count, dtype=np.intp)
    others[order] = np.roll(order, 1)
    return others


def _constants(count: int, shape: tuple[int, int, int], draws: Draws) -> Bytes:
    return np.broadcast_to(_colours(count, shape[0], draws), (count, *shape)).copy()


def _gradients(count: int, shape: tuple[int, int, int], draws: Draws) -> Bytes:
    start, end = _colours(count, shape[0], draws), _colours(count, shape[0], draws)
    angle = draws.uniform(0, 2 * np.pi, (count, 1, 1, 1))
    y, x = _grid(*shape[1:])
    along = x * np.cos(angle) + y * np.sin(angle)
    along -= along.min(axis=(2, 3), keepdims=True)
    along /= along.max(axis=(2, 3), keepdims=True)
    return _to_bytes((start + along * (end.astype(float) - start)) / 255)


def _uniform_noise(count: int, shape: tuple[int, int, int], draws: Draws) -> Bytes:
    return draws.integers(0, 256, (count, *shape), dtype=np.uint8)


def _gaussian_noise(count: int, shape: tuple[int, int, int], draws: Draws) -> Bytes:
    return _to_bytes(draws.normal(0.5, 0.2, (count, *shape)))


def _checkerboards(count: int, shape: tuple[int, int, int], draws: Draws) -> Bytes:
    one, other = _colours(count, shape[0], draws), _colours(count, shape[0], draws)
    field = draws.integers(1, max(1, min(shape[1:]) // 4) + 1, (count, 1, 1, 1))
    down, right = draws.integers(0, 2 * field), draws.integers(0, 2 * field)
    y, x = _grid(*shape[1:])
    return np.where(((y + down) // field + (x + right) // field) % 2 == 0, one, other).astype(np.uint8)


def _textures(count: int, shape: tuple[int, int, int], draws: Draws) -> Bytes:
    return _crops(_scikit_image(_TEXTURES), count, shape, draws)


def _plain_photographs(count: int, shape: tuple[int, int, int], draws: Draws) -> Bytes:
    return _crops(_scikit_image(_PLAIN), count, shape, draws)


def _photographs(count: int, shape: tuple[int, int, int], draws: Draws) -> Bytes:
    from sklearn.datasets import load_sample_images

    pictures = [np.moveaxis(picture, 2, 0) for picture in load_sample_images().images]
    if find_spec("skimage") is not None:
        pictures += _scikit_image(_PHOTOGRAPHS)
    return _crops(pictures, count, shape, draws)


def _scikit_image(files: Sequence[str]) -> list[Bytes]:
    """Return pictures (C, H, W) that lie inside the package scikit-image; nothing is downloaded."""
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise InputError("these pictures lie inside the package scikit-image: pip install 'recondite[demo]'")
    return [decode(Path(package.origin).parent / "data" / file).planes for file in files]


def _crops(pictures: Sequence[Bytes], count: int, shape: tuple[int, int, int], draws: Draws) -> Bytes:
    """Cut squares from the pictures in turn, from the side of an image to all of the picture, and resize them."""
    preprocessing = Preprocessing(shape=shape)
    cut = np.empty((count, *shape), dtype=np.uint8)
    for index in range(count):
        picture = pictures[index % len(pictures)]
        largest = min(picture.shape[1:])
        smallest = min(max(shape[1:]), largest)
        side = round(smallest * (largest / smallest) ** draws.random())
        top, left = (draws.integers(0, length - side + 1) for length in picture.shape[1:])
        cut[index] = _to_bytes(preprocessing(picture[:, top : top + side, left : left + side]))
    return cut


def _noise_masks(images: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    return masked(images, max(2, round(min(images.shape[2:]) / 4)), "normal", seed=seed).images


def _colours(count: int, channels: int, draws: Draws) -> Bytes:
    return draws.integers(0, 256, (count, channels, 1, 1), dtype=np.uint8)


def _grid(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the row and the column of each pixel, (H, 1) and (1, W)."""
    return np.arange(height, dtype=np.float64)[:, None], np.arange(width, dtype=np.float64)


def _to_bytes(values: NDArray[Any]) -> Bytes:
    made: Bytes = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
    return made


SYNTHETIC: dict[str, Callable[[int, tuple[int, int, int], Draws], Bytes]] = {
    "constants": _constants,
    "gradients": _gradients,
    "uniform-noise": _uniform_noise,
    "gaussian-noise": _gaussian_noise,
    "checkerboards": _checkerboards,
    "textures": _textures,
    "plain-photographs": _plain_photographs,
    "photographs": _photographs,
}
ALTERED: dict[str, Callable[[NDArray[np.float32], int], NDArray[np.float32]]] = {
    "flipped": lambda images, _: flipped(images),
    "rotated-90": lambda images, _: rotated(images, 90),
    "rotated-180": lambda images, _: rotated(images, 180),
    "blurred": lambda images, _: blurred(images, min(images.shape[2:]) / 16),
    "noise-masks": _noise_masks,
    "scratches": lambda images, seed: defective(images, "scratch", seed=seed).images,
    "blobs": lambda images, seed: defective(images, "blob", seed=seed).images,
    "cut-paste": lambda images, seed: defective(images, "cut-paste", seed=seed).images,
}
MIXED: dict[str, Callable[[Bytes, Draws], Bytes]] = {
    "averages": _averages,
    "mosaics": _mosaics,
    "shuffled-patches": _shuffled_patches,
}

"""Small synthetic defects, with masks of the pixels they cover."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recondite.errors import not_among
from recondite.perturbations.base import Draws, Images, Perturbed, checked, clipped, draws_of, grid

Mask = NDArray[np.float64]
_COVERED = 0.1  # a pixel belongs to a defect that covers this share of it
_CUT_PASTE_TRIES = 8


def defective(images: ArrayLike, name: str, *, seed: int = 0, first: int = 0) -> Perturbed:
    """Return images with one small defect each, and where it is.

    - scratch: a thin straight line, black or white, whichever differs more from what lies under it;
    - blob: a soft round spot, darker or lighter likewise;
    - cut-paste: a rectangle of the image pasted elsewhere in it (Li et al. 2021, arXiv 2104.04015), the one of a few
      that changes it most: plain onto plain would change nothing;
    - faint-patch: a small soft spot of the image, laid faintly over another one of it;
    - hairline: a short line, hardly darker or lighter than what lies under it;
    - dull-spot: a small spot that is out of focus;
    - bend: a part of the image moved by a little, smoothly, as if it were bent.

    The last four are hard to see; a detector that finds all of the others may differ from another in them.

    Args:
        images: floating-point (N, C, H, W) in [0, 1].
        name: a key of `DEFECTS`.
        seed: of all draws.
        first: the index of the first image; see `masked`.

    Raises:
        InputError: an unknown name, or not such images.

    >>> defective(np.full((1, 1, 16, 16), 0.2), "scratch").images.max() > 0.9
    np.True_
    """
    if name not in DEFECTS:
        raise not_among("a defect", DEFECTS, name)
    pixels = checked(images)
    changed, truth = np.empty_like(pixels), np.zeros((len(pixels), *pixels.shape[2:]), dtype=bool)
    for index, draws in enumerate(draws_of(len(pixels), seed, first)):
        changed[index], truth[index] = DEFECTS[name](pixels[index], draws)
    return Perturbed(changed, truth)


def _scratch(image: Images, draws: Draws) -> tuple[Images, NDArray[np.bool_]]:
    height, width = image.shape[1:]
    thickness = max(1.0, min(height, width) / 32)
    y, x = grid(height, width)
    length = draws.uniform(0.3, 0.7) * min(height, width)
    angle = draws.uniform(0, np.pi)
    y, x = y - draws.uniform(0.25, 0.75) * height, x - draws.uniform(0.25, 0.75) * width
    along = np.clip(x * np.cos(angle) + y * np.sin(angle), -length / 2, length / 2)
    distance = np.hypot(x - along * np.cos(angle), y - along * np.sin(angle))
    return _marked(image, np.clip(thickness / 2 + 0.5 - distance, 0, 1))


def _blob(image: Images, draws: Draws) -> tuple[Images, NDArray[np.bool_]]:
    height, width = image.shape[1:]
    y, x = grid(height, width)
    radius = draws.uniform(0.06, 0.12) * min(height, width)
    y, x = y - draws.uniform(0.2, 0.8) * height, x - draws.uniform(0.2, 0.8) * width
    return _marked(image, 0.7 * np.exp(-(x**2 + y**2) / (2 * radius**2)))


def _cut_paste(image: Images, draws: Draws) -> tuple[Images, NDArray[np.bool_]]:
    sides = np.array(image.shape[1:])
    best, best_change, truth = image, -1.0, np.zeros(image.shape[1:], dtype=bool)
    for _ in range(_CUT_PASTE_TRIES):
        tall, wide = np.minimum(sides, np.maximum(2, (draws.uniform(0.15, 0.35, 2) * sides).round().astype(int)))
        top, new_top = draws.integers(0, sides[0] - tall + 1, 2)
        left, new_left = draws.integers(0, sides[1] - wide + 1, 2)
        pasted = image.copy()
        window = (slice(new_top, new_top + tall), slice(new_left, new_left + wide))
        pasted[:, *window] = image[:, top : top + tall, left : left + wide]
        change = float(np.abs(pasted - image).sum(dtype=np.float64))
        if change > best_change:
            best, best_change, truth = pasted, change, np.zeros_like(truth)
            truth[window] = True
    return best, truth


def _faint_patch(image: Images, draws: Draws) -> tuple[Images, NDArray[np.bool_]]:
    height, width = image.shape[1:]
    side = max(3, round(min(height, width) * draws.uniform(0.03, 0.1)))
    side = min(side, height, width)
    weights = draws.uniform(0.3, 0.8) * np.minimum(1, 2 * np.outer(*2 * [np.hanning(side + 2)[1:-1]]))
    best, change = (slice(0, side), slice(0, side)), -1.0
    source = image[:, :side, :side]
    for _ in range(_CUT_PASTE_TRIES):
        (top, new_top), (left, new_left) = (draws.integers(0, whole - side + 1, 2) for whole in (height, width))
        patch, place = (
            image[:, top : top + side, left : left + side],
            (slice(new_top, new_top + side), slice(new_left, new_left + side)),
        )
        found = float(np.abs(patch - image[:, *place]).sum(dtype=np.float64))
        if found > change:
            best, change, source = place, found, patch
    changed, mask = image.copy(), np.zeros((height, width), dtype=bool)
    changed[:, *best] += weights * (source - changed[:, *best])
    mask[best] = True
    return clipped(changed), mask


def _hairline(image: Images, draws: Draws) -> tuple[Images, NDArray[np.bool_]]:
    height, width = image.shape[1:]
    shorter = min(height, width)
    length, thickness = draws.uniform(0.06, 0.2) * shorter, max(1.0, draws.uniform(0.005, 0.01) * shorter)
    angle, (y, x) = draws.uniform(0, np.pi), grid(height, width)
    y, x = y - draws.uniform(0.2, 0.8) * height, x - draws.uniform(0.2, 0.8) * width
    along = np.clip(x * np.cos(angle) + y * np.sin(angle), -length / 2, length / 2)
    covered = np.clip(thickness / 2 + 0.5 - np.hypot(x - along * np.cos(angle), y - along * np.sin(angle)), 0, 1)
    darker = float((image * covered).sum()) > 0.5 * len(image) * float(covered.sum())
    return clipped(image + (-1 if darker else 1) * draws.uniform(0.15, 0.5) * covered), covered >= _COVERED


def _dull_spot(image: Images, draws: Draws) -> tuple[Images, NDArray[np.bool_]]:
    from scipy.ndimage import gaussian_filter

    height, width = image.shape[1:]
    side = min(height, width, max(4, round(min(height, width) * draws.uniform(0.06, 0.14))))
    dull = gaussian_filter(image, (0, *2 * [max(0.8, 0.01 * min(height, width))]))
    best, change = (slice(0, side), slice(0, side)), -1.0
    for _ in range(_CUT_PASTE_TRIES):
        top, left = draws.integers(0, height - side + 1), draws.integers(0, width - side + 1)
        place = slice(top, top + side), slice(left, left + side)
        found = float(np.abs(dull[:, *place] - image[:, *place]).sum(dtype=np.float64))
        if found > change:
            best, change = place, found
    changed, mask = image.copy(), np.zeros((height, width), dtype=bool)
    changed[:, *best] = dull[:, *best]
    mask[best] = True
    return clipped(changed), mask


def _bend(image: Images, draws: Draws) -> tuple[Images, NDArray[np.bool_]]:
    from scipy.ndimage import map_coordinates

    height, width = image.shape[1:]
    shorter, (y, x) = min(height, width), grid(height, width)
    radius, far = draws.uniform(0.12, 0.24) * shorter, max(1.0, draws.uniform(0.015, 0.05) * shorter)
    direction = draws.uniform(0, 2 * np.pi)
    middle = draws.uniform(0.3, 0.7, 2) * (height, width)
    moved = far * np.maximum(0, 1 - ((y - middle[0]) ** 2 + (x - middle[1]) ** 2) / radius**2) ** 2
    places = [y + moved * np.sin(direction), x + moved * np.cos(direction)]
    bent = np.stack([map_coordinates(plane, places, order=1, mode="nearest") for plane in image])
    return clipped(bent), moved >= _COVERED


def _marked(image: Images, mask: Mask) -> tuple[Images, NDArray[np.bool_]]:
    """Draw black or white through a mask (H, W) in [0, 1], whichever differs more from what lies under it."""
    beneath = float((image * mask).sum() / (len(image) * max(mask.sum(), 1e-12)))
    return clipped(image * (1 - mask) + mask * (beneath < 0.5)), mask >= _COVERED


DEFECTS: dict[str, Callable[[Images, Draws], tuple[Images, NDArray[np.bool_]]]] = {
    "scratch": _scratch,
    "blob": _blob,
    "cut-paste": _cut_paste,
    "faint-patch": _faint_patch,
    "hairline": _hairline,
    "dull-spot": _dull_spot,
    "bend": _bend,
}

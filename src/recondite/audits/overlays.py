"""Overlays: many images that show the same in a corner, such as a logo or a date, and differ elsewhere.

Corners of a quarter of the sides are compared on the small grey copies. Two images share a corner when there both the
pixels and the differences of neighbouring pixels correlate by at least .9, the differences are no smaller than ten of
255 steps (root mean square), and the pixels outside of it correlate by less than .7. An overlay is a corner that one
image shares with at least four others, and with one in a hundred of the set; copies of one image count once. Among more
than 10,000 images overlays are looked for in so many of them, drawn at random, and then in the others.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from recondite.audits.findings import KINDS, Finding
from recondite.audits.look import GREY_SIDE
from recondite.audits.neighbours import centred
from recondite.audits.store import Row

_CORNER, _ALIKE, _ALIKE_ELSEWHERE, _STEPS = GREY_SIDE // 4, 0.9, 0.7, 10.0
_FEWEST, _SHARED_BY = 4, 0.01
_AT_ONCE, _MOST = 512, 10_000
_CORNERS = {"top left": (1, 1), "top right": (1, -1), "bottom left": (-1, 1), "bottom right": (-1, -1)}

Floats = NDArray[np.float32]


def overlay_findings(
    rows: Sequence[Row], grey: NDArray[np.uint8], groups: NDArray[np.intp], good: NDArray[np.intp]
) -> list[Finding]:
    """Return the findings of overlays.

    Args:
        rows: of N images.
        grey: (N, 1024), small grey copies.
        groups: the number of each image's group of copies (N,).
        good: which images can be read (M,).
    """
    first = good[np.unique(groups[good], return_index=True)[1]]
    drawn = np.sort(np.random.default_rng(0).permutation(first)[:_MOST])
    found = []
    for name, (down, across) in _CORNERS.items():

        def turned(some: NDArray[np.intp], down: int = down, across: int = across) -> Floats:
            return grey[some].reshape(-1, GREY_SIDE, GREY_SIDE)[:, ::down, ::across].astype(np.float32)

        stars = _stars(_shared(turned(drawn)), len(drawn), max(_FEWEST, _SHARED_BY * len(drawn)))
        for number, (centre, some) in enumerate(stars, 1):
            members = drawn[some] if len(drawn) == len(first) else _that_share(turned, int(drawn[centre]), first)
            reason = f"{KINDS['overlay'][1]}: {name}, in {len(members):,} images"
            group = f"overlay {number} {name}"
            found += [Finding(int(i), rows[i].id, "overlay", float(len(members)), reason, group) for i in members]
    return found


def _that_share(
    turned: Callable[[NDArray[np.intp]], Floats], centre: int, images: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Return which of some images share a corner with one of them, and that one."""
    others = images[images != centre]
    found = [np.array([centre])]
    for start in range(0, len(others), _AT_ONCE):
        some = others[start : start + _AT_ONCE]
        pairs = _shared(turned(np.concatenate([[centre], some])))
        found.append(some[pairs[1, pairs[0] == 0] - 1])
    return np.sort(np.concatenate(found))


def _stars(pairs: NDArray[np.intp], count: int, fewest: float) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Yield an image and those that share a corner with it, itself among them: first those of the most, if enough."""
    left = np.ones(pairs.shape[1], dtype=bool)
    while left.any():
        degrees = np.bincount(pairs[:, left].ravel(), minlength=count)
        centre = int(degrees.argmax())
        if degrees[centre] < fewest:
            return
        members = np.unique(pairs[:, left & (pairs == centre).any(axis=0)])
        yield centre, members
        left &= ~np.isin(pairs, members).any(axis=0)


def _shared(squares: Floats) -> NDArray[np.intp]:
    """Return pairs (2, L) of images (N, 32, 32) that have the same top left corner."""
    corners = squares[:, :_CORNER, :_CORNER]
    steps = np.stack([np.diff(corners, axis=1)[:, :, 1:], np.diff(corners, axis=2)[:, 1:]], axis=-1)
    rough = np.flatnonzero(np.sqrt(np.square(steps).mean(axis=(1, 2, 3))) >= _STEPS)
    if not len(rough):
        return np.zeros((2, 0), np.intp)
    elsewhere = np.ones(squares.shape[1:], dtype=bool)
    elsewhere[:_CORNER, :_CORNER] = False
    vectors = [centred(part[rough].reshape(len(rough), -1)) for part in (corners, steps)]
    outside = centred(squares[rough][:, elsewhere])
    found = [np.zeros((2, 0), np.intp)]
    for start in range(0, len(rough), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        alike = np.logical_and.reduce([own[some] @ own.T >= _ALIKE for own in vectors])
        one, two = np.nonzero(alike)
        one += start
        one, two = one[one < two], two[one < two]
        other = np.einsum("lv,lv->l", outside[one], outside[two]) < _ALIKE_ELSEWHERE
        found.append(rough[np.stack([one[other], two[other]])])
    return np.concatenate(found, axis=1)

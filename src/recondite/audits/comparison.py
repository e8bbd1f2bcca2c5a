"""How alike two images are, whatever is done to a copy: size, brightness, contrast, a crop, a mirror, blur or a sign.

One of the two small grey copies, whole or cropped, as it is or mirrored, is laid on the other where they correlate
most, so that brightness, contrast, size and file format do not matter. There they are compared in two ways: as they
are, and tolerantly: one of the two blurred as the other may be, and a corner or a border left out, where signs are put.
A sign draws the place of the largest correlation away, so that the tolerant comparison tries both whole, too. (The
tenth of the area that differs most, wherever it is, is not left out: that is all that tells one drawing from another.)
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recondite.audits.look import GREY_SIDE

LEAST_RESIDUAL, LEAST_OF_DETAILS = 1e-4, 1e-3
"""What is missing to a correlation of 1 at least, of grey values and of the differences of neighbouring pixels."""
_SIDE, _PAIRS_AT_ONCE = 16, 64
_FLAT, _CORNER, _BORDER = 1.5, 5, 2

Pairs = NDArray[np.intp]
Floats = NDArray[np.float32]
Likeness = NDArray[np.float64]


@dataclass(frozen=True)
class Search:
    """How much is tried to lay one image on another.

    Args:
        scales: shares of its sides that one of the two may be cropped to.
        offsets: how many places down, and across, are tried for each.
        blurs: deviations, in sixteenths of a side, by which one of the two may be blurred.
    """

    scales: Sequence[float]
    offsets: int
    blurs: Sequence[float] = ()


def alikeness(grey: NDArray[np.uint8], pairs: Pairs, search: Search) -> tuple[Likeness, Likeness]:
    """Return how much alike pairs (2, L) are, as they are and tolerantly (2, L each).

    First the correlation where it is largest, then there that of the differences of neighbouring pixels.

    Args:
        grey: (N, 1024), small grey copies.
        pairs: of their numbers.
        search: what is tried.
    """
    alike, details = np.zeros((2, pairs.shape[1])), np.zeros((2, pairs.shape[1]))

    threads = torch.get_num_threads()

    def compare_share(thread: int) -> None:
        for start in range(thread * _PAIRS_AT_ONCE, pairs.shape[1], threads * _PAIRS_AT_ONCE):
            compare(slice(start, start + _PAIRS_AT_ONCE))

    def compare(some: slice) -> None:
        squares = grey[pairs[:, some]].reshape(2, -1, GREY_SIDE, GREY_SIDE).astype(np.float32)
        squares -= squares.mean(axis=(2, 3), keepdims=True)
        one, two = _laid(squares, search)
        alike[:1, some], details[:1, some] = (of.T for of in _both_correlations(one, two, _ALL))
        whole_one, whole_two = WHOLE @ squares @ WHOLE.T
        tolerant = np.stack([_tolerantly(one, two, search), _tolerantly(whole_one, whole_two, search)])
        nearer = residual(tolerant[:, 0], tolerant[:, 1]).argmin(axis=0)
        alike[1, some], details[1, some] = tolerant[nearer, :, np.arange(len(nearer))].T

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(compare_share, range(threads)))
    return alike.clip(min=0), details


def residual(alike: Likeness, details: Likeness) -> Likeness:
    """Return the product of what is missing to correlations of 1, as `alikeness` has them, and of like shape."""
    return np.asarray((1 - alike).clip(min=LEAST_RESIDUAL) * (1 - details).clip(min=LEAST_OF_DETAILS))


def _laid(squares: Floats, search: Search) -> Floats:
    """Return of pairs (2, N, 32, 32) a crop and what it is laid on where they correlate most: (2, N, 16, 16)."""
    count = squares.shape[1]
    every, best = np.arange(count), np.zeros(count, np.float32)
    laid = np.zeros((2, count, _SIDE * _SIDE), np.float32)
    for cropped, whole in ((0, 1), (1, 0)):
        upright = WHOLE @ squares[whole] @ WHOLE.T
        wholes = np.stack([upright, upright[:, :, ::-1]], axis=1).reshape(count, 2, -1)
        for samplings in _crops(tuple(search.scales), search.offsets):
            parts = (samplings @ squares[cropped] @ samplings.T).reshape(
                count, -1, _SIDE, len(samplings) // _SIDE, _SIDE
            )
            parts = parts.transpose(0, 1, 3, 2, 4).reshape(count, -1, _SIDE * _SIDE)
            found = _about_correlations(parts, wholes).reshape(count, -1)
            place = found.argmax(axis=1)
            own = np.flatnonzero(found[every, place] > best)
            best[own] = found[own, place[own]]
            laid[0, own], laid[1, own] = parts[own, place[own] // 2], wholes[own, place[own] % 2]
    return laid.reshape(2, count, _SIDE, _SIDE)


@cache
def _crops(scales: tuple[float, ...], offsets: int) -> list[Floats]:
    """Return, for the whole and each scale, how 32 pixels become 16 of each crop: (16 * number of crops, 32)."""
    found = [WHOLE]
    for scale in scales:
        starts = np.linspace(0, (1 - scale) * GREY_SIDE, offsets)
        found.append(np.concatenate([_sampling(float(start), scale * GREY_SIDE) for start in starts]))
    return found


def _sampling(start: float, length: float) -> NDArray[np.float32]:
    """Return the matrix (16, 32) of means over sixteen equal spans, of that length together, of 32 pixels."""
    ends = start + np.arange(_SIDE + 1) * length / _SIDE
    pixels = np.arange(GREY_SIDE)
    covered = np.minimum(ends[1:, None], pixels + 1) - np.maximum(ends[:-1, None], pixels)
    weights = covered.clip(min=0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


WHOLE = _sampling(0, GREY_SIDE)
"""Makes 16 of 32 pixels."""


def _about_correlations(parts: Floats, wholes: Floats) -> Floats:
    """Return the correlations (N, K, 2) of parts (N, K, V) and wholes (N, 2, V), but for rounding; 0 of flat ones."""
    values = parts.shape[2]
    centred = wholes - wholes.mean(axis=2, keepdims=True)
    means = np.full((len(parts), 1, values), 1 / values, np.float32)
    products = parts @ np.concatenate([centred, means], axis=1).transpose(0, 2, 1)
    squares = np.einsum("nkv,nkv->nk", parts, parts) - values * products[:, :, 2] ** 2
    lengths = np.sqrt(squares.clip(min=0)[:, :, None] * np.einsum("nkv,nkv->nk", centred, centred)[:, None])
    return np.where(lengths < _FLAT * _FLAT * values, np.float32(0), products[:, :, :2] / np.maximum(lengths, 1e-6))


def _tolerantly(one: Floats, two: Floats, search: Search) -> Likeness:
    """Return the correlation of pictures (N, 16, 16), and that of their differences, by most of the area (2, N).

    One of the two is blurred as the other may be, a corner or a border left out, whichever makes them most alike.
    """
    tried = [(one, two)]
    for deviation in search.blurs:
        tried += [(_blurred(one, deviation), two), (one, _blurred(two, deviation))]
    best, least, every = np.zeros((2, len(one))), np.full(len(one), np.inf), np.arange(len(one))
    for first, second in tried:
        found = np.stack(_both_correlations(first, second, _AREAS))
        missing = residual(*found)
        area = missing.argmin(axis=1)
        nearer = missing[every, area] < least
        best[:, nearer], least[nearer] = found[:, every, area][:, nearer], missing[every, area][nearer]
    return best


def _areas() -> NDArray[np.bool_]:
    """Return what is compared tolerantly (9, 16, 16): all, or all but a tenth at a corner or a border."""
    found = np.ones((9, _SIDE, _SIDE), dtype=bool)
    found[1, :_CORNER, :_CORNER] = found[2, :_CORNER, -_CORNER:] = False
    found[3, -_CORNER:, :_CORNER] = found[4, -_CORNER:, -_CORNER:] = False
    found[5, :_BORDER] = found[6, -_BORDER:] = found[7, :, :_BORDER] = found[8, :, -_BORDER:] = False
    return found


_AREAS = _areas()
_ALL = _AREAS[:1]


def _both_correlations(one: Floats, two: Floats, areas: NDArray[np.bool_]) -> tuple[Likeness, Likeness]:
    """Return those of pictures (N, 16, 16) in each of some areas (K, 16, 16), and of their differences: (N, K) each."""
    beside = _beside(areas[:, :, 1:] & areas[:, :, :-1], areas[:, 1:] & areas[:, :-1])
    whole = _correlations(one.reshape(len(one), -1), two.reshape(len(two), -1), areas.reshape(len(areas), -1))
    return whole, _correlations(differences(one), differences(two), beside)


def differences(pictures: Floats) -> Floats:
    """Return those of neighbouring pixels (N, 480): what smooth images that happen to be alike differ in."""
    return _beside(np.diff(pictures, axis=2), np.diff(pictures, axis=1))


def _beside(across: NDArray[Any], down: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([across.reshape(len(across), -1), down.reshape(len(down), -1)], axis=1)


def _correlations(one: Floats, two: Floats, counts: NDArray[np.bool_]) -> Likeness:
    """Return the correlation of each two rows (N, V) by the numbers that count (K, V): (N, K), 0 where one is flat."""
    number = counts.sum(axis=1)
    of_which, wide_one, wide_two = (some.astype(np.float64) for some in (counts.T, one, two))
    sum_one, sum_two = wide_one @ of_which, wide_two @ of_which
    squares_one = (wide_one**2 @ of_which - sum_one**2 / number).clip(min=0)
    squares_two = (wide_two**2 @ of_which - sum_two**2 / number).clip(min=0)
    lengths = np.sqrt(squares_one * squares_two)
    products = (wide_one * wide_two) @ of_which - sum_one * sum_two / number
    return np.where(lengths < _FLAT * _FLAT * number, 0.0, products / np.maximum(lengths, 1e-6))


def _blurred(pictures: Floats, deviation: float) -> Floats:
    """Return pictures (N, 16, 16) under a Gaussian blur of that deviation in pixels."""
    places = np.arange(_SIDE)
    weights = np.exp(-((places[:, None] - places) ** 2) / (2 * deviation**2))
    blur = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return np.asarray(blur @ pictures @ blur.T)

"""Copies: images with the same pixels, and images that show the same after a common change.

Candidates are the nearest by small grey copies and, where there is a backbone, by its features. One of the two, whole
or cropped, as it is or mirrored, is laid on the other where they correlate most, so that brightness, contrast, size and
file format do not matter. They are copies when they are nearer there than other neighbours in the set come by chance:
the residual, relative to what is usual around the two images, and that of the differences of neighbouring pixels are
multiplied; over pairs that are no copies the logarithm falls off as an exponential (neighbours within a distance grow
as a power of it: Levina and Bickel 2004), which is fitted between the median and the 80th percentile of candidates. Of
the pairs found at most 1 % are expected to be none (Benjamini-Hochberg).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from recondite.audits.findings import KINDS, Finding
from recondite.audits.look import GREY_SIDE
from recondite.audits.neighbours import Neighbours
from recondite.audits.outliers import Tail, discoveries
from recondite.audits.store import Row

ALIKE = 0.92
"""Least correlation of the 16 x 16 grey copies of two images that show the same, in any set."""
_DETAILS_ALIKE = 0.70
_SIDE, _NEIGHBOURS = 16, 4
_COARSE, _FINE = ((0.9, 0.75, 0.6), 3), ((0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6), 7)
_PAIRS_AT_ONCE = 64
_FLAT, _FEWEST, _USUAL = 1.5, 16, 16
_TAIL, _CENSORED, _FALSE_PAIRS, _SAMPLE, _PROMISING = 0.5, 0.8, 0.01, 1000, 0.2
_LEAST_RESIDUAL, _LEAST_OF_DETAILS = 1e-4, 1e-3

Pairs = NDArray[np.intp]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Copies:
    """Groups of images that show the same.

    Args:
        group: the number of each image's group (N,); images that are alone have one of their own.
        pairs: (2, L), images found alike.
        alike: their correlation (L,).
    """

    group: Pairs
    pairs: Pairs
    alike: NDArray[np.float64]


def found_copies(digests: Sequence[str], grey: NDArray[np.uint8], features: NDArray[np.float16]) -> Copies:
    """Return which images are copies of each other.

    Args:
        digests: of the pixels of N images; "" of unreadable ones, which are no copies.
        grey: (N, 1024), small grey copies.
        features: (N, F); F 0 without a backbone.
    """
    places: dict[str, int] = {}
    exact = [(places.setdefault(digest, index), index) for index, digest in enumerate(digests) if digest]
    exact = [pair for pair in exact if pair[0] != pair[1]]
    first = np.array(sorted(places.values()), dtype=np.intp)
    near = first[candidates(grey[first], features[first])] if len(first) > 1 else np.zeros((2, 0), np.intp)
    near, alike, accepted = _accepted(near, grey, features, len(first))
    pairs = np.concatenate([np.array(exact, dtype=np.intp).reshape(-1, 2).T, near[:, accepted]], axis=1)
    return Copies(linked(pairs, len(digests)), pairs, np.concatenate([np.ones(len(exact)), alike[accepted]]))


def linked(pairs: Pairs, count: int) -> Pairs:
    """Return the number of the group that each of `count` images is in (N,), by pairs (2, L) that are linked."""
    graph = coo_array((np.ones(pairs.shape[1]), (pairs[0], pairs[1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.intp)


def _accepted(
    pairs: Pairs, grey: NDArray[np.uint8], features: NDArray[np.float16], count: int
) -> tuple[Pairs, NDArray[np.float64], NDArray[np.bool_]]:
    """Return pairs looked at finely, their correlation, and which are copies; `count` images are different."""
    usual = usual_residual(grey, pairs)
    agreed = _agreed(features, pairs)
    fine, drawn = np.flatnonzero(agreed), np.zeros(0, np.intp)
    if count >= _FEWEST:
        coarsely = exceptional(*alikeness(grey, pairs[:, fine], *_COARSE), usual[fine])
        promising = round(_PROMISING * pairs.shape[1])
        fine = fine[np.argsort(-coarsely, kind="stable")[:promising]]
        drawn = np.random.default_rng(0).permutation(pairs.shape[1])[:_SAMPLE]
    both = np.union1d(fine, drawn)
    alike, details = alikeness(grey, pairs[:, both], *_FINE)
    accepted = (alike >= ALIKE) & (details >= _DETAILS_ALIKE) & agreed[both]
    if count >= _FEWEST:
        far = exceptional(alike, details, usual[both])
        p = np.ones(pairs.shape[1])
        p[both] = Tail(far[np.searchsorted(both, drawn)], _TAIL, _CENSORED).beyond(far)
        accepted &= discoveries(p, _FALSE_PAIRS)[both]
    return pairs[:, both], alike, accepted


def usual_residual(grey: NDArray[np.uint8], pairs: Pairs) -> NDArray[np.float64]:
    """Return what is missing to a correlation of 1 between an image and its 16th nearest, the less of a pair's (L,).

    Args:
        grey: (N, 1024), small grey copies.
        pairs: (2, L) of their numbers.
    """
    chosen, numbers = np.unique(pairs, return_inverse=True)
    if len(chosen) < _FEWEST:
        return np.ones(pairs.shape[1])
    place = min(_USUAL, len(chosen) // 3)
    near = Neighbours(len(chosen), lambda part: _centred(grey[chosen[part]].astype(np.float32)))
    found = 1 - near.nearest(place)[0][:, -1].astype(np.float64)
    return np.asarray(found[numbers.reshape(pairs.shape)].min(axis=0).clip(min=_LEAST_RESIDUAL))


def exceptional(
    alike: NDArray[np.float64], details: NDArray[np.float64], usual: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how much nearer pairs (L,) are than is usual: minus the mean logarithm of both residuals.

    Args:
        alike: correlations, as in `alikeness`.
        details: of the differences.
        usual: as `usual_residual` has it.
    """
    residual = (1 - alike).clip(min=_LEAST_RESIDUAL) / usual
    return np.asarray(-(np.log(residual) + np.log((1 - details).clip(min=_LEAST_OF_DETAILS))) / 2)


def _agreed(features: NDArray[np.float16], pairs: Pairs) -> NDArray[np.bool_]:
    """Return which pairs (L,) are as near by their features as half of all pairs are; all of them without features."""
    if not features.shape[1] or not pairs.shape[1]:
        return np.ones(pairs.shape[1], dtype=bool)
    near = np.empty(pairs.shape[1])
    for start in range(0, pairs.shape[1], _PAIRS_AT_ONCE):
        one, two = (_centred(features[own[start : start + _PAIRS_AT_ONCE]].astype(np.float32)) for own in pairs)
        near[start : start + _PAIRS_AT_ONCE] = (one * two).sum(axis=1)
    return np.asarray(near >= np.median(near))


def copy_findings(
    rows: Sequence[Row],
    copies: Copies,
    area: NDArray[np.float64],
    others: int = 0,
    labels: Sequence[str | None] | None = None,
) -> list[Finding]:
    """Return the findings of copies: each but the largest image of a group, and each that another source has.

    Args:
        rows: of all images; the last `others` of them are those of the other source, which gets no findings.
        copies: of all of them.
        area: of each image, in any unit; the largest one, first in order among equals, represents its group.
        others: see there.
        labels: the groups of the images that get findings, which are told where copies are of different ones.
    """
    own = len(rows) - others
    names = [*(labels or [None] * own), *[None] * others]
    best: dict[int, float] = {}
    for one, two, value in zip(*copies.pairs, copies.alike, strict=True):
        for index in (one, two):
            best[index] = max(best.get(index, 0.0), float(value))
    members: dict[int, list[int]] = {}
    for index, number in enumerate(copies.group):
        if index in best:
            members.setdefault(int(number), []).append(index)
    found = []
    for number, group in enumerate(members.values(), 1):
        mine, theirs = [i for i in group if i < own], [i for i in group if i >= own]
        named = f"copies-{number}"
        if theirs:
            found += [_finding(rows, i, "leak", rows[theirs[0]].id, best[i], named, True) for i in mine]
        if len(mine) < 2:
            continue
        kept = max(mine, key=lambda index: (area[index], -index))
        for index in mine:
            kind = "exact-copy" if rows[index].digest == rows[kept].digest else "near-copy"
            if index == kept:
                same = [i for i in mine if i != kept and rows[i].digest == rows[kept].digest]
                kind = "exact-copy" if same else "near-copy"
                other = (same or [i for i in mine if i != kept])[0]
            else:
                other = kept
            told = rows[other].id if names[other] == names[index] else f"{rows[other].id} of group {names[other]!r}"
            found.append(_finding(rows, index, kind, told, best[index], named, index != kept))
    return found


def _finding(rows: Sequence[Row], index: int, kind: str, other: str, value: float, group: str, drop: bool) -> Finding:
    kept = "" if drop else "; it stands for its group and is kept"
    return Finding(index, rows[index].id, kind, value, f"{KINDS[kind][1]}: {other}{kept}", group, drop)


def alikeness(
    grey: NDArray[np.uint8], pairs: Pairs, scales: Sequence[float], offsets: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how much alike pairs (2, L) are: the largest correlation (L,), and there that of the differences (L,).

    Args:
        grey: (N, 1024), small grey copies.
        pairs: of their numbers; one of the two may be cropped and mirrored.
        scales: shares of its sides that it may be cropped to.
        offsets: how many places down, and across, are tried for each.
    """
    crops = _crops(tuple(scales), offsets)
    alike, details = np.zeros(pairs.shape[1]), np.zeros(pairs.shape[1])
    for start in range(0, pairs.shape[1], _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        squares = grey[pairs[:, some]].reshape(2, -1, GREY_SIDE, GREY_SIDE).astype(np.float32)
        squares -= squares.mean(axis=(2, 3), keepdims=True)
        count = squares.shape[1]
        every, best = np.arange(count), np.zeros(count, np.float32)
        laid = np.zeros((2, count, _SIDE * _SIDE), np.float32)
        """Of each pair the crop and what it is laid on, where they correlate most."""
        for cropped, whole in ((0, 1), (1, 0)):
            upright = _WHOLE @ squares[whole] @ _WHOLE.T
            wholes = np.stack([upright, upright[:, :, ::-1]], axis=1).reshape(count, 2, -1)
            for samplings in crops:
                parts = (samplings @ squares[cropped] @ samplings.T).reshape(
                    count, -1, _SIDE, len(samplings) // _SIDE, _SIDE
                )
                parts = parts.transpose(0, 1, 3, 2, 4).reshape(count, -1, _SIDE * _SIDE)
                found = _about_correlations(parts, wholes).reshape(count, -1)
                place = found.argmax(axis=1)
                own = np.flatnonzero(found[every, place] > best)
                best[own] = found[own, place[own]]
                laid[0, own], laid[1, own] = parts[own, place[own] // 2], wholes[own, place[own] % 2]
        alike[some] = _correlation(*(_deviations(values) for values in laid)).clip(min=0)
        pictures = laid.reshape(2, count, _SIDE, _SIDE)
        details[some] = _correlation(*(_deviations(_details(values)) for values in pictures))
    return alike, details


@cache
def _crops(scales: tuple[float, ...], offsets: int) -> list[Floats]:
    """Return, for the whole and each scale, how 32 pixels become 16 of each crop: (16 * number of crops, 32)."""
    found = [_WHOLE]
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


_WHOLE = _sampling(0, GREY_SIDE)


def _about_correlations(parts: Floats, wholes: Floats) -> Floats:
    """Return the correlations (N, K, 2) of parts (N, K, V) and wholes (N, 2, V), but for rounding; 0 of flat ones."""
    values = parts.shape[2]
    centred = wholes - wholes.mean(axis=2, keepdims=True)
    means = np.full((len(parts), 1, values), 1 / values, np.float32)
    products = parts @ np.concatenate([centred, means], axis=1).transpose(0, 2, 1)
    squares = np.einsum("nkv,nkv->nk", parts, parts) - values * products[:, :, 2] ** 2
    lengths = np.sqrt(squares.clip(min=0)[:, :, None] * np.einsum("nkv,nkv->nk", centred, centred)[:, None])
    return np.where(lengths < _FLAT * _FLAT * values, np.float32(0), products[:, :, :2] / np.maximum(lengths, 1e-6))


def _details(pictures: Floats) -> Floats:
    """Return the differences of neighbours (N, 450): what smooth images that happen to be alike differ in."""
    differences = np.stack([np.diff(pictures, axis=1)[:, :, 1:], np.diff(pictures, axis=2)[:, 1:]], axis=-1)
    return differences.reshape(len(pictures), -1)


def _deviations(rows: Floats) -> tuple[Floats, Floats]:
    """Return rows (N, V) less the mean of each, and the sums of their squares (N,)."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows, np.einsum("nv,nv->n", rows, rows)


def _correlation(one: tuple[Floats, Floats], two: tuple[Floats, Floats]) -> NDArray[np.float64]:
    """Return the correlation of each pair (N,) of what `_deviations` gave; 0 where one of them is flat."""
    lengths = np.sqrt(one[1] * two[1])
    flat = lengths < _FLAT * _FLAT * one[0].shape[1]
    products = np.einsum("nv,nv->n", one[0], two[0])
    return np.where(flat, 0.0, products / np.maximum(lengths, 1e-6)).astype(np.float64)


def candidates(grey: NDArray[np.uint8], features: NDArray[np.float16]) -> Pairs:
    """Return pairs (2, L) of images, one of which is among the four nearest of the other, each pair once.

    Args:
        grey: (N, 1024), small grey copies.
        features: (N, F); F 0 without a backbone.
    """

    def small(part: slice, mirrored: bool = False) -> Floats:
        squares = _WHOLE @ grey[part].reshape(-1, GREY_SIDE, GREY_SIDE).astype(np.float32) @ _WHOLE.T
        return _centred((squares[:, :, ::-1] if mirrored else squares).reshape(len(squares), -1))

    by_grey, count = Neighbours(len(grey), small), min(_NEIGHBOURS, len(grey) - 1)
    found = [by_grey.nearest(count)[1], by_grey.nearest(count, partial(small, mirrored=True))[1]]
    if features.shape[1]:
        found.append(Neighbours(len(grey), lambda part: _centred(features[part].astype(np.float32))).nearest(count)[1])
    own = np.tile(np.arange(len(grey)).repeat(count), len(found))
    pairs = np.sort(np.stack([own, np.concatenate(found).ravel()]), axis=0)
    return np.unique(pairs, axis=1)


def _centred(vectors: Floats) -> Floats:
    centred = vectors - vectors.mean(axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6))

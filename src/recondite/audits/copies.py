"""Copies: images with the same pixels, and images that show the same after a common change.

Candidates are the nearest by the differences of neighbouring pixels of small grey copies, limited so that a sign in a
corner weighs no more than its area, and, where there is a backbone, by its features. They are compared as they are and
tolerantly (`recondite.audits.comparison`), and are copies when they are nearer than other neighbours in the set come by
chance: the residual, relative to what is usual around the two images, and that of the differences of neighbouring
pixels are multiplied; over pairs that are no copies the logarithm falls off as an exponential (neighbours within a
distance grow as a power of it: Levina and Bickel 2004), which is fitted to candidates beyond their 70th percentile,
together with the share that are copies. A pair has the smaller p-value of the two comparisons: a hundred times that
where the features of its images are not as near as those of half of the candidates, so that what disagrees has to be
the surer, and a thousand times that where both of its images have others that are nearer: two images that are alike by
chance are alike to each other's copies, too. Of the pairs found by either comparison at most .2 % are expected to be
none (Benjamini-Hochberg), .4 % of all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from recondite.audits.comparison import (
    LEAST_OF_DETAILS,
    LEAST_RESIDUAL,
    WHOLE,
    Likeness,
    Pairs,
    Search,
    alikeness,
    differences,
    residual,
)
from recondite.audits.findings import KINDS, Finding
from recondite.audits.look import GREY_SIDE
from recondite.audits.neighbours import Neighbours, centred
from recondite.audits.outliers import discoveries
from recondite.audits.store import Row
from recondite.audits.tails import MixedTail

ALIKE = 0.92
"""Least correlation of the 16 x 16 grey copies of two images that show the same, in any set."""
_DETAILS_ALIKE = 0.70
_NEIGHBOURS = 4
_COARSE = Search((0.9, 0.75, 0.6), 3, (0.8,))
_FINE = Search((0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6), 7, (0.5, 0.8, 1.2))
_PAIRS_AT_ONCE, _FEWEST, _USUAL = 64, 16, 16
_TAIL, _FALSE_PAIRS, _DISAGREEING, _NOT_NEAREST = 0.7, 0.002, 100, 1000
_SAMPLE, _PROMISING = 1000, 0.15
_FARTHEST = -float(np.log(LEAST_RESIDUAL) + np.log(LEAST_OF_DETAILS)) / 2

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
    usual, agreed = usual_residual(grey, pairs), _agreed(features, pairs)
    if count < _FEWEST:
        alike, details = (of[0] for of in alikeness(grey, pairs, _FINE))
        return pairs, alike, (alike >= ALIKE) & (details >= _DETAILS_ALIKE) & agreed
    coarsely = exceptional(*alikeness(grey, pairs, _COARSE), usual)
    promising = np.argsort(-coarsely, axis=1, kind="stable")[:, : round(_PROMISING * pairs.shape[1])]
    drawn = np.random.default_rng(0).permutation(pairs.shape[1])[:_SAMPLE]
    both = np.union1d(promising, drawn)
    alike, details = alikeness(grey, pairs[:, both], _FINE)
    far = exceptional(alike, details, usual[both])
    tails = [MixedTail(way[np.searchsorted(both, drawn)], _TAIL, _FARTHEST).beyond(way) for way in far]
    found = np.where((alike >= ALIKE) & (details >= _DETAILS_ALIKE), tails, 1).min(axis=0)
    found = np.where(agreed[both], found, _DISAGREEING * found)
    p = np.ones(pairs.shape[1])
    p[both] = np.where(nearest_of_either(pairs[:, both], found), found, _NOT_NEAREST * found).clip(max=1)
    return pairs[:, both], alike.max(axis=0), discoveries(p, _FALSE_PAIRS)[both]


def nearest_of_either(pairs: Pairs, p: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which pairs (2, L) have the smallest p-value (L,) that either of their images has."""
    least = np.ones(pairs.max(initial=0) + 1)
    for own in pairs:
        np.minimum.at(least, own, p)
    return np.asarray((p <= least[pairs]).any(axis=0))


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
    near = Neighbours(len(chosen), lambda part: centred(grey[chosen[part]].astype(np.float32)))
    found = 1 - near.nearest(place)[0][:, -1].astype(np.float64)
    return np.asarray(found[numbers.reshape(pairs.shape)].min(axis=0).clip(min=LEAST_RESIDUAL))


def exceptional(alike: Likeness, details: Likeness, usual: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much nearer pairs (L,) are than is usual: minus the mean logarithm of both residuals.

    Args:
        alike: correlations, as in `alikeness`.
        details: of the differences.
        usual: as `usual_residual` has it.
    """
    return np.asarray((np.log(usual) - np.log(residual(alike, details))) / 2)


def _agreed(features: NDArray[np.float16], pairs: Pairs) -> NDArray[np.bool_]:
    """Return which pairs (L,) are as near by their features as half of all pairs are; all of them without features."""
    if not features.shape[1] or not pairs.shape[1]:
        return np.ones(pairs.shape[1], dtype=bool)
    near = np.empty(pairs.shape[1])
    for start in range(0, pairs.shape[1], _PAIRS_AT_ONCE):
        one, two = (centred(features[own[start : start + _PAIRS_AT_ONCE]].astype(np.float32)) for own in pairs)
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
        area: of each image, in any unit; the largest one represents its group, among equals one with a label, the
            first in order.
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
        kept = max(mine, key=lambda index: (area[index], bool(names[index]), -index))
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


def candidates(grey: NDArray[np.uint8], features: NDArray[np.float16]) -> Pairs:
    """Return pairs (2, L) of images, one of which is among the four nearest of the other, each pair once.

    Args:
        grey: (N, 1024), small grey copies.
        features: (N, F); F 0 without a backbone.
    """

    def small(part: slice, mirrored: bool = False) -> Floats:
        squares = WHOLE @ grey[part].reshape(-1, GREY_SIDE, GREY_SIDE).astype(np.float32) @ WHOLE.T
        steps = differences(squares[:, :, ::-1] if mirrored else squares)
        limit = np.abs(steps).mean(axis=1, keepdims=True)
        return centred(steps.clip(-limit, limit))

    by_grey, count = Neighbours(len(grey), small), min(_NEIGHBOURS, len(grey) - 1)
    found = [by_grey.nearest(count)[1], by_grey.nearest(count, partial(small, mirrored=True))[1]]
    if features.shape[1]:
        found.append(Neighbours(len(grey), lambda part: centred(features[part].astype(np.float32))).nearest(count)[1])
    own = np.tile(np.arange(len(grey)).repeat(count), len(found))
    pairs = np.sort(np.stack([own, np.concatenate(found).ravel()]), axis=0)
    return np.unique(pairs, axis=1)

"""Findings of single images: statistics far from those of the set.

How far a value is, is told in spreads: its distance from the set's median over 1.4826 times the median distance of the
values on its side of it, or over the smallest spread of its rule where that is larger.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recondite.audits.findings import KINDS, Finding
from recondite.audits.look import GREY_SIDE
from recondite.audits.measures import MEASURES
from recondite.audits.store import Row

FAR = 4.0
"""Spreads beyond which a value is a finding."""


class Rule(NamedTuple):
    """A statistic that makes a finding when it is far from the set's on one side; `smallest` is the least spread."""

    kind: str
    measure: str
    side: Literal["low", "high"]
    smallest: float


RULES = (
    Rule("dark", "highlights", "low", 0.05),
    Rule("bright", "shadows", "high", 0.05),
    Rule("low-contrast", "contrast", "low", 0.15),
    Rule("blurred", "sharpness", "low", 0.15),
    Rule("noisy", "sharpness", "high", 0.15),
    Rule("noisy", "noise", "high", 0.3),
    Rule("low-information", "code_length", "low", 0.3),
    Rule("odd-size", "area", "low", 0.15),
    Rule("odd-size", "area", "high", 0.15),
    Rule("odd-proportion", "proportion", "low", 0.05),
    Rule("odd-proportion", "proportion", "high", 0.05),
    Rule("jpeg-artefacts", "blockiness", "high", 0.1),
    Rule("jpeg-artefacts", "jpeg_quality", "low", 10.0),
    Rule("border", "border", "high", 0.02),
    Rule("transparent", "transparent", "high", 0.12),
)
_SHARED_BY = 0.05
_GREY, _MOST_GREY = 0.004, 0.25
_FEWEST = 8
_ORIENTATIONS = range(1, 9)
_BACK: dict[int, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    2: np.fliplr,
    3: partial(np.rot90, k=2),
    4: np.flipud,
    5: np.transpose,
    6: partial(np.rot90, k=1),
    7: lambda square: np.rot90(square, 2).T,
    8: partial(np.rot90, k=3),
}
"""EXIF tag -> what turns an image that is shown upright back to what is stored."""
_FEWEST_UPRIGHT, _TURNED_BY_CHANCE, _LEAST_GAINED = 100, 0.01, 0.1
_SIDES_ALIKE = 0.05


def spreads_from(values: NDArray[np.float64], side: Literal["low", "high"], smallest: float) -> NDArray[np.float64]:
    """Return how many spreads each value lies beyond the median on one side (N,); NaN where the value is.

    >>> spreads_from(np.array([1.0, 2.0, 3.0, 4.0, 50.0]), "high", 0.1).round(1)
    array([-1.3, -0.7,  0. ,  0.7, 31.7])
    """
    beyond = values - np.nanmedian(values)
    beyond = -beyond if side == "low" else beyond
    own = beyond[beyond >= 0]
    return np.asarray(beyond / max(1.4826 * float(np.median(own)), smallest))


def spreads_of(measures: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return by how many spreads each statistic of images (N, statistics) lies off the median; NaN where it is.

    Of a statistic that fewer than eight images have, all are 0.
    """
    return np.stack(
        [
            np.maximum(*(spreads_from(column, side, 0.1) for side in ("low", "high")))
            if np.isfinite(column).sum() >= _FEWEST
            else np.zeros(len(column))
            for column in measures.astype(np.float64).T
        ],
        axis=1,
    )


def single_image_findings(rows: Sequence[Row], measures: NDArray[np.float32], grey: NDArray[np.uint8]) -> list[Finding]:
    """Return the findings of images by themselves.

    With fewer than 8 readable images there is no set to compare with, and only unreadable ones are told.

    Args:
        rows: of N images.
        measures: (N, statistics), in the order of `MEASURES`; rows of unreadable images are NaN.
        grey: (N, 1024), small grey copies.
    """
    found = [_unreadable(index, row) for index, row in enumerate(rows) if row.error is not None]
    if sum(row.error is None for row in rows) < _FEWEST:
        return found
    columns = {name: measures[:, place].astype(np.float64) for place, name in enumerate(MEASURES)}
    worst: dict[tuple[int, str], Finding] = {}
    for rule in RULES:
        for finding in _by_rule(rule, rows, columns[rule.measure]):
            known = worst.get((finding.index, finding.kind))
            if known is None or known.value < finding.value:
                worst[finding.index, finding.kind] = finding
    return [*found, *worst.values(), *_grey(rows, columns["chroma"]), *_turned(rows, columns["proportion"], grey)]


def _unreadable(index: int, row: Row) -> Finding:
    kind = "truncated" if row.truncated else "unreadable"
    return Finding(index, row.id, kind, float("nan"), f"{KINDS[kind][1]}: {row.error}", drop=True)


def _by_rule(rule: Rule, rows: Sequence[Row], values: NDArray[np.float64]) -> list[Finding]:
    if np.isfinite(values).sum() < _FEWEST:
        return []
    beyond = spreads_from(values, rule.side, rule.smallest)
    far = beyond > FAR
    if rule.measure in ("area", "proportion"):
        # A size that one image in twenty has is another size of the set, and not odd.
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        far &= count[place] <= max(1, _SHARED_BY * len(values))
    words, formula = MEASURES[rule.measure]
    middle = float(np.nanmedian(values))
    return [
        Finding(
            index,
            rows[index].id,
            rule.kind,
            float(beyond[index]),
            f"{KINDS[rule.kind][1]}: {words} {values[index]:.3g}, of most {middle:.3g} ({formula}); "
            f"{beyond[index]:.1f} spreads from the median",
        )
        for index in np.flatnonzero(far).tolist()
    ]


def _grey(rows: Sequence[Row], chroma: NDArray[np.float64]) -> list[Finding]:
    grey = chroma < _GREY
    if grey.sum() > _MOST_GREY * np.isfinite(chroma).sum():
        return []
    return [Finding(i, rows[i].id, "grey", float("nan"), KINDS["grey"][1]) for i in np.flatnonzero(grey).tolist()]


def _turned(rows: Sequence[Row], proportion: NDArray[np.float64], grey: NDArray[np.uint8]) -> list[Finding]:
    """Tell orientation tags that are no tags, or without which an image would be as the others are."""
    middle = float(np.nanmedian(proportion))
    alike = _more_alike_as_stored(rows, grey)
    found = []
    for index, row in enumerate(rows):
        reason = ""
        if row.orientation is not None and row.orientation not in _ORIENTATIONS:
            reason = f"it is {row.orientation}, and 1 to 8 are known"
        elif row.turned and abs(middle) > _SIDES_ALIKE:
            upright, stored = abs(proportion[index] - middle), abs(-proportion[index] - middle)
            if stored < _SIDES_ALIKE < upright:
                reason = "without the turn it would have the proportion of the others"
        if not reason and index in alike:
            reason = "without the turn it would show what the others show there"
        if reason:
            kind = "wrong-orientation"
            found.append(Finding(index, row.id, kind, float("nan"), f"{KINDS[kind][1]}: {reason}"))
    return found


def _more_alike_as_stored(rows: Sequence[Row], grey: NDArray[np.uint8]) -> set[int]:
    """Return which images are more like the mean image as they are stored than as their tag turns them.

    That is by a correlation of .1 at least, and more than all but one in a hundred of the images without a turn would
    gain, turned alike; with fewer than 100 of those nothing is told.
    """
    upright = np.flatnonzero([row.error is None and row.orientation in (None, 1) for row in rows])
    if len(upright) < _FEWEST_UPRIGHT:
        return set()
    mean = np.mean(grey[upright], axis=0)
    found: set[int] = set()
    for tag, back in _BACK.items():
        tagged = np.array([i for i, row in enumerate(rows) if row.error is None and row.orientation == tag], np.intp)
        if not len(tagged):
            continue
        own, usual = (_correlations(grey[some], back, mean) for some in (tagged, upright))
        found.update(tagged[own > max(_LEAST_GAINED, float(np.quantile(usual, 1 - _TURNED_BY_CHANCE)))].tolist())
    return found


def _correlations(
    grey: NDArray[np.uint8], back: Callable[[NDArray[np.float64]], NDArray[np.float64]], mean: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return by how much more images (N, 1024), turned back, correlate with a mean image (1024,) (N,)."""
    squares = grey.reshape(-1, GREY_SIDE, GREY_SIDE).astype(np.float64)
    squares -= squares.mean(axis=(1, 2), keepdims=True)
    centred = mean.reshape(GREY_SIDE, GREY_SIDE) - mean.mean()
    lengths = np.linalg.norm(squares, axis=(1, 2)) * np.linalg.norm(centred)
    gained = np.stack([back(square) for square in squares]) - squares
    return np.asarray((gained * centred).sum(axis=(1, 2)) / np.maximum(lengths, 1e-9))

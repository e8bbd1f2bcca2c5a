"""Findings of single images: statistics far from those of the set.

How far a value is, is told in spreads: its distance from the set's median over 1.4826 times the median distance of the
values on its side of it, or over the smallest spread of its rule where that is larger.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recondite.audits.findings import KINDS, Finding
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


def single_image_findings(rows: Sequence[Row], measures: NDArray[np.float32]) -> list[Finding]:
    """Return the findings of images by themselves.

    With fewer than 8 readable images there is no set to compare with, and only unreadable ones are told.

    Args:
        rows: of N images.
        measures: (N, statistics), in the order of `MEASURES`; rows of unreadable images are NaN.
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
    return [*found, *worst.values(), *_grey(rows, columns["chroma"]), *_turned(rows, columns["proportion"])]


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


def _turned(rows: Sequence[Row], proportion: NDArray[np.float64]) -> list[Finding]:
    """Tell orientation tags that are no tags, or that turn by a quarter what is stored in the set's own proportion."""
    middle = float(np.nanmedian(proportion))
    found = []
    for index, row in enumerate(rows):
        reason = ""
        if row.orientation is not None and row.orientation not in _ORIENTATIONS:
            reason = f"it is {row.orientation}, and 1 to 8 are known"
        elif row.turned and abs(middle) > _SIDES_ALIKE:
            upright, stored = abs(proportion[index] - middle), abs(-proportion[index] - middle)
            if stored < _SIDES_ALIKE < upright:
                reason = "without the turn it would have the proportion of the others"
        if reason:
            kind = "wrong-orientation"
            found.append(Finding(index, row.id, kind, float("nan"), f"{KINDS[kind][1]}: {reason}"))
    return found

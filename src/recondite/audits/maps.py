"""The map of a set: images that are alike lie together, coloured by what was found."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recondite.audits.findings import Finding
from recondite.statistics.embedding import make_map

LARGEST = 3000
"""Images on a map: all with a finding, as far as they fit, and others at random."""
_ACROSS = 9
COLOURS: dict[str, tuple[str, ...]] = {
    "outlier": ("outlier",),
    "copy or leak": ("exact-copy", "near-copy", "leak"),
    "label": ("label",),
}
"""Words -> kinds that have a colour of their own; the other kinds share one, and so do images without a finding."""
OTHER, NONE = "other finding", "no finding"


@dataclass(frozen=True)
class SetMap:
    """Where images lie on a map.

    Args:
        indices: of the M images drawn.
        points: (M, 2), each axis in [0, 1].
        colours: for each what it is coloured by, a key of `COLOURS`, `OTHER` or `NONE`.
        pictured: indices of images whose pictures are drawn, one where there is one in each cell of a grid.
    """

    indices: NDArray[np.intp]
    points: NDArray[np.float64]
    colours: tuple[str, ...]
    pictured: tuple[int, ...]


def map_of(places: NDArray[np.float64], indices: NDArray[np.intp], findings: tuple[Finding, ...]) -> SetMap:
    """Draw a set as a map (t-SNE).

    Args:
        places: (N, D), features of N images.
        indices: their numbers in the set (N,), ascending.
        findings: of the set, gravest first; an image has the colour of its first one.
    """
    first: dict[int, str] = {}
    for finding in findings:
        first.setdefault(finding.index, finding.kind)
    flagged = np.isin(indices, list(first))
    order = np.lexsort((np.random.default_rng(0).random(len(indices)), ~flagged))
    chosen = np.sort(order[:LARGEST])
    points = make_map(places[chosen]).points
    low, high = points.min(axis=0), points.max(axis=0)
    points = np.where(high > low, (points - low) / np.maximum(high - low, 1e-12), 0.5)
    colour_of = {kind: words for words, kinds in COLOURS.items() for kind in kinds}
    drawn = indices[chosen]
    colours = tuple(colour_of.get(first[index], OTHER) if index in first else NONE for index in drawn.tolist())
    return SetMap(drawn, points, colours, _pictured(drawn, points))


def _pictured(drawn: NDArray[np.intp], points: NDArray[np.float64]) -> tuple[int, ...]:
    middles = (np.arange(_ACROSS) + 0.5) / _ACROSS
    found = []
    for node in np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 2):
        distances = np.abs(points - node).max(axis=1)
        if distances.min() < 0.5 / _ACROSS:
            found.append(int(drawn[distances.argmin()]))
    return tuple(found)

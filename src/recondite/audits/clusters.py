"""Classes of two clusters: two kinds of images under one name.

The statistic is the share of the variance that two groups explain, along the line through two centres (2-means) that
were found in one half of a class and for the images of the other half; the mean over both halves. Cut in the best
place, a Gaussian has .64 of its variance between the two groups, a uniform distribution .75, and two points 1. From .8
on a class is said to have two clusters, if the smaller one has a tenth of the class and ten images.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

TWO = 0.8
"""Share of the variance that two groups explain, from which on a class has two clusters."""
FEWEST = 40
"""Different images; smaller classes are not judged."""
_SMALLER, _FEWEST_OF_SMALLER, _MOST, _STARTS = 0.1, 10, 2000, 5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Clusters:
    """The two clusters of a class.

    Args:
        explained: share of the variance between them, in [0, 1].
        smaller: which of the N images are of the smaller one (N,).
    """

    explained: float
    smaller: NDArray[np.bool_]


def two_clusters(places: Floats, groups: NDArray[np.intp]) -> Clusters | None:
    """Return the two clusters of a class; None where it has not two, or fewer than 40 different images.

    Args:
        places: (N, D), features of the images of the class.
        groups: the number of each image's group (N,), such as its copies, which count as one image.
    """
    first = np.unique(groups, return_index=True)[1]
    if len(first) < FEWEST:
        return None
    some = places[np.random.default_rng(0).permutation(first)[:_MOST]]
    halves = some[::2], some[1::2]
    shares = [explained(other @ _line(own)[1]) for own, other in (halves, halves[::-1])]
    middle, line = _line(some)
    smaller = (places - middle) @ line > 0
    if smaller.sum() * 2 > len(places):
        smaller = ~smaller
    share = float(np.mean(shares))
    fewest = max(_SMALLER * len(places), _FEWEST_OF_SMALLER)
    return Clusters(share, smaller) if share >= TWO and smaller.sum() >= fewest else None


def explained(values: Floats) -> float:
    """Return the largest share of the variance of values (N,) that lies between two groups, each a tenth at least.

    >>> round(explained(np.arange(1000.0)), 3), explained(np.repeat([0.0, 5.0], 50))
    (0.75, 1.0)
    """
    ascending = np.sort(values - values.mean())
    counts = np.arange(1, len(values)) / len(values)
    lower = np.cumsum(ascending)[:-1] / len(values)
    between = lower**2 / (counts * (1 - counts))
    between = between[np.minimum(counts, 1 - counts) >= _SMALLER]
    return float(between.max() / max(float(ascending.var()), 1e-12))


def _line(places: Floats) -> tuple[Floats, Floats]:
    """Return the middle of two centres (D,), and the line from one to the other (D,)."""
    one, two = KMeans(2, n_init=_STARTS, random_state=0).fit(places).cluster_centers_
    return (one + two) / 2, two - one

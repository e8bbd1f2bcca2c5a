"""Outliers without a clean set: each image judged by models of the others, and how sure that is.

Cross-fitting: images are dealt into five parts, copies of each other together, and each part is judged by two models of
the others: a shrunk Mahalanobis distance, and the mean distance from the 20 nearest over what that distance usually is
around them, as in the local outlier factor (Breunig et al. 2000). Their logarithms are standardised by median and
median deviation, and the soft maximum of the two is the score. Both models are fitted to the bulk: outliers that are
alike would vouch for each other, so an image is of the bulk when it is among the 85 % that have a distance of their
own, that within which 15 % of the others lie, least. Outliers of one kind are found up to about that share. What images
are compared by is the backbone's features or, without one, small grey copies, reduced to their principal components.

Within one set a rank says nothing of how many outliers there are: some image is always the farthest. So p-values are
ranks up to the median of the scores, and beyond the 1.05th power of the distance from it falls off as an exponential,
whose mean is that of the part up to the 85th percentile (a censored maximum likelihood). What is assumed: scores of
normal images fall off at least that fast, and outliers are so few (less than about one in seven) that they lie beyond
that part; more of them make the tail longer, and fewer of them are found.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.stats import false_discovery_control

from recondite.audits.tails import Tail

Floats = NDArray[np.float64]

ASSUMED = (
    "If the scores of normal images fall off beyond their 85th percentile at least as fast as an exponential of the "
    "1.05th power through the 50th to 85th, and p-values do not depend on each other negatively, at most this share of "
    "the outliers listed is expected to be normal (Benjamini-Hochberg)."
)
FEWEST = 50
"""Images; of fewer there is no tail to speak of."""
_PARTS, _COMPONENTS, _SHRINKAGE = 5, 96, 0.1
_AROUND, _REFERENCES, _NEIGHBOURS, _BANK = 0.15, 1000, 20, 5000
_SMALLEST = 1e-12
_TAIL, _CENSORED, _POWER = 0.50, 0.85, 1.05
_AT_ONCE = 1024


def reduced(vectors: NDArray[np.float16] | NDArray[np.uint8], count: int = _COMPONENTS) -> Floats:
    """Return the largest principal components (N, at most `count`) of vectors (N, F), which are read some at a time."""
    count = min(count, vectors.shape[1], max(1, len(vectors) // 4))
    if len(vectors) < vectors.shape[1]:
        return _by_products(vectors.astype(np.float64), count)
    total, products = np.zeros(vectors.shape[1]), np.zeros((vectors.shape[1],) * 2)
    for start in range(0, len(vectors), _AT_ONCE):
        some = vectors[start : start + _AT_ONCE].astype(np.float64)
        total += some.sum(axis=0)
        products += some.T @ some
    mean = total / len(vectors)
    last = (vectors.shape[1] - count, vectors.shape[1] - 1)
    directions = eigh(products / len(vectors) - np.outer(mean, mean), subset_by_index=last)[1]
    parts = range(0, len(vectors), _AT_ONCE)
    return np.concatenate([(vectors[i : i + _AT_ONCE].astype(np.float64) - mean) @ directions for i in parts])


def _by_products(vectors: Floats, count: int) -> Floats:
    """Return the principal components of fewer vectors than numbers in each, by the products of their pairs."""
    centred = vectors - vectors.mean(axis=0)
    variances, directions = eigh(centred @ centred.T, subset_by_index=(len(vectors) - count, len(vectors) - 1))
    return np.asarray(directions * np.sqrt(variances.clip(min=0)))


def judged(places: Floats, groups: NDArray[np.intp], seed: int = 0) -> tuple[Floats, Floats]:
    """Return how far each image is from the others (N,), and how often a normal image is as far (N,)."""
    scores = cross_fitted(places, groups, seed)
    return scores, p_values(scores)


def cross_fitted(places: Floats, groups: NDArray[np.intp], seed: int = 0) -> Floats:
    """Return how far each image is from the others (N,), in deviations, by models fitted without its group.

    Args:
        places: (N, D).
        groups: the number of each image's group (N,), such as its copies.
        seed: of how groups are dealt into parts, and of what is drawn where there are many images.
    """
    draw = np.random.default_rng(seed)
    _, number = np.unique(groups, return_inverse=True)
    part = draw.permutation(number.max() + 1)[number] % _PARTS
    logs = np.zeros((2, len(places)))
    for one in range(_PARTS):
        own, others = places[part == one], places[part != one]
        if not len(own) or len(others) < 2:
            continue
        bulk = others[_in_the_bulk(others, draw)]
        bank = bulk[np.sort(draw.permutation(len(bulk))[:_BANK])]
        logs[:, part == one] = np.log([_mahalanobis(own, bulk) + _SMALLEST, _sparsity(own, bank) + _SMALLEST])
    middle = np.median(logs, axis=1, keepdims=True)
    spread = 1.4826 * np.median(np.abs(logs - middle), axis=1, keepdims=True)
    return np.asarray(np.logaddexp(*(logs - middle) / np.maximum(spread, _SMALLEST)) - np.log(2))


def _in_the_bulk(places: Floats, draw: np.random.Generator) -> NDArray[np.bool_]:
    """Return which of places (N, D) have 15 % of the others nearest around them, but for the last 15 % (N,)."""
    seen_from = places[draw.permutation(len(places))[:_REFERENCES]]
    near = max(1, round(_AROUND * (len(seen_from) - 1)))  # the nearest may be the place itself
    parts = range(0, len(places), _AT_ONCE)
    radius = np.concatenate(
        [np.partition(_distances(places[i : i + _AT_ONCE], seen_from), near, axis=1)[:, near] for i in parts]
    )
    kept = np.zeros(len(places), dtype=bool)
    kept[np.argsort(radius, kind="stable")[: max(2, round((1 - _AROUND) * len(places)))]] = True
    return kept


def _sparsity(places: Floats, bank: Floats) -> Floats:
    """Return how far places (N, D) are from their nearest in a bank (M, D), over how far those are from theirs (N,)."""
    count = min(_NEIGHBOURS, len(bank) - 1)
    usual = _nearest(bank, bank, count + 1)[0].sum(axis=1) / count  # of these, the nearest is the place itself
    distances, indices = _nearest(places, bank, count)
    return np.asarray(distances.mean(axis=1) / np.maximum(usual[indices].mean(axis=1), _SMALLEST))


def _nearest(places: Floats, bank: Floats, count: int) -> tuple[Floats, NDArray[np.intp]]:
    """Return the distances from places (N, D) to their nearest in a bank (M, D), and which those are, (N, count)."""
    found = []
    for start in range(0, len(places), _AT_ONCE):
        distances = _distances(places[start : start + _AT_ONCE], bank)
        indices = np.argpartition(distances, count - 1, axis=1)[:, :count]
        found.append((np.take_along_axis(distances, indices, axis=1), indices))
    return np.concatenate([one for one, _ in found]), np.concatenate([one for _, one in found])


def _distances(one: Floats, two: Floats) -> Floats:
    """Return the distance of each of one set of places (N, D) from each of another (M, D): (N, M)."""
    squares = np.square(one).sum(axis=1)[:, None] + np.square(two).sum(axis=1) - 2 * (one @ two.T)
    return np.asarray(np.sqrt(squares.clip(min=0)))


def p_values(scores: Floats) -> Floats:
    """Return how often a normal image of the set scores at least this high (N,); see above for what is assumed."""
    ascending = np.sort(scores)
    beyond = (scores - np.quantile(scores, _TAIL)).clip(min=0) ** _POWER
    tail = Tail(beyond, _TAIL, _CENSORED)
    ranks = (1 + len(scores) - np.searchsorted(ascending, scores, side="left")) / (len(scores) + 1)
    return np.asarray(np.where(beyond > 0, tail.beyond(beyond), ranks).clip(0, 1))


def discoveries(p: Floats, rate: float) -> NDArray[np.bool_]:
    """Return which p-values are discoveries by Benjamini-Hochberg, at most a share `rate` of them expected false."""
    return np.asarray(false_discovery_control(p) <= rate)


def _mahalanobis(places: Floats, normal: Floats) -> Floats:
    """Return the squared Mahalanobis distance of places (N, D) from normal ones, each variance shrunk to their mean."""
    mean = normal.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(normal.T).reshape(places.shape[1], -1))
    variances = (1 - _SHRINKAGE) * variances.clip(min=0) + _SHRINKAGE * variances.mean()
    return np.asarray((((places - mean) @ directions) ** 2 / np.maximum(variances, _SMALLEST)).mean(axis=1))

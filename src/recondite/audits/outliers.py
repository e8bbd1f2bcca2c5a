"""Outliers without a clean set: each image judged by models of the others, and how sure that is.

Cross-fitting: images are dealt into five parts, copies of each other together, and each part is judged by a model of
the others. The model is a Mahalanobis distance, shrunk, fitted three times, each time without the tenth of its images
that is farthest. What the images are compared by is the backbone's features or, without one, small grey copies, reduced
to their principal components.

Within one set a rank says nothing of how many outliers there are: some image is always the farthest. So p-values are
ranks up to the 80th percentile of the logarithms of the distances, and beyond follow an exponential tail, whose mean is
that of the part between the 80th and the 95th percentile (a censored maximum likelihood). What is assumed: scores of
normal images fall off at least that fast, and outliers are so few (less than one in twenty) that they lie beyond that
part; more of them make the tail longer, and fewer of them are found.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

Floats = NDArray[np.float64]

ASSUMED = (
    "If the scores of normal images fall off beyond their 95th percentile at least as fast as an exponential through "
    "the 80th to 95th, and p-values do not depend on each other negatively, at most this share of the outliers listed "
    "is expected to be normal (Benjamini-Hochberg)."
)
FEWEST = 50
"""Images; of fewer there is no tail to speak of."""
_PARTS, _COMPONENTS, _ROUNDS, _TRIMMED, _SHRINKAGE = 5, 96, 3, 0.1, 0.1
_TAIL, _CENSORED = 0.80, 0.95
_AT_ONCE = 1024


def reduced(vectors: NDArray[np.float16] | NDArray[np.uint8], count: int = _COMPONENTS) -> Floats:
    """Return the largest principal components (N, at most `count`) of vectors (N, F), which are read some at a time."""
    total, products = np.zeros(vectors.shape[1]), np.zeros((vectors.shape[1],) * 2)
    for start in range(0, len(vectors), _AT_ONCE):
        some = vectors[start : start + _AT_ONCE].astype(np.float64)
        total += some.sum(axis=0)
        products += some.T @ some
    mean = total / len(vectors)
    count = min(count, vectors.shape[1], max(1, len(vectors) // 4))
    directions = np.linalg.eigh(products / len(vectors) - np.outer(mean, mean))[1][:, -count:]
    parts = range(0, len(vectors), _AT_ONCE)
    return np.concatenate([(vectors[i : i + _AT_ONCE].astype(np.float64) - mean) @ directions for i in parts])


def cross_fitted(places: Floats, groups: NDArray[np.intp], seed: int = 0) -> Floats:
    """Return the logarithm of how far each image is from the others (N,), by a model fitted without its group.

    Args:
        places: (N, D).
        groups: the number of each image's group (N,), such as its copies.
        seed: of how groups are dealt into parts.
    """
    _, number = np.unique(groups, return_inverse=True)
    part = np.random.default_rng(seed).permutation(number.max() + 1)[number] % _PARTS
    scores = np.zeros(len(places))
    for one in range(_PARTS):
        kept = np.flatnonzero(part != one)
        judged = part == one
        if not judged.any():
            continue
        distances = np.zeros(len(places))
        for _ in range(_ROUNDS):
            distances = _mahalanobis(places, places[kept])
            others = np.flatnonzero(part != one)
            kept = others[np.argsort(distances[others], kind="stable")[: max(2, round((1 - _TRIMMED) * len(others)))]]
        scores[judged] = np.log(distances[judged] + 1e-12)
    return scores


def p_values(scores: Floats) -> Floats:
    """Return how often a normal image of the set scores at least this high (N,); see above for what is assumed."""
    ascending = np.sort(scores)
    tail = Tail(scores, _TAIL, _CENSORED)
    ranks = (1 + len(scores) - np.searchsorted(ascending, scores, side="left")) / (len(scores) + 1)
    return np.asarray(np.where(scores > tail.begins, tail.beyond(scores), ranks).clip(0, 1))


class Tail:
    """An exponential that scores fall off as, fitted to some so that what lies beyond its part does not matter.

    Args:
        scores: (N,), most of which are normal.
        begins: quantile at which the part begins.
        ends: at which it ends; higher scores count as beyond it (a censored maximum likelihood).
    """

    def __init__(self, scores: Floats, begins: float, ends: float) -> None:
        self.begins, last = np.quantile(scores, [begins, ends])
        beyond = scores[scores > self.begins]
        seen = np.minimum(beyond, last) - self.begins
        self._mean = max(seen.sum() / max(1, (beyond <= last).sum()), 1e-12)
        self._share = len(beyond) / len(scores)

    def beyond(self, scores: Floats) -> Floats:
        """Return how often a normal score is at least as high as these (N,), of which lower ones get 1."""
        tail = self._share * np.exp(-(scores - self.begins).clip(min=0) / self._mean)
        return np.asarray(np.where(scores > self.begins, tail, 1.0))


def discoveries(p: Floats, rate: float) -> NDArray[np.bool_]:
    """Return which p-values are discoveries by Benjamini-Hochberg, at most a share `rate` of them expected false."""
    return np.asarray(false_discovery_control(p) <= rate)


def _mahalanobis(places: Floats, normal: Floats) -> Floats:
    """Return the squared Mahalanobis distance of places (N, D) from normal ones, each variance shrunk to their mean."""
    mean = normal.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(normal.T).reshape(places.shape[1], -1))
    variances = (1 - _SHRINKAGE) * variances.clip(min=0) + _SHRINKAGE * variances.mean()
    return np.asarray((((places - mean) @ directions) ** 2 / np.maximum(variances, 1e-12)).mean(axis=1))

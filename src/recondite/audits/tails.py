"""How scores of what is usual fall off, fitted where what is not usual hardly matters, and read off far beyond."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_SMALLEST, _ROUNDS = 1e-12, 100


class Tail:
    """An exponential that scores fall off as, fitted to some so that what lies beyond its part does not matter.

    Args:
        scores: (N,), most of which are normal.
        begins: quantile at which the part begins.
        ends: at which it ends; higher scores count as beyond it (a censored maximum likelihood).
    """

    def __init__(self, scores: Floats, begins: float, ends: float) -> None:
        self._begins, last = np.quantile(scores, [begins, ends])
        beyond = scores[scores > self._begins]
        seen = np.minimum(beyond, last) - self._begins
        self._mean = max(seen.sum() / max(1, (beyond <= last).sum()), _SMALLEST)
        self._share = len(beyond) / len(scores)

    def beyond(self, scores: Floats) -> Floats:
        """Return how often a normal score is at least as high as these (N,), of which lower ones get 1."""
        tail = self._share * np.exp(-(scores - self._begins).clip(min=0) / self._mean)
        return np.asarray(np.where(scores > self._begins, tail, 1.0))


class MixedTail:
    """An exponential that scores fall off as, among which there are some of something else, spread evenly.

    Both are fitted together by expectation and maximisation.

    Args:
        scores: (N,).
        begins: quantile beyond which they are looked at.
        farthest: score that the something else reaches up to.
    """

    def __init__(self, scores: Floats, begins: float, farthest: float) -> None:
        self._begins = np.quantile(scores, begins)
        beyond = scores[scores > self._begins] - self._begins
        evenly = 1 / max(farthest - self._begins, beyond.max(initial=0), _SMALLEST)
        mean, share = np.median(beyond) / np.log(2) if len(beyond) else _SMALLEST, 0.9
        for _ in range(_ROUNDS if len(beyond) else 0):
            usual = share * np.exp(-beyond / mean) / mean
            belongs = usual / (usual + (1 - share) * evenly)
            share, mean = belongs.mean(), max((belongs * beyond).sum() / belongs.sum(), _SMALLEST)
        self._mean, self._share = mean, share * len(beyond) / len(scores)

    def beyond(self, scores: Floats) -> Floats:
        """Return how often a usual score is at least as high as these (N,), of which lower ones get 1."""
        tail = self._share * np.exp(-(scores - self._begins).clip(min=0) / self._mean)
        return np.asarray(np.where(scores > self._begins, tail, 1.0))

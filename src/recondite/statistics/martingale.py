"""Test martingale for exchangeability: betting against "nothing has changed" on exactly uniform online p-values.

Source: Vovk, Nouretdinov, Gammerman 2003, "Testing exchangeability on-line" (ICML), for conformal test martingales;
Ville 1939 for the bound on their maximum. Differs from the paper: ranks are kept as counts between the calibration
scores, so that the memory does not grow with the stream, and the capital is staked in instalments, so that a change
after a long quiet time still finds some.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recondite.errors import InputError

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_RICHEST = 1e290
_NEAREST = 1e-12
_STAKED = 0.9
BETS = (
    *((0.3, 1.0), (0.6, 1.0), (1.0, 2.0), (1.0, 4.0)),
    *((1.0, 0.3), (1.0, 0.6), (2.0, 1.0), (4.0, 1.0)),
    *((0.5, 0.5), (2.0, 2.0), (5.0, 5.0)),
)
"""Parameters (a, b) of the Beta densities that are bet on: p-values too small (scores too high), too large, at both
ends, in the middle."""


class OnlineRanks:
    """Turns a stream of scores into p-values that are independent and uniform while the stream is like the calibration.

    Some calibration scores cut the line into cells, with g of the n + 1 gaps between calibration scores in each. A cell
    that has held c scores of the stream gets the next one with probability (g + c) / (n + 1 + t), whatever the
    distribution of scores, if all n + t + 1 are exchangeable. The p-value is the probability of the cells above, and a
    random part of its own. It is exact for every n: each score joins the reference, so nothing hinges on the luck of
    one calibration set. Ties are broken by random numbers that go with each score.

    Args:
        scores: of the calibration images (n,), finite.
        seed: of the random numbers that break ties among them.
        cells: how many there are, at most.

    Raises:
        InputError: no scores, or one that is not finite.
    """

    def __init__(self, scores: ArrayLike, seed: int = 0, cells: int = 1000) -> None:
        values = np.asarray(scores, dtype=np.float64)
        if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
            raise InputError(f"expected finite calibration scores (n,), n >= 1; got shape {values.shape}")
        # Other numbers than those of the stream, which come from `uniform`.
        aside = np.random.default_rng([seed, 1]).random(len(values))
        order = np.lexsort((aside, values))
        cuts = np.unique(np.linspace(0, len(values) - 1, min(cells - 1, len(values))).round().astype(np.intp))
        self._values: list[float] = values[order][cuts].tolist()
        self._aside: list[float] = aside[order][cuts].tolist()
        edges = np.concatenate([[-1], cuts, [len(values)]])
        self._gaps: list[int] = np.diff(edges).tolist()
        self._weights = _PrefixSums(list(self._gaps))
        self._total = len(values) + 1

    @property
    def counts(self) -> list[int]:
        """How many scores of the stream fell into each cell, the lowest first."""
        return [weight - gaps for weight, gaps in zip(self._weights.values, self._gaps, strict=True)]

    def restore(self, counts: Sequence[int]) -> None:
        """Take up the counts of an earlier stream.

        Raises:
            InputError: they are not one count for each cell.
        """
        given = list(counts)
        if len(given) != len(self._gaps) or not all(type(count) is int and count >= 0 for count in given):
            raise InputError(f"expected a count for each of {len(self._gaps)} cells; got {len(given)} values")
        self._weights = _PrefixSums([count + gaps for count, gaps in zip(given, self._gaps, strict=True)])
        self._total = sum(self._weights.values)

    def p_value(self, score: float, first: float, second: float) -> float:
        """Return the p-value, in (0, 1), of the next score, which then joins the reference; small for a high score.

        Args:
            score: finite.
            first, second: two random numbers, uniform in (0, 1); the first breaks ties.
        """
        cell = bisect_left(self._values, score)
        if cell < len(self._values) and self._values[cell] == score:
            cell = bisect_left(self._aside, first, cell, bisect_right(self._values, score, cell))
        below, own = self._weights.before(cell), self._weights.values[cell]
        p_value = 1 - (below + second * own) / self._total
        self._weights.increase(cell)
        self._total += 1
        return min(max(p_value, _NEAREST), 1 - _NEAREST)


class Martingales:
    """The capitals of gamblers who each start with 1 and bet that a sequence of p-values is not uniform.

    While p-values of a sequence are uniform and independent, the chance that its capital ever reaches c is at most 1 /
    c, over the whole stream (Ville). Averages over sequences do not share this: p-values that are independent of their
    own past need not be independent of that of others. At every step a part of the cash is staked on each of `BETS`; by
    step t all but 1 / (1 + log2(1 + t)) of it has been.

    Args:
        count: how many sequences there are, K.
    """

    def __init__(self, count: int) -> None:
        self.steps = 0
        self._stakes = np.zeros((count, len(BETS)))
        self._gains = np.ones((count, len(BETS)))  # of each bet since the step in _begun, as a factor
        self._begun = np.zeros((count, len(BETS)), dtype=np.int64)

    @property
    def values(self) -> NDArray[np.float64]:
        """The capitals (K,)."""
        return np.asarray(_cash(self.steps) + self._stakes.sum(axis=1))

    def began(self, sequence: int) -> int:
        """Return the step before which a sequence's richest bet began to win: an estimate of when it changed."""
        return int(self._begun[sequence, np.argmax(self._stakes[sequence])])

    def update(self, p_values: ArrayLike) -> None:
        """Bet on the next p-value of each sequence (K,), each in (0, 1); on NaN nothing is bet."""
        p = np.asarray(p_values, dtype=np.float64)[:, None]
        stake = (_cash(self.steps) - _cash(self.steps + 1)) / len(BETS)
        factors = 1 - _STAKED + _STAKED * np.exp(_A * np.log(p) + _B * np.log1p(-p) + _SCALES)
        factors[np.isnan(factors)] = 1.0
        # A capital cut down keeps the promise; an infinite one would not come back from a file.
        self._stakes += stake
        self._stakes *= factors
        np.minimum(self._stakes, _RICHEST, out=self._stakes)
        lost = self._gains <= 1
        self._gains[lost] = 1.0
        self._begun[lost] = self.steps
        self._gains *= factors
        np.minimum(self._gains, _RICHEST, out=self._gains)
        self.steps += 1

    def state(self) -> dict[str, Any]:
        """Return JSON values from which `restore` goes on."""
        arrays = {"stakes": self._stakes, "gains": self._gains, "begun": self._begun}
        return {"steps": self.steps, **{name: array.tolist() for name, array in arrays.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            InputError: it is not the state of as many martingales.
        """
        try:
            arrays = [np.asarray(state[name], dtype=np.float64) for name in ("stakes", "gains", "begun")]
            steps = int(state["steps"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"this is not the state of martingales: {error}") from error
        good = all(a.shape == self._stakes.shape and np.isfinite(a).all() and (a >= 0).all() for a in arrays)
        if not good or steps < 0:
            raise InputError(f"this is not the state of {len(self._stakes)} martingales")
        self.steps, self._stakes, self._gains, self._begun = steps, *arrays[:2], arrays[2].astype(np.int64)


def uniform(seed: int, start: int, count: int) -> NDArray[np.float64]:
    """Return the random numbers in (0, 1) at places start, start + 1, ... of the sequence of a seed (count,).

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators" (SplitMix64).

    >>> bool(uniform(0, 0, 4)[3] == uniform(0, 3, 1)[0])
    True
    """
    origin = _mixed(np.array([(seed + _GOLDEN) & _MASK], dtype=np.uint64))
    places = np.arange(start + 1, start + 1 + count, dtype=np.uint64)
    mixed = _mixed(origin + places * np.uint64(_GOLDEN))
    return ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / float(1 << 53)


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble whole numbers; products wrap around."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _cash(steps: int) -> float:
    """Return the share of the capital that has not been staked."""
    return 1 / (1 + math.log2(1 + steps))


_A = np.array([a - 1 for a, _ in BETS])
_B = np.array([b - 1 for _, b in BETS])
_SCALES = np.array([math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) for a, b in BETS])


class _PrefixSums:
    """Whole numbers of which one is increased and the first few are summed, in a time that grows as their logarithm.

    Source: Fenwick 1994, doi 10.1002/spe.4380240306.
    """

    def __init__(self, values: list[int]) -> None:
        self.values = values
        self._tree = [0, *values]
        for index in range(1, len(self._tree)):
            above = index + (index & -index)
            if above < len(self._tree):
                self._tree[above] += self._tree[index]

    def increase(self, index: int) -> None:
        self.values[index] += 1
        index += 1
        while index < len(self._tree):
            self._tree[index] += 1
            index += index & -index

    def before(self, index: int) -> int:
        """Return the sum of the first `index` values."""
        total = 0
        while index:
            total += self._tree[index]
            index &= index - 1
        return total

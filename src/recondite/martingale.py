"""Betting against "nothing has changed": online p-values that are exactly uniform, and a test martingale on them.

Source: Vovk, Nouretdinov, Gammerman 2003, "Testing exchangeability on-line" (ICML), for conformal test martingales;
Ville 1939 for the bound on their maximum. Differs from the paper: ranks are kept as counts between the calibration
scores, so that the memory does not grow with the stream, and the capital is staked in instalments, so that a change
after a long quiet time still finds some.
"""

import math
from collections.abc import Sequence
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

    The calibration scores cut the line into n + 1 cells. A cell that has held c scores of the stream gets the next one
    with probability (1 + c) / (n + 1 + t), whatever the distribution of scores, if all n + t + 1 are exchangeable. The
    p-value is the probability of the cells above, and a random part of its own. It is exact for every n: each score
    joins the reference, so nothing hinges on the luck of one calibration set. Ties are broken by random numbers that go
    with each score.

    Args:
        scores: of the calibration images (n,), finite.
        seed: of all random numbers.

    Raises:
        InputError: no scores, or one that is not finite.
    """

    def __init__(self, scores: ArrayLike, seed: int = 0) -> None:
        values = np.asarray(scores, dtype=np.float64)
        if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
            raise InputError(f"expected finite calibration scores (n,), n >= 1; got shape {values.shape}")
        # Numbers that break ties come from other seeds than those of the stream.
        aside = np.random.default_rng([seed, 1]).random(len(values))
        order = np.lexsort((aside, values))
        self._scores: NDArray[np.float64] = values[order]
        self._aside: NDArray[np.float64] = aside[order]
        self._weights = _PrefixSums([1] * (len(values) + 1))
        self.seen = 0

    @property
    def counts(self) -> list[int]:
        """How many scores of the stream fell into each cell (n + 1,), the highest cell first."""
        return [weight - 1 for weight in self._weights.values]

    def restore(self, counts: Sequence[int]) -> None:
        """Take up the counts of an earlier stream.

        Raises:
            InputError: they are not n + 1 counts.
        """
        given = list(counts)
        good = len(given) == len(self._scores) + 1 and all(type(count) is int and count >= 0 for count in given)
        if not good:
            raise InputError(f"expected {len(self._scores) + 1} counts for as many cells; got {len(given)} values")
        self._weights = _PrefixSums([count + 1 for count in given])
        self.seen = sum(given)

    def p_value(self, score: float, first: float, second: float) -> float:
        """Return the p-value, in (0, 1), of the next score, which then joins the reference; small for a high score.

        Args:
            score: finite.
            first, second: two random numbers, uniform in (0, 1); the first breaks ties.
        """
        below, up_to = (int(np.searchsorted(self._scores, score, side)) for side in ("left", "right"))
        if up_to > below:
            below += int(np.searchsorted(self._aside[below:up_to], first))
        cell = len(self._scores) - below
        p_value = (self._weights.before(cell) + second * self._weights.values[cell]) / (
            len(self._scores) + 1 + self.seen
        )
        self._weights.increase(cell)
        self.seen += 1
        return min(max(p_value, _NEAREST), 1 - _NEAREST)


class Martingale:
    """The capital of a gambler who starts with 1 and bets that p-values are not uniform.

    While they are uniform and independent, the chance that the capital ever reaches c is at most 1 / c, over the whole
    stream (Ville). At every step a part of the cash is staked on each of `BETS`; by step t all but
    1 / (1 + log2(1 + t)) of it has been.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._stakes = [0.0] * len(BETS)
        self._gains = [0.0] * len(BETS)
        self._begun = [0] * len(BETS)

    @property
    def value(self) -> float:
        """The capital."""
        return _cash(self.steps) + sum(self._stakes)

    @property
    def began(self) -> int:
        """The step before which the richest bet began to win: an estimate of when a change happened."""
        return self._begun[max(range(len(BETS)), key=self._stakes.__getitem__)]

    def update(self, p_value: float) -> float:
        """Bet on the next p-value, in (0, 1), and return the capital."""
        stake = (_cash(self.steps) - _cash(self.steps + 1)) / len(BETS)
        for index, (a, b, scale) in enumerate(_DENSITIES):
            factor = 1 - _STAKED + _STAKED * scale * p_value**a * (1 - p_value) ** b
            # A capital cut down keeps the promise; an infinite one would not come back from a file.
            self._stakes[index] = min((self._stakes[index] + stake) * factor, _RICHEST)
            if self._gains[index] <= 0:
                self._gains[index], self._begun[index] = 0.0, self.steps
            self._gains[index] += math.log(factor)
        self.steps += 1
        return self.value

    def state(self) -> dict[str, Any]:
        """Return JSON values from which `restore` goes on."""
        return {"steps": self.steps, "stakes": [*self._stakes], "gains": [*self._gains], "begun": [*self._begun]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            InputError: it is not such a state.
        """
        lists = [state.get(name) for name in ("stakes", "gains", "begun")]
        numbers = [
            value for values in lists if isinstance(values, list) for value in [len(values) - len(BETS), *values]
        ]
        good = len(numbers) == 3 * (len(BETS) + 1) and all(
            isinstance(v, int | float) and math.isfinite(v) for v in numbers
        )
        steps = state.get("steps")
        if not good or type(steps) is not int or steps < 0 or any(value < 0 for value in state["stakes"]):
            raise InputError("this is not the state of a martingale")
        self.steps, self._stakes = steps, [float(value) for value in state["stakes"]]
        self._gains, self._begun = [float(value) for value in state["gains"]], [int(value) for value in state["begun"]]


def uniform(seed: int, number: int) -> float:
    """Return the random number in (0, 1) with this place in the sequence of a seed, whatever was asked before.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators" (SplitMix64).

    >>> uniform(0, 3) == uniform(0, 3) != uniform(1, 3)
    True
    """
    start = _mixed((seed + _GOLDEN) & _MASK)
    return ((_mixed((start + (number + 1) * _GOLDEN) & _MASK) >> 11) + 0.5) / (1 << 53)


def _mixed(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def _cash(steps: int) -> float:
    """Return the share of the capital that has not been staked."""
    return 1 / (1 + math.log2(1 + steps))


_DENSITIES = [(a - 1, b - 1, math.gamma(a + b) / math.gamma(a) / math.gamma(b)) for a, b in BETS]


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

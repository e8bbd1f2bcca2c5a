"""Label shift: how often each class comes in unlabelled traffic, from what a classifier predicts.

Source: Lipton, Wang and Smola 2018, arXiv 1802.03916 (black box shift estimation).
Differs from it: shares are kept from being negative by non-negative least squares, and intervals come from a bootstrap
of labelled images and traffic, or from a posterior of both (Dirichlet, one image more of each class) where that is
wider: a bootstrap never draws what has not come, so that by it ten images would prove that classes are gone, and ten
labelled ones that a class is never taken for another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recondite.errors import InputError

_LEVEL, _DRAWS, _SUM_COUNTS, _UNSEEN = 0.05, 2000, 10.0, 1.0
_LARGEST_CONDITION = 30.0


@dataclass(frozen=True)
class Prevalence:
    """How often one class comes.

    Args:
        name: the class.
        before: its share of the labelled images, in [0, 1].
        share: its estimated share of the traffic, in [0, 1].
        low, high: an interval of that, which holds for all classes together with probability about .95.
        moved: whether its share has changed, by more than the labelled images and the traffic differ by chance: where
            no class has changed, one of them is said to have moved with probability about .05.
    """

    name: str
    before: float
    share: float
    low: float
    high: float
    moved: bool

    @property
    def gone(self) -> bool:
        """Whether it has become rarer, so much that the traffic may hold none of it."""
        return self.moved and self.low < 1e-6 and self.before > self.high

    @property
    def in_words(self) -> str:
        """What has become of it."""
        if not self.moved:
            return "as before"
        return "gone, or nearly" if self.gone else "rarer" if self.share < self.before else "more frequent"


def prevalences(confusion: ArrayLike, predicted: ArrayLike, names: Sequence[str], seed: int = 0) -> list[Prevalence]:
    """Return the share of each class in unlabelled traffic.

    It holds where images of one class are as ever, and only the shares of the classes have changed; images that are of
    no class must be left out as far as they are known.

    Args:
        confusion: (K, K), of labelled images that the classifier has not learnt from, how many of each true class
            (column) were predicted as each class (row).
        predicted: (K,), of the traffic, how many were predicted as each class.
        names: of the K classes.
        seed: of the bootstrap.

    Raises:
        InputError: counts that do not belong together; a class without labelled images; no traffic; or a classifier
            that confuses classes so much that their shares cannot be told.
    """
    counts, came = np.asarray(confusion, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    size = len(names)
    if counts.shape != (size, size) or came.shape != (size,) or min(counts.min(initial=0), came.min(initial=0)) < 0:
        raise InputError(f"expected counts ({size}, {size}) and ({size},); got {counts.shape} and {came.shape}")
    of_class = counts.sum(axis=0)
    if (of_class == 0).any() or came.sum() == 0:
        empty = "the traffic" if came.sum() == 0 else f"labelled images of class {names[int(of_class.argmin())]!r}"
        raise InputError(f"expected images to tell shares of classes by; of {empty} there are none")
    rates = counts / of_class
    if np.linalg.cond(rates) > _LARGEST_CONDITION:
        raise InputError("the classifier confuses some classes so much that their shares in the traffic cannot be told")
    draws = np.random.default_rng(seed)

    def drawn_again(seen: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = draws.multinomial(int(seen.sum()), seen / seen.sum(), _DRAWS) / seen.sum()
        return found

    def likely(seen: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = draws.dirichlet(seen + _UNSEEN, _DRAWS)
        return found

    half = _LEVEL / (2 * size)
    estimates = []
    for drawn in (drawn_again, likely):
        of_rates = np.stack([drawn(seen) for seen in counts.T], axis=2)
        estimates.append(np.array([_shares(*one) for one in zip(of_rates, drawn(came), strict=True)]))
    # The shares before are of a sample too: to take them as exact would say of many unchanged streams that they moved.
    befores = [drawn(of_class) for drawn in (drawn_again, likely)]
    low, high = _ends(estimates, half)
    fewer, more = _ends([some - others for some, others in zip(estimates, befores, strict=True)], half)
    moved = (fewer > 0) | (more < 0)
    shares, before = _shares(rates, came / came.sum()), of_class / of_class.sum()
    return [
        Prevalence(
            name=name,
            before=float(before[place]),
            share=float(shares[place]),
            low=float(low[place]),
            high=float(high[place]),
            moved=bool(moved[place]),
        )
        for place, name in enumerate(names)
    ]


def _ends(drawn: Sequence[NDArray[np.float64]], half: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lowest and highest ends (K,) of intervals, of each of some draws (D, K) `half` on each side."""
    ends = [np.quantile(some, [half, 1 - half], axis=0) for some in drawn]
    low, high = np.min(ends, axis=0)[0], np.max(ends, axis=0)[1]
    return low, high


def _shares(rates: NDArray[np.float64], came: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shares (K,), not negative and of sum 1, with which the rates (K, K) give what came (K,) best."""
    from scipy.optimize import nnls

    found = nnls(np.vstack([rates, np.full(len(came), _SUM_COUNTS)]), np.append(came, _SUM_COUNTS))[0]
    shares: NDArray[np.float64] = found / max(found.sum(), 1e-12)
    return shares

"""Selective risk: the lowest confidence to accept at which the error among accepted images is bounded.

Source: Geifman and El-Yaniv 2017, arXiv 1705.08500; Angelopoulos et al. 2021, arXiv 2110.01052 (learn then test, with
fixed sequence testing).
"""

from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recondite.errors import InputError
from recondite.statistics.calibration import rate_of

_STEPS = 50


@dataclass(frozen=True)
class Floor:
    """The lowest confidence that is accepted, and what it promises.

    With probability at least 1 - delta over the calibration images, of the images whose confidence is at least
    `confidence` a share of at most `risk` is labelled wrong.

    Args:
        confidence: the floor, in [0, 1].
        risk: r, in (0, 1).
        delta: in (0, 1).
        accepted: how many calibration images reach the floor.
        wrong: how many of those have a wrong label.
        of: all the calibration images.
    """

    confidence: float
    risk: float
    delta: float
    accepted: int
    wrong: int
    of: int

    def __post_init__(self) -> None:
        for name in ("risk", "delta"):
            rate_of(getattr(self, name), name)
        if isinstance(self.confidence, bool) or not isinstance(self.confidence, Real) or not 0 <= self.confidence <= 1:
            raise InputError(f"expected a number in [0, 1] as a floor of confidence; got {self.confidence!r}")
        counts = (self.wrong, self.accepted, self.of)
        if not all(type(count) is int for count in counts) or not 0 <= self.wrong <= self.accepted <= self.of:
            raise InputError(f"expected wrong labels among accepted images among all; got {counts}")

    @property
    def sentence(self) -> str:
        """The promise in words."""
        return (
            f"of the labels given to normal images at most {self.risk:g} are wrong, with probability "
            f"{1 - self.delta:g}: "
            f"{self.wrong:,} of {self.accepted:,} were ({self.of:,} calibration images)"
        )


def floors_of(confidence: ArrayLike) -> NDArray[np.float64]:
    """Return the floors that keep the surest half, 51 hundredths and so on to all of some images, highest first.

    Args:
        confidence: (n,), of images that are used for nothing else of the promise.
    """
    return np.quantile(np.asarray(confidence, dtype=np.float64), np.linspace(0.5, 0, _STEPS + 1), method="lower")


def fewest_accepted(risk: float, delta: float) -> int:
    """Return how many accepted images, all labelled right, it takes to promise an error of at most `risk`.

    >>> fewest_accepted(0.05, 0.05)
    59
    """
    return int(np.ceil(np.log(delta) / np.log1p(-risk)))


def confidence_floor(
    confidence: ArrayLike, wrong: ArrayLike, floors: ArrayLike, risk: float, delta: float = 0.05
) -> Floor:
    """Return the lowest of some floors at which an error among accepted images of at most `risk` can be promised.

    The floors are tested in turn: "the error among accepted is above `risk`" is rejected where so few errors or fewer
    have a binomial probability of at most delta. The first that is not rejected ends it, so that delta holds for all
    together. The floors must not come from the calibration images.

    Args:
        confidence: (n,), of calibration images that the classifier has not learnt from.
        wrong: bool (n,), whether the classifier's label is wrong.
        floors: (m,), in the order in which they are tested; see `floors_of`.
        risk: r, in (0, 1).
        delta: in (0, 1).

    Raises:
        InputError: rates outside (0, 1), arrays that do not belong together, or too few images or too many errors above
            the first floor for such a promise.
    """
    from scipy.stats import binom

    risk, delta = rate_of(risk, "risk"), rate_of(delta, "delta")
    sure, errors = np.asarray(confidence, dtype=np.float64), np.asarray(wrong, dtype=bool)
    if sure.ndim != 1 or errors.shape != sure.shape or not np.isfinite(sure).all():
        raise InputError(f"expected finite confidences (n,) and n errors; got {sure.shape} and {errors.shape}")
    found, count, mistakes = None, 0, 0
    for floor in np.minimum(np.asarray(floors, dtype=np.float64), 1):  # probabilities of others may be a rounding above
        accepted = sure >= floor
        count, mistakes = int(accepted.sum()), int(errors[accepted].sum())
        if binom.cdf(mistakes, count, risk) > delta:
            break
        found = Floor(float(floor), risk, delta, count, mistakes, len(sure))
    if found is None:
        raise InputError(
            f"an error of at most {risk:g} among accepted images cannot be promised with probability {1 - delta:g}: "
            f"of the surest {count:,} calibration images {mistakes:,} have a wrong label (at best, none of "
            f"{fewest_accepted(risk, delta):,})"
        )
    return found

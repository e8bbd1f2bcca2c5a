"""P-values where images to come are unlike the calibration images, by a known or estimated ratio of densities.

Source: Tibshirani, Barber, Candes, Ramdas 2019, "Conformal prediction under covariate shift", arXiv 1904.06019;
Sugiyama, Suzuki, Kanamori 2012, "Density ratio estimation in machine learning" (by a classifier).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

_PENALTY, _FOLDS = 1.0, 5


def weighted_p_values(
    calibration: ArrayLike, weights: ArrayLike, scores: ArrayLike, own: ArrayLike
) -> NDArray[np.float64]:
    """Return p-values (N,): how often an image from where the weights lead scores at least this high.

    p = (sum of the weights of calibration scores >= score, and its own) / (sum of all weights, and its own). With equal
    weights these are the p-values of `Calibrator`.

    Args:
        calibration: (n,) scores.
        weights: (n,) > 0, how much more likely each of these images is among images to come.
        scores: (N,).
        own: (N,) > 0, the same of these images.

    >>> weighted_p_values([1.0, 2.0, 3.0], [1, 1, 1], [2.5, 9.0], [1, 1])
    array([0.5 , 0.25])
    """
    order = np.argsort(np.asarray(calibration, dtype=np.float64), kind="stable")
    ascending = np.asarray(calibration, dtype=np.float64)[order]
    above = np.append(np.cumsum(np.asarray(weights, dtype=np.float64)[order][::-1])[::-1], 0.0)
    itself = np.asarray(own, dtype=np.float64)
    at_least = above[np.searchsorted(ascending, np.asarray(scores, dtype=np.float64), side="left")]
    p_values: NDArray[np.float64] = (at_least + itself) / (above[0] + itself)
    return p_values


def effective_number(weights: ArrayLike) -> float:
    """Return how many equally weighted images tell as much: (sum w)^2 / sum w^2 (Kish).

    >>> effective_number([1, 1, 1, 1]), effective_number([1, 0, 0, 0])
    (4.0, 1.0)
    """
    values = np.asarray(weights, dtype=np.float64)
    return float(values.sum() ** 2 / np.square(values).sum())


@dataclass(frozen=True)
class DensityRatio:
    """How much more likely values are among recent ones than among calibration ones, up to a factor.

    It is the odds of a logistic regression on the values and their squares, with a ridge penalty, and never more than
    the largest among the calibration images, so that what is unlike anything known does not count for more than they.

    Args:
        coefficients: (2 D,) of the values and their squares.
        weights: (n,) the ratio at each calibration image.
        told_apart: the area under the ROC curve with which images not learnt from are told apart; .5 for no shift.
    """

    coefficients: NDArray[np.float64]
    weights: NDArray[np.float64]
    told_apart: float

    @classmethod
    def fit(cls, calibration: NDArray[np.float64], recent: NDArray[np.float64]) -> Self:
        """Learn from values (n, D) and (m, D), about standard normal among calibration images."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import roc_auc_score
        from sklearn.model_selection import StratifiedKFold, cross_val_predict

        x = _with_squares(np.concatenate([calibration, recent]))
        y = np.repeat([0, 1], [len(calibration), len(recent)])
        model = LogisticRegression(C=_PENALTY, max_iter=1000)
        folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
        unseen = cross_val_predict(model, x, y, cv=folds, method="decision_function")
        coefficients = model.fit(x, y).coef_[0]
        odds = x[: len(calibration)] @ coefficients
        return cls(coefficients, np.exp(odds - odds.max()), float(roc_auc_score(y, unseen)))

    def of(self, values: NDArray[np.float64], calibration: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the ratio (N,) at values (N, D), on the scale of `weights`, which belong to `calibration` (n, D)."""
        largest = (_with_squares(calibration) @ self.coefficients).max()
        found: NDArray[np.float64] = np.exp(np.minimum(_with_squares(values) @ self.coefficients - largest, 0.0))
        return found


def _with_squares(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([values, np.square(values) - 1], axis=1)

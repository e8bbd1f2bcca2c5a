"""Recondite behind the interface of PyOD: higher scores are worse, labels are 0 and 1."""

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erf
from scipy.stats import binom
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from recondite.compat.sklearn import ReconstructionOutlierDetector
from recondite.errors import InputError


class ReconstructionDetector(BaseEstimator):  # type: ignore[misc]
    """Outlier detector that learns to rebuild normal images, or vectors, with PyOD's methods and attributes.

    Args:
        detector, contamination, calibration, image_shape, options, random_state: as in
            `recondite.compat.sklearn.ReconstructionOutlierDetector`, which does the work.

    Attributes:
        decision_scores_: the scores of the training images (N,); higher is more anomalous.
        threshold_: images that score higher are outliers.
        labels_: 1 for training images above the threshold, else 0 (N,).
        detector_, screen_: what was fitted; `screen_` is None without `calibration`.
    """

    def __init__(
        self,
        detector: str = "autoencoder",
        *,
        contamination: float = 0.1,
        calibration: float = 0.0,
        image_shape: tuple[int, int, int] | None = None,
        options: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.detector = detector
        self.contamination = contamination
        self.calibration = calibration
        self.image_shape = image_shape
        self.options = options
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: ARG002
        """Learn what normal images look like.

        Args:
            X: rows (N, D), or images; mostly normal ones.
            y: ignored.

        Raises:
            ValueError: NaN, infinite or absurd values, too few images, or parameters that cannot be used.
        """
        self.face_ = ReconstructionOutlierDetector(**self.get_params(deep=False)).fit(X)
        self.detector_, self.screen_ = self.face_.detector_, self.face_.screen_
        self.threshold_ = -float(self.face_.offset_)
        self.decision_scores_ = self.decision_function(X)
        self.labels_ = self._labels(self.decision_scores_)
        return self

    def fit_predict(self, X: ArrayLike, y: object = None) -> NDArray[np.int_]:
        """Fit and return `labels_`.

        Raises:
            ValueError: as `fit`.
        """
        return self.fit(X, y).labels_

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return how anomalous each image is (N,), the very scores of `Detector.score` and `Screen.predict`.

        Raises:
            ValueError: NaN, infinite or absurd values, or another shape than in `fit`.
        """
        check_is_fitted(self)
        return -self.face_.score_samples(X)

    def predict(self, X: ArrayLike, return_confidence: bool = False) -> Any:
        """Return 1 for outliers and 0 for inliers (N,), and with `return_confidence` also `predict_confidence`.

        Raises:
            ValueError: as `decision_function`.
        """
        scores = self.decision_function(X)
        return (self._labels(scores), self._confidence(scores)) if return_confidence else self._labels(scores)

    def predict_proba(self, X: ArrayLike, method: Literal["linear", "unify"] = "linear") -> NDArray[np.float64]:
        """Return scores put on a scale from 0 to 1, (N, 2): [inlier, outlier]. They are no calibrated probabilities.

        Args:
            X: images.
            method: "linear" puts the lowest training score at 0 and the highest at 1; "unify" is the error function of
                the standardised score, cut at 0 (Kriegel et al. 2011, SIAM SDM, "Interpreting and unifying outlier
                scores"). For a rate that holds, see the p-values of `screen_`.

        Raises:
            ValueError: another method; or as `decision_function`.
        """
        scores, known = self.decision_function(X), self.decision_scores_
        if method == "linear":
            spread = np.ptp(known)
            outlier = (scores - known.min()) / (spread if spread > 0 else 1.0)
        elif method == "unify":
            deviation = known.std()
            outlier = erf((scores - known.mean()) / ((deviation if deviation > 0 else 1.0) * np.sqrt(2)))
        else:
            raise InputError(f"expected a method of linear or unify; got {method!r}")
        outlier = np.clip(outlier, 0, 1)
        return np.column_stack([1 - outlier, outlier])

    def predict_confidence(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return how sure each verdict is (N,): how often it would be the same for other training sets of this size.

        Source: Perini, Vercruyssen, Davis 2020, ECML PKDD, "Quantifying the confidence of anomaly detectors in their
        example-wise predictions".

        Raises:
            ValueError: as `decision_function`.
        """
        return self._confidence(self.decision_function(X))

    def _labels(self, scores: NDArray[np.float64]) -> NDArray[np.int_]:
        return (scores > self.threshold_).astype(np.int_)

    def _confidence(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        count = len(self.decision_scores_)
        not_higher = np.searchsorted(np.sort(self.decision_scores_), scores, side="right")
        beyond = (1 + not_higher) / (2 + count)
        outlier = binom.sf(count - int(count * self.contamination), count, beyond)
        confidence: NDArray[np.float64] = np.where(self._labels(scores) == 1, outlier, 1 - outlier)
        return confidence

"""Recondite as scikit-learn outlier detectors: for pipelines, grid searches and `clone`."""

from collections.abc import Mapping
from math import prod
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from recondite.audits.outliers import FEWEST, discoveries, judged, reduced
from recondite.audits.run import audit
from recondite.data.datasets import open_images
from recondite.data.sample import guess_preprocessing
from recondite.data.scaling import white_of
from recondite.detectors import Detector, build, detector_class
from recondite.errors import InputError, did_you_mean
from recondite.options import TrainingOptions, option_names
from recondite.screen.fit import fit as fit_screen
from recondite.screen.screen import Screen
from recondite.statistics.calibration import percentile_threshold
from recondite.statistics.scores import Scores

_LARGEST_LATENT = 32
_LARGEST_SEED = 2**31 - 1
_FEWEST_RANKED = 10
_SET_HERE = {"detector", "alpha", "calibration", "on_bad"}


class ReconstructionOutlierDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """Outlier detector that learns to rebuild normal images, or vectors.

    As everywhere in scikit-learn, lower scores are more anomalous here: `score_samples` is the negative of what
    `Screen.predict` and `Detector.score` return, bit for bit.

    Args:
        detector: a name in `recondite.DETECTORS`.
        contamination: in (0, 0.5], the share of images that are flagged: without `calibration` this share of the
            training images (scikit-learn's meaning, no promise for new ones), with it the false-alarm rate that holds
            for new normal images.
        calibration: share of the images, in [0, 1), that is held out of training to set the threshold by.
        image_shape: (C, H, W), for rows that are flattened images, uint8 or with values in [0, 1]; None for vectors,
            and for images given as (N, H, W), (N, H, W, C) or (N, C, H, W).
        options: options of the detector and of training, such as {"latent_size": 8, "epochs": 50}; with `calibration`
            also arguments of `recondite.fit`, such as {"score": "auto"}. Without a latent_size it is half the number of
            values of an image, 32 at most.
        random_state: of weights, shuffling and splits.

    Attributes:
        detector_: the fitted `Detector`.
        screen_: the calibrated `Screen`; None without `calibration`.
        offset_: images whose `score_samples` is below it are outliers.
        n_features_in_: the number of columns, or the length of the second axis.

    Source: the interface is that of scikit-learn, "Novelty and Outlier Detection".
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
        images = self._images(X, reset=True)
        set_here = sorted(_SET_HERE & {*(self.options or {})})
        if set_here:
            raise InputError(
                f"expected options without {', '.join(set_here)}: detector, calibration and contamination (alpha) are "
                "parameters of their own, and unreadable images are errors"
            )
        _check_share("contamination", self.contamination, 0.0, 0.5, ends=(False, True))
        _check_share("calibration", self.calibration, 0.0, 1.0, ends=(True, False))
        screen: Screen | None = None
        settings = {"seed": _seed_of(self.random_state), **self._latent(images), **(self.options or {})}
        if self.calibration:
            screen = fit_screen(
                images,
                detector=self.detector,
                alpha=float(self.contamination),
                calibration=float(self.calibration),
                on_bad="raise",
                **settings,
            )
            detector, threshold = screen.detector, screen.threshold
        else:
            detector = _fitted(images, self.detector, settings)
            scores = _checked(detector.score(images))
            threshold = percentile_threshold(scores, 100 * (1 - float(self.contamination)))
        self.screen_, self.detector_, self.offset_ = screen, detector, -threshold
        return self

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return how normal each image is (N,); lower is more anomalous.

        Raises:
            NotFittedError: scikit-learn's, before `fit`.
            ValueError: NaN, infinite or absurd values, or another shape than in `fit`.
        """
        check_is_fitted(self)
        images = self._images(X, reset=False)
        return -_checked(self.detector_.score(images) if self.screen_ is None else self.screen_.predict(images))

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return `score_samples` less `offset_` (N,): negative for outliers.

        Raises:
            ValueError: as `score_samples`.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int_]:
        """Return 1 for inliers and -1 for outliers (N,).

        Raises:
            ValueError: as `score_samples`.
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def _images(self, X: ArrayLike, reset: bool) -> NDArray[Any]:
        images: NDArray[Any] = validate_data(
            self, X, reset=reset, allow_nd=True, ensure_min_samples=2 if reset else 1, dtype="numeric"
        )
        known = self.image_shape is not None and white_of(images.dtype) is not None
        if images.dtype.kind in "iu" and images.ndim == 2 and not known:
            images = images.astype(np.float64)
        if self.image_shape is None or images.ndim > 2:
            return images
        if images.shape[1] != prod(self.image_shape):
            raise InputError(f"expected rows of {self.image_shape} = {prod(self.image_shape)}; got {images.shape[1]}")
        return images.reshape(-1, *self.image_shape)

    def _latent(self, images: NDArray[Any]) -> dict[str, int]:
        if "latent_size" not in option_names(detector_class(self.detector).Options):
            return {}
        most = min(_LARGEST_LATENT, prod(images.shape[1:]) // 2, len(images) // 2)
        return {"latent_size": max(1, most)}


class CrossFittedOutlierRanking(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """Ranks unlabelled images, or vectors, by how far each is from the others, as `recondite.audit` does.

    Each is judged by models that were fitted without it, so there is no `predict`: only `fit_predict`, as with
    scikit-learn's LocalOutlierFactor.

    Args:
        contamination: a number in (0, 0.5] flags this share, the farthest; "auto" flags discoveries at `fdr`.
        fdr: the share of those flagged that may be normal; see `recondite.audits.outliers` for what is assumed.
        random_state: of how rows are dealt into parts; images are dealt as in an audit.

    Attributes:
        outlier_scores_: (N,), higher is farther from the others.
        p_values_: (N,).
        labels_: 1 for inliers and -1 for outliers (N,).
        n_features_in_: the number of columns, or the length of the second axis.

    Source: the interface is that of scikit-learn, "Novelty and Outlier Detection".
    """

    def __init__(
        self,
        contamination: float | str = 0.1,
        *,
        fdr: float = 0.1,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.contamination = contamination
        self.fdr = fdr
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: ARG002
        """Rank images.

        Args:
            X: rows (N, D), or images (N, H, W), (N, H, W, C) or (N, C, H, W); at least ten.
            y: ignored.

        Raises:
            ValueError: NaN or infinite values, too few images, or parameters that cannot be used.
        """
        x = validate_data(self, X, allow_nd=True, ensure_min_samples=_FEWEST_RANKED, dtype="numeric")
        _check_share("fdr", self.fdr, 0.0, 1.0, ends=(False, False))
        if self.contamination != "auto":
            _check_share("contamination", self.contamination, 0.0, 0.5, ends=(False, True))
        if x.ndim > 2:
            found = audit(x, fdr=float(self.fdr))
            scores, p = found.scores, found.p_values
            if not np.isfinite(scores).all():
                raise InputError("; ".join(found.remarks) if len(x) < FEWEST else found.findings[0].reason)
        else:
            scores, p = judged(reduced(x.astype(np.float64)), np.arange(len(x)), _seed_of(self.random_state))
        if self.contamination == "auto":
            flagged = discoveries(p, float(self.fdr))
        else:
            flagged = np.zeros(len(x), dtype=bool)
            flagged[np.argsort(-scores, kind="stable")[: round(float(self.contamination) * len(x))]] = True
        self.outlier_scores_, self.p_values_, self.labels_ = scores, p, np.where(flagged, -1, 1)
        return self

    def fit_predict(self, X: ArrayLike, y: object = None) -> NDArray[np.int_]:
        """Rank images and return 1 for inliers and -1 for outliers (N,).

        Raises:
            ValueError: as `fit`.
        """
        return np.asarray(self.fit(X, y).labels_)


def _fitted(images: NDArray[Any], name: str, settings: Mapping[str, Any]) -> Detector:
    """Return a detector fitted on all images."""
    own, training = option_names(detector_class(name).Options), option_names(TrainingOptions)
    unknown = sorted(set(settings) - own - training)
    if unknown:
        raise InputError(
            f"detector {name!r} and its training have no option {unknown[0]!r}; calibration=... brings more"
            f"{did_you_mean(unknown[0], sorted(own | training))}"
        )
    seen, _ = guess_preprocessing(open_images(images))
    options = {key: value for key, value in settings.items() if key in own}
    detector = build(name, image_shape=seen.shape, seed=settings["seed"], **options)
    return detector.fit(images, validation=None, **{key: settings[key] for key in settings if key not in own})


def _seed_of(random_state: int | np.random.RandomState | None) -> int:
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(_LARGEST_SEED))


def _checked(scores: Scores) -> NDArray[np.float64]:
    """Return instance scores, all of them finite."""
    for index in np.flatnonzero(~np.isfinite(scores.instance_score)):
        raise InputError(f"image {index}: {scores.errors[index] or 'the score is not finite'}")
    return scores.instance_score


def _check_share(name: str, value: object, low: float, high: float, ends: tuple[bool, bool]) -> None:
    number = float(value) if isinstance(value, Real) else float("nan")
    fits = low < number < high or (number == low and ends[0]) or (number == high and ends[1])
    if not fits:
        left, right = "(["[ends[0]], ")]"[ends[1]]
        raise InputError(f"expected {name} in {left}{low:g}, {high:g}{right}; got {value!r}")

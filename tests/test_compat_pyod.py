"""The PyOD face: higher is worse, labels of 0 and 1, and the same scores as everywhere."""

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.base import clone

from recondite import InputError
from recondite.compat.pyod import ReconstructionDetector
from recondite.compat.sklearn import ReconstructionOutlierDetector


@pytest.fixture(scope="module")
def face(digits):
    return ReconstructionDetector("pca", contamination=0.1, options={"latent_size": 12}).fit(digits[:300])


def test_scores_are_those_of_the_detector(face, digits):
    assert np.array_equal(face.decision_function(digits[300:]), face.detector_.score(digits[300:]).instance_score)
    other = ReconstructionOutlierDetector("pca", options={"latent_size": 12}).fit(digits[:300])
    assert np.array_equal(face.decision_function(digits[300:]), -other.score_samples(digits[300:]))
    assert np.array_equal(face.predict(digits[300:]) == 1, other.predict(digits[300:]) == -1)


def test_training_scores_threshold_and_labels_belong_together(face, digits):
    assert np.array_equal(face.decision_scores_, face.decision_function(digits[:300]))
    assert np.array_equal(face.labels_, (face.decision_scores_ > face.threshold_).astype(int))
    assert face.labels_.sum() == 30
    assert np.array_equal(clone(face).fit_predict(digits[:300]), face.labels_)


def test_probabilities_lie_between_the_lowest_and_the_highest_training_score(face, digits):
    for method in ("linear", "unify"):
        scaled = face.predict_proba(digits[:300], method)
        assert scaled.shape == (300, 2)
        assert np.allclose(scaled.sum(axis=1), 1)
        assert scaled.min() == 0
        order = np.argsort(face.decision_scores_)
        assert np.all(np.diff(scaled[order, 1]) >= 0)
    assert face.predict_proba(digits[:300])[order[-1], 1] == 1
    assert np.all(face.predict_proba(255 - digits[:20])[:, 1] == 1)
    with pytest.raises(InputError, match="linear or unify"):
        face.predict_proba(digits[:3], "nonsense")


def test_confidence_is_that_of_the_paper_and_lowest_at_the_threshold(face, digits):
    images = np.concatenate([digits[300:330], 255 - digits[:5]])
    labels, confidence = face.predict(images, return_confidence=True)
    assert np.array_equal(confidence, face.predict_confidence(images))
    for score, label, sure in zip(face.decision_function(images), labels, confidence, strict=True):
        share = (1 + np.sum(face.decision_scores_ <= score)) / (2 + 300)
        flagged = sum(binom.pmf(count, 300, share) for count in range(300 - 30 + 1, 301))
        assert np.isclose(sure, flagged if label else 1 - flagged, atol=1e-12)
    on_training = face.predict_confidence(digits[:300])
    distance = np.abs(face.decision_scores_ - face.threshold_)
    assert on_training[np.argmin(distance)] < 0.6
    assert np.median(on_training) > 0.99


def test_held_out_calibration_sets_the_threshold(digits):
    face = ReconstructionDetector("pca", contamination=0.05, calibration=0.25).fit(digits[:800])
    assert face.threshold_ == face.screen_.threshold
    assert np.array_equal(face.predict(digits[800:]) == 1, face.screen_.predict(digits[800:]).is_outlier)

"""Weighted p-values by their definition, and the density ratio by the regression that it is."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from recondite.statistics.weighted import DensityRatio, effective_number, weighted_p_values


def test_a_p_value_is_the_weight_of_scores_at_least_as_high_and_its_own_of_all():
    draws = np.random.default_rng(0)
    calibration, weights = draws.integers(0, 6, 20).astype(float), draws.uniform(0.1, 3, 20)
    scores, own = np.array([-1.0, 0, 2, 2.5, 5, 6]), draws.uniform(0.1, 3, 6)
    expected = [
        (weights[calibration >= score].sum() + one) / (weights.sum() + one)
        for score, one in zip(scores, own, strict=True)
    ]
    np.testing.assert_allclose(weighted_p_values(calibration, weights, scores, own), expected, rtol=1e-12)
    assert weighted_p_values([1.0, 2.0, 3.0], [1, 1, 1], [2.5, 9.0], [1, 1]).tolist() == [0.5, 0.25]
    assert effective_number([1, 0, 0, 0]) == 1
    assert effective_number([3, 1]) == pytest.approx(16 / 10)


def test_the_ratio_is_the_odds_of_a_ridge_regression_on_values_and_their_squares():
    draws = np.random.default_rng(1)
    calibration, recent = draws.standard_normal((120, 2)), 0.4 + 1.3 * draws.standard_normal((60, 2))
    ratio = DensityRatio.fit(calibration, recent)
    values = np.concatenate([calibration, recent])
    known = LogisticRegression(C=1.0).fit(np.concatenate([values, values**2 - 1], axis=1), np.arange(180) >= 120)
    np.testing.assert_allclose(ratio.coefficients, known.coef_[0], atol=1e-3)
    odds = np.exp(np.concatenate([values, values**2], axis=1) @ ratio.coefficients)
    np.testing.assert_allclose(ratio.weights, odds[:120] / odds[:120].max())
    np.testing.assert_allclose(ratio.of(recent, calibration), np.minimum(odds[120:] / odds[:120].max(), 1))
    assert 0.5 < ratio.told_apart < 0.9
    alike = DensityRatio.fit(calibration, draws.standard_normal((120, 2)))
    assert alike.told_apart == pytest.approx(0.5, abs=0.12)  # of images not learnt from: no more than chance

"""Scores of a classifier's outputs against numpy twins, and the promise about selective risk by simulation."""

import numpy as np
import pytest
import torch
from reference import twins
from scipy.stats import binom

from recondite.errors import InputError
from recondite.statistics import classifier_scores as scores
from recondite.statistics.selective import confidence_floor, floors_of

DRAWS = np.random.default_rng(0)
LOGITS = DRAWS.normal(0, 4, (20, 5))
FEATURES = DRAWS.normal(0.5, 1, (20, 6))


def tensor(array):
    return torch.from_numpy(np.asarray(array))


def test_scores_of_logits_are_their_twins():
    np.testing.assert_allclose(scores.max_softmax(tensor(LOGITS)), twins.max_softmax(LOGITS), rtol=1e-12)
    np.testing.assert_allclose(scores.max_logit(tensor(LOGITS)), [-max(row) for row in LOGITS])
    for temperature in (1.0, 3.0):
        found = scores.energy(tensor(LOGITS), temperature)
        np.testing.assert_allclose(found, twins.energy(LOGITS, temperature), rtol=1e-12)


def test_large_logits_do_not_overflow():
    large = tensor([[1000.0, -1000.0], [-1000.0, -1000.0]])
    np.testing.assert_allclose(scores.energy(large), [-1000, 1000 - np.log(2)])
    np.testing.assert_allclose(scores.max_softmax(large), [0, np.log(2)])


@pytest.mark.parametrize("neighbour", [1, 5])
def test_the_distance_of_a_neighbour_is_its_twin(neighbour):
    bank = np.stack([twins.length_one(row) for row in DRAWS.normal(size=(9, 6))])
    found = scores.neighbour_distance(tensor(FEATURES), tensor(bank), neighbour)
    np.testing.assert_allclose(found, twins.distance_of_neighbour(FEATURES, bank, neighbour), rtol=1e-9)


def test_mahalanobis_is_its_twin_and_knows_no_lengths():
    means, factor = DRAWS.normal(size=(3, 6)), DRAWS.normal(size=(6, 6))
    covariance = factor @ factor.T + np.eye(6)
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))

    def found_of(features):
        whitened = scores.unit(tensor(features)) @ tensor(whitening)
        return scores.nearest_centre(whitened, tensor(means) @ tensor(whitening))

    found = found_of(FEATURES)
    np.testing.assert_allclose(found, twins.nearest_class_mahalanobis(FEATURES, means, covariance), rtol=1e-9)
    np.testing.assert_allclose(found_of(7 * FEATURES), found)


def test_vim_is_its_twin():
    basis, _ = np.linalg.qr(DRAWS.normal(size=(6, 6)))
    origin = DRAWS.normal(size=6)
    found = scores.vim(tensor(FEATURES), tensor(LOGITS), tensor(origin), tensor(basis[:, :2]), 1.7)
    np.testing.assert_allclose(found, twins.vim(FEATURES, LOGITS, origin, basis[:, :2], 1.7), rtol=1e-9)


def test_temperature_undoes_what_logits_were_multiplied_by():
    draws = np.random.default_rng(1)
    true = draws.normal(0, 2, (4000, 3))
    probability = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    classes = (draws.random(4000)[:, None] > probability.cumsum(1)).sum(1)
    assert scores.fitted_temperature(true, classes) == pytest.approx(1, abs=0.1)
    assert scores.fitted_temperature(5 * true, classes) == pytest.approx(5, abs=0.5)
    with pytest.raises(InputError, match="expected classes from 0 to 2"):
        scores.fitted_temperature(true, classes + 1)


def test_the_logarithm_of_zero_is_that_of_the_smallest_number():
    logits = torch.tensor([[0.0, -torch.inf, -3.0], [-torch.inf] * 3, [torch.nan, -torch.inf, 1.0]])
    found = scores.without_zeros(logits)
    np.testing.assert_allclose(found[0].exp(), [1, np.finfo(np.float32).tiny, np.exp(-3)], rtol=1e-5)
    assert (found[1] == -torch.inf).all()
    assert found[2, 0].isnan()
    whole = torch.tensor([[1, 2]])
    assert scores.without_zeros(whole) is whole


def selective(draws, count):
    """Confidences, and labels that are wrong the more often the lower these are."""
    confidence = draws.uniform(0.4, 1, count)
    return confidence, draws.random(count) > confidence**0.5


def broken_promises(find, trials=400, count=150, risk=0.15):
    draws = np.random.default_rng(2)
    confidence, wrong = selective(draws, 200_000)
    broken = 0
    for _ in range(trials):
        floor = find(*selective(draws, count), risk)
        broken += floor is not None and wrong[confidence >= floor].mean() > risk
    return broken, trials


FLOORS = floors_of(np.linspace(0.4, 1, 61))


def promised(confidence, wrong, risk):
    try:
        return confidence_floor(confidence, wrong, FLOORS, risk, 0.1).confidence
    except InputError:
        return None


def by_its_mean(confidence, wrong, risk):
    """The lowest floor whose error on the calibration images is at most the risk: what promises nothing."""
    allowed = [floor for floor in np.unique(confidence) if wrong[confidence >= floor].mean() <= risk]
    return min(allowed, default=None)


def test_the_selective_risk_holds_with_the_promised_probability_and_not_without_calibration():
    most = binom.ppf(0.999, 400, 0.1)
    broken, _ = broken_promises(promised)
    assert broken <= most
    broken, _ = broken_promises(by_its_mean)
    assert broken > most


def test_the_floor_counts_what_it_accepts():
    confidence = np.linspace(0.01, 1, 100)
    floors = floors_of(confidence)
    assert floors[0] == pytest.approx(0.5, abs=0.011)
    assert floors[-1] == 0.01
    floor = confidence_floor(confidence, np.zeros(100, bool), floors, 0.1)
    assert (floor.confidence, floor.accepted, floor.wrong) == (0.01, 100, 0)
    assert "at most 0.1 are wrong, with probability 0.95: 0 of 100" in floor.sentence
    floor = confidence_floor(confidence, confidence < 0.3, floors, 0.1)
    assert 0.2 < floor.confidence < 0.35
    # As many errors as binomial chance allows, not one more.
    assert binom.cdf(floor.wrong, floor.accepted, 0.1) <= 0.05


def test_what_cannot_be_promised_is_refused():
    confidence = np.linspace(0.01, 1, 100)
    floors = floors_of(confidence)
    with pytest.raises(InputError, match="of the surest 51 calibration images 51 have a wrong label"):
        confidence_floor(confidence, np.ones(100, bool), floors, 0.1)
    with pytest.raises(InputError, match=r"at best, none of 299"):
        confidence_floor(confidence, np.zeros(100, bool), floors, 0.01)
    with pytest.raises(InputError, match="expected risk in"):
        confidence_floor([0.5], [True], [0.5], 1.5)


def test_a_point_in_a_centre_is_at_no_distance():
    points = torch.tensor([[3.0, 4.0], [0.1, 0.2]])
    np.testing.assert_allclose(scores.nearest_centre(points, points), [0, 0], atol=1e-5)
    np.testing.assert_allclose(scores.nearest_centre(points[:1], points[:1] + 2), [8], rtol=1e-5)


@pytest.mark.parametrize(
    ("logits", "classes", "words"),
    [
        (np.zeros(3), [0, 0, 0], "finite logits"),
        (np.zeros((0, 3)), [], "finite logits"),
        (np.zeros((3, 2)), [0, 1], "finite logits"),
        (np.array([[0.0, np.nan], [1.0, 2.0]]), [0, 1], "finite logits"),
        (np.zeros((3, 2)), [0, 1, -1], "classes from 0 to 1"),
        (np.zeros((3, 2)), [0, 1, 2], "classes from 0 to 1"),
    ],
)
def test_a_temperature_needs_logits_and_classes_that_fit(logits, classes, words):
    with pytest.raises(InputError, match=words):
        scores.fitted_temperature(logits, np.array(classes, dtype=int))


def test_temperatures_end_at_a_twentieth_and_at_fifty_five():
    logits = np.array([[9.0, 0.0], [0.0, 9.0]])
    assert scores.fitted_temperature(logits / 90, np.array([0, 1])) == pytest.approx(np.exp(-3), rel=0.01)
    assert scores.fitted_temperature(logits, np.array([1, 0])) == pytest.approx(np.exp(4), rel=0.01)
    assert scores.NEIGHBOUR == 5


def test_vectors_of_any_length_have_a_direction_and_nought_has_none():
    found = scores.unit(torch.tensor([[3.0, 4.0], [0.003, 0.004], [0.0, 0.0]]))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.6, 0.8], [0, 0]], rtol=1e-5)

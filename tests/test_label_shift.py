"""Shares of classes in unlabelled traffic: right where labels shift, found where a class disappears."""

import numpy as np
import pytest

from recondite.errors import InputError
from recondite.statistics.label_shift import prevalences

NAMES = ("a", "b", "c")
RATES = np.array([[0.8, 0.15, 0.1], [0.15, 0.8, 0.1], [0.05, 0.05, 0.8]])


def labelled(draws, count=600):
    return np.stack([draws.multinomial(count, RATES[:, place]) for place in range(3)], axis=1)


def traffic(draws, shares, count=600):
    return sum(draws.multinomial(one, RATES[:, place]) for place, one in enumerate(draws.multinomial(count, shares)))


def test_without_noise_the_shares_come_back():
    shares = np.array([0.5, 0.2, 0.3])
    found = prevalences(RATES * 10_000_000, RATES @ shares * 10_000_000, NAMES)
    np.testing.assert_allclose([one.share for one in found], shares, atol=1e-6)
    np.testing.assert_allclose([one.before for one in found], 1 / 3)


def test_intervals_hold_for_all_classes_together():
    draws, shares = np.random.default_rng(0), np.array([0.6, 0.3, 0.1])
    held = [
        all(one.low <= share <= one.high for one, share in zip(found, shares, strict=True))
        for found in (prevalences(labelled(draws), traffic(draws, shares), NAMES) for _ in range(40))
    ]
    assert np.mean(held) >= 0.85  # .95 of 40, less 3 standard deviations


def test_a_class_that_disappears_is_found_and_counting_predictions_does_not_find_it():
    draws = np.random.default_rng(1)
    still, missed, counted = 0, 0, 0
    for _ in range(20):
        known = labelled(draws)
        still += any(one.moved for one in prevalences(known, traffic(draws, np.full(3, 1 / 3)), NAMES))
        came = traffic(draws, np.array([0.5, 0.5, 0.0]))
        missed += not prevalences(known, came, NAMES)[2].gone
        counted += came[2] == 0  # what is predicted says that it is still there: errors of others
    assert still <= 4
    assert missed == 0
    assert counted == 0


def test_what_cannot_be_told_is_refused():
    with pytest.raises(InputError, match="confuses some classes so much"):
        prevalences(np.full((3, 3), 50), [10, 10, 10], NAMES)
    with pytest.raises(InputError, match="of class 'b' there are none"):
        prevalences([[9, 0, 0], [0, 0, 0], [0, 0, 9]], [1, 1, 1], NAMES)
    with pytest.raises(InputError, match="of the traffic there are none"):
        prevalences(RATES * 100, [0, 0, 0], NAMES)
    with pytest.raises(InputError, match="expected counts"):
        prevalences(RATES, [1, 1], NAMES)

"""The floor of confidence: where its promise begins and ends, and what it refuses."""

import numpy as np
import pytest

from recondite.errors import InputError
from recondite.statistics.selective import confidence_floor, floors_of


def test_floors_keep_the_surest_half_51_hundredths_and_so_on_to_all():
    floors = floors_of(np.random.default_rng(0).permutation(10_001))
    np.testing.assert_allclose(floors, np.arange(5000, -1, -100), atol=1)
    assert set(floors_of([0.3, 0.9])) == {0.3}  # values that were seen, and none between


def test_so_few_errors_as_delta_allows_are_enough():
    """One image without an error at a risk of a half: as likely as delta, to the last bit."""
    floor = confidence_floor([0.9], [False], [0.5], 0.5, 0.5)
    assert (floor.accepted, floor.wrong, floor.of) == (1, 0, 1)
    with pytest.raises(InputError, match="of the surest 1 calibration images 0 have"):
        confidence_floor([0.9], [False], [0.5], 0.5, 0.49)


def test_probabilities_a_rounding_above_one_have_a_floor():
    floor = confidence_floor(np.full(50, 1 + 1e-6), np.zeros(50, bool), [1 + 1e-6], 0.1)
    assert (floor.confidence, floor.accepted) == (1, 50)


def test_the_first_floor_that_fails_ends_the_search():
    confidence = np.repeat([0.9, 0.7, 0.5], [40, 10, 400])
    wrong = confidence == 0.7
    floor = confidence_floor(confidence, wrong, [0.9, 0.7, 0.5], 0.1)
    assert (floor.confidence, floor.accepted, floor.wrong, floor.of) == (0.9, 40, 0, 450)
    # Nothing is tested without a floor, and nothing promised.
    with pytest.raises(InputError, match="of the surest 0 calibration images 0 have a wrong label"):
        confidence_floor(confidence, wrong, [], 0.1)


@pytest.mark.parametrize(
    ("confidence", "wrong"),
    [([[0.5, 0.9]], [[False, False]]), ([0.5, 0.9], [False]), ([0.5, np.nan], [False, False]), (0.5, False)],
)
def test_confidences_and_errors_that_do_not_belong_together_are_refused(confidence, wrong):
    with pytest.raises(InputError, match=r"finite confidences \(n,\) and n errors"):
        confidence_floor(confidence, wrong, [0.1], 0.2)

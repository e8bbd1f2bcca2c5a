import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import twins

from recondite.errors import InputError
from recondite.statistics.error_maps import instance_scores, values_kept, worst_region

ONE_TO_HUNDRED = torch.arange(1.0, 101.0)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize(("percent", "expected"), [(100, 50.5), (50, 75.5), (1, 100.0), (55, 73.0)])
def test_known_answers_on_one_to_a_hundred(percent, expected):
    assert instance_scores(ONE_TO_HUNDRED[None], percent).item() == expected


@given(
    st.lists(st.floats(0, 1e3, width=32), min_size=1, max_size=60),
    st.one_of(st.floats(0.01, 100), st.integers(1, 100)),
)
def test_equals_the_slow_twin(values, percent):
    fast = instance_scores(torch.tensor([values], dtype=torch.float32), percent).item()
    assert fast == pytest.approx(twins.top_mean(np.float32(values), percent), rel=1e-9, abs=1e-12)


def test_the_share_is_not_subject_to_float_surprises():
    assert values_kept(55, 100) == 55
    assert values_kept(7, 100) == 7
    assert values_kept(0.1, 1000) == 1
    assert values_kept(1e-9, 10) == 1


@pytest.mark.parametrize("percent", [0, -1, 100.001, float("nan"), 1000])
def test_shares_out_of_range_are_refused(percent):
    with pytest.raises(InputError, match="top_percent"):
        values_kept(percent, 10)


def test_each_image_is_pooled_on_its_own():
    scores = torch.rand(5, 3, 8, 8)
    alone = torch.cat([instance_scores(one[None], 20) for one in scores])
    assert torch.equal(instance_scores(scores, 20), alone)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 14)])
@pytest.mark.parametrize("side", [1, 3, 8])
def test_the_worst_region_equals_its_slow_twin(shape, side):
    scores = torch.rand(4, *shape, generator=torch.Generator().manual_seed(1))
    expected = [twins.worst_region(one.numpy(), side) for one in scores]
    np.testing.assert_allclose(worst_region(scores, side), expected, rtol=1e-9)
    for one, together in zip(scores, worst_region(scores, side), strict=True):
        assert torch.equal(worst_region(one[None], side)[0], together)


def test_the_worst_region_is_found_wherever_it_lies_and_the_rest_does_not_dilute_it():
    for top, left in ((0, 0), (5, 11), (12, 3)):
        scores = torch.zeros(1, 2, 16, 16)
        scores[:, :, top : top + 4, left : left + 4] = 1
        assert worst_region(scores, 4).item() == 1
        assert worst_region(scores, 8).item() == pytest.approx(0.25)
    square = torch.rand(3, 1, 9, 9)
    np.testing.assert_allclose(worst_region(square, 9), instance_scores(square))


@pytest.mark.parametrize("side", [0, -1, 9])
def test_regions_that_do_not_fit_are_refused(side):
    with pytest.raises(InputError, match="region"):
        worst_region(torch.zeros(1, 1, 8, 20), side)
    with pytest.raises(InputError, match="region"):
        worst_region(torch.zeros(1, 20), 2)

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import twins
from scipy.ndimage import gaussian_filter

from recondite.errors import InputError
from recondite.statistics.error_maps import (
    instance_scores,
    largest_values,
    multi_scale_error,
    smoothed,
    ssim_error,
    values_kept,
    worst_square,
)

SHAPES = [(1, 8, 8), (3, 9, 14), (1, 17, 11), (2, 8, 30)]


def pair(shape, count=2, spread=0.2):
    draws = np.random.default_rng(0)
    one = gaussian_filter(draws.random((count, *shape)), (0, 0, 1, 1))
    other = np.clip(one + spread * draws.normal(size=one.shape), 0, 1)
    return torch.tensor(one, dtype=torch.float32), torch.tensor(other, dtype=torch.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_maps_equal_their_slow_twins(shape):
    one, other = pair(shape)
    for fast, twin, tolerance in (
        (ssim_error(one, other), twins.ssim_error, 1e-4),
        (multi_scale_error(one, other), twins.multi_scale_error, 1e-6),
        (smoothed(one, 1.3), lambda a, _: twins.smoothed(a, 1.3), 1e-6),
    ):
        slow = [
            [twin(a, b) for a, b in zip(x, y, strict=True)] for x, y in zip(one.numpy(), other.numpy(), strict=True)
        ]
        assert fast.shape == one.shape
        np.testing.assert_allclose(fast.numpy(), slow, atol=tolerance)


@pytest.mark.parametrize("side", [11, 32])
def test_ssim_equals_that_of_scikit_image(side):
    metrics = pytest.importorskip("skimage.metrics")
    one, other = pair((3, side, side))
    expected = [
        metrics.structural_similarity(
            a.numpy().astype(float),
            b.numpy().astype(float),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            channel_axis=0,
            full=True,
        )[1]
        for a, b in zip(one, other, strict=True)
    ]
    np.testing.assert_allclose(1 - ssim_error(one, other).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5, 20.0])
def test_smoothing_equals_that_of_scipy(sigma):
    one, _ = pair((2, 12, 15))
    expected = gaussian_filter(one.numpy().astype(float), (0, 0, sigma, sigma), radius=max(1, round(4 * sigma)))
    np.testing.assert_allclose(smoothed(one, sigma).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(smoothed(one, sigma).mean((1, 2, 3)), one.mean((1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("error", [ssim_error, multi_scale_error])
def test_errors_are_symmetric_turn_with_the_image_and_vanish_for_equal_ones(error):
    one, other = pair((3, 16, 16))
    found = error(one, other)
    assert found.min() >= 0
    torch.testing.assert_close(error(other, one), found)
    assert error(one, one).abs().max() < 1e-5
    for turned in (lambda x: x.flip(2), lambda x: x.flip(3), lambda x: x.transpose(2, 3)):
        torch.testing.assert_close(error(turned(one), turned(other)), turned(found), atol=1e-5, rtol=1e-5)


def test_ssim_of_nearly_equal_images_is_not_negative():
    one, other = pair((3, 16, 16), count=50, spread=1e-6)
    assert ssim_error(one, other).min() >= 0


def test_ssim_is_two_at_most_for_a_negative():
    one, _ = pair((1, 16, 16))
    assert ssim_error(one, 1 - one).max() <= 2
    assert ssim_error(one, 1 - one).mean() > 1


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0, 1e4])
def test_plain_and_wild_images_have_a_finite_ssim(level):
    plain = torch.full((2, 3, 8, 8), level)
    noise = 1e4 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for other in (plain, torch.zeros_like(plain), torch.rand_like(plain), noise, plain + noise / 1e4):
        found = ssim_error(plain, other)
        assert torch.isfinite(found).all()
        assert found.min() >= 0
        assert found.max() <= 2
    assert ssim_error(plain, plain).max() < 1e-5


def test_fine_noise_weighs_less_than_a_dent_of_the_same_energy():
    image = torch.zeros(1, 1, 16, 16)
    chequered = 0.1 * (1 - 2 * ((torch.arange(16)[:, None] + torch.arange(16)) % 2)).float()[None, None]
    dent = torch.zeros_like(image)
    dent[..., 4:8, 8:12] = 0.4
    assert chequered.square().mean().item() == pytest.approx(dent.square().mean().item())
    assert multi_scale_error(image, dent).mean() > 2.9 * multi_scale_error(image, chequered).mean()


@pytest.mark.parametrize("error", [ssim_error, multi_scale_error, lambda x, _: smoothed(x, 2.0)])
def test_each_image_has_the_same_bits_alone_and_in_any_batch(error):
    one, other = pair((3, 13, 13), count=9)
    together = error(one, other)
    for index in range(9):
        assert torch.equal(error(one[index : index + 1], other[index : index + 1])[0], together[index])


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


@pytest.mark.parametrize("count", [1, 31, 3072])
def test_the_largest_values_are_those_of_topk_in_the_same_order(count):
    rows = torch.randn(5, 3072, generator=torch.Generator().manual_seed(0)).round(decimals=2)
    rows[1] = 0.5
    rows[2, 7], rows[3, 9] = float("nan"), float("inf")
    before = rows.clone()
    found = largest_values(rows, count)
    torch.testing.assert_close(found, before.topk(count, dim=1).values, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(rows, before, rtol=0, atol=0, equal_nan=True)
    followed = rows[:1].clone().requires_grad_()
    largest_values(followed, count).sum().backward()
    assert followed.grad is not None
    assert followed.grad.sum() == count


def test_each_image_is_pooled_on_its_own():
    scores = torch.rand(5, 3, 8, 8)
    alone = torch.cat([instance_scores(one[None], 20) for one in scores])
    assert torch.equal(instance_scores(scores, 20), alone)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 14)])
@pytest.mark.parametrize("side", [1, 3, 8])
def test_the_worst_square_equals_its_slow_twin(shape, side):
    scores = torch.rand(4, *shape, generator=torch.Generator().manual_seed(1))
    expected = [twins.worst_square(one.numpy(), side) for one in scores]
    np.testing.assert_allclose(worst_square(scores, side), expected, rtol=1e-9)
    for one, together in zip(scores, worst_square(scores, side), strict=True):
        assert torch.equal(worst_square(one[None], side)[0], together)


def test_the_worst_square_is_found_wherever_it_lies_and_the_rest_does_not_dilute_it():
    for top, left in ((0, 0), (5, 11), (12, 3)):
        scores = torch.zeros(1, 2, 16, 16)
        scores[:, :, top : top + 4, left : left + 4] = 1
        assert worst_square(scores, 4).item() == 1
        assert worst_square(scores, 8).item() == pytest.approx(0.25)
    square = torch.rand(3, 1, 9, 9)
    np.testing.assert_allclose(worst_square(square, 9), instance_scores(square))


@pytest.mark.parametrize("side", [0, -1, 9])
def test_squares_that_do_not_fit_are_refused(side):
    with pytest.raises(InputError, match="square"):
        worst_square(torch.zeros(1, 1, 8, 20), side)
    with pytest.raises(InputError, match="square"):
        worst_square(torch.zeros(1, 20), 2)


def test_ssim_of_plain_images_is_decided_by_its_constants():
    """SSIM of two plain images of a and b is (2 ab + C1) / (a^2 + b^2 + C1), with C1 = .01^2."""
    black, dark = torch.zeros(1, 1, 16, 16), torch.full((1, 1, 16, 16), 0.01)
    np.testing.assert_allclose(ssim_error(black, dark), 1 - 1e-4 / 2e-4, rtol=1e-3)
    rough = 0.03 * torch.tensor(np.indices((16, 16)).sum(axis=0) % 2 * 2 - 1, dtype=torch.float32)[None, None]
    middle = ssim_error(rough, torch.zeros_like(rough))[0, 0, 8, 8].item()
    assert middle == pytest.approx(0.5, abs=0.03)  # its variance is C2 = .03^2


def test_half_a_percent_more_is_counted():
    assert [values_kept(percent, 1000) for percent in (50, 99.9, 0.01)] == [500, 999, 1]

import numpy as np
import pytest
import torch
from reference import twins
from scipy.ndimage import gaussian_filter

from recondite.statistics.error_maps import multi_scale_error, smoothed, ssim_error

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

"""What a detector makes of images before its networks see them, and which ways to pool their errors go together."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recondite import InputError, build
from recondite.data.regions import MID_GREY
from recondite.data.spool import Rows
from recondite.detectors.inputs import Inputs
from recondite.detectors.inside import Inside, spread_out
from recondite.detectors.prior import draw_latents, fit_prior


def untrained_vae(**options):
    return build("vae", image_shape=(1, 8, 8), latent_size=2, width=4, **options).eval()


def rows(vectors):
    return Rows(vectors.astype(np.float32), np.arange(len(vectors)))


def test_network_units_go_there_and_back():
    inputs = Inputs((1, 8, 8))
    inputs.set_scale(-2, 3)
    x = torch.tensor([0.0, 0.25, 1.0, 0.5]).repeat(16).reshape(1, 1, 8, 8)
    np.testing.assert_allclose(inputs.scaled(x).flatten()[:4], [-2, -0.75, 3, 0.5], rtol=1e-6)
    np.testing.assert_allclose(inputs.unscaled(inputs.scaled(x)), x, rtol=1e-6)


def test_further_vectors_are_standardised_as_if_all_had_come_at_once():
    draws = np.random.default_rng(0)
    first, second = draws.normal(5, 2, (30, 3)), draws.normal(-1, 0.5, (80, 3))
    first[:, 2] = second[:, 2] = 7  # a constant column keeps its own unit
    every, known = np.concatenate([first, second]), Inputs((3,))
    known.standardise(rows(second), (30.0, first.mean(0), first.std(0)))
    at_once = Inputs((3,))
    at_once.standardise(rows(every))
    for inputs in (known, at_once):
        np.testing.assert_allclose(inputs.shift, every.mean(0), rtol=1e-5)
        np.testing.assert_allclose(inputs.scale, [*every.std(0)[:2], 1], rtol=1e-5)


def test_a_region_alone_asks_for_no_mask_of_every_image():
    inputs, region = Inputs((1, 8, 8)), np.eye(8, dtype=bool)
    inputs.restrict(region)
    assert not inputs.preprocessing.masked
    painted = inputs.painted(torch.ones(1, 1, 8, 8))
    assert np.array_equal(painted[0, 0] == 1, region)
    assert np.array_equal(inputs.inside(painted).mask(painted)[0, 0], region)


def test_what_lies_inside_of_a_region_is_smoothed_by_itself_alone():
    region = np.zeros((9, 9), dtype=bool)
    region[2:7, 3:8] = True
    maps = torch.where(torch.from_numpy(region), 3.0, 100.0)[None, None]
    np.testing.assert_allclose(Inside(region).smoothed(maps, 1.5)[0, 0][region], 3, rtol=1e-5)


def test_what_lies_between_places_is_made_of_those_that_count():
    places = np.array([[True, True, False], [True, False, False]])
    maps = torch.where(torch.from_numpy(places), 3.0, 100.0)[None, None]
    found = spread_out(maps, (8, 12), Inside(places))[0, 0]
    np.testing.assert_allclose(found[:4, :4], 3, rtol=1e-5)
    np.testing.assert_array_equal(spread_out(maps, (2, 3), None), maps)


def test_a_pixel_with_one_grey_channel_is_inside_of_an_images_own_mask():
    pixels = torch.full((1, 3, 2, 2), float(MID_GREY))
    pixels[0, 1, 0, 1] = 0.9
    assert Inside.found(pixels).mask(pixels).flatten().tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((6,), {"smooth": 1.0}, "for images, not for vectors"),
        ((6,), {"worst_square": 2}, "for images, not for vectors"),
        ((6,), {"score": "ssim"}, "for images, not for vectors"),
        ((6,), {"top_percent": 20}, None),
        ((1, 12, 9), {"worst_square": 10}, "expected worst_square <= 9"),
        ((1, 12, 9), {"worst_square": 9}, None),
        ((1, 9, 12), {"worst_square": 10}, "expected worst_square <= 9"),
        ((1, 12, 9), {"worst_square": 2, "top_percent": 20}, "choose one"),
        ((1, 12, 9), {"worst_square": 2, "smooth": 1.0, "score": "absolute_error"}, None),
    ],
)
def test_ways_to_pool_fit_the_shape_and_each_other(shape, options, words):
    def make():
        return build("pca", image_shape=shape, latent_size=2, **options)

    if words is None:
        assert make().options.latent_size == 2
    else:
        with pytest.raises(InputError, match=words):
            make()


def test_all_that_scoring_takes_may_change_at_once():
    plain = untrained_vae()
    ways = {
        "score": "absolute_error",
        "smooth": 1.0,
        "worst_square": 3,
        "top_percent": 100,
        "scoring_precision": "fp32",
    }
    other = plain.scored_by(**ways)
    assert {name: getattr(other.options, name) for name in ways} == ways
    assert plain.options.score == "squared_error"


@pytest.mark.parametrize(
    ("options", "region", "expected"),
    [({}, None, True), ({"smooth": 1.0}, None, False), ({"score": "ssim"}, None, False), ({}, np.eye(8) > 0, False)],
)
def test_a_validation_error_is_the_score_where_both_are_the_plain_error_of_whole_images(options, region, expected):
    autoencoder, vae = (
        build(name, image_shape=(1, 8, 8), latent_size=2, width=4, **options) for name in ("autoencoder", "vae")
    )
    autoencoder.restrict(region)
    assert autoencoder.validates_by_its_score == expected
    assert not vae.validates_by_its_score  # validated by its ELBO


def test_latents_come_from_the_prior():
    made = SimpleNamespace(prior="fitted", can_sample=True, options=SimpleNamespace(latent_size=2), name="made")
    made.latent_factor, made.latent_mean = torch.tensor([[2.0, 0.0], [1.0, 0.5]]), torch.tensor([3.0, -1.0])
    z = np.random.default_rng(4).standard_normal((1, 2))
    np.testing.assert_allclose(draw_latents(made, 1, 4), [[2 * z[0, 0] + 3, z[0, 0] + 0.5 * z[0, 1] - 1]])
    made.prior = "standard normal"
    np.testing.assert_array_equal(draw_latents(made, 1, 4), z)
    with pytest.raises(InputError, match="at least one image"):
        draw_latents(made, 0, 4)
    made.can_sample = False
    with pytest.raises(InputError, match="no distribution over latents to sample from"):
        draw_latents(made, 1, 4)
    made.prior = "fitted"
    with pytest.raises(InputError, match="over latents of at most 1024 numbers to sample"):
        draw_latents(made, 1, 4)


def test_the_fitted_prior_has_the_moments_of_the_latents():
    latents = np.random.default_rng(0).normal([1, 2], [0.05, 0.3], (6, 2)).astype(np.float32)
    made = SimpleNamespace(
        latent_factor=torch.zeros(2, 2, dtype=torch.float64),
        latent_mean=torch.zeros(2, dtype=torch.float64),
        scoring_batch=4,
        run=lambda x, _: {"": x},
    )
    fit_prior(made, rows(latents))
    np.testing.assert_allclose(made.latent_mean, latents.mean(0), rtol=1e-6)
    np.testing.assert_allclose(made.latent_factor @ made.latent_factor.T, np.cov(latents.T, ddof=0), rtol=1e-5)


@pytest.mark.parametrize(("sigma", "learnt"), [("fixed", False), ("shared", True), ("per-value", True)])
def test_the_scale_of_a_vae_is_learnt_unless_it_is_fixed(sigma, learnt):
    assert untrained_vae(sigma=sigma).log_sigma.requires_grad == learnt


def test_statistics_of_the_latent_are_logarithms_and_finite():
    vae = untrained_vae()
    with torch.no_grad():
        vae.encoder[-1].weight.zero_()
        vae.encoder[-1].bias.zero_()
        statistics = vae.measure(torch.rand(3, 1, 8, 8), "squared_error").statistics
        np.testing.assert_allclose(statistics["kl"], math.log(1e-6), rtol=1e-5)
        vae.encoder[-1].bias[2:] = 1.5
        statistics = vae.measure(torch.rand(3, 1, 8, 8), "squared_error").statistics
    np.testing.assert_allclose(statistics["latent_spread"], 0.75)
    np.testing.assert_allclose(statistics["kl"], math.log(math.exp(1.5) - 2.5), rtol=1e-5)


def test_latents_of_a_vae_are_the_means_of_its_posterior():
    vae = untrained_vae()
    vae.fitted.fill_(True)
    images = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)
    with torch.no_grad():
        expected = vae.encoder(vae.scaled(torch.from_numpy(images)))[:, :2]
    np.testing.assert_allclose(vae.encode(images), expected, atol=1e-5)


def test_a_prior_is_fitted_to_two_thousand_images():
    ran = []

    def run(x, _):
        ran.append(len(x))
        return {"": np.zeros((len(x), 2), dtype=np.float32)}

    detector = SimpleNamespace(latent_mean=torch.zeros(2), latent_factor=torch.zeros(2, 2), run=run, scoring_batch=512)
    fit_prior(detector, rows(np.zeros((2003, 3))))
    assert sum(ran) == 2000

"""What single detectors promise beyond the contract."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA
from torch import nn

import recondite
from recondite import InputError, build
from recondite.data.pictures import heat_colours
from recondite.detectors.measured import pixel_errors
from recondite.perturbations.outliers import alter, make_outliers
from recondite.statistics.error_maps import ssim_error
from recondite.statistics.metrics import auroc


def test_pca_is_the_exact_decomposition(digits):
    detector = build("pca", image_shape=(1, 8, 8), latent_size=12).fit(digits[:1000], validation=None)
    exact = PCA(12).fit(digits[:1000].reshape(1000, -1) / 255)
    test = digits[1000:1100].reshape(100, -1) / 255
    expected = ((test - exact.inverse_transform(exact.transform(test))) ** 2).mean(axis=1)
    np.testing.assert_allclose(detector.score(digits[1000:1100]).instance_score, expected, rtol=1e-3, atol=1e-6)


def test_pca_in_batches_is_close_to_pca_at_once(digits, monkeypatch):
    monkeypatch.setattr("recondite.detectors.pca._BATCH_VALUES", 64 * 150)
    batched = build("pca", image_shape=(1, 8, 8), latent_size=12).fit(digits[:1007], validation=None)
    monkeypatch.undo()
    whole = build("pca", image_shape=(1, 8, 8), latent_size=12).fit(digits[:1007], validation=None)
    test = digits[1007:]
    np.testing.assert_allclose(
        batched.score(test).instance_score.mean(), whole.score(test).instance_score.mean(), rtol=0.01
    )


def test_pca_asks_for_enough_images_and_values(digits):
    with pytest.raises(InputError, match="at least 20 images"):
        build("pca", image_shape=(1, 8, 8), latent_size=20).fit(digits[:10])
    with pytest.raises(InputError, match="latent_size <= 64"):
        build("pca", image_shape=(1, 8, 8), latent_size=65)


def test_a_linear_autoencoder_reaches_pca(digits):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    decoder = nn.Sequential(nn.Linear(8, 64), nn.Unflatten(1, (1, 8, 8)))
    linear = build("autoencoder", image_shape=(1, 8, 8), latent_size=8, encoder=encoder, decoder=decoder)
    linear.fit(digits[:1400], epochs=60, learning_rate=1e-2, batch_size=64)
    pca = build("pca", image_shape=(1, 8, 8), latent_size=8).fit(digits[:1400])
    ours, best = linear.score(digits[1400:]).instance_score.mean(), pca.score(digits[1400:]).instance_score.mean()
    assert best * 0.97 < ours < best * 1.1


@pytest.mark.parametrize("shape", [16, None, "16x16", (1, 8.0, 8), (1, 8), ()])
def test_a_shape_that_is_none_is_refused(shape):
    with pytest.raises(InputError, match="expected a shape"):
        build("pca", image_shape=shape)


def test_a_shape_may_be_of_any_whole_numbers():
    assert build("pca", image_shape=list(np.array([1, 8, 8]))).shape == (1, 8, 8)


class CountingEncoder(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x):
        self.calls += 1
        return self.inner(x)


@pytest.fixture
def vae(digits):
    made = build("vae", image_shape=(1, 8, 8), latent_size=3, width=4, draws=5, sigma="per-value")
    return made.fit(digits[:200], epochs=3, batch_size=32)


def test_vae_encodes_once_and_averages_the_error_over_its_fixed_draws(vae, digits):
    x = torch.from_numpy(digits[:32, None] / np.float32(255))
    with torch.no_grad():
        mean, log_variance = vae.encoder(x).chunk(2, 1)
        errors = [(x - vae.decoder(mean + (log_variance / 2).exp() * noise)) ** 2 for noise in vae.noise]
    expected = torch.stack(errors).mean(0)
    vae.encoder = CountingEncoder(vae.encoder)
    scores = vae.score(digits[:32], feature_score=True)
    assert vae.encoder.calls == 1
    np.testing.assert_allclose(scores.feature_score, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_a_start_by_he_lets_latents_stand_out_of_the_noise_and_is_for_own_networks():
    x, signals = torch.rand(32, 3, 32, 32), []
    for start in ("default", "he"):
        detector = build("vae", image_shape=(3, 32, 32), network="cifar10-vae", latent_size=1024, initial_weights=start)
        with torch.no_grad():
            mean, log_variance = detector.encoder(x).chunk(2, dim=1)
            rebuilt = detector.decoder(mean)
        signals.append(float(mean.var(dim=0).mean() / log_variance.exp().mean()))
        assert (rebuilt - 0.5).abs().mean() < 0.2
    assert signals[0] < 1e-3 < 0.3 < signals[1]
    with pytest.raises(InputError, match="leave out initial_weights"):
        build(
            "vae",
            image_shape=(1, 8, 8),
            latent_size=4,
            initial_weights="he",
            encoder=nn.Sequential(nn.Flatten(), nn.Linear(64, 8)),
            decoder=nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8))),
        )


def test_vae_scores_equal_their_formulas(vae, digits):
    few = digits[:20]
    x = torch.from_numpy(few[:, None] / np.float32(255))
    with torch.no_grad():
        mean, log_variance = vae.encoder(x).chunk(2, 1)
        sigma = vae.log_sigma.exp()
        likelihoods = [
            torch.distributions.Normal(vae.decoder(mean + (log_variance / 2).exp() * noise), sigma).log_prob(x)
            for noise in vae.noise
        ]
        posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
        kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1)
    negative = -torch.stack(likelihoods).mean(0)
    probability = vae.score(few, score="reconstruction_probability").instance_score
    np.testing.assert_allclose(probability, negative.flatten(1).mean(1), rtol=1e-4)
    elbo = vae.score(few, score="elbo").instance_score
    np.testing.assert_allclose(elbo, negative.flatten(1).sum(1) + kl, rtol=1e-4)


def test_vae_loss_is_the_negative_elbo_with_kl_summed_over_the_latent(digits):
    made = build("vae", image_shape=(1, 8, 8), latent_size=3, width=4, sigma="fixed", initial_sigma=0.5, beta=2.0)
    with torch.no_grad():
        made.encoder[-1].weight *= 30  # a fresh one gives no divergence to speak of
    x = torch.from_numpy(digits[:10, None] / np.float32(255))
    torch.manual_seed(0)
    ((group, loss),) = list(made.losses(x))
    torch.manual_seed(0)
    mean, log_variance = made.encoder(x).chunk(2, 1)
    z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
    likelihood = torch.distributions.Normal(made.decoder(z), 0.5).log_prob(x).flatten(1).sum(1)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (log_variance / 2).exp()), torch.distributions.Normal(0, 1)
    ).sum(1)
    assert group == "all"
    assert 2 * kl.mean() > 0.05 * likelihood.mean().abs()
    assert loss.item() == pytest.approx((-likelihood + 2 * kl).mean().item(), rel=1e-5)


def test_one_sigma_orders_images_as_the_squared_error_does_and_many_do_not(digits):
    def ranks(sigma):
        made = build("vae", image_shape=(1, 8, 8), latent_size=3, width=4, sigma=sigma)
        made.fit(digits[:400], epochs=10, batch_size=32, learning_rate=1e-2)
        by = [
            made.score(digits[1400:], score=s).instance_score for s in ("squared_error", "reconstruction_probability")
        ]
        return [np.argsort(scores).tolist() for scores in by]

    error, probability = ranks("shared")
    assert error == probability
    error, probability = ranks("per-value")
    assert error != probability


def test_sigma_is_learnt_only_when_it_should_be(digits):
    for sigma in ("fixed", "shared"):
        made = build("vae", image_shape=(1, 8, 8), latent_size=3, width=4, sigma=sigma, initial_sigma=0.3)
        made.fit(digits[:200], epochs=4, batch_size=32, learning_rate=1e-2)
        assert math.isclose(made.log_sigma.item(), math.log(0.3), rel_tol=1e-6) == (sigma == "fixed")


def test_the_elbo_has_no_share_of_features():
    with pytest.raises(InputError, match="top_percent"):
        build("vae", image_shape=(1, 8, 8), score="elbo", top_percent=50)


def test_the_elbo_asked_for_when_scoring_has_none_either(vae, digits):
    with pytest.raises(InputError, match="top_percent"):
        vae.score(digits[:2], score="elbo", top_percent=50)


def test_a_network_of_your_own_is_saved_and_loaded(digits, tmp_path):
    def modules():
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 6))
        return {
            "encoder": encoder,
            "decoder": nn.Sequential(nn.Linear(6, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8))),
        }

    screen = recondite.fit(digits[:300], alpha=0.1, latent_size=6, epochs=3, **modules())
    screen.save(tmp_path / "own")
    with pytest.raises(InputError, match="your own networks"):
        recondite.load(tmp_path / "own")
    again = recondite.load(tmp_path / "own", **modules())
    np.testing.assert_array_equal(
        again.predict(digits[1400:]).instance_score, screen.predict(digits[1400:]).instance_score
    )
    wrong = modules() | {"encoder": nn.Sequential(nn.Flatten(), nn.Linear(64, 6))}
    with pytest.raises(recondite.ArtifactError, match="not a consistent screen"):
        recondite.load(tmp_path / "own", **wrong)


def test_a_frozen_layer_of_your_own_stays_as_it_is(digits):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 6))
    encoder[1].requires_grad_(False)
    before = encoder[1].weight.clone()
    decoder = nn.Sequential(nn.Linear(6, 64), nn.Unflatten(1, (1, 8, 8)))
    detector = build("autoencoder", image_shape=(1, 8, 8), latent_size=6, encoder=encoder, decoder=decoder)
    detector.fit(digits[:200], epochs=2)
    assert torch.equal(encoder[1].weight, before)


def test_an_encoder_that_returns_two_tensors_is_explained():
    class Two(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(InputError, match="one tensor; got tuple"):
        build("vae", image_shape=(1, 8, 8), encoder=Two(), decoder=nn.Flatten())


@pytest.mark.parametrize("score", ["reconstruction_probability", "elbo"])
def test_maps_of_likelihoods_are_brighter_where_an_image_is_odder(digits, score):
    screen = recondite.fit(
        digits[:600], detector="vae", score=score, alpha=0.1, latent_size=8, width=8, epochs=8, learning_rate=1e-2
    )
    odd = digits[700].copy()
    odd[:3, :3] = 255 - odd[:3, :3]
    features = screen.predict(odd[None], feature_score=True).feature_score[0]
    colours = heat_colours(features, screen.map_scale).sum(axis=2)
    assert colours[:3, :3].mean() > 2 * colours[4:, 4:].mean()


def test_dropout_and_batch_norm_of_your_own_are_off_while_scoring(digits):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 6))
    decoder = nn.Sequential(nn.Linear(6, 64), nn.Unflatten(1, (1, 8, 8)))
    detector = build("autoencoder", image_shape=(1, 8, 8), latent_size=6, encoder=encoder, decoder=decoder)
    detector.fit(digits[:200], epochs=2)
    before = detector.score(digits[:5]).instance_score
    detector.train()
    np.testing.assert_array_equal(detector.score(digits[:5]).instance_score, before)
    assert encoder[3].training


def test_half_a_network_of_your_own_is_refused():
    with pytest.raises(InputError, match="encoder only"):
        build("autoencoder", image_shape=(1, 8, 8), encoder=nn.Flatten())
    with pytest.raises(InputError, match="takes no encoder"):
        build("pca", image_shape=(1, 8, 8), encoder=nn.Flatten(), decoder=nn.Flatten())
    with pytest.raises(InputError, match="expected a detector among"):
        build("gan", image_shape=(1, 8, 8))
    with pytest.raises(InputError, match=r"got 'padim' \(a method of features: methods=padim, --methods padim\)"):
        build("padim", image_shape=(1, 8, 8))


def fabric(count, seed, noise=0.01):
    """Faint stripes under uneven light, 32 x 32; the noise of an image is up to `noise` strong."""
    draws = np.random.default_rng(seed)
    light = gaussian_filter(draws.normal(size=(count, 32, 32)), (0, 6, 6))
    stripes = 0.06 * np.sin(np.arange(32) * np.pi / 2 + 0.4)
    grain = draws.uniform(0, noise, (count, 1, 1)) * draws.normal(size=light.shape)
    return np.clip(0.5 + 0.1 * light / light.std() + stripes + grain, 0, 1).astype(np.float32)[:, None]


def with_patches(images, change):
    """Change a square of 8 x 8 pixels somewhere in each image."""
    draws = np.random.default_rng(3)
    changed = images.copy()
    for image in changed:
        top, left = draws.integers(0, 24, 2)
        image[:, top : top + 8, left : left + 8] = change(image)[:, top : top + 8, left : left + 8]
    return changed


def told(detector, normal, odd, **scoring):
    reading = detector.scored_by(**scoring)
    return auroc(reading.score(normal).instance_score, reading.score(odd).instance_score)


def test_ssim_sees_worn_fabric_that_the_squared_error_loses_in_uneven_light():
    detector = build("pca", image_shape=(1, 32, 32), latent_size=4).fit(fabric(700, 0))
    test = fabric(300, 1)
    worn = with_patches(test, lambda image: gaussian_filter(image, (0, 2.5, 2.5)))
    assert told(detector, test, worn) < 0.6
    assert told(detector, test, worn, score="ssim") > 0.75
    assert told(detector, test, worn, score="ssim", worst_square=8) > 0.97


def test_errors_at_many_scales_see_a_stain_that_grain_hides():
    detector = build("pca", image_shape=(1, 32, 32), latent_size=60).fit(fabric(700, 0, noise=0.15))
    test = fabric(300, 1, noise=0.15)
    stained = with_patches(test, lambda image: np.maximum(image - 0.15, 0))
    plain = told(detector, test, stained)
    assert told(detector, test, stained, score="multi_scale") > plain + 0.02
    assert told(detector, test, stained, score="multi_scale", worst_square=6) > plain + 0.1


@pytest.mark.parametrize("scoring", [{"worst_square": 6}, {"smooth": 1.0, "top_percent": 2}])
def test_the_worst_square_of_textures_tells_a_scratch_that_the_mean_dilutes(scoring):
    pytest.importorskip("skimage")
    textures = make_outliers("textures", 1000, (1, 32, 32))
    detector = build("pca", image_shape=(1, 32, 32), latent_size=40).fit(textures[:700])
    test = textures[700:]
    scratched = alter("scratches", test)
    assert told(detector, test, scratched) < 0.75
    assert told(detector, test, scratched, **scoring) > 0.9


def test_vae_averages_ssim_over_its_draws(vae, digits):
    x = torch.from_numpy(digits[:20, None] / np.float32(255))
    with torch.no_grad():
        mean, log_variance = vae.encoder(x).chunk(2, 1)
        decoded = [vae.decoder(mean + (log_variance / 2).exp() * noise) for noise in vae.noise]
    expected = torch.stack([ssim_error(x, one) for one in decoded]).mean(0)
    found = vae.score(digits[:20], score="ssim", feature_score=True).feature_score
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_ssim_is_that_of_the_image_whatever_the_units_of_the_network():
    in_other_units = build("autoencoder", image_shape=(3, 32, 32), network="cats-dogs-screen", latent_size=1000)
    in_other_units.fitted.fill_(True)
    images = make_outliers("gradients", 5, (3, 32, 32))
    rebuilt = torch.from_numpy(in_other_units.reconstruct(images))
    expected = ssim_error(torch.from_numpy(images / np.float32(255)), rebuilt)
    found = in_other_units.score(images, score="ssim", feature_score=True).feature_score
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_the_elbo_has_no_worst_square_and_its_map_may_be_smooth(vae, digits):
    with pytest.raises(InputError, match="worst_square"):
        build("vae", image_shape=(1, 8, 8), score="elbo", worst_square=2)
    smooth = vae.scored_by(score="elbo", smooth=1.0).score(digits[:5], feature_score=True)
    rough = vae.score(digits[:5], score="elbo", feature_score=True)
    np.testing.assert_array_equal(smooth.instance_score, rough.instance_score)
    assert np.abs(np.diff(smooth.feature_score)).mean() < np.abs(np.diff(rough.feature_score)).mean()


def test_scoring_in_another_way_shares_the_weights_and_takes_scoring_options_only(vae, digits):
    other = vae.scored_by(top_percent=10)
    assert other.encoder is vae.encoder
    np.testing.assert_array_equal(
        other.score(digits[:5]).instance_score, vae.score(digits[:5], top_percent=10).instance_score
    )
    with pytest.raises(
        InputError, match="options among score, scoring_precision, smooth, top_percent, worst_square; got latent_size"
    ):
        vae.scored_by(latent_size=3)
    with pytest.raises(InputError, match="option score"):
        vae.scored_by(score="beauty")
    with pytest.raises(InputError, match="worst_square <= 8"):
        vae.scored_by(worst_square=9)
    with pytest.raises(InputError, match="choose one"):
        vae.scored_by(worst_square=2).score(digits[:5], top_percent=10)


def test_a_screen_with_scores_for_defects_is_saved_with_its_map(digits, tmp_path):
    screen = recondite.fit(
        digits[:600], detector="pca", latent_size=12, alpha=0.1, score="ssim", worst_square=3, smooth=0.5
    )
    screen.save(tmp_path / "screen")
    again = recondite.load(tmp_path / "screen")
    assert again.detector.options == screen.detector.options
    before, after = (one.predict(digits[1400:], feature_score=True) for one in (screen, again))
    np.testing.assert_array_equal(before.instance_score, after.instance_score)
    np.testing.assert_array_equal(before.feature_score, after.feature_score)


def test_the_ssim_is_that_of_images_in_their_own_units():
    """In [-1, 1], the units of this network, it would be another number."""
    detector = build("autoencoder", image_shape=(3, 32, 32), network="cats-dogs-screen", latent_size=1000)
    x = detector.scaled(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert x.min() < 0
    rebuilt = (x * 0.9).contiguous()
    found = detector.pixel_errors(x, rebuilt, "ssim")
    expected = pixel_errors(detector.unscaled(x), detector.unscaled(rebuilt), "ssim", lambda values: values)
    torch.testing.assert_close(found, expected)


def test_both_networks_of_ones_own_are_used():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 12))
    decoder = nn.Sequential(nn.Linear(6, 64), nn.Unflatten(1, (1, 8, 8)))
    detector = build("vae", image_shape=(1, 8, 8), latent_size=6, encoder=encoder, decoder=decoder)
    assert detector.encoder is encoder
    assert detector.decoder is decoder
    assert detector.modules_given

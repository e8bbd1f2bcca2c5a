"""What single detectors promise beyond the contract."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

import recondite
from recondite import InputError, build
from recondite.plots import heat_colours


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
    made = build("vae", image_shape=(1, 8, 8), latent_size=3, width=4, sigma="fixed", initial_sigma=0.05, beta=2.0)
    x = torch.from_numpy(digits[:10, None] / np.float32(255))
    torch.manual_seed(0)
    ((group, loss),) = list(made.losses(x))
    torch.manual_seed(0)
    mean, log_variance = made.encoder(x).chunk(2, 1)
    z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
    likelihood = torch.distributions.Normal(made.decoder(z), 0.05).log_prob(x).flatten(1).sum(1)
    kl = (mean**2 + log_variance.exp() - 1 - log_variance).sum(1) / 2
    assert group == "all"
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

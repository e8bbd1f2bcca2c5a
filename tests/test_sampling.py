import numpy as np
import pytest
from PIL import Image

import recondite
from recondite import InputError, build
from recondite.cli import main
from recondite.reports.explanation import draw_samples, latents_in_words


@pytest.mark.parametrize("name", ["autoencoder", "vae", "pca"])
def test_new_digits_look_like_digits(name, screens, digits):
    detector = screens(name).detector
    made = detector.sample(300, seed=1)
    assert made.shape == (300, *detector.shape)
    np.testing.assert_array_equal(made, detector.sample(300, seed=1))
    assert not np.array_equal(made, detector.sample(300, seed=2))
    # Closer to some digit than an image of the same pixels in any other order.
    known = digits[:1400].reshape(1400, -1) / 255

    def nearest(images):
        return np.sqrt(((images.reshape(len(images), 1, -1) - known[None]) ** 2).sum(2)).min(1).mean()

    shuffled = np.random.default_rng(0).permuted(made.reshape(300, -1), axis=1)
    assert nearest(made[:60]) < 0.87 * nearest(shuffled[:60])


def test_a_fitted_gaussian_has_the_mean_and_covariance_of_the_latents(digits):
    detector = build("pca", image_shape=(1, 8, 8), latent_size=5).fit(digits[:900], validation=None)
    latents = detector.encode(digits[:900])
    np.testing.assert_allclose(detector.latent_mean, latents.mean(0), atol=1e-4)
    factor = detector.latent_factor.numpy()
    np.testing.assert_allclose(factor @ factor.T, np.cov(latents, rowvar=False, ddof=0), atol=1e-4)


def test_the_gaussian_is_saved_with_the_screen(screens, tmp_path):
    screens("autoencoder").save(tmp_path / "screen")
    again = recondite.load(tmp_path / "screen").detector
    np.testing.assert_array_equal(again.sample(5), screens("autoencoder").detector.sample(5))


def test_what_cannot_be_sampled_is_explained(screens, digits, tmp_path):
    with pytest.raises(InputError, match="at least one image to sample; got 0"):
        screens("vae").detector.sample(0)
    wide = build("autoencoder", image_shape=(1, 8, 8), latent_size=1025, width=1).fit(digits[:40], epochs=1)
    with pytest.raises(InputError, match="of at most 1024 numbers"):
        wide.sample(2)
    with pytest.raises(InputError, match=r"ends in .png; got 'a.jpg'"):
        draw_samples(screens("vae"), tmp_path / "a.jpg")
    table = np.random.default_rng(0).normal(size=(300, 5))
    with pytest.raises(InputError, match="takes vectors"):
        draw_samples(recondite.fit(table, detector="pca", latent_size=2, alpha=0.1), tmp_path / "a.png")


def test_the_command_draws_a_grid_and_says_where_its_latents_come_from(screens, tmp_path, capsys):
    screens("autoencoder").save(tmp_path / "screen")
    assert main(["sample", str(tmp_path / "screen"), "-n", "10", "-o", str(tmp_path / "made.png"), "--seed", "3"]) == 0
    said = capsys.readouterr().out
    assert "Gaussian fitted to the latents of training images" in said
    with Image.open(tmp_path / "made.png") as picture:
        # Four columns and three rows of 8 pixels with gaps of 2, enlarged to at least 480.
        assert picture.size == (38 * 13, 28 * 13)
    assert "N(0, I)" in latents_in_words(screens("vae").detector)

"""Every statistic against its formula in plain numpy."""

import numpy as np
import pytest
import torch

import recondite
from recondite import build
from recondite.data.datasets import nameless, open_images
from recondite.data.spool import read_all
from recondite.errors import InputError
from recondite.screen.evidence import Observer, fit_observer
from recondite.statistics.distances import Distances
from recondite.statistics.image_statistics import (
    STATISTICS,
    change,
    statistic_in_words,
    statistics_of_error,
    statistics_of_image,
)

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def images(shape=(6, 3, 9, 12), seed=0):
    generator = np.random.default_rng(seed)
    return generator.random(shape).astype(np.float32), generator.random(shape).astype(np.float32)


def neighbours(image):
    """|Differences| of every value and its neighbours to the right and below, in a loop."""
    channels, height, width = image.shape
    steps = []
    for channel, row, column in np.ndindex(channels, height, width):
        here = float(image[channel, row, column])
        if row + 1 < height:
            steps.append(abs(float(image[channel, row + 1, column]) - here))
        if column + 1 < width:
            steps.append(abs(float(image[channel, row, column + 1]) - here))
    return np.array(steps)


def test_statistics_of_an_image():
    pixels, _ = images()
    x = 2 * pixels - 1
    found = statistics_of_image(torch.from_numpy(pixels), torch.from_numpy(x))
    for number, (image, scaled) in enumerate(zip(pixels, x, strict=True)):
        expected = {
            "brightness": scaled.mean(dtype=float),
            "variance": np.log(scaled.astype(float).var()),
            "total_variation": np.log(neighbours(image).mean()),
            "code_length": np.log2(1 + 255 * neighbours(image)).mean(),
        }
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(float(found[name][number]), value, **CLOSE, err_msg=name)


def test_statistics_of_an_error():
    x, rebuilt = images()
    found = statistics_of_error(torch.from_numpy(x), torch.from_numpy(rebuilt))
    for number, error in enumerate(x.astype(float) - rebuilt):
        size = np.sort(np.abs(error).ravel())[::-1]
        worst = int(np.ceil(0.01 * size.size))
        expected = {
            "squared_error": np.log((error**2).mean()),
            "absolute_error": np.log(size.mean()),
            "worst_error": np.log(size[:worst].mean()),
            "unexplained_variance": np.log((error**2).mean() / x[number].astype(float).var()),
            "error_roughness": np.log(neighbours(error).mean()),
        }
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(float(found[name][number]), value, **CLOSE, err_msg=name)


def test_vectors_have_no_neighbours():
    x, rebuilt = images((6, 20))
    found = statistics_of_image(torch.from_numpy(x), torch.from_numpy(x))
    assert set(found) == {"brightness", "variance"}
    assert "error_roughness" not in statistics_of_error(torch.from_numpy(x), torch.from_numpy(rebuilt))


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_constant_and_perfectly_rebuilt_images_have_finite_statistics(level):
    x = torch.full((2, 1, 8, 8), level)
    found = {**statistics_of_image(x, x), **statistics_of_error(x, x)}
    assert all(torch.isfinite(values).all() for values in found.values())


@pytest.mark.parametrize("side", [40, 600])
def test_images_have_the_same_statistics_whatever_the_number_of_images_and_threads(side):
    """Large ones are looked at two by two."""
    x, rebuilt = (torch.from_numpy(part) for part in images((8, 1, side, side)))
    threads = torch.get_num_threads()
    try:
        for find in (statistics_of_image, statistics_of_error):
            torch.set_num_threads(1)
            together = find(x, rebuilt)
            torch.set_num_threads(2)
            for some in (slice(None), slice(2), slice(6, 8)):
                for name, values in find(x[some], rebuilt[some]).items():
                    assert torch.equal(values, together[name][some]), name
    finally:
        torch.set_num_threads(threads)


def test_the_change_of_activations():
    before, after = images((5, 4, 3, 3))
    moved = np.linalg.norm((before - after).reshape(5, -1).astype(float), axis=1)
    size = np.linalg.norm(before.reshape(5, -1).astype(float), axis=1)
    found = change(torch.from_numpy(before), torch.from_numpy(after)).numpy()
    np.testing.assert_allclose(found, np.log(moved / size), **CLOSE)


def test_a_longer_code_costs_png_more_bytes():
    import io

    from PIL import Image

    sizes, lengths = [], []
    for spread in (0, 1, 3, 10, 30, 100):
        noise = np.random.default_rng(0).normal(128, spread, (64, 64)).clip(0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noise).save(stream, "png")
        sizes.append(stream.tell())
        pixels = torch.from_numpy(noise / np.float32(255))[None, None]
        lengths.append(float(statistics_of_image(pixels, pixels)["code_length"]))
    assert np.argsort(sizes).tolist() == np.argsort(lengths).tolist() == list(range(6))


def divergence(mean, log_variance):
    return 0.5 * sum(m**2 + np.exp(v) - 1 - v for m, v in zip(mean, log_variance, strict=True))


def test_statistics_of_a_vae_are_those_of_its_posterior(screens, digits):
    detector = screens("vae").detector
    pixels = torch.from_numpy(digits[1400:1432, None] / np.float32(255))
    observer = fit_observer(detector, read_all(open_images(digits[:400]), detector.preprocessing).rows())
    batch = nameless(pixels.numpy())
    scores = observer.score_batch(detector, batch, reconstruction=True)
    with torch.no_grad():
        posterior = detector.encoder.eval()(detector.scaled(pixels))
    mean, log_variance = (part.double().numpy() for part in posterior.chunk(2, 1))
    statistics = scores.statistics
    np.testing.assert_allclose(statistics["latent_spread"], log_variance.mean(1) / 2, **CLOSE)
    kl = [divergence(*row) for row in zip(mean, log_variance, strict=True)]
    np.testing.assert_allclose(statistics["kl"], np.log(kl), **CLOSE)
    np.testing.assert_allclose(statistics["latent_norm"], np.log(np.linalg.norm(mean, axis=1)), **CLOSE)
    distances = observer.latents(torch.from_numpy(mean.astype(np.float32)))
    for name, values in distances.items():
        np.testing.assert_allclose(statistics[f"latent_{name}"], values, **CLOSE)
    x, rebuilt = detector.scaled(pixels), detector.scaled(torch.from_numpy(scores.reconstruction))
    for name, values in statistics_of_error(x, rebuilt).items():
        np.testing.assert_allclose(statistics[name], values, **CLOSE, err_msg=name)


def test_reencoding_compares_the_image_with_its_reconstruction_layer_by_layer(screens, digits):
    detector = screens("autoencoder").detector
    batch = nameless(digits[1400:1420, None] / np.float32(255))
    statistics = Observer(reencoding=True).score_batch(detector, batch).statistics
    x = detector.scaled(torch.from_numpy(batch.pixels))

    def activations(layers, value):
        """What each of the layers gives, by running the encoder's parts one after the other."""
        given = []
        for part in detector.encoder:
            value = part(value)
            if part in layers:
                given.append(value.double().numpy().reshape(len(value), -1))
        return value, given

    with torch.no_grad():
        layers = detector.encoder_layers()
        z, before = activations(layers, x)
        again, after = activations(layers, detector.decode_tensor(z))
    z, again = z.double().numpy(), again.double().numpy()
    expected = np.log(np.linalg.norm(z - again, axis=1) / np.linalg.norm(z, axis=1))
    np.testing.assert_allclose(statistics["reencoding"], expected, rtol=1e-3, atol=1e-3)
    assert len(before) == len(layers) > 0
    for number, (one, two) in enumerate(zip(before, after, strict=True)):
        expected = np.log(np.linalg.norm(one - two, axis=1) / np.linalg.norm(one, axis=1))
        np.testing.assert_allclose(statistics[f"reencoding_layer_{number + 1}"], expected, rtol=1e-3, atol=1e-3)


def test_distances_against_their_formulas():
    from sklearn.covariance import LedoitWolf

    generator = np.random.default_rng(0)
    normal = (generator.normal(size=(300, 5)) @ generator.normal(size=(5, 5)) + 3).astype(np.float32)
    other = generator.normal(size=(20, 5)).astype(np.float32)
    found = Distances.fit(normal)(torch.from_numpy(other))
    precision = np.linalg.inv(LedoitWolf().fit(normal).covariance_)
    centred = other - normal.mean(axis=0, dtype=float)
    expected = [0.5 * np.log(row @ precision @ row) for row in centred]
    np.testing.assert_allclose(found["mahalanobis"], expected, rtol=1e-3, atol=1e-3)
    bank = normal - normal.mean(axis=0, dtype=float)
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    fifth = [np.sort(np.linalg.norm(bank - row, axis=1))[4] for row in unit]
    np.testing.assert_allclose(found["neighbour"], np.log(fifth), rtol=1e-3, atol=1e-3)


def test_distances_of_degenerate_features_stay_finite():
    constant = np.ones((50, 4), np.float32)
    line = np.linspace(0, 1, 50, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
    for normal in (constant, line):
        distances = Distances.fit(normal)
        found = distances(torch.tensor([[1.0, 1, 1, 1], [9, -9, 9, -9]]))
        assert all(torch.isfinite(values).all() for values in found.values())
        assert found["mahalanobis"][1] > found["mahalanobis"][0] + 1


@pytest.mark.parametrize("name", list(recondite.DETECTORS))
def test_every_statistic_of_every_detector_is_described(name, screens):
    for statistic in screens(name).evidence.density.names:
        assert statistic_in_words(statistic)
        assert statistic in STATISTICS or statistic.startswith("reencoding_layer_"), statistic


def test_own_networks_without_layers_to_look_at_still_have_statistics(digits):
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8))
    decoder = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Unflatten(1, (1, 8, 8)))
    detector = build("autoencoder", image_shape=(1, 8, 8), latent_size=8, encoder=encoder, decoder=decoder)
    detector.fit(digits[:100], epochs=1)
    batch = nameless(digits[:10, None] / np.float32(255))
    statistics = Observer(reencoding=True).score_batch(detector, batch).statistics
    assert "reencoding" in statistics


@pytest.mark.parametrize("name", ["alad", "features"])
def test_a_detectors_own_statistics_are_logarithms_of_its_scores(name, screens, digits):
    screen = screens(name)
    verdicts = screen.predict(digits[1400:1420])

    def score(of):
        return screen.detector.score(digits[1400:1420], score=of).instance_score

    if name == "alad":
        expected = {f"critic_{part}": np.log(score(part)) for part in ("fm", "ch")}
    else:
        expected = {
            "feature_error": np.log(score("reconstruction_error")),
            "feature_mahalanobis": np.log(score("mahalanobis")) / 2,
            "feature_padim": np.log(score("padim")) / 2,
        }
    for statistic, values in expected.items():
        np.testing.assert_allclose(verdicts.statistics[statistic], values, rtol=1e-3, atol=1e-3, err_msg=statistic)


def test_activations_that_were_nought_have_a_finite_change():
    before = torch.zeros(2, 1, 2, 2)
    assert torch.isfinite(change(before, before)).all()
    assert torch.isfinite(change(before, before + 1)).all()
    moved = torch.full((1, 1, 1, 1), 1e-3)
    assert change(moved + 1, torch.ones(1, 1, 1, 1)).item() == pytest.approx(np.log(2e-6 / 1) / 2, abs=1e-2)


def test_a_bank_is_all_of_a_few_features_and_the_first_and_last_of_many():
    generator = np.random.default_rng(1)
    few, many = generator.normal(size=(12, 3)).astype(np.float32), generator.normal(size=(2500, 3)).astype(np.float32)
    for features, rows in ((few, range(12)), (many, [0, 2499])):
        bank = Distances.fit(features).bank.numpy()
        centred = features - features.mean(axis=0, dtype=np.float64)
        expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        np.testing.assert_allclose(bank[[0, -1]], expected[[rows[0], rows[-1]]], rtol=1e-4, atol=1e-6)
        assert len(bank) == min(len(features), 1000)


def test_features_that_no_distance_can_be_learnt_from_are_refused():
    good = np.random.default_rng(2).normal(size=(10, 3)).astype(np.float32)
    Distances.fit(good)
    broken = good.copy()
    broken[4, 1] = np.nan
    for features in (good[:9], broken, good[:, 0]):
        with pytest.raises(InputError, match="at least 10"):
            Distances.fit(features)
    tensors = Distances.fit(good).tensors()
    for name, wrong in (
        *(("mean", good), ("mean", good[0, :0]), ("whitening", good), ("bank", good[0]), ("bank", good[:, :2])),
    ):
        with pytest.raises(ValueError, match=r"(mean|whitening|bank) of shape"):
            Distances.from_tensors({**tensors, name: wrong})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("code_length", "complexity"),
        ("reencoding", "change of the latent when encoded again"),
        ("reencoding_layer_2", "change in layer 2 when encoded again"),
        ("error", "error of the detector"),
        ("of_your_own", "of your own"),
    ],
)
def test_a_statistic_in_words(name, words):
    assert statistic_in_words(name) == words

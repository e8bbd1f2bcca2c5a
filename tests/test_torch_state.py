"""The caller's settings of torch, and other threads, change neither what is learnt nor what is scored."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import numpy as np
import pytest
import torch
from conftest import QUICK, SHAPES
from torch import nn

import recondite
from recondite.detectors import build
from recondite.torch_state import own_settings, seeded

IMAGES = np.random.default_rng(0).random((150, 1, 8, 8), dtype=np.float32)
VAE = {"latent_size": 4, "width": 4, "epochs": 1}


def fitted(detector="vae", **options):
    return recondite.fit(IMAGES, detector=detector, alpha=0.1, **{**(VAE if detector == "vae" else {}), **options})


def own_networks(dtype=torch.float32):
    with seeded(0):
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, 4))
        decoder = nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8)))
    return {"encoder": encoder.to(dtype), "decoder": decoder.to(dtype)}


@contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def matmul_precision():
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@contextmanager
def default_device():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


SETTINGS = {
    "default dtype": default_dtype,
    "matmul precision": matmul_precision,
    "default device": default_device,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def state():
    return (
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
    )


@pytest.fixture(scope="module")
def plain():
    return fitted()


@pytest.mark.parametrize("name", SETTINGS)
def test_the_callers_settings_do_not_change_what_is_learnt_and_come_back(name, plain):
    with SETTINGS[name]():
        before = state()
        screen = fitted()
        assert state() == before
    assert screen.fingerprint() == plain.fingerprint()


@pytest.mark.parametrize("name", SETTINGS)
def test_the_callers_settings_do_not_change_what_is_loaded_and_scored(name, plain, tmp_path):
    plain.save(tmp_path / "screen")
    expected = plain.predict(IMAGES[:5], reconstruction=True)
    with SETTINGS[name]():
        loaded = recondite.load(tmp_path / "screen")
        inside = loaded.predict(IMAGES[:5], reconstruction=True)
        lone = plain.predict(IMAGES[:1])
    for found in (inside, loaded.predict(IMAGES[:5], reconstruction=True)):
        np.testing.assert_array_equal(found.instance_score, expected.instance_score)
        np.testing.assert_array_equal(found.reconstruction, expected.reconstruction)
    np.testing.assert_array_equal(lone.instance_score, expected.instance_score[:1])


@pytest.mark.parametrize("detector", ["pca", "alad", "autoencoder", "features"])
def test_every_detector_learns_in_float32_under_another_default(detector):
    settings = {**QUICK[detector], "image_size": SHAPES.get(detector, (1, 8, 8))[1]}
    settings |= {"epochs": 1} if "epochs" in settings else {}
    images = np.random.default_rng(0).random((60, 1, 16, 16), dtype=np.float32)

    def learnt():
        screen = recondite.fit(images, detector=detector, score="error", alpha=0.2, **settings)
        kinds = {v.dtype for v in screen.detector.state_dict().values() if v.is_floating_point()}
        assert kinds <= {torch.float32, *([torch.float64] if detector == "features" else [])}
        return screen.calibrator.scores

    expected = learnt()
    with default_dtype(), torch.inference_mode():
        np.testing.assert_array_equal(learnt(), expected)


def test_augmented_images_are_learnt_under_another_default():
    images = np.random.default_rng(0).random((60, 3, 8, 8), dtype=np.float32)

    def threshold():
        options = {**VAE, "augment": "rotate,hue"}
        return recondite.fit(images, detector="vae", score="error", alpha=0.2, **options).threshold

    expected = threshold()
    with default_dtype(), default_device():
        assert threshold() == expected


def test_networks_and_a_classifier_in_float64_are_used():
    expected = fitted("autoencoder", latent_size=4, epochs=1, **own_networks())
    found = fitted("autoencoder", latent_size=4, epochs=1, **own_networks(torch.float64))
    np.testing.assert_array_equal(found.calibrator.scores, expected.calibrator.scores)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    guard = expected.guard(classifier, ["a", "b", "c"])
    with default_dtype():
        assert guard(IMAGES[:4]).confidence.tolist() == guard(IMAGES[:4]).confidence.tolist()
    assert {value.dtype for value in classifier.parameters()} == {torch.float64}


@pytest.mark.parametrize("kind", ["vae", "networks with dropout"])
def test_threads_learn_what_one_alone_learns(kind):
    def scores(_):
        own = {} if kind == "vae" else own_networks()
        options = {"latent_size": 4, "epochs": 3}
        screen = fitted("vae", width=4, **options) if kind == "vae" else fitted("autoencoder", **options, **own)
        return screen.calibrator.scores

    expected, before = scores(0), torch.random.get_rng_state()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(scores, range(8)))
    for one in found:
        np.testing.assert_array_equal(one, expected)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_draws_of_another_thread_do_not_reach_the_draws_of_training():
    """The library's own networks draw from a generator of their own; only building one seeds the global one."""
    detector = build("vae", image_shape=(1, 8, 8), **{k: v for k, v in VAE.items() if k != "epochs"})
    assert not detector.draws_of_its_own
    given = build("autoencoder", image_shape=(1, 8, 8), latent_size=4, **own_networks())
    assert given.draws_of_its_own


def test_settings_of_the_process_come_back_when_the_last_thread_is_done():
    first_in, first_out = Event(), Event()

    def first():
        with own_settings():
            first_in.set()
            assert first_out.wait(10)

    def second():
        assert first_in.wait(10)
        with own_settings():
            first_out.set()
            other.result(10)
            return torch.get_default_dtype()

    with default_dtype(), ThreadPoolExecutor(2) as threads:
        other = threads.submit(first)
        assert threads.submit(second).result(10) == torch.float32
        assert torch.get_default_dtype() == torch.float64


def test_within_its_own_settings_a_device_can_be_chosen():
    with default_device(), own_settings(), torch.device("meta"), own_settings():
        assert torch.zeros(1).device.type == "meta"
    with default_device(), own_settings():
        assert torch.zeros(1).device.type == "cpu"

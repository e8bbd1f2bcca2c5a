"""What every detector does beside what its subclass writes."""

import inspect
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from recondite import build
from recondite.data.datasets import nameless
from recondite.data.spool import Rows
from recondite.detector_options import PcaOptions
from recondite.detectors import base
from recondite.detectors.autoencoder import Autoencoder
from recondite.detectors.base import Detector
from recondite.detectors.features import Features
from recondite.detectors.measured import Measured
from recondite.options import TrainingOptions


class Plain(Detector):
    """Rebuilds half of an image, and has no encoder."""

    name = "plain"
    batches = 4

    def __init__(self, shape=(1, 8, 8)):
        super().__init__(shape, PcaOptions())
        self.fitted.fill_(True)

    def reconstruct_tensor(self, x):
        return x / 2

    @property
    def scoring_batch(self):
        return self.batches


class Telling(Plain):
    """Has an encoder, and tells a statistic."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, 2))

    def encode_tensor(self, x):
        return self.encoder(x)

    def decode_tensor(self, z):
        return z.sum(1)[:, None, None, None].expand(-1, 1, 8, 8)

    def measure(self, x, score, inside=None):
        found = super().measure(x, score, inside)
        return replace(found, statistics={"own": x.sum((1, 2, 3))})


IMAGES = np.random.default_rng(0).random((6, 1, 8, 8), dtype=np.float32)


def test_what_has_no_encoder_is_measured_by_what_it_rebuilds():
    detector, x = Plain(), torch.from_numpy(IMAGES)
    found = detector.measure(x, "squared_error")
    assert found.latents is None
    torch.testing.assert_close(found.reconstruction, x / 2)
    torch.testing.assert_close(detector.validation_errors(x), (x / 2).square().mean((1, 2, 3)))
    torch.testing.assert_close(detector.rebuilt(x), x / 2)
    telling = Telling().eval()
    found = telling.measure(x, "squared_error")
    torch.testing.assert_close(found.latents, telling.encoder(x))
    torch.testing.assert_close(found.reconstruction, telling.decode_tensor(found.latents))
    assert (detector.has_encoder, telling.has_encoder) == (False, True)


def test_only_images_are_shown_rebuilt(monkeypatch):
    assert Plain((5,)).rebuilt(torch.zeros(2, 5)) is None
    monkeypatch.setattr(Plain, "rebuilds", False)
    assert Plain().rebuilt(torch.zeros(2, 1, 8, 8)) is None


@pytest.mark.parametrize("further", [False, True])
def test_units_of_vectors_are_learnt_at_the_first_fit(further, monkeypatch):
    steps = []
    monkeypatch.setattr(base, "train", lambda *given: steps.append(given[-1]) or "history")
    monkeypatch.setattr(base, "fit_prior", lambda *_: steps.append("prior"))
    detector = Plain((5,))
    detector.fitted.fill_(False)
    vectors = np.random.default_rng(0).normal(3, 2, (30, 5)).astype(np.float32)
    given = {"further": True} if further else {}
    assert detector.fit_rows(Rows(vectors, np.arange(30)), None, TrainingOptions(), **given) is detector
    assert np.allclose(detector.shift, vectors.mean(0), rtol=1e-5) != further
    assert detector.history == "history"
    assert bool(detector.fitted)
    assert steps == [False, "prior"]  # no progress is shown unless it is asked for


class Observer:
    """Finds how many inner layers it was shown."""

    def __init__(self, reencoding):
        self.reencoding, self.seen = reencoding, []

    def found(self, _, pixels, __, before):
        self.seen.append(len(before))
        return {"layers": torch.full((len(pixels),), float(len(before)))}


@pytest.mark.parametrize("reencoding", [False, True])
def test_an_observer_sees_inner_layers_where_it_asks_for_them(reencoding):
    detector, observer = Telling().eval(), Observer(reencoding)
    scores = detector.score_batch(nameless(IMAGES), observer=observer)
    assert list(scores.statistics) == ["layers"]  # what the detector tells is the observer's to pass on
    assert (scores.statistics["layers"] > 0).tolist() == [reencoding] * 6
    assert (scores.feature_score, scores.reconstruction) == (None, None)
    assert detector.score_batch(nameless(IMAGES)).statistics is None
    asked = detector.score_batch(nameless(IMAGES), feature_score=True, reconstruction=True)
    assert asked.feature_score.shape == asked.reconstruction.shape == IMAGES.shape


def test_what_is_not_rebuilt_is_not_shown_when_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(Plain, "measure", lambda _, x, *__: Measured(feature_scores=x.square(), reconstruction=None))
    assert Plain().score_batch(nameless(IMAGES), reconstruction=True).reconstruction is None


def test_fewer_images_are_compared_with_a_full_batch_by_more_than_scores(monkeypatch):
    asked = []
    monkeypatch.setattr(Detector, "run", lambda *given: asked.append(given) or {"": np.zeros(6)})
    detector = Telling().eval()
    with pytest.raises(KeyError):
        detector.score_batch(nameless(IMAGES))
    ((_, _, function, _, closely),) = asked
    x = torch.from_numpy(IMAGES)
    with torch.no_grad():
        plain, close = function(detector, x), closely(detector, x)
    assert close.keys() > plain.keys()
    assert {"own", "latents"} <= close.keys()
    assert any(value.shape == x.shape for value in close.values())


def test_defaults():
    def default(function, name):
        return inspect.signature(function).parameters[name].default

    assert [default(Detector.fit, name) for name in ("validation", "resume", "progress")] == [0.1, False, False]
    for function in (Detector.fit_rows, Features.fit_rows):
        assert [default(function, name) for name in ("resume", "show_progress", "further")] == [False] * 3
    for name in ("feature_score", "reconstruction"):
        assert default(Detector.score, name) is default(Detector.score_batch, name) is False
    assert default(Detector.sample, "seed") == default(build, "seed") == 0
    assert Detector.needs_validation
    assert Detector.batches_a_step == 1
    assert Detector.trains_by_steps
    assert isinstance(Plain().looking_once(Rows(IMAGES, np.arange(6))), nullcontext)


def test_networks_of_ones_own_come_in_pairs():
    """`build` refuses one alone; without the other the detector makes both."""
    options = Autoencoder.Options(latent_size=2, width=4)
    alone = Autoencoder((1, 8, 8), options, encoder=nn.Identity())
    assert not alone.modules_given
    assert not isinstance(alone.encoder, nn.Identity)
    assert Autoencoder((5,), options, nn.Linear(5, 2), nn.Linear(2, 5)).modules_given

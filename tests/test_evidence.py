import numpy as np
import pytest
import torch
from conftest import QUICK
from torch import nn

import recondite
from recondite.errors import InputError
from recondite.reports.explanation import in_words, statistics_of_first
from recondite.screen.promise import promise
from recondite.screen.words import AUTO, ERROR, EVIDENCE


@pytest.mark.parametrize("name", list(recondite.DETECTORS))
def test_constants_and_weak_contrast_are_outliers(name, screens, digits):
    constants = np.stack([np.full((8, 8), level, np.uint8) for level in range(0, 256, 5)])
    assert screens(name).score == AUTO
    assert screens(name).predict(constants).is_outlier.all()
    faded = (digits[1400:] // 2 + 60).astype(np.uint8)
    assert screens(name).predict(faded).is_outlier.mean() > 0.95


@pytest.mark.parametrize("score", [AUTO, EVIDENCE, ERROR, "squared_error", "variance"])
def test_every_score_is_a_function_of_the_image_and_calibrated(score, screens, digits, tmp_path):
    screen = screens("autoencoder").with_score(score)
    together = screen.predict(digits[1400:1500])
    alone = [screen.predict(image[None]).instance_score[0] for image in digits[1400:1500]]
    np.testing.assert_array_equal(alone, together.instance_score)
    np.testing.assert_array_equal(together.is_outlier, together.instance_score > screen.threshold)
    screen.save(tmp_path / "screen")
    again = recondite.load(tmp_path / "screen")
    assert again.score == score
    np.testing.assert_array_equal(again.predict(digits[1400:1500]).instance_score, together.instance_score)
    assert again.with_score(AUTO).threshold == screens("autoencoder").threshold
    assert 0.005 < screen.predict(digits[1400:]).is_outlier.mean() < 0.15


def test_scores_of_two_kinds_have_two_fingerprints(screens):
    screen = screens("pca")
    assert len({screen.with_score(score).fingerprint() for score in (AUTO, EVIDENCE, ERROR)}) == 3


def test_reencoding_adds_a_statistic_a_layer(digits):
    screen = recondite.fit(
        digits[:600], detector="autoencoder", reencoding=True, **QUICK["autoencoder"] | {"epochs": 2}
    )
    assert "reencoding" in screen.scores
    layers = len(screen.detector.encoder_layers())
    assert f"reencoding_layer_{layers}" in screen.scores
    assert np.isfinite(screen.predict(digits[600:640]).instance_score).all()


def test_too_few_images_are_judged_by_the_error_unless_evidence_was_asked_for(digits):
    few = recondite.fit(digits[:300], detector="pca", latent_size=4, alpha=0.1)
    assert few.score == ERROR
    assert few.facts["images"]["images"] == 240 - few.facts["validation"]["images"]
    with pytest.raises(InputError, match="at least 50 images held out as evidence"):
        recondite.fit(digits[:300], detector="pca", latent_size=4, alpha=0.1, score="auto")
    given = recondite.fit(digits[:300], detector="pca", latent_size=4, alpha=0.1, evidence=digits[300:400])
    assert given.score == AUTO
    with pytest.raises(InputError, match="expected a score among auto, evidence, error"):
        recondite.fit(digits[:600], detector="pca", latent_size=4, score="nonsense")


def test_a_duplicate_planted_in_two_parts_serves_one(digits):
    screen = recondite.fit(
        digits[:600],
        detector="pca",
        latent_size=4,
        validation=None,
        calibration=digits[500:800],
        evidence=digits[400:560],
    )
    assert screen.facts["calibration"]["images"] == 300
    assert screen.facts["evidence"]["images"] == 100  # sixty of them calibrate
    assert screen.facts["images"]["images"] == 400


def test_the_words_name_the_planted_cause(screens, digits):
    screen = screens("vae")
    faded = screen.predict((digits[1400:1401] // 8 + 100).astype(np.uint8))
    assert "contrast (low)" in in_words(screen, faded)
    names = dict(statistics_of_first(screen, faded))
    assert names["contrast"] < -2.58
    noise = np.random.default_rng(0).integers(0, 256, (1, 8, 8), dtype=np.uint8)
    assert "error of the reconstruction (high)" in in_words(screen, screen.predict(noise))


class TinyClassifier(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.features(x))


def test_a_classifiers_features_are_a_part_of_auto_and_it_must_be_the_same_one(digits, tmp_path):
    options = {"detector": "pca", "latent_size": 8, "alpha": 0.05}
    screen = recondite.fit(digits[:1000], classifier=TinyClassifier(), classifier_layer="features", **options)
    assert "classifier" in screen.scores
    caution = "the classifier has not learnt from the calibration images"
    assert caution in promise(screen)
    assert caution in promise(screen, 0.1)
    assert caution not in promise(screen.with_score("error"))
    assert "must not have learnt from the calibration images" in " ".join(recondite.fit.__doc__.split())
    noise = np.random.default_rng(0).integers(0, 256, (50, 8, 8), dtype=np.uint8)
    assert screen.with_score("classifier").predict(noise).is_outlier.mean() > 0.3
    screen.save(tmp_path / "screen")
    again = recondite.load(tmp_path / "screen", classifier=TinyClassifier())
    np.testing.assert_array_equal(again.predict(digits[1000:1100]).p_value, screen.predict(digits[1000:1100]).p_value)
    with pytest.raises(InputError, match="classifier="):
        recondite.load(tmp_path / "screen")
    with pytest.raises(InputError, match="not the classifier"):
        recondite.load(tmp_path / "screen", classifier=TinyClassifier(seed=1))
    with pytest.raises(InputError, match="does not take"):
        recondite.fit(digits[:600], classifier=TinyClassifier(), classifier_layer="nothing", **options)

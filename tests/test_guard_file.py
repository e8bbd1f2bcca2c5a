"""A guard kept as a file beside its screen, and one whose classifier has spoken somewhere else."""

import json

import numpy as np
import pytest
import torch

import recondite
from recondite.data.artifacts import read_tensors, write_tensors
from recondite.errors import ArtifactError, InputError
from recondite.screen.guard_file import load_guard, save_guard
from recondite.screen.saved import GUARD_FILE

LABELS = ("dark", "light")


def classifier(pixels):
    brightness = 20 * (pixels.mean(dim=(1, 2, 3)) - 0.3)
    return torch.stack([-brightness, brightness], dim=1)


@pytest.fixture
def screen(screens):
    return screens("pca").with_alpha(0.1)


@pytest.fixture
def guards(screen, digits):
    held = digits[1400:]
    return {
        "screen": screen.guard(classifier, LABELS),
        "by class": screen.guard(classifier, LABELS, calibration=held, by_class=True, confidence_share=0),
        "confidence": screen.guard(classifier, LABELS, calibration=held, confidence_share=0.5),
    }


@pytest.mark.parametrize("kind", ["screen", "by class", "confidence"])
def test_a_saved_guard_decides_as_the_one_that_has_the_classifier(kind, guards, screen, digits, tmp_path):
    images = np.concatenate([digits[1300:1400], 255 - digits[1400:1420]])
    expected = guards[kind](images)
    assert 0 < expected.abstained.sum() < len(images)
    screen.save(tmp_path / "screen")
    save_guard(guards[kind], tmp_path / "screen")
    loaded = recondite.load(tmp_path / "screen")
    guard = load_guard(loaded, tmp_path / "screen")
    sure = expected.confidence.tolist() if kind == "confidence" else None
    found = guard.decide(loaded.predict(images), list(expected.predicted), sure)
    assert found.labels == expected.labels
    assert found.reasons == expected.reasons
    with pytest.raises(InputError, match="no classifier"):
        guard(images)


def test_without_a_file_the_screen_decides(screen, digits, tmp_path):
    verdicts = screen.predict(digits[1300:1350])
    found = load_guard(screen, tmp_path).decide(verdicts, ["any"] * 50)
    np.testing.assert_array_equal(found.abstained, verdicts.is_outlier)


def test_what_it_does_not_take(guards, screen, digits):
    verdicts = screen.predict(digits[1300:1302])
    for kind, labels, sure, message in (
        ("screen", ["dark"], None, "2 images"),
        ("screen", ["dark", None], None, "one is missing"),
        ("screen", ["dark", "violet"], None, "'violet'"),
        ("screen", ["dark", "light"], [0.5, 1.5], "in .0, 1"),
        ("screen", ["dark", "light"], [0.5], "in .0, 1"),
        ("confidence", ["dark", "light"], None, "looks at the classifier's confidence"),
    ):
        with pytest.raises(InputError, match=message):
            guards[kind].decide(verdicts, labels, sure)
    with pytest.raises(InputError, match="part 'screen' of the guard predicted as"):
        guards["by class"].at(screen.with_alpha(0.004))


def test_a_guard_of_another_screen_or_a_damaged_one_is_refused(guards, screen, screens, tmp_path):
    save_guard(guards["by class"], tmp_path)
    with pytest.raises(ArtifactError, match="another screen"):
        load_guard(screens("autoencoder"), tmp_path)
    tensors, facts = read_tensors(tmp_path / GUARD_FILE)
    shares = ({"screen": 0.5}, {"features": 1.0}, {"screen": 1.5, "confidence": -0.5})
    for damage in (*({"shares": one} for one in shares), {"classes": ["one"]}, {"labels": 5}):
        write_tensors(tmp_path / GUARD_FILE, tensors, facts | damage)
        with pytest.raises(ArtifactError, match="damaged"):
            load_guard(screen, tmp_path)
    write_tensors(tmp_path / GUARD_FILE, tensors, json.loads(json.dumps(facts | {"kind": "x"})))
    with pytest.raises(ArtifactError, match="not a guard"):
        load_guard(screen, tmp_path)
    (tmp_path / GUARD_FILE).write_bytes(b"x")
    with pytest.raises(ArtifactError):
        load_guard(screen, tmp_path)

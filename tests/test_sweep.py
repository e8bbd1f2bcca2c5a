import csv
import inspect
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import recondite
from recondite.cluster.sweep import cluster_sweep
from recondite.data.datasets import ImageSet
from recondite.detectors import Detector
from recondite.errors import InputError, ReconditeWarning
from recondite.reports.evaluation import evaluate
from recondite.screen.screen import Screen
from recondite.screen.sweep import _LONGEST_PATH, _map_name, journalled, sweep
from recondite.screen.watch import watch_folder


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_one_row_an_image_in_order_and_equal_to_the_library(screens, folder, tmp_path):
    (folder / "odd" / "001.png").write_bytes(b"text")
    screen = screens("autoencoder")
    sweep(screen, folder, tmp_path / "out.csv")
    expected = screen.predict(folder)
    rows = rows_of(tmp_path / "out.csv")
    assert [row["id"] for row in rows] == list(expected.ids)
    scores = [float(row["instance_score"]) if row["instance_score"] else np.nan for row in rows]
    np.testing.assert_array_equal(scores, expected.instance_score)
    assert [row["verdict"] for row in rows] == expected.words
    assert len([path for path in tmp_path.iterdir() if path.is_file()]) == 1


def test_jsonl_and_parquet_hold_the_same(screens, folder, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for suffix in ("jsonl", "parquet"):
        sweep(screens("pca"), folder, tmp_path / f"out.{suffix}")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert parquet.read_table(tmp_path / "out.parquet").to_pylist() == lines
    assert lines == list(screens("pca").predict(folder).records())
    assert str(parquet.read_schema(tmp_path / "out.parquet").field("error").type) == "string"


class Killed(BaseException):
    pass


def test_an_interrupted_sweep_goes_on_where_it_stopped(screens, folder, tmp_path, monkeypatch):
    screen = screens("pca")
    whole = sweep(screen, folder, tmp_path / "whole.csv").verdicts
    looked_at = []
    scored = Screen.scored

    def stopping(self, images, **options):
        for part in scored(self, images, **options):
            looked_at.extend(part.ids)
            yield part
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Screen, "scored", stopping)
        patch.setattr(Detector, "scoring_batch", 32)
        with pytest.raises(Killed):
            sweep(screen, folder, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
    journal = tmp_path / ".out.csv.journal"
    journal.write_text(journal.read_text() + '{"id": "half a li')  # a crash in the middle of a write
    assert len(looked_at) == 32
    before = list(looked_at)

    def noting(self, images, **options):
        for part in scored(self, images, **options):
            looked_at.extend(part.ids)
            yield part

    with monkeypatch.context() as patch:
        patch.setattr(Screen, "scored", noting)
        result = sweep(screen, folder, tmp_path / "out.csv")
    assert sorted(looked_at) == sorted(whole.ids)
    assert set(looked_at[:32]) == set(before)
    assert result.taken_up == 32
    np.testing.assert_array_equal(result.verdicts.instance_score, whole.instance_score)
    assert (tmp_path / "out.csv").read_text() == (tmp_path / "whole.csv").read_text()
    assert not journal.exists()


def test_a_journal_of_another_screen_is_not_taken_up(screens, folder, tmp_path):
    journal = tmp_path / ".out.csv.journal"
    journal.write_text('{"screen": "other"}\n{"id": "even/000.png", "score": 0.0, "error": null}\n')
    assert sweep(screens("pca"), folder, tmp_path / "out.csv").taken_up == 0


def test_heat_maps_keep_the_folders_and_share_a_scale(screens, folder, tmp_path):
    Image.new("L", (8, 8)).save(folder / "even" / "000.bmp")  # the same stem as 000.png
    screen = screens("pca")
    sweep(screen, folder, tmp_path / "out.csv", maps=tmp_path / "maps")
    names = {path.relative_to(tmp_path / "maps").as_posix() for path in (tmp_path / "maps").rglob("*.png")}
    assert {"even/000.png.map.png", "even/000.bmp.map.png", "odd/001.png.map.png"} <= names
    assert len(names) == 41
    drawn = np.asarray(Image.open(tmp_path / "maps" / "odd" / "001.png.map.png"))
    assert drawn.shape == (8, 8, 3)


def test_false_discovery_control_looks_at_the_whole_sweep(screens, folder, tmp_path):
    screen = screens("pca")
    verdicts = sweep(screen, folder, tmp_path / "out.csv", fdr=0.2).verdicts
    expected = screen.predict(folder, fdr=0.2)
    np.testing.assert_array_equal(verdicts.is_outlier, expected.is_outlier)
    assert rows_of(tmp_path / "out.csv")[0]["threshold"] == ""


def test_wrong_sweeps_are_refused_before_any_work(screens, folder, tmp_path):
    for output, words in (("out.txt", "ends in .csv"), ("out", "ends in .csv")):
        with pytest.raises(InputError, match=words):
            sweep(screens("pca"), folder, tmp_path / output)
    for rate in (0, 3, float("nan")):
        with pytest.raises(InputError, match="false-discovery rate"):
            sweep(screens("pca"), folder, tmp_path / "out.csv", fdr=rate)
    with pytest.raises(InputError, match="walked through again"):
        sweep(screens("pca"), iter([np.zeros((8, 8))]), tmp_path / "out.csv")
    with pytest.raises(InputError, match="different ids"):
        sweep(screens("pca"), ImageSet(np.zeros((2, 8, 8)), ids=["a", "a"]), tmp_path / "out.csv")
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="not one of the images"):
        sweep(screens("pca"), folder, tmp_path / "out.csv", on_bad="skip")


def test_an_id_that_points_outside_the_folder_of_maps_is_refused(screens, digits, tmp_path):
    images = ImageSet(digits[:1], ids=["../../escape"])
    with pytest.raises(InputError, match="outside"):
        sweep(screens("pca"), images, tmp_path / "out.csv", maps=tmp_path / "a" / "maps")


def test_labels_of_pairs_choose_the_group(digits, tmp_path):
    pairs = [(digit, "left" if index % 2 else "right") for index, digit in enumerate(digits[:400])]
    screen = recondite.fit(pairs, detector="pca", latent_size=4, alpha=0.1, by_folder=True)
    verdicts = sweep(screen, pairs[:40], tmp_path / "out.csv").verdicts
    assert verdicts.words == screen.predict(pairs[:40]).words
    assert "invalid" not in verdicts.words
    named = sweep(screen, digits[:40], tmp_path / "out.csv", group="left").verdicts
    assert "invalid" not in named.words


def test_ids_of_any_language_and_with_commas_survive(screens, digits, tmp_path):
    name = 'büro, "käse" 測試.png'
    (tmp_path / "images").mkdir()
    Image.fromarray(digits[0]).save(tmp_path / "images" / name)
    sweep(screens("pca"), tmp_path / "images", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as stream:
        assert next(csv.DictReader(stream))["id"] == name


def test_what_a_sweep_says_of_its_images_and_refuses(screens, folder, digits, tmp_path, monkeypatch):
    screen, output = screens("pca"), tmp_path / "out.csv"
    plain = sweep(screen, folder, output)
    assert plain.remarks == ()
    assert plain.verdicts.statistics is None
    assert not any(name.startswith("statistic.") for name in rows_of(output)[0])
    sweep(screen, folder, output, statistics=True)
    names = [name for name in rows_of(output)[0] if name.startswith("statistic.")]
    assert len(names) > 3
    # Nearly all of at least twenty are outliers.
    odd = [np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8) for number in range(20)]
    assert "20 of 20 images are outliers" in sweep(screen, odd, output).remarks[-1]
    assert sweep(screen, odd[:19], output).remarks == ()
    assert sweep(screen, [*odd[:19], digits[0]], output).verdicts.counts()["inlier"] == 1
    assert "19 of 20 images are outliers" in sweep(screen, [*odd[:19], digits[0]], output).remarks[-1]
    with monkeypatch.context() as patch:
        patch.setattr(type(screen.detector), "locates", False)
        with pytest.raises(InputError, match="as a whole and has no heat maps"):
            sweep(screen, folder, output, maps=tmp_path / "maps")
        assert len(sweep(screen, folder, output).verdicts) == 40
    vectors = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    of_vectors = recondite.fit(vectors, detector="pca", latent_size=2, alpha=0.1, score="error")
    with pytest.raises(InputError, match="heat maps are of images"):
        sweep(of_vectors, vectors, output, maps=tmp_path / "maps")
    assert len(sweep(of_vectors, vectors, output).verdicts) == 40


def test_a_table_on_standard_output_leaves_no_journal(screens, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    sweep(screens("pca"), folder, Path("-"))
    assert len(capsys.readouterr().out.splitlines()) == 41
    assert sorted(tmp_path.rglob("*")) == before


def test_an_image_whose_map_is_missing_is_judged_again(screens, folder, tmp_path, monkeypatch):
    screen, output, maps = screens("pca"), tmp_path / "out.csv", tmp_path / "maps"
    with monkeypatch.context() as patch:
        patch.setattr("recondite.screen.sweep.write_table", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            sweep(screen, folder, output, maps=maps)
    (maps / "odd" / "001.png.map.png").unlink()
    assert sweep(screen, folder, output, maps=maps).taken_up == 39
    assert (maps / "odd" / "001.png.map.png").is_file()


@pytest.mark.parametrize(("length", "folders"), [(_LONGEST_PATH - 1, True), (_LONGEST_PATH, False)])
def test_the_map_of_a_long_id_has_a_name_that_a_file_can_have(length, folders):
    part, end = "d" * 100, ".map.png"
    name = "/".join([part] * (length // 101)) + "/"
    name += "e" * (length - len(name) - len(end))
    found = _map_name(name)
    assert ("/" in found) == folders
    assert found.endswith(end)
    if folders:
        assert found == name + end
    else:
        assert len(found.encode()) < 256


def test_defaults():
    for function in (sweep, journalled):
        own = inspect.signature(function).parameters
        assert own["statistics"].default is own["progress"].default is False


def test_a_group_is_named_only_where_there_are_groups(screens, folder, tmp_path):
    with pytest.warns(ReconditeWarning, match="does not know which images it was fitted on"):
        grouped = replace(screens("pca"), known=None).with_alpha(0.2).recalibrated(folder, by_folder=True)
    for screen, group, said in (
        (screens("pca"), "odd", "has no groups, and 'odd' names one"),
        (grouped, "middle", r"no calibration for group 'middle'; there are: \['even', 'odd'\]"),
    ):
        with pytest.raises(InputError, match=said):
            sweep(screen, folder, tmp_path / "out.csv", group=group)
        with pytest.raises(InputError, match=said):
            next(watch_folder(screen, folder, tmp_path / "rows.csv", group=group))
        with pytest.raises(InputError, match=said):
            cluster_sweep(screen, folder, tmp_path / "parts.csv", group=group)
    assert not list(tmp_path.glob("*.csv"))
    sweep(grouped, folder, tmp_path / "out.csv", group="odd")


def test_images_of_no_group_are_not_called_unreadable(screens, digits, folder):
    with pytest.warns(ReconditeWarning, match="does not know which images it was fitted on"):
        grouped = replace(screens("pca"), known=None).with_alpha(0.2).recalibrated(folder, by_folder=True)
    with pytest.raises(
        InputError, match=r"not one outlier image could be judged; the first: .*no calibration for group"
    ):
        evaluate(grouped, folder, digits[:9])

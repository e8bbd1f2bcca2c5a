"""Audits of images that belong together in groups."""

import csv

import numpy as np
import pytest
from PIL import Image, ImageEnhance

import recondite
from recondite.audits import run
from recondite.audits.copies import Copies
from recondite.audits.groups import grouped
from recondite.audits.labels import label_findings
from recondite.cli import main
from recondite.errors import InputError


@pytest.fixture(autouse=True)
def without_backbone(monkeypatch):
    monkeypatch.setattr(run, "_backbone", lambda _images: None)


def picture(seed):
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(40, 215, (6, 6, 3), dtype=np.uint8)).resize((24, 24), Image.BICUBIC)
    return Image.fromarray(np.clip(np.asarray(coarse) + draw.normal(0, 4, (24, 24, 3)), 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Pictures of 20 parts, three each: of part 3 two are alike, of part 4 two are the same, and 5 is alike part 6."""
    folder = tmp_path_factory.mktemp("grouped") / "parts"
    folder.mkdir()
    for part in range(20):
        for number in range(3):
            picture(10 * part + number).save(folder / f"part{part:02d}_{number}.png")
    ImageEnhance.Brightness(picture(30)).enhance(0.9).save(folder / "part03_1.png")
    picture(40).save(folder / "part04_1.png")
    ImageEnhance.Brightness(picture(50)).enhance(0.9).save(folder / "part06_1.png")
    return folder


def test_near_copies_are_findings_between_groups_only_and_equal_pixels_everywhere(parts):
    found = recondite.audit(parts, group_by="prefix")
    copies = {f.id: f for f in found.findings if f.kind in ("exact-copy", "near-copy")}
    assert set(copies) == {"part04_0.png", "part04_1.png", "part05_0.png", "part06_1.png"}
    assert "part05_0.png of group 'part05'" in copies["part06_1.png"].reason
    assert "of group" not in copies["part04_1.png"].reason
    assert any("20 groups" in one and "1 pair of near copies" in one for one in found.remarks)
    plain = recondite.audit(parts)
    assert {f.id for f in plain.findings if f.kind == "near-copy"} >= {"part03_0.png", "part03_1.png"}
    assert not np.array_equal(plain.scores, found.scores)


def test_the_same_groups_by_a_pattern_a_table_and_labels_and_on_the_command_line(parts, tmp_path):
    names = sorted(path.name for path in parts.iterdir())
    expected = recondite.audit(parts, group_by=r"^part(\d+)")
    with (tmp_path / "groups.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("id", "group"), *((name, name[4:6]) for name in names)])
    assert main(["audit", str(parts), "-o", str(tmp_path / "a"), "--group-by", str(tmp_path / "groups.csv")]) == 0
    with (tmp_path / "a" / "scores.csv").open(newline="") as stream:
        scores = {row["id"]: float(row["score"]) for row in csv.DictReader(stream)}
    assert [scores[name] for name in expected.ids] == expected.scores.tolist()
    in_order = recondite.audit(parts, group_by=[name[4:6] for name in names])
    np.testing.assert_array_equal(in_order.scores, expected.scores)


def test_groups_that_fit_nothing_are_told_before_anything_is_looked_at(parts, monkeypatch, capsys):
    monkeypatch.setattr(run, "walked", None)
    assert main(["audit", str(parts), "-o", "unused", "--group-by", "lot(.)"]) == 2
    assert "tells what belongs together of no image" in capsys.readouterr().err
    with pytest.raises(InputError, match="60 images; got 2"):
        recondite.audit(parts, group_by=["a", "b"])
    with pytest.raises(InputError, match="labels of groups by id"):
        recondite.audit((np.asarray(picture(seed)) for seed in range(60)), group_by=["a"] * 60)


def test_groups_join_copies_and_one_group_of_all_is_refused():
    ids = [f"{name}_{number}.png" for name in "abc" for number in range(2)]
    pairs = np.array([[0, 1, 2], [2, 6, 3]])  # a_0 ~ b_0, a_1 ~ an image of another source, b_0 = b_1
    copies = Copies(np.zeros(7, np.intp), pairs, np.array([0.95, 0.97, 1.0]))
    groups, between = grouped(ids, ["0", "1", "2", "2", "4", "5", "6"], copies, "prefix")
    assert len(np.unique(groups.numbers[:4])) == 1
    assert groups.numbers[4] == groups.numbers[5] != groups.numbers[0]
    np.testing.assert_array_equal(between.pairs, pairs)
    with pytest.raises(InputError, match="at least two groups"):
        grouped(ids, ["0"] * 6, Copies(np.arange(6), np.zeros((2, 0), np.intp), np.zeros(0)), "folder")


def test_images_that_a_table_leaves_out_are_counted():
    copies = Copies(np.arange(4), np.zeros((2, 0), np.intp), np.zeros(0))
    by = {"a": "one", "b": "two"}
    groups, _ = grouped(["a", "b", "c", "d"], ["1", "2", "3", "4"], copies, by)
    assert "2 groups, and 2 images of none: each" in groups.in_words(by)


def test_a_class_that_is_one_group_is_not_judged():
    class Row:
        id = "x"

    draw = np.random.default_rng(0)
    places = np.concatenate([draw.standard_normal((30, 3)) + 4 * number for number in range(3)])
    labels = ["a"] * 30 + ["b"] * 30 + ["c"] * 30
    groups = np.concatenate([np.arange(60) // 15, np.full(30, 9)])
    found, remarks, own = label_findings([Row()] * 90, labels, places, groups)
    assert not [one for one in found if one.kind == "label"]
    assert np.isnan(own[60:]).all()
    assert (own[:60] > 0.5).all()
    assert any("class 'c' is one group" in one for one in remarks)

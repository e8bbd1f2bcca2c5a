"""What an audit leaves behind, and what a later one takes from it."""

import csv
import html
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import recondite
from recondite.audits import run, walk
from recondite.audits.look import look_at
from recondite.audits.maps import LARGEST, NONE, map_of
from recondite.cli import main
from recondite.data.tables import read_events
from recondite.errors import InputError


def picture(seed, side=24):
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(40, 215, (6, 6, 3), dtype=np.uint8)).resize((side, side), Image.BICUBIC)
    return Image.fromarray(np.clip(np.asarray(coarse) + draw.normal(0, 4, (side, side, 3)), 0, 255).astype(np.uint8))


def write(folder, seeds):
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        picture(seed).save(folder / f"{seed:03d}.png")
    return folder


@pytest.fixture(autouse=True)
def without_backbone(monkeypatch):
    monkeypatch.setattr(run, "_backbone", lambda _images: None)


@pytest.fixture
def looked_at(monkeypatch):
    """The images that were decoded, by name."""
    seen = []

    def look(source, *others):
        found = look_at(source, *others)
        if not found.known:
            seen.append(source.name)
        return found

    monkeypatch.setattr(walk, "look_at", look)
    return seen


def same(one, two):
    """Compare all that two audits say."""
    assert one.ids == two.ids
    assert [str(vars(finding)) for finding in one.findings] == [str(vars(finding)) for finding in two.findings]
    for name in ("scores", "p_values", "measures"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.thumbnails == two.thumbnails


def test_a_grown_set_is_audited_as_if_anew_and_only_new_files_are_decoded(tmp_path, looked_at):
    images = write(tmp_path / "images", range(60))
    (images / "junk.png").write_bytes(b"no picture")
    recondite.audit(images, tmp_path / "first")
    write(images, range(60, 70))
    picture(200).save(images / "005.png")
    shutil.move(images / "006.png", images / "moved.png")
    looked_at.clear()
    grown = recondite.audit(images, tmp_path / "second", earlier=tmp_path / "first")
    new = [f"{seed:03d}.png" for seed in range(60, 70)]
    assert sorted(looked_at) == ["005.png", *new, "junk.png"]
    same(grown, recondite.audit(images, tmp_path / "third"))
    looked_at.clear()
    recondite.audit(images, tmp_path / "fourth", earlier=tmp_path / "second")
    assert looked_at == ["junk.png"]


def test_an_earlier_audit_that_is_none_is_told(tmp_path):
    write(tmp_path / "images", range(3))
    with pytest.raises(InputError, match="no finished audit"):
        recondite.audit(tmp_path / "images", earlier=tmp_path)


def test_an_audit_interrupted_while_it_wrote_goes_on(tmp_path, monkeypatch):
    images = write(tmp_path / "images", range(60))
    with monkeypatch.context() as patch:
        patch.setattr("recondite.audits.outputs.write_audit_report", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            recondite.audit(images, tmp_path / "the audit")
    assert (tmp_path / "the audit" / "keep.txt").exists()
    same(recondite.audit(images, tmp_path / "the audit"), recondite.audit(images, tmp_path / "other"))
    page = html.unescape((tmp_path / "the audit" / "report.html").read_text())
    assert f"recondite fit '{tmp_path / 'the audit' / 'keep.txt'}' -o" in page
    for name in ("issues.csv", "scores.csv"):
        assert (tmp_path / "the audit" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    (tmp_path / "foreign").mkdir()
    shutil.copytree(tmp_path / "the audit" / "seen", tmp_path / "foreign" / ".work")
    (tmp_path / "foreign" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match=r"mine\.txt"):
        recondite.audit(images, tmp_path / "foreign")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_tables_in_another_format_say_the_same(tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    images = write(tmp_path / "images", range(60))
    picture(3).save(images / "again.png")
    assert main(["audit", str(images), "-o", str(tmp_path / "audit"), "--table", kind]) == 0
    for name in ("issues", "scores"):
        rows = list(read_events(tmp_path / "audit" / f"{name}.{kind}"))
        with (tmp_path / "audit" / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
            plain = list(csv.DictReader(stream))
        assert [row["id"] for row in rows] == [row["id"] for row in plain]
        numbers = [row["score"] for row in rows]
        np.testing.assert_allclose(np.array(numbers, float), [float(row["score"]) for row in plain])
    assert f"issues.{kind}" in (tmp_path / "audit" / "report.html").read_text(encoding="utf-8")


def test_the_page_has_what_its_script_needs(tmp_path):
    images = write(tmp_path / "a <b>" / "images", range(60))
    picture(3).save(images / "again.png")
    found = recondite.audit(images, tmp_path / "audit")
    page = (tmp_path / "audit" / "report.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="points">(.*?)</script>', page, flags=re.DOTALL)[1])
    assert sorted(point[4] for point in data["points"]) == sorted(found.ids)
    colours = {point[4]: data["words"][point[2]] for point in data["points"]}
    assert colours["003.png"] == colours["again.png"] == "copy or leak"
    assert all(0 <= value <= 1 for point in data["points"] for value in point[:2])
    assert tuple(data["pictured"]) == found.map.pictured
    with_figures = {int(index) for index in re.findall(r'<figure data-index="(\d+)"', page)}
    assert {int(index) for index in data["pictures"]} == set(found.map.pictured) - with_figures
    figures = re.findall(r'<figure data-index="(\d+)" data-drop="(\w+)"', page)
    assert [(int(index), drop) for index, drop in figures] == [
        (finding.index, "drop" if finding.drop else "keep") for finding in found.findings
    ]
    for severity in ("severe", "moderate", "minor"):
        assert (f'data-severity="{severity}"' in page) == any(f.severity == severity for f in found.findings)
    assert "<b>" not in re.search(r'<p class="soft lead">.*?</p>', page, flags=re.DOTALL)[0]


def test_a_map_of_too_many_keeps_all_that_were_found(monkeypatch):
    monkeypatch.setattr("recondite.audits.maps.LARGEST", 20)
    places = np.random.default_rng(0).standard_normal((100, 3))
    flagged = [recondite.audits.findings.Finding(index, str(index), "outlier", 0.0, "") for index in (3, 50, 201)]
    drawn = map_of(places, np.arange(0, 300, 3), tuple(flagged))
    assert len(drawn.indices) == 20 < LARGEST
    assert {3, 201} <= set(drawn.indices.tolist())
    assert [c for i, c in zip(drawn.indices, drawn.colours, strict=True) if i in (3, 201)] == ["outlier"] * 2
    assert drawn.colours.count(NONE) == 18

"""Manifests in JSON lines: read as others write them, written so that others and we can read them."""

import base64
import json
import os

import numpy as np
import pytest
from PIL import Image

from recondite.cli import main
from recondite.data.datasets import open_images
from recondite.data.remote import NamedFile
from recondite.errors import InputError
from recondite.screen.sweep import sweep


def write(path, lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def ground_truth(address, name):
    """A line as Lookout for Vision writes it."""
    facts = {"class-name": name, "type": "groundtruth/image-classification", "human-annotated": "yes"}
    return {"source-ref": address, "anomaly-label": int(name != "normal"), "anomaly-label-metadata": facts}


LINES = [
    ground_truth("even/000.png", "normal"),
    {"imageGcsUri": "even/000.png", "classificationAnnotation": {"displayName": "normal"}},
    {"image_url": "even/000.png", "label": "normal"},
    {"file_name": "even/000.png", "label": "normal"},
    {"data": {"image": "even/000.png"}, "annotations": [{"result": [{"value": {"choices": ["normal"]}}]}]},
    {"data_row": {"row_data": "even/000.png"}, "label": "normal"},
    {"image": "even/000.png", "label": "normal", "answer": "accept"},
]


@pytest.mark.parametrize("line", LINES)
def test_a_manifest_is_read_as_its_tool_writes_it(screens, folder, line):
    images = open_images(write(folder / "list.jsonl", [line]))
    assert images.labels == ["normal"]
    expected = screens("pca").predict(folder / "even" / "000.png").instance_score
    np.testing.assert_array_equal(screens("pca").predict(images).instance_score, expected)


def test_a_manifest_of_a_folder_has_its_ids_labels_and_scores(screens, folder, tmp_path):
    found = open_images(folder)
    lines = [{"path": str(folder / name), "label": label} for name, label in zip(found.ids, found.labels, strict=True)]
    manifest = write(tmp_path / "all.manifest", lines)
    listed = open_images(manifest)
    assert listed.ids == found.ids
    assert listed.labels == found.labels
    screen = screens("pca")
    np.testing.assert_array_equal(screen.predict(manifest).instance_score, screen.predict(folder).instance_score)
    assert open_images([str(manifest)]).ids == found.ids


def test_a_missing_image_costs_one_row_and_a_data_uri_is_an_image(screens, folder, tmp_path):
    content = base64.b64encode((folder / "odd" / "001.png").read_bytes()).decode()
    lines = ["\ufeff" + json.dumps({"image": "nothing.png"}), "", {"image": f"data:image/png;base64,{content}"}]
    lines += [{"image": "data:image/png;base64,%%"}, {"image": str(folder / "odd" / "001.png")}]
    verdicts = screens("pca").predict(write(tmp_path / "list.ndjson", lines))
    assert [error is None for error in verdicts.errors] == [False, True, False, True]
    assert verdicts.instance_score[1] == verdicts.instance_score[3]
    assert "No such file" in verdicts.errors[0]
    assert "base64" in verdicts.errors[2]


def test_to_fit_only_normal_images_count_and_each_once(tmp_path, caplog):
    lines = [
        ground_truth(f"images/odd/{index:03d}.png", "anomaly" if index > 20 else "normal") for index in range(1, 40, 2)
    ]
    manifest = write(tmp_path / "train.manifest", [*lines, lines[0]])  # no image is opened, or there
    assert open_images(manifest).size == 21
    assert open_images(manifest, role="fit").size == 10
    assert open_images(manifest, role="inliers").size == 11
    assert open_images(manifest, role="outliers").size == 10
    assert "left out: labelled anomaly" in caplog.text
    other = write(tmp_path / "pets.jsonl", [{"image": "images/odd/001.png", "label": "cat"}])
    assert open_images(other, role="fit").size == 1


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["{"], "line 1: not JSON"),
        ([{"image": "a.png"}, [1]], "line 2: expected a JSON object"),
        ([{"image": "a.png"}, {"id": 3}], "line 2: names no image"),
        (["[" * 100_000], "not JSON"),
        ([""], "no images"),
    ],
)
def test_what_is_no_manifest_is_refused_by_its_line(tmp_path, lines, words):
    with pytest.raises(InputError, match=words):
        open_images(write(tmp_path / "list.jsonl", lines))


def test_addresses_of_stores_are_not_listed_and_relative_ones_are_beside_the_manifest(folder):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/shop/a/1.png", (folder / "even" / "000.png").read_bytes())
    memory.pipe("/shop/list.jsonl", b'{"source-ref": "memory://shop/a/1.png"}\n{"source-ref": "b/2.png"}\n')
    images = open_images("memory://shop/list.jsonl")
    assert images.ids == ["a/1.png", "b/2.png"]
    first = images.entry(0)[0]
    assert isinstance(first, NamedFile)
    assert first.fetch() == (folder / "even" / "000.png").read_bytes()
    with pytest.raises(InputError, match="No such file"):
        images.entry(1)[0].fetch()


def test_verdicts_are_exported_and_read_back(screens, folder, tmp_path):
    (folder / "odd" / "001.png").write_bytes(b"text")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(folder / "even" / "ramp.png")
    manifest = tmp_path / "verdicts.manifest"
    result = sweep(screens("pca"), folder, tmp_path / "out.csv", manifest=manifest)
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [line["source-ref"] for line in lines] == [str(folder / name) for name in result.verdicts.ids]
    for line, word in zip(lines, result.verdicts.words, strict=True):
        facts = line["anomaly-label-metadata"]
        if word == "invalid":
            assert "anomaly-label" not in line
            assert facts["failure-reason"]
        else:
            assert line["anomaly-label"] == int(word == "outlier")
            assert facts["class-name"] == {"outlier": "anomaly", "inlier": "normal"}[word]
        assert facts["human-annotated"] == "no"
        assert facts["job-name"] == f"recondite/{screens('pca').fingerprint()[:12]}"
    assert [line["recondite"] for line in lines] == list(result.verdicts.records())
    again = open_images(manifest)
    assert again.ids == list(result.verdicts.ids)
    assert again.labels == [{"outlier": "anomaly", "inlier": "normal", "invalid": ""}[w] for w in result.verdicts.words]


def test_a_name_that_is_no_text_is_written_and_read_back(screens, tmp_path, digits):
    images, manifest = tmp_path / "images", tmp_path / "verdicts.jsonl"
    images.mkdir()
    Image.fromarray(digits[0]).save(os.fsdecode(os.fsencode(images) + b"/caf\xe9\n.png"))
    verdicts = sweep(screens("pca"), images, tmp_path / "out.csv", manifest=manifest).verdicts
    assert verdicts.ids == ("caf\\xe9\n.png",)
    again = screens("pca").predict(manifest)
    assert again.ids == verdicts.ids
    np.testing.assert_array_equal(again.instance_score, verdicts.instance_score)


def test_half_a_character_costs_one_row(screens, folder):
    (folder / "list.jsonl").write_text('{"image": "a\\ud83d.png"}\n{"image": "even/000.png"}\n')
    for table in ("out.csv", "out.jsonl"):
        verdicts = sweep(screens("pca"), folder / "list.jsonl", folder / table).verdicts
        assert verdicts.words == ["invalid", "inlier"]
        assert verdicts.ids[0] == "a\\ud83d.png"


def test_a_manifest_is_refused_where_images_have_no_names(screens, folder, tmp_path, digits):
    with pytest.raises(InputError, match="these have none"):
        sweep(screens("pca"), digits[:5], tmp_path / "out.csv", manifest=tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="expected a manifest"):
        sweep(screens("pca"), folder, tmp_path / "out.csv", manifest=tmp_path / "a.csv")
    source = write(tmp_path / "a.jsonl", [{"image": str(folder / "even" / "000.png")}])
    with pytest.raises(InputError, match="is what is read"):
        sweep(screens("pca"), source, tmp_path / "out.csv", manifest=source)


def test_the_command_takes_and_writes_manifests(digit_screen, folder, tmp_path, capsys):
    source = write(folder / "list.jsonl", [{"file_name": "even/000.png"}, {"file_name": "odd/001.png"}])
    flags = ["-o", str(tmp_path / "out.csv"), "--manifest", str(tmp_path / "out.manifest")]
    assert main(["predict", str(digit_screen), str(source), *flags]) == 0, capsys.readouterr().err
    assert len((tmp_path / "out.manifest").read_text().splitlines()) == 2

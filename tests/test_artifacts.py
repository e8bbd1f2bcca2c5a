import json
import shutil

import numpy as np
import pytest

import recondite
from recondite import ArtifactError
from recondite.data.artifacts import MANIFEST, digest_of
from recondite.screen.saved import region_of


@pytest.fixture
def saved(screens, tmp_path):
    path = tmp_path / "screen"
    screens("vae").save(path)
    return path


def edit(path, change):
    """Change the manifest and make its digest right again, as a forger would."""
    manifest = json.loads((path / MANIFEST).read_text())
    change(manifest)
    manifest["digest"] = digest_of(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


def test_the_folder_holds_json_and_safetensors_only(saved):
    assert sorted(file.name for file in saved.iterdir()) == [
        "calibration.safetensors",
        "detector.safetensors",
        "evidence.safetensors",
        "known.safetensors",
        "losses.safetensors",
        MANIFEST,
        "pictures.safetensors",
    ]
    manifest = json.loads((saved / MANIFEST).read_text())
    assert manifest["schema"] == 2
    tensors = ("calibration", "detector", "evidence", "known", "losses", "pictures")
    assert set(manifest["files"]) == {f"{name}.safetensors" for name in tensors}
    assert manifest["facts"]["images"]["fingerprint"]
    assert manifest["versions"]["torch"]


@pytest.mark.parametrize("name", ["detector.safetensors", "calibration.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "extend"])
def test_damaged_tensors_are_refused(saved, name, damage):
    file = saved / name
    content = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    else:
        content[-3] ^= 1
        shorter = bytes(content[:-5])
        file.write_bytes({"flip": bytes(content), "truncate": shorter, "extend": bytes(content) + b"x"}[damage])
    with pytest.raises(ArtifactError, match=name):
        recondite.load(saved)


def test_an_edited_manifest_is_refused(saved):
    text = (saved / MANIFEST).read_text()
    (saved / MANIFEST).write_text(text.replace('"alpha": 0.05', '"alpha": 0.5'))
    with pytest.raises(ArtifactError, match="altered"):
        recondite.load(saved)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"files": []}', "\x00", '{"files":' + "[" * 100_000])
def test_manifests_that_are_none_are_refused(saved, content):
    (saved / MANIFEST).write_text(content)
    with pytest.raises(ArtifactError):
        recondite.load(saved)


def changed(**values):
    return lambda manifest: manifest.update(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed(schema=1), "has schema 1; this version reads 2"),
        (changed(kind="something"), "expected 'recondite screen'"),
        (changed(detector="gan"), "not a consistent screen"),
        (changed(detector=["vae"]), "not a consistent screen"),
        (changed(options={"latent_size": 60_000, "width": 1000}), "should be"),
        (changed(options={"latent_size": -1}), "not a consistent screen"),
        (changed(options={"hidden": 1}), "not a consistent screen"),
        (changed(preprocessing={"shape": [1, 10**9, 8]}), "not a consistent screen"),
        (changed(preprocessing={"shape": "abc"}), "not a consistent screen"),
        (changed(alpha=7), "not a consistent screen"),
        (changed(alpha="0.05"), "not a consistent screen"),
        (changed(score="nonsense"), "not a consistent screen"),
        (changed(score=["auto"]), "not a consistent screen"),
        (changed(evidence=None), "not a consistent screen"),
        (changed(evidence={"statistics": []}), "not a consistent screen"),
        (lambda m: m["evidence"]["statistics"].pop(), "not a consistent screen"),
        (lambda m: m["evidence"]["statistics"].__setitem__(0, "made up"), "not a consistent screen"),
        (lambda m: m["evidence"].update(classifier_share="all"), "not a consistent screen"),
        (lambda m: m["evidence"].update(weights=[1.0]), "not a consistent screen"),
        (changed(groups=["a"]), "not a consistent screen"),
        (changed(history={"epoch": []}), "not a consistent screen"),
        (changed(history={"epochs": [], "best_epoch": 3}), "not a consistent screen"),
        (changed(history={"epochs": [], "best_epoch": -1}), "not a consistent screen"),
        (changed(history={"epochs": [{"epoch": 1}], "best_epoch": 1}), "not a consistent screen"),
        (changed(facts=[]), "not a consistent screen"),
        (changed(facts="\ud800"), "not a consistent screen"),
        (lambda m: m.pop("facts"), "not a consistent screen"),
        (lambda m: m["files"].update({"../escape": {"sha256": "", "bytes": 0}}), "outside its folder"),
        (lambda m: m["files"].update({"/etc/passwd": {"sha256": "", "bytes": 0}}), "outside its folder"),
        (lambda m: m["files"].update({"a\\b": {"sha256": "", "bytes": 0}}), "outside its folder"),
        (lambda m: m["files"].pop("detector.safetensors"), "not a consistent screen"),
        (lambda m: m["files"].update({"detector.safetensors": 3}), "is not a manifest"),
    ],
)
def test_forged_manifests_are_refused(saved, change, words):
    edit(saved, change)
    with pytest.raises(ArtifactError, match=words):
        recondite.load(saved)


@pytest.mark.parametrize("region", [np.full((4, 4), 2, np.uint8), np.ones(16, np.uint8), np.ones((4, 4), np.int32)])
def test_a_region_is_a_mask_of_0_and_1(region):
    seen = {"region": {"share": 0.5}}
    np.testing.assert_array_equal(region_of({"region": np.eye(4, dtype=np.uint8)}, seen), np.eye(4) == 1)
    assert region_of({}, {}) is None
    with pytest.raises(ValueError, match="a region of"):
        region_of({"region": region}, seen)


def test_a_history_without_epochs_is_one(saved):
    edit(saved, changed(history={"epochs": [], "best_epoch": 0}))
    assert recondite.load(saved).detector.history.best_epoch == 0


def test_links_out_of_the_folder_are_refused(saved, tmp_path):
    shutil.move(saved / "detector.safetensors", tmp_path / "elsewhere")
    (saved / "detector.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="outside its folder"):
        recondite.load(saved)


def test_reading_deletes_and_moves_nothing(saved):
    other = saved.with_name(".screen.old")
    other.mkdir()
    (other / "mine").write_text("mine")
    recondite.load(saved)
    assert (other / "mine").read_text() == "mine"


def test_the_folder_one_stands_in_is_a_screen_too(saved, monkeypatch):
    monkeypatch.chdir(saved)
    assert recondite.load(".").alpha == 0.05


def test_a_folder_that_is_not_a_screen_is_never_overwritten(screens, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("dear")
    (tmp_path / "file").write_text("dear")
    for name in ("photos", "file"):
        with pytest.raises(ArtifactError, match="is not a screen; it is left alone"):
            screens("pca").save(tmp_path / name)
    assert (tmp_path / "photos" / "holiday.jpg").read_text() == "dear"
    with pytest.raises(ArtifactError, match="has no manifest"):
        recondite.load(tmp_path / "photos")


def test_a_crash_while_saving_leaves_the_old_screen_whole(saved, screens, monkeypatch, digits):
    before = recondite.load(saved).predict(digits[:50]).instance_score
    monkeypatch.setattr(
        "recondite.data.artifacts.json.dumps", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        screens("pca").save(saved)
    monkeypatch.undo()
    np.testing.assert_array_equal(recondite.load(saved).predict(digits[:50]).instance_score, before)
    assert [path.name for path in saved.parent.iterdir()] == ["screen"]


def test_groups_survive(digits, tmp_path):
    labels = ["left" if index % 2 else "right" for index in range(400)]
    pairs = list(zip(digits[:400], labels, strict=True))
    screen = recondite.fit(pairs, detector="pca", latent_size=4, alpha=0.1, by_folder=True)
    screen.save(tmp_path / "grouped")
    again = recondite.load(tmp_path / "grouped")
    assert again.thresholds == screen.thresholds
    assert set(again.thresholds) == {"left", "right"}

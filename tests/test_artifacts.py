import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import recondite
from recondite import ArtifactError, InputError
from recondite.data.artifacts import MANIFEST, digest_of
from recondite.data.images import Preprocessing
from recondite.detectors import build
from recondite.screen import saved as saved_file
from recondite.screen import saved_detectors
from recondite.screen.saved import CALIBRATION_FILE, DETECTOR_FILE, region_of
from recondite.statistics.calibration import Calibrator
from recondite.training.history import History
from recondite.training.snapshots import EpochPictures


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


@pytest.fixture(scope="module")
def of_vectors():
    vectors = np.random.default_rng(0).normal(size=(160, 9)).astype(np.float32)
    return recondite.fit(vectors[:100], detector="pca", latent_size=2, alpha=0.1, evidence=vectors[100:])


def test_a_folder_holds_what_a_screen_has_and_nothing_else(of_vectors, tmp_path):
    plain = replace(of_vectors.with_score("error"), evidence=None, observations={}, peaks=None, known=None)
    plain.detector.history.losses, plain.detector.memory, plain.detector.history.pictures = {}, {}, None

    def saved_again(screen):
        path = tmp_path / "screen"
        screen.save(path)
        return {file.stem for file in path.iterdir()}, recondite.load(path)

    least = {"calibration", "detector", "manifest"}
    files, again = saved_again(plain)
    assert files == least
    assert (again.evidence, again.known, again.peaks, again.calibrator.groups) == (None, None, None, None)
    assert (again.detector.history.losses, again.detector.memory, again.detector.history.pictures) == ({}, {}, None)
    files, again = saved_again(replace(plain, peaks=np.arange(float(len(plain.calibrator.scores)))))
    assert files == least
    np.testing.assert_array_equal(again.peaks, np.arange(len(plain.calibrator.scores)))
    groups = ("b", "a") * (len(plain.calibrator.scores) // 2)
    grouped = Calibrator(plain.calibrator.scores[: len(groups)], groups)
    assert saved_again(replace(plain, calibrator=grouped, alpha=0.2))[1].calibrator.groups == groups
    files, again = saved_again(replace(plain, known=of_vectors.known))
    assert files == {*least, "known"}
    assert again.known.tensors().keys() == of_vectors.known.tensors().keys()
    files, again = saved_again(replace(plain, evidence=of_vectors.evidence, observations=of_vectors.observations))
    assert files == {*least, "evidence"}
    assert again.evidence.density.names == of_vectors.evidence.density.names
    plain.detector.history.losses = {"loss_all": np.array([2.0, 1.0])}
    plain.detector.memory = {"kept": np.array([3.0])}
    plain.detector.history.pictures = EpochPictures(
        np.zeros((1, 1, 2, 2), np.uint8), [0], [np.ones((1, 1, 2, 2), np.uint8)]
    )
    files, again = saved_again(plain)
    assert files == {*least, "losses", "memory", "pictures"}
    assert again.detector.history.losses["loss_all"].tolist() == [2, 1]
    assert again.detector.memory["kept"].tolist() == [3]
    assert again.detector.history.pictures.epochs == [0]


@pytest.mark.parametrize("given", ["encoder", "decoder", "backbone"])
def test_a_network_of_ones_own_must_be_given_again(given):
    with pytest.raises(InputError, match="made with your own networks"):
        saved_detectors.read_fitted(Path("screen"), {"own_modules": True}, {})
    with pytest.raises(ArtifactError, match="not a consistent screen"):
        saved_detectors.read_fitted(Path("screen"), {"own_modules": True, "options": "?"}, {}, **{given: object()})


@pytest.mark.parametrize("classifier", [None, object()])
def test_a_classifier_must_be_given_again(classifier):
    error, words = (
        (InputError, "load it with classifier=") if classifier is None else (ArtifactError, "not a consistent")
    )
    with pytest.raises(error, match=words):
        saved_detectors.read_fitted(Path("screen"), {"evidence": {"classifier": True}}, {}, classifier=classifier)


@pytest.mark.parametrize("backbone", [None, "given"])
def test_a_backbone_that_is_given_goes_before_the_one_that_is_named(backbone, monkeypatch):
    looked = []

    def build(_, *, backbone, **options):
        looked.append((backbone, options["side"]))
        raise ValueError("enough")

    monkeypatch.setattr(saved_detectors, "build", build)
    manifest = {
        "own_modules": True,
        "options": {"backbone": "named", "side": 32},
        "preprocessing": Preprocessing(shape=(1, 8, 8)).to_json(),
        "detector": "features",
    }
    with pytest.raises(ArtifactError, match="enough"):
        saved_detectors.read_fitted(
            Path("screen"), manifest, {DETECTOR_FILE: {}, CALIBRATION_FILE: {}}, encoder=object(), backbone=backbone
        )
    assert looked == [(backbone or "named", 32)]


VALIDATED = {"epoch": 1, "validation": None}


@pytest.mark.parametrize(
    ("epochs", "best", "fine"),
    [
        ([VALIDATED], 1.0, False),
        ([VALIDATED], True, False),
        ([VALIDATED | {"validation": "low"}], 1, False),
        ([VALIDATED | {"loss_all": 1.0}, VALIDATED], 1, False),
        (["epoch"], 1, False),
        ("epochs", 1, False),
        ([], 0, True),
        ([], 1, False),
        ([VALIDATED] * 2, 0, True),
        ([VALIDATED] * 2, 2, True),
        ([VALIDATED] * 2, 3, False),
        ([VALIDATED] * 2, -1, False),
        ([VALIDATED, {"epoch": 2}], 1, False),
    ],
)
def test_the_best_epoch_is_one_of_those_told(epochs, best, fine):
    if fine:
        assert History.from_json({"epochs": epochs, "best_epoch": best}).best_epoch == best
    else:
        with pytest.raises(ValueError, match="history of training is inconsistent"):
            History.from_json({"epochs": epochs, "best_epoch": best})


def test_losses_and_statistics_have_the_form_that_they_were_saved_in():
    fine = {"loss_all": np.zeros(3), "validation": np.zeros(3)}
    assert saved_detectors._losses(fine) is fine
    for odd in (np.zeros((3, 1)), np.zeros(3, np.float32)):
        with pytest.raises(ValueError, match="losses of training are inconsistent"):
            saved_detectors._losses(fine | {"validation": odd})
    evidence = SimpleNamespace(density=SimpleNamespace(names=("mean",)))
    calibration = {"scores": np.zeros(3), "groups": np.zeros(1), "peaks": np.zeros(1), "error": np.ones(3)}
    found = saved_detectors._observations(calibration | {"mean": np.ones(3)}, evidence)
    assert found.keys() == {"error", "mean"}
    for odd in (np.ones(2), np.ones(3, np.float32), np.ones((3, 1))):
        with pytest.raises(ValueError, match=r"mean of shape .*; expected \(3\), float64"):
            saved_detectors._observations(calibration | {"mean": odd}, evidence)
    with pytest.raises(ValueError, match="lack mean"):
        saved_detectors._observations(calibration, evidence)


def test_weights_are_those_of_the_network_that_the_options_describe():
    weights = build("pca", image_shape=(9,), latent_size=2).state_dict()
    name = next(name for name, value in weights.items() if value.ndim == 2)

    def check(changed):
        saved_detectors._check_weights(changed, "pca", (9,), {"latent_size": 2})

    check(weights)
    check(weights | {"region": weights[name]})
    for odd in (weights[name][1:], weights[name].half()):
        with pytest.raises(ValueError, match=f"tensor '{name}' should be"):
            check(weights | {name: odd})
    with pytest.raises(ValueError, match=f"tensor '{name}' should be"):
        check({one: value for one, value in weights.items() if one != name})
    with pytest.raises(ValueError, match=f"{len(weights) + 1} tensors instead of {len(weights)}"):
        check(weights | {"more": weights[name]})


class Running:
    """Takes the place of a graph that runs."""

    def __init__(self, *given):
        self.given = given


@pytest.mark.parametrize("guard", [None, {"classes": ["red", "blue"], "rules": ["knn"]}])
def test_what_runs_on_a_graph_is_read_from_files_that_its_manifest_lists(guard, tmp_path, monkeypatch):
    monkeypatch.setattr(saved_file, "Exported", Running)
    (tmp_path / "model.onnx").write_bytes(b"a graph")
    manifest = {
        **{"preprocessing": Preprocessing(shape=(1, 8, 8)).to_json(), "detector": "pca", "score": "error"},
        **{"files": {"model.onnx": "digest"}, "pixels": "uint8", "locates": 1, "facts": {"a": 1}},
        **{"alpha": 0.1, "confidence": None, "guarantee": "exact"},
        **({} if guard is None else {"guard": guard}),
    }
    files = {CALIBRATION_FILE: {"scores": np.arange(20.0)}}
    found = saved_file.read_exported(tmp_path, manifest, files)
    shape, options, content, pixels, locates, region, value_range, classes, rules = found["detector"].given
    assert (shape, content, pixels, locates, region, value_range) == (
        (1, 8, 8),
        [b"a graph"],
        "uint8",
        True,
        None,
        None,
    )
    assert (options.runtime, options.precision, options.batch) == ("onnx", "float32", 32)  # as before there were others
    assert (classes, rules) == ((0, ()) if guard is None else (2, ("knn",)))
    assert (found["alpha"], found["facts"]) == (0.1, {"a": 1})
    with pytest.raises(ArtifactError, match=r"lacks model\.onnx"):
        saved_file.read_exported(tmp_path, {**manifest, "files": {}}, files)

"""Screens that someone forged, every digest right again, are refused when they are loaded, and not while they judge."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from forging import assert_refused, forge
from safetensors.numpy import save_file

import recondite
from recondite import ArtifactError, Calibrator, InputError
from recondite.data.artifacts import MANIFEST, check_finite, digest_of, finite_json, read_tensors, tensor_of
from recondite.reports.drift import _read_state
from recondite.screen.described import described
from recondite.screen.facts import checked_facts
from recondite.screen.head_pass import HeadPass
from recondite.screen.linear_head import from_tensors


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The content of the files of a screen that judges by evidence: name -> bytes."""
    vectors = np.random.default_rng(0).normal(size=(160, 9)).astype(np.float32)
    screen = recondite.fit(vectors[:100], detector="pca", latent_size=2, alpha=0.1, evidence=vectors[100:])
    folder = tmp_path_factory.mktemp("whole") / "screen"
    screen.save(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def path(whole, tmp_path):
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


FACTS = {
    "sample": [{"a": 1}, "x", {"images": 1, "in_colour": 0, "height": [8, 8], "width": [8, 8, 8]}],
    "images": [None, [], {"images": "many"}, {"images": -1}],
    "calibration": [None, 5, {"no_promise": 3}, {"left_out_as_suspect": {"": "few"}}, {"left_out_in_parts": 0.5}],
    "known_defects": [None, {}, {"images": 3, "known": [0.5], "unseen": [0.5, 0.6]}],
    "units": [{"images": 3}, {"images": 3, "units": None, "largest": 1}],
    "unreadable": [None, {"count": "none"}, {"count": 1, "first": [["name"]]}],
    "contamination": [[], {"suspects": [1]}],
    "training": [None, []],
    "map_scale": [[0.0], ["a", "b"], 3],
    "version": [None, "two"],
    "versions": [None, [3]],
    "remarks": [None, [1]],
    "chosen": [5],
    "bfloat16 probe": [[0.5], "x", [0.5, 0.5, 0.5, None]],
}


def test_facts_that_are_read_again_have_the_form_in_which_they_were_written():
    assert checked_facts({"made": {"by": "hand"}, "sample": None}) == {"made": {"by": "hand"}, "sample": None}
    for name, values in FACTS.items():
        for value in values:
            with pytest.raises(ValueError, match=name):
                checked_facts({name: value})


def test_a_screen_with_forged_facts_is_neither_loaded_nor_described(path):
    whole_size = {"images": 50, "in_colour": 0, "height": [8, 8, 8], "width": [8, 8, 8]}
    forge(path, lambda manifest: manifest["facts"].update(sample=whole_size))
    recondite.load(path)
    for height in ([8, -8, 8], [8, 8], "888"):
        forge(path, lambda manifest, found=height: manifest["facts"].update(sample=whole_size | {"height": found}))
        assert_refused(path)
        with pytest.raises(ArtifactError, match="not a consistent"):
            described(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.update(evidence="xxx"),
        lambda manifest: manifest.update(evidence=[1]),
        lambda manifest: manifest["evidence"].update(classifier_share=5),
        lambda manifest: manifest["evidence"].update(classifier_share=-0.5),
        lambda manifest: manifest["evidence"]["statistics"].__setitem__(0, "reencoding"),
        lambda manifest: manifest.update(groups={"0": "a"}),
        lambda manifest: manifest.update(history={"epochs": [{"epoch": 1, "validation": "low"}], "best_epoch": 1}),
    ],
)
def test_forged_parts_of_a_manifest_are_refused(change, path):
    forge(path, change)
    assert_refused(path)


def test_statistics_that_a_detector_does_not_give_are_told_in_words(path):
    numbers, _ = read_tensors(path / "calibration.safetensors")
    numbers["made_up"] = numbers.pop("variance")
    save_file(numbers, path / "calibration.safetensors")

    def change(manifest):
        names = manifest["evidence"]["statistics"]
        names[names.index("variance")] = "made_up"

    forge(path, change)
    with pytest.raises(ArtifactError, match="does not give made_up"):
        recondite.load(path).predict(np.zeros((1, 9), np.float32))


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("detector", ["components", "mean", "scale"]),
        ("evidence", ["latents.bank", "latents.whitening", "density.knots", "density.precision", "error.knots"]),
        ("calibration", ["scores", "error", "peaks"]),
    ],
)
def test_tensors_of_another_type_or_without_numbers_are_refused(name, tensors, path):
    file = path / f"{name}.safetensors"
    whole, _ = read_tensors(file)
    for tensor in tensors:
        values = whole[tensor]
        broken = [values.astype(np.int32), values.astype(np.float16)]
        broken += [np.full_like(values, number) for number in (np.nan, np.inf)]
        broken += [values[:0], values[None]] if values.ndim else []
        for odd in broken:
            save_file(whole | {tensor: odd}, file)
            forge(path)
            assert_refused(path, "not a consistent|not finite")


def test_latents_are_as_long_as_those_of_the_detector(path):
    whole, _ = read_tensors(path / "evidence.safetensors")
    assert whole["latents.mean"].shape == (2,)
    sides = {"latents.mean": (3,), "latents.whitening": (3, 3), "latents.bank": (5, 3)}
    save_file(
        whole | {name: np.ones(shape, np.float32) for name, shape in sides.items()}, path / "evidence.safetensors"
    )
    forge(path)
    assert_refused(path, "distances of 3 numbers, and latents of 2")
    save_file({name: value for name, value in whole.items() if name not in sides}, path / "evidence.safetensors")
    forge(path)
    assert_refused(path, "statistics that it does not find")


def test_a_detector_that_is_not_fitted_is_refused(path):
    whole, _ = read_tensors(path / "detector.safetensors")
    save_file(whole | {"fitted": np.array(False)}, path / "detector.safetensors")
    forge(path)
    assert_refused(path, "not fitted")


@pytest.mark.parametrize("codes", [[-1, 0], [0, 2], [0.0, 1.0]])
def test_groups_of_calibration_images_are_among_those_named(codes, path):
    whole, _ = read_tensors(path / "calibration.safetensors")
    kind = np.int64 if isinstance(codes[0], int) else np.float64
    groups = np.resize(np.array(codes, dtype=kind), len(whole["scores"]))
    save_file(whole | {"groups": groups}, path / "calibration.safetensors")
    forge(path, lambda manifest: manifest.update(groups=["a", "b"], alpha=0.4))
    assert_refused(path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400])
def test_numbers_that_json_does_not_have_are_refused(number, path):
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["facts"]["mine"] = float(number) if len(number) < 10 else int(number)
    manifest["digest"] = digest_of(manifest)
    text = json.dumps(manifest)
    (path / MANIFEST).write_text(text if number in text else text.replace("Infinity", "1e999"))
    assert_refused(path, "expected finite numbers")
    with pytest.raises(ValueError, match="expected finite numbers"):
        finite_json(f"[0, {number}]")


def test_numbers_that_json_has_are_read_as_they_are():
    assert finite_json('{"a": [1, -2.5e3, 9007199254740993, true, null, "NaN"]}') == {
        "a": [1, -2500, 9007199254740993, True, None, "NaN"]
    }


def test_a_tensor_is_asked_for_by_type_and_shape(tmp_path):
    tensors = {"a": np.ones((2, 3), np.float32), "empty": np.ones((0, 3), np.float32)}
    assert tensor_of(tensors, "a", np.float32, None, 3) is tensors["a"]
    for wanted in ((np.float64, None, 3), (np.float32, None), (np.float32, 3, None), (np.float32, None, 3, None)):
        with pytest.raises(ValueError, match=r"a of shape \(2, 3\), float32; expected"):
            tensor_of(tensors, "a", *wanted)
    with pytest.raises(ValueError, match=r"expected \(any, 3\), float32"):
        tensor_of(tensors, "empty", np.float32, None, 3)
    check_finite(tensors | {"whole": np.arange(3)}, tmp_path)
    with pytest.raises(ArtifactError, match="'b' has numbers that are not finite"):
        check_finite(tensors | {"b": np.array([0.0, np.nan])}, tmp_path)


def test_the_state_of_a_monitor_has_finite_numbers(tmp_path):
    (tmp_path / "state.json").write_text('{"kind": "recondite monitor", "largest": NaN}')
    with pytest.raises(InputError, match="is not the state of a monitor: expected finite numbers; got NaN"):
        _read_state(tmp_path / "state.json")


def test_a_head_and_rules_are_of_the_same_features():
    shapes = {"bank": (5, 3), "means": (2, 3), "whitening": (3, 3), "origin": (3,), "principal": (3, 1), "scale": ()}
    saved = {f"rules.{name}": np.ones(shape, np.float32) for name, shape in shapes.items()}
    _, rules = from_tensors(saved)
    with pytest.raises(InputError, match="rules of 3 features; the classifier has 4"):
        rules(torch.ones(1, 4), torch.ones(1, 2))
    head = {"head.weight": np.ones((2, 4), np.float32), "head.bias": np.ones(2, np.float32)}
    with pytest.raises(ValueError, match="a head of 4 features, rules of 3"):
        from_tensors(saved | head)
    finds = HeadPass(from_tensors(head)[0], None).beside(None)
    with pytest.raises(InputError, match="a head of 4 features; the screen has 3"):
        finds.found(None, torch.ones(1, 3), SimpleNamespace(vectors=torch.ones(1, 3)), [])


def test_numbers_beside_calibration_scores_are_as_many_and_finite():
    calibrator = Calibrator(np.arange(3.0))
    calibrator.check_beside({"variance": np.ones(3)})
    with pytest.raises(InputError, match=r"expected 3 peaks; got shape \(2,\)"):
        calibrator.check_beside({"peaks": np.ones(2)})
    with pytest.raises(InputError, match="expected finite variance of the calibration images"):
        calibrator.check_beside({"variance": np.array([0.0, np.inf, 1.0])})

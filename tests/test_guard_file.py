"""A guard kept as a file beside its screen, and one whose classifier has spoken somewhere else."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from classifiers import write_classifier
from safetensors.numpy import save_file

import recondite
from recondite.cli import main
from recondite.data.artifacts import read_tensors, write_tensors
from recondite.errors import ArtifactError, InputError, OutputError
from recondite.graphs.exported import Exported
from recondite.networks.two_endings import TwoEndings
from recondite.screen.guard import Guard
from recondite.screen.guard_file import CLASSIFIER_FILE, TUNED_FILE, load_guard, save_guard
from recondite.screen.linear_head import Rules
from recondite.screen.onnx_classifier import read_classifier
from recondite.screen.saved import GUARD_FILE
from recondite.screen.tuned_classifier import TunedClassifier
from recondite.statistics.calibration import Calibrator
from recondite.statistics.selective import Floor

LABELS = ("dark", "light")


def classifier(pixels):
    brightness = 20 * (pixels.mean(dim=(1, 2, 3)) - 0.3)
    return torch.stack([-brightness, brightness], dim=1)


@pytest.fixture
def screen(screens):
    return screens("pca").with_alpha(0.1)


@pytest.fixture
def guards(screen, digits):
    held = digits[1400:]
    return {
        "screen": screen.guard(classifier, LABELS),
        "by class": screen.guard(classifier, LABELS, calibration=held, by_class=True, confidence_share=0),
        "confidence": screen.guard(classifier, LABELS, calibration=held, confidence_share=0.5),
    }


@pytest.mark.parametrize("kind", ["screen", "by class", "confidence"])
def test_a_saved_guard_decides_as_the_one_that_has_the_classifier(kind, guards, screen, digits, tmp_path):
    images = np.concatenate([digits[1300:1400], 255 - digits[1400:1420]])
    expected = guards[kind](images)
    assert 0 < expected.abstained.sum() < len(images)
    screen.save(tmp_path / "screen")
    save_guard(guards[kind], tmp_path / "screen")
    loaded = recondite.load(tmp_path / "screen")
    guard = load_guard(loaded, tmp_path / "screen")
    sure = expected.confidence.tolist() if kind == "confidence" else None
    found = guard.decide(loaded.predict(images), list(expected.predicted), sure)
    assert found.labels == expected.labels
    assert found.reasons == expected.reasons
    with pytest.raises(InputError, match="no classifier"):
        guard(images)


def test_a_guard_that_cannot_be_written_leaves_the_one_before_whole(guards, screen, tmp_path, monkeypatch, capsys):
    path = tmp_path / "guard"
    screen.save(path)
    save_guard(guards["by class"], path)
    before = {file.name: file.read_bytes() for file in path.iterdir()}

    def full(file, *_):
        raise OutputError(f"{file} cannot be written: No space left on device")

    monkeypatch.setattr(
        "recondite.screen.guard_fit.fit_guard", lambda *_, **__: SimpleNamespace(guard=guards["screen"])
    )
    monkeypatch.setattr("recondite.screen.guard_file.write_tensors", full)
    assert main(["guard", "fit", "none", "digits", "-o", str(path)]) == 1
    assert f"error: {path / GUARD_FILE} cannot be written: No space left" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert list(tmp_path.iterdir()) == [path]


def test_without_a_file_the_screen_decides(screen, digits, tmp_path):
    verdicts = screen.predict(digits[1300:1350])
    found = load_guard(screen, tmp_path).decide(verdicts, ["any"] * 50)
    np.testing.assert_array_equal(found.abstained, verdicts.is_outlier)


def test_what_it_does_not_take(guards, screen, digits):
    verdicts = screen.predict(digits[1300:1302])
    for kind, labels, sure, message in (
        ("screen", ["dark"], None, "2 images"),
        ("screen", ["dark", None], None, "one is missing"),
        ("screen", ["dark", "violet"], None, "'violet'"),
        ("screen", ["dark", "light"], [0.5, 1.5], "in .0, 1"),
        ("screen", ["dark", "light"], [0.5], "in .0, 1"),
        ("confidence", ["dark", "light"], None, "looks at the classifier's confidence"),
    ):
        with pytest.raises(InputError, match=message):
            guards[kind].decide(verdicts, labels, sure)
    with pytest.raises(InputError, match="part 'screen' of the guard predicted as"):
        guards["by class"].at(screen.with_alpha(0.004))
    shared = replace(guards["by class"], shares={"screen": 1 / 3})
    with pytest.raises(InputError, match=r": 0.004 of alpha = 0.012 .* or an alpha of at least [\d.]+$") as told:
        shared.at(screen.with_alpha(0.012))
    assert shared.at(screen.with_alpha(float(str(told.value).split()[-1])))
    # Which labels were counted depends on which images alpha turned away.
    bounded = replace(guards["by class"], floor=Floor(confidence=0.75, risk=0.05, delta=0.1, accepted=3, wrong=0, of=4))
    assert bounded.at(screen.with_alpha(screen.alpha)).floor == bounded.floor
    with pytest.raises(InputError, match="promises of its labels holds at alpha"):
        bounded.at(screen.with_alpha(0.2))


def test_a_guard_of_another_screen_or_a_damaged_one_is_refused(guards, screen, screens, tmp_path):
    save_guard(guards["by class"], tmp_path)
    with pytest.raises(ArtifactError, match="another screen"):
        load_guard(screens("autoencoder"), tmp_path)
    tensors, facts = read_tensors(tmp_path / GUARD_FILE)
    shares = ({"screen": 0.5}, {"features": 1.0}, {"screen": 1.5, "confidence": -0.5})
    for damage in (*({"shares": one} for one in shares), {"classes": ["one"]}, {"labels": 5}):
        write_tensors(tmp_path / GUARD_FILE, tensors, facts | damage)
        with pytest.raises(ArtifactError, match="damaged"):
            load_guard(screen, tmp_path)
    write_tensors(tmp_path / GUARD_FILE, tensors, json.loads(json.dumps(facts | {"kind": "x"})))
    with pytest.raises(ArtifactError, match="not a guard"):
        load_guard(screen, tmp_path)
    (tmp_path / GUARD_FILE).write_bytes(b"x")
    with pytest.raises(ArtifactError):
        load_guard(screen, tmp_path)


class Alone:
    """As much of a screen as a guard's file knows."""

    alpha, confidence, guarantee = 0.1, None, "exact"

    def __init__(self, detector=None):
        self.detector = detector

    def fingerprint(self):
        return "a screen"


def test_what_stays_with_a_classifier_is_not_saved_without_it(tmp_path):
    for shares, by_table, words in (
        ({"screen": 0.5, "features": 0.5}, True, "looks at the classifier's features cannot be saved"),
        ({"features": 1.0}, False, "looks at the classifier's features cannot be saved"),
        ({"screen": 0.5, "knn": 0.5}, False, "looks at the classifier's features cannot be saved"),
    ):
        with pytest.raises(InputError, match=words):
            save_guard(Guard(screen=Alone(), classifier=classifier, shares=shares, by_table=by_table), tmp_path)
    with pytest.raises(InputError, match="a temperature needs the logits"):
        save_guard(Guard(screen=Alone(), classifier=classifier, temperature=2.0), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_guard_of_a_table_comes_back_with_its_rules(tmp_path):
    shares = {"screen": 0.5, "max_logit": 0.5}
    guard = Guard(screen=Alone(), classifier=None, classes=LABELS, shares=shares, rules=Rules({}), by_table=True)
    save_guard(replace(guard, temperature=2.5), tmp_path)
    found = load_guard(Alone(), tmp_path)
    assert (found.classes, found.shares, found.by_table, found.temperature) == (LABELS, shares, True, 2.5)
    assert not found.rules.tensors
    save_guard(Guard(screen=Alone(), classifier=None, classes=LABELS), tmp_path)
    plain = load_guard(Alone(), tmp_path)
    assert (plain.rules, plain.by_table, plain.classifier, plain.temperature) == (None, False, None, 1)
    tensors, facts = read_tensors(tmp_path / GUARD_FILE)
    assert facts["schema"] == 2
    assert "by_table" not in facts
    for name in ("temperature", "floor", "shape"):
        del facts[name]
    write_tensors(tmp_path / GUARD_FILE, tensors, facts | {"schema": 1})  # an earlier version
    assert load_guard(Alone(), tmp_path).temperature == 1
    for change in ({"schema": 0}, {"schema": 3}, {"kind": "recondite screen"}):
        write_tensors(tmp_path / GUARD_FILE, tensors, facts | change)
        with pytest.raises(ArtifactError, match="is not a guard"):
            load_guard(Alone(), tmp_path)


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({"nose": 1.0}, "shares"),
        ({"features": 1.0}, "shares"),
        ({"screen": 0.5}, "shares"),
        ({"screen": 1.0, "confidence": 0.0}, "shares"),
        ({"screen": 1.5, "confidence": -0.5}, "shares"),
        ({"knn": 0.5, "max_logit": 0.5}, "rules without their numbers"),
        ({"vim": 1.0}, "rules without their numbers"),
        ({"confidence": 0.6, "max_logit": 0.4}, "parts without calibration: confidence, max_logit"),
    ],
)
def test_shares_of_no_guard_are_damage(shares, words, tmp_path):
    save_guard(Guard(screen=Alone(), classifier=None, classes=LABELS), tmp_path)
    tensors, facts = read_tensors(tmp_path / GUARD_FILE)
    write_tensors(tmp_path / GUARD_FILE, tensors, facts | {"shares": shares})
    with pytest.raises(ArtifactError, match=f"damaged guard: {words}"):
        load_guard(Alone(), tmp_path)


FLOOR = {"confidence": 0.5, "risk": 0.1, "delta": 0.05, "accepted": 3, "wrong": 1, "of": 4}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": -1.0}, "a temperature of -1"),
        ({"floor": {**FLOOR, "confidence": "high"}}, "as a floor of confidence"),
        ({"floor": {**FLOOR, "confidence": True}}, "as a floor of confidence"),
        ({"floor": {**FLOOR, "confidence": -0.1}}, "as a floor of confidence"),
        ({"floor": {**FLOOR, "confidence": 1.1}}, "as a floor of confidence"),
        ({"floor": {**FLOOR, "risk": 2}}, "risk in"),
        ({"floor": {**FLOOR, "wrong": 4}}, "wrong labels among accepted"),
        ({"floor": {**FLOOR, "of": None}}, "wrong labels among accepted"),
        ({"shape": [3, 1_000_000, 1_000_000]}, "shape"),
        ({"shape": [3, -1, 8]}, "shape"),
        ({"classes": ["a", "b"]}, "groups of no class"),
        ({"labels": ["a", "b", "a"]}, "labels"),
        ({"labels": "abc"}, "labels 'abc'"),
    ],
)
def test_forged_facts_of_a_guard_are_damage(change, words, tmp_path):
    save_guard(Guard(screen=Alone(), classifier=None, classes=LABELS, floor=Floor(**FLOOR)), tmp_path)
    tensors, facts = read_tensors(tmp_path / GUARD_FILE)
    assert load_guard(Alone(), tmp_path).floor == Floor(**FLOOR)
    groups = {"groups": np.array([-1, 0], np.int32)} if "classes" in change else {}
    write_tensors(tmp_path / GUARD_FILE, tensors | groups, facts | change)
    with pytest.raises(ArtifactError, match=f"damaged guard: .*{words}"):
        load_guard(Alone(), tmp_path)
    save_file(tensors, tmp_path / GUARD_FILE, {"facts": json.dumps(facts | {"temperature": np.nan})})
    with pytest.raises(ArtifactError, match="expected finite numbers; got NaN"):
        load_guard(Alone(), tmp_path)


def test_tensors_of_a_guard_have_their_type_and_finite_numbers(tmp_path):
    calibrators = {"screen": Calibrator(np.arange(20.0))}
    counts = np.ones((len(LABELS),) * 2, np.int64)
    save_guard(
        Guard(screen=Alone(), classifier=None, classes=LABELS, calibrators=calibrators, confusion=counts), tmp_path
    )
    tensors, facts = read_tensors(tmp_path / GUARD_FILE)
    assert load_guard(Alone(), tmp_path).calibrators["screen"].scores.tolist() == list(range(20))
    head = {"head.weight": np.ones((len(LABELS), 3), np.float32), "head.bias": np.ones(len(LABELS), np.float32)}
    for change, words in (
        ({"screen": tensors["screen"].astype(np.int32)}, "screen of shape"),
        ({"screen": np.full(20, np.nan)}, "not finite"),
        ({"confusion": counts.astype(np.float64)}, "confusion of shape"),
        ({"confusion": counts[:1]}, "confusion of shape"),
        ({"confusion": -counts}, "negative counts"),
        (head | {"head.bias": np.full(len(LABELS), np.inf, np.float32)}, "not finite"),
        (head | {"head.weight": head["head.weight"].astype(np.float16)}, "another type than float32"),
        ({name: values[:1] for name, values in head.items()}, f"a head of 1 classes for {len(LABELS)} labels"),
    ):
        write_tensors(tmp_path / GUARD_FILE, tensors | change, facts)
        with pytest.raises(ArtifactError, match=words):
            load_guard(Alone(), tmp_path)


@pytest.mark.parametrize(
    ("classes", "rules", "fine"),
    [(2, ("knn",), True), (0, ("knn",), True), (3, ("knn",), False), (1, ("knn",), False), (2, (), False)],
)
def test_a_graph_tells_the_classes_and_rules_of_its_guard(classes, rules, fine, tmp_path):
    graph = object.__new__(Exported)
    graph.classes, graph.rules = classes, rules
    save_guard(Guard(screen=Alone(), classifier=None, classes=LABELS), tmp_path)
    tensors, facts = read_tensors(tmp_path / GUARD_FILE)
    write_tensors(tmp_path / GUARD_FILE, tensors, facts | {"shares": {"screen": 0.5, "knn": 0.5}})
    if fine:
        assert load_guard(Alone(graph), tmp_path).rules is None  # they are in the graph
    else:
        with pytest.raises(ArtifactError, match=f"damaged guard: a graph of {classes} classes"):
            load_guard(Alone(graph), tmp_path)


def test_the_classifier_of_a_guard_lies_beside_it_and_is_known_by_its_digest(tmp_path):
    onnx = read_classifier(write_classifier(tmp_path / "given.onnx", 8))
    tuned = TunedClassifier(
        TwoEndings("lite0", 1, 32).requires_grad_(False), "lite0", torch.rand(2, 1280), torch.rand(2), (3, 8, 8)
    )
    for classifier, name in ((onnx, CLASSIFIER_FILE), (tuned, TUNED_FILE)):
        folder = tmp_path / name
        folder.mkdir()
        save_guard(Guard(screen=Alone(), classifier=classifier, classes=LABELS, shape=(3, 8, 8)), folder)
        assert {path.name for path in folder.iterdir()} == {GUARD_FILE, name}
        found = load_guard(Alone(), folder)
        assert found.shape == (3, 8, 8)
        pixels = torch.rand(2, 3, 8, 8)
        torch.testing.assert_close(found.classifier(pixels), classifier(pixels))
        (folder / name).rename(folder / "elsewhere")
        (folder / name).symlink_to(folder / "elsewhere")
        with pytest.raises(ArtifactError, match="is missing, or another one than the guard was made with"):
            load_guard(Alone(), folder)
        (folder / name).unlink()
        with pytest.raises(ArtifactError, match="is missing, or another one"):
            load_guard(Alone(), folder)
        (folder / name).write_bytes((folder / "elsewhere").read_bytes() + b"\0")
        with pytest.raises(ArtifactError, match="is missing, or another one"):
            load_guard(Alone(), folder)

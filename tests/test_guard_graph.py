"""A guard's judgement as tensor operations, part by part, without a file: it is that of the guard itself."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from classifiers import write_classifier
from coloured import Backbone, coloured, pairs
from torch import nn

import recondite
from recondite.data.datasets import open_images
from recondite.errors import InputError
from recondite.graphs.runtimes import GUARD_OUTPUTS, OUTPUTS, RULE_SCORES
from recondite.screen.decisions import FOREIGN, INVALID, UNSURE
from recondite.screen.guard import Guard
from recondite.screen.guard_graph import (
    ABSTENTIONS,
    FEATURES_IN,
    LOGITS_IN,
    GuardGraph,
    _all_finite,
    _Table,
    joined,
    outputs_of,
    rules_of,
    said_by,
)
from recondite.screen.linear_head import Rules, learnt
from recondite.screen.looking import vectors_of
from recondite.screen.named_classifier import NamedClassifier
from recondite.screen.onnx_classifier import OnnxClassifier
from recondite.screen.tuned_classifier import TunedClassifier
from recondite.statistics.calibration import Calibrator, share_of
from recondite.statistics.selective import Floor

LABELS = ("left", "middle", "right")


def images(count, seed):
    return np.random.default_rng(seed).random((count, 1, 8, 8), dtype=np.float32)


@pytest.fixture(scope="module")
def screen():
    return recondite.fit(images(120, 0), detector="pca", latent_size=4, alpha=0.3, score="error", group_by="none")


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def guard(screen, classifier):
    """Calibrated by class, of which the last is unknown to the calibration, with a temperature and a floor."""
    shares = {"confidence": 0.25, "screen": 0.25, "max_logit": 0.25, "energy": 0.25}
    plain = Guard(screen=screen, classifier=classifier, classes=LABELS, rules=Rules({}), shares=shares, temperature=0.5)
    found, classes = plain.measure(images(400, 1))
    known = np.array([name != "right" for name in classes])
    groups = tuple(name for name, kept in zip(classes, known, strict=True) if kept)
    calibrators = {part: Calibrator(values[known], groups) for part, values in found.items()}
    floor = Floor(confidence=0.45, risk=0.1, delta=0.05, accepted=1, wrong=0, of=1)
    return Guard(**{**vars(plain), "calibrators": calibrators, "by_class": True, "floor": floor})


def run(guard, pixels, *further):
    graph = GuardGraph(guard).eval()
    with torch.no_grad():
        return dict(zip(outputs_of(guard), graph(torch.from_numpy(pixels), *further), strict=True))


def assert_is_alike(guard, pixels):
    """What the graph gives is what the guard decides."""
    found, decided = run(guard, pixels), guard(pixels)
    kinds = [ABSTENTIONS[place] for place in found["abstention"]]
    labels = guard.classes or tuple("012")
    assert kinds == list(decided.kinds)
    assert [labels[place] if place >= 0 else None for place in found["label"]] == decided.labels
    assert [labels[place] if place >= 0 else None for place in found["predicted"]] == list(decided.predicted)
    np.testing.assert_allclose(found["confidence"], decided.confidence, atol=1e-6)
    for place, part in enumerate(guard.calibrators or ["screen"]):
        p_values = decided.p_values[part]
        np.testing.assert_allclose(found["part_p_value"][:, place], p_values, atol=1e-9)
        np.testing.assert_array_equal(found["flagged"][:, place], p_values <= decided.limits[part])
    return found, kinds


def test_the_graph_decides_as_the_guard(guard, classifier):
    pixels = images(200, 2)
    pixels[0] = np.nan
    with torch.no_grad():
        logits = classifier(torch.from_numpy(pixels))
    assert outputs_of(guard) == (*OUTPUTS, *GUARD_OUTPUTS)
    found = run(guard, pixels)
    assert ABSTENTIONS[found["abstention"][0]] == INVALID
    assert found["label"][0] == found["predicted"][0] == -1
    found, kinds = assert_is_alike(guard, pixels[1:])
    assert {*kinds} == {None, FOREIGN, UNSURE}
    assert (found["predicted"] == 2).any()  # a class without calibration
    torch.testing.assert_close(found["logits"], logits[1:])
    assert rules_of(guard) == ("max_logit", "energy")
    expected = torch.stack([-logits[1:].amax(1), -logits[1:].logsumexp(1)], dim=1)
    torch.testing.assert_close(found[RULE_SCORES], expected)


def test_without_calibration_the_screen_decides_and_without_a_floor_nothing_is_unsure(screen, classifier):
    guard = Guard(screen=screen, classifier=classifier)
    assert rules_of(guard) == ()
    assert RULE_SCORES not in outputs_of(guard)
    _, kinds = assert_is_alike(guard, images(60, 3))
    assert {*kinds} == {None, FOREIGN}
    pixels = images(60, 3)
    eight_bit = (pixels * 255).astype(np.uint8)
    as_floats = run(guard, eight_bit / np.float32(255))
    for name, values in run(guard, eight_bit).items():
        torch.testing.assert_close(values, as_floats[name])


def test_a_linear_head_and_its_rules_look_at_the_vectors_of_the_screen():
    pictures, classes = coloured(200, 1)
    looking = {"detector": "features", "backbone": Backbone(), "latent_size": 4, "group_by": "none"}
    screen = recondite.fit(pictures, alpha=0.3, score="error", **looking)
    known = open_images(pairs(pictures, classes), role="fit")
    learning = learnt(vectors_of(screen.detector, known, ("red", "blue")), 2, 200)
    head = learning.head(0.3)
    shares = {"knn": 0.5, "confidence": 0.5}
    plain = Guard(
        screen=screen, classifier=None, classes=("red", "blue"), head=head, rules=learning.rules(head), shares=shares
    )
    new = coloured(60, 2, ((0.7, 0.3, 0.3), (0.3, 0.3, 0.7), (0.2, 0.9, 0.2)))[0]
    found, _ = plain.measure(coloured(100, 3)[0])
    guard = replace(plain, calibrators={part: Calibrator(values) for part, values in found.items()})
    _, kinds = assert_is_alike(guard, (new / 255).astype(np.float32))
    assert {*kinds} == {None, FOREIGN}


def test_a_probability_of_zero_is_an_answer_in_the_graph_too(guard, classifier):
    cold = nn.Sequential(classifier, nn.Threshold(0.2, -torch.inf))  # classes that are out of the question
    pixels = images(200, 2)
    some = replace(guard, classifier=cold, shares={"confidence": 1.0}, calibrators={}, rules=None)
    values, classes = some.measure(images(400, 1))
    some = replace(some, calibrators={"confidence": Calibrator(values["confidence"], tuple(classes))})
    found, kinds = assert_is_alike(some, pixels)
    nothing = (cold(torch.from_numpy(pixels)) == -torch.inf).all(1)
    assert 0 < nothing.sum() < 200
    assert [kind == INVALID for kind in kinds] == nothing.tolist()
    assert found["logits"][~nothing].isfinite().all()


def test_a_confidence_at_the_floor_is_enough(screen):
    sure = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).requires_grad_(False)
    nn.init.zeros_(sure[1].weight)
    nn.init.zeros_(sure[1].bias)
    for confidence, kind in ((0.5, {None, FOREIGN}), (0.5000001, {UNSURE, FOREIGN})):
        floor = Floor(confidence=confidence, risk=0.1, delta=0.05, accepted=1, wrong=0, of=1)
        _, kinds = assert_is_alike(Guard(screen=screen, classifier=sure, floor=floor), images(60, 3))
        assert {*kinds} == kind


@pytest.mark.parametrize("shape", [(5,), (5, 4), (5, 2, 3)])
def test_what_an_onnx_classifier_said_comes_in_from_outside(screen, classifier, shape):
    """Features are vectors, or maps of which the mean over places is taken."""
    pixels = torch.from_numpy(images(200, 4))
    draws = np.random.default_rng(0)
    features = torch.from_numpy(draws.normal(size=(200, *shape)).astype(np.float32))
    means = features if len(shape) == 1 else features.flatten(2).mean(2)
    logits = classifier(pixels)
    rules = learnt([(means.numpy(), logits.argmax(1).tolist(), logits.numpy())], 3, 200).rules()
    values = rules(means, logits)["knn"].numpy().astype(np.float64)
    named = Guard(
        screen=screen,
        classifier=object.__new__(OnnxClassifier),
        classes=LABELS,
        rules=rules,
        shares={"knn": 1.0},
        calibrators={"knn": Calibrator(values[:100])},
    )
    found = run(named, pixels.numpy(), logits, features)
    np.testing.assert_allclose(found[RULE_SCORES][:, 0], values, rtol=1e-5)
    torch.testing.assert_close(found["logits"], logits)
    expected = np.where(Calibrator(values[:100]).is_outlier(values[100:], 0.3), 1, 0)
    assert (found["abstention"][100:].numpy() == expected).mean() > 0.97
    # What it says that is not finite is no answer.
    logits[3, 1] = torch.nan
    features[4] = torch.inf
    abstained = [ABSTENTIONS[place] for place in run(named, pixels.numpy(), logits, features)["abstention"]]
    assert [place for place, kind in enumerate(abstained) if kind == INVALID] == [3, 4]


@pytest.mark.parametrize("grouped", [True, False])
def test_a_table_gives_the_p_values_and_flags_of_the_calibrator(screen, grouped):
    draws = np.random.default_rng(5)
    scores = draws.integers(0, 30, 90).astype(np.float64)
    groups = ("left",) * 60 + ("right",) * 30 if grouped else None
    calibrator, shares = Calibrator(scores, groups), {"screen": 0.5, "confidence": 0.5}
    guard = SimpleNamespace(screen=screen, classes=LABELS, shares=shares, by_class=grouped)
    asked, predicted = np.arange(-1.0, 32), np.arange(33) % 3
    p_values, flagged, unknown = _Table(guard, "screen", calibrator)(
        torch.from_numpy(asked), torch.from_numpy(predicted)
    )
    rows = (predicted != 1) if grouped else np.ones(33, dtype=bool)
    names = [LABELS[place] for place in predicted[rows]] if grouped else None
    alpha = share_of(screen.alpha, 0.5)
    np.testing.assert_array_equal(p_values[rows], calibrator.p_value(asked[rows], names))
    np.testing.assert_array_equal(flagged[rows], calibrator.is_outlier(asked[rows], alpha, names))
    np.testing.assert_array_equal(unknown, ~rows)
    assert not flagged[~rows].any()
    assert p_values[~rows].isnan().all()
    assert _Table(guard, "screen", calibrator)(torch.tensor([torch.nan]).double(), torch.tensor([0]))[1].all()


def test_rows_are_finite_up_to_the_largest_float():
    largest = float(np.finfo(np.float32).max)
    rows = torch.tensor([[largest, -largest], [0, torch.inf], [-torch.inf, 0], [torch.nan, 0], [1, 2]])
    assert _all_finite(rows).tolist() == [True, False, False, False, True]


def test_who_says_what(classifier):
    pixels = torch.from_numpy(images(4, 6))
    network, said = said_by(classifier)
    assert network is classifier
    logits, features = said(pixels)
    torch.testing.assert_close(logits, classifier(pixels))
    assert features is None
    tuned = TunedClassifier(nn.AvgPool2d(2), "lite0", torch.ones(2, 1), torch.zeros(2), (1, 8, 8))
    tuned.told = lambda maps: ("told", maps)
    network, said = said_by(tuned)
    assert network is tuned.backbone
    torch.testing.assert_close(said(pixels)[1], nn.AvgPool2d(2)(pixels))
    named = object.__new__(NamedClassifier)
    named.network = nn.Identity()
    named.together = lambda given: (given, "features")
    network, said = said_by(named)
    assert network is named.network
    assert said(pixels)[1] == "features"
    with pytest.raises(InputError, match="a classifier that is a function cannot be exported"):
        said_by(lambda given: given)


def graph_of(onnx, kind, opset):
    """A graph that gives what comes in: the mean of the pixels, the logits and the features."""
    make, floats = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        make.make_node("Cast", ["pixels"], ["cast"], to=floats),
        make.make_node("GlobalAveragePool", ["cast"], ["mean"]),
        make.make_node("Identity", [LOGITS_IN], ["logits"]),
        make.make_node("Identity", [FEATURES_IN], ["features"]),
    ]
    starts = [make.make_tensor_value_info("pixels", kind, ["n", 3, 8, 8])]
    starts += [make.make_tensor_value_info(name, floats, ["n", n]) for name, n in ((LOGITS_IN, 2), (FEATURES_IN, 3))]
    ends = [make.make_tensor_value_info("mean", floats, ["n", 3, 1, 1])]
    ends += [make.make_tensor_value_info(name, floats, ["n", n]) for name, n in (("logits", 2), ("features", 3))]
    made = make.make_graph(nodes, "after", starts, ends)
    return make.make_model(made, opset_imports=[make.make_opsetid("", opset)], ir_version=9).SerializeToString()


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_a_graph_is_joined_with_that_of_its_classifier(kind, opset, tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    before = SimpleNamespace(graph=write_classifier(tmp_path / "classifier.onnx", 8).read_bytes())
    after = graph_of(onnx, onnx.TensorProto.FLOAT if kind == "float32" else onnx.TensorProto.UINT8, opset)
    whole = joined(after, before)
    model = onnx.load_from_string(whole)
    assert [one.name for one in model.graph.input] == ["pixels"]
    assert model.ir_version == 9
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
    given = pixels if kind == "uint8" else (pixels / 255).astype(np.float32)
    mean, logits, features = runtime.InferenceSession(whole).run(None, {"pixels": given})
    expected = pixels.mean(axis=(2, 3)) / 255
    np.testing.assert_allclose(mean[:, :, 0, 0], expected * (255 if kind == "uint8" else 1), rtol=1e-5)
    np.testing.assert_allclose(features, expected, rtol=1e-5)
    np.testing.assert_allclose(logits, expected @ [[10, 0], [-10, -10], [0, 10]], rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="cannot be joined"):
        joined(after, SimpleNamespace(graph=after))

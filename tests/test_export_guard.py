"""An exported guard decides as the guard it was made from: in the library, by its graph alone, and served."""

import base64
import csv
import importlib.util
import json
import math
import shutil
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from classifiers import SmallEndings, write_classifier
from coloured import Backbone as Means
from coloured import coloured, pairs
from PIL import Image
from torch import nn

import recondite
from recondite.cli import main
from recondite.errors import ArtifactError, InputError
from recondite.screen.classifier_outputs import Told
from recondite.screen.guard_file import load_guard, save_guard
from recondite.screen.guard_fit import fit_guard
from recondite.screen.onnx_classifier import OnnxClassifier, read_classifier
from recondite.screen.screen import Screen
from recondite.screen.tuned_classifier import TunedClassifier
from recondite.statistics.calibration import Calibrator
from recondite.statistics.selective import Floor

export = pytest.importorskip("recondite.screen.export")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from agreement import assert_decides_alike  # noqa: E402

from recondite.screen import export_guard as export_guard_file  # noqa: E402
from recondite.screen.export_guard import _check_parity, _described, _exportable, _graph, export_guard  # noqa: E402
from recondite.screen.guard_graph import FEATURES_IN, LOGITS_IN  # noqa: E402

EVERY_PART = ("screen", "confidence", "max_logit", "energy", "knn", "mahalanobis", "vim")


IMAGES = np.concatenate([coloured(60, 8)[0], coloured(20, 9, ((0.2, 0.9, 0.2), (0.5, 0.3, 0.5)))[0]])


@pytest.fixture(scope="module")
def with_head():
    """A linear head, every part, calibrated by predicted class, and a floor."""
    images = coloured(200, 1)
    screen = recondite.fit(images[0], detector="features", backbone=Means(), alpha=0.1, latent_size=4, score="error")
    given = {"calibration": pairs(*coloured(900, 2)), "risk": 0.05, "parts": EVERY_PART, "group_by": "none"}
    fitted = fit_guard(pairs(*images), screen=screen, **given)
    assert fitted.guard.by_class
    return fitted.guard


@pytest.fixture(scope="module")
def plain():
    return recondite.fit(coloured(150, 20)[0], detector="pca", latent_size=4, alpha=0.1, score="error")


@pytest.fixture(scope="module")
def with_onnx(plain, tmp_path_factory):
    graph = write_classifier(tmp_path_factory.mktemp("classifier") / "classifier.onnx", 16)
    given = {"calibration": pairs(*coloured(300, 22)), "parts": ["screen", "confidence", "knn"], "group_by": "none"}
    return fit_guard(
        pairs(*coloured(60, 21)), screen=plain, classifier=read_classifier(graph), classes=["red", "blue"], **given
    ).guard


@pytest.fixture(scope="module")
def exported(with_head, tmp_path_factory):
    return export_guard(with_head, tmp_path_factory.mktemp("exported") / "colours")


@pytest.fixture(scope="module")
def of_bytes(with_onnx, tmp_path_factory):
    return export_guard(with_onnx, tmp_path_factory.mktemp("exported") / "colours", pixels="uint8")


def test_a_guard_with_a_head_saved_exported_and_served_decides_alike(with_head, exported, tmp_path):
    found = assert_decides_alike(with_head, exported, IMAGES)
    expected = found(IMAGES)
    alone = [next(iter(found(image[None]))) for image in IMAGES[::9]]
    assert [(one.label, one.confidence) for one in alone] == [
        (one.label, one.confidence) for one in list(expected)[::9]
    ]
    pytest.importorskip("fastapi")
    from service import in_process, png

    sent = [{"data": base64.b64encode(png(image.transpose(1, 2, 0))).decode()} for image in IMAGES[50:]]
    with in_process(exported, tmp_path) as client:
        rows = client.post("/v1/screens/colours/predict", json={"images": sent}).json()["verdicts"]
    given = [tuple(row["guard"][name] for name in ("label", "reason", "abstention")) for row in rows]
    assert given == [(one.label, one.reason, one.kind) for one in list(expected)[50:]]


def test_the_graph_alone_gives_label_confidence_and_reason(with_onnx, of_bytes):
    folder = of_bytes
    found = assert_decides_alike(with_onnx, folder, IMAGES)(IMAGES)
    told = json.loads((folder / "manifest.json").read_text())["guard"]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    raw = dict(zip(names, session.run(names, {"pixels": IMAGES}), strict=True))
    assert [None if place < 0 else told["classes"][place] for place in raw["label"]] == found.labels
    assert tuple(told["classes"][place] for place in raw["predicted"]) == found.predicted
    assert tuple(told["abstention"][place] for place in raw["abstention"]) == found.kinds
    np.testing.assert_allclose(raw["confidence"], found.confidence, atol=1e-6)
    for place, part in enumerate(told["parts"]):
        np.testing.assert_allclose(raw["part_p_value"][:, place], found.p_values[part], atol=1e-9)
        np.testing.assert_array_equal(raw["flagged"][:, place], found.p_values[part] <= told["limits"][part])


@pytest.mark.slow
def test_classes_without_calibration_and_unsure_images_abstain_in_the_graph_too(with_head, tmp_path):
    knn = with_head.calibrators["knn"]
    reds = np.array([group == "red" for group in knn.groups])
    few = Calibrator(knn.scores[reds], tuple(["red"] * int(reds.sum())))
    strict = replace(with_head.floor, confidence=1.1)
    guard = replace(with_head, shares={"knn": 1.0}, calibrators={"knn": few}, floor=strict)
    folder = export_guard(guard, tmp_path / "graph")
    found = load_guard(recondite.load(folder), folder)(IMAGES)
    assert {"foreign", "unsure"} == set(found.kinds)
    assert all(kind == "foreign" for kind, name in zip(found.kinds, found.predicted, strict=True) if name == "blue")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    broken = np.full((1, 3, 16, 16), np.nan, np.float32)
    given = np.concatenate([(IMAGES / 255).astype(np.float32), broken])
    label, kind = session.run(["label", "abstention"], {"pixels": given})
    told = json.loads((folder / "manifest.json").read_text())["guard"]
    assert tuple(told["abstention"][place] for place in kind) == (*found.kinds, "invalid")
    assert label[-1] == -1


def test_a_torch_module_goes_into_the_graph(plain, tmp_path):
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        module[2].weight.copy_(torch.tensor([[10.0, 0, -10], [-10, 0, 10]]))
    guard = plain.guard(module)  # without calibration: the screen's own verdict decides
    found = assert_decides_alike(guard, export_guard(guard, tmp_path / "graph"), IMAGES)
    assert found.classes == ("0", "1")


@pytest.mark.slow
def test_what_a_fine_tuned_network_saw_before_weighs_in_the_graph_what_it_weighs_in_the_guard(plain, tmp_path):
    weight = torch.tensor(np.random.default_rng(1).normal(size=(2, 8)), dtype=torch.float32)
    whole = TunedClassifier(
        SmallEndings(8, 4).requires_grad_(False).eval(), "lite0", weight, torch.zeros(2), (3, 16, 16)
    )
    less, alone = whole.with_before(0.25), whole.with_before(math.inf)
    guards = [
        fit_guard(
            pairs(*coloured(60, 21)),
            screen=plain,
            classifier=classifier,
            calibration=pairs(*coloured(300, 22)),
            classes=["red", "blue"],
            parts=["knn", "mahalanobis"],
            group_by="none",
        ).guard
        for classifier in (whole, less, alone)
    ]
    with_one = guards[0](IMAGES)
    for guard in guards[1:]:
        found = assert_decides_alike(guard, export_guard(guard, tmp_path / "graph"), IMAGES)(IMAGES)
        for part in ("knn", "mahalanobis"):
            assert np.abs(found.p_values[part] - with_one.p_values[part]).max() > 0.05, part


@pytest.mark.slow
def test_the_command_line_exports_and_runs_it(with_onnx, tmp_path, capsys):
    with_onnx.screen.save(tmp_path / "guard")
    save_guard(with_onnx, tmp_path / "guard")
    (tmp_path / "new").mkdir()
    for index, image in enumerate(IMAGES[::4]):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "new" / f"{index:02d}.png")
    to = "openvino" if importlib.util.find_spec("openvino") else "onnx"
    command = ["export", str(tmp_path / "guard"), "-o", str(tmp_path / "graph"), "--to", to]
    assert main(command) == 0, capsys.readouterr().err
    assert "a guard; its scores and logits were compared" in capsys.readouterr().out
    found = assert_decides_alike(with_onnx, tmp_path / "graph", IMAGES)
    table = tmp_path / "labels.csv"
    command = ["guard", "predict", str(tmp_path / "graph"), str(tmp_path / "new"), "-o", str(table)]
    assert main(command) == 0, capsys.readouterr().err
    with table.open(encoding="utf-8") as file:
        assert [row["label"] or None for row in csv.DictReader(file)] == found(tmp_path / "new").labels
    alone = ["export", str(tmp_path / "guard"), "-o", str(tmp_path / "alone"), "--no-guard"]
    assert main(alone) == 0, capsys.readouterr().err
    assert "not exported: the guard" in capsys.readouterr().out
    assert load_guard(recondite.load(tmp_path / "alone"), tmp_path / "alone").classifier is None
    int8 = ["export", str(tmp_path / "guard"), "-o", str(tmp_path / "x"), "--to", "openvino", "--int8", "images"]
    assert main(int8) == 2
    assert "a guard's graph is in float32" in capsys.readouterr().err


def test_what_cannot_be_exported_says_which(plain, exported, tmp_path):
    held = coloured(300, 22)[0]
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    features = plain.guard(module, calibration=held, feature_share=0.5, layer="1", reference=held)
    with pytest.raises(InputError, match="part 'features' of the guard, the neighbours"):
        export_guard(features, tmp_path / "x")
    with pytest.raises(InputError, match="a classifier that is a function"):
        export_guard(plain.guard(lambda pixels: module(pixels)), tmp_path / "x")
    with pytest.raises(InputError, match="--image-size 8x8"):
        export_guard(plain.guard(module, image_shape=(3, 8, 8)), tmp_path / "x")
    with pytest.raises(InputError, match="exported already"):
        export_guard(load_guard(recondite.load(exported), exported), tmp_path / "x")
    plain.save(tmp_path / "screen")
    with pytest.raises(InputError, match="no classifier of its own"):
        export_guard(load_guard(plain, tmp_path / "screen"), tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_graph_that_judges_otherwise_is_not_written(with_onnx, tmp_path, monkeypatch):
    said = type(with_onnx.classifier).outputs
    monkeypatch.setattr(
        type(with_onnx.classifier), "outputs", lambda self, pixels: (said(self, pixels)[0] + 0.1, said(self, pixels)[1])
    )
    with pytest.raises(RuntimeError, match="nothing was written"):
        export_guard(with_onnx, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_guard_beside_another_graph_is_refused(exported, of_bytes, tmp_path):
    folder = shutil.copytree(of_bytes, tmp_path / "other")
    (folder / "guard.safetensors").write_bytes((exported / "guard.safetensors").read_bytes())
    with pytest.raises(ArtifactError, match="another screen"):
        load_guard(recondite.load(folder), folder)


class Said(SimpleNamespace):
    """As much of a guard as is looked at before it is exported."""

    def __init__(self, **given):
        seen = SimpleNamespace(region=given.pop("region", None))
        of_screen = SimpleNamespace(detector=SimpleNamespace(shape=(3, 16, 16), preprocessing=seen), alpha=0.1)
        own = {"classifier": None, "by_table": False, "speaks": True, "shares": ("screen",), "head": "a head"}
        own |= {"seen": SimpleNamespace(shape=(3, 8, 8)), "classes": ("red", "blue"), "screen": of_screen}
        super().__init__(**own | {"floor": None, "calibrators": ()} | given)


class Graph(OnnxClassifier):
    def __init__(self, together):
        self.together = together


def test_what_a_guard_must_be_to_be_exported(monkeypatch):
    assert _exportable(Said()).classes == ("red", "blue")
    same = SimpleNamespace(shape=(3, 16, 16))
    told = object.__new__(Told)
    for guard, words in (
        (Said(by_table=True), "a table of outputs"),
        (Said(classifier=told), "a table of outputs"),
        (Said(speaks=False), "no classifier of its own"),
        (Said(shares=("screen", "features")), "part 'features' of the guard"),
        (Said(head=None), r"takes images \(3, 8, 8\) and the screen \(3, 16, 16\).* --image-size 8x8"),
        (Said(classifier=Graph(4), head=None, seen=same), "takes 4 images at once and no other number"),
        (Said(head=None, seen=same, region="a mask"), "the screen sees a region of each image and the classifier all"),
    ):
        with pytest.raises(InputError, match=words):
            _exportable(guard)
    asked = []
    monkeypatch.setattr(export_guard_file, "said_by", asked.append)
    for guard in (Said(classifier="one's own", region="a mask"), Said(classifier=Graph(None), head=None, seen=same)):
        assert _exportable(guard) is guard
    assert asked == []
    _exportable(Said(classifier="one's own", head=None, seen=same))
    assert asked == ["one's own"]
    # Classes without names are numbered.
    monkeypatch.setattr(export_guard_file, "replace", lambda guard, **changed: Said(**vars(guard) | changed))
    monkeypatch.setattr(export_guard_file, "_probed", lambda _: (None, SimpleNamespace(logits=np.zeros((5, 3)))))
    assert _exportable(Said(classes=None)).classes == ("0", "1", "2")


def test_what_other_programs_are_told_of_a_guard():
    shares = {"screen": 0.5, "knn": 0.5}
    told = _described(Said(shares=shares), ("knn",))
    assert (told["classes"], told["parts"], told["rules"]) == (["red", "blue"], ["screen", "knn"], ["knn"])
    assert told["limits"] == {"screen": 0.05, "knn": 0.05}
    assert (told["floor"], told["screen_decides"]) == (None, True)
    floor = Floor(confidence=0.75, risk=0.05, delta=0.1, accepted=3, wrong=0, of=4)
    assert _described(Said(shares=shares, floor=floor), ())["floor"] == vars(floor)
    assert _described(Said(classes=None, shares={"knn": 1.0}), ())["classes"] == []
    assert not _described(Said(shares={"knn": 1.0}), ())["screen_decides"]
    assert not _described(Said(shares=shares, calibrators=("knn",)), ())["screen_decides"]


def test_scores_of_logits_are_compared_on_the_scale_of_logits_where_sure_images_hardly_differ(monkeypatch):
    screen = SimpleNamespace(calibrator=Calibrator(np.linspace(0, 2, 201)))

    def guard(confidence):
        return SimpleNamespace(
            shares={"confidence": 1.0},
            calibrators={"confidence": Calibrator(np.linspace(0, 1e-6, 201))},
            screen=screen,
            said=({"confidence": confidence}, SimpleNamespace(logits=np.array([[512.0, 0.0]]))),
            scores=lambda parts, _: {name: np.array([value]) for name, value in parts.items()},
        )

    monkeypatch.setattr(export_guard_file, "_probed", lambda guard: guard.said)
    _check_parity(guard(0.0), guard(0.007))  # a thousand roundings of 512 in float32 are more
    with pytest.raises(RuntimeError, match="part 'confidence' of the graph"):
        _check_parity(guard(0.0), guard(0.009))


def test_parts_and_logits_of_a_graph_are_compared_each_on_its_own_scale(monkeypatch):
    screen = SimpleNamespace(calibrator=Calibrator(np.linspace(0, 2, 201)))  # the quartiles lie 1 apart
    own = Calibrator(np.linspace(0, 200, 201))

    def guard(parts, logits):
        return SimpleNamespace(
            shares={"screen": 0.5, "knn": 0.5},
            calibrators={"knn": own},
            screen=screen,
            said=(parts, SimpleNamespace(logits=np.array(logits))),
            scores=lambda parts, _: {name: np.array([value]) for name, value in parts.items()},
        )

    monkeypatch.setattr(export_guard_file, "_probed", lambda guard: guard.said)
    ours = guard({"screen": 0.0, "knn": 0.0}, [[0.0, 64.0, -0.5]])
    near = {"screen": export.TOLERANCE, "knn": 100 * export.TOLERANCE}
    logits = [[64 * export.TOLERANCE, 64.0, -0.5]]  # of the largest of them
    _check_parity(ours, guard(near, logits))
    for parts, said, words in (
        ({**near, "screen": 1.01 * export.TOLERANCE}, logits, "part 'screen' of the graph"),
        ({**near, "knn": 101 * export.TOLERANCE}, logits, "part 'knn' of the graph"),
        (near, [[65 * export.TOLERANCE, 64.0, -0.5]], "the graph's logits"),
    ):
        with pytest.raises(RuntimeError, match=words):
            _check_parity(ours, guard(parts, said))


@pytest.mark.parametrize(("to", "content"), [("onnx", ["graph"]), ("openvino", ["read graph", "numbers"])])
def test_the_graph_of_a_guard_is_for_the_runtime_that_is_named(to, content, monkeypatch):
    screen, written = object.__new__(Screen), []
    guard = Said(screen=screen, calibrators={"knn": "scores"}, classifier="one's own", rules="rules", shape=(3, 8, 8))
    core = SimpleNamespace(read_model=lambda graph: f"read {graph}")
    for name, stand_in in {
        "target": lambda _, path, __: path,
        "_exportable": lambda guard: guard,
        "with_room": lambda _: screen,
        "raised": lambda scores: f"raised {scores}",
        "replace": lambda guard, **changed: Said(**vars(guard) | changed),
        "_graph": lambda guard, _: "graph" if guard.calibrators == {"knn": "raised scores"} else None,
        "import_openvino": lambda: SimpleNamespace(Core=lambda: core),
        "serialised": lambda model: [model, "numbers"],
        "rules_of": lambda _: ("knn",),
        "options_of": lambda _, to: to,
        "runnable": lambda *given: given,
        "_check_parity": lambda guard, exported: written.append((guard.classifier, exported.classifier, exported.head)),
        "written_together": lambda path: nullcontext(f"new {path}"),
        "written": lambda *given: written.append(given),
        "_described": lambda *_: "described",
        "save_guard": lambda guard, path: written.append((guard.screen, path)),
    }.items():
        monkeypatch.setattr(export_guard_file, name, stand_in)
    assert export_guard(guard, "path", to=to, pixels="uint8") == "path"
    on_graph = (screen, content, "uint8", to, 2, ("knn",))
    assert written == [
        ("one's own", None, None),
        (on_graph, screen, "new path", "uint8", "described"),
        (on_graph, "new path"),
    ]


@pytest.mark.parametrize(
    ("rules", "features"), [(("max_logit", "energy"), False), (("energy", "knn"), True), ((), False)]
)
def test_what_the_graph_beside_a_classifier_takes(rules, features, monkeypatch):
    screen = object.__new__(Screen)
    for name, stand_in in {
        "example_of": lambda *_: {"pixels": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)},
        "traced": lambda graph, examples, outputs: (graph, dict(examples), outputs),
        "GuardGraph": lambda _: "graph",
        "outputs_of": lambda _: "outputs",
        "rules_of": lambda _: rules,
        "joined": lambda graph, classifier: ("joined", graph, classifier),
    }.items():
        monkeypatch.setattr(export_guard_file, name, stand_in)
    alone = _graph(Said(screen=screen, classifier="one's own"), "uint8")
    assert (alone[0], list(alone[1]), alone[2]) == ("graph", ["pixels"], "outputs")
    beside = Graph(None)
    beside.raw = lambda pixels: (pixels.sum((2, 3)), pixels)
    joined, (graph, examples, outputs), classifier = _graph(Said(screen=screen, classifier=beside), "uint8")
    assert (joined, graph, outputs, classifier) == ("joined", "graph", "outputs", beside)
    assert list(examples) == ["pixels", LOGITS_IN, *([FEATURES_IN] if features else [])]
    assert examples[LOGITS_IN].shape == (4, 3)

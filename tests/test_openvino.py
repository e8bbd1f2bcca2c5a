"""A screen exported to OpenVINO judges as the screen it was made from; in int8, by a calibration of its own."""

import logging
import os
import subprocess
import sys
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from agreement import PLAIN, assert_agrees
from forging import assert_graph_is_compared
from PIL import Image
from scipy.stats import spearmanr
from torch import nn

import recondite
from recondite import ArtifactError, InputError
from recondite.cli import main
from recondite.data.datasets import open_images
from recondite.data.spool import Rows, read_all
from recondite.graphs.exported import Exported, ExportedOptions
from recondite.graphs.runtimes import OUTPUTS
from recondite.screen import openvino as file
from recondite.screen.openvino import _is_layer, _is_robust, judging, quantised
from recondite.screen.timing import instructions
from recondite.statistics.metrics import auroc

export = pytest.importorskip("recondite.screen.export")
pytest.importorskip("nncf")
openvino = pytest.importorskip("openvino")
pytest.importorskip("onnxscript")


pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture(scope="module")
def exported(screens, tmp_path_factory):
    """The folder of a screen that judges by error and evidence, exported."""
    return export.export_openvino(screens("vae"), tmp_path_factory.mktemp("openvino") / "vae")


@pytest.fixture(scope="module")
def plain(screens):
    """A screen whose graph is small: it judges by the error alone."""
    return screens("autoencoder").with_score("error")


@pytest.fixture(scope="module")
def int8(plain, digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "graph"
    return export.export_openvino(plain, path, int8=digits[1400:], always_int8=True)


@pytest.mark.arithmetic
def test_scores_maps_and_labels_are_those_of_the_screen(screens, exported, digits):
    assert screens("vae").score == "auto"
    images = np.concatenate([digits[1000::4], PLAIN])
    theirs = recondite.load(exported).predict(images, feature_score=True)
    ours = screens("vae").predict(images, feature_score=True)
    assert_agrees(screens("vae"), ours, theirs)
    np.testing.assert_allclose(theirs.feature_score, ours.feature_score, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def places(screens):
    """A screen that looks at places, and judges by what it sees there alone."""
    assert "padim" in screens("features").detector.methods
    return screens("features").with_score("error")


@pytest.fixture(scope="module")
def of_features(places, digits, tmp_path_factory):
    """A function: a precision to the folder of that screen exported in it, made once."""
    root = tmp_path_factory.mktemp("features")

    @cache
    def get(precision):
        int8 = {"int8": digits[1400:], "always_int8": True} if precision == "int8" else {}
        return export.export_openvino(places, root / precision, **int8)

    return get


@pytest.mark.arithmetic
def test_a_screen_of_features_keeps_scores_maps_and_labels(places, of_features, digits):
    theirs = recondite.load(of_features("float32")).predict(digits[1000::4], feature_score=True)
    ours = places.predict(digits[1000::4], feature_score=True)
    assert_agrees(places, ours, theirs)
    np.testing.assert_allclose(theirs.feature_score, ours.feature_score, rtol=1e-3, atol=1e-4)


@pytest.mark.arithmetic
@pytest.mark.slow
def test_a_screen_of_features_in_int8_orders_images_as_before(places, of_features, digits):
    """Rounding in the first layer or in linear ones would drown what a Mahalanobis distance looks at."""
    theirs, ours = recondite.load(of_features("int8")), places
    assert theirs.detector.options.precision == "int8"
    found, exact = (screen.predict(digits[1500:]).instance_score for screen in (theirs, ours))
    assert spearmanr(found, exact).statistic > 0.94
    turned = np.rot90(digits[1500:], axes=(1, 2))
    found_turned, exact_turned = (screen.predict(turned).instance_score for screen in (theirs, ours))
    assert auroc(found, found_turned) > auroc(exact, exact_turned) - 0.02
    # The four convolutions that widen block2 to block5.
    factors = [found for _, found in factors_of_layers(of_features("int8")).values()]
    assert sum(found <= {"i8", "u8"} for found in factors) == 4


@pytest.mark.slow
def test_int8_scores_the_same_without_instructions_for_integers(of_features, digits, tmp_path):
    """Held to AVX2, a processor adds pairs of products of integers in 16 bits; with VNNI in 32."""
    np.save(tmp_path / "images.npy", digits[1500:1532])
    code = (
        "import sys, numpy as np, recondite; folder, images, out = sys.argv[1:];"
        "np.save(out, recondite.load(folder).predict(np.load(images)).instance_score)"
    )
    told = [str(of_features("int8")), str(tmp_path / "images.npy"), str(tmp_path / "scores.npy")]
    held = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, *told], check=True, env=held)
    here = recondite.load(of_features("int8")).predict(digits[1500:1532]).instance_score
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), here, rtol=1e-3, atol=1e-3)


@pytest.mark.arithmetic
@pytest.mark.parametrize("precision", ["float32", pytest.param("int8", marks=pytest.mark.slow)])
def test_an_image_scores_the_same_in_every_batch_by_features(of_features, digits, precision):
    screen = recondite.load(of_features(precision))
    together = screen.predict(digits[1400:1440]).instance_score
    parts = [screen.predict(digits[start : start + 9]).instance_score for start in range(1400, 1440, 9)]
    np.testing.assert_array_equal(np.concatenate(parts)[:40], together)


@pytest.mark.arithmetic
def test_labels_agree_on_five_thousand_images(screens, exported, digits):
    images = np.concatenate([np.rot90(digits, turns, axes=(1, 2)) for turns in range(3)])[:5000]
    ours, theirs = screens("vae").predict(images), recondite.load(exported).predict(images)
    assert 100 < ours.is_outlier.sum() < 4900
    assert_agrees(screens("vae"), ours, theirs)


@pytest.mark.arithmetic
def test_an_image_scores_the_same_in_every_batch(exported, int8, digits):
    images = digits[1400:1470]
    for path in (exported, int8):
        screen = recondite.load(path)
        together = screen.predict(images).instance_score
        for size in (1, 3, 9, 33):
            parts = [images[start : start + size] for start in range(0, len(images), size)]
            scores = np.concatenate([screen.predict(part).instance_score for part in parts])
            np.testing.assert_array_equal(scores, together)


def outputs_of_graph_alone(path, images):
    request = openvino.Core().compile_model(path / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = request({"pixels": (images[:, None] / np.float32(255)).astype(np.float32)})
    return {name: found[name] for name in OUTPUTS}


@pytest.mark.arithmetic
def test_the_graph_alone_gives_p_values_and_labels(exported, int8, digits):
    for path in (exported, int8):
        found, screen = outputs_of_graph_alone(path, digits[1400:1500]), recondite.load(path)
        verdicts = screen.predict(digits[1400:1500])
        np.testing.assert_allclose(found["instance_score"], verdicts.instance_score, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["p_value"], verdicts.p_value, atol=1.5 / len(screen.calibrator.scores))
        np.testing.assert_array_equal(found["is_outlier"], verdicts.is_outlier)


@pytest.mark.arithmetic
def test_int8_is_calibrated_by_the_scores_of_its_own_graph(plain, int8, digits):
    screen, ours = recondite.load(int8), plain
    assert screen.detector.options.precision == "int8"
    facts = screen.facts["calibration"]
    assert facts["ranges"] == 78
    assert facts["images"] == 315 == len(screen.calibrator.scores)
    fresh = screen.predict(digits[1400:]).instance_score
    assert np.isin(screen.calibrator.scores, fresh).all()
    # It rounds: scores differ from the screen's by far more than a float32 graph's do, and yet order images alike.
    exact = ours.predict(digits[1400:]).instance_score
    assert np.abs(fresh - exact).max() > 10 * export.TOLERANCE * np.ptp(ours.calibrator.scores)
    assert np.corrcoef(fresh, exact)[0, 1] > 0.9
    turned = np.rot90(digits[1400:], axes=(1, 2))
    assert auroc(fresh, screen.predict(turned).instance_score) > 0.85


def factors_of_layers(path):
    """Return the kind of every layer with weights, and the types of its factors, as they are run here."""
    compiled = openvino.Core().compile_model(path / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    run = {}
    for node in compiled.get_runtime_model().get_ops():
        kind = node.get_rt_info()["layerType"].astype(str)
        if kind in ("Convolution", "Deconvolution", "FullyConnected"):
            # What a processor calls the primitive differs; that both factors are integers does not.
            factors = {value.get_element_type().get_type_name() for value in node.inputs()[:2]}
            run[node.get_friendly_name()] = kind, factors
    return run


@pytest.mark.arithmetic
@pytest.mark.slow
def test_every_layer_of_an_int8_graph_computes_with_integers(digits, tmp_path):
    """The decoder begins with a transposed convolution on numbers of both signs."""
    encoder = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 8))
    unfold = nn.Linear(8, 64), nn.Unflatten(1, (16, 2, 2))
    up = nn.ConvTranspose2d(16, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1)
    given = {"encoder": encoder, "decoder": nn.Sequential(*unfold, *up), "latent_size": 8, "score": "error"}
    screen = recondite.fit(digits[:1000], detector="autoencoder", alpha=0.05, epochs=3, **given)
    path = export.export_openvino(screen, tmp_path / "graph", int8=digits[1000:1500], always_int8=True)
    run = factors_of_layers(path)
    assert {kind for kind, _ in run.values()} == {"Convolution", "Deconvolution", "FullyConnected"}
    # With AVX2 alone, OpenVINO makes floats of what goes into a transposed convolution, however the graph has it.
    spared = {"Deconvolution"} if instructions().partition(",")[0] == "AVX2" else set()
    for kind, factors in run.values():
        assert factors & {"i8", "u8"}, run
        assert factors <= ({"i8", "u8", "f32"} if kind in spared else {"i8", "u8"}), run


@pytest.mark.arithmetic
def test_int8_takes_bytes_too(plain, digits, tmp_path):
    export.export_openvino(plain, tmp_path / "graph", int8=digits[1400:], always_int8=True, pixels="uint8")
    screen = recondite.load(tmp_path / "graph")
    scores = screen.predict(digits[1400:]).instance_score
    assert np.isin(screen.calibrator.scores, scores).all()
    assert "8-bit images" in screen.predict([np.eye(9, dtype=np.uint8) * 255]).errors[0]


def test_int8_leaves_the_handlers_of_others_as_they_are(plain, digits, tmp_path, monkeypatch):
    handler = logging.NullHandler()
    monkeypatch.setattr(logging.getLogger("nncf"), "handlers", [handler])
    export.export_openvino(plain, tmp_path / "graph", int8=digits[1400:1500], always_int8=True)
    assert handler.level == logging.NOTSET


def test_what_cannot_be_exported_says_so(plain, screens, exported, digits, tmp_path):
    with pytest.raises(InputError, match="convolutions or dense layers"):
        export.export_openvino(screens("pca").with_score("error"), tmp_path / "graph", int8=digits[1400:])
    with pytest.raises(InputError, match="enough normal images"):
        export.export_openvino(plain, tmp_path / "graph", int8=digits[1400:1403])
    with pytest.raises(InputError, match="alpha"):
        export.export_openvino(plain, tmp_path / "graph", int8=digits[1400:1410])
    with pytest.raises(InputError, match="already"):
        export.export_openvino(recondite.load(exported), tmp_path / "graph")
    with pytest.raises(ArtifactError, match="cannot be run"):
        Exported((1, 8, 8), ExportedOptions(runtime="openvino"), [b"nonsense", b""], "float32")
    assert not (tmp_path / "graph").exists()


def test_a_graph_is_the_one_that_its_manifest_tells_of(exported, tmp_path):
    assert_graph_is_compared(exported, tmp_path)


def test_a_quantised_graph_that_orders_images_otherwise_is_not_written(plain, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_LOWEST_AGREEMENT", 1.01)
    with pytest.raises(RuntimeError, match="rank correlation"):
        export.export_openvino(plain, tmp_path / "graph", int8=digits[1400:], always_int8=True)
    assert not (tmp_path / "graph").exists()


def test_the_command_line_makes_and_runs_it(plain, folder, tmp_path, capsys):
    plain.save(tmp_path / "screen")
    made = ["export", str(tmp_path / "screen"), "--to", "openvino", "-o", str(tmp_path / "graph")]
    assert main(made) == 0
    assert main(["predict", str(tmp_path / "graph"), str(folder), "-o", str(tmp_path / "verdicts.csv")]) in (0, 1)
    assert len((tmp_path / "verdicts.csv").read_text().splitlines()) == 41
    capsys.readouterr()
    assert main(["export", str(tmp_path / "screen"), "--int8", str(folder), "-o", str(tmp_path / "other")]) == 2
    assert "--to openvino" in capsys.readouterr().err


def test_nothing_is_reported_over_the_network():
    code = (
        "import sys; from recondite.graphs.runtimes import import_nncf, import_openvino; "
        "import_openvino(); import_nncf();"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_images_that_the_screen_has_learnt_from_set_no_threshold_in_int8(plain, digits, tmp_path):
    spooled = read_all(open_images(digits[:1000]), plain.detector.preprocessing)
    learnt = plain.known.learnt_alone().same(spooled)
    assert learnt.sum() >= 500
    with pytest.raises(InputError, match="learnt from all of these"):
        export.export_openvino(plain, tmp_path / "int8", int8=digits[:1000][learnt])


@pytest.mark.parametrize(
    ("faster", "flags", "written", "why"),
    [
        (2.0, [], "int8", "so int8"),
        (1.0, [], "float32", "so float32"),
        (0.8, ["--always-int8"], "int8", "and written all the same: --always-int8"),
    ],
)
def test_the_graph_is_in_int8_only_where_that_pays_or_is_asked_for(
    faster, flags, written, why, plain, digits, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        export, "milliseconds", lambda judges: {"float32": faster, "int8": 1.0} if len(judges) == 2 else {}
    )
    plain.save(tmp_path / "screen")
    folder = tmp_path / "normal"
    folder.mkdir()
    for index in range(1400, 1700):
        Image.fromarray(digits[index]).save(folder / f"{index}.png")
    given = [
        "export",
        str(tmp_path / "screen"),
        "-o",
        str(tmp_path / "graph"),
        "--to",
        "openvino",
        "--int8",
        str(folder),
        *flags,
    ]
    assert main(given) == 0
    told = capsys.readouterr().out.splitlines()[0]
    assert told.startswith(f"int8: {faster:.2f} times as fast as float32 on this processor")
    assert told.endswith(why)
    graph = recondite.load(tmp_path / "graph")
    assert graph.detector.options.precision == written
    assert graph.facts["int8"]["milliseconds"] == {"float32": faster, "int8": 1.0}
    assert graph.facts["int8"]["instructions"]
    if written == "float32":
        assert_agrees(plain, plain.predict(digits[1500:1600]), graph.predict(digits[1500:1600]))


class Node:
    """As much of an operation of a graph as choosing among them looks at."""

    def __init__(self, kind, name=None, channels=8, followers=()):
        self.kind, self.name, self.channels, self.followers = kind, name or kind, channels, followers

    def get_type_name(self):
        return self.kind

    def get_friendly_name(self):
        return self.name

    def input_value(self, number):
        assert number == 1  # a convolution's weights: to, from, height, width
        return SimpleNamespace(get_shape=lambda: [16, self.channels, 3, 3])

    def output(self, number):
        assert number == 0
        takers = [SimpleNamespace(get_node=lambda one=one: one) for one in self.followers]
        return SimpleNamespace(get_target_inputs=lambda: takers)


@pytest.mark.parametrize(
    ("node", "layer", "robust"),
    [
        (Node("Convolution"), True, False),
        (Node("Convolution", followers=[Node("Add")]), True, False),
        (Node("Convolution", followers=[Node("Relu")]), True, True),
        (Node("Convolution", followers=[Node("Add", followers=[Node("Clamp")])]), True, True),
        (Node("Convolution", followers=[Node("Add", followers=[Node("Multiply")])]), True, False),
        (Node("Convolution", followers=[Node("Multiply", followers=[Node("Relu")])]), True, False),
        (Node("Convolution", channels=3, followers=[Node("Relu")]), True, False),  # it looks at the image
        (Node("Convolution", channels=4, followers=[Node("Relu")]), True, True),
        (Node("GroupConvolution", followers=[Node("Relu")]), True, False),
        (Node("MatMul", "node_linear_3"), True, False),
        (Node("MatMul", "node_linear_3", followers=[Node("Relu")]), True, False),
        (Node("MatMul", "node_matmul"), False, False),
        (Node("Add", "node_linear_bias"), False, False),
    ],
)
def test_which_layers_are_of_integers(node, layer, robust):
    assert (_is_layer(node), _is_robust(node)) == (layer, robust)


@pytest.mark.parametrize("pixels", ["float32", "uint8"])
def test_a_graph_is_quantised_by_single_images_and_all_else_stays(pixels, monkeypatch):
    def parameters(**given):
        return given

    stand_in = SimpleNamespace(
        Dataset=list,
        quantize=lambda model, data, **given: SimpleNamespace(model=model, data=data, **given),
        QuantizationPreset=SimpleNamespace(PERFORMANCE="performance"),
        OverflowFix=SimpleNamespace(ENABLE="enable"),
        AdvancedQuantizationParameters=parameters,
        IgnoredScope=parameters,
    )
    monkeypatch.setattr(file, "import_nncf", lambda: stand_in)
    robust = Node("Convolution", "behind", followers=[Node("Relu")])
    nodes = [Node("Convolution", "first", channels=3, followers=[Node("Relu")]), robust, Node("MatMul", "product")]
    model = SimpleNamespace(get_ops=lambda: nodes)
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4)).astype(np.float32) / 255
    found = quantised(model, Rows(images, np.array([4, 2, 1])), pixels)
    assert found.model is model
    assert (found.subset_size, len(found.data)) == (3, 3)
    expected = images[[4, 2, 1], None]
    expected = np.round(expected * 255).astype(np.uint8) if pixels == "uint8" else expected
    assert {one.dtype for one in found.data} == {np.dtype(pixels)}
    assert found.advanced_parameters == {"overflow_fix": "enable"}
    np.testing.assert_array_equal(found.data, expected)
    assert found.ignored_scope["names"] == ["product"]
    assert quantised(model, Rows(images, np.arange(2)), pixels, for_features=True).ignored_scope["names"] == [
        *("first", "product")
    ]
    with pytest.raises(InputError, match="convolutions or dense layers; this detector has none"):
        quantised(SimpleNamespace(get_ops=lambda: nodes[2:]), Rows(images, np.arange(2)), pixels)
    with pytest.raises(InputError, match=r"convolutions with an activation behind them; .*: leave out int8"):
        quantised(SimpleNamespace(get_ops=lambda: nodes[:1]), Rows(images, np.arange(2)), pixels, for_features=True)


def test_a_graph_judges_by_another_calibration_of_its_scores():
    from openvino import opset13 as operation

    scores = operation.parameter([-1], np.float64, name="scores")
    outputs = {
        "instance_score": scores,
        "feature_score": operation.negative(scores),
        "p_value": operation.constant(np.zeros(1)),
        "is_outlier": operation.constant(np.zeros(1, dtype=bool)),
    }
    for name, node in outputs.items():
        node.output(0).set_names({name})
    model = openvino.Model([operation.result(node) for node in outputs.values()], [scores], "before")
    calibrator = recondite.Calibrator(np.array([4.0, 1.0, 3.0, 2.0]))
    screen = SimpleNamespace(calibrator=calibrator, confidence=None, guarantee="exact", threshold=3.0)
    compiled = openvino.Core().compile_model(judging(model, screen), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    given = np.array([0.5, 1.0, 2.5, 3.0, 3.5, 9.0])
    found = compiled({0: given})
    named = {output.get_any_name(): found[output] for output in compiled.outputs}
    assert list(named) == ["instance_score", "feature_score", "p_value", "is_outlier"]
    np.testing.assert_array_equal(named["instance_score"], given)
    np.testing.assert_array_equal(named["feature_score"], -given)
    np.testing.assert_allclose(named["p_value"], calibrator.p_value(given))
    assert named["is_outlier"].tolist() == [False, False, False, False, True, True]
    graph, numbers = file.serialised(model)
    assert graph.startswith(b"<?xml")
    assert isinstance(numbers, bytes)

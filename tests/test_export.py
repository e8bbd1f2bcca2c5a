"""An exported screen judges as the screen it was made from."""

import csv
import inspect
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from agreement import PLAIN, assert_agrees
from conftest import QUICK
from forging import assert_graph_is_compared
from PIL import Image
from scipy.special import log_ndtr
from slow import slow

import recondite
from recondite import ArtifactError, Calibrator, InputError, ReconditeWarning
from recondite.cli import main
from recondite.data.spool import Rows
from recondite.graphs.exported import Exported, ExportedOptions
from recondite.graphs.runtimes import OUTPUTS
from recondite.screen import screen_graph
from recondite.screen.words import AUTO
from recondite.statistics.density import Marginals

export = pytest.importorskip("recondite.screen.export")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


FAST = ("pca", "vae")
"""Whose graphs are compared in `make test`; test_openvino.py compares those of the others, but alad."""


@pytest.fixture(scope="module")
def judging(screens):
    """A function: the name of a detector to its screen.

    One judges by evidence too, which is nine tenths of a graph and of the time to write one, and the same for all.
    """
    assert screens("pca").score == AUTO
    return lambda name: screens(name) if name == "pca" else screens(name).with_score("error")


@pytest.fixture(scope="module")
def exported(judging, tmp_path_factory):
    """A function: the name of a detector to its exported screen, made once."""
    made, paths = {}, {}

    def get(name):
        if name not in made:
            path = tmp_path_factory.mktemp("exported") / name
            export.export_onnx(judging(name), path)
            made[name] = recondite.load(path)
            paths[name] = path
        return made[name]

    def path_of(name):
        get(name)
        return paths[name]

    get.path = path_of
    return get


@pytest.mark.arithmetic
@pytest.mark.parametrize("name", slow(recondite.DETECTORS, lambda name: name not in FAST))
def test_scores_maps_and_labels_are_those_of_the_screen(name, judging, exported, digits):
    images = np.concatenate([digits[1000::4], PLAIN])
    ours, theirs = (s.predict(images, feature_score=True) for s in (judging(name), exported(name)))
    assert_agrees(judging(name), ours, theirs)
    np.testing.assert_allclose(theirs.feature_score, ours.feature_score, rtol=1e-3, atol=1e-4)
    threshold = judging(name).feature_threshold
    assert threshold < exported(name).feature_threshold < 1.001 * threshold


@pytest.mark.arithmetic
def test_a_graph_replaces_a_graph_but_never_a_screen(screens, tmp_path):
    screens("pca").save(tmp_path / "there")
    with pytest.raises(ArtifactError, match="holds a screen, which its graph cannot give back"):
        export.export_onnx(screens("pca"), tmp_path / "there")
    recondite.load(tmp_path / "there")
    (tmp_path / "there" / "detector.safetensors").unlink()  # as the folder of a graph
    assert export.target(screens("pca"), tmp_path / "there", "float32") == tmp_path / "there"


def test_the_graph_alone_gives_p_values_and_labels(exported, digits):
    import onnxruntime

    screen = exported("pca")
    session = onnxruntime.InferenceSession(exported.path("pca") / "model.onnx")
    pixels = (digits[1400:1500, None] / np.float32(255)).astype(np.float32)
    found = dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"pixels": pixels}), strict=True))
    verdicts = screen.predict(digits[1400:1500])
    np.testing.assert_allclose(found["instance_score"], verdicts.instance_score, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["p_value"], verdicts.p_value, atol=1.5 / len(screen.calibrator.scores))
    low, high = np.quantile(screen.calibrator.scores, [0.25, 0.75])
    clear = np.abs(verdicts.instance_score - verdicts.threshold) > 2 * export.TOLERANCE * (high - low)
    np.testing.assert_array_equal(found["is_outlier"][clear], verdicts.is_outlier[clear])


@pytest.mark.arithmetic
@pytest.mark.parametrize("name", slow(recondite.DETECTORS, lambda name: name not in FAST))
def test_an_image_scores_the_same_in_every_batch(name, exported, digits):
    images = digits[1400:1432]
    together = exported(name).predict(images).instance_score
    for size in (1, 2, 5, 31):
        parts = [images[start : start + size] for start in range(0, 32, size)]
        scores = np.concatenate([exported(name).predict(part).instance_score for part in parts])
        np.testing.assert_array_equal(scores, together)


@pytest.mark.parametrize(("shift", "sizes"), [(0.0, {32}), (1e-9, {1})])
def test_batches_run_only_where_their_bits_agree(shift, sizes, exported, digits, monkeypatch):
    detector, calls = recondite.load(exported.path("pca")).detector, []

    def graph(names, pixels):
        calls.append(len(pixels))
        sums = np.array([image.sum(dtype=np.float64) for image in pixels])
        return [sums + shift * np.arange(len(pixels)), pixels][: len(names)]

    monkeypatch.setattr(detector, "run_graph", graph)
    assert detector.batches_agree == (sizes == {32})
    calls.clear()
    scores = detector.score(digits[:20]).instance_score
    assert set(calls) == sizes
    np.testing.assert_allclose(scores, digits[:20].sum(axis=(1, 2)) / 255, rtol=1e-6)


@pytest.mark.arithmetic
@pytest.mark.slow
def test_large_images_run_fewer_at_once(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (60, 256, 256, 3), dtype=np.uint8)
    screen = recondite.fit(images, detector="pca", latent_size=2, alpha=0.1, score="error", image_size=(256, 256))
    path = export.export_onnx(screen, tmp_path / "large")
    assert json.loads((path / "manifest.json").read_text())["batch"] == 16
    detector = recondite.load(path).detector
    run, sizes = detector.run_graph, []
    monkeypatch.setattr(detector, "run_graph", lambda names, pixels: (sizes.append(len(pixels)), run(names, pixels))[1])
    found = detector.score(images[:20]).instance_score
    assert set(sizes) <= {1, 16}
    np.testing.assert_allclose(found, screen.detector.score(images[:20]).instance_score, rtol=1e-4)


def test_a_graph_travels_to_other_processes(exported, digits):
    import pickle

    there = pickle.loads(pickle.dumps(exported("pca")))
    np.testing.assert_array_equal(there.predict(digits[:9]).p_value, exported("pca").predict(digits[:9]).p_value)
    assert there.fingerprint() == exported("pca").fingerprint()


@pytest.mark.arithmetic
@pytest.mark.parametrize("score", slow(["error", "evidence", "total_variation"], lambda score: score != "error"))
def test_every_score_can_be_exported(score, screens, digits, tmp_path):
    screen = screens("pca").with_score(score)
    export.export_onnx(screen, tmp_path / "graph")
    ours, theirs = screen.predict(digits[1400:]), recondite.load(tmp_path / "graph").predict(digits[1400:])
    assert_agrees(screen, ours, theirs)


@pytest.mark.arithmetic
@pytest.mark.slow
def test_reencoding_confidence_and_own_networks(digits, tmp_path):
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8))
    decoder = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Sigmoid(), torch.nn.Unflatten(1, (1, 8, 8)))
    options = {**QUICK["autoencoder"], "epochs": 2}
    options.pop("width")
    screen = recondite.fit(
        digits[:1000], encoder=encoder, decoder=decoder, reencoding=True, confidence=0.9, alpha=0.1, **options
    )
    export.export_onnx(screen, tmp_path / "graph")
    ours, theirs = screen.predict(digits[1000:]), recondite.load(tmp_path / "graph").predict(digits[1000:])
    assert "reencoding" in ours.statistics
    assert_agrees(screen, ours, theirs)
    np.testing.assert_allclose(theirs.p_value, ours.p_value, atol=0.02)


@pytest.mark.arithmetic
def test_a_graph_of_bytes_takes_them_and_refuses_what_is_not_whole(screens, digits, tmp_path):
    plain = screens("pca").with_score("error")
    export.export_onnx(plain, tmp_path / "graph", pixels="uint8")
    screen = recondite.load(tmp_path / "graph")
    ours = plain.predict(digits[1400:1440])
    np.testing.assert_allclose(
        screen.predict(digits[1400:1440]).instance_score, ours.instance_score, rtol=1e-4, atol=1e-4
    )
    larger = np.asarray(Image.fromarray(digits[1400]).resize((13, 11)))
    verdicts = screen.predict([digits[1400], larger, np.full((8, 8), np.nan), digits[1401]])
    assert "8-bit images of 8 x 8" in verdicts.errors[1]
    assert "NaN" in verdicts.errors[2]
    assert verdicts.is_outlier[1]
    np.testing.assert_array_equal(verdicts.instance_score[[0, 3]], screen.predict(digits[1400:1402]).instance_score)
    assert screen.predict([larger]).is_outlier.all()


def test_the_command_line_runs_it_like_any_other_screen(screens, folder, tmp_path):
    screens("autoencoder").with_score("error").save(tmp_path / "screen")
    assert main(["export", str(tmp_path / "screen"), "-o", str(tmp_path / "graph")]) == 0
    for name in ("screen", "graph"):
        command = ["predict", str(tmp_path / name), str(folder), "-o", str(tmp_path / f"{name}.csv")]
        assert main(command) in (0, 1)
    texts = [(tmp_path / f"{name}.csv").read_text() for name in ("screen", "graph")]
    rows = [list(csv.DictReader(text.splitlines())) for text in texts]
    assert len(rows[0]) == len(rows[1]) == 40
    for one, other in zip(*rows, strict=True):
        assert one["id"] == other["id"]
        assert one["is_outlier"] == other["is_outlier"]
    assert main(["show", str(tmp_path / "graph"), str(folder / "even" / "000.png"), "-o", str(tmp_path / "x.png")]) == 0
    assert main(["info", str(tmp_path / "graph")]) == 0


def test_what_cannot_be_exported_says_so(screens, exported, digits, tmp_path):
    scores = screens("pca").calibrator.scores
    groups = Calibrator(scores, tuple("ab"[index % 2] for index in range(len(scores))))
    with pytest.raises(InputError, match="by group"):
        export.export_onnx(replace(screens("pca"), calibrator=groups), tmp_path / "graph")
    with pytest.raises(InputError, match="already"):
        export.export_onnx(exported("pca"), tmp_path / "graph")
    with pytest.raises(InputError, match="uint8"):
        export.export_onnx(screens("pca"), tmp_path / "graph", pixels="bf16")
    with pytest.raises(InputError, match="cannot be saved"):
        exported("pca").save(tmp_path / "graph")
    with pytest.raises(InputError, match="one score"):
        exported("pca").detector.score(digits[:3], score="squared_error")
    assert not (tmp_path / "graph").exists()


def test_an_altered_or_foreign_graph_is_refused(screens, exported, tmp_path):
    path = shutil.copytree(exported.path("pca"), tmp_path / "graph")
    assert recondite.load(path).fingerprint() != screens("pca").fingerprint()
    content = (path / "model.onnx").read_bytes()
    (path / "model.onnx").write_bytes(content[:-1] + b"x")
    with pytest.raises(ArtifactError, match="SHA-256"):
        recondite.load(path)
    (path / "model.onnx").write_bytes(b"nonsense")
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["pixels"] == "float32"
    with pytest.raises(ArtifactError):
        recondite.load(path)
    with pytest.raises(ArtifactError, match="cannot be run"):
        Exported((1, 8, 8), ExportedOptions(), [b"nonsense"], "float32")


def test_a_graph_is_the_one_that_its_manifest_tells_of(exported, tmp_path):
    assert_graph_is_compared(exported.path("pca"), tmp_path)


def test_a_graph_that_scores_otherwise_is_not_written(screens, tmp_path, monkeypatch):
    monkeypatch.setattr(screen_graph, "floats", lambda pixels: pixels * 0.99)
    with pytest.raises(RuntimeError, match="nothing was written"):
        export.export_onnx(screens("pca").with_score("error"), tmp_path / "graph")
    assert not (tmp_path / "graph").exists()


@pytest.mark.arithmetic
def test_tails_and_normal_scores_agree_with_scipy_and_numpy():
    z = np.concatenate([np.linspace(-40, 40, 2001), [1e3, 1e6, -1e6]])
    found = screen_graph.log_normal_tail(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(found, log_ndtr(-z), rtol=1e-9, atol=1e-12)
    generator = np.random.default_rng(0)
    steps = generator.integers(0, 5, 300).astype(float)  # equal knots
    values = np.stack([generator.normal(size=300), steps, np.full(300, 3.0)], axis=1)
    marginals = Marginals.fit(values)
    asked = np.concatenate([values, generator.normal(size=(200, 3)) * 10, np.sort(marginals.knots.T, axis=0)])
    found = screen_graph.normal_scores(marginals, torch.from_numpy(asked)).numpy()
    np.testing.assert_allclose(found, marginals.z(asked), atol=1e-9)


@pytest.mark.arithmetic
def test_small_likenesses_keep_their_digits_in_float32():
    """OpenVINO computes in float32 what is float64 elsewhere."""
    z = np.linspace(-20, 20, 400, dtype=np.float32).reshape(200, 2)
    learnt = SimpleNamespace(directions=np.float32([[1, 0.5], [0.25, 1]]), offsets=np.float32([6, 9]))
    found = screen_graph.likeness(learnt, torch.from_numpy(z)).numpy()
    ratios = z @ learnt.directions.T.astype(np.float64) - learnt.offsets
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.logaddexp(0, np.logaddexp.reduce(ratios, axis=1)), rtol=2e-5)


class Says:
    """A screen that gives every image the scores it was told; a quartile of its calibration scores lies 1 higher."""

    detector = SimpleNamespace(shape=(1, 4, 4))
    calibrator = Calibrator(np.linspace(99, 101, 201))

    def __init__(self, *scores):
        self._scores = np.array(scores, dtype=np.float64)

    def score_batch(self, _):
        return SimpleNamespace(instance_score=self._scores)


@pytest.mark.parametrize(
    ("ours", "apart"),
    [
        (0.0, export.TOLERANCE),  # in units of the quartiles' distance, whatever their place
        (100.0, 100 * export.TOLERANCE),  # or of the score itself
        (-100.0, 100 * export.TOLERANCE),
    ],
)
def test_how_far_a_graph_may_be_off(ours, apart):
    assert export.TOLERANCE == 1 / 2048
    export.check_parity(Says(0.0, ours), Says(0.0, ours + 0.9 * apart))
    for wrong in (ours + 1.2 * apart, ours - 1.2 * apart, np.nan):
        with pytest.raises(RuntimeError, match="nothing was written"):
            export.check_parity(Says(0.0, ours), Says(0.0, wrong))


def test_thresholds_of_graphs_are_a_hair_higher(screens):
    screen = screens("pca")
    low, high = np.quantile(screen.calibrator.scores, [0.25, 0.75])
    raised = export.with_room(screen)
    assert raised.threshold - screen.threshold == pytest.approx(export.TOLERANCE * (high - low))


def scored(*scores):
    return Calibrator(np.array(scores, dtype=float))


@pytest.fixture
def integers(screens, monkeypatch):
    """An export to 8-bit integers whose graphs are words, and which takes the times and integers that it is told."""
    screen = screens("pca").with_score("error")
    told = SimpleNamespace(screen=screen, times={}, written=[], correlated=1.0)
    plain = replace(screen, alpha=0.25)

    def runnable(of, content, *_):
        return replace(of, facts={**of.facts, "graph": content})

    def checked(*_):
        if told.correlated < 0.9:
            raise RuntimeError("nothing was written")

    for name, stand_in in {
        "target": lambda _, path, __: path,
        "import_openvino": lambda: SimpleNamespace(
            Core=lambda: SimpleNamespace(read_model=lambda graph: f"read {graph}")
        ),
        "_traced": lambda *_: "graph",
        "quantised": lambda model, _, __, for_features: f"{model} in integers" + " of features" * for_features,
        "serialised": lambda model: f"serialised {model}",
        "judging": lambda model, _: f"judging {model}",
        "runnable": runnable,
        "_check_order": checked,
        "_in_float32": lambda *_: plain,
        "milliseconds": lambda _: told.times,
        "instructions": lambda: "AVX2",
        "written": lambda exported, _, path, __: told.written.append(exported) or path,
    }.items():
        monkeypatch.setattr(export, name, stand_in)
    return told


@pytest.mark.parametrize(
    ("times", "always", "taken"),
    [
        ({"float32": 2.2, "int8": 2.0}, False, True),  # a tenth more is enough
        ({"float32": 2.19, "int8": 2.0}, False, False),
        ({"float32": 1.0, "int8": 2.0}, True, True),
        ({"float32": 9.0, "int8": 2.0}, True, True),
    ],
)
def test_integers_are_taken_where_they_are_faster_by_a_tenth(times, always, taken, integers, digits):
    integers.times = times
    assert export.export_openvino(integers.screen, "path", int8=digits[1400:1500], always_int8=always) == "path"
    (written,) = integers.written
    assert written.facts["int8"] == {"milliseconds": times, "instructions": "AVX2"}
    assert written.alpha == (integers.screen.alpha if taken else 0.25)
    if taken:
        assert written.facts["graph"] == "serialised judging read graph in integers"
        calibration = written.facts["calibration"]
        assert (calibration["ranges"], calibration["images"]) == (19, len(written.calibrator.scores))
        assert 75 < calibration["images"] <= 80
    else:
        assert "graph" not in written.facts


def test_without_images_a_graph_stays_in_floats_and_too_few_are_refused_at_once(integers, digits):
    export.export_openvino(integers.screen, "path")
    assert integers.written[0].alpha == 0.25
    assert "int8" not in integers.written[0].facts
    with pytest.raises(InputError, match="calibration images"):
        export.export_openvino(integers.screen, "path", int8=digits[1400:1410])
    integers.correlated = 0.5
    with pytest.raises(RuntimeError, match="nothing was written"):
        export.export_openvino(integers.screen, "path", int8=digits[1400:1500])


@pytest.mark.parametrize(("count", "ranges"), [(5, 1), (60, 12), (1499, 299), (1520, 300)])
def test_a_fifth_of_the_images_set_ranges_but_300_at_most(count, ranges, screens):
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    spooled, own, rest = export._for_int8(screens("pca"), images, "none")
    assert (len(own), len(rest)) == (ranges, count - ranges)
    assert not set(own) & set(rest)
    assert len(spooled) == count
    with pytest.raises(InputError, match=r"enough normal images for int8 to set ranges and threshold; got 4"):
        export._for_int8(screens("pca"), images[:4], "none")


def test_images_that_were_learnt_from_set_nothing_and_of_each_unit_one_calibrates(screens, digits):
    screen = screens("pca")
    images = np.concatenate([digits[:1400], np.repeat(digits[1400:1430], 2, axis=0)])
    with pytest.warns(ReconditeWarning, match="has learnt from"):
        spooled, own, rest = export._for_int8(screen, images, "none")
    learnt = np.isin(spooled.hashes, screen.known.hashes[screen.known.learnt])
    assert not learnt[own].any()
    assert not learnt[rest].any()
    assert len(set(map(bytes, spooled.hashes[rest]))) == len(rest)
    assert not np.isin(spooled.hashes[own], spooled.hashes[rest]).any()


@pytest.mark.parametrize(("agreement", "fine"), [(0.7, True), (0.69, False), (float("nan"), False)])
def test_scores_in_integers_are_in_the_order_of_those_before(agreement, fine, screens, digits, monkeypatch):
    screen = screens("pca").with_score("error")
    pixels = np.repeat(digits[:1, None].astype(np.float32) / 255, 503, axis=0)
    theirs, compared = np.arange(502.0), []

    def spearmanr(ours, others):
        compared.append((ours, others))
        return SimpleNamespace(statistic=agreement)

    monkeypatch.setattr("scipy.stats.spearmanr", spearmanr)
    arguments = (screen, SimpleNamespace(calibrator=Calibrator(theirs)), Rows(pixels, np.arange(502)))
    if fine:
        export._check_order(*arguments)
    else:
        with pytest.raises(RuntimeError, match=r"rank correlation of .* and 0\.7 is needed; nothing was written"):
            export._check_order(*arguments)
    ((ours, others),) = compared  # of the first 500
    assert np.array_equal(ours, np.full(500, screen.detector.score(digits[:1]).instance_score[0]))
    assert np.array_equal(others, theirs[:500])


def test_calibration_scores_are_raised_by_the_tolerance_in_units_of_their_quartiles():
    raised = export.raised(Calibrator(np.array([0.0, 1, 2, 3, 4]), ("a", "b", "a", "b", "a")))
    np.testing.assert_allclose(raised.scores, np.arange(5) + 2 * export.TOLERANCE, rtol=1e-12)
    assert raised.groups == ("a", "b", "a", "b", "a")
    assert export.spread_of(scored(0, 0, 0)) == 1e-12
    # Where scores hardly differ, float32 rounds them by more than a share of their spread.
    alike = scored(1e4, 1e4, 1e4)
    assert (export.raised(alike).scores > np.nextafter(np.float32(1e4), np.float32(np.inf))).all()


def test_arrays_agree_up_to_the_tolerance_itself():
    ours = np.array([0.0, 1024.0, -1024.0])
    export.check_agreement("these", ours, ours + np.array([0.5, 1024, 1024]) * export.TOLERANCE, 0.5, "those")
    with pytest.raises(RuntimeError, match=r"these differ by .* from those; nothing was written"):
        export.check_agreement("these", ours, ours + np.array([0.51, 0, 0]) * export.TOLERANCE, 0.5, "those")


def test_what_cannot_become_a_graph(screens, tmp_path):
    screen = screens("pca").with_score("error")
    seen = screen.detector.preprocessing

    def like(**changed):
        preprocessing = replace(seen, **changed)
        return replace(screen, detector=SimpleNamespace(preprocessing=preprocessing, options=screen.detector.options))

    of_values = like(value_range=(0.0, 2.0))
    assert export.target(of_values, tmp_path / "x", "float32") == tmp_path / "x"
    with pytest.raises(InputError, match=r"range of values of its own"):
        export.target(of_values, tmp_path / "x", "uint8")
    assert export.target(screen, tmp_path / "x", "uint8") == tmp_path / "x"
    with pytest.raises(InputError, match="expected pixels among float32, uint8"):
        export.target(screen, tmp_path / "x", "uint16")
    own = inspect.signature(export.export_openvino).parameters
    assert own["always_int8"].default is own["progress"].default is False

"""A screen's judgement as tensor operations, before anything is exported: it is the judgement of the screen."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recondite import Calibrator, InputError
from recondite.screen import screen_graph
from recondite.screen.screen_graph import (
    ScreenGraph,
    combined,
    example_of,
    floats,
    likeness,
    normal_scores,
    number_set,
    traced,
)
from recondite.statistics.density import Density, Marginals
from recondite.statistics.likeness import Likeness


@pytest.fixture(scope="module")
def screen(screens):
    return screens("pca")


@pytest.fixture(scope="module")
def pixels(digits):
    odd = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    return torch.from_numpy(np.concatenate([digits[1400:1440], odd, np.zeros((1, 8, 8), np.uint8)])[:, None])


def names(screen):
    return ("error", "evidence", "auto", screen.evidence.density.names[0], screen.evidence.density.names[-1])


@pytest.mark.parametrize("place", range(5))
def test_the_graph_gives_what_the_screen_gives(place, screen, pixels):
    judge = screen.with_score(names(screen)[place])
    expected = judge.predict(pixels[:, 0].numpy(), feature_score=True)
    for given in (pixels, pixels.float() / 255):
        scores, maps, p_values, outliers = ScreenGraph(judge).forward(given)
        np.testing.assert_allclose(scores, expected.instance_score, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(maps, expected.feature_score, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(p_values, expected.p_value, atol=1.5 / len(judge.calibrator.scores))
        assert outliers.tolist() == expected.is_outlier.tolist()


def test_the_rarest_of_error_and_evidence_where_nothing_was_made_up(screen, pixels):
    assert screen.evidence.made_up is not None
    judge = replace(screen, evidence=replace(screen.evidence, made_up=None))
    scores = ScreenGraph(judge).forward(pixels)[0]
    np.testing.assert_allclose(scores, judge.predict(pixels[:, 0].numpy()).instance_score, rtol=1e-5)


def test_a_score_like_that_of_a_calibration_image_counts_it(screen, pixels):
    judge = screen.with_score("error")
    graph = ScreenGraph(judge)
    own = graph.forward(pixels[:4])[0].double()
    graph.ascending[:4] = own.sort().values
    graph.ascending[4:] = own.max() + 1
    count = len(graph.ascending)
    ranks = own.argsort().argsort()
    np.testing.assert_allclose(graph.forward(pixels[:4])[2], (count - ranks.numpy() + 1) / (count + 1), rtol=1e-6)
    at = replace(judge, alpha=0.5)
    object.__setattr__(at, "calibrator", SimpleNamespace(**{"scores": judge.calibrator.scores, "sizes": {None: 9}}))
    at.calibrator.threshold = lambda *_: float(own[0])
    flagged = ScreenGraph(at).forward(pixels[:4])[3]
    assert flagged.tolist() == (own > own[0]).tolist()  # the threshold itself is no outlier
    at.calibrator.threshold = lambda *_: float("nan")
    assert ScreenGraph(at).forward(pixels[:4])[3].all()


def test_the_likeness_is_that_of_numpy():
    draws = np.random.default_rng(0)
    learnt = Likeness(draws.normal(size=(3, 4)), draws.normal(size=3))
    z = np.concatenate([draws.normal(size=(20, 4)), 100 * draws.normal(size=(20, 4)), np.full((1, 4), -1e3)])
    np.testing.assert_allclose(likeness(learnt, torch.from_numpy(z)), learnt(z), rtol=1e-9, atol=1e-15)


def test_a_value_below_all_knots_is_extrapolated_and_equal_knots_stay_finite():
    marginals = Marginals.fit(np.repeat(np.arange(30.0) // 10, 2).reshape(-1, 1))
    values = np.array([-50.0, -1.0, 0.0, 0.5, 1.0, 2.0, 2.5, 80.0])[:, None]
    np.testing.assert_allclose(normal_scores(marginals, torch.from_numpy(values)), marginals.z(values), atol=1e-9)


def test_what_is_counted_and_what_pixels_are():
    assert number_set(torch.tensor([[True, False, True], [False, False, False]])).tolist() == [2, 0]
    assert floats(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    given = torch.tensor([0.25, 7.0])
    assert floats(given) is given


@pytest.mark.parametrize(("batch", "count"), [(8, 8), (100, 32)])
def test_an_example_is_a_batch_of_black_images(batch, count):
    screen = SimpleNamespace(detector=SimpleNamespace(scoring_batch=batch, shape=(3, 4, 5)))
    (example,) = example_of(screen, "uint8").values()
    assert (tuple(example.shape), example.dtype, int(example.sum())) == ((count, 3, 4, 5), torch.uint8, 0)


def test_what_exports_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"pip install \"recondite\[export\]\""):
        traced(torch.nn.Identity(), {})


def test_an_image_in_the_middle_of_all_is_at_no_distance():
    statistics = {name: np.random.default_rng(number).normal(size=101) for number, name in enumerate("ab")}
    density = Density.fit(statistics)
    asked = {name: np.r_[np.median(values), values[:5]] for name, values in statistics.items()}
    tensors = {name: torch.from_numpy(values) for name, values in asked.items()}
    found = combined(SimpleNamespace(density=density), "evidence", torch.zeros(6), tensors)
    assert found[0] < 0.1
    np.testing.assert_allclose(found, density.distance(asked), atol=1e-6)


class Encoding(torch.nn.Module):
    """Measures the mean of an image through an encoder of two inner layers."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])

    def encoder_layers(self):
        return list(self.layers)

    def painted(self, pixels):
        return pixels

    def measure_and_pool(self, pixels):
        for layer in self.layers:
            pixels = layer(pixels)
        return "measured", pixels, pixels.double().mean((1, 2, 3))


@pytest.mark.parametrize("reencoding", [True, False])
def test_inner_layers_are_recorded_where_evidence_asks_for_them(reencoding, monkeypatch):
    monkeypatch.setattr(screen_graph, "with_plain_convolutions", lambda detector: detector)
    monkeypatch.setattr(screen_graph, "combined", lambda _, __, error, found: error + found["layers"])
    observer = SimpleNamespace(
        reencoding=reencoding, found=lambda *given: {"layers": torch.tensor(float(len(given[3])))}
    )
    screen = SimpleNamespace(
        **{"detector": Encoding(), "evidence": SimpleNamespace(observer=observer), "score": "auto", "threshold": 1.5},
        **{"calibrator": Calibrator(np.arange(9.0)), "confidence": None, "guarantee": "exact"},
    )
    graph = ScreenGraph(screen)
    x = torch.tensor([0.25, 0.75])[:, None, None, None].expand(2, 1, 2, 2)
    (scores, maps, p_values, flags), measured = graph.judged(x)
    assert scores.tolist() == ([2.25, 2.75] if reencoding else [0.25, 0.75])
    assert (measured, flags.tolist(), maps.shape) == ("measured", [reencoding] * 2, x.shape)
    np.testing.assert_allclose(p_values, screen.calibrator.p_value(scores.numpy()))
    screen.score = "error"
    assert ScreenGraph(screen).judged(x)[0][0].tolist() == [0.25, 0.75]
    screen.score, screen.evidence = "auto", None
    assert ScreenGraph(screen).judged(x)[0][0].tolist() == [0.25, 0.75]

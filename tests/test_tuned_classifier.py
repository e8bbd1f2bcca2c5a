"""A fine-tuned classifier as numbers: what its features are made of, and what it is read from."""

import json
import math

import numpy as np
import pytest
import torch
from classifiers import SmallEndings
from torch import nn

from recondite.networks.backbones import Backbone
from recondite.networks.two_endings import LAST, TwoEndings
from recondite.screen.tuned_classifier import TunedClassifier, tuned_from, weighted


def classifier(before=1.0, backbone=None):
    weight = torch.tensor(np.random.default_rng(1).normal(size=(2, 4)), dtype=torch.float32)
    whole = (backbone or SmallEndings(4, 2)).requires_grad_(False).eval()
    return TunedClassifier(whole, "lite0", weight, torch.tensor([0.5, -1.0]), (3, 8, 8), before)


@pytest.mark.parametrize(("before", "size"), [(1.0, 8), (0.25, 8), (math.inf, 4)])
def test_features_are_of_unit_length_now_and_times_a_weight_before_or_that_alone(before, size):
    made = classifier(before)
    pixels = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    maps = made.backbone(pixels)
    now, earlier = (nn.functional.normalize(one.mean((2, 3))) for one in maps)
    expected = earlier if before == math.inf else torch.cat([now, before * earlier], dim=1)
    logits = maps[0].mean((2, 3)) @ made.weight.T + made.bias
    for found in (made.outputs(pixels), made.told(maps)):
        torch.testing.assert_close(found[0], logits)
        torch.testing.assert_close(found[1], expected)
    torch.testing.assert_close(made(pixels), logits)
    assert [tuple(one.shape) for one in made.outputs(pixels[:0])] == [(0, 2), (0, size)]
    whole = torch.from_numpy(weighted(classifier().outputs(pixels)[1].numpy(), 4, before))
    torch.testing.assert_close(whole, expected, rtol=1e-6, atol=1e-6)
    pixels[1] = 0  # what a black image gives is known beforehand
    torch.testing.assert_close(made.outputs(pixels)[1], made.told(made.backbone(pixels))[1])


def test_one_ending_sees_what_it_sees_now_alone():
    plain = Backbone(nn.Conv2d(3, 4, 2, 2), units="unit", side=None)
    made = classifier(backbone=plain)
    assert made.before == 0
    pixels = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(made.outputs(pixels)[1], nn.functional.normalize(plain(pixels)[0].mean((2, 3))))
    assert made.outputs(pixels[:0])[1].shape == (0, 4)
    assert made.facts()["blocks"] is None
    assert made.facts()["before"] == 0
    assert TunedClassifier(SmallEndings(4, 2), "lite0", made.weight, made.bias, (3, 8, 8)).before == 1
    np.testing.assert_array_equal(weighted(np.arange(12, dtype=np.float32).reshape(2, 6), 3, 0), [[0, 1, 2], [6, 7, 8]])


@pytest.fixture(scope="module")
def kept():
    """Numbers and facts of a classifier with one block fine-tuned: random weights."""
    weight, bias = torch.rand(2, 1280), torch.rand(2)
    made = TunedClassifier(TwoEndings("lite0", 1, 32), "lite0", weight, bias, (3, 16, 16), 0.5)
    return made.tensors(), json.loads(json.dumps(made.facts()))


def test_it_is_read_as_it_was_written(kept):
    tensors, facts = kept
    assert facts == {"architecture": "lite0", "blocks": 1, "before": 0.5, "side": 32, "shape": [3, 16, 16]}
    again = tuned_from(tensors, facts)
    assert (again.before, again.shape, again.backbone.side) == (0.5, (3, 16, 16), 32)
    found = again.tensors()
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    assert tuned_from(tensors, {name: fact for name, fact in facts.items() if name != "before"}).before == 1
    assert tuned_from(tensors, facts | {"before": "alone"}).before == math.inf
    assert tuned_from(tensors, facts | {"before": 1}).before == 1


def test_one_ending_is_read_as_it_was_written():
    plain = Backbone(None, (LAST,), 32, variant="lite0")
    made = TunedClassifier(plain, "lite0", torch.rand(2, 1280), torch.rand(2), (1, 16, 16))
    again = tuned_from(made.tensors(), made.facts())
    assert again.before == 0
    assert not isinstance(again.backbone, TwoEndings)
    assert all(np.array_equal(again.tensors()[name], value) for name, value in made.tensors().items())
    with pytest.raises(ValueError, match="saw before with a weight"):
        tuned_from(made.tensors(), made.facts() | {"before": 1.0})


@pytest.mark.parametrize(("side", "fine"), [(31, False), (32, True), (1024, True), (1025, False)])
def test_sides_are_ordinary(kept, side, fine):
    tensors, facts = kept
    if fine:
        assert tuned_from(tensors, facts | {"side": side}).backbone.side == side
    else:
        with pytest.raises(ValueError, match=f"a classifier of 'lite0', side {side}"):
            tuned_from(tensors, facts | {"side": side})


def test_parts_that_do_not_belong_together_are_refused(kept):
    tensors, facts = kept
    weight, bias = "linear.weight", "linear.bias"
    for change in ({"before": -0.1}, {"before": 1.1}, {"before": 0}, {"before": math.nan}, {"blocks": None}):
        with pytest.raises(ValueError, match="saw before with a weight"):
            tuned_from(tensors, facts | change)
    for blocks in (0, 16):
        with pytest.raises(ValueError, match="blocks fine-tuned"):
            tuned_from(tensors, facts | {"blocks": blocks})
    for blocks in (2, 15):
        with pytest.raises(RuntimeError, match=r"size mismatch|Missing|Unexpected"):
            tuned_from(tensors, facts | {"blocks": blocks})
    for shape in ([3, 16], [3, 16, 16, 1]):
        with pytest.raises(ValueError, match="a classifier of"):
            tuned_from(tensors, facts | {"shape": shape})
    for change in (
        {weight: tensors[weight][0]},
        {bias: tensors[bias][:1]},
        {bias: tensors[bias][None]},
        {weight: tensors[weight].astype(np.float64)},
        {bias: tensors[bias].astype(np.float16)},
    ):
        with pytest.raises(ValueError, match="a linear layer of shapes"):
            tuned_from(tensors | change, facts)

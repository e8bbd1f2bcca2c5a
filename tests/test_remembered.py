"""A fit of a screen and a head looks at each image once, and finds what it would find by looking again."""

import os

import pytest
import torch
from coloured import Backbone, coloured, pairs
from torch import nn

import recondite
from recondite.detectors import feature_vectors, remembered
from recondite.detectors.remembered import recalled, remember, remembering
from recondite.screen import guard_fit

LEARNT = 600


class Counting(Backbone):
    def __init__(self, looks, places):
        super().__init__()
        self.looks, self.places = looks, places

    def forward(self, x):
        self.looks.append(len(x))
        return nn.functional.avg_pool2d(x, 4) if self.places else super().forward(x)


def guard_and_looks(monkeypatch, methods):
    """Return a guard, and how many images its backbone had seen when head and rules were there."""
    looks, before = [], []
    with_rules = guard_fit._with_rules

    def fit(*given, **named):
        backbone = Counting(looks, "subspace" in methods)
        return recondite.fit(*given, **named | {"backbone": backbone, "latent_size": 2, "methods": methods})

    def counted(*given):
        found = with_rules(*given)
        before.append(sum(looks))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(guard_fit, "fit", fit)
        patch.setattr(guard_fit, "_with_rules", counted)
        images = pairs(*coloured(1000, 1))
        guard = guard_fit.fit_guard(images, group_by="none", alpha=0.1, parts=["screen", "vim"]).guard
    return guard, before[0]


@pytest.mark.parametrize("methods", [("mahalanobis",), ("mahalanobis", "subspace")])
def test_screen_and_head_look_at_each_image_once(monkeypatch, methods):
    guard, looks = guard_and_looks(monkeypatch, methods)
    with monkeypatch.context() as patch:
        patch.setattr(feature_vectors, "recalled", lambda *_: None)
        twin, of_twin = guard_and_looks(monkeypatch, methods)
    # Beside them padding, and for `map_scale` some of the calibration images with places.
    assert looks < 1.35 * LEARNT
    assert of_twin > 2.5 * LEARNT
    for name, value in guard.rules.tensors.items():
        assert torch.equal(value, twin.rules.tensors[name]), name
    assert torch.equal(guard.head.weight, twin.head.weight)
    images = coloured(90, 2)[0]
    assert guard.screen.predict(images).p_value.tobytes() == twin.screen.predict(images).p_value.tobytes()
    assert list(guard(images).records()) == list(twin(images).records())


def test_what_is_recalled_is_that_of_these_pixels_and_this_network():
    x, vectors = torch.rand(5, 3, 4, 4), torch.rand(5, 7)
    one, other = object(), object()
    remember(one, x, vectors)
    with remembering():
        assert recalled(one, x) is None  # nobody was remembering
        remember(one, x[:4], vectors[:4])
        order = [2, 0, 2]
        assert torch.equal(recalled(one, x[order]), vectors[order])
        assert recalled(one, x) is None  # one of them was not seen
        assert recalled(other, x[:4]) is None
        with remembering():
            remember(one, x[4:], vectors[4:])
        assert torch.equal(recalled(one, x), vectors)
        remember(other, x, 2 * vectors)
        assert torch.equal(recalled(one, x), vectors)
        assert torch.equal(recalled(other, x), 2 * vectors)
    with remembering():
        assert recalled(one, x) is None


def test_shapes_alone_are_not_kept():
    """As a screen has when it is built to be read, which `train` of `fit_guard` may do meanwhile."""
    x, network = torch.empty(2, 3, 4, 4, device="meta"), object()
    with remembering():
        remember(network, x, torch.empty(2, 7, device="meta"))
        assert recalled(network, x) is None


def test_what_finds_no_room_is_looked_at_again(monkeypatch):
    x, vectors, network = torch.rand(3, 2), torch.rand(3, 7), object()
    write = os.pwrite

    def full_after_one(file, content, place):
        if place:
            raise OSError("no space left on device")
        return write(file, content, place)

    monkeypatch.setattr(remembered.os, "pwrite", full_after_one)
    with remembering():
        remember(network, x, vectors)
        assert recalled(network, x) is None
        assert torch.equal(recalled(network, x[:1]), vectors[:1])


def test_what_is_kept_is_found_by_network_and_pixels_and_there_is_an_end_of_room(monkeypatch):
    monkeypatch.setattr(remembered, "_MOST", 3)
    images, vectors = torch.rand(4, 1, 2, 2), torch.rand(4, 5)
    assert recalled("a", images[:1]) is None
    with remembering():
        remember("a", images[:2], vectors[:2])
        remember("a", images[:2], vectors[2:])  # known already
        assert torch.equal(recalled("a", images[:2].flip(0)), vectors[:2].flip(0))
        assert recalled("b", images[:1]) is None
        assert recalled("a", images[1:3]) is None
        remember("a", images[2:], vectors[2:].double())  # what is kept is float32
        assert recalled("a", images[2:3]) is None
        remember("a", images[2:], vectors[2:])
        assert torch.equal(recalled("a", images[:3]), vectors[:3])
        assert recalled("a", images[3:]) is None
    assert recalled("a", images[:1]) is None

"""Parts of a fine-tuned guard are chosen by classifiers that were trained without a class."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import recondite
from recondite.data.images import Preprocessing
from recondite.errors import InputError
from recondite.screen import guard_fit
from recondite.screen.choose_parts import best_telling
from recondite.screen.classes import with_classes
from recondite.screen.linear_head import FEATURE_RULES
from recondite.screen.trained_without import trained_without
from recondite.screen.tuned_classifier import TunedClassifier, weighted

COLOURS = {"red": (0.8, 0.2, 0.2), "green": (0.2, 0.8, 0.2), "blue": (0.2, 0.2, 0.8)}


class ByColour(TunedClassifier):
    """Knows the colours of some classes, and sees the colour of an image."""

    def __init__(self, names):
        super().__init__(
            None, "lite0", torch.tensor([COLOURS[one] for one in names]), torch.zeros(len(names)), (3, 8, 8)
        )

    def outputs(self, pixels):
        features = pixels.float().mean(dim=(2, 3))
        return 40 * (features[:, None] * self.weight).sum(2), features


class Means(nn.Module):
    def forward(self, x):
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


def coloured(count, seed):
    draws = np.random.default_rng(seed)
    names = draws.choice(list(COLOURS), count).tolist()
    base = np.array([COLOURS[one] for one in names])[:, :, None, None] + draws.normal(0, 0.05, (count, 3, 1, 1))
    images = np.clip(base + draws.normal(0, 0.05, (count, 3, 8, 8)), 0, 1) * 255
    return list(zip(images.astype(np.uint8), names, strict=True))


def test_a_class_is_left_out_of_the_training_itself(monkeypatch):
    trained = []

    def fine_tuned(images, names, **options):
        assert options["blocks"] == 3
        trained.append((tuple(names), {images.label(index) for index in range(images.size)}))
        return ByColour(names)

    monkeypatch.setattr(guard_fit, "fine_tuned", fine_tuned)
    learnt, held = coloured(90, 1), coloured(300, 2)
    images = np.stack([image for image, _ in learnt])
    screen = recondite.fit(images, detector="features", backbone=Means(), latent_size=2, alpha=0.2, group_by="none")
    given = {"screen": screen, "calibration": held, "group_by": "none", "fine_tune": 3}
    fitted = guard_fit.fit_guard(learnt, **given)
    every, *without = trained
    assert every == (("blue", "green", "red"), set(COLOURS))
    assert len(without) == 2
    assert all(set(names) == seen and len(names) == 2 for names, seen in without)
    left_out = {(set(COLOURS) - set(names)).pop() for names, _ in without}
    assert set(fitted.facts["left out"]) == left_out
    assert min(fitted.facts["left out"].values()) > 0.9  # a colour of its own, far from the others
    trained.clear()
    guard_fit.fit_guard(learnt, **given, parts=["screen", "knn"])
    assert len(trained) == 1


def test_so_it_is_out_of_training_that_is_given():
    learnt, held = coloured(90, 1), coloured(300, 2)
    images = np.stack([image for image, _ in learnt])
    screen = recondite.fit(images, detector="pca", latent_size=2, alpha=0.2, group_by="none")
    given = {"screen": screen, "calibration": held, "group_by": "none"}
    trained = []

    def train(images, names):
        trained.append((tuple(names), {images.label(index) for index in range(images.size)}))
        return ByColour(names)

    fitted = guard_fit.fit_guard(learnt, train=train, **given)
    assert [len(names) for names, _ in trained] == [3, 2, 2]
    assert all(set(names) == seen for names, seen in trained)
    assert set(fitted.facts["left out"]) == {(set(COLOURS) - seen).pop() for _, seen in trained[1:]}
    with pytest.raises(InputError, match=r"expected one of classifier, fine_tune .* got several"):
        guard_fit.fit_guard(learnt, train=train, fine_tune=3, **given)
    with pytest.raises(InputError, match="that a guard keeps, such as `module_classifier` makes; got Means"):
        guard_fit.fit_guard(learnt, train=lambda *_: Means(), **given)


def test_of_two_classes_none_is_left_out(monkeypatch):
    monkeypatch.setattr(guard_fit, "fine_tuned", lambda *_, **__: pytest.fail("trained without a class"))
    assert trained_without(guard_fit.fine_tuned, None, None, ("a", "b"), None) == {}


class LooksBack(ByColour):
    """What it sees now is the colour; what it saw before is another number for each image of one colour."""

    helps = True

    def __init__(self, names):
        super().__init__(names)
        self.before = 1.0

    def outputs(self, pixels):
        logits, now = super().outputs(pixels)
        noise = torch.from_numpy(np.random.default_rng(0).normal(size=(len(pixels), 3)).astype(np.float32))
        return logits, torch.cat([now, now if self.helps else noise], dim=1)

    def with_before(self, before):
        self.before = before
        return self


@pytest.mark.parametrize("helps", [True, False])
def test_what_the_network_saw_before_counts_where_it_tells_left_out_classes(monkeypatch, helps):
    images, held = (with_classes(coloured(*some), None) for some in ((90, 1), (150, 2)))
    monkeypatch.setattr(LooksBack, "helps", helps)
    found = trained_without(
        lambda _, names: LooksBack(names), images, held, tuple(sorted(COLOURS)), Preprocessing(shape=(3, 8, 8))
    )
    assert list(found) == [1.0, 0.5, 0.25, 0.0, math.inf]
    assert (best_telling(found, FEATURE_RULES) == 1) == helps


class Recalls(LooksBack):
    def outputs(self, pixels):
        logits, features = super().outputs(pixels)
        return logits, torch.from_numpy(weighted(features.numpy(), 3, self.before))


@pytest.mark.parametrize(("colours", "detector"), [(2, "features"), (2, "pca"), (3, "features")])
def test_of_two_classes_rules_look_at_what_the_network_saw_before_alone(monkeypatch, colours, detector):
    """Beside a screen that knows photographs; and then a class that is left out tells which rule is best."""
    asked = []

    def fine_tuned(_, names, *, variant, **options):
        assert options
        asked.append(variant)
        return Recalls(names)

    monkeypatch.setattr(guard_fit, "fine_tuned", fine_tuned)
    known = sorted(COLOURS)[:colours]
    learnt, held = ([one for one in coloured(*some) if one[1] in known] for some in ((90, 1), (500, 2)))
    own = {"backbone": Means()} if detector == "features" else {}
    images = np.stack([image for image, _ in learnt])
    screen = recondite.fit(images, detector=detector, latent_size=2, alpha=0.2, group_by="none", **own)
    fitted = guard_fit.fit_guard(learnt, screen=screen, calibration=held, group_by="none", fine_tune=3)
    assert set(asked) == {"lite0"}
    assert (fitted.guard.classifier.before == math.inf) == ((colours, detector) == (2, "features"))
    assert bool(fitted.facts["left out"]) == ((colours, detector) != (2, "pca"))


def test_the_backbone_that_is_named_is_fine_tuned(monkeypatch):
    def fine_tuned(*_, variant, **__):
        raise InputError(variant)

    monkeypatch.setattr(guard_fit, "fine_tuned", fine_tuned)
    images = coloured(60, 1)
    with pytest.raises(InputError, match="expected one of lite0, lite1, lite2 as the backbone to fine-tune; got 'timm"):
        guard_fit.fit_guard(images, fine_tune=3, backbone="timm:resnet18")
    screen = recondite.fit(np.stack([image for image, _ in images]), detector="features", backbone="lite1", alpha=0.2)
    with pytest.raises(InputError, match="lite1"):
        guard_fit.fit_guard(images, screen=screen, calibration=coloured(60, 2), group_by="none", fine_tune=3)


def test_the_images_of_the_class_itself_are_those_that_look_new():
    images, held = (with_classes(coloured(*some), None) for some in ((90, 1), (150, 2)))
    names = tuple(sorted(COLOURS))
    seen = Preprocessing(shape=(3, 8, 8))
    found = trained_without(lambda _, names: ByColour(names), images, held, names, seen)
    assert list(found) == [1.0]  # the features as they are
    assert len(found[1.0]) == 2
    for name, (others, own) in found[1.0].items():
        count = [held.label(index) for index in range(held.size)].count(name)
        assert {len(values) for values in own.parts.values()} == {len(own.predicted)} == {count}
        assert {len(values) for values in others.parts.values()} == {len(others.predicted)} == {150 - count}
        assert own.parts["knn"].mean() > 2 * others.parts["knn"].mean()

"""A torch network of the user's own, handed to a guard as a graph."""

import numpy as np
import pytest
import torch
from coloured import coloured, pairs
from torch import nn

import recondite
from recondite.errors import InputError
from recondite.networks.hooks import evaluating
from recondite.screen.guard_file import load_guard, save_guard
from recondite.screen.guard_fit import fit_guard

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from recondite.screen import module_classifier as of_modules
from recondite.screen.export import TOLERANCE
from recondite.screen.module_classifier import _Outputs, module_classifier

SHAPE = (3, 16, 16)


class Network(nn.Module):
    """Colours by the mean over places of a few channels, which are its features."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.maps = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Dropout(0.5))
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.pooled(self.maps(x)))


@pytest.fixture(scope="module")
def network():
    return Network().train()


@pytest.fixture(scope="module")
def classifier(network):
    return module_classifier(network, SHAPE, "maps")


def test_the_graph_says_what_the_network_says(network, classifier):
    images = torch.rand(3, *SHAPE)
    logits, features = classifier.outputs(images)
    assert network.training
    assert network.head.weight.requires_grad
    with evaluating(network):
        assert torch.allclose(logits, network(images), atol=1e-5)
        assert torch.allclose(features, network.pooled(network.maps(images)), atol=1e-5)  # of maps the mean over places
    of_vectors = module_classifier(network, SHAPE, "pooled").outputs(images)[1]
    assert torch.allclose(of_vectors, features, atol=1e-5)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    assert module_classifier(linear, (6, 1, 1)).outputs(torch.rand(2, 6, 1, 1))[1] is None


def test_a_guard_with_it_looks_at_its_features_and_is_saved(classifier, tmp_path):
    learnt, held, new = (pairs(*coloured(count, seed)) for count, seed in ((60, 1), (300, 2), (20, 3)))
    images, strange = np.stack([image for image, _ in learnt]), np.zeros((20, *SHAPE), dtype=np.uint8)
    screen = recondite.fit(images, detector="pca", alpha=0.1, group_by="none")
    given = {"screen": screen, "classes": ["red", "blue"], "calibration": held, "group_by": "none"}
    guard = fit_guard(learnt, classifier=classifier, parts=["mahalanobis", "knn"], **given).guard
    screen.save(tmp_path / "guard")
    save_guard(guard, tmp_path / "guard")
    again = load_guard(recondite.load(tmp_path / "guard"), tmp_path / "guard")
    images = np.concatenate([np.stack([image for image, _ in new]), strange])
    ours, theirs = guard(images), again(images)
    assert ours.abstained[20:].all()
    assert not ours.abstained[:20].all()
    for part in ("mahalanobis", "knn"):
        assert np.array_equal(ours.p_values[part], theirs.p_values[part])


def test_what_is_no_classifier_is_refused():
    with pytest.raises(InputError, match="no_such"):
        module_classifier(Network(), SHAPE, "no_such")
    with pytest.raises(InputError, match="does not take a batch"):
        module_classifier(Network(), (1, 16, 16))


@pytest.mark.parametrize("layer", [None, "maps", "maps.0", "pooled"])
def test_what_is_traced_gives_logits_and_the_mean_of_features_over_places(network, layer):
    images = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    with evaluating(network):
        found = _Outputs(network, layer)(images)
        assert torch.equal(found[0], network(images))
        assert len(found) == (1 if layer is None else 2)
        if layer is not None:
            seen = network.maps[0](images) if layer == "maps.0" else network.maps(images)
            torch.testing.assert_close(found[1], seen.mean((2, 3)))


def test_places_in_a_row_are_averaged_too():
    network = nn.Sequential(nn.Flatten(2), nn.Flatten())
    images = torch.rand(3, 2, 4, 5)
    logits, features = _Outputs(network, "0")(images)
    torch.testing.assert_close(features, images.mean((2, 3)))
    assert torch.equal(logits, images.flatten(1))


def test_a_graph_that_says_something_else_is_refused(network, monkeypatch):
    """By more than the tolerance of its largest value, however small another may be."""

    def graph(off):
        class Off:
            def __init__(self, _):
                pass

            def raw(self, pixels):
                with evaluating(network):
                    logits = network(pixels)
                logits[0, logits[0].abs().argmin()] += off * logits.abs().max()
                return [logits]

        return Off

    monkeypatch.setattr(of_modules, "traced", lambda *_: b"")
    monkeypatch.setattr(of_modules, "OnnxClassifier", graph(0.9 * TOLERANCE))
    module_classifier(network, SHAPE)
    monkeypatch.setattr(of_modules, "OnnxClassifier", graph(1.1 * TOLERANCE))
    with pytest.raises(RuntimeError, match="the graph's logits differ by"):
        module_classifier(network, SHAPE)

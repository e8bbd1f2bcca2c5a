"""What a frozen network is shown of images, and which of its features are looked at."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recondite.detector_options import FeaturesOptions
from recondite.detectors import build
from recondite.detectors.feature_vectors import FeatureVectors, size_to_look_at
from recondite.detectors.remembered import recalled, remembering
from recondite.networks.hooks import evaluating


class Halved(nn.Module):
    """Gives each quarter of four pixels as it is, and notes the sizes of what it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(tuple(x.shape))
        return F.avg_pool2d(x, 2)


def vectors_of(shape, looks_at_places=True, **options):
    network = Halved()
    options = {"units": "unit", "methods": ("padim",), "latent_size": 1, **options}
    return FeatureVectors(shape, FeaturesOptions(**options), network, looks_at_places).eval(), network


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((60, 64), (60, 64)),
        ((60, 500), (60, 500)),  # it is as large as its longer side says
        ((500, 60), (500, 60)),
        ((352, 2048), (352, 2048)),
        ((704, 1000), (352, 500)),
        ((360, 4096), (180, 2048)),
    ],
)
def test_how_large_images_are_looked_at(size, expected):
    assert size_to_look_at(*size) == expected


def test_small_images_are_enlarged_for_networks_of_photographs_and_for_no_others():
    assert build("features", image_shape=(1, 8, 8)).backbone.side == 160
    assert build("features", image_shape=(1, 8, 8), side=32, latent_size=4).backbone.side == 32
    own, network = vectors_of((1, 8, 8))
    assert own.backbone.side is None
    assert {shape[2:] for shape in network.seen} == {(8, 8)}
    large = build("features", image_shape=(1, 72, 72), methods="mahalanobis")
    assert large.backbone.side is None


def test_large_images_are_cut_into_tiles_of_512_unless_they_are_shrunk():
    shape = (1, 1032, 24)
    own, network = vectors_of(shape)
    assert own.tiles.tile == (512, 24)
    assert own.grid == (516, 12)
    assert {seen[2:] for seen in network.seen} == {(512, 24)}
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    with evaluating(own):
        places = own(x)[1]
    expected = F.avg_pool2d(F.avg_pool2d(x.repeat(1, 3, 1, 1), 2), 3, stride=1, padding=1, count_include_pad=False)
    torch.testing.assert_close(places, F.normalize(expected, dim=1).flatten(2).transpose(1, 2))
    assert vectors_of((1, 1024, 16))[0].tiles is None
    assert vectors_of((1, 600, 16))[0].tiles is None
    assert vectors_of(shape, side=64)[0].tiles is None
    assert vectors_of((1, 600, 16), tile=128)[0].tiles.tile == (128, 16)
    assert vectors_of((1, 100, 16), tile=128)[0].tiles is None  # nothing to cut


def test_a_network_of_ones_own_gets_the_units_that_are_named():
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for units in ("unit", "symmetric"):
        own, network = vectors_of((1, 8, 8), units=units)
        network.register_forward_pre_hook(lambda _, given: found.append(given[0].min().item()))
        own(x)
    assert found[0] >= 0
    assert found[1] == pytest.approx(2 * found[0] - 1, abs=1e-6)


def test_only_full_batches_are_remembered():
    """Another size of batches may give other bits."""
    own, network = vectors_of((1, 8, 8), looks_at_places=False)
    full = torch.rand(own.images_together("cpu"), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with remembering(), torch.no_grad():
        own(full[:3])
        assert recalled(own._these_weights, full[:3]) is None
        before = len(network.seen)
        whole, places = own(full)
        again, none = own(full)
        assert len(network.seen) == before + 1
        assert torch.equal(again, whole)
        assert places.shape == none.shape == (len(full), 0, 3)
        some = own.of_images(full[2:5])
        assert torch.equal(some, whole[2:5, 0])
        assert len(network.seen) == before + 1


def test_features_without_places_are_taken_as_they_are():
    class Flat(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :5]

    own = FeatureVectors((1, 8, 8), FeaturesOptions(units="unit", latent_size=1), Flat(), looks_at_places=False)
    x = np.random.default_rng(0).random((2, 1, 8, 8), dtype=np.float32)
    whole = own(torch.from_numpy(x))[0][:, 0]
    expected = x.reshape(2, -1)[:, :5]
    np.testing.assert_allclose(whole, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-5)

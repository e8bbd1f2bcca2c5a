"""What a network saw in images, kept as it came."""

import numpy as np
import pytest
import torch

from recondite.data.spool import Rows
from recondite.detectors.feature_autoencoder import FeatureAutoencoder
from recondite.detectors.seen import Memory, Seen, Some, joined_moments
from recondite.detectors.vector_models import Bank, Decomposition, decomposed


def test_of_images_without_turned_copies_each_has_a_row():
    images = Rows(np.zeros((4, 1, 8, 8), np.float32), np.array([3, 1]))
    whole, places = torch.arange(2.0).reshape(2, 1, 1), torch.arange(12.0).reshape(2, 2, 3)
    memory = Memory(images, iter([(whole, places)]))
    taken, of_places = memory.take(images, slice(1, 2))
    assert taken.tolist() == [[[1]]]
    assert torch.equal(of_places, places[1:])
    assert not memory.holds(Rows(images.pixels, np.array([0])))
    turned = Memory(images, iter([(torch.arange(4.0).reshape(4, 1, 1), torch.zeros(4, 2, 3))]), copies=2)
    assert turned.take(images, slice(0, 2))[0].flatten().tolist() == [0, 2]  # each as it is, without what was turned
    assert turned.take(images, slice(0, 2), 2)[0].flatten().tolist() == [0, 1, 2, 3]
    some = Some(6, 3)
    for start in (0, 3):
        part = torch.arange(start, start + 3.0)[:, None, None]
        some.add(slice(start, start + 3), Seen(part, part, None))
    assert torch.cat([part.whole for part in some.parts]).flatten().tolist() == [0, 2, 4]


def test_spreads_have_a_smallest_value():
    mean, spread = joined_moments(torch.tensor(0.0), torch.tensor(1.0), torch.full((5,), 3.0), 0.0)
    assert (mean.item(), spread.item()) == (3, pytest.approx(1e-3))
    mean, spread = joined_moments(torch.tensor(9.0), torch.tensor(9.0), torch.tensor([3.0, 3.5]), 0.0)
    assert (mean.item(), spread.item()) == (3.25, 0.25)


def test_without_copies_an_image_is_left_out_alone():
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(30, 1, 6))).float()
    for model, left_out in ((Decomposition(6, 2, 0.1), "mahalanobis_left_out"), (Bank(6, 50, 2), "distance_left_out")):
        model.begin(30)
        model.add(vectors, 0)
        model.settle()
        found = getattr(model, left_out)(vectors)
        assert found.shape == (30, 1)
        assert torch.equal(found, getattr(model, left_out)(vectors, 1))


def test_of_few_vectors_there_are_as_many_directions_as_may_vary_or_are_wanted():
    few = np.random.default_rng(0).normal(size=(4, 60))
    covariance = torch.from_numpy(np.cov(few, rowvar=False))
    spanned = {least: decomposed(covariance, 4, least) for least in (0, 3, 40)}
    count = spanned[0][1].shape[1]
    assert 4 <= count < 30
    assert [spanned[least][1].shape for least in (3, 40)] == [(60, count), (60, 40)]
    for variances, directions in spanned.values():
        assert variances.shape == (60,)
        rebuilt = directions[:, :count] * variances[:count] @ directions[:, :count].T
        torch.testing.assert_close(rebuilt, covariance)


def test_the_autoencoder_of_vectors_learns_their_middle_and_spread_once():
    model = FeatureAutoencoder(4, 2)
    assert model.batches_a_step == 1
    draws = torch.Generator().manual_seed(0)

    def learnt(further, vectors):
        model.begin(len(vectors), further)
        model.add(vectors, 0)
        model.settle()
        return model.mean.mean().item(), model.scale.item()

    near = 0.01 * torch.randn(200, 1, 4, generator=draws)
    assert learnt(False, near + 2) == (pytest.approx(2, abs=0.01), pytest.approx(0.01, rel=0.1))
    assert learnt(True, near + 7) == (pytest.approx(2, abs=0.01), pytest.approx(0.01, rel=0.1))
    model.begin(200)
    model.add(near + 7, 0)
    model.settle()
    assert model.mean.mean().item() == pytest.approx(7, abs=0.01)
    assert learnt(False, torch.ones(5, 1, 4)) == (1, pytest.approx(1e-6))

"""Distances of feature vectors: what degenerate ones give, and that they come back from a file as they were."""

import numpy as np
import pytest
import torch

from recondite.statistics.distances import Distances


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(2, 3, size=(60, 4)).astype(np.float32)


def test_distances_come_back_as_they_were(features):
    distances = Distances.fit(features)
    again = Distances.from_tensors(distances.tensors())
    for name, values in distances(torch.from_numpy(features)).items():
        assert torch.equal(again(torch.from_numpy(features))[name], values)


def test_whitened_features_are_independent_and_have_a_variance_of_about_one():
    features = np.random.default_rng(0).normal(2, 3, size=(3000, 4)).astype(np.float32)
    mixed = features @ np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 5, 1], [0, 0, 0, 1]], np.float32)
    distances = Distances.fit(mixed)
    covariance = np.cov(((torch.from_numpy(mixed) - distances.mean) @ distances.whitening).numpy().T)
    assert np.trace(covariance) / 4 == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-4)


def test_a_direction_in_which_nothing_varied_counts_by_a_millionth_of_the_largest_variance(features):
    features[:, 3] = 0
    features[:, 0] *= 100
    distances = Distances.fit(features)
    scales = np.linalg.norm(distances.whitening.numpy(), axis=0)
    assert scales.max() <= (1e-6 * 300**2) ** -0.5 * 1.5
    assert torch.isfinite(distances.whitening).all()
    nothing = Distances.fit(np.ones((10, 2), np.float32))
    np.testing.assert_allclose(np.abs(nothing.whitening.numpy()).max(), 1e6, rtol=1e-5)


def test_where_normal_images_are_the_logarithm_ends(features):
    """A vector in the middle, and one in the direction of all of a bank: their logarithm is that of a millionth."""
    distances = Distances.fit(features)
    found = distances(distances.mean[None])
    assert found["mahalanobis"].item() == pytest.approx(np.log(1e-6), abs=1e-3)
    assert torch.isfinite(found["neighbour"]).all()
    line = Distances(torch.zeros(2), torch.eye(2), torch.tensor([[1.0, 0.0]]).repeat(5, 1))
    assert line(torch.tensor([[3.0, 0.0]]))["neighbour"].item() == pytest.approx(np.log(1e-6), abs=1e-3)
    assert line(torch.tensor([[0.0, 3.0]]))["neighbour"].item() == pytest.approx(np.log(2) / 2, abs=1e-4)
    assert line(torch.tensor([[-2.0, 0.0]]))["neighbour"].item() == pytest.approx(np.log(2), abs=1e-4)
    assert line(torch.tensor([[3.0, 4.0]]))["mahalanobis"].item() == pytest.approx(np.log(5), abs=1e-4)


def test_tensors_of_another_shape_or_type_and_too_small_a_bank_are_refused():
    fine = {
        "mean": np.ones(2, np.float32),
        "whitening": np.ones((2, 2), np.float32),
        "bank": np.ones((5, 2), np.float32),
    }
    Distances.from_tensors(fine)
    for name, value in fine.items():
        for odd in (value[None], value[:0], value.astype(np.int32), value.astype(np.float16)):
            with pytest.raises(ValueError, match=f"{name} of shape"):
                Distances.from_tensors(fine | {name: odd})
    with pytest.raises(ValueError, match="a bank of 4 vectors; expected at least 5"):
        Distances.from_tensors(fine | {"bank": fine["bank"][:4]})

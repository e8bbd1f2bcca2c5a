"""Lengths of vectors as if their image had been left out, beside covariances that are made without it."""

import numpy as np
import pytest
import torch

from recondite.detectors.left_out import lengths_left_out, lengths_left_out_of_places


def centred(count, places, size, copies=1, seed=0):
    draws = np.random.default_rng(seed)
    vectors = draws.normal(size=(count * copies, places, size)) @ draws.normal(size=(size, size))
    return torch.from_numpy(vectors - vectors.mean(0))


def covariances(vectors, shared, own):
    """Those of places (P, F, F): a share of each place's own, and of one that all share."""
    each = torch.einsum("npf,npg->pfg", vectors, vectors) / len(vectors)
    return own * each + (1 - own) * shared


def whitening_of(covariance):
    return torch.linalg.cholesky(torch.linalg.inv(covariance))


def left_out(vectors, image, place, covariance, own):
    """By hand: without an image's one vector at a place, in the share of the covariance that is of such vectors."""
    count, vector = len(vectors), vectors[image, place].numpy()
    lost = np.outer(vector, vector) * (1 + 1 / (count - 1))
    less = (covariance.numpy() - own * lost / count) * count / (count - 1)
    moved = vector * (1 + 1 / (count - 1))
    return moved @ np.linalg.inv(less) @ moved


@pytest.mark.parametrize("own", [1.0, 0.75])
def test_a_vector_is_left_out_of_the_mean_and_the_covariance(own):
    vectors = centred(12, 2, 3)
    covariance = covariances(vectors, torch.eye(3, dtype=torch.float64), own)
    whitened = torch.einsum("npf,pfg->npg", vectors, whitening_of(covariance))
    found = lengths_left_out(whitened, 1, torch.tensor(12.0), own)
    expected = [[left_out(vectors, image, place, covariance[place], own) for place in range(2)] for image in range(12)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("places", "alone"), [(257, True), (256, False)])
def test_above_256_places_a_vector_is_left_out_alone(places, alone):
    """The rest of a place's covariance is the mean of all, in which its own vector is one of many."""
    vectors, own = centred(8, places, 3), torch.tensor(0.75, dtype=torch.float64)
    every = torch.einsum("npf,npg->fg", vectors, vectors) / vectors.shape[:2].numel()
    covariance = covariances(vectors, every, own)
    found = lengths_left_out_of_places(
        vectors, whitening_of(covariance), 1, torch.tensor(8.0, dtype=torch.float64), own, slice(None)
    )
    share = 0.75 + 0.25 / places
    rows = ((0, 0), (5, 3), (7, places - 1))
    expected = [left_out(vectors, image, place, covariance[place], share) for image, place in rows]
    assert np.allclose([found[row] for row in rows], expected, rtol=1e-6) == alone
    np.testing.assert_allclose([found[row] for row in rows], expected, rtol=0.3)
    fewer = torch.arange(places - 7)
    whitening = whitening_of(covariance)
    found = lengths_left_out_of_places(vectors, whitening, 1, torch.tensor(8.0, dtype=torch.float64), own, fewer)
    share = 0.75 + 0.25 / (places - 7)
    expected = [left_out(vectors, image, place, covariance[place], share) for image, place in rows]
    assert np.allclose([found[row] for row in rows], expected, rtol=1e-6) == alone


def test_what_would_leave_no_covariance_is_far_and_finite():
    whitened = torch.tensor([[[1000.0, 0]], [[-1000.0, 0]], [[0, 1.0]]], dtype=torch.float64)
    found = lengths_left_out(whitened, 1, torch.tensor(3.0), 1.0)
    assert torch.isfinite(found).all()
    assert (found > 0).all()
    assert found[0] > 1e6

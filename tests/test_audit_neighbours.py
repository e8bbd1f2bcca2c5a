"""Nearest neighbours of an audit: exact, and by an index in large sets."""

import numpy as np
import pytest

from recondite.audits import neighbours
from recondite.audits.copies import found_copies
from recondite.audits.neighbours import Neighbours, is_indexed


def vectors(count, width=32):
    """Vectors of mean 0 and length 1 near a space of eight dimensions; the last is nearly the first."""
    draw = np.random.default_rng(0)
    made = draw.standard_normal((count, 8)) @ draw.standard_normal((8, width)) + draw.standard_normal((count, width))
    made[-1] = made[0] + 0.05 * draw.standard_normal(width)
    made -= made.mean(axis=1, keepdims=True)
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def by_hand(made, queries, count):
    alike = queries @ made.T
    np.fill_diagonal(alike, -np.inf)
    numbers = np.argsort(-alike, axis=1)[:, :count]
    return np.take_along_axis(alike, numbers, axis=1), numbers


def test_exact_neighbours_are_those_by_hand_and_never_the_image_itself(monkeypatch):
    monkeypatch.setattr(neighbours, "_AT_ONCE", 64)
    made = vectors(300)
    queries = np.roll(made, 1, axis=1)
    near = Neighbours(300, made.__getitem__)
    for rows, own in ((None, made), (queries.__getitem__, queries)):
        alike, numbers = near.nearest(5, rows)
        expected = by_hand(made, own, 5)
        np.testing.assert_array_equal(numbers, expected[1])
        np.testing.assert_allclose(alike, expected[0], atol=1e-6)


@pytest.fixture
def indexed(monkeypatch):
    pytest.importorskip("faiss", reason="needs faiss: pip install 'recondite[faiss]'")
    monkeypatch.setattr(neighbours, "LARGEST_EXACT", 500)


@pytest.mark.usefixtures("indexed")
def test_an_index_finds_nearly_all_neighbours_and_the_same_ones_again(monkeypatch):
    import faiss

    made = vectors(1500)
    threads = faiss.omp_get_max_threads()
    assert is_indexed(1500)
    assert not is_indexed(500)
    alike, numbers = Neighbours(1500, made.__getitem__).nearest(4)
    expected = by_hand(made, made, 4)[1]
    recall = np.mean(
        [len(set(one) & set(two)) / 4 for one, two in zip(numbers.tolist(), expected.tolist(), strict=True)]
    )
    assert recall > 0.95
    assert numbers[0, 0] == 1499
    np.testing.assert_allclose(alike, (made[numbers] * made[:, None]).sum(axis=2), atol=2e-3)
    monkeypatch.setattr(neighbours, "_AT_ONCE", 700)
    again = Neighbours(1500, made.__getitem__).nearest(4)
    np.testing.assert_array_equal(again[1], numbers)
    np.testing.assert_array_equal(again[0], alike)
    assert faiss.omp_get_max_threads() == threads


@pytest.mark.usefixtures("indexed")
@pytest.mark.slow
def test_copies_are_those_that_exact_neighbours_lead_to(monkeypatch):
    draw = np.random.default_rng(0)
    coarse = draw.integers(40, 215, (600, 8, 8)).repeat(4, axis=1).repeat(4, axis=2)
    grey = (coarse + draw.normal(0, 4, coarse.shape)).clip(0, 255).astype(np.uint8)
    grey[300:310] = grey[:10, :, ::-1] * 0.8
    grey, features = grey.reshape(600, -1), np.zeros((600, 0), np.float16)
    names = [str(index) for index in range(600)]
    found = found_copies(names, grey, features).pairs
    np.testing.assert_array_equal(found, np.stack([np.arange(10), np.arange(300, 310)]))
    monkeypatch.setattr(neighbours, "LARGEST_EXACT", 1000)
    np.testing.assert_array_equal(found_copies(names, grey, features).pairs, found)

import numpy as np
import pytest
import torch

from recondite.errors import InputError
from recondite.statistics.embedding import Map, _perplexity, _threads, make_map

pytestmark = pytest.mark.usefixtures("method")


@pytest.fixture(params=["openTSNE", "scikit-learn"])
def method(request, monkeypatch):
    if request.param == "openTSNE":
        pytest.importorskip("openTSNE")
    else:
        monkeypatch.setattr("recondite.statistics.embedding.find_spec", lambda _: None)
    return request.param


def test_clusters_stay_apart_and_a_known_vector_is_placed_near_itself(method):
    draws = np.random.default_rng(0)
    vectors = np.concatenate([draws.normal(size=(30, 6)), draws.normal(size=(30, 6)) + 9])
    found = make_map(vectors, seed=1)
    assert found.method == method
    first, second = found.points[:30], found.points[30:]
    spread = max(first.std(), second.std())
    assert np.linalg.norm(first.mean(axis=0) - second.mean(axis=0)) > 2 * spread
    before = found.points.copy()
    placed = found.place(vectors[[3, 40]])
    np.testing.assert_array_equal(found.points, before)
    for point, own, other in zip(placed, (first, second), (second, first), strict=True):
        assert np.linalg.norm(point - own[3 if own is first else 10]) < spread
        assert np.linalg.norm(point - own, axis=1).min() < np.linalg.norm(point - other, axis=1).min()
    np.testing.assert_array_equal(found.points, make_map(vectors, seed=1).points)
    # A map made again from its numbers places alike, whatever else is placed.
    again = Map(vectors=found.vectors, points=found.points, method=found.method, seed=found.seed)
    np.testing.assert_array_equal(again.place(vectors[[3, 40]]), placed)
    np.testing.assert_allclose(again.place(vectors[[40]]), placed[1:], rtol=1e-9)


def test_equal_vectors_lie_in_one_place():
    found = make_map(np.full((60, 6), 0.3))
    assert (found.points == found.points[0]).all()


def test_what_is_no_set_of_vectors_is_refused():
    for vectors in (np.zeros((9, 3)), np.zeros(20), np.full((20, 3), np.nan)):
        with pytest.raises(InputError, match="at least 10"):
            make_map(vectors)
    with pytest.raises(InputError, match="to place"):
        make_map(np.random.default_rng(0).random((12, 3))).place(np.zeros((2, 4)))


def test_one_point_or_vector_that_is_not_finite_is_refused(method):
    vectors, points = np.random.default_rng(0).random((10, 3)), np.random.default_rng(1).random((10, 2))
    found = Map(vectors=vectors, points=points, method=method)
    broken = points.copy()
    broken[3, 1] = np.inf
    for wrong in (broken, points[:9], points[:, :1]):
        with pytest.raises(InputError, match="finite points"):
            Map(vectors=vectors, points=wrong, method=method)
    new = vectors[:2].copy()
    new[1, 0] = np.nan
    with pytest.raises(InputError, match="to place"):
        found.place(new)
    with pytest.raises(InputError, match="at least 10"):
        Map(vectors=np.r_[vectors[:9], np.full((1, 3), np.nan)], points=points, method=method)
    with pytest.raises(InputError, match="at least 10"):
        Map(vectors=vectors[:9], points=points[:9], method=method)


def test_a_small_map_looks_at_a_third_of_its_points():
    assert [_perplexity(np.zeros((count, 2))) for count in (10, 31, 1000)] == [3, 10, 30]


def test_scikit_learn_puts_a_vector_at_the_mean_of_its_five_nearest():
    draws = np.random.default_rng(0)
    vectors, points, new = draws.random((12, 3)), draws.random((12, 2)), draws.random((4, 3))
    found = Map(vectors=vectors, points=points, method="scikit-learn")
    nearest = np.argsort(np.linalg.norm(new[:, None] - vectors, axis=2), axis=1)[:, :5]
    np.testing.assert_allclose(found.place(new), points[nearest].mean(axis=1))
    assert "mean of their 5 nearest" in found.placing
    assert "affinities" in Map(vectors=vectors, points=points, method="openTSNE").placing
    with pytest.raises(InputError, match="expected a map by openTSNE or scikit-learn; got 'umap'"):
        Map(vectors=vectors, points=points, method="umap")
    for wrong in (new[0], new[:, :2], np.full((1, 3), np.nan)):
        with pytest.raises(InputError, match=r"finite vectors \(M, 3\) to place"):
            found.place(wrong)


def test_a_map_of_a_library_that_is_missing_places_nothing(monkeypatch):
    monkeypatch.setattr("recondite.statistics.embedding.find_spec", lambda _: None)
    vectors = np.random.default_rng(0).random((10, 3))
    with pytest.raises(InputError, match="recondite\\[viz\\]"):
        Map(vectors=vectors, points=vectors[:, :2], method="openTSNE").place(vectors)


def test_threads_are_as_many_as_torch_has():
    assert _threads() == torch.get_num_threads()


def test_a_map_is_drawn_by_the_library_that_it_names(method, monkeypatch):
    vectors = np.random.default_rng(0).random((12, 3))
    asked = []
    for name, library in (("_by_opentsne", "openTSNE"), ("_by_scikit_learn", "scikit-learn")):

        def draw(x, seed, library=library):
            asked.append((library, seed))
            return x[:, :2]

        monkeypatch.setattr(f"recondite.statistics.embedding.{name}", draw)
    assert make_map(vectors, seed=3).method == method
    assert make_map(vectors).seed == 0
    assert asked == [(method, 3), (method, 0)]


def test_new_points_are_placed_on_the_map_as_it_is(method):
    """Its first two points are far apart, and it is far from the middle."""
    draws = np.random.default_rng(0)
    cluster = np.arange(24) % 2
    vectors = draws.normal(size=(24, 4)) + 30 * cluster[:, None]
    points = draws.normal(size=(24, 2)) + np.array([500, -300]) + 100 * cluster[:, None]
    placed = Map(vectors=vectors, points=points, method=method).place(vectors[:2] + 0.01)
    for number in (0, 1):
        assert np.linalg.norm(placed[number] - points[cluster == number].mean(axis=0)) < 30

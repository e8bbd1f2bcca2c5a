import numpy as np
import pytest
from scipy.stats import norm

from recondite.errors import InputError
from recondite.statistics.density import Density, Marginals, held_out_distances, smallest_tail, sum_of_tails


def normals(count=400, seed=0):
    generator = np.random.default_rng(seed)
    first = generator.normal(size=count)
    return {"a": first, "b": first + 0.3 * generator.normal(size=count), "c": np.exp(generator.normal(size=count))}


def test_normal_scores_are_standard_normal_whatever_the_units():
    values = normals(2000)["c"][:, None]
    z = Marginals.fit(values).z(values)
    assert abs(z.mean()) < 0.05
    assert abs(z.std() - 1) < 0.05
    scaled = Marginals.fit(5 * values + 3).z(5 * values + 3)
    np.testing.assert_allclose(scaled, z, atol=1e-6)
    far = Marginals.fit(values).z([[-100.0], [0.0], [200.0], [400.0]])[:, 0]
    assert (np.diff(far) > 0).all()  # far values stay apart


def test_both_sides_and_broken_correlations_are_far():
    density = Density.fit(normals())
    middle = {"a": [0.0], "b": [0.0], "c": [1.0]}
    for name, low, high in (("a", -5.0, 5.0), ("c", -3.0, 60.0)):
        for value in (low, high):
            assert density.distance({**middle, name: [value]})[0] > density.distance(middle)[0] + 3
    # each value is usual, the two together are not
    assert density.distance({"a": [1.5], "b": [-1.5], "c": [1.0]})[0] > 5
    assert density.distance({"a": [1.5], "b": [1.5], "c": [1.0]})[0] < 3


def test_the_distance_is_the_mahalanobis_distance_of_the_normal_scores():
    statistics = normals()
    density = Density.fit(statistics)
    z = density.z(statistics)
    by_hand = [np.sqrt(row @ density.precision @ row) for row in z]
    np.testing.assert_allclose(density.distance(statistics), by_hand)
    np.testing.assert_allclose(density.shares(statistics).sum(axis=1), np.square(by_hand))


def test_a_constant_statistic_is_harmless_until_it_changes():
    statistics = {**normals(200), "constant": np.full(200, -3.0)}
    density = Density.fit(statistics)
    middle = {"a": [0.0], "b": [0.0], "c": [1.0], "constant": [-3.0]}
    assert density.distance(middle)[0] < 1
    assert density.distance({**middle, "constant": [-2.9]})[0] > 10


def test_held_out_distances_are_what_new_images_get():
    few, many = normals(60), normals(4000, seed=1)
    new = np.median(Density.fit(few).distance(many))
    own = np.median(Density.fit(few).distance(few))
    held_out = np.median(held_out_distances(few))
    assert abs(held_out - new) < 0.25
    assert own < held_out


def test_the_smallest_tail_divides_alpha():
    # one component alone decides, from the same rarity on, whichever it is
    np.testing.assert_allclose(smallest_tail([[3.0, -1.0], [-1.0, 3.0]], [0.5, 0.5])[0], smallest_tail([[3.0]], [0.5]))
    larger_share, smaller_share = smallest_tail([[3.0, -9.0], [-9.0, 3.0]], [0.9, 0.1])
    assert larger_share > smaller_share
    assert np.isfinite(smallest_tail([[1e6, 0.0]], [0.5, 0.5])).all()


def test_what_cannot_be_learnt_from_is_refused():
    with pytest.raises(InputError, match="at least 20"):
        Marginals.fit(np.zeros((10, 2)))
    with pytest.raises(InputError, match="finite"):
        Density.fit({"a": np.r_[np.zeros(50), np.nan]})


def test_beyond_the_ends_scores_grow_by_the_spread_of_their_side():
    values = np.random.default_rng(0).exponential(size=(200, 2)) * [1, -5]
    marginals = Marginals.fit(values)
    ends, middle = marginals.knots[:, [0, -1]], np.median(marginals.knots, axis=1)
    last = marginals.levels[-1]
    for times in (0.5, 1, 3):
        for side, sign in ((0, -1), (1, 1)):
            beyond = ends[:, side] + times * (ends[:, side] - middle)
            np.testing.assert_allclose(marginals.z(beyond[None])[0], sign * last * (1 + times))


@pytest.mark.parametrize("level", [0.0, 1000.0])
def test_a_constant_statistic_has_a_spread_of_a_thousandth(level):
    marginals = Marginals.fit(np.full((20, 1), level))
    spread = 1e-3 * max(1, level)
    found = marginals.z([[level - 2 * spread], [level], [level + spread]])[:, 0] / marginals.levels[-1]
    np.testing.assert_allclose(found, [-3, 0, 2], atol=1e-6)
    with pytest.raises(InputError, match="at least 20"):
        Marginals.fit(np.full((19, 1), level))


def test_tails_are_those_of_the_normal_law():
    z = np.array([[0.0, 3.0], [-2.0, 1.0]])
    np.testing.assert_allclose(smallest_tail(z, [0.2, 0.8]), (np.log([0.2, 0.8]) - norm.logsf(z)).max(axis=1))
    np.testing.assert_allclose(sum_of_tails(z, [0.5, 2.0]), -(norm.logsf(z) * [0.5, 2.0]).sum(axis=1))
    assert np.isfinite(sum_of_tails([[1e6, -1e6]], [1.0, 1.0])).all()


def test_scores_end_at_a_million_on_both_sides():
    marginals = Marginals.fit(np.random.default_rng(0).normal(size=(20, 1)))
    assert marginals.z([[1e300], [-1e300]])[:, 0].tolist() == [1e6, -1e6]
    density = Density.fit(normals())
    assert density.length(np.zeros((1, 3))).tolist() == [0]


def test_an_image_is_held_out_of_what_judges_it():
    """Every fifth image is judged by the others."""
    statistics = normals(25)
    found = held_out_distances(statistics)
    for first in range(5):
        others = np.arange(25) % 5 != first
        density = Density.fit({name: values[others] for name, values in statistics.items()})
        np.testing.assert_allclose(found[~others], density.distance(statistics)[~others])
    with pytest.raises(InputError, match="at least 20"):
        held_out_distances(normals(24))

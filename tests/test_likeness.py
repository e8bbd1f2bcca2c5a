"""Likeness to kinds of odd images: a likelihood ratio, which far values neither fill nor overflow."""

import numpy as np
import pytest

from recondite.statistics.likeness import Likeness


def test_what_lies_beyond_six_counts_as_six_on_either_side():
    precision = np.array([[2.0, 0.5], [0.5, 1.0]])
    far, counted = (
        Likeness.fit([np.array([[9.0, -7.0], [1.0, -1e9]]), np.full((1, 2), 2.0)], precision),
        Likeness.fit([np.array([[6.0, -6.0], [1.0, -6.0]]), np.full((1, 2), 2.0)], precision),
    )
    np.testing.assert_array_equal(far.directions, counted.directions)
    np.testing.assert_array_equal(far.offsets, counted.offsets)
    np.testing.assert_allclose(far.directions[0], np.array([3.5, -6.0]) @ precision)


def test_halfway_between_normal_images_and_a_kind_both_are_as_likely():
    middle = np.array([1.0, -2.0, 0.5])
    learnt = Likeness.fit([middle[None]], np.diag([1.0, 2.0, 3.0]))
    assert learnt(middle[None] / 2)[0] == pytest.approx(np.log(2))
    log_ratio = (middle**2 * [1, 2, 3]).sum() / 2
    assert learnt(middle[None])[0] == pytest.approx(np.log1p(np.exp(log_ratio)))
    assert learnt(-middle[None])[0] == pytest.approx(np.log1p(np.exp(-3 * log_ratio)), rel=1e-9)


def test_kinds_add_up_and_far_ones_do_not_overflow():
    learnt = Likeness.fit([[[2.0, 0.0]], [[0.0, 2.0]], [[0.0, 2.0]]], np.eye(2))
    assert learnt([[3.0, 0.0]])[0] == pytest.approx(np.log(1 + np.exp(4) + 2 * np.exp(-2)))
    np.testing.assert_allclose(learnt([[1e4, 0.0], [0.0, 1e4]]), [2e4 - 2, 2e4 - 2 + np.log(2)])
    np.testing.assert_allclose(learnt([[-1e4, -1e4]]), [0], atol=1e-12)

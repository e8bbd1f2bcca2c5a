"""Whether labelled verdicts look like a random sample, by scores alone."""

from types import SimpleNamespace

import numpy as np
import pytest

from recondite import Calibrator
from recondite.reports.reviewed import Reviewed, doubts_about
from recondite.statistics.scores import Scores

DRAWS = range(10)


def doubts(calibration, labelled, groups=None, groups_of_labelled=None, alpha=0.05):
    """Return what is said of images that are all labelled inlier."""
    made = {"alpha": alpha, "confidence": None, "guarantee": "exact"}
    screen = SimpleNamespace(calibrator=Calibrator(calibration, groups), **made)
    count = len(labelled)
    scores = Scores(ids=tuple(map(str, range(count))), instance_score=labelled, errors=(None,) * count, statistics={})
    return doubts_about(
        screen, Reviewed(scores, ("inlier",) * count, groups_of_labelled, 0, None), np.arange(count), "leave-out"
    )


def test_labels_that_are_mostly_of_one_small_group_are_no_selection():
    groups, labelled_groups = ("a",) * 500 + ("b",) * 30, ("a",) * 40 + ("b",) * 300
    for seed in DRAWS:
        draws = np.random.default_rng(seed)
        assert not doubts(draws.normal(size=530), draws.normal(size=340), groups, labelled_groups)


def test_groups_of_which_all_smallest_p_values_are_alike_are_no_selection():
    groups, labelled_groups = (tuple(f"{index % 20}" for index in range(count)) for count in (400, 2000))
    for seed in DRAWS:
        draws = np.random.default_rng(seed)
        assert not doubts(draws.normal(size=400), draws.normal(size=2000), groups, labelled_groups)


def test_copies_do_not_make_a_random_sample_look_like_a_selection():
    for seed in DRAWS:
        draws = np.random.default_rng(seed)
        assert not doubts(draws.normal(size=300), np.repeat(draws.normal(size=60), 10))


@pytest.mark.parametrize("moved", [-0.8, 0.8])
def test_a_group_that_has_moved_is_told_beside_another_that_has_not(moved):
    draws = np.random.default_rng(0)
    groups, shift = ("a",) * 200 + ("b",) * 200, np.repeat([0.0, moved], 200)
    assert doubts(draws.normal(size=400), draws.normal(size=400) + shift, groups, groups)


def test_random_samples_are_seldom_taken_for_selections():
    for seed in DRAWS:
        draws = np.random.default_rng(seed)
        for count, alpha in ((100, 0.01), (400, 0.1)):
            assert not doubts(draws.normal(size=120), draws.normal(size=count), alpha=alpha)


def test_unflagged_images_alone_beside_few_that_calibrate_are_a_selection():
    draws = np.random.default_rng(0)
    calibration = draws.normal(size=80)
    lower = draws.normal(size=800)
    unflagged = lower[lower <= np.sort(calibration)[-4]][:400]
    [said] = doubts(calibration, unflagged)
    assert "of the 400 images taken for normal 0.0% are flagged, where 4.9% were to be expected" in said


@pytest.mark.parametrize(("alpha", "images"), [(0.01, 200), (0.05, 80)])
def test_the_lowest_images_are_a_selection_even_where_hardly_any_would_be_flagged(alpha, images):
    for seed in DRAWS:
        draws = np.random.default_rng(seed)
        assert doubts(draws.normal(size=images), np.sort(draws.normal(size=500))[:400], alpha=alpha)


def test_the_lowest_of_one_group_beside_another_are_a_selection():
    draws = np.random.default_rng(0)
    groups, labelled_groups = ("a",) * 200 + ("b",) * 200, ("a",) * 400 + ("b",) * 400
    labelled = np.concatenate([np.sort(draws.normal(size=500))[:400], draws.normal(size=400)])
    assert doubts(draws.normal(size=400), labelled, groups, labelled_groups)

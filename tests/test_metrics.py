from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import twins
from sklearn.metrics import average_precision_score, f1_score

from recondite.errors import InputError
from recondite.statistics import localisation, metrics

SCORES = st.lists(st.integers(0, 8), min_size=1, max_size=25)


@given(SCORES, SCORES)
def test_measures_equal_their_slow_twins_ties_included(inliers, outliers):
    assert metrics.auroc(inliers, outliers) == pytest.approx(twins.auroc(inliers, outliers))
    assert metrics.average_precision(inliers, outliers) == pytest.approx(twins.average_precision(inliers, outliers))
    expected = twins.share_flagged_when_most_caught(outliers, inliers)
    assert metrics.inliers_flagged_at_95_outliers_caught(inliers, outliers) == expected
    expected = twins.share_flagged_when_most_caught([-a for a in inliers], [-b for b in outliers])
    assert metrics.outliers_missed_at_95_inliers_kept(inliers, outliers) == expected


@pytest.mark.parametrize("bad", [[], [float("nan"), 1.0], [[1.0]]])
def test_scores_that_cannot_be_measured_are_refused(bad):
    for measure in (
        metrics.auroc,
        metrics.delong_interval,
        metrics.average_precision,
        metrics.outliers_missed_at_95_inliers_kept,
    ):
        with pytest.raises(InputError):
            measure(bad, [1.0])


@given(SCORES, SCORES)
def test_the_interval_holds_the_auroc_and_mirrors_with_it(inliers, outliers):
    low, high = metrics.delong_interval(inliers, outliers)
    assert 0 <= low <= metrics.auroc(inliers, outliers) <= high <= 1
    assert high > low
    assert metrics.delong_interval(outliers, inliers) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_fifty_images_told_apart_without_an_error_prove_no_more_than_fifty_images_can():
    low, high = metrics.delong_interval(range(50), range(50, 100))
    assert low == pytest.approx(1 / (1 + 1.96**2 / 50), abs=1e-3)
    assert high == 1


@pytest.mark.parametrize("spread", ["shifted", "two heaps"])
@pytest.mark.parametrize("truth", [0.5, 0.9, 0.98])
def test_the_interval_of_the_auroc_covers_the_truth(spread, truth):
    draws = np.random.default_rng(0)
    covered = []
    for _ in range(600):
        inliers = draws.normal(size=200)
        if spread == "shifted":
            outliers = draws.normal(NormalDist().inv_cdf(truth) * 2**0.5, size=300)
        else:
            outliers = np.where(draws.random(300) < truth, 9.0, -9.0)
        low, high = metrics.delong_interval(inliers, outliers)
        covered.append(low <= truth <= high)
    assert 0.92 <= np.mean(covered) <= 0.985


@pytest.mark.parametrize("count", [2, 3, 5, 10, 20])
@pytest.mark.parametrize("apart", [0.5, 1.5, 3.0])
def test_the_interval_of_the_auroc_covers_the_truth_with_few_outliers_among_many_inliers(count, apart):
    draws, truth = np.random.default_rng(0), NormalDist().cdf(apart / 2**0.5)
    pairs = [(draws.normal(size=300), draws.normal(apart, size=count)) for _ in range(150)]
    intervals = [metrics.delong_interval(*pair) for pair in pairs]
    assert np.mean([low <= truth <= high for low, high in intervals]) >= 0.92


def test_images_told_apart_without_an_error_prove_no_more_of_other_measures_than_of_the_auroc():
    inliers, outliers = np.arange(100.0), np.arange(100.0, 110.0)
    expected = pytest.approx(metrics.delong_interval(inliers, outliers))
    for measure in (metrics.auroc, metrics.average_precision, lambda a, b: metrics.best_f1(a, b)[0]):
        assert metrics.resampled_interval(measure, inliers, outliers, resamples=20) == expected
    assert metrics.auroc_interval([(inliers, outliers)], resamples=20)[1:] == expected
    assert metrics.auroc_interval([(inliers, outliers), (inliers, outliers)], resamples=20)[1:] == expected


def test_the_interval_of_an_average_precision_covers_the_truth_with_few_outliers():
    draws, truth = np.random.default_rng(0), 0.983  # of normal scores 4 deviations apart, ten of 110 outliers
    pairs = [(draws.normal(size=100), draws.normal(4, size=10)) for _ in range(60)]
    intervals = [metrics.resampled_interval(metrics.average_precision, *pair, resamples=40) for pair in pairs]
    assert np.mean([low <= truth <= high for low, high in intervals]) >= 0.92


def test_nineteen_of_twenty_are_95_percent():
    assert metrics.inliers_flagged_at_95_outliers_caught([1.5], list(range(1, 21))) == 0.0
    assert metrics.outliers_missed_at_95_inliers_kept(list(range(1, 21)), [19.5]) == 0.0


@pytest.mark.slow
def test_the_interval_of_a_rate_covers_the_truth_at_least_95_percent_of_the_time():
    draws = np.random.default_rng(0).random((2000, 60)) < 0.1
    covered = [rate.low <= 0.1 <= rate.high for rate in (metrics.rate(draw) for draw in draws)]
    assert np.mean(covered) >= 0.945
    assert metrics.rate([False] * 10).low == 0
    with pytest.raises(InputError):
        metrics.rate([])


@pytest.mark.slow
def test_the_interval_of_an_auroc_agrees_with_resampling_by_hand():
    generator = np.random.default_rng(0)
    runs = [(generator.normal(size=60).round(1), generator.normal(1, size=40).round(1)) for _ in range(2)]
    value, low, high = metrics.auroc_interval(runs, resamples=2000)
    by_hand = []
    for _ in range(500):
        resampled = [[generator.choice(scores, len(scores)) for scores in run] for run in runs]
        by_hand.append(np.mean([metrics.auroc(*run) for run in resampled]))
    assert value == np.mean([metrics.auroc(*run) for run in runs])
    np.testing.assert_allclose([low, high], np.quantile(by_hand, [0.025, 0.975]), atol=0.015)
    assert (value, low, high) == metrics.auroc_interval(runs, resamples=2000)
    with pytest.raises(InputError, match="at least one run"):
        metrics.auroc_interval([])


def slow_overlap(maps, truth, limit):
    """Mean overlap at every threshold, one region and one threshold at a time."""
    from scipy.integrate import trapezoid
    from scipy.ndimage import label

    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        found, shares = maps >= threshold, []
        for image, mask in zip(found, truth, strict=True):
            numbered, count = label(mask, np.ones((3, 3)))
            shares += [image[numbered == region].mean() for region in range(1, count + 1)]
        points.append((found[~truth].mean(), np.mean(shares)))
    rates = np.linspace(0, limit, 20001)
    positives, overlaps = np.array(points).T
    return trapezoid(np.interp(rates, positives, overlaps), rates) / limit


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_per_region_overlap_is_what_a_slow_twin_says(ties, limit):
    draws = np.random.default_rng(0)
    truth = np.zeros((4, 12, 12), bool)
    truth[0, 1:3, 1:4] = truth[0, 8:, 8:] = truth[1, 5, 5] = truth[3, :, 0] = True
    maps = draws.random(truth.shape) + 0.5 * truth
    maps = np.round(maps * 12) if ties else maps
    value = localisation.per_region_overlap(maps, truth, limit)
    assert value == pytest.approx(slow_overlap(maps, truth, limit), abs=2e-3)
    assert localisation.pixel_auroc(maps, truth) == pytest.approx(metrics.auroc(maps[~truth], maps[truth]), abs=1e-12)


def test_per_region_overlap_counts_small_defects_as_much_as_large_ones():
    truth = np.zeros((1, 20, 20), bool)
    truth[0, :10] = truth[0, 15, 15] = True
    maps = np.zeros(truth.shape)
    maps[0, 15, 15] = 1.0
    low = localisation.per_region_overlap(maps, truth, 1e-9)
    assert low == pytest.approx(0.5)
    assert localisation.per_region_overlap(truth.astype(float), truth) == 1.0


def test_maps_without_truth_or_with_nothing_else_are_refused():
    maps = np.zeros((1, 3, 3))
    for truth in (np.zeros((1, 3, 3)), np.ones((1, 3, 3)), np.ones((1, 3, 4))):
        for measure in (localisation.pixel_auroc, localisation.per_region_overlap):
            with pytest.raises(InputError):
                measure(maps, truth)
    with pytest.raises(InputError, match="limit"):
        localisation.per_region_overlap(maps, np.eye(3, dtype=bool)[None], 0)


def test_the_best_f1_is_the_highest_of_all_thresholds():
    generator = np.random.default_rng(0)
    inliers, outliers = np.round(generator.normal(size=200), 1), np.round(generator.normal(1, 1, 60), 1)
    value, threshold = metrics.best_f1(inliers, outliers)
    labels, scores = np.repeat([0, 1], [200, 60]), np.concatenate([inliers, outliers])
    assert value == pytest.approx(max(f1_score(labels, scores >= t) for t in np.unique(scores)))
    assert f1_score(labels, scores >= threshold) == pytest.approx(value)


def test_a_resampled_interval_is_about_that_of_delong():
    generator = np.random.default_rng(0)
    inliers, outliers = generator.normal(size=300), generator.normal(1, 1, 200)
    low, high = metrics.resampled_interval(metrics.auroc, inliers, outliers)
    exact = metrics.delong_interval(inliers, outliers)
    assert (low, high) == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("measure", ["auroc", "average_precision", "best_f1", "delong_interval", "roc_points"])
@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([1.0, np.inf], "1 of 2 that are NaN or infinite"),
        ([np.nan, -np.inf], "2 of 2"),
        (["1", "high"], "could not convert"),
        ([[1.0], [2.0, 3.0]], "expected a list of scores"),
        (torch.ones(2, requires_grad=True), "requires grad"),
        ([], r"shape \(0,\)"),
    ],
)
def test_what_is_no_list_of_finite_scores_is_refused(measure, scores, words):
    with pytest.raises(InputError, match=words):
        getattr(metrics, measure)([1.0, 2.0], scores)


def test_the_most_suspicious_may_be_infinite():
    curve = metrics.risk_coverage([0.0, np.inf, 1.0], [False, True, False])
    np.testing.assert_array_equal(curve.errors, metrics.risk_coverage([0.0, 2.0, 1.0], [False, True, False]).errors)


def test_the_best_threshold_may_be_the_lowest_score():
    assert metrics.best_f1([3.0], [1.0, 1.0]) == (pytest.approx(0.8), 1.0)


def test_two_scores_a_side_have_a_variance():
    assert metrics.delong_interval([0.0, 2.0], [1.0, 3.0]) == wilson(0.75, 0.1875 / 0.125)


def wilson(value, size):
    z = NormalDist().inv_cdf(0.975)
    middle = (value + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * (value * (1 - value) / size + (z / (2 * size)) ** 2) ** 0.5
    return pytest.approx((max(0, middle - half), min(1, middle + half)))


def test_a_bootstrap_draws_the_first_image_too_and_halves_ties():
    assert metrics.auroc_interval([([1.0], [2.0])])[1:] == wilson(1, 1)
    assert metrics.resampled_interval(lambda a, b: b[0] - a[0], [0.1], [0.6]) == wilson(0.5, 1.1)
    assert metrics.auroc_interval([([1.0] * 20, [1.0] * 30)])[1:] == wilson(0.5, 60)
    runs = [(np.arange(9.0), np.arange(4.0, 12.0))]
    value, low, high = metrics.auroc_interval(runs, level=0)
    assert low <= value <= high < low + 0.05
    assert metrics.auroc_interval(runs) == metrics.auroc_interval(runs, resamples=1000, level=0.95, seed=0)


def test_ninety_five_of_a_hundred_are_exactly_that():
    assert metrics.inliers_flagged_at_95_outliers_caught([9.5, 10.5], np.arange(200.0)) == 0.5


def test_the_risk_at_no_coverage_is_that_of_the_first_accepted():
    assert metrics.risk_coverage([0.1, 0.2], [True, False]).risk.tolist() == [1.0, 1.0, 0.5]
    for weight in (-1.0, 0.0):
        with pytest.raises(InputError, match="positive weights"):
            metrics.risk_coverage([0.1, 0.2], [True, False], [1.0, weight])


def test_areas_under_errors_and_risk_are_those_of_many_small_steps():
    draws = np.random.default_rng(0)
    suspicion, wrong = draws.integers(0, 9, 60) / 9, draws.random(60) < 0.3
    weights = draws.integers(1, 4, 60)
    curve = metrics.risk_coverage(suspicion, wrong, weights)
    assert curve.errors[-1] == pytest.approx((weights * wrong).sum() / weights.sum())
    steps = (np.arange(400_000) + 0.5) / 400_000
    errors = np.interp(steps, curve.coverage, curve.errors)
    assert curve.augrc == pytest.approx(errors.mean(), abs=1e-6)
    assert curve.aurc == pytest.approx((errors / steps).mean(), abs=1e-4)
    assert (curve.coverage[-1], curve.coverage[0], curve.errors[0]) == (1, 0, 0)
    for risk in (curve.risk[4], curve.risk[-1], -1.0):
        kept = [share for share, own in zip(curve.coverage[1:], curve.risk[1:], strict=True) if own <= risk]
        assert curve.coverage_at(risk) == max(kept, default=0)
    assert metrics.risk_coverage([0.1, 0.2], [True, False]).coverage_at(0.9) == 1  # a later threshold counts


def test_a_rate_is_a_share():
    assert metrics.Rate(3, 12, 0.0, 1.0).value == 0.25


def test_average_precision_is_that_of_scikit_learn():
    draws = np.random.default_rng(0)
    for tied in (3, 50, 10**6):
        a, b = draws.integers(0, tied, 40), draws.integers(tied // 3, tied + tied // 3, 25)
        expected = average_precision_score(np.repeat([0, 1], [40, 25]), np.concatenate([a, b]))
        assert metrics.average_precision(a, b) == pytest.approx(expected, rel=1e-12)


def test_images_that_belong_together_make_no_interval_narrower():
    generator = np.random.default_rng(0)
    inliers, outliers = generator.normal(size=40), generator.normal(1.5, size=25)
    copied, units = [np.repeat(part, 10) for part in (inliers, outliers)], (np.arange(400) // 10, np.arange(250) // 10)
    assert metrics.delong_interval(*copied, units) == pytest.approx(metrics.delong_interval(inliers, outliers))
    for measure in (metrics.average_precision, lambda a, b: metrics.best_f1(a, b)[0]):
        once, again = metrics.resampled_interval(measure, inliers, outliers), [measure, *copied, units]
        assert metrics.resampled_interval(*again) == pytest.approx(once)
    for flags in (outliers > 1, outliers > 9, outliers > -9):
        once, again = metrics.rate(flags), metrics.rate(np.repeat(flags, 10), units[1])
        assert (again.hits, again.total) == (10 * once.hits, 250)
        assert (again.low, again.high) == pytest.approx((once.low, once.high), abs=0.02)
    with pytest.raises(InputError, match="a label of what belongs together for each of 25 images"):
        metrics.rate(outliers > 1, units[0])


def test_units_that_tell_less_than_their_images_cover_the_truth():
    """Ten bursts of ten frames: intervals of 95 % that count frames cover in less than half of samples."""
    generator, truth = np.random.default_rng(1), NormalDist().cdf(1.5 / 2**0.5)
    units, hits, counted = np.arange(100) // 10, 0, 0
    for _ in range(100):
        scenes, noise = generator.normal(size=(2, 10, 1)) * 0.9**0.5, generator.normal(size=(2, 10, 10)) * 0.1**0.5
        inliers, outliers = np.array([[0], [1.5]]) + (scenes + noise).reshape(2, 100)
        low, high = metrics.delong_interval(inliers, outliers, (units, units))
        hits += low <= truth <= high
        low, high = metrics.delong_interval(inliers, outliers)
        counted += low <= truth <= high
    assert hits >= 90
    assert counted < 70


def test_runs_on_the_same_test_images_are_no_further_evidence():
    generator = np.random.default_rng(0)
    run = generator.normal(size=80), generator.normal(1, size=50)
    once = metrics.auroc_interval([run])
    assert metrics.auroc_interval([run] * 5) == pytest.approx(once)
    other = generator.permutation(run[0]), generator.permutation(run[1])  # as good as other images
    low, high = metrics.auroc_interval([run, other])[1:]
    assert high - low < 0.85 * (once[2] - once[1])

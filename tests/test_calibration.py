import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import twins
from scipy.stats import beta, binom

from recondite.errors import InputError, NotCalibratedError
from recondite.statistics.calibration import (
    Calibrator,
    _monte_carlo_bounds,
    mean_std_threshold,
    p_value_table,
    percentile_threshold,
    rate_of,
    share_of,
    smallest_alpha,
    smallest_calibration_set,
    threshold_rules,
)

TIED = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=60)
ALPHAS = st.integers(1, 99).map(lambda percent: percent / 100)
GUARANTEES = ("exact", "simes", "dkwm", "monte-carlo")


@given(TIED, TIED)
def test_p_values_equal_the_slow_twin(calibration, scores):
    expected = [twins.p_value(calibration, score) for score in scores]
    np.testing.assert_allclose(Calibrator(np.array(calibration)).p_value(scores), expected)


@settings(max_examples=300)
@given(TIED, TIED, ALPHAS)
def test_the_threshold_and_the_p_value_are_one_rule_ties_included(calibration, scores, alpha):
    calibrator = Calibrator(np.array(calibration))
    if Fraction(str(alpha)) * (len(calibration) + 1) < 1:
        with pytest.raises(InputError):
            calibrator.threshold(alpha)
        return
    by_threshold = np.array(scores) > calibrator.threshold(alpha)
    by_rank = [
        Fraction(1 + sum(c >= s for c in calibration), len(calibration) + 1) <= Fraction(str(alpha)) for s in scores
    ]
    assert by_threshold.tolist() == by_rank
    np.testing.assert_array_equal(calibrator.is_outlier(scores, alpha), by_threshold)
    np.testing.assert_array_equal(calibrator.p_value(scores) <= alpha, by_threshold)


ANY_ALPHA = st.one_of(
    st.floats(1e-6, 1, exclude_max=True),
    st.fractions(Fraction(1, 1000), Fraction(999, 1000), max_denominator=1000),
    st.builds(np.nextafter, ALPHAS, st.sampled_from([0.0, 1.0])).map(float),
)


@settings(max_examples=300)
@given(TIED, TIED, ANY_ALPHA)
def test_the_two_rules_agree_for_every_float_and_fraction(calibration, scores, alpha):
    calibrator = Calibrator(np.array(calibration))
    p_values = calibrator.p_value(scores)
    if float(alpha) < 1 / (len(calibration) + 1):
        with pytest.raises(InputError):
            calibrator.threshold(alpha)
        return
    np.testing.assert_array_equal(np.array(scores) > calibrator.threshold(alpha), p_values <= float(alpha))


def test_a_third_is_a_third():
    assert Calibrator(np.arange(2.0)).threshold(1 / 3) == 1
    assert Calibrator(np.arange(2.0)).threshold(Fraction(1, 3)) == 1
    assert share_of(0.3, 1 / 3) == share_of(Fraction(3, 10), Fraction(1, 3)) == 0.1
    assert share_of(0.05, 1 - 0.3 - 0.3) == 0.02


@pytest.mark.parametrize(("values", "alpha"), [(1, 0.05), (2, 0.2), (10, 0.2), (10, 0.05), (40, 0.05)])
def test_the_interval_holds_where_scores_are_equal(values, alpha):
    """Scores of few values, such as a statistic that is mostly 0: none of those equal to the threshold is flagged."""
    generator = np.random.default_rng(values)
    inside = 0
    for _ in range(400):
        # With a probability of 1 / values each; of 2 the upper one has .1.
        of_value = np.array([0.9, 0.1]) if values == 2 else np.full(values, 1 / values)
        calibrator = Calibrator(generator.choice(values, 100, p=of_value))
        low, high = calibrator.interval(alpha)
        inside += low <= of_value[np.arange(values) > calibrator.threshold(alpha)].sum() <= high
    assert inside >= 0.93 * 400


def test_equal_scores_below_the_threshold_change_no_interval():
    scores = np.arange(200.0)
    assert Calibrator(np.maximum(scores, 150)).interval(0.05) == Calibrator(scores).interval(0.05)
    above = Calibrator(np.where(scores > 190, 1.0, 0.0))  # the ten highest are to be flagged, and nine are above
    assert above.interval(0.05) == pytest.approx((beta.ppf(0.025, 9, 192), beta.ppf(0.975, 10, 191)))


@pytest.mark.parametrize("guarantee", GUARANTEES)
@pytest.mark.parametrize("n", [30, 200])
def test_the_two_rules_agree_with_a_guarantee_too(guarantee, n):
    generator = np.random.default_rng(n)
    calibrator = Calibrator(np.round(generator.random(n), 2))
    scores = np.round(generator.random(500), 2)
    for alpha in (0.3, 0.5):
        flags = calibrator.is_outlier(scores, alpha, confidence=0.9, guarantee=guarantee)
        p_values = calibrator.p_value(scores, confidence=0.9, guarantee=guarantee)
        np.testing.assert_array_equal(flags, p_values <= alpha)


def test_p_values_of_normal_images_are_valid_on_average():
    generator = np.random.default_rng(0)
    below = []
    for _ in range(2000):
        scores = generator.normal(size=40)
        below.append(Calibrator(scores[:39]).p_value(scores[39:])[0] <= 0.1)
    assert abs(np.mean(below) - 0.1) < 0.02  # exactly .1 in expectation: .1 * 40 is whole


def test_an_alpha_of_29_hundredths_is_not_a_float_a_little_below_it():
    calibrator = Calibrator(np.arange(99.0))
    assert calibrator.threshold(0.29) == 99 - 29
    assert 0.29 * 100 < 29


@pytest.mark.parametrize(("alpha", "needed"), [(0.05, 19), (0.01, 99), (0.3, 3), (0.001, 999)])
def test_an_alpha_too_small_names_the_number_needed(alpha, needed):
    with pytest.raises(InputError, match=f"at least {needed} calibration images; got {needed - 1}"):
        Calibrator(np.arange(float(needed - 1))).threshold(alpha)
    Calibrator(np.arange(float(needed))).threshold(alpha)


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_the_number_needed_with_a_guarantee_is_right(guarantee):
    needed = smallest_calibration_set(0.2, 0.9, guarantee)
    if guarantee != "monte-carlo":  # there it is a lower bound
        Calibrator(np.arange(float(needed))).threshold(0.2, 0.9, guarantee)
    with pytest.raises(InputError, match=f"at least {needed} "):
        Calibrator(np.arange(float(needed - 1))).threshold(0.2, 0.9, guarantee)


def test_known_intervals():
    low, high = Calibrator(np.arange(1000.0)).interval(0.05)
    assert (round(low, 3), round(high, 3)) == (0.037, 0.064)
    low, high = Calibrator(np.arange(200.0)).interval(0.05)
    assert (round(low, 3), round(high, 3)) == (0.024, 0.084)


@pytest.mark.parametrize(("n", "alpha", "allowed"), [(19, 0.1, 2), (9, 0.5, 5), (200, 0.05, 10)])
def test_the_interval_is_the_beta_law_of_order_statistics(n, alpha, allowed):
    """P(Beta(l, n + 1 - l) <= x) is the chance that at least l of n uniform numbers lie below x."""
    low, high = Calibrator(np.arange(float(n))).interval(alpha, level=0.9)
    assert binom.sf(allowed - 1, n, low) == pytest.approx(0.05, rel=1e-9)
    assert binom.sf(allowed - 1, n, high) == pytest.approx(0.95, rel=1e-9)
    grouped = Calibrator(np.arange(float(n + 5)), ("a",) * n + ("b",) * 5)
    assert grouped.interval(alpha, group="a", level=0.9) == (low, high)


def test_the_true_rate_follows_the_beta_law():
    generator = np.random.default_rng(1)
    # Uniform scores: the true rate of a threshold t is 1 - t.
    rates = [1 - Calibrator(generator.random(200)).threshold(0.05) for _ in range(2000)]
    low, high = Calibrator(np.arange(200.0)).interval(0.05)
    inside = np.mean([low <= rate <= high for rate in rates])
    assert abs(inside - 0.95) < 0.02
    assert abs(np.mean(rates) - 10 / 201) < 0.002


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_a_guarantee_holds_for_most_calibration_sets(guarantee):
    generator = np.random.default_rng(2)
    rates = [1 - Calibrator(generator.random(300)).threshold(0.15, 0.9, guarantee) for _ in range(1000)]
    assert np.mean(np.array(rates) <= 0.15) >= 0.9 - 0.03
    marginal = [1 - Calibrator(generator.random(300)).threshold(0.15) for _ in range(1000)]
    assert np.mean(np.array(marginal) <= 0.15) < 0.7  # without it the promise is on average only


@pytest.mark.parametrize("guarantee", ["simes", "dkwm", "monte-carlo"])
def test_simultaneous_guarantees_hold_at_every_alpha_at_once(guarantee):
    generator = np.random.default_rng(3)
    table = p_value_table(100, 0.9, guarantee)[:-1]
    # Uniform scores: the true rate of a threshold at the k-th largest of them is 1 - that score.
    failures = [np.any(1 - np.sort(generator.random(100))[::-1] > table) for _ in range(2000)]
    assert np.mean(failures) <= 0.1 + 0.02


def test_the_exact_guarantee_is_the_beta_bound():
    table = p_value_table(50, 0.95, "exact")
    assert table[4] == pytest.approx(beta.ppf(0.95, 5, 46))
    assert np.all(np.diff(table) > 0)


def test_groups_have_their_own_ranks():
    calibrator = Calibrator(np.array([1.0, 2, 3, 10, 20, 30]), ("a",) * 3 + ("b",) * 3)
    np.testing.assert_allclose(calibrator.p_value([5.0, 5.0], ["a", "b"]), [0.25, 1.0])
    assert calibrator.threshold(0.25, group="a") == 3
    assert calibrator.threshold(0.25, group="b") == 30
    assert calibrator.is_outlier([5.0, 5.0], 0.25, ["a", "b"]).tolist() == [True, False]
    with pytest.raises(InputError, match="no calibration for groups"):
        calibrator.p_value([1.0], ["c"])
    with pytest.raises(InputError, match="expected 1 group labels"):
        calibrator.p_value([1.0])
    with pytest.raises(NotCalibratedError):
        calibrator.threshold(0.25, group="c")
    with pytest.raises(InputError, match="no groups"):
        Calibrator(np.arange(9.0)).p_value([1.0], ["a"])


@pytest.mark.parametrize("bad", [[], [np.nan, 1.0], [np.inf, 1.0], [[1.0]]])
def test_calibration_scores_that_cannot_be_used_are_refused(bad):
    with pytest.raises(InputError):
        Calibrator(np.array(bad))


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.5, float("nan")])
def test_alphas_out_of_range_are_refused(alpha):
    with pytest.raises(InputError, match="alpha"):
        Calibrator(np.arange(100.0)).threshold(alpha)
    with pytest.raises(InputError, match="confidence"):
        p_value_table(100, alpha, "exact")


def test_older_rules():
    scores = np.array([1.0, 2.0, 3.0, 4.0])
    assert mean_std_threshold(scores, 1) == pytest.approx(2.5 + np.std(scores))
    assert percentile_threshold(scores, 50) == 2.5
    with pytest.raises(InputError):
        percentile_threshold(scores, 101)
    rules = threshold_rules(Calibrator(np.random.default_rng(0).random(1000)), 0.05)
    assert next(iter(rules)) == "conformal, alpha 0.05"
    assert rules["percentile 95"] == pytest.approx(rules["conformal, alpha 0.05"], abs=0.01)


def test_p_values_agree_with_an_independent_implementation():
    crepes = pytest.importorskip("crepes")
    generator = np.random.default_rng(5)
    calibration, scores = np.round(generator.random(50), 1), np.round(generator.random(20), 1)
    oracle = crepes.ConformalClassifier()
    oracle.fit(calibration)
    theirs = oracle.predict_p(scores[:, None], smoothing=False)[:, 0]
    np.testing.assert_allclose(Calibrator(calibration).p_value(scores), theirs)


def test_a_hopeless_guarantee_is_refused_at_once():
    for guarantee in GUARANTEES:
        with pytest.raises(InputError, match="needs at least"):
            Calibrator(np.arange(300.0)).threshold(1e-4, 0.95, guarantee)


def test_simulated_bounds_say_how_much_confidence_they_reach():
    p_value_table(20, 0.999, "monte-carlo")
    with pytest.raises(InputError, match=r"confidence of 0.999 at most; got 0.9991$"):
        p_value_table(20, 0.9991, "monte-carlo")


def test_tables_are_shared_and_cannot_be_written_into():
    with pytest.raises(ValueError, match="read-only"):
        p_value_table(10, None)[0] = 0


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.longdouble])
def test_rates_of_numpy_are_the_decimals_that_they_print_as(kind):
    calibrator = Calibrator(np.arange(99.0))
    for percent in range(5, 100):
        rate = percent / 100
        assert rate_of(kind(rate), "alpha") == rate
        assert calibrator.threshold(kind(rate)) == calibrator.threshold(rate)
        assert calibrator.threshold(kind(rate), confidence=kind(0.7)) == calibrator.threshold(rate, confidence=0.7)


@pytest.mark.parametrize("alpha", ["0.1", None, True, 0, 1, -0.1, np.nan, np.array([0.1]), Decimal("0.1"), 1j])
def test_what_is_no_rate_is_refused(alpha):
    with pytest.raises(InputError, match="expected alpha in"):
        Calibrator(np.arange(99.0)).threshold(alpha)


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_simes_bounds_are_those_of_the_formula(n):
    k, delta = max(1, n // 2), 0.1
    # Bates et al. 2023, section 3.1: 1 - delta^(1/k) (i (i - 1) ... (i - k + 1) / (n (n - 1) ... (n - k + 1)))^(1/k).
    products = [math.prod(range(i - k + 1, i + 1)) / math.prod(range(n - k + 1, n + 1)) for i in range(n, -1, -1)]
    expected = [1 - (delta * max(0, product)) ** (1 / k) for product in products]
    np.testing.assert_allclose(p_value_table(n, 0.9, "simes"), expected, rtol=1e-10)


@pytest.mark.parametrize("delta", [0.1, 0.999])
def test_monte_carlo_bounds_hold_in_just_the_share_of_sets_that_was_asked_for(delta):
    n = 7
    bounds = _monte_carlo_bounds(n, delta)
    drawn = np.sort(np.random.default_rng(0).random((1000, n)), axis=1)
    broken = (drawn > bounds[:-1] * (1 + 1e-12)).any(axis=1)
    assert broken.sum() == int(delta * 1001) - 1
    others = np.sort(np.random.default_rng(1).random((20_000, n)), axis=1)
    assert (others > bounds[:-1]).any(axis=1).mean() == pytest.approx(delta, abs=0.03)
    levels = beta.sf(bounds[:-1], np.arange(1, n + 1), n + 1 - np.arange(1, n + 1))
    np.testing.assert_allclose(levels, levels[0], rtol=1e-6)  # each rank alone is as unlikely to be above


@pytest.mark.parametrize("guarantee", ["exact", "dkwm", "simes", "monte-carlo"])
@pytest.mark.parametrize("confidence", [0.01, 0.3])
def test_a_low_confidence_promises_no_less_than_none(confidence, guarantee):
    for n in (1, 9, 60):
        assert (p_value_table(n, confidence, guarantee) >= p_value_table(n, None)).all()
    for alpha in (0.05, 0.3):
        n = smallest_calibration_set(alpha, confidence, guarantee)
        assert p_value_table(n, confidence, guarantee)[0] <= alpha
        assert guarantee == "monte-carlo" or p_value_table(n - 1, confidence, guarantee)[0] > alpha
    assert Calibrator(np.arange(60.0)).threshold(0.1, confidence) == Calibrator(np.arange(60.0)).threshold(0.1)


@pytest.mark.parametrize("guarantee", ["exact", "dkwm", "simes", "monte-carlo"])
def test_no_p_value_is_above_one_and_the_last_is_one(guarantee):
    for n in (1, 3, 40):
        table = p_value_table(n, 0.95, guarantee)
        assert table[-1] == 1
        assert (table <= 1).all()


@pytest.mark.parametrize(
    ("confidence", "guarantee"), [(None, "exact"), *((0.9, g) for g in ("exact", "dkwm", "simes"))]
)
def test_the_smallest_set_that_allows_an_alpha_does_and_none_smaller(confidence, guarantee):
    assert smallest_calibration_set(0.5, None, "exact") == 1
    for alpha in (0.25, 0.2, 0.1):
        n = smallest_calibration_set(alpha, confidence, guarantee)
        assert p_value_table(n, confidence, guarantee)[0] <= alpha
        assert p_value_table(n - 1, confidence, guarantee)[0] > alpha
    alpha = float(p_value_table(1, confidence, guarantee)[0])
    if alpha < 1:
        assert smallest_calibration_set(alpha, confidence, guarantee) == 1


def test_there_is_no_smallest_alpha_where_it_would_be_one():
    assert smallest_alpha(1, 0.9999) is None
    assert smallest_alpha(1, 0.99) == 0.99


def test_the_rate_with_images_left_out_is_that_of_the_larger_set():
    calibrator = Calibrator(np.arange(99.0))
    assert calibrator.rate_with(0, 0.05) == pytest.approx(5 / 100)
    assert calibrator.rate_with(3, 0.05) == pytest.approx(8 / 103)
    allowed = np.searchsorted(p_value_table(99, 0.9), 0.05, side="right")
    expected = beta.ppf(0.9, allowed + 3, 103 - (allowed + 3))
    assert calibrator.rate_with(3, 0.05, 0.9) == pytest.approx(expected, rel=1e-12)


def test_every_percentile_is_one_from_0_to_100():
    assert percentile_threshold([1.0, 2.0], 0) == 1
    assert percentile_threshold([1.0, 2.0], 100) == 2


@pytest.mark.parametrize("guarantee", GUARANTEES)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_no_score_has_a_p_value_above_one_and_the_lowest_has_one(n, guarantee):
    table = p_value_table(n, 0.9, guarantee)
    assert len(table) == n + 1
    assert table.max() == table[-1] == 1
    assert (np.diff(table) >= 0).all()


@pytest.mark.parametrize("n", [1, 2, 3, 6, 9])
def test_bounds_of_simes_are_those_of_the_formula(n):
    """b_i = 1 - delta^(1/k) (i (i-1) ... (i-k+1) / (n (n-1) ... (n-k+1)))^(1/k), k = n/2, the highest score first."""
    k = max(1, n // 2)
    expected = [
        1 - (0.1 * math.prod((i - j) / (n - j) for j in range(k))) ** (1 / k) if i >= k else 1 for i in range(n, -1, -1)
    ]
    np.testing.assert_allclose(p_value_table(n, 0.9, "simes"), expected, rtol=1e-12)


def test_simulated_bounds_hold_together_as_often_as_they_say():
    uniform = np.sort(np.random.default_rng(5).random((4000, 8)), axis=1)
    held = (uniform <= p_value_table(8, 0.8, "monte-carlo")[:-1]).all(axis=1).mean()
    assert held == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("guarantee", GUARANTEES[:3])
@pytest.mark.parametrize("confidence", [None, 0.9])
def test_the_smallest_set_is_the_smallest(confidence, guarantee):
    for alpha in (0.05, 0.3, 0.6, 0.7, 0.96):
        n = smallest_calibration_set(alpha, confidence, guarantee)
        assert p_value_table(n, confidence, guarantee)[0] <= alpha
        assert n == 1 or p_value_table(n - 1, confidence, guarantee)[0] > alpha


def test_a_set_that_allows_no_alpha_says_so():
    assert smallest_alpha(1, 0.95, "dkwm") is None


def test_percentiles_have_both_ends():
    assert [percentile_threshold([3.0, 1.0], percent) for percent in (0, 100)] == [1, 3]
    for percent in (-0.1, 100.1):
        with pytest.raises(InputError, match="from 0 to 100"):
            percentile_threshold([1.0], percent)


def test_the_older_rule_adds_one_standard_deviation_by_default():
    assert mean_std_threshold([1.0, 3.0]) == 3


def test_a_rate_that_is_no_short_fraction_stays_itself():
    assert share_of(1 / math.pi, 1) == 1 / math.pi


def test_a_rate_with_images_left_out_is_that_of_the_beta_distribution():
    calibrator = Calibrator(np.arange(99.0))
    assert calibrator.rate_with(2, 0.05) == 7 / 102
    allowed = max(a for a in range(1, 50) if beta.ppf(0.9, a, 100 - a) <= 0.05)
    for left_out in (0, 2):
        expected = beta.ppf(0.9, allowed + left_out, 100 - allowed)
        assert calibrator.rate_with(left_out, 0.05, 0.9) == pytest.approx(expected)


def test_the_interval_with_images_left_out_ends_where_none_of_them_is_bad():
    calibrator = Calibrator(np.arange(99.0))
    assert calibrator.interval(0.05, left_out=3) == pytest.approx((beta.ppf(0.025, 5, 95), beta.ppf(0.975, 8, 95)))


def test_the_way_out_names_the_smallest_alpha_where_there_is_one():
    with pytest.raises(InputError, match=r"give more of them, or an alpha of at least 0\.334$"):
        Calibrator(np.arange(2.0)).threshold(0.05)
    with pytest.raises(InputError, match=r"got 1: give more of them$"):
        Calibrator(np.arange(1.0)).threshold(0.05, 0.9999)


def test_older_rules_stand_beside_the_conformal_one():
    scores = np.arange(99.0)
    rules = threshold_rules(Calibrator(scores), 0.05)
    assert rules.pop("conformal, alpha 0.05") == 94
    assert rules.pop("percentile 95") == np.percentile(scores, 95)
    expected = {f"mean + {k} std": scores.mean() + k * scores.std() for k in (1, 2, 3)}
    assert rules == pytest.approx(expected)


def test_scores_that_were_left_out_in_turn_count_half_in_an_interval():
    half = [beta.ppf(end, 0.5 * 5, 0.5 * 95) for end in (0.025, 0.975)]
    assert Calibrator(np.arange(99.0)).interval(0.05, in_turn=True) == pytest.approx(half)


def test_the_number_of_images_that_is_named_suffices_by_simulated_bounds_too():
    for alpha, confidence in ((0.1, 0.9), (0.05, 0.95)):
        needed = smallest_calibration_set(alpha, confidence, "monte-carlo")
        assert needed > smallest_calibration_set(alpha, confidence, "exact")
        Calibrator(np.arange(needed, dtype=float)).threshold(alpha, confidence, "monte-carlo")
        with pytest.raises(InputError, match=f"needs at least {needed} calibration images"):
            Calibrator(np.arange(needed - 1, dtype=float)).threshold(alpha, confidence, "monte-carlo")


def test_a_group_is_one_of_the_calibration():
    with pytest.raises(InputError, match="has no groups, and 'left' names one"):
        Calibrator(np.arange(9.0)).check_group("left")
    grouped = Calibrator(np.arange(9.0), ("left",) * 9)
    grouped.check_group("left")
    with pytest.raises(InputError, match="no calibration for group 'right'"):
        grouped.check_group("right")

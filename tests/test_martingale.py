import json
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta, kstest

from recondite.errors import InputError
from recondite.statistics.martingale import BETS, Martingales, OnlineRanks, uniform


def stream_of(generator, size, tied):
    values = generator.normal(size=size)
    return np.round(values) if tied else values


@pytest.mark.parametrize("tied", [False, True], ids=["continuous", "tied"])
@pytest.mark.parametrize("cells", [1000, 7])
def test_p_values_are_uniform_and_independent_of_the_calibration_set(tied, cells):
    """Pooled over many small calibration sets, of which single ones are far from representative."""
    generator = np.random.default_rng(0)
    early, late, pairs = [], [], []
    for seed in range(400):
        ranks = OnlineRanks(stream_of(generator, 9, tied), seed=seed, cells=cells)
        found = [ranks.p_value(x, *generator.random(2)) for x in stream_of(generator, 40, tied)]
        early.append(found[0])
        late.append(found[-1])
        pairs += pairwise(found)
    assert kstest(early, "uniform").pvalue > 0.01
    assert kstest(late, "uniform").pvalue > 0.01
    assert kstest(np.ravel(pairs), "uniform").pvalue > 0.001
    assert abs(np.corrcoef(np.array(pairs).T)[0, 1]) < 0.03


def test_with_all_scores_equal_p_values_are_still_uniform():
    generator = np.random.default_rng(1)
    ranks = OnlineRanks(np.zeros(20), seed=3)
    found = [ranks.p_value(0.0, *generator.random(2)) for _ in range(3000)]
    # Conditional on where the numbers of the calibration lie, only the stream as a whole learns to be uniform.
    assert kstest(found[1000:], "uniform").pvalue > 0.001


def test_cells_hold_what_a_search_through_all_scores_finds():
    """The p-value lies within the gaps that the true rank and its cell allow."""
    generator = np.random.default_rng(2)
    calibration, stream = generator.normal(size=30), generator.normal(size=200)
    ranks, seen = OnlineRanks(calibration), []
    for score in stream:
        cell = np.searchsorted(np.sort(calibration), score)
        weights = 1 + np.bincount(np.searchsorted(np.sort(calibration), seen), minlength=31)
        expected = 1 - (weights[:cell].sum() + 0.25 * weights[cell]) / (31 + len(seen))
        assert ranks.p_value(score, 0.5, 0.25) == pytest.approx(expected)
        seen.append(score)
    assert sum(ranks.counts) == len(stream)


def test_a_higher_score_has_a_lower_p_value():
    values = np.linspace(0, 1, 50)
    found = [OnlineRanks(values).p_value(score, 0.5, 0.5) for score in (-1.0, 0.33, 0.71, 2.0)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 1 / 51 < 50 / 51 < found[0]


def test_memory_does_not_grow_with_the_calibration_set():
    assert len(OnlineRanks(np.random.default_rng(0).normal(size=20_000)).counts) == 1000


@pytest.mark.parametrize("bet", BETS)
def test_every_bet_is_fair(bet):
    assert quad(lambda p: beta.pdf(p, *bet), 0, 1)[0] == pytest.approx(1, abs=1e-3)


def test_capital_is_that_of_a_gambler_who_is_restarted_at_every_step():
    """The slow way: one gambler for each start and bet, with the share of cash staked then."""
    p_values = np.random.default_rng(4).random(30) ** 2
    fast = Martingales(1)
    for p_value in p_values:
        fast.update([p_value])
    cash = 1 / (1 + np.log2(1 + np.arange(31)))
    slow = cash[-1]
    for bet in BETS:
        factors = 0.1 + 0.9 * beta.pdf(p_values, *bet)
        slow += sum((cash[t] - cash[t + 1]) / len(BETS) * np.prod(factors[t:]) for t in range(30))
    assert fast.values[0] == pytest.approx(slow)


def test_alarms_without_a_change_are_as_rare_as_promised():
    """300 streams of 600: calibration sets of 20 would deceive p-values that do not learn from the stream."""
    generator = np.random.default_rng(5)
    runs, length = 300, 600
    ranks = [OnlineRanks(generator.normal(size=20), seed=run) for run in range(runs)]
    learning, fixed, top, deceived = Martingales(runs), Martingales(runs), np.ones(runs), np.ones(runs)
    calibration = np.sort(generator.normal(size=(runs, 20)), axis=1)
    for _ in range(length):
        scores, random = generator.normal(size=runs), generator.random((runs, 2))
        learning.update([r.p_value(x, *u) for r, x, u in zip(ranks, scores.tolist(), random.tolist(), strict=True)])
        above = (calibration > scores[:, None]).sum(axis=1)
        fixed.update((above + random[:, 0]) / 21)
        top, deceived = np.maximum(top, learning.values), np.maximum(deceived, fixed.values)
    assert np.mean(top >= 10) <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / runs)
    assert np.mean(top >= 100) <= 0.01 + 3 * np.sqrt(0.01 * 0.99 / runs)
    assert np.mean(deceived >= 10) > 0.5


def test_capital_grows_when_scores_change_and_says_when():
    generator = np.random.default_rng(6)
    ranks, martingale = OnlineRanks(generator.normal(size=500)), Martingales(1)
    for step in range(1200):
        score = generator.normal() + (1.5 if step >= 1000 else 0)
        martingale.update([ranks.p_value(score, *generator.random(2))])
        if step == 999:
            assert martingale.values[0] < 10
    assert martingale.values[0] > 1e6
    assert abs(martingale.began(0) - 1000) <= 10


def test_a_missing_p_value_is_no_bet():
    martingale, other = Martingales(2), Martingales(1)
    for p_value in (0.01, 0.02, 0.03):
        martingale.update([p_value, np.nan])
        other.update([p_value])
    assert martingale.values[0] == other.values[0]
    assert martingale.values[1] == pytest.approx(1)


def test_an_endless_win_stays_finite_and_can_be_saved():
    martingale = Martingales(1)
    for _ in range(500):
        martingale.update([1e-9])
    again = Martingales(1)
    again.restore(json.loads(json.dumps(martingale.state())))
    assert np.isfinite(again.values).all()
    assert again.state() == martingale.state()


def test_random_numbers_depend_on_their_place_alone():
    whole = uniform(3, 0, 100_000)
    assert np.array_equal(whole[500:700], uniform(3, 500, 200))
    assert kstest(whole, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(whole[:-1], whole[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(whole, uniform(4, 0, 100_000))[0, 1]) < 0.02


def test_wrong_input_is_refused():
    for scores in ([], [np.nan], [[1.0]]):
        with pytest.raises(InputError, match="finite calibration scores"):
            OnlineRanks(scores)
    with pytest.raises(InputError, match="count for each of 4 cells"):
        OnlineRanks([1.0, 2.0, 3.0]).restore([1, 2])
    with pytest.raises(InputError, match="count for each of 2 cells"):
        OnlineRanks([1.0]).restore([1, -2])
    with pytest.raises(InputError, match="count for each of 2 cells"):
        OnlineRanks([1.0]).restore([1, 2.0])
    for state in ({}, {**Martingales(2).state(), "steps": -1}, Martingales(1).state()):
        with pytest.raises(InputError, match="not the state"):
            Martingales(2).restore(state)


def test_random_numbers_are_those_of_splitmix():
    """In whole numbers without an end, as the authors' own program computes them."""
    wrapped, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mixed(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & wrapped
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & wrapped
        return z ^ (z >> 31)

    assert mixed(golden) == 0xE220A8397B1DCDAF  # the first number of seed 0
    for seed in (0, 7, wrapped):
        origin = mixed((seed + golden) & wrapped)
        expected = [((mixed((origin + place * golden) & wrapped) >> 11) + 0.5) / 2**53 for place in range(3, 8)]
        assert uniform(seed, 2, 5).tolist() == expected


def test_the_bets_are_those_that_saved_states_hold():
    small, large = ((0.3, 1), (0.6, 1), (1, 2), (1, 4)), ((1, 0.3), (1, 0.6), (2, 1), (4, 1))
    assert (*small, *large, (0.5, 0.5), (2, 2), (5, 5)) == BETS


@pytest.mark.parametrize("nothing", [0.5, np.nan])
def test_a_bet_begins_to_win_when_p_values_become_small(nothing):
    martingales = Martingales(1)
    for p_value in [nothing] * 5 + [0.2] * 6:
        martingales.update([p_value])
    assert martingales.began(0) == 5


def test_what_is_no_state_is_refused():
    martingales = Martingales(2)
    martingales.restore(martingales.state())  # before any step, too
    good = martingales.state()
    for name in ("stakes", "gains", "begun"):
        for wrong in (-1.0, np.inf):
            broken = json.loads(json.dumps(good))
            broken[name][1][3] = wrong
            with pytest.raises(InputError, match="not the state of 2 martingales"):
                martingales.restore(broken)
        with pytest.raises(InputError, match="not the state of 2 martingales"):
            martingales.restore({**good, name: good[name][:1]})
    with pytest.raises(InputError, match="not the state of 2 martingales"):
        martingales.restore({**good, "steps": -1})


def test_p_values_are_never_nought_or_one():
    assert OnlineRanks([0.0]).p_value(-1.0, 0.5, 0.0) == 1 - 1e-12
    assert OnlineRanks([0.0]).p_value(1.0, 0.5, 1.0) == 1e-12
    for scores in ([0.0, np.inf], [[0.0]], []):
        with pytest.raises(InputError, match="finite calibration scores"):
            OnlineRanks(scores)


def test_cells_that_no_score_fell_into_are_taken_up_too():
    ranks = OnlineRanks([1.0, 2.0, 3.0])
    ranks.restore([0, 4, 0, 1])
    assert ranks.counts == [0, 4, 0, 1]

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ks_2samp

from recondite import Calibrator, Monitor
from recondite.errors import InputError
from recondite.screen.monitor import Alarm, parts_of_false_alarm
from recondite.statistics.scores import Scores


@pytest.fixture(scope="module")
def screen(screens):
    return screens("pca")


@pytest.fixture(scope="module")
def shuffled(digits):
    return digits[:1400][np.random.default_rng(0).permutation(1400)]


@pytest.fixture(scope="module")
def verdicts(screen, shuffled):
    return screen.predict(shuffled[:300])


@pytest.fixture(scope="module")
def brighter(screen, shuffled):
    return screen.predict(np.clip(shuffled[:300].astype(int) + 25, 0, 255).astype(np.uint8))


def part(scores, start, stop):
    return Scores(
        ids=scores.ids[start:stop],
        instance_score=scores.instance_score[start:stop],
        errors=scores.errors[start:stop],
        statistics={name: values[start:stop] for name, values in (scores.statistics or {}).items()},
    )


def exchangeable(screen, generator, size, index=None):
    """Calibration and stream drawn from the same calibration images."""
    names = list(screen.observations)
    index = generator.integers(0, len(screen.calibrator.scores), size) if index is None else index
    return Scores(
        ids=tuple(map(str, index)),
        instance_score=screen.calibrator.scores[index],
        errors=(None,) * len(index),
        statistics={name: screen.observations[name][index] for name in names if name != "error"},
    )


def test_images_like_those_of_calibration_raise_no_alarm_and_brighter_ones_do(screen, brighter):
    monitor = Monitor(screen)
    assert monitor.martingale == pytest.approx(0.5)
    assert not monitor.update(exchangeable(screen, np.random.default_rng(1), 400))
    assert monitor.seen == 400
    assert monitor.alarm is None
    assert monitor.update(brighter)
    alarm = monitor.alarm
    assert 400 < alarm.at < 430
    assert abs(alarm.began - 400) <= 5
    assert alarm.id == brighter.ids[alarm.at - 401]
    assert alarm.martingale >= monitor.threshold == 100
    assert alarm.name in screen.observations or alarm.name == "instance_score"
    moved = {one.name: one for one in monitor.moved()}
    assert moved["brightness"].moved
    assert moved["brightness"].shift > 1
    assert moved["brightness"].evidence > 1e6
    assert [one.p_value for one in monitor.moved()] == sorted(one.p_value for one in monitor.moved())
    before = monitor.alarm
    monitor.update(exchangeable(screen, np.random.default_rng(2), 50))
    assert monitor.alarm is before


@pytest.mark.parametrize("window", [1000, 400, 50])
def test_after_an_alarm_recent_images_are_those_since_the_change(screen, brighter, window):
    monitor = Monitor(screen, window=window)
    monitor.update(exchangeable(screen, np.random.default_rng(1), 400))
    monitor.update(brighter)
    assert 380 < monitor.alarm.began < 420
    assert len(monitor.recent_scores) == min(window, monitor.seen - monitor.alarm.began)
    np.testing.assert_array_equal(monitor.recent_scores[-40:], brighter.instance_score[-40:])


def test_false_alarms_are_as_rare_as_promised(screen):
    """Calibration and stream are drawn anew in every run, so the promise holds whatever the statistics are."""
    runs, alarms = 60, 0
    for run in range(runs):
        generator = np.random.default_rng(run)
        drawn = exchangeable(screen, generator, 40)
        judge = replace(
            screen,
            calibrator=Calibrator(drawn.instance_score),
            observations={"error": drawn.instance_score, **drawn.statistics},
            peaks=None,
        )
        alarms += Monitor(judge, false_alarm=0.2, seed=run).update(exchangeable(screen, generator, 300))
    assert alarms / runs <= 0.2 + 3 * np.sqrt(0.2 * 0.8 / runs)


def test_a_class_that_disappears_is_seen(screens, digits):
    """Ones and sevens alone: scores of `auto` hardly move, roughness and the like do."""
    from sklearn.datasets import load_digits

    few = digits[:1400][np.isin(load_digits().target[:1400], [1, 7])]
    monitor = Monitor(screens("pca"), false_alarm=0.05)
    assert monitor.update(screens("pca").predict(few))


def test_one_at_a_time_or_all_at_once_is_the_same(screen, verdicts, brighter):
    whole, single = Monitor(screen, seed=3), Monitor(screen, seed=3)
    for scores in (verdicts, brighter):
        whole.update(scores)
        for index in range(len(scores)):
            single.update(part(scores, index, index + 1))
    assert single.state() == whole.state()
    assert Monitor(screen, seed=4).update(verdicts) is False
    other = Monitor(screen, seed=4)
    other.update(verdicts)
    assert other.martingale != whole.martingale


def test_a_state_goes_on_as_if_nothing_had_happened(screen, verdicts, brighter):
    one = Monitor(screen, false_alarm=0.02, window=50)
    one.update(verdicts)
    other = Monitor.from_state(screen, json.loads(json.dumps(one.state())))
    assert (other.false_alarm, other.window, other.seen, other.largest) == (0.02, 50, 300, one.largest)
    for monitor in (one, other):
        monitor.update(brighter)
    assert other.state() == one.state()
    assert other.alarm == one.alarm is not None
    again = Monitor.from_state(screen, json.loads(json.dumps(other.state())))
    assert again.alarm == one.alarm
    assert again.moved() == one.moved()


def test_p_values_of_what_moved_are_corrected_by_holm(screen):
    """Each p-value times the number of those not yet rejected, never below the one before it, at most 1."""
    generator = np.random.default_rng(3)
    drawn = exchangeable(screen, generator, 40)
    name = "brightness"
    drawn.statistics[name] = drawn.statistics[name] + 0.35 * screen.observations[name].std()
    monitor = Monitor(screen)
    monitor.update(drawn)
    moved = monitor.moved()
    reference = {"instance_score": screen.calibrator.scores, **screen.observations}
    seen = {"instance_score": drawn.instance_score, **drawn.statistics}
    raw = {one.name: ks_2samp(seen[one.name], reference[one.name], method="asymp") for one in moved}
    ordered = sorted(raw, key=lambda one: raw[one].pvalue)
    corrected, smallest = {}, 0.0
    for rejected, one in enumerate(ordered):
        smallest = max(smallest, min(1.0, raw[one].pvalue * (len(raw) - rejected)))
        corrected[one] = smallest
    assert len(raw) > 5
    assert {one.name: one.p_value for one in moved} == pytest.approx(corrected, rel=1e-12)
    assert {one.name: one.distance for one in moved} == pytest.approx({k: v.statistic for k, v in raw.items()})
    assert all(one.moved == (one.p_value <= 0.05) for one in moved)
    # It matters: some would count as moved by their own p-values.
    assert sum(result.pvalue <= 0.05 for result in raw.values()) > sum(one.moved for one in moved)


def test_each_sequence_has_its_share_of_false_alarms(screen, verdicts):
    monitor = Monitor(screen)
    monitor.update(verdicts)
    weights = parts_of_false_alarm(len(monitor.moved()))
    assert weights.sum() == pytest.approx(1)
    by_name = {one.name: one.evidence for one in monitor.moved()}
    weighted = [0.5 * by_name.pop("instance_score"), *(0.5 / len(by_name) * value for value in by_name.values())]
    assert monitor.martingale == pytest.approx(max(weighted))
    assert parts_of_false_alarm(1).tolist() == [1.0]


class Plain:
    """As much of a screen as a monitor looks at."""

    def __init__(self, scores, observations=None):
        self.calibrator, self.score = Calibrator(np.asarray(scores, float)), "auto"
        self.evidence, self.observations = observations and "evidence", observations

    def fingerprint(self):
        return "plain"


def plain_verdicts(scores, **statistics):
    scores, names = np.asarray(scores, float), tuple(f"image {place}" for place in range(len(scores)))
    errors = tuple(None if np.isfinite(score) else "unreadable" for score in scores)
    return Scores(ids=names, instance_score=scores, errors=errors, statistics=statistics or None)


def test_what_a_monitor_tells_of_scores_alone():
    calibration = np.linspace(10, 12, 101)
    monitor = Monitor(Plain(calibration))
    assert (monitor.false_alarm, monitor.threshold, monitor.window, monitor.largest) == (0.01, 100, 200, 0)
    assert monitor.state()["schema"] == 1
    monitor.update(plain_verdicts(np.full(4, 12.5)))
    assert monitor.moved() == []  # fewer than five
    assert monitor.martingale == monitor._martingales.values[0] > 1
    monitor.update(plain_verdicts([12.5, np.nan]))
    monitor.update(plain_verdicts([np.nan]))
    assert (monitor.seen, monitor.invalid) == (5, 2)
    (moved,) = monitor.moved()
    assert (moved.name, moved.words, moved.distance, moved.moved) == ("instance_score", "score", 1, True)
    assert moved.shift == pytest.approx(1.5 / calibration.std())
    peak = monitor.largest
    monitor.update(plain_verdicts([11.0] * 5))
    assert monitor.largest == peak > monitor.martingale


def test_what_never_varied_moves_in_units_of_its_own():
    monitor = Monitor(Plain(np.linspace(0, 1, 101), {"brightness": np.full(101, 3.0), "contrast": np.arange(101.0)}))
    level = np.linspace(0, 1, 5)
    monitor.update(plain_verdicts(level, brightness=np.full(5, 5.0), contrast=np.full(5, 200.0)))
    moved = {one.name: one for one in monitor.moved()}
    assert moved["brightness"].shift == pytest.approx(2.0)
    assert moved["contrast"].words != "score" != moved["brightness"].words
    assert parts_of_false_alarm(3).tolist() == [0.5, 0.25, 0.25]
    assert parts_of_false_alarm(2).tolist() == [0.5, 0.5]


def test_of_equal_p_values_the_most_different_statistic_comes_first():
    calibration = np.linspace(0, 1, 800)
    screen = Plain(calibration, {"brightness": calibration, "contrast": calibration})
    monitor = Monitor(screen, window=800)
    most, all_of_them = np.where(np.arange(800) % 20 == 0, 0.5, 2), np.full(800, 2.0)
    monitor.update(plain_verdicts(most, brightness=all_of_them, contrast=most))
    moved = monitor.moved()
    assert [one.name for one in moved] == ["brightness", "instance_score", "contrast"]
    assert [one.p_value for one in moved] == [0, 0, 0]
    evidence = {one.name: one.evidence for one in moved}
    assert monitor.martingale == max(0.5 * evidence.pop("instance_score"), *(0.25 * one for one in evidence.values()))


def test_the_alarm_is_raised_at_its_level_and_recent_images_are_counted_from_the_change(monkeypatch):
    calibration, stream = np.linspace(0, 1, 101), np.full(10, 2.0)
    first = Monitor(Plain(calibration))
    levels = []
    for place in range(10):
        first.update(plain_verdicts(stream[place : place + 1]))
        levels.append(first.martingale)
    assert levels[9] > max(levels[:9])
    monkeypatch.setattr(Monitor, "threshold", levels[9])
    monitor = Monitor(Plain(calibration))
    assert not monitor.update(plain_verdicts(stream[:9]))
    assert monitor.update(plain_verdicts(stream[:1]))
    assert (monitor.alarm.at, monitor.alarm.martingale) == (10, levels[9])
    scores = np.arange(12.0) / 100
    small = Monitor(Plain(calibration), window=8)
    small.update(plain_verdicts(scores))
    for began, words in ((0, "with the first image"), (1, "after about 1 image"), (1234, "after about 1,234 images")):
        assert Alarm(2000, began, "", "instance_score", 100.0).since() == words
    for began, since in ((0, 8), (4, 8), (5, 7), (7, 5), (8, 8)):  # four of them would be too few
        small.alarm = Alarm(12, began, "", "instance_score", 100.0)
        assert small.recent_scores.tolist() == scores[-since:].tolist()


def test_unreadable_images_are_counted_and_change_nothing_else(screen):
    mixed = screen.predict([b"x", np.zeros((8, 8), np.uint8), b"y"])
    monitor, other = Monitor(screen), Monitor(screen)
    monitor.update(mixed)
    other.update(screen.predict(np.zeros((1, 8, 8), np.uint8)))
    assert (monitor.invalid, monitor.seen) == (2, 1)
    assert monitor.martingale == other.martingale
    monitor.update(screen.predict([b"x"]))
    assert (monitor.invalid, monitor.seen) == (3, 1)


def test_scores_without_statistics_are_watched_all_the_same(screen, brighter):
    plain = Scores(ids=brighter.ids, instance_score=brighter.instance_score, errors=brighter.errors)
    monitor = Monitor(screen)
    assert monitor.update(plain)
    assert [one.name for one in monitor.moved()] == ["instance_score"]
    error_only = Monitor(screen.with_score("error"))
    assert set(error_only.recent_statistics) == {"instance_score"}
    error_only.update(screen.with_score("error").predict(np.zeros((20, 8, 8), np.uint8)))
    assert [one.name for one in error_only.moved()] == ["instance_score"]


def test_memory_is_bounded(screen, verdicts):
    monitor = Monitor(screen, window=50)
    sizes = []
    for _ in range(3):
        monitor.update(verdicts)
        sizes.append(len(json.dumps(monitor.state()).split(",")))
    assert sizes[0] == sizes[1] == sizes[2]
    assert len(monitor.recent_scores) == 50


def test_groups_are_ranked_among_their_own(screen):
    """Two groups whose scores lie far apart: neither is drift, until one comes under the other's name."""
    scores = np.concatenate([np.linspace(0, 1, 200), np.linspace(100, 101, 200)])
    grouped = replace(
        screen,
        calibrator=Calibrator(scores, ("a",) * 200 + ("b",) * 200),
        **{"score": "error", "evidence": None, "observations": {}, "peaks": None},
    )
    generator = np.random.default_rng(7)
    names = ["a", "b"] * 100
    values = generator.random(200) + np.array([0, 100] * 100)
    stream = Scores(ids=("",) * 200, instance_score=values, errors=(None,) * 200)
    monitor = Monitor(grouped)
    assert not monitor.update(stream, names)
    assert Monitor.from_state(grouped, monitor.state()).state() == monitor.state()
    assert monitor.update(stream, ["a"] * 200)
    with pytest.raises(InputError, match="expected 200 group labels"):
        monitor.update(stream)
    with pytest.raises(InputError, match="no calibration for groups"):
        monitor.update(stream, ["c"] * 200)
    assert monitor.seen == 400


def test_the_state_of_another_screen_or_a_damaged_one_is_refused(screen, verdicts):
    monitor = Monitor(screen)
    monitor.update(verdicts)
    state = monitor.state()
    with pytest.raises(InputError, match="another screen"):
        Monitor.from_state(screen.with_score("error"), state)
    assert Monitor.from_state(screen.with_alpha(0.1), state).seen == 300
    for damage in (
        {"kind": "other"},
        {"schema": 99},
        {"counts": {}},
        {"counts": {"": [[1, 2]]}},
        {"bets": {}},
        {"recent": [[1.0]]},
        {"alarm": {"no": 1}},
        {"false_alarm": 2},
        {"bets": Monitor(screen).state()["bets"]},
    ):
        with pytest.raises(InputError):
            Monitor.from_state(screen, {**state, **damage})
    with pytest.raises(InputError, match="not the state"):
        Monitor.from_state(screen, [])


def test_settings_out_of_range_are_refused(screen):
    for false_alarm in (0, 1, float("nan")):
        with pytest.raises(InputError, match="false_alarm"):
            Monitor(screen, false_alarm=false_alarm)
    with pytest.raises(InputError, match="window"):
        Monitor(screen, window=4)
    assert Monitor(screen, window=5).window == 5


def test_a_false_alarm_rate_of_numpy_is_kept_as_a_plain_number(screen):
    monitor = Monitor(screen, false_alarm=np.float32(0.05))
    assert monitor.false_alarm == 0.05
    assert json.loads(json.dumps(monitor.state()))["false_alarm"] == 0.05
    with pytest.raises(InputError, match="expected false_alarm in"):
        Monitor(screen, false_alarm="0.05")

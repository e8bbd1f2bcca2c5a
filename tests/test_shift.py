"""Weighted p-values where images to come are not distributed as the calibration images are."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import recondite
from recondite import Calibrator, InputError, Monitor
from recondite.cli import main
from recondite.data.tables import write_table
from recondite.screen.shift import Reweighting, _scaled, advice
from recondite.statistics.image_statistics import OF_IMAGES
from recondite.statistics.weighted import DensityRatio, effective_number, weighted_p_values

ALPHA = 0.1


def images_of(brightness, seed):
    """Grey images whose noise, and so whose error, grows with their brightness."""
    draws = np.random.default_rng(seed)
    noise = (
        draws.standard_normal((len(brightness), 1, 12, 12)) * (0.01 + 0.3 * np.square(brightness))[:, None, None, None]
    )
    ramp = np.linspace(-0.1, 0.1, 12)
    return (brightness[:, None, None, None] + ramp + noise).clip(0, 1).astype(np.float32)


def dim(count, seed):
    return images_of(np.random.default_rng(seed).uniform(0.2, 0.8, count), seed)


def bright(count, seed):
    """The same kind of images, those of them that are bright more often."""
    return images_of(0.2 + 0.6 * np.random.default_rng(seed).beta(3, 1.2, count), seed)


@pytest.fixture(scope="module")
def screen():
    options = {"detector": "pca", "latent_size": 3, "score": "evidence", "group_by": "none", "seed": 1}
    return recondite.fit(dim(1500, 0), alpha=ALPHA, evidence=0.2, calibration=0.3, **options)


def test_equal_weights_give_the_p_values_of_the_calibrator():
    draws = np.random.default_rng(0)
    calibration, scores = draws.integers(0, 20, 60).astype(float), draws.integers(0, 22, 200).astype(float)
    expected = Calibrator(calibration).p_value(scores)
    np.testing.assert_allclose(weighted_p_values(calibration, np.full(60, 7.0), scores, np.full(200, 7.0)), expected)
    # A weight of two is an image that is there twice.
    doubled = Calibrator(np.append(calibration, calibration[:5]))
    weights = np.where(np.arange(60) < 5, 2.0, 1.0)
    np.testing.assert_allclose(weighted_p_values(calibration, weights, scores, np.ones(200)), doubled.p_value(scores))
    assert effective_number(weights) == pytest.approx(65**2 / (55 + 20))


@pytest.mark.parametrize("estimated", [False, True])
def test_the_rate_holds_under_covariate_shift_and_only_with_weights(estimated):
    """Scores whose spread grows with x; x ~ N(0, 1) when calibrating and N(1, 1) after: the ratio is exp(x - 1/2)."""
    rates = {"plain": [], "weighted": []}
    for draw in range(60):
        draws = np.random.default_rng(draw)
        x, later = draws.standard_normal((400, 1)), 1 + draws.standard_normal((400, 1))
        scores, after = (np.abs(draws.standard_normal(400)) * np.exp(part[:, 0] / 2) for part in (x, later))
        weights, own = np.exp(x[:, 0]), np.exp(later[:, 0])
        if estimated:
            ratio = DensityRatio.fit(x, 1 + draws.standard_normal((200, 1)))
            weights, own = ratio.weights, ratio.of(later, x)
            assert 0.7 < ratio.told_apart < 0.83  # .76 by theory
        rates["plain"].append(np.mean(Calibrator(scores).p_value(after) <= ALPHA))
        rates["weighted"].append(np.mean(weighted_p_values(scores, weights, after, own) <= ALPHA))
    assert np.mean(rates["plain"]) > 0.18
    assert np.mean(rates["weighted"]) == pytest.approx(ALPHA, abs=0.02)


def test_an_image_unlike_anything_counts_no_more_than_the_weightiest():
    draws = np.random.default_rng(1)
    x = draws.standard_normal((300, 2))
    ratio = DensityRatio.fit(x, x + np.array([1.0, 0.0]))
    assert ratio.weights.max() == 1
    assert ratio.of(np.array([[50.0, 0.0]]), x) == 1
    np.testing.assert_allclose(ratio.of(x, x), ratio.weights)


def test_a_screen_judges_brighter_images_at_about_alpha(screen):
    recent, fresh = screen.predict(bright(400, 3)), screen.predict(bright(1500, 4))
    weighed = Reweighting.fit(screen, recent.statistics)
    judged = weighed.judge(fresh)
    assert fresh.is_outlier.mean() > 1.3 * ALPHA
    assert judged.is_outlier.mean() == pytest.approx(ALPHA, abs=0.035)
    assert np.array_equal(judged.is_outlier, judged.p_value <= ALPHA)
    assert np.array_equal(judged.instance_score, fresh.instance_score)
    assert 50 < weighed.effective < 400
    assert f"count as {weighed.effective:.0f}" in weighed.promise
    assert "not proven" in weighed.promise
    forced = replace(screen, facts={**screen.facts, "calibration": {"no_promise": ["it was asked for"]}})
    assert replace(weighed, screen=forced).promise.startswith("Nothing is promised: the calibration was forced")
    odd = np.random.default_rng(0).random((30, 1, 12, 12), dtype=np.float32)
    assert weighed.judge(screen.predict(odd)).is_outlier.all()
    # Without a shift it changes little, and an image alone gets what it gets among others.
    still = Reweighting.fit(screen, screen.predict(dim(400, 5)).statistics)
    assert still.effective > 0.8 * len(screen.calibrator.scores)
    one = weighed.judge(screen.predict(bright(1500, 4)[7:8]))
    assert one.p_value[0] == judged.p_value[7]


def test_what_cannot_be_read_stays_invalid(screen):
    fresh = screen.predict([bright(1, 4)[0, 0], "missing.png"])
    judged = Reweighting.fit(screen, screen.predict(bright(100, 3)).statistics).judge(fresh)
    assert judged.words[1] == "invalid"
    assert judged.is_outlier[1]
    # An image of which one statistic is missing is judged without weights.
    weighed, fresh = Reweighting.fit(screen, screen.predict(bright(100, 3)).statistics), screen.predict(bright(3, 4))
    gap = {**fresh.statistics, "brightness": np.where(np.arange(3) == 1, np.nan, fresh.statistics["brightness"])}
    judged = weighed.judge(replace(fresh, statistics=gap))
    assert judged.p_value[1] == fresh.p_value[1]
    np.testing.assert_array_equal(judged.p_value[[0, 2]], weighed.judge(fresh).p_value[[0, 2]])


def test_too_little_overlap_and_other_screens_are_refused(screen):
    far = screen.predict(images_of(np.full(100, 0.95), 6))
    with pytest.raises(InputError, match=r"too unlike those of calibration: .* count as .* needs 9: calibrate on"):
        Reweighting.fit(screen, far.statistics)
    recent = screen.predict(bright(60, 3))
    with pytest.raises(InputError, match="at least 50 recent images to weigh by; got 20"):
        Reweighting.fit(screen, {name: values[:20] for name, values in recent.statistics.items()})
    with pytest.raises(InputError, match=r"judge with another score \(--score auto"):
        Reweighting.fit(screen.with_score("error"), recent.statistics)
    plain = replace(screen.with_score("error"), evidence=None, observations={})
    with pytest.raises(InputError, match="fit with images enough for evidence"):
        Reweighting.fit(plain, recent.statistics)
    by_folder = replace(screen, calibrator=Calibrator(screen.calibrator.scores, ("a",) * len(screen.calibrator.scores)))
    with pytest.raises(InputError, match="by folder or with a confidence: calibrate it without"):
        Reweighting.fit(by_folder, recent.statistics)
    with pytest.raises(InputError, match="by folder or with a confidence: calibrate it without"):
        Reweighting.fit(screen.with_alpha(ALPHA, confidence=0.9), recent.statistics)
    with pytest.raises(InputError, match="lack brightness"):
        Reweighting.fit(screen, {})
    with pytest.raises(InputError, match="lack brightness"):
        Reweighting.fit(screen, recent.statistics).judge(replace(recent, statistics=None))
    less = {name: values for name, values in recent.statistics.items() if name != "brightness"}
    with pytest.raises(InputError, match="lack brightness: judge with statistics"):
        Reweighting.fit(screen, recent.statistics).judge(replace(recent, statistics=less))


def test_where_nothing_overlaps_no_weights_are_given_whatever_the_penalty_leaves(screen):
    """Black images are like no calibration image; the ridge penalty keeps dozens of these weighty."""
    black = screen.predict(np.zeros((60, 1, 12, 12), dtype=np.float32) + np.linspace(0, 1e-4, 60)[:, None, None, None])
    now = _scaled(screen, OF_IMAGES, black.statistics)
    known = _scaled(screen, OF_IMAGES, screen.observations)
    assert effective_number(DensityRatio.fit(known, now).weights) > 9
    with pytest.raises(
        InputError, match=r"too unlike those of calibration: .* AUROC of 1\.00\), and alpha = 0\.1 needs"
    ):
        Reweighting.fit(screen, black.statistics)


def test_copies_among_recent_images_count_once(screen):
    recent = screen.predict(bright(60, 3)).statistics
    with pytest.raises(InputError, match="at least 50 recent images to weigh by; got 1 and 99 copies of them"):
        Reweighting.fit(screen, {name: np.repeat(values[:1], 100) for name, values in recent.items()})
    once = Reweighting.fit(screen, recent)
    often = Reweighting.fit(
        screen, {name: np.append(values, np.repeat(values[:1], 500)) for name, values in recent.items()}
    )
    np.testing.assert_array_equal(often.ratio.weights, once.ratio.weights)
    far = {name: np.arange(1e6, 1e6 + 60) for name in OF_IMAGES}  # they differ, though no farther is looked at
    with pytest.raises(InputError, match="too unlike those of calibration"):
        Reweighting.fit(screen, far)


@pytest.mark.parametrize(
    ("weights", "enough"),
    [
        (np.ones(9), True),  # 1 / (1 + 9) is alpha
        (np.ones(8), False),
        (np.r_[1, np.full(49, 0.1)], False),  # they tell as much as 17, but an image like the first counts 1 in 6.9
        (np.r_[1, np.full(75, 0.1)], False),
        (np.r_[1, np.full(81, 0.1)], True),
    ],
)
def test_weights_must_tell_enough_and_reach_alpha(weights, enough, screen, monkeypatch):
    ratio = SimpleNamespace(weights=weights, told_apart=0.5)
    monkeypatch.setattr("recondite.screen.shift.DensityRatio", SimpleNamespace(fit=lambda *_: ratio))
    if enough:
        assert Reweighting.fit(screen, screen.observations).ratio is ratio
    else:
        with pytest.raises(InputError, match="too unlike those of calibration"):
            Reweighting.fit(screen, screen.observations)


def test_recent_images_are_at_least_fifty_that_have_every_statistic(screen):
    recent = {name: values[:51].copy() for name, values in screen.observations.items()}
    recent["brightness"][3] = np.nan
    fifty = {name: np.delete(values, 3) for name, values in recent.items()}
    expected = Reweighting.fit(screen, fifty)
    np.testing.assert_array_equal(Reweighting.fit(screen, recent).ratio.weights, expected.ratio.weights)
    with pytest.raises(InputError, match="got 49"):
        Reweighting.fit(screen, {name: values[:50] for name, values in recent.items()})
    far = {"brightness": np.array([-1e9, 1e9])}
    assert _scaled(screen, ("brightness",), far).tolist() == [[-5], [5]]


def test_a_p_value_of_alpha_itself_is_flagged(screen):
    fresh, weighed = screen.predict(bright(40, 4)), Reweighting.fit(screen, screen.predict(bright(100, 3)).statistics)
    p_values = weighed.judge(fresh).p_value
    level = float(np.sort(p_values)[20])
    flagged = replace(weighed, screen=screen.with_alpha(level)).judge(fresh).is_outlier
    np.testing.assert_array_equal(flagged, p_values <= level)


def test_the_monitor_says_when_weights_are_a_way_on(screen):
    monitor = Monitor(screen)
    assert advice(screen, monitor) == ""
    monitor.update(screen.predict(bright(300, 3)))
    assert "recondite reweigh" in advice(screen, monitor)
    assert "brightness" in advice(screen, monitor)
    moved = advice(screen, monitor).partition(" and in nothing else")[0]
    assert "brightness" in moved
    assert "score" not in moved
    gone = Monitor(screen)
    gone.update(screen.predict(images_of(np.full(300, 0.97), 6)))
    assert "No weights, as recent images are too unlike" in advice(screen, gone)


def test_the_command(screen, tmp_path, capsys):
    screen.save(tmp_path / "screen")
    for name, verdicts in (("recent", screen.predict(bright(300, 3))), ("new", screen.predict(bright(200, 4)))):
        write_table(tmp_path / f"{name}.csv", verdicts.records(statistics=True))
    table = tmp_path / "out.csv"
    arguments = ["reweigh", str(tmp_path / "screen"), str(tmp_path / "new.csv"), "-o", str(table)]
    assert main([*arguments, "--recent", str(tmp_path / "recent.csv")]) == 0
    assert "not proven" in " ".join(capsys.readouterr().out.split())
    expected = Reweighting.fit(screen, screen.predict(bright(300, 3)).statistics).judge(screen.predict(bright(200, 4)))
    found = np.loadtxt(table, delimiter=",", skiprows=1, usecols=4)
    np.testing.assert_allclose(found, expected.p_value, rtol=1e-6)
    assert main(["monitor", str(tmp_path / "screen"), str(tmp_path / "recent.csv")]) == 0
    assert "recondite reweigh" in " ".join(capsys.readouterr().out.split())


def test_the_command_refuses_screens_without_evidence_with_a_way_out(screen, tmp_path, capsys):
    plain = replace(screen.with_score("error"), evidence=None, observations={})
    plain.save(tmp_path / "screen")
    write_table(tmp_path / "new.csv", plain.predict(bright(60, 4)).records())
    arguments = ["reweigh", str(tmp_path / "screen"), str(tmp_path / "new.csv"), "-o", str(tmp_path / "out.csv")]
    assert main(arguments) == 2
    assert "fit with images enough for evidence" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out.csv").exists()


def test_the_command_refuses_screens_by_folder_with_the_reason(screen, tmp_path, capsys):
    verdicts, scores = screen.predict(bright(60, 4)), screen.calibrator.scores
    replace(screen, calibrator=Calibrator(scores, ("a",) * len(scores))).save(tmp_path / "screen")
    write_table(tmp_path / "new.csv", verdicts.records(statistics=True))
    arguments = ["reweigh", str(tmp_path / "screen"), str(tmp_path / "new.csv"), "-o", str(tmp_path / "out.csv")]
    assert main(arguments) == 2
    assert "calibrated by folder or with a confidence: calibrate it without" in " ".join(
        capsys.readouterr().err.split()
    )

"""Bad images among the good: which are left out, and what the false-alarm rate is then."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from test_units import scenes

import recondite
from recondite import InputError
from recondite.cli import main
from recondite.data.datasets import open_images
from recondite.data.spool import Rows
from recondite.detectors import build
from recondite.options import TrainingOptions
from recondite.screen import contamination as of_screens
from recondite.screen.contamination import good_evidence, good_images, without_suspects
from recondite.screen.promise import promise
from recondite.statistics.calibration import Calibrator
from recondite.statistics.contamination import check_contamination, medcouple, suspects, upper_fence

PCA = {"detector": "pca", "latent_size": 8, "score": "error"}


def mixed(count=300, bad=20, seed=0):
    """Scenes, the last of which are noise."""
    images = scenes(count, seed=seed, side=16).astype(np.float32)
    images[count - bad :] = np.random.default_rng(seed).random((bad, *images.shape[1:]), dtype=np.float32)
    return images


def test_the_medcouple_is_the_median_of_its_kernel():
    values = np.random.default_rng(0).exponential(size=101)
    middle = np.median(values)
    pairs = [(x, y) for x in values for y in values if x >= middle >= y and x > y]
    expected = np.median([((x - middle) - (middle - y)) / (x - y) for x, y in pairs])
    assert medcouple(values) == pytest.approx(expected, abs=1e-12)
    assert medcouple(-values) == pytest.approx(-expected, abs=1e-12)
    assert medcouple(np.arange(11.0)) == 0 == medcouple(np.ones(9))


@pytest.mark.parametrize("law", ["normal", "exponential", "lognormal", "chisquare"])
def test_few_good_scores_lie_beyond_the_fence_whatever_their_law(law):
    draws = np.random.default_rng(1)
    good = getattr(draws, law)(*([3] if law == "chisquare" else []), size=5000)
    assert np.mean(good > upper_fence(good)) < 0.015
    far = np.append(good[:900], np.full(100, good.max() * 3))
    assert suspects(far, "auto")[900:].all()
    assert suspects(far, "auto")[:900].mean() < 0.01


def test_suspects_are_the_highest_scores():
    scores = np.random.default_rng(2).permutation(200).astype(float)
    assert set(scores[suspects(scores, 0.1)]) == set(range(180, 200))
    assert suspects(scores, 0.1, most=3).sum() == 3 == (scores[suspects(scores, 0.1, most=3)] >= 197).sum()
    assert not suspects(scores, 0.0).any()
    assert not suspects([1.0, 2.0, 90.0], "auto").any()  # too few to tell
    with pytest.raises(InputError, match=r"a share in \[0, \.5\), or auto; got 0\.7"):
        recondite.fit(scenes(60), contamination=0.7, **PCA)


def test_images_are_judged_by_detectors_that_have_not_learnt_them():
    """Sixty images and thirty components: each bad image takes one, and is rebuilt best of all by who has seen it."""
    images = mixed(60, 4)
    detector = build("pca", image_shape=(1, 16, 16), latent_size=30)
    rows, keys = Rows(images, np.arange(60)), np.arange(60).astype("V16")
    seen = build("pca", image_shape=(1, 16, 16), latent_size=30).fit(images, validation=None)
    assert not suspects(seen.score(images).instance_score, 4 / 60)[56:].all()
    good = good_images(detector, rows, keys, 4 / 60, TrainingOptions(), False)
    assert np.flatnonzero(~good).tolist() == [56, 57, 58, 59]


@pytest.mark.parametrize("contamination", ["auto", 0.1])
def test_bad_images_are_found_left_out_and_named(contamination, tmp_path):
    images = mixed()
    screen = recondite.fit(images, contamination=contamination, **PCA)
    named = {int(name) for name in screen.facts["contamination"]["suspects"]}
    assert set(range(280, 300)) <= named
    assert len(named) < 33
    fresh, bad = scenes(500, seed=5, side=16), mixed(40, 40, seed=6)
    plain = recondite.fit(images, **PCA)
    assert plain.predict(bad).is_outlier.mean() < 0.5  # bad ones have set the threshold
    assert screen.predict(bad).is_outlier.all()
    assert screen.predict(fresh).is_outlier.mean() < screen.false_alarm_interval[1]
    kept = screen.calibrator.interval(screen.alpha)
    assert screen.false_alarm_interval[0] == kept[0]
    assert screen.false_alarm_interval[1] > kept[1] + 0.01
    count = screen.facts["calibration"]["left_out_as_suspect"][""]
    assert len(screen.calibrator.scores) + count == len(plain.calibrator.scores)
    assert f"({count} calibration images) is bad" in promise(screen)
    screen.save(tmp_path / "screen")
    assert promise(recondite.load(tmp_path / "screen")) == promise(screen)


def test_statistics_of_evidence_are_left_out_too():
    images = mixed(600, 40)
    evidence = {"detector": "pca", "latent_size": 8, "score": "auto", "evidence": 0.2}
    screen = recondite.fit(images, contamination="auto", **evidence)
    assert set(screen.observations) >= {"error"}
    assert all(len(values) == len(screen.calibrator.scores) for values in screen.observations.values())
    bad = mixed(40, 40, seed=6)
    assert screen.predict(bad).is_outlier.all()
    assert screen.with_score("evidence").predict(bad).is_outlier.mean() > 0.9
    assert recondite.fit(images, **evidence).with_score("evidence").predict(bad).is_outlier.mean() < 0.5


def test_few_images_and_groups_keep_what_alpha_needs():
    few = recondite.fit(mixed(24, 3), contamination=0.2, detector="pca", latent_size=3)
    assert few.alpha == 0.05
    assert len(few.calibrator.scores) == 19
    assert few.facts["calibration"]["left_out_as_suspect"] == {"": 5}
    with pytest.raises(InputError, match="at least 19"):
        recondite.fit(mixed(17, 3), contamination=0.2, alpha=0.05, detector="pca", latent_size=3)


def test_a_calibration_within_groups_leaves_out_within_each():
    opened = open_images(np.concatenate([mixed(300, 12, seed=0), mixed(300, 24, seed=1)]))
    opened = replace(opened, labels=["a"] * 300 + ["b"] * 300)
    screen = recondite.fit(opened, by_folder=True, contamination="auto", **PCA)
    left_out = screen.facts["calibration"]["left_out_as_suspect"]
    assert set(left_out) == {"a", "b"}
    assert left_out["b"] > left_out["a"] > 0


def test_what_the_rate_is_when_bad_images_stay_and_when_good_ones_are_left_out():
    """Calibration sets of 200, a tenth bad: rates of good images are of uniform scores, so that they are known."""
    draws, alpha, share, count = np.random.default_rng(3), 0.1, 0.1, 200
    rates = {"high": [], "low": [], "told": [], "none bad": []}
    bound = []
    for _ in range(400):
        good, bad = draws.random(count - 20), draws.random(20)
        rates["high"].append(1 - Calibrator(np.append(good, 0.5 + bad / 2)).threshold(alpha))
        rates["low"].append(1 - Calibrator(np.append(good, -bad)).threshold(alpha))
        both = np.append(good, 1 + bad)
        rates["told"].append(1 - Calibrator(both[~suspects(both, share)]).threshold(alpha))
        all_good = draws.random(count)
        calibrator = Calibrator(all_good[~suspects(all_good, share)])
        rates["none bad"].append(1 - calibrator.threshold(alpha))
        bound.append(calibrator.rate_with(20, alpha))
    mean = {name: np.mean(found) for name, found in rates.items()}
    slack = 4 * 0.025 / 400**0.5
    assert mean["high"] < alpha - slack  # fewer false alarms
    assert alpha + slack < mean["low"] < alpha / (1 - share) + slack
    assert mean["told"] == pytest.approx(alpha, abs=slack)
    assert mean["none bad"] == pytest.approx(np.mean(bound), abs=slack)
    assert np.mean(bound) > alpha + 0.08


def test_the_bound_with_a_confidence_holds_for_that_share_of_calibration_sets():
    draws = np.random.default_rng(4)
    held = []
    for _ in range(500):
        scores = draws.random(300)
        calibrator = Calibrator(scores[~suspects(scores, 0.05)])
        rate = 1 - calibrator.threshold(0.1, 0.9)
        held.append(rate <= calibrator.rate_with(15, 0.1, 0.9))
    assert 0.86 < np.mean(held) < 0.94
    plain, whole = (calibrator.interval(0.1, 0.9, left_out=left_out) for left_out in (0, 15))
    assert whole[0] == plain[0]
    assert whole[1] == pytest.approx(
        Calibrator(scores).interval((calibrator._allowed(None, 0.1, 0.9, "exact") + 15) / 301)[1]
    )
    assert Calibrator(draws.random(99)).rate_with(0, 0.05) == 0.05


def test_the_command_names_suspects(tmp_path, capsys):
    np.save(tmp_path / "all.npy", mixed()[:, 0])
    arguments = ["fit", str(tmp_path / "all.npy"), "-o", str(tmp_path / "screen"), "--contamination", "auto"]
    assert main([*arguments, "--detector", "pca", "--latent-size", "8", "--score", "error"]) == 0
    told = capsys.readouterr()
    assert "suspect, left out: " in told.err
    assert "left out" in " ".join(told.out.split())
    assert main([*arguments[:-1], "half", "--detector", "pca"]) == 2
    assert "a share in [0, .5), or auto; got 'half'" in capsys.readouterr().err


def test_what_is_no_share_of_bad_images_is_refused():
    for value in (None, "auto", 0, 0.0, 0.49):
        check_contamination(value)
    for value in (0.5, -0.1, True, "all"):
        with pytest.raises(InputError, match="expected contamination"):
            check_contamination(value)


def test_how_many_suspects_there_are_at_the_ends():
    far = [*range(7), 99]
    assert suspects(far, "auto").tolist() == [False] * 7 + [True]
    assert not suspects(far[1:], "auto").any()  # seven are too few to tell
    assert not suspects(np.zeros(9), "auto").any()  # as far out as the fence is not beyond it
    assert suspects([0.0, 1.0], 0.49).sum() == 1
    assert not suspects([0.0], 0.49).any()
    assert not suspects(far, 0.4, most=-3).any()
    assert suspects(far, 0.4, most=1).sum() == 1


def test_the_fence_is_longer_on_the_side_of_the_skew():
    """The adjusted boxplot of Hubert and Vandervieren 2008: 1.5 exp(3 MC) spreads, or exp(4 MC) if MC < 0."""
    right = np.random.default_rng(0).exponential(size=101)
    for values, factor in ((right, 3), (-right, 4)):
        low, high = np.quantile(values, [0.25, 0.75])
        expected = high + 1.5 * np.exp(factor * medcouple(values)) * (high - low)
        assert upper_fence(values) == pytest.approx(expected)


def test_two_rounds_look_and_what_the_first_suspects_is_not_learnt_from_in_the_second(monkeypatch):
    images, asked = Rows(np.zeros((40, 2), np.float32), np.arange(40)), []
    scores = {1: np.r_[9, np.zeros(39)], 2: np.r_[9, 8, np.zeros(38)]}

    def in_turn(*given):
        _, _, _, judged, learnt, parts, _, _, title = given
        asked.append((learnt.copy(), parts, title))
        assert judged.tolist() == list(range(40))
        return scores.get(len(asked), np.zeros(40)), None

    monkeypatch.setattr(of_screens, "judged_in_turn", in_turn)
    keys = np.arange(40).astype("V16")
    good = good_images(None, images, keys, 0.05, TrainingOptions(), False)
    assert np.flatnonzero(~good).tolist() == [0, 1]
    (first, five, one), (second, _, two) = asked
    assert five == 5
    assert first.all()
    assert np.flatnonzero(~second).tolist() == [0, 39]
    assert (one, two) == ("looking for bad images, 1 of 2", "looking for bad images, 2 of 2")
    # Of fewer than five units none can be judged by enough others.
    assert good_images(None, images, np.repeat(keys[:4], 10), 0.05, TrainingOptions(), False).all()
    assert len(asked) == 2
    good_images(None, images, np.repeat(keys[:5], 8), 0.05, TrainingOptions(), False)
    assert [parts for _, parts, _ in asked[2:]] == [5, 5]


def test_evidence_keeps_fifty_images(monkeypatch):
    monkeypatch.setattr(of_screens, "observed", lambda _, __, rows: (rows.index.astype(float),))
    pixels = np.zeros((80, 2), np.float32)
    kept = good_evidence(None, Rows(pixels, np.arange(20, 80)), 0.1)
    assert kept.index.tolist() == list(range(20, 74))
    assert len(good_evidence(None, Rows(pixels, np.arange(60)), 0.4)) == 50
    assert len(good_evidence(None, Rows(pixels, np.arange(49)), 0.4)) == 49


def calibrated_on(scores, groups=None, peaks=True):
    scores = np.asarray(scores, dtype=float)
    return {
        "calibrator": Calibrator(scores, groups),
        "observations": {"error": scores + 1},
        "peaks": scores + 2 if peaks else None,
        "facts": {"preset": None, "calibration": {"images": len(scores), "fingerprint": "x"}},
    }


def sets_of(count):
    rows = SimpleNamespace(index=np.arange(count)[::-1])
    ids = [f"image {row:02}" for row in range(count)]
    return SimpleNamespace(
        images=rows,
        calibration=rows,
        sources={role: SimpleNamespace(ids=[f"{role} {name}" for name in ids]) for role in ("images", "calibration")},
    )


def test_suspects_do_not_calibrate_and_are_named():
    learnt = np.arange(30) != 4
    found = without_suspects(calibrated_on(range(30)), sets_of(30), learnt, 0.1, 0.1, None, "exact")
    assert found["calibrator"].scores.tolist() == list(range(27))
    assert found["calibrator"].groups is None
    assert found["observations"]["error"].tolist() == list(range(1, 28))
    assert found["peaks"].tolist() == list(range(2, 29))
    facts = found["facts"]
    assert facts["calibration"] == {"images": 27, "fingerprint": "x", "left_out_as_suspect": {"": 3}}
    expected = [*(f"calibration image {row:02}" for row in (0, 1, 2)), "images image 25"]
    assert facts["contamination"] == {"given": 0.1, "suspects": expected}
    assert (
        without_suspects(calibrated_on(range(30), peaks=False), sets_of(30), learnt, 0.1, 0.1, None, "exact")["peaks"]
        is None
    )


def test_as_many_images_stay_in_each_group_as_alpha_needs():
    """Nine are needed for a tenth."""
    groups = ("a",) * 20 + ("b",) * 10
    every = np.ones(30, dtype=bool)
    found = without_suspects(calibrated_on(range(30), groups), sets_of(30), every, 0.4, 0.1, None, "exact")
    assert found["facts"]["calibration"]["left_out_as_suspect"] == {"a": 8, "b": 1}
    assert found["calibrator"].sizes == {"a": 12, "b": 9}
    assert found["calibrator"].scores.tolist() == [*range(12), *range(20, 29)]
    many = without_suspects(calibrated_on(range(3000)), sets_of(3000), np.ones(3000, bool), 0.49, 0.1, None, "exact")
    assert len(many["facts"]["contamination"]["suspects"]) == 1000  # so many are listed
    assert many["facts"]["calibration"]["left_out_as_suspect"] == {"": 1470}

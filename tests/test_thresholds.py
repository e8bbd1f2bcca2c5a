import json
from dataclasses import replace

import numpy as np
import pytest

from recondite.detectors import build
from recondite.errors import InputError, NotFittedError
from recondite.screen.thresholds import Threshold, detector_fingerprint, infer_threshold, predict


@pytest.fixture(scope="module")
def detector(digits):
    return build("pca", image_shape=(1, 8, 8), latent_size=10).fit(digits[:600], validation=None)


@pytest.fixture(scope="module")
def held_out(digits):
    return digits[600:1000]


def test_a_threshold_of_single_values_is_their_percentile(detector, held_out):
    made = infer_threshold(detector, held_out, level="feature", percent=99)
    values = detector.score(held_out, feature_score=True).feature_score
    assert made.value == pytest.approx(np.percentile(values, 99), rel=1e-6)
    found = predict(detector, held_out, made)
    np.testing.assert_array_equal(found.is_outlier, values > np.float32(made.value))
    assert found.is_outlier.shape == (400, 1, 8, 8)
    assert found.is_outlier.mean() == pytest.approx(0.01, abs=1e-3)


@pytest.mark.parametrize("rule", [{"percent": 97.5}, {"deviations": 2}, {"alpha": 0.05}])
@pytest.mark.parametrize("share", [None, 20])
def test_a_threshold_of_images_is_that_of_their_scores(detector, held_out, rule, share):
    made = infer_threshold(detector, held_out, top_percent=share, **rule)
    scores = detector.score(held_out, top_percent=share).instance_score
    expected = {
        "percent": np.percentile(scores, 97.5),
        "deviations": scores.mean() + 2 * scores.std(),
        "alpha": np.sort(scores)[-int(0.05 * 401)],
    }[next(iter(rule))]
    assert made.value == pytest.approx(expected)
    found = predict(detector, held_out, made, level="instance", top_percent=share)
    np.testing.assert_array_equal(found.is_outlier, scores > made.value)
    np.testing.assert_array_equal(found.scores.instance_score, scores)


def test_one_rule_within_its_range_makes_a_threshold(detector, held_out):
    assert infer_threshold(detector, held_out, percent=0).value == detector.score(held_out).instance_score.min()
    assert infer_threshold(detector, held_out, percent=100).value == detector.score(held_out).instance_score.max()
    for percent in (-0.5, 100.5, np.nan):
        with pytest.raises(InputError, match="percentile from 0 to 100"):
            infer_threshold(detector, held_out, percent=percent)
    for rules in ({}, {"percent": 99, "alpha": 0.1}, {"percent": 0, "deviations": 0}):
        with pytest.raises(InputError, match="exactly one of alpha, percent and deviations"):
            infer_threshold(detector, held_out, **rules)


def test_alpha_at_the_level_of_values_is_the_share_of_images_with_any(detector, digits, held_out):
    made = infer_threshold(detector, held_out, level="feature", alpha=0.1)
    peaks = detector.score(held_out, feature_score=True).feature_score.max(axis=(1, 2, 3))
    assert (peaks > made.value).mean() <= 0.1
    fresh = predict(detector, digits[1000:], made).is_outlier.any(axis=(1, 2, 3))
    assert 0.03 < fresh.mean() < 0.2


def test_a_threshold_refuses_another_use(detector, digits, held_out):
    made = infer_threshold(detector, held_out, top_percent=20, alpha=0.1)
    for use, words in (
        ({"level": "feature"}, "for level 'instance'"),
        ({"top_percent": 100.0}, "for top_percent 20"),
        ({"score": "absolute_error"}, "for score 'squared_error'"),
    ):
        with pytest.raises(InputError, match=words):
            predict(detector, held_out, made, **use)
    with pytest.raises(InputError, match="worst_square"):
        predict(detector.scored_by(worst_square=3), held_out, made)
    again = build("pca", image_shape=(1, 8, 8), latent_size=10).fit(digits[:600], validation=None)
    assert predict(again, held_out[:40], made).is_outlier.shape == (40,)  # the same weights: the same detector
    again.fit(digits[:500], validation=None)
    with pytest.raises(InputError, match="another detector"):
        predict(again, held_out, made)


def test_a_threshold_survives_json_and_nothing_else_passes_for_one(detector, held_out):
    made = infer_threshold(detector, held_out, alpha=0.1)
    assert Threshold.from_json(json.loads(json.dumps(made.to_json()))) == made
    for damaged in ({}, {**made.to_json(), "level": "pixel"}, {**made.to_json(), "value": float("nan")}):
        with pytest.raises(InputError, match="as JSON"):
            Threshold.from_json(damaged)


def test_unreadable_images_never_set_a_threshold_and_are_always_flagged(detector, held_out):
    images = (held_out / np.float32(16)).astype(np.float32) / 16
    spoilt = images.copy()
    spoilt[[3, 50]] = np.nan
    for level in ("instance", "feature"):
        made = infer_threshold(detector, spoilt, level=level, percent=99)
        clean = infer_threshold(detector, np.delete(images, [3, 50], axis=0), level=level, percent=99)
        assert made.value == clean.value
        flags = predict(detector, spoilt, made).is_outlier
        assert flags[[3, 50]].all()
        assert flags.mean() < 0.1
    with pytest.raises(InputError, match="at least one readable"):
        infer_threshold(detector, spoilt[[3, 50]], alpha=0.1)


def test_what_cannot_be_meant_is_refused(detector, held_out):
    for use in ({}, {"alpha": 0.1, "percent": 99}, {"percent": 101}, {"alpha": 1e-4}, {"alpha": 0.1, "level": "pixel"}):
        with pytest.raises(InputError):
            infer_threshold(detector, held_out, **use)
    with pytest.raises(InputError, match="no meaning"):
        infer_threshold(detector, held_out, level="feature", top_percent=20, alpha=0.1)
    with pytest.raises(NotFittedError):
        infer_threshold(build("pca", image_shape=(1, 8, 8), latent_size=10), held_out, alpha=0.1)


def test_fingerprints_see_weights_and_not_the_way_of_scoring(detector):
    assert detector_fingerprint(detector) == detector_fingerprint(detector.scored_by(top_percent=5))
    other = build("pca", image_shape=(1, 8, 8), latent_size=11)
    assert detector_fingerprint(detector) != detector_fingerprint(other)


def test_a_screen_has_a_threshold_for_single_values_too(screens, digits, tmp_path):
    from recondite import load

    screen = screens("pca")
    peaks = np.sort(screen.peaks)
    assert screen.feature_threshold == peaks[-int(0.05 * (len(peaks) + 1))]
    assert screen.with_alpha(0.2).feature_threshold < screen.feature_threshold
    above = screen.predict(digits[1400:], feature_score=True).feature_score > screen.feature_threshold
    assert 0.01 < above.any(axis=(1, 2, 3)).mean() < 0.12
    screen.save(tmp_path / "screen")
    assert load(tmp_path / "screen").feature_threshold == screen.feature_threshold
    moved = screen.recalibrated(digits[1400:], group_by="none")
    assert len(moved.peaks) == 397
    with pytest.raises(InputError, match="peaks"):
        replace(screen, peaks=peaks[:5])
    with pytest.raises(InputError, match="no maps, or not calibrated with them"):
        _ = replace(screen, peaks=None).feature_threshold


def test_where_images_are_judged_as_a_whole_single_values_have_no_threshold(detector, held_out, monkeypatch):
    monkeypatch.setattr(type(detector), "locates", False)
    with pytest.raises(InputError, match="as a whole: it has no scores of single values"):
        infer_threshold(detector, held_out[:20], level="feature", percent=99)
    assert infer_threshold(detector, held_out[:20], percent=99).rule == "percentile 99 of 20 images"


def test_copies_count_once_where_a_rate_is_promised(detector, held_out):
    few = held_out[:40]
    once = infer_threshold(detector, few, alpha=0.05)
    for copied, given in ((np.repeat(few, 10, axis=0), {}), (few, {"group_by": [str(n) for n in range(40)]})):
        assert infer_threshold(detector, copied, alpha=0.05, **given) == once
    assert infer_threshold(detector, few, level="feature", alpha=0.1) == infer_threshold(
        detector, np.repeat(few, 3, axis=0), level="feature", alpha=0.1
    )
    with pytest.raises(InputError, match="needs at least 19 calibration images; got 10"):
        infer_threshold(detector, few, alpha=0.05, group_by=[str(n // 4) for n in range(40)])

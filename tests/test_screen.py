import inspect
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

import recondite
from recondite import Calibrator, InputError, ReconditeWarning
from recondite.data.batch_size import at_once
from recondite.data.datasets import open_images
from recondite.graphs.exported import Exported
from recondite.screen.calibrate import scale_of
from recondite.screen.screen import Screen
from recondite.screen.separate import shares_of
from recondite.statistics.scores import Scores


def tiny(images, **options):
    return recondite.fit(images, **{"detector": "pca", "latent_size": 8, "alpha": 0.1, **options})


def test_the_parts_share_no_image(digits):
    doubled = np.concatenate([digits[:300], digits[:300]])  # every image twice
    screen = tiny(doubled)
    facts = screen.facts
    assert facts["calibration"]["images"] == 60  # one of each two
    assert facts["validation"]["images"] == 60
    assert facts["evidence"]["images"] == 60
    assert facts["images"]["images"] == 360
    counts = [facts[part]["images"] % 2 for part in ("images", "validation", "evidence", "calibration")]
    assert counts == [0, 0, 0, 0]  # copies stay together


def test_the_calibration_scores_are_those_that_predict_gives(digits, screens):
    screen = screens("pca")
    scores = screen.predict(digits[:1400]).instance_score
    assert set(screen.calibrator.scores) <= set(scores)


def test_verdicts_follow_from_scores(screens, digits):
    screen = screens("autoencoder")
    verdicts = screen.predict(digits[1400:])
    np.testing.assert_array_equal(verdicts.is_outlier, verdicts.instance_score > screen.threshold)
    np.testing.assert_array_equal(verdicts.is_outlier, verdicts.p_value <= screen.alpha)
    assert verdicts.feature_score is None
    assert verdicts.alpha == 0.05
    low, high = screen.false_alarm_interval
    assert low < 0.05 < high


def test_the_realised_false_alarm_rate_is_near_alpha(screens, digits):
    # 397 unseen digits and 280 calibration images: a rate outside these bounds is a one in ten thousand chance.
    flagged = screens("autoencoder").predict(digits[1400:]).is_outlier.mean()
    assert 0.005 < flagged < 0.14


def test_changing_alpha_fits_nothing_again(screens, digits):
    screen = screens("pca")
    looser = screen.with_alpha(0.2)
    assert looser.detector is screen.detector
    assert looser.threshold < screen.threshold
    assert looser.predict(digits[1400:]).is_outlier.sum() > screen.predict(digits[1400:]).is_outlier.sum()
    surer = screen.with_alpha(0.05, confidence=0.95)
    assert surer.with_alpha(0.2).confidence == 0.95  # a promise is not dropped in silence
    assert surer.with_alpha(0.2, confidence=None).confidence is None
    assert surer.threshold > screen.threshold
    assert surer.predict(digits[1400:1410]).p_value.min() >= screen.predict(digits[1400:1410]).p_value.min()
    with pytest.raises(InputError, match="needs at least 1999"):
        screen.with_alpha(0.0005)


def test_a_group_that_cannot_be_calibrated_is_named_at_once(digits):
    images = list(zip(digits[:102], ["many"] * 100 + ["few"] * 2, strict=True))
    with pytest.warns(ReconditeWarning, match="1 group without calibration images will not be judged: 'few'") as caught:
        screen = tiny(images[:60] + images[100:], calibration=images[60:100], by_folder=True)
    assert {one.filename for one in caught} == {__file__}
    assert set(screen.thresholds) == {"many"}
    assert "'few'" in screen.facts["remarks"][-1]


def test_too_few_images_for_alpha_are_noticed_before_they_are_read(digits, monkeypatch):
    monkeypatch.setattr("recondite.screen.fit.read_all", lambda *_: pytest.fail("read in vain"))
    for count, share, told in ((1500, 0.2, 300), (300, 0.2, 60), (100, 0.2, 100)):
        with pytest.raises(InputError, match=rf"got {told}: give more .* In all there are {count:,} images"):
            tiny(digits[:count], alpha=0.001, calibration=share)


def test_too_few_calibration_images_are_noticed_before_training(digits, monkeypatch):
    monkeypatch.setattr("recondite.detectors.pca.Pca.fit_rows", lambda *_: pytest.fail("trained in vain"))
    with pytest.raises(InputError, match=r"alpha = 0\.001 needs at least 999 calibration images; got 60"):
        tiny(digits[:300], alpha=0.001)
    with pytest.raises(InputError, match="are too few: give at least 5 different images, or others for calibration"):
        tiny(digits[:300], calibration=0.0)
    for share in (float("nan"), -0.1):
        with pytest.raises(InputError, match="leave images to learn from"):
            tiny(digits[:300], calibration=share)
    with pytest.raises(InputError, match="leave images to learn from"):
        tiny(digits[:300], calibration=0.6, validation=0.5)


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (
            lambda d: d[:10],
            {},
            r"needs at least 19 calibration images; got 10: give more .* an alpha of at least 0\.091",
        ),
        (lambda d: d[:10], {"confidence": 0.95}, r"at least 59 calibration images; got 2: .* at least 0\.777"),
        (
            lambda d: np.repeat(d[:1], 30, axis=0),
            {},
            r"30 images, all identical: 30 to fit and 0 to calibrate",
        ),
        (lambda d: np.concatenate([d[:9]] * 5), {}, r"In all there are 45 images, of which 9 differ"),
        (lambda d: d[:1], {}, r"1 image: 1 to fit and 0 to calibrate are too few: give at least 5"),
        (lambda d: d[:3], {}, r"3 images: 2 to fit and 1 to calibrate are too few: give at least 5"),
        (lambda d: d[:4], {"alpha": None}, r"4 images: 3 to fit and 1 to calibrate are too few: give at least 5"),
        (
            lambda d: [(one, "many") for one in d[:300]] + [(one, "few") for one in d[300:310]],
            {"by_folder": True},
            r"calibration images of group 'few'; got \d: give more",
        ),
    ],
)
def test_too_few_images_are_told_with_the_way_out(digits, images, options, words):
    with pytest.raises(InputError, match=words):
        tiny(images(digits), **{"alpha": 0.05, **options})


@pytest.mark.parametrize("n", [1, 2, 7, 18, 19, 64, 99, 999])
@pytest.mark.parametrize("confidence", [None, 0.9])
def test_the_smallest_alpha_named_is_one_that_works(n, confidence):
    from recondite.statistics.calibration import Calibrator, smallest_alpha

    calibrator = Calibrator(np.arange(n, dtype=float))
    named = smallest_alpha(n, confidence)
    assert np.isfinite(calibrator.threshold(named, confidence))
    with pytest.raises(InputError, match=f"an alpha of at least {named:g}"):
        calibrator.threshold(named * 0.98, confidence)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": 2}, "expected alpha in"),
        ({"confidence": 1}, "expected confidence in"),
        ({"guarantee": "none"}, "expected a guarantee among"),
        ({"image_size": 4}, "sides from 8 to 2048"),
        ({"calibration": "/nowhere"}, "no file, folder, glob or data set '/nowhere'"),
        ({"calibration": 0.9, "validation": 0.2}, "leave images to learn from"),
        ({"on_bad": "never"}, "expected on_bad"),
    ],
)
def test_arguments_are_checked_before_images_are_read(monkeypatch, options, words):
    monkeypatch.setattr("recondite.screen.fit.sampled", lambda _: pytest.fail("images were looked at"))
    monkeypatch.setattr("recondite.screen.fit.open_images", lambda *_, **__: pytest.fail("images were opened"))
    with pytest.raises(InputError, match=words):
        recondite.fit("digits", detector="pca", **options)


@pytest.mark.parametrize(
    ("shares", "fine"),
    [
        ((), True),
        ((0.0, 0.0), True),
        ((0.5, 0.499), True),
        ((0, 0.9), True),
        ((0.5, 0.5), False),
        ((0.5, 1.2), False),
        ((-0.1, 0.5), False),
    ],
)
def test_shares_are_not_negative_and_leave_images_to_fit(shares, fine):
    given = {"calibration": np.zeros(3), **dict(zip("ab", shares, strict=False))}
    if fine:
        shares_of(given)
    else:
        with pytest.raises(InputError, match="leave images to learn from"):
            shares_of(given)


def test_groups_that_cannot_be_judged_are_listed_up_to_three():
    vectors = np.random.default_rng(0).normal(size=(60, 9)).astype(np.float32)
    for others, listed in ((3, "'c0', 'c1', 'c2'"), (4, "'c0', 'c1', 'c2', ...")):
        pairs = [(one, "a") for one in vectors] + [(one, f"c{place}") for place, one in enumerate(vectors[:others] + 9)]
        given = {"calibration": [(one, "a") for one in vectors[:30] - 9], "validation": 0.0}
        with pytest.warns(ReconditeWarning, match="without calibration images") as told:
            recondite.fit(pairs, detector="pca", latent_size=2, alpha=0.1, by_folder=True, score="error", **given)
        assert str(told[0].message).endswith(f"will not be judged: {listed}")


def test_calibration_and_validation_images_can_be_given_and_never_leak(digits):
    screen = tiny(digits[:400], calibration=digits[300:500], validation=digits[500:600])
    assert screen.facts["images"]["images"] == 300
    assert screen.facts["moved_out_of_fit"] == 100
    assert screen.facts["calibration"]["images"] == 200


def test_no_image_is_in_two_parts_wherever_they_come_from(digits):
    screen = tiny(digits[:400], calibration=0.2, validation=digits[:100])
    facts = screen.facts
    own_calibration = facts["calibration"]["images"]
    in_both = 100 - facts["validation"]["images"]
    assert own_calibration == 80
    assert 5 < in_both < 40  # about a fifth of the hundred calibrate, and so do not validate
    assert facts["images"]["images"] == 400 - 80 - (100 - in_both)


def test_a_stream_can_be_learnt_from(digits):
    streamed = tiny(image for image in digits[:300])
    at_once = tiny(digits[:300])
    np.testing.assert_array_equal(streamed.calibrator.scores, at_once.calibrator.scores)


def test_recalibrating_keeps_the_detector(digits, screens):
    screen = screens("pca")
    again = screen.recalibrated(digits[1400:], group_by="none")
    assert len(again.calibrator.scores) == 397
    np.testing.assert_array_equal(
        np.sort(again.calibrator.scores), np.sort(screen.predict(digits[1400:]).instance_score)
    )


def test_groups_by_folder(folder, digits):
    generator = np.random.default_rng(0)
    for index in range(200):
        noisy = np.clip(digits[index] + generator.normal(0, 60, (8, 8)), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / "odd" / f"noisy-{index}.png")
        Image.fromarray(digits[index + 200]).save(folder / "even" / f"clean-{index}.png")
    screen = tiny(folder, by_folder=True, calibration=0.4)
    assert set(screen.thresholds) == {"even", "odd"}
    assert screen.thresholds["odd"] > screen.thresholds["even"]
    assert np.isnan(screen.threshold)
    sizes = screen.calibrator.sizes
    smallest = min(sizes, key=sizes.__getitem__)
    assert len(set(sizes.values())) == 2
    assert screen.false_alarm_interval == screen.calibrator.interval(screen.alpha, None, "exact", smallest, 0.95)
    verdicts = screen.predict(folder)
    assert set(verdicts.words) == {"inlier", "outlier"}
    by_hand = screen.predict(list(digits[:3]), groups=["even", "odd", "elsewhere"])
    assert by_hand.words[2] == "invalid"
    assert "no calibration for group 'elsewhere'" in by_hand.errors[2]
    (folder / "even" / "deeper").mkdir()
    part = screen.predict(open_images(folder / "odd").labelled("odd"))
    np.testing.assert_array_equal(part.p_value, verdicts.p_value[[label.startswith("odd/") for label in verdicts.ids]])
    nameless = screen.judge(Scores(ids=("a",), instance_score=np.zeros(1), errors=(None,)))
    assert nameless.errors[0].startswith("no calibration for group ''; there are: ['even', 'odd'], as folders or named")
    with pytest.raises(InputError, match="one group label for each"):
        screen.predict(digits[:3], groups=["even"])


@pytest.mark.parametrize("name", ["autoencoder", "vae", "pca"])
def test_streaming_gives_what_predict_gives(name, screens, digits):
    screen = screens(name)
    parts = list(screen.stream(image for image in digits[1400:]))
    assert max(len(part) for part in parts) == at_once((1, 8, 8), screen.detector.scoring_batch)
    joined = np.concatenate([part.instance_score for part in parts])
    np.testing.assert_array_equal(joined, screen.predict(digits[1400:]).instance_score)


def test_bad_images_flagged_skipped_or_raised(screens, digits):
    screen = screens("pca")
    mixed = [digits[0], b"not an image", np.full((8, 8), np.nan), digits[1]]
    flagged = screen.predict(mixed)
    assert flagged.words[1:3] == ["invalid", "invalid"]
    assert flagged.is_outlier[1:3].all()
    assert np.isnan(flagged.p_value[1:3]).all()
    skipped = screen.predict(mixed, on_bad="skip")
    assert skipped.ids == ("000000", "000003")
    np.testing.assert_array_equal(skipped.instance_score, flagged.instance_score[[0, 3]])
    with pytest.raises(InputError, match="000001: these bytes"):
        screen.predict(mixed, on_bad="raise")
    with pytest.raises(InputError, match="flag, skip or raise"):
        screen.predict(mixed, on_bad="ignore")


def test_a_score_that_is_not_finite_is_never_an_inlier(screens):
    scores = Scores(ids=("a", "b", "c"), instance_score=np.array([np.nan, np.inf, 0.0]), errors=(None, None, None))
    verdicts = screens("pca").judge(scores)
    assert verdicts.words == ["invalid", "invalid", "inlier"]


def test_maps_and_reconstructions_come_when_asked(screens, digits):
    verdicts = screens("vae").predict(digits[:40], feature_score=True, reconstruction=True)
    assert verdicts.feature_score.shape == verdicts.reconstruction.shape == (40, 1, 8, 8)
    assert 0 <= verdicts.reconstruction.min() <= verdicts.reconstruction.max() <= 1


def test_unreadable_training_images_are_left_out_and_listed(folder, digits):
    for index in range(60):
        Image.fromarray(digits[index + 100]).save(folder / f"more-{index}.png")
    (folder / "even" / "000.png").write_bytes(b"")
    screen = tiny(folder)
    assert screen.facts["unreadable"] == {"count": 1, "first": [["even/000.png", "the file is empty"]]}
    with pytest.raises(InputError, match=r"even/000\.png: the file is empty"):
        tiny(folder, on_bad="raise")


def test_options_go_where_they_belong(digits):
    screen = recondite.fit(digits[:200], alpha=0.1, epochs=1, width=4, latent_size=2, batch_size=50)
    assert screen.detector.options.width == 4
    assert screen.facts["training"]["epochs"] == 1
    with pytest.raises(InputError, match="no option 'depth'"):
        recondite.fit(digits[:200], depth=3)
    with pytest.raises(InputError, match="is a recipe for detector 'autoencoder'; got 'vae'"):
        recondite.fit(digits[:200], detector="vae", preset="mnist-fast")
    with pytest.raises(InputError, match="among alad, autoencoder, features, pca, vae"):
        recondite.fit(digits[:200], detector="gan")
    with pytest.raises(InputError, match="is for images of 28 x 28"):
        recondite.fit(digits[:200], preset="mnist-fast", image_size=64)
    with pytest.raises(InputError, match="guarantee among"):
        recondite.fit(digits[:200], detector="pca", alpha=0.1, guarantee="exakt")


def test_a_preset_sets_shape_and_settings_and_flags_override_them(digits):
    screen = recondite.fit(digits[:150], preset="mnist-fast", epochs=1, alpha=0.1)
    assert screen.detector.shape == (1, 28, 28)
    assert screen.detector.options.network == "mnist-microscope"
    assert screen.facts["training"]["epochs"] == 1
    assert screen.facts["training"]["learning_rate"] == 1e-2
    assert screen.facts["preset"] == "mnist-fast"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"alpha": np.float32(0.1), "image_size": np.int64(8)}, ("alpha", 0.1)),
        ({"alpha": Fraction(1, 10), "image_size": [np.uint8(8), 8]}, ("alpha", 0.1)),
        ({"confidence": np.float32(0.7)}, ("confidence", 0.7)),
    ],
)
def test_numbers_of_numpy_and_fractions_are_kept_as_plain_ones(digits, tmp_path, options, expected):
    screen = tiny(digits[:300], **options)
    screen.save(tmp_path / "screen")
    loaded = recondite.load(tmp_path / "screen")
    for one in (screen, loaded):
        value = getattr(one, expected[0])
        assert (type(value), value) == (float, expected[1])
    assert loaded.threshold == screen.threshold == tiny(digits[:300], **dict([expected])).threshold


@pytest.mark.parametrize("image_size", ["8", 8.0, (8, 8, 8), (8, None)])
def test_other_image_sizes_are_refused(digits, image_size):
    with pytest.raises(InputError, match="expected image_size"):
        tiny(digits[:300], image_size=image_size)


def test_image_size_and_colour(tmp_path):
    generator = np.random.default_rng(0)
    for index in range(60):
        Image.fromarray(generator.integers(0, 256, (20, 31, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    assert tiny(tmp_path, image_size=16).detector.shape == (3, 16, 16)
    assert tiny(tmp_path, image_size=(12, 10)).detector.shape == (3, 12, 10)
    assert tiny(tmp_path).detector.shape == (3, 20, 31)


def test_a_screen_needs_a_calibration_that_can_give_its_alpha(screens):
    with pytest.raises(InputError, match="at least 19 calibration images"):
        recondite.Screen(detector=screens("pca").detector, calibrator=Calibrator(np.arange(5.0)), alpha=0.05)


def test_heat_maps_of_errors_begin_at_no_error(digits):
    screen = tiny(digits[:100])
    low, high = screen.map_scale
    assert low == 0
    assert high > 0
    assert replace(screen, facts={}).map_scale == (0, 1)
    assert scale_of(np.array([-4.0, -1.0, 2.0]))[0] == -1  # likelihoods begin at the median
    dark, bright = scale_of(np.zeros(5))
    assert dark == 0 < bright  # images without any error


def test_a_column_that_hardly_moves_for_its_size_keeps_its_own_unit():
    generator = np.random.default_rng(0)
    moved = generator.normal(size=(60, 3)) * [1, 5e-3, 5e-3] + [0, 1e4, 1]
    detector = recondite.fit(moved, detector="pca", latent_size=1, alpha=0.1).detector
    assert detector.scale[1] == 1
    assert detector.scale[[0, 2]].tolist() == pytest.approx([1, 5e-3], rel=0.2)


def test_what_a_screen_tells_of_its_calibration():
    vectors = np.random.default_rng(0).normal(size=(160, 9)).astype(np.float32)
    screen = recondite.fit(vectors, detector="pca", latent_size=2, alpha=0.3, calibration=0.5, score="error")
    plain = replace(screen, facts={}, peaks=None)
    assert plain.map_scale == (0, 1)
    assert replace(plain, facts={"map_scale": [2, 3]}).map_scale == (2, 3)
    count = len(plain.calibrator.scores)
    with pytest.raises(InputError, match=rf"expected {count} peaks; got shape \(3,\)"):
        replace(plain, peaks=np.zeros(3))
    assert len(replace(plain, peaks=np.zeros(count)).peaks) == count
    grouped = replace(plain, calibrator=Calibrator(plain.calibrator.scores, ("few",) * 20 + ("many",) * (count - 20)))
    for one, group in ((plain, None), (grouped, "few")):
        for left_out, in_parts in ((0, False), (4, False), (0, True)):
            told = {"left_out_as_suspect": {group or "": left_out}} if left_out else {}
            facts = {"calibration": told | ({"left_out_in_parts": 10} if in_parts else {})}
            expected = one.calibrator.interval(0.3, None, one.guarantee, group, 0.95, left_out, in_parts)
            assert replace(one, facts=facts).false_alarm_interval == expected
    scores = plain.detector.score(vectors[:3])
    assert (scores.feature_score, plain.predict(vectors[:3]).feature_score) == (None, None)
    assert all(one.feature_score is None and one.reconstruction is None for one in plain.stream(vectors[:3]))
    assert plain.predict(vectors[:3]).reconstruction is None
    assert all("no calibration for group ''" in error for error in grouped.judge(scores).errors)
    assert plain.to_json()["evidence"] is None


class Graph(Exported):
    """Runs where it runs."""

    def __init__(self):
        self.devices = []

    def to(self, device):
        self.devices.append(device)


def test_a_screen_moves_its_detector(screens):
    screen, graph = screens("pca"), Graph()
    moved = replace(screen.with_score("error"), detector=graph, evidence=None, observations={})
    assert moved.to("cuda") is moved
    assert graph.devices == ["cuda"]
    assert screen.to("cpu") is screen
    with pytest.raises(InputError, match="a device that this machine has; got 'nonsense'"):
        screen.to("nonsense")


def test_maps_and_rebuilt_images_are_given_where_they_are_asked_for():
    for function in (Screen.predict, Screen.scored, Screen.stream, Screen.score_batch):
        own = inspect.signature(function).parameters
        assert own["feature_score"].default is own["reconstruction"].default is False
    assert inspect.signature(Screen.predict).parameters["progress"].default is False

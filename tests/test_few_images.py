"""Few images: each calibrates, judged by a detector that was fitted without it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_units import bursts, scenes
from torch import nn

import recondite
from recondite import InputError
from recondite.cli import main
from recondite.data.datasets import open_images
from recondite.data.images import Preprocessing
from recondite.data.spool import Rows, keys_of, read_all
from recondite.detectors import Detector, build
from recondite.detectors.features import Features
from recondite.detectors.seen import Memory
from recondite.options import TrainingOptions
from recondite.screen import in_turn
from recondite.screen.any_angle import ADVICE, seem_turned
from recondite.screen.in_turn import LeftOut, alpha_for, are_few, scores_left_out, steadier_in_turn
from recondite.screen.promise import promise

PCA = {"detector": "pca", "latent_size": 4}


def of_convolutions():
    """A network of one's own, always with the same weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1))


def test_every_image_calibrates_and_is_learnt_from():
    images = scenes(30)
    screen = recondite.fit(images, **PCA)
    assert screen.alpha == 0.05
    assert len(screen.calibrator.scores) == 30 == screen.facts["images"]["images"]
    assert screen.facts["calibration"]["left_out_in_parts"] == 10
    assert screen.score == "error"
    # Judged without having been learnt from, images score higher than the finished detector says.
    seen = screen.detector.score(images).instance_score
    assert np.median(screen.calibrator.scores) > np.median(seen)
    assert "not proven" in promise(screen)


def test_scores_are_those_of_a_detector_fitted_without_the_image():
    """With ten images each part is one image: the slow way round gives the same scores."""
    images = scenes(10)
    screen = recondite.fit(images, **PCA)
    expected, peaks = [], []
    for left in range(10):
        detector = build("pca", image_shape=(1, 32, 32), latent_size=4)
        detector.fit(np.delete(images, left, axis=0), validation=None)
        found = detector.score(images[left : left + 1], feature_score=True)
        expected.append(found.instance_score[0])
        peaks.append(found.feature_score.max())
    np.testing.assert_allclose(np.sort(screen.calibrator.scores), np.sort(expected), rtol=1e-5)
    np.testing.assert_allclose(np.sort(screen.peaks), np.sort(peaks), rtol=1e-4)


def test_few_images_suffice_whatever_the_components_by_default(tmp_path):
    """And it is one number of them in the finished detector, those of the parts and the saved one."""
    images, numbers = scenes(20), set()
    for contamination in (None, 0.2):
        screen = recondite.fit(images, detector="pca", group_by="none", contamination=contamination)
        numbers.add(screen.detector.options.latent_size)
        learnt = screen.facts["images"]["images"]
        assert screen.detector.options.latent_size == learnt - 3  # two are left out at a time; n images span n - 1
    assert len(numbers) == 2
    screen.save(tmp_path / "screen")
    assert recondite.load(tmp_path / "screen").detector.options.latent_size in numbers


def test_parts_that_leave_more_out_share_their_components():
    images, keys = scenes(12), np.array([0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]).astype("V8")
    spooled = read_all(open_images(images), Preprocessing(shape=(1, 32, 32)))
    sizes = []
    unfitted = build("pca", image_shape=(1, 32, 32))
    scores_left_out(
        unfitted, spooled, keys, TrainingOptions(), False, noted=lambda one, _: sizes.append(one.options.latent_size)
    )
    assert sizes == [7] * 9  # that of the part which leaves four of twelve out


def test_what_is_not_to_be_learnt_from_is_in_no_part():
    images = scenes(10)
    spooled = read_all(open_images(images), Preprocessing(shape=(1, 32, 32)))
    learnable = np.arange(10) != 4
    unfitted = build("pca", image_shape=(1, 32, 32), latent_size=4)
    keys = keys_of([spooled], "none")[0]
    found = scores_left_out(unfitted, spooled, keys, TrainingOptions(), False, learnable=learnable)
    for row, score in zip(found.rows[:3], found.scores[:3], strict=True):
        others = images[learnable & (np.arange(10) != row)]
        detector = build("pca", image_shape=(1, 32, 32), latent_size=4).fit(others, validation=None)
        assert score == pytest.approx(detector.score(images[row : row + 1]).instance_score[0], rel=1e-5)
    assert len(found.rows) == 10  # it is judged all the same


def test_scores_that_tell_no_place_have_no_peaks():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 4))
    options = {"backbone": network, "layers": ("0",), "units": "unit", "methods": ("mahalanobis",), "latent_size": 2}
    screen = recondite.fit(scenes(12), detector="features", **options)
    assert screen.facts["calibration"]["left_out_in_parts"] == 10
    assert screen.peaks is None


def test_two_lots_of_images_left_out_are_joined():
    rows, none = np.arange(3), np.empty(0, dtype=np.intp)
    before = LeftOut(none, np.array([1.0]), np.array([5.0]), 1, (0.0, 4.0))
    after = LeftOut(rows, np.array([2.0, 3.0, 4.0]), np.array([6.0, 7.0, 8.0]), 3, (1.0, 8.0)).joined(before)
    assert after.rows is rows
    assert after.scores.tolist() == [1, 2, 3, 4]
    assert after.peaks.tolist() == [5, 6, 7, 8]
    assert after.parts == 4
    assert after.map_scale == (0.75, 7.0)
    assert replace(after, peaks=None).joined(before).peaks is None


def test_alpha_is_what_so_few_images_allow_unless_it_is_given():
    screen = recondite.fit(scenes(9), **PCA)
    assert screen.alpha == 0.1
    with pytest.raises(InputError, match=r"alpha of at least 0\.1"):
        recondite.fit(scenes(9), alpha=0.05, **PCA)
    with pytest.raises(InputError, match="needs at least"):
        recondite.fit(scenes(9), confidence=0.9, **PCA)
    assert alpha_for(400, None) == 0.05
    assert alpha_for(4, None) == 0.2
    assert are_few(30, 0.2, None, None, "exact")
    assert not are_few(100, 0.2, None, None, "exact")
    assert not are_few(4, 0.2, None, None, "exact")
    assert are_few(5, 0.2, None, None, "exact")
    assert are_few(3, 0.2, None, None, "exact", before=2)
    assert not are_few(3, 0.2, None, None, "exact", before=1)
    assert are_few(200, 0.05, None, None, "exact")
    assert not are_few(201, 0.05, None, None, "exact")
    assert are_few(10, 0.1, 0.4, None, "exact")  # one image allows .5
    assert not are_few(10, 0.1, 0.5, None, "exact")


def test_frames_of_a_burst_are_left_out_together():
    images = bursts(scenes(24, side=16, smooth=1), noise=0.03)
    screen = recondite.fit(images, detector="pca", latent_size=20)
    fresh = bursts(scenes(1000, seed=9, side=16, smooth=1), frames=1, noise=0.03, seed=3)
    assert len(screen.calibrator.scores) <= 24
    assert screen.predict(fresh).is_outlier.mean() < 0.2
    alone = recondite.fit(images, detector="pca", latent_size=20, group_by="none")
    assert alone.predict(fresh).is_outlier.mean() > 0.5


@pytest.mark.slow
def test_the_rate_is_about_alpha_and_the_interval_holds():
    inside = []
    for count in (8, 24):
        rates, ends = [], []
        for draw in range(25):
            every = scenes(count + 1000, seed=200 + draw, side=12)
            screen = recondite.fit(every[:count], detector="pca", latent_size=3, seed=draw)
            rates.append(screen.predict(every[count:]).is_outlier.mean())
            ends.append(screen.false_alarm_interval)
        low, high = np.transpose(ends)
        # Each of 25 rates follows about Beta(1, n): its standard deviation is about alpha.
        assert abs(np.mean(rates) - screen.alpha) < 3.5 * screen.alpha / 25**0.5
        inside += ((low <= rates) & (rates <= high)).tolist()
        plain = screen.calibrator.interval(screen.alpha)
        assert low[-1] < plain[0] < plain[1] < high[-1]
    assert np.mean(inside) >= 0.9  # .82 with the law of independent scores


def test_a_frozen_network_looks_once_at_the_images_of_all_fits(monkeypatch):
    """Eleven fits and what they say of the images left out: the numbers of a network that looks again each time."""
    network = of_convolutions()
    looked = []
    network[0].register_forward_hook(lambda *call: looked.append(len(call[2])))
    options = {"detector": "features", "backbone": network, "layers": ("2",), "place_layers": ("2",)}
    options |= {
        "methods": ("mahalanobis", "padim"),
        "latent_size": 4,
        "region": np.pad(np.ones((20, 32)), ((0, 12), (0, 0))),
    }
    once = recondite.fit(scenes(24), **options)
    assert sum(looked) <= 24 + 3  # trials of one image when it is built and copied
    assert once.detector.looked is None
    monkeypatch.setattr(Features, "looking_once", Detector.looking_once)
    again = recondite.fit(scenes(24), **options)
    for one, other in (
        (once.calibrator.scores, again.calibrator.scores),
        (once.peaks, again.peaks),
        (once.map_scale, again.map_scale),
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert once.detector.state_dict().keys() == again.detector.state_dict().keys()


def test_an_image_is_left_out_with_its_turned_copies():
    """With ten images each part is one image: the slow way round gives the same scores, and no copy calibrates."""
    images = scenes(10)
    options = {"methods": ("mahalanobis", "padim"), "latent_size": 4, "rotations": 4}
    options |= {"backbone": of_convolutions(), "layers": ("2",), "place_layers": ("2",)}
    screen = recondite.fit(images, detector="features", **options)
    expected = []
    for left in range(10):
        detector = build("features", image_shape=(1, 32, 32), **options)
        detector.fit(np.delete(images, left, axis=0), validation=None)
        expected.append(detector.score(images[left : left + 1]).instance_score[0])
    np.testing.assert_allclose(np.sort(screen.calibrator.scores), np.sort(expected), rtol=1e-3, atol=1e-3)


def marked(angles):
    """Images of a bright bar and a dot beside one of its ends, turned by angles; both have a place of their own."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    draws, images = np.random.default_rng(0), []
    for angle in angles:
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        shown = 0.6 * ((np.abs(along) < 0.7) & (np.abs(across) < 0.12)) + 0.3 * (
            np.hypot(along - 0.5, across - 0.3) < 0.12
        )
        images.append(shown + 0.1 + 0.02 * draws.standard_normal(shown.shape))
    return np.stack(images)[:, None].clip(0, 1).astype(np.float32)


@pytest.mark.parametrize(("angles", "asked"), [(np.arange(12) * 2.4, True), (np.arange(12) * 0.01, False)])
def test_turned_copies_are_advised_where_parts_lie_at_any_angle(angles, asked):
    images = marked(angles)
    options = {"methods": ("mahalanobis", "padim"), "latent_size": 4, "side": 64, "layers": "block3"}
    options |= {"detector": "features", "place_layers": "block3"}
    screen = recondite.fit(images, **options)
    assert [remark for remark in screen.facts["remarks"] if "--rotations 8" in remark] == [ADVICE] * asked
    if asked:
        assert not recondite.fit(images, **options, rotations=1).facts["remarks"]
        assert not seem_turned(screen.detector, Rows(images, np.arange(7)))


class Looking(Features):
    """Sees the pixels as they are."""

    locates, options, preprocessing = True, SimpleNamespace(rotations=1), SimpleNamespace(restricted=False)

    def __init__(self):
        pass

    def seen_in(self, images):
        yield SimpleNamespace(places=torch.from_numpy(images.take(slice(None))))


def turned_along(places, quarters):
    """One image at places of a line (N,), turned by quarters (N,): the nearest one is a neighbour, turned or not."""
    one = np.array([[0.0, 100], [200, 400]])
    made = [np.rot90(one, turn) + place for place, turn in zip(places, quarters, strict=True)]
    return Rows(np.stack(made)[:, None].astype(np.float32), np.arange(len(made)))


PAIR_AND_SIX = np.array([0, 10, 11, 12.5, 20, 21, 22.5, 1]), np.array([0, 0, 0, 1, 0, 0, 2, 1])
"""Three of eight are nearest to one turned by a quarter: the first, the last and the fourth."""
SIXTEEN = np.r_[PAIR_AND_SIX[0], PAIR_AND_SIX[0] + 50], np.r_[PAIR_AND_SIX[1], np.zeros(8)].astype(int)


def every_one(count):
    """As many, of which all that are looked at are nearest to one turned by a quarter."""
    quarters, looked_at = np.zeros(count, int), np.linspace(0, count - 1, min(count, 16)).round().astype(int)
    quarters[looked_at[::2]] = 1
    return np.arange(count), quarters


@pytest.mark.parametrize(
    ("images", "asked"),
    [
        (PAIR_AND_SIX, True),
        ((PAIR_AND_SIX[0], np.array([0, 0, 0, 0, 0, 0, 2, 1])), False),  # two are fewer than three
        (SIXTEEN, False),  # and three fewer than a fifth of sixteen
        ((SIXTEEN[0], np.r_[PAIR_AND_SIX[1], 0, 0, 0, 1, 0, 0, 0, 0]), True),
        (every_one(7), False),
        (every_one(8), True),
        (every_one(60), True),
        (every_one(61), False),
    ],
)
def test_a_fifth_and_at_least_three_of_eight_to_sixty_seem_turned(images, asked, monkeypatch):
    assert seem_turned(Looking(), turned_along(*images)) is asked
    for name, value in (
        ("options", SimpleNamespace(rotations=2)),
        ("preprocessing", SimpleNamespace(restricted=True)),
        ("locates", False),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Looking, name, value)
            assert seem_turned(Looking(), turned_along(*images)) is False


def test_the_command_says_what_it_promises(tmp_path, capsys):
    np.save(tmp_path / "few.npy", (scenes(12) * 255).astype(np.uint8)[:, 0])
    arguments = ["fit", str(tmp_path / "few.npy"), "-o", str(tmp_path / "screen"), "--detector", "pca"]
    assert main([*arguments, "--latent-size", "4"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "0.077" in said
    assert "not proven" in said
    assert recondite.load(tmp_path / "screen").predict(scenes(3)).p_value.min() >= 1 / 13


def test_heat_maps_are_scaled_by_images_left_out(digits):
    """Places of the images that were learnt from look so usual that those of any other would all be at the end."""
    screen = recondite.fit(digits[:40], detector="pca", latent_size=12, alpha=0.1)
    assert screen.facts["calibration"]["left_out_in_parts"] == 10
    low, high = screen.map_scale
    fresh = screen.predict(digits[100:400], feature_score=True).feature_score
    assert low == 0
    assert (fresh > high).mean() < 0.02


def test_vectors_are_kept_of_some_images_and_no_others(digits):
    spooled, others = (
        read_all(open_images(some), Preprocessing(shape=(1, 8, 8))) for some in (digits[:8], digits[8:16])
    )
    rows = spooled.rows()
    first = Rows(rows.pixels, rows.index[:5])
    whole, places = torch.arange(5.0).reshape(5, 1, 1), torch.zeros(5, 2, 3)
    memory = Memory(first, iter([(whole[:3], places[:3]), (whole[3:], places[3:])]))
    taken, of_places = memory.take(Rows(rows.pixels, rows.index[[4, 0, 2]]), slice(1, 3))
    assert taken.flatten().tolist() == [0, 2]
    assert of_places.shape == (2, 2, 3)
    assert memory.holds(Rows(rows.pixels, rows.index[2:5]))
    assert not memory.holds(Rows(rows.pixels, rows.index[3:7]))
    assert not memory.holds(Rows(rows.pixels, rows.index[5:]))
    assert not memory.holds(others.rows())


@pytest.mark.parametrize(
    ("further", "learnt", "fits"), [(True, True, [(2, True)] * 2), (True, False, []), (False, False, [(0, False)] * 2)]
)
def test_what_learns_further_learns_where_there_is_something_to_learn(further, learnt, fits, monkeypatch):
    found = []
    detector = SimpleNamespace(
        frozen=(),
        get_submodule=None,
        suit=lambda _: None,
        fit_rows=lambda rows, *_, further: found.append((len(rows), further)),
    )
    monkeypatch.setattr(in_turn, "_judged", lambda _, rows: (np.zeros(len(rows)), None))
    images = Rows(np.zeros((4, 1, 2, 2), np.float32), np.arange(4))
    rows, keys = np.arange(4), np.arange(4).astype("V8")
    in_turn.judged_in_turn(
        detector, images, keys, rows, np.full(4, learnt), 2, TrainingOptions(), False, "", further=further
    )
    assert found == fits


SMALL = {"detector": "features", "layers": ("2",), "place_layers": ("2",), "latent_size": 4}
SMALL_OWN = {key: value for key, value in SMALL.items() if key != "detector"}


def test_all_calibrate_where_a_share_of_them_would_leave_the_threshold_unsteady():
    """A fifth of 120 would be enough for alpha; asked for, it is what calibrates, and the rate is proven."""
    images, options = scenes(120), {**SMALL, "backbone": of_convolutions(), "methods": ("mahalanobis", "padim")}
    screen = recondite.fit(images, **options)
    assert len(screen.calibrator.scores) == 120 == screen.facts["images"]["images"]
    assert "not proven" in promise(screen)
    assert "--calibration 0.2" in promise(screen)
    asked = recondite.fit(images, **options, calibration=0.2)
    assert (len(asked.calibrator.scores), asked.facts["images"]["images"]) == (24, 96)
    assert promise(asked).startswith("On average a share of at most 0.05")
    low, high = screen.false_alarm_interval
    held_low, held_high = asked.false_alarm_interval
    assert held_low < low
    assert high < held_high


def of_sums(methods=("mahalanobis", "padim"), **region):
    detector = build("features", image_shape=(1, 32, 32), methods=methods, backbone=of_convolutions(), **SMALL_OWN)
    if region:
        detector.restrict(np.ones((32, 32), dtype=bool), **region)
    return detector


def test_images_are_left_out_in_turn_only_where_that_is_steadier_and_costs_little():
    sums = of_sums()
    assert all(steadier_in_turn(sums, count, 0.2, None) for count in (5, 499))
    assert not any(steadier_in_turn(sums, count, 0.2, None) for count in (4, 500))
    assert steadier_in_turn(sums, 249, 0.4, None)
    assert not steadier_in_turn(sums, 250, 0.4, None)
    assert not steadier_in_turn(sums, 120, 0.2, 0.9)  # a confidence is about independent scores
    assert not steadier_in_turn(sums, 200, 0.2, None, evidence=0.3)  # which would be none
    assert not steadier_in_turn(of_sums(("padim", "dfr")), 120, 0.2, None)
    assert not steadier_in_turn(of_sums(masked=True), 120, 0.2, None)
    assert not steadier_in_turn(build("pca", image_shape=(1, 32, 32)), 120, 0.2, None)


def test_an_alpha_that_all_of_them_allow_and_a_share_does_not():
    images, options = scenes(240), {**SMALL, "backbone": of_convolutions(), "methods": "padim"}
    screen = recondite.fit(images, **options, alpha=0.005)
    assert len(screen.calibrator.scores) == 240
    with pytest.raises(InputError, match=r"alpha = 0\.005"):
        recondite.fit(images, **options, alpha=0.005, calibration=0.2)


@pytest.mark.parametrize(("more", "calibrated"), [(30, 150), (110, 110)])
def test_more_good_images_never_leave_fewer_to_calibrate_than_they_could(more, calibrated):
    """Two fifths of them alone would: 12 where there were 120."""
    images, options = scenes(230), {**SMALL, "backbone": of_convolutions(), "methods": "padim"}
    screen = recondite.fit(images[:120], **options)
    after = screen.update(images[120 : 120 + more], sampled=True)
    assert len(after.calibrator.scores) == calibrated
    assert after.facts["calibration"].get("kept", 0) == calibrated - more
    held = screen.update(images[120 : 120 + more], sampled=True, calibration=0.4)
    assert len(held.calibrator.scores) == (30 if more == 30 else 44)


def test_images_that_were_all_learnt_from_calibrate_nothing_and_the_way_out_is_told():
    images, options = scenes(120), {**SMALL, "backbone": of_convolutions(), "methods": "padim"}
    screen = recondite.fit(images, **options)
    with pytest.raises(InputError, match=r"learnt from all of these 120 images: give others \(one fitted with --calib"):
        screen.recalibrated(images)
    held_out = recondite.fit(images, **options, calibration=0.2)
    with pytest.warns(recondite.ReconditeWarning, match="learnt from 96 of 120 images"):
        assert len(held_out.recalibrated(images).calibrator.scores) == 24

"""Further images: what was learnt stays, to rounding that of a fit on all, and what is known never calibrates."""

import inspect
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from test_units import scenes

import recondite
from recondite import Calibrator, InputError, ReconditeWarning
from recondite.cli import main
from recondite.data.datasets import open_images
from recondite.data.images import Preprocessing
from recondite.data.spool import Rows, Spool, read_all
from recondite.detectors import build
from recondite.graphs.exported import Exported
from recondite.options import TrainingOptions
from recondite.perturbations.defects import DEFECTS, defective
from recondite.reports.update import alpha_in_words
from recondite.screen import update
from recondite.screen.known import Known
from recondite.screen.promise import promise
from recondite.screen.screen import Screen
from recondite.screen.separate import Sets
from recondite.screen.update import (
    Compared,
    _can_be_fitted_anew,
    _check_alike,
    _facts,
    _left_out_before,
    next_version,
    training_options,
    updated_screen,
)
from recondite.statistics.calibration import smallest_alpha

PCA = {"detector": "pca", "latent_size": 6, "score": "error", "validation": 0}


def rows(images):
    return Rows(np.ascontiguousarray(images, dtype=np.float32), np.arange(len(images)))


def in_turns_and_at_once(name, images, first, **options):
    """Return a detector that learnt from the first images and then the others, and one that learnt from all."""
    turns, once = (build(name, image_shape=images.shape[1:], **options) for _ in range(2))
    turns.fit_rows(rows(images[:first]), None, TrainingOptions())
    turns.fit_rows(rows(images[first:]), None, TrainingOptions(), further=True)
    return turns, once.fit_rows(rows(images), None, TrainingOptions())


@pytest.mark.parametrize("kind", ["images", "vectors"])
def test_components_are_those_of_all_images(kind, digits):
    images = digits[:400, None].astype(np.float32) / 255
    if kind == "vectors":
        images = images.reshape(400, 64) * np.arange(64)  # with constant columns
    turns, once = in_turns_and_at_once("pca", images, 150, latent_size=8)
    expected = once.score(images).instance_score
    np.testing.assert_allclose(turns.score(images).instance_score, expected, rtol=2e-4)
    alone = build("pca", image_shape=images.shape[1:], latent_size=8).fit_rows(
        rows(images[:150]), None, TrainingOptions()
    )
    assert np.abs(alone.score(images).instance_score / expected - 1).max() > 0.05
    np.testing.assert_allclose(turns.latent_factor.norm(), once.latent_factor.norm(), rtol=1e-3)


def test_features_and_banks_are_those_of_all_images():
    images = scenes(60, side=32)
    methods = ("mahalanobis", "padim", "subspace", "knn", "patchcore")
    options = {"methods": methods, "side": 32, "latent_size": 12, "layers": "block3", "place_layers": "block3"}
    turns, once = in_turns_and_at_once("features", images, 25, **options)
    fresh = scenes(20, seed=5, side=32)
    for method in methods:
        one, other = (detector.score(fresh, score=method).instance_score for detector in (turns, once))
        np.testing.assert_allclose(one, other, rtol=1e-3, err_msg=method)
    # Each lot has its own say on what is usual, by its number of images.
    assert torch.all((turns.centres - once.centres).abs() < once.spreads)
    assert torch.all((turns.spreads / once.spreads).log().abs() < 1)


def test_a_screen_learns_and_calibrates_on_what_it_does_not_know(tmp_path):
    images = scenes(400)
    before = recondite.fit(images[:200], **PCA)
    before.save(tmp_path / "before")
    after = recondite.load(tmp_path / "before").update(images[200:], validation=0)
    assert after.facts["images"]["images"] == before.facts["images"]["images"] + 120
    assert len(after.calibrator.scores) == 80
    assert after.facts["version"] == 2
    assert after.facts["versions"][0]["fingerprint"] == before.fingerprint() != after.fingerprint()
    assert after.predict(scenes(300, seed=9)).is_outlier.mean() < 0.12
    after.save(tmp_path / "after")
    again = recondite.load(tmp_path / "after").update(scenes(100, seed=4))
    assert again.facts["version"] == 3
    assert [past["version"] for past in again.facts["versions"]] == [1, 2]


def test_known_images_neither_calibrate_nor_count_twice():
    images = scenes(300)
    before = recondite.fit(images[:200], **PCA)
    learnt = before.facts["images"]["images"]
    calibrated = set(before.calibrator.scores)
    # All old images again: those that calibrated are not learnt from, and may calibrate anew.
    after = before.update(images, calibration=0.5, validation=0)
    fresh = 300 - learnt
    assert len(after.calibrator.scores) + after.facts["update"]["learnt"] == fresh
    assert after.facts["update"]["known"] == learnt
    with pytest.warns(ReconditeWarning, match="has learnt from"):
        recalibrated = before.recalibrated(images[:200])
    assert set(recalibrated.calibrator.scores) <= calibrated
    told = recalibrated.facts["calibration"]
    assert (told["of"], told["known"], told["images"]) == (200, learnt, len(recalibrated.calibrator.scores))
    assert told["known"] + told["images"] == 200
    few = recondite.fit(images[:30], **PCA)
    with pytest.raises(InputError, match="has learnt from all"):
        few.update(images[:30])


def test_near_copies_of_known_images_do_not_calibrate():
    images = scenes(200)
    before = recondite.fit(images, **PCA)
    generator = np.random.default_rng(0)
    copies = np.clip(images + 0.01 * generator.standard_normal(images.shape), 0, 1).astype(np.float32)
    after = before.update(np.concatenate([copies, scenes(100, seed=3)]), sampled=True)
    assert after.facts["update"]["known"] >= 0.9 * before.facts["images"]["images"]


def test_few_new_images_are_left_out_in_turn():
    before = recondite.fit(scenes(200), **PCA)
    after = before.update(scenes(30, seed=3))
    assert len(after.calibrator.scores) == 30 == after.facts["update"]["learnt"]
    assert after.facts["calibration"]["left_out_in_parts"] == 10
    # The first part: what a detector says that learnt from the others.
    seen = after.detector.score(scenes(30, seed=3)).instance_score
    assert np.median(after.calibrator.scores) > np.median(seen)
    maps = after.predict(scenes(300, seed=4), feature_score=True).feature_score
    assert (maps > after.map_scale[1]).mean() < 0.02
    assert after.facts["update"]["auroc"] is not None


FEATURES = {"detector": "features", "methods": ("mahalanobis", "padim"), "side": 32, "latent_size": 4}
FEATURES |= {"layers": "block3", "place_layers": "block3", "score": "error"}


@pytest.mark.parametrize("options", [PCA, FEATURES], ids=["pca", "features"])
def test_screens_of_few_images_take_fewer_than_alpha_needs(options):
    images = scenes(19)
    fewer = options | {"latent_size": 4}
    before = recondite.fit(images[:12], **fewer)
    assert before.alpha == 0.077
    # New images alone: the scores of those that were left out before stay beside theirs.
    after = before.update(images[12:15])
    assert len(after.calibrator.scores) == 15 == after.facts["calibration"]["images"] == after.facts["images"]["images"]
    assert np.array_equal(after.calibrator.scores[:12], before.calibrator.scores)
    assert after.facts["calibration"]["kept"] == 12
    assert after.facts["update"]["learnt"] == 3
    learnt = after.detector.score(images[12:15]).instance_score
    assert np.mean(after.calibrator.scores[12:]) > np.mean(learnt)
    # One more, and all again: as a fit on all of them.
    again = after.update(images[15:16]).update(images, sampled=True)
    once = recondite.fit(images, alpha=0.077, **fewer)
    np.testing.assert_allclose(np.sort(again.calibrator.scores), np.sort(once.calibrator.scores), rtol=1e-3, atol=1e-4)
    found, expected = (one.detector.score(images).instance_score for one in (again, once))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert again.facts["images"]["images"] == 19 == len(again.calibrator.scores)
    assert (again.facts["update"]["learnt"], again.facts["update"]["known"]) == (3, 0)  # the old ones calibrate too
    assert again.facts["version"] == 4
    assert "not proven" in promise(again)


def test_other_screens_are_told_what_to_give():
    before = recondite.fit(scenes(200), **PCA)
    with pytest.raises(InputError, match="--only-calibrate"):
        before.update(scenes(3, seed=3))


def test_a_selection_is_refused_unless_it_is_said_to_be_a_sample():
    before = recondite.fit(scenes(300), **PCA)
    many = scenes(2000, seed=3)
    odd = many[np.argsort(before.detector.score(many).instance_score)[-100:]]
    with pytest.raises(InputError, match=r"p-values are not uniform"):
        before.update(odd)
    assert before.update(odd, sampled=True).threshold > before.threshold
    assert before.update(odd, calibration=scenes(60, seed=8), validation=0).facts["update"]["learnt"] == 100


def test_calibration_alone_adds_to_the_scores():
    before = recondite.fit(scenes(300), **PCA)
    after = before.update(scenes(40, seed=3), only_calibrate=True)
    old = before.calibrator.scores
    assert np.array_equal(after.calibrator.scores[: len(old)], old)
    assert len(after.calibrator.scores) == len(old) + 40
    assert np.array_equal(after.peaks[: len(old)], before.peaks)
    assert np.isfinite(after.peaks).all()
    assert len(after.peaks) == len(old) + 40
    with pytest.raises(InputError, match="knows all"):
        after.update(scenes(40, seed=3), only_calibrate=True)
    # A screen that does not remember its images takes all for new ones.
    again = scenes(300)[:20]
    calibrates = np.isin(before.detector.score(again).instance_score, old)
    with pytest.warns(ReconditeWarning, match="does not know which images it was fitted on"):
        forgetful = replace(before, known=None).update(again, only_calibrate=True, sampled=True)
    assert 0 < calibrates.sum() < 20
    assert len(forgetful.calibrator.scores) == len(old) + (~calibrates).sum()
    for unused in ({"calibration": scenes(9)}, {"evidence": 0.3}, {"score": "error"}):
        with pytest.raises(InputError, match=f"^{next(iter(unused))} would change nothing where nothing is learnt"):
            before.update(scenes(40, seed=3), only_calibrate=True, **unused)
    with pytest.raises(InputError, match=r"^evidence would change nothing: score error takes none$"):
        before.update(scenes(40, seed=3), evidence=scenes(9))
    with pytest.raises(InputError, match="shares for calibration, validation, evidence that leave images"):
        before.update(scenes(20), calibration=0.75, validation=0.25, evidence=0)


def test_groups_keep_thresholds_of_their_own():
    images = scenes(160)
    labels = ["left" if index % 2 else "right" for index in range(160)]
    pairs = list(zip(images, labels, strict=True))
    before = recondite.fit(pairs[:120], by_folder=True, alpha=0.1, **PCA)
    after = before.update(pairs[120:], only_calibrate=True)
    assert {name: size - before.calibrator.sizes[name] for name, size in after.calibrator.sizes.items()} == {
        "left": 20,
        "right": 20,
    }
    old = len(before.calibrator.scores)
    assert after.calibrator.groups[:old] == before.calibrator.groups
    assert set(zip(after.calibrator.scores[old:], after.calibrator.groups[old:], strict=True)) == set(
        zip(before.detector.score(images[120:]).instance_score, labels[120:], strict=True)
    )
    assert after.facts["update"]["flagged"] is None
    assert len(after.facts["update"]["thresholds"][0]) == 2


def test_a_screen_of_few_images_is_fitted_anew_where_it_gets_all_again():
    images = scenes(16)
    screen = recondite.fit(images[:12], detector="pca", latent_size=4)
    for some, anew in ((images, True), (images[:12], True), (images[1:], False), (images[12:], False)):
        spooled = read_all(open_images(some), screen.detector.preprocessing)
        assert _can_be_fitted_anew(screen, spooled) == anew
    assert not _can_be_fitted_anew(replace(screen, known=None), spooled)


def test_a_screen_and_its_successor_are_compared_on_the_same_images():
    screen = recondite.fit(scenes(60), **PCA, alpha=0.1)
    fresh = rows(scenes(70, seed=3))
    compared = Compared(screen, np.full(70, True))
    compared.note(screen, fresh)
    found = compared.to_json(screen)
    scores = screen.detector.score(fresh.pixels).instance_score
    assert found["images"] == 70 == sum(len(before) for before, _ in compared.defective)
    assert found["median_score"] == [np.median(scores)] * 2
    assert found["flagged"] == [np.mean(scores > screen.threshold)] * 2
    assert found["auroc"][0] == found["auroc"][1] != 0.5


def test_a_network_goes_on_from_its_weights(digits):
    before = recondite.fit(digits[:300], detector="autoencoder", latent_size=8, width=8, epochs=8, score="error")
    kept = before.fingerprint()
    after = before.update(digits[300:600], epochs=1)
    fresh = digits[600:800]
    # One epoch from the weights is better than one epoch from nothing.
    anew = build("autoencoder", image_shape=(1, 8, 8), latent_size=8, width=8).fit(digits[300:480], epochs=1)
    assert after.detector.score(fresh).instance_score.mean() < anew.score(fresh).instance_score.mean()
    assert before.fingerprint() == kept


def test_evidence_is_learnt_anew_or_the_way_out_is_named():
    before = recondite.fit(scenes(600), detector="pca", latent_size=6)
    assert before.score == "auto"
    with pytest.raises(InputError, match="score='error'"):
        before.update(scenes(100, seed=3))
    assert before.update(scenes(100, seed=3), score="error").score == "error"
    after = before.update(scenes(300, seed=3))
    assert after.score == "auto"
    assert after.predict(scenes(300, seed=9)).is_outlier.mean() < 0.12


def test_the_command_says_what_changed(tmp_path, capsys):
    np.save(tmp_path / "good.npy", (scenes(200) * 255).astype(np.uint8)[:, 0])
    np.save(tmp_path / "more.npy", (scenes(100, seed=3) * 255).astype(np.uint8)[:, 0])
    screen, new, report = tmp_path / "screen", tmp_path / "screen2", tmp_path / "report.html"
    options = ["--detector", "pca", "--latent-size", "6", "--score", "error"]
    assert main(["fit", str(tmp_path / "good.npy"), "-o", str(screen), *options]) == 0
    capsys.readouterr()
    assert main(["update", str(screen), str(tmp_path / "more.npy"), "-o", str(new), "--report", str(report)]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("version 2: learnt from 50 further images")
    assert "AUROC" in second
    assert "made-up defects" in report.read_text(encoding="utf-8")
    assert recondite.load(new).facts["version"] == 2


def test_a_smaller_alpha_that_more_images_allow_is_told():
    images = scenes(60)
    few, one = (recondite.fit(images[:10], detector="pca", latent_size=2, alpha=alpha) for alpha in (None, 0.2))
    after = few.update(images[10:], sampled=True)
    allowed = max(0.05, smallest_alpha(len(after.calibrator.scores)))
    assert after.alpha == few.alpha == smallest_alpha(10) > allowed
    assert alpha_in_words(few, after).endswith(f"allow {allowed:g}: recondite predict --alpha {allowed:g}")
    assert alpha_in_words(few, few) == ""
    assert alpha_in_words(one, one.update(images[10:], sampled=True)) == ""


def test_an_interrupted_update_goes_on_from_its_own_checkpoint(tmp_path):
    settings = {"detector": "autoencoder", "width": 4, "latent_size": 4, "epochs": 1, "score": "error"}
    images = scenes(160)
    first, second = (recondite.fit(images[:80], **settings, seed=seed) for seed in (1, 2))
    further = {"run_folder": tmp_path, "sampled": True, "epochs": 2, "seed": 3}
    whole = first.update(images[80:], **further)
    checkpoint = next((tmp_path / first.fingerprint()[:12]).glob("checkpoint*"))
    moment = checkpoint.stat().st_mtime_ns
    again = first.update(images[80:], **further, resume=True)
    assert again.fingerprint() == whole.fingerprint()
    assert checkpoint.stat().st_mtime_ns == moment  # nothing was left to learn
    # The same images and options, but other weights to begin with: that is another update.
    other = second.update(images[80:], **further, resume=True)
    assert other.fingerprint() == second.update(images[80:], **{**further, "run_folder": None}).fingerprint()


class Judge:
    """A screen that scores an image by its mean."""

    confidence, guarantee, alpha, threshold, calibrator = None, "exact", 0.1, 0.5, Calibrator(np.linspace(0, 1, 101))

    def __init__(self, factor=1.0, **given):
        seen = SimpleNamespace(is_image=True, masked=False)
        self.detector = SimpleNamespace(scoring_batch=8, preprocessing=seen, trains_by_steps=False)
        self.factor, self.facts, self.known, self.seen = factor, {}, None, []
        vars(self).update(given)

    def score_batch(self, batch):
        self.seen.append(batch.pixels)
        return SimpleNamespace(instance_score=self.factor * batch.pixels.mean((1, 2, 3)).astype(np.float64))

    @property
    def thresholds(self):
        return Screen.thresholds.fget(self)

    def fingerprint(self):
        return "a fingerprint"


def test_two_hundred_good_images_are_compared_and_a_defect_in_each():
    levels = np.linspace(0.1, 0.9, 203)[:, None, None, None]
    images = (levels + np.random.default_rng(0).uniform(-0.1, 0.1, (203, 1, 16, 16))).astype(np.float32)
    before, after = Judge(), Judge(2.0)
    compared = Compared(before, np.full(203, True))
    compared.note(after, rows(images))
    found = compared.to_json(after)
    assert found["images"] == 200
    means = images[:200].mean((1, 2, 3)).astype(np.float64)
    assert found["median_score"] == pytest.approx([np.median(means), 2 * np.median(means)])
    assert found["flagged"] == [np.mean(means > 0.5), np.mean(2 * means > 0.5)]
    good, bad = np.concatenate(before.seen[::2]), np.concatenate(before.seen[1::2])
    assert len(good) == len(bad) == 200
    np.testing.assert_array_equal(good, images[:200])
    assert all(np.any(one != other) for one, other in zip(good, bad, strict=True))
    assert np.array_equal(bad, np.concatenate(after.seen[1::2]))
    # Kinds take turns, whatever the batches; an image is changed in a place, and not all over.
    names = list(DEFECTS)
    for number in (0, 7, 8, 199):
        one = defective(images[number : number + 1], names[number % len(names)], first=number).images
        np.testing.assert_allclose(bad[number], one[0], atol=1e-6)
    level = Judge(threshold=float(means[3]))
    compared = Compared(level, np.full(203, True))
    compared.note(level, rows(images[:6]))
    assert compared.to_json(level)["flagged"] == [2 / 6, 2 / 6]  # the threshold itself is not flagged


@pytest.mark.parametrize("seen", [{"is_image": False, "masked": False}, {"is_image": True, "masked": True}])
def test_what_has_no_made_up_defects_is_compared_without(seen):
    judge = Judge()
    judge.detector.preprocessing = SimpleNamespace(**seen)
    compared = Compared(judge, np.full(3, True))
    compared.note(judge, rows(np.zeros((3, 1, 4, 4))))
    assert compared.defective == []
    assert compared.to_json(judge)["auroc"] is None
    grouped = Judge(calibrator=Calibrator(np.zeros(4), ("a", "a", "b", "b")))
    compared = Compared(grouped, np.full(3, True))
    compared.note(grouped, rows(np.zeros((3, 1, 4, 4))))
    assert compared.to_json(grouped)["flagged"] is None


def test_of_images_left_out_only_new_ones_are_compared():
    judge, images = Judge(), np.zeros((6, 1, 4, 4), np.float32)
    compared = Compared(judge, np.array([False, True, False, True, True, False]))
    compared.note_left_out(judge, Rows(images, np.array([0, 1, 2])))
    compared.note_left_out(judge, Rows(images, np.array([0, 2])))
    assert [len(before) for before, _ in compared.good] == [1]
    compared.good.append((np.zeros(198), np.zeros(198)))
    compared.note_left_out(judge, Rows(images, np.array([3])))
    assert [len(before) for before, _ in compared.good] == [1, 198, 1]
    compared.note_left_out(judge, Rows(images, np.array([4])))  # two hundred there are
    assert [len(before) for before, _ in compared.good] == [1, 198, 1]


def of_means(means, labels=None):
    images = np.repeat(np.asarray(means, np.float32), 16).reshape(-1, 1, 4, 4)
    count = len(images)
    hashes = np.frombuffer(np.arange(2 * count).tobytes(), dtype="V16")
    return Spool(images, hashes, images.reshape(count, -1), list(map(str, range(count))), labels or [""] * count, [])


def test_images_that_score_otherwise_do_not_calibrate():
    draws, every = np.random.default_rng(0), np.arange(100)
    _check_alike(Judge(), of_means(draws.random(100)), every)
    _check_alike(Judge(), of_means(np.ones(100)), every[:0])
    for odd in (0.8 + draws.random(100) / 5, draws.random(100) / 5):  # on either side
        with pytest.raises(InputError, match=r"the 100 new images score otherwise .* sampled=True \(--sampled\)"):
            _check_alike(Judge(), of_means(odd), every)
    # A chance of one in a thousand: two in a hundred is common, and so is one in 600.
    fewer = Judge(calibrator=Calibrator(np.linspace(0, 1, 400)))
    for shift, refused in ((0.12, False), (0.21, False), (0.23, True)):
        spooled = of_means(shift + (1 - shift) * np.linspace(0, 1, 100))
        own = fewer.calibrator.p_value(spooled.pixels.mean((1, 2, 3)).astype(np.float64))
        chance = ks_2samp(fewer.calibrator.p_value(fewer.calibrator.scores), own).pvalue
        assert (chance < 0.001) == refused
        if refused:
            with pytest.raises(InputError, match="score otherwise"):
                _check_alike(fewer, spooled, every)
        else:
            _check_alike(fewer, spooled, every)


def test_images_are_compared_with_their_own_group_and_of_unknown_ones_nothing_is_said():
    levels = np.concatenate([np.linspace(0, 0.1, 100), np.linspace(0.9, 1, 100)])
    judge = Judge(calibrator=Calibrator(levels, ("a",) * 100 + ("b",) * 100))
    draws, every = np.random.default_rng(0), np.arange(90)
    low, high = draws.random(30) / 10, 0.9 + draws.random(60) / 10
    names = ["a"] * 30 + ["b"] * 60
    _check_alike(judge, of_means(np.concatenate([low, high]), names), every)
    _check_alike(judge, of_means(np.concatenate([low, np.full(60, 0.5)]), ["a"] * 30 + ["c"] * 60), every)
    _check_alike(judge, of_means(np.ones(90), ["c"] * 90), every)
    with pytest.raises(InputError, match="score otherwise"):
        _check_alike(judge, of_means(np.concatenate([low, high]), names[::-1]), every)


def test_scores_of_images_left_out_stay_where_new_ones_alone_are_too_few():
    few = {"calibration": {"left_out_in_parts": 7}}
    judge = Judge(facts=few, peaks=np.arange(101.0), map_scale=(1.0, 2.0), alpha=0.1)
    kept = _left_out_before(judge, 8, steadier=False)
    assert (kept.parts, kept.map_scale, len(kept.rows)) == (7, (1.0, 2.0), 0)
    assert kept.scores is judge.calibrator.scores
    assert kept.peaks is judge.peaks
    assert _left_out_before(judge, 0, steadier=False) is not None
    assert _left_out_before(judge, 9, steadier=False) is None  # 1 / (1 + 9) is alpha
    assert _left_out_before(judge, 99, steadier=True) is not None
    assert _left_out_before(judge, 100, steadier=True) is None
    for other in ({}, {"calibration": {}}, {"calibration": few["calibration"] | {"no_promise": ["it was forced"]}}):
        assert _left_out_before(Judge(facts=other, alpha=0.1), 8, steadier=True) is None


def test_a_screen_of_few_is_not_fitted_anew_where_something_of_it_would_be_lost():
    images = scenes(12)
    spooled = read_all(open_images(images), Preprocessing(shape=(1, 32, 32)))
    known = Known.of([(spooled, np.arange(12), True)])
    facts = {"calibration": {"left_out_in_parts": 10}}
    assert _can_be_fitted_anew(Judge(known=known, facts=facts), spooled)
    for other in (
        Judge(known=known),
        Judge(known=known, facts={**facts, "known_defects": {}}),
        Judge(known=known, facts={**facts, "contamination": {}}),
        Judge(facts=facts),
        Judge(known=replace(known, complete=False), facts=facts),
    ):
        assert not _can_be_fitted_anew(other, spooled)
    network = Judge(known=known, facts=facts)
    network.detector.trains_by_steps = True
    assert not _can_be_fitted_anew(network, spooled)


def test_the_versions_before_are_told_of_each_screen():
    judge = Judge(alpha=0.5)
    found = next_version(judge)
    assert found["version"] == 2
    (past,) = found["versions"]
    assert past == {
        "version": 1,
        "fingerprint": "a fingerprint",
        "learnt": 0,
        "calibration": 101,
        "thresholds": past["thresholds"],
    }
    assert past["thresholds"] == [[None, judge.calibrator.threshold(0.5)]]
    later = Judge(alpha=0.5, facts={"version": 4, "versions": [{"version": 3}], "images": {"images": 12}})
    found = next_version(later)
    assert found["version"] == 5
    assert [(one["version"], one.get("learnt")) for one in found["versions"]] == [(3, None), (4, 12)]


@pytest.mark.parametrize(
    ("facts", "anew", "learnt"), [({}, False, 4), ({"images": 7}, False, 11), ({"images": 7}, True, 4)]
)
def test_what_is_said_of_an_update(facts, anew, learnt):
    sets = SimpleNamespace(
        images=range(5),
        validation=None,
        evidence=range(3),
        calibration=range(4),
        fingerprints={"calibration": "theirs"},
        known=SimpleNamespace(fingerprint=lambda: "known"),
        units={"units": 9},
        moved=2,
        bad=[(f"{number}.png", "broken") for number in range(102)],
    )
    sets.facts = partial(Sets.facts, sets)
    said = _facts(Judge(facts={"images": facts, "other": 1}), sets, TrainingOptions(epochs=3), 4, anew)
    assert said["images"] == {"images": learnt, "fingerprint": "known"}
    assert (said["validation"], said["evidence"]) == ({"images": 0}, {"images": 3})
    assert said["calibration"] == {"images": 4, "fingerprint": "theirs"}
    assert (said["other"], said["units"], said["moved_out_of_fit"], said["training"]["epochs"]) == (
        1,
        {"units": 9},
        2,
        3,
    )
    assert said["unreadable"]["count"] == 102
    assert len(said["unreadable"]["first"]) == 100
    assert said["unreadable"]["first"][1] == ["1.png", "broken"]


def test_options_of_training_are_those_of_the_fit_unless_others_are_given():
    judge = Judge(facts={"training": {"epochs": 5, "seed": 3}})
    assert [getattr(training_options(judge, {"seed": 4}), name) for name in ("epochs", "seed")] == [5, 4]
    judge = Judge()
    judge.detector.training_defaults = {"epochs": 9}
    assert training_options(judge, {}).epochs == 9


def test_an_exported_screen_and_other_scores_are_refused(monkeypatch):
    with pytest.raises(InputError, match="update the one that it was made from, and export that"):
        updated_screen(SimpleNamespace(detector=object.__new__(Exported)), scenes(3))
    before = recondite.fit(scenes(60, side=16), **PCA, alpha=0.1)
    monkeypatch.setattr(type(before.detector), "needs_validation", False)
    with pytest.raises(InputError, match="expected score error or error; got 'auto'"):
        before.update(scenes(9, seed=3, side=16), score="auto")
    for shares in ({"calibration": 1}, {"calibration": -0.1}, {"calibration": 0.5, "evidence": 0.5, "validation": 0.5}):
        unused = shares["calibration"] == 0.5  # neither evidence nor epochs
        with pytest.raises(InputError, match="would change nothing" if unused else "that leave images to learn from"):
            before.update(scenes(60, seed=3, side=16), **shares)


def test_defaults():
    own = {name: one.default for name, one in inspect.signature(updated_screen).parameters.items()}
    assert [own[name] for name in ("calibration", "evidence", "validation")] == [None, 0.2, 0.1]
    assert [own[name] for name in ("sampled", "only_calibrate", "resume", "progress")] == [False] * 4


@pytest.fixture(scope="module")
def small():
    """A screen of images of 16 pixels that knows them."""
    return recondite.fit(scenes(60, side=16), **PCA, alpha=0.2)


def test_more_scores_are_told_beside_those_kept(small):
    new = scenes(20, seed=3, side=16)
    old = len(small.calibrator.scores)
    told = {"images": old, "of": 60, "known": 3}  # as after `recalibrated`
    after = replace(small, facts={**small.facts, "calibration": told}).update(new, only_calibrate=True)
    assert not {"of", "known"} & after.facts["calibration"].keys()
    assert after.facts["calibration"]["images"] == len(after.calibrator.scores) == old + 20
    assert after.facts["calibration"]["kept"] == old
    assert (after.facts["update"]["learnt"], after.facts["update"]["known"]) == (0, 0)
    assert after.known.learnt.sum() == small.known.learnt.sum()
    assert len(after.known) == len(small.known) + 20
    again = after.update(np.concatenate([new[:5], scenes(6, seed=4, side=16)]), only_calibrate=True)
    assert again.facts["update"]["known"] == 5
    # The fingerprint is of all that calibrate.
    given = np.concatenate([scenes(60, side=16), new])
    seen = read_all(open_images(given), small.detector.preprocessing)
    calibrate = np.flatnonzero(np.isin(seen.hashes, after.known.hashes[~after.known.learnt]))
    assert after.facts["calibration"]["fingerprint"] == seen.fingerprint(calibrate)
    unknown = replace(small, known=small.known.learnt_alone()).update(new[:4], only_calibrate=True)
    assert "fingerprint" not in unknown.facts["calibration"]
    without = replace(small, peaks=None).update(new, only_calibrate=True)
    assert without.peaks is None
    assert len(without.calibrator.scores) == old + 20


def test_scores_are_added_where_they_are_like_those_that_there_are(small):
    many = scenes(600, seed=3, side=16)
    odd = many[np.argsort(small.detector.score(many).instance_score)[-60:]]
    with pytest.raises(InputError, match="score otherwise"):
        small.update(odd, only_calibrate=True)
    added = small.update(odd, only_calibrate=True, sampled=True)
    assert len(added.calibrator.scores) == len(small.calibrator.scores) + 60
    for facts in ({"left_out_in_parts": 10}, {"no_promise": ["it was forced"]}):
        odd_one = replace(small, facts={**small.facts, "calibration": facts})
        with pytest.raises(InputError, match=r"are not of its detector, or promise nothing: calibrate it anew"):
            odd_one.update(many[:20], only_calibrate=True)


def test_a_screen_that_does_not_know_its_images_says_so_and_forgets_none(small):
    first, second = scenes(30, seed=3, side=16), scenes(30, seed=4, side=16)
    with pytest.warns(ReconditeWarning, match="does not know which images it was fitted on"):
        once = replace(small, known=None).update(first, sampled=True)
    with pytest.warns(ReconditeWarning, match="does not know which images it was fitted on"):
        twice = once.update(np.concatenate([first, second]), sampled=True)
    assert once.facts["images"]["images"] == small.facts["images"]["images"] + int(once.known.learnt.sum())
    assert len(twice.known) > len(once.known)
    assert twice.facts["update"]["known"] == once.known.learnt.sum()


def test_suspects_that_are_given_again_are_named():
    images = scenes(100, side=16)
    screen = recondite.fit(images, **PCA, alpha=0.2, contamination=0.2, group_by="none")
    suspects = screen.facts["contamination"]["suspects"]
    learnt = screen.known.learnt_alone().same(read_all(open_images(images), screen.detector.preprocessing))
    named = [name for row, name in enumerate(open_images(images).ids) if name in suspects and not learnt[row]]
    assert 0 < len(named) < len(suspects)
    with pytest.warns(
        ReconditeWarning, match=f"{len(named)} images? that the fit left out as suspect, such as {named[0]}"
    ):
        screen.update(images, sampled=True, group_by="none")
    with pytest.warns(ReconditeWarning) as told:
        screen.recalibrated(images, group_by="none")
    assert any("left out as suspect" in str(one.message) for one in told)
    screen.update(scenes(100, seed=9, side=16), sampled=True, group_by="none")  # others of the same ids


def test_what_a_network_learns_from_again_counts_once(digits):
    screen = recondite.fit(digits[:120], detector="autoencoder", latent_size=4, width=4, epochs=1, score="error")
    learnt = screen.facts["images"]["images"]
    after = screen.update(digits[:160], sampled=True, epochs=1)
    assert after.facts["images"]["images"] == learnt + after.facts["update"]["learnt"] <= 160


def test_five_images_at_least_are_left_out_in_turn(small):
    assert len(small.update(scenes(5, seed=3, side=16), sampled=True).calibrator.scores) == 5
    with pytest.raises(InputError, match="--only-calibrate"):
        small.update(scenes(4, seed=3, side=16), sampled=True)


def test_checkpoints_are_named_after_the_screen_that_they_go_on_from(small, tmp_path, monkeypatch):
    folders, fit_rows = [], type(small.detector).fit_rows

    def noting(self, images, validation, options, folder, *rest, **more):
        folders.append(folder)
        return fit_rows(self, images, validation, options, folder, *rest, **more)

    monkeypatch.setattr(type(small.detector), "fit_rows", noting)
    for given in ({"run_folder": tmp_path}, {}):
        small.update(scenes(30, seed=3, side=16), validation=0, **given)
    assert folders == [tmp_path / small.fingerprint()[:12], None]


def test_evidence_is_learnt_anew_where_images_serve_it_and_else_forgotten(monkeypatch):
    told = []
    monkeypatch.setattr(update, "fit_observer", lambda *given, **how: told.append((given, how)) or "observer")
    monkeypatch.setattr(update, "fit_evidence", lambda *given: given)
    looked = SimpleNamespace(reencoding=True, classifier="classifier")
    before = SimpleNamespace(observer=looked, classifier_share=0.25)
    sets = SimpleNamespace(images="images", evidence="evidence")
    found = update._evidence(Judge(evidence=before), "detector", sets, False)
    assert found == ("detector", "observer", "evidence", 0.25, False)
    assert told == [(("detector", "images"), {"reencoding": True, "classifier": "classifier", "progress": False})]
    assert update._evidence(Judge(evidence=None), "detector", sets, False) is None
    assert update._evidence(Judge(evidence=before), "detector", SimpleNamespace(images=1, evidence=None), False) is None


def test_too_few_images_to_calibrate_are_told_before_anything_is_learnt(digits):
    screen = recondite.fit(digits[:300], detector="pca", latent_size=4, alpha=0.1, score="error", group_by="none")
    given = {"group_by": "none", "sampled": True}
    with pytest.raises(InputError, match=r"got 8: .*In all there are 100 images"):
        screen.update(digits[300:400], calibration=digits[400:408], **given)  # .1 needs nine
    assert len(screen.update(digits[300:400], calibration=digits[400:409], **given).calibrator.scores) == 9


def test_a_group_keeps_its_calibration_or_the_update_is_refused():
    images = scenes(160, seed=2)
    pairs = open_images(images)
    labelled = replace(pairs, labels=["left", "right"] * 80)
    before = recondite.fit(labelled.select(range(120)), by_folder=True, alpha=0.2, **PCA)
    new = labelled.select(range(120, 160))
    left = replace(new, labels=["left"] * 40)
    with pytest.raises(InputError, match="no image of group 'right' would calibrate"):
        before.update(left, sampled=True)
    for flags in ({}, {"only_calibrate": True}):
        with pytest.raises(InputError, match=r"some images are of none of \['left', 'right'\]"):
            before.update(replace(new, labels=["left", ""] * 20), sampled=True, **flags)
    assert set(before.update(left, sampled=True, only_calibrate=True).calibrator.sizes) == {"left", "right"}

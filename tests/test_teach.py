"""Who learns and who calibrates where a screen is taught; what it learns is a stand-in here."""

import inspect
import pickle
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from test_few_images import of_convolutions
from test_known_defects import unfitted
from test_units import scenes

import recondite
from recondite import Calibrator, InputError
from recondite.data.datasets import open_images
from recondite.data.spool import Rows, read_all
from recondite.detectors import build
from recondite.graphs.exported import Exported
from recondite.screen import teach
from recondite.screen.in_turn import LeftOut
from recondite.screen.teach import taught_screen
from recondite.statistics.contamination import LEFT_OUT
from recondite.statistics.density import Marginals

PCA = {"detector": "pca", "latent_size": 4, "score": "error", "group_by": "none", "alpha": 0.1, "calibration": 0.5}
GIVEN = np.concatenate([scenes(40, side=16), scenes(12, seed=7, side=16)])
ERRORS = np.linspace(1, 3, 30)


@pytest.fixture(scope="module")
def screen():
    return recondite.fit(GIVEN[:40], **PCA, validation=0)


@pytest.fixture(scope="module")
def spooled(screen):
    return read_all(open_images(GIVEN), screen.detector.preprocessing)


@pytest.fixture(scope="module")
def defects(screen):
    return read_all(open_images(scenes(3, seed=8, side=16)), screen.detector.preprocessing)


@pytest.fixture
def lessons(defects, monkeypatch):
    """What learns is the screen's own detector, and it says what it was given."""
    given = []

    def taught(detector, good, keys, known, seed):
        given.append(SimpleNamespace(detector=detector, good=good, keys=keys, known=known, seed=seed))
        return SimpleNamespace(detector=detector, errors=ERRORS, facts={"images": 3}, finished="finished")

    def opened(images, masks, _, shown):
        assert (images, masks, shown) == ("defects", "masks", False)
        return SimpleNamespace(images=defects, check_apart=lambda *_: None)

    monkeypatch.setattr(teach, "check_teachable", lambda _: None)
    monkeypatch.setattr(teach, "taught", taught)
    monkeypatch.setattr(teach, "KnownDefects", SimpleNamespace(opened=opened))
    return given


def after(screen, images=GIVEN, **given):
    return taught_screen(screen, "defects", images, masks="masks", group_by="none", **given)


def learnt_from(screen, spooled):
    return np.isin(spooled.hashes, screen.known.hashes[screen.known.learnt])


def test_what_was_learnt_from_teaches_and_all_else_calibrates(screen, spooled, defects, lessons):
    before = replace(screen, facts={**screen.facts, "update": "before"})
    found = after(before)
    learnt = learnt_from(screen, spooled)
    assert 0 < learnt.sum() < 40
    (lesson,) = lessons
    assert lesson.good.index.tolist() == np.flatnonzero(learnt).tolist()
    assert len(lesson.keys) == learnt.sum()
    assert lesson.seed == screen.facts["training"]["seed"]
    np.testing.assert_allclose(
        np.sort(found.calibrator.scores), np.sort(screen.detector.score(GIVEN[~learnt]).instance_score)
    )
    assert found.facts["calibration"] == {
        "images": int((~learnt).sum()),
        "fingerprint": spooled.fingerprint(np.flatnonzero(~learnt)),
    }
    assert found.facts["known_defects"] == {"images": 3}
    assert found.facts["version"] == 2
    assert "update" not in found.facts
    assert found.facts["images"] == screen.facts["images"]
    # It remembers all of them, and which ones it has learnt from.
    assert np.array_equal(found.known.defects, np.unique(defects.hashes))
    for which, expected in ((found.known.learnt, learnt), (~found.known.learnt, ~learnt)):
        assert set(map(bytes, found.known.hashes[which])) == set(map(bytes, spooled.hashes[expected]))


def test_suspects_neither_teach_nor_calibrate(screen, spooled, lessons):
    learnt = learnt_from(screen, spooled)
    suspects = [int(np.flatnonzero(learnt)[0]), int(np.flatnonzero(~learnt)[0])]
    facts = {**screen.facts, "contamination": {"suspects": [spooled.ids[row] for row in suspects]}}
    facts["calibration"] = {**facts["calibration"], LEFT_OUT: {"": 1}}
    found = after(replace(screen, facts=facts))
    assert lessons[0].good.index.tolist() == np.flatnonzero(learnt)[1:].tolist()
    assert len(found.calibrator.scores) == (~learnt).sum() - 1
    assert found.facts["calibration"][LEFT_OUT] == {"": 1}
    with pytest.raises(InputError, match=r"has learnt from all of these .*: give those that calibrated it too"):
        after(screen, GIVEN[learnt])


def test_groups_and_evidence_are_kept(screen, spooled, lessons, monkeypatch):
    labels = ["left" if row % 2 else "right" for row in range(len(GIVEN))]
    groups = tuple("left" if row % 2 else "right" for row in range(len(screen.calibrator.scores)))
    pairs = list(zip(GIVEN, labels, strict=True))
    by_group = after(replace(screen, calibrator=Calibrator(screen.calibrator.scores, groups), alpha=0.2), pairs)
    free = np.flatnonzero(~learnt_from(screen, spooled))
    expected = set(zip(screen.detector.score(GIVEN[free]).instance_score, [labels[row] for row in free], strict=True))
    assert set(zip(by_group.calibrator.scores, by_group.calibrator.groups, strict=True)) == expected
    assert after(screen).calibrator.groups is None
    grouped = replace(screen, calibrator=Calibrator(screen.calibrator.scores, groups), alpha=0.2)
    lessons.clear()
    with pytest.raises(InputError, match="no image of group 'right' would calibrate"):
        after(grouped, list(zip(GIVEN, np.where(learnt_from(screen, spooled), labels, "left"), strict=True)))
    with pytest.raises(InputError, match=r"some images are of none of \['left', 'right'\]"):
        after(grouped)
    assert not lessons  # what is wrong is told before the head learns

    @dataclass(frozen=True)
    class Evidence:
        error: object = None
        scores: tuple = ("error",)

    monkeypatch.setattr(
        teach, "calibrated", lambda _, evidence, *__: {"calibrator": screen.calibrator, "observations": evidence}
    )
    found = after(replace(screen, evidence=Evidence()))
    assert found.evidence is found.observations  # it is put on the new scale before it scores
    assert np.array_equal(found.evidence.error.knots, Marginals.fit(ERRORS[:, None]).knots)


@pytest.mark.usefixtures("lessons")
def test_a_screen_of_few_images_judges_each_by_heads_that_learnt_from_others(spooled, monkeypatch):
    few = recondite.fit(GIVEN[:12], detector="pca", latent_size=4, group_by="none")
    assert few.facts["calibration"]["left_out_in_parts"] == 10
    rows, told = np.arange(12), []

    def scores_left_out(unfitted, *_, **how):
        told.append((unfitted, how))
        return LeftOut(rows, few.calibrator.scores, few.peaks, 10, (0.0, 1.0))

    monkeypatch.setattr(few.detector, "with_head", lambda head: SimpleNamespace(head=head), raising=False)
    monkeypatch.setattr(teach, "scores_left_out", scores_left_out)
    found = after(few)
    ((unfitted, how),) = told
    assert unfitted.head is None
    assert how["finished"] == "finished"
    assert how["fresh"].tolist() == how["learnable"].tolist() == [True] * 12 + [False] * 40
    assert found.facts["calibration"] == {
        "left_out_in_parts": 10,
        "images": 12,
        "fingerprint": spooled.fingerprint(rows),
    }
    assert np.array_equal(found.calibrator.scores, few.calibrator.scores)
    assert len(found.known) == 12
    with pytest.raises(InputError, match=r"its 12 images .* given again; of these it knows 11"):
        after(few, GIVEN[1:])


@pytest.mark.parametrize(
    ("images", "known", "words"),
    [
        (
            None,
            SimpleNamespace(complete=True),
            r"keeps no images: give the good images of its fit again \(recondite teach SCREEN DEFECTS GOOD",
        ),
        (GIVEN, None, r"does not know the images .*: fit it anew with these defects \(recondite fit --defects\)"),
        (None, None, "does not know the images"),
        (GIVEN, SimpleNamespace(complete=False), "does not know the images"),
    ],
)
def test_what_is_missing_is_named(images, known, words):
    with pytest.raises(InputError, match=words):
        taught_screen(SimpleNamespace(detector=unfitted(), known=known), "defects", images)


def test_an_exported_screen_cannot_learn():
    with pytest.raises(InputError, match="teach the one that it was made from"):
        taught_screen(SimpleNamespace(detector=object.__new__(Exported)), "defects", GIVEN)


def test_no_progress_is_shown_unless_it_is_asked_for():
    assert inspect.signature(taught_screen).parameters["progress"].default is False


@pytest.mark.usefixtures("lessons")
def test_a_screen_of_few_that_learnt_in_steps_is_judged_by_detectors_like_those_that_calibrate(monkeypatch):
    """Images left out are judged by detectors fitted at once, whose scale one that learnt in steps does not share."""
    options = {"detector": "features", "methods": "mahalanobis", "backbone": of_convolutions(), "layers": ("2",)}
    options |= {"latent_size": 4, "side": 16, "group_by": "none", "alpha": 0.2}
    images = scenes(30, side=16)
    updated = recondite.fit(images[:8], **options).update(images[8:], group_by="none", sampled=True)
    whole = recondite.fit(images, **options)
    for screen in (updated, whole):
        assert screen.facts["calibration"]["left_out_in_parts"]
    # Its own scale is another, although it has learnt from the same images.
    assert not np.allclose(updated.detector.centres, whole.detector.centres, atol=0.05)

    def taught(detector, good, *_):
        assert detector.looked.holds(good)  # the network looks at each image once
        return SimpleNamespace(detector=detector, errors=ERRORS, facts={"images": 3}, finished=lambda fitted, _: fitted)

    monkeypatch.setattr(teach, "taught", taught)
    found = after(updated, images)
    new = scenes(20, seed=5, side=16)
    for one, other in (
        (found.detector.score(new).instance_score, whole.detector.score(new).instance_score),
        (found.calibrator.scores, whole.calibrator.scores),
        (found.map_scale, whole.map_scale),
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert found.facts["images"]["images"] == 30
    assert not np.array_equal(found.detector.score(new).instance_score, updated.detector.score(new).instance_score)


def test_what_a_network_saw_is_let_go_of_by_copies_too():
    """A screen that is sent to a cluster would take its images along."""
    options = {"backbone": of_convolutions(), "layers": ("2",), "place_layers": ("2",), "latent_size": 4}
    detector = build("features", image_shape=(1, 16, 16), methods=("mahalanobis", "padim"), side=16, **options)
    rows = Rows(GIVEN, np.arange(len(GIVEN)))
    with detector.looking_once(rows):
        taught = detector.with_head(None)
        assert taught.looked.holds(rows)
    assert not taught.looked.holds(rows)
    assert len(pickle.dumps(taught)) < len(pickle.dumps(detector)) + 1000

"""What `fit` makes of its arguments: which detector is built and how, and which images serve what."""

import warnings
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

import recondite
from recondite.detectors import detector_class
from recondite.detectors.feature_methods import WITH_PLACES
from recondite.errors import InputError, ReconditeWarning
from recondite.screen import fit as fit_module
from recondite.screen import plan
from recondite.screen.any_angle import ADVICE
from recondite.screen.choose import Choice
from recondite.screen.known_defects import UnhelpfulError
from recondite.training.presets import get_preset


def images(count, seed=0, side=8):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side), dtype=np.uint8)


class Means(nn.Module):
    """A backbone: means of areas."""

    def forward(self, x):
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


def tiny(given, **options):
    return recondite.fit(given, **{"detector": "pca", "latent_size": 2, "alpha": 0.2, "score": "error", **options})


class StoppedError(Exception):
    pass


@pytest.fixture
def built(monkeypatch):
    """What would be built, without building it."""

    def of(given=None, **options):
        found = {}

        def build(name, **settings):
            found.update(settings, name=name)
            raise StoppedError

        monkeypatch.setattr(plan, "build", build)
        monkeypatch.setattr(plan, "choose_detector", lambda *_: Choice("alad", "chosen"))
        with suppress(StoppedError):
            recondite.fit(images(30) if given is None else given, **options)
        return found

    return of


def test_images_choose_the_detector_unless_one_is_named_or_follows(built):
    assert built()["name"] == built(detector="auto")["name"] == "alad"
    for name in ("vae", "pca", "features"):
        assert built(detector=name)["name"] == name
    assert built(preset="mnist-fast")["name"] == built(preset="mnist-fast", detector="auto")["name"] == "autoencoder"
    own = Means()
    assert (built(encoder=own)["name"], built(backbone=own)["name"]) == ("autoencoder", "features")
    assert built(detector="features", backbone="lite1")["backbone"] == "lite1"
    assert built(detector="features", backbone=own)["backbone"] is own


def test_known_defects_are_learnt_by_features_that_look_at_places(built):
    found = built(defects=images(5))
    assert (found["name"], found["methods"]) == ("features", WITH_PLACES)
    assert built(defects=images(5), methods=("patchcore",))["methods"] == ("patchcore",)
    assert "methods" not in built(defects=images(5), detector="features")
    assert "methods" not in built(backbone=Means())
    # A preset, or a detector, that is named stays.
    assert built(defects=images(5), preset="mnist-fast")["name"] == "autoencoder"
    assert built(defects=images(5), detector="vae")["name"] == "vae"


def test_a_score_of_the_detectors_own_is_its_option(built):
    assert built(detector="features", score="padim")["score"] == "padim"
    assert "score" not in built(detector="features", score="evidence")
    recipe = get_preset("cats-dogs-screen")
    assert built(preset="cats-dogs-screen", score="ssim")["score"] == "ssim"
    assert "score" not in built(preset="cats-dogs-screen")
    assert recipe.score == "error"


def test_a_preset_has_the_side_that_may_be_named_too(built):
    recipe = get_preset("mnist-fast")
    assert recipe.shape == (1, 28, 28)
    for side in (None, 28, (28, 28)):
        assert built(preset="mnist-fast", image_size=side)["image_shape"] == recipe.shape
    for side in (32, (28, 29), (29, 28)):
        with pytest.raises(InputError, match="is for images of 28 x 28 pixels"):
            built(preset="mnist-fast", image_size=side)
    assert built(detector="pca", image_size=(12, 10))["image_shape"] == (1, 12, 10)
    assert built(preset="mnist-fast", seed=7)["seed"] == 7


def test_values_and_regions_are_told_to_the_detector():
    plain = tiny(images(60))
    assert plain.detector.preprocessing.value_range is None
    assert plain.detector.preprocessing.region is None
    region = np.zeros((8, 8), np.uint8)
    region[2:6] = 255
    masked = tiny(images(60), region=region)
    assert masked.detector.preprocessing.region.any()
    deep = images(60).astype(np.uint16) * 16
    assert tiny(deep, value_range=(0, 4095)).detector.preprocessing.value_range == (0, 4095)


def test_remarks_are_said_once_where_the_call_is_and_stay_with_the_screen(monkeypatch):
    monkeypatch.setattr(fit_module, "first_frames_only", lambda _: ["of each only the first frame counts"])
    with pytest.warns(ReconditeWarning, match="first frame") as said:
        screen = recondite.fit(images(60), detector="pca", latent_size=2, alpha=0.2, score="error")
    assert [one.filename for one in said] == [__file__]
    assert screen.facts["remarks"] == ["of each only the first frame counts"]
    assert screen.facts["sample"]["height"] == [8, 8, 8]
    vectors = np.random.default_rng(0).normal(size=(60, 9)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of_vectors = tiny(vectors)  # which have no frames
        assert of_vectors.facts["remarks"] == []
        assert of_vectors.facts["sample"] is None
        # Of several processes the first says it.
        monkeypatch.setattr(fit_module, "rank_and_size", lambda: (1, 2))
        assert tiny(images(60)).facts["remarks"] == screen.facts["remarks"]


def test_evidence_and_validation_are_set_aside_where_something_looks_at_them():
    several = images(400)
    plain = tiny(several, alpha=0.1)
    assert plain.facts["evidence"]["images"] == 0
    assert plain.facts["images"]["images"] + plain.facts["validation"]["images"] == 320
    both = tiny(several, alpha=0.1, score="auto", evidence=0.2)
    assert both.facts["evidence"]["images"] == 80
    assert not both.evidence.observer.reencoding
    looking = {"detector": "features", "backbone": Means(), "alpha": 0.1}
    assert tiny(several, **looking).facts["validation"]["images"] == 0  # without epochs none is the best
    assert tiny(several, **looking, validation=images(20, 1)).facts["validation"]["images"] == 20
    assert plain.facts["validation"]["images"] == 40


@pytest.mark.parametrize("evidence", [0.3, np.zeros((60, 1, 8, 8), np.float32)])
def test_what_is_held_out_for_a_purpose_that_there_is_not_is_refused(evidence, monkeypatch):
    monkeypatch.setattr(fit_module, "read_all", lambda *_: pytest.fail("read"))
    with pytest.raises(InputError, match=r"^evidence would change nothing: score error takes none$"):
        tiny(images(60), evidence=evidence)
    looking = {"detector": "features", "backbone": Means()}
    with pytest.raises(InputError, match=r"^validation would change nothing: features has no epochs to choose from$"):
        tiny(images(60), **looking, validation=0.3)


@pytest.mark.parametrize("given", [{}, {"validation": 0.2, "evidence": 0}, {"calibration": 0.1}])
def test_few_images_all_calibrate_left_out_in_turn(given):
    """A fifth of them are twelve, and an alpha of .05 needs nineteen."""
    screen = tiny(images(60), alpha=0.05, **given)
    assert len(screen.calibrator.scores) == 60
    assert screen.facts["calibration"]["left_out_in_parts"] == 10
    assert screen.peaks is None or len(screen.peaks) == 60


@pytest.mark.parametrize(
    "given",
    [
        {"validation": images(40, 1)},
        {"evidence": images(60, 1), "score": "auto"},
        {"by_folder": True},
        {"pictures": ["000001"]},
        {"classifier": Means()},
        {"confidence": 0.9},
    ],
)
def test_nothing_is_left_out_where_something_else_is_asked_for(given):
    with pytest.raises(InputError, match=r"calibration images|pictures to be"):
        tiny(images(60), alpha=0.05, **given)


def test_enough_images_set_a_share_aside():
    for given in ({"alpha": 0.1}, {"alpha": 0.05, "calibration": images(40, 1)}):
        screen = tiny(images(60), **given)
        assert "left_out_in_parts" not in screen.facts["calibration"]
        assert len(screen.calibrator.scores) == (12 if "calibration" not in given else 40)


def test_of_too_many_images_a_share_calibrates(monkeypatch):
    monkeypatch.setattr(fit_module, "MOST_IMAGES", 60)
    assert "left_out_in_parts" in tiny(images(60), alpha=0.02).facts["calibration"]
    monkeypatch.setattr(fit_module, "MOST_IMAGES", 59)
    with pytest.raises(InputError, match="needs at least 49"):
        tiny(images(60), alpha=0.02)


def test_bad_images_are_an_error_where_that_is_asked_for():
    broken = [*images(60), b"nonsense"]
    with pytest.raises(InputError, match=r"1 unreadable images in all"):
        tiny(broken, on_bad="raise")
    assert tiny(broken).facts["unreadable"]["count"] == 1
    assert tiny(broken[:60], on_bad="raise").facts["unreadable"] == {"count": 0, "first": []}
    with pytest.raises(InputError, match="on_bad to be flag, skip or raise"):
        tiny(broken, on_bad="x")
    many = tiny([*images(60), *[b"nonsense"] * 101])
    assert many.facts["unreadable"]["count"] == 101
    assert len(many.facts["unreadable"]["first"]) == 100


def test_turned_copies_are_advised_for_few_images_that_seem_turned(monkeypatch):
    monkeypatch.setattr(fit_module, "seem_turned", lambda *_: True)
    looking = {"detector": "features", "backbone": Means(), "alpha": 0.02}
    assert tiny(images(60), **looking).facts["remarks"] == [ADVICE]
    assert tiny(images(60), **looking, rotations=1).facts["remarks"] == []  # it was said already
    assert tiny(images(300), **looking | {"alpha": 0.1}, calibration=0.2).facts["remarks"] == []
    monkeypatch.setattr(fit_module, "seem_turned", lambda *_: False)
    assert tiny(images(60), **looking).facts["remarks"] == []


def test_reencoding_that_nothing_looks_at_is_refused():
    with pytest.raises(InputError, match="reencoding would change nothing: score error takes no evidence"):
        tiny(images(60), detector="pca", score="error", reencoding=True)
    with pytest.raises(InputError, match="reencoding would change nothing: features rebuilds no images"):
        tiny(images(60), detector="features", backbone=Means(), score="auto", reencoding=True)


def test_pictures_are_of_what_rebuilds():
    with pytest.raises(InputError, match="pictures would change nothing: features rebuilds no images"):
        tiny(images(60), detector="features", backbone=Means(), pictures=["000001"])
    with pytest.raises(InputError, match="masks are of known defects"):
        tiny(images(60), masks="masks")


def test_a_score_that_nothing_has_is_refused_with_those_there_are():
    with pytest.raises(InputError) as refused:
        tiny(images(60), detector="features", backbone=Means(), score="nonsense")
    words = str(refused.value).partition(" among ")[2].partition(";")[0].split(", ")
    assert {"auto", "evidence", "error", "mahalanobis", "knn"} <= {*words}
    assert len(words) == len({*words})


@pytest.fixture
def with_defects(monkeypatch):
    """A fit with known defects whose head is a stand-in: `lesson` is what it has learnt, or an error."""
    asked = []
    defects = SimpleNamespace(images=SimpleNamespace(hashes=np.arange(3)), check_apart=lambda *good: asked.append(good))

    def fitted(lesson):
        def taught(model, *_):
            if isinstance(lesson, Exception):
                raise lesson
            return SimpleNamespace(detector=model, facts={"learnt": lesson}, finished=None)

        monkeypatch.setattr(fit_module, "check_teachable", lambda _: None)
        monkeypatch.setattr(fit_module.KnownDefects, "opened", lambda *_: defects)
        monkeypatch.setattr(fit_module, "taught", taught)
        screen = tiny(images(60), detector="features", backbone=Means(), defects=images(3, 5), alpha=0.1)
        assert len(asked.pop()) == 1
        return screen

    return fitted


def test_known_defects_are_known_where_they_were_learnt(with_defects):
    screen = with_defects("something")
    assert screen.facts["known_defects"] == {"learnt": "something"}
    assert screen.known.defects.tolist() == [0, 1, 2]
    with pytest.warns(ReconditeWarning, match="it tells nothing") as said:
        plain = with_defects(UnhelpfulError("it tells nothing"))
    assert [one.filename for one in said] == [__file__]
    assert "known_defects" not in plain.facts
    assert len(plain.known.defects) == 0
    assert plain.facts["remarks"][-1].endswith("it tells nothing")


def test_suspects_are_looked_for_where_they_were_asked_for(monkeypatch):
    asked = []

    def good(model, rows, *_):
        asked.append(model.name)
        return np.arange(len(rows)) > 1

    monkeypatch.setattr(fit_module, "good_images", good)
    plain, without = tiny(images(60)), tiny(images(60), contamination=0.1)
    assert asked == ["pca"]
    assert without.facts["images"]["images"] == plain.facts["images"]["images"] - 2


def test_what_trains_by_steps_trims_suspects_itself(monkeypatch):
    told = []

    def trains(_, __, ___, training, folder, resume, progress):
        told.append((training.trim, folder, resume, progress))
        raise StoppedError

    monkeypatch.setattr(detector_class("autoencoder"), "fit_rows", trains)
    for given in ({}, {"contamination": 0.1}, {"contamination": 0.1, "trim": 0.2}, {"trim": 0.2}):
        with pytest.raises(StoppedError):
            tiny(images(60), detector="autoencoder", **given)
    assert [trim or None for trim, *_ in told] == [None, 0.1, 0.2, 0.2]
    assert {tuple(others) for _, *others in told} == {(None, False, False)}

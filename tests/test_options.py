import math
from types import SimpleNamespace

import pytest

from recondite.cli.flags import options_of
from recondite.detector_options import OPTIONS_BY_NAME, FeaturesOptions, VaeOptions
from recondite.detectors import DETECTORS, build, detector_class
from recondite.errors import InputError
from recondite.options import TrainingOptions, describe_options, make_options, options_to_json, shown_options


def test_options_survive_json():
    options = TrainingOptions(epochs=3, ema=0.9, schedule="cosine")
    assert make_options(TrainingOptions, options_to_json(options), "training") == options


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"zzz": 3}, "it has: adam_beta1, augment, batch_size"),
        ({"epochs": 0}, "option epochs: .* greater than or equal to 1; got 0"),
        ({"epochs": 2.5}, "option epochs"),
        ({"learning_rate": math.nan}, "option learning_rate"),
        ({"schedule": "zigzag"}, "option schedule: .*'one-cycle'"),
        ({"trim": 1.0}, "option trim"),
        ({"device": "cuda:evil; rm"}, "option device"),
    ],
)
def test_wrong_options_are_explained(values, words):
    with pytest.raises(InputError, match=words):
        make_options(TrainingOptions, values, "training")


def test_options_are_shown_as_they_are_given():
    made = make_options(FeaturesOptions, {"methods": "padim,subspace"}, "features")
    for options in (made, SimpleNamespace(**options_to_json(made))):
        shown = shown_options(options)
        assert (shown["methods"], shown["layers"], shown["latent_size"]) == ("padim,subspace", "default", "default")
        assert shown["rotations"] == "1"
        assert "taught" not in shown


def test_options_that_are_shown_without_torch_are_those_of_the_detectors():
    assert {name: kind.Options for name, kind in DETECTORS.items()} == OPTIONS_BY_NAME
    for name, kind in DETECTORS.items():
        assert options_of(name) == (kind.Options, kind.training_defaults)


def test_options_of_a_detector_may_stand_in_its_file(monkeypatch):
    monkeypatch.delitem(OPTIONS_BY_NAME, "alad")
    assert options_of("alad") == (DETECTORS["alad"].Options, DETECTORS["alad"].training_defaults)


def test_every_option_is_described_and_frozen():
    for kind in (TrainingOptions, VaeOptions):
        for name, (_, text, _) in describe_options(kind).items():
            assert text, name
    with pytest.raises(AttributeError):
        TrainingOptions().epochs = 5


POOLING = {"smooth": 0.0, "worst_square": 0, "top_percent": 100.0}
NETWORK = {"scoring_precision": "fp32", "latent_size": 32, "width": 32, "network": "auto", "score": "squared_error"}
DEFAULTS = {
    "autoencoder": {**POOLING, **NETWORK},
    "vae": {
        **{**POOLING, **NETWORK, "beta": 1.0, "sigma": "shared", "initial_sigma": 0.1, "draws": 2},
        "initial_weights": "default",
    },
    "pca": {**POOLING, "latent_size": 32, "score": "squared_error"},
    "features": {
        **{"methods": (), "score": "combined", "backbone": "lite0", "architecture": None, "taught": False, "side": 0},
        **{"tile": 0, "layers": (), "place_layers": (), "units": "auto", "latent_size": 64, "shrinkage": 0.1},
        **{"place_shrinkage": 0.01, "neighbours": 5, "bank_size": 2000, "rotations": 1, "worst_places": 0.1},
        "smooth": 0.0,
    },
    "alad": {"scoring_precision": "fp32", "latent_size": 100, "width": 128, "score": "fm", "selection": "l2"},
}
TRAINING = {
    **{"epochs": 20, "batch_size": 128, "learning_rate": 0.002, "adam_beta1": 0.9, "weight_decay": 0.0},
    **{"schedule": "one-cycle", "clip_norm": None, "ema": None, "patience": None, "keep_best": True, "trim": 0.0},
    **{"augment": "", "picture_epochs": "auto", "precision": "fp32", "compile": False, "device": "auto", "seed": 0},
}


def test_defaults_are_pinned():
    """Scores of screens that were fitted with a default rest on it: change one here, in CHANGELOG and with reason."""
    for name, expected in DEFAULTS.items():
        given = {**expected, "latent_size": None} if name in ("pca", "features") else expected
        assert vars(detector_class(name).Options()) == given, name
        assert vars(build(name, image_shape=(1, 16, 16)).options) == expected, name
    assert vars(TrainingOptions()) == TRAINING
    assert detector_class("features").training_defaults == {"learning_rate": 5e-3}
    for name in ("pca", "vae", "autoencoder"):
        assert detector_class(name).training_defaults == {}


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_learns_by_steps_says_so(name):
    kind = detector_class(name)
    assert kind.trains_by_steps == (name not in ("pca", "features"))
    assert kind.needs_validation == (name != "features")

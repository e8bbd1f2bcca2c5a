import pytest

from recondite.detectors import build, detector_class
from recondite.errors import InputError
from recondite.options import TrainingOptions, option_names, options_to_json
from recondite.training.presets import PRESETS, get_preset

TRAINING = {
    **{"adam_beta1": 0.9, "weight_decay": 0.0, "clip_norm": None, "ema": None, "patience": None, "trim": 0.0},
    **{"augment": "", "precision": "fp32", "compile": False, "device": "auto", "seed": 0, "picture_epochs": "auto"},
}
ERRORS = {"score": "squared_error", "top_percent": 100.0, "smooth": 0.0, "worst_square": 0, "scoring_precision": "fp32"}
VAE = {
    **{**ERRORS, "network": "cifar10-vae", "width": 32, "latent_size": 1024, "sigma": "fixed", "initial_sigma": 0.05},
    **{"beta": 1 / 1024, "draws": 2, "initial_weights": "default"},
}
MICROSCOPE = {**ERRORS, "network": "mnist-microscope", "width": 32, "latent_size": 20}
ALAD = {"latent_size": 100, "width": 128, "score": "fm", "selection": "l2", "scoring_precision": "fp32"}
ALAD_TRAINING = {
    **{**TRAINING, "epochs": 100, "learning_rate": 2e-4, "adam_beta1": 0.5, "ema": 0.999},
    **{"schedule": "constant", "keep_best": True},
}
SETTINGS = {
    "cats-dogs-screen": (
        ("autoencoder", (3, 32, 32), "error"),
        {**ERRORS, "network": "cats-dogs-screen", "width": 32, "latent_size": 1000},
        {
            **{**TRAINING, "epochs": 30, "batch_size": 64, "learning_rate": 1e-3, "schedule": "constant"},
            **{"keep_best": False, "picture_epochs": "every"},
        },
    ),
    "cifar10-vae": (
        ("vae", (3, 32, 32), "error"),
        VAE,
        {
            **{**TRAINING, "epochs": 50, "batch_size": 64, "learning_rate": 1e-3, "schedule": "constant"},
            "keep_best": False,
        },
    ),
    "cifar10-fast": (
        ("vae", (3, 32, 32), "error"),
        {**VAE, "initial_weights": "he"},
        {
            **{**TRAINING, "epochs": 20, "batch_size": 32, "learning_rate": 1e-3, "schedule": "one-cycle"},
            "keep_best": True,
        },
    ),
    "alad-32": (("alad", (3, 32, 32), None), ALAD, {**ALAD_TRAINING, "batch_size": 32}),
    "alad-64": (
        ("alad", (3, 64, 64), None),
        ALAD,
        {**ALAD_TRAINING, "batch_size": 64, "augment": "rotate,zoom,hue"},
    ),
    "mnist-microscope": (
        ("autoencoder", (1, 28, 28), "error"),
        MICROSCOPE,
        {
            **{**TRAINING, "epochs": 20, "batch_size": 64, "learning_rate": 1e-3, "schedule": "constant"},
            **{"weight_decay": 1e-5, "keep_best": False, "picture_epochs": "1,5,9,13,17"},
        },
    ),
    "mnist-fast": (
        ("autoencoder", (1, 28, 28), None),
        MICROSCOPE,
        {
            **{**TRAINING, "epochs": 9, "batch_size": 128, "learning_rate": 1e-2, "schedule": "one-cycle"},
            "keep_best": True,
        },
    ),
}
"""Every preset: its detector, shape and score; all options of the detector and of training that then hold."""


def sorted_out(preset):
    """Return the options that hold for the detector and for training, those left to their defaults included."""
    kind, training = detector_class(preset.detector), option_names(TrainingOptions)
    own = {name: value for name, value in preset.options.items() if name not in training}
    trained = {name: value for name, value in preset.options.items() if name in training}
    options = TrainingOptions(**{**kind.training_defaults, **trained})
    return own, options_to_json(kind.Options(**own)), options_to_json(options)


def test_all_presets_are_pinned():
    assert set(SETTINGS) == set(PRESETS)


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_is_its_recipe_to_the_number(name):
    preset, (facts, own, training) = PRESETS[name], SETTINGS[name]
    assert (preset.detector, preset.shape, preset.score) == facts
    assert sorted_out(preset)[1:] == (own, training)


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_can_be_built(name):
    preset = PRESETS[name]
    own = sorted_out(preset)[0]
    assert build(preset.detector, image_shape=preset.shape, **own).name == preset.detector
    assert set(preset.options) <= option_names(TrainingOptions) | option_names(detector_class(preset.detector).Options)


@pytest.mark.parametrize("name", ["cifar10-fast", "mnist-fast"])
def test_a_recipe_of_ours_says_so(name):
    assert "a recipe of ours" in PRESETS[name].summary
    assert sum("a recipe of ours" in preset.summary for preset in PRESETS.values()) == 2


def test_an_unknown_preset_is_refused():
    with pytest.raises(InputError, match="expected a preset among"):
        get_preset("nothing")

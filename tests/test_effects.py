"""Every option changes what comes out, or is refused: none is taken and passed over."""

import numpy as np
import pytest
from torch import nn

import recondite
from recondite.detectors import DETECTORS, build
from recondite.detectors.effects import check_effect, without_effect
from recondite.errors import InputError
from recondite.options import FOUND_OUT, TrainingOptions, option_names
from recondite.screen.update import updated_screen

LOCAL = ("padim", "subspace", "patchcore", "dfr")
OF_STEPS = option_names(TrainingOptions) - {"seed", "device", "augment"}
SMALL = {
    "alad": {"latent_size": 4, "width": 8, "epochs": 2, "batch_size": 8, "schedule": "constant", "ema": None},
    "autoencoder": {"latent_size": 4, "width": 4, "epochs": 2, "batch_size": 8},
    "vae": {"latent_size": 4, "width": 4, "epochs": 2, "batch_size": 8},
    "pca": {"latent_size": 4},
}
OTHERS = {
    **{"latent_size": 5, "width": 16, "beta": 2.0, "sigma": "fixed", "initial_sigma": 0.5, "draws": 3},
    **{"initial_weights": "he", "smooth": 1.0, "worst_square": 2, "top_percent": 50.0, "scoring_precision": "bf16"},
    **{"epochs": 3, "batch_size": 16, "learning_rate": 1e-2, "adam_beta1": 0.2, "weight_decay": 0.5},
    **{"schedule": "cosine", "clip_norm": 1e-6, "ema": 0.5, "trim": 0.4, "augment": "rotate", "seed": 3},
}
"""Option -> another value than the default and the above. Not here: what stops or pictures a training."""
LEFT_OUT = {
    "network",
    "score",
    "selection",
    "patience",
    "keep_best",
    "picture_epochs",
    "precision",
    "compile",
    "device",
}
CASES = [
    (name, option)
    for name in SMALL
    for option in sorted(option_names(DETECTORS[name].Options) | option_names(TrainingOptions))
    if option not in (*LEFT_OUT, *FOUND_OUT)
]


def scores(name, images, **options):
    training = {key: value for key, value in options.items() if key in option_names(TrainingOptions)}
    own = {key: value for key, value in options.items() if key not in training}
    detector = build(name, image_shape=(1, *images.shape[1:]), seed=options.get("seed", 0), **own)
    detector.fit(images[:24], validation=images[24:32], **training)
    return detector.score(images[24:40]).instance_score


@pytest.fixture(scope="module")
def defaults(digits):
    """A function: the name of a detector to the images that it is tested on, and the scores with its small settings."""
    made = {}

    def get(name):
        images = digits[:40] if name != "alad" else np.kron(digits[:40], np.ones((2, 2), np.uint8))
        if name not in made:
            made[name] = images, scores(name, images, **SMALL[name])
        return made[name]

    return get


@pytest.mark.parametrize(
    ("name", "option"),
    # What all that learn in steps do alike, the two that learn faster tell too.
    [
        pytest.param(*case, marks=pytest.mark.slow) if case[0] == "alad" and case[1] in OF_STEPS else case
        for case in CASES
    ],
)
@pytest.mark.filterwarnings("ignore:.*bfloat16")
def test_an_option_changes_the_scores_or_is_refused(name, option, defaults):
    images, before = defaults(name)
    settings = {**SMALL[name], option: OTHERS[option]}
    if name == "pca" and option in OF_STEPS | {"augment"}:
        with pytest.raises(InputError, match=f"{option} would change nothing|no augmentation"):
            scores(name, images, **settings)
    else:
        assert (name, option) == ("pca", "seed") or not np.array_equal(before, scores(name, images, **settings))


FEATURES = {"layers": ("block3",), "side": 32, "latent_size": 4}


@pytest.mark.parametrize("methods", ["mahalanobis", "knn", "padim", "patchcore", "subspace", "dfr", "knn,padim"])
def test_features_refuse_what_none_of_their_methods_looks_at(methods):
    detector = build("features", image_shape=(1, 16, 16), methods=methods, place_layers=("block3",), **FEATURES)
    named = set(methods.split(","))
    expected = set() if "dfr" in named else set(OF_STEPS)
    expected |= {"picture_epochs"}
    expected |= set() if named & {"knn", "patchcore"} else {"neighbours", "bank_size"}
    expected |= set() if named & set(LOCAL) else {"place_layers", "worst_places", "smooth"}
    expected |= set() if "padim" in named else {"place_shrinkage"}
    assert set(without_effect(detector)) == expected
    for name in expected:
        with pytest.raises(InputError, match=f"{name} would change nothing"):
            check_effect(detector, ["seed", name])
    check_effect(detector, ["methods", "seed", "device", "side", "tile", "layers", "latent_size", "shrinkage"])


@pytest.mark.parametrize("option", sorted(OF_STEPS))
def test_training_is_refused_where_nothing_is_trained(option, digits):
    for detector, given in (("pca", {}), ("features", {"methods": "mahalanobis", **FEATURES})):
        with pytest.raises(InputError, match=rf"{option} would change nothing: .*({detector}|dfr)"):
            recondite.fit(digits[:40], detector=detector, **given, **{option: getattr(TrainingOptions(), option)})


def test_a_network_that_is_there_takes_no_other_size(digits):
    network = build("autoencoder", image_shape=(1, 28, 28), network="mnist-microscope", latent_size=20)
    assert set(without_effect(network)) == {"width"}
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8)))
    with pytest.raises(InputError, match="width would change nothing: the network was given"):
        recondite.fit(digits[:60], encoder=own[0], decoder=own[1], latent_size=4, width=64, epochs=1)


def test_updates_and_pictures_are_checked_too(digits, screens):
    with pytest.raises(InputError, match="epochs would change nothing: pca is fitted in one pass"):
        updated_screen(screens("pca"), digits[1400:1500], epochs=3)
    with pytest.raises(InputError, match="pictures would change nothing"):
        recondite.fit(digits[:60], detector="features", pictures=("3",), methods="mahalanobis", **FEATURES)

import math

import pytest

from recondite.detectors.vae import VaeOptions
from recondite.errors import InputError
from recondite.options import TrainingOptions, describe_options, make_options, options_to_json


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


def test_every_option_is_described_and_frozen():
    for kind in (TrainingOptions, VaeOptions):
        for name, (_, text, _) in describe_options(kind).items():
            assert text, name
    with pytest.raises(AttributeError):
        TrainingOptions().epochs = 5

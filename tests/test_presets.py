import pytest

from recondite.detectors import build, detector_class
from recondite.errors import InputError
from recondite.options import TrainingOptions, option_names
from recondite.training.presets import PRESETS, get_preset


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_can_be_built(name):
    preset = PRESETS[name]
    training = option_names(TrainingOptions)
    own = {key: value for key, value in preset.options.items() if key not in training}
    assert build(preset.detector, image_shape=preset.shape, **own).name == preset.detector
    assert set(preset.options) <= training | option_names(detector_class(preset.detector).Options)


def test_an_unknown_preset_is_refused():
    with pytest.raises(InputError, match="expected a preset among"):
        get_preset("nothing")

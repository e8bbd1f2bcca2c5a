import numpy as np
import pytest
from test_training import Killed, kill_after, new

import recondite
from recondite.data.datasets import ImageSet
from recondite.data.spool import Rows
from recondite.errors import InputError
from recondite.options import TrainingOptions
from recondite.training.loop import train
from recondite.training.snapshots import EpochPictures, picture_epochs


@pytest.fixture
def rows(digits):
    pixels = digits[:, None] / np.float32(255)
    return Rows(pixels, np.arange(200)), Rows(pixels, np.arange(200, 260))


def options(**more):
    return TrainingOptions(epochs=6, batch_size=32, learning_rate=5e-3, seed=3, keep_best=False, **more)


def test_the_same_images_are_rebuilt_better_and_better(rows):
    detector = new()
    pictures = train(detector, *rows, options(picture_epochs="0,2,6")).pictures
    np.testing.assert_array_equal(pictures.images, (rows[1].take(slice(0, 10)) * 255).round())
    assert pictures.epochs == [0, 2, 6]
    errors = [np.square(pictures.images.astype(float) - rebuilt).mean() for rebuilt in pictures.rebuilt]
    assert errors[0] > errors[1] > errors[2]
    detector.fitted.fill_(True)
    last = detector.reconstruct(rows[1].take(slice(0, 10)))
    np.testing.assert_allclose(pictures.rebuilt[-1], np.clip(last, 0, 1) * 255, atol=0.51)


def test_pictures_change_nothing_in_the_weights_and_survive_an_interruption(rows, tmp_path, monkeypatch):
    whole, without = new("vae"), new("vae")
    history = train(whole, *rows, options(picture_epochs="every"), tmp_path / "whole")
    train(without, *rows, options(picture_epochs="none"), tmp_path / "none")
    for name, value in whole.state_dict().items():
        assert (value == without.state_dict()[name]).all(), name
    with monkeypatch.context() as patch:
        kill_after(patch, 3)
        with pytest.raises(Killed):
            train(new("vae"), *rows, options(picture_epochs="every"), tmp_path)
    again = train(new("vae", seed=9), *rows, options(picture_epochs="every"), tmp_path, resume=True)
    assert again.pictures.epochs == list(range(7))
    np.testing.assert_array_equal(np.array(again.pictures.rebuilt), np.array(history.pictures.rebuilt))


def test_a_screen_keeps_its_pictures(digits, tmp_path):
    screen = recondite.fit(digits[:200], latent_size=4, width=4, epochs=3, alpha=0.1, seed=0)
    screen.save(tmp_path / "screen")
    kept = recondite.load(tmp_path / "screen").detector.history.pictures
    made = screen.detector.history.pictures
    assert kept.epochs == made.epochs == [0, 1, 2, 3]
    np.testing.assert_array_equal(kept.images, made.images)
    np.testing.assert_array_equal(np.array(kept.rebuilt), np.array(made.rebuilt))
    recondite.load(tmp_path / "screen").save(tmp_path / "again")
    assert (tmp_path / "again" / "pictures.safetensors").is_file()


def test_chosen_images_are_pictured(digits):
    named = {f"digit {number}": digit for number, digit in enumerate(digits[200:260])}
    source = ImageSet(list(named.values()), list(named), None)
    wanted = ["digit 41", "digit 7"]
    fit = {"detector": "autoencoder", "latent_size": 4, "width": 4, "epochs": 1, "alpha": 0.1, "score": "error"}
    shown = recondite.fit(digits[:200], validation=source, pictures=wanted, **fit).detector.history.pictures.images
    np.testing.assert_array_equal(shown[:2, 0], np.stack([named[name] for name in wanted]))
    others = [digit for name, digit in named.items() if name not in wanted]
    np.testing.assert_array_equal(shown[2:, 0], np.stack(others[:8]))
    for wrong in (["digit 99"], ["digit 7", "digit 7"], list(named)[:11], "digit 7"):
        with pytest.raises(InputError, match="at most 10 different ids of validation images"):
            recondite.fit(digits[:200], validation=source, pictures=wrong, **fit)
    with pytest.raises(InputError, match="ids of validation images"):
        recondite.fit(digits[:200], validation=0, pictures=["digit 7"], **fit)


def test_without_validation_images_or_images_at_all_there_are_no_pictures(rows, digits):
    assert train(new(), rows[0], None, options()).pictures is None
    vectors = digits.reshape(-1, 64)[:200]
    screen = recondite.fit(vectors, detector="autoencoder", epochs=2, alpha=0.1, latent_size=4)
    assert screen.detector.history.pictures is None


def test_large_images_are_few():
    from recondite.training.snapshots import first_pictures

    pixels = np.zeros((12, 3, 512, 512), np.float32)
    assert len(first_pictures(Rows(pixels, np.arange(12))).images) == 1
    assert len(first_pictures(Rows(pixels[:, :, :64, :64], np.arange(12))).images) == 10


def test_which_epochs():
    assert sorted(picture_epochs("auto", 3)) == [0, 1, 2, 3]
    assert sorted(picture_epochs("every", 3)) == [0, 1, 2, 3]
    assert picture_epochs("none", 3) == frozenset()
    assert options(picture_epochs=[0, 4]).picture_epochs == "0,4"
    with pytest.raises(InputError, match="auto, every, none"):
        recondite.fit(np.zeros((99, 8, 8), np.uint8), picture_epochs="often")


def test_inconsistent_pictures_are_refused():
    good = EpochPictures(np.zeros((2, 1, 4, 4), np.uint8))
    good.add(1, np.ones((2, 1, 4, 4)))
    tensors = good.tensors()
    assert EpochPictures.from_tensors(tensors).rebuilt[0].max() == 255
    with pytest.raises(ValueError, match="inconsistent"):
        EpochPictures.from_tensors({**tensors, "epochs": np.array([1, 2])})

import numpy as np
import pytest
import torch

from recondite import InputError, build
from recondite.data.spool import Rows
from recondite.options import TrainingOptions, make_options
from recondite.training import augmentation
from recondite.training.augmentation import augmented, check_augmentation
from recondite.training.loop import train


def smooth(channels=3, size=(32, 32)):
    """Eight smooth images in [0, 1]."""
    coarse = torch.rand(8, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)


def drawn(monkeypatch, turn=0.5, zoom=0.0, side=0.9, hue=0.5):
    """Let the four draws of each image be these: in the middle, nothing happens."""
    monkeypatch.setattr(augmentation, "uniform", lambda shape, _: torch.tensor([turn, zoom, side, hue]).expand(shape))


def test_without_names_images_are_the_very_same():
    x = smooth()
    assert augmented(x, ()) is x


@pytest.mark.parametrize("names", [("rotate",), ("zoom",), ("flip",), ("hue",), ("rotate", "zoom", "hue", "flip")])
def test_draws_in_the_middle_change_nothing(monkeypatch, names):
    drawn(monkeypatch)
    x = smooth(size=(24, 32))
    torch.testing.assert_close(augmented(x, names), x, atol=1e-4, rtol=0)


def test_a_flip_is_the_mirror_image(monkeypatch):
    drawn(monkeypatch, side=0.1)
    x = smooth(channels=2, size=(16, 24))
    torch.testing.assert_close(augmented(x, ("flip",)), x.flip(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(32, 32), (24, 48)])
def test_a_turn_moves_each_pixel_by_its_angle(monkeypatch, size):
    drawn(monkeypatch, turn=1.0)
    height, width = size
    x = torch.zeros(1, 1, *size)
    row, column = height // 2 - 5, width // 2 + 6
    x[0, 0, row, column] = 1
    turned = augmented(x, ("rotate",))[0, 0]
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    found = np.array([(turned * rows).sum() / turned.sum(), (turned * columns).sum() / turned.sum()])
    centre = np.array([height / 2, width / 2])
    before = np.array([row, column]) + 0.5 - centre
    assert np.linalg.norm(found - centre) == pytest.approx(np.linalg.norm(before), abs=0.3)
    angle = np.degrees(np.arctan2(*before) - np.arctan2(*(found - centre)))
    assert abs(angle) == pytest.approx(augmentation.LARGEST_TURN, abs=2)


def test_zooming_enlarges_around_the_centre(monkeypatch):
    drawn(monkeypatch, zoom=1.0)
    x = torch.zeros(1, 1, 40, 40)
    x[..., 15:25, 15:25] = 1
    enlarged = augmented(x, ("zoom",))
    assert enlarged.sum().item() == pytest.approx(100 * augmentation.LARGEST_ZOOM**2, rel=0.05)
    torch.testing.assert_close(enlarged, enlarged.flip(2).flip(3), atol=1e-4, rtol=0)


def test_another_hue_keeps_grey_grey_and_the_brightness(monkeypatch):
    drawn(monkeypatch, hue=1.0)
    grey = smooth(channels=1).expand(-1, 3, -1, -1)
    torch.testing.assert_close(augmented(grey, ("hue",)), grey, atol=1e-4, rtol=0)
    x = 0.3 + 0.4 * smooth()
    changed = augmented(x, ("hue",))
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    torch.testing.assert_close((changed * luma).sum(1), (x * luma).sum(1), atol=1e-4, rtol=0)
    assert (changed - x).abs().mean() > 0.01


def test_images_stay_in_range_and_are_changed_each_in_its_own_way():
    torch.manual_seed(0)
    one = smooth()[:1].expand(6, -1, -1, -1)
    changed = augmented(one, ("rotate", "zoom", "hue", "flip"))
    assert 0 <= changed.min() <= changed.max() <= 1
    for index in range(1, 6):
        assert not torch.equal(changed[0], changed[index])


def test_leaving_one_out_does_not_change_the_others():
    x = smooth()
    torch.manual_seed(3)
    both = augmented(x, ("rotate", "hue"))
    torch.manual_seed(3)
    turned = augmented(x, ("rotate",))
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    assert ((both - turned) * luma).sum(1).abs().mean() < 0.01


@pytest.mark.parametrize(
    ("names", "shape", "words"),
    [("hue", (1, 8, 8), "three channels; got 1"), ("flip", (5,), "of images; got vectors")],
)
def test_images_that_cannot_be_changed_so_are_refused(names, shape, words):
    with pytest.raises(InputError, match=words):
        check_augmentation(names, shape)
    data = np.random.default_rng(0).random((40, *shape), dtype=np.float32)
    with pytest.raises(InputError, match=words):
        build("autoencoder", image_shape=shape, latent_size=2, width=2).fit(data, epochs=1, augment=names)


@pytest.mark.parametrize("value", ["rotate,zoom", ["rotate", "zoom"], ("rotate", " zoom")])
def test_names_come_as_text_or_as_a_list(value):
    assert make_options(TrainingOptions, {"augment": value}, "training").augment == "rotate,zoom"


@pytest.mark.parametrize("value", ["spin", "flip,flip", 3, ["flip", "none"]])
def test_other_names_are_refused(value):
    with pytest.raises(InputError, match=r"option augment: .*rotate, zoom, hue, flip"):
        make_options(TrainingOptions, {"augment": value}, "training")


def test_only_training_images_are_changed_and_the_seed_decides_how(digits):
    pixels = digits[:80, None] / np.float32(255)
    rows, held_out = Rows(pixels, np.arange(64)), Rows(pixels, np.arange(64, 80))

    def run(seed, augment):
        seen = {"learnt": [], "validated": []}
        detector = build("autoencoder", image_shape=(1, 8, 8), latent_size=2, width=2)
        losses, errors = detector.losses, detector.validation_errors
        detector.losses = lambda x: (seen["learnt"].append(x.numpy().copy()), losses(x))[1]
        detector.validation_errors = lambda x: (seen["validated"].append(x.numpy().copy()), errors(x))[1]
        train(detector, rows, held_out, TrainingOptions(epochs=2, batch_size=32, seed=seed, augment=augment))
        return {name: np.concatenate(parts) for name, parts in seen.items()}

    plain, first, again, other = run(1, ""), run(1, "rotate,flip"), run(1, "rotate,flip"), run(2, "rotate,flip")
    np.testing.assert_array_equal(first["learnt"], again["learnt"])
    assert not np.array_equal(first["learnt"], other["learnt"])
    assert not np.array_equal(first["learnt"], plain["learnt"])
    assert not np.array_equal(first["learnt"][:64].sum((1, 2, 3)), first["learnt"][64:].sum((1, 2, 3)))
    np.testing.assert_array_equal(first["validated"], np.concatenate([pixels[64:], pixels[64:]]))


def test_pca_says_that_it_has_no_epochs(digits):
    with pytest.raises(InputError, match="no epochs: it takes no augmentation"):
        build("pca", image_shape=(1, 8, 8), latent_size=2).fit(digits[:50], augment="flip")

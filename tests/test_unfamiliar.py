"""A screen far from its images says so."""

import os

import numpy as np
import pytest
from PIL import Image

import recondite
from recondite import ReconditeWarning
from recondite.cli import main
from recondite.data.datasets import open_images
from recondite.data.images import Preprocessing
from recondite.screen.unfamiliar import too_many, unlike

FIT = {"detector": "pca", "latent_size": 4, "alpha": 0.1, "score": "error"}


@pytest.fixture
def bottles(tmp_path):
    """Large photographs in colour."""
    folder = tmp_path / "bottles"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(24):
        coarse = Image.fromarray(generator.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((300, 200), Image.Resampling.BICUBIC).save(folder / f"{index:02}.png")
    return folder


@pytest.fixture
def tiles(tmp_path, digits):
    folder = tmp_path / "tiles"
    folder.mkdir()
    for index, image in enumerate(digits[1500:1530]):
        Image.fromarray(image).save(folder / f"{index:02}.png")
    return folder


def remarks(screen, images):
    return " / ".join(unlike(screen.facts.get("sample"), screen.detector.preprocessing, open_images(images)))


def test_size_colour_and_everything_are_said_on_the_command_line_and_in_the_report(tmp_path, bottles, tiles, capsys):
    command = ["predict", "digits", str(bottles), "-o", str(tmp_path / "v.csv"), "--report", str(tmp_path / "r.html")]
    assert main(command) == 0
    said, page = capsys.readouterr().err, (tmp_path / "r.html").read_text()
    for words in ("200 x 300 pixels are far from the size", "are in colour", "24 of 24 images are outliers"):
        assert words in said
        assert words in page
    command[2] = str(tiles)
    assert main(command) == 0
    assert "warning" not in capsys.readouterr().err
    assert "Warning" not in (tmp_path / "r.html").read_text()


def test_the_library_warns_and_judges_all_the_same(bottles, digits):
    screen = recondite.load("digits")
    with pytest.warns(ReconditeWarning) as seen:
        verdicts = screen.predict(bottles)
    assert len(verdicts) == 24
    assert ["far from the size" in str(one.message) for one in seen] == [True, False]
    assert seen[0].filename == __file__
    screen.predict(digits[1500:1510])  # warnings are errors here


def test_what_was_learnt_from_decides_and_not_what_it_was_brought_to(bottles, digits):
    screen = recondite.fit(bottles, image_size=16, **{**FIT, "alpha": 0.2})
    assert screen.facts["sample"] == {"images": 24, "in_colour": 24, "height": [200] * 3, "width": [300] * 3}
    assert remarks(screen, bottles) == ""
    said = remarks(screen, digits[:30])
    assert "8 x 8 pixels are far from the size that the screen learnt from (200 x 300)" in said
    assert "the images are grey, and the screen learnt from images in colour" in said


def test_sizes_within_four_times_those_learnt_from_are_like_them(digits):
    mixed = [*digits[:50], *[np.kron(image, np.ones((4, 4), np.uint8)) for image in digits[50:100]]]
    screen = recondite.fit(mixed, image_size=8, **FIT)
    for side, far in ((1, True), (3, False), (100, False), (200, True)):
        assert ("far from the size" in remarks(screen, [Image.new("L", (side, side))])) == far, side


GREY, SOME, COLOUR = (
    {"images": 4, "in_colour": count, "height": [8, 9, 16], "width": [8, 12, 16]} for count in (0, 2, 4)
)
"""What screens learnt from: the smallest, the middle and the largest side."""


@pytest.mark.parametrize(
    ("learnt", "channels", "images", "said"),
    [
        # Within four times the smallest and the largest side, both included.
        (GREY, 1, ["L2x2"], ""),
        (GREY, 1, ["L64x64"], ""),
        (GREY, 1, ["L1x2"], "1 x 2 pixels are far"),
        (GREY, 1, ["L65x64"], "65 x 64 pixels are far from the size that the screen learnt from (9 x 12)"),
        (GREY, 1, ["L65x64"], "they are brought to 8 x 10"),
        # More than half of them; the first that is far is named.
        (GREY, 1, ["L8x8", "L90x80"], ""),
        (GREY, 1, ["L8x8", "L90x80", "L70x99"], "90 x 80 pixels"),
        (GREY, 1, ["L8x8", "RGB8x8"], ""),
        (GREY, 1, ["L8x8", "RGB8x8", "RGB8x8"], "2 of 3 images looked at are in colour"),
        (GREY, 1, ["P8x8", "P8x8", "P8x8", "RGB8x8"], "1 of 1 images looked at are in colour"),
        (GREY, 1, ["P8x8"], ""),
        (GREY, 1, ["two8x8"], "1 of 1 images looked at are in colour"),
        (GREY, 3, ["RGB8x8"], ""),
        (SOME, 1, ["RGB8x8"], ""),
        (None, 3, ["L8x8"], ""),
        (None, 3, ["RGB8x8"], ""),
        (COLOUR, 3, ["L8x8", "L8x8"], "the images are grey, and the screen learnt from images in colour"),
        (COLOUR, 2, ["L8x8"], "the images are grey"),
        (COLOUR, 3, ["L8x8", "RGB8x8"], ""),
        (COLOUR, 3, ["P8x8"], ""),
        (COLOUR, 1, ["L8x8"], ""),
        (SOME, 3, ["L8x8"], ""),
    ],
)
def test_what_is_said_of_size_and_colour(learnt, channels, images, said):
    made = []
    for image in images:
        mode = image.rstrip("x0123456789")
        height, width = map(int, image.removeprefix(mode).split("x"))
        made.append(np.zeros((height, width, 2), np.uint8) if mode == "two" else Image.new(mode, (width, height)))
    found = unlike(learnt, Preprocessing(shape=(channels, 8, 10)), open_images(made))
    assert len(found) == bool(said)
    assert said in "".join(found)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "GIF"])
def test_headers_are_enough_and_what_is_unreadable_says_nothing(form, bottles, monkeypatch):
    for path in bottles.iterdir():
        image = Image.open(path)
        # Choosing the best 256 colours takes half a second.
        (image.convert("P") if form == "GIF" else image).save(path.with_suffix(f".{form.lower()}"), form)
    (bottles / "0.png").write_bytes(b"no image")
    monkeypatch.setattr("recondite.data.sample.decode", None)
    assert "far from the size" in remarks(recondite.load("digits"), str(bottles / f"*.{form.lower()}"))


def test_screens_that_do_not_know_what_they_learnt_from_still_tell_colour(bottles):
    screen = recondite.load("digits")
    assert "in colour" in " ".join(unlike(None, screen.detector.preprocessing, open_images(bottles)))


def test_nearly_all_are_too_many():
    assert too_many(24, 24)
    assert too_many(95, 100)
    assert not too_many(94, 100)
    assert too_many(20, 20)
    assert not too_many(19, 19)


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_frames_that_nobody_looks_at_are_told(tmp_path, digits, kind):
    folder = tmp_path / "frames"
    folder.mkdir()
    frames = [Image.fromarray(np.kron(image, np.ones((2, 2), np.uint8))) for image in digits[:3]]
    frames[0].save(folder / f"0.{kind}", save_all=True, append_images=frames[1:])
    frames[0].save(folder / f"1.{kind}")
    said = "1 of 2 images looked at is animated: of each, only the first frame counts"
    assert said in remarks(recondite.load("digits"), folder)


def test_frames_are_told_when_they_are_learnt_from(tmp_path, digits):
    frames = [Image.fromarray(image) for image in digits[:60]]
    for index, frame in enumerate(frames):
        frame.save(tmp_path / f"{index:02}.gif", save_all=True, append_images=frames[:1] if index else [])
    with pytest.warns(ReconditeWarning, match="19 of 20 images looked at are animated"):
        screen = recondite.fit(tmp_path, **FIT)
    assert any("animated" in remark for remark in screen.facts["remarks"])


def test_a_pipe_among_the_images_is_a_row_and_stops_nothing(tiles, tmp_path):
    os.mkfifo(tiles / "a.png")
    os.mkfifo(tiles / "b.tif")
    verdicts = recondite.load("digits").predict(tiles)
    errors = dict(zip(verdicts.ids, verdicts.errors, strict=True))
    for name in ("a.png", "b.tif"):
        assert "no regular file" in errors[name]
    found = recondite.audit(tiles, tmp_path / "audit")
    assert found.counts()["unreadable"] == 2
    screen = recondite.fit(tiles, detector="pca", image_size=8, latent_size=4, alpha=0.2)
    assert screen.facts["unreadable"]["count"] == 2

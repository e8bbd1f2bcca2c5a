"""Huge images: the result of resizing them whole, from less memory, the same bits on every path."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from recondite.data import pillow, scaling
from recondite.data.images import Preprocessing, decode
from recondite.data.scaling import block_means

TARGET = (9, 12)
COLOUR = Preprocessing(shape=(3, *TARGET))
TOLERANCE = 0.005


@pytest.fixture
def smooth():
    """A picture (1157, 1531, 3) whose sides no block divides."""
    few = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(few).resize((1531, 1157), Image.Resampling.BICUBIC))


@pytest.fixture
def huge_from(monkeypatch):
    return lambda pixels: monkeypatch.setattr(scaling, "HUGE", pixels)


def encoded(array, form, **options):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, form, **options)
    return stream.getvalue()


def test_blocks_are_means_of_all_their_pixels_at_the_edges_too():
    image = np.random.default_rng(0).integers(0, 65536, (23, 17, 2), dtype=np.uint16)
    means, extremes = block_means(lambda top, bottom: image[top:bottom], 23, 17, (5, 4))
    assert means.shape == (2, 5, 5)
    np.testing.assert_allclose(means[1, 1, 2], image[5:10, 8:12, 1].mean())
    np.testing.assert_allclose(means[0, 4, 4], image[20:, 16:, 0].mean())
    assert extremes == (image.min(), image.max())


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_a_huge_image_gives_what_resizing_it_whole_gives(smooth, huge_from, kind):
    image = {"uint8": smooth, "uint16": smooth.astype(np.uint16) * 257, "float32": smooth / np.float32(255)}[kind]
    whole = COLOUR(image)
    huge_from(1_000_000)
    reduced = COLOUR(image)
    assert decode(image, TARGET).planes.shape < decode(image).planes.shape
    assert not np.array_equal(reduced, whole)
    np.testing.assert_allclose(reduced, whole, atol=TOLERANCE)


def test_a_huge_image_has_the_same_bits_from_every_container(smooth, huge_from, tmp_path):
    huge_from(1_000_000)
    (tmp_path / "a.png").write_bytes(encoded(smooth, "PNG"))
    first = COLOUR(smooth)
    others = [smooth.transpose(2, 0, 1), Image.fromarray(smooth), encoded(smooth, "BMP"), tmp_path / "a.png"]
    others += [encoded(smooth, "TIFF"), encoded(smooth, "TIFF", compression="tiff_lzw")]
    for source in others:
        np.testing.assert_array_equal(COLOUR(source), first)


def test_blocks_of_one_pixel_stay_as_they_are_stored():
    image = np.random.default_rng(0).integers(0, 256, (23, 17, 3), dtype=np.uint8)
    planes, extremes = block_means(lambda top, bottom: image[top:bottom], 23, 17, (1, 1))
    assert planes.dtype == np.uint8
    np.testing.assert_array_equal(planes, image.transpose(2, 0, 1))
    assert extremes == (image.min(), image.max())


def test_strips_are_resized_to_the_same_bits_as_the_whole(smooth, huge_from, monkeypatch):
    content = encoded(smooth, "JPEG", quality=95)
    wide = Preprocessing(shape=(3, 50, 70))
    images = [(COLOUR, smooth), (wide, smooth), (COLOUR, content), (wide, content)]
    whole = [reading(image) for reading, image in images]
    huge_from(1_000_000)
    reduced = [reading(image) for reading, image in images]
    monkeypatch.setattr(scaling, "_STRIP_VALUES", 10_000)
    for (reading, image), before in zip(images, reduced, strict=True):
        np.testing.assert_array_equal(reading(image), before)
    huge_from(scaling.MAX_PIXELS)
    for (reading, image), before in zip(images, whole, strict=True):
        np.testing.assert_array_equal(reading(image), before)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_huge_jpeg_is_decoded_smaller_and_stands_upright(smooth, huge_from, orientation, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(smooth, "JPEG", quality=95, exif=exif)
    whole = COLOUR(content)
    huge_from(1_000_000)
    sizes = []
    monkeypatch.setattr(pillow, "upright", lambda one: sizes.append(one.size) or turned(one))
    np.testing.assert_allclose(COLOUR(content), whole, atol=TOLERANCE)
    assert decode(content, TARGET).size == ((1157, 1531) if orientation < 5 else (1531, 1157))
    assert all(max(size) < 1531 / 4 for size in sizes)


turned = pillow.upright


def test_images_that_are_not_huge_and_those_with_a_region_are_taken_whole(smooth, huge_from):
    region = np.ones(TARGET, dtype=bool)
    region[:4] = False
    inside = Preprocessing(shape=(3, *TARGET), region=region)
    before = inside(smooth)
    np.testing.assert_array_equal(COLOUR(smooth), COLOUR(encoded(smooth, "PNG")))
    huge_from(1_000_000)
    np.testing.assert_array_equal(inside(smooth), before)
    assert decode(smooth[:900, :1000], TARGET).reduced is None


def test_a_value_out_of_range_is_not_averaged_away(smooth, huge_from):
    huge_from(1_000_000)
    image = smooth / np.float32(255)
    image[500, 700, 1] = 1.5
    with pytest.raises(ValueError, match=r"got values from .* to 1\.5"):
        COLOUR(image)
    image[500, 700, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        COLOUR(image)


def test_warnings_of_pillow_never_decide_and_never_show(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    content = encoded(np.full((12, 12, 3), 51, dtype=np.uint8), "PNG")
    with pytest.warns(Image.DecompressionBombWarning), Image.open(io.BytesIO(content)):
        pass
    for action in ("error", "always"):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter(action)
            before = list(warnings.filters)
            assert COLOUR(content).max() == np.float32(51) / np.float32(255)
            assert warnings.filters == before
        assert not seen

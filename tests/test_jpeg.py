"""Small JPEG files, which simplejpeg decodes in place of Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from recondite.data import images, jpeg
from recondite.errors import InputError


def jpeg_of(pixels, **how):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", **how)
    return stream.getvalue()


def noise(*shape):
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


def pixels_or_error(content):
    try:
        found = images.decode(content)
    except InputError as error:
        return str(error)
    return found.planes.tolist(), found.alpha, found.white, found.planes.dtype


@pytest.fixture
def by_pillow(monkeypatch):
    """A function: bytes to their pixels or error when Pillow is asked about all of them."""

    def decoded(content):
        with monkeypatch.context() as context:
            context.setattr(jpeg, "read", lambda _: None)
            return pixels_or_error(content)

    return decoded


PLAIN = [
    *(jpeg_of(noise(9, 17, 3), subsampling=kind, quality=quality) for kind in (0, 1, 2) for quality in (15, 95)),
    *(jpeg_of(noise(height, width)) for height, width in ((8, 8), (40, 25))),
    jpeg_of(noise(32, 32, 3), optimize=True, comment=b"a comment"),
    jpeg_of(noise(32, 32, 3), restart_marker_blocks=1),
]
EXIF = Image.Exif()
EXIF[0x0112] = 6


@pytest.mark.parametrize("content", PLAIN)
def test_plain_files_have_the_pixels_that_pillow_finds(content, by_pillow):
    assert jpeg.read(io.BytesIO(content)) is not None
    assert pixels_or_error(content) == by_pillow(content)


@pytest.mark.parametrize(
    "content",
    [
        jpeg_of(noise(16, 24, 3), exif=EXIF),
        jpeg_of(noise(16, 24, 3), progressive=True),
        jpeg_of(noise(8, 513)),
        jpeg_of(noise(400, 400, 3), quality=100),
        jpeg_of(noise(16, 24, 4)[..., :3], icc_profile=b"a profile"),
        jpeg_of(noise(16, 24, 3), comment=b"longer than a file may be" * 2600),
        PLAIN[0].replace(b"JFIF\0", b"JFXX\0"),
    ],
    ids=["turned", "progressive", "wide", "large", "profile", "long", "not JFIF"],
)
def test_other_files_are_left_to_pillow(content, by_pillow):
    assert jpeg.read(io.BytesIO(content)) is None
    assert pixels_or_error(content) == by_pillow(content)


def test_pictures_of_four_inks_are_left_to_pillow():
    stream = io.BytesIO()
    Image.fromarray(noise(16, 16, 4), mode="CMYK").save(stream, "JPEG")
    assert jpeg.read(io.BytesIO(stream.getvalue())) is None


def test_damaged_files_have_the_same_pixels_or_error_as_by_pillow(by_pillow):
    generator = np.random.default_rng(0)
    taken = 0
    for content in PLAIN * 8:
        damaged = bytearray(content)
        if generator.random() < 0.4:
            del damaged[generator.integers(2, len(damaged)) :]
        for _ in range(generator.integers(1, 4)):
            most = len(damaged) if generator.random() < 0.5 else min(len(damaged), 200)
            damaged[generator.integers(most)] = generator.integers(256)
        taken += jpeg.read(io.BytesIO(damaged)) is not None
        assert pixels_or_error(bytes(damaged)) == by_pillow(bytes(damaged))
    assert taken > 8


def test_every_file_that_ends_early_is_refused():
    content = PLAIN[0]
    for end in range(2, len(content), 7):
        with pytest.raises(InputError):
            images.decode(content[:end])

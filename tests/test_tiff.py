"""TIFF files: what their tags say is what is seen, or a row says why not; pages are images of their own."""

import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

import recondite
from recondite.cli import main
from recondite.data import listing, tiff
from recondite.data.datasets import open_images, read_batches
from recondite.data.images import Preprocessing, decode, picture_size
from recondite.errors import InputError

GREY, COLOUR = Preprocessing(shape=(1, 8, 12)), Preprocessing(shape=(3, 8, 12))
RAMP = np.linspace(0, 1, 96).reshape(8, 12)
BYTES = (255 * RAMP).astype(np.uint8)


def encoded(array, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("stored", "options", "tolerance"),
    [
        (BYTES, {}, 1 / 255),
        (255 - BYTES, {"photometric": "miniswhite"}, 1 / 255),
        ((65535 * RAMP).astype(np.uint16), {}, 1 / 65535),
        ((65535 * (1 - RAMP)).astype(np.uint16), {"photometric": "miniswhite"}, 2 / 65535),
        ((127 * RAMP).astype(np.int8), {}, 1 / 127),
        ((32767 * RAMP).astype(np.int16), {}, 1 / 32767),
        ((65535 * RAMP).astype(np.uint32), {}, 1 / 65535),
        ((65535 * RAMP).astype(np.int32), {}, 1 / 65535),
        (RAMP.astype(np.float16), {}, 1e-3),
        (RAMP.astype(np.float32), {}, 1e-7),
        (RAMP, {}, 1e-7),
    ],
    ids=lambda value: (
        f"{value.dtype}"
        if isinstance(value, np.ndarray)
        else "".join(map(str, value.values()))
        if isinstance(value, dict)
        else None
    ),
)
def test_every_type_of_number_is_seen_as_what_its_tags_say(tmp_path, stored, options, tolerance, order):
    content = encoded(stored, byteorder=order, **options)
    (tmp_path / "a.tif").write_bytes(content)
    assert picture_size(content) == (12, 8)
    for source in (content, tmp_path / "a.tif", io.BytesIO(content)):
        np.testing.assert_allclose(GREY(source)[0], RAMP, atol=tolerance)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_channels_lie_side_by_side_or_one_after_another(planar, kind):
    white = {"uint8": 255, "uint16": 65535, "float32": 1}[kind]
    image = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]]) * white
    stored = image.astype(kind) if planar == "separate" else image.transpose(1, 2, 0).astype(kind)
    content = encoded(stored, photometric="rgb", planarconfig=planar)
    np.testing.assert_allclose(COLOUR(content), image / white, atol=1 / min(white, 255) if white > 1 else 1e-7)
    if kind == "uint16":  # Pillow would keep eight bits
        np.testing.assert_allclose(COLOUR(content), image / white, atol=1 / 65535)


@pytest.mark.parametrize("white", [255, 65535])
def test_a_colour_map_to_255_is_no_black_one(white):
    colours = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 7)])
    page = encoded(BYTES, photometric="palette", colormap=(colours * (white // 255)).astype(np.uint16))
    expected = colours.astype(np.uint8)[:, BYTES]
    np.testing.assert_array_equal(decode(page).planes, expected)
    with Image.open(io.BytesIO(page)) as picture:
        np.testing.assert_array_equal(decode(picture).planes, expected)


def test_five_bands_are_five_channels_and_never_three():
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 5), dtype=np.uint8)
    for photometric in ("minisblack", "rgb"):
        content = encoded(image, photometric=photometric, planarconfig="contig")
        np.testing.assert_array_equal(decode(content).planes, image.transpose(2, 0, 1))
        with pytest.raises(InputError, match="3 channels; got 5"):
            COLOUR(content)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_page_that_pillow_cannot_read_stands_upright_too(orientation):
    tags = [(274, "H", 1, orientation, True)]
    odd, even = (encoded(image, extratags=tags) for image in (RAMP, RAMP.astype(np.float32)))
    np.testing.assert_allclose(decode(odd).planes, decode(even).planes, atol=1e-7)


@pytest.mark.parametrize(
    ("stored", "options", "words"),
    [
        (np.full((8, 12), -1, np.int16), {}, "values from 0 to 32767; got values from -1"),
        (np.full((8, 12), 70_000, np.uint32), {}, "values from 0 to 65535; got values from 70000"),
        (np.full((8, 12), np.nan, np.float16), {}, "NaN"),
        (np.zeros((8, 12), np.complex64), {}, "complex"),
        (RAMP.astype(np.float32), {"photometric": "miniswhite"}, "not known what is black"),
    ],
)
def test_what_cannot_be_seen_says_why(stored, options, words):
    with pytest.raises(InputError, match=words):
        GREY(encoded(stored, **options))


def test_a_pil_image_that_pillow_misread_is_refused():
    content = encoded(65535 - (65535 * RAMP).astype(np.uint16), photometric="miniswhite")
    with Image.open(io.BytesIO(content)) as picture, pytest.raises(InputError, match="zero is white: give the path"):
        GREY(picture)


@pytest.fixture
def stack(tmp_path):
    """A folder with a file of three pages, of which Pillow misreads the second, behind a thumbnail; and one of one."""
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(np.zeros((4, 6), np.uint8), subfiletype=1)
        file.write(BYTES)
        file.write((32767 * RAMP).astype(np.int16))
        file.write(BYTES[::-1], compression=None)
    Image.fromarray(BYTES).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "c.TIFF", BYTES, bigtiff=True)
    return tmp_path


@pytest.mark.parametrize("big", [False, True])
def test_headers_tell_the_pages(tmp_path, big):
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=big) as file:
        for reduced in (0, 1, 0):
            file.write(BYTES, subfiletype=reduced)
    assert tiff.pages_of(tmp_path / "a.tif") == [0, 2]
    whole = (tmp_path / "a.tif").read_bytes()
    for length in range(0, len(whole), 7):  # however it is cut, it is a file of pages or an unreadable one
        (tmp_path / "a.tif").write_bytes(whole[:length])
        assert tiff.pages_of(tmp_path / "a.tif") in ([0], [0, 2])


def test_a_circle_of_pages_ends(tmp_path):
    content = bytearray(encoded(BYTES))
    start = int.from_bytes(content[4:8], "little")
    count = int.from_bytes(content[start : start + 2], "little")
    content[start + 2 + 12 * count : start + 6 + 12 * count] = start.to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(content)
    assert tiff.pages_of(tmp_path / "a.tif") == [0]


def test_each_page_is_an_image(stack):
    for source in (stack, str(stack / "*"), [stack / "a.png", stack / "b.tif", stack / "c.TIFF"]):
        images = open_images(source)
        assert list(images.ids) == ["a.png", "b.tif", "b.tif#2", "b.tif#3", "c.TIFF"]
        (batch,) = read_batches(images, GREY, 10)
        assert batch.errors == [None] * 5
        for row, expected in zip(batch.pixels, [BYTES, BYTES, BYTES, BYTES[::-1], BYTES], strict=True):
            np.testing.assert_allclose(row[0], expected / 255, atol=1 / 255)
    assert list(open_images(stack / "b.tif").ids) == ["b.tif", "b.tif#2", "b.tif#3"]
    assert list(open_images(stack).select([2]).ids) == ["b.tif#2"]


def test_pages_are_never_passed_over(stack):
    for source in ((stack / "b.tif").read_bytes(), stack / "b.tif"):
        with pytest.raises(InputError, match="3 pages"):
            GREY(source)


def test_only_tiff_files_are_opened_for_their_pages(stack, monkeypatch):
    opened = []
    monkeypatch.setattr(listing, "pages_of", lambda path: opened.append(path.name) or [0])
    open_images(stack)
    assert opened == ["b.tif", "c.TIFF"]


def test_pages_are_judged_on_the_command_line(tmp_path, stack, digits):
    screen = recondite.fit(digits[:300], detector="pca", latent_size=4, alpha=0.1)
    screen.save(tmp_path / "screen")
    assert main(["predict", str(tmp_path / "screen"), str(stack), "-o", str(tmp_path / "v.csv")]) == 0
    rows = (tmp_path / "v.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["a.png", "b.tif", "b.tif#2", "b.tif#3", "c.TIFF"]


def _tiff_of(*entries):
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize(
    "content",
    [
        _tiff_of(struct.pack("<HHIf", 254, 11, 1, np.nan)),
        _tiff_of(struct.pack("<HHIf", 254, 11, 1, np.inf)),
        b"II+\0" + struct.pack("<HHQ", 8, 0, 2**63 + 5),
        b"II+\0" + struct.pack("<HHQQHHQQQ", 8, 0, 16, 1, 258, 3, 10, 2**63 + 1, 0),
    ],
)
def test_a_damaged_header_is_one_bad_image_and_not_the_end_of_its_folder(tmp_path, content):
    (tmp_path / "a.tif").write_bytes(content)
    (tmp_path / "b.tif").write_bytes(encoded(BYTES))
    (batch,) = read_batches(open_images(tmp_path), GREY, 8)
    assert [error is None for error in batch.errors] == [False, True]
    with pytest.raises(InputError, match="cannot be decoded"):
        picture_size(content)

"""TIFF pages by parts: huge ones a few strips at a time, and numbers that Pillow misreads, however compressed."""

import io
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from recondite.data import scaling, tiff_parts
from recondite.data.images import Preprocessing, decode
from recondite.data.tiff_parts import numbers_of
from recondite.errors import InputError

TARGET = (9, 12)
KINDS = ["uint8", "uint16", "int16", "uint32", "float16", "float32", "float64"]


def encoded(array, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def with_compression(code, content):
    """Say in a file, wrongly, that it is compressed in this way."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        place, order = file.pages[0].tags["Compression"].valueoffset, "little" if file.byteorder == "<" else "big"
    return content[:place] + code.to_bytes(2, order) + content[place + 2 :]


def by_lzw(image, order, **options):
    """Write (H, W, C) in strips of 10 rows compressed by LZW, with neighbours' differences if so told."""
    stored = np.diff(image, axis=1, prepend=image.dtype.type(0)) if options.get("predictor") else image
    strips = []
    for top in range(0, len(image), 10):
        rows = np.ascontiguousarray(stored[top : top + 10].astype(image.dtype.newbyteorder(order)))
        stream = io.BytesIO()
        grey = Image.fromarray(rows.view(np.uint8).reshape(len(rows), -1))
        grey.save(stream, "TIFF", compression="tiff_lzw", tiffinfo={278: len(rows)})
        stream.seek(0)
        with tifffile.TiffFile(stream) as file:
            (offset,), (count,) = file.pages[0].dataoffsets, file.pages[0].databytecounts
        strips.append(stream.getvalue()[offset : offset + count])
    stream, shape = io.BytesIO(), {"shape": image.shape, "dtype": image.dtype, "rowsperstrip": 10}
    with tifffile.TiffWriter(stream, byteorder=order) as file:
        file.write(iter(strips), **shape, photometric="rgb", compression="zlib", metadata=None, **options)
    return with_compression(5, stream.getvalue())


@pytest.fixture
def without_imagecodecs(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)


@pytest.mark.usefixtures("without_imagecodecs")
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("predictor", [None, 2])
def test_sixteen_bits_in_colour_by_lzw_keep_all_bits(order, predictor):
    image = np.random.default_rng(0).integers(0, 65536, (34, 21, 3), dtype=np.uint16)
    pixels = decode(by_lzw(image, order, predictor=predictor))
    np.testing.assert_array_equal(pixels.planes, image.transpose(2, 0, 1))
    assert pixels.white == 65535


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (32, 48)])
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_what_was_stored(order, planar, tile, kind):
    image = np.random.default_rng(0).integers(0, 200, (70, 101, 3)).astype(kind)
    stored = image if planar == "contig" else np.ascontiguousarray(image.transpose(2, 0, 1))
    for predictor in (None, 2) if image.dtype.kind in "ui" else (None,):
        options = {"planarconfig": planar, "tile": tile, "byteorder": order, "predictor": predictor, "rowsperstrip": 16}
        stream = io.BytesIO(encoded(stored, photometric="rgb", compression="zlib", **options))
        stream.seek(0)
        with tifffile.TiffFile(stream) as file:
            found = numbers_of(stream, order, file.pages[0].aspage())
        assert found.dtype == image.dtype
        np.testing.assert_array_equal(found, image)


@pytest.mark.usefixtures("without_imagecodecs")
def test_what_libtiff_does_not_undo_either_says_so():
    content = encoded(np.zeros((8, 12, 5), np.uint8), photometric="rgb", compression="zlib")
    with pytest.raises(InputError, match="5 channels, compressed: pip install"):
        decode(with_compression(34712, content))


@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_compressed_floats_are_the_same_in_either_order_of_bytes(tile):
    image = np.random.default_rng(0).random((40, 30), dtype=np.float32)
    for order in "<>":
        content = encoded(image, byteorder=order, compression="zlib", tile=tile)
        np.testing.assert_array_equal(decode(content).planes[0], image)
    with (
        Image.open(io.BytesIO(content)) as picture,
        pytest.raises(InputError, match="largest byte first: give the path"),
    ):
        decode(picture)


LAYOUTS = {
    "strips": {"rowsperstrip": 7},
    "tiles": {"tile": (48, 32)},
    "one-piece": {"rowsperstrip": 500},
    "deflate": {"rowsperstrip": 7, "compression": "zlib"},
    "deflated-tiles": {"tile": (48, 32), "compression": "zlib"},
    "large-file": {"rowsperstrip": 7, "bigtiff": True},
}


@pytest.fixture
def small_parts(monkeypatch):
    """Images count as huge from 20,000 pixels, and a part has about 24 rows of 211 pixels."""
    monkeypatch.setattr(scaling, "HUGE", 20_000)
    monkeypatch.setattr(scaling, "_STRIP_VALUES", 211 * 40)
    monkeypatch.setattr(tiff_parts, "_PART_BYTES", 16_000)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["colour", "grey", "grey-16", "palette"])
def test_a_huge_page_is_taken_in_parts_to_the_same_bits(kind, layout, order, monkeypatch):
    rng, options = np.random.default_rng(0), {"photometric": "minisblack"}
    image = rng.integers(0, 256, (301, 211), dtype=np.uint8)
    seen = image
    if kind == "colour":
        image = seen = rng.integers(0, 256, (301, 211, 3), dtype=np.uint8)
        options = {"photometric": "rgb"}
    elif kind == "grey-16":
        image = seen = rng.integers(0, 65536, (301, 211), dtype=np.uint16)
    elif kind == "palette":
        colours = rng.integers(0, 256, (3, 256), dtype=np.uint16)
        options = {"photometric": "palette", "colormap": colours * 257}
        seen = colours.T[image].astype(np.uint8)
    content = encoded(image, byteorder=order, **options, **LAYOUTS[layout])
    read, parts = tiff_parts.read, []
    monkeypatch.setattr(tiff_parts, "read", lambda *given: parts.append(read(*given)) or parts[-1])
    of_file, of_array = decode(content, TARGET), decode(seen, TARGET)
    assert parts[0] is not None
    assert of_file.reduced == of_array.reduced
    assert of_file.white == of_array.white
    np.testing.assert_array_equal(of_file.planes, of_array.planes)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "jpeg"])
def test_what_pillow_writes_is_what_it_reads(compression, monkeypatch):
    rows = np.linspace(0, 250, 301 * 211).reshape(301, 211, 1) + np.array([0, 2, 4])
    stream = io.BytesIO()
    Image.fromarray(rows.astype(np.uint8)).save(stream, "TIFF", compression=compression, tiffinfo={278: 16})
    with Image.open(stream) as picture:
        expected = decode(picture, TARGET)
    monkeypatch.setattr("recondite.data.images.open_picture", None)  # nothing is held whole
    np.testing.assert_array_equal(decode(stream.getvalue(), TARGET).planes, expected.planes)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("change", ["planes", "alpha", "turned"])
def test_a_page_that_must_be_whole_is(change):
    image = np.random.default_rng(0).integers(0, 256, (301, 211, 3), dtype=np.uint8)
    options = {"planes": {"planarconfig": "separate"}, "turned": {"extratags": [(274, "H", 1, 3, True)]}}
    stored = image.transpose(2, 0, 1) if change == "planes" else image
    if change == "alpha":
        stored = np.dstack([image, np.full((301, 211), 255, np.uint8)])
    content = encoded(np.ascontiguousarray(stored), photometric="rgb", **options.get(change, {"extrasamples": [2]}))
    seen = Preprocessing(shape=(3, *TARGET))(content)
    expected = Preprocessing(shape=(3, *TARGET))(image[::-1, ::-1] if change == "turned" else image)
    np.testing.assert_allclose(seen, expected, atol=0.01)


@pytest.mark.usefixtures("small_parts")
def test_a_page_that_is_cut_short_is_refused():
    content = encoded(np.zeros((301, 211, 3), np.uint8), photometric="rgb", rowsperstrip=7)
    with pytest.raises(InputError, match="cannot be decoded"):
        decode(content[: len(content) // 2], TARGET)

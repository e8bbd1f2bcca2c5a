"""PNG files of 16 bits in colour, which Pillow cuts to 8, and huge ones: every value is as stored."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from recondite.data import png, scaling
from recondite.data.images import Preprocessing, decode, header_of
from recondite.errors import InputError

COLOURS = {3: 2, 2: 4, 4: 6}
TARGET = (9, 12)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def paeth(left, above, corner):
    near = left + above - corner
    distances = abs(near - left), abs(near - above), abs(near - corner)
    return (left, above, corner)[distances.index(min(distances))]


def filtered(rows, step):
    """Filter rows of bytes (H, W) as the specification says: each row by another filter."""
    content = bytearray()
    for index, row in enumerate(rows.astype(int)):
        above = rows[index - 1].astype(int) if index else np.zeros_like(row)
        left, corner = (np.concatenate([np.zeros(step, int), one[:-step]]) for one in (row, above))
        kind = (index + 4) % 5
        guess = [0 * row, left, above, (left + above) // 2, np.array([*map(paeth, left, above, corner)])][kind]
        content += bytes([kind]) + (row - guess).astype(np.uint8).tobytes()
    return bytes(content)


def encoded(image, *others, interlaced=False):
    """Write an image (H, W, C) of uint8 or uint16 as PNG."""
    height, width, channels = image.shape
    step = channels * image.dtype.itemsize
    passes = [image[top::down, left::right] for top, left, down, right in png._PASSES] if interlaced else [image]
    rows = [np.ascontiguousarray(part.astype(part.dtype.newbyteorder(">"))) for part in passes if part.size]
    content = zlib.compress(b"".join(filtered(part.view(np.uint8).reshape(len(part), -1), step) for part in rows))
    head = struct.pack(">IIBBBBB", width, height, 8 * image.itemsize, COLOURS[channels], 0, 0, interlaced)
    pieces = [chunk(b"IDAT", content[:50]), chunk(b"IDAT", b""), chunk(b"IDAT", content[50:])]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join([*others, *pieces]) + chunk(b"IEND", b"")


def contents_of(file):
    """Yield where the kind and content of each chunk of pixels begin and end."""
    place = 8
    while place < len(file):
        length = int.from_bytes(file[place : place + 4], "big")
        if file[place + 4 : place + 8] == b"IDAT":
            yield place + 4, place + 8 + length
        place += 12 + length


def noise(channels, kind=np.uint16, size=(23, 17)):
    return np.random.default_rng(0).integers(0, np.iinfo(kind).max + 1, (*size, channels), dtype=kind)


@pytest.mark.parametrize("bits", [8, 16])
def test_pixels_that_do_not_have_their_checksum_are_refused(bits):
    content = encoded(noise(3, np.dtype(f"u{bits // 8}")))
    first = content.index(b"IDAT") + 4
    for place in (first, first + 49, first + 50, content.rindex(b"IDAT") + 20):
        damaged = bytearray(content)
        damaged[place] ^= 1
        with pytest.raises(InputError, match="its pixels do not have the checksum"):
            decode(bytes(damaged))
    assert decode(content).planes.shape == (3, 23, 17)


def test_a_head_that_is_read_in_no_time_is_as_pillow_reads_it():
    grey = Image.fromarray(noise(3, np.uint8)).convert("L")
    plain = [grey, *(grey.convert(mode) for mode in ("RGB", "RGBA", "P"))]
    for picture in [*plain, grey.convert("1"), grey.convert("LA"), Image.fromarray(noise(1)[..., 0])]:
        stream = io.BytesIO()
        picture.save(stream, format="PNG", **({"transparency": 0} if picture.mode in ("L", "P") else {}))
        found = png.head_of(stream.getvalue())
        assert found == (header_of(stream)[:3] if picture in plain else None), picture.mode
    good = encoded(noise(3, np.uint8))
    assert png.head_of(good) == (23, 17, 3)
    twice = good + chunk(b"IHDR", struct.pack(">IIBBBBB", 5000, 5000, 8, 2, 0, 0, 0))
    moving = good[:33] + chunk(b"acTL", struct.pack(">II", 2, 0)) + good[33:]
    for bad in (b"", moving, good[:32], good[:20] + b"\1" + good[21:], twice, b"x" + good):
        assert png.head_of(bad) is None


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_all_sixteen_bits_are_read(tmp_path, channels, interlaced, monkeypatch):
    monkeypatch.setattr(png, "_STRIP_BYTES", 700)  # strips of a few rows
    image = noise(channels)
    (tmp_path / "a.png").write_bytes(encoded(image, interlaced=interlaced))
    for source in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
        pixels = decode(source)
        planes = pixels.planes if pixels.alpha is None else np.concatenate([pixels.planes, pixels.alpha[None]])
        np.testing.assert_array_equal(planes, image.transpose(2, 0, 1))
        assert pixels.white == 65535
        assert (pixels.alpha is not None) == (channels != 3)


def test_an_image_of_less_than_a_pass_of_interlacing_is_read():
    image = noise(3, size=(9, 2))
    np.testing.assert_array_equal(decode(encoded(image, interlaced=True)).planes, image.transpose(2, 0, 1))


def test_twelve_bits_in_colour_are_seen_with_their_range():
    image = noise(3) >> 4
    seen = Preprocessing(shape=(3, 23, 17), value_range=(0, 4095))(encoded(image))
    np.testing.assert_allclose(seen, image.transpose(2, 0, 1) / 4095, atol=1e-6)


def test_the_transparent_colour_has_sixteen_bits_and_is_white():
    image = noise(3)
    content = encoded(image, chunk(b"tRNS", image[5, 7].astype(">u2").tobytes()))
    clear = decode(content).alpha == 0
    assert clear.sum() == 1
    assert clear[5, 7]
    assert (Preprocessing(shape=(3, 23, 17))(content)[:, 5, 7] == 1).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("huge", [False, True])
def test_it_stands_upright_as_exif_says(orientation, huge, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = orientation
    place = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    image = noise(3, size=(150, 170))
    if huge:
        monkeypatch.setattr(scaling, "HUGE", 20_000)
    eight = Image.open(io.BytesIO(encoded((image >> 8).astype(np.uint8), place)))
    turned = decode(encoded(image, place), TARGET).planes
    expected = decode(eight, TARGET).planes
    np.testing.assert_allclose(turned // 256 if not huge else turned / 256, expected, atol=0 if not huge else 1)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_huge_ones_are_averaged_strip_by_strip_to_the_same_bits(kind, monkeypatch):
    image = noise(3, kind, (301, 211))
    monkeypatch.setattr(scaling, "HUGE", 20_000)
    monkeypatch.setattr(scaling, "_STRIP_VALUES", 211 * 40)
    monkeypatch.setattr(png, "_whole", None)  # nothing is held whole
    of_file, of_array = decode(encoded(image), TARGET), decode(image, TARGET)
    assert of_file.reduced == of_array.reduced
    np.testing.assert_array_equal(of_file.planes, of_array.planes)
    if kind == np.uint8:
        with Image.open(io.BytesIO(encoded(image))) as picture:
            np.testing.assert_array_equal(decode(picture, TARGET).planes, of_file.planes)


@pytest.mark.parametrize("kept", [0.2, 0.6, 0.97])
def test_a_file_that_is_cut_short_is_refused(kept):
    content = encoded(noise(3))
    with pytest.raises(InputError, match=r"cut short|cannot be decoded"):
        decode(content[: int(kept * len(content))])


@pytest.mark.parametrize("kind", ["L", "1", "LA", "P", "RGB", "RGBA", "I;16", "turned", "interlaced", "huge"])
@pytest.mark.parametrize("black", [False, True])
def test_rows_that_are_missing_though_the_content_ends_well_are_noticed(kind, black, monkeypatch):
    """Pillow makes them black; an image that is black there is whole."""
    mode = kind if kind in Image.MODES or kind == "I;16" else "L" if kind == "huge" else "RGB"
    values = np.full((24, 17), 200, np.uint8)
    values[-3:] = 0 if black else 200
    picture = Image.fromarray(values.astype(np.uint16)) if mode == "I;16" else Image.fromarray(values).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6 if kind == "turned" else 1
    stream = io.BytesIO()
    picture.save(stream, "PNG", exif=exif)
    whole = encoded(np.asarray(picture), interlaced=True) if kind == "interlaced" else stream.getvalue()
    target = None
    if kind == "huge":
        monkeypatch.setattr(scaling, "HUGE", 100)
        target = (3, 2)
    expected = decode(whole, target)
    place = whole.index(b"IDAT")
    content = zlib.decompress(b"".join(whole[start + 4 : end] for start, end in contents_of(whole)))
    row = 1 + 17 * 3 if kind == "interlaced" else len(content) // 24
    cut = whole[: place - 4] + chunk(b"IDAT", zlib.compress(content[:-row])) + chunk(b"IEND", b"")
    with pytest.raises(InputError, match="cut short"):
        decode(cut, target)
    again = whole[: place - 4] + chunk(b"IDAT", zlib.compress(content + b"more")) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode(again, target).planes, expected.planes)


def test_damaged_bytes_are_refused_and_never_looped_over():
    content = bytearray(encoded(noise(3)))
    for place in range(8, len(content), 37):
        damaged = content.copy()
        damaged[place] ^= 0xFF
        try:
            pixels = decode(bytes(damaged))
        except InputError:
            continue
        assert pixels.planes.ndim == 3


def test_too_many_pixels_are_refused_before_they_are_decoded():
    content = bytearray(encoded(noise(3)))
    content[16:24] = struct.pack(">II", 20_000, 20_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    with pytest.raises(InputError, match=r"pixels"):
        decode(bytes(content))

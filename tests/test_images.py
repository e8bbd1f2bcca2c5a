import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stnp
from PIL import Image, ImageFile, ImageOps

from recondite.data.images import Preprocessing, channel_axis, decode
from recondite.errors import InputError

GREY = Preprocessing(shape=(1, 8, 8))
COLOUR = Preprocessing(shape=(3, 8, 8))


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def encoded(array, form, **options):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_lossless_files_give_the_pixels_of_the_array(picture, form, options):
    expected = picture.transpose(2, 0, 1).astype(np.float32) / 255
    np.testing.assert_array_equal(COLOUR(encoded(picture, form, **options)), expected)


def test_every_container_of_one_picture_gives_the_same_bits(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", picture)
    preprocessing = Preprocessing(shape=(3, 11, 9))
    sources = [
        picture,
        picture.transpose(2, 0, 1),
        torch.from_numpy(picture),
        Image.fromarray(picture),
        encoded(picture, "PNG"),
        tmp_path / "a.png",
        str(tmp_path / "a.npy"),
        picture.astype(np.float32) / 255,
        picture.astype(np.uint16) * 257,
    ]
    first = preprocessing(sources[0])
    assert first.shape == (3, 11, 9)
    for source in sources[1:]:
        np.testing.assert_array_equal(preprocessing(source), first)


def test_jpeg_is_close_and_a_gif_gives_its_first_frame():
    smooth = np.full((8, 8, 3), 100, dtype=np.uint8)
    np.testing.assert_allclose(COLOUR(encoded(smooth, "JPEG")), 100 / 255, atol=2 / 255)
    frames = [Image.fromarray(np.full((8, 8), value, dtype=np.uint8)) for value in (0, 255)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    assert GREY(stream.getvalue()).max() == 0


def test_sixteen_bits_keep_their_precision():
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    expected = (values.astype(np.float32) / 65535)[None]
    np.testing.assert_array_equal(GREY(values), expected)
    np.testing.assert_array_equal(GREY(encoded(values, "PNG")), expected)
    np.testing.assert_array_equal(GREY(encoded(values, "TIFF")), expected)


def test_palette_alpha_and_bilevel(picture):
    palette = Image.fromarray(picture).quantize(16)
    as_rgb = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(COLOUR(palette), COLOUR(as_rgb))
    clear = np.dstack([picture, np.zeros((8, 8), np.uint8)])
    assert (COLOUR(encoded(clear, "PNG")) == 1).all()  # transparent is white
    solid = np.dstack([picture, np.full((8, 8), 255, np.uint8)])
    np.testing.assert_allclose(COLOUR(encoded(solid, "PNG")), COLOUR(picture), atol=1e-6)
    bilevel = Image.fromarray(picture[..., 0] > 127)
    np.testing.assert_array_equal(GREY(bilevel)[0], picture[..., 0] > 127)


def with_chunk(png, kind, content):
    """Return a PNG file with one more chunk after its header."""
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return png[:33] + chunk + png[33:]


@pytest.mark.parametrize(
    ("values", "clear"),
    [
        (np.array([[False, True] * 4] * 8), 0),
        (np.array([[0, 255] * 4] * 8, np.uint8), 0),
        (np.array([[0, 40_000] * 4] * 8, np.uint16), 40_000),
    ],
)
def test_the_transparent_value_of_a_grey_png_is_white(values, clear):
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG", transparency=clear)
    expected = np.where(values == clear, 1, GREY(values)[0])
    assert not np.array_equal(expected, GREY(values)[0])
    np.testing.assert_allclose(GREY(stream.getvalue())[0], expected, atol=1e-6)


def test_premultiplied_grey(picture):
    grey = Image.fromarray(np.dstack([picture[..., 0], np.full((8, 8), 255, np.uint8)]))
    np.testing.assert_array_equal(GREY(grey.convert("La")), GREY(grey))


def test_grey_and_colour_become_one_another(picture):
    grey = picture[..., 0]
    np.testing.assert_array_equal(COLOUR(grey), np.repeat(GREY(grey), 3, axis=0))
    expected = (picture @ np.array([0.299, 0.587, 0.114])) / 255
    np.testing.assert_allclose(GREY(picture)[0], expected, atol=1e-6)


def test_exif_orientation_is_applied():
    half = np.zeros((8, 16), dtype=np.uint8)
    half[:, 8:] = 255
    picture = Image.fromarray(half)
    exif = picture.getexif()
    exif[0x0112] = 6  # stored turned: show it turned by 90 degrees clockwise
    stream = io.BytesIO()
    picture.save(stream, "PNG", exif=exif)
    upright = Preprocessing(shape=(1, 16, 8))(stream.getvalue())[0]
    assert upright[0].max() == 0
    assert upright[-1].min() == 1


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_that_of_viewers(picture, orientation):
    wide = Image.fromarray(np.hstack([picture, 255 - picture]))
    wide.getexif()[0x0112] = orientation
    expected = ImageOps.exif_transpose(wide)
    shape = (3, expected.height, expected.width)
    np.testing.assert_array_equal(Preprocessing(shape=shape)(wide), Preprocessing(shape=shape)(np.asarray(expected)))


@pytest.mark.parametrize("exif", [b"no TIFF!", b"II*\0", b"II*\0\x08\0\0\0", b"Exif\0\0Exif\0\0II*\0"])
def test_damaged_exif_data_cost_no_picture(picture, exif):
    png = encoded(picture, "PNG")
    np.testing.assert_array_equal(COLOUR(with_chunk(png, b"eXIf", exif)), COLOUR(png))


def test_exif_data_that_cannot_be_written_anew_still_turn(picture, monkeypatch):
    def fail(*_):
        raise TypeError("a value of another kind")

    turned = Image.fromarray(picture)
    turned.getexif()[0x0112] = 3
    monkeypatch.setattr(Image.Exif, "tobytes", fail)
    np.testing.assert_array_equal(COLOUR(turned), COLOUR(picture[::-1, ::-1]))


def test_what_the_program_has_set_pillow_to_reads_no_half_image(picture, monkeypatch):
    whole = encoded(np.kron(picture, np.ones((8, 8, 1), np.uint8)), "JPEG")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(InputError, match=r"(?i)truncated"):
        COLOUR(whole[: len(whole) // 2])
    assert ImageFile.LOAD_TRUNCATED_IMAGES
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(COLOUR, [whole] * 40))
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_resized_picture_keeps_its_mean_and_range(picture):
    large = np.kron(picture, np.ones((7, 5, 1), dtype=np.uint8))
    small = COLOUR(large)
    assert small.dtype == np.float32
    assert abs(small.mean() - picture.mean() / 255) < 0.02
    assert small.min() >= 0
    assert small.max() <= 1


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.full((8, 8), np.nan, np.float32), "NaN"),
        (np.full((8, 8), np.inf, np.float32), "infinite"),
        (np.full((8, 8), 255.0), "values from 255"),
        (np.full((8, 8), -0.1), "values from -0.1"),
        (np.zeros((8, 8), np.int64), "got int64"),
        (np.zeros((0, 8)), "empty"),
        (np.zeros((5, 8, 8), np.uint8), "1 channels; got 5"),
        (np.zeros((3, 8, 3), np.uint8), "cannot tell the layout"),
        (np.zeros((2, 2, 8, 8), np.uint8), "expected an image of shape"),
        (b"", "cannot be decoded"),
        (b"not an image", "cannot be decoded"),
        (None, "NoneType"),
        (object(), "object"),
        (np.array([["a"] * 8] * 8), "got <U1"),
    ],
)
def test_wrong_input_is_an_input_error_that_says_what_came(source, words):
    with pytest.raises(InputError, match=words):
        GREY(source)


def png_header_of_a_bomb(side):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [12_000, 30_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side):
    with pytest.raises(InputError, match="pixels"):
        GREY(png_header_of_a_bomb(side))


def test_damaged_files_are_input_errors(tmp_path, picture):
    whole = encoded(np.kron(picture, np.ones((9, 9, 1), np.uint8)), "PNG")
    damaged = {
        "truncated.png": whole[: len(whole) // 2],
        "empty.png": b"",
        "text.png": b"hello",
        "half.npy": b"\x93NUMPY\x01\x00",
        "pickled.npy": pickled_array(),
        "missing_pixels.jpg": encoded(picture, "JPEG")[:100],
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError):
            COLOUR(tmp_path / name)
    with pytest.raises(InputError):
        COLOUR(tmp_path / "absent.png")
    with pytest.raises(InputError):
        COLOUR(tmp_path)


def test_an_array_that_is_cut_short_while_it_is_read_is_an_input_error(tmp_path, monkeypatch):
    path, opened = tmp_path / "a.npy", np.lib.format.open_memmap
    np.save(path, np.zeros((200, 200), np.uint8))

    def cut_short(*arguments, **named):
        mapped = opened(*arguments, **named)
        path.write_bytes(path.read_bytes()[:200])
        return mapped

    monkeypatch.setattr(np.lib.format, "open_memmap", cut_short)
    with pytest.raises(InputError, match=r"the \.npy file cannot be decoded"):
        GREY(path)


def pickled_array():
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return stream.getvalue()


@settings(max_examples=200)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"II*\0"]),
)
def test_arbitrary_bytes_give_an_image_or_an_input_error(data, head):
    try:
        image = GREY(head + data)
    except InputError:
        return
    assert image.shape == (1, 8, 8)
    assert np.isfinite(image).all()


@settings(max_examples=100)
@given(
    stnp.arrays(
        dtype=st.one_of(stnp.floating_dtypes(), stnp.unsigned_integer_dtypes(), stnp.integer_dtypes()),
        shape=stnp.array_shapes(min_dims=1, max_dims=4, max_side=12),
    )
)
def test_arbitrary_arrays_give_an_image_in_range_or_an_input_error(array):
    try:
        image = COLOUR(array)
    except InputError:
        return
    assert image.shape == (3, 8, 8)
    assert np.isfinite(image).all()
    assert image.min() >= 0
    assert image.max() <= 1


def test_vectors_keep_their_values():
    vector = np.array([-3.5, 1e6, 0], dtype=np.float64)
    np.testing.assert_array_equal(Preprocessing(shape=(3,))(vector), vector.astype(np.float32))
    for bad in (np.array([1.0, np.nan, 0]), np.zeros(4), np.array(["a", "b", "c"])):
        with pytest.raises(InputError):
            Preprocessing(shape=(3,))(bad)


@pytest.mark.parametrize("shape", [(), (0,), (1, 7, 8), (1, 8, 2049), (1, 8), (-1, 8, 8), (1.5, 8, 8), (10**9,)])
def test_impossible_shapes_are_refused(shape):
    with pytest.raises(InputError):
        Preprocessing(shape=shape)


def test_preprocessing_survives_json_and_refuses_another_recipe():
    assert Preprocessing.from_json(COLOUR.to_json()) == COLOUR
    with pytest.raises(InputError):
        Preprocessing.from_json({**COLOUR.to_json(), "resize": "nearest"})


def test_channels_of_files_and_arrays(picture):
    assert channel_axis((3, 200, 300)) == 0
    assert channel_axis((200, 300, 3)) == 2
    assert channel_axis((12, 200, 300)) == 0
    assert len(decode(picture[..., 0]).planes) == 1
    assert len(decode(np.zeros((4, 8, 8), np.uint8)).planes) == 4
    four = decode(Image.fromarray(np.dstack([picture, picture[..., 0]])))
    assert len(four.planes) == 3
    np.testing.assert_array_equal(four.alpha, picture[..., 0])
    grey_alpha = Image.fromarray(picture[..., 0]).convert("LA")
    assert len(decode(grey_alpha).planes) == 1
    np.testing.assert_allclose(GREY(grey_alpha), GREY(picture[..., 0]), atol=1e-6)


def test_pictures_narrower_or_lower_than_eight_pixels_are_read():
    for size in ((5, 100), (100, 5), (1, 1)):
        assert COLOUR(Image.new("RGB", size, (255, 0, 0)))[0].min() == 1


def test_a_picture_that_fails_late_and_a_tensor_without_a_numpy_type_are_input_errors(picture):
    whole = encoded(np.kron(picture, np.ones((9, 9, 1), np.uint8)), "PNG")
    stream = io.BytesIO(whole[: len(whole) // 2])
    with Image.open(stream) as lazy, pytest.raises(InputError, match="the picture cannot be decoded"):
        COLOUR(lazy)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.float64])
def test_tensors_of_every_float_are_read(kind):
    tensor = torch.linspace(0, 1, 64).reshape(8, 8).to(kind)
    np.testing.assert_array_equal(GREY(tensor)[0], tensor.float().numpy())


def test_views_of_tensors_are_read():
    values = torch.rand(8, 8)
    negative = torch.complex(torch.zeros(8, 8), -values).conj().imag
    assert negative.is_neg()
    np.testing.assert_array_equal(GREY(negative)[0], values.numpy())


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(8, 8, device="meta"), torch.eye(8).to_sparse(), torch.zeros(8, 8, dtype=torch.complex64).conj()],
)
def test_other_tensors_are_refused(tensor):
    with pytest.raises(InputError, match=r"expected a dense tensor|got complex64"):
        GREY(tensor)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_arrays_of_other_classes(picture):
    grey = picture[..., 0]
    np.testing.assert_array_equal(GREY(np.asmatrix(grey)), GREY(grey))
    np.testing.assert_array_equal(GREY(np.ma.masked_array(grey)), GREY(grey))
    masked = np.ma.masked_array(grey, mask=grey > 200)
    with pytest.raises(InputError, match="masked values"):
        GREY(masked)
    assert GREY.together([grey, masked]) is None


@pytest.mark.parametrize(
    ("kind", "largest", "words"),
    [
        (
            np.int64,
            255,
            r"got int64\. If their range is 0 to 255, give images\.astype\('uint8'\), or give values / 255; value",
        ),
        (np.int32, 4095, r"got int32\. If their range is 0 to 65535, give images\.astype\('uint16'\)"),
        (np.float64, 255, r"from 0 to 255\. If their range is 0 to 255, .* or divide them by 255$"),
        (np.float32, 65535, r"from 0 to 65535\. If their range is 0 to 65535, .* divide them by 65535$"),
        (np.float64, 1e6, r"from 0 to 1e\+06$"),
        (np.int64, -1, r"got int64; value_range="),
    ],
)
def test_values_of_another_range_are_refused_with_the_way_out(kind, largest, words):
    image = np.zeros((8, 8), kind)
    image[0, 0] = largest
    with pytest.raises(InputError, match=words) as told:
        Preprocessing(shape=(1, 8, 8))(image)
    if "astype('uint8')" in str(told.value):
        assert Preprocessing(shape=(1, 8, 8))(image.astype("uint8"))[0, 0, 0] == 1

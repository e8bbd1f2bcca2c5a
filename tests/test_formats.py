import io
import logging

import numpy as np
import pytest
from PIL import Image

import recondite
from recondite.cluster.sources import open_source
from recondite.data import formats
from recondite.data.datasets import open_images, read_batches
from recondite.data.formats import is_image_name, passed_over, suffix_of, why_unreadable
from recondite.data.images import Preprocessing, decode
from recondite.errors import InputError

GREY = Preprocessing(shape=(1, 8, 8))
WRITTEN = {
    **{".png": "PNG", ".apng": "PNG", ".jpg": "JPEG", ".jfif": "JPEG", ".jif": "JPEG", ".mpo": "JPEG", ".bmp": "BMP"},
    **{".dib": "DIB", ".webp": "WEBP", ".tif": "TIFF", ".gif": "GIF", ".pgm": "PPM", ".ppm": "PPM", ".pnm": "PPM"},
    **{".avif": "AVIF", ".jp2": "JPEG2000", ".j2k": "JPEG2000", ".tga": "TGA"},
}


def rows_of(source):
    return [
        (name, error)
        for batch in read_batches(open_images(source), GREY, 64)
        for name, error in zip(batch.ids, batch.errors, strict=True)
    ]


@pytest.mark.parametrize("suffix", WRITTEN)
def test_what_pillow_reads_safely_is_read(tmp_path, digits, suffix):
    path = tmp_path / f"90{suffix}"
    picture = Image.fromarray(np.kron(digits[0], np.ones((8, 8), np.uint8)))
    picture.save(path, format=WRITTEN[suffix])
    assert rows_of(tmp_path) == [(path.name, None)]
    assert decode(path).planes.shape[1:] == (64, 64)
    read = np.asarray(decode(path.read_bytes()).planes[0], float)
    assert np.abs(read - np.asarray(picture, float)).mean() < 12
    usual = {".jfif": ".jpg", ".jif": ".jpg", ".mpo": ".jpg", ".apng": ".png", ".pgm": ".ppm", ".pnm": ".ppm"}
    assert suffix_of(path.read_bytes()) == usual.get(suffix, suffix)


def test_a_file_without_a_signature_is_no_tga_unless_it_says_so(tmp_path):
    content = io.BytesIO()
    Image.new("L", (8, 8), 77).save(content, format="TGA")
    old = content.getvalue().partition(b"\x00" * 8 + b"TRUEVISION")[0]  # as version 1 wrote them
    (tmp_path / "a.png").write_bytes(old)
    (tmp_path / "b.tga").write_bytes(old)
    (_, refused), (_, taken) = rows_of(tmp_path)
    assert "cannot be decoded" in refused
    assert taken is None
    with pytest.raises(InputError, match="cannot be decoded"):
        decode(old)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.HEIC", "pip install 'recondite\\[formats\\]'"),
        ("a.jxl", "pillow-jxl-plugin"),
        ("a.cr2", "raw data of a camera"),
        ("a.psd", "cannot be read: convert"),
        ("a.svg", "a drawing"),
    ],
)
def test_known_images_that_cannot_be_read_are_rows_that_say_why(tmp_path, digits, screens, monkeypatch, name, words):
    monkeypatch.setattr(formats, "pillow_formats", lambda: formats._FORMATS)  # no plug-ins
    Image.fromarray(digits[0]).save(tmp_path / "b.png")
    (tmp_path / name).write_bytes(b"whatever")
    for source in (tmp_path, [tmp_path / name, tmp_path / "b.png"], tmp_path.as_uri()):
        verdicts = screens("pca").predict(source)
        assert verdicts.ids == (name, "b.png")
        assert verdicts.words == ["invalid", "inlier"]
        with pytest.raises(InputError, match=words):
            raise InputError(verdicts.errors[0])


def test_in_a_fit_they_follow_on_bad_like_other_unreadable_files(tmp_path, digits):
    for index, digit in enumerate(digits[:80]):
        Image.fromarray(digit).save(tmp_path / f"{index:03}.png")
    (tmp_path / "a.psd").write_bytes(b"8BPS")
    screen = recondite.fit(tmp_path, detector="pca", latent_size=4, alpha=0.1)
    assert screen.facts["unreadable"]["count"] == 1
    assert "a.psd" in screen.facts["unreadable"]["first"][0]
    with pytest.raises(InputError, match=r"a\.psd: \.psd files"):
        recondite.fit(tmp_path, detector="pca", latent_size=4, alpha=0.1, on_bad="raise")


def test_everything_else_is_counted_in_one_line(tmp_path, digits, caplog):
    Image.fromarray(digits[0]).save(tmp_path / "a.png")
    for name in ("1.txt", "2.TXT", "sub/3.txt", "read.md", "notes", ".hidden.png", ".git/config", "clip.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert open_images(tmp_path).ids == ["a.png"]
    (record,) = caplog.records
    assert record.name == "recondite"
    words = "8 files were not taken for images (.txt 3, hidden 2, .mp4 1, .md 1, no suffix 1)"
    assert sorted(record.getMessage()) == sorted(words)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        open_images(tmp_path / "a.png")
    assert not caplog.records


def test_one_file_is_singular_and_many_kinds_are_cut_short():
    assert passed_over(["a.txt"]) == "1 file was not taken for an image (.txt 1)"
    assert passed_over([]) == ""
    assert passed_over(f"a.{n}" for n in range(1000)).endswith("others 992)")


def test_beside_tars_they_are_counted_too(tmp_path, caplog):
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w"):
        pass
    (tmp_path / "index.json").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        open_source(tmp_path, (1, 8, 8))
    assert caplog.messages == ["1 file was not taken for an image (.json 1)"]


def test_names():
    assert all(map(is_image_name, ("a.JPG", "b/c.heic", "d.npy", "e.dng")))
    assert not any(map(is_image_name, ("a.txt", ".a.png", "png", "a.pdf", "a.mp4")))
    assert why_unreadable("a.png") is None


@pytest.mark.parametrize(("module", "suffix"), [("pillow_heif", ".heic"), ("pillow_jxl", ".jxl")])
def test_with_a_plug_in_its_format_is_read(tmp_path, digits, module, suffix):
    pytest.importorskip(module)
    assert why_unreadable(f"a{suffix}") is None
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.kron(digits[0], np.ones((8, 8), np.uint8))).convert("RGB").save(path)
    assert rows_of(tmp_path) == [(path.name, None)]
    assert suffix_of(path.read_bytes()) == suffix


@pytest.mark.parametrize("name", ["a.zip", "a.TAR", "a.tar.gz", "a.json", "a.txt", "a.mp4", "a.pdf"])
def test_one_file_that_is_no_image_is_told_and_not_judged(tmp_path, name):
    (tmp_path / name).write_bytes(b"text")
    with pytest.raises(InputError, match=f"{name} is .*give"):
        open_images(tmp_path / name)

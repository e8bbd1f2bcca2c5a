"""A range of values that is not that of the type: found or asked for, kept, and the same on every path."""

import io
import pickle
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image

import recondite
from recondite import InputError, ReconditeWarning
from recondite.cli import main
from recondite.data.images import Preprocessing
from recondite.service.engine import decoding
from recondite.studies.training.runs import open_task

TWELVE = Preprocessing(shape=(1, 8, 8), value_range=(0, 4095))
FIT = {"detector": "pca", "latent_size": 4, "alpha": 0.1, "score": "error"}


def twelve_bits(images):
    return images.astype(np.uint16) * 16 + 15


def tiff(image, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, image, **options)
    return stream.getvalue()


@pytest.fixture
def good(digits):
    return twelve_bits(digits[:300])


@pytest.fixture
def folder(tmp_path, good):
    path = tmp_path / "images"
    path.mkdir()
    for index, image in enumerate(good):
        Image.fromarray(image).save(path / f"{index:03}.png")
    return path


def test_values_are_scaled_by_the_range():
    image = np.arange(64, dtype=np.uint16).reshape(8, 8) * 65
    np.testing.assert_allclose(TWELVE(image)[0], image / 4095, atol=1e-7)
    shifted = Preprocessing(shape=(1, 8, 8), value_range=(-100, 4000))
    np.testing.assert_allclose(shifted(tiff(image.astype(np.int16) - 100))[0], image / 4100, atol=1e-7)
    np.testing.assert_allclose(TWELVE(image.astype(np.int64))[0], image / 4095, atol=1e-7)
    np.testing.assert_allclose(TWELVE(image.astype(np.float32))[0], image / 4095, atol=1e-7)
    np.testing.assert_array_equal(TWELVE.together([image, image])[0], TWELVE(image))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full((8, 8), 4096, np.uint16), "values from 0 to 4095, which this screen.*from 4096 to 4096"),
        (np.full((8, 8), -1, np.int32), "from -1 to -1"),
        (np.full((8, 8), 200, np.uint8), "white is 255"),
        (np.full((8, 8), 0.5, np.float32), "as if they were scaled already"),
        (np.full((8, 8), np.nan, np.float32), "nan"),
    ],
)
def test_images_that_contradict_the_range_are_refused(image, words):
    with pytest.raises(InputError, match=words):
        TWELVE(image)
    assert TWELVE.together([image]) is None


@pytest.mark.parametrize("given", [(1, 1), (5, 2), (0, float("nan")), (0,), "ab", (0, 1, 2), 7])
def test_what_is_no_range_is_refused(given):
    with pytest.raises(InputError, match="black and what is white"):
        Preprocessing(shape=(1, 8, 8), value_range=given)
    with pytest.raises(InputError, match="not for vectors"):
        Preprocessing(shape=(8,), value_range=(0, 255))


def test_json_keeps_it_and_is_as_before_without():
    assert Preprocessing.from_json(TWELVE.to_json()) == TWELVE
    plain = Preprocessing(shape=(1, 8, 8))
    assert plain.to_json() == {"shape": [1, 8, 8], "resize": "bilinear, antialiased, float32", "range": [0, 1]}
    assert plain != TWELVE
    with pytest.raises(InputError):
        Preprocessing.from_json({**plain.to_json(), "values": [3, 2]})


def test_dim_images_are_warned_of_with_the_way_out(good, folder, tmp_path, capsys):
    for source in (good, folder):
        with pytest.warns(ReconditeWarning, match=r"is above 4095 of 65535.*value_range=\(0, 4095\)"):
            screen = recondite.fit(source, **FIT)
        assert screen.detector.preprocessing.value_range is None
    command = ["fit", str(folder), "-o", str(tmp_path / "s"), "--detector", "pca", "--latent-size", "4"]
    assert main([*command, "--alpha", "0.1"]) == 0
    assert "--value-range 0,4095" in capsys.readouterr().err
    assert main([*command, "--alpha", "0.1", "--value-range", "0,4095"]) == 0
    shown = capsys.readouterr()
    assert "--value-range" not in shown.err
    assert "0 to 4095" in shown.out
    assert recondite.load(tmp_path / "s").detector.preprocessing == TWELVE
    assert main([*command, "--value-range", "4095"]) == 2


@pytest.mark.parametrize("kind", [np.int32, np.uint32])
def test_integers_of_32_bits_are_warned_of_too(digits, kind):
    images = [tiff(image.astype(kind)) for image in digits[:100]]
    with pytest.warns(ReconditeWarning, match=r"value_range=\(0, 255\)"):
        recondite.fit(images, **FIT)
    screen = recondite.fit(images, value_range=(0, 255), **FIT)
    assert screen.fingerprint() != recondite.fit(digits[:100], **FIT).fingerprint()
    np.testing.assert_array_equal(
        screen.predict(images).instance_score, recondite.fit(digits[:100], **FIT).predict(digits[:100]).instance_score
    )


def test_images_that_use_their_range_are_not_warned_of(digits, good):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recondite.fit(np.concatenate([good[:1] * 4, good[:99]]), **FIT)
        recondite.fit(digits[:100], **FIT)
        recondite.fit(np.zeros((60, 8, 8), np.uint16) + np.arange(60, dtype=np.uint16)[:, None, None] * 1000, **FIT)


def test_tags_tell_the_range_where_all_files_agree(good):
    tagged = [tiff(image, extratags=[(281, "H", 1, 4095, True)]) for image in good]
    screen = recondite.fit(tagged, **FIT)
    assert screen.detector.preprocessing == TWELVE
    with pytest.warns(ReconditeWarning):
        silent = recondite.fit([*tagged[:-60], *[tiff(image) for image in good[-60:]]], **FIT)
    assert silent.detector.preprocessing.value_range is None
    # The largest value of a picture, which some programs write there, is no range.
    with pytest.warns(ReconditeWarning):
        recondite.fit([tiff(image, extratags=[(281, "H", 1, 4001, True)]) for image in good], **FIT)


def test_every_path_gives_the_same_bits(good, digits, folder, tmp_path):
    screen = recondite.fit(folder, value_range=(0, 4095), **FIT)
    expected = screen.predict(good)
    assert expected.errors == (None,) * len(good)
    screen.save(tmp_path / "screen")
    loaded = recondite.load(tmp_path / "screen")
    assert loaded.fingerprint() == screen.fingerprint()
    sources = [folder, [tiff(image) for image in good], list(good), iter(good)]
    for judge in (screen, loaded):
        for source in sources[: 4 if judge is screen else 2]:
            np.testing.assert_array_equal(judge.predict(source).instance_score, expected.instance_score)
    sent = [decoding.Sent(name, (folder / f"{name}.png").read_bytes()) for name in ("000", "001")]
    measured, taken = [decoding.measure(one, 1000) for one in sent], []
    list(decoding.decode(sent, measured, loaded.detector.preprocessing, lambda batch, _: taken.append(batch)))
    batch = taken[0]
    np.testing.assert_array_equal(loaded.score_batch(batch).instance_score, expected.instance_score[:2])
    other = screen.predict(digits[:2])
    assert all("white is 255" in str(error) for error in other.errors)
    assert other.is_outlier.all()


def test_the_range_is_part_of_the_fingerprint(digits):
    one, other = (recondite.fit(digits[:100], value_range=value_range, **FIT) for value_range in ((0, 255), None))
    np.testing.assert_array_equal(one.predict(digits).instance_score, other.predict(digits).instance_score)
    assert one.fingerprint() != other.fingerprint()


def test_an_exported_screen_has_it_too(good, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from recondite.screen.export import export_onnx

    screen = recondite.fit(good, value_range=(0, 4095), **FIT)
    exported = recondite.load(export_onnx(screen, tmp_path / "graph"))
    assert exported.detector.preprocessing == screen.detector.preprocessing
    spread = np.ptp(np.quantile(screen.calibrator.scores, [0.25, 0.75]))
    difference = exported.predict(good).instance_score - screen.predict(good).instance_score
    assert np.abs(difference).max() < 2**-11 * spread + 1e-9
    assert "white is 255" in exported.predict(np.zeros((1, 8, 8), np.uint8)).errors[0]
    assert pickle.loads(pickle.dumps(exported.detector)).preprocessing == TWELVE
    with pytest.raises(InputError, match="cannot take 8-bit pixels"):
        export_onnx(screen, tmp_path / "bytes", pixels="uint8")
    assert not (tmp_path / "bytes").exists()


@pytest.fixture
def two_classes(tmp_path, good):
    """Sixty 12-bit images in two sub-folders, and the same with the range in their tags."""
    for index, image in enumerate(good[:60]):
        for root, content in (("bare", tiff(image)), ("tagged", tiff(image, extratags=[(281, "H", 1, 4095, True)]))):
            path = tmp_path / root / ("even" if index % 2 else "odd") / f"{index:03}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return tmp_path


def test_studies_take_the_range_or_find_it_in_the_tags(two_classes):
    given = open_task(str(two_classes / "bare"), value_range=(0, 4095))
    found = open_task(str(two_classes / "tagged"))
    with pytest.warns(ReconditeWarning, match="--value-range 0,4095"):
        dark = open_task(str(two_classes / "bare"))
    assert given.preprocessing.value_range == found.preprocessing.value_range == (0, 4095)
    np.testing.assert_array_equal(given.images.pixels, found.images.pixels)
    assert given.images.pixels.max() > 0.99
    assert dark.images.pixels.max() < 0.07


def test_the_studies_flags_take_the_range(two_classes, monkeypatch, capsys):
    small = ["--latent-size", "4", "--value-range", "0,4095"]
    source, output = str(two_classes / "bare"), two_classes / "out"
    main(["study", "one-class", source, "--detector", "pca", "--normal", "odd", "-o", str(output), *small])
    assert "odd" in (output / "table.csv").read_text()
    taken = {}
    monkeypatch.setattr("recondite.studies.linear.linear_study", lambda *_, **given: taken.update(given) or [{"a": 1}])
    main(["study", "linear", source, "-o", str(two_classes / "linear"), *small])
    assert taken["value_range"] == (0, 4095)
    assert main(["study", "one-class", source, "--detector", "pca", "-o", str(output), "--value-range", "dark"]) == 2
    assert "--value-range as black and white" in capsys.readouterr().err

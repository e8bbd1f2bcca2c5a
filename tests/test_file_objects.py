"""Whatever holds an image is read, where it stands; whatever one image does, the others have their verdicts."""

import io
import os
import tempfile
from collections import UserDict, UserList

import numpy as np
import pytest
from PIL import Image

from recondite.data.datasets import open_images, read_batches
from recondite.data.images import Preprocessing
from recondite.data.sample import glances
from recondite.errors import InputError, SourceError

GREY = Preprocessing(shape=(1, 8, 8))


class Named:
    def __init__(self, path):
        self.path = os.fspath(path)

    def __fspath__(self):
        return self.path


class Spiteful:
    def __getattr__(self, name):
        raise ZeroDivisionError(f"no {name}")


class Pathless:
    def __fspath__(self):
        raise RuntimeError("no path")


class Broken(io.BytesIO):
    def read(self, *_):
        raise MemoryError("none left")


@pytest.fixture
def folder(tmp_path, digits):
    for index in range(3):
        Image.fromarray(digits[index]).save(tmp_path / f"{index}.png")
    return tmp_path


def read(source):
    (batch,) = read_batches(open_images(source), GREY, 10)
    return batch


def spooled(content):
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115  its caller closes it
    file.write(content)
    return file


def test_file_objects_are_read_from_their_beginning_and_left_where_they_stood(folder, digits):
    content = (folder / "0.png").read_bytes()
    expected = GREY(digits[0])
    with (folder / "0.png").open("rb") as opened, spooled(content) as written:
        for file, place in ((io.BytesIO(content), 0), (opened, 5), (written, len(content))):
            file.seek(place)
            np.testing.assert_array_equal(GREY(file), expected)
            assert file.tell() == place
            np.testing.assert_array_equal(read(file).pixels[0], expected)
            np.testing.assert_array_equal(read([file, digits[1]]).pixels[0], expected)


def test_a_pipe_is_read_once(folder, digits):
    source, target = os.pipe()
    os.write(target, (folder / "0.png").read_bytes())
    os.close(target)
    with os.fdopen(source, "rb") as pipe:
        np.testing.assert_array_equal(GREY(pipe), GREY(digits[0]))


def test_every_kind_of_path_is_a_path(folder, digits):
    names = [str(folder / f"{index}.png") for index in range(3)]
    expected = np.stack([GREY(image) for image in digits[:3]])
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    lists = [entries, [Named(name) for name in names], tuple(names)]
    arrays = [np.array(names), np.array([Named(name) for name in names]), np.array(names, dtype=object)]
    for source in [Named(folder), *lists, *arrays]:
        batch = read(source)
        np.testing.assert_array_equal(batch.pixels, expected)
        assert batch.ids == ["0.png", "1.png", "2.png"]
    for source in (entries[0], Named(names[0])):
        np.testing.assert_array_equal(read(source).pixels, expected[:1])


def test_a_path_among_pictures_is_the_path_that_it_would_be_alone(folder, digits, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    batch = read([digits[1], "~/0.png", (folder / "0.png").as_uri(), "s3://bucket/0.png", ""])
    assert [error is None for error in batch.errors] == [True, True, True, False, False]
    np.testing.assert_array_equal(batch.pixels[1:], np.stack([GREY(digits[0])] * 2))
    assert "a list of paths and addresses alone" in batch.errors[3]
    assert "got an empty one" in batch.errors[4]


def test_rows_of_a_data_set_of_the_hub_are_their_images(folder, digits):
    content, path = (folder / "0.png").read_bytes(), str(folder / "1.png")
    rows = [
        {"image": Image.fromarray(digits[0]), "label": 3},
        {"img": {"bytes": content, "path": "gone.png"}, "label": "three"},
        {"bytes": None, "path": path},
        {"image": None},
        {"pixels": digits[0]},
    ]
    for source in (rows, iter(rows)):
        batch = read(source)
        assert [error is None for error in batch.errors] == [True, True, True, False, False]
        np.testing.assert_array_equal(batch.pixels, [GREY(digits[0]), GREY(digits[0]), GREY(digits[1])])
        assert batch.labels == ["3", "three", "", "", ""]


def test_a_table_is_not_taken_for_a_list_of_its_columns():
    class Table(UserDict):
        columns, iloc, __iter__ = ("path",), None, lambda self: iter(self.columns)

    with pytest.raises(InputError, match=r"got a table: give one of its columns"):
        open_images(Table())


def test_an_array_of_pictures_of_many_sizes_is_a_list(digits):
    images = np.empty(2, dtype=object)
    images[:] = [digits[0], np.kron(digits[0], np.ones((2, 2), np.uint8))]
    assert read(images).errors == [None, None]


def test_nothing_that_one_image_does_costs_the_others_their_verdicts(folder, digits):
    with (folder / "0.png").open() as text:
        images = [digits[0], Spiteful(), Broken(), text, object(), io.BytesIO(), folder / "1.png", None, Pathless()]
        batch = read(images)
        assert len(glances(open_images(images))) == 2
    assert [error is None for error in batch.errors] == [True, *[False] * 5, True, False, False]
    words = ["no ", "none left (MemoryError)", "reads text", "got object", "the file is empty", "got None", "no path"]
    for error, word in zip([*batch.errors[1:6], *batch.errors[7:]], words, strict=True):
        assert word in error


@pytest.mark.parametrize("kind", [OSError, ValueError, RuntimeError, InputError, IndexError])
def test_a_data_set_that_fails_at_one_image_has_the_others(digits, kind):
    class Failing(UserList):
        def __getitem__(self, index):
            if index == 1:
                raise kind("disk")
            return super().__getitem__(index)

    images = open_images(Failing(digits[:3]))
    batch = read(images)
    assert [error is None for error in batch.errors] == [True, False, True]
    assert "disk" in batch.errors[1]
    assert images.label(1) == ""


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, SourceError])
def test_who_wants_to_stop_can(digits, kind):
    class Stopping(io.BytesIO):
        def read(self, *_):
            raise kind

    with pytest.raises(kind):
        read([digits[0], Stopping()])

import logging
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from recondite.data import datasets
from recondite.data.datasets import ImageSet, open_images, read_batches
from recondite.data.images import Preprocessing
from recondite.data.path_lists import write_path_list
from recondite.data.sample import guess_preprocessing
from recondite.errors import InputError

GREY = Preprocessing(shape=(1, 8, 8))


def read(source, preprocessing=GREY, batch_size=7, **options):
    return list(read_batches(open_images(source, **options), preprocessing, batch_size))


def ids_of(batches):
    return [name for batch in batches for name in batch.ids]


def pixels_of(batches):
    return np.concatenate([batch.pixels for batch in batches])


def test_a_folder_is_read_in_a_stable_order_with_labels(folder, digits):
    batches = read(folder)
    names = ids_of(batches)
    assert names == sorted(names)
    assert names[0] == "even/000.png"
    assert {label for batch in batches for label in batch.labels} == {"even", "odd"}
    order = [int(name[-7:-4]) for name in names]
    np.testing.assert_array_equal(pixels_of(batches)[:, 0], digits[order].astype(np.float32) / 255)


def test_equal_names_in_different_folders_do_not_collide(tmp_path, digits):
    for name in ("a/x.png", "b/x.png", "b/c/x.png", "x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits[0]).save(tmp_path / name)
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "@eaDir").mkdir()
    (tmp_path / "@eaDir" / "x.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not an image")
    assert sorted(ids_of(read(tmp_path))) == ["a/x.png", "b/c/x.png", "b/x.png", "x.png"]


def test_one_file_a_glob_and_a_list_of_paths(folder):
    assert ids_of(read(folder / "even" / "000.png")) == ["000.png"]
    assert ids_of(read(str(folder / "even" / "*.png"))) == ids_of(read(sorted((folder / "even").iterdir())))
    assert ids_of(read([folder / "odd" / "001.png", folder / "even" / "000.png"])) == ["odd/001.png", "even/000.png"]


def test_a_list_may_come_from_windows_and_name_the_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "odd"))
    (folder / "list.txt").write_bytes(b"\xef\xbb\xbfeven/000.png\r\n\r\n~/001.png\r\n")
    assert ids_of(read(folder / "list.txt")) == ["even/000.png", "odd/001.png"]


def test_a_path_that_no_list_can_hold_is_left_out_and_told(tmp_path, caplog):
    write_path_list(tmp_path / "keep.txt", ["a.png", "b\n.png", "c.png"])
    assert (tmp_path / "keep.txt").read_text() == "a.png\nc.png\n"
    assert r"keep.txt leaves out 1 path with a line feed, such as 'b\n.png'" in caplog.text


def test_mvtec_folders_know_their_roles(tmp_path, digits):
    for index, name in enumerate(["train/good", "test/good", "test/scratch", "test/hole", "ground_truth/hole"]):
        (tmp_path / name).mkdir(parents=True)
        Image.fromarray(digits[index]).save(tmp_path / name / "000.png")
    found = {role: ids_of(read(tmp_path, role=role)) for role in ("fit", "predict", "inliers", "outliers")}
    assert found == {
        "fit": ["train/good/000.png"],
        "predict": ["test/good/000.png", "test/hole/000.png", "test/scratch/000.png"],
        "inliers": ["test/good/000.png"],
        "outliers": ["test/hole/000.png", "test/scratch/000.png"],
    }


class PairDataset(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return torch.from_numpy(self.images[index])[None], index % 3


def test_arrays_lists_torch_data_sets_and_streams_hold_the_same_images(tmp_path, digits):
    few = digits[:10]
    np.save(tmp_path / "few.npy", few)
    np.savez(tmp_path / "few.npz", images=few)
    expected = few.astype(np.float32)[:, None] / 255
    sources = [
        few,
        few[:, None],
        few[..., None],
        torch.from_numpy(few),
        list(few),
        [Image.fromarray(one) for one in few],
        PairDataset(few),
        (one for one in few),
        iter([(one, 3) for one in few]),
        torch.utils.data.DataLoader(PairDataset(few), batch_size=4),
        tmp_path / "few.npy",
        tmp_path / "few.npz",
    ]
    for source in sources:
        batches = read(source)
        np.testing.assert_array_equal(pixels_of(batches), expected)
        assert ids_of(batches) == [f"{index:06d}" for index in range(10)]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.bool_, np.float32, np.float64])
@pytest.mark.parametrize("layout", [(9, 10), (9, 10, 3), (3, 9, 10), (9, 10, 1), (4, 9, 10)])
def test_images_read_together_are_those_read_one_by_one(kind, layout):
    random = np.random.default_rng(0)
    images = random.random((5, *layout)) if np.dtype(kind).kind == "f" else random.integers(0, 256, (5, *layout))
    images = images.astype(kind)
    for channels in (1, 3, 4):
        preprocessing = Preprocessing(shape=(channels, 9, 10))
        together = preprocessing.together(list(images))
        if together is not None:
            one_by_one = np.stack([preprocessing(image) for image in images])
            assert together.tobytes() == one_by_one.tobytes()
            assert together.shape == one_by_one.shape
        planes = 1 if len(layout) == 2 else min(layout)
        assert (together is not None) == (planes == channels)


@pytest.mark.parametrize(("long", "several"), [(0.0, True), (1000.0, False)])
def test_images_that_take_long_to_read_are_read_in_several_threads(tmp_path, monkeypatch, long, several):
    monkeypatch.setattr(datasets, "_LONG", long)
    monkeypatch.setattr(datasets, "_READERS", 3)
    readers, read = set(), datasets.read_chunk

    def slowly(*given):
        readers.add(threading.get_ident())
        time.sleep(0.02)
        return read(*given)

    monkeypatch.setattr(datasets, "read_chunk", slowly)
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8)).astype(np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number:02}.png")
    batches = list(read_batches(open_images(tmp_path), Preprocessing(shape=(1, 8, 8)), 4))
    np.testing.assert_array_equal(np.concatenate([batch.pixels[:, 0] for batch in batches]), images / np.float32(255))
    assert len(readers - {threading.get_ident()}) == (3 if several else 1)


def test_one_bad_array_among_many_costs_one_row():
    images = np.random.default_rng(0).random((6, 3, 8, 8), dtype=np.float32)
    images[2, 0, 0, 0], images[4, 0, 0, 0] = np.nan, 1.5
    (batch,) = read_batches(open_images(images), Preprocessing(shape=(3, 8, 8)), 64)
    assert [error is not None for error in batch.errors] == [False, False, True, False, True, False]
    np.testing.assert_array_equal(batch.pixels, images[[0, 1, 3, 5]])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("/nowhere/at/all", "no file, folder, glob or data set"),
        ("mnist/validation", "a split of mnist among train, test"),
        ("mnist:cat", "classes of mnist among 0, 1"),
        ("/nowhere/*.png", "no file"),
        (np.zeros((0, 8, 8)), "no images"),
        ([], "no images"),
        (3, "got int"),
        (np.zeros((2, 2, 2, 8, 8)), "expected"),
    ],
)
def test_sources_that_are_none(source, words):
    with pytest.raises(InputError, match=words):
        open_images(source)


def test_an_empty_folder_and_a_damaged_archive_say_so(tmp_path):
    with pytest.raises(InputError, match="no images"):
        open_images(tmp_path)
    for name in ("a.npy", "a.npz"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 damaged")
        with pytest.raises(InputError, match="not a readable array file"):
            open_images(tmp_path / name)


def test_an_array_that_could_be_two_things_is_refused():
    with pytest.raises(InputError, match="add an axis"):
        open_images(np.zeros((3, 16, 16)), shape=(3, 16, 16))
    with pytest.raises(InputError, match="one grey image as"):
        open_images(np.zeros((16, 16)), shape=(1, 16, 16))
    assert open_images(np.zeros((16, 16, 3)), shape=(3, 16, 16)).size == 1
    assert open_images(np.zeros((5, 3)), shape=(3,)).size == 5
    assert open_images(np.zeros(3), shape=(3,)).size == 1


def test_a_bad_file_keeps_its_row_and_its_neighbours(folder):
    (folder / "even" / "000.png").write_bytes(b"")
    (folder / "odd" / "001.png").write_bytes(b"text")
    batches = read(folder)
    errors = {name: error for batch in batches for name, error in zip(batch.ids, batch.errors, strict=True) if error}
    assert set(errors) == {"even/000.png", "odd/001.png"}
    assert len(ids_of(batches)) == 40
    assert len(pixels_of(batches)) == 38


def test_skipped_ids_are_not_read(folder):
    batches = list(read_batches(open_images(folder), GREY, 7, skip=frozenset({"even/000.png"})))
    assert "even/000.png" not in ids_of(batches)
    assert len(ids_of(batches)) == 39


def test_guessed_shapes(digits, folder, tmp_path):
    def guess(source, size=None):
        return guess_preprocessing(open_images(source), size)[0].shape

    assert guess(digits[:3]) == (1, 8, 8)
    assert guess(digits[:3], (24, 32)) == (1, 24, 32)
    assert guess(folder) == (1, 8, 8)
    assert guess(np.zeros((5, 7))) == (7,)
    Image.new("RGB", (200, 300)).save(tmp_path / "large.png")
    assert guess(tmp_path / "large.png") == (3, 64, 64)
    Image.new("RGB", (8, 8)).save(folder / "colour.png")
    assert guess(folder) == (3, 8, 8)
    with pytest.raises(InputError, match="can be read"):
        guess([b"", b""])


def test_guessing_the_shape_of_a_stream_loses_none_of_it(digits):
    seen, images = guess_preprocessing(open_images(iter(digits[:70])))
    assert seen.shape == (1, 8, 8)
    np.testing.assert_array_equal(pixels_of(list(read_batches(images, GREY, 32)))[:, 0] * 255, digits[:70])


def test_selected_images_keep_their_names(folder):
    images = open_images(folder)
    chosen = images.select([3, 0])
    assert chosen.ids == [images.ids[3], images.ids[0]]
    assert isinstance(chosen, ImageSet)
    assert chosen.entry(1)[0] == folder / images.ids[0]


def test_links_are_followed_but_not_in_circles(folder, tmp_path):
    (folder / "round").symlink_to(folder)
    (tmp_path / "other").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "other" / "linked.png")
    (folder / "away").symlink_to(tmp_path / "other")
    names = ids_of(read(folder))
    assert "away/linked.png" in names
    assert len(names) == 41


def test_a_link_to_itself_is_one_image_that_cannot_be_read(folder):
    (folder / "loop.png").symlink_to("loop.png")
    (batch,) = read_batches(open_images(folder), Preprocessing(shape=(1, 8, 8)), 100)
    assert len(batch.ids) == 41
    assert batch.unreadable() == [("loop.png", "cannot be read: Too many levels of symbolic links")]


def test_a_list_gives_one_row_an_item_in_order(folder, screens, digits):
    first, second = folder / "even" / "000.png", folder / "odd" / "001.png"
    around = folder / "odd" / ".." / "even" / "000.png"
    listed = [first, second, first, str(around), folder / "gone.png"]
    verdicts = screens("pca").predict(listed)
    assert verdicts.ids == ("even/000.png", "odd/001.png", "even/000.png (2)", "even/000.png (3)", "gone.png")
    assert verdicts.instance_score[0] == verdicts.instance_score[2] == verdicts.instance_score[3]
    assert verdicts.words[4] == "invalid"
    (folder / "even" / "000.png (2)").write_bytes(first.read_bytes())
    names = ids_of(read([first, folder / "even" / "000.png (2)", first]))
    assert names == ["000.png", "000.png (2)", "000.png (3)"]
    picture = Image.fromarray(digits[0])
    for same in (picture, digits[0], first.read_bytes(), first):
        found = screens("pca").predict([same, same])
        assert len(found) == len(set(found.ids)) == 2
        assert found.instance_score[0] == found.instance_score[1] == verdicts.instance_score[0]
    assert len(set(ids_of(read([folder / "even"] * 2)))) == 40


def test_a_sweep_of_a_list_with_a_file_twice_has_a_row_for_each(folder, screens, tmp_path):
    from recondite.data.tables import read_events
    from recondite.screen.sweep import sweep

    first, second = folder / "even" / "000.png", folder / "odd" / "001.png"
    sweep(screens("pca"), [first, second, first], tmp_path / "v.csv", maps=tmp_path / "maps")
    assert [row["id"] for row in read_events(tmp_path / "v.csv")] == [
        *("even/000.png", "odd/001.png", "even/000.png (2)")
    ]
    assert len([*(tmp_path / "maps").rglob("*.png")]) == 3


def test_to_fit_a_file_named_twice_counts_once_and_is_told(folder, caplog):
    first, around = folder / "even" / "000.png", folder / "odd" / ".." / "even" / "000.png"
    with caplog.at_level(logging.WARNING):
        images = open_images([first, around, folder / "odd" / "001.png"], role="fit")
    assert images.ids == ["even/000.png", "odd/001.png"]
    assert caplog.messages == ["1 file of the list named again: to fit, each counts once"]


def test_paths_in_lists_are_like_single_ones(folder, tmp_path, monkeypatch, digits):
    monkeypatch.setenv("HOME", str(folder))
    expected = pixels_of(read(folder / "even" / "000.png"))
    uri = (folder / "even" / "000.png").as_uri()
    for source in ("~/even/000.png", uri, ["~/even/000.png"], [uri], [f"{folder}/even/00*.png"][:1]):
        np.testing.assert_array_equal(pixels_of(read(source))[:1], expected)
    (tmp_path / "a b#c").mkdir()
    Image.fromarray(digits[3]).save(tmp_path / "a b#c" / "ä.png")
    assert ids_of(read((tmp_path / "a b#c").as_uri())) == ["ä.png"]
    assert ids_of(read([folder / "odd", folder / "even" / "000.png"]))[-2:] == ["odd/039.png", "even/000.png"]
    assert ids_of(read([folder])) == ids_of(read(folder))
    assert ids_of(read(["digits/test:1", folder / "even" / "000.png"]))[-1] == "000.png"
    assert datasets.same_everywhere("s3://bucket/folder") == "s3://bucket/folder"
    assert datasets.same_everywhere(uri) == str(folder / "even" / "000.png")
    assert datasets.same_everywhere(["~/even"]) == [str(folder / "even")]


def test_names_that_become_the_same_text_are_told_apart(tmp_path, digits):
    import os

    Image.fromarray(digits[0]).save(tmp_path / "a.png")
    os.rename(os.fsencode(tmp_path / "a.png"), os.path.join(os.fsencode(tmp_path), b"bad\xff.png"))  # noqa: PTH104, PTH118
    Image.fromarray(digits[1]).save(tmp_path / "bad\\xff.png")
    assert len(set(ids_of(read(tmp_path)))) == 2


def test_names_that_are_no_text_become_text(tmp_path, digits):
    import os

    Image.fromarray(digits[0]).save(tmp_path / "a.png")
    os.rename(os.fsencode(tmp_path / "a.png"), os.path.join(os.fsencode(tmp_path), b"bad\xff.png"))  # noqa: PTH104, PTH118
    (batch,) = read(tmp_path)
    assert batch.ids == ["bad\\xff.png"]
    assert batch.errors == [None]
    batch.ids[0].encode("utf-8")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("recondite.data.arrays._LARGEST_ARCHIVE", 1000)
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((100, 8, 8)))
    with pytest.raises(InputError, match="unpacks to"):
        open_images(tmp_path / "a.npz")


@pytest.mark.parametrize("role", ["fit", "predict"])
def test_an_empty_path_is_not_this_folder(tmp_path, monkeypatch, role):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    assert open_images(".", role=role).ids == ["a.png"]
    with pytest.raises(InputError, match="got an empty one"):
        open_images("", role=role)


def test_names_of_a_mapping_are_not_taken_for_images():
    with pytest.raises(InputError, match="got dict"):
        open_images({"train": np.zeros((3, 8, 8)), "test": np.zeros((3, 8, 8))})

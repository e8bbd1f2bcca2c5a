"""Data sets of defects in the layouts of the field."""

import csv
import io
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image

from recondite import InputError
from recondite.data.datasets import open_images
from recondite.data.layouts import masks_of, sets_among, sets_in
from recondite.data.truth import check_truth


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(path)


@pytest.fixture
def mvtec(tmp_path):
    root = tmp_path / "sets" / "bottle"
    for name in ("train/good/0.png", "train/good/1.png", "test/good/0.png", "test/dent/0.png", "test/hole/0.png"):
        put(root / name)
    put(root / "ground_truth" / "dent" / "0_mask.png")
    return root


@pytest.fixture
def visa(tmp_path):
    root = tmp_path / "visa" / "candle"
    rows = []
    for split, label, folder, name in (
        ("train", "normal", "Normal", "0.JPG"),
        ("train", "normal", "Normal", "1.JPG"),
        ("test", "normal", "Normal", "2.JPG"),
        ("test", "anomaly", "Anomaly", "0.JPG"),
    ):
        image = f"candle/Data/Images/{folder}/{name}"
        put(root.parent / image)
        rows.append({"object": "candle", "split": split, "label": label, "image": image, "mask": ""})
    rows.append({**rows[0], "object": "pcb1", "image": "pcb1/Data/Images/Normal/0.JPG"})
    table = root.parent / "split_csv" / "1cls.csv"
    table.parent.mkdir()
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (root / "Data" / "Masks").mkdir()
    return root


def ids(root, role):
    return open_images(str(root), role=role).ids


@pytest.mark.parametrize("place", ["bottle/train/good", "bottle/test", "bottle/test/dent", "."])
def test_hidden_folders_hold_no_images_and_are_no_defects(mvtec, place):
    roles = ("fit", "predict", "inliers", "outliers")
    before = [ids(mvtec, role) for role in roles]
    for name in ("0-checkpoint.png", "train/good/0.png"):
        put(mvtec.parent / place / ".ipynb_checkpoints" / name)
    assert [ids(mvtec, role) for role in roles] == before
    assert sets_in(mvtec.parent) == [mvtec]


def test_an_audit_sees_every_part_but_the_masks(mvtec):
    assert len(ids(mvtec, "all")) == len(ids(mvtec, "fit")) + len(ids(mvtec, "predict"))
    assert not [one for one in ids(mvtec, "all") if one.startswith("ground_truth")]


def test_mvtec(mvtec):
    assert ids(mvtec, "fit") == ["train/good/0.png", "train/good/1.png"]
    assert ids(mvtec, "inliers") == ["test/good/0.png"]
    assert ids(mvtec, "outliers") == ["test/dent/0.png", "test/hole/0.png"]
    assert open_images(str(mvtec), role="outliers").labels == ["dent", "hole"]
    assert len(ids(mvtec, "predict")) == 3
    assert masks_of(mvtec) == mvtec / "ground_truth"


def test_what_is_taken_of_a_data_set_is_said(mvtec, visa, caplog):
    for root, role, told in ((mvtec, "fit", "train/good"), (mvtec, "predict", "test")):
        caplog.clear()
        open_images(root, role=role)
        assert [record.getMessage() for record in caplog.records] == [
            f"{root} is a data set of defects: reading only {told}"
        ]
    caplog.clear()
    open_images(visa, role="fit")
    assert f"{visa} is a data set of defects: reading only 2 images of its table" in caplog.text
    caplog.clear()
    open_images(mvtec / "train")
    assert caplog.records == []


def test_visa(visa):
    assert ids(visa, "fit") == ["Data/Images/Normal/0.JPG", "Data/Images/Normal/1.JPG"]
    assert ids(visa, "inliers") == ["Data/Images/Normal/2.JPG"]
    assert ids(visa, "outliers") == ["Data/Images/Anomaly/0.JPG"]
    assert open_images(str(visa), role="predict").labels == ["Normal", "Anomaly"]
    assert masks_of(visa) == visa / "Data" / "Masks"
    (visa.parent / "split_csv" / "1cls.csv").write_text(
        "object,split,label,image,mask\ncandle,train,normal,../x.png,\n"
    )
    with pytest.raises(InputError, match="does not lie in candle"):
        ids(visa, "fit")
    (visa.parent / "split_csv" / "1cls.csv").unlink()
    with pytest.raises(InputError, match=r"1cls\.csv.* is missing"):
        ids(visa, "fit")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"candle,train,normal", "more or fewer cells"),
        (b"candle,train,normal,candle/Data/\xe9.JPG,", "not text in UTF-8"),
        (b"candle,train,normal,candle2/Data/Images/Normal/0.JPG,", "does not lie in candle"),
        (b"candle,train,normal,candle,", "does not lie in candle"),
        (b"candle,train,normal,,", "does not lie in candle"),
    ],
)
def test_a_table_of_visa_that_is_damaged_is_refused_in_words(visa, line, words):
    table = visa.parent / "split_csv" / "1cls.csv"
    table.write_bytes(b"object,split,label,image,mask\n" + line + b"\n")
    with pytest.raises(InputError, match=rf"1cls\.csv.*{words}"):
        ids(visa, "fit")
    table.write_bytes(b"object,split,label,file,mask\n")
    with pytest.raises(InputError, match=r"1cls\.csv: expected a table with the columns object, split, label, image"):
        ids(visa, "fit")


def test_paths_of_windows_in_a_table_of_visa_are_read(visa):
    table = visa.parent / "split_csv" / "1cls.csv"
    table.write_text(table.read_text().replace("/", "\\"))
    assert ids(visa, "fit") == ["Data/Images/Normal/0.JPG", "Data/Images/Normal/1.JPG"]


def test_no_folder_that_was_named_is_passed_over(mvtec, visa, flat, tmp_path):
    assert sets_among([mvtec.parent, visa]) == [mvtec, visa]
    with pytest.raises(InputError, match=r"no data set of defects .* in .*bottel"):
        sets_among([mvtec, tmp_path / "bottel"])
    for folder in (flat, flat.parent):
        with pytest.raises(InputError, match=r"flat does not say which .* part them into train/good and test/good"):
            sets_among([mvtec, folder])
    with pytest.raises(InputError, match="no data set of defects was given"):
        sets_among([])


def test_one_level_too_high_is_refused_with_the_right_path(mvtec, tmp_path):
    with pytest.raises(InputError, match=r"1 data set .*such as .*bottle"):
        ids(mvtec.parent, "fit")
    with pytest.raises(InputError, match=r"test with.*test/good"):
        ids(mvtec / "test", "fit")
    assert len(ids(mvtec / "train", "fit")) == 2
    put(tmp_path / "own" / "train" / "0.png")
    put(tmp_path / "own" / "test" / "0.png")
    with pytest.raises(InputError, match=r"give .*own/train"):
        ids(tmp_path / "own", "fit")
    assert len(ids(tmp_path / "own", "predict")) == 2
    for role in ("predict", "inliers", "outliers"):
        with pytest.raises(InputError, match=r"1 data set .*such as .*bottle"):
            ids(mvtec.parent, role)


def test_a_part_that_is_missing_is_named(tmp_path):
    put(tmp_path / "set" / "train" / "good" / "0.png")
    for role, part in (("predict", "test"), ("inliers", "test/good")):
        with pytest.raises(InputError, match=f"has train/good, and no {part}: name"):
            ids(tmp_path / "set", role)
    assert len(ids(tmp_path / "set", "fit")) == 1


def test_sets_are_found(mvtec, visa):
    assert sets_in(mvtec) == [mvtec]
    assert sets_in(mvtec.parent) == [mvtec]
    assert sets_in(visa.parent) == [visa]
    assert sets_in(visa / "Data") == []


@pytest.fixture
def flat(tmp_path):
    root = tmp_path / "parts" / "flat"
    for name in ("good/0.png", "good/1.png", "bad/0.png", "scratch/2.png", "masks/bad/0_mask.png", "masks/2.png"):
        put(root / name)
    return root


def test_a_flat_folder_of_good_and_bad_parts_is_a_data_set(flat, caplog):
    assert ids(flat, "fit") == ids(flat, "inliers") == ["good/0.png", "good/1.png"]
    assert ids(flat, "outliers") == ["bad/0.png", "scratch/2.png"]
    assert (
        ids(flat, "predict") == ids(flat, "all") == ids(flat, "classes") == [*ids(flat, "fit"), *ids(flat, "outliers")]
    )
    assert open_images(flat, role="predict").labels == ["good", "good", "bad", "scratch"]
    caplog.clear()
    open_images(flat, role="inliers")
    assert "reading only good; what a screen was fitted on is no test of it" in caplog.text


@pytest.mark.parametrize(
    ("good", "other"),
    [("OK", "NOK"), ("Normal", "Anomaly"), ("good", "defects"), ("ok", "ko"), ("good", "ground_truth")],
)
def test_good_parts_and_bad_ones_go_by_many_names(tmp_path, good, other):
    put(tmp_path / good / "0.png")
    put(tmp_path / other / "0.png")
    assert ids(tmp_path, "fit") == [f"{good}/0.png"]


@pytest.mark.parametrize("names", [("cat", "dog"), ("good", "fair"), ("bad", "masks"), ("line 1", "line 2")])
def test_folders_of_classes_are_read_whole(tmp_path, names):
    for name in names:
        put(tmp_path / name / "0.png")
    for role in ("all", "fit", "predict", "inliers", "outliers", "classes"):
        assert len(ids(tmp_path, role)) == 2


def test_a_classifier_knows_good_and_bad_alike(tmp_path):
    for name in ("ok", "bad"):
        put(tmp_path / name / "0.png")
    assert open_images(tmp_path, role="classes").labels == ["bad", "ok"]


def test_a_folder_of_flat_sets_is_refused_where_good_images_are_meant(flat):
    for role in ("fit", "inliers", "outliers"):
        with pytest.raises(InputError, match=r"1 data set of good images and bad ones.*such as .*flat"):
            ids(flat.parent, role)
    assert len(ids(flat.parent, "predict")) == 6


def test_parts_of_a_visa_object_are_refused_with_the_object(visa, monkeypatch):
    put(visa / "Data" / "Masks" / "Anomaly" / "0.png")
    for part, roles in (("Data", ("fit", "predict", "inliers", "classes")), ("Data/Images", ("fit", "inliers"))):
        for role in roles:
            with pytest.raises(InputError, match=r"part of the data set .*candle that mixes .*Images.Normal"):
                ids(visa / part, role)
    monkeypatch.chdir(visa / "Data")
    with pytest.raises(InputError, match=r"part of the data set .*candle"):
        ids(".", "fit")
    assert len(ids(visa / "Data" / "Images", "predict")) == len(ids(visa / "Data" / "Images", "classes")) == 4
    assert len(ids(visa / "Data" / "Images" / "Normal", "fit")) == 3


def test_masks_are_no_images_of_a_data_set(mvtec, visa, flat, monkeypatch):
    put(visa / "Data" / "Masks" / "Anomaly" / "0.png")
    folders = {
        mvtec: ("ground_truth", "ground_truth/dent"),
        visa: ("Data/Masks", "Data/Masks/Anomaly"),
        flat: ("masks", "masks/bad"),
    }
    for root, parts in folders.items():
        for part in parts:
            put(root / part / "9_mask.png")
            for role in ("fit", "inliers", "outliers"):
                with pytest.raises(
                    InputError, match=rf"holds masks of the data set .*{root.name}, .*give the data set"
                ):
                    ids(root / part, role)
    monkeypatch.chdir(mvtec / "ground_truth")
    with pytest.raises(InputError, match=r"holds masks of the data set"):
        ids(".", "fit")
    put(flat.parent / "products" / "masks" / "0.png")
    assert ids(flat.parent / "products" / "masks", "fit") == ["0.png"]


def test_a_test_folder_is_refused_wherever_it_is_named_from(mvtec, monkeypatch):
    put(mvtec / "test" / "broken" / "0.png")
    monkeypatch.chdir(mvtec / "test")
    with pytest.raises(InputError, match=r"test with.*good"):
        ids(".", "fit")


def test_good_images_of_btad_are_called_ok(tmp_path):
    for name in ("train/ok/0.png", "test/ok/0.png", "test/ko/0.png", "ground_truth/ko/0.png"):
        put(tmp_path / name)
    found = {role: ids(tmp_path, role) for role in ("fit", "inliers", "outliers")}
    assert found == {"fit": ["train/ok/0.png"], "inliers": ["test/ok/0.png"], "outliers": ["test/ko/0.png"]}
    assert sets_in(tmp_path) == [tmp_path]


def test_masks_lie_in_folders_of_defects_or_beside_each_other(flat):
    names = ids(flat, "outliers")
    check_truth(flat / "masks", names)
    (flat / "masks" / "bad" / "0_mask.png").rename(flat / "masks" / "0.png")
    check_truth(flat / "masks", names)
    with pytest.raises(InputError, match=r"would be a mask of images in bad and scratch"):
        check_truth(flat / "masks", [*names, "scratch/0.png"])
    with pytest.raises(InputError, match=r"no mask for bad/9\.png: expected .*masks.bad.9_mask\.png"):
        check_truth(flat / "masks", ["bad/9.png"])
    put(flat / "bad" / "7.png")
    with pytest.raises(InputError, match="no mask for"):
        check_truth(flat / "masks", [str(flat / "bad" / "7.png")])


@pytest.mark.parametrize(
    ("names", "refused", "given"),
    [
        (
            ["train/good/0.png", "test/good/0.png", "test/dent/0.png"],
            "fit predict inliers outliers classes",
            "train/good",
        ),
        (["Data/Images/Normal/0.png", "Data/Masks/0.png"], "fit predict classes", "Data/Images/Normal"),
        (["ok/0.png", "scratch/0.png", "masks/0.png"], "fit inliers outliers", "ok"),
        (["cat/0.png", "good/0.png", "0.png"], "", ""),
    ],
)
def test_a_data_set_of_defects_in_a_store_is_not_learnt_from_whole(names, refused, given, digits):
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    folder = f"/{uuid4().hex}"
    content = io.BytesIO()
    Image.fromarray(digits[0]).save(content, "PNG")
    for name in names:
        system.pipe(f"{folder}/{name}", content.getvalue())
    for role in ("all", "fit", "predict", "inliers", "outliers", "classes"):
        if role in refused.split():
            with pytest.raises(InputError, match=f"is laid out as a data set of defects.*such as that of {given}$"):
                open_images(f"memory:/{folder}", role=role)
            assert open_images(f"memory:/{folder}/{given}", role=role).size == 1
        elif given != "Data/Images/Normal":
            assert open_images(f"memory:/{folder}", role=role).size == len(names)

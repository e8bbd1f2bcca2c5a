"""Data sets of defects in the layouts of the field."""

import csv

import numpy as np
import pytest
from PIL import Image

from recondite import InputError
from recondite.data.datasets import open_images
from recondite.data.layouts import masks_of, sets_in


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

"""Tables of images: paths and labels in CSV files, read as manifests are."""

import numpy as np
import pytest

from recondite.cli import main
from recondite.cluster.sources import open_source
from recondite.data.datasets import open_images
from recondite.data.tables import rows_of_csv
from recondite.errors import InputError
from recondite.screen.classes import with_classes


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "image,label\neven/000.png,cat\nodd/001.png,dog\n"),
        ("a.csv", "path;class\r\neven/000.png;cat\r\nodd/001.png;dog\r\n"),
        ("a.tsv", "filename\tlabel\neven/000.png\tcat\nodd/001.png\tdog\n"),
        ("a.CSV", "\ufeff\n,Image Path,split,Target\n0,even/000.png,train,cat\n\n1,odd/001.png,test,dog\n,,,\n"),
        ("a.csv", 'id, label\n"even/000.png", "cat"\n ./odd/../odd/001.png ,dog\n'),
        ("a.csv", "image_id,label\neven/000,cat\nodd/001,dog\n"),
        ("a.csv", "label,ImageId,mask\ncat,even\\000.png,\ndog,odd\\001.png,masks/001.png\n"),
        ("a.csv", "id,photo,score,category\n1,even/000.png,.5,cat\n2,odd/001.png,.2,dog\n"),
        ("a.csv", "image,path,label,class\neven/000.png,x.png,cat,1\nodd/001.png,y.png,dog,2\n"),
        ("a.csv", "file_name,label,class\neven/000.png,,cat\nodd/001.png,,dog\n"),
        ("a.csv", "group,file_name,category\n0,even/000.png,cat\n1,odd/001.png,dog\n"),
    ],
)
def test_a_table_is_read_as_people_write_it(folder, name, text):
    images = open_images(write(folder / name, text))
    assert (images.ids, images.labels) == (["even/000.png", "odd/001.png"], ["cat", "dog"])
    assert [images.entry(index)[0] for index in range(2)] == [folder / "even" / "000.png", folder / "odd" / "001.png"]


def test_a_table_is_a_source_like_the_folder_that_it_lists(screens, folder, tmp_path):
    found = open_images(folder)
    rows = [f"{folder / name},{label}\n" for name, label in zip(found.ids, found.labels, strict=True)]
    table = write(tmp_path / "all.csv", "image,label\n" + "".join(rows))
    for source in (table, str(table), [str(table)], str(tmp_path / "*.csv")):
        listed = open_images(source)
        assert (listed.ids, listed.labels) == (found.ids, found.labels)
    np.testing.assert_array_equal(
        screens("pca").predict(table).instance_score, screens("pca").predict(folder).instance_score
    )
    assert with_classes(table, None).labels == found.labels
    assert open_source(table, None, role="all").listed.labels == found.labels


def test_a_table_leaves_out_of_a_fit_what_is_labelled_anomalous_and_what_is_named_again(folder, caplog):
    rows = "even/000.png;OK\neven/002.png;ok\neven/000.png;ok\nodd/001.png;NG\n"
    table = write(folder / "parts.csv", "path;class\n" + rows)
    assert open_images(table).ids == ["even/000.png", "even/002.png", "even/000.png (2)", "odd/001.png"]
    assert [open_images(table, role=role).size for role in ("predict", "fit", "inliers", "outliers")] == [4, 2, 3, 1]
    assert "left out: labelled ng" in caplog.text


def test_an_image_of_a_table_that_is_not_there_is_one_row(screens, folder):
    table = write(folder / "a.csv", "id,verdict\nodd/001.png,inlier\nodd/none.png,inlier\nodd\\gone.png,\nodd/none,\n")
    verdicts = screens("pca").predict(table)
    assert verdicts.ids == ("001.png", "none.png", "gone.png", "none")
    assert [error is None for error in verdicts.errors] == [True, False, False, False]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("even/000.png,cat\n", "expected a header, such as image,label; its first line names an image"),
        ("a,b\n1,2\n", "no column names images: expected one of paths, called image, .*; it has: 'a', 'b'"),
        ("left,right\na.png,b.png\n", "the columns 'left' and 'right' may each be that of the images: .* 'image'"),
        ("path,url\na.png,s3://b/a.png\n", "the columns 'path' and 'url' may each"),
        ("image,image\na.png,b.png\n", "the columns 'image' and 'image' may each"),
        ("image,class,target\na.png,1,2\n", "the columns 'class' and 'target' may each be that of the labels"),
        ("image,label\na.png,1\n\n,2\n", "line 4: names no image; its column 'image' is empty"),
        ("image,label\na.png\n", "line 2 has more or fewer cells than the header"),
        ("id,verdict\nx/1.png,inlier\n", r"none of its images is there, such as .*/x/1\.png: .* from the folder"),
        ("id,label\n" + "7" * 300 + ",cat\n", "none of its images is there"),
        ("image,label\n", "no images in"),
        ("", "no images in"),
    ],
)
def test_a_table_that_does_not_tell_its_images_is_refused_in_words(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        open_images(write(tmp_path / "a.csv", text))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_in_another_encoding_is_told_how_to_save_it(tmp_path, encoding):
    with pytest.raises(InputError, match="not text in UTF-8: save it as CSV UTF-8"):
        open_images(write(tmp_path / "a.csv", "image,label\nmüll.png,x\n", encoding))


def test_which_columns_were_taken_is_said_where_there_are_others(folder, caplog):
    open_images(write(folder / "a.csv", "image,label\neven/000.png,cat\n"))
    assert caplog.text == ""
    open_images(write(folder / "a.csv", "image,split\neven/000.png,test\n"))
    assert "images are those of the column 'image', without labels" in caplog.text
    open_images(write(folder / "a.csv", "image,split,class\neven/000.png,test,cat\n"))
    assert "of the column 'image', their labels those of 'class'" in caplog.text


def test_a_glob_of_images_passes_over_tables_beside_them_and_says_so(folder, caplog):
    write(folder / "even" / "metadata.csv", "file_name,label\n000.png,cat\n")
    assert open_images(str(folder / "even" / "*")).size == 20
    assert "1 file was not taken for an image (.csv 1)" in caplog.text


def test_a_table_in_a_store_names_what_is_beside_it(folder):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/parts/a/1.png", (folder / "even" / "000.png").read_bytes())
    memory.pipe("/parts/list.csv", b"image,label\na/1.png,cat\nmemory://parts/b/2.png,dog\n")
    images = open_images("memory://parts/list.csv")
    assert (images.ids, images.labels) == (["a/1.png", "b/2.png"], ["cat", "dog"])
    assert images.entry(0)[0].fetch() == (folder / "even" / "000.png").read_bytes()


def test_a_name_that_a_spreadsheet_would_take_for_a_formula_is_meant_without_its_mark(folder):
    (folder / "even" / "000.png").rename(folder / "=1.png")
    assert open_images(write(folder / "a.csv", "id\n'=1.png\n")).entry(0)[0] == folder / "=1.png"


def test_empty_lines_of_any_table_are_passed_over(tmp_path):
    path = write(tmp_path / "groups.csv", "\nid;group\na.png;1\n\n;\n \nb.png;2\n")
    assert [row["id"] for row in rows_of_csv(path, ("id", "group"))] == ["a.png", "b.png"]


def test_the_command_judges_a_table_and_does_not_write_over_it(digit_screen, folder, capsys):
    table = write(folder / "list.csv", "image,label\neven/000.png,even\nodd/001.png,odd\n")
    assert main(["predict", str(digit_screen), str(table), "-o", str(folder.parent / "out.csv")]) == 0
    assert len((folder.parent / "out.csv").read_text().splitlines()) == 3
    assert main(["predict", str(digit_screen), str(table), "-o", str(table)]) == 2
    assert "is what is read" in capsys.readouterr().err

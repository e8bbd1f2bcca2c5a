import io
import os
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from recondite.cluster.shards import ShardImages
from recondite.cluster.sources import LARGEST_PIXELS, ListedSource, Piece, open_source
from recondite.data.datasets import ImageSet
from recondite.errors import InputError

SHAPE = (1, 8, 8)


def test_pieces_are_all_of_the_source_in_order(folder):
    source = open_source(folder, (1, 8, 8))
    pieces = list(source.pieces(16))
    assert pieces == [Piece(0, 0, 16), Piece(0, 16, 32), Piece(0, 32, 40)]
    names = [name for piece in pieces for name in source.images(piece).ids]
    assert names == sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert source.images(pieces[1]).parallel


def test_pixels_that_travel_are_limited():
    images = np.zeros((20, 512, 512, 3), dtype=np.float32)
    pieces = list(open_source(images, (3, 64, 64)).pieces(2000))
    assert pieces[0].stop * images[0].nbytes <= LARGEST_PIXELS
    assert pieces[-1].stop == 20


def test_a_folder_of_tars_is_its_tars(tmp_path):
    for name in ("b.tar", "a/c.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with tarfile.open(tmp_path / name, "w") as tar:
            tar.addfile(tarfile.TarInfo("1.png"), io.BytesIO(b""))
    source = open_source(tmp_path, (1, 8, 8))
    assert source.size is None
    assert [source.images(piece).items.name for piece in source.pieces(10)] == ["a/c.tar", "b.tar"]
    assert isinstance(source.images(Piece(0, 0, None)), ShardImages)
    assert source.count(0) == 1
    assert source.fingerprint() != open_source(tmp_path / "b.tar", (1, 8, 8)).fingerprint()


def test_a_folder_of_tars_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b.tar").write_bytes(b"")
    scan = os.scandir

    def refusing(path):
        if os.fspath(path).endswith("a"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match="cannot be listed"):
        open_source(tmp_path, (1, 8, 8))


def test_wrong_sources_are_refused(folder, digits):
    with pytest.raises(InputError, match="walked through again"):
        open_source(iter(digits), (1, 8, 8))
    with pytest.raises(InputError, match="different ids"):
        open_source(ImageSet(digits[:2], ids=["a", "a"]), (1, 8, 8))
    (folder / "extra.tar").write_bytes(b"")
    with pytest.raises(InputError, match="side by side"):
        open_source(folder, (1, 8, 8))
    assert isinstance(open_source(digits[:4], (1, 8, 8)), ListedSource)


def test_a_source_that_was_written_anew_is_another(folder, digits, tmp_path):
    """The names are the same; a sweep that was interrupted or finished must not be taken up."""
    first = open_source(folder, SHAPE).fingerprint()
    assert open_source(folder, SHAPE).fingerprint() == first
    Image.fromarray(digits[50]).save(folder / "even" / "000.png")
    assert open_source(folder, SHAPE).fingerprint() != first
    shutil.copytree(folder, tmp_path / "copy" / "images")
    assert open_source(tmp_path / "copy" / "images", SHAPE).fingerprint() != open_source(folder, SHAPE).fingerprint()
    tar = tmp_path / "tars" / "a.tar"
    tar.parent.mkdir()
    prints = []
    for member in ("000.png", "002.png"):
        with tarfile.open(tar, "w") as archive:
            archive.add(folder / "even" / member, "same.png")
        prints.append(open_source(tar.parent, SHAPE).fingerprint())
    assert prints[0] != prints[1]
    assert open_source(digits[:4], SHAPE).fingerprint() != open_source(digits[1:5], SHAPE).fingerprint()

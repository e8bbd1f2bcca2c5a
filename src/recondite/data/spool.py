"""Images read once and spooled to disk, with pixel hashes, and splits that keep identical images together."""

import hashlib
import mmap
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from recondite.data.datasets import Batch, ImageSet, open_images, read_batches
from recondite.data.images import Floats, Preprocessing
from recondite.data.units import (
    COPIES,
    FOLDER,
    PREFIX,
    GroupBy,
    check_group_by,
    components,
    labelled,
    labels_of,
    thumbnails,
    unit_keys,
)
from recondite.distributed import all_gather, rank_and_size
from recondite.errors import InputError
from recondite.progress import progress

_CHUNK_BYTES = 1 << 26
_LARGEST_READ, _READS_IN_A_CHUNK = 256, 16

FEWEST_VALIDATED = 10


def rows_at_once(shape: tuple[int, ...]) -> int:
    """Return how many images of a shape make up 64 MB, at least one; so memory does not grow with their size."""
    return max(1, _CHUNK_BYTES // (4 * prod(shape)))


def images_in_a_read(shape: tuple[int, ...]) -> int:
    """Return how many images of a shape are read together: at most 256, and 4 MB, at least one."""
    return max(1, min(_LARGEST_READ, rows_at_once(shape) // _READS_IN_A_CHUNK))


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
        taken = np.asarray(self.pixels[self.index[chosen]])
        if isinstance(self.pixels.base, mmap.mmap):
            # The system keeps what was read of a file as long as it has room; it need not count as ours.
            self.pixels.base.madvise(mmap.MADV_DONTNEED)
        return taken

    def batches(self, size: int | None = None) -> Iterator[Floats]:
        """Yield the pixels in order, `size` rows at a time; by default as many as make a chunk of 64 MB."""
        for part in self.slices(size or rows_at_once(self.pixels.shape[1:])):
            yield self.take(part)

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean and the standard deviation of each value over all rows (*shape), in two passes."""
        total = sum(batch.sum(axis=0, dtype=np.float64) for batch in self.batches())
        mean = np.asarray(total / len(self))
        squares = sum(np.square(batch - mean).sum(axis=0) for batch in self.batches())
        return mean, np.sqrt(np.asarray(squares) / len(self))

    def slices(self, size: int) -> list[slice]:
        """Return what `take` takes for each batch of `size` rows, in order."""
        return [slice(start, min(start + size, len(self))) for start in range(0, len(self), size)]


@dataclass(frozen=True)
class Spool:
    """Every readable image of a source, preprocessed once and kept in a temporary file on disk (or the caller's array).

    Args:
        pixels: float32 (N, *shape), memory-mapped.
        hashes: (N,) a hash of each image's pixels; equal images have equal hashes.
        small: float32 (N, at most 256), likewise: what near-copies are found by; see `recondite.data.units.thumbnails`.
        ids, labels: of the N images.
        bad: (id, reason) of each image that could not be read.
    """

    pixels: Floats
    hashes: NDArray[np.void]
    small: Floats
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


def read_all(images: ImageSet, preprocessing: Preprocessing, shown: bool = False) -> Spool:
    """Read every image of a source once, a few batches of at most 4 MB ahead.

    Processes that work together share the reading, and all of them have all images in the end.

    Raises:
        InputError: there was not a single readable image, or the disk is full.
    """
    size = images_in_a_read(preprocessing.shape)
    with progress("reading images", images.size, shown) as advance:

        def counted() -> Iterator[Batch]:
            for batch in _from_all(read_batches(images, preprocessing, size, share=rank_and_size())):
                advance(len(batch.ids), "")
                yield batch

        return spool(counted(), preprocessing.shape)


def _from_all(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the batches of all processes in order; each gives those that `read_batches` read for its share."""
    everybody = True
    while everybody:
        read = all_gather(next(batches, None))
        everybody = None not in read
        yield from (batch for batch in read if batch is not None)


def spool(batches: Iterable[Batch], shape: tuple[int, ...]) -> Spool:
    """Write batches to a temporary file that vanishes with the process; memory does not grow with their number.

    It takes 4 bytes a value (12 kB an image of 32 x 32 x 3) in the system's temporary folder (TMPDIR), and its
    thumbnails a kilobyte an image beside it.

    Raises:
        InputError: there was not a single readable image, or the disk is full.
    """
    hashes: list[bytes] = []
    ids: list[str] = []
    labels: list[str] = []
    bad: list[tuple[str, str]] = []
    with tempfile.TemporaryFile(prefix="recondite-") as file, tempfile.TemporaryFile(prefix="recondite-") as beside:
        for batch in batches:
            readable = batch.only_good()
            ids.extend(readable.ids)
            labels.extend(readable.labels)
            bad.extend(batch.unreadable())
            hashes.extend(_hashes(batch.pixels))
            small = thumbnails(batch.pixels)
            try:
                file.write(np.ascontiguousarray(batch.pixels).data)
                beside.write(np.ascontiguousarray(small).data)
            except OSError as error:
                raise InputError(f"cannot keep the images in {tempfile.gettempdir()} (set TMPDIR): {error}") from error
        file.flush()
        beside.flush()
        if not ids:
            first = f"; the first: {bad[0][0]}: {bad[0][1]}" if bad else ""
            raise InputError(f"none of the {len(bad)} images could be read{first}")
        pixels = np.memmap(file, dtype=np.float32, mode="r", shape=(len(ids), *shape))
        seen = np.memmap(beside, dtype=np.float32, mode="r", shape=(len(ids), *small.shape[1:]))
    return Spool(pixels, np.array(hashes, dtype="V16"), seen, ids, labels, bad)


def _hashes(pixels: Floats) -> Iterator[bytes]:
    return (hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest() for image in pixels)


class Glimpses:
    """What tells which images belong together, of batches that go by: a kilobyte an image, in memory."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._hashes: list[bytes] = []
        self._small: list[Floats] = []

    def add(self, batch: Batch) -> None:
        """Keep what a batch shows of its readable images."""
        self._ids.extend(batch.only_good().ids)
        self._hashes.extend(_hashes(batch.pixels))
        if len(batch.pixels):
            self._small.append(thumbnails(batch.pixels))

    def spool(self) -> Spool:
        """Return the readable images so far, of which thumbnails alone are kept.

        Raises:
            InputError: there are none.
        """
        if not self._small:
            raise InputError("not one image could be read")
        small, names = np.concatenate(self._small), [""] * len(self._ids)
        return Spool(small, np.array(self._hashes, dtype="V16"), small, self._ids, names, [])


def keys_of(spools: Sequence[Spool], by: GroupBy = COPIES) -> list[NDArray[np.void]]:
    """Return the key of each image's unit, for several spools at once; see `recondite.data.units`.

    Images of two spools may be of one unit, but not by folder, name or label, which mean something else in each.

    Raises:
        InputError: as `recondite.data.units.labelled`.
    """
    labels: list[str | None] | None = []
    for number, part in enumerate(spools):
        told = labelled(part.ids, by)
        own = isinstance(by, str) and by in (FOLDER, PREFIX)
        if told is None or labels is None:
            labels = None
        else:
            labels.extend(f"{number}/{name}" if own and name is not None else name for name in told)
    hashes = np.concatenate([part.hashes for part in spools])
    small = [Rows(part.small, np.arange(len(part))) for part in spools]
    ends = np.cumsum([len(part) for part in spools])[:-1]
    return np.split(unit_keys(hashes, lambda: components(small), labels), ends)


def one_of_each(
    keys: NDArray[np.void], hashes: NDArray[np.void], seed: int, rows: NDArray[np.intp] | None = None
) -> NDArray[np.intp]:
    """Return one row of each unit, drawn at random, in their order; it depends on the pixels and the seed only.

    Args:
        keys: (N,) of units.
        hashes: (N,) as in `Spool`.
        seed: draws.
        rows: (n,) those that may be drawn; all by default.
    """
    among = np.arange(len(keys)) if rows is None else rows
    order = _shuffled(hashes[among], seed)
    return among[np.sort(order[np.unique(keys[among][order], return_index=True)[1]])]


def _shuffled(hashes: NDArray[np.void], seed: int) -> NDArray[np.intp]:
    key = seed.to_bytes(8, "little", signed=True)
    return np.argsort([hashlib.blake2b(bytes(h), key=key, digest_size=8).digest() for h in hashes], kind="stable")


def split(keys: NDArray[np.void], sizes: Sequence[int], seed: int) -> list[NDArray[np.intp]]:
    """Split rows at random into parts of the given sizes and a last part with the rest.

    Rows with equal keys stay in one part. Units of them are dealt by their number, whatever their size: so a part has
    the given size on average, and its units are as likely to be large as any. The split depends on the keys and the
    seed only: renaming files does not reshuffle the others.

    Args:
        keys: (N,) of units, as `keys_of` gives them; or hashes, as in `Spool`.
        sizes: the sizes of all parts but the last.
        seed: decides the order in which units are dealt out.

    Returns:
        len(sizes) + 1 arrays of row numbers, ascending.
    """
    unique, unit = np.unique(keys, return_inverse=True)
    ends = np.rint(np.cumsum(sizes) * len(unique) / max(1, len(keys)))
    part_of_unit = np.empty(len(unique), dtype=np.intp)
    part_of_unit[_shuffled(unique, seed)] = np.searchsorted(ends, np.arange(len(unique)), side="right")
    part_of_row = part_of_unit[unit]
    return [np.flatnonzero(part_of_row == index) for index in range(len(sizes) + 1)]


def training_rows(
    images: object,
    validation: object,
    preprocessing: Preprocessing,
    seed: int,
    progress: bool = False,
    group_by: GroupBy = COPIES,
) -> tuple[Rows, Rows | None]:
    """Read images to learn, and those to choose the best epoch by.

    Args:
        images: normal images, anything that `open_images` opens; unreadable ones are left out.
        validation: further ones; or the share of `images` to take for it, if that makes at least `FEWEST_VALIDATED`;
            or None.
        preprocessing: what the images become.
        seed: draws the share.
        progress: show progress on standard error.
        group_by: what tells units, which the share takes whole; as in `recondite.fit`.

    Raises:
        InputError: no readable images, a share outside of [0, 1), or a `group_by` that fits none.
    """
    if isinstance(validation, float | int) and not 0 <= validation < 1:
        raise InputError(f"expected a share of the images for validation, in [0, 1); got {validation!r}")
    check_group_by(group_by)
    shape = preprocessing.shape
    source = open_images(images, role="fit", shape=shape)
    group_by = labels_of(source, group_by)
    spooled = read_all(source, preprocessing, progress)
    if isinstance(validation, float | int):
        part, rest = split(keys_of([spooled], group_by)[0], [round(validation * len(spooled))], seed)
        if len(part) >= FEWEST_VALIDATED:
            return spooled.rows(rest), spooled.rows(part)
        return spooled.rows(), None
    if validation is None:
        return spooled.rows(), None
    opened = open_images(validation, role="inliers", shape=shape)
    return spooled.rows(), read_all(opened, preprocessing, progress).rows()

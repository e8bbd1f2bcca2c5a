"""Many images in one file: webdataset tars and Parquet tables with the bytes of images."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

from recondite.data.datasets import ImageSet
from recondite.data.formats import is_hidden, is_image_name, why_unreadable
from recondite.data.items import MAX_FILE_BYTES, Unreadable
from recondite.data.listing import printable
from recondite.data.remote import open_stream
from recondite.data.tars import open_tar
from recondite.errors import InputError, SourceError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
SHARD_SUFFIXES = (*TAR_SUFFIXES, ".parquet")
_IMAGE_COLUMNS = ("image", "img", "bytes", "content", "jpg", "jpeg", "png", "webp")
_LABEL_COLUMNS = ("label", "cls", "class")
_ROWS_AT_ONCE = 32
_A_LINK = "the archive holds a link in its place: pack the file itself"

Entry = tuple[str, Any, str]
"""Id, image, label."""


@dataclass(frozen=True)
class Shard:
    """Images of one file, in the order of the file, from one number to another.

    Args:
        name: of the file; the ids of its images begin with it.
        url: a path or the address of a store.
        start: number of the first image.
        stop: number behind the last image; None for all that are left.
    """

    name: str
    url: str
    start: int = 0
    stop: int | None = None

    def __iter__(self) -> Iterator[Entry]:
        return _tar_entries(self) if self.is_tar else _parquet_entries(self)

    @property
    def is_tar(self) -> bool:
        return self.name.lower().endswith(TAR_SUFFIXES)


@dataclass(frozen=True)
class ShardImages(ImageSet):
    """The images of a `Shard` (its `items`), which are only known by reading it."""

    def entries(self, skip: frozenset[str] = frozenset()) -> Iterator[Entry]:
        return (entry for entry in self.items if entry[0] not in skip)


def open_shard(shard: Shard) -> ShardImages:
    """Return the images of a shard; nothing is read yet. What is damaged in it becomes an unreadable image."""
    return ShardImages(shard, parallel=True)


def is_shard(name: str) -> bool:
    """Return whether a file of this name holds many images."""
    return name.lower().endswith(SHARD_SUFFIXES) and not is_hidden(name)


def count_images(shard: Shard) -> int:
    """Return how many images a whole shard yields."""
    return sum(1 for _ in Shard(shard.name, shard.url))


def cuts(shard: Shard, size: int) -> list[tuple[int, int | None]]:
    """Return where a shard is cut into runs of about `size` images that can be read without reading what is before.

    A tar is read from its beginning, so it stays whole; a Parquet table is cut between its row groups.

    Raises:
        SourceError: the store cannot be reached.
    """
    if shard.is_tar:
        return [(0, None)]
    try:
        with open_stream(shard.url) as stream, _parquet(stream) as file:
            groups = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    except InputError:
        return [(0, None)]
    found: list[tuple[int, int | None]] = []
    start = end = 0
    for rows in groups:
        end += rows
        if end - start >= size:
            found.append((start, end))
            start = end
    if end > start:
        found.append((start, end))
    return found


def _tar_entries(shard: Shard) -> Iterator[Entry]:
    return islice(_whole_tar(shard), shard.start, shard.stop)


def _whole_tar(shard: Shard) -> Iterator[Entry]:
    """Yield every image; a name that comes twice gets a number the second time."""
    seen: dict[str, int] = {}
    for member, content, label in _tar_members(shard):
        times = seen[member] = seen.get(member, 0) + 1
        name = f"{shard.name}/{member}" if member else shard.name
        yield (name if times == 1 else f"{name}#{times}"), content, label


def _tar_members(shard: Shard) -> Iterator[Entry]:
    """Yield (member, image, label); the label is the text of the member KEY.cls beside the image KEY.png."""
    images: list[tuple[str, Any]] = []
    key, label = "", ""
    try:
        with open_stream(shard.url) as stream, open_tar(stream) as tar:
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # else it keeps all headers, half a kilobyte each
                folder, _, base = member.name.rpartition("/")
                is_link = member.islnk() or member.issym()
                if not (member.isfile() or is_link) or is_hidden(member.name):
                    continue
                own = f"{folder}/{base.partition('.')[0]}"
                if own != key:
                    yield from ((name, image, label) for name, image in images)
                    key, images, label = own, [], ""
                if is_link:
                    if is_image_name(base):
                        images.append((printable(member.name), Unreadable(_A_LINK)))
                elif base.endswith(".cls"):
                    label = _content(tar, member)[:1024].decode("utf-8", "backslashreplace").strip()
                elif is_image_name(base) and not base.endswith(".npy"):
                    reason = why_unreadable(base)
                    image = _image(tar, member) if reason is None else Unreadable(reason)
                    images.append((printable(member.name), image))
    except SourceError:
        raise
    except Exception as error:  # damaged archives fail in many ways
        known = isinstance(error, InputError)
        images.append(("", Unreadable(str(error) if known else f"the tar is damaged: {error}")))
    yield from ((name, image, label) for name, image in images)


def _image(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    if member.size > MAX_FILE_BYTES:
        return Unreadable(f"the file has {member.size:,} bytes; the limit is {MAX_FILE_BYTES:,}")
    content = _content(tar, member)
    if len(content) < member.size:
        raise tarfile.ReadError(f"unexpected end of data in {member.name}")
    return content or Unreadable("the file is empty")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    return stream.read() if stream is not None else b""


def _parquet_entries(shard: Shard) -> Iterator[Entry]:
    try:
        with open_stream(shard.url) as stream, _parquet(stream) as file:
            columns = _columns(file.schema_arrow)
            first = 0
            for group in range(file.num_row_groups):
                behind = first + file.metadata.row_group(group).num_rows
                start = max(first, shard.start)
                stop = behind if shard.stop is None else min(behind, shard.stop)
                for number, content, label in _group_rows(file, group, columns, first, start, stop):
                    yield f"{shard.name}#{number}", content, label
                first = behind
    except InputError as error:
        yield shard.name, Unreadable(str(error)), ""


def _label(value: object) -> str:
    """Return a label; where a table was made by pandas, NaN stands for a missing number and 3.0 beside it for 3."""
    if value is None or value != value:
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _group_rows(
    file: Any, group: int, columns: tuple[str, str | None], first: int, start: int, stop: int
) -> Iterator[tuple[int, Any, str]]:
    """Yield the rows of one row group, which begins at `first`, from start to stop; damage is in those it hits."""
    number = first
    if start >= stop:
        return
    image, label = columns
    try:
        for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[name for name in columns if name]):
            labels = batch.column(label).to_pylist() if label else [None] * len(batch)
            for content, value in zip(batch.column(image), labels, strict=True):
                if start <= number < stop:
                    yield number, _cell(content.as_py()), _label(value)
                number += 1
            if number >= stop:
                return
    except SourceError:
        raise
    except Exception as error:  # damaged files fail as ArrowInvalid, OSError and others
        for left in range(max(number, start), stop):
            yield left, Unreadable(f"the Parquet file is damaged: {str(error).strip()}"), ""


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        value = value.get("bytes")
    if not value:
        return Unreadable("there are no bytes")
    if len(value) > MAX_FILE_BYTES:
        return Unreadable(f"the image has {len(value):,} bytes; the limit is {MAX_FILE_BYTES:,}")
    return value


def _parquet(stream: BinaryIO) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("Parquet files need pyarrow: pip install 'recondite[data]'") from error
    try:
        return pyarrow.parquet.ParquetFile(stream, page_checksum_verification=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"it is not a readable Parquet file: {error}") from error


def _columns(schema: Any) -> tuple[str, str | None]:
    """Return the names of the columns with images and labels.

    Raises:
        InputError: no column holds the bytes of images.
    """
    from pyarrow import types

    def holds_bytes(field: Any) -> bool:
        kind = field.type
        if types.is_struct(kind):
            return any(kind.field(i).name == "bytes" and holds_bytes(kind.field(i)) for i in range(kind.num_fields))
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    fitting = [field.name for field in schema if holds_bytes(field)]
    ranked = [name for name in _IMAGE_COLUMNS if name in fitting] + fitting
    if not ranked:
        raise InputError(f"no column holds the bytes of images; there are {', '.join(schema.names)}")
    label = next((name for name in _LABEL_COLUMNS if name in schema.names), None)
    return ranked[0], label

"""A source of images cut into pieces that different machines can read."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from recondite.cluster.shards import Shard, count_images, cuts, is_shard, open_shard
from recondite.data.addresses import without_secrets
from recondite.data.datasets import ImageSet, open_images
from recondite.data.files import local_path
from recondite.data.formats import is_image_name, passed_over
from recondite.data.identity import identity_of
from recondite.data.layouts import Role
from recondite.data.listing import Listing, list_folder, printable
from recondite.data.remote import list_files
from recondite.errors import InputError
from recondite.progress import say

LARGEST_PIXELS = 32 << 20
"""Bytes of a piece whose pixels travel with it, where a source is an array."""


class Piece(NamedTuple):
    """Successive images of a source: those of one of its units from one number to another; stop None is the end."""

    unit: int
    start: int
    stop: int | None


class Source(Protocol):
    """Images in pieces. Ids differ, and the same piece always holds the same images."""

    @property
    def size(self) -> int | None:
        """The number of images; None where it is only known after reading them."""

    def pieces(self, size: int) -> Iterator[Piece]:
        """Yield pieces of about `size` images that are all of the source, in order."""

    def images(self, piece: Piece) -> ImageSet:
        """Return what another machine needs to read a piece, without reading it, or with the pixels."""

    def count(self, unit: int) -> int:
        """Return how many images a unit has."""

    def fingerprint(self) -> str:
        """Return a SHA-256 of what is known of the images before they are read: names, sizes, times of change."""


@dataclass(frozen=True)
class ListedSource:
    """Files, each with one image, that every machine sees at the same place; or an array, whose pixels travel."""

    listed: ImageSet

    @property
    def size(self) -> int:
        assert self.listed.ids is not None
        return len(self.listed.ids)

    def pieces(self, size: int) -> Iterator[Piece]:
        if not self.listed.parallel:
            bytes_each = getattr(self.listed.entry(0)[0], "nbytes", 1)
            size = max(1, min(size, LARGEST_PIXELS // max(1, bytes_each)))
        for start in range(0, self.size, size):
            yield Piece(0, start, min(start + size, self.size))

    def images(self, piece: Piece) -> ImageSet:
        return self.listed.select(range(piece.start, piece.stop or self.size))

    def count(self, unit: int) -> int:  # noqa: ARG002
        return self.size

    def fingerprint(self) -> str:
        listed = self.listed
        if not listed.parallel and not isinstance(listed.items, np.ndarray | list):
            return hash_of_ids(listed.ids or ())  # each may have to be computed
        return _hash_of_images(listed.ids or (), (identity_of(listed.entry(index)[0]) for index in range(self.size)))


@dataclass(frozen=True)
class ShardedSource:
    """Tars and Parquet files, each with many images; the units."""

    shards: list[Shard]
    identities: tuple[str | None, ...] = ()
    size: None = None

    def pieces(self, size: int) -> Iterator[Piece]:
        for unit, shard in enumerate(self.shards):
            for start, stop in cuts(shard, size):
                yield Piece(unit, start, stop)

    def images(self, piece: Piece) -> ImageSet:
        shard = self.shards[piece.unit]
        return open_shard(Shard(shard.name, shard.url, piece.start, piece.stop))

    def count(self, unit: int) -> int:
        return count_images(self.shards[unit])

    def fingerprint(self) -> str:
        return _hash_of_images((shard.name for shard in self.shards), self.identities)


def hash_of_ids(ids: Iterable[str]) -> str:
    """Return the SHA-256 of ids in order, each followed by a line feed."""
    digest = hashlib.sha256()
    for name in ids:
        digest.update(f"{name}\n".encode())
    return digest.hexdigest()


def _hash_of_images(names: Iterable[str], identities: Iterable[str | None]) -> str:
    return hash_of_ids(f"{identity} {name}" for name, identity in zip(names, identities, strict=True))


def open_source(source: object, shape: tuple[int, ...] | None, role: Role = "predict") -> Source:
    """Open a source for a sweep over a cluster.

    Args:
        source: a folder, file or address of a store that holds tars (webdataset) or Parquet files; or anything else
            that `open_images` opens, but a stream.
        shape: that the detector takes; None without one.
        role: as in `open_images`.

    Raises:
        InputError: there is no such source, a folder of it cannot be listed, it is a stream, its ids repeat, or it
            holds tars and images side by side.
        SourceError: a store cannot be reached.
    """
    shards = _shards(str(source)) if isinstance(source, str | Path) else []
    if shards:
        return ShardedSource([shard for shard, _ in shards], tuple(identity for _, identity in shards))
    opened = open_images(source, role=role, shape=shape)
    if opened.ids is None:
        raise InputError("a sweep needs a source that can be walked through again; got a stream")
    if len(set(opened.ids)) < len(opened.ids):
        raise InputError("a sweep needs different ids: one row each could not be told from another")
    return ListedSource(opened)


def _shards(source: str) -> list[tuple[Shard, str | None]]:
    """Return the tars and Parquet files at a place, with their identities; none if there are none."""
    found: list[tuple[str, str]] = []
    path = local_path(source)
    versions: dict[str, str | None] = {}
    if path is None:
        listed = list_files(source)
        found = [(name, file.url) for name, file in listed]
        versions = {file.url: identity_of(file) for _, file in listed}
    elif path.is_file():
        found = [(path.name, os.path.abspath(path))]
    elif path.is_dir():
        listing = Listing()
        list_folder(path, path, listing)
        found = sorted((name, os.path.abspath(path / name)) for name in (*listing.names, *listing.others))
    shards = [
        (Shard(printable(name), url), versions.get(url) or identity_of(url)) for name, url in found if is_shard(name)
    ]
    if shards and any(is_image_name(name) for name, _ in found):
        where = without_secrets(source)
        raise InputError(f"{where} holds images side by side with tars or Parquet files: give one kind of them")
    others = passed_over(name for name, _ in found if not is_shard(name))
    if shards and others:
        say(others)
    return shards

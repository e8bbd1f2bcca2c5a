"""The one pass over a source: every image is decoded once, in bounded memory, and what was seen is kept in a store."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recondite import __version__
from recondite.audits.look import Look, look_at
from recondite.audits.store import Row, Store
from recondite.cluster.sources import ListedSource, ShardedSource, open_source
from recondite.cluster.sources import Source as Pieces
from recondite.data.datasets import ImageSet, open_images
from recondite.data.identity import identity_of
from recondite.data.images import Preprocessing
from recondite.data.items import Page, path_of
from recondite.data.remote import StoredFile
from recondite.data.sample import LARGEST_SMALL_SIDE, sampled
from recondite.detectors.feature_options import FeaturesOptions
from recondite.detectors.feature_vectors import FeatureVectors
from recondite.errors import InputError
from recondite.networks.hooks import evaluating
from recondite.progress import progress as show
from recondite.screen.choose import choose_detector
from recondite.torch_state import own_settings

_READERS = min(4, os.cpu_count() or 1)
_AT_ONCE, _IN_A_PIECE = 32, 2000
_SIDE = 224
_LOOKED_AT = 50

Entry = tuple[str, Any, str]
Seen = tuple[str, str, str | None, str, Look]


@dataclass(frozen=True)
class Images:
    """Images to walk through, once.

    Args:
        name: of the source, for people.
        source: as `open_source` gives it, or a stream.
        size: how many; None where that is not known yet.
        photographs: whether a network that knows photographs has something to say of them.
        small: whether they have up to 64 pixels a side.
        why: what photographs were told by, in words.
    """

    name: str
    source: Pieces | ImageSet
    size: int | None
    photographs: bool
    small: bool
    why: str

    def entries(self) -> Iterator[Entry]:
        """Yield (id, image, label) of each, in order."""
        if isinstance(self.source, ImageSet):
            yield from self.source.entries()
            return
        if isinstance(self.source, ListedSource):
            yield from self.source.listed.entries()
            return
        for piece in self.source.pieces(_IN_A_PIECE):
            yield from self.source.images(piece).entries()


def opened(source: object) -> Images:
    """Open a source, and look at some of its images to see what they are.

    Args:
        source: whatever `open_images` opens, or a folder, file or address of tars (webdataset) or Parquet files.

    Raises:
        InputError: there is no such source, ids repeat, it holds vectors, or none of the images looked at can be read.
    """
    name = str(source) if isinstance(source, str | Path) else f"{type(source).__name__}"
    found: Pieces | ImageSet
    if isinstance(source, str | Path):
        found = open_source(source, None, role="all")
    else:
        listed = open_images(source, role="all")
        found = listed if listed.ids is None else open_source(listed, None, role="all")
    if isinstance(found, ShardedSource):
        head = [
            (item, label) for _, item, label in islice(Images(name, found, None, False, True, "").entries(), _LOOKED_AT)
        ]
        sample, _ = sampled(ImageSet(head, [str(number) for number in range(len(head))]))
    else:
        assert isinstance(found, ListedSource | ImageSet)
        sample, looked_at = sampled(found.listed if isinstance(found, ListedSource) else found)
        if isinstance(found, ImageSet):
            found = looked_at  # a stream, put together again
    if sample.vector is not None:
        raise InputError("expected images to audit; got vectors")
    choice = choose_detector(sample)
    small = max(sample.size) <= LARGEST_SMALL_SIDE
    return Images(name, found, found.size, choice.detector == "features", small, choice.reason.partition(":")[0])


class Backbone:
    """A frozen network that sees each image the same, alone or among others: batches are always full.

    Args:
        small: whether images have up to 64 pixels a side; others are brought to 224.
    """

    def __init__(self, small: bool) -> None:
        side = LARGEST_SMALL_SIDE if small else _SIDE
        self.preprocessing = Preprocessing(shape=(3, side, side))
        vectors = FeatureVectors((3, side, side), FeaturesOptions(), None, looks_at_places=False)
        vectors.load_weights()
        self._together = min(_AT_ONCE, vectors.images_together("cpu"))
        with evaluating(vectors):
            self._ready = vectors.ready(torch.device("cpu"))
            self.width = int(self._ready(torch.zeros(self._together, 3, side, side))[0].shape[2])

    @own_settings()
    def features(self, pixels: NDArray[np.float32]) -> NDArray[np.float16]:
        """Return the features of images (N, 3, H, W) in [0, 1]: (N, width), each layer's part of length 1."""
        found = [np.zeros((0, self.width), np.float16)]
        for start in range(0, len(pixels), self._together):
            some = pixels[start : start + self._together]
            batch = np.zeros((self._together, *pixels.shape[1:]), np.float32)
            batch[: len(some)] = some
            with evaluating(self._ready):
                found.append(self._ready(torch.from_numpy(batch))[0][: len(some), 0].numpy().astype(np.float16))
        return np.concatenate(found)


def walked(images: Images, folder: Path, backbone: Backbone | None, progress: bool = False) -> tuple[Store, list[int]]:
    """Look at every image of a source once; what an interrupted walk had seen of images as they still are is kept.

    Args:
        images: to look at.
        folder: of the store.
        backbone: that looks at them too; None without.
        progress: show it on standard error.

    Returns:
        The store, and which of its rows are the images, in their order.

    Raises:
        InputError: two images have the same id.
    """
    kept = None if backbone is None else backbone.preprocessing
    header = {"recondite": __version__, "shape": None if kept is None else list(kept.shape)}
    store = Store(folder, header, 0 if backbone is None else backbone.width)
    known = {row.id: index for index, row in enumerate(store.rows) if row.error is None and row.identity is not None}
    order: dict[str, int] = {}

    def unseen() -> Iterator[tuple[str, Any, str, str | None]]:
        """Yield what is to be looked at, its identity noted before it is read."""
        for name, item, label in images.entries():
            if name in order:
                raise InputError(f"an audit needs different ids; {name!r} is there twice")
            identity = identity_of(item)
            index = known.get(name, -1)
            order[name] = index
            if index < 0 or store.rows[index].identity != identity:
                order[name] = -1
                yield name, item, label, identity
            else:
                advance(1, "")

    with show("looking", images.size, progress) as advance:
        for seen in _looked_at(unseen(), kept):
            pixels = [look.pixels for *_, look in seen if look.pixels is not None]
            features = np.zeros((0, 0), np.float16)
            if backbone is not None and pixels:
                features = backbone.features(np.stack(pixels))
            first = len(store.rows)
            store.add(seen, features)
            order.update((row.id, first + place) for place, row in enumerate(store.rows[first:]))
            advance(len(seen), "")
    return store, list(order.values())


def _looked_at(
    entries: Iterable[tuple[str, Any, str, str | None]], preprocessing: Preprocessing | None
) -> Iterator[list[Seen]]:
    """Yield what is seen in images, some at a time and in order, read a few batches ahead in other threads."""

    def look(chunk: list[tuple[str, Any, str, str | None]]) -> list[Seen]:
        return [
            (n, label, identity, place_of(item), look_at(item, preprocessing)) for n, item, label, identity in chunk
        ]

    rest = iter(entries)
    ahead: deque[Future[list[Seen]]] = deque()
    with ThreadPoolExecutor(_READERS) as pool:
        while chunk := list(islice(rest, _AT_ONCE)):
            ahead.append(pool.submit(look, chunk))
            if len(ahead) > _READERS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def place_of(item: object) -> str:
    """Return the whole path or the address of an image; "" where it has none of its own."""
    if isinstance(item, StoredFile):
        return item.url
    path = item.path if isinstance(item, Page) else path_of(item)
    return "" if path is None else os.path.abspath(path)


def rows_of(store: Store, order: list[int]) -> list[Row]:
    """Return the rows of the images, in their order."""
    return [store.rows[index] for index in order]

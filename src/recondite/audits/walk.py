"""The one pass over a source: every image is decoded once, in bounded memory, and what was seen is kept in a store."""

import os
from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from recondite import __version__
from recondite.audits.look import Look, look_at
from recondite.audits.store import Row, Store
from recondite.cluster.sources import ListedSource, ShardedSource, open_source
from recondite.cluster.sources import Source as Pieces
from recondite.data.addresses import without_secrets
from recondite.data.datasets import ImageSet, open_images
from recondite.data.identity import identity_of
from recondite.data.images import Preprocessing
from recondite.data.items import Page, path_of
from recondite.data.remote import StoredFile
from recondite.data.sample import LARGEST_SMALL_SIDE, sampled
from recondite.detector_options import FeaturesOptions
from recondite.detectors.feature_vectors import FeatureVectors
from recondite.errors import InputError
from recondite.networks.one_by_one import workers_here
from recondite.progress import progress as show
from recondite.screen.choose import choose_detector
from recondite.torch_state import own_settings

_READERS = min(4, os.cpu_count() or 1)
_AT_ONCE, _IN_A_PIECE = 32, 2000
_SIDE = 224
_LOOKED_AT = 50

_SCHEMA = 2

Entry = tuple[str, Any, str]
Unseen = tuple[str, Any, str, str | None]
"""(id, image, label, identity)."""
Seen = tuple[str, str, str | None, str, Look]
"""(id, label, identity, place, what was seen)."""
Taken = tuple[int, str, str, str | None, str]
"""(row of the earlier store, id, label, identity, place)."""
Together = tuple[list[Seen], NDArray[np.float16]]


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
    name = without_secrets(source) if isinstance(source, str | Path) else f"{type(source).__name__}"
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
        # Threads that share a small batch wait for each other more than they compute: each gets a batch of its own. Of
        # large images the network itself gives each thread another one.
        self._workers = workers_here() if small else None
        vectors.eval()
        self._ready = self._workers.submit(_ready, vectors).result() if self._workers else _ready(vectors)
        self.width = self._seen(torch.zeros(self._together, 3, side, side)).shape[1]

    @own_settings()
    def features(self, pixels: NDArray[np.float32]) -> NDArray[np.float16]:
        """Return the features of images (N, 3, H, W) in [0, 1]: (N, width), each layer's part of length 1."""
        batches = []
        for start in range(0, len(pixels), self._together):
            some = pixels[start : start + self._together]
            batch = np.zeros((self._together, *pixels.shape[1:]), np.float32)
            batch[: len(some)] = some
            batches.append(torch.from_numpy(batch))
        found = map(self._seen, batches) if self._workers is None else self._workers.map(self._seen, batches)
        return np.concatenate([np.zeros((0, self.width), np.float16), *found])[: len(pixels)]

    def _seen(self, batch: torch.Tensor) -> NDArray[np.float16]:
        """Return the features of a full batch (N, width)."""
        with torch.no_grad():  # which each thread has to say for itself
            return np.asarray(self._ready(batch)[0][:, 0].numpy(), dtype=np.float16)


def _ready(vectors: FeatureVectors) -> FeatureVectors:
    with torch.no_grad():
        return vectors.ready(torch.device("cpu"))


def walked(
    images: Images,
    folder: Path,
    looking: "Looking",
    earlier: Path | None = None,
    progress: bool = False,
) -> tuple[Store, list[int]]:
    """Look at every image of a source once; what an interrupted walk had seen of images as they still are is kept.

    Args:
        images: to look at.
        folder: of the store.
        looking: looks at them, here or elsewhere.
        earlier: of the store of an earlier audit; images that it has seen are not decoded again.
        progress: show it on standard error.

    Returns:
        The store, and which of its rows are the images, in their order.

    Raises:
        InputError: two images have the same id.
    """
    header = {"recondite": __version__, "schema": _SCHEMA, "shape": looking.shape}
    store = Store(folder, header, looking.width).begin()
    known = _Known(store, None if earlier is None else Store(earlier, header, looking.width))
    order: dict[str, int] = {}
    taken: list[Taken] = []

    def unseen() -> Iterator[Unseen]:
        """Yield what is to be looked at, its identity noted before it is read."""
        for name, item, label in images.entries():
            if name in order:
                raise InputError(f"an audit needs different ids; {name!r} is there twice")
            identity = identity_of(item)
            order[name] = known.here(name, label, identity)
            if order[name] >= 0:
                advance(1, "")
            elif (there := known.there(identity)) >= 0:
                taken.append((there, name, label, identity, place_of(item)))
                if len(taken) == _IN_A_PIECE:
                    take(taken)
                    taken.clear()
            else:
                yield name, item, label, identity

    def take(some: Iterable[Taken]) -> None:
        """Copy what the earlier audit saw."""
        if known.earlier is not None:
            first = len(store.rows)
            store.take(known.earlier, some)
            order.update((row.id, first + place) for place, row in enumerate(store.rows[first:]))
            advance(len(store.rows) - first, "")

    with show("looking", images.size, progress) as advance:
        for seen, features in looking.at(unseen(), known.contents):
            first = len(store.rows)
            store.add([one for one in seen if not one[4].known], features)
            order.update((row.id, first + place) for place, row in enumerate(store.rows[first:]))
            advance(len(store.rows) - first, "")
            take(
                (known.contents[look.content], name, label, identity, place)
                for name, label, identity, place, look in seen
                if look.known
            )
        take(taken)
    return store, list(order.values())


class _Known:
    """What was seen before: in this store, by an audit that was interrupted, and in that of an earlier audit.

    Args:
        store: of this audit.
        earlier: None without.
    """

    def __init__(self, store: Store, earlier: Store | None) -> None:
        self._rows, self.earlier = store.rows, earlier
        self._here = {row.id: i for i, row in enumerate(store.rows) if row.error is None and row.identity is not None}
        old = [] if earlier is None else [(i, row) for i, row in enumerate(earlier.rows) if row.error is None]
        self._there = {row.identity: index for index, row in old if row.identity is not None}
        self.contents = {bytes.fromhex(row.content): index for index, row in old if row.content}
        """Digests of files -> rows of the earlier store."""

    def here(self, name: str, label: str, identity: str | None) -> int:
        """Return the row of an image in this store; -1 where there is none."""
        index = self._here.get(name, -1)
        same = index >= 0 and (self._rows[index].identity, self._rows[index].label) == (identity, label)
        return index if same else -1

    def there(self, identity: str | None) -> int:
        """Return the row of an image in the earlier store; -1 where there is none."""
        return -1 if identity is None else self._there.get(identity, -1)


class Looking(Protocol):
    """Looks at images, here or elsewhere.

    Attributes:
        shape: (C, H, W) that the backbone looks at; None without one.
        width: of the features of an image; 0 without a backbone.
    """

    shape: list[int] | None
    width: int

    def at(self, entries: Iterable[Unseen], known: Container[bytes]) -> Iterator[Together]:
        """Yield what is seen in images, some at a time and in order, and the features of those that were read.

        Args:
            entries: of images.
            known: digests of files that need not be decoded; see `look_at`.
        """


class LookingHere:
    """Looks at images in this process: files are read a few batches ahead in other threads.

    Args:
        backbone: that looks at them too; None without.
    """

    def __init__(self, backbone: Backbone | None) -> None:
        self.backbone = backbone
        self.shape = None if backbone is None else list(backbone.preprocessing.shape)
        self.width = 0 if backbone is None else backbone.width

    def at(self, entries: Iterable[Unseen], known: Container[bytes]) -> Iterator[Together]:
        rest = iter(entries)
        ahead: deque[Future[list[Seen]]] = deque()
        with ThreadPoolExecutor(_READERS) as pool:
            while chunk := list(islice(rest, _AT_ONCE)):
                ahead.append(pool.submit(self._looked_at, chunk, known))
                if len(ahead) > _READERS:
                    yield self._with_features(ahead.popleft().result())
            while ahead:
                yield self._with_features(ahead.popleft().result())

    def together(self, chunk: Sequence[Unseen], known: Container[bytes]) -> Together:
        """Return what is seen in some images, as `at` does, in this thread."""
        return self._with_features(self._looked_at(chunk, known))

    def _looked_at(self, chunk: Sequence[Unseen], known: Container[bytes]) -> list[Seen]:
        kept = None if self.backbone is None else self.backbone.preprocessing
        return [
            (name, label, identity, place_of(item), look_at(item, kept, known)) for name, item, label, identity in chunk
        ]

    def _with_features(self, seen: list[Seen]) -> Together:
        pixels = [look.pixels for *_, look in seen if look.pixels is not None]
        features = np.zeros((0, self.width), np.float16)
        if self.backbone is not None and pixels:
            features = self.backbone.features(np.stack(pixels))
        return [(*one[:4], replace(one[4], pixels=None)) for one in seen], features


def place_of(item: object) -> str:
    """Return the whole path or the address of an image; "" where it has none of its own."""
    if isinstance(item, StoredFile):
        return item.url
    try:
        path = item.path if isinstance(item, Page) else path_of(item)
    except Exception:  # a row says why it cannot be read
        path = None
    return "" if path is None else os.path.abspath(path)


def rows_of(store: Store, order: list[int]) -> list[Row]:
    """Return the rows of the images, in their order."""
    return [store.rows[index] for index in order]

"""Units: images that belong together (of one part, scene or burst, or copies of each other).

They are no independent evidence: a unit goes whole into one part of a split, and one of its images stands for it where
images are counted.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from recondite.data.datasets import ImageSet
from recondite.data.images import Floats
from recondite.data.tables import rows_of_csv
from recondite.errors import InputError

COPIES, NONE, FOLDER, PREFIX = "copies", "none", "folder", "prefix"
"""What tells units: near-copies (the default), nothing, the folder, or the name without its last number."""
GroupBy = str | Path | Sequence[str] | Mapping[str, str]
"""One of these words, a regular expression that is found in ids, a .csv file with the columns id and group, or a label
for each image, in order or by id."""

_SIDE, _NUMBERS = 16, 256
_COMPONENTS = 64
_FEWEST, _MOST, _AT_ONCE = 16, 100_000, 256
_REFERENCES, _FARTHEST, _FALSE_NEIGHBOURS = 2000, 64, 0.01
_LARGEST_LAG, _LAGS, _FALSE_LINKS = 64, 8, 0.02
_LAST_NUMBER = re.compile(r"[ _.()-]*\d+[ _.()-]*$")

_Links = NDArray[np.intp]


class Batches(Protocol):
    """What yields an array a few rows at a time."""

    def batches(self) -> Iterator[Floats]:
        """Yield the rows in order."""


def check_group_by(by: GroupBy) -> None:
    """Raise InputError for a regular expression or a table that cannot be read, and for what tells no units."""
    if isinstance(by, str | Path):
        if str(by) not in (COPIES, NONE, FOLDER, PREFIX):
            _table(Path(by)) if _is_table(by) else _pattern(str(by))
    elif not isinstance(by, Sized):
        words = ", ".join((COPIES, NONE, FOLDER, PREFIX))
        raise InputError(f"expected group_by: {words}, a regular expression, a .csv file or labels; got {by!r}")


def same_units_everywhere(by: GroupBy) -> GroupBy:
    """Return what tells units for a process that runs in another folder: the path of a table becomes whole."""
    return os.path.abspath(by) if isinstance(by, str | Path) and _is_table(by) else by


def labels_of(images: ImageSet, by: GroupBy) -> GroupBy:
    """Return labels given in order as labels by id; everything else as it is.

    Raises:
        InputError: another number of labels than images, or a stream, whose images have no ids yet.
    """
    if isinstance(by, str | Path | Mapping):
        return by
    if images.ids is None or len(by) != len(images.ids):
        raise InputError(f"expected a label of what belongs together for each of {images.size} images; got {len(by)}")
    return dict(zip(images.ids, map(str, by), strict=True))


def thumbnails(pixels: Floats) -> Floats:
    """Return what near-copies are found by, for images (N, *shape): float32 (N, at most 256), grey means of areas."""
    if pixels.ndim == 2:
        if pixels.shape[1] <= _NUMBERS:
            return pixels
        directions = np.random.default_rng(0).standard_normal((pixels.shape[1], _NUMBERS))
        return pixels @ directions.astype(np.float32)
    grey = torch.from_numpy(np.ascontiguousarray(pixels)).mean(1, keepdim=True)
    size = min(_SIDE, grey.shape[2]), min(_SIDE, grey.shape[3])
    return np.asarray(torch.nn.functional.adaptive_avg_pool2d(grey, size).flatten(1).numpy())


def labelled(ids: Sequence[str], by: GroupBy) -> list[str | None] | None:
    """Return the label of each image by its id, None for one that belongs to no other; None for all by `COPIES`.

    Raises:
        InputError: a pattern or table that fits no image, or that cannot be read.
    """
    if isinstance(by, Mapping):
        return [by.get(name) for name in ids]
    word = str(by)
    if word == COPIES:
        return None
    if word == NONE:
        return [None] * len(ids)
    if word == FOLDER:
        return [name.rpartition("/")[0] for name in ids]
    if word == PREFIX:
        return [_LAST_NUMBER.sub("", name.rpartition(".")[0] or name) for name in ids]
    if _is_table(word):
        table = _table(Path(word))
        found = [table.get(name, table.get(name.rpartition("/")[2])) for name in ids]
    else:
        matches = [_pattern(word).search(name) for name in ids]
        found = [match and match.group(min(1, match.re.groups)) for match in matches]
    if not any(found):
        raise InputError(f"{word!r} tells what belongs together of no image; the first is {ids[0]!r}")
    return found


def unit_keys(
    hashes: NDArray[np.void], places: Callable[[], torch.Tensor], labels: Sequence[str | None] | None = None
) -> NDArray[np.void]:
    """Return the key of each image's unit (N,): the smallest hash in it. Images with equal hashes are in one unit.

    Args:
        hashes: of the images' pixels, as in `recondite.data.spool.Spool`.
        places: gives their `components`, in the order of the source; only asked for near-copies.
        labels: what tells units; None for near-copies.
    """
    unique, first, rank = np.unique(hashes, return_index=True, return_inverse=True)
    if labels is None:
        order = np.argsort(first)
        numbers = np.empty(len(unique), dtype=np.intp)
        numbers[order] = near_copies(places()[torch.from_numpy(first[order])])
    else:
        names, place = np.unique([name for name in labels if name is not None], return_inverse=True)
        told = np.flatnonzero([name is not None for name in labels])
        numbers = _joined(len(unique) + len(names), np.stack([rank[told], len(unique) + place]))[: len(unique)]
    smallest = np.full(numbers.max() + 1, len(unique))
    np.minimum.at(smallest, numbers, np.arange(len(unique)))
    keys: NDArray[np.void] = unique[smallest[numbers]][rank]
    return keys


def components(parts: Sequence[Batches]) -> torch.Tensor:
    """Return the largest 64 principal components of all thumbnails together, float32 (N, at most 64).

    Thumbnails are read a few at a time, so that the components are what stays in memory: a quarter of a kilobyte an
    image.

    Args:
        parts: whose batches are thumbnails.
    """
    width = next(batch.shape[1] for part in parts for batch in part.batches())
    count, total, products = 0, np.zeros(width), np.zeros((width, width))
    for exact in (batch.astype(np.float64) for part in parts for batch in part.batches()):
        count += len(exact)
        total += exact.sum(axis=0)
        products += exact.T @ exact
    mean = total / count
    directions = np.linalg.eigh(products / count - np.outer(mean, mean))[1][:, -_COMPONENTS:]
    found = [((batch - mean) @ directions).astype(np.float32) for part in parts for batch in part.batches()]
    return torch.from_numpy(np.concatenate(found))


def near_copies(places: torch.Tensor) -> _Links:
    """Return the number of the unit that each image belongs to (N,), by how much alike images are.

    Two images are linked if they are nearer to each other than independent ones would be, by either of two tests:

    - Anywhere: so near that at most 1 % of images have an independent neighbour there by chance, where the number of
      neighbours grows with the distance as it does between the 16th and the 64th of 2,000 images drawn at random.
    - One after the other in the source: frames of a burst. So near that at most a share of .02 of these links is as
      expected between images some way apart.

    What joins more images than a burst has (at most 32, or an eighth of all) would not be independent some way apart
    either, as a slow drift is not; it joins nothing. With fewer than 16 images nothing is told, and among more than
    100,000 only what follows one another.

    Args:
        places: `components` of images with different pixels, in the order of the source.
    """
    count = len(places)
    if count < _FEWEST:
        return np.arange(count)
    links = [_links_in_order(places)]
    if count <= _MOST:
        links.append(_links_anywhere(places))
    return _joined(count, np.concatenate(links, axis=1))


def _links_in_order(places: torch.Tensor) -> _Links:
    """Return pairs (2, L) of images that follow each other and are near; how near, a false discovery rate decides."""
    largest = min(_LARGEST_LAG, len(places) // 4)
    lags = np.unique(np.linspace(largest // 2, largest, _LAGS).astype(int))

    def apart(lag: int) -> NDArray[Any]:
        return np.asarray((places[lag:] - places[:-lag]).square().sum(1).numpy())

    following, independent = apart(1), np.sort(np.concatenate([apart(int(lag)) for lag in lags]))
    order = np.argsort(following)
    expected = (1 + np.searchsorted(independent, following[order], side="right")) / (1 + len(independent))
    found = np.arange(1, len(following) + 1) / len(following)
    accepted = np.flatnonzero(expected <= _FALSE_LINKS * found)
    linked = order[: accepted[-1] + 1] if len(accepted) else order[:0]
    # A longer run is no burst: what lies some way apart in it would not be independent either.
    return _of_small_parts(len(places), np.stack([linked, linked + 1]), int(lags[0]))


def _links_anywhere(places: torch.Tensor) -> _Links:
    """Return pairs (2, L) of images with at most .01 independent neighbours expected as near as they are."""
    count = len(places)
    chosen = np.sort(np.random.default_rng(0).permutation(count)[:_REFERENCES])
    references = places[torch.from_numpy(chosen)]
    farthest = min(_FARTHEST, len(chosen) // 3)
    nearest = max(1, farthest // 4)
    near = torch.empty(count, farthest)
    for start in range(0, count, _AT_ONCE):
        squares = _squares(places[start : start + _AT_ONCE], references)
        own = np.flatnonzero((chosen >= start) & (chosen < start + _AT_ONCE))
        squares[chosen[own] - start, own] = torch.inf
        near[start : start + _AT_ONCE] = squares.topk(farthest, largest=False).values
    # Neighbours within d grow as d ** dimension: the largest likelihood over all images (Levina and Bickel 2004).
    logs = near[:, nearest - 1 :].double().clamp_min(1e-30).log().numpy() / 2
    expected = np.log(farthest / np.arange(nearest, farthest)).sum()
    inverse_dimension = np.mean((logs[:, -1:] - logs[:, :-1]).sum(axis=1)) / expected
    share = _FALSE_NEIGHBOURS * len(chosen) / (nearest * count)
    radii = near[:, nearest - 1] * share ** (2 * inverse_dimension)
    found = []
    for start in range(0, count, _AT_ONCE):
        rest = slice(start, count)
        squares = _squares(places[start : start + _AT_ONCE], places[rest])
        limits = torch.minimum(radii[start : start + _AT_ONCE, None], radii[rest])
        found.append(start + torch.nonzero(squares < limits).numpy().T)
    pairs = np.concatenate(found, axis=1)
    # Likewise: neighbours beyond the nearest ones were taken for independent.
    return _of_small_parts(count, pairs[:, pairs[0] < pairs[1]], nearest * max(1, count // len(chosen)))


def _squares(some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the squared distances (N, M) of some places from others."""
    lengths = some.square().sum(1, keepdim=True) + others.square().sum(1)
    return torch.addmm(lengths, some, others.T, alpha=-2)


def _joined(count: int, links: _Links) -> _Links:
    """Return the number of the part of a graph that each of `count` nodes is in; links are (2, L)."""
    graph = coo_array((np.ones(links.shape[1], dtype=bool), (links[0], links[1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.intp)


def _of_small_parts(count: int, links: _Links, most: int) -> _Links:
    """Return the links that join at most so many of `count` images."""
    part = _joined(count, links)
    return links[:, np.bincount(part)[part[links[0]]] <= max(2, most)]


def _is_table(by: str | Path) -> bool:
    return Path(by).suffix.lower() == ".csv"


def _table(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for row in rows_of_csv(path, ("id", "group")):
        name, group = row["id"], row["group"]
        if found.setdefault(name, group) != group:
            raise InputError(f"{path}: expected one group for each id; {name!r} has {found[name]!r} and {group!r}")
    return found


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(
            f"expected to group by {COPIES}, {NONE}, {FOLDER}, {PREFIX}, a .csv file or a regular expression; "
            f"got {text!r}: {error}"
        ) from error

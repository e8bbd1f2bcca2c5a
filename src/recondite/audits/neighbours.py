"""Nearest neighbours by correlation: exact in sets of up to 20,000 images, by an index in larger ones.

Exact neighbours, each image compared with every other, are scikit-learn's; their work grows with the square. In larger
sets they are those of faiss, where it is installed: a graph of links to neighbours (HNSW: Malkov and Yashunin 2018)
over vectors of half precision. One thread builds it, so that the same images in the same order have the same
neighbours.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

LARGEST_EXACT = 20_000
"""Images that are compared with each other; of more an index tells the nearest."""
_LINKS, _WHILE_BUILT, _WHILE_SEARCHED = 32, 100, 128
_AT_ONCE = 4096

Floats = NDArray[np.float32]
Rows = Callable[[slice], Floats]
"""Returns some of N vectors, each of mean 0 and length 1: (rows of the slice, width)."""


def centred(vectors: Floats) -> Floats:
    """Return vectors (N, V), each less its mean and of length 1: a product of two is their correlation."""
    differences = vectors - vectors.mean(axis=1, keepdims=True)
    return np.asarray(differences / np.maximum(np.linalg.norm(differences, axis=1, keepdims=True), 1e-6))


def is_indexed(count: int) -> bool:
    """Return whether an index tells the nearest of so many images."""
    return count > LARGEST_EXACT and find_spec("faiss") is not None


def exactness(count: int) -> str | None:
    """Return what a report says of the neighbours of so many images; None of a small set."""
    if count <= LARGEST_EXACT:
        return None
    if is_indexed(count):
        return "copies were looked for among approximate neighbours (faiss), which miss about one in a hundred"
    return (
        "copies were looked for among exact neighbours, whose work grows with the square: pip install "
        "'recondite[faiss]' for an index"
    )


class Neighbours:
    """Finds the nearest of some images.

    Args:
        count: N, how many.
        rows: gives their vectors.
    """

    def __init__(self, count: int, rows: Rows) -> None:
        self._parts = [slice(start, start + _AT_ONCE) for start in range(0, count, _AT_ONCE)]
        self._count, self._rows = count, rows
        self._indexed = is_indexed(count)
        self._among = self._graph() if self._indexed else self._all()

    def nearest(self, count: int, rows: Rows | None = None) -> tuple[Floats, NDArray[np.intp]]:
        """Return the correlations with the nearest other images, best first, and which those are: (N, `count`) each.

        Args:
            count: less than N.
            rows: gives vectors to find the nearest of in place of the images' own, such as of the images mirrored; an
                image is no neighbour of itself there either.
        """
        found = [self._found((rows or self._rows)(part), count + 1) for part in self._parts]
        alike, numbers = (np.concatenate(parts) for parts in zip(*found, strict=True))
        itself = numbers == np.arange(self._count)[:, None]
        itself[~itself.any(axis=1), -1] = True
        return alike[~itself].reshape(-1, count), numbers[~itself].reshape(-1, count).astype(np.intp)

    def _found(self, vectors: Floats, count: int) -> tuple[Floats, NDArray[np.intp]]:
        if self._indexed:
            found: tuple[Floats, NDArray[np.intp]] = self._among.search(vectors, count)
            return found
        distances, numbers = self._among.kneighbors(vectors, count)
        return 1 - np.square(distances) / 2, numbers

    def _all(self) -> Any:
        return NearestNeighbors(algorithm="brute").fit(np.concatenate([self._rows(part) for part in self._parts]))

    def _graph(self) -> Any:
        from faiss import METRIC_INNER_PRODUCT, IndexHNSWSQ, ScalarQuantizer

        first = self._rows(self._parts[0])
        index = IndexHNSWSQ(first.shape[1], ScalarQuantizer.QT_fp16, _LINKS, METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = _WHILE_BUILT, _WHILE_SEARCHED
        index.train(first)
        with _one_thread():
            for part in self._parts:
                index.add(self._rows(part))
        return index


@contextmanager
def _one_thread() -> Iterator[None]:
    from faiss import omp_get_max_threads, omp_set_num_threads

    before = omp_get_max_threads()
    omp_set_num_threads(1)
    try:
        yield
    finally:
        omp_set_num_threads(before)

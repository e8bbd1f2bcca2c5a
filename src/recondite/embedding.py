"""Many numbers an image to two, for a map: t-SNE, which also places new points into a finished map."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recondite.errors import InputError

FEWEST = 10
_PERPLEXITY = 30.0
_NEIGHBOURS = 5


@dataclass(frozen=True)
class Map:
    """A map of points.

    Args:
        points: float64 (N, 2).
        place: a function that places new vectors (M, D) into this map, (M, 2); the points stay where they are.
        method: how it was made, in words.
    """

    points: NDArray[np.float64]
    place: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    method: str


def make_map(vectors: ArrayLike, *, seed: int = 0, progress: bool = False) -> Map:
    """Return a t-SNE map of vectors, begun from their first two principal components.

    By openTSNE where it is installed (extra: viz), which places new points by their affinities to the old ones; else by
    scikit-learn, which cannot, so that a new point is put at the mean of its five nearest neighbours.

    Source: van der Maaten and Hinton 2008, JMLR 9:2579; Poličar et al. 2024, JSS 109:3 (openTSNE).

    Args:
        vectors: (N, D).
        seed: of all draws.
        progress: let openTSNE report on standard output.

    Raises:
        InputError: fewer than ten vectors, or some are not finite.
    """
    x = np.asarray(vectors, dtype=np.float64)
    if x.ndim != 2 or len(x) < FEWEST or not np.isfinite(x).all():
        raise InputError(f"expected at least {FEWEST} finite vectors (N, D); got shape {x.shape}")
    perplexity = min(_PERPLEXITY, (len(x) - 1) / 3)
    return (_by_opentsne if find_spec("openTSNE") else _by_scikit_learn)(x, perplexity, seed, progress)


def _by_opentsne(x: NDArray[np.float64], perplexity: float, seed: int, progress: bool) -> Map:
    import torch
    from openTSNE import TSNE

    settings: dict[str, Any] = {"perplexity": perplexity, "initialization": "pca", "random_state": seed}
    # As many threads as torch: more than there are free cores would only wait for one another.
    embedding = TSNE(**settings, n_jobs=torch.get_num_threads(), verbose=progress).fit(x)

    points = np.array(embedding, dtype=np.float64)

    def place(new: NDArray[np.float64]) -> NDArray[np.float64]:
        placed = np.asarray(embedding.transform(_checked(new, x)), dtype=np.float64)
        # openTSNE moves the whole map when it places points: move it back to where it was.
        moved: NDArray[np.float64] = placed - np.asarray(embedding).mean(axis=0) + points.mean(axis=0)
        return moved

    return Map(points, place, "t-SNE (openTSNE)")


def _by_scikit_learn(x: NDArray[np.float64], perplexity: float, seed: int, progress: bool) -> Map:  # noqa: ARG001
    from sklearn.manifold import TSNE
    from sklearn.neighbors import NearestNeighbors

    points = np.asarray(TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(x), dtype=np.float64)
    neighbours = NearestNeighbors(n_neighbors=_NEIGHBOURS).fit(x)

    def place(new: NDArray[np.float64]) -> NDArray[np.float64]:
        nearest = neighbours.kneighbors(_checked(new, x), return_distance=False)
        placed: NDArray[np.float64] = points[nearest].mean(axis=1)
        return placed

    return Map(points, place, "t-SNE (scikit-learn)")


def _checked(new: ArrayLike, known: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.asarray(new, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != known.shape[1] or not np.isfinite(x).all():
        raise InputError(f"expected finite vectors (M, {known.shape[1]}) to place; got shape {x.shape}")
    return x

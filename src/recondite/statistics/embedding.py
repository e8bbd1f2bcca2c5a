"""Many numbers an image to two, for a map: t-SNE, and new points placed into a finished map."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recondite.errors import InputError

Method = Literal["openTSNE", "scikit-learn"]
"""The library that drew a map."""
FEWEST = 10
_PERPLEXITY = 30.0
_NEIGHBOURS = 5
_LARGEST_EXACT = 20_000
_EXAGGERATED, _COARSE, _FINE = 100, 250, 100


@dataclass(frozen=True, kw_only=True)
class Map:
    """A map of vectors.

    Args:
        vectors: (N, D) finite.
        points: (N, 2) finite, where they are on the map.
        method: the library that drew it.
        seed: of all draws.

    Raises:
        InputError: fewer than ten vectors, some are not finite, not as many points, or an unknown method.
    """

    vectors: NDArray[np.floating[Any]]
    points: NDArray[np.float64]
    method: Method
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.vectors)
        if self.points.shape != (len(self.vectors), 2) or not np.isfinite(self.points).all():
            raise InputError(f"expected {len(self.vectors)} finite points (N, 2); got shape {self.points.shape}")
        if self.method not in get_args(Method):
            raise InputError(f"expected a map by {' or '.join(get_args(Method))}; got {self.method!r}")

    @property
    def placing(self) -> str:
        """How `place` finds places, in words."""
        if self.method == "openTSNE":
            return "placed by their affinities to the points of the map"
        return f"put at the mean of their {_NEIGHBOURS} nearest neighbours, because scikit-learn cannot place points"

    def place(self, new: ArrayLike) -> NDArray[np.float64]:
        """Return the places (M, 2) of new vectors (M, D) on this map; its points stay where they are.

        openTSNE moves each new point until its affinities to the old ones fit; new points do not see one another.
        scikit-learn cannot place points, so with its maps a new one is put at the mean of its five nearest neighbours.

        Raises:
            InputError: not finite vectors of D numbers, or the map is openTSNE's, which is not installed.
        """
        x = np.asarray(new, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.vectors.shape[1] or not np.isfinite(x).all():
            raise InputError(f"expected finite vectors (M, {self.vectors.shape[1]}) to place; got shape {x.shape}")
        return self._by_affinity(x) if self.method == "openTSNE" else self._by_neighbours(x)

    def _by_affinity(self, new: NDArray[np.float64]) -> NDArray[np.float64]:
        if not find_spec("openTSNE"):
            raise InputError("only openTSNE places points into its maps: pip install 'recondite[viz]'")
        from openTSNE import TSNEEmbedding

        # The slower gradient, because it is a function of one new point alone.
        settings = {"negative_gradient_method": "bh", "random_state": self.seed, "n_jobs": _threads()}
        known = _affinities(np.asarray(self.vectors, dtype=np.float64), self.seed)
        embedding = TSNEEmbedding(self.points.copy(), known, **settings)
        placed = np.asarray(embedding.transform(new), dtype=np.float64)
        # openTSNE moves the whole map when it places points: move it back to where it was.
        moved: NDArray[np.float64] = placed - np.asarray(embedding)[0] + self.points[0]
        return moved

    def _by_neighbours(self, new: NDArray[np.float64]) -> NDArray[np.float64]:
        from sklearn.neighbors import NearestNeighbors

        neighbours = NearestNeighbors(n_neighbors=_NEIGHBOURS).fit(np.asarray(self.vectors, dtype=np.float64))
        placed: NDArray[np.float64] = self.points[neighbours.kneighbors(new, return_distance=False)].mean(axis=1)
        return placed


def make_map(vectors: ArrayLike, *, seed: int = 0) -> Map:
    """Return a t-SNE map of vectors, begun from their first two principal components.

    By openTSNE where it is installed (extra: viz), else by scikit-learn. Vectors that are all equal lie in one place.

    Source: van der Maaten and Hinton 2008, JMLR 9:2579; Poličar et al. 2024, JSS 109:3 (openTSNE).

    Args:
        vectors: (N, D).
        seed: of all draws.

    Raises:
        InputError: fewer than ten vectors, or some are not finite.
    """
    given = np.asarray(vectors)
    _check(given)
    x = given.astype(np.float64)
    method: Method = "openTSNE" if find_spec("openTSNE") else "scikit-learn"
    if np.ptp(x, axis=0).any():
        points = (_by_opentsne if method == "openTSNE" else _by_scikit_learn)(x, seed)
    else:  # they have no principal components
        points = np.zeros((len(x), 2))
    return Map(vectors=given, points=points, method=method, seed=seed)


def _by_opentsne(x: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    from openTSNE import TSNEEmbedding
    from openTSNE.initialization import pca

    # The library's defaults take 250 exaggerated steps and 500 fine ones, and about three times as long. From principal
    # components, clusters are apart after 100. Forces are interpolated on a grid as wide as the map, which grows: with
    # cells of two units a step costs a quarter, and only the last ones need cells of one.
    settings = {"negative_gradient_method": "auto", "random_state": seed, "n_jobs": _threads()}
    start = pca(x, random_state=seed)
    embedding = TSNEEmbedding(start, _affinities(x, seed), **settings)
    embedding = embedding.optimize(_EXAGGERATED, exaggeration=12, momentum=0.8)
    embedding = embedding.optimize(_COARSE, momentum=0.8, ints_in_interval=2)
    embedding = embedding.optimize(_FINE, momentum=0.8)
    return np.array(embedding, dtype=np.float64)


def _by_scikit_learn(x: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE

    drawn = TSNE(perplexity=_perplexity(x), init="pca", random_state=seed).fit_transform(x)
    return np.asarray(drawn, dtype=np.float64)


def _affinities(x: NDArray[np.float64], seed: int) -> Any:
    from openTSNE.affinity import PerplexityBasedNN

    method = "exact" if len(x) <= _LARGEST_EXACT else "auto"
    return PerplexityBasedNN(x, perplexity=_perplexity(x), method=method, random_state=seed, n_jobs=_threads())


def _perplexity(x: NDArray[np.float64]) -> float:
    return min(_PERPLEXITY, (len(x) - 1) / 3)


def _threads() -> int:
    """Return as many as torch has: more than there are free cores would only wait for one another."""
    import torch

    return torch.get_num_threads()


def _check(vectors: NDArray[Any]) -> None:
    if vectors.ndim != 2 or len(vectors) < FEWEST or not np.isfinite(vectors).all():
        raise InputError(f"expected at least {FEWEST} finite vectors (N, D); got shape {vectors.shape}")

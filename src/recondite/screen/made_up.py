"""What simple and complex images that are made up teach a screen about others: how to weigh error and evidence."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.artifacts import tensor_of
from recondite.data.images import Preprocessing
from recondite.data.spool import Rows
from recondite.perturbations.kinds import simple_and_complex
from recondite.statistics.density import Density, Marginals, sum_of_tails
from recondite.statistics.likeness import Likeness

WEIGHTS = (0.5, 1.0, 0.5)
"""Of error, distance and likeness: chosen with kinds of made-up images left out in turn; see docs/decisions.md."""
_IMAGES = 60
_KNOTS = {"likeness": "likeness.knots", "total": "total.knots"}


@dataclass(frozen=True, kw_only=True)
class MadeUp:
    """Weighs error, distance and likeness to made-up images.

    Args:
        likeness: to any of their kinds, by statistics on the normal scale.
        scale: the normal scale of the likeness.
        weights: of the tails of error, distance and likeness in their sum.
        total: the normal scale of the sum.
    """

    likeness: Likeness
    scale: Marginals
    weights: tuple[float, ...]
    total: Marginals

    @classmethod
    def fit(
        cls,
        density: Density,
        kinds: Sequence[Mapping[str, NDArray[np.float64]]],
        statistics: Mapping[str, NDArray[np.float64]],
        error: NDArray[np.float64],
        distance: NDArray[np.float64],
    ) -> "MadeUp":
        """Learn from the statistics of kinds of made-up images, and of N normal images.

        Args:
            density: of the normal images.
            kinds: name of a statistic -> (n,), for each kind.
            statistics: the same (N,), of the normal images.
            error, distance: (N,) of the normal images, on their normal scales.
        """
        likeness = Likeness.fit([density.z(kind) for kind in kinds], density.precision)
        z = density.z(statistics)
        scale = Marginals.fit(likeness(z)[:, None])
        total = _sum(likeness, scale, WEIGHTS, error, distance, z)
        return cls(likeness=likeness, scale=scale, weights=WEIGHTS, total=Marginals.fit(total[:, None]))

    def sum(
        self, error: NDArray[np.float64], distance: NDArray[np.float64], z: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the weighted sum of tails (N,); higher is more anomalous.

        Args:
            error, distance: (N,), on their normal scales.
            z: (N, K), the statistics on theirs.
        """
        return _sum(self.likeness, self.scale, self.weights, error, distance, z)

    def tensors(self) -> dict[str, NDArray[np.float64]]:
        """Return all numbers but the weights as arrays, to be saved."""
        return {
            "likeness.directions": self.likeness.directions,
            "likeness.offsets": self.likeness.offsets,
            _KNOTS["likeness"]: self.scale.knots,
            _KNOTS["total"]: self.total.knots,
        }

    @classmethod
    def from_saved(cls, weights: Sequence[float], tensors: Mapping[str, NDArray[Any]], statistics: int) -> "MadeUp":
        """Return what `tensors` and `weights` gave, for K statistics.

        Raises:
            ValueError, KeyError, TypeError: the parts do not belong together.
        """
        offsets = tensor_of(tensors, "likeness.offsets", np.float64, None)
        directions = tensor_of(tensors, "likeness.directions", np.float64, len(offsets), statistics)
        scale, total = (tensor_of(tensors, name, np.float64, 1, None) for name in _KNOTS.values())
        given = tuple(float(weight) for weight in weights)
        if len(given) != len(WEIGHTS) or not all(0 <= weight < np.inf for weight in given):
            raise ValueError(f"weights {given}")
        return cls(
            likeness=Likeness(directions, offsets), scale=Marginals(scale), weights=given, total=Marginals(total)
        )


def made_up_rows(images: Rows, preprocessing: Preprocessing) -> Iterator[Rows]:
    """Yield each kind of images that are made up from some of the normal ones.

    None is made of vectors, or where each image has a mask.
    """
    shape = preprocessing.shape
    if len(shape) != 3 or preprocessing.masked:
        return
    for _, made in simple_and_complex(images.take(slice(_IMAGES))):
        yield Rows(np.ascontiguousarray(made), np.arange(len(made)))


def _sum(
    likeness: Likeness,
    scale: Marginals,
    weights: Sequence[float],
    error: NDArray[np.float64],
    distance: NDArray[np.float64],
    z: NDArray[np.float64],
) -> NDArray[np.float64]:
    like = scale.z(likeness(z)[:, None])[:, 0]
    return sum_of_tails(np.stack([error, distance, like], axis=1), weights)

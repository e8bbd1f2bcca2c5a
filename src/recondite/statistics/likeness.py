"""How much more an image is like some kind of odd images than like normal ones, by statistics of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_FARTHEST_COUNTED = 6.0


@dataclass(frozen=True)
class Likeness:
    """The log of a likelihood ratio: any of M kinds against the normal images.

    Statistics of each kind are taken to be spread as those of normal images are, about another middle, so that each
    kind's log likelihood ratio is linear in them.

    Args:
        directions: float64 (M, K), one linear discriminant a kind.
        offsets: float64 (M,), the value of each halfway between normal images and the kind.

    Source: Fisher 1936, doi 10.1111/j.1469-1809.1936.tb02137.x, for the discriminants.
    """

    directions: NDArray[np.float64]
    offsets: NDArray[np.float64]

    @classmethod
    def fit(cls, kinds: Sequence[ArrayLike], precision: NDArray[np.float64]) -> "Likeness":
        """Learn from M kinds of odd images.

        Args:
            kinds: the statistics (n, K) of each kind, on the normal scale of normal images; values beyond 6 count as 6.
            precision: (K, K), the inverse of the covariance that normal images have there.
        """
        middles = np.stack([np.clip(kind, -_FARTHEST_COUNTED, _FARTHEST_COUNTED).mean(axis=0) for kind in kinds])
        directions = middles @ precision
        return cls(directions, np.einsum("mk,mk->m", directions, middles) / 2)

    def __call__(self, z: ArrayLike) -> NDArray[np.float64]:
        """Return log(1 + sum of the M likelihood ratios) (N,) for statistics (N, K) on the normal scale."""
        # No matrix product: its last bits depend on how many images there are.
        ratios = (np.asarray(z, dtype=np.float64)[:, None] * self.directions).sum(axis=2) - self.offsets
        largest = np.maximum(ratios.max(axis=1), 0)
        return np.asarray(largest + np.log(np.exp(ratios - largest[:, None]).sum(axis=1) + np.exp(-largest)))

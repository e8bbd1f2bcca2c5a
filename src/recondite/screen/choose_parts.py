"""Which parts a guard looks at: chosen on held-out normal images and on made-up outliers alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from recondite.data.datasets import ImageSet, read_batches
from recondite.data.images import Preprocessing
from recondite.errors import InputError
from recondite.perturbations.outliers import MIXED, Bytes, alter, make_outliers, mixed
from recondite.statistics.calibration import Calibrator, share_of

_MOST_PARTS = 3
_MOST_MADE_UP = 100
_NEAR_ENOUGH = 0.005
_FROM_NOTHING = ("constants", "gradients", "uniform-noise", "gaussian-noise", "checkerboards")
_CHANGED = ("blurred", "noise-masks", "cut-paste")

PartScores = Mapping[str, NDArray[np.float64]]
"""Part of a guard -> scores (N,); higher is more anomalous."""


@dataclass(frozen=True)
class PartsChoice:
    """Parts, and how much they caught.

    Args:
        parts: the names of those chosen; each gets the same share of alpha.
        caught: combination, joined by " + " -> mean share of the made-up outliers of each kind that it turned away.
    """

    parts: tuple[str, ...]
    caught: Mapping[str, float]

    @property
    def shares(self) -> dict[str, float]:
        """Part -> its share of alpha."""
        return equal_shares(self.parts)


def equal_shares(parts: Sequence[str]) -> dict[str, float]:
    """Return part -> share of alpha; as floats they are read as the fractions they stand for."""
    return {part: float(Fraction(1, len(parts))) for part in parts}


def made_up_outliers(images: Bytes, seed: int = 0) -> dict[str, Bytes]:
    """Return kind -> outliers (N, C, H, W), from nothing or from normal images; none is a picture of something real.

    Args:
        images: uint8 (N, C, H, W), normal.
        seed: of every random draw.
    """
    shape = (images.shape[1], images.shape[2], images.shape[3])
    found = {name: make_outliers(name, len(images), shape, seed) for name in _FROM_NOTHING}
    found |= {name: alter(name, images, seed) for name in _CHANGED}
    return found | {name: mixed(name, images, seed) for name in MIXED}


def choose_parts(inliers: PartScores, outliers: Mapping[str, PartScores], alpha: float) -> PartsChoice:
    """Return the combination of at most three parts, with equal shares of alpha, that catches most made-up outliers.

    What counts is the mean over the kinds of outliers. Of combinations that catch within half a hundredth of the best,
    the one of fewest parts is taken. Calibrated on other images, the guard's promise does not rest on the choice.

    Args:
        inliers: of held-out normal images.
        outliers: kind -> of made-up outliers, the same parts.
        alpha: share of normal images that may be turned away.

    Raises:
        InputError: too few inliers for alpha.
    """
    calibrators = {part: Calibrator(values) for part, values in inliers.items()}
    caught: dict[tuple[str, ...], float] = {}
    for size in range(1, min(_MOST_PARTS, len(calibrators)) + 1):
        share = share_of(alpha, Fraction(1, size))
        try:
            flags = {
                kind: {part: calibrators[part].is_outlier(values, share) for part, values in scores.items()}
                for kind, scores in outliers.items()
            }
        except InputError:
            if size == 1:
                raise
            break  # too few images for so small a share
        for parts in combinations(calibrators, size):
            shares = [np.any([some[part] for part in parts], axis=0).mean() for some in flags.values()]
            caught[parts] = float(np.mean(shares))
    best = max(caught.values())
    fewest = min(len(parts) for parts, share in caught.items() if share >= best - _NEAR_ENOUGH)
    chosen = max((parts for parts in caught if len(parts) == fewest), key=lambda parts: caught[parts])
    return PartsChoice(chosen, {" + ".join(parts): share for parts, share in caught.items()})


def pixels_of(images: ImageSet, preprocessing: Preprocessing) -> Bytes:
    """Return some of the readable images as the screen sees them, uint8 (n, C, H, W)."""
    some = images.select(range(min(_MOST_MADE_UP, images.size or 0)))
    pixels = np.concatenate([batch.pixels for batch in read_batches(some, preprocessing, _MOST_MADE_UP)])
    if pixels.ndim != 4 or len(pixels) < 2:
        raise InputError(f"expected at least two readable images (C, H, W) to make outliers from; got {pixels.shape}")
    return np.asarray((pixels * 255).round(), dtype=np.uint8)

"""Settling a head for known defects: ridge regression, and how surely scores tell defects."""

import numpy as np
import torch
from numpy.typing import NDArray

from recondite.detectors.defect_head import DefectHead

_FOLDS, _MADE_UP_SHARE, _SMALLEST_SPREAD, _PENALTY = 5, 0.3, 1e-9, 0.003

Floats = NDArray[np.float64]


def settle(head: DefectHead, good: Floats, made_up: Floats, defects: Floats) -> None:
    """Let a head tell good images from defects by the oddest places (n, G) of each: ridge regression.

    Good images weigh as much as all defects, made-up ones 30 % of these. Its values are put on the scale of good images
    by heads that have not learnt from them.
    """
    middle, spread = good.mean(axis=0), good.std(axis=0) + _SMALLEST_SPREAD
    scale = spread * np.sqrt(good.shape[1])
    rows = (np.concatenate([good, made_up, defects]) - middle) / scale
    sizes = np.array([len(good), len(made_up), len(defects)])
    is_defect = np.repeat([0.0, 1.0, 1.0], sizes)
    weights = np.repeat(np.array([0.5, 0.5 * _MADE_UP_SHARE, 0.5 * (1 - _MADE_UP_SHARE)]) / sizes, sizes)
    fold = np.random.default_rng(0).permutation(len(rows)) % _FOLDS
    unseen = np.empty(len(rows))
    for number in range(_FOLDS):
        learnt = fold != number
        unseen[~learnt] = rows[~learnt] @ _ridge(rows[learnt], is_defect[learnt], weights[learnt])
    own = unseen[: len(good)]
    deviation = max(own.std(), _SMALLEST_SPREAD)
    head.middle.copy_(torch.from_numpy(middle))
    head.weight.copy_(torch.from_numpy(_ridge(rows, is_defect, weights) / (scale * deviation)))
    head.offset.fill_(own.mean() / deviation)


def _ridge(rows: Floats, targets: Floats, weights: Floats) -> Floats:
    """Return the direction (S,) of a weighted ridge regression."""
    weights = weights / weights.sum()
    roots = np.sqrt(weights)
    centred = roots[:, None] * (rows - weights @ rows)
    found: Floats = np.linalg.solve(  # type: ignore[assignment]
        centred.T @ centred + _PENALTY * np.eye(rows.shape[1]), centred.T @ (roots * targets)
    )
    return found


def told(good: Floats, defects: Floats) -> Floats:
    """Return how surely each defect (n,) is told from good images by scores, in [0, 1].

    It is the share of good images that score lower, each counted by a normal distribution with the spread of good
    scores in place of a step: unlike an AUROC it still tells few defects apart that are all beyond the good images.
    """
    from scipy.special import ndtr

    spread = max(good.std(), _SMALLEST_SPREAD)
    found: Floats = ndtr((defects[:, None] - good) / spread).mean(axis=1)
    return found

"""Screens of few images: each calibrates, judged by a detector that was fitted without it."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recondite.data.spool import Rows, Spool, one_of_each
from recondite.detectors import Detector
from recondite.errors import InputError
from recondite.options import TrainingOptions
from recondite.progress import progress
from recondite.screen.evidence import observed
from recondite.statistics.calibration import Calibrator, Guarantee, smallest_alpha

DEFAULT_ALPHA = 0.05
FEWEST_UNITS, MOST_UNITS, MOST_IMAGES, _PARTS = 5, 200, 2000, 10


@dataclass(frozen=True)
class LeftOut:
    """What detectors say of images that they were fitted without.

    Args:
        rows: (n,) of the spool, one of each unit.
        scores: float64 (n,).
        peaks: the largest feature score of each (n,); None where feature scores tell no place.
        parts: how many detectors there were.
    """

    rows: NDArray[np.intp]
    scores: NDArray[np.float64]
    peaks: NDArray[np.float64] | None
    parts: int


def are_few(count: int, share: float, alpha: float | None, confidence: float | None, guarantee: Guarantee) -> bool:
    """Return whether a share of so many images is too few to calibrate at alpha, and leaving out is what remains.

    Args:
        count: of units.
        share: of them that would calibrate.
        alpha, confidence, guarantee: as in `recondite.fit`. With a confidence nothing is left out: it is about scores
            that are independent, which those of images left out in turn are not.
    """
    if confidence is not None or not FEWEST_UNITS <= count <= MOST_UNITS:
        return False
    try:
        Calibrator(np.zeros(max(1, round(share * count)))).threshold(alpha or DEFAULT_ALPHA, None, guarantee)
    except InputError:
        return True
    return False


def alpha_for(count: int, alpha: float | None) -> float:
    """Return alpha; where none is given .05, or the smallest that so many calibration images allow."""
    if alpha is not None:
        return alpha
    return max(DEFAULT_ALPHA, smallest_alpha(count) or DEFAULT_ALPHA)


def scores_left_out(
    unfitted: Detector,
    images: Spool,
    keys: NDArray[np.void],
    training: TrainingOptions,
    shown: bool,
    fresh: NDArray[np.bool_] | None = None,
    learnable: NDArray[np.bool_] | None = None,
    further: bool = False,
    noted: Callable[[Detector, Rows], None] | None = None,
) -> LeftOut:
    """Deal units out to ten parts, or as many as there are units, and judge each part by a detector fitted without it.

    Source: cross-conformal prediction (Vovk 2015); CV+ (Barber, Candes, Ramdas, Tibshirani 2021, arXiv 1905.02928).
    Differs: a new image is judged by one detector fitted on all images, not by all the detectors of the parts, so that
    its score stays that of one detector; their theorem, at most 2 alpha in the worst case, is then no longer one.

    Args:
        unfitted: of which copies are fitted.
        images: all of them.
        keys: (N,) of their units.
        training: how to fit.
        shown: show progress on standard error.
        fresh: (N,) those that may be left out, whole units; all by default.
        learnable: (N,) those that may be learnt from; all by default.
        further: the copies learn further, in place of anew.
        noted: is told each part's detector, and the images it judges.
    """
    every = np.full(len(keys), True)
    fresh, learnable = (every if some is None else some for some in (fresh, learnable))
    rows = np.flatnonzero(fresh)
    chosen = rows[one_of_each(keys[rows], images.hashes[rows], training.seed)]
    unit_of = np.unique(keys, return_inverse=True)[1]
    parts = min(_PARTS, len(chosen))
    part_of_unit = np.full(unit_of.max() + 1, parts)
    part_of_unit[np.unique(unit_of[rows])] = np.random.default_rng(training.seed).permutation(len(chosen)) % parts
    part_of = part_of_unit[unit_of]
    scores = np.empty(len(chosen))
    peaks: NDArray[np.float64] | None = np.empty(len(chosen))
    with progress("leaving images out", parts, shown) as advance:
        for part in range(parts):
            detector = deepcopy(unfitted)
            others = images.rows(np.flatnonzero((part_of != part) & learnable))
            detector.fit_rows(others, None, training, further=further)
            here = np.flatnonzero(part_of[chosen] == part)
            scores[here], _, highest = observed(detector, None, images.rows(chosen[here]))
            if noted is not None:
                noted(detector, images.rows(chosen[here]))
            if highest is None or peaks is None:
                peaks = None
            else:
                peaks[here] = highest
            advance(1, "")
    return LeftOut(chosen, scores, peaks, parts)

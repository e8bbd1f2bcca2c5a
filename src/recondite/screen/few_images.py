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
from recondite.screen.calibrate import map_scale
from recondite.screen.evidence import observed
from recondite.statistics.calibration import Calibrator, Guarantee, smallest_alpha

DEFAULT_ALPHA = 0.05
Finish = Callable[[Detector, Rows], Detector]
FEWEST_UNITS, MOST_UNITS, MOST_IMAGES, _PARTS = 5, 200, 2000, 10


@dataclass(frozen=True)
class LeftOut:
    """What detectors say of images that they were fitted without.

    Args:
        rows: (n,) of the spool, one of each unit.
        scores: float64 (n,).
        peaks: the largest feature score of each (n,); None where feature scores tell no place.
        parts: how many detectors there were.
        map_scale: of heat maps, the mean of theirs; see `recondite.screen.calibrate.map_scale`.
    """

    rows: NDArray[np.intp]
    scores: NDArray[np.float64]
    peaks: NDArray[np.float64] | None
    parts: int
    map_scale: tuple[float, float]


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
    finished: Finish | None = None,
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
        finished: as in `judged_in_turn`.
    """
    every = np.full(len(keys), True)
    rows = np.flatnonzero(every if fresh is None else fresh)
    chosen = rows[one_of_each(keys[rows], images.hashes[rows], training.seed)]
    parts = min(_PARTS, len(chosen))
    scales: list[tuple[float, float]] = []

    def note(detector: Detector, judged: Rows) -> None:
        scales.append(map_scale(detector, judged))
        if noted is not None:
            noted(detector, judged)

    scores, peaks = judged_in_turn(
        unfitted,
        images.rows(),
        keys,
        chosen,
        every if learnable is None else learnable,
        parts,
        training,
        shown,
        "leaving images out",
        further,
        note,
        finished,
    )
    low, high = np.mean(scales, axis=0).tolist()
    return LeftOut(chosen, scores, peaks, parts, (low, high))


def judged_in_turn(
    unfitted: Detector,
    images: Rows,
    keys: NDArray[np.void],
    judged: NDArray[np.intp],
    learnt: NDArray[np.bool_],
    parts: int,
    training: TrainingOptions,
    shown: bool,
    title: str,
    further: bool = False,
    noted: Callable[[Detector, Rows], None] | None = None,
    finished: Finish | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return scores (n,) of images, and their peaks, by detectors fitted without the part that their unit is in.

    Args:
        unfitted: of which copies are fitted.
        images: N of them.
        keys: (N,) of their units.
        judged: (n,) the rows that are judged; units of which none is are learnt from throughout.
        learnt: (N,) which images detectors are fitted on.
        parts: how many.
        training: how to fit.
        shown, title: show progress on standard error.
        further: the copies learn further, in place of anew.
        noted: is told each part's detector, and the images it judges.
        finished: makes the detector that judges of one that was fitted and the images that it was fitted on.
    """
    unit_of = np.unique(keys, return_inverse=True)[1]
    dealt = np.unique(unit_of[judged])
    part_of_unit = np.full(unit_of.max() + 1, parts)
    part_of_unit[dealt] = np.random.default_rng(training.seed).permutation(len(dealt)) % parts
    part_of = part_of_unit[unit_of]
    scores = np.empty(len(judged))
    peaks: NDArray[np.float64] | None = np.empty(len(judged))
    with progress(title, parts, shown) as advance:
        for part in range(parts):
            detector = deepcopy(unfitted)
            fitted_on = Rows(images.pixels, images.index[(part_of != part) & learnt])
            detector.fit_rows(fitted_on, None, training, further=further)
            detector = detector if finished is None else finished(detector, fitted_on)
            here = np.flatnonzero(part_of[judged] == part)
            rows = Rows(images.pixels, images.index[judged[here]])
            scores[here], _, highest = observed(detector, None, rows)
            if noted is not None:
                noted(detector, rows)
            if highest is None or peaks is None:
                peaks = None
            else:
                peaks[here] = highest
            advance(1, "")
    return scores, peaks

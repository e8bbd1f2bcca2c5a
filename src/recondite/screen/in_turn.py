"""Images that are left out in turn: each calibrates, judged by a detector that was fitted without it."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recondite.data.spool import FEWEST_VALIDATED, Rows, Spool, one_of_each
from recondite.detectors import Detector
from recondite.detectors.features import Features
from recondite.detectors.measured import pooled
from recondite.errors import InputError
from recondite.networks.hooks import evaluating
from recondite.options import PoolingOptions, TrainingOptions
from recondite.progress import progress
from recondite.screen.calibrate import map_scale, scale_of
from recondite.screen.evidence import FEWEST as FEWEST_OF_EVIDENCE
from recondite.screen.evidence import observed
from recondite.statistics.calibration import Calibrator, Guarantee, smallest_alpha

DEFAULT_ALPHA = 0.05
Finish = Callable[[Detector, Rows], Detector]
FEWEST_UNITS, MOST_UNITS, MOST_IMAGES, STEADY, _PARTS = 5, 200, 2000, 100, 10


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

    def joined(self, before: "LeftOut") -> "LeftOut":
        """Return this behind what other detectors said of other images, whose rows are not known."""
        peaks = None if self.peaks is None or before.peaks is None else np.concatenate([before.peaks, self.peaks])
        scores = np.concatenate([before.scores, self.scores])
        weights = [len(before.scores), len(self.scores)]
        low, high = np.average([before.map_scale, self.map_scale], axis=0, weights=weights).tolist()
        return LeftOut(self.rows, scores, peaks, before.parts + self.parts, (low, high))


def are_few(
    count: int,
    share: float,
    alpha: float | None,
    confidence: float | None,
    guarantee: Guarantee,
    before: int = 0,
) -> bool:
    """Return whether a share of so many images is too few to calibrate at alpha, and leaving out is what remains.

    Args:
        count: of units.
        share: of them that would calibrate.
        alpha, confidence, guarantee: as in `recondite.fit`. With a confidence nothing is left out: it is about scores
            that are independent, which those of images left out in turn are not.
        before: how many scores of units that were left out there are already.
    """
    if confidence is not None or count > MOST_UNITS or count + before < FEWEST_UNITS:
        return False
    try:
        Calibrator(np.zeros(max(1, round(share * count)))).threshold(alpha or DEFAULT_ALPHA, None, guarantee)
    except InputError:
        return True
    return False


def steadier_in_turn(
    detector: Detector, count: int, share: float, confidence: float | None, evidence: float = 0.0
) -> bool:
    """Return whether each of so many units is left out in turn although a share of them could calibrate.

    A threshold from fewer than 100 scores lies elsewhere with each draw of them, and what it finds comes and goes: with
    a fifth of 177 metal plates .29 of made-up defects (standard deviation between draws .13); left out in turn, where
    all calibrate and all are learnt from, .40 (.01; benchmarks/calibration_share.py). Only where that costs little:
    nothing is trained, and a network looks once at each image for all fits.

    Args:
        detector: that will learn.
        count: of units.
        share: of them that would calibrate.
        confidence: as in `are_few`.
        evidence: the share that would be held out for evidence, of which there is none where images are left out.
    """
    if confidence is not None or not FEWEST_UNITS <= count < STEADY / share:
        return False
    # The same with several processes, where it looks each time, so that they make the same screen.
    looks_once = isinstance(detector, Features) and not detector.preprocessing.masked
    return looks_once and not detector.trains_by_steps and round(evidence * count) < FEWEST_OF_EVIDENCE


def check_can_be_left_out(detector: Detector, count: int) -> None:
    """Raise InputError for a detector that needs validation images: there are none where each image is left out.

    Args:
        detector: that will learn.
        count: of units.
    """
    if isinstance(detector, Features) and detector.trains_by_steps:
        raise InputError(
            f"dfr needs {FEWEST_VALIDATED} validation images, and of {count} in all, too few to calibrate on a share, "
            f"none are held out: give more images, or others to calibrate on (--calibration FOLDER) and a share for "
            f"validation that holds {FEWEST_VALIDATED}"
        )


def alpha_for(count: int, alpha: float | None) -> float:
    """Return alpha; where none is given .05, or the smallest that so many calibration images allow."""
    if alpha is not None:
        return alpha
    return max(DEFAULT_ALPHA, smallest_alpha(count) or DEFAULT_ALPHA)


def fewest_learnt(keys: NDArray[np.void], given: int) -> int:
    """Return of how many images, at least, a detector learns that leaves one of the parts of `scores_left_out` out.

    Args:
        keys: (n,) the units of the images that may be learnt from.
        given: how many units are dealt out.
    """
    return max(1, len(np.unique(keys)) - -(-given // _PARTS))


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
    chosen = one_of_each(keys, images.hashes, training.seed, rows)
    parts = min(_PARTS, len(chosen))
    scales: list[tuple[float, float]] = []

    def note(detector: Detector, judged: Rows) -> None:
        scales.append(_map_scale(detector, judged))
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
    fewest = min(int(((part_of != part) & learnt).sum()) for part in range(parts))
    scores = np.empty(len(judged))
    peaks: NDArray[np.float64] | None = np.empty(len(judged))
    with progress(title, parts, shown) as advance:
        for part in range(parts):
            detector = deepcopy(unfitted, {id(one): one for one in map(unfitted.get_submodule, unfitted.frozen)})
            fitted_on = Rows(images.pixels, images.index[(part_of != part) & learnt])
            if not further:
                detector.suit(fewest)
            if len(fitted_on) or not further:
                detector.fit_rows(fitted_on, None, training, further=further)
            detector = detector if finished is None else finished(detector, fitted_on)
            here = np.flatnonzero(part_of[judged] == part)
            rows = Rows(images.pixels, images.index[judged[here]])
            scores[here], highest = _judged(detector, rows)
            if noted is not None:
                noted(detector, rows)
            if highest is None or peaks is None:
                peaks = None
            else:
                peaks[here] = highest
            advance(1, "")
    return scores, peaks


def _judged(detector: Detector, images: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return scores (n,) of images, and their peaks."""
    if not _looks_once(detector, images):
        scores, _, peaks = observed(detector, None, images)
        return scores, peaks
    found = [(maps.flatten(1).amax(1), scores) for maps, scores in _seen_again(detector, images)]
    highest, instances = (torch.cat(parts).double().cpu().numpy() for parts in zip(*found, strict=True))
    return instances, highest if detector.locates else None


def _map_scale(detector: Detector, images: Rows) -> tuple[float, float]:
    """Return what `map_scale` does."""
    if not _looks_once(detector, images):
        return map_scale(detector, images)
    region = detector.preprocessing.region
    counted = slice(None) if region is None else torch.from_numpy(np.flatnonzero(region))
    maps = [maps.flatten(2)[..., counted].flatten() for maps, _ in _seen_again(detector, images)]
    return scale_of(torch.cat(maps).cpu().numpy())


def _looks_once(detector: Detector, images: Rows) -> TypeGuard[Features]:
    """Return whether a detector keeps what its network saw in images."""
    return isinstance(detector, Features) and detector.looked is not None and detector.looked.holds(images)


def _seen_again(detector: Features, images: Rows) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield maps of scores (n, *shape) and scores (n,) of images by what the network saw, as `measure_and_pool`."""
    score, inside = detector.options.score, detector.inside(torch.empty(0))
    for seen in detector.seen_in(images):
        with evaluating(detector):
            found = pooled(detector.measured(seen, score), score, PoolingOptions(), inside)
        yield found

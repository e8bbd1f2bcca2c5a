"""Fitting and calibrating where bad images may hide among those given as good."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.spool import Rows
from recondite.detectors import Detector
from recondite.options import TrainingOptions
from recondite.screen.evidence import FEWEST, observed
from recondite.screen.in_turn import judged_in_turn
from recondite.screen.separate import Sets
from recondite.statistics.calibration import Calibrator, Guarantee, smallest_calibration_set
from recondite.statistics.contamination import LEFT_OUT, Contamination, suspects

_PARTS, _ROUNDS, _LISTED = 5, 2, 1000


def good_images(
    unfitted: Detector,
    images: Rows,
    keys: NDArray[np.void],
    contamination: Contamination,
    training: TrainingOptions,
    shown: bool,
) -> NDArray[np.bool_]:
    """Return which images to learn from (N,): each is judged by a detector fitted without its unit, in two rounds.

    Of fewer than five units all are. In the second round the suspects of the first are not learnt from, so that what
    they hid stands out.

    Args:
        unfitted: of which copies are fitted.
        images: all that were given.
        keys: (N,) of their units.
        contamination: as in `suspects`.
        training: how to fit.
        shown: show progress on standard error.
    """
    parts = min(_PARTS, len(np.unique(keys)))
    if parts < _PARTS:
        return np.ones(len(images), dtype=bool)
    good, every = np.ones(len(images), dtype=bool), np.arange(len(images))
    for number in range(_ROUNDS):
        title = f"looking for bad images, {number + 1} of {_ROUNDS}"
        scores, _ = judged_in_turn(unfitted, images, keys, every, good, parts, training, shown, title)
        good = ~suspects(scores, contamination)
    return good


def good_evidence(detector: Detector, images: Rows, contamination: Contamination) -> Rows:
    """Return the images to learn the statistics of normal ones from, at least 50 of them, without suspects."""
    scores = observed(detector, None, images)[0]
    good = ~suspects(scores, contamination, len(images) - FEWEST)
    return Rows(images.pixels, images.index[good])


def without_suspects(
    found: Mapping[str, Any],
    sets: Sets,
    learnt: NDArray[np.bool_],
    contamination: Contamination,
    alpha: float,
    confidence: float | None,
    guarantee: Guarantee,
) -> dict[str, Any]:
    """Return the keyword arguments of a `Screen` without its suspect calibration images; its facts name all suspects.

    In each group as many images stay as alpha needs.

    Args:
        found: what `recondite.screen.calibrate.calibrated` gave for the calibration images of `sets`.
        sets: which images serve what.
        learnt: which of the images to learn from were (N,).
        contamination: as in `suspects`; of each group.
        alpha, confidence, guarantee: as in `Screen`.
    """
    calibrator: Calibrator = found["calibrator"]
    needed = smallest_calibration_set(alpha, confidence, guarantee)
    labels = np.array(calibrator.groups or [""] * len(calibrator.scores))
    good, left_out = np.ones(len(labels), dtype=bool), {}
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        bad = suspects(calibrator.scores[rows], contamination, len(rows) - needed)
        good[rows[bad]] = False
        left_out[str(label)] = int(bad.sum())
    named = {"images": sets.images.index[~learnt], "calibration": sets.calibration.index[~good]}
    names = {sets.sources[role].ids[row] for role, rows in named.items() for row in rows}
    facts = {
        **found["facts"],
        "calibration": {**found["facts"]["calibration"], "images": int(good.sum()), LEFT_OUT: left_out},
        "contamination": {"given": contamination, "suspects": sorted(names)[:_LISTED]},
    }
    peaks, observations = found.get("peaks"), found.get("observations", {})
    return {
        "calibrator": Calibrator(calibrator.scores[good], tuple(labels[good].tolist()) if calibrator.groups else None),
        "observations": {name: values[good] for name, values in observations.items()},
        "peaks": None if peaks is None else peaks[good],
        "facts": facts,
    }

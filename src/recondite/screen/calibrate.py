"""Calibration of a screen: scores of held-out normal images, and a probe that detects another arithmetic."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from recondite.data.datasets import ImageSet, nameless, open_images
from recondite.data.masks import check_masks
from recondite.data.spool import Rows, Spool, keys_of, one_of_each, read_all, rows_at_once
from recondite.data.units import COPIES, GroupBy, labels_of
from recondite.detectors import Detector
from recondite.errors import ArtifactError, InputError, ReconditeWarning
from recondite.progress import counted
from recondite.screen.evidence import Evidence, observed
from recondite.screen.facts import PROBE, PROBES
from recondite.screen.known import Known
from recondite.screen.screen_like import ScreenLike
from recondite.screen.words import ERROR
from recondite.statistics.calibration import Calibrator

_PROBE_TOLERANCE = 1e-3
_FEWEST_DIFFERENT = 0.9
"""Of scores that tell copies: the least share that are different among those of different images."""


S = TypeVar("S", bound=ScreenLike)


def recalibrated_screen(
    screen: S, images: object, *, region: object = None, by_folder: bool = False, group_by: GroupBy = COPIES
) -> S:
    """Return this screen calibrated on other normal images, unknown to its detector and to its classifier, if any.

    Images that it has learnt from, by their pixels, and, unless group_by is "none", near-copies of them are left out.

    Args:
        images: anything that `open_images` opens.
        region: for a screen fitted with one mask per image, the folder of theirs.
        by_folder: calibrate each sub-folder or label on its own.
        group_by: what tells images that belong together, of which one calibrates; as in `recondite.fit`.

    Raises:
        InputError: none of them can be read, all were learnt from, there are too few for alpha, or, by folder, none
            is of a group of before.
    """
    opened = open_images(images, role="inliers", shape=screen.detector.shape, masks=region)
    check_masks(opened.masks, screen.detector.preprocessing.masked)
    spooled = read_all(opened, screen.detector.preprocessing)
    group_by = labels_of(opened, group_by)
    keys = keys_of([spooled], group_by)[0]
    fresh = unknown_rows(screen, spooled, group_by, keys)
    chosen = one_of_each(keys, spooled.hashes, 0, fresh)
    groups = tuple(spooled.labels[index] for index in chosen) if by_folder else None
    if groups is not None:
        check_groups_stay(screen, groups, "give images of each group that it has not learnt from")
    calibration = {
        "images": len(chosen),
        "of": len(spooled),
        "known": len(spooled) - len(fresh),
        "fingerprint": spooled.fingerprint(chosen),
        "unreadable": len(spooled.bad),
    }
    facts = {**facts_to_keep(screen), "calibration": calibration}
    found = calibrated(screen.detector, screen.evidence, screen.score, spooled.rows(chosen), groups, facts)
    found["known"] = Known.of([(spooled, chosen, False)], known_to(screen, spooled).learnt_alone())
    return cast(S, replace(cast(Any, screen), **found))


def facts_to_keep(screen: ScreenLike) -> dict[str, Any]:
    """Return the facts of a screen that hold for one that is calibrated anew: not what its last update changed."""
    return {name: value for name, value in screen.facts.items() if name != "update"}


def check_extensible(screen: ScreenLike) -> None:
    """Raise InputError where further images cannot join those that calibrated, and hold what the screen promises."""
    calibration = screen.facts.get("calibration", {})
    if calibration.get("left_out_in_parts") or calibration.get("no_promise"):
        raise InputError(
            "the scores that calibrated this screen are not of its detector, or promise nothing: calibrate it anew, "
            "without keeping them (screen.recalibrated, or an update that learns)"
        )


def check_groups_stay(screen: ScreenLike, groups: Iterable[str], way_out: str | None) -> None:
    """Raise InputError where a new calibration would leave out a group that the screen has, or is of none.

    Args:
        screen: that is calibrated anew.
        groups: of the images that are to calibrate.
        way_out: for whoever has no images of the others; None where these stay calibrated as they are.
    """
    found, own = set(groups), set(screen.calibrator.groups or ())
    if own and "" in found - own:
        raise InputError(f"each group has a calibration of its own, and some images are of none of {sorted(own)}")
    if own - found and way_out is not None:
        raise InputError(
            f"no image of group {', '.join(map(repr, sorted(own - found)))} would calibrate, and those to come could "
            f"not be judged: {way_out}"
        )


def known_to(screen: ScreenLike, images: Spool) -> Known:
    """Return what a screen has met, ready to be added to where nobody kept it."""
    return Known.unkept(images) if screen.known is None else screen.known


def suspected(screen: ScreenLike, images: Spool) -> NDArray[np.bool_]:
    """Return which images have the ids of those that a fit left out as suspects (n,)."""
    return np.isin(images.ids, (screen.facts.get("contamination") or {}).get("suspects", []))


def warn_of_suspects(screen: ScreenLike, images: Spool, rows: NDArray[np.intp], stacklevel: int) -> None:
    """Warn where images that a fit left out as suspects are taken for good after all.

    They are told by their pixels too, as the ids of arrays are but places.

    Args:
        screen: that was fitted.
        images: with those that are asked about.
        rows: of those that are learnt from, or calibrate.
        stacklevel: of the warning.
    """
    taken = rows[(suspected(screen, images) & known_to(screen, images).same(images))[rows]]
    if len(taken):
        warnings.warn(
            f"{counted(len(taken), 'image')} that the fit left out as suspect, such as {images.ids[taken[0]]}, would "
            "now be taken for good: take out what is bad (recondite info --json names them)",
            ReconditeWarning,
            stacklevel=stacklevel + 1,
        )


def warn_of_unknown(known: Known | None, stacklevel: int) -> None:
    """Warn where nobody kept what was learnt from, so that these images may calibrate as if they were new."""
    if known is None or not known.complete:
        warnings.warn(
            "this screen does not know which images it was fitted on, as screens from hubs and exports do not: give "
            "others, since those would calibrate as if they were new, and its rate would not hold",
            ReconditeWarning,
            stacklevel=stacklevel + 1,
        )


def not_calibrating(own: Calibrator, further: Calibrator) -> NDArray[np.intp]:
    """Return which further scores are of no image that calibrates already: a score depends on the image alone."""
    known = set() if scores_repeat(own) else set(_entries(own))
    return np.flatnonzero([one not in known for one in _entries(further)])


def scores_repeat(calibrator: Calibrator) -> bool:
    """Return whether many different images have equal scores, as by a statistic of few values: these tell no copies."""
    return len(set(_entries(calibrator))) < _FEWEST_DIFFERENT * len(calibrator.scores)


def _entries(calibrator: Calibrator) -> Iterator[tuple[float, str]]:
    scores = calibrator.scores
    yield from zip(scores.tolist(), calibrator.groups or ("",) * len(scores), strict=True)


def unknown_rows(
    screen: ScreenLike, images: Spool, group_by: GroupBy, keys: NDArray[np.void], stacklevel: int = 3
) -> NDArray[np.intp]:
    """Return which of some normal images may calibrate (n,): those that belong with none that was learnt from.

    Args:
        screen: that is calibrated; all may, with a warning, where it does not know what it has met.
        images: those asked about.
        group_by, keys: of their units.
        stacklevel: of the warnings, as that which says how many may not.

    Raises:
        InputError: all were learnt from, or one is a known defect.
    """
    known = known_to(screen, images)
    known.refuse_defects(images)
    warn_of_unknown(known, stacklevel)
    learnt = known.learnt_alone()
    fresh = np.flatnonzero(~learnt.met(images, group_by, keys))
    again = int(learnt.same(images).sum())
    if not len(fresh):
        in_turn = "left_out_in_parts" in screen.facts.get("calibration", {})
        held_out = " (one fitted with --calibration 0.2 has not learnt from a fifth)" * in_turn
        raise InputError(
            f"the screen has learnt from all of these {counted(len(images), 'image')}: give others{held_out}"
        )
    warn_of_suspects(screen, images, fresh, stacklevel)
    if again:
        remark = f"the screen has learnt from {again:,} of {counted(len(images), 'image')}: they do not calibrate"
        warnings.warn(remark, ReconditeWarning, stacklevel=stacklevel)
    return fresh


def unknown_images(screen: ScreenLike, images: object, group_by: GroupBy = COPIES, one_each: bool = False) -> ImageSet:
    """Return normal images that may calibrate a guard with a screen, as `unknown_rows`; a stream as it is.

    Args:
        screen: of the guard.
        images: those asked about.
        group_by: of their units.
        one_each: leave one of each unit, drawn at random: only these are independent evidence.

    Raises:
        InputError: as `unknown_rows`, or no readable images.
    """
    opened = open_images(images, role="classes", shape=screen.detector.shape)
    if opened.ids is None or (screen.known is None and not one_each):
        warn_of_unknown(screen.known, 3)
        return opened
    group_by = labels_of(opened, group_by)
    spooled = read_all(opened, screen.detector.preprocessing)
    keys = keys_of([spooled], group_by)[0]
    rows = unknown_rows(screen, spooled, group_by, keys, stacklevel=4)
    if one_each:
        rows = one_of_each(keys, spooled.hashes, 0, rows)
    if len(rows) == len(spooled):
        return opened
    left_out = set(spooled.ids) - {spooled.ids[row] for row in rows}
    return opened.select([index for index, name in enumerate(opened.ids) if name not in left_out])


def calibrated(
    detector: Detector,
    evidence: Evidence | None,
    score: str,
    rows: Rows,
    groups: tuple[str, ...] | None,
    facts: Mapping[str, Any],
    progress: bool = False,
) -> dict[str, Any]:
    """Return the keyword arguments of a `Screen` that its calibration images decide.

    Args:
        detector, evidence, score, facts: as in `Screen`.
        rows: normal images, none of which the screen has learnt from.
        groups: one label a row, or None.
        progress: show progress on standard error.

    Raises:
        InputError: a score or a statistic is not finite.
    """
    error, statistics, peaks = observed(detector, evidence.observer if evidence else None, rows, progress)
    scores = error if evidence is None else evidence.score(score, error, statistics)
    if getattr(detector.options, "scoring_precision", "fp32") == "bf16":
        facts = {**facts, PROBE: probe_scores(detector)}
    calibrator, observations = Calibrator(scores, groups), {} if evidence is None else {ERROR: error, **statistics}
    calibrator.check_beside(observations)
    return {
        "calibrator": calibrator,
        "observations": observations,
        "peaks": peaks,
        "facts": facts,
    }


def probe_scores(detector: Detector) -> list[float]:
    """Return the scores of a few random images; in bfloat16, other processors may give others."""
    pixels = np.random.default_rng(0).random((PROBES, *detector.shape), dtype=np.float32)
    return [float(score) for score in detector.score_batch(nameless(pixels)).instance_score]


def check_probe(detector: Detector, facts: Mapping[str, Any], path: Path) -> None:
    """Raise ArtifactError if scores here are not those that the screen was calibrated with."""
    expected = facts.get(PROBE)
    if expected is None:
        return
    found = probe_scores(detector)
    if not np.allclose(found, np.asarray(expected, dtype=np.float64), rtol=_PROBE_TOLERANCE, atol=0):
        raise ArtifactError(
            f"{path} was calibrated in bfloat16 on a processor that computes it in another way: "
            "its false-alarm rate would not hold here; fit it again, or with scoring_precision fp32"
        )


def map_scale(model: Detector, rows: Rows, looked_at: int = 256) -> tuple[float, float]:
    """Return the feature scores at which heat maps begin and are brightest, from normal images.

    Errors begin at zero; scores that can be negative (likelihoods) at the median. Bright is the worst in a thousand.
    """
    few = Rows(rows.pixels, rows.index[: min(looked_at, rows_at_once(model.shape))])
    parts = []
    for pixels in few.batches(model.scoring_batch):
        scores = model.score_batch(nameless(pixels), feature_score=True).feature_score
        assert scores is not None
        inside = model.preprocessing.inside(pixels)
        counted = np.broadcast_to(True if inside is None else inside[..., None, :, :], scores.shape)
        parts.append(scores[counted])
    return scale_of(np.concatenate(parts))


def scale_of(values: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Return what `map_scale` does of the feature scores of normal images (n,)."""
    low = 0.0 if values.min() >= 0 else float(np.median(values))
    return low, max(float(np.quantile(values, 0.999)), low + 1e-12)

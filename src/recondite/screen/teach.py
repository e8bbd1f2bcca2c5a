"""A screen that is taught known defects: its score becomes sharper, and is calibrated anew."""

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import Any, cast

import numpy as np

from recondite.data.datasets import open_images
from recondite.data.spool import keys_of, one_of_each, read_all
from recondite.data.units import COPIES, GroupBy, check_group_by, labels_of
from recondite.errors import InputError
from recondite.graphs.exported import Exported
from recondite.progress import counted
from recondite.screen.calibrate import S, calibrated, check_groups_stay, facts_to_keep, suspected
from recondite.screen.in_turn import scores_left_out
from recondite.screen.known import Known
from recondite.screen.known_defects import KnownDefects, check_teachable, taught
from recondite.screen.screen_like import ScreenLike
from recondite.screen.update import next_version, training_options
from recondite.statistics.calibration import Calibrator
from recondite.statistics.contamination import LEFT_OUT
from recondite.statistics.density import Marginals
from recondite.torch_state import own_settings


@own_settings()
def taught_screen(
    screen: S,
    defects: object,
    images: object = None,
    *,
    masks: object = None,
    group_by: GroupBy = COPIES,
    progress: bool = False,
) -> S:
    """Return a screen that knows some defects and tells the like of them better; this one stays as it is.

    A small head on features learns from them, beside made-up ones, and raises the score of images that are like them.
    A screen keeps no images, so the good ones that it was fitted on are given again: those that it has learnt from are
    told by their pixels and are what the head compares with, the others calibrate the new score. What was taught before
    is forgotten: give all known defects together. `facts["known_defects"]` says what it is worth.

    Args:
        defects: 3 to 50 images of known defects, anything that `open_images` opens; of more, 50 are taken.
        images: the good images of the fit.
        masks: a folder of masks of where the defects lie: for DEFECT/NAME.png a mask DEFECT/NAME_mask.png or
            DEFECT/NAME.png. Defects are then pasted into good images too. By default those in a folder ground_truth
            near the images, laid out so, of the images that have one.
        group_by: as in `recondite.fit`.
        progress: show progress on standard error.

    Raises:
        InputError: the head does not help (`recondite.screen.known_defects.UnhelpfulError`), a detector without
            features, an exported screen, too few defects, or too few good images.
    """
    check_group_by(group_by)
    if isinstance(screen.detector, Exported):
        raise InputError("an exported screen cannot learn: teach the one that it was made from, and export that")
    check_teachable(screen.detector)
    if screen.known is None or not screen.known.complete:
        raise InputError(
            "the screen does not know the images that it was fitted on: fit it anew with these defects (recondite fit "
            "--defects)"
        )
    if images is None:
        raise InputError(
            "the screen keeps no images: give the good images of its fit again (recondite teach SCREEN DEFECTS GOOD)"
        )
    known = KnownDefects.opened(defects, masks, screen.detector, progress)
    opened = open_images(images, role="fit", shape=screen.detector.shape)
    group_by = labels_of(opened, group_by)
    spooled = read_all(opened, screen.detector.preprocessing, progress)
    known.check_apart(spooled)
    keys = keys_of([spooled], group_by)[0]
    trusted = ~suspected(screen, spooled)
    before = screen.known.learnt_alone()
    learnt = before.same(spooled) & trusted
    chosen = np.flatnonzero(learnt)
    options = training_options(screen)
    calibration = screen.facts.get("calibration", {})
    in_turn = "left_out_in_parts" in calibration
    if in_turn:
        needed = screen.facts["images"]["images"]
        if len(chosen) < needed:
            raise InputError(
                f"the screen judged each of its {counted(needed, 'image')} by a detector fitted without it, and they "
                f"all have to be given again; of these it knows {len(chosen)}"
            )
    else:
        fresh = np.flatnonzero(~before.met(spooled, group_by, keys) & trusted)
        rows = one_of_each(keys, spooled.hashes, options.seed, fresh)
        if not len(rows):
            raise InputError(
                f"the screen has learnt from all of these {counted(len(spooled), 'image')}: give those that calibrated "
                "it too, or other good images beside them"
            )
        groups = None if screen.calibrator.groups is None else tuple(spooled.labels[row] for row in rows)
        check_groups_stay(screen, groups or (), "give good images of each group that it has not learnt from")
    detector = deepcopy(screen.detector) if in_turn else screen.detector
    kept = {name: calibration[name] for name in (LEFT_OUT, "left_out_in_parts") if name in calibration}
    facts = facts_to_keep(screen)
    with detector.looking_once(spooled.rows(chosen), progress) if in_turn else nullcontext():
        if in_turn and _learnt_in_steps(screen):
            # So are those that judge the images left out: one that learnt in steps has another scale.
            detector.fit_rows(spooled.rows(chosen), None, options)
            facts["images"] = {"images": len(chosen), "fingerprint": spooled.fingerprint(chosen)}
        lesson = taught(detector, spooled.rows(chosen), keys[chosen], known, options.seed)
        if in_turn:
            left_out = scores_left_out(
                *(deepcopy(lesson.detector.with_head(None)), spooled, keys, options, progress),
                fresh=learnt,
                learnable=learnt,
                finished=lesson.finished,
            )
    facts |= {"known_defects": lesson.facts, **next_version(screen)}
    if in_turn:
        facts["map_scale"] = left_out.map_scale
        facts["calibration"] = {**kept, "images": len(left_out.rows), "fingerprint": spooled.fingerprint(left_out.rows)}
        found: dict[str, Any] = {"calibrator": Calibrator(left_out.scores), "peaks": left_out.peaks, "facts": facts}
        seen = screen.known
    else:
        facts["calibration"] = {**kept, "images": len(rows), "fingerprint": spooled.fingerprint(rows)}
        evidence = screen.evidence
        if evidence is not None:
            evidence = replace(evidence, error=Marginals.fit(lesson.errors[:, None]))
        found = calibrated(lesson.detector, evidence, screen.score, spooled.rows(rows), groups, facts, progress)
        found["evidence"] = evidence
        seen = Known.of([(spooled, rows, False)], before)
    found["known"] = seen.taught(known.images)
    return cast(S, replace(cast(Any, screen), detector=lesson.detector, **found))


def _learnt_in_steps(screen: ScreenLike) -> bool:
    """Return whether the detector of a screen took in images after its fit."""
    learnt = screen.facts["images"]["images"]
    return any(past["learnt"] != learnt for past in screen.facts.get("versions", ()))

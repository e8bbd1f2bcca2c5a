"""A screen that takes in further normal images: what was learnt stays, calibration is made anew or extended."""

from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from recondite.data.datasets import nameless, open_images
from recondite.data.masks import check_masks
from recondite.data.spool import Rows, Spool, keys_of, one_of_each, read_all
from recondite.data.units import COPIES, GroupBy, check_group_by, labels_of
from recondite.detectors import Detector
from recondite.detectors.effects import check_effect
from recondite.distributed import collective
from recondite.errors import InputError
from recondite.graphs.exported import Exported
from recondite.options import TrainingOptions, make_options, options_to_json
from recondite.perturbations.defects import DEFECTS, defective
from recondite.progress import counted
from recondite.screen.calibrate import (
    S,
    calibrated,
    check_extensible,
    check_groups_stay,
    known_to,
    map_scale,
    not_calibrating,
    warn_of_suspects,
    warn_of_unknown,
)
from recondite.screen.evidence import FEWEST, Evidence, fit_evidence, fit_observer
from recondite.screen.in_turn import MOST_IMAGES, STEADY, LeftOut, are_few, scores_left_out, steadier_in_turn
from recondite.screen.known import Known
from recondite.screen.screen_like import ScreenLike
from recondite.screen.separate import (
    Sets,
    all_for_everything,
    asked_for,
    check_enough,
    check_used,
    how_many,
    may_calibrate,
    separate_sets,
    shares_of,
    without_unused,
)
from recondite.screen.words import ERROR
from recondite.statistics.calibration import Calibrator, smallest_alpha
from recondite.statistics.contamination import LEFT_OUT
from recondite.statistics.metrics import auroc
from recondite.torch_state import own_settings

_SHARE, _SURPRISING, _LOOKED_AT, _COMPARED, _DIGITS = 0.4, 0.001, 2000, 200, 12
_CALLER = 4  # warnings point there: two decorators lie between


@collective()
@own_settings()
def updated_screen(
    screen: S,
    images: object,
    *,
    calibration: object = None,
    evidence: object = 0.2,
    validation: object = 0.1,
    score: str | None = None,
    group_by: GroupBy = COPIES,
    region: object = None,
    sampled: bool = False,
    only_calibrate: bool = False,
    run_folder: Path | str | None = None,
    resume: bool = False,
    progress: bool = False,
    **training: Any,
) -> S:
    """Return a screen that has learnt from further normal images too; this one stays as it is.

    Principal components and features take them in as if all had been learnt together, banks as the coreset of a
    coreset; the moments that standardise distances keep what the old images showed to the detector before. Networks go
    on from their weights, and forget what they do not see again: give them the old images too.
    Images that the screen has learnt from are told by their pixels, and near-copies of them likewise: neither
    calibrates, and what is in sums is not added again.

    The scores that calibrated are of the detector before and go. Some of the new images calibrate, as in
    `recondite.fit`; the images that calibrated before may be given again, alone or among others. A screen whose images
    were left out in turn is fitted anew, each left out, where it gets all of them again; where it gets new ones alone,
    and few, the scores of the old ones stay beside theirs. `facts["update"]` says what has changed, `facts["version"]`
    how often.

    Args:
        images: further normal images, anything that `open_images` opens.
        calibration: share of those that are new, or other normal images, to calibrate on; by default .4, unless each is
            left out in turn.
        evidence: likewise, to learn the statistics of unseen normal images from, where the score needs them.
        validation: likewise, to choose the best epoch by, where there are epochs.
        score: what images are judged by from now on: "error", or what the screen judges by already.
        group_by: as in `recondite.fit`.
        region: for a screen fitted with one mask per image, the folder of theirs; any other keeps its region.
        sampled: the new images are a random sample of the normal images to come, though they score otherwise than the
            calibration images did; without it, calibration on a share of such images is refused.
        only_calibrate: learn nothing: the detector stays, and so do the scores that calibrated; all new images add to
            them.
        run_folder: where training keeps its checkpoint and logs, in a folder named after this screen's fingerprint.
        resume: go on from the checkpoint there, if it is of the same images and options.
        progress: show progress on standard error.
        training: options of `TrainingOptions`, in place of those that the screen was fitted with.

    Raises:
        InputError: the screen was exported, or keeps too little; images that cannot be used, or all known; too few for
            alpha or for the score; or images that score otherwise.
    """
    check_group_by(group_by)
    if isinstance(screen.detector, Exported):
        raise InputError("an exported screen cannot learn: update the one that it was made from, and export that")
    check_effect(screen.detector, training)
    options = training_options(screen, training)
    judged_by = screen.score if score is None else score
    if judged_by not in (ERROR, screen.score):
        raise InputError(f"expected score error or {screen.score}; got {score!r}")
    given = {"calibration": calibration, "validation": validation, "evidence": evidence}
    unused = [*asked_for(given, updated_screen), *(["score"] if score is not None else [])] if only_calibrate else []
    if unused:
        raise InputError(f"{', '.join(unused)} would change nothing where nothing is learnt: leave it out")
    in_turn = calibration is None and _is_of_few(screen)
    given["calibration"] = calibration = _SHARE if calibration is None else calibration
    held_out = without_unused(given, judged_by, screen.detector)
    check_used(given, held_out, judged_by, screen.detector, updated_screen)
    shares = shares_of(held_out)
    opened = open_images(images, role="fit", shape=screen.detector.shape, masks=region)
    check_masks(opened.masks, screen.detector.preprocessing.masked)
    group_by = labels_of(opened, group_by)
    spooled = read_all(opened, screen.detector.preprocessing, progress)
    known = known_to(screen, spooled)
    known.refuse_defects(spooled)
    warn_of_unknown(known, _CALLER)
    keys = keys_of([spooled], group_by)[0]
    if only_calibrate:
        return _extended(screen, spooled, known, keys, group_by, sampled, options.seed, progress)
    learnt = known.learnt_alone()
    fresh, learnable = may_calibrate(spooled, screen.detector, learnt, group_by, keys)
    warn_of_suspects(screen, spooled, np.flatnonzero(fresh | learnable), _CALLER)
    if not learnable.any():
        raise InputError(f"the screen has learnt from all of these {counted(len(spooled), 'image')} already")
    new, promised = fresh, (screen.alpha, screen.confidence, screen.guarantee)
    if isinstance(calibration, float | int) and not sampled:
        _check_alike(screen, spooled, one_of_each(keys, spooled.hashes, options.seed, np.flatnonzero(fresh)))
    anew = _can_be_fitted_anew(screen, spooled)
    if anew:
        fresh = learnable = np.full(len(spooled), True)
    count = len(np.unique(keys[fresh]))
    steadier = in_turn and steadier_in_turn(screen.detector, count, _SHARE, screen.confidence)
    kept = None if anew else _left_out_before(screen, count, steadier)
    few = screen.calibrator.groups is None and len(spooled) <= MOST_IMAGES and judged_by == ERROR
    few = few and len(shares) == len(held_out)
    few = few and (steadier or are_few(count, shares[0], *promised, 0 if kept is None else len(kept.scores)))
    kept = kept if few else None
    if few:
        sets = all_for_everything(spooled, keys, options.seed, fresh, learnable, None if anew else learnt)
    else:
        sets = separate_sets(
            *(spooled, screen.detector, held_out, opened.masks, group_by, (), options.seed, progress, learnt)
        )
    if judged_by != ERROR and sets.evidence is None:
        raise InputError(
            f"score {judged_by!r} needs at least {FEWEST} images held out as evidence; these {len(spooled):,} leave "
            f"fewer: give more, a larger share, other images as evidence, or score='error' (--score error)"
        )
    groups = tuple(sets.calibration_labels) if screen.calibrator.groups is not None else None
    if groups is not None:
        check_groups_stay(screen, groups, "give new images of each group, or learn nothing (--only-calibrate)")
    there = (
        f"{how_many(spooled, sets.units)}, new or not. Those that calibrated before count again when they are given "
        "too; or learn nothing and add these to them (--only-calibrate)"
    )
    check_enough(len(sets.calibration) + (0 if kept is None else len(kept.scores)), groups, promised, there)

    compared = Compared(screen, new)
    left_out = None
    detector = deepcopy(screen.detector)
    # A checkpoint knows its images and options, but not which weights it began with.
    folder = None if run_folder is None else Path(run_folder) / screen.fingerprint()[:_DIGITS]
    with detector.looking_once(spooled.rows(), progress) if few else nullcontext():
        if few:
            left_out = scores_left_out(
                *(detector, spooled, keys, options, progress, fresh, learnable, not anew, compared.note_left_out)
            )
            left_out = left_out if kept is None else left_out.joined(kept)
        detector.fit_rows(sets.images, sets.validation, options, folder, resume, progress, further=not anew)
    learnt_evidence = _evidence(screen, detector, sets, progress)
    scale = map_scale(detector, sets.calibration) if left_out is None else left_out.map_scale
    # A network learns again from images that it knows.
    learnt_first = len(sets.images) if anew else int((~learnt.same(spooled))[sets.images.index].sum())
    facts = {**_facts(screen, sets, options, learnt_first, anew), "map_scale": scale}
    facts["calibration"]["sampled"] = sampled
    if left_out is not None:
        facts["calibration"] |= {"left_out_in_parts": left_out.parts, "images": len(left_out.scores)}
        if kept is not None:
            old = screen.facts["calibration"]
            facts["calibration"] |= {"kept": len(kept.scores), **{name: old[name] for name in {LEFT_OUT} & old.keys()}}
        found = {"calibrator": Calibrator(left_out.scores), "peaks": left_out.peaks, "observations": {}, "facts": facts}
    else:
        found = calibrated(detector, learnt_evidence, judged_by, sets.calibration, groups, facts, progress)
    after = _replaced(screen, detector=detector, score=judged_by, evidence=learnt_evidence, known=sets.known, **found)
    if left_out is None:
        compared.note(after, sets.calibration)
    learnt_now, again = (int(new.sum()), 0) if anew else (learnt_first, int((~new).sum()))
    return _with_changes(screen, after, compared, learnt_now, again)


def _can_be_fitted_anew(screen: ScreenLike, spooled: Spool) -> bool:
    """Return whether a screen of few images gets all of them again, so that each can be left out of all in turn.

    Trained networks and heads of known defects have seen them and do not forget; suspects were left out for good.
    """
    if not _is_of_few(screen) or screen.known is None or not screen.known.complete or screen.detector.trains_by_steps:
        return False
    learnt = screen.known.learnt_alone().hashes
    plain = not {"known_defects", "contamination"} & screen.facts.keys()
    return plain and bool(np.isin(learnt, spooled.hashes).all())


def _left_out_before(screen: ScreenLike, count: int, steadier: bool) -> LeftOut | None:
    """Return what calibrated by being left out in turn, where so many new images alone are too few.

    Too few for alpha, or, where it is about a `steadier` threshold, for that.
    """
    smallest = smallest_alpha(count, screen.confidence, screen.guarantee) if count else None
    enough = smallest is not None and smallest <= screen.alpha and not (steadier and count < STEADY)
    if enough or not _is_of_few(screen):
        return None
    own = screen.calibrator.scores
    parts = int(screen.facts["calibration"]["left_out_in_parts"])
    return LeftOut(np.empty(0, dtype=np.intp), own, screen.peaks, parts, screen.map_scale)


def _is_of_few(screen: ScreenLike) -> bool:
    calibration = screen.facts.get("calibration", {})
    return bool(calibration.get("left_out_in_parts")) and not calibration.get("no_promise")


@dataclass
class Compared:
    """What a screen and its successor say of the same new good images, which neither has learnt from.

    Args:
        before: the screen.
        new: which of the images (N,) it has not met.
        good: (before, after) scores of the good images.
        defective: (before, after) scores of those images with a made-up defect each.
    """

    before: ScreenLike
    new: NDArray[np.bool_]
    good: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=list)
    defective: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=list)

    def note(self, after: ScreenLike | Detector, rows: Rows) -> None:
        """Let both judge at most 200 images, as they are and with a defect."""
        rows = Rows(rows.pixels, rows.index[:_COMPARED])
        for part in rows.slices(self.before.detector.scoring_batch):
            pixels = rows.take(part)
            self.good.append((_scored(self.before, pixels), _scored(after, pixels)))
            seen = self.before.detector.preprocessing
            if seen.is_image and not seen.masked:
                names, numbers = list(DEFECTS), range(part.start, part.start + len(pixels))
                changed = np.concatenate(
                    [
                        defective(pixels[place : place + 1], names[number % len(names)], first=number).images
                        for place, number in enumerate(numbers)
                    ]
                ).astype(np.float32)
                self.defective.append((_scored(self.before, changed), _scored(after, changed)))

    def note_left_out(self, detector: Detector, rows: Rows) -> None:
        """Do so with the detector of one part, which has learnt from none of these images."""
        rows = Rows(rows.pixels, rows.index[self.new[rows.index]])
        if len(rows) and sum(len(before) for before, _ in self.good) < _COMPARED:
            self.note(detector, rows)

    def to_json(self, after: ScreenLike) -> dict[str, Any]:
        """Return the numbers, (before, after) each: the median score, the share flagged, the AUROC of the defects."""
        good, bad = (
            [np.concatenate(parts) for parts in zip(*pairs, strict=True)] if pairs else []
            for pairs in (self.good, self.defective)
        )
        pairs = list(zip((self.before, after), good, strict=True))
        return {
            "images": len(good[0]),
            "median_score": [float(np.median(scores)) for scores in good],
            "flagged": None
            if self.before.calibrator.groups is not None
            else [float(np.mean(scores > judge.threshold)) for judge, scores in pairs],
            "auroc": [auroc(*both) for both in zip(good, bad, strict=True)] if bad else None,
        }


def _scored(judge: ScreenLike | Detector, pixels: NDArray[np.float32]) -> NDArray[np.float64]:
    return judge.score_batch(nameless(pixels)).instance_score


def training_options(screen: ScreenLike, given: Mapping[str, Any] = MappingProxyType({})) -> TrainingOptions:
    """Return the options that a screen was trained with, with others in place of some.

    Raises:
        InputError: an unknown option, or a value out of range.
    """
    known = screen.facts.get("training") or screen.detector.training_defaults
    return make_options(TrainingOptions, {**known, **given}, "training")


def _check_alike(screen: ScreenLike, spooled: Spool, rows: NDArray[np.intp]) -> None:
    """Raise InputError unless new images score as the calibration images did: a selection of them must not calibrate.

    Two-sided (Kolmogorov and Smirnov), on p-values; it fails one random sample in a thousand.
    """
    from scipy.stats import ks_2samp

    own = screen.calibrator
    if own.groups is not None:
        rows = rows[[spooled.labels[row] in own.sizes for row in rows]]
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:_LOOKED_AT])
    if not len(rows):
        return
    some = Rows(spooled.pixels, rows)
    scores = np.concatenate([_scored(screen, pixels) for pixels in some.batches(screen.detector.scoring_batch)])
    groups = None if own.groups is None else [spooled.labels[row] for row in rows]
    if ks_2samp(own.p_value(own.scores, own.groups), own.p_value(scores, groups)).pvalue < _SURPRISING:
        raise InputError(
            f"the {counted(len(rows), 'new image')} score otherwise than the calibration images did (their p-values "
            "are not uniform): they were selected, as false alarms are, or normal images have changed. Give "
            "calibration=, a random sample of normal images (--calibration FOLDER); or, if the new images are "
            "themselves a random sample of those to come, sampled=True (--sampled)"
        )


def _extended(
    screen: S,
    spooled: Spool,
    known: Known,
    keys: NDArray[np.void],
    group_by: GroupBy,
    sampled: bool,
    seed: int,
    progress: bool,
) -> S:
    """Return the same detector with more calibration images, none of which it has met."""
    check_extensible(screen)
    calibration = screen.facts.get("calibration", {})
    fresh = ~known.met(spooled, group_by, keys)
    rows = one_of_each(keys, spooled.hashes, seed, np.flatnonzero(fresh))
    if not len(rows):
        raise InputError(f"the screen knows all of these {counted(len(spooled), 'image')} already")
    if not sampled:
        _check_alike(screen, spooled, rows)
    old = screen.calibrator
    groups = None if old.groups is None else tuple(spooled.labels[row] for row in rows)
    check_groups_stay(screen, groups or (), None)
    found = calibrated(
        screen.detector, screen.evidence, screen.score, spooled.rows(rows), groups, screen.facts, progress
    )
    new = found["calibrator"]
    others = not_calibrating(old, new)  # labels of verdicts calibrate without their pixels being known
    if not len(others):
        raise InputError(f"the screen is calibrated on all of these {counted(len(spooled), 'image')} already")
    rows, chosen = rows[others], spooled.rows(rows[others])
    found["calibrator"] = Calibrator(
        np.concatenate([old.scores, new.scores[others]]),
        None if groups is None else (*(old.groups or ()), *(groups[row] for row in others)),
    )
    found["observations"] = {
        name: np.concatenate([screen.observations[name], values[others]])
        for name, values in found["observations"].items()
    }
    both = screen.peaks is not None and found["peaks"] is not None
    found["peaks"] = np.concatenate([screen.peaks, found["peaks"][others]]) if both else None
    found["known"] = Known.of([(spooled, rows, False)], known)
    told = {name: calibration[name] for name in (LEFT_OUT, "sampled") if name in calibration}
    told |= {"images": len(old.scores) + len(rows), "kept": len(old.scores)}
    if int((~found["known"].learnt).sum()) == told["images"]:  # else some are known by the scores of verdicts alone
        told["fingerprint"] = found["known"].fingerprint(learnt=False)
    found["facts"] = {**found["facts"], "calibration": told}
    after = _replaced(screen, **found)
    compared = Compared(screen, fresh)
    compared.note(after, chosen)
    return _with_changes(screen, after, compared, 0, int((~fresh).sum()))


def _evidence(screen: ScreenLike, detector: Detector, sets: Sets, progress: bool) -> Evidence | None:
    """Return evidence learnt anew, for a detector that has changed; None where no images serve it."""
    before = screen.evidence
    if before is None or sets.evidence is None:
        return None
    looked = before.observer
    observer = fit_observer(
        detector, sets.images, reencoding=looked.reencoding, classifier=looked.classifier, progress=progress
    )
    return fit_evidence(detector, observer, sets.evidence, before.classifier_share, progress)


def _facts(screen: ScreenLike, sets: Sets, options: TrainingOptions, learnt: int, anew: bool) -> dict[str, Any]:
    """Return the facts of a screen that has learnt from so many images that it did not know, or from them alone."""
    before = 0 if anew else screen.facts.get("images", {}).get("images", 0)
    return {
        **screen.facts,
        "training": options_to_json(options),
        "images": {"images": before + learnt, "fingerprint": sets.known.fingerprint()},
        **sets.facts(),
    }


def _with_changes(before: S, after: S, compared: Compared, learnt: int, known: int) -> S:
    """Return the screen after, with what has changed among its facts."""
    change = {
        "learnt": learnt,
        "known": known,
        "score": [before.score, after.score],
        "calibration": [len(judge.calibrator.scores) for judge in (before, after)],
        "thresholds": [_thresholds(judge) for judge in (before, after)],
        "interval": [list(judge.false_alarm_interval) for judge in (before, after)],
        **compared.to_json(after),
    }
    return _replaced(after, facts={**after.facts, **next_version(before), "update": change})


def next_version(before: ScreenLike) -> dict[str, Any]:
    """Return the facts of the screen that follows one: its version, and those before it."""
    version = int(before.facts.get("version", 1))
    past = {
        "version": version,
        "fingerprint": before.fingerprint(),
        "learnt": before.facts.get("images", {}).get("images", 0),
        "calibration": len(before.calibrator.scores),
        "thresholds": _thresholds(before),
    }
    return {"version": version + 1, "versions": [*before.facts.get("versions", []), past]}


def _thresholds(screen: ScreenLike) -> list[list[Any]]:
    return [[group, threshold] for group, threshold in screen.thresholds.items()]


def _replaced(screen: S, **changes: Any) -> S:
    return cast(S, replace(cast(Any, screen), **changes))

"""Recalibration: labels given in review set a screen's threshold anew, without refitting."""

import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recondite.data.addresses import without_secrets
from recondite.data.datasets import ImageSet, open_images
from recondite.data.units import COPIES, GroupBy, check_group_by
from recondite.errors import InputError, ReconditeWarning
from recondite.graphs.exported import Exported
from recondite.progress import counted
from recondite.reports.figures import plot_scores
from recondite.reports.page import TablePage
from recondite.reports.reviewed import (
    INLIER,
    LABELS,
    OUTLIER,
    Reviewed,
    Unlabelled,
    different,
    doubts_about,
    drawn_alike,
    flagged,
    one_of_each_unit,
    read_reviewed,
    seem_learnt,
)
from recondite.reports.words import made_from
from recondite.screen.calibrate import check_extensible, check_groups_stay, facts_to_keep, not_calibrating
from recondite.screen.screen import Screen
from recondite.screen.words import ERROR
from recondite.statistics.calibration import Calibrator
from recondite.statistics.contamination import LEFT_OUT
from recondite.statistics.metrics import auroc
from recondite.statistics.scores import Scores

_DRAWN_MORE_OFTEN, _OF_ONE_UNIT = "left out, drawn more often", "left out, of a unit of which another calibrates"
_WAY_OUT = (
    "Label a random sample (recondite sample-for-review draws one; in other tables, a column 'sampled' says so), or, "
    "where the other images are normal, count them in: unlabelled='inlier' (--unlabelled inlier); force=True (--force) "
    "goes on without a promise"
)


@dataclass(frozen=True)
class Recalibration:
    """A screen before and after.

    Args:
        before, after: the screens.
        reviewed: what was labelled.
        table: "measure", "before" and "after", as text.
    """

    before: Screen
    after: Screen
    reviewed: Reviewed
    table: list[dict[str, str]]


def recalibrate(
    screen: Screen,
    events: Path | str,
    *,
    images: object = None,
    region: object = None,
    unlabelled: Unlabelled = "leave-out",
    keep: bool = False,
    group: str | None = None,
    group_by: GroupBy = COPIES,
    force: bool = False,
) -> Recalibration:
    """Calibrate a screen on verdicts that people labelled "inlier".

    The promise needs calibration images like the normal images to come. Where only flagged images were looked at, those
    among them that are normal all have high scores, and a threshold from them alone would flag hardly anything; where
    only the others were, it would flag far too many. So the inliers must score as the calibration images did, or be of
    a random sample: a table that `sample_for_review` drew, whose column "sampled" says so. Anything else is refused.
    Where that column gives some images a higher probability than others, as where all flagged ones and a tenth of the
    rest were looked at, a random share of these calibrates, so that all had the same; the promise then holds as ever.
    Equal scores are of equal images, which count once, unless many of the screen's own are equal. Of images that belong
    together one calibrates; near-copies are found where the images are given, other units are told by ids.

    Args:
        screen: that gave the verdicts.
        events: what `read_events` reads, with a column "label": inlier, outlier, skip or empty.
        images: where the labelled images are, by the ids of the events; they are scored again. By default the scores in
            the table are taken, which for a screen with evidence needs `recondite predict --statistics`.
        region: of these images, for a screen fitted with one mask per image: the folder of theirs.
        unlabelled: "inlier" counts images that nobody labelled as normal, which is right where all flagged ones were
            looked at and the rest is known to be normal; outliers among them make the threshold too high.
        keep: add to the calibration images of before instead of replacing them; right only where nothing has changed,
            and refused where these are not scores of the detector, or promise nothing.
        group: as in `recondite.reports.drift.watch`.
        group_by: what tells images that belong together, as in `recondite.fit` (labels by id).
        force: calibrate on a selection all the same; the facts of the new screen, its reports and `recondite info` say
            that nothing is promised, and why.

    Raises:
        InputError: no labels, unknown ones, too few inliers for alpha, labels of a selection, verdicts of another
            screen, or scores that cannot be kept.
    """
    if region is not None and images is None:
        raise InputError("a region is of the images: say where they are (images=, --images)")
    check_group_by(group_by)
    reviewed = read_reviewed(screen, events, group)
    chosen = reviewed.rows(INLIER, "") if unlabelled == "inlier" else reviewed.rows(INLIER)
    if not len(reviewed.rows(INLIER, OUTLIER)):
        raise InputError(
            f"{without_secrets(events)} has no labels: a column label says {', '.join(LABELS)}, or nothing"
        )
    if not len(chosen):
        raise InputError(f"{without_secrets(events)} has no image labelled {INLIER!r}")
    doubts = doubts_about(screen, reviewed, one_of_each_unit(reviewed, chosen, group_by), unlabelled)
    if doubts and not force:
        raise InputError(f"{doubts[0]}. {_WAY_OUT}")
    if keep:
        check_extensible(screen)
    labelled = len(chosen)
    chosen = drawn_alike(reviewed, chosen)
    drawn_more_often = labelled - len(chosen)
    chosen = different(screen, reviewed, chosen)
    every = len(chosen)
    chosen = one_of_each_unit(reviewed, chosen, group_by)
    of_one_unit = every - len(chosen)
    if images is None and reviewed.sampled and seem_learnt(screen, reviewed, chosen):
        warnings.warn(
            f"the {counted(len(chosen), 'image')} taken for normal score lower than the calibration images did: if the "
            "screen was fitted on some of them, its rate does not hold; say where they are, and these are left out "
            "(images=, --images)",
            ReconditeWarning,
            stacklevel=2,
        )
    before = screen.facts.get("calibration", {})
    if reviewed.groups is not None and not keep:
        of_chosen = {reviewed.groups[index] for index in chosen}
        check_groups_stay(screen, of_chosen, "label images of each group, or keep what calibrated before (--extend)")
    facts = {
        "from": "labelled verdicts",
        "sampled": reviewed.sampled,
        "no_promise": doubts,
        "confirmed": len(reviewed.rows(INLIER)),
        "outliers": len(reviewed.rows(OUTLIER)),
        **({_DRAWN_MORE_OFTEN: drawn_more_often} if drawn_more_often else {}),
        **({_OF_ONE_UNIT: of_one_unit} if of_one_unit else {}),
        "kept": len(screen.calibrator.scores) if keep else 0,
        **({LEFT_OUT: before[LEFT_OUT]} if keep and LEFT_OUT in before else {}),
    }
    if images is None:
        after = _by_table(screen, reviewed, chosen, keep)
    else:
        found = _found(screen, images, region, reviewed, chosen)
        if keep and not isinstance(screen.detector, Exported):
            after = screen.update(found, only_calibrate=True, sampled=True, group_by=group_by)
        else:
            after = screen.recalibrated(found, by_folder=reviewed.groups is not None, group_by=group_by)
            after = _with_kept(screen, after) if keep else after
    facts["images"] = len(after.calibrator.scores)
    after = replace(after, facts={**facts_to_keep(screen), "calibration": facts})
    return Recalibration(screen, after, reviewed, _table(screen, after, reviewed))


def write_recalibration_page(path: Path, result: Recalibration, title: str) -> None:
    """Write before and after as one offline HTML file."""
    before, after, reviewed = result.before, result.after, result.reviewed
    inliers, outliers = (reviewed.scores.instance_score[reviewed.rows(label)] for label in (INLIER, OUTLIER))
    labelled = {"labelled inlier": inliers, "labelled outlier": outliers}
    figures = []
    for name, screen in (("before", before), ("after", after)):
        figures.append(plot_scores({"calibration": screen.calibrator.scores, **labelled}, screen.threshold))
        figures[-1].set_title(name, fontsize=10)
    page = TablePage(
        title=title,
        lead=f"{len(reviewed.labels):,} verdicts: {len(inliers):,} labelled inlier, {len(outliers):,} outlier, "
        f"{len(reviewed.rows('')):,} not labelled, {reviewed.invalid:,} unreadable.",
        columns=["measure", "before", "after"],
        rows=[tuple(row.values()) for row in result.table],
        note="The rows on labelled images after calibration are of the images that calibrated it, and so near alpha by "
        "construction; the interval is what to expect of others.",
        figures=figures,
        made=made_from(after),
    )
    page.write(path)


def _by_table(screen: Screen, reviewed: Reviewed, chosen: NDArray[np.intp], keep: bool) -> Screen:
    """Return the screen calibrated on scores of the table, which says nothing of the highest places of maps."""
    values, observations = reviewed.scores.instance_score[chosen], _observations(screen, reviewed.scores, chosen)
    groups = None if reviewed.groups is None else tuple(reviewed.groups[index] for index in chosen)
    known = None if screen.known is None else screen.known.learnt_alone()
    found = Calibrator(values, groups)
    alone = replace(screen, calibrator=found, observations=observations, peaks=None, known=known)
    return _with_kept(screen, alone) if keep else alone


def _with_kept(before: Screen, after: Screen) -> Screen:
    """Return a screen that is calibrated on what calibrated before too, each image once; see `not_calibrating`."""
    old, new = before.calibrator, after.calibrator
    rows = not_calibrating(old, new)
    groups = None if new.groups is None else (*(old.groups or ()), *(new.groups[row] for row in rows))
    observations = {
        name: np.concatenate([before.observations[name], values[rows]]) for name, values in after.observations.items()
    }
    scores = np.concatenate([old.scores, new.scores[rows]])
    calibrator = Calibrator(scores, groups)
    return replace(after, calibrator=calibrator, observations=observations, peaks=None, known=before.known)


def _observations(screen: Screen, scores: Scores, chosen: NDArray[np.intp]) -> dict[str, NDArray[np.float64]]:
    if screen.evidence is None:
        return {}
    known = dict(scores.statistics or {})
    if screen.score == ERROR:
        known[ERROR] = scores.instance_score
    missing = [name for name in screen.observations if name not in known or np.isnan(known[name][chosen]).any()]
    if missing:
        raise InputError(
            f"these verdicts lack statistics that the screen keeps ({missing[0]}, ...): write them with "
            "`recondite predict --statistics`, or say where the images are"
        )
    return {name: known[name][chosen] for name in screen.observations}


def _found(screen: Screen, images: object, region: object, reviewed: Reviewed, chosen: NDArray[np.intp]) -> ImageSet:
    opened = open_images(images, shape=screen.detector.shape, masks=region)
    if opened.ids is None:
        raise InputError("labelled images are found by their ids; a stream has none")
    place = {name: index for index, name in enumerate(opened.ids)}
    names = [reviewed.scores.ids[index] for index in chosen]
    again = next((name for name, times in Counter(names).items() if times > 1), None)
    if again is not None:
        raise InputError(f"events of {again!r} are of different images, and only one is there: leave the images out")
    missing = [name for name in names if name not in place]
    if missing:
        raise InputError(f"{len(missing):,} of {len(names):,} labelled images are not there; the first: {missing[0]!r}")
    found = opened.select(place[name] for name in names)
    groups = reviewed.groups
    return found if groups is None else replace(found, labels=[groups[index] for index in chosen])


def _table(before: Screen, after: Screen, reviewed: Reviewed) -> list[dict[str, str]]:
    inliers, outliers = reviewed.rows(INLIER), reviewed.rows(OUTLIER)
    everything = np.arange(len(reviewed.labels))
    columns = []
    for screen in (before, after):
        low, high = screen.false_alarm_interval
        columns.append(
            {
                "calibration images": f"{len(screen.calibrator.scores):,}",
                "threshold": ", ".join(f"{v:.6g} {g or ''}".strip() for g, v in screen.thresholds.items()),
                "true false-alarm rate, 95 % interval": f"{low:.4f} to {high:.4f}",
                "labelled inliers flagged": _share(flagged(screen, reviewed, inliers)),
                "labelled outliers flagged": _share(flagged(screen, reviewed, outliers)),
                "all verdicts flagged": _share(flagged(screen, reviewed, everything)),
            }
        )
    changed = flagged(before, reviewed, everything) != flagged(after, reviewed, everything)
    rows = [{"measure": name, "before": value, "after": columns[1][name]} for name, value in columns[0].items()]
    for why, more in ((_DRAWN_MORE_OFTEN, " than others"), (_OF_ONE_UNIT, "")):
        if why in after.facts["calibration"]:
            left_out = f"{after.facts['calibration'][why]:,}"
            rows.append({"measure": f"labelled images {why}{more}", "before": "", "after": left_out})
    rows.append({"measure": "verdicts that change", "before": "", "after": _share(changed)})
    if len(inliers) and len(outliers):
        values = reviewed.scores.instance_score
        area = f"{auroc(values[inliers], values[outliers]):.4f}"
        rows.append({"measure": "AUROC of the labels (no threshold)", "before": area, "after": area})
    return rows


def _share(flags: NDArray[np.bool_]) -> str:
    return f"{flags.sum():,} of {len(flags):,}" + (f" ({flags.mean():.1%})" if len(flags) else "")

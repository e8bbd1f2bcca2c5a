"""Recalibration: labels given in review set a screen's threshold anew, without refitting."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recondite.data.datasets import ImageSet, open_images
from recondite.data.tables import read_events
from recondite.errors import InputError
from recondite.reports.drift import check_origin, group_labels
from recondite.reports.figures import plot_scores
from recondite.reports.page import TablePage
from recondite.screen.evidence import ERROR
from recondite.screen.screen import Screen
from recondite.statistics.calibration import Calibrator
from recondite.statistics.metrics import auroc
from recondite.statistics.scores import Scores, scored

INLIER, OUTLIER = "inlier", "outlier"
LABELS = (INLIER, OUTLIER, "skip")
Unlabelled = Literal["leave-out", "inlier"]
_SURPRISING = 0.001


@dataclass(frozen=True)
class Reviewed:
    """Verdicts with labels, the last one of each image. Two images may have the same id.

    Args:
        scores: N scores of readable images, with statistics where the table has them.
        labels: N labels: "inlier", "outlier", "skip" or "".
        groups: N group labels, where the calibration has groups.
        invalid: how many unreadable images were left out.
    """

    scores: Scores
    labels: tuple[str, ...]
    groups: tuple[str, ...] | None
    invalid: int

    def rows(self, *labels: str) -> NDArray[np.intp]:
        """Return where one of these labels stands."""
        return np.flatnonzero(np.isin(np.array(self.labels, dtype=object), labels))


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
    unlabelled: Unlabelled = "leave-out",
    keep: bool = False,
    group: str | None = None,
) -> Recalibration:
    """Calibrate a screen on verdicts that people labelled "inlier".

    The promise needs calibration images like the normal images to come. Where only flagged images were looked at, those
    among them that are normal all have high scores, and a threshold from them alone would flag hardly anything: such a
    selection is refused.

    Args:
        screen: that gave the verdicts.
        events: what `read_events` reads, with a column "label": inlier, outlier, skip or empty.
        images: where the labelled images are, by the ids of the events; they are scored again. By default the scores in
            the table are taken, which for a screen with evidence needs `recondite predict --statistics`.
        unlabelled: "inlier" counts images that nobody labelled as normal, which is right where all flagged ones were
            looked at and the rest is known to be normal; outliers among them make the threshold too high.
        keep: add to the calibration images of before instead of replacing them; right only where nothing has changed.
        group: as in `recondite.reports.drift.watch`.

    Raises:
        InputError: no labels, unknown ones, too few inliers for alpha, a selection of flagged images, or verdicts of
            another screen.
    """
    reviewed = _read(screen, events, group)
    chosen = reviewed.rows(INLIER, "") if unlabelled == "inlier" else reviewed.rows(INLIER)
    if not len(reviewed.rows(INLIER, OUTLIER)):
        raise InputError(f"{events} has no labels: a column label says {', '.join(LABELS)}, or nothing")
    if not len(chosen):
        raise InputError(f"{events} has no image labelled {INLIER!r}")
    if unlabelled == "leave-out":
        _check_selection(screen, reviewed)
    facts = {
        "from": "labelled verdicts",
        "images": len(chosen),
        "confirmed": len(reviewed.rows(INLIER)),
        "outliers": len(reviewed.rows(OUTLIER)),
        "kept": len(screen.calibrator.scores) if keep else 0,
    }
    peaks = None  # a table of verdicts has none
    if images is not None:
        after = screen.recalibrated(_found(screen, images, reviewed, chosen), by_folder=reviewed.groups is not None)
        values, observations, groups = after.calibrator.scores, dict(after.observations), after.calibrator.groups
        peaks = after.peaks
    else:
        values, observations = reviewed.scores.instance_score[chosen], _observations(screen, reviewed.scores, chosen)
        groups = None if reviewed.groups is None else tuple(reviewed.groups[index] for index in chosen)
    if keep:
        values = np.concatenate([screen.calibrator.scores, values])
        observations = {name: np.concatenate([screen.observations[name], v]) for name, v in observations.items()}
        groups = None if groups is None else (*(screen.calibrator.groups or ()), *groups)
        peaks = None if peaks is None or screen.peaks is None else np.concatenate([screen.peaks, peaks])
    after = replace(
        screen,
        calibrator=Calibrator(values, groups),
        observations=observations,
        peaks=peaks,
        facts={**screen.facts, "calibration": facts},
    )
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
    )
    page.write(path)


@dataclass(frozen=True)
class _Seen:
    """The last event of an image, with the last label that the image was given."""

    id: str
    score: float
    statistics: Mapping[str, float]
    group: str
    label: str
    label_number: int


def _read(screen: Screen, events: Path | str, group: str | None) -> Reviewed:
    """Read labelled verdicts; a later event of an image takes the place of an earlier one, which gives it its label."""
    latest: dict[tuple[str, float], _Seen] = {}
    invalid = count = 0
    for scores, rows in scored(read_events(events), str(events)):
        groups = group_labels(screen, rows, scores.ids, group)
        check_origin(screen, scores, rows, groups)
        for index, (name, row) in enumerate(zip(scores.ids, rows, strict=True)):
            count += 1
            label = str(row.get("label") or "").strip().lower()
            if label not in (*LABELS, ""):
                raise InputError(f"{events}, {name}: expected a label among {', '.join(LABELS)}; got {label!r}")
            if scores.errors[index] is not None:
                invalid += 1
                continue
            statistics = {key: float(values[index]) for key, values in (scores.statistics or {}).items()}
            given = row.get("label_number")
            seen = _Seen(
                id=name,
                score=float(scores.instance_score[index]),
                statistics=statistics,
                group=groups[index] if groups else "",
                label=label,
                label_number=given if isinstance(given, int) else count if label else 0,
            )
            # A score depends on the image alone: events of one id with other scores are of other images.
            image = (str(row.get("sha256") or name), seen.score)
            previous = latest.pop(image, seen)
            if previous.label_number > seen.label_number:
                seen = replace(seen, label=previous.label, label_number=previous.label_number)
            latest[image] = seen
    if not latest:
        raise InputError(f"{events} has no verdict on a readable image")
    found = list(latest.values())
    names = sorted(set.intersection(*(set(one.statistics) for one in found)))
    return Reviewed(
        scores=Scores(
            ids=tuple(one.id for one in found),
            instance_score=np.array([one.score for one in found]),
            errors=(None,) * len(found),
            statistics={name: np.array([one.statistics[name] for one in found]) for name in names},
        ),
        labels=tuple(one.label for one in found),
        groups=None if screen.calibrator.groups is None else tuple(one.group for one in found),
        invalid=invalid,
    )


def _check_selection(screen: Screen, reviewed: Reviewed) -> None:
    """Raise InputError where those looked at are flagged more often than chance allows, given all verdicts."""
    from scipy.stats import hypergeom

    flagged = _flagged(screen, reviewed, np.arange(len(reviewed.labels)))
    looked_at = reviewed.rows(*LABELS)
    hits = int(flagged[looked_at].sum())
    if hypergeom.sf(hits - 1, len(flagged), int(flagged.sum()), len(looked_at)) < _SURPRISING:
        raise InputError(
            f"of the labelled images {hits / len(looked_at):.0%} are flagged, of all {flagged.mean():.0%}: labels that "
            "were given to flagged images only make a threshold that flags hardly anything. Label a random sample, or, "
            "where the other images are normal, count them in: unlabelled='inlier' (--unlabelled inlier)"
        )


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


def _found(screen: Screen, images: object, reviewed: Reviewed, chosen: NDArray[np.intp]) -> ImageSet:
    opened = open_images(images, shape=screen.detector.shape)
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


def _flagged(screen: Screen, reviewed: Reviewed, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    groups = None if reviewed.groups is None else [reviewed.groups[index] for index in rows]
    values = reviewed.scores.instance_score[rows]
    return screen.calibrator.is_outlier(values, screen.alpha, groups, screen.confidence, screen.guarantee)


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
                "labelled inliers flagged": _share(_flagged(screen, reviewed, inliers)),
                "labelled outliers flagged": _share(_flagged(screen, reviewed, outliers)),
                "all verdicts flagged": _share(_flagged(screen, reviewed, everything)),
            }
        )
    changed = _flagged(before, reviewed, everything) != _flagged(after, reviewed, everything)
    rows = [{"measure": name, "before": value, "after": columns[1][name]} for name, value in columns[0].items()]
    rows.append({"measure": "verdicts that change", "before": "", "after": _share(changed)})
    if len(inliers) and len(outliers):
        values = reviewed.scores.instance_score
        area = f"{auroc(values[inliers], values[outliers]):.4f}"
        rows.append({"measure": "AUROC of the labels (no threshold)", "before": area, "after": area})
    return rows


def _share(flags: NDArray[np.bool_]) -> str:
    return f"{flags.sum():,} of {len(flags):,}" + (f" ({flags.mean():.1%})" if len(flags) else "")

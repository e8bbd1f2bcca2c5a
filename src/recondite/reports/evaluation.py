"""Evaluation of a screen on held-out inliers and outliers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.datasets import ImageSet, open_images, read_batches
from recondite.data.layouts import Role
from recondite.data.masks import check_masks
from recondite.data.spool import Glimpses, keys_of
from recondite.data.truth import check_truth, mask_of_defect
from recondite.data.units import COPIES, NONE, GroupBy, check_group_by
from recondite.errors import InputError
from recondite.progress import counted
from recondite.progress import progress as show
from recondite.screen.screen import Screen
from recondite.screen.shown import rule_rows
from recondite.statistics import metrics
from recondite.statistics.intervals import unit_numbers
from recondite.statistics.localisation import measures_by_kind
from recondite.statistics.scores import Verdicts


def evaluate(
    screen: Screen,
    inliers: object,
    outliers: object,
    *,
    region: object = None,
    group: str | None = None,
    group_by: GroupBy = COPIES,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Return rows of "measure", "value" (rounded text) and "note".

    Unreadable images count as flagged in the rates; they have no score and are left out of the other measures. Values
    are of all images; in intervals, images that belong together tell no more than what differs among them.

    Args:
        screen: what is measured.
        inliers, outliers: anything that `open_images` opens, unseen in fitting and calibration.
        region: folder with one mask per image of both, for a screen that was fitted with one; see `open_images`.
        group: which group's calibration holds for all of them, where there are groups and folders do not tell.
        group_by: what tells images that belong together, as in `recondite.fit` (labels by id), which are read once more
            for that; with "none", and in a stream, each image counts.
        progress: show progress on standard error.

    Raises:
        InputError: either holds no readable image.
    """
    check_group_by(group_by)
    sets, told = list(_opened(screen, inliers, outliers, region).values()), None
    if group is not None:
        told = [sets[1].label(index) for index in range(sets[1].size or 0)]
        screen.calibrator.check_group(group)
        sets = [images.labelled(group) for images in sets]
    normal, outlying = (screen.predict(images, progress=progress) for images in sets)
    a, b = _valid_scores(normal, "inlier"), _valid_scores(outlying, "outlier")
    of_normal, of_outlying = _units(screen, sets, [normal.ids, outlying.ids], group_by, progress)
    units = of_normal[np.isfinite(normal.p_value)], of_outlying[np.isfinite(outlying.p_value)]
    realised, caught = metrics.rate(normal.is_outlier, of_normal), metrics.rate(outlying.is_outlier, of_outlying)
    flags = normal.is_outlier.astype(np.float64), outlying.is_outlier.astype(np.float64)
    low, high = screen.false_alarm_interval
    best, threshold = metrics.best_f1(a, b)
    rows = [
        (
            "AUROC",
            metrics.auroc(a, b),
            f"chance that an outlier scores higher than an inlier; {_between(metrics.delong_interval(a, b, units))}",
        ),
        (
            "average precision",
            metrics.average_precision(a, b),
            f"outliers are the positives, {_share(b, a)} of the images; "
            + _between(metrics.resampled_interval(metrics.average_precision, a, b, units)),
        ),
        (
            "best F1",
            best,
            f"at threshold {threshold:.6g}; " + _between(metrics.resampled_interval(_best_f1, a, b, units)),
        ),
        (
            "F1",
            _f1(*flags),
            f"at the screen's threshold; {_between(metrics.resampled_interval(_f1, *flags, (of_normal, of_outlying)))}",
        ),
        (
            "inliers flagged at 95 % of outliers caught",
            metrics.inliers_flagged_at_95_outliers_caught(a, b),
            "FPR at 95 % TPR, outliers positive",
        ),
        (
            "outliers missed at 95 % of inliers kept",
            metrics.outliers_missed_at_95_inliers_kept(a, b),
            "FPR at 95 % TPR, inliers positive",
        ),
        (
            "realised false-alarm rate",
            realised.value,
            f"{realised}; alpha {screen.alpha:g}, calibration allows {low:.4f} to {high:.4f}",
        ),
        ("outliers flagged", caught.value, str(caught)),
    ]
    labels = np.array(told or outlying.labels or ())
    kinds = np.unique(labels)
    for kind in kinds if len(kinds) > 1 else ():
        some = np.isfinite(outlying.p_value) & (labels == kind)
        if some.any():
            of_kind = outlying.instance_score[some]
            of, own = f"of {some.sum()} outliers; ", (units[0], of_outlying[some])
            rows.append(
                (f"AUROC, {kind}", metrics.auroc(a, of_kind), of + _between(metrics.delong_interval(a, of_kind, own)))
            )
            for name, measure in (("average precision", metrics.average_precision), ("best F1", _best_f1)):
                interval = metrics.resampled_interval(measure, a, of_kind, own)
                rows.append((f"{name}, {kind}", measure(a, of_kind), of + _between(interval)))
            ours = flags[0], flags[1][labels == kind]
            interval = metrics.resampled_interval(_f1, *ours, (of_normal, of_outlying[labels == kind]))
            rows.append((f"F1, {kind}", _f1(*ours), f"{of}at the screen's threshold; {_between(interval)}"))
    made = [{"measure": name, "value": f"{value:.4f}", "note": note} for name, value, note in rows]
    for name, numbers in (("inliers", of_normal), ("outliers", of_outlying)):
        if (count := int(numbers.max()) + 1) < len(numbers):
            note = f"of {counted(len(numbers), 'image')}; those of one unit belong together, and intervals know it"
            made.append({"measure": f"units of {name}", "value": str(count), "note": note})
    made += [
        {"measure": f"rule {row['rule']}", "value": row["rate"], "note": f"threshold {row['threshold']:.6g}"}
        for row in rule_rows(screen, a)
    ]
    for name, verdicts in (("inliers", normal), ("outliers", outlying)):
        invalid = verdicts.counts()["invalid"]
        if invalid:
            made.append({"measure": f"unreadable {name}", "value": str(invalid), "note": "counted as flagged"})
    return made


def _opened(screen: Screen, inliers: object, outliers: object, region: object) -> dict[Role, ImageSet]:
    preprocessing, opened = screen.detector.preprocessing, {}
    sources: dict[Role, object] = {"inliers": inliers, "outliers": outliers}
    for role, source in sources.items():
        opened[role] = open_images(source, role=role, shape=preprocessing.shape, masks=region)
        check_masks(opened[role].masks, preprocessing.masked)
    return opened


def _units(
    screen: Screen, sets: Sequence[ImageSet], ids: Sequence[Sequence[str]], group_by: GroupBy, progress: bool
) -> list[NDArray[np.intp]]:
    """Return the number of each image's unit (n,), of two sets; of its own where it cannot be read, or for "none"."""
    if group_by == NONE or any(images.ids is None for images in sets):
        return [unit_numbers(len(names)) for names in ids]
    preprocessing, spools = screen.detector.preprocessing, []
    for images in sets:
        seen = Glimpses()
        with show("looking for copies", images.size, progress) as advance:
            for batch in read_batches(images, preprocessing, screen.detector.scoring_batch):
                seen.add(batch)
                advance(len(batch.ids), "")
        spools.append(seen.spool())
    found = []
    for seen_of, names, keys in zip(spools, ids, keys_of(spools, group_by), strict=True):
        unit = dict(zip(seen_of.ids, np.unique(keys, return_inverse=True)[1].tolist(), strict=True))
        found.append(unit_numbers(len(names), [unit.get(name, -1 - index) for index, name in enumerate(names)]))
    return found


def _valid_scores(verdicts: Verdicts, name: str) -> NDArray[np.float64]:
    scores = verdicts.instance_score[np.isfinite(verdicts.p_value)]
    if scores.size == 0:
        raise InputError(f"not one {name} image could be judged; the first: {verdicts.ids[0]}: {verdicts.errors[0]}")
    return scores


def _between(interval: tuple[float, float]) -> str:
    return f"95 % interval {interval[0]:.4f} to {interval[1]:.4f}"


def _best_f1(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return metrics.best_f1(a, b)[0]


def _f1(normal: NDArray[np.float64], outlying: NDArray[np.float64]) -> float:
    """Return F1 of flags, 0 or 1."""
    return float(2 * outlying.sum() / max(outlying.sum() + normal.sum() + len(outlying), 1))


def _share(part: NDArray[np.float64], rest: NDArray[np.float64]) -> str:
    return f"{len(part) / (len(part) + len(rest)):.0%}"


def localisation(
    screen: Screen,
    inliers: object,
    outliers: object,
    truth: Path,
    *,
    region: object = None,
    group_by: GroupBy = COPIES,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Return rows of "measure", "value" and "note": how well defects are located, over all readable images.

    See `measures_by_kind` for the measures; "pixel F1" is that of the screen's threshold of single values. Where the
    outliers are of several kinds, each is measured with all inliers too.

    Args:
        screen, inliers, outliers, truth, region, group_by, progress: as in `located_maps`.

    Raises:
        InputError: as `located_maps`, or the screen was calibrated without maps.
    """
    threshold = screen.feature_threshold if screen.detector.locates else None
    found = located_maps(screen, inliers, outliers, truth, region=region, group_by=group_by, progress=progress)
    unreadable = f"; {found.left_out} unreadable ones left out" if found.left_out else ""
    several = len({*found.kinds} - {None}) > 1
    kinds: list[str | None] = found.kinds if several else [None] * len(found.kinds)
    rows = []
    measured = measures_by_kind(found.maps, found.masks, kinds, threshold, inside=found.inside, units=found.units)
    for kind, measures in measured.items():
        of = (
            f"{len(found.maps):,} images{unreadable}"
            if kind is None
            else f"{kinds.count(kind)} outliers and all inliers"
        )
        rows += [
            {
                "measure": name if kind is None else f"{name}, {kind}",
                "value": f"{measure.value:.4f}",
                "note": f"95 % interval {measure.low:.4f} to {measure.high:.4f}, over {of}",
            }
            for name, measure in measures.items()
        ]
    return rows


@dataclass(frozen=True)
class Located:
    """What a detector sees where, of N readable images, and where their defects are.

    Args:
        maps: (N, H, W) scores, the mean over channels.
        masks: (N, H, W) True on defects.
        inside: (N, H, W) True where images count: False outside of a region.
        kinds: N labels of outliers; None for inliers.
        units: (N,) numbers of what belongs together.
        left_out: how many images could not be read.
    """

    maps: NDArray[np.float32]
    masks: NDArray[np.bool_]
    inside: NDArray[np.bool_]
    kinds: list[str | None]
    units: NDArray[np.intp]
    left_out: int


def located_maps(
    screen: Screen,
    inliers: object,
    outliers: object,
    truth: Path,
    *,
    region: object = None,
    group_by: GroupBy = NONE,
    progress: bool = False,
) -> Located:
    """Return maps of scores and masks of defects of all readable images; 4 bytes a pixel in memory.

    Args:
        screen: what is measured; its detector's maps.
        inliers: images without defects.
        outliers: a folder of images with defects, or an MVTec-style one.
        truth: the folder of their masks: for DEFECT/NAME.png a mask DEFECT/NAME_mask.png or DEFECT/NAME.png, not black
            on the defect. Masks, in the proportions of their images, are resized to the screen's; see `mask_of_defect`.
        region, group_by: as in `evaluate`.
        progress: show progress on standard error.

    Raises:
        InputError: a mask is missing, empty or lies across its image, or the detector judges images as a whole.
    """
    detector = screen.detector
    if not detector.locates:
        raise InputError("this detector judges images as a whole: it has no maps to find defects with")
    shape = detector.shape
    maps, masks, insides, left_out = [], [], [], 0
    kinds: list[str | None] = []
    sets, seen = _opened(screen, inliers, outliers, region), Glimpses()
    check_truth(truth, sets["outliers"].ids or ())
    for role, opened in sets.items():
        place = {name: index for index, name in enumerate(opened.ids or ())}
        with show(f"locating, {role}", opened.size, progress) as advance:
            for batch in read_batches(opened, detector.preprocessing, detector.scoring_batch):
                scores = detector.score_batch(batch, feature_score=True).feature_score
                assert scores is not None
                inside = detector.preprocessing.inside(batch.pixels)
                insides.append(np.broadcast_to(True if inside is None else inside, (len(batch.pixels), *shape[1:])))
                for index in np.flatnonzero(batch.good):
                    clean, name = role == "inliers", batch.ids[index]
                    mask = (
                        np.zeros(shape[1:], dtype=bool)
                        if clean
                        else mask_of_defect(truth, name, shape[1:], opened.entry(place[name])[0])
                    )
                    maps.append(scores[index].mean(axis=0))
                    masks.append(mask)
                    kinds.append(None if clean else batch.labels[index])
                left_out += int(np.sum(~batch.good))
                seen.add(batch)
                advance(len(batch.ids), "")
    if not maps:
        raise InputError("not one image could be read")
    keys = None if group_by == NONE else keys_of([seen.spool()], group_by)[0]
    units = unit_numbers(len(maps), keys)
    return Located(np.stack(maps), np.stack(masks), np.concatenate(insides), kinds, units, left_out)

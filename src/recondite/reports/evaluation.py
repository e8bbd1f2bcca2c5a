"""Measuring a screen on inliers and outliers that it has never seen."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.datasets import open_images
from recondite.errors import InputError
from recondite.screen.screen import Screen
from recondite.statistics import metrics
from recondite.statistics.calibration import threshold_rules
from recondite.statistics.scores import Verdicts


def evaluate(
    screen: Screen, inliers: object, outliers: object, *, group: str | None = None, progress: bool = False
) -> list[dict[str, Any]]:
    """Return rows of "measure", "value" (rounded text) and "note".

    Unreadable images count as flagged in the rates; they have no score and are left out of the other measures.

    Args:
        screen: what is measured.
        inliers, outliers: anything that `open_images` opens, unseen in fitting and calibration.
        group: which group's calibration holds for all of them, where there are groups and folders do not tell.
        progress: show progress on standard error.

    Raises:
        InputError: either holds no readable image.
    """
    shape = screen.detector.shape
    sets = [open_images(inliers, role="inliers", shape=shape), open_images(outliers, role="outliers", shape=shape)]
    if group is not None:
        if group not in screen.calibrator.sizes:
            raise InputError(f"no calibration for group {group!r}; there are: {sorted(map(str, screen.thresholds))}")
        sets = [images.labelled(group) for images in sets]
    normal, foreign = (screen.predict(images, progress=progress) for images in sets)
    a, b = _valid_scores(normal, "inlier"), _valid_scores(foreign, "outlier")
    realised, caught = metrics.rate(normal.is_outlier), metrics.rate(foreign.is_outlier)
    low, high = screen.false_alarm_interval
    rows = [
        ("AUROC", metrics.auroc(a, b), "chance that an outlier scores higher than an inlier"),
        (
            "average precision",
            metrics.average_precision(a, b),
            f"outliers are the positives, {_share(b, a)} of the images",
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
    made = [{"measure": name, "value": f"{value:.4f}", "note": note} for name, value, note in rows]
    made += [
        {"measure": f"rule {row['rule']}", "value": row["rate"], "note": f"threshold {row['threshold']:.6g}"}
        for row in rule_rows(screen, a)
    ]
    for name, verdicts in (("inliers", normal), ("outliers", foreign)):
        invalid = verdicts.counts()["invalid"]
        if invalid:
            made.append({"measure": f"unreadable {name}", "value": str(invalid), "note": "counted as flagged"})
    return made


def rule_rows(screen: Screen, normal_scores: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Return each threshold rule's "rule", "threshold" and "rate": the share of these normal scores that it flags."""
    return [
        {"rule": name, "threshold": threshold, "rate": f"{np.mean(normal_scores > threshold):.4f}"}
        for name, threshold in threshold_rules(
            screen.calibrator, screen.alpha, screen.confidence, screen.guarantee
        ).items()
    ]


def _valid_scores(verdicts: Verdicts, name: str) -> NDArray[np.float64]:
    scores = verdicts.instance_score[np.isfinite(verdicts.p_value)]
    if scores.size == 0:
        raise InputError(f"not one {name} image could be read; the first: {verdicts.ids[0]}: {verdicts.errors[0]}")
    return scores


def _share(part: NDArray[np.float64], rest: NDArray[np.float64]) -> str:
    return f"{len(part) / (len(part) + len(rest)):.0%}"

"""Threshold study: the distribution of losses, the threshold of each rule, and the rates each rule realises."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from recondite.data.datasets import ImageSet, open_images
from recondite.errors import InputError
from recondite.reports.figures import plot_risk_coverage, plot_roc
from recondite.reports.page import TablePage
from recondite.reports.words import made_from
from recondite.screen.screen import Screen
from recondite.screen.sweep import journalled
from recondite.screen.words import ERROR
from recondite.statistics.calibration import mean_std_threshold, threshold_rules
from recondite.statistics.metrics import (
    auroc,
    average_precision,
    precision_recall_points,
    rate,
    risk_coverage_points,
    roc_points,
)
from recondite.statistics.scores import Verdicts
from recondite.studies.figures import (
    plot_distribution,
    plot_instance_scores,
    plot_precision_recall,
    plot_reliability,
)
from recondite.studies.output import unreadable, write_study
from recondite.studies.unfinished import Unfinished

_ALPHAS = np.concatenate([np.linspace(0.005, 0.05, 10), np.linspace(0.06, 0.3, 25)])
_DRAWN = 1000


def thresholds_study(
    screen: Screen,
    images: object,
    output: Path,
    *,
    outliers: object = None,
    score: str = ERROR,
    threshold: float | None = None,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Compare threshold rules on fresh images, and write table.csv, scores.csv, figures and study.html.

    The conformal rule, mean + 1, 2 and 3 standard deviations and the percentile are all made from the screen's own
    calibration images. Where the screen was trained with validation images and is judged by the error that was
    validated, mean + 1 standard deviation of the losses of whole validation batches is a rule too, and the losses of
    training and validation batches in the epoch that was kept are drawn.

    Args:
        screen: what judges.
        images: normal images that it has not seen, anything that `open_images` opens.
        output: the folder.
        outliers: images that do not belong; None for none.
        score: one of the screen's scores.
        threshold: one chosen by hand, compared with the others; None for none.
        progress: show progress on standard error.

    Returns:
        One row a rule: "rule", "threshold", "false_alarms" (share of `images` above it), "low" and "high" (95 %
        interval), "caught" (share of `outliers` above it; None without any).

    Raises:
        InputError: no readable images, or a threshold that is not finite.
    """
    if threshold is not None and not math.isfinite(threshold):
        raise InputError(f"expected a finite threshold; got {threshold!r}")
    judge = screen.with_score(score)
    shape = judge.detector.shape
    others = None if outliers is None else open_images(outliers, role="outliers", shape=shape)
    unfinished = Unfinished(output, "thresholds", judge.fingerprint(), *(_named(one) for one in (images, outliers)))
    opened = open_images(images, role="inliers", shape=shape)
    normal = _judged(judge, opened, _named(images), unfinished.place("inliers"), progress)
    outlying = None
    if others is not None:
        outlying = _judged(judge, others, _named(outliers), unfinished.place("outliers"), progress)
    scores = {"normal": _readable(normal)}
    if outlying is not None:
        scores["outliers"] = _readable(outlying)
    rules = threshold_rules(judge.calibrator, judge.alpha, judge.confidence, judge.guarantee) | _rule_of_batches(judge)
    rules |= {} if threshold is None else {"by hand": float(threshold)}
    rows: list[dict[str, Any]] = []
    for name, limit in rules.items():
        seen = rate(scores["normal"] > limit)
        caught = float(np.mean(scores["outliers"] > limit)) if outlying is not None else None
        row = {"rule": name, "threshold": limit, "false_alarms": seen.value, "low": seen.low, "high": seen.high}
        rows.append({**row, "caught": caught})
    calibration = judge.calibrator.scores
    middle = {"mean": float(calibration.mean()), "median": float(np.median(calibration))}
    figures: dict[str, Axes] = {
        "distribution": plot_distribution(scores["normal"], {**middle, **rules}, title="fresh normal images"),
        "reliability": _reliability(judge, normal),
        "instance-scores": _scatter(judge, normal, outlying),
    }
    if outlying is not None:
        figures |= _curves(scores["normal"], scores["outliers"])
    figures |= _losses_of_batches(judge)
    lead = (
        f"Score {score!r} of a screen ({judge.detector.name}) on {len(scores['normal']):,} fresh normal images; every "
        f"rule is made from {len(calibration):,} calibration images, mean {middle['mean']:.5g}, median "
        f"{middle['median']:.5g}."
    )
    if outlying is not None:
        value = auroc(scores["normal"], scores["outliers"])
        lead += f" Against {len(scores['outliers']):,} outliers: AUROC {value:.4f}."
    lead += unreadable([*_unreadable(normal), *([] if outlying is None else _unreadable(outlying))])
    grouped = judge.calibrator.groups is not None  # no one threshold promises a rate
    page = TablePage(
        title="Threshold rules compared",
        lead=lead,
        columns=["rule", "threshold", "fresh normal images flagged", "95 % interval", "outliers flagged"],
        rows=[
            [
                *(row["rule"], f"{row['threshold']:.6g}", f"{row['false_alarms']:.4f}"),
                *(f"{row['low']:.4f} to {row['high']:.4f}", "" if row["caught"] is None else f"{row['caught']:.4f}"),
            ]
            for row in rows
        ],
        conclusion="" if grouped else _kept(rows[0], judge.alpha),
        best=None if grouped else 0,
        made=[*made_from(judge, images), ("score", score)],
        note="Only the conformal rule promises a rate: at most alpha on average over calibration sets, whatever the "
        "distribution. Mean + k std is right for a normal distribution, and losses have a long tail; losses of whole "
        "batches vary far less than those of single images.",
    )
    everything = normal if outlying is None else Verdicts.concatenate([normal, outlying])
    write_study(output, page, rows, figures, {"scores": list(everything.records())}, unfinished)
    return rows


def _kept(row: Mapping[str, Any], alpha: float) -> str:
    """Say whether the rule that promises a rate kept it, from its row."""
    verdict = "within" if row["low"] <= alpha <= row["high"] else "below" if row["high"] < alpha else "above"
    return (
        f"The {row['rule']} rule flags {row['false_alarms']:.3g} of the fresh normal images where {alpha:g} was asked "
        f"for: alpha is {'in' if verdict == 'within' else 'not in'} its 95 % interval, {row['low']:.3g} to "
        f"{row['high']:.3g}."
    )


def _rule_of_batches(judge: Screen) -> dict[str, float]:
    """Return the rule by the losses of whole validation batches, where they are means of what images are judged by."""
    losses = judge.detector.history.losses.get("validation")
    if losses is None or judge.score != ERROR or not judge.detector.validates_by_its_score:
        return {}
    return {"mean + 1 std of validation batches": mean_std_threshold(losses)}


def _losses_of_batches(judge: Screen) -> Mapping[str, Axes]:
    """Draw the losses of training and validation batches in the epoch whose weights were kept."""
    history, drawn = judge.detector.history, {}
    for name, losses in history.losses.items():
        lines = {"mean": float(losses.mean()), "median": float(np.median(losses))}
        if name == "validation":
            lines["mean + 1 std"] = mean_std_threshold(losses)
        kind = "validation" if name == "validation" else f"training ({name.removeprefix('loss_')})"
        title = f"{kind}: losses of batches in epoch {history.best_epoch}"
        drawn[f"losses-{name.removeprefix('loss_')}"] = plot_distribution(losses, lines, title=title, counted="batches")
    return drawn


def _named(source: object) -> str | None:
    return str(source) if isinstance(source, str | Path) else None


def _judged(screen: Screen, images: ImageSet, source: str | None, journal: Path, progress: bool) -> Verdicts:
    """Judge images, and go on where an interrupted study stopped if they have a name to be known by."""
    if source is None or images.ids is None or len(set(images.ids)) < len(images.ids):
        return screen.predict(images, progress=progress)
    return journalled(screen, images, journal, {}, progress=progress).verdicts


def _readable(verdicts: Verdicts) -> NDArray[np.float64]:
    scores = verdicts.instance_score[np.isfinite(verdicts.instance_score)]
    if not scores.size:
        raise InputError(f"not one image could be read; the first: {verdicts.ids[0]}: {verdicts.errors[0]}")
    return scores


def _unreadable(verdicts: Verdicts) -> list[tuple[str, str]]:
    bad = np.flatnonzero(~np.isfinite(verdicts.instance_score))
    return [(verdicts.ids[index], verdicts.errors[index] or "") for index in bad]


def _reliability(screen: Screen, normal: Verdicts) -> Axes:
    """Draw the share flagged against alpha, as far down as there are calibration images for.

    Each image is flagged by the calibration of its group, where there are groups; one of none is left out.
    """
    judged = np.flatnonzero(np.isfinite(normal.p_value))
    scores, groups = normal.instance_score[judged], None
    if screen.calibrator.groups is not None and normal.labels is not None:
        groups = [normal.labels[index] for index in judged]
    smallest = 1 / (min(screen.calibrator.sizes.values()) + 1)
    alphas = [round(float(alpha), 4) for alpha in _ALPHAS if alpha > smallest]
    judges = [screen.with_alpha(alpha, confidence=None) for alpha in alphas]
    ends = np.array([judge.false_alarm_interval for judge in judges]).reshape(-1, 2)
    seen = [screen.calibrator.is_outlier(scores, alpha, groups).mean() if len(judged) else np.nan for alpha in alphas]
    return plot_reliability(alphas, seen, ends[:, 0], ends[:, 1])


def _scatter(screen: Screen, normal: Verdicts, outlying: Verdicts | None) -> Axes:
    """Draw at most a thousand images of each kind."""
    parts = [normal.instance_score[:_DRAWN]] + ([] if outlying is None else [outlying.instance_score[:_DRAWN]])
    truth = np.repeat([False, True][: len(parts)], [len(part) for part in parts])
    return plot_instance_scores(np.concatenate(parts), truth, screen.threshold)


def _curves(normal: NDArray[np.float64], outlying: NDArray[np.float64]) -> Mapping[str, Axes]:
    name = f"AUROC {auroc(normal, outlying):.3f}"
    precise = f"average precision {average_precision(normal, outlying):.3f}"
    return {
        "roc": plot_roc({name: roc_points(normal, outlying)}),
        "precision-recall": plot_precision_recall({precise: precision_recall_points(normal, outlying)}),
        "risk-coverage": plot_risk_coverage({"lowest scores first": risk_coverage_points(normal, outlying)}),
    }

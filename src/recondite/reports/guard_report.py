"""Selective classification with outliers in traffic: risk against coverage, of a guard and of a classifier's scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.datasets import open_images, read_batches
from recondite.data.images import Preprocessing
from recondite.data.pictures import data_url, image_grid
from recondite.data.tables import READERS, read_events, write_table
from recondite.errors import InputError
from recondite.progress import counted
from recondite.reports.figures import plot_risk_coverage
from recondite.reports.guard_looks import looks_at
from recondite.reports.guard_tables import (
    CLASS_COLUMNS,
    GRID,
    Bands,
    bands_of,
    class_cells,
    class_rows,
    conclusion,
)
from recondite.reports.page import TablePage
from recondite.screen.classifier_outputs import CONFIDENCE, Floats, Outputs
from recondite.screen.guard import SCREEN, Guard
from recondite.screen.screen import Screen
from recondite.screen.words import parts_in_words
from recondite.statistics.calibration import Calibrator
from recondite.statistics.distances import Distances
from recondite.statistics.metrics import RiskCoverage, risk_coverage
from recondite.statistics.scores import Scores, scored
from recondite.torch_state import own_settings

COLUMNS = (
    *("rule", "outliers", "AURC", "AUGRC", "95 % interval", "coverage at 1 % risk", "at 5 % risk", "false rejections"),
    *("outliers accepted", "labels given to outliers", "accuracy", "risk"),
)
"""Of the table of a report; its rows are `table_cells`."""
PREVALENCES = (0.01, 0.1, 0.5)
NO_GUARD, SOFTMAX, NEIGHBOURS, GUARD = "no guard", "max softmax", "feature neighbours", "guard"
BOTH, ALL = "screen + softmax", "screen + softmax + features"
_RISK, _LOW_RISK = 0.05, 0.01
_TYPICAL = 0.1
_EXAMPLES, _LARGEST_EXAMPLE = 16, 96
_Kept = tuple[NDArray[np.bool_], NDArray[np.bool_]]


@dataclass(frozen=True)
class GuardReport:
    """What `guard_report` found.

    Args:
        rows: one for each rule and prevalence; see `guard_report`.
        curves: (rule, prevalence) -> risk against coverage.
        facts: what was measured, in words.
        bands: (rule, prevalence) -> intervals of the curve.
        classes: what each class pays; see `recondite.reports.guard_tables.class_rows`.
        conclusion: which rule to take, and what it is worth, in words.
        passed, refused: ids of outliers that the rule of fewest accepted errors gives a label, the least suspicious
            first, and of inliers that it turns away, the most suspicious first; at most 16 each.
    """

    rows: list[dict[str, Any]]
    curves: Mapping[tuple[str, float], RiskCoverage]
    facts: str
    bands: Mapping[tuple[str, float], Bands]
    classes: list[dict[str, Any]]
    conclusion: str
    passed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


def guard_report(
    screen: Screen,
    inliers: Scores,
    outliers: Scores,
    inlier_outputs: Outputs,
    outlier_outputs: Outputs,
    *,
    calibration: tuple[Scores, Outputs] | None = None,
    reference: Outputs | None = None,
    alpha: float | None = None,
) -> GuardReport:
    """Compare the screen with what a classifier has of its own, and with both together.

    The traffic is inliers with a share of outliers, 1, 10 and 50 %; accepting an outlier is an error, and so is
    accepting an inlier that the classifier gets wrong. Rules: no guard; max softmax; the distance to the fifth nearest
    of 1,000 reference features (where they are given); the screen's score; and with a calibration, the rarest of these.

    Each row has "rule", "prevalence"; "aurc", "augrc" with its 95 % interval "augrc_low", "augrc_high" (a bootstrap),
    "coverage_at_1_percent_risk", "coverage_at_5_percent_risk" over all thresholds; and for the one
    threshold at which a share alpha of the inliers is lost (set on these inliers, for all rules alike):
    "false_rejections" (share of the rightly classified inliers turned away), "outliers_accepted" (share of outliers
    that get a label), "labels_given_to_outliers" (share of the labels given that an outlier got), "accuracy_accepted"
    (of accepted inliers), "risk" (share of the labels given that are wrong).

    Args:
        screen: that gave the scores.
        inliers, outliers: its scores of test images; an unreadable image is turned away first.
        inlier_outputs, outlier_outputs: the classifier's, for the same ids.
        calibration: scores and outputs of other normal images, for the combined rules.
        reference: outputs with features of normal images, for the neighbours.
        alpha: share of the inliers that may be lost; the screen's by default.

    Raises:
        InputError: outputs are missing for an image, do not belong together, or lack the true class of an inlier.
    """
    level = screen.alpha if alpha is None else alpha
    a, b = inlier_outputs.select(inliers.ids), outlier_outputs.select(outliers.ids)
    nameless = int((a.labels < 0).sum())
    if nameless:
        raise InputError(
            "expected the true class of each inlier, the number of its logit, as label among the classifier's outputs; "
            f"{nameless:,} of {len(a):,} have none"
        )
    rules = _rules((inliers, a), (outliers, b), calibration, reference)
    return _report(rules, a, b, level, f"each rule is set to turn away {level:g} of the inliers.")


def fitted_guard_report(guard: Guard, inliers: object, outliers: object, *, progress: bool = False) -> GuardReport:
    """Compare a guard whose classifier speaks for itself, as it was fitted, with each part that it can find.

    As `guard_report`, from one look at each image; what cannot be read is left out. The guard itself decides by its
    own calibration and floor of confidence; its curve is that of the smallest p-value over share of alpha among its
    parts.

    Args:
        guard: at the alpha that it is to be measured at.
        inliers: normal images, whose true classes are their labels or folders.
        outliers: images that do not belong.
        progress: show progress on standard error.

    Raises:
        InputError: as `looks_at`.
    """
    a, b = looks_at(guard, inliers, "inliers", progress), looks_at(guard, outliers, "outliers", progress)
    rules = {NO_GUARD: (np.zeros(len(a.outputs)), np.zeros(len(b.outputs)))}
    rules |= {SOFTMAX if part == CONFIDENCE else part: (a.parts[part], b.parts[part]) for part in a.parts}
    rules[GUARD] = a.suspicion, b.suspicion
    missing = a.unreadable + b.unreadable
    how = (
        f"each rule is set to turn away {guard.screen.alpha:g} of these inliers; the guard decides as it was fitted, "
        f"by {parts_in_words(guard.shares)}{' and its lowest confidence' if guard.floor else ''}."
        + (f" {counted(missing, 'unreadable image')} left out." if missing else "")
    )
    return _report(rules, a.outputs, b.outputs, guard.screen.alpha, how, {GUARD: (a.kept, b.kept)}, guard.classes)


def _report(
    rules: Mapping[str, tuple[Floats, Floats]],
    a: Outputs,
    b: Outputs,
    level: float,
    how: str,
    decided: Mapping[str, _Kept] | None = None,
    names: Sequence[str] | None = None,
) -> GuardReport:
    """Return the report of rules.

    Args:
        rules: rule -> suspicion of N inliers and of M outliers.
        a, b: the classifier's outputs for these.
        level: share of the inliers that each rule turns away.
        how: the rules decide, in words.
        decided: rule -> which inliers and outliers get a label, where it decides by itself.
        names: of the classes, if they have any.
    """
    wrong = np.concatenate([a.wrong, np.ones(len(b), dtype=bool)])
    rows, curves = [], {}
    bands = {share: bands_of(rules, a.wrong, share) for share in PREVALENCES}
    kept: dict[str, _Kept] = {}
    for name, (own, other) in rules.items():
        threshold = np.inf if name == NO_GUARD else _threshold(own, level)
        kept[name] = (decided or {}).get(name, (own <= threshold, other <= threshold))
        for prevalence in PREVALENCES:
            weights = np.repeat([(1 - prevalence) / len(a), prevalence / len(b)], [len(a), len(b)])
            curve = risk_coverage(np.concatenate([own, other]), wrong, weights)
            curves[name, prevalence] = curve
            at = _at_threshold(*kept[name], a.wrong, prevalence)
            rows.append(
                {
                    "rule": name,
                    "prevalence": prevalence,
                    "aurc": curve.aurc,
                    "augrc": curve.augrc,
                    "augrc_low": bands[prevalence][name].interval[0],
                    "augrc_high": bands[prevalence][name].interval[1],
                    "coverage_at_1_percent_risk": curve.coverage_at(_LOW_RISK),
                    "coverage_at_5_percent_risk": curve.coverage_at(_RISK),
                    **at,
                }
            )
    facts = (
        f"{len(a):,} inliers, of which the classifier gets {np.mean(~a.wrong):.1%} right, and {len(b):,} outliers; "
        f"{how}"
    )
    typical = [row for row in rows if row["prevalence"] == _TYPICAL]
    lowest = min((row for row in typical if row["rule"] != NO_GUARD), key=lambda row: float(str(row["augrc"])))
    best = str(lowest["rule"])
    own, other = rules[best]
    passed = [place for place in np.argsort(other, kind="stable") if kept[best][1][place]]
    refused = [place for place in np.argsort(-own, kind="stable") if not kept[best][0][place]]
    return GuardReport(
        rows,
        curves,
        facts,
        bands={(name, share): found for share, some in bands.items() for name, found in some.items()},
        classes=class_rows(kept, a, b, names),
        conclusion=conclusion(typical, bands[_TYPICAL], NO_GUARD),
        passed=tuple(b.ids[place] for place in passed[:_EXAMPLES]),
        refused=tuple(a.ids[place] for place in refused[:_EXAMPLES]),
    )


def scores_of(screen: Screen, source: str) -> Scores:
    """Return the screen's scores of images, or those in a table of verdicts that `recondite predict` wrote.

    Args:
        screen: the judge.
        source: images, or a .csv, .jsonl or .parquet file.

    Raises:
        InputError: neither.
    """
    if Path(source).suffix.lower() in READERS:
        return Scores.concatenate(scores for scores, _ in scored(read_events(source), source))
    return screen.predict(source, progress=True)


def example_galleries(report: GuardReport, screen: Screen, inliers: str, outliers: str) -> list[dict[str, str]]:
    """Return small pictures of outliers that passed and of inliers that were refused.

    Args:
        report: that names them.
        screen: the judge.
        inliers, outliers: what was measured; of a table of verdicts there are no pictures.
    """
    found = []
    shown = (
        ("Outliers that get a label", "the least suspicious first", outliers, report.passed),
        ("Inliers that are turned away", "the most suspicious first", inliers, report.refused),
    )
    for title, note, source, names in shown:
        if Path(source).suffix.lower() in READERS or not names or not screen.detector.preprocessing.is_image:
            continue
        opened = open_images(source, shape=screen.detector.shape)
        place = {name: number for number, name in enumerate(opened.ids or ())}
        some = opened.select([place[name] for name in names if name in place])
        channels, *sides = screen.detector.shape
        small = (channels, *(min(side, _LARGEST_EXAMPLE) for side in sides))
        seen = Preprocessing(shape=small, value_range=screen.detector.preprocessing.value_range)
        pixels = [batch.pixels for batch in read_batches(some, seen, _EXAMPLES)]
        if pixels and len(pixels[0]):
            found.append({"title": title, "note": note, "data": data_url(image_grid(np.concatenate(pixels), 8))})
    return found


def write_guard_report(
    folder: Path,
    report: GuardReport,
    title: str,
    galleries: Sequence[dict[str, str]] = (),
    made: Sequence[tuple[str, str]] = (),
) -> None:
    """Write table.csv, classes.csv, curves.csv and report.html into a folder, with pictures, if there are any.

    Args:
        folder: where to.
        report: what was found.
        title: of the page.
        galleries: pictures; see `recondite.reports.page.TablePage`.
        made: (name, value) of what it was made from.
    """
    write_table(folder / "table.csv", report.rows)
    write_table(folder / "classes.csv", report.classes)
    write_table(
        folder / "curves.csv",
        (
            {"rule": rule, "prevalence": prevalence, "coverage": float(c), "risk": float(r)}
            for (rule, prevalence), curve in report.curves.items()
            for c, r in zip(curve.coverage, curve.risk, strict=True)
        ),
    )
    figures = []
    for prevalence in PREVALENCES:
        curves = {rule: (c.coverage, c.risk) for (rule, share), c in report.curves.items() if share == prevalence}
        figures.append(
            plot_risk_coverage(
                curves,
                _RISK,
                title=f"{prevalence:.0%} of the traffic are outliers",
                accepted="share of the traffic that gets a label",
                wrong="share of wrong labels",
                bands={rule: (GRID, b.low, b.high) for (rule, share), b in report.bands.items() if share == prevalence},
            )
        )
    page = TablePage(
        title=title,
        lead=report.facts,
        conclusion=report.conclusion,
        made=made,
        columns=list(COLUMNS),
        rows=[table_cells(row) for row in report.rows],
        note="AURC: mean share of wrong labels over all coverages. AUGRC: mean share of all images that are accepted "
        "and wrong. Lower is better for both. Coverage at 5 % risk: how much of the traffic can be labelled with at "
        "most one label in twenty wrong. Bands hold 95 % of 200 bootstrap draws of the images. "
        "Accepting an outlier counts as wrong. The "
        "other columns are for the one threshold of each rule, or for what a fitted guard decides: accuracy is that on "
        "accepted inliers, risk counts all.",
        figures=figures,
        galleries=list(galleries),
        second=("What each class pays", CLASS_COLUMNS, [class_cells(row) for row in report.classes]),
    )
    page.write(folder / "report.html")


def table_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one row of the report as text."""
    numbers = [f"{row[name]:.4f}" for name in ("aurc", "augrc")]
    numbers.append(f"{row['augrc_low']:.4f} to {row['augrc_high']:.4f}")
    shares = [
        "coverage_at_1_percent_risk",
        "coverage_at_5_percent_risk",
        "false_rejections",
        "outliers_accepted",
        "labels_given_to_outliers",
        "accuracy_accepted",
        "risk",
    ]
    return (row["rule"], f"{row['prevalence']:.0%}", *numbers, *(f"{row[name]:.3f}" for name in shares))


def _rules(
    inliers: tuple[Scores, Outputs],
    outliers: tuple[Scores, Outputs],
    calibration: tuple[Scores, Outputs] | None,
    reference: Outputs | None,
) -> dict[str, tuple[Floats, Floats]]:
    """Return rule -> suspicion of the inliers and of the outliers."""
    own, other = _parts(*inliers, reference), _parts(*outliers, reference)
    rules = {NO_GUARD: (np.zeros(len(inliers[0])), np.zeros(len(outliers[0])))}
    rules |= {part: (own[part], other[part]) for part in own}
    if calibration is not None:
        scores, outputs = calibration
        held = _parts(scores, outputs.select(scores.ids), reference)
        calibrators = {part: Calibrator(values[np.isfinite(values)]) for part, values in held.items()}
        for name, parts in ((BOTH, (SCREEN, SOFTMAX)), (ALL, (SCREEN, SOFTMAX, NEIGHBOURS))):
            if set(parts) <= set(own):
                rules[name] = (_rarest(own, calibrators, parts), _rarest(other, calibrators, parts))
    return rules


def _parts(scores: Scores, outputs: Outputs, reference: Outputs | None) -> dict[str, Floats]:
    suspicion = np.where(np.isfinite(scores.instance_score), scores.instance_score, np.inf)
    found = {SOFTMAX: outputs.doubt}
    if reference is not None:
        if reference.features is None or outputs.features is None:
            raise InputError("the distance to neighbours needs features in the reference and in all other outputs")
        if reference.features.shape[1] != outputs.features.shape[1]:
            raise InputError(f"expected features of {reference.features.shape[1]}; got {outputs.features.shape[1]}")
        found[NEIGHBOURS] = _neighbours(reference.features, outputs.features)
    return {**found, SCREEN: suspicion}


@own_settings()
def _neighbours(reference: Floats, features: Floats) -> Floats:
    import torch

    distances = Distances.fit(reference.astype(np.float32))
    found = distances(torch.from_numpy(features.astype(np.float32)))["neighbour"]
    return found.double().numpy()


def _rarest(values: Mapping[str, Floats], calibrators: Mapping[str, Calibrator], parts: Sequence[str]) -> Floats:
    """Return -log of the smallest p-value of the parts, ties broken by the sum of all logarithms."""
    logs = np.stack([-np.log(calibrators[part].p_value(values[part])) for part in parts])
    return np.asarray(logs.max(axis=0) + 1e-6 * logs.sum(axis=0))


def _threshold(values: Floats, alpha: float) -> float:
    """Return the threshold that a share of at most alpha of the values exceeds."""
    if not 0 < alpha < 1:
        raise InputError(f"expected alpha in (0, 1); got {alpha!r}")
    kept = int(np.ceil(round((1 - alpha) * len(values), 9)))
    return float(np.sort(values)[max(0, kept - 1)])


def _at_threshold(
    kept: NDArray[np.bool_], other: NDArray[np.bool_], wrong: NDArray[np.bool_], prevalence: float
) -> dict[str, float]:
    right = ~wrong
    labelled = (1 - prevalence) * kept.mean() + prevalence * other.mean()
    mistakes = (1 - prevalence) * np.mean(kept & wrong) + prevalence * other.mean()
    return {
        "false_rejections": float(np.mean(~kept[right])) if right.any() else float("nan"),
        "outliers_accepted": float(other.mean()),
        "labels_given_to_outliers": float(prevalence * other.mean() / labelled) if labelled else 0.0,
        "accuracy_accepted": float(np.mean(right[kept])) if kept.any() else float("nan"),
        "risk": float(mistakes / labelled) if labelled else 0.0,
    }

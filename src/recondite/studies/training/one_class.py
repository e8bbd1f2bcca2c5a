"""The one-class study: each class in turn is normal; how well does each score of each detector tell the others?

Source: the protocol of Zenati et al. 2018, arXiv 1812.02288 (pooled), and of most later papers (official).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recondite.data.tables import write_table
from recondite.data.units import COPIES
from recondite.errors import InputError
from recondite.reports.page import TablePage
from recondite.statistics.metrics import auroc, auroc_interval
from recondite.studies.figures import loss_figure, picture_rows, roc_figure
from recondite.studies.training.execution import RunResources, performed
from recondite.studies.training.runs import (
    POOLED_TEST_SHARE,
    Plan,
    Protocol,
    Result,
    Task,
    baseline_scores,
    check_classes,
    check_options,
    open_task,
    options_for,
)

_MEAN = "mean"


def one_class_study(
    source: str,
    output: Path,
    *,
    normal: str = "all",
    detectors: Sequence[str] = ("alad",),
    seeds: int = 1,
    protocol: Protocol = "pooled",
    validation: float = 0.25,
    image_size: tuple[int, int] | None = None,
    value_range: tuple[float, float] | None = None,
    group_by: str = COPIES,
    resources: RunResources | None = None,
    progress: bool = False,
    **options: Any,
) -> list[dict[str, Any]]:
    """Train each detector on each normal class with each seed, and write table.csv, runs.csv and study.html.

    Run again with the same folder, finished runs are taken up and an interrupted one goes on from its last epoch.

    Args:
        source: the name of a data set ("cifar10"), or a folder with a sub-folder for each class.
        output: the folder of the study.
        normal: classes joined by commas, or "all".
        detectors: names in `DETECTORS`.
        seeds: how many runs of each, with seeds 0, 1, ...; a seed decides the weights, and the split if pooled.
        protocol: "pooled" or "official"; see `recondite.studies.training.runs.Task`.
        validation: share of the normal training images that choose the best epoch.
        image_size: (height, width); the images' own size by default, if that is at most 64.
        value_range: as in `recondite.fit`.
        group_by: what tells images that belong together, which stay in one part: a word, a regular expression or a
            .csv file, likewise.
        resources: a cluster whose tasks the runs are; None for one after the other in this process.
        progress: show progress on standard error.
        options: of the detectors and of training, such as epochs=20; each detector takes those that it has.

    Returns:
        The rows of table.csv: "normal" (a class, or "mean" over several), "detector" ("" for the baselines), "score",
        "auroc" (mean over seeds), "low" and "high" (95 % bootstrap interval over test images), "lowest" and "highest"
        (of the seeds), "seeds".

    Raises:
        InputError: unknown classes, detectors or options, or a folder that holds another study.
    """
    if seeds < 1:
        raise InputError(f"expected at least one seed; got {seeds}")
    check_options(detectors, options)
    task = open_task(
        source,
        protocol=protocol,
        validation=validation,
        image_size=image_size,
        value_range=value_range,
        group_by=group_by,
        progress=progress,
    )
    classes = check_classes(task, normal)
    plans = [
        Plan(detector=detector, normal=name, seed=seed, options=options_for(detector, options))
        for name in classes
        for detector in detectors
        for seed in range(seeds)
    ]
    results = performed(task, plans, output, resources, progress)
    rows = _rows(task, results, classes, seeds)
    write_table(output / "table.csv", rows)
    write_table(output / "runs.csv", _run_rows(results))
    _page(task, results, rows, classes, seeds).write(output / "study.html")
    return rows


def _rows(task: Task, results: Sequence[Result], classes: Sequence[str], seeds: int) -> list[dict[str, Any]]:
    """Return one row a class and score, and a mean over the classes where there are several."""
    runs: dict[tuple[str, str], dict[str, list[Any]]] = {}
    for result in results:
        for score, pair in result.scores.items():
            runs.setdefault((result.plan.detector, score), {}).setdefault(result.plan.normal, []).append(pair)
    for name in classes:
        for seed in range(seeds):
            for score, pair in baseline_scores(task.split(name, seed)).items():
                runs.setdefault(("", score), {}).setdefault(name, []).append(pair)
    rows = [_row(name, *key, by_class[name]) for name in classes for key, by_class in runs.items()]
    if len(classes) > 1:
        for (detector, score), by_class in runs.items():
            every = [pair for pairs in by_class.values() for pair in pairs]
            by_seed = [np.mean([auroc(*pairs[seed]) for pairs in by_class.values()]) for seed in range(seeds)]
            row = _row(_MEAN, detector, score, every)
            rows.append({**row, "lowest": float(min(by_seed)), "highest": float(max(by_seed)), "seeds": seeds})
    return rows


def _row(normal: str, detector: str, score: str, pairs: Sequence[Any]) -> dict[str, Any]:
    value, low, high = auroc_interval(pairs)
    each = [auroc(*pair) for pair in pairs]
    return {
        "normal": normal,
        "detector": detector,
        "score": score,
        "auroc": value,
        "low": low,
        "high": high,
        "lowest": min(each),
        "highest": max(each),
        "seeds": len(pairs),
    }


def _run_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    return [
        {
            "detector": result.plan.detector,
            "normal": result.plan.normal,
            "seed": result.plan.seed,
            "score": score,
            "auroc": auroc(*pair),
            "images_learnt": result.facts["learnt"],
            "normal_tested": len(pair[0]),
            "anomalous_tested": len(pair[1]),
            "epochs": len(result.facts["epochs"]),
            "best_epoch": result.facts["best_epoch"],
            "seconds": round(result.facts["seconds"], 1),
            "parameters": result.facts["parameters"],
        }
        for result in results
        for score, pair in result.scores.items()
    ]


def describe(task: Task) -> str:
    """Say in words how the images were split."""
    if task.protocol == "pooled":
        split = f"Training and test images pooled, {POOLED_TEST_SHARE:.0%} of all at random for the test"
    else:
        split = "The data set's own training and test images"
    return (
        f"{split}; {task.validation:.0%} of the normal training images choose the best epoch; anomalies only in the "
        f"test. {task.name}, {' x '.join(map(str, task.shape))} (channels x height x width)."
    )


def auroc_in_words(row: Mapping[str, Any]) -> str:
    """Return the AUROC of a row with its interval, "auroc [low, high]", to three decimals."""
    return f"{row['auroc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _page(
    task: Task,
    results: Sequence[Result],
    rows: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    seeds: int,
) -> TablePage:
    columns = [*classes, *([_MEAN] if len(classes) > 1 else [])]
    table: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        table.setdefault((row["detector"] or "baseline", row["score"]), {})[row["normal"]] = auroc_in_words(row)
    best = max(rows, key=lambda row: (row["normal"] == columns[-1], row["auroc"]))
    page = TablePage(
        title=f"One class of {task.name} is normal, all others are not",
        lead=f"AUROC of each score, mean of {seeds} seed{'s' if seeds > 1 else ''}, with the 95 % bootstrap interval "
        f"over test images. {describe(task)}",
        columns=["detector", "score", *columns],
        rows=[[*key, *(cells[name] for name in columns)] for key, cells in table.items()],
        conclusion=f"The highest AUROC {'on average' if len(classes) > 1 else f'with {classes[0]} normal'} is "
        f"{auroc_in_words(best)}, of {best['detector'] or 'the baseline'} by {best['score']}.",
        best=list(table).index((best["detector"] or "baseline", best["score"])),
        made=[("images", task.name), ("seeds", str(seeds))],
        note="Half is chance; below a half, anomalies score lower than normal images. Baselines have learnt to rebuild "
        "nothing: what does not beat them has shown nothing.",
    )
    for name in classes:
        baselines = baseline_scores(task.split(name, 0))
        first = [result for result in results if result.plan.normal == name and result.plan.seed == 0]
        curves = {f"{result.plan.detector} {score}": pair for result in first for score, pair in result.scores.items()}
        page.figures.append(roc_figure(f"{name} is normal, seed 0", {**curves, **baselines}))
        for result in first:
            if len(result.facts["epochs"]) > 1:
                page.figures.append(loss_figure(f"{result.plan.detector}, {name} is normal, seed 0", result))
            page.galleries += picture_rows(result)
    return page

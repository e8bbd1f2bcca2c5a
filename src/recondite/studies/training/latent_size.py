"""The latent-size study: does a larger latent rebuild better, and does it tell anomalies better?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recondite.data.tables import write_table
from recondite.errors import InputError
from recondite.reports.page import StudyPage
from recondite.statistics.metrics import auroc_interval
from recondite.studies.figures import picture_rows, sizes_figure
from recondite.studies.training.one_class import describe
from recondite.studies.training.parallel import RunResources, performed
from recondite.studies.training.runs import Plan, Protocol, Result, check_classes, check_options, open_task, options_for


def latent_size_study(
    source: str,
    output: Path,
    *,
    normal: str,
    sizes: Sequence[int] = (100, 300, 500, 800),
    detector: str = "alad",
    seeds: int = 1,
    protocol: Protocol = "pooled",
    validation: float = 0.25,
    image_size: tuple[int, int] | None = None,
    resources: RunResources | None = None,
    progress: bool = False,
    **options: Any,
) -> list[dict[str, Any]]:
    """Train a detector with each latent size, and write table.csv and study.html.

    Run again with the same folder, finished runs are taken up and an interrupted one goes on from its last epoch.

    Args:
        source, output, seeds, protocol, validation, image_size, resources, progress, options: as in `one_class_study`.
        normal: one class.
        sizes: the latent sizes.
        detector: a name in `DETECTORS`.

    Returns:
        The rows of table.csv: "latent_size", "score", "normal_mean" and "anomalous_mean" (the mean score, which is an
        error, of normal and of anomalous test images, over seeds), "auroc", "low", "high" (95 % bootstrap interval over
        test images), "seeds".

    Raises:
        InputError: unknown class, detector or options, or a folder that holds another study.
    """
    if seeds < 1 or not sizes or len(set(sizes)) < len(sizes):
        raise InputError(f"expected at least one seed and different sizes; got {seeds} and {list(sizes)}")
    if "latent_size" in options:
        raise InputError("the study chooses latent_size: leave it out and give sizes")
    for size in sizes:
        check_options([detector], {**options, "latent_size": size})
    task = open_task(source, protocol=protocol, validation=validation, image_size=image_size, progress=progress)
    if normal == "all" or len(check_classes(task, normal)) > 1:
        raise InputError(f"expected one class to be normal; got {normal!r}")
    plans = [
        Plan(
            detector=detector, normal=normal, seed=seed, options=options_for(detector, {**options, "latent_size": size})
        )
        for size in sizes
        for seed in range(seeds)
    ]
    results: dict[int, list[Result]] = {size: [] for size in sizes}
    for result in performed(task, plans, output, resources, progress):
        results[result.plan.options["latent_size"]].append(result)
    rows = [_row(size, score, results[size]) for size in sizes for score in results[size][0].scores]
    write_table(output / "table.csv", rows)
    page = StudyPage(
        title=f"{detector} with {', '.join(map(str, sizes))} numbers in the latent, {normal} of {task.name} normal",
        lead=f"{seeds} seed{'s' if seeds > 1 else ''}. {describe(task)}",
        columns=["latent", "score", "mean, normal", "mean, anomalous", "AUROC, 95 % interval"],
        rows=[
            [
                str(row["latent_size"]),
                row["score"],
                f"{row['normal_mean']:.4g}",
                f"{row['anomalous_mean']:.4g}",
                f"{row['auroc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
            ]
            for row in rows
        ],
        note="Scores of ALAD named ch and fm are measured by a critic that is another one after each training: their "
        "size is not comparable between latents, the AUROC is.",
        figures=sizes_figure(rows),
        galleries=[gallery for size in sizes for gallery in picture_rows(results[size][0])],
    )
    page.write(output / "study.html")
    return rows


def _row(size: int, score: str, results: Sequence[Result]) -> dict[str, Any]:
    pairs = [result.scores[score] for result in results]
    value, low, high = auroc_interval(pairs)
    return {
        "latent_size": size,
        "score": score,
        "normal_mean": float(np.mean([pair[0].mean() for pair in pairs])),
        "anomalous_mean": float(np.mean([pair[1].mean() for pair in pairs])),
        "auroc": value,
        "low": low,
        "high": high,
        "seeds": len(pairs),
    }

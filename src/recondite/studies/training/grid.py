"""Grid studies: one detector with every combination of some options; the latent-size study is a grid over one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.tables import write_table
from recondite.data.units import COPIES
from recondite.detectors import detector_class
from recondite.errors import InputError
from recondite.options import TrainingOptions, make_options, option_names
from recondite.reports.page import TablePage
from recondite.statistics.metrics import auroc_interval
from recondite.studies.figures import picture_rows, sizes_figure
from recondite.studies.training.execution import RunResources, performed
from recondite.studies.training.one_class import auroc_in_words, describe
from recondite.studies.training.runs import (
    Plan,
    Protocol,
    Result,
    Task,
    check_classes,
    check_options,
    open_task,
    options_for,
)


def grid_study(
    source: str,
    output: Path,
    *,
    normal: str,
    vary: Mapping[str, Sequence[Any]],
    detector: str = "autoencoder",
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
    """Train a detector with every combination of some options, and write table.csv and study.html.

    Run again with the same folder, finished runs are taken up and an interrupted one goes on from its last epoch.

    Args:
        source, output, seeds, protocol, validation, image_size, value_range, group_by, resources, progress, options: as
            in `one_class_study`.
        normal: one class.
        vary: name of an option of the detector or of training -> its values; texts are read as on the command line.
        detector: a name in `DETECTORS`.

    Returns:
        The rows of table.csv: the options varied, "score", "validation" (the mean validation error of the epochs that
        were kept, over seeds; None for detectors without one), "auroc", "low", "high" (95 % bootstrap interval over
        test images), "seeds".

    Raises:
        InputError: unknown class, detector, options or values, or a folder that holds another study.
    """
    if seeds < 1 or not vary or not all(vary.values()):
        raise InputError(
            f"expected at least one seed, and values for each option to vary; got {seeds} and {dict(vary)}"
        )
    twice = sorted(vary.keys() & options.keys())
    if twice:
        raise InputError(f"the study varies {twice[0]}: leave it out of the other options")
    read = {name: [_value(detector, name, value) for value in values] for name, values in vary.items()}
    for name, values in read.items():
        if len(set(values)) < len(values):
            raise InputError(f"expected different values of {name}; got {', '.join(map(str, values))}")
    combinations = [dict(zip(read, values, strict=True)) for values in product(*read.values())]
    for chosen in combinations:
        check_options([detector], {**options, **chosen})
    task = open_task(
        source,
        protocol=protocol,
        validation=validation,
        image_size=image_size,
        value_range=value_range,
        group_by=group_by,
        progress=progress,
    )
    plans = _plans(task, detector, normal, seeds, options, combinations)
    results = _by_combination(performed(task, plans, output, resources, progress), seeds)
    rows = [
        _row(chosen, score, own) for chosen, own in zip(combinations, results, strict=True) for score in own[0].scores
    ]
    write_table(output / "table.csv", rows)
    shown = [name for name in rows[0] if name not in ("low", "high", "seeds")]
    TablePage(
        title=f"{detector} with {len(combinations)} combinations of {', '.join(read)}; {normal} of {task.name} normal",
        lead=f"{seeds} seed{'s' if seeds > 1 else ''}. {describe(task)}",
        columns=shown,
        rows=[[_words(row, name) for name in shown] for row in rows],
        conclusion=_chosen(rows, list(read)),
        best=_lowest(rows),
        made=[("images", source), ("normal", normal), ("detector", detector), ("seeds", str(seeds))],
        note="Choose by the validation error, of normal images alone, where the options leave its scale as it is. "
        "AUROC comes from the test images: an option chosen by it looks better than it is.",
    ).write(output / "study.html")
    return rows


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
    value_range: tuple[float, float] | None = None,
    group_by: str = COPIES,
    resources: RunResources | None = None,
    progress: bool = False,
    **options: Any,
) -> list[dict[str, Any]]:
    """Train a detector with each latent size, and write table.csv and study.html.

    Run again with the same folder, finished runs are taken up and an interrupted one goes on from its last epoch.

    Args:
        source, output, seeds, protocol, validation, image_size, value_range, group_by, resources, progress, options: as
            in `one_class_study`.
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
    combinations = [{"latent_size": size} for size in sizes]
    for chosen in combinations:
        check_options([detector], {**options, **chosen})
    task = open_task(
        source,
        protocol=protocol,
        validation=validation,
        image_size=image_size,
        value_range=value_range,
        group_by=group_by,
        progress=progress,
    )
    # The size of the latent names the folder of a run as it is.
    plans = [replace(plan, label="") for plan in _plans(task, detector, normal, seeds, options, combinations)]
    results = _by_combination(performed(task, plans, output, resources, progress), seeds)
    rows = [_size_row(size, score, own) for size, own in zip(sizes, results, strict=True) for score in own[0].scores]
    write_table(output / "table.csv", rows)
    best = max(rows, key=lambda row: float(row["auroc"]))
    TablePage(
        title=f"{detector} with {', '.join(map(str, sizes))} numbers in the latent, {normal} of {task.name} normal",
        lead=f"{seeds} seed{'s' if seeds > 1 else ''}. {describe(task)}",
        columns=["latent", "score", "mean, normal", "mean, anomalous", "AUROC, 95 % interval"],
        rows=[
            [
                str(row["latent_size"]),
                row["score"],
                f"{row['normal_mean']:.4g}",
                f"{row['anomalous_mean']:.4g}",
                auroc_in_words(row),
            ]
            for row in rows
        ],
        conclusion=f"The highest AUROC is {auroc_in_words(best)}, of {best['latent_size']} numbers in the latent and "
        f"score {best['score']}; chosen by the test images, it looks better than it is.",
        best=rows.index(best),
        made=[("images", source), ("normal", normal), ("detector", detector), ("seeds", str(seeds))],
        note="Scores of ALAD named ch and fm are measured by a critic that is another one after each training: their "
        "size is not comparable between latents, the AUROC is.",
        figures=sizes_figure(rows),
        galleries=[gallery for own in results for gallery in picture_rows(own[0])],
    ).write(output / "study.html")
    return rows


def _lowest(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the row of the lowest validation error; None where there is none."""
    known = [place for place, row in enumerate(rows) if row["validation"] is not None]
    return min(known, key=lambda place: float(rows[place]["validation"])) if known else None


def _chosen(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Say which options have the lowest validation error."""
    place = _lowest(rows)
    if place is None:
        return "This detector has no validation error to choose by."
    said = ", ".join(f"{name} {rows[place][name]}" for name in names)
    return f"The lowest validation error, {rows[place]['validation']:.4g}, is that of {said}."


def _plans(
    task: Task,
    detector: str,
    normal: str,
    seeds: int,
    options: Mapping[str, Any],
    combinations: Sequence[Mapping[str, Any]],
) -> list[Plan]:
    if normal == "all" or len(check_classes(task, normal)) > 1:
        raise InputError(f"expected one class to be normal; got {normal!r}")
    return [
        Plan(
            detector=detector,
            normal=normal,
            seed=seed,
            options=options_for(detector, {**options, **chosen}),
            label=",".join(f"{name}={value}" for name, value in chosen.items()),
        )
        for chosen in combinations
        for seed in range(seeds)
    ]


def _by_combination(results: list[Result], seeds: int) -> list[list[Result]]:
    return [results[start : start + seeds] for start in range(0, len(results), seeds)]


def _value(detector: str, name: str, value: Any) -> Any:
    """Return the value of an option as its type has it.

    Raises:
        InputError: there is no such option, or no such value.
    """
    kind = TrainingOptions if name in option_names(TrainingOptions) else detector_class(detector).Options
    return getattr(make_options(kind, {name: value}, f"detector {detector!r}"), name)


def _row(chosen: Mapping[str, Any], score: str, results: Sequence[Result]) -> dict[str, Any]:
    errors = [result.facts["epochs"][result.facts["best_epoch"] - 1]["validation"] for result in results]
    return {
        **chosen,
        "score": score,
        "validation": None if None in errors else float(np.mean(errors)),
        **_auroc([result.scores[score] for result in results]),
    }


def _words(row: Mapping[str, Any], name: str) -> str:
    if name == "auroc":
        return auroc_in_words(row)
    return f"{row[name]:.5g}" if isinstance(row[name], float) else str(row[name])


def _size_row(size: int, score: str, results: Sequence[Result]) -> dict[str, Any]:
    pairs = [result.scores[score] for result in results]
    return {
        "latent_size": size,
        "score": score,
        "normal_mean": float(np.mean([pair[0].mean() for pair in pairs])),
        "anomalous_mean": float(np.mean([pair[1].mean() for pair in pairs])),
        **_auroc(pairs),
    }


def _auroc(pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> dict[str, Any]:
    """Return the columns that say how well a score separates, from its (normal, anomalous) scores of each seed."""
    value, low, high = auroc_interval(pairs)
    return {"auroc": value, "low": low, "high": high, "seeds": len(pairs)}

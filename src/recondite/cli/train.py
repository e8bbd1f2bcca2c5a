"""recondite study and bench: studies that train detectors."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from recondite.cli.console import print_table
from recondite.cli.flags import (
    CLUSTER_GROUP,
    GROUP_BY_HELP,
    VALUE_RANGE_HELP,
    NoFlags,
    Rate,
    alone,
    check_cluster_flags,
    image_size_of,
    names_of,
    numbers_of,
    option_flags,
    options_of,
    value_of,
    value_range_of,
)
from recondite.errors import InputError

_WORST_PAIRS = 10
# A study reports every score over whole images, for several seeds.
_NOT_IN_STUDIES = {"score", "smooth", "worst_square", "top_percent", "seed"}

Dataset = Annotated[str, Parameter(help="Name of a data set (cifar10), or a folder with a sub-folder for each class.")]
Output = Annotated[Path, Parameter(alias="-o", help="Folder for table.csv, study.html and the runs.")]
Normal = Annotated[str, Parameter(help="The class that is normal.")]
OneDetector = Annotated[str, Parameter(help="One detector; its own flags are listed below.")]


@dataclass(frozen=True, kw_only=True)
class Runs:
    """What the studies that train many detectors share."""

    seeds: Annotated[int, Parameter(help="Runs of each, with seeds 0, 1, ...")] = 1
    protocol: Annotated[
        Literal["pooled", "official"],
        Parameter(help="pooled: a random fifth of all images is the test set; official: the data set's own split."),
    ] = "pooled"
    validation: Annotated[
        Rate, Parameter(help="Share of the normal training images that choose the best epoch, in [0, 1).")
    ] = 0.25
    image_size: Annotated[
        str | None, Parameter(help="Pixels a side (32) or height x width (24x32). [default: that of the images, to 64]")
    ] = None
    value_range: Annotated[str | None, Parameter(help=VALUE_RANGE_HELP)] = None
    group_by: Annotated[str, Parameter(help=GROUP_BY_HELP)] = "copies"
    cluster: Annotated[
        str | None,
        Parameter(
            group=CLUSTER_GROUP,
            help="Make the runs tasks of a Ray cluster, many at once: local, auto, HOST:PORT or ray://HOST:PORT. Its "
            "machines must share the output folder; see docs/clusters.md. [default: none]",
        ),
    ] = None
    run_cpus: Annotated[int, Parameter(group=CLUSTER_GROUP, help="CPUs, and threads, of each run.")] = 1
    run_gpus: Annotated[float, Parameter(group=CLUSTER_GROUP, help="GPUs of each run.")] = 0.0

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of a study."""
        from recondite.studies.training.execution import RunResources

        resources: dict[str, Any] = {"run_cpus": self.run_cpus, "run_gpus": self.run_gpus}
        check_cluster_flags(self.cluster, vars(_RUNS), **resources)
        on_cluster = None
        if self.cluster is not None:
            on_cluster = RunResources(cluster=self.cluster, **resources)
        return {
            "seeds": self.seeds,
            "protocol": self.protocol,
            "validation": self.validation,
            "image_size": image_size_of(self.image_size),
            "value_range": value_range_of(self.value_range),
            "group_by": self.group_by,
            "resources": on_cluster,
            "progress": True,
        }


SharedRuns = Annotated[Runs, Parameter(name="*")]
_RUNS = Runs()


def bare_study() -> None:
    """Look closely at a screen, or train many detectors and compare them; `recondite study --help` lists them."""


def studies_with_flags(tokens: Sequence[str]) -> App:
    """Return the studies as commands, those that train with the flags of the detectors that the tokens name.

    These take torch, and are left out where the tokens name another study or none.
    """
    from recondite.cli.study import add_studies
    from recondite.data.outputs import check_outputs
    from recondite.options import TrainingOptions

    def one_class(
        dataset: Dataset,
        /,
        *,
        output: Output,
        normal: Annotated[str, Parameter(help="Classes joined by commas, or all.")] = "all",
        detector: Annotated[
            str, Parameter(help="Detectors joined by commas; their own flags are listed below.")
        ] = "alad",
        runs: SharedRuns = _RUNS,
        options: NoFlags = None,
        training: NoFlags = None,
    ) -> None:
        """Take each class in turn as normal and measure how well every score separates the others from it.

        After an interruption, run it again to continue.
        """
        check_outputs({}, {"-o": output}, images=dataset)
        from recondite.studies.training.one_class import one_class_study

        given = {**runs.arguments(), **(options or {}), **(training or {})}
        rows = one_class_study(dataset, output, normal=normal, detectors=detector.split(","), **given)
        cells = [
            (
                *(row["normal"], row["detector"] or "baseline", row["score"], f"{row['auroc']:.3f}"),
                *(f"{row['low']:.3f} to {row['high']:.3f}", str(row["seeds"])),
            )
            for row in rows
        ]
        columns = ("normal", "detector", "score", "AUROC", "95 % interval", "seeds")
        print_table([columns, *cells], title=f"{dataset}, {runs.protocol}", header=True)
        print(f"page: {output / 'study.html'}")

    def latent_size(
        dataset: Dataset,
        /,
        *,
        output: Output,
        normal: Normal,
        sizes: Annotated[str, Parameter(help="Latent sizes joined by commas.")] = "100,300,500,800",
        detector: OneDetector = "alad",
        runs: SharedRuns = _RUNS,
        options: NoFlags = None,
        training: NoFlags = None,
    ) -> None:
        """Measure the errors and the AUROC of one detector against its latent size.

        After an interruption, run it again to continue.
        """
        check_outputs({}, {"-o": output}, images=dataset)
        from recondite.studies.training.grid import latent_size_study

        given = {**runs.arguments(), **(options or {}), **(training or {})}
        wanted = numbers_of("--sizes", sizes, int)
        rows = latent_size_study(dataset, output, normal=normal, sizes=wanted, detector=detector, **given)
        cells = [
            (
                *(str(row["latent_size"]), row["score"], f"{row['normal_mean']:.4g}"),
                *(f"{row['anomalous_mean']:.4g}", f"{row['auroc']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}"),
            )
            for row in rows
        ]
        columns = ("latent", "score", "mean, normal", "mean, anomalous", "AUROC", "95 % interval")
        print_table([columns, *cells], title=f"{dataset}, {normal} is normal", header=True)
        print(f"page: {output / 'study.html'}")

    def grid(
        dataset: Dataset,
        /,
        *,
        output: Output,
        normal: Normal,
        vary: Annotated[
            Sequence[str],
            Parameter(
                negative="",
                help="An option and its values, such as learning-rate=0.001,0.002; repeat it for all combinations.",
            ),
        ],
        detector: OneDetector = "alad",
        runs: SharedRuns = _RUNS,
        options: NoFlags = None,
        training: NoFlags = None,
    ) -> None:
        """Train one detector with every combination of some options.

        After an interruption, run it again to continue.
        """
        check_outputs({}, {"-o": output}, images=dataset)
        from recondite.studies.training.grid import grid_study

        given = {**runs.arguments(), **(options or {}), **(training or {})}
        rows = grid_study(dataset, output, normal=normal, vary=_varied(vary), detector=detector, **given)
        _print_rows(rows, f"{dataset}, {normal} is normal")
        print(f"page: {output / 'study.html'}")

    studies = App(name="study", help="Look closely at a screen, or train many detectors and compare them.")
    commands = ((one_class, _NOT_IN_STUDIES), (latent_size, {*_NOT_IN_STUDIES, "latent_size"}), (grid, _NOT_IN_STUDIES))
    for command, without in commands:
        if tokens[:1] == [command.__name__.replace("_", "-")]:
            names = (value_of("--detector", tokens) or "alad").split(",")
            kinds, defaults_of_each = zip(*map(options_of, names), strict=True)
            defaults = defaults_of_each[0] if len(names) == 1 else {}
            own = option_flags("detector flags", *kinds, without=without)
            trained = option_flags("training flags", TrainingOptions, defaults=defaults, without=without)
            group = f"Options of {', '.join(names)}"
            command.__annotations__["options"] = Annotated[own | None, Parameter(name="*", group=group)]
            command.__annotations__["training"] = Annotated[
                trained | None, Parameter(name="*", group="Options of training")
            ]
        studies.command(alone(command))
    add_studies(studies)
    return studies


def _print_rows(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    cells = [tuple(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()) for row in rows]
    print_table([tuple(rows[0]), *cells], title=title, header=True)


def _varied(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return option -> values from texts such as learning-rate=0.001,0.002."""
    varied: dict[str, list[str]] = {}
    for text in texts:
        name, given, values = text.partition("=")
        if not given or not values or name.replace("-", "_") in varied:
            raise InputError(f"expected --vary OPTION=VALUE,VALUE once for each option; got {text!r}")
        varied[name.replace("-", "_")] = values.split(",")
    return varied


def bench_pairs(
    *,
    output: Output,
    normal: str | None = None,
    detector: str | None = None,
    scores: str | None = None,
    outliers: str | None = None,
    epochs: int | None = None,
    count: int = 1000,
    seeds: int = 1,
) -> None:
    """Cross-dataset benchmark: each data set in turn is normal, every detector meets every kind of outlier at hand.

    Run the same command again to go on after an interruption: finished screens and rows in the folder are used.

    Parameters
    ----------
    output
        Folder for pairs.csv, pairs.png (heat map of AUROCs), pairs.md and the screens.
    normal
        Normal sets, such as cifar10,mnist; all that are at hand by default.
    detector
        Detectors, such as vae,pca; all by default.
    scores
        Scores to judge by, such as error,evidence,auto (the default), or other errors of a detector, such as ssim,elbo.
    outliers
        Sets of outliers, such as constants,mnist,flipped; all by default.
    epochs
        Passes over the training images, in place of those chosen for each data set.
    count
        Images in each set, at most.
    seeds
        How often to fit, each time with other weights and draws.
    """
    from recondite.data.outputs import check_outputs

    check_outputs({}, {"-o": output})
    from recondite.studies.training.cross_dataset import BASELINE, cross_dataset_benchmark

    rows = cross_dataset_benchmark(
        output,
        normals=names_of(normal),
        detectors=names_of(detector),
        scores=names_of(scores),
        outliers=names_of(outliers),
        epochs=epochs,
        count=count,
        seeds=seeds,
        progress=True,
    )
    measured = [row for row in rows if row["detector"] != BASELINE]
    worst = sorted(measured, key=lambda row: row["auroc"])[:_WORST_PAIRS]
    columns = ("normal", "detector", "score", "outliers")
    print_table(
        [(*columns, "AUROC"), *((*(row[name] for name in columns), f"{row['auroc']:.3f}") for row in worst)],
        title=f"the lowest of {len(measured):,} AUROCs",
        header=True,
    )
    print(f"\ntable: {output / 'pairs.csv'}, {output / 'pairs.md'}\nfigure: {output / 'pairs.png'}")


def bench_defects(
    *folders: Path,
    output: Output,
    detector: str | None = None,
    image_size: str | None = None,
    value_range: Annotated[str | None, Parameter(help=VALUE_RANGE_HELP)] = None,
    alpha: Rate = 0.05,
    seed: int = 0,
    threads: int | None = None,
) -> None:
    """Benchmark on data sets of defects: every detector learns the good images of every set and meets its test images.

    Run the same command again to go on after an interruption: finished runs in the folder are used.

    Parameters
    ----------
    folders
        Data sets laid out as MVTec AD or VisA, or folders of them.
    output
        Folder for table.csv, study.html, the figure and the runs.
    detector
        Detectors or presets, such as auto,pca; features:padim for a method of features, features:padim+knn for two. By
        default auto, the methods of features alone, autoencoder and pca.
    image_size
        Pixels per side (32), or height x width (24x32); by default what suits the detector and the images.
    alpha
        False-alarm rate, in (0, 1).
    seed
        Seed of each fit.
    threads
        Threads of each run; as many as torch takes by default.
    """
    from recondite.data.layouts import sets_among
    from recondite.data.outputs import check_outputs

    check_outputs({}, {"-o": output}, images=[*folders])
    sets_among(folders)
    from recondite.studies.training.defect_sets import DEFAULT_DETECTORS
    from recondite.studies.training.defect_sets import bench_defects as bench

    names = [name.replace("+", ",") for name in names_of(detector) or DEFAULT_DETECTORS]
    read = {"image_size": image_size_of(image_size), "value_range": value_range_of(value_range)}
    settings = {"alpha": alpha, **{name: value for name, value in read.items() if value is not None}}
    rows = bench(folders, output, names, seed=seed, threads=threads, progress=True, **settings)
    columns = ("set", "detector", "AUROC", "pixel AUROC", "AU-PRO (.3)", "fit s", "images/s", "MB")
    kept = ("auroc", "pixel_auroc", "au_pro_30", "fit_seconds", "images_a_second", "peak_mb")
    digits = (3, 3, 3, 1, 0, 0)
    table = []
    for row in rows:
        cells = ["" if row.get(name) is None else f"{row[name]:.{d}f}" for name, d in zip(kept, digits, strict=True)]
        table.append((row["set"], row["detector"], *cells))
        if row["error"] is not None:
            print(f"failed: {row['set']}, {row['detector']}: {row['error']}", file=sys.stderr)
    if all(row["error"] is not None for row in rows):
        raise InputError("not one run succeeded, for the reasons above: nothing was written")
    print_table([columns, *table], title="detectors on data sets of defects", header=True)
    print(f"\ntable: {output / 'table.csv'}\npage: {output / 'study.html'}")

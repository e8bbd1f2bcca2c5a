"""The command line: parse, make one call, print."""

import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from cyclopts import App, Parameter

from recondite import __version__
from recondite.cli.console import print_table
from recondite.cli.serve import serve
from recondite.errors import InputError, ReconditeError

if TYPE_CHECKING:
    from recondite.screen.screen import Screen

DEFAULT_DETECTOR = "autoencoder"
_LINES_OF_BAD_FILES = 10
_WORST_PAIRS = 10
_CLUSTER = "Cluster"
# A study reports every score over whole images, for several seeds.
_NOT_IN_STUDIES = {"score", "smooth", "region", "top_percent", "seed"}

Output = Annotated[Path, Parameter(alias="-o")]
OnBad = Literal["flag", "skip", "raise"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 1 for a failure, 2 for wrong input, 130 when interrupted."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _make_app(tokens)(tokens, result_action="return_value")
    except ReconditeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on (fit: with --resume)", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def _make_app(tokens: Sequence[str]) -> App:
    app = App(
        name="recondite",
        version=__version__,
        help="Finds the images that do not belong, at a false-alarm rate you choose.",
        help_epilogue="Begin with: recondite fit good_images/ -o screen/",
        suppress_keyboard_interrupt=False,
    )
    # The flags of `fit` come from the detectors, which need torch: they are only made when asked for.
    app.command(_fit_with_flags(tokens[1:]) if tokens[:1] == ["fit"] else _fit, name="fit")
    app.command(_studies(tokens[1:]) if tokens[:1] == ["study"] else _study, name="study")
    judging = (predict, evaluate, show, sample, serve, monitor, recalibrate)
    for command in (*judging, info, export, push, datasets, detectors, demo):
        app.command(command)
    app.command(guard_report, name="guard-report")
    bench = App(name="bench", help="Measure the detectors.")
    bench.command(bench_pairs, name="pairs")
    app.command(bench)
    return app


def _fit(images: str = "", /) -> None:
    """Learn what normal images look like; `recondite fit --help` lists the flags."""


def _fit_with_flags(tokens: Sequence[str]) -> Any:
    from recondite.detectors import detector_class
    from recondite.options import TrainingOptions
    from recondite.training.presets import get_preset

    preset = _value_of("--preset", tokens)
    name = _value_of("--detector", tokens) or (get_preset(preset).detector if preset else DEFAULT_DETECTOR)
    # The score is a flag of the command itself, which takes more than the detector's own errors.
    own = _flags(f"{name} flags", detector_class(name).Options, without=("score",))
    training = _flags("training flags", TrainingOptions, defaults=detector_class(name).training_defaults)

    def fit(
        images: str,
        /,
        *,
        output: Output,
        detector: str | None = None,
        preset: str | None = None,
        score: str | None = None,
        alpha: float = 0.05,
        confidence: float | None = None,
        guarantee: Literal["exact", "simes", "dkwm", "monte-carlo"] = "exact",
        image_size: str | None = None,
        validation: str = "0.1",
        evidence: str = "0.1",
        calibration: str = "0.2",
        by_folder: Annotated[bool, Parameter(negative="")] = False,
        reencoding: Annotated[bool, Parameter(negative="")] = False,
        on_bad: OnBad = "flag",
        resume: Annotated[bool, Parameter(negative="")] = False,
        workers: Annotated[int | None, Parameter(group=_CLUSTER)] = None,
        cluster: Annotated[str, Parameter(group=_CLUSTER)] = "local",
        worker_cpus: Annotated[int, Parameter(group=_CLUSTER)] = 1,
        worker_gpus: Annotated[int, Parameter(group=_CLUSTER)] = 0,
        options: Annotated[Any, Parameter(name="*", group=f"Options of detector {name}")] = None,
        training: Annotated[Any, Parameter(name="*", group="Options of training")] = None,
    ) -> None:
        """Learn what normal images look like and write a screen.

        Parameters
        ----------
        images
            Folder, file, glob, .npy, .npz or data set (mnist, cifar10/train:cat,dog) of normal images.
        output
            Folder of the screen to write.
        detector
            See `recondite detectors`; its own flags are listed below.
        preset
            A recipe; see `recondite detectors`.
        score
            What images are judged by: auto (the default: the rarest of error and evidence), error, evidence, one of
            the detector's own errors ({errors}), or one statistic of the evidence.
        alpha
            Share of normal images that may be flagged.
        confidence
            Let that share hold for this very calibration set with this probability (0.95, say).
        guarantee
            What is meant by confidence: exact for one alpha, the others for every alpha at once.
        image_size
            Pixels a side (32), or height x width (24x32).
        validation
            Share of the images, or other normal images, to choose the best epoch by.
        evidence
            Share of the images, or other normal images, to learn the statistics of normal images from.
        calibration
            Share of the images, or other normal images, to set the threshold by.
        by_folder
            Calibrate each sub-folder on its own.
        reencoding
            Evidence also looks at the reconstruction encoded again; a better judge that takes longer.
        on_bad
            Unreadable images: flag and skip leave them out and list them, raise stops.
        resume
            Go on where an interrupted fit of the same screen stopped.
        workers
            Fit with so many processes of a cluster (Ray), which share the work; see docs/clusters.md.
        cluster
            local starts one of this machine alone; auto, HOST:PORT or ray://HOST:PORT name one that runs. All its
            machines must share the folder that the screen is written to.
        worker_cpus
            CPUs, and threads, of each worker.
        worker_gpus
            0, or 1 for each worker.
        """
        spread = {"workers": workers, "cluster": cluster, "worker_cpus": worker_cpus, "worker_gpus": worker_gpus}
        if workers is None:
            if spread != {"workers": None, "cluster": "local", "worker_cpus": 1, "worker_gpus": 0}:
                raise InputError("a cluster fits with as many processes as --workers says: give it too")
            spread = {}
        _fit_screen(
            images,
            output,
            spread,
            validation=_share_or_source(validation),
            evidence=_share_or_source(evidence),
            calibration=_share_or_source(calibration),
            image_size=_image_size(image_size),
            resume=resume,
            detector=detector,
            preset=preset,
            score=score,
            reencoding=reencoding,
            alpha=alpha,
            confidence=confidence,
            guarantee=guarantee,
            by_folder=by_folder,
            on_bad=on_bad,
            **{**(options or {}), **(training or {})},
        )

    fit.__doc__ = (fit.__doc__ or "").replace("{errors}", ", ".join(detector_class(name).own_scores()))
    fit.__annotations__["options"] = Annotated[own, Parameter(name="*", group=f"Options of detector {name}")]
    fit.__annotations__["training"] = Annotated[training, Parameter(name="*", group="Options of training")]
    return fit


def _fit_screen(images: str, output: Path, spread: Mapping[str, Any], **settings: Any) -> None:
    """Fit and write a screen; `spread` says how on a cluster, and is empty for this process alone."""
    import shutil

    from recondite.data.artifacts import check_target
    from recondite.screen.fit import fit
    from recondite.training.logs import TENSORBOARD

    output = Path(os.path.abspath(output))
    check_target(output)
    run_folder = output.with_name(f"{output.name}.run")
    run_folder.mkdir(parents=True, exist_ok=True)
    try:
        if spread:
            from recondite.cluster.fit import fit_on_cluster

            screen = fit_on_cluster(images, run_folder=run_folder, progress=True, **spread, **settings)
        else:
            screen = fit(images, run_folder=run_folder, progress=True, **settings)
    finally:
        with suppress(OSError):
            run_folder.rmdir()  # empty where training never began
    if os.environ.get("RANK", "0") != "0":
        return
    logs = {file.name: file.read_text(encoding="utf-8") for file in sorted(run_folder.glob("*.csv"))}
    screen.save(output, texts=logs)
    if not (run_folder / TENSORBOARD).exists():
        shutil.rmtree(run_folder, ignore_errors=True)
    for name, error in screen.facts["unreadable"]["first"][:_LINES_OF_BAD_FILES]:
        print(f"left out: {name}: {error}", file=sys.stderr)
    count = screen.facts["unreadable"]["count"]
    if count > _LINES_OF_BAD_FILES:
        print(f"left out: {count} unreadable images in all; see {output}/manifest.json", file=sys.stderr)
    print_table(_screen_rows(screen), title=str(output))
    print(f"\nnext: recondite predict {output} NEW_IMAGES -o verdicts.csv --report report.html")


def _study() -> None:
    """Look closely at a screen, or train many detectors and compare them; `recondite study --help` lists them."""


def _studies(tokens: Sequence[str]) -> App:
    """Return the studies as commands, with the flags of the detectors named."""
    from recondite.cli.study import add_studies
    from recondite.detectors import detector_class
    from recondite.options import TrainingOptions

    names = (_value_of("--detector", tokens) or "alad").split(",")
    kinds = [detector_class(name) for name in names]
    defaults = kinds[0].training_defaults if len(kinds) == 1 else {}

    def one_class(
        dataset: str,
        /,
        *,
        output: Output,
        normal: str = "all",
        detector: str = "alad",
        seeds: int = 1,
        protocol: Literal["pooled", "official"] = "pooled",
        validation: float = 0.25,
        image_size: str | None = None,
        cluster: Annotated[str | None, Parameter(group=_CLUSTER)] = None,
        run_cpus: Annotated[int, Parameter(group=_CLUSTER)] = 1,
        run_gpus: Annotated[float, Parameter(group=_CLUSTER)] = 0.0,
        options: Annotated[Any, Parameter(name="*")] = None,
        training: Annotated[Any, Parameter(name="*")] = None,
    ) -> None:
        """Let each class in turn be normal and measure how well every score tells the others.

        Run again after an interruption, it goes on where it stopped.

        Parameters
        ----------
        dataset
            Name of a data set (cifar10), or a folder with a sub-folder for each class.
        output
            Folder for table.csv, runs.csv, study.html and the runs.
        normal
            Classes joined by commas, or all.
        detector
            Detectors joined by commas; their own flags are listed below.
        seeds
            How many runs of each, with seeds 0, 1, ...
        protocol
            pooled: a fifth of all images is the test, at random; official: the data set's own split.
        validation
            Share of the normal training images that choose the best epoch.
        image_size
            Pixels a side (32); by default the images' own, if that is at most 64.
        cluster
            Let the runs be tasks of a cluster (Ray), many at once: local, auto, HOST:PORT or ray://HOST:PORT. Its
            machines must share the output folder; see docs/clusters.md.
        run_cpus
            CPUs, and threads, of each run.
        run_gpus
            GPUs of each run.
        """
        from recondite.studies.training.one_class import one_class_study
        from recondite.studies.training.parallel import Spread

        rows = one_class_study(
            dataset,
            output,
            normal=normal,
            detectors=detector.split(","),
            seeds=seeds,
            protocol=protocol,
            validation=validation,
            image_size=_image_size(image_size),
            spread=None if cluster is None else Spread(cluster=cluster, run_cpus=run_cpus, run_gpus=run_gpus),
            progress=True,
            **{**(options or {}), **(training or {})},
        )
        columns = [("normal", "detector", "score", "AUROC", "95 % interval", "seeds")]
        print_table(
            columns
            + [
                (
                    *(row["normal"], row["detector"] or "baseline", row["score"], f"{row['auroc']:.3f}"),
                    *(f"{row['low']:.3f} to {row['high']:.3f}", str(row["seeds"])),
                )
                for row in rows
            ],
            title=f"{dataset}, {protocol}",
            header=True,
        )
        print(f"page: {output / 'study.html'}")

    def latent_size(
        dataset: str,
        /,
        *,
        output: Output,
        normal: str,
        sizes: str = "100,300,500,800",
        detector: str = "alad",
        seeds: int = 1,
        protocol: Literal["pooled", "official"] = "pooled",
        validation: float = 0.25,
        image_size: str | None = None,
        cluster: Annotated[str | None, Parameter(group=_CLUSTER)] = None,
        run_cpus: Annotated[int, Parameter(group=_CLUSTER)] = 1,
        run_gpus: Annotated[float, Parameter(group=_CLUSTER)] = 0.0,
        options: Annotated[Any, Parameter(name="*")] = None,
        training: Annotated[Any, Parameter(name="*")] = None,
    ) -> None:
        """Measure errors and AUROC of one detector against the size of its latent.

        Run again after an interruption, it goes on where it stopped.

        Parameters
        ----------
        dataset
            Name of a data set (birds64), or a folder with a sub-folder for each class.
        output
            Folder for table.csv, study.html and the runs.
        normal
            The class that is normal.
        sizes
            Latent sizes joined by commas.
        detector
            One detector; its own flags are listed below.
        seeds
            How many runs of each, with seeds 0, 1, ...
        protocol
            pooled: a fifth of all images is the test, at random; official: the data set's own split.
        validation
            Share of the normal training images that choose the best epoch.
        image_size
            Pixels a side (64); by default the images' own, if that is at most 64.
        cluster
            Let the runs be tasks of a cluster (Ray), many at once: local, auto, HOST:PORT or ray://HOST:PORT. Its
            machines must share the output folder; see docs/clusters.md.
        run_cpus
            CPUs, and threads, of each run.
        run_gpus
            GPUs of each run.
        """
        from recondite.studies.training.latent_size import latent_size_study
        from recondite.studies.training.parallel import Spread

        rows = latent_size_study(
            dataset,
            output,
            normal=normal,
            sizes=_whole_numbers("--sizes", sizes),
            detector=detector,
            seeds=seeds,
            protocol=protocol,
            validation=validation,
            image_size=_image_size(image_size),
            spread=None if cluster is None else Spread(cluster=cluster, run_cpus=run_cpus, run_gpus=run_gpus),
            progress=True,
            **{**(options or {}), **(training or {})},
        )
        columns = [("latent", "score", "mean, normal", "mean, anomalous", "AUROC", "95 % interval")]
        print_table(
            columns
            + [
                (
                    *(str(row["latent_size"]), row["score"], f"{row['normal_mean']:.4g}"),
                    *(f"{row['anomalous_mean']:.4g}", f"{row['auroc']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}"),
                )
                for row in rows
            ],
            title=f"{dataset}, {normal} is normal",
            header=True,
        )
        print(f"page: {output / 'study.html'}")

    def grid(
        dataset: str,
        /,
        *,
        output: Output,
        normal: str,
        vary: Annotated[Sequence[str], Parameter(negative="")],
        detector: str = "alad",
        seeds: int = 1,
        protocol: Literal["pooled", "official"] = "pooled",
        validation: float = 0.25,
        image_size: str | None = None,
        cluster: Annotated[str | None, Parameter(group=_CLUSTER)] = None,
        run_cpus: Annotated[int, Parameter(group=_CLUSTER)] = 1,
        run_gpus: Annotated[float, Parameter(group=_CLUSTER)] = 0.0,
        options: Annotated[Any, Parameter(name="*")] = None,
        training: Annotated[Any, Parameter(name="*")] = None,
    ) -> None:
        """Train one detector with every combination of some options.

        Run again after an interruption, it goes on where it stopped.

        Parameters
        ----------
        dataset
            Name of a data set (cifar10), or a folder with a sub-folder for each class.
        output
            Folder for table.csv, study.html and the runs.
        normal
            The class that is normal.
        vary
            An option and its values, such as learning-rate=0.001,0.002; give several for all combinations.
        detector
            One detector; its own flags are listed below.
        seeds
            How many runs of each, with seeds 0, 1, ...
        protocol
            pooled: a fifth of all images is the test, at random; official: the data set's own split.
        validation
            Share of the normal training images that choose the best epoch.
        image_size
            Pixels a side (32); by default the images' own, if that is at most 64.
        cluster
            Let the runs be tasks of a cluster (Ray), many at once: local, auto, HOST:PORT or ray://HOST:PORT. Its
            machines must share the output folder; see docs/clusters.md.
        run_cpus
            CPUs, and threads, of each run.
        run_gpus
            GPUs of each run.
        """
        from recondite.studies.training.grid import grid_study
        from recondite.studies.training.parallel import Spread

        rows = grid_study(
            dataset,
            output,
            normal=normal,
            vary=_varied(vary),
            detector=detector,
            seeds=seeds,
            protocol=protocol,
            validation=validation,
            image_size=_image_size(image_size),
            spread=None if cluster is None else Spread(cluster=cluster, run_cpus=run_cpus, run_gpus=run_gpus),
            progress=True,
            **{**(options or {}), **(training or {})},
        )
        cells = [tuple(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()) for row in rows]
        print_table([tuple(rows[0]), *cells], title=f"{dataset}, {normal} is normal", header=True)
        print(f"page: {output / 'study.html'}")

    studies = App(name="study", help="Look closely at a screen, or train many detectors and compare them.")
    commands = ((one_class, _NOT_IN_STUDIES), (latent_size, {*_NOT_IN_STUDIES, "latent_size"}), (grid, _NOT_IN_STUDIES))
    for command, without in commands:
        own = _flags("detector flags", *(kind.Options for kind in kinds), without=without)
        trained = _flags("training flags", TrainingOptions, defaults=defaults, without=without)
        group = f"Options of {', '.join(names)}"
        command.__annotations__["options"] = Annotated[own, Parameter(name="*", group=group)]
        command.__annotations__["training"] = Annotated[trained, Parameter(name="*", group="Options of training")]
        studies.command(command)
    add_studies(studies)
    return studies


def _varied(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return option -> values from texts such as learning-rate=0.001,0.002."""
    varied: dict[str, list[str]] = {}
    for text in texts:
        name, given, values = text.partition("=")
        if not given or not values or name.replace("-", "_") in varied:
            raise InputError(f"expected --vary OPTION=VALUE,VALUE once for each option; got {text!r}")
        varied[name.replace("-", "_")] = values.split(",")
    return varied


def predict(
    screen: str,
    images: str,
    /,
    *,
    output: Output,
    report: Path | None = None,
    maps: Path | None = None,
    fdr: float | None = None,
    score: str | None = None,
    alpha: float | None = None,
    confidence: float | None = None,
    group: str | None = None,
    statistics: Annotated[bool, Parameter(negative="")] = False,
    on_bad: OnBad = "flag",
    device: str = "cpu",
    cluster: str | None = None,
    workers: int | None = None,
    threads: int = 1,
    worker_cpus: float | None = None,
    worker_gpus: float = 0.0,
    part_size: int = 2000,
) -> None:
    """Judge images and write one row each.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote, the name of a ready screen (digits), or hf://ORG/NAME[@REVISION].
    images
        Folder, file, glob, .npy, .npz, data set or s3:// address; with --cluster also tars (webdataset) and Parquet
        files with the bytes of images.
    output
        Table to write: .csv, .jsonl or .parquet; with --cluster a folder of such tables.
    report
        HTML file to write, with figures and pictures.
    maps
        Folder for a heat map of each image.
    fdr
        Control the false-discovery rate over this batch at this level instead of the false-alarm rate.
    score
        Another score than the screen's: error, evidence, auto or a statistic; `recondite info` lists them.
    alpha
        Another false-alarm rate than the screen's.
    confidence
        Let the rate hold for this calibration set with this probability.
    group
        Which group's calibration holds for all of them, where folders do not tell.
    statistics
        Write the statistics that the screen judges by, too; `recondite monitor` says by them what has moved.
    on_bad
        Unreadable images: a flagged row, no row, or an error.
    device
        cpu or cuda; with --cluster, --worker-gpus decides.
    cluster
        Spread the work with Ray: local (this machine), auto (the cluster that runs here), HOST:PORT or ray://HOST:PORT.
    workers
        With --cluster: processes that judge; by default as many as fit.
    threads
        With --cluster: threads of a worker; scores may differ in the last bits by it.
    worker_cpus
        With --cluster: CPUs that a worker takes, such as .5; by default its threads.
    worker_gpus
        With --cluster: GPUs that a worker takes, such as 1 or .25.
    part_size
        With --cluster: images a part; a part is judged again if its worker dies.
    """
    from recondite.screen.screen import promise
    from recondite.screen.sweep import sweep

    judge = _load(screen, alpha, confidence, device if cluster is None else "cpu", score)
    if cluster is not None:
        from recondite.cli.cluster_command import predict_on_cluster

        if report is not None or maps is not None:
            raise InputError("--report and --maps need all images on one machine; leave them or --cluster out")
        spread = {"workers": workers, "threads": threads, "worker_cpus": worker_cpus, "worker_gpus": worker_gpus}
        rows = {"fdr": fdr, "group": group, "on_bad": on_bad, "statistics": statistics}
        predict_on_cluster(judge, images, output, cluster, {**spread, "part_size": part_size}, **rows)
        return
    result = sweep(
        judge, images, output, fdr=fdr, maps=maps, group=group, on_bad=on_bad, statistics=statistics, progress=True
    )
    verdicts = result.verdicts
    if result.taken_up:
        print(f"took up {result.taken_up:,} scores of an interrupted sweep", file=sys.stderr)
    counts = verdicts.counts()
    print(f"{len(verdicts):,} images: " + ", ".join(f"{count:,} {word}" for word, count in counts.items()))
    print(promise(judge, fdr))
    print(f"table:  {output}")
    if report is not None:
        from recondite.reports.report import write_report  # matplotlib takes a while

        write_report(report, judge, verdicts, result.images)
        print(f"report: {report}")


def evaluate(
    screen: str,
    /,
    *,
    inliers: str,
    outliers: str,
    truth: Path | None = None,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    score: str | None = None,
    alpha: float | None = None,
    confidence: float | None = None,
    group: str | None = None,
    device: str = "cpu",
) -> None:
    """Measure a screen on normal images and on outliers that it has never seen.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote, the name of a ready screen (digits), or hf://ORG/NAME[@REVISION].
    inliers
        Normal images (of an MVTec-style folder: test/good).
    outliers
        Images that do not belong (of an MVTec-style folder: the rest of test).
    truth
        Folder of masks (of an MVTec-style folder: ground_truth), to measure how well defects are located.
    output
        Table to write: .csv, .jsonl or .parquet.
    score
        Another score than the screen's: error, evidence, auto or a statistic; `recondite info` lists them.
    alpha
        Another false-alarm rate than the screen's.
    confidence
        Let the rate hold for this calibration set with this probability.
    group
        Which group's calibration holds for all of them, where folders do not tell.
    device
        cpu or cuda.
    """
    from recondite.data.tables import check_table_path, write_table
    from recondite.reports.evaluation import evaluate as measure

    if output is not None:
        check_table_path(output)
    judge = _load(screen, alpha, confidence, device, score)
    rows = measure(judge, inliers, outliers, group=group, progress=True)
    if truth is not None:
        from recondite.reports.evaluation import localisation

        rows += localisation(judge, inliers, outliers, truth, progress=True)
    print_table(
        [(row["measure"], row["value"], row["note"]) for row in rows], title=f"{screen} on {inliers}, {outliers}"
    )
    if output is not None:
        write_table(output, rows)


def show(screen: str, image: str, /, *, output: Output, group: str | None = None, device: str = "cpu") -> None:
    """Draw one image, its reconstruction and their difference, with the verdict in words.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote, the name of a ready screen (digits), or hf://ORG/NAME[@REVISION].
    image
        An image file.
    output
        Picture to write: .png, .svg or .pdf.
    group
        Which group's calibration holds for it.
    device
        cpu or cuda.
    """
    from recondite.reports.explanation import draw, in_words

    judge = _load(screen, None, None, device)
    verdicts = draw(judge, image, output, group)
    print(in_words(judge, verdicts))
    print(f"picture: {output}")


def sample(
    screen: str,
    /,
    *,
    output: Output,
    count: Annotated[int, Parameter(alias="-n")] = 64,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Draw new images that a screen's detector makes from random latents.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote, the name of a ready screen (digits), or hf://ORG/NAME[@REVISION].
    output
        Picture to write: .png.
    count
        How many images.
    seed
        Of the latents.
    device
        cpu or cuda.
    """
    from recondite.reports.explanation import draw_samples, latents_in_words

    judge = _load(screen, None, None, device)
    draw_samples(judge, output, count, seed=seed)
    print(f"picture: {output} ({count} images; {latents_in_words(judge.detector)})")


def monitor(
    screen: str,
    events: str,
    /,
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    report: Path | None = None,
    state: Path | None = None,
    false_alarm: float = 0.01,
    window: int = 200,
    score: str | None = None,
    confidence: float | None = None,
    group: str | None = None,
    seed: int = 0,
) -> None:
    """Tell whether the images of a table of verdicts, oldest first, have stopped being like the calibration images.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote.
    events
        Table that `recondite predict` wrote, .csv, .jsonl or .parquet, its rows in the order of time; or the store of
        `recondite serve`: sqlite:///events.db?screen=NAME&version=VERSION, or an address of Postgres.
    output
        Table to write, of what moved: .csv, .jsonl or .parquet.
    report
        HTML file to write, with figures.
    state
        File that keeps the monitor from one table to the next; taken up if it is there.
    false_alarm
        Chance of an alarm without any change, over the whole stream.
    window
        How many recent images tell what moved.
    score
        The score that the table was made with, if not the screen's.
    confidence
        The confidence that the table was made with, if not the screen's.
    group
        Which group's calibration holds for all of them, where the ids do not tell.
    seed
        Of the random numbers that break ties.
    """
    from recondite.data.tables import check_table_path, write_table
    from recondite.reports.drift import moved_rows, watch, write_drift_page

    if output is not None:
        check_table_path(output)
    _look_back(events)
    judge = _load(screen, None, confidence, "cpu", score)
    drift = watch(judge, events, false_alarm=false_alarm, window=window, seed=seed, group=group, state=state)
    print(drift.in_words())
    if drift.moved:
        columns = [("statistic", "moved", "shift (std)", "difference", "p-value")]
        print_table(
            columns
            + [
                (
                    one.words,
                    "yes" if one.moved else "no",
                    f"{one.shift:+.2f}",
                    f"{one.distance:.3f}",
                    f"{one.p_value:.2g}",
                )
                for one in drift.moved
            ],
            title="recent images beside the calibration images",
            header=True,
        )
    if output is not None:
        write_table(output, moved_rows(drift.moved))
        print(f"table:  {output}")
    if report is not None:
        write_drift_page(report, drift, judge)
        print(f"report: {report}")


def recalibrate(
    screen: str,
    events: str,
    /,
    *,
    output: Output,
    images: str | None = None,
    unlabelled: Literal["leave-out", "inlier"] = "leave-out",
    keep: Annotated[bool, Parameter(negative="")] = False,
    report: Path | None = None,
    group: str | None = None,
    kept: Path | None = None,
    confirmed: Path | None = None,
) -> None:
    """Set the threshold anew from verdicts that people labelled; nothing is fitted again.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote.
    events
        Table that `recondite predict --statistics` wrote, with a column label: inlier, outlier, skip or empty; or the
        store of `recondite serve`: sqlite:///events.db?screen=NAME&version=VERSION, or an address of Postgres.
    output
        Folder of the new screen.
    images
        Where the labelled images are, to score them again; by default the scores in the table are taken.
    unlabelled
        What images without a label are: left out, or inliers too.
    keep
        Add to the calibration images of before instead of replacing them.
    report
        HTML file to write, with before and after.
    group
        The group of all of them, where the ids do not tell.
    kept
        Folder in which `recondite serve` kept images.
    confirmed
        Folder to copy those images into that were labelled inlier, to fit a new screen with: recondite fit.
    """
    from recondite.data.artifacts import check_target
    from recondite.reports.recalibration import recalibrate as calibrate
    from recondite.reports.recalibration import write_recalibration_page

    if (kept is None) != (confirmed is None):
        raise InputError("--confirmed is where the images of --kept are copied to: give both or neither")
    check_target(Path(os.path.abspath(output)))
    _look_back(events)
    judge = _load(screen, None, None, "cpu")
    result = calibrate(judge, events, images=images, unlabelled=unlabelled, keep=keep, group=group)
    result.after.save(output)
    print_table(
        [("measure", "before", "after"), *(tuple(row.values()) for row in result.table)],
        title=f"{screen} calibrated on {events}",
        header=True,
    )
    print(f"screen: {output}")
    if report is not None:
        write_recalibration_page(report, result, f"{Path(screen).name}, calibrated anew")
        print(f"report: {report}")
    if kept is not None and confirmed is not None:
        from recondite.service.engine.feedback import write_confirmed

        print(f"confirmed: {confirmed} ({write_confirmed(events, kept, confirmed):,} images)")


def _look_back(events: str) -> None:
    """Let the address of a service's store stand for a table of verdicts."""
    if "://" in events:
        try:
            from recondite.service.engine.feedback import register
        except ImportError as error:
            raise InputError(
                "the store of a service needs the extra 'serve': pip install 'recondite[serve]'"
            ) from error
        register()


def guard_report(
    screen: str,
    /,
    *,
    inliers: str,
    outliers: str,
    inlier_outputs: Path,
    outlier_outputs: Path,
    output: Output,
    calibration: str | None = None,
    calibration_outputs: Path | None = None,
    reference_outputs: Path | None = None,
    score: str | None = None,
    alpha: float | None = None,
) -> None:
    """Measure the screen in front of a classifier, beside the classifier's own confidence and features.

    A classifier's outputs are a .npz, .safetensors or .csv file of logits, with ids, labels (the true classes, as
    numbers) and features where there are any; no code of yours is run.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote.
    inliers
        Normal test images, or a table of verdicts on them.
    outliers
        Images that do not belong, or a table of verdicts on them.
    inlier_outputs
        What the classifier gave for the inliers.
    outlier_outputs
        What the classifier gave for the outliers.
    output
        Folder for report.html, table.csv and curves.csv.
    calibration
        Other normal images (or verdicts), to combine the screen with the classifier's confidence and features.
    calibration_outputs
        What the classifier gave for them.
    reference_outputs
        Outputs with features of normal images, such as the training images, for the distance to neighbours.
    score
        Another score than the screen's.
    alpha
        Share of the inliers that may be turned away.
    """
    from recondite.reports.guard_report import guard_report as measure
    from recondite.reports.guard_report import scores_of, table_cells, write_guard_report
    from recondite.screen.classifier_outputs import read_outputs

    if (calibration is None) != (calibration_outputs is None):
        raise InputError("--calibration and --calibration-outputs belong together")
    judge = _load(screen, alpha, None, "cpu", score)
    outputs = [read_outputs(path) for path in (inlier_outputs, outlier_outputs)]
    report = measure(
        judge,
        scores_of(judge, inliers),
        scores_of(judge, outliers),
        *outputs,
        calibration=None
        if calibration is None or calibration_outputs is None
        else (scores_of(judge, calibration), read_outputs(calibration_outputs)),
        reference=None if reference_outputs is None else read_outputs(reference_outputs),
    )
    columns = (
        "rule",
        "foreign",
        "AURC",
        "AUGRC",
        "cover. 5 %",
        "good lost",
        "outl. acc.",
        "labels outl.",
        "acc.",
        "risk",
    )
    print_table([columns, *(table_cells(row) for row in report.rows)], title=report.facts, header=True)
    write_guard_report(output, report, f"{Path(screen).name} in front of a classifier")
    print(f"report: {output / 'report.html'}")


def info(screen: str, /, *, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """Tell what a screen is and what it promises.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote, the name of a ready screen (digits), or hf://ORG/NAME[@REVISION].
    as_json
        Print the facts as JSON.
    """
    from recondite.reports.evaluation import rule_rows

    judge = _load(screen, None, None, "cpu")
    if as_json:
        print(json.dumps(judge.to_json(), indent=1))
        return
    print_table(_screen_rows(judge), title=str(screen))
    print_table(
        [(row["rule"], f"{row['threshold']:.6g}", row["rate"]) for row in rule_rows(judge, judge.calibrator.scores)],
        title="threshold rules and the share of calibration images they flag",
    )


def push(
    screen: str,
    address: str,
    /,
    *,
    private: Annotated[bool, Parameter(negative="")] = False,
    license: str | None = None,  # noqa: A002
) -> None:
    """Put a screen on the Hugging Face hub, with a model card.

    The manifest that is published lists the first unreadable images by name.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote, or the name of a ready screen.
    address
        hf://ORG/NAME.
    private
        Hide a new repository from others.
    license
        Its identifier on the hub (apache-2.0), for the card.
    """
    from recondite.reports.model_card import push as publish

    print(f"published: {publish(screen, address, private=private, license=license)}")


def export(
    screen: str,
    output: Annotated[Path, Parameter(alias="-o")],
    *,
    to: Literal["onnx", "openvino"] = "onnx",
    int8: Annotated[str | None, Parameter(name="--int8")] = None,
    pixels: Literal["float32", "uint8"] = "float32",
) -> None:
    """Write a screen as one graph, from pixels to score, p-value and verdict.

    recondite predict, evaluate and show run the new folder like any other screen, through onnxruntime or OpenVINO.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote.
    output
        Folder for the graph and its manifest.
    to
        Which program's graph: onnx (extra export), or openvino (extra openvino).
    int8
        Normal images that the screen has not learnt from: the network computes with 8-bit integers, and the threshold
        is set anew by them; for openvino.
    pixels
        What the graph takes: float32 in [0, 1], or uint8 for other programs; then images of another size are refused.
    """
    from recondite.screen.export import export_onnx, export_openvino

    if to == "onnx" and int8 is not None:
        raise InputError("--int8 is for --to openvino")
    judge = _load(screen, None, None, "cpu")
    if to == "onnx":
        export_onnx(judge, output, pixels=pixels)
    else:
        export_openvino(judge, output, pixels=pixels, int8=int8, progress=True)
    done = "calibrated anew, by the scores of the graph" if int8 else f"its scores were compared with those of {screen}"
    print(f"exported: {output} ({done})")


def datasets() -> None:
    """List the data sets that can be used by name."""
    from recondite.data.catalog import CATALOG

    rows = [(name, entry.description, ", ".join(entry.splits)) for name, entry in CATALOG.items()]
    print_table(rows, title="data sets: NAME[/SPLIT][:CLASS,CLASS]")
    print("classes: " + "; ".join(f"{name}: {', '.join(entry.classes)}" for name, entry in CATALOG.items()))


def detectors() -> None:
    """List the detectors, the presets and the ready screens."""
    from recondite.detectors import DETECTORS
    from recondite.screen.folder import READY
    from recondite.training.presets import PRESETS

    print_table(
        [(name, (kind.__doc__ or "").partition("\n")[0]) for name, kind in DETECTORS.items()],
        title="detectors (flags: recondite fit --detector NAME --help)",
    )
    rows = [(name, preset.detector, preset.summary) for name, preset in PRESETS.items()]
    print_table(rows, title="presets (recondite fit IMAGES --preset NAME -o SCREEN)")
    print_table([*READY.items()], title="ready screens (recondite predict NAME IMAGES -o verdicts.csv)")


def demo(*, output: Output = Path("demo"), epochs: int | None = None) -> None:
    """Fit a screen on real digits, judge digits, turned digits and textures, and write a report.

    Parameters
    ----------
    output
        Folder for the screen, the table and the report.
    epochs
        Passes over the training images; fewer are faster and worse.
    """
    from recondite.cli.demo import run_demo

    rows, report = run_demo(output, epochs)
    print_table([tuple(rows[0]), *(tuple(row.values()) for row in rows)], title="demo", header=True)
    print(f"report: {report}")


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
    """Let each data set be normal in turn and measure every detector on every kind of outlier at hand.

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
    from recondite.studies.training.pairs import BASELINE, run_pairs

    rows = run_pairs(
        output,
        normals=_names(normal),
        detectors=_names(detector),
        scores=_names(scores),
        outliers=_names(outliers),
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


def _load(path: str, alpha: float | None, confidence: float | None, device: str, score: str | None = None) -> "Screen":
    from recondite.screen.screen import load

    screen = load(path).to(device)
    if score is not None:
        screen = screen.with_score(score)
    if alpha is None and confidence is None:
        return screen
    return screen.with_alpha(screen.alpha if alpha is None else alpha, "keep" if confidence is None else confidence)


def _screen_rows(screen: "Screen") -> list[tuple[str, str]]:
    low, high = screen.false_alarm_interval
    best = screen.detector.history.best_validation
    facts = screen.facts
    return [
        ("detector", screen.detector.name),
        ("image", " x ".join(map(str, screen.detector.shape))),
        ("options", ", ".join(f"{k}={v}" for k, v in vars(screen.detector.options).items() if k[0] != "_")),
        ("judges by", _score_in_words(screen)),
        ("learnt from", f"{facts.get('images', {}).get('images', 0):,} images"),
        ("validation error", "none" if best is None else f"{best:.6g}"),
        (
            "calibrated on",
            ", ".join(f"{size:,} images {group or ''}".strip() for group, size in screen.calibrator.sizes.items()),
        ),
        (
            "alpha",
            f"{screen.alpha:g}"
            + (f" with {100 * screen.confidence:g} % confidence ({screen.guarantee})" if screen.confidence else ""),
        ),
        ("true false-alarm rate", f"{low:.4f} to {high:.4f} (95 % interval)"),
        ("threshold", ", ".join(f"{value:.6g} {group or ''}".strip() for group, value in screen.thresholds.items())),
        ("unreadable images", str(facts.get("unreadable", {}).get("count", 0))),
    ]


def _score_in_words(screen: "Screen") -> str:
    if screen.evidence is None:
        return f"{screen.score} ({screen.detector.options.score})"
    others = ", ".join(name for name in screen.scores if name != screen.score)
    return f"{screen.score}; its error is {screen.detector.options.score}; --score also takes {others}"


def _flags(title: str, *kinds: type, defaults: Mapping[str, Any] | None = None, without: Collection[str] = ()) -> Any:
    """Return a TypedDict of kinds of options: only the flags that were given reach the call."""
    from recondite.options import describe_options

    fields = {}
    for name, (hint, text, default) in (item for kind in kinds for item in describe_options(kind, defaults).items()):
        shown = "none" if default in (None, "") else f"{default:g}" if isinstance(default, float) else str(default)
        if name not in without:
            fields[name] = Annotated[hint, Parameter(help=f"{text} [default: {shown}]", negative_none="")]
    return TypedDict(title.replace(" ", "_"), fields, total=False)  # type: ignore[operator]


def _value_of(flag: str, tokens: Sequence[str]) -> str | None:
    for index, token in enumerate(tokens):
        if token == flag and index + 1 < len(tokens):
            return tokens[index + 1]
        if token.startswith(f"{flag}="):
            return token.partition("=")[2]
    return None


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _whole_numbers(flag: str, text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"expected {flag} as whole numbers joined by commas; got {text!r}")
    return [int(part) for part in parts]


def _share_or_source(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _image_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise InputError(f"expected --image-size 32 or 24x32 (height x width); got {text!r}")
    return int(sides[0]), int(sides[-1])


if __name__ == "__main__":
    sys.exit(main())

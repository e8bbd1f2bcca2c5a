"""recondite predict, evaluate, show, sample."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from recondite.cli.console import print_table, stream_beside
from recondite.cli.flags import (
    CLUSTER_GROUP,
    Alpha,
    Confidence,
    Device,
    Group,
    OnBad,
    Output,
    Rate,
    Score,
    ScreenFolder,
    Statistics,
    at_rate,
    check_cluster_flags,
    check_flags_count,
    load_screen,
)
from recondite.errors import InputError
from recondite.progress import counted

if TYPE_CHECKING:
    from recondite.screen.fastest import RuntimeChoice
    from recondite.screen.screen import Screen


def predict(
    screen: ScreenFolder,
    images: str,
    /,
    *,
    output: Output,
    region: Path | None = None,
    report: Path | None = None,
    maps: Path | None = None,
    manifest: Path | None = None,
    fdr: Rate | None = None,
    score: Score = None,
    alpha: Alpha = None,
    confidence: Confidence = None,
    group: Group = None,
    statistics: Statistics = False,
    on_bad: OnBad = "flag",
    device: str = "cpu",
    runtime: Literal["torch", "auto", "onnxruntime", "openvino"] = "torch",
    cluster: Annotated[str | None, Parameter(group=CLUSTER_GROUP)] = None,
    workers: Annotated[int | None, Parameter(group=CLUSTER_GROUP)] = None,
    threads: Annotated[int, Parameter(group=CLUSTER_GROUP)] = 1,
    worker_cpus: Annotated[float | None, Parameter(group=CLUSTER_GROUP)] = None,
    worker_gpus: Annotated[float, Parameter(group=CLUSTER_GROUP)] = 0.0,
    part_size: Annotated[int, Parameter(group=CLUSTER_GROUP)] = 2000,
) -> None:
    """Judge images and write one row each.

    Parameters
    ----------
    images
        Folder, file, glob, .npy, .npz, manifest (.jsonl), table with a column of paths (.csv, .tsv), data set or
        s3:// address; with --cluster also tars (webdataset) and Parquet files with the bytes of images.
    output
        Table to write: .csv, .jsonl or .parquet, or - for CSV on standard output; with --cluster a folder of tables.
    region
        Folder with one mask per image, for a screen that was fitted with one.
    report
        HTML report to write, with figures and pictures.
    maps
        Folder for a PNG heat map of each image, not among the images.
    manifest
        Manifest to write, for labelling tools: images with verdicts in JSON lines (.jsonl, .ndjson, .manifest).
    fdr
        Control the false-discovery rate of all these images at this level, in (0, 1), instead of the false-alarm rate;
        --alpha and --confidence then only count in a report.
    on_bad
        What to do with unreadable images: flag them in a row, skip them, or raise an error.
    device
        cpu or cuda; with --cluster, --worker-gpus decides.
    runtime
        Program that computes the scores: torch, or a graph of the screen for onnxruntime or openvino, made on first use
        and kept in the cache if it gives the same labels; auto takes the fastest here. Scores then differ from torch's
        in the fourth digit at most.
    cluster
        Judge on a Ray cluster: local (this machine), auto (the cluster that runs here), HOST:PORT or ray://HOST:PORT.
    workers
        With --cluster: number of worker processes; by default as many as fit.
    threads
        With --cluster: threads per worker; scores may differ by it in the last bits.
    worker_cpus
        With --cluster: CPUs reserved per worker, such as .5; by default its threads.
    worker_gpus
        With --cluster: GPUs reserved per worker, such as 1 or .25.
    part_size
        With --cluster: images per part; a part is judged again if its worker dies.
    """
    from recondite.data.outputs import check_outputs
    from recondite.data.tables import check_table_path
    from recondite.statistics.scores import check_rate

    sharing = {"workers": workers, "threads": threads, "worker_cpus": worker_cpus, "worker_gpus": worker_gpus}
    sharing |= {"part_size": part_size}
    defaults = predict.__kwdefaults__
    check_cluster_flags(cluster, defaults, **sharing)
    by_workers = "on a cluster, where --worker-gpus decides: leave it out"
    check_flags_count(cluster is None, by_workers, defaults, device=device)
    by_fdr = "with --fdr, which decides alone but in a --report"
    check_flags_count(fdr is None or report is not None, by_fdr, defaults, alpha=alpha, confidence=confidence)
    if cluster is None:
        check_table_path(output)
        files = {"-o": output, "--report": report, "--manifest": manifest}
        check_outputs(files, {"--maps": maps}, inputs=[images], images=images)
    elif report is not None or maps is not None or manifest is not None:
        raise InputError("--report, --maps and --manifest need all images on one machine; leave them or --cluster out")
    elif region is not None:
        raise InputError("a cluster judges no images with masks of their own: leave --region or --cluster out")
    else:
        check_outputs({}, {"-o": output}, images=images)
    if fdr is not None:
        check_rate(fdr)
    if runtime != "torch" and (score or statistics or region or cluster or device != "cpu"):
        raise InputError(
            "a graph has one score and runs on the processor: leave --runtime out, or --score, --statistics, --region, "
            "--cluster and --device"
        )
    if runtime == "torch":
        judge = load_screen(screen, alpha, confidence, device if cluster is None else "cpu", score, sources=[images])
    else:
        judge = load_fastest(screen, images, runtime, alpha, confidence)
    from recondite.screen.promise import promise
    from recondite.screen.sweep import sweep

    if cluster is not None:
        rows = {"fdr": fdr, "group": group, "on_bad": on_bad, "statistics": statistics}
        predict_on_cluster(judge, images, output, cluster, sharing, **rows)
        return
    result = sweep(
        judge,
        images,
        output,
        region=region,
        fdr=fdr,
        maps=maps,
        manifest=manifest,
        group=group,
        on_bad=on_bad,
        statistics=statistics,
        progress=True,
    )
    verdicts = result.verdicts
    if result.taken_up:
        print(f"took up {counted(result.taken_up, 'score')} of an interrupted sweep", file=sys.stderr)
    for remark in result.remarks:
        print(f"warning: {remark}", file=sys.stderr)
    counts = verdicts.counts()
    told = stream_beside(output)
    words = ", ".join(f"{count:,} {word}" for word, count in counts.items())
    print(f"{counted(len(verdicts), 'image')}: {words}", file=told)
    print(promise(judge, fdr), file=told)
    if runtime != "torch":
        print(f"judged by {runtime_in_words(judge)}", file=told)
    print(f"table:  {output}", file=told)
    if report is not None:
        from recondite.reports.report import write_report  # matplotlib takes a while

        write_report(report, judge, verdicts, result.images, remarks=result.remarks)
        print(f"report: {report}", file=told)


def load_fastest(
    screen: str, images: str, runtime: "RuntimeChoice", alpha: float | None, confidence: float | None
) -> "Screen":
    """Load a screen that is judged by another program than torch where that pays; see `fastest`."""
    from recondite.data.datasets import check_source
    from recondite.screen.fastest import fastest
    from recondite.statistics.calibration import check_promise

    check_promise(alpha, confidence)
    check_source(images)
    return at_rate(fastest(screen, images, runtime), alpha, confidence)


def runtime_in_words(screen: "Screen") -> str:
    """Say what judges, how fast that and others were, and why others were refused."""
    from recondite.screen.fastest import JUDGED_BY

    facts = screen.facts[JUDGED_BY]
    times = ", ".join(f"{name} {value:.3g}" for name, value in facts["milliseconds"].items())
    refused = "".join(f"; not by {name}: {reason}" for name, reason in facts["refused"].items())
    return f"{facts['runtime']} (ms an image: {times}){refused}"


def evaluate(
    screen: ScreenFolder,
    /,
    inliers: str,
    outliers: str,
    *,
    truth: Path | None = None,
    region: Path | None = None,
    group_by: str = "copies",
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    score: Score = None,
    alpha: Alpha = None,
    confidence: Confidence = None,
    group: Group = None,
    device: Device = "cpu",
) -> None:
    """Measure a screen on normal images and on outliers that it has never seen.

    Parameters
    ----------
    inliers
        Normal images (of an MVTec-style folder: test/good; of a flat one, good beside bad: good).
    outliers
        Images that do not belong (of an MVTec-style folder: the rest of test; of a flat one: all but good and masks).
    truth
        Folder of masks (of an MVTec-style folder: ground_truth), to measure how well defects are located.
    region
        Folder with one mask per image, for a screen that was fitted with one.
    group_by
        What tells images that belong together, as of `recondite fit`: intervals then count no image for more than it
        tells. With none, each image counts.
    output
        Table to write: .csv, .jsonl or .parquet, or - for CSV on standard output.
    """
    from recondite.data.outputs import check_outputs
    from recondite.data.tables import check_table_path, is_stdout, write_table

    if output is not None:
        check_table_path(output)
        check_outputs({"-o": output}, inputs=[inliers, outliers])
    judge = load_screen(screen, alpha, confidence, device, score, sources=[inliers, outliers])
    from recondite.reports.evaluation import evaluate as measure
    from recondite.reports.evaluation import localisation

    located = []
    if truth is not None:  # first, as masks may be missing
        located = localisation(judge, inliers, outliers, truth, region=region, group_by=group_by, progress=True)
    rows = measure(judge, inliers, outliers, region=region, group=group, group_by=group_by, progress=True) + located
    if output is None or not is_stdout(output):
        print_table(
            [(row["measure"], row["value"], row["note"]) for row in rows], title=f"{screen} on {inliers}, {outliers}"
        )
    if output is not None:
        write_table(output, rows)


def show(
    screen: ScreenFolder,
    image: str,
    /,
    *,
    output: Output,
    region: Path | None = None,
    group: str | None = None,
    device: Device = "cpu",
) -> None:
    """Explain one image: draw it, its reconstruction and their difference, with the verdict in words.

    Parameters
    ----------
    image
        An image file.
    output
        Picture to write: .png, .svg or .pdf; the first two not beside the image.
    region
        Folder with the image's mask, for a screen that was fitted with one mask per image.
    group
        Group whose calibration holds for it.
    """
    from recondite.data.outputs import check_outputs, check_picture

    check_picture(output)
    check_outputs({"-o": output}, inputs=[image], images=Path(image).parent if Path(image).is_file() else image)
    judge = load_screen(screen, None, None, device, sources=[image])
    from recondite.reports.explanation import draw, in_words

    verdicts = draw(judge, image, output, group, region=region)
    print(in_words(judge, verdicts, group or ""))
    print(f"picture: {output}")


def sample(
    screen: ScreenFolder,
    /,
    *,
    output: Output,
    count: Annotated[int, Parameter(alias="-n")] = 64,
    seed: int = 0,
    device: Device = "cpu",
) -> None:
    """Draw new images that a screen's detector makes from random latents.

    Parameters
    ----------
    output
        Picture to write: .png.
    count
        Number of images.
    seed
        Random seed of the latents.
    """
    from recondite.data.outputs import check_outputs, check_picture

    check_picture(output, (".png",))
    check_outputs({"-o": output})
    from recondite.reports.explanation import draw_samples, latents_in_words

    judge = load_screen(screen, None, None, device)
    draw_samples(judge, output, count, seed=seed)
    print(f"picture: {output} ({count} images; {latents_in_words(judge.detector)})")


def predict_on_cluster(
    screen: "Screen", images: str, output: Path, cluster: str, workers: Mapping[str, Any], **rows: Any
) -> None:
    """Judge images on a cluster and say what came of it.

    Args:
        screen, images, output, cluster, rows: as in `cluster_sweep`.
        workers: the values of `Workers`.
    """
    from recondite.cluster.parts import MANIFEST
    from recondite.cluster.sweep import Workers, cluster_sweep
    from recondite.options import make_options
    from recondite.screen.promise import promise

    options = make_options(Workers, workers, "--cluster")
    result = cluster_sweep(screen, images, output, cluster=cluster, workers=options, progress=True, **rows)
    if result.taken_up:
        print(f"took up {counted(result.taken_up, 'image')} judged before", file=sys.stderr)
    for remark in result.remarks:
        print(f"warning: {remark}", file=sys.stderr)
    manifest = result.manifest
    counts = ", ".join(f"{count:,} {word}" for word, count in manifest["counts"].items())
    print(f"{counted(manifest['images'], 'image')}, {counted(manifest['rows'], 'row')}: {counts}")
    print(promise(screen, rows.get("fdr")))
    print(f"{counted(manifest['parts'], 'part')}: {output}, proven by {output / MANIFEST}")

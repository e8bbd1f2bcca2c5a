"""Benchmark on data sets of defects: every set, every detector, one table with intervals, time and memory."""

import hashlib
import json
import multiprocessing
import os
import resource
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recondite import __version__
from recondite.data.datasets import open_images
from recondite.data.files import atomic_file
from recondite.data.layouts import masks_of, sets_among, table_of
from recondite.data.listing import Listing, list_folder
from recondite.data.truth import check_truth
from recondite.errors import InputError, ReconditeError
from recondite.progress import counted
from recondite.progress import progress as show
from recondite.reports.evaluation import located_maps
from recondite.reports.figures import plot_aurocs
from recondite.reports.page import TablePage
from recondite.screen.fit import fit
from recondite.statistics import metrics
from recondite.statistics.localisation import localisation_measures
from recondite.studies.output import write_study

DEFAULT_DETECTORS = (
    *("auto", "features:mahalanobis", "features:padim", "features:patchcore", "features:subspace", "features:dfr"),
    *("autoencoder", "pca"),
)
_RUNS = "runs"
_COLUMNS = (
    *(("set", "set"), ("detector", "detector"), ("image AUROC", "auroc"), ("95 % interval", "auroc_low")),
    *(("pixel AUROC", "pixel_auroc"), ("AU-PRO (.3)", "au_pro_30"), ("false alarms", "false_alarms")),
    *(("caught", "caught"), ("fit, s", "fit_seconds"), ("images/s", "images_a_second"), ("MB", "peak_mb")),
)


def bench_defects(
    folders: Sequence[Path],
    output: Path,
    detectors: Sequence[str] = DEFAULT_DETECTORS,
    *,
    seed: int = 0,
    threads: int | None = None,
    progress: bool = False,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Fit every detector on the good images of every set, measure it on its test images, and write a table.

    Each run has a process of its own, whose peak memory is measured. Finished runs in `output` are used again.

    Args:
        folders: data sets of defects, or folders of them; see `recondite.data.layouts`.
        output: the folder for table.csv, study.html, a figure, and the runs.
        detectors: names of detectors or presets; features:METHOD,METHOD for methods of `features`.
        seed: of each fit.
        threads: of each process; as many as torch takes by default.
        progress: show progress on standard error.
        settings: further keyword arguments of `fit`, such as image_size or alpha.

    Returns:
        One row a set and detector: "set", "detector", "chosen", "images", "auroc", "auroc_low", "auroc_high",
        "average_precision", "best_f1", "pixel_auroc", "pixel_average_precision", "au_pro_30", "au_pro_05", "pixel_f1"
        (None without maps or masks), "false_alarms", "caught", "fit_seconds", "images_a_second", "peak_mb", "error".

    Raises:
        InputError: no data set of defects, nothing to fit, or no threads.
    """
    sets = sets_among([Path(folder) for folder in folders])
    names = [root.name for root in sets]
    if not detectors or len(set(names)) < len(names):
        raise InputError(f"expected at least one detector, and sets with different names; got {', '.join(names)}")
    for detector in detectors:
        settings_of(detector)
    if threads is not None and threads < 1:
        raise InputError(f"expected at least one thread; got {threads}")
    rows = []
    with show("runs", len(sets) * len(detectors), progress) as advance:
        for root in sets:
            for detector in detectors:
                advance(0, f"{root.name}, {detector}")
                rows.append(_run_or_read(root, detector, output, seed, threads, settings))
                advance(1, f"{root.name}, {detector}")
                _write(output, rows)
    return rows


def settings_of(detector: str) -> dict[str, Any]:
    """Return the keyword arguments of `fit` that such a name means.

    >>> settings_of("features:padim,patchcore")
    {'detector': 'features', 'methods': ('padim', 'patchcore')}

    Raises:
        InputError: it means nothing.
    """
    from recondite.detectors import detector_class
    from recondite.screen.choose import AUTO_DETECTOR
    from recondite.training.presets import PRESETS

    name, _, methods = detector.partition(":")
    if name in PRESETS and not methods:
        return {"preset": name}
    if name != AUTO_DETECTOR:
        detector_class(name)
    if methods and name != "features":
        raise InputError(f"only features has methods: expected features:{methods}; got {detector!r}")
    return {"detector": name, **({"methods": tuple(methods.split(","))} if methods else {})}


def measured(root: Path, detector: str, seed: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of one set and detector, measured in this process."""
    masks = masks_of(root)
    if masks is not None:
        check_truth(masks, open_images(str(root), role="outliers").ids or ())
    start = time.perf_counter()
    screen = fit(root, seed=seed, **settings_of(detector), **settings)
    fitted = time.perf_counter()
    verdicts = {role: screen.predict(open_images(str(root), role=role)) for role in ("inliers", "outliers")}
    seconds = time.perf_counter() - fitted
    scores = {role: found.instance_score[np.isfinite(found.p_value)] for role, found in verdicts.items()}
    normal, outlying = scores["inliers"], scores["outliers"]
    low, high = metrics.delong_interval(normal, outlying)
    row = {
        "set": root.name,
        "detector": detector,
        "chosen": f"{screen.detector.name} {' x '.join(map(str, screen.detector.shape))}",
        "images": screen.facts["images"]["images"],
        "auroc": metrics.auroc(normal, outlying),
        "auroc_low": low,
        "auroc_high": high,
        "average_precision": metrics.average_precision(normal, outlying),
        "best_f1": metrics.best_f1(normal, outlying)[0],
        **dict.fromkeys(("pixel_auroc", "pixel_average_precision", "au_pro_30", "au_pro_05", "pixel_f1")),
        "false_alarms": float(verdicts["inliers"].is_outlier.mean()),
        "caught": float(verdicts["outliers"].is_outlier.mean()),
        "fit_seconds": fitted - start,
        "images_a_second": sum(map(len, verdicts.values())) / seconds,
        # Of fitting and judging: measuring keeps all maps.
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6,
    }
    if masks is not None and screen.detector.locates:
        located = located_maps(screen, root, root, masks)
        found = localisation_measures(located.maps, located.masks, screen.feature_threshold, inside=located.inside)
        row |= {
            "pixel_auroc": found["pixel AUROC"].value,
            "pixel_average_precision": found["pixel average precision"].value,
            "au_pro_30": found["AU-PRO (.3)"].value,
            "au_pro_05": found["AU-PRO (.05)"].value,
            "pixel_f1": found["pixel F1"].value,
        }
    return row


def _run_or_read(
    root: Path, detector: str, output: Path, seed: int, threads: int | None, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the row of a run; that of a file, if it was made of the same files with the same settings.

    A run that failed is not kept: it is tried again.
    """
    listing = Listing()
    list_folder(root, root, listing)
    files = [_as_it_is(file) for file in (*(root / name for name in listing.names), table_of(root))]
    meant = [str(root.resolve()), files, detector, seed, threads, sorted(settings.items()), __version__]
    identity = hashlib.sha256(json.dumps(meant, default=str).encode()).hexdigest()
    path = output / _RUNS / f"{root.name}-{detector.replace(':', '-').replace(',', '+')}.json"
    kept = _kept(path, identity)
    if kept is not None:
        return kept
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_in_own_process, args=(theirs, root, detector, seed, threads, dict(settings)))
    process.start()
    theirs.close()
    try:
        row: dict[str, Any] = ours.recv()
    except EOFError:
        process.join()
        return _failed(root, detector, f"the process ended with exit code {process.exitcode}")
    except BaseException:
        process.terminate()  # it would be waited for at the end, as long as a fit takes
        raise
    process.join()
    if row["error"] is None:
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps({"identity": identity, "row": row}, indent=1), encoding="utf-8")
    return row


def _as_it_is(file: Path) -> tuple[str, int | None, int | None]:
    """Return a file with its size and when it was written; without, where there is none or a link leads nowhere."""
    try:
        found = file.stat()
    except OSError:
        return str(file), None, None
    return str(file), found.st_size, found.st_mtime_ns


def _kept(path: Path, identity: str) -> dict[str, Any] | None:
    """Return the row of a finished run; None where there is none of that identity, or the file is damaged."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return dict(kept["row"]) if kept["identity"] == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _failed(root: Path, detector: str, reason: str) -> dict[str, Any]:
    return {"set": root.name, "detector": detector, "error": reason}


def _in_own_process(
    pipe: Any, root: Path, detector: str, seed: int, threads: int | None, settings: Mapping[str, Any]
) -> None:
    threading.Thread(target=_end_with_the_study, daemon=True).start()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    try:
        pipe.send({**measured(root, detector, seed, settings), "error": None})
    except ReconditeError as error:
        pipe.send(_failed(root, detector, str(error)))
    except KeyboardInterrupt:  # the process that waits for this one says so
        sys.exit(1)


def _end_with_the_study() -> None:
    """End this process with the one that began it, which may be killed: nobody would take the row."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write(output: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the table, the figure and the page of the runs so far."""
    done = [row for row in rows if row["error"] is None]
    if not done:
        return
    columns = dict.fromkeys(name for row in done for name in row)
    names, detectors = (list(dict.fromkeys(row[key] for row in done)) for key in ("set", "detector"))
    found = {(row["set"], row["detector"]): row for row in done}
    whole = [one for one in detectors if all((name, one) in found for name in names)]
    means = [np.mean([found[name, one]["auroc"] for name in names]) for one in whole]
    empty = [""] * (len(_COLUMNS) - 3)
    page = TablePage(
        title="Detectors on data sets of defects",
        lead=f"{counted(len(names), 'set')}, {counted(len(detectors), 'detector')}: how well test images with defects "
        "are told from those without, and, where there are masks and heat maps, the pixels of defects from others.",
        columns=[words for words, _ in _COLUMNS],
        rows=[
            *([_cell(row, key) for _, key in _COLUMNS] for row in rows),
            *(["mean", one, f"{mean:.3f}", *empty] for one, mean in zip(whole, means, strict=True)),
        ],
        conclusion=f"The highest mean AUROC is {max(means):.3f}, of {whole[int(np.argmax(means))]}." if whole else "",
        best=len(rows) + int(np.argmax(means)) if whole else None,
        made=[("images", ", ".join(map(str, names))), ("detectors", ", ".join(map(str, detectors)))],
        note="The test images are used once, to measure; no setting is chosen by them.",
    )
    figures = {}
    if whole:
        aurocs = [[found[name, one]["auroc"] for name in names] for one in whole]
        figures["aurocs"] = plot_aurocs(aurocs, whole, names)
    filled = [{name: row.get(name) for name in columns} for row in rows]
    write_study(output, page, filled, figures)


def _cell(row: Mapping[str, Any], key: str) -> str:
    if row["error"] is not None:
        return str(row[key]) if key in row else "failed"
    if key == "auroc_low":
        return f"{row['auroc_low']:.3f} to {row['auroc_high']:.3f}"
    value = row[key]
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:.0f}" if key in ("images_a_second", "peak_mb") else f"{value:.3f}"

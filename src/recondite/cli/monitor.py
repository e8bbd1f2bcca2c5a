"""recondite monitor, recalibrate, sample-for-review, reweigh, guard-report."""

import os
import shlex
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from recondite.cli.console import print_table, stream_beside
from recondite.cli.flags import Alpha, Output, Rate, ScreenFolder, load_screen, saved_guard, tell_of_lost_guard
from recondite.data.addresses import without_secrets
from recondite.errors import InputError
from recondite.progress import counted


def monitor(
    screen: ScreenFolder,
    events: str,
    /,
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    report: Path | None = None,
    state: Path | None = None,
    false_alarm: Rate = 0.01,
    window: int = 200,
    score: str | None = None,
    confidence: Rate | None = None,
    group: str | None = None,
    group_by: str = "none",
    seed: int = 0,
) -> None:
    """Test whether a stream of verdicts, oldest first, has drifted from the calibration images.

    Of a guard and its table of `recondite guard predict`, it also estimates how often each class comes.

    Parameters
    ----------
    events
        Table that `recondite predict` wrote, .csv, .jsonl or .parquet, its rows in the order of time; or the store of
        `recondite serve`: sqlite:///events.db?screen=NAME&version=VERSION, or an address of Postgres.
    output
        Table of shifted statistics to write: .csv, .jsonl or .parquet, or - for CSV on standard output.
    report
        HTML report to write, with figures.
    state
        File with the state of the monitor, continued from if it exists, so that tables may come one by one.
    false_alarm
        Probability of any alarm in a stream without drift, in (0, 1).
    window
        Number of recent images compared with the calibration images.
    score
        Score that the table was made with, if not the screen's.
    confidence
        The confidence that the table was made with, if not the screen's.
    group
        Group whose calibration holds for all images, where the ids do not tell it.
    group_by
        What tells images that belong together by their ids, of which the first one counts, as of `recondite fit` (not
        copies: a table has no pixels). Bursts taken for independent images raise alarms.
    seed
        Random seed for breaking ties.
    """
    from recondite.data.outputs import check_outputs
    from recondite.data.tables import check_table_path, is_stdout, write_table

    if output is not None:
        check_table_path(output)
    check_outputs({"-o": output, "--report": report, "--state": state}, inputs=[events])
    _look_back(events)
    judge = load_screen(screen, None, confidence, "cpu", score, others=[events])
    from recondite.reports.drift import moved_rows, watch, write_drift_page
    from recondite.reports.prevalence import COLUMNS, TITLE, class_shares

    drift = watch(
        *(judge, events),
        false_alarm=false_alarm,
        window=window,
        seed=seed,
        group=group,
        group_by=group_by,
        state=state,
    )
    to_stdout = output is not None and is_stdout(output)
    told = stream_beside(output)
    print(drift.in_words(), file=told)
    if drift.moved and not to_stdout:
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
    shares = class_shares(judge, screen, events)
    if shares.rows:
        print_table([COLUMNS, *shares.rows], title=TITLE, header=True, file=told)
    if shares.unknown:
        print(shares.unknown, file=told)
    if output is not None:
        write_table(output, moved_rows(drift.moved))
        print(f"table:  {output}", file=told)
    if report is not None:
        write_drift_page(report, drift, judge, shares)
        print(f"report: {report}", file=told)


def recalibrate(
    screen: ScreenFolder,
    events: str,
    /,
    *,
    output: Output,
    images: str | None = None,
    region: Path | None = None,
    unlabelled: Literal["leave-out", "inlier"] = "leave-out",
    extend: Annotated[bool, Parameter(negative="")] = False,
    report: Path | None = None,
    group: str | None = None,
    group_by: str = "copies",
    force: Annotated[bool, Parameter(negative="")] = False,
    image_store: Path | None = None,
    export_inliers: Path | None = None,
) -> None:
    """Recalibrate the threshold from labelled verdicts; nothing is fitted again.

    Parameters
    ----------
    events
        Table that `recondite predict --statistics` wrote, with a column label: inlier, outlier, skip or empty; or the
        store of `recondite serve`: sqlite:///events.db?screen=NAME&version=VERSION, or an address of Postgres.
    output
        Folder of the new screen.
    images
        The labelled images, to score them again; by default the scores in the table are used.
    region
        Folder with one mask per image, for a screen that was fitted with one, beside --images.
    unlabelled
        How to treat images without a label: leave them out, or take them for inliers.
    extend
        Add to the earlier calibration images instead of replacing them.
    report
        HTML report to write, with the threshold and the rates before and after.
    group
        Group of all images, where the ids do not tell it.
    group_by
        What tells images that belong together, of which one calibrates, as of `recondite fit`. Copies are found where
        the images are (--images); without these each image of the table counts, but for those of equal scores.
    force
        Go on where the labels are of a selection of images; the new screen then says that it promises nothing.
    image_store
        Folder in which `recondite serve` kept images.
    export_inliers
        Folder to copy the images labelled inlier to, to fit a new screen with.
    """
    from recondite.data.artifacts import check_target
    from recondite.data.files import locked
    from recondite.data.outputs import check_outputs

    if (image_store is None) != (export_inliers is None):
        raise InputError("--export-inliers copies images of --image-store: give both or neither")
    target = Path(os.path.abspath(output))
    check_target(target)
    check_outputs({"--report": report}, {"-o": output, "--export-inliers": export_inliers}, inputs=[events])
    _look_back(events)
    judge = load_screen(screen, None, None, "cpu", others=[events])
    from recondite.reports.recalibration import recalibrate as calibrate
    from recondite.reports.recalibration import write_recalibration_page

    with locked(target):
        result = calibrate(
            *(judge, events),
            images=images,
            region=region,
            unlabelled=unlabelled,
            keep=extend,
            group=group,
            group_by=group_by,
            force=force,
        )
        tell_of_lost_guard(screen, output)
        result.after.save(output)
    print_table(
        [("measure", "before", "after"), *(tuple(row.values()) for row in result.table)],
        title=f"{screen} calibrated on {without_secrets(events)}",
        header=True,
    )
    if images is None and group_by == "copies":
        print("Each image of the table counts; of frames of one part or burst one should: --group-by tells them.")
    print(f"screen: {output}")
    if report is not None:
        write_recalibration_page(report, result, f"{Path(screen).name}, calibrated anew")
        print(f"report: {report}")
    if image_store is not None and export_inliers is not None:
        from recondite.service.engine.feedback import write_confirmed

        print(f"inliers: {export_inliers} ({counted(write_confirmed(events, image_store, export_inliers), 'image')})")


def sample_for_review(
    events: str, /, *, output: Output, count: Annotated[int, Parameter(alias="-n")] = 200, seed: int = 0
) -> None:
    """Draw a random sample of judged images to label, for `recondite recalibrate`.

    Parameters
    ----------
    events
        Table of verdicts, or the store of `recondite serve`, as for `recondite recalibrate`.
    output
        Table to write: .csv, .jsonl or .parquet, or - for CSV on standard output; its column label is empty, to be
        filled in.
    count
        Number of images.
    seed
        Random seed of the draw.
    """
    from recondite.data.outputs import check_outputs
    from recondite.data.tables import check_table_path

    check_table_path(output)
    check_outputs({"-o": output}, inputs=[events])
    _look_back(events)
    from recondite.reports.reviewed import sample_for_review as draw

    drawn, of = draw(events, output, count, seed)
    told = stream_beside(output)
    print(f"table:  {output} ({drawn:,} of {of:,} images, drawn at random)", file=told)
    print("next: write inlier or outlier into the column label of every row, and then", file=told)
    print(f"      recondite recalibrate SCREEN {shlex.quote(str(output))} -o NEW_SCREEN", file=told)


def reweigh(
    screen: str,
    verdicts: str,
    /,
    *,
    output: Output,
    recent: str | None = None,
    alpha: Alpha = None,
    score: str | None = None,
) -> None:
    """Judge scores anew where normal images have changed in brightness, contrast, roughness or complexity alone.

    Calibration images count the more, the more they are like recent images; see "Shift" in docs/concepts.md.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote; one that judges by evidence.
    verdicts
        Table that `recondite predict --statistics` wrote.
    output
        Table to write: .csv, .jsonl or .parquet, or - for CSV on standard output.
    recent
        Such a table of recent images, most of them normal, to weigh by; by default the verdicts themselves.
    score
        Score that the tables hold; by default the screen's.
    """
    from recondite.data.outputs import check_outputs
    from recondite.data.tables import check_table_path, write_table

    check_table_path(output)
    check_outputs({"-o": output}, {}, inputs=[verdicts, *([] if recent is None else [recent])])
    judge = load_screen(screen, alpha, None, "cpu", score, others=[verdicts])
    from recondite.reports.drift import read_scores
    from recondite.screen.shift import Reweighting, check_weighable

    check_weighable(judge)
    scores = read_scores(judge, verdicts)
    lately = scores if recent is None else read_scores(judge, recent)
    weighed = Reweighting.fit(judge, lately.statistics or {})
    judged = weighed.judge(scores)
    write_table(output, judged.records())
    told = stream_beside(output)
    words = ", ".join(f"{count:,} {word}" for word, count in judged.counts().items())
    print(f"{counted(len(judged), 'image')}: {words}", file=told)
    print(weighed.promise, file=told)
    print(f"table:  {output}", file=told)


def guard_report(
    screen: str,
    /,
    inliers: str,
    outliers: str,
    inlier_outputs: Path | None = None,
    outlier_outputs: Path | None = None,
    *,
    output: Output,
    calibration: str | None = None,
    calibration_outputs: Path | None = None,
    reference_outputs: Path | None = None,
    score: str | None = None,
    alpha: Rate | None = None,
) -> None:
    """Measure a screen in front of a classifier, and compare it with the classifier's own confidence and features.

    A guard whose classifier speaks for itself (recondite guard fit, without a table) needs no outputs: it looks at the
    images, and the report holds each part that it can find and the guard as it was fitted. Else a classifier's outputs
    are a .csv, .jsonl or .parquet table with the columns id, logit.0, logit.1, ... (or probability.0, ...), label (the
    true class, as the number of its logit; needed for inliers), and, where there are any, feature.0, ...; or a .npz or
    .safetensors file of ids, logits (or probabilities), labels and features. No code of yours is run.

    Parameters
    ----------
    screen
        Folder that `recondite fit` or `recondite guard fit` wrote.
    inliers
        Normal test images, or a table of verdicts on them; without outputs, images whose labels or folders are their
        classes.
    outliers
        Images that do not belong, or a table of verdicts on them.
    inlier_outputs
        The classifier's outputs for the inliers; none for a guard that speaks for itself.
    outlier_outputs
        The classifier's outputs for the outliers, likewise.
    output
        Folder for report.html, table.csv, classes.csv and curves.csv.
    calibration
        Other normal images (or verdicts), to combine the screen with the classifier's confidence and features.
    calibration_outputs
        The classifier's outputs for these.
    reference_outputs
        Outputs with features of normal images, such as the training images, for the distance to neighbours.
    score
        Score to judge by; by default the screen's.
    alpha
        False-rejection rate: share of the inliers that may be turned away, in (0, 1); by default
        the screen's.
    """
    from recondite.data.outputs import check_outputs

    if (calibration is None) != (calibration_outputs is None):
        raise InputError("--calibration and --calibration-outputs belong together")
    if (inlier_outputs is None) != (outlier_outputs is None):
        raise InputError("--inlier-outputs and --outlier-outputs belong together")
    if inlier_outputs is None and any(one is not None for one in (calibration, reference_outputs, score)):
        raise InputError("--calibration, --reference-outputs and --score go with tables of a classifier's outputs")
    check_outputs({}, {"-o": output})
    from recondite.reports.guard_report import (
        COLUMNS,
        example_galleries,
        fitted_guard_report,
        scores_of,
        table_cells,
        write_guard_report,
    )
    from recondite.reports.guard_report import guard_report as measure
    from recondite.reports.words import made_from
    from recondite.screen.classifier_outputs import read_outputs

    if inlier_outputs is None or outlier_outputs is None:
        judge = load_screen(screen, None, None, "cpu", others=[inliers, outliers])
        guard = saved_guard(judge, screen)
        if alpha is not None:
            judge = judge.with_alpha(alpha)
            guard = guard.at(judge)
        report = fitted_guard_report(guard, inliers, outliers, progress=True)
    else:
        judge = load_screen(screen, alpha, None, "cpu", score, others=[inliers, outliers])
        report = measure(
            judge,
            scores_of(judge, inliers),
            scores_of(judge, outliers),
            *(read_outputs(path) for path in (inlier_outputs, outlier_outputs)),
            calibration=None
            if calibration is None or calibration_outputs is None
            else (scores_of(judge, calibration), read_outputs(calibration_outputs)),
            reference=None if reference_outputs is None else read_outputs(reference_outputs),
        )
    print_table([COLUMNS, *(table_cells(row) for row in report.rows)], title=report.facts, header=True)
    print(report.conclusion)
    examples = example_galleries(report, judge, inliers, outliers)
    made = [*made_from(judge), ("inliers", inliers), ("outliers", outliers)]
    write_guard_report(output, report, f"{Path(screen).name} in front of a classifier", examples, made)
    print(f"report: {output / 'report.html'}")


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

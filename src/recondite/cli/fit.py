"""recondite fit, info."""

import json
import os
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from recondite.cli.console import print_table
from recondite.cli.flags import (
    CLUSTER_GROUP,
    NoFlags,
    OnBad,
    Output,
    Rate,
    all_among,
    check_cluster_flags,
    image_size_of,
    names_of,
    option_flags,
    options_of,
    run_folder_of,
    screen_to_write,
    share_or_source,
    value_of,
    value_range_of,
)
from recondite.errors import ReconditeWarning

_LINES_OF_BAD_FILES = 10


def bare_fit(images: str = "", /) -> None:
    """Learn what normal images look like; `recondite fit --help` lists the flags."""


def fit_with_flags(tokens: Sequence[str]) -> Any:
    """Return the command `fit` with the flags of the detector or preset that the tokens name.

    Those of a detector are left out where no token is one of them.
    """
    from recondite.options import TrainingOptions, option_names, scores_of
    from recondite.screen.choose import AUTO_DETECTOR, CHOSEN_FROM
    from recondite.training.presets import get_preset

    preset = value_of("--preset", tokens)
    name = value_of("--detector", tokens) or AUTO_DETECTOR
    if preset and name == AUTO_DETECTOR:
        name = get_preset(preset).detector

    def fit(
        images: str,
        /,
        *,
        output: Output,
        detector: str | None = None,
        preset: str | None = None,
        score: str | None = None,
        alpha: Rate | None = None,
        confidence: Rate | None = None,
        guarantee: Literal["exact", "simes", "dkwm", "monte-carlo"] = "exact",
        image_size: str | None = None,
        region: str | None = None,
        ignore: str | None = None,
        value_range: str | None = None,
        validation: str = "0.1",
        evidence: str = "0.1",
        calibration: str | None = None,
        pictures: str | None = None,
        by_folder: Annotated[bool, Parameter(negative="")] = False,
        group_by: str = "copies",
        contamination: str | None = None,
        defects: str | None = None,
        masks: Path | None = None,
        reencoding: Annotated[bool, Parameter(negative="")] = False,
        on_bad: OnBad = "flag",
        resume: Annotated[bool, Parameter(negative="")] = False,
        cluster: Annotated[str | None, Parameter(group=CLUSTER_GROUP)] = None,
        workers: Annotated[int, Parameter(group=CLUSTER_GROUP)] = 2,
        worker_cpus: Annotated[int, Parameter(group=CLUSTER_GROUP)] = 1,
        worker_gpus: Annotated[int, Parameter(group=CLUSTER_GROUP)] = 0,
        options: NoFlags = None,
        training: Annotated[Any, Parameter(name="*", group="Options of training")] = None,
    ) -> None:
        """Learn what normal images look like and write a screen.

        Parameters
        ----------
        images
            Folder, file, glob, .npy, .npz, manifest (.jsonl), table with a column of paths (.csv, .tsv) or data set
            (mnist, cifar10/train:cat,dog) of normal images.
        output
            Folder of the screen to write.
        detector
            See `recondite detectors`; its own flags are listed below. By default, or with auto, the images decide.
        preset
            Recipe of a detector and its training; see `recondite detectors`.
        score
            What images are judged by: auto (the default: error and evidence together), error, evidence, one of
            the detector's own errors ({errors}), or one statistic of the evidence.
        alpha
            False-alarm rate: share of normal images that may be flagged, in (0, 1), such as 0.05 or 1/20; by default
            .05, or the smallest that the images allow.
        confidence
            Probability, in (0, 1), with which alpha holds for this very calibration set. By default
            alpha holds on average.
        guarantee
            What confidence means: exact for one alpha, the others for every alpha at once.
        image_size
            Pixels per side (32), or height x width (24x32); by default what suits the detector and the images.
        region
            Where images count: a mask (an image, white where they do), polygons (.json; see docs/concepts.md), or a
            folder with one mask per image, of the same name but for the suffix. By default everywhere.
        ignore
            Zones that do not count: a mask, white there, or polygons.
        value_range
            Stored values that are black and white in all images, such as 0,4095 for 12 bits in files of 16. By default
            what the tags of the files say, or else their type.
        validation
            Share of the images, in [0, 1), or other normal images, to choose the best epoch by, where there are epochs.
        evidence
            Share of the images, in [0, 1), or other normal images, to learn the statistics of normal images from.
        calibration
            Share of the images, in (0, 1), or other normal images, to calibrate the threshold on, and not learn from.
            By default 0.2; but with features all of fewer than 500, each judged by a detector fitted without it.
        pictures
            Ids of validation images, joined by commas, to rebuild after chosen epochs; by default the first ten.
        by_folder
            Calibrate each sub-folder separately.
        group_by
            What tells images that belong together (of one part, scene or burst): copies (near-copies and bursts are
            found), none, folder, prefix (the name without its last number), a regular expression found in the ids
            (its first group), or a .csv file with the columns id and group. They stay in one part, and one calibrates.
        contamination
            Share of bad images that may hide among those given, in [0, .5), or auto for those that lie far out: they
            are neither learnt from nor calibrated on, and named. By default all count.
        defects
            3 to 50 images of known defects, which a head on features learns from before anything is calibrated.
        masks
            Folder of masks of where they lie, as of `recondite teach`.
        reencoding
            Add to the evidence how the reconstruction is encoded again; more accurate and slower.
        on_bad
            What to do with unreadable images: flag and skip leave them out and list them, raise stops.
        resume
            Continue an interrupted fit of the same screen.
        cluster
            Fit on a Ray cluster: local starts one of this machine alone; auto, HOST:PORT or ray://HOST:PORT name one
            that runs. All its machines must share the folder that the screen is written to; see docs/clusters.md.
        workers
            With --cluster: processes that share the work.
        worker_cpus
            With --cluster: CPUs, and threads, of each worker.
        worker_gpus
            With --cluster: GPUs of each worker, 0 or 1.
        """
        on_cluster = {"workers": workers, "worker_cpus": worker_cpus, "worker_gpus": worker_gpus}
        check_cluster_flags(cluster, fit.__kwdefaults__, **on_cluster)
        _fit_screen(
            images,
            output,
            {} if cluster is None else {"cluster": cluster, **on_cluster},
            validation=share_or_source(validation),
            evidence=share_or_source(evidence),
            calibration=None if calibration is None else share_or_source(calibration),
            pictures=tuple(names_of(pictures) or ()),
            image_size=image_size_of(image_size),
            region=region,
            ignore=ignore,
            value_range=value_range_of(value_range),
            resume=resume,
            detector=detector,
            preset=preset,
            score=score,
            reencoding=reencoding,
            alpha=alpha,
            confidence=confidence,
            guarantee=guarantee,
            by_folder=by_folder,
            contamination=None if contamination is None else share_or_source(contamination),
            defects=defects,
            masks=masks,
            group_by=group_by,
            on_bad=on_bad,
            **{**(options or {}), **(training or {})},
        )

    defaults: Mapping[str, Any] = {}
    if not all_among({*fit.__annotations__, *option_names(TrainingOptions)}, tokens):
        names = CHOSEN_FROM if name == AUTO_DETECTOR else (name,)
        (kinds, (defaults, *_)) = zip(*map(options_of, names), strict=True)
        errors = dict.fromkeys(error for kind in kinds for error in scores_of(kind))
        fit.__doc__ = (fit.__doc__ or "").replace("{errors}", ", ".join(errors))
        # The score is a flag of the command itself, which takes more than the detector's own errors.
        own = option_flags("detector flags", *kinds, without=("score",))
        group = f"Options of detector {' or '.join(names)}"
        fit.__annotations__["options"] = Annotated[own | None, Parameter(name="*", group=group)]
    training = option_flags("training flags", TrainingOptions, defaults=defaults)
    fit.__annotations__["training"] = Annotated[training | None, Parameter(name="*", group="Options of training")]
    return fit


def _fit_screen(images: str, output: Path, on_cluster: Mapping[str, Any], **settings: Any) -> None:
    """Fit and write a screen; `on_cluster` says how on a cluster, and is empty for this process alone."""
    from recondite.data.datasets import check_source
    from recondite.data.files import locked
    from recondite.statistics.calibration import check_promise

    output = screen_to_write(output)
    check_promise(settings["alpha"], settings["confidence"])
    check_source(images)
    if settings["defects"] is not None:
        check_source(settings["defects"])
    first = os.environ.get("RANK", "0") == "0"
    with locked(output) if first else nullcontext():
        _fit_and_save(images, output, on_cluster, settings)


def _fit_and_save(images: str, output: Path, on_cluster: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    from recondite.screen.fit import fit
    from recondite.screen.shown import screen_rows

    first = os.environ.get("RANK", "0") == "0"
    with run_folder_of(output) as run_folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReconditeWarning)  # they are printed from the facts below
            if on_cluster:
                from recondite.cluster.fit import fit_on_cluster

                screen = fit_on_cluster(images, run_folder=run_folder, progress=True, **on_cluster, **settings)
            else:
                screen = fit(images, run_folder=run_folder, progress=True, **settings)
        if not first:
            return
        logs = {file.name: file.read_text(encoding="utf-8") for file in sorted(run_folder.glob("*.csv"))}
        screen.save(output, texts=logs)
    seen = screen.facts["sample"]
    if seen and 0 < seen["in_colour"] < seen["images"]:
        print(f"{seen['in_colour']} of {seen['images']} images looked at are in colour", file=sys.stderr)
    for remark in screen.facts["remarks"]:
        print(f"warning: {remark}", file=sys.stderr)
    for name, error in screen.facts["unreadable"]["first"][:_LINES_OF_BAD_FILES]:
        print(f"left out: {name}: {error}", file=sys.stderr)
    count = screen.facts["unreadable"]["count"]
    if count > _LINES_OF_BAD_FILES:
        print(f"left out: {count} unreadable images in all; see {output}/manifest.json", file=sys.stderr)
    suspects = (screen.facts.get("contamination") or {}).get("suspects", [])
    for name in suspects[:_LINES_OF_BAD_FILES]:
        print(f"suspect, left out: {name}", file=sys.stderr)
    if len(suspects) > _LINES_OF_BAD_FILES:
        print(f"suspect, left out: {len(suspects)} images in all; see {output}/manifest.json", file=sys.stderr)
    print_table(screen_rows(screen), title=str(output))
    if screen.facts.get("chosen"):
        print(f"\nchosen: {screen.detector.name}, for {screen.facts['chosen']};")
        print("choose otherwise with --detector (recondite detectors lists them) and --image-size")
    print(f"\nnext: recondite predict {shlex.quote(str(output))} NEW_IMAGES -o verdicts.csv --report report.html")


def info(screen: str, /, *, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """Show what a screen is and what it promises; of a guard also its classes, classifier and parts.

    Parameters
    ----------
    screen
        Folder that `recondite fit` or `recondite guard fit` wrote, the name of a ready screen (digits), or hf://ORG/NAME[@REVISION].
    as_json
        Print the facts as JSON.
    """
    from recondite.screen.described import described
    from recondite.screen.guard_facts import guard_facts
    from recondite.screen.saved import holds_guard, located
    from recondite.screen.shown import guard_rows, rule_rows, screen_rows

    judge = described(screen)
    guard = guard_facts(judge, located(screen)) if holds_guard(screen) else None
    if as_json:
        print(json.dumps(judge.to_json() | ({"guard": guard.to_json()} if guard else {}), indent=1))
        return
    print_table(screen_rows(judge), title=str(screen))
    if guard:
        print_table(guard_rows(guard), title="its guard")
    print_table(
        [(row["rule"], f"{row['threshold']:.6g}", row["rate"]) for row in rule_rows(judge, judge.calibrator.scores)],
        title="threshold rules and the share of calibration images they flag",
    )

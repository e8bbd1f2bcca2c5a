"""recondite guard fit, guard predict."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from recondite.cli.console import print_table, stream_beside
from recondite.cli.flags import Output, Rate, check_flags_count, load_screen, names_of, saved_guard, screen_to_write
from recondite.errors import InputError
from recondite.progress import counted

if TYPE_CHECKING:
    from recondite.screen.screen import Screen


def guard_fit(
    screen: str,
    /,
    images: str,
    *,
    output: Output,
    classifier: str = "linear-head",
    fine_tune: int | None = None,
    backbone: str | None = None,
    labels: Path | None = None,
    labels_from_folders: Annotated[bool, Parameter(negative="")] = False,
    classes: str | None = None,
    calibration: str | None = None,
    held_out: Rate = 0.4,
    group_by: str = "copies",
    parts: str | None = None,
    alpha: Rate | None = None,
    by_class: bool = True,
    risk: Rate | None = None,
    delta: Rate = 0.05,
    seed: int = 0,
) -> None:
    """Put a classifier behind a screen: a label for each image, or none and the reason.

    What the guard looks at beside the screen is chosen on held-out images and on outliers made up from them; on other
    held-out images each part is calibrated, so that at most alpha of normal images are turned away as foreign.

    Parameters
    ----------
    screen
        Folder that `recondite fit` wrote (with a linear head: of the detector features); none to fit one on the images.
    images
        Images with classes, to learn from.
    output
        Folder for the guard; it is a screen too.
    classifier
        An ONNX file, images (N, C, H, W) in [0, 1] to logits and, as a second output, features; timm:NAME, hf:NAME or a
        folder with config.json and model.safetensors, a network with its own head; a table of outputs for
        all these images (columns id, logit.0, ... or probability.0, ..., and feature.0, ... where there are any; see
        guard-report), which guard predict --outputs then needs for what it judges; or linear-head, fitted on the
        backbone of the screen.
    fine_tune
        Train so many of the last blocks of the screen's EfficientNet-Lite (such as 8; --backbone lite0, lite1 or lite2)
        and a linear layer on the images, in place of a linear head; a guard then takes about twice its screen's time.
    backbone
        Network of a screen that is fitted here, such as lite1, timm:resnet18, hf:facebook/dinov2-small or a folder.
    labels
        Table with columns id (or file_name, as in a metadata.csv) and label; by default the labels of a data set, or
        the folders.
    labels_from_folders
        The class of an image is the folder it lies in, whatever labels the source has.
    classes
        Names of the classes in the order of the logits of an ONNX file, joined by commas; by default alphabetical.
    calibration
        Images with classes that neither the screen nor the classifier has learnt from; needed with either.
    held_out
        Share of the images for that, where neither is given.
    group_by
        What tells images that belong together, which stay in one part of the split: copies (near-copies and bursts are
        found), none, folder, prefix, a regular expression, or a .csv file with the columns id and group.
    parts
        Among screen, confidence, max_logit, energy, knn, mahalanobis, vim, joined by commas; by default chosen.
    alpha
        Share of normal images that may be turned away as foreign, in (0, 1); by default the screen's, or .05.
    by_class
        Calibrate by predicted class where there are images enough, so that alpha holds for each; without it more of one
        class may be turned away than of another, but fewer foreign images may get a label.
    risk
        Share of wrong labels among those that normal images get, in (0, 1); by default nothing is promised.
    delta
        With --risk: probability with which that may fail, in (0, 1).
    seed
        Of splits and made-up outliers.
    """
    if labels is not None and labels_from_folders:
        raise InputError("--labels and --labels-from-folders: choose one")
    flags = guard_fit.__kwdefaults__
    check_flags_count(calibration is None, "beside --calibration: nothing is held out", flags, held_out=held_out)
    check_flags_count(risk is not None, "where no risk is promised: give --risk too", flags, delta=delta)
    target = screen_to_write(output)
    from recondite.data.artifacts import written_together
    from recondite.screen.classes import FROM_FOLDERS, read_classes
    from recondite.screen.guard_file import save_guard
    from recondite.screen.guard_fit import fit_guard, named_classifier
    from recondite.screen.words import parts_in_words

    judge = None if screen == "none" else load_screen(screen, None, None, "cpu", sources=[images])
    if judge is not None:
        _check_region(judge)
    fitted = fit_guard(
        images,
        labels=FROM_FOLDERS if labels_from_folders else None if labels is None else read_classes(labels),
        screen=judge,
        classifier=named_classifier(classifier),
        fine_tune=fine_tune,
        backbone=backbone,
        classes=names_of(classes),
        calibration=calibration,
        held_out=held_out,
        group_by=group_by,
        parts=names_of(parts),
        alpha=alpha,
        by_class=by_class,
        risk=risk,
        delta=delta,
        seed=seed,
        progress=True,
    )
    with written_together(target) as folder:  # a screen without its guard would judge otherwise
        fitted.guard.screen.save(folder)
        save_guard(fitted.guard, folder)
    facts = fitted.facts
    caught = sorted(facts.get("caught", {}).items(), key=lambda item: -item[1])
    if caught:
        rows = [(name, f"{share:.3f}") for name, share in caught[:5]]
        print_table([("parts", "made-up outliers caught"), *rows], title="The best combinations", header=True)
    if facts["unreadable"]:
        left_out = counted(len(facts["unreadable"]), "unreadable image")
        print(f"left out: {left_out}, the first {facts['unreadable'][0]}", file=sys.stderr)
    print(f"accuracy: {facts['accuracy']:.3f} of {facts['chosen on']:,} held-out images")
    how = ", by predicted class" if facts["by class"] else ""
    print(f"parts:    {parts_in_words(fitted.guard.shares)}, calibrated on {facts['calibrated on']:,} images{how}")
    if "promise" in facts:
        print(f"promise:  {facts['promise']}")
    print(f"guard:    {output}")
    where = shlex.quote(str(output))
    told = " --outputs OUTPUTS.csv" if fitted.guard.by_table else ""
    print(f"next: recondite guard predict {where} NEW_IMAGES{told} -o labels.csv")
    if not told:
        print(f"      recondite guard-report {where} INLIERS OUTLIERS -o report (what it turns away, and what not)")


def guard_predict(
    guard: str,
    /,
    images: str,
    *,
    output: Output,
    outputs: Path | None = None,
    alpha: Rate | None = None,
) -> None:
    """Label images, or abstain: because an image is foreign, or because the classifier is not sure enough.

    Parameters
    ----------
    guard
        Folder that `recondite guard fit` wrote.
    images
        Images to label.
    output
        Table (.csv, .jsonl or .parquet, or - for CSV on standard output): label, reason, kind of abstention, the
        classifier's own label, p-values.
    outputs
        What the classifier said about these images, for a guard that was fitted with such a table: columns id,
        logit.0, ... or probability.0, ..., and feature.0, ... where that had them.
    alpha
        Share of normal images that may be turned away as foreign; by default the guard's.
    """
    from recondite.data.outputs import check_outputs
    from recondite.data.tables import check_table_path, write_table

    check_table_path(output)
    check_outputs({"-o": output}, inputs=[images, outputs])
    from recondite.screen.classifier_outputs import read_outputs

    screen = load_screen(guard, None, None, "cpu", sources=[images])
    _check_region(screen)
    found = saved_guard(screen, guard)
    if outputs is not None:
        found = found.told(read_outputs(outputs))
    if alpha is not None:
        found = found.at(screen.with_alpha(alpha))
    decisions = found(images, progress=True)
    write_table(output, decisions.records())
    told = stream_beside(output)
    said = ", ".join(f"{count:,} {name}" for name, count in decisions.counts().items())
    print(f"{said} of {len(decisions):,}", file=told)
    print(f"table: {output}", file=told)


def _check_region(screen: "Screen") -> None:
    if screen.detector.preprocessing.masked:
        raise InputError(
            "this screen was fitted with one mask per image, and these commands take none: fit it with one region for "
            "all images (--region MASK.png), or without"
        )

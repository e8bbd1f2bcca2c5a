"""recondite update."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from recondite.cli.flags import (
    Output,
    ScreenFolder,
    load_screen,
    run_folder_of,
    screen_to_write,
    share_or_source,
    tell_of_lost_guard,
)


def update(
    screen: ScreenFolder,
    images: str,
    /,
    *,
    output: Output,
    calibration: str | None = None,
    evidence: str = "0.2",
    validation: str = "0.1",
    score: str | None = None,
    group_by: str = "copies",
    region: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    sampled: Annotated[bool, Parameter(negative="")] = False,
    only_calibrate: Annotated[bool, Parameter(negative="")] = False,
    epochs: int | None = None,
    learning_rate: float | None = None,
    report: Path | None = None,
) -> None:
    """Let a screen learn from further normal images too, and write it as another one; what it knows stays.

    Parameters
    ----------
    images
        Further normal images. Those that the screen has learnt from are told, and do not calibrate.
    output
        Folder of the new screen.
    calibration
        Share of the new images, or other normal images, to calibrate on; those that calibrated before may be given.
    evidence
        Share of the new images, or other normal images, to learn the statistics of normal images from.
    validation
        Share of the new images, or other normal images, to choose the best epoch by, where there are epochs.
    score
        What images are judged by from now on: error, or what the screen judges by (the default).
    group_by
        What tells images that belong together, as of `recondite fit`.
    region
        Folder with one mask per image, for a screen that was fitted with one; any other keeps its region.
    resume
        Continue an interrupted update of the same screen, of a network that is trained.
    sampled
        The new images are a random sample of those to come, though they score otherwise than those before.
    only_calibrate
        Learn nothing: add all new images to those that calibrate.
    epochs
        Passes over the images, of a network; by default as many as it was fitted with.
    learning_rate
        Its step size; by default the one that it was fitted with.
    report
        HTML report to write, before and after.
    """
    from recondite.data.files import locked

    output = screen_to_write(output, {"--report": report})
    judge = load_screen(screen, None, None, "cpu", sources=[images])
    from recondite.reports.update import alpha_in_words, update_in_words, write_update_page

    training: dict[str, Any] = {"epochs": epochs, "learning_rate": learning_rate}
    with locked(output), run_folder_of(output) as run_folder:
        after = judge.update(
            images,
            calibration=None if calibration is None else share_or_source(calibration),
            evidence=share_or_source(evidence),
            validation=share_or_source(validation),
            score=score,
            group_by=group_by,
            region=region,
            run_folder=run_folder,
            resume=resume,
            sampled=sampled,
            only_calibrate=only_calibrate,
            progress=True,
            **{name: value for name, value in training.items() if value is not None},
        )
        tell_of_lost_guard(screen, output)
        after.save(output)
    for line in filter(None, (*update_in_words(after), alpha_in_words(judge, after))):
        print(line)
    print(f"screen: {output}")
    if report is not None:
        write_update_page(report, judge, after, f"{Path(screen).name}, with further images")
        print(f"report: {report}")

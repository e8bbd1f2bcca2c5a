"""recondite teach."""

from pathlib import Path

from recondite.cli.flags import Output, ScreenFolder, load_screen, screen_to_write, tell_of_lost_guard


def teach(
    screen: ScreenFolder,
    defects: str,
    images: str | None = None,
    /,
    *,
    output: Output,
    masks: Path | None = None,
    group_by: str = "copies",
) -> None:
    """Let a screen of features learn from images of known defects, and write it as another one, calibrated anew.

    Parameters
    ----------
    defects
        3 to 50 images of known defects; of an MVTec-style folder: its outliers.
    images
        The good images of its fit. A screen keeps none, and these are told by their pixels.
    output
        Folder of the new screen. Nothing is written where the defects help nothing.
    masks
        Folder of masks of where the defects lie: for DEFECT/NAME.png a mask DEFECT/NAME_mask.png or DEFECT/NAME.png.
        By default a folder ground_truth near the images, laid out so, where there is one.
    group_by
        What tells images that belong together, as of `recondite fit`.
    """
    from recondite.data.files import locked

    output = screen_to_write(output)
    judge = load_screen(screen, None, None, "cpu", sources=[defects, *([images] if images else [])])
    from recondite.screen.words import gain_in_words

    with locked(output):
        after = judge.teach(
            defects,
            images,
            masks=masks,
            group_by=group_by,
            progress=True,
        )
        tell_of_lost_guard(screen, output)
        after.save(output)
    low, high = after.false_alarm_interval
    print(gain_in_words(after.facts["known_defects"]))
    print(
        f"calibrated on {len(after.calibrator.scores):,} images (before: {len(judge.calibrator.scores):,}), "
        f"true false-alarm rate {low:.3f} to {high:.3f} (95 % interval)"
    )
    print(f"screen: {output}")

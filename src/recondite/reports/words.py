"""Numbers in words: p-values, how rare a score is among the calibration images, and what a report was made from."""

import math
from pathlib import Path

import numpy as np

from recondite.data.addresses import without_secrets
from recondite.screen.screen import Screen
from recondite.statistics.calibration import smallest_alpha


def p_text(p_value: float) -> str:
    """Return a p-value or a rate with three digits that count, never rounded to zero.

    >>> p_text(0.0303030), p_text(8e-5), p_text(1.0), p_text(float("nan"))
    ('0.0303', '8e-5', '1', 'none')
    """
    if math.isnan(p_value):
        return "none"
    return f"{p_value:.3g}".replace("e-0", "e-")


def how_rare(screen: Screen, score: float, p_value: float, group: str = "") -> str:
    """Say how many calibration images score at least as high as an image, and its p-value.

    Args:
        screen: that judged.
        score, p_value: of the image.
        group: of the calibration; ignored where it has none.
    """
    calibrator = screen.calibrator
    scores, of_group = calibrator.scores, ""
    if calibrator.groups is not None and group in calibrator.groups:
        scores, of_group = scores[np.array(calibrator.groups) == group], f" of group {group}"
    size, higher = len(scores), int(np.count_nonzero(scores >= score))
    smallest = None if higher else smallest_alpha(size, screen.confidence, screen.guarantee)
    among = f"the {size:,} calibration images{of_group}" if size > 1 else f"the one calibration image{of_group}"
    if smallest is not None:
        shown = p_text(smallest).removeprefix("0")
        return f"none of {among} scores this high (p <= {shown}, the smallest this screen can give)"
    verb = "scores" if higher <= 1 else "score"
    return f"{higher or 'none'} of {among} {verb} this high (p = {p_text(p_value)})".replace("= 0.", "= .")


def made_from(screen: Screen, source: object = None) -> list[tuple[str, str]]:
    """Return what a report was made from: its source where that has a name, and the screen, as (name, value)."""
    version = screen.facts.get("version")
    return [
        *([("images", without_secrets(source))] if isinstance(source, str | Path) else []),
        ("screen", f"{screen.detector.name} {screen.fingerprint()[:12]}"),
        *([("version", str(version))] if version is not None else []),
        ("alpha", p_text(screen.alpha)),
    ]

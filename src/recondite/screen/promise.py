"""What a screen promises, in words."""

from recondite.screen.evidence import ERROR
from recondite.screen.screen import Screen


def promise(screen: Screen, fdr: float | None = None) -> str:
    """Say in words what the flags of a screen promise, or those under false-discovery control at this rate."""
    caution = "" if screen.evidence is None or screen.score == ERROR else screen.evidence.caution
    if fdr is not None:
        return f"Of the images flagged, a share of at most {fdr:g} is expected to be normal.{caution}"
    doubts = screen.facts.get("calibration", {}).get("no_promise")
    if doubts:
        return f"Nothing is promised: the calibration was forced, although {doubts[0]}."
    calibration = screen.facts.get("calibration", {})
    if calibration.get("left_out_in_parts"):
        return (
            f"About a share of {screen.alpha:g} of normal images is flagged by mistake: {calibration['images']} images "
            "were judged by detectors fitted without them. That is not proven, and with so few images the true rate "
            f"may well be {screen.false_alarm_interval[1]:.2g}."
        )
    if screen.confidence is None:
        return f"On average a share of at most {screen.alpha:g} of normal images is flagged by mistake.{caution}"
    return (
        f"With {100 * screen.confidence:g} % confidence in this calibration set, a share of at most "
        f"{screen.alpha:g} of normal images is flagged by mistake.{caution}"
    )

"""What a screen promises, in words."""

from recondite.progress import counted
from recondite.screen.screen import Screen
from recondite.screen.words import ERROR
from recondite.statistics.calibration import SHARE, smallest_alpha
from recondite.statistics.contamination import LEFT_OUT

_STAYED = "Bad images that stayed make the share smaller, if they score no lower than good ones."


def nothing(screen: Screen) -> str:
    """Say that a screen promises nothing, and why, where its calibration was forced; "" where it was not."""
    doubts = screen.facts.get("calibration", {}).get("no_promise")
    return f"Nothing is promised: the calibration was forced, although {doubts[0]}." if doubts else ""


def promise(screen: Screen, fdr: float | None = None) -> str:
    """Say in words what the flags of a screen promise, or those under false-discovery control at this rate."""
    caution = "" if screen.evidence is None or screen.score == ERROR else screen.evidence.caution
    calibration = screen.facts.get("calibration", {})
    if forced := nothing(screen):
        return forced
    left_out_in_turn = calibration.get("left_out_in_parts")
    if fdr is not None:
        if left_out_in_turn:
            return (
                f"Of the images flagged, about a share of {fdr:g} is expected to be normal: {calibration['images']} "
                "images were judged by detectors fitted without them. That is not proven."
            )
        suspects = sum(calibration.get(LEFT_OUT, {}).values())
        if suspects:
            caution += (
                f" That holds if what looked bad and was left out ({counted(suspects, 'calibration image')}) is bad."
            )
        return f"Of the images flagged, a share of at most {fdr:g} is expected to be normal.{caution}"
    if left_out_in_turn:
        return (
            f"About a share of {screen.alpha:g} of normal images is flagged by mistake: {calibration['images']} images "
            "were judged by detectors fitted without them, and with so few the true rate may well be "
            f"{screen.false_alarm_interval[1]:.2g}. That is not proven.{_proven_instead(screen)}"
            f"{_if_suspects_are_good(screen)}"
        )
    caution += _if_suspects_are_good(screen)
    if screen.confidence is None:
        return f"On average a share of at most {screen.alpha:g} of normal images is flagged by mistake.{caution}"
    return (
        f"With {100 * screen.confidence:g} % confidence in this calibration set, a share of at most "
        f"{screen.alpha:g} of normal images is flagged by mistake.{caution}"
    )


def _proven_instead(screen: Screen) -> str:
    """Say how the rate is proven, where a share of the images that were left out in turn would be enough for that."""
    smallest = smallest_alpha(round(SHARE * screen.facts["calibration"]["images"]))
    if smallest is None or smallest > screen.alpha:
        return ""
    return f" It would be with --calibration {SHARE:g}, which holds images out, for a less steady threshold."


def _if_suspects_are_good(screen: Screen) -> str:
    """Say what was left out of the calibration as suspect, and what the rate is at most if all of it is good."""
    left_out = screen.facts.get("calibration", {}).get(LEFT_OUT)
    if left_out is None:
        return ""
    if not any(left_out.values()):
        return f" No calibration image was left out as suspect. {_STAYED}"
    calibrator = screen.calibrator
    rates = [
        calibrator.rate_with(left_out.get(group or "", 0), screen.alpha, screen.confidence, screen.guarantee, group)
        for group in calibrator.sizes
    ]
    return (
        f" That holds if what looked bad and was left out ({counted(sum(left_out.values()), 'calibration image')}) is "
        f"bad; if all of it is good, the share is at most {max(rates):.2g} (`recondite info --json` names the images). "
        f"{_STAYED}"
    )

"""Words about screens: the names of their scores, and what they rest on."""

from collections.abc import Mapping, Sequence
from typing import Any

from recondite.progress import counted

AUTO, EVIDENCE, ERROR = "auto", "evidence", "error"
"""The other two together; the distance of all statistics; the detector's error."""
UNUSED_DEFECTS = "known defects are not used"
"""How a remark begins that says why a screen did not learn known defects."""
CLASSIFIER = "classifier"


def names_of_scores(statistics: Sequence[str], classifier: bool) -> tuple[str, ...]:
    """Return the scores of a screen with evidence.

    Args:
        statistics: that the evidence looks at.
        classifier: whether it looks at the features of a classifier.
    """
    return (AUTO, EVIDENCE, ERROR, *((CLASSIFIER,) if classifier else ()), *statistics)


def caution(classifier: bool) -> str:
    """Return what a promise rests on beside calibration images unknown to the detector, as a sentence or "".

    Args:
        classifier: whether the screen looks at the features of a classifier.
    """
    return " It holds if the classifier has not learnt from the calibration images either." if classifier else ""


def parts_in_words(shares: Mapping[str, float]) -> str:
    """Name the parts of a guard, with the share of alpha that each has where there are several."""
    return ", ".join(part if len(shares) == 1 else f"{part} ({share:.2g} of alpha)" for part, share in shares.items())


def units_in_words(units: Mapping[str, int]) -> str:
    """Say how many images belong together, from a screen's facts."""
    return (
        f"{units['images']:,} images belong together in {counted(units['units'], 'unit')}, {units['largest']:,} in the "
        "largest; of each unit one image calibrates (--group-by none: every image for itself)"
    )


def gain_in_words(facts: Mapping[str, Any]) -> str:
    """Say what known defects are worth, from the facts of `Taught`."""
    (before, after), (others_before, others_after) = facts["known"], facts["unseen"]
    with_margin = "" if "told" not in facts else " ({:.3f} -> {:.3f} with a margin)".format(*facts["told"])
    return (
        f"AUROC of defects like the {counted(facts['images'], 'known one')} {before:.3f} -> {after:.3f}{with_margin}, "
        f"of made-up defects of unseen kinds {others_before:.3f} -> {others_after:.3f} (cross-validated)"
    )

"""What an update of a screen has changed: in two lines, and as a page."""

from pathlib import Path
from typing import Any

from recondite.errors import InputError
from recondite.progress import counted
from recondite.reports.figures import plot_scores
from recondite.reports.page import TablePage
from recondite.reports.words import made_from
from recondite.screen.in_turn import alpha_for
from recondite.screen.screen import Screen


def update_rows(after: Screen) -> list[tuple[str, str, str]]:
    """Return what the last update of a screen has changed, as rows of measure, before and after.

    Raises:
        InputError: the screen was not updated.
    """
    change = _change(after)
    past = after.facts["versions"][-1]
    rows = [
        ("version", past["version"], past["version"] + 1),
        ("learnt from", f"{past['learnt']:,}", f"{past['learnt'] + change['learnt']:,}"),
        ("judges by", *change["score"]),
        ("calibration images", *(f"{count:,}" for count in change["calibration"])),
        ("threshold", *map(_thresholds, change["thresholds"])),
        ("true false-alarm rate, 95 % interval", *(f"{low:.4f} to {high:.4f}" for low, high in change["interval"])),
        ("median score of new good images", *(f"{value:.6g}" for value in change["median_score"])),
    ]
    if change["flagged"] is not None:
        rows.append(("new good images flagged", *(f"{value:.1%}" for value in change["flagged"])))
    if change["auroc"] is not None:
        rows.append(("AUROC of made-up defects in them", *(f"{value:.4f}" for value in change["auroc"])))
    return [(str(name), str(one), str(other)) for name, one, other in rows]


def update_in_words(after: Screen) -> tuple[str, str]:
    """Say in two lines what the last update of a screen has changed.

    Raises:
        InputError: the screen was not updated.
    """
    change = _change(after)
    count, (old, new), (low, high) = after.facts["version"], change["calibration"], change["interval"][1]
    known = f", {change['known']:,} that it knew do not calibrate" if change["known"] else ""
    first = (
        f"version {count}: learnt from {counted(change['learnt'], 'further image')}{known}; calibrated on {new:,} "
        f"(before: {old:,}), threshold {' -> '.join(map(_thresholds, change['thresholds']))}, true false-alarm rate "
        f"{low:.3f} to {high:.3f} (95 % interval)"
    )
    second = f"of {counted(change['images'], 'new good image')}: median score {_arrow(change['median_score'], '.4g')}"
    if change["flagged"] is not None:
        second += f", flagged {_arrow(change['flagged'], '.1%')}"
    if change["auroc"] is not None:
        second += f"; made-up defects in them: AUROC {_arrow(change['auroc'], '.3f')}"
    return first, second


def alpha_in_words(before: Screen, after: Screen) -> str:
    """Say that more images allow a smaller alpha, where it was as small as those of before allowed; else ""."""
    counts = [len(screen.calibrator.scores) for screen in (before, after)]
    old, new = (alpha_for(count, None) for count in counts)
    if before.confidence is not None or before.calibrator.groups is not None or not before.alpha == old > new:
        return ""
    return (
        f"alpha stays {old:g}, the smallest that {counted(counts[0], 'calibration image')} allowed; {counts[1]:,} "
        f"allow {new:g}: recondite predict --alpha {new:g}"
    )


def write_update_page(path: Path, before: Screen, after: Screen, title: str) -> None:
    """Write before and after as one offline HTML file.

    Raises:
        InputError: the screen was not updated.
    """
    figures = []
    for name, screen in (("before", before), ("after", after)):
        figures.append(plot_scores({"calibration": screen.calibrator.scores}, screen.threshold))
        figures[-1].set_title(name, fontsize=10)
    page = TablePage(
        title=title,
        lead=" ".join(f"{line[:1].upper()}{line[1:]}." for line in update_in_words(after)),
        columns=["measure", "before", "after"],
        rows=update_rows(after),
        note="The new good images were unknown to both detectors. After, they are those that calibrate, and the share "
        "flagged is near alpha by construction; before, it is how the old threshold did on them. Scores of two "
        "detectors have no common unit; the AUROC has none.",
        figures=figures,
        made=made_from(after),
    )
    page.write(path)


def _change(after: Screen) -> dict[str, Any]:
    change = after.facts.get("update")
    if change is None:
        raise InputError("this screen was not updated: there is nothing before it to compare with")
    found: dict[str, Any] = change
    return found


def _thresholds(named: list[list[Any]]) -> str:
    return ", ".join(f"{value:.6g} {group or ''}".strip() for group, value in named)


def _arrow(pair: list[float], form: str) -> str:
    return f"{pair[0]:{form}} -> {pair[1]:{form}}"

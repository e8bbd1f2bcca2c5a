"""What a screen, or a guard, is and promises, as rows of a table, for terminals and notebooks."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recondite.options import shown_options
from recondite.progress import counted
from recondite.screen.guard_facts import BY_TABLE, HEAD, IN_GRAPH, SENT, GuardFacts
from recondite.screen.promise import promise
from recondite.screen.screen import Screen
from recondite.screen.words import gain_in_words, parts_in_words, units_in_words
from recondite.short_repr import html_table
from recondite.statistics.calibration import threshold_rules

if TYPE_CHECKING:
    from recondite.screen.guard import Guard

_MOST_CLASSES = 20


def screen_rows(screen: Screen) -> list[tuple[str, str]]:
    """Return what a screen is and what it promises, as rows of a table."""
    low, high = screen.false_alarm_interval
    best = screen.detector.history.best_validation
    facts, preprocessing = screen.facts, screen.detector.preprocessing
    units = facts.get("units")
    return [
        ("detector", screen.detector.name),
        ("image", " x ".join(map(str, screen.detector.shape))),
        *([("values", "{:g} to {:g}".format(*preprocessing.value_range))] if preprocessing.value_range else []),
        *([("what counts", preprocessing.region_in_words)] if preprocessing.restricted else []),
        ("options", ", ".join(f"{name}={value}" for name, value in shown_options(screen.detector.options).items())),
        ("judges by", _score_in_words(screen)),
        *([("version", str(facts["version"]))] if "version" in facts else []),
        ("learnt from", counted(facts.get("images", {}).get("images", 0), "image")),
        *([("known defects", gain_in_words(facts["known_defects"]))] if "known_defects" in facts else []),
        *([("belong together", units_in_words(units))] if units and units["units"] < units["images"] else []),
        ("validation error", "none" if best is None else f"{best:.6g}"),
        (
            "calibrated on",
            ", ".join(
                f"{counted(size, 'image')} {group or ''}".strip() for group, size in screen.calibrator.sizes.items()
            ),
        ),
        (
            "alpha",
            f"{screen.alpha:g}"
            + (f" with {100 * screen.confidence:g} % confidence ({screen.guarantee})" if screen.confidence else ""),
        ),
        ("true false-alarm rate", f"{low:.4f} to {high:.4f} (95 % interval)"),
        ("promise", promise(screen)),
        ("threshold", ", ".join(f"{value:.6g} {group or ''}".strip() for group, value in screen.thresholds.items())),
        ("unreadable images", str(facts.get("unreadable", {}).get("count", 0))),
    ]


def rule_rows(screen: Screen, normal_scores: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Return each threshold rule's "rule", "threshold" and "rate": the share of these normal scores that it flags."""
    return [
        {"rule": name, "threshold": threshold, "rate": f"{np.mean(normal_scores > threshold):.4f}"}
        for name, threshold in threshold_rules(
            screen.calibrator, screen.alpha, screen.confidence, screen.guarantee
        ).items()
    ]


def guard_rows(guard: GuardFacts) -> list[tuple[str, str]]:
    """Return what a guard is and what it promises, as rows of a table."""
    names = ", ".join(guard.classes[:_MOST_CLASSES]) + (", ..." if len(guard.classes) > _MOST_CLASSES else "")
    how = ", by predicted class" if guard.by_class else ""
    floor = guard.floor
    return [
        ("classes", f"{len(guard.classes):,}: {names}" if guard.classes else "any"),
        ("classifier", guard.classifier),
        ("parts", parts_in_words(guard.shares)),
        ("calibrated on", f"{counted(guard.calibrated_on, 'image')}{how}" if guard.calibrated_on else "as the screen"),
        ("temperature", f"{guard.temperature:.4g}"),
        *([] if floor is None else [("lowest confidence", f"{floor.confidence:.4g}"), ("promise", floor.sentence)]),
    ]


def _score_in_words(screen: Screen) -> str:
    error = getattr(screen.detector.options, "score", "unknown")
    if screen.evidence is None:
        return f"{screen.score} ({error})"
    others = ", ".join(name for name in screen.scores if name != screen.score)
    return f"{screen.score}; its error is {error}; --score also takes {others}"


def screen_html(screen: Screen) -> str:
    """Return the rows of a screen as HTML, for notebooks."""
    return html_table("screen", screen_rows(screen))


def guard_html(guard: "Guard") -> str:
    """Return the rows of a guard as HTML, for notebooks."""
    facts = GuardFacts(
        classes=guard.classes or (),
        classifier=_classifier_in_words(guard),
        shares=guard.shares,
        by_class=guard.by_class,
        calibrated_on=max((len(one.scores) for one in guard.calibrators.values()), default=0),
        temperature=guard.temperature,
        floor=guard.floor,
    )
    return html_table("guard", [*guard_rows(facts), ("alpha", f"{guard.screen.alpha:g}")])


def _classifier_in_words(guard: "Guard") -> str:
    if guard.in_graph is not None:
        return IN_GRAPH
    if guard.head is not None:
        return HEAD
    if guard.by_table:
        return BY_TABLE
    return SENT if guard.classifier is None else type(guard.classifier).__name__

"""Labels and abstentions of a guard, beside the verdicts of its screen."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from recondite.errors import InputError
from recondite.screen.classifier_outputs import Answers
from recondite.screen.decisions import Decisions
from recondite.screen.guard import Guard
from recondite.screen.screen import Screen
from recondite.service.engine.decoding import Sent
from recondite.service.engine.registry import Served
from recondite.statistics.scores import Verdicts

COLUMNS = ("label", "reason", "abstention", "predicted", "confidence")


def guard_of(served: Served, judge: Screen, sent: Sequence[Sent] = ()) -> Guard | None:
    """Return what gives the images of a request labels, or decides on those that were sent; None for neither.

    Args:
        served: what judges.
        judge: its screen at the false-alarm rate asked for.
        sent: the images.

    Raises:
        InputError: labels were sent to a guard that gives its own; labels or confidences that it does not take; or too
            few calibration images for the rate.
    """
    labelled = any(one.label is not None for one in sent)
    if not labelled and not served.guard.speaks:
        return None
    if labelled and served.guard.speaks:
        raise InputError(f"{served.name!r} has a classifier of its own: send images without labels")
    guard = served.guard if judge is served.screen else served.guard.at(judge)
    if labelled:
        guard.check([one.label for one in sent], [one.confidence for one in sent])
    return guard


def decided(
    guard: Guard, verdicts: Verdicts, sent: Sequence[Sent], groups: Sequence[str], outputs: Answers | None
) -> Decisions:
    """Return the guard's decisions on N images.

    Args:
        guard: as `guard_of` returned it.
        verdicts: N, of its screen.
        sent: the N images.
        groups: N, of the screen's calibration.
        outputs: what the guard's own classifier says; None where labels were sent.
    """
    if outputs is not None:
        return guard.decided(verdicts, list(groups), outputs)
    return guard.decide(verdicts, [one.label for one in sent], [one.confidence for one in sent], groups)


def rows_of_guard(decisions: Decisions) -> Iterator[dict[str, Any]]:
    """Yield `COLUMNS` of each image as JSON values."""
    for one in decisions:
        confidence = one.confidence if np.isfinite(one.confidence) else None
        yield dict(zip(COLUMNS, (one.label, one.reason, one.kind, one.predicted, confidence), strict=True))

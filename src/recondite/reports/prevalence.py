"""How often each class of a guard comes in a table of `recondite guard predict`."""

from collections import Counter
from dataclasses import dataclass

from recondite.data.tables import read_events
from recondite.errors import ArtifactError, InputError
from recondite.screen.decisions import FOREIGN, INVALID
from recondite.screen.guard import Guard
from recondite.screen.guard_file import load_guard
from recondite.screen.saved import holds_guard, located
from recondite.screen.screen import Screen
from recondite.statistics.label_shift import Prevalence, prevalences

TITLE = "How often each class comes"
COLUMNS = ("class", "share before", "share now", "95 % interval", "")
_PREDICTED, _ABSTENTION = "predicted", "abstention"


def prevalence_of(guard: Guard, events: str) -> list[Prevalence]:
    """Return the shares of the classes; none of a guard that was not fitted here, or of a table without predictions.

    Images that were turned away as foreign are left out: they are of no class.

    Raises:
        InputError: a table that cannot be read, or as `prevalences`.
    """
    if guard.confusion is None or guard.classes is None or "://" in events:
        return []
    came: Counter[str] = Counter()
    for row in read_events(events):
        if _PREDICTED not in row:
            return []
        if row.get(_ABSTENTION) not in (FOREIGN, INVALID) and row[_PREDICTED]:
            came[str(row[_PREDICTED])] += 1
    return prevalences(guard.confusion, [came[name] for name in guard.classes], guard.classes)


@dataclass(frozen=True)
class ClassShares:
    """How often each class comes, as a table to be shown.

    Args:
        rows: of `COLUMNS`, one for each class; none where there is no guard, or nothing to tell shares by.
        unknown: why the shares cannot be told, as a sentence; empty where they can, or where nobody asked.
    """

    rows: list[tuple[str, ...]]
    unknown: str = ""


def class_shares(screen: Screen, folder: str, events: str) -> ClassShares:
    """Return how often each class comes, where the folder of a screen holds a guard and the table what it predicted.

    Args:
        screen: loaded from the folder.
        folder: as the user gave it.
        events: table of `recondite guard predict`.
    """
    if not holds_guard(folder):
        return ClassShares([])
    try:
        found = prevalence_of(load_guard(screen, located(folder)), events)
    except (ArtifactError, InputError) as error:
        return ClassShares([], f"{TITLE} cannot be told: {error}.")
    return ClassShares(
        [
            (one.name, f"{one.before:.3f}", f"{one.share:.3f}", f"{one.low:.3f} to {one.high:.3f}", one.in_words)
            for one in found
        ]
    )

"""How often each class of a guard comes in a table of `recondite guard predict`."""

from collections import Counter
from collections.abc import Iterator, Sequence

from recondite.data.tables import read_events
from recondite.screen.decisions import FOREIGN, INVALID
from recondite.screen.guard import Guard
from recondite.statistics.label_shift import Prevalence, prevalences

COLUMNS = ("class", "share before", "share now", "95 % interval", "")
_PREDICTED, _ABSTENTION = "predicted", "abstention"


def prevalence_of(guard: Guard, events: str) -> list[Prevalence]:
    """Return the shares of the classes; none of a guard that was not fitted here, or of a table without predictions.

    Images that were turned away as foreign are left out: they are of no class.

    Raises:
        InputError: a table that cannot be read, or as `prevalences`.
    """
    if guard.confusion is None or guard.labels is None or "://" in events:
        return []
    came: Counter[str] = Counter()
    for row in read_events(events):
        if _PREDICTED not in row:
            return []
        if row.get(_ABSTENTION) not in (FOREIGN, INVALID) and row[_PREDICTED]:
            came[str(row[_PREDICTED])] += 1
    return prevalences(guard.confusion, [came[name] for name in guard.labels], guard.labels)


def prevalence_rows(found: Sequence[Prevalence]) -> Iterator[tuple[str, ...]]:
    """Yield a row of `COLUMNS` for each class."""
    for one in found:
        yield one.name, f"{one.before:.3f}", f"{one.share:.3f}", f"{one.low:.3f} to {one.high:.3f}", one.in_words

"""Images of a guard split so that what belongs together, a unit, stays together; see `recondite.data.units`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recondite.data.datasets import ImageSet
from recondite.data.images import Preprocessing
from recondite.data.spool import keys_of, one_of_each, read_all, split
from recondite.data.units import GroupBy
from recondite.errors import InputError
from recondite.screen.choose_parts import FEWEST_LOOKED_AT
from recondite.screen.in_turn import STEADY
from recondite.screen.left_out_classes import FEWEST_CLASSES
from recondite.statistics.calibration import SHARE, share_of, smallest_calibration_set, smallest_shared_alpha
from recondite.statistics.selective import fewest_accepted

_SEEN = (1, 64, 64)


@dataclass(frozen=True)
class Units:
    """The readable images of a source, and which of them belong together.

    Args:
        images: N.
        keys: (N,), of their units.
        hashes: (N,), of their pixels.
        unreadable: (id, reason) of each image of the source that is none of these.
    """

    images: ImageSet
    keys: NDArray[np.void]
    hashes: NDArray[np.void]
    unreadable: Sequence[tuple[str, str]] = ()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def names(self) -> list[str]:
        """The unit of each image (N,), as `recondite.fit` takes it."""
        return [bytes(key).hex() for key in self.keys]

    def at(self, rows: NDArray[np.intp]) -> "Units":
        """Return some of the images."""
        return Units(self.images.select(rows.tolist()), self.keys[rows], self.hashes[rows])

    def dealt(self, sizes: Sequence[int], seed: int) -> "list[Units]":
        """Return parts of the given sizes, and a last one with the rest; no unit is in two of them."""
        return [self.at(rows) for rows in split(self.keys, sizes, seed)]

    def one_of_each(self, seed: int) -> "Units":
        """Return one image of each unit, drawn at random: only these are independent evidence."""
        return self.at(one_of_each(self.keys, self.hashes, seed))

    def apart_from(self, others: "Units") -> "Units":
        """Return the images that belong to none of the others.

        Raises:
            InputError: there are none.
        """
        rows = np.flatnonzero(~np.isin(self.keys, others.keys))
        if not len(rows):
            raise InputError("expected calibration images that are no copies of those learnt from; all of them are")
        return self.at(rows)


def units_of(
    sources: Sequence[ImageSet], group_by: GroupBy, value_range: tuple[float, float] | None = None
) -> list[Units]:
    """Return the units of some sources, which are looked at small and grey.

    Args:
        sources: of images.
        group_by: what tells units, as in `recondite.fit`.
        value_range: as in `Preprocessing`.

    Raises:
        InputError: no readable image in one of them, or a `group_by` that fits none.
    """
    spools = [read_all(images, Preprocessing(shape=_SEEN, value_range=value_range)) for images in sources]
    found = []
    for images, spooled, keys in zip(sources, spools, keys_of(spools, group_by), strict=True):
        place = {name: number for number, name in enumerate(images.ids or ())}
        found.append(Units(images.select([place[name] for name in spooled.ids]), keys, spooled.hashes, spooled.bad))
    return found


def check_alpha_allowed(
    alpha: float, known: Units, chosen_on: Units, calibrated_on: Units, parts: Sequence[str] | None
) -> None:
    """Raise InputError, before a screen is fitted, where too few images would calibrate it or the guard at alpha.

    Args:
        alpha: of the guard and its screen.
        known: to fit the screen on.
        chosen_on: to choose parts on, where none are named.
        calibrated_on: to calibrate the parts on.
        parts: names of them; None where they are chosen.
    """
    counts = [len(np.unique(some.keys)) for some in (known, chosen_on, calibrated_on)]
    # All calibrate a screen of features of so few; the fit itself knows its detector.
    counts[0] = counts[0] if counts[0] < STEADY / SHARE else round(SHARE * counts[0])
    fewest, shares = min(counts if parts is None else counts[::2]), 1 if parts is None else len({*parts})
    needed = smallest_calibration_set(share_of(alpha, 1 / shares), None, "exact")
    if fewest >= needed:
        return
    ways = ["more"]
    classes = Counter(chosen_on.images.labels or ())
    if parts is None and len(classes) >= FEWEST_CLASSES:  # where one is left out, the others are the normal images
        fewest = min(fewest, counts[1] - max(classes.values()))
    smallest = smallest_shared_alpha(fewest, 1 / shares)
    if smallest is not None and (parts is not None or counts[1] >= FEWEST_LOOKED_AT):
        ways.append(f"--alpha {smallest:g} (alpha=)")
    if shares > 1 and fewest >= smallest_calibration_set(alpha, None, "exact"):
        ways.append("fewer --parts (parts=)")
    raise InputError(
        f"alpha = {alpha:g} needs at least {needed} images each to calibrate a screen, to choose the guard's parts and "
        f"to calibrate these; those given leave {counts[0]}, {counts[1]} and {counts[2]}: give {', or '.join(ways)}"
    )


def check_bound(risk: float, delta: float, bounded_on: Units) -> None:
    """Raise InputError, before the work, where so few images could not bound a risk even if no label were wrong.

    Args:
        risk: share of wrong labels.
        delta: probability with which the promise may fail.
        bounded_on: of which one of each unit counts.
    """
    count, needed = len(np.unique(bounded_on.keys)), fewest_accepted(risk, delta)
    if count < needed:
        raise InputError(
            f"an error of at most {risk:g} among accepted images cannot be promised with probability {1 - delta:g}: "
            f"that takes at least {needed:,} images, none of them with a wrong label, and those given leave {count:,}; "
            "give more, or a larger --risk (risk=)"
        )

"""Which images serve what in a fit: no unit serves two purposes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.datasets import open_images
from recondite.data.spool import FEWEST_VALIDATED, Rows, Spool, keys_of, one_of_each, read_all, split
from recondite.data.units import GroupBy
from recondite.detectors import Detector
from recondite.errors import InputError
from recondite.progress import counted
from recondite.screen.evidence import FEWEST
from recondite.screen.in_turn import FEWEST_UNITS
from recondite.screen.known import Known
from recondite.screen.words import ERROR, units_in_words
from recondite.statistics.calibration import Calibrator, Guarantee
from recondite.training.snapshots import MOST_PICTURES


@dataclass(frozen=True)
class Sets:
    """Which images serve what in a fit.

    Args:
        images: to learn from.
        validation: to choose the best epoch by; None for none.
        evidence: to learn the statistics of unseen normal images from; None for too few.
        calibration: to calibrate, one of each unit.
        calibration_labels: theirs.
        fingerprints: of "images" and "calibration".
        bad: (id, reason) of each image that could not be read.
        moved: how many images were left out of those to learn from, since their unit serves something else.
        keys: (N,) the unit of each of the images to learn from.
        sources: "images" and "calibration" -> what their rows are of.
        units: how many "images" there are, of how many "units", and how many in the "largest".
        known: all of them, with those that the screen knew before.
    """

    images: Rows
    validation: Rows | None
    evidence: Rows | None
    calibration: Rows
    calibration_labels: list[str]
    fingerprints: Mapping[str, str]
    bad: list[tuple[str, str]]
    moved: int
    keys: NDArray[np.void]
    sources: Mapping[str, Spool]
    units: dict[str, int]
    known: Known

    def facts(self) -> dict[str, Any]:
        """Return what a screen's facts say of all but the images to learn from, as JSON values."""
        return {
            "validation": {"images": len(self.validation or ())},
            "evidence": {"images": len(self.evidence or ())},
            "calibration": {"images": len(self.calibration), "fingerprint": self.fingerprints["calibration"]},
            "units": self.units,
            "moved_out_of_fit": self.moved,
            "unreadable": {"count": len(self.bad), "first": [list(entry) for entry in self.bad[:_LISTED]]},
        }


_FEWEST = {"calibration": 1, "validation": FEWEST_VALIDATED, "evidence": FEWEST}
_LISTED = 100


def shares_of(held_out: Mapping[str, object]) -> list[float]:
    """Return those of what is held out for each purpose that are shares, and no images.

    Raises:
        InputError: they leave nothing to learn from.
    """
    shares = [float(given) for given in held_out.values() if isinstance(given, float | int)]
    if not (min(shares, default=0.0) >= 0 and sum(shares) < 1):
        raise InputError(f"expected shares for {', '.join(held_out)} that leave images to learn from; got {shares}")
    return shares


def without_unused(held_out: Mapping[str, object], score: str, model: Detector) -> dict[str, object]:
    """Return what is held out for each purpose, with no share for one that is none of this score and detector."""
    used = dict(held_out)
    if score == ERROR:
        used["evidence"] = 0.0
    if not model.needs_validation and isinstance(used["validation"], float | int):
        used["validation"] = 0.0
    return used


def asked_for(held_out: Mapping[str, object], taker: Callable[..., Any]) -> list[str]:
    """Return the purposes that images, or a share other than none and the default, are held out for.

    Args:
        held_out: for each purpose: a share, or images.
        taker: whose defaults these shares have.
    """

    def asked(given: object, default: object) -> bool:
        return given not in (0, default) if isinstance(given, float | int) else given is not default

    parameters = signature(taker).parameters
    return [name for name, given in held_out.items() if asked(given, parameters[name].default)]


def check_used(
    held_out: Mapping[str, object], used: Mapping[str, object], score: str, model: Detector, taker: Callable[..., Any]
) -> None:
    """Check that what was asked for serves its purpose.

    Args:
        held_out, taker: as in `asked_for`.
        used: of it, as `without_unused` gives it.
        score: what images are judged by.
        model: the detector.

    Raises:
        InputError: it is evidence that the score does not take, or for a choice among epochs that there are not.
    """
    for name in asked_for(held_out, taker):
        if used[name] is not held_out[name]:
            why = f"score {score} takes none" if name == "evidence" else f"{model.name} has no epochs to choose from"
            raise InputError(f"{name} would change nothing: {why}")


def check_enough(
    count: int,
    groups: tuple[str, ...] | None,
    promised: tuple[float, float | None, Guarantee],
    there: str,
) -> None:
    """Check, before any work, that so many images can calibrate at a rate.

    Args:
        count: of those that calibrate.
        groups: one label each, or None.
        promised: alpha, confidence and guarantee, as in `Screen`.
        there: how many images there are, for the message.

    Raises:
        InputError: they are too few, of one of the groups.
    """
    to_be = Calibrator(np.zeros(count), groups)
    for group in to_be.sizes:
        try:
            to_be.threshold(*promised, group)
        except InputError as error:
            raise InputError(f"{error}. In all there are {there}") from error


def all_for_everything(
    spooled: Spool,
    keys: NDArray[np.void],
    seed: int,
    fresh: NDArray[np.bool_] | None = None,
    learnable: NDArray[np.bool_] | None = None,
    known: Known | None = None,
) -> Sets:
    """Return all images as those to fit, and one of each unit as those that calibrate.

    Args:
        spooled: the images.
        keys: (N,) of their units.
        seed: draws.
        fresh, learnable: (N,) as `may_calibrate` gives them; all by default.
        known: what the screen has learnt from before.
    """
    new, taken = (np.arange(len(keys)) if some is None else np.flatnonzero(some) for some in (fresh, learnable))
    chosen = one_of_each(keys, spooled.hashes, seed, new)
    counts = np.unique(keys, return_counts=True)[1]
    return Sets(
        images=spooled.rows(taken),
        validation=None,
        evidence=None,
        calibration=spooled.rows(chosen),
        calibration_labels=[spooled.labels[index] for index in chosen],
        fingerprints={"images": spooled.fingerprint(taken), "calibration": spooled.fingerprint(chosen)},
        bad=spooled.bad,
        moved=0,
        keys=keys,
        sources={"images": spooled, "calibration": spooled},
        units={"images": len(keys), "units": len(counts), "largest": int(counts.max())},
        known=Known.of([(spooled, taken, True)], known),
    )


def separate_sets(
    spooled: Spool,
    model: Detector,
    held_out: Mapping[str, object],
    masks: Path | None,
    group_by: GroupBy,
    pictures: Sequence[str],
    seed: int,
    shown: bool,
    known: Known | None = None,
) -> Sets:
    """Split the images, or open the sets given, so that no unit is in two of them.

    Images given for one purpose may also be among those for another: the order of `held_out` says which one they serve;
    to fit comes last. A share too small for its purpose is left to fit.

    Args:
        spooled: the images.
        model: that will learn.
        held_out: purpose -> a share of the images, or other images.
        masks: a folder of masks of such other images; None for none.
        group_by: what tells units.
        pictures: ids of validation images that are to be rebuilt after chosen epochs.
        seed: draws.
        shown: show progress on standard error.
        known: what was learnt from before: what belongs together with it can only be learnt from.

    Raises:
        InputError: no images are left to fit or to calibrate, or pictures that are not among those for validation.
    """
    shares = {name: given if isinstance(given, float | int) else 0.0 for name, given in held_out.items()}
    spools = dict.fromkeys(held_out, spooled)
    for name, given in held_out.items():
        if given is not None and not isinstance(given, float | int):
            opened = open_images(given, role="inliers", shape=model.shape, masks=masks)
            spools[name] = read_all(opened, model.preprocessing, shown)
    different = list({id(part): part for part in (spooled, *spools.values())}.values())
    keys = dict(zip(map(id, different), keys_of(different, group_by), strict=True))

    may = {id(part): may_calibrate(part, model, known, group_by, keys[id(part)]) for part in different}
    fresh = {name: told[0] for name, told in may.items()}
    asked = np.flatnonzero(fresh[id(spooled)])
    sizes = [round(share * len(asked)) for share in shares.values()]
    *parts, fitting = (asked[part] for part in split(keys[id(spooled)][asked], sizes, seed))
    indices = dict(zip(held_out, parts, strict=True))
    fitting = np.concatenate([fitting, np.flatnonzero(may[id(spooled)][1] & ~fresh[id(spooled)])])
    taken = spooled.hashes[:0]
    for name, part in spools.items():
        if part is not spooled:
            indices[name] = np.flatnonzero(fresh[id(part)])
        elif len(indices[name]) < _FEWEST[name]:
            fitting, indices[name] = np.concatenate([fitting, indices[name]]), indices[name][:0]
        own = keys[id(part)][indices[name]]
        indices[name] = indices[name][~np.isin(own, taken)]
        taken = np.concatenate([taken, own])
    free = ~np.isin(keys[id(spooled)][fitting], taken)
    fitting, moved = fitting[free], int(np.sum(~free))
    part = spools["calibration"]
    calibrating = one_of_each(keys[id(part)], part.hashes, seed, indices["calibration"])
    indices["calibration"] = calibrating
    together = np.unique(np.concatenate(list(keys.values())), return_counts=True)[1]
    units = {"images": int(together.sum()), "units": len(together), "largest": int(together.max())}
    too_few = known is None and len(different) == 1 and len(together) < FEWEST_UNITS
    if too_few or len(fitting) == 0 or len(calibrating) == 0:
        raise InputError(
            f"{how_many(spooled, units)}: {len(fitting)} to fit and {len(calibrating)} to calibrate are too few: "
            f"give at least {FEWEST_UNITS} different images, or others for calibration= (--calibration)"
        )
    indices["validation"] = _pictured_first(indices["validation"], spools["validation"].ids, pictures)
    chosen = {name: part.rows(indices[name]) if len(indices[name]) else None for name, part in spools.items()}
    calibration = chosen["calibration"]
    assert calibration is not None
    evidence = chosen["evidence"]
    return Sets(
        images=spooled.rows(fitting),
        validation=chosen["validation"],
        evidence=evidence if evidence is not None and len(evidence) >= FEWEST else None,
        calibration=calibration,
        calibration_labels=[part.labels[index] for index in calibrating],
        fingerprints={"images": spooled.fingerprint(fitting), "calibration": part.fingerprint(calibrating)},
        bad=[entry for part in different for entry in part.bad],
        moved=moved,
        keys=keys[id(spooled)][fitting],
        sources={"images": spooled, "calibration": part},
        units=units,
        known=Known.of(
            [
                (spooled, fitting, True),
                *((part, indices[name], name != "calibration") for name, part in spools.items()),
            ],
            known,
        ),
    )


def may_calibrate(
    images: Spool, model: Detector, known: Known | None, group_by: GroupBy, keys: NDArray[np.void]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which images belong together with none that was learnt from (n,), and which may be learnt from (n,).

    A network that is trained learns from known images again; sums have them already.

    Args:
        images: those asked about.
        model: that would learn.
        known: what it has learnt from; None for nothing.
        group_by, keys: of the units of the images.
    """
    every = np.full(len(images), True)
    if known is None:
        return every, every
    return ~known.met(images, group_by, keys), every if model.trains_by_steps else ~known.same(images)


def _pictured_first(index: NDArray[np.intp], ids: Sequence[str], pictures: Sequence[str]) -> NDArray[np.intp]:
    """Return the rows with those in front whose ids are wanted: the first ones are pictured."""
    rows = {ids[row]: row for row in index}
    missing = [name for name in pictures if name not in rows]
    if missing or isinstance(pictures, str) or len(set(pictures)) < len(pictures) or len(pictures) > MOST_PICTURES:
        raise InputError(
            f"expected pictures to be at most {MOST_PICTURES} different ids of validation images; got "
            f"{missing[0] if missing else pictures!r}"
        )
    first = np.array([rows[name] for name in pictures], dtype=np.intp)
    return np.concatenate([first, index[~np.isin(index, first)]])


def how_many(spooled: Spool, units: Mapping[str, int]) -> str:
    """Say how many images there are, and how many of them tell something of their own."""
    count, different = len(spooled), len(np.unique(spooled.hashes))
    if units["units"] < min(different, units["images"]):
        return units_in_words(units)
    if different == count:
        return counted(count, "image")
    return f"{count:,} images, {'all identical' if different == 1 else f'of which {different:,} differ'}"

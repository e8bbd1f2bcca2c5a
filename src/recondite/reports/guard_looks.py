"""What a guard that speaks for itself makes of test images, for a report on it: one look at each image."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from recondite.data.datasets import open_images
from recondite.data.layouts import Role
from recondite.errors import InputError
from recondite.progress import progress as show
from recondite.screen.classifier_outputs import Floats, Outputs
from recondite.screen.decisions import Decisions
from recondite.screen.guard import Guard
from recondite.screen.make_guard import with_every_part


@dataclass(frozen=True)
class Looks:
    """What a guard makes of N readable images.

    Args:
        outputs: of its classifier, with the true classes; -1 for an image of none.
        parts: part -> (N,), how foreign each image is, for every part that the guard can find.
        suspicion: (N,), -log of the smallest p-value over share of alpha among the parts that it decides by.
        kept: bool (N,), whether it gives a label.
        unreadable: how many further images could not be read, or got no finite answer.
    """

    outputs: Outputs
    parts: Mapping[str, Floats]
    suspicion: Floats
    kept: NDArray[np.bool_]
    unreadable: int


def looks_at(guard: Guard, images: object, role: Role, progress: bool = False) -> Looks:
    """Return what a guard makes of test images.

    Args:
        guard: one whose classifier speaks for itself.
        images: anything that `open_images` opens.
        role: "inliers", whose classes are their labels or the folders that they lie in, or "outliers", which have none.
        progress: show progress on standard error.

    Raises:
        InputError: no image can be read, an inlier is of no class of the guard, or the guard does not speak for itself.
    """
    if not guard.speaks:
        raise InputError("the classifier of this guard does not speak for itself: give tables of its outputs")
    every, unreadable = with_every_part(guard), 0
    ids: list[str] = []
    classes: list[int] = []
    found: list[dict[str, Floats]] = []
    logits, suspicion, kept = [], [], []
    opened = open_images(images, role=role, shape=guard.detector.shape)
    with show(f"measuring by {role}", opened.size, progress) as advance:
        for scores, labels, said in every.measured(opened):
            good = np.flatnonzero(np.isfinite(scores.instance_score) & said.valid)
            decisions = guard.decided(scores, labels, said)
            names = guard.classes or tuple(map(str, range(said.logits.shape[1])))
            for index in good:
                ids.append(scores.ids[index])
                classes.append(_class_of(scores.ids[index], labels[index], names) if role == "inliers" else -1)
            found.append({part: values[good] for part, values in every.scores(scores, said).items()})
            logits.append(said.logits[good])
            suspicion.append(_suspicion(guard, decisions)[good])
            kept.append(~decisions.abstained[good])
            unreadable += len(scores) - len(good)
            advance(len(scores), "")
    if not ids:
        raise InputError(f"not one image of the {role} could be read")
    return Looks(
        Outputs(ids=tuple(ids), logits=np.concatenate(logits), labels=np.array(classes, dtype=np.int64)),
        {part: np.concatenate([one[part] for one in found]) for part in every.shares},
        np.concatenate(suspicion),
        np.concatenate(kept),
        unreadable,
    )


def _class_of(name: str, label: str, classes: tuple[str, ...]) -> int:
    folder = PurePosixPath(name).parent.name
    given = next((one for one in (label, folder) if one in classes), None)
    if given is None:
        raise InputError(
            f"{name}: expected a class of the guard ({', '.join(classes)}) as its label or folder; got "
            f"{repr(label or folder) if label or folder else 'neither'}"
        )
    return classes.index(given)


def _suspicion(guard: Guard, decisions: Decisions) -> Floats:
    """Return -log of the smallest p-value over share of alpha; infinite where a class has no calibration."""
    of_share = np.stack([decisions.p_values[part] / share for part, share in guard.shares.items()])
    return np.where(np.isnan(of_share).any(axis=0), np.inf, -np.log(of_share.min(axis=0)))

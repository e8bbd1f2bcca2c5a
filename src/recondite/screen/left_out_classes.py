"""Near outliers made of labels alone: the images of one class, to scores that were learnt from the other classes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recondite.errors import InputError
from recondite.screen.choose_parts import Judged
from recondite.screen.classifier_outputs import CONFIDENCE
from recondite.screen.linear_head import FEATURE_RULES, learnt
from recondite.statistics.classifier_scores import NEIGHBOUR, max_softmax
from recondite.torch_state import own_settings

FEWEST_CLASSES = 3
"""Of which a classifier that was trained without one still tells two apart."""
_MOST_CLASSES, _FEWEST_IMAGES = 5, 10


@dataclass(frozen=True)
class ClassedVectors:
    """What a backbone or classifier gave for N images with classes.

    Args:
        vectors: float32 (N, F).
        classes: (N,), from 0 to K - 1.
        logits: float32 (N, K); None where a linear head is yet to be learnt.
    """

    vectors: NDArray[np.float32]
    classes: NDArray[np.integer]
    logits: NDArray[np.float32] | None = None

    def only(self, rows: NDArray[np.bool_]) -> "ClassedVectors":
        """Return some of the images."""
        return ClassedVectors(
            self.vectors[rows], self.classes[rows], None if self.logits is None else self.logits[rows]
        )

    def without(self, place: int) -> "ClassedVectors":
        """Return the images of the other classes, which are numbered anew, and their logits."""
        some = self.only(self.classes != place)
        logits = None if some.logits is None else np.delete(some.logits, place, axis=1)
        return ClassedVectors(some.vectors, some.classes - (some.classes > place), logits)


@own_settings()
def left_out_classes(
    learnt_from: ClassedVectors, held: ClassedVectors, classes: int, shrinkage: float
) -> Mapping[int, tuple[Judged, Judged]]:
    """Return class -> held-out images of the other classes, and its own, judged by what never learnt it.

    A linear head and its rules are learnt anew without the class, so they know nothing of it. Of a classifier that is
    given only the rules are, and its logit of the class is left out: its features still know it, so that they look
    better than they would on a class that is new. Of two classes one is left, which tells about rules that look at the
    features alone. At most five classes are left out, those with most held-out images, none that has fewer than ten,
    and none without which fewer than five images are left to learn from.

    Args:
        learnt_from: images to learn from.
        held: others.
        classes: K, at least 2 with a linear head, 3 of a classifier that is given.
        shrinkage: as in `Learning.head`.

    Raises:
        InputError: fewer classes.
    """
    fewest = 2 if learnt_from.logits is None else FEWEST_CLASSES
    if classes < fewest:
        raise InputError(f"expected {fewest} classes or more to leave one out; got {classes}")
    counts = np.bincount(held.classes, minlength=classes)
    known = np.bincount(learnt_from.classes, minlength=classes)
    found: dict[int, tuple[Judged, Judged]] = {}
    for place in np.argsort(-counts, kind="stable")[:_MOST_CLASSES].tolist():
        others = np.delete(known, place)
        if not _FEWEST_IMAGES <= counts[place] < len(held.classes) or not others.all() or others.sum() < NEIGHBOUR:
            continue
        some = learnt_from.without(place)
        learning = learnt([(some.vectors, some.classes.tolist(), some.logits)], classes - 1, len(some.classes))
        head = learning.head(shrinkage) if learnt_from.logits is None else None
        rules = learning.rules(head)
        vectors = torch.from_numpy(held.vectors)
        if head is not None:
            logits = head(vectors)
        else:
            assert held.logits is not None
            logits = torch.from_numpy(np.delete(held.logits, place, axis=1))
        if classes == 2:  # what is left has no logit to compare with another
            scores, predicted = rules(vectors, logits, FEATURE_RULES), None
        else:
            scores = {CONFIDENCE: max_softmax(logits), **rules(vectors, logits)}
            predicted = [str(one) for one in logits.argmax(1).tolist()]
        own = held.classes == place
        every = Judged({name: values.double().numpy() for name, values in scores.items()}, predicted)
        found[place] = every.only(~own), every.only(own)
    return found

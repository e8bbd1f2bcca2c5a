"""Near outliers made of labels alone: the images of a class, to classifiers that were trained without it."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from recondite.data.datasets import ImageSet
from recondite.data.images import Preprocessing
from recondite.screen.choose_parts import Judged, LeftOutClasses
from recondite.screen.classifier_outputs import CONFIDENCE
from recondite.screen.left_out_classes import FEWEST_CLASSES
from recondite.screen.linear_head import learnt
from recondite.screen.looking import Learnable, features_of
from recondite.screen.tuned_classifier import Kept, TunedClassifier, weighted
from recondite.statistics.classifier_scores import max_softmax

Train = Callable[[ImageSet, Sequence[str]], Kept]
"""Images with classes as labels, and the names of the classes in the order of the logits, to a classifier."""
_CLASSES = 2
_BEFORE = (1.0, 0.5, 0.25, 0.0, math.inf)  # weights of what a network saw before it was fine-tuned


def trained_without(
    train: Train,
    images: ImageSet,
    held: ImageSet,
    names: Sequence[str],
    seen: Preprocessing,
    most: int | None = None,
) -> dict[float, LeftOutClasses]:
    """Return what classifiers that are trained without a class say of it, for the two with most held-out images.

    By the weight of what the network saw before, of which there are several for one that was fine-tuned and has it with
    weight 1; else 1 stands for the features as they are. Nothing of two classes.

    Args:
        train: makes a classifier; called once for each class that is left out.
        images: to learn from.
        held: others.
        names: of the classes.
        seen: of the images that the classifier takes.
        most: how many images each classifier learns from, drawn at random; None for all.

    Raises:
        InputError: the classifier gives no features.
    """
    if len(names) < FEWEST_CLASSES:
        return {}
    found: dict[float, dict[str, tuple[Judged, Judged]]] = {}
    for name, _ in Counter(held.labels or ()).most_common(_CLASSES):
        others = tuple(one for one in names if one != name)
        rows = [index for index in range(images.size or 0) if images.label(index) != name]
        some = images.select(np.random.default_rng(0).permutation(rows)[:most].tolist())
        classifier = train(some, others)
        looked: Iterable[Learnable] = features_of(classifier, seen, some, others)
        weights: tuple[float, ...] = (1.0,)
        if isinstance(classifier, TunedClassifier) and classifier.before == 1:
            looked, weights = list(looked), _BEFORE
        rules = {}
        for before in weights:
            batches = ((_weighted(classifier, features, before), places, logits) for features, places, logits in looked)
            rules[before] = learnt(batches, len(others), some.size or 0).rules()
        scores: dict[float, dict[str, list[NDArray[np.float64]]]] = {before: {} for before in weights}
        own: list[int] = []
        predicted: list[str] = []
        for features, places, logits in features_of(classifier, seen, held, names):
            said = torch.from_numpy(np.asarray(logits))
            for before, rule in rules.items():
                vectors = torch.from_numpy(_weighted(classifier, features, before))
                for part, values in {CONFIDENCE: max_softmax(said), **rule(vectors, said)}.items():
                    scores[before].setdefault(part, []).append(values.double().numpy())
            own += places
            predicted += [others[place] for place in said.argmax(1).tolist()]
        inside = np.array(own) == names.index(name)
        for before, parts in scores.items():
            judged = Judged({part: np.concatenate(values) for part, values in parts.items()}, predicted)
            found.setdefault(before, {})[name] = judged.only(~inside), judged.only(inside)
    return dict(found)


def _weighted(classifier: Kept, features: NDArray[np.float32], before: float) -> NDArray[np.float32]:
    if not isinstance(classifier, TunedClassifier):
        return features
    return weighted(features, classifier.weight.shape[1], before)

"""What a backbone or a classifier makes of images with classes, batch by batch, for a head and rules to learn from."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recondite.data.batch_size import full_batch
from recondite.data.datasets import Batch, ImageSet, read_batches
from recondite.data.images import Preprocessing
from recondite.detectors import Detector
from recondite.detectors.features import Features
from recondite.errors import InputError
from recondite.progress import progress
from recondite.screen.classifier_outputs import Told, as_logits, ask
from recondite.screen.tuned_classifier import Kept

_LOOKED_AT = 8
Learnable = tuple[NDArray[np.float32], list[int], NDArray[np.float32] | None]
"""Vectors (n, F), the numbers of the classes, and logits (n, K) where there are any."""


def vectors_of(detector: Detector, images: ImageSet, names: Sequence[str], shown: bool = False) -> Iterator[Learnable]:
    """Yield the vectors of whole images that a screen's backbone gives; show progress on standard error if `shown`.

    Raises:
        InputError: the detector is not "features".
    """
    if not isinstance(detector, Features):
        raise InputError("a linear head needs a screen of the detector 'features', whose backbone it looks through")

    def look(ready: Any, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        painted = ready.painted(pixels)
        return {"vectors": ready.vectors.of_images(painted, ready.inside(painted))}

    for batch in _counted(read_batches(images, detector.preprocessing, detector.scoring_batch), images, shown):
        if len(batch.pixels):
            found = detector.run(batch.pixels, look, "vectors")["vectors"]
            yield found, _classes(batch, names), None


def features_of(
    classifier: Kept | Told, preprocessing: Preprocessing, images: ImageSet, names: Sequence[str], shown: bool = False
) -> Iterator[Learnable]:
    """Yield the features and logits that a classifier gives; show progress on standard error if `shown`.

    Raises:
        InputError: it gives no features.
    """
    for batch in _counted(read_batches(images, preprocessing, full_batch(prod(preprocessing.shape))), images, shown):
        if len(batch.pixels):
            logits, features = asked(classifier, batch)
            if features is None:
                raise InputError("expected a classifier that gives its features beside its logits")
            fine = (logits.isfinite().all(1) & features.isfinite().all(1)).numpy()
            classes = np.array(_classes(batch, names))[fine].tolist()
            yield features.numpy()[fine], classes, logits.numpy()[fine]


def gives_features(
    classifier: Kept | Told, preprocessing: Preprocessing, images: ImageSet, names: Sequence[str]
) -> bool:
    """Return whether a classifier gives features, by its answers for a few images.

    Raises:
        InputError: it gives no logits of these classes.
    """
    logits, features = asked(classifier, next(read_batches(images, preprocessing, _LOOKED_AT)))
    told = logits.shape[1]
    if told == 1:
        raise InputError(
            "expected a logit for each class; got one in all: a classifier that tells two classes by one output needs "
            "another logit for the first class, 0"
        )
    if told != len(names):
        raise InputError(
            f"the classifier tells {told} classes; got {len(names)} labels ({', '.join(names)}): name its classes in "
            "the order of its logits (--classes, labels=)"
        )
    as_logits(
        logits.double().cpu().numpy(),
        "leave the classifier's last softmax out, or give a table of its outputs with columns probability.0, "
        "probability.1, ...",
    )
    return features is not None


def asked(classifier: Kept | Told, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the logits and features of the readable images."""
    return ask(classifier, None, torch.from_numpy(batch.pixels), [batch.ids[i] for i in np.flatnonzero(batch.good)])


def _counted(batches: Iterator[Batch], images: ImageSet, shown: bool) -> Iterator[Batch]:
    with progress("learning the classes", images.size, shown) as advance:
        for batch in batches:
            yield batch
            advance(len(batch.ids), "")


def _classes(batch: Batch, names: Sequence[str]) -> list[int]:
    """Return the numbers of the classes of the readable images."""
    return [names.index(batch.labels[index]) for index in np.flatnonzero(batch.good)]

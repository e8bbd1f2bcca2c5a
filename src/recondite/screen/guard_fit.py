"""Fitting a guard: parts are chosen, calibrated and bounded by risk on separate images."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.datasets import ImageSet
from recondite.data.images import Preprocessing
from recondite.data.units import COPIES, GroupBy, labels_of
from recondite.detectors.remembered import remembering
from recondite.errors import InputError, did_you_mean
from recondite.networks.backbones import VARIANTS
from recondite.progress import progress as show
from recondite.screen.calibrate import unknown_images
from recondite.screen.choose_parts import (
    Judged,
    LeftOutClasses,
    best_telling,
    classes_where_enough,
    equal_shares,
    unchosen_parts,
)
from recondite.screen.classes import check_classes, with_classes
from recondite.screen.classifier_outputs import CONFIDENCE, TABLES, Told, read_outputs
from recondite.screen.fine_tune import check_blocks, fine_tuned
from recondite.screen.fit import fit
from recondite.screen.guard import SCREEN, Guard, check_alpha
from recondite.screen.guard_split import Units, check_alpha_allowed, check_bound, units_of
from recondite.screen.in_turn import DEFAULT_ALPHA
from recondite.screen.left_out_classes import FEWEST_CLASSES, ClassedVectors, left_out_classes
from recondite.screen.linear_head import FEATURE_RULES, RULES, Learning, Rules, learnt
from recondite.screen.looking import features_of, gives_features, vectors_of
from recondite.screen.make_guard import chosen_parts, needed_of, with_every_part
from recondite.screen.named_classifier import NamedClassifier, is_named, read_named
from recondite.screen.onnx_classifier import read_classifier
from recondite.screen.screen import Screen
from recondite.screen.trained_without import Train, trained_without
from recondite.screen.tuned_classifier import Kept, TunedClassifier
from recondite.statistics.calibration import Calibrator, rate_of
from recondite.statistics.classifier_scores import fitted_temperature
from recondite.statistics.selective import Floor, confidence_floor, floors_of

LINEAR_HEAD = "linear-head"
_TUNED_ON = 1200  # images for each of two classes that are left out, which cost as much as the classifier itself
_SHRINKAGE = 0.3  # of .01 to .5 the best on halves of 3,000 cats and dogs of CIFAR-10, training split
_CLASS_MARGIN = 2

_Parted = tuple[Units, Units, Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class FittedGuard:
    """A guard, and how it came about.

    Args:
        guard: the guard.
        facts: JSON values: how many images served what, the accuracy on held-out images, what each combination caught.
    """

    guard: Guard
    facts: Mapping[str, Any]


@remembering()
def fit_guard(
    images: object,
    *,
    labels: Mapping[str, str] | None = None,
    screen: Screen | None = None,
    classifier: Kept | Told | None = None,
    fine_tune: int | None = None,
    train: Train | None = None,
    backbone: str | None = None,
    classes: Sequence[str] | None = None,
    calibration: object = None,
    held_out: float = 0.4,
    group_by: GroupBy = COPIES,
    parts: Sequence[str] | None = None,
    alpha: float | None = None,
    by_class: bool = True,
    risk: float | None = None,
    delta: float = 0.05,
    seed: int = 0,
    progress: bool = False,
) -> FittedGuard:
    """Fit a guard on images with classes.

    Held-out images are split at random, those that belong together into one part: on some, parts are chosen (with
    outliers made up from them) and the temperature is fitted; on others each part is calibrated, by predicted class
    where there are twice as many images as needed, of each that was learnt too; and with `risk`, the confidence that
    gets a label is bounded on a third set. So both promises hold whatever was chosen. Of images that belong together
    one, drawn at random, calibrates or bounds.

    Args:
        images: that the head and the rules learn from, anything that `open_images` opens but a stream.
        labels: id -> class; None for the labels of the source, or the folder that each image lies in.
        screen: of the detector "features" for a linear head; None for one that is fitted on the same images.
        classifier: one that is kept in a file; what one has said about all these images, as `Told`, where the guard
            then needs the same for what it judges; None for a linear head that is fitted here on the screen's backbone.
        fine_tune: how many of the last blocks of an EfficientNet-Lite are trained here instead, under a linear layer
            of their own: the screen's, or lite0 if it has none; a guard then looks at each image twice, as the
            screen's network stays as it is. Where parts are chosen among three classes or more, they are trained twice
            more, each time without a class, by which the weight of what the network saw before is chosen too. Of two
            classes in colour, rules look at that alone beside a screen of "features".
        train: a function of yours that trains a classifier here instead: of images with their classes as labels
            (an `ImageSet`, see `recondite.data.datasets.read_batches`) and the names of the classes, in the order of
            the logits that it is to give. It returns one with features, such as `module_classifier` makes of a torch
            network, and is called twice more, each time without a class, as with `fine_tune`: a classifier that is
            merely given knows all classes, so that none that is left out tells which rule finds what is new.
        backbone: by name or as a folder, as in `recondite.fit`, for a screen that is fitted here.
        classes: their names in the order of the classifier's logits; None for those that it has itself, or
            alphabetical order.
        calibration: images that neither the screen nor the classifier has learnt from; needed with either.
        held_out: share of `images` for that, where neither is given.
        group_by: what tells images that belong together, as in `recondite.fit`; by default near-copies and bursts.
            Calibration images that belong to those learnt from are left out.
        parts: among "screen", "confidence" and `RULES`; None to choose. What is told about images in a table says
            nothing of made-up ones: unless others are named, parts are then the screen and, of features, Mahalanobis++.
        alpha: share of normal images that may be turned away as foreign; None for the screen's, or .05.
        by_class: calibrate by predicted class where there are images enough, so that alpha holds for each; False for
            among all, so that more of one class may be turned away than of another, but fewer foreign images get a
            label where the scores of one class spread wider.
        risk: share of wrong labels among those that normal images get, at most; None for no such promise.
        delta: probability with which that may fail.
        seed: of the splits and the made-up outliers.
        progress: show progress on standard error.

    Raises:
        InputError: images without a class, unknown parts, too few images, or a risk that cannot be promised.
    """
    _check_parts(parts, (SCREEN, CONFIDENCE, *RULES))
    if (classifier, fine_tune, train).count(None) < 2:
        raise InputError("expected one of classifier, fine_tune (--fine-tune) and train, or none; got several")
    for name, rate in (("alpha", alpha), ("risk", risk), ("delta", delta)):
        if rate is not None:
            rate_of(rate, name)
    opened = with_classes(images, labels)
    if screen is not None and backbone is not None:
        raise InputError("a screen that is given has its backbone: leave backbone (--backbone) out")
    if fine_tune is not None and backbone is not None and backbone not in VARIANTS:
        raise InputError(f"expected one of {', '.join(VARIANTS)} as the backbone to fine-tune; got {backbone!r}")
    variant = next(iter(VARIANTS))
    if fine_tune is not None:
        named = backbone if screen is None else getattr(screen.detector.options, "backbone", None)
        variant = named if named in VARIANTS else variant
        check_blocks(fine_tune, variant)
    if (screen is not None or classifier is not None) and calibration is None:
        raise InputError(
            "a screen or a classifier that is given needs calibration images that neither has learnt from: give "
            "--calibration (calibration=)"
        )
    if calibration is None:
        known, held, unreadable = _parted(opened, held_out, group_by, seed)
    else:
        known, held, unreadable = _beside(opened, with_classes(calibration, labels), screen, group_by)
    number = 2 if risk is None else 3
    dealt = held.dealt([len(held) // number] * (number - 1), seed + 1)
    opened = known.images
    own_names = classifier.names if isinstance(classifier, NamedClassifier) else ()
    names = tuple(classes or own_names or sorted({*(opened.labels or ())}))
    check_classes(names, opened)
    if isinstance(classifier, Told):
        parts = parts or unchosen_parts(classifier.outputs.features is not None)
        _check_told(classifier, opened, held.images)
    if risk is not None:
        check_bound(risk, delta, dealt[2])
    if screen is None:
        detector = "features" if fine_tune is None and train is None else "auto"
        alpha = DEFAULT_ALPHA if alpha is None else alpha
        check_alpha_allowed(alpha, known, dealt[0], dealt[1], parts)
        screen = fit(
            opened,
            detector=detector,
            backbone=backbone,
            alpha=alpha,
            group_by=known.names,
            seed=seed,
            progress=progress,
        )
    elif alpha is not None:
        screen = screen.with_alpha(alpha)
    own = screen.detector.preprocessing
    if fine_tune is not None:
        plain = Preprocessing(shape=own.shape, value_range=own.value_range)
        train = partial(
            fine_tuned, preprocessing=plain, blocks=fine_tune, variant=variant, seed=seed, progress=progress
        )
    if train is not None:
        classifier = _trained(train, opened, names)
    first, *others = dealt
    chosen_on, (calibrated_on, *bounded_on) = first.images, [some.one_of_each(seed).images for some in others]
    near: LeftOutClasses = {}
    if parts is None and train is not None:
        assert isinstance(classifier, Kept)
        most = None if fine_tune is None else _TUNED_ON
        classifier, near = _trained_without_classes(train, classifier, opened, chosen_on, names, screen, most)
    guard, learning = _with_rules(screen, classifier, names, opened, progress)
    every_part = with_every_part(guard)
    _check_parts(parts, every_part.shares)
    seen = _seen(every_part, chosen_on, "held-out images", progress)
    facts: dict[str, Any] = {
        "learnt from": opened.size,
        "chosen on": len(seen.predicted),
        "accuracy": float(np.mean(~seen.wrong)),
        "unreadable": [f"{name}: {reason}" for name, reason in unreadable],
    }
    needed = partial(_needed_of_each_class, screen) if by_class else None
    if parts is None:
        if train is None or len(names) < FEWEST_CLASSES:
            near = _left_out(guard, learning, chosen_on, names)
        inliers = Judged(seen.parts, seen.predicted)
        choice = chosen_parts(every_part, chosen_on, inliers, seed, near, needed, progress)
        shares, facts["caught"], facts["left out"] = choice.shares, dict(choice.caught), dict(choice.left_out)
    else:
        shares = equal_shares(parts)
    places = np.array([names.index(one) for one in seen.true])
    guard = replace(
        guard,
        shares=shares,
        temperature=fitted_temperature(seen.logits, places),
        confusion=_confusion(seen, names),
    )
    held_seen = _seen(guard, calibrated_on, "calibrating the guard", progress)
    groups = None
    if needed is not None:  # a class without calibration would be turned away whole, and a rare one has none by chance
        groups = classes_where_enough(held_seen.predicted, needed(min(shares.values())), {*(opened.labels or ())})
    guard = replace(
        guard,
        calibrators={part: Calibrator(held_seen.parts[part], groups) for part in shares},
        by_class=groups is not None,
    )
    check_alpha(screen, guard.shares, guard.calibrators)
    facts |= {"parts": list(shares), "calibrated on": len(held_seen.predicted), "by class": guard.by_class}
    if risk is not None:
        guard = replace(guard, floor=_bounded(guard, chosen_on, bounded_on[0], risk, delta))
        facts["promise"] = guard.floor.sentence if guard.floor else ""
    return FittedGuard(guard, facts)


def _parted(images: ImageSet, held_out: float, group_by: GroupBy, seed: int) -> _Parted:
    """Return the images to learn from, a share that is held out of them, and those that cannot be read."""
    if not 0 < held_out < 1:
        raise InputError(f"expected a share of held-out images in (0, 1); got {held_out!r}")
    every = units_of([images], labels_of(images, group_by))[0]
    held, known = every.dealt([round(held_out * len(every))], seed)
    return known, held, every.unreadable


def _beside(images: ImageSet, calibration: ImageSet, screen: Screen | None, group_by: GroupBy) -> _Parted:
    """Return the images to learn from, others that nothing has learnt from, and those that cannot be read."""
    value_range, group_by = None, labels_of(images, group_by)
    if screen is not None:
        value_range = screen.detector.preprocessing.value_range
        calibration = unknown_images(screen, calibration, group_by)
    known, held = units_of([images, calibration], group_by, value_range)
    return known, held.apart_from(known), [*known.unreadable, *held.unreadable]


def _trained(train: Train, images: ImageSet, names: tuple[str, ...]) -> Kept:
    classifier = train(images, names)
    if not isinstance(classifier, Kept):
        raise InputError(
            "expected `train` to return a classifier that a guard keeps, such as `module_classifier` makes; "
            f"got {type(classifier).__name__}"
        )
    return classifier


def _trained_without_classes(
    train: Train,
    classifier: Kept,
    images: ImageSet,
    chosen_on: ImageSet,
    names: tuple[str, ...],
    screen: Screen,
    most: int | None,
) -> tuple[Kept, LeftOutClasses]:
    """Train without a class in turn, and choose by that the weight of what a network saw before.

    Args:
        train: as in `fit_guard`.
        classifier: that it has trained with all classes.
        images: with classes, to learn from.
        chosen_on: others, to choose on.
        names: of the classes.
        screen: beside the classifier.
        most: how many images of each class are enough; None for all.

    Returns:
        The classifier with that weight, and what scores say of the classes left out; nothing of two classes.
    """
    own = screen.detector.preprocessing
    shown = Preprocessing(shape=classifier.shape or own.shape, value_range=own.value_range)
    without = trained_without(train, images, chosen_on, names, shown, most=most)
    before = best_telling(without, FEATURE_RULES) if without else 1.0
    near = without.get(before, {})
    if isinstance(classifier, TunedClassifier) and classifier.before == 1:
        in_colour = classifier.shape[0] == 3
        if len(names) < FEWEST_CLASSES and in_colour and screen.detector.name == "features":
            before = math.inf
        classifier = classifier.with_before(before)
    return classifier, near


def named_classifier(name: str) -> Kept | Told | None:
    """Return a classifier by what it is called; None for `LINEAR_HEAD`.

    Args:
        name: as in `read_named`, a table of outputs by its suffix, or else an ONNX file.

    Raises:
        InputError, ArtifactError: as `read_named`, `read_outputs` and `read_classifier`.
    """
    if name == LINEAR_HEAD:
        return None
    if is_named(name):
        return read_named(name)
    return Told(read_outputs(name)) if Path(name).suffix.lower() in TABLES else read_classifier(name)


@dataclass(frozen=True)
class _Seen:
    """What a guard's parts and classifier make of N readable images, with the true classes where there are any."""

    parts: Mapping[str, NDArray[np.float64]]
    predicted: list[str]
    logits: NDArray[np.float64]
    true: list[str]

    @property
    def wrong(self) -> NDArray[np.bool_]:
        return np.array([one != other for one, other in zip(self.predicted, self.true, strict=True)], dtype=bool)


def _confusion(seen: _Seen, names: Sequence[str]) -> NDArray[np.int64]:
    """Return how many images of each true class (column) were predicted as each class (row)."""
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    for predicted, true in zip(seen.predicted, seen.true, strict=True):
        counts[names.index(predicted), names.index(true)] += 1
    return counts


def _seen(guard: Guard, images: ImageSet, title: str, shown: bool) -> _Seen:
    parts: dict[str, list[NDArray[np.float64]]] = {part: [] for part in guard.shares}
    predicted: list[str] = []
    true: list[str] = []
    logits = []
    with show(title, images.size, shown) as advance:
        for scores, labels, outputs in guard.measured(images):
            good = np.flatnonzero(np.isfinite(scores.instance_score) & outputs.valid)
            for part, values in guard.scores(scores, outputs).items():
                parts[part].append(values[good])
            logits.append(outputs.logits[good])
            predicted += [outputs.predicted[index] or "" for index in good]
            true += [labels[index] for index in good]
            advance(len(scores), "")
    if not predicted:
        raise InputError("the classifier gives finite numbers for not one held-out image")
    joined = {part: np.concatenate(values) for part, values in parts.items()}
    return _Seen(joined, predicted, np.concatenate(logits), true)


def _with_rules(
    screen: Screen, classifier: Kept | Told | None, names: tuple[str, ...], images: ImageSet, shown: bool
) -> tuple[Guard, Learning | None]:
    """Return a guard with its head and rules, learnt in one pass over images with classes, and what was learnt."""
    count = images.size or 0
    if classifier is None:
        learning = learnt(vectors_of(screen.detector, images, names, shown), len(names), count)
        head = learning.head(_SHRINKAGE)
        rules = learning.rules(head)
        return Guard(screen=screen, classifier=None, classes=names, head=head, rules=rules), learning
    shape = classifier.shape or screen.detector.shape
    told = isinstance(classifier, Told)
    guard = Guard(screen=screen, classifier=classifier, classes=names, shape=shape, rules=Rules({}), by_table=told)
    seen = Preprocessing(shape=shape, value_range=screen.detector.preprocessing.value_range)
    if not gives_features(classifier, seen, images, names):
        return guard, None
    learning = learnt(features_of(classifier, seen, images, names, shown), len(names), count)
    return replace(guard, rules=learning.rules()), learning


def _check_parts(parts: Sequence[str] | None, available: Collection[str]) -> None:
    unknown = [part for part in parts or () if part not in available]
    if unknown or (parts is not None and not parts):
        near = did_you_mean(unknown[0], available) if unknown else ""
        raise InputError(f"expected parts among {', '.join(available)}; got {', '.join(unknown) or 'none'}{near}")


def _left_out(guard: Guard, learning: Learning | None, images: ImageSet, names: Sequence[str]) -> LeftOutClasses:
    """Return what the scores say of classes that they have not learnt.

    Nothing without features, and nothing of two classes that the features have learnt.
    """
    tuned = guard.classifier if isinstance(guard.classifier, TunedClassifier) else None
    frozen = guard.head is not None or (tuned is not None and tuned.before == math.inf)
    if learning is None or (not frozen and len(names) < FEWEST_CLASSES):
        return {}
    vectors, logits, classes = (some.numpy() for some in learning.drawn())
    known = ClassedVectors(vectors, classes, None if frozen else logits)
    if guard.head is not None:
        looked = list(vectors_of(guard.screen.detector, images, names))
    else:
        assert isinstance(guard.classifier, Kept)
        looked = list(features_of(guard.classifier, guard.seen, images, names))
    held = ClassedVectors(
        np.concatenate([one for one, _, _ in looked]),
        np.concatenate([some for _, some, _ in looked]),
        None if known.logits is None else np.concatenate([some for _, _, some in looked if some is not None]),
    )
    found = left_out_classes(known, held, len(names), _SHRINKAGE)
    return {names[place]: scores for place, scores in found.items()}


def _check_told(table: Told, learnt_from: ImageSet, held: ImageSet) -> None:
    """Raise InputError where a table lacks images, or cannot tell those learnt from and held-out ones apart."""
    both = sorted({*(learnt_from.ids or ())} & {*(held.ids or ())})
    if both:
        raise InputError(
            f"{both[0]!r} is an image to learn from and a calibration image, which one table of outputs cannot tell "
            f"apart: give lists or a manifest with different ids"
        )
    table.outputs.select([*(learnt_from.ids or ()), *(held.ids or ())])


def _needed_of_each_class(screen: Screen, share: float) -> int:
    return _CLASS_MARGIN * needed_of(screen, share)


def _bounded(guard: Guard, floors_from: ImageSet, images: ImageSet, risk: float, delta: float) -> Floor:
    """Return the floor of confidence, of images that are not turned away as foreign."""
    of_others, mine = _not_foreign(guard, floors_from), _not_foreign(guard, images)
    return confidence_floor(mine[0], mine[1], floors_of(of_others[0]), risk, delta)


def _not_foreign(guard: Guard, images: ImageSet) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the confidences of images that are not turned away as foreign, and whether their label is wrong."""
    decisions = guard(images)
    kept = [index for index, kind in enumerate(decisions.kinds) if kind is None]
    if not kept:
        raise InputError("not one image is left to bound the risk by: all were turned away")
    wrong = [decisions.predicted[index] != images.label(index) for index in kept]
    return decisions.confidence[kept], np.array(wrong, dtype=bool)

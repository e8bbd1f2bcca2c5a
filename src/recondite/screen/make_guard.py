"""Guards of a screen and a classifier that is there already, with shares of alpha that are given or chosen."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial

import numpy as np
import torch
from torch import Tensor

from recondite.data.datasets import ImageSet, open_images
from recondite.data.images import Preprocessing
from recondite.data.units import COPIES, GroupBy
from recondite.errors import InputError
from recondite.graphs.exported import probe_images
from recondite.perturbations.outliers import Bytes
from recondite.progress import progress as show
from recondite.screen.calibrate import unknown_images
from recondite.screen.choose_parts import (
    Judged,
    LeftOutClasses,
    Needed,
    PartsChoice,
    choose_parts,
    equal_shares,
    made_up_outliers,
    pixels_of,
)
from recondite.screen.classifier_outputs import CONFIDENCE, FEATURES, Floats, as_logits, ask, fitted_distances
from recondite.screen.guard import SCREEN, Guard, check_alpha
from recondite.screen.linear_head import LOGIT_RULES, RULES, Rules
from recondite.screen.screen_like import ScreenLike
from recondite.statistics.calibration import Calibrator, share_of, smallest_calibration_set
from recondite.torch_state import own_settings


def make_guard(
    screen: ScreenLike,
    classifier: Callable[[Tensor], Tensor],
    classes: Sequence[str] | None = None,
    *,
    calibration: object = None,
    group_by: GroupBy = COPIES,
    by_class: bool = False,
    confidence_share: float | None = None,
    feature_share: float | None = None,
    layer: str | None = None,
    reference: object = None,
    image_shape: tuple[int, ...] | None = None,
    progress: bool = False,
) -> Guard:
    """Return a guard: a function of images that gives each its label by the classifier, or an abstention.

    Alpha is shared out: each part (this screen, the classifier's confidence, its features) abstains at its own
    share, so that all together turn away a share of at most alpha of normal images, on average. Where the screen
    promises with a confidence, each part does for its share.

    Without shares, but with calibration images, these are split in two: on one half the parts are chosen that turn away
    most outliers made up from it (see `recondite.screen.choose_parts`), on the other they are calibrated. Parts: this
    screen, the classifier's confidence, largest logit and energy, and with layer and reference its features.

    Args:
        classifier: a function or module, images (N, C, H, W) in [0, 1] to logits (N, classes).
        classes: their names, in the order of the logits.
        calibration: normal images that neither this screen nor the classifier has learnt from; by default the
            screen's own calibration holds, and the screen is the only part. To choose parts, no stream.
        group_by: what tells calibration images that belong together, of which one counts, as in `recondite.fit`; of a
            stream all do.
        by_class: calibrate among images of the same predicted class, so that the promise holds for each.
        confidence_share: share of alpha for the classifier's largest softmax probability being low; None to choose.
        feature_share: share of alpha for its features being far from their fifth nearest normal neighbour; likewise.
        layer: with feature_share, the module of the classifier whose output is meant.
        reference: with feature_share, normal images for the neighbours, such as the classifier's training images.
        image_shape: (C, H, W) that the classifier takes, if it is another than the screen's.
        progress: show progress on standard error.

    Raises:
        InputError: shares that leave nothing for the screen, something needed that is missing, a classifier that gives
            probabilities, or too few calibration images (of a class) for alpha.
    """
    choosing = confidence_share is None and feature_share is None and calibration is not None
    confidence_share, feature_share = confidence_share or 0.0, feature_share or 0.0
    # As decimals, as they are written: 1 - .92 is .08, and not a little less.
    own = float(1 - Decimal(str(float(confidence_share))) - Decimal(str(float(feature_share))))
    if min(confidence_share, feature_share) < 0 or not own > 1e-9:
        raise InputError(
            f"expected shares of alpha that are not negative and leave some for the screen; got {confidence_share:g} "
            f"and {feature_share:g}"
        )
    if classes is not None and len(set(classes)) < len(classes):
        raise InputError(f"expected different names of classes; got {', '.join(classes)}")
    if (by_class or confidence_share or feature_share) and calibration is None:
        raise InputError(
            "by_class, confidence_share and feature_share need calibration=, normal images that neither the screen nor "
            "the classifier has learnt from"
        )
    if feature_share and (layer is None or reference is None):
        raise InputError("feature_share needs layer=, a module of the classifier, and reference=, normal images")
    looks_at_features = bool(feature_share) or (choosing and layer is not None and reference is not None)
    shares = {SCREEN: own, CONFIDENCE: confidence_share, FEATURES: feature_share}
    own_range = screen.detector.preprocessing.value_range
    seen = Preprocessing(shape=image_shape or screen.detector.shape, value_range=own_range)
    guard = Guard(
        screen=screen,
        classifier=classifier,
        classes=None if classes is None else tuple(classes),
        shape=image_shape,
        layer=layer if looks_at_features else None,
        distances=fitted_distances(classifier, layer, reference, seen) if looks_at_features else None,
        shares={part: share for part, share in shares.items() if share},
        by_class=by_class,
    )
    with own_settings():
        noise = torch.from_numpy(probe_images(seen.shape, np.float32, guard.together))
        logits = ask(classifier, None, noise)[0].double().cpu().numpy()
        as_logits(logits, "leave the classifier's last softmax out, or let it return their logarithms")
    if calibration is None:
        return guard
    calibration = unknown_images(screen, calibration, group_by, one_each=True)
    if choosing:
        guard, calibration = _with_chosen_parts(guard, calibration, progress)
    scores, predicted = guard.measure(calibration, progress)
    groups = tuple(predicted) if by_class else None
    calibrators = {part: Calibrator(values, groups) for part, values in scores.items()}
    check_alpha(screen, guard.shares, calibrators)
    return replace(guard, calibrators=calibrators)


def chosen_parts(
    guard: Guard,
    images: ImageSet,
    inliers: Judged,
    seed: int = 0,
    left_out: LeftOutClasses | None = None,
    needed: Needed | None = None,
    progress: bool = False,
) -> PartsChoice:
    """Return which of a guard's parts to look at; see `choose_parts`.

    Args:
        guard: with a share for each part that may be chosen.
        images: held-out normal images, from which outliers are made up.
        inliers: what the guard makes of them.
        seed: of every random draw.
        left_out, needed: as in `choose_parts`.
        progress: show progress on standard error.
    """
    preprocessing = guard.screen.detector.preprocessing
    made_up = made_up_outliers(pixels_of(images, preprocessing), seed)
    found = {}
    with show("made-up outliers", sum(map(len, made_up.values())), progress) as advance:
        for name, some in made_up.items():
            found[name] = Judged(*guard.measure(_as_stored(some, preprocessing.value_range)))
            advance(len(some), name)
    return choose_parts(inliers, found, guard.screen.alpha, left_out, needed)


def with_every_part(guard: Guard) -> Guard:
    """Return a guard that finds each part that it can, to be measured; these parts are not calibrated."""
    rules: tuple[str, ...] = RULES if guard.rules and guard.rules.tensors else LOGIT_RULES
    if guard.in_graph is not None:
        rules = guard.in_graph.rules
    features = () if guard.distances is None else (FEATURES,)
    shares = equal_shares((SCREEN, CONFIDENCE, *rules, *features))
    return replace(guard, shares=shares, rules=guard.rules or Rules({}))


def needed_of(screen: ScreenLike, share: float) -> int:
    """Return how many images (of a class) a calibration of a part with a share of alpha needs."""
    return smallest_calibration_set(share_of(screen.alpha, share), screen.confidence, screen.guarantee)


def _as_stored(images: Bytes, value_range: tuple[float, float] | None) -> Bytes | Floats:
    """Return images with the values that a screen expects of its own, where these are not those of bytes."""
    if value_range is None:
        return images
    low, high = value_range
    return np.clip(low + (high - low) * (images / 255), low, high)


def _with_chosen_parts(guard: Guard, calibration: object, progress: bool) -> tuple[Guard, ImageSet]:
    """Return a guard with the best shares, and the calibration images that these were not chosen on."""
    opened = open_images(calibration, role="classes", shape=guard.screen.detector.shape)
    if opened.ids is None:
        raise InputError("to choose parts, calibration images are split: give no stream, or give shares of alpha")
    order = np.random.default_rng(0).permutation(len(opened.ids))
    chosen_on, others = (opened.select(np.sort(half).tolist()) for half in np.array_split(order, 2))
    every = with_every_part(guard)
    needed = partial(needed_of, guard.screen) if guard.by_class else None
    inliers = Judged(*every.measure(chosen_on, progress))
    choice = chosen_parts(every, chosen_on, inliers, needed=needed, progress=progress)
    return replace(every, shares=choice.shares), others

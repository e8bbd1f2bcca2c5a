"""From normal images to a screen: split, fit, calibrate."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from torch import nn

from recondite.calibration import Calibrator, Guarantee
from recondite.datasets import guess_shape, open_images
from recondite.detectors import Detector, build, detector_class
from recondite.detectors.base import FEWEST_VALIDATED, SCORING_BATCH
from recondite.errors import InputError
from recondite.options import TrainingOptions, make_options, option_names, options_to_json
from recondite.presets import get_preset
from recondite.screen import OnBad, Screen, calibration_scores, nameless
from recondite.spool import Rows, Spool, read_all, split

_BAD_FILES_LISTED = 100


def fit(
    images: object,
    *,
    detector: str | None = None,
    preset: str | None = None,
    alpha: float = 0.05,
    confidence: float | None = None,
    guarantee: Guarantee = "exact",
    image_size: int | tuple[int, int] | None = None,
    validation: object = 0.1,
    calibration: object = 0.2,
    by_folder: bool = False,
    on_bad: OnBad = "flag",
    run_folder: Path | str | None = None,
    resume: bool = False,
    progress: bool = False,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    **options: Any,
) -> Screen:
    """Learn what normal images look like and return a screen for them.

    The images are split three ways: to fit the detector, to choose its best epoch (validation), and to calibrate it.
    Images with the same pixels stay in one part.

    Args:
        images: normal images, anything that `open_images` opens.
        detector: "autoencoder" (default), "alad", "pca" or "vae".
        preset: a recipe in `PRESETS`; `options` override its settings.
        alpha: the share of normal images that may be flagged, in (0, 1).
        confidence: let the rate hold for this calibration set with this probability, instead of on average.
        guarantee: what is meant by confidence; see `recondite.calibration.Guarantee`.
        image_size: side, or (height, width), from 8 to 512; by default the images' own size up to 64, else 64.
        validation: share of `images`, or other normal images.
        calibration: share of `images`, or other normal images.
        by_folder: calibrate each sub-folder or label on its own.
        on_bad: "flag" and "skip" leave unreadable images out and list them in `facts`; "raise" is an error.
        run_folder: where training keeps its checkpoint and logs.
        resume: go on from the checkpoint in `run_folder`.
        progress: show progress on standard error.
        encoder: a network of your own, images to latents; needs `decoder` too.
        decoder: a network of your own, latents to images.
        options: options of the detector and of `TrainingOptions`, such as latent_size=64, epochs=10, seed=1.

    Raises:
        InputError: images that cannot be used, unknown options, or too few calibration images for alpha.
    """
    if on_bad not in get_args(OnBad):
        raise InputError(f"expected on_bad to be flag, skip or raise; got {on_bad!r}")
    recipe = get_preset(preset) if preset is not None else None
    if recipe is not None and detector not in (None, recipe.detector):
        raise InputError(f"preset {preset!r} is a recipe for detector {recipe.detector!r}; got {detector!r}")
    name = recipe.detector if recipe is not None else detector or "autoencoder"
    chosen, training = _sort_options(name, {**(recipe.options if recipe is not None else {}), **options})
    source = open_images(images, role="fit")
    shape, source = guess_shape(source, _sides(image_size))
    if recipe is not None and recipe.shape:
        if image_size is not None and _sides(image_size) != recipe.shape[1:]:
            raise InputError(f"preset {preset!r} is for images of {recipe.shape[1]} x {recipe.shape[2]} pixels")
        shape = recipe.shape
    model = build(name, image_shape=shape, seed=training.seed, encoder=encoder, decoder=decoder, **chosen)

    spooled = read_all(source, model.preprocessing, progress)
    sets = _three_sets(spooled, model, validation, calibration, training.seed, progress)
    if on_bad == "raise" and sets.bad:
        raise InputError(f"{sets.bad[0][0]}: {sets.bad[0][1]} ({len(sets.bad)} unreadable images in all)")
    # Before hours of training: are there enough calibration images for this alpha?
    groups = tuple(sets.calibration_labels) if by_folder else None
    for size in Calibrator(np.zeros(len(sets.calibration)), groups).sizes.values():
        Calibrator(np.zeros(size)).threshold(alpha, confidence, guarantee)

    folder = Path(run_folder) if run_folder is not None else None
    model.fit_rows(sets.images, sets.validation, training, folder, resume, progress)
    scores = calibration_scores(model, sets.calibration, progress)
    return Screen(
        detector=model,
        calibrator=Calibrator(scores, groups),
        alpha=alpha,
        confidence=confidence,
        guarantee=guarantee,
        facts={
            "preset": preset,
            "training": options_to_json(training),
            "images": {"images": len(sets.images), "fingerprint": sets.fingerprints[0]},
            "validation": {"images": len(sets.validation or ())},
            "calibration": {"images": len(sets.calibration), "fingerprint": sets.fingerprints[1]},
            "moved_out_of_fit": sets.moved,
            "unreadable": {"count": len(sets.bad), "first": [list(entry) for entry in sets.bad[:_BAD_FILES_LISTED]]},
            "map_scale": _map_scale(model, sets.calibration),
        },
    )


@dataclass(frozen=True)
class _Sets:
    images: Rows
    validation: Rows | None
    calibration: Rows
    calibration_labels: list[str]
    fingerprints: tuple[str, str]
    bad: list[tuple[str, str]]
    moved: int


def _three_sets(
    spooled: Spool, model: Detector, validation: object, calibration: object, seed: int, shown: bool
) -> _Sets:
    """Split the images, or open the sets given, so that no image is in two of them."""
    shares = [share if isinstance(share, float | int) else 0.0 for share in (calibration, validation)]
    if not (min(shares) >= 0 and sum(shares) < 1):
        raise InputError(f"expected shares for calibration and validation that leave images to fit; got {shares}")
    calibrating, validating, fitting = split(spooled.hashes, [round(share * len(spooled)) for share in shares], seed)
    held_out, tuned_on = spooled, spooled
    if not isinstance(calibration, float | int):
        held_out = read_all(open_images(calibration, role="inliers", shape=model.shape), model.preprocessing, shown)
        calibrating = np.arange(len(held_out))
    if not isinstance(validation, float | int | None):
        tuned_on = read_all(open_images(validation, role="inliers", shape=model.shape), model.preprocessing, shown)
        validating = np.arange(len(tuned_on))
    elif len(validating) < FEWEST_VALIDATED:
        fitting, validating = np.concatenate([fitting, validating]), validating[:0]
    # Images given for one purpose may also be among those for another: calibration comes first, then validation.
    validating = validating[~np.isin(tuned_on.hashes[validating], held_out.hashes[calibrating])]
    elsewhere = np.concatenate([held_out.hashes[calibrating], tuned_on.hashes[validating]])
    own = ~np.isin(spooled.hashes[fitting], elsewhere)
    fitting, moved = fitting[own], int(np.sum(~own))
    if len(fitting) == 0 or len(calibrating) == 0:
        raise InputError(
            f"{len(spooled)} images leave {len(fitting)} to fit and {len(calibrating)} to calibrate; both need some"
        )
    bad = [entry for part in {id(one): one for one in (spooled, held_out, tuned_on)}.values() for entry in part.bad]
    return _Sets(
        images=spooled.rows(fitting),
        validation=tuned_on.rows(validating) if len(validating) else None,
        calibration=held_out.rows(calibrating),
        calibration_labels=[held_out.labels[index] for index in calibrating],
        fingerprints=(spooled.fingerprint(fitting), held_out.fingerprint(calibrating)),
        bad=bad,
        moved=moved,
    )


def _map_scale(model: Detector, rows: Rows, looked_at: int = 256) -> tuple[float, float]:
    """Return the feature scores at which heat maps begin and are brightest, from normal images.

    Errors begin at zero; scores that can be negative (likelihoods) at the median. Bright is the worst in a thousand.
    """
    few = Rows(rows.pixels, rows.index[:looked_at])
    parts = [model.score_batch(nameless(p), feature_score=True).feature_score for p in few.batches(SCORING_BATCH)]
    values = np.concatenate([part for part in parts if part is not None])
    low = 0.0 if values.min() >= 0 else float(np.median(values))
    return low, max(float(np.quantile(values, 0.999)), low + 1e-12)


def _sort_options(detector: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], TrainingOptions]:
    """Tell the options of the detector from those of training."""
    training_names = option_names(TrainingOptions)
    own_names = option_names(detector_class(detector).Options)
    training = {name: value for name, value in options.items() if name in training_names}
    own = {name: value for name, value in options.items() if name not in training_names}
    unknown = [name for name in own if name not in own_names]
    if unknown:
        listed = ", ".join(sorted(own_names | training_names))
        raise InputError(f"detector {detector!r} and its training have no option {unknown[0]!r}; they have: {listed}")
    defaults = detector_class(detector).training_defaults
    return own, make_options(TrainingOptions, {**defaults, **training}, "training")


def _sides(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (image_size, image_size) if isinstance(image_size, int) else image_size

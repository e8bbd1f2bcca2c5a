"""Fitting a screen: split, train, calibrate."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from operator import index
from pathlib import Path
from typing import Any, get_args

import numpy as np
from torch import Tensor, nn

from recondite.data.datasets import check_source, open_images
from recondite.data.images import Preprocessing
from recondite.data.masks import open_region
from recondite.data.sample import first_frames_only, glances, sampled
from recondite.data.spool import Rows, keys_of, read_all
from recondite.data.units import COPIES, GroupBy, check_group_by, labels_of
from recondite.detectors import build, detector_class
from recondite.detectors.effects import check_effect
from recondite.detectors.feature_options import WITH_PLACES
from recondite.detectors.remembered import remembering
from recondite.distributed import collective, rank_and_size
from recondite.errors import InputError, ReconditeWarning
from recondite.networks.hooks import FeatureLayer
from recondite.options import TrainingOptions, make_options, option_names, options_to_json
from recondite.progress import counted
from recondite.screen.any_angle import ADVICE, seem_turned
from recondite.screen.calibrate import calibrated, map_scale
from recondite.screen.choose import AUTO_DETECTOR, Choice, choose_detector
from recondite.screen.contamination import good_evidence, good_images, without_suspects
from recondite.screen.evidence import FEWEST, Evidence, fit_evidence, fit_observer, possible_scores
from recondite.screen.few_images import (
    FEWEST_UNITS,
    MOST_IMAGES,
    MOST_UNITS,
    alpha_for,
    are_few,
    fewest_learnt,
    scores_left_out,
)
from recondite.screen.known_defects import KnownDefects, UnhelpfulError, check_teachable, taught
from recondite.screen.screen import OnBad, Screen
from recondite.screen.separate import (
    all_for_everything,
    check_enough,
    how_many,
    separate_sets,
    shares_of,
    without_unused,
)
from recondite.screen.words import AUTO, ERROR, UNUSED_DEFECTS
from recondite.statistics.calibration import Calibrator, Guarantee, check_promise
from recondite.statistics.contamination import Contamination, check_contamination
from recondite.torch_state import own_settings
from recondite.training.presets import get_preset

_CALLER = 5  # warnings point there: three decorators lie between


@collective()
@own_settings()
@remembering()
def fit(
    images: object,
    *,
    detector: str | None = None,
    preset: str | None = None,
    score: str | None = None,
    alpha: float | None = None,
    confidence: float | None = None,
    guarantee: Guarantee = "exact",
    image_size: int | tuple[int, int] | None = None,
    region: object = None,
    ignore: object = None,
    value_range: tuple[float, float] | None = None,
    validation: object = 0.1,
    evidence: object = 0.1,
    calibration: object = 0.2,
    pictures: Sequence[str] = (),
    by_folder: bool = False,
    group_by: GroupBy = COPIES,
    contamination: Contamination | None = None,
    defects: object = None,
    masks: object = None,
    on_bad: OnBad = "flag",
    run_folder: Path | str | None = None,
    resume: bool = False,
    progress: bool = False,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    backbone: nn.Module | str | None = None,
    reencoding: bool = False,
    classifier: Callable[[Tensor], Tensor] | None = None,
    classifier_layer: str | None = None,
    classifier_share: float = 0.5,
    **options: Any,
) -> Screen:
    """Learn what normal images look like and return a screen for them.

    The images are split four ways: to fit the detector, to choose its best epoch (validation), to learn what the
    statistics of unseen normal images are (evidence), and to calibrate the score. Images that belong together, a unit,
    stay in one part, and one of them, drawn at random, calibrates: the rate holds for images of units to come. Of up to
    200 units whose share would be too small for alpha, all calibrate: each is judged by a detector fitted without it.

    Args:
        images: normal images, anything that `open_images` opens.
        detector: "auto" (default) to choose by the images, "autoencoder", "alad", "features", "pca" or "vae".
        preset: a recipe in `PRESETS`; `options` override its settings.
        score: what images are judged by: "auto" (default) for "error" and "evidence" together, either of these
            alone, one of the detector's errors ("absolute_error", "elbo"), or one statistic (see
            `recondite.statistics.image_statistics`). With too few images for evidence, the default is "error".
        alpha: the share of normal images that may be flagged, in (0, 1); by default .05, or the smallest that so many
            images allow.
        confidence: let the rate hold for this calibration set with this probability, instead of on average.
        guarantee: what is meant by confidence; see `recondite.statistics.calibration.Guarantee`.
        image_size: side, or (height, width), from 8 to 2048; by default what suits the detector: the images' own
            size up to 64, else 64; for "features" their own in proportion, the shorter side at most 352 and the longer
            2,048.
        region: where images count, all of them or each: a mask (an image file, PIL image or array, white where they
            do), polygons (a dictionary or a .json file), or a folder with one mask per image; see `open_region`.
        ignore: where they do not, likewise, but for a folder.
        value_range: the stored values that are black and white, such as (0, 4095) for 12 bits in files of 16, for all
            images that the screen ever sees; by default what the tags of all files say where no image looked at passes
            an eighth of its type's range, or else the type's.
        validation: share of `images` to choose the best epoch by, where there are epochs, or other normal images.
        evidence: share of `images`, or other normal images; at least 50. Unused where `score` needs none.
        calibration: share of `images`, or other normal images.
        pictures: ids of validation images, at most ten, that are rebuilt after chosen epochs (see `picture_epochs` of
            `TrainingOptions`); by default the first ten.
        by_folder: calibrate each sub-folder or label on its own.
        group_by: what tells units: "copies" (default: near-copies and bursts are found), "none" (equal pixels alone),
            "folder", "prefix" (the name without its last number), a regular expression found in ids (its first group),
            a .csv file with the columns id and group, or labels, in order or by id.
        contamination: the share of bad images that may hide among those given, in [0, .5), or "auto" for those whose
            scores lie far out: they are neither learnt from nor calibrated on, and `facts` list them; see "Bad images
            among the good" in docs/concepts.md.
        defects: images of known defects, 3 to 50, anything that `open_images` opens: a head on features learns from
            them before anything is calibrated, unless that helps nothing; see `Screen.teach`.
        masks: a folder of masks of where these defects lie, as in `Screen.teach`.
        on_bad: "flag" and "skip" leave unreadable images out and list them in `facts`; "raise" is an error.
        run_folder: where training keeps its checkpoint and logs.
        resume: go on from the checkpoint in `run_folder`.
        progress: show progress on standard error.
        encoder: a network of your own, images to latents; needs `decoder` too.
        decoder: a network of your own, latents to images.
        backbone: a network of your own, images to features, for detector "features"; or a name, such as "lite1",
            "timm:resnet18", "hf:facebook/dinov2-small" or a folder.
        reencoding: evidence also compares the latents and layers of the image with those of its reconstruction, which
            costs one more encoding.
        classifier: a function or module, images (N, C, H, W) in [0, 1] to features, whose distances from normal ones
            become part of score "auto" (and are score "classifier"). It must not have learnt from the calibration
            images, nor from those for `evidence`: its features of what it knows are other than of new images, and the
            rate would not hold. So give `calibration` and `evidence` images that it has not seen, not shares.
        classifier_layer: the name of a module within `classifier` whose output is meant.
        classifier_share: the share of alpha that the classifier's features get in "auto", in (0, 1).
        options: options of the detector and of `TrainingOptions`, such as latent_size=64, epochs=10, seed=1.

    Raises:
        InputError: images that cannot be used, options that are unknown or would change nothing, or too few calibration
            images for alpha.
    """
    if on_bad not in get_args(OnBad):
        raise InputError(f"expected on_bad to be flag, skip or raise; got {on_bad!r}")
    check_promise(alpha, confidence, guarantee)
    check_group_by(group_by)
    check_contamination(contamination)
    held_out = {"calibration": calibration, "validation": validation, "evidence": evidence}
    shares = shares_of(held_out)
    _check_given(image_size, held_out.values())
    recipe = get_preset(preset) if preset is not None else None
    if detector == AUTO_DETECTOR:
        detector = None
    if recipe is not None and detector not in (None, recipe.detector):
        raise InputError(f"preset {preset!r} is a recipe for detector {recipe.detector!r}; got {detector!r}")
    zones = open_region(region, ignore)
    sample, source = sampled(open_images(images, role="fit", masks=zones.folder))
    if alpha is not None and isinstance(calibration, float | int) and source.ids is not None:
        _check_listed(len(source.ids), calibration, alpha, confidence, guarantee)
    group_by = labels_of(source, group_by)
    zones.check(sample.sizes)
    values = value_range if value_range is not None else sample.value_range
    remarks = [*sample.remarks(values), *([] if sample.vector is not None else first_frames_only(glances(source)))]
    if rank_and_size()[0] == 0:
        for seen in remarks:
            warnings.warn(seen, ReconditeWarning, stacklevel=_CALLER)

    def remark(text: str) -> None:
        remarks.append(text)
        warnings.warn(text, ReconditeWarning, stacklevel=_CALLER + 1)

    choice = None
    if recipe is None and detector is None:
        networks = {"features": backbone, "autoencoder": encoder}
        choice = _choice(networks, defects) or choose_detector(sample, options, score)
    name = recipe.detector if recipe is not None else choice.detector if choice is not None else str(detector)
    if isinstance(backbone, str):
        options, backbone = {**options, "backbone": backbone}, None
    settings = {**(recipe.options if recipe is not None else {}), **options}
    wanted = score if score is not None or recipe is None else recipe.score
    judged_by = AUTO if wanted is None else wanted
    if judged_by in detector_class(name).own_scores():
        settings["score"], judged_by = judged_by, ERROR
    chosen, training = _sort_options(name, settings)
    if choice is not None and defects is not None:
        chosen.setdefault("methods", WITH_PLACES)
    shape = sample.shape(_sides(image_size), detector_class(name).image_size)
    if recipe is not None and recipe.shape:
        if image_size is not None and _sides(image_size) != recipe.shape[1:]:
            raise InputError(f"preset {preset!r} is for images of {recipe.shape[1]} x {recipe.shape[2]} pixels")
        shape = recipe.shape
    looking = chosen.pop("backbone", backbone)
    modules = {"encoder": encoder, "decoder": decoder, "backbone": looking}
    model = build(name, image_shape=shape, seed=training.seed, **modules, **chosen)
    check_effect(model, options)
    if pictures and not model.rebuilds:
        raise InputError(f"pictures would change nothing: {name} rebuilds no images")
    if zones.given:
        model.restrict(zones.at(*shape[1:]), zones.folder is not None)
    if values is not None:
        model.take_values(values)

    if defects is not None:
        check_teachable(model)
    elif masks is not None:
        raise InputError("masks are of known defects: give defects too")
    view = None if classifier is None else FeatureLayer(classifier, classifier_layer)
    known = possible_scores(model, reencoding=reencoding, classifier=view)
    if judged_by not in known:
        own = [one for one in model.own_scores() if one not in known]
        raise InputError(f"expected a score among {', '.join([*known, *own])}; got {judged_by!r}")

    to_learn = None if defects is None else KnownDefects.opened(defects, masks, model, progress)
    spooled = read_all(source, model.preprocessing, progress)
    used = without_unused(held_out, judged_by, model)
    few = None
    if not by_folder and view is None and not pictures and len(spooled) <= MOST_IMAGES:
        keys = keys_of([spooled], group_by)[0]
        if len(shares) == len(held_out) and are_few(len(np.unique(keys)), shares[0], alpha, confidence, guarantee):
            few = keys
    if few is not None:
        sets = all_for_everything(spooled, few, training.seed)
    else:
        sets = separate_sets(spooled, model, used, zones.folder, group_by, pictures, training.seed, progress)
    if on_bad == "raise" and sets.bad:
        raise InputError(f"{sets.bad[0][0]}: {sets.bad[0][1]} ({len(sets.bad)} unreadable images in all)")
    if judged_by != ERROR and sets.evidence is None:
        if wanted is not None:
            raise InputError(
                f"score {judged_by!r} needs at least {FEWEST} images held out as evidence; {len(spooled)} images leave "
                f"fewer: give more, a larger share, or score='error'"
            )
        judged_by = ERROR
    if to_learn is not None:
        to_learn.check_apart(*{id(part): part for part in (spooled, *sets.sources.values())}.values())
    groups = tuple(sets.calibration_labels) if by_folder else None
    if groups is not None and (unheard := sorted({*spooled.labels} - {*groups})):
        listed = ", ".join(map(repr, unheard[:3])) + ", ..." * (len(unheard) > 3)
        remark(f"{counted(len(unheard), 'group')} without calibration images will not be judged: {listed}")
    alpha = alpha_for(len(sets.calibration), alpha)
    check_enough(len(sets.calibration), groups, (alpha, confidence, guarantee), how_many(spooled, sets.units))

    folder = Path(run_folder) if run_folder is not None else None
    if contamination is not None and model.trains_by_steps and not training.trim:
        training = replace(training, trim=contamination)
    several = few is not None or (contamination is not None and not model.trains_by_steps)
    with model.looking_once(sets.images, progress) if several else nullcontext():
        good = np.ones(len(sets.images), dtype=bool)
        if contamination is not None and not model.trains_by_steps:
            good = good_images(model, sets.images, sets.keys, contamination, training, progress)
        learnt_from = Rows(sets.images.pixels, sets.images.index[good])
        if few is not None:
            model.suit(fewest_learnt(sets.keys[good], len(np.unique(few))))
        unfitted = None if few is None else deepcopy(model)
        model.fit_rows(learnt_from, sets.validation, training, folder, resume, progress)
        lesson = None
        if to_learn is not None:
            try:
                lesson = taught(model, learnt_from, sets.keys[good], to_learn, training.seed)
                model = lesson.detector
            except UnhelpfulError as reason:
                remark(f"{UNUSED_DEFECTS}: {reason}")
        left_out = None
        if few is not None and unfitted is not None:
            finished = None if lesson is None else lesson.finished
            left_out = scores_left_out(unfitted, spooled, few, training, progress, learnable=good, finished=finished)
    if few is not None and "rotations" not in options and seem_turned(model, learnt_from):
        remarks.append(ADVICE)
    learnt: Evidence | None = None
    if sets.evidence is not None:
        observer = fit_observer(model, learnt_from, reencoding=reencoding, classifier=view, progress=progress)
        unseen = sets.evidence if contamination is None else good_evidence(model, sets.evidence, contamination)
        learnt = fit_evidence(model, observer, unseen, classifier_share, progress)
    facts: dict[str, Any] = {
        "preset": preset,
        "chosen": choice.reason if choice is not None else None,
        "sample": None if sample.vector is not None else sample.to_json(),
        "remarks": remarks,
        "training": options_to_json(training),
        "images": {"images": len(learnt_from), "fingerprint": sets.fingerprints["images"]},
        **sets.facts(),
        "map_scale": map_scale(model, sets.calibration) if left_out is None else left_out.map_scale,
        **({} if lesson is None else {"known_defects": lesson.facts}),
    }
    if left_out is None:
        found = calibrated(model, learnt, judged_by, sets.calibration, groups, facts, progress)
    else:
        facts["calibration"]["left_out_in_parts"] = left_out.parts
        found = {"calibrator": Calibrator(left_out.scores), "peaks": left_out.peaks, "facts": facts}
    if contamination is not None:
        found = without_suspects(found, sets, good, contamination, alpha, confidence, guarantee)
    return Screen(
        detector=model,
        alpha=alpha,
        confidence=confidence,
        guarantee=guarantee,
        score=judged_by,
        evidence=learnt,
        known=sets.known if lesson is None or to_learn is None else sets.known.taught(to_learn.images),
        **found,
    )


def _choice(networks: Mapping[str, object], defects: object) -> Choice | None:
    """Return the detector that is meant by known defects, or a network of the user's own; None without either."""
    if defects is not None:
        return Choice("features", "known defects, which a head on features learns from")
    given = next((name for name, network in networks.items() if network is not None), None)
    return None if given is None else Choice(given, "the network that was given")


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


def _check_listed(count: int, share: float, alpha: float, confidence: float | None, guarantee: Guarantee) -> None:
    """Raise InputError where not even images that all differ are enough for alpha, before hours of reading."""
    if count < FEWEST_UNITS:  # refused for another reason
        return
    held_out = round(share * count)
    in_turn = 0 if confidence is not None else min(count, MOST_UNITS)  # the most that are left out in turn
    told = count if in_turn == count else held_out
    try:
        Calibrator(np.zeros(max(1, held_out, in_turn))).threshold(alpha, confidence, guarantee)
    except InputError:
        try:
            Calibrator(np.zeros(max(1, told))).threshold(alpha, confidence, guarantee)
        except InputError as error:
            raise InputError(f"{error}. In all there are {counted(count, 'image')}") from None


def _check_given(image_size: object, sources: Iterable[object]) -> None:
    """Check what needs no image to be read."""
    sides = _sides(image_size)
    if sides is not None:
        Preprocessing(shape=(1, *sides))
    for given in sources:
        if isinstance(given, str | Path):
            check_source(given)


def _sides(image_size: object) -> tuple[int, int] | None:
    """Return (height, width) as plain numbers; None where none are given."""
    if image_size is None:
        return None
    try:
        height, width = map(index, image_size if isinstance(image_size, Sequence) else (image_size, image_size))
    except (TypeError, ValueError) as error:
        raise InputError(f"expected image_size: a side or (height, width) in pixels; got {image_size!r}") from error
    return height, width

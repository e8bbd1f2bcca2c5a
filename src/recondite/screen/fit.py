"""Fitting a screen: split, train, calibrate."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from operator import index
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from recondite.data.datasets import check_source, open_images
from recondite.data.images import Preprocessing
from recondite.data.masks import open_region
from recondite.data.sample import first_frames_only, glances, sampled
from recondite.data.spool import Rows, Spool, keys_of, read_all
from recondite.data.units import COPIES, GroupBy, check_group_by, labels_of
from recondite.detectors.base import Detector
from recondite.detectors.remembered import remembering
from recondite.distributed import collective, rank_and_size
from recondite.errors import InputError, ReconditeWarning, not_among
from recondite.networks.hooks import FeatureLayer
from recondite.options import TrainingOptions, options_to_json
from recondite.progress import counted
from recondite.screen.any_angle import ADVICE, seem_turned
from recondite.screen.calibrate import calibrated, map_scale
from recondite.screen.contamination import good_evidence, good_images, without_suspects
from recondite.screen.evidence import FEWEST, Evidence, fit_evidence, fit_observer, possible_scores
from recondite.screen.in_turn import (
    FEWEST_UNITS,
    MOST_IMAGES,
    MOST_UNITS,
    LeftOut,
    alpha_for,
    are_few,
    check_can_be_left_out,
    fewest_learnt,
    scores_left_out,
    steadier_in_turn,
)
from recondite.screen.known_defects import KnownDefects, Taught, UnhelpfulError, check_teachable, taught
from recondite.screen.plan import planned, recipe_of
from recondite.screen.screen import OnBad, Screen
from recondite.screen.separate import (
    Sets,
    all_for_everything,
    check_enough,
    check_used,
    how_many,
    separate_sets,
    shares_of,
    without_unused,
)
from recondite.screen.words import ERROR, UNUSED_DEFECTS
from recondite.statistics.calibration import SHARE, Calibrator, Guarantee, check_promise
from recondite.statistics.contamination import Contamination, check_contamination
from recondite.torch_state import own_settings

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
    calibration: object = None,
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
    So do all of fewer than 500 units with detector "features", unless `calibration` is given.

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
        calibration: share of `images`, or other normal images; by default .2, unless images are left out in turn.
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
    in_turn = calibration is None  # where that is better
    held_out = {"calibration": SHARE if in_turn else calibration, "validation": validation, "evidence": evidence}
    shares = shares_of(held_out)
    size = _sides(image_size)
    _check_given(size, held_out.values())
    recipe, detector = recipe_of(preset, detector, size)
    zones = open_region(region, ignore)
    sample, source = sampled(open_images(images, role="fit", masks=zones.folder))
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

    networks = {"encoder": encoder, "decoder": decoder, "backbone": backbone}
    plan = planned(sample, recipe, detector, score, size, networks, options, defects is not None)
    model, training, judged_by = plan.detector, plan.training, plan.score
    share = held_out["calibration"]
    if alpha is not None and isinstance(share, float | int) and source.ids is not None:
        count = len(source.ids)
        every = in_turn and steadier_in_turn(model, count, share, confidence)
        _check_listed(count, share, every, alpha, confidence, guarantee)
    if pictures and not model.rebuilds:
        raise InputError(f"pictures would change nothing: {model.name} rebuilds no images")
    if zones.given:
        model.restrict(zones.at(*model.shape[1:]), zones.folder is not None)
    if values is not None:
        model.take_values(values)

    if defects is not None:
        check_teachable(model)
    elif masks is not None:
        raise InputError("masks are of known defects: give defects too")
    view = None if classifier is None else FeatureLayer(classifier, classifier_layer)
    known = possible_scores(model, reencoding=reencoding, classifier=view)
    if reencoding and (judged_by == ERROR or known == possible_scores(model, classifier=view)):
        why = f"{model.name} rebuilds no images" if judged_by != ERROR else "score error takes no evidence"
        raise InputError(f"reencoding would change nothing: {why}")
    if judged_by not in known:
        own = [one for one in model.own_scores() if one not in known]
        raise not_among("a score", [*known, *own], judged_by)

    used = without_unused(held_out, judged_by, model)
    check_used(held_out, used, judged_by, model, fit)
    to_learn = None if defects is None else KnownDefects.opened(defects, masks, model, progress)
    spooled = read_all(source, model.preprocessing, progress)
    few = None
    if not by_folder and view is None and not pictures and len(spooled) <= MOST_IMAGES:
        keys = keys_of([spooled], group_by)[0]
        count = len(np.unique(keys))
        if len(shares) == len(held_out) and (
            are_few(count, shares[0], alpha, confidence, guarantee)
            or (in_turn and steadier_in_turn(model, count, shares[0], confidence, shares[2] * (judged_by != ERROR)))
        ):
            few = keys
    if few is not None:
        check_can_be_left_out(model, count)
        sets = all_for_everything(spooled, few, training.seed)
    else:
        sets = separate_sets(spooled, model, used, zones.folder, group_by, pictures, training.seed, progress)
    if on_bad == "raise" and sets.bad:
        raise InputError(f"{sets.bad[0][0]}: {sets.bad[0][1]} ({len(sets.bad)} unreadable images in all)")
    if judged_by != ERROR and sets.evidence is None:
        if plan.named:
            raise InputError(
                f"score {judged_by!r} needs at least {FEWEST} images held out as evidence; {len(spooled)} images leave "
                f"fewer: give more, a larger share, or score='error'"
            )
        judged_by = ERROR
    if few is None and len(shares) == len(held_out) and 2 * len(sets.images) < (1 - sum(shares)) * len(spooled):
        remark(
            f"only {len(sets.images):,} of {counted(len(spooled), 'image')} are learnt from: the largest unit holds "
            f"{sets.units['largest']:,}, and units are held out whole, one image of which calibrates; another seed "
            "deals them otherwise, and group_by (--group-by) says what belongs together"
        )
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
    learnt = _learnt(
        model, sets, spooled, few, training, contamination, to_learn, folder=folder, resume=resume, progress=progress
    )
    model, left_out, lesson = learnt.detector, learnt.left_out, learnt.lesson
    if learnt.unhelpful is not None:
        remark(f"{UNUSED_DEFECTS}: {learnt.unhelpful}")
    if few is not None and "rotations" not in options and seem_turned(model, learnt.rows):
        remarks.append(ADVICE)
    statistics: Evidence | None = None
    if sets.evidence is not None:
        observer = fit_observer(model, learnt.rows, reencoding=reencoding, classifier=view, progress=progress)
        unseen = sets.evidence if contamination is None else good_evidence(model, sets.evidence, contamination)
        statistics = fit_evidence(model, observer, unseen, classifier_share, progress)
    facts: dict[str, Any] = {
        "preset": preset,
        "chosen": plan.reason,
        "sample": None if sample.vector is not None else sample.to_json(),
        "remarks": remarks,
        "training": options_to_json(training),
        "images": {"images": len(learnt.rows), "fingerprint": sets.fingerprints["images"]},
        **sets.facts(),
        "map_scale": map_scale(model, sets.calibration) if left_out is None else left_out.map_scale,
        **({} if lesson is None else {"known_defects": lesson.facts}),
    }
    if left_out is None:
        found = calibrated(model, statistics, judged_by, sets.calibration, groups, facts, progress)
    else:
        facts["calibration"]["left_out_in_parts"] = left_out.parts
        found = {"calibrator": Calibrator(left_out.scores), "peaks": left_out.peaks, "facts": facts}
    if contamination is not None:
        found = without_suspects(found, sets, learnt.good, contamination, alpha, confidence, guarantee)
    return Screen(
        detector=model,
        alpha=alpha,
        confidence=confidence,
        guarantee=guarantee,
        score=judged_by,
        evidence=statistics,
        known=sets.known if lesson is None or to_learn is None else sets.known.taught(to_learn.images),
        **found,
    )


@dataclass(frozen=True)
class _Learnt:
    """What a detector has learnt from.

    Args:
        detector: fitted.
        rows: the good images that it was fitted on.
        good: bool, which of all images to learn from these are.
        lesson: of known defects, where they were learnt.
        unhelpful: why they were not.
        left_out: scores of images that calibrate although they were learnt from; None where others calibrate.
    """

    detector: Detector
    rows: Rows
    good: NDArray[np.bool_]
    lesson: Taught | None
    unhelpful: UnhelpfulError | None
    left_out: LeftOut | None


def _learnt(
    model: Detector,
    sets: Sets,
    spooled: Spool,
    few: NDArray[np.void] | None,
    training: TrainingOptions,
    contamination: Contamination | None,
    to_learn: KnownDefects | None,
    *,
    folder: Path | None,
    resume: bool,
    progress: bool,
) -> _Learnt:
    """Fit a detector, without the bad images among the good, then its head on known defects.

    Args:
        model: not fitted yet.
        sets: which images serve what.
        spooled: all of them.
        few: (N,) their units, where they are so few that all calibrate, each judged by a detector fitted without it.
        training: how to fit.
        contamination: as in `fit`.
        to_learn: known defects; None for none.
        folder: where training keeps its checkpoint and logs.
        resume: go on from that.
        progress: show progress on standard error.
    """
    lesson, unhelpful, left_out = None, None, None
    trimmed = contamination is not None and not model.trains_by_steps
    several = few is not None or trimmed
    with model.looking_once(sets.images, progress) if several else nullcontext():
        good = np.ones(len(sets.images), dtype=bool)
        if contamination is not None and trimmed:
            good = good_images(model, sets.images, sets.keys, contamination, training, progress)
        rows = Rows(sets.images.pixels, sets.images.index[good])
        if few is not None:
            model.suit(fewest_learnt(sets.keys[good], len(np.unique(few))))
        unfitted = None if few is None else deepcopy(model)
        model.fit_rows(rows, sets.validation, training, folder, resume, progress)
        if to_learn is not None:
            try:
                lesson = taught(model, rows, sets.keys[good], to_learn, training.seed)
                model = lesson.detector
            except UnhelpfulError as reason:
                unhelpful = reason
        if few is not None and unfitted is not None:
            finished = None if lesson is None else lesson.finished
            left_out = scores_left_out(unfitted, spooled, few, training, progress, learnable=good, finished=finished)
    return _Learnt(model, rows, good, lesson, unhelpful, left_out)


def _check_listed(
    count: int, share: float, every: bool, alpha: float, confidence: float | None, guarantee: Guarantee
) -> None:
    """Raise InputError where not even images that all differ are enough for alpha, before hours of reading."""
    if count < FEWEST_UNITS:  # refused for another reason
        return
    held_out = round(share * count)
    most = 0 if confidence is not None else count if every else min(count, MOST_UNITS)
    told = count if most == count else held_out
    try:
        Calibrator(np.zeros(max(1, held_out, most))).threshold(alpha, confidence, guarantee)
    except InputError:
        try:
            Calibrator(np.zeros(max(1, told))).threshold(alpha, confidence, guarantee)
        except InputError as error:
            raise InputError(f"{error}. In all there are {counted(count, 'image')}") from None


def _check_given(size: tuple[int, int] | None, sources: Iterable[object]) -> None:
    """Check what needs no image to be read."""
    if size is not None:
        Preprocessing(shape=(1, *size))
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

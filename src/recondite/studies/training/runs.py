"""Runs of a one-class study: one class is normal, a detector learns it, and all classes are judged.

A run that is finished is kept in its folder and taken up again; one that was interrupted goes on from its checkpoint.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recondite.data import catalog
from recondite.data.artifacts import Tensors, read_tensors, write_tensors
from recondite.data.datasets import Batch, ImageSet, nameless, open_images, read_batches
from recondite.data.images import Floats, Preprocessing
from recondite.data.sample import guess_preprocessing
from recondite.data.spool import Rows, Spool, images_in_a_read, keys_of, split, spool
from recondite.data.units import COPIES, check_group_by
from recondite.detectors import Detector, build, detector_class
from recondite.errors import InputError, not_among
from recondite.options import (
    PoolingOptions,
    TrainingOptions,
    deciding_options,
    make_options,
    option_names,
    options_to_json,
)
from recondite.progress import progress as show
from recondite.studies.training.baselines import mean_image, pixel_variance, squared_distance
from recondite.training.checkpoint import CHECKPOINT

Protocol = Literal["pooled", "official"]
POOLED_TEST_SHARE = 0.2
BASELINES = ("pixel variance", "distance to the mean image")
_RESULT = "result.safetensors"
_PICTURES, _SAMPLES = 8, 16


@dataclass(frozen=True)
class Task:
    """A data set read once, to be split for one normal class after another.

    Args:
        name: of the data set, as the user gave it.
        images: of all splits, training before test.
        test: (N,) True for an image of the official test split.
        classes: in the data set's own order.
        preprocessing: how its images were read.
        protocol: "pooled" joins the splits and takes a fifth at random for the test, as ALAD's authors do; "official"
            keeps them.
        validation: share of the normal training images that choose the best epoch.
        group_by: what tells units: a word, a regular expression or a .csv file, as in `recondite.fit`.
    """

    name: str
    images: Spool
    test: NDArray[np.bool_]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    protocol: Protocol
    validation: float
    group_by: str = COPIES

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of the images."""
        return self.preprocessing.shape

    @cached_property
    def keys(self) -> NDArray[np.void]:
        """The key of each image's unit; see `recondite.data.units`."""
        return keys_of([self.images], self.group_by)[0]

    def split(self, normal: str, seed: int) -> "Split":
        """Return the images of a run; units are in one part, but for those the data set's own split parts.

        Raises:
            InputError: a part would be empty.
        """
        labels = np.array(self.images.labels)
        test = np.flatnonzero(self.test)
        if self.protocol == "pooled":
            test, _ = split(self.keys, [round(POOLED_TEST_SHARE * len(self.images))], seed)
        rest = np.setdiff1d(np.arange(len(self.images)), test)
        known = rest[labels[rest] == normal]
        chosen, learnt = split(self.keys[known], [round(self.validation * len(known))], seed)
        parts = {
            "to learn": known[learnt],
            "to choose the best epoch": known[chosen],
            "normal to test": test[labels[test] == normal],
            "anomalous to test": test[labels[test] != normal],
        }
        for name, rows in parts.items():
            if len(rows) == 0:
                raise InputError(f"{self.name} by the {self.protocol} protocol leaves no images {name} for {normal!r}")
        return Split(*(self.images.rows(rows) for rows in parts.values()))


@dataclass(frozen=True)
class Split:
    """The images of one run."""

    learnt: Rows
    validation: Rows
    normal: Rows
    anomalous: Rows


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one run does.

    Args:
        detector: a name in `DETECTORS`.
        normal: the class that is learnt.
        seed: of the split, the weights and all draws.
        options: of the detector and of training.
        label: tells its folder from those of other options.
    """

    detector: str
    normal: str
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def folder(self) -> str:
        """The name of the run's folder."""
        latent = f"-latent{self.options['latent_size']}" if "latent_size" in self.options else ""
        label = f"-{self.label}" if self.label else ""
        return f"{self.detector}{latent}-{self.normal}{label}-seed{self.seed}"


@dataclass(frozen=True)
class Result:
    """What a run found.

    Args:
        plan: what was done.
        scores: name of a score -> (scores of normal test images, scores of anomalous ones), float64.
        pictures: "normal" and "anomalous" -> a few test images and their reconstructions, (2, n, C, H, W); "samples" ->
            images made from random latents (1, n, C, H, W), where the detector makes any.
        facts: "epochs" (rows of the history), "best_epoch", "seconds" of training, "parameters", and how many images
            were "learnt".
    """

    plan: Plan
    scores: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
    pictures: Mapping[str, NDArray[np.float32]]
    facts: Mapping[str, Any]


def open_task(
    source: str,
    *,
    protocol: Protocol = "pooled",
    validation: float = 0.25,
    image_size: tuple[int, int] | None = None,
    value_range: tuple[float, float] | None = None,
    group_by: str = COPIES,
    progress: bool = False,
) -> Task:
    """Read a data set.

    Args:
        source: the name of a data set, such as "cifar10", or (pooled only) a folder with a sub-folder for each class.
        protocol: see `Task`.
        validation: see `Task`.
        image_size: (height, width); the images' own size by default, if that is at most 64.
        value_range: as in `recondite.fit`.
        group_by: see `Task`.
        progress: show progress on standard error.

    Raises:
        InputError: there is no such data set, a `group_by` that cannot be read, or it has no classes or no splits.
    """
    if protocol not in get_args(Protocol):
        raise not_among("a protocol", get_args(Protocol), protocol)
    if not 0 < validation < 1:
        raise InputError(f"expected a share of the training images for validation, in (0, 1); got {validation!r}")
    check_group_by(group_by)
    parts: list[tuple[ImageSet, bool]]
    if catalog.is_name(source):
        if source not in catalog.CATALOG:
            raise InputError(f"expected the name of a whole data set, such as cifar10; got {source!r}")
        entry = catalog.CATALOG[source]
        parts = [(open_images(f"{source}/{name}"), name == "test") for name in entry.splits]
        classes = entry.classes
    else:
        if protocol == "official":
            raise InputError(f"{source!r} has no official test split: only data sets by name have; use pooled")
        parts, classes = [(open_images(source), False)], ()
    seen, _ = guess_preprocessing(parts[0][0], image_size, value_range)
    if not seen.is_image:
        raise InputError(f"a one-class study needs images; {source!r} holds vectors")
    images, test = _read(parts, seen, progress)
    classes = classes or tuple(sorted(set(images.labels)))
    if len(classes) < 2:
        raise InputError(f"a one-class study needs at least two classes; {source!r} has {', '.join(classes)!r}")
    return Task(source, images, test, classes, seen, protocol, validation, group_by)


def perform(task: Task, plan: Plan, folder: Path, progress: bool = False) -> Result:
    """Train a detector on one class and judge all; or take up the result that is in `folder`.

    Raises:
        InputError: `folder` holds a run of other images or options, or options are wrong.
    """
    parts = task.split(plan.normal, plan.seed)
    own, training = _sorted_options(plan)
    identity = _identity(task, parts, plan, own, training)
    path = folder / _RESULT
    if path.exists():
        return _taken_up(path, plan, identity)
    model = build(plan.detector, image_shape=task.shape, seed=plan.seed, **own)
    start = time.monotonic()
    model.fit_rows(parts.learnt, parts.validation, training, folder, resume=True, show_progress=progress)
    facts = {
        "identity": identity,
        "epochs": model.history.epochs,
        "best_epoch": model.history.best_epoch,
        "seconds": sum(row.get("seconds", 0.0) for row in model.history.epochs) or time.monotonic() - start,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "learnt": len(parts.learnt),
    }
    arrays: Tensors = {}
    for score in model.own_scores():
        for name, rows in (("normal", parts.normal), ("anomalous", parts.anomalous)):
            arrays[f"scores/{score}/{name}"] = _scored(model, rows, score, progress)
    arrays |= {f"pictures/{name}": picture for name, picture in _pictures(model, parts, plan.seed).items()}
    write_tensors(path, arrays, facts)
    return _taken_up(path, plan, identity)


def is_finished(folder: Path) -> bool:
    """Return whether a run has left its result in its folder."""
    return (folder / _RESULT).exists()


def baseline_scores(parts: Split) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return what scores without any learning say: name -> (of normal test images, of anomalous ones).

    "pixel variance" is the variance of an image's values; "distance to the mean image" the mean squared difference from
    the mean of the training images.
    """
    mean = mean_image(parts.learnt)
    scores = (pixel_variance, lambda images: squared_distance(images, mean))
    return {
        name: (_by(score, parts.normal), _by(score, parts.anomalous))
        for name, score in zip(BASELINES, scores, strict=True)
    }


def _by(score: Callable[[Floats], NDArray[np.float64]], rows: Rows) -> NDArray[np.float64]:
    return np.concatenate([score(batch) for batch in rows.batches()])


def check_classes(task: Task, wanted: str) -> tuple[str, ...]:
    """Return the classes named in `wanted`, joined by commas, or every class for "all".

    Raises:
        InputError: an unknown class.
    """
    if wanted == "all":
        return task.classes
    chosen = tuple(wanted.split(","))
    unknown = [name for name in chosen if name not in task.classes]
    if unknown:
        raise not_among(f"a class of {task.name}", task.classes, unknown[0])
    return chosen


def options_for(detector: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the options that a detector has; options of training go to detectors that train by steps.

    Raises:
        InputError: the score, which a study does not choose: it reports them all.
    """
    chosen = sorted({"score", *option_names(PoolingOptions)} & options.keys())
    if chosen:
        raise InputError(f"a study reports every score over whole images: leave out {chosen[0]}")
    kind = detector_class(detector)
    own, training = (
        {name: options[name] for name in options if name in option_names(one)}
        for one in (kind.Options, TrainingOptions)
    )
    # Of the methods of `features`, dfr alone is trained.
    return own | training if kind.trains_by_steps or "dfr" in own.get("methods", ()) else own


def check_options(detectors: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raise InputError for an option that none of the detectors has, or a value out of range, before any work."""
    taken: set[str] = set()
    for detector in detectors:
        plan = Plan(detector=detector, normal="", seed=0, options=options_for(detector, options))
        own, _ = _sorted_options(plan)
        make_options(detector_class(detector).Options, own, f"detector {detector!r}")
        taken |= plan.options.keys()
    unknown = sorted(options.keys() - taken)
    if unknown:
        raise InputError(f"{' and '.join(detectors)} have no option {unknown[0]!r}")


def _sorted_options(plan: Plan) -> tuple[dict[str, Any], TrainingOptions]:
    """Tell the options of the detector from those of training, and let the run's seed decide."""
    names = option_names(TrainingOptions)
    given = {name: value for name, value in plan.options.items() if name in names}
    defaults = detector_class(plan.detector).training_defaults
    training = make_options(TrainingOptions, {**defaults, **given, "seed": plan.seed}, "training")
    return {name: value for name, value in plan.options.items() if name not in names}, training


def _identity(task: Task, parts: Split, plan: Plan, own: Mapping[str, Any], training: TrainingOptions) -> str:
    """Return a digest of all that a result depends on."""
    rows = [vars(parts)[name].index for name in ("learnt", "validation", "normal", "anomalous")]
    known = [
        plan.detector,
        options_to_json(make_options(detector_class(plan.detector).Options, own, f"detector {plan.detector!r}")),
        {**deciding_options(training), "patience": training.patience},
        list(task.shape),
        [task.images.fingerprint(index) for index in rows],
    ]
    return sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _taken_up(path: Path, plan: Plan, identity: str) -> Result:
    """Return the result of a finished run, whose checkpoint is not needed any more."""
    arrays, facts = read_tensors(path)
    if facts.get("identity") != identity:
        raise InputError(f"{path.parent} holds a run of other images or options: choose another folder for this study")
    (path.parent / CHECKPOINT).unlink(missing_ok=True)
    scores = {
        score: (arrays[f"scores/{score}/normal"], arrays[f"scores/{score}/anomalous"])
        for score in detector_class(plan.detector).own_scores()
    }
    pictures = {name.removeprefix("pictures/"): value for name, value in arrays.items() if name.startswith("pictures/")}
    return Result(plan, scores, pictures, facts)


def _scored(model: Detector, rows: Rows, score: str, shown: bool) -> NDArray[np.float64]:
    parts = []
    with show(f"judging by {score}", len(rows), shown) as advance:
        for pixels in rows.batches(model.scoring_batch):
            parts.append(model.score_batch(nameless(pixels), score).instance_score)
            advance(len(pixels), "")
    return np.concatenate(parts)


def _pictures(model: Detector, parts: Split, seed: int) -> dict[str, NDArray[np.float32]]:
    """Return a few test images with their reconstructions, chosen at random, and samples."""
    pictures = {}
    for name, rows in (("normal", parts.normal), ("anomalous", parts.anomalous)):
        chosen = np.random.default_rng(seed).permutation(len(rows))[:_PICTURES]
        originals = rows.take(np.sort(chosen))
        rebuilt = model.score_batch(nameless(originals), reconstruction=True).reconstruction
        if rebuilt is not None:
            pictures[name] = np.stack([originals, rebuilt])
    if model.can_sample:
        pictures["samples"] = model.sample(_SAMPLES, seed=seed)[None]
    return pictures


def _read(
    parts: Sequence[tuple[ImageSet, bool]], preprocessing: Preprocessing, shown: bool
) -> tuple[Spool, NDArray[np.bool_]]:
    """Read several splits one behind the other, and note which image is of the test split."""
    test: list[bool] = []
    sizes = [images.size for images, _ in parts]
    with show("reading images", sum(size for size in sizes if size is not None), shown) as advance:

        def batches() -> Iterator[Batch]:
            for images, is_test in parts:
                for batch in read_batches(images, preprocessing, images_in_a_read(preprocessing.shape)):
                    test.extend([is_test] * int(batch.good.sum()))
                    advance(len(batch.ids), "")
                    yield batch

        read = spool(batches(), preprocessing.shape)
    return read, np.array(test)

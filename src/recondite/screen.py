"""A screen: a fitted detector, a calibration and the false-alarm rate that the user chose."""

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recondite.artifacts import Tensors, read_folder, write_folder
from recondite.calibration import Calibrator, Guarantee
from recondite.datasets import Batch, ImageSet, Rows, Spool, guess_shape, open_images, read_batches, split, spool
from recondite.detectors import Detector, build, detector_class
from recondite.detectors.base import FEWEST_VALIDATED, SCORING_BATCH
from recondite.errors import ArtifactError, InputError
from recondite.images import Preprocessing
from recondite.options import TrainingOptions, make_options, option_names, options_to_json
from recondite.presets import get_preset
from recondite.progress import progress as show
from recondite.scores import Scores, Verdicts
from recondite.training import History

SCHEMA = 1
KIND = "recondite screen"
_DETECTOR_FILE, _CALIBRATION_FILE = "detector.safetensors", "calibration.safetensors"
_BAD_FILES_LISTED = 100
_READ_AHEAD = 256

OnBad = Literal["flag", "skip", "raise"]


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Judges images: scores of `detector` become p-values and verdicts at false-alarm rate `alpha`.

    Made by `fit` or `load`.

    Args:
        detector: fitted.
        calibrator: holds the scores of normal images that the detector has never seen.
        alpha: the false-alarm rate on normal images, in (0, 1).
        confidence: None for a rate that holds on average over calibration sets; 0.95 for one that holds for this
            calibration set with that probability.
        guarantee: what is meant by confidence; see `recondite.calibration.Guarantee`.
        facts: JSON values that tell how the screen was made.

    Raises:
        InputError: alpha is out of range or too small for the number of calibration images.
    """

    detector: Detector
    calibrator: Calibrator
    alpha: float
    confidence: float | None = None
    guarantee: Guarantee = "exact"
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group in self.calibrator.sizes:
            self.calibrator.threshold(self.alpha, self.confidence, self.guarantee, group)

    @property
    def thresholds(self) -> dict[str, float]:
        """The threshold of each group; the only key is "" where the calibration has no groups."""
        return {
            group: self.calibrator.threshold(self.alpha, self.confidence, self.guarantee, group)
            for group in self.calibrator.sizes
        }

    @property
    def threshold(self) -> float:
        """An image whose instance score is higher is an outlier; NaN where every group has its own threshold."""
        return self.thresholds.get("", float("nan"))

    @property
    def false_alarm_interval(self) -> tuple[float, float]:
        """The 95 % interval of the true false-alarm rate (of the smallest group, where there are groups)."""
        sizes = self.calibrator.sizes
        smallest = min(sizes, key=lambda group: sizes[group])
        return self.calibrator.interval(self.alpha, self.confidence, self.guarantee, smallest)

    @property
    def map_scale(self) -> float:
        """The feature score at which heat maps reach full colour; one for all images of a screen."""
        return float(self.facts.get("map_scale") or 1.0)

    def fingerprint(self) -> str:
        """Return a SHA-256 of all that scores and p-values depend on; alpha is not part of it."""
        detector = self.detector
        made = [detector.name, list(detector.shape), options_to_json(detector.options)]
        digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode())
        for value in self.detector.state_dict().values():
            digest.update(value.cpu().contiguous().numpy().tobytes())
        digest.update(self.calibrator.scores.tobytes())
        return digest.hexdigest()

    def with_alpha(self, alpha: float, confidence: float | None = None, guarantee: Guarantee | None = None) -> "Screen":
        """Return this screen at another false-alarm rate; nothing is fitted again.

        Raises:
            InputError: alpha is out of range or too small for the number of calibration images.
        """
        return replace(self, alpha=alpha, confidence=confidence, guarantee=guarantee or self.guarantee)

    def recalibrated(self, images: object, *, by_folder: bool = False) -> "Screen":
        """Return this screen calibrated on other normal images, which the detector must not have learnt from.

        Raises:
            InputError: none of them can be read, or there are too few for alpha.
        """
        spooled = _spool(open_images(images, role="inliers", shape=self.detector.shape), self.detector, shown=False)
        scores = _calibration_scores(self.detector, spooled.rows())
        groups = tuple(spooled.labels) if by_folder else None
        facts = {**self.facts, "calibration": {"images": len(spooled), "fingerprint": spooled.fingerprint()}}
        return replace(self, calibrator=Calibrator(scores, groups), facts=facts)

    def predict(
        self,
        images: object,
        *,
        fdr: float | None = None,
        groups: Sequence[str] | None = None,
        feature_score: bool = False,
        reconstruction: bool = False,
        on_bad: OnBad = "flag",
        progress: bool = False,
    ) -> Verdicts:
        """Judge images.

        Args:
            images: anything that `open_images` opens.
            fdr: control the false-discovery rate of this batch at this level instead of the false-alarm rate.
            groups: one label an image, where the calibration has groups; by default the labels of `images`.
            feature_score: return the score of each value too; memory then grows with the number of images.
            reconstruction: return the rebuilt images too; likewise.
            on_bad: what an unreadable image becomes: a row that is an outlier and says why, nothing, or an error.
            progress: show progress on standard error.

        Raises:
            InputError: no images; or an unreadable one, with on_bad="raise".
        """
        opened = open_images(images, shape=self.detector.shape)
        parts = self.stream(
            opened, groups=groups, feature_score=feature_score, reconstruction=reconstruction, on_bad=on_bad
        )
        with show("screening", opened.size, progress) as advance:
            judged = []
            for part in parts:
                judged.append(part)
                advance(len(part), "")
        verdicts = Verdicts.concatenate(judged)
        return verdicts if fdr is None else verdicts.with_false_discovery_rate(fdr)

    def stream(
        self,
        images: object,
        *,
        groups: Sequence[str] | None = None,
        feature_score: bool = False,
        reconstruction: bool = False,
        on_bad: OnBad = "flag",
        skip: frozenset[str] = frozenset(),
    ) -> Iterator[Verdicts]:
        """Yield the verdicts of successive small batches, in bounded memory.

        Args:
            images: as in `predict`.
            groups: as in `predict`.
            feature_score: as in `predict`.
            reconstruction: as in `predict`.
            on_bad: as in `predict`.
            skip: ids to leave out without reading them.
        """
        if on_bad not in ("flag", "skip", "raise"):
            raise InputError(f"expected on_bad to be flag, skip or raise; got {on_bad!r}")
        opened = open_images(images, shape=self.detector.shape)
        if groups is not None:
            if opened.ids is None or len(groups) != len(opened.ids):
                raise InputError(f"expected one group label for each of {opened.size} images; got {len(groups)}")
            opened = replace(opened, labels=list(groups))
        for batch in read_batches(opened, self.detector.preprocessing, SCORING_BATCH, skip):
            if on_bad != "flag" and not batch.good.all():
                batch = _without_bad(batch, on_bad)
            if batch.ids:
                scores = self.detector.score_batch(batch, feature_score=feature_score, reconstruction=reconstruction)
                yield self.judge(scores, batch.labels)

    def judge(self, scores: Scores, labels: Sequence[str] | None = None) -> Verdicts:
        """Turn scores of this screen's detector into verdicts.

        Args:
            scores: N scores.
            labels: N group labels; only looked at where the calibration has groups.
        """
        errors = list(scores.errors)
        valid = np.flatnonzero(np.isfinite(scores.instance_score))
        for index in np.flatnonzero(~np.isfinite(scores.instance_score)):
            errors[index] = errors[index] or "the score is not finite"
        groups = None
        if self.calibrator.groups is not None:
            names = list(labels or [""] * len(scores))
            known = self.calibrator.sizes
            for index in valid:
                if names[index] not in known:
                    errors[index] = f"no calibration for group {names[index]!r}"
            valid = np.array([index for index in valid if names[index] in known], dtype=np.intp)
            groups = [names[index] for index in valid]
        p_value = np.full(len(scores), np.nan)
        flags = np.ones(len(scores), dtype=bool)
        values = scores.instance_score[valid]
        p_value[valid] = self.calibrator.p_value(values, groups, self.confidence, self.guarantee)
        flags[valid] = self.calibrator.is_outlier(values, self.alpha, groups, self.confidence, self.guarantee)
        return Verdicts(
            ids=scores.ids,
            instance_score=scores.instance_score,
            errors=tuple(errors),
            feature_score=scores.feature_score,
            reconstruction=scores.reconstruction,
            p_value=p_value,
            is_outlier=flags,
            threshold=self.threshold,
            alpha=self.alpha,
        )

    def save(self, path: Path | str, *, texts: Mapping[str, str] | None = None) -> None:
        """Write the screen as a folder, atomically: a crash leaves an older screen there whole.

        Args:
            path: the folder.
            texts: further files for people, such as training logs: name -> text.

        Raises:
            ArtifactError: `path` exists and is not a screen.
        """
        detector = self.detector
        tensors: dict[str, Tensors] = {
            _DETECTOR_FILE: {name: value.cpu().contiguous().numpy() for name, value in detector.state_dict().items()},
            _CALIBRATION_FILE: {"scores": self.calibrator.scores},
        }
        groups = self.calibrator.groups
        if groups is not None:
            names, codes = np.unique(np.array(groups), return_inverse=True)
            tensors[_CALIBRATION_FILE]["groups"] = codes.astype(np.int64)
        manifest = {
            "kind": KIND,
            "schema": SCHEMA,
            "detector": detector.name,
            "options": options_to_json(detector.options),
            "own_modules": detector.modules_given,
            "preprocessing": detector.preprocessing.to_json(),
            "alpha": self.alpha,
            "confidence": self.confidence,
            "guarantee": self.guarantee,
            "groups": None if groups is None else [str(name) for name in names],
            "history": {"epochs": detector.history.epochs, "best_epoch": detector.history.best_epoch},
            "facts": dict(self.facts),
            "versions": _versions(),
        }
        write_folder(Path(path), manifest, tensors, texts or {})

    def to(self, device: str) -> "Screen":
        """Move the detector to a device, such as "cuda", and return the screen."""
        self.detector.to(device)
        return self


def load(path: Path | str, *, encoder: nn.Module | None = None, decoder: nn.Module | None = None) -> Screen:
    """Load a screen. Nothing in its files is executed.

    Args:
        path: the folder that `Screen.save` wrote.
        encoder: a module of the same architecture, where the screen was made with modules of your own.
        decoder: likewise.

    Raises:
        ArtifactError: missing, damaged, altered, of another version, or inconsistent.
        InputError: the screen needs your own modules and they were not given.
    """
    path = Path(path)
    manifest, files = read_folder(path, SCHEMA, KIND)
    if manifest.get("own_modules") and (encoder is None or decoder is None):
        raise InputError(f"{path} was made with your own networks: load it with encoder=... and decoder=...")
    try:
        shape = Preprocessing.from_json(manifest["preprocessing"]).shape
        weights = {name: torch.from_numpy(array) for name, array in files[_DETECTOR_FILE].items()}
        if not manifest["own_modules"]:
            _check_weights(weights, manifest["detector"], shape, manifest["options"])
        detector = build(
            manifest["detector"], image_shape=shape, encoder=encoder, decoder=decoder, **manifest["options"]
        )
        detector.load_state_dict(weights)
        detector.history = History(**manifest["history"])
        calibration = files[_CALIBRATION_FILE]
        groups = None
        if manifest["groups"] is not None:
            groups = tuple(manifest["groups"][code] for code in calibration["groups"])
        return Screen(
            detector=detector,
            calibrator=Calibrator(calibration["scores"], groups),
            alpha=manifest["alpha"],
            confidence=manifest["confidence"],
            guarantee=manifest["guarantee"],
            facts=manifest["facts"],
        )
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ArtifactError(f"{path} is not a consistent screen: {error}") from error


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
        detector: "autoencoder" (default), "vae" or "pca".
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
    recipe = get_preset(preset) if preset is not None else None
    if recipe is not None and detector not in (None, recipe.detector):
        raise InputError(f"preset {preset!r} is a recipe for detector {recipe.detector!r}; got {detector!r}")
    name = recipe.detector if recipe is not None else detector or "autoencoder"
    chosen, training = _sort_options(name, {**(recipe.options if recipe is not None else {}), **options})
    source = open_images(images, role="fit")
    shape, source = guess_shape(source, _sides(image_size))
    if recipe is not None and recipe.shape:
        shape = recipe.shape
    model = build(name, image_shape=shape, seed=training.seed, encoder=encoder, decoder=decoder, **chosen)

    spooled = _spool(source, model, progress)
    sets = _three_sets(spooled, model, validation, calibration, training.seed, progress)
    if on_bad == "raise" and sets.bad:
        raise InputError(f"{sets.bad[0][0]}: {sets.bad[0][1]} ({len(sets.bad)} unreadable images in all)")
    # Before hours of training: are there enough calibration images for this alpha?
    groups = tuple(sets.calibration_labels) if by_folder else None
    for size in Calibrator(np.zeros(len(sets.calibration)), groups).sizes.values():
        Calibrator(np.zeros(size)).threshold(alpha, confidence, guarantee)

    folder = Path(run_folder) if run_folder is not None else None
    model.fit_rows(sets.images, sets.validation, training, folder, resume, progress)
    scores = _calibration_scores(model, sets.calibration, progress)
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
    if min(shares) < 0 or sum(shares) >= 1:
        raise InputError(f"expected shares for calibration and validation that leave images to fit; got {shares}")
    calibrating, validating, fitting = split(spooled.hashes, [round(share * len(spooled)) for share in shares], seed)
    held_out, tuned_on = spooled, spooled
    if not isinstance(calibration, float | int):
        held_out = _spool(open_images(calibration, role="inliers", shape=model.shape), model, shown)
        calibrating = np.arange(len(held_out))
    if not isinstance(validation, float | int | None):
        tuned_on = _spool(open_images(validation, role="inliers", shape=model.shape), model, shown)
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


def _spool(images: ImageSet, model: Detector, shown: bool) -> Spool:
    with show("reading images", images.size, shown) as advance:

        def counted() -> Iterator[Batch]:
            for batch in read_batches(images, model.preprocessing, _READ_AHEAD):
                advance(len(batch.ids), "")
                yield batch

        return spool(counted(), model.shape)


def _calibration_scores(model: Detector, rows: Rows, shown: bool = False) -> NDArray[np.float64]:
    parts = []
    with show("calibrating", len(rows), shown) as advance:
        for pixels in rows.batches(SCORING_BATCH):
            parts.append(model.score_batch(_nameless(pixels)).instance_score)
            advance(len(pixels), "")
    return np.concatenate(parts)


def _map_scale(model: Detector, rows: Rows, looked_at: int = 256) -> float:
    """Return the feature score at which heat maps reach full colour: the worst of a thousand on normal images."""
    parts = [
        model.score_batch(_nameless(p), feature_score=True).feature_score
        for p in Rows(rows.pixels, rows.index[:looked_at]).batches(SCORING_BATCH)
    ]
    return float(np.quantile(np.concatenate([part for part in parts if part is not None]), 0.999))


def _nameless(pixels: NDArray[np.float32]) -> Batch:
    return Batch([""] * len(pixels), [""] * len(pixels), pixels, [None] * len(pixels))


def _without_bad(batch: Batch, on_bad: OnBad) -> Batch:
    good = batch.good
    if on_bad == "raise":
        index = int(np.flatnonzero(~good)[0])
        raise InputError(f"{batch.ids[index]}: {batch.errors[index]}")
    kept = np.flatnonzero(good)
    return Batch(
        [batch.ids[i] for i in kept], [batch.labels[i] for i in kept], batch.pixels, [batch.errors[i] for i in kept]
    )


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
    return own, make_options(TrainingOptions, training, "training")


def _sides(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (image_size, image_size) if isinstance(image_size, int) else image_size


def _check_weights(
    weights: Mapping[str, torch.Tensor], detector: str, shape: tuple[int, ...], options: Mapping[str, Any]
) -> None:
    """Compare the file's tensors with the network the options describe before memory is taken for it."""
    with torch.device("meta"):
        expected = build(detector, image_shape=shape, **options).state_dict()
    for name, value in expected.items():
        if name not in weights or weights[name].shape != value.shape or weights[name].dtype != value.dtype:
            raise ValueError(f"tensor {name!r} should be {tuple(value.shape)} of {value.dtype}")
    if len(weights) != len(expected):
        raise ValueError(f"there are {len(weights)} tensors instead of {len(expected)}")


def _versions() -> dict[str, str]:
    packages = ("recondite", "torch", "numpy", "pillow", "safetensors")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}

"""A screen as one graph for onnxruntime or OpenVINO, from pixels to score, feature scores, p-value and verdict."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from recondite.data.artifacts import check_target, write_folder
from recondite.data.datasets import nameless, open_images
from recondite.data.spool import Rows, Spool, keys_of, one_of_each, read_all, split
from recondite.data.units import COPIES, GroupBy, check_group_by, labels_of
from recondite.detectors import Detector
from recondite.errors import ArtifactError, InputError, not_among
from recondite.graphs.exported import BATCH, Exported, ExportedOptions, PixelType, Precision, probe_images
from recondite.graphs.runtimes import FILES, RuntimeName, import_openvino
from recondite.screen.calibrate import calibrated, unknown_rows
from recondite.screen.openvino import judging, quantised, serialised
from recondite.screen.saved import DETECTOR_FILE, EXPORTED, PEAKS, REGION
from recondite.screen.screen import Screen
from recondite.screen.screen_graph import ScreenGraph, example_of, traced
from recondite.screen.timing import instructions, milliseconds
from recondite.screen.words import ERROR
from recondite.statistics.calibration import Calibrator
from recondite.torch_state import own_settings

_LEAST_SPREAD = 2.0**-9
TOLERANCE = 2.0**-11
"""The largest difference of a score, in interquartile ranges of the calibration scores, that a float32 export may make.

It follows from the arithmetic and not from a processor: float32 rounds to a unit of u = 2**-24, and a sum of n products
taken in another order, as every instruction set takes it, differs by at most 2 n u of the sum of their magnitudes; with
n = 4,096 inputs of a unit, as many as the reference networks have, that is 2**-11. Errors of random sign grow with the
root of n, so that this is what some 64 such layers make. Labels are those of the screen for every image whose score is
farther than twice as much from the threshold, and for the calibration image that set it, whose score is raised by it.
"""
Floats = NDArray[np.float64]
_RANGE_IMAGES, _ORDERED_IMAGES = 300, 500
_LOWEST_AGREEMENT, PAYS = 0.7, 1.1


@own_settings()
def export_onnx(screen: Screen, path: Path | str, *, pixels: PixelType = "float32") -> Path:
    """Write a screen as a folder with one ONNX graph, which `recondite.load` and `recondite predict` run.

    The graph takes pixels (N, C, H, W), of the screen's own size, and gives instance_score float64 (N,), feature_score
    float32 (N, C, H, W), p_value float64 (N,) and is_outlier bool (N,). Weights, evidence and calibration are in it, so
    that another program needs nothing else; a region too: what lies outside is painted over in the graph. Images of
    other sizes are resized outside, by the same code as ever.
    Before anything is written the graph is run, and its scores compared with the screen's.

    Args:
        screen: calibrated without groups, and not looking at the features of a classifier.
        path: the folder, replaced if it is a graph.
        pixels: what the graph takes: "float32" in [0, 1], or "uint8", for other programs; then images of another size
            or depth are refused, since resizing does not give whole numbers.

    Returns:
        The folder.

    Raises:
        InputError: a screen that cannot be exported, or the packages of the extra `export` are not installed.
        ArtifactError: `path` exists and is not a screen, or one that is no graph.
        RuntimeError: the graph's scores differ from the screen's.
    """
    path = target(screen, path, pixels)
    screen = with_room(screen)
    content = [_traced(screen, pixels)]
    exported = runnable(screen, content, pixels, options_of(screen, "onnx"))
    check_parity(screen, exported)
    return written(exported, screen, path, pixels)


@own_settings()
def export_openvino(
    screen: Screen,
    path: Path | str,
    *,
    pixels: PixelType = "float32",
    int8: object = None,
    always_int8: bool = False,
    group_by: GroupBy = COPIES,
    progress: bool = False,
) -> Path:
    """Write a screen as a folder with one graph for OpenVINO: model.xml and its numbers, model.bin.

    It is the graph that `export_onnx` writes. OpenVINO computes in float32 what is float64 there; the differences are
    well within `TOLERANCE`.

    With `int8` the network's convolutions and dense layers compute with 8-bit integers; in the backbone of `features`
    only those that widen its blocks, since the rounding of others would look like defects. Scores are others then, so
    the screen is calibrated anew: a fifth of the images, 300 at most, set the ranges of the integers, and the rest, one
    of each unit, set the threshold, by scores of the quantised graph. The false-alarm rate holds as ever; what the
    rounding costs in detection is for you to measure (`recondite evaluate`). Whether 8-bit integers are faster
    depends on the network and the processor, so it is measured here: where they are not by a tenth, the graph is
    written in float32. `facts["int8"]` says the times and the processor's instructions.

    Args:
        screen, path, pixels: as in `export_onnx`.
        int8: normal images that the screen has not learnt from, anything that `open_images` opens; None for float32.
        always_int8: write the graph with 8-bit integers though they are no faster here.
        group_by: what tells images of `int8` that belong together, of which one calibrates; as in `recondite.fit`.
        progress: show progress on standard error.

    Returns:
        The folder.

    Raises:
        InputError: as `export_onnx`, for the extra `openvino`; too few images for alpha; or a network without
            convolutions and dense layers, with `int8`.
        ArtifactError: as `export_onnx`.
        RuntimeError: the graph's scores differ from the screen's, or int8 has changed their order beyond use.
    """
    path = target(screen, path, pixels)
    openvino = import_openvino()
    if int8 is None:
        screen = with_room(screen)
        return written(_in_float32(screen, _traced(screen, pixels), pixels), screen, path, pixels)
    spooled, ranges, rest = _for_int8(screen, int8, group_by)
    # Too few for alpha are refused now, not after minutes of work.
    replace(screen, calibrator=Calibrator(np.zeros(len(rest))), peaks=None)
    rows = spooled.rows(rest)
    options = options_of(screen, "openvino", "int8")
    # Scores are those of the screen without room.
    roomy = with_room(screen)
    graph = _traced(roomy, pixels)
    model = quantised(
        openvino.Core().read_model(graph),
        spooled.rows(ranges),
        pixels,
        for_features=not screen.detector.rebuilds,
    )
    facts = {"images": len(rest), "fingerprint": spooled.fingerprint(rest), "ranges": len(ranges)}
    detector = runnable(screen, serialised(model), pixels, options).detector
    exported = Screen(
        detector=detector,
        alpha=screen.alpha,
        confidence=screen.confidence,
        guarantee=screen.guarantee,
        **calibrated(detector, None, ERROR, rows, None, {**screen.facts, "calibration": facts}, progress),
    )
    _check_order(screen, exported, rows)
    plain = _in_float32(roomy, graph, pixels)
    times = milliseconds({"float32": plain, "int8": exported})
    told = {"int8": {"milliseconds": times, "instructions": instructions()}}
    if times["float32"] < PAYS * times["int8"] and not always_int8:
        return written(replace(plain, facts={**plain.facts, **told}), roomy, path, pixels)
    exported = runnable(exported, serialised(judging(model, exported)), pixels, options)
    return written(replace(exported, facts={**exported.facts, **told}), screen, path, pixels)


def _for_int8(screen: Screen, images: object, group_by: GroupBy) -> tuple[Spool, NDArray[np.intp], NDArray[np.intp]]:
    """Return images that the screen has not learnt from, those that set ranges, and one of each other unit."""
    check_group_by(group_by)
    source = open_images(images, role="inliers", shape=screen.detector.shape)
    group_by = labels_of(source, group_by)
    spooled = read_all(source, screen.detector.preprocessing)
    keys = keys_of([spooled], group_by)[0]
    fresh = unknown_rows(screen, spooled, group_by, keys)
    ranges, rest = (fresh[part] for part in split(keys[fresh], [min(_RANGE_IMAGES, len(fresh) // 5)], seed=0))
    rest = one_of_each(keys, spooled.hashes, 0, rest)
    if not len(ranges):
        raise InputError(f"expected enough normal images for int8 to set ranges and threshold; got {len(spooled)}")
    return spooled, ranges, rest


def _in_float32(screen: Screen, graph: bytes, pixels: PixelType) -> Screen:
    """Return a screen that runs on the graph of one with room, in OpenVINO."""
    content = serialised(import_openvino().Core().read_model(graph))
    exported = runnable(screen, content, pixels, options_of(screen, "openvino"))
    check_parity(screen, exported)
    return exported


def _traced(screen: Screen, pixels: PixelType) -> bytes:
    return traced(ScreenGraph(screen), example_of(screen, pixels))


def target(screen: Screen, path: Path | str, pixels: PixelType) -> Path:
    """Return the folder to write, absolute, after all refusals.

    Args:
        screen, path, pixels: as in `export_onnx`.

    Raises:
        InputError: a screen that cannot be exported, or not with such pixels.
        ArtifactError: `path` exists and is not a screen.
    """
    if pixels not in get_args(PixelType):
        raise not_among("pixels", get_args(PixelType), pixels)
    if isinstance(screen.detector, Exported):
        raise InputError("the screen was exported already")
    if screen.calibrator.groups is not None:
        raise InputError("a screen calibrated by group cannot be exported: its thresholds depend on the group")
    if screen.evidence is not None and screen.evidence.observer.classifier is not None:
        raise InputError("a screen that looks at a classifier's features cannot be exported")
    if screen.detector.preprocessing.masked:
        raise InputError("a screen with one mask per image cannot be exported: a graph takes pixels alone")
    if pixels == "uint8" and screen.detector.preprocessing.value_range is not None:
        raise InputError("a screen with a range of values of its own cannot take 8-bit pixels: export it with float32")
    if getattr(screen.detector.options, "scoring_precision", "fp32") == "bf16":
        raise InputError("a screen calibrated in bfloat16 cannot be exported: graphs compute in float32")
    path = Path(os.path.abspath(path))
    check_target(path)
    if (path / DETECTOR_FILE).exists():
        raise ArtifactError(f"{path} holds a screen, which its graph cannot give back: name another folder")
    return path


def options_of(screen: Screen, runtime: RuntimeName, precision: Precision = "float32") -> ExportedOptions:
    """Return what an export of a screen says of itself."""
    batch = min(BATCH, screen.detector.scoring_batch)
    return ExportedOptions(
        detector=screen.detector.name, score=screen.score, runtime=runtime, precision=precision, batch=batch
    )


def with_room(screen: Screen) -> Screen:
    """Return the screen with calibration scores, and the peaks of maps, raised by a hair.

    The calibration image that set a threshold has exactly that value; with a graph's rounding it would else be up to
    chance whether the graph flags it.
    """
    peaks = None if screen.peaks is None else raised(Calibrator(screen.peaks)).scores
    return replace(screen, calibrator=raised(screen.calibrator), peaks=peaks)


def raised(calibrator: Calibrator) -> Calibrator:
    """Return a calibrator whose scores are higher by `TOLERANCE`."""
    return Calibrator(calibrator.scores + TOLERANCE * spread_of(calibrator), calibrator.groups)


def spread_of(calibrator: Calibrator) -> float:
    """Return the interquartile range of calibration scores, by which rounding is measured.

    Where they hardly differ, rounding is that of their size, in float32.
    """
    low, high = np.quantile(calibrator.scores, [0.25, 0.75])
    return max(float(high - low), _LEAST_SPREAD * float(np.abs(calibrator.scores).max()), 1e-12)


def runnable(
    screen: Screen,
    content: Sequence[bytes],
    pixels: PixelType,
    options: ExportedOptions,
    classes: int = 0,
    rules: Sequence[str] = (),
) -> Screen:
    """Return a screen with the same calibration that runs on a graph; classes and rules as in `Exported`."""
    seen = screen.detector.preprocessing
    given = (screen.detector.locates, seen.region, seen.value_range, classes, rules)
    detector = Exported(screen.detector.shape, options, content, pixels, *given)
    return replace(
        screen,
        detector=cast(Detector, detector),
        score=ERROR,
        evidence=None,
        observations={},
        facts=dict(screen.facts),
    )


def written(
    exported: Screen, screen: Screen, path: Path, pixels: PixelType, guard: Mapping[str, Any] | None = None
) -> Path:
    """Write the folder of an exported screen; `guard` tells what else the graph gives."""
    options, content = exported.detector.options, cast(Exported, exported.detector).content
    manifest = {
        **replace(screen, calibrator=exported.calibrator, peaks=exported.peaks, facts=exported.facts).to_json(),
        "kind": EXPORTED,
        "pixels": pixels,
        "locates": screen.detector.locates,
        "runtime": options.runtime,
        "precision": options.precision,
        "batch": options.batch,
        **({} if guard is None else {"guard": dict(guard)}),
    }
    numbers = {"scores": exported.calibrator.scores}
    if exported.peaks is not None:
        numbers[PEAKS] = exported.peaks
    region = screen.detector.preprocessing.region
    if region is not None:
        numbers[REGION] = region.astype(np.uint8)
    files = dict(zip(FILES[options.runtime], content, strict=True))
    write_folder(path, manifest, {"calibration.safetensors": numbers}, files)
    return path


def check_parity(screen: Screen, exported: Screen) -> None:
    """Raise RuntimeError if the graph does not score noise and smooth images as the screen does."""
    batch = nameless(probe_images(screen.detector.shape, np.float32))
    ours, theirs = screen.score_batch(batch).instance_score, exported.score_batch(batch).instance_score
    check_agreement("the graph's scores", ours, theirs, spread_of(screen.calibrator), "the screen's")


def check_agreement(what: str, ours: Floats, theirs: Floats, spread: float, whose: str) -> None:
    """Raise RuntimeError if arrays differ by more than `TOLERANCE` of their size, or of a spread if that is more."""
    difference = np.abs(ours - theirs) / np.maximum(np.abs(ours), spread)
    if not difference.max() <= TOLERANCE:
        raise RuntimeError(f"{what} differ by {difference.max():.2g} from {whose}; nothing was written")


def _check_order(screen: Screen, exported: Screen, rows: Rows) -> None:
    """Raise RuntimeError if a graph of another precision does not order the first images much as the screen does."""
    from scipy.stats import spearmanr

    some = Rows(rows.pixels, rows.index[:_ORDERED_IMAGES])
    parts = [
        screen.score_batch(nameless(pixels)).instance_score for pixels in some.batches(screen.detector.scoring_batch)
    ]
    agreement = float(spearmanr(np.concatenate(parts), exported.calibrator.scores[: len(some)]).statistic)
    if not agreement >= _LOWEST_AGREEMENT:
        raise RuntimeError(
            f"scores in int8 have a rank correlation of {agreement:.2f} with the screen's own, and "
            f"{_LOWEST_AGREEMENT} is needed; nothing was written"
        )

"""A screen as one graph for onnxruntime or OpenVINO, from pixels to score, feature scores, p-value and verdict."""

import logging
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import cast, get_args

import numpy as np
import torch
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import NDArray
from torch import Tensor, nn

from recondite.data.artifacts import check_target, write_folder
from recondite.data.datasets import nameless, open_images
from recondite.data.spool import Rows, Spool, keys_of, one_of_each, read_all, split
from recondite.data.units import COPIES, GroupBy, check_group_by, labels_of
from recondite.detectors import Detector
from recondite.errors import InputError
from recondite.graphs.exported import BATCH, Exported, ExportedOptions, PixelType, Precision, probe_images
from recondite.graphs.runtimes import FILES, OUTPUTS, RuntimeName, import_openvino
from recondite.networks.fused import with_plain_convolutions
from recondite.networks.hooks import evaluating, recorded
from recondite.screen.calibrate import calibrated, unknown_rows
from recondite.screen.evidence import Evidence
from recondite.screen.openvino import judging, quantised, serialised
from recondite.screen.saved import EXPORTED, REGION
from recondite.screen.screen import Screen
from recondite.screen.timing import instructions, milliseconds
from recondite.screen.words import AUTO, ERROR, EVIDENCE
from recondite.statistics.calibration import Calibrator, p_value_table
from recondite.statistics.density import FARTHEST, Marginals
from recondite.statistics.likeness import Likeness
from recondite.torch_state import own_settings

TOLERANCE = 2.0**-11
"""The largest difference of a score, in interquartile ranges of the calibration scores, that a float32 export may make.

It follows from the arithmetic and not from a processor: float32 rounds to a unit of u = 2**-24, and a sum of n products
taken in another order, as every instruction set takes it, differs by at most 2 n u of the sum of their magnitudes; with
n = 4,096 inputs of a unit, as many as the reference networks have, that is 2**-11. Errors of random sign grow with the
root of n, so that this is what some 64 such layers make. Labels are those of the screen for every image whose score is
farther than twice as much from the threshold, and for the calibration image that set it, whose score is raised by it.
"""
_RANGE_IMAGES, _ORDERED_IMAGES = 300, 500
_LOWEST_AGREEMENT, _PAYS = 0.7, 1.1
_LIMIT = 2.5
_NODES, _WEIGHTS = hermegauss(60)
_FRACTION = _NODES, _WEIGHTS / math.sqrt(2 * math.pi)
_SERIES = np.cumprod([1, *(_LIMIT**2 / (2 * number + 1) for number in range(1, 64))])
"""Coefficients of the even powers of z / _LIMIT."""


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
        path: the folder, replaced if it is a screen.
        pixels: what the graph takes: "float32" in [0, 1], or "uint8", for other programs; then images of another size
            or depth are refused, since resizing does not give whole numbers.

    Returns:
        The folder.

    Raises:
        InputError: a screen that cannot be exported, or the packages of the extra `export` are not installed.
        ArtifactError: `path` exists and is not a screen.
        RuntimeError: the graph's scores differ from the screen's.
    """
    path = _target(screen, path, pixels)
    screen = _with_room(screen)
    content = [_traced(screen, pixels)]
    exported = _runnable(screen, content, pixels, _options(screen, "onnx"))
    _check_parity(screen, exported)
    return _written(exported, screen, path, pixels)


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
    path = _target(screen, path, pixels)
    openvino = import_openvino()
    if int8 is None:
        screen = _with_room(screen)
        return _written(_in_float32(screen, _traced(screen, pixels), pixels), screen, path, pixels)
    spooled, ranges, rest = _for_int8(screen, int8, group_by)
    # Too few for alpha are refused now, not after minutes of work.
    replace(screen, calibrator=Calibrator(np.zeros(len(rest))), peaks=None)
    rows = spooled.rows(rest)
    options = _options(screen, "openvino", "int8")
    # Scores are those of the screen without room.
    with_room = _with_room(screen)
    traced = _traced(with_room, pixels)
    model = quantised(
        openvino.Core().read_model(traced),
        spooled.rows(ranges),
        pixels,
        for_features=not screen.detector.rebuilds,
    )
    facts = {"images": len(rest), "fingerprint": spooled.fingerprint(rest), "ranges": len(ranges)}
    detector = _runnable(screen, serialised(model), pixels, options).detector
    exported = Screen(
        detector=detector,
        alpha=screen.alpha,
        confidence=screen.confidence,
        guarantee=screen.guarantee,
        **calibrated(detector, None, ERROR, rows, None, {**screen.facts, "calibration": facts}, progress),
    )
    _check_order(screen, exported, rows)
    plain = _in_float32(with_room, traced, pixels)
    times = milliseconds({"float32": plain, "int8": exported})
    told = {"int8": {"milliseconds": times, "instructions": instructions()}}
    if times["float32"] < _PAYS * times["int8"] and not always_int8:
        return _written(replace(plain, facts={**plain.facts, **told}), with_room, path, pixels)
    exported = _runnable(exported, serialised(judging(model, exported)), pixels, options)
    return _written(replace(exported, facts={**exported.facts, **told}), screen, path, pixels)


def _for_int8(screen: Screen, images: object, group_by: GroupBy) -> tuple[Spool, NDArray[np.intp], NDArray[np.intp]]:
    """Return images that the screen has not learnt from, those that set ranges, and one of each other unit."""
    check_group_by(group_by)
    source = open_images(images, role="inliers", shape=screen.detector.shape)
    group_by = labels_of(source, group_by)
    spooled = read_all(source, screen.detector.preprocessing)
    keys = keys_of([spooled], group_by)[0]
    fresh = unknown_rows(screen, spooled, group_by, keys)
    ranges, rest = (fresh[part] for part in split(keys[fresh], [min(_RANGE_IMAGES, len(fresh) // 5)], seed=0))
    rest = rest[one_of_each(keys[rest], spooled.hashes[rest], seed=0)]
    if not len(ranges):
        raise InputError(f"expected enough normal images for int8 to set ranges and threshold; got {len(spooled)}")
    return spooled, ranges, rest


def _in_float32(screen: Screen, traced: bytes, pixels: PixelType) -> Screen:
    """Return a screen that runs on the graph of one with room, in OpenVINO."""
    content = serialised(import_openvino().Core().read_model(traced))
    exported = _runnable(screen, content, pixels, _options(screen, "openvino"))
    _check_parity(screen, exported)
    return exported


def _target(screen: Screen, path: Path | str, pixels: PixelType) -> Path:
    """Return the folder to write, absolute, after all refusals."""
    if pixels not in get_args(PixelType):
        raise InputError(f"expected pixels among {', '.join(get_args(PixelType))}; got {pixels!r}")
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
    return path


def _options(screen: Screen, runtime: RuntimeName, precision: Precision = "float32") -> ExportedOptions:
    batch = min(BATCH, screen.detector.scoring_batch)
    return ExportedOptions(
        detector=screen.detector.name, score=screen.score, runtime=runtime, precision=precision, batch=batch
    )


def _with_room(screen: Screen) -> Screen:
    """Return the screen with calibration scores raised by a hair.

    The calibration image that set the threshold has exactly that score; with a graph's rounding it would else be up to
    chance whether the graph flags it.
    """
    scores = screen.calibrator.scores
    low, high = np.quantile(scores, [0.25, 0.75])
    return replace(screen, calibrator=Calibrator(scores + TOLERANCE * max(high - low, 1e-12)), peaks=None)


def _runnable(screen: Screen, content: Sequence[bytes], pixels: PixelType, options: ExportedOptions) -> Screen:
    """Return a screen with the same calibration that runs on a graph."""
    seen = screen.detector.preprocessing
    detector = Exported(
        screen.detector.shape, options, content, pixels, screen.detector.locates, seen.region, seen.value_range
    )
    return replace(
        screen,
        detector=cast(Detector, detector),
        score=ERROR,
        evidence=None,
        observations={},
        peaks=None,
        facts=dict(screen.facts),
    )


def _written(exported: Screen, screen: Screen, path: Path, pixels: PixelType) -> Path:
    options, content = exported.detector.options, cast(Exported, exported.detector).content
    manifest = {
        **replace(screen, calibrator=exported.calibrator, peaks=None, facts=exported.facts).to_json(),
        "kind": EXPORTED,
        "pixels": pixels,
        "locates": screen.detector.locates,
        "runtime": options.runtime,
        "precision": options.precision,
        "batch": options.batch,
    }
    numbers = {"scores": exported.calibrator.scores}
    region = screen.detector.preprocessing.region
    if region is not None:
        numbers[REGION] = region.astype(np.uint8)
    files = dict(zip(FILES[options.runtime], content, strict=True))
    write_folder(path, manifest, {"calibration.safetensors": numbers}, files)
    return path


def _traced(screen: Screen, pixels: PixelType) -> bytes:
    """Return the screen's judgement as the bytes of an ONNX file."""
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError('exporting needs onnx and onnxscript: pip install "recondite[export]"') from error
    graph = _Graph(screen)
    example = torch.zeros(
        min(BATCH, screen.detector.scoring_batch), *screen.detector.shape, dtype=getattr(torch, pixels)
    )
    # The exporter reports its stages on standard output, and warns of packages that are not needed here.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with evaluating(graph), warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            input_names=["pixels"],
            output_names=list(OUTPUTS),
            dynamic_shapes={"pixels": {0: torch.export.Dim("N")}},
        )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def _check_parity(screen: Screen, exported: Screen) -> None:
    """Raise RuntimeError if the graph does not score noise and smooth images as the screen does."""
    batch = nameless(probe_images(screen.detector.shape, np.float32))
    ours, theirs = screen.score_batch(batch).instance_score, exported.score_batch(batch).instance_score
    low, high = np.quantile(screen.calibrator.scores, [0.25, 0.75])
    difference = np.abs(ours - theirs) / np.maximum(np.abs(ours), max(high - low, 1e-12))
    if not difference.max() <= TOLERANCE:
        raise RuntimeError(
            f"the graph's scores differ by {difference.max():.2g} from the screen's; nothing was written"
        )


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


class _Graph(nn.Module):
    """All of a screen's judgement as tensor operations: (N, C, H, W) -> `OUTPUTS`."""

    ascending: Tensor
    table: Tensor

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self.screen, self.detector = screen, with_plain_convolutions(screen.detector)
        ascending = np.sort(screen.calibrator.scores)
        table = p_value_table(len(ascending), screen.confidence, screen.guarantee)
        self.register_buffer("ascending", torch.from_numpy(ascending))
        self.register_buffer("table", torch.from_numpy(np.array(table)))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if pixels.dtype == torch.uint8:
            pixels = pixels.float() / 255
        evidence, detector = self.screen.evidence, self.detector
        pixels = detector.painted(pixels)
        if evidence is None or self.screen.score == ERROR:
            _, maps, scores = detector.measure_and_pool(pixels)
        else:
            layers = detector.encoder_layers() if evidence.observer.reencoding else []
            with recorded(layers) as before:
                measured, maps, error = detector.measure_and_pool(pixels)
                found = evidence.observer.found(detector, pixels, measured, before)
            scores = combined(evidence, self.screen.score, error, {k: v.double() for k, v in found.items()})
        at_least = _count(self.ascending[None] >= scores[:, None])
        return scores, maps, self.table[at_least], ~(scores <= self.screen.threshold)


def combined(evidence: Evidence, name: str, error: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
    """Return what `Evidence.score` does, (N,) float64, by operations that ONNX has."""
    density = evidence.density
    z = normal_scores(density.marginals, torch.stack([statistics[name] for name in density.names], dim=1))
    if name in density.names:
        return z[:, density.names.index(name)].abs()
    precision = torch.from_numpy(density.precision)
    distance = ((z @ precision) * z).sum(1).clamp(min=0).sqrt()
    if name == EVIDENCE:
        return distance
    assert name == AUTO
    rare, scales, made_up = [error, distance], [evidence.error, evidence.distance], evidence.made_up
    if made_up is not None:
        rare.append(likeness(made_up.likeness, z))
        scales.append(made_up.scale)
    # All were learnt from the same images, and have as many knots.
    together = Marginals(np.concatenate([scale.knots for scale in scales]))
    tails = log_normal_tail(normal_scores(together, torch.stack(rare, dim=1)))
    if made_up is None:
        return (math.log(0.5) - tails).amax(1)
    weights = torch.tensor(made_up.weights, dtype=torch.float64)
    return (-tails * weights).sum(1)


def likeness(learnt: Likeness, z: Tensor) -> Tensor:
    """Return what `Likeness` does, (N,)."""
    directions, offsets = torch.from_numpy(learnt.directions), torch.from_numpy(learnt.offsets)
    # A product, as OpenVINO 2026.4 sums (N, M, K) along the last axis wrongly for many images.
    ratios = z @ directions.T - offsets
    largest = ratios.amax(1).clamp(min=0)
    return largest + ((ratios - largest[:, None]).exp().sum(1) + (-largest).exp()).log()


def normal_scores(marginals: Marginals, values: Tensor) -> Tensor:
    """Return what `Marginals.z` does, (N, K)."""
    knots, levels = marginals.knots, torch.from_numpy(marginals.levels)
    first, last, spreads = (torch.from_numpy(part) for part in (knots[:, 0], knots[:, -1], marginals.spreads))
    # From both sides at once; the levels are symmetric.
    sides = _interpolated(
        torch.cat([values, -values], dim=1), np.concatenate([knots, -knots[:, ::-1]]), marginals.levels
    )
    below = (values - first).clamp(max=0) / spreads[:, 0]
    above = (values - last).clamp(min=0) / spreads[:, 1]
    inner = (sides[:, : len(knots)] - sides[:, len(knots) :]) / 2
    return (inner + levels[-1] * (below + above)).clamp(-FARTHEST, FARTHEST)


def _interpolated(values: Tensor, knots: NDArray[np.float64], levels: NDArray[np.float64]) -> Tensor:
    """Return numpy's `interp` of values (N, K) by knots (K, Q), ascending, and levels (Q,)."""
    widths = np.diff(knots, append=np.inf)
    rises = np.diff(levels, append=levels[-1])
    starts = torch.from_numpy(knots)
    left = (_count(starts[None] <= values[:, :, None]) - 1).clamp(min=0)
    # Nothing rises after the last knot, nor between equal ones.
    flat = left + torch.arange(len(knots)) * knots.shape[1]
    wide = torch.from_numpy(np.where(widths > 0, widths, np.inf)).flatten()[flat]
    share = ((values - starts.flatten()[flat]) / wide).clamp(0, 1)
    return torch.from_numpy(levels)[left] + share * torch.from_numpy(rises)[left]


def _count(flags: Tensor) -> Tensor:
    """Return how many flags are set along the last axis, int64: OpenVINO 2026.4 may sum comparisons wrongly."""
    return flags.double().sum(-1).long()


def log_normal_tail(z: Tensor) -> Tensor:
    """Return log(1 - Phi(z)) in float64: ONNX has no such function, and runtimes have erf in float32 only.

    Source: Abramowitz and Stegun 1964, 26.2.11 (a series, for |z| < 2.5) and 26.2.14 (a continued fraction, beyond).
    Differs from there: of the fraction the convergent is taken as the Gauss-Hermite sum that it equals, so that neither
    is a long row of operations, which takes minutes to export.
    """
    # Each branch sees values that it can take; `where` chooses afterwards.
    far, near = z.abs().clamp(min=_LIMIT), z.clamp(-_LIMIT, _LIMIT)
    nodes, weights = (torch.from_numpy(part) for part in _FRACTION)
    ratio = far * ((far.square()[..., None] + nodes.square()).reciprocal() @ weights)
    log_far = -far.square() / 2 - math.log(2 * math.pi) / 2 + ratio.log()
    beyond = torch.where(z > 0, log_far, torch.log1p(-log_far.exp()))
    square = near.square() / _LIMIT**2
    powers = torch.stack([torch.ones_like(square), square], dim=-1)
    while powers.shape[-1] < len(_SERIES):
        square = square.square()
        powers = torch.cat([powers, powers * square[..., None]], dim=-1)
    series = powers @ torch.from_numpy(_SERIES)
    within = (0.5 - near * series * (-near.square() / 2).exp() / math.sqrt(2 * math.pi)).log()
    return torch.where(z.abs() < _LIMIT, within, beyond)

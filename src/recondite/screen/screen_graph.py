"""A screen's judgement as tensor operations that ONNX has, and the tracing of such modules."""

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import numpy as np
import torch
from torch import Tensor, nn

from recondite.detectors.measured import Measured
from recondite.errors import InputError
from recondite.graphs.exported import BATCH, PixelType
from recondite.graphs.runtimes import INPUT, OUTPUTS
from recondite.networks.fused import with_plain_convolutions
from recondite.networks.hooks import evaluating, recorded
from recondite.screen.evidence import Evidence
from recondite.screen.screen import Screen
from recondite.screen.words import AUTO, ERROR, EVIDENCE
from recondite.statistics.calibration import p_value_table
from recondite.statistics.density import FARTHEST, Marginals
from recondite.statistics.likeness import Likeness

_FRACTION_TERMS, _SERIES_TERMS = 60, 40
_LIMIT = 2.5


def traced(graph: nn.Module, examples: Mapping[str, Tensor], outputs: Sequence[str] = OUTPUTS) -> bytes:
    """Return a module as the bytes of an ONNX file that takes any number of images.

    Args:
        graph: takes the examples in their order, and gives a tuple.
        examples: name of an input -> a batch (N, ...) such as it will get.
        outputs: names of what it gives.

    Raises:
        InputError: the packages of the extra `export` are not installed.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError('exporting needs onnx and onnxscript: pip install "recondite[export]"') from error
    # The exporter reports its stages on standard output, and warns of packages that are not needed here.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with evaluating(graph), warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        images = torch.export.Dim("N")
        program = torch.onnx.export(
            graph,
            tuple(examples.values()),
            dynamo=True,
            input_names=list(examples),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: images} for _ in examples),
        )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def example_of(screen: Screen, pixels: PixelType) -> dict[str, Tensor]:
    """Return the input of a screen's graph: its name -> a batch of black images."""
    count = min(BATCH, screen.detector.scoring_batch)
    return {INPUT: torch.zeros(count, *screen.detector.shape, dtype=getattr(torch, pixels))}


class ScreenGraph(nn.Module):
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

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return `OUTPUTS` of images (N, C, H, W), float32 in [0, 1] or uint8."""
        return self.judged(floats(pixels))[0]

    def judged(self, pixels: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Measured]:
        """Return `OUTPUTS`, and what the detector measured, of images (N, C, H, W) in [0, 1]."""
        evidence, detector = self.screen.evidence, self.detector
        pixels = detector.painted(pixels)
        if evidence is None or self.screen.score == ERROR:
            measured, maps, scores = detector.measure_and_pool(pixels)
        else:
            layers = detector.encoder_layers() if evidence.observer.reencoding else []
            with recorded(layers) as before:
                measured, maps, error = detector.measure_and_pool(pixels)
                found = evidence.observer.found(detector, pixels, measured, before)
            scores = combined(evidence, self.screen.score, error, {k: v.double() for k, v in found.items()})
        at_least = counted(self.ascending[None] >= scores[:, None])
        return (scores, maps, self.table[at_least], ~(scores <= self.screen.threshold)), measured


def floats(pixels: Tensor) -> Tensor:
    """Return pixels in [0, 1] of 8-bit or float ones."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


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
    rare = [normal_scores(evidence.error, error[:, None]), normal_scores(evidence.distance, distance[:, None])]
    made_up = evidence.made_up
    if made_up is None:
        return (math.log(0.5) - log_normal_tail(torch.cat(rare, dim=1))).amax(1)
    rare.append(normal_scores(made_up.scale, likeness(made_up.likeness, z)[:, None]))
    weights = torch.tensor(made_up.weights, dtype=torch.float64)
    return (-log_normal_tail(torch.cat(rare, dim=1)) * weights).sum(1)


def likeness(learnt: Likeness, z: Tensor) -> Tensor:
    """Return what `Likeness` does, (N,)."""
    directions, offsets = torch.from_numpy(learnt.directions), torch.from_numpy(learnt.offsets)
    # A product, as OpenVINO 2026.4 sums (N, M, K) along the last axis wrongly for many images.
    ratios = z @ directions.T - offsets
    largest = ratios.amax(1).clamp(min=0)
    return largest + ((ratios - largest[:, None]).exp().sum(1) + (-largest).exp()).log()


def normal_scores(marginals: Marginals, values: Tensor) -> Tensor:
    """Return what `Marginals.z` does, (N, K)."""
    knots, levels = (torch.from_numpy(part) for part in (marginals.knots, marginals.levels))
    spreads = torch.from_numpy(marginals.spreads)
    upward = _interpolated(values, knots, levels)
    downward = _interpolated(-values, -knots.flip(1), -levels.flip(0))
    below = (values - knots[:, 0]).clamp(max=0) / spreads[:, 0]
    above = (values - knots[:, -1]).clamp(min=0) / spreads[:, 1]
    return ((upward - downward) / 2 + levels[-1] * (below + above)).clamp(-FARTHEST, FARTHEST)


def _interpolated(values: Tensor, knots: Tensor, levels: Tensor) -> Tensor:
    """Return numpy's `interp` of values (N, K) by knots (K, Q), ascending, and levels (Q,)."""
    last = knots.shape[1] - 1
    left = (counted(knots[None] <= values[:, :, None]) - 1).clamp(0, last)
    right = (left + 1).clamp(max=last)
    columns = torch.arange(len(knots))
    start, end = knots[columns, left], knots[columns, right]
    share = ((values - start) / torch.where(end > start, end - start, 1.0)).clamp(0, 1)
    share = torch.where(end > start, share, 0.0)
    return levels[left] + share * (levels[right] - levels[left])


def counted(flags: Tensor) -> Tensor:
    """Return how many flags are set along the last axis, int64: OpenVINO 2026.4 may sum comparisons wrongly."""
    return flags.double().sum(-1).long()


def log_normal_tail(z: Tensor) -> Tensor:
    """Return log(1 - Phi(z)) in float64: ONNX has no such function, and runtimes have erf in float32 only.

    Source: Abramowitz and Stegun 1964, 26.2.11 (a series, for |z| < 2.5) and 26.2.14 (a continued fraction, beyond).
    """
    # Each branch sees values that it can take; `where` chooses afterwards.
    far, near = z.abs().clamp(min=_LIMIT), z.clamp(-_LIMIT, _LIMIT)
    fraction = far
    for number in range(_FRACTION_TERMS, 0, -1):
        fraction = far + number / fraction
    log_far = -far.square() / 2 - math.log(2 * math.pi) / 2 - fraction.log()
    beyond = torch.where(z > 0, log_far, torch.log1p(-log_far.exp()))
    # The innermost bracket of the nested series first: 1 + s / 3 (1 + s / 5 (1 + ...)), s the square.
    series = torch.ones_like(near)
    for number in range(_SERIES_TERMS, 0, -1):
        series = 1 + near.square() * series / (2 * number + 1)
    within = (0.5 - near * series * (-near.square() / 2).exp() / math.sqrt(2 * math.pi)).log()
    return torch.where(z.abs() < _LIMIT, within, beyond)

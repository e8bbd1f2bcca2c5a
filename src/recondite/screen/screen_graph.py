"""A screen's judgement as tensor operations that ONNX has, and the tracing of such modules."""

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import numpy as np
import torch
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import NDArray
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

_LIMIT = 2.5
_NODES, _WEIGHTS = hermegauss(60)
_FRACTION = _NODES, _WEIGHTS / math.sqrt(2 * math.pi)
_SERIES = np.cumprod([1, *(_LIMIT**2 / (2 * number + 1) for number in range(1, 64))])
"""Coefficients of the even powers of z / _LIMIT."""


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
        from onnx_ir.passes.common import OutputFixPass
        from onnxscript import optimizer, rewriter
        from onnxscript.rewriter.rules import common as rules
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
            # It would take a constant below 1e-8 for zero: the logarithm of 0 plus a little would be that of 0.
            optimize=False,
            input_names=list(examples),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: images} for _ in examples),
        )
    assert program is not None
    optimizer.fold_constants(program.model)
    # onnxruntime joins a clip with the convolution before it, but not a maximum and a minimum.
    rewriter.rewrite(program.model, [rules.max_min_rule, rules.min_max_rule])
    OutputFixPass()(program.model)  # an input that is an output too gets a node of its own
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
        at_least = number_set(self.ascending[None] >= scores[:, None])
        return (scores, maps, self.table[at_least], ~(scores <= self.screen.threshold)), measured


def floats(pixels: Tensor) -> Tensor:
    """Return pixels in [0, 1] of 8-bit or float ones."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


def combined(evidence: Evidence, name: str, error: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
    """Return what `Evidence.score` does, (N,) float64, by operations that ONNX has."""
    density = evidence.density
    if name in density.names:
        # Of this one alone: what measures the others is left out of the graph.
        place = density.names.index(name)
        alone = Marginals(density.marginals.knots[place : place + 1])
        return normal_scores(alone, statistics[name][:, None])[:, 0].abs()
    z = normal_scores(density.marginals, torch.stack([statistics[name] for name in density.names], dim=1))
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
    # Where all ratios are small this is the sum of them, and not what 1 + sum - 1 leaves of it in float32.
    return largest + _log1p((ratios - largest[:, None]).exp().sum(1) + ((-largest).exp() - 1))


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
    left = (number_set(starts[None] <= values[:, :, None]) - 1).clamp(min=0)
    # Nothing rises after the last knot, nor between equal ones.
    flat = left + torch.arange(len(knots)) * knots.shape[1]
    wide = torch.from_numpy(np.where(widths > 0, widths, np.inf)).flatten()[flat]
    share = ((values - starts.flatten()[flat]) / wide).clamp(0, 1)
    return torch.from_numpy(levels)[left] + share * torch.from_numpy(rises)[left]


def number_set(flags: Tensor) -> Tensor:
    """Return how many flags are set along the last axis, int64: OpenVINO 2026.4 may sum comparisons wrongly."""
    return flags.double().sum(-1).long()


def _log1p(x: Tensor) -> Tensor:
    """Return log(1 + x), exact for small x too: ONNX has no such function, and log(1 + x) in float32 is 0 for x = 1e-8.

    Source: Abramowitz and Stegun 1964, 4.1.27 (a series), for |x| < .1.
    """
    small = x.clamp(-0.1, 0.1)
    share = small / (2 + small)
    square = share.square()
    series = 1 + square * (1 / 3 + square * (1 / 5 + square * (1 / 7 + square * (1 / 9 + square / 11))))
    return torch.where(x.abs() < 0.1, 2 * share * series, (1 + x).log())


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
    beyond = torch.where(z > 0, log_far, _log1p(-log_far.exp()))
    square = near.square() / _LIMIT**2
    powers = torch.stack([torch.ones_like(square), square], dim=-1)
    while powers.shape[-1] < len(_SERIES):
        square = square.square()
        powers = torch.cat([powers, powers * square[..., None]], dim=-1)
    series = powers @ torch.from_numpy(_SERIES)
    within = (0.5 - near * series * (-near.square() / 2).exp() / math.sqrt(2 * math.pi)).log()
    return torch.where(z.abs() < _LIMIT, within, beyond)

"""Calibration of a screen: scores of held-out normal images, and a probe that detects another arithmetic."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recondite.data.datasets import nameless
from recondite.data.spool import Rows
from recondite.detectors import Detector
from recondite.errors import ArtifactError
from recondite.screen.evidence import ERROR, Evidence, observed
from recondite.statistics.calibration import Calibrator

PROBE = "bfloat16 probe"
"""The fact of a screen that holds the scores of a few random images; in bfloat16, processors may differ in them."""
_PROBES, _PROBE_TOLERANCE = 4, 1e-3


def calibrated(
    detector: Detector,
    evidence: Evidence | None,
    score: str,
    rows: Rows,
    groups: tuple[str, ...] | None,
    facts: Mapping[str, Any],
    progress: bool = False,
) -> dict[str, Any]:
    """Return the keyword arguments of a `Screen` that its calibration images decide.

    Args:
        detector, evidence, score, facts: as in `Screen`.
        rows: normal images, none of which the screen has learnt from.
        groups: one label a row, or None.
        progress: show progress on standard error.
    """
    error, statistics, peaks = observed(detector, evidence.observer if evidence else None, rows, progress)
    scores = error if evidence is None else evidence.score(score, error, statistics)
    if getattr(detector.options, "scoring_precision", "fp32") == "bf16":
        facts = {**facts, PROBE: probe_scores(detector)}
    return {
        "calibrator": Calibrator(scores, groups),
        "observations": {} if evidence is None else {ERROR: error, **statistics},
        "peaks": peaks,
        "facts": facts,
    }


def probe_scores(detector: Detector) -> list[float]:
    """Return the scores of a few random images; in bfloat16, other processors may give others."""
    pixels = np.random.default_rng(0).random((_PROBES, *detector.shape), dtype=np.float32)
    return [float(score) for score in detector.score_batch(nameless(pixels)).instance_score]


def check_probe(detector: Detector, facts: Mapping[str, Any], path: Path) -> None:
    """Raise ArtifactError if scores here are not those that the screen was calibrated with."""
    expected = facts.get(PROBE)
    if expected is None:
        return
    found = probe_scores(detector)
    if not np.allclose(found, np.asarray(expected, dtype=np.float64), rtol=_PROBE_TOLERANCE, atol=0):
        raise ArtifactError(
            f"{path} was calibrated in bfloat16 on a processor that computes it in another way: "
            "its false-alarm rate would not hold here; fit it again, or with scoring_precision fp32"
        )

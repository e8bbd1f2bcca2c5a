"""What is promised of an export: its scores within the tolerance, its labels those of the screen."""

import numpy as np

from recondite.screen.export import TOLERANCE


def assert_agrees(screen, ours, theirs):
    """Compare an export's verdicts with the screen's own on the same images."""
    low, high = np.quantile(screen.calibrator.scores, [0.25, 0.75])
    allowed = TOLERANCE * np.maximum(high - low, np.abs(ours.instance_score))
    difference = np.abs(theirs.instance_score - ours.instance_score)
    assert (difference <= allowed).all(), (difference / allowed).max()
    clear = np.abs(ours.instance_score - screen.threshold) > 2 * allowed
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(theirs.is_outlier[clear], ours.is_outlier[clear])

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
    # Both the score and the calibration scores may move by the tolerance, and a p-value by the scores between.
    highest, lowest = (
        screen.calibrator.p_value(
            ours.instance_score + side * 2 * allowed, confidence=screen.confidence, guarantee=screen.guarantee
        )
        for side in (-1, 1)
    )
    assert (lowest <= theirs.p_value).all()
    assert (theirs.p_value <= highest).all()

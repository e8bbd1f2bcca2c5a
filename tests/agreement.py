"""What is promised of an export: its scores within the tolerance, its labels those of the screen or the guard."""

import numpy as np

import recondite
from recondite.screen.export import TOLERANCE
from recondite.screen.guard_file import load_guard

PLAIN = np.stack([np.full((8, 8), level, np.uint8) for level in (0, 127, 255)])
"""Images without any variance or step, whose logarithms only what is added to them keeps finite."""


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


def assert_decides_alike(guard, folder, images):
    """Compare an exported guard with the one it was made from, where no part is near its threshold."""
    found = load_guard(recondite.load(folder), folder)
    ours, theirs = guard(images), found(images)
    near = np.zeros(len(images), dtype=bool)
    for part, calibrator in guard.calibrators.items():
        step = 1.1 / min(calibrator.sizes.values())  # the tolerance moves a score past one calibration image at most
        assert np.abs(ours.p_values[part] - theirs.p_values[part]).max() <= step, part
        near |= np.abs(ours.p_values[part] - ours.limits[part]) <= step
    np.testing.assert_allclose(theirs.confidence, ours.confidence, atol=1e-4)
    assert theirs.predicted == ours.predicted
    clear = [(one.label, one.kind) for one, close in zip(ours, near, strict=True) if not close]
    assert [(one.label, one.kind) for one, close in zip(theirs, near, strict=True) if not close] == clear
    assert len(clear) > len(images) / 2
    assert {None, "foreign"} <= {kind for _, kind in clear}
    return found

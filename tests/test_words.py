"""Numbers in words."""

import numpy as np
import pytest

from recondite.progress import counted
from recondite.reports.words import how_rare, p_text
from recondite.statistics.calibration import Calibrator


class Small:
    """What `how_rare` asks a screen for."""

    confidence, guarantee = None, "exact"

    def __init__(self, size, groups=None):
        self.calibrator = Calibrator(np.arange(size, dtype=float), groups)


@pytest.mark.parametrize(
    ("size", "score", "words"),
    [
        (32, 99, "none of the 32 calibration images scores this high (p <= .0304, the smallest this screen can give)"),
        (32, 31, "1 of the 32 calibration images scores this high (p = .0606)"),
        (32, 30, "2 of the 32 calibration images score this high (p = .0909)"),
        (12_499, 99_999, "none of the 12,499 calibration images scores this high (p <= 8e-5, the smallest this screen"),
        (1, 0, "1 of the one calibration image scores this high (p = 1)"),
    ],
)
def test_a_rare_score_is_told_by_the_images_that_score_as_high(size, score, words):
    screen = Small(size)
    p_value = float(screen.calibrator.p_value([score])[0])
    assert how_rare(screen, score, p_value).startswith(words)


def test_a_group_is_compared_with_its_own_images():
    screen = Small(6, ("a", "a", "a", "b", "b", "b"))
    p_value = float(screen.calibrator.p_value([2], ["a"])[0])
    assert how_rare(screen, 2, p_value, "a") == "1 of the 3 calibration images of group a scores this high (p = .5)"


def test_no_p_value_is_rounded_to_zero_and_one_is_one():
    assert [p_text(p) for p in (8e-5, 1e-12, 0.0005, 0.05, 1.0)] == ["8e-5", "1e-12", "0.0005", "0.05", "1"]
    assert (counted(1, "image"), counted(0, "image")) == ("1 image", "0 images")

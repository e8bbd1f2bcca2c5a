"""What a screen promises, in words."""

from types import SimpleNamespace

import numpy as np
import pytest

from recondite import Calibrator
from recondite.screen.promise import promise
from recondite.screen.words import caution, gain_in_words, names_of_scores
from recondite.statistics.contamination import LEFT_OUT

RESTS = SimpleNamespace(caution=" It rests on something.")


def screen(groups=None, **changed):
    given = {"evidence": None, "score": "auto", "alpha": 0.05, "confidence": None, "guarantee": "exact", "facts": {}}
    calibrator = Calibrator(np.arange(100.0), groups)
    return SimpleNamespace(**given | {"calibrator": calibrator, "false_alarm_interval": (0.01, 0.123)} | changed)


def calibrated(**facts):
    return {"facts": {"calibration": facts}}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "On average a share of at most 0.05 of normal images is flagged by mistake."),
        (
            {"evidence": RESTS},
            "On average a share of at most 0.05 of normal images is flagged by mistake." + RESTS.caution,
        ),
        (
            {"evidence": RESTS, "score": "error"},
            "On average a share of at most 0.05 of normal images is flagged by mistake.",
        ),
        (
            {"confidence": 0.9},
            "With 90 % confidence in this calibration set, a share of at most 0.05 of normal images is flagged by "
            "mistake.",
        ),
        (
            calibrated(no_promise=["it was odd"]),
            "Nothing is promised: the calibration was forced, although it was odd.",
        ),
        (
            calibrated(left_out_in_parts=10, images=100),
            "About a share of 0.05 of normal images is flagged by mistake: 100 images were judged by detectors fitted "
            "without them, and with so few the true rate may well be 0.12. That is not proven. It would be with "
            "--calibration 0.2, which holds images out, for a less steady threshold.",
        ),
        (
            calibrated(left_out_in_parts=10, images=60),  # a fifth would not do for alpha
            "About a share of 0.05 of normal images is flagged by mistake: 60 images were judged by detectors fitted "
            "without them, and with so few the true rate may well be 0.12. That is not proven.",
        ),
    ],
)
def test_what_a_screen_promises(changed, said):
    assert promise(screen(**changed)) == said


def test_what_false_discovery_control_promises_rests_on_the_calibration():
    at_most = "Of the images flagged, a share of at most 0.2 is expected to be normal."
    assert promise(screen(), 0.2) == promise(screen(confidence=0.9), 0.2) == at_most
    assert promise(screen(**calibrated(no_promise=["it was odd"])), 0.2).startswith("Nothing is promised")
    assert promise(screen(**calibrated(left_out_in_parts=10, images=100)), 0.2) == (
        "Of the images flagged, about a share of 0.2 is expected to be normal: 100 images were judged by detectors "
        "fitted without them. That is not proven."
    )
    suspects = calibrated(**{LEFT_OUT: {"": 3}})
    assert promise(screen(**suspects), 0.2) == (
        at_most + " That holds if what looked bad and was left out (3 calibration images) is bad."
    )
    assert promise(screen(**calibrated(**{LEFT_OUT: {"": 0}})), 0.2) == at_most


def test_the_rate_if_suspects_are_good_is_that_of_the_worst_group():
    groups = ("a",) * 40 + ("b",) * 60
    one = screen(groups, **calibrated(**{LEFT_OUT: {"a": 0, "b": 3}}))
    rates = [one.calibrator.rate_with(count, 0.05, None, "exact", group) for group, count in (("a", 0), ("b", 3))]
    assert rates[1] > rates[0]
    said = promise(one)
    assert f"(3 calibration images) is bad; if all of it is good, the share is at most {rates[1]:.2g} (" in said
    assert "was left out as suspect" not in said
    none = promise(screen(**calibrated(**{LEFT_OUT: {"": 0}})))
    assert "No calibration image was left out as suspect. Bad images that stayed" in none


def test_scores_and_what_they_rest_on():
    assert names_of_scores(["brightness", "contrast"], False) == ("auto", "evidence", "error", "brightness", "contrast")
    assert names_of_scores(["brightness"], True) == ("auto", "evidence", "error", "classifier", "brightness")
    assert caution(False) == ""
    assert "has not learnt from the calibration images" in caution(True)


def test_what_known_defects_are_worth():
    facts = {"images": 7, "known": (0.5, 0.75), "unseen": (0.875, 0.9)}
    assert gain_in_words(facts) == (
        "AUROC of defects like the 7 known ones 0.500 -> 0.750, of made-up defects of unseen kinds 0.875 -> 0.900 "
        "(cross-validated)"
    )
    assert "0.750 (0.250 -> 0.625 with a margin), of" in gain_in_words(facts | {"told": (0.25, 0.625)})

"""What a classifier said, taken from among the statistics of a screen."""

from types import SimpleNamespace

import numpy as np
import pytest

from recondite.graphs.exported import LOGIT, RULE
from recondite.screen.head_pass import HeadPass, taken_from
from recondite.screen.linear_head import LOGIT_RULES, RULES
from recondite.statistics.scores import Scores


def scores(errors, statistics):
    return Scores(
        ids=tuple(map(str, range(len(errors)))),
        instance_score=np.arange(float(len(errors))),
        errors=tuple(errors),
        statistics=statistics,
    )


def test_logits_and_rules_are_taken_of_readable_images():
    said = {f"{LOGIT}0": np.array([1.0, np.nan, 2]), f"{LOGIT}1": np.array([3.0, np.nan, 4])}
    said[f"{RULE}knn"] = np.array([5.0, np.nan, 6])
    left, logits, rules, good = taken_from(scores([None, "broken", None], {**said, "mean": np.zeros(3)}), 2, ["knn"])
    assert logits.tolist() == [[1, 3], [2, 4]]
    assert {name: value.tolist() for name, value in rules.items()} == {"knn": [5, 6]}
    assert good.tolist() == [0, 2]
    assert list(left.statistics) == ["mean"]
    assert taken_from(scores([None, "broken", None], dict(said)), 2, ["knn"])[0].statistics is None


@pytest.mark.parametrize("more", [{}, {"mean": np.zeros(1)}])
def test_of_no_readable_image_nothing_is_said(more):
    said = {f"{LOGIT}0": np.zeros(1), f"{RULE}knn": np.zeros(1), **more}
    left, logits, rules, good = taken_from(scores(["broken"], said), 3, ["knn", "vim"])
    assert tuple(logits.shape) == (0, 3)
    assert {name: value.shape for name, value in rules.items()} == {"knn": (0,), "vim": (0,)}
    assert len(good) == 0
    assert (left.statistics or {}).keys() == more.keys()
    assert (left.statistics is None) == (not more)


def test_rules_are_asked_for_as_far_as_they_are_known():
    assert HeadPass(None, None).asked == ()
    assert HeadPass(None, SimpleNamespace(tensors={})).asked == LOGIT_RULES
    whole = HeadPass(None, SimpleNamespace(tensors={"knn": 1}))
    assert whole.asked == RULES
    assert HeadPass(None, whole.rules, ("knn",)).asked == ("knn",)
    assert whole.beside(None) is whole.beside(None)
    observer = SimpleNamespace(reencoding=True)
    assert whole.beside(observer) is not whole.beside(None)
    assert (whole.beside(observer).reencoding, whole.beside(None).reencoding) == (True, False)

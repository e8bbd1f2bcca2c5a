import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import twins

from recondite.errors import InputError
from recondite.statistics.scores import Scores, Verdicts, discovery_cutoff, scored


def verdicts(p_values, errors=None):
    p_values = np.asarray(p_values, dtype=float)
    return Verdicts(
        ids=tuple(f"{index}" for index in range(len(p_values))),
        instance_score=1 - p_values,
        errors=tuple(errors or [None] * len(p_values)),
        p_value=p_values,
        is_outlier=~(p_values > 0.1),
        threshold=0.9,
        alpha=0.1,
    )


def test_records_spell_out_every_verdict_and_hold_no_nan():
    rows = list(verdicts([0.5, 0.05, np.nan], [None, None, "truncated"]).records())
    assert [row["verdict"] for row in rows] == ["inlier", "outlier", "invalid"]
    assert [row["is_outlier"] for row in rows] == [False, True, True]
    assert rows[2]["instance_score"] is None
    assert rows[2]["p_value"] is None
    assert rows[2]["error"] == "truncated"
    assert verdicts([0.5, 0.05, np.nan], [None, None, "x"]).counts() == {"inlier": 1, "outlier": 1, "invalid": 1}


def test_concatenating_keeps_order_and_arrays():
    parts = [replace(verdicts([0.5]), feature_score=np.zeros((1, 2), np.float32)) for _ in range(3)]
    joined = Verdicts.concatenate(parts)
    assert len(joined) == 3
    assert joined.feature_score.shape == (3, 2)
    assert joined.reconstruction is None
    assert joined.threshold == 0.9
    with pytest.raises(InputError):
        Scores.concatenate([])


@given(st.lists(st.integers(1, 50).map(lambda k: k / 50), min_size=1, max_size=40), st.sampled_from([0.05, 0.1, 0.5]))
def test_false_discovery_control_equals_the_slow_procedure(p_values, rate):
    flagged = verdicts(p_values).with_false_discovery_rate(rate)
    np.testing.assert_array_equal(flagged.is_outlier, twins.benjamini_hochberg(np.array(p_values), rate))
    assert flagged.rule == "false-discovery rate"


def test_false_discovery_control_keeps_invalid_rows_flagged_and_out_of_the_count():
    p_values = [0.01, 0.9, np.nan]
    flagged = verdicts(p_values, [None, None, "bad"]).with_false_discovery_rate(0.05)
    assert flagged.is_outlier.tolist() == [True, False, True]
    for rate in (0, 1, -0.1, float("nan")):
        with pytest.raises(InputError):
            flagged.with_false_discovery_rate(rate)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.25, 0.5]))
def test_a_table_of_p_values_flags_what_all_of_them_together_flag(ranks, rate):
    p_values = np.array(ranks) / 40
    expected = verdicts(p_values).with_false_discovery_rate(rate).is_outlier
    np.testing.assert_array_equal(p_values <= discovery_cutoff(Counter(p_values.tolist()), rate), expected)


def test_no_p_values_flag_nothing():
    assert discovery_cutoff({}, 0.1) == -1


def test_a_rate_of_numpy_gives_records_that_are_json():
    plain, given = (verdicts([0.01, 0.9]).with_false_discovery_rate(rate) for rate in (0.1, np.float32(0.1)))
    assert json.loads(json.dumps(list(given.records()))) == list(plain.records())
    assert discovery_cutoff({0.7: 10}, np.float32(0.7)) == discovery_cutoff({0.7: 10}, 0.7) == 0.7


def event(name, score="0.5", error="", **others):
    return {"id": name, "instance_score": score, "error": error, **others}


def test_events_are_read_some_at_a_time_in_their_order():
    rows = [event(index, str(index / 10), **{"statistic.a": index, "statistic.b": ""}) for index in range(33)]
    parts = list(scored(iter(rows), "events.csv"))
    assert len(parts[0][0]) == 16
    assert len(parts[-1][0]) == 1
    assert [row for _, some in parts for row in some] == rows
    together = Scores.concatenate(scores for scores, _ in parts)
    assert together.ids == tuple(map(str, range(33)))
    np.testing.assert_array_equal(together.instance_score, np.arange(33) / 10)
    np.testing.assert_array_equal(together.statistics["a"], np.arange(33))
    assert np.isnan(together.statistics["b"]).all()
    assert list(together.statistics) == ["a", "b"]
    assert together.errors == (None,) * 33
    assert list(scored(iter([]), "events.csv")) == []


def test_an_event_has_a_score_or_an_error():
    ((found, _),) = scored(
        iter([event("a"), event("b", "", "truncated"), event("c", None, None) | {"error": "x"}]), "e"
    )
    assert found.errors == (None, "truncated", "x")
    assert np.isnan(found.instance_score).tolist() == [False, True, True]
    assert found.statistics is None
    many = [event(str(index)) for index in range(20)]
    for wrong, words in (
        (event("x", ""), "e, event 21: it has neither an instance_score nor an error"),
        (event("x", "inf"), "e, event 21: it has neither"),
        (event("x", "much"), "e, event 21, instance_score: expected a number"),
    ):
        with pytest.raises(InputError, match=words):
            list(scored(iter([*many, wrong]), "e"))


def test_records_carry_statistics_where_they_are_asked_for():
    found = replace(verdicts([0.5, 0.05]), statistics={"a": np.array([1.0, np.nan])})
    assert [row["statistic.a"] for row in found.records(statistics=True)] == [1.0, None]
    assert "statistic.a" not in next(found.records())
    assert next(found.records())["threshold"] == 0.9
    assert len(list(verdicts([0.5]).records(statistics=True))) == 1


def test_one_part_is_joined_to_itself_and_none_is_an_error():
    one = replace(verdicts([0.5, 0.05]), labels=("a", "b"), statistics={"s": np.array([1.0, 2.0])})
    assert Verdicts.concatenate([one]) is one
    joined = Verdicts.concatenate(iter([one, one]))
    assert joined.labels == ("a", "b", "a", "b")
    assert joined.statistics["s"].tolist() == [1, 2, 1, 2]
    assert joined.ids == ("0", "1") * 2
    with pytest.raises(InputError, match="at least one image"):
        Scores.concatenate(iter([]))


def test_without_a_valid_image_every_image_stays_flagged():
    found = verdicts([np.nan, np.nan], ["bad", "worse"]).with_false_discovery_rate(0.1)
    assert found.is_outlier.tolist() == [True, True]
    assert np.isnan(found.threshold)
    assert found.alpha == 0.1
    assert found.words == ["invalid", "invalid"]


def test_a_p_value_just_at_its_limit_is_flagged():
    assert discovery_cutoff({0.1: 1}, 0.1) == 0.1
    assert verdicts([0.1]).with_false_discovery_rate(0.1).is_outlier.tolist() == [True]
    assert discovery_cutoff({0.9: 3}, 0.1) == -1
    assert discovery_cutoff({0.02: 1, 0.05: 1, 1.0: 1}, 0.08) == 0.05

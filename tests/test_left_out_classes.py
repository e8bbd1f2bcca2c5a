"""Parts of a guard chosen on classes that were left out."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from recondite.errors import InputError
from recondite.screen.choose_parts import (
    _SHARES,
    Judged,
    _jackknife_error,
    _tenths_left_out,
    best_telling,
    choose_parts,
    equal_shares,
    made_up_outliers,
)
from recondite.screen.left_out_classes import ClassedVectors, left_out_classes

DRAWS = np.random.default_rng(0)
MEANS = 3 * np.eye(4)[:, :3] - 1


def of_classes(count, seed, size=3):
    draws = np.random.default_rng(seed)
    classes = draws.integers(0, 4, count)
    return (MEANS[classes][:, :size] + draws.normal(0, 0.5, (count, size))).astype(np.float32), classes


def test_the_head_without_a_class_is_the_discriminant_of_the_others():
    vectors, classes = of_classes(300, 1)
    held, true = of_classes(120, 2)
    found = left_out_classes(ClassedVectors(vectors, classes), ClassedVectors(held, true), 4, 1e-9)
    assert set(found) == {0, 1, 2, 3}
    for place, (others, own) in found.items():
        some = classes != place
        twin = LinearDiscriminantAnalysis(solver="lsqr").fit(vectors[some], classes[some])
        doubt = -np.log(twin.predict_proba(held).max(1))
        np.testing.assert_allclose(others.parts["confidence"], doubt[true != place], atol=1e-3)
        np.testing.assert_allclose(own.parts["confidence"], doubt[true == place], atol=1e-3)
        predicted = twin.predict(held)
        assert own.predicted == [str(one - (one > place)) for one in predicted[true == place]]
        assert set(own.parts) == {"confidence", "max_logit", "energy", "knn", "mahalanobis", "vim"}
        assert own.parts["mahalanobis"].mean() > 2 * others.parts["mahalanobis"].mean()


def test_a_given_classifier_loses_its_logit_of_the_class():
    vectors, classes = of_classes(300, 3)
    held, true = of_classes(120, 4)
    logits, of_held = (DRAWS.normal(size=(len(some), 4)).astype(np.float32) for some in (vectors, held))
    found = left_out_classes(ClassedVectors(vectors, classes, logits), ClassedVectors(held, true, of_held), 4, 0.3)
    for place, (others, own) in found.items():
        expected = -np.delete(of_held, place, axis=1).max(1)
        np.testing.assert_array_equal(others.parts["max_logit"], expected[true != place])
        np.testing.assert_array_equal(own.parts["max_logit"], expected[true == place])


def test_classes_of_few_images_are_not_left_out():
    vectors, classes = of_classes(300, 5)
    held, true = of_classes(120, 6)
    rows = (true != 2) | (np.cumsum(true == 2) <= 9)
    found = left_out_classes(ClassedVectors(vectors, classes), ClassedVectors(held[rows], true[rows]), 4, 0.3)
    assert set(found) == {0, 1, 3}


def test_of_two_classes_each_is_judged_by_the_features_of_the_other():
    vectors, classes = of_classes(300, 8)
    held, true = of_classes(120, 9)
    learnt_from, others = (ClassedVectors(x[y < 2], y[y < 2]) for x, y in ((vectors, classes), (held, true)))
    found = left_out_classes(learnt_from, others, 2, 0.3)
    assert set(found) == {0, 1}
    for place, (of_other, own) in found.items():
        assert own.predicted is None
        assert set(own.parts) == {"knn", "mahalanobis", "vim"}
        assert (len(own.parts["knn"]), len(of_other.parts["knn"])) == (
            (others.classes == place).sum(),
            (others.classes != place).sum(),
        )
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (learnt_from.vectors, others.vectors)]
        bank = unit[0][learnt_from.classes != place]
        fifth = np.sort(np.linalg.norm(unit[1][:, None] - bank, axis=2), axis=1)[:, 4]
        np.testing.assert_allclose(own.parts["knn"], fifth[others.classes == place], atol=1e-3)
    few = np.flatnonzero(learnt_from.classes == 0)[4:]
    some = learnt_from.only(~np.isin(np.arange(len(learnt_from.classes)), few))
    assert set(left_out_classes(some, others, 2, 0.3)) == {0}  # four images of 0 make no rules
    with pytest.raises(InputError, match="expected 2 classes or more"):
        left_out_classes(learnt_from, others, 1, 0.3)
    with pytest.raises(InputError, match="expected 3 classes or more"):
        left_out_classes(replace(learnt_from, logits=np.zeros((len(learnt_from.classes), 2))), others, 2, 0.3)


def test_what_tells_left_out_classes_is_chosen_where_far_outliers_tell_nothing():
    draws = np.random.default_rng(7)

    def drawn(size, **shifted):
        parts = ("screen", "near", "useless")
        return Judged({name: draws.normal(shifted.get(name, 0), 1, size) for name in parts})

    inliers, far = drawn(300), {"far": drawn(300, screen=9, near=9, useless=9)}
    assert choose_parts(inliers, far, 0.1).parts == ("screen",)
    others, own = (
        Judged({name: values for name, values in judged.parts.items() if name != "screen"})
        for judged in (drawn(300), drawn(200, near=4))
    )
    choice = choose_parts(inliers, far, 0.1, {"seven": (others, own)})
    assert choice.parts == ("near",)
    assert choice.left_out["seven"] > 0.95
    assert choice.caught["near"] > 0.95
    assert choice.caught["screen"] == pytest.approx(0.5, abs=0.01)  # what has learnt the class catches none of it


def test_of_rules_that_nothing_tells_apart_the_one_that_tells_most_elsewhere_is_chosen():
    draws = np.random.default_rng(9)
    inliers = Judged({name: draws.normal(size=400) for name in ("vim", "screen", "mahalanobis", "knn")})
    far = {name: np.full(1000, 9.0) for name in inliers.parts}
    far["mahalanobis"][:3] = far["knn"][:2] = -9  # .997 and .998 are caught for 1
    assert choose_parts(inliers, {"far": Judged(far)}, 0.1).parts == ("mahalanobis",)
    far["mahalanobis"][:20] = -9
    assert choose_parts(inliers, {"far": Judged(far)}, 0.1).parts == ("knn",)
    far["knn"][:20] = far["vim"][:20] = -9
    assert choose_parts(inliers, {"far": Judged(far)}, 0.1).parts == ("screen",)


def test_parts_are_chosen_at_the_thresholds_by_class_that_they_will_have():
    draws = np.random.default_rng(11)
    classes = ["cat", "dog"] * 200
    uneven = draws.normal(size=400) + np.tile([0.0, 6.0], 200)  # dogs lie further out
    inliers = Judged({"uneven": uneven, "even": draws.normal(size=400)}, classes)
    foreign = Judged({"uneven": np.full(100, 7.0), "even": np.where(np.arange(100) < 60, 9.0, 0.0)}, ["dog"] * 100)
    among_all = choose_parts(inliers, {"near": foreign}, 0.1)
    by_class = choose_parts(inliers, {"near": foreign}, 0.1, needed=lambda _: 100)
    assert (among_all.parts, among_all.caught["uneven"]) == (("uneven",), 1)
    assert (by_class.parts, by_class.caught["uneven"]) == (("even",), 0)
    for enough, expected in ((200, by_class), (201, among_all)):
        assert choose_parts(inliers, {"near": foreign}, 0.1, needed=lambda _, n=enough: n) == expected
    left_out = {"bird": (inliers, foreign)}
    assert choose_parts(inliers, {"near": foreign}, 0.1, left_out, lambda _: 100).left_out == {"bird": 0.6}
    unheard_of = Judged(foreign.parts, ["bird"] * 100)  # a guard turns away what it has not calibrated
    assert choose_parts(inliers, {"near": unheard_of}, 0.1, needed=lambda _: 100).caught["uneven"] == 1


def test_the_smallest_share_says_whether_there_are_enough_images_of_each_class():
    draws = np.random.default_rng(12)
    classes = ["cat", "dog"] * 2000
    parts = {name: draws.normal(size=4000) + np.tile([0.0, 6.0], 2000) for name in ("a", "b")}
    far = Judged({"a": np.full(100, 7.25), "b": np.full(100, -9.0)}, ["dog"] * 100)
    found = choose_parts(Judged(parts, classes), {"far": far}, 0.1, needed=lambda share: 2000 if share > 0.25 else 3000)
    assert found.caught["a"] == 0  # alone by class, where .1 of the dogs lie above 7.25
    assert found.shares == {"a": 0.75, "b": 0.25}  # with a quarter among all: .15 of them may be turned away by "a"


def looked(*counts, seed=0):
    """So many images of each class, each about a middle of its own."""
    classes = np.repeat(np.arange(len(counts)), counts)
    vectors = np.random.default_rng(seed).normal(0, 0.1, (len(classes), 6)) + 3 * np.eye(6)[classes]
    return ClassedVectors(vectors.astype(np.float32), classes)


def test_the_five_classes_of_most_images_are_left_out_and_none_of_fewer_than_ten():
    learnt_from = looked(*[20] * 6)
    assert set(left_out_classes(learnt_from, looked(11, 12, 10, 13, 14, 15, seed=1), 6, 0.3)) == {0, 1, 3, 4, 5}
    assert set(left_out_classes(looked(20, 20, 20), looked(10, 9, 10, seed=1), 3, 0.3)) == {0, 2}


def test_what_is_left_is_five_images_or_more_of_every_other_class():
    held = looked(12, 12, seed=1)
    assert set(left_out_classes(looked(5, 5), held, 2, 0.3)) == {0, 1}
    assert set(left_out_classes(looked(5, 4), held, 2, 0.3)) == {1}
    assert set(left_out_classes(looked(20, 20, 0), looked(12, 12, 12, seed=1), 3, 0.3)) == {2}


def test_every_way_to_share_alpha_out_gives_all_of_it():
    assert {sum(shares) for shares in _SHARES} == {1}
    assert equal_shares(["a"]) == {"a": 1.0}
    assert sum(equal_shares(["a", "b", "c"]).values()) == pytest.approx(1)


def test_what_tells_left_out_classes_best_is_the_key():
    low, high = (Judged({"knn": np.array(values)}) for values in ([0.0, 1.0], [2.0, 3.0]))
    assert best_telling({0.5: {"x": (high, low)}, 1.0: {"x": (low, high)}}, ["knn"]) == 1.0
    assert best_telling({0.5: {"x": (low, high)}, 1.0: {"x": (low, high)}}, ["knn"]) == 0.5


def test_outliers_have_the_height_and_width_of_the_images():
    images = DRAWS.integers(0, 256, (4, 1, 16, 12), dtype=np.uint8)
    assert {one.shape for one in made_up_outliers(images).values()} == {images.shape}


def test_a_share_needs_images_enough_of_every_kind():
    draws = np.random.default_rng(13)
    inliers = Judged({name: draws.normal(size=400) for name in ("sure", "close")})
    among = np.quantile(inliers.parts["close"], 0.9375)  # above it with three quarters of .1, and not with half
    far = Judged({"sure": np.full(100, 9.0), "close": np.full(100, -9.0)})
    near = Judged({"sure": np.full(100, -9.0), "close": np.full(100, among)})
    outliers = {"far": far, "near": near}
    quarter = {"sure": 0.25, "close": 0.75}
    assert choose_parts(inliers, outliers, 0.1).caught["sure + close"] == 1

    def first(count):
        return Judged({name: values[:count] for name, values in inliers.parts.items()})

    for count, usable in ((39, True), (38, False)):  # a quarter of .1 needs 39
        choice = choose_parts(inliers, outliers, 0.1, {"bird": (first(count), far)})
        assert (choice.shares == quarter) == usable, choice.shares
    with pytest.raises(InputError, match="calibration"):
        choose_parts(first(5), outliers, 0.1)
    for count in (9, 10):  # enough for .1, and not without one of them
        assert choose_parts(first(count), {"far": far}, 0.1).shares == {"sure": 1}


def test_what_catches_more_by_chance_is_no_better_and_what_alone_meets_a_kind_is():
    draws = np.random.default_rng(17)

    def scores(count, middle):
        shared = draws.normal(middle, size=count)
        return Judged({name: shared + draws.normal(0, 0.2, count) for name in ("mahalanobis", "vim")})

    inliers, kinds = scores(400, 0), [scores(100, 2) for _ in range(4)]
    outliers = {str(number): kind for number, kind in enumerate(kinds)}
    choice = choose_parts(inliers, outliers, 0.05)
    assert choice.caught["vim"] > choice.caught["mahalanobis"] + 0.01
    assert choice.shares == {"mahalanobis": 1}
    outliers["unseen"] = Judged({"mahalanobis": np.full(100, -9.0), "vim": np.full(100, 9.0)})
    assert choose_parts(inliers, outliers, 0.05).shares == {"vim": 1}


def test_the_error_of_a_share_is_that_of_its_images():
    draws = np.random.default_rng(18)
    for share in (0.1, 0.5, 0.9):
        flags = draws.random(400) < share
        kinds = [(Judged({"a": np.zeros(1)}), Judged({"a": np.arange(400.0)}))]
        without = [flags[some.parts["a"].astype(int)].mean() for ((_, some),) in _tenths_left_out(kinds)]
        assert _jackknife_error(np.array(without)) == pytest.approx(np.sqrt(share * (1 - share) / 400), rel=0.5)
    assert len({len(some.parts["a"]) for ((_, some),) in _tenths_left_out(kinds)}) == 1

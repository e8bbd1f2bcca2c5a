"""Shares of classes in unlabelled traffic: right where labels shift, found where a class disappears."""

import numpy as np
import pytest
from scipy.stats import binom

from recondite.errors import InputError
from recondite.statistics.label_shift import Prevalence, prevalences

NAMES = ("a", "b", "c")
RATES = np.array([[0.8, 0.15, 0.1], [0.15, 0.8, 0.1], [0.05, 0.05, 0.8]])


def labelled(draws, count=600):
    return np.stack([draws.multinomial(count, RATES[:, place]) for place in range(3)], axis=1)


def traffic(draws, shares, count=600):
    return sum(draws.multinomial(one, RATES[:, place]) for place, one in enumerate(draws.multinomial(count, shares)))


def test_without_noise_the_shares_come_back():
    shares = np.array([0.5, 0.2, 0.3])
    found = prevalences(RATES * 10_000_000, RATES @ shares * 10_000_000, NAMES)
    np.testing.assert_allclose([one.share for one in found], shares, atol=1e-6)
    np.testing.assert_allclose([one.before for one in found], 1 / 3)


def test_intervals_hold_for_all_classes_together():
    draws, shares = np.random.default_rng(0), np.array([0.6, 0.3, 0.1])
    held = [
        all(one.low <= share <= one.high for one, share in zip(found, shares, strict=True))
        for found in (prevalences(labelled(draws), traffic(draws, shares), NAMES) for _ in range(40))
    ]
    assert np.mean(held) >= 0.85  # .95 of 40, less 3 standard deviations


def test_of_unchanged_streams_hardly_any_is_said_to_have_moved():
    """Labelled images and traffic are drawn alike, so that the shares before, of 60 or 150 images, are off too."""
    draws, moved = np.random.default_rng(2), []
    for classes, count in ((2, 60), (3, 150)):
        rates = np.full((classes, classes), 0.05) + (1 - 0.05 * classes) * np.eye(classes)
        for _ in range(20):
            of_class = draws.multinomial(count, np.full(classes, 1 / classes))
            known = np.stack([draws.multinomial(one, rates[:, place]) for place, one in enumerate(of_class)], axis=1)
            came = draws.multinomial(3000, np.full(classes, 1 / classes))
            moved.append(any(one.moved for one in prevalences(known, came, NAMES[:classes])))
    assert np.mean(moved) <= 0.15  # .05 of 40, and 3 standard deviations; .25 where the shares before count as exact


def test_ten_labelled_images_do_not_prove_that_a_class_is_never_taken_for_another():
    found = prevalences([[10, 0], [0, 10]], [285, 15], ("a", "b"))
    assert found[1].share == pytest.approx(0.05)
    assert found[1].low < 1e-6
    assert found[0].high > 1 - 1e-6
    assert prevalences([[1000, 0], [0, 1000]], [285, 15], ("a", "b"))[1].low > 0.02


def test_a_class_that_disappears_is_found_and_counting_predictions_does_not_find_it():
    draws = np.random.default_rng(1)
    still, missed, counted = 0, 0, 0
    for _ in range(20):
        known = labelled(draws)
        still += any(one.moved for one in prevalences(known, traffic(draws, np.full(3, 1 / 3)), NAMES))
        came = traffic(draws, np.array([0.5, 0.5, 0.0]))
        missed += not prevalences(known, came, NAMES)[2].gone
        counted += came[2] == 0  # what is predicted says that it is still there: errors of others
    assert still <= 4
    assert missed == 0
    assert counted == 0


def test_what_cannot_be_told_is_refused():
    with pytest.raises(InputError, match="confuses some classes so much"):
        prevalences(np.full((3, 3), 50), [10, 10, 10], NAMES)
    with pytest.raises(InputError, match="of class 'b' there are none"):
        prevalences([[9, 0, 0], [0, 0, 0], [0, 0, 9]], [1, 1, 1], NAMES)
    with pytest.raises(InputError, match="of the traffic there are none"):
        prevalences(RATES * 100, [0, 0, 0], NAMES)
    with pytest.raises(InputError, match="expected counts"):
        prevalences(RATES, [1, 1], NAMES)


def test_intervals_are_those_of_a_binomial_share_over_all_classes():
    """A classifier seen to make no error in so many labels: only how many images of each class come is unknown."""
    known = np.diag([90_000, 10_000])
    drawn = [prevalences(known, [140, 60], ["a", "b"], seed) for seed in range(4)]
    low, high = binom.ppf([0.05 / 4, 1 - 0.05 / 4], 200, 0.7) / 200
    assert np.mean([found[0].low for found in drawn]) == pytest.approx(low, abs=0.003)
    assert np.mean([found[0].high for found in drawn]) == pytest.approx(high, abs=0.003)
    assert drawn[0][0].share == pytest.approx(0.7)
    assert drawn[0][0].before == 0.9
    assert prevalences(known, [140, 60], ["a", "b"])[0] == drawn[0][0]


def test_few_labelled_images_make_intervals_wider():
    found = {count: prevalences(RATES * count, [400, 300, 300], NAMES) for count in (40, 4000)}
    few, many = ([one.high - one.low for one in found[count]] for count in (40, 4000))
    assert (np.array(few) > 1.3 * np.array(many)).all()
    for one in found[4000]:
        assert one.low < one.share < one.high


@pytest.mark.parametrize(
    ("share", "low", "high", "moved", "words"),
    [
        (0.3, 0.2, 0.4, False, "as before"),
        (0.2, 0.15, 0.28, False, "as before"),  # the share before is one of a sample too
        (0.1, 0.05, 0.2, True, "rarer"),
        (0.5, 0.4, 0.6, True, "more frequent"),
        (0.0, 0.0, 0.1, True, "gone, or nearly"),
        (0.0, 0.0, 0.1, False, "as before"),
        (0.1, 1e-5, 0.2, True, "rarer"),
        (0.2, 0.0, 0.3, False, "as before"),
    ],
)
def test_what_became_of_a_class(share, low, high, moved, words):
    found = Prevalence("a", 0.3, share, low, high, moved)
    assert found.in_words == words
    assert found.gone == (words == "gone, or nearly")


def test_counts_are_of_as_many_classes_and_not_negative():
    for counts, came in (
        (np.ones((3, 2)), [1, 1, 1]),
        (np.diag([9, -1, 9]), [1, 1, 1]),
        (np.eye(3), [1, -1, 1]),
        (np.eye(2), [1, 1]),
    ):
        with pytest.raises(InputError, match=r"expected counts \(3, 3\) and \(3,\)"):
            prevalences(counts, came, NAMES)
    assert prevalences(np.eye(3), [1, 0, 1], NAMES)[1].share == 0


def test_classes_are_told_apart_up_to_a_condition_of_thirty():
    def confused(by):
        """Rates of two classes whose condition number is 1 / (1 - 2 by)."""
        return np.array([[1 - by, by], [by, 1 - by]]) * 1e6

    prevalences(confused(0.5 - 0.5 / 29.9), [10, 10], ["a", "b"])
    with pytest.raises(InputError, match="confuses some classes so much"):
        prevalences(confused(0.5 - 0.5 / 30.1), [10, 10], ["a", "b"])


@pytest.mark.parametrize("came", [[1000, 0], [500, 500]])
def test_shares_add_up_to_one_also_where_no_shares_explain_what_came(came):
    found = prevalences(np.array([[800, 600], [200, 400]]), came, ["a", "b"])
    assert sum(one.share for one in found) == pytest.approx(1, abs=1e-12)
    assert max(one.share for one in found) == pytest.approx(1, abs=1e-12)


def test_few_images_do_not_prove_that_classes_are_gone():
    names = [str(number) for number in range(10)]
    known = np.diag(np.full(10, 60))
    for came in ([1] + [0] * 9, [0] + [4] * 3 + [3] * 6):
        assert not any(one.moved for one in prevalences(known, came, names)), came
    gone = prevalences(known, [0] + [34] * 9, names)[0]
    assert gone.gone
    assert gone.low == 0 < gone.high < 0.1


def test_intervals_hold_where_images_are_few_for_so_many_classes():
    draws, rates = np.random.default_rng(0), np.full((10, 10), 0.01) + 0.9 * np.eye(10)
    names, held = [str(number) for number in range(10)], []
    for _ in range(20):
        known = np.stack([draws.multinomial(60, rates[:, place]) for place in range(10)], axis=1)
        found = prevalences(known, draws.multinomial(30, np.full(10, 0.1)), names)
        held.append(not any(one.moved for one in found))
    assert np.mean(held) >= 0.8  # .95 of 20, less 3 standard deviations; .5 by a bootstrap alone

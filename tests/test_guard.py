from dataclasses import replace
from math import prod
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

import recondite
from recondite.data.batch_size import full_batch
from recondite.data.datasets import nameless, open_images
from recondite.data.spool import read_all
from recondite.errors import InputError, ReconditeWarning
from recondite.screen import make_guard
from recondite.screen.classifier_outputs import answers_of
from recondite.screen.decisions import FOREIGN, INVALID, UNSURE, Decision
from recondite.screen.guard import Guard
from recondite.screen.make_guard import needed_of
from recondite.statistics.calibration import Calibrator
from recondite.statistics.scores import Scores

LABELS = ("zero", "one", "two", "three", "four")


class Linear(nn.Module):
    """A classifier of digits 0 to 4 with a feature layer and dropout, which must be off."""

    def __init__(self, images, targets):
        super().__init__()
        fitted = LogisticRegression(max_iter=500).fit(images.reshape(len(images), -1) / 255, targets)
        self.features = nn.Identity()
        self.dropout = nn.Dropout(0.9)
        self.head = nn.Linear(64, 5)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(fitted.coef_))
            self.head.bias.copy_(torch.from_numpy(fitted.intercept_))
        self.train()

    def forward(self, x):
        return self.head(self.dropout(self.features(x.flatten(1))))


@pytest.fixture(scope="module")
def data(digits):
    targets = load_digits().target
    order = np.random.default_rng(0).permutation(np.flatnonzero(targets < 5))
    parts = {name: digits[order[part]] for name, part in PARTS.items()}
    return {**parts, "targets": targets[order], "foreign": digits[targets >= 5]}


PARTS = {"learnt": slice(0, 450), "calibration": slice(450, 750), "test": slice(750, None)}


@pytest.fixture(scope="module")
def classifier(data):
    return Linear(data["learnt"], data["targets"][:450])


@pytest.fixture(scope="module")
def screen(data):
    return recondite.fit(data["learnt"], detector="pca", latent_size=12, alpha=0.1, evidence=0.2)


def test_probabilities_in_place_of_logits_are_refused_at_once(screen, data):
    def logits(x):
        return 10 * x[:, 0, 2, :5]

    for given in ({}, {"calibration": data["calibration"], "confidence_share": 0.5}):
        with pytest.raises(
            InputError, match=r"got probabilities, .* leave the classifier.s last softmax out, or let it"
        ):
            screen.guard(lambda x: logits(x).softmax(1), LABELS, **given)
    found, expected = (
        screen.guard(classifier, LABELS)(data["test"][:9]).confidence
        for classifier in (lambda x: logits(x).log_softmax(1), logits)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_normal_images_get_the_classifiers_label_and_others_a_reason(screen, classifier, data):
    guard = screen.guard(classifier, LABELS)
    decisions = guard(data["test"])
    verdicts = screen.predict(data["test"])
    assert np.array_equal(decisions.abstained, verdicts.is_outlier)
    assert np.array_equal(decisions.verdicts.instance_score, verdicts.instance_score)
    with torch.no_grad():
        logits = classifier.eval()(torch.from_numpy(data["test"] / np.float32(255))[:, None])
    expected = [LABELS[index] for index in logits.argmax(1)]
    assert list(decisions.predicted) == expected
    assert np.allclose(decisions.confidence, logits.softmax(1).max(1).values, atol=1e-5)
    accepted = [(one.label, name) for one, name in zip(decisions, expected, strict=True) if not one.abstained]
    assert accepted
    assert all(label == name for label, name in accepted)
    turned = next(one for one in decisions if one.abstained)
    assert turned.reason.startswith("it is unlike the normal images (p-value ")
    blank = guard(np.zeros((1, 8, 8), np.uint8))
    assert blank.labels == [None]


def test_an_image_is_decided_alike_alone_and_among_others(screen, classifier, data):
    guard = screen.guard(
        classifier,
        LABELS,
        calibration=data["calibration"],
        confidence_share=0.3,
        feature_share=0.3,
        layer="features",
        reference=data["learnt"],
    )
    together = guard(data["test"][:50])
    for index in (0, 7, 33, 49):
        alone = guard(data["test"][index : index + 1])
        assert alone.confidence[0] == together.confidence[index]
        assert alone.labels[0] == together.labels[index]
        for part in ("screen", "confidence", "features"):
            assert alone.p_values[part][0] == together.p_values[part][index]
    assert classifier.training is False or guard(data["test"][:1]).confidence[0] == together.confidence[0]


def test_files_and_single_images_go_in_too(screen, classifier, data, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(data["test"][0]).save(path)
    guard = screen.guard(classifier, LABELS)
    single = guard(str(path))
    assert len(single) == 1
    assert isinstance(single[0], Decision)
    assert single[0].id == "a.png"
    assert single[0].label == guard(data["test"][:1])[0].label
    assert guard(Image.fromarray(data["test"][0])).labels == single.labels
    assert guard(iter(data["test"][:40])).labels == guard(data["test"][:40]).labels
    assert [one.id for one in guard(data["test"][:9])[2:4]] == ["000002", "000003"]


def test_what_cannot_be_read_or_classified_is_an_abstention(screen, data):
    def broken(x):
        logits = torch.zeros(len(x), 5)
        logits[1] = float("nan")
        return logits

    normal = data["test"][:20]
    kept = normal[~screen.predict(normal).is_outlier][:2]
    decisions = screen.guard(broken, LABELS)([kept[0], kept[1], b"x"])
    assert decisions.labels == ["zero", None, None]
    assert decisions[1].reason == "the classifier gave no finite answer"
    assert decisions[2].reason.startswith("it cannot be judged: ")
    assert decisions[2].predicted is None
    rows = list(decisions.records())
    assert rows[0]["label"] == "zero"
    assert rows[0]["p_screen"] == decisions.p_values["screen"][0] > 0.1
    assert rows[2]["p_screen"] is None
    assert rows[2]["confidence"] is None
    assert rows[2]["verdict"] == "invalid"


def test_shares_of_alpha_add_up_and_the_reason_names_the_part(screen, classifier, data):
    guard = screen.guard(
        classifier,
        LABELS,
        calibration=data["calibration"],
        confidence_share=0.4,
        feature_share=0.4,
        layer="features",
        reference=data["learnt"],
    )
    foreign, normal = guard(data["foreign"]), guard(data["test"])
    assert foreign.limits == pytest.approx({"screen": 0.02, "confidence": 0.04, "features": 0.04})
    for part, words in (("confidence", "less sure"), ("features", "features are unlike"), ("screen", "it is unlike")):
        below = foreign.p_values[part] <= foreign.limits[part] + 1e-12
        named = np.array([words in (reason or "") for reason in foreign.reasons])
        assert below.any()
        assert np.array_equal(below, named)
    # 300 calibrate: a rate of .1 has a standard error of .017, and 150 test images one of .024.
    assert normal.abstained.mean() <= 0.1 + 3 * 0.03
    assert foreign.abstained.mean() > normal.abstained.mean() + 0.2


def test_each_predicted_class_keeps_its_own_rate(screen, data):
    """Faded digits are rebuilt worse, so that one threshold for all turns away hardly any others."""
    labels = ("faded", "full")

    def classifier(x):
        return torch.stack([torch.zeros(len(x)), (x.flatten(1).amax(1) - 0.5) * 100], dim=1)

    every = np.concatenate([data["calibration"], data["test"]])
    every = every[np.random.default_rng(0).permutation(len(every))]
    every[::2] //= 6
    judge = screen.with_score("error").with_alpha(0.2)
    calibration, test = every[:230], every[230:]
    rates = {}
    for by_class in (False, True):
        decisions = judge.guard(classifier, labels, calibration=calibration, by_class=by_class, confidence_share=0)(
            test
        )
        predicted = np.array(decisions.predicted)
        rates[by_class] = [decisions.abstained[predicted == label].mean() for label in labels]
    assert rates[False][0] > 0.3
    assert rates[False][1] < 0.05
    # About 115 calibrate each class and as many are tested: one standard error is .05.
    assert all(0.05 < rate < 0.35 for rate in rates[True])


def test_a_class_without_calibration_is_turned_away(screen, data):
    always_zero = screen.guard(
        lambda x: 9 * torch.eye(5)[torch.zeros(len(x), dtype=torch.long)],
        LABELS,
        calibration=data["calibration"],
        by_class=True,
    )
    object.__setattr__(always_zero, "classifier", lambda x: 9 * torch.eye(5)[torch.ones(len(x), dtype=torch.long)])
    decisions = always_zero(data["test"][:5])
    assert decisions.labels == [None] * 5
    assert "no calibration image was taken for class 'one'" in decisions[0].reason


def test_a_classifier_may_take_another_size(screen, data):
    seen = []

    def classifier(x):
        seen.append(tuple(x.shape[1:]))
        return torch.zeros(len(x), 2)

    guard = screen.guard(classifier, image_shape=(3, 16, 16))
    decisions = guard([*data["test"][:40], b"x"])
    assert set(seen) == {(3, 16, 16)}
    assert np.array_equal(decisions.verdicts.instance_score[:40], screen.predict(data["test"][:40]).instance_score)
    assert decisions.labels[-1] is None
    assert set(decisions.labels) <= {"0", None}


def test_a_classifier_of_large_images_gets_fewer_at_once_and_gives_the_same(screen, data):
    sizes = []

    def classifier(x):
        sizes.append(len(x))
        return x[:, 0, :2, 0]

    images = list(data["test"][:20])
    decisions = screen.guard(classifier, image_shape=(3, 300, 300))(images)
    assert sizes == [8] * 4  # the first are noise, by which probabilities are told from logits
    alone = screen.guard(classifier, image_shape=(3, 300, 300))(images[9][None])
    assert decisions.confidence[9] == alone.confidence[0]
    small = screen.guard(classifier)(images)
    assert sizes[-1] == 64
    np.testing.assert_array_equal(decisions.verdicts.instance_score, small.verdicts.instance_score)


def test_calibration_with_groups_of_the_screen_does_not_stand_in_the_way(screen, classifier, data, folder):
    with pytest.warns(ReconditeWarning, match="does not know which images it was fitted on"):
        grouped = replace(screen, known=None).with_alpha(0.2).recalibrated(folder, by_folder=True)
    assert grouped.guard(classifier, LABELS)(data["test"][:3])[0].reason.startswith("it cannot be judged: no calib")
    with pytest.warns(ReconditeWarning, match="does not know which images it was fitted on"):
        own = grouped.guard(classifier, LABELS, calibration=data["calibration"])
    assert None in own(data["test"]).reasons


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"confidence_share": 1.0}, "leave some for the screen"),
        ({"confidence_share": -0.1}, "not negative"),
        ({"confidence_share": 0.5}, "need calibration="),
        ({"by_class": True}, "need calibration="),
        ({"classes": ("a", "a")}, "different names of classes"),
        ({"classes": ("a", "b")}, None),
        ({"feature_share": 0.5, "calibration": True}, "needs layer="),
        ({"feature_share": 0.5, "calibration": True, "layer": "features"}, "and reference="),
        ({"feature_share": 0.5, "calibration": True, "reference": True}, "needs layer="),
        ({"feature_share": 0.5, "calibration": True, "layer": "nose", "reference": True}, "no layer 'nose'"),
        (
            {"confidence_share": 0.02, "calibration": True},
            "'confidence' of the guard: 0.002 of alpha = 0.1 needs at least 499",
        ),
        ({"calibration": [b"x"]}, "none of the 1 images could be read"),
    ],
)
def test_what_cannot_work_is_said_before_it_matters(screen, classifier, data, settings, message):
    chosen = {
        name: data["calibration" if name == "calibration" else "learnt"]
        if value is True and name != "by_class"
        else value
        for name, value in settings.items()
    }
    if message is None:
        with pytest.raises(InputError, match="tells 5 classes; got 2 labels"):
            screen.guard(classifier, **chosen)(data["test"][:2])
        return
    with pytest.raises(InputError, match=message):
        screen.guard(classifier, **chosen)


def test_a_class_with_too_few_images_is_named(screen, classifier, data):
    with pytest.raises(InputError, match=r"predicted as '\w+': alpha = 0.012 needs at least 83"):
        screen.with_alpha(0.012).guard(
            classifier, LABELS, calibration=data["calibration"], by_class=True, confidence_share=0
        )


def test_images_that_the_screen_has_learnt_from_do_not_calibrate(screen, classifier, data):
    with pytest.raises(InputError, match="learnt from all of these"):
        screen.guard(classifier, LABELS, calibration=data["learnt"][screen_learnt(screen, data)], confidence_share=0.5)
    both = np.concatenate([data["learnt"], data["calibration"]])
    with pytest.warns(ReconditeWarning, match="do not calibrate"):
        guard = screen.guard(classifier, LABELS, calibration=both, confidence_share=0.5)
    count = len(guard.calibrators["screen"].scores)
    assert count <= len(both) - screen.facts["images"]["images"]
    assert count >= len(data["calibration"])


def test_of_calibration_images_that_belong_together_one_counts(screen, classifier, data):
    some = data["calibration"][:40]
    given = {"classes": LABELS, "confidence_share": 0}

    def counted(images, **group_by):
        guard = screen.guard(classifier, calibration=images, **given, **group_by)
        return len(guard.calibrators["screen"].scores)

    assert counted(np.repeat(some, 5, axis=0)) <= 40
    assert counted(np.repeat(some, 5, axis=0), group_by="none") == counted(some, group_by="none") == 40
    assert counted(some, group_by=[str(number // 2) for number in range(40)]) == 20
    unknowing = replace(screen, known=None)
    with pytest.warns(ReconditeWarning, match="does not know which images"):
        guard = unknowing.guard(classifier, calibration=np.repeat(some, 2, axis=0), group_by="none", **given)
    assert len(guard.calibrators["screen"].scores) == 40
    chosen = screen.guard(classifier, LABELS, calibration=np.repeat(some, 5, axis=0), group_by="none")
    assert {len(calibrator.scores) for calibrator in chosen.calibrators.values()} == {20}
    assert counted(iter(np.repeat(some, 2, axis=0))) == 80  # of a stream all count


def screen_learnt(screen, data):
    """Which images the screen has learnt from."""
    spooled = read_all(open_images(data["learnt"]), screen.detector.preprocessing)
    return screen.known.learnt_alone().same(spooled)


def test_a_temperature_divides_the_logits_of_confidences_alone():
    logits = torch.tensor([[2.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    answers = answers_of(logits, {}, np.array([0, 2]), [None, "broken", None], ("a", "b"), temperature=4.0)
    assert answers.predicted == ("a", None, "b")
    np.testing.assert_allclose(answers.confidence, [1 / (1 + np.exp(-0.5)), np.nan, 1 / (1 + np.exp(-1))])


@pytest.fixture(scope="module")
def of_vectors():
    """A screen of vectors, and forty others of their kind."""
    vectors = np.random.default_rng(0).normal(size=(140, 9)).astype(np.float32)
    return recondite.fit(vectors[:100], detector="pca", latent_size=2, alpha=0.2, score="error"), vectors[100:]


def scores_of(*values):
    return Scores(ids=tuple(map(str, values)), instance_score=np.array(values, float), errors=(None,) * len(values))


def test_a_guard_without_a_classifier_is_the_screen_alone(of_vectors):
    screen, vectors = of_vectors
    guard = Guard(screen=screen, classifier=None)
    assert (dict(guard.shares), guard.temperature, guard.speaks) == ({"screen": 1.0}, 1.0, False)
    scores = screen.detector.score(vectors)
    decided = guard.decide(scores, ["a"] * 40)
    np.testing.assert_array_equal(np.array(decided.kinds) == FOREIGN, screen.judge(scores).is_outlier)
    for by_table, words in (
        (False, "give what the classifier said to `decide`"),
        (True, "give a table of its outputs"),
    ):
        with pytest.raises(InputError, match=f"has no classifier: {words}"):
            replace(guard, by_table=by_table)(vectors)
    found = guard.score_batch(nameless(vectors))
    assert (found.feature_score, found.reconstruction) == (None, None)
    assert guard.score_batch(nameless(vectors), feature_score=True, reconstruction=True).reconstruction is not None
    assert replace(guard, head=object()).speaks
    assert replace(guard, head=object()).together == screen.detector.scoring_batch
    large = (3, 2000, 2000)
    assert guard.together == screen.detector.scoring_batch > full_batch(prod(large), "cpu")
    assert replace(guard, shape=large).together == full_batch(prod(large), "cpu")


def test_confidences_are_above_0_up_to_1_and_enough_from_the_floor_on(of_vectors):
    low = float(of_vectors[0].threshold) / 2
    guard = Guard(screen=of_vectors[0], classifier=None, floor=SimpleNamespace(confidence=0.7))
    decided = guard.decide(scores_of(low, low, low), ["a"] * 3, [0.7, 0.69, 1.0])
    assert decided.kinds == (None, UNSURE, None)
    assert "confidence 0.69, at least 0.7" in decided.reasons[1]
    for odd in (0, 1.01, -0.5):
        with pytest.raises(InputError, match=r"in \(0, 1\]"):
            guard.check(["a", "a"], [0.5, odd])
    for asks in (guard, Guard(screen=of_vectors[0], classifier=None, shares={"screen": 0.5, "confidence": 0.5})):
        with pytest.raises(InputError, match="give it with each label"):
            asks.check(["a", "a"], [0.5, None])
    assert np.isnan(Guard(screen=of_vectors[0], classifier=None).check(["a", "a"], [0.5, None])).tolist() == [
        False,
        True,
    ]


def test_calibrated_parts_judge_what_has_a_score_whatever_the_groups_of_the_screen(of_vectors):
    screen, _ = of_vectors
    scores = screen.calibrator.scores
    groups = ("left", "right") * (len(scores) // 2)
    grouped = replace(screen, calibrator=Calibrator(scores[: len(groups)], groups), peaks=None, alpha=0.4)
    given = scores_of(float(scores.min()), float(scores.max()) + 1, np.nan)
    assert Guard(screen=grouped, classifier=None).decide(given, ["a"] * 3).kinds == (INVALID,) * 3
    calibrators = {"screen": Calibrator(scores), "confidence": Calibrator(np.linspace(0, 0.1, 40))}
    guard = Guard(screen=grouped, classifier=None, shares={"screen": 0.5, "confidence": 0.5}, calibrators=calibrators)
    decided = guard.decide(given, ["a"] * 3, [1.0, 1.0, 0.99])
    assert decided.kinds == (None, FOREIGN, INVALID)
    assert decided.verdicts.words == ["inlier", "outlier", "invalid"]
    for row, error in zip(decided.records(), (None, None, "the score is not finite"), strict=True):
        assert row["error"] == error
        assert row["is_outlier"] == (row["verdict"] != "inlier")
        assert row["p_value"] is None
    left = guard.decide(given, ["a"] * 3, [1.0, 1.0, 0.99], ["left"] * 3)
    assert left.verdicts.p_value[:2].tolist() == grouped.judge(given, ["left"] * 3).p_value[:2].tolist()
    for values in decided.p_values.values():
        assert np.isnan(values).tolist() == [False, False, True]


def test_a_layer_is_looked_at_where_there_are_images_to_compare_with(screen, classifier, data, monkeypatch, capsys):
    calibration, asked, looked = data["calibration"], [], []

    def chosen_parts(guard, _images, _inliers, needed, **_):
        asked.append((list(guard.shares), needed and needed(1.0)))
        return SimpleNamespace(shares={"screen": 1.0})

    monkeypatch.setattr(make_guard, "chosen_parts", chosen_parts)
    fitted_distances = make_guard.fitted_distances
    monkeypatch.setattr(
        make_guard, "fitted_distances", lambda *given: looked.append(given[1]) or fitted_distances(*given)
    )
    for given in (
        {"layer": "features"},
        {"reference": calibration},
        {},
        {"layer": "features", "reference": calibration},
    ):
        screen.guard(classifier, calibration=calibration, **given)
    assert looked == ["features"]
    screen.guard(classifier, calibration=calibration, by_class=True)
    assert ["features" in parts for parts, _ in asked] == [False] * 3 + [True, False]
    assert [needed for _, needed in asked] == [None] * 4 + [needed_of(screen, 1.0)]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("share", [0.92, 0.58, 0.83])
def test_what_is_left_for_the_screen_is_what_was_written(screen, classifier, data, share):
    """1 - .92 is a little less than .08 in floats, and no alpha below 1 / (n + 1) can be had."""
    assert 1 - share != round(1 - share, 2)
    guard = screen.guard(classifier, LABELS, calibration=data["calibration"], confidence_share=share)
    assert guard.shares["screen"] == round(1 - share, 2)

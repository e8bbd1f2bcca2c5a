"""A guard fitted on images with classes: its head, its choice of parts, both promises, and its file."""

import csv
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from classifiers import write_classifier
from coloured import Backbone, coloured, pairs
from PIL import Image
from scipy.stats import binom

import recondite
from recondite.cli import main
from recondite.data.datasets import open_images
from recondite.data.images import Preprocessing
from recondite.errors import ArtifactError, InputError, ReconditeWarning
from recondite.perturbations.outliers import MIXED, mixed
from recondite.progress import told_to
from recondite.screen import guard_fit
from recondite.screen.choose_parts import (
    Judged,
    PartsChoice,
    choose_parts,
    classes_where_enough,
    equal_shares,
    made_up_outliers,
    pixels_of,
)
from recondite.screen.classes import FROM_FOLDERS, check_classes, read_classes, with_classes
from recondite.screen.classifier_outputs import Outputs, Told
from recondite.screen.guard import Guard
from recondite.screen.guard_file import load_guard, save_guard
from recondite.screen.guard_fit import _confusion, _needed_of_each_class, _Seen, fit_guard
from recondite.screen.guard_split import units_of
from recondite.screen.linear_head import from_tensors, learnt, tensors_of
from recondite.screen.looking import vectors_of
from recondite.screen.onnx_classifier import OnnxClassifier, read_classifier
from recondite.screen.saved import GUARD_FILE
from recondite.screen.tuned_classifier import TunedClassifier
from recondite.statistics.axes import oracle_shrinkage
from recondite.statistics.calibration import Calibrator, share_of, smallest_alpha

DRAWS = np.random.default_rng(0)


@pytest.fixture(scope="module")
def screen():
    return recondite.fit(coloured(200, 1)[0], detector="features", backbone=Backbone(), alpha=0.1, latent_size=4)


@pytest.fixture(scope="module")
def fitted(screen):
    return fit_guard(pairs(*coloured(200, 1)), screen=screen, calibration=pairs(*coloured(900, 2)), risk=0.05)


@pytest.mark.parametrize("shrinkage", [1e-9, 0.2])
def test_the_head_is_the_linear_discriminant(shrinkage):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    vectors, classes = DRAWS.normal(size=(120, 5)).astype(np.float32), DRAWS.integers(0, 3, 120)
    vectors[classes == 1] += 1
    learning = learnt(((vectors[i : i + 7], classes[i : i + 7], None) for i in range(0, 120, 7)), 3, 120)
    head = learning.head(shrinkage)
    twin = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(vectors, classes)
    found = head(torch.from_numpy(vectors)).softmax(1).numpy()
    np.testing.assert_allclose(found, twin.predict_proba(vectors), atol=1e-4)
    # Further rules look at the logits themselves.
    np.testing.assert_allclose(head(torch.from_numpy(vectors)), twin.decision_function(vectors), atol=1e-3)


def test_features_that_do_not_vary_give_finite_scores_and_what_was_drawn_keeps_its_class():
    vectors, classes = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32), np.arange(40) % 3
    vectors[:, 2] = 0
    learning = learnt([(vectors[:25], classes[:25], None), (vectors[25:], classes[25:], None)], 3, 60)
    drawn, logits, places = learning.drawn()
    assert {(one.tobytes(), int(place)) for one, place in zip(drawn.numpy(), places, strict=True)} == {
        (one.tobytes(), int(place)) for one, place in zip(vectors, classes, strict=True)
    }
    assert logits.shape == (40, 3)
    head = learning.head(0.1)
    x = torch.from_numpy(vectors)
    assert all(torch.isfinite(values).all() for values in learning.rules(head)(x, head(x)).values())


def test_features_that_are_all_the_same_are_far_from_nothing_and_others_from_them():
    vectors = np.ones((10, 3), np.float32)
    rules = learnt([(vectors, np.arange(10) % 2, None)], 2, 10).rules()
    asked = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0]])
    found = rules(asked, torch.zeros(2, 2))
    for name in ("knn", "mahalanobis", "vim"):
        assert torch.isfinite(found[name]).all(), name
        assert name == "vim" or found[name][1] > found[name][0], name  # no logit tells vim its scale


def test_a_bank_holds_a_thousand_of_four_thousand_that_are_kept():
    vectors, classes = np.random.default_rng(0).normal(size=(4100, 2)).astype(np.float32), np.arange(4100) % 2
    assert [len(some) for some in learnt([(vectors, classes, None)], 2, 4100).drawn()] == [4000] * 3
    few = learnt([(vectors[:1100], classes[:1100], None)], 2, 1100)
    assert len(few.drawn()[0]) == 1100
    assert few.rules().tensors["bank"].shape == (1000, 2)


def test_what_is_principal_leaves_at_most_a_tenth_of_the_variance():
    vectors = (np.random.default_rng(0).normal(size=(200, 6)) * [0.003, 0.003, 0.03, 0.03, 0.06, 0.3]).astype(
        np.float32
    )
    rules = learnt([(vectors, np.arange(200) % 2, None)], 2, 200).rules()
    variances = np.linalg.eigvalsh(np.cov(vectors.T, bias=True))
    left = int(np.sum(np.cumsum(variances) <= 0.1 * variances.sum()))
    assert rules.tensors["principal"].shape == (6, 6 - left) == (6, 1)
    away = vectors - vectors.mean(0)
    residual = away - away @ rules.tensors["principal"].numpy() @ rules.tensors["principal"].numpy().T
    assert np.square(residual).sum() == pytest.approx(200 * variances[:left].sum(), rel=1e-4)


def test_predictions_are_counted_by_class():
    seen = _Seen(parts={}, predicted=["a", "a", "b", "c"], logits=np.empty((4, 0)), true=["a", "b", "b", "a"])
    assert seen.wrong.tolist() == [False, True, False, True]
    assert _confusion(seen, ("a", "b", "c")).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]  # rows are predictions


def test_vim_looks_from_the_origin_of_its_logits():
    """Wang et al. 2022, arXiv 2203.10807, in plain words: features from where all logits are 0."""
    draws = np.random.default_rng(0)
    vectors = (draws.normal(1, 1, (90, 5)) * [0.1, 0.2, 0.5, 1, 2]).astype(np.float32)
    learning = learnt([(vectors, np.arange(90) % 3, None)], 3, 90)
    head = learning.head(0.1)
    rules = learning.rules(head).tensors
    weight, bias = head.weight.double().numpy(), head.bias.double().numpy()
    origin = -np.linalg.pinv(weight) @ bias
    np.testing.assert_allclose(rules["origin"], origin, rtol=1e-4, atol=1e-4)
    away = vectors - origin
    spread, axes = np.linalg.eigh(away.T @ away / 90)
    left = int(np.sum(np.cumsum(spread) <= 0.1 * spread.sum()))
    assert left >= 1
    principal = rules["principal"].numpy()
    np.testing.assert_allclose(principal @ principal.T, axes[:, left:] @ axes[:, left:].T, atol=1e-3)
    residual = np.linalg.norm(away - away @ principal @ principal.T, axis=1).mean()
    largest = (vectors @ weight.T + bias).max(1).mean()
    assert float(rules["scale"]) == pytest.approx(largest / residual, rel=1e-3)


def test_one_direction_at_least_is_left_and_damaged_rules_are_none():
    vectors = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    learning = learnt([(vectors, np.arange(300) % 2, None)], 2, 300)
    head, rules = learning.head(0.1), learning.rules()
    assert rules.tensors["principal"].shape == (4, 3)
    saved = tensors_of(head, rules)
    from_tensors(saved)
    for name in saved:
        one = saved[name]
        wrong = [one[..., None]] if one.ndim == 0 else [one[0], np.concatenate([one, one])]
        for value in wrong[: 1 if name in ("rules.bank", "rules.means") else 2]:
            with pytest.raises(ValueError, match="of shape"):
                from_tensors(saved | {name: value})
    with pytest.raises(ValueError, match="of shape"):
        from_tensors(saved | {"rules.bank": saved["rules.bank"][:4]})


def test_every_class_needs_an_image():
    vectors = DRAWS.normal(size=(6, 3)).astype(np.float32)
    learnt([(vectors, [0, 0, 0, 1, 1, 2], None)], 3, 6).head(0.1)
    with pytest.raises(InputError, match="class number 1 has no readable image"):
        learnt([(vectors, [0, 0, 0, 2, 2, 2], None)], 3, 6).head(0.1)
    assert learnt([(vectors[:5], [0, 1, 0, 1, 0], None)], 2, 5).rules().tensors["bank"].shape == (5, 3)
    with pytest.raises(InputError, match="at least 5 images to learn from; got 4"):
        learnt([(vectors[:4], [0, 1, 0, 1], None)], 2, 4).rules()


def test_classes_calibrate_by_themselves_where_each_has_twice_as_many_as_alpha_needs(screen):
    assert [_needed_of_each_class(screen, share) for share in (1.0, 0.5)] == [18, 38]  # nine are needed for .1
    assert classes_where_enough(["a"] * 18 + ["b"] * 18, 18) == ("a",) * 18 + ("b",) * 18
    assert classes_where_enough(["a"] * 50 + ["b"] * 17, 18) is None
    assert classes_where_enough(["a"] * 18, 18, {"a", "b"}) is None
    assert classes_where_enough([], 0) is None
    assert classes_where_enough(None, 0) is None


def test_rules_come_from_one_pass_and_survive_a_file():
    vectors, classes = DRAWS.normal(2, 1, (80, 6)).astype(np.float32), DRAWS.integers(0, 2, 80)
    learning = learnt([(vectors[:50], classes[:50], None), (vectors[50:], classes[50:], None)], 2, 90)
    head = learning.head(0.1)
    rules = learning.rules(head)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    means = np.stack([unit[classes == place].mean(0) for place in (0, 1)])
    np.testing.assert_allclose(rules.tensors["means"], means, atol=1e-6)
    within = sum((unit[classes == p] - means[p]).T @ (unit[classes == p] - means[p]) for p in (0, 1)) / 80
    share = oracle_shrinkage(torch.linalg.eigvalsh(torch.from_numpy(within)), 80)
    assert 0.02 < share < 0.5
    shrunk = (1 - share) * within + share * within.trace() / 6 * np.eye(6)
    whitened = rules.tensors["whitening"].numpy()
    np.testing.assert_allclose(whitened.T @ shrunk @ whitened, np.eye(6), atol=1e-4)
    x = torch.from_numpy(vectors)
    # On normal images the virtual logit is as large as the largest logit, on average.
    away, principal = x - rules.tensors["origin"], rules.tensors["principal"]
    residual = (away - away @ principal @ principal.T).norm(dim=1).mean()
    assert float(rules.tensors["scale"] * residual) == pytest.approx(float(head(x).amax(1).mean()), rel=1e-4)
    other_head, other = from_tensors(tensors_of(head, rules))
    for name, values in rules(x, head(x)).items():
        assert torch.equal(values, other(x, other_head(x))[name]), name
        alone = rules(x, head(x), [name])
        assert list(alone) == [name]
        assert torch.equal(values, alone[name])


def chosen_of(inliers, outliers):
    return choose_parts(Judged(inliers), {name: Judged(some) for name, some in outliers.items()}, 0.1)


def test_a_part_that_tells_made_up_outliers_is_chosen_and_a_useless_one_is_not():
    draws = np.random.default_rng(3)
    inliers = {name: draws.normal(size=300) for name in ("a", "b", "useless")}
    outliers = {
        "one": {"a": draws.normal(4, 1, 300), "b": draws.normal(size=300), "useless": draws.normal(size=300)},
        "two": {"a": draws.normal(size=300), "b": draws.normal(4, 1, 300), "useless": draws.normal(size=300)},
    }
    choice = chosen_of(inliers, outliers)
    assert choice.parts == ("a", "b")
    assert choice.shares == {"a": 0.5, "b": 0.5}
    assert choice.caught["a"] == pytest.approx(0.55, abs=0.05)
    assert chosen_of(inliers, {"one": outliers["one"]}).parts == ("a",)


def test_a_part_that_needs_little_gets_little_of_alpha():
    draws = np.random.default_rng(6)
    inliers = {name: draws.normal(size=2000) for name in ("sure", "close")}
    outliers = {
        "far": {"sure": draws.normal(9, 1, 500), "close": draws.normal(size=500)},
        "near": {"sure": draws.normal(size=500), "close": draws.normal(1.5, 1, 500)},
    }
    choice = chosen_of(inliers, outliers)
    assert choice.shares == {"sure": 0.25, "close": 0.75}
    half = Calibrator(inliers["close"]).is_outlier(outliers["near"]["close"], 0.05).mean()
    assert choice.caught["sure + close"] > (1 + half) / 2 + 0.02
    few = {name: values[:30] for name, values in inliers.items()}  # a quarter of alpha needs 39 images
    assert chosen_of(few, outliers).shares == {"sure": 0.5, "close": 0.5}


def test_at_most_three_parts_share_alpha():
    draws = np.random.default_rng(5)
    inliers = {name: draws.normal(size=400) for name in "abcd"}
    outliers = {one: {name: draws.normal(4 * (name == one), 1, 400) for name in "abcd"} for one in "abcd"}
    choice = chosen_of(inliers, outliers)
    assert len(choice.parts) == 3
    assert sum(choice.shares.values()) == pytest.approx(1)
    assert max(map(len, (name.split(" + ") for name in choice.caught))) == 3


def test_made_up_outliers_are_made_of_some_of_the_images(monkeypatch):
    images = coloured(6, 1)[0]
    opened = open_images([*images, b"unreadable"])
    found = pixels_of(opened, Preprocessing(shape=(3, 16, 16)))
    assert np.array_equal(found, images)
    monkeypatch.setattr("recondite.screen.choose_parts._MOST_MADE_UP", 4)
    assert np.array_equal(pixels_of(opened, Preprocessing(shape=(3, 16, 16))), images[:4])
    assert len(pixels_of(open_images(list(images[:2])), Preprocessing(shape=(3, 16, 16)))) == 2
    with pytest.raises(InputError, match="at least two readable images"):
        pixels_of(open_images([images[0], b"unreadable"]), Preprocessing(shape=(3, 16, 16)))


def test_a_combination_is_never_looser_than_its_shares():
    draws = np.random.default_rng(4)
    normal = {name: draws.normal(size=299) for name in "abc"}
    shares = {part: share_of(0.1, share) for part, share in equal_shares(list("abc")).items()}
    assert sum(shares.values()) == pytest.approx(0.1, abs=1e-15)
    for part, values in normal.items():
        flagged = Calibrator(values).is_outlier(values, shares[part])
        assert flagged.mean() <= shares[part]


@pytest.mark.parametrize("name", MIXED)
def test_mixtures_are_made_of_the_images_and_are_none_of_them(name):
    images = DRAWS.integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    made = mixed(name, images, seed=1)
    assert made.shape == images.shape
    assert np.array_equal(made, mixed(name, images, seed=1))
    assert not any(np.array_equal(one, other) for one in made for other in images)
    if name == "shuffled-patches":
        assert np.array_equal(np.sort(made.reshape(5, -1)), np.sort(images.reshape(5, -1)))
    with pytest.raises(InputError, match="expected a mixture among averages"):
        mixed("zzz", images)


def test_outliers_are_made_up_in_the_shape_of_the_images():
    images = DRAWS.integers(0, 256, (4, 1, 16, 16), dtype=np.uint8)
    made = made_up_outliers(images)
    assert {one.shape for one in made.values()} == {images.shape}
    assert {"photographs", "textures", "plain-photographs"}.isdisjoint(made)


def test_at_most_alpha_of_normal_images_are_foreign_and_strangers_are(fitted):
    normal, classes = coloured(600, 5)
    decisions = fitted.guard(normal)
    foreign = np.array([kind == "foreign" for kind in decisions.kinds])
    assert foreign.sum() <= binom.ppf(0.999, 600, 0.1 + 0.04)  # the rate of one calibration varies
    given = [(one.label, name) for one, name in zip(decisions, classes, strict=True) if one.label]
    assert np.mean([one == name for one, name in given]) >= 0.95
    green = fitted.guard(coloured(100, 6, ((0.2, 0.9, 0.2),))[0])
    assert green.kinds.count("foreign") > 95


def test_images_that_belong_together_stay_together_and_count_once(screen):
    images, classes = coloured(300, 40)
    doubled = [*pairs(images, classes), *pairs(images, classes)]
    fitted = fit_guard(doubled, screen=screen, calibration=pairs(*coloured(200, 41)) * 3, parts=["knn"])
    assert fitted.facts["calibrated on"] <= 100
    with pytest.raises(InputError, match="no copies of those learnt from"):
        fit_guard(doubled, screen=screen, calibration=pairs(images[:50], classes[:50]))
    by_folder = [f"unit {number % 30}" for number in range(300)]
    first, rest = units_of([open_images(images)], dict(zip(open_images(images).ids, by_folder, strict=True)))[0].dealt(
        [100], 0
    )
    named = [{by_folder[int(name)] for name in some.images.ids} for some in (first, rest)]
    assert named[0].isdisjoint(named[1])
    assert len(named[0]) == 10
    assert len(rest.one_of_each(0)) == 20


def test_too_low_a_confidence_is_no_foreignness(fitted):
    unsure = replace(fitted.guard, temperature=100.0)  # no confidence is 1
    strict = replace(unsure, floor=replace(fitted.guard.floor, confidence=1.0))
    before, after = unsure(coloured(50, 7)[0]), strict(coloured(50, 7)[0])
    assert set(after.kinds) <= {"foreign", "unsure"}
    assert [kind == "foreign" for kind in before.kinds] == [kind == "foreign" for kind in after.kinds]
    first = next(one for one in after if one.kind == "unsure")
    assert first.reason.startswith("the classifier is not sure enough (confidence ")


def test_an_image_is_decided_alike_alone_among_others_and_by_a_saved_guard(fitted, tmp_path):
    images = np.concatenate([coloured(20, 8)[0], coloured(5, 9, ((0.2, 0.9, 0.2),))[0]])
    every = list(fitted.guard(images).records())
    alone = [next(iter(fitted.guard(image[None]).records())) for image in images]
    assert [{**row, "id": ""} for row in every] == [{**row, "id": ""} for row in alone]
    fitted.guard.screen.save(tmp_path / "guard")
    save_guard(fitted.guard, tmp_path / "guard")
    loaded = load_guard(recondite.load(tmp_path / "guard", backbone=Backbone()), tmp_path / "guard")
    assert list(loaded(images).records()) == every
    file = tmp_path / "guard" / GUARD_FILE
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="safetensors"):
        load_guard(recondite.load(tmp_path / "guard", backbone=Backbone()), tmp_path / "guard")


def test_the_screen_scores_as_without_the_head(fitted, screen):
    images = coloured(20, 10)[0]
    np.testing.assert_array_equal(fitted.guard(images).verdicts.instance_score, screen.predict(images).instance_score)


def test_what_cannot_be_fitted_says_why(screen):
    images = coloured(60, 11)[0]
    known = pairs(*coloured(60, 11))
    with pytest.raises(InputError, match="needs calibration images that neither has learnt from"):
        fit_guard(known, screen=screen)
    with pytest.raises(InputError, match="has its backbone"):
        fit_guard(known, screen=screen, calibration=known, backbone="lite1")
    with pytest.raises(InputError, match="expected a class, in a table of labels"):
        fit_guard(images, screen=screen, calibration=images)
    held = pairs(*coloured(60, 12))
    with pytest.raises(InputError, match="expected parts among screen, confidence, max_logit"):
        fit_guard(known, screen=screen, calibration=held, parts=["zzz"])
    with pytest.raises(InputError, match="cannot be promised with probability"):
        fit_guard(known, screen=screen, calibration=held, parts=["knn"], risk=0.01)
    with pytest.raises(InputError, match="no copies of those learnt from; all of them are"):
        fit_guard(known, screen=screen, calibration=known)
    pca = recondite.fit(images, detector="pca", latent_size=4, alpha=0.2)
    with pytest.raises(InputError, match="needs a screen of the detector 'features'"):
        fit_guard(known, screen=pca, calibration=held)
    labelled = dict.fromkeys((f"{index:06d}" for index in range(60)), "red")
    with pytest.raises(InputError, match="expected two classes or more"):
        fit_guard(images, labels=labelled, screen=screen, calibration=coloured(60, 12)[0])


def brightness(pixels):
    """Logits that grow with how red or blue an image is, and are small for what is neither."""
    red, green, blue = pixels.mean(dim=(2, 3)).T
    return 10 * torch.stack([red - green, blue - green], dim=1)


def test_a_guard_without_shares_chooses_its_parts_and_keeps_alpha(screen):
    guard = screen.guard(brightness, ("red", "blue"), calibration=coloured(600, 12)[0])
    assert sum(guard.shares.values()) == pytest.approx(1)
    assert {len(calibrator.scores) for calibrator in guard.calibrators.values()} == {300}
    normal = guard(coloured(500, 13)[0])
    assert normal.abstained.mean() <= 0.15
    assert guard(coloured(50, 14, ((0.2, 0.9, 0.2),))[0]).abstained.mean() > 0.9
    given = screen.guard(brightness, calibration=coloured(200, 12)[0], confidence_share=0)
    assert given.shares == {"screen": 1.0}
    with pytest.raises(InputError, match="give no stream"):
        screen.guard(brightness, calibration=iter(coloured(50, 12)[0]))


def test_outliers_are_made_up_of_the_values_that_a_screen_expects():
    learnt_from, held = (100 + coloured(200, seed)[0].astype(np.uint16) * 16 for seed in (1, 2))
    given = {"detector": "pca", "latent_size": 4, "alpha": 0.1, "score": "error", "group_by": "none"}
    screen, shown = recondite.fit(learnt_from, value_range=(100, 4180), **given), []

    def watched(pixels):
        shown.append(pixels)
        return brightness(pixels)

    screen.guard(watched, ("red", "blue"), calibration=held)
    levels = torch.cat(shown).mean(dim=(1, 2, 3))
    assert levels.max() > 0.9  # of plain colours and checkerboards; none of the images is as bright
    plain = screen.detector.preprocessing
    assert pixels_of(open_images(held), plain).mean(axis=(1, 2, 3)).max() < 0.6 * 255


@pytest.fixture
def graph(tmp_path):
    """An ONNX classifier of 16 x 16 pixels."""
    return write_classifier(tmp_path / "classifier.onnx", 16)


def folders(root, images, classes):
    for index, (image, name) in enumerate(zip(images, classes, strict=True)):
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(root / name / f"{index:03d}.png")
    return str(root)


def test_an_onnx_classifier_behind_a_screen_on_the_command_line(graph, tmp_path, capsys):
    judge = recondite.fit(coloured(150, 20)[0], detector="pca", latent_size=4, alpha=0.1)
    judge.save(tmp_path / "screen")
    learnt_from = folders(tmp_path / "learnt", *coloured(60, 21))
    held = folders(tmp_path / "held", *coloured(200, 22))
    command = ["guard", "fit", str(tmp_path / "screen"), learnt_from, "--classifier", str(graph), "-o"]
    given = ["--classes", "red,blue", "--calibration", held, "--labels-from-folders"]
    assert main([*command, str(tmp_path / "guard"), *given]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "accuracy: 1.000 of 100 held-out images" in said
    assert f"next: recondite guard predict {tmp_path / 'guard'} NEW_IMAGES -o labels.csv" in said
    assert f"recondite guard-report {tmp_path / 'guard'} INLIERS OUTLIERS -o report" in said
    new = folders(tmp_path / "new", *coloured(10, 23, ((0.7, 0.3, 0.3), (0.3, 0.3, 0.7), (0.2, 0.9, 0.2))))
    table = tmp_path / "labels.csv"
    assert main(["guard", "predict", str(tmp_path / "guard"), new, "-o", str(table)]) == 0, capsys.readouterr().err
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    for row in rows:
        if row["id"].startswith("other"):
            assert (row["label"], row["abstention"]) == ("", "foreign")
        else:
            assert row["label"] in ("", row["id"].split("/")[0])
    reds = folders(tmp_path / "reds", *coloured(80, 24, ((0.7, 0.3, 0.3),)))
    assert main(["guard", "predict", str(tmp_path / "guard"), reds, "-o", str(table)]) == 0, capsys.readouterr().err
    assert main(["monitor", str(tmp_path / "guard"), str(table)]) == 0, capsys.readouterr().err
    (blue,) = [line for line in capsys.readouterr().out.splitlines() if "blue" in line]
    assert "gone, or nearly" in blue  # half of the held-out images were
    (tmp_path / "guard" / "classifier.onnx").write_bytes(b"another")
    assert main(["guard", "predict", str(tmp_path / "guard"), new, "-o", str(table)]) == 2
    assert "another one than the guard was made with" in capsys.readouterr().err


def test_the_command_line_refuses_what_does_not_fit(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    command = ["guard", "fit", "none", str(tmp_path / "images"), "-o", str(tmp_path / "guard")]
    assert main([*command, "--labels-from-folders", "--labels", "a.csv"]) == 2
    assert "choose one" in capsys.readouterr().err
    assert main([*command, "--classifier", str(tmp_path / "none.onnx")]) == 2
    assert "expected an ONNX file" in capsys.readouterr().err


class StoppedError(Exception):
    pass


@pytest.fixture
def stopped_at(monkeypatch):
    """Let a function that `fit_guard` calls stop it there, and tell what it was given."""

    def at(name, images, **given):
        found = []

        def stop(*arguments, **named):
            found.append((arguments, named))
            raise StoppedError

        with monkeypatch.context() as patch:
            patch.setattr(guard_fit, name, stop)
            with pytest.raises(StoppedError):
                fit_guard(images, **given)
        return found[0]

    return at


def test_without_a_screen_one_is_fitted_on_what_is_not_held_out(stopped_at):
    images = pairs(*coloured(100, 50))
    for given, detector, alpha, count in (
        ({}, "features", 0.05, 60),
        ({"alpha": 0.2, "held_out": 0.25}, "features", 0.2, 75),
        ({"fine_tune": 2, "held_out": 0.75}, "auto", 0.05, 25),
        ({"train": lambda *_: None}, "auto", 0.05, 60),
        ({"calibration": pairs(*coloured(50, 51))}, "features", 0.05, 100),
    ):
        (known,), settings = stopped_at("fit", images, group_by="none", **given)
        assert (settings["detector"], settings["alpha"], known.size) == (detector, alpha, count)
        assert (settings["seed"], settings["progress"], settings["backbone"]) == (0, False, None)


def test_a_screen_that_is_fitted_for_a_guard_keeps_units_together(stopped_at):
    named = [f"part {number // 4}" for number in range(200)]
    (known,), settings = stopped_at("fit", pairs(*coloured(200, 50)), group_by=named, alpha=0.2)
    own = [named[int(name)] for name in known.ids]
    assert len(own) == len(settings["group_by"]) == 120
    assert len({*own}) == len({*settings["group_by"]}) == len({*zip(own, settings["group_by"], strict=True)}) == 30


def test_what_cannot_be_is_refused_before_a_screen_is_fitted(monkeypatch):
    monkeypatch.setattr(guard_fit, "fit", lambda *_, **__: pytest.fail("the work began"))
    images = pairs(*coloured(100, 50))
    for given, words in (
        ({"fine_tune": 2, "train": lambda *_: None}, "expected one of classifier, fine_tune .* and train, or none"),
        ({"classes": ["red", "green"]}, "expected two classes or more, among red, green; got blue"),
        ({"classes": ["red", "red", "blue"]}, "expected different names of classes"),
        ({"risk": 2}, r"expected risk in \(0, 1\); got 2"),
        ({"risk": 0.1, "delta": 1.5}, r"expected delta in \(0, 1\); got 1\.5"),
        ({"alpha": 5}, r"expected alpha in \(0, 1\); got 5"),
        ({"alpha": 0.2, "risk": 0.1}, "cannot be promised .* at least 29 images, .* those given leave 14; give more"),
        ({"fine_tune": 16}, "expected 1 to 15 blocks of lite0 to fine-tune; got 16"),
        ({"fine_tune": 16, "backbone": "lite9"}, "expected one of lite0, lite1, lite2 as the backbone"),
    ):
        with pytest.raises(InputError, match=words):
            fit_guard(images, group_by="none", **given)


def test_what_is_given_has_calibration_images_that_it_has_not_learnt_from(screen, stopped_at):
    known, held = pairs(*coloured(60, 52)), pairs(*coloured(40, 53))
    for given in ({"classifier": object()}, {"screen": screen}, {"screen": screen, "classifier": object()}):
        with pytest.raises(InputError, match="needs calibration images that neither has learnt from"):
            fit_guard(known, **given)
    # Those that a screen has learnt from are left out, by its own units of pixels.
    (asked, opened, by), _ = stopped_at("unknown_images", known, screen=screen, calibration=held, group_by="folder")
    assert (asked, opened.size, by) == (screen, 40, "folder")
    _, _, values = stopped_at("units_of", known, screen=screen, calibration=held)[0]
    assert values == screen.detector.preprocessing.value_range
    deep = SimpleNamespace(detector=SimpleNamespace(preprocessing=SimpleNamespace(value_range=(0, 4095))), known=None)
    sources, _, values = stopped_at("units_of", known, classifier=object(), calibration=held)[0]
    assert ([some.size for some in sources], values) == ([60, 40], None)
    deep.detector.shape = (3, 16, 16)
    with pytest.warns(ReconditeWarning, match="does not know which images it was fitted on"):
        assert stopped_at("units_of", known, screen=deep, calibration=held)[0][2] == (0, 4095)


def test_what_belongs_together_with_an_image_that_the_screen_has_learnt_from_does_not_calibrate(stopped_at):
    images = coloured(60, 54)[0]
    screen = recondite.fit(images, detector="pca", latent_size=4, alpha=0.2, score="error", group_by="none")
    held, classes = coloured(40, 55)
    learnt = images[np.isin(screen.detector.score(images).instance_score, screen.calibrator.scores, invert=True)]
    calibration = list(zip([learnt[0], *held[1:]], classes, strict=True))
    by = dict.fromkeys(("000000", "000001", "000002"), "of one part")
    with pytest.warns(ReconditeWarning, match="has learnt from 1 of 40 images"):
        (_, found), *_ = stopped_at("units_of", calibration, screen=screen, calibration=calibration, group_by=by)[0]
    assert found.ids == [f"{number:06d}" for number in range(3, 40)]


@pytest.fixture(scope="module")
def told():
    """A screen, a table of what a classifier said, and the images that it said it of."""
    learnt_from, held = coloured(60, 54), coloured(300, 55)
    screen = recondite.fit(learnt_from[0], detector="pca", latent_size=4, alpha=0.1, score="error", group_by="none")
    opened = [
        replace(open_images(list(images)), ids=[f"{name}{place}" for place in range(len(images))], labels=classes)
        for name, (images, classes) in (("known", learnt_from), ("held", held))
    ]
    means = np.concatenate([learnt_from[0], held[0]]).mean(axis=(2, 3)) / 255
    logits = 10 * np.stack([means[:, 2] - means[:, 1], means[:, 0] - means[:, 1]], axis=1)
    ids = tuple(opened[0].ids + opened[1].ids)
    return screen, Outputs(ids=ids, logits=logits, labels=np.full(360, -1)), *opened


def test_a_half_chooses_and_a_half_calibrates_or_thirds_where_a_risk_is_bounded(told):
    screen, outputs, known, held = told
    given = {"screen": screen, "classifier": Told(outputs), "calibration": held, "group_by": "none"}
    plain = fit_guard(known, **given)
    assert [plain.facts[name] for name in ("learnt from", "chosen on", "calibrated on")] == [60, 150, 150]
    assert plain.facts["accuracy"] > 0.95
    assert plain.facts["parts"] == ["screen"]
    assert plain.guard.shares == {"screen": 1.0}
    assert plain.guard.confusion.sum() == 150
    assert "promise" not in plain.facts
    bounded = fit_guard(known, **given, parts=["confidence"], risk=0.2)
    assert [bounded.facts[name] for name in ("chosen on", "calibrated on")] == [100, 100]
    assert bounded.facts["promise"] == bounded.guard.floor.sentence
    assert bounded.guard.floor.of <= 100
    assert bounded.guard.floor.delta == 0.05
    assert bounded.guard.by_class
    looser = fit_guard(known, **given, alpha=0.2)
    assert looser.guard.screen.alpha == 0.2


def test_classes_are_those_of_the_images_or_those_that_are_named(told):
    screen, outputs, known, held = told
    given = {"screen": screen, "classifier": Told(outputs), "calibration": held, "group_by": "none"}
    assert fit_guard(known, **given).guard.classes == ("blue", "red")
    assert fit_guard(known, **given, classes=["red", "blue"]).guard.classes == ("red", "blue")
    for names, missing in ((["blue"], "red"), (["blue", "green"], "red")):
        with pytest.raises(InputError, match=f"expected two classes or more, among .*; got {missing}"):
            fit_guard(known, **given, classes=names)
    with pytest.raises(InputError, match="got one"):
        fit_guard(replace(known, labels=["red"] * 60), **given)
    with pytest.raises(InputError, match=r"expected parts among screen, .*; got zzz"):
        fit_guard(known, **given, parts=["screen", "zzz"])


def test_the_smallest_share_of_alpha_says_whether_classes_calibrate_by_themselves(told, monkeypatch):
    screen, outputs, known, held = told
    asked = []
    monkeypatch.setattr(guard_fit, "equal_shares", lambda parts: {part: (1 + n) / 3 for n, part in enumerate(parts)})
    monkeypatch.setattr(guard_fit, "_needed_of_each_class", lambda _, smallest: asked.append(smallest) or 1000)
    given = {"screen": screen, "calibration": held, "group_by": "none", "parts": ["screen", "confidence"]}
    assert not fit_guard(known, classifier=Told(outputs), **given).guard.by_class
    assert asked == [1 / 3]


def test_classes_calibrate_together_where_that_is_asked_for(told):
    screen, outputs, known, held = told
    given = {"screen": screen, "classifier": Told(outputs), "calibration": held, "group_by": "none"}
    by_class, together = (fit_guard(known, **given, by_class=one) for one in (True, False))
    assert (by_class.facts["by class"], together.facts["by class"]) == (True, False)
    assert set(by_class.guard.calibrators["screen"].sizes) == {"blue", "red"}
    assert together.guard.calibrators["screen"].sizes == {None: 150}
    assert np.array_equal(by_class.guard.calibrators["screen"].scores, together.guard.calibrators["screen"].scores)


def test_a_class_that_no_calibration_image_has_is_not_turned_away(told):
    screen, outputs, known, held = told
    logits = np.column_stack([outputs.logits, np.full(len(outputs), -20.0)])
    logits[:10, 2] = 20  # ten images to learn from are green, and none of the held-out ones
    known = replace(known, labels=["green"] * 10 + known.labels[10:])
    table = Told(Outputs(ids=outputs.ids, logits=logits, labels=outputs.labels))
    given = {"screen": screen, "classifier": table, "group_by": "none", "classes": ["blue", "red", "green"]}
    guard = fit_guard(known, calibration=held, **given).guard
    assert not guard.by_class
    assert set(guard(known.select(range(10))).labels) == {"green"}


def test_logarithms_of_probabilities_of_zero_are_logits(told, tmp_path):
    screen, _, known, held = told
    path = write_classifier(tmp_path / "c.onnx", 16)
    import onnx

    graph = onnx.load(path)
    (weight,) = graph.graph.initializer
    weight.CopyFrom(onnx.numpy_helper.from_array(300 * onnx.numpy_helper.to_array(weight), weight.name))
    graph.graph.node[-1].output[0] = "raw"
    further = (("Softmax", "raw", "shares"), ("Log", "shares", "logits"))
    graph.graph.node.extend(onnx.helper.make_node(kind, [taken], [given]) for kind, taken, given in further)
    classifier = OnnxClassifier(graph.SerializeToString())
    pixels = torch.from_numpy(coloured(1, 55)[0] / np.float32(255))
    assert (classifier(pixels) == -torch.inf).any()
    given = {"screen": screen, "calibration": held, "group_by": "none", "classes": ["red", "blue"]}
    fitted = fit_guard(known, classifier=classifier, parts=["confidence", "knn", "vim"], alpha=0.2, risk=0.2, **given)
    assert fitted.facts["accuracy"] > 0.95
    assert {None} < {*fitted.guard(held).kinds} <= {None, "foreign", "unsure"}


def test_parts_are_chosen_as_they_will_be_calibrated(screen, monkeypatch):
    known, held = pairs(*coloured(60, 60)), pairs(*coloured(100, 61))
    asked = []

    def chosen_parts(_guard, _images, inliers, _seed, _left_out, needed, _progress):
        asked.append((set(inliers.predicted), needed and needed(0.5)))
        return PartsChoice({"screen": 1.0}, {})

    monkeypatch.setattr(guard_fit, "chosen_parts", chosen_parts)
    for by_class in (True, False):
        fit_guard(known, screen=screen, calibration=held, group_by="none", by_class=by_class)
    assert asked == [({"red", "blue"}, 38), ({"red", "blue"}, None)]  # twice what half of .1 needs


def test_each_long_part_of_a_fit_shows_how_far_it_is(screen):
    seen = []
    with told_to(lambda description, done, total: seen.append((description, done, total))):
        given = {"screen": screen, "calibration": pairs(*coloured(100, 65)), "group_by": "none"}
        fit_guard(pairs(*coloured(60, 64)), **given, progress=True)
    last = {description: (done, total) for description, done, total in seen}
    assert last.pop("made-up outliers")[0] > 100
    assert last == {"learning the classes": (60, 60), "held-out images": (50, 50), "calibrating the guard": (50, 50)}
    assert all(done == total for done, total in last.values())


def test_a_guard_by_a_table_says_what_it_looks_at_where_nothing_is_named(told, caplog):
    screen, outputs, known, held = told
    given = {"screen": screen, "calibration": held, "group_by": "none"}
    fit_guard(known, classifier=Told(outputs), **given, parts=["screen"])
    assert not caplog.text
    assert fit_guard(known, classifier=Told(outputs), **given).guard.shares == {"screen": 1}
    assert "the guard looks at screen alone; name others with --parts (parts=), such as screen,confid" in caplog.text
    with_features = replace(outputs, features=np.concatenate([outputs.logits, outputs.logits**2], axis=1))
    shares = fit_guard(known, classifier=Told(with_features), **given).guard.shares
    assert shares == {"screen": 0.5, "mahalanobis": 0.5}
    assert "the guard looks at screen and mahalanobis alone" in caplog.text


def test_a_table_of_classes_has_one_in_every_row(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text("id,label\n1,red\n2,blue\n")
    assert read_classes(path) == {"1": "red", "2": "blue"}
    for text in ("id,label\n1,red\n2,\n", "id,class\n1,red\n"):
        path.write_text(text)
        with pytest.raises(InputError, match="columns id and label, with a class in every row"):
            read_classes(path)


def test_the_head_shrinks_its_covariance_by_three_tenths(screen, fitted):
    known = open_images(pairs(*coloured(200, 1)), role="fit")
    names = fitted.guard.classes
    head = learnt(vectors_of(screen.detector, known, names), 2, 200).head(0.3)
    torch.testing.assert_close(fitted.guard.head.weight, head.weight)
    torch.testing.assert_close(fitted.guard.head.bias, head.bias)


@pytest.mark.parametrize("fine_tune", [None, 2])
def test_what_is_trained_without_a_class_learns_from_some_images_where_blocks_are_fine_tuned(
    told, stopped_at, monkeypatch, tmp_path, fine_tune
):
    screen, _, known, held = told
    classifier = read_classifier(write_classifier(tmp_path / "c.onnx", 16))
    monkeypatch.setattr(guard_fit, "fine_tuned", lambda *_, **__: classifier)
    given = {"fine_tune": fine_tune} if fine_tune else {"train": lambda *_: classifier}
    (train, images, chosen_on, names, shown), settings = stopped_at(
        "trained_without", known, screen=screen, calibration=held, group_by="none", **given
    )
    assert train(images, names) is classifier
    assert (images.size, chosen_on.size, names) == (60, 150, ("blue", "red"))
    assert shown.shape == classifier.shape == (3, 16, 16)
    assert settings == {"most": 1200 if fine_tune else None}
    monkeypatch.setattr(type(classifier), "shape", None, raising=False)
    classifier.shape = None
    shown = stopped_at("trained_without", known, screen=screen, calibration=held, group_by="none", **given)[0][-1]
    assert shown.shape == screen.detector.shape


def test_a_part_that_is_named_needs_no_training_without_a_class(told, monkeypatch, tmp_path):
    screen, _, known, held = told
    classifier = read_classifier(write_classifier(tmp_path / "c.onnx", 16))
    monkeypatch.setattr(guard_fit, "trained_without", lambda *_, **__: pytest.fail("trained without a class"))
    given = {"screen": screen, "calibration": held, "group_by": "none", "classes": ["red", "blue"]}
    guard = fit_guard(known, train=lambda *_: classifier, parts=["knn"], **given).guard
    assert guard.shares == {"knn": 1.0}
    assert guard.classifier is classifier


def test_not_one_image_may_be_left():
    turned_away = SimpleNamespace(kinds=["foreign"] * 3)
    with pytest.raises(InputError, match="not one image is left to bound the risk by"):
        guard_fit._not_foreign(lambda _: turned_away, None)
    kinds, predicted = [None, "foreign", None, "invalid"], ("a", "a", "b", None)
    decided = SimpleNamespace(kinds=kinds, predicted=predicted, confidence=np.array([0.9, 0.8, 0.7, np.nan]))
    sure, wrong = guard_fit._not_foreign(lambda _: decided, SimpleNamespace(label="abax".__getitem__))
    assert sure.tolist() == [0.9, 0.7]
    assert wrong.tolist() == [False, True]


@pytest.mark.parametrize(
    ("names", "labels", "got"),
    [
        (("a", "b"), ["a", "c"], "c"),
        (("a",), ["a"], "one"),
        (("a",), None, "one"),
        (("a", "b"), ["c", "d"], "c, d"),
        (("a", "b"), ["b"], None),
        (("a", "b", "c"), None, None),
    ],
)
def test_two_classes_or_more_are_named_and_no_image_is_of_another(names, labels, got):
    images = SimpleNamespace(labels=labels)
    if got is None:
        check_classes(names, images)
    else:
        with pytest.raises(InputError, match=f"two classes or more, among {', '.join(names)}; got {got}$"):
            check_classes(names, images)


@pytest.mark.parametrize(
    ("kind", "count", "known"),
    [
        ("nothing learnt", 3, None),
        ("onnx", 2, None),
        ("onnx", 3, "logits"),
        ("tuned", 2, None),
        ("tuned", 3, "logits"),
        ("alone", 2, "vectors"),
        ("head", 2, "vectors"),
    ],
)
def test_classes_are_left_out_where_what_was_learnt_leaves_something_to_tell(kind, count, known, monkeypatch):
    """Of a head or of features from before, by vectors; of others by logits, of three classes."""
    names, draws = ("a", "b", "c")[:count], np.random.default_rng(0)
    places = np.arange(30) % count
    vectors, logits = (draws.normal(size=(30, size)).astype(np.float32) for size in (4, count))
    learning = None if kind == "nothing learnt" else learnt([(vectors, places, logits)], count, 30)
    classifier = object.__new__(OnnxClassifier if kind in ("onnx", "nothing learnt") else TunedClassifier)
    if kind in ("tuned", "alone"):
        classifier.before = math.inf if kind == "alone" else 1.0
    given = {"classifier": None, "head": object()} if kind == "head" else {"classifier": classifier, "head": None}
    guard = SimpleNamespace(**given, seen=None, screen=SimpleNamespace(detector=None))
    asked = []

    def looked(by):
        def look(*_):
            asked.append(by)
            return iter([(vectors[:20], places[:20].tolist(), logits[:20]), (vectors[20:], [0] * 10, logits[20:])])

        return look

    def left_out(learnt_from, held, classes, shrinkage):
        asked.append((learnt_from, held, classes, shrinkage))
        return {1: "what is said of it"}

    monkeypatch.setattr(guard_fit, "features_of", looked("features"))
    monkeypatch.setattr(guard_fit, "vectors_of", looked("vectors"))
    monkeypatch.setattr(guard_fit, "left_out_classes", left_out)
    found = guard_fit._left_out(guard, learning, None, names)
    if known is None:
        assert found == {}
        assert asked == []
        return
    assert found == {"b": "what is said of it"}
    by, (learnt_from, held, classes, shrinkage) = asked
    assert (by, classes, shrinkage) == ("vectors" if kind == "head" else "features", count, 0.3)
    np.testing.assert_array_equal(held.vectors, vectors)
    assert held.classes.tolist() == [*places[:20], *[0] * 10]
    assert len(learnt_from.vectors) == len(learnt_from.classes) == 30
    if known == "logits":
        np.testing.assert_array_equal(held.logits, logits)
        assert learnt_from.logits.shape == (30, count)
    else:
        assert held.logits is learnt_from.logits is None


def test_a_backbone_is_for_a_screen_that_is_fitted_here(stopped_at):
    images = pairs(*coloured(100, 62))
    with pytest.raises(InputError, match="has its backbone"):
        fit_guard(images, screen=object(), backbone="lite1", calibration=images)
    with pytest.raises(
        InputError, match="expected one of lite0, lite1, lite2 as the backbone to fine-tune; got 'timm:x'"
    ):
        fit_guard(images, fine_tune=2, backbone="timm:x")
    for given in ({"backbone": "timm:x"}, {"backbone": "lite1", "fine_tune": 2}):
        assert stopped_at("fit", images, group_by="none", **given)[1]["backbone"] == given["backbone"]


@pytest.mark.parametrize("share", [0, 1, -0.1])
def test_some_images_are_held_out_and_not_all(share, monkeypatch):
    monkeypatch.setattr(guard_fit, "fit", lambda *_, **__: pytest.fail("fitted"))
    with pytest.raises(InputError, match=r"a share of held-out images in \(0, 1\)"):
        fit_guard(pairs(*coloured(30, 62)), held_out=share)


@pytest.mark.parametrize(("of_screen", "variant"), [("lite2", "lite2"), ("timm:x", "lite0"), (None, "lite0")])
def test_the_screens_own_variant_is_fine_tuned(of_screen, variant, stopped_at):
    options = SimpleNamespace(**{} if of_screen is None else {"backbone": of_screen})
    seen = Preprocessing(shape=(3, 16, 16))
    screen = SimpleNamespace(
        detector=SimpleNamespace(preprocessing=seen, options=options, shape=seen.shape), known=None
    )
    known, held = pairs(*coloured(20, 63)), pairs(*coloured(20, 64))
    given = {"screen": screen, "calibration": held, "group_by": "none", "fine_tune": 2, "seed": 5}
    with pytest.warns(ReconditeWarning, match="does not know which images it was fitted on"):
        (images, names), asked = stopped_at("fine_tuned", known, **given)
    assert (images.size, names) == (20, ("blue", "red"))
    assert (asked["variant"], asked["blocks"], asked["seed"], asked["preprocessing"]) == (variant, 2, 5, seen)


@pytest.fixture
def trained(told, screen, monkeypatch):
    """`fit_guard` with a classifier that is trained, up to where its rules are learnt or its parts chosen."""

    def run(stop, classifier, names, looking, without, **given):
        found = {}

        def stopped(*arguments):
            found["asked"] = arguments
            raise StoppedError

        one = Guard(screen=screen, classifier=None)
        seen = _Seen(parts={}, predicted=["red"], logits=np.zeros((1, 2)), true=["red"])
        monkeypatch.setattr(guard_fit, "trained_without", lambda *_, **__: without)
        monkeypatch.setattr(guard_fit, "best_telling", lambda *_: 0.25)
        monkeypatch.setattr(guard_fit, "_with_rules", lambda *_: (one, None))
        monkeypatch.setattr(guard_fit, "replace", lambda guard, **_: guard)
        monkeypatch.setattr(guard_fit, "_seen", lambda *_: seen)
        monkeypatch.setattr(guard_fit, "_left_out", lambda *_: "left out of the rules")
        monkeypatch.setattr(guard_fit, stop, stopped)
        labelled = [SimpleNamespace(size=some.size, labels=some.labels) for some in told[2:]]
        units = SimpleNamespace(images=labelled[0], unreadable=()), Held(labelled[1])
        monkeypatch.setattr(guard_fit, "units_of", lambda *_: units)
        monkeypatch.setattr(guard_fit, "unknown_images", lambda _, images, __: images)
        monkeypatch.setattr(guard_fit, "labels_of", lambda _, group_by: group_by)
        monkeypatch.setattr(guard_fit, "with_classes", lambda images, _: images)
        settings = {"screen": screen if looking else told[0], "calibration": labelled[1], "classes": names, **given}
        if classifier is not None:
            settings["train"] = lambda *_: classifier
        with pytest.raises(StoppedError):
            fit_guard(labelled[0], **settings)
        return found["asked"]

    return run


class Held:
    """Held-out images, of which parts are dealt."""

    unreadable = ()

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return 300

    def apart_from(self, _):
        return self

    def dealt(self, sizes, _):
        return [self] * (len(sizes) + 1)

    def one_of_each(self, _):
        return self


def tuned_before(before, channels=3):
    made = object.__new__(TunedClassifier)
    made.before, made.shape = before, (channels, 16, 16)
    made.with_before = lambda weight: ("with", weight)
    return made


TWO, THREE = ["red", "blue"], ["red", "blue", "green"]


@pytest.mark.parametrize(
    ("names", "channels", "looking", "without", "expected"),
    [
        (THREE, 3, True, {0.25: {"red": "told"}}, ("with", 0.25)),
        (THREE, 3, True, {}, ("with", 1.0)),
        (TWO, 3, True, {}, ("with", math.inf)),
        (TWO, 3, False, {}, ("with", 1.0)),
        (TWO, 1, True, {}, ("with", 1.0)),
    ],
)
def test_what_a_network_saw_before_weighs_as_left_out_classes_say(trained, names, channels, looking, without, expected):
    """Or alone, of two classes in colour beside a screen of features."""
    _, classifier, *_ = trained("_with_rules", tuned_before(1.0, channels), names, looking, without)
    assert classifier == expected
    for other in (tuned_before(0.5), object.__new__(OnnxClassifier)):
        other.shape = (3, 16, 16)
        assert trained("_with_rules", other, names, looking, without)[1] is other


def test_classes_are_left_out_of_the_training_or_else_of_the_rules(trained):
    onnx = object.__new__(OnnxClassifier)
    onnx.shape = (3, 16, 16)
    told_of_three = {0.25: "left out of the training"}
    for classifier, names, expected in (
        (onnx, THREE, "left out of the training"),
        (onnx, TWO, "left out of the rules"),
        (None, THREE, "left out of the rules"),
        (None, TWO, "left out of the rules"),
    ):
        assert trained("chosen_parts", classifier, names, True, told_of_three)[4] == expected


def test_parts_are_among_those_there_are(trained):
    with pytest.raises(InputError, match=r"expected parts among screen, confidence, max_logit, energy; got knn$"):
        trained("chosen_parts", None, TWO, True, {}, parts=["knn"])


def test_parts_that_no_guard_has_are_told_before_an_image_is_looked_at(tmp_path):
    for parts, got in ((["zzz", "screen"], "zzz"), ([], "none")):
        with pytest.raises(InputError, match=f"expected parts among screen, confidence, .*, vim; got {got}$"):
            fit_guard(tmp_path / "nothing", parts=parts)


def test_classes_may_be_called_good_and_bad(tmp_path):
    for name in ("ok", "bad"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "0.png")
    assert with_classes(str(tmp_path), FROM_FOLDERS).labels == ["bad", "ok"]
    manifest = tmp_path / "classes.jsonl"
    manifest.write_text("".join(f'{{"path": "{name}/0.png", "label": "{name}"}}\n' for name in ("ok", "bad")))
    assert with_classes(str(manifest), None).labels == ["ok", "bad"]


def test_classes_come_from_the_metadata_beside_images_where_it_is_named(tmp_path):
    for place in range(2):
        Image.new("L", (8, 8)).save(tmp_path / f"{place}.png")
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,label\n0.png,cat\n1.png,dog\n")
    assert with_classes(str(tmp_path), read_classes(table)).labels == ["cat", "dog"]
    with pytest.raises(
        InputError, match=r"0\.png: the table of labels .* has no such id; it has 1, the first a/0\.png"
    ):
        with_classes(str(tmp_path), {"a/0.png": "cat"})
    with pytest.raises(
        InputError, match=r"0.png: expected a class, in a table of labels, such as a metadata.csv \(--l"
    ):
        with_classes(str(tmp_path), None)


@pytest.mark.parametrize("count", [21, 30])
def test_too_few_images_for_alpha_are_told_with_an_alpha_that_works(count):
    images = pairs(*coloured(count, 1))
    with pytest.raises(InputError, match=r"alpha = 0\.05 needs at least 19 images each.* leave .*, or --alpha") as told:
        fit_guard(images, backbone=None, group_by="none")
    learnt, chosen_on, calibrated_on = map(int, re.search(r"leave (\d+), (\d+) and (\d+)", str(told.value)).groups())
    assert learnt + chosen_on + calibrated_on == count
    alpha = float(re.search(r"--alpha (0\.\d+) \(", str(told.value)).group(1))
    assert alpha == smallest_alpha(min(chosen_on, calibrated_on))


def test_what_helps_against_too_few_images_is_named_and_nothing_else():
    def told(count, alpha=0.05, parts=None):
        images = pairs(*coloured(count, 1))
        with pytest.raises(InputError, match="needs at least") as error:
            fit_guard(images, group_by="none", alpha=alpha, parts=parts)
        return str(error.value).rpartition(": ")[2]

    assert told(8) == "give more"  # one image is left to choose on, of which no outliers are made up
    assert told(8, parts=["screen"]) == "give more, or --alpha 0.334 (alpha=)"
    several = told(100, parts=["screen", "confidence", "knn"])
    assert several == "give more, or --alpha 0.144 (alpha=), or fewer --parts (parts=)"


def test_a_part_that_is_named_twice_has_its_share_once(told, tmp_path):
    screen, outputs, known, held = told
    assert equal_shares(["screen", "knn", "screen"]) == {"screen": 0.5, "knn": 0.5}
    given = {"screen": screen, "classifier": Told(outputs), "calibration": held, "group_by": "none"}
    guard = fit_guard(known, **given, parts=["screen", "screen"]).guard
    screen.save(tmp_path)
    save_guard(guard, tmp_path)
    assert load_guard(screen, tmp_path).shares == {"screen": 1.0}


def test_a_table_that_lacks_images_is_told_before_a_screen_is_fitted(told, monkeypatch):
    _, outputs, known, held = told
    monkeypatch.setattr(guard_fit, "fit", lambda *_, **__: pytest.fail("a screen is fitted"))
    lacking = outputs.select(outputs.ids[3:])
    with pytest.raises(InputError, match="lack 3 of 360 images; the first: 'known0'"):
        fit_guard(known, classifier=Told(lacking), calibration=held, group_by="none", alpha=0.2)


@pytest.mark.parametrize(
    ("logits", "why"),
    [
        (lambda images: images.mean((2, 3)).softmax(1)[:, :2] * 0 + 0.5, "expected logits; got probabilities"),
        (lambda images: images.mean((2, 3)), r"tells 3 classes; got 2 labels \(blue, red\): name its classes"),
        (lambda images: images.mean((2, 3))[:, :1], "expected a logit for each class; got one in all"),
        (lambda images: images.mean((2, 3))[:, :2] * torch.nan, "finite numbers for not one held-out image"),
    ],
)
def test_a_classifier_that_says_something_else_is_told_so(logits, why, told):
    screen, _, known, held = told
    classifier = object.__new__(OnnxClassifier)
    classifier.shape = None
    classifier.outputs = lambda pixels: (logits(pixels), None)
    with pytest.raises(InputError, match=why):
        fit_guard(known, screen=screen, classifier=classifier, calibration=held, group_by="none", parts=["screen"])


def test_an_image_that_the_classifier_has_no_numbers_for_is_not_learnt_from(told):
    screen, _, known, held = told
    classifier = object.__new__(OnnxClassifier)
    classifier.shape = None

    def said(pixels):
        means = pixels.mean((2, 3))
        odd = torch.arange(len(means))[:, None] % 3 == 1
        return means[:, :2] * 10, torch.where(odd, torch.nan, means)

    classifier.outputs = said
    given = {"screen": screen, "calibration": held, "group_by": "none", "parts": ["screen", "mahalanobis"]}
    guard = fit_guard(known, classifier=classifier, **given).guard
    assert all(value.isfinite().all() for value in guard.rules.tensors.values())


def test_images_that_cannot_be_read_are_listed(told):
    screen, outputs, known, held = told
    broken = replace(held, items=[*list(held.items)[:299], b"junk"])
    fitted = fit_guard(known, screen=screen, classifier=Told(outputs), calibration=broken, group_by="none")
    assert len(fitted.facts["unreadable"]) == 1
    assert fitted.facts["unreadable"][0].startswith("held299: ")


def test_a_class_may_be_a_number_and_an_id_has_one(tmp_path):
    path = tmp_path / "classes.jsonl"
    path.write_text('{"id": "a", "label": 0}\n{"id": "b", "label": 1}\n{"id": "b", "label": 1}\n')
    assert read_classes(path) == {"a": "0", "b": "1"}
    path.write_text('{"id": "a", "label": 0}\n{"id": "a", "label": 1}\n')
    with pytest.raises(InputError, match="expected one class for each id; 'a' has '0' and '1'"):
        read_classes(path)
    path.write_text('{"id": "a", "label": NaN}\n')
    with pytest.raises(InputError, match="with a class in every row"):
        read_classes(path)


def test_names_of_classes_are_different(told):
    screen, outputs, known, held = told
    with pytest.raises(InputError, match="expected different names of classes; 'red' comes more than once"):
        fit_guard(known, screen=screen, classifier=Told(outputs), calibration=held, classes=["red", "blue", "red"])


def test_the_commands_take_no_masks_and_say_so(tmp_path, capsys):
    masks = tmp_path / "masks"
    for place, image in enumerate(coloured(60, 61)[0]):
        for folder, drawn in ((tmp_path / "all", image.transpose(1, 2, 0)), (masks, np.full((16, 16), 255, np.uint8))):
            folder.mkdir(exist_ok=True)
            Image.fromarray(drawn).save(folder / f"{place}.png")
    screen = recondite.fit(tmp_path / "all", detector="pca", latent_size=2, score="error", region=masks, alpha=0.2)
    screen.save(tmp_path / "screen")
    given = [str(tmp_path / "screen"), str(tmp_path / "all"), "-o", str(tmp_path / "out.csv")]
    assert main(["guard", "fit", *given, "--calibration", str(tmp_path / "all")]) == 2
    assert "one mask per image, and these commands take none" in capsys.readouterr().err

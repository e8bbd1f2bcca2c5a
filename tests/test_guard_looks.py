"""A report on a guard that speaks for itself, from one look at each image."""

import csv
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from classifiers import write_classifier
from coloured import coloured, pairs
from PIL import Image

import recondite
from recondite.cli import main
from recondite.data.datasets import open_images
from recondite.errors import InputError
from recondite.reports.guard_looks import looks_at
from recondite.reports.guard_report import GUARD, NO_GUARD, SOFTMAX, fitted_guard_report
from recondite.screen.classifier_outputs import Outputs
from recondite.screen.decisions import UNSURE
from recondite.screen.guard import SCREEN, Guard
from recondite.screen.guard_file import save_guard
from recondite.screen.guard_fit import fit_guard
from recondite.screen.linear_head import RULES
from recondite.screen.make_guard import with_every_part
from recondite.screen.onnx_classifier import read_classifier
from recondite.statistics.calibration import Calibrator
from recondite.statistics.selective import Floor

FOREIGN = ((0.3, 0.7, 0.3), (0.62, 0.3, 0.38))


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    classifier = read_classifier(write_classifier(tmp_path_factory.mktemp("classifier") / "c.onnx", 16))
    screen = recondite.fit(coloured(80, 1)[0], detector="pca", latent_size=4, alpha=0.1, score="error")
    given = {"screen": screen, "classifier": classifier, "classes": ("red", "blue"), "parts": (SCREEN, "knn")}
    return fit_guard(pairs(*coloured(60, 2)), calibration=pairs(*coloured(240, 3)), **given).guard


@pytest.fixture(scope="module")
def traffic():
    """Inliers with their classes, one of which cannot be read, and outliers."""
    images, classes = coloured(60, 4)
    return pairs([*images, b"x"], [*classes, "red"]), coloured(40, 5, FOREIGN)[0]


def test_every_part_and_the_guard_as_it_was_fitted_stand_side_by_side(guard, traffic, monkeypatch):
    inliers, outliers = traffic
    decided, others = guard(inliers), guard(outliers)
    seen = []
    measured = Guard.measured
    monkeypatch.setattr(Guard, "measured", lambda guard, images: seen.append(images.size) or measured(guard, images))
    report = fitted_guard_report(guard, inliers, outliers)
    assert seen == [61, 40]
    rows = {row["rule"]: row for row in report.rows if row["prevalence"] == 0.1}
    assert list(rows) == [NO_GUARD, SCREEN, SOFTMAX, *RULES, GUARD]
    right = np.array([one == other for one, (_, other) in zip(decided.predicted[:60], inliers, strict=False)])
    assert rows[GUARD]["false_rejections"] == pytest.approx(decided.abstained[:60][right].mean())
    assert rows[GUARD]["outliers_accepted"] == pytest.approx(1 - others.abstained.mean())
    assert 0 < rows[GUARD]["outliers_accepted"] < 1
    assert rows[GUARD]["accuracy_accepted"] == pytest.approx(right[~decided.abstained[:60]].mean())
    assert rows["knn"]["false_rejections"] <= 0.1
    assert "60 inliers, of which the classifier gets 100.0% right, and 40 outliers" in report.facts
    assert report.facts.endswith(
        "the guard decides as it was fitted, by screen (0.5 of alpha), knn (0.5 of alpha). 1 unreadable image left out."
    )
    assert {row["class"] for row in report.classes} == {"red", "blue"}
    of_guard = [row for row in report.classes if row["rule"] == GUARD]
    assert sum(row["images"] for row in of_guard) == 60
    assert sum(row["outliers_labelled"] for row in of_guard) == pytest.approx(rows[GUARD]["outliers_accepted"])


def test_looks_are_the_scores_and_decisions_of_the_guard(guard, traffic):
    inliers, _ = traffic
    looks, decided = looks_at(guard, inliers, "inliers"), guard(inliers)
    np.testing.assert_array_equal(looks.kept, ~decided.abstained[:60])
    smallest = np.minimum(*(decided.p_values[part][:60] / share for part, share in guard.shares.items()))
    np.testing.assert_allclose(looks.suspicion, -np.log(smallest))
    assert looks.suspicion[looks.kept].max() < looks.suspicion[~looks.kept].min()
    own, _ = guard.measure([image for image, _ in inliers])
    for part, values in own.items():
        np.testing.assert_array_equal(looks.parts[part], values)
    np.testing.assert_allclose(looks.parts["confidence"], looks.outputs.doubt, rtol=1e-6)
    assert looks.outputs.labels.tolist() == [("red", "blue").index(name) for _, name in inliers[:60]]
    assert looks.unreadable == 1


def test_what_is_not_sure_enough_or_of_a_class_without_calibration_gets_no_label(guard, traffic):
    inliers, _ = traffic
    guard = replace(guard, temperature=1.0)
    confidence = float(np.median(guard(inliers).confidence[:60]))
    floor = Floor(confidence, risk=0.1, delta=0.1, accepted=9, wrong=0, of=9)
    unsure = replace(guard, floor=floor)
    assert UNSURE in unsure(inliers).kinds
    looks = looks_at(unsure, inliers, "inliers")
    np.testing.assert_array_equal(looks.kept, ~unsure(inliers).abstained[:60])
    np.testing.assert_array_equal(looks.suspicion, looks_at(guard, inliers, "inliers").suspicion)
    red = {part: Calibrator(np.sort(one.scores)[:50], ("red",) * 50) for part, one in guard.calibrators.items()}
    blind = looks_at(replace(guard, by_class=True, calibrators=red), inliers, "inliers")
    np.testing.assert_array_equal(np.isinf(blind.suspicion), blind.outputs.logits.argmax(1) == 1)
    assert not blind.kept[np.isinf(blind.suspicion)].any()


def test_parts_are_those_that_can_be_found(guard):
    assert list(with_every_part(guard).shares) == [SCREEN, "confidence", *RULES]
    plain = Guard(screen=SimpleNamespace(detector=None), classifier=guard.classifier)
    every = with_every_part(plain)
    assert list(every.shares) == [SCREEN, "confidence", "max_logit", "energy"]
    assert every.rules is not None


def test_classes_of_inliers_are_their_labels_or_folders(guard):
    images, _ = coloured(2, 6)
    named = replace(open_images(list(images)), ids=["good/red/a.png", "x/blue/b.png"], labels=["good", "red"])
    assert looks_at(guard, named, "inliers").outputs.labels.tolist() == [0, 0]
    assert looks_at(guard, named, "outliers").outputs.labels.tolist() == [-1, -1]
    with pytest.raises(
        InputError, match=r"expected a class of the guard \(red, blue\) as its label or folder; got 'x'"
    ):
        looks_at(guard, pairs(images, ["red", "x"]), "inliers")
    with pytest.raises(InputError, match="got neither"):
        looks_at(guard, images, "inliers")
    with pytest.raises(InputError, match="not one image of the outliers could be read"):
        looks_at(guard, [b"x"], "outliers")
    with pytest.raises(InputError, match="does not speak for itself: give tables"):
        looks_at(replace(guard, classifier=None, by_table=True), images, "inliers")


def test_the_command_measures_a_guard_without_tables(guard, traffic, tmp_path, capsys):
    for name in ("guard", "screen"):
        guard.screen.save(tmp_path / name)
    save_guard(guard, tmp_path / "guard")
    images, classes = coloured(40, 7)
    outliers = traffic[1]
    for folder, image, number in (
        *((f"in/{name}", image, place) for place, (image, name) in enumerate(zip(images, classes, strict=True))),
        *(("out", image, place) for place, image in enumerate(outliers)),
    ):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / folder / f"{number}.png")

    def command(name, *flags):
        sources = [str(tmp_path / one) for one in (name, "in", "out")]
        code = main(["guard-report", *sources, "-o", str(tmp_path / "report"), *map(str, flags)])
        return code, capsys.readouterr()

    code, printed = command("guard", "--alpha", "0.2")
    assert code == 0, printed.err
    assert "each rule is set to turn away 0.2 of these inliers" in " ".join(printed.out.split())
    with (tmp_path / "report" / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 9
    at = guard.at(guard.screen.with_alpha(0.2))
    assert float(rows[-1]["outliers_accepted"]) == pytest.approx(1 - at(outliers).abstained.mean())
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    for rule in (SOFTMAX, *RULES, "<td>guard</td>", "<td>blue</td>", "Inliers that are turned away"):
        assert rule in page
    for name, flags, words in (
        ("screen", (), f"{tmp_path / 'screen'} holds no guard (recondite guard fit makes one)"),
        ("guard", ("--inlier-outputs", "a.csv"), "--inlier-outputs and --outlier-outputs belong together"),
        ("guard", ("--score", "error"), "go with tables of a classifier's outputs"),
        ("guard", ("--reference-outputs", "a.csv"), "go with tables of a classifier's outputs"),
    ):
        code, printed = command(name, *flags)
        assert code == 2
        assert words in printed.err


def test_a_guard_is_measured_by_tables_as_before(guard, traffic, tmp_path, capsys):
    guard.screen.save(tmp_path / "guard")
    save_guard(guard, tmp_path / "guard")
    arguments = ["guard-report", str(tmp_path / "guard"), "-o", str(tmp_path / "report")]
    images, classes = coloured(30, 8)
    for flag, some, labels in (
        ("inlier", images, [("red", "blue").index(name) for name in classes]),
        ("outlier", traffic[1], [-1] * 40),
    ):
        np.save(tmp_path / f"{flag}.npy", some.transpose(0, 2, 3, 1))
        looks = looks_at(guard, some, "outliers")
        outputs: Outputs = looks.outputs
        np.savez(tmp_path / f"{flag}.npz", logits=outputs.logits, labels=np.array(labels))
        arguments += [f"--{flag}s", str(tmp_path / f"{flag}.npy")]
        arguments += [f"--{flag}-outputs", str(tmp_path / f"{flag}.npz")]
    assert main(arguments) == 0, capsys.readouterr().err
    with (tmp_path / "report" / "table.csv").open(encoding="utf-8") as file:
        assert [row["rule"] for row in csv.DictReader(file)][::3] == [NO_GUARD, SOFTMAX, SCREEN]

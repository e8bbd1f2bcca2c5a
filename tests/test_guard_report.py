from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from recondite.cli import main
from recondite.errors import InputError
from recondite.reports.guard_report import NO_GUARD, PREVALENCES, SCREEN, guard_report
from recondite.reports.guard_tables import GRID, bands_of, conclusion
from recondite.screen.classifier_outputs import Outputs, read_outputs
from recondite.statistics.metrics import risk_coverage
from recondite.statistics.scores import Scores


def discrete_curve(suspicion, wrong, seed):
    """Accept one image after the other, ties in random order."""
    order = np.lexsort((np.random.default_rng(seed).random(len(wrong)), suspicion))
    errors = np.cumsum(np.asarray(wrong)[order])
    return errors / np.arange(1, len(wrong) + 1), errors / len(wrong)


def test_areas_are_those_of_accepting_one_image_after_the_other():
    generator = np.random.default_rng(0)
    suspicion = generator.normal(size=3000)
    wrong = generator.random(3000) < 1 / (1 + np.exp(2 - suspicion))
    for values in (suspicion, np.round(suspicion), np.zeros(3000)):
        curve = risk_coverage(values, wrong)
        slow = [discrete_curve(values, wrong, seed) for seed in range(30)]
        assert curve.aurc == pytest.approx(np.mean([risk.mean() for risk, _ in slow]), abs=2e-3)
        assert curve.augrc == pytest.approx(np.mean([errors.mean() for _, errors in slow]), abs=2e-3)
    assert risk_coverage(np.zeros(3000), wrong).aurc == pytest.approx(wrong.mean())


def test_weights_are_as_good_as_copies():
    suspicion, wrong, copies = [1.0, 2.0, 2.0, 3.0], [False, True, False, True], [3, 1, 2, 4]
    one = risk_coverage(suspicion, wrong, copies)
    other = risk_coverage(np.repeat(suspicion, copies), np.repeat(wrong, copies))
    assert one.aurc == pytest.approx(other.aurc)
    assert one.augrc == pytest.approx(other.augrc)
    assert one.coverage.tolist() == pytest.approx(other.coverage.tolist())


def test_a_perfect_order_and_its_reverse():
    wrong = np.arange(100) >= 80
    best, worst = risk_coverage(np.arange(100), wrong), risk_coverage(-np.arange(100), wrong)
    assert best.coverage_at(0) == 0.8
    assert best.coverage_at(0.05) == 0.84
    assert worst.coverage_at(0.05) == 0
    assert best.augrc == pytest.approx(0.2**2 / 2)
    assert best.aurc < 0.2 < worst.aurc
    for curve in (best, worst):
        assert curve.risk[-1] == pytest.approx(0.2)
    assert risk_coverage([1.0, np.inf], [False, True]).coverage_at(0.05) == 0.5


@pytest.mark.parametrize(
    "arguments", [([], []), ([np.nan], [True]), ([1.0], [True, False]), ([1.0], [True], [0.0]), ([1.0], [True], [1, 1])]
)
def test_curves_of_nothing_are_refused(arguments):
    with pytest.raises(InputError):
        risk_coverage(*arguments)


@pytest.fixture(scope="module")
def traffic(screens, digits):
    """Normal digits, noise, and a classifier that is always sure and right in 90 %."""
    generator = np.random.default_rng(1)
    images = {"normal": digits[1400:1700], "noise": generator.integers(0, 256, (200, 8, 8), dtype=np.uint8)}
    found = {}
    for name, some in images.items():
        scores = screens("pca").predict(some)
        labels = generator.integers(0, 5, len(some)) if name == "normal" else np.full(len(some), -1)
        right = generator.random(len(some)) < 0.9
        logits = np.eye(5)[np.where(right, labels, (labels + 1) % 5)] * 4
        features = generator.normal(size=(len(some), 6)) + (0 if name == "normal" else 3)
        found[name] = images[name], scores, Outputs(ids=scores.ids, logits=logits, labels=labels, features=features)
    return found


def measured(screens, traffic, **settings):
    (_, a, outputs_a), (_, b, outputs_b) = traffic["normal"], traffic["noise"]
    return guard_report(screens("pca"), a, b, outputs_a, outputs_b, **settings)


def test_each_number_follows_from_its_definition(screens, traffic):
    report = measured(screens, traffic, alpha=0.1)
    (_, a, outputs), (_, b, _) = traffic["normal"], traffic["noise"]
    row = next(row for row in report.rows if row["rule"] == SCREEN and row["prevalence"] == 0.1)
    threshold = np.sort(a.instance_score)[269]
    kept, other = a.instance_score <= threshold, b.instance_score <= threshold
    assert (~kept).sum() == 30
    right = outputs.logits.argmax(1) == outputs.labels
    assert row["false_rejections"] == pytest.approx(np.mean(~kept[right]))
    assert row["outliers_accepted"] == other.mean() < 0.05
    given = 0.9 * kept.mean() + 0.1 * other.mean()
    assert row["labels_given_to_outliers"] == pytest.approx(0.1 * other.mean() / given)
    assert row["risk"] == pytest.approx((0.9 * np.mean(kept & ~right) + 0.1 * other.mean()) / given)
    assert row["accuracy_accepted"] == pytest.approx(right[kept].mean())
    bare = next(row for row in report.rows if row["rule"] == NO_GUARD and row["prevalence"] == 0.5)
    assert bare["outliers_accepted"] == 1
    assert bare["false_rejections"] == 0
    assert bare["labels_given_to_outliers"] == 0.5
    assert bare["aurc"] == pytest.approx(1 - right.mean() / 2)
    fewer = next(row for row in report.rows if row["rule"] == NO_GUARD and row["prevalence"] == 0.1)
    assert fewer["aurc"] == pytest.approx(1 - 0.9 * right.mean())
    assert row["aurc"] < fewer["aurc"]


def test_bands_hold_the_curve_and_classes_and_conclusion_follow_from_the_table(screens, traffic):
    report = measured(screens, traffic, alpha=0.1)
    for key, bands in report.bands.items():
        curve = report.curves[key]
        risk = np.interp(GRID, curve.coverage, curve.risk)
        assert np.mean((bands.low <= risk + 1e-9) & (risk <= bands.high + 1e-9)) > 0.95, key
        low, high = bands.interval
        assert low < curve.augrc < high
    (_, a, outputs), (_, b, of_noise) = traffic["normal"], traffic["noise"]
    threshold = np.sort(a.instance_score)[269]
    own = [row for row in report.classes if row["rule"] == SCREEN]
    assert sum(row["images"] for row in own) == 300
    for row in own:
        right = (outputs.labels == row["class"]) & (outputs.logits.argmax(1) == row["class"])
        assert row["false_rejections"] == pytest.approx(np.mean(a.instance_score[right] > threshold))
        given = (b.instance_score <= threshold) & (of_noise.logits.argmax(1) == row["class"])
        assert row["outliers_labelled"] == pytest.approx(given.mean())
    best = next(row for row in report.rows if row["rule"] == SCREEN and row["prevalence"] == 0.1)
    assert "10% outliers in the traffic screen makes the fewest accepted errors" in report.conclusion
    assert f"{best['risk']:.1%} are wrong, and" in report.conclusion
    assert "max softmax" not in report.conclusion


def test_a_screen_that_is_worth_nothing_is_told():
    draws = np.random.default_rng(0)
    rules = {NO_GUARD: (np.zeros(80), np.zeros(40)), SCREEN: (draws.normal(size=80), draws.normal(size=40))}
    bands = bands_of(rules, np.zeros(80, dtype=bool), 0.1)
    rows = [{"rule": name, "prevalence": 0.1, "augrc": float(bands[name].augrc.mean()), "risk": 0.1} for name in rules]
    assert "no rule is better than giving every image its label" in conclusion(rows, bands, NO_GUARD)


def test_rules_are_combined_where_there_is_a_calibration(screens, traffic, digits):
    scores = screens("pca").predict(digits[:300])
    generator = np.random.default_rng(3)
    outputs = Outputs(
        ids=scores.ids,
        logits=generator.normal(size=(300, 5)),
        labels=np.zeros(300, dtype=np.int64),
        features=generator.normal(size=(300, 6)),
    )
    assert {row["rule"] for row in measured(screens, traffic).rows} == {NO_GUARD, "max softmax", SCREEN}
    report = measured(screens, traffic, calibration=(scores, outputs), reference=outputs)
    names = list(dict.fromkeys(row["rule"] for row in report.rows))
    assert names[-2:] == ["screen + softmax", "screen + softmax + features"]
    assert "feature neighbours" in names
    assert len(report.rows) == len(names) * len(PREVALENCES)
    last = report.rows[-1]
    assert last["outliers_accepted"] < 0.2


def test_an_unreadable_image_is_turned_away_first(screens, traffic):
    images, _, outputs = traffic["normal"]
    a = screens("pca").predict([b"x", *images[1:]])
    report = guard_report(screens("pca"), a, traffic["noise"][1], outputs, traffic["noise"][2])
    curve = report.curves[SCREEN, 0.5]
    assert np.isfinite(curve.aurc)
    assert curve.coverage[-1] == 1
    assert curve.coverage[-1] - curve.coverage[-2] == pytest.approx(0.5 / 300)  # the last step is that image


def test_outputs_come_back_from_every_kind_of_file(tmp_path, traffic):
    outputs = traffic["normal"][2]
    arrays = {"logits": outputs.logits, "labels": outputs.labels, "features": outputs.features}
    np.savez(tmp_path / "a.npz", **arrays, ids=np.array(outputs.ids))
    save_file(arrays, tmp_path / "a.safetensors")
    header = ["id", "label", *(f"logit.{k}" for k in range(5)), *(f"feature.{k}" for k in range(6))]
    lines = [
        ",".join([name, "" if label < 0 else str(label), *map(repr, map(float, [*logits, *features]))])
        for name, label, logits, features in zip(
            outputs.ids, outputs.labels, outputs.logits, outputs.features, strict=True
        )
    ]
    (tmp_path / "a.csv").write_text("\n".join([",".join(header), *lines]))
    from recondite.data.tables import write_table

    rows = [
        {"id": name, "label": int(label), **dict(zip(header[2:], map(float, [*logits, *features]), strict=True))}
        for name, label, logits, features in zip(
            outputs.ids, outputs.labels, outputs.logits, outputs.features, strict=True
        )
    ]
    for name in ("a.parquet", "a.jsonl"):
        write_table(tmp_path / name, rows)
    for name in ("a.npz", "a.safetensors", "a.csv", "a.parquet", "a.jsonl"):
        found = read_outputs(tmp_path / name)
        assert found.ids == outputs.ids
        for field in ("logits", "labels", "features"):
            assert np.array_equal(getattr(found, field), getattr(outputs, field))


def test_files_that_are_no_outputs_are_refused(tmp_path):
    def refused(name, message):
        with pytest.raises(InputError, match=message):
            read_outputs(tmp_path / name)

    refused("none.npz", "no such file")
    (tmp_path / "a.pkl").write_bytes(b"x")
    refused("a.pkl", "expected a classifier's outputs as")
    for name in ("a.npz", "b.safetensors"):
        (tmp_path / name).write_bytes(b"nonsense")
    refused("a.npz", "not a readable array file")
    np.savez(tmp_path / "o.npz", logits=np.array([object()], dtype=object))
    refused("o.npz", "not a readable array file")
    for arrays, message in (
        ({"x": np.zeros(3)}, "holds no logits"),
        ({"logits": np.zeros(3)}, "expected logits"),
        ({"logits": np.full((3, 2), np.nan)}, "finite"),
        (
            {"logits": np.zeros((3, 2)), "labels": np.array([0, 1, 2])},
            "expected labels below 2, numbers of the logits; got 2",
        ),
        ({"logits": np.zeros((3, 2)), "ids": np.array(["a", "a", "b"])}, "different ids"),
        ({"logits": np.zeros((3, 2)), "features": np.zeros((2, 4))}, "expected features"),
    ):
        np.savez(tmp_path / "bad.npz", **arrays)
        refused("bad.npz", message)
    (tmp_path / "bad.csv").write_text("id,label,logit.0,logit.1\na,0,1,much\n")
    refused("bad.csv", "expected a number; got 'much'")
    few = Outputs(ids=("a",), logits=np.zeros((1, 2)), labels=np.zeros(1, dtype=np.int64))
    with pytest.raises(InputError, match="lack 1 of 2 images; the first: 'b'"):
        few.select(["a", "b"])


def test_the_command_writes_tables_and_a_page(screens, traffic, tmp_path, capsys):
    screens("pca").save(tmp_path / "screen")
    for name, (images, scores, outputs) in traffic.items():
        np.save(tmp_path / f"{name}.npy", images)
        np.savez(tmp_path / f"{name}.npz", logits=outputs.logits, labels=outputs.labels)
        from recondite.data.tables import write_table

        write_table(tmp_path / f"{name}.csv", scores.records())
    tables = []
    for suffix in ("npy", "csv"):
        arguments = ["guard-report", str(tmp_path / "screen"), "-o", str(tmp_path / suffix)]
        for flag, name in (("inlier", "normal"), ("outlier", "noise")):
            arguments += [f"--{flag}s", str(tmp_path / f"{name}.{suffix}")]
            arguments += [f"--{flag}-outputs", str(tmp_path / f"{name}.npz")]
        assert main(arguments) == 0, capsys.readouterr().err
        tables.append((tmp_path / suffix / "table.csv").read_text())
        page = (tmp_path / suffix / "report.html").read_text()
        assert page.count("<svg") == len(PREVALENCES)
        assert "max softmax" in page
        assert "max softmax" in (tmp_path / suffix / "curves.csv").read_text()
        assert (tmp_path / suffix / "classes.csv").read_text().count("\n") == 1 + 3 * 5
        assert "What each class pays" in page
        assert "outliers in the traffic" in page
        assert ("Inliers that are turned away" in page) == (suffix == "npy")  # a table has no pictures
    assert tables[0] == tables[1]
    assert "300 inliers" in capsys.readouterr().out
    assert main([*arguments, "--calibration", "x"]) == 2


def test_scores_need_not_carry_statistics(screens, traffic):
    a, b = (
        Scores(ids=part[1].ids, instance_score=part[1].instance_score, errors=part[1].errors)
        for part in (traffic["normal"], traffic["noise"])
    )
    plain = guard_report(screens("pca"), a, b, traffic["normal"][2], traffic["noise"][2])
    assert plain.rows == measured(screens, traffic).rows


def test_inliers_without_a_true_class_are_refused(screens, traffic):
    """All of them would count as mistakes, and the conclusion be that no rule is worth anything."""
    (_, a, outputs_a), (_, b, outputs_b) = traffic["normal"], traffic["noise"]
    some = replace(outputs_a, labels=np.where(np.arange(300) < 7, -1, outputs_a.labels))
    with pytest.raises(InputError, match=r"expected the true class of each inlier, .*; 7 of 300 have none"):
        guard_report(screens("pca"), a, b, some, outputs_b)

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import recondite
from recondite.data.datasets import open_images
from recondite.errors import InputError
from recondite.reports.evaluation import evaluate
from recondite.screen.shown import rule_rows
from recondite.statistics.metrics import auroc, average_precision, best_f1


def values(rows):
    return {row["measure"]: row["value"] for row in rows}


def test_measures_are_those_of_the_scores(screens, digits):
    screen = screens("autoencoder")
    noise = np.random.default_rng(0).random((50, 1, 8, 8), dtype=np.float32)
    found = values(evaluate(screen, digits[1400:], noise))
    a, b = screen.predict(digits[1400:]), screen.predict(noise)
    assert found["AUROC"] == f"{auroc(a.instance_score, b.instance_score):.4f}"
    assert found["realised false-alarm rate"] == f"{a.is_outlier.mean():.4f}"
    assert found["outliers flagged"] == f"{b.is_outlier.mean():.4f}"
    assert found["rule conformal, alpha 0.05"] == found["realised false-alarm rate"]
    assert float(found["outliers missed at 95 % of inliers kept"]) <= 0.05


def test_unreadable_images_count_as_flagged_and_are_named(screens, digits):
    rows = evaluate(screens("pca"), [*digits[1400:1450], b"x"], digits[:50, ::-1].copy())
    found = values(rows)
    assert found["unreadable inliers"] == "1"
    assert "of 51)" in next(row["note"] for row in rows if row["measure"] == "realised false-alarm rate")
    with pytest.raises(InputError, match="not one outlier image"):
        evaluate(screens("pca"), digits[1400:1450], [b"x"])


def test_mvtec_folders_are_split_into_their_roles(screens, digits, tmp_path):
    for name, images in (("train/good", digits[:2]), ("test/good", digits[:3]), ("test/dent", digits[:4, ::-1])):
        (tmp_path / name).mkdir(parents=True)
        for index, image in enumerate(images):
            Image.fromarray(np.ascontiguousarray(image)).save(tmp_path / name / f"{index}.png")
    notes = {row["measure"]: row["note"] for row in evaluate(screens("pca"), tmp_path, tmp_path)}
    assert "of 3)" in notes["realised false-alarm rate"]
    assert "of 4)" in notes["outliers flagged"]


def test_every_rule_stands_beside_the_conformal_one(screens):
    screen = screens("pca")
    names = [row["rule"] for row in rule_rows(screen, screen.calibrator.scores)]
    assert names == ["conformal, alpha 0.05", "mean + 1 std", "mean + 2 std", "mean + 3 std", "percentile 95"]


def test_kinds_of_outliers_have_rows_also_where_the_group_is_named(digits, folder):
    screen = recondite.fit(digits[40:340], detector="pca", latent_size=8).recalibrated(folder, by_folder=True)
    outliers = [(digits[place, ::-1].copy(), ("dent", "scratch")[place % 2]) for place in range(400, 420)]
    found = values(evaluate(screen, digits[420:460], outliers, group="even"))
    assert {"AUROC, dent", "AUROC, scratch", "best F1, dent"} <= {*found}
    assert not any("even" in name for name in found)


def test_each_kind_of_outlier_has_a_row_of_its_own(screens, digits):
    outliers = [(digits[place, ::-1].copy(), "flipped") for place in range(1400, 1430)]
    outliers += [(np.zeros((8, 8), np.uint8), "black")]
    screen = screens("pca")
    found = values(evaluate(screen, digits[1430:], outliers))
    normal = screen.predict(digits[1430:]).instance_score
    for kind, some in (("flipped", outliers[:30]), ("black", outliers[30:])):
        scores = screen.predict([image for image, _ in some]).instance_score
        assert found[f"AUROC, {kind}"] == f"{auroc(normal, scores):.4f}"
        assert found[f"average precision, {kind}"] == f"{average_precision(normal, scores):.4f}"
        assert found[f"best F1, {kind}"] == f"{best_f1(normal, scores)[0]:.4f}"
        caught, false = (scores > screen.threshold).sum(), (normal > screen.threshold).sum()
        assert found[f"F1, {kind}"] == f"{2 * caught / (caught + false + len(scores)):.4f}"
    assert "AUROC, flipped" not in values(evaluate(screen, digits[1430:], outliers[:30]))


def test_f1_at_the_threshold_has_an_interval(screens, digits):
    rows = {row["measure"]: row for row in evaluate(screens("pca"), digits[1400:], digits[:50, ::-1].copy())}
    low, high = map(float, re.search(r"threshold; 95 % interval (\S+) to (\S+)$", rows["F1"]["note"]).groups())
    assert low < float(rows["F1"]["value"]) < high


def test_copies_and_what_is_named_do_not_narrow_intervals(screens, digits):
    """Forty frames of a part counted as forty parts."""
    screen, outliers = screens("pca"), digits[:25, ::-1].copy()
    once = {row["measure"]: row for row in evaluate(screen, digits[1430:1480], outliers)}
    for fewest, again in (
        (45, evaluate(screen, np.repeat(digits[1430:1480], 8, 0), np.repeat(outliers, 8, 0))),
        (
            50,
            evaluate(
                screen,
                replace(
                    open_images(digits[1430:1480].repeat(8, 0)), ids=[f"part{n // 8}_{n % 8}.png" for n in range(400)]
                ),
                replace(open_images(outliers.repeat(8, 0)), ids=[f"bad{n // 8}_{n % 8}.png" for n in range(200)]),
                group_by="prefix",
            ),
        ),
    ):
        found = {row["measure"]: row for row in again}
        assert fewest <= int(found["units of inliers"]["value"]) <= 50  # digits of 8 x 8 may be much alike
        assert fewest // 2 <= int(found["units of outliers"]["value"]) <= 25
        for name in ("AUROC", "average precision", "best F1", "F1"):
            assert found[name]["value"] == once[name]["value"]
            ends = [
                [float(one) for one in re.search(r"interval (\S+) to (\S+)$", rows[name]["note"]).groups()]
                for rows in (found, once)
            ]
            assert ends[0] == pytest.approx(ends[1], abs=0.03), name
    counted = evaluate(screen, np.repeat(digits[1430:1480], 8, 0), outliers, group_by="none")
    assert "units of inliers" not in values(counted)

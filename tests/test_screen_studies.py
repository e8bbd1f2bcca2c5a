"""Studies of a finished screen, and of linear methods."""

import csv
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import recondite
from recondite.cli import main
from recondite.data.datasets import ImageSet
from recondite.errors import InputError
from recondite.perturbations import DEFECTS, corrupted, masked
from recondite.reports.page import TablePage
from recondite.statistics.calibration import Calibrator
from recondite.studies import thresholds
from recondite.studies.latent import denoising_study, interpolation_study
from recondite.studies.latent_map import latent_map_study
from recondite.studies.linear import linear_study
from recondite.studies.masks import feature_share_study, mask_size_study, microscope_study
from recondite.studies.output import in_batches, write_study
from recondite.studies.severity import defects_study, severity_study
from recondite.studies.thresholds import thresholds_study


@pytest.fixture(scope="module")
def screen(screens):
    return screens("pca")


@pytest.fixture(scope="module")
def fresh(digits):
    return digits[1400:]


def written(folder):
    """The rows of table.csv; every figure is there twice and the page stands alone."""
    figures = sorted((folder / "figures").iterdir())
    assert {path.suffix for path in figures} == {".png", ".svg"}
    for path in figures:
        if path.suffix == ".png":
            assert np.asarray(Image.open(path).convert("L")).std() > 0
    page = (folder / "study.html").read_text()
    assert page.count("<svg") == len(figures) // 2
    assert not re.search(r"https?://(?!www\.w3\.org|purl\.org|creativecommons|matplotlib)", page)
    with (folder / "table.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_chunks_of_any_length_become_full_batches_in_order():
    numbers = np.arange(100, dtype=np.float32).reshape(-1, 1, 1, 1)
    parts = list(in_batches(np.split(numbers, [1, 3, 40, 41, 90]), 64))
    assert [len(part) for part in parts] == [64, 36]
    np.testing.assert_array_equal(np.concatenate(parts), numbers)


def test_mask_size_scores_are_those_of_the_detector_and_rise(screen, fresh, tmp_path):
    rows = mask_size_study(screen, fresh, tmp_path, sizes=[2, 4, 8], masks=5, count=20, add=True)
    assert [row["size"] for row in rows] == [0, 2, 4, 8]
    means = [row["mean"] for row in rows]
    assert means == sorted(means)
    assert rows[-1]["flagged"] > 0.9
    assert len(written(tmp_path)) == 4
    with (tmp_path / "images.csv").open(newline="") as stream:
        each = {(row["id"], row["size"]): float(row["mean"]) for row in csv.DictReader(stream)}
    ids = sorted({name for name, _ in each})
    assert len(ids) == 20
    # The last image's masks of 4 x 4, made and scored one by one.
    image = fresh[int(ids[-1])][None, None] / np.float32(255)
    copies = masked(np.repeat(image, 5, axis=0), 4, add=True, first=19 * 5).images
    alone = [screen.detector.score(copy[None]).instance_score[0] for copy in copies]
    assert each[ids[-1], "4"] == np.mean(alone)
    clean = screen.detector.score(image).instance_score[0]
    assert each[ids[-1], "0"] == clean


def test_patches_come_from_other_images_and_other_scores_can_be_measured(screen, fresh, tmp_path):
    rows = mask_size_study(screen, fresh, tmp_path, sizes=[3], masks=2, count=5, kind="patch", score="auto")
    assert rows[1]["mean"] > rows[0]["mean"]


def test_a_share_is_pooled_as_the_detector_pools_it(screen, fresh, tmp_path):
    rows = feature_share_study(screen, fresh, tmp_path, sizes=[2, 4], shares=[20, 100], masks=3, count=10)
    assert [(row["size"], row["top_percent"]) for row in rows] == [(s, p) for s in (0, 2, 4) for p in (20, 100)]
    kept = np.sort(np.random.default_rng(0).permutation(len(fresh))[:10])
    for row in rows[:2]:
        scores = screen.detector.score(fresh[kept], top_percent=row["top_percent"]).instance_score
        assert row["mean"] == pytest.approx(scores.mean(), rel=1e-12)
        assert row["rise"] == 1
    assert len(written(tmp_path)) == 6


def test_masks_that_nobody_named_fit_into_the_images(screen, fresh, tmp_path):
    for study, sizes in ((mask_size_study, [0, 2, 4, 6, 8]), (microscope_study, [0, 4, 8])):
        rows = study(screen, fresh, tmp_path / study.__name__, masks=1)
        assert [row["size"] for row in rows] == sizes


def test_the_microscope_shows_each_size(screen, fresh, tmp_path):
    rows = microscope_study(screen, fresh[:1], tmp_path, sizes=[2, 5], masks=4)
    assert rows[0]["mean"] == rows[0]["drawn"] == screen.detector.score(fresh[:1]).instance_score[0]
    assert rows[2]["lowest"] <= rows[2]["drawn"] <= rows[2]["highest"]
    assert len(written(tmp_path)) == 3


def test_severity_is_measured_against_the_same_images(screen, fresh, tmp_path):
    rows = severity_study(screen, fresh, tmp_path, corruptions=["contrast", "gaussian-noise"], count=50)
    assert len(written(tmp_path)) == len(rows) == 12
    noise = [row["mean"] for row in rows if row["corruption"] == "gaussian-noise"]
    assert noise[1:] == sorted(noise[1:])
    assert noise[5] > 1.5 * noise[0]
    assert [row["auroc"] for row in rows if not row["severity"]] == [0.5, 0.5]
    kept = np.sort(np.random.default_rng(0).permutation(len(fresh))[:50])
    faded = corrupted(fresh[kept][:, None] / np.float32(255), "contrast", 4)
    (row,) = [row for row in rows if row["corruption"] == "contrast" and row["severity"] == 4]
    assert row["mean"] == pytest.approx(screen.detector.score(faded).instance_score.mean(), rel=1e-12)
    with pytest.raises(InputError, match="saturation"):
        severity_study(screen, fresh, tmp_path, corruptions=["saturation"])


def test_defects_are_found_better_than_by_chance(screen, fresh, tmp_path):
    rows = defects_study(screen, fresh, tmp_path, count=60)
    assert [row["defect"] for row in rows] == list(DEFECTS)
    for row in rows[:3]:  # the others are hard to see
        assert row["pixel_auroc"] > 0.6
        assert 0 < row["per_region_overlap"] < 1
    assert rows[0]["above_inside"] > 5 * rows[0]["above_outside"]
    assert len(written(tmp_path)) == len(DEFECTS)
    older = defects_study(replace(screen, peaks=None), fresh, tmp_path, count=5)
    assert {row["above_inside"] for row in older} == {None}


def test_interpolation_begins_and_ends_at_the_reconstructions(screen, fresh, tmp_path):
    images = ImageSet(fresh[:9], ids=list("abcdefghi"), labels=["x"] * 8 + ["y"])
    rows = interpolation_study(screen, images, tmp_path, first="c", second="a", steps=3)
    ends = np.clip(screen.detector.reconstruct(fresh[[2, 0]]), 0, 1)
    scores = screen.detector.score(ends).instance_score
    assert [rows[0]["score"], rows[-1]["score"]] == pytest.approx(list(scores), rel=1e-3, abs=1e-9)
    assert [row["share"] for row in rows] == [0, 0.5, 1]
    interpolation_study(screen, images, tmp_path, first="c")
    assert "From c to i" in (tmp_path / "study.html").read_text()  # the only one with another label
    for wrong in ({"first": "z"}, {"steps": 1}):
        with pytest.raises(InputError):
            interpolation_study(screen, images, tmp_path, **wrong)


def test_denoising_is_measured_against_the_clean_image(screen, fresh, tmp_path):
    rows = denoising_study(screen, fresh, tmp_path, levels=[0.1, 0.5], count=40)
    assert rows[1]["error_after"] < rows[1]["error_before"]
    assert rows[0]["error_before"] < rows[1]["error_before"]
    assert rows[0]["psnr_before"] > rows[1]["psnr_before"]
    assert rows[0]["ssim_before"] > rows[1]["ssim_before"]
    # Half of the noise on black and on white is cut off.
    assert 0.5 * 0.1**2 < rows[0]["error_before"] < 0.1**2
    assert len(written(tmp_path)) == 2


@pytest.mark.parametrize("with_opentsne", [True, False])
def test_a_map_keeps_classes_together_and_places_new_images_near_their_own(
    screens, digits, tmp_path, with_opentsne, monkeypatch
):
    from sklearn.datasets import load_digits
    from sklearn.neighbors import KNeighborsClassifier

    if with_opentsne:
        pytest.importorskip("openTSNE")
    else:
        monkeypatch.setattr("recondite.statistics.embedding.find_spec", lambda _: None)
    labels = [str(label) for label in load_digits().target]
    images = ImageSet(digits, ids=[str(i) for i in range(len(digits))], labels=labels)
    new = images.select(range(1500, 1560))
    rows = latent_map_study(screens("pca"), images.select(range(250)), tmp_path, new=new)
    places = np.array([(row["x"], row["y"]) for row in rows])
    names, placed = np.array([row["label"] for row in rows]), np.array([row["placed"] for row in rows])
    assert placed.sum() == 60
    near = KNeighborsClassifier(5).fit(places[~placed], names[~placed])
    assert near.score(places[~placed], names[~placed]) > 0.8
    assert near.score(places[placed], names[placed]) > 0.6
    assert len(written(tmp_path)) == 310


@pytest.mark.slow
def test_threshold_rules_are_compared_on_fresh_images(screen, fresh, tmp_path):
    fresh = fresh[:150]
    rows = thresholds_study(screen, fresh, tmp_path, outliers=fresh[:, ::-1].copy())
    by_rule = {row["rule"]: row for row in rows}
    scores = screen.detector.score(fresh).instance_score
    conformal = by_rule["conformal, alpha 0.05"]
    assert conformal["threshold"] == screen.with_score("error").threshold
    assert conformal["false_alarms"] == np.mean(scores > conformal["threshold"])
    assert by_rule["mean + 1 std"]["caught"] > by_rule["mean + 3 std"]["caught"]
    assert len(written(tmp_path)) == 5
    assert thresholds_study(screen, fresh[:1], tmp_path / "alone")[0]["caught"] is None


def test_thresholds_by_hand_and_of_whole_validation_batches_are_compared_too(digits, tmp_path):
    settings = {"detector": "autoencoder", "latent_size": 6, "width": 8, "epochs": 3, "batch_size": 32}
    made = recondite.fit(digits[:1000], validation=digits[1000:1400], alpha=0.1, keep_best=False, **settings)
    made.save(tmp_path / "screen")
    judge = recondite.load(tmp_path / "screen")
    found = thresholds_study(judge, digits[1400:1500], tmp_path / "study", threshold=0.045)
    by_rule = {row["rule"]: row for row in found}
    # The rule of the document: mean + standard deviation of the batch means of validation, with the weights at the end.
    errors = made.detector.score(digits[1000:1400]).instance_score[np.random.default_rng(0).permutation(400)]
    means = [errors[start : start + 32].mean() for start in range(0, 400, 32)]
    rule = by_rule["mean + 1 std of validation batches"]
    assert len(means) == 13
    assert rule["threshold"] == pytest.approx(np.mean(means) + np.std(means), rel=1e-5)
    assert rule["threshold"] < by_rule["mean + 1 std"]["threshold"]
    fresh = made.detector.score(digits[1400:1500]).instance_score
    assert by_rule["by hand"]["threshold"] == 0.045
    for row in (rule, by_rule["by hand"]):
        assert row["false_alarms"] == np.mean(fresh > row["threshold"])
    figures = {path.stem for path in (tmp_path / "study" / "figures").iterdir()}
    assert {"losses-all", "losses-validation"} <= figures
    # Judged by something else, losses of the network are no threshold.
    other = thresholds_study(judge, digits[1400:1450], tmp_path / "other", score="brightness")
    assert "mean + 1 std of validation batches" not in {row["rule"] for row in other}
    with pytest.raises(InputError, match="finite threshold"):
        thresholds_study(judge, digits[1400:1450], tmp_path / "no", threshold=float("nan"))


def test_losses_of_another_kind_are_no_threshold(screens, digits, tmp_path):
    """A variational autoencoder is validated by its ELBO and judged by its error."""
    judge = screens("vae")
    assert len(judge.detector.history.losses["validation"]) == 2
    rows = thresholds_study(judge, digits[1400:1450], tmp_path)
    assert all("batches" not in row["rule"] for row in rows)


@pytest.mark.slow
def test_nothing_linear_beats_pca(digits, tmp_path):
    rows = linear_study(digits, tmp_path, latent_size=6, epochs=12, batch_size=32, learning_rate=1e-2)
    pca, linear, convolutional = (row["learnt"] for row in rows)
    assert pca < linear < 1.3 * pca
    assert convolutional < 0.1
    assert len(written(tmp_path)) == 3


@pytest.mark.parametrize(
    ("study", "options"),
    [
        (mask_size_study, {"sizes": [9]}),
        (mask_size_study, {"sizes": [3, 2]}),
        (mask_size_study, {"masks": 0}),
        (mask_size_study, {"count": 0}),
        (mask_size_study, {"score": "beauty"}),
        (feature_share_study, {"shares": [0]}),
        (severity_study, {"corruptions": ["melting"]}),
        (denoising_study, {"levels": [0]}),
        (latent_map_study, {"count": 5}),
    ],
)
def test_what_cannot_be_measured_is_refused(screen, fresh, tmp_path, study, options):
    with pytest.raises(InputError):
        study(screen, fresh, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_unreadable_images_are_left_out_and_named(screen, folder, tmp_path):
    (folder / "even" / "000.png").write_bytes(b"not a picture")
    mask_size_study(screen, folder, tmp_path / "out", sizes=[2], masks=1)
    assert "1 unreadable image was left out, the first: even/000.png" in (tmp_path / "out" / "study.html").read_text()


def test_the_study_of_thresholds_names_what_was_left_out(screen, folder, tmp_path):
    (folder / "even" / "000.png").write_bytes(b"not a picture")
    thresholds_study(screen, folder, tmp_path / "rules", outliers=folder)
    page = (tmp_path / "rules" / "study.html").read_text()
    assert "2 unreadable images were left out, the first: even/000.png" in page


@pytest.fixture
def grouped(screen):
    scores = screen.calibrator.scores
    groups = tuple("even" if place % 2 else "odd" for place in range(len(scores)))
    return replace(screen, calibrator=Calibrator(scores, groups))


def test_studies_of_a_screen_with_groups_say_by_which_they_go(grouped, folder, tmp_path):
    mask_size_study(grouped, folder, tmp_path / "masks", sizes=[2], masks=1)
    page = (tmp_path / "masks" / "study.html").read_text()
    assert "What is flagged is by the calibration of group odd, for all images" in page


def test_reliability_is_by_the_calibration_of_each_images_own_group(grouped, fresh, tmp_path, monkeypatch):
    apart = np.array(grouped.calibrator.groups) == "odd"
    scores = grouped.calibrator.scores + 100 * apart  # the group that comes first
    judge = replace(grouped, calibrator=Calibrator(scores, grouped.calibrator.groups))
    drawn = []
    plot = thresholds.plot_reliability
    monkeypatch.setattr(thresholds, "plot_reliability", lambda *given: drawn.append(given) or plot(*given))
    labels = [("even", "odd", "of no group")[place % 3] for place in range(len(fresh))]
    thresholds_study(judge, list(zip(fresh, labels, strict=True)), tmp_path, score=judge.score)
    ((alphas, seen, *_),) = drawn
    found = judge.calibrator
    scores = judge.predict(fresh).instance_score[np.array(labels) == "even"]
    count = sum(label != "of no group" for label in labels)
    expected = [found.is_outlier(scores, alpha, ["even"] * len(scores)).sum() / count for alpha in alphas]
    assert seen == pytest.approx(expected)
    assert seen[-1] > 0.05


def test_no_rule_is_said_to_promise_where_each_group_has_a_threshold(grouped, folder, tmp_path):
    rules = [row["rule"] for row in thresholds_study(grouped, folder, tmp_path / "rules")]
    assert rules[0] == "mean + 1 std"
    assert "rule flags" not in (tmp_path / "rules" / "study.html").read_text()


@pytest.mark.slow
def test_the_commands(screen, tmp_path, capsys):
    screen.save(tmp_path / "screen")
    where = str(tmp_path / "screen")
    for name, *more in (
        ("mask-size", "--sizes", "2,4", "--masks", "2", "--count", "5"),
        ("top-percent", "--sizes", "2", "--masks", "2", "--count", "5"),
        ("microscope", "--sizes", "2"),
        ("severity", "--corruptions", "fog", "--count", "10"),
        ("defects", "--count", "20"),
        ("interpolation", "--steps", "3"),
        ("denoising", "--count", "10", "--levels", "0.2"),
        ("latent-map", "--count", "60", "--no-thumbnails"),
        ("thresholds",),
    ):
        output = tmp_path / name
        assert main(["study", name, where, "digits/test", "-o", str(output), *more]) == 0, capsys.readouterr().err
        assert written(output)
        assert "study.html" in capsys.readouterr().out
    assert main(["study", "linear", "digits/test", "-o", str(tmp_path / "linear"), "--epochs", "1"]) == 0
    assert main(["study", "mask-size", where, "digits/test", "-o", str(tmp_path / "x"), "--sizes", "two"]) == 2


def test_a_figure_is_the_same_file_each_time(tmp_path):
    for folder in "ab":
        ax = Figure().subplots()
        ax.plot([1, 3, 2], marker="o")
        write_study(tmp_path / folder, TablePage("", "", [], [], ""), [{"a": 1}], {"plot": ax})
    first, second = ((tmp_path / folder / "figures/plot.svg").read_bytes() for folder in "ab")
    assert first == second

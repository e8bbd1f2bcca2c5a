from functools import partial

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score

import recondite
from recondite.cli import main
from recondite.data.datasets import open_images
from recondite.data.truth import check_truth, mask_of_defect, masks_beside
from recondite.errors import InputError
from recondite.perturbations import defective
from recondite.reports.evaluation import localisation, located_maps
from recondite.statistics.localisation import (
    _binned,
    _checked,
    _overlaps,
    localisation_measures,
    measures_by_kind,
    per_region_overlap,
    pixel_auroc,
)


@pytest.fixture
def inspected(tmp_path, digits):
    """An MVTec-style folder of scratched digits, their masks twice as large, and the scratched digits."""
    found = defective(digits[1500:1530, None] / np.float32(255), "scratch")
    changed = (found.images * 255).round().astype(np.uint8)
    for name in ("train/good", "test/good", "test/scratch", "ground_truth/scratch"):
        (tmp_path / name).mkdir(parents=True)
    for index in range(30):
        Image.fromarray(digits[1530 + index]).save(tmp_path / "test" / "good" / f"{index:03d}.png")
        Image.fromarray(changed[index, 0]).save(tmp_path / "test" / "scratch" / f"{index:03d}.png")
        mask = np.kron(found.truth[index], np.ones((2, 2))).astype(np.uint8) * 255
        Image.fromarray(mask).save(tmp_path / "ground_truth" / "scratch" / f"{index:03d}_mask.png")
    return tmp_path, changed, found.truth


def test_measures_are_those_of_the_maps_and_the_masks(screens, digits, inspected):
    folder, changed, truth = inspected
    screen = screens("pca")
    rows = localisation(screen, folder, folder, folder / "ground_truth")
    images = np.concatenate([digits[1530:1560], changed[:, 0]])
    maps = screen.detector.score(images, feature_score=True).feature_score.mean(axis=1)
    masks = np.concatenate([np.zeros_like(truth), truth])
    values = {row["measure"]: row["value"] for row in rows}
    assert values["pixel AUROC"] == f"{pixel_auroc(maps, masks):.4f}"
    assert values["AU-PRO (.3)"] == f"{per_region_overlap(maps, masks):.4f}"
    flagged = maps > screen.feature_threshold
    assert values["pixel F1"] == f"{f1_score(masks.ravel(), flagged.ravel()):.4f}"
    assert float(rows[0]["value"]) > 0.7
    assert "over 60 images" in rows[0]["note"]


def test_each_folder_of_defects_is_located_on_its_own(screens, inspected):
    folder, _, _ = inspected
    for name in ("test", "ground_truth"):
        (folder / name / "crack").mkdir()
        for file in sorted((folder / name / "scratch").iterdir())[:10]:
            file.rename(folder / name / "crack" / file.name)
    rows = {row["measure"]: row for row in localisation(screens("pca"), folder, folder, folder / "ground_truth")}
    for name in ("pixel AUROC", "pixel average precision", "AU-PRO (.3)"):
        assert "95 % interval" in rows[f"{name}, crack"]["note"]
        assert rows[f"{name}, crack"]["note"].endswith("over 10 outliers and all inliers")
        assert rows[f"{name}, scratch"]["note"].endswith("over 20 outliers and all inliers")


def test_unreadable_images_are_left_out_and_missing_masks_named(screens, inspected):
    folder, _, _ = inspected
    (folder / "test" / "scratch" / "000.png").write_bytes(b"no picture")
    rows = localisation(screens("pca"), folder, folder, folder / "ground_truth")
    assert "over 59 images; 1 unreadable" in rows[0]["note"]
    mask = folder / "ground_truth" / "scratch" / "003_mask.png"
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(mask)
    with pytest.raises(InputError, match="marks nothing"):
        localisation(screens("pca"), folder, folder, folder / "ground_truth")
    mask.unlink()
    with pytest.raises(InputError, match="no mask for test/scratch/003"):
        localisation(screens("pca"), folder, folder, folder / "ground_truth")


def test_the_command(screens, inspected, tmp_path, capsys):
    folder, _, _ = inspected
    screens("pca").save(tmp_path / "screen")
    where = str(folder)
    command = ["evaluate", str(tmp_path / "screen"), "--inliers", where, "--outliers", where]
    assert main([*command, "--truth", str(folder / "ground_truth")]) == 0
    assert "AU-PRO (.05)" in capsys.readouterr().out
    assert main([*command, "--truth", str(folder / "elsewhere")]) == 2


def test_a_defect_thinner_than_a_pixel_of_the_screen_stays(tmp_path):
    (tmp_path / "scratch").mkdir()
    marked = np.zeros((64, 64), np.uint8)
    marked[25, 8:40] = 255  # between two rows that the nearest pixels of 8 x 8 take
    Image.fromarray(marked).save(tmp_path / "scratch" / "000.png")
    expected = np.zeros((8, 8), dtype=bool)
    expected[3, 1:5] = True
    np.testing.assert_array_equal(mask_of_defect(tmp_path, "scratch/000.png", (8, 8)), expected)


def test_a_missing_mask_is_told_before_any_image_is_judged(screens, inspected, tmp_path, capsys, monkeypatch):
    folder, _, _ = inspected
    screens("pca").save(tmp_path / "screen")
    command = ["evaluate", str(tmp_path / "screen"), str(folder), str(folder), "--truth"]
    monkeypatch.setattr("recondite.screen.screen.Screen.predict", lambda *_, **__: pytest.fail("judged"))
    assert main([*command, str(folder / "elsewhere")]) == 2
    assert "expected a folder of masks" in capsys.readouterr().err
    (folder / "ground_truth" / "scratch" / "029_mask.png").unlink()
    assert main([*command, str(folder / "ground_truth")]) == 2
    assert "no mask for test/scratch/029.png" in capsys.readouterr().err


@pytest.fixture
def found_and_known():
    """Maps of 60 images, rounded so that scores tie, 40 of them with one or two defects."""
    generator = np.random.default_rng(0)
    masks = np.zeros((60, 24, 20), dtype=bool)
    for mask in masks[:40]:
        for _ in range(generator.integers(1, 3)):
            top, left = generator.integers(0, 18, 2)
            mask[top : top + generator.integers(2, 7), left : left + 4] = True
    return np.round(generator.normal(size=masks.shape) + 1.5 * masks, 2), masks


def test_pixel_measures_are_those_of_scikit_learn(found_and_known):
    maps, masks = found_and_known
    found = localisation_measures(maps, masks, 1.2)
    truth, scores = masks.ravel(), maps.ravel()
    precision, recall, _ = precision_recall_curve(truth, scores)
    expected = {
        "pixel AUROC": roc_auc_score(truth, scores),
        "pixel average precision": average_precision_score(truth, scores),
        "best pixel F1": (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max(),
        "pixel F1": f1_score(truth, scores > 1.2),
        "AU-PRO (.3)": per_region_overlap(maps, masks, 0.3),
        "AU-PRO (.05)": per_region_overlap(maps, masks, 0.05),
    }
    assert {name: measure.value for name, measure in found.items()} == pytest.approx(expected, rel=1e-9)


def test_intervals_are_those_of_images_drawn_again(found_and_known):
    maps, masks = found_and_known
    generator = np.random.default_rng(1)
    drawn = [generator.integers(0, len(maps), len(maps)) for _ in range(200)]
    found = localisation_measures(maps, masks, 1.2)
    for name, measure in (("pixel AUROC", pixel_auroc), ("AU-PRO (.3)", per_region_overlap)):
        low, high = np.quantile([measure(maps[some], masks[some]) for some in drawn], [0.025, 0.975])
        assert found[name].low == pytest.approx(low, abs=0.006)
        assert found[name].high == pytest.approx(high, abs=0.006)
    few = localisation_measures(maps[:40:8], masks[:40:8], 1.2)
    assert all(few[name].high - few[name].low > found[name].high - found[name].low for name in found)


def test_what_is_found_at_the_limit_itself_adds_no_area():
    maps, truth = np.array([[[4.0, 3.0, 2.0, 1.0]]]), np.array([[[False, True, True, False]]])
    assert per_region_overlap(maps, truth, 0.5) == 0
    assert per_region_overlap(maps, truth, 1.0) == 0.5
    assert per_region_overlap(1 - maps, truth, 0.5) == 0
    assert per_region_overlap(-maps, ~truth, 0.5) == pytest.approx(0.5)


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.5, float("nan")])
def test_what_is_no_limit_is_refused(limit):
    with pytest.raises(InputError, match=r"a limit in \(0, 1\]"):
        per_region_overlap([[[0.1, 0.9]]], [[[False, True]]], limit)


def test_one_nan_is_refused():
    with pytest.raises(InputError, match="without NaN"):
        pixel_auroc([[[0.1, np.nan]]], [[[False, True]]])
    with pytest.raises(InputError, match=r"\(N, H, W\)"):
        pixel_auroc([[0.1, 0.9]], [[False, True]])


def test_single_pixels_at_both_ends_count():
    first = localisation_measures([[[0.9, 0.1]]], [[[True, False]]], resamples=2)
    assert first["pixel average precision"].value == first["best pixel F1"].value == 1
    last = localisation_measures([[[0.9, 0.5, 0.1]]], [[[False, True, True]]], resamples=2)
    assert last["best pixel F1"].value == pytest.approx(0.8)
    assert last["pixel average precision"].value == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_binned_images_hold_each_pixel_and_each_defect_once():
    generator = np.random.default_rng(0)
    scores, defect = generator.random((3, 6, 6)), np.zeros((3, 6, 6), bool)
    defect[0, :2, :2] = defect[0, 4:, 4:] = defect[2, 3, :] = True
    outside, inside, overlap = (part.sum(axis=1) for part in _binned(_checked(scores, defect), _overlaps(defect)))
    np.testing.assert_array_equal(outside, [28, 36, 30])
    np.testing.assert_array_equal(inside, [8, 0, 6])
    np.testing.assert_allclose(overlap, [2, 0, 1])


def test_images_that_are_a_defect_all_over_leave_intervals_that_are_numbers():
    maps, masks = np.random.default_rng(0).random((3, 4, 4)), np.zeros((3, 4, 4), dtype=bool)
    masks[:2] = True
    for measure in localisation_measures(maps, masks, 0.5).values():
        assert 0 <= measure.low <= measure.value <= measure.high <= 1
    assert list(measures_by_kind(maps, masks, ["hole", "dent", "dent"])) == [None, "dent"]


def test_pixels_that_do_not_count_are_neither_found_nor_false(found_and_known):
    maps, masks = found_and_known
    inside = np.zeros_like(masks)
    inside[:, 4:20, 3:15] = True
    found = localisation_measures(np.where(inside, maps, 0), masks, 1.2, inside=inside)
    alone = localisation_measures(maps[:, 4:20, 3:15], masks[:, 4:20, 3:15], 1.2)
    for name, measure in alone.items():
        assert found[name].value == pytest.approx(measure.value, rel=1e-12)
        assert found[name].low == pytest.approx(measure.low, abs=0.01)
    with pytest.raises(InputError, match="expected what counts"):
        localisation_measures(maps, masks, inside=inside[:5])


def test_only_pixels_inside_of_a_region_are_measured(digits, inspected):
    folder, _, _ = inspected
    region = np.zeros((8, 8), dtype=bool)
    region[:, 2:6] = True
    screen = recondite.fit(digits[:300], detector="pca", latent_size=8, region=region)
    found = located_maps(screen, folder, folder, folder / "ground_truth")
    assert (found.inside == region).all()
    within = pixel_auroc(found.maps[:, :, 2:6], found.masks[:, :, 2:6])
    shown = {row["measure"]: row["value"] for row in localisation(screen, folder, folder, folder / "ground_truth")}
    assert shown["pixel AUROC"] == f"{within:.4f}" != f"{pixel_auroc(found.maps, found.masks):.4f}"


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_specks_that_a_format_leaves_beside_a_defect_are_no_defect(tmp_path, suffix):
    marked = np.zeros((64, 64), np.uint8)
    marked[21:35, 19:42] = 255
    Image.fromarray(marked).convert("RGB").save(tmp_path / f"000_mask{suffix}", quality=50)
    np.testing.assert_array_equal(mask_of_defect(tmp_path, "000.png", (64, 64)), marked > 0)


def test_what_is_transparent_in_a_mask_is_no_defect(tmp_path):
    marked = np.full((16, 16, 4), 255, np.uint8)
    marked[:, 5:, 3] = 0
    Image.fromarray(marked).save(tmp_path / "000.png")
    np.testing.assert_array_equal(mask_of_defect(tmp_path, "000.png", (16, 16)), marked[:, :, 3] > 0)


def test_each_kind_of_defect_is_measured_with_all_images_that_have_none():
    draws = np.random.default_rng(0)
    maps, masks = draws.random((12, 6, 6)), np.zeros((12, 6, 6), dtype=bool)
    masks[4:, 2:4, 2:4] = True
    maps[4:8, 2:4, 2:4] += 1
    kinds = [None] * 4 + ["hole"] * 4 + ["dent"] * 4
    found = measures_by_kind(maps, masks, kinds, 0.5)
    assert list(found) == [None, "hole", "dent"]
    assert found[None] == localisation_measures(maps, masks, 0.5)
    for kind, rows in (("hole", np.arange(8)), ("dent", np.r_[:4, 8:12])):
        alone = localisation_measures(maps[rows], masks[rows], 0.5)
        assert list(found[kind]) == list(alone)
        for name, measure in found[kind].items():
            assert measure.value == alone[name].value
            assert measure.low <= measure.value <= measure.high
            assert measure.low == pytest.approx(alone[name].low, abs=0.02)
    assert found["hole"]["pixel AUROC"].value == 1 > found["dent"]["pixel AUROC"].high
    assert list(measures_by_kind(maps, masks & (maps > 1), kinds)) == [None, "hole"]


@pytest.mark.parametrize("beside", [False, True])
def test_a_mask_that_lies_across_its_image_is_refused(beside, screens, tmp_path):
    """Drawn on the pixels as they are stored, of an image that its EXIF data turn."""
    test, truth = tmp_path / "test" / "dent", tmp_path / "ground_truth" / "dent"
    test.mkdir(parents=True)
    truth.mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.zeros((8, 16), np.uint8)).save(test / "0.png", exif=turned)
    marked = np.zeros((8, 16), np.uint8)
    marked[2:4, 3:9] = 255
    Image.fromarray(marked).save(truth / "0_mask.png")
    find = partial(masks_beside, open_images(tmp_path / "test"), (8, 8))
    if not beside:
        find = partial(located_maps, screens("pca"), test, test, truth)
    with pytest.raises(InputError, match=r"0_mask\.png has other proportions than the image: 8 x 16 .* 16 x 8$"):
        find()
    assert masks_beside(open_images(tmp_path / "test"), (8, 8), frozenset(["dent/0.png"])) == {}
    Image.fromarray(marked.T.copy()).save(truth / "0_mask.png")
    assert located_maps(screens("pca"), test, test, truth).masks[1].any()


def test_how_opaque_the_pixels_of_an_array_are_marks_nothing(tmp_path):
    marked = np.zeros((8, 8, 4), np.uint8)
    marked[2:4, 3:5], marked[..., 3] = 255, 255
    np.save(tmp_path / "0_mask.npy", marked)
    np.testing.assert_array_equal(mask_of_defect(tmp_path, "0.png", (8, 8)), marked[..., 0] > 0)
    marked[..., :3], marked[2:4, 3:5, 3] = 255, 0
    np.save(tmp_path / "0_mask.npy", marked)
    np.testing.assert_array_equal(mask_of_defect(tmp_path, "0.png", (8, 8)), marked[..., 3] > 0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((8, 8), "1"), "expected a mask of bool, uint8, uint16 or floats; got <U1"),
        (np.ones((8, 8), complex), "got complex128"),
        (np.where(np.eye(8) > 0, np.nan, 1), "finite values"),
        (np.eye(8) - 0.5, "not negative"),
        (np.zeros((0, 8)), "the image is empty"),
    ],
)
def test_a_mask_that_is_none_is_named(values, words, tmp_path):
    np.save(tmp_path / "0_mask.npy", values)
    with pytest.raises(InputError, match=rf"^the mask .*0_mask\.npy: .*{words}"):
        mask_of_defect(tmp_path, "0.png", (8, 8))


def test_a_folder_of_masks_above_the_right_one_names_that(tmp_path):
    (tmp_path / "scratch").mkdir()
    Image.new("L", (8, 8), 255).save(tmp_path / "scratch" / "a_mask.png")
    with pytest.raises(InputError, match=r"no mask for a\.png: .*scratch has one: give that folder$"):
        check_truth(tmp_path, ["a.png"])
    with pytest.raises(InputError, match=r"no mask for b\.png: expected .*b_mask\.png$"):
        check_truth(tmp_path, ["b.png"])


def test_a_page_of_a_file_has_no_mask_of_its_own(tmp_path):
    pages = [Image.fromarray(np.full((8, 8), 50 * page, np.uint8)) for page in (1, 2)]
    pages[0].save(tmp_path / "0.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "truth").mkdir()
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "truth" / "0_mask.png")
    with pytest.raises(InputError, match=r"0\.tif#2 is one page of a file"):
        check_truth(tmp_path / "truth", open_images(tmp_path / "0.tif").ids)


def test_few_images_with_defects_leave_wide_intervals():
    """What three images show, drawn again, missed the truth in three of ten samples."""
    maps, truth = np.zeros((20, 8, 8)), np.zeros((20, 8, 8), dtype=bool)
    truth[:3, 2:4, 2:4] = True
    maps[truth] = 1
    for name, measure in localisation_measures(maps, truth, 0.5).items():
        assert measure.value == pytest.approx(1), name
        assert (measure.low, measure.high) == (pytest.approx(3 / (3 + 1.96**2), abs=1e-3), 1), name


def test_images_that_belong_together_locate_no_more_surely():
    generator = np.random.default_rng(0)
    maps, truth = generator.random((30, 6, 6)), np.zeros((30, 6, 6), dtype=bool)
    truth[:15, 2:4, 2:4] = True
    maps[truth] += 0.3
    once = localisation_measures(maps, truth, 0.9)
    again = localisation_measures(np.repeat(maps, 4, 0), np.repeat(truth, 4, 0), 0.9, units=np.arange(120) // 4)
    for name, measure in once.items():
        assert again[name].value == pytest.approx(measure.value)
        assert (again[name].low, again[name].high) == pytest.approx((measure.low, measure.high), abs=0.01), name

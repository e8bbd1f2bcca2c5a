import numpy as np
import pytest
from PIL import Image

from recondite.cli import main
from recondite.errors import InputError
from recondite.perturbations import defective
from recondite.reports.evaluation import localisation
from recondite.statistics.metrics import per_region_overlap, pixel_auroc


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
    assert [row["value"] for row in rows] == [
        f"{pixel_auroc(maps, masks):.4f}",
        f"{per_region_overlap(maps, masks):.4f}",
    ]
    assert float(rows[0]["value"]) > 0.7
    assert "over 60 images" in rows[0]["note"]


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
    assert "per-region overlap" in capsys.readouterr().out
    assert main([*command, "--truth", str(folder / "elsewhere")]) == 2

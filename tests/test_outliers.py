import numpy as np
import pytest

from recondite.errors import InputError
from recondite.perturbations.outliers import ALTERED, SYNTHETIC, alter, make_outliers

SHAPES = [(1, 8, 8), (3, 32, 32), (3, 24, 40)]


@pytest.fixture
def photographs():
    pytest.importorskip("skimage")
    return make_outliers("photographs", 30, (3, 32, 32), seed=5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SYNTHETIC)
def test_synthetic_outliers_depend_on_the_seed_and_nothing_else(name, shape):
    if "photographs" in name or name == "textures":
        pytest.importorskip("skimage")
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    images = make_outliers(name, 12, shape, seed=1)
    assert images.shape == (12, *shape)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, make_outliers(name, 12, shape, seed=1))
    assert (images != make_outliers(name, 12, shape, seed=2)).any()
    assert len(np.unique(images.reshape(12, -1), axis=0)) > 6
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_synthetic_outliers_are_what_they_are_called():
    shape = (3, 32, 32)
    made = {name: make_outliers(name, 300, shape).astype(float) for name in SYNTHETIC if "photo" not in name[-12:]}
    assert made["constants"].std(axis=(2, 3)).max() == 0
    assert 100 < made["constants"].mean() < 155
    bends = np.abs(np.diff(made["gradients"], n=2, axis=3))
    assert bends.max() <= 2  # straight, but for rounding
    assert made["gradients"].std(axis=(2, 3)).mean() > 10
    for name, deviation in (("uniform-noise", 255 / 12**0.5), ("gaussian-noise", 50.0)):
        noise = made[name]
        assert noise.std() == pytest.approx(deviation, rel=0.03)
        neighbours = np.corrcoef(noise[..., :-1].ravel(), noise[..., 1:].ravel())[0, 1]
        assert abs(neighbours) < 0.01
    for board in made["checkerboards"][:, 0]:
        assert len(np.unique(board)) <= 2


def test_textures_are_rougher_than_plain_photographs():
    pytest.importorskip("skimage")
    rough, plain = (make_outliers(name, 60, (1, 32, 32)).astype(float) for name in ("textures", "plain-photographs"))
    assert np.median(np.abs(np.diff(rough))) > 3 * np.median(np.abs(np.diff(plain)))


def test_without_scikit_image_photographs_remain_and_textures_are_refused(monkeypatch):
    monkeypatch.setattr("recondite.perturbations.outliers.find_spec", lambda _: None)
    assert make_outliers("photographs", 4, (3, 16, 16)).std() > 0
    with pytest.raises(InputError, match="scikit-image"):
        make_outliers("textures", 4, (3, 16, 16))


@pytest.mark.parametrize("name", ALTERED)
def test_changes_depend_on_the_seed_and_leave_the_originals_alone(name, photographs):
    before = photographs.copy()
    changed = alter(name, photographs, seed=1)
    np.testing.assert_array_equal(photographs, before)
    assert changed.shape == photographs.shape
    assert changed.dtype == np.uint8
    np.testing.assert_array_equal(changed, alter(name, photographs, seed=1))
    assert (changed != photographs).any(axis=(1, 2, 3)).all()


def test_turning_twice_gives_the_original_again(photographs):
    for name, times in (("flipped", 2), ("rotated-180", 2), ("rotated-90", 4)):
        turned = photographs
        for _ in range(times):
            turned = alter(name, turned)
        np.testing.assert_array_equal(turned, photographs)
    np.testing.assert_array_equal(
        alter("rotated-90", alter("rotated-90", photographs)), alter("rotated-180", photographs)
    )


@pytest.mark.parametrize(("name", "largest"), [("noise-masks", 64), ("scratches", 80), ("cut-paste", 121)])
def test_defects_are_local(name, largest, photographs):
    touched = (alter(name, photographs, seed=3) != photographs).any(axis=1).sum(axis=(1, 2))
    assert touched.max() <= largest
    assert touched.mean() > largest / 6


def test_a_mask_is_eight_pixels_of_thirty_two_and_two_of_eight(photographs, digits):
    for images, side in ((photographs, 8), (digits[:30, None], 2)):
        touched = (alter("noise-masks", images, seed=3) != images).any(axis=1)
        for mask in touched:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert rows.max() - rows.min() < side
            assert columns.max() - columns.min() < side


def test_scratches_and_blobs_are_seen_on_black_and_on_white():
    for level in (0, 255):
        plain = np.full((20, 1, 28, 28), level, np.uint8)
        for name in ("scratches", "blobs"):
            difference = np.abs(alter(name, plain).astype(int) - level).max(axis=(1, 2, 3))
            assert difference.min() > 120


def test_blurring_keeps_the_mean_and_lowers_the_contrast(photographs):
    blurred = alter("blurred", photographs).astype(float)
    np.testing.assert_allclose(blurred.mean(axis=(2, 3)), photographs.mean(axis=(2, 3)), atol=4)
    assert (blurred.std(axis=(2, 3)) <= photographs.std(axis=(2, 3)) + 1).all()
    np.testing.assert_allclose(
        alter("blurred", photographs.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2), blurred, atol=1
    )


def test_wrong_names_and_images_are_refused(photographs):
    with pytest.raises(InputError, match="among constants"):
        make_outliers("clouds", 3, (1, 8, 8))
    with pytest.raises(InputError, match="among flipped"):
        alter("melted", photographs)
    with pytest.raises(InputError, match="uint8 images"):
        alter("flipped", photographs / 255)
    with pytest.raises(InputError, match="square"):
        alter("rotated-90", np.zeros((1, 1, 8, 9), np.uint8))

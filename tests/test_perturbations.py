import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recondite.errors import InputError
from recondite.perturbations import (
    CORRUPTIONS,
    DEFECTS,
    SEVERITIES,
    blurred,
    corrupted,
    defective,
    flipped,
    masked,
    rotated,
)
from recondite.perturbations.outliers import make_outliers

SHAPES = [(1, 8, 8), (3, 32, 32), (5, 17, 26)]
COLOURED = [*CORRUPTIONS]
GREY = [name for name in CORRUPTIONS if name != "saturation"]
FOURTEEN = 14


def images_of(shape, count=6, seed=0):
    """Smooth images with structure, in [0.1, 0.9]."""
    noise = np.random.default_rng(seed).random((count, *shape), dtype=np.float32)
    smooth = blurred(noise, min(shape[1:]) / 16)
    low, high = smooth.min(axis=(2, 3), keepdims=True), smooth.max(axis=(2, 3), keepdims=True)
    return 0.1 + 0.8 * (smooth - low) / (high - low)


def every(images, seed=0, first=0):
    """Each perturbation there is, as (name, images)."""
    for name in GREY if images.shape[1] == 1 else COLOURED:
        yield name, corrupted(images, name, 3, seed=seed, first=first)
    for name in DEFECTS:
        yield name, defective(images, name, seed=seed, first=first).images
    for kind in ("normal", "uniform", "zero", "constant"):
        yield kind, masked(images, 3, kind, seed=seed, first=first).images
    yield "patch", masked(images, 3, "patch", sources=1 - images_of(images.shape[1:]), seed=seed, first=first).images


@pytest.mark.parametrize("shape", SHAPES)
def test_all_keep_shape_range_and_float32_and_leave_images_and_global_draws_alone(shape):
    images = images_of(shape)
    before, state = images.copy(), np.random.get_state()[1].copy()  # noqa: NPY002
    for name, changed in every(images):
        assert changed.shape == images.shape, name
        assert changed.dtype == np.float32, name
        assert changed.min() >= 0, name
        assert changed.max() <= 1, name
        assert (changed != images).any(axis=(1, 2, 3)).all(), name
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_what_happens_to_an_image_depends_on_the_seed_and_its_index_alone():
    images = images_of((3, 16, 16))
    whole, part = dict(every(images, seed=4)), dict(every(images[2:4], seed=4, first=2))
    other = dict(every(images, seed=5))
    for name, changed in whole.items():
        np.testing.assert_array_equal(part[name], changed[2:4], err_msg=name)
    for name in ("normal", "uniform", "patch", "elastic", "fog", "scratch", "gaussian-noise"):
        assert (other[name] != whole[name]).any(), name


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("side", [8, 32, 96])
def test_a_higher_severity_changes_an_image_more(name, side):
    photographs = make_outliers("photographs", 12, (3, side, side), seed=3).astype(np.float32) / 255
    errors = [np.square(corrupted(photographs, name, level) - photographs).mean() for level in SEVERITIES]
    assert errors[0] > 0
    assert (np.diff(errors) > 0).all(), errors


def test_there_are_corruptions_of_every_kind():
    assert len(CORRUPTIONS) == FOURTEEN
    grey = images_of((1, 16, 16))
    with pytest.raises(InputError, match="saturation"):
        corrupted(grey, "saturation", 1)
    colour = corrupted(images_of((3, 16, 16)), "saturation", 5)
    assert np.ptp(colour, axis=1).max() < 1e-6
    bright = corrupted(grey, "brightness", 2)
    np.testing.assert_allclose(bright, np.clip(grey + 0.1, 0, 1), atol=1e-6)
    flat = np.full((1, 3, 20, 20), 0.5, np.float32)
    for name in ("gaussian-blur", "defocus-blur", "motion-blur", "contrast", "pixelate", "elastic", "saturation"):
        np.testing.assert_allclose(corrupted(flat, name, 5), flat, atol=1e-6, err_msg=name)


def test_noises_have_the_spread_that_they_say():
    grey = np.full((4, 1, 64, 64), 0.5, np.float32)
    assert corrupted(grey, "gaussian-noise", 3).std() == pytest.approx(0.08, rel=0.05)
    assert corrupted(grey, "speckle-noise", 3).std() == pytest.approx(0.5 * 0.2, rel=0.05)
    assert corrupted(grey, "shot-noise", 3).std() == pytest.approx((0.5 / 100) ** 0.5, rel=0.05)
    assert (corrupted(grey, "impulse-noise", 4) != 0.5).mean() == pytest.approx(0.1, rel=0.1)


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    count=st.integers(1, 3),
    kind=st.sampled_from(["normal", "uniform", "constant", "patch"]),
    seed=st.integers(0, 50),
)
def test_masks_change_what_the_truth_says_and_nothing_else(shape, size, count, kind, seed):
    images = np.full((3, *shape), 0.25, np.float32)
    sources = np.full((1, shape[0], 9, 9), 0.75, np.float32)
    if size[0] > shape[1] or size[1] > shape[2]:
        with pytest.raises(InputError, match="within images"):
            masked(images, size, kind, sources=sources)
        return
    found = masked(images, size, kind, count=count, value=0.6, sources=sources, seed=seed)
    changed = (found.images != images).any(axis=1)
    np.testing.assert_array_equal(changed, found.truth)
    assert (found.truth.sum(axis=(1, 2)) >= size[0] * size[1]).all()
    assert (found.truth.sum(axis=(1, 2)) <= count * size[0] * size[1]).all()


def test_masks_reach_every_pixel_and_differ_between_images():
    images = np.full((400, 1, 6, 7), 0.5, np.float32)
    found = masked(images, (2, 3), "normal", clip=None)
    assert found.truth.any(axis=0).all()
    assert len(np.unique(found.truth.reshape(400, -1), axis=0)) == 5 * 5
    values = found.images[:, 0][found.truth].reshape(400, 6)
    assert len(np.unique(values, axis=0)) == 400
    assert values.mean() == pytest.approx(0, abs=0.05)
    assert values.std() == pytest.approx(1, abs=0.05)


def test_masks_at_a_place_in_some_channels_added_and_uncut():
    images = np.full((2, 3, 8, 8), 0.5, np.float32)
    found = masked(images, (2, 4), "constant", place=(6, 4), channels=[0, 2], value=0.7, add=True, clip=None)
    expected = images.copy()
    expected[:, [0, 2], 6:, 4:] = 1.2
    np.testing.assert_allclose(found.images, expected)
    assert found.truth[:, 6:, 4:].all()
    assert found.truth.sum() == 2 * 8
    assert masked(images, (2, 4), "constant", value=0.7, add=True).images.max() == 1
    uniform = masked(images, 8, "uniform", distribution=(0.2, 0.3)).images
    assert 0.2 <= uniform.min() <= uniform.max() <= 0.3


def test_a_patch_is_cut_from_another_image():
    images = np.arange(5, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 6, 6), np.float32) / 10
    for seed in range(10):
        found = masked(images, 3, "patch", seed=seed)
        for index, (image, truth) in enumerate(zip(found.images, found.truth, strict=True)):
            (value,) = np.unique(image[0][truth])
            assert value in images
            assert value != images[index, 0, 0, 0]


def test_turns_and_flips():
    images = images_of((2, 9, 9))
    np.testing.assert_array_equal(rotated(rotated(images, 90), 270), images)
    np.testing.assert_array_equal(rotated(images, -90), rotated(images, 270))
    np.testing.assert_array_equal(flipped(flipped(images), vertical=False), rotated(images, 180))
    np.testing.assert_allclose(rotated(images, 89.9999), rotated(images, 90), atol=1e-3)
    np.testing.assert_allclose(rotated(images, 0.0001), images, atol=1e-3)


def test_a_defect_lies_where_its_truth_says():
    images = make_outliers("photographs", 40, (3, 32, 32), seed=3).astype(np.float32) / 255
    for name in DEFECTS:
        found = defective(images, name)
        change = np.abs(found.images - images).max(axis=1)
        assert found.truth.any(axis=(1, 2)).all()
        assert found.truth.mean() < 0.2
        assert change[~found.truth].max() <= 0.1 + 1e-6, name
        assert change[found.truth].mean() > 5 * change[~found.truth].mean(), name


def test_nothing_comes_of_nothing():
    empty = np.empty((0, 3, 8, 8), np.float32)
    for _, changed in every(empty):
        assert changed.shape == empty.shape


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: corrupted(x, "melting", 1), "among gaussian-noise"),
        (lambda x: corrupted(x, "fog", 0), "from 1 to 5"),
        (lambda x: corrupted(x * 3, "fog", 1), "from 0 to 1"),
        (lambda x: corrupted(x[0], "fog", 1), "N, C, H, W"),
        (lambda x: corrupted((x * 255).astype(np.uint8), "fog", 1), "floating-point"),
        (lambda x: corrupted(np.where(x < 0.2, np.nan, x), "fog", 1), "NaN"),
        (lambda x: corrupted(x, "fog", 1, seed=-1), "at least 0"),
        (lambda x: defective(x, "dent"), "among scratch"),
        (lambda x: masked(x, 0), "within images"),
        (lambda x: masked(x, 4, place=(6, 0)), "at row 6"),
        (lambda x: masked(x, 4, place=(-1, 0)), "at row -1"),
        (lambda x: masked(x, 4, "fur"), "among normal"),
        (lambda x: masked(x, 4, count=0), "at least one"),
        (lambda x: masked(x, 4, channels=[3]), "from 0 to 2"),
        (lambda x: masked(x, 4, channels=[]), "from 0 to 2"),
        (lambda x: masked(x, 4, "zero", add=True), "cannot be added"),
        (lambda x: masked(x[:1], 4, "patch"), "give sources"),
        (lambda x: masked(x, 4, "patch", sources=x[:, :, :3]), "room for"),
        (lambda x: rotated(x[:, :, :6], 90), "square"),
        (lambda x: blurred(x, -1), "sigma"),
    ],
)
def test_wrong_input_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call(images_of((3, 8, 8)))

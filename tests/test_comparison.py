"""How much alike two small grey copies are, against what is known of made-up pairs."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from recondite.audits.comparison import (
    _AREAS,
    WHOLE,
    Search,
    _blurred,
    _sampling,
    _tolerantly,
    alikeness,
    differences,
    residual,
)

SIDE = 16
PLAIN = Search((0.5,), 3)


@pytest.fixture(scope="module")
def pictures():
    """Eight smooth pictures of 16 x 16, of values in 0 to 255."""
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(8, SIDE, SIDE)), (0, 2, 2))
    return (127 + 100 * noise / np.abs(noise).max()).astype(np.float32)


def test_what_is_missing_is_multiplied_and_never_nothing():
    assert residual(np.array([0.9, 1.0]), np.array([0.8, 1.0])) == pytest.approx([0.1 * 0.2, 1e-4 * 1e-3])
    assert residual(np.array([0.5]), np.array([-1.0])) == pytest.approx([0.5 * 2])


def test_sixteen_spans_are_means_of_the_pixels_they_cover():
    line = np.arange(32, dtype=np.float32) ** 2
    assert _sampling(0, 32) @ line == pytest.approx(line.reshape(16, 2).mean(axis=1))
    assert _sampling(8, 16) @ line == pytest.approx(line[8:24])
    half = _sampling(1.5, 24) @ line  # 1.5 to 3: half of the second pixel and all of the third
    assert half[0] == pytest.approx((0.5 * line[1] + line[2]) / 1.5)
    assert WHOLE.sum(axis=1) == pytest.approx(np.ones(16))


def test_differences_are_those_of_neighbours_across_and_down(pictures):
    across, down = np.diff(pictures[0], axis=1).ravel(), np.diff(pictures[0], axis=0).ravel()
    assert np.array_equal(differences(pictures)[0], np.concatenate([across, down]))


def test_a_blur_spreads_a_dot_as_a_gaussian():
    dot = np.zeros((1, SIDE, SIDE), np.float32)
    dot[0, 8, 8] = 1
    for deviation in (0.5, 0.8, 1.2):
        places = np.arange(SIDE) - 8
        line = np.exp(-(places**2) / (2 * deviation**2))
        spread = _blurred(dot, deviation)[0]
        assert spread == pytest.approx(np.outer(line, line) / line.sum() ** 2, abs=2e-3)


@pytest.mark.parametrize(
    "place",
    [
        *[np.s_[:, :5, :5], np.s_[:, :5, -5:], np.s_[:, -5:, :5], np.s_[:, -5:, -5:]],
        *[np.s_[:, :2], np.s_[:, -2:], np.s_[:, :, :2], np.s_[:, :, -2:]],
    ],
)
def test_what_is_changed_in_a_corner_or_at_a_border_alone_is_left_out(pictures, place):
    signed = pictures.copy()
    signed[place] = 255 - signed[place]
    assert _tolerantly(pictures, signed, PLAIN) == pytest.approx(np.ones((2, 8)), abs=1e-5)
    wider = pictures.copy()
    wider[:, 4:12, 4:12] = 255 - wider[:, 4:12, 4:12]
    assert _tolerantly(pictures, wider, PLAIN)[0].max() < 0.95


def test_at_most_one_corner_or_border_is_left_out():
    assert (~_AREAS).sum(axis=(1, 2)).tolist() == [0, *[25] * 4, *[32] * 4]


def test_a_blurred_copy_is_alike_where_a_blur_is_tried(pictures):
    soft = _blurred(pictures, 0.8)
    plain, tried = (_tolerantly(pictures, soft, Search((0.5,), 3, blurs)) for blurs in ((), (0.8,)))
    assert tried == pytest.approx(np.ones((2, 8)), abs=1e-5)
    assert (plain[1] < 0.999).all()


def test_a_half_of_a_picture_is_found_upright_and_mirrored_but_not_turned():
    noise = gaussian_filter(np.random.default_rng(1).normal(size=(32, 32)), 2)
    whole = np.clip(127 + 80 * noise / noise.std(), 0, 255).astype(np.uint8)
    half = np.kron(whole[8:24, 8:24], np.ones((2, 2), np.uint8))
    grey = np.stack([whole, half, half[:, ::-1], half.T]).reshape(4, -1)
    alike, details = alikeness(grey, np.array([[0, 0, 0], [1, 2, 3]]), PLAIN)
    assert alike[0, :2] == pytest.approx([1, 1], abs=1e-4)
    assert details[0, :2] == pytest.approx([1, 1], abs=1e-4)
    assert alike[0, 2] < 0.9


@pytest.mark.parametrize("threads", [1, 3])
def test_every_pair_is_compared_in_any_number_of_threads(monkeypatch, threads):
    grey = np.random.default_rng(2).integers(0, 256, (30, 1024), dtype=np.uint8)
    pairs = np.stack(np.triu_indices(30, 1))  # 435, in seven batches
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    found = alikeness(grey, pairs, PLAIN)
    for place in (0, 63, 64, 200, 434):
        alone = alikeness(grey, pairs[:, place : place + 1], PLAIN)
        for every, one in zip(found, alone, strict=True):
            assert every[:, place] == pytest.approx(one[:, 0], abs=1e-6)

"""Principal components that take in further vectors."""

import numpy as np
import pytest

from recondite import InputError, build
from recondite.data.spool import Rows
from recondite.detectors import pca
from recondite.options import TrainingOptions


def rows(vectors):
    return Rows(np.ascontiguousarray(vectors, dtype=np.float32), np.arange(len(vectors)))


def learnt(*lots):
    detector = build("pca", image_shape=lots[0].shape[1:], latent_size=2)
    for number, lot in enumerate(lots):
        detector.fit_rows(rows(lot), None, TrainingOptions(), further=number > 0)
    return detector


@pytest.mark.parametrize("count", [30, 3000])
def test_constant_columns_stay_so_however_many_vectors_there_are(count):
    """And what varies does not pass for constant."""
    draws = np.random.default_rng(0)
    first = draws.normal(size=(count, 5)) * [1, 2, 0, 0, 3] + [0, 1, 1000 / 3, 0, 5]
    second = draws.normal(size=(count, 5)) * [1, 2, 0, 1, 3] + [0, 1, 1000 / 3, 0, 5]
    turns, once = learnt(first, second), learnt(np.concatenate([first, second]))
    np.testing.assert_allclose(turns.scale, once.scale, rtol=1e-3)
    np.testing.assert_allclose(turns.shift, once.shift, rtol=1e-3, atol=1e-3)
    fresh = draws.normal(size=(40, 5)) * [1, 2, 1, 1, 3] + [0, 1, 1000 / 3, 0, 5]
    np.testing.assert_allclose(turns.score(fresh).instance_score, once.score(fresh).instance_score, rtol=0.01)


@pytest.mark.parametrize(
    "memory", [{}, {"factor": np.zeros((2, 4), np.float32)}, {"factor": np.zeros((2, 5), np.float64)}]
)
def test_what_keeps_too_little_takes_in_no_more(memory):
    detector = learnt(np.random.default_rng(0).normal(size=(30, 5)))
    assert (detector.history.epochs, detector.history.best_epoch) == ([{"epoch": 1, "validation": None}], 1)
    detector.memory = {"count": np.array(30.0), **memory}
    with pytest.raises(InputError, match="keeps too little to take in more: fit it again"):
        detector.fit_rows(rows(np.zeros((9, 5))), None, TrainingOptions(), further=True)


def test_as_much_is_held_at_a_time_as_is_documented():
    assert (pca._BATCH_VALUES, pca._MEMORY_VALUES) == (1 << 26, 1 << 22)
    for number in ("2^26 values (21,845 of 32 x 32 x 3)", "2^22 values", "1,365 images of 32 x 32 x 3"):
        assert number in " ".join(pca.Pca.__doc__.split())
    assert (1 << 26) // 3072 == 21845
    assert (1 << 22) // 3072 == 1365


def test_what_rounding_leaves_of_a_constant_column_is_little_for_so_many_vectors():
    draws = np.random.default_rng(0)
    detector = learnt(draws.normal(size=(30, 2)))
    detector.shift.zero_()
    detector.scale.fill_(1)
    detector.mean.zero_()
    detector.memory = {"count": np.array(10_000.0), "factor": np.diag([100.0, 0.01]).astype(np.float32)}
    further = np.stack([draws.normal(size=100), np.zeros(100)], axis=1)
    detector.fit_rows(rows(further), None, TrainingOptions(), further=True)
    assert detector.scale[0] == pytest.approx(1, abs=0.01)
    assert detector.scale[1] == 1  # its own unit, and no deviation of .995


def test_components_of_faint_images_have_length_1():
    images = 0.5 + 1e-3 * np.random.default_rng(0).normal(size=(30, 1, 8, 8))
    components = learnt(images).components
    np.testing.assert_allclose(components @ components.T, np.eye(2), atol=1e-5)


def test_components_that_nobody_asked_for_are_as_many_as_the_images_tell():
    draws = np.random.default_rng(0)
    detector = build("pca", image_shape=(40,))
    assert detector.options.latent_size == 32
    detector.fit_rows(rows(draws.normal(size=(20, 40))), None, TrainingOptions())
    assert detector.options.latent_size == detector.encode(draws.normal(size=(3, 40))).shape[1] == 19
    assert detector.sample(4).shape == (4, 40)
    assert build("pca", image_shape=(40,)).fit(draws.normal(size=(60, 40)), validation=None).options.latent_size == 32
    assert build("pca", image_shape=(5,)).options.latent_size == 5


def test_components_that_were_asked_for_need_as_many_images():
    images = rows(np.random.default_rng(0).normal(size=(20, 40)))
    with pytest.raises(
        InputError, match=r"32 components need at least 32 images; got 20.*latent_size, --latent-size 10\)"
    ):
        build("pca", image_shape=(40,), latent_size=32).fit_rows(images, None, TrainingOptions())

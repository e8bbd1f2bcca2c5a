from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

import recondite
from recondite.data.images import Preprocessing
from recondite.data.spool import Rows
from recondite.perturbations.kinds import simple_and_complex
from recondite.screen.made_up import MadeUp, made_up_rows
from recondite.screen.words import AUTO, ERROR
from recondite.statistics.density import Density, Marginals, held_out_distances, smallest_tail, sum_of_tails
from recondite.statistics.likeness import Likeness
from recondite.statistics.metrics import auroc


def roughness(images):
    return np.abs(np.diff(images, axis=3)).mean()


@pytest.fixture(scope="module")
def normal():
    return np.random.default_rng(0).random((30, 3, 16, 17)).astype(np.float32) * 0.5 + 0.2


def test_kinds_are_images_like_the_normal_ones_from_simple_to_complex(normal):
    kinds = dict(simple_and_complex(normal, seed=3))
    assert {(made.shape, made.dtype.name) for made in kinds.values()} == {(normal.shape, "float32")}
    assert all(made.min() >= 0 and made.max() <= 1 for made in kinds.values())
    for names in (
        ("enlarged-1.5", "enlarged-2", "enlarged-4"),
        ("blurred-64", "blurred-32"),
        ("fields-1", "fields-2", "fields-3"),
    ):
        rough = [roughness(kinds[name]) for name in names]
        assert rough == sorted(rough, reverse=True)
        assert len(set(rough)) == len(rough)
    assert roughness(kinds["enlarged-1.5"]) < roughness(normal) < roughness(kinds["sharpened"])
    np.testing.assert_allclose(kinds["contrast-0.5"].std(axis=(1, 2, 3)), normal.std(axis=(1, 2, 3)) / 2, rtol=1e-5)
    again = dict(simple_and_complex(normal, seed=3))
    assert all(np.array_equal(made, again[name]) for name, made in kinds.items())
    assert not np.array_equal(kinds["leaves"], dict(simple_and_complex(normal, seed=4))["leaves"])


def test_a_quarter_of_four_in_one_is_the_mean_of_squares_of_some_image(normal):
    four = dict(simple_and_complex(normal))["four"]
    small = normal[:, :, :, :16].reshape(30, 3, 8, 2, 8, 2).mean(axis=(3, 5))
    assert np.abs(small - four[0, :, 8:, :8]).max(axis=(1, 2, 3)).min() < 1e-6
    np.testing.assert_array_equal(four[..., 16], normal[..., 16])


def test_likeness_is_the_ratio_of_normal_densities():
    draws = np.random.default_rng(0)
    spread = draws.normal(size=(3, 3))
    covariance = spread @ spread.T + np.eye(3)
    kinds = [draws.normal(size=(40, 3)) + middle for middle in (-1, 0.5)]
    learnt, z = Likeness.fit(kinds, np.linalg.inv(covariance)), 2 * draws.normal(size=(50, 3))
    densities = [multivariate_normal(kind.mean(axis=0), covariance).pdf(z) for kind in kinds]
    expected = np.log(1 + sum(densities) / multivariate_normal(np.zeros(3), covariance).pdf(z))
    np.testing.assert_allclose(learnt(z), expected)
    np.testing.assert_array_equal([learnt(one[None])[0] for one in z], learnt(z))
    assert np.isnan(learnt([[np.nan] * 3, [0.0] * 3])).tolist() == [True, False]  # an image that could not be read
    far = Likeness.fit([np.full((5, 3), 1e6)], np.eye(3))
    np.testing.assert_array_equal(far.directions, [[6, 6, 6]])


def test_the_sum_of_tails_adds_up_what_is_rare_and_takes_nothing_away():
    z, weights = np.random.default_rng(0).normal(size=(20, 3)), (0.5, 1.0, 2.0)
    np.testing.assert_allclose(sum_of_tails(z, weights), -(norm.logsf(z) * weights).sum(axis=1))
    np.testing.assert_allclose(sum_of_tails([[-1e6, 3.0, -9.0]], weights), -norm.logsf(3.0), rtol=1e-12)


def test_easy_images_are_found_though_their_error_is_small():
    draws = np.random.default_rng(0)

    def drawn(middle, count):
        return {name: draws.normal(middle if name == "a" else 0, 1, count) for name in "abcdefgh"}

    normal, held, easy = drawn(0, 500), drawn(0, 1000), drawn(-2, 1000)
    density = Density.fit(normal)
    scale = Marginals.fit(held_out_distances(normal)[:, None])
    learnt = MadeUp.fit(
        density, [drawn(-1.5, 60), drawn(3, 60)], normal, normal["a"], scale.z(density.distance(normal)[:, None])[:, 0]
    )
    sums, rarest = [], []
    for one in (held, easy):
        distance = scale.z(density.distance(one)[:, None])[:, 0]
        sums.append(learnt.sum(one["a"], distance, density.z(one)))
        rarest.append(smallest_tail(np.stack([one["a"], distance], axis=1), [0.5, 0.5]))
    assert auroc(held["a"], easy["a"]) < 0.1  # the error
    assert auroc(*sums) > auroc(*rarest) + 0.1
    same = MadeUp.from_saved(learnt.weights, learnt.tensors(), 8)
    np.testing.assert_array_equal(
        same.sum(held["a"], held["b"], density.z(held)), learnt.sum(held["a"], held["b"], density.z(held))
    )
    with pytest.raises(ValueError, match="weights"):
        MadeUp.from_saved((0.5, 1, -1), learnt.tensors(), 8)
    with pytest.raises(ValueError, match=r"likeness\.directions of shape"):
        MadeUp.from_saved(learnt.weights, learnt.tensors(), 7)


def test_screens_that_rebuild_images_learn_from_made_up_ones(screens, digits, tmp_path):
    assert screens("pca").evidence.made_up.likeness.directions.shape == (24, len(screens("pca").evidence.density.names))
    assert screens("features").evidence.made_up is None
    older = replace(screens("pca"), evidence=replace(screens("pca").evidence, made_up=None))
    older = older.with_score(ERROR).with_score(AUTO)
    older.save(tmp_path / "older")  # as screens were before there were made-up images
    loaded = recondite.load(tmp_path / "older")
    assert loaded.evidence.made_up is None
    assert loaded.fingerprint() == older.fingerprint() != screens("pca").fingerprint()
    few = digits[1400:1410]
    np.testing.assert_array_equal(loaded.predict(few).instance_score, older.predict(few).instance_score)


def test_what_made_up_images_taught_belongs_together():
    statistics = {name: np.random.default_rng(number).normal(size=60) for number, name in enumerate("ab")}
    density = Density.fit(statistics)
    learnt = MadeUp.fit(density, [statistics], statistics, statistics["a"], statistics["b"])
    assert learnt.weights == (0.5, 1.0, 0.5)
    tensors = learnt.tensors()
    assert MadeUp.from_saved((0, 1, 0.5), tensors, 2).weights == (0, 1, 0.5)
    knots = tensors["likeness.knots"]
    for damage in (
        {"likeness.directions": tensors["likeness.directions"][:, :1]},
        {"likeness.offsets": tensors["likeness.offsets"][None]},
        {"likeness.knots": knots[0]},
        {"likeness.knots": np.concatenate([knots, knots])},
        {"total.knots": knots[0]},
        {"total.knots": knots[:0]},
    ):
        with pytest.raises(ValueError, match=r"(likeness|total)\.\w+ of shape"):
            MadeUp.from_saved(learnt.weights, {**tensors, **damage}, 2)
    for weights in ((0.5, 1), (0.5, 1, np.inf), (0.5, 1, np.nan)):
        with pytest.raises(ValueError, match="weights"):
            MadeUp.from_saved(weights, tensors, 2)


def test_kinds_are_made_up_of_sixty_images():
    images = np.random.default_rng(0).random((63, 1, 8, 8), dtype=np.float32)
    kinds = list(made_up_rows(Rows(images, np.arange(63)), Preprocessing(shape=(1, 8, 8))))
    assert {len(kind) for kind in kinds} == {60}

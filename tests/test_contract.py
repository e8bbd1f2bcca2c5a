"""What every detector promises; a new one is tested from its line in DETECTORS."""

from functools import cache
from typing import get_args

import numpy as np
import pytest
import torch
from conftest import QUICK, SHAPES
from reference import twins
from slow import slow

import recondite
from recondite import DETECTORS, InputError, NotFittedError, build
from recondite.data.images import Preprocessing
from recondite.options import describe_options, options_to_json
from recondite.statistics.metrics import auroc

# ALAD compares no pixels in training, and the seconds that a test has are few for five networks.
SLOW_LEARNERS = {"alad": {"width": 16, "epochs": 6}}
LONG = set()
"""The tests of what slow learners have learnt: for these, they are marked as slow."""


def of_learning(test):
    LONG.add(test.__name__)
    return test


def pytest_generate_tests(metafunc):
    long = metafunc.function.__name__ in LONG
    metafunc.parametrize("name", slow(DETECTORS, lambda name: long and name in SLOW_LEARNERS))


@pytest.fixture(scope="session")
def learnt(screens, digits):
    """A function: the name of a detector to a screen that has learnt enough to tell digits from other images."""

    @cache
    def get(name):
        if name not in SLOW_LEARNERS:
            return screens(name)
        options = {**QUICK[name], **SLOW_LEARNERS[name]}
        return recondite.fit(digits[:1400], detector=name, alpha=0.05, seed=1, **options)

    return get


def shape_of(name):
    return SHAPES.get(name, (1, 8, 8))


def built(name, **options):
    """Return an unfitted detector, narrow where its full width would take long."""
    return build(name, **{"alad": {"width": 8}, "features": {"side": 32}}.get(name, {}) | options)


def prepared(name, digits):
    """Return digits as the detector sees them, (N, *shape) in [0, 1]."""
    return np.stack([Preprocessing(shape=shape_of(name))(digit) for digit in digits])


CLOSED_FORM = {"features", "pca"}
"""Detectors without gradient steps: they have neither epochs nor random weights."""


def only_images(name, shape):
    """Whether a detector refuses a shape because its network was made for photographs; if so, it must say that."""
    if name == "features" and shape[0] not in (1, 3):
        with pytest.raises(InputError, match="1 or 3 channels"):
            build(name, image_shape=shape)
        return True
    return False


@of_learning
def test_normal_images_are_rebuilt_better_than_by_the_mean_image(name, learnt, digits):
    test = digits[1400:]
    if not DETECTORS[name].rebuilds:
        with pytest.raises(InputError, match="no decoder"):
            learnt(name).detector.reconstruct(test)
        return
    rebuilt = learnt(name).detector.reconstruct(test)
    pixels = prepared(name, test)
    mean_image = prepared(name, digits[:1400]).mean(axis=0)
    limit = 0.9 if name in SLOW_LEARNERS else 0.5
    assert np.mean((rebuilt - pixels) ** 2) < limit * np.mean((mean_image - pixels) ** 2)


def test_the_error_falls_in_training(name, screens):
    epochs = screens(name).detector.history.epochs
    if len(epochs) > 1:
        assert epochs[-1]["validation"] < epochs[0]["validation"]
        if "loss_all" in epochs[0]:  # losses of networks that play against one another need not fall
            assert epochs[-1]["loss_all"] < epochs[0]["loss_all"]
    assert screens(name).detector.history.best_validation == min(row["validation"] for row in epochs)


@of_learning
def test_mirrored_digits_are_told_better_than_by_trivial_scores(name, learnt, digits):
    upright = digits[1400:]
    mirrored = np.ascontiguousarray(upright[:, :, ::-1])
    detector = learnt(name).detector
    ours = auroc(detector.score(upright).instance_score, detector.score(mirrored).instance_score)
    mean_image = digits[:1400].mean(axis=0)
    by_variance = auroc(upright.var(axis=(1, 2)), mirrored.var(axis=(1, 2)))
    by_distance = auroc(((upright - mean_image) ** 2).mean((1, 2)), ((mirrored - mean_image) ** 2).mean((1, 2)))
    assert ours > max(by_variance, by_distance) + (0.03 if name in SLOW_LEARNERS else 0.1)


def test_noise_is_flagged_and_a_constant_image_is_not_the_most_normal_one(name, screens):
    noise = np.random.default_rng(0).random((50, *shape_of(name)), dtype=np.float32)
    constants = np.stack([np.full(shape_of(name), level, np.float32) for level in (0.5, 0.75, 1.0)])
    screen = screens(name)
    assert screen.predict(noise).is_outlier.mean() > 0.95
    assert screen.predict(constants).instance_score.min() > screen.calibrator.scores.min()


def test_a_score_does_not_depend_on_repeats_batches_order_or_the_global_seed(name, screens, digits):
    detector = screens(name).detector
    images = digits[1400:1500]
    together = detector.score(images).instance_score
    torch.manual_seed(123)
    np.random.seed(321)  # noqa: NPY002
    np.testing.assert_array_equal(detector.score(images).instance_score, together)
    np.testing.assert_array_equal(detector.score(images[::-1]).instance_score[::-1], together)
    alone = [detector.score(image[None]).instance_score[0] for image in images]
    np.testing.assert_array_equal(alone, together)
    one_by_one = [score for part in np.array_split(images, 7) for score in detector.score(part).instance_score]
    np.testing.assert_array_equal(one_by_one, together)


def test_feature_scores_make_up_the_instance_score(name, screens, digits):
    detector = screens(name).detector
    few = digits[1400:1440]
    whole = detector.score(few, feature_score=True, reconstruction=True)
    assert whole.feature_score.shape == (40, *shape_of(name))
    assert whole.reconstruction is None or whole.reconstruction.shape == whole.feature_score.shape
    assert (whole.reconstruction is not None) == DETECTORS[name].rebuilds
    np.testing.assert_array_equal(detector.score(few).instance_score, whole.instance_score)
    if detector.options.score in detector.whole_image_scores:  # no pooled map
        with pytest.raises(InputError, match="no top_percent"):
            detector.score(few, top_percent=10)
    else:
        np.testing.assert_allclose(whole.feature_score.mean(axis=(1, 2, 3)), whole.instance_score, rtol=1e-5)
        worst = detector.score(few, top_percent=10).instance_score
        assert (worst >= whole.instance_score).all()
    with pytest.raises(InputError, match="top_percent"):
        detector.score(few, top_percent=0)
    with pytest.raises(InputError, match="no score"):
        detector.score(few, score="nonsense")


def test_scoring_puts_a_detector_into_eval_mode_and_back(name, screens, digits):
    detector = screens(name).detector
    before = detector.score(digits[:5]).instance_score
    detector.train()
    try:
        np.testing.assert_array_equal(detector.score(digits[:5]).instance_score, before)
        assert detector.training
    finally:
        detector.eval()


def test_encode_and_decode(name, screens, digits):
    detector = screens(name).detector
    latents = detector.encode(digits[:40])
    assert latents.shape == (40, detector.options.latent_size)
    if DETECTORS[name].rebuilds:
        assert detector.decode(latents).shape == (40, *shape_of(name))
    with pytest.raises(InputError, match="latents"):
        detector.decode(latents[0])


def test_a_reloaded_screen_gives_the_same_bits(name, screens, digits, tmp_path):
    screen = screens(name)
    screen.save(tmp_path / "screen")
    again = recondite.load(tmp_path / "screen")
    before, after = screen.predict(digits[1400:]), again.predict(digits[1400:])
    np.testing.assert_array_equal(before.instance_score, after.instance_score)
    np.testing.assert_array_equal(before.p_value, after.p_value)
    np.testing.assert_array_equal(before.is_outlier, after.is_outlier)
    assert again.fingerprint() == screen.fingerprint()
    assert again.detector.history == screen.detector.history


def test_building_and_fitting_leave_the_global_random_state_alone(name, digits):
    before_torch, before_numpy = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    detector = built(name, image_shape=shape_of(name), latent_size=4).fit(digits[:80], **quick_training(name))
    detector.score(digits[:5])
    assert torch.equal(torch.random.get_rng_state(), before_torch)
    np.testing.assert_array_equal(np.random.get_state()[1], before_numpy)  # noqa: NPY002


def quick_training(name, epochs=2):
    return {} if name in CLOSED_FORM else {"epochs": epochs, "batch_size": 16}


def test_the_seed_decides_the_weights(name, digits):
    def weights(seed):
        detector = built(name, image_shape=shape_of(name), seed=seed, latent_size=4)
        return detector.fit(digits[:80], seed=seed, **quick_training(name)).state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    if name not in CLOSED_FORM:
        assert any(not torch.equal(first[key], other[key]) for key in first)


def test_fit_returns_the_detector_and_an_unfitted_one_refuses_to_score(name, digits):
    detector = built(name, image_shape=shape_of(name), latent_size=4)
    for call in (detector.score, detector.encode, detector.reconstruct):
        with pytest.raises(NotFittedError, match="fit"):
            call(digits[:2])
    with pytest.raises(NotFittedError):
        detector.decode(np.zeros((1, 4)))
    assert detector.fit(digits[:80], **quick_training(name)) is detector


@pytest.mark.parametrize("shape", [(3, 17, 23), (2, 9, 40), (1, 64, 8)])
def test_any_size_and_number_of_channels(name, shape):
    if name == "alad":  # squares of 16 to 128 pixels only: test_alad.py
        shape = (shape[0], 16, 16)
    if only_images(name, shape):
        return
    images = np.random.default_rng(0).random((40, *shape), dtype=np.float32)
    detector = built(name, image_shape=shape, latent_size=3).fit(images, **quick_training(name, 1))
    scores = detector.score(images, feature_score=True)
    assert np.isfinite(scores.instance_score).all()
    assert scores.feature_score.shape == (40, *shape)


def of_vectors(name, epochs):
    """Return a detector of vectors of five columns, the last constant; 100 that it has not seen; one column mixed."""
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(600, 2))
    table = np.column_stack([hidden, hidden.sum(1), 1e4 * hidden[:, 0] + 5e4, np.full(600, 7.0)])
    training = {} if name in CLOSED_FORM else {"epochs": epochs, "batch_size": 32, "learning_rate": 5e-3}
    broken = table[500:].copy()
    broken[:, 2] = generator.permutation(broken[:, 2])  # each column alone still looks normal
    return build(name, image_shape=(5,), latent_size=2).fit(table[:500], **training), table[500:], broken


@of_learning
def test_columns_that_do_not_go_together_are_told(name):
    if only_images(name, (5,)):
        return
    detector, *tables = of_vectors(name, 60 if name in SLOW_LEARNERS else 20)
    assert auroc(*(detector.score(table).instance_score for table in tables)) > (0.65 if name in SLOW_LEARNERS else 0.8)


def test_vectors_with_columns_of_any_unit_and_a_constant_one(name):
    if only_images(name, (5,)):
        return
    detector, normal, _ = of_vectors(name, 4)
    changed = normal.copy()
    changed[:, 4] = 12.0  # the constant moved
    assert detector.score(changed).instance_score.min() > detector.score(normal).instance_score.max()
    assert detector.reconstruct(normal[:3]).shape == (3, 5)


def test_bad_images_are_nan_rows_with_a_reason(name, screens, digits):
    scores = screens(name).detector.score([digits[0], np.full((8, 8), np.nan), digits[1]], feature_score=True)
    assert np.isnan(scores.instance_score).tolist() == [False, True, False]
    assert "NaN" in scores.errors[1]
    assert np.isnan(scores.feature_score[1]).all()
    alone = screens(name).detector.score(digits[:2]).instance_score
    np.testing.assert_array_equal(scores.instance_score[[0, 2]], alone)


def test_options_are_checked(name):
    with pytest.raises(InputError, match="did you mean 'latent_size'"):
        built(name, image_shape=shape_of(name), latentsize=3)
    for value in (0, -1, "many", 1.5):
        with pytest.raises(InputError, match="latent_size"):
            built(name, image_shape=shape_of(name), latent_size=value)
    with pytest.raises(InputError, match="top_percent"):
        built(name, image_shape=shape_of(name), top_percent=0)
    assert DETECTORS[name].__doc__
    assert name in QUICK, "give the new detector quick settings in conftest.py"


def pixel_scores(name):
    """The scores of a detector that look at the surroundings of a pixel, if it has them."""
    known = get_args(describe_options(DETECTORS[name].Options)["score"][0])
    return [score for score in ("ssim", "multi_scale") if score in known]


def test_scores_for_defects_keep_the_promises_too(name, screens, digits):
    images = digits[1400:1440]
    constants = np.stack([np.full((1, 8, 8), level, np.float32) for level in (0, 0.5, 1)])
    screen = screens(name)
    for score in pixel_scores(name):
        for scoring in ({"score": score}, {"score": score, "smooth": 1.0, "worst_square": 3}):
            detector = screen.detector.scored_by(**scoring)
            together = detector.score(images, feature_score=True)
            alone = [detector.score(image[None]).instance_score[0] for image in images]
            np.testing.assert_array_equal(alone, together.instance_score)
            pooled = [
                twins.worst_square(one, 3) if "worst_square" in scoring else one.mean()
                for one in together.feature_score
            ]
            np.testing.assert_allclose(together.instance_score, pooled, rtol=1e-5)
            assert np.isfinite(detector.score(constants, feature_score=True).feature_score).all()
            assert auroc(together.instance_score, detector.score(np.rot90(images, axes=(1, 2))).instance_score) > 0.9
            assert screen.detector.options.score != score  # the screen's own detector stays as it was
    for score in pixel_scores(name):
        made = build(name, image_shape=(1, 8, 8), latent_size=4, score=score, smooth=0.7, worst_square=4)
        made.fit(digits[:80], **quick_training(name))
        options = {"image_shape": (1, 8, 8), **options_to_json(made.options)}
        again = build(name, **options)
        again.load_state_dict(made.state_dict())
        np.testing.assert_array_equal(again.score(images).instance_score, made.score(images).instance_score)


def test_scoring_options_that_do_not_go_together_are_refused(name):
    if not pixel_scores(name):
        pytest.skip(f"{name} scores whole images")
    for options, words in (
        ({"worst_square": 3, "top_percent": 50}, "choose one"),
        ({"worst_square": 9}, "worst_square <= 8"),
        ({"worst_square": -1}, "worst_square"),
        ({"smooth": -0.1}, "smooth"),
    ):
        with pytest.raises(InputError, match=words):
            build(name, image_shape=(1, 8, 12), **options)
    for options in ({"score": "ssim"}, {"score": "multi_scale"}, {"smooth": 1.0}, {"worst_square": 2}):
        with pytest.raises(InputError, match="for images, not for vectors"):
            build(name, image_shape=(12,), latent_size=3, **options)

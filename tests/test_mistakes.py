"""Mistakes seen elsewhere, each prevented by a test named after it."""

import inspect

import numpy as np
import pytest
import torch
from conftest import SHAPES

import recondite
from recondite import Calibrator, InputError, NotFittedError, ReconditeError, build
from recondite.data.spool import Rows
from recondite.detectors import Autoencoder
from recondite.options import TrainingOptions
from recondite.statistics.metrics import auroc


def test_01_a_corrupt_image_is_not_reported_normal(screens):
    verdicts = screens("pca").predict([np.full((8, 8), np.nan), b"", b"\x89PNG"])
    assert verdicts.words == ["invalid"] * 3
    assert verdicts.is_outlier.all()


def test_01_one_nan_in_calibration_does_not_switch_the_screen_off(digits):
    with pytest.raises(InputError, match="finite"):
        Calibrator(np.array([0.1, np.nan, 0.3]))
    images = [*digits[:300], np.full((8, 8), np.nan)]
    screen = recondite.fit(images, detector="pca", latent_size=8, alpha=0.1, calibration=digits[300:500])
    assert np.isfinite(screen.threshold)


@pytest.mark.parametrize("share", [0, -5, 101])
def test_02_a_share_of_zero_negative_or_above_a_hundred_is_refused(share, screens, digits):
    with pytest.raises(InputError, match="top_percent"):
        screens("pca").detector.score(digits[:2], top_percent=share)
    with pytest.raises(InputError, match="top_percent"):
        build("pca", image_shape=(1, 8, 8), top_percent=share)


def test_03_predicting_too_early_is_a_clear_error_before_any_work(digits):
    read = []

    def images():
        read.append(1)
        yield digits[0]

    with pytest.raises(NotFittedError, match="call fit"):
        build("autoencoder", image_shape=(1, 8, 8)).score(images())
    assert not hasattr(recondite.Detector, "predict")  # a verdict needs a calibration: only a screen has one


def test_04_a_threshold_belongs_to_one_score_and_share(digits):
    screens = [
        recondite.fit(digits[:400], detector="pca", latent_size=8, alpha=0.1, score=score, top_percent=share)
        for score, share in (("squared_error", 100), ("squared_error", 10), ("absolute_error", 100))
    ]
    assert len({screen.threshold for screen in screens}) == 3
    for screen in screens:
        scores = screen.detector.score(digits[400:]).instance_score
        np.testing.assert_array_equal(screen.predict(digits[400:]).instance_score, scores)
        assert "score" not in inspect.signature(screen.predict).parameters
    with pytest.raises(AttributeError):
        screens[0].alpha = 0.5


def test_05_vae_scores_are_not_random(screens, digits):
    first = screens("vae").predict(digits[:64]).instance_score
    torch.manual_seed(99)
    np.testing.assert_array_equal(screens("vae").predict(digits[:64]).instance_score, first)


def test_05_the_whole_set_is_never_one_batch(screens, digits, monkeypatch):
    sizes, measure = [], Autoencoder.measure
    monkeypatch.setattr(Autoencoder, "measure", lambda self, x, *how: (sizes.append(len(x)), measure(self, x, *how))[1])
    screens("autoencoder").detector.score(digits)
    full = screens("autoencoder").detector.scoring_batch
    assert max(sizes) == full == 64
    assert len(sizes) >= len(digits) / full


def test_07_class_sorted_data_are_shuffled_over_their_whole_length(digits):
    taken = []

    class Watched(Rows):
        def take(self, chosen):
            taken.append(np.mean(chosen))
            return super().take(chosen)

    detector = build("autoencoder", image_shape=(1, 8, 8), width=2, latent_size=2)
    rows = Watched(digits[:1600, None] / np.float32(255), np.arange(1600))
    detector.fit_rows(rows, None, TrainingOptions(epochs=2, batch_size=100))
    assert len(taken) == 32
    assert np.ptp(taken) < 700  # the mean place of a hundred rows, wherever they are in the file: 800 give or take


def test_08_constant_pixels_and_columns_give_finite_losses(digits):
    empty_corner = digits[:64].copy()
    empty_corner[:, :4] = 0
    for name in recondite.DETECTORS:
        narrow = {"width": 8} if name == "alad" else {}
        detector = build(name, image_shape=SHAPES.get(name, (1, 8, 8)), latent_size=4, **narrow)
        detector.fit(empty_corner, **({"epochs": 2} if detector.trains_by_steps else {}))
        assert np.isfinite(detector.score(empty_corner).instance_score).all()


def test_09_no_code_can_hide_in_a_saved_screen(screens, tmp_path):
    screens("autoencoder").save(tmp_path / "screen")
    for path in (tmp_path / "screen").iterdir():
        assert path.suffix in {".json", ".safetensors"}
        assert b"cpython" not in path.read_bytes()
        # Neither a zip nor a pickle of protocol 2 to 5; the length of a header may begin with \x80 too.
        assert not path.read_bytes().startswith((b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6))))


def test_10_a_threshold_is_applied_as_it_was_chosen_even_with_ties():
    calibrator = Calibrator(np.array([1.0] * 10 + [2.0] * 10))
    assert calibrator.threshold(0.2) == 2.0
    assert not calibrator.is_outlier([2.0], 0.2)[0]
    assert calibrator.p_value([2.0])[0] > 0.2


def test_10_raw_scores_are_not_clamped():
    table = np.random.default_rng(0).normal(size=(300, 5))
    screen = recondite.fit(table, detector="pca", latent_size=2, alpha=0.1)
    far = screen.predict(table[:2] * np.array([[100.0], [1000.0]])).instance_score
    assert far[1] > 10 * far[0] > 10


def test_12_input_is_not_kept_while_a_stream_is_judged(screens, digits):
    import gc
    import weakref

    made = []
    most = 0

    class Picture(np.ndarray):
        pass

    def images():
        nonlocal most
        for index in range(2000):
            picture = digits[index % len(digits)].view(Picture)
            made.append(weakref.ref(picture))
            if index % 400 == 399:
                gc.collect()
                most = max(most, sum(one() is not None for one in made))
            yield picture

    screen = screens("pca")
    for _ in screen.stream(images()):
        pass
    assert most < 600


def test_13_seeds_are_arguments_and_constructors_leave_the_global_ones_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    build("vae", image_shape=(1, 8, 8), seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_13_predict_returns_one_kind_of_thing(screens, digits):
    screen = screens("pca")
    sources = [digits[:3], [digits[0]], (image for image in digits[:2]), [b"bad"]]
    assert {type(screen.predict(source)) for source in sources} == {recondite.Verdicts}


def test_a_detector_that_was_not_trained_would_be_noticed(digits):
    mirrored = np.ascontiguousarray(digits[1400:, :, ::-1])
    untrained = build("autoencoder", image_shape=(1, 8, 8), latent_size=8)
    untrained.fitted.fill_(True)
    blind = auroc(untrained.score(digits[1400:]).instance_score, untrained.score(mirrored).instance_score)
    assert blind < 0.65  # what test_contract asks of a trained one is out of its reach


def test_every_error_on_purpose_is_one_family():
    for wrong in (
        lambda: build("gan", image_shape=(1, 8, 8)),
        lambda: recondite.fit("/nowhere"),
        lambda: recondite.load("/x"),
    ):
        with pytest.raises(ReconditeError):
            wrong()

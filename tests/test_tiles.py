"""Tiles: cut and joined without seams, seen one by one, in every screen's path."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import recondite
from recondite import build
from recondite.detector_options import FeaturesOptions
from recondite.detectors.features import Features
from recondite.errors import InputError
from recondite.networks.tiles import Tiles
from recondite.screen.export import export_onnx


class Pooling(torch.nn.Module):
    """Features that know nothing beyond their own cell."""

    def __init__(self, cell: int = 8) -> None:
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Conv2d(3, 16, cell, stride=cell, bias=False), torch.nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def backbone(cell: int = 8) -> Pooling:
    torch.manual_seed(0)
    return Pooling(cell)


@pytest.mark.parametrize(("size", "tile"), [((100, 230), 64), ((64, 200), 64), ((128, 128), 96), ((70, 65), 64)])
@pytest.mark.parametrize("cell", [4, 8, 16])
def test_joined_tiles_are_what_the_whole_image_gives(size: tuple[int, int], tile: int, cell: int) -> None:
    x = torch.rand(2, 3, *size)
    tiles = Tiles(size, tile, [(tile // cell, tile // cell), (tile // 16, tile // 16)])
    joined = tiles.joined(F.avg_pool2d(tiles.cut(x), cell))
    padded = F.pad(x, (0, 64, 0, 64), mode="replicate")
    whole = F.avg_pool2d(padded, cell)[:, :, : -(-size[0] // cell), : -(-size[1] // cell)]
    torch.testing.assert_close(joined, whole)


def test_every_pixel_is_in_a_tile_and_tiles_overlap() -> None:
    for side in range(65, 400, 7):
        tiles = Tiles((64, side), 64, [(8, 8)])
        columns = torch.arange(side, dtype=torch.float32).expand(1, 1, 64, side)
        seen = [(int(tile[0, 0, 0]), int(tile[0, 0, -1])) for tile in tiles.cut(columns)]
        assert seen[0][0] == 0
        assert seen[-1][1] == side - 1
        assert all(after[0] < before[1] for before, after in pairwise(seen))


def test_where_tiles_overlap_the_farther_edge_counts_more() -> None:
    tiles = Tiles((64, 112), 64, [(8, 8)])
    maps = torch.stack([torch.full((1, 8, 8), float(number)) for number in range(len(tiles))])
    line = tiles.joined(maps)[0, 0, 0]
    assert len(tiles) == 2
    assert line[:6].eq(0).all()
    assert line[8:].eq(1).all()
    assert 0 < line[6] < line[7] < 1


def test_a_tile_that_its_backbone_does_not_divide_is_refused_in_words() -> None:
    with pytest.raises(InputError, match="got one of 64 pixels a side, with 7 and 14 features along it"):
        Tiles((64, 200), 64, [(7, 7), (14, 14)])
    with pytest.raises(InputError, match="got one of 64 pixels a side, with 1 features along it"):
        Tiles((64, 200), 64, [(1, 1)])
    with pytest.raises(InputError, match="choose one"):
        build("features", image_shape=(3, 96, 96), side=96, tile=64)


@pytest.mark.parametrize(("tile", "fits"), [(100, 96), (48, 64)])
def test_a_tile_that_does_not_fit_is_told_a_near_one_that_does(tile: int, fits: int) -> None:
    with pytest.raises(InputError, match=rf"got one of {tile} pixels .*: choose --tile {fits} \(tile=\)"):
        build("features", image_shape=(3, 120, 130), tile=tile)
    assert build("features", image_shape=(3, 120, 130), tile=fits).vectors.tiles is not None
    with pytest.raises(InputError, match=r"leave --tile \(tile=\) out"):
        build("features", image_shape=(3, 120, 130), backbone=backbone(110), tile=112)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    random = np.random.default_rng(0)
    x = np.linspace(0, 12, 200)
    waves = 0.5 + 0.2 * np.sin(x[None, None, :] + random.uniform(0, 0.3, (110, 1, 1))) * np.ones((1, 72, 1))
    noisy = waves[:, None] + 0.03 * random.standard_normal((110, 3, 72, 200))
    return noisy.clip(0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def screen(images: np.ndarray) -> recondite.Screen:
    return recondite.fit(
        images, backbone=backbone(), tile=64, methods=("mahalanobis", "padim"), latent_size=4, image_size=(72, 200)
    )


def test_tiles_do_not_change_features_that_see_no_farther_than_their_cell(images: np.ndarray) -> None:
    options = {"image_shape": (3, 72, 200), "methods": ("mahalanobis", "padim"), "latent_size": 4}
    whole = build("features", backbone=backbone(), **options).fit(images, validation=None)
    tiled = build("features", backbone=backbone(), tile=64, **options).fit(images, validation=None)
    assert tiled.grid == whole.grid == (9, 25)
    ours, theirs = (model.score(images[:20], feature_score=True) for model in (tiled, whole))
    np.testing.assert_allclose(ours.instance_score, theirs.instance_score, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(ours.feature_score, theirs.feature_score, rtol=1e-2, atol=1e-2)


def test_a_defect_is_found_in_its_place_across_a_seam(screen: recondite.Screen, images: np.ndarray) -> None:
    changed = images[:8].copy()
    changed[:, :, 30:42, 58:70] = 0.9  # where the first two tiles meet
    verdicts = screen.predict(changed, feature_score=True)
    assert verdicts.is_outlier.all()
    maps = verdicts.feature_score[:, 0]
    for one in maps:
        row, column = np.unravel_index(one.argmax(), one.shape)
        assert 24 <= row < 48
        assert 48 <= column < 80


def test_an_image_gets_the_same_score_alone_and_after_reloading(
    screen: recondite.Screen, images: np.ndarray, tmp_path
) -> None:
    screen.save(tmp_path / "screen")
    again = recondite.load(tmp_path / "screen", backbone=backbone())
    together = screen.predict(images[:13]).instance_score
    for _ in range(3):  # the third call knows which small batches may be used
        alone = np.concatenate([screen.predict(images[index : index + 1]).instance_score for index in range(13)])
        np.testing.assert_array_equal(alone, together)
    np.testing.assert_array_equal(again.predict(images[:13]).instance_score, together)


def test_a_black_image_is_scored_as_any_other(screen: recondite.Screen) -> None:
    black = np.zeros((1, 3, 72, 200), dtype=np.float32)
    nearly = black.copy()
    nearly[0, 0, 0, 0] = 1e-30
    scores = [screen.predict(image).instance_score for image in (black, nearly)]
    np.testing.assert_array_equal(*scores)


def test_an_image_is_not_black_because_most_of_it_is(screen: recondite.Screen) -> None:
    x = torch.zeros(2, 3, 72, 200)
    x[1, :, 33:40, 101:108] = 1  # between the pixels that are looked at first
    with torch.no_grad():
        backbone = screen.detector.runner.ready(screen.detector).vectors.backbone
        dark, spot = backbone(screen.detector.vectors.tiles.cut(x))[0].chunk(2)
    assert not torch.equal(dark, spot)


def test_large_images_are_tiled_by_themselves_and_none_is_blown_up() -> None:
    sizes = Features.image_size
    assert sizes(500, 4000) == (256, 2048)
    assert sizes(1263, 500) == (889, 352)
    assert sizes(300, 200) == (300, 200)
    with torch.device("meta"):
        long = Features((3, 128, 1100), FeaturesOptions(backbone="lite0"))
    assert long.vectors.tiles is not None
    assert long.vectors.tiles.tile == (128, 512)


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    """Images that the real backbone sees at 192 pixels, and so one at a time."""
    smooth = np.random.default_rng(1).random((80, 3, 4, 4), dtype=np.float32)
    return F.interpolate(torch.from_numpy(smooth), size=(32, 32), mode="bilinear").numpy()


@pytest.fixture(scope="module")
def detector(photographs: np.ndarray) -> Features:
    made = build("features", image_shape=(3, 32, 32), side=192, methods=("padim",), latent_size=8)
    return made.fit(photographs, validation=None)


def test_one_image_at_a_time_gives_what_all_at_once_do(detector: Features, photographs: np.ndarray) -> None:
    together = detector.score(photographs[:13], feature_score=True)
    for _ in range(3):
        alone = [detector.score(photographs[index : index + 1], feature_score=True) for index in range(13)]
        np.testing.assert_array_equal([one.instance_score[0] for one in alone], together.instance_score)
        np.testing.assert_array_equal([one.feature_score[0] for one in alone], together.feature_score)
    x = torch.from_numpy(photographs[:5])
    x[2] = 0  # what a batch is filled up with
    with torch.no_grad():
        plain = detector.vectors(x)
        ready = detector.runner.ready(detector).vectors(x)
    for ours, theirs in zip(ready, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_scores_do_not_depend_on_how_many_threads_look(detector: Features, photographs: np.ndarray) -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            x = torch.from_numpy(photographs[:6])
            with torch.no_grad():
                found.append(detector.runner.ready(detector).vectors.backbone(x))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for ours, theirs in zip(other, found[0], strict=True):
            assert torch.equal(ours, theirs)


def test_an_exported_graph_knows_tiles(screen: recondite.Screen, images: np.ndarray, tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    screen = screen.with_score("error")
    export_onnx(screen, tmp_path / "graph")
    ours, theirs = screen.predict(images[:9]), recondite.load(tmp_path / "graph").predict(images[:9])
    np.testing.assert_allclose(theirs.instance_score, ours.instance_score, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(theirs.is_outlier, ours.is_outlier)

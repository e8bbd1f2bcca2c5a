"""A region that counts: what lies outside changes nothing; nothing else is different inside."""

import csv
import json
import shutil
import unicodedata

import numpy as np
import pytest
import torch
from conftest import QUICK, SHAPES
from PIL import Image
from service import in_process, png
from slow import slow

import recondite
from recondite import DETECTORS, ArtifactError, InputError, build, write_report
from recondite.cli import main
from recondite.data.artifacts import read_folder, write_folder
from recondite.data.datasets import nameless, open_images
from recondite.data.images import Preprocessing
from recondite.data.masks import image_called, open_region, read_mask
from recondite.data.pictures import SKY, heat_colours
from recondite.data.regions import MID_GREY, border, found_inside, half_inside, painted, polygon_mask, touched
from recondite.data.tables import write_table
from recondite.data.truth import mask_of_defect, masks_beside
from recondite.detectors.inside import Inside
from recondite.reports.explanation import draw
from recondite.screen.saved import KIND, SCHEMA
from recondite.screen.shown import screen_rows
from recondite.screen.words import AUTO
from recondite.statistics.metrics import auroc

REGION = np.zeros((8, 8), dtype=bool)
REGION[1:6, 2:8] = True
REGION[6, 4] = True


def outside_changed(images, inside=REGION, seed=0):
    """Images (N, H, W) uint8 with noise in place of all that lies outside."""
    noise = np.random.default_rng(seed).integers(0, 256, images.shape, dtype=np.uint8)
    return np.where(inside, images, noise)


def stained(images, top, left, side=2):
    """Images with a bright and a dark stripe where there is none in a digit."""
    changed = images.copy()
    changed[:, top : top + side, left : left + side] = 255 - changed[:, top : top + side, left : left + side]
    return changed


def scores_of(table):
    with table.open(encoding="utf-8") as file:
        return [float(row["instance_score"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def restricted(digits):
    """A function: the name of a detector to its screen of the region, made once."""
    made = {}

    def get(name):
        if name not in made:
            settings = {**QUICK[name], **({"epochs": 1} if name == "alad" else {})}
            made[name] = recondite.fit(digits[:1000], detector=name, region=REGION, seed=1, **settings)
        return made[name]

    return get


@pytest.fixture(scope="module")
def mask_folder(digits, tmp_path_factory):
    """Two hundred digits as files, and beside them a folder with a mask of each, no two alike in a row."""
    root, masks = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("masks")
    for index in range(200):
        inside = own_mask(index)
        Image.fromarray(outside_changed(digits[index : index + 1], inside, seed=index)[0]).save(
            root / f"{index:03d}.png"
        )
        Image.fromarray(inside.astype(np.uint8) * 255).save(masks / f"{index:03d}.bmp")
    return root, masks


def own_mask(index):
    inside = np.zeros((8, 8), dtype=bool)
    inside[: 5 + index % 3, 1 + index % 2 :] = True
    return inside


@pytest.fixture(scope="module")
def masked(mask_folder):
    """A screen that was fitted with one mask per image."""
    root, masks = mask_folder
    return recondite.fit(root, detector="pca", latent_size=8, region=masks, evidence=0.0, score="squared_error")


# Geometry


@pytest.mark.parametrize(("size", "grid"), [((8, 8), (3, 5)), ((7, 5), (16, 11)), ((6, 9), (6, 3)), ((5, 5), (5, 5))])
def test_a_cell_is_touched_or_half_inside_as_its_area_says(size, grid):
    mask = np.random.default_rng(1).random(size) < 0.4
    height, width = size[0] * grid[0], size[1] * grid[1]
    fine = mask.repeat(grid[0], 0).repeat(grid[1], 1)
    shares = fine.reshape(grid[0], height // grid[0], grid[1], width // grid[1]).mean((1, 3))
    np.testing.assert_array_equal(touched(mask, *grid), shares > 0)
    np.testing.assert_array_equal(half_inside(mask, *grid), shares >= 0.5)


def test_a_polygon_holds_the_pixels_whose_centres_it_holds():
    square = polygon_mask([(2, 1), (8, 1), (8, 6), (2, 6)], 8, 8)
    expected = np.zeros((8, 8), dtype=bool)
    expected[1:6, 2:8] = True
    np.testing.assert_array_equal(square, expected)
    triangle = polygon_mask([(0, 0), (40, 0), (0, 20)], 20, 40)
    rows, columns = np.indices((20, 40)) + 0.5
    np.testing.assert_array_equal(triangle, columns + 2 * rows < 40)
    bow_tie = polygon_mask([(0, 0), (8, 8), (8, 0), (0, 8)], 8, 8)  # crosses itself: top and bottom are outside
    assert bow_tie[4, 1]
    assert bow_tie[4, 6]
    assert not bow_tie[1, 4]


def test_paint_tells_pixels_inside_from_those_outside():
    planes = np.full((3, 8, 8), MID_GREY, dtype=np.float32)
    planes[1, 0] = 0.2
    found = painted(planes, REGION, told_apart=True)
    np.testing.assert_array_equal(found_inside(found), REGION)
    assert np.abs(found - planes)[:, REGION].max() < 1e-7
    np.testing.assert_array_equal(painted(planes, REGION)[:, REGION], planes[:, REGION])


# Reading images


@pytest.mark.parametrize("size", [(64, 64), (50, 83), (20, 13), (32, 24)])
def test_pixels_outside_have_no_influence_on_resizing(size):
    region = np.zeros((32, 24), dtype=bool)
    region[5:20, 3:17] = region[30, 20] = True
    preprocessing = Preprocessing(shape=(1, 32, 24), region=region)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, size, dtype=np.uint8)
    outside = ~touched(region, *size)
    other = np.where(outside, rng.integers(0, 256, size, dtype=np.uint8), image)
    assert preprocessing(image).tobytes() == preprocessing(other).tobytes()
    assert (preprocessing(image)[:, ~region] == MID_GREY).all()
    level = preprocessing(np.where(outside, image, np.uint8(51)))  # a mean of what is inside, and of nothing else
    np.testing.assert_allclose(level[:, region], 0.2, atol=1e-6)
    everything = Preprocessing(shape=(1, 32, 24), region=np.ones((32, 24), dtype=bool))
    np.testing.assert_allclose(everything(image), Preprocessing(shape=(1, 32, 24))(image), atol=1e-6)


def test_arrays_read_together_are_painted_as_those_read_one_by_one(digits):
    preprocessing = Preprocessing(shape=(1, 8, 8), region=REGION)
    together = preprocessing.together(list(digits[:9]))
    np.testing.assert_array_equal(together, np.stack([preprocessing(one) for one in digits[:9]]))
    assert preprocessing != Preprocessing(shape=(1, 8, 8))


# Every detector


@pytest.mark.parametrize("name", slow(DETECTORS, lambda name: name == "alad"))
def test_what_lies_outside_changes_no_bit_of_any_output(name, restricted, digits, tmp_path):
    screen, images = restricted(name), digits[1400:1460]
    inside = screen.detector.preprocessing.region
    if name in SHAPES:  # images are enlarged: pixels that only touch the region have a say
        inside = touched(inside, 8, 8)
        assert inside.sum() >= REGION.sum()
    else:
        np.testing.assert_array_equal(inside, REGION)
    ours = screen.predict(images, feature_score=True, reconstruction=True)
    others = screen.predict(outside_changed(images, touched(inside, 8, 8)), feature_score=True, reconstruction=True)
    for part in ("instance_score", "p_value", "feature_score"):
        assert getattr(ours, part).tobytes() == getattr(others, part).tobytes(), part
    assert (ours.reconstruction is None) == (not DETECTORS[name].rebuilds)
    changed = screen.predict(255 - images)
    assert (changed.instance_score != ours.instance_score).all()
    screen.save(tmp_path / "screen")
    again = recondite.load(tmp_path / "screen")
    assert again.predict(images).instance_score.tobytes() == ours.instance_score.tobytes()
    assert again.fingerprint() == screen.fingerprint()
    alone = [again.detector.score(one[None]).instance_score[0] for one in images[:9]]
    np.testing.assert_array_equal(alone, again.detector.score(images).instance_score[:9])


@pytest.mark.parametrize("name", sorted(set(DETECTORS) - {"alad"}))
def test_a_region_of_everything_is_as_no_region(name, screens, digits):
    plain = screens(name).detector
    other = build(name, image_shape=plain.shape, **{key: getattr(plain.options, key) for key in _options(plain)})
    other.restrict(np.ones(plain.shape[1:], dtype=bool))
    other.load_state_dict({**plain.state_dict(), "region": other.region})
    images = digits[1400:1440]
    expected, found = plain.score(images, feature_score=True), other.score(images, feature_score=True)
    np.testing.assert_allclose(found.instance_score, expected.instance_score, rtol=1e-4)
    np.testing.assert_allclose(found.feature_score, expected.feature_score, rtol=1e-3, atol=1e-4)


def _options(detector):
    return recondite.options.option_names(type(detector.options))


@pytest.mark.parametrize(
    "scoring",
    [{}, {"top_percent": 10.0}, {"worst_square": 3}, {"smooth": 0.8}, {"score": "ssim", "top_percent": 20.0}],
)
def test_scores_are_pooled_over_the_inside_alone(scoring, restricted, digits):
    detector = restricted("pca").detector.scored_by(**scoring)
    found = detector.score(digits[1400:1420], feature_score=True)
    maps = found.feature_score[:, 0].astype(np.float64)
    assert (maps[:, ~REGION] == 0).all()
    for one, score in zip(maps, found.instance_score, strict=True):
        if scoring.get("worst_square"):
            expected = max(one[y : y + 3, x : x + 3].mean() for y in range(6) for x in range(6))
        else:
            values = np.sort(one[REGION])[::-1]
            expected = values[: int(np.ceil(len(values) * scoring.get("top_percent", 100) / 100))].mean()
        assert score == pytest.approx(expected, rel=1e-5)
    if scoring.get("score") != "ssim":
        flat = detector.scored_by(smooth=0.0).score(digits[1400:1420], feature_score=True).feature_score[:, 0]
        assert flat[:, REGION].min() - 1e-7 <= maps[:, REGION].min()  # a mean of values inside, undiluted by zeros
        assert maps[:, REGION].max() <= flat[:, REGION].max() + 1e-7


@pytest.mark.parametrize("scoring", [{"score": "ssim"}, {"score": "multi_scale"}, {"smooth": 1.0, "worst_square": 2}])
def test_what_is_rebuilt_outside_does_not_count(scoring, restricted, digits, monkeypatch):
    detector = restricted("pca").detector.scored_by(**scoring)
    before = detector.score(digits[1400:1420]).instance_score
    decode = type(detector).decode_tensor
    noise = torch.where(torch.from_numpy(REGION), 0.0, torch.rand(8, 8))
    monkeypatch.setattr(type(detector), "decode_tensor", lambda self, z: decode(self, z) + noise)
    assert detector.score(digits[1400:1420]).instance_score.tobytes() == before.tobytes()


def test_the_likelihood_of_the_inside_is_summed_over_the_inside(restricted, digits):
    detector = restricted("vae").detector
    whole = detector.score(digits[1400:1420], score="elbo")
    parts = detector.score(digits[1400:1420], score="reconstruction_probability", feature_score=True)
    likelihood = parts.feature_score[:, 0][:, REGION].astype(np.float64).sum(1)
    ready = detector.preprocessing.together(list(digits[1400:1420]))
    with torch.no_grad():
        mean, log_variance = detector._posterior(detector.scaled(torch.from_numpy(ready)))
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).numpy() / 2
    np.testing.assert_allclose(whole.instance_score, likelihood + divergence * detector.options.beta, atol=1e-4)


@pytest.mark.parametrize("name", ["pca", "autoencoder"])
def test_a_defect_inside_is_found_as_ever_and_one_outside_is_not(name, screens, restricted, digits):
    images = digits[1400:1500]
    within, beyond = stained(images, 2, 4), stained(images, 6, 0)
    shares = {
        kind: [screen.predict(some).is_outlier.mean() for some in (images, within, beyond)]
        for kind, screen in {"whole": screens(name), "region": restricted(name)}.items()
    }
    assert shares["region"][1] >= shares["whole"][1] - 0.05
    assert shares["region"][1] > 5 * shares["region"][0]
    assert shares["whole"][2] > 0.5
    assert shares["region"][2] == shares["region"][0] < 0.15


@pytest.mark.parametrize("name", ["pca", "features"])
def test_nothing_outside_is_above_the_threshold_of_single_values(name, restricted, digits):
    screen = restricted(name)
    hostile = outside_changed(digits[1400:])
    above = screen.predict(hostile, feature_score=True).feature_score > screen.feature_threshold
    assert not above[..., ~REGION].any()
    assert 0 < above.any((1, 2, 3)).mean() < 0.15  # alpha is .05, of 397 images


def test_local_methods_learn_from_and_look_at_places_inside_alone(digits):
    region = np.zeros((8, 8), dtype=bool)
    region[:, :4] = True  # two of four places, with a receptive cell of 4 x 4 pixels
    options = {"methods": ("padim", "subspace", "patchcore"), "units": "unit", "latent_size": 2, "bank_size": 100}
    blocks = torch.nn.PixelUnshuffle(4)  # the features of a place are its pixels
    detector = build("features", image_shape=(1, 8, 8), backbone=blocks, neighbours=1, **options)
    detector.restrict(region)
    detector.fit(digits[:100], validation=None)
    bank = detector.models["patchcore"]
    assert bank.filled == 100
    assert int(detector.models["subspace"].count) == 2 * 100
    cells = detector.inside(torch.zeros(1, 1, 8, 8)).on(2, 2)
    distances = {"left": torch.tensor([[1.0, 9.0, 3.0, 9.0]]), "right": torch.tensor([[9.0, 2.0, 9.0, 8.0]])}
    assert detector._of_image(distances["left"], cells).item() == 3
    assert detector._of_image(distances["right"], cells).item() == 9
    x = torch.from_numpy(detector.preprocessing.together(list(digits[200:203])))
    left = detector.backbone(x)[0][..., 0].mean(2)  # of the upper and the lower place on the left
    np.testing.assert_allclose(detector._vectors(x)[0][:, 0], torch.nn.functional.normalize(left), atol=1e-6)
    maps = detector.score(digits[200:210], feature_score=True).feature_score
    inner = detector.score(outside_changed(digits[200:210], region), feature_score=True).feature_score
    assert maps.tobytes() == inner.tobytes()


# Every way in and out


def test_every_way_gives_the_scores_of_the_library(restricted, digits, tmp_path):
    pytest.importorskip("fastapi")
    screen, images = restricted("pca"), digits[1500:1520]
    expected = screen.predict(images)
    other = outside_changed(images)
    screen.save(tmp_path / "digits")
    for index, image in enumerate(other):
        (tmp_path / "new").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "new" / f"{index:02d}.png")
    table = tmp_path / "verdicts.csv"
    maps = tmp_path / "maps"
    report = tmp_path / "report.html"
    arguments = [tmp_path / "digits", tmp_path / "new", "-o", table, "--maps", maps, "--report", report]
    assert main(["predict", *map(str, arguments)]) == 0
    assert scores_of(table) == expected.instance_score.tolist()
    outlined = np.asarray(Image.open(maps / "00.png.map.png"))
    blue = np.array([int(SKY[place : place + 2], 16) for place in (1, 3, 5)])
    np.testing.assert_array_equal((outlined == blue).all(axis=2), border(REGION))
    assert "a region of 48 % of the image" in report.read_text(encoding="utf-8")
    with in_process(tmp_path / "digits", tmp_path) as client:
        for place in (0, 7):
            answer = client.post(
                "/v1/screens/digits/predict", content=png(other[place]), headers={"content-type": "image/png"}
            )
            assert answer.json()["verdicts"][0]["instance_score"] == expected.instance_score[place]


@pytest.mark.parametrize(
    ("name", "score", "pixels"),
    [
        ("pca", "error", "float32"),
        # Evidence is most of a graph, and the same for all.
        pytest.param("pca", AUTO, "float32", marks=pytest.mark.slow),
        pytest.param("features", "error", "float32", marks=pytest.mark.slow),
        pytest.param("vae", "error", "uint8", marks=pytest.mark.slow),
    ],
)
def test_a_graph_takes_pixels_that_were_not_painted(name, score, pixels, restricted, digits, tmp_path):
    export = pytest.importorskip("recondite.screen.export")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    screen, images = restricted(name).with_score(score), digits[1400:1430]
    export.export_onnx(screen, tmp_path / "graph", pixels=pixels)
    graph = recondite.load(tmp_path / "graph")
    np.testing.assert_array_equal(graph.detector.preprocessing.region, REGION)
    low, high = np.quantile(screen.calibrator.scores, [0.25, 0.75])
    raw = outside_changed(images)[:, None]
    given = raw if pixels == "uint8" else raw / np.float32(255)
    score, maps = graph.detector.run_graph(["instance_score", "feature_score"], given)
    expected = screen.predict(images, feature_score=True)
    np.testing.assert_allclose(
        score, expected.instance_score, rtol=export.TOLERANCE, atol=export.TOLERANCE * (high - low)
    )
    np.testing.assert_allclose(maps, screen.detector.score(images, feature_score=True).feature_score, atol=1e-3)
    found = graph.predict(images)
    assert found.instance_score.tobytes() == graph.predict(outside_changed(images)).instance_score.tobytes()
    assert not any(found.errors)


def test_the_classifier_of_a_guard_sees_the_whole_image(restricted, digits):
    seen = []

    def classifier(x):
        seen.append(x)
        return 9.0 * torch.nn.functional.one_hot(torch.zeros(len(x), dtype=torch.long), 2)

    guard = restricted("pca").guard(classifier, ["a", "b"])
    seen.clear()  # noise, by which probabilities are told from logits
    guard(digits[1400:1410])
    np.testing.assert_array_equal(torch.cat(seen)[:10, 0].numpy(), digits[1400:1410] / np.float32(255))


def test_the_region_is_shown(restricted, tmp_path, digits):
    assert ("what counts", "a region of 48 % of the image") in screen_rows(restricted("pca"))
    draw(restricted("pca"), digits[:1], tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 10_000
    plain = heat_colours(np.zeros((1, 8, 8)), (0, 1))
    assert len(np.unique(plain.reshape(-1, 3), axis=0)) == 1


# What may be given


def test_masks_polygons_and_zones_to_ignore_say_the_same(digits, tmp_path):
    corner, inside = REGION.copy(), np.zeros((8, 8), dtype=bool)
    corner[6, 4] = False
    inside[1:6, 2:8] = True
    Image.fromarray(np.kron(inside.astype(np.uint8) * 255, np.ones((3, 3), np.uint8))).save(tmp_path / "mask.png")
    square = [[20, 10], [80, 10], [80, 60], [20, 60]]
    polygons = {"size": [80, 80], "polygons": [square]}
    (tmp_path / "region.json").write_text(json.dumps(polygons), encoding="utf-8")
    rest = {"size": [80, 80], "polygons": [square]}
    ways = [
        {"region": corner},
        {"region": tmp_path / "mask.png"},
        {"region": Image.open(tmp_path / "mask.png")},
        {"region": inside.astype(np.uint8)},
        {"region": polygons},
        {"region": str(tmp_path / "region.json")},
        {"ignore": ~inside},
        {"region": np.ones((8, 8), dtype=bool), "ignore": ~inside},
        {"region": {"size": [8, 8], "ignore": [[[0, 0], [8, 0], [8, 1], [0, 1]], [[0, 6], [8, 6], [8, 8], [0, 8]]]}}
        | {"ignore": {"size": [8, 8], "polygons": [[[0, 0], [2, 0], [2, 8], [0, 8]]]}},
    ]
    for way in ways:
        np.testing.assert_array_equal(open_region(**way).at(8, 8), inside, err_msg=str(way))
    prints = {
        recondite.fit(
            digits[:200], detector="pca", latent_size=4, evidence=0.0, score="squared_error", **way
        ).fingerprint()
        for way in ways[:3]
    }
    assert len(prints) == 1
    assert open_region().at(8, 8) is None
    assert open_region({**rest, "ignore": [square[:3]]}).at(8, 8).sum() < inside.sum()


SIZED = {"size": [8, 8]}
SQUARE = [[0, 0], [8, 0], [8, 8], [0, 8]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((8, 8), dtype=np.uint8), "nothing is inside"),
        (np.full((8, 8), np.nan, dtype=np.float32), "finite"),
        (np.arange(64, dtype=np.uint8).reshape(8, 8), "grey"),
        (np.ones((8, 8), dtype=np.complex64), "expected a mask of"),
        (np.ones(8, dtype=bool), "shape"),
        (7, "expected an image"),
        ("missing.png", "no such file"),
        (np.ones((8, 16), dtype=bool), r"8 x 16 pixels .*, and the image 8 x 8"),
        ({**SIZED, "polygons": [SQUARE[:2]]}, "at least 3 points"),
        ({**SIZED, "polygons": [[[0, 0], [9, 0], [9, 8]]]}, r"\[9, 0\] lies outside"),
        ({**SIZED, "polygons": [[[0, 0], [float("nan"), 0], [8, 8]]]}, "lies outside"),
        ({**SIZED, "polygons": [[[0, 0], [4, 4], [8, 8]]]}, "nothing is inside"),
        ({**SIZED, "polygons": [["a", "b", "c"]]}, "points"),
        ({**SIZED, "polygons": 3}, "list of polygons"),
        ({**SIZED, "polygon": [SQUARE]}, "polygon"),
        ({"polygons": [SQUARE]}, "size"),
        ({"size": [8, 8.5], "polygons": [SQUARE]}, "size"),
        ({"size": [20_000, 20_000], "polygons": [SQUARE]}, "at most 100,000,000 pixels"),
        (SIZED, "polygons or ignore"),
        ({**SIZED, "ignore": [SQUARE]}, "nothing is inside"),
    ],
)
def test_a_region_that_is_none_is_refused(given, message, digits):
    with pytest.raises(InputError, match=message):
        recondite.fit(digits[:100], detector="pca", latent_size=2, region=given)


def test_other_refusals(digits, tmp_path, screens):
    with pytest.raises(InputError, match="ignore covers everything"):
        open_region(None, np.ones((8, 8), dtype=bool))
    with pytest.raises(InputError, match="folder"):
        open_region(None, tmp_path)
    (tmp_path / "region.json").write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(InputError, match="got a list"):
        open_region(tmp_path / "region.json")
    (tmp_path / "region.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="not JSON"):
        open_region(tmp_path / "region.json")
    speck = np.zeros((800, 800), dtype=bool)
    speck[0, 0] = True
    with pytest.raises(InputError, match="nothing inside at 8 x 8"):
        recondite.fit(digits[:100], detector="pca", latent_size=2, region=speck)
    with pytest.raises(InputError, match="not for vectors"):
        recondite.fit(digits[:100].reshape(100, 64), detector="pca", latent_size=2, region=REGION)
    with pytest.raises(InputError, match="set by fit"):
        screens("pca").predict(digits[:3], region=REGION)
    with pytest.raises(InputError, match="not fitted with one mask per image"):
        screens("pca").predict(digits[:3], region=tmp_path)
    assert read_mask(np.array([[0, 1] * 8] * 8, dtype=np.uint8)).sum() == 64  # masks of 0 and 1 are white at 1


@pytest.mark.parametrize(
    "region",
    [
        None,
        np.zeros((8, 8), dtype=np.uint8),
        np.ones((8, 8), dtype=np.uint8),
        np.ones((4, 4), dtype=np.uint8),
        np.ones((8, 8), dtype=np.float32),
        np.full((8, 8), 2, dtype=np.uint8),
    ],
)
def test_a_saved_region_that_was_tampered_with_is_refused(region, restricted, tmp_path):
    restricted("pca").save(tmp_path / "screen")
    manifest, tensors = read_folder(tmp_path / "screen", SCHEMA, KIND)
    tensors["detector.safetensors"].pop("region")
    if region is not None:
        tensors["detector.safetensors"]["region"] = region
    facts = {key: value for key, value in manifest.items() if key not in ("files", "digest")}
    write_folder(tmp_path / "screen", facts, tensors, {})
    with pytest.raises(ArtifactError):
        recondite.load(tmp_path / "screen")


def test_a_screen_saved_when_the_worst_square_was_called_region_loads(digits, tmp_path):
    screen = recondite.fit(digits[:200], detector="pca", latent_size=4, worst_square=3)
    screen.save(tmp_path / "screen")
    manifest, tensors = read_folder(tmp_path / "screen", SCHEMA, KIND)
    facts = {key: value for key, value in manifest.items() if key not in ("files", "digest")}
    facts["options"]["region"] = facts["options"].pop("worst_square")
    write_folder(tmp_path / "screen", facts, tensors, {})
    again = recondite.load(tmp_path / "screen")
    assert again.detector.options.worst_square == 3
    assert again.fingerprint() == screen.fingerprint()


# One mask per image


def test_each_image_is_judged_by_its_own_mask_alone(masked, mask_folder, digits, tmp_path):
    root, masks = mask_folder
    verdicts = masked.predict(root, region=masks, feature_score=True)
    assert not any(verdicts.errors)
    for index in range(200):
        inside, maps = own_mask(index), verdicts.feature_score[index, 0]
        assert (maps[~inside] == 0).all()
        assert verdicts.instance_score[index] == pytest.approx(maps[inside].mean(dtype=np.float64), rel=1e-6)
    for index in (0, 5, 199):
        image = outside_changed(digits[index : index + 1], own_mask(index), seed=7)[0]
        Image.fromarray(image).save(tmp_path / f"{index:03d}.png")
        alone = masked.predict(tmp_path / f"{index:03d}.png", region=masks)
        assert alone.instance_score[0] == verdicts.instance_score[index]
    masked.save(tmp_path / "screen")
    again = recondite.load(tmp_path / "screen")
    assert again.fingerprint() == masked.fingerprint()
    assert again.predict(root, region=masks).instance_score.tobytes() == verdicts.instance_score.tobytes()
    assert ("what counts", "one mask per image") in screen_rows(again)
    write_report(tmp_path / "report.html", again, verdicts, open_images(root, masks=masks))
    table = tmp_path / "verdicts.csv"
    assert main(["predict", str(tmp_path / "screen"), str(root), "-o", str(table), "--region", str(masks)]) == 0
    assert scores_of(table) == verdicts.instance_score.tolist()


def test_it_is_evaluated_and_shown_with_the_masks_that_it_judges_with(masked, mask_folder, digits, tmp_path, capsys):
    root, masks = mask_folder
    normal, odd, truth = tmp_path / "normal", tmp_path / "odd" / "stain", tmp_path / "truth" / "stain"
    for folder in (normal, odd, truth, tmp_path / "masks" / "stain"):
        folder.mkdir(parents=True)
    for index in range(40):
        shutil.copy(root / f"{index:03d}.png", normal)
        image, defect = digits[index].copy(), np.zeros((8, 8), np.uint8)
        image[3:5, 3:5], defect[3:5, 3:5] = 255 - image[3:5, 3:5], 255
        Image.fromarray(image).save(odd / f"{index:03d}.png")
        Image.fromarray(defect).save(truth / f"{index:03d}.png")
        for of_normal in (tmp_path / "masks", tmp_path / "masks" / "stain"):
            shutil.copy(masks / f"{index:03d}.bmp", of_normal)
    masked.save(tmp_path / "screen")
    screen, table = str(tmp_path / "screen"), tmp_path / "measures.csv"
    command = ["evaluate", screen, str(normal), str(odd.parent), "--truth", str(truth.parent), "-o", str(table)]
    assert main(command) == 2
    assert "one mask per image: give region=" in capsys.readouterr().err
    assert main([*command, "--region", str(tmp_path / "masks")]) == 0
    with table.open(encoding="utf-8") as file:
        measures = {row["measure"]: row["value"] for row in csv.DictReader(file)}
    scores = [masked.predict(one, region=tmp_path / "masks") for one in (normal, odd.parent)]
    assert measures["AUROC"] == f"{auroc(scores[0].instance_score, scores[1].instance_score):.4f}"
    assert float(measures["pixel AUROC"]) > 0.7
    shown = ["show", screen, str(normal / "003.png"), "-o", str(tmp_path / "shown" / "one.png")]
    assert main(shown) == 2
    assert main([*shown, "--region", str(masks)]) == 0
    assert f"its score {scores[0].instance_score[3]:.4g} is" in capsys.readouterr().out


def test_an_update_takes_one_mask_per_image(masked, digits, tmp_path):
    for index in range(120):
        for folder, pixels in (("images", digits[300 + index]), ("masks", own_mask(index) * np.uint8(255))):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{index:03d}.png")
    with pytest.raises(InputError, match="one mask per image"):
        masked.update(tmp_path / "images")
    arguments = ["update", str(tmp_path / "screen"), str(tmp_path / "images"), "--sampled", "-o", str(tmp_path / "new")]
    masked.save(tmp_path / "screen")
    assert main([*arguments, "--region", str(tmp_path / "masks")]) == 0
    after = recondite.load(tmp_path / "new")
    assert after.detector.preprocessing.masked
    assert after.facts["version"] == 2


def test_an_image_without_a_mask_is_never_judged_whole(masked, mask_folder, digits, tmp_path):
    root, _ = mask_folder
    few = tmp_path / "masks"
    few.mkdir()
    for index in (0, 2, 3):
        mask = own_mask(index) if index != 3 else np.ones((8, 9), dtype=bool)
        Image.fromarray((mask if index != 2 else ~mask & False).astype(np.uint8) * 255).save(few / f"{index:03d}.png")
    verdicts = masked.predict(open_images(root).select(range(4)), region=few)
    assert verdicts.errors[0] is None
    assert verdicts.errors[1] == f"no mask for it in {few}"
    assert "nothing is inside" in verdicts.errors[2]
    assert "8 x 9" in verdicts.errors[3]
    assert verdicts.is_outlier[1:].all()
    for judge in (masked.predict, masked.recalibrated):
        with pytest.raises(InputError, match="one mask per image: give region="):
            judge(root)
    assert "give region=" in masked.detector.score(digits[:1]).errors[0]
    with pytest.raises(InputError, match="cannot be exported"):
        pytest.importorskip("recondite.screen.export").export_onnx(masked, tmp_path / "graph")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_mask_is_found_under_each_spelling_of_its_name(tmp_path, form):
    folder = tmp_path / "ground_truth" / "dent"
    folder.mkdir(parents=True)
    Image.new("L", (8, 8), 255).save(folder / (unicodedata.normalize(form, "é_mask") + ".BMP"), "BMP")
    for spelling in ("NFC", "NFD"):
        name = unicodedata.normalize(spelling, "é.JPG")
        assert image_called(folder, f"{name[:-4]}_mask").is_file()
        assert mask_of_defect(folder.parent, f"dent/{name}", (8, 8)).all()
        image = tmp_path / "test" / "dent" / name
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(image, "JPEG")
    assert len(masks_beside(open_images(tmp_path / "test"), (8, 8))) == 2
    assert image_called(folder, "e_mask") is None


def test_a_folder_of_masks_and_zones_to_ignore_hold_both(mask_folder):
    root, masks = mask_folder
    ignore = np.zeros((8, 8), dtype=bool)
    ignore[:, :3] = True
    settings = {"detector": "pca", "latent_size": 8, "evidence": 0.0, "score": "squared_error"}
    screen = recondite.fit(root, region=masks, ignore=ignore, **settings)
    maps = screen.predict(open_images(root, masks=masks), feature_score=True).feature_score
    for index in (0, 1, 2):
        both = own_mask(index) & ~ignore
        assert (maps[index, 0][~both] == 0).all()
        assert (maps[index, 0][both] > 0).mean() > 0.8
    assert screen.detector.preprocessing.region_in_words == "a region of 62 % of the image and one mask per image"


@pytest.mark.parametrize("name", ["features", "vae"])
def test_masks_of_their_own_leave_the_rest_out_of_other_detectors_too(name, mask_folder, digits):
    root, masks = mask_folder
    screen = recondite.fit(root, detector=name, region=masks, evidence=0.0, **{**QUICK[name], "latent_size": 4})
    images = open_images(root, masks=masks)
    found = screen.detector.score(images, feature_score=True)
    for index in range(5):
        other = outside_changed(digits[index : index + 1], own_mask(index), seed=9)[0]
        pixels = painted(other[None] / np.float32(255), own_mask(index), told_apart=True)
        again = screen.detector.score_batch(nameless(pixels[None]), feature_score=True)
        assert again.instance_score[0] == found.instance_score[index]
        assert again.feature_score.tobytes() == found.feature_score[index : index + 1].tobytes()
        outside = found.feature_score[index, 0][~own_mask(index)]
        assert (outside == min(0, found.feature_score[index, 0][own_mask(index)].min())).all()


def test_cells_of_masks_are_those_of_a_shared_region():
    own = torch.from_numpy(np.stack([REGION, ~REGION]))
    cells = Inside(None, own).on(3, 2).mask(torch.zeros(1))
    for index, mask in enumerate((REGION, ~REGION)):
        np.testing.assert_array_equal(cells[index, 0].numpy(), touched(mask, 3, 2))


def test_paths_of_regions_are_like_those_of_images(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.pad(np.full((6, 6), 255, np.uint8), 1)).save(tmp_path / "part.png")
    expected = open_region(tmp_path / "part.png").at(8, 8)
    for path in ("~/part.png", (tmp_path / "part.png").as_uri()):
        np.testing.assert_array_equal(open_region(path).at(8, 8), expected)
        np.testing.assert_array_equal(open_region(ignore=path).at(8, 8), ~expected)
    for path in ("~/masks", (tmp_path / "masks").as_uri()):
        assert open_region(path).folder == tmp_path / "masks"


def test_a_mask_that_is_transparent_all_over_holds_nothing():
    with pytest.raises(InputError, match="nothing is inside of the mask: it is black or transparent all over"):
        read_mask(Image.new("RGBA", (8, 8), (255, 255, 255, 0)))
    half = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    half.paste((255, 255, 255, 255), (0, 0, 4, 8))
    assert read_mask(half).sum() == 32


def test_how_opaque_the_pixels_of_an_array_are_is_not_how_bright_they_are(tmp_path):
    mask = np.zeros((8, 8, 4), np.uint8)
    mask[2:4, 3:5], mask[..., 3] = 255, 255
    np.save(tmp_path / "mask.npy", mask)
    for given in (mask, tmp_path / "mask.npy"):
        np.testing.assert_array_equal(read_mask(given), mask[..., 0] > 0)


def test_labelled_images_with_masks_of_their_own_calibrate(masked, digits, tmp_path):
    for index in range(60):
        for folder, pixels in (("images", digits[300 + index]), ("masks", own_mask(index) * np.uint8(255))):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{index:03d}.png")
    images, masks, events = tmp_path / "images", tmp_path / "masks", tmp_path / "events.csv"
    masked.save(tmp_path / "screen")
    rows = masked.predict(images, region=masks).records(True)
    write_table(events, [{**row, "label": "inlier", "sampled": 1.0} for row in rows])
    command = ["recalibrate", str(tmp_path / "screen"), str(events), "-o", str(tmp_path / "new")]
    assert main([*command, "--region", str(masks)]) == 2
    assert main([*command, "--images", str(images)]) == 2
    for further in ([], ["--extend"]):
        assert main([*command, "--images", str(images), "--region", str(masks), *further]) == 0
        found = recondite.load(tmp_path / "new").calibrator.scores
        own = masked.predict(images, region=masks).instance_score
        assert np.array_equal(found if not further else found[len(masked.calibrator.scores) :], own)
    again = masked.recalibrated(images, region=masks, group_by="none")
    assert np.array_equal(again.calibrator.scores, own)

"""Known defects: the score gets sharper for their like, the promise stays, and what does not help is refused."""

from dataclasses import replace
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_units import bursts
from test_units import scenes as waves

import recondite
from recondite import InputError, ReconditeWarning
from recondite.cli import main
from recondite.data.datasets import open_images
from recondite.data.images import Preprocessing
from recondite.data.spool import Rows, read_all
from recondite.detectors.defect_head import DefectHead, pooled_values, sharpened
from recondite.detectors.features import Features
from recondite.detectors.inside import Inside
from recondite.detectors.seen import Seen
from recondite.perturbations.defects import DEFECTS
from recondite.screen import known_defects
from recondite.screen.defect_direction import Direction, Whitening, head_along, told, values_along
from recondite.screen.known_defects import (
    Gain,
    KnownDefects,
    Lesson,
    Looked,
    Taught,
    UnhelpfulError,
    _changed,
    check_teachable,
    checked_gain,
)
from recondite.screen.words import gain_in_words
from recondite.statistics.metrics import auroc

FEATURES = {
    "calibration": 0.2,
    "detector": "features",
    "methods": ("mahalanobis", "padim"),
    "side": 64,
    "latent_size": 12,
    "layers": "block3",
    "place_layers": "block3",
    "score": "error",
}


def scenes(count, seed=0):
    return waves(count, seed=seed, side=64, smooth=3)


def checked(images, seed=0, strength=0.03):
    """Images with a faint checkerboard of 8 x 8 pixels somewhere, and masks of where."""
    changed, masks = images.copy(), np.zeros((len(images), *images.shape[2:]), dtype=bool)
    board = np.indices((8, 8)).sum(axis=0) % 2 * 2 - 1
    for image, mask, place in zip(
        changed, masks, np.random.default_rng(seed).integers(0, images.shape[2] - 8, (len(images), 2)), strict=True
    ):
        here = slice(place[0], place[0] + 8), slice(place[1], place[1] + 8)
        image[:, *here] += strength * board
        mask[here] = True
    return changed.clip(0, 1), masks


def keys(count):
    return np.frombuffer(np.arange(2 * count).tobytes(), dtype="V16")


def scored(screen, images):
    return screen.predict(images).instance_score


@pytest.fixture(scope="module")
def good():
    return scenes(120)


@pytest.fixture(scope="module")
def plain(good):
    return recondite.fit(good, **FEATURES)


@pytest.fixture(scope="module")
def defects():
    return checked(scenes(8, seed=50), seed=1)[0]


@pytest.fixture(scope="module")
def sharp(plain, defects, good):
    return plain.teach(defects, good)


def test_defects_of_the_kind_are_told_better_and_others_no_worse(plain, sharp):
    fresh = scenes(150, seed=9)
    same = checked(scenes(150, seed=10), seed=2)[0]
    other = np.clip(scenes(150, seed=11) + np.linspace(0, 0.1, 64, dtype=np.float32), 0, 1)
    for bad, least in ((same, 0.02), (other, -0.01)):
        before, after = (auroc(scored(screen, fresh), scored(screen, bad)) for screen in (plain, sharp))
        assert after > before + least, (before, after)
    facts = sharp.facts["known_defects"]
    assert facts["images"] == 8
    assert facts["known"][1] > facts["known"][0]
    assert facts["told"][1] > facts["told"][0]
    assert "8 known ones" in gain_in_words(facts)
    assert "margin" in gain_in_words(facts)


def test_the_rate_holds_since_calibration_images_teach_nothing(plain, sharp, good, defects):
    assert sharp.predict(scenes(400, seed=12)).is_outlier.mean() < 0.13
    assert len(sharp.calibrator.scores) == len(plain.calibrator.scores)
    # Calibration images are those that it has not learnt from: others in their place change no bit of the detector.
    learnt = plain.known.learnt_alone()
    hashes = recondite.data.spool.read_all(
        recondite.data.datasets.open_images(good), plain.detector.preprocessing
    ).hashes
    others = good.copy()
    unlearnt = ~np.isin(hashes, learnt.hashes)
    assert unlearnt.sum() == len(plain.calibrator.scores)
    others[unlearnt] = scenes(int(unlearnt.sum()), seed=77)
    again = plain.teach(defects, others)
    assert all(
        torch.equal(one, other)
        for one, other in zip(sharp.detector.state_dict().values(), again.detector.state_dict().values(), strict=True)
    )
    assert not np.array_equal(np.sort(sharp.calibrator.scores), np.sort(again.calibrator.scores))


def test_one_path_of_scores(sharp, tmp_path):
    images = scenes(5, seed=13)
    together = scored(sharp, images)
    alone = np.concatenate([scored(sharp, images[index : index + 1]) for index in range(5)])
    sharp.save(tmp_path / "screen")
    loaded = recondite.load(tmp_path / "screen")
    assert np.array_equal(together, alone)
    assert np.array_equal(together, scored(loaded, images))
    assert loaded.fingerprint() == sharp.fingerprint()
    assert np.array_equal(loaded.known.defects, sharp.known.defects)
    assert loaded.facts["known_defects"] == sharp.facts["known_defects"]
    pytest.importorskip("starlette")
    from service import in_process, png

    grey = (images[0, 0] * 255).round().astype(np.uint8)
    with in_process(tmp_path / "screen", tmp_path) as client:
        answer = client.post("/v1/screens/screen/predict", content=png(grey), headers={"content-type": "image/png"})
    assert answer.json()["verdicts"][0]["instance_score"] == scored(loaded, grey[None])[0]


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("kind", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_graph_knows_them_too(kind, sharp, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip({"onnx": "onnxruntime"}.get(kind, kind))
    from recondite.screen import export

    images = np.concatenate([scenes(8, seed=14), checked(scenes(8, seed=15))[0]])
    exported = recondite.load(getattr(export, f"export_{kind}")(sharp, tmp_path / "graph"))
    low, high = np.quantile(sharp.calibrator.scores, [0.25, 0.75])
    difference = np.abs(scored(exported, images) - scored(sharp, images))
    assert (difference <= 2.0**-11 * np.maximum(np.abs(scored(sharp, images)), high - low)).all()


def test_a_head_of_a_damaged_screen_is_refused(sharp, tmp_path):
    from recondite.data.artifacts import read_folder, write_folder
    from recondite.screen.saved import KIND, SCHEMA

    sharp.save(tmp_path / "screen")
    manifest, files = read_folder(tmp_path / "screen", SCHEMA, KIND)
    del files["detector.safetensors"]["head.direction"]
    write_folder(tmp_path / "other", manifest, files, {})
    with pytest.raises(recondite.ArtifactError, match=r"head\.direction"):
        recondite.load(tmp_path / "other")


def test_what_does_not_help_is_refused_and_the_screen_stays(plain, good):
    before = plain.fingerprint()
    with pytest.raises(UnhelpfulError, match=r"does not help|already"):
        plain.teach(scenes(6, seed=60), good)
    assert plain.fingerprint() == before
    with pytest.warns(ReconditeWarning, match="known defects are not used"):
        screen = recondite.fit(good, defects=scenes(6, seed=60), **FEATURES)
    assert screen.fingerprint() == before
    assert "known_defects" not in screen.facts
    assert "known defects are not used" in screen.facts["remarks"][-1]


def test_a_fit_learns_them_before_it_calibrates(good, defects):
    screen = recondite.fit(good, defects=defects, **FEATURES)
    bare = screen.detector.with_head(None)
    assert screen.detector.options.taught
    fresh = scenes(60, seed=16)
    assert not np.array_equal(scored(screen, fresh), bare.score(fresh).instance_score)
    assert screen.predict(scenes(400, seed=12)).is_outlier.mean() < 0.13


def test_few_images_are_judged_by_heads_that_have_not_learnt_from_them():
    images, defects = scenes(44, seed=3), checked(scenes(8, seed=50), seed=1, strength=0.06)[0]
    screen = recondite.fit(images, defects=defects, **FEATURES)
    assert screen.facts["calibration"]["left_out_in_parts"] == 10
    assert screen.predict(scenes(300, seed=12)).is_outlier.mean() < 0.12
    # What the finished detector says of images that it has learnt from is lower than what those of the parts did.
    assert np.median(screen.calibrator.scores) > np.median(scored(screen, images))
    again = screen.teach(defects, images)
    np.testing.assert_allclose(np.sort(again.calibrator.scores), np.sort(screen.calibrator.scores), rtol=1e-3)
    with pytest.raises(InputError, match="given again; of these it knows 40"):
        screen.teach(defects, images[:40])


def test_heads_of_parts_learn_from_their_good_images_alone(plain, good, defects):
    known = KnownDefects.opened(defects, None, plain.detector)
    rows = Rows(good, np.arange(60))
    lesson = Lesson.of(plain.detector, rows, keys(60), known, 0)
    part = lesson.head(np.arange(60) < 30)
    alone = Lesson.of(plain.detector, Rows(good, np.arange(30)), keys(30), known, 0).head()
    for name, value in part.state_dict().items():
        np.testing.assert_allclose(value, alone.state_dict()[name], rtol=1e-3, atol=1e-4, err_msg=name)
    assert not torch.allclose(part.normal, lesson.head().normal, atol=1e-4)
    whole = Taught(plain.detector, lesson, np.zeros(60), {})
    fitted_on = Rows(good, np.arange(30))  # of a part of few images
    assert torch.equal(whole.finished(plain.detector, fitted_on).head.direction, part.direction)


def test_how_surely_defects_are_told_goes_on_where_an_auroc_ends():
    good = np.random.default_rng(0).standard_normal(5000)
    np.testing.assert_allclose(told(good, np.array([0.0, 1, 2])), [0.5, 0.7602, 0.9214], atol=0.01)  # of x / sqrt(2)
    near, far = told(good, np.array([4.5, 6.0]))
    assert 0.997 < near < far < 1
    np.testing.assert_allclose(told(10 * good + 3, np.array([13.0])), told(good, np.array([1.0])))


def test_evidence_is_put_on_the_new_scale():
    images = scenes(600, seed=4)
    screen = recondite.fit(images, **{**FEATURES, "score": "auto"})
    after = screen.teach(checked(scenes(8, seed=50), seed=1, strength=0.06)[0], images)
    assert after.score == "auto"
    assert after.predict(scenes(400, seed=12)).is_outlier.mean() < 0.1
    assert not np.array_equal(after.evidence.error.knots, screen.evidence.error.knots)


def test_masks_are_found_beside_the_images(plain, good, tmp_path):
    images, masks = checked(scenes(6, seed=50), seed=1)
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        for folder, name, pixels in (("test", "", image[0] * 255), ("ground_truth", "_mask", mask * 255)):
            path = tmp_path / folder / "board" / f"{number}{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.round().astype(np.uint8)).save(path)
    known = KnownDefects.opened(str(tmp_path / "test" / "board"), None, plain.detector)
    assert sorted(known.masks) == list(range(6))
    assert np.array_equal(known.masks[0], masks[0])
    rows = Rows(good, np.arange(40))
    lesson = Lesson.of(plain.detector, rows, keys(40), known, 0)
    assert (lesson.real.sum(), (~lesson.real).sum()) == (6, 24)
    with pytest.raises(InputError, match="no mask"):
        plain.teach(images, good, masks=tmp_path)


def test_known_defects_are_not_taken_for_normal_images(sharp, defects):
    with pytest.raises(InputError, match="taught as a known defect"):
        sharp.recalibrated(np.concatenate([scenes(80, seed=20), defects[:2]]))
    with pytest.raises(InputError, match="taught as a known defect"):
        sharp.update(np.concatenate([scenes(80, seed=20), defects[:2]]))
    after = sharp.update(scenes(80, seed=21), sampled=True)
    assert after.detector.options.taught
    assert np.array_equal(after.known.defects, sharp.known.defects)


def test_mistakes_are_explained(plain, good, defects):
    pca = recondite.fit(scenes(60), detector="pca", latent_size=4)
    for screen, arguments, words in (
        (plain, (defects[:2], good), "3 to 50 different images of known defects; got 2"),
        (plain, (np.repeat(defects[:1], 5, axis=0), good), "got 1"),
        (plain, (np.concatenate([defects, good[:1]]), good), "among the good images too"),
        (plain, (defects,), "give the good images of its fit again"),
        (plain, (defects, good[:5]), "at least 20 good images"),
        (plain, (defects, good[np.isin(np.arange(120), np.arange(0))]), "no images|images"),
        (replace(plain, known=None), (defects, good), "fit it anew"),
        (pca, (scenes(5), scenes(5)), "--detector features"),
    ):
        with pytest.raises(InputError, match=words):
            screen.teach(*arguments)
    with pytest.raises(InputError, match="--detector features"):
        recondite.fit(scenes(60), detector="pca", defects=scenes(5, seed=8))
    with pytest.raises(InputError, match="give defects too"):
        recondite.fit(scenes(60), detector="pca", masks="masks")


def test_the_command_line_teaches(plain, good, defects, tmp_path, capsys):
    np.save(tmp_path / "good.npy", good[:, 0])
    np.save(tmp_path / "defects.npy", defects[:, 0])
    plain.save(tmp_path / "screen")
    taught = ["teach", str(tmp_path / "screen"), str(tmp_path / "defects.npy")]
    assert main([*taught, str(tmp_path / "good.npy"), "-o", str(tmp_path / "sharp")]) == 0
    assert "cross-validated" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "sharp")]) == 0
    assert "known defects" in capsys.readouterr().out
    assert main([*taught, "-o", str(tmp_path / "other")]) == 2
    assert "teach SCREEN DEFECTS GOOD" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_head_speaks_on_the_scale_of_good_images():
    """Good images at 0 with a deviation of 1, wherever they lie and however wide; defects far above."""
    draws = np.random.default_rng(0)
    lies, wide = draws.normal(size=(40, 4)), np.array([1.0, 0.1, 10.0, 2.0])

    def places(count, **moved):
        some = draws.normal(size=(count, 40, 4))
        for number, far in moved.items():
            some[:, 7, int(number[1])] += far
        return torch.from_numpy((some * wide + lies).astype(np.float32))

    good, made_up, defects = places(200), places(60, d2=9), places(40, d0=9)
    whitening = Whitening.of([good[:90], good[90:]], np.arange(40), None)
    direction = Direction.of(*(whitening.oddest(some) for some in (good, made_up, defects)))
    head = head_along(direction, whitening, values_along([direction], whitening, [good])[:, 0])
    values, of_made_up, of_defects = (head(one, None).numpy() for one in (good, made_up, places(40, d0=9)))
    assert values.mean() == pytest.approx(0, abs=0.01)
    assert values.std() == pytest.approx(1, abs=0.01)
    assert of_defects.mean() > 5
    assert of_defects.mean() > of_made_up.mean() > 1  # made-up defects weigh less
    assert head(places(40, d3=9), None).numpy().mean() < 1


def test_the_direction_is_a_linear_discriminant():
    """By hand, through numpy: means apart, in the metric of a covariance that is mostly its mean variance."""
    draws = np.random.default_rng(0)
    good, made_up, defects = (draws.normal(size=(count, 3, 5)) for count in (30, 12, 6))
    flat, own, apart = (some.reshape(-1, 5) for some in (good, made_up, defects))
    covariance = np.cov(flat, rowvar=False, bias=True)
    metric = 0.2 * covariance + 0.8 * np.trace(covariance) / 5 * np.eye(5)
    apart = apart.mean(0) - flat.mean(0) + 0.5 * (own.mean(0) - flat.mean(0))
    found = Direction.of(*(torch.from_numpy(some) for some in (good, made_up, defects)))
    np.testing.assert_allclose(found.weight, np.linalg.inv(metric) @ apart)
    np.testing.assert_allclose(found.middle, flat.mean(0) @ found.weight.numpy())


def test_places_are_measured_by_the_covariance_about_their_own_means():
    draws = np.random.default_rng(2)
    good = 5 * draws.normal(size=(6, 4, 3)) + draws.normal(size=(4, 3))
    found = Whitening.of(map(torch.from_numpy, (good[:4], good[4:])), np.array([0, 2]), None)
    np.testing.assert_allclose(found.means, good.mean(0))
    centred = (good - good.mean(0))[:, [0, 2]].reshape(-1, 3)
    covariance = centred.T @ centred / (2 * 5)  # six images, whose mean is known, at two places
    metric = covariance + 0.01 * np.trace(covariance) / 3 * np.eye(3)
    np.testing.assert_allclose(found.matrix @ found.matrix.T, np.linalg.inv(metric))


def test_the_oddest_places_of_each_value_are_a_share_of_all_places():
    values = torch.arange(480.0).reshape(2, 3, 80)
    np.testing.assert_array_equal(pooled_values(values, None), values[..., -2:].mean(-1))


def test_each_image_is_changed_by_its_own_number():
    images = Rows(np.zeros((5, 1, 2, 2), np.float32), np.arange(5))
    parts = list(_changed(images, lambda number, pixels: pixels + number, 2))
    assert [part.pixels.shape for part in parts] == [(2, 1, 2, 2), (2, 1, 2, 2), (1, 1, 2, 2)]
    assert [float(one.mean()) for part in parts for one in part.pixels] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("inside", [None, np.arange(120).reshape(8, 15) % 2 == 0])
def test_an_image_is_as_its_highest_places(inside):
    """By hand: of places that count the fortieth that lie farthest, and the mean of the fortieth with the most."""
    draws = np.random.default_rng(0)
    good, places = draws.normal(size=(30, 120, 3)), 2 * draws.normal(size=(4, 120, 3))
    counted = np.arange(120) if inside is None else np.flatnonzero(inside)
    cells = None if inside is None else Inside(inside)
    good, places = (some.astype(np.float32) for some in (good, places))
    whitening = Whitening.of([torch.from_numpy(good)], counted, cells)
    means = good.mean(0)
    whitened = (places - means) @ whitening.matrix.numpy()
    within = ((good - means) @ whitening.matrix.numpy())[:, counted].reshape(-1, 3)
    np.testing.assert_allclose(within.T @ within / len(within) * 30 / 29, np.eye(3), atol=0.05)
    many = 3 if inside is None else 2
    farthest = np.argsort(-np.square(whitened[:, counted]).sum(2), axis=1)[:, :many]
    expected = np.stack([one[counted][rows] for one, rows in zip(whitened, farthest, strict=True)])
    np.testing.assert_allclose(whitening.oddest(torch.from_numpy(places)), expected, rtol=1e-4, atol=1e-5)
    head = DefectHead(120, 3)
    head.direction.copy_(torch.tensor([0.5, -1.0, 2.0]))
    head.normal.copy_(torch.from_numpy(draws.normal(size=120)))
    values = np.sort((places @ head.direction.numpy() - head.normal.numpy())[:, counted])[:, ::-1]
    found = head(torch.from_numpy(places), cells)
    np.testing.assert_allclose(found, values[:, :many].mean(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sharpened(torch.full((4,), 10.0), found), 10 + found.clip(0) / 2)
    assert sharpened(torch.tensor(10.0), torch.tensor(-5.0)) == 10  # what is unlike known defects is not excused


def test_few_places_have_a_highest_one():
    head = DefectHead(4, 2)
    head.direction.copy_(torch.tensor([1.0, 0.0]))
    places = torch.tensor([[[0.0, 1.0], [3.0, 0.0], [0.0, 0.0], [1.0, 1.0]]])
    torch.testing.assert_close(head(places, None), torch.tensor([3.0]))


def test_how_surely_a_defect_is_told_is_the_share_of_good_images_below_it():
    good, defects = np.array([1.0, 2.0, 4.0, 4.0]), np.array([0.0, 3.0, 9.0])
    spread = NormalDist(0, good.std())
    expected = [np.mean([spread.cdf(one - other) for other in good]) for one in defects]
    np.testing.assert_allclose(told(good, defects), expected)
    np.testing.assert_array_equal(told(np.ones(3), np.array([0.0, 1.0, 2.0])), [0, 0.5, 1])


GRID = 4
"""Cells along each side of what a stand-in sees."""


class Sighted:
    """As much of a detector as a lesson looks at: it sees the pixels of 4 x 4 cells."""

    scoring_batch, shape, grid = 8, (1, 16, 16), (GRID, GRID)

    def __init__(self, region=None):
        self.preprocessing, self.looks = SimpleNamespace(region=region), []

    def vectors(self, pixels):
        cells = pixels.unfold(2, 4, 4).unfold(3, 4, 4).reshape(len(pixels), GRID * GRID, 16)
        return cells.mean(1, keepdim=True), cells

    def looked_at(self, images, left_out):
        pixels = images.take(slice(None))
        self.looks.append((left_out, pixels))
        whole, places = self.vectors(torch.from_numpy(pixels))
        yield Seen(whole, places, None), pixels.mean((1, 2, 3)).astype(np.float64) + 100 * left_out


def known_of(images, masks=None):
    return KnownDefects(read_all(open_images(images), Preprocessing(shape=images.shape[1:])), masks or {})


def test_a_lesson_looks_at_good_images_and_at_defects_made_up_and_pasted(monkeypatch):
    good = waves(26, side=16)
    odd = bursts(waves(12, seed=5, side=16), frames=2, noise=0.002)
    mask = np.zeros((16, 16), dtype=bool)
    mask[:, :8] = True
    detector, known = Sighted(), known_of(odd, {2: mask, 7: ~mask})
    units = np.repeat(keys(13), 2)
    lesson = Lesson.of(detector, Rows(good, np.arange(1, 26)), units[1:], known, 3)
    assert lesson.rows.tolist() == list(range(1, 26))
    assert lesson.good_units.tolist() == [0, *np.repeat(np.arange(1, 13), 2)]
    # Good images are judged as if each had been left out, and the others are not: they were never learnt from.
    np.testing.assert_allclose(lesson.good.scores, 100 + good[1:].mean((1, 2, 3)))
    assert max(lesson.made_up.scores.max(), lesson.defects.scores.max()) < 2
    some = np.arange(25) % 3 == 0
    places = torch.cat(list(lesson.good.places(some)))
    assert torch.equal(places, detector.vectors(torch.from_numpy(good[1:][some]))[1])
    changed = np.concatenate([pixels for left_out, pixels in detector.looks if not left_out])
    made_up, real, pasted = changed[:25], changed[25:49], changed[49:]
    assert all(np.any(one != other) for one, other in zip(made_up, good[1:], strict=True))
    np.testing.assert_array_equal(real, odd)
    assert lesson.real.tolist() == [True] * 24 + [False] * 8
    # Four of each mask; of a unit with the image that they come from, whose frames are of one.
    own = lesson.defect_units
    assert len(set(own[:24])) == 12
    assert np.array_equal(own[:24:2], own[1:24:2])
    assert own[24:].tolist() == [own[2]] * 4 + [own[7]] * 4
    for number, image in enumerate(pasted):
        row, there, elsewhere = (2, slice(0, 5), slice(11, 16)) if number < 4 else (7, slice(11, 16), slice(0, 5))
        np.testing.assert_allclose(image[:, :, there], odd[row][:, :, there], atol=0.01)
        assert min(np.abs(image[:, :, elsewhere] - one[:, :, elsewhere]).max() for one in good[1:]) < 0.01
        assert image[0, :, 7].tolist() != odd[row][0, :, 7].tolist()  # a soft edge
    assert lesson.counted.tolist() == list(range(16))
    assert lesson.cells is None
    # Of those, as many as a memory holds: 4 bytes for each of 16 x 16 values.
    monkeypatch.setattr(known_defects, "_LARGEST_MEMORY", 22 * 1024)
    lesson = Lesson.of(Sighted(), Rows(good, np.arange(26)), units, known, 3)
    assert len(lesson.rows) == len(set(lesson.rows)) == 22
    assert np.array_equal(lesson.rows, np.sort(lesson.rows))
    monkeypatch.setattr(known_defects, "_LARGEST_MEMORY", 1)
    assert len(Lesson.of(Sighted(), Rows(good, np.arange(26)), units, known, 3).rows) == 20
    assert len(Lesson.of(Sighted(), Rows(good, np.arange(20)), units[:20], known, 3).rows) == 20
    with pytest.raises(InputError, match="at least 20 good images that the screen has learnt from; got 19"):
        Lesson.of(detector, Rows(good, np.arange(19)), units[:19], known, 3)


def test_a_lesson_looks_at_the_places_of_a_region_and_at_300_good_images():
    region = np.zeros((16, 16), dtype=bool)
    region[:4, :9] = True
    good = np.random.default_rng(0).random((302, 1, 16, 16), dtype=np.float32)
    lesson = Lesson.of(Sighted(region), Rows(good, np.arange(302)), keys(302), known_of(waves(3, side=16)), 0)
    assert lesson.counted.tolist() == [0, 1, 2]
    assert lesson.cells is not None
    assert len(lesson.rows) == 300
    assert len({part.tobytes() for part in torch.cat(list(lesson.made_up.places(np.ones(300, bool)))).numpy()}) == 300


class Kept:
    """Vectors of places, in the place of a memory."""

    def __init__(self, places):
        self.kept = torch.from_numpy(places.astype(np.float32))

    def take(self, rows, index):
        return None, self.kept[rows.index[index]]


def looked(places, scores):
    return Looked(Rows(np.empty((len(places), 0), np.float32), np.arange(len(places))), Kept(places), scores)


def lesson_of_vectors(seed=0, apart=4.0, defects=12):
    """40 good images, two of each unit; defects, every third of them pasted, three of each unit."""
    draws = np.random.default_rng(seed)
    good, made_up = draws.normal(size=(2, 40, 6, 3))
    odd = draws.normal(size=(defects, 6, 3))
    odd[:, 2, 0] += apart
    made_up[:, 4, 1] += 4
    scores = [draws.normal(size=len(some)) + more for some, more in ((good, 0), (made_up, 1), (odd, 1))]
    return Lesson(
        rows=np.arange(40),
        good=looked(good, scores[0]),
        good_units=np.arange(40) // 2,
        made_up=looked(made_up, scores[1]),
        defects=looked(odd, scores[2]),
        defect_units=np.arange(defects) // 3,
        real=np.arange(defects) % 3 != 2,
        cells=None,
        counted=np.arange(6),
    )


def test_a_head_is_worth_what_it_tells_of_units_that_it_has_not_learnt_from():
    """By hand, image by image, through heads themselves."""
    lesson = lesson_of_vectors()
    parts = (lesson.good, lesson.made_up, lesson.defects)
    places = [part.memory.kept for part in parts]
    whitening = Whitening.of([places[0]], np.arange(6), None)
    means = whitening.means.float()
    places[0] = means + 40 / 39 * (places[0] - means)  # each farther from the mean of the others than from that of all
    folds, after = 4, []
    for deal in range(5):
        draws = np.random.default_rng(deal)
        kinds = draws.permutation(len(DEFECTS))[np.arange(40) % len(DEFECTS)] % folds
        where = [draws.permutation(20)[lesson.good_units] % folds, kinds]
        where = [where[0], where[1], draws.permutation(4)[lesson.defect_units] % folds]
        found = [[], [], []]
        for some, own, part, scores in zip(places, where, range(3), (one.scores for one in parts), strict=True):
            for image, fold, score in zip(some, own, scores, strict=True):
                others = [one[torch.from_numpy(of != fold)] for one, of in zip(places, where, strict=True)]
                direction = Direction.of(*map(whitening.oddest, others))
                head = head_along(direction, whitening, values_along([direction], whitening, [others[0]])[:, 0])
                found[part].append(sharpened(torch.tensor(score), head(image[None], None)).item())
        after.append([np.array(one) for one in found])
    gain, real = lesson.gain(), lesson.real
    before = [one.scores for one in parts]
    assert gain.known == pytest.approx(
        (auroc(before[0], before[2][real]), np.mean([auroc(a, c[real]) for a, _, c in after]))
    )
    assert gain.unseen == pytest.approx((auroc(before[0], before[1]), np.mean([auroc(a, b) for a, b, _ in after])))
    np.testing.assert_allclose(gain.told[0], told(before[0], before[2][real]))
    np.testing.assert_allclose(gain.told[1], np.mean([told(a, c[real]) for a, _, c in after], axis=0), rtol=1e-4)
    np.testing.assert_allclose(gain.errors, after[-1][0], rtol=1e-3, atol=1e-4)
    assert gain.known[1] > gain.known[0]
    said = gain.to_json()
    assert (said["known"], said["unseen"]) == (list(gain.known), list(gain.unseen))
    assert said["told"] == [float(one.mean()) for one in gain.told]


def test_three_units_of_defects_are_enough_and_two_are_not():
    assert len(lesson_of_vectors(defects=9).gain().told[1]) == 6
    with pytest.raises(InputError, match="near-copies of 2: give at least 3 that differ"):
        lesson_of_vectors(defects=6).gain()


def test_a_deal_has_five_parts_where_there_are_units_enough(monkeypatch):
    learnt = []

    def of(*parts):
        learnt.append([len(part) for part in parts])
        return Direction(torch.ones(3, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64))

    monkeypatch.setattr(Direction, "of", of)
    lesson_of_vectors(defects=60).gain()
    assert len(learnt) == 25
    # Each image takes no part in one of the five heads of a deal.
    for deal in range(5):
        assert np.sum(learnt[5 * deal : 5 * deal + 5], axis=0).tolist() == [160, 160, 240]
    assert {good for good, _, _ in learnt} == {32}


def test_a_head_learns_from_the_good_images_that_are_chosen():
    lesson = lesson_of_vectors()
    chosen = np.arange(40) < 30
    whitening = Whitening.of([lesson.good.memory.kept[:30]], np.arange(6), None)
    means = whitening.means.float()
    good = means + 30 / 29 * (lesson.good.memory.kept[:30] - means)
    oddest = [whitening.oddest(some) for some in (good, lesson.made_up.memory.kept[:30], lesson.defects.memory.kept)]
    direction = Direction.of(*oddest)
    expected = head_along(direction, whitening, values_along([direction], whitening, [good])[:, 0])
    found = lesson.head(chosen)
    torch.testing.assert_close(found.direction, expected.direction, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.normal, expected.normal, rtol=1e-4, atol=1e-4)
    assert torch.equal(lesson.head().direction, lesson.head(np.ones(40, dtype=bool)).direction)


BETTER = {"known": (0.8, 0.9), "unseen": (0.9, 0.9)}


@pytest.mark.parametrize(
    ("more", "changed", "refused"),
    [
        # The error of their mean is .577 s for four that differ by s: more than half of it is needed.
        (0.01 * np.array([0.3, 0.3, 0.3, 0.3]) + 0.01 * np.array([-1, 1, -1, 1]), {}, False),
        (0.01 * np.array([0.28, 0.28, 0.28, 0.28]) + 0.01 * np.array([-1, 1, -1, 1]), {}, True),
        (np.zeros(4), {}, True),
        (np.full(4, 0.1), {"known": (0.9, 0.9)}, False),
        (np.full(4, 0.1), {"known": (0.9, 0.89)}, True),
        (np.full(4, 0.1), {"unseen": (0.9, 0.89)}, False),
        (np.full(4, 0.1), {"unseen": (0.9, 0.88)}, True),
    ],
)
def test_a_head_helps_or_is_refused(more, changed, refused):
    gain = Gain(**BETTER | changed, told=(np.full(4, 0.5), 0.5 + more), errors=np.zeros(3))
    lesson = SimpleNamespace(gain=lambda: gain)
    if refused:
        with pytest.raises(UnhelpfulError, match=r"a head does not help: .*Give more images"):
            checked_gain(lesson)
    else:
        assert checked_gain(lesson) is gain


def test_where_nothing_is_left_to_learn_nothing_is_learnt():
    for before, done in ((0.999, True), (0.99, False)):
        gain = Gain(**BETTER, told=(np.full(3, before), np.full(3, 1.0)), errors=np.zeros(3))
        if done:
            with pytest.raises(UnhelpfulError, match="there is nothing to learn"):
                checked_gain(SimpleNamespace(gain=lambda gain=gain: gain))
        else:
            assert checked_gain(SimpleNamespace(gain=lambda gain=gain: gain)) is gain


def unfitted(**changed):
    """A detector of features that has learnt nothing."""
    own = {"name": "features", "shape": (1, 8, 8), "options": SimpleNamespace(score="combined"), "locates": True}
    own |= {"preprocessing": Preprocessing(shape=(1, 8, 8)), "__init__": lambda _: None}
    return type("Unfitted", (Features,), own | changed)()


def test_what_can_learn_known_defects(monkeypatch):
    check_teachable(unfitted())
    for detector, words in (
        (SimpleNamespace(name="pca"), "'pca' has none: fit with detector features"),
        (unfitted(options=SimpleNamespace(score="knn")), "judges by knn: fit without --score"),
        (unfitted(locates=False), "fit with methods that look at places"),
        (unfitted(preprocessing=SimpleNamespace(masked=True)), "give one region of all images"),
    ):
        with pytest.raises(InputError, match=words):
            check_teachable(detector)
    monkeypatch.setattr(known_defects, "rank_and_size", lambda: (0, 2))
    with pytest.raises(InputError, match=r"learnt in one process: .*recondite teach"):
        check_teachable(unfitted())


def test_of_many_defects_fifty_are_taken_from_the_first_to_the_last():
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8)
    known = KnownDefects.opened(images, None, unfitted())
    assert len(known.images) == len(set(known.images.ids)) == 50
    numbers = [int(name) for name in known.images.ids]
    assert (numbers[0], numbers[-1], numbers) == (0, 59, sorted(numbers))
    np.testing.assert_array_equal(known.images.pixels[:, 0], images[numbers] / np.float32(255))
    assert known.masks == {}
    # What is given again counts once, where it came first.
    known = KnownDefects.opened(images[[5, 3, 5, 3, 9]], None, unfitted())
    np.testing.assert_array_equal(known.images.pixels[:, 0], images[[5, 3, 9]] / np.float32(255))
    with pytest.raises(InputError, match="3 to 50 different images of known defects; got 2"):
        KnownDefects.opened(images[[5, 3, 5]], None, unfitted())
    good = known_of(images[:4, None] / np.float32(255)).images
    with pytest.raises(InputError, match=r"among the good images too \(1 image in all\)"):
        known.check_apart(known_of(images[10:14, None] / np.float32(255)).images, good)
    known.check_apart(known_of(images[10:14, None] / np.float32(255)).images)


@pytest.mark.parametrize("beside", [True, False])
def test_masks_are_those_of_the_images_by_name(beside, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (3, 8, 8), dtype=np.uint8)
    masks = np.arange(3 * 64).reshape(3, 8, 8) % 7 == 0
    names = ("bent/0", "bent/1", "cut/0")
    for name, image, mask in zip(names, pixels, masks, strict=True):
        for path, found in ((f"test/{name}.png", image), (f"ground_truth/{name}_mask.png", mask * np.uint8(255))):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(found).save(tmp_path / path)
    (tmp_path / "ground_truth" / "cut" / "0_mask.png").rename(tmp_path / "other.png")
    source, folder = tmp_path / "test", None
    if not beside:
        (tmp_path / "ground_truth").rename(tmp_path / "masks")
        folder = tmp_path / "masks"
        with pytest.raises(InputError, match="no mask"):
            KnownDefects.opened(source, folder, unfitted())
        (tmp_path / "other.png").rename(folder / "cut" / "0_mask.png")
    known = KnownDefects.opened(source, folder, unfitted())
    assert sorted(known.masks) == ([0, 1] if beside else [0, 1, 2])  # of those that have one
    for row, mask in known.masks.items():
        assert np.array_equal(mask, masks[row])

"""Audits: planted problems are found, good images are not, and nothing is overwritten."""

import csv
import html
import io
import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score
from sklearn.neighbors import LocalOutlierFactor

import recondite
from recondite.audits import outliers, run, walk
from recondite.audits.clusters import TWO, two_clusters
from recondite.audits.comparison import Search, alikeness
from recondite.audits.copies import copy_findings, exceptional, found_copies, nearest_of_either, usual_residual
from recondite.audits.labels import Labels, confident, cross_validated
from recondite.audits.look import look_at
from recondite.audits.measures import MEASURES, FileFacts, jpeg_quality, measured
from recondite.audits.outliers import cross_fitted, discoveries, p_values, reduced
from recondite.audits.single_images import RULES, single_image_findings, spreads_from
from recondite.audits.tails import MixedTail, Tail
from recondite.cli import main
from recondite.data.datasets import open_images
from recondite.data.images import Preprocessing
from recondite.errors import InputError


def scene(seed, side=48):
    """A smooth random picture in colour: coarse noise enlarged, over finer noise."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(40, 215, (7, 7, 3), dtype=np.uint8)).resize((side, side), Image.BICUBIC)
    grain = draw.normal(0, 4, (side, side, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8))


def jpeg(picture, quality):
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=quality)
    return stream.getvalue()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Sixty good pictures as files, and some planted problems."""
    root = tmp_path_factory.mktemp("audited") / "images"
    root.mkdir()
    for seed in range(60):
        scene(seed).save(root / f"{seed:02d}.png")
    content = (root / "00.png").read_bytes()
    (root / "cut.png").write_bytes(content[: len(content) // 2])
    (root / "junk.png").write_bytes(b"no picture")
    (root / "same.png").write_bytes(content)
    ImageOps.mirror(scene(1)).save(root / "mirrored.png")
    scene(2).crop((4, 3, 45, 44)).save(root / "cropped.png")
    ImageEnhance.Brightness(scene(3)).enhance(0.7).save(root / "dimmer.png")
    (root / "again.jpg").write_bytes(jpeg(scene(4).resize((40, 40)), 40))
    Image.fromarray((np.asarray(scene(100)) * 0.08).astype(np.uint8)).save(root / "dark.png")
    Image.fromarray((np.asarray(scene(101)) * 0.03 + 120).astype(np.uint8)).save(root / "flat.png")
    scene(102).convert("L").save(root / "grey.png")
    scene(103).resize((96, 24)).save(root / "wide.png")
    framed = np.asarray(scene(104)).copy()
    framed[:10] = framed[-10:] = 0
    Image.fromarray(framed).save(root / "framed.png")
    clear = np.dstack([np.asarray(scene(105)), np.zeros((48, 48), np.uint8)])
    clear[:8, :, 3] = 255
    Image.fromarray(clear).save(root / "clear.png")
    return root


@pytest.fixture(autouse=True)
def without_backbone(monkeypatch):
    """Grey copies in place of features: a frozen network takes seconds to load, and has tests of its own."""
    monkeypatch.setattr(run, "_backbone", lambda _images: None)


@pytest.fixture(scope="module")
def audited(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs") / "audit"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_backbone", lambda _images: None)
        return recondite.audit(scenes, folder), folder


def kinds_of(audit, name):
    return {finding.kind for finding in audit.findings if finding.id == name}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cut.png", "truncated"),
        ("junk.png", "unreadable"),
        ("same.png", "exact-copy"),
        ("mirrored.png", "near-copy"),
        ("cropped.png", "near-copy"),
        ("dimmer.png", "near-copy"),
        ("again.jpg", "near-copy"),
        ("dark.png", "dark"),
        ("flat.png", "low-contrast"),
        ("grey.png", "grey"),
        ("wide.png", "odd-proportion"),
        ("framed.png", "border"),
        ("clear.png", "transparent"),
    ],
)
def test_a_planted_problem_is_found(audited, name, kind):
    assert kind in kinds_of(audited[0], name)


def test_good_images_have_no_findings_but_for_originals_that_stand_for_their_copies(audited):
    audit, _ = audited
    flagged = {finding.id for finding in audit.findings}
    assert {f"{seed:02d}.png" for seed in range(5)} <= flagged
    assert not {f"{seed:02d}.png" for seed in range(5, 60)} & flagged
    kept = {name for name, keep in zip(audit.ids, audit.keep, strict=True) if keep}
    assert {f"{seed:02d}.png" for seed in range(60)} <= kept
    assert not {"same.png", "mirrored.png", "cropped.png", "cut.png", "junk.png"} & kept


def test_the_outputs_are_whole_and_can_be_fitted_to(audited, scenes, tmp_path):
    audit, folder = audited
    with (folder / "issues.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["id"] for row in rows] == [finding.id for finding in audit.findings]
    assert {path.name for path in folder.iterdir()} == {
        "issues.csv",
        "scores.csv",
        "keep.txt",
        "drop.txt",
        "clean",
        "report.html",
        "seen",
    }
    assert {link.name for link in (folder / "clean").iterdir()} == {
        name for name, keep in zip(audit.ids, audit.keep, strict=True) if keep
    }
    opened = open_images(str(folder / "keep.txt"))
    assert set(opened.ids) == {link.name for link in (folder / "clean").iterdir()}
    assert all(link.resolve().parent == scenes.resolve() for link in (folder / "clean").iterdir())
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "http" not in page.replace("http-equiv", "")
    pictured = [f for f in audit.findings if f.kind not in ("truncated", "unreadable")]
    # What is on the map only has its picture there; what is found or far has it once for each.
    only_drawn = set(audit.map.pictured) - {finding.index for finding in audit.findings} - set(audit.farthest)
    assert page.count("data:image/jpeg") == len(pictured) + len(audit.farthest) + len(only_drawn)
    assert (
        main(["fit", str(folder / "keep.txt"), "-o", str(tmp_path / "screen"), "--detector", "pca", "--alpha", ".2"])
        == 0
    )


def test_all_images_are_scored_the_farthest_first_and_shown(audited):
    found, folder = audited
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["id"] for row in rows) == sorted(found.ids)
    scores = [float(row["score"]) for row in rows if row["score"]]
    assert scores == sorted(scores, reverse=True)
    assert [row["id"] for row in rows[: len(found.farthest)]] == [found.ids[index] for index in found.farthest]
    assert all(found.thumbnails[index] for index in found.farthest)
    assert f'<a href="#farthest">Farthest {len(found.farthest)}</a>' in (folder / "report.html").read_text("utf-8")


def test_every_image_has_a_reason_with_a_finding_or_without(audited):
    folder = audited[1]
    with (folder / "scores.csv").open(newline="") as stream:
        reasons = {row["id"]: row["reason"] for row in csv.DictReader(stream)}
    assert "even its brightest parts are dark" in reasons["dark.png"]
    assert reasons["junk.png"].startswith("it cannot be read")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(html.escape(audited[0].differs[index]) in page for index in audited[0].farthest)
    assert all(re.search(r"most .*, by -?\d+\.\d spreads", reasons[f"{seed:02d}.png"]) for seed in range(5, 60))


def test_nothing_is_overwritten(audited, scenes, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in audited[1].rglob("*")}
    with pytest.raises(InputError, match=r"overwrites nothing, name a new folder; --earlier \S+ takes what it saw"):
        recondite.audit(scenes, audited[1])
    assert {path: path.stat().st_mtime_ns for path in audited[1].rglob("*")} == before
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(InputError, match=r"precious\.txt"):
        recondite.audit(scenes, tmp_path)


def test_an_interrupted_audit_goes_on_where_it_was(scenes, tmp_path, monkeypatch):
    seen = []

    def look(fails, source, *others):
        seen.append(source)
        if fails and len(seen) > 40:
            raise KeyboardInterrupt
        return look_at(source, *others)

    monkeypatch.setattr(walk, "_AT_ONCE", 8)
    monkeypatch.setattr(walk, "look_at", partial(look, True))
    with pytest.raises(KeyboardInterrupt):
        recondite.audit(scenes, tmp_path / "audit")
    seen.clear()
    monkeypatch.setattr(walk, "look_at", partial(look, False))
    taken_up = recondite.audit(scenes, tmp_path / "audit")
    assert len(seen) < len(taken_up.ids)
    whole = recondite.audit(scenes)
    assert [vars(a) for a in taken_up.findings if a.value == a.value] == [
        vars(b) for b in whole.findings if b.value == b.value
    ]
    np.testing.assert_array_equal(taken_up.scores, whole.scores)


def test_what_an_audit_was_writing_when_it_was_killed_is_removed(scenes, tmp_path):
    (tmp_path / "audit" / ".work").mkdir(parents=True)
    (tmp_path / "audit" / ".recondite-1.partial").mkdir()
    (tmp_path / "audit" / ".recondite-1.partial" / "new").write_bytes(b"a part of a table")
    recondite.audit(scenes, tmp_path / "audit")
    assert not list((tmp_path / "audit").glob(".*"))


def test_each_image_is_decoded_once_and_statistics_are_those_of_the_image_alone(scenes, monkeypatch):
    seen = []
    monkeypatch.setattr(walk, "look_at", lambda source, *others: seen.append(source) or look_at(source, *others))
    audit = recondite.audit(scenes)
    assert len(seen) == len(audit.ids)
    alone = look_at(scenes / "07.png", None).measures
    np.testing.assert_array_equal(
        audit.measures[audit.ids.index("07.png")], np.array(list(alone.values()), dtype=np.float32)
    )


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 60, 3), (60, 7), (64, 64, 3)])
def test_an_image_of_few_pixels_a_side_is_read_as_a_screen_reads_it(shape):
    content, stream = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8), io.BytesIO()
    Image.fromarray(content).save(stream, format="PNG")
    preprocessing = Preprocessing(shape=(3, 32, 32))
    seen = look_at(stream.getvalue(), preprocessing)
    assert seen.error is None
    np.testing.assert_allclose(seen.pixels, preprocessing(stream.getvalue()), atol=1e-6)


def test_leaks_are_what_another_source_has_too():
    pictures = [np.asarray(scene(seed)) for seed in range(30)]
    others = [np.asarray(scene(seed)) for seed in range(200, 230)]
    others[3] = pictures[5]
    others[8] = np.asarray(ImageOps.mirror(scene(9)))
    found = recondite.audit(pictures, against=others)
    assert {finding.id for finding in found.findings if finding.kind == "leak"} == {"000005", "000009"}
    assert len(found.ids) == 30


def test_tars_and_streams_are_audited_too(tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for seed in range(20):
            content = jpeg(scene(seed % 19), 90)
            info = tarfile.TarInfo(f"{seed:02d}.jpg")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert [f.id for f in recondite.audit(tmp_path / "a.tar").findings if f.drop] == ["a.tar/19.jpg"]
    stream = (np.asarray(scene(seed % 19)) for seed in range(20))
    assert [f.id for f in recondite.audit(stream).findings if f.drop] == ["000019"]


def test_simple_drawings_that_are_all_alike_are_no_copies(digits):
    grey = np.stack([look_at(digit, None).grey.ravel() for digit in digits[:300]])
    names = [str(index) for index in range(299)] + ["0"]
    found = found_copies(names, grey, np.zeros((300, 0), np.float16))
    np.testing.assert_array_equal(found.pairs, [[0], [299]])


def test_copies_whose_features_disagree_have_to_be_the_surer():
    draw = np.random.default_rng(0)
    pictures = [np.asarray(scene(seed)) for seed in range(80)]
    noisy = [picture + draw.normal(0, 60 + 4 * index, picture.shape) for index, picture in enumerate(pictures[:20])]
    every = [*pictures, *(picture.clip(0, 255).astype(np.uint8) for picture in noisy)]
    grey = np.stack([look_at(picture, None).grey.ravel() for picture in every])
    features, names = draw.standard_normal((100, 32)).astype(np.float16), [str(index) for index in range(100)]
    disagree = set(found_copies(names, grey, features).pairs[0])
    features[80:] = features[:20]
    agree = found_copies(names, grey, features).pairs
    np.testing.assert_array_equal(agree[1] - agree[0], 80)
    assert set() < disagree < set(agree[0])


def test_how_exceptional_a_pair_is_depends_on_what_is_usual_around_both():
    alike, details = np.array([0.9, 0.9]), np.array([0.8, 0.8])
    near, far = exceptional(alike, details, np.array([0.2, 0.4]))
    assert far - near == pytest.approx(np.log(2) / 2)
    grey = np.random.default_rng(0).integers(0, 255, (40, 1024), dtype=np.uint8)
    grey[20:] = grey[20] // 2 + grey[20:] // 2
    usual = usual_residual(grey, np.array([[0, 0, 21], [1, 21, 22]]).repeat(20, axis=1))
    assert np.ptp(usual[:20]) == 0


def test_a_tail_is_the_exponential_it_was_drawn_from_whatever_lies_beyond():
    scores = np.random.default_rng(0).exponential(2, 20000)
    scores[:1000] += 100
    assert -10 <= np.log(Tail(scores, 0.5, 0.8).beyond(np.array([20.0]))[0]) < -8
    assert Tail(scores, 0.5, 0.8).beyond(np.array([0.0]))[0] == 1


def test_a_pair_is_nearest_where_no_other_pair_of_one_of_its_images_is_nearer():
    pairs = np.array([[0, 0, 1, 2], [2, 1, 3, 3]])
    np.testing.assert_array_equal(nearest_of_either(pairs, np.array([0.1, 0.4, 0.1, 0.3])), [True, False, True, False])
    np.testing.assert_array_equal(nearest_of_either(pairs, np.array([0.1, 0.4, 0.5, 0.3])), [True, True, False, True])


def test_a_mixed_tail_is_that_of_what_is_usual_whatever_share_is_not():
    draw = np.random.default_rng(0)
    usual = draw.exponential(0.5, 20000)
    for others in (0, 1000):
        tail = MixedTail(np.concatenate([usual, 3 + 5 * draw.random(others)]), 0.8, 8.0)
        assert -12 < np.log(tail.beyond(np.array([5.0]))[0]) < -9
    assert tail.beyond(np.array([0.0]))[0] == 1


def test_a_mixed_tail_of_little_finds_nothing_where_there_is_nothing():
    found = 0
    for seed in range(100):
        scores = np.random.default_rng(seed).exponential(0.5, 120)
        found += discoveries(MixedTail(scores, 0.8, 8.0).beyond(scores), 0.002).any()
    assert found <= 2


def test_correlation_is_that_of_the_right_crop():
    one, two = scene(1, 64), scene(2, 64)
    grey = np.stack([look_at(np.asarray(p), None).grey.ravel() for p in (one, one.crop((6, 3, 60, 57)), two)])
    (alike, _), _ = alikeness(grey, np.array([[0, 0], [1, 2]]), Search((0.85,), 7))
    assert alike[0] > 0.97
    assert alike[1] < 0.9


def test_a_sign_and_a_blur_matter_only_where_images_are_compared_as_they_are():
    one, two = scene(1, 64), scene(2, 64)
    signed = one.copy()
    signed.paste((255, 255, 255), (0, 0, 16, 16))
    pictures = (one, signed, one.filter(ImageFilter.GaussianBlur(4)), two)
    grey = np.stack([look_at(np.asarray(picture), None).grey.ravel() for picture in pictures])
    alike, details = alikeness(grey, np.array([[0, 0, 0], [1, 2, 3]]), Search((), 1, (1.0,)))
    assert alike[0, 0] < 0.92 < 0.99 < alike[1, 0]
    assert details[0, 1] < 0.95 < 0.98 < details[1, 1]
    assert alike[1, 2] < 0.8


def test_what_differs_anywhere_but_in_a_corner_or_along_a_border_is_not_left_out():
    one = np.zeros((32, 32), np.uint8)
    one[6:26, 6:8] = 255
    another, framed = one.copy(), one.copy()
    another[14:16, 8:26] = 255  # another stroke, a tenth of the area
    framed[-4:] = 255
    pairs, search = np.array([[0, 0], [1, 2]]), Search((), 1, (1.0,))
    alike, _ = alikeness(np.stack([some.ravel() for some in (one, another, framed)]), pairs, search)
    assert alike[1, 0] < 0.9
    assert alike[1, 1] > 0.999


def test_copies_with_a_sign_and_blurred_ones_are_found():
    pictures = [scene(seed) for seed in range(80)]
    blurred = [picture.filter(ImageFilter.GaussianBlur(2.5)) for picture in pictures[:10]]
    signed = [picture.copy() for picture in pictures[10:20]]
    for picture in signed:
        picture.paste((255, 255, 255), (0, 0, 12, 12))
    grey = np.stack([look_at(np.asarray(picture), None).grey.ravel() for picture in (*pictures, *blurred, *signed)])
    pairs = found_copies([str(index) for index in range(100)], grey, np.zeros((100, 0), np.float16)).pairs
    np.testing.assert_array_equal(pairs, [np.arange(20), np.arange(80, 100)])


def test_statistics_by_hand():
    picture = np.zeros((3, 32, 64), np.float32)
    picture[:, :, 32:] = 1
    found = measured(picture, None, FileFacts(), (32, 64))
    assert list(found) == list(MEASURES)
    assert found["highlights"] == 1
    assert found["shadows"] == 0
    assert found["contrast"] == pytest.approx(np.log(0.5), abs=1e-3)
    assert found["proportion"] == pytest.approx(np.log(2))
    assert found["border"] == pytest.approx(0.5)
    assert found["chroma"] == 0
    assert found["code_length"] == pytest.approx(8 * 32 / (32 * 63) / 2)


def test_noise_is_estimated_in_the_units_of_the_image():
    noisy = np.random.default_rng(0).normal(0.5, 0.05, (1, 200, 200)).astype(np.float32).clip(0, 1)
    assert np.exp(measured(noisy, None, FileFacts(), (200, 200))["noise"]) == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize("quality", [20, 35, 50, 75, 95])
def test_jpeg_quality_is_the_one_it_was_written_at(quality):
    with Image.open(io.BytesIO(jpeg(scene(0), quality))) as picture:
        assert jpeg_quality(picture.quantization[0]) == pytest.approx(quality, abs=2)


def test_spreads_have_a_floor_and_a_side():
    values = np.array([1.0] * 9 + [2.0])
    assert spreads_from(values, "high", 0.1)[-1] == pytest.approx(10)
    assert spreads_from(values, "low", 0.1)[-1] == pytest.approx(-10)
    assert {rule.measure for rule in RULES} <= set(MEASURES)


def test_a_tag_that_turns_an_image_away_from_what_the_others_show_is_told():
    draw = np.random.default_rng(0)
    upright = np.linspace(220, 40, 32)[:, None] + draw.normal(0, 40, (140, 32, 32)) + 10 * np.eye(32)
    turns = {2: np.fliplr, 3: lambda one: np.rot90(one, 2), 4: np.flipud, 5: np.transpose}
    turns |= {6: lambda one: np.rot90(one, -1), 7: lambda one: np.rot90(one.T, 2), 8: np.rot90}
    tags = [None] * 120 + [3, 4, 5, 6, 7, 8] + [3, 4, 5, 6, 7, 8] + [2] * 8
    for index in range(120, 126):  # turned though they were upright
        upright[index] = turns[tags[index]](upright[index])

    class Row:
        def __init__(self, tag):
            self.id, self.error, self.orientation, self.turned = "x", None, tag, tag in (5, 6, 7, 8)

    def found(rows):
        grey = upright.clip(0, 255).astype(np.uint8).reshape(len(upright), -1)[: len(rows)]
        told = single_image_findings(rows, np.zeros((len(rows), len(MEASURES)), np.float32), grey)
        return [finding.index for finding in told if finding.kind == "wrong-orientation"]

    assert found([Row(tag) for tag in tags]) == list(range(120, 126))
    assert not found([Row(tag) for tag in tags[50:]])  # too few to know what the others show


def test_copies_are_in_one_part_so_that_they_do_not_vouch_for_each_other():
    places = np.random.default_rng(0).standard_normal((200, 4))
    places[:60] = [9, 9, 9, 9]
    alone = np.arange(200)
    together = np.where(alone < 60, 0, alone)
    assert cross_fitted(places, together)[:60].min() > cross_fitted(places, together)[60:].max()
    assert cross_fitted(places, together)[0] > cross_fitted(places, alone)[0]


def test_components_are_those_of_fewer_vectors_too():
    draw = np.random.default_rng(0)
    vectors = (draw.standard_normal((120, 130)) * np.linspace(9, 1, 130)).astype(np.float16)
    few, many = reduced(vectors, 10), reduced(np.concatenate([vectors, vectors]), 10)[:120]
    np.testing.assert_allclose(np.abs(few), np.abs(many), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.abs(few[:, ::-1]), np.abs(PCA(10).fit_transform(vectors.astype(float))), atol=1e-6)


def test_outliers_that_are_alike_do_not_vouch_for_each_other():
    places = np.random.default_rng(0).standard_normal((300, 8))
    places[:30] = 3 + 0.05 * places[:30]
    scores = cross_fitted(places, np.arange(300))
    assert scores[:30].min() > scores[30:].max()
    assert (
        average_precision_score(np.arange(300) < 30, -LocalOutlierFactor(20).fit(places).negative_outlier_factor_) < 0.5
    )


def test_a_part_of_many_images_stands_for_all_of_them(monkeypatch):
    places = np.random.default_rng(0).standard_normal((1000, 5))
    places[:20] *= 3
    whole = cross_fitted(places, np.arange(1000))
    monkeypatch.setattr(outliers, "_BANK", 200)
    monkeypatch.setattr(outliers, "_REFERENCES", 100)
    assert spearmanr(whole, cross_fitted(places, np.arange(1000))).statistic > 0.9


def test_a_place_in_a_thin_region_is_far_though_it_is_near_the_middle():
    draw = np.random.default_rng(0)
    ring = draw.standard_normal((400, 2))
    ring *= 5 / np.linalg.norm(ring, axis=1, keepdims=True)
    places = np.concatenate([[[0.0, 0.0]], ring + 0.1 * draw.standard_normal((400, 2))])
    assert cross_fitted(places, np.arange(401)).argmax() == 0


def test_few_false_discoveries_and_most_outliers_found():
    shares, found = [], []
    for seed in range(40):
        draw = np.random.default_rng(seed)
        places = draw.standard_normal((600, 10))
        places[:12] += 4
        flagged = discoveries(p_values(cross_fitted(places, np.arange(600))), 0.1)
        shares.append(flagged[12:].sum() / max(1, flagged.sum()))
        found.append(flagged[:12].mean())
    assert np.mean(shares) <= 0.1
    assert np.mean(found) > 0.5


def test_p_values_are_made_for_scores_that_fall_off_a_little_faster_than_exponentials():
    anything, found = [], []
    for seed in range(100):
        draw = np.random.default_rng(seed)
        anything.append(discoveries(p_values(draw.exponential(1, 700)), 0.1).any())
        scores = draw.standard_normal(700)
        scores[:35] += 5.5
        flagged = discoveries(p_values(scores), 0.1)
        assert not flagged[35:].any()
        found.append(flagged[:35].mean())
    assert np.mean(anything) < 0.3
    assert np.mean(found) > 0.7


def test_the_representative_is_the_largest_and_counts_once():
    class Row:
        def __init__(self, name, digest):
            self.id, self.digest = name, digest

    rows = [Row("small", "x"), Row("large", "x"), Row("other", "y")]
    copies = found_copies(["x", "x", "y"], np.zeros((3, 1024), np.uint8), np.zeros((3, 0), np.float16))
    findings = copy_findings(rows, copies, np.array([1.0, 2.0, 3.0]))
    assert {finding.id: finding.drop for finding in findings} == {"small": True, "large": False}
    reasons = {finding.id: finding.reason for finding in findings}
    assert reasons["small"].endswith(": large")
    assert reasons["large"].endswith(": small; it stands for its group and is kept")


def test_of_equal_copies_one_with_a_label_is_kept():
    rows = [SimpleNamespace(id=name, digest=name[0]) for name in ("x1", "x2", "x3")]
    copies = found_copies(["x", "x", "x"], np.zeros((3, 1024), np.uint8), np.zeros((3, 0), np.float16))
    for labels, kept in ((["", "cat", "cat"], "x2"), (["", None, ""], "x1")):
        findings = copy_findings(rows, copies, np.ones(3), labels=labels)
        assert [finding.id for finding in findings if not finding.drop] == [kept]


def test_planted_wrong_labels_are_found(digits):
    pictures = list(digits[:600])
    truth = load_digits().target[:600]
    draw = np.random.default_rng(0)
    wrong = draw.permutation(600)[:30]
    given = truth.copy()
    given[wrong] = (truth[wrong] + draw.integers(1, 10, 30)) % 10
    audit = recondite.audit([(picture, str(label)) for picture, label in zip(pictures, given, strict=True)])
    found = {finding.index: finding.suggested for finding in audit.findings if finding.kind == "label"}
    right = set(found) & set(wrong.tolist())
    assert len(right) >= 0.8 * 30
    assert len(right) >= 0.6 * len(found)  # of images drawn at random one in twenty would be right
    assert np.mean([found[index] == str(truth[index]) for index in right]) >= 0.8
    told = next(remark for remark in audit.remarks if "are wrong (95 % interval" in remark)
    assert 0.8 <= float(told.partition("agrees with ")[2].partition("%")[0]) / 100 <= 0.95  # one in twenty is wrong
    rows = [row for row in audit.records() if row["finding"] == "label"]
    assert {row["suggested"] for row in rows} <= set("0123456789")
    assert all(row["label"] != row["suggested"] for row in rows)
    # Not only suspects: the probability of its label ranks every image.
    assert average_precision_score(given != truth, -audit.label_probabilities) > 0.9
    assert [row["value"] for row in rows] == [1 - audit.label_probabilities[audit.ids.index(row["id"])] for row in rows]


def test_confident_learning_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7], [0.05, 0.95]])
    found = confident(probabilities, np.array([0, 0, 0, 1, 1, 1]), ["a", "b"])
    assert found.suspect.tolist() == [False, False, False, False, False, False]  # .8 is less than the mean, .85
    probabilities[2] = 0.1, 0.9
    found = confident(probabilities, np.array([0, 0, 0, 1, 1, 1]), ["a", "b"])
    assert found.suspect.tolist() == [False, False, True, False, False, False]
    share, low, high = found.noise()
    assert 0 < low < share == 1 / 6 < high < 1
    assert found.overlaps() == [("a", "b", pytest.approx(1 / 3))]


def test_of_classes_that_overlap_no_more_than_all_images_count_as_of_the_other():
    given = np.repeat([0, 1, 2], [10, 40, 10])
    suspect = np.isin(np.arange(60), [*range(3), *range(10, 40)])
    suggested = np.where(suspect, 1 - given, given)
    found = Labels(("a", "b", "c"), given, np.zeros(60), suggested, np.zeros(60), suspect)
    assert found.overlaps() == [("b", "a", pytest.approx(0.75))]
    alike = np.isin(np.arange(60), [*range(3), *range(10, 22)])
    found = Labels(("a", "b", "c"), given, np.zeros(60), np.where(alike, 1 - given, given), np.zeros(60), alike)
    assert [share for _, _, share in found.overlaps()] == [pytest.approx(0.3)]


def test_classes_of_few_images_are_told_in_one_line(digits):
    audit = recondite.audit([(digit, f"class {place}") for place, digit in enumerate(digits[:60])])
    [told] = [remark for remark in audit.remarks if "rare" in remark]
    assert told.startswith("rare: 60 classes of fewer than 10 images, whose labels are not judged ('class 0' of 1, ")
    assert told.endswith(" and 55 more)")


def test_a_set_of_copies_of_one_image_has_outputs(digits, tmp_path):
    audit = recondite.audit([digits[0]] * 60, tmp_path / "out")
    assert audit.counts() == {"exact-copy": 60}
    assert int(audit.keep.sum()) == 1
    assert (audit.map.points == 0.5).all()
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_list_of_ids_is_not_said_to_be_a_source(digits, tmp_path, capsys):
    np.save(tmp_path / "digits.npy", digits[:60])
    assert main(["audit", str(tmp_path / "digits.npy"), "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "keep.txt").read_text().splitlines()[0] == "000000"
    printed = capsys.readouterr().out
    assert f"farthest from the others first, listed or not: {tmp_path / 'out' / 'report.html'}#farthest" in printed
    told = printed + (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "recondite fit" not in told
    assert "by their ids" in told


def test_a_class_of_two_digits_has_two_clusters_and_a_class_of_one_has_not(digits):
    names = load_digits().target
    chosen = np.concatenate([np.flatnonzero(names == digit)[:count] for digit, count in ((0, 70), (4, 30), (6, 60))])
    labels = ["0 or 4" if names[index] in (0, 4) else "6" for index in chosen]
    audit = recondite.audit([(digits[index], label) for index, label in zip(chosen, labels, strict=True)])
    found = [finding for finding in audit.findings if finding.kind == "two-clusters"]
    assert {names[chosen[finding.index]] for finding in found} == {4}
    assert len(found) >= 28
    assert {finding.group for finding in found} == {"class 0 or 4"}
    assert not any(finding.drop for finding in found)
    assert sum("has two clusters" in remark for remark in audit.remarks) == 1
    row = next(row for row in audit.records() if row["finding"] == "two-clusters")
    assert TWO <= row["value"] <= 1
    assert f"{len(found)} images" in row["reason"]


def test_one_bell_is_no_two_clusters_and_copies_are_none():
    draw = np.random.default_rng(0)
    bells = draw.standard_normal((20, 100, 6)) * [4, 1, 1, 1, 1, 1]
    alone = np.arange(100)
    assert not any(two_clusters(bell, alone) for bell in bells)
    apart = bells[0] + np.where(alone < 30, 30, 0)[:, None]
    np.testing.assert_array_equal(two_clusters(apart, alone).smaller, alone < 30)
    assert two_clusters(apart, np.where(alone < 30, 0, alone)) is None
    assert two_clusters(apart[:35], alone[:35]) is None


def test_copies_do_not_vouch_for_a_label():
    draw = np.random.default_rng(0)
    places = np.concatenate([draw.standard_normal((40, 3)), draw.standard_normal((40, 3))])
    places[40:, 0] += 5
    places[:4] = 0, 0, 15
    given = np.repeat([0, 1], 40)
    given[:4] = 1
    alone, together = np.arange(80), np.maximum(np.arange(80), 3)
    assert cross_validated(places, given, together)[:4, 1].max() < cross_validated(places, given, alone)[:4, 1].min()


def test_folders_are_classes_only_when_that_is_said(tmp_path):
    for seed in range(60):
        folder = tmp_path / ("light" if seed % 2 else "heavy") / "of"
        folder.mkdir(parents=True, exist_ok=True)
        picture = np.asarray(scene(seed)) // 2 + 127 * ((seed % 2) ^ (seed == 7))
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{seed:02d}.png")
    assert "label" not in recondite.audit(tmp_path).counts()
    audit = recondite.audit(tmp_path, labels_from_folders=True)
    found = [(finding.id, finding.suggested) for finding in audit.findings if finding.kind == "label"]
    assert found == [("light/of/07.png", "heavy/of")]


def test_mistakes_are_told(tmp_path, capsys):
    assert main(["audit", str(tmp_path / "nowhere"), "-o", str(tmp_path / "a")]) == 2
    assert main(["audit", "digits", "-o", str(tmp_path / "a"), "--fdr", "1.5"]) == 2
    with pytest.raises(InputError, match="vectors"):
        recondite.audit(np.zeros((4, 3), np.float32))
    (tmp_path / "empty.txt").write_bytes(b"\n")
    with pytest.raises(InputError, match="lists no images"):
        open_images(tmp_path / "empty.txt")
    assert "Traceback" not in capsys.readouterr().err

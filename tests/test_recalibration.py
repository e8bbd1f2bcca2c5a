import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import recondite
from recondite.cli import main
from recondite.data.datasets import open_images, read_batches
from recondite.data.images import Preprocessing
from recondite.data.spool import Rows, keys_of, read_all
from recondite.data.tables import write_table
from recondite.errors import ArtifactError, InputError, ReconditeWarning
from recondite.reports.recalibration import recalibrate
from recondite.reports.reviewed import sample_for_review
from recondite.screen.calibrate import PROBE, calibrated, check_probe, map_scale, scale_of, unknown_images, unknown_rows
from recondite.screen.promise import promise
from recondite.statistics.calibration import Calibrator
from recondite.statistics.scores import Scores


@pytest.fixture(scope="module")
def screen(screens):
    return screens("pca")


@pytest.fixture(scope="module")
def stream(digits):
    """Other writers' digits, a little brighter, so that the old threshold is too low; and blank images."""
    brighter = np.clip(digits[1400:1650].astype(int) + 2, 0, 255).astype(np.uint8)
    return np.concatenate([brighter, np.full((20, 8, 8), 200, np.uint8)])


@pytest.fixture(scope="module")
def unchanged(screen, stream, digits):
    """The screen, without what it has learnt from, and a stream of that and the same blank images."""
    some = np.random.default_rng(1).permutation(1400)[:250]
    return replace(screen, known=None), np.concatenate([digits[some], stream[250:]])


@pytest.fixture(scope="module")
def labels():
    return ["inlier"] * 250 + ["outlier"] * 20


def table(path, screen, images, labels, statistics=True, sampled=1.0):
    """Write verdicts with labels; by default as a random sample, of all that came."""
    verdicts = screen.predict(images)
    more = {} if sampled is None else {"sampled": sampled}
    rows = [{**row, "label": label, **more} for row, label in zip(verdicts.records(statistics), labels, strict=True)]
    write_table(path, rows)
    return path


def test_labels_give_the_screen_that_the_images_give(screen, stream, labels, tmp_path):
    events = table(tmp_path / "events.csv", screen, stream, labels)
    result = recalibrate(screen, events)
    expected = screen.recalibrated(stream[:250], group_by="none")
    assert np.array_equal(result.after.calibrator.scores, expected.calibrator.scores)
    assert result.after.fingerprint() == expected.fingerprint()
    assert result.after.threshold == expected.threshold > screen.threshold
    for name, values in expected.observations.items():
        assert np.array_equal(result.after.observations[name], values)
    assert result.after.with_score("error").threshold == expected.with_score("error").threshold
    again = recalibrate(screen, events, images=stream)
    assert again.after.fingerprint() == screen.recalibrated(stream[:250]).fingerprint()
    result.after.save(tmp_path / "screen")
    assert recondite.load(tmp_path / "screen").fingerprint() == expected.fingerprint()
    assert result.after.facts["calibration"]["outliers"] == 20


def test_the_report_says_what_changes(screen, stream, labels, tmp_path):
    result = recalibrate(screen, table(tmp_path / "events.csv", screen, stream, labels))
    rows = {row["measure"]: (row["before"], row["after"]) for row in result.table}
    flags = [judge.predict(stream).is_outlier for judge in (screen, result.after)]
    assert rows["labelled inliers flagged"] == tuple(
        f"{one[:250].sum()} of 250 ({one[:250].mean():.1%})" for one in flags
    )
    assert rows["labelled outliers flagged"][1] == "20 of 20 (100.0%)"
    assert rows["verdicts that change"][1].startswith(f"{(flags[0] != flags[1]).sum()} of 270")
    assert rows["calibration images"] == ("280", "250")
    assert flags[0][:250].mean() > 0.08
    assert flags[1][:250].mean() <= 0.05


def test_labels_of_flagged_images_only_are_refused(unchanged, labels, tmp_path):
    screen, stream = unchanged
    flagged = screen.predict(stream).is_outlier
    some = [label if flag else "" for label, flag in zip(labels, flagged, strict=True)]
    events = table(tmp_path / "events.csv", screen, stream, some, sampled=None)
    with pytest.raises(InputError, match=r"100% are flagged, of all .* labels that were given to flagged images only"):
        recalibrate(screen, events)
    counted = recalibrate(screen, events, unlabelled="inlier").after
    with pytest.warns(ReconditeWarning, match="does not know which images it was fitted on"):
        assert counted.threshold == screen.recalibrated(stream[:250], group_by="none").threshold


def test_a_random_sample_is_not_refused(screen, stream, labels, tmp_path):
    drawn = np.random.default_rng(0).random(270) < 0.5
    some = [label if one else "" for label, one in zip(labels, drawn, strict=True)]
    result = recalibrate(screen, table(tmp_path / "events.csv", screen, stream, some))
    assert len(result.after.calibrator.scores) == drawn[:250].sum()


def test_the_last_label_of_an_image_counts(unchanged, labels, tmp_path):
    screen, stream = unchanged
    verdicts = list(screen.predict(stream).records(statistics=True))
    rows = [{**row, "label": "outlier"} for row in verdicts]
    rows += [{**row, "label": label} for row, label in zip(verdicts, labels, strict=True)]
    rows += [{**row, "label": ""} for row in verdicts]
    write_table(tmp_path / "events.jsonl", rows)
    result = recalibrate(screen, tmp_path / "events.jsonl")
    assert len(result.reviewed.labels) == 270
    assert len(result.after.calibrator.scores) == 250


def test_a_label_does_not_pass_to_another_image_of_the_same_name(screen, digits, tmp_path):
    """Two days of a camera whose counter began again: the names are the same, the images are others."""
    monday, tuesday = (list(screen.predict(digits[start : start + 60]).records(True)) for start in (1400, 1500))
    rows = [{**row, "label": "inlier"} for row in monday] + [{**row, "label": ""} for row in tuesday]
    write_table(tmp_path / "events.csv", rows)
    reviewed = recalibrate(screen, tmp_path / "events.csv").reviewed
    assert len(reviewed.labels) == 120
    assert list(reviewed.scores.instance_score[reviewed.rows("inlier")]) == [row["instance_score"] for row in monday]
    rows[60]["label"] = "inlier"
    write_table(tmp_path / "events.csv", rows)
    with pytest.raises(InputError, match="are of different images"):
        recalibrate(screen, tmp_path / "events.csv", images=digits[1400:1460])


def test_calibration_images_can_be_kept(screen, digits, tmp_path):
    events = table(tmp_path / "events.csv", screen, digits[1400:1500], ["inlier"] * 100)
    for images in (None, digits[1400:1500]):
        kept = recalibrate(screen, events, images=images, keep=True).after
        assert 370 < len(kept.calibrator.scores) <= 380
        assert np.array_equal(kept.calibrator.scores[:280], screen.calibrator.scores)
        assert {len(values) for values in kept.observations.values()} == {len(kept.calibrator.scores)}
        assert kept.with_score("evidence").threshold > 0


def test_groups_keep_their_own_threshold(digits, folder, tmp_path):
    grouped = recondite.fit(digits[40:340], detector="pca", latent_size=8).recalibrated(folder, by_folder=True)
    events = table(tmp_path / "events.csv", grouped, folder, ["inlier"] * 40)
    for images in (None, folder):
        after = recalibrate(grouped, events, images=images).after
        assert after.calibrator.sizes == {"even": 20, "odd": 20}
        assert after.thresholds == grouped.thresholds


def test_what_cannot_be_used_is_refused(screen, stream, labels, tmp_path):
    def refused(message, labels=labels, statistics=True, **settings):
        events = table(tmp_path / "events.csv", screen, stream, labels, statistics)
        with pytest.raises(InputError, match=message):
            recalibrate(screen, events, **settings)

    refused("has no labels", [""] * 270)
    refused("no image labelled 'inlier'", ["outlier"] * 270)
    refused("expected a label among inlier, outlier, skip; got 'good'", ["good", *labels[1:]])
    refused("lack statistics", statistics=False)
    refused("labelled images are not there; the first: '000100'", images=stream[:100])
    refused("needs at least 19 calibration images; got 3", ["inlier"] * 3 + ["skip"] * 267)
    events = table(tmp_path / "events.csv", screen.with_score("error"), stream, labels)
    with pytest.raises(InputError, match="another screen"):
        recalibrate(screen, events)


def test_an_unreadable_image_is_left_out(screen, digits, tmp_path):
    events = table(tmp_path / "events.csv", screen, [*digits[1400:1450], b"x"], ["inlier"] * 51)
    result = recalibrate(screen, events)
    assert (len(result.after.calibrator.scores), result.reviewed.invalid) == (50, 1)


def test_the_command(screen, stream, labels, tmp_path, capsys):
    screen.save(tmp_path / "screen")
    np.save(tmp_path / "new.npy", stream)
    one, other = tmp_path / "verdicts.csv", tmp_path / "labelled.csv"
    assert main(["predict", str(tmp_path / "screen"), str(tmp_path / "new.npy"), "-o", str(one), "--statistics"]) == 0
    with one.open() as source, other.open("w", newline="") as target:
        rows = [
            {**row, "label": label, "sampled": 1} for row, label in zip(csv.DictReader(source), labels, strict=True)
        ]
        writer = csv.DictWriter(target, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    arguments = ["recalibrate", str(tmp_path / "screen"), str(other), "-o", str(tmp_path / "after")]
    assert main([*arguments, "--report", str(tmp_path / "report.html")]) == 0
    assert "labelled inliers flagged" in capsys.readouterr().out
    after = recondite.load(tmp_path / "after")
    assert after.threshold == screen.recalibrated(stream[:250], group_by="none").threshold
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "verdicts that change" in page
    with one.open() as source:
        assert "label" not in source.readline().split(",")
    assert main(["recalibrate", str(tmp_path / "screen"), str(one), "-o", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()


def test_confirmed_normals_can_be_learnt_from(screen, folder, tmp_path):
    """The refit of the documentation: images by the ids of events."""
    from recondite.data.tables import read_events

    events = table(tmp_path / "events.csv", screen, folder, ["inlier"] * 30 + ["outlier"] * 10)
    confirmed = [folder / row["id"] for row in read_events(events) if row["label"] == "inlier"]
    again = recondite.fit(confirmed, detector="pca", latent_size=4, alpha=0.2)
    assert again.facts["images"]["images"] + again.facts["calibration"]["images"] <= 30


@pytest.fixture(scope="module")
def normal(screens, digits):
    """A screen of other digits than it is shown, at alpha .05, and these: normal images as before."""
    return screens("pca").recalibrated(digits[1400:1600], group_by="none"), digits[1600:]


def test_a_random_sample_of_images_as_before_is_taken_without_a_sign(normal, tmp_path):
    screen, images = normal
    events = table(tmp_path / "events.csv", screen, images, ["inlier"] * len(images), sampled=None)
    after = recalibrate(screen, events).after
    assert not after.facts["calibration"]["no_promise"]
    assert "at most 0.05" in promise(after)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("flagged alone", "100.0% are flagged"),
        ("unflagged alone", "0.0% are flagged"),
        ("flagged skipped", "of the images skipped 100% are flagged"),
        ("flagged left blank", "of the images without a label 41% are flagged"),
        ("the lowest", "0.0% are flagged|p-values are not uniform"),
        ("the lowest, with their share of flagged ones", "p-values are not uniform.*the screen was fitted on some"),
    ],
)
def test_a_selection_by_scores_is_refused(what, said, screens, digits, tmp_path):
    forgetful = replace(screens("pca"), known=None)  # it has learnt from some of these, which is of no matter here
    shuffled = digits[np.random.default_rng(0).permutation(1400)]
    with pytest.warns(ReconditeWarning, match="does not know which images it was fitted on"):
        screen = forgetful.with_alpha(0.1).recalibrated(shuffled[:200], group_by="none")
    images = shuffled[200:800]
    verdicts = screen.predict(images)
    flags, order = verdicts.is_outlier, np.argsort(verdicts.instance_score)
    labels, chosen = ["inlier"] * len(images), np.arange(len(images))
    if what == "flagged skipped":
        labels = ["skip" if one else "inlier" for one in flags]
    elif what == "flagged left blank":
        labels = ["" if one else "inlier" for one in flags]
        labels[: len(labels) // 5] = [""] * (len(labels) // 5)
    elif what == "flagged alone":
        chosen = np.flatnonzero(flags)
    elif what == "unflagged alone":
        chosen = np.flatnonzero(~flags)
    elif what == "the lowest":
        chosen = order[:300]
    else:
        chosen = np.concatenate([order[:90], np.flatnonzero(flags)[:10]])
    events = table(tmp_path / "events.csv", screen, images[chosen], [labels[i] for i in chosen], sampled=None)
    with pytest.raises(InputError, match=said) as refused:
        recalibrate(screen, events)
    assert "sample-for-review" in str(refused.value)
    forced = recalibrate(screen.with_alpha(0.2), events, force=True).after
    assert forced.facts["calibration"]["no_promise"]
    assert promise(forced).startswith("Nothing is promised")


def test_a_sample_for_review_may_have_changed_but_not_be_left_half_labelled(screen, stream, tmp_path, capsys):
    screen.save(tmp_path / "screen")
    np.save(tmp_path / "new.npy", stream)
    verdicts, sample = tmp_path / "verdicts.csv", tmp_path / "sample.csv"
    main(["predict", str(tmp_path / "screen"), str(tmp_path / "new.npy"), "-o", str(verdicts), "--statistics"])
    assert main(["sample-for-review", str(verdicts), "-o", str(sample), "-n", "150"]) == 0
    with sample.open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["id"] for row in rows}) == len(rows) == 150
    assert {row["label"] for row in rows} == {""}
    assert float(rows[0]["sampled"]) == pytest.approx(150 / 270)
    for row in rows:
        row["label"] = "outlier" if int(row["id"]) >= 250 else "inlier"
    write_table(sample, rows)
    assert main(["recalibrate", str(tmp_path / "screen"), str(sample), "-o", str(tmp_path / "after")]) == 0
    assert recondite.load(tmp_path / "after").facts["calibration"]["sampled"]
    for row in rows:
        row["label"] = "" if row["is_outlier"] == "True" else row["label"]
    write_table(sample, rows)
    capsys.readouterr()
    arguments = ["recalibrate", str(tmp_path / "screen"), str(sample), "-o", str(tmp_path / "other")]
    assert main(arguments) == 2
    assert "skipped" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0
    capsys.readouterr()
    assert main(["info", str(tmp_path / "other")]) == 0
    assert "Nothing is promised" in " ".join(capsys.readouterr().out.split())


def test_what_was_looked_at_more_closely_counts_as_it_does_among_all(screens, digits, tmp_path):
    """All flagged images are labelled, and a tenth of the others, as the column of probabilities says."""
    shuffled = digits[np.random.default_rng(0).permutation(1400)]
    with pytest.warns(ReconditeWarning, match="does not know which images it was fitted on"):
        screen = replace(screens("pca"), known=None).recalibrated(shuffled[:200], group_by="none")
    images = shuffled[200:]
    flags = screen.predict(images).is_outlier
    drawn = np.flatnonzero(flags | (np.random.default_rng(1).random(len(flags)) < 0.1))
    probability = np.where(flags[drawn], 1.0, 0.1)
    verdicts = screen.predict(images[drawn]).records(statistics=True)
    rows = [{**row, "label": "inlier", "sampled": p} for row, p in zip(verdicts, probability, strict=True)]
    write_table(tmp_path / "events.csv", rows)
    result = recalibrate(screen, tmp_path / "events.csv")
    after, told = result.after, {row["measure"]: row["after"] for row in result.table}
    low, high = after.false_alarm_interval
    assert low < np.mean(after.predict(images).is_outlier) < high
    facts = after.facts["calibration"]
    kept = facts["images"] - int((~flags[drawn]).sum())
    assert 0 < kept < 0.3 * flags.sum()
    assert told["labelled images left out, drawn more often than others"] == f"{flags.sum() - kept}"
    rows[3]["sampled"] = 1.5
    write_table(tmp_path / "events.csv", rows)
    with pytest.raises(InputError, match="expected a probability in sampled; got"):
        recalibrate(screen, tmp_path / "events.csv")


def test_copies_in_a_table_count_once(normal, tmp_path):
    screen, images = normal
    events = table(tmp_path / "events.csv", screen, np.repeat(images, 3, axis=0), ["inlier"] * 3 * len(images))
    assert len(recalibrate(screen, events).after.calibrator.scores) == len(images)


@pytest.mark.parametrize("keep", [False, True])
def test_images_of_equal_scores_all_count_where_a_statistic_has_few_values(normal, tmp_path, keep):
    """As if equal scores were of copies, rare values would weigh as much as frequent ones."""
    screen, images = normal
    coarse = screen.with_score("brightness")
    coarse = replace(coarse, calibrator=Calibrator(np.round(coarse.calibrator.scores, 2)))
    verdicts = coarse.predict(images)
    scores = np.round(verdicts.instance_score, 2)
    rows = [
        {**row, "instance_score": score, "p_value": "", "label": "inlier", "sampled": 1.0}
        for row, score in zip(verdicts.records(True), scores.tolist(), strict=True)
    ]
    write_table(tmp_path / "events.csv", rows)
    after = recalibrate(coarse, tmp_path / "events.csv", keep=keep).after
    before = coarse.calibrator.scores if keep else ()
    assert sorted(after.calibrator.scores) == sorted([*before, *scores])


def test_one_image_of_what_ids_tell_calibrates(normal, tmp_path, capsys):
    """With forty frames of a part that count as forty, intervals of 95 % held in half of reviews."""
    screen, images = normal
    frames = replace(open_images(images[:160]), ids=[f"part{place // 4}_{place % 4}.png" for place in range(160)])
    events = table(tmp_path / "events.csv", screen, frames, ["inlier"] * 160)
    counted = recalibrate(screen, events)
    result = recalibrate(screen, events, group_by="prefix")
    assert (len(counted.after.calibrator.scores), len(result.after.calibrator.scores)) == (160, 40)
    assert result.after.false_alarm_interval[1] > counted.after.false_alarm_interval[1]
    left_out = {row["measure"]: row["after"] for row in result.table}
    assert left_out["labelled images left out, of a unit of which another calibrates"] == "120"
    screen.save(tmp_path / "screen")
    main(["recalibrate", str(tmp_path / "screen"), str(events), "-o", str(tmp_path / "new")])
    assert "--group-by tells them" in capsys.readouterr().out
    with pytest.raises(InputError, match="tells what belongs together of no image"):
        recalibrate(screen, events, group_by="scene([0-9]+)")


def test_a_sample_of_which_only_the_flagged_images_are_labelled_is_refused(screen, stream, labels, tmp_path):
    flags = screen.predict(stream).is_outlier
    some = [label if flag else "" for label, flag in zip(labels, flags, strict=True)]
    with pytest.raises(InputError, match="labels that were given to flagged images only"):
        recalibrate(screen, table(tmp_path / "events.csv", screen, stream, some))


def test_a_table_that_says_it_is_not_sampled_is_asked(normal, tmp_path):
    screen, images = normal
    flags = screen.predict(images).is_outlier
    labels = ["inlier"] * int(flags.sum())
    events = table(tmp_path / "events.csv", screen, images[flags], labels, sampled=0)
    with pytest.raises(InputError, match="are flagged"):
        recalibrate(screen.with_alpha(0.05), events)


def test_a_stream_to_calibrate_with_is_left_as_it_is(screen, digits):
    opened = open_images(digit for digit in digits[1400:1440])
    assert opened.ids is None
    batches = read_batches(unknown_images(screen, opened), screen.detector.preprocessing, 64)
    assert sum(len(batch.pixels) for batch in batches) == 40
    with pytest.warns(ReconditeWarning, match="do not calibrate"):
        left = unknown_images(screen, digits[1390:1440])
    assert set(left.ids) >= {f"{index:06d}" for index in range(10, 50)}
    assert left.size < 50


def test_images_that_a_screen_may_have_learnt_from_calibrate_a_guard_with_a_warning(screen, digits):
    for images in (digits[1400:1440], iter(digits[1400:1440])):
        with pytest.warns(ReconditeWarning, match="does not know which images it was fitted on"):
            assert unknown_images(replace(screen, known=None), images).size in (40, None)


PROBED = [32.628699, 32.747202, 36.637747, 31.421176]
"""Sums of the pixels of four images of noise."""


class Summing:
    """Scores an image by the sum of its pixels, and a place by its value."""

    shape, scoring_batch, locates, preprocessing = (1, 8, 8), 100, True, Preprocessing(shape=(1, 8, 8))

    def __init__(self, precision="fp32"):
        self.options = SimpleNamespace(scoring_precision=precision)

    def score_batch(self, batch, feature_score=False):
        sums = batch.pixels.sum((1, 2, 3), dtype=np.float64)
        maps = batch.pixels if feature_score else None
        return Scores(ids=tuple(batch.ids), instance_score=sums, errors=(None,) * len(sums), feature_score=maps)


def test_a_detector_alone_is_calibrated_by_its_scores_and_in_bfloat16_known_again():
    pixels = np.random.default_rng(5).random((6, 1, 8, 8), dtype=np.float32)
    rows = Rows(pixels, np.arange(1, 6))
    found = calibrated(Summing(), None, "error", rows, None, {"kept": 1})
    np.testing.assert_array_equal(found["calibrator"].scores, pixels[1:].sum((1, 2, 3), dtype=np.float64))
    np.testing.assert_array_equal(found["peaks"], pixels[1:].max((1, 2, 3)))
    assert (found["observations"], found["facts"]) == ({}, {"kept": 1})
    facts = calibrated(Summing("bf16"), None, "error", rows, None, {"kept": 1})["facts"]
    # Saved screens hold what their processor said of these very images.
    np.testing.assert_allclose(facts.pop(PROBE), PROBED, rtol=1e-6)
    assert facts == {"kept": 1}
    check_probe(Summing(), {}, Path("screen"))
    check_probe(Summing(), {PROBE: [value * 1.0009 for value in PROBED]}, Path("screen"))
    with pytest.raises(ArtifactError, match="on a processor that computes it in another way"):
        check_probe(Summing(), {PROBE: [*PROBED[:3], PROBED[3] * 1.0011]}, Path("screen"))


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (np.arange(1001) + 2.0, 0, 1001),
        (np.arange(1001) + 0.0, 0, 999),
        (np.arange(1001) + 0.5, 0, 999.5),
        (np.arange(1001) - 1.0, 499, 998),
        (np.full(5, -3.0), -3, -3 + 1e-12),
        (np.zeros(5), 0, 1e-12),
    ],
)
def test_heat_maps_begin_at_zero_or_the_median_and_end_at_the_worst_in_a_thousand(values, low, high):
    assert scale_of(values) == pytest.approx((low, high), rel=1e-15, abs=1e-15)


def test_heat_maps_are_scaled_by_the_first_256_images():
    pixels = np.ones((257, 1, 8, 8), np.float32)
    pixels[-1] = 1000
    assert map_scale(Summing(), Rows(pixels, np.arange(257))) == (0, 1)
    assert map_scale(Summing(), Rows(pixels, np.arange(257)[::-1]))[1] > 1


def test_all_may_calibrate_where_nothing_is_known_of_what_was_learnt_and_a_warning_says_so():
    images = read_all(open_images(np.random.default_rng(0).random((3, 1, 8, 8))), Preprocessing(shape=(1, 8, 8)))
    keys = keys_of([images], "none")[0]
    with pytest.warns(ReconditeWarning, match="does not know which images it was fitted on"):
        assert unknown_rows(SimpleNamespace(known=None, facts={}), images, "none", keys).tolist() == [0, 1, 2]


def test_a_calibration_counts_what_was_learnt_from_and_takes_the_place_of_the_one_before(digits):
    options = {"detector": "pca", "latent_size": 2, "alpha": 0.2, "score": "error", "group_by": "none"}
    screen = recondite.fit(digits[:100], **options)
    learnt = int(screen.known.learnt.sum())
    new = digits[50:140]
    spooled = read_all(open_images(new), screen.detector.preprocessing)
    with pytest.warns(ReconditeWarning, match="do not calibrate"):
        again = unknown_rows(screen, spooled, "none", keys_of([spooled], "none")[0])
    with pytest.warns(ReconditeWarning, match="do not calibrate"):
        found = screen.recalibrated(new, group_by="none")
    told = found.facts["calibration"]
    assert (told["images"], told["of"], told["known"]) == (len(again), 90, 90 - len(again))
    assert 0 < told["known"] < 50
    assert found.calibrator.groups is None
    assert int(found.known.learnt.sum()) == learnt
    assert len(found.known) == learnt + len(again)  # and none of those that calibrated before
    with pytest.warns(ReconditeWarning, match="does not know which images it was fitted on"):
        unknown = replace(screen, known=None).recalibrated(new, group_by="none")
    assert (len(unknown.known), unknown.known.complete) == (90, False)
    assert unknown.facts["calibration"]["known"] == 0


def test_scores_that_promise_nothing_or_are_of_other_detectors_are_not_kept(screen, digits, tmp_path):
    events = table(tmp_path / "events.csv", screen, digits[1400:1500], ["inlier"] * 100)
    for fact in ({"no_promise": ["it was forced"]}, {"left_out_in_parts": 10}):
        doubtful = replace(screen, facts={**screen.facts, "calibration": {**screen.facts["calibration"], **fact}})
        with pytest.raises(InputError, match="calibrate it anew, without keeping them"):
            recalibrate(doubtful, events, keep=True)
        assert not {*fact} & {
            name for name, value in recalibrate(doubtful, events).after.facts["calibration"].items() if value
        }


def test_what_was_left_out_as_suspect_is_still_told_where_scores_are_kept(screen, digits, tmp_path):
    events = table(tmp_path / "events.csv", screen, digits[1400:1500], ["inlier"] * 100)
    left_out = {**screen.facts["calibration"], "left_out_as_suspect": {"": 9}}
    trimmed = replace(screen, facts={**screen.facts, "calibration": left_out})
    kept = recalibrate(trimmed, events, keep=True).after
    assert "9 calibration images" in promise(kept)
    assert kept.facts["calibration"]["images"] == len(kept.calibrator.scores)
    assert "left_out_as_suspect" not in recalibrate(trimmed, events).after.facts["calibration"]


@pytest.mark.parametrize("keep", [False, True])
def test_an_image_that_calibrates_is_known_and_counts_once(digits, tmp_path, keep):
    screen = recondite.fit(digits[:300], detector="pca", latent_size=8, score="error", alpha=0.1)
    learnt = screen.known.learnt_alone().same(read_all(open_images(digits[:300]), screen.detector.preprocessing))
    images = np.concatenate([digits[:300][~learnt], digits[1400:1500]])
    events = table(tmp_path / "events.csv", screen, images, ["inlier"] * len(images))
    after = recalibrate(screen, events, images=images, keep=keep).after
    scores = after.calibrator.scores
    assert len(set(scores.tolist())) == len(scores) > 100
    with pytest.raises(InputError, match="knows all of these"):
        after.update(digits[1400:1500], only_calibrate=True)


def test_images_that_calibrate_by_their_labels_are_not_added_again(digits, tmp_path):
    """A table of verdicts holds scores and no pixels: of these alone the screen knows nothing."""
    screen = recondite.fit(digits[:300], detector="pca", latent_size=8, score="error", alpha=0.1)
    new = digits[1400:1500]
    after = recalibrate(screen, table(tmp_path / "events.csv", screen, new, ["inlier"] * 100)).after
    assert after.known.learnt.all()
    with pytest.raises(InputError, match="is calibrated on all of these 100 images already"):
        after.update(new, only_calibrate=True)
    more = after.update(np.concatenate([new[50:], digits[1500:1550]]), only_calibrate=True)
    scores = more.calibrator.scores
    assert len(scores) == len(set(scores.tolist())) == 150
    assert more.facts["calibration"]["images"] == 150


def test_a_sample_that_scores_lower_than_the_calibration_may_have_been_learnt_from(digits, tmp_path):
    screen = recondite.fit(digits[:60], detector="pca", latent_size=20, alpha=0.1, group_by="none")
    events = table(tmp_path / "events.csv", screen, digits[:60], ["inlier"] * 60)
    with pytest.warns(ReconditeWarning, match="the 60 images taken for normal score lower .* fitted on some of them"):
        assert np.mean(recalibrate(screen, events).after.predict(digits[100:600]).is_outlier) > 0.3
    with pytest.warns(ReconditeWarning, match="has learnt from 48 of 60 images: they do not calibrate"):
        found = recalibrate(screen, events, images=digits[:60]).after
    assert set(found.calibrator.scores) == set(screen.calibrator.scores)
    recalibrate(screen, table(tmp_path / "others.csv", screen, digits[100:160], ["inlier"] * 60))


def test_a_sample_of_what_was_drawn_unevenly_says_so(normal, tmp_path):
    screen, images = normal
    flags = screen.predict(images).is_outlier
    drawn = np.where(flags, 1.0, 0.25)
    rows = [{**row, "sampled": p} for row, p in zip(screen.predict(images).records(), drawn, strict=True)]
    queue, sample = tmp_path / "queue.csv", tmp_path / "sample.csv"
    write_table(queue, rows)
    sample_for_review(queue, sample, count=len(rows) // 2)
    with sample.open() as file:
        found = {row["id"]: float(row["sampled"]) for row in csv.DictReader(file)}
    share = len(found) / len(rows)
    assert found == {row["id"]: pytest.approx(row["sampled"] * share) for row in rows if row["id"] in found}
    write_table(queue, [*rows[:-1], {**rows[-1], "sampled": ""}])  # somebody has added a row
    sample_for_review(queue, sample, count=len(rows))
    with sample.open() as file:
        assert float([*csv.DictReader(file)][-1]["sampled"]) == 0
    write_table(queue, [*rows[:-1], {**rows[-1], "sampled": 2}])
    with pytest.raises(InputError, match="expected a probability in sampled; got"):
        sample_for_review(queue, sample)


def test_a_group_whose_images_were_all_learnt_from_is_not_lost(digits):
    images = replace(open_images(digits[:200]), labels=["left", "right"] * 100)
    options = {"detector": "pca", "latent_size": 8, "score": "error", "alpha": 0.2, "group_by": "none"}
    screen = recondite.fit(images, by_folder=True, **options)
    other = replace(open_images(digits[1400:1440]), labels=["left"] * 40)
    with pytest.raises(InputError, match="no image of group 'right' would calibrate"):
        screen.recalibrated(other, by_folder=True)


def test_a_group_is_not_left_without_calibration(digits, folder, tmp_path):
    grouped = recondite.fit(digits[40:340], detector="pca", latent_size=8).recalibrated(folder, by_folder=True)
    odd = open_images(folder / "odd").labelled("odd")
    verdicts = [
        {**row, "label": "inlier", "sampled": 1.0, "group": "odd"} for row in grouped.predict(odd).records(True)
    ]
    write_table(tmp_path / "events.csv", verdicts)
    with pytest.raises(InputError, match="no image of group 'even' would calibrate"):
        recalibrate(grouped, tmp_path / "events.csv", group="odd")
    assert recalibrate(grouped, tmp_path / "events.csv", group="odd", keep=True).after.calibrator.sizes["even"] == 20


def test_what_an_update_changed_is_not_told_of_what_is_calibrated_after_it(screen):
    updated = replace(screen, facts={**screen.facts, "version": 2, "update": {"calibration": [1, 2]}})
    new = np.random.default_rng(0).random((60, 8, 8), dtype=np.float32)
    found = updated.recalibrated(new, group_by="none")
    assert "update" not in found.facts
    assert found.facts["version"] == 2

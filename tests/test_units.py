"""Images that belong together: found or named, kept in one part, and counted once."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

import recondite
from recondite import InputError
from recondite.data import spool
from recondite.data.datasets import open_images
from recondite.data.images import Preprocessing
from recondite.data.spool import Rows, keys_of, one_of_each, read_all, split
from recondite.data.units import components, labelled, near_copies, thumbnails
from recondite.detectors import build
from recondite.screen import export
from recondite.screen.known import Known
from recondite.screen.separate import all_for_everything, may_calibrate, separate_sets
from recondite.studies import linear
from recondite.studies.training.runs import open_task


def scenes(count, seed=0, side=32, smooth=2):
    """Grey images (count, 1, side, side), unlike each other and as smooth as that."""
    noise = np.random.default_rng(seed).standard_normal((count, 1, side, side))
    waves = gaussian_filter(noise, (0, 0, smooth, smooth))
    return (0.5 + 0.15 * waves / waves.std()).clip(0, 1).astype(np.float32)


def bursts(images, frames=4, noise=0.02, seed=1):
    """Each image `frames` times, one after the other, each with noise of its own."""
    repeated = np.repeat(images, frames, axis=0)
    moved = repeated + noise * np.random.default_rng(seed).standard_normal(repeated.shape)
    return moved.clip(0, 1).astype(np.float32)


def copies_among(images):
    return near_copies(components([Rows(thumbnails(images), np.arange(len(images)))]))


def spooled(images):
    return read_all(open_images(images), Preprocessing(shape=images.shape[1:]))


@pytest.mark.parametrize("count", [20, 60, 700])
def test_independent_images_stand_for_themselves(count, digits):
    assert len(set(copies_among(scenes(count)))) == count
    real = np.unique(digits[:count], axis=0)[:, None] / np.float32(16)
    assert len(set(copies_among(np.random.default_rng(0).permutation(real)))) >= 0.97 * len(real)


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("count", [12, 100])
def test_frames_of_a_burst_are_found_wherever_they_lie(count, shuffled):
    order = np.random.default_rng(2).permutation(4 * count) if shuffled else np.arange(4 * count)
    found = copies_among(bursts(scenes(count))[order])
    scene = order // 4
    pairs = {(a, b) for a, b in zip(scene, found, strict=True)}
    # A unit holds all frames of its scene; a scene more or less in it costs little.
    assert len({a for a, _ in pairs}) == len(pairs) == count
    assert len({b for _, b in pairs}) >= 0.9 * count


def test_a_shifted_and_brighter_frame_follows_its_scene():
    """Frames of photographs of parts differ by more than noise; their order tells what distances alone do not."""
    first = scenes(80, side=64)
    second = np.roll(first, 1, axis=3) * np.float32(0.97)
    images = np.stack([first, second], axis=1).reshape(-1, 1, 64, 64)
    found = copies_among(images).reshape(80, 2)
    assert (found[:, 0] == found[:, 1]).mean() > 0.9


def test_a_drift_of_the_light_is_no_burst():
    light = np.linspace(0.6, 1.4, 300, dtype=np.float32)[:, None, None, None]
    assert len(set(copies_among((scenes(300) * light).clip(0, 1)))) > 290


def test_copies_are_found_by_their_pixels_in_any_number():
    images = scenes(5)
    keys = keys_of([spooled(np.concatenate([images, images[:2]]))])[0]
    assert len(np.unique(keys)) == 5
    np.testing.assert_array_equal(keys[5:], keys[:2])


def test_vectors_have_near_copies_too():
    vectors = np.random.default_rng(0).standard_normal((100, 400)).astype(np.float32)
    doubled = np.concatenate([vectors, vectors + np.float32(0.01)])
    assert len(set(copies_among(doubled))) == 100


def test_what_ids_tell():
    ids = ["a/part1_001.png", "a/part1_002.png", "a/part2_1.png", "b/part1-01 (2).png", "b/part1-02.png", "b/x.png"]
    assert labelled(ids, "folder") == ["a"] * 3 + ["b"] * 3
    prefixes = labelled(ids, "prefix")
    assert prefixes[0] == prefixes[1] == "a/part1"
    assert prefixes[2] == "a/part2"
    assert prefixes[4] == "b/part1"
    assert labelled(ids, r"part(\d)") == ["1", "1", "2", "1", "1", None]
    assert labelled(ids, r"part\d")[0] == "part1"
    with pytest.raises(InputError, match="no image"):
        labelled(ids, "camera")
    with pytest.raises(InputError, match="regular expression"):
        labelled(ids, "part(")


@pytest.mark.parametrize("by", [5, None])
def test_what_tells_nothing_is_refused(by):
    with pytest.raises(InputError, match="expected group_by: copies, none"):
        recondite.fit(scenes(60), detector="pca", group_by=by)


def test_a_table_tells_by_id_or_by_name(tmp_path):
    table = tmp_path / "parts.csv"
    table.write_text("id,group\na/1.png,x\n2.png,x\n")
    assert labelled(["a/1.png", "b/2.png", "b/3.png"], table) == ["x", "x", None]
    table.write_text("id,group\na/1.png,x\na/1.png,x\n2.png,x\n2.png,y\n")
    with pytest.raises(InputError, match=r"expected one group for each id; '2.png' has 'x' and 'y'"):
        labelled(["a/1.png"], table)
    table.write_text("name,part\n1.png,x\n")
    with pytest.raises(InputError, match="columns id, group"):
        recondite.fit(scenes(60), detector="pca", group_by=str(table))
    table.write_text("id,group\na/1.png,x\n2.png\n")
    with pytest.raises(InputError, match="more or fewer cells"):
        labelled(["a/1.png", "b/2.png"], table)
    with pytest.raises(InputError, match="cannot be read"):
        recondite.fit(scenes(60), detector="pca", group_by=str(tmp_path / "none.csv"))


def test_units_go_whole_into_one_part_and_names_do_not_matter():
    images = bursts(scenes(100))
    pool = spooled(images)
    labels = np.repeat(np.arange(100), 4).astype(str)
    keys = keys_of([pool], dict(zip(pool.ids, labels, strict=True)))[0]
    parts = split(keys, [80, 80], seed=3)
    assert [len(part) for part in parts] == [80, 80, 240]
    assert sum(len({*labels[part]}) for part in parts) == 100
    chosen = one_of_each(keys[parts[0]], pool.hashes[parts[0]], seed=3)
    assert sorted(labels[parts[0]][chosen]) == sorted({*labels[parts[0]]})
    # Another order, other names: the same images are chosen.
    turned = spooled(images[::-1].copy())
    again = keys_of([turned], dict(zip(turned.ids, labels[::-1], strict=True)))[0]
    part = split(again, [80, 80], seed=3)[0]
    assert {*turned.hashes[part].tolist()} == {*pool.hashes[parts[0]].tolist()}
    found = one_of_each(again[part], turned.hashes[part], seed=3)
    assert {*turned.hashes[part][found].tolist()} == {*pool.hashes[parts[0]][chosen].tolist()}


def test_large_units_come_into_each_part_as_often_as_small_ones():
    """Those larger than the room in a part never came into it, so that none like them calibrated."""
    sizes = np.where(np.arange(60) < 3, 100, 1)
    keys = np.random.default_rng(0).bytes(16 * len(sizes))
    keys = np.repeat(np.frombuffer(keys, dtype="V16"), sizes)
    shares = [round(share * len(keys)) for share in (0.2, 0.1)]
    large = np.zeros(3)
    for seed in range(100):
        parts = split(keys, shares, seed)
        counts = [np.unique(keys[part], return_counts=True)[1] for part in parts]
        assert [len(some) for some in counts] == [12, 6, 42]
        large += [(some == 100).sum() for some in counts]
    np.testing.assert_allclose(large / 300, [0.2, 0.1, 0.7], atol=0.08)


def test_a_unit_is_in_one_of_the_sets_that_are_given_too():
    images = bursts(scenes(150))
    given = {"detector": "pca", "score": "error", "alpha": 0.1, "latent_size": 10, "validation": 0.0}
    # Every fourth frame calibrates: the others of its burst must not be learnt from.
    calibration, rest = images[:200:4], images[1:]
    screen = recondite.fit(rest, calibration=calibration, **given)
    assert screen.facts["calibration"]["images"] == 50
    assert screen.facts["images"]["images"] <= 402
    alone = recondite.fit(rest, calibration=calibration, group_by="none", **given)
    assert alone.facts["images"]["images"] == 550


class StoppedError(Exception):
    """What was split is all that is asked about."""


def split_of(monkeypatch, module, run):
    """Return the parts into which the images of a run were split."""
    found = []

    def noted(keys, sizes, seed):
        found.extend(split(keys, sizes, seed))
        raise StoppedError

    monkeypatch.setattr(module, "split", noted)
    with pytest.raises(StoppedError):
        run()
    return found


PAIRS = [str(index // 2) for index in range(40)]  # of images that are nothing like each other


@pytest.mark.parametrize("given", ["validation of a detector", "linear study", "int8"])
def test_named_groups_stay_whole_wherever_images_are_split(given, monkeypatch, screens):
    images = scenes(40, side=8)
    if given == "validation of a detector":
        detector = recondite.build("pca", image_shape=(1, 8, 8), latent_size=2)
        parts = split_of(monkeypatch, spool, lambda: detector.fit(images, validation=0.3, group_by=PAIRS))
    elif given == "linear study":
        parts = split_of(monkeypatch, linear, lambda: linear.linear_study(images, "nowhere", group_by=PAIRS))
    else:
        screen = screens("autoencoder").with_score("error")
        parts = split_of(monkeypatch, export, lambda: export._for_int8(screen, images, PAIRS))
        monkeypatch.undo()
        _, ranges, rest = export._for_int8(screen, images, PAIRS)
        assert len(ranges) == 2 * len({*(ranges // 2)})
        assert len(rest) == len({*(rest // 2)}) == 20 - len(ranges) // 2
    first, second = ({*(part // 2).tolist()} for part in parts)
    assert first
    assert not first & second


def test_a_study_keeps_named_groups_whole(tmp_path):
    for number, image in enumerate(scenes(80, side=8)):
        path = tmp_path / "ab"[number % 2] / f"part{number // 4}_{number % 4}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((image[0] * 255).astype(np.uint8)).save(path)
    task = open_task(str(tmp_path), group_by="part([0-9]+)_")
    part_of = np.array([name.split("part")[1].split("_")[0] for name in task.images.ids])
    found = [{*part_of[rows.index]} for rows in vars(task.split("a", 0)).values()]
    learnt, validation, normal, anomalous = found
    assert not learnt & validation
    assert not (learnt | validation) & (normal | anomalous)
    with pytest.raises(InputError, match="regular expression"):
        open_task(str(tmp_path), group_by="(")


def realised(draws, shuffled=False, **given):
    """The share of fresh frames flagged at alpha .1, on average over screens of 150 bursts of 4; and the intervals."""
    rates, intervals = [], []
    for draw in range(draws):
        every = scenes(650, seed=100 + draw, side=16, smooth=1)
        images = bursts(every[:150], noise=0.03, seed=draw)
        if shuffled:
            images = np.random.default_rng(draw).permutation(images)
        fresh = bursts(every[150:], frames=1, noise=0.03, seed=draw + 50)
        screen = recondite.fit(images, detector="pca", latent_size=60, score="error", alpha=0.1, seed=draw, **given)
        rates.append(screen.predict(fresh).is_outlier.mean())
        intervals.append(screen.false_alarm_interval)
    low, high = np.mean(intervals, axis=0)
    return np.mean(rates), low, high


@pytest.mark.parametrize("group_by", ["copies", [str(index // 4) for index in range(600)]])
def test_the_promise_holds_for_bursts(group_by):
    rate, low, high = realised(6, group_by=group_by)
    assert low < rate < high
    assert rate < 0.15


def test_the_promise_holds_for_bursts_in_any_order_and_not_without_units():
    rate, low, high = realised(6, shuffled=True)
    assert low < rate < high
    broken, _, _ = realised(3, shuffled=True, group_by="none")
    assert broken > 0.7


def test_copies_do_not_narrow_the_interval():
    images = scenes(200)
    once, thrice = (
        recondite.fit(given, detector="pca", latent_size=10, score="error", alpha=0.1)
        for given in (images, np.concatenate([np.repeat(images, 3, axis=0), images[:1]]))
    )
    assert len(thrice.calibrator.scores) <= len(once.calibrator.scores)
    assert thrice.false_alarm_interval[1] >= once.false_alarm_interval[1]
    assert thrice.facts["units"] == {"images": 601, "units": 200, "largest": 4}
    again = once.recalibrated(np.repeat(scenes(50, seed=5), 3, axis=0))
    assert len(again.calibrator.scores) == 50


def test_what_was_met_is_told_by_pixels_by_copies_and_by_units():
    images = scenes(60)
    copies = np.clip(images + 0.004 * np.random.default_rng(0).standard_normal(images.shape), 0, 1).astype(np.float32)
    seen = Preprocessing(shape=(1, 32, 32))
    first, again = (read_all(open_images(some), seen) for some in (images, np.concatenate([images[:1], copies[1:3]])))
    others = np.array([2, 4])
    known = Known.of([(first, np.delete(np.arange(60), others), True), (first, others, False)])
    learnt = known.learnt_alone()
    assert len(known) == 60
    assert len(learnt) == 58
    # Each thumbnail goes with the pixels that it was made of.
    pairs = [
        {(bytes(one.hashes[row]), small.tobytes()) for row, small in zip(one.rows, one.small, strict=True)}
        for one in (known, learnt)
    ]
    assert len(pairs[1]) == 58
    assert pairs[1] < pairs[0]
    keys = keys_of([again], "none")[0]
    assert learnt.same(again).tolist() == [True, False, False]
    assert learnt.met(again, "none", keys).tolist() == [True, False, False]
    assert learnt.met(again, "copies", keys).tolist() == [True, True, False]
    assert known.met(again, "copies", keys).tolist() == [True, True, True]


def test_too_few_units_say_so():
    with pytest.raises(InputError, match=r"needs at least \d+ .* 240 images belong together in (59|60) units"):
        recondite.fit(bursts(scenes(60)), detector="pca", latent_size=10, calibration=0.2, confidence=0.5, alpha=0.05)


@pytest.mark.filterwarnings("ignore:only .* are learnt from")
def test_a_unit_that_is_much_of_all_images_and_is_not_learnt_from_is_told():
    images = np.concatenate([bursts(scenes(1), 300), scenes(100, seed=2)])
    named = {"group_by": ["one"] * 300 + [str(place) for place in range(100)]}
    options = {"detector": "pca", "latent_size": 4, "score": "error", "calibration": 0.2, "alpha": 0.1, **named}
    told = []
    for seed in range(6):
        screen = recondite.fit(images, seed=seed, **options)
        learnt = screen.facts["images"]["images"]
        said = any(
            remark.startswith(f"only {learnt} of 400 images are learnt from") for remark in screen.facts["remarks"]
        )
        assert said == (learnt < 300)
        told.append(said)
    assert any(told)
    assert not all(told)


def vectors(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 9)).astype(np.float32)


def separated(images, calibration, validation=0.0, evidence=0.0, pictures=(), known=None):
    """The sets of vectors of which each is a unit, and how many are in each."""
    held_out = {"calibration": calibration, "validation": validation, "evidence": evidence}
    model, part = build("pca", image_shape=(9,), latent_size=2), spooled(images)
    sets = separate_sets(part, model, held_out, None, "none", pictures, 0, False, known)
    sizes = [len(one or ()) for one in (sets.images, sets.calibration, sets.validation, sets.evidence)]
    return sets, part, sizes


@pytest.mark.parametrize(
    ("count", "given", "sizes"),
    [
        # One image is enough to calibrate; validation and evidence that are too few are learnt from.
        (5, {"calibration": 0.2}, [4, 1, 0, 0]),
        (5, {"calibration": 0.8}, [1, 4, 0, 0]),
        (100, {"calibration": 0.2, "validation": 0.01, "evidence": 0.49}, [80, 20, 0, 0]),
        (100, {"calibration": 0.2, "validation": 0.1, "evidence": 0.5}, [20, 20, 10, 50]),
        # What is given is no share of the others.
        (10, {"calibration": vectors(1, 1)}, [10, 1, 0, 0]),
        (10, {"calibration": vectors(6, 1), "validation": vectors(7, 2), "evidence": vectors(50, 3)}, [10, 6, 7, 50]),
        (10, {"calibration": vectors(6, 1), "evidence": vectors(49, 3)}, [10, 6, 0, 0]),
    ],
)
def test_shares_and_given_sets_are_apart_and_all_else_is_learnt_from(count, given, sizes):
    sets, part, found = separated(vectors(count), **given)
    assert found == sizes
    assert sets.moved == 0
    learnt = sets.known.learnt_alone()
    rows = np.isin(np.arange(count), sets.calibration.index) & (sets.sources["calibration"] is part)
    assert learnt.same(part).tolist() == (~rows).tolist()
    assert not learnt.same(spooled(sets.calibration.take(slice(None)))).any()


def test_validation_and_evidence_that_are_given_count_as_learnt_from():
    given = {"calibration": vectors(6, 1), "validation": vectors(7, 2), "evidence": vectors(50, 3)}
    learnt = separated(vectors(10), **given)[0].known.learnt_alone()
    assert [learnt.same(spooled(part)).all() for part in given.values()] == [False, True, True]


def test_all_images_serve_everything_and_copies_are_counted():
    part = spooled(vectors(6)[[0, 1, 2, 2, 2, 3, 4, 5]])
    sets = all_for_everything(part, keys_of([part], "none")[0], 0)
    assert (len(sets.images), len(sets.calibration), sets.moved) == (8, 6, 0)
    assert sets.units == {"images": 8, "units": 6, "largest": 3}
    assert sets.known.learnt_alone().same(part).all()
    assert separated(vectors(6)[[0, 1, 2, 2, 2, 3, 4, 5]], 0.4)[0].units == sets.units


def test_pictures_are_of_validation_images_the_wanted_ones_first():
    images = vectors(60)
    sets, part, _ = separated(images, 0.2, 0.5)
    ids = [part.ids[row] for row in sets.validation.index]
    wanted = ids[5:15][::-1]
    assert [part.ids[row] for row in separated(images, 0.2, 0.5, pictures=wanted)[0].validation.index[:10]] == wanted
    learnt = part.ids[sets.images.index[0]]
    for odd in (ids[:11], [ids[0], ids[0]], ids[0], [learnt]):
        with pytest.raises(InputError, match="at most 10 different ids of validation images"):
            separated(images, 0.2, 0.5, pictures=odd)


def test_networks_learn_known_images_again_and_no_model_calibrates_on_them():
    images = vectors(12)
    part = spooled(images)
    known = Known.of([(part, np.arange(5), True)])
    keys = keys_of([part], "none")[0]
    for by_steps, again in ((True, 5), (False, 0)):
        fresh, learnable = may_calibrate(part, SimpleNamespace(trains_by_steps=by_steps), known, "none", keys)
        assert fresh.tolist() == [False] * 5 + [True] * 7
        assert learnable.tolist() == [again > 0] * 5 + [True] * 7
        model = SimpleNamespace(trains_by_steps=by_steps, shape=(9,), preprocessing=None)
        held_out = {"calibration": 0.5, "validation": 0.0, "evidence": 0.0}
        sets = separate_sets(part, model, held_out, None, "none", (), 0, False, known)
        calibrating = {row.tobytes() for row in sets.calibration.take(slice(None))}
        assert len(calibrating) == 4  # half of those that are new
        assert not calibrating & {row.tobytes() for row in images[:5]}
        assert len(sets.images) == 3 + again

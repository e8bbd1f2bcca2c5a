"""How many images are scored at once: bounded memory for large images, and the same bits in any company."""

import subprocess
import sys
from collections import Counter
from math import prod

import numpy as np
import pytest
import torch
from torch import nn

from recondite.data.batch_size import full_batch
from recondite.data.datasets import nameless
from recondite.data.spool import images_in_a_read
from recondite.detectors import Detector, build
from recondite.detectors.runner import SMALL_BATCHES, Sizes, _random_rows, equal_sizes, padded


def untrained(name: str, shape: tuple[int, ...], **options: object) -> Detector:
    """Return a detector with its first weights, that scores."""
    detector = build(name, image_shape=shape, **options)
    detector.fitted.fill_(True)
    return detector


@pytest.mark.parametrize(
    ("shape", "processor", "accelerator"),
    [
        ((30,), 64, 1024),
        ((1, 28, 28), 64, 1024),
        ((3, 32, 32), 64, 1024),
        ((3, 128, 128), 64, 256),
        ((3, 224, 224), 16, 64),
        ((3, 256, 256), 16, 64),
        ((3, 512, 512), 4, 16),
        ((12, 512, 512), 2, 4),
    ],
)
def test_full_batches_are_smaller_for_large_images_and_larger_on_an_accelerator(
    shape: tuple[int, ...], processor: int, accelerator: int
) -> None:
    assert full_batch(prod(shape)) == processor
    assert full_batch(prod(shape), "cuda") == accelerator


def test_a_detector_counts_the_pixels_that_its_networks_see() -> None:
    assert untrained("autoencoder", (1, 16, 16), latent_size=4).scoring_batch == 64
    assert untrained("autoencoder", (3, 512, 512), latent_size=4, width=4).scoring_batch == 4

    class Small(nn.Module):
        def forward(self, x):
            return x[:, :, ::8, ::8]

    for side, expected in ((96, 64), (512, 8), (0, 64)):
        features = build("features", image_shape=(1, 32, 32), backbone=Small(), side=side, latent_size=2)
        assert features.scoring_batch == expected


@pytest.mark.arithmetic
@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("autoencoder", (3, 512, 512), {"latent_size": 8, "width": 4}),
        ("vae", (3, 256, 200), {"latent_size": 8, "width": 4}),
        ("pca", (1, 300, 300), {"latent_size": 2}),
    ],
)
def test_large_images_get_the_same_bits_alone_and_at_any_place(
    name: str, shape: tuple[int, ...], options: dict[str, object]
) -> None:
    detector = untrained(name, shape, **options)
    images = np.random.default_rng(0).random((detector.scoring_batch, *shape), dtype=np.float32)
    images[1] *= 0.1
    together = detector.score_batch(nameless(images)).instance_score
    turned = detector.score_batch(nameless(np.roll(images, 1, axis=0))).instance_score
    assert np.roll(turned, -1).tobytes() == together.tobytes()
    for _ in range(3):  # padded to a full batch first, and then to a smaller one
        for place in (0, 1, len(images) - 1):
            alone = detector.score_batch(nameless(images[place : place + 1])).instance_score
            assert alone.tobytes() == together[place : place + 1].tobytes()
    assert len(set(together)) == len(images)


@pytest.mark.arithmetic
def test_more_rows_than_a_full_batch_are_run_in_parts() -> None:
    detector = untrained("autoencoder", (3, 160, 160), latent_size=4, width=4)
    assert detector.scoring_batch == 32
    images = np.random.default_rng(0).random((70, 3, 160, 160), dtype=np.float32)
    seen: list[int] = []

    def means(_ready: Detector, x):
        seen.append(len(x))
        return {"": x.flatten(1).mean(1)}

    found = detector.run(images, means)[""]
    assert seen == [32, 32, 32]
    assert np.allclose(found, images.reshape(70, -1).mean(1), atol=1e-6)
    assert detector.run(images[:0], means)[""].shape == (0,)
    whole = detector.score_batch(nameless(images)).instance_score
    assert np.array_equal(whole[33:], detector.score_batch(nameless(images[33:])).instance_score)


@pytest.mark.parametrize("name", ["autoencoder", "vae", "pca"])
@pytest.mark.arithmetic
def test_many_small_images_get_the_bits_of_few(name: str) -> None:
    detector = untrained(name, (3, 16, 16), latent_size=4)
    images = np.random.default_rng(0).random((2500, 3, 16, 16), dtype=np.float32)
    images[::7] *= 0.1
    few = [detector.score_batch(nameless(images[at : at + 64])).instance_score for at in range(0, 2500, 64)]
    for _ in range(2):
        assert detector.score_batch(nameless(images)).instance_score.tobytes() == np.concatenate(few).tobytes()
    assert len(detector.runner.sizes.together) == 1


@pytest.mark.arithmetic
def test_several_full_batches_are_run_at_once_where_that_was_seen_to_change_nothing() -> None:
    detector = untrained("autoencoder", (1, 8, 8), latent_size=4, width=4)
    images = np.random.default_rng(0).random((640, 1, 8, 8), dtype=np.float32)
    seen: list[int] = []

    def brightest(_ready: Detector, x):
        seen.append(len(x))
        return {"": x.flatten(1).amax(1)}

    def of_its_batch(_ready: Detector, x):
        return {"": x.flatten(1).amax(1) + len(x)}

    for _ in range(3):  # 2,048 come first
        detector.run(images, brightest, "brightest")
        assert set(seen) == {64}
    seen.clear()
    assert np.array_equal(detector.run(images, brightest, "brightest")[""], images.reshape(640, -1).max(1))
    assert seen == [256, 64, 64, 64, 64, 256, 256, 64, 64]  # tried, then used for what goes into it
    for _ in range(20):
        assert np.array_equal(detector.run(images, of_its_batch, "batch")[""], images.reshape(640, -1).max(1) + 64)
    assert detector.runner.sizes.together == {"brightest": True, "batch": False}
    seen.clear()
    detector.run(images, brightest)
    assert set(seen) == {64}
    detector.run(images[:0], brightest, "brightest")
    assert seen[-1] in (2, 64)


_SCORING = """
import numpy as np
from recondite.detectors import build

detector = build("autoencoder", image_shape=(3, 512, 512), latent_size=4, width=4)
detector.fitted.fill_(True)
random = np.random.default_rng(0)


def memory(kind):
    with open("/proc/self/status") as facts:
        return 1024 * next(int(line.split()[1]) for line in facts if line.startswith(kind))


before = memory("VmRSS")
scores = detector.score(random.random((3, 512, 512), dtype=np.float32) for _ in range(64))
assert np.isfinite(scores.instance_score).all() and len(scores) == 64
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_scoring_large_images_takes_far_less_memory_than_all_of_them_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", _SCORING], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 500e6  # 64 at once take 1.9 GB


def test_images_are_read_a_few_megabytes_at_a_time() -> None:
    assert images_in_a_read((3, 32, 32)) == 256
    assert images_in_a_read((3, 512, 512)) == 1
    for side in (8, 64, 200, 512):
        assert images_in_a_read((3, side, side)) * 3 * side * side * 4 <= max(4 << 20, 3 * side * side * 4)


def test_only_sizes_below_a_full_batch_are_tried() -> None:
    tried: list[int] = []

    def run(rows: np.ndarray, size: int) -> dict[str, np.ndarray]:
        tried.append(size)
        return {"": padded(rows, size)[: len(rows)].sum(1)}

    assert equal_sizes(run, np.ones((16, 3), dtype=np.float32)) == (2, 4, 8)
    assert set(tried) == {2, 4, 8, 16}
    assert equal_sizes(run, np.ones((64, 3), dtype=np.float32)) == SMALL_BATCHES
    assert equal_sizes(run, np.ones((2, 3), dtype=np.float32)) == ()


def test_what_runs_may_change_its_batch_in_place() -> None:
    detector = untrained("autoencoder", (1, 16, 16), latent_size=4, width=4)
    images = np.random.default_rng(0).random((detector.scoring_batch, 1, 16, 16), dtype=np.float32)
    before = images.copy()
    detector.run(images, lambda _ready, x: {"": x.zero_()})
    assert np.array_equal(images, before)


def test_a_size_that_agrees_for_most_rows_is_not_used() -> None:
    probe = np.arange(64, dtype=np.float32)[:, None]

    def run(rows: np.ndarray, size: int) -> dict[str, np.ndarray]:
        return {"": rows[:, 0] + ((size == 2) & (rows[:, 0] == 31))}

    assert equal_sizes(run, probe) == (4, 8, 32)


def test_a_size_with_which_one_of_two_results_agrees_is_not_used() -> None:
    def run(rows: np.ndarray, size: int) -> dict[str, np.ndarray]:
        return {"same": rows.copy(), "other": np.full(len(rows), size == 8)}

    assert equal_sizes(run, np.ones((64, 3), dtype=np.float32)) == (2, 4, 32)


def test_sizes_are_tried_at_the_second_call_and_once() -> None:
    sizes, calls = Sizes(), []

    def run(rows: np.ndarray, size: int) -> dict[str, np.ndarray]:
        calls.append(size)
        return {"": np.full(len(rows), size == 8)}

    def ask(count: int) -> int | None:
        return sizes.padded_to(count, "kind", run, lambda: np.zeros((64, 2), dtype=np.float32))

    assert ask(40) is None
    assert ask(1) is None
    assert not calls
    assert ask(1) == 2
    assert ask(3) == 4
    assert ask(5) == 32  # 8 gives something else
    assert ask(33) is None
    assert Counter(calls) == {64: 1, 2: 32, 4: 16, 8: 1, 32: 2}


def few_rows():
    return np.random.default_rng(0).random((3, 1, 16, 16), dtype=np.float32)


def test_few_rows_of_a_kind_get_what_they_get_without_one() -> None:
    """Also at the second call, when sizes are tried."""
    detector, rows = (
        untrained("autoencoder", (1, 16, 16), latent_size=4),
        np.random.default_rng(0).random((3, 1, 16, 16)),
    )
    plain, *others = (
        detector.run(rows, lambda ready, x: {"": ready.encode_tensor(x)}, kind)[""]
        for kind in (None, "latents", "latents", "latents")
    )
    assert all(np.array_equal(plain, other) for other in others)


def test_scores_follow_the_weights() -> None:
    detector, rows = (
        untrained("autoencoder", (1, 16, 16), latent_size=4),
        np.random.default_rng(0).random((3, 1, 16, 16)),
    )
    before = detector.score(rows).instance_score
    with torch.no_grad():
        next(iter(detector.decoder.parameters())).mul_(2)
    assert (detector.score(rows).instance_score != before).all()


def test_small_batches_are_tried_from_their_first_row_to_their_last():
    """Of a full batch of nine, batches of two give the first row other bits, those of eight the last, of four none."""
    probe = np.arange(9.0, dtype=np.float32)[:, None]

    def run(rows, size):
        wrong = {2: 0.0, 8: 8.0}.get(size)
        return {"": np.where(rows == wrong, rows + 1, rows)}

    assert equal_sizes(run, probe) == (4,)
    assert SMALL_BATCHES == (2, 4, 8, 32)
    sizes, tried = Sizes(), []
    sizes.known["kind"] = (2, 8)
    found = [sizes.padded_to(count, "kind", run, lambda: tried.append(1)) for count in (1, 2, 3, 8, 9, 32, 33)]
    assert found == [2, 2, 8, 8, None, None, None]
    assert tried == []
    # Sizes are tried at the second call.
    assert Sizes().padded_to(2, "other", run, lambda: pytest.fail("too early")) is None
    sizes = Sizes()
    assert [sizes.padded_to(2, "new", run, lambda: probe) for _ in range(3)] == [None, 4, 4]


def test_rows_run_in_full_batches_and_none_runs_for_nothing():
    sizes = []

    def squared(_, x):
        sizes.append(len(x))
        return {"": x.square()}

    detector = untrained("pca", (6,), latent_size=2)
    rows = np.random.default_rng(0).normal(size=(70, 6)).astype(np.float32)
    np.testing.assert_array_equal(detector.run(rows, squared)[""], rows**2)
    assert sizes == [64, 64]
    for _ in range(3):
        np.testing.assert_array_equal(detector.run(rows[:3], squared, "squares")[""], rows[:3] ** 2)
    assert sizes[2:4] == [64, 64]
    assert sizes[-1] == 4
    assert detector.run(rows[:0], squared)[""].shape == (0, 6)


def test_random_rows_are_like_those_that_a_detector_sees() -> None:
    pixels = _random_rows(untrained("pca", (1, 8, 8), latent_size=2), 64)
    assert pixels.shape == (64, 1, 8, 8)
    assert 0 <= pixels.min() < 0.01 < 0.99 < pixels.max() < 1
    detector = untrained("pca", (6,), latent_size=2)
    detector.shift.fill_(100)
    detector.scale.fill_(3)
    drawn = _random_rows(detector, 64)
    assert drawn.mean() == pytest.approx(100, abs=1)
    assert drawn.std() == pytest.approx(3, abs=0.5)

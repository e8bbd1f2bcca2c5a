"""Images in, scores out: in order, complete, in bounded memory, and whatever the readers, batches and threads."""

import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import recondite
from recondite.data import datasets
from recondite.data.batch_size import at_once
from recondite.data.datasets import nameless, open_images, read_batches
from recondite.data.images import Preprocessing

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def screen() -> recondite.Screen:
    images = np.random.default_rng(0).random((400, *SHAPE), dtype=np.float32)
    return recondite.fit(images, detector="autoencoder", epochs=1, latent_size=4, width=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(1)
    for index in range(300):
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(made / f"{index:03d}.png")
    (made / "150.png").write_bytes(b"not a picture")
    return made


def slow_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let some images take much longer to read than those after them."""
    read = Preprocessing.__call__

    def slowly(self: Preprocessing, source: object) -> datasets.Floats:
        if str(source).endswith("0.png"):
            time.sleep(0.01)
        return read(self, source)

    monkeypatch.setattr(Preprocessing, "__call__", slowly)


@pytest.mark.parametrize("readers", [1, 2, 7])
def test_slow_readers_lose_nothing_and_keep_the_order(
    screen: recondite.Screen, folder: Path, monkeypatch: pytest.MonkeyPatch, readers: int
) -> None:
    expected = screen.predict([np.asarray(read_or_none(path)) for path in sorted(folder.iterdir())])
    slow_now_and_then(monkeypatch)
    monkeypatch.setattr(datasets, "_READERS", readers)
    found = screen.predict(folder)
    assert found.ids == tuple(f"{index:03d}.png" for index in range(300))
    assert [index for index, error in enumerate(found.errors) if error] == [150]
    assert np.array_equal(found.instance_score, expected.instance_score, equal_nan=True)


def read_or_none(path: Path) -> object:
    try:
        return np.asarray(Image.open(path))
    except OSError:
        return np.full((8, 8), np.nan, dtype=np.float32)


def test_a_reader_that_fails_in_an_unforeseen_way_costs_its_image_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Preprocessing.__call__

    def broken(self: Preprocessing, source: object) -> datasets.Floats:
        if str(source).endswith("1.png"):
            raise ZeroDivisionError("unforeseen")
        return read(self, source)

    monkeypatch.setattr(Preprocessing, "__call__", broken)
    batches = list(read_batches(open_images(folder), Preprocessing(shape=SHAPE), 64))
    for name, error in (
        (name, error) for batch in batches for name, error in zip(batch.ids, batch.errors, strict=True)
    ):
        assert ("unforeseen" in str(error)) == name.endswith("1.png")


def test_a_reader_that_is_interrupted_ends_the_walk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_self: Preprocessing, _source: object) -> datasets.Floats:
        raise KeyboardInterrupt

    monkeypatch.setattr(Preprocessing, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(read_batches(open_images(folder), Preprocessing(shape=SHAPE), 64))


def test_closing_a_stream_early_ends_its_readers(screen: recondite.Screen, folder: Path) -> None:
    before = threading.active_count()
    parts = screen.stream(folder)
    assert len(next(parts)) == at_once(SHAPE, screen.detector.scoring_batch)
    parts.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_scores_do_not_depend_on_the_batch_they_come_in(screen: recondite.Screen) -> None:
    images = np.random.default_rng(2).random((screen.detector.scoring_batch, *SHAPE), dtype=np.float32)
    whole = screen.score_batch(nameless(images)).instance_score
    for size in (1, 3, 8, 17, 50):
        parts = [screen.score_batch(nameless(images[at : at + size])) for at in range(0, len(images), size)]
        assert np.concatenate([part.instance_score for part in parts]).tobytes() == whole.tobytes()


def test_the_number_of_threads_changes_rounding_alone(screen: recondite.Screen) -> None:
    images = np.random.default_rng(3).random((200, *SHAPE), dtype=np.float32)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(screen.predict(images))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert np.allclose(other.instance_score, found[0].instance_score, rtol=1e-5, atol=0)


def test_memory_does_not_grow_with_the_stream(screen: recondite.Screen) -> None:
    def images(count: int) -> Iterator[np.ndarray]:
        random = np.random.default_rng(4)
        for _ in range(count):
            yield random.random(SHAPE, dtype=np.float32)

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            assert sum(len(part) for part in screen.stream(images(count))) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(200)
    assert peak(20_000) < peak(1_000) + 500_000

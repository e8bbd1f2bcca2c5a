"""What a million, a billion and a hundred billion images take, worked out from figures that are measured here.

Measured: processor time of one thread to decode a picture and to judge it, bytes of a row, and how long the driver of a
sweep takes for a part. Assumed, and to be replaced by your own: prices, the rate of the store, how often workers die.

    python benchmarks/scale.py
"""

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from machine import where
from PIL import Image
from sklearn.datasets import load_sample_images

import recondite
from recondite.cluster.ledger import Folder, Ledger
from recondite.cluster.parts import RowOptions, judge_part
from recondite.cluster.sources import Piece
from recondite.data.catalog import open_named
from recondite.data.datasets import Batch, ImageSet
from recondite.data.images import Preprocessing

PART = 2000
CORE_HOUR, THOUSAND_REQUESTS, GIGABYTE_MONTH = 0.04, 0.0004, 0.023
"""Dollars; assumed."""
REQUESTS_A_SECOND = 5500
"""That a store answers for one prefix; assumed."""
CORES = {10**6: (16, 2000), 10**9: (1000, 20_000), 10**11: (10_000, 100_000)}
"""Images -> cores, images a part."""
WORKER_HOURS_BETWEEN_DEATHS = 100.0
"""Assumed."""


def processor_time(function: Callable[[], object], times: int) -> float:
    """Return seconds of processor time a call: the least of five rounds."""
    rounds = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(times):
            function()
        rounds.append((time.process_time() - start) / times)
    return min(rounds)


def picture(height: int, width: int, kind: str) -> bytes:
    photograph = Image.fromarray(load_sample_images().images[0])
    stream = io.BytesIO()
    photograph.resize((width, height)).save(stream, format=kind)
    return stream.getvalue()


def decoding() -> dict[str, tuple[float, int]]:
    """Return what -> (seconds, bytes of the file)."""
    found = {}
    for height, width, kind in ((64, 64, "PNG"), (256, 256, "JPEG"), (768, 1024, "JPEG")):
        content = picture(height, width, kind)
        preprocessing = Preprocessing(shape=(3, 32, 32))
        seconds = processor_time(lambda content=content, to=preprocessing: to(content), 100)
        found[f"{kind} of {width} x {height}"] = seconds, len(content)
    return found


def judging() -> dict[str, float]:
    """Return which screen -> seconds an image."""
    digits = np.repeat(np.asarray(open_named("mnist5k").items[:1500])[:, None], 3, axis=1)
    found = {}
    for detector, options in (("pca", {}), ("autoencoder", {"epochs": 1, "width": 32}), ("vae", {"epochs": 1})):
        screen = recondite.fit(digits, detector=detector, image_size=32, seed=0, **options)
        batch = Batch([""] * 32, [""] * 32, np.random.default_rng(0).random((32, 3, 32, 32), np.float32), [None] * 32)
        found[detector] = processor_time(lambda batch=batch, to=screen: to.judge(to.score_batch(batch)), 5) / 32
    return found


def writing(parts: int) -> tuple[float, float, float]:
    """Return (seconds, and of processor time, that the driver takes for a part; bytes of a row)."""
    screen = recondite.load("digits")
    digits = np.asarray(open_named("mnist5k").items[:PART])
    images = ImageSet(digits, ids=[f"shard-000123.tar/{index:09d}.jpg" for index in range(len(digits))])
    with tempfile.TemporaryDirectory() as name:
        ledger = Ledger(Folder(Path(name)), {}, [Piece(0, PART * n, PART * (n + 1)) for n in range(parts)])
        part, content = judge_part(screen, images, "", RowOptions(suffix=".parquet"))
        start, processor = time.monotonic(), time.process_time()
        while (task := ledger.next()) is not None:
            facts = {"name": task.name, "file": f"part-{task.name}.parquet"}
            ledger.finish(task, type(part)(**{**{n: getattr(part, n) for n in part.__slots__}, **facts}), content)
        wall, used = time.monotonic() - start, time.process_time() - processor
    assert content is not None
    return wall / parts, used / parts, len(content) / part.rows


def main() -> None:
    torch.set_num_threads(1)
    decoded, judged = decoding(), judging()
    wall, used, row = writing(200)
    for name, (seconds, size) in decoded.items():
        print(f"decode and resize a {name} ({size / 1000:.0f} kB): {1e6 * seconds:.0f} us")
    for name, seconds in judged.items():
        print(f"judge an image of 32 x 32, score auto, {name}: {1e6 * seconds:.0f} us")
    print(f"a row: {row:.0f} bytes of Parquet; a part of {PART} by the driver: {1e3 * used:.2f} ms of processor time, ")
    print(f"    {1e3 * wall:.1f} ms with the disk: {PART / wall / 1e6:.2f} million images a second at most")
    decode, size = decoded["JPEG of 256 x 256"]
    each = decode + judged["autoencoder"]
    print(f"\na JPEG of 256 x 256 through the autoencoder: {1e6 * each:.0f} us")
    print("| images | cores | part | time | core hours | $ | read | rows | $, single files | store, single files |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    notes = []
    for images, (cores, part) in CORES.items():
        hours = images * each / 3600
        print(
            f"| {images:.0e} | {cores:,} | {part:,} | {hours / cores:.2g} h | {hours:,.2f} | "
            f"{hours * CORE_HOUR:,.2f} | "
            f"{images * size / 1e9:,.0f} GB at {cores * size / each / 1e9:.2g} GB/s | {images * row / 1e9:,.2f} GB | "
            f"{images / 1000 * THOUSAND_REQUESTS:,.2f} | {images / REQUESTS_A_SECOND / 3600:,.2f} h |"
        )
        rate = cores / part / each
        deaths = hours / WORKER_HOURS_BETWEEN_DEATHS
        notes.append(
            f"{images:.0e}: {images / part:,.0f} parts of {part * each:.0f} s, {rate:,.1f} a second: "
            f"{100 * rate * used:.1f} % of the driver's processor, {100 * rate * wall:.0f} % with the disk; "
            f"{deaths:,.1f} workers die, "
            f"{100 * part * each / 2 / 3600 / WORKER_HOURS_BETWEEN_DEATHS:.3f} % of the work is done twice"
        )
    print("\n".join(notes))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(where(), flush=True)
    main()

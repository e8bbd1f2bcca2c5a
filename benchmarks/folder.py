"""Scoring a folder of files against the same images in memory, and against reading the files alone, turn by turn.

    python benchmarks/folder.py [--images 2000] [--rounds 7]

CIFAR-10 as JPEG and PNG, the network of the preset cifar10-vae. The aim is .9 of the speed in memory, or the speed of
reading alone, whichever is lower. Figures are medians over rounds.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import where
from PIL import Image

import recondite
from recondite.data.datasets import open_images, read_batches
from recondite.data.images import Preprocessing

SHAPE = (3, 32, 32)


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(count, rounds):
    print(where())
    preprocessing = Preprocessing(shape=SHAPE)
    source = open_images("cifar10/test").select(np.arange(count))
    images = np.concatenate([batch.pixels for batch in read_batches(source, preprocessing, 64)])
    pixels = np.round(images.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    screen = recondite.fit(images[:1000], preset="cifar10-vae", epochs=1, alpha=0.05)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for kind in ("jpg", "png"):
            (root / kind).mkdir()
            for number, one in enumerate(pixels):
                Image.fromarray(one).save(root / kind / f"{number:06}.{kind}", quality=95)

        def read(kind):
            for _ in read_batches(open_images(root / kind), preprocessing, 64):
                pass

        work = {"in memory": lambda: screen.predict(pixels)}
        for kind in ("jpg", "png"):
            work[f"folder of {kind}"] = lambda kind=kind: screen.predict(root / kind)
            work[f"reading {kind} alone"] = lambda kind=kind: read(kind)
        taken = {task: [] for task in work}
        for number in range(rounds + 1):
            for task, run in work.items():
                passed = seconds(run)
                if number:  # the first round fills caches
                    taken[task].append(passed)
    memory = np.array(taken["in memory"])
    print("| work | ms an image | speed, as a share of that in memory (smallest to largest) |\n|---|---|---|")
    for task, passed in taken.items():
        shares = memory / np.array(passed)
        print(
            f"| {task} | {np.median(passed) / count * 1e3:.2f} "
            f"| {np.median(shares):.2f} ({shares.min():.2f} to {shares.max():.2f}) |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    main(given.images, given.rounds)

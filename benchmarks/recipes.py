"""The plain recipe of the network cifar10-vae against the preset cifar10-fast: error on fresh images, steps, seconds.

    python benchmarks/recipes.py [--images 2000] [--epochs 12,20]

CIFAR-10; the plain recipe is that of the preset cifar10-vae with its 50 epochs.
"""

import argparse
import time

import numpy as np
from machine import where

import recondite
from recondite.data.datasets import open_images, read_batches
from recondite.data.images import Preprocessing
from recondite.options import TrainingOptions, option_names

SHAPE = (3, 32, 32)


def read(part, count):
    source = open_images(f"cifar10/{part}").select(np.arange(count))
    return np.concatenate([batch.pixels for batch in read_batches(source, Preprocessing(shape=SHAPE), 256)])


def main(count, epochs):
    print(where())
    images, fresh = read("train", count), read("test", 1000)
    print(
        "| recipe | epochs | steps | images shown | seconds | error on 1,000 fresh images |\n|---|---|---|---|---|---|"
    )
    for name, passes in [*(("cifar10-fast", number) for number in epochs), ("cifar10-vae", None)]:
        preset = recondite.PRESETS[name]
        training = {key: value for key, value in preset.options.items() if key in option_names(TrainingOptions)}
        own = {key: value for key, value in preset.options.items() if key not in training}
        training["epochs"] = passes or training["epochs"]
        detector = recondite.build(preset.detector, image_shape=SHAPE, **own)
        start = time.perf_counter()
        detector.fit(images, validation=None, **training)
        seconds = time.perf_counter() - start
        steps = training["epochs"] * -(-count // training["batch_size"])
        error = detector.score(fresh).instance_score.mean()
        shown = training["epochs"] * count
        print(f"| {name} | {training['epochs']} | {steps:,} | {shown:,} | {seconds:.0f} | {error:.5f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epochs", default="12,20", help="of cifar10-fast")
    given = parser.parse_args()
    main(given.images, [int(number) for number in given.epochs.split(",")])

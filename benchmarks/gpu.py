"""What a GPU changes: training steps plain, in bf16 and compiled; images scored a second; and the same scores as a CPU.

    python benchmarks/gpu.py steps
    python benchmarks/gpu.py scoring [--images 20000]
    python benchmarks/gpu.py agreement [--data cifar10]

`--device cpu` runs the first two on the processor, to compare. The full trainings are those of reference_systems.py,
which takes the GPU where there is one; ALAD's steps are timed by `alad.py speed --device cuda`.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import where

import recondite
from recondite.data.datasets import ImageSet, open_images
from recondite.data.spool import read_all
from recondite.detectors import Detector

PRESETS = ("cats-dogs-screen", "cifar10-vae")
WAYS = {
    "fp32": {},
    "fp32, compiled": {"compile": True},
    "bf16": {"precision": "bf16"},
    "bf16, compiled": {"precision": "bf16", "compile": True},
}
SCREENS = {
    "cats-dogs-screen": {"preset": "cats-dogs-screen", "epochs": 3, "score": "auto"},
    "cifar10-vae": {"preset": "cifar10-vae", "epochs": 3, "score": "auto"},
    "autoencoder": {"detector": "autoencoder", "epochs": 3},
    "alad, width 32": {"detector": "alad", "width": 32, "epochs": 3},
    "pca": {"detector": "pca"},
    "features": {"detector": "features"},
}


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def thinned(images: ImageSet, count: int) -> ImageSet:
    return images.select(range(0, images.size, max(1, images.size // count)))


def fitted(preset: str, device: str, count: int, **training: object) -> recondite.Screen:
    return recondite.fit(noise(count), preset=preset, device=device, picture_epochs="none", **training)


def steps(device: str, count: int, epochs: int) -> None:
    """Print the milliseconds of a training step; the first epoch holds what compiling takes."""
    for preset in PRESETS:
        for way, options in WAYS.items():
            torch._dynamo.reset()  # compiled networks of earlier ways count towards its limit of recompilations
            try:
                history = fitted(preset, device, count, epochs=epochs, **options).detector.history.epochs
            except Exception as error:  # one way that fails must not hide the others
                print(f"{preset:18s} {way:15s} failed: {type(error).__name__}: {error}", flush=True)
                continue
            rows = len(range(0, int(count * 0.7), 64))  # .1 validate and .2 calibrate
            seconds = [row["seconds"] for row in history]
            last = min(seconds[1:])
            print(
                f"{preset:18s} {way:15s} {1000 * last / rows:7.2f} ms a step with validation; "
                f"first epoch {seconds[0] - last:+6.1f} s",
                flush=True,
            )


def scoring(device: str, count: int, rounds: int) -> None:
    """Print images a second: from uint8 arrays to scores, and of the networks alone on prepared pixels."""
    images = noise(count)
    for preset in PRESETS:
        detector = fitted(preset, device, 2000, epochs=1).to(device).detector
        pixels = np.array(read_all(open_images(images), detector.preprocessing).pixels)

        def alone(detector: Detector = detector, pixels: np.ndarray = pixels) -> None:
            detector.run(pixels, lambda ready, x: {"": ready.measure_and_pool(x)[2]}, "alone")

        def whole(detector: Detector = detector) -> None:
            detector.score(images)

        for what, work in (("images to scores", whole), ("prepared pixels to scores", alone)):
            times = []
            for number in range(rounds + 1):
                start = time.perf_counter()
                work()
                if number:
                    times.append(time.perf_counter() - start)
            rate = count / statistics.median(times)
            print(f"{preset:18s} {what:26s} batches of {detector.scoring_batch}: {rate:10,.0f} images/s", flush=True)
        single = images[:1]
        detector.score(single)
        start = time.perf_counter()
        for _ in range(50):
            detector.score(single)
        print(f"{preset:18s} one image: {(time.perf_counter() - start) * 20:.2f} ms", flush=True)


def agreement(data: str, device: str, learnt: int, tested: int) -> None:
    """Fit on the GPU, save, load on the processor, and compare scores and verdicts.

    Differences are given in quartile distances of the calibration scores.
    """
    train = thinned(open_images(f"{data}/train:cat,dog" if data == "cifar10" else f"{data}/train"), learnt)
    test = thinned(open_images(f"{data}/test"), tested)
    for name, options in SCREENS.items():
        try:
            print(f"{name:18s} {_compared(train, test, options, device)}", flush=True)
        except Exception as error:  # one detector that fails must not hide the others
            print(f"{name:18s} failed: {type(error).__name__}: {error}", flush=True)


def _compared(train: ImageSet, test: ImageSet, options: Mapping[str, Any], device: str) -> str:
    training = {} if options.get("detector") in ("pca", "features") else {"device": device}
    screen = recondite.fit(train, **options, **training).to(device)
    with tempfile.TemporaryDirectory() as folder:
        screen.save(Path(folder) / "screen")
        other = recondite.load(Path(folder) / "screen")
    ours, theirs = screen.predict(test), other.predict(test)
    low, high = np.quantile(screen.calibrator.scores, [0.25, 0.75])
    difference = np.abs(ours.instance_score - theirs.instance_score) / (high - low)
    plain, plain_other = screen.detector.score(test).instance_score, other.detector.score(test).instance_score
    spread = np.subtract(*np.quantile(plain_other, [0.75, 0.25]))
    few = thinned(test, 20)
    lone = np.concatenate([screen.predict(few.select([row])).instance_score for row in range(few.size)])
    together = screen.predict(few).instance_score
    return (
        f"score {screen.score}: largest difference {difference.max():.2e}, median {np.median(difference):.2e}; "
        f"plain score {np.max(np.abs(plain - plain_other)) / spread:.2e}; "
        f"other verdicts {np.sum(ours.is_outlier != theirs.is_outlier)} of {len(ours)}; "
        f"alone and in company {np.abs(lone - together).max():.2e} apart"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["steps", "scoring", "agreement"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--learnt", type=int, default=5_000)
    parser.add_argument("--data", default="cifar10")
    arguments = parser.parse_args()
    print(where(), flush=True)
    if arguments.what == "steps":
        steps(arguments.device, arguments.images, arguments.epochs)
    elif arguments.what == "scoring":
        scoring(arguments.device, arguments.images, arguments.rounds)
    else:
        agreement(arguments.data, arguments.device, arguments.learnt, min(arguments.images, 2_000))

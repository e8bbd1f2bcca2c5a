"""The three reference networks with their own settings and data: what they reach here.

python benchmarks/reference_systems.py mnist-microscope
python benchmarks/reference_systems.py mnist-fast
python benchmarks/reference_systems.py cats-dogs-screen [--epochs 30]
python benchmarks/reference_systems.py cifar10-vae [--epochs 2]
"""

import argparse
import time

import numpy as np
from machine import where

from recondite import Calibrator, Detector, Screen, build
from recondite.data.catalog import open_named
from recondite.data.datasets import open_images
from recondite.data.spool import read_all, split
from recondite.statistics.calibration import mean_std_threshold, percentile_threshold
from recondite.statistics.metrics import auroc, rate
from recondite.training.presets import PRESETS

EIGHT = ("airplane", "automobile", "bird", "deer", "frog", "horse", "ship", "truck")
DETECTOR_OPTIONS = ("network", "latent_size", "sigma", "initial_sigma", "beta", "draws")


def trained(name: str, images: object, validation: object, epochs: int | None, **more: object) -> Detector:
    preset = PRESETS[name]
    own = {key: value for key, value in preset.options.items() if key in DETECTOR_OPTIONS}
    training = {key: value for key, value in preset.options.items() if key not in DETECTOR_OPTIONS}
    if epochs:
        training["epochs"] = epochs
    detector = build(preset.detector, image_shape=preset.shape, **own)
    start = time.monotonic()
    detector.fit(images, validation=validation, progress=True, **training, **more)
    seconds = time.monotonic() - start
    print(f"parameters: {sum(p.numel() for p in detector.parameters()):,}; training: {seconds:.0f} s")
    for row in detector.history.epochs:
        print({key: round(value, 6) for key, value in row.items()})
    return detector


def mnist(name: str, epochs: int | None) -> None:
    train, test = open_named("mnist/train").items, open_named("mnist/test").items
    detector = trained(name, train, test, epochs)
    upright = detector.score(test).instance_score
    turned = detector.score(np.ascontiguousarray(np.rot90(test, axes=(1, 2)))).instance_score
    print(f"validation error {detector.history.best_validation:.5f} (mean squared error on the 10,000 test digits)")
    print(f"AUROC, turned by 90 degrees, plain error: {auroc(upright, turned):.4f}")
    print(f"mean error upright {upright.mean():.5f}, turned {turned.mean():.5f}")
    losses = detector.history.losses["validation"]
    rules = {f"{len(losses)} validation batches (the document's)": losses, "single images": upright}
    for of_what, values in rules.items():
        limit = mean_std_threshold(values)
        flagged = f"upright flagged {np.mean(upright > limit):.4f}, turned {np.mean(turned > limit):.4f}"
        print(f"mean + std of {of_what}: {values.mean():.6f} + {values.std():.6f} = {limit:.6f}; {flagged}")


def cats_dogs(epochs: int | None) -> None:
    normal = "cifar10/test:cat,dog"
    # The validation images choose nothing here, so they stay clean for calibration and measurement.
    detector = trained("cats-dogs-screen", "cifar10/train:cat,dog", normal, epochs)
    images = open_images(normal)
    scores = detector.score(images).instance_score
    spooled = read_all(images, detector.preprocessing)
    calibrating, measuring = split(spooled.hashes, [1000], seed=0)
    screen = Screen(detector=detector, calibrator=Calibrator(scores[calibrating]), alpha=0.05)
    realised = rate(screen.calibrator.is_outlier(scores[measuring], 0.05))
    print(f"validation MSE in [-1, 1] units {scores.mean():.5f}; threshold {screen.threshold:.5f} at alpha .05")
    print(f"by hand at .045: {np.mean(scores > 0.045):.4f} of all {len(scores)} cats and dogs refused")
    print(f"realised false-alarm rate on the other {len(measuring)} cats and dogs: {realised}")
    labels = np.array(images.labels)
    for name in ("cat", "dog"):
        print(f"{name:12s} mean error {scores[labels == name].mean():.5f}")
    everything = []
    for name in EIGHT:
        outlying = screen.predict(f"cifar10/test:{name}")
        everything.append(outlying.instance_score)
        passed = np.mean(~outlying.is_outlier)
        print(
            f"{name:12s} mean error {outlying.instance_score.mean():.5f}  "
            f"AUROC {auroc(scores[measuring], outlying.instance_score):.4f}  pass at alpha .05: {passed:.3f} "
            f"({int(np.sum(~outlying.is_outlier))} of {len(outlying)})"
        )
    print(f"by hand at .045: {np.mean(np.concatenate(everything) > 0.045):.4f} of the eight refused")
    print(f"AUROC against all eight: {auroc(scores[measuring], np.concatenate(everything)):.4f}")


def cifar10_vae(epochs: int | None) -> None:
    detector = trained("cifar10-vae", "cifar10/train", "cifar10/test", epochs or 2)
    first = open_images("cifar10/train").select(range(500))
    scores = detector.score(first).instance_score
    print(f"99 % threshold on the first 500 training images: {percentile_threshold(scores, 99):.5f}")
    print(f"mean squared error on the test images: {detector.score('cifar10/test').instance_score.mean():.5f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=list(PRESETS))
    parser.add_argument("--epochs", type=int)
    arguments = parser.parse_args()
    print(where(), flush=True)
    if arguments.preset == "cats-dogs-screen":
        cats_dogs(arguments.epochs)
    elif arguments.preset == "cifar10-vae":
        cifar10_vae(arguments.epochs)
    else:
        mnist(arguments.preset, arguments.epochs)

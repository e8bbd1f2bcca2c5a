"""Is the false-alarm rate the one that was chosen? Many random calibration splits of real MNIST.

    python benchmarks/false_alarm_rate.py [--splits 200] [--calibration 1000]

Each detector learns from the 60,000 training digits once. The 10,000 test digits are scored once, by error, evidence
and auto, and then split at random, again and again, into calibration images and fresh ones; the share of the fresh
ones that is flagged is counted.
"""

import argparse

import numpy as np
from machine import where

import recondite
from recondite import Calibrator
from recondite.data.catalog import open_named

DETECTORS = {
    "autoencoder": {"network": "mnist-microscope", "latent_size": 20},
    "vae": {"network": "mnist-microscope", "latent_size": 20},
    "pca": {"latent_size": 20},
}


def main(splits: int, size: int) -> None:
    test = open_named("mnist/test").items
    print(f"{splits} splits, {size} calibration images, {len(test) - size} fresh ones")
    print("detector     score      alpha   mean rate (se)       std     95 % interval   inside it   rates within alpha")
    for name, options in DETECTORS.items():
        training = {} if name == "pca" else {"epochs": 3, "learning_rate": 1e-2}
        screen = recondite.fit("mnist/train", detector=name, **options, **training)
        for score in ("error", "evidence", "auto"):
            scores = screen.with_score(score).predict(test).instance_score
            for alpha in (0.01, 0.05, 0.1):
                print(f"{name:12s} {score:10s} {alpha:<7g} {_rates(scores, alpha, splits, size)}", flush=True)


def _rates(scores: np.ndarray, alpha: float, splits: int, size: int) -> str:
    rates = []
    generator = np.random.default_rng(0)
    for _ in range(splits):
        order = generator.permutation(len(scores))
        calibrator = Calibrator(scores[order[:size]])
        rates.append(calibrator.is_outlier(scores[order[size:]], alpha).mean())
    low, high = calibrator.interval(alpha)
    inside = np.mean([low <= rate <= high for rate in rates])
    mean, spread = np.mean(rates), np.std(rates)
    return (
        f"{mean:.5f} ({spread / np.sqrt(splits):.5f})   {spread:.5f} "
        f"{low:.4f} to {high:.4f} {inside:9.3f}   {np.mean(np.array(rates) <= alpha):.3f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--calibration", type=int, default=1000)
    arguments = parser.parse_args()
    print(where(), flush=True)
    main(arguments.splits, arguments.calibration)

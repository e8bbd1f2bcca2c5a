"""ALAD: time per training step, images scored a second, and what one-class studies with it take.

python benchmarks/alad.py speed [--side 64] [--width 128] [--precision bf16] [--device cuda]

The AUROCs come from the command line. Everything, on a machine with a GPU:

recondite study one-class cifar10 --normal all --detector alad,pca --seeds 3 --epochs 100 -o alad-cifar10
recondite study one-class birds64 --normal bird --detector alad,pca --protocol official --batch-size 64 --epochs 100 \
    --seeds 3 --augment rotate,zoom,hue -o alad-birds64
recondite study latent-size birds64 --normal bird --sizes 100,300,500,800 --protocol official --batch-size 64 \
    --epochs 100 --seeds 3 --augment rotate,zoom,hue -o alad-latent
"""

import argparse
import statistics
import time

import numpy as np
import torch
from machine import where

from recondite import build
from recondite.detectors import Detector

STEPS, SCORED = 12, 320


class Stopwatch:
    """Notes when the losses of each step are asked for."""

    def __init__(self, detector: Detector) -> None:
        self.times: list[float] = []
        self.losses = detector.losses
        detector.losses = self

    def __call__(self, x: torch.Tensor):
        if x.is_cuda:
            torch.cuda.synchronize()
        self.times.append(time.monotonic())
        return self.losses(x)


def speed(side: int, width: int, batch_size: int, precision: str, device: str) -> None:
    detector = build("alad", image_shape=(3, side, side), width=width)
    images = np.random.default_rng(0).random((STEPS * batch_size, 3, side, side), dtype=np.float32)
    watch = Stopwatch(detector)
    detector.fit(images, validation=None, epochs=1, batch_size=batch_size, precision=precision, device=device)
    steps = np.diff(watch.times)[2:]
    parameters = sum(parameter.numel() for parameter in detector.parameters())
    print(f"{side} px, width {width}, {parameters:,} parameters, {precision}, batches of {batch_size}")
    print(f"training step: median {1000 * statistics.median(steps):.0f} ms, fastest {1000 * min(steps):.0f} ms")
    detector.score(images[:64])
    start = time.monotonic()
    detector.score(images[:SCORED])
    print(f"scoring: {SCORED / (time.monotonic() - start):.0f} images a second")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed"])
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(where(), flush=True)
    speed(arguments.side, arguments.width, arguments.batch_size, arguments.precision, arguments.device)

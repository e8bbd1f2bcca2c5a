"""The walk-through of docs/from_alibi_detect.md as it stands, on images of CIFAR-10's training split.

    python benchmarks/alibi_walk_through.py --images 2000 --epochs 4 --output walk/

Writes the figures and prints what the lines print, the seconds of each step and the scores against mask size. Needs
RECONDITE_DATA or a network.
"""

import argparse
import os
import re
import time
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from machine import where

from recondite.data.datasets import open_images, read_batches
from recondite.data.images import Preprocessing

DOCUMENT = Path(__file__).parent.parent / "docs" / "from_alibi_detect.md"


def cifar(count):
    chosen = np.random.default_rng(0).permutation(50_000)[:count]
    batches = read_batches(open_images("cifar10/train").select(chosen), Preprocessing(shape=(3, 32, 32)), 256)
    return np.ascontiguousarray(np.concatenate([batch.pixels for batch in batches]).transpose(0, 2, 3, 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("walk"))
    given = parser.parse_args()
    matplotlib.use("Agg")
    print(where())
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    steps = code.replace("epochs=50", f"epochs={given.epochs}").split("\n# ")
    names = {"X_train": cifar(given.images)}
    given.output.mkdir(parents=True, exist_ok=True)
    os.chdir(given.output)
    for number, step in enumerate(steps):
        start, busy = time.perf_counter(), time.process_time()
        exec(compile(f"# {step}" if number else step, DOCUMENT.name, "exec"), names)
        took = f"{time.perf_counter() - start:.0f} s, {time.process_time() - busy:.0f} s of processor"
        print(f"{took}: {step.splitlines()[0] if number else 'fit, save, load'}", flush=True)
    for number in plt.get_fignums():
        plt.figure(number).savefig(f"figure{number}.png", dpi=60)
    print("mean score against mask size:", names["scores"].mean(axis=0).round(4))


if __name__ == "__main__":
    main()

"""PyOD's ALAD, a dense network on flattened images, on the very images of a one-class run here.

python benchmarks/peer_pyod_alad.py bird [--epochs 200]

Makes an environment of its own beside the cache, since PyOD is no dependency, and installs PyOD and torch into it.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from machine import where

from recondite.data.catalog import cache_folder
from recondite.statistics.metrics import auroc_interval
from recondite.studies.training.runs import baseline_scores, open_task

PACKAGES = ("pyod==3.6.7", "pandas")
PEER = """
import sys, time
import numpy as np
from pyod.models.alad import ALAD
folder, epochs = sys.argv[1], int(sys.argv[2])
learnt, tested = (np.load(f"{folder}/{name}.npy") for name in ("learnt", "tested"))
start = time.monotonic()
model = ALAD(epochs=epochs, latent_dim=100, batch_size=32).fit(learnt)
print(f"trained in {time.monotonic() - start:.0f} s")
np.save(f"{folder}/scores.npy", model.decision_function(tested))
"""


def main(normal: str, epochs: int) -> None:
    folder = cache_folder() / "peer-pyod"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        constraints = Path(__file__).parent.parent / "constraints.txt"
        torch = next(line for line in constraints.read_text().splitlines() if line.startswith("torch=="))
        # torch comes first and by its exact version: a looser request may bring gigabytes of GPU libraries along.
        for packages in ([torch], [*PACKAGES, torch]):
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    parts = open_task("cifar10").split(normal, 0)
    learnt = parts.learnt.take(slice(None))
    tested = np.concatenate([parts.normal.take(slice(None)), parts.anomalous.take(slice(None))])
    for name, pixels in (("learnt", learnt), ("tested", tested)):
        np.save(folder / f"{name}.npy", pixels.reshape(len(pixels), -1))
    start = time.monotonic()
    subprocess.run([python, "-c", PEER, folder, str(epochs)], check=True)
    scores = np.load(folder / "scores.npy")
    own = {"PyOD's ALAD": (scores[: len(parts.normal)], scores[len(parts.normal) :])}
    print(f"{len(learnt):,} images of {normal} learnt, {len(tested):,} judged, {time.monotonic() - start:.0f} s in all")
    for name, pair in {**own, **baseline_scores(parts)}.items():
        value, low, high = auroc_interval([pair])
        print(f"{name}: AUROC {value:.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("normal", help="a class of CIFAR-10")
    parser.add_argument("--epochs", type=int, default=200, help="PyOD's default; each is a single batch")
    arguments = parser.parse_args()
    print(where(), flush=True)
    main(arguments.normal, arguments.epochs)

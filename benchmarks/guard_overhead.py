"""What a guard with a linear head costs over its classifier alone, on one backbone; ratio of alternated runs.

    python benchmarks/guard_overhead.py [--images 64] [--rounds 15] [--parts screen,vim,knn] [--threads 1]

Random images of 32 x 32 pixels. Alone: backbone of the screen and head. Guard: screen, head, rules, decision.
Each round times both, in processor time of this process, in random order.
"""

import argparse
import time

import numpy as np
import torch
from machine import where

from recondite.data.datasets import nameless
from recondite.perturbations.outliers import make_outliers
from recondite.screen.guard_fit import fit_guard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--parts", default="screen,vim,knn")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(where(), given, flush=True)
    draws, shape = np.random.default_rng(0), (3, 32, 32)
    known = np.concatenate([make_outliers("checkerboards", 150, shape), make_outliers("gaussian-noise", 150, shape)])
    classes = ["boards"] * 150 + ["noise"] * 150
    guard = fit_guard(list(zip(known, classes, strict=True)), parts=given.parts.split(","), alpha=0.1).guard
    detector, head = guard.screen.detector, guard.head
    assert head is not None
    batch = nameless(draws.random((given.images, *shape)).astype(np.float32))

    def alone() -> None:
        def look(ready: object, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
            vectors = ready.vectors(ready.scaled(pixels))[0][:, 0]  # type: ignore[attr-defined]
            return {"probabilities": head(vectors).softmax(1)}

        detector.run(batch.pixels, look, "alone")

    def guarded() -> None:
        scores, outputs = guard.heard(guard.score_batch(batch), batch)
        guard.decided(scores, batch.labels, outputs)

    runs = {"alone": alone, "guard": guarded}
    for run in runs.values():
        run()
    ratios = []
    for _ in range(given.rounds):
        seconds = {}
        for name in draws.permutation(list(runs)):
            start = time.process_time()
            runs[name]()
            seconds[name] = time.process_time() - start
        ratios.append(seconds["guard"] / seconds["alone"])
    low, middle, high = np.quantile(ratios, [0.1, 0.5, 0.9])
    print(f"guard / classifier alone: {middle:.3f} ({low:.3f} to {high:.3f}, 10th to 90th percentile)", flush=True)


if __name__ == "__main__":
    main()

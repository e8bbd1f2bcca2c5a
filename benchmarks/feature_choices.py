"""How the defaults of `features` were chosen: good images and made-up defects alone, no image of a test set.

    python benchmarks/feature_choices.py SET [SET ...] [--sides 224,320] [--threads 2]

Of each set's train/good a quarter is held out, and meets copies of itself with a made-up defect of every kind that
is hard to see. AUROC of each method and of their combination; the mean over the kinds last.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from machine import where

from recondite import build
from recondite.data.datasets import open_images
from recondite.data.images import Preprocessing
from recondite.data.sample import sampled
from recondite.data.spool import read_all
from recondite.detectors.features import COMBINED
from recondite.perturbations import defective
from recondite.statistics.metrics import auroc

HARD = ("faint-patch", "hairline", "dull-spot", "bend")
METHODS = ("mahalanobis", "padim", "patchcore", "subspace", "dfr")
DEFAULT = ("mahalanobis", "padim")


def sizes(height: int, width: int, sides: list[int]) -> dict[str, tuple[int, int]]:
    """Return the sizes tried: squares, and with an area of the square in the images' own proportions."""
    found = {f"{side} x {side}": (side, side) for side in sides}
    if height != width:
        for side in sides:
            shrink = side / (height * width) ** 0.5
            found[f"{round(height * shrink)} x {round(width * shrink)}"] = (
                round(height * shrink),
                round(width * shrink),
            )
    return found


def measured(root: Path, channels: int, size: tuple[int, int], seed: int = 0) -> dict[str, list[float]]:
    """Return method or combination -> AUROC of each kind of made-up defect."""
    shape = (channels, *size)
    pixels = read_all(open_images(str(root), role="fit"), Preprocessing(shape=shape)).pixels
    order = np.random.default_rng(seed).permutation(len(pixels))
    held, learnt = np.sort(order[: len(order) // 4]), np.sort(order[len(order) // 4 :])
    made = [defective(pixels[held], name, seed=1).images for name in HARD]
    found = {}
    for methods in (METHODS, DEFAULT, (*DEFAULT, "dfr")):
        detector = build("features", image_shape=shape, methods=methods)
        detector.fit(pixels[learnt], validation=0.1 if "dfr" in methods else None)
        for score in (*methods, COMBINED) if methods == METHODS else (COMBINED,):
            normal, *changed = (detector.score(images, score=score).instance_score for images in (pixels[held], *made))
            name = " + ".join(methods) if score == COMBINED else score
            found[name] = [auroc(normal, scores) for scores in changed]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--sides", default="224,320")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(where())
    sides = [int(side) for side in given.sides.split(",")]
    for root in given.sets:
        sample, _ = sampled(open_images(str(root), role="fit"))
        for title, size in sizes(*sample.size, sides).items():
            print(f"\n{root.name}, {title}: {', '.join(HARD)}; mean")
            for name, aurocs in measured(root, max(sample.channels), size).items():
                print(f"{name:45s} {' '.join(f'{value:.3f}' for value in aurocs)}  {np.mean(aurocs):.3f}", flush=True)


if __name__ == "__main__":
    main()

"""How well a screen of a few good images finds real defects, as `fit` makes it of them: whole fits.

    python benchmarks/few_images.py FOLDER [--sets bottle,screw] [--images 16] [--draws 3] [-- --rotations 8 --tile 256]

FOLDER holds sets laid out as MVTec AD. Each draw takes other good images to learn from. Printed, for each set and as a
mean over draws: the AUROC of its test images (and that of each draw), the shares of good and of bad ones flagged at the
alpha that so few images get, and the processor time of a fit. What follows "--" are options of `fit` for the detector
`features`; --image-size H,W is among them.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from machine import where

import recondite
from recondite.data.datasets import open_images
from recondite.statistics.metrics import auroc


def options_of(flags):
    """Return keyword arguments of such flags: whole numbers, or as they are."""
    names = [flag.removeprefix("--").replace("-", "_") for flag in flags[::2]]
    values = [tuple(map(int, v.split(","))) if "," in v else int(v) if v.isdigit() else v for v in flags[1::2]]
    return dict(zip(names, values, strict=True))


def one_draw(root, count, draw, options):
    """Return the AUROC, the shares of good and bad test images flagged, alpha, and the seconds of a fit."""
    good = open_images(str(root), role="fit")
    chosen = good.select(np.sort(np.random.default_rng(draw).permutation(good.size)[:count]))
    start = time.process_time()
    screen = recondite.fit(chosen, detector="features", seed=draw, **options)
    seconds = time.process_time() - start
    inliers, outliers = (screen.predict(open_images(str(root), role=role)) for role in ("inliers", "outliers"))
    found = auroc(inliers.instance_score, outliers.instance_score)
    return found, inliers.is_outlier.mean(), outliers.is_outlier.mean(), screen.alpha, seconds


def main():
    flags = sys.argv[1:]
    cut = flags.index("--") if "--" in flags else len(flags)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of sets of defects")
    parser.add_argument("--sets", default="bottle,screw")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--draws", type=int, default=3)
    given, options = parser.parse_args(flags[:cut]), options_of(flags[cut + 1 :])
    torch.set_num_threads(1)
    print(where())
    print("| set | options | AUROC (each draw) | good flagged | bad flagged | alpha | CPU s of a fit |")
    print(f"|{7 * '---|'}", flush=True)
    for name in given.sets.split(","):
        draws = np.array([one_draw(given.folder / name, given.images, draw, options) for draw in range(given.draws)])
        each = ", ".join(f"{value:.3f}" for value in draws[:, 0])
        cells = [f"{draws[:, 0].mean():.3f} ({each})", *(f"{value:.3f}" for value in draws[:, 1:4].mean(axis=0))]
        told = " ".join(f"{key}={value}" for key, value in options.items())
        print("|", " | ".join([name, told, *cells, f"{draws[:, 4].mean():.0f}"]), "|", flush=True)


if __name__ == "__main__":
    main()

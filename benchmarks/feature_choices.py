"""How the defaults of `features` were chosen: good images and made-up defects alone, no image of a test set.

    python benchmarks/feature_choices.py SET [SET ...] [--sides 224,352] [--default-only] [--backbone lite0]
        [--threads 2]

Of each set's train/good a quarter is held out, and meets copies of itself with a made-up defect of every kind that
is hard to see. Defects are made on the images as they are and shrink with them, so that sizes can be compared. AUROC
of each method and of their combination; the mean over the kinds last.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from machine import where

from recondite import build
from recondite.data.datasets import open_images
from recondite.data.images import Floats, Preprocessing
from recondite.data.sample import sampled
from recondite.data.spool import read_all
from recondite.detector_options import Method
from recondite.detectors.feature_methods import COMBINED
from recondite.perturbations import defective
from recondite.statistics.metrics import auroc

HARD = ("faint-patch", "hairline", "dull-spot", "bend")
METHODS: tuple[Method, ...] = ("mahalanobis", "padim", "patchcore", "subspace", "dfr")
DEFAULT: tuple[Method, ...] = ("mahalanobis", "padim")


def sizes(height: int, width: int, sides: list[int]) -> list[tuple[int, int]]:
    """Return the (height, width) tried: squares, and the images' own proportions with the same shorter sides."""
    shorter = min(height, width)
    own = [(round(height * side / shorter), round(width * side / shorter)) for side in sides]
    return list(dict.fromkeys([*((side, side) for side in sides), *own]))


def measured(
    good: Floats,
    made: list[Floats],
    learnt: Floats,
    shape: tuple[int, ...],
    tried: list[tuple[Method, ...]],
    backbone: str,
) -> dict[str, list[float]]:
    """Return method or combination -> AUROC of each kind of made-up defect.

    Args:
        good, made, learnt: images (N, C, H, W) of their own size: held out, those with defects, and those to fit on.
        shape: (C, H, W) that the detector works on.
        tried: methods that are combined.
        backbone: by name.
    """
    resize = Preprocessing(shape=shape)
    normal, *changed, fitted = (np.stack([resize(image) for image in images]) for images in (good, *made, learnt))
    found = {}
    for methods in tried:
        detector = build("features", image_shape=shape, methods=methods, backbone=backbone)
        detector.fit(fitted, validation=0.1 if "dfr" in methods else None)
        for score in (*methods, COMBINED) if len(methods) > 1 else methods:
            name = " + ".join(methods) if score == COMBINED else score
            if name in found:
                continue
            ours = detector.score(normal, score=score).instance_score
            found[name] = [auroc(ours, detector.score(images, score=score).instance_score) for images in changed]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--sides", default="224,352", help="of the shorter side, in pixels")
    parser.add_argument("--default-only", action="store_true", help="no other methods than the default's")
    parser.add_argument("--backbone", default="lite0")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(where())
    tried = [DEFAULT] if given.default_only else [METHODS, DEFAULT, (*DEFAULT, "dfr")]
    for root in given.sets:
        sample, source = sampled(open_images(str(root), role="fit"))
        channels = max(sample.channels)
        pixels = read_all(source, Preprocessing(shape=(channels, *sample.size))).pixels
        order = np.random.default_rng(0).permutation(len(pixels))
        held, learnt = np.sort(order[: len(order) // 4]), np.sort(order[len(order) // 4 :])
        made = [defective(pixels[held], name, seed=1).images for name in HARD]
        for size in sizes(*sample.size, [int(side) for side in given.sides.split(",")]):
            print(f"\n{root}, {size[0]} x {size[1]}: {', '.join(HARD)}; mean")
            found = measured(pixels[held], made, pixels[learnt], (channels, *size), tried, given.backbone)
            for name, aurocs in found.items():
                print(f"{name:45s} {' '.join(f'{value:.3f}' for value in aurocs)}  {np.mean(aurocs):.3f}", flush=True)


if __name__ == "__main__":
    main()

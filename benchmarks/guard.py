"""A linear head on EfficientNet-Lite0 behind a guard: what it accepts, and each rule on its own.

    python benchmarks/guard.py cats-dogs|ten-classes|digits [--images 2000] [--test 500] [--fine-tune N] [--threads 1]

cats-dogs: CIFAR-10's, against its other eight classes. ten-classes: CIFAR-10 against birds64, MNIST, textures of
scikit-image and uniform noise (one of the kinds that parts are chosen on). digits: 0 to 4 of MNIST against 5 to 9.
Needs RECONDITE_DATA with the data sets. Images are drawn at random; a real outlier chooses nothing.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import torch
from machine import where

from recondite.data.datasets import ImageSet, open_images
from recondite.perturbations.outliers import make_outliers
from recondite.screen.choose_parts import equal_shares
from recondite.screen.classifier_outputs import CONFIDENCE
from recondite.screen.guard import SCREEN, Guard
from recondite.screen.guard_fit import fit_guard
from recondite.screen.linear_head import RULES
from recondite.statistics.metrics import auroc

ALPHA = 0.05


def drawn(source: str, count: int, shape: tuple[int, ...]) -> ImageSet:
    images = open_images(source, shape=shape)
    return images.select(np.random.default_rng(0).permutation(images.size)[:count].tolist())


def parts_of(guard: Guard, images: object) -> dict[str, np.ndarray]:
    """Return every part's scores, and that of the screen."""
    found = []
    guard = replace(guard, shares=equal_shares((SCREEN, CONFIDENCE, *RULES)))
    for scores, _, outputs in guard.measured(open_images(images, shape=guard.screen.detector.shape)):
        found.append({SCREEN: scores.instance_score, **outputs.parts})
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def measured(
    known: str, test: str, others: dict[str, object], shape: tuple[int, ...], given: argparse.Namespace
) -> None:
    start, count = time.process_time(), given.test
    fitted = fit_guard(drawn(known, given.images, shape), alpha=ALPHA, fine_tune=given.fine_tune)
    guard = fitted.guard
    best = sorted(fitted.facts["caught"].items(), key=lambda item: -item[1])[:3]
    print("left-out classes turned away:", {k: round(v, 2) for k, v in fitted.facts.get("left out", {}).items()})
    print(
        f"fitted in {time.process_time() - start:.0f} s of processor time; {fitted.facts['parts']}; "
        f"best on made-up outliers: {best}"
    )
    inliers = drawn(test, count, shape)
    decisions = guard(inliers)
    right = np.array([one == inliers.label(index) for index, one in enumerate(decisions.predicted)])
    kept = ~decisions.abstained
    print(f"accuracy {right.mean():.3f}, on accepted {right[kept].mean():.3f}; turned away {1 - kept.mean():.3f}")
    own = parts_of(guard, inliers)
    print("outliers          accepted  " + "".join(f"{name:>13}" for name in own) + "   (AUROC)")
    for name, outliers in others.items():
        other = parts_of(guard, outliers)
        columns = "".join(f"{auroc(own[part], other[part]):13.3f}" for part in own)
        print(f"{name:18}{1 - guard(outliers).abstained.mean():8.3f}  {columns}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("cats-dogs", "ten-classes", "digits"))
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--fine-tune", type=int, default=None)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(where(), given, flush=True)
    colour, count = (3, 32, 32), given.test
    if given.case == "cats-dogs":
        eight = "cifar10/test:airplane,automobile,bird,deer,frog,horse,ship,truck"
        others: dict[str, object] = {"other eight": drawn(eight, count, colour)}
        measured("cifar10/train:cat,dog", "cifar10/test:cat,dog", others, colour, given)
    elif given.case == "ten-classes":
        others = {
            "birds64": drawn("birds64/test", count, colour),
            "MNIST": drawn("mnist/test", count, colour),
            "textures": make_outliers("textures", count, colour),
            "uniform noise": make_outliers("uniform-noise", count, colour),
        }
        measured("cifar10/train", "cifar10/test", others, colour, given)
    else:
        grey = (1, 28, 28)
        others = {"5 to 9": drawn("mnist/test:5,6,7,8,9", count, grey)}
        measured("mnist/train:0,1,2,3,4", "mnist/test:0,1,2,3,4", others, grey, given)


if __name__ == "__main__":
    main()

"""A classifier behind a guard: what it accepts, and each rule on its own.

    python benchmarks/guard.py cats-dogs|ten-classes|digits [--images 2000] [--test 500] [--fine-tune N] [--backbone B]
    python benchmarks/guard.py digits-scratch [--images 26596] [--test 2000]
    python benchmarks/guard.py cifar10-scratch --network FILE [--images 10000] [--test 2000]

A linear head on an EfficientNet-Lite, with --fine-tune its last blocks; or a network that scratch.py trains, behind a
screen "pca": digits-scratch hands the training to the guard, which also trains without a class; cifar10-scratch takes a
trained network, and its rules learn from some of the images that it has learnt from.
cats-dogs: CIFAR-10's, against its other eight classes. ten-classes, and cifar10-scratch: CIFAR-10 against birds64, two
fifths of which are birds and dogs, which CIFAR-10 knows; those of birds64 that are of no class of CIFAR-10; MNIST,
textures of scikit-image and uniform noise (one of the kinds that parts are chosen on). digits: 0 to 4 of MNIST against
5 to 9. Needs RECONDITE_DATA with the data sets. Images are drawn at random; a real outlier chooses nothing.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from machine import where
from scratch import CASES, pixels_of, read_network, split, train

from recondite.data.datasets import ImageSet, open_images
from recondite.perturbations.outliers import make_outliers
from recondite.screen.fit import fit
from recondite.screen.guard import SCREEN, Guard
from recondite.screen.guard_fit import FittedGuard, fit_guard
from recondite.screen.make_guard import with_every_part
from recondite.screen.module_classifier import module_classifier
from recondite.screen.onnx_classifier import OnnxClassifier
from recondite.statistics.metrics import auroc, outliers_missed_at_95_inliers_kept, resampled_interval

ALPHA = 0.05
# Tiny ImageNet's bullfrog, cats, cars, vans and boats: of classes that CIFAR-10 has, as its birds and dogs are.
_OF_CIFAR = (
    "n01641577 n02123045 n02123394 n02124075 n02814533 n03100240 n03670208 n04285008 n03796401 n03447447 n03662601"
)


def drawn(source: str, count: int, shape: tuple[int, ...]) -> ImageSet:
    images = open_images(source, shape=shape)
    return images.select(np.random.default_rng(0).permutation(images.size)[:count].tolist())


def of_other_classes(count: int, shape: tuple[int, ...]) -> ImageSet:
    """Return photographs of birds64 that are of none of CIFAR-10's classes."""
    images = drawn("birds64/test:fruit,insect,other", 2000, shape)
    rows = [row for row, name in enumerate(images.ids or ()) if Path(name).name.split("_")[0] not in _OF_CIFAR.split()]
    return images.select(rows[:count])


def parts_of(guard: Guard, images: object) -> dict[str, np.ndarray]:
    """Return every part's scores, and that of the screen."""
    found = []
    for scores, _, outputs in with_every_part(guard).measured(open_images(images, shape=guard.screen.detector.shape)):
        found.append({SCREEN: scores.instance_score, **outputs.parts})
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def linear_head(known: str, shape: tuple[int, ...], given: argparse.Namespace) -> FittedGuard:
    return fit_guard(drawn(known, given.images, shape), alpha=ALPHA, fine_tune=given.fine_tune, backbone=given.backbone)


def from_scratch(case: str, given: argparse.Namespace) -> FittedGuard:
    shape, names = CASES[case]["shape"], CASES[case]["names"]
    known, held = split(case)
    known = known.select(range(min(known.size, given.images)))
    with tempfile.TemporaryDirectory() as folder:

        def train_network(images: ImageSet, some: Sequence[str]) -> OnnxClassifier:
            x, y = pixels_of(images, shape, tuple(some))
            network = train(case, x, y, len(some), CASES[case]["epochs"], Path(folder) / "network.safetensors")
            return module_classifier(network, shape, "features")

        return fit_guard(
            known,
            screen=fit(known, detector="pca", alpha=ALPHA, group_by="none"),
            classifier=module_classifier(read_network(case, given.network), shape, "features")
            if given.network
            else None,
            train=None if given.network else train_network,
            classes=names,
            calibration=held,
            group_by="none",
        )


def measured(fitted: FittedGuard, test: str, others: dict[str, object], shape: tuple[int, ...], count: int) -> None:
    guard = fitted.guard
    best = sorted(fitted.facts["caught"].items(), key=lambda item: -item[1])
    print("left-out classes turned away:", {k: round(v, 3) for k, v in fitted.facts.get("left out", {}).items()})
    print(f"{fitted.facts['parts']}; on made-up outliers and classes left out: {best[:3]}")
    print("one part alone:", {name: round(share, 3) for name, share in best if " + " not in name})
    inliers = drawn(test, count, shape)
    decisions = guard(inliers)
    right = np.array([one == inliers.label(index) for index, one in enumerate(decisions.predicted)])
    kept = ~decisions.abstained
    print(f"accuracy {right.mean():.3f}, on accepted {right[kept].mean():.3f}; turned away {1 - kept.mean():.3f}")
    own = parts_of(guard, inliers)
    for name, outliers in others.items():
        print(f"{name}: accepted {1 - guard(outliers).abstained.mean():.3f}")
        other = parts_of(guard, outliers)
        for part in own:
            low, high = resampled_interval(auroc, own[part], other[part])
            missed = outliers_missed_at_95_inliers_kept(own[part], other[part])
            print(
                f"    {part:12} AUROC {auroc(own[part], other[part]):.4f} ({low:.4f} to {high:.4f}); "
                f"accepted {missed:.3f} where it turns away .05 of these inliers",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("cats-dogs", "ten-classes", "digits", "digits-scratch", "cifar10-scratch"))
    parser.add_argument("--images", type=int, default=None)
    parser.add_argument("--test", type=int, default=None)
    parser.add_argument("--network", default=None)
    parser.add_argument("--fine-tune", type=int, default=None)
    parser.add_argument("--backbone", default=None, help="of the screen and of what is fine-tuned; lite0 by default")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(where(), given, flush=True)
    scratch = given.case.endswith("-scratch")
    given.images = given.images or {"digits-scratch": 26596, "cifar10-scratch": 10000}.get(given.case, 2000)
    given.test = given.test or (2000 if scratch else 500)
    count, start = given.test, time.process_time()
    shape = (1, 28, 28) if given.case.startswith("digits") else (3, 32, 32)
    if given.case == "cats-dogs":
        known, test = "cifar10/train:cat,dog", "cifar10/test:cat,dog"
        eight = "cifar10/test:airplane,automobile,bird,deer,frog,horse,ship,truck"
        others: dict[str, object] = {"other eight": drawn(eight, count, shape)}
    elif given.case.startswith("digits"):
        known, test = "mnist/train:0,1,2,3,4", "mnist/test:0,1,2,3,4"
        others = {"5 to 9": drawn("mnist/test:5,6,7,8,9", count, shape)}
    else:
        known, test = "cifar10/train", "cifar10/test"
        others = {
            "birds64": drawn("birds64/test", count, shape),
            "birds64 of other classes": of_other_classes(count, shape),
            "MNIST": drawn("mnist/test", count, shape),
            "textures": make_outliers("textures", count, shape),
            "uniform noise": make_outliers("uniform-noise", count, shape),
        }
    fitted = from_scratch(given.case.removesuffix("-scratch"), given) if scratch else linear_head(known, shape, given)
    print(f"fitted in {time.process_time() - start:.0f} s of processor time")
    measured(fitted, test, others, shape, count)


if __name__ == "__main__":
    main()

"""One class of photographs against all others, by the features of EfficientNet-Lite0 that was never trained on them.

    python benchmarks/one_class_features.py [--score auto] [--classes bird,truck] [--test 3000] [KEY=VALUE ...]

CIFAR-10: a screen is fitted on each class of the training split in turn and measured on the whole test split: its own
class is normal, the other nine are outliers; --test takes so many of its images, the same for all classes. birds64:
fitted on train/bird, measured on test/bird and on the other folders of test. Seconds include fitting; images a second
are end to end: reading, decoding, scoring, verdict.
KEY=VALUE are options of the detector, such as side=64 methods=padim,knn.
"""

import argparse
import json
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import where

import recondite
from recondite.data.catalog import CATALOG, data_folder
from recondite.data.datasets import open_images
from recondite.statistics.metrics import auroc


def measured(normal: object, test: object, options: dict) -> tuple[dict[str, np.ndarray], float, float]:
    """Return scores by label, images a second, and the seconds of fitting."""
    start = time.perf_counter()
    screen = recondite.fit(normal, detector="features", **options)
    fitted = time.perf_counter()
    verdicts = screen.predict(test)
    rate = len(verdicts) / (time.perf_counter() - fitted)
    labels = np.array([name.split("/")[-2] for name in verdicts.ids])
    return {label: verdicts.instance_score[labels == label] for label in np.unique(labels)}, rate, fitted - start


def cifar10(classes: list[str], number: int, options: dict) -> None:
    test = open_images("cifar10/test")
    if number:
        test = test.select(np.sort(np.random.default_rng(0).permutation(test.size)[:number]))
    print("\nclass        AUROC   worst other class      fit s   images/s")
    found = []
    for name in classes:
        scores, rate, seconds = measured(f"cifar10/train:{name}", test, options)
        normal = scores.pop(name)
        found.append(auroc(normal, np.concatenate(list(scores.values()))))
        worst = min(scores, key=lambda other: auroc(normal, scores[other]))
        print(
            f"{name:12s} {found[-1]:.4f}  {auroc(normal, scores[worst]):.4f} {worst:12s} {seconds:7.1f} {rate:8.0f}",
            flush=True,
        )
    print(f"mean         {np.mean(found):.4f}; lowest {min(found):.4f}")


def birds64(options: dict) -> None:
    folder = data_folder()
    if folder is None or not (folder / "birds64.tar.xz").is_file():
        print("\nbirds64: needs RECONDITE_DATA")
        return
    with tempfile.TemporaryDirectory() as unpacked, tarfile.open(folder / "birds64.tar.xz") as archive:
        archive.extractall(unpacked, filter="data")
        root = Path(unpacked) / "birds64"
        scores, rate, seconds = measured(root / "train", root / "test", options)
    normal = scores.pop("bird")
    print(f"\nbirds64, bird against  AUROC    (fit {seconds:.1f} s, {rate:.0f} images/s)")
    for name, others in scores.items():
        print(f"{name:22s} {auroc(normal, others):.4f}", flush=True)
    print(f"{'all':22s} {auroc(normal, np.concatenate(list(scores.values()))):.4f}")


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return tuple(text.split(",")) if "," in text else text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--score", default="error", help="what images are judged by: error, auto, evidence, knn, ...")
    parser.add_argument("--classes", default=",".join(CATALOG["cifar10"].classes))
    parser.add_argument("--test", type=int, default=0, help="test images of CIFAR-10; 0 for all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("options", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    chosen = {
        "score": arguments.score,
        **{key: _value(text) for key, text in (o.split("=") for o in arguments.options)},
    }
    print(where(), chosen, flush=True)
    if arguments.classes:
        cifar10(arguments.classes.split(","), arguments.test, chosen)
    birds64(chosen)

"""Exported screens against the screen that they were made from: labels, scores, p-values, processor time.

    python benchmarks/export_parity.py SCREEN cifar10/test [--images 5000]

The first quarter of the images calibrates in int8; the false-alarm rates are of the rest, so they should be normal
images that the screen has not learnt from.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import where

import recondite
from recondite.data.datasets import open_images
from recondite.screen.export import export_onnx, export_openvino


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("screen", type=Path)
    parser.add_argument("images")
    parser.add_argument("--images", dest="count", type=int, default=5000)
    given = parser.parse_args()
    screen, images = recondite.load(given.screen), open_images(given.images).select(np.arange(given.count))
    first, rest = images.select(np.arange(given.count // 4)), slice(given.count // 4, None)
    low, high = np.quantile(screen.calibrator.scores, [0.25, 0.75])
    ours, seconds = judged(screen, images)
    print(where())
    print(f"torch: {1e3 * seconds / given.count:.2f} ms of processor an image")
    with tempfile.TemporaryDirectory() as name:
        graphs = {
            "onnx": export_onnx(screen, Path(name) / "onnx"),
            "openvino": export_openvino(screen, Path(name) / "openvino"),
            "openvino, int8": export_openvino(screen, Path(name) / "int8", int8=first),
        }
        for kind, path in graphs.items():
            exported = recondite.load(path)
            theirs, seconds = judged(exported, images)
            apart = np.abs(theirs.instance_score - ours.instance_score).max() / (high - low)
            print(
                f"{kind}: {1e3 * seconds / given.count:.2f} ms of processor an image; "
                f"{(theirs.is_outlier != ours.is_outlier).sum()} of {given.count} labels differ; "
                f"largest difference of scores {apart:.2g} of the calibration scores' quartile distance; "
                f"flagged {theirs.is_outlier[rest].mean():.4f} (torch {ours.is_outlier[rest].mean():.4f}); "
                f"batches agree: {exported.detector.batches_agree}",
                flush=True,
            )


def judged(screen, images):
    start = time.process_time()
    return screen.predict(images), time.process_time() - start


if __name__ == "__main__":
    main()

"""Exported screens against the screen that they were made from: labels, scores, p-values, processor time.

    python benchmarks/export_parity.py SCREEN cifar10/test [--images 5000] [--outliers FOLDER] [--threads 2]

The first quarter of the images calibrates in int8; the false-alarm rates are of the rest, so they should be normal
images that the screen has not learnt from. With outliers, the AUROC too. Times are those of the processor, and by turns
those of the clock: a ratio is that to torch in the same round.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import where

import recondite
from recondite.data.datasets import nameless, open_images
from recondite.data.spool import read_all
from recondite.screen.export import export_onnx, export_openvino
from recondite.statistics.metrics import auroc


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("screen", type=Path)
    parser.add_argument("images")
    parser.add_argument("--images", dest="count", type=int, default=5000)
    parser.add_argument("--outliers")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    screen, images = recondite.load(given.screen), open_images(given.images).select(np.arange(given.count))
    first, rest = images.select(np.arange(given.count // 4)), slice(given.count // 4, None)
    low, high = np.quantile(screen.calibrator.scores, [0.25, 0.75])
    ours, seconds = judged(screen, images)
    print(where())
    print(f"torch: {1e3 * seconds / given.count:.2f} ms of processor an image{detection(screen, ours, rest, given)}")
    with tempfile.TemporaryDirectory() as name:
        graphs = {
            "onnx": export_onnx(screen, Path(name) / "onnx"),
            "openvino": export_openvino(screen, Path(name) / "openvino"),
            "openvino, int8": export_openvino(screen, Path(name) / "int8", int8=first, always_int8=True),
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
                f"batches agree: {exported.detector.batches_agree}; "
                f"{sum(file.stat().st_size for file in path.iterdir()) / 1e6:.0f} MB"
                f"{detection(exported, theirs, rest, given)}; {by_turns(screen, exported, images, given.rounds)}",
                flush=True,
            )


def detection(screen, verdicts, rest, given):
    """Return the AUROC of normal images against the outliers, as text."""
    if given.outliers is None:
        return ""
    outliers = screen.predict(open_images(given.outliers, role="outliers")).instance_score
    return f"; AUROC {auroc(verdicts.instance_score[rest], outliers):.4f}"


def by_turns(screen, exported, images, rounds):
    """Return how many times faster the exported screen is, in batches and with one image at a time, as text."""
    part = read_all(images.select(np.arange(32)), screen.detector.preprocessing).pixels
    batches, alone = [], []
    for _ in range(rounds):
        ours, theirs = (seconds_of(one, [part]) for one in (screen, exported))
        batches.append(ours / theirs)
        ours, theirs = (seconds_of(one, np.split(part[:10], 10)) for one in (screen, exported))
        alone.append((ours / theirs, 1e2 * theirs))
    ratios, milliseconds = zip(*alone, strict=True)
    return (
        f"times torch's speed: {np.median(batches):.2f} ({min(batches):.2f} to {max(batches):.2f}) in batches, "
        f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) one by one, at {min(milliseconds):.1f} ms"
    )


def seconds_of(screen, parts):
    start = time.perf_counter()
    for pixels in parts:
        screen.score_batch(nameless(pixels))
    return time.perf_counter() - start


def judged(screen, images):
    start = time.process_time()
    return screen.predict(images), time.process_time() - start


if __name__ == "__main__":
    main()

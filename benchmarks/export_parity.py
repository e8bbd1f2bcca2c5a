"""Exported screens against the screen that they were made from: labels, scores, p-values, processor time.

    python benchmarks/export_parity.py SCREEN cifar10/test [--images 5000] [--outliers FOLDER] [--threads 2]
    python benchmarks/export_parity.py bottle/train/good bottle/test/good --fit default,tile,region --size 224

The first quarter of the images calibrates in int8; the false-alarm rates are of the rest, so they should be normal
images that the screen has not learnt from. With outliers, the AUROC too. Times are those of the processor; a ratio is
of two graphs, or a graph and torch, turn by turn in this process.

With --fit the first folder holds normal images: screens of `features` are fitted on three quarters of them, with the
options named, and the last quarter calibrates in int8.
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
from recondite.errors import InputError
from recondite.screen.export import export_onnx, export_openvino
from recondite.statistics.metrics import auroc

FITTED = {
    "default": {},
    "padim": {"methods": "padim"},
    "tile": {"tile": 128},
    "dfr": {"methods": "mahalanobis,padim,dfr", "epochs": 3},
    "patchcore": {"methods": "mahalanobis,patchcore", "bank_size": 500},
    "lite1": {"backbone": "lite1"},
    "lite2": {"backbone": "lite2"},
    "region": {"region": {"size": [100, 100], "polygons": [[[10, 10], [90, 10], [90, 80], [10, 80]]]}},
}
"""Name -> options of `recondite.fit`."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("screen", type=Path)
    parser.add_argument("images")
    parser.add_argument("--images", dest="count", type=int, default=5000)
    parser.add_argument("--outliers")
    parser.add_argument("--fit", help=f"names with commas: {', '.join(FITTED)}")
    parser.add_argument("--size", type=int, help="of the images of the screens that are fitted, in pixels")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(where())
    images = open_images(given.images)
    images = images.select(np.arange(min(images.size, given.count)))
    if given.fit is None:
        quarter = images.size // 4
        first = images.select(np.arange(quarter))
        compared(recondite.load(given.screen), images, first, slice(quarter, None), given)
        return
    good = open_images(str(given.screen), role="inliers")
    last = np.arange(good.size) % 4 == 3
    for name in given.fit.split(","):
        print(f"\n{name}:", flush=True)
        options = {"detector": "features", "image_size": given.size, "alpha": 0.1, **FITTED[name]}
        screen = recondite.fit(good.select(np.flatnonzero(~last)), **options)
        compared(screen, images, good.select(np.flatnonzero(last)), slice(None), given)


def compared(screen, images, first, rest, given):
    """Print how each graph of a screen judges images; `first` calibrate in int8, `rest` are counted."""
    low, high = np.quantile(screen.calibrator.scores, [0.25, 0.75])
    ours, seconds = judged(screen, images)
    print(f"torch: {1e3 * seconds / images.size:.2f} ms of processor an image{detection(screen, ours, rest, given)}")
    float32 = None
    with tempfile.TemporaryDirectory() as name:
        graphs = {
            "onnx": lambda: export_onnx(screen, Path(name) / "onnx"),
            "openvino": lambda: export_openvino(screen, Path(name) / "openvino"),
            "openvino, int8": lambda: export_openvino(screen, Path(name) / "int8", int8=first, always_int8=True),
        }
        for kind, export in graphs.items():
            try:
                path = export()
            except (InputError, RuntimeError) as error:
                print(f"{kind}: {error}", flush=True)
                continue
            exported = recondite.load(path)
            theirs, seconds = judged(exported, images)
            apart = np.abs(theirs.instance_score - ours.instance_score).max() / (high - low)
            print(
                f"{kind}: {1e3 * seconds / images.size:.2f} ms of processor an image; "
                f"{(theirs.is_outlier != ours.is_outlier).sum()} of {images.size} labels differ; "
                f"largest difference of scores {apart:.2g} of the calibration scores' quartile distance; "
                f"flagged {theirs.is_outlier[rest].mean():.4f} (torch {ours.is_outlier[rest].mean():.4f}); "
                f"batches agree: {exported.detector.batches_agree}; "
                f"{sum(file.stat().st_size for file in path.iterdir()) / 1e6:.0f} MB"
                f"{detection(exported, theirs, rest, given)}; "
                f"{by_turns(screen, exported, images, given.rounds, 'torch')}"
                + ("" if float32 is None else f"; {by_turns(float32, exported, images, given.rounds, 'float32')}"),
                flush=True,
            )
            float32 = exported if kind == "openvino" else None


def detection(screen, verdicts, rest, given):
    """Return the AUROC of normal images against the outliers, as text."""
    if given.outliers is None:
        return ""
    outliers = screen.predict(open_images(given.outliers, role="outliers")).instance_score
    return f"; AUROC {auroc(verdicts.instance_score[rest], outliers):.4f}"


def by_turns(screen, exported, images, rounds, name):
    """Return how many times faster the exported screen is, in batches and with one image at a time, as text."""
    part = read_all(images.select(np.arange(min(32, images.size))), screen.detector.preprocessing).pixels
    batches, alone = [], []
    for _ in range(rounds):
        ours, theirs = (seconds_of(one, [part]) for one in (screen, exported))
        batches.append(ours / theirs)
        ours, theirs = (seconds_of(one, np.split(part[:10], 10)) for one in (screen, exported))
        alone.append((ours / theirs, 1e2 * theirs))
    ratios, milliseconds = zip(*alone, strict=True)
    return (
        f"times {name}'s speed: {np.median(batches):.2f} ({min(batches):.2f} to {max(batches):.2f}) in batches, "
        f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) one by one, at {min(milliseconds):.1f} ms"
    )


def seconds_of(screen, parts):
    start = time.process_time()
    for pixels in parts:
        screen.score_batch(nameless(pixels))
    return time.process_time() - start


def judged(screen, images):
    start = time.process_time()
    return screen.predict(images), time.process_time() - start


if __name__ == "__main__":
    main()

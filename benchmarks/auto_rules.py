"""Two rules of "auto" on one screen: the rarer of error and evidence, and their sum with likeness to made-up images.

    python benchmarks/auto_rules.py SCREEN NORMAL [--images 500] [--smooth FOLDER ...]

SCREEN is a fitted screen that rebuilds images, NORMAL others of its kind (cifar10/test). First, what the weights were
chosen by: eight groups of made-up kinds, each left out of the likeness and then judged, mean AUROC by weights of error,
evidence and likeness. Then both rules on the sets of `recondite bench pairs` that need no other data, and on folders of
photographs. Of NORMAL, the first images are judged, half as many give the made-up kinds, five times as many teach the
evidence anew and three times as many calibrate. Nothing of the second part chooses anything.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from machine import where

import recondite
from recondite.data.datasets import open_images
from recondite.data.images import Preprocessing
from recondite.data.spool import Rows, read_all
from recondite.perturbations.kinds import simple_and_complex
from recondite.perturbations.outliers import ALTERED, SYNTHETIC, alter, make_outliers
from recondite.screen.evidence import Evidence, fit_evidence, observed
from recondite.screen.words import AUTO, ERROR, EVIDENCE
from recondite.statistics.calibration import Calibrator
from recondite.statistics.density import Marginals, smallest_tail, sum_of_tails
from recondite.statistics.likeness import Likeness
from recondite.statistics.metrics import auroc

ALPHA = 0.05
GROUPS = {
    "smooth": ("enlarged", "blurred"),
    "fields": ("fields",),
    "leaves": ("leaves", "large-leaves"),
    "contrast": ("contrast",),
    "noise": ("noise-0",),
    "mixed": ("four", "averages", "mosaics", "shuffled"),
    "sharpened": ("sharpened",),
    "defects": ("scratches", "blobs", "cut-paste", "noise-masks"),
}
WEIGHTS = ((0.5, 1, 0.5), (0.5, 1, 1), (1, 1, 1), (0.5, 1, 0), (0, 1, 0.5), (0, 1, 0), (1, 0, 0))


def as_rows(images: np.ndarray) -> Rows:
    return Rows(np.ascontiguousarray(images, dtype=np.float32), np.arange(len(images)))


def choosing(detector: recondite.Detector, evidence: Evidence, inliers: np.ndarray, others: np.ndarray) -> None:
    density = evidence.density

    def looked_at(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        error, found, _ = observed(detector, evidence.observer, as_rows(images))
        own = evidence.error.z(error[:, None]), evidence.distance.z(density.distance(found)[:, None])
        return np.concatenate(own, axis=1), density.z(found)

    kinds = {name: looked_at(made) for name, made in simple_and_complex(others)}
    normal, (own, z) = looked_at(others), looked_at(inliers)
    aurocs: dict[str, list[float]] = {}
    for names in GROUPS.values():
        out = [kind for kind in kinds if kind.startswith(names)]
        likeness = Likeness.fit([kinds[kind][1] for kind in kinds if kind not in out], density.precision)
        scale = Marginals.fit(likeness(normal[1])[:, None])

        def both(tails: np.ndarray, values: np.ndarray, of: Likeness = likeness, by: Marginals = scale) -> dict:
            three = np.concatenate([tails, by.z(of(values)[:, None])], axis=1)
            return {"rarer": smallest_tail(tails, (0.5, 0.5)), **{str(w): sum_of_tails(three, w) for w in WEIGHTS}}

        inside, outside = both(own, z), [both(*kinds[kind]) for kind in out]
        for rule, values in inside.items():
            aurocs.setdefault(rule, []).append(float(np.mean([auroc(values, one[rule]) for one in outside])))
    for rule, values in aurocs.items():
        print(f"{rule:16} {np.mean(values):.4f}   " + " ".join(f"{one:.3f}" for one in values), flush=True)


def real_sets(inliers: np.ndarray, shape: tuple[int, int, int], folders: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    for name in SYNTHETIC:
        yield name, make_outliers(name, len(inliers), shape) / 255
    for name in ALTERED:
        yield name, alter(name, (inliers * 255).round().astype(np.uint8)) / 255
    for folder in folders:
        images = open_images(folder, shape=shape)
        some = images.select(range(min(len(inliers), images.size or 0)))
        yield folder, np.asarray(read_all(some, Preprocessing(shape=shape)).pixels)


def main(path: str, normal: str, count: int, folders: list[str]) -> None:
    detector = recondite.load(path).detector
    images = open_images(normal)
    order = np.random.default_rng(0).permutation(images.size)
    ends = np.cumsum([count, count // 2, 5 * count, 3 * count])
    inliers, others, teaching, calibrating = (
        np.asarray(read_all(images.select(np.sort(part).tolist()), detector.preprocessing).pixels)
        for part in np.split(order, ends)[:4]
    )
    before = recondite.load(path).evidence
    evidence = fit_evidence(detector, before.observer, as_rows(teaching))
    choosing(detector, evidence, inliers, others)
    rules = {"error": (evidence, ERROR), "evidence": (evidence, EVIDENCE)}
    rules |= {"rarer": (replace(evidence, made_up=None), AUTO), "sum": (evidence, AUTO)}

    def scores(some: np.ndarray) -> dict[str, np.ndarray]:
        error, found, _ = observed(detector, evidence.observer, as_rows(some))
        return {name: one.score(score, error, found) for name, (one, score) in rules.items()}

    inside = scores(inliers)
    calibrated = {name: Calibrator(values) for name, values in scores(calibrating).items()}
    print(f"{'outliers':20}" + "".join(f"{name:>18}" for name in rules) + "   (AUROC / flagged)")
    for name, outliers in (("false alarms", inliers), *real_sets(inliers, detector.shape, folders)):
        found = scores(outliers)
        flagged = {rule: calibrated[rule].is_outlier(values, ALPHA).mean() for rule, values in found.items()}
        cells = [f"{auroc(inside[rule], found[rule]):10.3f} / {flagged[rule]:.3f}" for rule in rules]
        print(f"{name[-20:]:20}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("screen")
    parser.add_argument("normal")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--smooth", nargs="*", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(where(), vars(arguments), flush=True)
    main(arguments.screen, arguments.normal, arguments.images, arguments.smooth)

"""How many of few good images should calibrate: what is flagged at alpha, by share and where each is left out in turn.

    python benchmarks/calibration_share.py FOLDER [--sets bottle,screw,kolektor] [--draws 20] [--parts-draws 5] [--real]

FOLDER holds sets laid out as MVTec AD. The detector is `features` as `fit` chooses it. Sixty good images of train/good
are held out and meet copies of themselves with a made-up defect of each kind that is hard to see; the others are dealt
into those that are learnt from and those that calibrate, anew in each draw. With --real all of train/good is dealt, and
the test images are judged. Printed are, for each alpha, the mean share of good images flagged and of defects found,
with the standard deviation between draws, and the mean AUROC. The network looks at each image once.
"""

import argparse
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from feature_choices import HARD
from machine import where

from recondite import build
from recondite.data.datasets import open_images
from recondite.data.images import Preprocessing
from recondite.data.sample import sampled
from recondite.data.spool import Rows, read_all
from recondite.detectors.features import Features
from recondite.options import TrainingOptions
from recondite.perturbations import defective
from recondite.screen.in_turn import judged_in_turn
from recondite.statistics.calibration import Calibrator
from recondite.statistics.metrics import auroc

ALPHAS, SHARES, IN_TURN, HELD_OUT = (0.05, 0.1), (0.2, 0.35, 0.5), "in turn", 60


def gathered(root, real):
    """Return a detector, pixels, and how many first are dealt, then good ones that are judged; defects are the rest."""
    sample, source = sampled(open_images(str(root), role="fit"))
    detector = build("features", image_shape=sample.shape(None, Features.image_size))
    seen = Preprocessing(shape=detector.shape)
    pixels = read_all(source, seen).pixels
    if real:
        fresh, bad = (read_all(open_images(str(root), role=role), seen).pixels for role in ("inliers", "outliers"))
    else:
        order = np.random.default_rng(0).permutation(len(pixels))
        fresh, pixels = pixels[np.sort(order[:HELD_OUT])], pixels[np.sort(order[HELD_OUT:])]
        bad = np.concatenate([defective(fresh, kind, seed=1).images for kind in HARD])
    return detector, np.concatenate([pixels, fresh, bad]), len(pixels), len(fresh)


def measured(root, draws, in_turn, real):
    """Print one row for each way to calibrate."""
    detector, pixels, dealt, good = gathered(root, real)
    every, judged = Rows(pixels, np.arange(len(pixels))), np.arange(dealt, len(pixels))
    found = {}

    def scores(fitted, rows):
        parts = [fitted.measured(seen, "combined").instance_scores for seen in fitted.seen_in(Rows(pixels, rows))]
        return torch.cat(parts).double().numpy()

    def unfitted():
        return deepcopy(detector, {id(one): one for one in map(detector.get_submodule, detector.frozen)})

    def note(name, calibration, ours):
        flagged = [ours > Calibrator(calibration).threshold(alpha, None, "exact") for alpha in ALPHAS]
        rates = [part.mean() for one in flagged for part in (one[:good], one[good:])]
        found.setdefault(name, []).append([auroc(ours[:good], ours[good:]), *rates])

    with detector.looking_once(every), torch.no_grad():
        for draw in range(draws):
            order = np.random.default_rng(draw).permutation(dealt)
            for share in SHARES:
                held = round(share * dealt)
                fitted = unfitted().fit_rows(Rows(pixels, np.sort(order[held:])), None, TrainingOptions())
                note(share, scores(fitted, order[:held]), scores(fitted, judged))
            if draw < in_turn:
                training = TrainingOptions(seed=draw)
                keys = np.arange(dealt).astype("V8")
                rows, chosen = Rows(pixels, np.arange(dealt)), np.arange(dealt)
                left_out, _ = judged_in_turn(
                    detector, rows, keys, chosen, np.ones(dealt, bool), 10, training, False, ""
                )
                fitted = unfitted().fit_rows(rows, None, training)
                note(IN_TURN, left_out, scores(fitted, judged))
    for name, rows in found.items():
        mean, deviation = np.mean(rows, axis=0), np.std(rows, axis=0)
        cells = " | ".join(f"{one:.3f} ({other:.3f})" for one, other in zip(mean[1:], deviation[1:], strict=True))
        print(f"| {root.name} | {name} | {len(rows)} | {mean[0]:.3f} | {cells} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of sets of defects")
    parser.add_argument("--sets", default="bottle,screw,kolektor")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--parts-draws", type=int, default=5, help="those in which images are also left out in turn")
    parser.add_argument("--real", action="store_true", help="judge the test images")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(where())
    columns = " | ".join(f"good, {alpha} | defects, {alpha}" for alpha in ALPHAS)
    print(f"| set | calibrate | draws | AUROC | {columns} |")
    print("|---|---|---|---|" + "---|" * (2 * len(ALPHAS)), flush=True)
    for name in given.sets.split(","):
        measured(given.folder / name, given.draws, given.parts_draws, given.real)


if __name__ == "__main__":
    main()

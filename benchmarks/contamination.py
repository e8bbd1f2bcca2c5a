"""What bad images among the good cost: detection and false alarms, with and without --contamination.

    python benchmarks/contamination.py FOLDER [--sets bottle,screw] [--detector features] [--draws 2] [--side 176]
        [--epochs 20]

FOLDER holds sets laid out as MVTec AD. In each draw bad images are hidden among those that are fitted and make up 0, 2,
5 and 10 % of them; measured are the good test images and the bad ones that are never hidden. "none" is a fit
as usual, "auto" and "given" have `contamination` auto and the true share. Printed are means over draws: the AUROC, its
difference from that of the fit on good images alone, the share of good and of bad images flagged at alpha .05, the
share of the bad that was named as suspect, and how many good images were. The backbone of `features` looks once at each
image, and its vectors are remembered.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from machine import where
from remembered import remember_vectors

import recondite
from recondite.data.datasets import open_images
from recondite.data.images import Preprocessing
from recondite.data.sample import sampled
from recondite.data.spool import read_all
from recondite.detectors import detector_class
from recondite.statistics.metrics import auroc

ALPHA, SHARES = 0.05, (0.0, 0.02, 0.05, 0.1)
SIDES = {"features": None, "pca": 64, "autoencoder": 64, "vae": 64}


def read(root, detector, side):
    """Return the good images to fit, the good and the bad ones of the test, each float32 (N, C, H, W)."""
    sample, source = sampled(open_images(str(root), role="fit"))
    seen = Preprocessing(shape=sample.shape(side and (side, side), detector_class(detector).image_size))
    others = (open_images(str(root), role=role) for role in ("inliers", "outliers"))
    return [read_all(images, seen).pixels for images in (source, *others)]


def measured(good, hidden, fresh, bad, detector, contamination, seed, options):
    """Return one row of measures of a fit on good images and hidden bad ones."""
    screen = recondite.fit(
        np.concatenate([good, hidden]),
        detector=detector,
        image_size=good.shape[2:],
        alpha=ALPHA,
        score="error",
        contamination=contamination,
        seed=seed,
        **options,
    )
    inliers, outliers = screen.predict(fresh), screen.predict(bad)
    suspects = screen.facts.get("contamination", {}).get("suspects", [])
    caught = sum(int(name) >= len(good) for name in suspects)
    return {
        "auroc": auroc(inliers.instance_score, outliers.instance_score),
        "false alarms": inliers.is_outlier.mean(),
        "found": outliers.is_outlier.mean(),
        "named": caught / max(1, len(hidden)),
        "good named": len(suspects) - caught,
    }


def main(arguments):
    side = arguments.side or SIDES[arguments.detector]
    options = {"epochs": arguments.epochs} if arguments.epochs else {}
    if arguments.detector == "features":
        remember_vectors()
    for name in arguments.sets.split(","):
        good, fresh, bad = read(Path(arguments.folder) / name, arguments.detector, side)
        size = " x ".join(map(str, good.shape[2:]))
        print(f"\n{name}, {arguments.detector}, {arguments.draws} draws: {len(good)} good images of {size}")
        measures = "AUROC | against clean | good flagged | bad flagged | bad named | good named"
        print(f"| bad among them | contamination | {measures} |\n|{8 * '---|'}", flush=True)
        rows = defaultdict(list)
        for draw in range(arguments.draws):
            order = np.random.default_rng(draw).permutation(len(bad))
            counts = {share: round(share * len(good) / (1 - share)) for share in SHARES}
            never = bad[order[max(counts.values()) :]]
            for share, count in counts.items():
                hidden = bad[order[:count]]
                for how, given in (("none", None), ("auto", "auto"), ("given", share)):
                    if how != "given" or share:
                        row = measured(good, hidden, fresh, never, arguments.detector, given, draw, options)
                        rows[share, how].append(row)
        clean = [row["auroc"] for row in rows[0.0, "none"]]
        for (share, how), found in rows.items():
            mean = {key: np.mean([row[key] for row in found]) for key in found[0]}
            cells = [f"{share:.0%}", how, f"{mean['auroc']:.3f}", f"{mean['auroc'] - np.mean(clean):+.3f}"]
            cells += [f"{mean[key]:.2f}" for key in ("false alarms", "found", "named")]
            print("|", " | ".join([*cells, f"{mean['good named']:.1f}"]), "|", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="of sets of defects, laid out as MVTec AD")
    parser.add_argument("--sets", default="bottle,screw")
    parser.add_argument("--detector", choices=sorted(SIDES), default="features")
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--side", type=int, help="pixels a side; by default 352 for features, else 64")
    parser.add_argument("--epochs", type=int, help="of what is trained; by default its own")
    torch.set_num_threads(1)
    print(where(), flush=True)
    main(parser.parse_args())

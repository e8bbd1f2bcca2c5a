"""What evidence should look at, judged without any outlier: held-out normal images against the same images corrupted.

    python benchmarks/choosing_evidence.py SCREEN NORMAL [--severity 2] [--images 1000]

SCREEN is a fitted screen, NORMAL the images it was fitted on (cifar10/train). Its calibration images, which the weights
never saw, are divided: 2,000 teach the evidence anew, 1,000 are normal, 1,000 others are corrupted. AUROC of each way
of judging, for corruptions that are not among the outliers of `recondite bench pairs`.
"""

import argparse

import numpy as np
from machine import where

import recondite
from recondite.data.datasets import open_images
from recondite.data.spool import Rows, read_all, split
from recondite.perturbations import corrupted
from recondite.screen.evidence import fit_evidence, fit_observer, observed
from recondite.statistics.metrics import auroc
from recondite.studies.training.cross_dataset import CALIBRATION

CORRUPTIONS = (
    "shot-noise",
    "impulse-noise",
    "motion-blur",
    "contrast",
    "brightness",
    "saturation",
    "jpeg",
    "pixelate",
    "elastic",
    "fog",
)


def main(path: str, normal: str, severity: int, count: int) -> None:
    detector = recondite.load(path).detector
    spooled = read_all(open_images(normal), detector.preprocessing)
    calibrating, rest = split(spooled.hashes, [round(CALIBRATION * len(spooled))], seed=0)
    pixels = spooled.rows(calibrating[: 2 * count]).take(slice(None))
    teaching, learnt = spooled.rows(calibrating[2 * count : 2 * count + 2000]), spooled.rows(rest)
    observers = {
        "plain": fit_observer(detector, learnt),
        "re-encoding": fit_observer(detector, learnt, reencoding=True),
    }
    found = {name: fit_evidence(detector, observer, teaching) for name, observer in observers.items()}

    def scores(images: np.ndarray) -> dict[str, np.ndarray]:
        rows, ways = Rows(images, np.arange(len(images))), {}
        for name, evidence in found.items():
            error, statistics = observed(detector, evidence.observer, rows)
            ways["error"] = error
            ways |= {f"{name} {way}": evidence.score(way, error, statistics) for way in ("evidence", "auto")}
        return ways

    normal_scores = scores(pixels[:count])
    print(f"{'corruption':16s}" + "".join(f"{way:>22s}" for way in normal_scores))
    aurocs = {way: [] for way in normal_scores}
    for corruption in CORRUPTIONS:
        for way, values in scores(corrupted(pixels[count:], corruption, severity)).items():
            aurocs[way].append(auroc(normal_scores[way], values))
        print(f"{corruption:16s}" + "".join(f"{values[-1]:22.3f}" for values in aurocs.values()), flush=True)
    for name, summary in (("mean", np.mean), ("lowest", np.min)):
        print(f"{name:16s}" + "".join(f"{summary(values):22.3f}" for values in aurocs.values()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("screen")
    parser.add_argument("normal")
    parser.add_argument("--severity", type=int, default=2)
    parser.add_argument("--images", type=int, default=1000)
    arguments = parser.parse_args()
    print(where(), vars(arguments), flush=True)
    main(arguments.screen, arguments.normal, arguments.severity, arguments.images)

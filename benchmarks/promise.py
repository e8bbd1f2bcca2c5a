"""Is the false-alarm rate the stated one on data as people have them? Many whole fits, each judged on fresh images.

    python benchmarks/promise.py [--draws 200] [--detectors pca] [--data cifar10/train] [--only bursts]
    python benchmarks/promise.py --few 8,16,32,64 [--detectors pca,padim] [--data digits,sets/bottle] [--side 128]
    python benchmarks/promise.py ... --journal draws.jsonl

Each draw takes other images of the data set, makes the set that a user would give of them, fits a screen with
`recondite.fit` and nothing said about what belongs together (but for the rows that say so), and counts how many fresh
images are flagged at alpha .05. A burst is four frames of one scene with noise of their own, the same in every draw;
fresh images are single frames of other scenes. "Contaminated" hides a tenth of images with a made-up defect (cut-paste)
among them, "trimmed" fits with --contamination .1, or auto; fresh images are all good. "Recalibrated" fits on three
fifths of the scenes and calibrates anew on three copies of each of the others. With --few the screens are of so many
independent images, at the alpha that they get without one.

Beside the mean rate: the 95 % interval that the screens stated, on average, and the share of draws whose rate, counted
on 1,000 images (with --few on 300, or as many as the data set has left), lies inside its own, or less than one image
below it. Then the same for the guarantee of heat maps: the share of fresh images with any value above the threshold of
maps. DATA are names of data sets or folders, laid out as MVTec AD. "mahalanobis", "padim", "subspace" and "patchcore"
are `features` with that method alone, and of whole images with one layer, so that fits are fast. The backbone looks
once at each image, and its vectors are remembered. A journal keeps the draws, and a later run goes on from them.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from machine import where
from remembered import remember_vectors

import recondite
from recondite.data.datasets import open_images
from recondite.data.images import Preprocessing
from recondite.data.sample import sampled
from recondite.data.spool import read_all
from recondite.detectors import detector_class
from recondite.perturbations import defective

ALPHA, POOL, SCENES, FRAMES, FRESH, NOISE, BAD, AT_ONCE = 0.05, 2000, 400, 4, 1000, 0.05, 0.1, 100
FRESH_OF_FEW = 300
METHODS = ("mahalanobis", "padim", "subspace", "patchcore")
FAMILIES = ("pca", "features", *METHODS, "autoencoder", "vae", "alad")
OPTIONS = {
    "pca": {"latent_size": 150},
    "autoencoder": {"epochs": 5},
    "vae": {"epochs": 5},
    "alad": {"epochs": 2, "width": 8, "latent_size": 16},
}
SMALL = {"layers": "block4", "latent_size": 8}
FEW = {"pca": {"latent_size": 4}, "autoencoder": {"epochs": 5, "width": 8}, "vae": {"epochs": 5}}
BURSTS = [str(scene) for scene in range(SCENES) for _ in range(FRAMES)]


def noisy(images, generator):
    return (images + NOISE * generator.standard_normal(images.shape)).clip(0, 1).astype(np.float32)


def frames_of(scenes):
    """Return frames (N, FRAMES, C, H, W) of scenes, the same in every draw."""
    generator = np.random.default_rng(0)
    return np.stack([noisy(scenes, generator) for _ in range(FRAMES)], axis=1)


def independent(frames, _):
    return frames[:, 0], {}


def copied(frames, _):
    return np.repeat(frames[:, 0], 3, axis=0), {}


def bursts(frames, _):
    return frames.reshape(-1, *frames.shape[2:]), {}


def shuffled_bursts(frames, generator):
    return generator.permutation(bursts(frames, generator)[0]), {}


def bursts_named(frames, generator):
    return bursts(frames, generator)[0], {"group_by": BURSTS}


def bursts_taken_for_independent(frames, generator):
    return bursts(frames, generator)[0], {"group_by": "none"}


def contaminated(frames, generator):
    images = frames[:, 0].copy()
    bad = generator.permutation(len(images))[: round(BAD * len(images))]
    images[bad] = defective(images[bad], "cut-paste", seed=int(generator.integers(1 << 31))).images
    return images, {}


def contaminated_and_trimmed(frames, generator):
    return contaminated(frames, generator)[0], {"contamination": BAD}


def contaminated_and_trimmed_by_itself(frames, generator):
    return contaminated(frames, generator)[0], {"contamination": "auto"}


def good_and_trimmed(frames, _):
    return frames[:, 0], {"contamination": BAD}


def good_and_trimmed_by_itself(frames, _):
    return frames[:, 0], {"contamination": "auto"}


def recalibrated(frames, _):
    images = frames[:, 0]
    some = 3 * len(images) // 5
    return images[:some], {"recalibrated": np.repeat(images[some:], 3, axis=0)}


KINDS = (
    *(independent, copied, bursts, shuffled_bursts, bursts_named, bursts_taken_for_independent),
    *(contaminated, contaminated_and_trimmed, contaminated_and_trimmed_by_itself),
    *(good_and_trimmed, good_and_trimmed_by_itself, recalibrated),
)
NAMES = tuple(make.__name__.replace("_", " ") for make in KINDS)


def detector_of(family):
    """Return the name of a family's detector, and the options that make it that family."""
    return ("features", {"methods": family, **SMALL}) if family in METHODS else (family, {})


def flagged(screen, fresh):
    """Return the shares of images flagged, and of images with a value above the threshold of maps (NaN: no places)."""
    flags, peaks = [], []
    for start in range(0, len(fresh), AT_ONCE):
        verdicts = screen.predict(fresh[start : start + AT_ONCE], feature_score=screen.peaks is not None)
        flags.append(verdicts.is_outlier)
        if verdicts.feature_score is not None:
            peaks.append(verdicts.feature_score.reshape(len(verdicts), -1).max(axis=1))
    above = np.concatenate(peaks) > screen.feature_threshold if peaks else np.nan
    return np.concatenate(flags).mean(), np.mean(above)


def one_draw(make, frames, family, draw):
    """Return the two rates, the stated interval and alpha of one fit on what is made of some scenes."""
    generator = np.random.default_rng(draw)
    chosen = generator.permutation(len(frames))[: SCENES + FRESH]
    images, given = make(frames[chosen[:SCENES]], generator)
    other = given.pop("recalibrated", None)
    detector, own = detector_of(family)
    settings = {**own, **OPTIONS.get(family, {}), **given}
    screen = recondite.fit(images, detector=detector, score="error", alpha=ALPHA, seed=draw, **settings)
    screen = screen if other is None else screen.recalibrated(other)
    return *flagged(screen, frames[chosen[SCENES:], 0]), *screen.false_alarm_interval, screen.alpha


def one_draw_of_few(count, pool, family, draw):
    """Return the same of a screen of so many images."""
    chosen = pool[np.random.default_rng(draw).permutation(len(pool))[: count + FRESH_OF_FEW]]
    detector, own = detector_of(family)
    settings = {**own, **FEW.get(family, {})}
    screen = recondite.fit(chosen[:count], detector=detector, score="error", seed=draw, **settings)
    return *flagged(screen, chosen[count:]), *screen.false_alarm_interval, screen.alpha


class Journal:
    """Keeps what came of draws, in a file if there is one: a line of JSON for each."""

    def __init__(self, path):
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path and path.exists() else []
        self.kept = {tuple(names): found for names, found in map(json.loads, lines)}

    def draw(self, names, number, make, *given):
        """Return what came of a draw, made now if it is not kept."""
        key = (*names, number)
        if key not in self.kept:
            self.kept[key] = [float(one) for one in make(*given, number)]
            if self.path:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([key, self.kept[key]]) + "\n")
        return self.kept[key]


def row(names, draws, counted):
    """Print what came of the draws (n, 5), whose rates were counted on so many images."""
    rates, of_maps, lows, highs, alphas = np.array(draws).T
    cells = [*names, str(len(draws)), f"{alphas.mean():.3f}", f"{lows.mean():.3f} to {highs.mean():.3f}"]
    for some in (rates, of_maps):
        if np.isnan(some).all():
            cells += ["", ""]
            continue
        cells.append(f"{some.mean():.3f} ({some.std() / np.sqrt(len(some)):.3f})")
        cells.append(f"{np.mean((lows - 1 / counted <= some) & (some <= highs)):.2f}")
    print("|", " | ".join(cells), "|", flush=True)


def read(data, family, side):
    """Return at most 2,000 images of a data set or folder, float32 (N, C, H, W)."""
    detector, _ = detector_of(family)
    parts = [open_images(data, role=role) for role in (("fit", "inliers") if Path(data).is_dir() else ("fit",))]
    sample, _ = sampled(parts[0])
    shape = sample.shape(side and (side, side), detector_class(detector).image_size)
    chosen = [part.select(np.sort(np.random.default_rng(0).permutation(part.size)[:POOL])) for part in parts]
    return np.concatenate([read_all(part, Preprocessing(shape=shape)).pixels for part in chosen])


def main(arguments):
    remember_vectors()
    journal = Journal(arguments.journal)
    heads = ("data", "detector", "images", "draws", "alpha", "stated interval", "mean rate (standard error)")
    heads += ("inside it", "of maps", "inside it")
    print("|", " | ".join(heads), f"|\n|{len(heads) * '---|'}", flush=True)
    for data in arguments.data.split(","):
        for family in arguments.detectors.split(","):
            pool = read(data, family, arguments.side)
            size = " x ".join(map(str, pool.shape[1:]))
            names = f"{Path(data).name} ({len(pool)} of {size})", family
            for count in map(int, arguments.few.split(",") if arguments.few else ()):
                of = [*names, str(count)]
                given = (one_draw_of_few, count, pool, family)
                draws = [journal.draw(of, number, *given) for number in range(arguments.draws)]
                row(of, draws, min(FRESH_OF_FEW, len(pool) - count))
            if arguments.few:
                continue
            frames = frames_of(pool)
            for kind, make in zip(NAMES, KINDS, strict=True):
                if arguments.only is None or kind in arguments.only.split(","):
                    of = [*names, kind]
                    given = (one_draw, make, frames, family)
                    draws = [journal.draw(of, number, *given) for number in range(arguments.draws)]
                    row(of, draws, FRESH)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--detectors", default="pca", help=f"joined by commas: {', '.join(FAMILIES)}")
    parser.add_argument("--data", default="cifar10/train", help="data sets of images, or folders, joined by commas")
    parser.add_argument("--few", help="numbers of images, joined by commas, in place of kinds of data")
    parser.add_argument("--only", help=f"kinds of data, joined by commas: {', '.join(NAMES)}")
    parser.add_argument("--side", type=int, help="pixels a side; by default what suits the detector")
    parser.add_argument("--journal", type=Path, help="a file in which draws are kept")
    given = parser.parse_args()
    unknown = {*(given.only.split(",") if given.only else ())} - {*NAMES}
    if unknown:
        parser.error(f"expected kinds of data among {', '.join(NAMES)}; got {', '.join(sorted(unknown))}")
    print(where(), flush=True)
    main(given)

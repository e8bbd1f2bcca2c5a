"""Is the false-alarm rate the stated one on data as people have them? Many whole fits, each judged on fresh images.

    python benchmarks/promise.py [--draws 200] [--detector pca] [--data cifar10/train] [--only bursts]
    python benchmarks/promise.py --few 8,16,32,64 [--draws 200] [--detector pca] [--data digits]

Each draw takes other images of the data set, makes the set that a user would give of them, fits a screen with
`recondite.fit` and nothing said about what belongs together (but for the rows that say so), and counts how many fresh
images are flagged at alpha .05. A burst is four frames of one scene with noise of their own; fresh images are single
frames of other scenes. Beside the mean rate: the 95 % interval that the screens stated, on average, and the share of
draws whose rate, counted on 1,000 images, lies inside its own. "Contaminated" hides a tenth of images with a made-up
defect (cut-paste) among them, "trimmed" fits with --contamination .1, or auto; fresh images are all good. With --few
the screens are of so many independent images, at the alpha that they get without one.
"""

import argparse

import numpy as np
from machine import where

import recondite
from recondite.data.datasets import open_images
from recondite.data.images import Preprocessing
from recondite.data.sample import guess_shape
from recondite.data.spool import read_all
from recondite.perturbations import defective

ALPHA, POOL, SCENES, FRAMES, FRESH, NOISE, BAD = 0.05, 10_000, 400, 4, 1000, 0.05, 0.1
OPTIONS = {"pca": {"latent_size": 150}, "autoencoder": {"epochs": 5}, "features": {}, "vae": {"epochs": 5}}
FEW = {"pca": {"latent_size": 4}, "autoencoder": {"epochs": 5, "width": 8}, "features": {}, "vae": {"epochs": 5}}
BURSTS = [str(scene) for scene in range(SCENES) for _ in range(FRAMES)]


def noisy(images, generator):
    return (images + NOISE * generator.standard_normal(images.shape)).clip(0, 1).astype(np.float32)


def independent(scenes, generator):
    return noisy(scenes, generator), {}


def copied(scenes, generator):
    return np.repeat(noisy(scenes, generator), 3, axis=0), {}


def bursts(scenes, generator):
    return noisy(np.repeat(scenes, FRAMES, axis=0), generator), {}


def shuffled_bursts(scenes, generator):
    images, _ = bursts(scenes, generator)
    return generator.permutation(images), {}


def bursts_named(scenes, generator):
    return bursts(scenes, generator)[0], {"group_by": BURSTS}


def bursts_taken_for_independent(scenes, generator):
    return bursts(scenes, generator)[0], {"group_by": "none"}


def contaminated(scenes, generator):
    images = noisy(scenes, generator)
    bad = generator.permutation(len(images))[: round(BAD * len(images))]
    images[bad] = defective(images[bad], "cut-paste", seed=int(generator.integers(1 << 31))).images
    return images, {}


def contaminated_and_trimmed(scenes, generator):
    return contaminated(scenes, generator)[0], {"contamination": BAD}


def contaminated_and_trimmed_by_itself(scenes, generator):
    return contaminated(scenes, generator)[0], {"contamination": "auto"}


def good_and_trimmed(scenes, generator):
    return noisy(scenes, generator), {"contamination": BAD}


def good_and_trimmed_by_itself(scenes, generator):
    return noisy(scenes, generator), {"contamination": "auto"}


KINDS = (
    *(independent, copied, bursts, shuffled_bursts, bursts_named, bursts_taken_for_independent),
    *(contaminated, contaminated_and_trimmed, contaminated_and_trimmed_by_itself),
    *(good_and_trimmed, good_and_trimmed_by_itself),
)


def realised(make, pool, detector, draws):
    """Return the rates (draws,) and the stated intervals (draws, 2)."""
    rates, intervals = [], []
    for draw in range(draws):
        generator = np.random.default_rng(draw)
        chosen = generator.permutation(len(pool))[: SCENES + FRESH]
        scenes = pool[chosen]
        images, given = make(scenes[:SCENES], generator)
        screen = recondite.fit(
            images, detector=detector, score="error", alpha=ALPHA, seed=draw, **OPTIONS[detector], **given
        )
        rates.append(screen.predict(noisy(scenes[SCENES:], generator)).is_outlier.mean())
        intervals.append(screen.false_alarm_interval)
    return np.array(rates), np.array(intervals)


def few(pool, detector, draws, count):
    """Print a row of screens of so many images."""
    rates, intervals, alphas = [], [], []
    for draw in range(draws):
        chosen = np.random.default_rng(draw).permutation(len(pool))[: count + FRESH]
        screen = recondite.fit(pool[chosen[:count]], detector=detector, score="error", seed=draw, **FEW[detector])
        rates.append(screen.predict(pool[chosen[count:]]).is_outlier.mean())
        intervals.append(screen.false_alarm_interval)
        alphas.append(screen.alpha)
    low, high = np.mean(intervals, axis=0)
    inside = np.mean([low <= rate <= high for rate, (low, high) in zip(rates, intervals, strict=True)])
    error = np.std(rates) / np.sqrt(draws)
    print(
        f"| {count}, alpha {np.mean(alphas):.3f} | {np.mean(rates):.3f} ({error:.3f}) | {low:.3f} to {high:.3f} "
        f"| {inside:.2f} |",
        flush=True,
    )


def main(arguments):
    images = open_images(arguments.data)
    chosen = np.sort(np.random.default_rng(0).permutation(images.size)[:POOL])
    shape, images = guess_shape(images.select(chosen), None)
    pool = read_all(images, Preprocessing(shape=shape)).pixels
    if arguments.few:
        print(f"{arguments.data}, {arguments.detector}, {arguments.draws} draws, of {len(pool)} images")
        print("| images | mean rate (standard error) | stated interval | inside it |\n|---|---|---|---|")
        for count in map(int, arguments.few.split(",")):
            few(pool, arguments.detector, arguments.draws, count)
        return
    print(f"{arguments.data}, {arguments.detector}, alpha {ALPHA:g}, {arguments.draws} draws of {SCENES} scenes")
    print("| data | mean rate (standard error) | stated interval | inside it |")
    print("|---|---|---|---|")
    for make in KINDS:
        name = make.__name__.replace("_", " ")
        if arguments.only in (None, name):
            rates, intervals = realised(make, pool, arguments.detector, arguments.draws)
            low, high = intervals.mean(axis=0)
            error = rates.std() / np.sqrt(len(rates))
            inside = np.mean((intervals[:, 0] <= rates) & (rates <= intervals[:, 1]))
            print(f"| {name} | {rates.mean():.3f} ({error:.3f}) | {low:.3f} to {high:.3f} | {inside:.2f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--detector", choices=sorted(OPTIONS), default="pca")
    parser.add_argument("--data", default="cifar10/train", help="name of a data set of images")
    parser.add_argument("--few", help="numbers of images, joined by commas, in place of kinds of data")
    parser.add_argument("--only", help="one kind of data, such as bursts")
    print(where(), flush=True)
    main(parser.parse_args())

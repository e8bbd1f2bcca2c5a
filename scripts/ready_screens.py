"""Makes and measures the screens that come with the package: python scripts/ready_screens.py [NAME ...] [--into F].

Each is fitted on a public data set with a fixed seed, so that anyone can make it again: the images are the same to the
byte, the scores up to rounding (other processors round differently). `digits` comes with a dependency; the others need
RECONDITE_DATA or a download. What is printed are the share of test images flagged, and of images that do not belong.
"""

import argparse
from pathlib import Path

import numpy as np

import recondite
from recondite.data.datasets import open_images, read_batches
from recondite.screen.saved import READY, located
from recondite.screen.screen import Screen

MOST_BYTES = 4_000_000
MEASURED = 2000


def make_digits() -> Screen:
    return recondite.fit(
        "digits/train",
        detector="autoencoder",
        latent_size=12,
        width=16,
        epochs=60,
        batch_size=64,
        learning_rate=1e-2,
        alpha=0.05,
        seed=0,
    )


def make_mnist() -> Screen:
    return small_vae("mnist/train", latent_size=16, width=16, epochs=6)


def make_cifar10() -> Screen:
    return small_vae("cifar10/train", latent_size=32, width=24, epochs=8)


def small_vae(images: str, **options: int) -> Screen:
    """Return a screen with a variational autoencoder; no picture of the data set is in it."""
    return recondite.fit(
        images,
        detector="vae",
        validation=0.02,
        evidence=0.05,
        calibration=0.05,
        batch_size=128,
        learning_rate=2e-3,
        picture_epochs="none",
        alpha=0.05,
        seed=0,
        progress=True,
        **options,
    )


MAKERS = {"digits": make_digits, "mnist": make_mnist, "cifar10": make_cifar10}


def measured(screen: Screen, name: str) -> dict[str, float]:
    """Return the share flagged of fresh images of the data set, and of these turned, inverted, blank and noise."""
    test = open_images(f"{name}/test")
    fresh = test.select(range(0, test.size, max(1, test.size // MEASURED)))
    (batch,) = read_batches(fresh, screen.detector.preprocessing, fresh.size)
    pixels, random = batch.pixels, np.random.default_rng(0)
    levels = random.random((len(pixels), pixels.shape[1], 1, 1), dtype=np.float32)
    kinds = {
        "fresh": pixels,
        "turned by 90 degrees": np.rot90(pixels, axes=(2, 3)).copy(),
        "inverted": 1 - pixels,
        "one colour": np.broadcast_to(levels, pixels.shape).copy(),
        "noise": random.random(pixels.shape, dtype=np.float32),
    }
    return {kind: float(screen.predict(images).is_outlier.mean()) for kind, images in kinds.items()}


def main(names: list[str], folder: Path | None = None) -> None:
    for name in names or READY:
        target = located(name) if folder is None else folder / name
        screen = MAKERS[name]()
        screen.save(target)
        size = sum(file.stat().st_size for file in target.iterdir())
        if size > MOST_BYTES:
            raise SystemExit(f"{target} has {size:,} bytes; a ready screen has at most {MOST_BYTES:,}")
        shares = ", ".join(f"{kind} {share:.4f}" for kind, share in measured(screen, name).items())
        print(f"{target}: {size:,} bytes; flagged: {shares}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"among {', '.join(READY)}; all by default")
    parser.add_argument("--into", type=Path, help="where to write them; by default into the package")
    given = parser.parse_args()
    main(given.names, given.into)

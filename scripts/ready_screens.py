"""Makes the screens that come with the package: python scripts/ready_screens.py [FOLDER].

Each is fitted on a data set that a dependency brings along, with a fixed seed, so that anyone can make it again:
the images are the same to the byte, the scores up to rounding (other processors round differently).
"""

import argparse
from pathlib import Path

import recondite
from recondite.screen.saved import READY, located
from recondite.screen.screen import Screen


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


MAKERS = {"digits": make_digits}


def main(folder: Path | None = None) -> None:
    for name in READY:
        target = located(name) if folder is None else folder / name
        MAKERS[name]().save(target)
        size = sum(file.stat().st_size for file in target.iterdir())
        print(f"{target}: {size:,} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="where to write them; by default into the package")
    main(parser.parse_args().folder)

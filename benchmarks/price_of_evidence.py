"""What evidence costs: the time of scoring with it and with re-encoding, over the time of the plain error.

    python benchmarks/price_of_evidence.py [--images 2000] [--rounds 7] [--threads 2] [--side 224] [--only features]

The screens of a network are fitted briefly (time does not depend on the weights) and then score the same images in
turn, round after round; the ratios are medians over the rounds, with the smallest and the largest. Time is that of the
processor. With a side, images and screens are of that many pixels, and presets, which have sizes of their own, are
left out.
"""

import argparse
import time

import numpy as np
import torch
from machine import where

import recondite

NETWORKS = {
    "cifar10-vae (R2)": {"preset": "cifar10-vae"},
    "cats-dogs-screen (R1)": {"preset": "cats-dogs-screen"},
    "mnist-microscope (R3)": {"preset": "mnist-microscope"},
    "autoencoder, width 32": {"detector": "autoencoder", "latent_size": 128, "width": 32},
    "vae, width 32": {"detector": "vae", "latent_size": 128, "width": 32},
    "pca, 128 components": {"detector": "pca", "latent_size": 128},
    "alad, width 32": {"detector": "alad", "width": 32},
    "features": {"detector": "features"},
}
SCREENS = {"error": {"score": "error"}, "auto": {"score": "auto"}, "reencoding": {"score": "auto", "reencoding": True}}


def main(count: int, rounds: int, side: int | None, only: str) -> None:
    generator = np.random.default_rng(0)
    print("network                   error: images/s     auto / error            with re-encoding / error")
    for name, options in NETWORKS.items():
        if only not in name or (side and "preset" in options):
            continue
        grey = options.get("preset") == "mnist-microscope"
        shape = (count, 28, 28) if grey else (count, side or 32, side or 32, 3)
        images = generator.integers(0, 256, shape, dtype=np.uint8)
        given = options if side is None else {"image_size": side, **options}
        trains = options.get("detector") not in ("pca", "features")
        screens = {
            kind: recondite.fit(images[:1000], **given, **chosen, **({"epochs": 1} if trains else {}))
            for kind, chosen in SCREENS.items()
            if kind != "reencoding" or options.get("detector") != "features"
        }
        seconds = {kind: [] for kind in screens}
        for number in range(rounds + 1):
            for kind, screen in screens.items():
                start = time.process_time()
                screen.predict(images)
                if number:  # the first round warms up
                    seconds[kind].append(time.process_time() - start)
        error = np.array(seconds.pop("error"))
        print(f"{name:25s} {count / np.median(error):10.0f}     ", end="")
        print("     ".join(_ratio(np.array(times) / error) for times in seconds.values()), flush=True)


def _ratio(ratios: np.ndarray) -> str:
    return f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, help="of images and screens, in pixels; 32 if not given, 28 for digits")
    parser.add_argument("--only", default="", help="networks whose names have this in them")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(where(), flush=True)
    main(arguments.images, arguments.rounds, arguments.side, arguments.only)

"""A variational autoencoder under masks: levels of verdicts, score against mask size, the worst values only.

python examples/masks_and_vae.py            # CIFAR-10, the reference network, 50 epochs: hours without a GPU
python examples/masks_and_vae.py --quick    # digits of scikit-learn, a minute
"""

import argparse
from pathlib import Path

import numpy as np

import recondite
from recondite.data.datasets import open_images, read_batches
from recondite.perturbations import masked
from recondite.screen.thresholds import infer_threshold, predict
from recondite.studies.masks import feature_share_study, mask_size_study, microscope_study

FULL = {
    "data": "cifar10",
    "sizes": range(2, 21, 2),
    "count": 50,
    "fit": {"preset": "cifar10-vae"},
}
QUICK = {
    "data": "digits",
    "sizes": range(1, 6),
    "count": 20,
    "fit": {"detector": "vae", "latent_size": 8, "epochs": 40, "learning_rate": 1e-2, "score": "error"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("masks-and-vae"))
    chosen = parser.parse_args()
    task = QUICK if chosen.quick else FULL
    normal = f"{task['data']}/test"

    screen = recondite.fit(f"{task['data']}/train", alpha=0.05, seed=0, progress=True, **task["fit"])
    screen.save(chosen.output / "screen")

    # Two levels: whole images, and single values; each threshold refuses the other's use.
    detector = screen.detector
    (batch,) = read_batches(open_images(normal).select(range(200)), detector.preprocessing, 200)
    odd = masked(batch.pixels[:20], max(task["sizes"])).images
    images = predict(detector, odd, infer_threshold(detector, batch.pixels, percent=99, top_percent=20))
    values = predict(detector, odd, infer_threshold(detector, batch.pixels, percent=99, level="feature"))
    share = np.mean(values.is_outlier)
    print(f"{images.is_outlier.sum()} of {len(odd)} masked images flagged; {share:.1%} of their values")
    recondite.write_report(chosen.output / "report.html", screen, screen.predict(odd), odd)

    masks = {"sizes": list(task["sizes"]), "masks": 20, "count": task["count"], "add": True, "progress": True}
    for row in mask_size_study(screen, normal, chosen.output / "mask-size", **masks):
        print(f"mask {row['size']:2d}: mean score {row['mean']:.5f}, {row['flagged']:.0%} flagged")
    feature_share_study(screen, normal, chosen.output / "features", **masks)
    microscope_study(screen, normal, chosen.output / "microscope", sizes=list(task["sizes"])[::2], add=True)
    print(f"reports: {chosen.output}")


if __name__ == "__main__":
    main()

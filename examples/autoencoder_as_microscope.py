"""An autoencoder as a microscope on digits: losses, a rotated digit, latent space, interpolation, noise, and PCA.

python examples/autoencoder_as_microscope.py            # MNIST, the reference network, 20 epochs
python examples/autoencoder_as_microscope.py --quick    # digits of scikit-learn, a minute
"""

import argparse
from pathlib import Path

import recondite
from recondite.data.datasets import open_images, read_batches
from recondite.perturbations import rotated
from recondite.reports.explanation import draw, in_words
from recondite.studies.latent import denoising_study, interpolation_study
from recondite.studies.latent_map import latent_map_study
from recondite.studies.linear import linear_study
from recondite.studies.thresholds import thresholds_study

FULL = {"data": "mnist", "latent": 20, "count": 10_000, "fit": {"preset": "mnist-microscope"}}
QUICK = {
    "data": "digits",
    "latent": 10,
    "count": 300,
    "fit": {"latent_size": 10, "epochs": 30, "learning_rate": 1e-2, "picture_epochs": "1,8,15,22", "score": "error"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("autoencoder-as-microscope"))
    chosen = parser.parse_args()
    task = QUICK if chosen.quick else FULL
    learnt, fresh, output = f"{task['data']}/train", f"{task['data']}/test", chosen.output

    # Validated by the fresh images, which choose nothing; of their batches one of the threshold rules is made.
    fit = {"validation": fresh, "calibration": 0.05, "keep_best": False, **task["fit"]}
    screen = recondite.fit(learnt, alpha=0.05, seed=0, progress=True, **fit)
    screen.save(output / "screen")

    # Loss curves, pictures after some epochs, and the digits that are rebuilt worst.
    recondite.write_report(output / "report.html", screen, screen.predict(fresh), fresh)

    # One digit upright, and the same one rotated.
    digit = open_images(fresh).select([0])
    (batch,) = read_batches(digit, screen.detector.preprocessing, 1)
    print(in_words(screen, draw(screen, batch.pixels, output / "upright.png")))
    print(in_words(screen, draw(screen, rotated(batch.pixels, 90), output / "rotated.png")))

    thresholds_study(screen, fresh, output / "thresholds")
    latent_map_study(screen, fresh, output / "latent-map", count=task["count"], new=learnt, new_count=100)
    interpolation_study(screen, fresh, output / "interpolation")
    denoising_study(screen, fresh, output / "denoising")
    epochs = 10
    linear_study(learnt, output / "linear", latent_size=task["latent"], epochs=epochs, batch_size=64, progress=True)
    print(f"reports: {output}")


if __name__ == "__main__":
    main()

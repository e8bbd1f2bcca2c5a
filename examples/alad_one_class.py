"""ALAD, one class normal and all others not: ROC of its four scores, and the size of its latent.

python examples/alad_one_class.py            # birds of 64 pixels, 100 epochs, four latent sizes: needs a GPU
python examples/alad_one_class.py --quick    # digits of scikit-learn at 16 pixels, a minute
"""

import argparse
from pathlib import Path

from recondite.studies.training.grid import latent_size_study
from recondite.studies.training.one_class import one_class_study

FULL = {
    "data": "birds64",
    "normal": "bird",
    "sizes": (100, 300, 500, 800),
    "study": {"protocol": "official", "validation": 0.1},
    "training": {"epochs": 100, "batch_size": 64, "augment": "rotate,zoom,hue"},
}
QUICK = {
    "data": "digits",
    "normal": "0",
    "sizes": (4, 16),
    "study": {"validation": 0.1, "image_size": (16, 16)},
    "training": {"epochs": 8, "batch_size": 16, "width": 8, "ema": 0.97, "learning_rate": 2e-3},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("alad-one-class"))
    chosen = parser.parse_args()
    task = QUICK if chosen.quick else FULL
    settings = {"normal": task["normal"], "progress": True, **task["study"], **task["training"]}

    output = chosen.output / "one-class"
    for row in one_class_study(
        task["data"], output, detectors=("alad", "pca"), latent_size=task["sizes"][0], **settings
    ):
        print(f"{row['detector'] or 'baseline':8} {row['score']:26} AUROC {row['auroc']:.3f}")
    for row in latent_size_study(task["data"], chosen.output / "latent-size", sizes=task["sizes"], **settings):
        print(
            f"latent {row['latent_size']:3} {row['score']:3} AUROC {row['auroc']:.3f}, error {row['normal_mean']:.4g}"
        )
    print(f"reports: {chosen.output}")


if __name__ == "__main__":
    main()

"""A screen in front of a classifier of cats and dogs: what is neither is refused before it gets a label.

python examples/screen_before_classifier.py            # CIFAR-10, the reference network, 30 epochs
python examples/screen_before_classifier.py --quick    # digits of scikit-learn, a minute
"""

import argparse
from pathlib import Path

from sklearn.linear_model import LogisticRegression

import recondite
from recondite.data.datasets import open_images, read_batches
from recondite.reports.explanation import draw, in_words
from recondite.studies.thresholds import thresholds_study

FULL = {
    "known": "cifar10/train:cat,dog",
    "fresh": "cifar10/test:cat,dog",
    "outliers": "cifar10/test:airplane,automobile,bird,deer,frog,horse,ship,truck",
    "fit": {"preset": "cats-dogs-screen"},
    "by_hand": 0.045,  # chosen by eye, by the author of the reference system
}
QUICK = {
    "known": "digits/train:3,5",
    "fresh": "digits/test:3,5",
    "outliers": "digits/test:0,1,2,4,6,7,8,9",
    "fit": {"detector": "autoencoder", "latent_size": 8, "epochs": 30, "learning_rate": 1e-2, "score": "error"},
    "by_hand": 0.02,
}


def pixels_and_labels(source, detector):
    """Return images as rows, and their labels."""
    (batch,) = read_batches(open_images(source), detector.preprocessing, 100_000)
    return batch.pixels.reshape(len(batch.pixels), -1), batch.labels


def five_of_each(images):
    """Return the ids of the first five images of each label."""
    named = list(zip(images.ids, images.labels, strict=True))
    return [name for kind in sorted(set(images.labels)) for name in [one for one, label in named if label == kind][:5]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("screen-before-classifier"))
    chosen = parser.parse_args()
    task = QUICK if chosen.quick else FULL

    # All known images are learnt from. Every other fresh one calibrates; the rest are measured and choose nothing.
    images = open_images(task["fresh"])
    calibrating, fresh = (images.select(range(start, images.size, 2)) for start in (0, 1))
    held_out = {"validation": fresh, "calibration": calibrating, "pictures": five_of_each(fresh), "keep_best": False}
    screen = recondite.fit(task["known"], alpha=0.05, seed=0, progress=True, **{**task["fit"], **held_out})
    screen.save(chosen.output / "screen")
    classifier = LogisticRegression(max_iter=200).fit(*pixels_and_labels(task["known"], screen.detector))

    for kind, source in (("fresh", fresh), ("outliers", task["outliers"])):
        verdicts = screen.predict(source)
        rows, truth = pixels_and_labels(source, screen.detector)
        labels = classifier.predict(rows)
        rules = {"conformal": ~verdicts.is_outlier, "by hand": verdicts.instance_score <= task["by_hand"]}
        for rule, handed_on in rules.items():
            right = (labels == truth)[handed_on].mean() if handed_on.any() else float("nan")
            told = f"{handed_on.sum()} of {len(verdicts)} handed on, {right:.1%} of these labelled right"
            print(f"{kind}, {rule}: {told}")
        recondite.write_report(chosen.output / f"{kind}.html", screen, verdicts, source)

    odd = open_images(task["outliers"]).select([0])
    print(in_words(screen, draw(screen, odd, chosen.output / "outliers.png")))
    rules = {"outliers": task["outliers"], "threshold": task["by_hand"]}
    thresholds_study(screen, fresh, chosen.output / "thresholds", **rules)
    print(f"reports: {chosen.output}")


if __name__ == "__main__":
    main()

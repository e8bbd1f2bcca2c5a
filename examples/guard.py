"""A small CNN that knows a few classes, behind a screen: how many outliers still get a label?

    python examples/guard.py --quick            # digits 0 to 4 of the 5,000 in the extra "demo"; under a minute
    python examples/guard.py                    # digits 0 to 4 of MNIST
    python examples/guard.py --data cats-dogs   # cats and dogs of CIFAR-10, the screen looks at features

Writes guard/table.csv (the guard), guard/report.html (against softmax and feature neighbours at all thresholds) and the
classifier's outputs as .npz, from which `recondite guard-report` makes the same report.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

import recondite
from recondite.data.datasets import open_images, read_batches
from recondite.data.images import Preprocessing
from recondite.data.tables import write_table
from recondite.perturbations.outliers import make_outliers
from recondite.reports.guard_report import guard_report, write_guard_report
from recondite.screen.classifier_outputs import Outputs
from recondite.statistics.metrics import rate

ALPHA = 0.05
SETTINGS = {
    "quick": {
        **{"name": "mnist5k", "known": "01234", "unknown": "56789", "shape": (1, 28, 28)},
        **{"calibration": 700, "epochs": 6, "screen": {"epochs": 15}},
    },
    "digits": {
        **{"name": "mnist", "known": "01234", "unknown": "56789", "shape": (1, 28, 28)},
        **{"calibration": 5000, "epochs": 4, "screen": {"preset": "mnist-fast", "epochs": 6}},
    },
    "cats-dogs": {
        **{"name": "cifar10", "known": ["cat", "dog"], "shape": (3, 32, 32), "calibration": 2000, "epochs": 15},
        "unknown": ["airplane", "automobile", "bird", "deer", "frog", "horse", "ship", "truck"],
        "screen": {"detector": "features"},
    },
}


class Classifier(nn.Module):
    """Three convolutions and two dense layers; `features` is what the last one sees."""

    def __init__(self, shape, classes):
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(shape[0], 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()),
            *(nn.Linear(1024, 128), nn.ReLU(), nn.Dropout(0.3)),
        )
        self.head = nn.Linear(128, classes)

    def forward(self, x):
        return self.head(self.features(x))


def train_classifier(images, targets, classes, epochs):
    torch.manual_seed(0)
    network = Classifier(images.shape[1:], classes)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    x, y = torch.from_numpy(images), torch.from_numpy(targets)
    for _ in range(epochs):
        network.train()
        for chosen in torch.randperm(len(x)).split(64):
            batch = x[chosen]
            if x.shape[1] == 3 and torch.rand(()) < 0.5:
                batch = batch.flip(3)
            loss = nn.functional.cross_entropy(network(batch), y[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.eval()


def read(name, split, wanted, shape):
    """Return the images (N, C, H, W) of some classes, and the number of the class of each."""
    opened = open_images(f"{name}/{split}:{','.join(wanted)}")
    batches = list(read_batches(opened, Preprocessing(shape=shape), 256))
    labels = [label for batch in batches for label in batch.labels]
    return np.concatenate([batch.pixels for batch in batches]), np.array([list(wanted).index(one) for one in labels])


def outputs_of(classifier, verdicts, images, targets):
    with torch.no_grad():
        features = torch.cat([classifier.features(part) for part in torch.from_numpy(images).split(256)])
        logits = classifier.head(features)
    return Outputs(ids=verdicts.ids, logits=logits.double().numpy(), labels=targets, features=features.double().numpy())


def main(data, output):
    settings = SETTINGS[data]
    name, known, shape = settings["name"], settings["known"], settings["shape"]
    images, targets = read(name, "train", known, shape)
    order = np.random.default_rng(0).permutation(len(images))
    held, rest = order[: settings["calibration"]], order[settings["calibration"] :]
    train, calibration = images[rest], images[held]
    test, truth = read(name, "test", known, shape)
    unknown = read(name, "test", settings["unknown"], shape)[0]
    unknown = unknown[np.random.default_rng(1).permutation(len(unknown))[: len(test)]]
    outliers = {"other classes": unknown, "rotated by 90 degrees": np.rot90(test, axes=(2, 3)).copy()}
    outliers |= {
        kind: make_outliers(kind, len(test) // 2, shape) for kind in ("textures", "uniform-noise", "constants")
    }

    classifier = train_classifier(train, targets[rest], len(known), settings["epochs"])
    screen = recondite.fit(train, calibration=calibration, alpha=ALPHA, **settings["screen"])
    extras = {"calibration": calibration, "layer": "features", "reference": train}
    guards = {
        "screen": screen.guard(classifier, known),
        "screen, by predicted class": screen.guard(
            classifier, known, calibration=calibration, by_class=True, confidence_share=0
        ),
        "screen, confidence, features": screen.guard(
            classifier, known, confidence_share=0.25, feature_share=0.25, **extras
        ),
    }
    rows = []
    for rule, guard in {"none": None, **guards}.items():
        decisions = (guard or guards["screen"])(test)
        right = np.array([one == known[index] for one, index in zip(decisions.predicted, truth, strict=True)])
        kept = np.ones(len(test), dtype=bool) if guard is None else ~decisions.abstained
        worst = min(kept[np.array(decisions.predicted) == label].mean() for label in known)
        row = {"guard": rule, "accuracy on accepted": right[kept].mean(), "false rejections": 1 - kept[right].mean()}
        row["false rejections in the worst class"] = 1 - worst
        for kind, others in outliers.items():
            labelled = np.ones(len(others), dtype=bool) if guard is None else ~guard(others).abstained
            row[f"labelled: {kind}"] = rate(labelled).value
        rows.append(row)
        print(" | ".join(f"{key}: {value:.3f}" if isinstance(value, float) else value for key, value in row.items()))
    write_table(output / "table.csv", rows)

    screen.save(output / "screen")
    sets = {"inlier": (test, truth), "outlier": (unknown, np.full(len(unknown), -1))}
    sets |= {"calibration": (calibration, targets[held]), "reference": (train, targets[rest])}
    verdicts = {kind: screen.predict(some) for kind, (some, _) in sets.items() if kind != "reference"}
    verdicts["reference"] = recondite.Scores(
        ids=tuple(f"{k:06d}" for k in range(len(train))),
        instance_score=np.zeros(len(train)),
        errors=(None,) * len(train),
    )
    outputs = {kind: outputs_of(classifier, verdicts[kind], *pair) for kind, pair in sets.items()}
    for kind, found in outputs.items():
        np.save(output / f"{kind}.npy", sets[kind][0])
        np.savez(output / f"{kind}.npz", logits=found.logits, labels=found.labels, features=found.features)
    report = guard_report(
        screen,
        *(verdicts["inlier"], verdicts["outlier"], outputs["inlier"], outputs["outlier"]),
        calibration=(verdicts["calibration"], outputs["calibration"]),
        reference=outputs["reference"],
    )
    write_guard_report(output / "report", report, f"A classifier of {name} {', '.join(known)} behind a screen")
    for row in report.rows:
        print(" | ".join(f"{value:.4f}" if isinstance(value, float) else value for value in row.values()))
    print(f"report: {output / 'report' / 'report.html'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["digits", "cats-dogs"], default="digits")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("-o", "--output", type=Path, default=Path("guard"))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    main("quick" if given.quick else given.data, given.output)

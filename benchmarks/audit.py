"""Audits against what was planted: copies, outliers, or wrong labels.

    python benchmarks/audit.py copies --images 120
    python benchmarks/audit.py outliers --images 300
    python benchmarks/audit.py labels

Copies: of every image of birds64/test (a file in RECONDITE_DATA) one changed copy is added, six changes at three
strengths, one of them at a time; compared by small grey copies alone, without the backbone. Outliers: 300 of 400 birds
with digits of MNIST, noise and stripes among them, over draws, beside scikit-learn's detectors on the same features.
Labels: wrong ones among the digits of scikit-learn, beside every image that the linear head classifies otherwise.
"""

import argparse
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_digits
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score
from sklearn.neighbors import LocalOutlierFactor

from recondite.audits.copies import found_copies
from recondite.audits.labels import confident, cross_validated
from recondite.audits.look import look_at
from recondite.audits.outliers import cross_fitted, discoveries, p_values, reduced
from recondite.audits.walk import Backbone
from recondite.data.datasets import open_images


def jpeg(picture: Image.Image, quality: float) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=int(quality))
    return Image.open(io.BytesIO(stream.getvalue())).convert("RGB")


def crop(picture: Image.Image, share: float) -> Image.Image:
    side = round(picture.width * share)
    left, top = round((picture.width - side) * 0.3), round((picture.height - side) * 0.6)
    return picture.crop((left, top, left + side, top + side))


def resized(picture: Image.Image, share: float) -> Image.Image:
    return picture.resize((round(picture.width * share), round(picture.height * share)), Image.Resampling.BILINEAR)


CHANGES = {
    "re-encoded": (jpeg, (60, 30, 15)),
    "resized": (resized, (0.8, 0.6, 0.4)),
    "darker": (lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor), (0.8, 0.6, 0.4)),
    "brighter": (lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor), (1.15, 1.3, 1.5)),
    "cropped": (crop, (0.95, 0.88, 0.8)),
    "mirrored and cropped": (lambda picture, share: ImageOps.mirror(crop(picture, share)), (1.0, 0.95, 0.88)),
}


def copies(count: int) -> None:
    images = open_images("birds64/test")
    chosen = np.linspace(0, len(images.ids or ()) - 1, count).astype(int)
    pictures = [Image.open(images.entry(int(index))[0]).convert("RGB") for index in chosen]
    originals = [look_at(np.asarray(picture), None) for picture in pictures]
    for name, (change, strengths) in CHANGES.items():
        for strength in strengths:
            looks = originals + [look_at(np.asarray(change(picture, strength)), None) for picture in pictures]
            grey = np.stack([look.grey.ravel() for look in looks if look.grey is not None])
            nothing = np.zeros((len(looks), 0), np.float16)
            pairs = found_copies([look.digest.hex() for look in looks], grey, nothing).pairs
            right = np.abs(pairs[0] - pairs[1]) == count
            print(
                f"{name} {strength:g}: recall {right.sum() / count:.3f}, precision {right.mean():.3f} of {len(right)}",
                flush=True,
            )


def stripes(draw: np.random.Generator) -> NDArray[np.uint8]:
    down, across = np.mgrid[:64, :64]
    angle, length = draw.uniform(0, np.pi), draw.uniform(4, 16)
    wave = np.sin(2 * np.pi * (down * np.cos(angle) + across * np.sin(angle)) / length)
    low, high = draw.integers(0, 256, (2, 3))
    return np.asarray(low + (wave[..., None] + 1) / 2 * (high - low)).astype(np.uint8)


def outliers(count: int, planted: int = 40, draws: int = 20) -> None:
    draw = np.random.default_rng(0)
    birds, digits = open_images("birds64/test"), open_images("mnist/test")
    pictures: dict[str, list[object]] = {
        "birds": [image for _, image, label in birds.entries() if label == "bird"],
        "MNIST": [digits.entry(index)[0] for index in range(planted)],
        "noise": [draw.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(planted)],
        "stripes": [stripes(draw) for _ in range(planted)],
    }
    backbone = Backbone(small=True)
    features = {
        kind: backbone.features(np.stack([backbone.preprocessing(one) for one in some]))
        for kind, some in pictures.items()
    }
    for kinds in (["MNIST"], ["noise"], ["stripes"], ["MNIST", "noise", "stripes"]):
        for share in (0.01, 0.05, 0.1):
            every = np.concatenate([features[kind] for kind in kinds])
            figures = []
            for seed in range(draws):
                draw = np.random.default_rng(seed)
                odd = draw.permutation(len(every))[: round(share * count)]
                kept = draw.permutation(len(features["birds"]))[: count - len(odd)]
                places = reduced(np.concatenate([features["birds"][kept], every[odd]]))
                truth = np.arange(count) >= len(kept)
                scores = cross_fitted(places, np.arange(count))
                forest = -IsolationForest(random_state=seed, n_jobs=1).fit(places).score_samples(places)
                factor = -LocalOutlierFactor(20).fit(places).negative_outlier_factor_
                precision = [average_precision_score(truth, one) for one in (scores, forest, factor)]
                flagged = discoveries(p_values(scores), 0.1)
                figures.append([*precision, (flagged & ~truth).sum() / max(1, flagged.sum()), flagged[truth].mean()])
            ours, isolation, local, false, found = np.mean(figures, axis=0)
            print(
                f"{share:.0%} {', '.join(kinds)}: average precision {ours:.3f}, IsolationForest {isolation:.3f}, "
                f"LocalOutlierFactor {local:.3f}; at .1 false discoveries {false:.3f}, found {found:.3f}",
                flush=True,
            )


def labels(draws: int = 2) -> None:
    digits = load_digits()
    truth = digits.target
    places = reduced((digits.images.reshape(len(truth), -1) * 15.9).astype(np.uint8))
    for share in (0.02, 0.05, 0.1):
        for seed in range(draws):
            draw = np.random.default_rng(seed)
            some = draw.permutation(len(truth))[: round(share * len(truth))]
            given = truth.copy()
            given[some] = (truth[some] + draw.integers(1, 10, len(some))) % 10
            wrong = given != truth
            probabilities = cross_validated(places, given, np.arange(len(truth)))
            found = confident(probabilities, given, [str(digit) for digit in range(10)])
            figures = [
                f"{name} recall {(flagged & wrong).sum() / wrong.sum():.3f}, precision {wrong[flagged].mean():.3f}"
                for name, flagged in (("", found.suspect), ("classified otherwise:", probabilities.argmax(1) != given))
            ]
            noise, low, high = found.noise()
            print(f"{share:.0%}:{'; '.join(figures)}; noise {noise:.3f} ({low:.3f} to {high:.3f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("copies", "outliers", "labels"))
    parser.add_argument("--images", type=int, default=300)
    given = parser.parse_args()
    if given.what == "labels":
        labels()
    else:
        {"copies": copies, "outliers": outliers}[given.what](given.images)


if __name__ == "__main__":
    main()

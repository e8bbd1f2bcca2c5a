"""Audits against what was planted: copies, outliers, or wrong labels.

    python benchmarks/audit.py copies --images 120
    python benchmarks/audit.py outliers --images 300
    python benchmarks/audit.py labels

Copies: of every image of birds64/test (a file in RECONDITE_DATA) one changed copy is added, six changes at three
strengths, one of them at a time; compared by small grey copies alone, without the backbone. Outliers: so many images
of CIFAR-10 with 1, 5 and 10 % of others among them, over 20 draws: average precision of the audit, IsolationForest and
LocalOutlierFactor on the same features, false discoveries at .05, .1 and .2, and the share of outliers listed at .1.
Labels: wrong ones among the digits of scikit-learn, beside every image that the linear head classifies otherwise.
"""

import argparse
import io
from collections.abc import Iterable
from pathlib import Path

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
from recondite.audits.outliers import discoveries, judged, reduced
from recondite.audits.walk import Backbone
from recondite.data.datasets import ImageSet, open_images
from recondite.data.images import Preprocessing
from recondite.perturbations.corruptions import CORRUPTIONS, corrupted
from recondite.perturbations.outliers import make_outliers


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


def outlier_features(count: int, cache: Path | None) -> dict[str, NDArray[np.float16]]:
    """Return features of `count` images of CIFAR-10 and of outliers of each kind, kept in a file where one is given."""
    if cache is not None and cache.exists():
        with np.load(cache) as found:
            return dict(found)
    backbone, most = Backbone(small=True), round(0.1 * count)
    cifar, other, digits = (open_images(name) for name in ("cifar10/test", "birds64/test:other", "mnist/test"))

    def seen(pictures: Iterable[object]) -> NDArray[np.float16]:
        return backbone.features(np.stack([backbone.preprocessing(one) for one in pictures]))

    def some(images: ImageSet, number: int, seed: int) -> list[object]:
        chosen = np.random.default_rng(seed).permutation(len(images.ids or ()))[:number]
        return [images.entry(int(index))[0] for index in chosen]

    def made(name: str) -> list[object]:
        return [one.transpose(1, 2, 0) for one in make_outliers(name, most, (3, 32, 32))]

    bad = np.stack([Preprocessing(shape=(3, 32, 32))(one) for one in some(cifar, count + most, 0)[count:]])
    names = list(CORRUPTIONS)
    corrupt = [corrupted(bad[i : i + 1], names[i % len(names)], 5, first=i)[0].transpose(1, 2, 0) for i in range(most)]
    features = {
        "CIFAR-10": seen(some(cifar, count, 0)),
        "birds64-other": seen(some(other, most, 1)),
        "MNIST": seen(some(digits, most, 2)),
        "textures": seen(made("textures")),
        "noise": seen(made("uniform-noise")),
        "corruptions": seen(corrupt),
    }
    if cache is not None:
        np.savez(cache, **features)
    return features


def outliers(count: int, cache: Path | None, draws: int = 20) -> None:
    features = outlier_features(count, cache)
    normal = features.pop("CIFAR-10")
    kinds = {**{name: [name] for name in features}, "all five": list(features)}
    for name, members in kinds.items():
        for share in (0.01, 0.05, 0.1):
            every = np.concatenate([features[kind] for kind in members])
            figures = []
            for seed in range(draws):
                draw = np.random.default_rng(seed)
                odd = draw.permutation(len(every))[: round(share * count)]
                kept = draw.permutation(len(normal))[: count - len(odd)]
                places = reduced(np.concatenate([normal[kept], every[odd]]))
                truth = np.arange(count) >= len(kept)
                scores, p = judged(places, np.arange(count))
                forest = -IsolationForest(random_state=seed, n_jobs=1).fit(places).score_samples(places)
                factor = -LocalOutlierFactor(20).fit(places).negative_outlier_factor_
                precision = [average_precision_score(truth, one) for one in (scores, forest, factor)]
                flagged = [discoveries(p, rate) for rate in (0.05, 0.1, 0.2)]
                false = [(some & ~truth).sum() / max(1, some.sum()) for some in flagged]
                figures.append([*precision, *false, flagged[1][truth].mean()])
            means = np.mean(figures, axis=0)
            print(f"| {name} | {share:.0%} | " + " | ".join(f"{value:.3f}" for value in means) + " |", flush=True)


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
    parser.add_argument("--features", type=Path, help="file that the features of outliers are kept in, .npz")
    given = parser.parse_args()
    if given.what == "labels":
        labels()
    elif given.what == "copies":
        copies(given.images)
    else:
        outliers(given.images, given.features)


if __name__ == "__main__":
    main()

"""Audits against what was planted: copies, outliers, or wrong labels.

    python benchmarks/audit.py copies --images 200
    python benchmarks/audit.py outliers --images 300
    python benchmarks/audit.py labels

Copies: of so many images of a source one changed copy each is added, to the set and as another source (leaks): twelve
changes at three strengths, one of them at a time; `--source mnist/test --grey` for drawings. Outliers: so many images
of CIFAR-10 with 1, 5 and 10 % of others among them, over 20 draws: average precision of the audit, IsolationForest and
LocalOutlierFactor on the same features, false discoveries at .05, .1 and .2, and the share of outliers listed at .1.
Labels: wrong ones among the digits of scikit-learn, beside every image that the linear head classifies otherwise.
"""

import argparse
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from sklearn.datasets import load_digits
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score
from sklearn.neighbors import LocalOutlierFactor

from recondite.audits.copies import copy_findings, found_copies
from recondite.audits.labels import confident, cross_validated
from recondite.audits.look import Look, look_at
from recondite.audits.outliers import discoveries, judged, reduced
from recondite.audits.store import Row
from recondite.audits.walk import Backbone
from recondite.data.datasets import ImageSet, open_images
from recondite.data.images import Preprocessing
from recondite.perturbations.corruptions import CORRUPTIONS, corrupted
from recondite.perturbations.outliers import make_outliers

Change = Callable[[Image.Image, float], Image.Image]


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


def noisy(picture: Image.Image, deviation: float) -> Image.Image:
    pixels = np.asarray(picture, dtype=np.float64)
    noise = np.random.default_rng(0).normal(0, deviation, pixels.shape)
    return Image.fromarray((pixels + noise).round().clip(0, 255).astype(np.uint8))


def stamped(picture: Image.Image, share: float) -> Image.Image:
    changed = picture.copy()
    changed.paste((255, 255, 255), (0, 0, round(picture.width * share), round(picture.height * share)))
    return changed


def by(enhancement: Callable[[Image.Image], Any]) -> Change:
    return lambda picture, factor: enhancement(picture).enhance(factor)


CHANGES: dict[str, tuple[Change, tuple[float, float, float]]] = {
    "re-encoded as JPEG of quality": (jpeg, (60, 30, 15)),
    "resized to": (resized, (0.8, 0.6, 0.4)),
    "darker, times": (by(ImageEnhance.Brightness), (0.8, 0.6, 0.4)),
    "brighter, times": (by(ImageEnhance.Brightness), (1.15, 1.3, 1.5)),
    "less contrast, times": (by(ImageEnhance.Contrast), (0.8, 0.6, 0.4)),
    "more contrast, times": (by(ImageEnhance.Contrast), (1.2, 1.5, 2.0)),
    "less colour, times": (by(ImageEnhance.Color), (0.7, 0.3, 0.0)),
    "cropped to sides of": (crop, (0.95, 0.88, 0.8)),
    "mirrored and cropped to": (lambda picture, share: ImageOps.mirror(crop(picture, share)), (1.0, 0.95, 0.88)),
    "blurred, radius": (lambda picture, radius: picture.filter(ImageFilter.GaussianBlur(radius)), (0.5, 1.0, 2.0)),
    "noisy, deviation": (noisy, (4, 10, 20)),
    "white corner of": (stamped, (0.1, 0.2, 0.3)),
}


def copies(source: str, count: int, with_backbone: bool) -> None:
    images = open_images(source)
    chosen = np.linspace(0, len(images.ids or ()) - 1, count).astype(int)
    pictures = [as_picture(images.entry(int(index))[0]) for index in chosen]
    backbone = Backbone(small=True) if with_backbone else None
    looked = [seen(picture, backbone) for picture in pictures]
    print(
        "| change | strength | recall | precision | recall of leaks | precision of leaks |\n|---|---|---|---|---|---|"
    )
    for name, (change, strengths) in CHANGES.items():
        for strength in strengths:
            both = looked + [seen(change(picture, strength), backbone) for picture in pictures]
            rows = [
                Row(str(i), "", None, "", None, False, look.digest.hex(), "", None, False, (0, 0))
                for i, (look, _) in enumerate(both)
            ]
            grey = np.stack([look.grey.ravel() for look, _ in both if look.grey is not None])
            found = found_copies([row.digest for row in rows], grey, np.stack([features for _, features in both]))
            right = np.abs(found.pairs[0] - found.pairs[1]) == count
            leaks = {f.index for f in copy_findings(rows, found, np.ones(len(rows)), count) if f.kind == "leak"}
            true = {int(pair.min()) for pair in found.pairs.T[right]}
            figures = (right.sum() / count, right.mean() if len(right) else np.nan)
            of_leaks = (len(leaks & true) / count, len(leaks & true) / max(1, len(leaks)))
            print(
                f"| {name} | {strength:g} | " + " | ".join(f"{one:.3f}" for one in (*figures, *of_leaks)) + " |",
                flush=True,
            )


def as_picture(image: Any) -> Image.Image:
    picture = Image.open(image) if isinstance(image, Path) else Image.fromarray(np.asarray(image))
    return picture.convert("RGB")


def seen(picture: Image.Image, backbone: Backbone | None) -> tuple[Look, NDArray[np.float16]]:
    look = look_at(np.asarray(picture), None if backbone is None else backbone.preprocessing)
    assert look.error is None, look.error
    if backbone is None or look.pixels is None:
        return look, np.zeros(0, np.float16)
    return look, backbone.features(look.pixels[None])[0]


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
    parser.add_argument("--source", default="birds64/train", help="of the images that copies are made of")
    parser.add_argument("--grey", action="store_true", help="copies by small grey copies alone, as of drawings")
    parser.add_argument("--features", type=Path, help="file that the features of outliers are kept in, .npz")
    given = parser.parse_args()
    if given.what == "labels":
        labels()
    elif given.what == "copies":
        copies(given.source, given.images, not given.grey)
    else:
        outliers(given.images, given.features)


if __name__ == "__main__":
    main()

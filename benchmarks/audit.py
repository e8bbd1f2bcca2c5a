"""Audits against what was planted: copies, outliers, or wrong labels.

    python benchmarks/audit.py copies --images 200
    python benchmarks/audit.py outliers --images 700
    python benchmarks/audit.py outliers --images 10000 --features /tmp/outliers.npz --compared 3
    python benchmarks/audit.py drawings --images 700
    python benchmarks/audit.py labels
    python benchmarks/audit.py clusters
    python benchmarks/audit.py overlays
    OMP_NUM_THREADS=1 python benchmarks/audit.py parts

Copies: of so many images of a source one changed copy each is added, to the set and as another source (leaks): twelve
changes at three strengths, one of them at a time; `--source mnist/test --grey` for drawings. Outliers: so many images
of CIFAR-10 with 1, 5 and 10 % of others among them, over 20 draws: average precision of the audit, IsolationForest and
LocalOutlierFactor on the same features, false discoveries at .05, .1 and .2, and the share of outliers listed at each.
Drawings: the same of digits, changed digits among them, by small grey copies.
Labels: wrong ones among the digits of scikit-learn, beside every image that the linear head classifies otherwise.
Clusters: classes of one and of two digits. Overlays: a sign in a corner of some photographs. Parts: processor time of
each part of an audit, as docs/scale.md has them.
"""

import argparse
import io
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps
from sklearn.datasets import load_digits
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score
from sklearn.neighbors import LocalOutlierFactor

from recondite.audits.clusters import two_clusters
from recondite.audits.copies import candidates, copy_findings, found_copies
from recondite.audits.labels import confident, cross_validated
from recondite.audits.look import Look, look_at
from recondite.audits.outliers import discoveries, judged, reduced
from recondite.audits.overlays import overlay_findings
from recondite.audits.store import Row, Store
from recondite.audits.walk import Backbone
from recondite.data.datasets import ImageSet, open_images
from recondite.data.images import Preprocessing
from recondite.perturbations.corruptions import CORRUPTIONS, corrupted
from recondite.perturbations.outliers import alter, make_outliers, mixed

Change = Callable[[Image.Image, float], Image.Image]
LARGEST_OF_EACH_DRAW = 2000
"""Images; of more the principal components of a draw are those of components of all."""


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


def outlier_pictures(count: int) -> dict[str, list[object]]:
    """Return `count` images of CIFAR-10, and a tenth as many outliers of each kind."""
    most = round(0.1 * count)
    cifar, train, digits = (open_images(name) for name in ("cifar10/test", "cifar10/train", "mnist/test"))
    other = open_images("birds64/test:other" if most <= 400 else "birds64/test:other,fruit,insect")

    def some(images: ImageSet, number: int, seed: int) -> list[object]:
        chosen = np.random.default_rng(seed).permutation(len(images.ids or ()))[:number]
        return [images.entry(int(index))[0] for index in chosen]

    def made(name: str) -> list[object]:
        return [one.transpose(1, 2, 0) for one in make_outliers(name, most, (3, 32, 32))]

    clean = some(cifar, count + most, 0)[count:] if count + most <= len(cifar.ids or ()) else some(train, most, 3)
    bad = np.stack([Preprocessing(shape=(3, 32, 32))(one) for one in clean])
    names = list(CORRUPTIONS)
    corrupt = [corrupted(bad[i : i + 1], names[i % len(names)], 5, first=i)[0].transpose(1, 2, 0) for i in range(most)]
    return {
        "CIFAR-10": some(cifar, count, 0),
        "birds64-other": some(other, most, 1),
        "MNIST": some(digits, most, 2),
        "textures": made("textures"),
        "noise": made("uniform-noise"),
        "corruptions": list(corrupt),
    }


def outlier_features(count: int, cache: Path | None) -> dict[str, NDArray[np.float16]]:
    """Return the features of `outlier_pictures`, kept in a file where one is given."""
    if cache is not None and cache.exists():
        with np.load(cache) as found:
            return dict(found)
    backbone = Backbone(small=True)
    features = {
        name: backbone.features(np.stack([backbone.preprocessing(one) for one in pictures]))
        for name, pictures in outlier_pictures(count).items()
    }
    if cache is not None:
        np.savez(cache, **features)
    return features


def write_pictures(count: int, folder: Path) -> None:
    """Write `outlier_pictures` as PNG files, a folder a kind, for `audit_cleanvision.py`."""
    for name, pictures in outlier_pictures(count).items():
        (folder / name).mkdir(parents=True)
        for number, one in enumerate(pictures):
            pixels = np.asarray(one) if not isinstance(one, Path) else np.asarray(Image.open(one))
            if pixels.dtype != np.uint8:
                pixels = (pixels * 255).round().clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels.squeeze()).save(folder / name / f"{number:04d}.png")


def outliers(count: int, cache: Path | None, draws: int, compared: int, wanted: str) -> None:
    features: dict[str, Any] = dict(outlier_features(count, cache))
    if count > LARGEST_OF_EACH_DRAW:
        # Once, and components of these in each draw: 512 of 1,904 numbers have nearly all of the variance.
        places = reduced(np.concatenate(list(features.values())), 512)
        ends = np.cumsum([len(some) for some in features.values()])[:-1]
        features = dict(zip(features, np.split(places, ends), strict=True))
    normal = features.pop("CIFAR-10")
    kinds = {**{name: [name] for name in features}, "all five": list(features)}
    kinds = {name: kinds[name] for name in (wanted.split(",") if wanted else kinds)}
    if not wanted:
        print_row("nothing", normal, normal[:0], 0, count, 2 * draws, 0)
    for name, members in kinds.items():
        every = np.concatenate([features[kind] for kind in members])
        for share in (0.01, 0.05, 0.1):
            print_row(name, normal, every, share, count, draws, compared)


def drawings(count: int, draws: int) -> None:
    """The same of digits by small grey copies: of scikit-learn, which choices were made on, and of MNIST's test set."""
    test = open_images("mnist/test")
    sources = {
        "digits": (load_digits().images * 15.9).astype(np.uint8)[:, None],
        "MNIST": np.stack([np.asarray(test.entry(index)[0]).reshape(1, 28, 28) for index in range(0, 10000, 5)]),
    }
    for source, pictures in sources.items():
        pictures = pictures[np.random.default_rng(0).permutation(len(pictures))]
        most = round(0.1 * count)
        bad, normal = pictures[:most], grey_copies(pictures[most:])
        print_row(f"{source}: nothing", normal, normal[:0], 0, count, 2 * draws, 0)
        changed = {"turned": alter("rotated-90", bad), "of shuffled patches": mixed("shuffled-patches", bad)}
        for name, others in changed.items():
            for share in (0.01, 0.05, 0.1):
                print_row(f"{source}: {name}", normal, grey_copies(others), share, count, draws, 0)


def grey_copies(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    looks = [look_at(picture[0], None).grey for picture in pictures]
    return np.stack([grey.ravel() for grey in looks if grey is not None])


def print_row(name: str, normal: Any, others: Any, share: float, count: int, draws: int, compared: int) -> None:
    """Print means over draws of so many images, a share of them others, by features."""
    figures = []
    for seed in range(draws):
        draw = np.random.default_rng(seed)
        odd = draw.permutation(len(others))[: round(share * count)]
        kept = draw.permutation(len(normal))[: count - len(odd)]
        places = reduced(np.concatenate([normal[kept], others[odd]]))
        truth = np.arange(count) >= len(kept)
        scores, p = judged(places, np.arange(count))
        precision = [average_precision_score(truth, scores) if share else np.nan, np.nan, np.nan]
        if seed < compared:
            forest = -IsolationForest(random_state=seed, n_jobs=1).fit(places).score_samples(places)
            factor = -LocalOutlierFactor(20).fit(places).negative_outlier_factor_
            precision[1:] = [average_precision_score(truth, one) for one in (forest, factor)]
        flagged = [discoveries(p, rate) for rate in (0.05, 0.1, 0.2)]
        false = [(some & ~truth).sum() / max(1, some.sum()) for some in flagged]
        listed = [some[truth].mean() if share else np.nan for some in flagged]
        figures.append([*precision, *false, *listed])
    columns = np.array(figures).T
    means = [column[~np.isnan(column)].mean() if not np.isnan(column).all() else np.nan for column in columns]
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


def clusters() -> None:
    digits = load_digits()
    places = reduced((digits.images.reshape(len(digits.target), -1) * 15.9).astype(np.uint8))
    own = [np.flatnonzero(digits.target == digit) for digit in range(10)]
    single = [two_clusters(places[some], np.arange(len(some))) for some in own]
    print("classes of one digit:", {digit: round(one.explained, 3) for digit, one in enumerate(single) if one})
    pairs = [np.concatenate([own[a][:90], own[b][:40]]) for a in range(10) for b in range(a + 1, 10)]
    found = [two_clusters(places[some], np.arange(len(some))) for some in pairs]
    print(f"classes of two digits: {sum(one is not None for one in found)} of {len(found)}")
    draw, alone = np.random.default_rng(0), np.arange(100)
    scale = np.array([5.0, 1, 1, 1, 1, 1, 1, 1])
    for name, some in (("Gaussian", draw.standard_normal((60, 100, 8))), ("uniform", draw.random((60, 100, 8)))):
        print(f"{name} clouds: {sum(two_clusters(one * scale, alone) is not None for one in some)} of 60")


def overlays() -> None:
    def found(pictures: list[Image.Image]) -> Counter[str]:
        grey = np.stack([seen(picture, None)[0].grey.ravel() for picture in pictures])  # type: ignore[union-attr]
        rows = [Row(str(i), "", None, "", None, False, "", "", None, False, (0, 0)) for i in range(len(pictures))]
        every = np.arange(len(pictures))
        return Counter(finding.group for finding in overlay_findings(rows, grey, every, every))

    birds, digits = open_images("birds64/train"), open_images("mnist/test")
    pictures = [as_picture(birds.entry(index)[0]) for index in range(0, 1200, 3)]
    print("birds:", dict(found(pictures)))
    for picture in pictures[::20]:
        drawn = ImageDraw.Draw(picture)
        drawn.rectangle((48, 50, 62, 62), fill=(20, 20, 20))
        drawn.rectangle((51, 53, 55, 59), fill=(250, 250, 250))
        drawn.line((57, 52, 60, 60), fill=(250, 200, 40), width=2)
    print("20 of them with a sign:", dict(found(pictures)))
    print("MNIST:", dict(found([as_picture(digits.entry(index)[0]) for index in range(600)])))


def parts() -> None:
    """Print processor time by part, one thread, and bytes on disk an image."""
    torch.set_num_threads(1)
    cifar = open_images("cifar10/test")
    small = [cifar.entry(index)[0].read_bytes() for index in range(0, 9000, 45)]
    birds = open_images("birds64/train")
    large = [encoded(as_picture(birds.entry(index)[0]).resize((500, 500))) for index in range(60)]
    for name, contents, is_small in (("32", small, True), ("500", large, False)):
        backbone = Backbone(is_small)
        spent = []
        looks = []
        for content in contents:
            begun = time.process_time()
            looks.append(look_at(content, backbone.preprocessing))
            spent.append(time.process_time() - begun)
        pixels = np.stack([look.pixels for look in looks if look.pixels is not None])
        backbone.features(pixels[:8])
        begun = time.process_time()
        features = backbone.features(pixels)
        each = (time.process_time() - begun) / len(pixels)
        with tempfile.TemporaryDirectory() as folder:
            begun = time.process_time()
            store = Store(Path(folder), {}, backbone.width).begin()
            store.add([(str(i), "", None, "", look) for i, look in enumerate(looks)], features)
            written = (time.process_time() - begun) / len(looks)
            size = sum(path.stat().st_size for path in Path(folder).iterdir()) / len(looks)
        print(
            f"{name} pixels: look {1e3 * np.mean(spent):.2f} ms, features {1e3 * each:.2f} ms, "
            f"store {1e3 * written:.2f} ms and {size:,.0f} bytes an image",
            flush=True,
        )
    draw = np.random.default_rng(0)
    for count in (2000, 4000, 8000):
        coarse = draw.normal(128, 40, (count, 8, 8)).clip(0, 255).repeat(4, 1).repeat(4, 2)
        grey = (coarse + draw.normal(0, 5, coarse.shape)).clip(0, 255).astype(np.uint8).reshape(count, -1)
        features = draw.standard_normal((count, 1904)).astype(np.float16)
        begun = time.process_time()
        pairs = candidates(grey, features)
        near = time.process_time() - begun
        found_copies([str(index) for index in range(count)], grey, features)
        compared = time.process_time() - begun - 2 * near
        begun = time.process_time()
        places = reduced(features)
        components = time.process_time() - begun
        judged(places, np.arange(count))
        print(
            f"{count:,} images: neighbours {near:.2f} s, {pairs.shape[1]:,} pairs compared {compared:.2f} s, "
            f"components {components:.2f} s, outliers {time.process_time() - begun - components:.2f} s",
            flush=True,
        )


def encoded(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=90)
    return stream.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("copies", "outliers", "drawings", "labels", "parts", "clusters", "overlays"))
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--source", default="birds64/train", help="of the images that copies are made of")
    parser.add_argument("--grey", action="store_true", help="copies by small grey copies alone, as of drawings")
    parser.add_argument("--features", type=Path, help="file that the features of outliers are kept in, .npz")
    parser.add_argument("--pictures", type=Path, help="write the images of outliers into this folder and end")
    parser.add_argument("--draws", type=int, default=20, help="of outliers")
    parser.add_argument("--compared", type=int, default=20, help="of these draws, those the two others judge too")
    parser.add_argument("--kinds", default="", help="of outliers, joined by commas; by default each, and all five")
    given = parser.parse_args()
    if given.what == "labels":
        labels()
    elif given.what == "parts":
        parts()
    elif given.what == "clusters":
        clusters()
    elif given.what == "overlays":
        overlays()
    elif given.what == "drawings":
        drawings(given.images, given.draws)
    elif given.what == "copies":
        copies(given.source, given.images, not given.grey)
    elif given.pictures is not None:
        write_pictures(given.images, given.pictures)
    else:
        outliers(given.images, given.features, given.draws, given.compared, given.kinds)


if __name__ == "__main__":
    main()

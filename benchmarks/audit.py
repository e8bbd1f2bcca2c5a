"""Planted copies: how many an audit finds, and how many of the pairs that it finds are copies.

    python benchmarks/audit.py --images 300

Of every image of birds64/test (a file in RECONDITE_DATA) one changed copy is added, six changes at three strengths, one
of them at a time. Compared by small grey copies alone, without the backbone.
"""

import argparse
import io

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from recondite.audits.copies import found_copies
from recondite.audits.look import look_at
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    count = parser.parse_args().images
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


if __name__ == "__main__":
    main()

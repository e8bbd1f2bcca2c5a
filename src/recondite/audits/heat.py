"""Heat maps: where an image is unlike the others, from the small pictures that a store has of all of them.

Each place of an image is compared with its nearest places, wherever they lie, in images of the set without a finding
(`patchcore` of the detector of features). Maps are blue where a place is as near as those of most images that were held
out, and red where it is farthest, if that is as far as hardly any of theirs.
"""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from recondite.audits.look import THUMBNAIL_QUALITY, THUMBNAIL_SIDE
from recondite.data.pictures import heat
from recondite.detectors import build

LARGEST = 48
"""Images that get a heat map, the farthest from the others first."""
FEWEST = 40
"""Images without a finding; of fewer there is nothing to compare places with."""
LEARNT, _HELD_OUT, _BANK = 100, 0.25, 4000
_USUAL, _RARE = 0.5, 0.999
_SIDE = 224
"""Pixels a side that the backbone sees, for a grid of places that is fine enough."""
_COLOURS, _OPAQUE = "turbo", 0.55

Pixels = NDArray[np.uint8]


def heat_maps(odd: Sequence[bytes], others: Sequence[bytes]) -> list[bytes]:
    """Return pictures under their heat maps, each the bytes of a JPEG file of the size of the picture.

    Args:
        odd: pictures, the bytes of JPEG files.
        others: pictures of images without a finding, at least `FEWEST`; a quarter of them sets the scale.
    """
    learnt, held_out = _split([_pixels(content) for content in others])
    shown = [_pixels(content) for content in odd]
    shape = (3, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    detector = build("features", image_shape=shape, methods=("patchcore",), bank_size=_BANK, side=_SIDE)
    detector.fit(learnt, validation=None)

    def maps_of(pictures: Sequence[Pixels]) -> list[NDArray[np.float64]]:
        scores = detector.score(list(pictures), feature_score=True).feature_score
        assert scores is not None
        return [heat(one) for one in scores]

    low, high = np.quantile(np.stack(maps_of(held_out)), [_USUAL, _RARE])
    scaled = [((one - low) / max(high - low, float(one.max()) - low, 1e-12)).clip(0, 1) for one in maps_of(shown)]
    return [_under(picture, one) for picture, one in zip(shown, scaled, strict=True)]


def _split(pictures: list[Pixels]) -> tuple[list[Pixels], list[Pixels]]:
    order = np.random.default_rng(0).permutation(len(pictures))
    first = round(_HELD_OUT * len(pictures))
    return [pictures[index] for index in order[first:]], [pictures[index] for index in order[:first]]


def _pixels(content: bytes) -> Pixels:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))


def _under(picture: Pixels, scaled: NDArray[np.float64]) -> bytes:
    """Return a picture (H, W, 3), in grey, under a map in [0, 1] of any size, as the bytes of a JPEG file."""
    size = (picture.shape[1], picture.shape[0])
    stretched = np.asarray(Image.fromarray(scaled.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    colours = colormaps[_COLOURS](stretched)[..., :3] * 255
    mixed = (1 - _OPAQUE) * picture.mean(axis=2, keepdims=True) + _OPAQUE * colours
    stream = io.BytesIO()
    Image.fromarray(mixed.round().astype(np.uint8)).save(stream, format="JPEG", quality=THUMBNAIL_QUALITY)
    return stream.getvalue()

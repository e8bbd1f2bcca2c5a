"""Plain statistics of one image, each a number with a formula; whether a number is odd, the set of images decides."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recondite.data.images import Floats
from recondite.data.scaling import match_channels

MEASURES: dict[str, tuple[str, str]] = {
    "highlights": ("its brightest parts", "99th percentile of the luma, in [0, 1]"),
    "shadows": ("its darkest parts", "5th percentile of the luma, in [0, 1]"),
    "contrast": ("contrast", "ln of the standard deviation of the luma"),
    "sharpness": ("sharpness", "ln (E1 / E2 - 1/4), Ek the mean squared difference of pixels k apart"),
    "noise": ("noise", "ln of the median |x * [[1, -2, 1], [-2, 4, -2], [1, -2, 1]]| / 6, about the noise's deviation"),
    "code_length": ("information", "mean log2 (1 + 255 |difference of neighbours|), about the bits of a lossless code"),
    "area": ("size", "ln of the number of pixels"),
    "proportion": ("proportion", "ln (width / height)"),
    "chroma": ("colour", "mean of largest minus least channel, in [0, 1]"),
    "blockiness": ("JPEG blocks", "ln of the differences across the borders of 8 x 8 blocks over those beside them"),
    "jpeg_quality": ("JPEG quality", "1 to 100, by the mean of the luma's quantisation table; not of other files"),
    "border": ("border", "share of the area in rows and columns at the edges that are all of one colour"),
    "transparent": ("transparency", "share of the pixels that are less than half opaque"),
}
"""Name -> (what it is in words, formula); x the luma, .299 R + .587 G + .114 B, of the image turned upright."""

_LARGEST_WINDOW = 1448
_LEAST_SIDE = 3
"""Pixels a side that second differences need."""
_MEAN_OF_STANDARD_TABLE = 57.625
_LARGEST_STEP, _QUANTUM, _FLAT = 0.1, 1 / 255, 2 / 255
_SMALLEST = 1e-4


@dataclass(frozen=True)
class FileFacts:
    """What the head of an image file says.

    Args:
        format: as Pillow calls it; "" for what is no file.
        orientation: the value of its EXIF tag, whatever it is; None without.
        jpeg_quality: of a JPEG file; None for others.
    """

    format: str = ""
    orientation: int | None = None
    jpeg_quality: float | None = None


def file_facts(content: bytes) -> FileFacts:
    """Return what the head of an image file says; nothing where it is damaged."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            tag = picture.getexif().get(0x0112)
            tables = getattr(picture, "quantization", None)
            quality = None if not tables else jpeg_quality(next(iter(tables.values())))
            return FileFacts(picture.format or "", tag if isinstance(tag, int) else None, quality)
    except Exception:  # Pillow meets damaged heads with nearly any exception
        return FileFacts()


def jpeg_quality(table: Sequence[int]) -> float:
    """Return the quality, 1 to 100, that libjpeg would have written a luma table of 64 numbers at, by their mean.

    >>> jpeg_quality([58] * 64) > 49, jpeg_quality([1] * 64)
    (True, 100.0)
    """
    scale = 100 * float(np.mean(table)) / _MEAN_OF_STANDARD_TABLE
    quality = 5000 / scale if scale > 100 else (200 - scale) / 2
    return float(np.clip(np.round(quality), 1, 100)) if scale > 2 else 100.0


def measured(planes: Floats, opaque: Floats | None, facts: FileFacts, size: tuple[int, int]) -> dict[str, float]:
    """Return the statistics of an image, by name, in the order of `MEASURES`; NaN where one has no meaning.

    Of images above 1,448 pixels a side, sharpness, noise, information and blocks are those of the middle.

    Args:
        planes: (C, H, W) in [0, 1], laid on white.
        opaque: (H, W) in [0, 1]; None where nothing is transparent.
        facts: of its file.
        size: (height, width) as stored, upright.
    """
    luma = luma_of(planes)
    levels = np.bincount((luma * 255 + 0.5).astype(np.uint8).ravel(), minlength=256)
    deviation = float(luma.std())
    middle = _middle(luma)
    across, down = np.abs(np.diff(middle, axis=1)), np.abs(np.diff(middle, axis=0))
    flat, thin = deviation < _FLAT, min(middle.shape) < _LEAST_SIDE
    return {
        "highlights": _percentile(levels, 0.99),
        "shadows": _percentile(levels, 0.05),
        "contrast": float(np.log(deviation + _SMALLEST)),
        "sharpness": float("nan") if flat or thin else _sharpness(middle, across, down),
        "noise": float("nan") if thin else _noise(middle),
        "code_length": float(
            np.mean([np.log2(1 + 255 * step).mean() for step in (across, down) if step.size] or [0.0])
        ),
        "area": float(np.log(size[0] * size[1])),
        "proportion": float(np.log(size[1] / size[0])),
        "chroma": float((planes.max(axis=0) - planes.min(axis=0)).mean()) if len(planes) >= 3 else 0.0,
        "blockiness": float("nan") if flat else _blockiness(across, down, luma.shape),
        "jpeg_quality": float("nan") if facts.jpeg_quality is None else facts.jpeg_quality,
        "border": _border(planes),
        "transparent": 0.0 if opaque is None else float((opaque < 0.5).mean()),
    }


def luma_of(planes: Floats) -> Floats:
    """Return the brightness (H, W) of an image (1 or 3, H, W)."""
    luma: Floats = planes[0] if len(planes) == 1 else match_channels(planes, 1)[0]
    return luma


def _percentile(levels: NDArray[np.int64], share: float) -> float:
    return float(np.searchsorted(np.cumsum(levels), share * levels.sum()) / 255)


def _middle(luma: Floats) -> Floats:
    """Return the middle of a large image, cut where blocks of 8 x 8 pixels begin."""
    spans = []
    for side in luma.shape:
        start = max(0, (side - _LARGEST_WINDOW) // 2) // 8 * 8
        spans.append(slice(start, start + min(side, _LARGEST_WINDOW)))
    return luma[spans[0], spans[1]]


def _sharpness(luma: Floats, across: Floats, down: Floats) -> float:
    near = np.mean([np.square(step).mean() for step in (across, down)])
    far = np.mean([np.square(luma[:, 2:] - luma[:, :-2]).mean(), np.square(luma[2:] - luma[:-2]).mean()])
    return float(np.log(max(near / max(far, 1e-12) - 0.25, 0) + 1e-3))


def _noise(luma: Floats) -> float:
    """Source: Immerkaer 1996, "Fast noise variance estimation"; the median in place of the mean, for fewer edges."""
    along = luma[:, 2:] - 2 * luma[:, 1:-1] + luma[:, :-2]
    both = along[2:] - 2 * along[1:-1] + along[:-2]
    return float(np.log(np.median(np.abs(both)) / (6 * 0.6745) + 0.1 * _QUANTUM))


def _blockiness(across: Floats, down: Floats, shape: tuple[int, ...]) -> float:
    if min(shape) < 24:
        return float("nan")
    on_borders, beside = [], []
    for steps in (across.clip(max=_LARGEST_STEP).mean(axis=0), down.clip(max=_LARGEST_STEP).mean(axis=1)):
        place = (np.arange(len(steps)) + 1) % 8
        on_borders.append(steps[place == 0].mean())
        beside.append(steps[(place == 2) | (place == 6)].mean())
    return float(np.log((np.mean(on_borders) + _QUANTUM / 4) / (np.mean(beside) + _QUANTUM / 4)))


def _border(planes: Floats) -> float:
    """Return the share of an image outside of the rows and columns between borders of one colour."""
    corner = planes[:, :1, :1]
    kept = []
    for axis in (2, 1):
        odd = np.flatnonzero((np.abs(planes - corner) > 3 * _FLAT).any(axis=(0, axis)))
        if not len(odd):
            return 1.0
        kept.append((odd[-1] + 1 - odd[0]) / planes.shape[3 - axis])
    return float(1 - kept[0] * kept[1])

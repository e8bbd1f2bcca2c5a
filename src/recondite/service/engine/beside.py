"""What stands over and beside a judged image: what is odd in it, its outline, and the good images it is most like."""

import math

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from recondite.data.pictures import HEAT_MAP, colours, heat, png_url
from recondite.data.regions import edges
from recondite.data.units import thumbnails
from recondite.screen.screen import Screen
from recondite.service.engine.judging import Judged
from recondite.service.engine.pictures import png

_SIDE = 16
_DARKEST = 0.4
"""Where the colours of an overlay begin: darker ones would look like shadows in the picture."""


def contour(judged: Judged, index: int) -> str | None:
    """Return the outline of where one image's feature scores are above the threshold for single values, as SVG.

    At most a share alpha of normal images have such a value anywhere (`Screen.feature_threshold`). None where the
    detector judges images as a whole, or where there is no such threshold for this alpha.
    """
    scores, threshold = _scores_of(judged, index), _threshold(judged.screen)
    return None if scores is None or threshold is None else outline((scores > threshold).max(axis=0))


def overlay(judged: Judged, index: int) -> bytes | None:
    """Return where one image is odder than good ones are anywhere, as a PNG to be laid over it.

    It is transparent up to the threshold of `contour`, or, where there is none, up to where the heat maps of the screen
    are brightest; from there on the brighter, the odder. None where the detector judges images as a whole.
    """
    scores = _scores_of(judged, index)
    if scores is None:
        return None
    low, high = judged.screen.map_scale
    threshold = _threshold(judged.screen)
    start = high if threshold is None else threshold
    above = np.clip((heat(scores) - start) / max(start - low, high - low), 0, 1)
    shown = colormaps[HEAT_MAP](_DARKEST + (1 - _DARKEST) * above)
    shown[..., 3] = above > 0
    return png((255 * shown).round().astype(np.uint8))


def _scores_of(judged: Judged, index: int) -> NDArray[np.float64] | None:
    """Return an image's feature scores (C, H, W); None where there are none to draw."""
    scores, detector = judged.verdicts.feature_score, judged.screen.detector
    if scores is None or judged.verdicts.errors[index] is not None:
        return None
    return np.asarray(scores[index]) if detector.locates and detector.preprocessing.is_image else None


def _threshold(screen: Screen) -> float | None:
    """Return the threshold for single values; None where there is none for this alpha."""
    threshold = math.inf if screen.peaks is None else screen.feature_threshold
    return threshold if math.isfinite(threshold) else None


def outline(inside: NDArray[np.bool_]) -> str:
    """Return the edges of a mask (H, W) as an SVG of its size, to be stretched over a picture."""
    height, width = inside.shape
    path = "".join(f"M{x} {y}L{to_x} {to_y}" for (x, y), (to_x, to_y) in edges(np.pad(inside, 1)) - 1)
    lines = "".join(
        f'<path d="{path}" stroke="{colour}" stroke-width="{stroke}" vector-effect="non-scaling-stroke"/>'
        for colour, stroke in (("#000", 4), ("#fff", 2))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'preserveAspectRatio="none" fill="none" stroke-linecap="square">{lines}</svg>'
    )


def nearest_good(screen: Screen, image: NDArray[np.float32], count: int = 4) -> list[str]:
    """Return thumbnails of the good images that an image is most like, nearest first, as data URLs.

    A screen keeps grey thumbnails of at most 16 x 16 pixels of up to 5,000 of the images that it was made from, and
    nothing larger; by these they are compared.

    Args:
        screen: that was made from good images.
        image: as the screen sees it, (C, H, W).
        count: how many.
    """
    known = screen.known
    if known is None or not screen.detector.preprocessing.is_image or not len(known.small):
        return []
    own = thumbnails(image[None])[0]
    if own.shape != known.small.shape[1:]:
        return []
    order = np.argsort(((known.small - own) ** 2).sum(axis=1), kind="stable")[:count]
    size = [min(_SIDE, side) for side in image.shape[1:]]
    return [png_url(png(colours(known.small[place].reshape(1, *size)))) for place in order]

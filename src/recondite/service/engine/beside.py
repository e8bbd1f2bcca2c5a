"""What stands beside a judged image: the outline of what is odd in it, and the good images that it is most like."""

import math

import numpy as np
from numpy.typing import NDArray

from recondite.data.pictures import colours, png_url
from recondite.data.units import thumbnails
from recondite.screen.screen import Screen
from recondite.service.engine.judging import Judged
from recondite.service.engine.pictures import png

_SIDE = 16


def contour(judged: Judged, index: int) -> str | None:
    """Return the outline of where one image's feature scores are above the threshold for single values, as SVG.

    At most a share alpha of normal images have such a value anywhere (`Screen.feature_threshold`). None where the
    detector judges images as a whole, or where there is no such threshold for this alpha.
    """
    screen, scores = judged.screen, judged.verdicts.feature_score
    if scores is None or judged.verdicts.errors[index] is not None:
        return None
    if screen.peaks is None or not screen.detector.locates or not screen.detector.preprocessing.is_image:
        return None
    threshold = screen.feature_threshold
    return outline((scores[index] > threshold).any(axis=0)) if math.isfinite(threshold) else None


def outline(inside: NDArray[np.bool_]) -> str:
    """Return the edges of a mask (H, W) as an SVG of its size, to be stretched over a picture."""
    height, width = inside.shape
    around = np.pad(inside, 1)
    down = np.argwhere(around[1:-1, 1:] != around[1:-1, :-1])  # an edge at the left of column x, along row y
    across = np.argwhere(around[1:, 1:-1] != around[:-1, 1:-1])
    path = "".join([f"M{x} {y}v1" for y, x in down] + [f"M{x} {y}h1" for y, x in across])
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

"""Pictures as bytes and data URLs, and heat maps."""

import base64
import io
import math

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from recondite.data.regions import Mask, border

# Okabe and Ito's colours, told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#888888"
SKY, PURPLE = "#56B4E9", "#CC79A7"


HEAT_MAP = "inferno"
_WITHOUT_TIME_AND_VERSION = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}

_SMALLEST_PICTURE = 96
_THINNEST_LINE = 0.01
"""Width of an outline as a share of the longer side: pages show pictures as small as a hundred pixels."""


def colours(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return an image (C, H, W) in [0, 1] as (H, W, 3), or (H, W) where it has not three channels."""
    pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    return pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels.mean(axis=0).astype(np.uint8)


def image_grid(images: NDArray[np.float32], columns: int, gap: int = 2) -> NDArray[np.uint8]:
    """Lay images (N, C, H, W) in [0, 1] out in rows of `columns`, with white gaps of some pixels."""
    cells = [colours(image) for image in images]
    height, width = cells[0].shape[:2]
    rows = -(-len(cells) // columns)
    size = (rows * (height + gap) - gap, columns * (width + gap) - gap, *cells[0].shape[2:])
    grid = np.full(size, 255, dtype=np.uint8)
    for place, cell in enumerate(cells):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        grid[top : top + height, left : left + width] = cell
    return grid


def enlarged(pixels: NDArray[np.uint8], smallest: int = _SMALLEST_PICTURE) -> Image.Image:
    """Return a picture whose longer side has at least so many pixels, each pixel a square."""
    picture = Image.fromarray(pixels)
    factor = max(1, -(-smallest // max(picture.size)))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def data_url(pixels: NDArray[np.uint8], smallest: int = _SMALLEST_PICTURE) -> str:
    """Return a small picture as a data URL, enlarged if its longer side has fewer pixels than `smallest`."""
    stream = io.BytesIO()
    enlarged(pixels, smallest).save(stream, format="PNG", optimize=True)
    return png_url(stream.getvalue())


def png_url(content: bytes) -> str:
    """Return the bytes of a PNG file as a data URL."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def svg(ax: Axes) -> str:
    """Return the figure of some axes as an SVG element."""
    text = drawn(figure_of(ax), "svg").decode()
    return text[text.index("<svg") :]


def figure_of(ax: Axes) -> Figure:
    """Return the whole figure that some axes stand in."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def drawn(figure: Figure, suffix: str, dpi: int = 120) -> bytes:
    """Return a figure as the bytes of a file, the same for the same figure.

    Its layout is settled once for all formats: matplotlib would settle it for each anew, and draw everything twice.

    Args:
        figure: keeps the layout that it gets.
        suffix: svg, png or another format that matplotlib writes.
        dpi: pixels an inch.
    """
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
        figure.set_layout_engine(None)
    stream = io.BytesIO()
    with rc_context({"svg.hashsalt": "recondite"}):  # without a salt, identifiers of SVG are random
        figure.savefig(stream, format=suffix, dpi=dpi, metadata=_WITHOUT_TIME_AND_VERSION.get(suffix))
    return stream.getvalue()


def heat(feature_score: ArrayLike) -> NDArray[np.float64]:
    """Return the mean over channels of one image's feature scores: (C, H, W) -> (H, W)."""
    averaged: NDArray[np.float64] = np.asarray(feature_score, dtype=np.float64).mean(axis=0)
    return averaged


def overlaid(image: ArrayLike, feature_score: ArrayLike, threshold: float) -> NDArray[np.float64]:
    """Return an image (C, H, W) in grey as (H, W, 3), orange where a feature score is above a threshold."""
    grey = np.clip(np.nan_to_num(np.asarray(image, dtype=float)), 0, 1).mean(axis=0)
    above = (np.asarray(feature_score, dtype=float) > threshold).any(axis=0)
    shown: NDArray[np.float64] = np.repeat(grey[..., None], 3, axis=2)
    shown[above] = 0.35 * shown[above] + 0.65 * np.array(to_rgb(ORANGE))
    return shown


def heat_colours(feature_score: ArrayLike, scale: tuple[float, float], inside: Mask | None = None) -> NDArray[np.uint8]:
    """Return one image's heat map as colours (H, W, 3), on a scale (low, high), with the outline of what counts."""
    from matplotlib import colormaps

    between = np.clip((heat(feature_score) - scale[0]) / (scale[1] - scale[0]), 0, 1)
    shown: NDArray[np.uint8] = (colormaps[HEAT_MAP](between)[..., :3] * 255).round().astype(np.uint8)
    if inside is not None:
        width = math.ceil(_THINNEST_LINE * max(inside.shape))
        shown[border(inside, width)] = np.round(255 * np.array(to_rgb(SKY)))
    return shown

"""Pictures and figures as bytes and text for files that must stand alone."""

import base64
import io

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image

_SMALLEST_PICTURE = 96


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


def data_url(pixels: NDArray[np.uint8]) -> str:
    """Return a small picture as a data URL, enlarged if it is tiny."""
    stream = io.BytesIO()
    enlarged(pixels).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def svg(ax: Axes) -> str:
    """Return the figure of some axes as an SVG element."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def png(ax: Axes) -> bytes:
    """Return the figure of some axes as the bytes of a PNG file."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120, metadata={"Software": None})
    return stream.getvalue()

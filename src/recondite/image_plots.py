"""Figures with images in them: plot_*(values, ax=None) -> ax, as in `recondite.plots`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from recondite.plots import new_axes

_INCHES = 0.75
_GAP = 0.08


def plot_picture_rows(
    rows: Mapping[str, ArrayLike],
    ax: Axes | None = None,
    *,
    above: Sequence[str] = (),
    scale: tuple[float, float] = (0.0, 1.0),
    title: str = "",
) -> Axes:
    """Draw rows of small images, each row with its name on the left.

    Args:
        rows: name -> images (n, C, H, W) on a scale: grey, colour, or the mean of other numbers of channels; NaN stays
            white. Rows may be shorter than others.
        above: a word over each column.
        scale: the values that are black and white.
        title: above all.
    """
    images = {name: np.asarray(value, dtype=np.float64) for name, value in rows.items()}
    columns = max((len(value) for value in images.values()), default=0)
    ax = ax or new_axes(1.2 + _INCHES * max(columns, 4), 0.5 + _INCHES * max(len(images), 1))
    for place, value in enumerate(images.values()):
        for column, image in enumerate(value):
            corners = (column + _GAP / 2, column + 1 - _GAP / 2, place + 1 - _GAP / 2, place + _GAP / 2)
            ax.imshow(_colours(image, scale), extent=corners, interpolation="nearest")
    ax.set(xlim=(0, max(columns, 1)), ylim=(max(len(images), 1), 0), aspect="equal")
    ax.set_yticks(np.arange(len(images)) + 0.5, list(images), fontsize=9)
    ax.set_xticks(np.arange(len(above)) + 0.5, list(above), fontsize=8)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title, fontsize=10)
    return ax


def plot_epochs(pictures: Any, ax: Axes | None = None) -> Axes:
    """Draw validation images and, below, what a network made of them after some epochs of training.

    Args:
        pictures: `recondite.epoch_pictures.EpochPictures`.
    """
    rows = {"image": pictures.images / 255}
    for epoch, rebuilt in zip(pictures.epochs, pictures.rebuilt, strict=True):
        rows[f"epoch {epoch}" if epoch else "untrained"] = rebuilt / 255
    return plot_picture_rows(rows, ax)


def _colours(image: NDArray[np.float64], scale: tuple[float, float]) -> NDArray[np.float64]:
    """Return an image (C, H, W) as (H, W, 3) in [0, 1]."""
    low, high = scale
    between = np.clip((image - low) / (high - low if high > low else 1), 0, 1)
    planes = between if len(image) == 3 else np.repeat(between.mean(axis=0, keepdims=True), 3, axis=0)
    return np.nan_to_num(planes.transpose(1, 2, 0), nan=1.0)

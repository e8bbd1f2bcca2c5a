"""Figures with images in them: plot_*(values, ax=None) -> ax, as in `recondite.reports.figures`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from numpy.typing import ArrayLike, NDArray

from recondite.data.pictures import HEAT_MAP, overlaid
from recondite.reports.figures import new_axes

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
        pictures: `recondite.training.snapshots.EpochPictures`.
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


def plot_feature_scores(
    images: ArrayLike,
    reconstructions: ArrayLike | None,
    feature_scores: ArrayLike,
    scale: tuple[float, float],
    ax: Axes | None = None,
    *,
    threshold: float | None = None,
    names: Sequence[str] = (),
) -> Axes:
    """Draw a row for each image: itself, rebuilt, the score of each channel and of all, and what is above a threshold.

    All maps share one scale, with a bar.

    Args:
        images: (N, C, H, W) in [0, 1].
        reconstructions: (N, C, H, W), or None.
        feature_scores: (N, C, H, W); NaN stays white.
        scale: the feature scores at which maps are dark and bright, (low, high).
        threshold: of single values.
        names: of the rows.
    """
    pixels, scores = np.asarray(images, dtype=np.float64), np.asarray(feature_scores, dtype=np.float64)
    channels = scores.shape[1] if scores.ndim == 4 else 1
    letters = "RGB" if channels == 3 else "".join(str(number % 10) for number in range(channels))
    columns = ["image"] + ["rebuilt"] * (reconstructions is not None)
    columns += (
        [f"score {letter}" for letter in letters] * (channels > 1) + ["score"] + ["above"] * (threshold is not None)
    )
    ax = ax or new_axes(2.6 + 1.05 * len(columns), 0.7 + 1.05 * max(len(pixels), 1))
    for row, (image, maps) in enumerate(zip(pixels, scores, strict=True)):
        cells = [_colours(image, (0.0, 1.0))]
        if reconstructions is not None:
            cells.append(_colours(np.asarray(reconstructions, dtype=np.float64)[row], (0.0, 1.0)))
        drawn = [*maps[:, None], maps] if channels > 1 else [maps]
        cells += [_heated(one, scale) for one in drawn]
        if threshold is not None:
            cells.append(overlaid(image, maps, threshold))
        for column, cell in enumerate(cells):
            corners = (column + _GAP / 2, column + 1 - _GAP / 2, row + 1 - _GAP / 2, row + _GAP / 2)
            ax.imshow(cell, extent=corners, interpolation="nearest")
    ax.set(xlim=(0, len(columns)), ylim=(max(len(pixels), 1), 0), aspect="equal")
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns, fontsize=9)
    ax.set_yticks(np.arange(len(names)) + 0.5, list(names), fontsize=9)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    if ax.figure is not None:
        bar = ScalarMappable(Normalize(*scale), HEAT_MAP)
        ax.figure.colorbar(bar, ax=ax, fraction=0.03, pad=0.02, extend="max", label="feature score")
    return ax


def _heated(feature_score: NDArray[np.float64], scale: tuple[float, float]) -> NDArray[np.float64]:
    """Return the mean over channels of feature scores (C, H, W) as colours (H, W, 3); NaN is white."""
    averaged = feature_score.mean(axis=0)
    between = (averaged - scale[0]) / (scale[1] - scale[0] if scale[1] > scale[0] else 1)
    shown: NDArray[np.float64] = colormaps[HEAT_MAP](np.clip(np.nan_to_num(between), 0, 1))[..., :3]
    shown[np.isnan(averaged)] = 1.0
    return shown

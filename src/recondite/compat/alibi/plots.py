"""The two figures of alibi-detect's image examples, with its arguments. They are pyplot's: a notebook shows them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from recondite.compat.alibi.images import channels_first
from recondite.data.pictures import HEAT_MAP, colours
from recondite.errors import InputError
from recondite.studies.figures import plot_instance_scores


def plot_instance_score(
    preds: Mapping[str, Any],
    target: ArrayLike,
    labels: Sequence[str],
    threshold: float | None,
    ylim: tuple[float | None, float | None] = (None, None),
) -> Axes:
    """Draw the score of each image, coloured by what it is, with the threshold.

    Args:
        preds: from `predict`.
        target: class of each image (N,), an index into `labels`.
        labels: names of the classes.
        threshold: drawn as a line; None for none.
        ylim: ends of the axis of scores.

    Raises:
        InputError: `preds` has no instance scores, or not as many as `target`.
    """
    scores = preds["data"].get("instance_score")
    if scores is None:
        raise InputError("there are no instance scores: call predict with return_instance_score=True")
    scores, classes = np.asarray(scores, dtype=float), np.asarray(target).astype(int).ravel()
    if len(scores) != len(classes):
        raise InputError(f"expected one target for each of {len(scores)} scores; got {len(classes)}")
    if len(classes) and not 0 <= classes.min() <= classes.max() < len(labels):
        raise InputError(f"expected targets from 0 to {len(labels) - 1}; got {classes.min()} to {classes.max()}")
    names = [f"{label}: {np.sum(classes == number)}" for number, label in enumerate(labels)]
    axes = plot_instance_scores(scores, classes, threshold, _pyplot_axes(8, 4), names=names)
    axes.set(ylim=ylim)
    return axes


def plot_feature_outlier_image(
    od_preds: Mapping[str, Any],
    X: NDArray[Any],
    X_recon: ArrayLike | None = None,
    instance_ids: Sequence[int] | None = None,
    max_instances: int = 5,
    outliers_only: bool = False,
    n_channels: int = 3,
    figsize: tuple[float, float] = (20, 20),
) -> NDArray[Any]:
    """Draw images, their reconstructions and the score of each value, channel by channel, on one scale with a bar.

    Args:
        od_preds: from `predict`.
        X: the images it was called with.
        X_recon: their reconstructions, drawn if they are given.
        instance_ids: which images; all by default.
        max_instances: how many at most.
        outliers_only: leave out images that are no outliers, or have no outlying value.
        n_channels: channels drawn, at most those there are.
        figsize: width and height in inches.

    Returns:
        The axes (rows, columns); (1, 1) with a note where there is nothing to draw.

    Raises:
        InputError: `od_preds` has no feature scores, or they are not those of X.
    """
    scores = od_preds["data"].get("feature_score")
    if scores is None:
        raise InputError("there are no feature scores: call predict with return_feature_score=True")
    images, _ = channels_first(X)
    features, _ = channels_first(scores)
    if features.shape != images.shape or images.ndim != 4:
        raise InputError(f"expected images and their feature scores; got {images.shape} and {features.shape}")
    rebuilt = None if X_recon is None else channels_first(_as_numpy(X_recon))[0]
    if rebuilt is not None and rebuilt.shape != images.shape:
        raise InputError(f"expected reconstructions of {images.shape}; got {rebuilt.shape}")
    rows = _chosen(od_preds, len(images), instance_ids, outliers_only)[:max_instances]
    if not rows:
        axes = _pyplot_axes(6, 1)
        axes.text(0.5, 0.5, "no outliers among these images", ha="center", va="center", transform=axes.transAxes)
        axes.axis("off")
        return np.array([[axes]], dtype=object)
    shown = min(n_channels, images.shape[1])
    columns = 1 + (rebuilt is not None) + shown
    figure, grid = pyplot.subplots(len(rows), columns, figsize=figsize, squeeze=False, layout="constrained")
    finite = features[rows][:, :shown]
    finite = finite[np.isfinite(finite)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    low = min(low, 0.0)
    size = max(8.0, 0.8 * min(figsize))
    for line, index in zip(grid, rows, strict=True):
        pictures = [("original", images[index])] + ([] if rebuilt is None else [("reconstruction", rebuilt[index])])
        for axes, (title, picture) in zip(line, pictures, strict=False):
            axes.imshow(_picture(picture), cmap="gray", vmin=0, vmax=255)
            axes.set_title(f"{index}: {title}" if title == "original" else title, fontsize=size)
        for channel, axes in enumerate(line[len(pictures) :]):
            drawn = axes.imshow(features[index, channel], cmap=HEAT_MAP, vmin=low, vmax=max(high, low + 1e-12))
            axes.set_title(f"score, channel {channel}", fontsize=size)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    bar = figure.colorbar(drawn, ax=list(grid[:, -1]))
    bar.set_label("score of each value", fontsize=size)
    bar.ax.tick_params(labelsize=size)
    return grid


def _chosen(preds: Mapping[str, Any], count: int, wanted: Sequence[int] | None, outliers_only: bool) -> list[int]:
    rows = list(range(count)) if wanted is None else [int(index) for index in wanted]
    if any(not 0 <= index < count for index in rows):
        raise InputError(f"expected instance_ids from 0 to {count - 1}; got {rows}")
    flags = np.asarray(preds["data"]["is_outlier"]).reshape(count, -1).max(axis=1)
    return [index for index in rows if flags[index] or not outliers_only]


def _picture(planes: NDArray[Any]) -> NDArray[np.uint8]:
    return colours(np.clip(np.nan_to_num(planes), 0, 1).astype(np.float32))


def _as_numpy(values: Any) -> NDArray[Any]:
    array: NDArray[Any] = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    return array


def _pyplot_axes(width: float, height: float) -> Axes:
    _, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return axes

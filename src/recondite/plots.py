"""Figures: plot_*(values, ax=None) -> ax. They draw and never compute; none needs a display or keeps global state."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

# Okabe and Ito's colours, told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#888888"
HEAT_MAP = "inferno"


def new_axes(width: float = 6.0, height: float = 3.2) -> Axes:
    """Return the axes of a new figure, in inches, without touching pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    assert isinstance(axes, Axes)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def plot_scores(
    scores: Mapping[str, ArrayLike], threshold: float | None = None, ax: Axes | None = None, bins: int = 50
) -> Axes:
    """Draw one histogram of instance scores a name, on one logarithmic axis where all are positive.

    Args:
        scores: name -> scores; NaN values are left out.
        threshold: drawn as a line.
    """
    ax = ax or new_axes()
    finite = {name: _finite(values) for name, values in scores.items()}
    joined = np.concatenate([*finite.values(), [] if threshold is None or np.isnan(threshold) else [threshold]])
    if joined.size:
        low, high = float(joined.min()), float(joined.max())
        logarithmic = low > 0 and high > low
        if logarithmic:
            ax.set_xscale("log")
            edges = np.geomspace(low, high * 1.0001, bins + 1)
        else:
            edges = np.linspace(low, high if high > low else low + 1, bins + 1)
        for (name, values), colour in zip(finite.items(), (GREY, BLUE, ORANGE, GREEN, RED), strict=False):
            if values.size:
                weights = np.full(values.size, 1 / values.size)
                ax.hist(
                    values, list(edges), weights=weights, alpha=0.6, color=colour, label=f"{name} ({values.size:,})"
                )
    if threshold is not None and not np.isnan(threshold):
        ax.axvline(threshold, color="black", linestyle="--", linewidth=1.2, label=f"threshold {threshold:.4g}")
    ax.set(xlabel="instance score (higher is more anomalous)", ylabel="share of images")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)
    return ax


def plot_p_values(p_values: ArrayLike, alpha: float, ax: Axes | None = None) -> Axes:
    """Draw the histogram of p-values beside the flat line that normal images would give."""
    ax = ax or new_axes()
    values = _finite(p_values)
    if values.size:
        ax.hist(
            values, list(np.linspace(0, 1, 21)), weights=np.full(values.size, 1 / values.size), color=BLUE, alpha=0.7
        )
    ax.axhline(0.05, color=GREY, linestyle=":", label="only normal images: flat")
    ax.axvline(alpha, color="black", linestyle="--", linewidth=1.2, label=f"alpha {alpha:g}")
    ax.set(xlabel="p-value", ylabel="share of images", xlim=(0, 1))
    ax.legend(frameon=False)
    return ax


def plot_calibration(
    thresholds: ArrayLike, rates: ArrayLike, lows: ArrayLike, highs: ArrayLike, alpha: float, ax: Axes | None = None
) -> Axes:
    """Draw the false-alarm rate against the threshold, with the interval that the true rate lies in."""
    ax = ax or new_axes()
    x = np.asarray(thresholds, dtype=float)
    ax.fill_between(x, np.asarray(lows, dtype=float), np.asarray(highs, dtype=float), color=BLUE, alpha=0.2, lw=0)
    ax.plot(x, np.asarray(rates, dtype=float), color=BLUE, label="false-alarm rate, 95 % interval")
    ax.axhline(alpha, color="black", linestyle="--", linewidth=1.2, label=f"alpha {alpha:g}")
    ax.set(xlabel="threshold", ylabel="share of normal images flagged", ylim=(0, None))
    ax.legend(frameon=False)
    return ax


def plot_history(epochs: Sequence[Mapping[str, Any]], best_epoch: int, ax: Axes | None = None) -> Axes:
    """Draw every training loss and the validation error against the epoch."""
    ax = ax or new_axes()
    names = [name for name in (epochs[0] if epochs else {}) if name.startswith("loss_") or name == "validation"]
    for name, colour in zip(names, (BLUE, ORANGE, GREEN, RED, GREY), strict=False):
        points = [(row["epoch"], row[name]) for row in epochs if row[name] is not None]
        if points:
            label = "validation error" if name == "validation" else f"training loss ({name.removeprefix('loss_')})"
            ax.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3, label=label)
    if epochs and all(row[name] is None or row[name] > 0 for row in epochs for name in names):
        ax.set_yscale("log")
    if best_epoch:
        ax.axvline(best_epoch, color=GREY, linestyle=":", label=f"kept: epoch {best_epoch}")
    ax.set(xlabel="epoch", ylabel="loss")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)
    return ax


def plot_image(image: ArrayLike, ax: Axes | None = None, title: str = "") -> Axes:
    """Draw one image (C, H, W) in [0, 1]: grey, colour, or the mean of other numbers of channels."""
    ax = ax or new_axes(3, 3)
    pixels = np.clip(np.nan_to_num(np.asarray(image, dtype=float)), 0, 1)
    shown = pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels.mean(axis=0)
    ax.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    return _bare(ax, title)


def plot_heat_map(
    feature_score: ArrayLike, scale: tuple[float, float], ax: Axes | None = None, title: str = ""
) -> Axes:
    """Draw the mean over channels of one image's feature scores (C, H, W) on a scale (low, high), with a bar."""
    ax = ax or new_axes(3, 3)
    drawn = ax.imshow(heat(feature_score), cmap=HEAT_MAP, vmin=scale[0], vmax=scale[1], interpolation="nearest")
    if ax.figure is not None:
        ax.figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.03, extend="max")
    return _bare(ax, title)


def plot_comparison(
    image: ArrayLike,
    reconstruction: ArrayLike | None,
    feature_score: ArrayLike | None,
    scale: tuple[float, float],
    verdict: str,
) -> Figure:
    """Return a figure of input, reconstruction and heat map, those there are, headed by the verdict in words."""
    parts = 1 + (reconstruction is not None) + (feature_score is not None)
    figure = Figure(figsize=(max(6, 3 * parts), 3.7), layout="constrained")
    axes = list(figure.subplots(1, parts, squeeze=False)[0])
    plot_image(image, axes.pop(0), "input")
    if reconstruction is not None:
        plot_image(reconstruction, axes.pop(0), "reconstruction")
    if feature_score is not None:
        title = "feature score" if reconstruction is None else "difference (feature score)"
        plot_heat_map(feature_score, scale, axes.pop(0), title)
    figure.suptitle(verdict, fontsize=11, wrap=True, parse_math=False)
    return figure


def heat(feature_score: ArrayLike) -> NDArray[np.float64]:
    """Return the mean over channels of one image's feature scores: (C, H, W) -> (H, W)."""
    averaged: NDArray[np.float64] = np.asarray(feature_score, dtype=np.float64).mean(axis=0)
    return averaged


def heat_colours(feature_score: ArrayLike, scale: tuple[float, float]) -> NDArray[np.uint8]:
    """Return one image's heat map as colours (H, W, 3), on a scale (low, high)."""
    from matplotlib import colormaps

    return (
        (colormaps[HEAT_MAP](np.clip((heat(feature_score) - scale[0]) / (scale[1] - scale[0]), 0, 1))[..., :3] * 255)
        .round()
        .astype(np.uint8)
    )


def _bare(ax: Axes, title: str) -> Axes:
    ax.set_axis_off()
    if title:
        ax.set_title(title, fontsize=10)
    return ax


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    flat = np.asarray(values, dtype=np.float64).ravel()
    return flat[np.isfinite(flat)]

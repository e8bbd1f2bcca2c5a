"""Figures: plot_*(values, ax=None) -> ax. They draw and never compute; none needs a display or keeps global state."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from recondite.data.pictures import BLUE, GREEN, GREY, HEAT_MAP, ORANGE, PURPLE, RED, SKY, heat, overlaid
from recondite.data.regions import Mask, edges

_LINES_BESIDE_A_LEGEND = 3
_MANY = (BLUE, ORANGE, GREEN, RED, SKY, PURPLE, GREY, "black")


def new_axes(width: float = 6.0, height: float = 3.2) -> Axes:
    """Return the axes of a new figure, in inches, without touching pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    assert isinstance(axes, Axes)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


_FAR = 20
"""Scores that spread over so many widths of their lower middle are drawn on an axis that is logarithmic far out."""


def plot_scores(
    scores: Mapping[str, ArrayLike], threshold: float | None = None, ax: Axes | None = None, bins: int = 50
) -> Axes:
    """Draw one histogram of instance scores a name, on one axis, logarithmic where scores spread far.

    Args:
        scores: name -> scores; NaN values are left out.
        threshold: drawn as a line.
    """
    ax = ax or new_axes()
    finite = {name: _finite(values) for name, values in scores.items()}
    joined = np.concatenate([*finite.values(), [] if threshold is None or np.isnan(threshold) else [threshold]])
    if joined.size:
        low, high = float(joined.min()), float(joined.max())
        lower, upper = np.quantile(joined, [0.25, 0.5])
        width = float(upper - lower)
        if low > 0 and high > low:
            ax.set_xscale("log")
            edges = np.geomspace(low, high * 1.0001, bins + 1)
        elif width > 0 and high - low > _FAR * width:
            ax.set_xscale("asinh", linear_width=width)
            edges = width * np.sinh(np.linspace(np.arcsinh(low / width), np.arcsinh(high * 1.0001 / width), bins + 1))
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
        ax.set_ylim(0, 1.4 * ax.get_ylim()[1])  # room for the legend above the bars
        ax.legend(frameon=False, loc="upper right")
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
    ax.set_ylim(0, 1.4 * ax.get_ylim()[1])  # room for the legend above the bars
    ax.legend(frameon=False, loc="upper right")
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
    ax.legend(frameon=False, loc="upper right")
    return ax


def plot_history(epochs: Sequence[Mapping[str, Any]], best_epoch: int, ax: Axes | None = None) -> Axes:
    """Draw every training loss and the validation error against the epoch."""
    ax = ax or new_axes()
    names = [name for name in (epochs[0] if epochs else {}) if name.startswith("loss_") or name == "validation"]
    for name, colour in zip(names, cycle(_MANY), strict=False):
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
        if len(names) > _LINES_BESIDE_A_LEGEND:  # room for the legend above the lines
            low, high = ax.get_ylim()
            ax.set_ylim(low, high * (high / low) ** 0.5 if ax.get_yscale() == "log" else high + (high - low) / 2)
        ax.legend(frameon=False, fontsize=8, ncols=2 if len(names) > _LINES_BESIDE_A_LEGEND else 1, loc="upper right")
    return ax


def plot_roc(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], ax: Axes | None = None, title: str = "") -> Axes:
    """Draw ROC curves.

    Args:
        curves: name -> (share of normal images flagged, share of anomalous images flagged).
        title: above the axes.
    """
    ax = ax or new_axes(5.0, 4.4)
    for (name, (false_alarms, caught)), colour in zip(curves.items(), cycle(_MANY), strict=False):
        ax.plot(np.asarray(false_alarms), np.asarray(caught), color=colour, linewidth=1.3, label=name)
    ax.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    ax.set(xlabel="normal images flagged", ylabel="anomalous images flagged", xlim=(0, 1), ylim=(0, 1))
    if title:
        ax.set_title(title, fontsize=10)
    if curves:
        ax.legend(frameon=False, fontsize=8, loc="lower right")
    return ax


def plot_against_size(
    sizes: Sequence[int],
    lines: Mapping[str, Sequence[float]],
    ylabel: str,
    ax: Axes | None = None,
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Axes:
    """Draw values against the latent size.

    Args:
        sizes: in the order of the values.
        lines: name -> a value for each size.
        ylabel: what the values are.
        intervals: name -> (low, high) for each size, drawn as bars.
    """
    ax = ax or new_axes()
    for (name, values), colour in zip(lines.items(), cycle(_MANY), strict=False):
        ax.plot(list(sizes), list(values), color=colour, marker="o", markersize=4, label=name)
        for size, (low, high) in zip(sizes, (intervals or {}).get(name, ()), strict=False):
            ax.plot([size, size], [low, high], color=colour, linewidth=1, alpha=0.6)
    ax.set(xlabel="latent size", ylabel=ylabel, xticks=list(sizes))
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    return ax


def plot_image(image: ArrayLike, ax: Axes | None = None, title: str = "") -> Axes:
    """Draw one image (C, H, W) in [0, 1]: grey, colour, or the mean of other numbers of channels."""
    ax = ax or new_axes(3, 3)
    pixels = np.clip(np.nan_to_num(np.asarray(image, dtype=float)), 0, 1)
    shown = pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels.mean(axis=0)
    ax.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    return _bare(ax, title)


def plot_heat_map(
    feature_score: ArrayLike,
    scale: tuple[float, float],
    ax: Axes | None = None,
    title: str = "",
    inside: Mask | None = None,
) -> Axes:
    """Draw the mean over channels of one image's feature scores (C, H, W) on a scale (low, high), with a bar.

    Args:
        feature_score: (C, H, W).
        scale: the scores that are dark and bright.
        inside: bool (H, W), for the outline of what counts.
    """
    ax = ax or new_axes(3, 3)
    drawn = ax.imshow(heat(feature_score), cmap=HEAT_MAP, vmin=scale[0], vmax=scale[1], interpolation="nearest")
    if inside is not None:
        ax.add_collection(LineCollection(list(edges(inside) - 0.5), colors=SKY, capstyle="projecting"), autolim=False)
    if ax.figure is not None:
        ax.figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.03, extend="max")
    return _bare(ax, title)


def plot_overlay(
    image: ArrayLike, feature_score: ArrayLike, threshold: float, ax: Axes | None = None, title: str = ""
) -> Axes:
    """Draw one image in grey, and in orange the pixels with a feature score above a threshold in any channel.

    Args:
        image, feature_score: (C, H, W).
        threshold: of single values; `Screen.feature_threshold`.
    """
    ax = ax or new_axes(3, 3)
    ax.imshow(overlaid(image, feature_score, threshold), interpolation="nearest")
    return _bare(ax, title)


def plot_comparison(
    image: ArrayLike,
    reconstruction: ArrayLike | None,
    feature_score: ArrayLike | None,
    scale: tuple[float, float],
    verdict: str,
    statistics: Sequence[tuple[str, float]] = (),
    threshold: float | None = None,
    inside: Mask | None = None,
) -> Figure:
    """Return a figure of input, reconstruction and heat map, those there are, headed by the verdict in words.

    Args:
        image: (C, H, W).
        reconstruction, feature_score: (C, H, W), or None.
        scale: of the heat map, (low, high).
        verdict: the heading.
        statistics: for a chart below, see `plot_statistics`.
        threshold: of single values, for a picture of what lies above it.
        inside: bool (H, W), for the outline of what counts in the heat map.
    """
    overlaid = feature_score is not None and threshold is not None
    parts = 1 + (reconstruction is not None) + (feature_score is not None) + overlaid
    height = 3.9 + (0.7 + 0.24 * len(statistics) if statistics else 0)
    figure = Figure(figsize=(max(6, 3 * parts), height), layout="constrained")
    above: Figure | SubFigure = figure
    if statistics:
        heights = (3.9, 0.7 + 0.24 * len(statistics))
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
        plot_statistics(statistics, below.subplots())
    axes = list(above.subplots(1, parts, squeeze=False)[0])
    plot_image(image, axes.pop(0), "input")
    if reconstruction is not None:
        plot_image(reconstruction, axes.pop(0), "reconstruction")
    if feature_score is not None:
        title = "feature score" if reconstruction is None else "difference (feature score)"
        plot_heat_map(feature_score, scale, axes.pop(0), title, inside)
        if threshold is not None:
            plot_overlay(image, feature_score, threshold, axes.pop(0), f"above {threshold:.3g}")
    figure.suptitle(verdict, fontsize=11, wrap=True, parse_math=False)
    return figure


def plot_statistics(statistics: Sequence[tuple[str, float]], ax: Axes | None = None) -> Axes:
    """Draw how unusual each statistic of an image is, as bars beside the range of normal images.

    Args:
        statistics: (what it is, standard deviations from the middle of normal images); bars end at 6.
    """
    ax = ax or new_axes(6, 0.7 + 0.24 * len(statistics))
    names, values = [name for name, _ in statistics], np.array([value for _, value in statistics], dtype=float)
    ax.axvspan(-2.58, 2.58, color=GREY, alpha=0.2, lw=0, label="99 of 100 normal images")
    ends = np.clip(np.nan_to_num(values), -6, 6)
    ax.barh(names, ends, color=[RED if abs(value) > 2.58 else BLUE for value in ends], height=0.6)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(xlim=(-6.2, 6.2), xlabel="standard deviations from the middle of normal images (cut at 6)")
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    return ax


def plot_aurocs(
    values: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    lines_above: Sequence[int] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw a table of AUROCs: red below one half, white at one half, blue above; NaN leaves a cell empty.

    Args:
        values: (len(rows), len(columns)) in [0, 1].
        rows, columns: what each row and column is called.
        lines_above: rows that a line sets apart from the one above.
    """
    aurocs = np.asarray(values, dtype=np.float64).reshape(len(rows), len(columns))
    longest_row, longest_column = (max(map(len, names), default=0) for names in (rows, columns))
    ax = ax or new_axes(1 + 0.075 * longest_row + 0.42 * len(columns), 1 + 0.055 * longest_column + 0.24 * len(rows))
    ax.imshow(aurocs, cmap="RdBu", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(aurocs):
        if np.isfinite(value):
            colour = "white" if abs(value - 0.5) > 0.3 else "black"
            text = f"{value:.2f}".removeprefix("0")
            ax.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    ax.set_xticks(range(len(columns)), columns, rotation=45, ha="left", rotation_mode="anchor", fontsize=9)
    ax.set_yticks(range(len(rows)), rows, fontsize=9)
    ax.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    ax.set_facecolor("#e6e6e6")
    ax.spines[:].set_visible(False)
    ax.set_xticks(np.arange(1, len(columns)) - 0.5, minor=True)
    ax.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1)
    ax.tick_params(which="minor", length=0)
    for row in lines_above:
        ax.axhline(row - 0.5, color="black", linewidth=1.5)
    return ax


def plot_risk_coverage(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    risk: float | None = None,
    ax: Axes | None = None,
    *,
    title: str = "",
    accepted: str = "images accepted",
    wrong: str = "outliers among the accepted",
    bands: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]] | None = None,
) -> Axes:
    """Draw the share of errors among accepted images against the share accepted.

    Args:
        curves: name -> (coverage, risk).
        risk: a line to compare with.
        title: above the axes.
        accepted, wrong: what coverage and risk are.
        bands: name -> (coverage, low, high), drawn behind its curve.
    """
    ax = ax or new_axes(5.0, 3.8)
    looks = cycle((colour, line) for line in ("-", "-.") for colour in (GREY, ORANGE, GREEN, BLUE, RED, PURPLE))
    for (name, (coverage, errors)), (colour, line) in zip(curves.items(), looks, strict=False):
        ax.plot(np.asarray(coverage), np.asarray(errors), color=colour, linestyle=line, linewidth=1.3, label=name)
        if bands is not None and name in bands:
            along, low, high = map(np.asarray, bands[name])
            ax.fill_between(along, low, high, color=colour, alpha=0.15, linewidth=0)
    if risk is not None:
        ax.axhline(risk, color="black", linestyle="--", linewidth=1, label=f"risk {risk:g}")
    ax.set(xlabel=f"coverage: {accepted}", ylabel=f"risk: {wrong}", xlim=(0, 1))
    ax.set_ylim(0, 1.5 * max(ax.get_ylim()[1], risk or 0))  # room for the legend above the lines
    if title:
        ax.set_title(title, fontsize=10)
    ax.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
    return ax


def plot_martingale(
    path: Sequence[tuple[int, float]],
    threshold: float,
    alarm: tuple[int, int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a martingale against the number of images, on a logarithmic axis, with the line of alarm.

    Args:
        path: (images seen, martingale).
        threshold: the line.
        alarm: where the change is thought to have begun, and where the alarm was.
    """
    ax = ax or new_axes()
    seen, values = np.array(path, dtype=np.float64).reshape(-1, 2).T
    ax.plot(seen, values, color=BLUE, linewidth=1.2, label="martingale")
    ax.axhline(threshold, color="black", linestyle="--", linewidth=1.2, label=f"alarm at {threshold:,.6g}")
    if alarm is not None:
        ax.axvspan(*alarm, color=RED, alpha=0.2, lw=0, label="from change to alarm")
        ax.axvline(alarm[1], color=RED, linewidth=1.2)
    ax.set_yscale("log")
    ax.set(xlabel="images", ylabel="evidence of a change")
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    return ax


def plot_shifts(shifts: Sequence[tuple[str, float, bool]], ax: Axes | None = None) -> Axes:
    """Draw by how many standard deviations the median of each statistic moved; bars end at 3.

    Args:
        shifts: (what it is, shift, whether it counts as moved).
    """
    ax = ax or new_axes(6, 0.7 + 0.24 * len(shifts))
    names = [name for name, _, _ in shifts]
    ends = np.clip(np.array([shift for _, shift, _ in shifts], dtype=float), -3, 3)
    ax.barh(names, ends, color=[RED if moved else GREY for _, _, moved in shifts], height=0.6)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(xlim=(-3.1, 3.1), xlabel="shift of the median in standard deviations (cut at 3); red: moved")
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _bare(ax: Axes, title: str) -> Axes:
    ax.set_axis_off()
    if title:
        ax.set_title(title, fontsize=10)
    return ax


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    flat = np.asarray(values, dtype=np.float64).ravel()
    return flat[np.isfinite(flat)]

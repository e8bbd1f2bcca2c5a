"""Figures of studies: plot_*(values, ax=None) -> ax, as in `recondite.reports.figures`."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from recondite.data.pictures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, data_url, image_grid
from recondite.reports.figures import new_axes, plot_against_size, plot_history, plot_roc
from recondite.reports.page import _SAMPLES_IN_A_ROW
from recondite.statistics.metrics import auroc, roc_points
from recondite.studies.training.runs import Result

_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, "black", GREY)
_DASHES = ("-", "--", "-.", ":")
_MARKS = "os^Dv<>Pp*Xhd"
_KIND_MARKS = "o^sDvP*"
_LISTED_CLASSES = 20
_CLASS_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, "black", "#882255", "#999933", GREY)
_CLASS_MARKS = "os^Dv<>ph"


def plot_against_mask_size(
    sizes: ArrayLike, scores: ArrayLike, ax: Axes | None = None, *, ylabel: str = "mean score", title: str = ""
) -> Axes:
    """Draw a thin line for each image, and the median with a band that holds the middle 80 % of images.

    Args:
        sizes: (M,) sides of the masks in pixels.
        scores: (N, M) of N images; NaN are left out.
        ylabel: what the scores are.
        title: above the axes.
    """
    ax = ax or new_axes()
    x = np.asarray(sizes, dtype=float)
    values = np.asarray(scores, dtype=float).reshape(-1, len(x))
    good = values[np.isfinite(values).all(axis=1)]
    for line in good:
        ax.plot(x, line, color=GREY, linewidth=0.5, alpha=0.5, zorder=2)
    if len(good):
        low, high = np.quantile(good, [0.1, 0.9], axis=0)
        ax.fill_between(x, low, high, color=SKY, alpha=0.5, lw=0, label="middle 80 % of images", zorder=3)
        median = f"median of {len(good):,} images"
        ax.plot(x, np.median(good, axis=0), color=BLUE, marker="o", markersize=4, label=median, zorder=4)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _named(ax, "side of the mask (pixels)", ylabel, title)


def plot_lines(
    x: ArrayLike,
    lines: Mapping[str, ArrayLike],
    ax: Axes | None = None,
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
) -> Axes:
    """Draw a line for each name, told apart by colour, mark and dash; NaN leave gaps.

    Args:
        x: (M,).
        lines: name -> (M,).
        xlabel, ylabel, title: words.
    """
    ax = ax or new_axes()
    for place, (name, values) in enumerate(lines.items()):
        ax.plot(
            np.asarray(x, dtype=float),
            np.asarray(values, dtype=float),
            color=_COLOURS[place % len(_COLOURS)],
            linestyle=_DASHES[place // len(_COLOURS) % len(_DASHES)],
            marker=_MARKS[place % len(_MARKS)],
            markersize=4,
            label=name,
        )
    if all(float(value).is_integer() for value in np.asarray(x, dtype=float)):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _named(ax, xlabel, ylabel, title)


def plot_distribution(
    losses: ArrayLike,
    lines: Mapping[str, float],
    ax: Axes | None = None,
    *,
    bins: int = 60,
    title: str = "",
    counted: str = "images",
) -> Axes:
    """Draw a histogram of scores or losses with named lines, such as mean, median and thresholds.

    Args:
        losses: (N,); NaN are left out.
        lines: name -> where; NaN are left out.
        bins: of the histogram.
        title: above the axes.
        counted: what has a loss each.
    """
    ax = ax or new_axes(7.5, 4.0)
    values = np.asarray(losses, dtype=float).ravel()
    values = values[np.isfinite(values)]
    if values.size:
        ax.hist(values, bins, color=GREY, alpha=0.5, label=f"{values.size:,} {counted}")
    for place, (name, where) in enumerate(lines.items()):
        if np.isfinite(where):
            colour, dash = _COLOURS[place % 7], _DASHES[place % len(_DASHES)]
            ax.axvline(where, color=colour, linestyle=dash, linewidth=1.6, label=f"{name}: {where:.4g}")
    return _named(ax, "score" if counted == "images" else "loss", counted, title, loc="upper right")


def plot_instance_scores(
    scores: ArrayLike,
    truth: ArrayLike | None = None,
    threshold: float | None = None,
    ax: Axes | None = None,
    *,
    names: Sequence[str] = ("inlier", "outlier"),
    title: str = "",
) -> Axes:
    """Draw the score of each image in its order, coloured by what it is in truth, with the threshold as a line.

    Args:
        scores: (N,); a NaN is drawn as a cross at the upper end.
        truth: (N,), True for an outlier, or indices into `names`; None where it is not known.
        threshold: what is above is flagged.
        names: of False and True in `truth`, or of any number of classes.
        title: above the axes.
    """
    ax = ax or new_axes(7.0, 3.6)
    values = np.asarray(scores, dtype=float).ravel()
    kinds = np.zeros(len(values), dtype=int) if truth is None else np.asarray(truth, dtype=int).ravel()
    place, finite = np.arange(len(values)), np.isfinite(values)
    size = float(np.clip(3_000 / max(len(values), 1), 12, 45))
    ax.set_xlim(-0.02 * len(values) - 0.5, 1.02 * max(len(values), 1) - 0.5)
    for kind, (name, mark) in enumerate(
        zip(names if truth is not None else ["image"], cycle(_KIND_MARKS), strict=False)
    ):
        chosen = (kinds == kind) & finite
        if chosen.any():
            colour = _CLASS_COLOURS[kind % len(_CLASS_COLOURS)]
            ax.scatter(place[chosen], values[chosen], s=size, c=colour, marker=mark, alpha=0.7, lw=0, label=name)
    if not finite.all():
        ax.scatter(
            place[~finite], np.full(np.sum(~finite), 0.97), s=24, c="black", marker="x", label="unreadable",
            transform=ax.get_xaxis_transform(),
        )  # fmt: skip
    if threshold is not None and np.isfinite(threshold):
        ax.axhline(threshold, color="black", linestyle="--", linewidth=1.2, label=f"threshold {threshold:.4g}")
    return _named(ax, "image", "instance score", title, loc="center left", bbox_to_anchor=(1, 0.5))


def plot_precision_recall(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], ax: Axes | None = None) -> Axes:
    """Draw precision against recall: name -> (recall, precision), both (M,)."""
    ax = ax or new_axes(5.0, 4.4)
    for (name, (recall, precision)), colour in zip(curves.items(), cycle(_COLOURS), strict=False):
        ax.plot(np.asarray(recall, dtype=float), np.asarray(precision, dtype=float), color=colour, lw=1.3, label=name)
    ax.set(xlim=(0, 1), ylim=(0, 1.02))
    return _named(ax, "outliers flagged (recall)", "outliers among the flagged (precision)", "", loc="lower left")


def plot_reliability(
    alphas: ArrayLike, rates: ArrayLike, lows: ArrayLike, highs: ArrayLike, ax: Axes | None = None
) -> Axes:
    """Draw the false-alarm rate seen on fresh normal images against the one asked for.

    Args:
        alphas: asked for (M,).
        rates: seen (M,).
        lows, highs: (M,) the band in which the rates of 95 of 100 calibration sets lie.
    """
    ax = ax or new_axes(5.0, 4.4)
    x = np.asarray(alphas, dtype=float)
    ax.fill_between(
        x, np.asarray(lows, dtype=float), np.asarray(highs, dtype=float), color=BLUE, alpha=0.2, lw=0,
        label="95 of 100 calibration sets",
    )  # fmt: skip
    end = float(np.max(x, initial=0, where=np.isfinite(x))) or 1.0
    ax.plot([0, end], [0, end], color=GREY, linestyle=":", label="as asked for")
    ax.plot(x, np.asarray(rates, dtype=float), color=ORANGE, marker="o", markersize=3, label="seen")
    return _named(ax, "false-alarm rate asked for (alpha)", "share of fresh normal images flagged", "")


def plot_map(
    points: ArrayLike,
    labels: Sequence[str],
    ax: Axes | None = None,
    *,
    new_points: ArrayLike | None = None,
    thumbnails: Mapping[int, ArrayLike] | None = None,
    title: str = "",
) -> Axes:
    """Draw points in a plane, coloured and marked by label, with small pictures at some and crosses for new ones.

    Args:
        points: (N, 2); rows with NaN are left out.
        labels: N names; the twenty most frequent are listed.
        new_points: (M, 2), placed into the map afterwards.
        thumbnails: index of a point (N and more: of a new one) -> its image (H, W) or (H, W, 3), in [0, 1] or uint8.
        title: above the axes.
    """
    ax = ax or new_axes(8.5, 7.0)
    places = np.asarray(points, dtype=float).reshape(-1, 2)
    names = np.asarray(labels, dtype=str)
    shown = [str(name) for name in np.unique(names)][:_LISTED_CLASSES]
    size = float(np.clip(40_000 / max(len(places), 1), 6, 30))
    for number, name in enumerate(shown):
        own = places[names == name]
        # Neither colour nor mark alone tells twenty classes apart; no pair of both comes twice.
        colour, mark = _CLASS_COLOURS[number % len(_CLASS_COLOURS)], _CLASS_MARKS[number % len(_CLASS_MARKS)]
        ax.scatter(own[:, 0], own[:, 1], s=size, color=colour, marker=mark, lw=0, alpha=0.6, label=name or "image")
    rest = ~np.isin(names, shown)
    if rest.any():
        ax.scatter(places[rest, 0], places[rest, 1], s=size, color=GREY, lw=0, alpha=0.4, label="others")
    extra = np.empty((0, 2)) if new_points is None else np.asarray(new_points, dtype=float).reshape(-1, 2)
    every = np.concatenate([places, extra])
    for index, picture in (thumbnails or {}).items():
        image = np.asarray(picture)
        zoom = 22 / max(image.shape[:2])
        box = OffsetImage(image, zoom=zoom, cmap="gray", interpolation="nearest")
        framed = AnnotationBbox(box, tuple(every[index]), frameon=True, pad=0.1, bboxprops={"lw": 0.4}, zorder=6)
        framed.set_in_layout(False)  # else the layout shrinks the axes to nothing to make room for it
        ax.add_artist(framed)
    if new_points is not None:
        ax.scatter(
            extra[:, 0], extra[:, 1], s=36, c="black", marker="x", lw=1.1, label=f"new ({len(extra):,})", zorder=5
        )
    ax.set_axis_off()
    if ax.get_legend_handles_labels()[0]:
        legend = ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
        for handle in legend.legend_handles:
            if isinstance(handle, PathCollection):
                handle.set_sizes([30])
                handle.set_alpha(1)
    if title:
        ax.set_title(title, fontsize=10)
    return ax


def _named(ax: Axes, xlabel: str, ylabel: str, title: str, loc: Any = "upper left", **legend: Any) -> Axes:
    """Say what is drawn. The legend has a place of its own: looking for the best one takes long among many values."""
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if title:
        ax.set_title(title, fontsize=10)
    handles: Any = ax.get_legend_handles_labels()[0]
    if handles:
        ax.legend(frameon=False, fontsize=8, ncols=1 if len(handles) < 9 else 2, loc=loc, **legend)
    return ax


def roc_figure(title: str, scores: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Axes:
    """Draw one ROC curve for each score: name -> (of normal images, of anomalous ones)."""
    curves = {f"{name}: {auroc(*pair):.3f}": roc_points(*pair) for name, pair in scores.items()}
    return plot_roc(curves, title=title)


def loss_figure(title: str, result: Result) -> Axes:
    """Draw the losses of a run."""
    ax = plot_history(result.facts["epochs"], result.facts["best_epoch"])
    ax.set_title(title, fontsize=10)
    return ax


def sizes_figure(rows: Sequence[Mapping[str, Any]]) -> list[Axes]:
    """Draw the mean of each error against the latent size, and the AUROC of all scores."""
    scores = list(dict.fromkeys(row["score"] for row in rows))
    figures = []
    for score in scores:
        own = [row for row in rows if row["score"] == score]
        sizes = [row["latent_size"] for row in own]
        lines = {name: [row[f"{name}_mean"] for row in own] for name in ("normal", "anomalous")}
        figures.append(plot_against_size(sizes, lines, ylabel=f"mean {score}"))
    by_score = {score: [row for row in rows if row["score"] == score] for score in scores}
    figures.append(
        plot_against_size(
            [row["latent_size"] for row in by_score[scores[0]]],
            {score: [row["auroc"] for row in own] for score, own in by_score.items()},
            ylabel="AUROC",
            intervals={score: [(row["low"], row["high"]) for row in own] for score, own in by_score.items()},
        )
    )
    return figures


def picture_rows(result: Result) -> list[dict[str, str]]:
    """Return galleries of a run: test images over their reconstructions, and samples."""
    plan = result.plan
    latent = f", latent {plan.options['latent_size']}" if "latent_size" in plan.options else ""
    words = {
        "normal": ("normal test images", "Above the image, below its reconstruction."),
        "anomalous": ("anomalous test images", "Above the image, below its reconstruction."),
        "samples": ("new images", "Decoded from random latents."),
    }
    galleries = []
    for name, (what, note) in words.items():
        if name in result.pictures:
            images = np.concatenate(list(result.pictures[name]))
            grid = image_grid(images, columns=_SAMPLES_IN_A_ROW if name == "samples" else len(result.pictures[name][0]))
            title = f"{plan.detector}{latent}, {plan.normal} is normal: {what}"
            galleries.append({"title": title, "note": note, "data": data_url(grid)})
    return galleries

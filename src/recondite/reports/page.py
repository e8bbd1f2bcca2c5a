"""A study as one HTML file that opens anywhere without a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from recondite.data.files import atomic_file
from recondite.data.pictures import data_url, image_grid, svg
from recondite.reports.figures import plot_against_size, plot_history, plot_roc
from recondite.statistics.metrics import auroc, roc_points
from recondite.studies.training.runs import Result

_SAMPLES_IN_A_ROW = 8
_BROAD = 7.0  # inches: such a figure has a row of its own


@dataclass
class StudyPage:
    """What a study shows.

    Args:
        title, lead, note: text; the note stands under the table.
        columns, rows: a table.
        figures: drawn one beside the other.
        galleries: {"title", "note", "data"}: a picture as a data URL, with its words.
    """

    title: str
    lead: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str
    figures: list[Axes] = field(default_factory=list)
    galleries: list[dict[str, str]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write the file, atomically."""
        from jinja2 import Environment

        text = files("recondite").joinpath("reports", "study.html").read_text(encoding="utf-8")
        template = Environment(autoescape=True).from_string(text)
        figures = [{"svg": svg(ax), "broad": _inches(ax) > _BROAD} for ax in self.figures]
        page = template.render({**vars(self), "figures": figures})
        with atomic_file(path) as temporary:
            temporary.write_text(page, encoding="utf-8")


def _inches(ax: Axes) -> float:
    figure = ax.get_figure(root=True)
    assert figure is not None
    return float(figure.get_size_inches()[0])


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

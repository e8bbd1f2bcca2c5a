"""HTML pages: one shell and stylesheet for all of them, and a page of a table and figures; each is one whole file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from recondite.data.files import atomic_file
from recondite.data.pictures import svg

_SAMPLES_IN_A_ROW = 8
_BROAD = 7.0  # inches: such a figure has a row of its own


def write_page(path: Path, template: str, values: Mapping[str, Any]) -> None:
    """Write a page, atomically.

    Args:
        path: of the file.
        template: a file beside this one, which extends page.html.
        values: what it shows.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(autoescape=True, loader=PackageLoader("recondite.reports", "."))
    with atomic_file(path) as temporary:
        temporary.write_text(environment.get_template(template).render(values), encoding="utf-8")


@dataclass
class TablePage:
    """A table with figures and pictures: what a study or a comparison found.

    Args:
        title, lead, note: text; the note stands under the table.
        columns, rows: a table.
        figures: drawn one beside the other.
        galleries: {"title", "note", "data"}: a picture as a data URL, with its words.
        second: title, columns and rows of another table, after the figures.
    """

    title: str
    lead: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str
    figures: list[Axes] = field(default_factory=list)
    galleries: list[dict[str, str]] = field(default_factory=list)
    second: tuple[str, Sequence[str], Sequence[Sequence[str]]] | None = None

    def write(self, path: Path) -> None:
        """Write the file, atomically."""
        figures = [{"svg": svg(ax), "broad": _inches(ax) > _BROAD} for ax in self.figures]
        write_page(path, "table.html", {**vars(self), "figures": figures})


def _inches(ax: Axes) -> float:
    figure = ax.get_figure(root=True)
    assert figure is not None
    return float(figure.get_size_inches()[0])

"""The page of a study: one self-contained HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from matplotlib.axes import Axes

from recondite.data.files import atomic_file
from recondite.data.pictures import svg

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

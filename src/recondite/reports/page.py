"""HTML pages: one shell and stylesheet for all of them, and a page of a table and figures; each is one whole file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from recondite.data.files import atomic_file
from recondite.data.pictures import figure_of, svg

_SAMPLES_IN_A_ROW = 8
_MOST_STATIC_ROWS = 200
_BROAD = 7.0  # inches: such a figure has a row of its own


def write_page(path: Path, template: str, values: Mapping[str, Any]) -> None:
    """Write a page, atomically.

    Args:
        path: of the file.
        template: a file beside this one, which extends page.html.
        values: what it shows; "made" are facts of where it comes from, to which the date and the version are added.
    """
    import datetime

    from jinja2 import Environment, PackageLoader

    environment = Environment(autoescape=True, loader=PackageLoader("recondite.reports", "."))
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    made = [*values.get("made", ()), ("made", now), ("by", f"recondite {metadata.version('recondite')}")]
    with atomic_file(path) as temporary:
        temporary.write_text(environment.get_template(template).render({**values, "made": made}), encoding="utf-8")


def table_data(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    numbers: Sequence[int] = (),
    filter_by: int | None = None,
    pictures: int | None = None,
    widths: Sequence[str] = (),
    words: str = "table",
) -> dict[str, Any]:
    """Return a table as data, of which a page draws the rows in sight; it is sorted, and filtered by a text.

    Args:
        columns: their names.
        rows: cells: text, finite numbers or None.
        numbers: columns of numbers.
        filter_by: a column of few words, one of which can be chosen.
        pictures: a column of pictures as data URLs; the next says what they are.
        widths: of the columns, in CSS; "" for those that share the rest.
        words: what the table is.
    """
    return {
        "columns": list(columns),
        "rows": [list(row) for row in rows],
        "numbers": list(numbers),
        "filter_by": filter_by,
        "pictures": pictures,
        "widths": list(widths),
        "words": words,
    }


@dataclass
class TablePage:
    """A table with figures and pictures: what a study or a comparison found.

    Args:
        title, lead, note: text; the note stands under the table.
        columns, rows: a table; a long one is drawn as it is scrolled.
        figures: drawn one beside the other.
        galleries: {"title", "note", "data"}: a picture as a data URL, with its words.
        made: (name, value) of what it was made from: source, screen, settings.
        second: title, columns and rows of another table, after the figures.
        conclusion: what follows from the numbers, in a sentence.
        best: the row that it speaks of, which is marked; None for none.
    """

    title: str
    lead: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str
    figures: list[Axes] = field(default_factory=list)
    galleries: list[dict[str, str]] = field(default_factory=list)
    made: Sequence[tuple[str, str]] = ()
    second: tuple[str, Sequence[str], Sequence[Sequence[str]]] | None = None
    conclusion: str = ""
    best: int | None = None

    def write(self, path: Path) -> None:
        """Write the file, atomically."""
        figures = [{"svg": svg(ax), "broad": _inches(ax) > _BROAD} for ax in self.figures]
        many = len(self.rows) > _MOST_STATIC_ROWS
        data = table_data(self.columns, self.rows, words=self.title) if many else None
        write_page(path, "table.html", {**vars(self), "figures": figures, "data": data})


def _inches(ax: Axes) -> float:
    return float(figure_of(ax).get_size_inches()[0])

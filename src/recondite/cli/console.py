"""Tables for terminals."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from recondite.progress import is_terminal


def stream_beside(table: Path | None) -> TextIO:
    """Return where words go that are no part of a table: standard error where that is on standard output."""
    from recondite.data.tables import is_stdout

    return sys.stderr if table is not None and is_stdout(table) else sys.stdout


def print_table(rows: Sequence[tuple[Any, ...]], title: str, header: bool = False, file: TextIO | None = None) -> None:
    """Print rows of cells.

    Args:
        rows: all of one length, at least one.
        title: above the table.
        header: the first row names the columns; all but the first are then aligned to the right.
        file: where to; standard output by default.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=header, box=None, pad_edge=False)
    first, *rest = rows if header else [(), *rows]
    for index in range(len(rows[0])):
        table.add_column(
            str(first[index]) if header else "", overflow="fold", justify="right" if header and index else "left"
        )
    for row in rest:
        table.add_row(*(str(cell) for cell in row))
    stream = file or sys.stdout
    width = None if is_terminal(stream) else 140
    Console(file=stream, width=width, markup=False, highlight=False).print(table)

"""What is shown of an object that holds many numbers, to whoever types its name at a prompt or in a notebook."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import fields
from html import escape
from typing import Any

_LONG = 60
SHOWN = 10
"""Rows that a notebook shows of what has many."""


class ShortRepr:
    """Base of a data class made with repr=False: its repr tells arrays by type and shape, and what is long by length.

    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> @dataclass(repr=False)
    ... class Scores(ShortRepr):
    ...     ids: tuple
    ...     values: np.ndarray
    ...     alpha: float
    >>> Scores(tuple(range(100)), np.zeros((100, 2)), 0.05)
    Scores(ids=<100>, values=<float64 (100, 2)>, alpha=0.05)
    """

    def __repr__(self) -> str:
        names = [one.name for one in fields(self) if one.repr]  # type: ignore[arg-type]  # its children are data classes
        values = {name: value for name in names if (value := getattr(self, name)) is not None}
        return f"{type(self).__name__}({', '.join(f'{name}={_brief(value)}' for name, value in values.items())})"


def _brief(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"<{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}>"
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        # How long it is, before all of it is made into words.
        words = repr(value) if len(value) <= _LONG // 4 else ""
        return words if words and len(words) <= _LONG else f"<{len(value)}>"
    words = repr(value)
    return words if isinstance(value, ShortRepr) or len(words) <= _LONG else f"<{type(value).__name__}>"


def html_table(
    title: str,
    rows: Sequence[Sequence[object]],
    columns: Sequence[str] = (),
    pictures: Sequence[bytes | None] = (),
) -> str:
    """Return a table as HTML, for a notebook. Every word of it is escaped: names of files may hold anything.

    Args:
        title: above it.
        rows: of cells; numbers get four digits, None is empty.
        columns: their names.
        pictures: of each row, the bytes of a JPEG file that stands before it, or None; empty for no pictures.

    >>> html_table("1 image", [("<b>.png", 0.123456)])
    '<table><caption>1 image</caption><tr><td>&lt;b&gt;.png</td><td>0.1235</td></tr></table>'
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in (*([""] if pictures else []), *columns))
    body = []
    for place, row in enumerate(rows):
        cells = [escape(_cell(value)) for value in row]
        if pictures:
            data = base64.b64encode(pictures[place] or b"").decode()
            cells.insert(0, f'<img src="data:image/jpeg;base64,{data}" height="48">' if data else "")
        body.append("".join(f"<td>{cell}</td>" for cell in cells))
    lines = [*([head] if columns else []), *body]
    return f"<table><caption>{escape(title)}</caption>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def first_rows(count: int) -> str:
    """Return the words after a title that tell how many of all rows are shown; "" where all are."""
    return f"; the first {SHOWN}" if count > SHOWN else ""


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

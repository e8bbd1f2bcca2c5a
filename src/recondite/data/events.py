"""Verdicts of the past, read back: tables that `recondite predict` wrote, labels that people gave them."""

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from recondite.errors import InputError
from recondite.statistics.scores import STATISTIC, Scores

_PART = 16
_ROWS_AT_ONCE = 4096
_LONGEST_LINE = 1 << 22
_NOTHING = ("", None)

Reader = Callable[[str], Iterator[Mapping[str, Any]]]


def read_events(source: Path | str) -> Iterator[dict[str, Any]]:
    """Yield one row an event, oldest first, with the names of columns as keys.

    A row has at least an "id"; those of `recondite predict` have "instance_score", "p_value", "error" and, with
    --statistics, "statistic.NAME". People add "label".

    Args:
        source: a .csv, .jsonl or .parquet file, or what another reader of `READERS` takes, by its scheme ("sqlite://").

    Raises:
        InputError: no such file, or one that is not such a table; the line is named.
    """
    text = str(source)
    scheme = text.partition("://")[0] if "://" in text else Path(text).suffix.lower()
    if scheme not in READERS:
        raise InputError(f"expected events as one of {', '.join(READERS)}; got {text!r}")
    found = False
    for number, row in enumerate(READERS[scheme](text), 1):
        if not isinstance(row, Mapping) or not isinstance(row.get("id"), str | int):
            raise InputError(f"{text}, event {number}: expected a row with an id")
        found = True
        yield {**row, "id": str(row["id"])}
    if not found:
        raise InputError(f"{text} holds no events")


def scored(rows: Iterator[Mapping[str, Any]], name: str) -> Iterator[tuple[Scores, list[Mapping[str, Any]]]]:
    """Yield the scores of successive events, with the rows they came from, some at a time.

    Args:
        rows: from `read_events`.
        name: of the source, for messages.

    Raises:
        InputError: a row without a score and without an error, or with text in place of a number.
    """
    count = 0
    while part := list(islice(rows, _PART)):
        columns = [key for key in part[0] if key.startswith(STATISTIC)]
        values = np.full((len(part), 1 + len(columns)), np.nan)
        errors: list[str | None] = []
        for index, row in enumerate(part):
            count += 1
            for place, column in enumerate(("instance_score", *columns)):
                values[index, place] = number(row.get(column), f"{name}, event {count}, {column}")
            error = row.get("error")
            errors.append(None if error in _NOTHING else str(error))
            if errors[-1] is None and not math.isfinite(values[index, 0]):
                raise InputError(f"{name}, event {count}: it has neither an instance_score nor an error")
        yield (
            Scores(
                ids=tuple(str(row["id"]) for row in part),
                instance_score=values[:, 0],
                errors=tuple(errors),
                statistics={c.removeprefix(STATISTIC): values[:, i] for i, c in enumerate(columns, 1)} or None,
            ),
            part,
        )


def number(value: object, where: str) -> float:
    """Return a cell as a number; NaN where it is empty.

    Raises:
        InputError: it holds something else; `where` says where.
    """
    if value in _NOTHING:
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: expected a number; got {value!r}") from error


def _read_csv(source: str) -> Iterator[Mapping[str, Any]]:
    with _opened(source) as stream:
        try:
            for row in csv.DictReader(stream):
                if None in row or None in row.values():
                    raise InputError(f"{source}: a line has more or fewer cells than the header")
                yield row
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{source} is not a CSV file: {error}") from error


def _read_jsonl(source: str) -> Iterator[Mapping[str, Any]]:
    with _opened(source) as stream:
        number = 0
        try:
            while line := stream.readline(_LONGEST_LINE):
                number += 1
                yield json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{source}, line {number}: not JSON: {error}") from error


def _read_parquet(source: str) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("parquet files need pyarrow: pip install 'recondite[data]'") from error
    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{source} is not a readable parquet file: {error}") from error


def _opened(source: str) -> Any:
    try:
        return Path(source).open(newline="", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}") from error


READERS: dict[str, Reader] = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
"""How events are read, by the suffix of a file or the scheme of an address; another store adds itself here."""

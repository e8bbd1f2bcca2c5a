"""Rows of plain values to .csv, .jsonl or .parquet, atomically."""

import csv
import io
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from recondite.data.files import atomic_file
from recondite.errors import InputError

SUFFIXES = (".csv", ".jsonl", ".parquet")


def check_table_path(path: Path) -> None:
    """Raise InputError unless the suffix is one that `write_table` knows and its library is installed."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"expected a table that ends in {', '.join(SUFFIXES)}; got {path.name!r}")
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise InputError("parquet files need pyarrow: pip install 'recondite[data]'") from error


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], numbers: Collection[str] = ()) -> None:
    """Write rows that all have the same keys.

    Args:
        path: the file, written atomically.
        rows: the rows.
        numbers: columns that hold numbers even where every one of them is None; other such columns hold text.

    Raises:
        InputError: an unknown suffix, or pyarrow is needed and missing.
    """
    check_table_path(path)
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        write_rows(stream, path.suffix.lower(), rows, numbers)


def write_rows(stream: BinaryIO, suffix: str, rows: Iterable[Mapping[str, Any]], numbers: Collection[str] = ()) -> None:
    """Write rows in the format that one of `SUFFIXES` stands for; otherwise as `write_table`."""
    if suffix == ".parquet":
        _write_parquet(stream, rows, numbers)
        return
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    try:
        if suffix == ".jsonl":
            text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return
        writer = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(text, fieldnames=list(row))
                writer.writeheader()
            writer.writerow(row)
    finally:
        text.detach()


def _write_parquet(stream: BinaryIO, rows: Iterable[Mapping[str, Any]], numbers: Collection[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist([dict(row) for row in rows])

    # The type of a column of nothing but None must not depend on whether a file was bad.
    def kind(field: Any) -> Any:
        if not pyarrow.types.is_null(field.type):
            return field.type
        return pyarrow.float64() if field.name in numbers else pyarrow.string()

    schema = pyarrow.schema([(field.name, kind(field)) for field in table.schema])
    pyarrow.parquet.write_table(table.cast(schema), stream)

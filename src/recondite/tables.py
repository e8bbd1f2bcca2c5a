"""Rows of plain values to .csv, .jsonl or .parquet, atomically."""

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recondite.errors import InputError
from recondite.files import atomic_file

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


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows that all have the same keys.

    Raises:
        InputError: an unknown suffix, or pyarrow is needed and missing.
    """
    check_table_path(path)
    suffix = path.suffix.lower()
    with atomic_file(path) as temporary:
        if suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            table = pyarrow.Table.from_pylist([dict(row) for row in rows])
            # A column of nothing but None is text: its type must not depend on whether a file was bad.
            types = [pyarrow.string() if pyarrow.types.is_null(field.type) else field.type for field in table.schema]
            schema = pyarrow.schema(list(zip(table.column_names, types, strict=True)))
            pyarrow.parquet.write_table(table.cast(schema), temporary)
            return
        with temporary.open("w", newline="", encoding="utf-8") as stream:
            if suffix == ".jsonl":
                stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                return
            writer = None
            for row in rows:
                if writer is None:
                    writer = csv.DictWriter(stream, fieldnames=list(row))
                    writer.writeheader()
                writer.writerow(row)

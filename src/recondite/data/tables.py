"""Tables of verdicts and of other rows as .csv, .jsonl or .parquet: written, and read back as events."""

import csv
import io
import json
import math
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from recondite.data.addresses import without_secrets
from recondite.data.files import atomic_file
from recondite.errors import InputError

_ROWS_AT_ONCE = 4096
_LONGEST_LINE = 1 << 22
_NOTHING = ("", None)
Reader = Callable[[str], Iterator[Mapping[str, Any]]]

SUFFIXES = (".csv", ".jsonl", ".parquet")
_STDOUT = ("-", "/dev/stdout")
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def is_stdout(path: Path | str) -> bool:
    """Return whether a path means standard output."""
    return str(path) in _STDOUT


def check_table_path(path: Path) -> None:
    """Raise InputError unless `write_table` knows the suffix and has its library; or it is standard output."""
    if is_stdout(path):
        return
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"expected a table that ends in {', '.join(SUFFIXES)}; got {path.name!r}")
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise InputError("parquet files need pyarrow: pip install 'recondite[data]'") from error


def write_table(
    path: Path,
    rows: Iterable[Mapping[str, Any]],
    numbers: Collection[str] = (),
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write rows that all have the same keys.

    Args:
        path: the file, written atomically; "-" or /dev/stdout for a CSV table on standard output.
        rows: the rows.
        numbers: columns that hold numbers even where every one of them is None; other such columns hold text.
        facts: what a .parquet file says of itself, in the metadata of its schema; other files have no place for it.

    Raises:
        InputError: an unknown suffix, or pyarrow is needed and missing.
    """
    check_table_path(path)
    if is_stdout(path):
        sys.stdout.flush()
        write_rows(sys.stdout.buffer, ".csv", rows, numbers)
        sys.stdout.flush()
        return
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        write_rows(stream, path.suffix.lower(), rows, numbers, facts)


def write_rows(
    stream: BinaryIO,
    suffix: str,
    rows: Iterable[Mapping[str, Any]],
    numbers: Collection[str] = (),
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write rows in the format that one of `SUFFIXES` stands for; otherwise as `write_table`."""
    if suffix == ".parquet":
        _write_parquet(stream, rows, numbers, facts)
        return
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    try:
        if suffix == ".jsonl":
            text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return
        columns: list[str] = []
        for row in rows:
            if not columns:
                columns = list(row)
                text.write(csv_line(columns))
            text.write(csv_line(row[name] for name in columns))
    finally:
        text.detach()


def csv_line(cells: Iterable[Any]) -> str:
    """Return one line of a CSV file, its cells `neutral`."""
    line = io.StringIO()
    csv.writer(line).writerow(map(neutral, cells))
    return line.getvalue()


def neutral(cell: Any) -> Any:
    """Return a cell of a CSV file that no spreadsheet takes for a formula: text that begins like one gets a "'" before.

    Numbers, also those written as text, stay as they are. `read_events` takes the "'" away again.

    >>> neutral("=1+1"), neutral("-0.5"), neutral("a.png")
    ("'=1+1", '-0.5', 'a.png')
    """
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) and not _is_number(cell) else cell


def meant(cell: str) -> str:
    """Undo `neutral`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()


def _write_parquet(
    stream: BinaryIO,
    rows: Iterable[Mapping[str, Any]],
    numbers: Collection[str],
    facts: Mapping[str, str] | None,
) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist([dict(row) for row in rows])

    # The type of a column of nothing but None must not depend on whether a file was bad.
    def kind(field: Any) -> Any:
        if not pyarrow.types.is_null(field.type):
            return field.type
        return pyarrow.float64() if field.name in numbers else pyarrow.string()

    schema = pyarrow.schema([(field.name, kind(field)) for field in table.schema], metadata=facts)
    pyarrow.parquet.write_table(table.cast(schema), stream)


def read_events(source: Path | str) -> Iterator[dict[str, Any]]:
    """Yield one row an event, oldest first, with the names of columns as keys.

    A row has at least an "id", or "file_name" as in the metadata.csv beside images; those of `recondite predict` have
    "instance_score", "p_value", "error" and, with --statistics, "statistic.NAME". People add "label".

    Args:
        source: a .csv, .jsonl or .parquet file, or what another reader of `READERS` takes, by its scheme ("sqlite://").

    Raises:
        InputError: no such file, or one that is not such a table; the line is named.
    """
    text = str(source)
    scheme = text.partition("://")[0] if "://" in text else Path(text).suffix.lower()
    if scheme not in READERS:
        raise InputError(f"expected events as one of {', '.join(READERS)}; got {without_secrets(text)!r}")
    found = False
    for number, row in enumerate(READERS[scheme](text), 1):
        name = row.get("id", row.get("file_name")) if isinstance(row, Mapping) else None
        if not isinstance(name, str | int):
            has = f"; it has: {', '.join(map(str, row))}" if isinstance(row, Mapping) and name is None else ""
            raise InputError(f"{without_secrets(text)}, row {number}: expected a row with an id (or file_name){has}")
        found = True
        yield {**row, "id": str(name)}
    if not found:
        raise InputError(f"{without_secrets(text)} holds no events")


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


def rows_of_csv(source: Path | str, columns: Collection[str] = ()) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file, as `lines_of_csv` reads them, by the names of its columns.

    Args:
        source: the file.
        columns: those that it must have.

    Raises:
        InputError: it cannot be read, is no such table, lacks a column, or has a line of more or fewer cells than that.
    """
    with _opened(source) as stream:
        lines = lines_of_csv(stream, str(source))
        _, names = next(lines, (0, []))
        if not {*columns} <= {*names}:
            raise InputError(f"{source}: expected a table with the columns {', '.join(columns)}")
        yield from (dict(zip(names, cells, strict=True)) for _, cells in lines)


def lines_of_csv(stream: TextIO, source: str, *, spaced: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Yield the numbers and cells of the lines of a CSV file that are not empty, its header first.

    Cells are separated by what stands most often in the header: a comma, or a semicolon or tab, as spreadsheets write
    where a comma is the decimal sign.

    Args:
        stream: opened with newline="".
        source: what it is called in errors.
        spaced: spaces after a separator are no part of a cell.

    Raises:
        InputError: it is no such table, or has a line of more or fewer cells than the header.
    """
    try:
        above, header = next(((at, line) for at, line in enumerate(iter(stream.readline, "")) if line.strip()), (0, ""))
        mark = max(",;\t", key=header.count)
        names = next(csv.reader([header], delimiter=mark, skipinitialspace=spaced), [])
        if names:
            yield above + 1, names
        lines = csv.reader(stream, delimiter=mark, skipinitialspace=spaced)
        for cells in lines:
            number = above + 1 + lines.line_num
            if not any(map(str.strip, cells)):
                continue
            if len(cells) != len(names):
                raise InputError(f"{source}: line {number} has more or fewer cells than the header")
            yield number, cells
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not text in UTF-8: save it as CSV UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{source} is not a CSV file: {error}") from error


def _read_csv(source: str) -> Iterator[Mapping[str, Any]]:
    for row in rows_of_csv(source):
        yield {meant(name): meant(cell) for name, cell in row.items()}


def _read_jsonl(source: str) -> Iterator[Mapping[str, Any]]:
    with _opened(source) as stream:
        number = 0
        try:
            while line := stream.readline(_LONGEST_LINE):
                number += 1
                if line.strip():
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


def _opened(source: Path | str) -> TextIO:
    try:
        return Path(source).open(newline="", encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}") from error


READERS: dict[str, Reader] = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
"""How events are read, by the suffix of a file or the scheme of an address; another store adds itself here."""

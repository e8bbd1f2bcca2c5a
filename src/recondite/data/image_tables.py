"""Tables of images as .csv or .tsv: a column of paths or addresses and, where there is one, of labels."""

import io
from collections.abc import Sequence
from typing import BinaryIO

from recondite.data.formats import is_image_name
from recondite.data.remote import is_url
from recondite.data.tables import lines_of_csv, meant
from recondite.errors import InputError
from recondite.progress import say

SUFFIXES = (".csv", ".tsv")
_IMAGE, _LABEL, _ID = "image", "label", "id"
_IMAGES = (
    *(_IMAGE, "image_path", "image_file", "image_name", "image_url", "image_id", "img", "img_path", "path"),
    *("file", "file_name", "file_path", "url", "uri", "source_ref", _ID),
)
_LABELS = (_LABEL, "class", "class_name", "target", "category")


def lines_of_table(stream: BinaryIO, source: str) -> list[tuple[int, dict[str, str]]]:
    """Return the number of each line below the header, and its image and label as a line of a manifest has them.

    Columns are found by their usual names, written in any way (file_name, Filename); that of the images by what is in
    it too: most of its cells name images. Where there are several such columns, "image" and "label" come first.

    Args:
        stream: the bytes of the file.
        source: what it is called in errors.

    Raises:
        InputError: it is no CSV file in UTF-8, has no header, or a line without an image, or it is not clear which
            column is meant.
    """
    with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        lines = [
            (number, [meant(cell.strip()) for cell in cells])
            for number, cells in lines_of_csv(text, source, spaced=True)
        ]
    if not lines:
        return []
    (_, header), *rows = lines
    if any(map(_names_image, header)):
        raise InputError(f"{source}: expected a header, such as image,label; its first line names an image already")
    cells = [[row[column] for _, row in rows] for column in range(len(header))]
    image, label = _image_column(header, cells, source), _label_column(header, cells, source)
    if len(header) > (1 if label is None else 2):
        labels = "without labels" if label is None else f"their labels those of {header[label]!r}"
        say(f"{source}: images are those of the column {header[image]!r}, {labels}")
    found = []
    for number, row in rows:
        if not row[image]:
            raise InputError(f"{source}, line {number}: names no image; its column {header[image]!r} is empty")
        found.append((number, {_IMAGE: row[image], _LABEL: "" if label is None else row[label]}))
    return found


def _image_column(header: Sequence[str], cells: Sequence[Sequence[str]], source: str) -> int:
    known = _called(header, _IMAGES)
    paths = [column for column, own in enumerate(cells) if 2 * sum(map(_names_image, own)) > sum(map(bool, own))]
    labels = _called(header, _LABELS)
    found = (
        [column for column in known if column in paths]
        or [column for column in known if _plain(header[column]) != _ID]
        or [column for column in paths if column not in labels]
        or known
    )
    if not found:
        raise InputError(
            f"{source}: no column names images: expected one of paths, called {', '.join(_IMAGES)}; it has: "
            f"{', '.join(map(repr, header))}"
        )
    return _the_one(found, header, source, _IMAGE)


def _label_column(header: Sequence[str], cells: Sequence[Sequence[str]], source: str) -> int | None:
    """Return the column of labels; None without one that is filled, and with masks alone in it."""
    known = [column for column in _called(header, _LABELS) if any(cells[column])]
    found = [column for column in known if not any(map(_names_image, cells[column]))]
    return _the_one(found, header, source, _LABEL) if found else None


def _the_one(found: Sequence[int], header: Sequence[str], source: str, name: str) -> int:
    """Return the column that is called by a name, or the only one that was found."""
    called = [column for column in found if _plain(header[column]) == name]
    if len(called or found) > 1:
        columns = " and ".join(repr(header[column]) for column in called or found)
        raise InputError(
            f"{source}: the columns {columns} may each be that of the {name}s: call the one that is meant {name!r}"
        )
    return (called or found)[0]


def _called(header: Sequence[str], names: Sequence[str]) -> list[int]:
    plain = [*map(_plain, names)]
    return [column for column, name in enumerate(header) if _plain(name) in plain]


def _plain(name: str) -> str:
    """Return the name of a column without what spellings differ in.

    >>> _plain("Image Path") == _plain("image_path") == _plain("ImagePath")
    True
    """
    return "".join(filter(str.isalnum, name)).casefold()


def _names_image(cell: str) -> bool:
    return is_url(cell) or cell.startswith("data:") or is_image_name(cell.replace("\\", "/").rpartition("/")[2])

"""Classes of images: read from tables, folders and data sets."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from recondite.data.datasets import ImageSet, open_images
from recondite.data.tables import read_events
from recondite.errors import InputError

FROM_FOLDERS: Mapping[str, str] = MappingProxyType({})
"""In place of a table of classes: each image is of the folder that it lies in."""


def read_classes(path: Path | str) -> dict[str, str]:
    """Return id -> class from the columns id (or file_name) and label of a table (.csv, .jsonl or .parquet).

    Raises:
        InputError: it has no such columns, or two classes for an id.
    """
    found: dict[str, str] = {}
    for row in read_events(path):
        given = row.get("label")
        if given is None or given == "" or given != given:  # NaN, where a table was made by pandas
            raise InputError(f"{path}: expected columns id and label, with a class in every row")
        if found.setdefault(row["id"], str(given)) != str(given):
            raise InputError(
                f"{path}: expected one class for each id; {row['id']!r} has {found[row['id']]!r} and {str(given)!r}"
            )
    return found


def with_classes(images: object, labels: Mapping[str, str] | None) -> ImageSet:
    """Return images with their classes as labels.

    Args:
        images: anything that `open_images` opens but a stream.
        labels: id -> class; None for the labels of the source, or the folder that each image lies in; `FROM_FOLDERS`
            for that alone.

    Raises:
        InputError: a stream, or an image without a class.
    """
    opened = open_images(images, role="classes")
    if opened.ids is None:
        raise InputError("a guard splits its images: give a folder, a list or an array, not a stream")
    found = []
    for index, name in enumerate(opened.ids):
        folder = PurePosixPath(name).parent.name
        if labels is FROM_FOLDERS:
            given = folder
        else:
            given = labels.get(name, "") if labels is not None else opened.label(index) or folder
        if not given and labels:
            raise InputError(
                f"{name}: the table of labels (--labels, labels=) has no such id; it has {len(labels):,}, the first "
                f"{next(iter(labels))}"
            )
        if not given:
            raise InputError(
                f"{name}: expected a class, in a table of labels, such as a metadata.csv (--labels, labels=), or as "
                "the name of its folder"
            )
        found.append(given)
    return replace(opened, labels=found)


def check_classes(names: Sequence[str], images: ImageSet) -> None:
    """Raise InputError for names of classes that are fewer than two, not all different, or not all that images have."""
    again = next((name for name, times in Counter(names).items() if times > 1), None)
    if again is not None:
        raise InputError(f"expected different names of classes; {again!r} comes more than once")
    missing = sorted({*(images.labels or ())} - {*names})
    if missing or len(names) < 2:
        raise InputError(f"expected two classes or more, among {', '.join(names)}; got {', '.join(missing) or 'one'}")

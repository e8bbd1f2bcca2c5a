"""Manifests of images: one JSON object a line that names an image and may label it, or a table (`image_tables`).

Read as labelling tools and cloud services write them: source-ref with NAME and NAME-metadata (SageMaker Ground Truth,
Lookout for Vision, Rekognition), imageGcsUri with classificationAnnotation (Vertex AI), image_url with label (Azure),
file_name (data sets of the Hugging Face hub), data.image with annotations (Label Studio), data_row.row_data (Labelbox),
image or path with label (Prodigy and others). Written as Lookout for Vision writes them.
"""

import base64
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from recondite.data.addresses import without_secrets
from recondite.data.files import atomic_file, local_path
from recondite.data.formats import is_image_name
from recondite.data.image_tables import SUFFIXES as TABLES
from recondite.data.image_tables import lines_of_table
from recondite.data.items import Masked, Page, Unreadable
from recondite.data.layouts import ANOMALOUS, NORMAL, Role
from recondite.data.listing import images_at, printable, unique_names
from recondite.data.masks import image_called
from recondite.data.remote import NamedFile, StoredFile, is_url, open_stream
from recondite.errors import InputError
from recondite.progress import counted, say

SUFFIXES = (".jsonl", ".ndjson", ".manifest")
_LONGEST_LINE = 1 << 26
_ADDRESSES = (
    *(("source-ref",), ("imageGcsUri",), ("image_gcs_uri",), ("content", "imageGcsUri"), ("image_url",)),
    *(("file_name",), ("data", "image"), ("data_row", "row_data"), ("image",), ("image_path",), ("path",), ("url",)),
)
"""Where a line may have the address of its image, in the order in which it is looked for."""
_LABELS = (
    *(("classificationAnnotation", "displayName"), ("classificationAnnotations", 0, "displayName")),
    *(("annotations", 0, "result", 0, "value", "choices", 0), ("label",), ("class",)),
)
_METADATA = "-metadata"
_LABEL = "anomaly-label"


def is_manifest(name: str) -> bool:
    """Return whether a file of this name, or address, is a manifest."""
    return name.lower().endswith((*SUFFIXES, *TABLES))


def read_manifest(source: str, role: Role = "predict") -> tuple[list[Any], list[str], list[str]]:
    """Return the images of a manifest, their ids and their labels. No image is opened.

    Ids are addresses without what is common to all. A relative address is meant from where the manifest is. It may be
    written as on Windows, and without the suffix, as ids are.

    Args:
        source: path or address of the manifest.
        role: where all labels say normal or anomalous, "fit" and "inliers" are the normal images, "outliers" the
            others.

    Raises:
        InputError: there is no such file, or a line that is no JSON or names no image; it is named. Or a table of which
            no image is there.
        SourceError: a store cannot be reached.
    """
    found = [(_address(line, source, number), _label(line)) for number, line in _lines(source)]
    if source.lower().endswith(TABLES):
        _check_there([address for address, _ in found], source)
    found = _of_role(found, role)
    roots = {remote: _common([one for one, _ in found if is_url(one) is remote]) for remote in (True, False)}
    items: list[Any] = []
    names: list[str] = []
    labels: list[str] = []
    for number, (address, label) in enumerate(found):
        for name, item in _images(address, roots[is_url(address)], number):
            items.append(item)
            names.append(name)
            labels.append(label)
    return items, unique_names(names), labels


def address_of(source: object) -> str | None:
    """Return the whole path or address of an image; None where it has none."""
    if isinstance(source, Masked):
        return address_of(source.source)
    if isinstance(source, Page):
        return os.path.abspath(source.path)
    if isinstance(source, StoredFile):
        return source.url
    return os.path.abspath(source) if isinstance(source, str | Path) else None


def write_manifest(path: Path, verdicts: Iterable[tuple[str, Mapping[str, Any]]], job: str) -> None:
    """Write verdicts as a manifest, atomically; an image that could not be read has a reason in place of a label.

    Args:
        path: of the manifest.
        verdicts: the address of each image, and its record.
        job: named in every line.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "")
    # Bytes of a path that are no text become escapes of JSON, which are read as these bytes again.
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        for address, record in verdicts:
            facts: dict[str, Any] = {"job-name": job, "human-annotated": "no", "creation-date": now}
            line: dict[str, Any] = {"source-ref": address}
            if record["error"] is None:
                outlier = record["verdict"] == "outlier"
                line[_LABEL] = int(outlier)
                facts = {"class-name": "anomaly" if outlier else "normal", **facts}
            else:
                facts["failure-reason"] = record["error"]
            line[_LABEL + _METADATA] = {**facts, "type": "groundtruth/image-classification"}
            stream.write(json.dumps({**line, "recondite": record}, ensure_ascii=False) + "\n")


def check_manifest(path: Path, sources: Iterable[object]) -> None:
    """Raise InputError unless verdicts on some images can be written as a manifest of this name."""
    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(f"expected a manifest that ends in {', '.join(SUFFIXES)}; got {path.name!r}")
    if any(address_of(source) is None and not isinstance(source, Unreadable) for source in sources):
        raise InputError("a manifest names images by their paths or addresses; these have none")


def _lines(source: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    path = local_path(source)
    with open_stream(source if path is None else str(path)) as stream:
        if source.lower().endswith(TABLES):
            yield from lines_of_table(stream, without_secrets(source))
            return
        number = 0
        while line := stream.readline(_LONGEST_LINE):
            number += 1
            if not line.strip():
                continue
            try:
                facts = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{without_secrets(source)}, line {number}: not JSON: {error}") from error
            if not isinstance(facts, dict):
                raise InputError(
                    f"{without_secrets(source)}, line {number}: expected a JSON object that names an image"
                )
            yield number, facts


def _address(line: Mapping[str, Any], source: str, number: int) -> str:
    """Return the whole path or address that a line names, or a data URI."""
    given = next((value for keys in _ADDRESSES if isinstance(value := _at(line, keys), str) and value), None)
    if given is None:
        known = ", ".join(".".join(map(str, keys)) for keys in _ADDRESSES)
        raise InputError(f"{without_secrets(source)}, line {number}: names no image; expected one of {known}")
    if given.startswith("data:"):
        return given
    path = local_path(given)
    if path is None:
        return given
    where = local_path(source)
    if where is None and not path.is_absolute():
        return f"{source.rpartition('/')[0]}/{path.as_posix()}"
    return _file_meant(os.path.abspath(path if where is None else where.parent / path))


def _file_meant(path: str) -> str:
    """Return the path of a file that may be named as on Windows or, as ids are, without its suffix."""
    if (is_image_name(Path(path).name) and "\\" not in path) or os.path.exists(path):  # noqa: PTH110
        return path
    whole = Path(path.replace("\\", "/"))
    called = None if is_image_name(whole.name) else image_called(whole.parent, whole.name)
    return str(called or whole)


def _check_there(addresses: Sequence[str], source: str) -> None:
    """Raise InputError where no image of a table is there, as of one that lies apart from them."""
    there = (is_url(one) or one.startswith("data:") or os.path.exists(one) for one in addresses)  # noqa: PTH110
    if addresses and not any(there):
        raise InputError(
            f"{without_secrets(source)}: none of its images is there, such as {addresses[0]}: paths and ids are meant "
            "from the folder that the table is in"
        )


def _label(line: Mapping[str, Any]) -> str:
    for name, facts in line.items():
        if name.endswith(_METADATA) and isinstance(facts, dict) and isinstance(facts.get("class-name"), str):
            return printable(facts["class-name"])
    found = (_at(line, keys) for keys in _LABELS)
    return next((printable(str(value)) for value in found if isinstance(value, str | int)), "")


def _at(facts: Any, keys: Sequence[str | int]) -> Any:
    """Return what is at some keys of nested objects and lists; None where it is not there."""
    for key in keys:
        try:
            facts = facts[key]
        except (KeyError, IndexError, TypeError):
            return None
    return facts


def _of_role(found: list[tuple[str, str]], role: Role) -> list[tuple[str, str]]:
    words = {label.lower() for _, label in found}
    if role in ("all", "predict", "classes") or not words & ANOMALOUS or not words <= NORMAL | ANOMALOUS:
        return found
    wanted = ANOMALOUS if role == "outliers" else NORMAL
    kept = [one for one in found if one[1].lower() in wanted]
    labelled = ", ".join(sorted(words - wanted))
    say(f"{counted(len(found) - len(kept), 'image')} of the manifest left out: labelled {labelled}")
    return kept


def _common(addresses: Sequence[str]) -> str:
    """Return the folder that all of some paths or addresses are in, with the "/" at its end."""
    folders = [address.split("/")[:-1] for address in addresses if not address.startswith("data:")]
    if not folders:
        return ""
    shared = list(takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False)))
    return "".join(f"{parts[0]}/" for parts in shared)


def _images(address: str, root: str, number: int) -> list[tuple[str, Any]]:
    """Return (id, image) of what an address names: one, or one a page."""
    if address.startswith("data:"):
        return [(f"{number:06d}", _of_data_uri(address))]
    name = address.removeprefix(root)
    if is_url(address):
        return [(name, NamedFile(address))]
    return [(page, image) for image, page in images_at(address, name)]


def _of_data_uri(text: str) -> Any:
    head, _, content = text.partition(",")
    try:
        if head.endswith(";base64"):
            return base64.b64decode(content, validate=True)
    except ValueError:
        pass
    return Unreadable("the data URI is not in base64")

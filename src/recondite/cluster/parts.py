"""The parts of a sweep as files: one part scored and judged, all parts merged, completeness verified."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from recondite.cluster.ledger import JOURNAL, Folder, Ledger, Part
from recondite.cluster.sources import hash_of_ids
from recondite.data.datasets import Batch, ImageSet
from recondite.data.files import sha256_of_file
from recondite.data.tables import number, read_events, write_rows
from recondite.errors import InputError
from recondite.screen.screen import OnBad, Screen
from recondite.statistics.scores import NUMBERS, STATISTIC, Scores, Verdicts, discovery_cutoff

SCHEMA = 1
KIND = "recondite sweep"
MANIFEST, PARTS = "manifest.json", "parts.jsonl"
SCORED = "scored/"
"""Where parts wait for the merge, if what is flagged depends on all of them."""


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """What becomes of the images of a part.

    Args:
        suffix: the kind of table.
        group: which group's calibration holds for all of them.
        on_bad: what an unreadable image becomes; see `Screen.predict`.
        statistics: write those that the screen judges by, too.
    """

    suffix: str
    group: str | None = None
    on_bad: OnBad = "flag"
    statistics: bool = False


def judge_part(screen: Screen, images: ImageSet, name: str, rows: RowOptions) -> tuple[Part, bytes | None]:
    """Return the facts of a part and its file.

    Args:
        screen: the judge.
        images: of the part.
        name: of the part.
        rows: what becomes of them.

    Raises:
        InputError: an unreadable image, with on_bad="raise".
        SourceError: a store cannot be reached.
    """
    noted = _Noted(images, parallel=images.parallel, group=rows.group)
    scores = list(screen.scored(noted, on_bad=rows.on_bad))
    return _part(name, noted.noted, screen.judge(Scores.concatenate(scores)) if scores else None, rows)


def blame(screen: Screen, images: ImageSet, name: str, rows: RowOptions, deaths: int) -> tuple[Part, bytes | None]:
    """Return a part that says of its one image that workers died on it; the image is not read.

    Raises:
        InputError: on_bad is "raise".
    """
    identity, _, label = next(iter(images.entries()))
    reason = f"{deaths} worker processes died on this image"
    if rows.on_bad == "raise":
        raise InputError(f"{identity}: {reason}")
    nothing = np.empty((0, *screen.detector.shape), dtype=np.float32)
    batch = Batch([identity], [rows.group if rows.group is not None else label], nothing, [reason])
    verdicts = screen.judge(screen.score_batch(batch)) if rows.on_bad == "flag" else None
    return _part(name, [identity], verdicts, rows)


def merge(
    store: Folder, ledger: Ledger, header: Mapping[str, Any], rows: RowOptions, fdr: float | None
) -> dict[str, Any]:
    """Finish a sweep whose parts are all done: decide what depends on all of them, and write the manifest.

    Returns:
        The manifest.

    Raises:
        InputError: no image became a row.
    """
    parts: Iterable[Part] = ledger.in_order()
    if not any(part.rows for part in parts):
        raise InputError("not one of the images could be read, and on_bad='skip' leaves no rows")
    if fdr is not None:
        cutoff = discovery_cutoff(_p_values(store.root / SCORED, parts), fdr)
        parts = [_decided(store, part, rows.suffix, cutoff, fdr) for part in parts]
    lines = [json.dumps(asdict(part)) + "\n" for part in parts]
    store.write(PARTS, "".join(lines).encode())
    _remove_strays(store.root, {part.file for part in parts})
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.counts)
    manifest = {
        "kind": KIND,
        "schema": SCHEMA,
        "images": sum(part.inputs for part in parts),
        "rows": sum(part.rows for part in parts),
        "counts": {word: counts[word] for word in ("inlier", "outlier", "invalid")},
        "false_discovery_rate": fdr,
        "ids": hash_of_ids(part.ids for part in parts),
        "parts": len(lines),
        "parts_sha256": sha256_of_file(store.root / PARTS),
        "sweep": dict(header),
    }
    store.flush()
    store.write(MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    store.flush()
    clear(store)
    return manifest


def clear(store: Folder) -> None:
    """Remove what only an unfinished sweep needs."""
    for path in (store.root / SCORED).glob("part-*"):
        path.unlink()
    if (store.root / SCORED).is_dir():
        (store.root / SCORED).rmdir()
    store.remove(JOURNAL)


def read_parts(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a finished sweep in the order of its source, as `read_events` does.

    Raises:
        InputError: the folder holds no finished sweep, or a part was altered.
    """
    _, parts = _read_manifest(folder)
    for part in parts:
        if part.file is not None:
            if sha256_of_file(folder / part.file) != part.sha256:
                raise InputError(f"{folder / part.file} was altered after the sweep")
            yield from read_events(folder / part.file)


def check_parts(folder: Path) -> dict[str, Any]:
    """Read a finished sweep again and prove its manifest: every part whole, every image one row, no id twice.

    Memory grows with the number of images, by some 150 bytes each.

    Returns:
        The manifest.

    Raises:
        InputError: something is missing, altered or there twice; it is named.
    """
    manifest, parts = _read_manifest(folder)
    listed = {part.file for part in parts if part.file is not None}
    present = {path.name for path in folder.glob("part-*")}
    if listed != present:
        raise InputError(f"{folder}: files of parts missing or too many: {sorted(listed ^ present)[:5]}")
    seen: set[str] = set()
    for part in parts:
        if part.file is None:
            continue
        names = [row["id"] for row in read_events(folder / part.file)]
        seen.update(names)
        if sha256_of_file(folder / part.file) != part.sha256 or len(names) != part.rows:
            raise InputError(f"{folder / part.file} was altered after the sweep")
        if part.rows == part.inputs and hash_of_ids(names) != part.ids:
            raise InputError(f"{folder / part.file} holds other images than it should")
    if len(seen) != manifest["rows"]:
        raise InputError(f"{folder}: {manifest['rows'] - len(seen)} ids are there twice")
    return manifest


@dataclass(frozen=True)
class _Noted(ImageSet):
    """Images that note the ids of all that are walked through; `items` is another set of images."""

    noted: list[str] = field(default_factory=list)
    group: str | None = None

    def entries(self, skip: frozenset[str] = frozenset()) -> Iterator[tuple[str, Any, str]]:
        for name, item, label in self.items.entries(skip):
            self.noted.append(name)
            yield name, item, label if self.group is None else self.group


def _part(name: str, ids: list[str], verdicts: Verdicts | None, rows: RowOptions) -> tuple[Part, bytes | None]:
    facts = Part(name, None, len(ids), 0, {}, hash_of_ids(ids))
    if verdicts is None:
        return facts, None
    numbers = [*NUMBERS, *(STATISTIC + found for found in verdicts.statistics or ())]
    stream = io.BytesIO()
    write_rows(stream, rows.suffix, verdicts.records(rows.statistics), numbers)
    facts = replace(facts, file=f"part-{name}{rows.suffix}", rows=len(verdicts), counts=verdicts.counts())
    return facts, stream.getvalue()


def _p_values(folder: Path, parts: Iterable[Part]) -> Counter[float]:
    """Count how often each p-value came among the valid images."""
    found: Counter[float] = Counter()
    for part in parts:
        if part.file is not None:
            values = (number(row["p_value"], row["id"]) for row in read_events(folder / part.file))
            found.update(value for value in values if not np.isnan(value))
    return found


def _decided(store: Folder, part: Part, suffix: str, cutoff: float, rate: float) -> Part:
    """Write the part again with the verdicts that hold over the whole sweep."""
    if part.file is None:
        return part
    rows = []
    for row in read_events(store.root / SCORED / part.file):
        p_value = number(row["p_value"], row["id"])
        invalid = row["verdict"] == "invalid"
        flagged = invalid or not p_value > cutoff
        word = "invalid" if invalid else "outlier" if flagged else "inlier"
        rows.append({**row, "verdict": word, "is_outlier": flagged, "threshold": None, "alpha": rate})
    stream = io.BytesIO()
    write_rows(stream, suffix, rows, [*NUMBERS, *(name for name in rows[0] if name.startswith(STATISTIC))])
    content = stream.getvalue()
    store.write(part.file, content)
    words = Counter(row["verdict"] for row in rows)
    counts = {word: words[word] for word in part.counts}
    return replace(part, counts=counts, sha256=hashlib.sha256(content).hexdigest())


def _remove_strays(folder: Path, listed: Collection[str | None]) -> None:
    """Remove parts that were written but not noted before a crash, and then came out otherwise."""
    for path in folder.glob("part-*"):
        if path.name not in listed:
            path.unlink()


def _read_manifest(folder: Path) -> tuple[dict[str, Any], list[Part]]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        lines = (folder / PARTS).read_text(encoding="utf-8").splitlines()
        parts = [Part(**json.loads(line)) for line in lines]
        whole = manifest["schema"] == SCHEMA and manifest["parts_sha256"] == sha256_of_file(folder / PARTS)
        totals = (manifest["parts"], manifest["images"], manifest["rows"])
        summed = (len(parts), sum(part.inputs for part in parts), sum(part.rows for part in parts))
        if not whole or totals != summed or manifest["ids"] != hash_of_ids(part.ids for part in parts):
            raise InputError(f"{folder} is not a consistent sweep: the manifest and its parts differ")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder} holds no finished sweep: {error}") from error
    return manifest, parts

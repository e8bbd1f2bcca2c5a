"""A finished audit and what people say of its findings: keep, drop, or confirm what it proposes."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Literal, get_args

from recondite.audits.findings import KINDS
from recondite.audits.outputs import ISSUES, SCORES, SEEN, kept_and_dropped
from recondite.audits.store import Row, Store
from recondite.data.journal import Journal
from recondite.data.tables import read_events
from recondite.errors import InputError

Decision = Literal["keep", "drop", "confirm", "undo"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)
_DECIDED = "decisions.jsonl"
_HEADER = {"schema": 1}
_YES = ("True", "true", True)


def check_audits(folders: Sequence[Path | str]) -> dict[str, Path]:
    """Return folders of audits by their names.

    Raises:
        InputError: one holds no finished audit, or two have the same name.
    """
    named = {Path(folder).resolve().name: Path(folder) for folder in folders}
    if len(named) < len(folders):
        raise InputError(f"expected audits in folders of different names; got {', '.join(map(str, folders))}")
    for folder in named.values():
        if not (folder / SEEN / "images").is_dir() or not (folder / f"{SCORES}.csv").is_file():
            raise InputError(f"{folder} holds no finished audit")
    return named


class DecidedAudit:
    """The findings of an audit in its folder; decisions are written beside them, and nothing else is changed.

    Args:
        folder: as `recondite audit -o` left it.

    Raises:
        InputError: it holds no finished audit.
    """

    def __init__(self, folder: Path | str) -> None:
        check_audits([folder])
        self.folder = Path(folder)
        self._lock = Lock()
        self._store = Store.opened(self.folder / SEEN / "images")
        self._row = {row.id: number for number, row in enumerate(self._store.rows)}
        self._proposed = {row["id"]: row["keep"] in _YES for row in read_events(self.folder / f"{SCORES}.csv")}
        issues = self.folder / f"{ISSUES}.csv"
        found = read_events(issues) if len(issues.read_bytes().splitlines()) > 1 else ()
        self._findings = [{**row, "drop": row["drop"] in _YES} for row in found if row["id"] in self._row]
        self._journal = Journal(self.folder / _DECIDED, _HEADER)
        self._decided: dict[str, str] = {}
        for row in self._journal.taken_up:
            self._take(row["ids"], row["decision"])

    def kinds(self) -> list[dict[str, Any]]:
        """Return each kind that was found: its name, severity, words, how many findings, and how many are decided."""
        found = []
        for kind, (severity, words) in KINDS.items():
            own = [row["id"] for row in self._findings if row["finding"] == kind]
            decided = sum(name in self._decided for name in own)
            if own:
                facts = {"kind": kind, "severity": severity, "words": words}
                found.append({**facts, "count": len(own), "decided": decided})
        return found

    def findings(self, kind: str, start: int, count: int) -> list[dict[str, Any]]:
        """Return findings of a kind in the order of the table, with what `said` says of each."""
        own = [row for row in self._findings if row["finding"] == kind][start : start + count]
        said = self.said([row["id"] for row in own])
        columns = ("id", "value", "reason", "group", "drop", "label")
        return [{**{name: row[name] for name in columns}, **said[row["id"]]} for row in own]

    def said(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return by image what was decided, "" for nothing, and whether it is kept."""
        return {name: {"decision": self._decided.get(name, ""), "keep": self._keeps(name)} for name in ids}

    def decide(self, ids: Sequence[str], decision: Decision) -> None:
        """Say of images that they are kept or dropped, or that what is proposed is right; or take back what was said.

        Raises:
            InputError: there is no such image or decision.
        """
        unknown = next((name for name in ids if name not in self._proposed), None)
        if unknown is not None or decision not in DECISIONS:
            raise InputError(
                f"expected images of this audit and one of {', '.join(DECISIONS)}; got {unknown or decision}"
            )
        with self._lock:
            self._journal.add([{"ids": list(ids), "decision": decision}], flushed=True)
            self._take(ids, decision)

    def counts(self) -> dict[str, int]:
        """Return how many images are kept, dropped, and decided on."""
        kept = sum(map(self._keeps, self._proposed))
        return {"keep": kept, "drop": len(self._proposed) - kept, "decided": len(self._decided)}

    def lists(self) -> tuple[list[str], list[str]]:
        """Return what is kept and what is dropped, as in keep.txt and drop.txt: paths, or ids of what has none."""
        ids = list(self._proposed)
        return kept_and_dropped(ids, [self._seen(name).place for name in ids], [self._keeps(name) for name in ids])

    def thumbnail(self, name: str) -> bytes:
        """Return the bytes of a JPEG file; none of an image that cannot be read.

        Raises:
            InputError: there is no such image.
        """
        self._seen(name)
        return self._store.thumbnail(self._row[name])

    def original(self, name: str) -> Path | None:
        """Return the file of an image; None where it is no file of this machine, or gone.

        Raises:
            InputError: there is no such image.
        """
        place = self._seen(name).place
        return Path(place) if os.path.isfile(place) else None  # noqa: PTH113  an address is no path

    def _seen(self, name: str) -> Row:
        if name not in self._row:
            raise InputError(f"this audit has no image {name!r}")
        return self._store.rows[self._row[name]]

    def _keeps(self, name: str) -> bool:
        decision = self._decided.get(name)
        return decision == "keep" if decision in ("keep", "drop") else self._proposed[name]

    def _take(self, ids: Iterable[str], decision: str) -> None:
        for name in ids:
            if decision == "undo":
                self._decided.pop(name, None)
            else:
                self._decided[name] = decision

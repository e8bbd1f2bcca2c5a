"""What an audit leaves: a table of findings, lists of what to keep and what to drop, links, and a page."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from recondite.audits.report import write_audit_report
from recondite.audits.result import Audit
from recondite.data.files import atomic_file, fitting, naming
from recondite.data.path_lists import write_path_list
from recondite.data.tables import SUFFIXES, csv_line, write_table

KEEP, DROP, CLEAN, REPORT = "keep.txt", "drop.txt", "clean", "report.html"
ISSUES, SCORES, SEEN = "issues", "scores", "seen"
OUTPUTS = (KEEP, DROP, CLEAN, REPORT, *(f"{name}{suffix}" for name in (ISSUES, SCORES) for suffix in SUFFIXES))
"""Names of all that an audit may leave."""
Kind = Literal["csv", "jsonl", "parquet"]
_COLUMNS = ("id", "finding", "severity", "value", "reason", "group", "drop", "label", "suggested", "score", "p_value")


def write_outputs(audit: Audit, name: str, folder: Path, kind: Kind = "csv") -> None:
    """Write all outputs of an audit into a folder that has none of them.

    Args:
        audit: what was found.
        name: of the source, for people.
        folder: of the outputs.
        kind: of tables to write beside those in CSV.
    """
    for suffix in dict.fromkeys(("csv", kind)):
        table = folder / f"{ISSUES}.{suffix}"
        if audit.findings or suffix != "csv":
            write_table(table, audit.records(), ("value", "score", "p_value"))
        else:
            with atomic_file(table) as temporary:
                temporary.write_text(csv_line(_COLUMNS), encoding="utf-8", newline="")
        write_table(folder / f"{SCORES}.{suffix}", audit.scored(), ("score", "p_value", "label_probability"))
    keep, drop = kept_and_dropped(audit.ids, audit.places, audit.keep.tolist())
    write_path_list(folder / KEEP, keep)
    write_path_list(folder / DROP, drop)
    _write_links(audit, set(keep), folder / CLEAN)
    write_audit_report(audit, name, folder / REPORT, f"{ISSUES}.{kind}", str(folder / KEEP))


def kept_and_dropped(ids: Sequence[str], places: Sequence[str], keep: Sequence[bool]) -> tuple[list[str], list[str]]:
    """Return the places, or ids of those without one, of images that are kept, and of those that are dropped.

    Of a file with several images it is the file that is kept, and only when all of them are.

    Args:
        ids, places: of N images; places are "" of those that are no files.
        keep: of each.
    """
    dropped = {place for place, kept in zip(places, keep, strict=True) if not kept and place}
    named = [place or name for place, name in zip(places, ids, strict=True)]
    stays = dict.fromkeys(one for one, kept in zip(named, keep, strict=True) if kept and one not in dropped)
    return list(stays), list(dict.fromkeys(one for one in named if one not in stays))


def _write_links(audit: Audit, keep: set[str], folder: Path) -> None:
    """Write a link to each image that is kept, by its id; images that are no files of this machine have none."""
    for name, place in zip(audit.ids, audit.places, strict=True):
        if place in keep and "://" not in place and "#" not in Path(name).suffix:
            link = folder.joinpath(*(fitting(part) for part in name.split("/")))
            if not Path(os.path.abspath(link)).is_relative_to(os.path.abspath(folder)):
                continue
            with naming(link):
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)  # of an audit that was interrupted here
                link.symlink_to(place)

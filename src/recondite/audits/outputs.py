"""What an audit leaves: a table of findings, lists of what to keep and what to drop, links, and a page."""

import os
from pathlib import Path

from recondite.audits.report import write_audit_report
from recondite.audits.result import Audit
from recondite.data.files import atomic_file, fitting, naming
from recondite.data.path_lists import write_path_list
from recondite.data.tables import csv_line, write_table

TABLE, SCORES, KEEP, DROP, CLEAN, REPORT = "issues.csv", "scores.csv", "keep.txt", "drop.txt", "clean", "report.html"
_COLUMNS = ("id", "finding", "severity", "value", "reason", "group", "drop", "label", "suggested", "score", "p_value")


def write_outputs(audit: Audit, name: str, folder: Path) -> None:
    """Write all outputs of an audit into a folder that has none of them.

    Args:
        audit: what was found.
        name: of the source, for people.
        folder: of the outputs.
    """
    table = folder / TABLE
    if audit.findings:
        write_table(table, audit.records(), ("value", "score", "p_value"))
    else:
        with atomic_file(table) as temporary:
            temporary.write_text(csv_line(_COLUMNS), encoding="utf-8", newline="")
    write_table(folder / SCORES, audit.scored(), ("score", "p_value"))
    # Of a file with several images it is the file that is kept, and only when all of them are.
    dropped = {place for place, drop in zip(audit.places, audit.drop, strict=True) if drop and place}
    named = [place or name for place, name in zip(audit.places, audit.ids, strict=True)]
    keep = dict.fromkeys(one for one, kept in zip(named, audit.keep, strict=True) if kept and one not in dropped)
    write_path_list(folder / KEEP, keep)
    write_path_list(folder / DROP, dict.fromkeys(one for one in named if one not in keep))
    _write_links(audit, set(keep), folder / CLEAN)
    write_audit_report(audit, name, folder / REPORT)


def _write_links(audit: Audit, keep: set[str], folder: Path) -> None:
    """Write a link to each image that is kept, by its id; images that are no files of this machine have none."""
    for name, place in zip(audit.ids, audit.places, strict=True):
        if place in keep and "://" not in place and "#" not in Path(name).suffix:
            link = folder.joinpath(*(fitting(part) for part in name.split("/")))
            if not Path(os.path.abspath(link)).is_relative_to(os.path.abspath(folder)):
                continue
            with naming(link):
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(place)

"""The page of an audit: what was found, gravest first, with pictures; one self-contained file."""

import base64
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from recondite.audits.findings import KINDS, SEVERITIES, Finding
from recondite.audits.result import Audit
from recondite.progress import counted
from recondite.reports.page import write_page
from recondite.reports.words import p_text

_SHOWN = 48


def write_audit_report(audit: Audit, name: str, path: Path) -> None:
    """Write the page of an audit, atomically.

    Args:
        audit: what was found.
        name: of the source, for people.
        path: the file.
    """
    sections = []
    for kind, findings in groupby(audit.findings, key=lambda finding: finding.kind):
        found = list(findings)
        severity, words = KINDS[kind]
        sections.append(
            {
                "kind": kind,
                "title": kind.replace("-", " ").capitalize(),
                "severity": severity,
                "words": words,
                "count": f"{len(found):,}",
                "left_out": max(0, len(found) - _SHOWN),
                "groups": [_group(audit, list(group)) for _, group in _grouped(found[:_SHOWN])],
            }
        )
    flagged = len({finding.index for finding in audit.findings})
    values = {
        "title": "What is wrong with these images",
        "source": name,
        "made": [("images", name)],
        "total": counted(len(audit.ids), "image"),
        "cards": [
            ("keep", f"{int(audit.keep.sum()):,}", "proposed to keep"),
            ("drop", f"{int(audit.drop.sum()):,}", "proposed to drop"),
            ("flagged", f"{flagged:,}", "with a finding"),
            ("kinds", f"{len(sections)}", "kinds of findings"),
        ],
        "severities": [severity for severity in SEVERITIES if any(s["severity"] == severity for s in sections)],
        "sections": sections,
        "farthest": [_picture(audit, index) for index in audit.farthest],
        "remarks": audit.remarks,
    }
    write_page(path, "audit.html", values)


def _grouped(findings: list[Finding]) -> Any:
    return groupby(findings, key=lambda finding: finding.group)


def _group(audit: Audit, findings: list[Finding]) -> dict[str, Any]:
    return {"name": findings[0].group, "entries": [_entry(audit, finding) for finding in findings]}


def _entry(audit: Audit, finding: Finding) -> dict[str, Any]:
    value = "" if np.isnan(finding.value) else f"{finding.value:.3g}"
    shown = _picture(audit, finding.index)
    return {**shown, "reason": finding.reason, "value": value, "drop": finding.drop}


def _picture(audit: Audit, index: int) -> dict[str, Any]:
    picture = audit.thumbnails.get(index, b"")
    return {
        "id": audit.ids[index],
        "p_value": p_text(float(audit.p_values[index])),
        "label": audit.labels[index],
        "data": f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}" if picture else "",
    }

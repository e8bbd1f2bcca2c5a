"""The page of an audit: what was found, gravest first, with pictures; one self-contained file."""

import base64
import shlex
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from recondite.audits.findings import KINDS, SEVERITIES, Finding
from recondite.audits.maps import COLOURS, NONE, OTHER, SetMap
from recondite.audits.result import Audit
from recondite.data.pictures import BLUE, GREY, ORANGE, PURPLE, RED
from recondite.progress import counted
from recondite.reports.page import write_page
from recondite.reports.words import p_text

_SHOWN = 48
_COLOURS = dict(zip((*COLOURS, OTHER, NONE), (RED, BLUE, PURPLE, ORANGE, GREY), strict=True))


def write_audit_report(audit: Audit, name: str, path: Path, table: str, keep: str) -> None:
    """Write the page of an audit, atomically.

    Args:
        audit: what was found.
        name: of the source, for people.
        path: the file.
        table: the file beside it that has every finding.
        keep: the list of what is kept, as a source of `recondite fit`.
    """
    sections, shown = [], set(audit.farthest)
    for kind, findings in groupby(audit.findings, key=lambda finding: finding.kind):
        found = list(findings)
        severity, words = KINDS[kind]
        shown |= {finding.index for finding in found[:_SHOWN]}
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
        "table": table,
        "keep": shlex.quote(keep) if audit.keeps_files else None,
        "total": counted(len(audit.ids), "image"),
        "cards": [
            ("keep", f"{int(audit.keep.sum()):,}", "proposed to keep"),
            ("drop", f"{int(audit.drop.sum()):,}", "proposed to drop"),
            ("flagged", f"{flagged:,}", "with a finding"),
            ("kinds", f"{len(sections)}", "kinds of findings"),
        ],
        "severities": [severity for severity in SEVERITIES if any(s["severity"] == severity for s in sections)],
        "sections": sections,
        "farthest": [
            {
                **_picture(audit, index),
                "differs": audit.differs[index],
                "heat": _jpeg(audit.heat_maps.get(index)),
            }
            for index in audit.farthest
        ],
        "heated": bool(audit.heat_maps),
        "remarks": audit.remarks,
        "map": None if audit.map is None else _map(audit, audit.map, shown),
    }
    write_page(path, "audit.html", values)


def _grouped(findings: list[Finding]) -> Any:
    return groupby(findings, key=lambda finding: finding.group)


def _group(audit: Audit, findings: list[Finding]) -> dict[str, Any]:
    return {"name": findings[0].group, "entries": [_entry(audit, finding) for finding in findings]}


def _entry(audit: Audit, finding: Finding) -> dict[str, Any]:
    value = "" if np.isnan(finding.value) else f"{finding.value:.3g}"
    shown = _picture(audit, finding.index)
    score = float(audit.scores[finding.index])
    told = {"score": "" if np.isnan(score) else f"{score:.6g}", "reason": finding.reason, "value": value}
    heat = _jpeg(audit.heat_maps.get(finding.index)) if finding.kind == "outlier" else ""
    return {**shown, **told, "heat": heat, "drop": finding.drop}


def _map(audit: Audit, drawn: SetMap, shown: set[int]) -> dict[str, Any]:
    """Return what the page draws; pictures of images that are `shown` on it are taken from there."""
    names = list(_COLOURS)
    images = drawn.indices.tolist()
    points = [
        [round(float(x), 4), round(float(y), 4), names.index(colour), index, audit.ids[index]]
        for (x, y), colour, index in zip(drawn.points, drawn.colours, images, strict=True)
    ]
    left_out = len(audit.scores[~np.isnan(audit.scores)]) - len(images)
    return {
        "legend": [
            {"words": words, "colour": colour, "count": f"{drawn.colours.count(words):,}"}
            for words, colour in _COLOURS.items()
        ],
        "left_out": f"{left_out:,}" if left_out else "",
        "data": {
            "points": points,
            "colours": list(_COLOURS.values()),
            "words": names,
            "none": names.index(NONE),
            "pictured": drawn.pictured,
            "pictures": {index: _picture(audit, index)["data"] for index in drawn.pictured if index not in shown},
        },
    }


def _picture(audit: Audit, index: int) -> dict[str, Any]:
    return {
        "index": index,
        "id": audit.ids[index],
        "p_value": p_text(float(audit.p_values[index])),
        "label": audit.labels[index],
        "data": _jpeg(audit.thumbnails.get(index)),
    }


def _jpeg(content: bytes | None) -> str:
    """Return the bytes of a JPEG file as a data URL; "" without any."""
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}" if content else ""

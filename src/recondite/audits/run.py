"""An audit: what is wrong with a set of images, which of them to keep, and why."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.audits import heat
from recondite.audits.copies import copy_findings, found_copies
from recondite.audits.findings import KINDS, SEVERITIES, Finding
from recondite.audits.groups import checked, grouped
from recondite.audits.labels import label_findings
from recondite.audits.maps import map_of
from recondite.audits.measures import MEASURES
from recondite.audits.neighbours import exactness
from recondite.audits.outliers import ASSUMED, FEWEST, discoveries, judged, reduced
from recondite.audits.outputs import OUTPUTS, SEEN, Kind, write_outputs
from recondite.audits.overlays import overlay_findings
from recondite.audits.result import Audit
from recondite.audits.single_images import single_image_findings, spreads_of
from recondite.audits.store import Row, Store
from recondite.audits.walk import Backbone, Images, Looking, LookingHere, opened, rows_of, walked
from recondite.cluster.connect import connect
from recondite.data.files import left_unfinished, locked
from recondite.data.listing import folder_label
from recondite.data.tables import check_table_path
from recondite.data.units import COPIES, NONE, GroupBy
from recondite.errors import InputError
from recondite.statistics.scores import check_rate

_WORK = ".work"
_OWN, _OTHER = "images", "against"
_UNUSUAL = 2.0
"""Spreads from which on a statistic is said to be why an image is unlike the others."""


def audit(
    images: object,
    output: Path | str | None = None,
    *,
    fdr: float = 0.1,
    against: object = None,
    labels_from_folders: bool = False,
    group_by: GroupBy = COPIES,
    earlier: Path | str | None = None,
    cluster: str | None = None,
    workers: int | None = None,
    table: Kind = "csv",
    progress: bool = False,
) -> Audit:
    """Find what is wrong with a set of images, none of which need be known to be good.

    Every image is decoded once. What an interrupted audit saw is taken up when it is run again with the same output,
    and what a finished one saw by an audit that names it as `earlier`.

    Args:
        images: whatever `open_images` opens, or a folder, file or address of tars (webdataset) or Parquet files.
        output: a folder that is new, empty, or holds an interrupted audit; None to write nothing. It gets issues.csv,
            scores.csv, keep.txt, drop.txt, a folder `clean` of links, report.html, and `seen` for later audits.
        fdr: the share of the outliers listed that may be normal; see `recondite.audits.outliers` for what is assumed.
        against: another source; images that it has too are leaks.
        labels_from_folders: the folder of an image is its label; else only labels that a source brings are judged.
        group_by: what tells images that belong together, as in `recondite.fit`: "copies" (those that are found),
            "folder", "prefix" (the name without its last number), a regular expression found in ids (its first group),
            a .csv file with the columns id and group, or labels, in order or by id. See `recondite.audits.groups`.
        earlier: the output of an audit of some of these images, which are not decoded again: files that did not change,
            or that have the same bytes under another name.
        cluster: look at the images on a Ray cluster, as in `recondite.cluster.connect.connect`; the result is the same,
            bit for bit, where its machines compute as this one does.
        workers: of the cluster; by default as many as fit.
        table: "jsonl" or "parquet" writes the tables in that format too.
        progress: show it on standard error.

    Raises:
        InputError: no images, vectors, ids that repeat, a `group_by` that fits none or makes one group of all, an
            output that holds something else, or no earlier audit.
        OutputError: the disk is full; what was seen is kept.
    """
    check_rate(fdr)
    check_table_path(Path(f"issues.{table}"))
    if output is not None:
        check_output(Path(output))
    if earlier is not None and not (Path(earlier) / SEEN / _OWN).is_dir():
        raise InputError(f"{earlier} holds no finished audit: expected its folder {SEEN!r}")
    seen = {name: None if earlier is None else Path(earlier) / SEEN / name for name in (_OWN, _OTHER)}
    with _work_folder(output) as work:
        source = opened(images)
        by = checked(source, group_by)
        other = None if against is None else opened(against)
        with _looking(source, cluster, workers) as looking:
            stores = [walked(source, work / _OWN, looking, seen[_OWN], progress)]
            if other is not None:
                stores.append(walked(other, work / _OTHER, looking, seen[_OTHER], progress))
        found = _judged(stores, source, fdr, labels_from_folders, by, output is not None)
        if output is not None:
            write_outputs(found, source.name, Path(output), table)
    return found


def check_output(folder: Path) -> None:
    """Raise InputError unless a folder is new, empty, or holds an audit that was interrupted."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder for the audit")
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if _WORK in there:
        own = {_WORK, *OUTPUTS, *(path.name for path in left_unfinished(folder))}
        there = [name for name in there if name not in own]
    if there:
        seen = f"; --earlier {folder} takes what it saw" if SEEN in there else ""
        raise InputError(f"{folder} holds {there[-1]!r}: an audit overwrites nothing, name a new folder{seen}")


@contextmanager
def _work_folder(output: Path | str | None) -> Iterator[Path]:
    """Yield a folder for what is seen; beside the outputs it stays until all is done."""
    if output is None:
        with tempfile.TemporaryDirectory(prefix="recondite-") as folder:
            yield Path(folder)
        return
    work = Path(output) / _WORK
    with locked(Path(output)):
        yield work
        work.rename(Path(output) / SEEN)


@contextmanager
def _looking(images: Images, cluster: str | None, workers: int | None) -> Iterator[Looking]:
    """Yield what looks at images, with a backbone that fits them, here or on a cluster."""
    here = LookingHere(_backbone(images))
    if cluster is None:
        yield here
        return
    from recondite.audits.crew import LookingThere

    with connect(cluster) as ray:
        yield LookingThere(ray, here, images.small if here.backbone else None, workers)


def _backbone(images: Images) -> Backbone | None:
    return Backbone(images.small) if images.photographs else None


def _judged(
    stores: list[tuple[Store, list[int]]],
    source: Images,
    fdr: float,
    labels_from_folders: bool,
    group_by: GroupBy,
    drawn: bool,
) -> Audit:
    rows = [row for store, order in stores for row in rows_of(store, order)]
    measures, grey, features = (
        np.concatenate([store.array(name)[order] for store, order in stores])
        for name in ("measures", "grey", "features")
    )
    own = len(stores[0][1])
    digests = [row.digest for row in rows]
    copies = found_copies(digests, grey, features)
    groups, between = grouped([row.id for row in rows[:own]], digests, copies, group_by)
    area = np.nan_to_num(measures[:, list(MEASURES).index("area")].astype(np.float64), nan=0.0)
    findings = single_image_findings(rows[:own], measures[:own], grey[:own])
    findings += copy_findings(rows, between, area, len(rows) - own, groups.labels)
    rows = rows[:own]
    vectors = (features if features.shape[1] else grey)[:own]
    good = np.flatnonzero([row.error is None for row in rows])
    if source.photographs:  # strokes of drawings meet in corners too
        findings += overlay_findings(rows, grey[:own], copies.group[:own], good)
    scores, p, of_labels = np.full((3, own), np.nan)
    labels, told_by_folders = _labels(rows, labels_from_folders)
    remarks, places, differs = [], np.zeros((0, 1)), [""] * own
    if group_by not in (COPIES, NONE):
        remarks.append(groups.in_words(group_by))
    if (how := exactness(len(digests))) is not None:
        remarks.append(how)
    if len(good) < FEWEST:
        remarks.append(f"outliers were not looked for: that takes {FEWEST} readable images, and there are {len(good)}")
    else:
        places = reduced(vectors[good])
        scores[good], p[good] = judged(places, groups.numbers[good])
        differs = _differs(measures[:own])
        findings += _outliers(rows, good[discoveries(p[good], fdr)], p, differs)
        remarks.append(
            f"compared by {'features of a frozen network' if features.shape[1] else 'small grey copies'}: {source.why}"
        )
        remarks.append(f"outliers at a false-discovery rate of {fdr:g}: {ASSUMED}")
        if any(labels[index] for index in good) and (labels_from_folders or not told_by_folders):
            wrong, told, of_labels[good] = label_findings(
                [rows[i] for i in good], [labels[i] for i in good], places, groups.numbers[good]
            )
            findings += [replace(finding, index=int(good[finding.index])) for finding in wrong]
            remarks += told
    findings.sort(key=_order)
    store, order = stores[0]
    found = tuple(findings)
    audit = Audit(
        ids=tuple(row.id for row in rows),
        labels=labels,
        places=tuple(row.place for row in rows),
        findings=found,
        scores=scores,
        p_values=p,
        label_probabilities=of_labels,
        false_discovery_rate=fdr,
        measures=measures[:own],
        differs=tuple(differs),
        thumbnails={},
        remarks=tuple(remarks),
        map=map_of(places, good, found) if drawn and len(places) else None,
    )
    shown = {finding.index for finding in found} | set(audit.farthest) | set(audit.map.pictured if audit.map else ())
    thumbnails = {index: store.thumbnail(order[index]) for index in sorted(shown)}
    audit = replace(audit, thumbnails=thumbnails)
    if not (drawn and features.shape[1]) or source.small:
        return audit
    return replace(audit, heat_maps=_heat_maps(audit, good, lambda index: store.thumbnail(order[index])))


def _heat_maps(audit: Audit, good: NDArray[np.intp], picture: Callable[[int], bytes]) -> dict[int, bytes]:
    """Return pictures under heat maps of outliers and of the farthest images, by index, compared with good ones."""
    flagged = [finding.index for finding in audit.findings]
    outliers = [finding.index for finding in audit.findings if finding.kind == "outlier"]
    odd = list(dict.fromkeys([*outliers, *audit.farthest]))[: heat.LARGEST]
    others = np.setdiff1d(good, [*flagged, *odd])
    if len(others) < heat.FEWEST:
        return {}
    others = np.sort(np.random.default_rng(0).permutation(others)[: heat.LEARNT])
    maps = heat.heat_maps([picture(index) for index in odd], [picture(int(index)) for index in others])
    return dict(zip(odd, maps, strict=True))


def _labels(rows: list[Row], from_folders: bool) -> tuple[tuple[str, ...], bool]:
    """Return the label of each image, and whether they are but the names of folders, which need not be classes."""
    folders = [folder_label(row.id) for row in rows]
    named = [row.label in (folder, folder.rpartition("/")[2]) for row, folder in zip(rows, folders, strict=True)]
    if from_folders:
        return tuple(
            row.label if same else folder for row, folder, same in zip(rows, folders, named, strict=True)
        ), True
    return tuple(row.label for row in rows), all(named)


def _outliers(rows: list[Row], flagged: NDArray[np.intp], p: NDArray[np.float64], differs: list[str]) -> list[Finding]:
    """Return findings of the discoveries, each with the statistic in which it differs most from the set."""
    words = KINDS["outlier"][1]
    return [
        Finding(int(index), rows[index].id, "outlier", float(p[index]), f"{words}: {differs[index]}", drop=True)
        for index in flagged
    ]


def _differs(measures: NDArray[np.float32]) -> list[str]:
    """Return of each image (N, statistics) the statistic in which it differs most from the set, in words."""
    spreads = np.nan_to_num(spreads_of(measures), nan=-1.0)
    names = [words for words, _ in MEASURES.values()]
    return [
        f"most in {names[best]}, by {row[best]:.1f} spreads"
        if row[best] >= _UNUSUAL
        else f"no plain statistic is unusual (most {names[best]}, by {row[best]:.1f} spreads)"
        for row, best in zip(spreads, spreads.argmax(axis=1), strict=True)
    ]


def _order(finding: Finding) -> tuple[Any, ...]:
    value = -np.inf if np.isnan(finding.value) else finding.value
    far = value if finding.kind == "outlier" else -value
    kinds = list(KINDS)
    return SEVERITIES.index(finding.severity), kinds.index(finding.kind), finding.group, far, finding.index

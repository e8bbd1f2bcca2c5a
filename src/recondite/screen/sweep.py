"""A sweep: judging a whole source into a table, in bounded memory, resumable after an interruption."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from recondite import __version__
from recondite.data.datasets import ImageSet, open_images
from recondite.data.files import atomic_file, behind_links, beside, fitting, locked
from recondite.data.identity import WatchedImages, identity_of
from recondite.data.journal import Journal
from recondite.data.manifests import address_of, check_manifest, write_manifest
from recondite.data.outputs import check_outputs
from recondite.data.tables import check_table_path, is_stdout, write_table
from recondite.errors import InputError
from recondite.progress import progress as show
from recondite.screen.fastest import runtime_of
from recondite.screen.screen import OnBad, Screen
from recondite.screen.unfamiliar import too_many, unlike
from recondite.statistics.scores import NUMBERS, Scores, Verdicts, check_rate

_LONGEST_PATH = 3000


@dataclass(frozen=True)
class Sweep:
    """What a sweep came to.

    Args:
        verdicts: in the order of the source.
        taken_up: how many of them an interrupted sweep had left.
        images: the source, opened, for whoever looks at the images again, such as a report.
        remarks: how the images are unlike those that the screen learnt from, in words.
    """

    verdicts: Verdicts
    taken_up: int
    images: ImageSet
    remarks: tuple[str, ...] = ()


def sweep(
    screen: Screen,
    images: object,
    output: Path,
    *,
    region: object = None,
    fdr: float | None = None,
    maps: Path | None = None,
    manifest: Path | None = None,
    group: str | None = None,
    on_bad: OnBad = "flag",
    statistics: bool = False,
    progress: bool = False,
) -> Sweep:
    """Judge every image of a source and write one row each.

    Scores are journalled beside `output` as they come; a sweep that was interrupted goes on from its journal when it is
    run again with the same screen and output. Only what is still the same image is not judged again: the same file,
    not written since, or the same content (see `identity_of`).

    Args:
        screen: the judge.
        images: anything that `open_images` opens, but a stream.
        output: .csv, .jsonl or .parquet; written atomically at the end, through a link. "-" or /dev/stdout is a CSV
            table on standard output, which has no journal.
        region: as in `Screen.predict`.
        fdr: control the false-discovery rate over the whole sweep instead of the false-alarm rate.
        maps: a folder for one heat map (PNG) an image, named after its id, all on one scale; parts of a name that no
            file can have for their length are cut, see `fitting`.
        manifest: .jsonl, .ndjson or .manifest, for the verdicts as a manifest of the images; see
            `recondite.data.manifests`.
        group: which group's calibration holds for all of them, where there are groups and folders do not tell.
        on_bad: what an unreadable image becomes; see `Screen.predict`.
        statistics: write the statistics that the screen judges by, too, as "statistic.NAME"; `recondite monitor` says
            by them what has moved.
        progress: show progress on standard error.

    Raises:
        InputError: no images, a stream, ids that repeat, outputs that cannot be written or that another process is
            writing (see `check_outputs`); or an unreadable image, with on_bad="raise".
        OutputError: the disk is full; what was judged is kept.
    """
    check_table_path(output)
    if fdr is not None:
        check_rate(fdr)
    check_outputs({"output": output, "manifest": manifest}, {"maps": maps}, inputs=[images], images=images)
    opened = open_images(images, shape=screen.detector.shape, masks=region)
    if opened.ids is None:
        raise InputError("a sweep needs a source that can be walked through again; got a stream")
    if len(set(opened.ids)) < len(opened.ids):
        raise InputError("a sweep needs different ids: one row each could not be told from another")
    if manifest is not None:
        check_manifest(manifest, (opened.entry(index)[0] for index in range(len(opened.ids))))
    if group is not None:
        screen.calibrator.check_group(group)
        opened = opened.labelled(group)
    if maps is not None and not screen.detector.preprocessing.is_image:
        raise InputError("heat maps are of images; this screen takes vectors")
    if maps is not None and not screen.detector.locates:
        raise InputError(
            "this screen judges images as a whole and has no heat maps: fit it with a method of places, such as padim"
        )
    header: dict[str, Any] = {
        "screen": screen.fingerprint(),
        "group": group,
        "maps": None if maps is None else os.path.abspath(maps),
        "statistics": statistics,
    }
    settings: dict[str, Any] = {"maps": maps, "on_bad": on_bad, "statistics": statistics, "progress": progress}
    with _journal_for(output) as journal:
        swept = journalled(screen, opened, journal, header, **settings)
        if fdr is not None:
            swept = replace(swept, verdicts=swept.verdicts.with_false_discovery_rate(fdr))
        counts = swept.verdicts.counts()
        remarks = unlike(screen.facts.get("sample"), screen.detector.preprocessing, opened)
        remarks += too_many(counts["outlier"], counts["inlier"] + counts["outlier"])
        told = {"screen": header["screen"], "judged_by": runtime_of(screen)}
        write_table(output, swept.verdicts.records(statistics), NUMBERS, told)
        if manifest is not None:
            _write_manifest(manifest, swept, f"recondite/{header['screen'][:12]}")
        journal.unlink()
    return replace(swept, remarks=tuple(remarks))


def _write_manifest(path: Path, swept: Sweep, job: str) -> None:
    images = swept.images
    assert images.ids is not None
    place = {name: index for index, name in enumerate(images.ids)}
    records = swept.verdicts.records()
    named = ((address_of(images.entry(place[record["id"]])[0]), record) for record in records)
    write_manifest(path, ((address or record["id"], record) for address, record in named), job)


@contextmanager
def _journal_for(output: Path) -> Iterator[Path]:
    """Yield where the journal of a table is, while no other process writes to the table."""
    if is_stdout(output):
        with tempfile.TemporaryDirectory(prefix="recondite-") as folder:
            yield Path(folder) / "journal"
    else:
        with locked(output):
            yield beside(behind_links(output), ".journal")


def journalled(
    screen: Screen,
    images: ImageSet,
    journal: Path,
    header: Mapping[str, Any],
    *,
    maps: Path | None = None,
    on_bad: OnBad = "flag",
    statistics: bool = False,
    progress: bool = False,
) -> Sweep:
    """Judge every image of a source, writing down each score as it comes; what the journal holds is not judged again.

    Args:
        screen, maps, on_bad, statistics, progress: as in `sweep`.
        images: with ids, all different.
        journal: a file that stays when all is done, until the caller removes it.
        header: JSON values that the scores depend on; a journal with another header is begun anew.

    Raises:
        InputError: not one image is left.
    """
    written = Journal(journal, {"versions": {"recondite": __version__, "torch": version("torch")}, **header})
    done = _still_so(written.taken_up, images, maps)
    taken_up = len(done)
    watched = WatchedImages.of(images)
    with show("screening", images.size, progress) as advance:
        advance(taken_up, "")
        for scores in screen.scored(watched, on_bad=on_bad, feature_score=maps is not None, skip=frozenset(done)):
            if maps is not None:
                _write_maps(maps, scores, screen)
            rows = _rows(scores, statistics, watched.identities)
            written.add(rows)
            done |= {row["id"]: row for row in rows}
            advance(len(scores), "")
    return Sweep(screen.judge(_in_order(done, images)), taken_up, images)


def _still_so(rows: Iterable[Mapping[str, Any]], images: ImageSet, maps: Path | None) -> dict[str, Mapping[str, Any]]:
    """Return id -> row for the rows of a journal that are of images as they are now, and have the maps they should.

    Errors are looked at again.
    """
    assert images.ids is not None
    place = {name: index for index, name in enumerate(images.ids)}
    return {
        row["id"]: row
        for row in rows
        if row["error"] is None
        and row["id"] in place
        and row["image"] is not None
        and row["image"] == identity_of(images.entry(place[row["id"]])[0])
        and (maps is None or (maps / _map_name(row["id"])).is_file())
    }


def _rows(scores: Scores, with_statistics: bool, identities: dict[str, str | None]) -> list[dict[str, Any]]:
    """Return a row for the journal for each image: its id and identity, score, error and statistics."""
    found = (scores.statistics or {}) if with_statistics else {}
    return [
        {
            "id": name,
            "image": identities.pop(name),
            "score": _written(score),
            "error": error,
            "statistics": {statistic: _written(values[index]) for statistic, values in found.items()},
        }
        for index, (name, score, error) in enumerate(zip(scores.ids, scores.instance_score, scores.errors, strict=True))
    ]


def _written(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _parsed(value: float | None) -> float:
    return float("nan") if value is None else value


def _in_order(done: Mapping[str, Mapping[str, Any]], images: ImageSet) -> Scores:
    """Return the journalled scores in the order of the source."""
    assert images.ids is not None
    kept = [index for index, name in enumerate(images.ids) if name in done]
    if not kept:
        raise InputError("not one of the images could be read, and on_bad='skip' leaves no rows")
    rows = [done[images.ids[index]] for index in kept]
    return Scores(
        ids=tuple(row["id"] for row in rows),
        instance_score=np.array([_parsed(row["score"]) for row in rows], dtype=np.float64),
        errors=tuple(row["error"] for row in rows),
        statistics={
            name: np.array([_parsed(row["statistics"][name]) for row in rows]) for name in rows[0]["statistics"]
        }
        or None,
        labels=tuple(images.label(index) for index in kept),
    )


def _map_name(name: str) -> str:
    """Return where the map of an image goes, by its id, whatever length that has."""
    *folders, last = name.split("/")
    path = "/".join([*map(fitting, folders), fitting(last, ".map.png")]).lstrip("/")
    return path if len(path) < _LONGEST_PATH else fitting(name.replace("/", "~"), ".map.png")


def _write_maps(folder: Path, scores: Scores, screen: Screen) -> None:
    from recondite.data.pictures import heat_colours  # matplotlib takes a while

    assert scores.feature_score is not None
    region = screen.detector.preprocessing.region
    for name, feature_score, error in zip(scores.ids, scores.feature_score, scores.errors, strict=True):
        if error is None:
            # The whole id, suffix included: a.png and a.jpg, or the same name in two folders, do not collide.
            target = folder / _map_name(name)
            if not Path(os.path.abspath(target)).is_relative_to(os.path.abspath(folder)):
                raise InputError(f"the id {name!r} names a file outside {folder}")
            with atomic_file(target) as temporary:
                Image.fromarray(heat_colours(feature_score, screen.map_scale, region)).save(temporary, format="PNG")

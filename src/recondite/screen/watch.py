"""Watching: images are judged as they arrive in a folder, or as a camera gives them, into a table that grows."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recondite.data.arrivals import Arrivals
from recondite.data.camera import Camera, Film, Frame
from recondite.data.datasets import ImageSet, attempted, gathered, nameless
from recondite.data.files import atomic_file, locked
from recondite.data.growing import GrowingTable, check_growing
from recondite.data.identity import identity_of
from recondite.data.listing import folder_label, images_in
from recondite.data.masks import check_masks, mask_folder
from recondite.data.outputs import check_outputs
from recondite.data.sorting import How, SortedFiles
from recondite.errors import InputError
from recondite.progress import say
from recondite.screen.screen import Screen
from recondite.screen.unfamiliar import unlike
from recondite.statistics.scores import Scores

VERDICTS = ("inlier", "outlier", "invalid")
_BATCHES_AT_ONCE = 4
_FRAMES_AT_ONCE = 8
_MOST_FACTS = 10_000
_SHARE_OF_TIME = 0.25
Record = dict[str, Any]


def watch_folder(
    screen: Screen,
    folder: Path,
    output: Path,
    *,
    sort_into: tuple[How, Path] | None = None,
    settle: float = 2.0,
    patience: float = 30.0,
    poll: float = 1.0,
    idle: float | None = None,
    region: object = None,
    group: str | None = None,
    statistics: bool = False,
    begun: Callable[[], None] = lambda: None,
    stopped: threading.Event | None = None,
) -> Iterator[list[Record]]:
    """Judge the images that arrive in a folder, and yield their rows when they are written down, some at a time.

    Run again with the same screen and output, it goes on: what was judged is not judged again, unless the file was
    written anew, which makes it another image with a row of its own.

    Args:
        screen: the judge.
        folder: looked through with its sub-folders, which are groups where the calibration has any.
        output: .csv or .jsonl, with the rows of a sweep; see `GrowingTable`.
        sort_into: "move" or "link", and a folder that gets each file into a sub-folder named by its verdict.
        settle: seconds without a change after which a file is complete.
        patience: the same for a file that cannot be read: it may still be on its way.
        poll: seconds between two looks; more where a look takes long.
        idle: end after so many seconds without a change; None to go on.
        region: folder with one mask per image, for a screen that was fitted with one; see `open_images`. An image is
            not complete before its mask is there. Not within the folder that is watched.
        group: which group's calibration holds for all of them; by default the folders tell.
        statistics: write the statistics that the screen judges by, as in a sweep.
        begun: called when all is checked, before the first look.
        stopped: set it to end after what is being judged.

    Raises:
        InputError: no such folder, an output that cannot be written or is from another watch, or masks that are
            missing, not wanted or watched themselves.
        OutputError: the disk is full; what was judged is kept.
    """
    check_growing(output)
    if group is not None:
        screen.calibrator.check_group(group)
    if not folder.is_dir():
        raise InputError(f"expected a folder of this machine to watch; got {str(folder)!r}")
    check_outputs({"output": output}, {"sorted into": sort_into[1] if sort_into else None}, images=folder)
    masks = None if region is None else mask_folder(region)
    check_masks(masks, screen.detector.preprocessing.masked)
    if masks is not None and folder.resolve() in (masks.resolve(), *masks.resolve().parents):
        raise InputError(f"{masks} is watched itself, so that masks would be judged as images: keep them elsewhere")
    sorted_files = None if sort_into is None else SortedFiles(sort_into[1], sort_into[0], VERDICTS)
    stop = stopped or threading.Event()
    with locked(output):
        header = _header(screen, folder, group, statistics) | ({} if masks is None else {"region": str(masks)})
        table = GrowingTable(output, header, _columns(screen, statistics))
        watch = _FolderWatch(screen, folder, table, sorted_files, group, statistics, masks)
        arrivals = Arrivals(folder, settle, {name: fact["image"] for name, fact in watch.facts.items()})
        begun()
        watch.sort_again()
        changed = time.monotonic()
        at_once = _BATCHES_AT_ONCE * screen.detector.scoring_batch
        while not stop.is_set():
            names = arrivals.ready()[:at_once]
            records = watch.judge(names, arrivals, patience) if names else []
            if records:
                yield records
            if records or arrivals.waiting:
                changed = time.monotonic()
            elif idle is not None and time.monotonic() - changed >= idle:
                return
            if len(names) < at_once:
                stop.wait(max(poll, arrivals.seconds / _SHARE_OF_TIME))


def watch_frames(
    screen: Screen,
    frames: Camera | Film,
    output: Path,
    *,
    save: tuple[Path, Sequence[str]] | None = None,
    group: str | None = None,
    statistics: bool = False,
    begun: Callable[[], None] = lambda: None,
    stopped: threading.Event | None = None,
) -> Iterator[list[Record]]:
    """Judge the frames of a camera or film, and yield their rows when they are written down, some at a time.

    Run again with the same screen and output, it goes on: a film after the last frame that was judged.

    Args:
        screen, output, group, statistics, begun, stopped: as in `watch_folder`.
        frames: where they come from.
        save: a folder that gets frames as PNG, each into a sub-folder named by its verdict, and which verdicts.

    Raises:
        InputError: a film or camera that cannot be opened, or an output that cannot be written or is from another
            watch.
        OutputError: the disk is full; what was judged is kept.
    """
    check_growing(output)
    if group is not None:
        screen.calibrator.check_group(group)
    check_outputs({"output": output}, {"saved into": save[0] if save else None})
    if screen.detector.preprocessing.masked:
        raise InputError(
            "this screen was fitted with one mask per image, and frames have none: fit one with a region of all images"
        )
    stop = stopped or threading.Event()
    with locked(output):
        table = GrowingTable(output, _header(screen, frames.name, group, statistics), _columns(screen, statistics))
        last = table.taken_up[-1] if table.taken_up else {}
        table.taken_up = []
        start = int(last.get("next", 0)) if last.get("film") == frames.identity else 0
        begun()
        for some in frames.some(min(_FRAMES_AT_ONCE, screen.detector.scoring_batch), start, stop):
            records = _judge_frames(screen, some, group or "", statistics)
            if save is not None:
                _save_frames(save[0], save[1], some, records)
            table.add([{"film": frames.identity, "next": some[-1].number + 1}], records)
            if table.since_rewritten > _MOST_FACTS:
                table.remember([{"film": frames.identity, "next": some[-1].number + 1}])
            yield records


def _judge_frames(screen: Screen, frames: Sequence[Frame], group: str, statistics: bool) -> list[Record]:
    preprocessing = screen.detector.preprocessing
    names, found = [frame.name for frame in frames], [attempted(preprocessing, frame.picture) for frame in frames]
    batch = gathered(names, [group] * len(names), found, preprocessing.shape)
    return list(screen.judge(screen.score_batch(batch)).records(statistics))


def _save_frames(folder: Path, verdicts: Sequence[str], frames: Sequence[Frame], records: Sequence[Record]) -> None:
    for frame, record in zip(frames, records, strict=True):
        if record["verdict"] in verdicts:
            target = folder / record["verdict"] / f"{frame.name.replace('/', '_')}.png"
            with atomic_file(target) as temporary:
                frame.picture.save(temporary, format="PNG")


class _FolderWatch:
    """What judging needs from one look to the next."""

    def __init__(
        self,
        screen: Screen,
        folder: Path,
        table: GrowingTable,
        sorted_files: SortedFiles | None,
        group: str | None,
        statistics: bool,
        masks: Path | None = None,
    ) -> None:
        self._screen, self._folder, self._table, self._sorted = screen, folder, table, sorted_files
        self._group, self._statistics, self._masks, self._looked = group, statistics, masks, False
        self.facts = {fact["file"]: fact for fact in table.taken_up}
        table.taken_up = []

    def sort_again(self) -> None:
        """Move or link what was judged and, because of an interruption, is still as it was."""
        if self._sorted is not None:
            for name, fact in self.facts.items():
                if identity_of(self._folder / name) == fact["image"] is not None:
                    self._sorted.put(self._folder / name, name, fact["verdict"])

    def judge(self, names: Sequence[str], arrivals: Arrivals, patience: float) -> list[Record]:
        """Judge some files, write them down, sort them, and return their rows; files that are not complete wait."""
        before = {name: identity_of(self._folder / name) for name in names}
        found = self._score(names)
        judged: dict[str, list[Record]] = {}
        for name in names:
            unreadable = any(record["error"] is not None for record in found[name])
            if before[name] is None or identity_of(self._folder / name) != before[name]:
                continue  # it changed, or went, while it was read
            if unreadable and arrivals.unchanged(name) < patience:
                arrivals.put_off(name, patience - arrivals.unchanged(name))
            else:
                judged[name] = found[name]
        new = {
            name: {"file": name, "image": before[name], "verdict": _verdict_of(records)}
            for name, records in judged.items()
        }
        rows = [record for records in judged.values() for record in records]
        if new:
            self._table.add(new.values(), rows)
        for name, fact in new.items():
            arrivals.done(name)
            if self._sorted is not None:
                self._sorted.put(self._folder / name, name, str(fact["verdict"]))
        self.facts |= new
        self._shorten(arrivals)
        return rows

    def _score(self, names: Sequence[str]) -> dict[str, list[Record]]:
        """Return the rows of each file: one, or one a page."""
        labels = [folder_label(name) if self._group is None else self._group for name in names]
        files, ids, own = images_in(self._folder, names, labels)
        images = ImageSet(files, ids, own, parallel=True, masks=self._masks)
        if not self._looked:
            self._looked = True
            for remark in unlike(self._screen.facts.get("sample"), self._screen.detector.preprocessing, images):
                say(remark)
        verdicts = self._screen.judge(Scores.concatenate(self._screen.scored(images)))
        rows: dict[str, list[Record]] = {name: [] for name in names}
        for name, record in zip(files.names, verdicts.records(self._statistics), strict=True):
            rows[name].append(record)
        return rows

    def _shorten(self, arrivals: Arrivals) -> None:
        """Let go of facts about files that are gone for long, when there are many."""
        if self._table.since_rewritten > max(_MOST_FACTS, 2 * len(self.facts)):
            kept = arrivals.remembered()
            self.facts = {name: fact for name, fact in self.facts.items() if name in kept}
            self._table.remember(self.facts.values())


def _verdict_of(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the verdict on a file by those on its pages: outlier before invalid before inlier."""
    words = {str(record["verdict"]) for record in records}
    return next(word for word in ("outlier", "invalid", "inlier") if word in words)


def _header(screen: Screen, source: object, group: str | None, statistics: bool) -> dict[str, Any]:
    return {
        "screen": screen.fingerprint(),
        "alpha": screen.alpha,
        "confidence": screen.confidence,
        "guarantee": screen.guarantee,
        "source": str(source),
        "group": group,
        "statistics": statistics,
    }


def _columns(screen: Screen, statistics: bool) -> list[str]:
    """Return the names of the columns of a screen's rows."""
    lone = screen.score_batch(nameless(np.full((1, *screen.detector.shape), 0.5, dtype=np.float32)))
    return list(next(screen.judge(replace(lone, labels=None)).records(statistics)))

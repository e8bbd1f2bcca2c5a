"""Shared by the studies of a finished screen: sampled images, changed copies scored in one stream, output files."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from recondite.data.datasets import nameless, open_images, read_batches
from recondite.data.files import atomic_file
from recondite.data.images import Floats
from recondite.data.pictures import drawn, figure_of
from recondite.data.tables import write_table
from recondite.detectors import Detector
from recondite.errors import InputError
from recondite.progress import counted
from recondite.progress import progress as show
from recondite.reports.page import TablePage
from recondite.screen.screen import Screen
from recondite.statistics.scores import Scores
from recondite.studies.unfinished import Unfinished

Chunk = tuple[int, Callable[[], Floats]]
"""How many images, and what makes them (n, C, H, W)."""
FIGURES = "figures"
_FORMATS = ("png", "svg")
_PART = 1024


def some_images(
    source: object, detector: Detector, count: int, seed: int = 0
) -> tuple[list[str], list[str], Floats, list[tuple[str, str]]]:
    """Return the ids, labels and pixels of some images, chosen at random where the source can be counted, and the bad.

    Args:
        source: anything that `open_images` opens.
        detector: whose preprocessing they get.
        count: how many at most; all chosen ones are kept in memory.
        seed: of the choice; the order stays that of the source.

    Raises:
        InputError: none can be read, or the detector takes vectors.
    """
    if not detector.preprocessing.is_image:
        raise InputError("this study is of images; the screen takes vectors")
    if count < 1:
        raise InputError(f"expected at least one image; got {count}")
    opened = open_images(source, shape=detector.shape)
    if opened.size is not None and opened.size > count:
        opened = opened.select(np.sort(np.random.default_rng(seed).permutation(opened.size)[:count]))
    ids: list[str] = []
    labels: list[str] = []
    bad: list[tuple[str, str]] = []
    pixels: list[Floats] = []
    for batch in read_batches(opened, detector.preprocessing, detector.scoring_batch):
        readable = batch.only_good()
        ids.extend(readable.ids)
        labels.extend(readable.labels)
        bad.extend(batch.unreadable())
        pixels.append(batch.pixels)
        if len(ids) >= count:
            break
    if not ids:
        raise InputError(f"none of the images can be read; the first: {bad[0][0]}: {bad[0][1]}")
    return ids[:count], labels[:count], np.concatenate(pixels)[:count], bad


def in_batches(chunks: Iterable[Floats], size: int) -> Iterator[Floats]:
    """Yield the images of chunks of any length (n, C, H, W), put together to batches of one size, in order."""
    waiting: list[Floats] = []
    held = 0
    for chunk in chunks:
        waiting.append(chunk)
        held += len(chunk)
        if held >= size:
            joined = np.concatenate(waiting)
            full = held - held % size
            for start in range(0, full, size):
                yield joined[start : start + size]
            waiting, held = [joined[full:]], held - full
    if held:
        yield np.concatenate(waiting)


def score_stream(
    screen: Screen,
    chunks: Iterable[Chunk],
    reduced: Callable[[Scores], NDArray[np.float64]],
    unfinished: Unfinished,
    *,
    title: str,
    progress: bool = False,
    feature_score: bool = False,
) -> NDArray[np.float64]:
    """Score changed images in one stream and return what is kept of each, (total, ...).

    Args:
        screen: scores them as it scores all images.
        chunks: of images, made while they are scored, so memory does not grow with their number.
        reduced: scores of n images to what is kept of them (n, ...).
        unfinished: keeps what is found as the stream goes on; what it holds already is not made again.
        title: for the progress; different for each stream of a study.
        progress: show it on standard error.
        feature_score: `reduced` needs the score of each value.
    """
    every = list(chunks)
    parts = []
    with show(title, sum(size for size, _ in every), progress) as advance:

        def scored(own: Sequence[Chunk]) -> NDArray[np.float64]:
            found = []
            for pixels in in_batches((make() for _, make in own), screen.detector.scoring_batch):
                found.append(reduced(screen.score_batch(nameless(pixels), feature_score=feature_score)))
                advance(len(pixels), "")
            return np.concatenate(found)

        for number, own in enumerate(_in_parts(every)):
            name = f"{title}-{number}".replace(" ", "-")
            if unfinished.holds(name):
                advance(sum(size for size, _ in own), "")
            parts.append(unfinished.once(name, partial(scored, own)))
    return np.concatenate(parts)


def _in_parts(chunks: Sequence[Chunk]) -> Iterator[Sequence[Chunk]]:
    """Yield runs of chunks of about `_PART` images."""
    start, held = 0, 0
    for end, (size, _) in enumerate(chunks, 1):
        held += size
        if held >= _PART or end == len(chunks):
            yield chunks[start:end]
            start, held = end, 0


def flagged(screen: Screen, scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which scores (N,) are above the screen's threshold; the first group's, where it has one for each group."""
    groups = screen.calibrator.groups
    labels = None if groups is None else [groups[0]] * len(scores)
    return screen.calibrator.is_outlier(scores, screen.alpha, labels, screen.confidence, screen.guarantee)


def write_study(
    output: Path,
    page: TablePage,
    rows: Sequence[Mapping[str, Any]],
    figures: Mapping[str, Axes],
    tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    unfinished: Unfinished | None = None,
) -> None:
    """Write table.csv, further tables, each figure as PNG and SVG, and study.html, each atomically.

    Args:
        output: the folder.
        page: what stands in study.html, its figures not yet.
        rows: of table.csv.
        figures: file name without suffix -> axes.
        tables: further file names without suffix -> rows.
        unfinished: parts of the study that are not needed any more when it is written.
    """
    write_table(output / "table.csv", rows)
    for name, more in (tables or {}).items():
        write_table(output / f"{name}.csv", more)
    for name, ax in figures.items():
        for suffix in _FORMATS:
            with atomic_file(output / FIGURES / f"{name}.{suffix}") as temporary:
                temporary.write_bytes(drawn(figure_of(ax), suffix))
    page.figures.extend(figures.values())
    page.write(output / "study.html")
    if unfinished is not None:
        unfinished.finish()


def unreadable(bad: Sequence[tuple[str, str]]) -> str:
    """Say how many images were left out, if any."""
    were = "was" if len(bad) == 1 else "were"
    return f" {counted(len(bad), 'unreadable image')} {were} left out, the first: {bad[0][0]}." if bad else ""


def flagged_by(screen: Screen) -> str:
    """Say by which calibration `flagged` goes, where a screen has one for each group."""
    groups = screen.calibrator.groups
    return "" if groups is None else f" What is flagged is by the calibration of group {groups[0]}, for all images."

"""Severity studies: score against corruption severity, and localisation of small made-up defects by error maps."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.datasets import nameless
from recondite.data.images import Floats
from recondite.errors import InputError
from recondite.perturbations import CORRUPTIONS, DEFECTS, SEVERITIES, corrupted, defective
from recondite.progress import counted
from recondite.reports.figures import plot_aurocs
from recondite.reports.image_figures import plot_feature_scores
from recondite.reports.page import TablePage
from recondite.reports.words import made_from
from recondite.screen.screen import Screen
from recondite.screen.words import ERROR
from recondite.statistics.localisation import per_region_overlap, pixel_auroc
from recondite.statistics.metrics import auroc
from recondite.studies.figures import plot_lines
from recondite.studies.output import Chunk, flagged, flagged_by, score_stream, some_images, unreadable, write_study
from recondite.studies.unfinished import Unfinished

_AT_ONCE = 32
_SHOWN = 2


def severity_study(
    screen: Screen,
    images: object,
    output: Path,
    *,
    corruptions: Sequence[str] | None = None,
    count: int = 200,
    score: str = ERROR,
    seed: int = 0,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Measure the score against five severities of corruptions, and write table.csv, figures and study.html.

    Args:
        screen, output, score, seed, progress: as in `recondite.studies.masks.mask_size_study`.
        images: normal images, anything that `open_images` opens.
        corruptions: names in `CORRUPTIONS`; all that can be done to such images by default.
        count: how many images at most.

    Returns:
        One row a corruption and severity (0 is the image as it is): "corruption", "severity", "mean", "auroc" (of the
        corrupted images against the same ones as they are), "flagged".

    Raises:
        InputError: an unknown corruption, or no readable images.
    """
    judge = screen.with_score(score)
    _, _, pixels, bad = some_images(images, screen.detector, count, seed)
    names = list(corruptions) if corruptions else [n for n in CORRUPTIONS if n != "saturation" or pixels.shape[1] > 1]

    damages = [(name, severity) for name in names for severity in SEVERITIES]
    made = [
        *_pieces(pixels, lambda some, _: some),
        *(chunk for damage in damages for chunk in _pieces(pixels, partial(_corrupted, *damage, seed))),
    ]
    unfinished = Unfinished(output, "severity", judge.fingerprint(), pixels, names, seed)
    found = score_stream(
        judge, made, lambda scores: scores.instance_score, unfinished, title="scoring corruptions", progress=progress
    )
    clean, rest = found[: len(pixels)], found[len(pixels) :].reshape(len(names), len(SEVERITIES), len(pixels))
    rows: list[dict[str, Any]] = []
    for name, by_severity in zip(names, rest, strict=True):
        for severity, values in zip((0, *SEVERITIES), (clean, *by_severity), strict=True):
            row = {"corruption": name, "severity": severity, "mean": float(values.mean())}
            rows.append({**row, "auroc": auroc(clean, values), "flagged": float(flagged(judge, values).mean())})
    table = {name: [row for row in rows if row["corruption"] == name] for name in names}
    aurocs = [[row["auroc"] for row in own[1:]] for own in table.values()]
    figures = {
        "aurocs": plot_aurocs(aurocs, names, [f"severity {severity}" for severity in SEVERITIES]),
        **{
            f"severity-{number + 1}": plot_lines(
                [0, *SEVERITIES],
                {name: [row["mean"] for row in table[name]] for name in names[start : start + 5]},
                xlabel="severity",
                ylabel=f"mean score ({score})",
            )
            for number, start in enumerate(range(0, len(names), 5))
        },
    }
    page = TablePage(
        title="Score against corruption",
        lead=f"{counted(len(pixels), 'image')}, {counted(len(names), 'corruption')} at five severities; score "
        f"{score!r} of a screen ({screen.detector.name}). {counted(len(found), 'image')} "
        f"scored.{flagged_by(screen)}{unreadable(bad)}",
        columns=["corruption", *(f"severity {severity}" for severity in SEVERITIES)],
        rows=[
            [name, *(f"{row['auroc']:.3f} ({row['flagged']:.0%})" for row in own[1:])] for name, own in table.items()
        ],
        conclusion=_told_best([(name, own[-1]["auroc"]) for name, own in table.items()], "at the highest severity"),
        made=[*made_from(judge, images), ("score", score), ("seed", str(seed))],
        note=f"AUROC of corrupted images against the same images as they are; in brackets the share flagged at alpha "
        f"{judge.alpha:g}. Below a half, corrupted images score lower: blur makes them easier to rebuild.",
    )
    write_study(output, page, rows, figures, unfinished=unfinished)
    return rows


def defects_study(
    screen: Screen, images: object, output: Path, *, count: int = 200, seed: int = 0, progress: bool = False
) -> list[dict[str, Any]]:
    """Measure how well images with a made-up defect are detected, and how well its pixels are localised.

    Args:
        screen, images, output, count, seed, progress: as in `severity_study`; maps of all images are kept in memory.

    Returns:
        One row a defect: "defect", "auroc" (of images, by the detector's error), "pixel_auroc", "per_region_overlap"
        (up to a false-positive rate of .3), "above_inside" and "above_outside" (share of the pixels on and beside
        defects that are above the threshold for single values; None in a screen that was saved without one).

    Raises:
        InputError: no readable images, or the detector judges images as a whole.
    """
    if not screen.detector.locates:
        raise InputError("this study needs scores of single values; this detector judges images as a whole")
    judge = screen.with_score(ERROR)
    _, _, pixels, bad = some_images(images, screen.detector, count, seed)
    threshold = screen.feature_threshold if screen.peaks is not None else None
    unfinished = Unfinished(output, "defects", judge.fingerprint(), pixels, seed)
    as_they_are = _pieces(pixels, lambda some, _: some)
    clean = score_stream(judge, as_they_are, lambda s: s.instance_score, unfinished, title="scoring", progress=progress)
    rows: list[dict[str, Any]] = []
    shown, named = [], []
    for name in DEFECTS:
        changed = defective(pixels, name, seed=seed)

        def kept(scores: Any) -> NDArray[np.float64]:
            maps, height = scores.feature_score, scores.feature_score.shape[2]
            score = np.repeat(scores.instance_score[:, None, None], height, axis=1)
            return np.concatenate([maps.mean(axis=1), maps.max(axis=1), score], axis=2)

        stream = _pieces(changed.images, lambda some, _: some)
        found = score_stream(judge, stream, kept, unfinished, title=name, progress=progress, feature_score=True)
        width = pixels.shape[3]
        maps, peaks, scores = found[..., :width], found[..., width : 2 * width], found[:, 0, -1]
        above = None if threshold is None else peaks > threshold
        rows.append(
            {
                "defect": name,
                "auroc": auroc(clean, scores),
                "pixel_auroc": pixel_auroc(maps, changed.truth),
                "per_region_overlap": per_region_overlap(maps, changed.truth),
                "above_inside": None if above is None else float(above[changed.truth].mean()),
                "above_outside": None if above is None else float(above[~changed.truth].mean()),
            }
        )
        shown += list(changed.images[:_SHOWN])
        named += [name] * len(changed.images[:_SHOWN])
    pictured = judge.score_batch(nameless(np.stack(shown)), feature_score=True, reconstruction=True)
    assert pictured.feature_score is not None
    figures = {
        "defects": plot_feature_scores(
            np.stack(shown),
            pictured.reconstruction,
            pictured.feature_score,
            screen.map_scale,
            threshold=threshold,
            names=named,
        )
    }
    measures = [name for name in rows[0] if name != "defect"]
    page = TablePage(
        title="Small defects: detected and localised",
        lead=f"{counted(len(pixels), 'image')}, each with one defect of every kind drawn in, scored by the error of "
        f"a screen ({screen.detector.name}).{unreadable(bad)}",
        columns=["defect", *(name.replace("_", " ") for name in measures)],
        rows=[[row["defect"], *("" if row[name] is None else f"{row[name]:.3f}" for name in measures)] for row in rows],
        conclusion=_told_best([(row["defect"], row["auroc"]) for row in rows], "of the defects"),
        best=int(np.argmax([row["auroc"] for row in rows])),
        made=[*made_from(screen, images), ("seed", str(seed))],
        note="AUROC tells images with the defect from the same ones without. Pixel AUROC and per-region overlap (up to "
        "a false-positive rate of .3) tell the defect's pixels from all others. Above: share of pixels on and beside "
        "defects that are higher than the threshold for single values.",
    )
    write_study(output, page, rows, figures, unfinished=unfinished)
    return rows


def _told_best(aurocs: Sequence[tuple[str, float]], among: str) -> str:
    """Say what is told best and what worst, by (name, AUROC)."""
    (worst, low), *_, (best, high) = [*(ordered := sorted(aurocs, key=lambda one: one[1])), ordered[-1]]
    if len(aurocs) == 1:
        return f"{best} is told with an AUROC of {high:.3f}."
    return f"Told best {among} is {best} (AUROC {high:.3f}), worst {worst} ({low:.3f})."


def _pieces(pixels: Floats, made: Callable[[Floats, int], Floats]) -> list[Chunk]:
    """Return images to be changed, a few at a time; `made` takes some of them and the place of the first."""
    return [
        (len(some), partial(made, some, start))
        for start in range(0, len(pixels), _AT_ONCE)
        for some in (pixels[start : start + _AT_ONCE],)
    ]


def _corrupted(name: str, severity: int, seed: int, pixels: Floats, first: int) -> Floats:
    return corrupted(pixels, name, severity, seed=seed, first=first)

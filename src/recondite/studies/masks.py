"""Mask studies: score against mask size, top-percent pooling, and one image as under a microscope."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recondite.data.datasets import nameless
from recondite.data.images import Floats
from recondite.errors import InputError
from recondite.perturbations import MaskKind, masked
from recondite.progress import counted
from recondite.reports.image_figures import plot_feature_scores
from recondite.reports.page import TablePage
from recondite.reports.words import made_from
from recondite.screen.screen import Screen
from recondite.screen.words import ERROR
from recondite.statistics.error_maps import instance_scores
from recondite.statistics.scores import Scores
from recondite.studies.figures import plot_against_mask_size, plot_lines
from recondite.studies.output import Chunk, flagged, flagged_by, score_stream, some_images, unreadable, write_study
from recondite.studies.unfinished import Unfinished

_SIZES, _FEW_SIZES = tuple(range(2, 21, 2)), (4, 8, 12, 16)
SHARES = (20.0, 40.0, 60.0, 80.0, 100.0)


def mask_size_study(
    screen: Screen,
    images: object,
    output: Path,
    *,
    sizes: Sequence[int] | None = None,
    masks: int = 20,
    count: int = 50,
    kind: MaskKind = "normal",
    add: bool = False,
    score: str = ERROR,
    seed: int = 0,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Measure the score against the size of a mask, and write table.csv, images.csv, figures and study.html.

    Args:
        screen: what judges.
        images: normal images, anything that `open_images` opens.
        output: the folder.
        sizes: sides of the square masks, in pixels; images without a mask are measured too, as size 0. By default 2, 4,
            ..., 20 (of `microscope_study` 4, 8, 12, 16), those of them that fit into the images.
        masks: how many masked copies of each image for each size, at random places.
        count: how many images at most.
        kind, add: of the masks; see `recondite.perturbations.masked`.
        score: one of the screen's scores.
        seed: of all draws.
        progress: show progress on standard error.

    Returns:
        One row a size: "size", "mean" (over images and masks), "median" (of images), "low" and "high" (the middle 80 %
        of images), "flagged" (share of masked images above the threshold at the screen's alpha), "images", "masks".

    Raises:
        InputError: sizes beyond the images, or no readable images.
    """
    judge = screen.with_score(score)
    ids, _, pixels, bad = some_images(images, screen.detector, count, seed)
    steps = _steps(sizes, _SIZES, masks, pixels.shape[2:])
    made = _masked_copies(pixels, steps, kind, add, seed)
    unfinished = Unfinished(output, "mask size", judge.fingerprint(), pixels, steps, kind, add, seed)
    found = score_stream(
        judge, made, lambda scores: scores.instance_score, unfinished, title="scoring masks", progress=progress
    )
    by_size, flags = (_by_size(values, len(pixels), steps) for values in (found, flagged(judge, found)))
    rows, every = [], []
    for (size, copies), values, above in zip(steps, by_size, flags, strict=True):
        each = values.mean(axis=1)
        low, middle, high = map(float, np.quantile(each, [0.1, 0.5, 0.9]))
        row = {"size": size, "mean": float(each.mean()), "median": middle, "low": low, "high": high}
        rows.append({**row, "flagged": float(above.mean()), "images": len(pixels), "masks": copies})
        every += [
            {"id": name, "size": size, "mean": float(one.mean()), "std": float(one.std())}
            for name, one in zip(ids, values, strict=True)
        ]
    means = np.stack([values.mean(axis=1) for values in by_size], axis=1)
    sides = [size for size, _ in steps]
    figures = {
        "mask-size": plot_against_mask_size(sides, means, ylabel=f"score ({score})"),
        "flagged": plot_lines(
            sides,
            {"images flagged": [row["flagged"] for row in rows], "alpha": [judge.alpha] * len(sides)},
            xlabel="side of the mask (pixels)",
            ylabel="share of images flagged",
        ),
    }
    what = f"{kind} noise" if kind in ("normal", "uniform") else f"masks of kind {kind}"
    page = TablePage(
        title="Score against the size of a mask",
        lead=f"{counted(len(pixels), 'image')}, {masks} square masks of each size ({what}{', added' if add else ''}) "
        f"at random places; score {score!r} of a screen ({screen.detector.name}). {counted(len(found), 'image')} made "
        f"and scored in {unfinished.seconds:.1f} s.{flagged_by(screen)}{unreadable(bad)}",
        columns=["side", "median score", "middle 80 % of images", "flagged"],
        rows=[
            [str(r["size"]), f"{r['median']:.5g}", f"{r['low']:.5g} to {r['high']:.5g}", f"{r['flagged']:.3f}"]
            for r in rows
        ],
        conclusion=_half_flagged(rows),
        made=[*made_from(judge, images), ("masks", f"{masks} {what}"), ("seed", str(seed))],
        note=f"Size 0 is the image without a mask. Flagged: above the threshold for alpha {judge.alpha:g}.",
    )
    write_study(output, page, rows, figures, {"images": every}, unfinished)
    return rows


def feature_share_study(
    screen: Screen,
    images: object,
    output: Path,
    *,
    sizes: Sequence[int] | None = None,
    shares: Sequence[float] = SHARES,
    masks: int = 20,
    count: int = 50,
    kind: MaskKind = "normal",
    add: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Measure scores of only the worst values against the size of a mask; every share from one pass of the network.

    Args:
        screen, images, output, sizes, masks, count, kind, add, seed, progress: as in `mask_size_study`.
        shares: of the worst feature scores that an instance score is the mean of, in percent.

    Returns:
        One row a size and share: "size", "top_percent", "mean", "rise" (the mean over that of images without a mask).

    Raises:
        InputError: as `mask_size_study`; or the detector has no scores of single values, or a share out of range.
    """
    _check_located(screen)
    pooled = screen.with_score(ERROR)
    _, _, pixels, bad = some_images(images, screen.detector, count, seed)
    steps = _steps(sizes, _SIZES, masks, pixels.shape[2:])

    def by_share(scores: Scores) -> NDArray[np.float64]:
        maps = torch.from_numpy(scores.feature_score)
        return np.stack([instance_scores(maps, share).numpy() for share in shares], axis=1)

    made = _masked_copies(pixels, steps, kind, add, seed)
    unfinished = Unfinished(output, "features", pooled.fingerprint(), pixels, steps, shares, kind, add, seed)
    found = score_stream(pooled, made, by_share, unfinished, title="scoring", progress=progress, feature_score=True)
    means = np.stack([values.mean(axis=(0, 1)) for values in _by_size(found, len(pixels), steps)])
    sides = [size for size, _ in steps]
    rows = [
        {"size": size, "top_percent": share, "mean": float(means[i, j]), "rise": float(means[i, j] / means[0, j])}
        for i, size in enumerate(sides)
        for j, share in enumerate(shares)
    ]
    labels = [f"worst {share:g} %" for share in shares]
    axis = "side of the mask (pixels)"
    figures = {
        "shares": plot_lines(sides, dict(zip(labels, means.T, strict=True)), xlabel=axis, ylabel="mean score"),
        "rise": plot_lines(
            sides,
            dict(zip(labels, (means / means[0]).T, strict=True)),
            xlabel=axis,
            ylabel="mean score over that without a mask",
        ),
    }
    page = TablePage(
        title="Scores of the worst values only",
        lead=f"The score of an image as the mean of its worst values, against the side of a mask of kind {kind}; "
        f"{counted(len(pixels), 'image')}, {masks} masks of each size, {counted(len(found), 'image')} "
        f"scored.{unreadable(bad)}",
        columns=["side", *labels],
        rows=[[str(size), *(f"{value:.5g}" for value in line)] for size, line in zip(sides, means, strict=True)],
        conclusion=_steepest(labels, means),
        made=[*made_from(screen, images), ("masks", f"{masks} {kind}"), ("seed", str(seed))],
        note="A small mask is diluted in the mean of all values; the mean of the worst sees it.",
    )
    write_study(output, page, rows, figures, unfinished=unfinished)
    return rows


def microscope_study(
    screen: Screen,
    image: object,
    output: Path,
    *,
    sizes: Sequence[int] | None = None,
    masks: int = 20,
    kind: MaskKind = "normal",
    add: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Look at one image under masks: what is rebuilt, the score of each channel, and the score against the size.

    Args:
        screen, output, sizes, masks, kind, add, seed, progress: as in `mask_size_study`.
        image: the first one of a source is taken.

    Returns:
        One row a size: "size", "mean", "lowest" and "highest" score over masks, "drawn" (of the one in the figure).

    Raises:
        InputError: as `feature_share_study`.
    """
    _check_located(screen)
    judge = screen.with_score(ERROR)
    ids, _, pixels, _ = some_images(image, screen.detector, 1, seed)
    steps = _steps(sizes, _FEW_SIZES, masks, pixels.shape[2:])
    made = _masked_copies(pixels, steps, kind, add, seed)
    unfinished = Unfinished(output, "microscope", judge.fingerprint(), pixels, steps, kind, add, seed)
    found = score_stream(
        judge, made, lambda scores: scores.instance_score, unfinished, title="scoring masks", progress=progress
    )
    by_size = _by_size(found, 1, steps)
    rows = [
        {
            "size": size,
            "mean": float(values.mean()),
            "lowest": float(values.min()),
            "highest": float(values.max()),
            "drawn": float(values[0, 0]),
        }
        for (size, _), values in zip(steps, by_size, strict=True)
    ]
    shown = np.concatenate([make()[:1] for _, make in made])[:32]
    scores = judge.score_batch(nameless(shown), feature_score=True, reconstruction=True)
    assert scores.feature_score is not None
    sides = [f"{row['size']} x {row['size']}" if row["size"] else "no mask" for row in rows]
    names = [f"{side}\n{row['drawn']:.3g}" for side, row in zip(sides, rows, strict=True)]
    threshold = None if screen.peaks is None else screen.feature_threshold
    figures = {
        "microscope": plot_feature_scores(
            shown, scores.reconstruction, scores.feature_score, screen.map_scale, threshold=threshold, names=names
        ),
        "scores": plot_lines(
            [row["size"] for row in rows],
            {name: [row[name] for row in rows] for name in ("mean", "lowest", "highest")},
            xlabel="side of the mask (pixels)",
            ylabel="score (error)",
        ),
    }
    page = TablePage(
        title=f"Under the microscope: {ids[0]}",
        lead=f"Masks of kind {kind}, {masks} of each size; the figure shows one of each, and its score. All maps share "
        f"one scale; above: values higher than the threshold for single values at alpha {screen.alpha:g}.",
        columns=["side", "mean score", "lowest", "highest"],
        rows=[[str(r["size"]), *(f"{r[name]:.5g}" for name in ("mean", "lowest", "highest"))] for r in rows],
        note="The score is the error of the detector.",
        conclusion=f"The mean score goes from {rows[0]['mean']:.4g} at side {rows[0]['size']} to "
        f"{rows[-1]['mean']:.4g} at side {rows[-1]['size']}.",
        made=[*made_from(screen, image), ("masks", f"{masks} {kind}"), ("seed", str(seed))],
    )
    write_study(output, page, rows, figures, unfinished=unfinished)
    return rows


_HALF = 0.5


def _half_flagged(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say how large a mask has to be for half of the images to be flagged."""
    enough = [row["size"] for row in rows if row["flagged"] >= _HALF]
    if not enough:
        return f"No mask up to {rows[-1]['size']} pixels a side has half of the images flagged."
    return f"Half of the images and more are flagged from masks of {min(enough)} pixels a side on."


def _steepest(labels: Sequence[str], means: Floats) -> str:
    """Say which mean of the worst values rises most, from the smallest mask to the largest: means (sizes, labels)."""
    rises = means[-1] / means[0]
    best = int(np.argmax(rises))
    return f"{labels[best]} rises most, {rises[best]:.3g} times from the smallest mask to the largest."


def _check_located(screen: Screen) -> None:
    if not screen.detector.locates:
        raise InputError("this study needs scores of single values; this detector judges images as a whole")


def _steps(
    given: Sequence[int] | None, usual: Sequence[int], masks: int, sides: Sequence[int]
) -> list[tuple[int, int]]:
    """Return (size, copies of each image); the first is the image without a mask."""
    sizes = [size for size in usual if size <= min(sides)] if given is None else list(given)
    if masks < 1 or not sizes or sizes != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] > min(sides):
        raise InputError(f"expected rising sizes from 1 to {min(sides)} and at least one mask; got {sizes} and {masks}")
    return [(0, 1), *((size, masks) for size in sizes)]


def _masked_copies(
    pixels: Floats, steps: Sequence[tuple[int, int]], kind: MaskKind, add: bool, seed: int
) -> list[Chunk]:
    """Return the copies of each image for each step, (copies, C, H, W), to be made; image by image, size by size."""

    def made(place: int, size: int, copies: int) -> Floats:
        repeated = np.repeat(pixels[place][None], copies, axis=0)
        if not size:
            return repeated
        others = np.delete(pixels, place, axis=0) if kind == "patch" else None
        return masked(repeated, size, kind, add=add, sources=others, seed=seed, first=place * copies).images

    return [(copies, partial(made, place, size, copies)) for place in range(len(pixels)) for size, copies in steps]


def _by_size(values: NDArray[Any], images: int, steps: Sequence[tuple[int, int]]) -> list[NDArray[Any]]:
    """Return for each step the values (images, copies, ...) out of those of `_masked_copies` in order."""
    each = values.reshape(images, -1, *values.shape[1:])
    ends = np.cumsum([copies for _, copies in steps])[:-1]
    return np.split(each, ends, axis=1)

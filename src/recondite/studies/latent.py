"""Latent space studies: interpolation between images, and denoising."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from recondite.data.datasets import nameless, open_images
from recondite.data.images import Floats
from recondite.detectors import Detector
from recondite.errors import InputError
from recondite.perturbations import masked
from recondite.progress import counted
from recondite.progress import progress as show
from recondite.reports.image_figures import plot_picture_rows
from recondite.reports.page import TablePage
from recondite.reports.words import made_from
from recondite.screen.screen import Screen
from recondite.screen.words import ERROR
from recondite.statistics.error_maps import ssim_error
from recondite.studies.figures import plot_lines
from recondite.studies.output import some_images, unreadable, write_study
from recondite.studies.unfinished import Unfinished
from recondite.torch_state import own_settings

NOISE = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
_SHOWN = 8


def interpolation_study(
    screen: Screen,
    images: object,
    output: Path,
    *,
    first: str | None = None,
    second: str | None = None,
    steps: int = 10,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Walk in a straight line from the latent of one image to that of another, and decode what lies between.

    Args:
        screen, output, seed: as in `recondite.studies.masks.mask_size_study`.
        images: anything that `open_images` opens and can count.
        first, second: ids of the two images; by default chosen at random, of different labels where there are some.
        steps: decoded images, both ends among them.

    Returns:
        One row a step: "step", "share" (of the second image, from 0 to 1), "score" (the detector's error of what was
        decoded: how normal it looks).

    Raises:
        InputError: unknown ids, fewer than two steps, or the detector has no encoder or decoder.
    """
    if steps < 2:
        raise InputError(f"expected at least two steps; got {steps}")
    detector = screen.detector
    ids, pixels = _two(images, detector, first, second, seed)
    ends = detector.encode(pixels).astype(np.float64)
    shares = np.linspace(0, 1, steps)
    decoded = np.clip(detector.decode(ends[0] + shares[:, None] * (ends[1] - ends[0])), 0, 1)
    scores = screen.with_score(ERROR).detector.score(decoded).instance_score
    rows = [
        {"step": number, "share": float(share), "score": float(score)}
        for number, (share, score) in enumerate(zip(shares, scores, strict=True))
    ]
    strip = np.concatenate([pixels[:1], decoded, pixels[1:]])
    above = ["image", *(f"{share:.2f}" for share in shares), "image"]
    figures = {"interpolation": plot_picture_rows({"": strip}, above=above)}
    page = TablePage(
        title="Between two images",
        lead=f"From {ids[0]} to {ids[1]} in a straight line through the latent space ({detector.name}, "
        f"{ends.shape[1]} numbers), in {steps} steps; at the ends the images themselves.",
        columns=["step", "share of the second", "score of what was decoded"],
        rows=[[str(row["step"]), f"{row['share']:.2f}", f"{row['score']:.5g}"] for row in rows],
        note="A low score: what lies between looks normal to the detector.",
        conclusion=f"Between the two images the score is {min(scores):.4g} to {max(scores):.4g}; it is highest at step "
        f"{int(np.argmax(scores))}.",
        best=int(np.argmax(scores)),
        made=made_from(screen, images),
    )
    write_study(output, page, rows, figures)
    return rows


def denoising_study(
    screen: Screen,
    images: object,
    output: Path,
    *,
    levels: Sequence[float] = NOISE,
    count: int = 200,
    seed: int = 0,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Add Gaussian noise, rebuild, and measure how near each is to the image without noise.

    Args:
        screen, output, seed, progress: as in `recondite.studies.masks.mask_size_study`.
        images: anything that `open_images` opens.
        levels: standard deviations of the noise, on images in [0, 1].
        count: how many images at most.

    Returns:
        One row a level: "noise", and before and after rebuilding the mean squared "error_...", "psnr_..." (decibels,
        mean over images) and "ssim_..." against the image without noise.

    Raises:
        InputError: a level that is not positive, no readable images, or the detector rebuilds no images.
    """
    detector = screen.detector
    if not detector.rebuilds:
        raise InputError(f"detector {detector.name!r} rebuilds no images")
    if not levels or min(levels) <= 0:
        raise InputError(f"expected positive levels of noise; got {list(levels)}")
    _, _, pixels, bad = some_images(images, detector, count, seed)
    rows: list[dict[str, Any]] = []
    pictures: dict[str, ArrayLike] = {"image": pixels[:_SHOWN]}
    drawn = min(levels, key=lambda level: abs(level - 0.2))
    unfinished = Unfinished(output, "denoising", screen.fingerprint(), pixels, seed)
    with show("denoising", len(levels), progress) as advance:
        for level in levels:
            noise = {"distribution": (0.0, level), "add": True, "seed": seed}
            noisy = masked(pixels, (pixels.shape[2], pixels.shape[3]), "normal", **noise).images  # type: ignore[arg-type]
            rebuilt = np.clip(unfinished.once(f"level-{level}", partial(_rebuilt, detector, noisy)), 0, 1)
            row: dict[str, Any] = {"noise": level}
            for name, found in (("before", noisy), ("after", rebuilt)):
                row |= {f"{measure}_{name}": value for measure, value in _likeness(found, pixels).items()}
            rows.append(row)
            if level == drawn:
                pictures |= {f"noise {level:g}": noisy[:_SHOWN], "rebuilt": rebuilt[:_SHOWN]}
            advance(1, f"noise {level:g}")
    measures = {"error": "mean squared error", "psnr": "PSNR (dB)", "ssim": "SSIM"}
    figures = {"denoising": plot_picture_rows(pictures)}
    for name, ylabel in measures.items():
        lines = {f"{when} rebuilding": [row[f"{name}_{when}"] for row in rows] for when in ("before", "after")}
        axis = "standard deviation of the noise"
        figures[name] = plot_lines(list(levels), lines, xlabel=axis, ylabel=f"{ylabel} against the image")
    columns = [f"{name}_{when}" for name in measures for when in ("before", "after")]
    page = TablePage(
        title="Out of noise",
        lead=f"{counted(len(pixels), 'image')} with Gaussian noise, cut to [0, 1], before and after "
        f"{detector.name} rebuilt them; all compared with the images without noise.{unreadable(bad)}",
        columns=["noise", *(name.replace("_", " ") for name in columns)],
        rows=[[f"{row['noise']:g}", *(f"{row[name]:.4g}" for name in columns)] for row in rows],
        note="Where the error after is lower than before, rebuilding took noise away; below that, it loses detail.",
        conclusion=_least_noise(rows),
        made=made_from(screen, images),
    )
    write_study(output, page, rows, figures, unfinished=unfinished)
    return rows


def _least_noise(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say from which noise on rebuilding brings images nearer to what they were."""
    helped = [row["noise"] for row in rows if row["error_after"] < row["error_before"]]
    if not helped:
        return "Rebuilding takes none of these noises away: the error after it is higher at each."
    return f"Rebuilding takes noise away from a standard deviation of {min(helped):g} on."


def _two(
    images: object, detector: Detector, first: str | None, second: str | None, seed: int
) -> tuple[list[str], Floats]:
    """Return the ids and pixels of two images."""
    opened = open_images(images, shape=detector.shape)
    if opened.ids is None:
        raise InputError("interpolation needs images that can be picked by id; got a stream")
    known = {name: place for place, name in enumerate(opened.ids)}
    for name in (first, second):
        if name is not None and name not in known:
            raise InputError(f"there is no image {name!r}; the first is {opened.ids[0]!r}")
    order = np.random.default_rng(seed).permutation(len(opened.ids))
    one = known[first] if first is not None else int(order[0])
    rest = [int(place) for place in order if place != one] or [one]
    unlike = [place for place in rest[:100] if opened.label(place) != opened.label(one)]
    other = known[second] if second is not None else (unlike or rest)[0]
    names, _, pixels, bad = some_images(opened.select([one, other]), detector, 2)
    if bad:
        raise InputError(f"{bad[0][0]}: {bad[0][1]}")
    return names, pixels


def _rebuilt(detector: Detector, pixels: Floats) -> Floats:
    rebuilt = detector.score_batch(nameless(pixels), reconstruction=True).reconstruction
    assert rebuilt is not None
    return rebuilt


@own_settings()
def _likeness(found: Floats, truth: Floats) -> dict[str, float]:
    errors = np.square(found.astype(np.float64) - truth).mean(axis=(1, 2, 3))
    unlike = ssim_error(torch.from_numpy(found), torch.from_numpy(np.ascontiguousarray(truth)))
    psnr = 10 * np.log10(1 / np.maximum(errors, 1e-10))
    return {"error": float(errors.mean()), "psnr": float(psnr.mean()), "ssim": 1 - float(unlike.double().mean())}

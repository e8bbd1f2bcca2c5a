"""Explain one image: input, reconstruction, difference or heat map, and the verdict in words."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recondite.data.datasets import open_images, read_batches
from recondite.data.files import atomic_file
from recondite.data.masks import check_masks
from recondite.data.outputs import check_picture
from recondite.data.pictures import drawn, enlarged, image_grid
from recondite.detectors import Detector
from recondite.errors import InputError
from recondite.reports.figures import plot_comparison
from recondite.reports.words import how_rare
from recondite.screen.screen import Screen
from recondite.statistics.density import Density
from recondite.statistics.image_statistics import statistic_in_words
from recondite.statistics.scores import Verdicts

_SMALLEST_GRID = 480

_NAMED = 4
_RARE = 2.58  # one normal image in a hundred lies farther out, on either side


def draw(screen: Screen, image: object, output: Path, group: str | None = None, *, region: object = None) -> Verdicts:
    """Judge the one image of a source, draw it into a file, and return its verdict.

    Args:
        screen: the judge.
        image: anything that `open_images` opens, with one image.
        output: the picture: .png, .svg or .pdf.
        group: which group's calibration holds for it; by default its folder tells.
        region: folder with its mask, for a screen that was fitted with one mask per image.

    Raises:
        InputError: there are several, it cannot be read or judged, the screen takes vectors, or the picture is not
            .png, .svg or .pdf.
    """
    check_picture(output)
    if not screen.detector.preprocessing.is_image:
        raise InputError("only images can be drawn; this screen takes vectors")
    opened = open_images(image, shape=screen.detector.shape, masks=region)
    check_masks(opened.masks, screen.detector.preprocessing.masked)
    if opened.size is not None and opened.size > 1:
        assert opened.ids is not None
        raise InputError(f"expected one image; there are {opened.size:,} in {image}: name one, such as {opened.ids[0]}")
    batch = next(read_batches(opened, screen.detector.preprocessing, 1))
    if batch.errors[0] is not None:
        raise InputError(f"{batch.ids[0]}: {batch.errors[0]}")
    labels = batch.labels if group is None else [group]
    verdicts = screen.judge(screen.score_batch(batch, feature_score=True, reconstruction=True), labels)
    if verdicts.errors[0] is not None:
        raise InputError(f"{verdicts.ids[0]}: {verdicts.errors[0]}")
    located = verdicts.feature_score if screen.detector.locates else None
    figure = plot_comparison(
        batch.pixels[0],
        None if verdicts.reconstruction is None else verdicts.reconstruction[0],
        None if located is None else located[0],
        screen.map_scale,
        in_words(screen, verdicts, labels[0] or ""),
        statistics_of_first(screen, verdicts),
        None if screen.peaks is None else screen.feature_threshold,
        screen.detector.preprocessing.inside(batch.pixels[0]),
    )
    with atomic_file(output) as temporary:
        temporary.write_bytes(drawn(figure, output.suffix.lower().lstrip(".")))
    return verdicts


def in_words(screen: Screen, verdicts: Verdicts, group: str = "") -> str:
    """Say what the verdict on the first image means; `group` is its group, where the calibration has groups."""
    score, p_value = verdicts.instance_score[0], verdicts.p_value[0]
    if verdicts.errors[0] is not None:
        return f"{verdicts.ids[0]} is INVALID: {verdicts.errors[0]}"
    outlier = bool(verdicts.is_outlier[0])
    relation = "above" if outlier else "not above"
    rare = how_rare(screen, float(score), float(p_value), group)
    threshold = "its group's threshold" if np.isnan(verdicts.threshold) else f"the threshold {verdicts.threshold:.4g}"
    return (
        f"{verdicts.ids[0]} is an {'OUTLIER' if outlier else 'INLIER'}: its score {score:.4g} is {relation} "
        f"{threshold}.\n{rare[0].upper()}{rare[1:]}; an image is flagged when p is at most {screen.alpha:.4g}."
        f"{_unusual(screen, verdicts, outlier)}"
    )


def statistics_of_first(screen: Screen, verdicts: Verdicts) -> list[tuple[str, float]]:
    """Return `most_unusual` of the first image; empty where the screen judges by the error alone."""
    if screen.evidence is None or not verdicts.statistics:
        return []
    return most_unusual(screen.evidence.density, {name: values[0] for name, values in verdicts.statistics.items()})


def most_unusual(density: Density, statistics: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return (what a statistic is, standard deviations from normal) of one image, the most unusual first.

    Statistics that are missing or NaN are left out.
    """
    z = density.z({name: np.array([statistics.get(name, np.nan)]) for name in density.names})[0]
    order = np.argsort(-np.abs(np.nan_to_num(z)), kind="stable")
    return [(statistic_in_words(density.names[index]), float(z[index])) for index in order if np.isfinite(z[index])]


def _unusual(screen: Screen, verdicts: Verdicts, outlier: bool) -> str:
    found = statistics_of_first(screen, verdicts)
    named = [f"{name} ({'high' if z > 0 else 'low'})" for name, z in found[:_NAMED] if abs(z) > _RARE]
    if named:
        return f"\nOutside the range of normal images: {', '.join(named)}."
    if found and outlier:
        return "\nNo statistic is unusual by itself; their combination or the error is."
    return ""


def draw_samples(screen: Screen, output: Path, count: int = 64, *, seed: int = 0) -> None:
    """Write a grid of new images, decoded from random latents, as a PNG file.

    Args:
        screen: whose detector makes them; see `Detector.prior` for where its latents come from.
        output: the file, written atomically.
        count: how many images.
        seed: of the latents.

    Raises:
        InputError: the detector makes no images, or `output` is not a .png.
    """
    check_picture(output, (".png",))
    if not screen.detector.preprocessing.is_image:
        raise InputError("only images can be drawn; this screen takes vectors")
    images = screen.detector.sample(count, seed=seed)
    picture = enlarged(image_grid(images, columns=math.ceil(math.sqrt(count))), _SMALLEST_GRID)
    with atomic_file(output) as temporary:
        picture.save(temporary, format="PNG")


def latents_in_words(detector: Detector) -> str:
    """Say where the latents of new images come from."""
    if detector.prior == "fitted":
        return (
            f"{detector.name} has no distribution over latents of its own: these were drawn from a Gaussian fitted to "
            "the latents of training images"
        )
    return f"latents were drawn from N(0, I), which {detector.name} learnt to decode"

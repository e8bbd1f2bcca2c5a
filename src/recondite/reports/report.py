"""The report of a set of verdicts: tables and figures in one self-contained HTML file."""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image

from recondite.data.datasets import ImageSet, open_images, read_batches
from recondite.data.pictures import HEAT_MAP, colours, data_url, heat_colours, svg
from recondite.errors import InputError
from recondite.options import shown_options
from recondite.progress import counted
from recondite.reports.figures import plot_calibration, plot_history, plot_p_values, plot_scores
from recondite.reports.image_figures import plot_epochs
from recondite.reports.page import table_data, write_page
from recondite.reports.words import made_from
from recondite.screen.promise import promise
from recondite.screen.screen import Screen
from recondite.screen.words import gain_in_words
from recondite.statistics.metrics import rate
from recondite.statistics.scores import Verdicts

_SHOWN = 12
_LISTED = 50
_THUMBNAILS, _SIDE = 500, 64
"""Flagged images that have a picture in the table, and its longer side in pixels."""


def write_report(
    path: Path | str,
    screen: Screen,
    verdicts: Verdicts,
    images: object = None,
    *,
    title: str = "Which images do not belong",
    table: Mapping[str, Any] | None = None,
    remarks: Sequence[str] = (),
) -> None:
    """Write one offline HTML file: counts, distributions, the most and least anomalous images, how it was made.

    Args:
        path: the file, written atomically.
        screen: what judged.
        verdicts: its verdicts on `images`.
        images: what was judged, for the pictures; anything that `open_images` opens but a stream. None for no pictures.
        title: the heading.
        table: {"title", "columns", "rows"} of an extra table under the counts.
        remarks: what a reader should know first, such as `Sweep.remarks`.

    Raises:
        InputError: arguments in another order, or `images` are a stream or are not the images of the verdicts.
    """
    if not isinstance(path, str | PathLike) or not isinstance(verdicts, Verdicts):
        given = ", ".join(type(one).__name__ for one in (path, screen, verdicts))
        raise InputError(f"expected a path, a screen and its verdicts, in this order; got {given}")
    content = {**_content(screen, verdicts, images, title, table), "remarks": remarks}
    write_page(Path(path), "report.html", content)


def _content(
    screen: Screen, verdicts: Verdicts, images: object, title: str, table: Mapping[str, Any] | None
) -> dict[str, Any]:
    counts = verdicts.counts()
    words = verdicts.words
    low, high = screen.false_alarm_interval
    pictures = screen.detector.history.pictures
    discovery = verdicts.rule == "false-discovery rate"
    return {
        "title": title,
        "table": table,
        "total": counted(len(verdicts), "image"),
        "made": made_from(screen, images),
        "detector": screen.detector.name,
        "promise": promise(screen, verdicts.alpha if verdicts.rule == "false-discovery rate" else None),
        "counts": {word: f"{count:,}" for word, count in counts.items()},
        "counts_invalid": counts["invalid"],
        "shares": {word: f"{count / len(verdicts):.1%}" for word, count in counts.items()},
        "alpha": f"{verdicts.alpha:g}",
        "rule": verdicts.rule,
        "meaning": (
            "The outliers of this batch were chosen together (Benjamini-Hochberg), so that few of them are normal."
            if discovery
            else "An image is an outlier when its p-value is at most alpha, whatever the outliers look like."
        ),
        "interval": None if discovery else f"{low:.4f} to {high:.4f}",
        "figures": [svg(ax) for ax in _figures(screen, verdicts)],
        "learning": None if pictures is None else svg(plot_epochs(pictures)),
        "galleries": _galleries(screen, verdicts, words, images),
        "verdicts": _table(screen, verdicts, words, images),
        "every": f"The flagged first{_first(counts['outlier'], images)}. Sort by a column, filter by name or verdict.",
        "unreadable": [
            (name, error) for name, error in zip(verdicts.ids, verdicts.errors, strict=True) if error is not None
        ][:_LISTED],
        "pictures": _pictures(screen),
        "locates": screen.detector.locates,
        "calibration_images": f"{len(screen.calibrator.scores):,}",
        "map_scale": [f"{end:.3g}" for end in screen.map_scale],
        "heat_stops": ", ".join(
            f"rgb({','.join(str(round(255 * part)) for part in colormaps[HEAT_MAP](stop)[:3])})"
            for stop in np.linspace(0, 1, 8)
        ),
        "facts": screen_facts(screen),
    }


def _first(outliers: int, images: object) -> str:
    if images is None or not outliers:
        return ""
    return f", the most anomalous {_THUMBNAILS} with pictures" if outliers > _THUMBNAILS else ", with pictures"


def _table(screen: Screen, verdicts: Verdicts, words: Sequence[str], images: object) -> dict[str, Any]:
    """Return all verdicts as the data of a table, the flagged and among these the most anomalous first."""
    score, p_value = verdicts.instance_score, verdicts.p_value
    order = np.lexsort((-np.nan_to_num(score, nan=-np.inf), np.nan_to_num(p_value), ~verdicts.is_outlier))
    outliers = [int(index) for index in order if words[index] == "outlier"][:_THUMBNAILS]
    pictures = _thumbnails(screen, verdicts, images, outliers)
    rows = [
        (
            pictures.get(index),
            verdicts.ids[index],
            words[index],
            float(score[index]) if np.isfinite(score[index]) else None,
            float(p_value[index]) if np.isfinite(p_value[index]) else None,
            verdicts.errors[index],
        )
        for index in map(int, order)
    ]
    return table_data(
        ["picture", "image", "verdict", "score", "p-value", "why unreadable"],
        rows,
        numbers=(3, 4),
        filter_by=2,
        pictures=0,
        widths=("72px", "", "100px", "110px", "110px", "22%"),
        words="all verdicts",
    )


def _thumbnails(screen: Screen, verdicts: Verdicts, images: object, chosen: Sequence[int]) -> dict[int, str]:
    """Return small pictures of some of the judged images, as data URLs."""
    if images is None or not chosen or not screen.detector.preprocessing.is_image:
        return {}
    opened = open_images(images, shape=screen.detector.shape)
    place = {name: index for index, name in enumerate(opened.ids or ())}
    known = [index for index in chosen if verdicts.ids[index] in place]
    selected = opened.select(place[verdicts.ids[index]] for index in known)
    found: dict[int, str] = {}
    rows = iter(known)
    for batch in read_batches(selected, screen.detector.preprocessing, screen.detector.scoring_batch):
        pixels = iter(batch.pixels)
        for error in batch.errors:
            index = next(rows)
            if error is None:
                picture = Image.fromarray(colours(next(pixels)))
                picture.thumbnail((_SIDE, _SIDE))
                found[index] = data_url(np.asarray(picture), 1)
    return found


def _figures(screen: Screen, verdicts: Verdicts) -> Iterable[Axes]:
    scores = {"calibration (normal)": screen.calibrator.scores, "judged": verdicts.instance_score}
    yield plot_scores(scores, verdicts.threshold)
    yield plot_p_values(verdicts.p_value, verdicts.alpha)
    thresholds, rates, lows, highs = calibration_curve(screen.calibrator.scores)
    yield plot_calibration(thresholds, rates, lows, highs, screen.alpha)
    history = screen.detector.history
    if len(history.epochs) > 1:
        yield plot_history(history.epochs, history.best_epoch)


def calibration_curve(scores: NDArray[np.float64], points: int = 60) -> tuple[NDArray[np.float64], ...]:
    """Return thresholds and, for each, the share of calibration scores above it with its interval."""
    thresholds = np.unique(np.quantile(scores, np.linspace(0.5, 1, points)))
    rates = [rate(scores > threshold) for threshold in thresholds]
    return (
        thresholds,
        np.array([one.value for one in rates]),
        np.array([one.low for one in rates]),
        np.array([one.high for one in rates]),
    )


def _galleries(screen: Screen, verdicts: Verdicts, words: Sequence[str], images: object) -> list[dict[str, Any]]:
    if images is None or not screen.detector.preprocessing.is_image:
        return []
    opened = open_images(images, shape=screen.detector.shape)
    if opened.ids is None:
        raise InputError("a report needs images that can be read again; got a stream")
    place = {name: index for index, name in enumerate(opened.ids)}
    finite = np.flatnonzero(np.isfinite(verdicts.instance_score))
    ascending = finite[np.argsort(verdicts.instance_score[finite], kind="stable")]
    most, others = ascending[::-1][:_SHOWN], ascending[: max(0, len(ascending) - _SHOWN)]
    least, others = others[:_SHOWN], others[_SHOWN:]
    # Few calibration images give many images one p-value; of these the scores tell which are nearest.
    distances = np.abs(verdicts.instance_score - verdicts.threshold), np.abs(verdicts.p_value - screen.alpha)
    nearest = np.lexsort([distance[others] for distance in distances])[:_SHOWN]
    sections = [
        ("Most anomalous", "The images with the highest scores, highest first.", most),
        (
            "Closest to the line",
            "The images whose p-value, then score, is nearest to where the screen flags: the doubtful ones.",
            np.sort(others[nearest]),
        ),
        (
            "Least anomalous",
            "The images with the lowest scores. An outlier here is one that the screen missed.",
            least,
        ),
    ]
    return [
        {"title": name, "note": note, "entries": _entries(screen, verdicts, words, opened, place, chosen)}
        for name, note, chosen in sections
        if len(chosen)
    ]


def _entries(
    screen: Screen,
    verdicts: Verdicts,
    words: Sequence[str],
    images: ImageSet,
    place: Mapping[str, int],
    chosen: NDArray[np.intp],
) -> list[dict[str, Any]]:
    missing = [verdicts.ids[index] for index in chosen if verdicts.ids[index] not in place]
    if missing:
        raise InputError(f"these images are not the ones that were judged: there is no {missing[0]!r}")
    selected = images.select(place[verdicts.ids[index]] for index in chosen)
    entries = []
    rows = iter(chosen)
    for batch in read_batches(selected, screen.detector.preprocessing, screen.detector.scoring_batch):
        scores = screen.detector.score_batch(batch, feature_score=True, reconstruction=True)
        assert scores.feature_score is not None
        pixels = iter(batch.pixels)
        for number, error in enumerate(batch.errors):
            index = next(rows)
            if error is not None:  # deleted or damaged since it was judged
                continue
            image = next(pixels)
            pictures = [("input", colours(image))]
            if scores.reconstruction is not None:
                pictures.append(("reconstruction", colours(scores.reconstruction[number])))
            if screen.detector.locates:
                inside = screen.detector.preprocessing.inside(image)
                heat_map = heat_colours(scores.feature_score[number], screen.map_scale, inside)
                pictures.append(("heat map", heat_map))
            entries.append(
                {
                    "id": verdicts.ids[index],
                    "word": words[index],
                    "score": f"{verdicts.instance_score[index]:.4g}",
                    "p_value": f"{verdicts.p_value[index]:.3g}",
                    "pictures": [{"alt": name, "data": data_url(picture)} for name, picture in pictures],
                }
            )
    return entries


def _pictures(screen: Screen) -> str:
    """Say what stands beside each image."""
    if not screen.detector.locates:
        return "The detector judges an image as a whole: it has no reconstruction and no heat map to show."
    if not screen.detector.rebuilds:
        return "In the pictures: input, and where it is odd; the heat maps share one scale."
    return "In the pictures: input, reconstruction, and where they differ; the heat maps share one scale."


def screen_facts(screen: Screen) -> list[tuple[str, str]]:
    """Return how a screen was made, as (name, value) for people."""
    detector, facts = screen.detector, screen.facts
    history = detector.history
    training = facts.get("training", {})
    shown = [
        ("detector", detector.name + (f", preset {facts['preset']}" if facts.get("preset") else "")),
        ("images", f"{' x '.join(map(str, detector.shape))} (channels x height x width)"),
        *([("what counts", detector.preprocessing.region_in_words)] if detector.preprocessing.restricted else []),
        ("options", ", ".join(f"{name} {value}" for name, value in shown_options(detector.options).items())),
        ("parameters", f"{sum(parameter.numel() for parameter in detector.parameters()):,}"),
        ("learnt from", f"{facts.get('images', {}).get('images', 0):,} images"),
        *([("known defects", gain_in_words(facts["known_defects"]))] if "known_defects" in facts else []),
        ("calibrated on", f"{len(screen.calibrator.scores):,} other images"),
        ("training", ", ".join(f"{name} {value}" for name, value in training.items())),
        ("fingerprint of the training images", facts.get("images", {}).get("fingerprint", "")),
    ]
    if history.best_validation is not None:
        shown.insert(
            5 + detector.preprocessing.restricted,
            ("validation error", f"{history.best_validation:.5g} after epoch {history.best_epoch}"),
        )
    return shown

"""All images as a map of the latent space, which is saved, and new ones placed into it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.artifacts import read_folder, write_folder
from recondite.data.images import Floats
from recondite.data.pictures import colours
from recondite.detectors import Detector
from recondite.errors import ArtifactError, InputError
from recondite.progress import counted
from recondite.progress import progress as show
from recondite.reports.page import TablePage
from recondite.reports.words import made_from
from recondite.screen.screen import Screen
from recondite.screen.thresholds import detector_fingerprint
from recondite.statistics.embedding import FEWEST, Map, make_map
from recondite.studies.figures import plot_map
from recondite.studies.output import some_images, unreadable, write_study
from recondite.studies.unfinished import Unfinished

FOLDER = "map"
_KIND, _SCHEMA, _FILE = "recondite map", 1, "map.safetensors"
_THUMBNAILS = 9
_AT_ONCE = 2048


@dataclass(frozen=True, kw_only=True)
class LatentMap:
    """A map of latents, of which images, and by which detector.

    Args:
        map: latents as vectors, and their points.
        ids: of N images.
        labels: of N images.
        detector: that of the latents; see `recondite.screen.thresholds.detector_fingerprint`.
    """

    map: Map
    ids: Sequence[str]
    labels: Sequence[str]
    detector: str

    def save(self, path: Path) -> None:
        """Write the map as a folder of JSON and safetensors, atomically.

        Raises:
            ArtifactError: `path` exists and is something else.
        """
        arrays = {"vectors": self.map.vectors, "points": self.map.points}
        manifest = {
            "kind": _KIND,
            "schema": _SCHEMA,
            "method": self.map.method,
            "seed": self.map.seed,
            "ids": list(self.ids),
            "labels": list(self.labels),
            "detector": self.detector,
        }
        write_folder(path, manifest, {_FILE: arrays}, {})

    @classmethod
    def load(cls, path: Path) -> "LatentMap":
        """Load what `save` wrote. Nothing in its files is executed.

        Raises:
            ArtifactError: missing, damaged, altered or inconsistent.
        """
        manifest, files = read_folder(path, _SCHEMA, _KIND)
        try:
            arrays = files[_FILE]
            found = Map(
                vectors=arrays["vectors"],
                points=arrays["points"],
                method=manifest["method"],
                seed=manifest["seed"],
            )
            names = {name: [str(value) for value in manifest[name]] for name in ("ids", "labels")}
            if any(len(values) != len(found.points) for values in names.values()):
                raise InputError("expected an id and a label for each point")
            return cls(map=found, **names, detector=manifest["detector"])
        except (InputError, KeyError, TypeError) as error:
            raise ArtifactError(f"{path} is not a consistent map: {error}") from error


def latent_map_study(
    screen: Screen,
    images: object,
    output: Path,
    *,
    count: int = 10_000,
    new: object = None,
    new_count: int = 500,
    thumbnails: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Draw the latents of images as a map, coloured by label, save it, and place new images into it.

    Args:
        screen, output, seed, progress: as in `recondite.studies.masks.mask_size_study`; the map goes to `output`/map.
        images: anything that `open_images` opens; their labels are the colours.
        count: how many images at most.
        new: further images to place into the finished map; None for none.
        new_count: how many of these at most.
        thumbnails: draw some images at their places.

    Returns:
        One row an image: "id", "label", "x", "y", "placed" (True for a new one).

    Raises:
        InputError: fewer than ten readable images, or the detector has no encoder.
    """
    detector = _with_encoder(screen)
    ids, labels, pixels, bad = some_images(images, detector, count, seed)
    if len(ids) < FEWEST:
        raise InputError(f"a map needs at least {FEWEST} images; got {len(ids)}")
    unfinished = Unfinished(output, "map", detector_fingerprint(detector), pixels, seed)
    latents = _encoded(detector, pixels, unfinished, progress)
    started = time.monotonic()
    found = LatentMap(map=make_map(latents, seed=seed), ids=ids, labels=labels, detector=detector_fingerprint(detector))
    seconds = time.monotonic() - started
    found.save(output / FOLDER)
    shown = _pictures(pixels, found.map.points) if thumbnails else {}
    placed = None if new is None else _place(screen, found, new, new_count, seed, progress)
    words = f"drawn by t-SNE ({found.map.method}), begun from principal components, in {seconds:.1f} s."
    return _write(found, placed, output, words, made_from(screen, images), bad, shown, unfinished)


def placing_study(
    screen: Screen,
    images: object,
    output: Path,
    *,
    into: Path,
    count: int = 500,
    thumbnails: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Place images into a map that `latent_map_study` saved before; its points stay where they are.

    Args:
        screen, images, output, count, seed, progress: as in `latent_map_study`.
        into: the folder of the map.
        thumbnails: draw some of the placed images at their places.

    Returns:
        As `latent_map_study`; first the images of the map, then the placed ones.

    Raises:
        ArtifactError: there is no such map, or it was damaged or altered.
        InputError: no readable images, or the map is of another detector's latents.
    """
    detector = _with_encoder(screen)
    found = LatentMap.load(into)
    if found.detector != detector_fingerprint(detector):
        raise InputError(f"{into} is a map of another detector's latents")
    placed = _place(screen, found, images, count, seed, progress)
    shown = {}
    if thumbnails:
        pictures = _pictures(placed.pixels, placed.points)
        shown = {len(found.ids) + index: picture for index, picture in pictures.items()}
    words = f"a map by t-SNE ({found.map.method}) drawn before."
    return _write(found, placed, output, words, made_from(screen, images), [], shown, None)


@dataclass(frozen=True)
class _Placed:
    ids: list[str]
    labels: list[str]
    pixels: Floats
    points: NDArray[np.float64]
    seconds: float
    bad: list[tuple[str, str]]


def _place(screen: Screen, found: LatentMap, new: object, count: int, seed: int, progress: bool) -> _Placed:
    ids, labels, pixels, bad = some_images(new, screen.detector, count, seed)
    latents = _encoded(screen.detector, pixels, None, progress)
    started = time.monotonic()
    points = found.map.place(latents)
    return _Placed(ids, labels, pixels, points, time.monotonic() - started, bad)


def _write(
    found: LatentMap,
    placed: _Placed | None,
    output: Path,
    words: str,
    made: Sequence[tuple[str, str]],
    bad: Sequence[tuple[str, str]],
    shown: dict[int, Any],
    unfinished: Unfinished | None,
) -> list[dict[str, Any]]:
    """Write table, figure and page, and return the rows."""
    points = found.map.points
    rows = _rows(found.ids, found.labels, points, placed=False)
    if placed is not None:
        rows += _rows(placed.ids, placed.labels, placed.points, placed=True)
        words += f" {len(placed.ids):,} new images were {found.map.placing}, in {placed.seconds:.1f} s."
        bad = [*bad, *placed.bad]
    figure = plot_map(points, found.labels, new_points=None if placed is None else placed.points, thumbnails=shown)
    page = TablePage(
        title="The latent space as a map",
        lead=f"{len(found.ids):,} images, {found.map.vectors.shape[1]} numbers each, {words}{unreadable(bad)}",
        columns=["label", "images"],
        rows=[[name or "(none)", f"{list(found.labels).count(name):,}"] for name in sorted(set(found.labels))],
        conclusion=f"{counted(len(set(found.labels)), 'label')} on the map; the largest has "
        f"{max(map(list(found.labels).count, set(found.labels))):,} images.",
        made=made,
        note="Neighbours on the map are neighbours in the latent space; distances between far groups mean little.",
    )
    write_study(output, page, rows, {"latent-map": figure}, unfinished=unfinished)
    return rows


def _rows(ids: Sequence[str], labels: Sequence[str], points: NDArray[np.float64], placed: bool) -> list[dict[str, Any]]:
    return [
        {"id": name, "label": label, "x": float(x), "y": float(y), "placed": placed}
        for name, label, (x, y) in zip(ids, labels, points, strict=True)
    ]


def _with_encoder(screen: Screen) -> Detector:
    if not screen.detector.has_encoder:
        raise InputError(f"detector {screen.detector.name!r} has no encoder")
    return screen.detector


def _encoded(detector: Detector, pixels: Floats, unfinished: Unfinished | None, shown: bool) -> Floats:
    """Return latents (N, D), those kept by an interrupted study as they are."""
    parts = []
    with show("encoding", len(pixels), shown) as advance:
        for start in range(0, len(pixels), _AT_ONCE):
            some = pixels[start : start + _AT_ONCE]
            make = partial(detector.encode, some)
            parts.append(make() if unfinished is None else unfinished.once(f"latents-{start}", make))
            advance(len(some), "")
    return np.concatenate(parts)


def _pictures(pixels: Floats, points: NDArray[np.float64]) -> dict[int, NDArray[np.uint8]]:
    """Return the images nearest to the nodes of a grid, each at most once, where there is one near, by their index."""
    low, high = points.min(axis=0), points.max(axis=0)
    step = max(float((high - low).max()), 1e-9) / _THUMBNAILS
    nodes = np.stack(np.meshgrid(*(np.arange(a + step / 2, b, step) for a, b in zip(low, high, strict=True))), axis=-1)
    chosen = []
    for node in nodes.reshape(-1, 2):
        distances = np.linalg.norm(points - node, axis=1)
        if distances.min() < step / 3:
            chosen.append(int(distances.argmin()))
    return {index: colours(pixels[index]) for index in dict.fromkeys(chosen)}

"""The fastest program that gives a screen's verdicts here: torch, or a graph that is made on first use."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recondite.data.artifacts import read_manifest
from recondite.data.catalog import cache_folder
from recondite.data.datasets import Batch, open_images, read_batches
from recondite.data.files import atomic_file
from recondite.errors import ArtifactError, InputError, ReconditeError
from recondite.graphs.runtimes import threads
from recondite.screen.saved import EXPORTED, KIND, SCHEMA, existing
from recondite.screen.screen import Screen, load
from recondite.screen.timing import milliseconds, processor

RuntimeChoice = Literal["torch", "auto", "onnxruntime", "openvino"]
GRAPHS = ("onnxruntime", "openvino")
"""What a screen may be judged by in place of torch."""
JUDGED_BY = "judged_by"
"""The fact of a screen that says what judges: "runtime", "milliseconds" an image of each that was tried, "agreed_on" so
many images, and why others were "refused"."""
_CHOICE = "choice.json"
_MOST_KEPT = 16
"""Choices that stay in the cache, those used last: the graph of a large network takes a hundred megabytes."""


def fastest(path: Path | str, images: object, runtime: RuntimeChoice = "auto") -> Screen:
    """Return a screen that is judged by a graph where that gives the same labels and is faster here.

    The graph and the choice are made once for a screen, this machine and its versions, and kept in the cache, where the
    choices used last stay; then no torch is needed unless it is the fastest. A graph is taken if on noise and on the
    first images all scores agree within the tolerance of exports, and all labels.

    Args:
        path: as in `recondite.load`; not an exported screen.
        images: what will be judged, anything that `open_images` opens twice.
        runtime: "auto", or the one to take whatever the time.

    Raises:
        InputError: the screen was exported; or this runtime is not installed, or does not give its verdicts.
        ArtifactError: as `recondite.load`.
    """
    folder = existing(path)
    manifest = read_manifest(folder, SCHEMA, KIND, EXPORTED)
    if manifest["kind"] == EXPORTED:
        raise InputError(f"{path} was exported for a runtime, and runs on no other")
    names = [name for name in GRAPHS if runtime in ("auto", name)]
    made_from = [runtime, manifest["digest"], *map(_version, ("recondite", "torch", *names)), processor(), threads()]
    kept = cache_folder() / "graphs" / hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]
    try:
        return _taken_up(folder, kept)
    except (ArtifactError, OSError, ValueError, KeyError, TypeError):
        return _chosen(folder, images, names, kept, only=runtime != "auto")


def runtime_of(screen: Screen) -> str:
    """Return the program that a screen is judged by."""
    runtime = getattr(screen.detector.options, "runtime", None)
    return {None: "torch", "onnx": "onnxruntime"}.get(runtime, str(runtime))


def _taken_up(folder: Path, kept: Path) -> Screen:
    """Return what was chosen before; an error if that is not there, or a file of the graph is not what it was."""
    choice = json.loads((kept / _CHOICE).read_text(encoding="utf-8"))
    name, facts = choice["facts"]["runtime"], choice["facts"]
    if name not in ("torch", *GRAPHS):
        raise ValueError(name)
    if name != "torch" and read_manifest(kept / name, SCHEMA, EXPORTED)["digest"] != choice["digest"]:
        raise ArtifactError(f"{kept / name} is not the graph that was made")
    screen = load(folder if name == "torch" else kept / name)
    with suppress(OSError):
        os.utime(kept)
    return _telling(screen, facts)


def _chosen(folder: Path, images: object, names: list[str], kept: Path, only: bool) -> Screen:
    """Make the graphs, try them out and keep the choice; with `only`, an error where there is none to choose."""
    from recondite.screen.export import export_onnx, export_openvino

    screen = load(folder)
    batches = read_batches(
        open_images(images, shape=screen.detector.shape), screen.detector.preprocessing, screen.detector.scoring_batch
    )
    first = next(iter(batches)).only_good()
    judges, refused, digests = {"torch": screen}, {}, {}
    for name in names:
        export = export_onnx if name == "onnxruntime" else export_openvino
        try:
            graph = load(export(screen, kept / name))
        except (ReconditeError, RuntimeError) as error:
            refused[name] = str(error)
            continue
        if _agree(screen, graph, first):
            judges[name] = graph
            digests[name] = read_manifest(kept / name, SCHEMA, EXPORTED)["digest"]
        else:
            refused[name] = "its scores or labels differ on the first images"
    if only and refused:
        _forget(kept)
        raise InputError(f"{names[0]} cannot judge in this screen's place: {refused[names[0]]}")
    times = milliseconds(judges)
    name = next(iter(names), "torch") if only else min(times, key=times.__getitem__)
    for other in {*names} - {name}:
        _forget(kept / other)
    facts = {"runtime": name, "milliseconds": times, "agreed_on": len(first.ids), "refused": refused}
    kept.mkdir(parents=True, exist_ok=True)
    with atomic_file(kept / _CHOICE) as temporary:
        temporary.write_text(json.dumps({"facts": facts, "digest": digests.get(name)}), encoding="utf-8")
    with suppress(OSError):  # another process may be at the same
        for unused in sorted(kept.parent.iterdir(), key=os.path.getmtime)[:-_MOST_KEPT]:
            _forget(unused)
    return _telling(judges[name], facts)


def _forget(folder: Path) -> None:
    """Remove a folder of the cache, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def _telling(screen: Screen, facts: Mapping[str, Any]) -> Screen:
    return replace(screen, facts={**screen.facts, JUDGED_BY: dict(facts)})


def _agree(screen: Screen, graph: Screen, batch: Batch) -> bool:
    """Return whether a graph scores images as the screen does, within the tolerance, and labels them as it does."""
    from recondite.screen.export import TOLERANCE, spread_of

    if not batch.ids:
        return True
    ours, theirs = screen.score_batch(batch), graph.score_batch(batch)
    allowed = TOLERANCE * np.maximum(np.abs(ours.instance_score), spread_of(screen.calibrator))
    near = np.abs(ours.instance_score - theirs.instance_score) <= allowed
    return bool(near.all() and np.array_equal(screen.judge(ours).is_outlier, graph.judge(theirs).is_outlier))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

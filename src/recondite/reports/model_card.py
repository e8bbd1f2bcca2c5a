"""A screen published on the Hugging Face hub, with a model card."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib.axes import Axes

from recondite.data.artifacts import MANIFEST, read_folder
from recondite.data.hub import SCHEME, client, errors_of, parse_address
from recondite.data.pictures import drawn, figure_of
from recondite.errors import InputError
from recondite.reports.figures import plot_calibration, plot_history, plot_scores
from recondite.reports.report import calibration_curve, screen_facts
from recondite.screen.promise import promise
from recondite.screen.saved import KIND, SCHEMA, located
from recondite.screen.screen import Screen, load

CARD = "README.md"
_HOW = ("detector", "options", "parameters", "validation error", "training")


def push(folder: Path | str, address: str, *, private: bool = False, license: str | None = None, **modules: Any) -> str:  # noqa: A002
    """Put a saved screen on the hub, as one commit on its main branch, with a model card; return the commit's address.

    The repository is made if it is not there. The screen is loaded first: one that cannot be is not published. The
    hashes and thumbnails of the images that it has met stay behind.

    Args:
        folder: what `Screen.save` wrote, or another name that `load` takes.
        address: "hf://ORG/NAME".
        private: whether a new repository is hidden from others.
        license: its identifier on the hub, such as "apache-2.0", for the card.
        modules: encoder, decoder, backbone or classifier, where `load` needs them.

    Returns:
        "hf://ORG/NAME@COMMIT", which `load` takes.

    Raises:
        ArtifactError: the screen is damaged.
        SourceError: the hub refuses or cannot be reached.
        InputError: a malformed address or one with a revision, a malformed license, or no right to write there.
    """
    repository, revision = parse_address(address)
    if revision is not None:
        raise InputError(f"screens are put on the main branch: expected hf://ORG/NAME; got {address!r}")
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise InputError(f"expected the identifier of a license, such as apache-2.0; got {license!r}")
    folder = located(folder)
    screen = load(folder, **modules)
    with TemporaryDirectory() as scratch:
        if screen.known is not None:  # thumbnails of the images it has met are nobody else's
            screen, folder = replace(screen, known=None), Path(scratch) / "screen"
            screen.save(folder)
        manifest, _ = read_folder(folder, SCHEMA, KIND)
        pages = card(screen, repository, manifest, license)
        taken = sorted(set(pages) & set(manifest["files"]))
        if taken:
            raise InputError(f"{folder} has a file {taken[0]} of its own, which is a name of the model card's")
        with errors_of(address) as library:
            content = {name: folder / name for name in (*manifest["files"], MANIFEST)} | pages
            added = [library.CommitOperationAdd(name, data) for name, data in content.items()]
            hub = client(library)
            hub.create_repo(repository, private=private, exist_ok=True)
            done = hub.create_commit(repository, added, commit_message=f"Screen {manifest['digest'][:12]}")
    return f"{SCHEME}{repository}@{done.oid}"


def card(
    screen: Screen,
    repository: str,
    manifest: Mapping[str, Any],
    license: str | None = None,  # noqa: A002
) -> dict[str, bytes]:
    """Return the model card and its figures, file name -> content.

    Args:
        screen: what is published.
        repository: "ORG/NAME".
        manifest: of the saved screen.
        license: its identifier on the hub.
    """
    from jinja2 import Environment, StrictUndefined

    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(
        files("recondite").joinpath("reports", "model_card.md").read_text(encoding="utf-8")
    )
    pictures = {f"{name}.png": drawn(figure_of(ax), "png") for name, ax in _figures(screen)}
    text = template.render(
        repository=repository,
        license=license,
        alpha=f"{screen.alpha:g}",
        detector=screen.detector.name,
        shape=" x ".join(map(str, screen.detector.shape)),
        score=screen.score,
        own_modules=screen.detector.modules_given or bool((manifest["evidence"] or {}).get("classifier")),
        data=_data(screen),
        calibration=_calibration(screen),
        history="history.png" in pictures,
        facts=[(name, value) for name, value in screen_facts(screen) if name in _HOW],
        digest=manifest["digest"],
    )
    return {CARD: text.encode(), **pictures}


def _data(screen: Screen) -> list[tuple[str, str]]:
    facts = screen.facts
    rows = []
    for part, words in (("images", "learnt from"), ("calibration", "calibrated on")):
        given = facts.get(part, {})
        fingerprint = given.get("fingerprint")
        rows.append((words, f"{given['images']:,} images" if "images" in given else "unknown"))
        rows.append((f"fingerprint of what it was {words}", f"`{fingerprint}`" if fingerprint else "unknown"))
    rows.append(("unreadable images left out", str(facts.get("unreadable", {}).get("count", "unknown"))))
    return rows


def _calibration(screen: Screen) -> list[tuple[str, str]]:
    low, high = screen.false_alarm_interval
    groups = [(f"threshold{f' of {group}' if group else ''}", f"{t:.6g}") for group, t in screen.thresholds.items()]
    sizes = ", ".join(f"{size:,} {group or ''}".strip() for group, size in screen.calibrator.sizes.items())
    return [
        ("calibration images", sizes),
        ("promise", promise(screen)),
        ("95 % interval of the true rate", f"{low:.4f} to {high:.4f}"),
        *groups,
    ]


def _figures(screen: Screen) -> Iterator[tuple[str, Axes]]:
    scores, history = screen.calibrator.scores, screen.detector.history
    thresholds, rates, lows, highs = calibration_curve(scores)
    yield "calibration", plot_calibration(thresholds, rates, lows, highs, screen.alpha)
    yield "scores", plot_scores({"calibration (normal)": scores}, screen.threshold)
    if len(history.epochs) > 1:
        yield "history", plot_history(history.epochs, history.best_epoch)

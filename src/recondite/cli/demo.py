"""The demo: a screen for upright digits meets other images, one for textures meets scratches and stains."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.catalog import open_named
from recondite.data.datasets import ImageSet
from recondite.data.tables import write_table
from recondite.errors import InputError
from recondite.perturbations import defective
from recondite.perturbations.outliers import make_outliers, texture_tiles
from recondite.reports.report import write_report
from recondite.screen.fit import fit
from recondite.screen.screen import Screen
from recondite.statistics.metrics import auroc, rate
from recondite.statistics.scores import Verdicts

_EPOCHS = {"mnist5k": 60, "digits": 80}
_TEXTURES = 300
_TILE, _LEARNT = 64, 150
Rows = list[dict[str, Any]]


def run_demo(folder: Path, epochs: int | None = None) -> list[tuple[Rows, Path]]:
    """Judge digits and, where scikit-image is at hand, textures with made-up defects; write reports of both.

    Args:
        folder: where everything is written: screen, verdicts.csv and report.html; in its folder textures likewise.
        epochs: of training on digits.

    Returns:
        Of each, one row a kind of image and the path of the report.
    """
    shown = [_run_digits(folder, epochs)]
    try:
        tiles = texture_tiles(_TILE)
    except InputError as error:
        print(f"without textures and their defects: {error}", file=sys.stderr)
        return shown
    return [*shown, _run_textures(folder / "textures", tiles)]


def _run_digits(folder: Path, epochs: int | None) -> tuple[Rows, Path]:
    name = _digits_at_hand()
    screen = fit(f"{name}/train", alpha=0.05, epochs=epochs or _EPOCHS[name], seed=0, progress=True)
    return _judged(folder, screen, _kinds(name), "Digits, rotated digits and textures", "A screen for upright digits")


def _run_textures(folder: Path, tiles: NDArray[np.uint8]) -> tuple[Rows, Path]:
    """Fit on most tiles and judge the rest, as they are, scratched and stained."""
    learnt, good = tiles[:_LEARNT], tiles[_LEARNT:]
    # Of 150 images, 40 calibrate: as few as alpha .05 allows leave too much to chance.
    screen = fit(
        learnt, detector="features", methods="patchcore", side=192, score="error", calibration=40 / _LEARNT, seed=0
    )
    kinds = {"textures": good}
    for kind, defect in (("scratched", "scratch"), ("stained", "blob")):
        changed = defective(good.astype(np.float32) / 255, defect).images
        kinds[f"textures, {kind}"] = np.round(changed * 255).astype(np.uint8)
    numbers = [f"{index:03d}" for index in range(len(good))]
    named = {kind: _named(images, kind, numbers) for kind, images in kinds.items()}
    return _judged(folder, screen, named, "Textures, scratched and stained", "A screen for textures")


def _judged(folder: Path, screen: Screen, kinds: dict[str, ImageSet], title: str, table: str) -> tuple[Rows, Path]:
    """Judge kinds of images, of which the first is normal, and write screen, verdicts and report."""
    screen.save(folder / "screen")
    verdicts = {kind: screen.predict(images, progress=True) for kind, images in kinds.items()}
    normal = next(iter(verdicts.values()))
    rows: Rows = []
    for kind, judged in verdicts.items():
        flagged = rate(judged.is_outlier)
        rows.append(
            {
                "images": kind,
                "number": f"{len(judged):,}",
                "flagged": f"{flagged.hits:,}",
                "share": f"{flagged.value:.3f}",
                "95 % interval": f"{flagged.low:.3f} to {flagged.high:.3f}",
                "AUROC": "" if judged is normal else f"{auroc(normal.instance_score, judged.instance_score):.3f}",
            }
        )
    rows[0]["AUROC"] = f"(alpha {screen.alpha:g})"
    everything = Verdicts.concatenate(verdicts.values())
    write_table(folder / "verdicts.csv", everything.records())
    report = folder / "report.html"
    write_report(
        report,
        screen,
        everything,
        _joined(kinds),
        title=title,
        table={
            "title": table,
            "columns": list(rows[0]),
            "rows": [list(row.values()) for row in rows],
        },
    )
    return rows, report.absolute()


def _digits_at_hand() -> str:
    try:
        open_named("mnist5k/test")
    except InputError as error:
        print(f"falling back to the smaller digits of scikit-learn: {error}", file=sys.stderr)
        return "digits"
    return "mnist5k"


def _kinds(name: str) -> dict[str, ImageSet]:
    found = open_named(f"{name}/test")
    assert isinstance(found.items, np.ndarray)
    rotated = np.ascontiguousarray(np.rot90(found.items, axes=(1, 2)))
    return {
        "digits, upright": _named(found.items, "upright", found.names),
        "digits, rotated by 90 degrees": _named(rotated, "rotated", found.names),
        "textures": _textures(found.items.shape[1]),
    }


def _named(images: NDArray[np.uint8], kind: str, names: Any) -> ImageSet:
    return ImageSet(images, ids=[f"{kind}/{name}" for name in names], labels=[kind] * len(images))


def _textures(side: int) -> ImageSet:
    """Cut squares from real photographs, of textures where they are at hand."""
    try:
        cut = make_outliers("textures", _TEXTURES, (1, side, side))
    except InputError:
        cut = make_outliers("photographs", _TEXTURES, (1, side, side))
    return _named(cut[:, 0], "textures", [f"{index:03d}" for index in range(_TEXTURES)])


def _joined(kinds: dict[str, ImageSet]) -> ImageSet:
    return ImageSet(
        np.concatenate([np.asarray(images.items) for images in kinds.values()]),
        ids=[name for images in kinds.values() for name in images.ids or ()],
    )

"""The demo: a screen for upright digits meets digits, rotated digits and textures."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.catalog import open_named
from recondite.data.datasets import ImageSet
from recondite.data.tables import write_table
from recondite.errors import InputError
from recondite.perturbations.outliers import make_outliers
from recondite.reports.report import write_report
from recondite.screen.fit import fit
from recondite.statistics.metrics import auroc, rate
from recondite.statistics.scores import Verdicts

_EPOCHS = {"mnist5k": 60, "digits": 80}
_TEXTURES = 300


def run_demo(folder: Path, epochs: int | None = None) -> tuple[list[dict[str, Any]], Path]:
    """Fit on embedded digits, judge three kinds of images, and write folder/screen, verdicts.csv and report.html.

    Args:
        folder: where everything is written.
        epochs: of training.

    Returns:
        One row a kind of image, and the path of the report.
    """
    name = _digits_at_hand()
    screen = fit(f"{name}/train", alpha=0.05, epochs=epochs or _EPOCHS[name], seed=0, progress=True)
    screen.save(folder / "screen")
    kinds = _kinds(name)
    verdicts = {kind: screen.predict(images, progress=True) for kind, images in kinds.items()}
    upright = verdicts["digits, upright"]
    rows = []
    for kind, judged in verdicts.items():
        flagged = rate(judged.is_outlier)
        rows.append(
            {
                "images": kind,
                "number": f"{len(judged):,}",
                "flagged": f"{flagged.hits:,}",
                "share": f"{flagged.value:.3f}",
                "95 % interval": f"{flagged.low:.3f} to {flagged.high:.3f}",
                "AUROC": "" if judged is upright else f"{auroc(upright.instance_score, judged.instance_score):.3f}",
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
        title="Digits, rotated digits and textures",
        table={
            "title": "A screen for upright digits",
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

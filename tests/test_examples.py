"""The scripts in examples/ run with --quick, write what they say, and stay short."""

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from slow import slow

import recondite
from recondite.training import loop

EXAMPLES = Path(__file__).parent.parent / "examples"
WRITTEN = {
    "alad_one_class": ["one-class/study.html", "one-class/table.csv", "latent-size/study.html"],
    "autoencoder_as_microscope": [
        *("report.html", "upright.png", "rotated.png", "screen/pictures.safetensors"),
        *(f"{study}/study.html" for study in ("thresholds", "latent-map", "interpolation", "denoising", "linear")),
    ],
    "guard": ["report/report.html", "table.csv"],
    "masks_and_vae": ["report.html", *(f"{study}/study.html" for study in ("mask-size", "features", "microscope"))],
    "own_detector": ["report.html", "screen/manifest.json"],
    "screen_before_classifier": ["fresh.html", "outliers.html", "outliers.png", "thresholds/study.html"],
}


class ShortRun(loop.Run):
    """A training of three epochs at most."""

    def __init__(self, detector, images, validation, options, *more):
        super().__init__(detector, images, validation, replace(options, epochs=min(3, options.epochs)), *more)


def test_every_example_is_tested_and_short():
    scripts = {path.stem: path.read_text().count("\n") for path in EXAMPLES.glob("*.py")}
    assert scripts.keys() == WRITTEN.keys()
    assert max(length for name, length in scripts.items() if name != "guard") < 80  # it has a classifier to train


@pytest.mark.parametrize("name", slow(WRITTEN, lambda name: name != "own_detector"))
def test_an_example_runs(name, tmp_path, monkeypatch, capsys):
    """In this process, and with few epochs, since nothing is asserted of what is found."""
    path = EXAMPLES / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path), "--quick", "--output", str(tmp_path)])
    monkeypatch.setattr(loop, "Run", ShortRun)
    monkeypatch.setitem(recondite.DETECTORS, "denoiser", None)  # the example's own, which no other test shall see
    runpy.run_path(str(path), run_name="__main__")
    assert str(tmp_path) in capsys.readouterr().out
    for file in WRITTEN[name]:
        assert (tmp_path / file).stat().st_size > 0

"""The scripts in examples/ run with --quick, write what they say, and stay short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_every_example_is_tested_and_short():
    scripts = {path.stem: path.read_text().count("\n") for path in EXAMPLES.glob("*.py")}
    assert scripts.keys() == WRITTEN.keys()
    assert max(length for name, length in scripts.items() if name != "guard") < 80  # it has a classifier to train


@pytest.mark.parametrize("name", WRITTEN)
def test_an_example_runs(name, tmp_path):
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--quick", "--output", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
    for file in WRITTEN[name]:
        assert (tmp_path / file).stat().st_size > 0

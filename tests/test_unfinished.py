"""Studies that were interrupted go on where they stopped."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from recondite.cli import main
from recondite.detectors import Detector
from recondite.studies import output
from recondite.studies.latent import denoising_study
from recondite.studies.latent_map import latent_map_study
from recondite.studies.linear import linear_study
from recondite.studies.masks import feature_share_study, mask_size_study, microscope_study
from recondite.studies.severity import defects_study, severity_study
from recondite.studies.thresholds import thresholds_study
from recondite.studies.unfinished import FOLDER, Unfinished


class Killed(BaseException):
    pass


def test_a_part_is_made_once_and_again_when_damaged_or_of_something_else(tmp_path):
    made = []

    def make():
        made.append(1)
        return np.arange(3.0)

    images = np.zeros((2, 1, 8, 8), np.float32)
    for _ in range(2):
        unfinished = Unfinished(tmp_path, "study", images, {"seed": 0})
        np.testing.assert_array_equal(unfinished.once("part", make), [0, 1, 2])
        assert unfinished.seconds > 0
    assert len(made) == 1
    part = tmp_path / FOLDER / "part.safetensors"
    part.write_bytes(part.read_bytes()[:-4])
    Unfinished(tmp_path, "study", images, {"seed": 0}).once("part", make)
    assert len(made) == 2
    for other in (("study", images, {"seed": 1}), ("study", images + 1, {"seed": 0}), ("other", images, {"seed": 0})):
        assert not Unfinished(tmp_path, *other).holds("part")
        assert not part.exists()
        Unfinished(tmp_path, "study", images, {"seed": 0}).once("part", make)
    assert len(made) == 5
    Unfinished(tmp_path, "study", images, {"seed": 0}).finish()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def screen(screens):
    return screens("pca")


@pytest.fixture(scope="module")
def png(tmp_path_factory, digits):
    from PIL import Image

    folder = tmp_path_factory.mktemp("digits")
    for number, digit in enumerate(digits[1400:1600]):
        Image.fromarray(digit).save(folder / f"{number:03d}.png")
    return folder


@pytest.mark.parametrize(
    ("study", "options", "calls"),
    [
        (mask_size_study, {"sizes": [2, 4], "masks": 10, "count": 10}, "score_batch"),
        pytest.param(
            feature_share_study, {"sizes": [2, 4], "masks": 10, "count": 10}, "score_batch", marks=pytest.mark.slow
        ),
        pytest.param(microscope_study, {"sizes": [2, 4], "masks": 100}, "score_batch", marks=pytest.mark.slow),
        (severity_study, {"corruptions": ["fog", "jpeg"], "count": 40}, "score_batch"),
        pytest.param(defects_study, {"count": 64}, "score_batch", marks=pytest.mark.slow),
        pytest.param(
            denoising_study, {"levels": [0.1, 0.2, 0.3, 0.4], "count": 64}, "score_batch", marks=pytest.mark.slow
        ),
        (thresholds_study, {}, "score_batch"),
        (latent_map_study, {"count": 100}, "encode"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_interrupted_study_goes_on_to_the_same_table(screen, png, tmp_path, monkeypatch, study, options, calls):
    monkeypatch.setattr(output, "_PART", 64)
    monkeypatch.setattr("recondite.screen.screen.at_once", lambda _, full: full)
    monkeypatch.setattr("recondite.studies.latent_map._AT_ONCE", 32)
    looked_at, limit = [0], [10**9]
    real = getattr(Detector, calls)

    def counted(self, batch, *more, **named):
        if looked_at[0] >= limit[0]:
            raise Killed
        looked_at[0] += 1
        return real(self, batch, *more, **named)

    monkeypatch.setattr(Detector, calls, counted)
    study(screen, png, tmp_path / "whole", **options)
    total, looked_at[0] = looked_at[0], 0
    limit[0] = total - 2
    with pytest.raises(Killed):
        study(screen, png, tmp_path / "parts", **options)
    assert (tmp_path / "parts" / FOLDER).is_dir()
    assert not (tmp_path / "parts" / "table.csv").exists()
    first, looked_at[0], limit[0] = looked_at[0], 0, 10**9
    study(screen, png, tmp_path / "parts", **options)
    assert looked_at[0] < total - first / 2
    assert not (tmp_path / "parts" / FOLDER).exists()
    for table in (tmp_path / "whole").glob("*.csv"):
        assert (tmp_path / "parts" / table.name).read_bytes() == table.read_bytes()


def test_the_comparison_with_pca_goes_on_in_the_middle_of_a_training(digits, tmp_path, monkeypatch):
    import recondite.training.loop

    def errors(rows):
        return [(row["method"], row["learnt"], row["held_out"]) for row in rows]

    options = {"latent_size": 4, "epochs": 3}
    whole = errors(linear_study(digits[:400], tmp_path / "whole", **options))
    epochs = []
    real = recondite.training.loop.Run.train_epoch

    def killed(self, epoch, advance):
        if len(epochs) == 4:
            raise Killed
        epochs.append(epoch)
        return real(self, epoch, advance)

    monkeypatch.setattr(recondite.training.loop.Run, "train_epoch", killed)
    with pytest.raises(Killed):
        linear_study(digits[:400], tmp_path / "parts", **options)
    assert epochs == [1, 2, 3, 1]
    epochs.clear()
    assert errors(linear_study(digits[:400], tmp_path / "parts", **options)) == whole
    assert epochs == [2, 3]


KILLED = """
import os, signal, sys
from recondite.detectors import Detector
from recondite.studies import output
output._PART = 64
real, batches = Detector.score_batch, []
def counted(self, *given, **named):
    batches.append(1)
    if len(batches) > 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *given, **named)
Detector.score_batch = counted
from recondite.cli import main
main(sys.argv[1:])
"""


def test_a_killed_process_leaves_what_the_next_one_takes_up(screen, tmp_path, monkeypatch):
    screen.save(tmp_path / "screen")
    real, batches = Detector.score_batch, []

    def counted(self, *given, **named):
        batches.append(1)
        return real(self, *given, **named)

    monkeypatch.setattr(output, "_PART", 64)
    monkeypatch.setattr(Detector, "score_batch", counted)

    def command(name):
        study = ["study", "mask-size", str(tmp_path / "screen"), "digits/test", "-o", str(tmp_path / name)]
        return [*study, "--sizes", "2,4", "--masks", "10", "--count", "10"]

    assert main(command("whole")) == 0
    assert len(batches) == 5  # parts of 64, 73 and 73 images: 1 + 2 + 2 batches of 64
    killed = subprocess.run([sys.executable, "-c", KILLED, *command("parts")], capture_output=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "parts" / FOLDER).glob("*.safetensors"))) == 2
    batches.clear()
    assert main(command("parts")) == 0
    assert len(batches) == 2
    for name in ("table.csv", "images.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

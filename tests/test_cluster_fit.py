"""Fits on a cluster of two nodes, against one process."""

import os
import signal
import threading
import time
from contextlib import nullcontext
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image

from recondite import fit
from recondite.cli import main
from recondite.cluster import fit as cluster_fit
from recondite.cluster.fit import fit_on_cluster
from recondite.data.datasets import same_everywhere
from recondite.detectors import build
from recondite.errors import InputError, ReconditeError
from recondite.screen.screen import load
from recondite.training.logs import EPOCHS

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    ramp = np.linspace(0, 200, 16)
    for number, draws in enumerate(np.random.default_rng(1).integers(0, 56, (240, 16, 16))):
        Image.fromarray((ramp + draws).astype(np.uint8)).save(folder / f"{number:03d}.png")
    (folder / "100a.png").write_bytes(b"no picture")
    return folder


def farthest(one, other):
    return max(float((one[name].double() - value.double()).abs().max()) for name, value in other.items())


def killer(monkeypatch, folder, rank):
    """Kill the worker of this rank when two epochs are logged; give what it found and did."""
    train, seen = cluster_fit.train_in_workers, {}

    def watched(ray, task, *rest):
        def kill():
            while cluster_fit.logged_epochs(folder) < 2:
                time.sleep(0.01)
            begun = ray.get(task["ledger"].begun.remote())
            seen["process"] = next(process for number, _, process in begun if number == rank)
            os.kill(seen["process"], signal.SIGKILL)
            seen["epochs"] = cluster_fit.logged_epochs(folder)

        threading.Thread(target=kill, daemon=True).start()
        files = train(ray, task, *rest)
        seen["begun"] = ray.get(task["ledger"].begun.remote())
        return files

    monkeypatch.setattr(cluster_fit, "train_in_workers", watched)
    return seen


@pytest.mark.usefixtures("two_nodes")
def test_a_killed_worker_changes_nothing(tmp_path, monkeypatch, digits):
    """Both go on from the last checkpoint, and give the weights of one process to 2e-5."""
    images = digits[:300, None] / np.float32(255)
    options = {"detector": "vae", "width": 4, "latent_size": 4, "batch_size": 32, "learning_rate": 1e-3}
    options |= {"epochs": 20, "evidence": 0.25, "calibration": 0.3}
    whole = fit(images, device="cpu", **options)
    seen = killer(monkeypatch, tmp_path, rank=1)
    screen = fit_on_cluster(images, workers=2, run_folder=tmp_path, cluster="auto", **options)
    assert seen["epochs"] < 20
    assert [rank for rank, _, _ in seen["begun"]].count(1) == 2
    assert len({process for _, _, process in seen["begun"]}) == 4
    rows = (tmp_path / EPOCHS).read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [str(epoch) for epoch in range(1, 21)]
    one, two = whole.detector.state_dict(), screen.detector.state_dict()
    first = build("vae", image_shape=(1, 8, 8), width=4, latent_size=4).state_dict()
    assert farthest(one, first) > 0.05
    assert farthest(one, two) < 2e-5
    assert screen.facts.keys() == whole.facts.keys()
    for name in screen.facts.keys() - {"map_scale"}:
        assert screen.facts[name] == whole.facts[name]
    np.testing.assert_allclose(screen.calibrator.scores, whole.calibrator.scores, rtol=0.01, atol=0.01)
    assert screen.detector.history.best_epoch == whole.detector.history.best_epoch


@pytest.mark.usefixtures("two_nodes")
@pytest.mark.slow
def test_alad_from_the_command_line(tmp_path, pictures, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    flags = ["--detector", "alad", "--width", "8", "--latent-size", "5", "--epochs", "2", "--batch-size", "32"]
    flags += ["--evidence", "0.3", "--calibration", "0.3"]
    command = ["fit", pictures.name, *flags, "-o"]
    assert main([*command, str(tmp_path / "one"), "--device", "cpu"]) == 0
    assert main([*command, str(tmp_path / "two"), "--workers", "2", "--cluster", "auto"]) == 0
    one, two = load(tmp_path / "one"), load(tmp_path / "two")
    assert farthest(one.detector.state_dict(), two.detector.state_dict()) < 2e-5
    assert one.facts["images"] == two.facts["images"]
    assert one.facts["unreadable"] == two.facts["unreadable"]
    assert (tmp_path / "two" / EPOCHS).exists()
    assert not (tmp_path / "two.run").exists()
    np.testing.assert_allclose(two.calibrator.scores, one.calibrator.scores, rtol=0.02, atol=0.02)


@pytest.mark.usefixtures("two_nodes")
@pytest.mark.slow
def test_an_error_that_no_worker_can_mend_is_told(tmp_path, pictures):
    with pytest.raises(InputError, match=r"alpha = 0\.001 needs at least 999 calibration images"):
        fit_on_cluster(str(pictures), workers=1, run_folder=tmp_path, cluster="auto", detector="pca", alpha=0.001)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"workers": 0}, "workers >= 1"), ({"worker_cpus": 0}, "worker_cpus >= 1"), ({"worker_gpus": 2}, "worker_gpus")],
)
def test_wrong_numbers_are_refused_before_anything_starts(tmp_path, wrong, said):
    with pytest.raises(InputError, match=said):
        fit_on_cluster("nowhere", **{"workers": 2, "run_folder": tmp_path} | wrong)


@pytest.mark.parametrize("flag", [("--workers", "3"), ("--worker-cpus", "2"), ("--worker-gpus", "1")])
def test_flags_of_a_cluster_need_its_switch(flag, tmp_path, capsys):
    assert main(["fit", "mnist", "-o", str(tmp_path / "screen"), *flag]) == 2
    assert "--cluster" in capsys.readouterr().err


def test_a_folder_that_is_not_shared_is_found_out(tmp_path, monkeypatch):
    cluster_fit.check_shared(tmp_path / "run", 0)
    monkeypatch.setattr(cluster_fit, "all_gather", lambda value: [value, False])
    with pytest.raises(ReconditeError, match="not all workers see"):
        cluster_fit.check_shared(tmp_path / "run", 0)


def test_sources_mean_the_same_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    assert same_everywhere("some/*.png") == str(tmp_path / "some/*.png")
    assert same_everywhere("cifar10/train:cat") == "cifar10/train:cat"
    assert same_everywhere("mnist") == str(tmp_path / "mnist")
    assert same_everywhere(["a.png", "b.png"]) == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    images = torch.zeros(2, 1, 8, 8)
    assert same_everywhere(images) is images


def test_a_table_of_groups_means_the_same_in_the_folder_of_a_worker(tmp_path, monkeypatch):
    class SentError(Exception):
        pass

    def sent(_, task, *__):
        raise SentError(task["settings"]["group_by"])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster_fit, "connect", lambda *_, **__: nullcontext(MagicMock()))
    monkeypatch.setattr(cluster_fit, "train_in_workers", sent)
    for given, seen in (("groups.csv", str(tmp_path / "groups.csv")), ("folder", "folder")):
        with pytest.raises(SentError) as told:
            fit_on_cluster("images", workers=1, run_folder=tmp_path / "run", group_by=given)
        assert told.value.args == (seen,)

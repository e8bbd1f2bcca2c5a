"""Studies whose runs are tasks of a cluster of two nodes."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra 'ray'")

from recondite.cli import main
from recondite.data.artifacts import read_tensors
from recondite.errors import InputError, ReconditeError
from recondite.studies.training import execution, runs
from recondite.studies.training.execution import RunResources
from recondite.studies.training.grid import latent_size_study
from recondite.studies.training.one_class import one_class_study
from recondite.training.checkpoint import CHECKPOINT

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.filterwarnings("default")]
QUICK = {"image_size": (8, 8), "latent_size": 4, "width": 8, "epochs": 40, "batch_size": 64}


@pytest.mark.usefixtures("two_nodes")
def test_runs_at_once_give_the_table_of_runs_in_turn(tmp_path, monkeypatch):
    """Also where a process is killed in the middle of a run, which then goes on from its checkpoint."""
    wanted = {"normal": "3,4", "detectors": ["autoencoder", "pca"], "seeds": 1, **QUICK}
    one_class_study("digits", tmp_path / "turn", **wanted)
    run = execution.run_one

    def behind(folder):
        """Return the epochs that a run has behind it."""
        try:
            return int(read_tensors(Path(folder) / CHECKPOINT)[1]["epoch"])
        except (OSError, ReconditeError):
            return 0

    def noted(given, plan, folder, *rest):
        Path(folder).parent.mkdir(parents=True, exist_ok=True)
        with Path(f"{folder}.starts").open("a") as file:
            print(os.getpid(), behind(folder), file=file)
        return run(given, plan, folder, *rest)

    chosen = tmp_path / "once" / "runs" / "autoencoder-latent4-3-seed0"
    starts = chosen.with_name(f"{chosen.name}.starts")

    def kill():
        while behind(chosen) < 2:
            time.sleep(0.01)
        os.kill(int(starts.read_text().split()[0]), signal.SIGKILL)

    monkeypatch.setattr(execution, "run_one", noted)
    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    one_class_study("digits", tmp_path / "once", resources=RunResources(cluster="auto"), **wanted)
    thread.join(10)
    assert (tmp_path / "once" / "table.csv").read_text() == (tmp_path / "turn" / "table.csv").read_text()
    (_, first), (_, second) = (line.split() for line in starts.read_text().splitlines())
    assert int(first) == 0
    assert int(second) >= 2


@pytest.mark.usefixtures("two_nodes")
@pytest.mark.slow
def test_a_study_goes_on_where_it_stopped(tmp_path, capsys):
    flags = ["--normal", "3", "--sizes", "2,4", "--detector", "pca", "--image-size", "8"]
    command = ["study", "latent-size", "digits", *flags, "-o"]
    assert main([*command, str(tmp_path / "turn")]) == 0
    finished = "runs/pca-latent2-3-seed0"
    shutil.copytree(tmp_path / "turn" / finished, tmp_path / "once" / finished)
    kept = (tmp_path / "once" / finished / "result.safetensors").stat().st_mtime_ns
    assert main([*command, str(tmp_path / "once"), "--cluster", "auto"]) == 0
    assert (tmp_path / "once" / "table.csv").read_text() == (tmp_path / "turn" / "table.csv").read_text()
    assert (tmp_path / "once" / finished / "result.safetensors").stat().st_mtime_ns == kept
    assert capsys.readouterr().err.count("runs: 1/1") == 1


@pytest.mark.usefixtures("two_nodes")
def test_what_no_machine_can_run_is_told(tmp_path):
    with pytest.raises(InputError, match="64 components need at least"):
        latent_size_study(
            "digits",
            tmp_path,
            normal="3",
            sizes=[64],
            detector="pca",
            validation=0.9,
            resources=RunResources(cluster="auto"),
        )


def test_a_folder_that_the_machines_do_not_share_is_found_out(tmp_path, monkeypatch):
    task = runs.open_task("digits", image_size=(8, 8))
    monkeypatch.setattr(execution, "_perform_on_cluster", lambda *_: None)
    plan = runs.Plan(detector="pca", normal="3", seed=0)
    with pytest.raises(ReconditeError, match="must share the study's folder"):
        execution.performed(task, [plan], tmp_path, RunResources(cluster="auto"))


def test_a_run_has_at_least_one_thread():
    with pytest.raises(InputError, match="run_cpus >= 1"):
        RunResources(cluster="local", run_cpus=0)

"""Fit on a cluster: Ray Train starts `fit` in each worker, and starts it anew from the last checkpoint if one is lost.

The workers are given what torchrun gives its processes, and share the work as those do; see `recondite.distributed`.
"""

import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from recondite.cluster.connect import connect
from recondite.data.datasets import same_everywhere
from recondite.data.units import same_units_everywhere
from recondite.distributed import all_gather, collective
from recondite.errors import ArtifactError, InputError, ReconditeError
from recondite.progress import progress as show
from recondite.screen.fit import fit
from recondite.screen.screen import Screen, load
from recondite.training.checkpoint import CHECKPOINT
from recondite.training.logs import EPOCHS

_SOURCES = ("validation", "evidence", "calibration", "region", "ignore", "defects", "masks")
_MODULES = ("encoder", "decoder", "backbone", "classifier")
_SECONDS_BETWEEN_LOOKS = 0.5
_RAY_FOLDER, _PROBE = "ray", ".shared"


def fit_on_cluster(
    images: object,
    *,
    workers: int,
    run_folder: Path | str,
    cluster: str = "local",
    worker_cpus: int = 1,
    worker_gpus: int = 0,
    failures: int = 3,
    resume: bool = False,
    progress: bool = False,
    **settings: Any,
) -> Screen:
    """Fit with several workers and return the screen that `fit` would have returned, but for rounding.

    The batch size is that of all workers together. Each worker computes its share of each step; gradients, noise,
    dropout and batch norm are those of the whole batch. Reading, validation, evidence and calibration are shared too.

    Args:
        images: as in `fit`. Paths must mean the same on all machines of the cluster; arrays are sent to them.
        workers: how many processes, wherever the cluster has room.
        run_folder: for checkpoints and logs; all machines must share it.
        cluster: as in `recondite.cluster.connect.connect`.
        worker_cpus: of each worker, which computes with so many threads.
        worker_gpus: 0 or 1 for each worker.
        failures: how often a lost worker may make all of them begin anew from the last checkpoint.
        resume: go on from the checkpoint in `run_folder`.
        progress: show progress on standard error.
        settings: all else as in `fit`.

    Raises:
        InputError: as `fit`; or fewer than one worker, or options that no worker can have.
        ReconditeError: the cluster cannot be reached, too many workers were lost, or they do not share the folder.
    """
    for name, given, least in (("workers", workers, 1), ("worker_cpus", worker_cpus, 1), ("failures", failures, 0)):
        if given < least:
            raise InputError(f"expected {name} >= {least}; got {given!r}")
    if worker_gpus not in (0, 1):
        raise InputError(f"expected worker_gpus 0 or 1: a process computes on one GPU; got {worker_gpus!r}")
    if not worker_gpus and settings.get("device", "auto") == "auto":
        settings["device"] = "cpu"
    folder = Path(os.path.abspath(run_folder))
    folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        (folder / CHECKPOINT).unlink(missing_ok=True)
    settings |= {name: same_everywhere(settings[name]) for name in _SOURCES if name in settings}
    if "group_by" in settings:
        settings["group_by"] = same_units_everywhere(settings["group_by"])
    logical = max(workers * worker_cpus, os.cpu_count() or 1)
    with connect(cluster, cpus=logical) as ray:
        task = {
            "images": same_everywhere(images),
            "settings": settings,
            "folder": str(folder),
            "threads": worker_cpus,
            "ledger": ray.remote(num_cpus=0)(_Ledger).remote(),
        }
        resources = {"CPU": worker_cpus, "GPU": worker_gpus}
        try:
            files = train_in_workers(ray, task, workers, resources, failures, progress)
        finally:
            shutil.rmtree(folder / _RAY_FOLDER, ignore_errors=True)
    return _unpacked(files, {name: settings[name] for name in _MODULES if settings.get(name) is not None})


class _Ledger:
    """What workers tell the process that started them: which began where, and the error that none of them can mend.

    Ray would try again after any error.
    """

    def __init__(self) -> None:
        self._begun: list[tuple[int, str, int]] = []
        self._error: tuple[str, str] | None = None

    def begin(self, rank: int, host: str, process: int) -> bool:
        """Note a worker; return whether there is anything to do."""
        self._begun.append((rank, host, process))
        return self._error is None

    def fail(self, kind: str, message: str) -> None:
        """Note an error."""
        self._error = self._error or (kind, message)

    def begun(self) -> list[tuple[int, str, int]]:
        """Return rank, machine and process id of each worker that ever began."""
        return self._begun

    def error(self) -> tuple[str, str] | None:
        """Return the kind and the message of the error noted."""
        return self._error


def train_in_workers(
    ray: Any, task: Mapping[str, Any], workers: int, resources: Mapping[str, int], failures: int, shown: bool
) -> Mapping[str, bytes]:
    """Train in a process for each worker; return the files of the screen."""
    train, torch_train = import_module("ray.train"), import_module("ray.train.torch")
    gpus = resources["GPU"] > 0
    own = {name: value for name, value in os.environ.items() if name.startswith("RECONDITE_")}
    trainer = torch_train.TorchTrainer(
        _work,
        train_loop_config=dict(task),
        torch_config=torch_train.TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo"),
        scaling_config=train.ScalingConfig(num_workers=workers, use_gpu=gpus, resources_per_worker=dict(resources)),
        run_config=train.RunConfig(
            name="fit",
            storage_path=str(Path(task["folder"]) / _RAY_FOLDER),
            failure_config=train.FailureConfig(max_failures=failures),
            worker_runtime_env={"env_vars": own} if own else None,
        ),
    )
    result, lost = _waited_for(trainer, Path(task["folder"]), workers, shown)
    known = ray.get(task["ledger"].error.remote())
    if known is not None:
        kinds = {kind.__name__: kind for kind in (InputError, ArtifactError)}
        raise kinds.get(known[0], ReconditeError)(known[1])
    if lost is not None:
        if isinstance(lost, train.WorkerGroupError):
            raise ReconditeError(f"the workers failed, and {failures} times anew; the last time: {lost}") from lost
        raise ReconditeError(f"the cluster failed: {lost}") from lost
    begun = ray.get(task["ledger"].begun.remote())
    if shown and len(begun) > workers:
        print(f"a worker was lost {len(begun) // workers - 1} times; the rest is as if none was", file=sys.stderr)
    files: Mapping[str, bytes] = result.return_value
    return files


def _waited_for(trainer: Any, folder: Path, workers: int, shown: bool) -> tuple[Any, Exception | None]:
    """Return the result of a trainer, or the error that it ended with.

    In a thread of its own, as Ray takes over the keyboard's interrupt in the main one.
    """
    ended: dict[str, Any] = {}

    def run() -> None:
        try:
            ended["result"] = trainer.fit()
        except Exception as error:
            ended["error"] = error

    thread = threading.Thread(target=run, name="fit-on-cluster", daemon=True)
    thread.start()
    with show(f"epochs on {workers} workers", None, shown) as advance:
        done = 0
        while thread.is_alive():
            thread.join(_SECONDS_BETWEEN_LOOKS)
            epochs = logged_epochs(folder)
            if epochs > done:
                advance(epochs - done, "")
                done = epochs
    return ended.get("result"), ended.get("error")


def logged_epochs(folder: Path) -> int:
    """Return how many epochs have been logged."""
    try:
        return max(0, len((folder / EPOCHS).read_text(encoding="utf-8").splitlines()) - 1)
    except OSError:
        return 0


def _work(task: dict[str, Any]) -> dict[str, bytes] | None:
    """Fit as one worker; the first returns the files of the screen."""
    import ray
    import ray.train

    rank, ledger, folder = ray.train.get_context().get_world_rank(), task["ledger"], Path(task["folder"])
    if not ray.get(ledger.begin.remote(rank, socket.gethostname(), os.getpid())):
        return None
    torch.set_num_threads(task["threads"])
    try:
        with collective():
            check_shared(folder, rank)
        screen = fit(task["images"], run_folder=folder, resume=True, **task["settings"])
    except ReconditeError as error:
        ray.get(ledger.fail.remote(type(error).__name__, str(error)))
        raise
    return _packed(screen) if rank == 0 else None


def check_shared(folder: Path, rank: int) -> None:
    """Raise ReconditeError unless all workers see the same folder: they could not go on from a checkpoint in it."""
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _PROBE).touch()
    all_gather(None)  # the others look when it is there
    seen = all_gather((folder / _PROBE).exists())
    if rank == 0:
        (folder / _PROBE).unlink(missing_ok=True)
    if not all(seen):
        raise ReconditeError(f"not all workers see {folder}: the screen must be written to a folder that they share")


def _packed(screen: Screen) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="recondite-") as parent:
        folder = Path(parent) / "screen"
        screen.save(folder)
        return {file.name: file.read_bytes() for file in folder.iterdir()}


def _unpacked(files: Mapping[str, bytes], modules: Mapping[str, Any]) -> Screen:
    with tempfile.TemporaryDirectory(prefix="recondite-") as parent:
        folder = Path(parent) / "screen"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return load(folder, **modules)

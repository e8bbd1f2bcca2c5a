"""The runs of a study, in turn in this process or in parallel on a cluster."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from recondite.cluster.connect import connect
from recondite.data.datasets import same_everywhere
from recondite.data.units import same_units_everywhere
from recondite.errors import InputError, ReconditeError
from recondite.progress import progress as show
from recondite.studies.training.runs import Plan, Protocol, Result, Task, is_finished, open_task, perform

_TRIES_AFTER_A_LOSS = 3


@dataclass(frozen=True, kw_only=True)
class RunResources:
    """Where the runs of a study take place.

    Args:
        cluster: as in `recondite.cluster.connect.connect`; its machines must share the folder of the study.
        run_cpus: of each run, which computes with so many threads.
        run_gpus: of each run; a fraction lets several share one.
    """

    cluster: str
    run_cpus: int = 1
    run_gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.run_cpus < 1 or self.run_gpus < 0:
            raise InputError(f"expected run_cpus >= 1 and run_gpus >= 0; got {self.run_cpus} and {self.run_gpus}")


def performed(
    task: Task, plans: Sequence[Plan], output: Path, resources: RunResources | None, progress: bool = False
) -> list[Result]:
    """Return the results of all plans, in order; those in `output` already are taken up.

    A run whose machine is lost goes on from its last epoch on another one.

    Raises:
        InputError: as `perform`.
        ReconditeError: the cluster cannot be reached, or does not write into `output` as this process sees it.
    """
    folders = [output / "runs" / plan.folder for plan in plans]
    if resources is not None:
        open_runs = [(plan, folder) for plan, folder in zip(plans, folders, strict=True) if not is_finished(folder)]
        if open_runs:
            _perform_on_cluster(task, open_runs, resources, progress)
        missing = [folder for _, folder in open_runs if not is_finished(folder)]
        if missing:
            raise ReconditeError(f"{missing[0]} is not here: the machines of the cluster must share the study's folder")
    return [perform(task, plan, folder, progress) for plan, folder in zip(plans, folders, strict=True)]


def _perform_on_cluster(task: Task, runs: Sequence[tuple[Plan, Path]], resources: RunResources, shown: bool) -> None:
    given = (
        str(same_everywhere(task.name)),
        task.protocol,
        task.validation,
        (task.shape[1], task.shape[2]),
        task.preprocessing.value_range,
        same_units_everywhere(task.group_by),
    )
    own = {name: value for name, value in os.environ.items() if name.startswith("RECONDITE_")}
    with connect(resources.cluster, cpus=max(resources.run_cpus, os.cpu_count() or 1)) as ray:
        remote = ray.remote(
            num_cpus=resources.run_cpus,
            num_gpus=resources.run_gpus,
            max_retries=_TRIES_AFTER_A_LOSS,
            runtime_env={"env_vars": own} if own else {},
        )(run_one)
        waiting = {
            remote.remote(given, plan, os.path.abspath(folder), resources.run_cpus, resources.run_gpus): plan
            for plan, folder in runs
        }
        with show("runs", len(waiting), shown) as advance:
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                plan = waiting.pop(done)
                try:
                    wrong = ray.get(done)
                except Exception as error:  # a worker lost too often, or an error that is not ours
                    raise ReconditeError(f"the run {plan.folder} failed: {error}") from error
                if wrong is not None:
                    raise (InputError if wrong[0] else ReconditeError)(wrong[1])
                advance(1, plan.folder)


def run_one(given: tuple[Any, ...], plan: Plan, folder: str, cpus: int, gpus: float) -> tuple[bool, str] | None:
    """Perform one run; return whether the input was wrong, and the message, where it cannot be performed."""
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks: others may use them
    torch.set_num_threads(cpus)
    try:
        perform(_opened(*given), plan, Path(folder))
    except ReconditeError as error:
        return isinstance(error, InputError), str(error)
    return None


@lru_cache(maxsize=1)
def _opened(
    source: str,
    protocol: Protocol,
    validation: float,
    image_size: tuple[int, int],
    value_range: tuple[float, float] | None,
    group_by: str,
) -> Task:
    """Read a data set once for all runs of a process."""
    return open_task(
        source,
        protocol=protocol,
        validation=validation,
        image_size=image_size,
        value_range=value_range,
        group_by=group_by,
    )

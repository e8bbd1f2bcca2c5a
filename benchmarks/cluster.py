"""What a cluster costs and gains: a sweep of 20,000 image files on one machine, on one worker, on two, and with a loss.

Each worker, and the one machine, has one core for all its threads, reading as well as judging, and scores in one. Times
begin when all workers are ready: starting Ray and its workers is given apart. Every table is compared with that of the
one machine, row by row.

    python benchmarks/cluster.py
"""

import argparse
import csv
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
# Ray's workers give way to other processes by default, which the one machine does not.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112

import torch
from damaged_folder import write_images
from machine import where

import recondite
from recondite.cluster import sweep as cluster_sweep
from recondite.cluster.connect import OBJECT_STORE_BYTES
from recondite.cluster.ledger import Ledger
from recondite.cluster.parts import check_parts, read_parts
from recondite.cluster.sweep import Workers
from recondite.screen.screen import Screen
from recondite.screen.sweep import sweep

PART = 500


class Clock:
    """When workers were ready, and what became of the part that was lost with a machine."""

    def __init__(self) -> None:
        self.ready: list[float] = []
        self.killed = self.noticed = self.recovered = 0.0
        self.lost = ""
        self.workers = 1
        greet, died, finish, following = cluster_sweep._Driver._greet, Ledger.died, Ledger.finish, Ledger.next

        def greeting(driver: Any, *arguments: Any) -> None:
            greet(driver, *arguments)
            self.ready.append(time.monotonic())

        def dying(ledger: Any, task: Any, *arguments: Any) -> bool:
            if not self.lost:
                self.noticed, self.lost = time.monotonic(), task.name
            return died(ledger, task, *arguments)

        def finishing(ledger: Any, task: Any, *arguments: Any) -> None:
            finish(ledger, task, *arguments)
            if task.name == self.lost and not self.recovered:
                self.recovered = time.monotonic()
            self.finished(ledger)

        def waiting(ledger: Any) -> Any:
            return following(ledger) if len(self.ready) >= self.workers else None

        cluster_sweep._Driver._greet = greeting  # type: ignore[method-assign]
        Ledger.died, Ledger.finish, Ledger.next = dying, finishing, waiting  # type: ignore[method-assign]

    def finished(self, ledger: Any) -> None:
        """Called after each part."""


def timed(clock: Clock, screen: Screen, folder: Path, output: Path, workers: int) -> tuple[float, float]:
    """Return (seconds until the workers were ready, seconds from then on)."""
    clock.ready.clear()
    clock.workers = workers
    start = time.monotonic()
    options = Workers(workers=workers, part_size=PART)
    cluster_sweep.cluster_sweep(screen, folder, output, cluster="auto", workers=options)
    return clock.ready[workers - 1] - start, time.monotonic() - clock.ready[workers - 1]


def same(output: Path, table: Path) -> bool:
    """Return whether the parts are whole and their rows are those of the table."""
    check_parts(output)
    with table.open(newline="") as stream:
        return list(csv.DictReader(stream)) == list(read_parts(output))


class Machines:
    """A head without work, and two machines of one core each, to which all their threads keep."""

    def __init__(self) -> None:
        import ray
        from ray.cluster_utils import Cluster

        memory = {"object_store_memory": OBJECT_STORE_BYTES}
        self.cores = sorted(os.sched_getaffinity(0))
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory}
        )
        self.nodes = []
        for core in self.cores[:2]:
            os.sched_setaffinity(0, {core})  # what is started inherits it
            self.nodes.append(self.cluster.add_node(num_cpus=1, **memory))
        os.sched_setaffinity(0, self.cores)
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level="ERROR")
        self.cluster.wait_for_nodes()

    def kill_one(self) -> None:
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)

    def alone(self, screen: Screen, folder: Path, table: Path) -> float:
        """Return how long one machine of one core takes without Ray."""
        os.sched_setaffinity(0, self.cores[:1])
        start = time.monotonic()
        sweep(screen, folder, table)
        os.sched_setaffinity(0, self.cores)
        return time.monotonic() - start

    def shut_down(self) -> None:
        import ray

        ray.shutdown()
        self.cluster.shutdown()


def main(count: int, repeats: int) -> None:
    torch.set_num_threads(1)
    clock = Clock()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folder = root / "images"
        damaged = sum(write_images(folder, count).values())
        screen = recondite.fit("mnist5k", detector="autoencoder", image_size=32, epochs=2, width=32, seed=0)
        start = time.monotonic()
        machines = Machines()
        print(f"a cluster of three started in {time.monotonic() - start:.1f} s", flush=True)
        try:
            alone, single, double = [], [], []
            for repeat in range(repeats):
                alone.append(machines.alone(screen, folder, root / "one.csv"))
                print(f"one machine, without Ray: {alone[-1]:.1f} s", flush=True)
                for workers, times in ((1, single), (2, double)):
                    output = root / f"{workers}-{repeat}.csv"
                    ready, seconds = timed(clock, screen, folder, output, workers)
                    times.append(seconds)
                    assert same(output, root / "one.csv")
                    print(f"{workers} workers: ready after {ready:.1f} s, then {seconds:.1f} s", flush=True)
            print(
                f"{count} files, {damaged} of them damaged; the quickest of {repeats}: one machine {min(alone):.1f} s, "
                f"one worker {min(single):.1f} s (overhead {100 * (min(single) / min(alone) - 1):.1f} %), two workers "
                f"{min(double):.1f} s (speed-up over one worker {min(single) / min(double):.2f}); all rows equal",
                flush=True,
            )
            lose_a_machine(clock, machines, screen, folder, root)
        finally:
            machines.shut_down()


def lose_a_machine(clock: Clock, machines: Machines, screen: Screen, folder: Path, root: Path) -> None:
    """Kill one of two machines after three parts."""

    def finished(ledger: Any) -> None:
        if not clock.killed and len(ledger.done) >= 3:
            clock.killed = time.monotonic()
            machines.kill_one()

    clock.finished = finished  # type: ignore[method-assign]
    _, seconds = timed(clock, screen, folder, root / "lost.csv", 2)
    assert same(root / "lost.csv", root / "one.csv")
    assert clock.killed < clock.noticed < clock.recovered
    print(
        f"one of two machines killed: noticed after {clock.noticed - clock.killed:.1f} s, its part judged again "
        f"after {clock.recovered - clock.killed:.1f} s, the sweep took {seconds:.1f} s; all rows equal"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(where(), flush=True)
    main(arguments.images, arguments.repeats)

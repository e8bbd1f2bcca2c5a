"""Metrics of all workers of one service, added up: each writes its own into a folder now and then."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from recondite.data.files import atomic_file
from recondite.service.engine.following import Follower
from recondite.service.metrics import Counters
from recondite.service.sharing import Worker

_LARGEST = {"recondite_longest_wait_seconds", "recondite_step_seconds"}
"""Of these the largest of all workers counts."""


class SharedMetrics:
    """Counts as if there were one process, also what a worker that was killed had counted, up to a second before.

    Args:
        counters: of this worker.
        worker: which one it is.
    """

    def __init__(self, counters: Counters, worker: Worker) -> None:
        self._counters, self._worker = counters, worker
        self._path = worker.folder / f"{worker.number}-{os.getpid()}.json"
        self.after = max((found.after for found in _read(worker.folder) if found.worker == worker.number), default=0)
        """The number of the last event that an earlier process of this worker had counted."""

    def write(self, follower: Follower | None) -> None:
        """Write what this worker has counted; with the follower of the first, up to where.

        Raises:
            OutputError: it could not be written.
        """
        with nullcontext() if follower is None else follower.lock:
            families = [_as_json(one) for one in self._counters.registry.collect()]
            after = 0 if follower is None else follower.after
        facts = {"worker": self._worker.number, "process": os.getpid(), "after": after, "families": families}
        with atomic_file(self._path, flushed=False) as temporary:
            temporary.write_text(json.dumps(facts), encoding="utf-8")

    def text(self) -> bytes:
        """Return the metrics of all workers in the text format of Prometheus."""
        own = os.getpid()
        others = [found for found in _read(self._worker.folder) if found.process != own]
        running = [found for found in others if found.process == self._worker.numbers.processes[found.worker]]
        counted = [family for found in others for family in found.families if family.type != "gauge"]
        measured = [family for found in running for family in found.families if family.type == "gauge"]
        return generate_latest(_Sum([*self._counters.registry.collect(), *counted, *measured]))


@dataclass(frozen=True)
class _Written:
    worker: int
    process: int
    after: int
    families: list[Metric]


class _Sum(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._sums: dict[str, tuple[Metric, dict[tuple[str, str], Any]]] = {}
        for family in families:
            _, sums = self._sums.setdefault(family.name, (family, {}))
            for sample in family.samples:
                key = sample.name, json.dumps(sample.labels, sort_keys=True)
                old = sums.get(key)
                sums[key] = (
                    sample if old is None else old._replace(value=_together(sample.name, old.value, sample.value))
                )

    def collect(self) -> Iterator[Metric]:
        for family, sums in self._sums.values():
            whole = Metric(family.name, family.documentation, family.type)
            whole.samples = list(sums.values())
            yield whole


def _together(name: str, one: float, other: float) -> float:
    if name.endswith("_created"):
        return min(one, other)
    return max(one, other) if name in _LARGEST else one + other


def _as_json(family: Metric) -> list[Any]:
    samples = [[one.name, one.labels, one.value] for one in family.samples]
    return [family.name, family.documentation, family.type, samples]


def _read(folder: Path) -> Iterator[_Written]:
    for path in sorted(folder.glob("*.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        families = []
        for name, documentation, kind, samples in facts.pop("families"):
            family = Metric(name, documentation, kind)
            for sample in samples:
                family.add_sample(*sample)
            families.append(family)
        yield _Written(**facts, families=families)

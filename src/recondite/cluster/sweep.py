"""A sweep over a cluster: workers judge parts, this process alone writes them, and each image gets one row."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from recondite import __version__
from recondite.cluster.connect import connect
from recondite.cluster.ledger import DEATHS_BEFORE_A_SPLIT, JOURNAL, Folder, Ledger, Part, PendingPart
from recondite.cluster.parts import KIND, MANIFEST, SCORED, RowOptions, blame, clear, judge_part, merge
from recondite.cluster.sources import ListedSource, Source, hash_of_ids, open_source
from recondite.data.addresses import without_secrets
from recondite.data.datasets import ImageSet
from recondite.data.outputs import check_outputs
from recondite.data.tables import check_table_path
from recondite.errors import InputError, ReconditeError, SourceError
from recondite.options import CHECKED
from recondite.progress import Advance
from recondite.progress import progress as show
from recondite.screen.screen import OnBad, Screen
from recondite.screen.unfamiliar import too_many, unlike
from recondite.statistics.scores import check_rate

FAILURES = 3
"""So often may a store fail a part before the sweep stops."""
_STARTS_THAT_FAIL = 5
_SECONDS_WITHOUT_A_WORKER = 600.0
_SECONDS_BETWEEN_LOOKS = 5.0
"""At how many machines the cluster has."""


@checked(frozen=True, kw_only=True, config=CHECKED)
class Workers:
    """How a sweep is distributed over a cluster."""

    workers: Annotated[int | None, Field(ge=1, description="processes that judge; by default as many as fit")] = None
    threads: Annotated[int, Field(ge=1, le=256, description="of a worker; scores differ in the last bits by it")] = 1
    worker_cpus: Annotated[
        float | None, Field(gt=0, description="CPUs that a worker takes, such as .5; by default its threads")
    ] = None
    worker_gpus: Annotated[float, Field(ge=0, description="GPUs that a worker takes, such as 1 or .25")] = 0.0
    part_size: Annotated[int, Field(ge=1, le=1_000_000, description="images a part, which is judged as a whole")] = 2000


@dataclass(frozen=True)
class ClusterSweep:
    """What a sweep over a cluster came to.

    Args:
        manifest: what stands in manifest.json.
        taken_up: how many images an interrupted sweep had judged.
        remarks: how the images are unlike those that the screen learnt from, in words.
    """

    manifest: Mapping[str, Any]
    taken_up: int
    remarks: tuple[str, ...] = ()


def cluster_sweep(
    screen: Screen,
    images: object,
    output: Path,
    *,
    cluster: str = "local",
    workers: Workers | None = None,
    fdr: float | None = None,
    group: str | None = None,
    on_bad: OnBad = "flag",
    statistics: bool = False,
    progress: bool = False,
) -> ClusterSweep:
    """Judge every image of a source on a cluster and write one row each, in parts.

    `output` becomes a folder with part-*.parquet (or .csv, .jsonl), parts.jsonl with the facts of each part, and
    manifest.json, which is written last. A sweep that was interrupted goes on with the parts that are missing when it
    is run again. Workers and machines may die: their parts are judged again elsewhere. An image that kills workers gets
    a row that says so.

    Args:
        screen: the judge.
        images: files (a folder, a glob, "s3://BUCKET/FOLDER"), tars or Parquet files that every machine of the cluster
            sees at the same place; or an array or data set, whose pixels travel.
        output: a folder; parts are of the kind that its suffix names, .parquet if it has none.
        cluster: as in `recondite.cluster.connect.connect`.
        workers: how many workers, with how many threads.
        fdr: control the false-discovery rate over the whole sweep instead of the false-alarm rate.
        group: which group's calibration holds for all of them.
        on_bad: what an unreadable image becomes; see `Screen.predict`.
        statistics: write the statistics that the screen judges by, too, as "statistic.NAME".
        progress: show progress on standard error.

    Raises:
        InputError: no images, a stream, ids that repeat, an unknown kind of table, or an unreadable image with
            on_bad="raise"; or the folder lies among the images, or holds another sweep or what is of none.
        SourceError: a store cannot be reached; run again to go on.
        ReconditeError: the cluster cannot be reached, or no worker starts.
    """
    workers = workers or Workers()
    if group is not None:
        screen.calibrator.check_group(group)
    rows = RowOptions(suffix=output.suffix.lower() or ".parquet", group=group, on_bad=on_bad, statistics=statistics)
    check_table_path(Path(f"part{rows.suffix}"))
    if on_bad not in ("flag", "skip", "raise"):
        raise InputError(f"expected on_bad to be flag, skip or raise; got {on_bad!r}")
    if screen.detector.preprocessing.masked:
        raise InputError("a cluster judges no images with masks of their own: this screen was fitted with such masks")
    if fdr is not None:
        check_rate(fdr)
    check_outputs({}, {"output": output}, images=images)
    source = open_source(images, screen.detector.shape)
    pieces = list(source.pieces(workers.part_size))
    named = without_secrets(images) if isinstance(images, str | Path) else None
    header = _header(screen, named, workers, rows, fdr)
    header["pieces"] = hashlib.sha256(json.dumps([pieces, source.fingerprint()]).encode()).hexdigest()
    store = Folder(output)
    with store.locked():
        manifest = _finished(store, header)
        if manifest is not None:
            return ClusterSweep(manifest, manifest["images"], _remarks(screen, source, manifest["counts"]))
        ledger = Ledger(store, header, pieces, "" if fdr is None else SCORED)
        with show("screening", source.size, progress) as advance:
            advance(ledger.taken_up, "")
            if not ledger.finished:
                with connect(cluster) as ray:
                    _Driver(ray, screen, source, ledger, workers, rows, advance).run()
        manifest = merge(store, ledger, header, rows, fdr)
        return ClusterSweep(manifest, ledger.taken_up, _remarks(screen, source, manifest["counts"]))


def _remarks(screen: Screen, source: Source, counts: Mapping[str, int]) -> tuple[str, ...]:
    listed = source.listed if isinstance(source, ListedSource) else ImageSet([], ids=[])
    remarks = unlike(screen.facts.get("sample"), screen.detector.preprocessing, listed)
    outliers = counts.get("outlier", 0)
    return (*remarks, *too_many(outliers, outliers + counts.get("inlier", 0)))


def _header(
    screen: Screen, source: str | None, workers: Workers, rows: RowOptions, fdr: float | None
) -> dict[str, Any]:
    return {
        "versions": {"recondite": __version__, "torch": torch.__version__},
        "screen": screen.fingerprint(),
        "alpha": screen.alpha,
        "confidence": screen.confidence,
        "guarantee": screen.guarantee,
        "false_discovery_rate": fdr,
        "source": source,
        "group": rows.group,
        "on_bad": rows.on_bad,
        "statistics": rows.statistics,
        "table": rows.suffix,
        "threads": workers.threads,
        "device": "cuda" if workers.worker_gpus else "cpu",
    }


def _finished(store: Folder, header: Mapping[str, Any]) -> dict[str, Any] | None:
    content = store.read(MANIFEST)
    if content is None:
        others = sorted(path.name for path in store.root.glob("part-*"))
        if others and store.read(JOURNAL) is None:  # what is no part of a sweep is removed at its end
            raise InputError(f"{store.root} holds {others[0]}, which is of no sweep known here: name another folder")
        return None
    try:
        manifest: dict[str, Any] = json.loads(content)
        if manifest["kind"] != KIND:
            raise ValueError(manifest["kind"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{store.root / MANIFEST} is not of a sweep: name another folder") from error
    if manifest.get("sweep") != header:
        raise InputError(f"{store.root} holds another sweep, which is finished: remove it, or write to another folder")
    clear(store)
    return manifest


class _Worker:
    """A process of the cluster that holds a screen and judges parts."""

    def __init__(self, given: Sequence[Any], threads: int, device: str) -> None:
        import ray

        # First the threads: a graph takes their number when it is unpacked.
        torch.set_num_threads(threads)
        self.screen: Screen = ray.get(given[0]).to(device)

    def versions(self) -> dict[str, str]:
        return {"recondite": __version__, "torch": torch.__version__}

    def judge(self, images: ImageSet, name: str, rows: RowOptions) -> tuple[Part, bytes | None]:
        return judge_part(self.screen, images, name, rows)


class _Driver:
    """Keeps workers busy with the parts of a ledger, one each, until all are done."""

    def __init__(
        self,
        ray: Any,
        screen: Screen,
        source: Source,
        ledger: Ledger,
        workers: Workers,
        rows: RowOptions,
        advance: Advance,
    ) -> None:
        self.ray, self.screen, self.source, self.ledger = ray, screen, source, ledger
        self.options, self.rows, self.advance = workers, rows, advance
        self.cpus = workers.worker_cpus or float(workers.threads)
        self.remote = ray.remote(_Worker).options(
            num_cpus=self.cpus, num_gpus=workers.worker_gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )
        self.given = ray.put(screen)
        self.starting: dict[Any, Any] = {}
        self.busy: dict[Any, tuple[Any, PendingPart]] = {}
        self.idle: list[Any] = []
        self.failures: dict[str, int] = {}
        self.failed_starts = 0
        self.wanted, self.look_again = 1, 0.0
        self.last_worker = time.monotonic()

    def run(self) -> None:
        try:
            while not self.ledger.finished:
                self._employ()
                waiting = [*self.starting, *self.busy]
                ready, _ = self.ray.wait(waiting, num_returns=1, timeout=10)
                for answer in ready:
                    self._take(answer)
                if not self.busy and not self.idle and time.monotonic() - self.last_worker > _SECONDS_WITHOUT_A_WORKER:
                    raise ReconditeError("no worker could be placed for ten minutes: the cluster has no room")
        finally:
            for worker in (*self.starting.values(), *(worker for worker, _ in self.busy.values()), *self.idle):
                self.ray.kill(worker)

    def _employ(self) -> None:
        """Give every idle worker a part, and start as many workers as are missing, no more than parts."""
        while self.idle and (task := self.ledger.next()) is not None:
            worker = self.idle.pop()
            answer = worker.judge.remote(self.source.images(task.piece), task.name, self.rows)
            self.busy[answer] = (worker, task)
        if time.monotonic() >= self.look_again:
            self.wanted = self.options.workers or _room(self.ray, self.cpus, self.options.worker_gpus)
            self.look_again = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        for _ in range(min(self.wanted, self.ledger.unfinished) - len(self.starting) - len(self.busy) - len(self.idle)):
            device = "cuda" if self.options.worker_gpus else "cpu"
            worker = self.remote.remote([self.given], self.options.threads, device)
            self.starting[worker.versions.remote()] = worker

    def _take(self, answer: Any) -> None:
        self.last_worker = time.monotonic()
        if answer in self.starting:
            self._greet(self.starting.pop(answer), answer)
            return
        worker, task = self.busy.pop(answer)
        try:
            part, content = self.ray.get(answer)
        except self.ray.exceptions.RayTaskError as error:
            self.idle.append(worker)
            self._failed(task, error)
        except self.ray.exceptions.RayError:
            self.ray.kill(worker)
            self._died(task)
        else:
            self.idle.append(worker)
            self._finish(task, part, content)

    def _greet(self, worker: Any, answer: Any) -> None:
        try:
            versions = self.ray.get(answer)
        except self.ray.exceptions.RayError as error:
            self.failed_starts += 1
            if self.failed_starts >= _STARTS_THAT_FAIL:
                raise ReconditeError(f"no worker can be started: {error}") from error
            return
        self.failed_starts = 0
        own = {"recondite": __version__, "torch": torch.__version__}
        if versions != own:
            raise InputError(f"expected the versions {own} on every machine of the cluster; got {versions}")
        self.idle.append(worker)

    def _finish(self, task: PendingPart, part: Part, content: bytes | None) -> None:
        if isinstance(self.source, ListedSource):
            expected = self.source.images(task.piece).ids or ()
            if part.ids != hash_of_ids(expected):
                raise ReconditeError(f"part {task.name} came back with other images than it was given")
        self.ledger.finish(task, part, content)
        self.advance(part.inputs, "")

    def _failed(self, task: PendingPart, error: Any) -> None:
        """The worker lives: it refused an image, or a store failed it."""
        cause = error.cause
        if isinstance(cause, InputError):
            raise InputError(str(cause)) from error
        if not isinstance(cause, SourceError):
            raise error
        self.failures[task.name] = self.failures.get(task.name, 0) + 1
        if self.failures[task.name] >= FAILURES:
            raise SourceError(str(cause)) from error
        self.ledger.give_back(task)

    def _died(self, task: PendingPart) -> None:
        piece = task.piece
        last = task.deaths + 1 >= DEATHS_BEFORE_A_SPLIT
        count = self.source.count(piece.unit) if last and piece.stop is None else None
        if self.ledger.died(task, count):
            images = self.source.images(piece)
            self._finish(task, *blame(self.screen, images, task.name, self.rows, task.deaths + 1))


def _room(ray: Any, cpus: float, gpus: float) -> int:
    """Return how many workers fit on the cluster as it is, at least one; no machine is shared out beyond its own."""
    fits = 0
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            by_cpu = has.get("CPU", 0) / cpus
            fits += int(min(by_cpu, has.get("GPU", 0) / gpus) if gpus else by_cpu)
    return max(1, fits)

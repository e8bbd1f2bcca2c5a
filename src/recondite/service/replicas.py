"""The service on a cluster: Ray Serve runs replicas of the application, and sends each request to one of them.

All replicas write their events into one database. Batching stays where it was, within each replica.
"""

import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from fastapi import FastAPI

from recondite.cluster.connect import connect
from recondite.errors import InputError, ReconditeError
from recondite.service.app import create_app
from recondite.service.engine.database import address_of
from recondite.service.log import log_to_stderr
from recondite.service.settings import Settings

APPLICATION = "recondite"
_TRIES_TO_START = 2
_HEALTH_SECONDS = 5.0
_SECONDS_TO_GROW = 5.0


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """How many replicas there are, and what each has.

    Args:
        replicas: at least so many.
        most_replicas: at most so many; None for as many as there are at least. Between them they come and go with the
            number of requests.
        requests_each: being served by a replica, on average, beyond which another is started.
        replica_cpus: CPUs, and threads, of each.
        replica_gpus: GPUs of each; a fraction lets several share one.
        proxies: whether requests are taken in on every machine that has a replica, or on the head only.
    """

    replicas: int = 2
    most_replicas: int | None = None
    requests_each: int = 16
    replica_cpus: int = 1
    replica_gpus: float = 0.0
    proxies: Literal["every-node", "head-only"] = "every-node"

    def __post_init__(self) -> None:
        for name in ("replicas", "requests_each", "replica_cpus"):
            if getattr(self, name) < 1:
                raise InputError(f"expected {name} >= 1; got {getattr(self, name)!r}")
        if self.replica_gpus < 0:
            raise InputError(f"expected replica_gpus >= 0; got {self.replica_gpus!r}")
        if self.most < self.replicas:
            raise InputError(f"expected at least {self.replicas} replicas at most; got {self.most}")

    @property
    def most(self) -> int:
        """At most so many replicas."""
        return self.replicas if self.most_replicas is None else self.most_replicas


def serve_on_cluster(settings: Settings, cluster: str, host: str, port: int, replicas: Replicas) -> None:
    """Serve on a cluster; where the service is there already, replace its replicas one after the other.

    On a cluster that is started here, serve until SIGTERM or SIGINT. On another one, return when the replicas are
    ready: they stay when this process ends, until `stop_serving`.

    Args:
        settings: of the service. There is no page: its connections last, and belong to one replica.
        cluster: as in `recondite.cluster.connect.connect`.
        host, port: where each proxy listens; that of a service that is there already stays.
        replicas: how many, and what each has.

    Raises:
        InputError: a store that the replicas cannot share.
        ReconditeError: the cluster cannot be reached, or no replica starts.
    """
    check_store(settings.store, cluster, replicas)
    # A replica runs in another folder.
    settings = replace(settings, page=False, screens=[_everywhere(one) for one in settings.screens])
    settings = replace(settings, store=_with_whole_path(settings.store), images=Path(os.path.abspath(settings.images)))
    stopped = threading.Event()
    logical = replicas.most * replicas.replica_cpus + 1
    with connect(cluster, cpus=max(logical, os.cpu_count() or 1)):
        _deploy(settings, host, port, replicas)
        print(f"serving on port {port}: {replicas.replicas} to {replicas.most} replicas", file=sys.stderr, flush=True)
        if cluster == "local":
            _wait(stopped)
            _delete()


def stop_serving(cluster: str) -> None:
    """End the service on a cluster, after the requests that it has accepted.

    Raises:
        ReconditeError: the cluster cannot be reached.
    """
    with connect(cluster):
        _delete()


def check_store(store: str, cluster: str, replicas: Replicas) -> None:
    """Raise InputError for no store, and for SQLite, unless there is one replica on a cluster of this machine alone."""
    if address_of(store).drivername == "sqlite" and (replicas.most > 1 or cluster != "local"):
        raise InputError(
            "replicas cannot share events in SQLite: give --store postgresql://user:password@host/name, "
            "or one replica (--replicas 1) and --cluster local"
        )


def _deploy(settings: Settings, host: str, port: int, replicas: Replicas) -> None:
    serve = import_module("ray.serve")
    threads = replicas.replica_cpus

    def application() -> FastAPI:
        import torch

        log_to_stderr()
        torch.set_num_threads(threads)
        return create_app(settings)

    own = {name: value for name, value in os.environ.items() if name.startswith("RECONDITE_")}
    deployment = serve.deployment(
        serve.ingress(application)(),
        name=APPLICATION,
        ray_actor_options={
            "num_cpus": replicas.replica_cpus,
            "num_gpus": replicas.replica_gpus,
            "runtime_env": {"env_vars": own} if own else {},
        },
        max_ongoing_requests=settings.limits.connections,
        max_queued_requests=settings.limits.connections,
        graceful_shutdown_timeout_s=settings.limits.seconds,
        health_check_period_s=_HEALTH_SECONDS,
        max_constructor_retry_count=_TRIES_TO_START,
        max_surge_percent=50,  # in an update, a new replica is ready before an old one goes
        **_number(replicas),
    )
    where = {"every-node": "EveryNode", "head-only": "HeadOnly"}[replicas.proxies]
    serve.start(proxy_location=where, http_options={"host": host, "port": port})
    try:
        serve.run(deployment.bind(), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        raise ReconditeError(f"no replica starts: {error}") from error


def _number(replicas: Replicas) -> Mapping[str, Any]:
    if replicas.most == replicas.replicas:
        return {"num_replicas": replicas.replicas}
    scaling = {
        "min_replicas": replicas.replicas,
        "max_replicas": replicas.most,
        "target_ongoing_requests": replicas.requests_each,
        "upscale_delay_s": _SECONDS_TO_GROW,
    }
    return {"autoscaling_config": scaling}


def _delete() -> None:
    serve = import_module("ray.serve")
    serve.delete(APPLICATION)
    if not serve.status().applications:
        serve.shutdown()


def _wait(stopped: threading.Event) -> None:
    """Wait for SIGTERM or SIGINT."""

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stopped.set()

    earlier = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        stopped.wait()
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _everywhere(screen: str) -> str:
    """Return FOLDER or NAME=FOLDER with the whole path; names of ready screens and addresses stay."""
    name, given, folder = screen.partition("=")
    where = Path(folder if given else screen)
    if not where.is_dir():
        return screen
    return f"{name if given else where.resolve().name}={where.resolve()}"


def _with_whole_path(store: str) -> str:
    if not store.startswith("sqlite"):
        return store
    url = address_of(store)
    return url.set(database=os.path.abspath(url.database or "events.db")).render_as_string(hide_password=False)

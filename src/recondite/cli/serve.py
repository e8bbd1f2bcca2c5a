"""The command `recondite serve`."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from recondite.errors import InputError
from recondite.service.settings import Keep, Limits, Settings

TOKEN = "RECONDITE_TOKEN"
_CLUSTER = "Cluster"


def serve(
    *screens: str,
    host: str = "127.0.0.1",
    port: int = 8080,
    store: str = "sqlite:///events.db",
    token: Annotated[Sequence[str], Parameter(negative="")] = (),
    token_file: Path | None = None,
    everybody: Annotated[bool, Parameter(negative="")] = False,
    keep: Keep = "none",
    keep_folder: Path = Path("event-images"),
    keep_megabytes: int = 1024,
    keep_days: float | None = None,
    reload_seconds: float = 5.0,
    drain_seconds: float = 0.0,
    webhook: str | None = None,
    drift_false_alarm: float = 0.01,
    page: bool = True,
    limits: Annotated[Limits | None, Parameter(name="*", group="Limits")] = None,
    cluster: Annotated[str | None, Parameter(group=_CLUSTER)] = None,
    replicas: Annotated[int, Parameter(group=_CLUSTER)] = 2,
    most_replicas: Annotated[int | None, Parameter(group=_CLUSTER)] = None,
    requests_each: Annotated[int, Parameter(group=_CLUSTER)] = 16,
    replica_cpus: Annotated[int, Parameter(group=_CLUSTER)] = 1,
    replica_gpus: Annotated[float, Parameter(group=_CLUSTER)] = 0.0,
    proxies: Annotated[Literal["every-node", "head-only"], Parameter(group=_CLUSTER)] = "every-node",
    stop: Annotated[bool, Parameter(negative="", group=_CLUSTER)] = False,
) -> None:
    """Serve screens over HTTP: verdicts, events, metrics, and a page for people at /.

    Encryption is left to a proxy in front.

    Parameters
    ----------
    screens
        Folders of screens, NAME=FOLDER, or a ready screen such as digits. A folder that holds screens in sub-folders
        has them as versions, the last of which (2 before 10) is the default.
    host
        Address to listen on; other machines only reach 0.0.0.0 or ::.
    port
        Port to listen on.
    store
        Database of events: sqlite:///events.db or postgresql://user:password@host/name.
    token
        Lets a client in; give several, to change them one by one. Better kept out of the list of processes: in a
        file, or in the variable RECONDITE_TOKEN.
    token_file
        A file of tokens, one a line.
    everybody
        Let everybody in who reaches the port, though other machines do.
    keep
        Images to keep beside their events: none, flagged or all.
    keep_folder
        Where they are kept.
    keep_megabytes
        The oldest are deleted over this size.
    keep_days
        They are deleted after as many days.
    reload_seconds
        How often to look for new versions; 0 for never.
    drain_seconds
        After SIGTERM: how long to be not ready and still serve, for a load balancer to see it.
    webhook
        An address that a drift alarm is posted to as JSON.
    drift_false_alarm
        The chance that a stream without drift ever raises an alarm.
    page
        The page for people at /.
    limits
        Of requests.
    cluster
        Serve by replicas on a cluster (Ray), without a page: local starts one of this machine alone; auto, HOST:PORT
        or ray://HOST:PORT name one that runs, on which the service stays when this command ends, and is updated by
        giving it again. See docs/clusters.md.
    replicas
        At least so many; two lose nothing when one dies.
    most_replicas
        At most so many; they come and go with the load.
    requests_each
        Requests being served by a replica, on average, beyond which another is started.
    replica_cpus
        CPUs, and threads, of each.
    replica_gpus
        GPUs of each.
    proxies
        Take requests in on every machine that has a replica, or on the head only.
    stop
        End the service on the cluster.
    """
    if cluster is not None:
        page = False
    for module, extra in (("fastapi", "serve"), *((("nicegui", "page"),) if page else ())):
        if find_spec(module) is None:
            raise InputError(f"this needs the extra {extra!r}: pip install 'recondite[{extra}]'" + _hint(extra))
    if stop:
        from recondite.service.replicas import stop_serving

        if cluster is None:
            raise InputError("--stop ends a service on a cluster: give --cluster")
        return stop_serving(cluster)
    from recondite.service.server import check_open
    from recondite.service.server import serve as run

    settings = Settings(
        screens=screens,
        store=store,
        tokens=_tokens(token, token_file),
        keep=keep,
        images=keep_folder,
        keep_bytes=keep_megabytes << 20,
        keep_days=keep_days,
        reload_seconds=reload_seconds,
        webhook=webhook,
        drift_false_alarm=drift_false_alarm,
        limits=limits or Limits(),
        page=page,
    )
    if cluster is None:
        return run(settings, host, port, everybody=everybody, drain_seconds=drain_seconds)
    from recondite.service.replicas import Replicas, serve_on_cluster

    check_open(settings, host, everybody)
    chosen = Replicas(
        replicas=replicas,
        most_replicas=most_replicas,
        requests_each=requests_each,
        replica_cpus=replica_cpus,
        replica_gpus=replica_gpus,
        proxies=proxies,
    )
    return serve_on_cluster(settings, cluster, host, port, chosen)


def _tokens(given: Sequence[str], file: Path | None) -> list[str]:
    found = [*given, *([os.environ[TOKEN]] if os.environ.get(TOKEN) else [])]
    if file is not None:
        found += [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not found:
            raise InputError(f"{file} holds no tokens")
    return found


def _hint(extra: str) -> str:
    return ", or serve without it: --no-page" if extra == "page" else ""

"""recondite serve."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from recondite.cli.flags import CLUSTER_GROUP, Rate, check_cluster_flags, check_flags_count
from recondite.errors import InputError
from recondite.service.settings import Keep, Limits, Settings

TOKEN = "RECONDITE_TOKEN"


def _max_flag(name: str) -> str:
    """Return the flag of a limit: --max-images for images."""
    return f"max-{name.replace('_', '-')}"


def serve(
    *screens: str,
    host: str = "127.0.0.1",
    port: int = 8080,
    workers: int = 1,
    hang_seconds: float = 20.0,
    store: str = "sqlite:///events.db",
    token: Annotated[Sequence[str], Parameter(negative="")] = (),
    token_file: Path | None = None,
    allow_public: Annotated[bool, Parameter(negative="")] = False,
    allow_host: Annotated[Sequence[str], Parameter(negative="")] = (),
    keep_images: Keep = "none",
    keep_folder: Path = Path("event-images"),
    max_keep_megabytes: int = 1024,
    max_keep_days: float | None = None,
    reload_seconds: float = 5.0,
    drain_seconds: float = 0.0,
    webhook: str | None = None,
    verdict_webhook: str | None = None,
    verdict_webhook_p: Rate = 0.01,
    mqtt: str | None = None,
    drift_false_alarm: Rate = 0.01,
    page: bool = True,
    jobs: Path | None = None,
    job_place: Annotated[Sequence[str], Parameter(negative="")] = (),
    max_job_megabytes: int = 1024,
    audit: Annotated[Sequence[str], Parameter(negative="")] = (),
    allow_new_screens: bool | None = None,
    limits: Annotated[Limits | None, Parameter(name="*", group="Limits", name_transform=_max_flag)] = None,
    cluster: Annotated[str | None, Parameter(group=CLUSTER_GROUP)] = None,
    replicas: Annotated[int, Parameter(group=CLUSTER_GROUP)] = 2,
    max_replicas: Annotated[int | None, Parameter(group=CLUSTER_GROUP)] = None,
    requests_per_replica: Annotated[int, Parameter(group=CLUSTER_GROUP)] = 16,
    replica_cpus: Annotated[int, Parameter(group=CLUSTER_GROUP)] = 1,
    replica_gpus: Annotated[float, Parameter(group=CLUSTER_GROUP)] = 0.0,
    proxies: Annotated[Literal["every-node", "head-only"], Parameter(group=CLUSTER_GROUP)] = "every-node",
    stop: Annotated[bool, Parameter(negative="", group=CLUSTER_GROUP)] = False,
) -> None:
    """Serve screens over HTTP: verdicts, events, metrics, and a page for people at /.

    Encryption is left to a proxy in front.

    Parameters
    ----------
    screens
        Folders of screens, NAME=FOLDER, or a ready screen such as digits. A folder that holds screens in sub-folders
        has them as versions, the last of which (2 before 10) is the default. One folder may hold such folders, or be
        empty: all its screens are served, and new ones are made in it; without one, in new-screens.
    host
        Address to listen on; other machines only reach 0.0.0.0 or ::.
    port
        Port to listen on.
    workers
        Processes that share the port and the store, each with a copy of the screens; one that ends is replaced.
    hang_seconds
        With several workers: replace one that has not responded for this many seconds.
    store
        Database of events: sqlite:///events.db or postgresql://user:password@host/name.
    token
        A token that clients must send; repeat it to rotate tokens one by one. Command lines can be seen by other
        processes: prefer --token-file or the variable RECONDITE_TOKEN.
    token_file
        File of tokens, one per line.
    allow_public
        Allow access without a token on a public interface.
    allow_host
        A name by which clients reach the service, such as that of a proxy in front; repeat it for more. A service that
        asks for no token and listens to its own machine answers only to localhost and to these.
    keep_images
        Which images to keep beside their events.
    keep_folder
        Folder of the kept images.
    max_keep_megabytes
        Delete the oldest kept images above this many megabytes.
    max_keep_days
        Delete kept images after this many days; by default never.
    reload_seconds
        Seconds between looks for new versions; 0 for never.
    drain_seconds
        Seconds after SIGTERM during which the service is not ready but still answers, so that a load balancer notices.
    webhook
        URL that a drift alarm is posted to as JSON.
    verdict_webhook
        URL that verdicts are posted to as JSON, in the background.
    verdict_webhook_p
        With --verdict-webhook: post verdicts with a p-value at or below this, in (0, 1], and invalid images.
    mqtt
        Broker and topic, mqtt://HOST:1883/TOPIC (mqtts:// for TLS), that every verdict is sent to, as
        TOPIC/SCREEN/VERDICT, in the background. Variables RECONDITE_MQTT_USER and RECONDITE_MQTT_PASSWORD sign in.
    drift_false_alarm
        Probability that a stream without drift ever raises an alarm, in (0, 1).
    page
        Serve the web page at /.
    jobs
        Folder for batch jobs (POST /v1/jobs); by default none are taken.
    job_place
        Folder, or address of a store such as s3://BUCKET/FOLDER, whose images jobs and new screens may name; repeat
        it for several.
    max_job_megabytes
        Refuse an archive, or images for a new screen, of more megabytes.
    audit
        Folder that `recondite audit` wrote, whose findings visitors of the page keep, drop or confirm; repeat it for
        several. Decisions are written into it.
    allow_new_screens
        Let visitors of the page make screens, publish versions and go back to earlier ones. By default only where the
        service listens to its own machine and asks for no token.
    limits
        Limits of requests.
    cluster
        Serve by replicas on a cluster (Ray), without a page: local starts one of this machine alone; auto, HOST:PORT
        or ray://HOST:PORT name one that runs, on which the service stays when this command ends, and is updated by
        giving it again. See docs/clusters.md.
    replicas
        Least number of replicas; with two, nothing is lost when one dies.
    max_replicas
        Greatest number of replicas, scaled with the load; by default the least.
    requests_per_replica
        With --max-replicas: start another replica above this many concurrent requests per replica, on average.
    replica_cpus
        CPUs, and threads, of each replica.
    replica_gpus
        GPUs of each replica.
    proxies
        Accept requests on every machine that has a replica, or on the head only.
    stop
        End the service on the cluster.
    """
    given: dict[str, object] = {
        "replicas": replicas,
        "max_replicas": max_replicas,
        "requests_per_replica": requests_per_replica,
    }
    given |= {"replica_cpus": replica_cpus, "replica_gpus": replica_gpus, "proxies": proxies}
    flags = serve.__kwdefaults__
    check_cluster_flags(cluster, flags, **given)
    check_flags_count(cluster is None, "on a cluster", flags, drain_seconds=drain_seconds)
    alone = workers == 1 and cluster is None
    check_flags_count(not alone, "with one worker: give --workers too", flags, hang_seconds=hang_seconds)
    posted = verdict_webhook is not None
    check_flags_count(posted, "without --verdict-webhook", flags, verdict_webhook_p=verdict_webhook_p)
    scaled = cluster is None or max_replicas is not None
    fixed = "where the number of replicas is fixed: give --max-replicas too"
    check_flags_count(scaled, fixed, flags, requests_per_replica=requests_per_replica)
    if cluster is not None:
        page = False
        if workers != 1:
            raise InputError("--workers is for one machine: a cluster has --replicas")
        if jobs is not None:
            raise InputError("batch jobs belong to one process: leave --jobs or --cluster out")
    for module, extra in (("fastapi", "serve"), *((("nicegui", "page"),) if page else ())):
        if find_spec(module) is None:
            raise InputError(f"this needs the extra {extra!r}: pip install 'recondite[{extra}]'" + _hint(extra))
    if stop:
        from recondite.service.replicas import stop_serving

        if cluster is None:
            raise InputError("--stop ends a service on a cluster: give --cluster")
        return stop_serving(cluster)
    from recondite.service.start import check_address, hosts_of, is_local, screens_of

    tokens = _tokens(token, token_file)
    new = allow_new_screens
    if new is None:
        new = page and is_local(host) and not tokens
    folders, collection = screens_of(screens, new)
    settings = Settings(
        screens=folders,
        collection=collection,
        new_screens=new,
        store=store,
        tokens=tokens,
        hosts=hosts_of(host, tokens, allow_host),
        keep=keep_images,
        images=keep_folder,
        keep_bytes=max_keep_megabytes << 20,
        keep_days=max_keep_days,
        reload_seconds=reload_seconds,
        webhook=webhook,
        verdict_webhook=verdict_webhook,
        verdict_webhook_p=verdict_webhook_p,
        mqtt=mqtt,
        hang_seconds=hang_seconds,
        drift_false_alarm=drift_false_alarm,
        limits=limits or Limits(),
        page=page,
        jobs=jobs,
        job_bytes=max_job_megabytes << 20,
        job_places=job_place,
        audits=audit,
    )
    if workers != 1:
        from recondite.service.workers import serve_with_workers

        return serve_with_workers(settings, workers, host, port, everybody=allow_public, drain_seconds=drain_seconds)
    if cluster is None:
        from recondite.service.server import serve as run

        return run(settings, host, port, everybody=allow_public, drain_seconds=drain_seconds)
    from recondite.service.replicas import Replicas, serve_on_cluster

    check_address(settings, host, port, allow_public)
    chosen = Replicas(
        replicas=replicas,
        most_replicas=max_replicas,
        requests_each=requests_per_replica,
        replica_cpus=replica_cpus,
        replica_gpus=replica_gpus,
        proxies=proxies,
    )
    return serve_on_cluster(settings, cluster, host, port, chosen)


def _tokens(given: Sequence[str], file: Path | None) -> list[str]:
    found = [*given, *([os.environ[TOKEN]] if os.environ.get(TOKEN) else [])]
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"expected a file of tokens; {file} cannot be read: {error}") from error
        found += [line.strip() for line in lines if line.strip()]
        if not found:
            raise InputError(f"{file} holds no tokens")
    return found


def _hint(extra: str) -> str:
    return ", or serve without it: --no-page" if extra == "page" else ""

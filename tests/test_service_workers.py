"""Several workers behind one port: nothing lost, one of what there is one of, and clients notice nothing."""

import asyncio
import http.client
import json
import multiprocessing
import os
import shutil
import signal
import socket
import threading
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sqlalchemy as sql
from service import Load, Process, events_of, in_process, running
from test_service_store import event

import recondite

pytest.importorskip("fastapi")

from prometheus_client.parser import text_string_to_metric_families

from recondite.cli.serve import serve
from recondite.errors import InputError
from recondite.screen.monitor import Monitor
from recondite.service import shared_metrics, workers
from recondite.service.engine.following import verdicts_of
from recondite.service.engine.image_store import KeptImages
from recondite.service.engine.store import Store
from recondite.service.handing_over import Acceptor
from recondite.service.metrics import Counters
from recondite.service.settings import Limits
from recondite.service.shared_metrics import SharedMetrics
from recondite.service.sharing import Numbers, Worker, belongs_to_first, path_of_first
from recondite.service.workers import _Crew, _One

CONTEXT = multiprocessing.get_context("spawn")


def wait_until(true, seconds=120):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def workers_of(process, restarts=0):
    """Return number -> process id of the workers as the log has them, after so many restarts."""
    found, begun = {}, 0
    for facts in process.logged():
        if facts["message"] == "listening":
            found[facts["worker"]], begun = facts["process"], begun + 1
    return found if begun >= 2 + restarts else None


def get(process, path, method="GET"):
    with urllib.request.urlopen(urllib.request.Request(process.url + path, method=method), timeout=60) as answer:
        return answer.read()


def total(process, name):
    families = text_string_to_metric_families(get(process, "/metrics").decode())
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


@pytest.fixture
def store(tmp_path):
    return tmp_path / "events.db"


@pytest.mark.slow
def test_thirty_two_clients_lose_nothing_and_there_is_one_of_everything(digit_screen, tmp_path, store, digit_files):
    expected = list(recondite.load(digit_screen).predict(digit_files).records())
    arguments = (digit_screen, "--workers", "2", "--store", f"sqlite:///{store}", "--jobs", tmp_path / "jobs")
    with running(tmp_path, *arguments, page=True) as process:
        wait_until(lambda: workers_of(process))
        load = Load(process.port, digit_files, clients=32, requests=480).finish()
        assert (len(load.answers), load.refused, load.broken) == (480, [], 0)
        assert all(row["instance_score"] == expected[place]["instance_score"] for place, _, row in load.answers)
        assert {row["event"] for _, _, row in load.answers} == set(events_of(store))
        wait_until(lambda: total(process, "recondite_verdicts_total") == 480)
        assert wait_until(lambda: json.loads(get(process, "/v1/screens/digits/drift"))["seen"] == 480)
        assert total(process, "recondite_p_value_count") == 480
        predicted = 'route="/v1/screens/{name}/predict"'
        wait_until(
            lambda: (
                sum(
                    float(line.rpartition(" ")[2])
                    for line in get(process, "/metrics").decode().splitlines()
                    if line.startswith("recondite_requests_total") and predicted in line
                )
                == 480
            )
        )
        # On whichever connection, and on one that has asked another worker before.
        for _ in range(6):
            with closing(http.client.HTTPConnection("127.0.0.1", process.port, timeout=60)) as link:
                for path, kind in (("/readyz", "json"), ("/", "html"), ("/v1/jobs", "json"), ("/healthz", "json")):
                    link.request("GET", path)
                    answer = link.getresponse()
                    assert (answer.status, kind in answer.headers["content-type"]) == (200, True), path
                    answer.read()
        # Its archive follows the head of a job to the first worker.
        assert b"the archive cannot be read" in _refused(process, "/v1/jobs?screen=digits", b"PK" + b"\0" * 300_000)
        assert process.stop(signal.SIGTERM) == 0


def _refused(process, path, body):
    with closing(http.client.HTTPConnection("127.0.0.1", process.port, timeout=60)) as link:
        link.request("POST", path, body)
        answer = link.getresponse()
        assert answer.status == 422
        return answer.read()


def test_a_new_version_is_served_by_all_when_the_answer_comes_and_all_end_with_who_started_them(
    digit_screen, screens, tmp_path, store, digit_files
):
    folder = tmp_path / "digits"
    shutil.copytree(digit_screen, folder / "1")
    arguments = (folder, "--workers", "2", "--store", f"sqlite:///{store}", "--reload-seconds", "0")
    with running(tmp_path, *arguments) as process:
        found = wait_until(lambda: workers_of(process))
        before = Load(process.port, digit_files, clients=8, requests=40).finish()
        screens("pca").with_score("error").save(folder / "2")
        loaded = json.loads(get(process, "/v1/reload", "POST"))
        after = Load(process.port, digit_files, clients=8, requests=40).finish()
        process.stop(signal.SIGKILL)
        wait_until(lambda: not any(_alive(one) for one in found.values()))
        with closing(socket.socket()) as probe:
            assert probe.connect_ex(("127.0.0.1", process.port)) != 0
    assert [one["version"] for one in loaded] == ["2"]
    assert {version for _, version, _ in before.answers} == {"1"}
    assert {version for _, version, _ in after.answers} == {"2"}


@pytest.mark.slow
def test_a_worker_that_ends_or_hangs_is_replaced_and_others_notice_nothing(digit_screen, tmp_path, store, digit_files):
    arguments = (digit_screen, "--workers", "2", "--store", f"sqlite:///{store}", "--hang-seconds", "6")
    with running(tmp_path, *arguments) as process:
        running_now = wait_until(lambda: workers_of(process))
        load = Load(process.port, digit_files, clients=8, pause=0.05)
        for turn, (killed, how) in enumerate(((1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP))):
            load.wait_for(len(load.answers) + 50)
            time.sleep(1.5)  # what it had counted a second ago is kept
            broken, other = load.broken, running_now[1 - killed]
            os.kill(running_now[killed], how)
            earlier, running_now = running_now[killed], wait_until(lambda turn=turn: workers_of(process, turn + 1))
            load.wait_for(len(load.answers) + 50)
            assert running_now[killed] != earlier
            assert running_now[1 - killed] == other
            # One break for each of its connections, which the other has taken over, and none for those of the other.
            assert broken < load.broken <= broken + 7 + turn
        load.stop()
        assert load.refused == []
        assert {row["event"] for _, _, row in load.answers} <= set(events_of(store))
        # Each event is counted once, whoever wrote it and whoever was killed.
        wait_until(lambda: total(process, "recondite_verdicts_total") == len(events_of(store)))
        assert json.loads(get(process, "/v1/screens/digits/drift"))["seen"] <= len(events_of(store))
        assert process.stop(signal.SIGTERM) == 0


def test_a_silent_worker_is_killed_but_not_for_the_time_that_all_were_stopped(monkeypatch):
    clock, killed = [100.0], []
    crew = _Crew.__new__(_Crew)
    crew._numbers, crew._settings = Numbers(CONTEXT, 1), SimpleNamespace(hang_seconds=5.0)
    crew._looked, one = clock[0], _One(0)
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def after(seconds, beat=False):
        clock[0] += seconds
        if beat:
            crew._numbers.beat(0)
        crew._listen(one, SimpleNamespace(kill=lambda: killed.append(clock[0])), crew._passed())
        return len(killed)

    assert [after(1.0) for _ in range(590)][-1] == 0  # it may take long to begin
    assert [after(1.0, beat=True), *(after(1.0) for _ in range(5))] == [0] * 6
    assert [after(0.1, beat=True), after(3600.0), after(2.9), after(1.0)] == [0] * 4
    assert after(1.0) == 1
    crew._numbers.ended(0)
    assert crew._numbers.beats[0] == 0


def test_judging_hangs_when_a_step_takes_longer_than_anybody_waits(digit_screen, tmp_path, monkeypatch):
    with in_process(digit_screen, tmp_path, limits=Limits(seconds=3.0), hang_seconds=4.0) as client:
        service = client.app.state.service
        for seconds, hangs in ((6.9, False), (7.1, True)):
            steps = {"score": seconds, "small": 0.0}
            monkeypatch.setattr(service.judge.line, "seconds_at_one_step", lambda steps=steps: steps)
            assert service.hangs is hangs


def _alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_what_cannot_be_is_said_in_one_sentence(digit_screen, tmp_path):
    with pytest.raises(InputError, match="workers >= 1; got 0"):
        serve(str(digit_screen), workers=0, page=False)
    with pytest.raises(InputError, match="--replicas"):
        serve(str(digit_screen), workers=2, cluster="local")
    broken = tmp_path / "broken"
    shutil.copytree(digit_screen, broken)
    (broken / "detector.safetensors").write_bytes(b"x")
    process = Process(tmp_path, broken, "--workers", "2", "--store", f"sqlite:///{tmp_path / 'e.db'}")
    assert process.process.wait(300) == 2
    assert process.log.read_text().splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("path", "first"),
    [
        *(
            (path, True)
            for path in ("/", "/login", "/_nicegui/x.js", "/_nicegui_ws/socket.io/", "/favicon.ico", "/metrics")
        ),
        *((path, True) for path in ("/v1/jobs", "/v1/jobs/1/table.csv", "/v1/reload", "/v1/screens/a/drift")),
        *((path, False) for path in ("/v1/screens/a/predict", "/v1/screens", "/readyz", "/metricsx", "/v2", "/loginx")),
        *((path, False) for path in ("/v1/screens/drift", "/v1/screens/a/b/drift", "/v1/jobsx")),
    ],
)
def test_requests_and_paths_of_the_first_worker_are_the_same(path, first):
    assert path_of_first(path) is first
    for tail in (" HTTP/1.1\r\n", "?a=b HTTP/1.1\r\n"):
        assert belongs_to_first(f"POST {path}{tail}".encode()) is first


@pytest.fixture
def worker():
    """A function: the number of a worker, and more, to the worker."""
    ends = socket.socketpair()

    def make(number, numbers, folder=None):
        return Worker(number=number, numbers=numbers, folder=folder, channel=ends[0], after=0)

    yield make
    for end in ends:
        end.close()


def test_connections_are_shared_out_evenly(worker):
    async def main():
        loop, numbers = asyncio.get_running_loop(), Numbers(CONTEXT, 2)
        listening = socket.create_server(("127.0.0.1", 0))
        made = {0: [], 1: []}

        def make(number):
            def connection(first):
                made[number].append(first)
                return asyncio.Protocol()

            return connection

        def acceptor(number):
            own = worker(number, numbers)
            # The first comes to every connection before the other.
            sockets.append(listening.dup())
            return Acceptor(loop, sockets[-1:], own, make(number), lambda: len(made[number]))

        sockets = [listening]
        acceptors = [acceptor(0), acceptor(1)]
        links = []
        for _ in range(32):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            links.append(writer)
        while sum(map(len, made.values())) < 32:
            await asyncio.sleep(0.01)
        for one in acceptors:
            one.close()
        for writer in links:
            writer.close()
            await writer.wait_closed()
        for one in sockets:
            one.close()
        return sorted(map(len, made.values()))

    fewest, most = asyncio.run(main())
    assert most - fewest <= 4


def test_metrics_are_added_up_and_outlive_a_worker(worker, tmp_path, monkeypatch):
    numbers = Numbers(CONTEXT, 2)
    pids = iter([11, 12, 13])
    counters = [Counters() for _ in range(3)]
    for number, counter, pid in zip((0, 1, 0), counters, pids, strict=True):
        monkeypatch.setattr(shared_metrics, "os", SimpleNamespace(getpid=lambda pid=pid: pid))
        shared = SharedMetrics(counter, worker(number, numbers, tmp_path))
        numbers.began(number, pid)  # so that process 11 does not run any more in the end
        counter.requests.labels("GET", "/readyz", 200).inc(10 ** (pid - 11))
        counter.latency.labels("/readyz").observe(0.003)
        counter.waiting.set(pid)
        counter.oldest.set(pid)
        if pid == 11:
            shared.write(SimpleNamespace(lock=threading.Lock(), after=77))
        else:
            shared.write(None)
    assert shared.after == 77  # where the first worker that was killed had got to
    found = {
        (sample.name, sample.labels.get("le")): sample.value
        for family in text_string_to_metric_families(shared.text().decode())
        for sample in family.samples
    }
    assert found["recondite_requests_total", None] == 111
    assert found["recondite_request_seconds_count", None] == 3
    assert (
        found["recondite_request_seconds_bucket", "0.0025"],
        found["recondite_request_seconds_bucket", "0.005"],
    ) == (
        0,
        3,
    )
    assert found["recondite_images_waiting", None] == 12 + 13
    assert found["recondite_longest_wait_seconds", None] == 13


def test_a_monitor_of_events_is_that_of_verdicts(screens, digits):
    screen = screens("pca")
    verdicts = screen.predict(digits[1400:1460])
    statistics = verdicts.statistics or {}
    rows = [
        {
            **vars(event(index, "digits")),
            **{name: row[name] for name in ("verdict", "instance_score", "p_value", "threshold", "alpha", "error")},
            "name": row["id"],
            "statistics": {name: float(values[index]) for name, values in statistics.items()},
        }
        for index, row in enumerate(verdicts.records())
    ]
    again = verdicts_of(rows)
    one, other = Monitor(screen), Monitor(screen)
    one.update(verdicts)
    other.update(again)
    assert one.state() == other.state()
    assert again.words == verdicts.words
    np.testing.assert_array_equal(again.p_value, verdicts.p_value)


def test_events_are_followed_in_order_also_those_that_are_written_late(postgres):
    store = Store(postgres)
    try:
        before = store.last()
        late = store.engine.connect()
        late.begin()
        _insert(late, 1)
        with store.engine.begin() as link:
            _insert(link, 2)
        # The second is there; the first, with a smaller number, is not: it must not be passed over.
        with pytest.raises(sql.exc.SQLAlchemyError):
            store.later(before, 10)
        late.commit()
        late.close()
        assert [row["name"][-1] for row in store.later(before, 10)] == ["1", "2"]
        assert [row["name"][-1] for row in store.later(before, 1)] == ["1"]
        assert store.later(store.last(), 10) == []
    finally:
        store.close()


def _insert(link, number):
    from recondite.service.engine.database import EVENTS

    link.execute(EVENTS.insert(), [{**vars(event(number, f"late{os.urandom(4).hex()}"))}])


def test_several_processes_keep_images_within_one_limit(tmp_path):
    stores = [KeptImages(tmp_path / "kept", 10_000) for _ in range(3)]
    for number in range(120):
        stores[number % 3].add(f"{number:064x}", bytes(100 + 300 * (number % 2)))
        size = sum(path.stat().st_size for path in (tmp_path / "kept").glob("??/*"))
        assert size <= 10_000 + 3 * 900  # each measures anew after a twentieth, and one image

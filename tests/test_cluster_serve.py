"""The service on a cluster of two nodes: the same answers, whatever dies."""

import os
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

pytest.importorskip("ray", reason="needs the extra 'ray'")

from service import free_port

from recondite.cli.serve import serve
from recondite.errors import InputError
from recondite.screen.screen import load
from recondite.service.client import Client
from recondite.service.replicas import Replicas, check_store, serve_on_cluster, stop_serving
from recondite.service.settings import Settings

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.filterwarnings("default")]
TOKEN = "a-token-of-ours"


@pytest.fixture(scope="module")
def address(request, digit_screen, postgres):
    """Two replicas of the service with events in Postgres."""
    request.getfixturevalue("two_nodes")
    port = free_port()
    start(digit_screen, postgres, port)
    yield f"http://127.0.0.1:{port}"
    stop_serving("auto")


def start(screen, store, port, requests_each=16):
    given = Settings(screens=[f"digits={screen}"], store=store, tokens=[TOKEN], reload_seconds=0)
    replicas = Replicas(replicas=2, most_replicas=3, requests_each=requests_each, proxies="head-only")
    serve_on_cluster(given, "auto", "127.0.0.1", port, replicas)


def processes():
    """The ids of the replicas' processes."""
    import ray
    from ray._private import state

    actors = state.actors().values()
    ours = [one for one in actors if "ServeReplica" in one["ActorClassName"] and one["State"] == "ALIVE"]
    assert ray.is_initialized()
    return [one["Pid"] for one in ours]


class Load:
    """Clients that ask all the time, from threads of their own."""

    def __init__(self, address, files, expected):
        self.wrong, self.failed, self.answered = [], [], 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(address, files, expected, n)) for n in range(4)]

    def _ask(self, address, files, expected, number):
        with Client(address, TOKEN, tries=12) as client:
            while not self._stop.is_set():
                number = (number + 7) % len(files)
                try:
                    (verdict,) = client.predict("digits", {str(number): files[number]}).verdicts
                except Exception as error:
                    self.failed.append(repr(error))
                    continue
                self.answered += 1
                if (verdict.instance_score, verdict.p_value) != expected[number]:
                    self.wrong.append(number)

    def until(self, condition, seconds=90):
        """Wait for a condition, and a few more answers."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.05)
        answered = self.answered
        while self.answered < answered + 20 and time.monotonic() < end:
            time.sleep(0.05)
        assert self.answered >= answered + 20

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def expected(digit_screen, digit_files):
    verdicts = load(digit_screen).predict(digit_files)
    return list(zip(verdicts.instance_score.tolist(), verdicts.p_value.tolist(), strict=True))


def test_a_replica_killed_under_load_gives_no_wrong_answer(address, digit_files, expected):
    first = processes()
    assert len(first) == 2
    with Load(address, digit_files, expected) as load:
        load.until(lambda: load.answered >= 20)
        os.kill(first[0], signal.SIGKILL)
        load.until(lambda: len(set(processes()) - {first[0]}) >= 2)
    assert load.wrong == []
    assert load.failed == []
    with Client(address, TOKEN) as client:
        recorded = sum(1 for _ in client.events(limit=1000))
    assert recorded >= load.answered


@pytest.mark.slow
def test_an_update_replaces_every_replica_and_refuses_nobody(address, digit_screen, postgres, digit_files, expected):
    """Four clients are more than two replicas shall have after the update, so that a third one comes."""
    before = set(processes())
    with Load(address, digit_files, expected) as load:
        load.until(lambda: load.answered >= 10)
        start(digit_screen, postgres, int(address.rpartition(":")[2]), requests_each=1)
        load.until(lambda: len(processes()) == 3 and not before & set(processes()))
    assert load.wrong == []
    assert load.failed == []


def test_the_gate_is_there_on_the_cluster_too(address):
    assert httpx.get(f"{address}/v1/screens").status_code == 401
    assert httpx.get(f"{address}/readyz").status_code == 200
    assert httpx.get(f"{address}/").status_code in (401, 404)


def test_replicas_do_not_share_sqlite():
    for cluster, number in (("local", 2), ("auto", 1)):
        with pytest.raises(InputError, match="postgresql://"):
            check_store("sqlite:///events.db", cluster, Replicas(replicas=number))
    check_store("sqlite:///events.db", "local", Replicas(replicas=1))
    check_store("postgresql://recondite@host/db", "auto", Replicas(replicas=2))


@pytest.mark.parametrize(
    "wrong", [{"replicas": 0}, {"replicas": 3, "most_replicas": 2}, {"requests_each": 0}, {"replica_gpus": -1}]
)
def test_wrong_numbers_of_replicas_are_refused(wrong):
    with pytest.raises(InputError, match="expected"):
        Replicas(**wrong)


def test_stop_needs_a_cluster():
    with pytest.raises(InputError, match="--cluster"):
        serve(stop=True)


def test_the_client_asks_again_when_a_replica_has_gone():
    asked = []

    def answer(request):
        asked.append(request)
        if len(asked) == 1:
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
        if len(asked) == 2:
            return httpx.Response(500, text="The actor died unexpectedly before finishing this task.")
        if len(asked) == 3:
            return httpx.Response(200, json=[])
        return httpx.Response(500, json={"error": {"code": "failed", "message": "ours"}})

    with Client("http://x", transport=httpx.MockTransport(answer)) as client:
        assert client.screens() == []
        assert len(asked) == 3
        with pytest.raises(Exception, match="500: ours"):
            client.screens()
    assert len(asked) == 4


@pytest.mark.slow
def test_a_cluster_of_its_own_ends_with_the_command(digit_screen, tmp_path, digit_files, expected):
    port = free_port()
    command = [sys.executable, "-c", "import sys; from recondite.cli import main; sys.exit(main())", "serve"]
    flags = ["--cluster", "local", "--replicas", "1", "--port", str(port), "--store", "sqlite:///events.db"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, f"digits={digit_screen}", *flags], cwd=tmp_path, stderr=log)
    try:
        end = time.monotonic() + 120
        while "serving on port" not in (tmp_path / "log").read_text():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.2)
        with Client(f"http://127.0.0.1:{port}") as client:
            verdicts = client.predict("digits", digit_files[:40]).verdicts
        assert [(one.instance_score, one.p_value) for one in verdicts] == expected[:40]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert (tmp_path / "events.db").exists()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()

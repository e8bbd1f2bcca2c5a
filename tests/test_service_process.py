"""The service as a process: load, kill, drain, reload, slow clients, the client of our own."""

import http.client
import json
import os
import shutil
import signal
import socket
import time
from contextlib import closing, suppress

import numpy as np
import pytest
from service import PATH, Load, Process, events_of, in_process, in_thread, running, settings_of

import recondite

pytest.importorskip("fastapi")

from recondite.cli.serve import _tokens, serve
from recondite.errors import InputError
from recondite.service import server
from recondite.service.client import Client, ServiceError
from recondite.service.engine.folders import named_folders
from recondite.service.settings import Limits
from recondite.service.start import taken_port


@pytest.fixture
def store(tmp_path):
    return tmp_path / "events.db"


@pytest.fixture(scope="module")
def process(digit_screen, tmp_path_factory):
    """A service for the tests that follow, of which the last ends it: version 9 of a screen, with its store."""
    root = tmp_path_factory.mktemp("served")
    shutil.copytree(digit_screen, root / "digits" / "9")
    more = ("--reload-seconds", "0.1", "--drain-seconds", "1")
    with running(root, root / "digits", "--store", f"sqlite:///{root / 'events.db'}", *more) as process:
        process.folder, process.store = root / "digits", root / "events.db"
        yield process


def test_a_thousand_requests_from_thirty_two_clients(digit_screen, process, digit_files):
    expected = list(recondite.load(digit_screen).predict(digit_files).records())
    load = Load(process.port, digit_files, clients=32, requests=1000).finish()
    assert (len(load.answers), load.refused, load.broken) == (1000, [], 0)
    for place, _, row in load.answers:
        for name in ("instance_score", "p_value", "verdict", "is_outlier", "threshold"):
            assert row[name] == expected[place][name]
    events = events_of(process.store)
    assert len(events) == 1000
    assert all(events[row["event"]] == (row["instance_score"], row["verdict"]) for _, _, row in load.answers)


def test_a_new_version_takes_over_without_a_dropped_request(digit_screen, screens, process, digit_files):
    expected = {"9": recondite.load(digit_screen).predict(digit_files).instance_score}
    load = Load(process.port, digit_files, clients=8)
    load.wait_for(50)
    (process.folder / "11-broken").mkdir()
    (process.folder / "11-broken" / "manifest.json").write_text("{}")
    other = screens("pca").with_score("error")
    other.save(process.folder / "10")
    expected["10"] = other.predict(digit_files).instance_score
    end = time.monotonic() + 300
    while load.answers[-1][1] != "10" and time.monotonic() < end:
        time.sleep(0.05)
    with Client(process.url) as client:
        assert client.screens()[0].versions == ["10", "9"]
        pinned = client.predict("digits", digit_files[:1], version="9")
        assert pinned.verdicts[0].instance_score == expected["9"][0]
    load.wait_for(len(load.answers) + 50)
    load.stop()
    assert (load.refused, load.broken) == ([], 0)
    assert {version for _, version, _ in load.answers} == {"9", "10"}
    assert all(row["instance_score"] == expected[version][place] for place, version, row in load.answers)


def test_sigterm_under_load_answers_what_it_accepted(process, digit_files):
    earlier = set(events_of(process.store))
    load = Load(process.port, digit_files, clients=8)
    load.wait_for(50)
    process.process.send_signal(signal.SIGTERM)
    link = http.client.HTTPConnection("127.0.0.1", process.port, timeout=120)
    status = 200
    while status == 200:
        link.request("GET", "/readyz")
        answer = link.getresponse()
        status, body = answer.status, answer.read()
    assert (status, json.loads(body)["trouble"]) == (503, ["the service is going down"])
    link.close()
    before = len(load.answers)
    assert process.process.wait(300) == 0
    load.stop()
    assert len(load.answers) > before
    # Every answer is an event, and there is no event that nobody got an answer for.
    assert {row["event"] for _, _, row in load.answers} == set(events_of(process.store)) - earlier


def test_killed_under_load_it_has_every_event_it_acknowledged(digit_screen, tmp_path, store, digit_files):
    process = Process(tmp_path, digit_screen, "--store", f"sqlite:///{store}")
    process.wait()
    load = Load(process.port, digit_files, clients=16)
    load.wait_for(200)
    process.stop(signal.SIGKILL)
    load.stop()
    assert load.broken
    events = events_of(store)
    assert {row["event"] for _, _, row in load.answers} <= set(events)
    with in_thread(digit_screen, tmp_path, store=f"sqlite:///{store}") as process:
        again = Load(process.port, digit_files, clients=4, requests=50).finish()
    assert len(again.answers) == 50
    assert set(events) < set(events_of(store))


def test_slow_and_absent_bodies_are_given_up(digit_screen, tmp_path, digit_files):
    with in_thread(digit_screen, tmp_path, limits=Limits(body_seconds=0.5, body_bytes=100_000)) as process:
        slow = socket.create_connection(("127.0.0.1", process.port), timeout=120)
        slow.sendall(
            f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
            "Content-Length: 99\r\n\r\nab".encode()
        )
        hung = socket.create_connection(("127.0.0.1", process.port), timeout=120)
        hung.sendall(f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\nab".encode())
        hung.close()
        assert len(Load(process.port, digit_files, clients=2, requests=20).finish().answers) == 20
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")
        slow.close()
        for garbage in (
            b"\0" * 5000,
            b"GET / HTTP/9.9\r\n\r\n",
            b"A" * 200_000,
            b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", process.port), timeout=120) as link:
                answer = b""
                with suppress(OSError):  # it may hang up at once
                    link.sendall(garbage)
                    link.shutdown(socket.SHUT_WR)
                    answer = link.recv(1000)
                assert not answer.startswith(b"HTTP/1.1 200")
        assert len(Load(process.port, digit_files, clients=2, requests=20).finish().answers) == 20


def test_the_client(digit_screen, tmp_path, digit_files):
    picture = tmp_path / "one.png"
    picture.write_bytes(digit_files[3])
    expected = recondite.load(digit_screen).predict(digit_files)
    with in_thread(digit_screen, tmp_path, tokens=["a-token-of-ours"], keep="flagged") as process:
        with Client(process.url, "wrong-token") as stranger, pytest.raises(ServiceError, match="token") as told:
            stranger.screens()
        assert told.value.status == 401
        with Client(process.url, "a-token-of-ours") as client:
            (screen,) = client.screens()
            assert screen.fingerprint == recondite.load(digit_screen).fingerprint()
            answer = client.predict("digits", digit_files)
            assert [row.instance_score for row in answer.verdicts] == expected.instance_score.tolist()
            full = client.predict("digits", [picture], heat_map=True, reconstruction=True, explain=True, alpha=0.2)
            assert full.verdicts[0].why
            assert full.verdicts[0].alpha == 0.2
            named = client.predict("digits", {"mine": digit_files[0]})
            assert named.verdicts[0].id == "mine"
            flagged = list(client.events(verdict="outlier", limit=7))
            assert len(flagged) >= expected.counts()["outlier"]
            assert all(event.kept for event in flagged)
            assert client.label(flagged[0].id, "inlier").label == "inlier"
            with pytest.raises(ServiceError, match="needs at least") as told:
                client.predict("digits", digit_files[:1], alpha=1e-6)
            assert told.value.status == 422
    with Client(process.url) as client, pytest.raises(ServiceError):
        client.screens()


def test_tokens_come_from_flags_the_environment_and_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("RECONDITE_TOKEN", "a-token-of-ours")
    (tmp_path / "tokens").write_text("one-of-the-file\n\n another-of-the-file\n")
    assert _tokens(["given"], None) == ["given", "a-token-of-ours"]
    assert _tokens([], tmp_path / "tokens") == ["a-token-of-ours", "one-of-the-file", "another-of-the-file"]
    monkeypatch.delenv("RECONDITE_TOKEN")
    assert _tokens([], None) == []


def test_the_client_comes_back_when_the_service_is_busy():
    httpx = pytest.importorskip("httpx")
    asked = []

    def answer(request):
        asked.append(request)
        return httpx.Response(429, headers={"Retry-After": "0"}) if len(asked) < 3 else httpx.Response(200, json=[])

    with Client("http://x", transport=httpx.MockTransport(answer)) as client:
        assert client.screens() == []
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("asked", "waited"), [("Wed, 21 Oct 2026 07:28:00 GMT", 0.1), ("86400", 60.0), ("-1", 0.1), ("", 0.1)]
)
def test_the_client_waits_no_longer_than_a_minute_whatever_a_proxy_asks(monkeypatch, asked, waited):
    httpx = pytest.importorskip("httpx")
    pauses = []
    monkeypatch.setattr("recondite.service.client.time.sleep", pauses.append)

    def answer(_):
        return httpx.Response(200, json=[]) if pauses else httpx.Response(503, headers={"Retry-After": asked})

    with Client("http://x", transport=httpx.MockTransport(answer)) as client:
        assert client.screens() == []
    assert pauses == [waited]


def test_a_screen_that_cannot_be_loaded_ends_the_start(tmp_path, digit_screen, monkeypatch):
    monkeypatch.setattr("sys.setswitchinterval", lambda _: None)
    broken = tmp_path / "broken"
    shutil.copytree(digit_screen, broken)
    (broken / "detector.safetensors").write_bytes(b"x")
    (taken,) = sockets = taken_port("127.0.0.1", 0)
    with closing(taken), pytest.raises(InputError, match="broken"):
        server.run(settings_of(broken, tmp_path, page=False), sockets)


def test_a_replaced_folder_is_a_new_version_and_a_broken_one_is_not(digit_screen, screens, tmp_path, digit_files):
    folder = tmp_path / "digits"
    shutil.copytree(digit_screen, folder)
    png = {"content-type": "image/png"}
    with in_process(folder, tmp_path) as client:
        first = client.post(PATH, content=digit_files[0], headers=png).json()["version"]
        assert client.post("/v1/reload").json() == []
        screens("pca").with_score("error").save(folder)
        (loaded,) = client.post("/v1/reload").json()
        second = client.post(PATH, content=digit_files[0], headers=png).json()["version"]
        assert loaded["version"] == second != first
        (folder / "manifest.json").write_text("{}")
        assert client.post("/v1/reload").json() == []
        assert client.post(PATH, content=digit_files[0], headers=png).json()["version"] == second
        ready = client.get("/readyz").json()
        assert ready["status"] == "ready"
        assert len(ready["failed_reloads"]) == 1


def test_several_screens_each_with_its_scores(digit_screen, screens, tmp_path, digit_files):
    screens("pca").with_score("error").save(tmp_path / "other")
    folders = [f"one={digit_screen}", f"two={tmp_path / 'other'}"]
    with in_process(folders, tmp_path) as client:
        for name, folder in (("one", digit_screen), ("two", tmp_path / "other")):
            row = client.post(
                f"/v1/screens/{name}/predict", content=digit_files[0], headers={"content-type": "image/png"}
            )
            expected = recondite.load(folder).predict(digit_files[0]).instance_score[0]
            assert row.json()["verdicts"][0]["instance_score"] == expected
        assert [one["name"] for one in client.get("/v1/screens").json()] == ["one", "two"]


def test_names_and_addresses_are_checked_before_anything_starts(tmp_path):
    for folders in (["a/x", "b/x"], ["bad name=/x"], ["=/x"], ["/"]):
        with pytest.raises(InputError):
            named_folders(folders)
    with pytest.raises(InputError, match="token"):
        serve(str(tmp_path), host="0.0.0.0", page=False)
    with pytest.raises(InputError, match="at least one screen"):
        serve(page=False)
    with pytest.raises(InputError, match="8 characters"):
        serve(str(tmp_path), token=["short"], page=False)
    (tmp_path / "none").write_text("\n")
    with pytest.raises(InputError, match="no tokens"):
        serve(str(tmp_path), token_file=tmp_path / "none", page=False)


def test_scores_do_not_depend_on_the_process(digit_screen, digits):
    screen = recondite.load(digit_screen)
    alone = [screen.predict(digit[None]).instance_score[0] for digit in digits[1500:1510]]
    np.testing.assert_array_equal(alone, screen.predict(digits[1500:1510]).instance_score)
    assert os.environ["OMP_NUM_THREADS"] == "1"

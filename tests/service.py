"""What the tests of the service share: pictures as bytes, the service in this process or in another."""

import http.client
import io
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from recondite.service.settings import Settings


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, format="PNG")
    return stream.getvalue()


def settings_of(folder, tmp_path, **settings):
    """Return the settings of a service of a screen, or of several; the folder may hold NAME=."""
    given = {"store": f"sqlite:///{tmp_path / 'events.db'}", "images": tmp_path / "kept", "reload_seconds": 0}
    folders = [str(folder)] if not isinstance(folder, list) else folder
    return Settings(screens=folders, **given | settings)


@contextmanager
def in_process(folder, tmp_path, **settings):
    """A client of the service in this process."""
    from starlette.testclient import TestClient

    from recondite.service.app import create_app

    app = create_app(settings_of(folder, tmp_path, **settings))
    with TestClient(app, raise_server_exceptions=False) as client:
        client.app = app
        yield client


@contextmanager
def in_thread(folder, tmp_path, **settings):
    """The service in a thread of this process, at a port of its own: another process would take seconds to import."""
    from recondite.service import server
    from recondite.service.start import taken_port

    servers, ready, interval = [], threading.Event(), sys.getswitchinterval()

    class Kept(server._Server):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            servers.append(self)

    (taken,) = sockets = taken_port("127.0.0.1", 0)
    given = settings_of(folder, tmp_path, page=False, **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "_Server", Kept)
        thread = threading.Thread(target=server.run, args=(given, sockets), kwargs={"ready": ready.set})
        thread.start()
        try:
            while not ready.wait(0.05):
                assert thread.is_alive()
            port = taken.getsockname()[1]
            yield SimpleNamespace(port=port, url=f"http://127.0.0.1:{port}")
        finally:
            for one in servers:
                one.should_exit = True
            thread.join(120)
            taken.close()
            sys.setswitchinterval(interval)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """`recondite serve` as a process."""

    def __init__(self, tmp_path, *arguments, page=False):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = tmp_path / "service.log"
        command = [sys.executable, "-c", "import sys; from recondite.cli import main; sys.exit(main())", "serve"]
        flags = ["--port", str(self.port), *([] if page else ["--no-page"])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        # The page's library behaves in another way where it believes to be tested itself.
        environment.pop("PYTEST_CURRENT_TEST", None)
        with self.log.open("a") as log:
            self.process = subprocess.Popen([*command, *map(str, arguments), *flags], stderr=log, env=environment)

    def wait(self, seconds=120):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                    return json.load(answer)
            except OSError:
                time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def logged(self):
        """Return the facts of each line of the log; one that is being written is left out."""
        whole, _, _ = self.log.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(300)


@contextmanager
def running(tmp_path, *arguments, **keywords):
    process = Process(tmp_path, *arguments, **keywords)
    try:
        process.wait()
        yield process
    finally:
        process.stop(signal.SIGKILL)


PATH = "/v1/screens/digits/predict"


class Load:
    """Clients that each send one image after the other, with a pause in seconds between them, until told to stop."""

    def __init__(self, port, files, clients, requests=10**9, seconds=300, pause=0.0):
        self.port, self.files, self.left, self.seconds, self.pause = port, files, requests, seconds, pause
        self.answers, self.refused, self.broken = [], [], 0
        self.lock, self.stopping = threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self.client) for _ in range(clients)]
        [thread.start() for thread in self.threads]

    def next(self):
        with self.lock:
            self.left -= 1
            return self.left

    def client(self):
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        while not self.stopping.wait(self.pause) and (turn := self.next()) >= 0:
            place = turn % len(self.files)
            try:
                query = f"{PATH}?seconds={self.seconds}"
                link.request("POST", query, self.files[place], {"Content-Type": "image/png"})
                answer = link.getresponse()
                body = json.loads(answer.read())
            except (OSError, http.client.HTTPException):
                with self.lock:
                    self.broken += 1
                link.close()
                time.sleep(0.02)
                continue
            with self.lock:
                if answer.status == 200:
                    self.answers.append((place, body["version"], body["verdicts"][0]))
                else:
                    self.refused.append((answer.status, answer.headers.get("Retry-After")))
        link.close()

    def finish(self):
        [thread.join(120) for thread in self.threads]
        return self

    def stop(self):
        self.stopping.set()
        return self.finish()

    def wait_for(self, answers, seconds=300):
        end = time.monotonic() + seconds
        while len(self.answers) < answers and time.monotonic() < end:
            time.sleep(0.01)
        assert len(self.answers) >= answers


def events_of(path):
    link = sqlite3.connect(path)
    rows = link.execute("SELECT id, instance_score, verdict FROM events").fetchall()
    link.close()
    return {row[0]: row[1:] for row in rows}

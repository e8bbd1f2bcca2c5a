"""What the tests of the service share: pictures as bytes, the service in this process or in another."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import numpy as np
from PIL import Image

from recondite.service.settings import Settings


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, format="PNG")
    return stream.getvalue()


@contextmanager
def in_process(folder, tmp_path, **settings):
    """A client of the service in this process; the folder may hold NAME=."""
    from starlette.testclient import TestClient

    from recondite.service.app import create_app

    given = {"store": f"sqlite:///{tmp_path / 'events.db'}", "images": tmp_path / "kept", "reload_seconds": 0}
    folders = [str(folder)] if not isinstance(folder, list) else folder
    app = create_app(Settings(screens=folders, **given | settings))
    with TestClient(app, raise_server_exceptions=False) as client:
        client.app = app
        yield client


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

"""Mistakes at the start are one sentence and exit 2, before anything is loaded."""

import shutil
import socket
import sqlite3
from pathlib import Path

import pytest
from service import free_port

pytest.importorskip("fastapi")

from recondite.cli import main
from recondite.errors import InputError
from recondite.service import server
from recondite.service.engine.store import Store
from recondite.service.start import hosts_of, taken_port


@pytest.fixture
def said(digit_screen, tmp_path, capsys, monkeypatch):
    """A function: arguments of `recondite serve` to what it says; uvicorn must not begin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(server.uvicorn.Server, "run", lambda *_: pytest.fail("it began"))

    def run(*arguments):
        given = [str(digit_screen) if one == "SCREEN" else str(one) for one in arguments]
        code = main(["serve", *given, "--no-page", *([] if "--port" in given else ["--port", "0"])])
        error = capsys.readouterr().err
        assert (code, error.startswith("error: "), error.count("\n")) == (2, True, 1), error
        assert "Traceback" not in error
        return error

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no/such"], "no/such is not there"),
        (["."], "holds no screen"),
        (["SCREEN", "SCREEN"], "two screens are called 'digits'"),
        (["bad name=SCREEN"], "expected a name of letters"),
        (["=SCREEN"], "expected a name of letters"),
        (["SCREEN", "--store", "nonsense"], "expected a store such as"),
        (["SCREEN", "--store", "postgresql://u:p@h:xx/db"], "expected a store such as"),
        (["SCREEN", "--verdict-webhook", "http://u:p@[bad"], "expected a webhook such as"),
        (["SCREEN", "--webhook", "http://host:99999/"], "expected a webhook such as"),
        (["SCREEN", "--store", "mysql://x/y"], "SQLite or Postgres"),
        (["SCREEN", "--store", "sqlite:///no/such/events.db"], "'no/such/events.db' cannot be opened"),
        (["SCREEN", "--port", "99999"], "expected a port from 0 to 65535; got 99999"),
        (["SCREEN", "--port", "-1"], "expected a port"),
        (["SCREEN", "--host", "192.0.2.1", "--allow-public"], "not an address of this machine"),
        (["SCREEN", "--host", "no.such.invalid", "--allow-public"], "cannot be taken"),
        (["SCREEN", "--token-file", "none"], "expected a file of tokens"),
        (["SCREEN", "--keep-images", "all", "--keep-folder", "taken/kept"], "images cannot be kept"),
        (["SCREEN", "--drain-seconds", "-1"], "expected drain_seconds >= 0"),
        (["SCREEN", "--reload-seconds", "-1"], "expected reload_seconds >= 0; got -1.0"),
        (["SCREEN", "--max-job-megabytes", "0"], "expected job_bytes > 0"),
        (["SCREEN", "--max-keep-megabytes", "-1"], "expected keep_bytes > 0"),
        (["SCREEN", "--jobs", "taken/jobs"], "nothing can be written into taken/jobs: Not a directory"),
        (["top=/"], "/ holds no screen"),
    ],
)
def test_a_mistake_is_one_sentence(said, tmp_path, arguments, words):
    (tmp_path / "taken").write_text("a file")
    assert words in said(*arguments)


def test_a_port_that_is_taken(said):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"port {port} of 127.0.0.1 cannot be taken: another process has it" in said("SCREEN", "--port", port)


def test_a_store_that_is_no_database(said, tmp_path):
    (tmp_path / "text.db").write_text("not a database" * 100)
    assert "cannot be opened: file is not a database" in said("SCREEN", "--store", "sqlite:///text.db")
    sqlite3.connect(tmp_path / "view.db").execute("CREATE VIEW events AS SELECT 1").connection.close()
    assert "cannot be opened" in said("SCREEN", "--store", "sqlite:///view.db")


@pytest.mark.parametrize("made", ["text", "view"])
def test_a_store_that_cannot_be_opened_keeps_no_file_open(made, tmp_path):
    path = tmp_path / "store.db"
    if made == "text":
        path.write_text("not a database" * 100)
    else:
        sqlite3.connect(path).execute("CREATE VIEW events AS SELECT 1").connection.close()
    with pytest.raises(InputError, match="cannot be opened") as kept:  # and with it all that its frames hold
        Store(f"sqlite:///{path}")
    assert kept.tb
    descriptors = Path("/proc/self/fd").iterdir()
    assert str(path) not in [str(one.readlink()) for one in descriptors if one.is_symlink()]


def test_a_screen_that_cannot_be_loaded_is_named(digit_screen, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(digit_screen, tmp_path / "broken")
    (tmp_path / "broken" / "detector.safetensors").write_bytes(b"x")
    handlers = [(name, server.logging.getLogger(name).handlers[:]) for name in ("recondite.service", "uvicorn.error")]
    assert main(["serve", "broken", "--no-page", "--port", str(free_port())]) == 2
    assert "error: broken: " in capsys.readouterr().err.splitlines()[-1]
    for name, before in handlers:
        server.logging.getLogger(name).handlers[:] = before
        server.logging.getLogger(name).propagate = True


def test_a_name_of_several_addresses_is_listened_to_on_all():
    sockets = taken_port("localhost", 0)
    assert {one.family for one in sockets} <= {socket.AF_INET, socket.AF_INET6}
    for one in sockets:
        one.close()
    with pytest.raises(InputError):
        taken_port("300.1.1.1", 1)


def test_names_are_known_only_where_nobody_else_may_ask():
    assert set(hosts_of("127.0.0.1", [], [])) == {"127.0.0.1", "::1", "localhost"}
    assert "proxy.example" in hosts_of("127.0.0.1", [], ["proxy.example"])
    assert hosts_of("127.0.0.1", ["a-token-of-ours"], []) == ()
    assert hosts_of("0.0.0.0", [], []) == ()
    assert set(hosts_of("10.0.0.1", [], ["line.example"])) >= {"10.0.0.1", "line.example"}

import os
import sys

import pytest

from recondite.cluster import connect as cluster
from recondite.cluster.connect import connect
from recondite.errors import InputError, ReconditeError


def test_other_addresses_are_refused():
    with pytest.raises(InputError, match="ray://HOST:PORT"), connect("nowhere"):
        pass


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"recondite\[ray\]"), connect("local"):
        pass


def test_a_cluster_started_here_gets_a_token_and_is_not_counted(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    cluster.set_environment("auto")
    assert "RAY_AUTH_MODE" not in os.environ
    cluster.set_environment("local")
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_ray_that_was_imported_without_a_token_is_refused(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_AUTH_MODE")
    with pytest.raises(InputError, match="before"), connect("local"):
        pass


@pytest.mark.parametrize(
    ("said", "failures", "reached"),
    [
        ("Starting Ray client server failed", 2, True),
        ("Starting Ray client server failed", 3, False),
        ("psutil.ZombieProcess: PID still exists but it's a zombie", 2, True),
        ("The current node timed out during startup.", 1, True),
        ("The current node timed out during startup.", 2, False),
        ("no", 1, False),
    ],
)
def test_a_cluster_that_dies_or_is_late_as_it_starts_is_started_again(monkeypatch, said, failures, reached):
    ray = pytest.importorskip("ray")
    calls = []

    def init(**_):
        calls.append(1)
        if len(calls) <= failures:
            raise ConnectionError(said)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    if reached:
        with connect("ray://nowhere:1") as found:
            assert found is ray
        assert len(calls) == failures + 1
    else:
        with pytest.raises(ReconditeError, match="cannot reach"), connect("ray://nowhere:1"):
            pass

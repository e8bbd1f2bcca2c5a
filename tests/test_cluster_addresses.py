"""A cluster of two machines with addresses of their own: network namespaces joined by a cable."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recondite.cluster.parts import check_parts, read_parts

pytest.importorskip("ray", reason="needs Ray: pip install 'recondite[ray]'")
pytestmark = pytest.mark.xdist_group("ray")
HEAD, OTHER = "10.213.77.1", "10.213.77.2"


def run(*command, **options):
    found = subprocess.run(command, capture_output=True, text=True, timeout=400, **options)
    assert found.returncode == 0, found.stderr[-3000:]
    return found


@pytest.fixture
def machines():
    """The names of two network namespaces that reach each other as HEAD and OTHER, and this machine not at all."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and the command ip, to make network namespaces")
    names = [f"recondite-{os.getpid()}-{index}" for index in range(2)]
    cables = [f"rc{os.getpid() % 100_000}{letter}" for letter in "ab"]
    if subprocess.run(["ip", "netns", "add", names[0]], capture_output=True).returncode != 0:
        pytest.skip("network namespaces are not allowed here")
    try:
        run("ip", "netns", "add", names[1])
        run("ip", "link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for name, cable, address in zip(names, cables, (HEAD, OTHER), strict=True):
            run("ip", "link", "set", cable, "netns", name)
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", cable)
            run("ip", "-n", name, "link", "set", cable, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            for pid in subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


LISTENS = """
import socket, sys, time
for _ in range(600):
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()
        sys.exit(0)
    except OSError:
        time.sleep(0.5)
sys.exit("nothing listens there")
"""


@pytest.mark.slow
def test_a_sweep_over_two_addresses(machines, screens, folder, tmp_path):
    screens("pca").save(tmp_path / "screen")
    ray = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--disable-usage-stats",
        "--object-store-memory=200000000",
    ]
    head = [f"--node-ip-address={HEAD}", "--port=6380", "--num-cpus=0", "--include-dashboard=false"]
    other = [f"--node-ip-address={OTHER}", f"--address={HEAD}:6380", "--num-cpus=2"]
    # Sockets have short paths.
    temporary = f"/tmp/rr{os.getpid()}"
    try:
        # A client gets a server of its own, which on a crowded machine takes longer to start than Ray's 30 seconds.
        patient = {**os.environ, "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "90"}
        run("ip", "netns", "exec", machines[0], *ray, "--head", *head, f"--temp-dir={temporary}", env=patient)
        run("ip", "netns", "exec", machines[1], *ray, *other)
        predict = [sys.executable, "-m", "recondite", "predict", str(tmp_path / "screen"), str(folder)]
        member = ["-o", str(tmp_path / "out"), "--cluster", f"{HEAD}:6380", "--part-size", "10"]
        run("ip", "netns", "exec", machines[0], *predict, *member)
        client = ["-o", str(tmp_path / "far"), "--cluster", f"ray://{HEAD}:10001", "--part-size", "10"]
        # The server of clients starts after the command that started the cluster has ended.
        run("ip", "netns", "exec", machines[1], sys.executable, "-c", LISTENS, HEAD, "10001")
        run("ip", "netns", "exec", machines[1], *predict, *client)
        nodes = f"import ray; ray.init(address='{HEAD}:6380', log_to_driver=False); print(ray.nodes())"
        found = run("ip", "netns", "exec", machines[0], sys.executable, "-c", nodes).stdout
    except AssertionError as error:
        logs = sorted(Path(temporary).glob("session_latest/logs/ray_client_server*"))
        raise AssertionError(
            "\n".join([str(error), *(f"{log.name}: {log.read_text()[-3000:]}" for log in logs)])
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    assert HEAD in found
    assert OTHER in found
    for out in (tmp_path / "out", tmp_path / "far"):
        assert check_parts(out)["parts"] == 4
        assert list(read_parts(out)) == list(screens("pca").predict(folder).records())

"""Sweeps on a cluster of its own, whose machines die, whose driver dies and whose store fails."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from s3_server import s3_server, upload
from service import png

from recondite.cluster.connect import OBJECT_STORE_BYTES
from recondite.cluster.ledger import Ledger
from recondite.cluster.parts import check_parts, read_parts
from recondite.cluster.sweep import Workers, cluster_sweep
from recondite.data.datasets import ImageSet
from recondite.screen.sweep import sweep

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'recondite[ray]'")
pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.slow,
    # Ray leaves sockets and files of its processes to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Nodes:
    """A cluster whose head does no work, and machines of one CPU that can be taken away."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False},
        )
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level="ERROR")
        self.workers = []

    def at_least(self, count):
        while len(self.workers) < count:
            self.workers.append(self.cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES))
        self.cluster.wait_for_nodes()

    def kill_one(self):
        self.cluster.remove_node(self.workers.pop(), allow_graceful=False)


@pytest.fixture(scope="module")
def nodes():
    pytest.importorskip("s3fs", reason="needs s3fs: pip install 'recondite[s3]'")
    pytest.importorskip("moto", reason="needs moto, a local S3 server")
    ray.shutdown()  # other files leave this process connected to the cluster that they share
    with s3_server() as (faults, environment), pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        # Workers look there for cluster_images.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        made = Nodes()
        made.faults = faults
        made.at_least(2)
        yield made
        ray.shutdown()
        made.cluster.shutdown()


@pytest.fixture
def two(nodes):
    nodes.at_least(2)
    return nodes


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_machine_killed_in_the_middle_of_20_000_images(two, screens, digits, tmp_path, monkeypatch):
    images = np.tile(digits, (12, 1, 1))[:20_000]
    finish, done = Ledger.finish, []

    def finishing(self, task, part, content):
        finish(self, task, part, content)
        done.append(task.name)
        if len(done) == 4:
            two.kill_one()

    monkeypatch.setattr(Ledger, "finish", finishing)
    manifest = cluster_sweep(screens("pca"), images, tmp_path / "out", workers=Workers(part_size=1000)).manifest
    assert (manifest["images"], manifest["rows"], manifest["parts"]) == (20_000, 20_000, 20)
    assert check_parts(tmp_path / "out") == manifest
    expected = screens("pca").predict(images)
    rows = list(read_parts(tmp_path / "out"))
    assert [row["id"] for row in rows] == list(expected.ids)
    np.testing.assert_array_equal([row["instance_score"] for row in rows], expected.instance_score)


@pytest.mark.usefixtures("two")
def test_an_image_that_kills_its_worker_is_named_and_the_rest_is_judged(screens, digits, tmp_path):
    from cluster_images import Poison

    items = [png(digit) for digit in digits[:24]]
    expected = list(screens("pca").predict(list(items)).records())
    items[21] = Poison()
    images = ImageSet(items, ids=[f"{index:06d}" for index in range(24)], parallel=True)
    manifest = cluster_sweep(screens("pca"), images, tmp_path / "out", workers=Workers(part_size=4)).manifest
    assert check_parts(tmp_path / "out") == manifest
    rows = list(read_parts(tmp_path / "out"))
    assert rows[21]["id"] == "000021"
    assert rows[21]["verdict"] == "invalid"
    assert "died on this image" in rows[21]["error"]
    assert rows[:21] + rows[22:] == expected[:21] + expected[22:]


def test_a_sweep_whose_driver_was_killed_goes_on_with_what_is_missing(two, screens, digits, tmp_path):
    screens("pca").save(tmp_path / "screen")
    for index in range(300):
        path = tmp_path / "images" / f"{index:03d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(digits[index]))
    out, cluster = tmp_path / "out.csv", two.cluster.address
    arguments = [str(tmp_path / "screen"), str(tmp_path / "images"), "-o", str(out), "--part-size", "2"]
    command = [sys.executable, "-m", "recondite", "predict", *arguments, "--cluster", cluster]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    journal = out / "journal.jsonl"
    while not journal.exists() or journal.read_text().count("\n") < 6:  # a part is written before it is noted
        assert driver.poll() is None
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert not (out / "manifest.json").exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    done = {line.split('"file": "')[1].split('"')[0] for line in journal.read_text().splitlines()[1:]}
    assert 5 <= len(done) < 150
    subprocess.run(command, check=True, capture_output=True)
    after = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert all(after[path] == time for path, time in before.items() if path.name in done)
    assert check_parts(out)["rows"] == 300
    sweep(screens("pca"), tmp_path / "images", tmp_path / "one.csv")
    assert list(read_parts(out)) == rows_of(tmp_path / "one.csv")


def test_a_bucket_whose_requests_fail_gives_the_rows_of_its_folder(two, screens, damaged, tmp_path):
    expected = screens("pca").predict(damaged)
    upload(damaged, "screened")
    two.faults.share, before = 0.2, two.faults.injected
    try:
        workers = Workers(workers=1, part_size=10)
        result = cluster_sweep(screens("pca"), "s3://screened", tmp_path / "out", workers=workers)
    finally:
        two.faults.share = 0.0
    assert two.faults.injected > before
    assert check_parts(tmp_path / "out") == result.manifest
    rows = list(read_parts(tmp_path / "out"))
    assert [(row["id"], row["verdict"]) for row in rows] == list(zip(expected.ids, expected.words, strict=True))
    scores = [np.nan if row["instance_score"] is None else row["instance_score"] for row in rows]
    np.testing.assert_array_equal(scores, expected.instance_score)


def test_nobody_without_the_token_gets_in(two):
    grpc = pytest.importorskip("grpc")
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    with grpc.insecure_channel(two.cluster.address) as channel:
        stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        with pytest.raises(grpc.RpcError) as found:
            stub.GetAllNodeInfo(gcs_service_pb2.GetAllNodeInfoRequest(), timeout=10)
        assert found.value.code() == grpc.StatusCode.UNAUTHENTICATED
        token = [("authorization", f"Bearer {os.environ['RAY_AUTH_TOKEN']}")]
        stub.GetAllNodeInfo(gcs_service_pb2.GetAllNodeInfoRequest(), timeout=10, metadata=token)

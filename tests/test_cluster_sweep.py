import csv
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from s3_server import s3_server, upload

from recondite.cluster.connect import OBJECT_STORE_BYTES
from recondite.cluster.ledger import Ledger
from recondite.cluster.parts import check_parts, read_parts
from recondite.cluster.sweep import Workers, cluster_sweep
from recondite.data.datasets import ImageSet
from recondite.errors import InputError
from recondite.screen.sweep import sweep

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'recondite[ray]'")
pytest.importorskip("s3fs", reason="needs s3fs: pip install 'recondite[s3]'")
pytest.importorskip("moto", reason="needs moto, a local S3 server")
pytestmark = [
    pytest.mark.xdist_group("ray"),
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


def png(digit):
    stream = io.BytesIO()
    Image.fromarray(digit).save(stream, format="PNG")
    return stream.getvalue()


@pytest.fixture
def damaged(folder):
    """Two of the images cannot be read, and eight are noise."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 8), dtype=np.uint8)
    for image, path in zip(noise, sorted(folder.rglob("*.png"))[10:18], strict=True):
        Image.fromarray(image).save(path)
    (folder / "odd" / "001.png").write_bytes(b"text")
    (folder / "even" / "000.png").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("detector", "name", "options", "workers"),
    [("pca", "out.csv", {}, 2), ("autoencoder", "out.jsonl", {"fdr": 0.2, "statistics": True}, 1)],
)
@pytest.mark.usefixtures("two")
def test_the_rows_are_those_of_one_machine_to_the_bit(screens, damaged, tmp_path, detector, name, options, workers):
    screen = screens(detector)
    sweep(screen, damaged, tmp_path / "one" / name, **options)
    result = cluster_sweep(screen, damaged, tmp_path / name, workers=Workers(workers=workers, part_size=7), **options)
    parts = [path.read_text() for path in sorted((tmp_path / name).glob("part-*"))]
    assert len(parts) == 6
    header = parts[0].splitlines(keepends=True)[0] if name.endswith("csv") else ""
    merged = header + "".join(part.removeprefix(header) for part in parts)
    assert merged == (tmp_path / "one" / name).read_text()
    assert check_parts(tmp_path / name) == result.manifest
    assert (result.manifest["images"], result.manifest["rows"], result.manifest["counts"]["invalid"]) == (40, 40, 2)
    with pytest.raises(InputError, match="holds another sweep"):
        cluster_sweep(screen, damaged, tmp_path / name, workers=Workers(part_size=8), **options)


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
@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.usefixtures("two")
def test_tars_and_parquet_give_the_rows_of_their_files(screens, digits, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    files = [png(digit) for digit in digits[:60]]
    expected = screens("pca").predict(list(files)).instance_score
    (tmp_path / "tars").mkdir()
    for shard in range(3):
        with tarfile.open(tmp_path / "tars" / f"{shard}.tar", "w") as tar:
            for index in range(20 * shard, 20 * shard + 20):
                member = tarfile.TarInfo(f"{index:03d}.png")
                member.size = len(files[index])
                tar.addfile(member, io.BytesIO(files[index]))
    table = pyarrow.table({"image": [{"bytes": content, "path": None} for content in files]})
    parquet.write_table(table, tmp_path / "all.parquet", row_group_size=16)
    for source, parts in ((tmp_path / "tars", 3), (tmp_path / "all.parquet", 2)):
        out = tmp_path / f"out-{source.name}"
        out = out.with_suffix(".csv")
        manifest = cluster_sweep(screens("pca"), source, out, workers=Workers(workers=1, part_size=30)).manifest
        assert manifest["parts"] == parts
        rows = list(read_parts(out))
        np.testing.assert_array_equal([float(row["instance_score"]) for row in rows], expected)
        check_parts(out)
    assert rows[33]["id"] == "all.parquet#33"


@pytest.mark.slow
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


@pytest.mark.usefixtures("two")
def test_wrong_sweeps_are_refused(screens, digits, tmp_path):
    with pytest.raises(InputError, match=r"ends in \.csv"):
        cluster_sweep(screens("pca"), digits[:8], tmp_path / "out.txt")
    bad = np.full((4, 8, 8), np.nan)
    with pytest.raises(InputError, match="expected float pixels"):
        cluster_sweep(screens("pca"), bad, tmp_path / "raise", on_bad="raise", workers=Workers(workers=1))
    with pytest.raises(InputError, match="local, auto"):
        cluster_sweep(screens("pca"), digits[:9], tmp_path / "other", cluster="nowhere")


@pytest.mark.slow
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

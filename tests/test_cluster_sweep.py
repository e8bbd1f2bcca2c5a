"""Sweeps on a cluster of two nodes, against one process."""

import io
import tarfile

import numpy as np
import pytest
from service import png

from recondite.cluster.parts import check_parts, read_parts
from recondite.cluster.sweep import Workers, cluster_sweep
from recondite.data.datasets import ImageSet
from recondite.data.items import Deferred
from recondite.errors import InputError
from recondite.screen.sweep import sweep

pytest.importorskip("ray", reason="needs Ray: pip install 'recondite[ray]'")
pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.usefixtures("two_nodes"),
    # Ray leaves sockets and files of its processes to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def kills_once(marker, content):
    """Return an image that kills the first process that decodes it; its class goes to workers by value."""

    class KillsOnce(Deferred):
        def fetch(self):
            import os
            import signal

            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return content

    return KillsOnce()


@pytest.mark.parametrize(
    ("detector", "name", "options", "workers"),
    [("pca", "out.csv", {}, 2), ("autoencoder", "out.jsonl", {"fdr": 0.2, "statistics": True}, 1)],
)
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


def test_a_part_whose_worker_died_is_judged_again(screens, digits, tmp_path):
    expected = list(screens("pca").predict(list(digits[:24])).records())
    items = [png(digit) for digit in digits[:24]]
    items[9] = kills_once(tmp_path / "killed", items[9])
    images = ImageSet(items, ids=[f"{index:06d}" for index in range(24)], parallel=True)
    manifest = cluster_sweep(screens("pca"), images, tmp_path / "out", workers=Workers(workers=1, part_size=8)).manifest
    assert (tmp_path / "killed").exists()
    assert check_parts(tmp_path / "out") == manifest
    assert manifest["parts"] == 3
    assert list(read_parts(tmp_path / "out")) == expected


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


def test_wrong_sweeps_are_refused(screens, digits, tmp_path):
    with pytest.raises(InputError, match=r"ends in \.csv"):
        cluster_sweep(screens("pca"), digits[:8], tmp_path / "out.txt")
    bad = np.full((4, 8, 8), np.nan)
    with pytest.raises(InputError, match="expected float pixels"):
        cluster_sweep(screens("pca"), bad, tmp_path / "raise", on_bad="raise", workers=Workers(workers=1))
    with pytest.raises(InputError, match="local, auto"):
        cluster_sweep(screens("pca"), digits[:9], tmp_path / "other", cluster="nowhere")

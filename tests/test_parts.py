import json
from unittest.mock import MagicMock

import numpy as np
import pytest

from recondite.cluster.ledger import Folder, Ledger
from recondite.cluster.parts import RowOptions, blame, check_parts, judge_part, merge, read_parts
from recondite.cluster.sources import ListedSource, hash_of_ids, open_source
from recondite.cluster.sweep import Workers, _Driver, cluster_sweep
from recondite.data.datasets import open_images
from recondite.data.tables import read_events
from recondite.errors import InputError
from recondite.screen.sweep import sweep


def sweep_in_parts(screen, images, out, fdr=None, size=7, **options):
    """A sweep without a cluster: the same parts, judged one after another."""
    source = ListedSource(open_images(images))
    rows = RowOptions(suffix=out.suffix or ".parquet", **options)
    ledger = Ledger(Folder(out), {"a": 1}, source.pieces(size), "" if fdr is None else "scored/")
    while (task := ledger.next()) is not None:
        ledger.finish(task, *judge_part(screen, source.images(task.piece), task.name, rows))
    return merge(Folder(out), ledger, {"a": 1}, rows, fdr)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("fdr", [None, 0.3])
def test_parts_together_are_the_table_of_one_sweep(screens, damaged, tmp_path, suffix, fdr):
    one = tmp_path / f"one{suffix}"
    sweep(screens("pca"), damaged, one, fdr=fdr, statistics=True)
    manifest = sweep_in_parts(screens("pca"), damaged, tmp_path / f"out{suffix}", fdr, statistics=True)
    assert list(read_parts(tmp_path / f"out{suffix}")) == list(read_events(one))
    assert manifest["counts"]["invalid"] == 2
    assert 5 <= manifest["counts"]["outlier"] < 20
    assert check_parts(tmp_path / f"out{suffix}") == manifest
    assert sorted(path.name for path in (tmp_path / f"out{suffix}").iterdir()) == [
        *("manifest.json",),
        *(f"part-{number:09d}{suffix}" for number in range(6)),
        "parts.jsonl",
    ]


def test_parquet_parts_have_one_schema_even_where_nothing_could_be_read(screens, folder, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for path in sorted(folder.rglob("*.png"))[:7]:
        path.write_bytes(b"text")
    sweep_in_parts(screens("pca"), folder, tmp_path / "out", statistics=True)
    schemas = [parquet.read_schema(path) for path in sorted((tmp_path / "out").glob("part-*"))]
    assert all(schema == schemas[1] for schema in schemas)


def test_images_left_out_are_counted(screens, damaged, tmp_path):
    manifest = sweep_in_parts(screens("pca"), damaged, tmp_path / "out", on_bad="skip")
    assert (manifest["images"], manifest["rows"]) == (40, 38)
    assert check_parts(tmp_path / "out") == manifest
    for path in damaged.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="not one of the images"):
        sweep_in_parts(screens("pca"), damaged, tmp_path / "nothing", on_bad="skip")


def test_an_image_to_blame_is_not_read(screens, damaged):
    images = open_images(damaged).select([3])
    (damaged / images.ids[0]).unlink()
    part, content = blame(screens("pca"), images, "000000003-1", RowOptions(suffix=".jsonl", statistics=True), 2)
    row = json.loads(content)
    assert (row["id"], row["verdict"], row["error"]) == (
        images.ids[0],
        "invalid",
        "2 worker processes died on this image",
    )
    assert (part.inputs, part.rows, part.ids) == (1, 1, hash_of_ids(images.ids))
    assert blame(screens("pca"), images, "0", RowOptions(suffix=".csv", on_bad="skip"), 2)[1] is None
    with pytest.raises(InputError, match="died on this image"):
        blame(screens("pca"), images, "0", RowOptions(suffix=".csv", on_bad="raise"), 2)


@pytest.mark.parametrize("change", ["row lost", "part lost", "part too many", "id twice", "manifest", "list"])
def test_what_is_missing_altered_or_twice_is_found(screens, folder, tmp_path, change):
    out = tmp_path / "out.csv"
    sweep_in_parts(screens("pca"), folder, out)
    part, other = out / "part-000000001.csv", out / "part-000000002.csv"
    if change == "row lost":
        part.write_text("".join(part.read_text().splitlines(keepends=True)[:-1]))
    elif change == "part lost":
        part.unlink()
    elif change == "part too many":
        (out / "part-000000001-0.csv").write_text(part.read_text())
    elif change == "id twice":
        part.write_text(other.read_text())
    elif change == "manifest":
        manifest = json.loads((out / "manifest.json").read_text())
        (out / "manifest.json").write_text(json.dumps(manifest | {"images": 41}))
    else:
        (out / "parts.jsonl").write_text((out / "parts.jsonl").read_text().replace('"inputs": 7', '"inputs": 8', 1))
    with pytest.raises(InputError):
        check_parts(out)


def test_strays_of_a_crash_are_removed(screens, folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-000000009-3.parquet").write_bytes(b"written, never noted")
    manifest = sweep_in_parts(screens("pca"), folder, tmp_path / "out")
    assert check_parts(tmp_path / "out") == manifest


def test_the_group_of_a_part_is_the_one_asked_for(digits, tmp_path):
    import recondite

    pairs = [(digit, "left" if index % 2 else "right") for index, digit in enumerate(digits[:400])]
    screen = recondite.fit(pairs, detector="pca", latent_size=4, alpha=0.1, by_folder=True)
    sweep_in_parts(screen, digits[:20], tmp_path / "out", group="left")
    rows = list(read_parts(tmp_path / "out"))
    expected = screen.predict(digits[:20], groups=["left"] * 20)
    np.testing.assert_array_equal([row["p_value"] for row in rows], expected.p_value)


def test_a_sweep_into_its_own_images_is_refused(screens, folder):
    with pytest.raises(InputError, match=r"lies among the images.*Name a folder elsewhere"):
        cluster_sweep(screens("pca"), folder, folder / "verdicts")
    assert not (folder / "verdicts").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("part-00000.parquet", "mine", "holds part-00000.parquet, which is of no sweep known here"),
        ("manifest.json", '{"kind": "recondite screen"}', "manifest.json is not of a sweep: name another folder"),
        ("manifest.json", "[1", "manifest.json is not of a sweep: name another folder"),
        ("journal.jsonl", "mine\n", "unfinished sweep of another screen"),
    ],
)
def test_files_of_no_sweep_are_not_written_over(screens, folder, tmp_path, name, content, said):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text(content)
    with pytest.raises(InputError, match=said):
        cluster_sweep(screens("pca"), folder, out)
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [(name, content)]


def test_no_more_workers_are_started_than_there_are_parts(screens, folder, tmp_path):
    source, ray = open_source(folder, screens("pca").detector.shape), MagicMock()
    ledger = Ledger(Folder(tmp_path / "out"), {}, source.pieces(25))
    options = Workers(workers=8), RowOptions(suffix=".csv"), MagicMock()
    _Driver(ray, screens("pca"), source, ledger, *options)._employ()
    assert ray.remote.return_value.options.return_value.remote.call_count == 2

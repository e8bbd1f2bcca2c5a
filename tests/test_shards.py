import gc
import gzip
import io
import tarfile
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from recondite.cluster.shards import Shard, count_images, cuts, is_shard, open_shard
from recondite.data.datasets import read_batches
from recondite.data.images import Preprocessing

EIGHT = Preprocessing(shape=(1, 8, 8))


@pytest.fixture
def files(digits):
    made = []
    for digit in digits[:20]:
        stream = io.BytesIO()
        Image.fromarray(digit).save(stream, format="PNG")
        made.append(stream.getvalue())
    return made


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return Shard(path.name, str(path))


def read(shard):
    """Return (ids, labels, errors, pixels) of a shard, read as a sweep reads it."""
    batches = list(read_batches(open_shard(shard), EIGHT, 7))
    names = [name for batch in batches for name in batch.ids]
    labels = [label for batch in batches for label in batch.labels]
    errors = [error for batch in batches for error in batch.errors]
    return names, labels, errors, np.concatenate([batch.pixels for batch in batches])


def test_a_tar_gives_its_images_with_labels_in_order(files, digits, tmp_path):
    members = [("readme.txt", b"words"), ("a/.cache/0.png", files[0]), ("a/._000.png", b"AppleDouble")]
    for index, content in enumerate(files):
        members += [(f"a/{index:03d}.png", content), (f"a/{index:03d}.cls", b"7\n"), (f"a/{index:03d}.json", b"{}")]
    shard = write_tar(tmp_path / "0.tar", members)
    names, labels, errors, pixels = read(shard)
    assert names == [f"0.tar/a/{index:03d}.png" for index in range(20)]
    assert labels == ["7"] * 20
    assert errors == [None] * 20
    np.testing.assert_array_equal(pixels[:, 0], digits[:20].astype(np.float32) / np.float32(255))
    assert read(Shard(shard.name, shard.url, 5, 9))[0] == names[5:9]
    assert count_images(shard) == 20
    assert cuts(shard, 5) == [(0, None)]


def test_headers_that_were_read_are_not_kept(files, tmp_path):
    shard = write_tar(tmp_path / "0.tar", [(f"{index:03d}.png", files[index % 20]) for index in range(200)])
    kept = [sum(isinstance(one, tarfile.TarInfo) for one in gc.get_objects()) for _ in islice(shard, 190, 200)]
    assert max(kept) < 10


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_a_link_in_a_tar_is_a_row_that_says_so(files, tmp_path, kind):
    shard = write_tar(tmp_path / "0.tar", [("1.png", files[0])])
    with tarfile.open(tmp_path / "0.tar", "a") as tar:
        for name in ("2.png", "2.cls", ".3.png"):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "1.png"
            tar.addfile(member)
    names, _, errors, _ = read(shard)
    assert names == ["0.tar/1.png", "0.tar/2.png"]
    assert errors[0] is None
    assert "a link in its place" in errors[1]


def test_compressed_tars_and_names_that_repeat(files, tmp_path):
    write_tar(tmp_path / "0.tar", [("1.png", files[0]), ("1.png", files[1])])
    (tmp_path / "0.tgz").write_bytes(gzip.compress((tmp_path / "0.tar").read_bytes()))
    assert read(Shard("0.tgz", str(tmp_path / "0.tgz")))[0] == ["0.tgz/1.png", "0.tgz/1.png#2"]


@pytest.mark.parametrize("damage", ["truncated", "no end", "header", "gzip", "empty", "text", "gone"])
def test_what_is_damaged_becomes_a_row_and_what_came_before_stays(files, tmp_path, damage):
    path = tmp_path / "0.tar"
    shard = write_tar(path, [(f"{index}.png", files[0]) for index in range(4)])
    content = bytearray(path.read_bytes())
    member = 512 + 512 * -(-len(files[0]) // 512)
    if damage == "truncated":
        path.write_bytes(content[: 2 * member + 600])
    elif damage == "no end":
        path.write_bytes(content[: 2 * member])
    elif damage == "header":
        content[2 * member : 2 * member + 512] = b"x" * 512
        path.write_bytes(content)
    elif damage == "gzip":
        compressed = gzip.compress(content)
        path.write_bytes(compressed[: len(compressed) // 2])
    elif damage in ("empty", "text"):
        path.write_bytes(b"" if damage == "empty" else b"words " * 200)
    else:
        path.unlink()
    names, _, errors, pixels = read(shard)
    assert errors[-1] is not None
    assert names[-1] == "0.tar"
    assert errors.count(None) == len(pixels)
    if damage in ("truncated", "no end", "header"):
        assert names[:2] == ["0.tar/0.png", "0.tar/1.png"]
        assert errors[:2] == [None, None]


@pytest.mark.parametrize("damage", ["checksum", "cut checksum", "zeros", "two tars"])
def test_a_tar_is_read_to_its_end_and_a_row_says_what_is_wrong_there(files, tmp_path, damage):
    path = tmp_path / "0.tar"
    shard = write_tar(path, [(f"{index}.png", files[0]) for index in range(4)])
    content = bytearray(path.read_bytes())
    member = 512 + 512 * -(-len(files[0]) // 512)
    if "checksum" in damage:
        compressed = bytearray(gzip.compress(content))
        compressed[-8] ^= 1
        path.write_bytes(compressed if damage == "checksum" else compressed[:-8])
    elif damage == "zeros":
        content[2 * member : 2 * member + 512] = bytes(512)
        path.write_bytes(content)
    else:
        path.write_bytes(content * 2)
    names, _, errors, _ = read(shard)
    assert names[-1] == "0.tar"
    assert "the tar is damaged" in errors[-1]
    assert errors[:-1] == [None] * (2 if damage == "zeros" else 4)


def test_a_tar_compressed_in_pieces_or_named_in_capitals_is_read_whole(files, tmp_path):
    write_tar(tmp_path / "0.TAR", [(f"{index}.png", files[0]) for index in range(9)])
    content = (tmp_path / "0.TAR").read_bytes()
    pieces = [gzip.compress(content[start : start + 4096]) for start in range(0, len(content), 4096)]
    (tmp_path / "0.tar.gz").write_bytes(b"".join(pieces))
    for name in ("0.TAR", "0.tar.gz"):
        assert read(Shard(name, str(tmp_path / name)))[2] == [None] * 9


def test_names_in_a_tar_that_are_no_text_become_ids_that_can_be_written(files, tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        member = tarfile.TarInfo("a\udcff.png")
        member.size = len(files[0])
        tar.addfile(member, io.BytesIO(files[0]))
    assert read(Shard("0.tar", str(tmp_path / "0.tar")))[0] == ["0.tar/a\\xff.png"]


def test_a_page_of_parquet_whose_checksum_is_wrong_is_damaged(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "0.parquet"
    table = pyarrow.table({"image": [bytes([value]) * 40 for value in (0x90, 0x91, 0x92)]})
    parquet.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[content.index(b"\x91" * 40) + 7] ^= 1
    path.write_bytes(content)
    reasons = [getattr(image, "reason", "") for _, image, _ in open_shard(Shard("0.parquet", str(path))).entries()]
    assert len(reasons) == 3
    assert all("the Parquet file is damaged" in reason for reason in reasons)


def test_bad_images_in_a_tar_are_rows_of_their_own(files, tmp_path):
    shard = write_tar(tmp_path / "0.tar", [("0.png", b""), ("1.png", b"text"), ("2.png", files[0])])
    names, _, errors, _ = read(shard)
    assert names == ["0.tar/0.png", "0.tar/1.png", "0.tar/2.png"]
    assert errors[0] == "the file is empty"
    assert "decoded" in errors[1]
    assert errors[2] is None


def test_parquet_gives_its_rows_and_is_cut_between_row_groups(files, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    contents = [*files[:10], None, b"text", *files[12:]]
    table = pyarrow.table(
        {"number": list(range(20)), "image": [{"bytes": one, "path": ""} for one in contents], "label": [3] * 20}
    )
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=6)
    shard = Shard("a.parquet", str(tmp_path / "a.parquet"))
    names, labels, errors, pixels = read(shard)
    assert names == [f"a.parquet#{index}" for index in range(20)]
    assert labels == ["3"] * 20
    assert [index for index, error in enumerate(errors) if error is not None] == [10, 11]
    assert cuts(shard, 10) == [(0, 12), (12, 20)]
    assert cuts(shard, 6) == [(0, 6), (6, 12), (12, 18), (18, 20)]
    part = read(Shard(shard.name, shard.url, 7, 17))
    assert part[0] == names[7:17]
    np.testing.assert_array_equal(part[3], pixels[7:15])


def test_damaged_parquet_loses_no_row(files, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(
        pyarrow.table({"image": files}), path, row_group_size=5, compression="none", use_dictionary=False
    )
    content = bytearray(path.read_bytes())
    offset = parquet.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    content[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(content)
    names, _, errors, pixels = read(Shard("a.parquet", str(path)))
    assert names == [f"a.parquet#{index}" for index in range(20)]
    assert errors[:10] == [None] * 10
    assert len(pixels) == errors.count(None)
    assert "damaged" in errors[10]
    assert errors[15:] == [None] * 5
    path.write_bytes(b"text")
    assert cuts(Shard("a.parquet", str(path)), 5) == [(0, None)]
    assert "Parquet" in read(Shard("a.parquet", str(path)))[2][0]
    parquet.write_table(pyarrow.table({"number": [1]}), path)
    assert "no column" in read(Shard("a.parquet", str(path)))[2][0]


def test_names_of_shards():
    assert [name for name in ("a.tar", "a.TAR.GZ", ".a.tar", ".a/b.tar", "a.png", "b/c.parquet") if is_shard(name)] == [
        *("a.tar", "a.TAR.GZ", "b/c.parquet")
    ]


@pytest.mark.parametrize("label", [float("nan"), None])
def test_a_number_that_is_missing_among_labels_is_none_and_makes_the_others_no_fractions(label, files, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"image": files[:3], "label": [1.0, label, 2.5]})
    parquet.write_table(table, tmp_path / "0.parquet")
    assert read(Shard("0.parquet", str(tmp_path / "0.parquet")))[1] == ["1", "", "2.5"]

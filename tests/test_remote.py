import logging
import os

import numpy as np
import pytest
from s3_server import s3_server, upload

from recondite.cluster.shards import Shard, open_shard
from recondite.data import remote as stores
from recondite.data.remote import is_url, list_files, open_stream, patiently
from recondite.errors import InputError, SourceError

pytest.importorskip("s3fs", reason="needs s3fs: pip install 'recondite[s3]'")
pytest.importorskip("moto", reason="needs moto, a local S3 server")
# Clients of S3 leave connections to the collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def server():
    with s3_server() as (faults, environment), pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield faults


@pytest.fixture
def bucket(server, folder, tmp_path):
    (folder / "odd" / "001.png").write_bytes(b"text")
    (folder / "even" / "000.png").write_bytes(b"")
    (folder / "odd" / "002.psd").write_bytes(b"8BPS")
    (folder / "notes.txt").write_bytes(b"text")
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "000.png").write_bytes(b"text")
    name = "bucket-" + tmp_path.name.replace("_", "-")[:40].strip("-")
    upload(folder, name)
    yield f"s3://{name}"
    server.share = 0.0


def test_a_bucket_is_judged_like_its_folder_though_requests_fail(bucket, server, screens, folder, monkeypatch, caplog):
    monkeypatch.setattr(stores, "_FIRST_PAUSE", 0.01)
    with caplog.at_level(logging.WARNING):
        expected = screens("pca").predict(folder)
    server.share = 0.3
    before = server.injected
    with caplog.at_level(logging.WARNING):
        verdicts = screens("pca").predict(bucket)
    assert server.injected > before
    assert verdicts.ids == expected.ids
    np.testing.assert_array_equal(verdicts.instance_score, expected.instance_score)
    assert verdicts.words == expected.words
    assert verdicts.errors[0] == "the file is empty"
    assert [error for error in verdicts.errors if error and "psd" in error]
    told = [text for text in caplog.messages if "not taken" in text]
    assert told == ["2 files were not taken for images (hidden 1, .txt 1)"] * 2


def test_a_store_that_never_answers_is_no_verdict(bucket, server, screens, monkeypatch):
    import s3fs

    monkeypatch.setattr(stores, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(stores, "ATTEMPTS", 2)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    listed = [file for _, file in list_files(bucket)]
    server.share = 1.0
    with pytest.raises(SourceError, match="cannot be read"):
        screens("pca").predict(listed[5:6])


def test_what_is_gone_is_a_bad_image(bucket):
    with pytest.raises(InputError, match="No such file"):
        stores.StoredFile(f"{bucket}/none.png", 10).fetch()
    with pytest.raises(InputError, match="nothing at"):
        list_files(f"{bucket}/none")


def test_a_tar_is_streamed_from_a_store_that_cuts_off(bucket, server, folder, tmp_path, monkeypatch):
    import s3fs
    from test_shards import write_tar

    monkeypatch.setattr(stores, "_FIRST_PAUSE", 0.01)
    files = [path.read_bytes() * 50 for path in sorted(folder.rglob("*.png"))]
    shard = write_tar(tmp_path / "0.tar", [(f"{index:02d}.png", content) for index, content in enumerate(files)])
    s3fs.S3FileSystem().put(shard.url, f"{bucket}/0.tar")
    server.share = 0.3
    assert list(open_shard(Shard("0.tar", f"{bucket}/0.tar")).entries()) == list(open_shard(shard).entries())
    with open_stream(f"{bucket}/0.tar") as stream:
        stream.seek(-1024, os.SEEK_END)
        assert stream.read() == bytes(1024)


def test_patience_has_an_end_and_grows(monkeypatch):
    pauses, calls = [], []
    monkeypatch.setattr(stores.time, "sleep", pauses.append)

    def failing():
        calls.append(1)
        raise OSError("slow down")

    with pytest.raises(SourceError, match="slow down"):
        patiently(failing, "s3://a/b")
    assert len(calls) == stores.ATTEMPTS
    assert pauses[-1] > 4 * pauses[0]


def test_addresses():
    assert is_url("s3://bucket/key")
    assert not is_url("C:/folder")
    with pytest.raises(InputError, match="nosuch"):
        list_files("nosuch://bucket")

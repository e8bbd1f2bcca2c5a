"""Batch jobs over HTTP: the rows of a sweep, hostile archives, restarts."""

import asyncio
import csv
import errno
import io
import os
import re
import shutil
import struct
import tarfile
import threading
import time
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from service import in_process, png

import recondite
from recondite.reports.report import write_report

pytest.importorskip("fastapi")
from recondite.errors import InputError, SourceError
from recondite.service.engine import job_sources, jobs
from recondite.service.engine.job_sources import open_archive, open_place
from recondite.service.engine.judging import Judge
from recondite.service.errors import TooLarge

JOBS = "/v1/jobs?screen=digits"
PNG = {"content-type": "image/png"}


def zipped(files, method=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(files, mode="w"):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def files(digit_files):
    return {f"part/{index:03d}.png": content for index, content in enumerate(digit_files[:40])}


def finished(client, job, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = client.get(f"/v1/jobs/{job}").json()
        if found["state"] in ("done", "failed"):
            return found
        time.sleep(0.02)
    raise AssertionError(found)


def rows_of(client, job):
    return list(csv.DictReader(io.StringIO(client.get(f"/v1/jobs/{job}/table.csv").text)))


def begin(client, path=JOBS, **request):
    answer = client.post(path, **request)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


@pytest.fixture
def client(digit_screen, tmp_path):
    with in_process(digit_screen, tmp_path, jobs=tmp_path / "jobs") as client:
        yield client


def _told(html):
    """Return the texts between the tags of a page."""
    return [text.strip() for text in re.findall(r">([^<>]+)<", html) if text.strip()]


@pytest.mark.parametrize("make", [zipped, pytest.param(tarred, marks=pytest.mark.slow)])
def test_a_job_has_the_rows_of_the_library(client, digit_screen, files, make, tmp_path):
    files |= {"part/bad.png": b"text", "notes.txt": b"no image", "../../climbs.png": files["part/000.png"]}
    job = begin(client, f"{JOBS}&alpha=0.2", content=make(files))
    found = finished(client, job)
    assert (found["state"], found["images"], found["judged"]) == ("done", 42, 42)
    images = {name: content for name, content in files.items() if name != "notes.txt"}
    expected = recondite.load(digit_screen).with_alpha(0.2).predict(list(images.values()))
    rows = rows_of(client, job)
    assert [row["id"] for row in rows] == list(images)
    scores = [float(row["instance_score"] or "nan") for row in rows]
    np.testing.assert_array_equal(scores, expected.instance_score)
    assert [row["verdict"] for row in rows] == expected.words
    assert found["counts"] == expected.counts()
    assert len(client.get("/v1/events?limit=100").json()["events"]) == 42
    assert not list(tmp_path.rglob("climbs*"))
    assert not list((tmp_path / "jobs").rglob("archive"))  # nothing was unpacked, and what was sent is gone
    report = client.get(f"/v1/jobs/{job}/report")
    assert report.headers["content-type"].startswith("text/html")
    named = replace(expected, ids=tuple(images))
    write_report(tmp_path / "expected.html", recondite.load(digit_screen).with_alpha(0.2), named)
    assert [row for row in _told(report.text) if row.isdigit()] == [
        row for row in _told((tmp_path / "expected.html").read_text()) if row.isdigit()
    ]
    assert "part/bad.png" in report.text
    assert client.get(f"/v1/jobs/{job}/report").content == report.content
    assert client.delete(f"/v1/jobs/{job}").status_code == 204
    assert client.get(f"/v1/jobs/{job}").status_code == 404
    assert client.get(f"/v1/jobs/{job}/report").status_code == 404
    assert list((tmp_path / "jobs").iterdir()) == []


def test_a_job_goes_on_after_a_restart_with_every_row_once(digit_screen, files, tmp_path, monkeypatch):
    judge, calls = Judge.judge, []

    async def stalling(self, served, sent, wish, request_id):
        calls.append(len(sent))
        if len(calls) == 2:
            await asyncio.sleep(3600)
        return await judge(self, served, sent, wish, request_id)

    with monkeypatch.context() as patch:
        patch.setattr(Judge, "judge", stalling)
        with in_process(digit_screen, tmp_path, jobs=tmp_path / "jobs") as client:
            job = begin(client, content=zipped(files))
            later = begin(client, content=zipped({"a.png": files["part/000.png"]}))
            while len(calls) < 2:
                time.sleep(0.02)
            assert client.get(f"/v1/jobs/{job}").json()["judged"] == 16
            assert len(rows_of(client, job)) == 16
            assert client.get(f"/v1/jobs/{later}").json()["state"] == "waiting"
    (tmp_path / "jobs" / ("0" * 32)).mkdir()  # a body that was being received
    (tmp_path / "jobs" / "mine").mkdir()
    with in_process(digit_screen, tmp_path, jobs=tmp_path / "jobs") as client:
        assert finished(client, job)["judged"] == 40
        assert [row["id"] for row in rows_of(client, job)] == list(files)
        assert finished(client, later)["state"] == "done"
        assert [one["id"] for one in client.get("/v1/jobs").json()] == [later, job]
    assert not (tmp_path / "jobs" / ("0" * 32)).exists()
    assert (tmp_path / "jobs" / "mine").is_dir()


def test_places_are_judged_only_where_they_are_allowed(digit_screen, folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes((folder / "even" / "000.png").read_bytes())
    (folder / "odd" / "link.png").symlink_to(outside / "secret.png")
    settings = {"jobs": tmp_path / "jobs", "job_places": [str(folder)]}
    with in_process(digit_screen, tmp_path, **settings) as client:
        job = begin(client, f"{JOBS}&place={folder}/odd")
        assert finished(client, job)["counts"]["invalid"] == 1
        (bad,) = [row for row in rows_of(client, job) if row["verdict"] == "invalid"]
        assert bad["id"] == "link.png"
        assert "may not read" in bad["error"]
        for place in (outside, f"{folder}/../outside", "/etc", "s3://bucket/x", f"file://{outside}"):
            answer = client.post(f"{JOBS}&place={place}")
            assert answer.status_code == 422, place
            assert "not among those" in answer.json()["error"]["message"]


def test_places_in_stores_cannot_be_climbed_out_of(folder):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/allowed/a.png", (folder / "even" / "000.png").read_bytes())
    memory.pipe("/allowed-not/a.png", b"x")
    assert open_place("memory://allowed", ["memory://allowed/"]).read(0, 10_000).startswith(b"\x89PNG")
    for place in ("memory://allowed-not", "memory://allowed/../allowed-not", "memory://other", "allowed"):
        with pytest.raises(InputError, match="not among those"):
            open_place(place, ["memory://allowed"])


def test_a_zip_bomb_costs_one_row_and_little_memory(tmp_path):
    path = tmp_path / "bomb.zip"
    path.write_bytes(zipped({"bomb.png": bytes(200 << 20), "small.png": b"x" * 100}))
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    source = open_archive(path)
    with pytest.raises(InputError, match="the limit is 1,000,000"):
        source.read(0, 1_000_000)
    assert source.read(1, 1_000_000) == b"x" * 100
    # The same, with a directory that lies about the size: only as much as it says is unpacked.
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 24 : place + 28] = struct.pack("<I", 1000)
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        open_archive(path).read(0, 1_000_000)
    content[place + 20 : place + 24] = struct.pack("<I", 1 << 31)
    path.write_bytes(content)
    with pytest.raises(InputError, match="the limit is"):
        open_archive(path).read(0, 1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


def test_archives_that_are_too_much_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "archive"
    monkeypatch.setattr(job_sources, "MOST_IMAGES", 10)
    many = {f"{index}.png": b"x" for index in range(30)}
    for content, words in (
        (zipped(many), "at most 10 images"),
        (tarred(many), "at most 10 images"),
        (tarred({"a.png": b"x"}, "w:gz"), "not compressed"),
        (b"", "expected a ZIP"),
        (b"PK\x03\x04" + bytes(600), "cannot be read"),
        (zipped({"a.txt": b"x"}), "no images"),
        (zipped({}), "no images"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=words):
            open_archive(path)
    long_name = tarfile.TarInfo("x")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    path.write_bytes(long_name.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(InputError, match="header is too large"):
        open_archive(path)
    monkeypatch.setattr(job_sources, "_LARGEST_DIRECTORY", 100)
    path.write_bytes(zipped(many))
    with pytest.raises(InputError, match="at most 10 images"):
        open_archive(path)
    monkeypatch.setattr(job_sources, "_MOST_EXPANSION", 5)
    path.write_bytes(zipped({"a.png": b"x" * 10}))
    with pytest.raises(InputError, match="unpacked"):
        open_archive(path)


def test_a_link_in_a_tar_leads_to_an_image_in_it_or_nowhere_and_a_device_is_no_image(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
        for name, kind, place in (
            *(("passwd.png", tarfile.SYMTYPE, "/etc/passwd"), ("root.png", tarfile.LNKTYPE, "/etc/passwd")),
            *(("symbolic.png", tarfile.SYMTYPE, "a.png"), ("hard.png", tarfile.LNKTYPE, "a.png")),
            *(("device.png", tarfile.CHRTYPE, ""), ("pipe.png", tarfile.FIFOTYPE, "")),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, place
            archive.addfile(member)
    (tmp_path / "a.tar").write_bytes(stream.getvalue())
    source = open_archive(tmp_path / "a.tar")
    assert list(source.names) == ["a.png", "passwd.png", "root.png", "symbolic.png", "hard.png"]
    assert source.read(0, 10) == source.read(4, 10) == b"abc"
    for index in (1, 2, 3):
        with pytest.raises(InputError, match="a link in its place"):
            source.read(index, 10)


@pytest.mark.parametrize("damage", [b"x" * 512, bytes(512)])
def test_a_tar_with_a_damaged_header_is_refused_and_not_cut_short(tmp_path, damage):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for index in range(4):
            member = tarfile.TarInfo(f"{index}.png")
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
    content = bytearray(stream.getvalue())
    content[2048:2560] = damage
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(InputError, match="the archive cannot be read"):
        open_archive(tmp_path / "a.tar")


def test_what_a_job_is_refused_for(digit_screen, files, tmp_path):
    with in_process(digit_screen, tmp_path, jobs=tmp_path / "jobs", job_bytes=1000) as client:
        for path, content, status in (
            (JOBS, zipped(files), 413),
            (JOBS, b"text", 422),
            ("/v1/jobs?screen=other", zipped({}), 404),
            ("/v1/jobs", b"", 422),
            (f"{JOBS}&alpha=1e-9", zipped({"a.png": b"x"}), 422),
            (f"{JOBS}&group=left", zipped({"a.png": b"x"}), 422),
            (f"{JOBS}&colour=red", zipped({"a.png": b"x"}), 422),
        ):
            answer = client.post(path, content=content)
            assert answer.status_code == status, answer.text
            assert answer.json()["error"]["message"]
        assert list((tmp_path / "jobs").iterdir()) == []
        assert client.get("/v1/jobs").json() == []
    with in_process(digit_screen, tmp_path) as client:
        assert "--jobs" in client.post(JOBS, content=zipped(files)).json()["error"]["message"]


def test_what_is_too_much_at_once_is_judged_one_by_one(client, files, monkeypatch):
    judge = Judge.judge

    async def narrow(self, served, sent, wish, request_id):
        if len(sent) > 1 or len(sent[0].content) > 1000:
            raise TooLarge("too much")
        return await judge(self, served, sent, wish, request_id)

    monkeypatch.setattr(Judge, "judge", narrow)
    job = begin(client, content=zipped({"big.png": os.urandom(2000), **dict(list(files.items())[:3])}))
    assert finished(client, job)["judged"] == 4
    rows = rows_of(client, job)
    assert [row["verdict"] == "invalid" for row in rows] == [True, False, False, False]
    assert rows[0]["error"] == "too much"


def test_requests_pass_between_the_images_of_a_job(client, digit_files, files):
    job = begin(client, content=zipped({f"{index}/{name}": c for index in range(10) for name, c in files.items()}))
    answers = []

    def ask():
        kind = {"content-type": "image/png"}
        path = "/v1/screens/digits/predict"
        answers.extend(client.post(path, content=content, headers=kind) for content in digit_files[:5])

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join()
    assert [answer.status_code for answer in answers] == [200] * 5
    assert finished(client, job)["judged"] == 400


def test_an_archive_and_a_place_are_not_both_taken_and_a_place_has_no_nul(digit_screen, folder, tmp_path):
    settings = {"jobs": tmp_path / "jobs", "job_places": [str(folder)]}
    with in_process(digit_screen, tmp_path, **settings) as client:
        both = client.post("/v1/jobs", params={"screen": "digits", "place": str(folder)}, content=b"PK")
        assert both.status_code == 422
        assert "got both" in both.json()["error"]["message"]
        for place in (f"{folder}\0/x", f"file://{folder}%00/x"):
            nul = client.post("/v1/jobs", params={"screen": "digits", "place": place})
            assert nul.status_code == 422
            assert "NUL" in nul.json()["error"]["message"]
        assert client.get("/v1/jobs").json() == []


def no_room(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_ends_a_job_in_words_and_none_after_it(client, files, tmp_path, monkeypatch):
    write = jobs._write
    with monkeypatch.context() as full:
        full.setattr(jobs.GrowingTable, "add", no_room)
        full.setattr(jobs, "_write", lambda path, job: no_room() if job.state == "failed" else write(path, job))
        job = begin(client, content=zipped(files))
        found = finished(client, job)
        assert (found["state"], found["error"]) == (
            "failed",
            "the files of the service cannot be used: No space left on device",
        )
        assert (tmp_path / "jobs" / job / "archive").is_file(), "a restart goes on with it"
    assert finished(client, begin(client, content=zipped(files)))["state"] == "done"


def test_a_job_that_is_deleted_as_it_ends_does_not_come_back(client, files, tmp_path, monkeypatch):
    write, deleted = jobs._write, threading.Event()

    def later(path, job):
        if job.state == "done" and not deleted.is_set():
            assert client.delete(f"/v1/jobs/{job.id}").status_code == 204
            write(path, job)
            deleted.set()
        else:
            write(path, job)

    monkeypatch.setattr(jobs, "_write", later)
    job = begin(client, content=zipped(files))
    assert deleted.wait(60)
    assert finished(client, begin(client, content=zipped(files)))["state"] == "done"
    assert not (tmp_path / "jobs" / job).exists()


def test_a_job_that_cannot_be_removed_stays_and_says_so(client, files, monkeypatch):
    job = begin(client, content=zipped(files))
    finished(client, job)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", read_only)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        answer = client.delete(f"/v1/jobs/{job}")
    assert answer.status_code == 503
    assert "Read-only file system" in answer.json()["error"]["message"]
    assert client.get(f"/v1/jobs/{job}").status_code == 200, "a restart would find it again"
    assert client.delete(f"/v1/jobs/{job}").status_code == 204


def read_only(*_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_a_job_judges_each_image_by_the_calibration_of_its_folder_as_the_library_does(digits, tmp_path):
    sides = [("left", digits[:300]), ("right", digits[300:600])]
    for side, some in sides:
        (tmp_path / "good" / side).mkdir(parents=True)
        for place, image in enumerate(some):
            (tmp_path / "good" / side / f"{place:03d}.png").write_bytes(png(image))
    fitted = recondite.fit(tmp_path / "good", detector="pca", latent_size=8, by_folder=True, alpha=0.1, evidence=0.0)
    fitted.save(tmp_path / "digits")
    files = {f"{side}/{place}.png": png(image) for side, some in sides for place, image in enumerate(some[:20])}
    for name, content in files.items():
        (tmp_path / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "new" / name).write_bytes(content)
    expected = dict(zip(files, _rows(fitted, tmp_path / "new", files), strict=True))
    with in_process(tmp_path / "digits", tmp_path, jobs=tmp_path / "jobs") as client:
        for above in ("", "parts/today/"):  # an archive may be made some folders above
            job = begin(client, content=zipped({above + name: content for name, content in files.items()}))
            assert finished(client, job)["counts"]["invalid"] == 0
            found = {row["id"].removeprefix(above): row for row in rows_of(client, job)}
            assert {name: (float(row["p_value"]), row["verdict"]) for name, row in found.items()} == expected
        assert {one["group"] for one in client.get("/v1/events").json()["events"]} == {"left", "right"}
        (other,) = rows_of(client, _done(client, zipped({"top/a.png": files["left/0.png"]})))
        assert other["error"].startswith("no calibration for group 'top'; there are: ['left', 'right']")
        refused = [
            client.post(f"{JOBS}&group=top", content=zipped(files)),
            client.post("/v1/screens/digits/predict?group=top", content=files["left/0.png"], headers=PNG),
        ]
        assert [answer.status_code for answer in refused] == [422, 422]
        for answer in refused:
            assert "no calibration for group 'top'; there are: ['left', 'right']" in answer.json()["error"]["message"]


def _done(client, archive):
    job = begin(client, content=archive)
    finished(client, job)
    return job


def _rows(screen, folder, names):
    verdicts = screen.predict(folder)
    rows = zip(verdicts.ids, verdicts.p_value.tolist(), verdicts.words, strict=True)
    found = {name: (p_value, word) for name, p_value, word in rows}
    return [found[name] for name in names]


def test_what_cannot_be_received_is_told_in_words(client, files, tmp_path):
    shutil.rmtree(tmp_path / "jobs")
    (tmp_path / "jobs").write_text("a file")
    answer = client.post(JOBS, content=zipped(files))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert answer.json()["error"]["message"] == "the files of the service cannot be used: Not a directory"


def test_a_store_that_fails_makes_no_image_invalid(digit_screen, digit_files, tmp_path, monkeypatch):
    failures = iter([SourceError("s3://parts/1.png cannot be read"), None, *[SourceError("the store is gone")] * 3])

    class Store:
        names = ("0.png", "1.png")

        def read(self, index, _most):
            error = next(failures) if index == 1 else None
            if error is not None:
                raise error
            return digit_files[index]

    monkeypatch.setattr(jobs, "_LONGEST_PAUSE", 0.0)
    monkeypatch.setattr(jobs, "open_place", lambda *_: Store())
    with in_process(digit_screen, tmp_path, jobs=tmp_path / "jobs") as client:
        done = finished(client, begin(client, f"{JOBS}&place=s3://parts"))
        assert (done["state"], done["judged"], done["counts"]["invalid"]) == ("done", 2, 0)
        failed = finished(client, begin(client, f"{JOBS}&place=s3://parts"))
        assert (failed["state"], failed["error"], failed["judged"]) == ("failed", "the store is gone", 0)

        def gone(*_):
            raise SourceError("s3://parts cannot be listed")

        monkeypatch.setattr(jobs, "open_place", gone)
        answer = client.post(f"{JOBS}&place=s3://parts")
        assert (answer.status_code, answer.json()["error"]["message"]) == (503, "s3://parts cannot be listed")

"""A verdict is answered 200 only where it is written down, and /readyz says whether it can be."""

import shutil
import sqlite3
import threading
import time
from collections import namedtuple

import pytest
import sqlalchemy as sql
from service import in_process

from recondite.service.engine import database, image_store, judging, store
from recondite.service.engine.database import engine_of, lack_of_room

PREDICT = "/v1/screens/digits/predict"
PNG = {"content-type": "image/png"}


@pytest.fixture(autouse=True)
def tried_at_once(monkeypatch):
    """What is tried at most every two seconds is tried whenever it is asked for."""
    monkeypatch.setattr(store, "_PROBE_SECONDS", 0.0)
    monkeypatch.setattr(image_store, "_TRY_SECONDS", 0.0)


@pytest.fixture
def client(digit_screen, tmp_path):
    with in_process(digit_screen, tmp_path) as client:
        assert trouble(client) == []
        yield client


def trouble(client):
    answer = client.get("/readyz")
    assert answer.status_code == (503 if answer.json()["trouble"] else 200)
    assert client.get("/healthz").status_code == 200
    return answer.json()["trouble"]


def judged(client, file, **query):
    return client.post(PREDICT, params=query, content=file, headers=PNG)


def refused(client, file, **query):
    answer = judged(client, file, **query)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable"), answer.text
    assert int(answer.headers["retry-after"]) >= 1
    return answer.json()["error"]["message"]


def written(path):
    link = sqlite3.connect(path)
    found = [row[0] for row in link.execute("SELECT id FROM events ORDER BY number")]
    link.close()
    return found


def ids(*answers):
    return [answer.json()["verdicts"][0]["event"] for answer in answers]


def test_trying_leaves_nothing_behind(client, tmp_path, digit_files):
    for _ in range(3):
        assert trouble(client) == []
    assert client.get("/v1/events").json()["events"] == []
    answer = judged(client, digit_files[0])
    assert client.get("/v1/events").json()["events"][0]["number"] == 1
    assert written(tmp_path / "events.db") == ids(answer)


def test_it_is_tried_once_for_all_who_ask_soon(client, monkeypatch):
    tries = []
    monkeypatch.setattr(store, "_PROBE_SECONDS", 1000.0)
    monkeypatch.setattr(store, "write_and_take_back", tries.append)
    client.app.state.service.store._probe = None
    for _ in range(5):
        assert trouble(client) == []
    assert len(tries) == 1


@pytest.mark.parametrize("end", ["", "-wal"])
def test_a_store_that_was_deleted(client, tmp_path, digit_files, end):
    first = judged(client, digit_files[0])
    (tmp_path / f"events.db{end}").unlink()
    if end:  # what was open is written back
        second = judged(client, digit_files[1])
        assert second.status_code == 200
        assert written(tmp_path / "events.db") == ids(first, second)
        return
    assert "gone" in refused(client, digit_files[1])
    assert any("gone" in one for one in trouble(client))
    assert not (tmp_path / "events.db").exists()


def test_a_store_that_was_deleted_while_it_was_written(client, tmp_path, digit_files, monkeypatch):
    write = sql.engine.Connection.execute

    def execute(link, statement, *rest):
        if isinstance(statement, sql.Insert):
            (tmp_path / "events.db").unlink(missing_ok=True)
        return write(link, statement, *rest)

    monkeypatch.setattr(sql.engine.Connection, "execute", execute)
    assert "recorded" in refused(client, digit_files[0])


def test_another_store_in_its_place_is_taken_up(client, tmp_path, digit_files):
    judged(client, digit_files[0])
    link = sqlite3.connect(tmp_path / "events.db")
    copy = sqlite3.connect(tmp_path / "copy.db")
    link.backup(copy)
    link.close()
    copy.close()
    for end in ("", "-wal", "-shm"):
        (tmp_path / f"events.db{end}").unlink()
    assert trouble(client)
    (tmp_path / "copy.db").rename(tmp_path / "events.db")
    assert trouble(client) == []
    answer = judged(client, digit_files[1])
    assert written(tmp_path / "events.db")[1:] == ids(answer)


@pytest.mark.parametrize("table", ["events", "labels", "monitors"])
def test_a_table_that_was_dropped(client, tmp_path, digit_files, table):
    link = sqlite3.connect(tmp_path / "events.db")
    link.execute(f"DROP TABLE {table}")
    link.close()
    assert any(table in one for one in trouble(client))
    if table == "events":
        assert "events" in refused(client, digit_files[0])


def test_a_store_that_another_process_has_locked(client, tmp_path, digit_files, monkeypatch):
    monkeypatch.setattr(store, "_PATIENCE", 0.2)
    link = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
    link.execute("BEGIN EXCLUSIVE")
    assert any("within" in one for one in trouble(client))
    assert "no verdict within" in refused(client, digit_files[0], seconds=0.2)
    link.execute("ROLLBACK")
    monkeypatch.undo()
    link.close()
    end = time.monotonic() + 60
    while trouble(client) and time.monotonic() < end:
        time.sleep(0.01)
    assert judged(client, digit_files[1]).status_code == 200


def test_a_store_that_is_full(client, digit_files):
    engine = client.app.state.service.store.engine

    def full(link, _):
        link.execute("PRAGMA max_page_count=1")

    sql.event.listen(engine, "connect", full)
    engine.dispose()
    answers = [judged(client, digit_files[0])]
    while not trouble(client):
        answers.append(judged(client, digit_files[0]))
    assert {answer.status_code for answer in answers} == {200}
    assert "full" in trouble(client)[0]
    sent = 0
    while judged(client, digit_files[1]).status_code == 200:
        sent += 1
    assert "full" in refused(client, digit_files[1])
    assert trouble(client)
    sql.event.remove(engine, "connect", full)
    engine.dispose()
    assert trouble(client) == []
    assert len(client.get("/v1/events", params={"limit": 1000}).json()["events"]) == len(answers) + sent


def test_a_disk_that_is_full(client, monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(database.shutil, "disk_usage", lambda _: usage(1 << 40, 1 << 40, 1000))
    assert any("is full" in one for one in trouble(client))
    assert "0.0 MB are left" in lack_of_room(tmp_path / "not" / "there")
    monkeypatch.undo()
    assert trouble(client) == []


def test_an_image_that_cannot_be_kept(digit_screen, tmp_path, digit_files):
    with in_process(digit_screen, tmp_path, keep="all") as client:
        assert judged(client, digit_files[0]).status_code == 200
        assert trouble(client) == []
        shutil.rmtree(tmp_path / "kept")
        (tmp_path / "kept").write_text("a file")
        assert "could not be kept" in refused(client, digit_files[1])
        assert str(tmp_path) not in refused(client, digit_files[1])
        assert any("images cannot be kept" in one for one in trouble(client))
        assert judged(client, digit_files[1], keep=False).status_code == 200
        (tmp_path / "kept").unlink()
        assert trouble(client) == []
        assert judged(client, digit_files[2]).status_code == 200
        assert len(client.get("/v1/events").json()["events"]) == 3


def test_one_write_that_is_wrong_fails_alone(client, digit_files):
    service, free = client.app.state.service, threading.Event()
    event = judged(client, digit_files[0]).json()["verdicts"][0]["event"]
    told = {}
    row = dict(client.get(f"/v1/events/{event}").json())
    row.pop("label"), row.pop("number")
    fresh = store.Event(**{**row, "id": "f" * 32})
    service.store.put([], lambda _: free.wait(60))
    service.store.put([store.Event(**row)], lambda refusal: told.update(twice=refusal))
    service.store.put([fresh], lambda refusal: told.update(fresh=refusal))
    free.set()
    assert judged(client, digit_files[1]).status_code == 200
    assert (told["fresh"], "UNIQUE" in str(told["twice"])) == (None, True)
    assert trouble(client) == []


def test_a_clock_that_jumps(client, digit_files, monkeypatch):
    answers = []
    for now in (2e9, 1e9, 1.5e9):
        monkeypatch.setattr(judging.time, "time", lambda now=now: now)
        answers.append(judged(client, digit_files[0]))
        assert trouble(client) == []
    rows = client.get("/v1/events").json()["events"]
    assert [row["id"] for row in rows] == ids(*answers)[::-1]
    assert [row["time"] for row in rows] == [1.5e9, 1e9, 2e9]


def test_without_its_file_a_store_is_not_made_anew(tmp_path):
    engine = engine_of(f"sqlite:///{tmp_path / 'events.db'}")
    with engine.begin() as link:
        link.exec_driver_sql("CREATE TABLE x (y)")
    files = database.DatabaseFiles(engine)
    engine.dispose()
    (tmp_path / "events.db").unlink()
    with pytest.raises(sql.exc.OperationalError, match="gone"), engine.connect():
        pass
    assert files.path == tmp_path / "events.db"
    assert list(tmp_path.iterdir()) == []


def test_in_postgres_it_is_tried_too(postgres, digit_screen, tmp_path, digit_files):
    with in_process(digit_screen, tmp_path, store=postgres) as client:
        assert trouble(client) == []
        newest = client.get("/v1/events", params={"limit": 1}).json()["events"]
        assert judged(client, digit_files[0]).status_code == 200
        assert client.get("/v1/events", params={"limit": 1}).json()["events"] != newest
        engine = engine_of(postgres)
        for there, away in (("labels", "hidden"), ("hidden", "labels")):
            with engine.begin() as link:
                link.exec_driver_sql(f"ALTER TABLE {there} RENAME TO {away}")
            assert any("labels" in one for one in trouble(client)) == (there == "labels")
        engine.dispose()

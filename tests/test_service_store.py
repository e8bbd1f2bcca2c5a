"""Events and labels, in SQLite and in a real Postgres; kept images."""

import asyncio
import hashlib
import os
import signal
import sqlite3
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from service import in_process

pytest.importorskip("sqlalchemy")

from recondite.cli import main
from recondite.data.tables import READERS, read_events
from recondite.errors import InputError
from recondite.service.engine.database import LABELS
from recondite.service.engine.feedback import register, write_confirmed
from recondite.service.engine.filters import Filter
from recondite.service.engine.image_store import KeptImages
from recondite.service.engine.labelling import copies_of, label_together
from recondite.service.engine.store import Event, Store, read_store
from recondite.service.errors import Unavailable, Unknown


@pytest.fixture
def postgres_processes(postgres):
    """Stops every process of that server while the block runs."""
    root = postgres.partition("host=")[2]
    master = int((Path(root) / "data" / "postmaster.pid").read_text().split()[0])

    @contextmanager
    def held():
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        processes = [master, *map(int, children)]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield processes
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)

    return held


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    return f"sqlite:///{tmp_path / 'events.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres")


@pytest.fixture
def screen_name(request):
    """A name of its own for each test: they share one Postgres."""
    return hashlib.sha256(request.node.name.encode()).hexdigest()[:20]


def event(number, screen, **changes):
    facts = {
        "id": hashlib.md5(f"{screen}{number}".encode()).hexdigest(),
        "time": 1.7e9 + number,
        "request_id": "r",
        "screen": screen,
        "version": "1",
        "name": f"\U0001f600 {number}",
        "group": "",
        "sha256": f"{number:064x}",
        "kept": False,
        "verdict": "inlier",
        "instance_score": 0.1 + number,
        "p_value": 1 / 3,
        "threshold": 2.5,
        "alpha": 0.05,
        "error": None,
        "statistics": {"brightness": 1e-300},
    }
    return Event(**facts | changes)


def with_store(url, work):
    async def run():
        store = Store(url)
        try:
            return await work(store)
        finally:
            store.close()

    return asyncio.run(run())


def test_events_come_back_to_the_last_bit_after_reopening(url, screen_name):
    sent = [event(n, screen_name) for n in range(3)]
    sent.append(event(3, screen_name, verdict="invalid", instance_score=None, p_value=None, error="no picture"))
    with_store(url, lambda store: store.add(sent))
    rows = with_store(url, lambda store: store.rows(Filter(screen=screen_name)))
    assert [Event(**{name: row[name] for name in Event.__dataclass_fields__}) for row in reversed(rows)] == sent
    assert [row["label"] for row in rows] == [None] * 4


def test_filters_pages_and_counts(url, screen_name):
    words = ["inlier", "outlier", "invalid", "inlier", "outlier"]

    async def work(store):
        await store.add([event(n, screen_name, verdict=word) for n, word in enumerate(words)])
        await store.label(event(1, screen_name).id, "inlier")
        await store.label(event(1, screen_name).id, "outlier")

        async def names(**chosen):
            rows = await store.rows(Filter(screen=screen_name, **chosen))
            return [int(row["name"].split()[1]) for row in rows]

        assert await names() == [4, 3, 2, 1, 0]
        assert await names(verdict="flagged") == [4, 2, 1]
        assert await names(verdict="invalid") == [2]
        assert await names(label="none", verdict="flagged") == [4, 2]
        assert await names(label="outlier") == [1]
        assert await names(label="inlier") == []
        rows = await store.rows(Filter(screen=screen_name), limit=2)
        assert await names(before=rows[-1]["number"]) == [2, 1, 0]
        assert await names(after=rows[-1]["number"]) == [4]
        walked = [row["name"] async for row in store.walk(Filter(screen=screen_name, verdict="outlier"))]
        assert [int(name.split()[1]) for name in walked] == [1, 4]
        counts = await store.counts(screen_name)
        assert counts == {"events": 5, "inlier": 2, "outlier": 2, "invalid": 1, "queue": 2}

    with_store(url, work)


def test_of_two_reviewers_at_once_one_labels_each_event(url, screen_name):
    ids = [event(n, screen_name).id for n in range(20)]

    async def work(store):
        await store.add([event(n, screen_name, sha256=f"{n // 2:064x}") for n in range(20)])
        await store.label(ids[0], "skip")
        seen = dict.fromkeys(ids)
        both = await asyncio.gather(
            *(
                label_together(store, word, order)
                for word in ("inlier", "outlier")
                for order in (seen, dict(reversed(seen.items())))
            )
        )
        assert both[0][ids[0]] == "skip", "said before, and not seen by them"
        chosen = Filter(screen=screen_name)
        copies = await copies_of(store, chosen, [f"{0:064x}", f"{1:064x}"])
        assert list(copies[f"{0:064x}"]) == ids[:2]
        given = {one: label for some in copies.values() for one, label in some.items()}
        assert given[ids[0]] == "skip"
        (won,) = {label for one, label in given.items() if one != ids[0]}
        counts = await store.count(Filter(screen=screen_name, label=won))
        assert counts == 19
        with store.engine.connect() as link:
            written = link.execute(LABELS.select().where(LABELS.c.event.in_(ids))).fetchall()
        assert len(written) == 20, "one label an event, but for the first"
        now = await label_together(store, "none", {ids[1]: won, ids[2]: "skip", "0" * 32: None})
        assert now == {ids[1]: None, ids[2]: won}
        assert list((await copies_of(store, Filter(screen=screen_name, label="none"), [f"{0:064x}"])).values()) == [
            {ids[1]: None}
        ]

    with_store(url, work)


def test_labels_attach_to_events_that_exist(url, screen_name):
    async def work(store):
        await store.add([event(0, screen_name)])
        await store.label(event(0, screen_name).id, "skip", "out of focus")
        assert (await store.get(event(0, screen_name).id))["label"] == "skip"
        with pytest.raises(Unknown, match="no event"):
            await store.label("0" * 32, "inlier")

    with_store(url, work)


def test_what_postgres_cannot_hold_is_wrong_input_and_no_trouble_of_the_store(postgres, screen_name):
    async def work(store):
        await store.add([event(0, screen_name)])
        with pytest.raises(InputError, match=r"the store cannot hold that: .*NUL"):
            await store.label(event(0, screen_name).id, "outlier", "a\0b")
        with pytest.raises(InputError, match="the store cannot hold that"):
            await store.rows(Filter(screen="a\0b"))
        await store.ping()
        return await store.get(event(0, screen_name).id)

    assert with_store(postgres, work)["label"] is None


def test_many_writers_at_once(url, screen_name):
    async def work(store):
        await asyncio.gather(*(store.add([event(n, screen_name)]) for n in range(300)))
        assert (await store.counts(screen_name))["events"] == 300

    with_store(url, work)


def test_walking_reads_in_parts(url, screen_name):
    async def work(store):
        await store.add([event(n, screen_name) for n in range(2500)])
        walked = [row["number"] async for row in store.walk(Filter(screen=screen_name))]
        assert len(walked) == 2500
        assert walked == sorted(walked)

    with_store(url, work)


def test_a_write_that_fails_is_told_and_leaves_nothing(url, screen_name):
    async def work(store):
        await store.add([event(0, screen_name)])
        with pytest.raises(Unavailable, match="recorded"):
            await store.add([event(1, screen_name), event(0, screen_name)])
        assert (await store.counts(screen_name))["events"] == 1
        await store.add([event(2, screen_name)])
        await store.ping()

    with_store(url, work)


def test_sqlite_is_set_up_to_survive(tmp_path):
    path = tmp_path / "events.db"
    with_store(f"sqlite:///{path}", lambda store: store.add([event(0, "s")]))
    link = sqlite3.connect(path)
    assert link.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    link.close()
    for asked, level in (("", 1), ("?synchronous=full", 2)):

        async def work(store, level=level):
            with store.engine.connect() as link:
                assert link.exec_driver_sql("PRAGMA synchronous").scalar_one() == level

        with_store(f"sqlite:///{path}{asked}", work)
    with pytest.raises(InputError, match="normal or full"):
        Store(f"sqlite:///{path}?synchronous=off")


@pytest.mark.parametrize(
    "url",
    [
        *("nonsense", "mysql://u:secret@x/y", "sqlite://", "sqlite:///:memory:", "sqlite:////no/such/f.db"),
        *("postgres//u:secret@host/db", "postgresql://u:secret@host:xx/db", "postgresql://u:x@secret@host/db"),
    ],
)
def test_a_store_that_cannot_be_is_an_input_error(url):
    for opened in (Store, lambda url: next(read_store(url))):
        with pytest.raises(InputError) as told:
            opened(url)
        assert "secret" not in str(told.value)


def test_an_unreachable_postgres_does_not_tell_the_password():
    pytest.importorskip("psycopg")
    with pytest.raises(InputError) as told:
        Store("postgresql://user:secret@127.0.0.1:1/db")
    assert "secret" not in str(told.value)


def test_kept_images_are_named_by_content_and_limited(tmp_path):
    kept = KeptImages(tmp_path / "kept", limit=1000)
    contents = [bytes([n]) * 100 for n in range(15)]
    for n, content in enumerate(contents):
        kept.add(hashlib.sha256(content).hexdigest(), content)
        path = next((tmp_path / "kept").rglob(hashlib.sha256(content).hexdigest()))
        os.utime(path, (n, n))
    total = sum(path.stat().st_size for path in (tmp_path / "kept").rglob("*") if path.is_file())
    assert total <= 1000
    assert kept.get(hashlib.sha256(contents[-1]).hexdigest()) == contents[-1]
    assert kept.get(hashlib.sha256(contents[0]).hexdigest()) is None
    for wrong in ("../../etc/passwd", "", "A" * 64):
        assert kept.get(wrong) is None


def test_kept_images_go_when_they_are_old(tmp_path):
    kept = KeptImages(tmp_path, 1000, days=2)
    names = [f"{n:064x}" for n in range(3)]
    for name in names:
        kept.add(name, b"x")
    old = time.time() - 2.1 * 86400
    for name in names[:2]:
        os.utime(tmp_path / name[:2] / name, (old, old))
    kept.add(names[0], b"x")  # it came again
    assert kept.expire() == 1
    assert [kept.get(name) for name in names] == [b"x", None, b"x"]
    assert KeptImages(tmp_path, 1000).expire() == 0


def test_a_store_is_read_as_a_table_of_events(url, screen_name, tmp_path):
    register()

    async def work(store):
        await store.add([event(n, screen_name, version=str(n % 2)) for n in range(5)])
        await store.label(event(2, screen_name).id, "inlier")

    with_store(url, work)
    joint = "&" if "?" in url else "?"
    rows = list(read_events(f"{url}{joint}screen={screen_name}"))
    assert [row["id"] for row in rows] == [f"{n:064x}" for n in range(5)]
    assert [row["label"] for row in rows] == [None, None, "inlier", None, None]
    assert rows[3]["instance_score"] == 3.1
    assert rows[3]["statistic.brightness"] == 1e-300
    assert len(list(read_events(f"{url}{joint}screen={screen_name}&version=1"))) == 2
    READERS.pop(url.partition("://")[0])  # as in a process that has not read a store
    drawn = tmp_path / "drawn.csv"
    assert main(["sample-for-review", f"{url}{joint}screen={screen_name}", "-n", "3", "-o", str(drawn)]) == 0
    assert len(list(read_events(drawn))) == 3
    kept = KeptImages(tmp_path / "kept", 1000)
    kept.add(f"{2:064x}", b"\x89PNG...")
    kept.add(f"{3:064x}", b"\x89PNG...")
    assert write_confirmed(f"{url}{joint}screen={screen_name}", tmp_path / "kept", tmp_path / "confirmed") == 1
    assert [file.name for file in (tmp_path / "confirmed").iterdir()] == [f"{2:064x}.png"]
    with pytest.raises(InputError, match="none of the images"):
        write_confirmed(f"{url}{joint}screen={screen_name}", tmp_path / "empty", tmp_path / "none")


def test_the_label_given_last_counts_on_whichever_event_of_an_image(url, screen_name, tmp_path):
    """Two events of one image: the later one was labelled first, and that was put right on the earlier one."""
    register()

    async def work(store):
        await store.add([event(n, screen_name, sha256=f"{n // 2:064x}", name="same.png") for n in range(4)])
        for number, label in ((1, "inlier"), (0, "outlier"), (2, "inlier")):
            await store.label(event(number, screen_name).id, label)

    with_store(url, work)
    address = f"{url}{'&' if '?' in url else '?'}screen={screen_name}"
    assert [row["label_number"] is None for row in read_events(address)] == [False, False, False, True]
    kept = KeptImages(tmp_path / "kept", 1000)
    for number in range(2):
        kept.add(f"{number:064x}", b"\x89PNG...")
    assert write_confirmed(address, tmp_path / "kept", tmp_path / "confirmed") == 1
    assert [file.name for file in (tmp_path / "confirmed").iterdir()] == [f"{1:064x}.png"]


def test_a_store_that_is_not_there_is_not_made(tmp_path):
    register()
    with pytest.raises(InputError, match="no file"):
        list(read_events(f"sqlite:///{tmp_path / 'no.db'}"))
    assert not (tmp_path / "no.db").exists()
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE x (y)").connection.close()
    with pytest.raises(InputError, match="cannot be read"):
        list(read_events(f"sqlite:///{tmp_path / 'other.db'}"))


def test_while_postgres_hangs_requests_end_in_time_and_nothing_acknowledged_is_lost(
    postgres, postgres_processes, digit_screen, tmp_path, digit_files
):
    png = {"content-type": "image/png"}
    path = "/v1/screens/digits/predict"
    with in_process(digit_screen, tmp_path, store=postgres) as client:
        before = [
            client.post(path, content=file, headers=png).json()["verdicts"][0]["event"] for file in digit_files[:3]
        ]
        with postgres_processes() as held:
            assert held
            began = time.monotonic()
            answer = client.post(path, params={"seconds": 1}, content=digit_files[0], headers=png)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            ready = client.get("/readyz")
            assert ready.status_code == 503
            assert any("does not answer" in one for one in ready.json()["trouble"])
            assert client.get("/healthz").status_code == 200
            # No measurement: a request that waited for the store would wait for ever.
            assert time.monotonic() - began < 60
        after = client.post(path, content=digit_files[4], headers=png)
        assert after.status_code == 200
        assert client.get("/readyz").status_code == 200
        found = {row["id"] for row in client.get("/v1/events", params={"limit": 1000}).json()["events"]}
        assert {*before, after.json()["verdicts"][0]["event"]} <= found

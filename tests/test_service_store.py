"""Events and labels, in SQLite and in a real Postgres; kept images."""

import asyncio
import hashlib
import os
import sqlite3

import pytest

pytest.importorskip("sqlalchemy")

from recondite.errors import InputError
from recondite.service.kept import KeptImages
from recondite.service.refusals import Unavailable, Unknown
from recondite.service.store import Event, Filter, Store


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


def test_labels_attach_to_events_that_exist(url, screen_name):
    async def work(store):
        await store.add([event(0, screen_name)])
        await store.label(event(0, screen_name).id, "skip", "out of focus")
        assert (await store.get(event(0, screen_name).id))["label"] == "skip"
        with pytest.raises(Unknown, match="no event"):
            await store.label("0" * 32, "inlier")

    with_store(url, work)


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
            found = await store._read(lambda link: link.exec_driver_sql("PRAGMA synchronous").scalar_one())
            assert found == level

        with_store(f"sqlite:///{path}{asked}", work)
    with pytest.raises(InputError, match="normal or full"):
        Store(f"sqlite:///{path}?synchronous=off")


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://x/y", "sqlite://", "sqlite:///:memory:", "sqlite:////no/such/f.db"]
)
def test_a_store_that_cannot_be_is_an_input_error(url):
    with pytest.raises(InputError):
        Store(url)


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

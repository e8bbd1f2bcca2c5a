"""The service under attack: huge pictures, small requests beside large ones, clients that leave, a stalled line."""

import asyncio
import io
import socket
import threading
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from service import in_process, png, running
from starlette.requests import Request

import recondite
from recondite.data import scaling
from recondite.errors import InputError, ReconditeWarning
from recondite.service.engine import decoding
from recondite.service.engine.batching import Job, Line
from recondite.service.engine.decoding import Sent, measure
from recondite.service.engine.judging import Wish
from recondite.service.engine.lanes import SMALL
from recondite.service.errors import Refused
from recondite.service.routes.state import departure_of
from recondite.service.settings import Limits

PREDICT = "/v1/screens/digits/predict"
PNG = {"content-type": "image/png"}


def wait_until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def blank(height, width):
    return png(np.zeros((height, width), np.uint8))


def form(*files):
    return [("images", (f"{place}.png", one)) for place, one in enumerate(files)]


@pytest.fixture
def decoded(monkeypatch):
    """The bytes of the images that the service has decoded."""
    seen = []
    attempted = decoding.attempted
    monkeypatch.setattr(decoding, "attempted", lambda decode, one: seen.append(one) or attempted(decode, one))
    return seen


def test_forty_huge_pictures_are_refused_by_their_heads(digit_screen, tmp_path, digit_files, decoded):
    with in_process(digit_screen, tmp_path) as client:
        refused = client.post(PREDICT, params={"seconds": 1}, files=form(*[blank(4999, 5000)] * 40))
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")
        assert "at most 100,000,000 pixels" in refused.json()["error"]["message"]
        assert decoded == []
        assert client.post(PREDICT, content=digit_files[0], headers=PNG).status_code == 200


def test_pixels_are_counted_in_each_request_and_in_all(digit_screen, tmp_path):
    limits = Limits(request_pixels=300, all_pixels=500)
    with in_process(digit_screen, tmp_path, limits=limits) as client:
        assert client.post(PREDICT, files=form(blank(10, 10), blank(10, 20))).status_code == 200
        assert client.post(PREDICT, files=form(blank(10, 10), blank(10, 21))).status_code == 413
        free, answers = threading.Event(), []
        client.app.state.service.judge.line.submit(free.wait)
        threads = [
            threading.Thread(target=lambda: answers.append(client.post(PREDICT, content=blank(10, 30), headers=PNG)))
            for _ in range(2)
        ]
        [thread.start() for thread in threads]
        wait_until(lambda: answers)
        assert "the limit is 500" in answers[0].json()["error"]["message"]
        assert (answers[0].status_code, int(answers[0].headers["retry-after"]) >= 1) == (429, True)
        assert client.get("/metrics").text.count("recondite_pixels_waiting 300.0") == 1
        free.set()
        [thread.join() for thread in threads]
        assert [answer.status_code for answer in answers] == [429, 200]
        assert client.post(PREDICT, content=blank(10, 30), headers=PNG).status_code == 200
    with pytest.raises(InputError, match="at most all_pixels"):
        Limits(request_pixels=11, all_pixels=10)


def test_a_long_file_of_few_pixels_costs_its_length():
    stream, text = io.BytesIO(), PngInfo()
    text.add_text("a", "b" * 5000)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(stream, format="PNG", pnginfo=text)
    small, long = blank(8, 8), stream.getvalue()
    for content in (small, long):
        head = measure(Sent("", content), 64)
        assert (head.pixels, head.cost, head.error) == (64, 64 + len(content), None)
    assert measure(Sent("", small), 63).cost == 0
    assert "the limit is 63" in measure(Sent("", small), 63).error
    assert measure(Sent("", b"nonsense"), 64).error
    assert measure(Sent("", np.zeros((3, 8, 8))), 64).cost == 192


def test_a_head_with_two_sizes_does_not_pass_for_a_small_picture(digit_screen, tmp_path, digit_files):
    small, large = blank(8, 8), blank(50, 50)
    twice = small[:33] + large[8:]  # the head of the small one, and the large one from its head on
    with in_process(digit_screen, tmp_path, limits=Limits(request_pixels=1000, pixels=1000)) as client:
        rows = client.post(PREDICT, files=form(twice, digit_files[0])).json()["verdicts"]
        assert (rows[0]["verdict"], rows[1]["error"]) == ("invalid", None)
        assert "says that it has 8 x 8 pixels" in rows[0]["error"]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "BMP", "PNG"])
@pytest.mark.parametrize("side", [8, 400])
def test_heads_of_every_format_are_read(kind, side):
    stream = io.BytesIO()
    Image.fromarray(np.zeros((side, side + 1), np.uint8)).save(stream, format=kind)
    assert measure(Sent("", stream.getvalue()), 1 << 20).pixels == side * (side + 1)


@pytest.fixture
def line(digit_screen):
    """A line of jobs whose steps are given, and the names of those that are done, in order."""
    screen, done = recondite.load(digit_screen), []

    class Steps(Job):
        def scores(self):
            return None

    line = Line(lambda job: job.steps, lambda jobs: done.extend(job.name for job in jobs), print, lambda *_: None)

    def send(name, steps=(), **facts):
        job = Steps(name=name, screen=screen, steps=iter(steps), **facts)
        line.send(job)
        return job

    line.post, line.done = send, done
    yield line
    line.shutdown()


def blocked_by(event, began=None):
    for _ in range(3):
        if began is not None:
            began.set()
        assert event.wait(60)
        yield 2 * SMALL


def test_small_requests_pass_large_ones(line):
    free = threading.Event()
    large = [line.post(f"large {n}", blocked_by(free), cost=4 * SMALL, largest=2 * SMALL) for n in range(4)]
    wait_until(lambda: line.waiting == 2)
    line.post("small", [1 << 19], cost=1 << 19, largest=1 << 19)
    wait_until(lambda: line.done)
    assert line.done == ["small"]
    assert line.waiting == 2
    free.set()
    wait_until(lambda: len(line.done) == 5)
    assert all(job.prepared for job in large)


def test_between_rounds_cheaper_requests_come_first_and_none_waits_for_ever(line):
    free, began = threading.Event(), threading.Event()
    line.post("first", blocked_by(free, began), cost=SMALL + 1, largest=SMALL)
    assert began.wait(60)
    order = []
    for name, cost, later in (("cheap", 19, 0), ("dear", 30, 0), ("later", 19, 0), ("much later", 19, 1000)):
        steps = (order.append(name) or 1 for name in [name])
        line.post(name, steps, cost=1 << cost, since=time.monotonic() + later)
    free.set()
    wait_until(lambda: len(line.done) == 5)
    assert order == ["cheap", "later", "dear", "much later"]


@pytest.mark.parametrize("largest", [SMALL, 2 * SMALL])
@pytest.mark.parametrize("leave", [{"gone": True}, {"until": 0.0}], ids=["gone", "late"])
def test_no_image_is_decoded_that_nobody_waits_for(line, largest, leave):
    steps, known = [], threading.Event()

    def images():
        assert known.wait(60)
        for number in range(5):
            steps.append(number)
            if number == 2:
                vars(job).update(leave)
            yield 1

    job = line.post("left", images(), cost=SMALL, largest=largest)
    known.set()
    wait_until(lambda: len(steps) == 3)
    line.post("after", [1], cost=SMALL, largest=largest)
    wait_until(lambda: line.done == ["after"])
    assert steps == [0, 1, 2]


def test_a_small_request_is_scored_between_the_batches_of_a_large_one(digit_screen, digits):
    screen = recondite.load(digit_screen)
    done, sizes = [], []
    line = Line(lambda _: iter(()), done.extend, print, lambda *facts: sizes.append(facts[1]))
    line.send(Job(name="warm", screen=screen, pixels=np.zeros((2, 1, 8, 8), np.float32)))
    wait_until(lambda: done)
    free = threading.Event()
    line.submit(free.wait)
    pixels = np.float32(digits[:300, None] / 255)
    large, small = (Job(name="n", screen=screen, pixels=part) for part in (pixels, pixels[:2]))
    line.send(large)
    small.since = large.since + 1e-9
    line.send(small)
    free.set()
    line.shutdown()
    assert done[1:] == [small, large]
    assert sizes[1:] == [64] * 4 + [46]
    expected = screen.predict(pixels[:, 0]).instance_score
    np.testing.assert_array_equal(large.scores().instance_score, expected)
    np.testing.assert_array_equal(small.scores().instance_score, expected[:2])


def test_for_a_client_that_went_away_nothing_more_is_read(digit_screen, tmp_path, digit_files, monkeypatch):
    began, free, seen = threading.Event(), threading.Event(), []

    def attempted(decode, one):
        seen.append(one)
        began.set()
        assert free.wait(60)
        return decode(one)

    monkeypatch.setattr(decoding, "attempted", attempted)

    async def left():
        while not began.is_set():
            await asyncio.sleep(0.01)

    with in_process(digit_screen, tmp_path) as client:
        service = client.app.state.service
        sent = [Sent(str(place), content) for place, content in enumerate(digit_files[:3])]
        with pytest.raises(Refused, match="went away"):
            client.portal.call(service.judge.judge, service.shelf.get("digits"), sent, Wish(), "r", left)
        free.set()
        assert client.post(PREDICT, content=digit_files[9], headers=PNG).status_code == 200
        assert seen == [digit_files[0], digit_files[9]]
        assert len(client.get("/v1/events").json()["events"]) == 1
        assert "recondite_pixels_waiting 0.0" in client.get("/metrics").text


def test_a_departure_is_what_the_server_says_after_the_body():
    messages = [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]

    async def receive():
        return messages.pop(0)

    left = departure_of(Request({"type": "http"}, receive))
    with pytest.raises(StopIteration):
        left().send(None)
    assert not messages


def test_a_stalled_line_shows(digit_screen, tmp_path, digit_files):
    with in_process(digit_screen, tmp_path, limits=Limits(seconds=2)) as client:
        free = threading.Event()
        client.app.state.service.judge.line.submit(free.wait)
        late = client.post(PREDICT, content=digit_files[0], headers=PNG)
        assert late.status_code == 503
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert "scoring has stalled" in ready.json()["trouble"][0]
        assert client.get("/v2/health/ready").status_code == 503
        seconds = [line for line in client.get("/metrics").text.splitlines() if 'step_seconds{step="score"}' in line]
        assert float(seconds[0].split()[-1]) > 0.2
        free.set()
        wait_until(lambda: client.get("/readyz").status_code == 200)
        assert client.post(PREDICT, content=digit_files[0], headers=PNG).status_code == 200


def test_small_requests_that_wait_long_show_and_large_ones_do_not(digit_screen, tmp_path, digit_files, monkeypatch):
    free = threading.Event()
    attempted = decoding.attempted
    monkeypatch.setattr(decoding, "attempted", lambda decode, one: free.wait(60) and attempted(decode, one))
    with in_process(digit_screen, tmp_path, limits=Limits(seconds=60)) as client:
        judge, answers = client.app.state.service.judge, []

        def ask(content):
            answers.append(client.post(PREDICT, content=content, headers=PNG))

        for count, content in ((1, blank(1024, 1025)), (2, digit_files[0])):
            threading.Thread(target=ask, args=(content,)).start()
            wait_until(lambda count=count: len(judge._served) == count)
            for request in judge._served:
                request.since -= 31
            said = [one for one in client.get("/readyz").json()["trouble"] if "small request" in one]
            assert len(said) == count - 1
        free.set()
        wait_until(lambda: len(answers) == 2)
        assert [answer.status_code for answer in answers] == [200, 200]
        assert client.get("/readyz").status_code == 200


def test_a_picture_that_is_reduced_has_the_score_of_the_library(digit_screen, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "HUGE", 1 << 15)
    picture = np.random.default_rng(0).integers(0, 256, (400, 401), dtype=np.uint8)
    with pytest.warns(ReconditeWarning, match="far from the size"):
        expected = recondite.load(digit_screen).predict(png(picture)).instance_score[0]
    with in_process(digit_screen, tmp_path) as client:
        (row,) = client.post(PREDICT, content=png(picture), headers=PNG).json()["verdicts"]
    assert row["instance_score"] == expected


@pytest.mark.slow
def test_a_thousand_idle_sockets_do_not_silence_the_health_check(digit_screen, tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1300
    if 0 <= hard < wanted:
        pytest.skip(f"this process may open {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    idle = []
    try:
        with running(tmp_path, digit_screen, "--store", f"sqlite:///{tmp_path / 'events.db'}") as process:
            for turn in range(1100):  # more than --max-connections
                idle.append(socket.create_connection(("127.0.0.1", process.port), timeout=60))
                if turn % 2:
                    idle[-1].sendall(b"POST /v1/screens/digits/predict HTTP/1.1\r\nHost: loc")
            with urllib.request.urlopen(f"{process.url}/healthz", timeout=60) as answer:
                assert answer.status == 200
    finally:
        for one in idle:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

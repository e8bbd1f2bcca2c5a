"""Every answer is of one kind: JSON with the right status, whatever was asked; visitors leave nothing in memory."""

import json
import socket
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from service import in_process, in_thread, png
from starlette.testclient import TestClient

import recondite
from recondite.service.app import create_app
from recondite.service.client import Client
from recondite.service.engine import judging
from recondite.service.routes import logins
from recondite.service.routes.logins import FailedLogins
from recondite.service.settings import Limits, Settings

PREDICT = "/v1/screens/digits/predict"
PNG = {"content-type": "image/png"}


TOKEN = "a-token-of-ours"
# The page's library looks at every object there is.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.distributed:FutureWarning")


@pytest.fixture(scope="module")
def paged(digit_screen, tmp_path_factory):
    """A client, with a token, of the service with its page."""
    pytest.importorskip("nicegui")
    from recondite.service.page import add_page

    store = f"sqlite:///{tmp_path_factory.mktemp('page') / 'events.db'}"
    settings = Settings(screens=[str(digit_screen)], store=store, tokens=[TOKEN], reload_seconds=0)
    app = create_app(settings)
    add_page(app, settings)
    with TestClient(app, raise_server_exceptions=False, headers={"authorization": f"Bearer {TOKEN}"}) as client:
        yield client


@pytest.fixture(scope="module")
def pageless(digit_screen, tmp_path_factory):
    with in_process(digit_screen, tmp_path_factory.mktemp("no-page"), page=False) as client:
        yield client


@pytest.fixture(params=["paged", "pageless"])
def client(request):
    return request.getfixturevalue(request.param)


def refused(answer, status, code):
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
    if answer.request.method != "HEAD":
        assert answer.json()["error"]["code"] == code
    return answer


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/nothing", "/v1/events/", "/_nicegui", "/page", "/%00"])
def test_unknown_paths(client, method, path):
    refused(client.request(method, path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", PREDICT, "POST"),
        ("OPTIONS", PREDICT, "POST"),
        ("HEAD", PREDICT, "POST"),
        ("HEAD", "/v1/screens", "GET"),
        ("OPTIONS", "/metrics", "GET"),
        ("POST", "/v1/screens/digits/drift", "DELETE, GET"),
        ("DELETE", "/healthz", "GET, HEAD"),
        ("BREW", "/v1/reload", "POST"),
    ],
)
def test_known_paths_asked_otherwise(client, method, path, allowed):
    answer = refused(client.request(method, path), 405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


def test_the_protocol_of_others_has_its_own_form(client):
    for method, path in (("GET", "/v2/nothing"), ("PUT", "/v2/models/digits")):
        answer = client.request(method, path)
        assert answer.status_code == {"GET": 404, "PUT": 405}[method]
        assert isinstance(answer.json()["error"], str)


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "nonsense", "null", "", "\xff\xfe", "http://a:b:c"])
def test_a_broken_origin_is_a_foreign_one(client, digit_files, origin):
    headers = PNG | {"origin": origin.encode("latin-1")}
    refused(client.post(PREDICT, content=digit_files[0], headers=headers), 403, "foreign_origin")


@pytest.mark.parametrize("broken", [RuntimeError("secret"), OSError("secret"), KeyError("secret")])
@pytest.mark.parametrize("query", [{}, {"alpha": [0.2, 0.2]}])
def test_errors_of_our_own_are_json_and_tell_nothing(client, digit_files, monkeypatch, broken, query):
    def fail(*_):
        raise broken

    monkeypatch.setattr(judging, "glance", fail)
    answer = client.post(PREDICT, params=query, content=digit_files[0], headers=PNG)
    if query and answer.status_code == 422:
        return
    refused(answer, 500, "failed")
    assert "secret" not in answer.text


def test_the_page_is_there_and_what_it_lacks_is_json(paged):
    assert "text/html" in paged.get("/").headers["content-type"]
    head = paged.head("/")
    assert (head.status_code, head.content) == (200, b"")
    refused(paged.get("/_nicegui/nothing"), 404, "not_found")
    assert refused(paged.post("/"), 405, "method_not_allowed").headers["allow"]
    assert paged.get("/login").status_code == 200
    refused(paged.put("/login"), 405, "method_not_allowed")


def test_the_metrics_do_not_grow_with_visitors(client, digit_files):
    def lines():
        return {line.split(" ")[0] for line in client.get("/metrics").text.splitlines() if "recondite_request" in line}

    def visit(turn):
        for method in ("GET", "POST", f"BREW{turn}"):
            for path in (f"/x{turn}", f"/_nicegui/client/{turn}/upload/1", "/v1/screens", f"/v1/events/{turn}"):
                client.request(method, path, headers={"x-request-id": f"r{turn}", "user-agent": str(turn)})
        client.get("/metrics")
        client.post(PREDICT, params={"label": f"cat{turn}", "confidence": 0.5}, content=digit_files[0], headers=PNG)

    visit(0)
    visit(0)
    before = lines()
    for turn in range(1, 6):
        visit(turn)
    assert lines() == before


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "localhost.evil.example", "[", "127.0.0.2"])
def test_on_this_machine_only_known_names_are_answered(digit_screen, tmp_path, digit_files, host):
    with in_process(digit_screen, tmp_path, hosts=("localhost", "127.0.0.1", "::1", "Line-7.local")) as client:
        headers = PNG | {"host": host, "origin": f"http://{host}"}
        refused(client.post(PREDICT, content=digit_files[0], headers=headers), 421, "unknown_host")
        for known in ("localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:8080", "Line-7.local", "line-7.LOCAL:80"):
            answer = client.post(PREDICT, content=digit_files[0], headers=PNG | {"host": known})
            assert answer.status_code == 200


def test_requests_over_the_limit_are_refused_and_health_is_not(digit_screen, tmp_path, digit_files):
    with in_process(digit_screen, tmp_path, limits=Limits(connections=2)) as client:
        service, free, answers = client.app.state.service, threading.Event(), []
        service.judge.line.submit(free.wait)
        threads = [
            threading.Thread(target=lambda: answers.append(client.post(PREDICT, content=digit_files[0], headers=PNG)))
            for _ in range(2)
        ]
        [thread.start() for thread in threads]
        end = time.monotonic() + 60
        while len(service.judge._served) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert "retry-after" in refused(client.get("/v1/screens"), 503, "unavailable").headers
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        free.set()
        [thread.join() for thread in threads]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert client.get("/v1/screens").status_code == 200


def test_idle_sockets_do_not_silence_anybody(digit_screen, tmp_path):
    with in_thread(digit_screen, tmp_path, limits=Limits(connections=40)) as process:
        idle = [socket.create_connection(("127.0.0.1", process.port), timeout=60) for _ in range(120)]
        for one in idle[::3]:
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: lo")
        for path in ("/healthz", "/readyz", "/v1/screens"):
            with socket.create_connection(("127.0.0.1", process.port), timeout=60) as link:
                link.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                assert link.recv(100).startswith(b"HTTP/1.1 200 ")
        for one in idle:
            one.close()


def test_bodies_may_come_in_pieces_in_any_order_or_never(digit_screen, tmp_path, digit_files):
    expected = recondite.load(digit_screen).predict(digit_files[:6]).instance_score
    order = np.random.default_rng(0)
    with in_thread(digit_screen, tmp_path) as process:
        links, pieces = [], []
        for place, content in enumerate([*digit_files[:6], *digit_files[:6]]):
            head = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nConnection: close\r\n"
            whole = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
            cuts = [0, *sorted(order.choice(len(whole) - 1, 4, replace=False) + 1), len(whole)]
            parts = [whole[a:b] for a, b in pairwise(cuts)]
            links.append(socket.create_connection(("127.0.0.1", process.port), timeout=120))
            pieces.append(parts if place < 6 else parts[: (place - 6) % 5])
        turns = [place for place, parts in enumerate(pieces) for _ in parts]
        for place in order.permutation(turns):
            links[place].sendall(pieces[place].pop(0))
        for link in links[6:]:
            link.close()
        for link, score in zip(links[:6], expected, strict=True):
            answer = b"".join(iter(lambda link=link: link.recv(1 << 16), b""))
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["verdicts"][0]["instance_score"] == score
            link.close()
        with Client(process.url) as client:
            assert len(list(client.events())) == 6


def test_logins_slow_down_after_failures(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(logins.time, "monotonic", lambda: now[0])
    failed = FailedLogins()
    waits = []
    for _ in range(12):
        failed.note("a", False)
        waits.append(failed.wait("a"))
    assert waits == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert failed.wait("b") == 0
    now[0] += 59
    assert failed.wait("a") == 1
    now[0] += 61
    assert failed.wait("a") == 0
    failed.note("a", False)
    assert failed.wait("a") == 0
    for _ in range(5):
        failed.note("a", False)
    failed.note("a", True)
    assert failed.wait("a") == 0
    for number in range(5000):
        failed.note(str(number), False)
    assert len(failed._failed) <= 1024


def test_who_signs_in_gets_what_was_asked_for(paged):
    html = {"accept": "text/html", "authorization": ""}
    assert paged.get("/v1/jobs?a=b", headers=html, follow_redirects=False).headers["location"] == "/login"
    sent = paged.get("/?screen=digits&panel=review", headers=html, follow_redirects=False).headers["location"]
    assert sent == "/login?screen=digits&panel=review"
    assert 'action="' not in paged.get(sent).text, "the form is sent to its own address"
    for address, where in (
        (sent, "/?screen=digits&panel=review"),
        ("/login", "/"),
        ("/login?//a.example", "/?//a.example"),
    ):
        right = paged.post(address, data={"token": TOKEN}, follow_redirects=False)
        assert (right.status_code, right.headers["location"]) == (303, where)


def test_a_login_that_has_to_wait_is_told_so(paged):
    for _ in range(3):
        assert paged.post("/login", data={"token": "wrong"}).status_code == 401
    late = paged.post("/login", data={"token": TOKEN}, follow_redirects=False)
    assert (late.status_code, late.headers["retry-after"]) == (429, "1")
    assert "try again in 1 s" in late.text
    assert paged.get("/v1/screens").status_code == 200


def test_an_answer_says_that_images_are_unlike_those_that_were_learnt(pageless, digits, digit_files):
    colour = np.repeat(digits[1500][..., None], 3, axis=2)
    for image, words in (
        (png(colour), "1 of 1 images looked at are in colour"),
        (png(np.kron(digits[1500], np.ones((9, 9), np.uint8))), "far from the size"),
    ):
        answer = pageless.post(PREDICT, content=image, headers=PNG).json()
        assert len(answer["remarks"]) == 1
        assert words in answer["remarks"][0]
    assert pageless.post(PREDICT, content=digit_files[0], headers=PNG).json()["remarks"] == []

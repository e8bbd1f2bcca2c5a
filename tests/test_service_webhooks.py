"""Verdicts posted to an address: chosen by p-value, tried again, bounded, and waited for by nobody."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from service import in_process

pytest.importorskip("fastapi")
from recondite.data import outbox
from recondite.errors import InputError
from recondite.service.settings import Settings

PREDICT = "/v1/screens/digits/predict"


class Receiver:
    """An address that takes messages, or answers 500 or not at all for a while."""

    def __init__(self):
        self.messages, self.failures, self.open = [], 0, threading.Event()
        self.first_answers = []
        self.open.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.open.wait(30)
                if receiver.first_answers:
                    self.wfile.write(receiver.first_answers.pop(0))
                    return
                failed = receiver.failures > 0
                receiver.failures -= failed
                if not failed:
                    receiver.messages.append(body)
                self.send_response(500 if failed else 200)
                self.end_headers()

            def do_GET(self):
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def verdicts(self):
        return [verdict for message in self.messages for verdict in message["verdicts"]]

    def wait_for(self, count):
        end = time.monotonic() + 60
        while len(self.verdicts()) < count:
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.fixture
def receiver(monkeypatch):
    monkeypatch.setattr(outbox, "_FIRST_PAUSE", 0.01)
    receiver = Receiver()
    yield receiver
    receiver.open.set()
    receiver.server.shutdown()
    receiver.server.server_close()


def predict(client, files):
    answer = client.post(PREDICT, files=[("images", (f"{index}.png", one)) for index, one in enumerate(files)])
    assert answer.status_code == 200, answer.text
    return answer.json()["verdicts"]


def test_verdicts_at_or_below_the_p_value_are_posted_and_tried_again(digit_screen, digit_files, tmp_path, receiver):
    receiver.failures = 2
    files = [*digit_files[:40], b"text"]
    with in_process(digit_screen, tmp_path, verdict_webhook=receiver.url, verdict_webhook_p=0.3) as client:
        verdicts = predict(client, files)
        expected = {one["event"] for one in verdicts if one["p_value"] is None or one["p_value"] <= 0.3}
        receiver.wait_for(len(expected))
    assert {one["id"] for one in receiver.verdicts()} == expected
    assert 1 < len(expected) < 41
    assert len(receiver.verdicts()) == len(expected)


def test_no_verdict_waits_for_an_address_that_hangs_and_what_is_too_much_is_counted(
    digit_screen, digit_files, tmp_path, receiver, monkeypatch
):
    monkeypatch.setattr(outbox, "_MOST_WAITING", 10)
    monkeypatch.setattr(outbox, "_AT_ONCE", 4)
    receiver.open.clear()
    with in_process(digit_screen, tmp_path, verdict_webhook=receiver.url, verdict_webhook_p=1.0) as client:
        verdicts = [one for _ in range(3) for one in predict(client, digit_files[:20])]  # answered while it hangs
        receiver.open.set()
        receiver.wait_for(10)
    dropped = sum(message["dropped"] for message in receiver.messages)
    posted = [one["id"] for one in receiver.verdicts()]
    assert len(posted) == len(set(posted)) <= 14
    assert dropped >= 46
    assert set(posted) <= {one["event"] for one in verdicts}
    assert posted[-1] == verdicts[-1]["event"]


def test_an_address_that_never_answers_does_not_hold_up_the_end(digit_screen, digit_files, tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "_FIRST_PAUSE", 0.01)
    with in_process(digit_screen, tmp_path, verdict_webhook="http://127.0.0.1:9/", verdict_webhook_p=1.0) as client:
        predict(client, digit_files[:3])
    assert not [one for one in threading.enumerate() if one.name == "outbox-webhook"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", "where it leads, /elsewhere"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "no answer in HTTP came"),
    ],
)
def test_a_message_that_was_not_taken_does_not_count_as_posted(
    digit_screen, digit_files, tmp_path, receiver, caplog, answer, words
):
    receiver.first_answers = [answer, answer]
    with in_process(digit_screen, tmp_path, verdict_webhook=receiver.url, verdict_webhook_p=1.0) as client:
        predict(client, digit_files[:3])
        receiver.wait_for(3)
    errors = [record.facts["error"] for record in caplog.records if "does not take" in record.message]
    assert len(errors) == 2
    assert all(words in error for error in errors)


@pytest.mark.parametrize(
    "wrong",
    [
        {"verdict_webhook": "ftp://x"},
        {"verdict_webhook_p": 0.0},
        {"verdict_webhook": "http://u:p@h/"},
        {"webhook": "http://[bad"},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(InputError, match="expected"):
        Settings(screens=["digits"], **wrong)

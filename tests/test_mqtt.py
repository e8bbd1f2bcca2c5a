"""Verdicts to a broker of MQTT: all, in order, acknowledged; and nobody waits for a broker that is not there."""

import gc
import json
import ssl
import subprocess
import threading
import time
import warnings

import pytest
from mqtt_broker import Broker
from service import in_process

pytest.importorskip("paho")
pytest.importorskip("fastapi")

from prometheus_client.parser import text_string_to_metric_families

from recondite.cli import main
from recondite.data import mqtt, outbox
from recondite.data.mqtt import PASSWORD, USER, MqttSender, mqtt_address
from recondite.data.outbox import Outbox
from recondite.errors import InputError
from recondite.service.settings import Settings

PREDICT = "/v1/screens/digits/predict"


@pytest.fixture
def broker(monkeypatch):
    monkeypatch.setattr(outbox, "_FIRST_PAUSE", 0.02)
    broker = Broker()
    yield broker
    broker.close()


def wait_until(true):
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def predict(client, files):
    answer = client.post(PREDICT, files=[("images", (f"{index}.png", one)) for index, one in enumerate(files)])
    assert answer.status_code == 200, answer.text
    return answer.json()["verdicts"]


def messages(client, result):
    families = text_string_to_metric_families(client.get("/metrics").text)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "recondite_messages_total" and sample.labels == {"to": "mqtt", "result": result}
    )


def test_every_verdict_is_a_message_below_its_screen_and_verdict(digit_screen, digit_files, tmp_path, broker):
    with in_process(digit_screen, tmp_path, mqtt=f"mqtt://127.0.0.1:{broker.port}/line/3") as client:
        verdicts = [one for _ in range(2) for one in predict(client, [*digit_files[:60], b"text"])]
        wait_until(lambda: messages(client, "sent") == 122)
        events = {one["id"]: one for one in client.get("/v1/events?limit=1000").json()["events"]}
    assert [topic for topic, _ in broker.messages] == [f"line/3/digits/{one['verdict']}" for one in verdicts]
    sent = [json.loads(content) for _, content in broker.messages]
    assert [one["id"] for one in sent] == [one["event"] for one in verdicts]
    assert all(one == {name: events[one["id"]][name] for name in one} for one in sent)
    assert broker.connections == 1


def test_verdicts_wait_for_a_broker_and_nobody_waits_for_it(
    digit_screen, digit_files, tmp_path, broker, monkeypatch, caplog
):
    monkeypatch.setattr(outbox, "_MOST_WAITING", 30)
    monkeypatch.setattr(mqtt, "_TIMEOUT", 0.2)
    broker.mute = True
    with in_process(digit_screen, tmp_path, mqtt=f"mqtt://127.0.0.1:{broker.port}/a") as client:
        predict(client, digit_files[:10])
        wait_until(lambda: "has not acknowledged" in str([vars(one) for one in caplog.records]))
        port, _ = broker.port, broker.close()  # it goes down, with what it has not acknowledged
        verdicts = predict(client, digit_files[:40])
        assert messages(client, "dropped") == 20
        again = Broker(port=port)
        try:
            wait_until(lambda: messages(client, "sent") == 30)
        finally:
            again.close()
    assert [json.loads(content)["id"] for _, content in again.messages] == [one["event"] for one in verdicts[10:]]
    assert any("dropped" in one.message for one in caplog.records)
    assert not [one for one in threading.enumerate() if "mqtt" in one.name]


def test_who_may_not_sign_in_is_refused_in_words(broker, monkeypatch):
    broker.users = {"line": "secret"}
    sender = MqttSender(mqtt_address(f"mqtt://127.0.0.1:{broker.port}/a"))
    with pytest.raises(OSError, match="refuses the connection: Not authorized"):
        sender.send([("x", b"1")])
    monkeypatch.setenv(USER, "line")
    monkeypatch.setenv(PASSWORD, "secret")
    sender.send([("x", b"2")])
    sender.close()
    assert broker.messages == [("a/x", b"2")]


def test_a_certificate_is_checked(tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-keyout", key, "-out", certificate, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    try:
        subprocess.run(made, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not there")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    broker = Broker(tls=context)
    try:
        sender = MqttSender(mqtt_address(f"mqtts://localhost:{broker.port}/a"))
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
                sender.send([("x", b"1")])
            gc.collect()  # paho leaves the socket of a refused handshake to it
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        sender.send([("x", b"2")])
        sender.close()
    finally:
        broker.close()
    assert broker.messages == [("a/x", b"2")]


def test_a_watch_sends_its_rows(digit_screen, tmp_path, broker, digit_files):
    folder, table = tmp_path / "incoming", tmp_path / "out.jsonl"
    folder.mkdir()
    for index, content in enumerate([*digit_files[:5], b"text"]):
        (folder / f"{index}.png").write_bytes(content)
    flags = ["--settle-seconds", "0", "--patience-seconds", "0", "--poll-seconds", "0.01", "--idle-seconds", "0"]
    address = f"mqtt://127.0.0.1:{broker.port}/line"
    assert main(["watch", str(digit_screen), str(folder), "-o", str(table), *flags, "--mqtt", address]) == 0
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert len(rows) == 6
    assert [json.loads(content) for _, content in broker.messages] == rows
    assert [topic for topic, _ in broker.messages] == [f"line/{row['verdict']}" for row in rows]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        *((url, "expected mqtt://HOST") for url in ("http://a/b", "mqtt://a", "mqtt:///b", "mqtt://a:x/b")),
        *((url, "expected mqtt://HOST") for url in ("mqtt://a/b/#", "mqtt://a/+/b", "mqtt://a/b?c=d")),
        ("mqtt://me:secret@a/b", "RECONDITE_MQTT_PASSWORD"),
    ],
)
def test_an_address_that_is_none_is_refused(url, words):
    with pytest.raises(InputError, match=words) as caught:
        Settings(screens=["digits"], mqtt=url)
    assert "secret" not in str(caught.value)
    with pytest.raises(InputError, match=words):
        mqtt_address(url)


def test_addresses_have_the_usual_ports():
    assert vars(mqtt_address("mqtts://host/a/b/")) == {"host": "host", "port": 8883, "encrypted": True, "topic": "a/b"}
    assert mqtt_address("mqtt://[::1]/a").port == 1883


def test_what_waits_at_the_end_is_counted_as_dropped():
    counts, errors = [], []

    def deliver(some, dropped):
        raise OSError(f"no {len(some)}, {dropped}")

    box = Outbox("box", deliver, errors.append, lambda result, count: counts.append((result, count)))
    box.put(range(5))
    box.close(0.1)
    assert counts == [("dropped", 5)]
    assert errors == ["no 5, 0"]

"""The service in this process: verdicts that are the library's, limits, refusals, tokens, metrics, logs."""

import base64
import io
import json
import logging
import shutil
import threading
import time
import zipfile
import zlib
from queue import Queue

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from service import in_process, png

import recondite

pytest.importorskip("fastapi")

from recondite.cli import main
from recondite.reports.recalibration import recalibrate
from recondite.screen.guard_file import save_guard
from recondite.service.errors import Unavailable
from recondite.service.log import JsonLines, Later
from recondite.service.routes.middleware import Tokens
from recondite.service.settings import Limits

PREDICT = "/v1/screens/digits/predict"
PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def client(digit_screen, tmp_path_factory):
    with in_process(digit_screen, tmp_path_factory.mktemp("api")) as client:
        yield client


@pytest.fixture(scope="module")
def screen(digit_screen):
    return recondite.load(digit_screen)


def as_json(files):
    return {"images": [{"id": f"n{place}", "data": base64.b64encode(one).decode()} for place, one in enumerate(files)]}


def problem(answer, status, code):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert error["request_id"] == answer.headers["x-request-id"]
    return error["message"]


def same(rows, verdicts):
    for row, expected in zip(rows, verdicts.records(), strict=True):
        assert {name: row[name] for name in expected if name != "id"} == {
            name: value for name, value in expected.items() if name != "id"
        }


def test_every_way_of_sending_images_gives_the_verdicts_of_the_library(client, screen, digit_files):
    verdicts = screen.predict(digit_files)
    assert 0 < verdicts.counts()["outlier"] < len(digit_files)
    for place in (0, 3):
        one = client.post(PREDICT, content=digit_files[place], headers=PNG).json()["verdicts"]
        same(one, screen.predict(digit_files[place]))
    form = client.post(PREDICT, files=[("images", (f"{n}.png", one)) for n, one in enumerate(digit_files)]).json()
    same(form["verdicts"], verdicts)
    assert [row["id"] for row in form["verdicts"]] == [f"{n}.png" for n in range(len(digit_files))]
    text = client.post(PREDICT, json=as_json(digit_files)).json()
    same(text["verdicts"], verdicts)
    assert text["version"] == screen.fingerprint()[:12]
    version = client.post(f"/v1/screens/digits/versions/{text['version']}/predict", json=as_json(digit_files)).json()
    same(version["verdicts"], verdicts)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"])
def test_monitors_may_ask_by_head(client, path):
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"") == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize(
    "written",
    [
        lambda content: base64.encodebytes(content).decode(),
        lambda content: "data:image/png;base64," + base64.b64encode(content).decode(),
        lambda content: base64.urlsafe_b64encode(content).decode().rstrip("="),
    ],
)
def test_base64_as_tools_write_it(client, screen, digit_files, written):
    files = [written(content) for content in digit_files]
    answer = client.post(PREDICT, json={"images": [{"data": text} for text in files]}).json()
    same(answer["verdicts"], screen.predict(digit_files))
    tensor = {"name": "images", "shape": [len(files)], "datatype": "BYTES", "data": files}
    outputs = client.post("/v2/models/digits/infer", json={"inputs": [tensor]}).json()["outputs"]
    scores = next(one["data"] for one in outputs if one["name"] == "instance_score")
    assert scores == list(screen.predict(digit_files).instance_score)


@pytest.mark.parametrize("text", ["%%%", "data:image/png,abcd", "data:image/png;base64,?", "A"])
def test_what_is_no_base64_is_told(client, text):
    answer = client.post(PREDICT, json={"images": [{"data": text}]})
    assert "expected base64 in images.0.data" in problem(answer, 422, "unusable")


def test_concurrent_requests_share_batches_and_get_the_same_scores(client, screen, digit_files):
    expected = list(screen.predict(digit_files).instance_score)
    before = batches(client)
    got = {}

    def ask(place):
        answer = client.post(PREDICT, content=digit_files[place], headers=PNG)
        got[place] = answer.json()["verdicts"][0]["instance_score"]

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(64)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert [got[place] for place in range(64)] == expected
    assert batches(client) - before < 64


def batches(client):
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("recondite_batch_images_count"))


def test_a_request_may_choose_its_alpha_where_the_calibration_allows_it(client, screen, digit_files):
    for alpha in (0.02, 0.3):
        rows = client.post(PREDICT, params={"alpha": alpha}, json=as_json(digit_files)).json()["verdicts"]
        same(rows, screen.with_alpha(alpha).predict(digit_files))
    message = problem(client.post(PREDICT, params={"alpha": 1e-5}, json=as_json(digit_files)), 422, "unusable")
    assert "needs at least 99999 calibration images" in message
    for wrong in ("0", "1", "nan", "x", "-1", "inf"):
        problem(client.post(PREDICT, params={"alpha": wrong}, json=as_json(digit_files[:1])), 422, "unusable")


def test_pictures_and_reasons_come_only_when_asked_for(client, screen, digit_files):
    plain = client.post(PREDICT, content=digit_files[3], headers=PNG).json()["verdicts"][0]
    assert not {"heat_map", "reconstruction", "words", "why"} & set(plain)
    asked = {"heat_map": True, "reconstruction": True, "explain": True}
    full = client.post(PREDICT, params=asked, files=[("i", one) for one in (digit_files[3], b"x")]).json()["verdicts"]
    rebuilt = Image.open(io.BytesIO(base64.b64decode(full[0]["reconstruction"])))
    expected = screen.predict(digit_files[3], reconstruction=True).reconstruction[0, 0]
    assert np.abs(np.asarray(rebuilt) / 255 - np.clip(expected, 0, 1)).max() <= 0.5 / 255 + 1e-6
    assert Image.open(io.BytesIO(base64.b64decode(full[0]["heat_map"]))).size == (8, 8)
    assert "OUTLIER" in full[0]["words"] or "INLIER" in full[0]["words"]
    assert full[0]["why"] == sorted(full[0]["why"], key=lambda reason: -abs(reason["z"]))
    assert full[1]["heat_map"] is None
    assert full[1]["reconstruction"] is None
    assert full[1]["why"] == []
    assert full[0]["instance_score"] == plain["instance_score"]


def bomb(side):
    """A PNG of a few bytes that says it has side x side pixels."""

    def chunk(kind, data):
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "content",
    [
        b"not an image",
        b"/etc/passwd",
        b"file:///etc/passwd",
        b"http://127.0.0.1:1/x.png",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"\x93NUMPY\x01\x00" + b"\0" * 64,
        b"\x80\x04cos\nsystem\n.",
        bomb(6000),
        bomb(60000),
        bomb(0),
        png(np.arange(81, dtype=np.uint8).reshape(9, 9) * 37)[:60],
    ],
    ids=lambda content: repr(content[:16]),
)
def test_a_hostile_image_is_invalid_and_harms_no_other(client, screen, digit_files, content):
    files = [digit_files[0], content, digit_files[1]]
    rows = client.post(PREDICT, files=[("images", one) for one in files]).json()["verdicts"]
    assert [row["verdict"] == "invalid" for row in rows] == [False, True, False]
    assert rows[1]["is_outlier"]
    assert rows[1]["instance_score"] is None
    assert rows[1]["error"]
    same([rows[0], rows[2]], screen.predict([files[0], files[2]]))


def test_paths_and_addresses_are_never_followed(client, tmp_path, digit_files):
    (tmp_path / "secret.png").write_bytes(digit_files[0])
    for data in (str(tmp_path / "secret.png"), f"file://{tmp_path}/secret.png", "http://127.0.0.1/secret.png"):
        message = problem(client.post(PREDICT, json={"images": [{"data": data}]}), 422, "unusable")
        assert "base64" in message
    named = client.post(PREDICT, files=[("images", ("../../etc/passwd\n\x1b[0m", digit_files[0]))]).json()
    assert "\x1b" not in named["verdicts"][0]["id"]
    assert "\n" not in named["verdicts"][0]["id"]


def test_a_file_of_a_form_is_called_as_it_is(client, digit_files):
    name = 'a "good" one, 50%.png'  # a double quote travels as %22
    (row,) = client.post(PREDICT, files=[("images", (name, digit_files[0]))]).json()["verdicts"]
    assert row["id"] == name
    assert client.get(f"/v1/events/{row['event']}").json()["name"] == name


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"", "image/png", 422, "unusable"),
        (b"x", "text/plain", 415, "unsupported_type"),
        (b"x", "", 415, "unsupported_type"),
        (b"x", "multipart/form-data", 422, "unusable"),
        (b"x", "multipart/form-data; boundary=y", 422, "unusable"),
        (
            b"--y\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n--y--\r\n",
            "multipart/form-data; boundary=y",
            422,
            0,
        ),
        (b"{", "application/json", 422, "unusable"),
        (b"[" * 100_000, "application/json", 422, "unusable"),
        (b'{"images": []}', "application/json", 422, "unusable"),
        (b'{"images": [{"data": "~"}]}', "application/json", 422, "unusable"),
        (b'{"images": [{"data": 5}]}', "application/json", 422, "unusable"),
        (b"\xff\xfe", "application/json", 422, "unusable"),
    ],
)
def test_malformed_bodies_are_refused_in_words(client, content, kind, status, code):
    assert problem(client.post(PREDICT, content=content, headers={"content-type": kind}), status, code or "unusable")


def test_what_is_not_there(client):
    assert "digits" in problem(client.post("/v1/screens/nothing/predict", content=b"x", headers=PNG), 404, "not_found")
    problem(client.post("/v1/screens/digits/versions/9/predict", content=b"x", headers=PNG), 404, "not_found")
    problem(client.get("/v1/screens/nothing"), 404, "not_found")
    problem(client.get("/v1/events/nothing"), 404, "not_found")
    problem(client.post("/v1/events/nothing/labels", json={"label": "inlier"}), 404, "not_found")
    problem(client.get("/nothing"), 404, "not_found")
    problem(client.get(PREDICT), 405, "method_not_allowed")


def test_limits_of_one_request(digit_screen, tmp_path, digit_files):
    limits = Limits(body_bytes=20_000, images=4, pixels=100)
    with in_process(digit_screen, tmp_path, limits=limits) as client:
        problem(client.post(PREDICT, content=bytes(20_001), headers=PNG), 413, "too_large")
        problem(client.post(PREDICT, content=iter([bytes(15_000)] * 2), headers=PNG), 413, "too_large")
        problem(client.post(PREDICT, json=as_json(digit_files[:5])), 413, "too_large")
        problem(client.post(PREDICT, files=[("i", one) for one in digit_files[:5]]), 413, "too_large")
        packed = {**PNG, "content-encoding": "gzip"}
        problem(client.post(PREDICT, content=b"x", headers=packed), 415, "unsupported_type")
        large = client.post(PREDICT, content=png(np.zeros((11, 11), np.uint8)), headers=PNG).json()["verdicts"][0]
        assert "the limit is 100" in large["error"]
        assert client.post(PREDICT, json=as_json(digit_files[:4])).status_code == 200


def test_no_route_takes_a_body_without_end(digit_screen, tmp_path):
    with in_process(digit_screen, tmp_path, limits=Limits(body_bytes=1000)) as client:
        endless = iter([b" " * 50_000] * 3)
        answer = client.post("/v1/events/x/labels", content=endless, headers={"content-type": "application/json"})
        problem(answer, 413, "too_large")
        assert next(endless, None) is None


def test_a_full_queue_is_told_to_come_back(digit_screen, tmp_path, digit_files):
    with in_process(digit_screen, tmp_path, limits=Limits(waiting=8)) as client:
        service = client.app.state.service
        free = threading.Event()
        service.judge.line.submit(free.wait)
        answers = []

        def ask():
            answers.append(client.post(PREDICT, json=as_json(digit_files[:3])))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 30
        while not answers and time.monotonic() < end:
            time.sleep(0.01)
        refused = answers[0]
        assert "the limit is 8" in problem(refused, 429, "busy")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        free.set()
        for thread in threads:
            thread.join()
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429]
        assert client.get("/v1/events").json()["events"][5]["number"] == 1
        assert client.post(PREDICT, json=as_json(digit_files[:8])).status_code == 200


def test_what_never_can_be_served_is_not_told_to_come_back(digit_screen, tmp_path, digit_files):
    with in_process(digit_screen, tmp_path, limits=Limits(waiting=4, all_bytes=5_000)) as client:
        problem(client.post(PREDICT, json=as_json(digit_files[:5])), 413, "too_large")
        problem(client.post(PREDICT, content=bytes(5_001), headers=PNG), 413, "too_large")
        problem(client.post(PREDICT, content=iter([bytes(3_000)] * 2), headers=PNG), 413, "too_large")
        assert client.post(PREDICT, content=iter([digit_files[0]]), headers=PNG).status_code == 200


def test_the_monitor_of_a_version_whose_folder_is_gone_is_let_go(digit_screen, tmp_path, digit_files):
    for version in ("1", "2"):
        shutil.copytree(digit_screen, tmp_path / "digits" / version)
    with in_process(tmp_path / "digits", tmp_path) as client:
        watch = client.app.state.service.watch
        for version in ("1", "2"):
            client.post(f"/v1/screens/digits/versions/{version}/predict", content=digit_files[0], headers=PNG)
        shutil.rmtree(tmp_path / "digits" / "1")
        client.post("/v1/reload")
        watch.settle()
        assert set(watch._monitors) == {("digits", "2")}


def test_a_deadline_ends_in_a_refusal_and_leaves_the_queue(digit_screen, tmp_path, digit_files):
    with in_process(digit_screen, tmp_path) as client:
        free = threading.Event()
        client.app.state.service.judge.line.submit(free.wait)
        for _ in range(2):
            late = client.post(PREDICT, params={"seconds": 0.05}, content=digit_files[0], headers=PNG)
        assert "0.05 seconds" in problem(late, 503, "unavailable")
        assert int(late.headers["retry-after"]) >= 1
        free.set()
        assert client.post(PREDICT, content=digit_files[0], headers=PNG).status_code == 200
        assert len(client.get("/v1/events").json()["events"]) == 1
        assert 'recondite_batch_images_count{screen="digits"} 1.0' in client.get("/metrics").text


def test_without_its_store_the_service_gives_no_verdict_and_is_not_ready(digit_screen, tmp_path, digit_files):
    with in_process(digit_screen, tmp_path) as client:
        assert client.get("/readyz").json()["status"] == "ready"
        store = client.app.state.service.store
        store.engine.dispose()
        store.engine = type(store)(f"sqlite:///{tmp_path / 'other.db'}").engine
        (tmp_path / "other.db").unlink()
        (tmp_path / "other.db").mkdir()
        store.engine.dispose()
        refused = client.post(PREDICT, content=digit_files[0], headers=PNG)
        assert "the verdict could not be recorded" in problem(refused, 503, "unavailable")
        for path in ("events", "events.csv", "events.zip", "screens/digits/drift"):
            assert "the store does not answer" in problem(client.get(f"/v1/{path}"), 503, "unavailable")
        assert client.get("/readyz").status_code == 503
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/healthz").status_code == 200


def test_an_archive_that_cannot_be_made_whole_leaves_no_file(digit_screen, tmp_path, digit_files, monkeypatch):
    (tmp_path / "temporary").mkdir()
    with in_process(digit_screen, tmp_path, keep="all") as client:
        assert client.post(PREDICT, content=digit_files[0], headers=PNG).status_code == 200
        service = client.app.state.service
        walk = service.store.walk

        async def cut_short(chosen):
            async for row in walk(chosen):
                yield row
            raise Unavailable("the store does not answer")

        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        assert zipfile.ZipFile(io.BytesIO(client.get("/v1/events.zip").content)).namelist()
        monkeypatch.setattr(service.store, "walk", cut_short)
        problem(client.get("/v1/events.zip"), 503, "unavailable")
    assert not list((tmp_path / "temporary").iterdir())


def test_tokens_let_in_and_keep_out(digit_screen, tmp_path, digit_files):
    with in_process(digit_screen, tmp_path, tokens=["first-token", "second-token"]) as client:
        for path in ("/healthz", "/readyz", "/v2/health/live"):
            assert client.get(path).status_code == 200
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic first-token"}):
            for path in ("/v1/screens", "/metrics", "/openapi.json", "/v1/events", "/"):
                answer = client.get(path, headers=headers)
                problem(answer, 401, "unauthorised")
                assert answer.headers["www-authenticate"] == "Bearer"
            assert client.post(PREDICT, content=digit_files[0], headers=PNG | headers).status_code == 401
            assert client.get("/v2/models/digits", headers=headers).json() == {
                "error": answer.json()["error"]["message"]
            }
        for token in ("first-token", "second-token"):
            assert client.get("/v1/screens", headers={"authorization": f"Bearer {token}"}).status_code == 200
    tokens = Tokens(["first-token"])
    assert tokens.allows_cookie(tokens.cookie("first-token"))
    assert not tokens.allows_cookie(tokens.cookie("other-token"))
    assert not Tokens([]).allows_cookie("")


def test_a_page_of_another_site_cannot_ask(client, digit_files):
    foreign = client.post(PREDICT, content=digit_files[0], headers=PNG | {"origin": "http://elsewhere.example"})
    problem(foreign, 403, "foreign_origin")
    own = client.post(PREDICT, content=digit_files[0], headers=PNG | {"origin": "http://testserver"})
    assert own.status_code == 200


def test_metrics_count_what_happened_with_labels_from_the_service_only(digit_screen, tmp_path, digit_files, screen):
    with in_process(digit_screen, tmp_path) as client:
        client.post(PREDICT, json=as_json(digit_files))
        client.post(PREDICT, content=b"x", headers=PNG)
        for path in ("/made-up-1", "/made-up-2", "/v1/screens/made-up-3"):
            client.get(path)
        text = client.get("/metrics").text
    counts = screen.predict(digit_files).counts()
    version = screen.fingerprint()[:12]
    for verdict, count in (counts | {"invalid": 1}).items():
        assert f'recondite_verdicts_total{{screen="digits",verdict="{verdict}",version="{version}"}} {count}.0' in text
    assert f'recondite_p_value_count{{screen="digits"}} {len(digit_files)}.0' in text
    assert 'recondite_requests_total{method="POST",route="/v1/screens/{name}/predict",status="200"} 2.0' in text
    flagged = (counts["outlier"] + 1) / (len(digit_files) + 1)
    assert f'recondite_flagged_share{{screen="digits"}} {flagged}' in text
    assert "made-up" not in text


def test_the_log_has_a_line_of_json_with_the_id_of_the_request(client, caplog, digit_files):
    with caplog.at_level(logging.INFO, "recondite.service"):
        answer = client.post(PREDICT, content=digit_files[0], headers=PNG | {"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "mine-1"
    line = json.loads(JsonLines().format(caplog.records[-1]))
    assert line["request_id"] == "mine-1"
    assert line["status"] == 200
    assert line["inlier"] + line["outlier"] == 1
    forged = client.get("/healthz", headers={"x-request-id": 'x" } forged'})
    assert forged.headers["x-request-id"] != 'x" } forged'


def test_documentation_comes_with_examples_that_work(client):
    described = client.get("/openapi.json").json()
    body = described["paths"]["/v1/screens/{name}/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert client.post(PREDICT, json=body["example"]).json()["verdicts"][0]["error"] is None
    for path in described["paths"].values():
        for operation in path.values():
            assert operation["summary"]


def test_a_label_stands_or_the_guard_abstains(screens, digits, tmp_path, digit_files):
    screen = screens("pca").with_alpha(0.1)
    held = digits[1400:]
    guard = screen.guard(_brightness, ("0", "1"), calibration=held, confidence_share=0.3)
    screen.save(tmp_path / "digits")
    save_guard(guard, tmp_path / "digits")
    with in_process(tmp_path / "digits", tmp_path) as client:
        sent = [
            {"data": base64.b64encode(file).decode(), "label": "1", "confidence": 0.5 + place / 50}
            for place, file in enumerate(digit_files[:20])
        ]
        rows = client.post(PREDICT, json={"images": sent}).json()["verdicts"]
        expected = guard.decide(screen.predict(digit_files[:20]), ["1"] * 20, [one["confidence"] for one in sent])
        assert [row["guard"]["label"] for row in rows] == expected.labels
        assert [row["guard"]["reason"] for row in rows] == list(expected.reasons)
        assert 0 < expected.abstained.sum() < 20
        query = {"label": "1", "confidence": 0.5}
        (one,) = client.post(PREDICT, params=query, content=digit_files[0], headers=PNG).json()["verdicts"]
        assert one["guard"] == rows[0]["guard"]
        unsure = client.post(PREDICT, params={"label": "1"}, content=digit_files[0], headers=PNG)
        assert "confidence" in problem(unsure, 422, "unusable")
        assert "among 0, 1" in problem(
            client.post(PREDICT, params={"label": "7", "confidence": 0.9}, content=digit_files[0], headers=PNG),
            422,
            "unusable",
        )
        bad = client.post(PREDICT, params=query, content=b"no image", headers=PNG).json()["verdicts"][0]["guard"]
        assert bad["label"] is None
        assert "cannot be judged" in bad["reason"]
        metrics = client.get("/metrics").text
        assert 'recondite_guard_decisions_total{decision="abstention",screen="digits"}' in metrics
        plain = client.post(PREDICT, content=digit_files[0], headers=PNG).json()["verdicts"][0]
        assert "guard" not in plain


def _brightness(pixels):
    brightness = 20 * (pixels.mean(dim=(1, 2, 3)) - 0.3)
    return torch.stack([-brightness, brightness], dim=1)


def test_labels_in_the_store_set_the_threshold_anew(screens, tmp_path, digit_files):
    screen = screens("pca")
    screen.save(tmp_path / "digits")
    store = f"sqlite:///{tmp_path / 'events.db'}"
    kept = tmp_path / "kept"
    with in_process(tmp_path / "digits", tmp_path, keep="all") as client:
        sent = [{"data": base64.b64encode(file).decode()} for file in digit_files[:80]]
        rows = client.post(PREDICT, json={"images": sent}).json()["verdicts"]
        for row in rows[:60]:
            assert client.post(f"/v1/events/{row['event']}/labels", json={"label": "inlier"}).status_code == 201
    names = [
        "recalibrate",
        tmp_path / "digits",
        f"{store}?screen=digits",
        "-o",
        tmp_path / "new",
        "--image-store",
        kept,
    ]
    assert main([*map(str, names), "--export-inliers", str(tmp_path / "confirmed")]) == 0
    found = recondite.load(tmp_path / "new")
    different = sorted({row["sha256"]: row["instance_score"] for row in rows[:60]}.values())
    assert sorted(found.calibrator.scores.tolist()) == different
    again = screen.predict(tmp_path / "confirmed")
    assert sorted(again.instance_score.tolist()) == different
    assert main(["monitor", str(tmp_path / "digits"), store]) in (0, 1)


def test_a_kept_image_comes_back_under_a_name_of_its_kind(digit_screen, tmp_path, digit_files):
    with in_process(digit_screen, tmp_path, keep="all") as client:
        sent = {"data": base64.b64encode(digit_files[0]).decode(), "id": "=cmd.jpg"}
        (row,) = client.post(PREDICT, json={"images": [sent]}).json()["verdicts"]
        answer = client.get(f"/v1/events/{row['event']}/image")
        assert answer.content == digit_files[0]
        assert answer.headers["content-disposition"] == f'attachment; filename="{row["sha256"]}.png"'
        assert "'=cmd.jpg" in client.get("/v1/events.csv").text


def test_watching_for_drift_begins_anew_when_asked(digit_screen, tmp_path, digit_files):
    with in_process(digit_screen, tmp_path) as client:
        client.post(PREDICT, content=digit_files[0], headers=PNG)
        client.app.state.service.watch.settle()
        assert client.get("/v1/screens/digits/drift").json()["seen"] == 1
        assert client.delete("/v1/screens/digits/drift").json()["seen"] == 0
        assert client.delete("/v1/screens/nothing/drift").status_code == 404
    with in_process(digit_screen, tmp_path) as client:
        assert client.get("/v1/screens/digits/drift").json()["seen"] == 0
        client.post(PREDICT, content=digit_files[0], headers=PNG)
    with in_process(digit_screen, tmp_path) as client:
        assert client.get("/v1/screens/digits/drift").json()["seen"] == 1


def test_the_short_way_and_the_long_way_answer_alike(digit_screen, tmp_path, digit_files, monkeypatch):
    def both(path, alpha=None, **sent):
        for way in (shortcuts, []):  # where there is none, all goes to the framework
            monkeypatch.setattr(fast_path, "shortcuts", way)
            params = {} if alpha is None else {"alpha": alpha}
            yield client.post(path, params=params, **sent or {"content": digit_files[7], "headers": PNG})

    with in_process(digit_screen, tmp_path) as client:
        fast_path = client.app.front._app
        shortcuts = fast_path.shortcuts
        (served,) = client.get("/v1/screens").json()
        for path in (PREDICT, f"/v1/screens/digits/versions/{served['version']}/predict"):
            rows = [answer.json()["verdicts"][0] for answer in both(path, "0.2")]
            shared = {name: value for name, value in rows[0].items() if name != "event"}
            assert {name: rows[1][name] for name in shared} == shared
        for refused in both(PREDICT, "1e-9"):
            assert "needs at least" in problem(refused, 422, "unusable")
        for path in ("/v1/screens/none/predict", "/v1/screens/digits/versions/none/predict"):
            for refused in both(path, "0.2"):
                assert "none" in problem(refused, 404, "not_found")
        tensor = {
            "name": "images",
            "datatype": "BYTES",
            "shape": [1],
            "data": [base64.b64encode(digit_files[7]).decode()],
        }
        infer = f"/v2/models/digits/versions/{served['version']}/infer"
        for path in ("/v2/models/digits/infer", infer):
            short, long = (answer.json() for answer in both(path, json={"inputs": [tensor]}))
            assert short == long
            assert short["outputs"][0]["data"] == [rows[0]["instance_score"]]
        for path, status, said in ((infer, 400, "takes no parameter"), ("/v2/models/none/infer", 404, "none")):
            for refused in both(path, "0.2" if status == 400 else None, json={"inputs": [tensor]}):
                assert refused.status_code == status
                assert said in refused.json()["error"]
        routes = client.get("/metrics").text
        assert 'route="/v1/screens/{name}/versions/{version}/predict",status="200"} 2.0' in routes
        assert 'route="/v2/models/{name}/versions/{version}/infer",status="200"} 2.0' in routes


def test_a_log_that_nobody_reads_stops_nobody():
    waiting = Queue(2)
    log = Later(waiting)
    records = [logging.makeLogRecord({"msg": "%d", "args": (number,)}) for number in range(3)]
    for record in records:
        log.handle(record)
    assert [waiting.get_nowait(), waiting.get_nowait()] == records[:2]
    assert waiting.empty()


def test_a_table_of_labelled_events_sets_the_threshold_anew(screens, tmp_path, digit_files):
    """As downloaded; of a screen that judges by evidence, whose statistics must all be there."""
    screen = screens("pca")
    screen.save(tmp_path / "digits")
    with in_process(tmp_path / "digits", tmp_path) as client:
        rows = client.post(PREDICT, json=as_json(digit_files[:60])).json()["verdicts"]
        for row in rows:
            client.post(f"/v1/events/{row['event']}/labels", json={"label": "inlier"}).raise_for_status()
        (tmp_path / "events.csv").write_text(client.get("/v1/events.csv?screen=digits").text)
    found = recalibrate(screen, tmp_path / "events.csv", force=True).after
    assert set(found.calibrator.scores.tolist()) == {row["instance_score"] for row in rows}
    assert found.observations.keys() == screen.observations.keys()


def test_a_form_that_was_cut_off_or_says_more_is_refused(client, digit_files):
    form = httpx.Request("POST", "http://x", files=[("a", (f"{n}.png", digit_files[n])) for n in range(2)])
    content = form.read()
    headers = {"content-type": form.headers["content-type"]}
    assert len(client.post(PREDICT, content=content, headers=headers).json()["verdicts"]) == 2
    cut = client.post(PREDICT, content=content[:-8], headers=headers)
    assert "before its closing boundary" in problem(cut, 422, "unusable")
    more = client.post(PREDICT, files={"a": ("a.png", digit_files[0])}, data={"alpha": "0.2"})
    assert "a field 'alpha'" in problem(more, 422, "unusable")
    more = client.post(PREDICT, json={**as_json(digit_files[:1]), "alpha": 0.2})
    assert "alpha: Extra inputs" in problem(more, 422, "unusable")


def test_the_smallest_alpha_is_one_that_can_be_asked_for(screens, tmp_path, digit_files):
    screens("pca").with_alpha(0.1, confidence=0.9).save(tmp_path / "digits")
    with in_process(tmp_path / "digits", tmp_path) as client:
        least = client.get("/v1/screens/digits").json()["smallest_alpha"]
        assert client.post(PREDICT, params={"alpha": least}, content=digit_files[0], headers=PNG).status_code == 200
        less = client.post(PREDICT, params={"alpha": 0.9 * least}, content=digit_files[0], headers=PNG)
        assert less.status_code == 422

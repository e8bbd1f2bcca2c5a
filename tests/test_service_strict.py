"""What the service refuses that other servers let pass, and what it takes as clients differ."""

from base64 import b64encode

import numpy as np
import pytest
from service import in_process

import recondite

pytest.importorskip("fastapi")
PREDICT, INFER = "/v1/screens/digits/predict", "/v2/models/digits/infer"


@pytest.fixture(scope="module")
def client(digit_screen, tmp_path_factory):
    with in_process(digit_screen, tmp_path_factory.mktemp("strict")) as client:
        yield client


@pytest.fixture(scope="module")
def screen(digit_screen):
    return recondite.load(digit_screen)


def infer(client, values, datatype, name="pixels"):
    given = {"name": name, "datatype": datatype, "shape": list(values.shape), "data": values.tolist()}
    return client.post(INFER, json={"inputs": [given]})


def output(answer, name):
    assert answer.status_code == 200, answer.text
    return next(one["data"] for one in answer.json()["outputs"] if one["name"] == name)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (f"{PREDICT}?alhpa=0.1", "alhpa"),
        (f"{PREDICT}?alpha=0.1&alpha=0.2", "'alpha' 2 times"),
        (f"{PREDICT}?group=left", "has no groups"),
        (f"{INFER}?alpha=0.1", "takes no parameter"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(client, digit_files, path, said):
    if path.startswith("/v2"):
        answer = client.post(path, json={})
        assert answer.status_code == 400
        assert said in answer.json()["error"]
    else:
        answer = client.post(path, content=digit_files[0], headers={"content-type": "image/png"})
        assert answer.status_code == 422
        assert said in answer.json()["error"]["message"]


def test_lists_are_strict_too_and_health_is_not(client):
    for path in (
        "/v1/events?screem=digits",
        "/v1/events?limit=5&limit=6",
        "/v1/screens?name=digits",
        "/v1/events.csv?x",
    ):
        assert client.get(path).status_code == 422, path
    for path in ("/healthz?probe=1", "/readyz?probe=1&probe=2", "/metrics?name=x", "/v2/health/live?probe=1"):
        assert client.get(path).status_code == 200, path


def test_a_label_with_more_than_is_known_is_refused(client, digit_files):
    sent = client.post("/v1/screens/digits/predict", content=digit_files[0], headers={"content-type": "image/png"})
    labels = f"/v1/events/{sent.json()['verdicts'][0]['event']}/labels"
    assert client.post(labels, json={"label": "inlier", "notes": "a misspelt note"}).status_code == 422
    assert client.post(labels, json={"label": "inlier", "note": "seen by two"}).status_code == 201


def test_a_group_in_v2_for_a_screen_without_is_refused(client):
    given = {"name": "pixels", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}
    answer = client.post(INFER, json={"inputs": [given], "parameters": {"group": "left"}})
    assert answer.status_code == 400
    assert "has no groups" in answer.json()["error"]


@pytest.mark.parametrize("kind", ["UINT8", "INT16", "INT32", "INT64", "UINT32", "UINT64"])
def test_whole_numbers_of_every_type_are_bytes(client, screen, digits, kind):
    expected = screen.predict(digits[1500:1504]).instance_score.tolist()
    assert output(infer(client, digits[1500:1504, None], kind), "instance_score") == expected
    assert output(infer(client, digits[1500:1504], kind), "instance_score") == expected
    assert output(infer(client, digits[1500:1504, :, :, None], kind), "instance_score") == expected


def test_wide_numbers_that_are_no_bytes_name_the_way_out(client, digits):
    answer = infer(client, digits[1500:1502, None].astype(np.int64) * 257, "INT64")
    assert answer.status_code == 400
    assert "UINT16" in answer.json()["error"]
    assert infer(client, digits[1500:1502, None].astype(np.int64) - 300, "INT64").status_code == 400


def test_half_floats_have_the_scores_of_the_same_values(client, screen, digits):
    values = (digits[1500:1504, None] / 255).astype(np.float16)
    expected = screen.predict(values.astype(np.float32)).instance_score.tolist()
    assert output(infer(client, values, "FP16"), "instance_score") == expected


def test_a_null_score_comes_with_a_reason_that_names_the_way_out(client, digits):
    answer = infer(client, digits[1500:1502, None].astype(np.float32), "FP32")
    assert output(answer, "instance_score") == [None, None]
    reason = answer.json()["parameters"]["error.1"]
    assert "[0, 1]" in reason
    assert "255" in reason
    assert "parameters" not in infer(client, digits[1500:1502, None], "UINT8").json()


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (2, 3, 8, 8), (2, 64), (2, 8, 4), (128,), (2, 1, 1, 8, 8)])
def test_shapes_that_contradict_the_declared_one_are_refused(client, shape):
    answer = infer(client, np.zeros(shape, np.float32), "FP32")
    assert answer.status_code == 400
    assert "(N, 1, 8, 8)" in answer.json()["error"]


def test_files_come_in_one_row(client, digit_files):
    given = {"name": "images", "datatype": "BYTES", "shape": [2, 1]}
    given["data"] = [[b64encode(content).decode()] for content in digit_files[:2]]
    answer = client.post(INFER, json={"inputs": [given]})
    assert answer.status_code == 400
    assert "(N,)" in answer.json()["error"]

"""The Open Inference Protocol, asked with a client that is not ours and by hand."""

import json

import numpy as np
import pytest
from service import in_process, in_thread

import recondite

pytest.importorskip("fastapi")
INFER = "/v2/models/digits/infer"


@pytest.fixture(scope="module")
def process(digit_screen, tmp_path_factory):
    with in_thread(digit_screen, tmp_path_factory.mktemp("v2")) as process:
        yield process


@pytest.fixture(scope="module")
def triton(process):
    http = pytest.importorskip("tritonclient.http")
    with http.InferenceServerClient(f"127.0.0.1:{process.port}") as client:
        yield client


@pytest.fixture(scope="module")
def client(digit_screen, tmp_path_factory):
    with in_process(digit_screen, tmp_path_factory.mktemp("v2")) as client:
        yield client


@pytest.fixture(scope="module")
def screen(digit_screen):
    return recondite.load(digit_screen)


def test_health_and_metadata(triton, screen):
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("digits")
    assert triton.is_model_ready("digits", screen.fingerprint()[:12])
    assert not triton.is_model_ready("nothing")
    assert triton.get_server_metadata()["name"] == "recondite"
    described = triton.get_model_metadata("digits")
    assert described["versions"] == [screen.fingerprint()[:12]]
    assert {one["name"]: (one["datatype"], one["shape"]) for one in described["inputs"]} == {
        "images": ("BYTES", [-1]),
        "pixels": ("FP32", [-1, 1, 8, 8]),
    }
    assert [one["name"] for one in triton.get_model_repository_index()] == ["digits"]


@pytest.mark.parametrize("binary", [True, False])
def test_a_foreign_client_gets_the_scores_of_the_library(triton, screen, digits, binary):
    from tritonclient.http import InferInput, InferRequestedOutput

    images = digits[1500:1540, None]
    expected = screen.predict(images, reconstruction=True)
    for kind, values in (("UINT8", images), ("FP32", images.astype(np.float32) / np.float32(255))):
        given = InferInput("pixels", list(values.shape), kind)
        given.set_data_from_numpy(values, binary_data=binary)
        wanted = [
            InferRequestedOutput(name, binary_data=binary)
            for name in ("instance_score", "p_value", "is_outlier", "verdict", "threshold", "reconstruction")
        ]
        answer = triton.infer("digits", [given], outputs=wanted, request_id="r 7")
        assert answer.get_response()["id"] == "r 7"
        assert answer.as_numpy("instance_score").tolist() == expected.instance_score.tolist()
        assert answer.as_numpy("p_value").tolist() == expected.p_value.tolist()
        assert answer.as_numpy("is_outlier").tolist() == expected.is_outlier.tolist()
        words = [one.decode() if isinstance(one, bytes) else one for one in answer.as_numpy("verdict")]
        assert words == expected.words
        assert set(answer.as_numpy("threshold")) == {expected.threshold}
        np.testing.assert_array_equal(answer.as_numpy("reconstruction"), expected.reconstruction)


def test_a_foreign_client_sends_encoded_files(triton, screen, digit_files):
    from tritonclient.http import InferInput

    files = [*digit_files[:5], b"broken"]
    given = InferInput("images", [len(files)], "BYTES")
    given.set_data_from_numpy(np.array(files, dtype=object), binary_data=True)
    answer = triton.infer("digits", [given], parameters={"alpha": 0.3})
    expected = screen.with_alpha(0.3).predict(files)
    np.testing.assert_array_equal(answer.as_numpy("instance_score"), expected.instance_score)
    assert [one.decode() for one in answer.as_numpy("verdict")] == expected.words
    assert expected.words[-1] == "invalid"
    assert answer.as_numpy("is_outlier")[-1]


def test_a_foreign_client_hears_of_errors(triton):
    from tritonclient.http import InferInput
    from tritonclient.utils import InferenceServerException

    for name, shape, parameters, said in (
        ("nothing", [1, 1, 8, 8], None, "expected one input"),
        ("pixels", [1, 4, 8], None, "expected pixels as numbers"),
        ("pixels", [1, 1, 8, 8], {"alpha": 1e-9}, "needs at least"),
    ):
        given = InferInput(name, shape, "FP32")
        given.set_data_from_numpy(np.zeros(shape, np.float32))
        with pytest.raises(InferenceServerException, match=said):
            triton.infer("digits", [given], parameters=parameters)
    with pytest.raises(InferenceServerException, match="no screen"):
        triton.infer("other", [given])


def test_an_invalid_image_has_a_null_score_in_json(client, digit_files):
    from base64 import b64encode

    given = {"name": "images", "datatype": "BYTES", "shape": [2], "data": [b64encode(digit_files[0]).decode(), "eHg="]}
    outputs = client.post(INFER, json={"inputs": [given]}).json()["outputs"]
    found = {one["name"]: one["data"] for one in outputs}
    assert found["instance_score"][1] is None
    assert found["instance_score"][0] is not None
    assert found["verdict"][1] == "invalid"
    assert found["is_outlier"][1] is True


GOOD = {"name": "pixels", "datatype": "FP32", "shape": [1, 1, 8, 8]}
WITH_DATA = GOOD | {"data": [0.5] * 64}


@pytest.mark.parametrize(
    ("head", "tail", "said"),
    [
        (b"{", b"", "JSON"),
        (b"[" * 100_000, b"", "JSON"),
        ({}, b"", "list of inputs"),
        ({"inputs": []}, b"", "one input"),
        ({"inputs": [5]}, b"", "name, a datatype and a shape"),
        ({"inputs": [GOOD | {"shape": [-1]}]}, b"", "shape of whole numbers"),
        ({"inputs": [GOOD | {"shape": [True]}]}, b"", "shape of whole numbers"),
        ({"inputs": [GOOD | {"datatype": "FP8"}]}, b"", "datatype"),
        ({"inputs": [GOOD | {"data": [0.5] * 63}]}, b"", "64 values"),
        ({"inputs": [GOOD | {"data": ["x"] * 64}]}, b"", "numbers"),
        ({"inputs": [GOOD | {"data": [[1], [2, 3]]}]}, b"", "numbers"),
        ({"inputs": [GOOD | {"data": [300] * 64, "datatype": "UINT8"}]}, b"", "out of range"),
        ({"inputs": [GOOD | {"parameters": {"binary_data_size": 8}}]}, b"x" * 8, "256 bytes"),
        ({"inputs": [GOOD | {"parameters": {"binary_data_size": 300}}]}, b"x" * 8, "at most 8"),
        ({"inputs": [GOOD | {"parameters": {"binary_data_size": -1}}]}, b"x" * 8, "at most 8"),
        ({"inputs": [GOOD | {"parameters": 5}]}, b"", "parameters"),
        ({"inputs": [WITH_DATA]}, b"x", "follow the last tensor"),
        ({"inputs": [WITH_DATA], "outputs": [{"name": "x"}]}, b"", "outputs among"),
        ({"inputs": [WITH_DATA], "parameters": {"alpha": "x"}}, b"", "positive number"),
        ({"inputs": [GOOD | {"shape": [0, 1, 8, 8], "data": []}]}, b"", "at least one"),
        ({"inputs": [GOOD | {"shape": [1] * 65, "data": [0.5]}]}, b"", "at most 8 axes; got 65"),
        ({"inputs": [GOOD | {"shape": [0, *[2**31 - 1] * 3], "data": []}]}, b"", "at least one"),
        (
            {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}}]},
            b"\xff\xff\xff\xffab",
            "longer than what is left",
        ),
    ],
)
def test_malformed_requests_are_refused_in_words(client, head, tail, said):
    content = head if isinstance(head, bytes) else json.dumps(head).encode()
    headers = {"inference-header-content-length": str(len(content))} if tail else {}
    answer = client.post(INFER, content=content + tail, headers=headers)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]


def test_bad_pixels_are_invalid_not_inliers(client):
    data = [0.5] * 63 + [7.0]
    outputs = client.post(INFER, json={"inputs": [GOOD | {"data": data}]}).json()["outputs"]
    assert {one["name"]: one["data"] for one in outputs}["verdict"] == ["invalid"]


def test_a_wrong_length_of_the_head_is_refused(client):
    for length in (b"-1", b"x", b"999999", b"\xb2", b"1" * 5000):
        answer = client.post(INFER, content=b"{}", headers={"inference-header-content-length": length})
        assert answer.status_code == 400


def test_verdicts_are_events_too(client, digits):
    values = (digits[1500] / 255).tolist()
    wanted = [{"name": "event"}, {"name": "instance_score"}]
    request = {"inputs": [GOOD | {"data": values}], "outputs": wanted}
    outputs = client.post(INFER, json=request).json()["outputs"]
    event = client.get(f"/v1/events/{outputs[0]['data'][0]}").json()
    assert event["instance_score"] == outputs[1]["data"][0]

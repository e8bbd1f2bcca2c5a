"""Parts of the service without HTTP: batches, budget, drift and webhook, charts, deployment files."""

import asyncio
import http.server
import json
import re
import threading
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml

import recondite
from recondite.images import Preprocessing

pytest.importorskip("fastapi")

from recondite.service import charts
from recondite.service.batching import Batcher
from recondite.service.budget import Budget
from recondite.service.counters import Counters
from recondite.service.refusals import Busy
from recondite.service.screens import natural
from recondite.service.watch import Watch

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def screen(digit_screen):
    return recondite.load(digit_screen)


@pytest.fixture(scope="module")
def rows(digits):
    prepare = Preprocessing(shape=(1, 8, 8))
    return np.stack([prepare(digit) for digit in digits[1500:1600]])


def test_batches_fill_under_load_and_scores_stay_with_their_requests(screen, rows):
    sizes = []

    async def run():
        batcher = Batcher(screen, ThreadPoolExecutor(1), lambda size, _: sizes.append(size))
        parts = [rows[0:1], rows[1:41], rows[41:44], rows[44:100]]
        return await asyncio.gather(*(batcher.score(part, maps=place == 1) for place, part in enumerate(parts)))

    found = asyncio.run(run())
    assert sizes == [32, 32, 32, 4]
    expected = screen.predict(rows[:, 0]).instance_score
    np.testing.assert_array_equal(np.concatenate([one.instance_score for one in found]), expected)
    assert [one.reconstruction is not None for one in found] == [False, True, False, False]
    assert found[1].reconstruction.shape == (40, 1, 8, 8)


def test_a_request_that_went_away_is_not_scored(screen, rows):
    sizes = []

    async def run():
        worker, free = ThreadPoolExecutor(1), threading.Event()
        worker.submit(free.wait)
        batcher = Batcher(screen, worker, lambda size, _: sizes.append(size))
        first = asyncio.create_task(batcher.score(rows[:1], maps=False))
        await asyncio.sleep(0)
        gone = asyncio.create_task(batcher.score(rows[:20], maps=False))
        stays = asyncio.create_task(batcher.score(rows[20:22], maps=False))
        await asyncio.sleep(0.01)
        gone.cancel()
        free.set()
        await asyncio.gather(first, stays)

    asyncio.run(run())
    assert sum(sizes) == 3


def test_a_failing_batch_fails_its_requests_and_no_others(screen, rows):
    async def run():
        batcher = Batcher(screen, ThreadPoolExecutor(1), lambda *_: None)
        wrong = await asyncio.gather(batcher.score(rows[:2, :, :5], maps=False), return_exceptions=True)
        right = await batcher.score(rows[:2], maps=False)
        return wrong[0], right

    wrong, right = asyncio.run(run())
    assert isinstance(wrong, Exception)
    assert len(right) == 2


def test_a_budget_refuses_what_goes_over_and_gives_back():
    budget = Budget(10, "images")
    with budget.take(6):
        with pytest.raises(Busy, match="the limit is 10") as refused, budget.take(5):
            pass
        assert 1 <= refused.value.retry_after <= 60
        with budget.take(4):
            assert budget.taken == 10
    assert budget.taken == 0


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
    watch = Watch(counters, f"http://127.0.0.1:{server.server_port}/x", false_alarm=0.01)
    normal, dark = (screen.predict(pixels[:, 0]) for pixels in (rows[:30], rows * np.float32(0.3)))
    assert watch.state("digits", "1") is None
    watch.judged("digits", "1", screen, normal, [""] * 30)
    watch.settle()
    assert not got
    for _ in range(3):
        watch.judged("digits", "1", screen, dark, [""] * 100)
    assert arrived.wait(30)
    watch.settle()
    monitor, moved = watch.state("digits", "1")
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
    svg = charts.calibration_curve(scores, score, p_value, 0.05, float(scores[-5]))
    ET.fromstring(svg)
    cx, cy = numbers(svg, "cx")[0], numbers(svg, "cy")[0]
    assert 40 <= cx <= 510
    assert cy == pytest.approx(166 - p_value * (166 - 22), abs=0.1)
    assert ("not flagged" in svg) == (p_value > 0.05)


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


def test_the_deployment_files_fit_the_command():
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    assert set(compose["services"]) == {"recondite", "postgres", "prometheus"}
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    for copied in re.findall(r"^COPY (.*) \S+$", dockerfile, flags=re.MULTILINE):
        for name in copied.split():
            assert (ROOT / name).exists(), name
    from recondite.cli import _make_app

    command = ["serve", *map(str, compose["services"]["recondite"]["command"])]
    app = _make_app(command)
    _, bound, _ = app.parse_args(command, exit_on_error=False, print_error=False)
    assert bound.arguments["keep"] == "flagged"
    assert (
        yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"][0]["job_name"] == "recondite"
    )

"""The page in a real browser, with every address but its own blocked."""

import csv
import io
import os
import shutil
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from service import running

import recondite

pytest.importorskip("nicegui")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PANELS = ("Judge", "Review", "Threshold", "Monitor", "Perturb", "Map")
# A slow machine may take long; nothing here waits longer than it must.
WAIT = 30_000

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def process(digit_screen, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("page")
    keep = ("--keep-images", "all", "--keep-folder", tmp_path / "kept")
    with running(tmp_path, digit_screen, "--store", f"sqlite:///{tmp_path / 'events.db'}", *keep, page=True) as process:
        yield process


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as found:
        browser = found.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Visitor:
    def __init__(self, browser, url, **context):
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT)
        self.blocked, self.errors = [], []
        self.url = url
        self.page.route("**/*", self.route)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)

    def route(self, route):
        if route.request.url.startswith((self.url, "data:", "blob:")):
            route.continue_()
        else:
            self.blocked.append(route.request.url)
            route.abort()

    def open(self, panel):
        self.page.get_by_role("tab", name=panel).click()
        self.see(panel if panel != "Judge" else "Judge images", role="heading")

    def see(self, text, role=None):
        found = self.page.get_by_role(role, name=text) if role else self.page.get_by_text(text)
        found.locator("visible=true").first.wait_for()

    def shoot(self, name):
        folder = os.environ.get("RECONDITE_SCREENSHOTS")
        if folder:
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)

    def check(self, name):
        self.shoot(name)
        found = axe.Axe().run(self.page).response["violations"]
        bad = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
        assert not bad, f"{name}: {bad}"

    def close(self):
        self.context.close()
        assert not self.blocked, "the page must not load anything from elsewhere"
        assert not self.errors


@pytest.fixture(scope="module")
def visitor(browser, process):
    visitor = Visitor(browser, process.url, viewport={"width": 1200, "height": 900}, accept_downloads=True)
    yield visitor
    visitor.close()


@pytest.fixture(scope="module")
def screen(digit_screen):
    return recondite.load(digit_screen)


@pytest.fixture(scope="module")
def judged(visitor, digit_files, screen):
    """The page after some digits and a broken file were given to it."""
    visitor.see("Judge images")
    visitor.check("judge-empty")
    flags = screen.predict(digit_files).is_outlier
    odd = [content for content, flag in zip(digit_files, flags, strict=True) if flag]
    sent = [*digit_files[:3], *odd[:3], b"nothing"]
    files = [
        {"name": f"n{place}.png", "mimeType": "image/png", "buffer": content} for place, content in enumerate(sent)
    ]
    visitor.page.locator("input[type=file]").set_input_files(files)
    for file in files:
        visitor.page.locator(".row-button", has_text=file["name"]).first.wait_for()
    return visitor, screen.predict(sent)


def test_dropped_images_get_the_verdicts_of_the_library(judged):
    visitor, verdicts = judged
    assert set(verdicts.words) == {"inlier", "outlier", "invalid"}
    for place, word in enumerate(verdicts.words):
        row = visitor.page.locator(".row-button", has_text=f"n{place}.png").first
        assert row.locator(".chip").inner_text() == word
        if word != "invalid":
            assert f"p {verdicts.p_value[place]:.3f}" in row.inner_text()


def test_one_image_is_explained(judged):
    visitor, verdicts = judged
    place = verdicts.words.index("outlier")
    visitor.page.locator(".row-button", has_text=f"n{place}.png").first.focus()
    visitor.page.keyboard.press("Enter")
    visitor.see(f"n{place}.png is an OUTLIER")
    visitor.see("Why", role="heading")
    assert visitor.page.locator(".pictures figure:visible").count() == 3
    words = visitor.page.locator("svg[role=img]:visible").first.get_attribute("aria-label")
    assert words.startswith(f"{verdicts.p_value[place]:.1%} of normal images")
    visitor.check("judge")
    broken = verdicts.words.index("invalid")
    visitor.page.locator(".row-button", has_text=f"n{broken}.png").first.click()
    visitor.see(f"n{broken}.png is INVALID")


def events(process, **chosen):
    return httpx.get(f"{process.url}/v1/events", params=chosen).json()["events"]


def test_review_with_the_keyboard_and_export(judged, process):
    visitor, verdicts = judged
    visitor.open("Review")
    flagged = sum(verdicts.is_outlier)
    visitor.see(f"{flagged} flagged images are waiting")
    visitor.check("review")
    first, second = (row["id"] for row in events(process, verdict="flagged")[:2])
    visitor.page.keyboard.press("o")
    visitor.see(f"{flagged - 1} flagged images are waiting")
    visitor.page.keyboard.press("i")
    visitor.see(f"{flagged - 2} flagged images are waiting")
    labels = {row["id"]: row["label"] for row in events(process)}
    assert (labels[first], labels[second]) == ("outlier", "inlier")
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("button", name="Export table").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert len(rows) == flagged - 2
    assert any(row["statistic.brightness"] for row in rows)
    found = httpx.get(f"{process.url}/v1/events.zip", params={"label": "inlier"})
    with zipfile.ZipFile(io.BytesIO(found.content)) as archive:
        (name,) = archive.namelist()
        assert name.startswith("inlier/")
        assert name.endswith(".png")
        sha256 = next(row["sha256"] for row in events(process) if row["id"] == second)
        assert sha256 in name


def test_another_alpha_shows_its_interval_and_what_would_change(judged, screen):
    visitor, verdicts = judged
    visitor.open("Threshold")
    visitor.page.get_by_role("spinbutton", name="alpha").fill("0.2")
    low, high = screen.with_alpha(0.2).false_alarm_interval
    visitor.see(f"{low:.3f} to {high:.3f}")
    now, then = (int(np.sum(verdicts.p_value <= alpha)) for alpha in (screen.alpha, 0.2))
    visitor.see(f"{then - now} more than" if then > now else "as many as")
    visitor.check("threshold")
    visitor.page.get_by_role("slider", name="alpha").locator("[tabindex='0']").press("ArrowLeft")
    visitor.page.get_by_role("button", name="Reset").click()
    low, high = screen.false_alarm_interval
    visitor.see(f"{low:.3f} to {high:.3f}")


def test_a_changed_image_has_another_score_and_leaves_no_event(judged, process):
    visitor, _ = judged
    before = len(events(process))
    visitor.open("Perturb")
    heading = visitor.page.get_by_role("heading", name="score")
    heading.wait_for()
    first = heading.inner_text()
    slider = visitor.page.get_by_role("slider", name="mask size").locator("[tabindex='0']")
    for size in range(1, 5):
        slider.press("ArrowRight")
        visitor.see(f"Mask size: {size} x {size} pixels")
    visitor.page.wait_for_function(
        "text => [...document.querySelectorAll('h3')].some(e => e.innerText.includes('score') && e.innerText !== text)",
        arg=first,
    )
    visitor.check("perturb")
    assert len(events(process)) == before


def test_the_map_opens_what_is_clicked(judged):
    visitor, verdicts = judged
    visitor.open("Map")
    links = visitor.page.locator("a[data-place]")
    links.first.wait_for()
    assert links.count() == verdicts.words.count("inlier") + verdicts.words.count("outlier")
    name = links.nth(2).get_attribute("aria-label")
    links.nth(2).focus()
    visitor.page.keyboard.press("Enter")
    visitor.see(name.partition(":")[0], role="heading")
    visitor.check("map")


def test_the_monitor_tells_of_drift(judged, process, digits):
    visitor, _ = judged
    visitor.open("Monitor")
    visitor.see("No alarm of drift")
    darker = (digits[1500:1564] * 0.3).astype(np.uint8)
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [64, 1, 8, 8], "data": darker.reshape(-1).tolist()}
    for _ in range(3):
        assert (
            httpx.post(f"{process.url}/v2/models/digits/infer", json={"inputs": [tensor]}, timeout=60).status_code
            == 200
        )
    visitor.see("Drift: the images are no longer like the calibration images")
    visitor.check("monitor")
    drift = httpx.get(f"{process.url}/v1/screens/digits/drift").json()
    assert drift["alarm"]
    assert "brightness" in {one["statistic"] for one in drift["moved"] if one["moved"]}
    assert 'recondite_drift_alarm{screen="digits"' in httpx.get(f"{process.url}/metrics").text
    visitor.page.get_by_role("button", name="Watch for drift anew").click()
    visitor.see("No alarm of drift")
    assert httpx.get(f"{process.url}/v1/screens/digits/drift").json()["seen"] == 0


@pytest.mark.usefixtures("judged")
def test_a_phone_shows_every_panel_without_scrolling_sideways(browser, process):
    visitor = Visitor(browser, process.url, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    for panel in PANELS:
        visitor.open(panel)
        assert visitor.page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, panel
        visitor.shoot(f"phone-{panel.lower()}")
    visitor.close()


def test_the_page_asks_for_a_token(browser, digit_screen, tmp_path, monkeypatch):
    monkeypatch.setenv("RECONDITE_TOKEN", "a-token-of-ours")
    with running(tmp_path, digit_screen, "--store", f"sqlite:///{tmp_path / 'events.db'}", page=True) as process:
        visitor = Visitor(browser, process.url)
        for token, then in (("wrong-token", "That token is not valid."), ("a-token-of-ours", "Judge images")):
            visitor.page.get_by_label("Token").fill(token)
            visitor.check("login")
            visitor.page.get_by_role("button", name="Sign in").click()
            visitor.see(then)
        (cookie,) = [one for one in visitor.context.cookies() if one["name"] == "recondite"]
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        assert "a-token-of-ours" not in cookie["value"]
        visitor.close()

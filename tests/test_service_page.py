"""The page in a real browser, with every address but its own blocked."""

import csv
import io
import os
import signal
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from service import png, running
from visitor import Visitor

import recondite
from recondite.reports.words import how_rare, p_text

pytest.importorskip("nicegui")

BROKEN = b"\x89PNG\r\n\x1a\n and no more"
PANELS = ("Overview", "Judge", "Review", "Threshold", "Monitor", "Perturb", "Map", "Screens")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def process(digit_screen, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("page")
    # With two workers, requests come to either of them, and the page to the first.
    more = ("--keep-images", "all", "--keep-folder", tmp_path / "kept", "--workers", "2")
    with running(tmp_path, digit_screen, "--store", f"sqlite:///{tmp_path / 'events.db'}", *more, page=True) as process:
        yield process


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
    visitor.see("Screen digits has judged nothing yet")
    visitor.open("Judge")
    visitor.check("judge-empty")
    flags = screen.predict(digit_files).is_outlier
    odd = [content for content, flag in zip(digit_files, flags, strict=True) if flag]
    sent = [*digit_files[:3], *odd[:3], BROKEN]
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
            assert f"p {p_text(verdicts.p_value[place])}" in row.inner_text()


def test_one_image_is_explained(judged, screen):
    visitor, verdicts = judged
    place = verdicts.words.index("outlier")
    visitor.page.locator(".row-button", has_text=f"n{place}.png").first.focus()
    visitor.page.keyboard.press("Enter")
    visitor.see(f"n{place}.png is an OUTLIER")
    visitor.see("Why", role="heading")
    assert visitor.page.locator(".pictures figure:visible").count() == 3
    words = visitor.page.locator("svg[role=img]:visible").first.get_attribute("aria-label")
    assert words.startswith(how_rare(screen, verdicts.instance_score[place], verdicts.p_value[place]))
    visitor.check("judge")
    broken = verdicts.words.index("invalid")
    visitor.page.locator(".row-button", has_text=f"n{broken}.png").first.click()
    visitor.see(f"n{broken}.png is INVALID")


def test_the_heat_map_lies_exactly_over_the_original(judged, digits):
    visitor, _ = judged
    large = png(np.kron(digits[1503][::-1], np.ones((50, 200), np.uint8)))
    visitor.page.get_by_role("checkbox", name="Count these in the store and in drift").click()
    sent = {"name": "large.png", "mimeType": "image/png", "buffer": large}
    visitor.page.locator("input[type=file]").set_input_files([sent])
    visitor.page.locator(".row-button", has_text="large.png").first.click()
    original, heat = visitor.page.locator("img.original:visible"), visitor.page.locator("img.heat:visible")
    visitor.page.wait_for_function("document.querySelector('img.original')?.naturalWidth === 1600")
    heat.wait_for()
    fitted = original.bounding_box()
    assert fitted["width"] == pytest.approx(4 * fitted["height"], rel=0.02)
    assert heat.bounding_box() == fitted
    outline = visitor.page.locator("img.contour:visible")
    assert outline.bounding_box() == fitted
    visitor.page.get_by_role("checkbox", name="outline").uncheck()
    outline.wait_for(state="detached")
    assert visitor.page.locator(".nearest:visible img").count() == 4
    visitor.page.get_by_role("button", name="Full size").click()
    assert original.bounding_box()["width"] == 1600
    assert heat.bounding_box() == original.bounding_box()
    slider = visitor.page.get_by_role("slider", name="heat map opacity")
    slider.press("End")
    assert heat.evaluate("one => one.style.opacity") == "1"
    visitor.page.get_by_role("checkbox", name="Count these in the store and in drift").click()


def events(process, **chosen):
    return httpx.get(f"{process.url}/v1/events", params=chosen).json()["events"]


def test_flagged_images_come_first(judged):
    visitor, verdicts = judged
    chips = visitor.page.locator(".list .row-button .chip").all_inner_texts()
    assert chips == sorted(chips, key=lambda word: word == "inlier")
    assert chips.count("inlier") == verdicts.words.count("inlier") > 0


def test_what_is_no_picture_is_refused_by_what_it_is_and_uploads_can_be_left_out(judged, process, digit_files):
    visitor, _ = judged
    before = len(events(process))
    send = visitor.page.locator("input[type=file]").set_input_files
    for content, what in ((b"%PDF-1.7 ...", "a PDF document"), (b"only words", "a text")):
        send([{"name": "page.png", "mimeType": "image/png", "buffer": content}])
        visitor.see(f"page.png is {what}, not a picture.")
    record = visitor.page.get_by_role("checkbox", name="Count these in the store and in drift")
    record.click()
    send([{"name": 'not "recorded".png', "mimeType": "image/png", "buffer": digit_files[10]}])
    visitor.page.locator(".row-button", has_text='not "recorded".png').first.wait_for()
    record.click()
    assert len(events(process)) == before


def test_pictures_that_were_not_judged_are_told(judged, process, digit_files):
    visitor, _ = judged
    before = len(events(process))
    visitor.page.route("**/upload/*", lambda route: route.abort())
    files = [{"name": f"m{place}.png", "mimeType": "image/png", "buffer": digit_files[0]} for place in range(203)]
    visitor.page.locator("input[type=file]").set_input_files(files)
    visitor.see("200 pictures are judged here at a time: 3 files left out.")
    visitor.see("was not judged, as it did not reach the service, nor were 199 more.")
    visitor.page.unroute("**/upload/*")
    assert len(events(process)) == before


def labels_of(process):
    return {row["id"]: row["label"] for row in events(process) if row["label"]}


def drawn(visitor, other=None):
    """The event that is drawn, once it is, and is not `other`."""
    visitor.page.wait_for_function(
        "other => { const id = document.querySelector('.box-stage')?.dataset.drawn; return id && id !== other }",
        arg=other,
    )
    return visitor.page.locator(".box-stage").get_attribute("data-drawn")


def test_review_with_the_keyboard_undo_and_export(judged, process):
    visitor, _ = judged
    visitor.open("Review")
    first = drawn(visitor)
    queue = httpx.get(f"{process.url}/page/queue", params={"screen": "digits"}).json()
    assert first == queue["events"][0]["id"], "invalid images and the lowest p-values come first"
    visitor.see(f"{queue['count']} images left")
    visitor.check("review")
    kept = next(row["id"] for row in queue["events"] if row["verdict"] == "outlier")
    assert len(httpx.get(f"{process.url}/page/events/{kept}/nearest").json()) == 4
    assert httpx.get(f"{process.url}/page/events/{kept}/outline").headers["content-type"] == "image/svg+xml"
    visitor.page.keyboard.press("o")
    second = drawn(visitor, first)
    visitor.page.keyboard.press("i")
    drawn(visitor, second)
    assert labels_of(process) == {first: "outlier", second: "inlier"}
    visitor.page.route("**/page/labels", lambda route: route.abort())
    visitor.page.keyboard.press("u")
    visitor.see("was not written")
    visitor.page.unroute("**/page/labels")
    assert labels_of(process) == {first: "outlier", second: "inlier"}
    drawn(visitor)
    visitor.page.keyboard.press("u")
    visitor.see(f"{queue['count'] - 1} images left")
    assert labels_of(process) == {first: "outlier"}
    assert drawn(visitor) == second
    visitor.page.locator(".box-side .nearest img").nth(3).wait_for()
    visitor.page.get_by_role("button", name="outlier").and_(visitor.page.locator(".say")).click()
    drawn(visitor, second)
    assert labels_of(process) == {first: "outlier", second: "outlier"}
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("button", name="Export table").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert len(rows) == queue["count"] - 2
    found = httpx.get(f"{process.url}/v1/events.zip", params={"label": "outlier"})
    with zipfile.ZipFile(io.BytesIO(found.content)) as archive:
        assert all(name.startswith("outlier/") for name in archive.namelist())


def test_typing_fast_labels_only_what_is_drawn(judged, process, digit_files):
    visitor, _ = judged
    upright = [content for place, content in enumerate(digit_files) if place % 4 != 3]  # else there would be drift
    files = [("files", (f"fast{place}.png", content)) for place, content in enumerate(upright[3:23])]
    httpx.post(f"{process.url}/v1/screens/digits/predict", files=files, timeout=60).raise_for_status()
    visitor.page.get_by_label("Show", exact=True).select_option("")
    before, here = labels_of(process), drawn(visitor)
    visitor.page.evaluate("""() => {
        window.shown = [];
        const press = (key) => {
            window.shown.push([document.querySelector('.box-stage').dataset.drawn || null, key]);
            document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
        };
        for (const key of 'oio') press(key);
    }""")
    drawn(visitor, here)
    assert visitor.page.evaluate("window.shown") == [[here, "o"], [None, "i"], [None, "o"]]
    assert labels_of(process) == before | {here: "outlier"}


def test_a_label_that_somebody_else_gave_meanwhile_is_not_overwritten(judged, process):
    visitor, _ = judged
    here = drawn(visitor)
    httpx.post(f"{process.url}/v1/events/{here}/labels", json={"label": "skip"}).raise_for_status()
    visitor.page.keyboard.press("o")
    visitor.see("Somebody else has labelled")
    assert labels_of(process)[here] == "skip"


def test_identical_images_are_one_and_several_are_labelled_and_taken_back_together(judged, process, digit_files):
    visitor, _ = judged
    same = [("files", (f"same{place}.png", digit_files[41])) for place in range(3)]
    others = [("files", (f"other{place}.png", digit_files[40 + 4 * place])) for place in range(4)]
    httpx.post(f"{process.url}/v1/screens/digits/predict", files=same + others, timeout=60).raise_for_status()
    visitor.page.get_by_label("Show", exact=True).select_option("")
    visitor.page.get_by_label("Order", exact=True).select_option("newest")
    visitor.page.locator(".frame", has_text="3 x").first.wait_for()
    before = labels_of(process)
    visitor.page.get_by_role("button", name="Select several").click()
    cells = visitor.page.locator(".gallery.table button")
    cells.filter(has_text="other3.png").click()
    cells.filter(has_text="other0.png").click(modifiers=["Shift"])
    cells.filter(has_text="same2.png").click()
    visitor.see("5 selected")
    visitor.check("review-several")
    visitor.page.keyboard.press("i")
    cells.filter(has_text="same2.png").wait_for(state="detached")
    new = {one: label for one, label in labels_of(process).items() if one not in before}
    assert list(new.values()) == ["inlier"] * 7, "four others and one image that came three times"
    visitor.page.get_by_role("button", name="Undo").click()
    cells.filter(has_text="same2.png").wait_for()
    assert labels_of(process) == before
    visitor.page.get_by_role("button", name="Select several").click()
    drawn(visitor)


def test_the_random_tenth_does_not_look_at_the_verdict(process):
    ids = {row["id"] for row in httpx.get(f"{process.url}/v1/events", params={"limit": 1000}).json()["events"]}
    sample = {row["id"] for row in events(process, verdict="sample", limit=1000)}
    assert sample == {one for one in ids if int(one[:8], 16) < 0.1 * 16**8}
    flagged = {row["id"] for row in events(process, verdict="flagged", limit=1000)}
    assert {row["id"] for row in events(process, verdict="review", limit=1000)} == flagged | sample
    table = httpx.get(f"{process.url}/v1/events.csv", params={"verdict": "sample"}).text
    assert {row["sampled"] for row in csv.DictReader(io.StringIO(table))} <= {"0.1"}
    table = httpx.get(f"{process.url}/v1/events.csv", params={"verdict": "review"}).text
    drawn = {row["id"]: float(row["sampled"]) for row in csv.DictReader(io.StringIO(table))}
    assert drawn == {one: 1.0 if one in flagged else 0.1 for one in flagged | sample}


def test_the_buttons_are_always_in_sight_and_the_address_says_what_is_looked_at(browser, process):
    for width, height in ((1366, 768), (390, 844)):
        url = f"{process.url}/?panel=review&alpha=0.2"
        visitor = Visitor(browser, process.url, viewport={"width": width, "height": height})
        visitor.page.goto(url)
        drawn(visitor)
        for button in visitor.page.locator(".say").all():
            box = button.bounding_box()
            assert 0 <= box["y"] <= height - box["height"], (width, box)
        assert "alpha=0.2" in visitor.page.url
        visitor.see("alpha 0.2 on this page")
        visitor.open("Threshold")
        visitor.page.wait_for_url("**panel=threshold**")
        visitor.close()


def test_the_overview_shows_the_most_anomalous(judged, process):
    visitor, _ = judged
    visitor.open("Overview")
    visitor.see("No alarm of drift.")
    shots = visitor.page.locator("button.shot")
    shots.first.wait_for()
    scores = [row["p_value"] for row in events(process, limit=1000) if row["p_value"] is not None]
    assert shots.first.inner_text().split("p ")[-1].startswith(p_text(min(scores)))
    visitor.check("overview")


def test_another_alpha_shows_its_interval_and_what_would_change(judged, process, screen):
    visitor, _ = judged
    visitor.open("Threshold")
    visitor.page.get_by_role("spinbutton", name="alpha").fill("0.2")
    low, high = screen.with_alpha(0.2).false_alarm_interval
    visitor.see(f"{low:.3f} to {high:.3f}")
    p_values = [row["p_value"] for row in events(process, limit=1000) if row["p_value"] is not None]
    now, then = (sum(p <= alpha for p in p_values) for alpha in (screen.alpha, 0.2))
    assert then > now
    visitor.see(f"{then - now} more than")
    noun = "image" if then - now == 1 else "images"
    visitor.see(f"{then - now} {noun} would now be flagged")
    visitor.see("The smallest possible alpha is")
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


def test_what_was_judged_is_still_there_after_seconds_without_a_connection(judged):
    visitor, _ = judged
    visitor.open("Judge")
    rows = visitor.page.locator(".row-button")
    before = rows.count()
    visitor.page.evaluate("""() => {
        const line = window.socket.io;
        line.reconnectionDelay(5000), line.reconnectionDelayMax(5000), line.randomizationFactor(0);
        window.before = true, window.back = false;
        window.socket.on("connect", () => { window.back = true; });
        line.engine.close();
    }""")
    visitor.page.wait_for_function("window.back || !window.before")
    visitor.open("Overview")
    visitor.open("Judge")
    assert visitor.page.evaluate("window.before")
    assert rows.count() == before > 0


def test_the_map_opens_what_is_clicked(judged):
    visitor, verdicts = judged
    visitor.open("Map")
    links = visitor.page.locator("a[data-place]")
    links.first.wait_for()
    assert links.count() >= verdicts.words.count("inlier") + verdicts.words.count("outlier")
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


LONG = [script * (250 // len(script)) for script in ("W", "名前", "слово", "اسم")]


@pytest.fixture(scope="module")
def long_names(judged, process, digit_files):
    """Flagged images with names of 250 letters in four scripts."""
    visitor, verdicts = judged
    odd = digit_files[3::4]
    sent = [("files", (name + ".png", content)) for name, content in zip(LONG, odd, strict=False)]
    httpx.post(f"{process.url}/v1/screens/digits/predict", files=sent, timeout=60).raise_for_status()
    return visitor, verdicts


@pytest.mark.usefixtures("long_names")
@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_a_phone_shows_every_panel_without_scrolling_sideways(browser, process, digit_files, theme):
    phone = {"width": 390, "height": 844}
    visitor = Visitor(browser, process.url, viewport=phone, has_touch=True, is_mobile=True, color_scheme=theme)
    visitor.open("Judge")
    files = [{"name": name + ".png", "mimeType": "image/png", "buffer": digit_files[3]} for name in LONG]
    visitor.page.locator("input[type=file]").set_input_files(files)
    visitor.page.locator(".row-button").nth(len(LONG) - 1).wait_for()
    assert visitor.page.locator("header").bounding_box()["height"] < 160
    for panel in PANELS:
        visitor.open(panel)
        assert visitor.page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, panel
        if theme == "dark":
            visitor.check(f"dark-{panel.lower()}")
    visitor.close()


@pytest.mark.slow
def test_the_page_asks_for_a_token_and_comes_back_when_its_worker_was_killed(
    browser, digit_screen, tmp_path, monkeypatch, digit_files
):
    monkeypatch.setenv("RECONDITE_TOKEN", "a-token-of-ours")
    arguments = (digit_screen, "--store", f"sqlite:///{tmp_path / 'events.db'}", "--workers", "2")
    with running(tmp_path, *arguments, page=True) as process:
        visitor = Visitor(browser, process.url)
        for token, then in (
            ("wrong-token", "That token is not valid."),
            ("a-token-of-ours", "Screen digits has judged nothing yet"),
        ):
            visitor.page.get_by_label("Token").fill(token)
            visitor.check("login")
            visitor.page.get_by_role("button", name="Sign in").click()
            visitor.see(then)
        (cookie,) = [one for one in visitor.context.cookies() if one["name"] == "recondite"]
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        assert "a-token-of-ours" not in cookie["value"]
        drafts = visitor.page.request.get(f"{process.url}/page/drafts")
        assert (drafts.status, visitor.page.get_by_role("tab", name="Screens").count()) == (404, 0)

        os.kill(next(one["process"] for one in process.logged() if one.get("worker") == 0), signal.SIGKILL)
        headers = {"authorization": "Bearer a-token-of-ours", "content-type": "image/png"}
        predict = f"{process.url}/v1/screens/digits/predict"
        with httpx.Client(transport=httpx.HTTPTransport(retries=3), timeout=60) as client:
            assert client.post(predict, content=digit_files[0], headers=headers).status_code == 200  # of the other
        visitor.page.get_by_text("Screen digits has judged nothing yet").wait_for(state="hidden", timeout=120_000)
        visitor.see("Most anomalous")
        visitor.close()

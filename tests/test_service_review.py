"""A day at the review: the keyboard alone in every panel, fifty images in a row, and 5,700 that wait."""

import asyncio
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from service import png, running
from visitor import Visitor

from recondite.service.engine.store import Event, Store

pytest.importorskip("nicegui")
# test_service_page has a faster sibling of each: the keyboard in the review, the map, who comes next.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
PANELS = ("Overview", "Judge", "Review", "Threshold", "Monitor", "Perturb", "Map", "Screens")
MANY = 5700


@pytest.fixture(scope="module")
def process(digit_screen, digits, tmp_path_factory):
    """The service after it has judged sixty images of its own kind, half of them upside down, and kept them."""
    tmp_path = tmp_path_factory.mktemp("review")
    store = f"sqlite:///{tmp_path / 'events.db'}"
    keep = ("--keep-images", "all", "--keep-folder", tmp_path / "kept")
    with running(tmp_path, digit_screen, "--store", store, *keep, page=True) as process:
        process.store = store
        images = [digit[::-1] if place % 2 else digit for place, digit in enumerate(digits[1600:1660])]
        files = [("files", (f"part{place}.png", png(image))) for place, image in enumerate(images)]
        httpx.post(f"{process.url}/v1/screens/digits/predict", files=files, timeout=120).raise_for_status()
        yield process


@pytest.fixture(scope="module")
def visitor(browser, process):
    visitor = Visitor(browser, process.url, viewport={"width": 1366, "height": 768})
    yield visitor
    visitor.close()


def focused(page):
    """What has the focus, whether it can be seen, and whether an outline tells it apart."""
    return page.evaluate("""() => {
        const one = document.activeElement, box = one.getBoundingClientRect(), style = getComputedStyle(one);
        return {
            body: one === document.body,
            seen: box.width > 0 && box.height > 0 && style.visibility === 'visible',
            outlined: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
            html: one.outerHTML.slice(0, 160),
        };
    }""")


def walk(page, most=160):
    """Press Tab until the focus has left the page, and return where it was."""
    found = []
    for _ in range(most):
        page.keyboard.press("Tab")
        here = focused(page)
        if here["body"]:
            return found
        found.append(here)
    raise AssertionError(f"the focus is kept in {found[-3:]}")


def test_the_keyboard_alone_reaches_every_panel_and_never_gets_stuck(visitor, digits):
    page = visitor.page
    visitor.open("Judge")
    files = [{"name": f"{k}.png", "mimeType": "image/png", "buffer": png(digits[1500 + k][::-1])} for k in range(3)]
    page.locator("input[type=file]").first.set_input_files(files)
    page.locator(".row-button").nth(2).wait_for()
    visitor.open("Overview")
    for place, panel in enumerate(PANELS):
        page.get_by_role("tab", name=PANELS[max(place - 1, 0)]).focus()
        if place:
            page.keyboard.press("ArrowRight")
            page.keyboard.press("Enter")
            page.wait_for_url(f"**panel={panel.lower()}**")
        visitor.see(panel if panel != "Judge" else "Judge images", role="heading")
        page.wait_for_function("!document.querySelector('[aria-busy=true]')")
        stops = walk(page)
        assert stops, panel
        assert [one for one in stops if not one["seen"]] == [], panel
        assert [one for one in stops if not one["outlined"]] == [], panel


def test_escape_closes_what_is_open_and_arrows_lead_over_the_map(visitor):
    page = visitor.page
    visitor.open("Review")
    drawn(page)
    several = page.get_by_role("button", name="Select several")
    several.focus()
    page.keyboard.press("Enter")
    page.locator(".gallery.table button:enabled").first.wait_for()
    page.keyboard.press("Escape")
    drawn(page)
    assert several.get_attribute("aria-pressed") == "false"
    visitor.open("Map")
    links = page.locator("a[data-place]")
    links.first.wait_for()
    assert links.evaluate_all("all => all.filter((one) => one.getAttribute('tabindex') === '0').length") == 1
    sides = """all => all.slice(0, 5).map((one) => {
        const box = one.getBoundingClientRect();
        return Math.min(box.width, box.height);
    })"""
    assert min(links.evaluate_all(sides)) >= 44
    links.first.focus()
    places = []
    for key in ("ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
        places.append(page.evaluate("document.activeElement.dataset.place"))
    reached = places[-1]
    page.keyboard.press("Enter")
    assert len(set(places)) > 1
    name = page.locator(f"a[data-place='{reached}']").get_attribute("aria-label").partition(":")[0]
    visitor.see(name, role="heading")


def test_the_same_map_is_left_alone_when_it_is_turned_to_again(visitor):
    """Drawn anew it would take the focus, and the Tab key's place in it, away."""
    page = visitor.page
    visitor.open("Map")
    page.locator("a[data-place]").first.wait_for()
    page.wait_for_function("!document.querySelector('[aria-busy=true]')")
    page.evaluate("""() => {
        const area = document.querySelector('.map').closest('.area');
        area.querySelector('svg').mark = 'first';
        window.ended = false;
        const look = () => { window.ended = !area.hasAttribute('aria-busy'); };
        new MutationObserver(look).observe(area, { attributeFilter: ['aria-busy'] });
    }""")
    visitor.open("Overview")
    visitor.open("Map")
    page.wait_for_function("window.ended")
    assert page.evaluate("document.querySelector('.map svg').mark") == "first"


def drawn(page, other_than=None):
    page.wait_for_function(
        "other => { const stage = document.querySelector('.box-stage'); "
        "return stage?.dataset.drawn && stage.dataset.drawn !== other; }",
        arg=other_than,
    )
    return page.locator(".box-stage").get_attribute("data-drawn")


def labels_of(process):
    rows = httpx.get(f"{process.url}/v1/events", params={"limit": 1000}).json()["events"]
    return {row["id"]: row["label"] for row in rows if row["label"]}


def test_fifty_images_are_reviewed_by_keys_and_each_label_is_that_of_the_image_drawn(visitor, process):
    page = visitor.page
    page.goto(f"{process.url}/?panel=review&show=all")
    waiting = httpx.get(f"{process.url}/page/queue", params={"screen": "digits", "verdict": ""}).json()["count"]
    said, here = {}, None
    for place in range(50):
        here = drawn(page, here)
        assert here not in said
        key, label = (("i", "inlier"), ("o", "outlier"), ("s", "skip"))[place % 3]
        page.keyboard.press(key)
        said[here] = label
    drawn(page, here)
    assert labels_of(process) == said
    visitor.see(f"{waiting - 50} images left")


def event(number):
    return Event(
        id=hashlib.md5(str(number).encode()).hexdigest(),
        time=time.time() - number,
        request_id="r",
        screen="digits",
        version="1",
        name=f"{number}.png",
        group="",
        sha256=f"{number:064x}",
        kept=False,
        verdict="outlier",
        instance_score=1.0 + number,
        p_value=1 / (2 + number),
        threshold=2.5,
        alpha=0.05,
        error=None,
        statistics={},
    )


def test_of_5700_images_that_wait_a_page_holds_two_hundred_and_the_next_follow(visitor, process):
    async def add():
        store = Store(process.store)
        await store.add([event(number) for number in range(MANY)])
        store.close()

    with ThreadPoolExecutor(1) as other:  # in this thread a loop runs already, that of the browser
        other.submit(asyncio.run, add()).result()
    asked = {"screen": "digits", "verdict": "outlier"}
    answer = httpx.get(f"{process.url}/page/queue", params=asked)
    first = [row["id"] for row in answer.json()["events"]]
    waiting = answer.json()["count"]
    assert waiting >= MANY
    assert len(first) == 200
    assert len(answer.content) < 100_000
    assert np.diff([row["p_value"] for row in answer.json()["events"]]).min() >= 0
    page = visitor.page
    page.goto(f"{process.url}/?panel=review&show=outlier")
    visitor.see(f"{waiting:,} images left")
    assert page.locator(".strip button").count() == 200
    assert page.evaluate("document.querySelectorAll('*').length") < 3000
    seen = dict.fromkeys(first)
    labelled = httpx.post(f"{process.url}/page/labels", json={"label": "inlier", "seen": seen}, timeout=60)
    assert labelled.json()["refused"] == []
    page.get_by_role("button", name="Refresh").click()
    visitor.see(f"{waiting - 200:,} images left")
    assert page.locator(f"[data-event='{first[0]}']").count() == 0
    visitor.open("Overview")
    visitor.see("flagged, waiting for a label")
    assert page.evaluate("document.querySelectorAll('*').length") < 3000

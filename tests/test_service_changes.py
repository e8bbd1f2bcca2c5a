"""The page while something changes beneath it: the chosen screen, the default version, what came, the connection."""

import httpx
import pytest
from service import running
from visitor import Visitor

import recondite
from recondite.service.engine.publishing import publish

pytest.importorskip("nicegui")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def process(screens, tmp_path_factory):
    """A service of two screens, digits and others; keyboard, sockets and uploads are those of a real one."""
    tmp_path = tmp_path_factory.mktemp("changes")
    for name in ("digits", "others"):
        screens("pca").save(tmp_path / "screens" / name / "1")
    keep = ("--keep-images", "all", "--keep-folder", tmp_path / "kept")
    store = ("--store", f"sqlite:///{tmp_path / 'events.db'}")
    with running(tmp_path, tmp_path / "screens", *store, *keep, page=True) as process:
        process.folder = tmp_path / "screens"
        yield process


@pytest.fixture
def visitor(browser, process):
    visitor = Visitor(browser, process.url, viewport={"width": 1280, "height": 800})
    visitor.open("Judge")
    yield visitor
    visitor.close()


def files(contents, name="{}.png"):
    return [
        {"name": name.format(place), "mimeType": "image/png", "buffer": content}
        for place, content in enumerate(contents)
    ]


def drop(visitor, sent):
    visitor.page.locator(".drop:visible input[type=file]").set_input_files(sent)


def held(visitor):
    """Hold back what is sent, as a slow connection does; return what is held."""
    found = []
    visitor.page.route("**/upload/*", lambda route: found.append(route))
    return found


def wait_for(visitor, found, count):
    while len(found) < count:
        visitor.page.wait_for_timeout(5)


def focus(visitor):
    return visitor.page.evaluate("document.activeElement.innerText")


def events(process):
    return httpx.get(f"{process.url}/v1/events", params={"limit": 1000}).json()["events"]


def choose_screen(visitor, name):
    visitor.page.get_by_role("combobox", name="Screen").click()
    visitor.page.get_by_role("option", name=name).click()
    visitor.page.locator(".about", has_text=f"screen {name}").wait_for()


def test_dropped_pictures_are_judged_by_the_screen_that_was_chosen_when_they_were_dropped(
    visitor, process, digit_files
):
    waiting = held(visitor)
    drop(visitor, files(digit_files[:2], "kept{}.png"))
    wait_for(visitor, waiting, 2)
    choose_screen(visitor, "others")
    record = visitor.page.get_by_role("checkbox", name="Count these in the store and in drift")
    record.click()
    drop(visitor, files(digit_files[2:4], "not counted{}.png"))  # however soon after the click
    wait_for(visitor, waiting, 4)
    record.click()
    [route.continue_() for route in waiting]
    visitor.page.locator(".row-button", has_text="not counted0.png").wait_for()
    choose_screen(visitor, "digits")
    visitor.page.locator(".row-button", has_text="kept1.png").wait_for()
    visitor.page.locator(".row-button", has_text="kept0.png").wait_for()
    assert {(row["name"], row["screen"]) for row in events(process)} >= {
        ("kept0.png", "digits"),
        ("kept1.png", "digits"),
    }
    assert not [row for row in events(process) if row["name"].startswith("not counted")]
    visitor.page.wait_for_function("document.querySelectorAll('.drop').length === 1")


def test_of_many_files_that_are_no_pictures_one_message_tells(visitor, digit_files):
    texts = [b"%PDF-1.7 ...", b"only words", b"", *[b"other words"] * 5]
    drop(visitor, [*files(texts), *files(digit_files[4:5], "good{}.png")])
    visitor.page.locator(".row-button", has_text="good0.png").wait_for()
    visitor.see("5 more were not judged.")
    (message,) = visitor.page.locator(".q-notification").all_inner_texts()
    assert "0.png is a PDF document, not a picture." in message


def test_the_keyboard_stays_on_the_picture_that_it_chose(visitor, digit_files):
    drop(visitor, files(digit_files[5:9]))
    rows = visitor.page.locator(".row-button")
    rows.nth(3).wait_for()
    rows.nth(2).focus()
    chosen = focus(visitor)
    visitor.page.keyboard.press("Enter")
    visitor.page.locator(".row-button[aria-current=true]", has_text=chosen.split()[0]).wait_for()
    visitor.page.wait_for_function("document.activeElement.getAttribute('aria-current') === 'true'")
    assert focus(visitor) == chosen


def test_the_keyboard_stays_on_the_overview_while_images_come(visitor, process, digit_files):
    visitor.open("Overview")
    button = visitor.page.get_by_role("button", name="Review", exact=True)
    button.focus()
    shots = visitor.page.locator("button.shot")
    before = shots.count()
    sent = [("files", (f"new{place}.png", content)) for place, content in enumerate(digit_files[9:10])]
    httpx.post(f"{process.url}/v1/screens/digits/predict", files=sent, timeout=60).raise_for_status()
    visitor.page.locator("button.shot", has_text="new0.png").or_(shots.nth(before)).first.wait_for()
    visitor.page.wait_for_function("document.activeElement.innerText === 'Review'")


def test_pictures_on_their_way_when_the_page_is_loaded_anew_are_told(visitor, digit_files):
    waiting = held(visitor)
    drop(visitor, files(digit_files[:3]))
    wait_for(visitor, waiting, 3)
    waiting[0].continue_()
    visitor.page.locator(".row-button").first.wait_for()
    visitor.page.wait_for_function("UnderWay.of('pictures') === 2")
    visitor.page.reload()
    visitor.see("2 pictures were not judged, as the page was loaded anew while they were on the way: drop them again.")


def test_an_open_page_follows_the_version_that_is_served(visitor, process):
    choose_screen(visitor, "others")
    publish(process.folder / "others", recondite.load(process.folder / "others" / "1").with_alpha(0.3).save)
    httpx.post(f"{process.url}/v1/reload", timeout=60).raise_for_status()
    visitor.see("Version 2 of others is served now.")
    visitor.page.locator(".about", has_text="version 2").filter(has_text="alpha 0.3").wait_for()


def test_the_picture_that_is_changed_stays_the_same_while_others_come(visitor, process, digit_files):
    drop(visitor, files(digit_files[10:11], "first{}.png"))
    visitor.page.locator(".row-button", has_text="first0.png").wait_for()
    waiting = held(visitor)
    drop(visitor, files(digit_files[11:12], "second{}.png"))
    wait_for(visitor, waiting, 1)
    visitor.open("Perturb")
    heading = visitor.page.get_by_role("heading", name="score")
    heading.wait_for()
    before = heading.inner_text()
    waiting[0].continue_()
    while "second0.png" not in {row["name"] for row in events(process)}:
        visitor.page.wait_for_timeout(50)
    visitor.page.wait_for_timeout(100)
    slider = visitor.page.get_by_role("slider", name="mask size").locator("[tabindex='0']")
    for key in ("ArrowRight", "ArrowLeft"):
        said = heading.inner_text()
        slider.press(key)
        visitor.page.wait_for_function(
            "said => [...document.querySelectorAll('h3')].some((one) => /score/.test(one.innerText) "
            "&& one.checkVisibility() && one.innerText !== said)",
            arg=said,
        )
    assert heading.inner_text() == before

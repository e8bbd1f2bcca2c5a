"""From a folder of good images to a served screen, in a real browser."""

import io
import zipfile

import httpx
import numpy as np
import pytest
from service import png, running
from test_known_defects import checked
from test_units import scenes as waves
from visitor import WAIT, Visitor

import recondite
from recondite.data.masks import open_region
from recondite.service.engine.publishing import publish

pytest.importorskip("nicegui")
pytestmark = pytest.mark.filterwarnings("ignore")
PIXELS, COUNT = 32, 50


def scenes(count, seed):
    return waves(count, seed, side=PIXELS, smooth=3)


def written(folder, images, draws):
    """A folder of images with noise, as PNG files."""
    folder.mkdir()
    for place, image in enumerate(images[:, 0]):
        noisy = (image + 0.04 * draws.standard_normal(image.shape)).clip(0, 1)
        (folder / f"n{place:02d}.png").write_bytes(png((255 * noisy).round().astype(np.uint8)))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of good images with a file that is no picture, and one of a defect that is hard to see."""
    folder, draws = tmp_path_factory.mktemp("good"), np.random.default_rng(3)
    good = written(folder / "good", scenes(COUNT, seed=0), draws)
    (good / "notes.pdf").write_bytes(b"%PDF-1.7 ...")
    return good, written(folder / "defects", checked(scenes(24, seed=50), seed=1, strength=0.05)[0], draws)


@pytest.fixture(scope="module")
def good(folders):
    return folders[0]


@pytest.fixture(scope="module")
def process(tmp_path_factory, good):
    tmp_path = tmp_path_factory.mktemp("drafts")
    (tmp_path / "screens").mkdir()
    # With two workers, requests for what the page has published come to either of them.
    arguments = ("screens", "--store", "sqlite:///events.db", "--job-place", good, "--workers", "2")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        with running(tmp_path, *arguments, page=True) as process:
            process.folder = tmp_path / "screens"
            yield process


def test_from_a_folder_of_good_images_to_a_served_screen_and_back_to_an_earlier_version(browser, process, folders):
    good, defects = folders
    visitor = Visitor(browser, process.url, viewport={"width": 1366, "height": 768})
    page = visitor.page
    visitor.see("Make your first screen")
    visitor.check("new-screen-empty")
    page.locator("input[webkitdirectory]").set_input_files(good)
    visitor.see(f"{COUNT} images, ")
    page.get_by_text("1 file left out.").click()
    visitor.see("notes.pdf is a PDF document, not a picture.")

    page.get_by_text("Only part of each image counts").click()
    box = page.locator(".sheet svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 16, box["y"] + 1)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] - 1, steps=3)
    with page.expect_response(lambda answer: answer.url.endswith("/region")):
        page.mouse.up()
    visitor.see(f"1 shape drawn, on images of {PIXELS} x {PIXELS} pixels.")
    (draft,) = httpx.get(f"{process.url}/page/drafts").json()
    corners = np.array(draft["polygons"]["polygons"][0])
    assert corners.min(0) == pytest.approx([PIXELS / 16, 0], abs=0.5)
    assert corners.max(0) == pytest.approx([PIXELS, PIXELS], abs=0.5)
    inside = open_region(draft["polygons"]).at(PIXELS, PIXELS)

    known = page.get_by_role("region", name="Known defects, if you like")
    known.locator("input[type=file]").set_input_files(sorted(defects.iterdir())[:2])
    visitor.see("2 known defects. Three or more are needed.")
    known.locator("input[type=file]").set_input_files(sorted(defects.iterdir())[2:])
    visitor.see("24 known defects.")
    known.locator("input[type=file]").set_input_files(good / "notes.pdf")
    known.get_by_text("1 file left out.").wait_for()
    assert page.get_by_role("region", name="Good images").get_by_text("1 file left out.").count() == 1

    page.get_by_role("spinbutton", name="share of good images").fill("0.1")
    page.get_by_role("button", name="Learn", exact=True).click()
    page.get_by_role("progressbar", name="progress of the fit").wait_for()
    page.reload()
    page.get_by_text("What came of it").wait_for(timeout=5 * WAIT)
    visitor.see("The most anomalous of the good images")
    visitor.see("It has learnt the known defects: AUROC of defects like the 24 known ones")
    visitor.check("new-screen")
    trial = page.get_by_role("region", name="Try it")
    bad = png(np.full((PIXELS, PIXELS), 255, np.uint8))
    files = [("bad.png", bad), ("good.png", (good / "n03.png").read_bytes()), ("page.pdf", b"%PDF-1.7")]
    sent = [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in files]
    trial.locator("input[type=file]").set_input_files(sent)
    visitor.see("page.pdf is a PDF document, not a picture.")
    assert trial.locator(".trial .chip").all_inner_texts() == ["inlier", "outlier"], "the latest first"
    trial.locator("img.heat").first.wait_for()
    assert httpx.get(f"{process.url}/v1/events").json()["events"] == []

    page.get_by_role("textbox", name="name of the screen").or_(page.get_by_label("name of the screen")).fill("line 1")
    page.get_by_role("button", name="Publish").click()
    visitor.see("expected a name of at most 64 letters")
    page.get_by_label("name of the screen").fill("line-1")
    page.route("**/publish", lambda route: route.abort())
    page.get_by_role("button", name="Publish").click()
    visitor.see("No answer came")
    page.unroute("**/publish")
    held = []

    def hold(route):
        held.append(route)

    page.route("**/publish", hold)
    page.get_by_role("button", name="Publish").click()
    visitor.see("Publishing: the version is written, tried out and taken into service.")
    assert page.get_by_role("button", name="Publish").is_disabled()
    visitor.check("publishing")
    held[0].continue_()
    visitor.see("Version 1 of line-1 is published and served.")
    screen = recondite.load(process.folder / "line-1" / "1")
    assert screen.alpha == 0.1
    before, after = screen.facts["known_defects"]["known"]
    assert before < after <= 1
    np.testing.assert_array_equal(screen.detector.preprocessing.region, inside)
    answer = httpx.post(
        f"{process.url}/v1/screens/line-1/predict", content=bad, headers={"content-type": "image/png"}, timeout=60
    )
    assert answer.json()["verdicts"][0]["instance_score"] == screen.predict(bad).instance_score[0]
    assert httpx.get(f"{process.url}/page/drafts").json() == []

    visitor.open("Threshold")
    page.get_by_role("spinbutton", name="alpha").fill("0.2")
    page.get_by_role("button", name="Publish with alpha 0.2 as a new version").click()
    visitor.see("Version 2 of line-1 is published and served.")
    assert httpx.get(f"{process.url}/v1/screens/line-1").json()["alpha"] == 0.2
    publish(process.folder / "line-1", recondite.load(process.folder / "line-1" / "1").with_alpha(0.3).save)
    httpx.post(f"{process.url}/v1/reload", timeout=60).raise_for_status()
    page.get_by_role("button", name="Go back to version 1").press("Enter")
    visitor.see("version 3 of line-1 has become the default meanwhile")
    page.reload()
    page.get_by_role("button", name="Go back to version 1").press("Enter")
    visitor.see("Version 1 is served by default again")
    assert httpx.get(f"{process.url}/v1/screens/line-1").json()["alpha"] == 0.1
    visitor.check("versions")
    visitor.close()


def test_a_dark_phone_and_the_keyboard_alone_make_a_region(browser, process, digits):
    phone = {"width": 390, "height": 844}
    visitor = Visitor(browser, process.url, viewport=phone, color_scheme="dark")
    draft = httpx.post(f"{process.url}/page/drafts").json()["id"]
    name = "اسم名前" * 40 + ".png"
    httpx.post(f"{process.url}/page/drafts/{draft}/images", params={"name": name}, content=png(digits[0]))
    visitor.page.goto(f"{process.url}/?panel=screens")
    summary = visitor.page.get_by_text("Only part of each image counts")
    summary.wait_for()
    summary.focus()
    visitor.page.keyboard.press("Enter")
    numbers = visitor.page.get_by_text("By numbers")
    numbers.focus()
    visitor.page.keyboard.press("Enter")
    for side, value in {"left": 2, "top": 0, "right": 8, "bottom": 8}.items():
        visitor.page.get_by_label(f"{side}, pixels").fill(str(value))
    visitor.page.get_by_role("button", name="Add rectangle").press("Enter")
    visitor.see("1 shape drawn, on images of 8 x 8 pixels.")
    assert visitor.page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    visitor.check("dark-new-screen")
    found = httpx.get(f"{process.url}/page/drafts/{draft}").json()
    assert found["polygons"] == {"size": [8, 8], "polygons": [[[2, 0], [8, 0], [8, 8], [2, 8]]]}
    visitor.page.get_by_role("button", name="Discard and begin anew").click()
    visitor.page.get_by_role("button", name="Learn", exact=True).wait_for(state="hidden")
    assert httpx.get(f"{process.url}/page/drafts").json() == []
    visitor.close()


def test_whatever_was_not_taken_is_told_and_a_screen_that_is_gone_begins_anew(browser, process, good, digits):
    visitor = Visitor(browser, process.url, viewport={"width": 1366, "height": 768})
    visitor.page.goto(f"{process.url}/?panel=screens")
    page = visitor.page
    page.get_by_role("button", name="Take images from the server").click()
    visitor.see("Name a folder of the server, or an address, to take images from.")
    page.get_by_role("textbox", name="folder or address on the server").fill(str(good))
    page.get_by_role("button", name="Take images from the server").click()
    visitor.see(f"{COUNT} images, ")
    page.get_by_role("spinbutton", name="share of good images").fill("2")
    page.get_by_role("button", name="Learn", exact=True).click()
    visitor.see("Expected a share between 0 and 1 that may be flagged")

    (draft,) = httpx.get(f"{process.url}/page/drafts").json()
    httpx.delete(f"{process.url}/page/drafts/{draft['id']}").raise_for_status()
    chosen = page.get_by_role("region", name="Good images").locator("input[type=file]:not([webkitdirectory])")
    sent = [{"name": f"{place}.png", "mimeType": "image/png", "buffer": png(digits[place])} for place in range(2)]
    chosen.set_input_files(sent)
    visitor.see("2 files were not taken. The first: 0.png: this screen is not being made any more")
    chosen.set_input_files([sent[0], sent[1] | {"buffer": sent[1]["buffer"][:-40]}])
    visitor.see("2 images, ")
    visitor.see("cannot be read")
    page.get_by_role("button", name="Discard and begin anew").click()
    page.get_by_role("button", name="Learn", exact=True).wait_for(state="hidden")
    visitor.close()


def test_of_more_pictures_than_are_tried_at_a_time_the_others_are_named(browser, process):
    visitor = Visitor(browser, process.url, viewport={"width": 1366, "height": 768})
    visitor.page.goto(f"{process.url}/?panel=screens")
    visitor.see("Good images")
    sent = """async ([count, words]) => {
        const screen = document.querySelector("new-screen"), tried = [];
        screen.draft = { id: "x" };
        screen.tried = (found) => (tried.push(found), document.createElement("p"));
        const refused = { ok: false, json: async () => ({ error: { message: words } }) };
        window.fetch = async (address) => address.includes("bad") ? refused : { ok: true, json: async () => ({}) };
        const names = [...Array(count).keys()].map((place) => place === 3 ? "bad.png" : `${place}.png`);
        await screen.tryOut(names.map((name) => new File(["a"], name)));
        return [tried.length, screen.trouble.textContent];
    }"""
    assert visitor.page.evaluate(sent, [52, "it is a text"]) == [
        49,
        "3 files were not taken. The first: bad.png: it is a text",
    ]
    assert visitor.page.evaluate(sent, [51, "it is a text"])[1].startswith("2 files were not taken.")
    visitor.close()


def begun(process):
    return f"{process.url}/page/drafts/{httpx.post(f'{process.url}/page/drafts').json()['id']}"


@pytest.mark.slow
def test_archives_and_places_give_the_same_images_and_a_fit_can_be_cancelled(process, good):
    draft = begun(process)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path in sorted(good.iterdir()):
            archive.write(path, f"../{path.name}")
        archive.writestr("broken.png", b"\x89PNG" + bytes(40))
    address = f"{process.url}/page/drafts/archive"
    found = httpx.post(
        address, params={"draft": draft.rpartition("/")[2]}, content=stream.getvalue(), timeout=60
    ).json()
    assert (found["count"], found["refused"]) == (COUNT, {"images": 1, "defects": 0})
    assert not list(process.folder.parent.glob("*.png")), "names of archives are never paths"
    other = begun(process)
    by_place = httpx.post(f"{other}/place", json={"place": str(good)}, timeout=60).json()
    assert by_place["bytes"] == found["bytes"]
    refused = httpx.post(f"{other}/place", json={"place": str(good.parent.parent)})
    assert refused.status_code == 422
    assert "not among those" in refused.json()["error"]["message"]
    assert httpx.post(f"{draft}/fit", json={}).json()["state"] == "fitting"
    busy = [httpx.post(f"{other}/fit", json={}), httpx.put(f"{draft}/region", json={"polygons": None})]
    assert [answer.status_code for answer in busy] == [429, 429]
    cancelled = httpx.post(f"{draft}/cancel", json={}, timeout=60).json()
    assert (cancelled["state"], cancelled["error"]) == ("collecting", "The fit was cancelled.")
    for address in (draft, other):
        httpx.delete(address).raise_for_status()
        assert httpx.get(address).status_code == 404
    assert list((process.folder / ".drafts").iterdir()) == []

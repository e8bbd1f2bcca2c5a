"""The page's own elements in a real browser, with answers made up here in place of a service."""

import json
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("nicegui")
from recondite.service.page import review
from recondite.service.page.frame import script, stylesheet

SITE = "http://page.test"
FITTED = {"state": "collecting", "defects": [], "images": [], "count": 0, "bytes": 0, "refused": {}, "refusals": {}}
DRAFT = FITTED | {"id": "d", "next": {"images": 1, "defects": 1}}


class Answers:
    """What the page asks for is answered by rows and labels held here; what it sends is kept."""

    def __init__(self, page):
        self.page, self.rows, self.sent, self.silent, self.findings = page, [], [], 0, {}
        self.errors = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.route("**/*", self.answer)

    def open(self, body, query=""):
        self.body = body
        self.page.goto(f"{SITE}/?{query}")

    def answer(self, route):
        address = urlsplit(route.request.url)
        if route.request.is_navigation_request():
            page = f"<!doctype html><script>{script()}</script><style>{stylesheet()}</style><body>{self.body}"
            route.fulfill(body=page, content_type="text/html")
        elif route.request.method == "POST" and self.silent:
            self.silent -= 1
            route.abort()
        else:
            found = self.found(route.request, address.path, parse_qs(address.query))
            route.fulfill(json=found) if found is not None else route.fulfill(status=404, json={})

    def found(self, request, path, query):
        if path == "/page/queue":
            return {"count": sum(len(row["copies"]) for row in self.rows), "events": self.rows}
        if path == "/page/labels":
            said = json.loads(request.post_data)
            self.sent.append((said["label"], list(said["seen"])))
            label = None if said["label"] == "none" else said["label"]
            return {"labels": dict.fromkeys(said["seen"], label), "refused": []}
        if path == "/page/drafts":
            return DRAFT if request.method == "POST" else []
        if path == "/page/drafts/d/images":
            self.sent.append(query["name"][0])
        if path.startswith("/page/drafts/d"):
            return DRAFT
        if path.endswith("/findings"):
            return self.findings[query["kind"][0]]
        if path.startswith("/page/audits/"):
            kinds = [{"kind": kind, "count": len(found), "decided": 0} for kind, found in self.findings.items()]
            return {"kinds": kinds, "keep": 1, "drop": 1, "decided": 0}
        return None

    def press(self, keys):
        """Press keys one after the other without any time between them."""
        self.page.evaluate(
            "keys => { for (const key of keys) "
            "document.body.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true })); }",
            keys,
        )

    def focus(self):
        """What has the keyboard's focus."""
        return self.page.evaluate("document.activeElement.dataset.focus ?? document.activeElement.tagName")

    def drawn(self, event):
        self.page.locator(f".box-stage[data-drawn='{event}']").wait_for()

    def see(self, text):
        self.page.get_by_text(text).locator("visible=true").first.wait_for()


@pytest.fixture
def answers(browser):
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(30_000)
    answers = Answers(page)
    yield answers
    context.close()
    assert not answers.errors


def row(name, copies=1):
    seen = {f"{name}{place}" if place else name: None for place in range(copies)}
    facts = {"verdict": "outlier", "p_value": 0.1, "instance_score": 1.0, "label": None, "kept": False}
    return {"id": name, "name": f"{name}.png", "copies": seen} | facts


def opened(answers, *rows, most=10_000):
    answers.rows = list(rows)
    answers.open(f'<light-box data-screen="x" data-most="{most}"></light-box>')
    answers.drawn(rows[0]["id"])
    return answers.page


def several(page):
    page.get_by_role("button", name="Select several").click()
    cells = page.locator(".gallery.table button")
    cells.first.wait_for()
    return cells


def test_undo_right_after_a_label_takes_back_that_label(answers):
    opened(answers, row("a"), row("b"), row("c"))
    answers.press("o")
    answers.drawn("b")
    answers.press("iu")
    while len(answers.sent) < 3:
        answers.page.wait_for_timeout(1)
    answers.drawn("b")
    answers.see("2 images left, 1 labelled")
    assert answers.sent == [("outlier", ["a"]), ("inlier", ["b"]), ("none", ["b"])]


def test_what_was_said_can_be_taken_back_when_the_page_was_loaded_anew(answers):
    page = opened(answers, row("a"), row("b", copies=2), row("c"))
    answers.press("o")
    answers.drawn("b")
    answers.press("i")
    answers.drawn("c")
    answers.rows = [row("c")]
    page.reload()
    answers.drawn("c")
    answers.see("1 image left, 2 labelled")
    answers.rows = [row("b", copies=2), row("c")]
    answers.press("u")
    answers.drawn("b")
    answers.see("3 images left, 1 labelled")
    page.reload()
    answers.drawn("b")
    answers.rows = [row("a"), row("b", copies=2), row("c")]
    answers.press("uu")  # there are but two
    answers.drawn("a")
    assert answers.sent[2:] == [("none", ["b", "b1"]), ("none", ["a"])]
    assert page.get_by_role("button", name="Undo").is_disabled()


def test_undo_of_a_label_that_was_not_written_takes_back_no_other(answers):
    opened(answers, row("a"), row("b"))
    answers.press("o")
    answers.drawn("b")
    answers.silent = 1
    answers.press("iu")
    answers.see("The label of b.png was not written: the service does not answer")
    answers.drawn("b")
    assert answers.sent == [("outlier", ["a"])]


def test_several_pictures_are_labelled_once_however_fast_the_keys_are_pressed(answers):
    page = opened(answers, row("a"), row("b"))
    cells = several(page)
    cells.first.click()
    answers.press("ioi")
    answers.see("1 labelled")
    assert answers.sent == [("inlier", ["a"])]


def test_labels_of_many_identical_images_go_in_pieces_and_are_taken_back_in_pieces(answers):
    page = opened(answers, row("a", copies=25), row("b"), most=10)
    answers.press("i")
    answers.drawn("b")
    assert [(label, len(events)) for label, events in answers.sent] == [("inlier", 10), ("inlier", 10), ("inlier", 5)]
    answers.press("u")
    answers.drawn("a")
    assert [(label, len(events)) for label, events in answers.sent[3:]] == [("none", 10), ("none", 10), ("none", 5)]
    assert page.locator(".count").inner_text() == "26 images left"
    assert 'data-most="10000"' in review._box("x")


def test_where_a_piece_is_not_written_it_is_said_that_not_all_are(answers):
    page = opened(answers, row("a", copies=25), row("b"), most=10)
    first = []

    def one_only(route):
        if first:
            route.abort()
        else:
            first.append(route)
            route.fallback()

    page.route("**/page/labels", one_only)
    answers.press("i")
    answers.see("The label of a.png was not written to all 25 of these: the service does not answer")


def test_the_keyboard_stays_on_the_button_that_labels(answers):
    page = opened(answers, row("a"), row("b"), row("c"), row("d"))
    page.locator(".say.inlier").focus()
    for name in "bc":
        page.keyboard.press("Enter")
        answers.drawn(name)
        assert answers.focus() == "say inlier"
    held = "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', repeat: true, bubbles: true, cancelable: true}))"  # noqa: E501
    assert page.evaluate(held) is False, "held down it would label one picture after the other"


def test_the_keyboard_stays_among_several_pictures(answers):
    page = opened(answers, row("a"), row("b"), row("c"))
    cells = several(page)
    cells.nth(1).focus()
    page.keyboard.press("Space")
    answers.rows = [row("a"), row("c")]
    page.keyboard.press("i")
    page.wait_for_function("document.querySelectorAll('.gallery.table button').length === 2")
    assert answers.focus() == "c"


def test_what_is_drawn_anew_keeps_the_focus_unless_the_visitor_has_gone_elsewhere(answers):
    place = '<main><button data-focus="one">x</button></main>'
    answers.open(f"{place}<p>words</p>")
    page = answers.page
    anew = "document.querySelector('main').innerHTML = '<button data-focus=\"one\">y</button>'"
    page.get_by_role("button").focus()
    page.evaluate(anew)
    page.wait_for_function("document.activeElement.dataset.focus === 'one'")
    page.get_by_text("words").click()
    page.evaluate(anew)
    page.get_by_text("y").wait_for()
    assert answers.focus() == "BODY"


def test_a_service_that_does_not_answer_is_called_that(answers):
    page = opened(answers, row("a"), row("b"))
    answers.silent = 1
    answers.press("i")
    answers.see("The label of a.png was not written: the service does not answer")
    page.route("**/page/queue**", lambda route: route.abort())
    page.get_by_role("button", name="Refresh").click()
    answers.see("The queue of screen x cannot be read: the service does not answer")


def test_an_audit_opens_where_it_was_left(answers):
    facts = {"keep": True, "decision": None, "reason": "", "label": "", "group": ""}
    answers.findings = {"unreadable": [facts | {"id": "u"}], "exact-copy": [facts | {"id": "e"}]}
    answers.open('<audit-findings data-audits="one\ntwo"></audit-findings>')
    page = answers.page
    page.get_by_label("Audit", exact=True).select_option("two")
    page.get_by_label("Kind of finding").select_option("exact-copy")
    page.locator("[data-id=e]").wait_for()
    page.reload()
    page.locator("[data-id=e]").wait_for()
    assert page.get_by_label("Audit", exact=True).input_value() == "two"
    assert page.get_by_label("Kind of finding").input_value() == "exact-copy"


QUICK = """const set = window.setTimeout; window.setTimeout = (work, time) => set(work, time / 100);
window.calls = []; window.socket = { disconnect: () => calls.push("off"), connect: () => calls.push("on") };"""


def files(count):
    return [{"name": f"{place}.png", "mimeType": "image/png", "buffer": b"x"} for place in range(count)]


def choose(answers, count):
    answers.open('<new-screen data-screens="" data-most-bytes="1000"></new-screen>')
    answers.page.evaluate(QUICK)
    answers.see("New screen")
    chosen = answers.page.get_by_role("region", name="Good images").locator("input[type=file]:not([webkitdirectory])")
    return lambda: chosen.set_input_files(files(count))


def test_files_of_a_new_screen_are_sent_on_when_the_service_answers_again(answers):
    send = choose(answers, 9)
    answers.page.route("**/drafts/d/images**", lambda route: outage(route))
    left = [6]

    def outage(route):
        left[0] -= 1
        route.abort() if left[0] >= 0 else route.fallback()

    send()
    answers.page.wait_for_function("window.calls.includes('on')")
    assert sorted(answers.sent) == [f"{place}.png" for place in range(9)]
    assert answers.page.locator("new-screen .trouble").inner_text() == ""
    calls = answers.page.evaluate("window.calls")
    assert calls[0] == "off", "the page is not loaded anew before all are sent"
    assert answers.page.evaluate("UnderWay.of('files')") == 0


def test_files_that_were_on_their_way_when_the_page_was_loaded_anew_are_told(answers):
    send = choose(answers, 7)
    held = []
    answers.page.route("**/drafts/d/images**", lambda route: held.append(route))
    send()
    answers.page.get_by_role("progressbar", name="files sent").first.wait_for()
    while not held:
        answers.page.wait_for_timeout(1)
    answers.page.reload()
    answers.see("The page was loaded anew while files were being sent: 7 files are missing, to be sent again.")
    answers.open("<not-judged></not-judged>")
    assert answers.page.locator("not-judged").inner_text() == ""
    answers.page.evaluate("UnderWay.add('pictures', 3); UnderWay.add('pictures', -1)")
    answers.page.reload()
    answers.see("2 pictures were not judged, as the page was loaded anew while they were on the way: drop them again.")
    answers.page.reload()
    assert answers.page.locator("not-judged").inner_text() == "", "told once"

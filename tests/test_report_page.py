"""Reports in a real browser: enlarged pictures, tables that are sorted, filtered and drawn as they are scrolled."""

import re

import numpy as np
import pytest
from visitor import WAIT

from recondite import write_report
from recondite.data.datasets import ImageSet
from recondite.reports.page import TablePage

pytestmark = pytest.mark.filterwarnings("ignore")
LONG = [script * (250 // len(script)) for script in ("W", "名前", "слово", "اسم")]
WIDE = "columns of many words that make a table scroll"


@pytest.fixture(scope="module")
def report(screens, digits, tmp_path_factory):
    screen = screens("pca")
    pixels = np.concatenate([digits[1500:1700, ::-1], *[digits[:1500]] * 2])[:, None] / np.float32(255)
    images = ImageSet(pixels, ids=[f"{LONG[place % 4]}{place}.png" for place in range(len(pixels))])
    verdicts = screen.predict(images)
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, screen, verdicts, images)
    return path, verdicts, screen


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "study.html"
    rows = [[name, *(f"{value:.2f}" for value in values)] for name, values in {"b": [2] * 20, "a": [10] * 20}.items()]
    made = [("images", name) for name in LONG]
    TablePage(LONG[0], LONG[1], ["method", *[WIDE] * 20], rows, LONG[3], made=made, conclusion=LONG[2]).write(path)
    return path


def opened(browser, path, **context):
    page = browser.new_context(**context).new_page()
    page.set_default_timeout(WAIT)
    page.goto(path.as_uri())
    return page


def serious(page):
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]


def test_every_image_is_in_a_table_of_which_the_rows_in_sight_are_drawn(browser, report):
    path, verdicts, screen = report
    page = opened(browser, path)
    rows = page.locator("data-table tbody tr:not(.space)")
    assert 0 < rows.count() < 60 < len(verdicts)
    assert page.get_by_text(f"{len(verdicts):,} of {len(verdicts):,}").is_visible()
    assert rows.first.locator("td").nth(2).inner_text() == "outlier"
    assert rows.first.locator("img").count() == 1
    page.get_by_role("combobox", name="Show by verdict").select_option("outlier")
    flagged = verdicts.counts()["outlier"]
    assert page.get_by_text(f"{flagged:,} of {len(verdicts):,}").is_visible()
    page.get_by_role("combobox", name="Show by verdict").select_option("")
    page.get_by_role("columnheader", name="score").get_by_role("button").press("Enter")
    assert float(rows.first.locator("td").nth(3).inner_text()) == pytest.approx(verdicts.instance_score.min(), rel=1e-3)
    page.locator(".window").evaluate("one => one.scrollTo(0, one.scrollHeight)")
    page.wait_for_function(f"document.querySelector('tr[aria-rowindex=\"{len(verdicts)}\"]')")
    assert float(rows.last.locator("td").nth(3).inner_text()) == pytest.approx(verdicts.instance_score.max(), rel=1e-3)
    assert rows.count() < 60
    facts = page.locator(".made").inner_text()
    assert f"{screen.detector.name} {screen.fingerprint()[:12]}" in facts
    assert "made 20" in facts


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pictures_come_first_and_are_enlarged_by_the_keyboard_too(browser, report, theme):
    page = opened(browser, report[0], color_scheme=theme, viewport={"width": 390, "height": 844})
    headings = page.locator("h2").all_inner_texts()
    assert headings.index("Most anomalous") < headings.index("Every image") < headings.index("Scores")
    page.locator("figure img").first.focus()
    page.keyboard.press("Enter")
    page.locator("dialog img").wait_for()
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert serious(page) == []


def test_a_study_is_sorted_by_numbers_and_says_that_it_scrolls(browser, study):
    page = opened(browser, study, viewport={"width": 700, "height": 800})
    names = page.locator("table.sortable td:first-child")
    head = page.get_by_role("columnheader", name=WIDE).first
    head.get_by_role("button").click()
    assert names.all_inner_texts() == ["b", "a"], "2 before 10"
    head.get_by_role("button").click()
    assert names.all_inner_texts() == ["a", "b"]
    assert head.get_attribute("aria-sort") == "descending"
    assert page.get_by_role("group", name="table, scrolls sideways").get_attribute("tabindex") == "0"
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert serious(page) == []


def test_a_study_says_what_follows_what_it_was_made_from_and_marks_the_best_row(tmp_path):
    made = [("images", "slov\u043e <b>"), ("screen", "pca 0123")]
    page = TablePage("A", "Lead.", ["x"], [["worse"], ["better"]], "", made=made, conclusion="Take <b>.", best=1)
    page.write(tmp_path / "study.html")
    text = (tmp_path / "study.html").read_text()
    assert text.index("Take &lt;b&gt;.") < text.index("Lead.") < text.index("<table")
    assert re.findall(r'<tr class="best"><td>(\w+)', text) == ["better"]
    assert "<li>images <b>slov\u043e &lt;b&gt;</b></li><li>screen <b>pca 0123</b></li><li>made <b>20" in text


def test_a_long_table_of_a_study_is_data(tmp_path):
    rows = [[f"<i>{row}</i>", "x"] for row in range(300)]
    TablePage("Long", "Rows.", ["name", "value"], rows, "").write(tmp_path / "long.html")
    text = (tmp_path / "long.html").read_text()
    assert "<i>" not in text
    assert text.count("<data-table>") == 1
    assert "<td>" not in text

"""What a notebook shows of the last expression of a cell."""

import re

import numpy as np

from recondite.audits.findings import Finding
from recondite.audits.result import Audit
from recondite.screen.guard import Guard
from recondite.screen.shown import screen_rows

HOSTILE = "<script>alert(1)</script>.png"
SAFE = "&lt;script&gt;alert(1)&lt;/script&gt;.png"


def cells(html):
    return re.findall(r"<td>(.*?)</td>", html)


def test_a_screen_shows_what_info_says_of_it(screens):
    screen = screens("pca")
    assert cells(screen._repr_html_()) == [cell for row in screen_rows(screen) for cell in row]


def test_verdicts_are_counted_and_the_first_are_shown(screens, digits):
    verdicts = screens("pca").predict([*digits[:14], b"no image"])
    html = verdicts._repr_html_()
    counts = verdicts.counts()
    assert f"15 images: {counts['inlier']} inlier, {counts['outlier']} outlier, 1 invalid" in html
    assert "; the first 10" in html
    assert html.count("<tr>") == 11
    assert cells(html)[:2] == [verdicts.ids[0], verdicts.words[0]]
    assert "the first" not in screens("pca").predict(digits[:3])._repr_html_()


def test_a_guard_and_its_decisions_are_told_in_words(screens, digits):
    guard = Guard(screen=screens("pca"), classifier=None, classes=("<b>", "dog"))
    html = guard._repr_html_()
    assert "2: &lt;b&gt;, dog" in html
    assert "none of its own: its labels are sent" in html
    decisions = guard.decide(guard.screen.predict(digits[:12]), ["dog"] * 12)
    counts = decisions.counts()
    assert counts["labelled"] + counts["foreign"] == 12
    assert f"12 images: {counts['labelled']} labelled, {counts['foreign']} foreign" in decisions._repr_html_()


def test_an_audit_shows_its_findings_with_their_pictures_and_its_remarks():
    finding = Finding(index=0, id=HOSTILE, kind="dark", value=0.0, reason="one colour")
    found = Audit(
        *((HOSTILE, "b.png"), ("", ""), ("", ""), (finding,), np.full(2, np.nan), np.full(2, np.nan), np.ones(2), 0.1),
        *(np.zeros((2, 1), np.float32), ("", ""), {0: b"picture"}, ("no labels <were> given",)),
    )
    html = found._repr_html_()
    assert "2 images: 1 dark" in html
    assert '<img src="data:image/jpeg;base64,cGljdHVyZQ=="' in html
    assert cells(html)[1:] == [SAFE, "dark", "one colour", "", "", "remark", "no labels &lt;were&gt; given"]


def test_names_of_files_bring_no_script_into_a_notebook(screens, tmp_path):
    (tmp_path / "<img src=x>.png").write_bytes(b"no image")
    html = screens("pca").predict(tmp_path)._repr_html_()
    assert "<img" not in html
    assert "&lt;img src=x&gt;.png" in html

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import recondite
from recondite import InputError, write_report


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.images, self.links, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "img":
            self.images.append(values["src"])
        self.links += [
            value for name, value in attributes if name in ("href", "src") and not value.startswith(("data:", "#"))
        ]

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def judged(screens, folder):
    (folder / "odd" / "001.png").write_bytes(b"<script>alert(1)</script>")
    (folder / "odd" / "<script>alert(2)<").mkdir()
    screen = screens("autoencoder")
    return screen, screen.predict(folder), folder


def test_the_report_is_one_offline_file_with_every_part(judged, tmp_path):
    screen, verdicts, folder = judged
    write_report(tmp_path / "report.html", screen, verdicts, folder)
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.links == []
    assert not re.search(r"https?://(?!www\.w3\.org|purl\.org|creativecommons|matplotlib)", text)
    assert len(page.images) == 3 * (12 + 12 + 12)
    assert text.count("<svg") == 5
    words = " ".join(page.words)
    for part in (
        "Most anomalous",
        "Closest to the line",
        "Least anomalous",
        "Unreadable images",
        "How it learnt to rebuild",
        "How to read this",
        "How the screen was made",
    ):
        assert part in words
    assert "odd/001.png" in words


def test_of_images_with_one_p_value_those_whose_scores_are_nearest_to_the_line_are_shown(screens, folder, tmp_path):
    screen = screens("pca")
    verdicts = screen.predict(folder)
    order = np.argsort(verdicts.instance_score)
    line = float(verdicts.instance_score[order[20]])
    alike = replace(verdicts, p_value=np.full(40, screen.alpha), threshold=line)
    write_report(tmp_path / "report.html", screen, alike, folder)
    text = (tmp_path / "report.html").read_text().partition("Closest to the line")[2].partition("Least anomalous")[0]
    others = order[12:28]
    nearest = others[np.argsort(np.abs(verdicts.instance_score[others] - line))[:12]]
    assert {name for name in verdicts.ids if name in text} == {verdicts.ids[index] for index in nearest}


def test_names_cannot_inject_markup(screens, tmp_path, digits):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(digits[0]).save(folder / "<img src=x onerror=alert(1)>.png")
    screen = screens("pca")
    write_report(tmp_path / "report.html", screen, screen.predict(folder), folder, title="<b>title</b>")
    text = (tmp_path / "report.html").read_text()
    assert "<img src=x" not in text
    assert "<b>title" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in text


def test_the_most_anomalous_come_first(judged, tmp_path):
    screen, verdicts, folder = judged
    write_report(tmp_path / "report.html", screen, verdicts, folder)
    words = " ".join(Page((tmp_path / "report.html").read_text()).words)
    worst = verdicts.ids[int(np.nanargmax(verdicts.instance_score))]
    best = verdicts.ids[int(np.nanargmin(verdicts.instance_score))]
    assert 0 < words.index(worst) < words.index(best)


def test_arguments_in_another_order_are_told(screens, digits, tmp_path):
    verdicts = screens("pca").predict(digits[:2])
    with pytest.raises(InputError, match="in this order; got Pca"):
        write_report(screens("pca").detector, verdicts, tmp_path / "report.html")


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow), 30])
def test_few_images_no_outliers_and_no_pictures(screens, digits, tmp_path, count):
    screen = screens("pca")
    images = digits[:count]
    for source in (images, None):
        write_report(tmp_path / "report.html", screen, screen.predict(images), source)
    write_report(tmp_path / "report.html", screen, screen.predict(images, fdr=0.1), images)
    bad = screen.predict([b"x"] * count)
    write_report(tmp_path / "report.html", screen, bad, [b"x"] * count)
    assert "Unreadable" in (tmp_path / "report.html").read_text()


def test_a_report_of_vectors_has_no_gallery(tmp_path):
    table = np.random.default_rng(0).normal(size=(200, 5))
    screen = recondite.fit(table, detector="pca", latent_size=2, alpha=0.1)
    write_report(tmp_path / "report.html", screen, screen.predict(table), table)
    assert "Most anomalous" not in (tmp_path / "report.html").read_text()


def test_other_images_than_the_judged_are_refused(judged, digits, tmp_path):
    screen, verdicts, _ = judged
    with pytest.raises(InputError, match="not the ones that were judged"):
        write_report(tmp_path / "report.html", screen, verdicts, digits[:40])
    with pytest.raises(InputError, match="stream"):
        write_report(tmp_path / "report.html", screen, verdicts, iter(digits[:40]))
    assert not (tmp_path / "report.html").exists()

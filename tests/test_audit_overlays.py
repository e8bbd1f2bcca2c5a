"""Overlays: what many images show in one corner is found, and corners that are alike by themselves are not."""

import numpy as np
import pytest
from PIL import Image

import recondite
from recondite.audits import run
from recondite.audits.look import look_at


def scene(seed, stamp=None):
    """A rough picture in colour of 64 x 64 pixels, with a bright sign in its bottom left corner where one is given."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(20, 235, (9, 9, 3), dtype=np.uint8)).resize((64, 64), Image.BICUBIC)
    pixels = np.asarray(coarse).copy()
    if stamp is not None:
        pixels[-15:-1, 1:15] = stamp
    return pixels


@pytest.fixture(scope="module")
def sign():
    draw = np.random.default_rng(99)
    return np.kron(draw.integers(0, 2, (7, 7, 1)), np.ones((2, 2, 3))).astype(np.uint8) * 200 + 30


def overlays(pictures, monkeypatch):
    monkeypatch.setattr(run, "_backbone", lambda _images: None)
    found = [finding for finding in recondite.audit(pictures).findings if finding.kind == "overlay"]
    assert not any(finding.drop for finding in found)
    return found


def test_a_sign_in_one_corner_of_some_images_is_found_and_nothing_else(sign, monkeypatch):
    found = overlays([scene(seed, sign if seed < 9 else None) for seed in range(60)], monkeypatch)
    assert {finding.index for finding in found} == set(range(9))
    assert {finding.group for finding in found} == {"overlay 1 bottom left"}
    assert {finding.value for finding in found} == {9.0}
    assert "bottom left, in 9 images" in found[0].reason


def test_a_sign_of_few_images_and_images_that_are_alike_as_a_whole_are_no_overlay(sign, monkeypatch):
    assert not overlays([scene(seed, sign if seed < 4 else None) for seed in range(60)], monkeypatch)
    draw = np.random.default_rng(0)
    same = [(scene(0, sign) * 0.8 + draw.normal(15, 9, (64, 64, 3))).clip(0, 255).astype(np.uint8) for _ in range(20)]
    assert not overlays(same, monkeypatch)
    assert look_at(same[0], None).error is None


def test_of_many_images_some_lead_to_all_that_have_the_sign(sign, monkeypatch):
    monkeypatch.setattr("recondite.audits.overlays._MOST", 40)
    monkeypatch.setattr("recondite.audits.overlays._AT_ONCE", 16)
    found = overlays([scene(seed, sign if seed % 4 == 0 else None) for seed in range(80)], monkeypatch)
    assert {finding.index for finding in found} == set(range(0, 80, 4))
    assert {finding.value for finding in found} == {20.0}

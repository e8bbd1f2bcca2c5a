"""Screens being made, their versions, and who may make them."""

import asyncio
import errno
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from service import in_process, png

from recondite.cli import main
from recondite.errors import InputError, ReconditeError
from recondite.screen.known_defects import MOST_DEFECTS
from recondite.screen.words import UNUSED_DEFECTS
from recondite.service.engine import fitting
from recondite.service.engine.drafts import Drafts
from recondite.service.engine.folders import is_collection
from recondite.service.engine.publishing import copied_from, make_default, publish
from recondite.service.page.drafts import add_drafts
from recondite.service.page.pictures import Uploads, add_pictures
from recondite.service.settings import Limits, Settings
from recondite.service.start import NEW_SCREENS, screens_of

pytest.importorskip("nicegui")


def test_images_stay_within_the_budgets_of_bytes_and_pixels(tmp_path, digits):
    image = png(digits[0])
    drafts = Drafts(tmp_path, Limits(pixels=64), most_bytes=2 * len(image))

    async def add():
        draft = drafts.begin()
        await drafts.add(draft, "a/../b/large.png", png(np.zeros((9, 8), np.uint8)))
        assert "the limit is 64" in draft.refusals["images"][0]
        await asyncio.gather(drafts.add(draft, "C:\\x\\one.png", image), drafts.add(draft, "/etc/two.png", image))
        with pytest.raises(ReconditeError, match="of at most"):
            await drafts.add(draft, "three.png", image)
        return draft

    draft = asyncio.run(add())
    assert [name.partition("-")[2] for name in draft.images] == ["one.png", "two.png"]
    assert sorted(path.name for path in (draft.folder / "images").iterdir()) == sorted(draft.images)
    again = Drafts(tmp_path, Limits(), 1000).get(draft.id)
    assert (again.images, again.size, again.state) == (draft.images, 2 * len(image), "collecting")
    for _ in range(3):
        drafts.begin()
    with pytest.raises(ReconditeError, match="publish or discard"):
        drafts.begin()


def test_files_that_are_left_out_are_told_by_kind(tmp_path):
    drafts = Drafts(tmp_path, Limits(pixels=64), most_bytes=1 << 20)

    async def add():
        draft = drafts.begin()
        for kind, names in (("images", "a"), ("defects", "bc")):
            for name in names:
                await drafts.add(draft, f"{name}.png", png(np.zeros((9, 8), np.uint8)), kind)
        return draft.to_json()

    told = asyncio.run(add())
    assert told["refused"] == {"images": 1, "defects": 2}
    first = {kind: [words.partition(":")[0] for words in latest] for kind, latest in told["refusals"].items()}
    assert first == {"images": ["a.png"], "defects": ["b.png", "c.png"]}


def test_known_defects_are_kept_apart_and_are_none_or_three_to_fifty(tmp_path, digits):
    drafts = Drafts(tmp_path, Limits(), most_bytes=1 << 20)

    async def add():
        draft = drafts.begin()
        await drafts.add(draft, "same.png", png(digits[0]))
        for place in range(MOST_DEFECTS):
            await drafts.add(draft, "same.png", png(digits[1 + place]), "defects")
        with pytest.raises(ReconditeError, match="at most 50 known defects"):
            await drafts.add(draft, "more.png", png(digits[99]), "defects")
        for name in list(draft.defects)[2:]:
            drafts.remove(draft, name, "defects")
        with pytest.raises(InputError, match="3 to 50 known defects; got 2"):
            await drafts.fit(draft, None, False)
        return draft

    draft = asyncio.run(add())
    assert list(draft.images) == ["00001-same.png"]
    assert list(draft.defects) == ["00001-same.png", "00002-same.png"]
    assert draft.image("00001-same.png").read_bytes() == png(digits[0])
    assert draft.image("00001-same.png", "defects").read_bytes() == png(digits[1])
    again = Drafts(tmp_path, Limits(), 1 << 20).get(draft.id)
    assert (again.images, again.defects, again.size) == (draft.images, draft.defects, draft.size)


def test_defects_that_help_nothing_are_left_out_and_it_is_said_why(tmp_path, monkeypatch):
    asked = []

    def fit(*_, defects=None, **__):
        asked.append(defects)
        remarks = [f"{UNUSED_DEFECTS}: a head does not help"] if defects else []
        return SimpleNamespace(facts={"remarks": remarks}, save=lambda folder: folder.mkdir())

    monkeypatch.setattr("recondite.screen.fit.fit", fit)
    monkeypatch.setattr(fitting, "result_of", lambda screen, _, unused: {**screen.facts, "unused": unused})
    for name in ("torch.set_num_threads", "os.nice"):
        monkeypatch.setattr(name, lambda _: None)
    (tmp_path / "defects").mkdir()
    (tmp_path / "defects" / "00001-a.png").touch()
    fitting._fit(tmp_path, {"alpha": None})
    assert asked == [str(tmp_path / "defects"), None], "what is published has never seen them"
    found = json.loads((tmp_path / "result.json").read_text())
    assert found == {"remarks": [], "unused": "known defects are not used: a head does not help"}


def test_versions_are_numbered_and_one_can_be_made_the_default(digit_screen, screens, tmp_path):
    folder = tmp_path / "screens" / "digits"
    shutil.copytree(digit_screen, folder / "v9")
    with in_process([], tmp_path, collection=tmp_path / "screens") as client:

        def versions():
            client.post("/v1/reload").raise_for_status()
            return client.get("/v1/screens/digits").json()["versions"]

        assert versions() == ["v9"]
        assert publish(folder, screens("pca").with_alpha(0.2).save) == "1"
        assert versions() == ["1", "v9"], "what was published is the default, though v9 comes after 1"
        assert publish(folder, screens("pca").save) == "2"
        assert versions()[0] == "2"
        make_default(folder, "v9")
        assert versions() == ["v9", "2", "1"]
        with pytest.raises(InputError, match="no version"):
            make_default(folder, "../digits")
        shutil.copytree(digit_screen, tmp_path / "screens" / "other" / "1")
        client.post("/v1/reload").raise_for_status()
        assert {one["name"] for one in client.get("/v1/screens").json()} == {"digits", "other"}


def test_an_empty_folder_is_a_collection_only_where_screens_may_be_made(digit_screen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    empty, filled = tmp_path / "empty", tmp_path / "filled"
    empty.mkdir()
    shutil.copytree(digit_screen, filled / "digits" / "1")
    assert not is_collection(digit_screen)
    assert not is_collection(filled / "digits")
    assert screens_of([str(empty), str(digit_screen)], True) == ([str(digit_screen)], empty)
    assert screens_of([str(empty)], False) == ([str(empty)], None)
    assert screens_of([str(filled)], False) == ([], filled)
    assert screens_of([], True) == ([], tmp_path / NEW_SCREENS)
    with pytest.raises(InputError, match="at most one"):
        screens_of([str(empty), str(filled)], True)
    with pytest.raises(InputError, match="at least one screen"):
        Settings(screens=[])
    with pytest.raises(InputError, match="leave new_screens out"):
        Settings(screens=["x"], new_screens=True)


def test_nobody_makes_screens_where_others_may_ask_unless_allowed(digit_screen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr("recondite.service.server.serve", lambda settings, *_, **__: seen.append(settings))
    token = ["--token", "a-token-of-ours"]
    for flags, allowed in (
        ([], True),
        (["--no-allow-new-screens"], False),
        (["--no-page"], False),
        (token, False),
        ([*token, "--allow-new-screens"], True),
        (["--host", "0.0.0.0", "--allow-public"], False),
    ):
        assert main(["serve", str(digit_screen), *flags]) == 0
        assert (seen[-1].new_screens, seen[-1].collection is not None) == (allowed, allowed), flags


def test_nothing_is_fitted_while_images_come(tmp_path, digits):
    drafts = Drafts(tmp_path, Limits(), most_bytes=1 << 20)
    names = [f"{place}.png" for place in range(3)]

    async def together():
        draft = drafts.begin()
        await drafts.add(draft, "first.png", png(digits[9]))

        def read(index, _most):
            assert draft.coming
            return png(digits[index])

        coming = asyncio.create_task(drafts.add_all(draft, SimpleNamespace(names=names, read=read)))
        await asyncio.sleep(0)
        with pytest.raises(ReconditeError, match="images are still coming"):
            await drafts.fit(draft, None, False)
        await coming
        return draft

    draft = asyncio.run(together())
    assert (len(draft.images), draft.coming, draft.state) == (4, 0, "collecting")


def test_a_draft_is_published_once_however_often_it_is_asked_for(screens, tmp_path):
    with in_process([], tmp_path, collection=tmp_path / "screens", new_screens=True) as client:
        add_drafts(client.app, Uploads())
        drafts = client.app.state.service.drafts
        draft = drafts.begin()
        screens("pca").save(draft.screen)
        draft.state = "fitted"
        with ThreadPoolExecutor(4) as pool:
            address = f"/page/drafts/{draft.id}/publish"
            answers = list(pool.map(lambda _: client.post(address, json={"screen": "digits"}), range(4)))
        assert sorted(answer.status_code for answer in answers) == [200, 404, 404, 404]
        assert client.get("/v1/screens/digits").json()["versions"] == ["1"]


@contextmanager
def fitted_draft(screens, tmp_path):
    """A client of a service, and a draft that was fitted."""
    with in_process([], tmp_path, collection=tmp_path / "screens", new_screens=True) as client:
        add_drafts(client.app, Uploads())
        draft = client.app.state.service.drafts.begin()
        (draft.folder / "images" / "00001-a.png").write_bytes(b"")
        draft.images["00001-a.png"] = 0
        screens("pca").save(draft.screen)
        (draft.folder / fitting.RESULT).write_text("{}")
        draft.state = "fitted"
        yield client, draft, f"/page/drafts/{draft.id}"


def test_what_was_learnt_again_in_another_tab_is_not_published_unseen(screens, tmp_path):
    with fitted_draft(screens, tmp_path) as (client, draft, address):
        seen = client.get(address).json().get("fit")
        os.utime(draft.folder / fitting.RESULT, (1, 1))  # as another fit leaves it
        answer = client.post(f"{address}/publish", json={"screen": "digits", "fit": seen})
        assert answer.status_code == 422
        assert "changed meanwhile" in answer.json()["error"]["message"]
        assert not (tmp_path / "screens" / "digits").exists()
        now = client.get(address).json()["fit"]
        assert client.post(f"{address}/publish", json={"screen": "digits", "fit": now}).json()["version"] == "1"


def test_a_draft_stays_as_it_is_while_it_is_published(screens, tmp_path, monkeypatch):
    with fitted_draft(screens, tmp_path) as (client, draft, address):

        def copied(screen):
            def write(target):
                assert client.delete(f"{address}/images/00001-a.png").status_code == 429
                copied_from(screen)(target)

            return write

        monkeypatch.setattr("recondite.service.page.drafts.copied_from", copied)
        assert client.post(f"{address}/publish", json={"screen": "digits"}).status_code == 200
        assert not draft.folder.exists()


def test_a_draft_that_cannot_be_discarded_stays_and_says_so(screens, tmp_path, monkeypatch):
    with fitted_draft(screens, tmp_path) as (client, draft, address):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", read_only)
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            answer = client.delete(address)
        assert answer.status_code == 503
        assert "Read-only file system" in answer.json()["error"]["message"]
        assert [one["id"] for one in client.get("/page/drafts").json()] == [draft.id]
        draft.folder.with_suffix(".discarded").mkdir()
        Drafts(tmp_path / "screens", Limits(), 1000)
        assert not draft.folder.with_suffix(".discarded").exists(), "a restart clears up"
        assert client.delete(address).status_code == 200
        assert list(draft.folder.parent.iterdir()) == []


def read_only(*_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_nobody_replaces_a_default_that_he_has_not_seen(screens, tmp_path):
    for version in ("1", "2"):
        screens("pca").save(tmp_path / "screens" / "digits" / version)
    with in_process([], tmp_path, collection=tmp_path / "screens", new_screens=True) as client:
        add_drafts(client.app, Uploads())
        stale = {"screen": "digits", "version": "1", "alpha": 0.2}
        back = {"screen": "digits", "version": "1", "instead_of": "2"}
        answer = client.post("/page/versions/alpha", json=stale)
        assert answer.status_code == 422
        assert "version 2 of digits has become the default meanwhile" in answer.json()["error"]["message"]
        with ThreadPoolExecutor(2) as pool:  # two tabs at once
            given = [stale | {"version": "2", "alpha": alpha} for alpha in (0.1, 0.2)]
            answers = list(pool.map(lambda one: client.post("/page/versions/alpha", json=one), given))
        assert sorted(one.status_code for one in answers) == [200, 422]
        assert client.post("/page/versions/default", json=back).status_code == 422
        assert client.post("/page/versions/default", json=back | {"instead_of": "3"}).status_code == 200
        assert client.get("/v1/screens/digits").json()["versions"] == ["1", "3", "2"]


def test_a_version_that_was_renamed_has_its_new_name(digit_screen, tmp_path):
    folder = tmp_path / "screens" / "digits"
    shutil.copytree(digit_screen, folder / "2.partial")
    (folder / "3").mkdir()
    (folder / "3" / "manifest.json").write_text("no JSON")
    with in_process([], tmp_path, collection=tmp_path / "screens") as client:

        def look():
            client.post("/v1/reload").raise_for_status()
            return client.get("/v1/screens/digits").json()["versions"], client.app.state.service.shelf.failures

        assert look()[0] == ["2.partial"]
        assert list(look()[1]) == [str(folder / "3")]
        (folder / "2.partial").rename(folder / "2")
        shutil.rmtree(folder / "3")
        assert look() == (["2"], {})


def test_a_damaged_image_has_no_small_picture(digits, tmp_path):
    with in_process([], tmp_path, collection=tmp_path / "screens", new_screens=True) as client:
        add_drafts(client.app, Uploads())
        address = f"/page/drafts/{client.post('/page/drafts').json()['id']}/images"
        assert client.post(f"{address}?name=cut.png", content=png(digits[0])[:-40]).json()["count"] == 1
        answer = client.get(f"{address}/00001-cut.png/thumbnail")
    assert (answer.status_code, answer.json()["error"]["message"]) == (422, "this image cannot be read")


def test_of_an_image_that_did_not_fit_on_the_disk_nothing_is_learnt(digits, tmp_path, monkeypatch):
    def cut(path, content):
        with path.open("wb") as file:
            file.write(content[:50])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.write_bytes", cut)
    with in_process([], tmp_path, collection=tmp_path / "screens", new_screens=True) as client:
        add_drafts(client.app, Uploads())
        draft = client.post("/page/drafts").json()["id"]
        answer = client.post(f"/page/drafts/{draft}/images?name=a.png", content=png(digits[0]))
        folder = client.app.state.service.drafts.get(draft).folder
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "the files of the service cannot be used: No space left on device"
    assert list((folder / "images").iterdir()) == []


def running(code):
    """Return what begins this code in place of a fit."""

    async def started(*_):
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code), stdin=-1, stdout=-1, start_new_session=True
        )

    return started


def test_who_waits_for_a_fit_hears_that_it_was_killed_or_that_the_service_ended(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(Drafts, "_started", running("import sys; sys.stdin.read()"))

    async def fits():
        drafts = Drafts(tmp_path, Limits(), most_bytes=1 << 20)
        draft = drafts.begin()
        await drafts.add(draft, "one.png", png(digits[0]))
        await drafts.fit(draft, None, False)
        process, followed = drafts._fits[draft.id]
        process.kill()
        await followed
        assert draft.error == "the fit was killed (signal 9), perhaps for want of memory: try fewer or smaller images"
        await drafts.fit(draft, None, False)
        await drafts.close()
        return draft.id

    draft = asyncio.run(fits())
    error = "The service ended while this screen was being fitted: fit it again."
    assert Drafts(tmp_path, Limits(), most_bytes=1 << 20).get(draft).error == error


@pytest.mark.parametrize("said", ["'x' * 100_000", "'no JSON'"])
def test_a_fit_that_is_not_understood_ends_and_another_can_begin(digits, tmp_path, monkeypatch, said):
    monkeypatch.setattr(Drafts, "_started", running(f"import sys; print({said}, flush=True); sys.stdin.read()"))

    async def fits():
        drafts = Drafts(tmp_path, Limits(), most_bytes=1 << 20)
        draft = drafts.begin()
        await drafts.add(draft, "one.png", png(digits[0]))
        await drafts.fit(draft, None, False)
        await asyncio.wait([drafts._fits[draft.id][1]])
        assert (draft.state, draft.error) == ("collecting", "the fit said what is not understood; the log says what")
        await drafts.fit(draft, None, False)
        await drafts.discard(draft)

    asyncio.run(fits())


def test_pictures_are_shown_also_when_the_version_that_judged_them_is_gone(screens, digits, tmp_path):
    folder = tmp_path / "screens" / "digits"
    screens("pca").save(folder / "1")
    with in_process([], tmp_path, collection=tmp_path / "screens", keep="all") as client:
        add_pictures(client.app, Uploads())
        image = {"content": png(digits[0]), "headers": {"content-type": "image/png"}}
        event = client.post("/v1/screens/digits/predict", **image).json()["verdicts"][0]["event"]
        (folder / "1").rename(folder / "2")
        client.post("/v1/reload").raise_for_status()
        found = {what: client.get(f"/page/events/{event}/{what}") for what in ("picture", "thumbnail", "heat-map")}
    assert {what: answer.status_code for what, answer in found.items()} == {
        "picture": 200,
        "thumbnail": 200,
        "heat-map": 404,
    }
    assert found["picture"].content == image["content"]

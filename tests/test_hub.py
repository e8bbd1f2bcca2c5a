"""Screens on the hub: put there, fetched and checked, over a small hub on this machine."""

import json
import shutil
import socket
from dataclasses import replace

import numpy as np
import pytest
from fake_hub import running_hub

import recondite
from recondite.cli import main
from recondite.data import hub as hub_module
from recondite.data.artifacts import MANIFEST, digest_of, read_folder
from recondite.data.hub import parse_address
from recondite.errors import ArtifactError, InputError, SourceError
from recondite.reports import model_card
from recondite.reports.model_card import card, push
from recondite.screen.saved import KIND, SCHEMA, located

ADDRESS = "hf://lab/digits"
FILES = {"detector.safetensors", "calibration.safetensors", "evidence.safetensors"}

pytest.importorskip("huggingface_hub")
# The client's own way of sending bytes by Git LFS.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    import huggingface_hub.constants
    from huggingface_hub import file_download

    monkeypatch.setenv("RECONDITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
    # Xet is a store of its own with a protocol of its own; the client falls back to Git LFS without it.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)
    with running_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


@pytest.fixture(scope="module")
def pages():
    """The model card and its figures, drawn once."""
    manifest, _ = read_folder(located("digits"), SCHEMA, KIND)
    return card(recondite.load("digits"), "lab/digits", manifest)


@pytest.fixture
def there(hub, pages):
    """The files of a screen that is on the hub."""
    files = {path.name: path.read_bytes() for path in located("digits").iterdir()} | pages
    hub.commit("lab/digits", files)
    return files


def cached(tmp_path):
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def sealed(manifest):
    """Return a manifest as bytes with a digest that fits, as one who can write to the hub would."""
    manifest["digest"] = digest_of(manifest)
    return json.dumps(manifest).encode()


def test_what_was_put_there_comes_back_and_judges_alike(hub, digits, tmp_path):
    address = push(located("digits"), ADDRESS, private=True, license="apache-2.0")
    assert hub.private["lab/digits"]
    assert address == f"{ADDRESS}@{hub.heads['lab/digits']}"
    here = recondite.load("digits").predict(digits[:100])
    for where in (ADDRESS, address, f"{ADDRESS}@main"):
        assert np.array_equal(recondite.load(where).predict(digits[:100]).instance_score, here.instance_score)
    assert recondite.load(address).fingerprint() == recondite.load("digits").fingerprint()
    assert {path.name for path in cached(tmp_path)} == {*FILES, MANIFEST}


@pytest.mark.usefixtures("hub")
def test_what_a_screen_keeps_of_images_is_not_published(screens, tmp_path):
    screens("pca").save(tmp_path / "screen")
    assert (tmp_path / "screen" / "known.safetensors").exists()
    published = recondite.load(push(tmp_path / "screen", ADDRESS))
    assert published.known is None
    assert published.fingerprint() == screens("pca").fingerprint()


def test_only_the_files_of_the_manifest_are_fetched_and_only_once(hub, there):
    hub.commit("lab/digits", {**there, "pytorch_model.bin": b"pickle", "setup.py": b"import os"})
    address = f"{ADDRESS}@{hub.heads['lab/digits']}"
    recondite.load(address)
    assert sorted(hub.fetched()) == sorted([*FILES, MANIFEST])
    hub.served.clear()
    recondite.load(address)
    assert not hub.served, "a commit in the cache needs no network"
    recondite.load(ADDRESS)
    assert hub.fetched() == []


@pytest.mark.usefixtures("there")
def test_a_branch_moves_and_a_commit_does_not(hub, screens, tmp_path):
    old = f"{ADDRESS}@{hub.heads['lab/digits']}"
    hub.tags["v1"] = hub.heads["lab/digits"]
    screens("pca").save(tmp_path / "pca")
    new = push(tmp_path / "pca", ADDRESS)
    assert recondite.load(ADDRESS).detector.name == "pca"
    assert recondite.load(new).detector.name == "pca"
    for address in (old, f"{ADDRESS}@v1"):
        assert recondite.load(address).detector.name == "autoencoder"


def test_the_card_tells_what_the_screen_is(pages):
    text = pages["README.md"].decode()
    screen = recondite.load("digits")
    low, high = screen.false_alarm_interval
    for fact in (
        screen.facts["images"]["fingerprint"],
        screen.facts["calibration"]["fingerprint"],
        f"{low:.4f} to {high:.4f}",
        f"{screen.threshold:.6g}",
        "280",
        "It does not promise that every outlier is flagged",
        read_folder(located("digits"), SCHEMA, KIND)[0]["digest"],
    ):
        assert fact in text
    assert text.startswith("---\nlibrary_name: recondite\n")
    for name in ("calibration.png", "scores.png", "history.png"):
        assert f"({name})" in text
        assert pages[name].startswith(b"\x89PNG")
    with pytest.raises(InputError, match="license"):
        push(located("digits"), ADDRESS, license="mine\nlibrary_name: other")


@pytest.mark.parametrize(
    ("calibration", "said"),
    [
        ({"no_promise": ["they were odd"]}, "promise: Nothing is promised: the calibration was forced"),
        ({"left_out_in_parts": 10, "images": 280}, "That is not proven."),
        ({}, "promise: On average a share of at most 0.05"),
    ],
)
def test_the_card_promises_no_more_than_the_screen(calibration, said, monkeypatch):
    monkeypatch.setattr(model_card, "_figures", lambda _: iter(()))
    screen = recondite.load("digits")
    manifest, _ = read_folder(located("digits"), SCHEMA, KIND)
    text = card(replace(screen, facts={"calibration": calibration}), "lab/digits", manifest)["README.md"].decode()
    assert said in text
    assert "at a false-alarm rate of" not in text
    assert ("share of at most" in text) == (not calibration)


@pytest.mark.parametrize("name", sorted([*FILES, MANIFEST]))
@pytest.mark.parametrize("damage", ["altered", "truncated", "missing"])
def test_damage_is_found_and_leaves_nothing_behind(hub, there, tmp_path, name, damage):
    changed = dict(there)
    if damage == "missing":
        del changed[name]
    elif damage == "truncated":
        changed[name] = changed[name][:-1]
    else:
        middle = len(changed[name]) // 2
        flipped = bytes([changed[name][middle] ^ 1])
        changed[name] = changed[name][:middle] + flipped + changed[name][middle + 1 :]
    hub.commit("lab/digits", changed)
    with pytest.raises(ArtifactError, match=r"digest|SHA-256|missing|bytes|manifest"):
        recondite.load(ADDRESS)
    assert cached(tmp_path) == []


@pytest.mark.usefixtures("there")
def test_a_dropped_connection_is_taken_up_or_told(hub, tmp_path):
    hub.broken["detector.safetensors"] = "cut once"
    recondite.load(ADDRESS)
    for path in (tmp_path / "cache").iterdir():
        shutil.rmtree(path)
    hub.broken["detector.safetensors"] = "cut"
    with pytest.raises(SourceError, match="hub failed"):
        recondite.load(ADDRESS)
    assert cached(tmp_path) == []
    hub.broken.clear()
    assert recondite.load(ADDRESS).detector.name == "autoencoder"


@pytest.mark.usefixtures("there")
def test_no_more_is_taken_than_was_announced(hub, tmp_path):
    hub.broken["detector.safetensors"] = "long"
    with pytest.raises(ArtifactError, match="sends more than"):
        recondite.load(ADDRESS)
    assert cached(tmp_path) == []


def test_hostile_manifests_fetch_nothing(hub, there, tmp_path, monkeypatch):
    manifest = json.loads(there[MANIFEST])
    one = {"sha256": "0" * 64, "bytes": 3}
    hostile = {
        "../../outside.safetensors": "outside",
        "/etc/passwd": "outside",
        "a\\b.safetensors": "outside",
        ".bashrc": "no screen has",
        "a b": "no screen has",
    }
    for name, message in hostile.items():
        changed = {**manifest, "files": {**manifest["files"], name: one}}
        hub.commit("lab/digits", {**there, MANIFEST: sealed(changed), name: b"abc"})
        hub.served.clear()
        with pytest.raises(ArtifactError, match=message):
            recondite.load(ADDRESS)
        assert hub.fetched() == [MANIFEST]
    many = {f"f{number}.safetensors": one for number in range(hub_module.MOST_FILES + 1)}
    hub.commit("lab/digits", {MANIFEST: sealed({**manifest, "files": many}), **dict.fromkeys(many, b"abc")})
    with pytest.raises(ArtifactError, match="limits"):
        recondite.load(ADDRESS)
    monkeypatch.setattr(hub_module, "LARGEST_SCREEN", 1000)
    hub.commit("lab/digits", there)
    with pytest.raises(ArtifactError, match="limits"):
        recondite.load(ADDRESS)
    monkeypatch.setattr(hub_module, "LARGEST_MANIFEST", 1000)
    with pytest.raises(ArtifactError, match="limit is 1,000"):
        recondite.load(ADDRESS)
    assert cached(tmp_path) == []
    assert not (tmp_path / "outside.safetensors").exists()


@pytest.mark.usefixtures("there")
def test_a_damaged_cache_is_fetched_anew(hub, tmp_path):
    recondite.load(ADDRESS)
    for path in cached(tmp_path):
        path.write_bytes(b"damaged")
    assert recondite.load(f"{ADDRESS}@{hub.heads['lab/digits']}").detector.name == "autoencoder"


@pytest.mark.parametrize(
    "address",
    [
        "hf://digits",
        "hf://lab/digits/more",
        "hf://../digits",
        "hf://lab/..",
        "hf://lab/a--b",
        "hf://lab/digits@",
        "hf://lab/digits@a..b",
        "hf://lab/digits@../../secret",
        "hf://lab/digits@-x",
        "hf://lab/di gits",
        "hf://lab/digits?x=1",
        "hf://lab@host/digits",
        "hf://",
    ],
)
def test_malformed_addresses_are_refused(address):
    with pytest.raises(InputError, match="expected hf://"):
        recondite.load(address)


def test_addresses_are_taken_apart():
    assert parse_address("hf://lab/tiles") == ("lab/tiles", None)
    assert parse_address("hf://l/t.v2@refs/pr/1") == ("l/t.v2", "refs/pr/1")
    assert parse_address("hf:/lab/tiles@v2") == ("lab/tiles", "v2")


@pytest.mark.usefixtures("there")
def test_what_is_not_there_is_told_apart_from_no_hub(monkeypatch):
    with pytest.raises(InputError, match="no such repository"):
        recondite.load("hf://lab/nothing")
    with pytest.raises(InputError, match="no such repository or revision"):
        recondite.load(f"{ADDRESS}@v9")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(SourceError, match="hub failed"):
        recondite.load(ADDRESS)


def test_a_screen_that_does_not_load_is_not_published(hub, tmp_path):
    shutil.copytree(located("digits"), tmp_path / "screen")
    (tmp_path / "screen" / "detector.safetensors").write_bytes(b"other")
    with pytest.raises(ArtifactError):
        push(tmp_path / "screen", ADDRESS)
    with pytest.raises(InputError, match="main branch"):
        push(located("digits"), f"{ADDRESS}@v1")
    recondite.load("digits").save(tmp_path / "own", texts={"README.md": "mine"})
    with pytest.raises(InputError, match=r"README\.md"):
        push(tmp_path / "own", ADDRESS)
    assert hub.served == []


@pytest.mark.usefixtures("hub")
def test_it_works_on_the_command_line(folder, tmp_path, capsys):
    assert main(["push", "digits", ADDRESS, "--license", "apache-2.0"]) == 0
    address = capsys.readouterr().out.split()[-1]
    assert main(["predict", address, str(folder), "-o", str(tmp_path / "verdicts.csv")]) == 0
    assert "40 images" in capsys.readouterr().out
    assert main(["info", "hf://lab/nothing"]) == 2
    assert "no such repository" in capsys.readouterr().err


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"recondite\[hub\]"):
        recondite.load(ADDRESS)


def test_which_way_files_are_sent(hub, monkeypatch):
    import huggingface_hub.constants

    push(located("digits"), ADDRESS)
    assert len([path for method, path in hub.served if method == "PUT"]) == len(hub.objects) >= len(FILES)
    assert not [path for _, path in hub.served if "xet" in path]
    # With hf-xet the client takes Xet for the same files, a protocol that this hub does not speak.
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    sent = []

    def by_xet(*, additions, **_):
        sent.extend(addition.path_in_repo for addition in additions)
        raise RuntimeError("the store cannot be reached")

    monkeypatch.setattr(huggingface_hub._commit_api, "_upload_xet_files", by_xet)
    hub.served.clear()
    before = hub.heads["lab/digits"]
    with pytest.raises(SourceError, match="the store cannot be reached"):
        push(located("digits"), ADDRESS)
    assert set(sent) > FILES
    assert not [path for _, path in hub.served if "/objects" in path or "/commit/" in path]
    assert hub.heads["lab/digits"] == before


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>please sign in</html>",
        b"",
        [],
        {},
        {"id": "lab/digits", "sha": "0" * 40, "siblings": "none"},
        {"id": "lab/digits", "sha": "0" * 40, "siblings": [{"rfilename": MANIFEST, "size": "much"}]},
        {"id": "lab/digits", "sha": "0" * 40, "lastModified": "yesterday"},
    ],
)
def test_an_answer_that_is_not_of_a_hub_is_told_as_that(hub, answer):
    hub.commit("lab/digits", {})
    hub.instead["lab/digits"] = answer
    with pytest.raises(SourceError, match=f"the answer of {hub.endpoint} is not that of a hub"):
        recondite.load(ADDRESS)

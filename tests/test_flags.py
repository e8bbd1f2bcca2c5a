"""What commands say of the guard in the folder of a screen."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

import recondite
from recondite.cli import main
from recondite.reports import model_card, recalibration
from recondite.reports import update as update_report
from recondite.screen import guard_fit, words
from recondite.screen.guard import Guard
from recondite.screen.guard_file import save_guard
from recondite.screen.screen import Screen

LABELS = ("dark", "light")


@pytest.fixture
def guarded(screens, tmp_path):
    """A folder that holds a guard, and one of its screen alone."""
    for name in ("guard", "plain"):
        screens("pca").save(tmp_path / name)
    save_guard(Guard(screen=screens("pca"), classifier=None, labels=LABELS), tmp_path / "guard")
    return tmp_path


@pytest.mark.parametrize("command", ["update", "teach", "recalibrate"])
def test_a_screen_that_is_made_of_a_guards_says_that_the_guard_is_lost(command, guarded, monkeypatch, capsys):
    def made(screen, *_, **__):
        return replace(
            screen, facts={**screen.facts, "known_defects": {"images": 0, "known": [0, 0], "unseen": [0, 0]}}
        )

    monkeypatch.setattr(Screen, "update", made)
    monkeypatch.setattr(Screen, "teach", made)
    monkeypatch.setattr(update_report, "update_in_words", lambda _: ["updated"])
    monkeypatch.setattr(words, "gain_in_words", lambda _: "taught")
    monkeypatch.setattr(
        recalibration, "recalibrate", lambda screen, *_, **__: SimpleNamespace(after=screen, table=[{"measure": "a"}])
    )
    for name, output in (("plain", "new"), ("guard", "new"), ("guard", "guard")):
        arguments = [command, str(guarded / name), str(guarded), "-o", str(guarded / output)]
        assert main(arguments) == 0, capsys.readouterr().err
        printed = capsys.readouterr()
        lost = (
            f"{guarded / name} holds a guard, which is not taken over: fit it anew with recondite guard fit "
            f"{guarded / output} IMAGES ... -o NEW_GUARD"
        )
        assert printed.err.splitlines() == ([lost] if name == "guard" else [])
        assert printed.out.splitlines()[-1] == f"screen: {guarded / output}"
        recondite.load(guarded / output)


def test_a_guard_that_is_not_published_is_told_of(guarded, monkeypatch, capsys):
    monkeypatch.setattr(model_card, "push", lambda *_, **__: "hf://a/b@c")
    for name, told in (("guard", f"{guarded / 'guard'} holds a guard, which is not published: "), ("plain", "")):
        assert main(["push", str(guarded / name), "hf://a/b"]) == 0
        printed = capsys.readouterr()
        assert printed.err.startswith(told)
        assert bool(printed.err) == bool(told)
        assert printed.out == "published: hf://a/b@c\n"


def test_a_folder_without_a_guard_is_named_where_one_is_needed(guarded, capsys):
    predict = ["guard", "predict", str(guarded / "plain"), str(guarded), "-o", str(guarded / "labels.csv")]
    assert main(predict) == 2
    assert f"{guarded / 'plain'} holds no guard (recondite guard fit makes one)" in capsys.readouterr().err


def test_a_folder_that_holds_no_screen_is_left_alone_before_a_guard_is_fitted(guarded, monkeypatch, capsys):
    monkeypatch.setattr(guard_fit, "fit_guard", lambda *_, **__: pytest.fail("the work began"))
    (guarded / "notes.txt").write_text("mine")
    assert main(["guard", "fit", "none", str(guarded), "-o", str(guarded)]) == 1
    assert f"{guarded} exists and is not a screen; it is left alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (
            ["predict", "none", "images", "-o", "v.csv", "--workers", "2", "--part-size", "5"],
            "--workers and --part-size",
        ),
        (["fit", "images", "-o", "s", "--worker-cpus", "2"], "--worker-cpus"),
        (["serve", "none", "--replicas", "3", "--proxies", "head-only"], "--replicas and --proxies"),
        (
            ["study", "grid", "images", "-o", "s", "--normal", "a", "--vary", "width=1,2", "--run-cpus", "2"],
            "--run-cpus",
        ),
    ],
)
def test_flags_that_would_change_nothing_without_a_cluster_are_refused(command, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert f"error: {flags} would change nothing without a cluster: give --cluster too" in capsys.readouterr().err

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
    save_guard(Guard(screen=screens("pca"), classifier=None, classes=LABELS), tmp_path / "guard")
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
    assert main(["guard", "fit", "none", str(guarded), "-o", str(guarded)]) == 2
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


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ["predict", "none", "images", "-o", "v.csv", "--fdr", "0.1", "--alpha", "0.2", "--confidence", "0.9"],
            "--alpha and --confidence would change nothing with --fdr, which decides alone but in a --report",
        ),
        (
            ["predict", "none", "images", "-o", "v", "--cluster", "local", "--device", "cuda"],
            "--device would change nothing on a cluster, where --worker-gpus decides: leave it out",
        ),
        (
            ["watch", "none", "images", "-o", "v.csv", "--every-seconds", "3"],
            "--every-seconds would change nothing without a camera: give --camera",
        ),
        (
            ["watch", "none", "-o", "v.csv", "--camera", "0", "--save-which", "all"],
            "--save-which would change nothing where no frames are saved: give --save too",
        ),
        (
            ["watch", "none", "-o", "v.csv", "--camera", "0", "--settle-seconds", "3", "--idle-seconds", "60"],
            "--settle-seconds and --idle-seconds would change nothing with a camera: they are of a folder",
        ),
        (
            ["study", "latent-map", "none", "images", "-o", "s", "--new-count", "9"],
            "--new-count would change nothing without further images: give --new too",
        ),
        (
            ["guard", "fit", "none", "images", "-o", "g", "--delta", "0.1"],
            "--delta would change nothing where no risk is promised: give --risk too",
        ),
        (
            ["guard", "fit", "none", "images", "-o", "g", "--calibration", "others", "--held-out", "0.3"],
            "--held-out would change nothing beside --calibration: nothing is held out",
        ),
        (["serve", "none", "--cluster", "local", "--drain-seconds", "5"], "--drain-seconds would change nothing on a"),
        (
            ["serve", "none", "--hang-seconds", "5"],
            "--hang-seconds would change nothing with one worker: give --workers too",
        ),
        (
            ["serve", "none", "--verdict-webhook-p", "0.5"],
            "--verdict-webhook-p would change nothing without --verdict-webhook",
        ),
        (
            ["serve", "none", "--cluster", "local", "--requests-per-replica", "3"],
            "--requests-per-replica would change nothing where the number of replicas is fixed",
        ),
    ],
)
def test_flags_that_would_change_nothing_beside_others_are_refused(command, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert f"error: {said}" in capsys.readouterr().err

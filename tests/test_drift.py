import json
from dataclasses import replace

import numpy as np
import pytest

from recondite.cli import main
from recondite.data.datasets import open_images
from recondite.errors import InputError
from recondite.reports.drift import watch
from recondite.screen.monitor import Monitor
from recondite.screen.sweep import sweep


@pytest.fixture(scope="module")
def stream(digits):
    few = digits[:1400][np.random.default_rng(0).permutation(1400)[:300]]
    return np.concatenate([few, np.clip(few[:150].astype(int) + 25, 0, 255).astype(np.uint8)])


@pytest.fixture(scope="module")
def saved(screens, stream, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drift")
    screens("pca").save(folder / "screen")
    np.save(folder / "new.npy", stream)
    sweep(screens("pca"), stream, folder / "verdicts.csv", statistics=True)
    return folder


def test_a_table_gives_the_alarm_that_the_verdicts_give(saved, screens, stream):
    monitor = Monitor(screens("pca"), seed=2)
    monitor.update(screens("pca").predict(stream))
    found = watch(screens("pca"), saved / "verdicts.csv", seed=2)
    assert found.monitor.state() == monitor.state()
    assert found.monitor.alarm == monitor.alarm is not None
    assert 300 < monitor.alarm.at < 320
    assert found.path[0] == (0, pytest.approx(0.5))
    assert found.path[-1] == (450, monitor.martingale)


def test_a_monitor_lives_from_one_table_to_the_next(saved, screens, stream, tmp_path):
    screen, state = screens("pca"), tmp_path / "state.json"
    for name, images in (("one", stream[:200]), ("two", stream[200:])):
        sweep(screen, images, tmp_path / f"{name}.csv", statistics=True)
        last = watch(screen, tmp_path / f"{name}.csv", state=state)
    whole = watch(screen, saved / "verdicts.csv")
    assert last.monitor.alarm.at == whole.monitor.alarm.at
    assert last.monitor.martingale == whole.monitor.martingale
    with pytest.raises(InputError, match=r"false_alarm 0\.01; got 0\.1"):
        watch(screen, tmp_path / "two.csv", state=state, false_alarm=0.1)
    state.write_text("{")
    with pytest.raises(InputError, match="not the state of a monitor"):
        watch(screen, tmp_path / "two.csv", state=state)


def test_verdicts_of_another_screen_are_refused(saved, screens, tmp_path):
    with pytest.raises(InputError, match="another screen"):
        watch(screens("pca").with_score("error"), saved / "verdicts.csv")
    text = (saved / "verdicts.csv").read_text().splitlines()
    table = tmp_path / "bad.csv"
    table.write_text("\n".join([text[0], text[1].replace(text[1].split(",")[4], "often")]))
    with pytest.raises(InputError, match="p_value: expected a number; got 'often'"):
        watch(screens("pca"), table)


def test_groups_come_from_the_folder_in_the_id(digits, folder, tmp_path):
    import recondite

    screen = recondite.fit(digits[40:340], detector="pca", latent_size=8).recalibrated(folder, by_folder=True)
    sweep(screen, folder, tmp_path / "verdicts.csv")
    assert watch(screen, tmp_path / "verdicts.csv").monitor.seen == 40
    sweep(screen, digits[:10], tmp_path / "even.csv", group="even")
    assert watch(screen, tmp_path / "even.csv", group="even").monitor.seen == 10
    with pytest.raises(InputError, match="no calibration for groups"):
        watch(screen, tmp_path / "even.csv")


def test_the_command_says_what_moved(saved, capsys):
    def command(*flags):
        code = main(["monitor", str(saved / "screen"), str(saved / "verdicts.csv"), *flags])
        return code, capsys.readouterr()

    output, report = saved / "moved.csv", saved / "drift.html"
    code, printed = command("-o", str(output), "--report", str(report), "--state", str(saved / "state.json"))
    assert code == 0
    assert printed.out.startswith("ALARM at image 30") or printed.out.startswith("ALARM at image 31")
    assert "brightness (higher)" in printed.out
    assert "brightness" in output.read_text()
    page = report.read_text()
    assert "Drift: alarm" in page
    assert page.count("<svg") == 3
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    assert json.loads((saved / "state.json").read_text())["alarm"]["at"] > 300
    code, printed = command("--false-alarm", "2")
    assert code == 2
    assert "expected false_alarm in (0, 1)" in printed.err


def test_a_quiet_table_says_so(saved, screens, stream, capsys, tmp_path):
    sweep(screens("pca"), stream[:250], tmp_path / "quiet.csv")
    assert main(["monitor", str(saved / "screen"), str(tmp_path / "quiet.csv")]) == 0
    assert capsys.readouterr().out.startswith("No alarm after 250 images: the martingale is ")


def test_a_table_without_one_readable_image_says_that_there_was_nothing_to_judge(saved, screens, capsys, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "bad.png").write_bytes(b"")
    table, report = tmp_path / "verdicts.csv", tmp_path / "drift.html"
    sweep(screens("pca"), tmp_path / "images", table)
    assert main(["monitor", str(saved / "screen"), str(table), "--report", str(report)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("There was nothing to judge: none of 1 image has a score.\n")
    assert "alarm" not in told
    assert "Drift: nothing to judge" in report.read_text()


def test_predict_writes_statistics_when_asked(saved, capsys):
    arguments = ["predict", str(saved / "screen"), str(saved / "new.npy"), "-o", str(saved / "again.csv")]
    assert main([*arguments, "--statistics"]) == 0
    assert (saved / "again.csv").read_bytes() == (saved / "verdicts.csv").read_bytes()
    assert main(arguments) == 0
    assert "statistic." not in (saved / "again.csv").read_text()
    capsys.readouterr()


def test_frames_of_a_burst_count_once_and_the_promise_says_for_what_it_holds(screens, digits, tmp_path):
    """Each image twice in a row raised .57 of streams without a change, where .05 was stated."""
    screen, quiet = screens("pca"), digits[:1400][np.random.default_rng(0).permutation(1400)[:60]]
    names = [f"part{place // 20}_{place % 20}.png" for place in range(1200)]
    frames = replace(open_images(quiet.repeat(20, 0)), ids=names)
    sweep(screen, frames, tmp_path / "frames.csv", statistics=True)
    sweep(screen, quiet, tmp_path / "once.csv", statistics=True)
    assert watch(screen, tmp_path / "frames.csv").monitor.alarm is not None
    found, once = watch(screen, tmp_path / "frames.csv", group_by="prefix"), watch(screen, tmp_path / "once.csv")
    assert found.monitor.alarm is None
    assert (found.monitor.seen, found.monitor.martingale, found.left_out) == (60, once.monitor.martingale, 1140)
    assert "No alarm after 60 images, 1,140 more of their units left out" in found.in_words()
    assert "if images are independent: frames of a burst" in once.in_words()
    with pytest.raises(InputError, match="no pixels to tell copies by"):
        watch(screen, tmp_path / "once.csv", group_by="copies")

"""A watched folder, a watched film: every image one row, whatever interrupts the watch."""

import csv
import errno
import inspect
import json
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import recondite
from recondite.cli import main
from recondite.data import arrivals as arrivals_module
from recondite.data.arrivals import Arrivals
from recondite.data.camera import Camera, Frame, open_frames
from recondite.data.growing import GrowingTable
from recondite.data.journal import Journal
from recondite.data.sorting import SortedFiles
from recondite.errors import InputError, ReconditeWarning
from recondite.screen import watch as watch_module
from recondite.screen.sweep import sweep
from recondite.screen.watch import _FolderWatch, _verdict_of, watch_folder, watch_frames
from recondite.statistics.calibration import Calibrator

QUICK = {"settle": 0.0, "patience": 0.0, "poll": 0.0, "idle": 0.0}


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def watch(screen, folder, output, **options):
    return [record for records in watch_folder(screen, folder, output, **QUICK | options) for record in records]


def by_id(path):
    return sorted(path.read_text().splitlines()[1:])


class Killed(BaseException):
    pass


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(arrivals_module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_a_watch_writes_the_table_of_a_sweep(screens, folder, tmp_path):
    (folder / "odd" / "001.png").write_bytes(b"text")
    for suffix in ("csv", "jsonl"):
        records = watch(screens("pca"), folder, tmp_path / f"watched.{suffix}", statistics=True)
        sweep(screens("pca"), folder, tmp_path / f"swept.{suffix}", statistics=True)
        watched = (tmp_path / f"watched.{suffix}").read_text().splitlines()
        swept = (tmp_path / f"swept.{suffix}").read_text().splitlines()
        assert sorted(watched) == sorted(swept)
        assert watched[0] == swept[0] or suffix == "jsonl"
        assert len(records) == 40
        assert sum(record["verdict"] == "invalid" for record in records) == 1


def test_an_image_waits_for_its_mask_and_is_judged_with_it(digits, tmp_path, clock):
    new, masks, given = (tmp_path / name for name in ("new", "masks", "given"))
    for name, images in ((given, digits[:200]), (new, digits[200:203])):
        name.mkdir()
        for place, image in enumerate(images):
            Image.fromarray(image).save(name / f"{place:03d}.png")
    masks.mkdir()
    inside = np.zeros((8, 8), np.uint8)
    inside[:6, 2:] = 255
    for place in range(200):
        Image.fromarray(inside).save(masks / f"{place:03d}.bmp")
    screen = recondite.fit(given, detector="pca", latent_size=8, region=masks, evidence=0.0, score="squared_error")
    (masks / "002.bmp").rename(tmp_path / "002.bmp")
    table = tmp_path / "watched.csv"
    judged = watch_folder(screen, new, table, **QUICK | {"region": masks, "patience": 30.0})
    assert [record["id"] for record in next(judged)] == ["000.png", "001.png"]
    (tmp_path / "002.bmp").rename(masks / "002.bmp")
    clock.now += 30
    (late,) = next(judged)
    judged.close()
    assert late["instance_score"] == screen.predict(new, region=masks).instance_score[2]
    for region, message in ((None, "one mask per image"), (new, "is watched itself"), (new / "none", "folder with")):
        with pytest.raises(InputError, match=message):
            watch(screen, new, tmp_path / "refused.csv", region=region)


def test_a_watch_says_once_that_images_are_far_from_what_was_learnt(screens, tmp_path, caplog):
    shots = tmp_path / "shots"
    shots.mkdir()
    large = Image.fromarray(np.zeros((400, 600, 3), np.uint8))
    large.save(shots / "0.png")
    batches = watch_folder(screens("pca"), shots, tmp_path / "rows.csv", **QUICK)
    assert len(next(batches)) == 1
    large.save(shots / "1.png")
    assert sum(map(len, batches)) == 1
    assert caplog.text.count("far from the size that the screen learnt from") == 1


def test_a_file_is_complete_when_it_has_not_changed_for_a_while(tmp_path, clock):
    path = tmp_path / "a.png"
    arrivals = Arrivals(tmp_path, settle=2)
    path.write_bytes(b"beginning")
    assert arrivals.ready() == []
    clock.now += 1.5
    path.write_bytes(b"beginning and more")
    assert arrivals.ready() == []
    clock.now += 1.5
    assert arrivals.ready() == []
    assert arrivals.waiting == 1
    clock.now += 0.5
    assert arrivals.ready() == ["a.png"]
    arrivals.done("a.png")
    assert arrivals.ready() == []
    assert arrivals.waiting == 0
    path.write_bytes(b"another image")
    assert arrivals.ready() == []
    clock.now += 2
    assert arrivals.ready() == ["a.png"]


def test_a_share_that_goes_away_for_an_hour_does_not_come_back_as_new(tmp_path, clock):
    folder, away = tmp_path / "share", tmp_path / "away"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"image")
    arrivals = Arrivals(folder, settle=0)
    assert arrivals.ready() == ["a.png"]
    arrivals.done("a.png")
    folder.rename(away)
    assert arrivals.ready() == []
    folder.mkdir()  # the place where it is mounted
    clock.now += 3600
    assert arrivals.ready() == []
    folder.rmdir()
    away.rename(folder)
    assert arrivals.ready() == []
    (folder / "a.png").rename(tmp_path / "a.png")
    arrivals.ready()
    clock.now += 100_000
    arrivals.ready()
    assert arrivals.remembered() == set()


def test_a_file_that_cannot_be_read_waits_for_the_rest_of_it(screens, tmp_path, digits, clock):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(np.tile(digits[0], (20, 20))).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (folder / "a.png").write_bytes(content[: len(content) // 2])
    judged = watch_folder(screens("pca"), folder, tmp_path / "out.csv", settle=1, patience=30, poll=0, idle=100)
    found = []
    stepping = threading.Thread(target=lambda: found.extend(next(judged)))
    stepping.start()
    for _ in range(10):
        clock.now += 1.0
        time.sleep(0.02)
    assert found == []
    (folder / "a.png").write_bytes(content)
    while stepping.is_alive():
        clock.now += 1.0
        time.sleep(0.02)
    judged.close()
    assert [record["verdict"] for record in found] != ["invalid"]
    assert len(found) == 1


def test_the_table_of_an_interrupted_watch_holds_every_row_once(screens, folder, tmp_path, monkeypatch):
    screen = screens("pca")
    watch(screen, folder, tmp_path / "whole.csv")
    write = GrowingTable._write
    for of_names, written in ((True, 0), (True, 5), (False, 0), (False, 1), (False, 200), (False, 10_000_000)):
        output = tmp_path / f"{of_names} {written}.csv"

        def stopping(self, stream, content, written=written, of_names=of_names):
            if content.startswith(b"id,") != of_names:
                return write(self, stream, content)
            stream.write(content[:written])
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(GrowingTable, "_write", stopping)
            with pytest.raises(Killed):
                watch(screen, folder, output)
        judged = watch(screen, folder, output)
        assert len(judged) == (40 if of_names else 0)  # what was decided is not judged again
        assert by_id(output) == by_id(tmp_path / "whole.csv")
        assert output.read_text().splitlines()[0] == (tmp_path / "whole.csv").read_text().splitlines()[0]


def test_an_addition_that_was_never_written_down_is_judged_again(screens, folder, tmp_path):
    screen = screens("pca")
    watch(screen, folder, tmp_path / "out.csv")
    whole = by_id(tmp_path / "out.csv")
    Image.new("L", (8, 8)).save(folder / "new.png")
    journal = tmp_path / ".out.csv.watch"
    journal.write_text(journal.read_text() + '{"facts": [{"file": "ne')  # killed while it was written
    assert [record["id"] for record in watch(screen, folder, tmp_path / "out.csv")] == ["new.png"]
    assert len(by_id(tmp_path / "out.csv")) == len(whole) + 1


def test_a_file_written_anew_is_another_image(screens, folder, tmp_path, digits):
    screen, output = screens("pca"), tmp_path / "out.csv"
    watch(screen, folder, output)
    Image.fromarray(255 - digits[3]).save(folder / "odd" / "001.png")
    (folder / "even" / "000.png").unlink()
    assert [record["id"] for record in watch(screen, folder, output)] == ["odd/001.png"]
    assert [row["id"] for row in rows_of(output)].count("odd/001.png") == 2


def test_files_are_moved_by_verdict_and_a_crash_loses_none(screens, folder, tmp_path, monkeypatch):
    screen, output, sorted_into = screens("pca"), tmp_path / "out.csv", tmp_path / "sorted"
    (folder / "odd" / "001.png").write_bytes(b"text")
    put, moved = SortedFiles.put, []

    def stopping(self, path, name, verdict):
        if len(moved) == 7:
            raise Killed
        moved.append(name)
        put(self, path, name, verdict)

    with monkeypatch.context() as patch:
        patch.setattr(SortedFiles, "put", stopping)
        with pytest.raises(Killed):
            watch(screen, folder, output, sort_into=("move", sorted_into))
    assert len(list(sorted_into.rglob("*.png"))) == 7
    assert watch(screen, folder, output, sort_into=("move", sorted_into)) == []
    rows = rows_of(output)
    assert len(rows) == 40
    assert all((sorted_into / row["verdict"] / row["id"]).is_file() for row in rows)
    assert list(folder.rglob("*.png")) == []
    Image.new("L", (8, 8)).save(folder / "odd" / "003.png")
    (record,) = watch(screen, folder, output, sort_into=("move", sorted_into))
    names = {path.name for path in sorted_into.rglob("003*.png")}
    assert len(names) == 2 or record["verdict"] == "outlier"


@pytest.mark.parametrize("relative", [True, False])
def test_a_link_that_is_moved_leads_where_it_did(relative, tmp_path):
    image, link = tmp_path / "a.png", tmp_path / "in" / "sub" / "b.png"
    link.parent.mkdir(parents=True)
    image.write_bytes(b"content")
    link.symlink_to("../../a.png" if relative else image)
    SortedFiles(tmp_path / "sorted", "move", ["inlier"]).put(link, "sub/b.png", "inlier")
    assert (tmp_path / "sorted" / "inlier" / "sub" / "b.png").read_bytes() == b"content"
    assert not link.is_symlink()
    assert image.is_file()


def test_links_follow_the_last_verdict(screens, folder, tmp_path):
    screen, output, sorted_into = screens("pca"), tmp_path / "out.csv", tmp_path / "sorted"
    watch(screen, folder, output, sort_into=("link", sorted_into))
    before = {row["id"]: row["verdict"] for row in rows_of(output)}
    assert all((sorted_into / verdict / name).resolve() == folder / name for name, verdict in before.items())
    (folder / "odd" / "003.png").write_bytes(b"no image any more")
    watch(screen, folder, output, sort_into=("link", sorted_into))
    assert (sorted_into / "invalid" / "odd" / "003.png").is_symlink()
    assert len(list(sorted_into.rglob("003.png"))) == 1
    assert watch(screen, folder, output, sort_into=("link", sorted_into)) == []
    assert len([path for path in sorted_into.rglob("*") if path.is_symlink()]) == 40


def test_a_command_says_that_it_watches_when_it_does(folder, tmp_path, capsys):
    output, quick = tmp_path / "out.csv", ["--settle-seconds", "0", "--idle-seconds", "0"]
    assert main(["watch", "digits", str(tmp_path / "nope"), "-o", str(output), *quick]) == 2
    assert "watching" not in capsys.readouterr().err
    output.write_text("id,verdict\n")
    assert main(["watch", "digits", str(folder), "-o", str(output), *quick]) == 2
    assert "watching" not in capsys.readouterr().err
    output.unlink()
    assert main(["watch", "digits", str(folder), "-o", str(output), *quick]) == 0
    assert f"watching {folder} into {output}; Ctrl-C ends it\n" in capsys.readouterr().err


def test_what_cannot_be_looked_at_is_told_once_and_judged_when_it_can(tmp_path, caplog, monkeypatch):
    (tmp_path / "link.png").symlink_to(tmp_path / "elsewhere")
    arrivals = Arrivals(tmp_path, 0.0)
    assert arrivals.ready() == arrivals.ready() == []
    assert caplog.messages == [
        f"{tmp_path / 'link.png'}: No such file or directory; looking again until it can be read"
    ]
    (tmp_path / "elsewhere").write_bytes(b"content")
    caplog.clear()
    assert arrivals.ready() == ["link.png"]

    def barred(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("recondite.data.arrivals.os.stat", barred)
        assert arrivals.ready() == []
    assert caplog.messages == [f"{tmp_path / 'link.png'}: Permission denied; looking again until it can be read"]
    assert arrivals.ready() == ["link.png"]


def test_what_a_watch_refuses(screens, folder, tmp_path):
    screen, output = screens("pca"), tmp_path / "out.csv"
    with pytest.raises(InputError, match="a table that grows"):
        watch(screen, folder, tmp_path / "out.parquet")
    with pytest.raises(InputError, match="expected a folder"):
        watch(screen, tmp_path / "nothing", output)
    with pytest.raises(InputError, match="lies among the images"):
        watch(screen, folder, output, sort_into=("move", folder / "sorted"))
    output.write_text("id,verdict\n")
    with pytest.raises(InputError, match="not from a watch"):
        watch(screen, folder, output)
    assert output.read_text() == "id,verdict\n"
    output.unlink()
    watch(screen, folder, output)
    with pytest.raises(InputError, match="another alpha"):
        watch(screen.with_alpha(0.2), folder, output)
    assert len(rows_of(output)) == 40


def test_a_table_that_was_moved_away_begins_anew_and_what_was_judged_stays_so(tmp_path):
    path = tmp_path / "a.csv"
    table = GrowingTable(path, {"of": "test"}, ["id", "note"])
    table.add([{"file": "a"}], [{"id": "a", "note": "é"}])
    path.rename(tmp_path / "yesterday.csv")
    table = GrowingTable(path, {"of": "test"}, ["id", "note"])
    table.add([{"file": "b"}], [{"id": "b", "note": None}])
    assert path.read_bytes() == b"id,note\r\nb,\r\n"
    table.remember([{"file": "b"}])
    table = GrowingTable(path, {"of": "test"}, ["id", "note"])
    assert table.taken_up == [{"file": "b"}]
    assert [row["id"] for row in rows_of(path)] == ["b"]


def test_facts_without_rows_are_remembered(tmp_path):
    table = GrowingTable(tmp_path / "a.csv", {"of": "test"}, ["id"])
    table.add([{"file": "a"}], [])
    assert GrowingTable(tmp_path / "a.csv", {"of": "test"}, ["id"]).taken_up == [{"file": "a"}]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("running", [False, True])
def test_the_rows_of_a_table_that_was_moved_away_never_come_again(suffix, running, tmp_path):
    """The last addition of the old table may lie where the new one ends."""
    path = tmp_path / f"a{suffix}"

    def table():
        return GrowingTable(path, {"of": "test"}, ["id"])

    first = table()
    first.add([{"file": "a"}], [{"id": "a"}])
    path.rename(tmp_path / f"yesterday{suffix}")
    if running:
        first._append([], "")  # and killed before the next addition was in the journal
    for _ in range(3):
        assert table().taken_up == [{"file": "a"}]
        assert path.read_text() == ("id\n" if suffix == ".csv" else "")
    table().add([{"file": "b"}], [{"id": "b"}])
    assert table().taken_up == [{"file": "a"}, {"file": "b"}]
    assert '"a"' not in path.read_text()
    assert path.read_text().count("b") == 1


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_rows_that_were_written_down_and_not_in_a_table_that_was_moved_away_come_into_the_next(
    suffix, tmp_path, monkeypatch
):
    path, add = tmp_path / f"a{suffix}", Journal.add

    def table():
        return GrowingTable(path, {"of": "test"}, ["id"])

    def killed(self, rows, **options):
        add(self, rows, **options)
        raise Killed

    interrupted = table()
    interrupted.add([{"file": "a"}], [{"id": "a"}])
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", killed)
        with pytest.raises(Killed):
            interrupted.add([{"file": "b"}], [{"id": "b"}])
        path.rename(tmp_path / f"yesterday{suffix}")
        with pytest.raises(Killed):
            table()
    for _ in range(3):
        assert table().taken_up == [{"file": "a"}, {"file": "b"}]
        assert path.read_text() == {".csv": "id\nb\n", ".jsonl": '{"id": "b"}\n'}[suffix]
    path.rename(tmp_path / f"today{suffix}")
    table()
    assert "b" not in path.read_text()


def test_a_table_that_is_moved_away_while_rows_are_added_gets_them_and_the_next_has_its_columns(tmp_path, monkeypatch):
    path, add = tmp_path / "a.csv", Journal.add
    table = GrowingTable(path, {"of": "test"}, ["id"])

    def moving(self, rows, **options):
        add(self, rows, **options)
        if path.exists():
            path.rename(tmp_path / "yesterday.csv")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", moving)
        table.add([{"file": "a"}], [{"id": "a" * 9}])
    table.add([{"file": "b"}], [{"id": "b"}])
    assert (tmp_path / "yesterday.csv").read_text() == "id\naaaaaaaaa\n"
    assert path.read_text() == "id\nb\n"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_the_rows_of_a_table_that_was_emptied_do_not_come_again(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    GrowingTable(path, {"of": "test"}, ["id"]).add([{"file": "a"}], [{"id": "a"}])
    path.write_bytes(b"")
    for _ in range(3):
        GrowingTable(path, {"of": "test"}, ["id"])
        assert path.read_text() == ("id\n" if suffix == ".csv" else "")


def test_the_journal_is_shortened_by_what_is_gone(screens, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("recondite.screen.watch._MOST_FACTS", 10)
    screen, output = screens("pca"), tmp_path / "out.csv"
    for _ in range(3):
        for path in folder.rglob("*.png"):
            path.write_bytes(path.read_bytes())
        assert len(watch(screen, folder, output)) == 40
    lines = (tmp_path / ".out.csv.watch").read_text().splitlines()
    assert sum(len(json.loads(line)["facts"]) for line in lines[1:]) < 120
    assert watch(screen, folder, output) == []
    assert len(rows_of(output)) == 120


def test_the_command_survives_kill_and_stops_when_it_is_told_to(digit_screen, folder, tmp_path):
    output = tmp_path / "out.jsonl"
    command = [
        sys.executable,
        "-m",
        "recondite",
        "watch",
        digit_screen,
        folder,
        "-o",
        output,
        "--settle-seconds",
        "0.1",
    ]
    command += ["--poll-seconds", "0.05", "--patience-seconds", "0.2"]

    def run(*more):
        return subprocess.Popen([*map(str, command), *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for(rows):
        end = time.monotonic() + 120
        while not output.exists() or output.read_text().count("\n") < rows:
            assert time.monotonic() < end
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)

    process = run()
    wait_for(40)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    for index in range(5):
        Image.new("L", (8, 8), 40 * index).save(folder / f"late {index}.png")
    (folder / "bad.png").write_bytes(b"text")
    process = run()
    wait_for(46)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert "6 images" in out
    assert "invalid: bad.png" in out
    ids = [json.loads(line)["id"] for line in output.read_text().splitlines()]
    assert len(ids) == len(set(ids)) == 46


def test_wrong_commands_are_refused_before_anything_is_loaded(tmp_path, capsys):
    for flags, words in (
        ([str(tmp_path), "--camera", "0"], "not both"),
        ([], "a folder to watch, or --camera"),
        ([str(tmp_path), "--move", "a", "--link", "b"], "--move or --link"),
        (["--camera", "0", "--move", "a"], "no files to move"),
        ([str(tmp_path), "--save", "a"], "is for frames"),
        ([str(tmp_path), "--settle-seconds", "-1"], "settle-seconds"),
    ):
        assert main(["watch", "digits", *flags, "-o", str(tmp_path / "out.csv")]) == 2
        assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def film(tmp_path, digits):
    """Thirty frames of digits, enlarged, at ten a second."""
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 64))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no films")
    for digit in digits[:30]:
        grey = np.kron(digit, np.ones((8, 8), np.uint8))
        writer.write(np.stack([grey, grey // 2, grey // 4], axis=2))  # blue, green, red
    writer.release()
    return path


def frames_of(film, folder):
    """Save the frames of a film as PNG files, by OpenCV alone."""
    import cv2

    folder.mkdir()
    capture, number = cv2.VideoCapture(str(film)), 0
    while True:
        read, pixels = capture.read()
        if not read:
            return
        cv2.imwrite(str(folder / f"{number:06d}.png"), pixels)
        number += 1


def test_a_film_is_judged_like_its_frames_saved_as_pictures(screens, film, tmp_path):
    screen = screens("pca")
    frames_of(film, tmp_path / "frames")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReconditeWarning)  # large and coloured, for a screen of small grey digits
        expected = screen.predict(tmp_path / "frames")
    saved = (tmp_path / "saved", ("inlier", "outlier"))
    watching = watch_frames(screen, open_frames(str(film)), tmp_path / "a.csv", save=saved)
    records = [record for some in watching for record in some]
    assert [record["instance_score"] for record in records] == expected.instance_score.tolist()
    assert [record["verdict"] for record in records] == expected.words
    assert records[29]["id"] == "line.avi#000029"
    assert len(rows_of(tmp_path / "a.csv")) == 30
    for record in records:
        picture = Image.open(tmp_path / "saved" / record["verdict"] / f"{record['id']}.png")
        assert next(screen.stream([picture])).instance_score[0] == record["instance_score"]


def test_an_interrupted_film_goes_on_and_another_one_begins_anew(screens, film, tmp_path):
    screen, output = screens("pca"), tmp_path / "a.csv"
    watching = watch_frames(screen, open_frames(str(film)), output)
    assert len(next(watching)) == 8
    watching.close()
    rest = [one for some in watch_frames(screen, open_frames(str(film)), output) for one in some]
    assert len(rest) == 22
    assert [row["id"] for row in rows_of(output)] == [f"line.avi#{number:06d}" for number in range(30)]
    assert list(watch_frames(screen, open_frames(str(film)), output)) == []
    film.write_bytes(film.read_bytes())
    assert sum(map(len, watch_frames(screen, open_frames(str(film)), output))) == 30


def test_frames_are_chosen_by_time(film):
    stopped = threading.Event()
    numbers = [frame.number for some in open_frames(str(film), 0.5).some(8, 0, stopped) for frame in some]
    assert numbers == [0, 5, 10, 15, 20, 25]
    numbers = [frame.number for some in open_frames(str(film), 0.5).some(8, 7, stopped) for frame in some]
    assert numbers == [10, 15, 20, 25]


def test_the_command_judges_a_film(digit_screen, film, tmp_path, capsys):
    output = tmp_path / "a.csv"
    flags = ["--camera", str(film), "-o", str(output), "--save", str(tmp_path / "saved")]
    assert main(["watch", str(digit_screen), *flags]) == 0
    assert "30 images" in capsys.readouterr().out
    rows = rows_of(output)
    assert len(list((tmp_path / "saved").rglob("*.png"))) == sum(row["verdict"] != "inlier" for row in rows)


def test_a_camera_gives_its_newest_frame_and_is_opened_again(film, monkeypatch, caplog):
    """No machine of tests has a camera: a film stands in, which ends again and again, as a loose cable does."""
    monkeypatch.setattr("recondite.data.camera._FIRST_PAUSE", 0.01)
    camera, stopped, frames = Camera(f"file://{film}", 0.0), threading.Event(), []
    for some in camera.some(8, 0, stopped):
        frames += some
        time.sleep(0.02)
        if len(frames) == 40:
            stopped.set()
    assert len({frame.name for frame in frames}) >= 30
    assert "gives no frames" in caplog.text


def test_the_table_of_a_camera_begins_with_frame_0_and_goes_on(screens, digits, tmp_path):
    class Still:
        name, identity = "camera-0", None

        def some(self, most, start, stopped):  # noqa: ARG002
            yield [Frame(start, f"{self.name}/{start}", Image.fromarray(digits[0]))]

    for number in range(2):
        assert len(list(watch_frames(screens("pca"), Still(), tmp_path / "a.csv"))) == 1
        assert rows_of(tmp_path / "a.csv")[-1]["id"] == f"camera-0/{number}"


def test_no_camera_and_no_film_are_said_in_words(tmp_path):
    with pytest.raises(InputError, match="expected the number of a camera"):
        open_frames(str(tmp_path / "nothing.mp4"))
    pytest.importorskip("cv2")
    (tmp_path / "text.mp4").write_bytes(b"text")
    with pytest.raises(InputError, match="opens no camera"):
        open_frames(str(tmp_path / "text.mp4"))


class Stop:
    """Is never set; a wait lets the clock go on by as much."""

    def __init__(self, clock, most=50):
        self.clock, self.waits, self.most = clock, [], most

    def is_set(self):
        return len(self.waits) >= self.most

    def wait(self, seconds):
        self.waits.append(seconds)
        self.clock.now += seconds


def test_a_watch_looks_again_after_a_while_and_ends_when_nothing_changes(screens, tmp_path, digits, clock, monkeypatch):
    folder, screen = tmp_path / "in", screens("pca")
    folder.mkdir()
    timed = {"settle": 3.0, "poll": 1.0, "idle": 5.0}
    stop = Stop(clock)
    assert watch(screen, folder, tmp_path / "a.csv", **timed, stopped=stop) == []
    assert stop.waits == [1.0] * 5
    # A file that is not complete is no rest: idle seconds are counted from its row.
    Image.fromarray(digits[0]).save(folder / "0.png")
    stop = Stop(clock)
    assert len(watch(screen, folder, tmp_path / "b.csv", **timed | {"idle": 2.0}, stopped=stop)) == 1
    assert stop.waits == [1.0] * 5
    # A look takes a quarter of the time at most.
    monkeypatch.setattr(Arrivals, "seconds", property(lambda _: 0.5, lambda *_: None), raising=False)
    stop = Stop(clock)
    assert watch(screen, folder, tmp_path / "b.csv", **timed, stopped=stop) == []
    assert stop.waits == [2.0] * 3
    stop = Stop(clock, most=9)
    assert watch(screen, folder, tmp_path / "b.csv", **timed | {"idle": None}, stopped=stop) == []
    assert len(stop.waits) == 9


def test_what_is_there_is_judged_some_at_a_time_without_a_rest(screens, folder, tmp_path, clock, monkeypatch):
    monkeypatch.setattr(type(screens("pca").detector), "scoring_batch", 2)
    stop = Stop(clock)
    lots = list(watch_folder(screens("pca"), folder, tmp_path / "a.csv", **QUICK, stopped=stop))
    assert [len(lot) for lot in lots] == [8] * 5
    assert stop.waits == []


class Table:
    """What a folder's watch writes down."""

    def __init__(self, *facts):
        self.taken_up, self.since_rewritten, self.facts, self.rows, self.kept = list(facts), 0, [], [], None

    def add(self, facts, rows):
        self.facts += facts
        self.rows += rows

    def remember(self, facts):
        self.kept = list(facts)


class Waiting:
    """Files that have not changed for so many seconds."""

    def __init__(self, seconds):
        self.seconds, self.later, self.over = seconds, {}, []

    def unchanged(self, _):
        return self.seconds

    def put_off(self, name, seconds):
        self.later[name] = seconds

    def done(self, name):
        self.over.append(name)

    def remembered(self):
        return {"b"}


@pytest.mark.parametrize(("seconds", "judged"), [(10.0, False), (30.0, True)])
def test_what_cannot_be_read_waits_until_it_has_not_changed_for_long(seconds, judged, screens, folder, monkeypatch):
    (folder / "bad.png").write_bytes(b"text")
    table, arrivals = Table(), Waiting(seconds)
    watching = _FolderWatch(screens("pca"), folder, table, None, None, False)
    rows = watching.judge(["even/000.png", "bad.png"], arrivals, 30.0)
    assert [row["id"] for row in rows] == [row["id"] for row in table.rows] == ["even/000.png", "bad.png"][: 1 + judged]
    assert arrivals.over == [fact["file"] for fact in table.facts] == ["even/000.png", "bad.png"][: 1 + judged]
    assert arrivals.later == ({} if judged else {"bad.png": 20.0})
    assert watching.facts["even/000.png"]["verdict"] == rows[0]["verdict"]
    # What changes while it is read is looked at again, and so is what has gone.
    score = watching._score

    def meanwhile(names):
        found = score(names)
        Image.new("L", (9, 9)).save(folder / "odd" / "001.png")
        return found

    monkeypatch.setattr(watching, "_score", meanwhile)
    assert watching.judge(["odd/001.png"], arrivals, 30.0) == []
    assert watching.judge(["gone.png"], arrivals, 30.0) == []
    assert len(arrivals.over) == 1 + judged


def test_facts_of_files_that_are_gone_are_forgotten_when_there_are_many(monkeypatch):
    assert watch_module._MOST_FACTS == 10_000
    monkeypatch.setattr(watch_module, "_MOST_FACTS", 4)
    for names, since, forgotten in (("abc", 6, False), ("abc", 7, True), ("b", 4, False), ("b", 5, True)):
        table = Table(*({"file": name} for name in names))
        watching = _FolderWatch(None, None, table, None, None, False)
        assert table.taken_up == []
        table.since_rewritten = since
        watching._shorten(Waiting(0))
        assert table.kept == ([{"file": "b"}] if forgotten else None)
        assert list(watching.facts) == (["b"] if forgotten else list(names))


def test_a_file_of_several_pages_is_as_its_worst_page():
    for words, said in (
        (("inlier", "invalid"), "invalid"),
        (("invalid", "outlier"), "outlier"),
        (("inlier",), "inlier"),
    ):
        assert _verdict_of([{"verdict": word} for word in words]) == said


def grouped(screen):
    """The same screen, calibrated by group: only what is called even or odd has a verdict."""
    scores = screen.calibrator.scores
    groups = tuple("even" if place % 2 else "odd" for place in range(len(scores)))
    return replace(screen, calibrator=Calibrator(scores, groups))


def test_folders_tell_groups_unless_one_is_named(screens, folder, tmp_path, digits):
    screen = grouped(screens("pca"))
    assert "invalid" not in {record["verdict"] for record in watch(screen, folder, tmp_path / "a.csv")}
    Image.fromarray(digits[0]).save(folder / "0.png")
    (record,) = watch(screen, folder, tmp_path / "a.csv")
    assert record["verdict"] == "invalid"
    assert "invalid" not in {record["verdict"] for record in watch(screen, folder, tmp_path / "b.csv", group="even")}


class Film:
    """Frames that were taken already."""

    identity, name = "a film", "line.avi"

    def __init__(self, digits):
        self.frames = [Frame(number, f"line/{number}", Image.fromarray(one)) for number, one in enumerate(digits)]

    def some(self, most, start, _):
        for first in range(start, len(self.frames), most):
            yield self.frames[first : first + most]


def test_frames_are_judged_eight_at_a_time_and_the_journal_stays_short(screens, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(watch_module, "_MOST_FACTS", 2)
    screen, output, facts = grouped(screens("pca")), tmp_path / "a.csv", []
    remember = GrowingTable.remember
    monkeypatch.setattr(
        GrowingTable, "remember", lambda self, some: facts.append(list(some)) or remember(self, facts[-1])
    )
    film, saved = Film(digits[:50]), (tmp_path / "saved", ("outlier",))
    lots = list(watch_frames(screen, film, output, group="even", save=saved))
    assert [len(lot) for lot in lots] == [8] * 6 + [2]
    assert facts == [[{"film": "a film", "next": last}] for last in (24, 40, 50)]
    records = [record for lot in lots for record in lot]
    assert "invalid" not in {record["verdict"] for record in records}
    odd = {record["id"].replace("/", "_") + ".png" for record in records if record["verdict"] == "outlier"}
    assert {path.name for path in (tmp_path / "saved" / "outlier").iterdir()} == odd
    assert 0 < len(odd) < 50
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["outlier"]
    assert list(watch_frames(screen, film, output, group="even")) == []
    with monkeypatch.context() as patch:
        patch.setattr(type(screen.detector), "scoring_batch", 3)
        assert len(next(watch_frames(screen, film, tmp_path / "b.csv"))) == 3
    unnamed = [record for lot in watch_frames(screen, film, tmp_path / "c.csv") for record in lot]
    assert {record["verdict"] for record in unnamed} == {"invalid"}
    with pytest.raises(InputError, match="saved into"):
        next(watch_frames(screen, film, tmp_path / "d" / "e.csv", save=(tmp_path / "d" / "e.csv", ("outlier",))))


def test_defaults():
    own = {name: one.default for name, one in inspect.signature(watch_folder).parameters.items()}
    assert [own[name] for name in ("settle", "patience", "poll", "idle")] == [2.0, 30.0, 1.0, None]
    assert own["statistics"] is inspect.signature(watch_frames).parameters["statistics"].default is False


def test_a_file_of_which_one_page_cannot_be_read_waits_too(folder, monkeypatch):
    arrivals, watching = Waiting(10.0), _FolderWatch(None, folder, Table(), None, None, False)
    pages = [{"error": None, "verdict": "inlier"}, {"error": "broken", "verdict": "invalid"}]
    monkeypatch.setattr(watching, "_score", lambda names: dict.fromkeys(names, pages))
    assert watching.judge(["even/000.png"], arrivals, 30.0) == []
    assert arrivals.later == {"even/000.png": 20.0}
    assert watching.judge(["even/000.png"], arrivals, 10.0) == pages
    assert watching.facts["even/000.png"]["verdict"] == "invalid"

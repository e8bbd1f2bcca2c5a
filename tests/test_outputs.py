import csv
import fcntl
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from PIL import Image

import recondite
from recondite.cli import main
from recondite.data.artifacts import digest_of, read_folder, read_manifest, write_folder
from recondite.data.datasets import ImageSet, open_images
from recondite.data.files import atomic_file, atomic_folder, beside, fitting, locked
from recondite.data.outputs import check_outputs
from recondite.data.tables import read_events, write_table
from recondite.errors import ArtifactError, InputError, OutputError
from recondite.screen.sweep import sweep


@pytest.fixture(scope="module")
def saved(screens, tmp_path_factory):
    path = tmp_path_factory.mktemp("screens") / "s1"
    screens("pca").save(path)
    return path


@pytest.fixture
def never_loaded(monkeypatch):
    monkeypatch.setattr("recondite.screen.screen.load", lambda *_: pytest.fail("the work began"))


@pytest.mark.usefixtures("folder", "never_loaded")
@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (["-o", "v.csv", "--report", "v.csv"], "-o and --report are both v.csv"),
        (["-o", "v.csv", "--report", "./v.csv"], "-o and --report are both"),
        (["-o", "v.csv", "--report", "alias.csv"], "-o and --report are both"),
        (["-o", "v.csv", "--maps", "v.csv"], "both"),
        (["-o", "v.csv", "--report", "there"], "is a folder"),
        (["-o", "v.csv", "--report", "r.pdf"], "expected a report that ends in .html, .htm; got 'r.pdf'"),
        (["-o", "v.csv", "--report", "a.txt/r.html"], "a.txt is not a folder"),
        (["-o", "v.csv", "--maps", "a.txt"], "a.txt is a file"),
        (["-o", "v.csv", "--maps", "images/maps"], "lies among the images"),
        (["-o", "v.csv", "--maps", "images"], "lies among the images"),
        (["-o", "v.csv", "--maps", "link_to_images/maps"], "lies among the images"),
        (["-o", "v" * 300 + ".csv"], "more than 255 bytes"),
    ],
)
def test_outputs_are_checked_before_the_work(saved, tmp_path, monkeypatch, capsys, outputs, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("mine")
    (tmp_path / "there").mkdir()
    (tmp_path / "alias.csv").symlink_to("v.csv")
    (tmp_path / "link_to_images").symlink_to("images")
    assert main(["predict", str(saved), "images", *outputs]) == 2
    assert words in capsys.readouterr().err
    assert (tmp_path / "a.txt").read_text() == "mine"
    assert not (tmp_path / "v.csv").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        check_outputs({"-o": tmp_path / "a.csv"})


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a file system that nothing can be written to")
def test_a_file_system_that_takes_nothing_is_found_out_before_the_work():
    with pytest.raises(InputError, match=r"--report /proc/none/r\.html cannot be written: /proc"):
        check_outputs({"--report": "/proc/none/r.html"})


@pytest.mark.usefixtures("never_loaded")
def test_what_is_read_is_no_output(tmp_path, saved, capsys):
    table = tmp_path / "events.csv"
    table.write_text("id,label\n1,inlier\n")
    assert main(["monitor", str(saved), str(table), "-o", str(table)]) == 2
    assert "is what is read" in capsys.readouterr().err
    assert main(["sample-for-review", str(table), "-o", str(table)]) == 2
    assert "is what is read" in capsys.readouterr().err
    assert main(["guard", "predict", str(saved), str(tmp_path), "--outputs", str(table), "-o", str(table)]) == 2
    assert "is what is read" in capsys.readouterr().err
    manifest = table.with_name("good.jsonl")
    manifest.touch()
    for both in ([str(manifest), "bad"], ["good", str(manifest)]):
        assert main(["evaluate", str(saved), *both, "-o", str(manifest)]) == 2
        assert "is what is read" in capsys.readouterr().err
    assert table.read_text() == "id,label\n1,inlier\n"
    assert main(["show", str(saved), str(table.rename(tmp_path / "a.png")), "-o", str(tmp_path / "a.png")]) == 2


@pytest.mark.usefixtures("never_loaded")
def test_a_picture_beside_the_image_that_it_explains_is_refused(saved, folder, capsys):
    image = folder / "even" / "000.png"
    assert main(["show", str(saved), str(image), "-o", str(folder / "even" / "why.png")]) == 2
    assert "lies among the images" in capsys.readouterr().err
    check_outputs({"-o": folder / "even" / "why.pdf"}, images=image.parent)


def test_a_glob_of_images_has_a_folder_too(folder):
    with pytest.raises(InputError, match="among the images"):
        check_outputs({}, {"--maps": folder / "even" / "maps"}, images=f"{folder}/even/*.png")
    check_outputs({"-o": folder / "v.csv"}, {"--maps": folder.parent / "maps"}, images=[str(folder)])


def test_a_table_is_written_through_a_link(screens, folder, tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "v.csv"
    link.symlink_to(tmp_path / "real" / "table.csv")
    sweep(screens("pca"), folder, link)
    assert link.is_symlink()
    assert len([*read_events(tmp_path / "real" / "table.csv")]) == 40
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["table.csv"]


def test_a_screen_is_written_through_a_link(screens, tmp_path):
    (tmp_path / "current").symlink_to(tmp_path / "screen")
    for _ in range(2):
        screens("pca").save(tmp_path / "current")
    assert (tmp_path / "current").is_symlink()
    assert recondite.load(tmp_path / "screen").fingerprint() == screens("pca").fingerprint()


def test_a_second_sweep_to_one_output_is_refused_at_its_start(screens, folder, tmp_path, monkeypatch):
    output = tmp_path / "v.csv"
    with locked(output):
        monkeypatch.setattr("recondite.screen.sweep.journalled", lambda *_, **__: pytest.fail("the work began"))
        with pytest.raises(InputError, match=r"another process is writing to .*v\.csv"):
            sweep(screens("pca"), folder, output)
        (tmp_path / "same.csv").symlink_to(output)
        with pytest.raises(InputError, match="another process"):
            sweep(screens("pca"), folder, tmp_path / "same.csv")


def test_the_lock_of_a_dead_process_is_taken_over(screens, folder, tmp_path):
    output = tmp_path / "v.csv"
    code = f"""
import os
from pathlib import Path
from recondite.data.files import locked
with locked(Path({str(output)!r})):
    os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert beside(output, ".lock").exists()
    sweep(screens("pca"), folder, output)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["v.csv"]


def test_a_lock_that_its_holder_removes_meanwhile_locks_nothing(tmp_path, monkeypatch):
    path = tmp_path / "v.csv"
    lock, flock, calls = beside(path, ".lock"), fcntl.flock, []

    def after_its_holder_ended(stream, how):
        if not calls:
            lock.unlink()  # between our opening and our locking of it
        calls.append(how)
        flock(stream, how)

    monkeypatch.setattr(fcntl, "flock", after_its_holder_ended)
    with locked(path):
        assert len(calls) == 2
        with pytest.raises(InputError, match="another process"), locked(path):
            pass
    assert not lock.exists()


def test_two_fits_of_one_screen_do_not_meet(tmp_path, capsys):
    with locked(tmp_path / "s"):
        assert main(["fit", "digits", "-o", str(tmp_path / "s"), "--detector", "pca"]) == 2
    assert "another process is writing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["study", "linear", "digits"],
        ["study", "severity", "digits", "digits"],
        ["study", "grid", "digits", "--normal", "1", "--vary", "latent-size=2,3", "--detector", "pca"],
        ["bench", "pairs"],
        ["bench", "defects", "none"],
    ],
)
def test_two_studies_in_one_folder_do_not_meet(tmp_path, capsys, command):
    with locked(tmp_path / "out"):
        assert main([*command, "-o" if command[0] == "study" else "--output", str(tmp_path / "out")]) == 2
    assert "another process is writing" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


FULL = """
import resource, sys
import numpy as np
from pathlib import Path
from recondite.data.artifacts import write_folder, write_tensors
from recondite.data.journal import Journal
from recondite.data.tables import write_table
from recondite.errors import ReconditeError
root = Path(sys.argv[1])
journal = Journal(root / "journal", {})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
large = {"a": np.zeros(10_000)}
rows = [{"id": "x" * 100}] * 1000
for write in (
    lambda: write_tensors(root / "t.safetensors", large, {}),
    lambda: write_folder(root / "folder", {}, {"a.safetensors": large}, {}),
    lambda: write_folder(root / "folder", {}, {}, {"a.txt": "x" * 10_000}),
    lambda: write_table(root / "t.csv", rows),
    lambda: journal.add(rows),
):
    try:
        write()
    except ReconditeError as error:
        print(type(error).__name__, error)
"""


def test_where_no_more_can_be_written_an_error_of_the_package_names_the_file(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    names = ["t.safetensors", "folder", "folder", "t.csv", "journal"]
    assert len(lines) == len(names), done.stdout
    for line, name in zip(lines, names, strict=True):
        assert line.startswith(f"OutputError {tmp_path / name} cannot be written: "), line
    assert [path.name for path in tmp_path.iterdir()] == ["journal"]


def test_other_errors_within_a_write_are_as_they_were(tmp_path):
    for raised in (ConnectionResetError("network"), ValueError("mine"), InputError("mine")):
        for write in (atomic_file, atomic_folder):
            with pytest.raises(type(raised), match=str(raised)), write(tmp_path / "a"):
                raise raised
    assert [*tmp_path.iterdir()] == []


def test_long_names_get_maps_of_their_own(screens, digits, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    names = [f"{'ä' * 122}{end}.png" for end in ("a", "b")]  # 249 bytes
    for name, digit in zip(names, digits, strict=False):
        Image.fromarray(digit).save(images / name)
    verdicts = sweep(screens("pca"), images, tmp_path / "v.csv", maps=tmp_path / "maps").verdicts
    assert verdicts.ids == tuple(names)
    maps = [path.name for path in (tmp_path / "maps").iterdir()]
    assert len(maps) == 2
    assert all(name.endswith(".map.png") and len(os.fsencode(name)) <= 255 for name in maps)
    deep = "/".join(["d" * 200] * 20) + "/a.png"
    sweep(screens("pca"), ImageSet(digits[:1], ids=[deep]), tmp_path / "v.csv", maps=tmp_path / "deep")
    assert len([*(tmp_path / "deep").iterdir()]) == 1


def test_a_table_of_a_long_name_has_a_journal(screens, folder, tmp_path):
    output = tmp_path / ("v" * 251 + ".csv")
    sweep(screens("pca"), folder, output)
    assert len([*read_events(output)]) == 40


def test_names_that_fit():
    assert fitting("a" * 255) == "a" * 255
    first, second = fitting("a" * 256), fitting("a" * 256 + "b")
    assert first != second
    assert len(first) == len(second) == 255


def test_a_table_on_standard_output(saved, folder, tmp_path):
    """A "-" is /dev/stdout from the start."""
    command = [sys.executable, "-m", "recondite", "predict", str(saved), str(folder), "-o", "-"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["id"] for row in rows] == list(open_images(folder).ids)
    assert "40 images: " in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_table_of_labels_or_a_sample_on_standard_output_has_no_words_in_it(tmp_path, monkeypatch, capsys):
    class Labelled(list):
        kinds = (None, "foreign")
        counts = staticmethod(lambda: {"cat": 1, "foreign": 1})
        records = list.__iter__

    rows = [{"id": "a", "label": "cat"}, {"id": "b", "label": ""}]
    monkeypatch.setattr("recondite.cli.guard.load_screen", lambda *_, **__: SimpleNamespace(detector=MagicMock()))
    monkeypatch.setattr("recondite.cli.guard._check_region", lambda _: None)
    monkeypatch.setattr("recondite.cli.guard.saved_guard", lambda *_: lambda *_, **__: Labelled(rows))
    verdicts = tmp_path / "verdicts.csv"
    write_table(verdicts, rows)
    for command in (["guard", "predict", "guard", str(tmp_path)], ["sample-for-review", str(verdicts)]):
        assert main([*command, "-o", "-"]) == 0, capsys.readouterr().err
        printed = capsys.readouterr()
        assert [row["id"] for row in csv.DictReader(io.StringIO(printed.out))] == ["a", "b"]
        assert "table:" in printed.err


IDS = ["=1+1", "-x", "+a", "@b", "\tc", "\rd", "'=q", "''-z", "-1+2", "=cmd|' /C calc'!A0"]


def test_ids_that_look_like_formulas_are_neutral_in_csv_and_come_back(tmp_path):
    rows = [
        {"id": name, "instance_score": -0.5, "error": "-o is wrong"} for name in [*IDS, "-2", "-0.5", "ok", "'plain"]
    ]
    write_table(tmp_path / "a.csv", rows)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as stream:
        written = list(csv.DictReader(stream))
    assert all(row["id"].startswith("'") for row in written[: len(IDS)])
    assert all(row["instance_score"] == "-0.5" for row in written)
    assert all(row["error"] == "'-o is wrong" for row in written)
    assert [row["id"] for row in written[len(IDS) :]] == ["-2", "-0.5", "ok", "'plain"]
    assert [row["id"] for row in read_events(tmp_path / "a.csv")] == [row["id"] for row in rows]
    write_table(tmp_path / "a.jsonl", rows)
    assert [json.loads(line)["id"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [
        r["id"] for r in rows
    ]


def test_every_csv_that_is_written_is_written_in_one_place():
    root = Path(recondite.__file__).parent
    writers = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if "csv.writer" in path.read_text() or "DictWriter" in path.read_text()
    ]
    # The log of training holds numbers only.
    assert sorted(writers) == ["data/tables.py", "training/logs.py"]


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "ä" * 200])
def test_a_manifest_that_names_an_impossible_file_is_refused(tmp_path, name):
    write_folder(tmp_path / "s", {"kind": "k", "schema": 1}, {}, {"a.txt": "a"})
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    manifest["files"] = {name: {"sha256": "0" * 64, "bytes": 1}}
    manifest["digest"] = digest_of(manifest)
    (tmp_path / "s" / "manifest.json").write_text(json.dumps(manifest))
    for read in (read_folder, read_manifest):
        with pytest.raises(ArtifactError, match="no disk can hold") as told:
            read(tmp_path / "s", 1, "k")
        assert len(str(told.value)) < 500


def test_write_errors_are_of_both_families():
    assert issubclass(OutputError, OSError)
    assert str(OutputError("a cannot be written")) == "a cannot be written"

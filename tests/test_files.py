import errno
import subprocess
import sys

import pytest

from recondite.data.artifacts import write_folder, written_together
from recondite.data.files import atomic_file, atomic_folder, existing_folder, left_unfinished, sha256_of_file
from recondite.data.sorting import SortedFiles
from recondite.errors import ArtifactError, OutputError


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(IsADirectoryError), atomic_file(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        tmp_path.read_text()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_folder_and_no_litter(tmp_path):
    path = tmp_path / "screen"
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(IsADirectoryError), atomic_folder(path) as temporary:  # noqa: PT012
        (temporary / "a").write_text("half")
        tmp_path.read_text()
    assert (path / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_the_old_one_whole(tmp_path):
    path = tmp_path / "screen"
    for name in ("old", "new"):
        with atomic_folder(path) as temporary:
            (temporary / name).write_text(name)
    assert [file.name for file in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_crash_between_the_two_moves_loses_nothing(tmp_path):
    path = tmp_path / "screen"
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("old")
    path.rename(tmp_path / ".screen.recondite-old")  # where a crash can leave it
    assert (existing_folder(path) / "a").read_text() == "old"
    with pytest.raises(IsADirectoryError), atomic_folder(path):
        tmp_path.read_text()
    assert (path / "a").read_text() == "old"
    assert existing_folder(path) == path
    assert list(tmp_path.iterdir()) == [path]


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("below", ["screen", "new/screen"])
@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_below_a_file_nothing_is_written_and_the_target_is_named(tmp_path, atomic, below):
    (tmp_path / "taken").write_text("a file")
    target = tmp_path / "taken" / below
    with pytest.raises(OutputError, match="screen cannot be written"), atomic(target):
        pass
    assert (tmp_path / "taken").read_text() == "a file"


KILLED = """
import os, signal, sys
from pathlib import Path
from recondite.data import files

for number, (name, write) in enumerate({"a.txt": files.atomic_file, "screen": files.atomic_folder}.items()):
    if os.fork():
        os.wait()
        continue
    with write(Path(sys.argv[1]) / name) as temporary:
        (temporary / "part" if number else temporary).write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_processes_left_goes_with_the_next_write_and_what_another_is_writing_stays(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=True)
    assert left_unfinished(tmp_path)
    with atomic_file(tmp_path / "living.txt") as temporary:
        temporary.write_text("whole")
        assert len(left_unfinished(tmp_path)) == 1
        again = "import sys; from pathlib import Path; from recondite.data.files import atomic_file\n"
        again += "with atomic_file(Path(sys.argv[1]) / 'b.txt') as temporary: temporary.write_text('b')"
        subprocess.run([sys.executable, "-c", again, str(tmp_path)], check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"living.txt", "b.txt"}


def test_what_a_killed_writer_of_tensors_left_goes_too(tmp_path):
    write = "import os, signal, sys; from pathlib import Path; from recondite.data import artifacts\n"
    write += "kill = lambda folder: os.kill(os.getpid(), signal.SIGKILL)\n"
    write += (
        "artifacts.save_file = lambda values, path, metadata: kill((path.parent / '.tmpAbCdEf').write_text('half'))\n"
    )
    write += "artifacts.write_tensors(Path(sys.argv[1]) / 'a.safetensors', {}, {})"
    assert subprocess.run([sys.executable, "-c", write, str(tmp_path)], check=False).returncode == -9
    with atomic_file(tmp_path / "b.txt"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


def test_a_full_disk_is_told_of_the_folder_that_is_written_and_not_of_what_is_copied_there(tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(target))

    def elsewhere(self, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link", str(self), None, str(target))

    image = tmp_path / "in" / "a.png"
    image.parent.mkdir()
    image.write_bytes(b"content")
    monkeypatch.setattr("shutil.copyfile", full)
    monkeypatch.setattr("pathlib.Path.rename", elsewhere)
    with pytest.raises(OutputError, match="No space left on device") as told:
        SortedFiles(tmp_path / "disk" / "sorted", "move", ["inlier"]).put(image, "a.png", "inlier")
    assert str(told.value).startswith(str(tmp_path / "disk" / "sorted"))
    assert "in/a.png" not in str(told.value)
    assert image.read_bytes() == b"content"


def test_what_is_written_together_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "guard"
    for name in ("old", "new"):
        with written_together(path) as folder:
            write_folder(folder, {"kind": name}, {}, {name: name})
            (folder / "beside").write_text(name)
    assert sorted(file.name for file in path.iterdir()) == ["beside", "manifest.json", "new"]
    with pytest.raises(OutputError) as told, written_together(path) as folder:  # noqa: PT012
        write_folder(folder, {"kind": "half"}, {}, {})
        raise OutputError(f"{folder} cannot be written: No space left on device")
    assert str(told.value) == f"{path} cannot be written: No space left on device"
    assert (path / "beside").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ArtifactError, match="left alone"), written_together(tmp_path):
        pass

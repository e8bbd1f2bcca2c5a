import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recondite.data.datasets import ImageSet, open_images
from recondite.data.identity import identity_of
from recondite.data.masks import MaskedByFile
from recondite.data.remote import StoredFile
from recondite.screen.screen import Screen
from recondite.screen.sweep import sweep


class Killed(BaseException):
    pass


def interrupted(screen, images, output, monkeypatch, **options):
    """Begin a sweep, and stop it when all but its last batch is written down."""
    scored = Screen.scored

    def stopping(self, images, **options):
        yield next(scored(self, images, **options))
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Screen, "scored", stopping)
        with pytest.raises(Killed):
            sweep(screen, images, output, **options)


@pytest.fixture
def fill(digits):
    def fill(folder, upside_down=False):
        """Write the same names into a folder: digits, or what does not belong, of the same sizes in bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        for index, digit in enumerate(digits[1500:1512]):
            Image.fromarray(digit[::-1] if upside_down else digit).save(folder / f"{index:02d}.bmp")
        return folder

    return fill


def test_a_journal_of_the_same_names_in_another_folder_is_not_taken_up(screens, fill, tmp_path, monkeypatch):
    screen, output = screens("pca"), tmp_path / "J" / "v.csv"
    for name in ("A", "B"):
        fill(tmp_path / name / "images", upside_down=name == "B")
    monkeypatch.chdir(tmp_path / "A")
    interrupted(screen, "images", output, monkeypatch)
    monkeypatch.chdir(tmp_path / "B")
    result = sweep(screen, "images", output)
    assert result.taken_up == 0
    np.testing.assert_array_equal(result.verdicts.instance_score, screen.predict("images").instance_score)


@pytest.mark.parametrize("kept_times", [False, True])
def test_a_folder_that_was_refilled_is_judged_again(screens, fill, tmp_path, monkeypatch, kept_times):
    screen, images, output = screens("pca"), fill(tmp_path / "images"), tmp_path / "v.csv"
    times = {path: path.stat().st_mtime_ns for path in images.iterdir()}
    interrupted(screen, images, output, monkeypatch)
    fill(images, upside_down=True)
    if kept_times:  # as `cp -p` and archives of one time do: sizes and times of the content are the same
        for path, time in times.items():
            os.utime(path, ns=(time, time))
    result = sweep(screen, images, output)
    assert result.taken_up == 0
    np.testing.assert_array_equal(result.verdicts.instance_score, screen.predict(images).instance_score)


def test_a_link_that_was_pointed_elsewhere_is_judged_again(screens, fill, tmp_path, monkeypatch):
    screen, output, link = screens("pca"), tmp_path / "v.csv", tmp_path / "current"
    for day in ("monday", "tuesday"):
        fill(tmp_path / day, upside_down=day == "tuesday")
    link.symlink_to(tmp_path / "monday")
    interrupted(screen, link, output, monkeypatch)
    link.unlink()
    link.symlink_to(tmp_path / "tuesday")
    result = sweep(screen, link, output)
    assert result.taken_up == 0
    np.testing.assert_array_equal(result.verdicts.instance_score, screen.predict(tmp_path / "tuesday").instance_score)


def test_only_what_changed_is_judged_again(screens, fill, tmp_path, monkeypatch):
    screen, images, output = screens("pca"), fill(tmp_path / "images"), tmp_path / "v.csv"
    interrupted(screen, images, output, monkeypatch)
    Image.new("L", (8, 8), 200).save(images / "03.bmp")
    (images / "05.bmp").unlink()
    result = sweep(screen, images, output)
    assert result.taken_up == 10
    assert result.verdicts.ids == screen.predict(images).ids
    np.testing.assert_array_equal(result.verdicts.instance_score, screen.predict(images).instance_score)


def test_an_image_that_could_not_be_read_is_looked_at_again(screens, fill, tmp_path, monkeypatch):
    screen, images, output = screens("pca"), fill(tmp_path / "images"), tmp_path / "v.csv"
    whole = (images / "03.bmp").read_bytes()
    (images / "03.bmp").write_bytes(b"half")
    interrupted(screen, images, output, monkeypatch)
    (images / "03.bmp").write_bytes(whole)
    result = sweep(screen, images, output)
    assert result.taken_up == 11
    assert result.verdicts.errors[3] is None


def test_an_image_that_failed_for_a_reason_not_its_own_is_looked_at_again(screens, fill, tmp_path, monkeypatch):
    screen, images, output = screens("pca"), fill(tmp_path / "images"), tmp_path / "v.csv"

    def no_memory(_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("recondite.data.images.open_picture", no_memory)
        interrupted(screen, images, output, monkeypatch)
    result = sweep(screen, images, output)
    assert result.taken_up == 0
    assert result.verdicts.errors == (None,) * 12


def test_an_array_is_known_by_its_content(screens, digits, tmp_path, monkeypatch):
    screen, output = screens("pca"), tmp_path / "v.csv"
    interrupted(screen, digits[:12], output, monkeypatch)
    changed = digits[:12].copy()
    changed[4] = 255 - changed[4]
    result = sweep(screen, changed, output)
    assert result.taken_up == 11
    np.testing.assert_array_equal(result.verdicts.instance_score, screen.predict(changed).instance_score)


def test_maps_go_to_the_folder_of_this_run(screens, fill, tmp_path, monkeypatch):
    screen, images, output = screens("pca"), fill(tmp_path / "images"), tmp_path / "v.csv"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    interrupted(screen, images, output, monkeypatch, maps=Path("maps"))
    monkeypatch.chdir(tmp_path / "b")
    sweep(screen, images, output, maps=Path("maps"))
    assert len([*(tmp_path / "b" / "maps").iterdir()]) == 12


def test_a_map_that_is_gone_is_drawn_again(screens, fill, tmp_path, monkeypatch):
    screen, images, output = screens("pca"), fill(tmp_path / "images"), tmp_path / "v.csv"
    interrupted(screen, images, output, monkeypatch, maps=tmp_path / "maps")
    (tmp_path / "maps" / "04.bmp.map.png").unlink()
    assert sweep(screen, images, output, maps=tmp_path / "maps").taken_up == 11
    assert len([*(tmp_path / "maps").iterdir()]) == 12


def test_what_tells_images_apart(tmp_path, digits):
    path = tmp_path / "a.png"
    assert identity_of(path) is None
    Image.fromarray(digits[0]).save(path)
    assert identity_of(path) == identity_of(str(path)) == identity_of(open_images(path).entry(0)[0])
    assert identity_of(digits[0]) == identity_of(digits[0].copy()) != identity_of(digits[1])
    assert identity_of(digits[0]) != identity_of(digits[0].astype(np.uint16))
    assert identity_of(b"a") == identity_of(bytearray(b"a")) != identity_of(b"b")
    assert identity_of(object()) is None
    assert identity_of(StoredFile("s3://b/a.png", 3)) is None
    first, second = (StoredFile("s3://b/a.png", 3, version) for version in ("1", "2"))
    assert identity_of(first) != identity_of(second)
    masked = MaskedByFile(path, tmp_path / "masks", "a.png")
    assert identity_of(masked) != identity_of(path)
    before = identity_of(masked)
    (tmp_path / "masks").mkdir()
    Image.new("L", (8, 8), 255).save(tmp_path / "masks" / "a.png")
    assert identity_of(masked) not in (before, None)


def test_images_of_a_kind_that_nothing_tells_apart_are_judged_again(screens, digits, tmp_path, monkeypatch):
    screen, output = screens("pca"), tmp_path / "v.csv"
    pictures = [Image.fromarray(digit) for digit in digits[:12]]
    interrupted(screen, pictures, output, monkeypatch)
    assert sweep(screen, ImageSet(pictures, ids=open_images(pictures).ids), output).taken_up == 0

"""Maps of latents that are saved, and images placed into them later."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from recondite.cli import main
from recondite.data.datasets import ImageSet
from recondite.errors import ArtifactError, InputError
from recondite.studies.latent_map import FOLDER, LatentMap, latent_map_study, placing_study


@pytest.fixture(params=["openTSNE", "scikit-learn"], scope="module")
def method(request):
    if request.param == "openTSNE":
        pytest.importorskip("openTSNE")
        yield request.param
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("recondite.statistics.embedding.find_spec", lambda _: None)
            yield request.param


@pytest.fixture(scope="module")
def images(digits):
    return ImageSet(digits, ids=[str(i) for i in range(len(digits))], labels=["low"] * 900 + ["high"] * 897)


@pytest.fixture(scope="module")
def drawn(method, screens, images, tmp_path_factory):
    """A folder with a map, its rows, and the images that were placed at once."""
    folder, new = tmp_path_factory.mktemp(method), images.select(range(1500, 1540))
    rows = latent_map_study(screens("pca"), images.select(range(150)), folder, new=new)
    return folder, rows, new


def test_a_saved_map_places_images_where_the_map_just_drawn_places_them(method, drawn, screens, tmp_path):
    folder, rows, new = drawn
    again = placing_study(screens("pca"), new, tmp_path, into=folder / FOLDER)
    assert again == rows  # the same bits
    page = (tmp_path / "study.html").read_text()
    assert f"({method}) drawn before" in page
    assert ("scikit-learn cannot place points" in page) == (method == "scikit-learn")
    alone = placing_study(screens("pca"), new.select([7]), tmp_path, into=folder / FOLDER)
    np.testing.assert_allclose([alone[-1]["x"], alone[-1]["y"]], [rows[157]["x"], rows[157]["y"]], rtol=1e-6)
    assert not (tmp_path / FOLDER).exists()


def test_a_map_of_another_detector_is_refused(drawn, screens, digits, tmp_path):
    with pytest.raises(InputError, match="another detector"):
        placing_study(screens("autoencoder"), digits[:5], tmp_path, into=drawn[0] / FOLDER)


def test_what_is_damaged_altered_or_no_map_is_refused(drawn, screens, digits, tmp_path):
    def broken(change):
        path = tmp_path / change.__name__
        shutil.copytree(drawn[0] / FOLDER, path)
        change(path)
        with pytest.raises(ArtifactError):
            placing_study(screens("pca"), digits[:5], tmp_path / "out", into=path)

    def without_points(path):
        (path / "map.safetensors").unlink()

    def other_points(path):
        arrays = load_file(path / "map.safetensors")
        save_file({**arrays, "points": arrays["points"] + 1}, path / "map.safetensors")

    def other_labels(path):
        manifest = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps({**manifest, "labels": []}))

    def no_manifest(path):
        (path / "manifest.json").unlink()

    for change in (without_points, other_points, other_labels, no_manifest):
        broken(change)
    screens("pca").save(tmp_path / "screen")
    with pytest.raises(ArtifactError, match="expected 'recondite map'"):
        LatentMap.load(tmp_path / "screen")
    whole = LatentMap.load(drawn[0] / FOLDER)
    LatentMap(map=whole.map, ids=whole.ids[1:], labels=whole.labels, detector=whole.detector).save(tmp_path / "short")
    with pytest.raises(ArtifactError, match="not a consistent map"):
        LatentMap.load(tmp_path / "short")


def test_a_map_of_a_library_that_is_gone_says_what_to_install(drawn, method, screens, digits, tmp_path, monkeypatch):
    if method == "openTSNE":
        monkeypatch.setattr("recondite.statistics.embedding.find_spec", lambda _: None)
        with pytest.raises(InputError, match="viz"):
            placing_study(screens("pca"), digits[:5], tmp_path, into=drawn[0] / FOLDER)


def test_the_command(screens, tmp_path, capsys):
    screens("pca").save(tmp_path / "screen")
    begin = ["study", "latent-map", str(tmp_path / "screen"), "digits/test"]
    assert main([*begin, "-o", str(tmp_path / "a"), "--count", "60"]) == 0
    assert str(tmp_path / "a" / "map") in capsys.readouterr().out
    into = ["--into", str(tmp_path / "a" / "map")]
    assert main([*begin, "-o", str(tmp_path / "b"), *into, "--count", "9"]) == 0
    assert "69 images" in capsys.readouterr().out
    assert main([*begin, "-o", str(tmp_path / "c"), *into, "--new", "digits/test"]) == 2

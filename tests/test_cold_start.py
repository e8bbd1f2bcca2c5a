"""What needs no network starts without torch, which takes longer to import than everything else together."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import recondite
from recondite import ArtifactError
from recondite.screen.described import described
from recondite.screen.shown import screen_rows

WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, Refuse())
from recondite.cli import main

arguments, codes = sys.argv[1:], []
while arguments:
    end = arguments.index(";")
    try:
        codes.append(main(arguments[:end]))
    except SystemExit as stop:
        codes.append(stop.code or 0)
    arguments = arguments[end + 1 :]
print("codes", *codes, file=sys.stderr)
"""


def run_without_torch(*commands):
    """Run commands in one process in which importing torch fails; return the exit codes, and what was printed."""
    tokens = [token for command in commands for token in (*map(str, command), ";")]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *tokens], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *errors, codes = done.stderr.splitlines()
    return [int(code) for code in codes.split()[1:]], done.stdout, "\n".join(errors)


def test_help_lists_and_refusals_need_no_torch(tmp_path):
    picture, table = tmp_path / "a.png", tmp_path / "v.csv"
    Image.new("L", (8, 8)).save(picture)
    refused = [
        ["predict", tmp_path / "nothing", picture, "-o", table],
        ["predict", "digits", tmp_path / "nothing", "-o", tmp_path / "v.txt"],
        ["predict", "digits", picture, "-o", table, "--alpha", "3"],
        ["predict", picture, "digits", "-o", table],
        ["evaluate", tmp_path / "nothing", picture, picture],
        ["monitor", "nothing.csv", "nothing.csv"],
        ["info", tmp_path],
        ["predict", "digits", tmp_path / "nothing", "-o", table],
        ["predict", "digits", picture, "-o", table, "--alpha", "1e-9"],
        ["evaluate", "digits", picture, tmp_path / "nothing"],
        ["show", "digits", tmp_path / "nothing", "-o", tmp_path / "one.png"],
        ["update", "digits", tmp_path / "nothing", "-o", tmp_path / "screen"],
        ["teach", "digits", tmp_path / "nothing", "-o", tmp_path / "screen"],
        ["fit", picture],
        ["fit", tmp_path / "nothing", "-o", tmp_path / "screen", "--epochs", "3"],
        ["fit", picture, "-o", tmp_path / "screen", "--detector", "vae", "--alpha", "2"],
        ["fit", picture, "-o", picture],
        ["fit", picture, "-o", tmp_path / "screen", "--preset", "nonsense"],
        ["bench", "defects", tmp_path, "-o", tmp_path / "bench"],
        ["study", "severity", "digits", tmp_path / "nothing", "-o", tmp_path / "study"],
        # The process that starts workers and watches over them has no use for torch.
        ["serve", "digits", "--no-page", "--workers", "2", "--host", "0.0.0.0"],
    ]
    codes, printed, errors = run_without_torch(
        *(["--help"], ["--version"], ["predict", "--help"], ["serve", "--help"], ["datasets"], ["info", "digits"]),
        *(["info", "digits", "--json"], ["study", "--help"], *refused),
    )
    assert codes[:8] == [0] * 8, errors
    assert all(codes[8:]), errors
    assert "Finds the images that do not belong" in printed
    assert "true false-alarm rate" in printed
    assert "0.0.0.0 is open to other machines" in errors
    assert not table.exists()


def test_an_exported_screen_judges_without_torch_as_with_it(screens, digits, tmp_path):
    export = pytest.importorskip("recondite.screen.export")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    graph = export.export_onnx(screens("pca").with_score("error"), tmp_path / "graph")
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(12):
        Image.fromarray(digits[index]).save(folder / f"{index:02}.png")
    codes, printed, errors = run_without_torch(
        ["predict", graph, folder, "-o", tmp_path / "v.csv"],
        ["info", graph],
        ["predict", graph, folder, "-o", tmp_path / "v.csv", "--device", "cuda"],
    )
    assert codes == [0, 0, 2], errors
    assert "12 images" in printed
    assert "expected the device cpu" in errors
    with (tmp_path / "v.csv").open(newline="") as stream:
        scores = [float(row["instance_score"]) for row in csv.DictReader(stream)]
    np.testing.assert_array_equal(scores, recondite.load(graph).predict(folder).instance_score)


@pytest.mark.parametrize("name", ["pca", "vae"])
def test_a_description_says_what_the_screen_says(name, screens, tmp_path):
    screens(name).save(tmp_path / "screen")
    whole, looked_at = recondite.load(tmp_path / "screen"), described(tmp_path / "screen")
    assert screen_rows(looked_at) == screen_rows(whole)
    assert looked_at.to_json() == whole.to_json()


def test_a_description_checks_digests(screens, tmp_path):
    screens("pca").save(tmp_path / "screen")
    weights = tmp_path / "screen" / "detector.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    with pytest.raises(ArtifactError):
        described(tmp_path / "screen")


@pytest.mark.parametrize("given", [None, pytest.param("3", marks=pytest.mark.slow)])
def test_graphs_run_on_as_many_threads_without_torch_as_with_it(given):
    code = (
        "from recondite.graphs.runtimes import threads; before = threads();"
        "import torch; assert before == torch.get_num_threads() == threads(), (before, torch.get_num_threads());"
        "torch.set_num_threads(1); assert threads() == 1"
    )
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment = kept if given is None else {**kept, "OMP_NUM_THREADS": given}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_loading_and_judging_import_no_compiler(digits, tmp_path):
    """torch's takes a third of a start; drawing normal numbers on its device "meta" would import it.

    `features` and `alad` import it still: on that device one looks at an image, the other normalises weights.
    """
    folders = []
    for name, options in (("vae", {"initial_weights": "he"}), ("autoencoder", {}), ("pca", {})):
        folders.append(tmp_path / name)
        given = {"latent_size": 4, **({} if name == "pca" else {"width": 4, "epochs": 1}), **options}
        recondite.fit(digits[:200], detector=name, alpha=0.1, **given).save(folders[-1])
    np.save(tmp_path / "images.npy", digits[:4])
    code = (
        "import sys, numpy, recondite; images = numpy.load(sys.argv[1]);"
        "[recondite.load(folder).predict(images) for folder in sys.argv[2:]]; assert 'torch._dynamo' not in sys.modules"
    )
    told = [str(tmp_path / "images.npy"), *map(str, folders)]
    subprocess.run([sys.executable, "-c", code, *told], check=True)

"""The README and the examples of docstrings are run as they stand; documents say what is there."""

import doctest
import importlib
import importlib.util
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_architecture import FOLDERS

import recondite
from recondite.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCE = ROOT / "src"
WITH_EXAMPLES = [
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(SOURCE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture
def newcomer(tmp_path, monkeypatch, digits):
    """A folder with good_images/, new_images/ and a region, and the patience for two epochs only."""
    folders = {"good_images": digits[:400], "more_good_images": digits[400:440], "new_images": digits[440:480, ::-1]}
    for name, images in folders.items():
        (tmp_path / name).mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image.copy()).save(tmp_path / name / f"{index:03d}.png")
    Image.fromarray(np.pad(np.full((6, 6), 255, np.uint8), 1)).save(tmp_path / "part.png")
    time_stamp = {"size": [8, 8], "polygons": [[[0, 0], [3, 0], [3, 2], [0, 2]]]}
    (tmp_path / "time_stamp.json").write_text(json.dumps(time_stamp), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_the_readme_runs(newcomer, capsys):
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert "outlier" in capsys.readouterr().out
    assert recondite.load(newcomer / "screen").alpha == 0.05


@pytest.mark.parametrize("document", ["README.md", pytest.param("docs/README.md", marks=pytest.mark.slow)])
def test_the_commands_of_a_document_run(newcomer, capsys, document):
    (commands,) = blocks("bash", (ROOT / document).read_text(encoding="utf-8"))
    for line in commands.strip().splitlines():
        program, *arguments = shlex.split(line)
        assert program == "recondite"
        assert main(arguments) == 0, capsys.readouterr().err
    for name in ("verdicts.csv", "report.html", "picture.png"):
        assert (newcomer / name).stat().st_size > 0


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_of_docstrings_run(module):
    """Not by --doctest-modules, which imports every module in every process of the tests."""
    failed, tried = doctest.testmod(importlib.import_module(module))
    assert tried
    assert not failed


def test_the_tree_of_the_readme_is_that_of_the_folders():
    tree = README.split("## The tree")[1].split("A file imports")[0]
    package, others = tree.split("    tests/")
    source = ROOT / "src" / "recondite"
    listed = re.findall(r"^      (\w+)/ ", package, flags=re.MULTILINE)
    assert sorted(listed) == sorted(path.parent.name for path in source.glob("*/__init__.py"))
    assert listed == FOLDERS
    listed = ["tests", *re.findall(r"^    (\w+)/ ", others, flags=re.MULTILINE)]
    unlisted = {"src", "build", "dist", "demo"}
    assert set(listed) == {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."} - unlisted


def test_modules_that_the_documents_name_exist():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        if document.name == "decisions.md":
            continue  # dated: what was true then
        for dotted in set(re.findall(r"`(recondite(?:\.[a-z_]+)+)", document.read_text(encoding="utf-8"))):
            thing = recondite
            for part in dotted.split(".")[1:]:
                name = f"{thing.__name__}.{part}" if hasattr(thing, "__path__") else ""
                thing = (
                    importlib.import_module(name) if name and importlib.util.find_spec(name) else getattr(thing, part)
                )


def test_the_concepts_name_every_study():
    from recondite.cli.train import studies_with_flags

    paragraph = re.search(r"\*\*Studies\.\*\*(.*?)\n\n", (ROOT / "docs/concepts.md").read_text(), flags=re.DOTALL)
    assert paragraph
    named = set(re.findall(r"`([a-z-]+)`", paragraph.group(1)))
    assert named == {name for name in studies_with_flags(["study"]) if not name.startswith("-")}


def test_links_between_the_documents_lead_somewhere():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_two_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target

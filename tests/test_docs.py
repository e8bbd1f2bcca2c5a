"""The README is run as it stands, and says what is there."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import recondite
from recondite.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def newcomer(tmp_path, monkeypatch, digits):
    """A folder with good_images/ and new_images/, and the patience for two epochs only."""
    folders = {"good_images": digits[:400], "more_good_images": digits[400:440], "new_images": digits[440:480, ::-1]}
    for name, images in folders.items():
        (tmp_path / name).mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image.copy()).save(tmp_path / name / f"{index:03d}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_the_readme_runs(newcomer, capsys):
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert "outlier" in capsys.readouterr().out
    assert recondite.load(newcomer / "screen").alpha == 0.05


def test_the_commands_of_the_readme_run(newcomer, capsys):
    (commands,) = blocks("bash")
    for line in commands.strip().splitlines():
        program, *arguments = shlex.split(line)
        assert program == "recondite"
        assert main(arguments) == 0, capsys.readouterr().err
    for name in ("verdicts.csv", "report.html", "picture.png"):
        assert (newcomer / name).stat().st_size > 0


def test_the_tree_of_the_readme_names_every_file():
    tree = README.split("## The tree")[1]
    for path in (ROOT / "src" / "recondite").rglob("*"):
        if path.suffix in (".py", ".html"):
            assert re.search(rf"\b{re.escape(path.name)}\b", tree), path.name
    for name in re.findall(r"^ +(\w+\.py) ", tree, flags=re.MULTILINE):
        assert list((ROOT / "src" / "recondite").rglob(name)), name


def test_links_between_the_documents_lead_somewhere():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_two_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target

"""The README and the examples of docstrings are run as they stand; documents say what is there."""

import ast
import builtins
import doctest
import importlib
import importlib.util
import json
import re
import shlex
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_architecture import FOLDERS

import recondite
from recondite.cli import main, make_app
from recondite.detectors import DETECTORS

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


@cache
def flags_of_commands():
    """Return command, as its words -> its flags, with those of every detector; no page of help is made."""
    found = {}

    def add(app, words):
        commands = [name for name in app if not name.startswith("-")]
        for name in commands:
            add(app[name], (*words, name))
        if not commands:
            names = [name for argument in app.assemble_argument_collection() for name in argument.names]
            found.setdefault(words, {"--help"}).update(name for name in names if name.startswith("-"))

    add(make_app([]), ())
    add(make_app(["study"])["study"], ("study",))
    for detector in DETECTORS:
        for command in ("fit", *(f"study {name}" for name in ("one-class", "latent-size", "grid"))):
            words = command.split()
            app = make_app([*words, "--detector", detector, "--of-a-detector"])
            for word in words:
                app = app[word]
            add(app, tuple(words))
    return found


def told_to_type():
    """Yield name of document -> lines and spans of code, each a whole command."""
    deployed = [path for path in (ROOT / "deploy").iterdir() if path.is_file()]
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *deployed, *(ROOT / "examples").glob("*.py")]
    for document in documents:
        if document.name not in ("CHANGELOG.md", "decisions.md"):  # dated: what was true then
            text = document.read_text(encoding="utf-8").replace("\\\n", " ")
            yield (
                document.name,
                [*re.findall(r"`([^`\n]+)`", text), *re.findall(r"^(?:    |#  )? *(.+)$", text, flags=re.M)],
            )


def test_commands_and_their_flags_that_documents_tell_of_exist():
    commands, seen = flags_of_commands(), set()
    for document, pieces in told_to_type():
        for piece in pieces:
            for typed in re.findall(r"(?:^|-m |-- +|then )recondite ((?:[a-z-]+ ?)[^`;|]*)", piece.split(" # ")[0]):
                words = typed.split()
                command = tuple(words[:2]) if tuple(words[:2]) in commands else tuple(words[:1])
                if command == ("study",) and words[1:2] != ["--help"]:
                    assert words[1:2] in ([], ["..."]), f"{document}: there is no study {words[1]}"
                assert command in commands, f"{document}: there is no command {words[0]}"
                for flag in re.findall(r"(?<!\S)(--[a-z][a-z0-9-]*|-[a-z])(?![\w-])", typed):
                    assert flag in commands[command], f"{document}: {' '.join(command)} has no {flag}"
                seen.add(command)
    assert len(seen) > 20


def test_every_flag_that_a_document_names_is_one_of_some_command():
    known = {"--quick"}.union(*flags_of_commands().values())
    others = re.compile(
        r"(.*\b(python|curl|ray|pip|docker|torchrun|srun|kubectl|useradd|prometheus)\b|benchmarks/|#SBATCH|[A-Z]+ )"
    )
    for document, pieces in told_to_type():
        for piece in pieces:
            if document.endswith(".md") and not others.match(piece) and "`" not in piece:
                unknown = {*re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*(?!\w)", piece)} - known
                assert not unknown, f"{document}: {unknown} in {piece}"


def test_python_in_the_documents_imports_what_it_uses():
    given = {"X_train", *dir(builtins)}
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for code in blocks("python", document.read_text(encoding="utf-8")):
            nodes = list(ast.walk(ast.parse(code)))
            names = [node for node in nodes if isinstance(node, ast.Name)]
            made = {node.id for node in names if isinstance(node.ctx, ast.Store)}
            made |= {
                name.asname or name.name
                for node in nodes
                if isinstance(node, ast.Import | ast.ImportFrom)
                for name in node.names
            }
            assert {node.id for node in names} <= made | given, document.name

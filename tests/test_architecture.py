"""One rule of direction, read from the source: a file imports only from its own folder and from folders before it."""

import ast
from collections import defaultdict
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import recondite

ROOT = Path(recondite.__file__).parent
FOLDERS = [
    *("data", "perturbations", "statistics", "networks", "training", "graphs", "detectors", "screen"),
    *("reports", "cluster", "audits", "studies", "service", "compat", "cli"),
]
"""In order; the files beside them (errors, options, detector_options, progress, distributed) come before all."""
LONGEST_FILE = 450
HEAVY = {
    *("torch", "scipy", "sklearn", "matplotlib", "pooch", "jinja2", "rich", "pyarrow", "skimage", "mlxtend"),
    *("onnxruntime", "onnxscript", "lightning_fabric", "huggingface_hub", "httpx2", "tqdm", "openTSNE", "ray"),
    *("cv2", "faiss", "fsspec"),
}
LIGHT = [
    *("errors", "progress", "options", "detector_options", "cluster.connect"),
    *("data.catalog", "data.files", "data.hub", "data.tables"),
    *("data.batch_size", "graphs.exported", "graphs.runtimes", "training.history", "later"),
    *(
        "screen.described",
        "screen.fastest",
        "screen.promise",
        "screen.saved",
        "screen.screen",
        "screen.sweep",
        "screen.timing",
        "screen.words",
    ),
    *("statistics.scores", "statistics.metrics", "statistics.calibration", "statistics.martingale"),
]
_UNSAFE = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


PATHS = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


@cache
def tree(name):
    return ast.parse(PATHS[name].read_text(encoding="utf-8"))


def imported(nodes):
    """Yield the dotted names that some nodes import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(dotted):
    """Return the longest known file in a dotted import of the package, or None."""
    package, *parts = dotted.split(".")
    if package != "recondite":
        return None
    return next((name for end in range(len(parts), -1, -1) if (name := ".".join(parts[:end])) in PATHS), None)


@pytest.fixture(scope="module")
def imports():
    """The files that each file imports; lazy imports, within functions, count like the others."""
    return {name: {own(dotted) for dotted in imported(ast.walk(tree(name)))} - {None, name} for name in PATHS}


def folder(name):
    """Return the place of a file's folder in the order; -1 for the files beside the folders."""
    top = name.partition(".")[0]
    return FOLDERS.index(top) if (ROOT / top).is_dir() and top else -1


def runs_back(graph, place):
    """Return the imports from a folder that comes later."""
    return {(name, other) for name, others in graph.items() for other in others if place(other) > place(name)}


def test_a_file_imports_only_from_its_own_folder_and_those_before_it(imports):
    # The package itself and `python -m` lead to everything.
    graph = {name: others - {""} for name, others in imports.items() if name not in ("", "__main__")}
    assert runs_back(graph, folder) == set()
    assert runs_back({"data.images": {"screen.fit"}}, folder) == {("data.images", "screen.fit")}


def test_no_imports_form_a_circle(imports):
    graph = {name: others - {""} for name, others in imports.items() if name}
    TopologicalSorter(graph).prepare()


def test_every_folder_has_its_place():
    folders = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(FOLDERS)


def test_no_detector_imports_another_and_nothing_below_knows_one(imports):
    names = {name for name in PATHS if name.startswith("detectors.") and name not in SHARED_BY_DETECTORS}
    users = defaultdict(set)
    for name, others in imports.items():
        for other in others & names:
            users[other].add(name)
    for detector in names:
        assert not users[detector] & names, detector
        assert "detectors" in users[detector], f"{detector} is not in the registry"


SHARED_BY_DETECTORS = {
    *(f"detectors.{name}" for name in ("base", "effects", "inputs", "inside", "measured", "prior", "runner", "seen")),
    *(f"detectors.{name}" for name in ("defect_head", "feature_autoencoder", "feature_methods", "feature_vectors")),
    *("detectors.left_out", "detectors.remembered", "detectors.vector_models"),
}


@pytest.mark.parametrize("name", PATHS)
def test_a_file_is_one_idea_long(name):
    assert len(PATHS[name].read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("name", LIGHT)
def test_light_files_import_heavy_libraries_only_where_they_use_them(name):
    assert not {dotted.split(".")[0] for dotted in imported(tree(name).body)} & HEAVY


def test_the_command_line_imports_heavy_libraries_only_where_it_uses_them():
    for name in (name for name in PATHS if name.partition(".")[0] == "cli"):
        assert not {dotted.split(".")[0] for dotted in imported(tree(name).body)} & HEAVY, name


def test_nothing_unpickles_or_evaluates():
    for name in PATHS:
        assert not {dotted.split(".")[0] for dotted in imported(ast.walk(tree(name)))} & _UNSAFE, name
        for node in (node for node in ast.walk(tree(name)) if isinstance(node, ast.Call)):
            called = ast.unparse(node.func)
            weights_only = any(
                word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords
            )
            assert called != "torch.load" or weights_only, name
            assert called not in {"eval", "exec", "torch.save", "__import__"}, name

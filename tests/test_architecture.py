"""Layers, read from the source: a file imports only from rows below its own."""

import ast
from pathlib import Path

import pytest

import recondite

ROOT = Path(recondite.__file__).parent
ROWS = [
    ["console", "errors", "files", "memory", "pictures", "progress", "processes", "ready"],
    [
        "cluster",
        "images",
        "scores",
        "metrics",
        "options",
        "runtimes",
        "tables",
        "artifacts",
        "calibration",
        "martingale",
        "density",
        "embedding",
        "distances",
        "catalog",
        "perturbations.base",
        "pooling",
        "maps",
        "alad_nets",
        "inference",
        "augmentation",
        "batches",
        "nets",
        "plots",
        "runlog",
        "presets",
    ],
    ["stores"],
    [
        *("image_plots", "study_plots"),
        *("backbones", "classifier", "datasets", "events", "hub", "image_statistics"),
        *("perturbations.corruptions", "perturbations.defects", "perturbations.masks"),
    ],
    ["perturbations", "shards"],
    ["foreign", "sources"],
    ["ledger", "spool"],
    ["epoch_pictures"],
    ["training"],
    ["detectors.base"],
    ["detectors.alad", "detectors.autoencoder", "detectors.features", "detectors.pca", "detectors.vae"],
    ["detectors"],
    ["evidence", "exported", "guard", "levels"],
    ["screen"],
    ["fitting", "monitor", "quantisation"],
    ["cluster_fit"],
    ["evaluation", "explanation", "export", "localisation", "report", "sampling", "studies", "studies.runs", "sweep"],
    ["parts", "publishing", "studies.page", "studies.unfinished"],
    ["cluster_sweep"],
    ["drift", "guard_file", "guard_report"],
    ["recalibration"],
    ["studies.output", "studies.spread"],
    [
        "studies.linear",
        "studies.latent",
        "studies.latent_map",
        "studies.masks",
        "studies.one_class",
        "studies.severity",
        "studies.thresholds",
    ],
    ["studies.grid", "studies.latent_size"],
    ["demonstration", "pairs"],
    ["compat", "compat.sklearn"],
    ["compat.pyod"],
    ["compat.alibi.images", "compat.alibi.networks"],
    ["compat.alibi.face", "compat.alibi.masks", "compat.alibi.plots"],
    ["compat.alibi.detectors"],
    ["compat.alibi.saving"],
    ["compat.alibi"],
    ["service", "service.kept", "service.refusals", "service.settings", "service.wire"],
    ["service.batching", "service.budget", "service.express", "service.client", "service.store"],
    ["service.counters"],
    ["service.gate", "service.screens"],
    ["service.watch"],
    ["service.judging", "service.past"],
    ["service.bodies", "service.charts", "service.context"],
    ["service.reviewing"],
    ["service.api", "service.v2"],
    ["service.app"],
    ["service.page.frame"],
    [
        "service.page.judge",
        "service.page.latent",
        "service.page.perturb",
        "service.page.review",
        "service.page.threshold",
    ],
    ["service.page.monitor"],
    ["service.page"],
    ["service.cluster", "service.server"],
    ["cluster_command", "service.command", "study_commands"],
    ["cli"],
]
LEVEL = {name: level for level, row in enumerate(ROWS) for name in row}
HEAVY = {
    "torch",
    "scipy",
    "sklearn",
    "matplotlib",
    "pooch",
    "jinja2",
    "rich",
    "pyarrow",
    "skimage",
    "mlxtend",
    "onnxruntime",
    "onnxscript",
    "lightning_fabric",
    "huggingface_hub",
    "httpx2",
    "tqdm",
    "openTSNE",
    "ray",
    "fsspec",
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = [path for path in sorted(ROOT.rglob("*.py")) if module_name(path)]


def imports(path, top_level_only=False):
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layers"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(name):
    """The longest known module in a dotted import of the package, or None."""
    parts = name.split(".")
    if parts[0] != "recondite":
        return None
    for end in range(len(parts), 1, -1):
        if ".".join(parts[1:end]) in LEVEL:
            return ".".join(parts[1:end])
    return None


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_file_imports_only_from_rows_below(path):
    name = module_name(path)
    assert name in LEVEL, f"give {name} a row in ROWS"
    for imported in imports(path):
        other = own(imported)
        if other is not None:
            assert LEVEL[other] < LEVEL[name], f"{name} imports {other}"


def test_every_row_names_files_that_exist():
    assert set(LEVEL) == {module_name(path) for path in FILES}


@pytest.mark.parametrize(
    "name",
    [
        *("cli", "console", "errors", "files", "progress", "catalog", "scores", "metrics", "calibration", "martingale"),
        *("cluster", "hub", "study_commands", "tables"),
    ],
)
def test_light_files_import_heavy_libraries_only_where_they_use_them(name):
    path = ROOT / f"{name}.py"
    assert not {imported.split(".")[0] for imported in imports(path, top_level_only=True)} & HEAVY


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_nothing_unpickles_or_evaluates(path):
    tree = ast.parse(path.read_text())
    for imported in imports(path):
        assert imported.split(".")[0] not in {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            weights_only = any(
                word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords
            )
            assert called != "torch.load" or weights_only, called
            assert called not in {"eval", "exec", "torch.save", "__import__"}, called

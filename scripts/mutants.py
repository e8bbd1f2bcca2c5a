"""Which mistakes the tests would miss: small changes of the source, one at a time, and the tests of that file.

    python scripts/mutants.py src/recondite/statistics/calibration.py
    python scripts/mutants.py src/recondite/statistics src/recondite/detectors src/recondite/screen --most 500

A mutant is a file with one operator, number, condition or direction changed. The tests run in a fork of this process,
on a copy of the source, and stop at the first failure: those test files that name the module, else `OTHERWISE`, or
`--tests`. Survivors, which no test failed on, are listed: write the test, or add the change to `EXPLAINED`. With
`--most` a sample is drawn, the same one for the same seed. A file takes minutes. (mutmut and cosmic-ray change the tree
itself.)
"""

import argparse
import ast
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.dont_write_bytecode = True  # two mutants of one second and one size would share their bytecode

import matplotlib.pyplot  # noqa: E402, F401
import numpy as np  # noqa: E402, F401
import pytest  # noqa: E402
import scipy.stats  # noqa: E402, F401
import skimage.metrics  # noqa: E402, F401
import sklearn.datasets  # noqa: E402, F401
import torch  # noqa: E402, F401

ROOT = Path(__file__).resolve().parent.parent
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And},
}
NAMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any"}
TEXTS = {"left": "right", "right": "left"}
EXPLAINED = {
    "statistics/calibration.py": {
        "_MONTE_CARLO_DRAWS = 1000: 1000 -> 1001": "a simulation of a set more is as good",
    },
}
"""File -> line and change -> why no test can see it."""
OTHERWISE = ["tests/test_detectors.py", "tests/test_screen.py", "tests/test_features.py"]
"""The tests of a file that none names."""


class Mutator(ast.NodeTransformer):
    """Changes one place of a module, by its number; counts them all where no place has that number."""

    def __init__(self, wanted: int) -> None:
        self.wanted, self.count, self.told, self.line = wanted, 0, "", 0

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.Raise | ast.arg | ast.AnnAssign) and not getattr(node, "value", None):
            return node  # messages and annotations
        for name, value in changes(node):
            self.count += 1
            if self.count - 1 == self.wanted:
                before = ast.unparse(node)
                setattr(node, name, value)
                self.told, self.line = f"{before} -> {ast.unparse(node)}", getattr(node, "lineno", 0)
                return node
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns", "decorator_list"):
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        self.visit(child)
        return node


def changes(node: ast.AST) -> Iterator[tuple[str, object]]:
    """Yield (field, new value) for each change of one node."""
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in SWAPPED:
        yield "op", SWAPPED[type(node.op)]()
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        yield "ops", [SWAPPED[type(node.ops[0])](), *node.ops[1:]]
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield "value", not node.value if isinstance(node.value, bool) else node.value + 1
    elif isinstance(node, ast.Constant) and node.value in TEXTS:
        yield "value", TEXTS[str(node.value)]
    elif isinstance(node, ast.IfExp | ast.If | ast.While):
        yield "test", ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "op", ast.UAdd()
    elif isinstance(node, ast.Name) and node.id in NAMES:
        yield "id", NAMES[node.id]
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield "attr", NAMES[node.attr]


def count_of(path: Path) -> int:
    counter = Mutator(-1)
    counter.visit(ast.parse(path.read_text(encoding="utf-8")))
    return counter.count


def tests_of(path: Path) -> list[str]:
    """Return the test files that name a module, by its dotted name or its own."""
    dotted = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
    found = [test for test in sorted((ROOT / "tests").glob("test_*.py")) if dotted in test.read_text(encoding="utf-8")]
    named = ROOT / "tests" / f"test_{path.stem}.py"
    found = [str(test.relative_to(ROOT)) for test in dict.fromkeys([*([named] if named.exists() else []), *found])]
    return found or OTHERWISE


def survives(copy: Path, path: Path, source: str, tests: list[str], seconds: int) -> bool:
    """Return whether the tests pass on the copy with this file changed, in a fork that has the libraries loaded."""
    changed = copy / path.relative_to(ROOT / "src")
    original = changed.read_text(encoding="utf-8")
    changed.write_text(source, encoding="utf-8")
    try:
        child = os.fork()
        if child == 0:
            os.setsid()
            os._exit(_passes(copy, tests))
        return _waited(child, seconds)
    finally:
        changed.write_text(original, encoding="utf-8")


def _passes(copy: Path, tests: list[str]) -> int:
    """Run tests on the copy; called in a process of its own, and silent."""
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(silence, stream)
    os.chdir(ROOT)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(copy), str(ROOT / "tests")])
    sys.path[:0] = [str(copy), str(ROOT / "tests")]
    try:
        return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=", *tests]))
    except BaseException:
        return 1


def _waited(child: int, seconds: int) -> bool:
    """Return whether a process ended well; one that takes too long is killed with all it started."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main(given: argparse.Namespace) -> int:
    files = [file for path in given.paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    files = [file.resolve() for file in files]
    everything = [(file, number) for file in files for number in range(count_of(file))]
    chosen = everything
    if given.most and given.most < len(everything):
        chosen = sorted(random.Random(given.seed).sample(everything, given.most))
    survivors, killed, explained, start = [], 0, 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "src"
        shutil.copytree(ROOT / "src", copy)
        for file, number in chosen:
            source = file.read_text(encoding="utf-8")
            tree, mutator = ast.parse(source), Mutator(number)
            mutator.visit(tree)
            name = str(file.relative_to(ROOT / "src" / "recondite"))
            change = f"{source.splitlines()[mutator.line - 1].strip()}: {mutator.told}"
            if change in EXPLAINED.get(name, {}):
                explained += 1
                continue
            if time.monotonic() - start > given.minutes * 60:
                break
            mutant = ast.unparse(ast.fix_missing_locations(tree))
            if not survives(copy, file, mutant, given.tests or tests_of(file), given.seconds):
                killed += 1
                continue
            survivors.append(f"{name}:{mutator.line}: {change}")
            print(survivors[-1], flush=True)
    tried = killed + explained + len(survivors)
    print(
        f"{tried} of {len(everything)} mutants in {time.monotonic() - start:.0f} s: {killed} killed, "
        f"{explained} explained, {len(survivors)} survived"
    )
    return int(bool(survivors))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", help="files or folders below src/recondite")
    parser.add_argument("--most", type=int, help="how many mutants, drawn at random; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=300, help="a mutant that takes longer counts as killed")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no mutant later")
    parser.add_argument("--tests", nargs="+", help="test files, in place of those that name the module")
    sys.exit(main(parser.parse_args()))

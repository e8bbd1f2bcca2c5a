"""Which mistakes the tests would miss: small changes of the source, one at a time, and the tests that reach them.

    python scripts/mutants.py src/recondite/statistics/calibration.py
    python scripts/mutants.py src/recondite/statistics src/recondite/detectors --sample 500 --journal mutants.jsonl

A mutant is a file with one operator, number, condition or direction changed. At first every test file runs once, in a
process of its own, to see which test reaches which line (kept in `--map`; what has changed since runs again). Then each
mutant is tried in a fork of a process that has all tests loaded: the function's code is exchanged there, and the
tests that reach its line or share a fixture with one that does run until one fails: those that killed others of the
function first, then those that are named after its file, and those that reach few other lines. Functions take turns,
so that a run of some `--minutes` meets them all. A change outside functions, a constant or a default, is a changed
copy of the source, imported anew. A test that kills is run once without a mutant: it must pass.

`--journal` keeps what was seen, and a later run leaves that out; `--again` tries its survivors once more. Survivors are
listed: write the test, or add a line to `scripts/equivalent_mutants.tsv` (file, change, why no test can see it). What
runs in other processes is neither seen nor changed. (mutmut and cosmic-ray change the tree itself.)
"""

import argparse
import ast
import gc
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, cast

os.environ["OMP_NUM_THREADS"] = "1"
sys.dont_write_bytecode = True  # two mutants of one second and one size would share their bytecode

import matplotlib.pyplot  # noqa: E402, F401
import numpy as np  # noqa: E402, F401
import pytest  # noqa: E402
import scipy.stats  # noqa: E402, F401
import skimage.metrics  # noqa: E402, F401
import sklearn.datasets  # noqa: E402, F401
import torch  # noqa: E402, F401
from coverage import Coverage  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "recondite"
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.tsv")
LEFT_OUT = ("cluster", "service", "docs", "examples", "demonstration")
"""Tests that work in other processes, in the main."""
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And},
}
NAMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any"}
UNSEEN = ("strict", "sort_keys", "resamples", "stacklevel")
"""Arguments whose other values no test has to see: checks on ourselves, and how often something is drawn."""
TEXTS = {"left": "right", "right": "left"}
_KILLERS = 4
"""So many tests that killed others of a function are tried first."""
PYTEST = ["-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=", "-o", "faulthandler_timeout=0"]


class Mutator(ast.NodeTransformer):
    """Changes one place of a module, by its number; lists them all where no place has that number."""

    def __init__(self, wanted: int) -> None:
        self.wanted, self.told, self.lines = wanted, "", list[int]()

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.Raise | ast.arg | ast.AnnAssign) and not getattr(node, "value", None):
            return node  # messages and annotations
        if isinstance(node, ast.keyword) and node.arg in UNSEEN:
            return node
        for name, value in changes(node):
            reached = node.test if isinstance(node, ast.If | ast.While) else node  # a condition may begin a line later
            self.lines.append(getattr(reached, "lineno", 0))
            if len(self.lines) - 1 == self.wanted:
                before = ast.unparse(node).partition("\n")[0]
                setattr(node, name, value)
                self.told = f"{before} -> {ast.unparse(node)}".partition("\n")[0]
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


@dataclass
class Mutant:
    """One change of one file; `function` is the (qualified name, first line) of the outermost function it is in."""

    path: Path
    number: int
    line: int
    change: str = ""
    function: tuple[str, int] | None = None
    repeated: int = 0
    """How many equal changes come before it in its file."""

    @property
    def file(self) -> str:
        return str(self.path.relative_to(SOURCE))

    @property
    def key(self) -> str:
        return f"{self.file}\t{self.change}\t{self.repeated}"

    def tree(self) -> ast.Module:
        tree = ast.parse(self.path.read_text(encoding="utf-8"))
        Mutator(self.number).visit(tree)
        return ast.fix_missing_locations(tree)


def mutants_of(path: Path) -> list[Mutant]:
    """Return all changes of a file."""
    source = path.read_text(encoding="utf-8")
    lines, found, seen = source.splitlines(), list[Mutant](), Counter[str]()
    functions = list(_functions(ast.parse(source), ""))
    counter = Mutator(-1)
    counter.visit(ast.parse(source))
    for number, line in enumerate(counter.lines):
        mutator = Mutator(number)
        mutator.visit(ast.parse(source))
        change = f"{lines[line - 1].strip()}: {mutator.told}"
        inside = next((name for name, first, last in functions if first <= line <= last), None)
        found.append(Mutant(path, number, line, change, inside, seen[change]))
        seen[change] += 1
    return found


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[tuple[str, int], int, int]]:
    """Yield ((qualified name, first line of its code), first and last line of its body) of outermost functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([child.lineno, *[decorator.lineno for decorator in child.decorator_list]])
            if child.body[0].lineno > child.lineno:
                yield (prefix + child.name, first), child.body[0].lineno, child.end_lineno or 0
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        else:
            yield from _functions(child, prefix)


@dataclass
class Reached:
    """What one test file reaches: line -> tests, for each source file; and the seconds of those tests that pass."""

    made_of: dict[str, str]
    """Hashes of the test file and of the source files it reaches, at the time."""
    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def is_current(self) -> bool:
        return all((ROOT / path).exists() and digest(ROOT / path) == found for path, found in self.made_of.items())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


class Forks:
    """A plugin of pytest: collects every test, then runs chosen ones in forks of this process."""

    def __init__(self, work: Callable[["Forks"], None], files: Iterable[Path]) -> None:
        self.work, self.files, self.items, self.session = work, set(files), dict[str, Any](), cast(Any, None)
        self.functions = defaultdict[tuple[str, str, int], list[FunctionType]](list)

    def pytest_runtestloop(self, session: Any) -> bool:
        self.session, self.items = session, {item.nodeid: item for item in session.items}
        for path in self.files:
            with suppress(ImportError):  # what is imported late must be there too, to be changed
                import_module(".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__"))
        gc.unfreeze()  # the tests freeze what they have loaded, and what is frozen is not told
        for thing in gc.get_objects():
            if type(thing) is FunctionType:  # isinstance would wake lazy objects
                code = thing.__code__
                self.functions[code.co_filename, code.co_qualname, code.co_firstlineno].append(thing)
        gc.freeze()  # a fork shares what the collector does not touch
        self.work(self)
        return True

    def run(self, tests: list[str], before: Callable[[str], object] = lambda _: None) -> Iterator[tuple[str, float]]:
        """Run tests here, in a fork; yield the name and seconds of each, -1 for one that failed."""
        items = [self.items[test] for test in tests]
        for item, following in zip(items, [*items[1:], None], strict=True):
            before(item.nodeid)
            start, failures = time.process_time(), self.session.testsfailed
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            passed = self.session.testsfailed == failures
            yield item.nodeid, time.process_time() - start if passed else -1.0


def forked(run: Callable[[], object], seconds: float) -> tuple[str, Any]:
    """Call a function in a fork, silently; return ("done", its result in JSON) or ("timeout" or "died", None).

    Seconds are those of a processor, and one that waits for ever is ended after thirty times as many.
    """
    with tempfile.NamedTemporaryFile() as answer:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setsid()
                resource.setrlimit(
                    resource.RLIMIT_CPU, (int(time.process_time() + seconds) + 1, resource.RLIM_INFINITY)
                )
                silence = os.open(os.devnull, os.O_RDWR)
                for stream in range(3):
                    os.dup2(silence, stream)
                Path(answer.name).write_text(json.dumps(run()), encoding="utf-8")
                status = 0
            finally:
                os._exit(status)
        deadline, ended, status = time.monotonic() + 30 * seconds, 0, 1
        while not ended and time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.01)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # with all that it started
        if not ended:
            os.waitpid(child, 0)
            return "timeout", None
        if status:
            return ("timeout" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU else "died"), None
        return ("done", json.loads(Path(answer.name).read_text(encoding="utf-8")))


def reached_by(forks: Forks, test_file: str, seconds: float) -> Reached:
    """Run a test file in a fork, and see what each of its tests reaches."""

    def run() -> dict[str, Any]:
        coverage = Coverage(data_file=None, config_file=False, source=[str(SOURCE)], messages=False)
        coverage.start()
        tests = [test for test in forks.items if test.partition("::")[0] == test_file]
        passed = {test: took for test, took in forks.run(tests, coverage.switch_context) if took >= 0}
        coverage.stop()
        data, lines = coverage.get_data(), dict[str, dict[str, list[str]]]()
        for path in sorted(data.measured_files()):
            reached = {str(line): there for line, there in data.contexts_by_lineno(path).items()}
            found = {line: kept for line, there in reached.items() if (kept := [one for one in there if one in passed])}
            if found:
                lines[str(Path(path).relative_to(ROOT))] = found
        return {"seconds": passed, "lines": lines}

    how, found = forked(run, seconds)
    if how != "done":
        print(f"{test_file}: {how}; its tests take no part", flush=True)
        found = {"seconds": {}, "lines": {}}
    return Reached({path: digest(ROOT / path) for path in [test_file, *found["lines"]]}, **found)


class Trial:
    """Tries mutants, with the tests that reach them."""

    def __init__(self, given: argparse.Namespace, record: Callable[[Mutant, str, str, float], None]) -> None:
        self.given, self.record = given, record
        self.reached, self.sound = dict[str, Reached](), dict[str, bool]()
        self.fixtures = dict[str, set[str]]()
        self.killers = defaultdict[tuple[str, tuple[str, int] | None], list[str]](list)

    def look(self, forks: Forks) -> None:
        """See which test reaches which line, as far as the map does not say so already."""
        kept = json.loads(self.given.map.read_text(encoding="utf-8")) if self.given.map.exists() else {}
        for test_file in dict.fromkeys(test.partition("::")[0] for test in forks.items):
            old = Reached(**kept[test_file]) if test_file in kept else None
            current = old is not None and old.is_current()
            self.reached[test_file] = old if old and current else reached_by(forks, test_file, 900)
            kept[test_file] = vars(self.reached[test_file])
            if not current:
                write(self.given.map, json.dumps(kept))

    @cached_property
    def width(self) -> Counter[str]:
        """How many lines each test reaches."""
        every = (
            tests for reached in self.reached.values() for lines in reached.lines.values() for tests in lines.values()
        )
        return Counter(test for tests in every for test in tests)

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Return the tests that may see a mutant.

        Those that killed others of its function come first, then those that reach it, and then those that share a
        fixture with one of them. Among those that reach it the first are named after the source file, and reach the
        fewest lines: they look closest at each.
        """
        name, direct, sharing = str(mutant.path.relative_to(ROOT)), set[str](), list[str]()
        for reached in self.reached.values():
            lines = reached.lines.get(name, {})
            there = (lines.get(str(mutant.line), []),) if mutant.function else lines.values()
            found = {test for tests in there for test in tests}
            shared = {fixture for test in found for fixture in self.fixtures.get(test, ())}
            direct |= found
            sharing += [
                test
                for test in sorted(reached.seconds, key=reached.seconds.__getitem__)
                if found and test not in found and (not self.fixtures or shared & self.fixtures.get(test, set()))
            ]
        everything = sorted(direct, key=lambda test: (mutant.path.stem not in test, self.width[test], test)) + sharing
        first = [test for test in self.killers[mutant.file, mutant.function] if test in everything][:_KILLERS]
        return list(dict.fromkeys(first + everything))

    def affordable(self, mutant: Mutant) -> tuple[list[str], float]:
        """Return tests for a mutant within the limit of seconds, the first of them in any case; and their seconds."""
        seconds = {test: took for reached in self.reached.values() for test, took in reached.seconds.items()}
        chosen, total = list[str](), 0.0
        for test in self.tests_of(mutant):
            if not chosen or total + seconds[test] <= self.given.seconds:
                chosen.append(test)
                total += seconds[test]
        return chosen, total

    def inside(self, forks: Forks, chosen: list[Mutant]) -> None:
        """Try mutants within functions, each in a fork that has the tests loaded."""
        self.fixtures = {test: _shared_fixtures(item) for test, item in forks.items.items()}
        for mutant in chosen:
            if mutant.function and time.monotonic() < self.given.until:
                self._try(forks, mutant, forks.functions[(str(mutant.path), *mutant.function)])

    def _try(self, forks: Forks, mutant: Mutant, live: list[FunctionType]) -> None:
        tests, seconds = self.affordable(mutant)
        tests = [test for test in tests if test in forks.items]
        start = time.monotonic()
        if not tests or not live:
            self.record(mutant, "unreached" if live else "not loaded", "", 0.0)
            return

        def run() -> str:
            code = compile(mutant.tree(), str(mutant.path), "exec")
            changed = next(code for code in _codes(code) if (code.co_qualname, code.co_firstlineno) == mutant.function)
            for one in (changed, *_codes(changed)):  # a decorator's inner functions have been made already
                for function in forks.functions[str(mutant.path), one.co_qualname, one.co_firstlineno]:
                    function.__code__ = one
            return next((test for test, took in forks.run(tests) if took < 0), "")

        how, killer = forked(run, 5 + 2 * seconds)
        if killer and not self._is_sound(forks, killer):
            print(f"{killer} fails by itself", flush=True)
            for reached in self.reached.values():
                reached.seconds.pop(killer, None)
                for lines in reached.lines.values():
                    for tests_there in lines.values():
                        if killer in tests_there:
                            tests_there.remove(killer)
            self._try(forks, mutant, live)
            return
        if killer:
            self.killers[mutant.file, mutant.function].insert(0, killer)
        outcome = {"done": "killed" if killer else "survived"}.get(how, how)
        self.record(mutant, outcome, killer or "", time.monotonic() - start)

    def _is_sound(self, forks: Forks, test: str) -> bool:
        """Return whether a test passes alone, without a mutant."""
        if test not in self.sound:
            how, failed = forked(lambda: [name for name, took in forks.run([test]) if took < 0], 900)
            self.sound[test] = how == "done" and not failed
        return self.sound[test]

    def outside(self, chosen: list[Mutant]) -> None:
        """Try mutants of constants, defaults and fields, each on a copy of the source that is imported anew."""
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
            copy = Path(folder, "src")
            shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
            for mutant in chosen:
                if mutant.function or time.monotonic() > self.given.until:
                    continue
                tests, seconds = self.affordable(mutant)
                start, changed = time.monotonic(), copy / mutant.path.relative_to(ROOT / "src")
                if not tests:
                    self.record(mutant, "unreached", "", 0.0)
                    continue
                changed.write_text(ast.unparse(mutant.tree()), encoding="utf-8")
                how, status = forked(lambda tests=tests: run_pytest(copy, ["-x", *tests]), 30 + 2 * seconds)  # type: ignore[misc]
                shutil.copy(mutant.path, changed)
                outcome = {"done": "killed" if status else "survived"}.get(how, how)
                self.record(mutant, outcome, "", time.monotonic() - start)


def _shared_fixtures(item: Any) -> set[str]:
    """Return the names of a test's own fixtures that other tests share with it and that need the package."""
    made = [definition for some in item._fixtureinfo.name2fixturedefs.values() for definition in some]
    ours = [one for one in made if Path(one.func.__code__.co_filename).is_relative_to(ROOT / "tests")]
    return {one.argname for one in ours if one.scope != "function" and one.argname != "digits"}


def in_turns(mutants: list[Mutant]) -> list[Mutant]:
    """Return mutants in an order in which any first part holds about as many of each function, drawn at random."""
    drawn = random.Random(0).sample(mutants, len(mutants))
    number = Counter[tuple[str, tuple[str, int] | None]]()
    turns = list[tuple[int, int]]()
    for place, mutant in enumerate(drawn):
        turns.append((number[mutant.file, mutant.function], place))
        number[mutant.file, mutant.function] += 1
    return [drawn[place] for _, place in sorted(turns)]


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def run_pytest(source: Path, arguments: list[str], plugins: tuple[object, ...] = ()) -> int:
    """Run pytest here, with the package imported from a folder."""
    os.chdir(ROOT)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(source), str(ROOT / "tests")])
    sys.path[:0] = [str(source), str(ROOT / "tests")]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        return int(pytest.main([*PYTEST, f"--basetemp={folder}/tests", *arguments], plugins=list(plugins)))


def write(path: Path, text: str) -> None:
    """Write a file so that it is never half there."""
    path.with_suffix(".tmp").write_text(text, encoding="utf-8")
    path.with_suffix(".tmp").replace(path)


def equivalent() -> set[tuple[str, str]]:
    """Return (file, change) of the mutants that no test can see."""
    rows = [line.split("\t") for line in EQUIVALENT.read_text(encoding="utf-8").splitlines() if line]
    return {(file, change) for file, change, _ in rows}


def main(given: argparse.Namespace) -> int:
    files = [file for path in given.paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    everything = [mutant for file in files for mutant in mutants_of(file.resolve())]
    explained = equivalent()
    seen = dict[str, dict[str, Any]]()
    if given.journal.exists():
        rows = [json.loads(line) for line in given.journal.read_text(encoding="utf-8").splitlines()]
        seen = {row["key"]: row for row in rows}
    chosen = everything
    if given.sample and given.sample < len(everything):
        chosen = random.Random(given.seed).sample(everything, given.sample)
    chosen = [mutant for mutant in chosen if (mutant.file, mutant.change) not in explained]
    survived = ("survived", "unreached", "not loaded")
    left = [m for m in chosen if m.key not in seen or (given.again and seen[m.key]["outcome"] in survived)]
    left = in_turns(left)
    given.until = time.monotonic() + given.minutes * 60

    def record(mutant: Mutant, outcome: str, killer: str, seconds: float) -> None:
        row = {"key": mutant.key, "line": mutant.line, "outcome": outcome, "test": killer, "seconds": round(seconds, 2)}
        with given.journal.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(row) + "\n")

    trial = Trial(given, record)
    test_files = given.tests or [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        if not any(word in path.name for word in LEFT_OUT)
    ]
    child = os.fork()  # the tests and the package are loaded there, and not here
    if child == 0:

        def work(forks: Forks) -> None:
            trial.look(forks)
            trial.inside(forks, left)

        os._exit(run_pytest(ROOT / "src", ["-s", *test_files], (Forks(work, [one.path for one in left]),)))
    if os.waitpid(child, 0)[1]:
        return 2
    trial.reached = {
        name: Reached(**found) for name, found in json.loads(given.map.read_text(encoding="utf-8")).items()
    }
    trial.outside(left)
    rows = [json.loads(line) for line in given.journal.read_text(encoding="utf-8").splitlines()]
    last = {row["key"]: row for row in rows}
    tried = [last[mutant.key] for mutant in chosen if mutant.key in last]
    for row in sorted((row for row in tried if row["outcome"] in survived), key=lambda row: row["key"]):
        file, change, _ = row["key"].split("\t")
        print(f"{file}:{row['line']}: {change}" + ("" if row["outcome"] == "survived" else f"  ({row['outcome']})"))
    counts = Counter(row["outcome"] for row in tried)
    known = sum((mutant.file, mutant.change) in explained for mutant in everything)
    print(f"{len(tried)} of {len(everything)} mutants tried: {dict(counts)}; {known} are equivalent")
    return int(any(counts[outcome] for outcome in survived))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", help="files or folders below src/recondite")
    parser.add_argument("--sample", type=int, help="how many mutants, drawn at random; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--journal", type=Path, help="a file in which what was seen is kept; none by default")
    parser.add_argument("--map", type=Path, help="a file in which the lines that tests reach are kept; none by default")
    parser.add_argument("--again", action="store_true", help="try the journal's survivors once more")
    parser.add_argument("--seconds", type=float, default=60, help="tests of a mutant that may take longer are left out")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no mutant later")
    parser.add_argument("--tests", nargs="+", help="test files, in place of all that work in one process")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutants-") as kept:
        arguments.journal = arguments.journal or Path(kept, "journal.jsonl")
        arguments.map = arguments.map or Path(kept, "map.json")
        arguments.journal.touch()
        sys.exit(main(arguments))

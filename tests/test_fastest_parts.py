"""Which program judges in place of a screen's own, with stand-ins for screens and graphs."""

import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

import recondite
from recondite import InputError
from recondite.data.images import Preprocessing
from recondite.screen import export
from recondite.screen import fastest as file
from recondite.screen.fastest import JUDGED_BY, fastest, runtime_of
from recondite.screen.saved import EXPORTED


class Judge:
    """A screen that gives images these scores."""

    calibrator = recondite.Calibrator(np.linspace(99, 101, 201))  # the quartiles lie 1 apart

    def __init__(self, *scores, threshold=1000.0):
        self.scores, self.threshold = np.array(scores), threshold

    def score_batch(self, batch):
        assert len(batch.ids) == len(self.scores)
        return SimpleNamespace(instance_score=self.scores)

    def judge(self, found):
        return SimpleNamespace(is_outlier=found.instance_score > self.threshold)


@pytest.mark.parametrize(
    ("ours", "apart"),
    [
        (0.0, export.TOLERANCE),  # in units of the quartiles' distance, whatever their place
        (128.0, 128 * export.TOLERANCE),  # or of the score itself
        (-128.0, 128 * export.TOLERANCE),
    ],
)
def test_a_graph_agrees_within_the_tolerance_in_every_score_and_label(ours, apart):
    two = SimpleNamespace(ids=("0", "1"))
    assert file._agree(Judge(0.0, ours), Judge(0.0, ours + apart), two)
    for wrong in (ours + 1.01 * apart, ours - 1.01 * apart, np.nan):
        assert not file._agree(Judge(0.0, ours), Judge(0.0, wrong), two)
    assert not file._agree(Judge(0.0, ours), Judge(0.0, ours + apart, threshold=ours), two)
    assert file._agree(Judge(0.0), Judge(9.0), SimpleNamespace(ids=()))  # of nothing nothing differs
    level = Judge(1.0)
    level.calibrator = recondite.Calibrator(np.ones(9))
    one = SimpleNamespace(ids=("0",))
    assert file._agree(level, Judge(1.0 + 0.9 * export.TOLERANCE), one)
    level.scores = np.zeros(1)
    assert not file._agree(level, Judge(0.1 * export.TOLERANCE), one)


@dataclass(frozen=True)
class Program:
    """A screen that runs by a program, from a folder."""

    folder: str
    runtime: str | None = None
    facts: dict = field(default_factory=dict)
    detector: object = None

    def __post_init__(self):
        options = SimpleNamespace(runtime=self.runtime)
        seen = {"shape": (1, 8, 8), "preprocessing": Preprocessing(shape=(1, 8, 8)), "scoring_batch": 4}
        object.__setattr__(self, "detector", SimpleNamespace(options=options, **seen))


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Screens and graphs that are words in files: which are made and read, how fast they are, and which agree."""
    told = SimpleNamespace(
        made=[], times={"torch": 2.0, "onnxruntime": 1.0, "openvino": 3.0}, unlike=(), broken=(), seen=[]
    )

    def exported(runtime):
        def write(_, path):
            if runtime in told.broken:
                raise InputError(f"{runtime} is not installed")
            told.made.append(runtime)
            path.mkdir(parents=True, exist_ok=True)
            (path / "digest").write_text(f"{runtime} {len(told.made)}")
            return path

        return write

    def read_manifest(path, _, *kinds):
        if EXPORTED in kinds and len(kinds) == 1:
            return {"kind": EXPORTED, "digest": (path / "digest").read_text()}
        return {"kind": told.kind, "digest": "a screen"}

    def load(path):
        graphs = {"onnxruntime": "onnx", "openvino": "openvino"}
        return Program(path.name, graphs.get(path.name))

    def agree(_, graph, batch):
        told.seen.append(len(batch.ids))
        return graph.folder not in told.unlike

    told.kind = "a screen"
    monkeypatch.setattr(export, "export_onnx", exported("onnxruntime"))
    monkeypatch.setattr(export, "export_openvino", exported("openvino"))
    for name, stand_in in {
        "existing": lambda path: path,
        "read_manifest": read_manifest,
        "load": load,
        "cache_folder": lambda: tmp_path / "cache",
        "milliseconds": lambda judges: {judge: told.times[judge] for judge in judges},
        "_agree": agree,
        "processor": lambda: "a processor",
        "threads": lambda: 1,
    }.items():
        monkeypatch.setattr(file, name, stand_in)
    return told


def chosen(folder, runtime="auto"):
    screen = fastest(folder, IMAGES, runtime)
    assert screen.facts[JUDGED_BY]["runtime"] == runtime_of(screen)
    return runtime_of(screen), screen


def test_the_fastest_that_agrees_judges_and_is_made_once(machine, tmp_path):
    folder = tmp_path / "screen"
    name, screen = chosen(folder)
    assert (name, machine.made) == ("onnxruntime", ["onnxruntime", "openvino"])
    assert screen.facts[JUDGED_BY] == {
        **{"runtime": "onnxruntime", "milliseconds": machine.times, "agreed_on": 4, "refused": {}},
    }
    machine.times = {"torch": 0.5, "onnxruntime": 1.0, "openvino": 0.1}
    assert chosen(folder)[0] == "onnxruntime"  # what was chosen is kept, whatever the clock says then
    assert machine.made == ["onnxruntime", "openvino"]
    # What is not the graph that was made is made anew.
    next((tmp_path / "cache").rglob("onnxruntime/digest")).write_text("altered")
    assert chosen(folder)[0] == "openvino"
    assert len(machine.made) == 4
    assert chosen(folder)[0] == "openvino"
    assert len(machine.made) == 4


def test_what_differs_or_is_missing_is_passed_over_and_told(machine, tmp_path):
    machine.unlike, machine.broken = ("onnxruntime",), ("openvino",)
    name, screen = chosen(tmp_path / "screen")
    assert name == "torch"
    assert screen.folder == "screen"
    assert screen.facts[JUDGED_BY]["refused"] == {
        "onnxruntime": "its scores or labels differ on the first images",
        "openvino": "openvino is not installed",
    }
    assert screen.facts[JUDGED_BY]["milliseconds"] == {"torch": 2.0}
    assert chosen(tmp_path / "screen")[1].folder == "screen"
    for runtime, why in (("onnxruntime", "scores or labels differ"), ("openvino", "is not installed")):
        with pytest.raises(InputError, match=rf"{runtime} cannot judge in this screen's place: .*{why}"):
            fastest(tmp_path / "screen", IMAGES, runtime)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
def test_the_one_that_is_named_judges_whatever_the_time(runtime, machine, tmp_path):
    assert chosen(tmp_path / "screen", runtime)[0] == runtime
    assert machine.made == ([] if runtime == "torch" else [runtime])
    assert machine.seen == [4] * len(machine.made)  # the images of the first batch
    assert chosen(tmp_path / "screen", runtime)[0] == runtime
    assert len(machine.made) == len(machine.seen)


def test_a_choice_is_of_a_screen_a_runtime_and_a_machine(machine, tmp_path, monkeypatch):
    folder = tmp_path / "screen"
    for number, (name, stand_in) in enumerate(
        (("threads", lambda: 2), ("processor", lambda: "another"), ("_version", lambda _: "1.0")), start=1
    ):
        chosen(folder)
        assert len(machine.made) == 2 * number
        monkeypatch.setattr(file, name, stand_in)
    chosen(folder)
    assert len(machine.made) == 8
    assert len(list((tmp_path / "cache" / "graphs").iterdir())) == 4
    # A choice that names no program, or is none, is made anew.
    for text in ('{"facts": {"runtime": "abacus"}, "digest": null}', "[]", "{"):
        for path in (tmp_path / "cache").rglob("choice.json"):
            assert json.loads(path.read_text())["facts"]["runtime"] == "onnxruntime"
            path.write_text(text)
        before = len(machine.made)
        chosen(folder)
        assert len(machine.made) == before + 2
        for path in (tmp_path / "cache").rglob("choice.json"):
            path.write_text('{"facts": {"runtime": "onnxruntime"}}')


def test_an_exported_screen_runs_on_no_other(machine, tmp_path):
    machine.kind = EXPORTED
    with pytest.raises(InputError, match="was exported for a runtime, and runs on no other"):
        fastest(tmp_path / "screen", IMAGES)
